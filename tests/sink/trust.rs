//! What sinks and sources believe of entries and files of other programs, and what they cannot add up.

use std::collections::BTreeMap;
use std::path::Path;

use mvsink::{Context, Diff, Mode, Status, Target, persist_source};
use mvsink_persist::Frontier;
use serde_json::Value;
use timely::Config;

use crate::edits::{edit, file, live, remove};
use crate::support::{self, Driver, Row, runtime};

fn row(number: i64) -> Row {
    (format!("row {number}"), number)
}

/// The same action of an entry that says it changes no data.
fn unchanging(mut action: Value) -> Value {
    for kind in ["add", "remove"] {
        if let Some(action) = action.get_mut(kind) {
            action["dataChange"] = false.into();
        }
    }
    action
}

/// A view or an ingest sink of the rows 0 to 4 at the times 0 to 4, with `between` after the third of them.
fn runs(cx: &Context, shard: &Path, mode: Mode, between: impl FnOnce() + Send + 'static) -> Status {
    let (cx, url) = (cx.clone(), shard.to_str().unwrap().to_owned());
    let between = std::sync::Mutex::new(Some(between));
    timely::execute_directly(move |worker| {
        let target = Target::new(&url).mode(mode);
        let (mut input, sink) = support::rows_sink_from(worker, &cx, "rows", target, 0);
        let mut status = sink.status();
        for time in 0..8 {
            if time == 3
                && let Some(between) = between.lock().unwrap().take()
            {
                between();
            }
            if time < 5 {
                input.update_at(row(i64::try_from(time).unwrap()), time, 1);
            }
            input.advance_to(time + 1);
            input.flush();
            status = support::step_until(worker, &sink, Frontier::At(time + 1));
            if matches!(status, Status::Failed { .. }) {
                break;
            }
        }
        drop((input, sink));
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        status
    })
}

fn contents(cx: &Context, shard: &Path) -> BTreeMap<Row, i64> {
    let (upper, stored) = support::read(cx, shard.to_str().unwrap());
    support::at(&stored, upper.time().unwrap() - 1)
}

fn all() -> BTreeMap<Row, i64> {
    (0..5).map(|number| (row(number), 1)).collect()
}

/// What another program does that says it changes no data: other rows, rows more, rows less.
#[derive(Clone, Copy, Debug)]
enum Lie {
    Other,
    More,
    Less,
}

const LIES: [Lie; 3] = [Lie::Other, Lie::More, Lie::Less];

fn lie(cx: &Context, shard: &Path, what: Lie) {
    let first = live(cx, shard).remove(0).0;
    let theirs = |rows: &[(Row, i64, i64)]| unchanging(file(shard, "theirs.parquet", rows));
    let actions = match what {
        Lie::Other => vec![unchanging(remove(&first)), theirs(&[(row(80), 0, 1)])],
        Lie::More => vec![theirs(&[(row(80), 0, 1)])],
        Lie::Less => vec![unchanging(remove(&first))],
    };
    edit(shard, &actions);
}

fn a_running_view_repairs_what_an_entry_calls_no_change(driver: Driver) {
    let runtime = runtime();
    for what in LIES {
        let cx = driver.context(&runtime);
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("view");
        let (path, other) = (shard.clone(), cx.clone());
        let status = runs(&cx, &shard, Mode::View, move || lie(&other, &path, what));
        assert!(
            !matches!(status, Status::Failed { .. }),
            "{what:?}: {status}"
        );
        assert_eq!(contents(&cx, &shard), all(), "{what:?}");
    }
}

fn an_ingest_sink_stops_at_what_an_entry_calls_no_change(driver: Driver) {
    let runtime = runtime();
    for what in LIES {
        let cx = driver.context(&runtime);
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("events");
        let (path, other) = (shard.clone(), cx.clone());
        let status = runs(&cx, &shard, Mode::Ingest, move || lie(&other, &path, what));
        assert!(
            status.to_string().contains("--accept-edits"),
            "{what:?}: {status}"
        );
        // It finds it when it starts, too.
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("events");
        let status = runs(&cx, &shard, Mode::Ingest, || ());
        assert!(!is_failed(&status), "{what:?}: {status}");
        lie(&cx, &shard, what);
        let (context, url) = (driver.context(&runtime), shard.to_str().unwrap().to_owned());
        let status = timely::execute_directly(move |worker| {
            let target = Target::new(&url).mode(Mode::Ingest);
            let (mut input, sink) = support::rows_sink_from(worker, &context, "rows", target, 8);
            input.advance_to(9);
            input.flush();
            let status = support::step_until(worker, &sink, Frontier::At(9));
            drop((input, sink));
            worker.drop_dataflow(worker.installed_dataflows()[0]);
            status
        });
        assert!(
            status.to_string().contains("--accept-edits"),
            "{what:?}: {status}"
        );
    }
}

/// Merges the first two files as an honest program does.
fn merge(cx: &Context, shard: &Path, delete: bool) {
    let files: Vec<_> = live(cx, shard)
        .into_iter()
        .take(2)
        .map(|(path, _)| path)
        .collect();
    let (_, stored) = support::read(cx, shard.to_str().unwrap());
    let client = cx.client();
    let of_these = client.handle().block_on(async {
        let shard = client.open_existing(shard.to_str().unwrap()).await.unwrap();
        let pinned = shard.pin();
        let of_these = pinned.files().filter(|file| files.contains(&file.path));
        of_these
            .map(|file| file.min_time.unwrap())
            .collect::<Vec<_>>()
    });
    let rows = stored
        .into_iter()
        .map(|(row, time, diff)| (row, i64::try_from(time).unwrap(), diff));
    let rows: Vec<_> = rows
        .filter(|(_, time, _)| of_these.contains(time))
        .collect();
    assert_eq!(rows.len(), 2);
    let mut actions: Vec<_> = files.iter().map(|path| unchanging(remove(path))).collect();
    actions.push(unchanging(file(shard, "merged.parquet", &rows)));
    edit(shard, &actions);
    if delete {
        files
            .iter()
            .for_each(|path| std::fs::remove_file(shard.join(path)).unwrap());
    }
}

fn files_that_another_program_merges_stop_nobody(driver: Driver) {
    let runtime = runtime();
    for (mode, delete) in [
        (Mode::View, false),
        (Mode::Ingest, false),
        (Mode::Ingest, true),
    ] {
        let cx = driver.context(&runtime);
        cx.configs().set("mvsink_compaction", "false").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("rows");
        let (path, other) = (shard.clone(), cx.clone());
        let status = runs(&cx, &shard, mode, move || merge(&other, &path, delete));
        assert!(!matches!(status, Status::Failed { .. }), "{status}");
        assert_eq!(contents(&cx, &shard), all());
        let client = cx.client();
        let since = client.handle().block_on(async {
            let shard = client.open_existing(shard.to_str().unwrap()).await.unwrap();
            shard.refresh().await.unwrap().since
        });
        // Nothing before it is to be given up.
        assert!(since < Frontier::At(3), "{since}");
    }
}

/// A source of the table from time 4 on, while `between` happens; gives its status, once that says more than that it runs.
fn source<R: Diff + Send + Ord>(
    cx: &Context,
    shard: &Path,
    workers: usize,
    between: impl FnOnce() + Send + 'static,
) -> Status {
    let (cx, url) = (cx.clone(), shard.to_str().unwrap().to_owned());
    let between = std::sync::Arc::new(std::sync::Mutex::new(Some(between)));
    let guards = timely::execute(Config::process(workers), move |worker| {
        let handle = worker.dataflow(|scope| {
            let source = persist_source::<Row, String, u64, R>(&cx, scope, "source", &url, 4);
            let source = source.unwrap();
            // Whatever adds up what it gives.
            source.ok.map(|_| ()).consolidate();
            source.handle
        });
        support::until(worker, || {
            handle.frontier() >= Frontier::At(5) || is_failed(&handle.status())
        });
        if worker.index() == 0
            && let Some(between) = between.lock().unwrap().take()
        {
            between();
        }
        support::until(worker, || is_failed(&handle.status()));
        let status = handle.status();
        drop(handle);
        status
    });
    let statuses = guards.unwrap().join().into_iter().map(Result::unwrap);
    statuses
        .into_iter()
        .find(|status| status.to_string().contains("add up"))
        .unwrap()
}

fn is_failed(status: &Status) -> bool {
    matches!(status, Status::Failed { .. })
}

fn differences_that_do_not_add_up<R: Diff + Send + Ord>(
    driver: Driver,
    workers: usize,
    large: i64,
) {
    let runtime = runtime();
    let diffs = [vec![i64::MIN], vec![large, large], vec![-large, -large]];
    for (diffs, running) in diffs
        .iter()
        .flat_map(|diffs| [(diffs, false), (diffs, true)])
    {
        let cx = driver.context(&runtime);
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("events");
        let status = runs(&cx, &shard, Mode::Ingest, || ());
        assert!(!is_failed(&status), "{status}");
        let path = shard.clone();
        let diffs: Vec<_> = diffs
            .iter()
            .copied()
            .filter(|diff| R::from_i64(*diff).is_some())
            .collect();
        if diffs.is_empty() {
            continue;
        }
        let edits = move || {
            for (index, diff) in diffs.iter().enumerate() {
                // The row may be another one, and in another file.
                let rows = [(row(80 + i64::try_from(index).unwrap()), 0, *diff)];
                edit(
                    &path,
                    &[file(&path, &format!("theirs {index}.parquet"), &rows)],
                );
            }
        };
        let status = if running {
            source::<R>(&cx, &shard, workers, edits)
        } else {
            edits();
            source::<R>(&cx, &shard, workers, || ())
        };
        let status = status.to_string();
        assert!(
            status.contains("theirs") && status.contains("mv_diff"),
            "{status}"
        );
    }
}

fn a_source_refuses_differences_that_do_not_add_up(driver: Driver) {
    differences_that_do_not_add_up::<i64>(driver, 1, (1 << 62) + 1);
}

fn a_source_of_two_workers_refuses_differences_that_do_not_add_up(driver: Driver) {
    differences_that_do_not_add_up::<i64>(driver, 2, (1 << 62) + 1);
}

fn a_source_of_small_differences_refuses_those_that_do_not_add_up(driver: Driver) {
    differences_that_do_not_add_up::<i32>(driver, 1, (1 << 30) + 1);
}

on_both_drivers! {
    a_running_view_repairs_what_an_entry_calls_no_change,
    an_ingest_sink_stops_at_what_an_entry_calls_no_change,
    files_that_another_program_merges_stop_nobody,
    a_source_refuses_differences_that_do_not_add_up,
    a_source_of_two_workers_refuses_differences_that_do_not_add_up,
    a_source_of_small_differences_refuses_those_that_do_not_add_up,
}
