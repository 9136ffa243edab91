//! Runtimes that run no tasks: sinks and sources on them fail by name, and nothing keeps the process.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::{Driver, Row, context, feed_ticks, rows_sink, runtime, step_until, until};
use mvsink::{Context, Error, Frontier, Handle, RuntimeFault, Status, persist_source};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use timely::Config;
use tokio::runtime::{Builder, Runtime};

const URL: &str = "memory://shared/view";

/// Longer than anything takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(100);

/// Whether a table is written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sink,
    Source,
}

/// A context with this driver on this runtime, over this store.
fn on(driver: Driver, runtime: &Runtime, store: &Arc<dyn ObjectStore>) -> Context {
    let cx = driver.context(runtime);
    cx.client().mount("shared", Arc::clone(store));
    cx
}

/// A store in which the table is, not sealed.
fn filled() -> Arc<dyn ObjectStore> {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cx = context(&runtime);
    cx.client().mount("shared", Arc::clone(&store));
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        feed_ticks(worker, &mut input, &handle, 3);
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
    store
}

/// Renders a sink or source on each worker, and steps until it has ended, `then` called once it has come to `then_at`.
/// Gives the status on each, once all workers have returned.
fn last_statuses(
    cx: Context,
    workers: usize,
    kind: Kind,
    then: impl Fn() + Clone + Send + Sync + 'static,
    then_at: u64,
) -> Vec<Status> {
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let guards = timely::execute(Config::process(workers), move |worker| {
            let (mut input, handle): (_, Handle<u64>) = match kind {
                Kind::Sink => {
                    let (input, handle) = rows_sink(worker, &cx, "view", URL);
                    (Some(input), handle)
                }
                Kind::Source => worker.dataflow(|scope| {
                    let source =
                        persist_source::<Row, String, u64, i64>(&cx, scope, "source", URL, 0);
                    (None, source.unwrap().handle)
                }),
            };
            if let Some(input) = &mut input {
                input.advance_to(then_at);
                input.flush();
            }
            until(worker, || {
                handle.frontier() >= Frontier::At(then_at) || handle.status().is_final()
            });
            then();
            until(worker, || handle.status().is_final());
            handle.status()
        });
        let statuses = guards.unwrap().join().into_iter().map(Result::unwrap);
        let _ = ended.send(statuses.collect::<Vec<_>>());
    });
    end.recv_timeout(PATIENCE).expect("every worker returns")
}

#[track_caller]
fn assert_failed_by(statuses: &[Status], expected: RuntimeFault, case: &str) {
    for status in statuses {
        let Status::Failed { error } = status else {
            panic!("{case}: {status}")
        };
        assert!(
            matches!(**error, Error::Runtime { why } if why == expected),
            "{case}: {error}"
        );
    }
}

fn cases() -> impl Iterator<Item = (usize, Kind)> {
    let kinds = [Kind::Sink, Kind::Source];
    [1, 2, 4]
        .into_iter()
        .flat_map(move |workers| kinds.map(|kind| (workers, kind)))
}

fn a_runtime_that_has_shut_down_fails_sinks_and_sources_at_once(driver: Driver) {
    for (workers, kind) in cases() {
        for current in [false, true] {
            let runtime = match current {
                true => Builder::new_current_thread().enable_all().build().unwrap(),
                false => runtime(),
            };
            let cx = on(driver, &runtime, &filled());
            cx.check().unwrap();
            drop(runtime);
            let said = cx.check().unwrap_err().to_string();
            assert!(said.contains("it has shut down"), "{said}");
            let case = format!("{workers} workers, {kind:?}, current: {current}");
            let statuses = last_statuses(cx, workers, kind, || (), 3);
            assert_failed_by(&statuses, RuntimeFault::ShutDown, &case);
        }
    }
}

fn a_runtime_without_a_clock_fails_sinks_and_sources_at_once(driver: Driver) {
    for (workers, kind) in cases() {
        let runtime = Builder::new_multi_thread().build().unwrap();
        let cx = on(driver, &runtime, &filled());
        let said = cx.check().unwrap_err().to_string();
        assert!(said.contains("`enable_time`"), "{said}");
        let statuses = last_statuses(cx, workers, kind, || (), 3);
        let case = format!("{workers} workers, {kind:?}");
        assert_failed_by(&statuses, RuntimeFault::NoClock, &case);
    }
}

fn a_runtime_that_nobody_drives_fails_sinks_and_sources_by_name(driver: Driver) {
    for (workers, kind) in cases() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let cx = on(driver, &runtime, &filled());
        cx.configs().set("mvsink_stall_after_ms", "50").unwrap();
        let statuses = last_statuses(cx, workers, kind, || (), 3);
        let case = format!("{workers} workers, {kind:?}");
        assert_failed_by(&statuses, RuntimeFault::Undriven, &case);
    }
}

fn a_runtime_that_shuts_down_fails_the_sinks_and_sources_that_run(driver: Driver) {
    for (workers, kind) in cases() {
        let runtime = runtime();
        let cx = on(driver, &runtime, &filled());
        let runtime = Arc::new(std::sync::Mutex::new(Some(runtime)));
        let shut_down = move || {
            if let Some(runtime) = runtime.lock().unwrap().take() {
                runtime.shutdown_background();
            }
        };
        let statuses = last_statuses(cx, workers, kind, shut_down, 3);
        let case = format!("{workers} workers, {kind:?}");
        assert_failed_by(&statuses, RuntimeFault::ShutDown, &case);
    }
}

fn a_current_thread_runtime_that_a_thread_drives_is_as_good_as_any(driver: Driver) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let cx = on(driver, &runtime, &filled());
    cx.check().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let drives = std::thread::spawn(move || runtime.block_on(stopped));
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", URL);
        input.advance_to(5);
        input.flush();
        let status = step_until(worker, &handle, Frontier::At(5));
        assert!(!status.is_final(), "{status}");
        // What is over before its runtime has ended as it did.
        input.close();
        step_until(worker, &handle, Frontier::Empty);
        stop.send(()).unwrap();
        drives.join().unwrap().unwrap();
        let status = handle.status();
        assert!(matches!(status, Status::Finished), "{status}");
    });
}

fn a_sink_that_was_given_up_is_not_failed_by_the_end_of_its_runtime(driver: Driver) {
    let runtime = runtime();
    let cx = on(driver, &runtime, &filled());
    timely::execute_directly(move |worker| {
        let (_input, handle) = rows_sink(worker, &cx, "view", URL);
        step_until(worker, &handle, Frontier::At(3));
        let status = handle.status_stream();
        drop(handle);
        runtime.shutdown_background();
        for _ in 0..100 {
            worker.step();
        }
        let status = status.borrow();
        assert!(matches!(*status, Status::Cancelled), "{}", *status);
    });
}

on_both_drivers! {
    a_runtime_that_has_shut_down_fails_sinks_and_sources_at_once,
    a_runtime_without_a_clock_fails_sinks_and_sources_at_once,
    a_runtime_that_nobody_drives_fails_sinks_and_sources_by_name,
    a_runtime_that_shuts_down_fails_the_sinks_and_sources_that_run,
    a_current_thread_runtime_that_a_thread_drives_is_as_good_as_any,
    a_sink_that_was_given_up_is_not_failed_by_the_end_of_its_runtime,
}
