//! When a file was removed, as the store's clock tells it.
//!
//! Whoever removes a file writes a time of its own beside it, and clocks are not compared. But the entry that removes it
//! lies in the log, with a time that the store has given it, and checkpoints say by when each file was gone:
//!
//! ```text
//!   its entry is in the log                               removed when the store says that the entry was put
//!   a checkpoint says by when it was removed              removed by then
//!   it is in no entry that is there, and in a checkpoint  removed before the oldest entry that is there
//!   that oldest entry is younger than the grace           not yet due
//!   an entry from within the grace cannot be read         not yet due, unless another one removed it
//! ```
//!
//! Times that cannot be are replaced by later ones ([`crate::store_time`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt};

use crate::error::Error;
use crate::lock;
use crate::log::action::Remove;
use crate::log::entry_path;
use crate::log::path_map::PathMap;
use crate::log::state::Tombstone;
use crate::shard::Inner;
use crate::storage::Storage;
use crate::store_time::{LogTimes, age, from_ms};

/// Log entries read at once.
const READS_AT_ONCE: usize = 16;

/// What tells how long ago files were removed.
pub(super) struct Removals {
    now: SystemTime,
    log: LogTimes,
    /// The version that the state was read from, if that was a checkpoint: what it says was removed by earlier ones.
    checkpoint: Option<u64>,
    /// Which entry removed what is in the checkpoint, for those put within the grace.
    recent: PathMap<u64>,
    /// Of the entries put within the grace those that cannot be read: each may have removed what no other one did.
    pub(super) unreadable: Vec<u64>,
}

impl Inner {
    /// What tells whether the grace of removed files is over. Entries from before the state's checkpoint are read if
    /// they may have removed a file within it. None of them is needed: one that cannot be read makes files younger.
    ///
    /// # Errors
    /// If the runtime has shut down.
    pub(super) async fn removals(
        &self,
        mut log: LogTimes,
        now: SystemTime,
        grace: Duration,
    ) -> Result<Removals, Error> {
        log.bound(now);
        let checkpoint = lock(&self.log).checkpoint();
        let mut recent = PathMap::new(Arc::clone(&self.storage.root));
        let mut unreadable = Vec::new();
        let asked = checkpoint.filter(|version| {
            !grace.is_zero() && self.with_state(|state| state.has_removed_in(*version))
        });
        if let Some(checkpoint) = asked {
            let young = log.younger(checkpoint, now, grace);
            let reads = young.into_iter();
            let reads =
                reads.map(|version| async move { (version, self.removed_by(version).await) });
            let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
            while let Some((version, removes)) = reads.next().await {
                match removes {
                    Ok(removes) => {
                        for remove in removes {
                            recent.insert(remove.path, version);
                        }
                    }
                    Err(Error::Shutdown) => return Err(Error::Shutdown),
                    Err(error) => {
                        let shard = &self.storage.url;
                        tracing::warn!(%shard, version, %error, "garbage is collected without an entry of the log");
                        unreadable.push(version);
                    }
                }
            }
        }
        Ok(Removals {
            now,
            log,
            checkpoint,
            recent,
            unreadable,
        })
    }

    /// The files that this entry removed; none if it has been cleaned up.
    async fn removed_by(&self, version: u64) -> Result<Vec<Remove>, Error> {
        let path = entry_path(version);
        let entry = self.storage.get_retrying(&path, &Storage::warn_of_retry);
        match entry.await? {
            Some(bytes) => Ok(self.storage.parse(version, bytes).await?.removes),
            None => Ok(Vec::new()),
        }
    }
}

impl Removals {
    /// True if the file was removed at least the grace ago.
    pub(super) fn is_due(&self, tombstone: &Tombstone, grace: Duration) -> bool {
        if grace.is_zero() {
            return true;
        }
        let version = match self.checkpoint {
            Some(checkpoint) if tombstone.version <= checkpoint => {
                let known = self.recent.get(&tombstone.remove.path);
                known.or(self.unreadable.last()).copied()
            }
            _ => Some(tombstone.version),
        };
        // Each is a bound: it was removed by then.
        let put = version.and_then(|version| self.log.entry(version));
        let by = tombstone.removed_by_ms.map(from_ms);
        match put.into_iter().chain(by).min() {
            Some(at) => age(self.now, at) >= grace,
            None => self.least_age(tombstone.version) >= grace,
        }
    }

    /// How long ago what is in no entry was removed, at the least: before the oldest one, or before its checkpoint.
    fn least_age(&self, version: u64) -> Duration {
        let oldest = self.log.oldest();
        let oldest = oldest.filter(|(entry, _)| *entry <= version + 1);
        let checkpoint = self.log.checkpoint(version);
        let at = oldest.map(|(_, at)| at).or(checkpoint);
        at.map_or(Duration::ZERO, |at| age(self.now, at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_removal_is_found_under_another_spelling() {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        let mut recent = PathMap::default();
        recent.insert("a%20b.parquet".to_owned(), 7);
        let removals = Removals {
            now: UNIX_EPOCH + 1000 * HOUR,
            log: LogTimes::of_entries([(1, UNIX_EPOCH + HOUR), (7, UNIX_EPOCH + 999 * HOUR)]),
            checkpoint: Some(9),
            recent,
            unreadable: Vec::new(),
        };
        for (path, due) in [
            ("a%20b.parquet", false),
            ("a b.parquet", false),
            ("./a b.parquet", false),
            ("c.parquet", true),
        ] {
            let tombstone = Tombstone {
                remove: Remove {
                    path: path.to_owned(),
                    ..Remove::default()
                },
                version: 9,
                removed_by_ms: None,
            };
            assert_eq!(removals.is_due(&tombstone, 10 * HOUR), due, "{path}");
        }
    }
}
