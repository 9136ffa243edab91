//! What a sink or source has read, and what it need not have.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much of its shard a sink or source had to read, since it was rendered, on all workers of this process.
///
/// A restart over a shard that holds what it should verifies all rows and reads none; a sink that runs never reads
/// back what it wrote itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Rows of the desired collection that the shard was found to hold by the sums of their fingerprints.
    pub rows_verified: u64,
    /// Rows of the desired collection whose sums were others than the shard's: they were compared one by one.
    pub rows_diffed: u64,
    /// Updates that were read from data files.
    pub rows_read_back: u64,
    /// Buckets of fingerprints, 256 in all, that were the same at the start.
    pub buckets_verified: u64,
    /// Buckets of fingerprints that were not.
    pub buckets_differing: u64,
    /// How often a data file was read.
    pub data_files_read: u64,
    /// Commits of the sink's own that it read like anybody's: 0, but for the flag that asks for it.
    pub own_commits_read_back: u64,
}

/// The counters while they count.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) rows_verified: AtomicU64,
    pub(crate) rows_diffed: AtomicU64,
    pub(crate) rows_read_back: AtomicU64,
    pub(crate) buckets_verified: AtomicU64,
    pub(crate) buckets_differing: AtomicU64,
    pub(crate) data_files_read: AtomicU64,
    pub(crate) own_commits_read_back: AtomicU64,
}

/// Counts so many more.
pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Tally {
    pub(crate) fn counters(&self) -> Counters {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            rows_verified: now(&self.rows_verified),
            rows_diffed: now(&self.rows_diffed),
            rows_read_back: now(&self.rows_read_back),
            buckets_verified: now(&self.buckets_verified),
            buckets_differing: now(&self.buckets_differing),
            data_files_read: now(&self.data_files_read),
            own_commits_read_back: now(&self.own_commits_read_back),
        }
    }
}
