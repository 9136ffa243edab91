//! One replica of the view: its processes, each with a runtime for its tasks, and its workers.
//!
//! Timely's workers are threads, but only one thread of a simulation runs at a time: a worker does one job that it is
//! given, and says when it is done. A runtime's tasks are polled only when it is their turn. So the order in which
//! anything happens is the schedule's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use differential_dataflow::input::InputSession;
use mvsink::{Context, Data, Frontier, Handle, Mode, Status, Target, persist_sink, persist_source};
use mvsink_persist::{ClientOptions, Codec, Open};
use timely::worker::Worker;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::plan::{Plan, ReplicaPlan, Row, Table, Update};
use super::shrink::message;

/// What is fed only once the trouble is over, so that what another program did is repaired by then.
const KEPT: usize = 2;

/// A process.
pub struct Process {
    /// `None` once it was killed.
    runtime: Option<Runtime>,
    pub cx: Context,
}

impl Process {
    /// A process whose options and flags are these.
    pub fn new(
        options: ClientOptions,
        store: Arc<dyn object_store::ObjectStore>,
        read_only: watch::Receiver<bool>,
    ) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true);
        // So that each poll is a turn of its own.
        builder.event_interval(1);
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(
            &options
                .seed
                .expect("a simulated process has a seed")
                .to_le_bytes(),
        ));
        let runtime = builder.build().unwrap();
        let cx = Context::builder(runtime.handle().clone())
            .client_options(options)
            .read_only(read_only)
            .build();
        cx.client().mount("simulated", store);
        Process {
            runtime: Some(runtime),
            cx,
        }
    }

    /// Polls this many tasks.
    pub fn poll(&self, polls: u32) {
        if let Some(runtime) = &self.runtime {
            runtime.block_on(async {
                for _ in 0..polls {
                    tokio::task::yield_now().await;
                }
            });
        }
    }

    /// Moves its monotonic clock.
    pub fn pass(&self, ms: u64) {
        if let Some(runtime) = &self.runtime {
            runtime.block_on(tokio::time::advance(Duration::from_millis(ms)));
        }
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(task);
        }
    }

    /// Creates a shard.
    pub fn create<D: Data, E: Data>(&self, url: &str) {
        if let Some(runtime) = &self.runtime {
            let open = Open::new(Codec::<D, E>::new().unwrap().schema());
            let created = runtime.block_on(self.cx.client().open_or_create(url, open));
            created.expect("the store is sound yet");
        }
    }

    /// Drops all tasks where they wait.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a worker is given to do.
enum Job {
    Render,
    Step(u32),
    /// So many steps, of the last ones only if it says so.
    Feed(u32, bool),
    /// Drops the handle, and ends the input.
    Cancel,
    /// Drops the dataflows.
    Leave,
}

/// What a worker says afterwards.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the view's handle says of the shard; `None` if it has none any more.
    pub frontier: Option<Frontier<u64>>,
    pub failure: Option<String>,
    /// Its sinks have finished.
    pub finished: bool,
    /// Its sink was given up, by a worker that has left.
    pub cancelled: bool,
}

/// The place of a worker: what its thread takes with it.
struct Seat {
    jobs: Receiver<Job>,
    reports: Sender<Result<Report, String>>,
    cx: Context,
    target: Target,
    chained: bool,
    as_of: u64,
    steps: Vec<FeedStep>,
}

#[derive(Clone, Debug)]
enum FeedStep {
    Update(Update),
    Advance(u64),
}

/// A worker, from outside.
struct Hand {
    jobs: Sender<Job>,
    reports: Receiver<Result<Report, String>>,
    left: bool,
    report: Report,
}

/// A replica.
pub struct Replica {
    pub processes: Vec<Process>,
    hands: Vec<Hand>,
    /// Dropped last: it waits for the threads.
    guards: Option<timely::communication::WorkerGuards<()>>,
    pub read_only: watch::Sender<bool>,
    pub cancelled: bool,
}

impl Replica {
    /// Starts it, and renders its sink on all of its workers.
    pub fn start(
        plan: &Plan,
        of: &ReplicaPlan,
        options: impl Fn() -> ClientOptions,
        store: &Arc<dyn object_store::ObjectStore>,
    ) -> Self {
        let (read_only, signal) = watch::channel(of.read_only);
        let processes: Vec<_> = of
            .sync
            .iter()
            .map(|sync| {
                let process = Process::new(options(), Arc::clone(store), signal.clone());
                let configs = process.cx.configs();
                let sync = sync.to_string();
                configs.set("enable_sync_mv_sink", &sync).unwrap();
                for (name, value) in &of.flags {
                    configs.set(name, value).unwrap();
                }
                process
            })
            .collect();
        let mut seats = Vec::new();
        let mut hands = Vec::new();
        for worker in 0..of.workers {
            let (jobs, to_do) = channel();
            let (done, reports) = channel();
            seats.push(Some(Seat {
                jobs: to_do,
                reports: done,
                cx: processes[worker * of.processes / of.workers].cx.clone(),
                target: plan.target(),
                chained: plan.chained,
                as_of: of.as_of,
                steps: feed_steps(plan, worker, of.workers),
            }));
            hands.push(Hand {
                jobs,
                reports,
                left: false,
                report: Report {
                    frontier: None,
                    failure: None,
                    finished: false,
                    cancelled: false,
                },
            });
        }
        let seats = Mutex::new(seats);
        let mut config = timely::Config::process(of.workers);
        if of.processes > 1 {
            // What goes from one process to another is bytes.
            config.communication = timely::CommunicationConfig::ProcessBinary(of.workers);
        }
        let guards = timely::execute(config, move |worker| {
            let seat = seats.lock().unwrap()[worker.index()].take().unwrap();
            work(worker, seat);
        });
        let mut replica = Replica {
            processes,
            hands,
            guards: Some(guards.unwrap()),
            read_only,
            cancelled: false,
        };
        for worker in 0..of.workers {
            replica.job(worker, Job::Render);
        }
        replica
    }

    fn job(&mut self, worker: usize, job: Job) {
        let hand = &mut self.hands[worker];
        if hand.left {
            return;
        }
        hand.left = matches!(job, Job::Leave);
        hand.jobs.send(job).expect("the thread is there");
        match hand.reports.recv().expect("the thread answers") {
            Ok(report) => {
                assert!(
                    report.frontier.is_none() || hand.report.frontier <= report.frontier,
                    "what is durable stays so: {:?} after {:?}",
                    report.frontier,
                    hand.report.frontier
                );
                hand.report = report;
            }
            Err(panic) => panic!("worker {worker} panicked: {panic}"),
        }
    }

    pub fn step(&mut self, worker: usize, times: u32) {
        self.job(worker, Job::Step(times));
    }

    pub fn feed(&mut self, worker: usize, steps: u32, to_the_end: bool) {
        self.job(worker, Job::Feed(steps, to_the_end));
    }

    pub fn leave(&mut self, worker: usize) {
        self.job(worker, Job::Leave);
    }

    pub fn cancel(&mut self) {
        self.cancelled = true;
        for worker in 0..self.hands.len() {
            self.job(worker, Job::Cancel);
        }
    }

    pub fn workers(&self) -> usize {
        self.hands.len()
    }

    /// What each worker said last.
    pub fn reports(&self) -> impl Iterator<Item = &Report> {
        self.hands.iter().map(|hand| &hand.report)
    }

    /// True if no worker has left, and nobody has cancelled it.
    pub fn is_whole(&self) -> bool {
        !self.cancelled && !self.hands.iter().any(|hand| hand.left)
    }

    /// True if nothing of it runs any more.
    pub fn is_settled(&self) -> bool {
        self.processes.iter().all(|process| process.cx.is_settled())
    }

    /// Kills its processes: what they were doing is done no further.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        for process in &mut self.processes {
            process.kill();
        }
        for hand in &mut self.hands {
            if !hand.left && hand.jobs.send(Job::Leave).is_ok() {
                let _ = hand.reports.recv();
            }
            hand.left = true;
        }
        drop(self.guards.take());
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a worker is fed, in order.
fn feed_steps(plan: &Plan, worker: usize, workers: usize) -> Vec<FeedStep> {
    let mut steps = Vec::new();
    for time in 0..plan.end {
        let known = plan.updates.iter().enumerate();
        let known =
            known.filter(|(index, update)| index % workers == worker && update.known == time);
        steps.extend(known.map(|(_, update)| FeedStep::Update(update.clone())));
        if time + 1 < plan.end {
            steps.push(FeedStep::Advance(time + 1));
        }
    }
    steps.push(FeedStep::Advance(plan.end));
    steps.push(FeedStep::Advance(plan.end + 1));
    steps.reverse();
    steps
}

/// A worker's thread.
fn work(worker: &mut Worker, mut seat: Seat) {
    let mut host = Host::default();
    while let Ok(job) = seat.jobs.recv() {
        let leaves = matches!(job, Job::Leave);
        let done = catch_unwind(AssertUnwindSafe(|| host.does(worker, &mut seat, job)));
        let report = done.map_err(|panic| message(panic.as_ref()));
        if leaves {
            // Nothing of it is left, so what it is to tell is all that is missing.
            let _ = seat.reports.send(report);
            return;
        }
        if seat.reports.send(report).is_err() {
            break;
        }
    }
    host.leave(worker);
}

struct Inputs {
    ok: InputSession<u64, Row, i64>,
    err: InputSession<u64, String, i64>,
}

#[derive(Default)]
struct Host {
    inputs: Option<Inputs>,
    view: Option<Handle<u64>>,
    /// Of what the view is chained to: the sink and the source.
    chain: Option<(Handle<u64>, Handle<u64>)>,
}

impl Host {
    fn does(&mut self, worker: &mut Worker, seat: &mut Seat, job: Job) -> Report {
        match job {
            Job::Render => worker.dataflow(|scope| {
                let (mut ok, mut err) = (InputSession::new(), InputSession::new());
                let (mut rows, mut errors) = (ok.to_collection(scope), err.to_collection(scope));
                let cx = &seat.cx;
                if seat.chained {
                    let url = Table::Source.url();
                    let target = Target::new(&url).mode(Mode::Ingest);
                    let sink = persist_sink(cx, "source", target, rows, errors, 0).unwrap();
                    let source = persist_source(cx, scope, "source", &url, seat.as_of).unwrap();
                    (rows, errors) = (source.ok, source.err);
                    self.chain = Some((sink, source.handle));
                }
                let target = seat.target.clone();
                let view = persist_sink(cx, "view", target, rows, errors, seat.as_of).unwrap();
                self.inputs = Some(Inputs { ok, err });
                self.view = Some(view);
            }),
            Job::Step(times) => {
                for _ in 0..times {
                    worker.step();
                }
            }
            Job::Feed(steps, to_the_end) => {
                for _ in 0..steps {
                    let kept = !to_the_end && seat.steps.len() <= KEPT;
                    if !kept {
                        self.feed(seat.steps.pop());
                    }
                }
                if let Some(Inputs { ok, err }) = &mut self.inputs {
                    ok.flush();
                    err.flush();
                }
            }
            Job::Cancel => *self = Host::default(),
            Job::Leave => self.leave(worker),
        }
        self.report()
    }

    fn feed(&mut self, step: Option<FeedStep>) {
        let Some(Inputs { ok, err }) = &mut self.inputs else {
            return;
        };
        match step {
            Some(FeedStep::Update(update)) => match update.row {
                Ok(row) => ok.update_at(row, update.time, update.diff),
                Err(error) => err.update_at(error, update.time, update.diff),
            },
            Some(FeedStep::Advance(time)) => {
                ok.advance_to(time);
                err.advance_to(time);
            }
            // The end of the input.
            None => self.inputs = None,
        }
    }

    fn leave(&mut self, worker: &mut Worker) {
        *self = Host::default();
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    }

    fn report(&self) -> Report {
        let sinks = || {
            self.view
                .iter()
                .chain(self.chain.iter().map(|(sink, _)| sink))
        };
        let source = self.chain.iter().map(|(_, source)| source);
        let mut statuses = sinks().chain(source).map(Handle::status);
        Report {
            frontier: self.view.as_ref().map(Handle::frontier),
            failure: statuses.find_map(|status| match status {
                Status::Failed { error } => Some(error.to_string()),
                _ => None,
            }),
            cancelled: self
                .view
                .as_ref()
                .is_some_and(|view| matches!(view.status(), Status::Cancelled)),
            finished: self.view.is_some()
                && sinks().all(|sink| matches!(sink.status(), Status::Finished)),
        }
    }
}
