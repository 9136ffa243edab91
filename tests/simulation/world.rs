//! A simulation: replicas, a maintainer, and the table they share, under one schedule.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mvsink::Frontier;
use mvsink_persist::testing::{ClockedStore, Fault, FaultOptions, FaultyStore, Traced};
use mvsink_persist::{
    ClientOptions, Codec, CompactOptions, Error, FileEncoder, GcOptions, GcReport, Shard,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutPayload};
use tokio::sync::OnceCell;

use super::judge::Judge;
use super::plan::{Edit, Event, Plan, Row, START_MS, Table, Touched, Upkeep};
use super::replica::{Process, Replica};
use super::swap::Copy;

/// A simulation that takes more rounds after the trouble makes no progress.
const ROUNDS: u32 = 5_000;

/// What a simulation has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    pub steps: usize,
    pub batches: usize,
    pub commits: usize,
    pub faults: usize,
    pub crashes: usize,
    /// Rounds after the trouble.
    pub rounds: u32,
    /// All that happened to the table.
    pub trace: Vec<String>,
    /// All that the store was asked for.
    pub calls: Vec<Traced>,
}

pub struct World<'a> {
    pub plan: &'a Plan,
    clock: Arc<AtomicI64>,
    /// The store without its faults.
    pub sound: Arc<ClockedStore>,
    pub faulty: Arc<FaultyStore>,
    store: Arc<dyn ObjectStore>,
    /// Of the view.
    pub judge: Judge,
    /// Of the table that the view is chained to.
    pub source: Option<Judge>,
    pub replicas: Vec<Replica>,
    pub maintainer: Process,
    /// It keeps the shards open, or it would see each lease for the first time.
    pub opened: [Arc<OnceCell<Shard>>; 2],
    /// What it says of its last collection, or why it cannot go on.
    pub upkept: Arc<Mutex<Result<Option<GcReport>, String>>>,
    /// So that no two processes draw the same names.
    started: u64,
    pub ran: Ran,
    /// Whether a kill may have left something to the sweeper.
    pub untidy: bool,
    /// Calls in a hundred that have a fault.
    pub percent: u32,
    /// An older copy of the table.
    pub kept: Option<Copy>,
}

/// Runs a plan to its end. Panics at what must not be.
pub fn run(plan: &Plan) -> Ran {
    let mut world = World::new(plan);
    for event in &plan.events {
        world.perform(event);
        world.ran.steps += 1;
        world.assert_invariants();
    }
    world.recover();
    world.end()
}

/// Lines of a log entry that say nothing of what is needed of it.
const ODD_LINES: &str = r#"{"commitInfo":"by hand"}

{"txn":{"appId":"theirs","version":7.0,"lastUpdated":"yesterday"}}
{"action of tomorrow":[1e9,{"add":null}]}
"#;

impl<'a> World<'a> {
    fn new(plan: &'a Plan) -> Self {
        let clock = Arc::new(AtomicI64::new(START_MS));
        let base = Arc::new(InMemory::new());
        let now = Arc::clone(&clock);
        let sound = Arc::new(ClockedStore::new(
            Arc::clone(&base) as Arc<dyn ObjectStore>,
            Arc::new(move || now.load(Ordering::Relaxed)),
        ));
        let mut options = FaultOptions::default();
        options.seed = plan.seed;
        options.percent = 0;
        options.latency = Duration::from_millis(3);
        let faulty = FaultyStore::with_options(Arc::clone(&sound) as Arc<dyn ObjectStore>, options);
        let store = Arc::clone(&faulty) as Arc<dyn ObjectStore>;
        let (_, writable) = tokio::sync::watch::channel(false);
        let mut world = World {
            plan,
            maintainer: Process::new(options_of(plan, 0, &clock), Arc::clone(&store), writable),
            opened: Default::default(),
            upkept: Arc::new(Mutex::new(Ok(None))),
            clock,
            source: (plan.chained).then(|| Judge::new(Arc::clone(&base), Table::Source, plan)),
            judge: Judge::new(base, Table::View, plan),
            sound,
            faulty,
            store,
            replicas: Vec::new(),
            started: 0,
            ran: Ran::default(),
            untidy: false,
            percent: 0,
            kept: None,
        };
        if plan.chained {
            world.maintainer.create::<Row, String>(&Table::Source.url());
        }
        for index in 0..plan.replicas.len() {
            let replica = world.start(index);
            world.replicas.push(replica);
        }
        world
    }

    pub fn start(&mut self, index: usize) -> Replica {
        let started = std::cell::Cell::new(self.started);
        let options = || {
            started.set(started.get() + 1);
            options_of(self.plan, started.get(), &self.clock)
        };
        let replica = Replica::start(self.plan, &self.plan.replicas[index], options, &self.store);
        self.started = started.get();
        replica
    }

    fn restart(&mut self, index: usize) {
        let new = self.start(index);
        let old = std::mem::replace(&mut self.replicas[index], new);
        old.kill();
        self.untidy = true;
    }

    /// Kills all replicas, and the maintainer, and starts them again.
    fn restart_everybody(&mut self) {
        (0..self.replicas.len()).for_each(|index| self.restart(index));
        self.restart_maintainer();
    }

    pub fn restart_maintainer(&mut self) {
        let (_, writable) = tokio::sync::watch::channel(false);
        self.started += 1;
        let options = options_of(self.plan, self.started, &self.clock);
        let maintainer = Process::new(options, Arc::clone(&self.store), writable);
        std::mem::replace(&mut self.maintainer, maintainer).kill();
        self.opened = Default::default();
    }

    fn perform(&mut self, event: &Event) {
        match *event {
            Event::Step {
                replica,
                worker,
                times,
            } => self.replicas[replica].step(worker, times),
            Event::Poll {
                replica: Some(replica),
                process,
                polls,
            } => self.replicas[replica].processes[process].poll(polls),
            Event::Poll { polls, .. } => self.maintainer.poll(polls),
            Event::Turns { replica, times } => {
                for _ in 0..times {
                    self.turn(replica, 1, false);
                    self.pass(3);
                }
            }
            Event::Feed {
                replica,
                worker,
                steps,
            } => self.replicas[replica].feed(worker, steps, false),
            Event::Pass { ms } => self.pass(ms),
            Event::SetClock { ms } => {
                self.clock.fetch_add(ms, Ordering::Relaxed);
            }
            Event::Faults { percent } => {
                self.percent = percent;
                self.faulty.set_percent(percent);
            }
            Event::Crash { replica } => {
                self.restart(replica);
                self.ran.crashes += 1;
            }
            Event::Leave { replica, worker } => {
                // What it was staging is wound up, unless all is killed before.
                self.replicas[replica].leave(worker);
            }
            Event::Cancel { replica } => self.replicas[replica].cancel(),
            Event::ReadOnly { replica, read_only } => {
                let signal = &self.replicas[replica].read_only;
                signal.send_replace(read_only);
            }
            Event::Flag {
                replica,
                name,
                ref value,
            } => {
                for process in &self.replicas[replica].processes {
                    process.cx.configs().set(name, value).unwrap();
                }
            }
            Event::Edit(edit) => self.edit(edit),
            Event::Swap(swap) => self.swap(swap),
            Event::Upkeep(upkeep) => self.begin(upkeep),
        }
    }

    /// Time goes by for everybody.
    pub fn pass(&mut self, ms: u64) {
        self.clock
            .fetch_add(i64::try_from(ms).unwrap(), Ordering::Relaxed);
        for replica in &self.replicas {
            for process in &replica.processes {
                process.pass(ms);
            }
        }
        self.maintainer.pass(ms);
    }

    fn edit(&mut self, edit: Edit) {
        let begun = matches!(self.judge.upper(), Frontier::At(upper) if upper > 0);
        if !begun {
            return;
        }
        let actions = match edit {
            Edit::Lose => {
                if let Some((path, _)) = self.judge.file() {
                    self.judge.lose(&path);
                    // A merge that had read the file would bring its rows back after a replica has found it lost.
                    self.restart_everybody();
                }
                return;
            }
            Edit::Insert | Edit::Unfit | Edit::Odd | Edit::Huge { .. } => {
                let codec = Codec::<(Option<String>, Option<u64>), String>::new().unwrap();
                let mut file = FileEncoder::new(codec.schema()).unwrap();
                let rows = [(Some("nobody's".to_owned()), Some(99)), (None, None)];
                let (rows, diff) = match edit {
                    Edit::Unfit => (&rows[..], 1),
                    Edit::Huge { less: false } => (&rows[..1], i64::MAX),
                    Edit::Huge { less: true } => (&rows[..1], i64::MIN),
                    _ => (&rows[..1], 1),
                };
                let updates = rows.iter().map(|row| (row, 0, diff));
                file.write(&codec.encode(updates).unwrap()).unwrap();
                let bytes = file.finish().unwrap().bytes;
                let path = format!("foreign-{}.parquet", self.judge.next());
                let size = bytes.len();
                self.put(&path, bytes.into());
                let path = match edit {
                    Edit::Odd => format!("./{}", path.replace('-', "%2D")),
                    _ => path,
                };
                vec![added(&path, size)]
            }
            Edit::Delete | Edit::Again { .. } => {
                let Some((path, size)) = self.judge.file() else {
                    return;
                };
                let now_ms = self.clock.load(Ordering::Relaxed);
                let remove = serde_json::json!({"remove": {"path": path, "deletionTimestamp": now_ms, "dataChange": true}});
                match edit {
                    Edit::Again { goes: true } => vec![remove, added(&path, size)],
                    Edit::Again { goes: false } => vec![added(&path, size)],
                    _ => vec![remove],
                }
            }
            Edit::Touch(object, ms) => {
                let path = match object {
                    Touched::Stray => {
                        let path = format!("_stray-{}", self.ran.steps);
                        self.put(&path, PutPayload::new());
                        path
                    }
                    Touched::Entry => format!("_delta_log/{:020}.json", self.judge.next() - 1),
                    Touched::Hint => "_delta_log/_last_checkpoint".to_owned(),
                    Touched::File => match self.judge.file() {
                        Some((path, _)) => path,
                        None => return,
                    },
                };
                self.sound.set_written(&self.judge.path(&path), ms);
                return;
            }
        };
        let lines: Vec<String> = actions.iter().map(|action| action.to_string()).collect();
        let entry = format!("_delta_log/{:020}.json", self.judge.next());
        let lines = match edit {
            Edit::Odd => format!("{ODD_LINES}{}\r\n", lines.join("\n")),
            _ => lines.join("\n"),
        };
        self.put(&entry, lines.into_bytes().into());
    }

    /// Puts something beside the view.
    fn put(&self, path: &str, payload: PutPayload) {
        let path = self.judge.path(path);
        self.put_at(&path, payload);
    }

    pub fn put_at(&self, path: &Path, payload: PutPayload) {
        use futures::FutureExt;
        let put = self.sound.put_opts(path, payload, PutMode::Create.into());
        put.now_or_never()
            .expect("memory does not wait")
            .expect("the version is free");
    }

    /// The maintainer begins something with each table, beside what it is doing.
    pub fn begin(&self, upkeep: Upkeep) {
        for (table, opened) in self.plan.tables().iter().zip(&self.opened) {
            let client = self.maintainer.cx.client().clone();
            let (opened, upkept) = (Arc::clone(opened), Arc::clone(&self.upkept));
            self.maintainer.spawn(async move {
                let work = async {
                    let url = table.url();
                    let shard = opened
                        .get_or_try_init(|| client.open_existing(&url))
                        .await?;
                    upkeep_of(shard, upkeep).await
                };
                let ended = work.await;
                let mut upkept = upkept.lock().unwrap();
                // A panic here would be the runtime's, and seen by nobody; the first failure is the one that is told.
                match (ended, &*upkept) {
                    (Ok(Some(report)), Ok(_)) => *upkept = Ok(Some(report)),
                    (Err(error), Ok(_)) if !is_passing(&error) => {
                        *upkept = Err(format!("{upkeep:?} of the {}: {error}", table.name()));
                    }
                    _ => {}
                }
            });
        }
    }

    fn judges(&self) -> impl Iterator<Item = &Judge> {
        std::iter::once(&self.judge).chain(&self.source)
    }

    fn judges_mut(&mut self) -> impl Iterator<Item = &mut Judge> {
        std::iter::once(&mut self.judge).chain(&mut self.source)
    }

    fn assert_invariants(&mut self) {
        let plan = self.plan;
        self.judges_mut().for_each(|judge| judge.look(plan));
        if self.ran.steps.is_multiple_of(8) {
            self.judges().for_each(Judge::look_for_files);
        }
        self.upkept();
        for (index, replica) in self.replicas.iter().enumerate() {
            for report in replica.reports() {
                assert!(
                    report.failure.is_none(),
                    "replica {index} has failed: {}",
                    report.failure.as_deref().unwrap_or_default()
                );
                assert!(
                    report.frontier.is_none_or(|it| it <= self.judge.upper()),
                    "replica {index} reports {:?}, but the shard is at {}",
                    report.frontier,
                    self.judge.upper()
                );
            }
        }
    }

    /// What the maintainer says of its last collection; it must not have failed.
    fn upkept(&self) -> Option<GcReport> {
        let upkept = self.upkept.lock().unwrap();
        let collected = upkept.as_ref();
        collected
            .unwrap_or_else(|failure| panic!("the maintainer fails: {failure}"))
            .clone()
    }

    /// All of a replica have a turn.
    pub fn turn(&mut self, index: usize, feed: u32, to_the_end: bool) {
        let replica = &mut self.replicas[index];
        for worker in 0..replica.workers() {
            replica.feed(worker, feed, to_the_end);
            replica.step(worker, 2);
        }
        for process in &replica.processes {
            process.poll(40);
        }
    }

    /// A round in which everybody has a turn.
    fn round(&mut self, to_the_end: bool) {
        self.ran.rounds += 1;
        for index in 0..self.replicas.len() {
            self.turn(index, 2, to_the_end);
        }
        self.maintainer.poll(40);
        self.pass(10);
        self.ran.steps += 1;
        self.assert_invariants();
    }

    /// The trouble is over: what was broken is started again, everybody may write, and all goes to its end.
    fn recover(&mut self) {
        self.faulty.set_percent(0);
        for index in 0..self.replicas.len() {
            if !self.replicas[index].is_whole() {
                self.restart(index);
            }
            self.replicas[index].read_only.send_replace(false);
        }
        let last = Frontier::At(self.plan.end - 1);
        self.rounds("the trouble is over", false, |world| {
            world.judge.upper() >= last
        });
        // All that was done to the table has been seen.
        for _ in 0..60 {
            self.round(false);
        }
        self.rounds("the input has ended", true, |world| {
            let mut reports = world.replicas.iter().flat_map(Replica::reports);
            let mut uppers = world.judges().map(Judge::upper);
            uppers.all(|upper| upper.is_empty()) && reports.all(|report| report.finished)
        });
        for replica in &mut self.replicas {
            replica.cancel();
        }
        self.rounds("all handles were dropped", true, |world| {
            world.replicas.iter().all(Replica::is_settled)
        });
    }

    fn rounds(&mut self, what: &str, to_the_end: bool, done: impl Fn(&Self) -> bool) {
        for _ in 0..ROUNDS {
            if done(self) {
                return;
            }
            self.round(to_the_end);
        }
        let statuses: Vec<_> = self
            .replicas
            .iter()
            .map(|replica| {
                let reports: Vec<_> = replica.reports().collect();
                format!("{reports:?}, settled: {}", replica.is_settled())
            })
            .collect();
        panic!(
            "no progress in {ROUNDS} rounds since {what}; upper {}; {statuses:?}",
            self.judge.upper()
        );
    }

    fn end(mut self) -> Ran {
        self.judges().for_each(|judge| judge.check_end(self.plan));
        let faults = self.faulty.trace();
        self.ran.faults = faults
            .iter()
            .filter(|call| call.fault != Fault::None)
            .count();
        let late = faults.iter().any(|call| call.fault == Fault::AppliedLater);
        if !self.untidy && !late {
            for judge in self.judges() {
                let left = judge.never_referenced();
                let calls = faults.iter().filter(|call| left.contains(&call.path));
                assert!(
                    left.is_empty(),
                    "{left:?} are left behind, after {:?}",
                    calls.collect::<Vec<_>>()
                );
            }
        }
        // What was left behind for a reason is swept.
        self.replicas.clear();
        // Whether a lease has lapsed a sweeper knows once it has watched it for as long; and how old something is, by
        // what was written last.
        for name in ["_one", "_other"] {
            self.pass(3_600_000);
            self.judges()
                .for_each(|judge| self.put_at(&judge.path(name), PutPayload::new()));
            self.begin(Upkeep::Collect);
            for _ in 0..100 {
                self.maintainer.poll(40);
                self.pass(10);
            }
            // What was merged here, and merged again, the next one deletes.
            let plan = self.plan;
            self.judges_mut().for_each(|judge| judge.look(plan));
        }
        let collected = self.upkept();
        for judge in self.judges() {
            judge.look_for_files();
            assert_eq!(
                judge.unreferenced(),
                [],
                "what was left behind is swept: {collected:?}"
            );
            judge.check_end(self.plan);
        }
        self.ran.batches = self.judges().map(|judge| judge.batches).sum();
        self.ran.commits = self.judges().map(|judge| judge.commits).sum();
        self.ran.trace = self
            .judges_mut()
            .flat_map(|judge| std::mem::take(&mut judge.trace))
            .collect();
        self.ran.calls = self.faulty.trace();
        self.ran
    }
}

/// What another program says of a file that it adds.
fn added(path: &str, size: usize) -> serde_json::Value {
    serde_json::json!({"add": {
        "path": path, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
    }})
}

/// The options of one process.
fn options_of(plan: &Plan, process: u64, clock: &Arc<AtomicI64>) -> ClientOptions {
    let seed = plan.seed;
    let clock = Arc::clone(clock);
    let mut options = ClientOptions::default();
    options.seed = Some(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ process);
    options.inline_compute = true;
    options.clock = Arc::new(move || clock.load(Ordering::Relaxed));
    options.checkpoint_interval = 7;
    options.poll_max = Duration::from_millis(50);
    options.log_min_age = Duration::from_secs(if plan.hasty { 2 } else { 600 });
    options
}

/// Does it; gives the report of a collection.
async fn upkeep_of(shard: &Shard, upkeep: Upkeep) -> Result<Option<GcReport>, Error> {
    match upkeep {
        Upkeep::Compact => {
            let mut options = CompactOptions::default();
            options.fan_in = 2;
            let go_on = |_| ControlFlow::Continue(());
            shard.compact(&options, &go_on).await?;
        }
        Upkeep::Collect => {
            let mut options = GcOptions::default();
            // Beyond what clocks are set by.
            options.removed_grace = Duration::from_secs(1_000);
            options.orphan_min_age = Duration::from_secs(1_000);
            options.foreign_orphan_min_age = Duration::from_secs(1_000);
            return shard.collect_garbage(&options, &|_| ()).await.map(Some);
        }
        Upkeep::Checkpoint => {
            shard.checkpoint().await?;
        }
    }
    Ok(None)
}

/// Errors that a store that fails, or a rival, makes of maintenance: it is tried again another time.
fn is_passing(error: &Error) -> bool {
    error.is_transient()
        || matches!(
            error,
            Error::NoShard { .. } | Error::MissingFile { .. } | Error::Undecided { .. }
        )
}
