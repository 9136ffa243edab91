//! Sinks on tables that were finished before they started.

use std::sync::Arc;

use crate::edits::{edit, file};
use crate::support::{
    Driver, Row, feed_ticks, is_data, row, rows_sink, rows_sink_from, runtime, until,
};
use differential_dataflow::input::InputSession;
use mvsink::{Context, Error, Frontier, Handle, Status, Target};
use mvsink_persist::testing::{Call, CountingStore};
use object_store::memory::InMemory;
use timely::Config;
use timely::worker::Worker;

const URL: &str = "memory://shared/view";

/// The table has one row for each of so many times, the first at 0.
const ROWS: u64 = 7;

/// A store with the table, and a process of its own.
fn finished(
    driver: Driver,
    runtime: &tokio::runtime::Runtime,
    rows: u64,
) -> (Arc<CountingStore>, Context) {
    let store = CountingStore::new(Arc::new(InMemory::new()));
    let process = || {
        let shared = Arc::clone(&store);
        let cx = driver.contexts(runtime, 1, shared).remove(0);
        cx.configs().set("mvsink_compaction", "false").unwrap();
        cx
    };
    let (cx, fresh) = (process(), process());
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        feed_ticks(worker, &mut input, &handle, rows);
        input.close();
        until(worker, || matches!(handle.status(), Status::Finished));
    });
    store.reset();
    (store, fresh)
}

type Input = InputSession<u64, Row, i64>;

/// What a run feeds on each worker, and waits for, with its input open; then the input is closed.
type Feed = fn(&mut Worker, &mut Input, &Handle<u64>);

/// The last status of each worker.
fn run(cx: &Context, workers: usize, as_of: u64, feed: Feed) -> Vec<Status> {
    let cx = cx.clone();
    let guards = timely::execute(Config::process(workers), move |worker| {
        let (mut input, handle) = rows_sink_from(worker, &cx, "view", URL, as_of);
        input.advance_to(as_of);
        feed(worker, &mut input, &handle);
        input.close();
        until(worker, || handle.status().is_final());
        handle.status()
    });
    guards
        .unwrap()
        .join()
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

/// Feeds this worker's share of these updates.
fn feed(worker: &Worker, input: &mut Input, updates: impl IntoIterator<Item = (u64, u64, i64)>) {
    for (number, time, diff) in updates {
        if number as usize % worker.peers() == worker.index() {
            input.update_at(row(number), time, diff);
        }
    }
    input.flush();
}

fn advance(input: &mut Input, to: u64) {
    input.advance_to(to);
    input.flush();
}

fn says_so(handle: &Handle<u64>) -> bool {
    handle
        .status()
        .to_string()
        .starts_with("finished before it started")
}

fn all() -> impl Iterator<Item = (u64, u64, i64)> {
    (0..ROWS).map(|number| (number, number, 1))
}

fn the_same_input_is_finished_and_reads_and_writes_nothing(driver: Driver) {
    let runtime = runtime();
    for workers in [1, 2, 4] {
        // At its own times, at others, with rows that come and go, and from a later as-of on.
        let feeds: [(u64, Feed); 4] = [
            (0, |worker, input, handle| {
                feed(worker, input, all());
                until(worker, || says_so(handle));
            }),
            (0, |worker, input, handle| {
                feed(
                    worker,
                    input,
                    all().map(|(number, _, diff)| (number, 0, diff)),
                );
                advance(input, ROWS + 5);
                until(worker, || handle.frontier() == Frontier::At(ROWS + 5));
                assert!(says_so(handle), "{}", handle.status());
            }),
            (0, |worker, input, handle| {
                let gone = [(99, 1, 2), (99, 3, -2), (98, 4, 1), (98, 4, -1)];
                feed(worker, input, all().chain(gone));
                until(worker, || says_so(handle));
            }),
            (20, |worker, input, _| {
                feed(
                    worker,
                    input,
                    all().map(|(number, _, diff)| (number, 20, diff)),
                );
            }),
        ];
        for (number, (as_of, feed)) in feeds.into_iter().enumerate() {
            let case = format!("{workers} workers, input {number}");
            let (store, cx) = finished(driver, &runtime, ROWS);
            for status in run(&cx, workers, as_of, feed) {
                assert!(matches!(status, Status::Finished), "{case}: {status}");
            }
            runtime.block_on(cx.settled());
            let reads = store.count_where(|call, path| {
                is_data(path) && matches!(call, Call::Get | Call::GetRange)
            });
            let writes = store.count_where(|call, _| matches!(call, Call::Put | Call::Create));
            assert_eq!((reads, writes), (0, 0), "{case}");
        }
    }
}

fn another_input_fails_and_the_error_names_the_way_out(driver: Driver) {
    let runtime = runtime();
    for workers in [1, 2, 4] {
        let feeds: [(u64, u64, Feed); 7] = [
            // One row less, one more, another one, none.
            (ROWS, 0, |worker, input, _| {
                feed(worker, input, all().skip(1))
            }),
            (ROWS, 0, |worker, input, _| {
                feed(worker, input, all().chain([(99, 2, 1)]));
            }),
            (ROWS, 0, |worker, input, _| {
                feed(worker, input, all().skip(1).chain([(99, 0, 1)]));
            }),
            (ROWS, 0, |_, _, _| {}),
            // A row that comes when the table had its last one long ago.
            (ROWS, 0, |worker, input, handle| {
                feed(worker, input, all());
                advance(input, ROWS + 5);
                until(worker, || handle.frontier() == Frontier::At(ROWS + 5));
                feed(worker, input, [(99, ROWS + 5, 1)]);
            }),
            // Into a table that was finished without a row; and one whose input does not end.
            (0, 0, |worker, input, _| feed(worker, input, all())),
            (ROWS, 3, |worker, input, handle| {
                feed(worker, input, [(99, 3, 1)]);
                advance(input, ROWS + 5);
                until(worker, || handle.status().is_final());
            }),
        ];
        for (number, (rows, as_of, feed)) in feeds.into_iter().enumerate() {
            let case = format!("{workers} workers, input {number}");
            let (_, cx) = finished(driver, &runtime, rows);
            for status in run(&cx, workers, as_of, feed) {
                let Status::Failed { error } = status else {
                    panic!("{case}: {status}")
                };
                assert!(
                    matches!(*error, Error::AlreadyFinished { .. }),
                    "{case}: {error}"
                );
                let said = error.to_string();
                assert!(
                    said.contains(URL) && said.contains("delete the table first"),
                    "{said}"
                );
            }
        }
    }
}

fn an_input_that_is_fed_step_by_step_is_not_held_up(driver: Driver) {
    let runtime = runtime();
    let (_, cx) = finished(driver, &runtime, ROWS);
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        // Each tick waits for the one before.
        feed_ticks(worker, &mut input, &handle, ROWS);
        assert!(says_so(&handle), "{}", handle.status());
        let waits = {
            let (handle, worker) = (&handle, &mut *worker);
            input.close();
            until(worker, || handle.status().is_final());
            runtime.block_on(handle.wait_for(1000))
        };
        waits.unwrap();
        assert!(
            matches!(handle.status(), Status::Finished),
            "{}",
            handle.status()
        );
    });
}

fn a_sink_that_is_dropped_before_it_has_compared_is_cancelled(driver: Driver) {
    let runtime = runtime();
    let (_, cx) = finished(driver, &runtime, ROWS);
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        feed(worker, &mut input, all().skip(1));
        until(worker, || says_so(&handle));
        let status = handle.status_stream();
        drop(handle);
        assert!(
            matches!(*status.borrow(), Status::Cancelled),
            "{}",
            *status.borrow()
        );
    });
}

fn a_read_only_sink_compares_as_well(driver: Driver) {
    let runtime = runtime();
    for skipped in [0, 1] {
        let (_, cx) = finished(driver, &runtime, ROWS);
        let (_signal, read_only) = tokio::sync::watch::channel(true);
        let status = timely::execute_directly(move |worker| {
            let target = Target::new(URL).read_only(read_only);
            let (mut input, handle) = rows_sink(worker, &cx, "view", target);
            feed(worker, &mut input, all().skip(skipped));
            input.close();
            until(worker, || handle.status().is_final());
            handle.status()
        });
        let is_same = matches!(status, Status::Finished);
        assert_eq!(is_same, skipped == 0, "{status}");
    }
}

/// What finishes a table, as another sink's commit.
fn finish() -> [serde_json::Value; 2] {
    [
        serde_json::json!({"commitInfo": {"mvsink.id": format!("{:032x}-0", 7)}}),
        serde_json::json!({"txn": {"appId": "mvsink.upper", "version": i64::MAX}}),
    ]
}

fn rows_at_times_that_never_come_count_in_a_finished_table(driver: Driver) {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let runtime = runtime();
    let process = || {
        let cx = driver.context(&runtime);
        cx.configs().set("mvsink_compaction", "false").unwrap();
        cx
    };
    let (cx, path) = (process(), shard.clone());
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", path.to_str().unwrap());
        feed_ticks(worker, &mut input, &handle, ROWS);
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
    let far = file(&shard, "far.parquet", &[(row(70), i64::MAX - 7, 1)]);
    edit(&shard, &[&[far][..], &finish()].concat());
    let cx = process();
    let status = timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", shard.to_str().unwrap());
        feed(worker, &mut input, all());
        advance(&mut input, ROWS + 5);
        until(worker, || handle.status().is_final());
        handle.status()
    });
    assert!(matches!(status, Status::Failed { .. }), "{status}");
}

on_both_drivers! {
    rows_at_times_that_never_come_count_in_a_finished_table,
    the_same_input_is_finished_and_reads_and_writes_nothing,
    another_input_fails_and_the_error_names_the_way_out,
    an_input_that_is_fed_step_by_step_is_not_held_up,
    a_sink_that_is_dropped_before_it_has_compared_is_cancelled,
    a_read_only_sink_compares_as_well,
}
