//! Real dataflows into real shards, compared with a from-scratch oracle at every time.

use std::sync::Arc;

use crate::support::{self, Driver, Program, assert_exact, execute, read, runtime, words};
use mvsink::{Context, Frontier, Mode, Status, Target};
use object_store::memory::InMemory;

/// What is left in the shard's folder beside the log and the files that it refers to.
fn unreferenced(cx: &Context, dir: &std::path::Path) -> Vec<String> {
    let url = dir.to_str().unwrap();
    let shard = cx
        .client()
        .handle()
        .block_on(cx.client().open_existing(url))
        .unwrap();
    let live: Vec<String> = shard.pin().files().map(|file| file.path.clone()).collect();
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names
        .filter(|name| name != "_delta_log" && !live.contains(name))
        .collect()
}

fn view_is_exact(driver: Driver, workers: usize) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let url = shard.to_str().unwrap();
    let program = Program::new(words(7, 600, 40));
    let status = execute(workers, &cx, &Target::new(url), &program);
    assert!(matches!(status, Status::Finished), "{status}");
    assert_exact(&cx, url, &program.updates, 0);
    assert_eq!(read(&cx, url).0, Frontier::Empty);
    assert_eq!(unreferenced(&cx, &shard), Vec::<String>::new());
}

with_workers! {
    a_view_with_retractions_is_exact_with_1_worker: view_is_exact(1),
    a_view_with_retractions_is_exact_with_2_workers: view_is_exact(2),
    a_view_with_retractions_is_exact_with_4_workers: view_is_exact(4),
}

fn a_restart_goes_on_where_the_shard_ends(driver: Driver) {
    let runtime = runtime();
    let updates = words(11, 500, 50);
    let dir = tempfile::tempdir().unwrap();
    let target = Target::new(dir.path().join("view").to_str().unwrap());
    for (until, as_of, workers) in [(10, 0, 2), (25, 9, 1), (40, 30, 4)] {
        // A new context: nothing is left in memory.
        let cx = driver.context(&runtime);
        let until = Frontier::At(until);
        let program = Program {
            as_of,
            until,
            ..Program::new(updates.clone())
        };
        let status = execute(workers, &cx, &target, &program);
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
        assert_eq!(read(&cx, &target.url).0, until);
    }
    let cx = driver.context(&runtime);
    execute(
        2,
        &cx,
        &target,
        &Program {
            as_of: 39,
            ..Program::new(updates.clone())
        },
    );
    let (upper, stored) = read(&cx, &target.url);
    assert_eq!(upper, Frontier::Empty);
    // The shard had no contents of its own between the upper 25 and the as-of 30: they repeat those before.
    for time in (0..50).filter(|time| !(25..30).contains(time)) {
        assert_eq!(
            support::at(&stored, time),
            support::oracle(&updates, time),
            "at {time}"
        );
    }
    for time in 25..30 {
        assert_eq!(
            support::at(&stored, time),
            support::oracle(&updates, 24),
            "at {time}"
        );
    }
}

fn r18_rivals_keep_one_shard_exact(driver: Driver) {
    let runtime = runtime();
    let updates = words(13, 400, 60);
    let store = Arc::new(InMemory::new());
    let contexts = driver.contexts(&runtime, 3, store);
    std::thread::scope(|scope| {
        for (index, cx) in contexts.iter().enumerate() {
            let program = Program {
                stride: 1 + index as u64,
                ..Program::new(updates.clone())
            };
            scope.spawn(move || {
                let target = Target::new("memory://shared");
                let status = execute(1 + index % 2, cx, &target, &program);
                assert!(matches!(status, Status::Finished), "{status}");
            });
        }
    });
    assert_exact(&contexts[0], "memory://shared", &updates, 0);
}

fn r18_rivals_on_a_local_directory_leave_nothing_behind(driver: Driver) {
    let runtime = runtime();
    let updates = words(17, 300, 40);
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let target = Target::new(shard.to_str().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let program = Program::new(updates.clone());
            let (cx, target) = (driver.context(&runtime), target.clone());
            scope.spawn(move || execute(2, &cx, &target, &program));
        }
    });
    let cx = driver.context(&runtime);
    assert_exact(&cx, &target.url, &updates, 0);
    assert_eq!(unreferenced(&cx, &shard), Vec::<String>::new());
}

fn r26_replicas_with_different_as_ofs_write_the_view_once(driver: Driver) {
    let runtime = runtime();
    let updates = words(19, 300, 40);
    let contexts = driver.contexts(&runtime, 2, Arc::new(InMemory::new()));
    std::thread::scope(|scope| {
        for (cx, as_of) in contexts.iter().zip([5, 12]) {
            let program = Program {
                as_of,
                ..Program::new(updates.clone())
            };
            scope.spawn(move || execute(2, cx, &Target::new("memory://shared"), &program));
        }
    });
    assert_exact(&contexts[0], "memory://shared", &updates, 12);
}

fn what_another_program_wrote_is_corrected(driver: Driver) {
    let runtime = runtime();
    let updates = words(23, 300, 30);
    let cx = driver.context(&runtime);
    // Somebody's view of other words, up to time 10.
    let wrong = Program {
        until: Frontier::At(10),
        ..Program::new(words(29, 200, 10))
    };
    execute(2, &cx, &Target::new("memory://view"), &wrong);
    execute(
        2,
        &cx,
        &Target::new("memory://view"),
        &Program::new(updates.clone()),
    );
    assert_exact(&cx, "memory://view", &updates, 10);
}

fn a_full_read_back_changes_nothing(driver: Driver) {
    let runtime = runtime();
    let updates = words(31, 300, 30);
    let cx = driver.context(&runtime);
    cx.configs().set("mvsink_full_read_back", "true").unwrap();
    let status = execute(
        2,
        &cx,
        &Target::new("memory://view"),
        &Program::new(updates.clone()),
    );
    assert!(matches!(status, Status::Finished), "{status}");
    assert_exact(&cx, "memory://view", &updates, 0);
}

fn an_ingest_sink_refuses_to_seal_a_gap(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let target = Target::new("memory://source").mode(Mode::Ingest);
    let program = Program {
        as_of: 5,
        ..Program::new(words(37, 50, 20))
    };
    let status = execute(2, &cx, &target, &program);
    let Status::Failed { error } = status else {
        panic!("{status}")
    };
    assert_eq!(
        error.to_string(),
        "the input begins at 5, but the shard ends at 0: resume at 0"
    );
    assert_eq!(read(&cx, "memory://source").0, Frontier::At(0));
}

/// Puts the next entry of a local shard's log, as another program does.
fn edit(shard: &std::path::Path, actions: &[serde_json::Value]) {
    let log = shard.join("_delta_log");
    let entry = |version: u64| log.join(format!("{version:020}.json"));
    let next = (0..).find(|version| !entry(*version).exists()).unwrap();
    let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
    // As a whole, as every writer does.
    let staged = log.join("staged");
    std::fs::write(&staged, lines.join("\n")).unwrap();
    std::fs::hard_link(&staged, entry(next)).unwrap();
    std::fs::remove_file(&staged).unwrap();
}

/// A file with these rows, at times that another program makes up, and the action that adds it.
fn foreign_file(shard: &std::path::Path, rows: &[(support::Row, i64)]) -> serde_json::Value {
    use mvsink_persist::{Codec, FileEncoder};
    let codec = Codec::<support::Row, String>::new().unwrap();
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    let updates = rows.iter().map(|(row, diff)| (row, 3, *diff));
    file.write(&codec.encode(updates).unwrap()).unwrap();
    let bytes = file.finish().unwrap().bytes;
    std::fs::write(shard.join("foreign.parquet"), &bytes).unwrap();
    serde_json::json!({"add": {
        "path": "foreign.parquet", "partitionValues": {}, "size": bytes.len(), "modificationTime": 1,
        "dataChange": true,
    }})
}

fn r24_a_running_sink_repairs_what_another_program_edits(driver: Driver) {
    use differential_dataflow::input::InputSession;
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let url = shard.to_str().unwrap().to_owned();
    let rows = |from: i64, to: i64| (from..to).map(|n| (format!("row {n}"), n));
    let (context, path) = (cx.clone(), shard.clone());
    timely::execute_directly(move |worker| {
        let (mut input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::<u64, support::Row, i64>::new();
            let rows = input.to_collection(scope);
            let errors = mvsink::no_errors::<u64, String, i64>(scope);
            let target = path.to_str().unwrap();
            let handle = mvsink::persist_sink(&context, "view", target, rows, errors, 0).unwrap();
            (input, handle)
        });
        let mut advance = |input: &mut InputSession<u64, support::Row, i64>, to| {
            input.advance_to(to);
            input.flush();
            let status = support::step_until(worker, &handle, Frontier::At(to));
            assert!(!matches!(status, Status::Failed { .. }), "{status}");
        };
        rows(0, 10).for_each(|row| input.update_at(row, 0, 1));
        advance(&mut input, 10);
        rows(10, 20).for_each(|row| input.update_at(row, 10, 1));
        advance(&mut input, 20);
        // It deletes the files of all rows so far, and adds others.
        let client = context.client();
        let files: Vec<String> = client.handle().block_on(async {
            let shard = client.open_existing(path.to_str().unwrap()).await.unwrap();
            shard.pin().files().map(|file| file.path.clone()).collect()
        });
        assert_eq!(files.len(), 2);
        let mut actions: Vec<_> = files
            .iter()
            .map(|path| {
                serde_json::json!({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": true}})
            })
            .collect();
        let bogus = [(("row 3".to_owned(), 3), 2), (("bogus".to_owned(), 0), 5)];
        actions.push(foreign_file(&path, &bogus));
        edit(&path, &actions);
        advance(&mut input, 30);
        // What is repaired need not be known at once, but at the latest when the sink has seen the edit.
        rows(0, 1).for_each(|row| input.update_at(row, 30, -1));
        advance(&mut input, 40);
        advance(&mut input, 50);
    });
    let (_, stored) = read(&cx, &url);
    let expected: std::collections::BTreeMap<_, _> = rows(1, 20).map(|row| (row, 1)).collect();
    assert_eq!(support::at(&stored, 49), expected);
}

/// Runs an ingest sink that inserts a word at each time from the shard's upper on; `edits` after the first.
fn ingest(cx: &Context, url: &str, edits: impl FnOnce() + Send + Sync + 'static) -> Status {
    use differential_dataflow::input::InputSession;
    let (cx, target) = (cx.clone(), Target::new(url).mode(Mode::Ingest));
    timely::execute_directly(move |worker| {
        let client = cx.client();
        let shard = client.handle().block_on(client.open_existing(&target.url));
        let upper = shard.map_or(Some(0), |shard| shard.progress().upper.time());
        let first = u64::try_from(upper.unwrap()).unwrap();
        let (mut input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::<u64, support::Row, i64>::new();
            let rows = input.to_collection(scope);
            let errors = mvsink::no_errors::<u64, String, i64>(scope);
            let handle = mvsink::persist_sink(&cx, "events", target, rows, errors, first).unwrap();
            (input, handle)
        });
        let mut edits = Some(edits);
        let mut status = handle.status();
        for time in first..first + 3 {
            input.update_at((format!("event {time}"), 0), time, 1);
            input.advance_to(time + 1);
            input.flush();
            status = support::step_until(worker, &handle, Frontier::At(time + 1));
            if let Some(edits) = edits.take() {
                edits();
            }
        }
        // An edit is met at the latest with what is committed after it.
        if first == 3 {
            support::step_until_so(worker, "it has failed", || {
                matches!(handle.status(), Status::Failed { .. })
            });
            status = handle.status();
        }
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        status
    })
}

fn r24_an_ingest_sink_reports_what_another_program_edits(driver: Driver) {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events");
    let url = path.to_str().unwrap();
    let status = ingest(&driver.context(&runtime), url, || ());
    assert!(!matches!(status, Status::Failed { .. }), "{status}");
    // While it runs,
    let shard = path.clone();
    let edits = move || {
        edit(
            &shard,
            &[foreign_file(&shard, &[(("bogus".to_owned(), 0), 1)])],
        )
    };
    let status = ingest(&driver.context(&runtime), url, edits);
    let expected = format!("the data of the shard {url} was edited by another program in version");
    assert!(status.to_string().contains(&expected), "{status}");
    // and while nobody did.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events");
    let url = path.to_str().unwrap();
    ingest(&driver.context(&runtime), url, || ());
    edit(
        &path,
        &[foreign_file(&path, &[(("bogus".to_owned(), 0), 1)])],
    );
    let status = ingest(&driver.context(&runtime), url, || ());
    let expected = format!("the data of the shard {url} was edited by another program in version");
    assert!(status.to_string().contains(&expected), "{status}");
    // Whoever gives up the past accepts it.
    let cx = driver.context(&runtime);
    runtime.block_on(async {
        let shard = cx.client().open_existing(url).await.unwrap();
        shard
            .advance_since(shard.progress().upper, &|_| ())
            .await
            .unwrap();
        assert_eq!(shard.edited(), None);
    });
}

fn r22_workers_without_data_hold_up_nobody(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let context = cx.clone();
    const URL: &str = "memory://skewed";
    let guards = timely::execute(timely::Config::process(4), move |worker| {
        let (mut input, handle) = support::rows_sink(worker, &context, "skewed", URL);
        // All rows come from one worker and go to one, which one by one are not the same.
        for time in 0..20 {
            if worker.index() == 3 {
                input.update_at((format!("row {time}"), 1), time, 1);
                input.advance_to(time + 1);
                input.flush();
            } else if time == 0 {
                // The others have nothing to say, ever.
                input.advance_to(20);
                input.flush();
            }
            support::step_until(worker, &handle, Frontier::At(time + 1));
        }
        handle.status().to_string()
    });
    for status in guards.unwrap().join() {
        assert!(!status.unwrap().starts_with("failed"));
    }
    let (_, stored) = read(&cx, URL);
    for time in 0..20 {
        assert_eq!(support::at(&stored, time).len() as u64, time + 1);
    }
}

on_both_drivers! {
    a_view_with_retractions_is_exact_with_1_worker,
    a_view_with_retractions_is_exact_with_2_workers,
    a_view_with_retractions_is_exact_with_4_workers,
    a_restart_goes_on_where_the_shard_ends,
    r22_workers_without_data_hold_up_nobody,
    r18_rivals_keep_one_shard_exact,
    r18_rivals_on_a_local_directory_leave_nothing_behind,
    r26_replicas_with_different_as_ofs_write_the_view_once,
    what_another_program_wrote_is_corrected,
    a_full_read_back_changes_nothing,
    an_ingest_sink_refuses_to_seal_a_gap,
    r24_a_running_sink_repairs_what_another_program_edits,
    r24_an_ingest_sink_reports_what_another_program_edits,
}
