//! One shard's objects, and what every access to them needs: errors that name the object, and waits between
//! attempts.
//!
//! The heart is [`Storage::occupy`], which puts a log entry and comes back only when it is known who has the slot.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::client::Environment;
use crate::error::{
    Error, bucket_is_missing, credentials_advice, is_below_a_file, is_link_loop, meets_link_loop,
};
use crate::local::{LogSync, Prepared, Published, is_refused};
use crate::log::table_root::TableRoot;
use crate::log::{entry_path, folder};
use crate::replay::Tail;
use crate::retry::warn_of_retry;

/// How often a deletion is tried again that fails for now: for about a second.
const DELETE_RETRIES: u32 = 6;

/// Told of every error that is followed by another attempt.
pub type OnRetry<'a> = &'a (dyn Fn(&Error) + Send + Sync);

/// The objects of a shard.
#[derive(Clone)]
pub(crate) struct Storage {
    pub(crate) url: Arc<str>,
    pub(crate) root: Arc<TableRoot>,
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The directory, if the objects are files.
    pub(crate) local: Option<PathBuf>,
    /// Makes the names in that directory's log safe.
    pub(crate) log_sync: Arc<LogSync>,
    pub(crate) env: Arc<Environment>,
}

/// Who has a slot of the log.
pub(crate) enum Occupied {
    /// The entry that was to be put; this put did it.
    Now,
    /// This entry: somebody's, or one's own by an attempt that seemed to fail.
    By(Bytes),
    /// Whoever it is, the slot is none: the entry before it is not there, or is another. This put has put nothing.
    Unfounded,
}

impl Storage {
    /// The object's name in messages.
    pub(crate) fn show(&self, path: &Path) -> String {
        format!("{}/{path}", self.url)
    }

    pub(crate) fn error(
        &self,
        action: &'static str,
        path: &Path,
        source: object_store::Error,
    ) -> Error {
        if let object_store::Error::JoinError { source } = &source
            && source.is_cancelled()
        {
            // Local stores do their work on the runtime's threads, and those are going away.
            return Error::Shutdown;
        }
        if is_refused(&source)
            && let Some(found) = self.in_place_of(path)
        {
            return found;
        }
        if meets_link_loop(&source)
            && let Some(found) = self.link_loop(path)
        {
            return found;
        }
        let path = self.show(path);
        match credentials_advice(&source) {
            Some(advice) => Error::NoCredentials {
                action,
                path,
                advice,
                source: Box::new(source),
            },
            None => Error::Store {
                action,
                path,
                source,
            },
        }
    }

    /// The link to itself that keeps the object, or the directory, from being read, if the objects are files.
    fn link_loop(&self, path: &Path) -> Option<Error> {
        let is_loop = |found: &Error| {
            matches!(
                found,
                Error::NoFile {
                    found: LINK_LOOP,
                    ..
                } | Error::NoFolder {
                    found: LINK_LOOP,
                    ..
                }
            )
        };
        if let Some(found) = self.in_place_of(path).filter(is_loop) {
            return Some(found);
        }
        if let Some(found) = self.in_place_of_log().filter(is_loop) {
            return Some(found);
        }
        let listed = std::fs::read_dir(self.local.as_ref()?.join(path.as_ref())).ok()?;
        let mut names = listed.flatten().map(|entry| entry.file_name());
        names.find_map(|name| {
            let path = path.clone().join(name.to_str()?);
            self.in_place_of(&path).filter(is_loop)
        })
    }

    /// What is no file and has the name of one, if the objects are files. The store shows nothing there, and lets nobody
    /// put anything there either.
    fn in_place_of(&self, path: &Path) -> Option<Error> {
        let found = no_file(&self.local.as_ref()?.join(path.as_ref()))?;
        Some(Error::NoFile {
            path: self.show(path),
            found,
        })
    }

    /// What is no directory and is in the place of the log's, if the objects are files.
    pub(crate) fn in_place_of_log(&self) -> Option<Error> {
        let path = self.local.as_ref()?.join(folder().as_ref());
        no_folder(&path)
    }

    /// Tells `tracing` of an error that is followed by another attempt, for callers that have nobody else to tell: of
    /// each cause now and then.
    pub(crate) fn warn_of_retry(error: &Error) {
        warn_of_retry(error);
    }

    /// Runs `operation` until it succeeds or fails for good, with waits in between.
    pub(crate) async fn retry<T, F>(
        &self,
        on_retry: OnRetry<'_>,
        operation: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.env.retry(on_retry, operation).await
    }

    /// The object's bytes, `None` if it does not exist; one attempt.
    pub(crate) async fn get(&self, path: &Path) -> Result<Option<Bytes>, Error> {
        let result = match self.store.get(path).await {
            Ok(object) => object.bytes().await,
            Err(error) => Err(error),
        };
        match result {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error @ object_store::Error::NotFound { .. }) if !bucket_is_missing(&error) => {
                Ok(None)
            }
            Err(error) if is_below_a_file(&error) => Ok(None),
            Err(error) => Err(self.error("read", path, error)),
        }
    }

    /// The object's bytes, `None` if it does not exist; tried until the store answers.
    pub(crate) async fn get_retrying(
        &self,
        path: &Path,
        on_retry: OnRetry<'_>,
    ) -> Result<Option<Bytes>, Error> {
        self.retry(on_retry, || self.get(path)).await
    }

    /// The bytes of an object that must be there; tried until the store answers.
    pub(crate) async fn get_existing(
        &self,
        path: &Path,
        on_retry: OnRetry<'_>,
    ) -> Result<Bytes, Error> {
        self.get_retrying(path, on_retry)
            .await?
            .ok_or_else(|| Error::MissingFile {
                path: self.show(path),
            })
    }

    /// True if the object exists; tried until the store answers.
    pub(crate) async fn exists(&self, path: &Path, on_retry: OnRetry<'_>) -> Result<bool, Error> {
        Ok(self.head(path, on_retry).await?.is_some())
    }

    /// What the store says of the object, `None` if it does not exist; tried until the store answers.
    pub(crate) async fn head(
        &self,
        path: &Path,
        on_retry: OnRetry<'_>,
    ) -> Result<Option<ObjectMeta>, Error> {
        let head = || async {
            match self.store.head(path).await {
                Ok(object) => Ok(Some(object)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) if is_below_a_file(&error) => Ok(None),
                Err(error) => Err(self.error("look at", path, error)),
            }
        };
        self.retry(on_retry, head).await
    }

    /// Writes the object, replacing what is there; one attempt.
    pub(crate) async fn put(&self, path: &Path, bytes: Bytes) -> Result<(), Error> {
        if let Some(folder) = &self.local {
            return self.put_local(folder, path, bytes).await;
        }
        match self.store.put(path, PutPayload::from(bytes)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.error("write", path, error)),
        }
    }

    /// Deletes the object; that it is not there is success. One attempt.
    pub(crate) async fn delete(&self, path: &Path) -> Result<(), Error> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error("delete", path, error)),
        }
    }

    /// Deletes the object, in several attempts if that fails for now.
    pub(crate) async fn delete_retrying(&self, path: &Path) -> Result<(), Error> {
        for attempt in 0..DELETE_RETRIES {
            match self.delete(path).await {
                Err(error) if error.is_transient() => self.env.wait(attempt).await,
                decided => return decided,
            }
        }
        self.delete(path).await
    }

    /// Puts `body`, which may be prepared, as log entry `version` if there is none, and returns who has the slot then.
    /// In a local directory it is put only where `tail`, the entry before it, is.
    ///
    /// A put that fails may have happened, may happen later, or may never happen, and `AlreadyExists` may be about
    /// one's own earlier attempt, or (an HTTP 409) about nothing. So after the first failure that does not prove
    /// that nothing was written, only the log decides: the same slot is tried until it can be read.
    ///
    /// An entry that is found in the slot is safe on the disk.
    ///
    /// # Errors
    /// Permanent ones, and [`Error::Replaced`], if the table's directory is gone. `uncertain` says whether the entry may
    /// have been put all the same, as far as that is not decided.
    pub(crate) async fn occupy(
        &self,
        version: u64,
        body: &Bytes,
        tail: Option<&Tail>,
        mut prepared: Option<Prepared>,
        uncertain: &mut bool,
        on_retry: OnRetry<'_>,
    ) -> Result<Occupied, Error> {
        let path = entry_path(version);
        // An attempt that may still take effect is out there.
        *uncertain = false;
        for attempt in 0.. {
            let put = match (prepared.take(), &self.local) {
                (Some(prepared), _) => prepared.publish(tail).await,
                (None, Some(folder)) => match self.write_entry(folder, version, body).await {
                    Ok(written) => written.publish(tail).await,
                    Err(error) => Err(error),
                },
                (None, None) => {
                    let create = PutOptions::from(PutMode::Create);
                    let body = PutPayload::from(body.clone());
                    let put = self.store.put_opts(&path, body, create).await;
                    put.map(|_| Published::Linked)
                }
            };
            let failed = match put {
                Ok(Published::Linked) => return Ok(Occupied::Now),
                Ok(Published::Unfounded) => return Ok(Occupied::Unfounded),
                Ok(Published::Unsynced(error)) => {
                    *uncertain = true;
                    error
                }
                Err(error) => error,
            };
            let taken = matches!(
                failed,
                object_store::Error::AlreadyExists { .. }
                    | object_store::Error::Precondition { .. }
            );
            let failed = self.write_error(&path, failed);
            if matches!(failed, Error::Replaced { .. }) {
                // An earlier attempt may have been put into what was moved away.
                return Err(failed);
            }
            if taken || !failed.is_transient() {
                match self.get_retrying(&path, on_retry).await {
                    Ok(Some(bytes)) => {
                        self.settle_log(on_retry).await?;
                        return Ok(Occupied::By(bytes));
                    }
                    // The store has answered the only put, and the answer was no.
                    _ if !taken && !*uncertain => return Err(failed),
                    Ok(None) => {
                        if let Some(other) = self.in_place_of(&path) {
                            return Err(other);
                        }
                    }
                    // Files are put once, so that it is somebody else's.
                    Err(unreadable) if self.local.is_some() && !*uncertain => {
                        return Err(unreadable);
                    }
                    // It may be ours that cannot be read.
                    Err(unreadable) => on_retry(&unreadable),
                }
            }
            *uncertain = true;
            on_retry(&failed);
            self.env.wait(attempt).await;
        }
        Err(Error::Shutdown)
    }
}

/// What a symbolic link that leads to itself is called.
const LINK_LOOP: &str = "a link to itself";

/// What lies there, in words, if something does that is no file.
pub(crate) fn no_file(path: &std::path::Path) -> Option<&'static str> {
    let found = std::fs::symlink_metadata(path).ok()?.file_type();
    Some(match found {
        _ if path.is_file() => return None,
        _ if path.is_dir() => "a directory",
        _ if found.is_symlink() => match std::fs::metadata(path) {
            Err(error) if is_link_loop(&error) => LINK_LOOP,
            _ => "a link to nothing",
        },
        _ => "no regular file",
    })
}

/// The error for what lies there, if something does that is no directory.
pub(crate) fn no_folder(path: &std::path::Path) -> Option<Error> {
    let link = std::fs::symlink_metadata(path).ok()?;
    let found = match no_file(path) {
        Some("a directory") => return None,
        Some(found) => found,
        None if link.is_symlink() => "a link to a file",
        None => "a file",
    };
    Some(Error::NoFolder {
        path: path.display().to_string(),
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_ends_is_no_error_of_the_store() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let task = runtime.spawn(std::future::pending::<()>());
        task.abort();
        let source = runtime.block_on(task).unwrap_err();
        let client = crate::Client::new(runtime.handle().clone(), crate::ClientOptions::default());
        let shard = runtime.block_on(async {
            let schema = crate::Codec::<u64, String>::new().unwrap().schema();
            let open = crate::Open::new(schema);
            client
                .open_or_create("memory://ending", open)
                .await
                .unwrap()
        });
        let error = shard.inner().storage.error(
            "read",
            &Path::from("x"),
            object_store::Error::JoinError { source },
        );
        assert!(matches!(error, Error::Shutdown), "{error}");
        assert!(!error.is_transient());
    }
}
