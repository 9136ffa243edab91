//! First snapshots that are staged while they arrive.

use std::collections::BTreeMap;
use std::sync::Arc;

use differential_dataflow::input::InputSession;
use mvsink::{Context, Frontier, Handle, Status, Target};
use mvsink_persist::testing::{Fault, FaultyStore};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use timely::worker::Worker;
use tokio::sync::watch;

use crate::support::{
    Driver, Program, Row, assert_exact, at, execute, read, row, rows_sink, rows_sink_from, runtime,
    step_until, step_until_so, unreferenced, words,
};

const URL: &str = "memory://shared/view";

/// Contexts over one store, each as a process would have it, whose sinks stage ahead whatever there is.
fn contexts(
    driver: Driver,
    runtime: &tokio::runtime::Runtime,
    count: usize,
    store: &Arc<dyn ObjectStore>,
) -> Vec<Context> {
    let contexts = driver.contexts(runtime, count, Arc::clone(store));
    for cx in &contexts {
        let configs = cx.configs();
        configs.set("mvsink_stage_ahead_bytes", "1").unwrap();
        configs.set("mvsink_compaction", "false").unwrap();
    }
    contexts
}

/// Rows that are fed before some of them are staged.
const QUEUED_MAX: usize = 16;

/// Feeds rows at time 0, while the as-of stays open, until so many files were staged; gives the number of rows.
fn feed_until_staged(
    worker: &mut Worker,
    input: &mut InputSession<u64, Row, i64>,
    handle: &Handle<u64>,
    files: u64,
) -> u64 {
    let mut fed = 0;
    step_until_so(worker, "files are staged ahead", || {
        if handle.counters().files_staged >= files {
            return true;
        }
        // Each may become a file of its own, all of which are recalled before anything else happens.
        if handle.pressure().queued_updates < QUEUED_MAX {
            input.update(row(fed), 1);
            input.flush();
            fed += 1;
        }
        false
    });
    assert!(!handle.is_hydrated(), "nothing is committed");
    fed
}

fn rows(numbers: std::ops::Range<u64>) -> BTreeMap<Row, i64> {
    numbers.map(|number| (row(number), 1)).collect()
}

fn a_first_snapshot_is_staged_while_it_arrives(driver: Driver) {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cx = contexts(driver, &runtime, 1, &store).remove(0);
    let check = cx.clone();
    let fed = timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        let fed = feed_until_staged(worker, &mut input, &handle, 3);
        // What is taken away again may be staged already.
        input.update(row(0), -1);
        input.advance_to(1);
        input.flush();
        let status = step_until(worker, &handle, Frontier::At(1));
        assert!(!status.is_final(), "{status}");
        // A second batch is none of that.
        let staged = handle.counters().files_staged;
        for number in fed..fed + 100 {
            input.update(row(number), 1);
            input.flush();
            worker.step();
        }
        input.advance_to(2);
        input.flush();
        step_until(worker, &handle, Frontier::At(2));
        assert_eq!(handle.counters().files_staged, staged + 1);
        fed
    });
    let (_, stored) = read(&check, URL);
    assert_eq!(at(&stored, 0), rows(1..fed));
    assert_eq!(at(&stored, 1), rows(1..fed + 100));
    assert_eq!(unreferenced(&check, URL, &*store), Vec::<String>::new());
}

/// A commit whose files have times before its lower is refused, so a file that was staged ahead must have none.
fn r16_rows_from_before_the_as_of_are_staged_at_it(driver: Driver) {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cx = contexts(driver, &runtime, 1, &store).remove(0);
    let check = cx.clone();
    let fed = timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink_from(worker, &cx, "view", URL, 5);
        let fed = feed_until_staged(worker, &mut input, &handle, 3);
        input.advance_to(6);
        input.flush();
        let status = step_until(worker, &handle, Frontier::At(6));
        assert!(!status.is_final(), "{status}");
        fed
    });
    let (_, stored) = read(&check, URL);
    assert_eq!(at(&stored, 4), BTreeMap::new());
    assert_eq!(at(&stored, 5), rows(0..fed));
}

fn nothing_is_staged_ahead_if_the_flag_says_so_or_something_was_there(driver: Driver) {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    // Files that were staged before the first time was complete, and in all.
    let staged = |ahead_bytes: &str| {
        let cx = contexts(driver, &runtime, 1, &store).remove(0);
        let configs = cx.configs();
        configs
            .set("mvsink_stage_ahead_bytes", ahead_bytes)
            .unwrap();
        timely::execute_directly(move |worker| {
            let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
            for number in 0..100 {
                input.update(row(number), 1);
                input.flush();
                worker.step();
            }
            step_until_so(worker, "all of it has arrived", || {
                handle.counters().updates_in == 100 && handle.pressure().queued_updates == 0
            });
            let ahead = handle.counters().files_staged;
            input.advance_to(1);
            input.flush();
            step_until(worker, &handle, Frontier::At(1));
            (ahead, handle.counters().files_staged)
        })
    };
    assert_eq!(staged("0"), (0, 1));
    assert_eq!(staged("1"), (0, 0), "the shard is right");
}

fn rivals_that_stage_ahead_are_exact_and_leave_nothing(driver: Driver) {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for (round, full) in ["false", "true", "false", "false"].into_iter().enumerate() {
        let url = format!("memory://shared/view-{round}");
        let updates = words(61 + round as u64, 300, 20);
        let rivals = contexts(driver, &runtime, 3, &store);
        std::thread::scope(|scope| {
            for (index, cx) in rivals.iter().enumerate() {
                cx.configs().set("mvsink_full_read_back", full).unwrap();
                let (url, updates) = (url.clone(), updates.clone());
                scope.spawn(move || {
                    // The first time stays open for some steps.
                    let program = Program {
                        stride: 4,
                        ..Program::new(updates)
                    };
                    let status = execute(1 + index % 2, cx, &Target::new(url), &program);
                    assert!(matches!(status, Status::Finished), "{status}");
                });
            }
        });
        let cx = &rivals[0];
        assert_exact(cx, &url, &updates, 0);
        let left = unreferenced(cx, &url, &*store);
        let left: Vec<_> = left
            .iter()
            .filter(|name| name.contains(&format!("view-{round}/")))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn a_rival_that_comes_first_has_what_was_staged_ahead_recalled(driver: Driver) {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut all = contexts(driver, &runtime, 2, &store);
    let check = all[0].clone();
    let fed = timely::execute_directly(move |worker| {
        let (mut slow_input, slow) = rows_sink(worker, &all[0], "view", URL);
        let fed = feed_until_staged(worker, &mut slow_input, &slow, 3);
        let (mut fast_input, fast) = rows_sink(worker, &all[1], "view", URL);
        // All but one row.
        for number in 1..fed {
            fast_input.update(row(number), 1);
        }
        fast_input.advance_to(1);
        fast_input.flush();
        step_until(worker, &fast, Frontier::At(1));
        step_until_so(worker, "the files are gone", || {
            slow.counters().files_deleted >= 3
        });
        drop(fast);
        slow_input.advance_to(2);
        slow_input.flush();
        let status = step_until(worker, &slow, Frontier::At(2));
        assert!(!status.is_final(), "{status}");
        all.clear();
        fed
    });
    let (_, stored) = read(&check, URL);
    assert_eq!(at(&stored, 0), rows(1..fed));
    assert_eq!(at(&stored, 1), rows(0..fed));
    assert_eq!(stored.len() as u64, fed, "each row once");
    assert_eq!(unreferenced(&check, URL, &*store), Vec::<String>::new());
}

fn a_sink_whose_files_staged_ahead_were_swept_says_so(driver: Driver) {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cx = contexts(driver, &runtime, 1, &store).remove(0);
    timely::execute_directly(move |worker| {
        let (signal, read_only) = watch::channel(false);
        let target = Target::new(URL).read_only(read_only);
        let (mut input, handle) = rows_sink(worker, &cx, "view", target);
        feed_until_staged(worker, &mut input, &handle, 3);
        let staged = unreferenced(&cx, URL, &*store);
        cx.client().handle().block_on(async {
            for name in &staged {
                store.delete(&Path::from(name.as_str())).await.unwrap();
            }
        });
        signal.send_replace(true);
        step_until_so(worker, "the sink has failed", || {
            matches!(handle.status(), Status::Failed { .. })
        });
        let said = handle.status().to_string();
        assert!(
            said.contains("was deleted before it was committed") && said.contains("started again"),
            "{said}"
        );
        assert!(!said.contains("mvsink repair"), "{said}");
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
}

fn a_sink_that_is_demoted_recalls_what_it_staged_ahead(driver: Driver) {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cx = contexts(driver, &runtime, 1, &store).remove(0);
    let check = cx.clone();
    let fed = timely::execute_directly(move |worker| {
        let (signal, read_only) = watch::channel(false);
        let target = Target::new(URL).read_only(read_only);
        let (mut input, handle) = rows_sink(worker, &cx, "view", target);
        let fed = feed_until_staged(worker, &mut input, &handle, 3);
        signal.send_replace(true);
        step_until_so(worker, "the files are gone", || {
            let counters = handle.counters();
            matches!(handle.status(), Status::ReadOnly)
                && counters.files_deleted == counters.files_staged
        });
        assert_eq!(unreferenced(&cx, URL, &*store), Vec::<String>::new());
        // Some of it may have waited before the sink until now.
        step_until_so(worker, "all is held", || {
            handle.pressure().held_updates as u64 == fed
        });
        signal.send_replace(false);
        let fed = fed
            + feed_until_staged(
                worker,
                &mut input,
                &handle,
                handle.counters().files_staged + 2,
            );
        input.advance_to(1);
        input.flush();
        step_until(worker, &handle, Frontier::At(1));
        assert_eq!(unreferenced(&cx, URL, &*store), Vec::<String>::new());
        fed
    });
    let (_, stored) = read(&check, URL);
    assert_eq!(
        stored.iter().map(|(.., diff)| diff).sum::<i64>() as u64,
        fed
    );
}

/// Until the sink that was demoted has deleted all that it had staged.
fn until_all_is_deleted(worker: &mut Worker, handle: &Handle<u64>) {
    step_until_so(worker, "the files are gone", || {
        let counters = handle.counters();
        matches!(handle.status(), Status::ReadOnly)
            && counters.files_deleted == counters.files_staged
    });
}

fn r11_a_deletion_that_fails_for_now_is_tried_again(driver: Driver) {
    let runtime = runtime();
    let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let faulty = FaultyStore::new(Arc::clone(&truth), 0, 0);
    let store = Arc::clone(&faulty) as Arc<dyn ObjectStore>;
    let cx = contexts(driver, &runtime, 1, &store).remove(0);
    timely::execute_directly(move |worker| {
        let (signal, read_only) = watch::channel(false);
        let target = Target::new(URL).read_only(read_only);
        let (mut input, handle) = rows_sink(worker, &cx, "view", target);
        feed_until_staged(worker, &mut input, &handle, 3);
        // The second of them has happened all the same.
        faulty.script_deletes(&[Fault::NotApplied, Fault::Applied, Fault::NotApplied]);
        signal.send_replace(true);
        until_all_is_deleted(worker, &handle);
        assert_eq!(unreferenced(&cx, URL, &*truth), Vec::<String>::new());
    });
}

fn a_clean_up_that_waits_for_the_log_says_so(driver: Driver) {
    let runtime = runtime();
    let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let faulty = FaultyStore::new(Arc::clone(&truth), 0, 0);
    let store = Arc::clone(&faulty) as Arc<dyn ObjectStore>;
    let cx = contexts(driver, &runtime, 1, &store).remove(0);
    timely::execute_directly(move |worker| {
        let (signal, read_only) = watch::channel(false);
        let target = Target::new(URL).read_only(read_only);
        let (mut input, handle) = rows_sink(worker, &cx, "view", target);
        feed_until_staged(worker, &mut input, &handle, 3);
        step_until_so(worker, "nothing is being staged", || {
            handle.pressure().queued_updates == 0
        });
        // The log alone: what is recalled is read first.
        faulty.set_down(Some(Path::from("view/_delta_log")));
        signal.send_replace(true);
        step_until_so(
            worker,
            "the status says what waits",
            || matches!(handle.status(), Status::Stalled { on, .. } if on.starts_with("clean up: ")),
        );
        assert_eq!(handle.counters().files_deleted, 0);
        faulty.set_down(None);
        until_all_is_deleted(worker, &handle);
        assert_eq!(unreferenced(&cx, URL, &*truth), Vec::<String>::new());
    });
}

fn a_sink_that_is_dropped_deletes_what_it_staged_ahead(driver: Driver) {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cx = contexts(driver, &runtime, 1, &store).remove(0);
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        feed_until_staged(worker, &mut input, &handle, 3);
        drop(handle);
        step_until_so(worker, "the sink has ended", || cx.is_settled());
        assert_eq!(unreferenced(&cx, URL, &*store), Vec::<String>::new());
    });
}

on_both_drivers! {
    a_first_snapshot_is_staged_while_it_arrives,
    r16_rows_from_before_the_as_of_are_staged_at_it,
    nothing_is_staged_ahead_if_the_flag_says_so_or_something_was_there,
    rivals_that_stage_ahead_are_exact_and_leave_nothing,
    a_rival_that_comes_first_has_what_was_staged_ahead_recalled,
    a_sink_whose_files_staged_ahead_were_swept_says_so,
    a_sink_that_is_demoted_recalls_what_it_staged_ahead,
    r11_a_deletion_that_fails_for_now_is_tried_again,
    a_clean_up_that_waits_for_the_log_says_so,
    a_sink_that_is_dropped_deletes_what_it_staged_ahead,
}
