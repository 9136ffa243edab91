//! What sinks do while their store does not answer: they wait, without a thread each, and say what waits for them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use futures::FutureExt;
use mvsink::{Frontier, Status};
use mvsink_persist::GcOptions;
use mvsink_persist::testing::{Call, GateStore, Hold, Side};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use timely::Config;

use crate::support::{
    Driver, at, contexts, is_data, read, row, rows_sink, runtime, step_until, step_until_so,
};

const URL: &str = "memory://shared/view";

/// The `nth` data file that is put stops before it is there.
fn hold_data(store: &GateStore, nth: usize) -> Hold {
    store.hold(nth, Side::Before, |call, path| {
        is_data(path) && matches!(call, Call::Create | Call::Put)
    })
}

fn r03_more_sinks_than_threads_go_on_when_the_store_does(driver: Driver) {
    const WORKERS: usize = 4;
    let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
    let sinks = 16.max(2 * parallelism);
    let threads = Arc::new(AtomicUsize::new(0));
    let started = Arc::clone(&threads);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(move || {
            started.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    let store = GateStore::new(Arc::new(InMemory::new()));
    let holds: Vec<Hold> = (0..sinks * WORKERS).map(|_| hold_data(&store, 1)).collect();
    let holds = Arc::new(Mutex::new(holds));
    let cx = driver.contexts(&runtime, 1, store).remove(0);
    // Whatever takes long takes the pool, and everything takes long.
    cx.configs().set("mvsink_inline_updates", "0").unwrap();
    let (check, looked) = (cx.clone(), Arc::new(Barrier::new(WORKERS)));
    let guards = timely::execute(Config::process(WORKERS), move |worker| {
        let mut views: Vec<_> = (0..sinks)
            .map(|n| {
                let name = format!("view {n}");
                rows_sink(
                    worker,
                    &cx,
                    &name,
                    format!("memory://shared/view-{n}").as_str(),
                )
            })
            .collect();
        for (input, _) in &mut views {
            for number in (0..64).skip(worker.index()).step_by(worker.peers()) {
                input.update_at(row(number), 0, 1);
            }
            input.advance_to(1);
            input.flush();
        }
        step_until_so(worker, "every share of every sink stages at once", || {
            let holds = holds.lock().unwrap();
            holds
                .iter()
                .all(|hold| hold.reached().now_or_never().is_some())
        });
        // Another one, with another store, does not wait for them.
        let (mut input, other) = rows_sink(worker, &cx, "other", "memory://other/view");
        input.update_at(row(0), 0, 1);
        input.advance_to(1);
        input.flush();
        step_until(worker, &other, Frontier::At(1));
        for (_, handle) in &views {
            assert_eq!(handle.frontier(), Frontier::At(0));
        }
        // Nobody lets the store go on before all have seen that.
        looked.wait();
        holds.lock().unwrap().clear();
        for (input, handle) in &mut views {
            let status = step_until(worker, handle, Frontier::At(1));
            assert!(!matches!(status, Status::Failed { .. }), "{status}");
            input.advance_to(2);
            input.flush();
        }
        for (_, handle) in &views {
            step_until(worker, handle, Frontier::At(2));
        }
    });
    for ended in guards.unwrap().join() {
        ended.unwrap();
    }
    for n in 0..sinks {
        let (_, stored) = read(&check, &format!("memory://shared/view-{n}"));
        assert_eq!(at(&stored, 1).len(), 64, "view {n}");
    }
    let threads = threads.load(Ordering::Relaxed);
    println!("{threads} threads for {} shares of sinks", sinks * WORKERS);
    // A few for each core: those that end a computation are not idle yet when the next one begins.
    assert!(threads < sinks * WORKERS / 2, "{threads} threads");
}

/// Feeds 200 times of 50 rows each into a sink whose store stops answering at the first one, as a host does that
/// waits while more than `limit` updates are queued; gives the most that were. The store goes on once the host waits,
/// or has nothing left to feed.
fn most_queued(limit: usize) -> usize {
    const TIMES: u64 = 200;
    const ROWS: u64 = 50;
    let runtime = runtime();
    let store = GateStore::new(Arc::new(InMemory::new()));
    let mut hold = Some(hold_data(&store, 1));
    let cx = contexts(&runtime, 1, store).remove(0);
    let check = cx.clone();
    let most = timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        let mut most = 0;
        for time in 0..TIMES {
            for number in 0..ROWS {
                input.update_at(row(time * ROWS + number), time, 1);
            }
            input.advance_to(time + 1);
            input.flush();
            worker.step();
            if time == 0 {
                let stopped = hold.as_ref().unwrap();
                step_until_so(worker, "the store is silent", || {
                    stopped.reached().now_or_never().is_some()
                });
            }
            // What was sent is queued by then.
            worker.step();
            let pressure = handle.pressure();
            assert_eq!(pressure.queued_updates == 0, pressure.queued_bytes == 0);
            most = most.max(pressure.queued_updates);
            if pressure.queued_updates > limit {
                drop(hold.take());
                step_until_so(worker, "the sink has caught up", || {
                    handle.pressure().queued_updates <= limit
                });
            }
        }
        drop(hold.take());
        step_until(worker, &handle, Frontier::At(TIMES));
        step_until_so(worker, "nothing is queued", || {
            let pressure = handle.pressure();
            (pressure.queued_updates, pressure.queued_bytes) == (0, 0)
        });
        most
    });
    let (_, stored) = read(&check, URL);
    let expected: BTreeMap<_, _> = (0..TIMES * ROWS).map(|number| (row(number), 1)).collect();
    assert_eq!(at(&stored, TIMES - 1), expected);
    most
}

/// Of the synchronous driver: to the other one, what waits in Timely's channels is not known.
#[test]
fn r14_what_waits_for_a_silent_store_is_metered_and_a_host_can_bound_it() {
    const LIMIT: usize = 1000;
    let (bounded, control) = (most_queued(LIMIT), most_queued(usize::MAX));
    println!("{bounded} updates queued at the most; {control} by a host that does not wait");
    assert!(bounded <= LIMIT + 50, "{bounded}");
    assert!(control > 9 * LIMIT, "{control}");
}

fn r28_a_sink_whose_staged_file_was_swept_says_so_and_loses_nothing(driver: Driver) {
    let runtime = runtime();
    let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = GateStore::new(Arc::clone(&truth));
    let cx = driver
        .contexts(&runtime, 1, Arc::clone(&store) as Arc<dyn ObjectStore>)
        .remove(0);
    let sweeper = contexts(&runtime, 1, Arc::clone(&truth)).remove(0);
    let check = sweeper.clone();
    let rest = runtime.handle().clone();
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        input.advance_to(1);
        input.flush();
        step_until(worker, &handle, Frontier::At(1));
        let hold = store.hold_commit(1, Side::Before);
        input.update_at(row(1), 1, 1);
        input.advance_to(2);
        input.flush();
        step_until_so(
            worker,
            "the file is staged, and about to be committed",
            || hold.reached().now_or_never().is_some(),
        );
        let mut at_once = GcOptions::default();
        at_once.removed_grace = Duration::ZERO;
        at_once.orphan_min_age = Duration::ZERO;
        at_once.foreign_orphan_min_age = Duration::ZERO;
        let swept = rest.block_on(async {
            let shard = sweeper.client().open_existing(URL).await.unwrap();
            shard.collect_garbage(&at_once, &|_| ()).await.unwrap()
        });
        assert_eq!(swept.orphans.names.len(), 1);
        hold.release();
        let status = step_until(worker, &handle, Frontier::At(2));
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
        // And goes on after that.
        input.update_at(row(2), 2, 1);
        input.advance_to(3);
        input.flush();
        step_until(worker, &handle, Frontier::At(3));
    });
    let (upper, mut stored) = read(&check, URL);
    stored.sort_unstable();
    let expected = vec![(row(1), 1, 1), (row(2), 2, 1)];
    assert_eq!((upper, stored), (Frontier::At(3), expected));
}

on_both_drivers! {
    r03_more_sinks_than_threads_go_on_when_the_store_does,
    r28_a_sink_whose_staged_file_was_swept_says_so_and_loses_nothing,
}
