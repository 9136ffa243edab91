//! Rows that other programs put into a shard, and that the types of its sinks and sources cannot hold.

use std::path::Path;
use std::sync::Arc;

use crate::support::{
    Driver, Row, append_entry, at, cluster, failure_of_a_source, feed_ticks, feed_ticks_from, read,
    row, rows_below, rows_sink, rows_sink_from, runtime, step_until, step_until_so,
};
use mvsink::{Context, Frontier, Mode, Status, Target};
use mvsink_persist::arrow_array::StringArray;
use mvsink_persist::{Codec, FileEncoder, RecordBatch};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use timely::worker::Worker;

/// A data type of another program's.
trait Other: Serialize + DeserializeOwned {}
impl<D: Serialize + DeserializeOwned> Other for D {}

/// What another program does to a shard in this directory.
type Edit = (&'static str, Arc<dyn Fn(&Path) + Send + Sync>);

/// Appends a file that has these bytes.
fn append_bytes(shard: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(shard.join(name), bytes).unwrap();
    let add = json!({"add": {
        "path": name, "partitionValues": {}, "size": bytes.len(), "modificationTime": 1,
        "dataChange": true,
    }});
    append_entry(shard, &[add]);
}

/// A file with rows and errors of these types, which need not be those of the table.
fn file<D: Other, E: Other>(ok: &[(D, i64)], err: &[(E, i64)]) -> Vec<u8> {
    let codec = Codec::<D, E>::new().unwrap();
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    if !ok.is_empty() {
        let updates = ok.iter().map(|(row, time)| (row, *time, 1));
        file.write(&codec.encode(updates).unwrap()).unwrap();
    }
    if !err.is_empty() {
        let updates = err.iter().map(|(error, time)| (error, *time, 1));
        file.write(&codec.encode_errors(updates).unwrap()).unwrap();
    }
    file.finish().unwrap().bytes.to_vec()
}

fn append<D: Other + Send + Sync + 'static, E: Other + Send + Sync + 'static>(
    name: &'static str,
    ok: Vec<(D, i64)>,
    err: Vec<(E, i64)>,
) -> Edit {
    let bytes = file(&ok, &err);
    let append = move |shard: &Path| append_bytes(shard, name, &bytes);
    (name, Arc::new(append))
}

/// A file with an error as no sink spells it: who retracts it by its own spelling leaves both in the table.
fn another_spelling() -> Vec<u8> {
    let codec = Codec::<Row, String>::new().unwrap();
    let errors = codec.encode_errors([(&"no".to_owned(), 3, 1)].into_iter());
    let errors = errors.unwrap();
    let mut columns = errors.columns().to_vec();
    let at = errors.schema().index_of("mv_error").unwrap();
    columns[at] = Arc::new(StringArray::from(vec![r#""\u006eo""#]));
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    file.write(&RecordBatch::try_new(errors.schema(), columns).unwrap())
        .unwrap();
    file.finish().unwrap().bytes.to_vec()
}

/// Files of which some rows, or all, are none of a view of [`Row`]s.
fn edits() -> Vec<Edit> {
    let text = |text: &str| Some(text.to_owned());
    let none = Vec::<(String, i64)>::new;
    vec![
        append(
            "nulls",
            vec![
                ((text("row 1"), Some(1)), 3),
                ((None, Some(1)), 3),
                ((text("row 2"), None), 3),
            ],
            none(),
        ),
        append("floats", vec![(("row 1".to_owned(), 1.5), 3)], none()),
        append(
            "texts",
            vec![(("row 1".to_owned(), "1".to_owned()), 3)],
            none(),
        ),
        append("lists", vec![((vec!["row 1".to_owned()], 1i64), 3)], none()),
        append("no_columns", vec![(7i64, 3)], none()),
        append("errors", vec![(row(1), 3)], vec![(7u64, 3)]),
        append("late", vec![(row(1), 3), (row(2), i64::MAX)], none()),
        (
            "spelling",
            Arc::new(|shard: &Path| append_bytes(shard, "spelling", &another_spelling())),
        ),
        (
            "garbage",
            Arc::new(|shard: &Path| append_bytes(shard, "garbage", b"no Parquet at all")),
        ),
    ]
}

/// Feeds a row at each time up to `end` on the first worker, and lets another program make an edit after each of the
/// first. Gives the status, and what the handle has counted.
fn feed_with_edits(
    worker: &mut Worker,
    cx: &Context,
    shard: &Path,
    edits: &[Edit],
    end: u64,
) -> Status {
    let (mut input, handle) = rows_sink(worker, cx, "view", shard.to_str().unwrap());
    if worker.index() == 0 {
        for time in 0..end {
            input.update(row(time), 1);
            input.advance_to(time + 1);
            input.flush();
            let status = step_until(worker, &handle, Frontier::At(time + 1));
            assert!(!matches!(status, Status::Failed { .. }), "{status}");
            if let Some((_, edit)) = edits.get(time as usize) {
                edit(shard);
            }
        }
    } else {
        input.advance_to(end);
        input.flush();
    }
    step_until(worker, &handle, Frontier::At(end));
    let counters = handle.counters();
    assert_eq!(
        counters.undecodable_files,
        edits.len() as u64,
        "each is counted once, {counters:?}"
    );
    assert!(counters.undecodable_rows >= edits.len() as u64 - 1);
    let status = handle.status();
    drop(handle);
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
    status
}

/// The shard holds these rows, and none of the files that were appended.
fn assert_repaired(cx: &Context, shard: &Path, edits: &[Edit], end: u64) {
    let url = shard.to_str().unwrap();
    let (_, stored) = read(cx, url);
    assert_eq!(at(&stored, end), rows_below(end));
    let client = cx.client();
    let shard = client.handle().block_on(client.open_existing(url)).unwrap();
    for file in shard.pin().files() {
        assert!(edits.iter().all(|(name, _)| file.path != *name), "{file:?}");
    }
    // Earlier contents are as they were edited.
    assert!(shard.progress().since > Frontier::At(0));
}

fn a_running_view_repairs_rows_that_it_cannot_decode(driver: Driver, workers: usize) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let edits = edits();
    let end = edits.len() as u64 + 3;
    let (context, path, made) = (cx.clone(), shard.clone(), edits.clone());
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        feed_with_edits(worker, &context, &path, &made, end)
    });
    for status in guards.unwrap().join() {
        let status = status.unwrap();
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
    }
    assert_repaired(&cx, &shard, &edits, end);
}

with_workers! {
    a_running_view_repairs_rows_that_it_cannot_decode_with_1_worker: a_running_view_repairs_rows_that_it_cannot_decode(1),
    a_running_view_repairs_rows_that_it_cannot_decode_with_3_workers: a_running_view_repairs_rows_that_it_cannot_decode(3),
}

fn a_view_repairs_at_its_start_what_it_cannot_decode(driver: Driver, workers: usize) {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let url = shard.to_str().unwrap().to_owned();
    let run = |end: u64| {
        let cx = driver.context(&runtime);
        let url = url.clone();
        let guards = timely::execute(timely::Config::process(workers), move |worker| {
            let (mut input, handle) = rows_sink(worker, &cx, "view", url.as_str());
            for time in (0..end).filter(|_| worker.index() == 0) {
                input.update_at(row(time), time, 1);
            }
            input.advance_to(end);
            input.flush();
            let status = step_until(worker, &handle, Frontier::At(end));
            let found = handle.counters().undecodable_files;
            drop(handle);
            worker.drop_dataflow(worker.installed_dataflows()[0]);
            (status, found)
        });
        let ended = guards.unwrap().join().into_iter().map(Result::unwrap);
        ended.collect::<Vec<_>>()
    };
    run(10);
    let edits = edits();
    edits.iter().for_each(|(_, edit)| edit(&shard));
    for (status, found) in run(11) {
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
        assert_eq!(found, edits.len() as u64);
    }
    assert_repaired(&driver.context(&runtime), &shard, &edits, 11);
    // Then there is nothing left to be repaired.
    assert!(run(12).iter().all(|(_, found)| *found == 0));
    assert_repaired(&driver.context(&runtime), &shard, &edits, 12);
}

with_workers! {
    a_view_repairs_at_its_start_what_it_cannot_decode_with_1_worker: a_view_repairs_at_its_start_what_it_cannot_decode(1),
    a_view_repairs_at_its_start_what_it_cannot_decode_with_4_workers: a_view_repairs_at_its_start_what_it_cannot_decode(4),
}

fn a_view_of_several_processes_repairs_rows_that_it_cannot_decode(driver: Driver) {
    let runtime = runtime();
    let contexts: Vec<_> = (0..2).map(|_| driver.context(&runtime)).collect();
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let edits = edits();
    let end = edits.len() as u64 + 3;
    let (path, made) = (shard.clone(), edits.clone());
    let statuses = cluster(&contexts, 2, move |worker, cx| {
        feed_with_edits(worker, cx, &path, &made, end)
    });
    for status in statuses {
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
    }
    assert_repaired(&contexts[0], &shard, &edits, end);
}

fn the_batch_that_removes_a_file_adds_back_what_belongs_to_the_view(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    let (context, shard) = (cx.clone(), path.clone());
    timely::execute_directly(move |worker| {
        let url = shard.to_str().unwrap();
        let (mut input, handle) = rows_sink(worker, &context, "view", url);
        feed_ticks(worker, &mut input, &handle, 4);
        // Another program rewrites all files into one, with one row that is wrong.
        let client = context.client();
        let open = client.handle().block_on(client.open_existing(url)).unwrap();
        let live: Vec<String> = open.pin().files().map(|file| file.path.clone()).collect();
        let mut rows: Vec<_> = (0..4)
            .map(|n| ((Some(row(n).0), Some(1i64)), n as i64))
            .collect();
        rows.push(((None, Some(1)), 3));
        let bytes = file::<_, String>(&rows, &[]);
        std::fs::write(shard.join("rewritten"), &bytes).unwrap();
        let mut actions = vec![json!({"add": {
            "path": "rewritten", "partitionValues": {}, "size": bytes.len(), "modificationTime": 1,
            "dataChange": true,
        }})];
        let removes = live.iter().map(
            |path| json!({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": true}}),
        );
        actions.extend(removes);
        append_entry(&shard, &actions);
        let edited = open.progress().version + 1;
        client.handle().block_on(open.refresh()).unwrap();
        feed_ticks_from(worker, &mut input, &handle, 4, 8);
        // At every version after the edit the file is there, and the shard as it was edited, or the view is exact.
        let last = open.progress().version;
        let mut versions = edited + 1..=last;
        let removes = |version: &u64| {
            let entry = client.handle().block_on(open.entry(*version)).unwrap();
            entry.removes.iter().any(|file| file.path == "rewritten")
        };
        let repair = versions.find(removes).expect("it is removed");
        let entries: Vec<_> = (edited + 1..=repair)
            .map(|version| client.handle().block_on(open.entry(version)).unwrap())
            .collect();
        assert!(
            entries
                .iter()
                .all(|entry| !entry.foreign && entry.id.is_some())
        );
        let codec = Codec::<Row, String>::new().unwrap();
        let mut added = Vec::new();
        for file in entries.iter().flat_map(|entry| &entry.adds) {
            let bytes = client
                .handle()
                .block_on(open.read_file(&file.path))
                .unwrap();
            for batch in mvsink_persist::decode_file("it", bytes, None, 1024).unwrap() {
                added.extend(codec.decode(&batch.unwrap()).unwrap().ok);
            }
        }
        for number in 0..4 {
            let row = row(number);
            assert!(
                added
                    .iter()
                    .any(|(added, _, diff)| *added == row && *diff == 1),
                "{row:?} is added back by version {repair}, {added:?}"
            );
        }
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
    let (_, stored) = read(&cx, path.to_str().unwrap());
    assert_eq!(at(&stored, 8), rows_below(8));
}

fn a_file_that_does_not_count_is_not_taken_away_under_another_spelling(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    let (context, shard) = (cx.clone(), path.clone());
    timely::execute_directly(move |worker| {
        let url = shard.to_str().unwrap();
        let (mut input, handle) = rows_sink(worker, &context, "view", url);
        feed_ticks(worker, &mut input, &handle, 4);
        // One of its rows cannot be held, so that none counts.
        let rows = [((Some("row 1"), Some(1i64)), 3), ((None, Some(1)), 3)];
        let rows = rows.map(|((text, number), time)| ((text.map(str::to_owned), number), time));
        let bytes = file::<_, String>(&rows, &[]);
        std::fs::write(shard.join("o p"), &bytes).unwrap();
        let action = |kind: &str, path: &str, changes: bool| {
            json!({kind: {
                "path": path, "partitionValues": {}, "size": bytes.len(), "modificationTime": 1,
                "deletionTimestamp": 1, "dataChange": changes,
            }})
        };
        append_entry(&shard, &[action("add", "o%20p", true)]);
        step_until_so(worker, "the file is read", || {
            handle.counters().undecodable_files == 1
        });
        // It is told of anew before the next batch, and removed as what it is called then.
        append_entry(&shard, &[action("add", "./o p", false)]);
        append_entry(&shard, &[action("remove", "x/../o%20p", true)]);
        feed_ticks_from(worker, &mut input, &handle, 4, 8);
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
    let (_, stored) = read(&cx, path.to_str().unwrap());
    assert_eq!(at(&stored, 8), rows_below(8));
}

fn a_source_names_the_file_that_it_cannot_decode(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    let url = path.to_str().unwrap().to_owned();
    let (context, shard) = (cx.clone(), path.clone());
    let status = timely::execute_directly(move |worker| {
        let (mut input, handle) = rows_sink(worker, &context, "view", url.as_str());
        feed_ticks(worker, &mut input, &handle, 2);
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        let (_, nulls) = &edits()[0];
        nulls(&shard);
        failure_of_a_source(worker, &context, &url)
    });
    let file = format!("{}/nulls, in version", path.to_str().unwrap());
    assert!(status.contains(&file), "{status}");
    assert!(
        status.contains("has 2 rows that cannot be read as"),
        "{status}"
    );
}

fn an_ingest_sink_names_the_version_with_rows_that_it_cannot_decode(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events");
    let shard = path.clone();
    let status = timely::execute_directly(move |worker| {
        let target = Target::new(shard.to_str().unwrap()).mode(Mode::Ingest);
        let (mut input, handle) = rows_sink_from(worker, &cx, "events", target, 0);
        feed_ticks(worker, &mut input, &handle, 2);
        let (_, nulls) = &edits()[0];
        nulls(&shard);
        input.advance_to(3);
        input.flush();
        step_until_so(worker, "the sink has failed", || {
            matches!(handle.status(), Status::Failed { .. })
        });
        handle.status().to_string()
    });
    assert!(
        status.contains("was edited by another program in version"),
        "{status}"
    );
}

fn a_replica_that_reads_only_counts_rows_that_it_cannot_decode_and_removes_nothing(driver: Driver) {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    let cx = driver.context(&runtime);
    let (context, shard) = (cx.clone(), path.clone());
    timely::execute_directly(move |worker| {
        let url = shard.to_str().unwrap();
        let (mut input, handle) = rows_sink(worker, &context, "view", url);
        feed_ticks(worker, &mut input, &handle, 2);
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
    let (_, nulls) = &edits()[0];
    nulls(&path);
    let (_promote, read_only) = tokio::sync::watch::channel(true);
    let shard = path.clone();
    let context = driver.context(&runtime);
    timely::execute_directly(move |worker| {
        let target = Target::new(shard.to_str().unwrap()).read_only(read_only);
        let (mut input, handle) = rows_sink(worker, &context, "view", target);
        (0..2).for_each(|number| input.update_at(row(number), number, 1));
        input.advance_to(5);
        input.flush();
        step_until_so(worker, "it has found them", || {
            handle.counters().undecodable_rows == 2
        });
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
    let client = cx.client();
    let open = client.open_existing(path.to_str().unwrap());
    let shard = client.handle().block_on(open).unwrap();
    assert!(shard.pin().files().any(|file| file.path == "nulls"));
}

fn replicas_repair_rows_that_they_cannot_decode_once(driver: Driver) {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    let contexts: Vec<_> = (0..2).map(|_| driver.context(&runtime)).collect();
    let end = edits().len() as u64 + 6;
    std::thread::scope(|scope| {
        for (index, cx) in contexts.iter().enumerate() {
            let shard = path.clone();
            scope.spawn(move || {
                let (cx, edits) = (cx.clone(), edits());
                timely::execute_directly(move |worker| {
                    let url = shard.to_str().unwrap();
                    let (mut input, handle) = rows_sink(worker, &cx, "view", url);
                    for time in 0..end {
                        feed_ticks_from(worker, &mut input, &handle, time, time + 1);
                        if index == 0
                            && let Some((_, edit)) = edits.get(time as usize)
                        {
                            edit(&shard);
                        }
                    }
                    drop(handle);
                    worker.drop_dataflow(worker.installed_dataflows()[0]);
                });
            });
        }
    });
    let (_, stored) = read(&contexts[0], path.to_str().unwrap());
    assert_eq!(at(&stored, end), rows_below(end));
}

on_both_drivers! {
    a_running_view_repairs_rows_that_it_cannot_decode_with_1_worker,
    a_running_view_repairs_rows_that_it_cannot_decode_with_3_workers,
    a_view_repairs_at_its_start_what_it_cannot_decode_with_1_worker,
    a_view_repairs_at_its_start_what_it_cannot_decode_with_4_workers,
    a_view_of_several_processes_repairs_rows_that_it_cannot_decode,
    a_file_that_does_not_count_is_not_taken_away_under_another_spelling,
    the_batch_that_removes_a_file_adds_back_what_belongs_to_the_view,
    a_source_names_the_file_that_it_cannot_decode,
    an_ingest_sink_names_the_version_with_rows_that_it_cannot_decode,
    a_replica_that_reads_only_counts_rows_that_it_cannot_decode_and_removes_nothing,
    replicas_repair_rows_that_they_cannot_decode_once,
}
