//! What a sink is doing, and how it ends.
//!
//! A sink has one [`Instance`] in each process, which all its workers there share: the shard once it is
//! open, its status, and the failure that stops it everywhere. Each worker has a [`Stop`] of its own, since
//! workers are torn down one by one.
//!
//! Nothing is silent: a task that has to wait for the store says on what, and a sink that cannot go on has
//! failed on all its workers, with the error in its status, its handles and the log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mvsink_persist::Shard;
use tokio::sync::{OnceCell, watch};

use crate::channel::Meter;
use crate::error::Error;
use crate::wake::{Awake, Waker};

/// How long a write that is under way may go on after its sink was stopped.
const GRACE: Duration = Duration::from_secs(5);

/// What a sink is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Status {
    /// The shard is not open yet.
    Starting,
    /// Writing, or waiting for something to write.
    Running,
    /// Keeping up, but not allowed to write.
    ReadOnly,
    /// Trying again and again to reach the store.
    Stalled {
        /// What fails, and how.
        on: String,
    },
    /// The upper of the shard is empty: there is nothing left to write.
    Finished,
    /// Stopped for good, on all workers.
    Failed {
        /// Why.
        error: Arc<Error>,
    },
    /// Its handle was dropped, or closed.
    Cancelled,
}

impl Status {
    /// True if the sink will not do anything any more.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Status::Finished | Status::Failed { .. } | Status::Cancelled
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Starting => f.write_str("starting"),
            Status::Running => f.write_str("running"),
            Status::ReadOnly => f.write_str("read-only"),
            Status::Stalled { on } => write!(f, "stalled: {on}"),
            Status::Finished => f.write_str("finished"),
            Status::Failed { error } => write!(f, "failed: {error}"),
            Status::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// What the workers of one process share of one sink or source.
#[derive(Debug)]
pub(crate) struct Instance {
    /// The name, for logs and metrics.
    pub(crate) name: String,
    /// The shard, once the first task has opened it.
    pub(crate) shard: OnceCell<Shard>,
    /// What waits in the command queues.
    pub(crate) meter: Arc<Meter>,
    /// What the corrections hold.
    pub(crate) holds: Holdings,
    status: watch::Sender<Status>,
    inner: Mutex<Inner>,
}

/// What one worker's corrections hold, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeldBytes {
    /// In memory, about.
    pub(crate) memory: u64,
    /// On disk.
    pub(crate) disk: u64,
}

/// What the corrections of all workers of this process hold.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    stores: AtomicUsize,
    memory: AtomicU64,
    disk: AtomicU64,
}

impl Holdings {
    /// One more worker has corrections.
    pub(crate) fn join(&self) {
        self.stores.fetch_add(1, Ordering::Relaxed);
    }

    /// A worker has none any more.
    pub(crate) fn leave(&self) {
        self.stores.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many workers have corrections.
    pub(crate) fn stores(&self) -> usize {
        self.stores.load(Ordering::Relaxed)
    }

    /// A worker that held `from` holds `to` now.
    pub(crate) fn changed(&self, from: HeldBytes, to: HeldBytes) {
        let change = |sum: &AtomicU64, from: u64, to: u64| {
            // Wrapping, as sums of differences may.
            sum.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
        };
        change(&self.memory, from.memory, to.memory);
        change(&self.disk, from.disk, to.disk);
    }

    /// What all of them hold.
    pub(crate) fn sum(&self) -> HeldBytes {
        HeldBytes {
            memory: self.memory.load(Ordering::Relaxed),
            disk: self.disk.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    read_only: bool,
    /// What each task that has to wait waits for.
    stalls: BTreeMap<String, String>,
    stops: Vec<Weak<Stop>>,
    failure: Option<Arc<Error>>,
}

impl Instance {
    /// A sink or source that has not begun.
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Instance {
            name: name.to_owned(),
            shard: OnceCell::new(),
            meter: Arc::default(),
            holds: Holdings::default(),
            status: watch::Sender::new(Status::Starting),
            inner: Mutex::default(),
        })
    }

    /// The status, and every change of it.
    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// The error that stopped the sink, if one has.
    pub(crate) fn failure(&self) -> Option<Arc<Error>> {
        self.lock().failure.clone()
    }

    /// A stop for one more worker.
    pub(crate) fn stop(self: &Arc<Self>) -> Arc<Stop> {
        let mut inner = self.lock();
        let stop = Arc::new(Stop {
            stopped: watch::Sender::new(inner.failure.is_some()),
            wakers: Mutex::default(),
        });
        inner.stops.retain(|stop| stop.strong_count() > 0);
        inner.stops.push(Arc::downgrade(&stop));
        stop
    }

    /// Stops the sink on all workers of this process. The first failure is the one reported.
    pub(crate) fn fail(&self, error: Error) {
        let stops = {
            let mut inner = self.lock();
            if inner.failure.is_some() {
                return;
            }
            tracing::error!(target: "mvsink::failed", sink = %self.name, %error, "sink failed");
            let error = Arc::new(error);
            inner.failure = Some(Arc::clone(&error));
            self.status.send_replace(Status::Failed { error });
            std::mem::take(&mut inner.stops)
        };
        for stop in stops.iter().filter_map(Weak::upgrade) {
            stop.stop();
        }
    }

    /// The shard is open.
    pub(crate) fn started(&self) {
        let inner = self.lock();
        self.refresh(&inner);
    }

    /// Whether the sink may write.
    pub(crate) fn read_only(&self, read_only: bool) {
        let mut inner = self.lock();
        inner.read_only = read_only;
        self.refresh(&inner);
    }

    /// The task waits, because of this error.
    pub(crate) fn stalled(&self, task: &str, error: &dyn fmt::Display) {
        tracing::warn!(sink = %self.name, task, %error, "stalled, trying again");
        let mut inner = self.lock();
        inner
            .stalls
            .insert(task.to_owned(), format!("{task}: {error}"));
        self.refresh(&inner);
    }

    /// The task goes on.
    pub(crate) fn resumed(&self, task: &str) {
        let mut inner = self.lock();
        if inner.stalls.remove(task).is_some() {
            tracing::info!(sink = %self.name, task, "resumed");
            self.refresh(&inner);
        }
    }

    /// The shard's upper is empty.
    pub(crate) fn finished(&self) {
        self.end(Status::Finished);
    }

    /// The handle is gone.
    pub(crate) fn cancelled(&self) {
        self.end(Status::Cancelled);
    }

    fn end(&self, status: Status) {
        // Under the lock, so that a refresh that is under way does not undo it.
        let _inner = self.lock();
        self.status.send_if_modified(|current| {
            let ends = !current.is_final();
            if ends {
                *current = status;
            }
            ends
        });
    }

    fn refresh(&self, inner: &Inner) {
        let status = match inner.stalls.values().next() {
            Some(on) => Status::Stalled { on: on.clone() },
            None if inner.read_only => Status::ReadOnly,
            None if !self.shard.initialized() => Status::Starting,
            None => Status::Running,
        };
        self.status.send_if_modified(|current| {
            let changes = !current.is_final();
            if changes {
                *current = status;
            }
            changes
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave the fields half-changed: each change is one assignment.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the operators and tasks of one sink on one worker.
pub(crate) struct Stop {
    stopped: watch::Sender<bool>,
    wakers: Mutex<Vec<Arc<Waker>>>,
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop")
            .field("stopped", &*self.stopped.borrow())
            .finish_non_exhaustive()
    }
}

impl Stop {
    /// Stops: operators drop their capabilities as they run next, tasks end at their next wait.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
        for waker in self
            .wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            waker.wake();
        }
    }

    /// True once stopped; asked by an operator that has begun to run, so that it misses no stop.
    pub(crate) fn is_stopped(&self, _: &Awake) -> bool {
        *self.stopped.borrow()
    }

    /// Wakes this operator too when the sink stops.
    pub(crate) fn wakes(&self, waker: Arc<Waker>) {
        self.wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(waker);
    }

    /// Runs the future until it is done, or until the stop: then it is dropped where it waits.
    pub(crate) async fn or_stop<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => None,
            output = future => Some(output),
        }
    }

    /// Runs the future until it is done. A stop leaves it a while, for what is almost finished; after that it
    /// is dropped where it waits.
    pub(crate) async fn or_grace<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut stopped = self.stopped.subscribe();
        let grace = async {
            // The sender is `self`.
            let _ = stopped.wait_for(|stopped| *stopped).await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            output = future => Some(output),
            () = grace => None,
        }
    }
}
