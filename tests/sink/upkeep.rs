//! The maintenance that runs beside sinks.

use std::sync::Arc;

use mvsink::{Context, Frontier};
use mvsink_persist::FileMeta;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::support::{
    Driver, feed_ticks, read, row, rows_sink, runtime, step_until, step_until_so, unreferenced,
};

const URL: &str = "memory://shared/view";

/// Contexts over one store, each as a process would have it, that maintain all the time and have no patience.
fn eager(
    driver: Driver,
    runtime: &tokio::runtime::Runtime,
    count: usize,
    store: &Arc<dyn ObjectStore>,
) -> Vec<Context> {
    let contexts = driver.contexts(runtime, count, Arc::clone(store));
    for cx in &contexts {
        for (flag, value) in [
            ("mvsink_maintenance_interval_ms", "1"),
            ("mvsink_garbage_interval_s", "1"),
            ("mvsink_garbage_grace_s", "0"),
            ("mvsink_orphan_age_s", "0"),
            ("mvsink_compaction_fan_in", "2"),
        ] {
            cx.configs().set(flag, value).unwrap();
        }
    }
    contexts
}

fn r11_a_sink_sweeps_what_a_dead_process_left(driver: Driver) {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut all = eager(driver, &runtime, 2, &store);
    let dead = all.remove(1);
    let cx = all.remove(0);
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        input.advance_to(1);
        input.flush();
        step_until(worker, &handle, Frontier::At(1));
        let left = dead.client().handle().block_on(async {
            let shard = dead.client().open_existing(URL).await.unwrap();
            let rows = b"rows".as_slice().into();
            let staged = shard.put_file(rows, FileMeta::default(), &|_| ()).await;
            staged.unwrap().path
        });
        drop(dead);
        let names = unreferenced(&cx, URL, &*store);
        assert!(names.len() == 1 && names[0].ends_with(&left), "{names:?}");
        // A shard at rest is not looked at.
        let mut time = 1;
        step_until_so(worker, "it is swept", || {
            time += 1;
            input.advance_to(time);
            input.flush();
            handle.counters().files_swept == 1
        });
        assert_eq!(unreferenced(&cx, URL, &*store), Vec::<String>::new());
        assert_eq!(handle.counters().bytes_swept, 4);
    });
}

fn r23_a_sink_merges_its_files_and_keeps_what_they_hold(driver: Driver) {
    const TICKS: u64 = 40;
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cx = eager(driver, &runtime, 1, &store).remove(0);
    let check = cx.clone();
    let end = timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        feed_ticks(worker, &mut input, &handle, TICKS);
        // Those that were merged go too, and the files of the last ticks may be too few to be merged.
        let mut end = TICKS;
        step_until_so(worker, "few files are left", || {
            end += 1;
            input.advance_to(end);
            input.flush();
            let names = cx.client().handle().block_on(names(&*store));
            names.len() < 4
        });
        step_until(worker, &handle, Frontier::At(end));
        end
    });
    let (upper, mut stored) = read(&check, URL);
    stored.sort_by_key(|(_, time, _)| *time);
    let expected: Vec<_> = (0..TICKS).map(|tick| (row(tick), tick, 1)).collect();
    assert_eq!((upper, stored), (Frontier::At(end), expected));
}

/// The names of all data files, live or not.
async fn names(store: &dyn ObjectStore) -> Vec<String> {
    use futures::TryStreamExt;
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    let data = objects
        .into_iter()
        .filter(|object| crate::support::is_data(&object.location));
    data.map(|object| object.location.to_string()).collect()
}

on_both_drivers! {
    r11_a_sink_sweeps_what_a_dead_process_left,
    r23_a_sink_merges_its_files_and_keeps_what_they_hold,
}
