//! What the operators and tasks of one sink or source share on one worker.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use mvsink_persist::{Error as ShardError, Open, Shard, StagedFile};
use timely::dataflow::Scope;
use timely::dataflow::operators::generic::OperatorInfo;
use timely::progress::Timestamp;

use crate::context::Context;
use crate::count::{Count, One};
use crate::error::Error;
use crate::maintenance;
use crate::status::{Instance, Stop};
use crate::wake::Waker;

/// How a sink or source opens its shard.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) url: String,
    /// How to create it; `None` if it must exist.
    pub(crate) create: Option<Open>,
}

/// One worker's share of a sink or source.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) cx: Context,
    pub(crate) instance: Arc<Instance>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) index: usize,
    pub(crate) peers: usize,
    opening: Arc<Opening>,
    count: Count,
}

impl Worker {
    /// The share of the worker that renders `name` in this scope now.
    pub(crate) fn new<T: Timestamp>(
        cx: &Context,
        scope: &Scope<'_, T>,
        name: &str,
        opening: Opening,
    ) -> Self {
        cx.check_runtime();
        // Workers render the same operators in the same order, so the next identifier is the same on all
        // of them, and tells two sinks of one name in one dataflow apart.
        let mut place = scope.addr().to_vec();
        place.push(scope.worker().peek_identifier());
        let instance = cx.instance(place, name);
        let stop = instance.stop();
        Worker {
            cx: cx.clone(),
            instance,
            stop,
            index: scope.index(),
            peers: scope.peers(),
            opening: Arc::new(opening),
            count: Count::default(),
        }
    }

    /// A waker of an operator, which also wakes it when the sink stops.
    pub(crate) fn waker<T: Timestamp>(
        &self,
        scope: &Scope<'_, T>,
        info: &OperatorInfo,
    ) -> Arc<Waker> {
        let activator = scope.worker().sync_activator_for(info.address.to_vec());
        // A worker that is gone needs no wake-up.
        let waker = Waker::new(move || {
            let _ = activator.activate();
        });
        self.stop.wakes(Arc::clone(&waker));
        waker
    }

    /// The shard, opened by the first task of the process that asks.
    pub(crate) async fn shard(&self, task: &str) -> Result<Shard, Error> {
        let opened = self
            .instance
            .shard
            .get_or_try_init(|| async {
                let shard = self.open(task).await?;
                let upkeep = maintenance::run(self.clone(), shard.clone());
                self.spawn(async move {
                    upkeep.await;
                    Ok(())
                });
                Ok::<_, Error>(shard)
            })
            .await?;
        self.instance.started();
        Ok(opened.clone())
    }

    /// Opens the shard, and creates it if it may: a read-only sink waits until another one has done so, or
    /// until it is promoted.
    async fn open(&self, task: &str) -> Result<Shard, Error> {
        let client = self.cx.client();
        let url = &self.opening.url;
        let Some(create) = &self.opening.create else {
            return self.retry(task, || client.open_existing(url)).await;
        };
        let mut read_only = self.cx.read_only();
        loop {
            if !*read_only.borrow_and_update() {
                return self
                    .retry(task, || client.open_or_create(url, create.clone()))
                    .await;
            }
            self.instance.read_only(true);
            match self.retry(task, || client.open_existing(url)).await {
                Err(Error::Shard(ShardError::NoShard { .. })) => {}
                opened => return opened,
            }
            // A host that drops its signal has decided for good: then only another sink can create it.
            let promoted = async {
                if read_only.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let _ = tokio::time::timeout(client.options().poll_max, promoted).await;
        }
    }

    /// Tries again and again while the error is one that may pass, and says that the sink is stalled.
    pub(crate) async fn retry<O, F>(
        &self,
        task: &str,
        attempt: impl FnMut() -> F,
    ) -> Result<O, Error>
    where
        F: Future<Output = Result<O, ShardError>>,
    {
        let stalled = |error: &ShardError| self.instance.stalled(task, error);
        let output = self.cx.client().retry(&stalled, attempt).await?;
        self.instance.resumed(task);
        Ok(output)
    }

    /// Deletes staged files that no commit refers to. What cannot be deleted now costs space and nothing else.
    pub(crate) async fn delete_staged(&self, shard: &Shard, files: &[StagedFile]) {
        let deleted = self.stop.or_grace(shard.delete_files(files)).await;
        if let Some(Err(error)) = deleted {
            tracing::warn!(sink = %self.instance.name, %error, "left staged files behind");
        }
    }

    /// Runs a task until it ends, or the sink stops. Its error, or its panic, fails the sink.
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let handle = self.cx.client().handle().clone();
        let worker = self.clone();
        let running = self.running();
        handle.clone().spawn(async move {
            match handle.spawn(task).await {
                Ok(ended) => worker.ended(ended),
                Err(join) => {
                    if let Ok(panic) = join.try_into_panic() {
                        worker.panicked(panic.as_ref());
                    }
                }
            }
            drop(running);
        });
    }

    /// Counts something that runs for this share, until what it gives is dropped.
    pub(crate) fn running(&self) -> Running {
        Running {
            _share: self.count.one(),
            _context: self.cx.running(),
        }
    }

    /// What runs for this share.
    pub(crate) fn count(&self) -> &Count {
        &self.count
    }

    /// Something that ran for this share has ended like this.
    pub(crate) fn ended(&self, ended: Result<(), Error>) {
        match ended {
            Ok(()) => {}
            // The host's runtime ends, and the sink with it.
            Err(Error::Shard(ShardError::Shutdown)) => self.instance.cancelled(),
            Err(error) => self.instance.fail(error),
        }
    }

    /// Something that ran for this share has panicked.
    pub(crate) fn panicked(&self, panic: &(dyn Any + Send)) {
        self.instance.fail(Error::Panicked {
            name: self.instance.name.clone(),
            message: panic_message(panic),
        });
    }
}

/// One thing that runs, counted by its share and by the context.
pub(crate) struct Running {
    _share: One,
    _context: One,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.instance.name)
            .field("index", &self.index)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
