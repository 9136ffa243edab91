//! A store that fails as networks do, and short forms for the tests.
#![allow(dead_code, reason = "each test crate uses its part")]

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use mvsink_persist::{Append, Client, ClientOptions, CommitId, Frontier, StagedFile};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It works.
    None,
    /// An error, and nothing happened.
    NotApplied,
    /// An error, and it happened.
    Applied,
    /// An error, and it happens some time later.
    AppliedLater,
    /// "Already exists", and nothing happened: an HTTP 409 about a concurrent request.
    Conflict,
}

/// Decides the fault of each call by a seed, or by a script for puts of log entries.
#[derive(Debug)]
pub struct Faults {
    random: StdRng,
    /// Calls in a hundred that fail.
    percent: u32,
    /// Faults of the next puts that create, before the seed decides.
    pub script: Vec<Fault>,
}

/// An [`ObjectStore`] with faults.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Mutex<Faults>,
    /// Objects that listings miss.
    hidden: Mutex<Vec<Path>>,
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

fn timed_out() -> Error {
    Error::Generic {
        store: "faulty",
        source: "timed out".into(),
    }
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, percent: u32) -> Arc<Self> {
        Arc::new(FaultyStore {
            inner,
            faults: Mutex::new(Faults {
                random: StdRng::seed_from_u64(seed),
                percent,
                script: Vec::new(),
            }),
            hidden: Mutex::default(),
        })
    }

    /// The next puts that create have these faults, in this order.
    pub fn script(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().script = faults.iter().rev().copied().collect();
    }

    /// Listings miss this object, as if it had been put while they were made.
    pub fn hide(&self, path: Path) {
        self.hidden.lock().unwrap().push(path);
    }

    async fn next(&self, creates: bool) -> Fault {
        let (wait, fault) = {
            let mut faults = self.faults.lock().unwrap();
            let wait = faults.random.random_range(0..10);
            let scripted = creates.then(|| faults.script.pop()).flatten();
            let fault = scripted.unwrap_or_else(|| {
                if faults.random.random_range(0..100) >= faults.percent {
                    return Fault::None;
                }
                match faults.random.random_range(0..4) {
                    0 => Fault::NotApplied,
                    1 => Fault::Applied,
                    2 => Fault::AppliedLater,
                    _ => Fault::Conflict,
                }
            });
            (wait, fault)
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        fault
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let creates = options.mode == object_store::PutMode::Create;
        match self.next(creates).await {
            Fault::None => self.inner.put_opts(location, payload, options).await,
            Fault::NotApplied => Err(timed_out()),
            Fault::Applied => {
                self.inner.put_opts(location, payload, options).await?;
                Err(timed_out())
            }
            // A late overwrite could bring back a deleted file, which no store in use here does.
            Fault::AppliedLater if creates => {
                let (inner, location) = (Arc::clone(&self.inner), location.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(35)).await;
                    let _ = inner.put_opts(&location, payload, options).await;
                });
                Err(timed_out())
            }
            Fault::Conflict if creates => Err(Error::AlreadyExists {
                path: location.to_string(),
                source: "a conflicting request".into(),
            }),
            Fault::AppliedLater | Fault::Conflict => Err(timed_out()),
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.next(false).await {
            Fault::None => self.inner.get_opts(location, options).await,
            _ => Err(timed_out()),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let hidden = self.hidden.lock().unwrap().clone();
        let seen = move |object: &ObjectMeta| !hidden.contains(&object.location);
        let listed = self.inner.list(prefix);
        Box::pin(listed.try_filter(move |object| futures::future::ready(seen(object))))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// One column of data, and the crate's own.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("value", DataType::Int64, true),
        Field::new("mv_error", DataType::Utf8, true),
        Field::new("mv_time", DataType::Int64, true),
        Field::new("mv_diff", DataType::Int64, true),
    ]))
}

/// Runs a test on one thread, with a clock that jumps ahead whenever nothing else can happen.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

/// Options with a seed, and without what is slow.
pub fn options(seed: u64) -> ClientOptions {
    let mut options = ClientOptions::default();
    options.fsync = false;
    options.seed = Some(seed);
    options
}

/// A client of the runtime that the test runs on.
pub fn client(options: ClientOptions) -> Client {
    Client::new(tokio::runtime::Handle::current(), options)
}

pub fn id(seq: u64) -> CommitId {
    CommitId { nonce: 1, seq }
}

/// An append of `files` from `lower` to `upper`.
pub fn append(seq: u64, lower: i64, upper: i64, files: Vec<StagedFile>) -> Append {
    Append {
        id: id(seq),
        lower: Frontier::At(lower),
        upper: Frontier::At(upper),
        files,
        since: None,
    }
}
