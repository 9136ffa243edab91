//! Several processes of one Timely cluster, with one shard for each view.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{
    self, Driver, Program, Row, assert_exact, at, cluster, contexts, feed_ticks, free_addresses,
    oracle, process_config, read, row, rows_sink, runtime, step_until, step_until_so,
    stop_while_it_stages, unreferenced, words,
};
use differential_dataflow::input::InputSession;
use mvsink::{Context, Frontier, Status, Target, no_errors, persist_sink, persist_source};
use mvsink_persist::testing::{Call, GateStore, Side};
use mvsink_persist::{ClientOptions, CompactOptions};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use timely::Config;
use timely::worker::Worker;

const URL: &str = "memory://shared";

/// So many that each of two processes has some of them to read.
const FILES: u64 = 30;

fn a_cluster_of_processes_keeps_one_shard(driver: Driver) {
    let runtime = runtime();
    let updates = words(67, 400, 40);
    let contexts = driver.contexts(&runtime, 2, Arc::new(InMemory::new()));
    let program = Program::new(updates.clone());
    let statuses = cluster(&contexts, 2, move |worker, cx| {
        program.run(worker, cx, Target::new(URL))
    });
    for status in statuses {
        assert!(matches!(status, Status::Finished), "{status}");
    }
    assert_exact(&contexts[0], URL, &updates, 0);
    assert_eq!(at(&read(&contexts[0], URL).1, 39), oracle(&updates, 39));
}

/// Tells a child of the test below which process it is; with the addresses of all, and the shard.
const CHILD: &str = "MVSINK_TEST_PROCESS";

#[test]
fn a_cluster_of_child_processes_keeps_one_shard() {
    let updates = words(83, 400, 40);
    if let Ok(child) = std::env::var(CHILD) {
        let [process, url, addresses] = child.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            panic!("{child}")
        };
        let addresses = addresses.split(' ').map(str::to_owned).collect();
        let config = process_config(process.parse().unwrap(), 2, addresses);
        let runtime = runtime();
        // They differ in the driver too.
        let driver = if process == "0" {
            Driver::Sync
        } else {
            Driver::Async
        };
        let (cx, target) = (driver.context(&runtime), Target::new(url));
        let program = Program::new(updates);
        let run = move |worker: &mut Worker| program.run(worker, &cx, target.clone());
        for status in timely::execute(config, run).unwrap().join() {
            let status = status.unwrap();
            assert!(matches!(status, Status::Finished), "{status}");
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().join("view").to_str().unwrap().to_owned();
    let addresses = free_addresses(2).join(" ");
    let child = |process: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "cluster::a_cluster_of_child_processes_keeps_one_shard",
            ])
            .env(CHILD, format!("{process} {url} {addresses}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for child in [child(0), child(1)] {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
    let runtime = runtime();
    let cx = support::context(&runtime);
    assert_eq!(read(&cx, &url).0, Frontier::Empty);
    assert_exact(&cx, &url, &updates, 0);
}

/// Contexts of processes that do not look for each other's commits by themselves for hours.
fn without_polls(driver: Driver, runtime: &tokio::runtime::Runtime, count: usize) -> Vec<Context> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let context = |_| {
        let mut options = ClientOptions::default();
        options.poll_min = Duration::from_secs(3600);
        options.poll_max = Duration::from_secs(7200);
        let builder = Context::builder(runtime.handle().clone()).client_options(options);
        let cx = builder.configs(driver.configs()).build();
        cx.client().mount("shared", Arc::clone(&store));
        cx
    };
    (0..count).map(context).collect()
}

fn a_hint_spares_the_processes_of_a_cluster_their_polls(driver: Driver) {
    let runtime = runtime();
    let updates = words(89, 300, 30);
    let contexts = without_polls(driver, &runtime, 2);
    let words = updates.clone();
    cluster(&contexts, 2, move |worker, cx| {
        let (mut input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::new();
            let view = support::view(input.to_collection(scope));
            let errors = no_errors::<u64, String, i64>(scope);
            (
                input,
                persist_sink(cx, "view", URL, view, errors, 0).unwrap(),
            )
        });
        for time in 0..30 {
            for (index, (word, at, diff)) in words.iter().enumerate() {
                if *at == time && index % worker.peers() == worker.index() {
                    input.update_at(word.clone(), *at, *diff);
                }
            }
            input.advance_to(time + 1);
            input.flush();
            // Appenders take turns, so the minter's process and the other one both have to be told.
            step_until_so(worker, "everybody knows of every commit", || {
                handle.frontier() >= Frontier::At(time + 1)
            });
        }
        input.close();
        step_until_so(worker, "everybody knows the end", || {
            handle.frontier().is_empty()
        });
    });
    assert_exact(&contexts[0], URL, &updates, 0);
}

fn a_failure_in_one_process_stops_the_sink_in_all(driver: Driver) {
    let runtime = runtime();
    let updates = words(97, 300, 30);
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let contexts = driver.contexts(&runtime, 2, Arc::clone(&inner));
    let broken = GateStore::new(Arc::clone(&inner));
    let _breaks = broken.hold(1, Side::Before, |call, path| {
        let put = matches!(call, Call::Create | Call::Put);
        let staging = put && path.extension() == Some("parquet");
        assert!(!staging, "this process is broken, on purpose");
        false
    });
    contexts[1].client().mount("shared", broken);
    let program = Program::new(updates.clone());
    let ended = cluster(&contexts, 2, move |worker, cx| {
        program.run(worker, cx, Target::new(URL)).to_string()
    });
    assert_eq!(ended.len(), 4);
    for (worker, status) in ended.iter().enumerate() {
        assert!(status.starts_with("failed: "), "worker {worker}: {status}");
        assert!(
            status.contains("this process is broken, on purpose"),
            "{status}"
        );
        let told = status.contains("failed on worker");
        assert_eq!(told, worker < 2, "worker {worker}: {status}");
    }
    let cx = &driver.contexts(&runtime, 1, inner)[0];
    assert_exact(cx, URL, &updates, 0);
}

/// What another process commits is sent once it is written: here the sink stops before.
fn r11_a_stop_winds_up_what_is_staged_for_another_process(driver: Driver) {
    let runtime = runtime();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let contexts = driver.contexts(&runtime, 2, Arc::clone(&inner));
    let gate = GateStore::new(Arc::clone(&inner));
    // The file is there, and the sink does not know.
    let hold = Mutex::new(Some(gate.hold(1, Side::After, |call, path| {
        let put = matches!(call, Call::Create | Call::Put);
        put && path.extension() == Some("parquet")
    })));
    let hold = Arc::new(hold);
    contexts[1].client().mount("shared", gate);
    for cx in &contexts {
        cx.configs().set("mvsink_compaction", "false").unwrap();
    }
    let wound_up = Arc::new(AtomicBool::new(false));
    cluster(&contexts, 1, move |worker, cx| {
        let (mut input, handle) = rows_sink(worker, cx, "view", URL);
        if worker.index() == 0 {
            (0..20).for_each(|key| input.update_at(row(key), 0, 1));
        }
        input.advance_to(1);
        input.flush();
        // The first batch is committed by worker 0, whose rows come to both.
        if worker.index() == 0 {
            step_until_so(worker, "the other one has wound up", || {
                wound_up.load(Ordering::SeqCst)
            });
            step_until_so(worker, "the batch is committed", || {
                handle.frontier() >= Frontier::At(1)
            });
            return;
        }
        let hold = hold.lock().unwrap().take().unwrap();
        stop_while_it_stages(worker, cx, handle, hold);
        wound_up.store(true, Ordering::SeqCst);
    });
    assert_eq!(
        unreferenced(&contexts[0], URL, &*inner),
        Vec::<String>::new()
    );
}

/// How a worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// It drops its handle.
    Handle,
    /// It drops the dataflow, and keeps the handle.
    Dataflow,
}

/// Runs a view on three workers that leave it in this order, while a batch is under way and the input ends.
fn leave_in_order(
    worker: &mut Worker,
    cx: &Context,
    (url, order, leaving): (&str, [usize; 3], Leaving),
    updates: &[support::Update],
    left: &AtomicUsize,
) {
    let (mut input, handle) = worker.dataflow(|scope| {
        let mut input = InputSession::new();
        let view = support::view(input.to_collection(scope));
        let errors = no_errors::<u64, String, i64>(scope);
        (
            input,
            persist_sink(cx, "view", url, view, errors, 0).unwrap(),
        )
    });
    for (index, (word, time, diff)) in updates.iter().enumerate() {
        if index % 3 == worker.index() {
            input.update_at(word.clone(), *time, *diff);
        }
    }
    input.advance_to(12);
    input.flush();
    step_until_so(worker, "the first batch is committed", || {
        handle.frontier() >= Frontier::At(12)
    });
    input.advance_to(25);
    input.flush();
    let position = order
        .iter()
        .position(|&turn| turn == worker.index())
        .unwrap();
    let mut open = Some(input);
    step_until_so(worker, "its turn", || {
        let others = left.load(Ordering::SeqCst);
        if others > 0
            && let Some(input) = open.take()
        {
            input.close();
        }
        others == position
    });
    // What those who have left could wrongly complete would be complete by then.
    for _ in 0..100 {
        worker.step_or_park(Some(Duration::from_micros(200)));
    }
    assert!(!handle.frontier().is_empty(), "{order:?} {leaving:?}");
    let mut handle = Some(handle);
    match leaving {
        Leaving::Handle => handle = None,
        Leaving::Dataflow => worker.drop_dataflow(worker.installed_dataflows()[0]),
    }
    left.fetch_add(1, Ordering::SeqCst);
    if let Some(input) = open.take() {
        input.close();
    }
    step_until_so(worker, "all have left", || left.load(Ordering::SeqCst) == 3);
    for _ in 0..20 {
        worker.step();
    }
    if let Some(handle) = handle {
        assert!(!handle.frontier().is_empty(), "{order:?} {leaving:?}");
    }
}

const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
];

fn assert_whole(cx: &Context, url: &str, updates: &[support::Update], how: &str) {
    let (upper, _) = read(cx, url);
    assert!(
        upper >= Frontier::At(12) && !upper.is_empty(),
        "who has left completes nothing: {how}, {upper}"
    );
    assert_exact(cx, url, updates, 0);
}

fn r05_workers_that_leave_in_any_order_complete_nothing(driver: Driver) {
    let runtime = runtime();
    let updates = words(101, 300, 30);
    for leaving in [Leaving::Handle, Leaving::Dataflow] {
        for order in ORDERS {
            let cx = driver.context(&runtime);
            let (context, words) = (cx.clone(), updates.clone());
            let left = AtomicUsize::new(0);
            let guards = timely::execute(Config::process(3), move |worker| {
                let how = ("memory://view", order, leaving);
                leave_in_order(worker, &context, how, &words, &left);
            });
            guards.unwrap().join().into_iter().for_each(Result::unwrap);
            let how = format!("{leaving:?} {order:?}");
            assert_whole(&cx, "memory://view", &updates, &how);
        }
    }
}

fn r05_processes_that_leave_in_any_order_complete_nothing(driver: Driver) {
    let runtime = runtime();
    let updates = words(103, 300, 30);
    for order in ORDERS {
        let contexts = driver.contexts(&runtime, 3, Arc::new(InMemory::new()));
        let words = updates.clone();
        let left = Arc::new(AtomicUsize::new(0));
        cluster(&contexts, 1, move |worker, cx| {
            leave_in_order(worker, cx, (URL, order, Leaving::Handle), &words, &left);
        });
        assert_whole(&contexts[0], URL, &updates, &format!("{order:?}"));
    }
}

/// What a source gives that runs in two processes, of which one, `late`, begins after a merge, and the other one before.
fn read_around_a_merge(late: usize) -> BTreeMap<Row, i64> {
    let runtime = runtime();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let contexts = contexts(&runtime, 3, Arc::clone(&inner));
    for cx in &contexts {
        cx.configs().set("mvsink_compaction", "false").unwrap();
    }
    let writer = contexts[2].clone();
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &writer, "view", URL);
        feed_ticks(worker, &mut input, &handle, FILES);
        input.close();
        step_until(worker, &handle, Frontier::Empty);
    });

    let gated = GateStore::new(inner);
    contexts[late]
        .client()
        .mount("shared", Arc::clone(&gated) as _);
    // Just before it pins what it begins with, a reader takes a hold.
    let begins = gated.hold_commit(1, Side::Before);
    let merger = contexts[2].clone();
    let meanwhile = std::thread::spawn(move || {
        runtime.block_on(async {
            begins.reached().await;
            let shard = merger.client().open_existing(URL).await.unwrap();
            while shard.holds().is_empty() {
                shard.refresh().await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut options = CompactOptions::default();
            options.full = true;
            let go_on = |_| ControlFlow::Continue(());
            shard.compact(&options, &go_on).await.unwrap();
            assert_eq!(shard.pin().files().len(), 1);
            begins.release();
        });
        runtime
    });
    let seen = cluster(&contexts[..2], 1, |worker, cx| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&seen);
        let (probe, _handle) = worker.dataflow::<u64, _, _>(|scope| {
            let source = persist_source::<Row, String, u64, i64>(cx, scope, "source", URL, 0);
            let source = source.unwrap();
            let rows = source.ok;
            let rows = rows.inspect(move |update| sink.borrow_mut().push(update.clone()));
            (rows.probe().0, source.handle)
        });
        step_until_so(worker, "all is read", || probe.done());
        seen.take()
    });
    meanwhile.join().unwrap();
    at(&seen.concat(), FILES)
}

#[test]
fn a_source_reads_each_row_once_whichever_process_knows_of_a_merge() {
    let expected: BTreeMap<Row, i64> = (0..FILES).map(|number| (row(number), 1)).collect();
    for late in [0, 1] {
        assert_eq!(read_around_a_merge(late), expected, "{late} is late");
    }
}

/// How a source ends in each of two processes, of which `broken` panics when the store is called so.
fn read_where_one_is_broken(broken: usize, panics_at: Call, in_log: bool) -> Vec<String> {
    let runtime = runtime();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let contexts = contexts(&runtime, 3, Arc::clone(&inner));
    // Nor may a reader merge the files: the one that is left may be the other process's to read.
    for cx in &contexts {
        cx.configs().set("mvsink_compaction", "false").unwrap();
    }
    let writer = contexts[2].clone();
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &writer, "view", URL);
        feed_ticks(worker, &mut input, &handle, FILES);
    });
    let gated = GateStore::new(inner);
    let _breaks = gated.hold(1, Side::Before, move |call, path| {
        let wrong = call == panics_at && path.as_ref().contains("_delta_log") == in_log;
        assert!(!wrong, "this process is broken, on purpose");
        false
    });
    contexts[broken]
        .client()
        .mount("shared", Arc::clone(&gated) as _);
    cluster(&contexts[..2], 1, |worker, cx| {
        let handle = worker.dataflow::<u64, _, _>(|scope| {
            let source = persist_source::<Row, String, u64, i64>(cx, scope, "source", URL, 0);
            source.unwrap().handle
        });
        step_until_so(worker, "it has failed", || handle.status().is_final());
        // Until the other one has been told as well.
        for _ in 0..100 {
            worker.step_or_park(Some(Duration::from_micros(200)));
        }
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        handle.status().to_string()
    })
}

#[test]
fn a_source_that_fails_in_one_process_fails_in_all() {
    // Before the first version is agreed on, as it takes its hold, and after that.
    for (call, in_log) in [(Call::Create, true), (Call::Get, false)] {
        for broken in [0, 1] {
            let ended = read_where_one_is_broken(broken, call, in_log);
            for (process, status) in ended.iter().enumerate() {
                let case = format!("{call:?}, process {broken}: {status}");
                assert!(status.starts_with("failed: "), "{case}");
                assert!(status.contains("broken, on purpose"), "{case}");
                let told = status.contains("failed on worker");
                assert_eq!(told, process != broken, "{case}");
            }
        }
    }
}

on_both_drivers! {
    a_cluster_of_processes_keeps_one_shard,
    a_hint_spares_the_processes_of_a_cluster_their_polls,
    a_failure_in_one_process_stops_the_sink_in_all,
    r11_a_stop_winds_up_what_is_staged_for_another_process,
    r05_workers_that_leave_in_any_order_complete_nothing,
    r05_processes_that_leave_in_any_order_complete_nothing,
}
