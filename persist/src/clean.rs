//! Cleaning up the log: deleting what nobody needs who opens the shard.
//!
//! ```text
//!   bound   = the older of the two newest checkpoints, and not beyond what `_last_checkpoint` says
//!   deleted = entries and checkpoints below the bound, ascending, up to the first that is younger than the minimum
//! ```
//!
//! - *ascending*: what is deleted is a prefix of the log, at every moment. Readers rely on that ([`crate::replay`]).
//! - *the store's clock*: an object's age is how much older it is than an object that is written now. Times that cannot
//!   be make nothing older ([`crate::store_time`]).
//! - *the log that was listed*: as long as it deletes, it looks whether the newest checkpoint of its listing is there. An
//!   older copy that was put in the log's place meanwhile needs all of its entries.
//! - *an opener finds its way*: whoever has just read the pointer, or has found the newest checkpoint damaged,
//!   finds the checkpoint and the entries after it.
//!
//! What is neither an entry nor a checkpoint in one file is left alone.

use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use crate::error::Error;
use crate::log::checkpoint::LogFile;
use crate::log::folder;
use crate::storage::Storage;
use crate::store_time::{LogTimes, age};

/// For so long it is believed that the log is the one that was listed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The objects to delete, in this order.
fn doomed(
    objects: Vec<ObjectMeta>,
    hint: Option<u64>,
    now: SystemTime,
    min_age: Duration,
) -> Vec<ObjectMeta> {
    let kind = |object: &ObjectMeta| LogFile::from_name(object.location.filename()?);
    let mut checkpoints: Vec<_> = objects
        .iter()
        .filter_map(|object| match kind(object) {
            Some(LogFile::Checkpoint(version)) => Some(version),
            _ => None,
        })
        .collect();
    checkpoints.sort_unstable();
    let second_newest = checkpoints.iter().rev().nth(1);
    let Some(bound) = hint.min(second_newest.copied()) else {
        return Vec::new();
    };
    let mut times = LogTimes::default();
    objects.iter().for_each(|object| times.add(object));
    times.bound(now);
    // With when it was put.
    let known = |object: ObjectMeta| match kind(&object)? {
        LogFile::Entry(version) => Some((version, times.entry(version)?, object)),
        LogFile::Checkpoint(version) => Some((version, times.checkpoint(version)?, object)),
        LogFile::OtherCheckpoint(_) => None,
    };
    let mut objects: Vec<_> = objects.into_iter().filter_map(known).collect();
    objects.sort_by_key(|(version, ..)| *version);
    let doomed = objects
        .into_iter()
        .take_while(|(version, put, _)| *version < bound && age(now, *put) >= min_age);
    doomed.map(|(.., object)| object).collect()
}

impl Storage {
    /// Deletes what the log does not need any more, and returns it; a dry run only returns it. `now` is the store's time,
    /// if that is known.
    ///
    /// # Errors
    /// If the store fails. What was deleted until then is a prefix of the log, as always.
    pub(crate) async fn clean_log(
        &self,
        now: Option<SystemTime>,
        dry_run: bool,
    ) -> Result<Vec<ObjectMeta>, Error> {
        let hint = self.last_checkpoint(&Storage::warn_of_retry).await?;
        let objects: Vec<_> = self
            .store
            .list(Some(&folder()))
            .try_collect()
            .await
            .map_err(|source| self.error("list", &folder(), source))?;
        let newest = objects.iter().map(|object| object.last_modified).max();
        let newest = newest.map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
        let now = match now {
            Some(now) => now,
            None if dry_run => self.clock(),
            None => {
                let asked = self.ask_time().await;
                asked.unwrap_or_else(|| self.guess_time(newest))
            }
        };
        let version = |object: &&ObjectMeta| match LogFile::from_name(object.location.filename()?) {
            Some(LogFile::Checkpoint(version)) => Some(version),
            _ => None,
        };
        let checkpoint = objects.iter().max_by_key(version);
        let checkpoint = checkpoint.map(|object| object.location.clone());
        let mut doomed = doomed(objects, hint, now, self.env.options.log_min_age);
        if !dry_run {
            let mut deleted = 0;
            let mut looked = None;
            for object in &doomed {
                let is_due = looked.is_none_or(|at| self.env.since(at) >= LOOK_INTERVAL);
                if let Some(checkpoint) = checkpoint.as_ref().filter(|_| is_due) {
                    looked = Some(self.env.moment());
                    if !self.exists(checkpoint, &Storage::warn_of_retry).await? {
                        tracing::warn!(shard = %self.url, "another log has the place of the one to clean up");
                        break;
                    }
                }
                self.delete(&object.location).await?;
                deleted += 1;
            }
            doomed.truncate(deleted);
            if let (Some(first), Some(last)) = (doomed.first(), doomed.last()) {
                tracing::debug!(
                    shard = %self.url, objects = doomed.len(),
                    first = %first.location, last = %last.location, "cleaned up the log"
                );
            }
        }
        Ok(doomed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::log::checkpoint::checkpoint_path;
    use crate::log::entry_path;

    fn object(location: object_store::path::Path, second: u64) -> ObjectMeta {
        ObjectMeta {
            location,
            last_modified: self::second(second).into(),
            size: 1,
            e_tag: None,
            version: None,
        }
    }

    fn second(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(20_000 * 24 * 60 * 60 + second)
    }

    /// What goes of the log with 35 entries at this age, in seconds.
    fn doomed_of(objects: &[ObjectMeta], age: u64) -> Vec<ObjectMeta> {
        let min_age = Duration::from_secs(age);
        doomed(objects.to_vec(), Some(30), second(35), min_age)
    }

    #[test]
    fn what_lies_in_the_future_is_as_old_as_the_next_object() {
        let mut objects = log(35);
        for object in &mut objects {
            if object.location == entry_path(7) || object.location == entry_path(35) {
                object.last_modified = second(1_000_000).into();
            }
        }
        let doomed_at = |age| doomed_of(&objects, age);
        assert_eq!(doomed_at(0).len(), 20 + 1);
        assert_eq!(doomed_at(28).len(), 7);
        assert_eq!(doomed_at(27).len(), 9);
        assert_eq!(doomed_at(36).len(), 0);
    }

    #[test]
    fn an_entry_from_1970_is_as_old_as_the_next_one() {
        let mut objects = log(35);
        for object in &mut objects {
            if [entry_path(0), entry_path(7)].contains(&object.location) {
                object.last_modified = UNIX_EPOCH.into();
            }
        }
        let doomed_at = |age| doomed_of(&objects, age);
        assert_eq!(doomed_at(0).len(), 20 + 1);
        assert_eq!(doomed_at(35).len(), 0);
        assert_eq!(doomed_at(34).len(), 2);
        assert_eq!(doomed_at(28).len(), 7);
        assert_eq!(doomed_at(27).len(), 9);
    }

    /// One entry a second, a checkpoint after every tenth.
    fn log(entries: u64) -> Vec<ObjectMeta> {
        let mut objects = Vec::new();
        for version in (0..=entries).rev() {
            objects.push(object(entry_path(version), version));
            if version > 0 && version.is_multiple_of(10) {
                objects.push(object(checkpoint_path(version), version));
            }
        }
        objects
    }

    fn names(objects: &[ObjectMeta]) -> Vec<&str> {
        objects
            .iter()
            .map(|object| object.location.filename().unwrap())
            .collect()
    }

    #[test]
    fn deletes_a_prefix_below_the_older_of_the_newest_checkpoints() {
        let doomed_at = |entries, hint, age| {
            doomed(
                log(entries),
                hint,
                second(entries),
                Duration::from_secs(age),
            )
        };
        let all = doomed_at(35, Some(30), 0);
        assert_eq!(all.len(), 20 + 1);
        assert_eq!(names(&all)[0], "00000000000000000000.json");
        let versions: Vec<_> = names(&all).iter().map(|name| &name[..20]).collect();
        assert!(versions.is_sorted());
        assert_eq!(*versions.last().unwrap(), "00000000000000000019");
        // Spared: what is young, what an old pointer leads to, and everything without a second checkpoint.
        assert_eq!(doomed_at(35, Some(30), 24).len(), 12 + 1);
        assert_eq!(doomed_at(35, Some(30), 36).len(), 0);
        assert_eq!(doomed_at(35, Some(10), 0).len(), 10);
        assert_eq!(doomed_at(35, None, 0).len(), 0);
        assert_eq!(doomed_at(15, Some(10), 0).len(), 0);
        assert_eq!(doomed(Vec::new(), Some(1), second(1), Duration::ZERO), []);
    }

    #[test]
    fn nothing_is_deleted_beyond_what_is_young_or_not_understood() {
        let mut objects = log(35);
        for object in &mut objects {
            if object.location == entry_path(7) {
                // Put again by hand.
                object.last_modified = second(34).into();
            }
        }
        for name in [
            "00000000000000000003.crc",
            "x",
            "00000000000000000003.json#1",
        ] {
            objects.push(object(folder().join(name), 0));
        }
        let doomed = doomed(objects, Some(30), second(35), Duration::from_secs(5));
        assert_eq!(doomed.len(), 7);
        assert!(names(&doomed).iter().all(|name| name.ends_with("0.json")
            || name.ends_with(".json") && name.len() == 25));
    }
}
