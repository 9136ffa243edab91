//! Files that are staged, and vanish before they are committed, by the same process or by another one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{
    Driver, Row, at, cluster, read, row, rows_sink, runtime, step_until, step_until_so,
    unreferenced,
};
use mvsink::{Context, Frontier};
use mvsink_persist::ClientOptions;
use mvsink_persist::testing::{Call, GateStore, Side};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use timely::worker::Worker;

const URL: &str = "memory://shared";

/// Contexts of two processes whose clocks are hours apart, so that each looks for what the other one has staged; and the
/// names of the data files that the second one has put.
fn apart(
    driver: Driver,
    runtime: &tokio::runtime::Runtime,
    gates: [&Arc<GateStore>; 2],
) -> Vec<Context> {
    let context = |(process, gate): (i64, &Arc<GateStore>)| {
        let mut options = ClientOptions::default();
        let clock = Arc::clone(&options.clock);
        options.clock = Arc::new(move || clock() + process * 5 * 60 * 60 * 1000);
        let builder = Context::builder(runtime.handle().clone()).client_options(options);
        let cx = builder.configs(driver.configs()).build();
        cx.client()
            .mount("shared", Arc::clone(gate) as Arc<dyn ObjectStore>);
        cx.configs().set("mvsink_compaction", "false").unwrap();
        cx
    };
    (0..).zip(gates).map(context).collect()
}

fn stages(call: Call, path: &Path) -> bool {
    matches!(call, Call::Create | Call::Put) && path.extension() == Some("parquet")
}

/// Steps until all that was staged in vain is deleted.
fn until_nothing_is_left(worker: &mut Worker, cx: &Context, store: &dyn ObjectStore) {
    step_until_so(worker, "what was staged in vain is deleted", || {
        unreferenced(cx, URL, store).is_empty()
    });
}

/// Sinks whose mint is on either process.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn what_vanished_from_another_process_is_staged_again(driver: Driver) {
    for name in NAMES {
        let runtime = runtime();
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gates = [0, 1].map(|_| GateStore::new(Arc::clone(&inner)));
        // The second process has staged its part of the first batch, which the first one commits.
        let put = Arc::new(Mutex::new(None));
        let path_put = Arc::clone(&put);
        let hold = gates[1].hold(1, Side::After, move |call, path| {
            let stages = stages(call, path);
            if stages {
                path_put.lock().unwrap().get_or_insert(path.clone());
            }
            stages
        });
        let contexts = apart(driver, &runtime, [&gates[0], &gates[1]]);
        let meanwhile = {
            let inner = Arc::clone(&inner);
            runtime.spawn(async move {
                hold.reached().await;
                let path = put.lock().unwrap().clone().unwrap();
                inner.delete(&path).await.unwrap();
                hold.release();
            })
        };
        let store = Arc::clone(&inner);
        let lost = cluster(&contexts, 1, move |worker, cx| {
            let (mut input, handle) = rows_sink(worker, cx, name, URL);
            for time in 0..3 {
                if worker.index() == 0 {
                    (0..20).for_each(|key| input.update_at(row(20 * time + key), time, 1));
                }
                input.advance_to(time + 1);
                input.flush();
                step_until(worker, &handle, Frontier::At(time + 1));
            }
            input.close();
            step_until(worker, &handle, Frontier::Empty);
            until_nothing_is_left(worker, cx, &*store);
            handle.counters().batches_lost
        });
        runtime.block_on(meanwhile).unwrap();
        assert_eq!(lost, [1, 0], "{name}");
        let expected: BTreeMap<Row, i64> = (0..60).map(|number| (row(number), 1)).collect();
        assert_eq!(at(&read(&contexts[0], URL).1, 2), expected, "{name}");
    }
}

fn what_vanished_in_the_same_process_is_staged_again(driver: Driver) {
    let runtime = runtime();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let gate = GateStore::new(Arc::clone(&inner));
    let put = Arc::new(Mutex::new(None));
    let path_put = Arc::clone(&put);
    // The first of several files is written, and the batch is not sent yet.
    let hold = gate.hold(2, Side::Before, move |call, path| {
        let stages = stages(call, path);
        if stages {
            path_put.lock().unwrap().get_or_insert(path.clone());
        }
        stages
    });
    let now = Arc::new(AtomicI64::new(1_000_000_000));
    let clock = Arc::clone(&now);
    let mut options = ClientOptions::default();
    options.clock = Arc::new(move || clock.load(Ordering::SeqCst));
    let builder = Context::builder(runtime.handle().clone()).client_options(options);
    let cx = builder.configs(driver.configs()).build();
    cx.client().mount("shared", gate);
    for (flag, value) in [
        ("mvsink_compaction", "false"),
        ("mvsink_chunk_rows", "1"),
        ("mvsink_target_file_bytes", "1"),
    ] {
        cx.configs().set(flag, value).unwrap();
    }
    let meanwhile = {
        let inner = Arc::clone(&inner);
        runtime.spawn(async move {
            hold.reached().await;
            let path = put.lock().unwrap().clone().unwrap();
            inner.delete(&path).await.unwrap();
            // So long that files are looked for before they are committed.
            now.fetch_add(2 * 60 * 1000, Ordering::SeqCst);
            hold.release();
        })
    };
    let context = cx.clone();
    let lost = timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &context, "view", URL);
        (0..5).for_each(|key| input.update(row(key), 1));
        input.advance_to(1);
        input.flush();
        step_until(worker, &handle, Frontier::At(1));
        input.close();
        step_until(worker, &handle, Frontier::Empty);
        until_nothing_is_left(worker, &context, &*inner);
        handle.counters().batches_lost
    });
    runtime.block_on(meanwhile).unwrap();
    assert_eq!(lost, 1);
    let expected: BTreeMap<Row, i64> = (0..5).map(|number| (row(number), 1)).collect();
    assert_eq!(at(&read(&cx, URL).1, 0), expected);
}

fn what_vanished_ahead_in_another_process_fails_the_sink_and_a_restart_goes_on(driver: Driver) {
    for name in NAMES {
        let runtime = runtime();
        let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gates = [0, 1].map(|_| GateStore::new(Arc::clone(&inner)));
        let put = Arc::new(Mutex::new(Vec::new()));
        let path_put = Arc::clone(&put);
        let _noted = gates[1].hold(1, Side::After, move |call, path| {
            if stages(call, path) {
                path_put.lock().unwrap().push(path.clone());
            }
            false
        });
        let contexts = apart(driver, &runtime, [&gates[0], &gates[1]]);
        for cx in &contexts {
            cx.configs().set("mvsink_stage_ahead_bytes", "1").unwrap();
        }
        let (staged, store) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&inner));
        let ended = cluster(&contexts, 1, move |worker, cx| {
            let (mut input, handle) = rows_sink(worker, cx, name, URL);
            if worker.index() == 0 {
                (0..20).for_each(|key| input.update(row(key), 1));
                input.flush();
            }
            step_until_so(worker, "the second process has staged ahead", || {
                handle.pressure().queued_updates == 0 && !put.lock().unwrap().is_empty()
            });
            if worker.index() == 1 {
                let paths = put.lock().unwrap().clone();
                for path in paths {
                    let deleted = cx.client().handle().block_on(store.delete(&path));
                    deleted.unwrap();
                }
            }
            staged.fetch_add(1, Ordering::SeqCst);
            step_until_so(worker, "both have staged", || {
                staged.load(Ordering::SeqCst) == 2
            });
            input.advance_to(1);
            input.flush();
            step_until_so(worker, "it has failed", || handle.status().is_final());
            // Until the other one has been told as well.
            for _ in 0..100 {
                worker.step_or_park(Some(Duration::from_micros(200)));
            }
            worker.drop_dataflow(worker.installed_dataflows()[0]);
            handle.status().to_string()
        });
        for status in ended {
            assert!(status.starts_with("failed: "), "{name}: {status}");
            for part in [
                ".parquet",
                "was deleted before it was committed",
                "started again",
            ] {
                assert!(status.contains(part), "{name}: {status}");
            }
        }
        let again = driver.contexts(&runtime, 2, Arc::clone(&inner));
        cluster(&again, 1, move |worker, cx| {
            let (mut input, handle) = rows_sink(worker, cx, name, URL);
            if worker.index() == 0 {
                (0..20).for_each(|key| input.update(row(key), 1));
            }
            input.advance_to(1);
            input.flush();
            step_until(worker, &handle, Frontier::At(1));
        });
        let expected: BTreeMap<Row, i64> = (0..20).map(|number| (row(number), 1)).collect();
        assert_eq!(at(&read(&again[0], URL).1, 0), expected, "{name}");
    }
}

on_both_drivers! {
    what_vanished_from_another_process_is_staged_again,
    what_vanished_in_the_same_process_is_staged_again,
    what_vanished_ahead_in_another_process_fails_the_sink_and_a_restart_goes_on,
}
