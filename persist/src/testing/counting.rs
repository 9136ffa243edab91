//! A store that counts its calls.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::Call;
use crate::lock;

/// Counts the calls that reach a store, with their bytes. What failed counts too; bytes count as asked for by puts,
/// and as answered by gets.
///
/// It remembers each call with its path: memory grows with them until [`CountingStore::reset`].
#[derive(Debug)]
pub struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    calls: Arc<Mutex<Vec<Counted>>>,
}

#[derive(Debug)]
struct Counted {
    call: Call,
    path: Path,
    bytes: u64,
}

impl CountingStore {
    /// Counts the calls to `inner`, from 0.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(CountingStore {
            inner,
            calls: Arc::default(),
        })
    }

    /// The calls of this kind.
    pub fn count(&self, call: Call) -> usize {
        self.count_where(|kind, _| kind == call)
    }

    /// The calls that `wanted` says yes to, by kind and path.
    pub fn count_where(&self, wanted: impl Fn(Call, &Path) -> bool) -> usize {
        let calls = lock(&self.calls);
        calls
            .iter()
            .filter(|counted| wanted(counted.call, &counted.path))
            .count()
    }

    /// The bytes of the calls of this kind.
    pub fn bytes(&self, call: Call) -> u64 {
        self.bytes_where(|kind, _| kind == call)
    }

    /// The bytes of the calls that `wanted` says yes to, by kind and path.
    pub fn bytes_where(&self, wanted: impl Fn(Call, &Path) -> bool) -> u64 {
        let calls = lock(&self.calls);
        let calls = calls
            .iter()
            .filter(|counted| wanted(counted.call, &counted.path));
        calls.map(|counted| counted.bytes).sum()
    }

    /// All calls, whatever their kind.
    pub fn total(&self) -> usize {
        lock(&self.calls).len()
    }

    /// Back to 0.
    pub fn reset(&self) {
        lock(&self.calls).clear();
    }

    fn add(&self, call: Call, path: &Path, bytes: u64) {
        lock(&self.calls).push(Counted {
            call,
            path: path.clone(),
            bytes,
        });
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counting {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        self.add(Call::of_put(&options), to, bytes);
        self.inner.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.add(Call::Put, to, 0);
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        let call = Call::of_get(&options);
        let result = self.inner.get_opts(from, options).await;
        let bytes = match &result {
            Ok(object) if call != Call::Head => object.range.end - object.range.start,
            _ => 0,
        };
        self.add(call, from, bytes);
        result
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let calls = Arc::clone(&self.calls);
        let counted = paths.inspect_ok(move |path| {
            lock(&calls).push(Counted {
                call: Call::Delete,
                path: path.clone(),
                bytes: 0,
            });
        });
        self.inner.delete_stream(Box::pin(counted))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.add(Call::List, prefix.unwrap_or(&Path::default()), 0);
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.add(Call::List, prefix.unwrap_or(&Path::default()), 0);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.add(Call::Copy, to, 0);
        self.inner.copy_opts(from, to, options).await
    }
}
