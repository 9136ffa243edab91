//! What the operators and tasks of one sink or source share on one worker.

use std::any::Any;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mvsink_persist::{
    Error as ShardError, Open, RetryReport, Shard, StagedFile, report_retry, report_retry_of,
};
use timely::dataflow::Scope;
use timely::dataflow::operators::generic::OperatorInfo;
use timely::progress::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinError;

use crate::context::Context;
use crate::count::{Count, One};
use crate::dyncfg::STALL_AFTER_MS;
use crate::error::Error;
use crate::instance::{Instance, Kind};
use crate::maintenance;
use crate::read_only::ReadOnly;
use crate::runtime::RuntimeFault;
use crate::share::{Place, Share};
use crate::stop::Stop;
use crate::wake::Waker;

/// How a sink or source opens its shard.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) url: String,
    /// How to create it; `None` if it must exist, since it is only read.
    pub(crate) create: Option<Open>,
    /// The signal of this sink alone.
    pub(crate) read_only: Option<watch::Receiver<bool>>,
    /// If it was finished before, it is compared with what is to be written.
    pub(crate) compares: bool,
}

/// One worker's share of a sink or source.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) cx: Context,
    pub(crate) instance: Arc<Instance>,
    pub(crate) stop: Arc<Stop>,
    pub(crate) index: usize,
    pub(crate) peers: usize,
    /// What others of this worker see of it.
    pub(crate) share: Arc<Share>,
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
        // Workers render the same operators in the same order, so the next identifier is the same on all
        // of them, and tells two sinks of one name in one dataflow apart.
        let mut place = scope.addr().to_vec();
        place.push(scope.worker().peek_identifier());
        let kind = match opening.create {
            Some(_) => Kind::Sink,
            None => Kind::Source,
        };
        let worker = (scope.index(), scope.peers());
        let at = Place {
            // What is scheduled next is a list of the worker's own.
            worker: Rc::as_ptr(&scope.activations()).addr(),
            dataflow: place[0],
        };
        let instance = cx.instance(place, worker, name, kind, &opening.url);
        if let Err(error) = cx.check() {
            instance.fail_unended(error);
        }
        cx.watch_runtime();
        let stop = instance.stop();
        let share = cx.shares().add(at, kind, &instance, &stop);
        Worker {
            cx: cx.clone(),
            instance,
            stop,
            share,
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

    /// Whether this sink may write.
    pub(crate) fn read_only(&self) -> ReadOnly {
        ReadOnly::new(self.cx.read_only(), self.opening.read_only.clone())
    }

    /// True if there is nobody in another process.
    pub(crate) fn has_all_workers(&self) -> bool {
        self.instance.has_all(self.peers)
    }

    /// The shard, opened by the first task of the process that asks.
    pub(crate) async fn shard(&self, task: &str) -> Result<Shard, Error> {
        let opened = self
            .instance
            .shard
            .get_or_try_init(|| {
                // Once is rare: its room is not kept in the tasks of every sink.
                Box::pin(async {
                    let shard = self.open(task).await?;
                    if self.opening.compares && shard.progress().upper.is_empty() {
                        self.instance.finished_before();
                    }
                    let upkeep = maintenance::run(self.clone(), shard.clone());
                    self.spawn(async move {
                        upkeep.await;
                        Ok(())
                    });
                    if self.opening.create.is_some() {
                        self.spawn(report_read_only(self.clone()));
                    }
                    Ok::<_, Error>(shard)
                })
            })
            .await?;
        self.instance.started();
        Ok(opened.clone())
    }

    /// Opens the shard, and creates it or adds its columns if it may: a read-only sink waits until another one has done
    /// so, or until it is promoted.
    async fn open(&self, task: &str) -> Result<Shard, Error> {
        let (client, url) = (self.cx.client(), &self.opening.url);
        let stalled = |error: &ShardError| self.stalled(task, error);
        let open = async |create| {
            let opened = self
                .patiently(task, client.open(url, create, &stalled))
                .await;
            self.resumed(task);
            opened.map_err(Error::Shard)
        };
        let Some(create) = &self.opening.create else {
            return open(None).await;
        };
        let mut read_only = self.read_only();
        loop {
            if !read_only.get() {
                return open(Some(create.clone())).await;
            }
            self.instance.read_only(true);
            match open(None).await {
                Err(Error::Shard(ShardError::NoShard { .. })) => {}
                Ok(shard) if shard.lacks_columns(create) => {}
                opened => return opened,
            }
            // A signal that was dropped has decided for good: then only another sink can create the shard.
            let _ = tokio::time::timeout(client.options().poll_max, read_only.changed()).await;
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
        let stalled = |error: &ShardError| self.stalled(task, error);
        let retried = self.cx.client().retry(&stalled, attempt);
        let output = self.patiently(task, retried).await?;
        self.resumed(task);
        Ok(output)
    }

    /// Waits for what the store is to answer, however long that takes, and says so if it takes long. Who goes on
    /// after it says that.
    pub(crate) async fn patiently<F: Future>(&self, task: &str, work: F) -> F::Output {
        let patience_ms = STALL_AFTER_MS.get(self.cx.configs()) as u64;
        tokio::pin!(work);
        let patience = tokio::time::sleep(Duration::from_millis(patience_ms));
        tokio::select! {
            biased;
            output = &mut work => return output,
            () = patience => {}
        }
        if self.instance.is_stalled(task, self.index) {
            // It has answered, with an error.
            return work.await;
        }
        let silence = format!("no answer from the store for {patience_ms} ms");
        let report = report_retry_of(&self.opening.url, &silence);
        self.stalled_on(task, &silence, report);
        work.await
    }

    /// Something that this worker does has to wait because of this error. The log is told of each cause now and then:
    /// a store in trouble stalls every task of every sink.
    pub(crate) fn stalled(&self, task: &str, error: &(dyn std::error::Error + 'static)) {
        let report = report_retry(&self.opening.url, error);
        self.stalled_on(task, error, report);
    }

    fn stalled_on(&self, task: &str, on: &dyn fmt::Display, report: Option<RetryReport>) {
        let (sink, worker) = (&self.instance.name, self.index);
        match report {
            Some(RetryReport { tries: 1, .. }) => {
                tracing::warn!(%sink, task, worker, error = %on, "stalled, trying again");
            }
            Some(RetryReport { tries, lasting, .. }) => {
                let lasting_s = lasting.as_secs();
                tracing::warn!(
                    %sink, task, worker, error = %on, tries, lasting_s,
                    "still stalled, as others may be; trying again"
                );
            }
            None => tracing::debug!(%sink, task, worker, error = %on, "stalled, trying again"),
        }
        self.instance.stalled(task, worker, on);
    }

    /// It goes on.
    pub(crate) fn resumed(&self, task: &str) {
        self.instance.resumed(task, self.index);
    }

    /// Something that this worker may do several times at once, and that may have to wait: by its name it is
    /// [stalled](Worker::stalled), and it goes on when this is dropped.
    pub(crate) fn doing(&self, task: &str) -> Doing {
        Doing {
            name: self.instance.begin(task, self.index),
            worker: self.index,
            instance: Arc::clone(&self.instance),
        }
    }

    /// Deletes staged files that no commit refers to. What cannot be deleted costs space and nothing else: a sweeper
    /// finds it.
    pub(crate) async fn delete_staged(&self, shard: &Shard, files: &[StagedFile]) {
        if files.is_empty() {
            return;
        }
        let doing = self.doing("clean up");
        let stalled = |error: &ShardError| self.stalled(doing.name(), error);
        let delete = Box::pin(shard.delete_files_with(files, &stalled));
        match self
            .stop
            .or_grace(self.patiently(doing.name(), delete))
            .await
        {
            Some(Ok(())) => self.instance.metrics.files_deleted.add(files.len() as u64),
            Some(Err(error)) => {
                tracing::warn!(sink = %self.instance.name, %error, "left staged files behind");
            }
            None => {}
        }
    }

    /// Runs a task until it ends, or the sink stops. Its error, or its panic, fails the sink.
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let handle = self.cx.client().handle().clone();
        let mut watched = Watched {
            has_ended: false,
            worker: self.clone(),
            _running: self.running(),
        };
        // Not in the task that waits for it, which would keep room for it a second time.
        let task = handle.spawn(task);
        handle.spawn(async move {
            let ended = task.await;
            let Watched {
                has_ended, worker, ..
            } = &mut watched;
            match ended.map_err(JoinError::try_into_panic) {
                Ok(ended) => worker.ended(ended),
                Err(Ok(panic)) => worker.panicked(panic.as_ref()),
                Err(Err(_)) => worker.shut_down(),
            }
            *has_ended = true;
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
            Err(Error::Shard(ShardError::Shutdown)) => self.shut_down(),
            Err(error) => self.instance.fail(error),
        }
    }

    /// The host's runtime has shut down, and with it all that ran for this share.
    pub(crate) fn shut_down(&self) {
        let why = RuntimeFault::ShutDown;
        self.instance.fail_unended(Error::Runtime { why });
    }

    /// Something that ran for this share has panicked.
    pub(crate) fn panicked(&self, panic: &(dyn Any + Send)) {
        self.instance.fail(Error::Panicked {
            name: self.instance.name.clone(),
            message: panic_message(panic),
        });
    }
}

/// A task of a share, and what it means that it is gone.
struct Watched {
    has_ended: bool,
    worker: Worker,
    /// Dropped last: who waits until nothing runs may begin the same again, and must not meet this.
    _running: Running,
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Nobody aborts tasks but a runtime that shuts down.
        if !self.has_ended {
            self.worker.shut_down();
        }
    }
}

/// Something that a worker does, perhaps several times at once.
pub(crate) struct Doing {
    name: String,
    worker: usize,
    instance: Arc<Instance>,
}

impl Doing {
    /// What it is called meanwhile.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        self.instance.done(name, self.worker);
    }
}

/// One thing that runs, counted by its share and by the context.
pub(crate) struct Running {
    _share: One,
    _context: One,
}

/// Has the status say what the signals do, in a process in which mint does not.
async fn report_read_only(worker: Worker) -> Result<(), Error> {
    let mut read_only = worker.read_only();
    let report = async {
        loop {
            worker.instance.read_only(read_only.get());
            read_only.changed().await;
        }
    };
    worker.stop.or_stop::<_>(report).await.unwrap_or(Ok(()))
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
