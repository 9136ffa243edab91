//! Garbage collection: what lies in a shard's place and nobody needs.
//!
//! | what | when it goes | what keeps it |
//! |---|---|---|
//! | files that a commit removed | after a grace period | a hold's pin, a [`Pinned`] of this process |
//! | files that no commit refers to | when they are old | being staged by this process |
//! | `name#1`, a local write cut off | when it is old | |
//! | log entries and checkpoints | when they are old | an opener's need ([`crate::clean`]) |
//!
//! A look at the log before deleting does not protect a file that a slow committer is about to add. So the sweeper
//! first *condemns* files that no commit refers to, in a commit that removes them, and deletes them after that:
//!
//! ```text
//!   the sweeper's entry first:   the committer meets the tombstone of its own file, and fails: Error::Swept
//!   the committer's entry first: the sweeper decides again by the state that includes it, and spares the file
//! ```
//!
//! Likewise a hold that has lapsed is released by a commit before anything is deleted that it pinned: then its
//! owner, if it comes late, is told.
//!
//! How old an object is, is told by the store's clock alone ([`crate::store_time`]), and how long ago a file was removed by
//! that clock's time of the entry that removed it ([`times`]). An object may lie in the future, brought by a copy or by another
//! machine's clock: that makes no other old, and a file of a local directory is given the present instead, so that it goes
//! when it has become old.
//!
//! [`Pinned`]: crate::Pinned

mod leftovers;
mod report;
mod times;

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::SystemTime;

use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::commit::{Outcome, Plan, our_info};
use crate::error::Error;
use crate::lock;
use crate::log::action::{Commit, CommitInfo, Remove};
use crate::log::state::State;
use crate::shard::{Inner, Shard};
use crate::storage::Storage;
use crate::store_time::{LogTimes, age, to_ms};

use leftovers::leftovers;
pub use report::{GcFiles, GcOptions, GcPhase, GcProgress, GcReport, GcSpared};
use times::Removals;

/// Files that one commit condemns.
const SWEEP_FILES_MAX: usize = 1000;
/// Deletions under way at once.
const DELETES_AT_ONCE: usize = 16;

/// Told of the progress.
type OnProgress<'a> = &'a (dyn Fn(GcProgress) + Send + Sync);

/// An object in the shard's folder, and its path in the log.
struct Candidate {
    object: ObjectMeta,
    path: String,
}

impl Candidate {
    /// True if a commit has added it.
    fn is_live(&self, state: &State) -> bool {
        state.file_at(&self.object.location).is_some()
    }
}

impl Shard {
    /// Deletes what lies in the shard's place and nobody needs: see [`GcOptions`] for what and when. Safe beside
    /// writers, readers and other collections, here and elsewhere.
    ///
    /// One that fails half-way, or whose future is dropped, has deleted only what it might, and the next goes on.
    ///
    /// # Errors
    /// If the log or a listing cannot be read, or a commit fails. A file that cannot be deleted is reported as
    /// [`GcSpared::Failed`], and no error.
    pub async fn collect_garbage(
        &self,
        options: &GcOptions,
        progress: &(dyn Fn(GcProgress) + Send + Sync),
    ) -> Result<GcReport, Error> {
        let mut report = GcReport::default();
        // This table's log says nothing of the files of another table in its place.
        self.inner().check_table(&Storage::warn_of_retry).await?;
        if !options.dry_run {
            report.released_holds = self.release_lapsed().await?;
        }
        let listed = self.inner().list_data(progress).await?;
        // After the listing: what was committed before it is known now.
        self.inner().check_table(&Storage::warn_of_retry).await?;
        let storage = &self.inner().storage;
        let known = self.inner().with_state(|state| state.progress().version);
        let asked = match !options.dry_run && options.by_age() {
            true => storage.ask_time().await,
            false => None,
        };
        let now = asked.unwrap_or_else(|| match options.dry_run {
            // What deletes nothing may go by any clock.
            true => storage.clock(),
            false => storage.guess_time(listed.newest),
        });
        if let Some(now) = asked {
            // By which all that is known to be removed was so.
            lock(&self.inner().log)
                .state
                .date_removed(known, to_ms(now));
            // A guess may be wrong, and would make files older than they are.
            let ahead = listed.objects.iter();
            let ahead = ahead.filter(|object| SystemTime::from(object.last_modified) > now);
            let ahead = ahead.map(|object| object.location.clone());
            let strange = ahead.chain(listed.log.impossible(now)).collect();
            storage.give_present(strange, now).await;
        }
        let removals = self.inner();
        let removals = removals.removals(listed.log, now, options.removed_grace);
        let removals = removals.await?;
        report.unreadable.clone_from(&removals.unreadable);
        let listed = (listed.objects, now);
        let (removed, unknown) = self.classify(listed, &removals, options, &mut report);
        self.delete_removed(removed, options, progress, &mut report)
            .await;
        self.sweep(unknown, options, progress, &mut report).await?;
        self.delete_leftovers(now, options, progress, &mut report)
            .await?;
        if options.clean_log {
            let deleted = self
                .inner()
                .storage
                .clean_log(options.by_age().then_some(now), options.dry_run)
                .await?;
            for object in &deleted {
                report
                    .log
                    .add(object.location.as_ref(), object.size, options);
            }
            progress(GcProgress {
                phase: GcPhase::Log,
                done: report.log.count,
                of: Some(report.log.count),
            });
        }
        tracing::info!(
            shard = self.url(),
            dry_run = options.dry_run,
            removed = report.removed.count,
            orphans = report.orphans.count,
            leftovers = report.leftovers.count,
            log = report.log.count,
            "collected garbage"
        );
        Ok(report)
    }

    /// Tells apart what may be deleted as removed, and what no commit refers to and is old; the rest is live, or
    /// spared.
    fn classify(
        &self,
        (objects, now): (Vec<ObjectMeta>, SystemTime),
        removals: &Removals,
        options: &GcOptions,
        report: &mut GcReport,
    ) -> (Vec<Candidate>, Vec<Candidate>) {
        let inner = self.inner();
        let (mut removed, mut unknown) = (Vec::new(), Vec::new());
        inner.with_state(|state| {
            let pin = state.holds().oldest_pin();
            for object in objects {
                let location = object.location.as_ref();
                if state.file_at(&object.location).is_some() {
                    continue;
                }
                let removed_as = state.tombstone_at(&object.location);
                let is_pinned = || inner.pins.contains_at(&object.location);
                let spared = if let Some(tombstone) = removed_as {
                    if !removals.is_due(tombstone, options.removed_grace) {
                        Some(GcSpared::Grace)
                    } else if pin.is_some_and(|pin| tombstone.version > pin) {
                        Some(GcSpared::Held)
                    } else {
                        is_pinned().then_some(GcSpared::Pinned)
                    }
                } else if inner.staging.contains(location) {
                    Some(GcSpared::Staged)
                } else if is_pinned() {
                    Some(GcSpared::Pinned)
                } else {
                    let written = SystemTime::from(object.last_modified);
                    let min_age = if is_ours(location) {
                        options.orphan_min_age
                    } else {
                        options.foreign_orphan_min_age
                    };
                    (age(now, written) < min_age).then_some(GcSpared::Young)
                };
                match spared {
                    Some(why) => report.spare(why, location, object.size, options),
                    None => {
                        let kind = match removed_as {
                            Some(_) => &mut removed,
                            None => &mut unknown,
                        };
                        let path = encode_path(location);
                        kind.push(Candidate { object, path });
                    }
                }
            }
        });
        (removed, unknown)
    }

    async fn delete_removed(
        &self,
        files: Vec<Candidate>,
        options: &GcOptions,
        progress: OnProgress<'_>,
        report: &mut GcReport,
    ) {
        let deleting = Deleting {
            shard: self,
            options,
            phase: GcPhase::Removed,
            progress,
            of: files.len() as u64,
        };
        let mut gone = GcFiles::default();
        deleting.run(files, &mut gone, report).await;
        report.removed = gone;
    }

    /// Condemns the files, and deletes those that no commit has added before that.
    async fn sweep(
        &self,
        files: Vec<Candidate>,
        options: &GcOptions,
        progress: OnProgress<'_>,
        report: &mut GcReport,
    ) -> Result<(), Error> {
        let inner = self.inner();
        let deleting = Deleting {
            shard: self,
            options,
            phase: GcPhase::Orphans,
            progress,
            of: files.len() as u64,
        };
        let mut gone = GcFiles::default();
        let mut files = files.into_iter().peekable();
        while files.peek().is_some() {
            let mut chunk: Vec<_> = files.by_ref().take(SWEEP_FILES_MAX).collect();
            if !options.dry_run {
                let condemned = self.condemn(&chunk).await?;
                self.refresh().await?;
                let condemned: HashSet<String> = inner.with_state(|state| {
                    let condemned = condemned.into_iter();
                    condemned.filter(|path| !state.is_live(path)).collect()
                });
                chunk.retain(|file| {
                    let live = inner.with_state(|state| file.is_live(state));
                    let keep = condemned.contains(&file.path) && !live;
                    if !keep {
                        let name = file.object.location.as_ref();
                        report.spare(GcSpared::Committed, name, file.object.size, options);
                    }
                    keep
                });
            }
            deleting.run(chunk, &mut gone, report).await;
        }
        report.orphans = gone;
        Ok(())
    }

    /// Commits the removal of those files that no commit refers to, and returns their paths. A file that somebody
    /// else removed meanwhile is not among them: its grace has only begun.
    async fn condemn(&self, files: &[Candidate]) -> Result<Vec<String>, Error> {
        let storage = &self.inner().storage;
        let id = self.fresh_id();
        // Of the last plan, which is the one that counts.
        let condemned = Mutex::new(Vec::new());
        let plan = |state: &State| {
            let unknown = files
                .iter()
                .filter(|file| !file.is_live(state) && !state.is_removed(&file.path));
            let removes: Vec<_> = unknown
                .map(|file| Remove {
                    path: file.path.clone(),
                    deletion_timestamp: Some(storage.env.now_ms()),
                    data_change: false,
                    size: i64::try_from(file.object.size).ok(),
                    ..Remove::default()
                })
                .collect();
            if removes.is_empty() {
                return Plan::Done(());
            }
            *lock(&condemned) = removes.iter().map(|remove| remove.path.clone()).collect();
            let upper = state.progress().upper;
            Plan::Put(Box::new(Commit {
                info: Some(CommitInfo {
                    operation: "SWEEP".into(),
                    ..our_info(storage, id, upper, upper)
                }),
                removes,
                ..Commit::default()
            }))
        };
        let outcome = self.commit(id, plan, &Storage::warn_of_retry).await?;
        Ok(match outcome {
            Outcome::Committed(_) => std::mem::take(&mut *lock(&condemned)),
            Outcome::Done(()) => Vec::new(),
        })
    }

    async fn delete_leftovers(
        &self,
        now: SystemTime,
        options: &GcOptions,
        progress: OnProgress<'_>,
        report: &mut GcReport,
    ) -> Result<(), Error> {
        let storage = &self.inner().storage;
        let Some(folder) = storage.local.clone() else {
            return Ok(());
        };
        let (min_age, dry_run) = (options.orphan_min_age, options.dry_run);
        // Blocking calls, and few of them.
        let work = move || leftovers(&folder, now, min_age, dry_run);
        let found = storage
            .env
            .handle
            .spawn_blocking(work)
            .await
            .map_err(|_| Error::Shutdown)?;
        for leftover in found {
            if leftover.deleted {
                report
                    .leftovers
                    .add(&leftover.name, leftover.bytes, options);
            } else {
                report.spare(leftover.spared, &leftover.name, leftover.bytes, options);
            }
        }
        progress(GcProgress {
            phase: GcPhase::Leftovers,
            done: report.leftovers.count,
            of: Some(report.leftovers.count),
        });
        Ok(())
    }
}

/// Deletions of one phase.
struct Deleting<'a> {
    shard: &'a Shard,
    options: &'a GcOptions,
    phase: GcPhase,
    progress: OnProgress<'a>,
    of: u64,
}

impl Deleting<'_> {
    async fn run(&self, files: Vec<Candidate>, gone: &mut GcFiles, report: &mut GcReport) {
        let storage = &self.shard.inner().storage;
        let dry_run = self.options.dry_run;
        let deletes = files.into_iter().map(|file| async move {
            let deleted = match dry_run {
                true => Ok(()),
                false => storage.delete(&file.object.location).await,
            };
            (file, deleted)
        });
        let mut deletes = stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE);
        while let Some((file, deleted)) = deletes.next().await {
            let name = file.object.location.as_ref();
            match deleted {
                Ok(()) => gone.add(name, file.object.size, self.options),
                Err(error) => {
                    tracing::warn!(%error, "a file is left to the next garbage collection");
                    report.spare(GcSpared::Failed, name, file.object.size, self.options);
                }
            }
            (self.progress)(GcProgress {
                phase: self.phase,
                done: gone.count,
                of: Some(self.of),
            });
        }
    }
}

/// What lies in a shard's folder and was not live when it was listed.
struct Listed {
    objects: Vec<ObjectMeta>,
    /// When the newest object was written, the log's included.
    newest: SystemTime,
    log: LogTimes,
}

impl Inner {
    /// The Parquet files in the shard's folder itself that the state does not say are live, and those elsewhere that
    /// were removed. Other engines keep what is theirs in folders, or under names that begin with `_` or `.`.
    async fn list_data(&self, progress: OnProgress<'_>) -> Result<Listed, Error> {
        let storage = &self.storage;
        let (files, removed) = self.with_state(|state| (state.files(), state.removed_files()));
        let in_log = crate::log::folder();
        let root = Path::default();
        let list = || async {
            let mut listed = Listed {
                objects: Vec::new(),
                newest: SystemTime::UNIX_EPOCH,
                log: LogTimes::default(),
            };
            let mut seen = 0_u64;
            let mut objects = storage.store.list(None);
            while let Some(object) = objects
                .try_next()
                .await
                .map_err(|source| storage.error("list", &root, source))?
            {
                listed.newest = listed.newest.max(object.last_modified.into());
                seen += 1;
                if seen.is_multiple_of(1000) {
                    progress(GcProgress {
                        phase: GcPhase::List,
                        done: seen,
                        of: None,
                    });
                }
                let name = object.location.as_ref();
                if object.location.prefix_matches(&in_log) {
                    listed.log.add(&object);
                    continue;
                }
                let is_removed = || removed.get_at(&object.location).is_some();
                let is_data = name.ends_with(".parquet")
                    && !name.contains('/')
                    && !name.starts_with(['_', '.']);
                if (is_data || is_removed()) && files.get_at(&object.location).is_none() {
                    listed.objects.push(object);
                }
            }
            Ok(listed)
        };
        storage.retry(&Storage::warn_of_retry, list).await
    }
}

/// The path in the log of a file with this name.
fn encode_path(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~=/".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// True if the name is one that [`Shard::put_file`] gives: a UUID.
fn is_ours(name: &str) -> bool {
    let Some(uuid) = name.strip_suffix(".parquet") else {
        return false;
    };
    let bytes = uuid.bytes().enumerate();
    uuid.len() == 36
        && bytes.into_iter().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_and_names_in_the_log() {
        assert!(is_ours("9f1c0000-0000-4000-8000-0123456789ab.parquet"));
        for other in [
            "part-00000-9f1c0000-0000-4000-8000-0123456789ab-c000.snappy.parquet",
            "9f1c0000-0000-4000-8000-0123456789ab",
            "9f1c0000a0000-4000-8000-0123456789ab.parquet",
            "9F1C0000-0000-4000-8000-0123456789AB.parquet",
            "",
        ] {
            assert!(!is_ours(other), "{other}");
        }
        assert_eq!(encode_path("a b%c.parquet"), "a%20b%25c.parquet");
        assert_eq!(encode_path("day=1/_a.parquet"), "day=1/_a.parquet");
        let path = Path::from_url_path(encode_path("ä#.parquet")).unwrap();
        assert_eq!(path, Path::parse("ä#.parquet").unwrap());
    }
}
