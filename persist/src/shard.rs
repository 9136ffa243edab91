//! The handle to one shard: its progress, its log entries, its files.
//!
//! In memory a shard is the state of its log at the last version known, and a bounded ring of the entries that
//! led there. Both only move forward, one entry at a time, under one lock ([`Inner::apply`]): whoever learns of
//! an entry first (the follower, a committer, a refresh) applies it, and all watchers see it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tracing::Instrument;

use crate::client::Open;
use crate::data_file::{DataFile, FileMeta, StagedFile};
use crate::error::Error;
use crate::frontier::Frontier;
use crate::lock;
use crate::log::action::{Commit, CommitId};
use crate::log::checkpoint::{self, LastCheckpoint, checkpoint_path, last_checkpoint_path};
use crate::log::entry_path;
use crate::log::state::{Entry, Files, Progress, State, UPPER, is_foreign};
use crate::schema::{check_order, check_schema};
use crate::storage::{OnRetry, Storage};
use crate::sums::Sums;

/// Log entries read at once when there are many to read.
const READ_AHEAD_MAX: u64 = 32;
/// Log entries above this size are parsed on the pool.
const PARSE_INLINE_BYTES_MAX: usize = 256 * 1024;
/// Files that the ring of recent entries may refer to.
const RECENT_FILES_MAX: usize = 64 * 1024;
/// Old tombstones leave memory every so many versions.
const FORGET_INTERVAL: u64 = 256;
/// How long removed files are remembered: Delta's default for `delta.deletedFileRetentionDuration`.
const TOMBSTONE_RETENTION_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// What watchers of a shard are told.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) progress: Progress,
    /// Why the follower stopped.
    pub(crate) failure: Option<Arc<Error>>,
}

/// A shard in memory.
pub(crate) struct Inner {
    pub(crate) storage: Storage,
    log: Mutex<Log>,
    pub(crate) known: watch::Sender<Known>,
    pub(crate) follower: Mutex<Option<AbortHandle>>,
    pub(crate) nudge: Notify,
    checkpointing: AtomicBool,
}

struct Log {
    state: State,
    /// The last entries, without gaps, ending at the state's version.
    recent: VecDeque<Arc<Entry>>,
    recent_files: usize,
}

/// Keeps a shard open: the follower ends with it.
pub(crate) struct Owner {
    pub(crate) inner: Arc<Inner>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(follower) = lock(&self.inner.follower).take() {
            follower.abort();
        }
    }
}

impl Owner {
    /// Opens the shard as it is, or creates it if `open` says how.
    pub(crate) async fn open(storage: Storage, open: Option<&Open>) -> Result<Self, Error> {
        let state = match (storage.load().await?, open) {
            (Some(state), _) => state,
            (None, Some(open)) => storage.create(open).await?,
            (None, None) => {
                return Err(Error::NoShard {
                    url: storage.url.to_string(),
                });
            }
        };
        let (known, _) = watch::channel(Known {
            progress: state.progress(),
            failure: None,
        });
        let inner = Inner {
            storage,
            log: Mutex::new(Log {
                state,
                recent: VecDeque::new(),
                recent_files: 0,
            }),
            known,
            follower: Mutex::default(),
            nudge: Notify::new(),
            checkpointing: AtomicBool::new(false),
        };
        inner.catch_up(&Storage::warn_of_retry).await?;
        Ok(Owner {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    pub(crate) fn progress(&self) -> Progress {
        lock(&self.log).state.progress()
    }

    /// Looks at the state, which stays locked meanwhile: `look` must be short.
    pub(crate) fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.log).state)
    }

    /// The version of the entry with this identity, if it took the shard on from `lower`. Entries that have left
    /// memory are read again, back to the one that did; if they were cleaned up, it is taken for another's.
    pub(crate) async fn find_append(
        &self,
        id: CommitId,
        lower: Frontier<i64>,
    ) -> Result<Option<u64>, Error> {
        let oldest = {
            let log = lock(&self.log);
            for entry in log.recent.iter().rev() {
                if entry.id == Some(id) {
                    return Ok(Some(entry.version));
                }
                if entry.lower <= lower && lower < entry.upper {
                    return Ok(None);
                }
            }
            let oldest = log.recent.front().map(|entry| (entry.version, entry.lower));
            let progress = log.state.progress();
            oldest.unwrap_or((progress.version + 1, progress.upper))
        };
        let (mut version, mut upper) = oldest;
        while lower < upper && version > 0 {
            version -= 1;
            let commit = match self.read_commit(version).await {
                Ok(commit) => commit,
                Err(Error::MissingFile { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let info = commit.info.as_ref();
            if info.and_then(|info| info.id) == Some(id) {
                return Ok(Some(version));
            }
            // Uppers only grow: what starts at or below ends the search.
            if let Some(found) = info.and_then(|info| info.lower) {
                upper = Frontier::from_version(found);
            }
        }
        Ok(None)
    }

    /// Applies entry `version` unless it is known already, and tells the watchers.
    pub(crate) fn apply(&self, version: u64, commit: &Commit) -> Result<(), Error> {
        let mut log = lock(&self.log);
        let next = log.state.version + 1;
        assert!(version <= next, "entries are read in order");
        if version < next {
            return Ok(());
        }
        let entry = Arc::new(log.state.apply(&self.storage.url, commit)?);
        if version.is_multiple_of(FORGET_INTERVAL) {
            let oldest_ms = self.oldest_tombstone_ms();
            log.state.forget_removed(oldest_ms);
        }
        log.recent_files += entry.adds.len();
        log.recent.push_back(entry);
        while log.recent.len() > 1
            && (log.recent.len() > self.storage.env.options.recent_entries
                || log.recent_files > RECENT_FILES_MAX)
        {
            log.recent_files -= log.recent.pop_front().map_or(0, |entry| entry.adds.len());
        }
        // Under the lock, so that watchers see versions in order.
        let progress = log.state.progress();
        self.known.send_modify(|known| known.progress = progress);
        Ok(())
    }

    /// Parses a log entry, where it does not hold up other tasks.
    pub(crate) async fn parse(&self, version: u64, bytes: Bytes) -> Result<Commit, Error> {
        let path = self.storage.show(&entry_path(version));
        if bytes.len() <= PARSE_INLINE_BYTES_MAX {
            return Commit::parse(&bytes, &path);
        }
        self.storage
            .env
            .cpu
            .run(move || Commit::parse(&bytes, &path))
            .await?
    }

    /// Reads the log to its end. More entries are read at once the more there are.
    pub(crate) async fn catch_up(&self, on_retry: OnRetry<'_>) -> Result<Progress, Error> {
        let mut ahead = 1;
        loop {
            let next = self.progress().version + 1;
            let reads = (next..next + ahead).map(|version| async move {
                let entry = self
                    .storage
                    .get_retrying(&entry_path(version), on_retry)
                    .await;
                (version, entry)
            });
            for (version, bytes) in join_all(reads).await {
                match bytes? {
                    Some(bytes) => self.apply(version, &self.parse(version, bytes).await?)?,
                    None => return Ok(self.progress()),
                }
            }
            ahead = (ahead * 2).min(READ_AHEAD_MAX);
        }
    }

    /// Compares with what is asked for.
    fn check(&self, open: &Open) -> Result<(), Error> {
        let url = || self.storage.url.to_string();
        let log = lock(&self.log);
        let table = log.state.schema();
        check_schema(&table, &open.schema)
            .and_then(|()| check_order(&table, &open.schema))
            .map_err(|why| Error::SchemaMismatch { url: url(), why })?;
        for (name, value) in &open.properties {
            let found = log
                .state
                .metadata()
                .configuration
                .get(name)
                .cloned()
                .flatten();
            if found.as_ref() != Some(value) {
                return Err(Error::PropertyMismatch {
                    url: url(),
                    name: name.clone(),
                    expected: value.clone(),
                    found,
                });
            }
        }
        Ok(())
    }

    fn oldest_tombstone_ms(&self) -> i64 {
        let now_ms = self.storage.env.now_ms();
        now_ms.saturating_sub(TOMBSTONE_RETENTION_MS)
    }

    /// Writes a checkpoint of the state as it is now, and points to it.
    async fn checkpoint(&self) -> Result<u64, Error> {
        let storage = &self.storage;
        let state = self.with_state(State::clone);
        let version = state.version;
        let oldest_ms = self.oldest_tombstone_ms();
        let encode = move || {
            let actions = state.to_actions(oldest_ms);
            let size = actions.len() as u64;
            checkpoint::encode(&actions).map(|bytes| (size, bytes))
        };
        let path = checkpoint_path(version);
        let (size, bytes) = storage
            .env
            .cpu
            .run(encode)
            .await?
            .map_err(|why| Error::Corrupt {
                path: storage.show(&path),
                why,
            })?;
        storage.put(&path, bytes).await?;
        // Never point back: another process may have been faster with a newer one.
        let newer = storage
            .last_checkpoint()
            .await?
            .is_some_and(|last| last.version >= version);
        if !newer {
            let last = LastCheckpoint {
                version,
                size,
                parts: None,
                v2_checkpoint: None,
            };
            let bytes = serde_json::to_vec(&last).unwrap_or_default();
            storage.put(&last_checkpoint_path(), bytes.into()).await?;
        }
        tracing::debug!(shard = %storage.url, version, actions = size, "wrote a checkpoint");
        Ok(version)
    }

    /// After a commit of this process: starts a checkpoint if one is due. It is one attempt and ends by itself;
    /// that it failed is only worth a warning, since the next one replaces it.
    pub(crate) fn checkpoint_if_due(self: &Arc<Self>, version: u64) {
        let interval = self.storage.env.options.checkpoint_interval;
        if interval == 0
            || !version.is_multiple_of(interval)
            || self.checkpointing.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let running = Checkpointing(Arc::clone(self));
        let span = tracing::debug_span!("checkpoint", shard = %self.storage.url, version);
        let task = async move {
            let inner = &running.0;
            if let Err(error) = inner.checkpoint().await {
                tracing::warn!(shard = %inner.storage.url, %error, "could not write a checkpoint");
            }
        };
        self.storage.env.handle.spawn(task.instrument(span));
    }

    fn recent(&self, version: u64) -> Option<Arc<Entry>> {
        let log = lock(&self.log);
        let first = log.recent.front()?.version;
        let index = usize::try_from(version.checked_sub(first)?).ok()?;
        log.recent.get(index).cloned()
    }

    /// Reads a known entry that has left the ring. Its lower is the upper that the entries before it left.
    async fn read_entry(&self, version: u64) -> Result<Entry, Error> {
        let commit = self.read_commit(version).await?;
        let mut upper_after = upper_of(&commit);
        let mut lower = match &commit.info {
            Some(info) if info.id.is_some() => info.lower.map(Frontier::from_version),
            _ => None,
        };
        let mut before = version;
        while lower.is_none() {
            match before.checked_sub(1) {
                Some(earlier) => before = earlier,
                None => lower = Some(Frontier::At(0)),
            }
            if lower.is_none() {
                lower = upper_of(&self.read_commit(before).await?);
            }
        }
        let lower = lower.unwrap_or(Frontier::At(0));
        Ok(Entry {
            version,
            id: commit.info.as_ref().and_then(|info| info.id),
            lower,
            upper: *upper_after.get_or_insert(lower),
            adds: commit
                .adds
                .iter()
                .filter(|add| add.data_change)
                .map(|add| Arc::new(DataFile::from_add(add)))
                .collect(),
            foreign: is_foreign(&commit),
        })
    }

    async fn read_commit(&self, version: u64) -> Result<Commit, Error> {
        let bytes = self.storage.get_existing(&entry_path(version)).await?;
        self.parse(version, bytes).await
    }
}

/// A checkpoint under way; another may start when this one is dropped, however it ended.
struct Checkpointing(Arc<Inner>);

impl Drop for Checkpointing {
    fn drop(&mut self) {
        self.0.checkpointing.store(false, Ordering::Release);
    }
}

fn upper_of(commit: &Commit) -> Option<Frontier<i64>> {
    let txn = commit.txns.iter().rev().find(|txn| txn.app_id == UPPER)?;
    Some(Frontier::from_version(txn.version))
}

/// A shard at one version: what a reader of a snapshot holds on to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pinned {
    /// How far the shard was.
    pub progress: Progress,
    files: Files,
}

impl Pinned {
    /// The files whose rows add up to the collection, in the order of their paths.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Arc<DataFile>> {
        let mut files: Vec<_> = self.files.values().collect();
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        files.into_iter()
    }

    /// The sums of fingerprints of the files that have any, and the number of files that have none: of another
    /// program, or of another version of the format. Without those they are the sums of the collection, at every
    /// time from the since on that is at or beyond all times in it.
    pub fn sums(&self) -> (Sums, usize) {
        let mut sums = Sums::default();
        let mut without = 0;
        for file in self.files.values() {
            match &file.sums {
                Some(of_file) => sums.merge(of_file),
                None => without += 1,
            }
        }
        (sums, without)
    }
}

/// A handle to an open shard. Cheap to clone; the shard closes with the last one (and its [`Watcher`]s).
///
/// [`Watcher`]: crate::Watcher
#[derive(Clone)]
pub struct Shard {
    pub(crate) owner: Arc<Owner>,
}

impl From<Arc<Owner>> for Shard {
    fn from(owner: Arc<Owner>) -> Self {
        Shard { owner }
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("url", &self.url())
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

impl Shard {
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.owner.inner
    }

    pub(crate) fn check(&self, open: &Open) -> Result<(), Error> {
        self.inner().check(open)
    }

    /// The address that the shard was first opened with.
    pub fn url(&self) -> &str {
        &self.inner().storage.url
    }

    /// The table's columns in their plainest Arrow types, all nullable.
    pub fn schema(&self) -> SchemaRef {
        self.inner().with_state(State::schema)
    }

    /// The table properties.
    pub fn properties(&self) -> BTreeMap<String, String> {
        self.inner().with_state(|state| {
            let properties = state.metadata().configuration.iter();
            properties
                .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
                .collect()
        })
    }

    /// How far the shard is, as far as this process knows.
    pub fn progress(&self) -> Progress {
        self.inner().progress()
    }

    /// Reads the log to its end, and returns how far the shard is. Errors that may pass are retried for ever, with
    /// a warning each.
    ///
    /// # Errors
    /// Permanent ones: the log is damaged or not understood, or cannot be read for good.
    pub async fn refresh(&self) -> Result<Progress, Error> {
        self.inner().catch_up(&Storage::warn_of_retry).await
    }

    /// The live files at the last version known. Cheap: they are shared with the versions that follow, as far as
    /// these do not change them.
    pub fn pin(&self) -> Pinned {
        self.inner().with_state(|state| Pinned {
            progress: state.progress(),
            files: state.files(),
        })
    }

    /// The log entry `version`; waits until it exists. Recent ones are in memory, older ones are read again.
    ///
    /// Dropping the future is safe at any time.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if it was cleaned up; otherwise as [`Shard::refresh`].
    pub async fn entry(&self, version: u64) -> Result<Arc<Entry>, Error> {
        let inner = self.inner();
        if inner.progress().version < version {
            let mut watcher = self.watch();
            while watcher.progress().version < version {
                watcher.changed().await?;
            }
        }
        match inner.recent(version) {
            Some(entry) => Ok(entry),
            None => inner.read_entry(version).await.map(Arc::new),
        }
    }

    /// Writes a data file under a fresh name. No commit refers to it yet: the result goes to [`Shard::append`] or
    /// to [`Shard::delete_files`].
    ///
    /// Errors that may pass are told to `on_retry` and followed by another attempt, for ever. All attempts write
    /// the same bytes under the same name, so one that seemed to fail leaves nothing behind.
    ///
    /// # Errors
    /// Permanent ones of the store. What may have been written is deleted if the store lets us.
    pub async fn put_file(
        &self,
        bytes: Bytes,
        meta: FileMeta,
        on_retry: OnRetry<'_>,
    ) -> Result<StagedFile, Error> {
        let storage = &self.inner().storage;
        let path = Path::from(format!("{}.parquet", storage.env.uuid()));
        let size = bytes.len() as u64;
        let put = || storage.put(&path, bytes.clone());
        if let Err(error) = storage.retry(on_retry, put).await {
            // The name was given to nobody, so nothing can come to refer to it.
            if let Err(left) = storage.delete(&path).await {
                tracing::debug!(error = %left, "a file that failed to be staged may be left behind");
            }
            return Err(error);
        }
        Ok(StagedFile {
            path: path.to_string(),
            size,
            meta,
            staged_ms: storage.env.now_ms(),
        })
    }

    /// The bytes of a data file, by its path in the log; one attempt.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if it is not there, or the store's.
    pub async fn read_file(&self, path: &str) -> Result<Bytes, Error> {
        let storage = &self.inner().storage;
        let shown = || format!("{}/{path}", storage.url);
        if path.contains("://") || path.starts_with('/') {
            return Err(Error::Unsupported {
                url: storage.url.to_string(),
                why: format!("{path} lies outside of it"),
            });
        }
        // Paths in the log are percent-encoded.
        let location = Path::from_url_path(path).map_err(|error| Error::Corrupt {
            path: shown(),
            why: error.to_string(),
        })?;
        storage
            .get(&location)
            .await?
            .ok_or_else(|| Error::MissingFile { path: shown() })
    }

    /// Deletes staged files that were not committed. The log is read to its end first, and a file that it refers
    /// to is left alone and reported to `tracing`: deleting it would be a bug of the caller's.
    ///
    /// The caller must know that no commit of these files is still under way anywhere: an [`Shard::append`] that
    /// has returned, whatever it returned, is not.
    ///
    /// # Errors
    /// If the log cannot be read, or the store fails to delete: deleting again is safe.
    pub async fn delete_files(&self, files: &[StagedFile]) -> Result<(), Error> {
        if files.is_empty() {
            return Ok(());
        }
        self.refresh().await?;
        let inner = self.inner();
        let deletes = files.iter().map(|file| async move {
            let path = file.path.as_str();
            if inner.with_state(|state| state.is_live(path) || state.is_removed(path)) {
                tracing::error!(shard = %inner.storage.url, path, "not deleting a file that the log refers to");
                return Ok(());
            }
            inner.storage.delete(&Path::from(path)).await
        });
        join_all(deletes).await.into_iter().collect()
    }

    /// Writes a checkpoint now, and returns its version. Commits do this by themselves every so often.
    ///
    /// # Errors
    /// If the store fails; the shard is as good as before.
    pub async fn checkpoint(&self) -> Result<u64, Error> {
        self.inner().checkpoint().await
    }
}
