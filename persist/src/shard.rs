//! The handle to one shard: its progress, its log entries, its files.
//!
//! In memory a shard is the state of its log at the last version known, and a bounded ring of the entries that
//! led there. Both only move forward, one entry at a time, under one lock ([`Inner::apply`]): whoever learns of
//! an entry first (the follower, a committer, a refresh) applies it, and all watchers see it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::client::Open;
use crate::damage;
use crate::error::Error;
use crate::evolve::mismatch;
use crate::history::Attempts;
use crate::lock;
use crate::log::action::Commit;
use crate::log::state::{Entry, Progress, State};
use crate::pinned::{FileSet, Pinned, Pins};
use crate::replay::{Evidence, Log, Tail};
use crate::schema::{check_order, check_schema};
use crate::staging::{Staging, StagingScope};
use crate::storage::{OnRetry, Storage};
use crate::upkeep::Upkeep;

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
    pub(crate) log: Mutex<Log>,
    pub(crate) known: watch::Sender<Known>,
    pub(crate) follower: Mutex<Option<AbortHandle>>,
    pub(crate) nudge: Notify,
    pub(crate) upkeep: Upkeep,
    /// Held by the one task of this process that maintains the shard.
    pub(crate) maintaining: tokio::sync::Mutex<()>,
    pub(crate) pins: Arc<Pins>,
    pub(crate) attempts: Attempts,
    pub(crate) staging: Arc<Staging>,
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
    pub(crate) async fn open(
        storage: Storage,
        open: Option<&Open>,
        on_retry: OnRetry<'_>,
    ) -> Result<Self, Error> {
        let started = storage.env.moment();
        let log = match (storage.replay(on_retry).await?, open) {
            (Some(log), _) => log,
            (None, Some(open)) => storage.create(open, started, on_retry).await?,
            (None, None) => {
                return Err(Error::NoShard {
                    url: storage.url.to_string(),
                });
            }
        };
        let (known, _) = watch::channel(Known {
            progress: log.state.progress(),
            failure: None,
        });
        let unknown = log.tail().confirmed.is_none();
        let inner = Inner {
            storage,
            log: Mutex::new(log),
            known,
            follower: Mutex::default(),
            nudge: Notify::new(),
            upkeep: Upkeep::default(),
            pins: Arc::default(),
            attempts: Attempts::default(),
            staging: Arc::default(),
            maintaining: tokio::sync::Mutex::default(),
        };
        if unknown {
            // A rival created it at the same moment.
            inner.catch_up(on_retry).await?;
        }
        Ok(Owner {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    /// As the watchers know it. The log may be locked for long, while a large entry is built of it: who only asks how far
    /// it is does not wait for that.
    pub(crate) fn progress(&self) -> Progress {
        self.known.borrow().progress
    }

    pub(crate) fn tail(&self) -> Tail {
        lock(&self.log).tail()
    }

    /// Looks at the state, which stays locked meanwhile: `look` must be short.
    pub(crate) fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.log).state)
    }

    /// Applies entry `version` unless it is known already, and tells the watchers.
    pub(crate) fn apply(
        &self,
        version: u64,
        commit: &Commit,
        evidence: Evidence,
    ) -> Result<(), Error> {
        let mut log = lock(&self.log);
        let next = log.state.version + 1;
        assert!(version <= next, "entries are read in order");
        if version < next {
            return Ok(());
        }
        log.apply(&self.storage, commit, evidence)?;
        // Under the lock, so that watchers see versions in order.
        self.tell(&log);
        Ok(())
    }

    pub(crate) fn tell(&self, log: &Log) {
        let progress = log.state.progress();
        self.known.send_modify(|known| known.progress = progress);
    }

    /// Compares with what is asked for.
    fn check(&self, open: &Open) -> Result<(), Error> {
        let url = || self.storage.url.to_string();
        let log = lock(&self.log);
        let table = log.state.schema();
        let fits = |schema: &Schema| {
            check_schema(&table, schema).and_then(|()| check_order(&table, schema))
        };
        fits(&open.schema)
            .or_else(|why| match &open.former {
                Some(former) => fits(&former.schema).map_err(|_| why),
                None => Err(why),
            })
            .map_err(|why| mismatch(&url(), &why))?;
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
}

/// A handle to an open shard. Cheap to clone; the shard closes with the last one (and its [`Watcher`]s).
///
/// [`Watcher`]: crate::Watcher
#[derive(Clone)]
pub struct Shard {
    pub(crate) owner: Arc<Owner>,
    pub(crate) staged: Arc<StagingScope>,
}

impl From<Arc<Owner>> for Shard {
    fn from(owner: Arc<Owner>) -> Self {
        let staged = Arc::new(owner.inner.staging.scope());
        Shard { owner, staged }
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

    /// How far the shard is, as far as this process knows. It waits for nothing.
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
    /// these do not change them. As long as the result or a clone of it lives, no garbage collection of this process
    /// deletes them.
    pub fn pin(&self) -> Pinned {
        let inner = self.inner();
        inner.with_state(|state| inner.pins.pin(&inner.storage.url, state))
    }

    /// The live files at the last version known, as [`Shard::pin`] has them, without keeping them.
    pub fn file_set(&self) -> FileSet {
        self.inner().with_state(FileSet::of)
    }

    /// The version in which another program last edited the data, as far as this process knows, until the since has
    /// come to where the upper was then: earlier contents are not what they were. An edit that this process did not see,
    /// because a checkpoint covers it, is known by what the last commit of a sink says in the log. An entry that says it
    /// changes no data counts once [`Shard::check_rewrites`] has looked at it.
    pub fn edited(&self) -> Option<u64> {
        let edit = self.inner().with_state(State::edited);
        edit.map(|edit| edit.version)
    }

    /// True if the log, as far as it is known here, refers to this file: it is live, or was removed and is remembered.
    /// What is staged and known to nobody is its owner's to delete.
    pub fn knows_file(&self, path: &str) -> bool {
        self.inner()
            .with_state(|state| state.is_live(path) || state.is_removed(path))
    }

    /// The log entry `version`; waits until it exists. Recent ones are in memory, older ones are read again.
    ///
    /// Dropping the future is safe at any time.
    ///
    /// # Errors
    /// [`Error::EntryGone`] if it was cleaned up; otherwise as [`Shard::refresh`].
    pub async fn entry(&self, version: u64) -> Result<Arc<Entry>, Error> {
        let inner = self.inner();
        if inner.progress().version < version {
            let mut watcher = self.watch();
            while watcher.progress().version < version {
                watcher.changed().await?;
            }
        }
        inner.entry(version).await
    }

    /// What tells files apart: all spellings of a file's path in the log (`a%20b`, `./a b`, absolute ones) have one key.
    pub fn file_key<'p>(&self, path: &'p str) -> Cow<'p, str> {
        self.inner().storage.root.key(path)
    }

    /// True if the log, as far as it is known here, says that this data file is part of the table.
    pub fn has_live_file(&self, path: &str) -> bool {
        self.inner().with_state(|state| state.is_live(path))
    }

    /// The bytes of a data file, by its path in the log; one attempt.
    ///
    /// # Errors
    /// [`Error::MissingFile`] if it is not there, [`Error::Corrupt`] if it is live and of another size than the log
    /// says, [`Error::OutsideFile`] or [`Error::Unsupported`] if it does not lie among the table's data files, and the log
    /// names it or not, or the store's.
    pub async fn read_file(&self, path: &str) -> Result<Bytes, Error> {
        let storage = &self.inner().storage;
        let shown = || format!("{}/{path}", storage.url);
        let location = storage.data_location(path).map_err(|error| {
            if self.knows_file(path) {
                return error;
            }
            Error::Unsupported {
                url: self.url().to_owned(),
                why: format!("{path} lies outside of it"),
            }
        })?;
        let Some(bytes) = storage.get(&location).await? else {
            // With the table its files are gone.
            self.inner().check_table(&Storage::warn_of_retry).await?;
            return Err(Error::MissingFile { path: shown() });
        };
        let live = self.inner().with_state(|state| state.file(path).cloned());
        match live.and_then(|file| damage::differs(&file, bytes.len() as u64)) {
            None => Ok(bytes),
            Some(damage) => Err(damage.into_error(shown())),
        }
    }

    /// Writes a checkpoint now, and returns its version. Commits do this by themselves every so often, and clean
    /// up the log after it.
    ///
    /// # Errors
    /// If the store fails; the shard is as good as before.
    pub async fn checkpoint(&self) -> Result<u64, Error> {
        self.inner().checkpoint().await
    }
}
