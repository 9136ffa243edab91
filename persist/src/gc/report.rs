//! What a garbage collection may do, and what it tells of it.

use std::collections::BTreeMap;
use std::time::Duration;

/// What [`Shard::collect_garbage`](crate::Shard::collect_garbage) may delete.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GcOptions {
    /// How long a removed file stays for readers that hold nothing (default: one hour), by the store's clock.
    pub removed_grace: Duration,
    /// The age at which a file that no commit refers to counts as left behind (default: one day). Nobody may take
    /// longer from staging a file to committing it.
    pub orphan_min_age: Duration,
    /// The same for files that this crate did not name (default: seven days, as other engines' vacuum has it):
    /// their writers do not heed a condemnation.
    pub foreign_orphan_min_age: Duration,
    /// Whether the log is cleaned up as well (default: yes).
    pub clean_log: bool,
    /// Only tells what would be deleted (default: no). What a lapsed hold pins counts as kept then.
    pub dry_run: bool,
    /// How many names the report has of each kind (default: 100).
    pub names_max: usize,
}

impl GcOptions {
    /// True if it matters how old something is.
    pub(super) fn by_age(&self) -> bool {
        let ages = [
            self.removed_grace,
            self.orphan_min_age,
            self.foreign_orphan_min_age,
        ];
        ages.iter().any(|age| !age.is_zero())
    }
}

impl Default for GcOptions {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        GcOptions {
            removed_grace: HOUR,
            orphan_min_age: 24 * HOUR,
            foreign_orphan_min_age: 7 * 24 * HOUR,
            clean_log: true,
            dry_run: false,
            names_max: 100,
        }
    }
}

/// A step of a garbage collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum GcPhase {
    /// Listing the shard's place.
    List,
    /// Deleting files that commits removed.
    Removed,
    /// Condemning and deleting files that no commit refers to.
    Orphans,
    /// Deleting local writes that were cut off.
    Leftovers,
    /// Cleaning up the log.
    Log,
}

/// How far a garbage collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcProgress {
    /// What it does.
    pub phase: GcPhase,
    /// Objects done in this phase.
    pub done: u64,
    /// Of so many; `None` if that is not known yet.
    pub of: Option<u64>,
}

/// Objects of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcFiles {
    /// How many.
    pub count: u64,
    /// Their size together.
    pub bytes: u64,
    /// The first of their paths, relative to the shard.
    pub names: Vec<String>,
}

impl GcFiles {
    pub(super) fn add(&mut self, name: &str, bytes: u64, options: &GcOptions) {
        self.count += 1;
        self.bytes += bytes;
        if self.names.len() < options.names_max {
            self.names.push(name.to_owned());
        }
    }
}

/// Why an object was spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum GcSpared {
    /// It was removed within the grace period.
    Grace,
    /// A hold pins a version that has it.
    Held,
    /// A reader of this process pins a version that has it.
    Pinned,
    /// No commit refers to it, but it is young.
    Young,
    /// This process staged it.
    Staged,
    /// Somebody else's commit added or removed it meanwhile.
    Committed,
    /// The store failed to delete it.
    Failed,
}

/// What a garbage collection did, or in a dry run would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcReport {
    /// Lapsed holds that were released, by name.
    pub released_holds: Vec<String>,
    /// Deleted: files that commits had removed.
    pub removed: GcFiles,
    /// Deleted: files that no commit referred to.
    pub orphans: GcFiles,
    /// Deleted: local writes that were cut off.
    pub leftovers: GcFiles,
    /// Deleted: log entries and checkpoints.
    pub log: GcFiles,
    /// The log entries below the checkpoint that were asked about removed files and cannot be read. Files that they may
    /// have removed stay until their grace is over after that.
    pub unreadable: Vec<u64>,
    /// Not deleted, and why.
    pub spared: BTreeMap<GcSpared, GcFiles>,
}

impl GcReport {
    pub(super) fn spare(&mut self, why: GcSpared, name: &str, bytes: u64, options: &GcOptions) {
        let spared = self.spared.entry(why).or_default();
        spared.add(name, bytes, options);
    }
}
