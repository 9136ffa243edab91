//! What the workers of a process share of one sink or source: its status, and how it ends.
//!
//! A sink has one [`Instance`] in each process, which all its workers there share: the shard once it is
//! open, its status, and the failure that stops it everywhere. Each worker has a [`Stop`] of its own, since
//! workers are torn down one by one.
//!
//! Nothing is silent: a task that has to wait for the store says on what, and a sink that cannot go on has
//! failed on all its workers, with the error in its status, its handles and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use mvsink_persist::{CommitId, Damage, Frontier, Shard};
use tokio::sync::{OnceCell, watch};

use crate::channel::Meter;
#[cfg(feature = "prometheus")]
use crate::counters::observed::{Known, ShardSize};
use crate::counters::{Counters, Metrics};
use crate::differing::Differing;
use crate::error::Error;
use crate::given::Given;
use crate::holding::Slot;
use crate::mint::Role;
use crate::status::{Compared, Differs, Phase, Status};
use crate::stop::Stop;
use crate::write::disputes::Disputes;

/// Whether a shard is written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// By a sink.
    Sink,
    /// By a source.
    Source,
}

/// What the workers of one process share of one sink or source.
#[derive(Debug)]
pub(crate) struct Instance {
    /// The name, for logs and metrics.
    pub(crate) name: String,
    kind: Kind,
    /// Which shard it is of: the same for all addresses of one shard.
    shard_key: String,
    /// The shard, once the first task has opened it.
    pub(crate) shard: OnceCell<Shard>,
    /// The files that were not in the store as the log says when the first task that starts looked, by their paths: all
    /// workers of the process go by that.
    pub(crate) damaged: OnceCell<BTreeMap<String, Damage>>,
    /// What waits in the command queues.
    pub(crate) meter: Arc<Meter>,
    /// What it counts.
    pub(crate) metrics: Arc<Metrics>,
    /// How far a source has given its collection to the dataflow; or how far the input of a sink whose shard was finished
    /// before has come.
    given: Given,
    /// The shard was finished before the sink started.
    was_finished: AtomicBool,
    /// The hold on what its read-back, or the source, has still to read.
    pub(crate) holding: Slot,
    status: watch::Sender<Status>,
    /// How far all workers have compared the table.
    compared: watch::Sender<Option<Compared>>,
    /// The last batch that could not be committed since a file of it was gone.
    vanished: watch::Sender<Option<CommitId>>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What the host's signals say.
    read_only: bool,
    /// What mint says, in the process in which it is: it goes before the signals.
    role: Option<Role>,
    hydration: Hydration,
    /// What the table differs in.
    differing: Differing,
    /// What each worker found.
    disputes: BTreeMap<usize, Disputes>,
    /// What each task that has to wait waits for, by its name and its worker.
    stalls: BTreeMap<(String, usize), Stall>,
    /// The files that were reported since the collection is not what they hold, and the versions in which they were met.
    condemned: BTreeSet<(String, u64)>,
    /// The names that are taken of what may be done several times at once, each with its worker.
    doing: BTreeSet<(String, usize)>,
    stops: Vec<Weak<Stop>>,
    /// The workers that have a share of it: the index of each, and of how many.
    workers: BTreeSet<(usize, usize)>,
    failure: Option<Arc<Error>>,
}

#[derive(Debug)]
struct Stall {
    on: String,
    since: Instant,
}

/// How far the hydration of a sink is; a source has none.
#[derive(Debug, Default)]
struct Hydration {
    phase: Option<Phase>,
    updates: u64,
    /// The collection and the shard are past the as-of.
    is_past: bool,
    is_over: bool,
}

impl Instance {
    /// A source that has not begun, or a sink.
    pub(crate) fn new(name: &str, kind: Kind, shard_key: String) -> Arc<Self> {
        let mut inner = Inner::default();
        inner.hydration.phase = (kind == Kind::Sink).then_some(Phase::Computing);
        Arc::new(Instance {
            name: name.to_owned(),
            kind,
            shard_key,
            shard: OnceCell::new(),
            damaged: OnceCell::new(),
            meter: Arc::default(),
            metrics: Arc::default(),
            holding: Slot::default(),
            given: Given::default(),
            was_finished: AtomicBool::new(false),
            status: watch::Sender::new(Status::Starting),
            compared: watch::Sender::new(None),
            vanished: watch::Sender::new(None),
            inner: Mutex::new(inner),
        })
    }

    /// What the workers of this process have counted.
    pub(crate) fn counters(&self) -> Counters {
        let upper = self
            .shard
            .get()
            .and_then(|shard| shard.progress().upper.time());
        self.metrics.counters(upper, &self.meter)
    }

    /// What is known of the shard; `None` until it is open.
    #[cfg(feature = "prometheus")]
    pub(crate) fn known(&self) -> Option<Known> {
        let pinned = self.shard.get()?.pin();
        let mut size = ShardSize::default();
        for file in pinned.files() {
            size.files += 1;
            size.bytes = size.bytes.saturating_add(file.size);
            size.rows = size.rows.saturating_add(file.rows.unwrap_or(0));
        }
        Some(Known {
            upper: pinned.progress.upper,
            reported: self.upper(),
            size,
        })
    }

    /// Gives this worker, by its index and of how many, a share of it. False if it has one, or if it is one of another
    /// number: then this is of an earlier run of the dataflow, whose last tasks are not gone yet.
    pub(crate) fn joins(&self, worker: (usize, usize)) -> bool {
        let workers = &mut self.lock().workers;
        workers.iter().all(|(_, peers)| *peers == worker.1) && workers.insert(worker)
    }

    /// True if this worker, by its index and of how many, has a share of it in this process.
    pub(crate) fn has_joined(&self, worker: (usize, usize)) -> bool {
        self.lock().workers.contains(&worker)
    }

    /// True if all of so many workers have a share of it in this process.
    pub(crate) fn has_all(&self, peers: usize) -> bool {
        let workers = &self.lock().workers;
        (0..peers).all(|index| workers.contains(&(index, peers)))
    }

    /// True if this is a sink of this name on this shard that may still do something.
    pub(crate) fn is_live_sink(&self, name: &str, shard_key: &str) -> bool {
        let ended = || {
            let shard = self.shard.get();
            self.status.borrow().is_final() || shard.is_some_and(|s| s.progress().upper.is_empty())
        };
        self.kind == Kind::Sink && self.name == name && self.shard_key == shard_key && !ended()
    }

    /// The status, and every change of it.
    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// How far all workers have compared the table, and every change of it.
    pub(crate) fn compared(&self) -> watch::Receiver<Option<Compared>> {
        self.compared.subscribe()
    }

    /// The upper of the shard as far as the dataflow has been given what is before it, or has given what is compared with
    /// it; `None` until the shard is open.
    pub(crate) fn upper(&self) -> Option<Frontier<i64>> {
        let upper = self.shard.get()?.progress().upper;
        match self.kind {
            Kind::Sink if !self.was_finished() => Some(upper),
            Kind::Sink | Kind::Source => self.given.least().map(|given| upper.min(given)),
        }
    }

    /// The shard was finished before the sink started, whose input is to be compared with it; said before it is open.
    pub(crate) fn finished_before(&self) {
        tracing::warn!(
            sink = %self.name,
            "the table was finished before: nothing is written, the input is compared with it"
        );
        self.was_finished.store(true, Ordering::Release);
    }

    /// True if the shard was finished before the sink started.
    pub(crate) fn was_finished(&self) -> bool {
        self.was_finished.load(Ordering::Acquire)
    }

    /// Every change of what a source has given.
    pub(crate) fn given(&self) -> watch::Receiver<Option<Frontier<i64>>> {
        self.given.watch()
    }

    /// A worker of a source, by its index, has given all before `frontier` to the dataflow, or one of a sink whose shard was
    /// finished before has taken in all before it, and at the end has found it there; at the end of all workers it is
    /// finished.
    pub(crate) fn gave(&self, worker: usize, frontier: Frontier<i64>) {
        // Frontiers that pass as a source is torn down prove nothing.
        let torn = matches!(
            *self.status.borrow(),
            Status::Cancelled | Status::Failed { .. }
        );
        if !torn && self.given.passed(worker, frontier) {
            self.finished();
        }
    }

    /// This batch can never be committed, since a file of it was gone.
    pub(crate) fn vanished(&self, batch: CommitId) {
        self.vanished.send_replace(Some(batch));
    }

    /// The last batch that can never be committed, and every change of that.
    pub(crate) fn watch_vanished(&self) -> watch::Receiver<Option<CommitId>> {
        self.vanished.subscribe()
    }

    /// The error that stopped the sink, if one has.
    pub(crate) fn failure(&self) -> Option<Arc<Error>> {
        self.lock().failure.clone()
    }

    /// A stop for one more worker.
    pub(crate) fn stop(self: &Arc<Self>) -> Arc<Stop> {
        let mut inner = self.lock();
        let stop = Stop::new(inner.failure.is_some());
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

    /// Stops the sink on all workers of this process, unless it has ended.
    pub(crate) fn fail_unended(&self, error: Error) {
        let ended = self.status.borrow().is_final();
        if !ended && !self.upper().is_some_and(|upper| upper.is_empty()) {
            self.fail(error);
        }
    }

    /// Stops the sink on all workers of this process as if its handles had been dropped.
    pub(crate) fn cut_off(&self) {
        self.cancelled();
        for stop in self.stops() {
            stop.stop();
        }
    }

    /// The stops of the workers of this process.
    fn stops(&self) -> Vec<Arc<Stop>> {
        self.lock().stops.iter().filter_map(Weak::upgrade).collect()
    }

    /// The shard is open.
    pub(crate) fn started(&self) {
        let inner = self.lock();
        self.refresh(&inner);
    }

    /// What the host's signals say about writing.
    pub(crate) fn read_only(&self, read_only: bool) {
        let mut inner = self.lock();
        inner.read_only = read_only;
        self.changed(inner);
    }

    /// What mint does about the shard.
    pub(crate) fn role(&self, role: Role) {
        tracing::debug!(sink = %self.name, ?role, "goes on");
        let mut inner = self.lock();
        inner.role = Some(role);
        self.changed(inner);
    }

    /// The sink has taken in more updates, and now waits for this; `None` if it is hydrated.
    pub(crate) fn hydrating(&self, updates: usize, phase: Option<Phase>) {
        let mut inner = self.lock();
        // Frontiers that pass as a sink is torn down prove nothing.
        let torn = matches!(
            *self.status.borrow(),
            Status::Cancelled | Status::Failed { .. }
        );
        let hydration = &mut inner.hydration;
        if torn || hydration.is_over {
            return;
        }
        hydration.updates += updates as u64;
        hydration.phase = phase;
        if phase.is_none() && !hydration.is_past {
            tracing::debug!(sink = %self.name, "past the as-of");
            hydration.is_past = true;
        }
        self.changed(inner);
    }

    /// This worker has read back rows of an edit, or rows in which the table differed at the start; how many are left to be
    /// repaired is said by [`Instance::unrepaired`].
    pub(crate) fn edited(&self, worker: usize) {
        let mut inner = self.lock();
        inner.differing.count(worker);
        self.changed(inner);
    }

    /// This worker has so many rows to repair, counted at this upper with so many edits taken in; `None` if there are none.
    pub(crate) fn unrepaired(&self, worker: usize, rows: Option<(Option<u64>, i64)>, edits: u64) {
        let mut inner = self.lock();
        if inner.differing.counted(worker, rows, edits) {
            self.changed(inner);
        }
    }

    /// This worker's read-back has sent all up to this version, which has this upper.
    pub(crate) fn read(&self, worker: usize, version: u64, upper: Frontier<i64>) {
        let mut inner = self.lock();
        inner.differing.read(worker, version, upper);
        self.compared_so_far(&inner);
    }

    /// This worker has found its input before this frontier in a table that was finished before.
    pub(crate) fn verified(&self, worker: usize, frontier: Frontier<i64>) {
        let mut inner = self.lock();
        inner.differing.verified(worker, frontier);
        self.compared_so_far(&inner);
    }

    fn compared_so_far(&self, inner: &Inner) {
        let workers = inner.workers.iter().map(|(index, _)| *index);
        let compared = inner.differing.compared(workers, self.was_finished());
        self.compared.send_if_modified(|known| {
            let moved = *known != compared;
            *known = compared;
            moved
        });
    }

    /// The next batch is to remove these files, by what this worker has read up to this upper.
    pub(crate) fn condemned(&self, worker: usize, files: BTreeSet<String>, upper: i64) {
        let mut inner = self.lock();
        if inner.differing.condemned(worker, files, upper) {
            self.changed(inner);
        }
    }

    /// What the status is about has changed.
    fn changed(&self, mut inner: MutexGuard<'_, Inner>) {
        if inner.ends_hydration() {
            let updates = inner.hydration.updates;
            tracing::info!(sink = %self.name, updates, "hydrated");
        }
        self.refresh(&inner);
    }

    /// True once the sink is hydrated.
    pub(crate) fn is_hydrated(&self) -> bool {
        self.lock().hydration.is_over
    }

    /// What a worker found out about rivals that compute something else.
    pub(crate) fn disputed(&self, worker: usize, disputes: Disputes) {
        let mut inner = self.lock();
        let known = inner.disputes.insert(worker, disputes.clone());
        if disputes.is_disputed() && !known.is_some_and(|known| known.is_disputed()) {
            tracing::warn!(
                sink = %self.name, worker, rounds = disputes.rounds(), updates = disputes.updates(),
                "replicas correct each other's rows: the view is not deterministic"
            );
        }
        self.refresh(&inner);
    }

    /// The most rounds of a worker, and the updates of all workers, in which other replicas disagreed.
    pub(crate) fn disputes(&self) -> (u64, u64) {
        self.lock().disputed()
    }

    /// True for the first worker of this process to condemn this file, met in this version.
    pub(crate) fn is_first_to_condemn(&self, path: &str, version: u64) -> bool {
        self.lock().condemned.insert((path.to_owned(), version))
    }

    /// The task waits, because of this error.
    pub(crate) fn stalled(&self, task: &str, worker: usize, error: &dyn fmt::Display) {
        let mut inner = self.lock();
        let key = (task.to_owned(), worker);
        let since = inner.stalls.get(&key).map(|stall| stall.since);
        let stall = Stall {
            on: format!("{task}: {error}"),
            since: since.unwrap_or_else(Instant::now),
        };
        inner.stalls.insert(key, stall);
        self.refresh(&inner);
    }

    /// True if the task waits because of an error.
    pub(crate) fn is_stalled(&self, task: &str, worker: usize) -> bool {
        let key = (task.to_owned(), worker);
        self.lock().stalls.contains_key(&key)
    }

    /// The task goes on.
    pub(crate) fn resumed(&self, task: &str, worker: usize) {
        let mut inner = self.lock();
        if let Some(stall) = inner.stalls.remove(&(task.to_owned(), worker)) {
            let stalled_ms = stall.since.elapsed().as_millis();
            tracing::info!(sink = %self.name, task, worker, stalled_ms, "resumed");
            self.refresh(&inner);
        }
    }

    /// A name for something that this worker may do several times at once, until it is [done](Instance::done): so that
    /// one that goes on does not hide that another waits.
    pub(crate) fn begin(&self, task: &str, worker: usize) -> String {
        let doing = &mut self.lock().doing;
        let mut name = task.to_owned();
        let mut number = 1;
        while !doing.insert((name.clone(), worker)) {
            number += 1;
            name = format!("{task} ({number})");
        }
        name
    }

    /// What has this name goes on, or was given up.
    pub(crate) fn done(&self, name: String, worker: usize) {
        self.resumed(&name, worker);
        self.lock().doing.remove(&(name, worker));
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
        let ended = {
            // Under the lock, so that a refresh that is under way does not undo it.
            let _inner = self.lock();
            self.status.send_if_modified(|current| {
                let ends = !current.is_final();
                if ends {
                    *current = status;
                }
                ends
            })
        };
        if ended {
            // Sources may wait for the end of a sink.
            self.stops().iter().for_each(|stop| stop.wake_all());
        }
    }

    fn refresh(&self, inner: &Inner) {
        self.compared_so_far(inner);
        let opened = self.shard.initialized();
        let was_finished = self.was_finished();
        self.status.send_if_modified(|current| {
            let changes = !current.is_final();
            if changes {
                *current = inner.status(opened, was_finished);
            }
            changes
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave the fields half-changed: each change is one assignment.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(feature = "prometheus")]
impl Drop for Instance {
    fn drop(&mut self) {
        self.metrics.remember(self.known());
    }
}

impl Inner {
    fn present_role(&self) -> Role {
        match (self.role, self.read_only) {
            (Some(role), _) => role,
            (None, true) => Role::ReadOnly,
            (None, false) => Role::Writing,
        }
    }

    /// True if the hydration is over now: nothing is left in which the table differs. A sink that may not write repairs
    /// nothing.
    fn ends_hydration(&mut self) -> bool {
        if !self.hydration.is_past || self.hydration.is_over {
            return false;
        }
        let writes = self.present_role() != Role::ReadOnly;
        let counts = writes && self.differing.is_counting();
        let differs = writes && self.differing.differs().is_some();
        self.hydration.phase = counts.then_some(Phase::Comparing);
        self.hydration.is_over = !(counts || differs);
        self.hydration.is_over
    }

    /// What there is to say, most urgent first.
    fn status(&self, opened: bool, was_finished: bool) -> Status {
        if let Some(stall) = self.stalls.values().min_by_key(|stall| stall.since) {
            let (on, since) = (stall.on.clone(), stall.since);
            return Status::Stalled { on, since };
        }
        if was_finished {
            return Status::AlreadyFinished;
        }
        let role = self.present_role();
        if role == Role::ReadOnly {
            return Status::ReadOnly;
        }
        if !opened {
            return Status::Starting;
        }
        if let Some(phase) = self.hydration.phase {
            let updates = self.hydration.updates;
            return Status::Hydrating { phase, updates };
        }
        if let Some(differs) = self.differing.differs() {
            let Differs { rows, files, upper } = differs;
            return Status::Unrepaired { rows, files, upper };
        }
        if self.disputes.values().any(Disputes::is_disputed) {
            let (rounds, updates) = self.disputed();
            return Status::NonDeterministic { rounds, updates };
        }
        match role {
            Role::StandingBy => Status::StandingBy,
            Role::Writing | Role::ReadOnly => Status::Running,
        }
    }

    fn disputed(&self) -> (u64, u64) {
        let workers = self.disputes.values();
        let rounds = workers.clone().map(Disputes::rounds).max();
        (rounds.unwrap_or(0), workers.map(Disputes::updates).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_goes_on_does_not_hide_that_another_waits() {
        let instance = Instance::new("view", Kind::Sink, "memory://view".to_owned());
        let is_stalled = || matches!(&*instance.status().borrow(), Status::Stalled { .. });
        for worker in [0, 1] {
            instance.stalled("stage", worker, &"no answer");
        }
        instance.resumed("stage", 0);
        assert!(is_stalled());
        instance.resumed("stage", 1);
        assert!(!is_stalled());
    }

    #[test]
    fn one_that_goes_on_does_not_hide_that_another_of_the_same_worker_waits() {
        let instance = Instance::new("view", Kind::Sink, "memory://view".to_owned());
        let on = || match &*instance.status().borrow() {
            Status::Stalled { on, .. } => on.clone(),
            status => status.to_string(),
        };
        let [first, second, other] = [0, 0, 1].map(|worker| instance.begin("stage", worker));
        assert_eq!((first.as_str(), other.as_str()), ("stage", "stage"));
        instance.stalled(&first, 0, &"no answer");
        instance.stalled(&second, 0, &"an error");
        assert_eq!(on(), "stage: no answer");
        instance.done(first, 0);
        assert_eq!(on(), "stage (2): an error");
        instance.done(second, 0);
        assert_eq!(on(), "starting");
        // A name is free again.
        assert_eq!(instance.begin("stage", 0), "stage");
    }
}
