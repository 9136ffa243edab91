//! Data files that go missing, are cut short or are replaced, in the store alone.

use std::path::Path;

use crate::support::{
    Driver, Row, append_entry, at, cluster, failure_of_a_source, feed_ticks, feed_ticks_from, read,
    row, rows_below, rows_sink, rows_sink_from, runtime, step_until, step_until_so,
};
use mvsink::{Context, Counters, Frontier, Mode, Status, Target};
use mvsink_persist::{Codec, FileEncoder};
use serde_json::{Value, json};
use timely::worker::Worker;

/// What happens to a data file.
type Damage = fn(&Path);

fn lost(file: &Path) {
    std::fs::remove_file(file).unwrap();
}

fn cut_short(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}

/// Another file of the same form, and so one that can be read.
fn replaced(file: &Path) {
    let bytes = encode(&[(row(70), 0), (row(71), 0), (row(72), 1)]);
    assert_ne!(bytes.len(), std::fs::read(file).unwrap().len());
    std::fs::write(file, bytes).unwrap();
}

fn emptied(file: &Path) {
    std::fs::write(file, b"").unwrap();
}

const DAMAGES: [Damage; 4] = [lost, cut_short, replaced, emptied];

fn encode(rows: &[(Row, i64)]) -> Vec<u8> {
    let codec = Codec::<Row, String>::new().unwrap();
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    let updates = rows.iter().map(|(row, time)| (row, *time, 1));
    file.write(&codec.encode(updates).unwrap()).unwrap();
    file.finish().unwrap().bytes.to_vec()
}

/// The live files of a shard, by their paths.
fn live(cx: &Context, shard: &Path) -> Vec<String> {
    let client = cx.client();
    let open = client.open_existing(shard.to_str().unwrap());
    let open = client.handle().block_on(open).unwrap();
    open.pin().files().map(|file| file.path.clone()).collect()
}

/// Has the rows below `end` on the first worker, all at once, and waits until the view is complete there.
fn feed_once(worker: &mut Worker, cx: &Context, shard: &Path, end: u64) -> (Status, Counters) {
    let (mut input, handle) = rows_sink(worker, cx, "view", shard.to_str().unwrap());
    for time in (0..end).filter(|_| worker.index() == 0) {
        input.update_at(row(time), time, 1);
    }
    input.advance_to(end);
    input.flush();
    let status = step_until(worker, &handle, Frontier::At(end));
    let counters = handle.counters();
    drop(handle);
    worker.drop_dataflow(worker.installed_dataflows()[0]);
    (status, counters)
}

/// Runs the view up to this time, and gives what each worker has counted.
fn run_view(driver: Driver, workers: usize, shard: &Path, end: u64) -> Vec<Counters> {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let shard = shard.to_owned();
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        feed_once(worker, &cx, &shard, end)
    });
    let ended = guards.unwrap().join().into_iter().map(|ended| {
        let (status, counters) = ended.unwrap();
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
        counters
    });
    ended.collect()
}

/// Feeds one row at each time below `end`, so that there is a file for each.
fn fill(driver: Driver, shard: &Path, end: u64) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let configs = cx.configs();
    configs.set("mvsink_compaction", "false").unwrap();
    let shard = shard.to_owned();
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &cx, "view", shard.to_str().unwrap());
        feed_ticks(worker, &mut input, &handle, end);
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
}

fn assert_exact(driver: Driver, shard: &Path, end: u64) {
    let runtime = runtime();
    let (_, stored) = read(&driver.context(&runtime), shard.to_str().unwrap());
    assert_eq!(at(&stored, end), rows_below(end));
}

fn a_view_writes_again_at_its_start_what_damaged_files_held(driver: Driver, workers: usize) {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    fill(driver, &shard, 8);
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let files = live(&cx, &shard);
    assert_eq!(files.len(), 8);
    for (damage, file) in DAMAGES.iter().zip(&files) {
        damage(&shard.join(file));
    }
    for counters in run_view(driver, workers, &shard, 9) {
        assert_eq!(counters.damaged_files, DAMAGES.len() as u64);
    }
    assert_exact(driver, &shard, 9);
    let left = live(&cx, &shard);
    assert!(files[..4].iter().all(|file| !left.contains(file)));
    // Then there is nothing left to be repaired.
    for counters in run_view(driver, workers, &shard, 10) {
        assert_eq!(counters.damaged_files, 0);
    }
    assert_exact(driver, &shard, 10);
}

with_workers! {
    a_view_writes_again_at_its_start_what_damaged_files_held_with_1_worker: a_view_writes_again_at_its_start_what_damaged_files_held(1),
    a_view_writes_again_at_its_start_what_damaged_files_held_with_4_workers: a_view_writes_again_at_its_start_what_damaged_files_held(4),
}

fn a_view_of_several_processes_writes_again_what_lost_files_held(driver: Driver) {
    let runtime = runtime();
    let contexts: Vec<_> = (0..2).map(|_| driver.context(&runtime)).collect();
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    fill(driver, &shard, 6);
    for file in &live(&contexts[0], &shard)[..3] {
        lost(&shard.join(file));
    }
    let path = shard.clone();
    let ended = cluster(&contexts, 2, move |worker, cx| {
        feed_once(worker, cx, &path, 7).0
    });
    for status in ended {
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
    }
    assert_exact(driver, &shard, 7);
}

fn a_view_that_has_lost_all_its_files_is_written_again(driver: Driver) {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    // So many that they are listed.
    fill(driver, &shard, 40);
    for file in live(&driver.context(&runtime), &shard) {
        lost(&shard.join(file));
    }
    run_view(driver, 1, &shard, 41);
    assert_exact(driver, &shard, 41);
}

/// An `add` as the sink that has this shard would put it, for a file of this name.
fn add_as_ours(shard: &Path, name: &str) -> Value {
    let log = shard.join("_delta_log");
    for version in (0..1000).rev() {
        let Ok(entry) = std::fs::read_to_string(log.join(format!("{version:020}.json"))) else {
            continue;
        };
        let actions = entry
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        if let Some(mut action) = { actions }.find(|action: &Value| action.get("add").is_some()) {
            let size = action["add"]["size"].clone();
            action["add"]["path"] = json!(name);
            action["add"]["tags"]["mvsink.file"] = json!(format!("{name}:{size}"));
            return action;
        }
    }
    panic!("nothing was added")
}

fn a_running_view_drops_references_to_files_that_it_has_never_read(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    let (context, shard) = (cx.clone(), path.clone());
    let counters = timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &context, "view", shard.to_str().unwrap());
        feed_ticks(worker, &mut input, &handle, 3);
        // As the log of a table that was copied in part has it: with sums, and without.
        let ours = add_as_ours(&shard, "ghost.parquet");
        append_entry(&shard, &[ours]);
        feed_ticks_from(worker, &mut input, &handle, 3, 5);
        let ours = add_as_ours(&shard, "broken.parquet");
        let size = ours["add"]["size"].as_u64().unwrap() as usize;
        std::fs::write(shard.join("broken.parquet"), vec![7; size]).unwrap();
        append_entry(&shard, &[ours]);
        feed_ticks_from(worker, &mut input, &handle, 5, 7);
        let theirs = json!({"add": {
            "path": "theirs.parquet", "partitionValues": {}, "size": 700, "modificationTime": 1,
            "dataChange": true,
        }});
        append_entry(&shard, &[theirs]);
        feed_ticks_from(worker, &mut input, &handle, 7, 9);
        let counters = handle.counters();
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        counters
    });
    assert_eq!(counters.damaged_files, 3);
    let files = live(&cx, &path);
    for name in ["ghost.parquet", "broken.parquet", "theirs.parquet"] {
        assert!(!files.iter().any(|file| file == name), "{name} is gone");
    }
    assert_exact(driver, &path, 9);
}

fn a_view_writes_again_what_was_lost_beside_its_last_run(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let (context, path) = (cx.clone(), shard.clone());
    timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &context, "view", path.to_str().unwrap());
        feed_ticks(worker, &mut input, &handle, 3);
        // The sink has no need to read what it has written itself.
        lost(&path.join(&live(&context, &path)[0]));
        feed_ticks_from(worker, &mut input, &handle, 3, 6);
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
    run_view(driver, 1, &shard, 7);
    assert_exact(driver, &shard, 7);
}

/// The error of what is no view for a lost file and for one that is cut short.
fn assert_named(status: &str, file: &str) {
    assert!(status.contains(file), "{status}");
    assert!(status.contains("`mvsink repair "), "{status}");
}

fn an_ingest_sink_names_the_damaged_file_and_what_helps(driver: Driver) {
    for damage in DAMAGES {
        let runtime = runtime();
        let cx = driver.context(&runtime);
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("events");
        let path = shard.clone();
        let context = cx.clone();
        let (status, file) = timely::execute_directly(move |worker| {
            let target = || Target::new(path.to_str().unwrap()).mode(Mode::Ingest);
            let (mut input, handle) = rows_sink_from(worker, &context, "events", target(), 0);
            feed_ticks(worker, &mut input, &handle, 2);
            drop((input, handle));
            worker.drop_dataflow(worker.installed_dataflows()[0]);
            let file = live(&context, &path).remove(0);
            damage(&path.join(&file));
            let (_input, handle) = rows_sink_from(worker, &context, "events", target(), 2);
            step_until_so(worker, "the sink has failed", || {
                matches!(handle.status(), Status::Failed { .. })
            });
            (handle.status().to_string(), file)
        });
        assert_named(&status, &file);
    }
}

fn a_source_names_the_damaged_file_and_what_helps(driver: Driver) {
    for damage in DAMAGES {
        let runtime = runtime();
        let cx = driver.context(&runtime);
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("view");
        fill(driver, &shard, 2);
        let file = live(&cx, &shard).remove(0);
        damage(&shard.join(&file));
        let url = shard.to_str().unwrap().to_owned();
        let status = timely::execute_directly(move |worker| failure_of_a_source(worker, &cx, &url));
        assert_named(&status, &file);
    }
}

/// A file of another program's says of itself what it likes.
fn a_view_reads_a_file_whose_statistics_lie(driver: Driver) {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    fill(driver, &shard, 4);
    for (index, (rows, min, max)) in [(0, 0, 0), (2, 1_i64 << 40, 1_i64 << 41), (2, 9, 3)]
        .into_iter()
        .enumerate()
    {
        // Each of other rows, so that no file has those read that another one hides.
        let number = 90 + 2 * index as u64;
        let bytes = encode(&[(row(number), 1), (row(number + 1), 2)]);
        let name = format!("lies-{index}.parquet");
        std::fs::write(shard.join(&name), &bytes).unwrap();
        let stats = json!({
            "numRecords": rows, "minValues": {"mv_time": min}, "maxValues": {"mv_time": max},
        });
        let add = json!({"add": {
            "path": name, "partitionValues": {}, "size": bytes.len(), "modificationTime": 1,
            "dataChange": true, "stats": stats.to_string(),
        }});
        append_entry(&shard, &[add]);
    }
    run_view(driver, 1, &shard, 5);
    assert_exact(driver, &shard, 5);
}

on_both_drivers! {
    a_view_writes_again_at_its_start_what_damaged_files_held_with_1_worker,
    a_view_writes_again_at_its_start_what_damaged_files_held_with_4_workers,
    a_view_of_several_processes_writes_again_what_lost_files_held,
    a_view_that_has_lost_all_its_files_is_written_again,
    a_running_view_drops_references_to_files_that_it_has_never_read,
    a_view_writes_again_what_was_lost_beside_its_last_run,
    an_ingest_sink_names_the_damaged_file_and_what_helps,
    a_source_names_the_damaged_file_and_what_helps,
    a_view_reads_a_file_whose_statistics_lie,
}
