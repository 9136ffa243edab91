//! A view whose table differs, and whose input brings no new time: nothing repairs it, and the status says so.

use std::path::Path;
use std::sync::{Arc, Barrier};

use differential_dataflow::input::InputSession;
use mvsink::{Context, Frontier, Handle, Status, Target};
use mvsink_persist::testing::{GateStore, Side};
use mvsink_persist::{Codec, FileEncoder, FileMeta, Shard};
use object_store::local::LocalFileSystem;
use timely::worker::Worker;

use crate::edits::{edit, file, live, remove};
use crate::support::{
    Driver, Row, append_file, at, feed_ticks, feed_ticks_from, read, row, rows_below, rows_sink,
    rows_sink_from, runtime, step_until, step_until_so,
};

/// How many times the table has before it is edited.
const END: u64 = 4;

/// Changes the table of a view that has these files.
type Change = fn(&Path, &[String]);

fn rows(numbers: &[u64]) -> Vec<(Row, i64, i64)> {
    numbers.iter().map(|number| (row(*number), 1, 1)).collect()
}

fn appended(shard: &Path, _: &[String]) {
    let theirs = file(shard, "theirs.parquet", &rows(&[70, 71, 72]));
    edit(shard, &[theirs]);
}

fn deleted(shard: &Path, files: &[String]) {
    edit(shard, &[remove(&files[0]), remove(&files[1])]);
}

fn deleted_all(shard: &Path, files: &[String]) {
    let all: Vec<_> = files.iter().map(|path| remove(path)).collect();
    edit(shard, &all);
}

fn updated(shard: &Path, files: &[String]) {
    let theirs = file(shard, "theirs.parquet", &rows(&[70]));
    edit(shard, &[remove(&files[0]), theirs]);
}

fn lost(shard: &Path, files: &[String]) {
    std::fs::remove_file(shard.join(&files[0])).unwrap();
}

fn written_again(shard: &Path, files: &[String]) {
    let all: Vec<_> = (0..END).collect();
    let removes = files.iter().map(|path| remove(path));
    let theirs = file(shard, "theirs.parquet", &rows(&all));
    let actions: Vec<_> = removes.chain([theirs]).collect();
    edit(shard, &actions);
}

/// A file with a null where the type has none.
fn unfit(shard: &Path, _: &[String]) {
    type Loose = (Option<String>, i64);
    let codec = Codec::<Loose, String>::new().unwrap();
    let mut encoder = FileEncoder::new(codec.schema()).unwrap();
    let loose: Loose = (None, 7);
    let updates = [(&loose, 1, 1)].into_iter();
    encoder.write(&codec.encode(updates).unwrap()).unwrap();
    let bytes = encoder.finish().unwrap().bytes;
    std::fs::write(shard.join("unfit.parquet"), &bytes).unwrap();
    let add = serde_json::json!({"add": {
        "path": "unfit.parquet", "partitionValues": {}, "size": bytes.len(), "modificationTime": 1,
        "dataChange": true,
    }});
    edit(shard, &[add]);
}

/// The view with all rows up to [`END`], and no more.
fn same_again(
    worker: &mut Worker,
    cx: &Context,
    target: Target,
) -> (InputSession<u64, Row, i64>, Handle<u64>) {
    let (mut input, handle) = rows_sink_from(worker, cx, "view", target, END - 1);
    for time in (0..END).filter(|_| worker.index() == 0) {
        input.update_at(row(time), time, 1);
    }
    input.advance_to(END);
    input.flush();
    (input, handle)
}

fn target(shard: &Path) -> Target {
    Target::new(shard.to_str().unwrap())
}

fn fill(driver: Driver, shard: &Path) -> Vec<String> {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    cx.configs().set("mvsink_compaction", "false").unwrap();
    let (context, path) = (cx.clone(), shard.to_owned());
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &context, "view", path.to_str().unwrap());
        feed_ticks(worker, &mut input, &handle, END);
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
    live(&cx, shard).into_iter().map(|(path, _)| path).collect()
}

fn assert_exact(driver: Driver, shard: &Path, end: u64) {
    let runtime = runtime();
    let (_, stored) = read(&driver.context(&runtime), shard.to_str().unwrap());
    assert_eq!(at(&stored, end), rows_below(end));
}

/// What a sink says that is started again over a changed table, with the same input; then it goes on.
fn starts_again(driver: Driver, workers: usize, change: Change) -> (Option<u64>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let files = fill(driver, &shard);
    change(&shard, &files);
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let path = shard.clone();
    let seen = Arc::new(Barrier::new(workers));
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (mut input, handle) = same_again(worker, &cx, target(&path));
        let mut found = None;
        step_until_so(worker, "it says that the table differs", || {
            let status = handle.status();
            assert!(!matches!(status, Status::Running), "all is not well");
            assert!(!handle.is_hydrated());
            if let Status::Unrepaired { rows, files, upper } = status {
                assert_eq!(upper, END as i64);
                found = Some((rows, files));
            }
            found.is_some()
        });
        // Before anybody goes on, and has the table repaired.
        seen.wait();
        if worker.index() == 0 {
            input.update_at(row(END), END, 1);
        }
        input.advance_to(END + 1);
        input.flush();
        let status = step_until(worker, &handle, Frontier::At(END + 1));
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
        step_until_so(worker, "the table is repaired", || handle.is_hydrated());
        step_until_so(worker, "all is well", || {
            matches!(handle.status(), Status::Running)
        });
        // Before anybody cancels it.
        seen.wait();
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        found.unwrap()
    });
    let mut found = guards.unwrap().join().into_iter().map(Result::unwrap);
    let found = found.next_back().unwrap();
    assert_exact(driver, &shard, END + 1);
    found
}

fn a_start_without_new_times_counts_what_others_changed(driver: Driver) {
    for (change, rows) in [
        (appended as Change, 3),
        (deleted as Change, 2),
        (deleted_all as Change, END),
        (updated as Change, 2),
    ] {
        assert_eq!(starts_again(driver, 1, change), (Some(rows), Vec::new()));
    }
}

fn a_start_of_several_workers_without_new_times_says_that_the_table_differs(driver: Driver) {
    // What one has counted may be seen before the other has.
    let (rows, files) = starts_again(driver, 3, appended);
    assert!(rows.is_some_and(|rows| (1..=3).contains(&rows)) && files.is_empty());
}

fn a_start_without_new_times_names_lost_files(driver: Driver) {
    let (rows, files) = starts_again(driver, 1, lost);
    assert_eq!((rows, files.len()), (Some(1), 1));
}

fn a_start_without_new_times_names_files_that_cannot_be_understood(driver: Driver) {
    let (_, files) = starts_again(driver, 1, unfit);
    assert_eq!(files, ["unfit.parquet"]);
}

fn an_edit_that_leaves_the_contents_as_they_are_is_none(driver: Driver) {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let files = fill(driver, &shard);
    written_again(&shard, &files);
    let runtime = runtime();
    let cx = driver.context(&runtime);
    timely::execute_directly(move |worker| {
        let (_input, handle) = same_again(worker, &cx, target(&shard));
        step_until_so(worker, "the table is found to be right", || {
            let status = handle.status();
            assert!(!matches!(status, Status::Unrepaired { .. }), "{status}");
            matches!(status, Status::Running) && handle.is_hydrated()
        });
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
}

fn a_sink_that_waits_for_new_times_says_that_its_table_was_edited(driver: Driver) {
    for change in [appended as Change, deleted, unfit] {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("view");
        let runtime = runtime();
        let cx = driver.context(&runtime);
        let path = shard.clone();
        timely::execute_directly(move |worker| {
            let (mut input, handle) = rows_sink(worker, &cx, "view", path.to_str().unwrap());
            feed_ticks(worker, &mut input, &handle, END);
            let is_running = || matches!(handle.status(), Status::Running);
            step_until_so(worker, "it runs", is_running);
            let files = live(&cx, &path).into_iter().map(|(path, _)| path);
            change(&path, &files.collect::<Vec<_>>());
            step_until_so(
                worker,
                "it says so",
                || matches!(handle.status(), Status::Unrepaired { upper, .. } if upper == END as i64),
            );
            // What was true once stays so.
            assert!(handle.is_hydrated());
            feed_ticks_from(worker, &mut input, &handle, END, END + 1);
            step_until_so(worker, "it runs again", is_running);
            drop(handle);
            worker.drop_dataflow(worker.installed_dataflows()[0]);
        });
        assert_exact(driver, &shard, END + 1);
    }
}

fn a_sink_that_may_not_write_is_hydrated_beside_a_table_that_differs(driver: Driver) {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let files = fill(driver, &shard);
    appended(&shard, &files);
    let runtime = runtime();
    let cx = driver.context(&runtime);
    timely::execute_directly(move |worker| {
        let (write, read_only) = tokio::sync::watch::channel(true);
        let (_input, handle) = same_again(worker, &cx, target(&shard).read_only(read_only));
        step_until_so(worker, "it keeps up", || handle.is_hydrated());
        assert!(matches!(handle.status(), Status::ReadOnly));
        write.send(false).unwrap();
        step_until_so(worker, "it says what it would repair", || {
            matches!(handle.status(), Status::Unrepaired { rows: Some(3), .. })
        });
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
}

const SHARED: &str = "memory://shared/view";

/// A rival's next append, of these rows with their differences, at the shard's upper.
async fn append_as_rival(shard: &Shard, rows: &[(u64, i64)]) {
    shard.refresh().await.unwrap();
    let time = shard.progress().upper.time().unwrap();
    let codec = Codec::<Row, String>::new().unwrap();
    let mut encoder = FileEncoder::new(codec.schema()).unwrap();
    let rows: Vec<_> = rows
        .iter()
        .map(|(number, diff)| (row(*number), *diff))
        .collect();
    let updates = rows.iter().map(|(row, diff)| (row, time, *diff));
    encoder.write(&codec.encode(updates).unwrap()).unwrap();
    let encoded = encoder.finish().unwrap();
    let meta = FileMeta::from(&encoded);
    let staged = shard.put_file(encoded.bytes, meta, &|_| ()).await.unwrap();
    append_file(shard, time, staged).await;
}

fn an_edit_read_while_a_batch_is_in_flight_is_counted_until_somebody_has_repaired_it(
    driver: Driver,
) {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    std::fs::create_dir(&shard).unwrap();
    let local = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
    let gated = GateStore::new(Arc::clone(&local) as _);
    let runtime = runtime();
    let process = |store| {
        let cx = driver.contexts(&runtime, 1, store).remove(0);
        cx.configs().set("mvsink_compaction", "false").unwrap();
        cx
    };
    let (cx, rival) = (process(Arc::clone(&gated) as _), process(local as _));
    let handle_of_runtime = runtime.handle().clone();
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", SHARED);
        feed_ticks(worker, &mut input, &handle, END);
        let compared = handle.compared();
        step_until_so(worker, "it was compared", || {
            let compared = compared.borrow().clone();
            compared.is_some_and(|compared| {
                compared.frontier == Frontier::At(END as i64) && compared.differs.is_none()
            })
        });
        let put = gated.hold_commit(1, Side::Before);
        input.update_at(row(END), END, 1);
        input.advance_to(END + 1);
        input.flush();
        step_until_so(worker, "a batch is on its way", || put.is_reached());
        appended(&shard, &[]);
        let differs_at = |upper: u64| {
            let status = handle.status();
            matches!(status, Status::Unrepaired { rows: Some(3), upper: at, .. } if at == upper as i64)
        };
        step_until_so(worker, "the edit was read", || differs_at(END));
        put.release();
        // The batch does not repair it.
        step_until_so(worker, "the batch is there", || differs_at(END + 1));
        let compared = handle.compared();
        step_until_so(worker, "it was compared as of the batch", || {
            let compared = compared.borrow().clone().unwrap();
            let at = compared.differs.unwrap().upper;
            compared.frontier == Frontier::At(END as i64 + 1) && at == END as i64 + 1
        });
        // A rival does, and goes beyond the input.
        handle_of_runtime.block_on(async {
            let shard = rival.client().open_existing(SHARED).await.unwrap();
            append_as_rival(&shard, &[(END + 1, 1), (70, -1), (71, -1), (72, -1)]).await;
            append_as_rival(&shard, &[(END + 2, 1)]).await;
        });
        step_until(worker, &handle, Frontier::At(END + 3));
        let compared = handle.compared();
        step_until_so(worker, "the rival's batches were read", || {
            let compared = compared.borrow().clone();
            compared.is_some_and(|compared| compared.frontier == Frontier::At(END as i64 + 3))
        });
        // What was read is taken in, and waits for the input.
        for _ in 0..8 {
            worker.step();
        }
        for time in [END + 1, END + 2] {
            input.update_at(row(time), time, 1);
        }
        input.advance_to(END + 3);
        input.flush();
        step_until_so(worker, "nothing differs any more", || {
            matches!(handle.status(), Status::Running)
        });
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
}

fn lost_files_are_named_as_the_log_spells_them(driver: Driver) {
    let (_, files) = starts_again(driver, 1, |shard, files| {
        let theirs = file(shard, "their file.parquet", &rows(&[70]));
        let mut spelled = theirs.clone();
        spelled["add"]["path"] = "./their%20file.parquet".into();
        edit(shard, &[spelled, remove(&files[0])]);
        std::fs::remove_file(shard.join("their file.parquet")).unwrap();
    });
    assert_eq!(files, ["./their%20file.parquet"]);
}

on_both_drivers! {
    an_edit_read_while_a_batch_is_in_flight_is_counted_until_somebody_has_repaired_it,
    lost_files_are_named_as_the_log_spells_them,
    a_start_without_new_times_counts_what_others_changed,
    a_start_of_several_workers_without_new_times_says_that_the_table_differs,
    a_start_without_new_times_names_lost_files,
    a_start_without_new_times_names_files_that_cannot_be_understood,
    an_edit_that_leaves_the_contents_as_they_are_is_none,
    a_sink_that_waits_for_new_times_says_that_its_table_was_edited,
    a_sink_that_may_not_write_is_hydrated_beside_a_table_that_differs,
}
