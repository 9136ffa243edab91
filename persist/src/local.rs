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

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use object_store::Error as StoreError;
use object_store::path::Path as ObjectPath;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::log::checkpoint::checkpoint_path;
use crate::log::{entry_path, folder as log_folder};
use crate::replay::{Evidence, Tail};
use crate::storage::Storage;

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
    /// `None` once it is somebody else's to delete.
    written: Option<PathBuf>,
}

/// The outcome of [`Prepared::publish`].
pub(crate) enum Published {
    /// It is in the log, safely.
    Linked,
    /// The entry before it is not what it was: nothing was put.
    Unfounded,
}

impl Storage {
    /// Creates the directories of a table that is about to be created. Nothing else does.
    pub(crate) async fn create_folders(&self) -> Result<(), Error> {
        let Some(folder) = self.local.clone() else {
            return Ok(());
        };
        let fsync = self.env.options.fsync;
        let work = move || create_folders(&folder.join(log_folder().as_ref()), fsync);
        self.blocking(&log_folder(), work).await
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
        let work = {
            let handle = handle.clone();
            // Dropped with what it is given if nobody waits for it any more.
            move || {
                write_beside(&entry, &body, fsync).map(|written| Prepared {
                    handle,
                    folder,
                    entry,
                    fsync,
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
            if matches!(published, Published::Linked) {
                sync_folder(&entry, fsync)?;
            }
            Ok(published)
        };
        let path = ObjectPath::from(self.entry.to_string_lossy().as_ref());
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
    fs::hard_link(written, entry).map_err(|error| match error.kind() {
        kind @ (io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => io::Error::new(
            kind,
            format!(
                "no hard link could be made, and commits need a file system that has them: {error}"
            ),
        ),
        _ => error,
    })
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

/// Creates a directory and those above it, as far as they are missing, and makes their names safe.
fn create_folders(folder: &Path, fsync: bool) -> io::Result<()> {
    let missing: Vec<_> = folder
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .collect();
    fs::create_dir_all(folder)?;
    for created in missing {
        sync_folder(created, fsync)?;
    }
    Ok(())
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
