//! A store whose calls are counted, and can be held up before or after they take effect.
#![allow(dead_code, reason = "each test crate uses its part")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// Which calls are held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Nothing,
    /// Puts that create, before they happen.
    PutsBefore,
    /// Puts that create, after they happened.
    PutsAfter,
    Reads,
}

/// An [`ObjectStore`] that counts, and waits where it is told to.
#[derive(Debug)]
pub struct GateStore {
    inner: Arc<dyn ObjectStore>,
    held: watch::Sender<Held>,
    waiting: watch::Sender<u64>,
    pub reads: AtomicU64,
    pub lists: AtomicU64,
}

impl GateStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(GateStore {
            inner,
            held: watch::channel(Held::Nothing).0,
            waiting: watch::channel(0).0,
            reads: AtomicU64::new(0),
            lists: AtomicU64::new(0),
        })
    }

    pub fn hold(&self, held: Held) {
        self.held.send_replace(held);
    }

    /// Waits until some call is held up.
    pub async fn reached(&self) {
        let mut waiting = self.waiting.subscribe();
        waiting.wait_for(|waiting| *waiting > 0).await.unwrap();
    }

    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::Relaxed)
    }

    async fn pass(&self, call: Held) {
        if *self.held.borrow() != call {
            return;
        }
        self.waiting.send_modify(|waiting| *waiting += 1);
        let mut held = self.held.subscribe();
        held.wait_for(|held| *held != call).await.unwrap();
        self.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

impl fmt::Display for GateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gate to {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for GateStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let creates = options.mode == object_store::PutMode::Create;
        if creates {
            self.pass(Held::PutsBefore).await;
        }
        let result = self.inner.put_opts(location, payload, options).await;
        if creates {
            self.pass(Held::PutsAfter).await;
        }
        result
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.pass(Held::Reads).await;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
