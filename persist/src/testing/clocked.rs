//! A store whose clock is the test's.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::client::Clock;
use crate::lock;

/// When each object was last written, in milliseconds since 1970.
type Written = Arc<Mutex<HashMap<Path, i64>>>;

/// An [`ObjectStore`] whose objects are as old as a clock says, so that a test makes them old at will. What was there
/// before counts as written in 1970.
#[derive(Clone)]
pub struct ClockedStore {
    inner: Arc<dyn ObjectStore>,
    clock: Clock,
    written: Written,
    refused: Arc<Mutex<HashSet<Path>>>,
    unreadable: Arc<Mutex<Option<Path>>>,
}

fn stamp(written: &Written, meta: &mut ObjectMeta) {
    let at = lock(written).get(&meta.location).copied().unwrap_or(0);
    let since_1970 = Duration::from_millis(u64::try_from(at).unwrap_or(0));
    meta.last_modified = (UNIX_EPOCH + since_1970).into();
}

impl ClockedStore {
    /// A store that tells times by this clock.
    pub fn new(inner: Arc<dyn ObjectStore>, clock: Clock) -> Self {
        ClockedStore {
            inner,
            clock,
            written: Written::default(),
            refused: Arc::default(),
            unreadable: Arc::default(),
        }
    }

    /// Gives an object another time, in milliseconds since 1970.
    pub fn set_written(&self, location: &Path, at_ms: i64) {
        lock(&self.written).insert(location.clone(), at_ms);
    }

    /// From now on, nobody may put this object.
    pub fn refuse_puts(&self, location: &Path) {
        lock(&self.refused).insert(location.clone());
    }

    /// From now on, nobody may get this object, and no other is forbidden.
    pub fn refuse_gets(&self, location: Option<Path>) {
        *lock(&self.unreadable) = location;
    }
}

impl fmt::Debug for ClockedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClockedStore").field(&self.inner).finish()
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
        if lock(&self.refused).contains(location) {
            return Err(object_store::Error::PermissionDenied {
                path: location.to_string(),
                source: "nobody may put it".into(),
            });
        }
        let put = self.inner.put_opts(location, payload, options).await?;
        lock(&self.written).insert(location.clone(), (self.clock)());
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
        if lock(&self.unreadable).as_ref() == Some(location) {
            return Err(object_store::Error::PermissionDenied {
                path: location.to_string(),
                source: "nobody may get it".into(),
            });
        }
        let mut got = self.inner.get_opts(location, options).await?;
        stamp(&self.written, &mut got.meta);
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
        let stamped = move |listed: Result<ObjectMeta>| {
            listed.map(|mut meta| {
                stamp(&written, &mut meta);
                meta
            })
        };
        Box::pin(self.inner.list(prefix).map(stamped))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        for meta in &mut listed.objects {
            stamp(&self.written, meta);
        }
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
