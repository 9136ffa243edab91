//! What a sink's write state asks of its corrections.

use mvsink_persist::Frontier;

/// A multiset of updates that is driven by ordered effects.
///
/// [`Corrections`](super::Corrections) is the implementation, a `BTreeMap` its model in tests. Contract: with
/// `[t] = max(t, since)`, after any sequence of calls the store holds, for each data d and each time t, the sum of
/// the differences of all that was inserted, less what was inserted negated, drained and not given back, or
/// discarded, at (d, t') with [t'] = t.
pub trait CorrectionStore<D, T, R> {
    /// What a drain takes out.
    type Drained;

    /// Adds updates.
    fn insert(&mut self, container: Vec<(D, T, R)>);

    /// Takes updates away.
    fn insert_negated(&mut self, container: Vec<(D, T, R)>);

    /// From here on, times before `since` count as `since`. Never goes back.
    fn advance(&mut self, since: T);

    /// Forgets the updates at times before `frontier`.
    fn discard_before(&mut self, frontier: Frontier<T>);

    /// Takes out the updates at times before `upper`, consolidated.
    fn drain(&mut self, upper: Frontier<T>) -> Self::Drained;

    /// Undoes a drain, whose batch was lost.
    fn give_back(&mut self, drained: Self::Drained);

    /// Adds up everything that can be added up.
    fn consolidate(&mut self);

    /// The number of updates held, some of which may yet cancel.
    fn len(&self) -> usize;

    /// True if nothing is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
