//! A store whose clock is the test's: objects are as old as the runtime's clock says, which tests move at will.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::time::Instant;

/// When each object was last written.
#[derive(Debug)]
struct Written {
    start: Instant,
    at: Mutex<HashMap<Path, Instant>>,
}

impl Written {
    fn stamp(&self, meta: &mut ObjectMeta) {
        let at = self.at.lock().unwrap().get(&meta.location).copied();
        meta.last_modified = Default::default();
        meta.last_modified += at.unwrap_or(self.start) - self.start;
    }
}

/// An [`ObjectStore`] that tells times by Tokio's clock.
#[derive(Debug)]
pub struct ClockedStore {
    inner: Arc<dyn ObjectStore>,
    written: Arc<Written>,
}

impl ClockedStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        let written = Written {
            start: Instant::now(),
            at: Mutex::default(),
        };
        ClockedStore {
            inner,
            written: Arc::new(written),
        }
    }
}

impl fmt::Display for ClockedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clocked {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for ClockedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let put = self.inner.put_opts(location, payload, options).await?;
        let mut at = self.written.at.lock().unwrap();
        at.insert(location.clone(), Instant::now());
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut got = self.inner.get_opts(location, options).await?;
        self.written.stamp(&mut got.meta);
        Ok(got)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let written = Arc::clone(&self.written);
        let stamp = move |listed: Result<ObjectMeta>| {
            listed.map(|mut meta| {
                written.stamp(&mut meta);
                meta
            })
        };
        Box::pin(self.inner.list(prefix).map(stamp))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        for meta in &mut listed.objects {
            self.written.stamp(meta);
        }
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
