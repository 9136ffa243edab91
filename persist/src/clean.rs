//! Cleaning up the log: deleting what nobody needs who opens the shard.
//!
//! ```text
//!   bound   = the older of the two newest checkpoints, and not beyond what `_last_checkpoint` says
//!   deleted = entries and checkpoints below the bound, ascending, up to the first that is younger than the minimum
//! ```
//!
//! - *ascending*: what is deleted is a prefix of the log, at every moment. Readers rely on that ([`crate::replay`]).
//! - *the store's clock*: an object's age is how much older it is than the newest object of the same listing. No
//!   process's clock matters; a listing that is late makes everything younger.
//! - *an opener finds its way*: whoever has just read the pointer, or has found the newest checkpoint damaged,
//!   finds the checkpoint and the entries after it.
//!
//! What is neither an entry nor a checkpoint in one file is left alone.

use std::time::Duration;

use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use crate::error::Error;
use crate::log::checkpoint::LogFile;
use crate::log::folder;
use crate::storage::Storage;

/// The objects to delete, in this order.
fn doomed(mut objects: Vec<ObjectMeta>, hint: Option<u64>, min_age: Duration) -> Vec<ObjectMeta> {
    let kind = |object: &ObjectMeta| LogFile::from_name(object.location.filename()?);
    let Some(newest) = objects.iter().map(|object| object.last_modified).max() else {
        return Vec::new();
    };
    let mut checkpoints: Vec<_> = objects
        .iter()
        .filter_map(|object| match kind(object) {
            Some(LogFile::Checkpoint(version)) => Some(version),
            _ => None,
        })
        .collect();
    checkpoints.sort_unstable();
    let (Some(&second), Some(hint)) = (checkpoints.iter().rev().nth(1), hint) else {
        return Vec::new();
    };
    let bound = second.min(hint);
    let version = |object: &ObjectMeta| match kind(object) {
        Some(LogFile::Entry(version) | LogFile::Checkpoint(version)) => Some(version),
        _ => None,
    };
    objects.retain(|object| version(object).is_some_and(|version| version < bound));
    objects.sort_by_key(&version);
    let old = |object: &ObjectMeta| {
        let age = (newest - object.last_modified).to_std();
        age.is_ok_and(|age| age >= min_age)
    };
    let young = objects.iter().position(|object| !old(object));
    objects.truncate(young.unwrap_or(objects.len()));
    objects
}

impl Storage {
    /// Deletes what the log does not need any more, and returns it; a dry run only returns it.
    ///
    /// # Errors
    /// If the store fails. What was deleted until then is a prefix of the log, as always.
    pub(crate) async fn clean_log(&self, dry_run: bool) -> Result<Vec<ObjectMeta>, Error> {
        let hint = self.last_checkpoint(&Storage::warn_of_retry).await?;
        let objects: Vec<_> = self
            .store
            .list(Some(&folder()))
            .try_collect()
            .await
            .map_err(|source| self.error("list", &folder(), source))?;
        let doomed = doomed(objects, hint, self.env.options.log_min_age);
        if !dry_run {
            for object in &doomed {
                self.delete(&object.location).await?;
            }
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
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::log::checkpoint::checkpoint_path;
    use crate::log::entry_path;

    fn object(location: object_store::path::Path, second: u64) -> ObjectMeta {
        let at: SystemTime = UNIX_EPOCH + Duration::from_secs(second);
        ObjectMeta {
            location,
            last_modified: at.into(),
            size: 1,
            e_tag: None,
            version: None,
        }
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
        let doomed_at = |entries, hint, age| doomed(log(entries), hint, Duration::from_secs(age));
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
        assert_eq!(doomed(Vec::new(), Some(1), Duration::ZERO), []);
    }

    #[test]
    fn nothing_is_deleted_beyond_what_is_young_or_not_understood() {
        let mut objects = log(35);
        for object in &mut objects {
            if object.location == entry_path(7) {
                // Put again by hand.
                object.last_modified = (UNIX_EPOCH + Duration::from_secs(34)).into();
            }
        }
        for name in [
            "00000000000000000003.crc",
            "x",
            "00000000000000000003.json#1",
        ] {
            objects.push(object(folder().join(name), 0));
        }
        let doomed = doomed(objects, Some(30), Duration::from_secs(5));
        assert_eq!(doomed.len(), 7);
        assert!(names(&doomed).iter().all(|name| name.ends_with("0.json")
            || name.ends_with(".json") && name.len() == 25));
    }
}
