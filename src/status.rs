//! What a sink or source is doing, as its handle says.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mvsink_persist::Frontier;

use crate::error::Error;

/// What a sink is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Status {
    /// The shard is not open yet.
    Starting,
    /// Getting to where the shard holds the collection at the as-of.
    Hydrating {
        /// What is waited for.
        phase: Phase,
        /// Updates of the collection that the workers of this process have taken in.
        updates: u64,
    },
    /// Writing, or waiting for something to write.
    Running,
    /// Keeping up, and leaving the writing to another replica for now.
    StandingBy,
    /// Keeping up, but not allowed to write, and nothing that was begun is outstanding.
    ReadOnly,
    /// Running, and correcting another replica's rows, which corrects them back: the view is not deterministic.
    NonDeterministic {
        /// Rounds in which a replica disagreed.
        rounds: u64,
        /// Updates that were to be corrected after them.
        updates: u64,
    },
    /// The table differs from the collection: another program has edited it, or files of it are lost or cannot be read.
    /// The next batch repairs that. None comes before the input is complete beyond `upper`: if it never will be, the
    /// table stays as it is.
    Unrepaired {
        /// The rows that are to be written or retracted, about; `None` if there are so many that they were put aside on
        /// disk, uncounted.
        rows: Option<u64>,
        /// The data files that are to be removed, since they do not hold what the log says, by their paths as the log
        /// spells them.
        files: Vec<String>,
        /// The shard's upper when that was found.
        upper: i64,
    },
    /// Trying again and again to reach the store, or waiting for its answer.
    Stalled {
        /// What fails, and how.
        on: String,
        /// Since when it has not succeeded.
        since: Instant,
    },
    /// The shard was finished before the sink started: nothing is written, and the input is compared with what is there.
    /// When all of it has come, the sink is [`Finished`](Status::Finished) if they are the same, and fails if not.
    AlreadyFinished,
    /// The upper of the shard is empty: there is nothing left to write.
    Finished,
    /// Stopped for good, on all workers.
    Failed {
        /// Why.
        error: Arc<Error>,
    },
    /// Its handle was dropped, or closed.
    Cancelled,
}

/// How far a view's sink has compared its table with the collection, on all workers of its process. What a replica of this
/// view has written is taken for right.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compared {
    /// The version of the table's log.
    pub version: u64,
    /// The upper of that version; of a table that was finished before the sink started, how far the input was
    /// found there.
    pub frontier: Frontier<i64>,
    /// What the table differs in, if it does: while that is of an earlier upper than this, the batch that repairs it may be
    /// on its way.
    pub differs: Option<Differs>,
}

/// What a table differs in from the collection of its view.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Differs {
    /// The rows that are to be written or retracted, about; `None` if there are so many that they were put aside on disk,
    /// uncounted.
    pub rows: Option<u64>,
    /// The data files that are to be removed, since they do not hold what the log says, by their paths as the log spells
    /// them.
    pub files: Vec<String>,
    /// The table's upper when that was found.
    pub upper: i64,
}

/// What a sink that hydrates waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The dataflow has not computed the collection at the as-of yet.
    Computing,
    /// The shard holds the as-of already; whether it holds what it should is being found out.
    Comparing,
    /// The shard does not hold the as-of yet.
    Writing,
}

impl Status {
    /// True if the sink will not do anything any more.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Status::Finished | Status::Failed { .. } | Status::Cancelled
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Starting => f.write_str("starting"),
            Status::Hydrating { phase, updates } => {
                write!(f, "hydrating: {phase}, {updates} updates so far")
            }
            Status::Running => f.write_str("running"),
            Status::StandingBy => f.write_str("standing by"),
            Status::ReadOnly => f.write_str("read-only"),
            Status::NonDeterministic { rounds, updates } => write!(
                f,
                "not deterministic: other replicas disagreed in {rounds} rounds, about {updates} updates"
            ),
            Status::Unrepaired { rows, files, upper } => {
                f.write_str("the table differs from the collection, ")?;
                match rows {
                    Some(0) => {}
                    Some(1) => f.write_str("in 1 row, ")?,
                    Some(rows) => write!(f, "in {rows} rows, ")?,
                    None => f.write_str("in many rows, ")?,
                }
                if !files.is_empty() {
                    write!(f, "{} cannot be used, ", files.join(" and "))?;
                }
                write!(f, "until the input is complete beyond {upper}")
            }
            Status::Stalled { on, since } => {
                write!(f, "stalled for {} s: {on}", since.elapsed().as_secs())
            }
            Status::AlreadyFinished => {
                f.write_str("finished before it started: its input is compared with what is there")
            }
            Status::Finished => f.write_str("finished"),
            Status::Failed { error } => write!(f, "failed: {error}"),
            Status::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Computing => "computing",
            Phase::Comparing => "comparing",
            Phase::Writing => "writing",
        })
    }
}
