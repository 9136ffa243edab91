//! `write` keeps `desired − persist` and stages its worker's part of each batch.
//!
//! ```text
//!   description (lower, upper) ─┐
//!   desired's frontier d ───────┼──▶  d ≥ upper and p = lower:  drain the corrections below upper, stage them
//!   persist's frontier p ───────┘     p > lower:                the batch was lost, say so
//! ```
//!
//! It begins by comparing: the read-back pins a version of the shard, and once desired is complete up to the time at
//! which the two can be compared (the *cutoff*), the task says where they differ, and only that is read back. Until
//! then the read-back's frontier stays at the minimum, on all workers.
//!
//! ```text
//!   unpinned ── Pinned(c) ──▶ pinned ── d > c ──▶ Compare ── Settled ──▶ settled
//!       '                        ▲                                        ▲ '
//!       '                        '───── Pinned(c): it was left behind ────│─'
//!       '───────────── Settled: there is nothing to compare with ─────────'
//! ```
//!
//! A first snapshot need not wait for its description: once mint has opened a lower provisionally, and nothing was there
//! to compare with, updates at that time are staged as they come (*ahead*), since updates add up. They belong to the
//! description with this lower. If the shard's upper passes it without them, or mint closes it, they are recalled: read back
//! into the corrections, and deleted.
//!
//! What was drained is kept apart until the read-back has passed `lower`: the mark "own" drops it, its
//! absence gives it back. Only the read-back decides that, not the result of the commit and not a description with a
//! later lower. One with the same lower says that the batch can never be committed, since a staged file of it has
//! vanished: then it is given back, and staged again.
//!
//! Invariants, by name:
//!
//! - *one part per description*, empty ones included, in the order of the descriptions;
//! - *one batch in flight*: a batch is drained only when the one before it was settled;
//! - *settle before advance*: what was lost is given back before times are advanced, or in ingest mode
//!   dropped, by the frontier that revealed the loss;
//! - *settled first*: nothing is drained before what this worker's read-back started from was compared. So no
//!   description is written on half a comparison, and the read-back meets every commit that this worker has a
//!   part in.

mod ahead;
mod batch;
pub mod disputes;
mod encode;
mod operator;
mod rest;
mod store;
mod task;
#[cfg(test)]
mod tests;
mod unrepaired;

pub(crate) use batch::Batch;
pub(crate) use operator::{Inputs, Operator, render};
pub(crate) use rest::{Resting, rest};
pub(crate) use store::Store;
pub(crate) use task::Task;

use mvsink_persist::Frontier;

use crate::description::Description;
use mvsink_persist::CommitId;

/// What write is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input<T> {
    /// The read-back has pinned the version of the shard that it starts from, or after it was left behind goes on from: what
    /// that holds is to be compared with what desired holds at this time, the cutoff.
    Pinned(T),
    /// The read-back has sent all in which the version that it starts from differs, and goes on from there.
    Settled,
    /// Whether updates at this time may be staged ahead of the description with this lower.
    Provisional(T, bool),
    /// A description from mint.
    Description(Description<T>),
    /// The frontier of the desired collection, errors included.
    Desired(Frontier<T>),
    /// The read-back met the commit of this batch of ours.
    Own(CommitId),
    /// The frontier of the read-back.
    Persist(Frontier<T>),
    /// The part of this description was staged.
    Staged(CommitId),
}

/// What write wants done, in this order; [`Effect::Compare`] comes after the data of its activation was taken in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect<T> {
    /// Drop what was drained for this batch, and what was staged ahead: the shard holds it.
    SettleOwn(CommitId),
    /// Give back what was drained for this batch, and recall what was staged ahead: the shard does not hold it.
    SettleLost(CommitId),
    /// Recall what was staged ahead: read it back, and delete it.
    Recall,
    /// A rival moved the shard's upper here, and desired is complete up to here: what is left of the corrections
    /// before this time is what its contents differ by from ours.
    CheckRival(T),
    /// Times before this frontier count as the frontier, or in ingest mode are dropped.
    Advance(Frontier<T>),
    /// Compare what desired holds at the cutoff with the version that the read-back has pinned, drop what agrees, and
    /// have the read-back send what differs; ends in [`Input::Settled`].
    Compare,
    /// From now on, until it is recalled or a batch is written, updates at this time may be staged as they come.
    StageAhead(T),
    /// Register the identity with the read-back, drain all updates before the upper, stage them; ends in
    /// [`Input::Staged`].
    Write(Description<T>),
    /// Send what was staged for this description to its appender.
    Send(Description<T>),
    /// Tell the appender of this description that nothing was staged because it is lost.
    SendObsolete(Description<T>),
}

/// How far the comparison is with which a write begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Start<T> {
    Unpinned,
    /// Desired is not complete at the cutoff yet.
    Pinned(T),
    Comparing,
    Settled,
    /// It has settled before, and was left behind: desired is not complete at the cutoff yet.
    PinnedAgain(T),
    ComparingAgain,
}

/// The control of write: pure, no clock, no randomness, no I/O.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<T> {
    start: Start<T>,
    desired: Frontier<T>,
    persist: Frontier<T>,
    /// The newest description, until it is written or lost.
    pending: Option<Description<T>>,
    /// Drained, and not settled yet.
    in_flight: Option<Description<T>>,
    /// The upper of a batch that was marked as ours, until the read-back has passed it.
    marked: Option<Frontier<T>>,
    /// Being staged: its part was not sent yet. It may outlive `in_flight`, when the loss is seen first.
    staging: Option<Description<T>>,
    /// There was nothing to compare with.
    fresh: bool,
    /// What mint has opened provisionally.
    provisional: Option<T>,
    /// What is staged ahead at this time is neither settled nor recalled.
    ahead: Option<T>,
}

impl<T: Copy + Ord> State<T> {
    /// A write that has seen nothing; `minimum` is the least time.
    pub fn new(minimum: T) -> Self {
        State {
            start: Start::Unpinned,
            desired: Frontier::At(minimum),
            persist: Frontier::At(minimum),
            pending: None,
            in_flight: None,
            marked: None,
            staging: None,
            fresh: false,
            provisional: None,
            ahead: None,
        }
    }

    /// Takes one input and appends what is to be done, in order. [`State::decide`] ends an activation.
    ///
    /// Of what one activation brings, marks must be given before the frontier of the read-back, and that of desired
    /// should be: a rival's batch can only be compared with what is complete.
    pub fn step(&mut self, input: Input<T>, effects: &mut Vec<Effect<T>>) {
        match input {
            Input::Pinned(cutoff) => {
                self.start = match self.start {
                    Start::Unpinned => Start::Pinned(cutoff),
                    Start::Settled => Start::PinnedAgain(cutoff),
                    _ => panic!("one version is pinned at a time"),
                };
                // Left behind: what became of the batch in flight is among what is compared.
                let recalls = self.ahead.take().is_some();
                match self.in_flight.take() {
                    Some(lost) => effects.push(Effect::SettleLost(lost.id)),
                    None if recalls => effects.push(Effect::Recall),
                    None => {}
                }
            }
            Input::Settled => {
                assert!(
                    matches!(
                        self.start,
                        Start::Unpinned | Start::Comparing | Start::ComparingAgain
                    ),
                    "it settles once, and not before it was compared"
                );
                self.fresh = self.start == Start::Unpinned;
                self.start = Start::Settled;
            }
            Input::Provisional(lower, open) => {
                self.provisional = Some(lower).filter(|_| open);
                // What is in flight is settled as a whole.
                if !open
                    && self.in_flight.is_none()
                    && self.ahead.take_if(|at| *at == lower).is_some()
                {
                    effects.push(Effect::Recall);
                }
            }
            Input::Description(description) => {
                // The same lower again: a file of the batch has vanished, and it can never be committed.
                let again = |batch: &mut Description<T>| batch.lower == description.lower;
                if let Some(vanished) = self.in_flight.take_if(again) {
                    assert!(
                        self.staging.is_none(),
                        "what was to be committed was staged"
                    );
                    self.ahead = None;
                    effects.push(Effect::SettleLost(vanished.id));
                }
                if let Some(older) = self.pending.take() {
                    assert!(older.lower < description.lower, "lowers strictly increase");
                    effects.push(Effect::SendObsolete(older));
                }
                self.pending = Some(description);
            }
            Input::Desired(frontier) => self.desired = self.desired.max(frontier),
            Input::Own(id) => {
                let batch = self.in_flight.take_if(|batch| batch.id == id);
                let batch = batch.expect("a mark names the batch in flight");
                self.marked = Some(batch.upper);
                self.ahead = None;
                effects.push(Effect::SettleOwn(id));
            }
            Input::Persist(frontier) => {
                if frontier > self.persist {
                    // It may move up to where this worker was left behind, as other workers come there.
                    let settled_once = matches!(
                        self.start,
                        Start::Settled | Start::PinnedAgain(_) | Start::ComparingAgain
                    );
                    assert!(
                        settled_once,
                        "the read-back's frontier waits for the comparison"
                    );
                    self.persist = frontier;
                    if let Some(lost) = self
                        .in_flight
                        .take_if(|batch| frontier.is_complete(&batch.lower))
                    {
                        self.ahead = None;
                        effects.push(Effect::SettleLost(lost.id));
                    }
                    if self.ahead.take_if(|at| frontier.is_complete(at)).is_some() {
                        effects.push(Effect::Recall);
                    }
                    let rival = self.marked.take() != Some(frontier);
                    if let Frontier::At(time) = frontier
                        && rival
                        && self.desired >= frontier
                    {
                        effects.push(Effect::CheckRival(time));
                    }
                    effects.push(Effect::Advance(frontier));
                }
            }
            Input::Staged(id) => {
                let staged = self.staging.take_if(|batch| batch.id == id);
                let staged = staged.expect("only the batch that is being staged ends");
                effects.push(Effect::Send(staged));
            }
        }
    }

    /// The batch that is being staged: its part was not sent yet.
    pub fn staging(&self) -> Option<&Description<T>> {
        self.staging.as_ref()
    }

    /// Ends an activation, once all its inputs were given: decides whether to compare, or to write a batch, now.
    ///
    /// Deciding after each input instead would take the frontiers of the activation before for those of now,
    /// and order a batch to be written that the next input reveals as lost.
    pub fn decide(&mut self, effects: &mut Vec<Effect<T>>) {
        let comparing = match &self.start {
            Start::Pinned(cutoff) => Some((cutoff, Start::Comparing)),
            Start::PinnedAgain(cutoff) => Some((cutoff, Start::ComparingAgain)),
            Start::Unpinned | Start::Comparing | Start::Settled | Start::ComparingAgain => None,
        };
        if let Some((cutoff, comparing)) = comparing
            && self.desired.is_complete(cutoff)
        {
            self.start = comparing;
            effects.push(Effect::Compare);
        }
        let idle = self.pending.is_none() && self.in_flight.is_none() && self.staging.is_none();
        if let Some(lower) = self.provisional
            && self.start == Start::Settled
            && self.fresh
            && idle
            && self.ahead.is_none()
            && self.persist == Frontier::At(lower)
        {
            self.ahead = Some(lower);
            effects.push(Effect::StageAhead(lower));
        }
        let Some(next) = &self.pending else { return };
        // Parts are sent in the order of their descriptions.
        if self.start != Start::Settled || self.staging.is_some() {
            return;
        }
        if self.persist.is_complete(&next.lower) {
            effects.extend(self.pending.take().map(Effect::SendObsolete));
        } else if self.persist == Frontier::At(next.lower) && self.desired >= next.upper {
            assert!(self.in_flight.is_none(), "one batch in flight");
            self.in_flight = self.pending.take();
            self.staging = self.in_flight.clone();
            effects.extend(self.in_flight.clone().map(Effect::Write));
        }
    }
}
