//! What a process has once for all its shards: options, stores, threads, randomness, and the open shards.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_schema::{FieldRef, SchemaRef};
use object_store::ObjectStore;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::acceptable::Required;
use crate::codec::Codec;
use crate::cpu::CpuPool;
use crate::error::Error;
use crate::frontier::Frontier;
use crate::location::{Location, Stores};
use crate::lock;
use crate::log::table_root::TableRoot;
use crate::retry::RetryPolicy;
use crate::shard::{Owner, Shard};
use crate::storage::{OnRetry, Storage};

/// Milliseconds since 1970; stored for people and other tools to read. Where time decides, it decides by the
/// monotonic clock, and this one only ever makes it more careful: it goes on while a machine is suspended.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How a process treats its shards.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Whether a local store syncs files and directories to the disk before a write counts as done (default: yes).
    /// Without, a commit that was reported can be lost when the machine (not the process) crashes.
    pub fsync: bool,
    /// A checkpoint is written whenever this many log entries were committed, and less often where it would be large: a
    /// commit pays for at most two hundred of its actions. 0 means never.
    pub checkpoint_interval: u64,
    /// The wait before looking for other processes' commits, just after one was found.
    pub poll_min: Duration,
    /// The wait before looking for other processes' commits, after a long time without any.
    pub poll_max: Duration,
    /// How many log entries are kept for their readers; older ones are read again from the store.
    pub recent_entries: usize,
    /// Log entries younger than this are never cleaned up (default: one hour). A process that has not looked at
    /// the log for a quarter of it makes sure that the log was not cleaned up beyond what it knows. All clients of
    /// a shard must have the same.
    pub log_min_age: Duration,
    /// Whether log entries and checkpoints that nobody needs to open the shard are deleted after checkpoints
    /// (default: yes).
    pub clean_log: bool,
    /// The waits after errors that may pass.
    pub retry: RetryPolicy,
    /// Whether computations, such as encoding, run where they are awaited instead of on threads of their own
    /// (default: no): for a runtime that is driven step by step, as a simulation's is.
    pub inline_compute: bool,
    /// The wall clock.
    pub clock: Clock,
    /// The seed of file names, identities and waits; `None` takes one from the operating system.
    pub seed: Option<u64>,
    /// Options of the stores in buckets, beside the environment's (`AWS_…`, `GOOGLE_…`, `AZURE_…`), which they
    /// override. Names are `object_store`'s configuration keys, such as `region`, `endpoint`, `allow_http` (without
    /// it, plain HTTP is refused), `timeout` (of one request, 60 s). A name that begins with `aws_`, `google_` or
    /// `azure_` concerns that provider only; others must be known to every one that is used.
    ///
    /// Values may be secrets: no message, log or [`Debug`](std::fmt::Debug) shows them.
    pub store_options: BTreeMap<String, String>,
    /// The folder on whose disk rows are put aside that are merged (compacted, or read) and exceed the memory there is
    /// for that (default: the system's for temporary files). The files have no names there, and go with the process.
    pub spill_directory: PathBuf,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            fsync: true,
            checkpoint_interval: 100,
            poll_min: Duration::from_millis(5),
            poll_max: Duration::from_millis(500),
            recent_entries: 256,
            log_min_age: Duration::from_secs(60 * 60),
            clean_log: true,
            retry: RetryPolicy::default(),
            inline_compute: false,
            clock: Arc::new(|| {
                let since_1970 = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
            }),
            seed: None,
            store_options: BTreeMap::new(),
            spill_directory: std::env::temp_dir(),
        }
    }
}

impl std::fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientOptions")
            .field("fsync", &self.fsync)
            .field("checkpoint_interval", &self.checkpoint_interval)
            .field("poll_min", &self.poll_min)
            .field("poll_max", &self.poll_max)
            .field("recent_entries", &self.recent_entries)
            .field("log_min_age", &self.log_min_age)
            .field("clean_log", &self.clean_log)
            .field("retry", &self.retry)
            .field("inline_compute", &self.inline_compute)
            .field("seed", &self.seed)
            .field("store_options", &self.store_options.keys())
            .field("spill_directory", &self.spill_directory)
            .finish_non_exhaustive()
    }
}

/// What a shard must be, or is created as.
#[derive(Clone, Debug)]
pub struct Open {
    /// All columns of the table, in order.
    pub schema: SchemaRef,
    /// Table properties beside the crate's own. An existing table must have the same values.
    pub properties: BTreeMap<String, String>,
    /// The since of a shard that is created.
    pub since: Frontier<i64>,
    /// Whether a table that is created says that it holds an input.
    pub(crate) input: bool,
    /// What is null in no row, as a table says that is created for an input.
    pub(crate) required: Required,
    /// The columns of the type, null where it can be, if those that the table lacks are to be added to it.
    pub(crate) adding: Option<Vec<FieldRef>>,
    /// What a table may be instead that an earlier version made.
    pub(crate) former: Option<Former>,
}

/// A table as an earlier version made it for the same type.
#[derive(Clone, Debug)]
pub(crate) struct Former {
    pub(crate) schema: SchemaRef,
    /// The columns of the type, null where it can be.
    pub(crate) columns: Vec<FieldRef>,
}

impl Open {
    /// A shard with these columns, no properties of its own, and a since of 0.
    pub fn new(schema: SchemaRef) -> Self {
        Open {
            schema,
            properties: BTreeMap::new(),
            since: Frontier::At(0),
            input: false,
            required: Required::default(),
            adding: None,
            former: None,
        }
    }

    /// The same for the columns of a codec. A table that is created says in its property `mvsink.required` which of them are
    /// null in no row, so that verification names rows of other programs that lack them, and a repair accepts none. A table that is there may also have those in which earlier versions stored
    /// the type; [`Codec::for_table`] writes and reads these.
    pub fn for_codec<D, E>(codec: &Codec<D, E>) -> Self
    where
        D: Serialize + DeserializeOwned,
        E: Serialize + DeserializeOwned,
    {
        let former = codec.former().map(|(schema, columns)| Former {
            schema,
            columns: columns.to_vec(),
        });
        Open {
            former,
            required: Required::of(codec.columns()),
            ..Open::new(codec.schema())
        }
    }

    /// A table that is created says in its property `mvsink.mode` that it holds an input: nobody writes its rows again if
    /// they are lost, so that a [repair](Client::repair) gives none up unless told to.
    #[must_use]
    pub fn as_input(mut self) -> Self {
        self.input = true;
        self
    }

    /// If the table is there and lacks columns of the codec's type, they are added at its end; each must be an
    /// option in the type, since it is null in the rows that are there. Writers and readers of the old type go
    /// on as before.
    #[must_use]
    pub fn adding_columns<D, E>(mut self, codec: &Codec<D, E>) -> Self
    where
        D: Serialize + DeserializeOwned,
        E: Serialize + DeserializeOwned,
    {
        let Open { schema, former, .. } = Open::for_codec(codec);
        self.schema = schema;
        self.former = former;
        self.adding = Some(codec.columns().to_vec());
        self
    }
}

/// What all shards of a process share, without the shards.
pub(crate) struct Environment {
    pub(crate) handle: Handle,
    pub(crate) options: ClientOptions,
    pub(crate) cpu: CpuPool,
    random: Mutex<StdRng>,
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    monotonic: Instant,
    wall_ms: i64,
}

impl Moment {
    /// How long ago it was by the monotonic clock alone, which no one sets.
    pub(crate) fn elapsed(self) -> Duration {
        self.monotonic.elapsed()
    }
}

impl Environment {
    pub(crate) fn now_ms(&self) -> i64 {
        (self.options.clock)()
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment {
            monotonic: Instant::now(),
            wall_ms: self.now_ms(),
        }
    }

    /// How long ago a moment was, at most: by whichever clock says more.
    pub(crate) fn since(&self, moment: Moment) -> Duration {
        let wall_ms = self.now_ms().saturating_sub(moment.wall_ms);
        let wall = Duration::from_millis(u64::try_from(wall_ms).unwrap_or(0));
        wall.max(moment.monotonic.elapsed())
    }

    pub(crate) fn random_u128(&self) -> u128 {
        lock(&self.random).random()
    }

    /// Uniform in `[0, 1)`.
    pub(crate) fn random_fraction(&self) -> f64 {
        lock(&self.random).random()
    }

    /// A random UUID (version 4).
    pub(crate) fn uuid(&self) -> String {
        let bits = self.random_u128();
        let bits = bits & !(0xf << 76) & !(0b11 << 62) | (0x4 << 76) | (0b10 << 62);
        let hex = format!("{bits:032x}");
        [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ]
        .join("-")
    }

    /// Waits as the policy says after failed attempt `attempt`.
    pub(crate) async fn wait(&self, attempt: u32) {
        let delay = self.options.retry.delay(attempt, self.random_fraction());
        tokio::time::sleep(delay).await;
    }

    pub(crate) async fn retry<T, F>(
        &self,
        on_retry: OnRetry<'_>,
        mut operation: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut attempt = 0_u32;
        loop {
            match operation().await {
                Err(error) if error.is_transient() => {
                    on_retry(&error);
                    self.wait(attempt).await;
                    attempt = attempt.saturating_add(1);
                }
                decided => return decided,
            }
        }
    }
}

/// A process's access to shards. Cheap to clone; make one and share it.
///
/// The same shard opened twice is one shard in memory, with one follower; it closes when the last handle goes.
///
/// The futures of a client and its shards wait with Tokio's timer, so they must be polled on a Tokio runtime. What
/// is not `async` may be called from any thread.
#[derive(Clone)]
pub struct Client {
    inner: Arc<ClientInner>,
}

struct ClientInner {
    env: Arc<Environment>,
    stores: Stores,
    /// By the key of the location. The lock is held while a shard is being opened.
    shards: Mutex<HashMap<String, Arc<Slot>>>,
}

type Slot = tokio::sync::Mutex<Weak<Owner>>;

impl Client {
    /// A client whose tasks run on `handle`, a runtime with time and I/O enabled.
    pub fn new(handle: Handle, options: ClientOptions) -> Client {
        let parallelism = std::thread::available_parallelism().map_or(1, |n| n.get());
        let random = match options.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_os_rng(),
        };
        Client {
            inner: Arc::new(ClientInner {
                stores: Stores::new(
                    options.fsync,
                    options.store_options.clone(),
                    // What is not Unicode is no setting of ours.
                    std::env::vars_os()
                        .filter_map(|(name, value)| {
                            Some((name.into_string().ok()?, value.into_string().ok()?))
                        })
                        .collect(),
                ),
                shards: Mutex::default(),
                env: Arc::new(Environment {
                    cpu: match options.inline_compute {
                        true => CpuPool::inline(handle.clone()),
                        false => CpuPool::new(handle.clone(), parallelism),
                    },
                    handle,
                    options,
                    random: Mutex::new(random),
                }),
            }),
        }
    }

    /// The pool for computations, shared by the process.
    pub fn cpu(&self) -> &CpuPool {
        &self.inner.env.cpu
    }

    /// The runtime that this client's tasks run on.
    pub fn handle(&self) -> &Handle {
        &self.inner.env.handle
    }

    /// The options that the client was made with.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.env.options
    }

    /// A fresh random number, for nonces: from the operating system, or reproducible if the options have a seed.
    pub fn random_u128(&self) -> u128 {
        self.inner.env.random_u128()
    }

    /// Makes `store` available as `memory://name`, instead of the empty one in memory that would be there.
    pub fn mount(&self, name: &str, store: Arc<dyn ObjectStore>) {
        self.inner.stores.mount(name, store);
    }

    #[cfg(feature = "testing")]
    pub(crate) fn store_at(&self, url: &str) -> Result<Arc<dyn ObjectStore>, Error> {
        Ok(self.inner.stores.locate(url)?.store)
    }

    /// Runs `operation` until it succeeds or fails for good: errors that may pass are told to `on_retry` and
    /// followed by a wait and another attempt.
    ///
    /// # Errors
    /// The first permanent one.
    pub async fn retry<T, F>(
        &self,
        on_retry: OnRetry<'_>,
        operation: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.inner.env.retry(on_retry, operation).await
    }

    /// Waits as the policy of retries says after failed attempt `attempt` (from 0).
    pub async fn wait(&self, attempt: u32) {
        self.inner.env.wait(attempt).await;
    }

    /// Opens the shard at `url`, or creates it: empty, with an upper of 0.
    ///
    /// Errors that may pass are retried for ever, with a warning each.
    ///
    /// # Errors
    /// If the table there has other columns or properties, or is not understood or damaged, or for good cannot be
    /// read or created. An existing table is then untouched.
    pub async fn open_or_create(&self, url: &str, open: Open) -> Result<Shard, Error> {
        self.open(url, Some(open), &Storage::warn_of_retry).await
    }

    /// Opens the shard at `url`; creates nothing.
    ///
    /// Errors that may pass are retried for ever, with a warning each.
    ///
    /// # Errors
    /// [`Error::NoShard`] if there is none; otherwise as [`Client::open_or_create`].
    pub async fn open_existing(&self, url: &str) -> Result<Shard, Error> {
        self.open(url, None, &Storage::warn_of_retry).await
    }

    /// What names the shard at this address: the same for all addresses of one shard. Whether there is one is not
    /// looked at.
    ///
    /// # Errors
    /// [`Error::Url`] if it is no address.
    pub fn shard_key(&self, url: &str) -> Result<String, Error> {
        Ok(self.inner.stores.locate(url)?.key)
    }

    /// The objects at an address.
    pub(crate) fn storage(&self, url: &str) -> Result<Storage, Error> {
        Ok(self.storage_of(self.inner.stores.locate(url)?))
    }

    fn storage_of(&self, location: Location) -> Storage {
        Storage {
            root: Arc::new(TableRoot::new(&location.url, location.local.as_ref())),
            url: location.url.into(),
            store: location.store,
            local: location.local,
            log_sync: Arc::default(),
            env: Arc::clone(&self.inner.env),
        }
    }

    /// Opens the shard at `url`; creates it if `open` says how.
    ///
    /// Errors that may pass are told to `on_retry` and followed by another attempt, for ever.
    ///
    /// # Errors
    /// As [`Client::open_or_create`] and [`Client::open_existing`].
    pub async fn open(
        &self,
        url: &str,
        open: Option<Open>,
        on_retry: OnRetry<'_>,
    ) -> Result<Shard, Error> {
        let location = self.inner.stores.locate(url)?;
        let slot = {
            let mut shards = lock(&self.inner.shards);
            shards.retain(|_, slot| {
                // In use: being opened, or open.
                Arc::strong_count(slot) > 1
                    || slot
                        .try_lock()
                        .map_or(true, |owner| owner.strong_count() > 0)
            });
            Arc::clone(shards.entry(location.key.clone()).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(owner) = slot.upgrade() {
            let shard = Shard::from(owner);
            match shard.inner().check_table(on_retry).await {
                // Those who have it find that out too; who opens it now opens what is there now.
                Err(error @ Error::Replaced { .. }) => {
                    tracing::warn!(%error, "opening what has taken its place");
                }
                checked => {
                    checked?;
                    if let Some(open) = &open {
                        shard.add_columns(open, on_retry).await?;
                        shard.check(open)?;
                    }
                    return Ok(shard);
                }
            }
        }
        let storage = self.storage_of(location);
        let owner = Arc::new(Owner::open(storage, open.as_ref(), on_retry).await?);
        *slot = Arc::downgrade(&owner);
        let shard = Shard::from(owner);
        if let Some(open) = &open {
            shard.add_columns(open, on_retry).await?;
            shard.check(open)?;
        }
        Ok(shard)
    }
}
