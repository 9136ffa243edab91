//! Local files, of which only regular ones are opened.
//!
//! Opening a pipe waits until somebody opens its other end, and what a device has to say may never end. So whatever
//! reads an object, or asks what it is, looks first at what has its name. What is created, listed or deleted is not
//! opened.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use tokio::runtime::Handle;

use super::STORE;

/// A store of local files that fails at a pipe, a socket or a device in the place of one ([`is_refused`]).
#[derive(Debug)]
pub(crate) struct RegularFiles {
    inner: LocalFileSystem,
}

/// Neither a file nor a directory is there.
#[derive(Debug, thiserror::Error)]
#[error("it is no regular file")]
struct NoRegularFile;

/// True of the error at what is neither a file nor a directory.
pub(crate) fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Generic { source, .. } if source.is::<NoRegularFile>())
}

impl RegularFiles {
    pub(crate) fn new(inner: LocalFileSystem) -> Self {
        RegularFiles { inner }
    }

    /// Fails if the object is neither a file nor a directory, by any link. The store itself says what else is wrong.
    async fn look(&self, location: &Path) -> Result<()> {
        let Ok(path) = self.inner.path_to_filesystem(location) else {
            return Ok(());
        };
        let is_special = match Handle::try_current() {
            Ok(handle) => handle.spawn_blocking(move || is_special(&path)).await?,
            Err(_) => is_special(&path),
        };
        match is_special {
            true => Err(Error::Generic {
                store: STORE,
                source: Box::new(NoRegularFile),
            }),
            false => Ok(()),
        }
    }
}

/// True of a pipe, a socket or a device, by any link.
fn is_special(path: &path::Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

impl fmt::Display for RegularFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for RegularFiles {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.look(from).await?;
        self.inner.get_opts(from, options).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.look(from).await?;
        self.inner.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;
    use std::time::Duration;

    use object_store::ObjectStoreExt;

    use super::*;

    /// Tries each way to an object by this name, and says whether each is refused, or what it finds.
    async fn tried(store: &RegularFiles, name: &str) -> [Result<u64>; 4] {
        let path = Path::from(name);
        let len = |bytes: Bytes| bytes.len() as u64;
        [
            store.get(&path).await.map(|found| found.meta.size),
            store.head(&path).await.map(|found| found.size),
            store.get_range(&path, 0..2).await.map(len),
            store
                .get_ranges(&path, &[0..1, 2..4])
                .await
                .map(|found| found.into_iter().map(len).sum()),
        ]
    }

    #[test]
    fn only_regular_files_are_opened() {
        let (done, ended) = mpsc::channel();
        let running = std::thread::spawn(move || {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            let made = Command::new("mkfifo").arg(dir.join("pipe")).status();
            assert!(made.unwrap().success());
            fs::write(dir.join("file"), "text").unwrap();
            fs::create_dir(dir.join("folder")).unwrap();
            for (to, link) in [("pipe", "to-pipe"), ("file", "to-file")] {
                std::os::unix::fs::symlink(to, dir.join(link)).unwrap();
            }
            let store = LocalFileSystem::new_with_prefix(dir).unwrap();
            let store = RegularFiles::new(store);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                for name in ["pipe", "to-pipe"] {
                    for found in tried(&store, name).await {
                        assert!(is_refused(&found.unwrap_err()), "{name}");
                    }
                }
                for name in ["file", "to-file"] {
                    let found = tried(&store, name).await.map(Result::unwrap);
                    assert_eq!(found, [4, 4, 2, 3], "{name}");
                }
                for name in ["folder", "nothing"] {
                    let [got, head, ..] = tried(&store, name).await;
                    for found in [got, head] {
                        assert!(matches!(found, Err(Error::NotFound { .. })), "{name}");
                    }
                }
            });
            let _ = done.send(());
        });
        // What hangs fails.
        match ended.recv_timeout(Duration::from_mins(1)) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
            _ => running.join().unwrap(),
        }
    }
}
