//! What a host gives its sinks and sources, once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mvsink_persist::{Client, ClientOptions};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::corrections::{Directory, Disk};
use crate::dyncfg::ConfigSet;
use crate::status::Instance;

/// The surroundings of the sinks and sources of one process: the Tokio runtime for their tasks, the open
/// shards, the flags, and whether they may write.
///
/// Cheap to clone; give every worker thread a clone of the same one. Timely threads are not inside a
/// runtime, so the handle has to be given.
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
    instances: std::sync::Mutex<std::collections::BTreeMap<InstanceKey, std::sync::Weak<Instance>>>,
    /// The tasks that run.
    tasks: watch::Sender<usize>,
    warned_of_runtime: AtomicBool,
}

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
            spill_directory: std::env::temp_dir(),
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

    /// True if no task of any sink or source of this context runs. A host that has dropped its handles steps
    /// its workers until then, so that parts that are under way get to their appenders: what was being written
    /// is then written, and what was lost is deleted.
    pub fn is_settled(&self) -> bool {
        *self.inner.tasks.borrow() == 0
    }

    /// Waits until [`Context::is_settled`].
    pub async fn settled(&self) {
        // The sender lives as long as `self`.
        let _ = self
            .inner
            .tasks
            .subscribe()
            .wait_for(|tasks| *tasks == 0)
            .await;
    }

    /// Counts one more task, until what it gives is dropped.
    pub(crate) fn task(&self) -> TaskCount {
        self.inner.tasks.send_modify(|tasks| *tasks += 1);
        TaskCount(self.clone())
    }

    /// Where updates go that memory has no room for.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
    }

    pub(crate) fn read_only(&self) -> watch::Receiver<bool> {
        self.inner.read_only.clone()
    }

    /// What all workers of this process share of the operator with this name at this place.
    pub(crate) fn instance(&self, place: Vec<usize>, name: &str) -> Arc<Instance> {
        let mut instances = self
            .inner
            .instances
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        instances.retain(|_, instance| instance.strong_count() > 0);
        let entry = instances.entry((place, name.to_owned())).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let instance = Instance::new(name);
            *entry = Arc::downgrade(&instance);
            instance
        })
    }

    /// Says once that tasks cannot run on a current-thread runtime that nobody drives.
    pub(crate) fn check_runtime(&self) {
        let handle = self.inner.client.handle();
        let driven = handle.runtime_flavor() != tokio::runtime::RuntimeFlavor::CurrentThread;
        if !driven && !self.inner.warned_of_runtime.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "sinks run on a current-thread runtime: they make progress only while something blocks on it"
            );
        }
    }
}

/// One task that runs.
pub(crate) struct TaskCount(Context);

impl Drop for TaskCount {
    fn drop(&mut self) {
        self.0.inner.tasks.send_modify(|tasks| *tasks -= 1);
    }
}

/// Builds a [`Context`].
#[derive(Debug)]
pub struct ContextBuilder {
    handle: Handle,
    client: ClientOptions,
    configs: ConfigSet,
    read_only: watch::Receiver<bool>,
    spill_directory: PathBuf,
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
    /// no room: in a folder of its own below this directory, made when it is needed and deleted with the
    /// context. The default is the system's directory for temporary files; one that is kept in memory (`tmpfs`)
    /// saves none.
    pub fn spill_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.spill_directory = directory.into();
        self
    }

    /// The context.
    pub fn build(self) -> Context {
        let client = Client::new(self.handle, self.client);
        let names = client.clone();
        let disk = Directory::new(self.spill_directory, move || names.random_u128());
        Context {
            inner: Arc::new(Inner {
                client,
                disk: Arc::new(disk),
                configs: self.configs,
                read_only: self.read_only,
                instances: Default::default(),
                tasks: watch::Sender::new(0),
                warned_of_runtime: AtomicBool::new(false),
            }),
        }
    }
}
