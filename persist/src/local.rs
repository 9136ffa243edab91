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

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use object_store::Error as StoreError;
use object_store::path::Path as ObjectPath;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::log::entry_path;
use crate::storage::Storage;

/// As the local store calls itself in errors.
const STORE: &str = "LocalFileSystem";
/// What earlier processes left has the first names.
const NAMES_MAX: u32 = 1000;

/// An entry that is safe on the disk, and not in the log. It goes when this is dropped.
pub(crate) struct Prepared {
    handle: Handle,
    entry: PathBuf,
    /// `None` once it is somebody else's to delete.
    written: Option<PathBuf>,
}

impl Storage {
    /// The directory, if the objects are files that are synced.
    fn synced_folder(&self) -> Option<&PathBuf> {
        self.local.as_ref().filter(|_| self.env.options.fsync)
    }

    /// Writes an object whose name nobody knows yet; one attempt.
    pub(crate) async fn put_new(&self, path: &ObjectPath, bytes: Bytes) -> Result<(), Error> {
        if let Some(folder) = self.synced_folder() {
            let (file, bytes) = (folder.join(path.as_ref()), bytes.clone());
            let handle = self.env.handle.clone();
            let work = move || write_synced(&handle, &file, &bytes);
            if let Ok(Ok(folder_synced)) = self.env.handle.spawn_blocking(work).await
                && let Ok(Ok(())) = folder_synced.await
            {
                return Ok(());
            }
        }
        // If the former failed, this finds out why.
        self.put(path, bytes).await
    }

    /// Writes `body` beside log entry `version`. `None` if there is nothing to gain by that, or if it fails: whoever puts
    /// the entry as a whole finds out why.
    pub(crate) async fn prepare(&self, version: u64, body: &Bytes) -> Option<Prepared> {
        let folder = self.synced_folder()?;
        let (entry, body) = (folder.join(entry_path(version).as_ref()), body.clone());
        let handle = self.env.handle.clone();
        let work = {
            let handle = handle.clone();
            // Dropped with what it is given if nobody waits for it any more.
            move || {
                write_beside(&entry, &body).map(|written| Prepared {
                    handle,
                    entry,
                    written: Some(written),
                })
            }
        };
        handle.spawn_blocking(work).await.ok()?.ok()
    }
}

impl Prepared {
    /// Puts the entry into the log if it is absent; it is safe there when this returns.
    pub(crate) async fn publish(mut self) -> Result<(), StoreError> {
        let Some(written) = self.written.take() else {
            return Ok(());
        };
        let entry = self.entry.clone();
        let path = entry.to_string_lossy().into_owned();
        let work = move || {
            let linked = fs::hard_link(&written, &entry);
            // What is left of it costs space and nothing else.
            let _ = fs::remove_file(&written);
            linked.and_then(|()| sync_folder(&entry))
        };
        match self.handle.spawn_blocking(work).await? {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let source = Box::new(error);
                Err(StoreError::AlreadyExists { path, source })
            }
            Err(error) => Err(StoreError::Generic {
                store: STORE,
                source: Box::new(error),
            }),
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(written) = self.written.take() {
            self.handle.spawn_blocking(move || fs::remove_file(written));
        }
    }
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
    let folder_synced = handle.spawn_blocking(move || sync_folder(&named));
    file.sync_all()?;
    Ok(folder_synced)
}

/// Writes and syncs a file beside `entry`; gives its name.
fn write_beside(entry: &Path, body: &[u8]) -> io::Result<PathBuf> {
    for number in 1..=NAMES_MAX {
        let mut name = entry.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let path = PathBuf::from(name);
        let mut file = match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            created => created?,
        };
        let written = file.write_all(body).and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        return written.map(|()| path);
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Makes a name in the file's folder safe.
fn sync_folder(file: &Path) -> io::Result<()> {
    // Elsewhere a directory cannot be opened to be synced.
    match file.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
