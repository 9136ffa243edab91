//! Why a sink stops.

use crate::runtime::RuntimeFault;

/// An error that ends a sink, or that keeps one from being rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The shard cannot be used.
    #[error(transparent)]
    Shard(#[from] mvsink_persist::Error),
    /// The input begins after the shard ends, and the times between would be sealed unread: those of a source, or the
    /// last ones at which a view was to be written.
    #[error("the input begins at {as_of}, but the shard ends at {upper}: resume at {upper}")]
    Gap {
        /// The shard's upper.
        upper: String,
        /// The first time that the input holds.
        as_of: String,
    },
    /// A source's updates keep their times: who resumes it at the upper must find there what it has not read yet.
    #[error(
        "the sink {name} ingests a source, which has no refresh schedule: its updates keep their times"
    )]
    IngestRefresh {
        /// The name of the sink.
        name: String,
    },
    /// There is a sink of this name on this shard in this process already.
    #[error(
        "there is a sink {name} on {url} already: drop its handle first, or give this one another name"
    )]
    Duplicate {
        /// The name of the sink.
        name: String,
        /// The address of the shard.
        url: String,
    },
    /// The shard was finished before the sink started, and holds something else than its input.
    #[error(
        "{url} was finished before, and holds something else than the input of the sink {name}: a finished table takes \
         no more rows, so write to another address, or delete the table first"
    )]
    AlreadyFinished {
        /// The address of the shard.
        url: String,
        /// The name of the sink.
        name: String,
    },
    /// A time that no shard can hold.
    #[error("the time {time} cannot be stored: a shard's times are at most i64::MAX - 1")]
    Time {
        /// The time.
        time: String,
    },
    /// A difference that the type cannot hold.
    #[error(
        "the shard holds a difference of {diff}, which the collection's type cannot hold: read it with differences of i64"
    )]
    Diff {
        /// The difference.
        diff: i64,
    },
    /// Rows are there so often that a dataflow could not add up their differences.
    #[error(
        "{path}, in version {version} of the shard, has a row with the difference {diff} (mv_diff): with those of other rows that is more \
         than a dataflow can add up. Another program must delete it; an ingest sink goes on after that edit once somebody \
         accepts it with `mvsink repair --accept-edits`"
    )]
    Multiplicity {
        /// The file.
        path: String,
        /// The version of the log in which it was met.
        version: u64,
        /// The largest difference of the rows that were too many.
        diff: i128,
    },
    /// A source that a sink's dataflow reads has failed, so the sink's input will never be complete.
    #[error("the sink {name} cannot go on, since its source {source_name} failed: {error}")]
    Source {
        /// The name of the sink.
        name: String,
        /// The name of the source.
        source_name: String,
        /// Why the source failed.
        error: std::sync::Arc<Error>,
    },
    /// The log was cleaned up beyond what was read, or files were removed and deleted that tell what has changed since.
    #[error(
        "what has changed in {url} since version {version} is not known any more, since log entries or data files that \
         tell it were deleted meanwhile: start again, which reads it anew"
    )]
    Behind {
        /// The address of the shard.
        url: String,
        /// The last version that was read.
        version: u64,
    },
    /// The sink failed while it was waited for.
    #[error("the sink {name} failed: {error}")]
    Failed {
        /// The name of the sink.
        name: String,
        /// Why.
        error: std::sync::Arc<Error>,
    },
    /// The sink or source failed in another process of the same dataflow, and therefore here too.
    #[error("{name} failed on worker {worker}: {message}")]
    Elsewhere {
        /// The name of the sink or source.
        name: String,
        /// A worker of that process.
        worker: usize,
        /// What went wrong there.
        message: String,
    },
    /// The sink was given up before the time that was waited for.
    #[error("the sink {name} was cancelled")]
    Cancelled {
        /// The name of the sink.
        name: String,
    },
    /// The disk that updates are put aside on, for want of memory, does not do what it should.
    #[error("cannot {action} {path}, where updates are put aside: {source}")]
    Spill {
        /// What was to be done.
        action: &'static str,
        /// To what.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The runtime that the host gave its context does not run tasks, or not any more.
    #[error("the Tokio runtime does not run the tasks of sinks and sources: {why}")]
    Runtime {
        /// What it lacks.
        why: RuntimeFault,
    },
    /// A task of the sink panicked: a bug.
    #[error("a task of the sink {name} panicked: {message}")]
    Panicked {
        /// The name of the sink.
        name: String,
        /// What it said.
        message: String,
    },
}

impl Error {
    /// True if the same may succeed when it is tried again later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Shard(error) => error.is_transient(),
            // Rows that are gone do not come back; all else that a disk says, a full one first, may pass.
            Error::Spill { action, source, .. } => {
                use std::io::ErrorKind::{NotFound, UnexpectedEof};
                *action != "read" || !matches!(source.kind(), NotFound | UnexpectedEof)
            }
            _ => false,
        }
    }
}
