//! Commits on a local disk with as few waits for it as can be.
//!
//! ```text
//!   a file:      create, write ─┬─> sync it ──────────────┐
//!                               └─> sync its directory ───┤
//!   its entry, as `name#1`:  create, write, sync ─────────┴──> link `name#1` to `name` if that is absent, sync the log's
//! ```
//!
//! So a commit with a file takes two waits, one after the other, where a local store alone takes four.
//!
//! A file's name is new, and known to nobody before it is whole: it needs no other name meanwhile. An entry's name while
//! it is prepared is that which the local store would give it, and its listings do not show. What a process that is killed
//! leaves of either is swept as what it would have left without this ([`crate::gc`]).
//!
//! Invariants, by name:
//!
//! - *no directory anew*: the directories of a table are made when the table is, and by nothing else. Where they were
//!   moved or deleted, every write fails ([`Error::Replaced`]).
//! - *an entry follows its predecessor*: an entry is linked only where the entry before it, by its hash, lies in the same
//!   directory, and `name#1` lies there still. So nothing is put into an older copy, or into a new table of the same name.
//! - *known is durable*: an entry that is found in the log is applied after a sync of the log's directory that began after
//!   it was found, whichever process linked it and whatever became of the sync that followed: that process may have been
//!   killed in between.

mod regular;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use object_store::Error as StoreError;
use object_store::path::Path as ObjectPath;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::log::checkpoint::{checkpoint_path, last_checkpoint_path};
use crate::log::{entry_path, folder as log_folder};
use crate::replay::{Evidence, Tail};
use crate::storage::{OnRetry, Storage, no_folder};

pub(crate) use regular::{RegularFiles, is_refused};

/// As the local store calls itself in errors.
const STORE: &str = "LocalFileSystem";
/// What earlier processes left has the first names.
const NAMES_MAX: u32 = 1000;

/// An entry that is safe on the disk, and not in the log. It goes when this is dropped.
pub(crate) struct Prepared {
    handle: Handle,
    folder: PathBuf,
    entry: PathBuf,
    fsync: bool,
    log_sync: Arc<LogSync>,
    /// `None` once it is somebody else's to delete.
    written: Option<PathBuf>,
}

/// The outcome of [`Prepared::publish`].
pub(crate) enum Published {
    /// It is in the log, safely.
    Linked,
    /// It is in the log, and a crash may take it out again: its directory could not be synced.
    Unsynced(StoreError),
    /// The entry before it is not what it was: nothing was put.
    Unfounded,
}

/// Makes the names of a log's entries safe on the disk.
#[derive(Debug, Default)]
pub(crate) struct LogSync {
    #[cfg(test)]
    script: tests::SyncScript,
}

impl LogSync {
    /// Syncs the directory that has `entry`.
    #[cfg_attr(not(test), allow(clippy::unused_self, reason = "tests count and fail"))]
    fn sync(&self, entry: &Path, fsync: bool) -> io::Result<()> {
        #[cfg(test)]
        self.script.next()?;
        sync_folder(entry, fsync)
    }
}

impl Storage {
    /// Creates the directories of a table that is about to be created. Nothing else does.
    pub(crate) async fn create_folders(&self, on_retry: OnRetry<'_>) -> Result<(), Error> {
        let Some(folder) = &self.local else {
            return Ok(());
        };
        let (folder, fsync) = (folder.join(log_folder().as_ref()), self.env.options.fsync);
        if let Some(other) = folder.ancestors().find_map(no_folder) {
            return Err(other);
        }
        let looked = folder.clone();
        // Looked for once: what an attempt has created and could not sync is there at the next one.
        let shown = log_folder();
        let looking = self.blocking(&shown, move || Ok(missing_folders(&looked)));
        let missing = looking.await?;
        let create = || {
            let (folder, missing) = (folder.clone(), missing.clone());
            let work = move || create_folders(&folder, &missing, |path| sync_folder(path, fsync));
            self.blocking(&shown, work)
        };
        match self.retry(on_retry, create).await {
            Err(Error::Replaced { .. }) => Err(Error::Url {
                url: self.url.to_string(),
                why: "no directory can be made there: give another address".into(),
            }),
            created => created,
        }
    }

    /// Waits until the names of all entries that have been found in the log are safe on the disk.
    ///
    /// # Errors
    /// Permanent ones of the store: they may not be.
    pub(crate) async fn settle_log(&self, on_retry: OnRetry<'_>) -> Result<(), Error> {
        let Some(folder) = self.local.as_ref().filter(|_| self.env.options.fsync) else {
            return Ok(());
        };
        let (entry, shown) = (folder.join(entry_path(0).as_ref()), log_folder());
        let sync = || {
            let (entry, log_sync) = (entry.clone(), Arc::clone(&self.log_sync));
            let work = move || match log_sync.sync(&entry, true) {
                Err(error) if cannot_sync(&error) => Ok(()),
                synced => synced,
            };
            self.blocking(&shown, work)
        };
        self.retry(on_retry, sync).await
    }

    /// Writes an object whose name nobody knows yet; one attempt.
    pub(crate) async fn put_new(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), Error> {
        let Some(folder) = &self.local else {
            return self.put(path, bytes).await;
        };
        let file = folder.join(path.as_ref());
        if !self.env.options.fsync {
            let work = move || File::create(&file)?.write_all(&bytes);
            return self.blocking(path, work).await;
        }
        let handle = self.env.handle.clone();
        let work = move || write_synced(&handle, &file, &bytes);
        let folder_synced = self.blocking(path, work).await?;
        let synced = folder_synced.await.map_err(StoreError::from);
        let synced = synced.and_then(|synced| synced.map_err(|error| store_error(path, error)));
        synced.map_err(|error| self.write_error(path, error))
    }

    /// Writes a local object, replacing what is there; one attempt.
    pub(crate) async fn put_local(
        &self,
        folder: &Path,
        path: &ObjectPath,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let (file, fsync) = (folder.join(path.as_ref()), self.env.options.fsync);
        let work = move || {
            let written = write_beside(&file, &bytes, fsync)?;
            let renamed = fs::rename(&written, &file);
            if renamed.is_err() {
                let _ = fs::remove_file(&written);
            }
            renamed.and_then(|()| sync_folder(&file, fsync))
        };
        self.blocking(path, work).await
    }

    /// The time by the clock of a local file system: that of a file that is written now. `None` if there is none, or if
    /// nothing can be written.
    pub(crate) async fn local_now(&self) -> Option<SystemTime> {
        let folder = self.local.as_ref()?;
        let pointer = folder.join(last_checkpoint_path().as_ref());
        let work = move || {
            let written = write_beside(&pointer, &[], false)?;
            let at = fs::metadata(&written).and_then(|metadata| metadata.modified());
            fs::remove_file(&written)?;
            at
        };
        self.env.handle.spawn_blocking(work).await.ok()?.ok()
    }

    /// Runs work that writes `path` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        path: &ObjectPath,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.env.handle.spawn_blocking(work).await;
        let done = done.map_err(StoreError::from);
        done.and_then(|done| done.map_err(|error| store_error(path, error)))
            .map_err(|error| self.write_error(path, error))
    }

    /// The error of a write: where the directory is gone, it is the table that is.
    pub(crate) fn write_error(&self, path: &ObjectPath, source: StoreError) -> Error {
        match source {
            StoreError::NotFound { .. } if self.local.is_some() => Error::Replaced {
                url: self.url.to_string(),
                why: format!(
                    "its directory was moved or deleted ({path} could not be written, and nothing was)"
                ),
            },
            source => self.error("write", path, source),
        }
    }

    /// Writes `body` beside log entry `version`, ahead of its publication. `None` if there is nothing to gain by that,
    /// or if it fails: whoever puts the entry as a whole finds out why.
    pub(crate) async fn prepare(&self, version: u64, body: &Bytes) -> Option<Prepared> {
        let folder = self.local.as_ref().filter(|_| self.env.options.fsync)?;
        self.write_entry(folder, version, body).await.ok()
    }

    /// Writes `body` beside log entry `version`; one attempt.
    pub(crate) async fn write_entry(
        &self,
        folder: &Path,
        version: u64,
        body: &Bytes,
    ) -> Result<Prepared, StoreError> {
        let path = entry_path(version);
        let (entry, body) = (folder.join(path.as_ref()), body.clone());
        let (handle, fsync) = (self.env.handle.clone(), self.env.options.fsync);
        let folder = folder.to_owned();
        let log_sync = Arc::clone(&self.log_sync);
        let work = {
            let handle = handle.clone();
            // Dropped with what it is given if nobody waits for it any more.
            move || {
                write_beside(&entry, &body, fsync).map(|written| Prepared {
                    handle,
                    folder,
                    entry,
                    fsync,
                    log_sync,
                    written: Some(written),
                })
            }
        };
        let written = handle.spawn_blocking(work).await?;
        written.map_err(|error| store_error(&path, error))
    }
}

impl Prepared {
    /// Puts the entry into the log if it is absent, after `tail`; it is safe there when this returns.
    pub(crate) async fn publish(mut self, tail: Option<&Tail>) -> Result<Published, StoreError> {
        let Some(written) = self.written.take() else {
            return Ok(Published::Linked);
        };
        let (entry, folder, fsync) = (self.entry.clone(), self.folder.clone(), self.fsync);
        let tail = tail.copied();
        let (log_sync, path) = (
            Arc::clone(&self.log_sync),
            ObjectPath::from(self.entry.to_string_lossy().as_ref()),
        );
        let shown = path.clone();
        let work = move || {
            // In this order: the link fails unless what was written lies where the predecessor was found.
            let founded = tail.map_or(Ok(true), |tail| has_tail(&folder, &tail));
            let linked = match founded {
                Ok(true) => hard_link(&written, &entry).map(|()| Published::Linked),
                Ok(false) => Ok(Published::Unfounded),
                Err(error) => Err(error),
            };
            // What is left of it costs space and nothing else.
            let _ = fs::remove_file(&written);
            let published = linked?;
            Ok(match published {
                Published::Linked => match log_sync.sync(&entry, fsync) {
                    Ok(()) => Published::Linked,
                    Err(error) => Published::Unsynced(store_error(&shown, error)),
                },
                other => other,
            })
        };
        let published: io::Result<_> = self.handle.spawn_blocking(work).await?;
        published.map_err(|error| store_error(&path, error))
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(written) = self.written.take() {
            self.handle.spawn_blocking(move || fs::remove_file(written));
        }
    }
}

/// Gives a file its name if that is free.
fn hard_link(written: &Path, entry: &Path) -> io::Result<()> {
    #[cfg(not(test))]
    let linked = fs::hard_link(written, entry);
    #[cfg(test)]
    let linked = tests::refused_link(entry).and_then(|()| fs::hard_link(written, entry));
    linked.map_err(|error| match error.kind() {
        kind @ (io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => io::Error::new(
            kind,
            format!(
                "commits need hard links, and this file system makes none ({error}): use a directory on another file \
                 system, or a bucket"
            ),
        ),
        _ => error,
    })
}

/// True of file systems on which a directory cannot be synced, as of those that cannot be written: what lies there is as
/// safe as it will be.
fn cannot_sync(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput
            | io::ErrorKind::Unsupported
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied
    )
}

/// True if the last entry known lies in this directory.
fn has_tail(folder: &Path, tail: &Tail) -> io::Result<bool> {
    let found = match tail.evidence {
        Evidence::Entry(_) => {
            let entry = fs::read(folder.join(entry_path(tail.version).as_ref()));
            entry.map(|bytes| Evidence::of_entry(&bytes) == tail.evidence)
        }
        Evidence::Listing => {
            let checkpoint = folder.join(checkpoint_path(tail.version).as_ref());
            fs::metadata(checkpoint).map(|_| true)
        }
    };
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => found,
    }
}

/// As the local store says it.
fn store_error(path: &ObjectPath, error: io::Error) -> StoreError {
    let path = path.to_string();
    let kind = error.kind();
    let source = Box::new(error);
    match kind {
        io::ErrorKind::AlreadyExists => StoreError::AlreadyExists { path, source },
        io::ErrorKind::NotFound => StoreError::NotFound { path, source },
        _ => StoreError::Generic {
            store: STORE,
            source,
        },
    }
}

/// A directory and those above it, as far as they are missing.
fn missing_folders(folder: &Path) -> Vec<PathBuf> {
    folder
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .map(Path::to_owned)
        .collect()
}

/// Creates a directory and those above it, and makes the names of those safe that were missing.
fn create_folders(
    folder: &Path,
    missing: &[PathBuf],
    sync: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    missing.iter().try_for_each(|created| sync(created))
}

/// Writes and syncs a file, while another thread syncs its directory.
fn write_synced(
    handle: &Handle,
    path: &Path,
    bytes: &[u8],
) -> io::Result<JoinHandle<io::Result<()>>> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    let named = path.to_owned();
    let folder_synced = handle.spawn_blocking(move || sync_folder(&named, true));
    file.sync_all()?;
    Ok(folder_synced)
}

/// Writes a file beside `path`, and syncs it; gives its name.
fn write_beside(path: &Path, body: &[u8], fsync: bool) -> io::Result<PathBuf> {
    for number in 1..=NAMES_MAX {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let beside = PathBuf::from(name);
        let mut file = match File::create_new(&beside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            created => created?,
        };
        let written = file.write_all(body);
        let written = written.and_then(|()| if fsync { file.sync_all() } else { Ok(()) });
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        return written.map(|()| beside);
    }
    Err(io::Error::other("too many writes of it were cut off"))
}

/// Makes a name in the file's folder safe.
fn sync_folder(file: &Path, fsync: bool) -> io::Result<()> {
    // Elsewhere a directory cannot be opened to be synced.
    match file.parent() {
        Some(folder) if fsync && cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::runtime::Runtime;

    use super::*;
    use crate::{Append, Appended, Client, ClientOptions, Codec, CommitId, Frontier, Open, Shard};

    /// Counts the syncs of a log, and fails them.
    #[derive(Debug, Default)]
    pub(super) struct SyncScript {
        begun: AtomicU32,
        /// Syncs that are to fail.
        failing: AtomicU32,
    }

    impl SyncScript {
        pub(super) fn next(&self) -> io::Result<()> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let order = Ordering::SeqCst;
            let fails = |left: u32| left.checked_sub(1);
            match self.failing.fetch_update(order, order, fails) {
                Ok(_) => Err(io::Error::other("the disk does not answer")),
                Err(_) => Ok(()),
            }
        }
    }

    /// Directories in which no hard link can be made, with what the system says then.
    static WITHOUT_LINKS: Mutex<Vec<(PathBuf, i32)>> = Mutex::new(Vec::new());

    pub(super) fn refused_link(entry: &Path) -> io::Result<()> {
        let without = WITHOUT_LINKS.lock().unwrap();
        let refused = without.iter().find(|(dir, _)| entry.starts_with(dir));
        refused.map_or(Ok(()), |(_, says)| Err(io::Error::from_raw_os_error(*says)))
    }

    async fn opened(dir: &Path) -> Result<Shard, Error> {
        let client = Client::new(Handle::current(), ClientOptions::default());
        let open = Open::new(Codec::<u64, String>::new().unwrap().schema());
        client.open_or_create(dir.to_str().unwrap(), open).await
    }

    async fn open(dir: &Path) -> Shard {
        opened(dir).await.unwrap()
    }

    fn append_at(lower: i64) -> Append {
        Append {
            id: CommitId {
                nonce: 1,
                seq: lower.unsigned_abs(),
            },
            lower: Frontier::At(lower),
            upper: Frontier::At(lower + 1),
            files: Vec::new(),
            since: None,
        }
    }

    fn script(shard: &Shard) -> &SyncScript {
        &shard.inner().storage.log_sync.script
    }

    /// Appends as a process that is killed between the link and the sync.
    async fn append_unsynced(shard: &Shard, lower: i64) {
        script(shard).failing.store(u32::MAX, Ordering::SeqCst);
        let (told, mut failed) = tokio::sync::watch::channel(false);
        let stalled = |_: &Error| {
            told.send_replace(true);
        };
        let append = shard.append(append_at(lower), &stalled);
        tokio::select! {
            ended = append => panic!("{ended:?}"),
            _ = failed.wait_for(|failed| *failed) => {}
        }
    }

    #[test]
    fn an_entry_counts_when_its_directory_could_be_synced_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        Runtime::new().unwrap().block_on(async {
            let shard = open(dir.path()).await;
            let _watcher = shard.watch();
            script(&shard).failing.store(3, Ordering::SeqCst);
            let known = Mutex::new(Vec::new());
            let stalled = |_: &Error| known.lock().unwrap().push(shard.progress().version);
            let appended = shard.append(append_at(0), &stalled).await.unwrap();
            assert_eq!(appended, Appended::Committed { version: 1 });
            assert_eq!(script(&shard).failing.load(Ordering::SeqCst), 0);
            let known = known.into_inner().unwrap();
            assert!(
                !known.is_empty() && known.iter().all(|version| *version == 0),
                "{known:?}"
            );
        });
    }

    #[test]
    fn an_append_that_was_dropped_unsynced_is_synced_before_it_is_found() {
        let dir = tempfile::tempdir().unwrap();
        Runtime::new().unwrap().block_on(async {
            let shard = open(dir.path()).await;
            append_unsynced(&shard, 0).await;
            script(&shard).failing.store(1, Ordering::SeqCst);
            let again = shard.append(append_at(0), &|_| ()).await.unwrap();
            assert_eq!(again, Appended::Committed { version: 1 });
            assert_eq!(script(&shard).failing.load(Ordering::SeqCst), 0);
        });
    }

    #[test]
    fn an_entry_of_a_process_that_was_killed_unsynced_is_synced_before_it_counts() {
        let dir = tempfile::tempdir().unwrap();
        Runtime::new().unwrap().block_on(async {
            let killed = open(dir.path()).await;
            append_unsynced(&killed, 0).await;
            // Who opens the table next.
            let shard = open(dir.path()).await;
            assert_eq!(shard.progress().version, 1);
            assert_eq!(script(&shard).begun.load(Ordering::SeqCst), 1);
            // Who has it open while the other one is killed.
            let killed = open(dir.path()).await;
            append_unsynced(&killed, 1).await;
            script(&shard).failing.store(2, Ordering::SeqCst);
            let known = Mutex::new(Vec::new());
            let stalled = |_: &Error| known.lock().unwrap().push(shard.progress().version);
            let found = shard.inner().catch_up(&stalled).await.unwrap();
            assert_eq!(known.into_inner().unwrap(), [1, 1]);
            assert_eq!(found.version, 2);
            assert_eq!(script(&shard).begun.load(Ordering::SeqCst), 4);
            // What is known costs no more syncs.
            shard.inner().catch_up(&|_| ()).await.unwrap();
            assert_eq!(script(&shard).begun.load(Ordering::SeqCst), 4);
        });
    }

    #[test]
    fn a_file_system_without_syncs_of_directories_can_be_read() {
        for (says, tolerated) in [(22, true), (30, true), (95, true), (5, false), (28, false)] {
            let error = io::Error::from_raw_os_error(says);
            assert_eq!(cannot_sync(&error), tolerated, "{error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_system_without_hard_links_is_named_with_what_helps() {
        // Operation not permitted, not supported, not implemented.
        for says in [1, 95, 38] {
            for fsync in [true, false] {
                let dir = tempfile::tempdir().unwrap();
                let (old, new) = (dir.path().join("old"), dir.path().join("new"));
                Runtime::new().unwrap().block_on(async {
                    let options = ClientOptions {
                        fsync,
                        ..ClientOptions::default()
                    };
                    let client = Client::new(Handle::current(), options);
                    let columns = Open::new(Codec::<u64, String>::new().unwrap().schema());
                    let open = async |dir: &Path| {
                        let url = dir.to_str().unwrap();
                        client.open_or_create(url, columns.clone()).await
                    };
                    let shard = open(&old).await.unwrap();
                    let refused = (dir.path().to_owned(), says);
                    WITHOUT_LINKS.lock().unwrap().push(refused);
                    let created = open(&new).await.map(|_| ()).unwrap_err();
                    let appended = shard.append(append_at(0), &|_| ()).await.unwrap_err();
                    for error in [created, appended] {
                        assert!(!error.is_transient() && error.is_decided(), "{error}");
                        let mut text = error.to_string();
                        let mut cause = std::error::Error::source(&error);
                        while let Some(error) = cause {
                            text += &format!(": {error}");
                            cause = error.source();
                        }
                        for part in ["hard links", "another file system", "bucket", ".json"] {
                            assert!(text.contains(part), "{text}");
                        }
                    }
                    // Nothing is left of it, and the table goes on.
                    let entries = fs::read_dir(old.join("_delta_log")).unwrap();
                    assert_eq!(entries.count(), 1);
                    assert_eq!(
                        fs::read_dir(new.join("_delta_log")).unwrap().count(),
                        0,
                        "{says}"
                    );
                    let ours = |(refused, _): &(PathBuf, i32)| refused == dir.path();
                    WITHOUT_LINKS
                        .lock()
                        .unwrap()
                        .retain(|refused| !ours(refused));
                    let appended = shard.append(append_at(0), &|_| ()).await.unwrap();
                    assert_eq!(appended, Appended::Committed { version: 1 });
                });
            }
        }
    }

    #[test]
    fn directories_that_could_not_be_synced_are_synced_by_the_next_attempt() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a/b/_delta_log");
        let missing = missing_folders(&log);
        assert_eq!(missing.len(), 3);
        let fails = |_: &Path| Err(io::Error::other("the disk does not answer"));
        assert!(create_folders(&log, &missing, fails).is_err());
        let synced = Mutex::new(Vec::new());
        let sync = |path: &Path| {
            synced.lock().unwrap().push(path.to_owned());
            Ok(())
        };
        create_folders(&log, &missing, sync).unwrap();
        assert_eq!(synced.into_inner().unwrap(), missing);
    }
}
