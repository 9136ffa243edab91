//! Files that the log of a table names, and that do not lie among its data files: nobody reads them.

use std::path::Path;

use mvsink::{Frontier, Mode, Status, Target};
use serde_json::{Value, json};

use crate::edits::{edit, file, live};
use crate::support::{
    Driver, at, feed_ticks, feed_ticks_from, read, row, rows_below, rows_sink, rows_sink_from,
    runtime, step_until,
};

/// Paths as another program may put them into the log of the table at `shard`, beside which there is `x.parquet`.
fn paths(shard: &Path) -> Vec<String> {
    let beside = shard.parent().unwrap().join("x.parquet");
    let beside = beside.to_str().unwrap();
    vec![
        beside.to_owned(),
        format!("file://{beside}"),
        "../x.parquet".to_owned(),
        "a/../../x.parquet".to_owned(),
        "%2E%2E/x.parquet".to_owned(),
        "s3://bucket/x.parquet".to_owned(),
        String::new(),
        "_delta_log/00000000000000000000.json".to_owned(),
        "%5Fdelta_log/x.parquet".to_owned(),
        "_delta_log".to_owned(),
    ]
}

/// The same as entries, each with and without what a sink says of its files.
fn adds(shard: &Path) -> Vec<Value> {
    let beside = file(shard.parent().unwrap(), "x.parquet", &[(row(77), 0, 1)]);
    let paths = paths(shard).into_iter();
    let adds = paths.map(|path| {
        let mut add = beside.clone();
        add["add"]["path"] = json!(path);
        add
    });
    adds.collect()
}

fn a_view_removes_what_lies_outside_of_its_table(driver: Driver) {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("view");
    let (path, runtime) = (shard.clone(), runtime());
    let cx = driver.context(&runtime);
    let context = cx.clone();
    let damaged = timely::execute_directly(move |worker| {
        let url = path.to_str().unwrap();
        let (mut input, handle) = rows_sink(worker, &context, "view", url);
        feed_ticks(worker, &mut input, &handle, 3);
        // Beside it.
        edit(&path, &adds(&path)[..5]);
        feed_ticks_from(worker, &mut input, &handle, 3, 5);
        let beside = handle.counters().damaged_files;
        drop((input, handle));
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        // While it does not run.
        edit(&path, &adds(&path)[5..]);
        let (mut input, handle) = rows_sink_from(worker, &context, "view", url, 4);
        for time in 0..6 {
            input.update_at(row(time), time, 1);
        }
        input.advance_to(6);
        input.flush();
        let status = step_until(worker, &handle, Frontier::At(6));
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
        let between = handle.counters().damaged_files;
        drop((input, handle));
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        (beside, between)
    });
    let paths = paths(&shard);
    assert_eq!(damaged, (5, paths.len() as u64 - 5));
    let files = live(&cx, &shard);
    assert!(files.iter().all(|(path, _)| !paths.contains(path)));
    let (_, stored) = read(&cx, shard.to_str().unwrap());
    assert_eq!(at(&stored, 6), rows_below(6));
    // Nobody deletes what is not the table's.
    assert!(dir.path().join("x.parquet").exists());
    assert!(shard.join("_delta_log/00000000000000000000.json").exists());
}

fn an_ingest_sink_names_the_file_that_lies_outside_of_its_table(driver: Driver) {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("events");
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let status = timely::execute_directly(move |worker| {
        let target = || Target::new(shard.to_str().unwrap()).mode(Mode::Ingest);
        let (mut input, handle) = rows_sink_from(worker, &cx, "events", target(), 0);
        feed_ticks(worker, &mut input, &handle, 2);
        drop((input, handle));
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        edit(&shard, &adds(&shard)[2..3]);
        let mut options = mvsink_persist::RepairOptions::default();
        (options.accept_edits, options.drop_files) = (true, true);
        // Who accepts the edit has accepted no file that cannot be read.
        let url = shard.to_str().unwrap();
        let accept = async {
            let shard = cx.client().open_existing(url).await.unwrap();
            assert!(shard.unaccepted_edit().is_some());
            options.dry_run = true;
            cx.client().repair(url, &options, &|_| ()).await.unwrap()
        };
        let planned = cx.client().handle().block_on(accept);
        assert_eq!(planned.steps.len(), 2, "{planned:?}");
        let (_input, handle) = rows_sink_from(worker, &cx, "events", target(), 2);
        let status = step_until(worker, &handle, Frontier::At(3)).to_string();
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        status
    });
    assert!(status.contains("version 3"), "{status}");
}

on_both_drivers! {
    a_view_removes_what_lies_outside_of_its_table,
    an_ingest_sink_names_the_file_that_lies_outside_of_its_table,
}
