//! The sink on its workloads, each beside a floor measured in the same run.
//!
//! The floor is a plain loop on one thread, with no dataflow: the same rows turned into Arrow, encoded as one
//! Parquet file, and committed once. It is what any sink has to pay for these rows. For `latency`, where there is
//! nothing to encode to speak of, the floor is the file operations and the commit alone.
//!
//! | workload | one iteration | the clock runs |
//! |---|---|---|
//! | `bulk` | a snapshot into an empty shard | from the first row in until the shard's upper is past it |
//! | `steady` | a tick of 5,000 updates, half of them retractions | from the first update in until the tick is committed; the next tick comes then |
//! | `latency` | a tick of one update | as for `steady`; in memory, and on a local directory with fsync |
//! | `restart` | the same rows over the shard that holds them, in a new context | from rendering the sink until the shard's upper has moved on |
//! | `takeover` | a tick after the replica that wrote has gone without a word, and another stands by | from the tick's update in until it is committed |
//!
//! Rows are a (u64 key, 40-byte string, u64, u64), made before the clock starts. The store is in memory unless said
//! otherwise. `restart` is also measured with everything read back (`mvsink_full_read_back`), as a control. `takeover` has no
//! floor: it is to be compared with the silence after which a replica takes over (`mvsink_standby_silence_ms`, by
//! default 1 s). Rows are fed in from the dataflow's own threads, so that feeding them is part of what is measured.
//! Each workload runs with both drivers, side by side: the synchronous one, and, where the name says so, the
//! asynchronous one.
//!
//! By the environment:
//!
//! - `MVSINK_BENCH_ROWS`: the rows of `bulk` and `restart` (default 200,000);
//! - `MVSINK_BENCH_DIR`: where the local directory is made (default: that for temporary files), so that fsync is
//!   measured on the disk that matters.
//!
//! At the end a table gives the median of all iterations of each workload, warm-up included, and its floor's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use differential_dataflow::input::InputSession;
use mvsink::mvsink_persist::{
    Append, Appended, Codec, CommitId, EncodedFile, Error, FileEncoder, FileMeta, Open, Shard,
};
use mvsink::{Context, Frontier, Handle, Status, Target, no_errors, persist_sink};
use object_store::memory::InMemory;
use timely::worker::Worker;
use tokio::runtime::Runtime;

type Row = (u64, String, u64, u64);
type Updates = Vec<(Row, i64)>;

/// Rows turned into Arrow at once, by the floor: as many as the sink does.
const CHUNK_ROWS: usize = 8192;

/// Rows fed in between two steps of the worker.
const FED_AT_ONCE: usize = 4096;

const TICK_UPDATES: usize = 5000;

/// Ticks before the clock starts to count, in each dataflow anew.
const WARM_TICKS: usize = 3;

fn rows_total() -> usize {
    let rows = std::env::var("MVSINK_BENCH_ROWS").ok();
    rows.and_then(|rows| rows.parse().ok()).unwrap_or(200_000)
}

/// A row that looks random and is the same in each run (the finalizer of splitmix64).
fn row(number: u64) -> Row {
    let mut x = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x = (x ^ (x >> 31)) >> 1;
    (
        x,
        format!("{x:020}{:020}", x.rotate_left(17) >> 1),
        number % 1000,
        number,
    )
}

/// What has been measured: the iterations of each workload, and of each floor.
#[derive(Default)]
struct Measured {
    iterations: RefCell<BTreeMap<(&'static str, String), Vec<Duration>>>,
}

impl Measured {
    /// Notes the iterations; gives their sum.
    fn note(&self, group: &'static str, name: &str, took: Vec<Duration>) -> Duration {
        let sum = took.iter().sum();
        let mut iterations = self.iterations.borrow_mut();
        iterations
            .entry((group, name.to_owned()))
            .or_default()
            .extend(took);
        sum
    }

    fn median(&self, group: &'static str, name: &str) -> Option<Duration> {
        let iterations = self.iterations.borrow();
        let mut took = iterations.get(&(group, name.to_owned()))?.clone();
        took.sort_unstable();
        took.get(took.len() / 2).copied()
    }

    /// Every workload beside the floor of its group, or of the group's store where it has several.
    fn print(&self) {
        let names: Vec<_> = self.iterations.borrow().keys().cloned().collect();
        let workloads: Vec<_> = names
            .iter()
            .filter(|(_, name)| !name.starts_with("floor"))
            .collect();
        if workloads.is_empty() {
            return;
        }
        println!(
            "{:<24} {:>12} {:>12} {:>7}",
            "workload", "median", "floor", "ratio"
        );
        for (group, name) in workloads {
            let Some(median) = self.median(group, name) else {
                continue;
            };
            let place = name.strip_suffix(ASYNC).unwrap_or(name);
            let floor = self
                .median(group, "floor")
                .or_else(|| self.median(group, &format!("floor, {place}")));
            let ratio = floor.map(|floor| median.as_secs_f64() / floor.as_secs_f64());
            let floor = floor.map_or("-".into(), |floor| format!("{floor:.2?}"));
            let ratio = ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
            let workload = format!("{group} ({name})");
            println!(
                "{workload:<24} {:>12} {floor:>12} {ratio:>7}",
                format!("{median:.2?}")
            );
        }
    }
}

/// Starts a sink on one worker; its input stands at the as-of.
fn render(
    worker: &mut Worker,
    cx: &Context,
    url: &str,
    as_of: u64,
) -> (InputSession<u64, Row, i64>, Handle<u64>) {
    worker.dataflow(|scope| {
        let mut input = InputSession::new();
        let rows = input.to_collection(scope);
        let errors = no_errors::<u64, String, i64>(scope);
        let sink = persist_sink(cx, "bench", Target::new(url), rows, errors, as_of);
        input.advance_to(as_of);
        (input, sink.expect("the row has a schema"))
    })
}

/// Waits until the shard is open.
fn until_started(cx: &Context, handle: &Handle<u64>) {
    let mut statuses = handle.status_stream();
    let started = statuses.wait_for(|status| !matches!(status, Status::Starting));
    cx.client()
        .handle()
        .block_on(started)
        .expect("the handle holds the sender");
}

fn feed(worker: &mut Worker, input: &mut InputSession<u64, Row, i64>, updates: Updates) {
    for (at, (row, diff)) in updates.into_iter().enumerate() {
        input.update(row, diff);
        if at % FED_AT_ONCE == FED_AT_ONCE - 1 {
            worker.step();
        }
    }
}

/// Ends the input's time, and waits until the shard is complete beyond it.
fn commit(
    worker: &mut Worker,
    input: &mut InputSession<u64, Row, i64>,
    handle: &Handle<u64>,
    upper: u64,
) {
    input.advance_to(upper);
    input.flush();
    while handle.frontier() < Frontier::At(upper) {
        if let Status::Failed { error } = handle.status() {
            panic!("the sink failed: {error}");
        }
        // Long, so that a wake-up that is missing shows.
        worker.step_or_park(Some(Duration::from_millis(100)));
    }
}

/// Stops the sink before its input ends, so that nothing more is committed.
fn stop(worker: &mut Worker, handle: Handle<u64>) {
    drop(handle);
    worker.drop_dataflow(worker.installed_dataflows()[0]);
}

/// Where the clock starts.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Rendering,
    FirstRow,
}

/// Feeds these rows at the as-of, and waits until the shard's upper is past `until`.
fn snapshot(
    cx: &Context,
    url: &'static str,
    workers: usize,
    rows: &Arc<Vec<Row>>,
    (as_of, upper): (u64, u64),
    from: From,
) -> Duration {
    let (cx, rows) = (cx.clone(), Arc::clone(rows));
    let together = Arc::new(Barrier::new(workers));
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let mine = rows.iter().skip(worker.index()).step_by(worker.peers());
        let mine: Updates = mine.map(|row| (row.clone(), 1)).collect();
        together.wait();
        let mut start = Instant::now();
        let (mut input, handle) = render(worker, &cx, url, as_of);
        if from == From::FirstRow {
            until_started(&cx, &handle);
            together.wait();
            start = Instant::now();
        }
        feed(worker, &mut input, mine);
        commit(worker, &mut input, &handle, upper);
        let took = start.elapsed();
        together.wait();
        stop(worker, handle);
        took
    });
    let took = guards.expect("threads start").join();
    let took = took
        .into_iter()
        .map(|took| took.expect("a worker ends well"));
    took.max().unwrap_or_default()
}

/// Feeds the ticks one after the other, each when the one before it is committed.
fn ticks(cx: &Context, url: &str, ticks: Vec<Updates>) -> Vec<Duration> {
    let (cx, url) = (cx.clone(), url.to_owned());
    timely::execute_directly(move |worker| {
        let (mut input, handle) = render(worker, &cx, &url, 0);
        until_started(&cx, &handle);
        let mut took = Vec::with_capacity(ticks.len());
        for (updates, upper) in ticks.into_iter().zip(1..) {
            let start = Instant::now();
            feed(worker, &mut input, updates);
            commit(worker, &mut input, &handle, upper);
            took.push(start.elapsed());
        }
        stop(worker, handle);
        took.split_off(WARM_TICKS)
    })
}

/// What the floor does with its rows: no more than what any sink has to.
struct Floor<'a> {
    runtime: &'a Runtime,
    codec: Codec<Row, String>,
    shard: Shard,
    nonce: u128,
    upper: i64,
}

impl<'a> Floor<'a> {
    fn new(runtime: &'a Runtime, url: &str) -> Self {
        let cx = Context::new(runtime.handle().clone());
        let codec = Codec::new().expect("the row has a schema");
        let open = Open::new(codec.schema());
        let shard = runtime
            .block_on(cx.client().open_or_create(url, open))
            .expect("a new shard");
        Floor {
            runtime,
            codec,
            shard,
            nonce: cx.client().random_u128(),
            upper: 0,
        }
    }

    fn encode<'u>(&self, updates: impl ExactSizeIterator<Item = (&'u Row, i64)>) -> EncodedFile {
        let mut file = FileEncoder::new(self.codec.schema()).expect("the schema fits");
        let time = self.upper;
        let mut updates = updates.map(|(row, diff)| (row, time, diff));
        while updates.len() > 0 {
            let batch = self
                .codec
                .encode(updates.by_ref().take(CHUNK_ROWS))
                .expect("the rows fit");
            file.write(&batch).expect("the batch fits");
        }
        file.finish().expect("the file is complete")
    }

    fn commit(&mut self, file: EncodedFile) {
        let id = CommitId {
            nonce: self.nonce,
            seq: self.upper as u64,
        };
        let (lower, upper) = (Frontier::At(self.upper), Frontier::At(self.upper + 1));
        let retried = |error: &Error| panic!("the store failed: {error}");
        let appended = self.runtime.block_on(async {
            let meta = FileMeta::from(&file);
            let staged = self.shard.put_file(file.bytes, meta, &|_| ()).await?;
            let append = Append {
                id,
                lower,
                upper,
                files: vec![staged],
                since: None,
            };
            self.shard.append(append, &retried).await
        });
        assert!(
            matches!(appended, Ok(Appended::Committed { .. })),
            "nobody else writes"
        );
        self.upper += 1;
    }
}

/// Who runs the operators.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    Sync,
    Async,
}

const DRIVERS: [Driver; 2] = [Driver::Sync, Driver::Async];

/// What the names of the asynchronous driver's workloads end with.
const ASYNC: &str = ", async";

impl Driver {
    fn name(self, workload: &str) -> String {
        match self {
            Driver::Sync => workload.to_owned(),
            Driver::Async => format!("{workload}{ASYNC}"),
        }
    }

    fn context(self, runtime: &Runtime) -> Context {
        let cx = Context::new(runtime.handle().clone());
        let sync = self == Driver::Sync;
        let set = cx.configs().set("enable_sync_mv_sink", &sync.to_string());
        set.expect("a flag");
        cx
    }
}

/// The workloads of several names with both drivers, each name beside itself.
fn with_drivers<N: Copy>(names: &[(N, &str)]) -> Vec<(N, Driver, String)> {
    let both = |(what, name): &(N, &str)| DRIVERS.map(|driver| (*what, driver, driver.name(name)));
    names.iter().flat_map(both).collect()
}

fn group<'a>(c: &'a mut Criterion, name: &str, updates: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .throughput(Throughput::Elements(updates as u64))
        .sample_size(10);
    group
}

/// The floor of `bulk` and of `restart`.
fn floor_of_rows(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &'static str,
    measured: &Measured,
    runtime: &Runtime,
    rows: &[Row],
) {
    group.bench_function("floor", |b| {
        b.iter_custom(|iterations| {
            let iteration = |_| {
                let mut floor = Floor::new(runtime, "memory://floor");
                let start = Instant::now();
                let file = floor.encode(rows.iter().map(|row| (row, 1)));
                floor.commit(file);
                start.elapsed()
            };
            measured.note(name, "floor", (0..iterations).map(iteration).collect())
        });
    });
}

fn bulk(c: &mut Criterion, measured: &Measured, runtime: &Runtime, rows: &Arc<Vec<Row>>) {
    let mut group = group(c, "bulk", rows.len());
    for (workers, driver, name) in with_drivers(&[(1, "1 worker"), (2, "2 workers")]) {
        group.bench_function(&name, |b| {
            b.iter_custom(|iterations| {
                let iteration = |_| {
                    snapshot(
                        &driver.context(runtime),
                        "memory://bulk",
                        workers,
                        rows,
                        (0, 1),
                        From::FirstRow,
                    )
                };
                measured.note("bulk", &name, (0..iterations).map(iteration).collect())
            });
        });
    }
    floor_of_rows(&mut group, "bulk", measured, runtime, rows);
}

fn restart(c: &mut Criterion, measured: &Measured, runtime: &Runtime, rows: &Arc<Vec<Row>>) {
    let mut group = group(c, "restart", rows.len());
    let names = [(1, "1 worker"), (2, "2 workers")];
    let workloads = with_drivers(&names).into_iter();
    let workloads = workloads.map(|(workers, driver, name)| (workers, driver, false, name));
    let control = (1, Driver::Sync, true, "1 worker, all read".to_owned());
    for (workers, driver, full, name) in workloads.chain([control]) {
        let store = Arc::new(InMemory::new());
        let url = "memory://restart";
        let upper = Cell::new(0);
        group.bench_function(&name, |b| {
            b.iter_custom(|iterations| {
                let again = |_| {
                    let cx = driver.context(runtime);
                    let set = cx.configs().set("mvsink_full_read_back", &full.to_string());
                    set.expect("a flag");
                    cx.client().mount("restart", Arc::clone(&store) as _);
                    // The last time that is complete, as a host would have it after a stop.
                    let as_of = upper.get().max(1) - 1;
                    upper.set(upper.get() + 1);
                    snapshot(
                        &cx,
                        url,
                        workers,
                        rows,
                        (as_of, upper.get()),
                        From::Rendering,
                    )
                };
                if upper.get() == 0 {
                    // Fills the shard.
                    again(0);
                }
                let took = (0..iterations).map(again).collect();
                measured.note("restart", &name, took)
            });
        });
    }
    floor_of_rows(&mut group, "restart", measured, runtime, rows);
}

/// The updates of a tick: new rows, and as many old ones taken back.
fn tick(number: usize) -> Updates {
    let half = TICK_UPDATES / 2;
    let first = (number * half) as u64;
    let new = (first..first + half as u64).map(|n| (row(n), 1));
    let old = first
        .checked_sub(half as u64)
        .map(|first| first..first + half as u64);
    new.chain(old.into_iter().flatten().map(|n| (row(n), -1)))
        .collect()
}

fn steady(c: &mut Criterion, measured: &Measured, runtime: &Runtime) {
    let mut group = group(c, "steady", TICK_UPDATES);
    let count = |iterations: u64| iterations as usize + WARM_TICKS;
    for ((), driver, name) in with_drivers(&[((), "1 worker")]) {
        group.bench_function(&name, |b| {
            b.iter_custom(|iterations| {
                let updates = (0..count(iterations)).map(tick).collect();
                let took = ticks(&driver.context(runtime), "memory://steady", updates);
                measured.note("steady", &name, took)
            });
        });
    }
    group.bench_function("floor", |b| {
        b.iter_custom(|iterations| {
            let mut floor = Floor::new(runtime, "memory://floor");
            let iteration = |updates: Updates| {
                let start = Instant::now();
                let file = floor.encode(updates.iter().map(|(row, diff)| (row, *diff)));
                floor.commit(file);
                start.elapsed()
            };
            let took: Vec<_> = (0..count(iterations)).map(tick).map(iteration).collect();
            measured.note("steady", "floor", took[WARM_TICKS..].to_vec())
        });
    });
}

/// A fresh place for a shard, in memory or on a disk; the directory lives as long as the second part.
fn place(store: &str) -> (String, Option<tempfile::TempDir>) {
    if store == "memory" {
        return ("memory://latency".into(), None);
    }
    let within =
        std::env::var_os("MVSINK_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into());
    let directory = tempfile::tempdir_in(within).expect("a directory");
    let url = directory
        .path()
        .to_str()
        .expect("a path in UTF-8")
        .to_owned();
    (url, Some(directory))
}

fn latency(c: &mut Criterion, measured: &Measured, runtime: &Runtime) {
    let mut group = group(c, "latency", 1);
    for store in ["memory", "directory"] {
        for driver in DRIVERS {
            let name = driver.name(store);
            group.bench_function(&name, |b| {
                b.iter_custom(|iterations| {
                    let (url, _directory) = place(store);
                    let updates = (0..iterations + WARM_TICKS as u64)
                        .map(|n| vec![(row(n), 1)])
                        .collect();
                    let took = ticks(&driver.context(runtime), &url, updates);
                    measured.note("latency", &name, took)
                });
            });
        }
        let name = format!("floor, {store}");
        group.bench_function(&name, |b| {
            b.iter_custom(|iterations| {
                let (url, _directory) = place(store);
                let mut floor = Floor::new(runtime, &url);
                let iteration = |number| {
                    let file = floor.encode([(&row(number), 1)].into_iter());
                    let start = Instant::now();
                    floor.commit(file);
                    start.elapsed()
                };
                let took: Vec<_> = (0..iterations + WARM_TICKS as u64).map(iteration).collect();
                measured.note("latency", &name, took[WARM_TICKS..].to_vec())
            });
        });
    }
}

/// Has two replicas write until one of them stands by; gives how long that one takes to commit the first tick after the
/// other one has gone.
fn take_over(driver: Driver, runtime: &Runtime) -> Duration {
    let store = Arc::new(InMemory::new());
    let contexts = [(); 2].map(|()| {
        let cx = driver.context(runtime);
        cx.configs().set("mvsink_standby", "true").expect("a flag");
        cx.client().mount("replicas", Arc::clone(&store) as _);
        cx
    });
    timely::execute_directly(move |worker| {
        let mut replicas: Vec<_> = contexts
            .iter()
            .map(|cx| render(worker, cx, "memory://replicas", 0))
            .collect();
        let stands_by = |handle: &Handle<u64>| matches!(handle.status(), Status::StandingBy);
        let mut upper = 0;
        let winner = loop {
            if let Some(loser) = replicas.iter().position(|(_, handle)| stands_by(handle)) {
                break 1 - loser;
            }
            for (input, _) in &mut replicas {
                input.update(row(upper), 1);
                input.advance_to(upper + 1);
                input.flush();
            }
            upper += 1;
            for (input, handle) in &mut replicas {
                commit(worker, input, handle, upper);
            }
        };
        let (_input, gone) = replicas.remove(winner);
        drop(gone);
        let (mut input, handle) = replicas.remove(0);
        let start = Instant::now();
        input.update(row(upper), 1);
        commit(worker, &mut input, &handle, upper + 1);
        let took = start.elapsed();
        drop(handle);
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
        took
    })
}

fn takeover(c: &mut Criterion, measured: &Measured, runtime: &Runtime) {
    let mut group = group(c, "takeover", 1);
    // Each iteration takes as long as the silence, at least.
    group.warm_up_time(Duration::from_millis(1));
    for ((), driver, name) in with_drivers(&[((), "2 replicas")]) {
        group.bench_function(&name, |b| {
            b.iter_custom(|iterations| {
                let iteration = |_| take_over(driver, runtime);
                measured.note("takeover", &name, (0..iterations).map(iteration).collect())
            });
        });
    }
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let measured = Measured::default();
    let mut criterion = Criterion::default().configure_from_args();
    let rows = Arc::new((0..rows_total() as u64).map(row).collect::<Vec<_>>());
    bulk(&mut criterion, &measured, &runtime, &rows);
    steady(&mut criterion, &measured, &runtime);
    latency(&mut criterion, &measured, &runtime);
    restart(&mut criterion, &measured, &runtime, &rows);
    takeover(&mut criterion, &measured, &runtime);
    criterion.final_summary();
    measured.print();
}
