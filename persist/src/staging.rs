//! The files that this process has staged and not yet committed or deleted: the sweeper leaves them alone.
//!
//! ```text
//!   begin_file ──> being written ── finish ──> staged ──> append or delete_files has ended ──> known no more
//!                        │                       └── the handle that staged it is gone ──> known no more
//!                        └── dropped, or failed ──> known no more: left to the sweeper
//! ```
//!
//! Whoever is done with a file that is still being written does not end its writing: the file is known until then, so that
//! nobody takes it for one that can be deleted.
//!
//! A file may be given to [`Shard::append`] while it is still being written: its entry is written beside it, and is put
//! into the log when both are safe.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;
use tokio::sync::Notify;

use crate::data_file::{FileMeta, StagedFile};
use crate::error::Error;
use crate::lock;
use crate::shard::{Inner, Shard};
use crate::storage::{OnRetry, Storage};

/// Staged files by their paths.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    paths: Mutex<HashMap<String, Staged>>,
    /// One is written, or given up.
    settled: Notify,
    scopes: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Staged {
    written: bool,
    /// Nobody needs it any more.
    given_up: bool,
    scope: u64,
}

impl Staged {
    /// True if it is known no longer, now that nobody needs it.
    fn give_up(&mut self) -> bool {
        self.given_up = true;
        self.written
    }
}

/// The files that were staged with one handle and its clones; they are nobody's once these are gone.
#[derive(Debug)]
pub(crate) struct StagingScope {
    staging: Arc<Staging>,
    number: u64,
}

impl Drop for StagingScope {
    fn drop(&mut self) {
        lock(&self.staging.paths).retain(|_, file| file.scope != self.number || !file.give_up());
        self.staging.settled.notify_waiters();
    }
}

/// The files of an append: once it has ended, whether it returns or is dropped, they are committed, or the sweeper's.
pub(crate) struct Appending<'a> {
    staging: &'a Staging,
    files: &'a [StagedFile],
    /// They are the caller's still.
    pub(crate) lost: bool,
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        let files = self.files.iter().filter(|_| !self.lost);
        files.for_each(|file| self.staging.forget(&file.path));
    }
}

impl Staging {
    pub(crate) fn scope(self: &Arc<Self>) -> StagingScope {
        StagingScope {
            number: self.scopes.fetch_add(1, Ordering::Relaxed),
            staging: Arc::clone(self),
        }
    }

    pub(crate) fn appending<'a>(&'a self, files: &'a [StagedFile]) -> Appending<'a> {
        Appending {
            staging: self,
            files,
            lost: false,
        }
    }

    /// A file is about to be written.
    fn begin(self: &Arc<Self>, path: &str, scope: &StagingScope) -> Writing {
        let file = Staged {
            written: false,
            given_up: false,
            scope: scope.number,
        };
        lock(&self.paths).insert(path.to_owned(), file);
        Writing {
            staging: Arc::clone(self),
            path: path.to_owned(),
            done: false,
        }
    }

    pub(crate) fn contains(&self, path: &str) -> bool {
        lock(&self.paths).contains_key(path)
    }

    /// True if one of these files is still being written.
    pub(crate) fn is_writing(&self, files: &[StagedFile]) -> bool {
        let paths = lock(&self.paths);
        let mut files = files.iter().filter(|file| !file.written);
        files.any(|file| paths.get(&file.path).is_some_and(|staged| !staged.written))
    }

    /// Waits until nobody writes the file any more; true if it is written, and nobody was done with it since.
    pub(crate) async fn is_written(&self, path: &str) -> bool {
        loop {
            let settled = self.settled.notified();
            match lock(&self.paths).get(path) {
                Some(Staged { written: false, .. }) => {}
                written => return written.is_some(),
            }
            settled.await;
        }
    }

    /// The file is committed, or deleted, or given up. If it is still being written, it is known until that has ended.
    pub(crate) fn forget(&self, path: &str) {
        let mut paths = lock(&self.paths);
        if paths.get_mut(path).is_some_and(Staged::give_up) {
            paths.remove(path);
            self.settled.notify_waiters();
        }
    }
}

/// A file that is being written; known no more unless it is [`done`](Writing::done).
struct Writing {
    staging: Arc<Staging>,
    path: String,
    done: bool,
}

impl Writing {
    /// The file is written.
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut paths = lock(&self.staging.paths);
        match paths.get_mut(&self.path) {
            Some(file) if self.done && !file.given_up => file.written = true,
            _ => drop(paths.remove(&self.path)),
        }
        self.staging.settled.notify_waiters();
    }
}

/// A data file that is being written, see [`Shard::begin_file`]. If it is dropped before it is finished, the file is
/// given up.
#[must_use = "what is not finished is given up"]
pub struct PutFile {
    inner: Arc<Inner>,
    path: Path,
    bytes: Bytes,
    writing: Writing,
}

impl std::fmt::Debug for PutFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PutFile")
            .field("path", &self.path)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl PutFile {
    /// Writes the file. Errors that may pass are told to `on_retry` and followed by another attempt, for ever. All
    /// attempts write the same bytes under the same name, so one that seemed to fail leaves nothing behind.
    ///
    /// # Errors
    /// Permanent ones of the store. What may have been written is deleted if the store lets us.
    pub async fn finish(self, on_retry: OnRetry<'_>) -> Result<(), Error> {
        let storage = &self.inner.storage;
        let put = || storage.put_new(&self.path, self.bytes.clone());
        if let Err(error) = storage.retry(on_retry, put).await {
            // No commit can come to refer to it: each waits for it to be written.
            if let Err(left) = storage.delete(&self.path).await {
                tracing::debug!(error = %left, "a file that failed to be staged may be left behind");
            }
            return Err(error);
        }
        self.writing.done();
        Ok(())
    }
}

impl Shard {
    /// Writes a data file under a fresh name. No commit refers to it yet: the result goes to [`Shard::append`] or
    /// to [`Shard::delete_files`].
    ///
    /// Errors that may pass are told to `on_retry` and followed by another attempt, for ever.
    ///
    /// The file is the caller's until an append of it has been dropped or has returned anything but
    /// [`Lost`](crate::Appended::Lost), or [`Shard::delete_files`] of it has returned, or this handle and its clones are gone:
    /// this process's garbage collection does not touch it until then, those of other processes not until it is old.
    ///
    /// # Errors
    /// As [`PutFile::finish`].
    pub async fn put_file(
        &self,
        bytes: Bytes,
        meta: FileMeta,
        on_retry: OnRetry<'_>,
    ) -> Result<StagedFile, Error> {
        let (file, put) = self.begin_file(bytes, meta);
        put.finish(on_retry).await?;
        Ok(file.into_written())
    }

    /// Begins to write a data file under a fresh name: it is written as its [`PutFile`] is finished. It may be given to
    /// [`Shard::append`] or [`Shard::delete_files`] of this process before that, and these wait for it then. To commit a
    /// file that is still being written takes less time than to write it first and commit it afterwards.
    pub fn begin_file(&self, bytes: Bytes, meta: FileMeta) -> (StagedFile, PutFile) {
        let inner = self.inner();
        let env = &inner.storage.env;
        let path = Path::from(format!("{}.parquet", env.uuid()));
        let file = StagedFile {
            path: path.to_string(),
            size: bytes.len() as u64,
            meta,
            staged_ms: env.now_ms(),
            written: false,
        };
        let put = PutFile {
            inner: Arc::clone(inner),
            bytes,
            writing: inner.staging.begin(path.as_ref(), &self.staged),
            path,
        };
        (file, put)
    }

    /// Waits until this process writes none of these files any more: each is safe, or was given up.
    pub fn until_written(&self, files: &[StagedFile]) -> impl Future<Output = ()> + Send + use<> {
        let staging = Arc::clone(&self.inner().staging);
        let writing = files.iter().filter(|file| !file.written);
        let writing: Vec<String> = writing.map(|file| file.path.clone()).collect();
        async move {
            for path in writing {
                staging.is_written(&path).await;
            }
        }
    }

    /// Deletes staged files that were not committed. The log is read to its end first, and a file that it refers
    /// to is left alone and reported to `tracing`: deleting it would be a bug of the caller's. Those that are still
    /// being written are waited for.
    ///
    /// The caller must know that no commit of these files is still under way anywhere: an [`Shard::append`] that
    /// has returned, whatever it returned, is not.
    ///
    /// # Errors
    /// If the log cannot be read, or the store fails to delete, several times if that may pass. Deleting again is
    /// safe, and so is leaving it to garbage collection.
    pub async fn delete_files(&self, files: &[StagedFile]) -> Result<(), Error> {
        self.delete_files_with(files, &Storage::warn_of_retry).await
    }

    /// As [`Shard::delete_files`]; errors that may pass while the log is read are told to `on_retry`, and followed by
    /// another attempt, for ever.
    ///
    /// # Errors
    /// As [`Shard::delete_files`].
    pub async fn delete_files_with(
        &self,
        files: &[StagedFile],
        on_retry: OnRetry<'_>,
    ) -> Result<(), Error> {
        if files.is_empty() {
            return Ok(());
        }
        let inner = self.inner();
        inner.catch_up(on_retry).await?;
        let deletes = files.iter().map(|file| async move {
            let path = file.path.as_str();
            let (live, removed) =
                inner.with_state(|state| (state.is_live(path), state.is_removed(path)));
            if live {
                tracing::error!(shard = %inner.storage.url, path, "not deleting a file that the log refers to");
            } else if removed {
                tracing::debug!(shard = %inner.storage.url, path, "a removed file is left to the garbage collection");
            }
            // Else it would be there again afterwards.
            inner.staging.is_written(path).await;
            // Whatever becomes of it now, nobody will commit it: from here on a sweeper may have it.
            inner.staging.forget(path);
            if !live && !removed {
                inner.storage.delete_retrying(&Path::from(path)).await?;
            }
            Ok(())
        });
        join_all(deletes).await.into_iter().collect()
    }
}
