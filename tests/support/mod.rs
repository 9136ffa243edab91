//! Programs to end with a sink, a from-scratch oracle, and a reader of what the sink wrote.
#![allow(dead_code)]

pub mod hydrate;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use differential_dataflow::VecCollection;
use differential_dataflow::input::InputSession;
use futures::FutureExt;
use mvsink::dyncfg::ConfigSet;
use mvsink::{
    Context, Frontier, Handle, Source, Status, Target, no_errors, persist_sink, persist_source,
};
use mvsink_persist::testing::Hold;
use mvsink_persist::{Append, Appended, Codec, CommitId, Shard, StagedFile, decode_file};
use timely::Config;
use timely::worker::Worker;

/// A word, when it comes or goes, and how often.
pub type Update = (String, u64, i64);

/// The rows of the view: a word's first letter, and how many words begin with it.
pub type Row = (String, i64);

/// One of many rows, all different.
pub fn row(number: u64) -> Row {
    (format!("row {number}"), 1)
}

/// Random words that come and go over `times`, with repeats so that much cancels.
pub fn words(seed: u64, count: usize, times: u64) -> Vec<Update> {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let mut rng = StdRng::seed_from_u64(seed);
    let mut updates: Vec<Update> = Vec::new();
    for _ in 0..count {
        let time = rng.random_range(0..times);
        if rng.random_ratio(1, 3)
            && let Some((word, then, 1)) = updates
                .get(rng.random_range(0..updates.len().max(1)))
                .cloned()
        {
            updates.push((word, time.max(then), -1));
        } else {
            let letter = char::from(b'a' + rng.random_range(0..12u8));
            updates.push((format!("{letter}{}", rng.random_range(0..50)), time, 1));
        }
    }
    updates
}

/// The view at `time`, computed anew.
pub fn oracle(updates: &[Update], time: u64) -> BTreeMap<Row, i64> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for (word, at, diff) in updates {
        if *at <= time {
            *counts.entry(word[..1].to_owned()).or_default() += diff;
        }
    }
    counts
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|row| (row, 1))
        .collect()
}

/// The view in differential dataflow.
pub fn view<'s>(words: VecCollection<'s, u64, String, i64>) -> VecCollection<'s, u64, Row, i64> {
    words
        .map(|word| (word[..1].to_owned(), ()))
        .reduce(|_, input, output| output.push((input[0].1, 1)))
        .map(|(letter, count)| (letter, count))
}

/// How a program runs.
#[derive(Clone)]
pub struct Program {
    pub updates: Vec<Update>,
    pub as_of: u64,
    /// The input stops here, and stays open; or is closed.
    pub until: Frontier<u64>,
    /// How many times pass between two looks at the dataflow.
    pub stride: u64,
}

impl Program {
    pub fn new(updates: Vec<Update>) -> Self {
        Program {
            updates,
            as_of: 0,
            until: Frontier::Empty,
            stride: 3,
        }
    }

    /// Runs the view into the target on this worker until the shard has got to `until`.
    pub fn run(&self, worker: &mut Worker, cx: &Context, target: Target) -> Status {
        self.run_after(worker, cx, target, || ())
    }

    /// The same, once the dataflow is there and `built` has returned.
    fn run_after(
        &self,
        worker: &mut Worker,
        cx: &Context,
        target: Target,
        built: impl FnOnce(),
    ) -> Status {
        let (mut input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::new();
            let view = view(input.to_collection(scope));
            let errors = no_errors::<u64, String, i64>(scope);
            let handle = persist_sink(cx, "view", target, view, errors, self.as_of).unwrap();
            (input, handle)
        });
        built();
        let last = self
            .updates
            .iter()
            .map(|(_, time, _)| time + 1)
            .max()
            .unwrap_or(0);
        let end = self.until.time().unwrap_or(last);
        let mine = |(index, update): (usize, &Update)| {
            (index % worker.peers() == worker.index() && update.1 < end).then(|| update.clone())
        };
        let mut updates: Vec<Update> = self.updates.iter().enumerate().filter_map(mine).collect();
        updates.sort_by_key(|(_, time, _)| *time);
        let mut next = self.as_of;
        let mut updates = updates.into_iter().peekable();
        while next < end {
            next = end.min(next + self.stride);
            while let Some((word, time, diff)) = updates.next_if(|(_, time, _)| *time < next) {
                input.update_at(word, time.max(self.as_of), diff);
            }
            input.advance_to(next);
            input.flush();
            worker.step();
        }
        match self.until {
            Frontier::Empty => {
                input.close();
                step_until(worker, &handle, Frontier::Empty)
            }
            until => {
                let status = step_until(worker, &handle, until);
                // Stop the sink before the input closes.
                drop(handle);
                worker.drop_dataflow(worker.installed_dataflows()[0]);
                status
            }
        }
    }
}

/// Steps until the shard's upper is there, or the sink has failed.
#[track_caller]
pub fn step_until(worker: &mut Worker, handle: &Handle<u64>, upper: Frontier<u64>) -> Status {
    step_until_so(worker, &format!("an upper of {upper}"), || {
        handle.frontier() >= upper || matches!(handle.status(), Status::Failed { .. })
    });
    handle.status()
}

/// Runs a program on several threads and returns the status of the first worker's handle.
pub fn execute(workers: usize, cx: &Context, target: &Target, program: &Program) -> Status {
    let (context, target, program) = (cx.clone(), target.clone(), program.clone());
    // A sink that fails at once, and is dropped, is not there any more for a worker that begins late.
    let built = Arc::new(Barrier::new(workers));
    let guards = timely::execute(Config::process(workers), move |worker| {
        let built = Arc::clone(&built);
        program.run_after(worker, &context, target.clone(), move || {
            built.wait();
        })
    });
    let statuses = guards.unwrap().join();
    // What was lost at the very end is deleted by then.
    cx.client().handle().block_on(cx.settled());
    let mut statuses = statuses.into_iter().map(|status| status.unwrap());
    statuses.next().unwrap()
}

/// A runtime for the tasks of sinks.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// All updates that the shard holds, rows only; it must hold no errors.
pub fn read(cx: &Context, url: &str) -> (Frontier<u64>, Vec<(Row, u64, i64)>) {
    let runtime = cx.client().handle().clone();
    runtime.block_on(async {
        let shard = cx.client().open_existing(url).await.unwrap();
        shard.refresh().await.unwrap();
        let upper = shard
            .progress()
            .upper
            .map(|time| u64::try_from(time).unwrap());
        (upper, rows(&shard).await)
    })
}

async fn rows(shard: &Shard) -> Vec<(Row, u64, i64)> {
    let codec = Codec::<Row, String>::new().unwrap();
    let mut updates = Vec::new();
    for file in shard.pin().files() {
        let bytes = shard.read_file(&file.path).await.unwrap();
        for batch in decode_file(&file.path, bytes, None, 1024).unwrap() {
            let decoded = codec.decode(&batch.unwrap()).unwrap();
            assert!(decoded.err.is_empty(), "there are no errors");
            let stored = decoded.ok.into_iter();
            updates
                .extend(stored.map(|(row, time, diff)| (row, u64::try_from(time).unwrap(), diff)));
        }
    }
    updates
}

/// The collection at `time`.
pub fn at(updates: &[(Row, u64, i64)], time: u64) -> BTreeMap<Row, i64> {
    let mut sums = BTreeMap::new();
    for (row, at, diff) in updates {
        if *at <= time {
            *sums.entry(row.clone()).or_default() += diff;
        }
    }
    sums.retain(|_, diff| *diff != 0);
    sums
}

/// The shard holds the view at every time from `since` on.
pub fn assert_exact(cx: &Context, url: &str, program: &[Update], since: u64) {
    let (upper, updates) = read(cx, url);
    let last = program.iter().map(|(_, time, _)| *time).max().unwrap_or(0) + 1;
    for time in (since..=last).filter(|time| upper.is_complete(time)) {
        assert_eq!(
            at(&updates, time),
            oracle(program, time),
            "the view at {time}"
        );
    }
}

/// Who runs the operators of the sinks of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Sync,
    Async,
}

impl Driver {
    /// The flags that choose it.
    pub fn configs(self) -> ConfigSet {
        let configs = ConfigSet::new();
        self.choose(&configs);
        configs
    }

    /// Has sinks that are rendered from now on run like this.
    pub fn choose(self, configs: &ConfigSet) {
        let sync = self == Driver::Sync;
        let set = configs.set("enable_sync_mv_sink", &sync.to_string());
        set.unwrap();
    }

    /// A context over stores in memory, which a test can share between contexts.
    pub fn context(self, runtime: &tokio::runtime::Runtime) -> Context {
        let builder = Context::builder(runtime.handle().clone());
        builder.configs(self.configs()).build()
    }

    /// Contexts as separate processes would have them, over one store in memory.
    pub fn contexts(
        self,
        runtime: &tokio::runtime::Runtime,
        count: usize,
        store: Arc<dyn object_store::ObjectStore>,
    ) -> Vec<Context> {
        let context = |_| {
            let cx = self.context(runtime);
            cx.client().mount("shared", Arc::clone(&store));
            cx
        };
        (0..count).map(context).collect()
    }
}

/// A context over stores in memory, with the default driver.
pub fn context(runtime: &tokio::runtime::Runtime) -> Context {
    Driver::Sync.context(runtime)
}

/// Contexts as separate processes would have them, over one store in memory, with the default driver.
pub fn contexts(
    runtime: &tokio::runtime::Runtime,
    count: usize,
    store: Arc<dyn object_store::ObjectStore>,
) -> Vec<Context> {
    Driver::Sync.contexts(runtime, count, store)
}

/// Runs a function on every worker of a cluster of processes, which are threads here, each with its own context;
/// gives what the workers returned, in their order.
pub fn cluster<O: Send + 'static>(
    contexts: &[Context],
    threads: usize,
    run: impl Fn(&mut Worker, &Context) -> O + Clone + Send + Sync + 'static,
) -> Vec<O> {
    let addresses = free_addresses(contexts.len());
    let processes: Vec<_> = (0..contexts.len())
        .map(|process| {
            let config = process_config(process, threads, addresses.clone());
            let (cx, run) = (contexts[process].clone(), run.clone());
            std::thread::spawn(move || {
                let guards = timely::execute(config, move |worker| run(worker, &cx)).unwrap();
                let outputs = guards.join().into_iter().map(Result::unwrap);
                outputs.collect::<Vec<_>>()
            })
        })
        .collect();
    let outputs = processes.into_iter().map(|process| process.join().unwrap());
    outputs.flatten().collect()
}

/// Free addresses: bound, and given up just before a cluster takes them.
pub fn free_addresses(count: usize) -> Vec<String> {
    let listener = |_| TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners: Vec<_> = (0..count).map(listener).collect();
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    listeners.iter().map(address).collect()
}

/// How one process of a cluster runs.
pub fn process_config(process: usize, threads: usize, addresses: Vec<String>) -> Config {
    let communication = timely::CommunicationConfig::Cluster {
        threads,
        process,
        addresses,
        report: false,
        zerocopy: false,
    };
    Config {
        communication,
        worker: timely::WorkerConfig::default(),
    }
}

/// A sink of rows that are fed as they are, in a dataflow of its own.
pub fn rows_sink(
    worker: &mut Worker,
    cx: &Context,
    name: &str,
    target: impl Into<Target>,
) -> (InputSession<u64, Row, i64>, Handle<u64>) {
    rows_sink_from(worker, cx, name, target, 0)
}

/// The same from this time on; rows may be fed at earlier ones.
pub fn rows_sink_from(
    worker: &mut Worker,
    cx: &Context,
    name: &str,
    target: impl Into<Target>,
    as_of: u64,
) -> (InputSession<u64, Row, i64>, Handle<u64>) {
    worker.dataflow(|scope| {
        let mut input = InputSession::new();
        let rows = input.to_collection(scope);
        let errors = no_errors::<u64, String, i64>(scope);
        let handle = persist_sink(cx, name, target, rows, errors, as_of).unwrap();
        (input, handle)
    })
}

/// Feeds one row at each of so many times from 0 on, each once the one before is durable.
pub fn feed_ticks(
    worker: &mut Worker,
    input: &mut InputSession<u64, Row, i64>,
    handle: &Handle<u64>,
    ticks: u64,
) {
    for tick in 0..ticks {
        input.update(row(tick), 1);
        input.advance_to(tick + 1);
        input.flush();
        step_until(worker, handle, Frontier::At(tick + 1));
    }
}

/// Appends a staged file, of rows at this time, which is the shard's upper, as a rival does.
pub async fn append_file(shard: &Shard, time: i64, staged: StagedFile) {
    let append = Append {
        id: CommitId {
            nonce: 5,
            seq: u64::try_from(time).unwrap(),
        },
        lower: Frontier::At(time),
        upper: Frontier::At(time + 1),
        files: vec![staged],
        since: None,
    };
    let appended = shard.append(append, &|_| ()).await.unwrap();
    assert!(matches!(appended, Appended::Committed { .. }));
}

/// True of the path of a data file.
pub fn is_data(path: &object_store::path::Path) -> bool {
    path.extension() == Some("parquet") && !path.as_ref().contains("_delta_log")
}

/// Longer than anything takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(240);

/// Steps until it is so. What never happens fails the test instead of hanging it.
#[track_caller]
pub fn step_until_so(worker: &mut Worker, what: &str, mut so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !so() {
        worker.step_or_park(Some(Duration::from_millis(1)));
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
    }
}

/// The same, of what the place in the test says.
#[track_caller]
pub fn until(worker: &mut Worker, so: impl FnMut() -> bool) {
    step_until_so(worker, "what the test waits for", so);
}

/// Stops a sink while the file is held that it stages, and gives the file free once it has waited for that a while. The
/// dataflow stays, and so does its input.
pub fn stop_while_it_stages(worker: &mut Worker, cx: &Context, handle: Handle<u64>, hold: Hold) {
    step_until_so(worker, "a file is staged", || {
        hold.reached().now_or_never().is_some()
    });
    drop(handle);
    for _ in 0..200 {
        worker.step_or_park(Some(Duration::from_millis(1)));
        assert!(!cx.is_settled(), "the sink ends before it has wound up");
    }
    hold.release();
    step_until_so(worker, "the sink has wound up", || cx.is_settled());
}

/// The names of the files in a memory store that belong to the shard beside its log, and that its log does not
/// refer to.
pub fn unreferenced(cx: &Context, url: &str, store: &dyn object_store::ObjectStore) -> Vec<String> {
    use futures::TryStreamExt;
    cx.client().handle().clone().block_on(async {
        let shard = cx.client().open_existing(url).await.unwrap();
        shard.refresh().await.unwrap();
        let live: Vec<String> = shard.pin().files().map(|file| file.path.clone()).collect();
        let stored: Vec<_> = store.list(None).try_collect().await.unwrap();
        let names = stored.into_iter().map(|object| object.location.to_string());
        let left = |name: &String| {
            !name.contains("_delta_log") && !live.iter().any(|live| name.ends_with(live.as_str()))
        };
        names.filter(left).collect()
    })
}

/// Puts the next entry of a local shard's log, as another program does: whoever is faster, it comes next.
pub fn append_entry(shard: &std::path::Path, actions: &[serde_json::Value]) {
    let log = shard.join("_delta_log");
    let entry = |version: u64| log.join(format!("{version:020}.json"));
    let is_entry = |path: &std::path::PathBuf| path.extension().is_some_and(|kind| kind == "json");
    let number =
        |path: std::path::PathBuf| path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let last = || {
        let entries = std::fs::read_dir(&log).unwrap();
        let entries = entries.map(|entry| entry.unwrap().path()).filter(is_entry);
        entries.map(number).max()
    };
    let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
    // As a whole, as every writer does.
    let staged = log.join("staged");
    std::fs::write(&staged, lines.join("\n")).unwrap();
    loop {
        let next = last().map_or(0, |last: u64| last + 1);
        match std::fs::hard_link(&staged, entry(next)) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            linked => break linked.unwrap(),
        }
    }
    std::fs::remove_file(&staged).unwrap();
}

/// The rows up to this one, each once.
pub fn rows_below(end: u64) -> BTreeMap<Row, i64> {
    (0..end).map(|number| (row(number), 1)).collect()
}

/// Feeds one row at each time from one on, each once the one before is durable.
pub fn feed_ticks_from(
    worker: &mut Worker,
    input: &mut InputSession<u64, Row, i64>,
    handle: &Handle<u64>,
    from: u64,
    to: u64,
) {
    for tick in from..to {
        input.update(row(tick), 1);
        input.advance_to(tick + 1);
        input.flush();
        let status = step_until(worker, handle, Frontier::At(tick + 1));
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
    }
}

/// What the status of a source of this table says once it has failed.
pub fn failure_of_a_source(worker: &mut Worker, cx: &Context, url: &str) -> String {
    let source = worker.dataflow(|scope| {
        let source: Source<'_, Row, String, u64, i64> =
            persist_source(cx, scope, "source", url, 0).unwrap();
        source.handle
    });
    step_until_so(worker, "the source has failed", || {
        matches!(source.status(), Status::Failed { .. })
    });
    let status = source.status().to_string();
    drop(source);
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
    status
}
