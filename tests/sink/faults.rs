//! Stores that fail, and what cannot be written: exact in the end, or one clear error on all workers.

use std::sync::Arc;

use crate::support::{self, Driver, Program, assert_exact, execute, is_data, runtime, words};
use mvsink::{Context, Frontier, Status, Target};
use mvsink_persist::testing::{Call, CountingStore, FaultyStore};
use object_store::ObjectStore;
use object_store::memory::InMemory;

fn r01_a_view_is_exact_over_a_store_that_fails_every_fifth_call(driver: Driver) {
    let runtime = runtime();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = FaultyStore::new(Arc::clone(&inner), 3, 20);
    let updates = words(41, 200, 20);
    let faulty = driver.contexts(&runtime, 2, store);
    std::thread::scope(|scope| {
        for cx in &faulty {
            let program = Program {
                stride: 4,
                ..Program::new(updates.clone())
            };
            scope.spawn(move || {
                let status = execute(2, cx, &Target::new("memory://shared"), &program);
                assert!(matches!(status, Status::Finished), "{status}");
            });
        }
    });
    let cx = &driver.contexts(&runtime, 1, inner)[0];
    assert_exact(cx, "memory://shared", &updates, 0);
}

fn a_sink_never_reads_back_what_it_wrote(driver: Driver) {
    let runtime = runtime();
    let updates = words(43, 400, 60);
    for (full, workers) in [("false", 1), ("false", 2), ("false", 4), ("true", 2)] {
        let store = CountingStore::new(Arc::new(InMemory::new()));
        let cx = &driver.contexts(&runtime, 1, Arc::clone(&store) as Arc<dyn ObjectStore>)[0];
        cx.configs().set("mvsink_full_read_back", full).unwrap();
        execute(
            workers,
            cx,
            &Target::new("memory://shared"),
            &Program::new(updates.clone()),
        );
        let reads = store
            .count_where(|call, path| is_data(path) && matches!(call, Call::Get | Call::GetRange));
        // The control shows that the counter counts.
        assert_eq!(
            reads > 0,
            full == "true",
            "{reads} reads with full read-back {full}"
        );
        assert_exact(cx, "memory://shared", &updates, 0);
    }
}

fn failure(driver: Driver, workers: usize, url: &str) -> String {
    let runtime = runtime();
    let status = execute(
        workers,
        &driver.context(&runtime),
        &Target::new(url),
        &Program::new(words(1, 9, 9)),
    );
    let Status::Failed { error } = status else {
        panic!("{status}")
    };
    error.to_string()
}

fn a_directory_that_cannot_be_written_fails_the_sink_with_one_clear_error(driver: Driver) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let url = file.path().join("view");
    let error = failure(driver, 2, url.to_str().unwrap());
    assert!(error.contains(file.path().to_str().unwrap()), "{error}");
}

fn a_shard_of_another_schema_is_refused_and_left_alone(driver: Driver) {
    use mvsink_persist::{Codec, Open};
    let dir = tempfile::tempdir().unwrap();
    let url = dir.path().join("view");
    let url = url.to_str().unwrap();
    let runtime = runtime();
    let open = Open::new(Codec::<(u64, bool), String>::new().unwrap().schema());
    let client = driver.context(&runtime).client().clone();
    let shard = runtime.block_on(client.open_or_create(url, open)).unwrap();
    let before = shard.progress();
    drop(shard);
    let error = failure(driver, 2, url);
    assert!(error.contains(url) && error.contains("c0"), "{error}");
    let shard = runtime.block_on(client.open_existing(url)).unwrap();
    assert_eq!(shard.progress(), before);
}

fn an_unknown_address_is_refused(driver: Driver) {
    let error = failure(driver, 1, "gopher://host/view");
    assert!(error.contains("gopher://host/view"), "{error}");
}

fn a_value_that_no_column_can_hold_fails_the_sink(driver: Driver) {
    use differential_dataflow::input::InputSession;
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let url = "memory://big";
    let (status, upper) = timely::execute_directly(move |worker| {
        let (mut input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::<u64, u64, i64>::new();
            let rows = input.to_collection(scope);
            let errors = mvsink::no_errors::<u64, String, i64>(scope);
            (
                input,
                mvsink::persist_sink(&cx, "big", url, rows, errors, 0).unwrap(),
            )
        });
        input.update_at(u64::MAX, 0, 1);
        input.advance_to(1);
        input.flush();
        (
            support::step_until(worker, &handle, Frontier::At(1)),
            handle.frontier(),
        )
    });
    let Status::Failed { error } = status else {
        panic!("{status}")
    };
    assert!(
        error.to_string().contains("18446744073709551615"),
        "{error}"
    );
    assert_eq!(upper, Frontier::At(0));
}

/// Contexts like these, whose sinks have no memory for updates.
fn without_memory(
    driver: Driver,
    runtime: &tokio::runtime::Runtime,
    spill: &std::path::Path,
    store: Arc<dyn ObjectStore>,
) -> Context {
    let cx = Context::builder(runtime.handle().clone())
        .spill_directory(spill)
        .build();
    driver.choose(cx.configs());
    cx.configs().set("mvsink_corrections_bytes", "1").unwrap();
    cx.configs().set("mvsink_stage_ahead_bytes", "0").unwrap();
    cx.client().mount("shared", store);
    cx
}

fn r10_rival_sinks_without_memory_are_exact_and_leave_nothing(driver: Driver) {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let spill = tempfile::tempdir().unwrap();
    let updates = words(53, 200, 20);
    let rivals = [1, 2, 4].map(|workers| {
        // Made when it is needed.
        let folder = spill.path().join(workers.to_string());
        let cx = without_memory(driver, &runtime, &folder, Arc::clone(&store));
        (workers, cx)
    });
    std::thread::scope(|scope| {
        for (workers, cx) in &rivals {
            let program = Program {
                stride: 4,
                ..Program::new(updates.clone())
            };
            scope.spawn(move || {
                let status = execute(*workers, cx, &Target::new("memory://shared"), &program);
                assert!(matches!(status, Status::Finished), "{status}");
            });
        }
    });
    for (workers, _) in &rivals {
        let mut files = spill
            .path()
            .join(workers.to_string())
            .read_dir()
            .expect("each of them had to spill");
        assert!(files.next().is_none(), "a file has a name");
    }
    assert_exact(&rivals[0].1, "memory://shared", &updates, 0);
}

fn r10_a_disk_that_takes_nothing_stalls_the_sink_by_name_and_loses_nothing(driver: Driver) {
    use differential_dataflow::input::InputSession;
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    // No folder can be made below a file.
    let blocked = dir.path().join("blocked");
    std::fs::write(&blocked, "").unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let cx = without_memory(driver, &runtime, &blocked, Arc::clone(&store));
    let updates = words(59, 300, 1);
    let (context, program) = (cx.clone(), updates.clone());
    timely::execute_directly(move |worker| {
        let (mut input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::new();
            let view = support::view(input.to_collection(scope));
            let errors = mvsink::no_errors::<u64, String, i64>(scope);
            let target = "memory://shared";
            let handle = mvsink::persist_sink(&context, "view", target, view, errors, 0).unwrap();
            (input, handle)
        });
        for (word, time, diff) in program {
            input.update_at(word, time, diff);
        }
        input.advance_to(1);
        input.flush();
        let stalled = loop {
            worker.step_or_park(Some(std::time::Duration::from_millis(1)));
            match handle.status() {
                Status::Stalled { on, .. } => break on,
                status => assert!(!status.is_final(), "{status}"),
            }
        };
        assert!(stalled.starts_with("spill: cannot create "), "{stalled}");
        assert!(stalled.contains(blocked.to_str().unwrap()), "{stalled}");
        assert_eq!(handle.frontier(), Frontier::At(0));
        std::fs::remove_file(&blocked).unwrap();
        support::step_until(worker, &handle, Frontier::At(1));
        support::step_until_so(worker, "the sink runs", || {
            let status = handle.status();
            assert!(!status.is_final(), "{status}");
            matches!(status, Status::Running)
        });
        drop(handle);
    });
    assert_exact(&cx, "memory://shared", &updates, 0);
}

on_both_drivers! {
    r01_a_view_is_exact_over_a_store_that_fails_every_fifth_call,
    a_sink_never_reads_back_what_it_wrote,
    a_directory_that_cannot_be_written_fails_the_sink_with_one_clear_error,
    a_shard_of_another_schema_is_refused_and_left_alone,
    an_unknown_address_is_refused,
    a_value_that_no_column_can_hold_fails_the_sink,
    r10_rival_sinks_without_memory_are_exact_and_leave_nothing,
    r10_a_disk_that_takes_nothing_stalls_the_sink_by_name_and_loses_nothing,
}
