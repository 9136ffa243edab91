//! Opening: from what lies in the store to the state of a log, or the first entry of a new one.
//!
//! The newest checkpoint is found by `_last_checkpoint`; the entries after it are read one by one until one is
//! not there, and what lies beyond is listed ([`crate::beyond`]). The pointer is a hint and no more: if it is missing
//! or leads to no checkpoint that can be read, the whole log is listed, and the newest checkpoint that can be read is
//! taken, or the first entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use crate::acceptable::REQUIRED_PROPERTY;
use crate::client::{Moment, Open};
use crate::error::{Error, is_below_a_file};
use crate::frontier::Frontier;
use crate::log::action::{Commit, CommitId, CommitInfo, Format, Metadata, Protocol, Txn};
use crate::log::checkpoint::{self, LogFile, checkpoint_path, last_checkpoint_path};
use crate::log::state::{
    FORMAT, FORMAT_PROPERTY, INPUT_MODE, MODE_PROPERTY, REVIEWED, REVIEWED_FILES, SINCE, State,
    UPPER,
};
use crate::log::{entry_path, folder};
use crate::replay::{Evidence, Log};
use crate::schema::to_delta;
use crate::storage::{Occupied, OnRetry, Storage};

impl Storage {
    /// The log up to where the rest can be replayed from; `None` if there is no log. It is listed if the pointer to
    /// the newest checkpoint is not to be used, or is of no use.
    pub(crate) async fn load(
        &self,
        by_pointer: bool,
        on_retry: OnRetry<'_>,
    ) -> Result<Option<Log>, Error> {
        let hint = match by_pointer {
            true => self.last_checkpoint(on_retry).await?,
            false => None,
        };
        let Some(version) = hint else {
            return self.load_listed(None, None, on_retry).await;
        };
        // Whatever else the pointer says: what is found decides.
        let failed = match self.load_checkpoint(version, on_retry).await {
            Ok(log) if self.is_ahead_of_another(&log, on_retry).await? => Error::Corrupt {
                path: self.show(&checkpoint_path(version)),
                why: "it is of another table than the log's entries".into(),
            },
            Ok(log) => return Ok(Some(log)),
            Err(error) => error.into_unusable()?,
        };
        let mut loaded = self.load_listed(hint, Some(failed), on_retry).await?;
        if let Some(log) = &mut loaded {
            log.is_misled = true;
        }
        Ok(loaded)
    }

    /// The same by a listing, after the checkpoint `hint` has failed with this error.
    async fn load_listed(
        &self,
        hint: Option<u64>,
        mut failed: Option<Error>,
        on_retry: OnRetry<'_>,
    ) -> Result<Option<Log>, Error> {
        let files = self.list_log(on_retry).await?;
        let mut checkpoints: Vec<_> = files
            .iter()
            .filter_map(|file| match file {
                LogFile::Checkpoint(version) => Some(*version),
                _ => None,
            })
            .filter(|version| hint != Some(*version))
            .collect();
        checkpoints.sort_unstable();
        for version in checkpoints.into_iter().rev() {
            match self.load_checkpoint(version, on_retry).await {
                Ok(log) if self.is_ahead_of_another(&log, on_retry).await? => {
                    tracing::warn!(shard = %self.url, version, "ignoring a checkpoint of another table");
                }
                Ok(log) => return Ok(Some(log)),
                Err(error) => failed = Some(error.into_unusable()?),
            }
        }
        // A listing is no snapshot: it may have missed the first entry of a shard that was just being created, and
        // found a later one.
        if !files.is_empty() {
            match self.load_first_entry(on_retry).await {
                Err(Error::MissingFile { .. }) => {}
                loaded => return loaded.map(Some),
            }
        }
        let other = files.iter().rev().find_map(|file| match file {
            LogFile::OtherCheckpoint(version) => Some(*version),
            _ => None,
        });
        if let Some(version) = other {
            return Err(self.unsupported_checkpoint(version));
        }
        let entries = files.iter().filter_map(|file| match file {
            LogFile::Entry(version) => Some(*version),
            _ => None,
        });
        match (failed, entries.min()) {
            (None | Some(Error::MissingFile { .. }), Some(next)) if next > 0 => {
                Err(Error::LogGap {
                    url: self.url.to_string(),
                    first: 0,
                    last: next - 1,
                    next,
                })
            }
            (Some(error), _) => Err(error),
            (None, None) if files.is_empty() => {
                match self.exists(&last_checkpoint_path(), on_retry).await? {
                    false => Ok(None),
                    true => Err(self.without_beginning()),
                }
            }
            (None, _) => Err(self.without_beginning()),
        }
    }

    fn without_beginning(&self) -> Error {
        Error::Corrupt {
            path: self.show(&folder()),
            why: "its first entries are gone and there is no checkpoint".into(),
        }
    }

    pub(crate) fn unsupported_checkpoint(&self, version: u64) -> Error {
        Error::Unsupported {
            url: self.url.to_string(),
            why: format!(
                "its checkpoint of version {version} is in several parts or of the second form, \
                 and what lies before it in the log is gone; have the program that wrote it write a classic checkpoint, in \
                 one file (with `delta.checkpointPolicy` = `classic`)"
            ),
        }
    }

    /// The version that `_last_checkpoint` points to; it is only a hint, so a damaged one is as good as none.
    pub(crate) async fn last_checkpoint(
        &self,
        on_retry: OnRetry<'_>,
    ) -> Result<Option<u64>, Error> {
        let path = last_checkpoint_path();
        let Some(bytes) = self.get_retrying(&path, on_retry).await? else {
            return Ok(None);
        };
        let version = checkpoint::pointed_to(&bytes);
        if version.is_none() {
            tracing::warn!(path = %self.show(&path), "ignoring a damaged pointer to the checkpoint");
        }
        Ok(version)
    }

    pub(crate) async fn load_checkpoint(
        &self,
        version: u64,
        on_retry: OnRetry<'_>,
    ) -> Result<Log, CheckpointError> {
        let path = checkpoint_path(version);
        let shown = self.show(&path);
        let entry = entry_path(version);
        let (bytes, entry) = futures::join!(
            self.get_existing(&path, on_retry),
            self.get_retrying(&entry, on_retry)
        );
        let (bytes, entry) = (bytes?, entry?);
        let root = Arc::clone(&self.root);
        let evidence = entry.map_or(Evidence::Listing, |entry| Evidence::of_entry(&entry));
        let state = self
            .env
            .cpu
            .run(move || {
                if let Some(expected) = checkpoint::entry_hash(&bytes, &shown)?
                    && matches!(evidence, Evidence::Entry(found) if found != expected)
                {
                    return Err(CheckpointError::Unusable(Error::Corrupt {
                        path: shown,
                        why: "the log was cleaned up there, and another entry was put in its place"
                            .into(),
                    }));
                }
                let commit = match checkpoint::decode(bytes, root.url(), &shown) {
                    Err(form @ Error::Unsupported { .. }) => {
                        return Err(CheckpointError::Unusable(form));
                    }
                    decoded => decoded?,
                };
                Ok(State::first(&root, &shown, version, &commit)?)
            })
            .await??;
        Ok(Log::new(state, evidence))
    }

    /// True of a checkpoint whose entry is not there, where the log begins with an entry of another table, and none that
    /// may be of the checkpoint's follows it.
    pub(crate) async fn is_ahead_of_another(
        &self,
        log: &Log,
        on_retry: OnRetry<'_>,
    ) -> Result<bool, Error> {
        if log.tail().evidence != Evidence::Listing {
            return Ok(false);
        }
        match self.load_first_entry(on_retry).await {
            Ok(first) if first.state.metadata().id == log.state.metadata().id => Ok(false),
            // A creation that took long may have put one into a log that was cleaned up.
            Ok(_) => Ok(!self.is_followed(&log.state, on_retry).await?),
            Err(error @ Error::Shutdown) => Err(error),
            Err(_) => Ok(false),
        }
    }

    pub(crate) async fn load_first_entry(&self, on_retry: OnRetry<'_>) -> Result<Log, Error> {
        let bytes = self.get_existing(&entry_path(0), on_retry).await?;
        self.first_entry(&bytes)
    }

    fn first_entry(&self, bytes: &Bytes) -> Result<Log, Error> {
        let shown = self.show(&entry_path(0));
        let state = State::first(&self.root, &shown, 0, &Commit::parse(bytes, &shown)?)?;
        Ok(Log::new(state, Evidence::of_entry(bytes)))
    }

    pub(crate) async fn list_log(&self, on_retry: OnRetry<'_>) -> Result<Vec<LogFile>, Error> {
        let name = |object: ObjectMeta| LogFile::from_name(object.location.filename()?);
        self.list_log_as(name, on_retry).await
    }

    /// What the objects of the log's folder are taken for, tried until the store answers.
    pub(crate) async fn list_log_as<T>(
        &self,
        of: impl Fn(ObjectMeta) -> Option<T>,
        on_retry: OnRetry<'_>,
    ) -> Result<Vec<T>, Error> {
        let of = &of;
        self.retry(on_retry, || async move {
            let listed: Result<Vec<_>, _> = self
                .store
                .list(Some(&folder()))
                .try_filter_map(|object| async move { Ok(of(object)) })
                .try_collect()
                .await;
            match listed {
                // A file has no log below it.
                Err(error) if is_below_a_file(&error) => Ok(Vec::new()),
                listed => listed.map_err(|source| self.error("list", &folder(), source)),
            }
        })
        .await
    }

    /// Puts the first entry of a new shard, or finds that somebody else just did. There was none at `looked`.
    pub(crate) async fn create(
        &self,
        open: &Open,
        looked: Moment,
        on_retry: OnRetry<'_>,
    ) -> Result<Log, Error> {
        let unsupported = |why| Error::Unsupported {
            url: self.url.to_string(),
            why,
        };
        let columns = to_delta(&open.schema).map_err(unsupported)?;
        let now = self.env.now_ms();
        let mut configuration: BTreeMap<_, _> = open
            .properties
            .iter()
            .map(|(name, value)| (name.clone(), Some(value.clone())))
            .collect();
        configuration.insert(FORMAT_PROPERTY.into(), Some(FORMAT.to_string()));
        if open.input {
            configuration.insert(MODE_PROPERTY.into(), Some(INPUT_MODE.into()));
        }
        if let Some(required) = open.required.to_property() {
            configuration.insert(REQUIRED_PROPERTY.into(), Some(required));
        }
        let id = CommitId {
            nonce: self.env.random_u128(),
            seq: 0,
        };
        let txn = |app_id: &str, frontier: Frontier<i64>| Txn {
            app_id: app_id.into(),
            version: frontier.to_version(),
            last_updated: Some(now),
        };
        let commit = Commit {
            info: Some(CommitInfo {
                operation: "CREATE TABLE".into(),
                id: Some(id),
                ..self.commit_info()
            }),
            protocol: Some(Protocol {
                min_reader_version: 1,
                min_writer_version: 2,
                ..Protocol::default()
            }),
            metadata: Some(Metadata {
                id: self.env.uuid(),
                format: Format {
                    provider: "parquet".into(),
                    options: BTreeMap::new(),
                },
                schema_string: columns,
                created_time: Some(now),
                configuration,
                ..Metadata::default()
            }),
            txns: vec![
                txn(UPPER, Frontier::At(0)),
                txn(SINCE, open.since),
                // Nobody has edited anything, and there are no files, whose hash is 0.
                txn(REVIEWED, Frontier::At(0)),
                txn(REVIEWED_FILES, Frontier::At(0)),
            ],
            ..Commit::default()
        };
        // Checked before it is written: what would be refused must not be created.
        let path = self.show(&entry_path(0));
        State::first(&self.root, &path, 0, &commit)?;
        let body = commit.to_bytes();
        let started = self.env.moment();
        self.create_folders(on_retry).await?;
        let mut uncertain = false;
        let occupied = self.occupy(0, &body, None, None, &mut uncertain, on_retry);
        match occupied.await? {
            Occupied::Now => {
                let mut log = self.first_entry(&body)?;
                log.confirm(started);
                if self.env.since(looked) < self.env.options.log_min_age / 4 {
                    return Ok(log);
                }
                self.check_created(log, on_retry).await
            }
            Occupied::By(bytes) => self.first_entry(&bytes),
            // It follows no entry.
            Occupied::Unfounded => Err(Error::Shutdown),
        }
    }

    /// The shard there is, after a creation that took so long that somebody else may have created it, and cleaned up
    /// its log beyond the first entry.
    async fn check_created(&self, created: Log, on_retry: OnRetry<'_>) -> Result<Log, Error> {
        let Some(found) = self.replay(on_retry).await? else {
            return Ok(created);
        };
        if found.state.metadata().id != created.state.metadata().id
            && let Err(error) = self.delete(&entry_path(0)).await
        {
            tracing::debug!(%error, "an entry that nobody reads is left to the next clean-up");
        }
        Ok(found)
    }

    /// The parts of `commitInfo` that are the same for every commit.
    pub(crate) fn commit_info(&self) -> CommitInfo {
        CommitInfo {
            timestamp: self.env.now_ms().into(),
            operation_parameters: serde_json::json!({}),
            engine_info: concat!("mvsink/", env!("CARGO_PKG_VERSION")).into(),
            ..CommitInfo::default()
        }
    }
}

/// Why a checkpoint cannot be used.
pub(crate) enum CheckpointError {
    /// It is missing, damaged or of a form that is not read: another one may serve instead.
    Unusable(Error),
    /// What it says is refused, or the store fails.
    Fatal(Error),
}

impl From<Error> for CheckpointError {
    fn from(error: Error) -> Self {
        match error {
            Error::Corrupt { .. } | Error::MissingFile { .. } => CheckpointError::Unusable(error),
            error => CheckpointError::Fatal(error),
        }
    }
}

impl CheckpointError {
    /// The error, if another checkpoint may serve instead.
    pub(crate) fn into_unusable(self) -> Result<Error, Error> {
        match self {
            CheckpointError::Unusable(error) => {
                tracing::warn!(%error, "a checkpoint cannot be read, looking for another");
                Ok(error)
            }
            CheckpointError::Fatal(error) => Err(error),
        }
    }
}
