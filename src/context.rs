//! What a host gives its sinks and sources, once.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use mvsink_persist::{Client, ClientOptions};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::corrections::{Directory, Disk};
use crate::count::{Count, One};
use crate::dyncfg::{ConfigSet, STALL_AFTER_MS};
use crate::error::Error;
use crate::instance::{Instance, Kind};
use crate::runtime::{self, RuntimeFault, Silence};
use crate::share::Shares;

/// The surroundings of the sinks and sources of one process: the Tokio runtime for their tasks, the open
/// shards, the flags, and whether they may write.
///
/// Cheap to clone; give every worker thread a clone of the same one. Timely threads are not inside a
/// runtime, so the handle has to be given.
///
/// The runtime needs its clock, and for buckets its I/O: build it with `enable_all`. It must run until the sinks and
/// sources have ended; a current-thread runtime runs only while a thread blocks on it. [`Context::check`] says whether a
/// runtime will do. On one that will not, or not any more, sinks and sources fail with [`Error::Runtime`].
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    configs: ConfigSet,
    read_only: watch::Receiver<bool>,
    disk: Arc<dyn Disk>,
    /// What the workers of this process share, by the place of the sink in the dataflow, which is the same
    /// on all of them.
    instances: std::sync::Mutex<std::collections::BTreeMap<InstanceKey, Weak<Instance>>>,
    /// What each worker has of them.
    shares: Shares,
    /// What is told of them to those who scrape metrics, also of those that have ended.
    #[cfg(feature = "prometheus")]
    observed: crate::counters::observed::Registry,
    /// What runs for any sink or source.
    running: Count,
    /// When it was built, on the runtime's clock.
    born: Instant,
    /// The runtime was built without a clock.
    lacks_clock: bool,
    /// A thread watches whether somebody drives the runtime.
    watches_runtime: AtomicBool,
}

/// How many times as long as for the store a sink waits until somebody drives its runtime.
const UNDRIVEN_TIMES: u32 = 3;

type InstanceKey = (Vec<usize>, String);

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("configs", &self.inner.configs)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A context whose tasks run on this runtime, with default options; sinks may write.
    pub fn new(handle: Handle) -> Self {
        Self::builder(handle).build()
    }

    /// A context with other options.
    pub fn builder(handle: Handle) -> ContextBuilder {
        ContextBuilder {
            handle,
            client: ClientOptions::default(),
            configs: ConfigSet::new(),
            read_only: watch::Sender::new(false).subscribe(),
            spill_directory: None,
        }
    }

    /// The flags; changes take effect at once.
    pub fn configs(&self) -> &ConfigSet {
        &self.inner.configs
    }

    /// The shards that this process has open.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Whether the runtime can run the tasks of sinks and sources. That nobody drives a current-thread runtime is not seen
    /// at once: sinks and sources on it are stalled, and fail when that has lasted a while.
    ///
    /// # Errors
    ///
    /// [`Error::Runtime`] if it has shut down, or was built without a clock.
    pub fn check(&self) -> Result<(), Error> {
        let shut_down = runtime::has_shut_down(self.client().handle());
        let why = match (shut_down, self.inner.lacks_clock) {
            (true, _) => RuntimeFault::ShutDown,
            (false, true) => RuntimeFault::NoClock,
            (false, false) => return Ok(()),
        };
        Err(Error::Runtime { why })
    }

    /// True if nothing runs for any sink or source of this context: no task, and no operator that awaits. A host that
    /// has dropped its handles steps its workers until then, so that parts that are under way get to their appenders:
    /// what was being written is then written, and what was lost is deleted.
    pub fn is_settled(&self) -> bool {
        self.inner.running.is_zero()
    }

    /// Waits until [`Context::is_settled`].
    pub async fn settled(&self) {
        self.inner.running.zero().await;
    }

    /// Has the registry collect what the sinks and sources of this context count, their status, how far they are, and how
    /// large their shards are: for as long as the context lives, also when they have ended. Of those that have ended the
    /// last thousand are kept, so that a host that makes new ones for ever does not grow.
    ///
    /// Series of sinks, `mvsink_…`, have the labels `sink`, the name, and `address`, the place in the dataflows, since names
    /// may repeat; those of sources, `mvsink_source_…`, have `source` instead of `sink`. One that is rendered in the place
    /// of another of its name goes on with its counters.
    ///
    /// # Errors
    ///
    /// If the registry has collectors of these names already, as those of another context.
    #[cfg(feature = "prometheus")]
    pub fn register_metrics(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        let context = Arc::downgrade(&self.inner);
        let observed = move || {
            let inner = context.upgrade();
            inner.map_or_else(Vec::new, |inner| inner.observed.observed())
        };
        let collector = crate::counters::prometheus::Collector::new(observed)?;
        registry.register(Box::new(collector))
    }

    /// Counts one more thing that runs, until what it gives is dropped.
    pub(crate) fn running(&self) -> One {
        self.inner.running.one()
    }

    /// The shares of all workers of this process.
    pub(crate) fn shares(&self) -> &Shares {
        &self.inner.shares
    }

    /// Milliseconds since it was built, on the runtime's clock, which tests move.
    pub(crate) fn now_ms(&self) -> u64 {
        let _runtime = self.client().handle().enter();
        u64::try_from(self.inner.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Where updates go that memory has no room for.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
    }

    pub(crate) fn read_only(&self) -> watch::Receiver<bool> {
        self.inner.read_only.clone()
    }

    /// What all workers of this process share of the operator with this name at this place, for this worker: its index,
    /// and of how many. A second sink of one name on one shard has failed from the start, on all its workers.
    pub(crate) fn instance(
        &self,
        place: Vec<usize>,
        worker: (usize, usize),
        name: &str,
        kind: Kind,
        url: &str,
    ) -> Arc<Instance> {
        // Of an address that is none the sink will say so when it opens the shard.
        let shard = self.client().shard_key(url).unwrap_or(url.to_owned());
        let instances = self.inner.instances.lock();
        let mut instances = instances.unwrap_or_else(PoisonError::into_inner);
        instances.retain(|_, instance| instance.strong_count() > 0);
        let key = (place, name.to_owned());
        if let Some(instance) = instances.get(&key).and_then(Weak::upgrade)
            && instance.joins(worker)
        {
            return instance;
        }
        let mut others = instances.values().filter_map(Weak::upgrade);
        let duplicate = kind == Kind::Sink && others.any(|other| other.is_live_sink(name, &shard));
        let instance = Instance::new(name, kind, shard);
        instance.joins(worker);
        if duplicate {
            instance.fail(Error::Duplicate {
                name: name.to_owned(),
                url: url.to_owned(),
            });
        }
        #[cfg(feature = "prometheus")]
        self.remember(&key, kind, &instance);
        instances.insert(key, Arc::downgrade(&instance));
        instance
    }

    #[cfg(feature = "prometheus")]
    fn remember(&self, (address, name): &InstanceKey, kind: Kind, instance: &Arc<Instance>) {
        let key = crate::counters::observed::Key {
            kind,
            name: name.clone(),
            address: address.clone(),
        };
        self.inner.observed.add(key, instance);
    }

    /// Has a runtime that somebody must drive watched until somebody does.
    pub(crate) fn watch_runtime(&self) {
        let client = self.client();
        let driven = client.handle().runtime_flavor() != RuntimeFlavor::CurrentThread;
        let stepped = client.options().inline_compute;
        if driven || stepped || self.inner.watches_runtime.swap(true, Ordering::AcqRel) {
            return;
        }
        let patience = Duration::from_millis(STALL_AFTER_MS.get(self.configs()) as u64);
        let inner = Arc::downgrade(&self.inner);
        runtime::watch(
            client.handle(),
            patience,
            patience * UNDRIVEN_TIMES,
            move |silence| {
                if let Some(inner) = inner.upgrade() {
                    inner.silent(silence, patience);
                }
            },
        );
    }
}

impl Inner {
    /// The runtime has run no task for so long.
    fn silent(&self, silence: Silence, patience: Duration) {
        const TASK: &str = "runtime";
        let why = RuntimeFault::Undriven;
        // Before the look at who is there, so that whoever comes later has it watched anew.
        let over = silence != Silence::Long;
        if over {
            self.watches_runtime.store(false, Ordering::Release);
        }
        for instance in self.live() {
            match silence {
                Silence::Long => {
                    let ms = patience.as_millis();
                    instance.stalled(TASK, 0, &format_args!("no task has run for {ms} ms: {why}"));
                }
                Silence::Lasting => instance.fail_unended(Error::Runtime { why }),
                Silence::Over => instance.resumed(TASK, 0),
            }
        }
    }

    /// All sinks and sources that there are.
    fn live(&self) -> Vec<Arc<Instance>> {
        let instances = self
            .instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        instances.values().filter_map(Weak::upgrade).collect()
    }
}

/// Builds a [`Context`].
#[derive(Debug)]
pub struct ContextBuilder {
    handle: Handle,
    client: ClientOptions,
    configs: ConfigSet,
    read_only: watch::Receiver<bool>,
    spill_directory: Option<PathBuf>,
}

impl ContextBuilder {
    /// How shards are opened and followed.
    pub fn client_options(mut self, options: ClientOptions) -> Self {
        self.client = options;
        self
    }

    /// Flags that the host holds too, to change them.
    pub fn configs(mut self, configs: ConfigSet) -> Self {
        self.configs = configs;
        self
    }

    /// A signal that says `true` while sinks must not write.
    pub fn read_only(mut self, read_only: watch::Receiver<bool>) -> Self {
        self.read_only = read_only;
        self
    }

    /// Where sinks put updates for which their memory ([`CORRECTIONS_BYTES`](crate::dyncfg::CORRECTIONS_BYTES)) has
    /// no room: in files on the disk of this directory that have no names and that only this process can read. The
    /// system deletes them with the process, however that ends. Merges of files put there what exceeds theirs. The
    /// default is that of the client's options, which is the system's directory for temporary files; one that is kept
    /// in memory (`tmpfs`) saves none.
    pub fn spill_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spill_directory = Some(directory.into());
        self
    }

    /// The context. Whether its runtime will do, [`Context::check`] says.
    pub fn build(self) -> Context {
        let born = {
            let _runtime = self.handle.enter();
            Instant::now()
        };
        let lacks_clock = runtime::lacks_clock(&self.handle);
        let mut options = self.client;
        if let Some(directory) = self.spill_directory {
            options.spill_directory = directory;
        }
        let spill_directory = options.spill_directory.clone();
        let client = Client::new(self.handle, options);
        let disk = Directory::new(spill_directory);
        Context {
            inner: Arc::new(Inner {
                client,
                disk: Arc::new(disk),
                configs: self.configs,
                read_only: self.read_only,
                instances: Default::default(),
                shares: Shares::default(),
                #[cfg(feature = "prometheus")]
                observed: Default::default(),
                running: Count::default(),
                born,
                lacks_clock,
                watches_runtime: AtomicBool::new(false),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whichever worker of the second run comes first: a run with as many workers, and one with more.
    #[test]
    fn a_run_shares_nothing_with_the_one_before() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for (before, workers) in [(2, [0, 1]), (2, [1, 0]), (1, [0, 1]), (1, [1, 0])] {
            let cx = Context::new(runtime.handle().clone());
            let instance = |index, peers| {
                cx.instance(vec![0, 7], (index, peers), "view", Kind::Sink, "memory://a")
            };
            let old: Vec<_> = (0..before).map(|index| instance(index, before)).collect();
            assert!(old.iter().all(|share| Arc::ptr_eq(share, &old[0])));
            let [first, second] = workers.map(|index| instance(index, 2));
            assert!(!Arc::ptr_eq(&first, &old[0]), "{before}: {workers:?}");
            assert!(Arc::ptr_eq(&first, &second), "{before}: {workers:?}");
        }
    }
}
