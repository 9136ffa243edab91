//! Beyond the end: whether what follows the last entry that can be read is nothing, or the rest of a log with a gap.
//!
//! Entry `n + 1` is put when entry `n` is there, so entries that are missing below later ones were lost, by an
//! incomplete copy or restore that may still be under way. Invariant *no gap is filled*: whoever opens a shard lists
//! what lies beyond its last entry, once; whoever has it open lists that when it checks its tail; and whoever puts an
//! entry looks for the one after it first.
//!
//! ```text
//!   listed last > n,  then entry n + 1 is read, and not there   ⇒   it was cleaned up, or there is a gap
//! ```
//!
//! It was not cleaned up if the entry that the reading began with is there after that ([`crate::replay`]). A later
//! checkpoint bridges a gap: its state needs no entry below it. Files that name another table are none of this log.

use futures::TryStreamExt;
use object_store::ObjectStore;

use crate::error::Error;
use crate::log::checkpoint::LogFile;
use crate::log::state::State;
use crate::log::{entry_path, folder};
use crate::replay::Log;
use crate::storage::{OnRetry, Storage};

/// The files of the log beyond one version, ascending.
pub(crate) struct Beyond {
    files: Vec<LogFile>,
}

impl Beyond {
    /// The greatest version.
    pub(crate) fn last(&self) -> Option<u64> {
        self.files.last().map(|file| file.version())
    }

    fn entries(&self) -> impl Iterator<Item = u64> {
        self.files.iter().filter_map(|file| match file {
            LogFile::Entry(version) => Some(*version),
            _ => None,
        })
    }

    fn checkpoints(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.files.iter().filter_map(|file| match file {
            LogFile::Checkpoint(version) => Some(*version),
            _ => None,
        })
    }

    fn other_checkpoint(&self) -> Option<u64> {
        self.files.iter().rev().find_map(|file| match file {
            LogFile::OtherCheckpoint(version) => Some(*version),
            _ => None,
        })
    }
}

/// The result of listing a log whose last entry is known.
pub(crate) enum Listed {
    /// The greatest version beyond that.
    Beyond(Option<u64>),
    /// It lacks what every log begins with: neither the first entry nor a checkpoint is there. An entry that is may have been
    /// put again, by a call that took long, after the table was deleted.
    Unfounded,
}

/// Where the reading goes on at a gap.
pub(crate) enum Bridge {
    /// From this state, which a later checkpoint holds.
    Checkpoint(Box<Log>),
    /// Nowhere: nothing that lies beyond is of this log.
    End,
}

impl Storage {
    /// Lists what lies beyond `version`.
    pub(crate) async fn list_beyond(
        &self,
        version: u64,
        on_retry: OnRetry<'_>,
    ) -> Result<Beyond, Error> {
        let offset = entry_path(version);
        let list = || async {
            let listed: Result<Vec<_>, _> = self
                .store
                .list_with_offset(Some(&folder()), &offset)
                .try_filter_map(|object| async move {
                    Ok(object.location.filename().and_then(LogFile::from_name))
                })
                .try_collect()
                .await;
            listed.map_err(|source| self.error("list", &folder(), source))
        };
        let mut files = self.retry(on_retry, list).await?;
        files.retain(|file| file.version() > version);
        files.sort_unstable_by_key(|file| file.version());
        Ok(Beyond { files })
    }

    /// Lists the log: the last version beyond `version`, and whether the log has a beginning.
    pub(crate) async fn list_last(
        &self,
        version: u64,
        on_retry: OnRetry<'_>,
    ) -> Result<Listed, Error> {
        let files = self.list_log(on_retry).await?;
        let versions = files.iter().map(|file| file.version());
        let last = versions.filter(|found| *found > version).max();
        let begins = |file: &LogFile| !matches!(file, LogFile::Entry(version) if *version > 0);
        Ok(match files.iter().any(begins) {
            true => Listed::Beyond(last),
            false => Listed::Unfounded,
        })
    }

    /// The version beyond `version`, by a look at the entry after the next alone.
    pub(crate) async fn probe(
        &self,
        version: u64,
        on_retry: OnRetry<'_>,
    ) -> Result<Option<u64>, Error> {
        let after_next = version + 2;
        let there = self.exists(&entry_path(after_next), on_retry).await?;
        Ok(there.then_some(after_next))
    }

    /// Where to go on from `state`, whose next entry is not there though these files are.
    ///
    /// # Errors
    /// [`Error::LogGap`]; or that of a later checkpoint, if there is one that cannot be read.
    pub(crate) async fn bridge(
        &self,
        state: &State,
        beyond: &Beyond,
        on_retry: OnRetry<'_>,
    ) -> Result<Bridge, Error> {
        let mut unusable = None;
        for version in beyond.checkpoints().rev() {
            if version <= state.version {
                break;
            }
            match self.load_checkpoint(version, on_retry).await {
                Ok(later) if continues(&later.state, state) => {
                    tracing::warn!(
                        shard = %self.url, from = state.version, to = version,
                        "entries of the log are missing, went on from a later checkpoint"
                    );
                    return Ok(Bridge::Checkpoint(Box::new(later)));
                }
                Ok(_) => {
                    tracing::warn!(shard = %self.url, version, "ignoring a checkpoint of another table");
                }
                Err(failed) => {
                    unusable.get_or_insert(failed.into_unusable()?);
                }
            }
        }
        let next = state.version + 1;
        for version in beyond.entries().filter(|version| *version > next) {
            if self.is_foreign_entry(state, version, on_retry).await? {
                tracing::warn!(shard = %self.url, version, "ignoring a log entry of another table");
                continue;
            }
            return Err(match beyond.other_checkpoint() {
                Some(other) => self.unsupported_checkpoint(other),
                None => Error::LogGap {
                    url: self.url.to_string(),
                    first: next,
                    last: version - 1,
                    next: version,
                },
            });
        }
        match (unusable, beyond.other_checkpoint()) {
            (Some(error), _) => Err(error),
            (None, Some(other)) => Err(self.unsupported_checkpoint(other)),
            (None, None) => Ok(Bridge::End),
        }
    }

    /// Warns of a checkpoint that the log was read from, where the entries before it end before it ([`end_before`]).
    pub(crate) async fn warn_if_ahead(
        &self,
        version: u64,
        on_retry: OnRetry<'_>,
    ) -> Result<(), Error> {
        let files = self.list_log(on_retry).await?;
        if let Some(end) = end_before(version, files) {
            tracing::warn!(
                shard = %self.url, end, version,
                "the log's entries up to its last checkpoint end before that, went on from it; `mvsink verify` says more"
            );
        }
        Ok(())
    }

    /// True if an entry lies beyond the state that may be of its table.
    pub(crate) async fn is_followed(
        &self,
        state: &State,
        on_retry: OnRetry<'_>,
    ) -> Result<bool, Error> {
        let beyond = self.list_beyond(state.version, on_retry).await?;
        match beyond.entries().next() {
            Some(next) => Ok(!self.is_foreign_entry(state, next, on_retry).await?),
            None => Ok(false),
        }
    }

    /// True if the entry says that it is of another table, or is not there any more.
    async fn is_foreign_entry(
        &self,
        state: &State,
        version: u64,
        on_retry: OnRetry<'_>,
    ) -> Result<bool, Error> {
        let Some(bytes) = self.get_retrying(&entry_path(version), on_retry).await? else {
            return Ok(true);
        };
        // A damaged one is not known to be another table's.
        let commit = self.parse(version, bytes).await.ok();
        let table = commit.and_then(|commit| commit.info?.table);
        Ok(table.is_some_and(|table| table != state.metadata().id))
    }
}

/// The last entry up to the checkpoint of version `base`, if it comes before that.
///
/// The oldest entries are cleaned up first, and a checkpoint's own last of all. So the entries from there on were lost, or
/// an older log was copied back, whatever was committed after the checkpoint since.
pub(crate) fn end_before(base: u64, files: impl IntoIterator<Item = LogFile>) -> Option<u64> {
    let entries = files.into_iter().filter_map(|file| match file {
        LogFile::Entry(version) => Some(version),
        _ => None,
    });
    let last = entries.filter(|version| *version <= base).max();
    last.filter(|last| *last < base)
}

/// True if one state may have led to the other: the same table, further on.
fn continues(later: &State, earlier: &State) -> bool {
    let (before, after) = (earlier.progress(), later.progress());
    later.metadata().id == earlier.metadata().id
        && before.upper <= after.upper
        && before.since <= after.since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_before_a_checkpoint_only_if_its_own_is_not_there_and_an_older_one_is() {
        let end = |entries: &[u64]| {
            let entries = entries.iter().map(|version| LogFile::Entry(*version));
            end_before(
                9,
                entries.chain([LogFile::Checkpoint(4), LogFile::Checkpoint(9)]),
            )
        };
        assert_eq!(end(&[0, 1, 2, 3, 4]), Some(4));
        assert_eq!(end(&[3, 4, 10, 11]), Some(4));
        // As clean-ups leave it, in whatever order they delete, and a gap that the checkpoint bridges.
        for sound in [&[][..], &[9], &[10, 11], &[3, 5, 9, 10], &[0, 9]] {
            assert_eq!(end(sound), None, "{sound:?}");
        }
    }
}
