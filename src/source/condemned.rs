//! Files that the next batch of a view is to remove, since they do not hold what the collection holds.
//!
//! ```text
//!   absent    none of its rows is counted as held, by any worker, from the start: it counts as removed already
//!   counted   its rows are counted as far as they fit, until it is removed
//! ```
//!
//! A view knows all that it holds. So it has its next batch remove such a file, and what of its rows belongs to the view
//! is in the corrections, and in the same batch, or in the one after it if they were counted.
//!
//! Damage makes a file absent only where no worker can have counted its rows: before the comparison that a view begins
//! with, and when the entry is taken that adds it. A worker that has counted them all the same, because it read the file
//! before it was damaged, finds that it cannot take them away when the file is removed, and the sink stops: when it is
//! started again it compares anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use mvsink_persist::{Damage, DataFile, Error as ShardError, Frontier, Pinned, Schema, Unfit};

use super::Mark;
use super::task::{Share, Task};
use crate::bounds::{Data, Diff, Timestamp};
use crate::error::Error;

/// How the rows of a file count that is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condemned {
    /// As if it were removed already, on every worker.
    Absent,
    /// As there, as far as they fit, until it is removed.
    Counted,
}

/// Why a file is to be removed.
#[derive(Debug)]
pub(super) enum Cause {
    /// A sink has written it, and the types cannot hold some of its rows.
    Unfit(Unfit),
    /// Another program has written it, with rows that no sink would have stored like that.
    Inexact(Unfit),
    /// It is missing, or not what the log says.
    Damage(String),
}

impl Cause {
    fn condemned(&self) -> Condemned {
        match self {
            Cause::Unfit(_) => Condemned::Counted,
            Cause::Inexact(_) | Cause::Damage(_) => Condemned::Absent,
        }
    }

    /// True if none of its rows is counted.
    pub(super) fn is_absent(&self) -> bool {
        self.condemned() == Condemned::Absent
    }
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Task<D, E, T, R> {
    /// The table's schema if rows of the file count only where all of them are what a sink would store: every worker
    /// reads all of it, and so finds the same. What a sink says of its file's rows some workers trust unread; and a sink of
    /// a type with more columns stores rows that are right, and not what this one would store.
    pub(super) fn exactly(&self, file: &DataFile) -> Option<Arc<Schema>> {
        (self.share == Share::Buckets && file.summed().is_none()).then(|| self.shard.schema())
    }

    /// True if no row of the file counts, on any worker, since it is to be removed.
    pub(super) fn is_absent(&self, path: &str) -> bool {
        self.condemned(path, false) == Some(Condemned::Absent)
    }

    /// True if the next batch is to remove this file.
    pub(super) fn is_condemned(&self, path: &str) -> bool {
        self.condemned(path, false).is_some()
    }

    /// How a file is condemned, if it is; with `removed` it is so no more.
    pub(super) fn condemned(&self, path: &str, removed: bool) -> Option<Condemned> {
        let mut condemned = self
            .condemned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = self.shard.file_key(path);
        let found = condemned.get(&*key).map(|(_, how)| *how);
        if removed && let Some((path, _)) = condemned.remove(&*key) {
            self.mark(Mark::Gone(path));
        }
        found
    }

    /// Has the next batch remove a file, met in this version.
    pub(super) fn condemn(&self, path: &str, version: u64, cause: Cause) {
        let key = self.shard.file_key(path).into_owned();
        let before = self
            .condemned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, (path.to_owned(), cause.condemned()));
        if let Some((before, _)) = before {
            self.mark(Mark::Gone(before));
        }
        self.mark(Mark::Condemned(path.to_owned()));
        let instance = &self.worker.instance;
        if !instance.is_first_to_condemn(path, version) {
            return;
        }
        match cause {
            Cause::Unfit(unfit) | Cause::Inexact(unfit) => {
                instance.metrics.undecodable_files.add(1);
                instance.metrics.undecodable_rows.add(unfit.rows);
                tracing::warn!(
                    sink = %instance.name,
                    shard = self.shard.url(),
                    file = path,
                    version,
                    rows = unfit.rows,
                    why = unfit.why.as_deref().unwrap_or_default(),
                    "a file has rows that are none of the collection: the view removes it and adds back the others"
                );
            }
            Cause::Damage(why) => {
                instance.metrics.damaged_files.add(1);
                tracing::warn!(
                    sink = %instance.name,
                    shard = self.shard.url(),
                    file = path,
                    version,
                    why,
                    "a file is damaged or missing: the view removes it from the log and writes its rows again"
                );
            }
        }
    }

    /// Says which files the next batch is to remove, once all up to this upper was read.
    pub(super) fn report_condemned(&self, upper: Frontier<i64>) {
        let condemned = self
            .condemned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let files = condemned.values().map(|(path, _)| path.clone()).collect();
        let upper = upper.to_version();
        self.worker
            .instance
            .condemned(self.worker.index, files, upper);
    }

    /// Has the next batch remove those of these files, new in this version, that the store does not have as the log says.
    pub(super) async fn condemn_damaged(
        &self,
        pinned: &Pinned,
        new: &[Arc<DataFile>],
    ) -> Result<(), Error> {
        let new: BTreeSet<&str> = new.iter().map(|file| file.path.as_str()).collect();
        let look = || self.shard.damaged_files(pinned);
        for (file, damage) in self.worker.retry("look at the files", look).await? {
            if new.contains(file.path.as_str()) {
                let cause = Cause::Damage(damage.to_string());
                self.condemn(&file.path, pinned.progress.version, cause);
            }
        }
        Ok(())
    }

    /// The files of the version that the sink starts from which the store does not have as the log says, by their paths.
    pub(super) async fn damaged(
        &self,
        pinned: &Pinned,
    ) -> Result<&BTreeMap<String, Damage>, Error> {
        let look = || async {
            let look = || self.shard.damaged_files(pinned);
            let damaged = self.worker.retry("look at the files", look).await?;
            let by_path = damaged.into_iter();
            let by_path = by_path.map(|(file, damage)| (file.path.clone(), damage));
            Ok::<_, Error>(by_path.collect())
        };
        self.worker.instance.damaged.get_or_try_init(look).await
    }

    /// The error for a file that is not repaired.
    pub(super) fn damage(&self, path: &str, damage: Damage) -> Error {
        let path = format!("{}/{path}", self.shard.url());
        damage.into_error(path).into()
    }

    /// True if it is the live file that cannot be read, whoever reads it.
    pub(super) async fn is_damaged(&self, file: &DataFile, error: &Error) -> Result<bool, Error> {
        match error {
            Error::Shard(ShardError::Corrupt { .. } | ShardError::OutsideFile { .. }) => Ok(true),
            // A sink of a later version may have written it.
            Error::Shard(ShardError::UnsupportedFile { .. }) => Ok(file.summed().is_none()),
            Error::Shard(ShardError::MissingFile { .. }) => {
                // Who has removed it may have deleted it.
                let refresh = || self.shard.refresh();
                self.worker.retry("follow", refresh).await?;
                Ok(self.shard.has_live_file(&file.path))
            }
            _ => Ok(false),
        }
    }
}
