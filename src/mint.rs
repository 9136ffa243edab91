//! `mint` decides which batch to write next.
//!
//! ```text
//!   shard's upper u ──┐
//!   desired's d ──────┼──▶  u < as-of:              bump the shard from u to the as-of, without data
//!   read-only? ───────┘     as-of ≤ u < d:          mint (u, d), once for each u
//! ```
//!
//! One worker mints, chosen by a hash of the sink's name. It learns the shard's upper from a task that
//! watches the shard, not from the read-back stream, which lags behind when data spikes.
//!
//! Invariants, by name:
//!
//! - *lower is the upper*: a description's lower is the shard's actual upper. The as-of and the since only
//!   advance times, they never stand in for it.
//! - *lowers strictly increase*, *uppers never decrease*, *lower < upper*;
//! - *bump first*: no description while the upper lies below the as-of;
//! - *read-only writes nothing*: neither a description nor a bump.

mod operator;
mod task;

pub(crate) use operator::{Bump, Desired, Minted, Operator, render};
pub(crate) use task::Watch;

use mvsink_persist::{CommitId, Frontier};

use crate::description::{Description, Outcome};
use crate::target::Mode;

/// What mint is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input<T> {
    /// The frontier of the desired collection, errors included.
    Desired(Frontier<T>),
    /// The upper of the shard, as its log says.
    Upper(Frontier<T>),
    /// Whether the sink may write.
    ReadOnly(bool),
    /// The end of the bump with this identity.
    Bumped(CommitId, Outcome),
}

/// What mint wants done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect<T> {
    /// Tell every worker to write this batch.
    Mint(Description<T>),
    /// Move the shard's upper without data; ends in [`Input::Bumped`].
    Bump {
        /// The identity of the commit.
        id: CommitId,
        /// The upper to move it from.
        lower: T,
        /// The upper to move it to.
        upper: T,
    },
    /// No description below this frontier will follow.
    Downgrade(Frontier<T>),
    /// The sink cannot go on: in ingest mode, the as-of is beyond the shard's upper, and the times between
    /// would be sealed unread.
    Gap {
        /// The shard's upper.
        upper: T,
        /// The first time that the input holds.
        as_of: T,
    },
}

/// The control of mint: pure, no clock, no randomness, no I/O.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<T> {
    mode: Mode,
    as_of: T,
    peers: usize,
    /// Drawn once for each sink instance, so that its commits are told from those of its rivals.
    nonce: u128,
    /// The sequence number of the next description or bump.
    seq: u64,
    desired: Frontier<T>,
    upper: Option<Frontier<T>>,
    read_only: bool,
    bumping: Option<CommitId>,
    minted: Option<Description<T>>,
    failed: bool,
}

impl<T: Copy + Ord> State<T> {
    /// A mint that knows nothing of the shard yet; `minimum` is the least time.
    pub fn new(mode: Mode, as_of: T, minimum: T, peers: usize, nonce: u128) -> Self {
        assert!(peers > 0, "a dataflow has at least one worker");
        State {
            mode,
            as_of,
            peers,
            nonce,
            seq: 0,
            desired: Frontier::At(minimum),
            upper: None,
            read_only: false,
            bumping: None,
            minted: None,
            failed: false,
        }
    }

    /// Takes one input and appends what is to be done, in order.
    pub fn step(&mut self, input: Input<T>, effects: &mut Vec<Effect<T>>) {
        match input {
            Input::Desired(frontier) => {
                // Inputs are combined from several streams, and may repeat.
                self.desired = self.desired.max(frontier);
            }
            Input::Upper(frontier) => {
                if self.upper.is_some_and(|upper| frontier <= upper) {
                    return;
                }
                self.upper = Some(frontier);
                self.bumping = None;
                effects.push(Effect::Downgrade(frontier));
            }
            Input::ReadOnly(read_only) => self.read_only = read_only,
            // Whoever moved the upper, the watcher tells.
            Input::Bumped(_, Outcome::Done | Outcome::Lost) => {}
            Input::Bumped(id, Outcome::Cancelled) => {
                self.bumping.take_if(|bumping| *bumping == id);
            }
        }
        self.decide(effects);
    }

    fn decide(&mut self, effects: &mut Vec<Effect<T>>) {
        let Some(Frontier::At(upper)) = self.upper else {
            return;
        };
        if self.read_only || self.failed {
            return;
        }
        if upper < self.as_of {
            match self.mode {
                Mode::View if self.bumping.is_none() => {
                    let id = self.next_id();
                    self.bumping = Some(id);
                    effects.push(Effect::Bump {
                        id,
                        lower: upper,
                        upper: self.as_of,
                    });
                }
                Mode::View => {}
                Mode::Ingest => {
                    self.failed = true;
                    effects.push(Effect::Gap {
                        upper,
                        as_of: self.as_of,
                    });
                }
            }
            return;
        }
        let minted_here = self
            .minted
            .as_ref()
            .is_some_and(|minted| minted.lower >= upper);
        if self.desired.is_complete(&upper) && !minted_here {
            let id = self.next_id();
            let appender = usize::try_from(id.seq % self.peers as u64).expect("less than a usize");
            let description = Description {
                id,
                lower: upper,
                upper: self.desired,
                appender,
            };
            if let Some(last) = &self.minted {
                assert!(last.lower < description.lower, "lowers strictly increase");
                assert!(last.upper <= description.upper, "uppers never decrease");
            }
            assert!(
                Frontier::At(description.lower) < description.upper,
                "lower < upper"
            );
            self.minted = Some(description.clone());
            effects.push(Effect::Mint(description));
        }
    }

    fn next_id(&mut self) -> CommitId {
        let id = CommitId {
            nonce: self.nonce,
            seq: self.seq,
        };
        self.seq += 1;
        id
    }
}
