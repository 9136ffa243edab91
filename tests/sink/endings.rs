//! Every way in which sinks and sources end, after which nothing keeps the process.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::{Driver, Row, cluster, feed_ticks, read, row, rows_sink, runtime, until};
use mvsink::{Context, Frontier, Handle, persist_sink, persist_source};
use mvsink_persist::testing::{Call, GateStore, Side};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use timely::Config;
use timely::worker::Worker;

const FROM: &str = "memory://shared/from";
const TO: &str = "memory://shared/to";
const MISSING: &str = "memory://shared/missing";
const ROWS: u64 = 7;

/// Longer than anything takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(100);

/// What a function returns. One that never does fails the test instead of hanging it.
fn returned<O: Send + 'static>(what: &str, run: impl FnOnce() -> O + Send + 'static) -> O {
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || ended.send(run()));
    match end.recv_timeout(PATIENCE) {
        Ok(output) => output,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("never returns: {what}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("panicked: {what}"),
    }
}

/// How a source ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    /// There is no table.
    Missing,
    /// The store refuses its files.
    Failed,
    DroppedAtOnce,
    DroppedLater,
    /// Neither it nor the sink says anything before the worker's closure returns.
    Left,
}

const ENDS: [End; 6] = [
    End::Finished,
    End::Missing,
    End::Failed,
    End::DroppedAtOnce,
    End::DroppedLater,
    End::Left,
];

/// A shard of some rows, at one time each, whose last worker closed its input or not.
fn fill(cx: &Context, close: bool) {
    let cx = cx.clone();
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "from", FROM);
        feed_ticks(worker, &mut input, &handle, ROWS);
        if close {
            input.close();
            until(worker, || handle.status().is_final());
        }
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
}

/// Contexts of so many processes, of which all find the shard, and a source that fails finds no files.
fn contexts_for(
    driver: Driver,
    runtime: &tokio::runtime::Runtime,
    processes: usize,
    end: End,
) -> Vec<Context> {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    fill(
        &driver.contexts(runtime, 1, Arc::clone(&inner))[0],
        end == End::Finished,
    );
    let gated = GateStore::new(inner);
    if end == End::Failed {
        let broken = gated.hold(1, Side::Before, |call, path| {
            let read = call == Call::Get && path.extension() == Some("parquet");
            assert!(!read, "this store is broken, on purpose");
            false
        });
        // For as long as there is the store.
        std::mem::forget(broken);
    }
    driver.contexts(runtime, processes, gated)
}

/// Runs a source, with a sink behind it or not, until it ends like this; gives the last statuses of both.
fn end(worker: &mut Worker, cx: &Context, end: End, with_sink: bool) -> (String, Option<String>) {
    let from = if end == End::Missing { MISSING } else { FROM };
    let (source, sink) = worker.dataflow::<u64, _, _>(|scope| {
        let source = persist_source::<Row, String, u64, i64>(cx, scope, "source", from, 0).unwrap();
        let sink =
            with_sink.then(|| persist_sink(cx, "copy", TO, source.ok, source.err, 0).unwrap());
        (source.handle, sink)
    });
    let status = source.status_stream();
    let mut source = Some(source);
    match end {
        End::DroppedAtOnce => source = None,
        End::DroppedLater => {
            let read = |source: &Handle<u64>| source.frontier() >= Frontier::At(ROWS);
            until(worker, || source.as_ref().is_some_and(read));
            source = None;
        }
        End::Finished | End::Missing | End::Failed => {
            until(worker, || status.borrow().is_final());
        }
        End::Left => {}
    }
    if let Some(sink) = &sink
        && end != End::Left
    {
        until(worker, || sink.status().is_final());
    }
    let of_sink = sink.map(|sink| sink.status().to_string());
    drop(source);
    let of_source = status.borrow().to_string();
    (of_source, of_sink)
}

fn assert_ended(case: &str, end: End, (source, sink): &(String, Option<String>)) {
    let says = |status: &str, words: &str| assert!(status.contains(words), "{case}: {status}");
    match end {
        End::Finished => says(source, "finished"),
        End::Missing => says(source, MISSING),
        End::Failed => says(source, "on purpose"),
        End::DroppedAtOnce | End::DroppedLater | End::Left => says(source, "cancelled"),
    }
    let Some(sink) = sink else { return };
    match end {
        End::Finished => says(sink, "finished"),
        End::Missing | End::Failed => {
            says(sink, "failed: ");
            // What the source said, or where the sink has failed first.
            says(sink, "its source source failed");
        }
        End::DroppedAtOnce | End::DroppedLater => says(sink, "cancelled"),
        End::Left => {}
    }
}

fn every_end_of_a_source_ends_its_dataflow(driver: Driver, workers: usize) {
    let runtime = runtime();
    for (end_of, with_sink) in ENDS.iter().flat_map(|end| [(*end, false), (*end, true)]) {
        let case = format!("{end_of:?}, with a sink: {with_sink}");
        let cx = contexts_for(driver, &runtime, 1, end_of).remove(0);
        let check = cx.clone();
        let ended = returned(&case, move || {
            let run = move |worker: &mut Worker| end(worker, &cx, end_of, with_sink);
            let guards = timely::execute(Config::process(workers), run).unwrap();
            let ended = guards.join().into_iter().map(Result::unwrap);
            ended.collect::<Vec<_>>()
        });
        for statuses in &ended {
            assert_ended(&case, end_of, statuses);
        }
        assert_never_cut_short(&check, &case, end_of, with_sink);
    }
}

/// A copy holds all, or is not sealed.
fn assert_never_cut_short(cx: &Context, case: &str, end: End, with_sink: bool) {
    runtime().block_on(cx.settled());
    let handle = cx.client().handle().clone();
    if !with_sink || handle.block_on(cx.client().open_existing(TO)).is_err() {
        return;
    }
    let (upper, rows) = read(cx, TO);
    if end == End::Finished {
        assert_eq!(
            (upper, rows.len()),
            (Frontier::Empty, ROWS as usize),
            "{case}"
        );
    } else {
        assert!(upper <= Frontier::At(ROWS), "{case}: sealed up to {upper}");
    }
}

with_workers! {
    every_end_of_a_source_ends_its_dataflow_with_1_worker: every_end_of_a_source_ends_its_dataflow(1),
    every_end_of_a_source_ends_its_dataflow_with_2_workers: every_end_of_a_source_ends_its_dataflow(2),
    every_end_of_a_source_ends_its_dataflow_with_4_workers: every_end_of_a_source_ends_its_dataflow(4),
}

fn every_end_of_a_source_ends_its_dataflow_in_two_processes(driver: Driver) {
    let runtime = runtime();
    for (end_of, with_sink) in ENDS.iter().flat_map(|end| [(*end, false), (*end, true)]) {
        let case = format!("{end_of:?}, with a sink: {with_sink}");
        let contexts = contexts_for(driver, &runtime, 2, end_of);
        let check = contexts[0].clone();
        let ended = returned(&case, move || {
            cluster(&contexts, 2, move |worker, cx| {
                end(worker, cx, end_of, with_sink)
            })
        });
        for (source, sink) in ended {
            // Whose process heard of the failure from the other one says so.
            let here = !source.contains("failed on worker")
                && !sink
                    .as_ref()
                    .is_some_and(|sink| sink.contains("failed on worker"));
            if here {
                assert_ended(&case, end_of, &(source, sink));
            }
        }
        assert_never_cut_short(&check, &case, end_of, with_sink);
    }
}

/// How a sink ends.
#[derive(Clone, Copy, Debug)]
enum SinkEnd {
    Finished,
    Failed,
    DroppedAtOnce,
    DroppedLater,
    /// Its handle is dropped before its input, which stays open until the closure returns.
    Left,
}

fn every_end_of_a_sink_ends_its_dataflow(driver: Driver, workers: usize) {
    let runtime = runtime();
    for end in [
        SinkEnd::Finished,
        SinkEnd::Failed,
        SinkEnd::DroppedAtOnce,
        SinkEnd::DroppedLater,
        SinkEnd::Left,
    ] {
        let gated = GateStore::new(Arc::new(InMemory::new()));
        let _broken = gated.hold(1, Side::Before, move |call, path| {
            let put = matches!(call, Call::Create | Call::Put);
            let staging = put && path.extension() == Some("parquet");
            assert!(
                !(staging && matches!(end, SinkEnd::Failed)),
                "broken, on purpose"
            );
            false
        });
        let cx = driver.contexts(&runtime, 1, gated).remove(0);
        returned(&format!("{end:?}"), move || {
            let run = move |worker: &mut Worker| {
                let (mut input, handle) = rows_sink(worker, &cx, "view", TO);
                if worker.index() == 0 {
                    input.update(row(1), 1);
                }
                input.advance_to(1);
                input.flush();
                match end {
                    SinkEnd::Finished => {
                        input.close();
                        until(worker, || handle.status().is_final());
                    }
                    SinkEnd::Failed => until(worker, || handle.status().is_final()),
                    SinkEnd::DroppedAtOnce => drop(handle),
                    SinkEnd::DroppedLater => {
                        until(worker, || handle.frontier() >= Frontier::At(1));
                        drop(handle);
                    }
                    SinkEnd::Left => {}
                }
            };
            let guards = timely::execute(Config::process(workers), run).unwrap();
            guards.join().into_iter().for_each(Result::unwrap);
        });
    }
}

with_workers! {
    every_end_of_a_sink_ends_its_dataflow_with_1_worker: every_end_of_a_sink_ends_its_dataflow(1),
    every_end_of_a_sink_ends_its_dataflow_with_2_workers: every_end_of_a_sink_ends_its_dataflow(2),
    every_end_of_a_sink_ends_its_dataflow_with_4_workers: every_end_of_a_sink_ends_its_dataflow(4),
}

/// A trace that a later dataflow imports carries a source's frontier out of its own dataflow.
fn a_dropped_source_misleads_no_sink_behind_an_imported_trace(driver: Driver) {
    let runtime = runtime();
    let cx = contexts_for(driver, &runtime, 1, End::DroppedLater).remove(0);
    let check = cx.clone();
    returned("an imported trace", move || {
        timely::execute_directly(move |worker| {
            let (source, mut trace) = worker.dataflow::<u64, _, _>(|scope| {
                let source =
                    persist_source::<Row, String, u64, i64>(&cx, scope, "source", FROM, 0).unwrap();
                (source.handle, source.ok.arrange_by_self().trace)
            });
            let sink = worker.dataflow::<u64, _, _>(|scope| {
                let rows = trace.import(scope).as_collection(|row, ()| row.clone());
                let errors = mvsink::no_errors::<_, String, _>(scope);
                persist_sink(&cx, "copy", TO, rows, errors, 0).unwrap()
            });
            until(worker, || sink.frontier() >= Frontier::At(ROWS));
            drop(source);
            for _ in 0..300 {
                worker.step_or_park(Some(Duration::from_millis(1)));
            }
            assert_eq!(sink.frontier(), Frontier::At(ROWS));
            assert!(!sink.status().is_final(), "{}", sink.status());
            drop((sink, trace));
        });
    });
    assert_eq!(read(&check, TO).0, Frontier::At(ROWS));
}

/// What a source's handle says when this many of its rows have come out.
fn a_source_is_finished_when_its_rows_have_come_out(driver: Driver, workers: usize) {
    let runtime = runtime();
    for _ in 0..5 {
        let cx = contexts_for(driver, &runtime, 1, End::Finished).remove(0);
        let run = move |worker: &mut Worker| {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let sink = Rc::clone(&seen);
            let source = worker.dataflow::<u64, _, _>(|scope| {
                let source =
                    persist_source::<Row, String, u64, i64>(&cx, scope, "source", FROM, 0).unwrap();
                source
                    .ok
                    .inspect(move |(row, time, _)| sink.borrow_mut().push((row.clone(), *time)));
                source.handle
            });
            until(worker, || {
                source.status().is_final() || source.frontier().is_empty()
            });
            let count = seen.borrow().len();
            (source.status().to_string(), source.frontier(), count)
        };
        let guards = timely::execute(Config::process(workers), run).unwrap();
        let ended: Vec<_> = guards.join().into_iter().map(Result::unwrap).collect();
        assert!(
            ended
                .iter()
                .all(|(status, frontier, _)| status == "finished" && frontier.is_empty()),
            "{ended:?}"
        );
        let seen: usize = ended.iter().map(|(_, _, seen)| seen).sum();
        assert_eq!(seen, ROWS as usize, "{ended:?}");
    }
}

with_workers! {
    a_source_is_finished_when_its_rows_have_come_out_with_1_worker: a_source_is_finished_when_its_rows_have_come_out(1),
    a_source_is_finished_when_its_rows_have_come_out_with_2_workers: a_source_is_finished_when_its_rows_have_come_out(2),
    a_source_is_finished_when_its_rows_have_come_out_with_4_workers: a_source_is_finished_when_its_rows_have_come_out(4),
}

/// A source that is still open reports no time of which rows are still to come.
fn a_source_reports_no_time_before_its_rows(driver: Driver) {
    let runtime = runtime();
    for _ in 0..5 {
        let cx = contexts_for(driver, &runtime, 1, End::DroppedLater).remove(0);
        let waited = cx.clone();
        timely::execute_directly(move |worker| {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let sink = Rc::clone(&seen);
            let source = worker.dataflow::<u64, _, _>(|scope| {
                let source =
                    persist_source::<Row, String, u64, i64>(&cx, scope, "source", FROM, 0).unwrap();
                source
                    .ok
                    .inspect(move |(_, time, _)| sink.borrow_mut().push(*time));
                source.handle
            });
            let wait = waited.client().handle().clone();
            let mut wait_for = Box::pin(source.wait_for(ROWS - 1));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            loop {
                let waited = {
                    let _runtime = wait.enter();
                    wait_for.as_mut().poll(&mut context)
                };
                let complete = source.frontier();
                let times = seen.borrow();
                let missing = (0..ROWS)
                    .filter(|time| complete.is_complete(time) && !times.contains(time))
                    .count();
                assert_eq!(missing, 0, "{complete} with {times:?}");
                if waited.is_ready() {
                    assert_eq!(times.len(), ROWS as usize);
                    break;
                }
                drop(times);
                worker.step_or_park(Some(Duration::from_millis(1)));
            }
            drop(wait_for);
            drop(source);
        });
    }
}

/// Who waits while the shard is being opened misses neither the opening nor what the source gives after it.
#[test]
fn waiting_for_a_source_begins_before_its_shard_is_open() {
    let runtime = runtime();
    for _ in 0..200 {
        let cx = Driver::Sync.contexts(&runtime, 1, filled())[0].clone();
        returned("waiting for a source", move || {
            timely::execute_directly(move |worker| {
                let source = worker.dataflow::<u64, _, _>(|scope| {
                    persist_source::<Row, String, u64, i64>(&cx, scope, "source", FROM, 0)
                        .unwrap()
                        .handle
                });
                let source = Arc::new(source);
                let waiting = Arc::clone(&source);
                let waiter = cx
                    .client()
                    .handle()
                    .spawn(async move { waiting.wait_for(ROWS - 1).await });
                until(worker, || waiter.is_finished());
                cx.client().handle().block_on(waiter).unwrap().unwrap();
            });
        });
    }
}

/// A store with the shard.
fn filled() -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let runtime = runtime();
    fill(
        &Driver::Sync.contexts(&runtime, 1, Arc::clone(&store))[0],
        false,
    );
    store
}

on_both_drivers! {
    every_end_of_a_source_ends_its_dataflow_with_1_worker,
    every_end_of_a_source_ends_its_dataflow_with_2_workers,
    every_end_of_a_source_ends_its_dataflow_with_4_workers,
    every_end_of_a_source_ends_its_dataflow_in_two_processes,
    every_end_of_a_sink_ends_its_dataflow_with_1_worker,
    every_end_of_a_sink_ends_its_dataflow_with_2_workers,
    every_end_of_a_sink_ends_its_dataflow_with_4_workers,
    a_dropped_source_misleads_no_sink_behind_an_imported_trace,
    a_source_is_finished_when_its_rows_have_come_out_with_1_worker,
    a_source_is_finished_when_its_rows_have_come_out_with_2_workers,
    a_source_is_finished_when_its_rows_have_come_out_with_4_workers,
    a_source_reports_no_time_before_its_rows,
}
