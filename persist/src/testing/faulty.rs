//! A store that fails as networks do, by a seed or by a script.
//!
//! What can happen to a call is what happened × what its caller hears:
//!
//! | | hears success | hears an error |
//! |---|---|---|
//! | it happened | [`Fault::None`], [`Fault::Slow`] | [`Fault::Applied`] |
//! | it happens later | | [`Fault::AppliedLater`] |
//! | nothing happened | [`Fault::Stale`] (reads) | [`Fault::NotApplied`], [`Fault::Conflict`] |
//!
//! The error is drawn too: at once, a time-out after a wait, or a server's 503. A listing that fails may have listed
//! some of it first.
//!
//! Invariant *replay*: on one thread with Tokio's paused clock, the same seed, options and calls give the same trace.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Call;
use crate::lock;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// It works.
    None,
    /// It works, and takes [`FaultOptions::slow`]. A listing is of the moment when it was asked for.
    Slow,
    /// An error, and nothing happened.
    NotApplied,
    /// An error, and it happened.
    Applied,
    /// An error, and it happens [`FaultOptions::later`]: creates and deletes only, others are [`Fault::NotApplied`].
    /// (A late overwrite could bring back a deleted file.)
    AppliedLater,
    /// "Already exists", and nothing happened: an HTTP 409 about a concurrent request. Creates only, others are
    /// [`Fault::NotApplied`].
    Conflict,
    /// What was put less than [`FaultOptions::stale`] ago is not found, or not listed. Reads only, others work.
    Stale,
}

/// What goes wrong how often.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FaultOptions {
    /// The seed of all that is drawn.
    pub seed: u64,
    /// Calls in a hundred that have a fault.
    pub percent: u32,
    /// The longest wait of a call without a fault.
    pub latency: Duration,
    /// The wait of a slow call, and until a time-out.
    pub slow: Duration,
    /// When a late call happens.
    pub later: Duration,
    /// How long reads may not find an object that was put; `None` for stores that are strongly consistent, as all are
    /// that a shard can live in.
    pub stale: Option<Duration>,
}

impl Default for FaultOptions {
    fn default() -> Self {
        FaultOptions {
            seed: 0,
            percent: 0,
            latency: Duration::from_millis(9),
            slow: Duration::from_millis(50),
            later: Duration::from_millis(35),
            stale: None,
        }
    }
}

/// One call that a [`FaultyStore`] has had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Its kind.
    pub call: Call,
    /// Its object.
    pub path: Path,
    /// What happened to it.
    pub fault: Fault,
}

/// An [`ObjectStore`] with faults. See [`Fault`] for what can happen to a call.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn ObjectStore>,
    options: FaultOptions,
    faults: Mutex<Faults>,
    /// Late calls that are still to happen.
    late: watch::Sender<usize>,
}

#[derive(Debug)]
struct Faults {
    random: StdRng,
    percent: u32,
    /// Under which all calls fail.
    down: Option<Path>,
    script: VecDeque<Fault>,
    deletes: VecDeque<Fault>,
    trace: Vec<Traced>,
    /// Objects that listings miss.
    hidden: Vec<Path>,
    /// What was put, and when; kept as long as a read may be stale.
    fresh: VecDeque<(Instant, Path)>,
}

/// What was drawn for one call.
struct Drawn {
    fault: Fault,
    wait: Duration,
    error: Error,
}

impl Drawn {
    /// The error of what has happened, or will, when its caller hears of it.
    async fn fail<T>(self) -> Result<T> {
        tokio::time::sleep(self.wait).await;
        Err(self.error)
    }
}

impl FaultyStore {
    /// Faults in `percent` of a hundred calls, as the seed decides.
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64, percent: u32) -> Arc<Self> {
        Self::with_options(
            inner,
            FaultOptions {
                seed,
                percent,
                ..FaultOptions::default()
            },
        )
    }

    /// Faults as the options say.
    pub fn with_options(inner: Arc<dyn ObjectStore>, options: FaultOptions) -> Arc<Self> {
        Arc::new(FaultyStore {
            shared: Arc::new(Shared {
                inner,
                faults: Mutex::new(Faults {
                    random: StdRng::seed_from_u64(options.seed),
                    percent: options.percent,
                    down: None,
                    script: VecDeque::new(),
                    deletes: VecDeque::new(),
                    trace: Vec::new(),
                    hidden: Vec::new(),
                    fresh: VecDeque::new(),
                }),
                options,
                late: watch::channel(0).0,
            }),
        })
    }

    /// The next puts that create have these faults, in this order; after that the seed decides again.
    pub fn script(&self, faults: &[Fault]) {
        lock(&self.shared.faults).script = faults.iter().copied().collect();
    }

    /// The next deletions have these faults, in this order; after that the seed decides again.
    pub fn script_deletes(&self, faults: &[Fault]) {
        lock(&self.shared.faults).deletes = faults.iter().copied().collect();
    }

    /// From now on, faults in `percent` of a hundred calls.
    pub fn set_percent(&self, percent: u32) {
        lock(&self.shared.faults).percent = percent;
    }

    /// From now on every call for what lies under this path, of which the root is all, fails and nothing happens, whatever
    /// was scripted or drawn: an outage. `None` ends it.
    pub fn set_down(&self, under: Option<Path>) {
        lock(&self.shared.faults).down = under;
    }

    /// Listings miss this object, as if it had been put while they were made.
    pub fn hide(&self, path: Path) {
        lock(&self.shared.faults).hidden.push(path);
    }

    /// Waits until all late calls so far have happened.
    pub async fn settled(&self) {
        let mut late = self.shared.late.subscribe();
        // The sender is here.
        let _ = late.wait_for(|late| *late == 0).await;
    }

    /// The calls so far, in order.
    pub fn trace(&self) -> Vec<Traced> {
        lock(&self.shared.faults).trace.clone()
    }
}

fn failed(kind: u32) -> Error {
    match kind {
        0 => Error::Generic {
            store: "faulty",
            source: "the connection was lost".into(),
        },
        1 => Error::Generic {
            store: "faulty",
            source: "timed out".into(),
        },
        // As the classification of errors sees it.
        _ => Error::Generic {
            store: "S3",
            source: "Server returned non-2xx status code: 503 Service Unavailable".into(),
        },
    }
}

impl Shared {
    /// What happens to a call, after the wait for it unless it happens before its caller hears.
    async fn draw(&self, call: Call, path: &Path) -> Drawn {
        let drawn = self.decide(call, path);
        if !matches!(drawn.fault, Fault::Applied | Fault::AppliedLater) {
            tokio::time::sleep(drawn.wait).await;
        }
        drawn
    }

    fn decide(&self, call: Call, path: &Path) -> Drawn {
        let mut faults = lock(&self.faults);
        let latency = self.options.latency.mul_f64(faults.random.random());
        let drawn = if faults.random.random_range(0..100) < faults.percent {
            // As many draws whatever the call is, so that traces stay comparable.
            match faults.random.random_range(0..6) {
                0 => Fault::NotApplied,
                1 => Fault::Applied,
                2 => Fault::AppliedLater,
                3 => Fault::Conflict,
                4 => Fault::Slow,
                _ => Fault::Stale,
            }
        } else {
            Fault::None
        };
        let kind = faults.random.random_range(0..3);
        let scripted = match call {
            Call::Create => faults.script.pop_front(),
            Call::Delete => faults.deletes.pop_front(),
            _ => None,
        };
        let down = faults.down.as_ref();
        let fault = match scripted.unwrap_or(drawn) {
            _ if down.is_some_and(|down| path.prefix_matches(down)) => Fault::NotApplied,
            Fault::AppliedLater if !matches!(call, Call::Create | Call::Delete) => {
                Fault::NotApplied
            }
            Fault::Conflict if call != Call::Create => Fault::NotApplied,
            Fault::Stale if self.options.stale.is_none() => Fault::None,
            Fault::Stale
                if !matches!(call, Call::Get | Call::GetRange | Call::Head | Call::List) =>
            {
                Fault::None
            }
            fault => fault,
        };
        faults.trace.push(Traced {
            call,
            path: path.clone(),
            fault,
        });
        let slow = match fault {
            Fault::Slow => true,
            Fault::Applied | Fault::AppliedLater | Fault::NotApplied => kind == 1,
            Fault::None | Fault::Conflict | Fault::Stale => false,
        };
        let error = match fault {
            Fault::Conflict => Error::AlreadyExists {
                path: path.to_string(),
                source: "a conflicting request".into(),
            },
            _ => failed(kind),
        };
        let wait = if slow { self.options.slow } else { latency };
        Drawn { fault, wait, error }
    }

    fn was_put(&self, path: &Path) {
        let Some(stale) = self.options.stale else {
            return;
        };
        let (mut faults, now) = (lock(&self.faults), Instant::now());
        faults.fresh.push_back((now, path.clone()));
        while faults
            .fresh
            .front()
            .is_some_and(|(at, _)| now - *at > stale)
        {
            faults.fresh.pop_front();
        }
    }

    fn is_fresh(&self, path: &Path) -> bool {
        let Some(stale) = self.options.stale else {
            return false;
        };
        let now = Instant::now();
        let faults = lock(&self.faults);
        let mut fresh = faults.fresh.iter();
        fresh.any(|(at, fresh)| fresh == path && now - *at <= stale)
    }

    async fn put(
        self: Arc<Self>,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let result = self.inner.put_opts(to, payload, options).await;
        if result.is_ok() {
            self.was_put(to);
        }
        result
    }

    /// Has `work` done some time later, whoever still waits for it.
    fn later<T: Send>(self: &Arc<Self>, work: impl Future<Output = Result<T>> + Send + 'static) {
        self.late.send_modify(|late| *late += 1);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(shared.options.later).await;
            // Nobody is there to hear how it went.
            let _ = work.await;
            shared.late.send_modify(|late| *late -= 1);
        });
    }

    async fn delete(self: Arc<Self>, path: Path) -> Result<Path> {
        let drawn = self.draw(Call::Delete, &path).await;
        match drawn.fault {
            Fault::Applied => {
                self.inner.delete(&path).await?;
                drawn.fail().await
            }
            Fault::AppliedLater => {
                let inner = Arc::clone(&self.inner);
                self.later(async move { inner.delete(&path).await });
                drawn.fail().await
            }
            Fault::NotApplied => Err(drawn.error),
            _ => self.inner.delete(&path).await.map(|()| path),
        }
    }

    async fn list(self: Arc<Self>, prefix: Option<Path>) -> Vec<Result<ObjectMeta>> {
        let path = prefix.clone().unwrap_or_default();
        let drawn = self.decide(Call::List, &path);
        // Before the wait: a listing is of the moment when it was asked for.
        let mut listed: Vec<_> = self.inner.list(prefix.as_ref()).collect().await;
        listed.retain(|object| match object {
            Ok(object) => {
                let missed = drawn.fault == Fault::Stale && self.is_fresh(&object.location);
                !missed && !lock(&self.faults).hidden.contains(&object.location)
            }
            Err(_) => true,
        });
        tokio::time::sleep(drawn.wait).await;
        match drawn.fault {
            Fault::NotApplied => vec![Err(drawn.error)],
            Fault::Applied => {
                listed.truncate(listed.len() / 2);
                listed.push(Err(drawn.error));
                listed
            }
            _ => listed,
        }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.shared.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let shared = Arc::clone(&self.shared);
        let drawn = shared.draw(Call::of_put(&options), to).await;
        match drawn.fault {
            Fault::Applied => {
                shared.put(to, payload, options).await?;
                drawn.fail().await
            }
            Fault::AppliedLater => {
                let (to, put) = (to.clone(), Arc::clone(&shared));
                shared.later(async move { put.put(&to, payload, options).await });
                drawn.fail().await
            }
            Fault::NotApplied | Fault::Conflict => Err(drawn.error),
            _ => shared.put(to, payload, options).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let drawn = self.shared.draw(Call::Put, to).await;
        match drawn.fault {
            Fault::NotApplied | Fault::Applied => Err(drawn.error),
            _ => self.shared.inner.put_multipart_opts(to, options).await,
        }
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        let drawn = self.shared.draw(Call::of_get(&options), from).await;
        match drawn.fault {
            Fault::NotApplied | Fault::Applied => Err(drawn.error),
            Fault::Stale if self.shared.is_fresh(from) => Err(Error::NotFound {
                path: from.to_string(),
                source: "it was put a moment ago".into(),
            }),
            _ => self.shared.inner.get_opts(from, options).await,
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(paths.then(move |path| {
            let shared = Arc::clone(&shared);
            async move { shared.delete(path?).await }
        }))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = Arc::clone(&self.shared).list(prefix.cloned());
        let listed = async { futures::stream::iter(listed.await) };
        Box::pin(futures::stream::once(listed).flatten())
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        let drawn = self.shared.draw(Call::List, &path).await;
        match drawn.fault {
            Fault::NotApplied | Fault::Applied => Err(drawn.error),
            _ => self.shared.inner.list_with_delimiter(prefix).await,
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let drawn = self.shared.draw(Call::Copy, to).await;
        match drawn.fault {
            Fault::NotApplied => Err(drawn.error),
            Fault::Applied => {
                self.shared.inner.copy_opts(from, to, options).await?;
                drawn.fail().await
            }
            _ => self.shared.inner.copy_opts(from, to, options).await,
        }
    }
}
