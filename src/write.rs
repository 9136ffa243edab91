//! `write` keeps `desired − persist` and stages its worker's part of each batch.
//!
//! ```text
//!   description (lower, upper) ─┐
//!   desired's frontier d ───────┼──▶  d ≥ upper and p = lower:  drain the corrections below upper, stage them
//!   persist's frontier p ───────┘     p > lower:                the batch was lost, say so
//! ```
//!
//! What was drained is kept apart until the read-back has passed `lower`: the mark "own" drops it, its
//! absence gives it back. Only the read-back decides that, not the result of the commit and not a newer
//! description.
//!
//! Invariants, by name:
//!
//! - *one part per description*, empty ones included, in the order of the descriptions;
//! - *one batch in flight*: a batch is drained only when the one before it was settled;
//! - *settle before advance*: what was lost is given back before times are advanced, or in ingest mode
//!   dropped, by the frontier that revealed the loss;
//! - *started first*: nothing is drained before this worker's read-back has pinned a version of the shard,
//!   so that it meets every commit that this worker has a part in.

mod operator;
mod task;

pub(crate) use operator::{Inputs, Operator, render};
pub(crate) use task::{Batch, Store, Task};

use mvsink_persist::Frontier;

use crate::description::Description;
use mvsink_persist::CommitId;

/// What write is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input<T> {
    /// The read-back has pinned the version of the shard that it starts from.
    Started,
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

/// What write wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect<T> {
    /// Drop what was drained for this batch: the shard holds it.
    SettleOwn(CommitId),
    /// Give back what was drained for this batch: the shard does not hold it.
    SettleLost(CommitId),
    /// Times before this frontier count as the frontier, or in ingest mode are dropped.
    Advance(Frontier<T>),
    /// Register the identity with the read-back, drain all updates before the upper, stage them; ends in
    /// [`Input::Staged`].
    Write(Description<T>),
    /// Send what was staged for this description to its appender.
    Send(Description<T>),
    /// Tell the appender of this description that nothing was staged because it is lost.
    SendObsolete(Description<T>),
}

/// The control of write: pure, no clock, no randomness, no I/O.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<T> {
    started: bool,
    desired: Frontier<T>,
    persist: Frontier<T>,
    /// The newest description, until it is written or lost.
    pending: Option<Description<T>>,
    /// Drained, and not settled yet.
    in_flight: Option<Description<T>>,
    /// Being staged: its part was not sent yet. It may outlive `in_flight`, when the loss is seen first.
    staging: Option<Description<T>>,
}

impl<T: Copy + Ord> State<T> {
    /// A write that has seen nothing; `minimum` is the least time.
    pub fn new(minimum: T) -> Self {
        State {
            started: false,
            desired: Frontier::At(minimum),
            persist: Frontier::At(minimum),
            pending: None,
            in_flight: None,
            staging: None,
        }
    }

    /// Takes one input and appends what is to be done, in order. [`State::decide`] ends an activation.
    ///
    /// Of what one activation brings, marks must be given before the frontier of the read-back.
    pub fn step(&mut self, input: Input<T>, effects: &mut Vec<Effect<T>>) {
        match input {
            Input::Started => self.started = true,
            Input::Description(description) => {
                if let Some(older) = self.pending.take() {
                    assert!(older.lower < description.lower, "lowers strictly increase");
                    effects.push(Effect::SendObsolete(older));
                }
                self.pending = Some(description);
            }
            Input::Desired(frontier) => self.desired = self.desired.max(frontier),
            Input::Own(id) => {
                let batch = self.in_flight.take_if(|batch| batch.id == id);
                assert!(batch.is_some(), "a mark names the batch in flight");
                effects.push(Effect::SettleOwn(id));
            }
            Input::Persist(frontier) => {
                if frontier > self.persist {
                    self.persist = frontier;
                    if let Some(lost) = self
                        .in_flight
                        .take_if(|batch| frontier.is_complete(&batch.lower))
                    {
                        effects.push(Effect::SettleLost(lost.id));
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

    /// Ends an activation, once all its inputs were given: decides whether a batch is to be written now.
    ///
    /// Deciding after each input instead would take the frontiers of the activation before for those of now,
    /// and order a batch to be written that the next input reveals as lost.
    pub fn decide(&mut self, effects: &mut Vec<Effect<T>>) {
        let Some(next) = &self.pending else { return };
        // Parts are sent in the order of their descriptions.
        if !self.started || self.staging.is_some() {
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
