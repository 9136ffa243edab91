//! The handle of a sink or source on one worker.

use std::marker::PhantomData;

use mvsink_persist::Frontier;
use tokio::sync::watch;

use crate::bounds::{Timestamp, frontier_from_i64};
use crate::counters::Counters;
use crate::error::Error;
use crate::status::{Compared, Status};
use crate::worker::Worker;

/// What waits in the queues of a sink, for throttling its sources, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pressure {
    /// Updates that were taken from the dataflow and not yet looked at.
    pub queued_updates: usize,
    /// Their bytes, without what they own on the heap.
    pub queued_bytes: usize,
    /// Updates that are held because the shard differs by them from the collection, some of which may yet cancel.
    pub held_updates: usize,
    /// About the bytes of memory that these take, with what they own on the heap if the sink has a budget.
    pub held_bytes: usize,
    /// The bytes that it has put aside on disk for want of memory.
    pub spilled_bytes: u64,
}

/// What a sink found out about replicas that compute something else, in this process.
///
/// A round begins with a commit of this replica and ends with one of a rival that leaves something to correct. One
/// now and then is nothing: another program edited the table, or a rival started later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disputed {
    /// The rounds that ended so; of the worker that saw most of them.
    pub rounds: u64,
    /// The updates that were to be corrected.
    pub updates: u64,
}

/// One worker's handle of a sink or source.
///
/// Dropping it cancels this worker's share: its operators let go of their capabilities, its tasks end. No
/// frontier of a shard passes because of that: a source that is dropped before its end lets go only when no sink
/// in its dataflow, or in a later one of its worker, is live any more. If its dataflow has one sink, the source
/// cancels that sink with itself; if the source fails, that sink fails.
#[must_use = "dropping the handle stops the sink"]
#[derive(Debug)]
pub struct Handle<T: Timestamp> {
    worker: Worker,
    time: PhantomData<T>,
}

impl<T: Timestamp> Handle<T> {
    pub(crate) fn new(worker: Worker) -> Self {
        Handle {
            worker,
            time: PhantomData,
        }
    }

    /// The name of the sink or source.
    pub fn name(&self) -> &str {
        &self.worker.instance.name
    }

    /// How far the collection is complete. The minimum until the shard is open.
    ///
    /// Of a sink the upper of the shard, durable, as its log says: the same on every worker. Of a source the same, as far
    /// as the workers of this process have given the rows before it to their dataflows.
    pub fn frontier(&self) -> Frontier<T> {
        let upper = self.worker.instance.upper();
        // An upper that T cannot hold fails the sink; its status says so.
        upper
            .and_then(|upper| frontier_from_i64(upper).ok())
            .unwrap_or_else(|| Frontier::At(T::minimum()))
    }

    /// What the sink is doing.
    pub fn status(&self) -> Status {
        let status = self.worker.instance.status().borrow().clone();
        // The frontier says so before the last task, or another worker, has noted it in the status.
        if !status.is_final() && self.frontier().is_empty() {
            Status::Finished
        } else {
            status
        }
    }

    /// What the sink is doing, and every change of it.
    pub fn status_stream(&self) -> watch::Receiver<Status> {
        self.worker.instance.status()
    }

    /// How far the sink has compared its table with the collection, and every change of it; `None` until it has, and while it
    /// counts what an edit has changed. Always `None` of an ingest sink and of a source.
    ///
    /// It says whether a version of the table is right, for one who waits until this is of that version or a later one; what
    /// differs then is told by the status too ([`Status::Unrepaired`]), if the sink may write.
    pub fn compared(&self) -> watch::Receiver<Option<Compared>> {
        self.worker.instance.compared()
    }

    /// True once the sink holds what it should: it has settled what was in the shard before, and both the collection
    /// and the shard, durably, are past the as-of. Where the shard held something else, a sink that may write has repaired
    /// that. The same on every worker of this process, and never undone: what is edited later, the status says. Always
    /// false of a source.
    pub fn is_hydrated(&self) -> bool {
        self.worker.instance.is_hydrated()
    }

    /// How often other replicas of this view disagreed about its contents. See [`Status::NonDeterministic`].
    pub fn disputes(&self) -> Disputed {
        let (rounds, updates) = self.worker.instance.disputes();
        Disputed { rounds, updates }
    }

    /// What waits in the queues of all workers of this process, and what they hold.
    pub fn pressure(&self) -> Pressure {
        let meter = &self.worker.instance.meter;
        let metrics = &self.worker.instance.metrics;
        Pressure {
            queued_updates: meter.updates(),
            queued_bytes: meter.bytes(),
            held_updates: metrics.corrections.get() as usize,
            held_bytes: metrics.corrections_bytes.get() as usize,
            spilled_bytes: metrics.corrections_spilled_bytes.get(),
        }
    }

    /// What the workers of this process have counted.
    pub fn counters(&self) -> Counters {
        self.worker.instance.counters()
    }

    /// Waits until `time` is complete: of a sink in the shard, durably; of a source in the dataflow.
    ///
    /// # Errors
    ///
    /// If the sink fails or is cancelled first.
    pub async fn wait_for(&self, time: T) -> Result<(), Error> {
        let instance = &self.worker.instance;
        let (mut status, mut given) = (instance.status(), instance.given());
        loop {
            // What changes after this wakes, whether the look below has seen it or not.
            status.mark_unchanged();
            given.mark_unchanged();
            let mut watcher = instance.shard.get().map(|shard| shard.watch());
            if self.frontier().is_complete(&time) {
                return Ok(());
            }
            if let Some(error) = instance.failure() {
                return Err(Error::Failed {
                    name: instance.name.clone(),
                    error,
                });
            }
            if matches!(*status.borrow(), Status::Cancelled) {
                return Err(Error::Cancelled {
                    name: instance.name.clone(),
                });
            }
            let moved = async {
                match &mut watcher {
                    Some(watcher) => watcher.changed().await.map(drop),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                moved = moved => moved?,
                _ = status.changed() => {}
                _ = given.changed() => {}
            }
        }
    }

    /// [`Handle::wait_for`] for threads outside of a runtime. Not for a Timely thread whose own progress is
    /// what is waited for.
    ///
    /// # Errors
    ///
    /// If the sink fails or is cancelled first.
    ///
    /// # Panics
    ///
    /// If called from within a runtime, as [`tokio::runtime::Handle::block_on`] does.
    pub fn wait_for_blocking(&self, time: T) -> Result<(), Error> {
        self.worker
            .cx
            .client()
            .handle()
            .clone()
            .block_on(self.wait_for(time))
    }

    /// Cancels this worker's share and waits until nothing runs for it any more. The worker must go on being stepped
    /// meanwhile, or have dropped the dataflow.
    pub async fn close(self) {
        let count = self.worker.count().clone();
        drop(self);
        count.zero().await;
    }
}

impl<T: Timestamp> Drop for Handle<T> {
    fn drop(&mut self) {
        // A sink that has nothing left to write was not cut short.
        match self.frontier() {
            Frontier::Empty => self.worker.instance.finished(),
            Frontier::At(_) => self.worker.instance.cancelled(),
        }
        self.worker.share.dropped();
        self.worker.stop.stop();
    }
}
