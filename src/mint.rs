//! `mint` decides which batch to write next.
//!
//! ```text
//!   shard's upper u ──┐
//!   desired's d ──────┼──▶  u < as-of:              bump the shard from u to the as-of, without data
//!   read-only? ───────┤     as-of ≤ u < d:          mint (u, d), once for each u
//!   standing by? ─────┘     as-of = u ≥ d:          open u provisionally: writers may stage ahead
//! ```
//!
//! The as-of is the empty frontier where a sink's schedule has no time at or after it: then the bump ends the shard. Unless
//! there is a time of the schedule that the shard has not reached: what holds there nobody would ever write.
//!
//! One worker mints, chosen by a hash of the sink's name. It learns the shard's upper from a task that
//! watches the shard, not from the read-back stream, which lags behind when data spikes.
//!
//! Invariants, by name:
//!
//! - *lower is the upper*: a description's lower is the shard's actual upper. The as-of and the since only
//!   advance times, they never stand in for it.
//! - *lowers strictly increase*, *uppers never decrease*, *lower < upper*. A lower is minted again only once its appender
//!   has said that the batch can never be committed, since a staged file of it has vanished;
//! - *bump first*: no description while the upper lies below the as-of;
//! - *read-only writes nothing*: neither a description nor a bump; and a sink is read-only until it is told that it
//!   may write. It counts as read-only once nothing that it began is outstanding any more; what was opened
//!   provisionally is closed again;
//! - those of standing by ([`standby`]).

mod operator;
pub mod standby;
mod task;
#[cfg(test)]
mod tests;

pub(crate) use operator::{Desired, Minted, Notice, Operator, Order, render};
pub(crate) use task::Watch;

use mvsink_persist::{CommitId, Frontier};

use crate::description::{Description, Outcome};
use crate::target::Mode;
use standby::Standby;

/// What mint is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input<T> {
    /// The frontier of the desired collection, errors included.
    Desired(Frontier<T>),
    /// The commit that moved the upper, before the upper that it led to. Only who may stand by needs to know.
    Committed(CommitId),
    /// The upper of the shard, as its log says.
    Upper(Frontier<T>),
    /// Whether the sink may write.
    ReadOnly(bool),
    /// This batch can never be committed: a staged file of it was gone.
    Vanished(CommitId),
    /// The end of the bump with this identity.
    Bumped(CommitId, Outcome),
    /// How long in ms a rival may be silent before a replica that stands by writes again; `None` if this one never
    /// stands by.
    Standby(Option<u64>),
    /// The time on a monotonic clock in ms, from any origin. Only who may stand by needs to know.
    Clock(u64),
}

/// What a sink does about its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It writes, or has something outstanding that it began to write.
    Writing,
    /// It leaves the writing to a rival for now.
    StandingBy,
    /// It must not write, and nothing that it began is outstanding.
    ReadOnly,
}

/// What mint wants done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect<T> {
    /// Tell every worker to write this batch.
    Mint(Description<T>),
    /// Tell every worker that it may stage updates at this lower ahead of its description, while the collection is not
    /// complete there yet; or, if not `open`, that it must not any more. The description comes with the same lower.
    Provisional {
        /// The lower of the description that is to come.
        lower: T,
        /// Whether it may.
        open: bool,
    },
    /// Move the shard's upper without data; ends in [`Input::Bumped`].
    Bump {
        /// The identity of the commit.
        id: CommitId,
        /// The upper to move it from.
        lower: T,
        /// The upper to move it to.
        upper: Frontier<T>,
    },
    /// No description below this frontier will follow.
    Downgrade(Frontier<T>),
    /// The sink cannot go on: the input begins at the as-of, which is beyond the shard's upper, and what holds between
    /// would be sealed unread. So it is in ingest mode, and where a view's schedule has times between and none after.
    Gap {
        /// The shard's upper.
        upper: T,
        /// The first time that the input holds.
        as_of: Frontier<T>,
    },
    /// Say what time it is, with [`Input::Clock`], at this time or later.
    Wake(u64),
    /// What the sink does about its shard has changed.
    Role(Role),
}

/// Where a view begins whose schedule has no time left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Late<T> {
    /// The as-of, before it was rounded up to no time.
    pub as_of: T,
    /// The last time of the schedule, if there is any.
    pub last: Option<T>,
}

/// The control of mint: pure, no clock, no randomness, no I/O.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<T> {
    mode: Mode,
    as_of: Frontier<T>,
    late: Option<Late<T>>,
    peers: usize,
    /// Drawn once for each sink instance, so that its commits are told from those of its rivals.
    nonce: u128,
    /// The sequence number of the next description or bump.
    seq: u64,
    desired: Frontier<T>,
    upper: Option<Frontier<T>>,
    read_only: bool,
    standby: Standby,
    /// When the clock was last asked for.
    wake: Option<u64>,
    bumping: Option<CommitId>,
    minted: Option<Description<T>>,
    /// What was minted can never be committed: its lower is to be minted again.
    vanished: bool,
    /// What is open ahead of its description.
    provisional: Option<T>,
    role: Option<Role>,
    failed: bool,
}

impl<T: Copy + Ord> State<T> {
    /// A mint that knows nothing of the shard yet, nor whether it may write; `minimum` is the least time.
    pub fn new(mode: Mode, as_of: Frontier<T>, minimum: T, peers: usize, nonce: u128) -> Self {
        assert!(peers > 0, "a dataflow has at least one worker");
        State {
            mode,
            as_of,
            late: None,
            peers,
            nonce,
            seq: 0,
            desired: Frontier::At(minimum),
            upper: None,
            read_only: true,
            standby: Standby::default(),
            wake: None,
            bumping: None,
            minted: None,
            vanished: false,
            provisional: None,
            role: None,
            failed: false,
        }
    }

    /// The same, where the schedule has no time left.
    pub fn late(mut self, late: Option<Late<T>>) -> Self {
        self.late = late;
        self
    }

    /// Takes one input and appends what is to be done, in order.
    pub fn step(&mut self, input: Input<T>, effects: &mut Vec<Effect<T>>) {
        match input {
            Input::Desired(frontier) => {
                // Inputs are combined from several streams, and may repeat.
                self.desired = self.desired.max(frontier);
            }
            // The upper that it led to follows.
            Input::Committed(id) => return self.standby.committed(id.nonce == self.nonce),
            Input::Upper(frontier) => {
                if self.upper.is_some_and(|upper| frontier <= upper) {
                    return;
                }
                self.upper = Some(frontier);
                self.bumping = None;
                self.vanished = false;
                self.standby.moved();
                effects.push(Effect::Downgrade(frontier));
            }
            Input::ReadOnly(read_only) => self.read_only = read_only,
            Input::Vanished(id) => {
                // The word may come late.
                let minted = self.minted.as_ref();
                let minted = minted.is_some_and(|minted| minted.id == id);
                self.vanished |= minted && self.is_outstanding();
            }
            // Whoever moved the upper, the watcher tells.
            Input::Bumped(_, Outcome::Done | Outcome::Lost | Outcome::Vanished) => {}
            Input::Bumped(id, Outcome::Cancelled) => {
                self.bumping.take_if(|bumping| *bumping == id);
            }
            Input::Standby(silence_ms) => self.standby.configure(silence_ms),
            Input::Clock(now_ms) => self.standby.clock(now_ms),
        }
        self.decide(effects);
        self.announce(effects);
        self.report(effects);
    }

    fn decide(&mut self, effects: &mut Vec<Effect<T>>) {
        let Some(Frontier::At(upper)) = self.upper else {
            return;
        };
        if self.read_only || self.failed {
            return;
        }
        let behind = Frontier::At(upper) < self.as_of;
        let unread = match self.mode {
            Mode::Ingest => Some(self.as_of),
            Mode::View => {
                let late = self.late.filter(|late| late.last >= Some(upper));
                late.map(|late| Frontier::At(late.as_of))
            }
        };
        if behind && let Some(as_of) = unread {
            self.failed = true;
            return effects.push(Effect::Gap { upper, as_of });
        }
        if self.is_outstanding() || !behind && !self.desired.is_complete(&upper) {
            return;
        }
        if let Some(end) = self.standby.wait() {
            if self.wake.replace(end) != Some(end) {
                effects.push(Effect::Wake(end));
            }
            return;
        }
        self.wake = None;
        let id = self.next_id();
        if behind {
            self.bumping = Some(id);
            return effects.push(Effect::Bump {
                id,
                lower: upper,
                upper: self.as_of,
            });
        }
        let appender = usize::try_from(id.seq % self.peers as u64).expect("less than a usize");
        let description = Description {
            id,
            lower: upper,
            upper: self.desired,
            appender,
        };
        if let Some(last) = &self.minted {
            let again = self.vanished && last.lower == description.lower;
            assert!(
                again || last.lower < description.lower,
                "lowers strictly increase"
            );
            assert!(last.upper <= description.upper, "uppers never decrease");
        }
        assert!(
            Frontier::At(description.lower) < description.upper,
            "lower < upper"
        );
        self.vanished = false;
        self.minted = Some(description.clone());
        effects.push(Effect::Mint(description));
    }

    /// Opens the lower of the first batch before its upper is known, so that a snapshot need not be kept until it is
    /// complete; and closes it if nothing is to be written after all.
    fn announce(&mut self, effects: &mut Vec<Effect<T>>) {
        let writes = !self.read_only && !self.failed && !self.standby.stands_by();
        let waits = |upper: &T| {
            Frontier::At(*upper) == self.as_of
                && !self.is_outstanding()
                && !self.desired.is_complete(upper)
        };
        let upper = self.upper.and_then(|upper| upper.time());
        let open = upper.filter(|upper| self.mode == Mode::View && writes && waits(upper));
        if open == self.provisional {
            return;
        }
        // A description closes it, and so does an upper that has moved.
        if let Some(lower) = self.provisional.filter(|_| !self.is_outstanding())
            && upper == Some(lower)
        {
            effects.push(Effect::Provisional { lower, open: false });
        }
        if let Some(lower) = open {
            effects.push(Effect::Provisional { lower, open: true });
        }
        self.provisional = open;
    }

    /// True while something that was begun at the present upper has not moved it.
    fn is_outstanding(&self) -> bool {
        let minted = self.minted.as_ref();
        let minted = minted.is_some_and(|minted| self.upper <= Some(Frontier::At(minted.lower)));
        self.bumping.is_some() || minted && !self.vanished
    }

    fn report(&mut self, effects: &mut Vec<Effect<T>>) {
        if self.upper.is_none() {
            return;
        }
        let role = if self.is_outstanding() {
            Role::Writing
        } else if self.read_only {
            Role::ReadOnly
        } else if self.standby.stands_by() {
            Role::StandingBy
        } else {
            Role::Writing
        };
        if self.role.replace(role) != Some(role) {
            effects.push(Effect::Role(role));
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
