//! What the worker threads of a run and the thread that oversees them share.
//!
//! The input may be fed up to a *limit*, at first the end of the job. Workers claim stretches of event time
//! before they feed them, so that an interruption can lower the limit to what has been claimed: then every
//! shard comes to that time, and the run ends at rest. A run is *done* when every shard's durable upper is at
//! the limit.
//!
//! Frontiers are as a shard stores them: a time, or `i64::MAX` for the empty frontier.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use mvsink_persist::Shard;
use tokio::sync::{Notify, watch};

use super::differs::Wrong;
use super::views::VIEWS;
use crate::error::Error;

/// The source tables, in the order in which their uppers are kept.
pub const SOURCES: [&str; 3] = ["bid", "auction", "person"];
/// All shards of a run: the sources, then the views.
pub const SHARDS: usize = SOURCES.len() + VIEWS.len();

/// The names of all shards, in order.
pub fn shard_names() -> impl Iterator<Item = &'static str> {
    SOURCES.into_iter().chain(VIEWS)
}

/// The state that the threads of a run share.
#[derive(Debug)]
pub struct Control {
    uppers: [AtomicI64; SHARDS],
    feed: Mutex<Feed>,
    stopped: AtomicBool,
    /// What sinks and sources wait for that are stalled, by their names.
    stalls: Mutex<BTreeMap<String, String>>,
    /// The views whose tables differ, by number, once all were compared at the limit.
    wrong: Mutex<Option<Vec<(usize, Wrong)>>>,
    /// Told whenever an upper has moved.
    moved: Notify,
    /// The input ends before its time.
    drains: AtomicBool,
    failure: watch::Sender<Option<Arc<Error>>>,
    threads: Mutex<Vec<Thread>>,
    running: AtomicUsize,
    /// Signalled when the last worker has ended.
    ended: Notify,
}

#[derive(Debug)]
struct Feed {
    /// The input may be advanced up to this time.
    limit: i64,
    /// Some worker has fed, or is feeding, up to this time.
    claimed: i64,
}

impl Control {
    /// The start of a run of `workers` threads, with the shards at `uppers`, whose input ends at `limit`.
    pub fn new(uppers: [i64; SHARDS], limit: i64, workers: usize) -> Arc<Self> {
        Arc::new(Control {
            // From the start: a source is not fed below its upper, where its sink begins.
            uppers: uppers.map(AtomicI64::new),
            feed: Mutex::new(Feed { limit, claimed: 0 }),
            stopped: AtomicBool::new(false),
            stalls: Mutex::default(),
            wrong: Mutex::default(),
            moved: Notify::new(),
            drains: AtomicBool::new(false),
            failure: watch::Sender::new(None),
            threads: Mutex::default(),
            running: AtomicUsize::new(workers),
            ended: Notify::new(),
        })
    }

    /// Keeps the upper of shard `index` up to date, until the run has ended. To be spawned.
    pub async fn follow(self: Arc<Self>, index: usize, shard: Shard) {
        let mut watcher = shard.watch();
        loop {
            let upper = watcher.progress().upper.to_version();
            if self.uppers[index].fetch_max(upper, Ordering::AcqRel) < upper {
                self.moved.notify_one();
                self.wake();
            }
            if upper == i64::MAX {
                return;
            }
            if let Err(error) = watcher.changed().await {
                self.fail(Error::from(error));
                return;
            }
        }
    }

    /// The durable upper of shard `index`.
    pub fn upper(&self, index: usize) -> i64 {
        self.uppers[index].load(Ordering::Acquire)
    }

    /// The least durable upper of the sources.
    pub fn sources_upper(&self) -> i64 {
        (0..SOURCES.len())
            .map(|index| self.upper(index))
            .min()
            .unwrap_or(i64::MAX)
    }

    /// The least durable upper of all shards.
    pub fn sealed(&self) -> i64 {
        (0..SHARDS)
            .map(|index| self.upper(index))
            .min()
            .unwrap_or(i64::MAX)
    }

    /// The time up to which the input may be fed.
    pub fn limit(&self) -> i64 {
        self.feed().limit
    }

    /// True once all shards are at the limit, and each view's table has been compared there. A run that is ended early does
    /// not wait for the comparisons.
    pub fn is_done(&self) -> bool {
        let is_judged = || self.drains.load(Ordering::Acquire) || self.lock_wrong().is_some();
        self.sealed() >= self.limit() && is_judged()
    }

    /// Waits until all shards are at the limit. For one task.
    pub async fn sealed_at_limit(&self) {
        while self.sealed() < self.limit() {
            self.moved.notified().await;
        }
    }

    /// Says which views' tables differ, by number, each with its difference: all have been compared.
    pub fn judge(&self, wrong: Vec<(usize, Wrong)>) {
        *self.lock_wrong() = Some(wrong);
        self.wake();
    }

    /// The views whose tables differ, by number, each with its difference.
    pub fn wrong(&self) -> Vec<(usize, Wrong)> {
        self.lock_wrong().clone().unwrap_or_default()
    }

    fn lock_wrong(&self) -> MutexGuard<'_, Option<Vec<(usize, Wrong)>>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far all shards are, taken together: it grows with every commit that moves an upper.
    pub fn sum_of_uppers(&self) -> i128 {
        let uppers = (0..SHARDS).map(|index| i128::from(self.upper(index)));
        uppers.sum()
    }

    /// Says what a sink or source waits for; `None` if it waits for nothing.
    pub fn set_stalled(&self, name: &str, on: Option<String>) {
        let mut stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        match on {
            Some(on) => stalls.insert(name.to_owned(), on),
            None => stalls.remove(name),
        };
    }

    /// What a sink or source that is stalled waits for, if any is.
    pub fn stalled(&self) -> Option<String> {
        let stalls = self.stalls.lock().unwrap_or_else(PoisonError::into_inner);
        stalls
            .iter()
            .next()
            .map(|(name, on)| format!("{name}: {on}"))
    }

    /// Asks to feed the times before `wanted`: those before the result may be.
    pub fn claim(&self, wanted: i64) -> i64 {
        let mut feed = self.feed();
        let granted = wanted.min(feed.limit);
        feed.claimed = feed.claimed.max(granted);
        granted
    }

    /// Ends the input at what has been claimed. The run is done when all shards are there.
    pub fn drain(&self) {
        self.drains.store(true, Ordering::Release);
        {
            let mut feed = self.feed();
            feed.limit = feed.limit.min(feed.claimed);
        }
        self.wake();
    }

    /// Stops all workers as soon as they look.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }

    /// True once stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Stops all workers because of an error. The first one is reported.
    pub fn fail(&self, error: Error) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                *failure = Some(Arc::new(error));
            }
            first
        });
        self.stop();
    }

    /// The error that stopped the run.
    pub fn failure(&self) -> Option<Arc<Error>> {
        self.failure.borrow().clone()
    }

    /// Waits until the run has failed.
    pub async fn failed(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.failure.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until all workers have ended.
    pub async fn ended(&self) {
        while self.running.load(Ordering::Acquire) > 0 {
            self.ended.notified().await;
        }
    }

    /// To be held by each worker thread while it runs.
    pub fn enter(self: &Arc<Self>) -> Running {
        self.threads().push(std::thread::current());
        Running(Arc::clone(self))
    }

    fn wake(&self) {
        for thread in self.threads().iter() {
            thread.unpark();
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a worker thread runs. A worker that panics fails the run.
#[derive(Debug)]
pub struct Running(Arc<Control>);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Panicked);
        }
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_ends_the_input_where_it_has_been_claimed() {
        let control = Control::new([0; SHARDS], 100, 2);
        assert_eq!(control.claim(30), 30);
        assert_eq!(control.claim(20), 20);
        control.drain();
        assert_eq!(control.limit(), 30);
        assert_eq!(
            control.claim(50),
            30,
            "the slower worker may catch up, and no more"
        );
        assert!(!control.is_done());
        for upper in &control.uppers {
            upper.store(30, Ordering::Release);
        }
        assert!(control.is_done());
    }

    #[test]
    fn a_run_is_done_when_it_is_known_what_its_views_are_worth() {
        let control = Control::new([100; SHARDS], 100, 1);
        assert!(!control.is_done());
        let wrong = Wrong {
            rows: Some(1),
            files: Vec::new(),
        };
        control.judge(vec![(2, wrong.clone())]);
        assert!(control.is_done());
        assert_eq!(control.wrong(), [(2, wrong)]);
    }

    #[test]
    fn the_first_failure_stops_the_run() {
        let control = Control::new([0; SHARDS], 100, 1);
        assert!(control.failure().is_none());
        control.fail(Error::Panicked);
        control.fail(Error::Seed);
        assert!(control.is_stopped());
        assert!(matches!(
            control.failure().as_deref(),
            Some(Error::Panicked)
        ));
    }
}
