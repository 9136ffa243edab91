//! What `write` holds of one worker: the corrections, the batch in flight, and what is to be compared.
//!
//! What needs the disk is done in steps, each of which may fail and be tried again: see [`Bounded`].

use std::sync::Arc;

use mvsink_persist::{Codec, Frontier};

use super::batch::{Batch, Settle};
use super::disputes::Disputes;
use super::unrepaired::{Found, Unrepaired};
use crate::bounds::{
    Data, Diff, Fingerprinter, Hash64, Timestamp, bucket, high_bits, time_from_i64, time_to_i64,
};
use crate::comparison::{Buckets, DesiredEnd, Totals};
use crate::corrections::{Bookmark, Bounded, Disk, Drained, Errors, Rows, Taken, heap_bytes};
use crate::counters::Held;
use crate::error::Error;
use crate::route::Routed;
use crate::target::Mode;

/// How many updates are not worth consolidating.
const FEW: usize = 64;

/// Errors are few: they get one byte of so many.
const BUDGET_PER_ERROR_BYTE: usize = 8;

type Corrections<D, T, R> = Bounded<D, T, R, Hash64<D>>;
type Taking<D, T, R> = Taken<D, T, R, Hash64<D>>;

/// The rows and the errors of one batch.
pub(super) type Batched<D, E, T, R> = (Taking<D, T, R>, Taking<E, T, R>);

/// The same of a batch in memory, for several who read it at once.
pub(super) type Shared<D, E, T, R> = (Arc<Drained<D, T, R>>, Arc<Drained<E, T, R>>);

/// The corrections of one worker, and what was drained from them for the batch in flight.
pub(crate) struct Store<D, E, T, R> {
    mode: Mode,
    of_rows: Fingerprinter<D>,
    of_errors: Fingerprinter<E>,
    ok: Corrections<D, T, R>,
    err: Corrections<E, T, R>,
    /// The rows of the batch that is being drained, before its errors.
    drained_ok: Option<Taking<D, T, R>>,
    in_flight: Option<Batched<D, E, T, R>>,
    disputes: Disputes,
    unrepaired: Unrepaired<T>,
    /// Rows of others were read since updates were last consolidated on purpose.
    foreign: bool,
    /// How many were left in memory then, at the most.
    consolidated: usize,
    /// Until it has begun.
    end: Option<DesiredEnd<T>>,
    /// What desired holds at the cutoff, until that was compared.
    comparing: Option<Comparing<T>>,
    /// In ingest mode, the frontier below which everything is sealed.
    sealed: Option<Frontier<T>>,
}

/// The fingerprints of desired's updates at times up to the cutoff.
struct Comparing<T> {
    cutoff: T,
    totals: Totals,
}

impl<T: Timestamp> Comparing<T> {
    fn add<D: Data, R: Diff>(&mut self, routed: &Routed<D, T, R>, by: &Fingerprinter<D>) {
        for (number, (data, time, diff)) in routed.updates.iter().enumerate() {
            if *time <= self.cutoff {
                let hash = routed.hashes.get(number).copied();
                let hash = hash.unwrap_or_else(|| by.take(data));
                self.totals.add(hash, diff.to_i64());
            }
        }
    }
}

/// How far the batch in flight was added up.
#[derive(Clone, Copy, Default)]
pub(super) struct Summing {
    rows: Bookmark,
    errors: Bookmark,
}

/// How a comparison ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared {
    pub(super) differing: Buckets,
    pub(super) rows_verified: i64,
    pub(super) rows_diffed: i64,
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Store<D, E, T, R> {
    /// Empty, for a sink with this as-of, with its end of the comparison that a view begins with. What memory has no
    /// room for goes to the disk, as the codec writes it.
    pub(crate) fn new(
        mode: Mode,
        as_of: Frontier<T>,
        end: Option<DesiredEnd<T>>,
        codec: &Codec<D, E>,
        disk: &Arc<dyn Disk>,
    ) -> Self {
        let rows = Arc::new(Rows(codec.clone()));
        let errors = Arc::new(Errors(codec.clone()));
        let of_rows = Fingerprinter::of_rows(codec);
        let of_errors = Fingerprinter::of_errors();
        let mut ok = Bounded::new(of_rows.hash(), heap_bytes, rows, Arc::clone(disk));
        let mut err = Bounded::new(of_errors.hash(), heap_bytes, errors, Arc::clone(disk));
        if let (Mode::View, Frontier::At(as_of)) = (mode, as_of) {
            // Nothing is written below the as-of: the rows of a snapshot need not be told apart by time.
            ok.advance(as_of);
            err.advance(as_of);
        }
        Store {
            mode,
            of_rows,
            of_errors,
            ok,
            err,
            drained_ok: None,
            in_flight: None,
            disputes: Disputes::default(),
            unrepaired: Unrepaired::default(),
            foreign: false,
            consolidated: 0,
            end,
            comparing: None,
            sealed: None,
        }
    }

    /// The end of the comparison, which has not begun; once.
    pub(super) fn take_end(&mut self) -> Option<DesiredEnd<T>> {
        self.end.take()
    }

    /// From now on sums up what is to be compared at the cutoff. Nothing is written before that was compared, nor at
    /// times up to the cutoff: so they count as one.
    pub(super) fn begin(&mut self, cutoff: T) {
        self.ok.advance(cutoff);
        self.err.advance(cutoff);
        self.comparing = Some(Comparing {
            cutoff,
            totals: Totals::new(),
        });
    }

    /// Drops the updates up to the cutoff in those of these buckets in which they add up to what is held; or in those
    /// that do not count as `differing`, if that is given.
    pub(super) fn compare(
        &mut self,
        held: &Totals,
        among: Buckets,
        differing: Option<Buckets>,
    ) -> Compared {
        let desired = self.comparing.take();
        let desired = desired.map_or_else(Totals::new, |comparing| comparing.totals);
        let differing = differing.unwrap_or_else(|| desired.differing(held, among));
        self.ok.admit_without(!differing, bucket);
        self.err.admit_without(!differing, bucket);
        let rows_diffed = desired.rows(differing);
        Compared {
            differing,
            rows_verified: desired.rows(Buckets::ALL).wrapping_sub(rows_diffed),
            rows_diffed,
        }
    }

    /// Adds up the next of the updates in flight, so many or fewer, from this position on; `None` at the end.
    pub(super) fn sum_next(
        &mut self,
        mut at: Summing,
        rows: usize,
    ) -> Result<Option<(Totals, Summing)>, Error> {
        let Some((ok, err)) = &mut self.in_flight else {
            return Ok(None);
        };
        let mut totals = Totals::new();
        if let Some(updates) = ok.next(&mut at.rows, rows)? {
            updates.for_each(|(data, _, diff)| totals.add(self.of_rows.take(data), diff));
        } else if let Some(updates) = err.next(&mut at.errors, rows)? {
            updates.for_each(|(error, _, diff)| totals.add(self.of_errors.take(error), diff));
        } else {
            return Ok(None);
        }
        Ok(Some((totals, at)))
    }

    /// About the bytes in memory of what would be drained first.
    pub(super) fn due_bytes(&self) -> usize {
        self.ok.due_bytes() + self.err.due_bytes()
    }

    /// What was drained is still to be written.
    pub(super) fn give_back_in_flight(&mut self) {
        if let Some((ok, err)) = self.in_flight.take() {
            self.ok.give_back(ok);
            self.err.give_back(err);
        }
        self.unrepaired.edits.lost();
    }

    /// What was drained is staged ahead of its batch: it counts as in flight, but need not be held.
    pub(super) fn forget_staged_ahead(&mut self) {
        self.in_flight = None;
    }

    /// What was staged ahead was taken in again.
    pub(super) fn recalled(&mut self) {
        self.unrepaired.edits.lost();
    }

    /// The table holds what was drained.
    pub(super) fn forget_in_flight(&mut self) {
        self.in_flight = None;
        self.unrepaired.committed();
    }

    /// Takes in again what was staged.
    pub(super) fn take_back(&mut self, rows: Vec<(D, T, i64)>, errors: Vec<(E, T, i64)>) {
        self.ok.insert_stored(rows);
        self.err.insert_stored(errors);
    }

    fn len(&self) -> usize {
        self.ok.len() + self.err.len()
    }

    /// The number of updates in the batch in flight.
    pub(super) fn in_flight_len(&self) -> usize {
        let in_flight = self.in_flight.as_ref();
        in_flight.map_or(0, |(ok, err)| ok.len() + err.len())
    }

    /// True if nothing is held, nor left to compare, nor disputed.
    pub(super) fn is_at_rest(&self) -> bool {
        self.len() == 0
            && self.in_flight.is_none()
            && self.drained_ok.is_none()
            && self.comparing.is_none()
            && !self.disputes.is_open()
            && self.unrepaired.edits.is_nothing()
    }

    /// The batch in flight.
    pub(super) fn in_flight(&mut self) -> Option<&mut Batched<D, E, T, R>> {
        self.in_flight.as_mut()
    }

    /// The batch in flight, if there is one, and all of it is in memory.
    pub(super) fn in_flight_in_memory(&self) -> Option<Shared<D, E, T, R>> {
        let (ok, err) = self.in_flight.as_ref()?;
        Some((ok.in_memory()?, err.in_memory()?))
    }

    /// A few updates into small corrections: nothing that they could set off takes long, be it a consolidation,
    /// or the end of the batch in flight, whose updates are then given back or freed one by one.
    pub(super) fn is_little(&self, updates: usize, few: usize) -> bool {
        updates <= few
            && self.len() + self.in_flight_len() <= few.saturating_mul(64)
            && !self.has_spilled()
    }

    /// True if any update is on disk: whatever is done then may have to wait for it.
    pub(super) fn has_spilled(&self) -> bool {
        let in_flight = self.in_flight.as_ref();
        self.ok.has_spilled()
            || self.err.has_spilled()
            || self.drained_ok.as_ref().is_some_and(Taken::has_spilled)
            || in_flight.is_some_and(|(ok, err)| ok.has_spilled() || err.has_spilled())
    }

    /// What the corrections hold; the bytes of the batch in flight count if it is on disk.
    pub(super) fn held(&self) -> Held {
        let in_flight = self.in_flight.as_ref();
        Held {
            updates: self.len() as u64,
            bytes: (self.ok.memory_bytes() + self.err.memory_bytes()) as u64,
            spilled_bytes: self.ok.disk_bytes()
                + self.err.disk_bytes()
                + self.drained_ok.as_ref().map_or(0, Taken::disk_bytes)
                + in_flight.map_or(0, |(ok, err)| ok.disk_bytes() + err.disk_bytes()),
        }
    }

    /// The memory that the corrections may take from now on, in bytes; 0 for as much as they need.
    pub(super) fn set_budget(&mut self, budget: usize) {
        // A budget of nothing would be none.
        let errors = (budget / BUDGET_PER_ERROR_BYTE).max(budget.min(1));
        self.ok.set_budget((budget - errors).max(errors));
        self.err.set_budget(errors);
    }

    /// Says whether what comes now is staged soon, and need not be added up before that.
    pub(super) fn gather(&mut self, gathering: bool) {
        self.ok.gather(gathering);
        self.err.gather(gathering);
    }

    /// True if [`Store::relieve`] may have something to do.
    pub(super) fn wants_relief(&self) -> bool {
        self.ok.wants_relief() || self.err.wants_relief()
    }

    /// One step of what keeps the corrections within their budget. False if there was nothing to do.
    pub(super) fn relieve(&mut self) -> Result<bool, Error> {
        Ok(self.ok.relieve()? || self.err.relieve()?)
    }

    /// Takes in as much of a batch as memory has room for: what was in flight is settled first, then updates come in,
    /// then a rival's batch is compared with ours, then times advance. The batch is left with the rest; false if
    /// there is one.
    pub(super) fn apply(&mut self, batch: &mut Batch<D, E, T, R>) -> bool {
        match batch.settle.take() {
            None => {}
            Some(Settle::Own) => {
                self.disputes.committed(self.in_flight_len());
                self.forget_in_flight();
            }
            Some(Settle::Lost) => self.give_back_in_flight(),
        }
        loop {
            let comparing = self.comparing.as_mut();
            if let Some(rows) = batch.desired_ok.pop() {
                take_in(&mut self.ok, rows, comparing, &self.of_rows);
            } else if let Some(errors) = batch.desired_err.pop() {
                take_in(&mut self.err, errors, comparing, &self.of_errors);
            } else if let Some(rows) = batch.persist_ok.pop() {
                self.foreign |= !rows.is_empty();
                self.ok.remove_stored(rows);
            } else if let Some(errors) = batch.persist_err.pop() {
                self.foreign |= !errors.is_empty();
                self.err.remove_stored(errors);
            } else {
                self.finish_activation(batch);
                return true;
            }
            if self.wants_relief() {
                return false;
            }
        }
    }

    /// What an activation brings beside updates.
    fn finish_activation(&mut self, batch: &mut Batch<D, E, T, R>) {
        let (rival, advance) = (batch.check_rival.take(), batch.advance.take());
        let edits = std::mem::take(&mut batch.edits);
        let checks = edits > 0 || std::mem::take(&mut batch.recheck) || advance.is_some();
        self.unrepaired.take_in(edits);
        // What desired still lacks is no difference.
        let checks =
            checks && batch.complete && self.mode == Mode::View && self.unrepaired.edits.waiting;
        self.check_rival(rival);
        // Before times advance, what is to be corrected is told from what is still to come.
        let left = rival
            .filter(|_| checks)
            .map(|time| self.count_before(Frontier::At(time)));
        self.advance(advance);
        if let Some(Frontier::At(upper)) = advance {
            self.unrepaired.upper = Some(upper);
        }
        if let Some(upper) = self.unrepaired.upper.filter(|_| checks) {
            let left = left.unwrap_or_else(|| self.count_before(after(upper)));
            self.unrepaired.found(left);
        }
    }

    /// How many updates are held before this frontier; `None` if some are on disk.
    fn count_before(&mut self, frontier: Frontier<T>) -> Option<usize> {
        let rows = self.ok.count_before(frontier)?;
        Some(rows + self.err.count_before(frontier)?)
    }

    /// What was found out since this was last asked of what the table differs in, and of how many edits.
    pub(super) fn take_found(&mut self) -> Option<(Found<T>, u64)> {
        self.unrepaired.take_found()
    }

    /// Takes in the new frontier of the read-back, if there is one.
    fn advance(&mut self, frontier: Option<Frontier<T>>) {
        match self.mode {
            Mode::View => {
                // An empty frontier leaves no time to advance to, and nothing to write either.
                if let Some(Frontier::At(since)) = frontier {
                    self.ok.advance(since);
                    self.err.advance(since);
                    self.consolidate();
                }
            }
            Mode::Ingest => {
                // Also without a new frontier: what arrived now may be long sealed.
                self.sealed = self.sealed.max(frontier);
                if let Some(sealed) = self.sealed {
                    self.ok.discard_before(sealed);
                    self.err.discard_before(sealed);
                }
            }
        }
    }

    /// What was found out about rivals.
    pub(super) fn disputes(&self) -> &Disputes {
        &self.disputes
    }

    /// Counts what a rival's commit has left to be corrected before this time. What is on disk would have to be read
    /// for that, and added up: then this rival is let pass.
    fn check_rival(&mut self, time: Option<T>) {
        if let Some(time) = time.filter(|_| self.mode == Mode::View && self.disputes.is_due())
            && let Some(left) = self.count_before(Frontier::At(time))
        {
            self.disputes.compared(left);
        }
    }

    /// Adds up what others have written with what was to be written here. Who writes does that with every batch; who
    /// only reads must do it on purpose, whenever what is held in memory has doubled.
    fn consolidate(&mut self) {
        let in_memory = |store: &Self| store.ok.memory_len() + store.err.memory_len();
        self.consolidated = self.consolidated.min(in_memory(self));
        if self.foreign && self.in_flight.is_none() && in_memory(self) > 2 * self.consolidated + FEW
        {
            self.ok.consolidate();
            self.err.consolidate();
            self.consolidated = in_memory(self);
            self.foreign = false;
        }
    }

    /// One step of draining a batch. False if there are more to do.
    pub(super) fn drain(&mut self, upper: Frontier<T>) -> Result<bool, Error> {
        debug_assert!(self.in_flight.is_none(), "one batch in flight");
        if self.drained_ok.is_none() {
            self.drained_ok = self.ok.drain(upper)?;
            if self.drained_ok.is_none() {
                return Ok(false);
            }
        }
        let Some(err) = self.err.drain(upper)? else {
            return Ok(false);
        };
        self.in_flight = self.drained_ok.take().map(|ok| (ok, err));
        self.unrepaired.edits.drained();
        Ok(true)
    }
}

/// The frontier that has passed this time, and no later one.
fn after<T: Timestamp>(time: T) -> Frontier<T> {
    let next = time_to_i64(time).and_then(|time| time_from_i64(time.saturating_add(1)));
    next.map_or(Frontier::Empty, Frontier::At)
}

/// Takes in updates of desired: what may be held already waits for the comparison.
fn take_in<D: Data, T: Timestamp, R: Diff>(
    corrections: &mut Corrections<D, T, R>,
    routed: Routed<D, T, R>,
    comparing: Option<&mut Comparing<T>>,
    by: &Fingerprinter<D>,
) {
    if let Some(comparing) = comparing {
        comparing.add(&routed, by);
        corrections.set_aside(routed.updates);
    } else {
        let hashes = &routed.hashes;
        let hash = |number: usize| hashes.get(number).copied().map(high_bits);
        corrections.insert(routed.updates, hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corrections::Directory;

    fn store() -> Store<u64, String, u64, i64> {
        let disk: Arc<dyn Disk> = Arc::new(Directory::new(std::env::temp_dir()));
        let codec = Codec::new().unwrap();
        Store::new(Mode::View, Frontier::At(0), None, &codec, &disk)
    }

    fn apply(store: &mut Store<u64, String, u64, i64>, mut batch: Batch<u64, String, u64, i64>) {
        assert!(store.apply(&mut batch), "there is no budget");
    }

    #[test]
    fn an_edit_in_what_is_staged_ahead_is_repaired_only_once_that_is_committed() {
        let edit = || Batch {
            persist_ok: vec![vec![(7, 0, 1)]],
            edits: 1,
            complete: true,
            advance: Some(Frontier::At(0)),
            ..Batch::default()
        };
        for committed in [false, true] {
            let mut store = store();
            apply(&mut store, edit());
            assert_eq!(store.take_found(), Some((Found::Rows(Some(1), 0), 1)));
            assert!(store.drain(Frontier::At(1)).unwrap());
            store.forget_staged_ahead();
            assert_eq!(store.take_found(), None, "it is in no table yet");
            assert!(!store.is_at_rest());
            if committed {
                store.forget_in_flight();
                assert_eq!(store.take_found(), Some((Found::Nothing, 1)));
                assert!(store.is_at_rest());
                continue;
            }
            store.take_back(vec![(7, 0, -1)], Vec::new());
            store.recalled();
            let later = Batch {
                complete: true,
                advance: Some(Frontier::At(1)),
                ..Batch::default()
            };
            apply(&mut store, later);
            assert_eq!(store.take_found(), Some((Found::Rows(Some(1), 1), 1)));
        }
    }

    #[test]
    fn r02_what_is_in_flight_counts_as_work() {
        const FEW: usize = 4;
        let mut store = store();
        let rows: Vec<_> = (0..64 * FEW as u64).map(|row| (row, 0, 1)).collect();
        let snapshot = Batch {
            desired_ok: vec![Routed::here(rows)],
            ..Batch::default()
        };
        apply(&mut store, snapshot);
        assert!(store.is_little(FEW, FEW));
        assert!(!store.is_little(FEW + 1, FEW));
        assert!(store.drain(Frontier::At(1)).unwrap());
        assert_eq!((store.len(), store.in_flight_len()), (0, 64 * FEW));
        let update = Batch {
            desired_ok: vec![Routed::here(vec![(7, 1, 1)])],
            ..Batch::default()
        };
        apply(&mut store, update);
        // To free or give back the batch in flight is work too.
        assert!(!store.is_little(0, FEW));
        let own = Batch {
            settle: Some(Settle::Own),
            ..Batch::default()
        };
        apply(&mut store, own);
        assert!(store.is_little(0, FEW));
    }
}
