//! What a reader of a shard may ask for, and is told while it reads.

use std::fmt;
use std::sync::Arc;

use crate::merge::{Budget, Merge, MergeProgress};
use crate::read::filter::Filter;

/// What to read of a shard, and with how much memory.
#[derive(Clone)]
#[non_exhaustive]
pub struct ReadOptions {
    /// The columns of data by name; `None` means all. What comes out is consolidated over these: rows that differ
    /// only in others add up. `mv_error` always comes too.
    pub columns: Option<Vec<String>>,
    /// The rows wanted.
    pub filter: Filter,
    /// The memory to use, in bytes; what exceeds it is put aside on disk ([`ClientOptions::spill_directory`]). At least
    /// one row group of one file and all updates of any one row are held, whatever this says.
    ///
    /// [`ClientOptions::spill_directory`]: crate::ClientOptions::spill_directory
    pub budget_bytes: usize,
    /// The rows of a batch, at most.
    pub batch_rows: usize,
    /// Told how far the reading is, before each batch.
    pub progress: Option<ReadProgressFn>,
}

/// Is told how far a reader is.
pub type ReadProgressFn = Arc<dyn Fn(ReadProgress) + Send + Sync>;

/// How far a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadProgress {
    /// The files that are read.
    pub files: u64,
    /// Those that have been read to their end.
    pub files_done: u64,
    /// The rows of the files, as far as their writers said how many.
    pub rows: u64,
    /// The rows decoded so far.
    pub rows_done: u64,
    /// The memory in use for it, in bytes.
    pub held_bytes: u64,
    /// The most memory that ever was in use for it, in bytes.
    pub held_bytes_max: u64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            columns: None,
            filter: Filter::all(),
            budget_bytes: 256 << 20,
            batch_rows: 8192,
            progress: None,
        }
    }
}

impl fmt::Debug for ReadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOptions")
            .field("columns", &self.columns)
            .field("filter", &self.filter)
            .field("budget_bytes", &self.budget_bytes)
            .field("batch_rows", &self.batch_rows)
            .finish_non_exhaustive()
    }
}

impl ReadOptions {
    pub(crate) fn budget(&self) -> Budget {
        Budget {
            bytes: self.budget_bytes,
            batch_rows: self.batch_rows,
        }
    }

    /// Tells the progress of a merge, after others that have ended with `before`.
    pub(crate) fn report(&self, before: ReadProgress, merge: &Merge) -> ReadProgress {
        let MergeProgress {
            files,
            files_done,
            rows,
            rows_read,
            ..
        } = merge.progress();
        let progress = ReadProgress {
            files: before.files + files,
            files_done: before.files_done + files_done,
            rows: before.rows + rows,
            rows_done: before.rows_done + rows_read,
            held_bytes: merge.meter().now() as u64,
            held_bytes_max: before.held_bytes_max.max(merge.meter().peak() as u64),
        };
        if let Some(tell) = &self.progress {
            tell(progress);
        }
        progress
    }
}
