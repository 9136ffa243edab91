//! Edits of a table that nothing repairs: named, accepted by a person, and known as accepted by every opener.

mod support;

use std::fs;
use std::path::Path;

use mvsink_persist::{
    Change, Error, ForeignEdit, ReadOptions, RepairOptions, RepairReport, RepairStep,
};
use serde_json::{Value, json};
use support::damage::*;
use support::run;

async fn repair(dir: &Path, dry_run: bool, accept_edits: bool) -> RepairReport {
    let mut options = RepairOptions::default();
    (options.dry_run, options.accept_edits) = (dry_run, accept_edits);
    plain().repair(url(dir), &options, &|_| ()).await.unwrap()
}

fn accepted(report: &RepairReport) -> &[ForeignEdit] {
    match report.steps.as_slice() {
        [] => &[],
        [RepairStep::AcceptEdits { edits }] => edits,
        steps => panic!("{steps:?}"),
    }
}

/// Puts the next entry, as another program does.
async fn edit(dir: &Path, actions: &[Value]) -> u64 {
    let version = open(dir).await.unwrap().progress().version + 1;
    let info =
        json!({"commitInfo": {"operation": "MERGE", "engineInfo": "Another 1.0", "timestamp": 1}});
    let lines: Vec<_> = [&info]
        .into_iter()
        .chain(actions)
        .map(Value::to_string)
        .collect();
    fs::write(entry(dir, version), lines.join("\n")).unwrap();
    version
}

/// A file of the table once more, under another name.
async fn add(dir: &Path, name: &str) -> Value {
    let file = data_file(&open(dir).await.unwrap(), 0);
    let size = fs::copy(dir.join(&file.path), dir.join(name)).unwrap();
    json!({"add": {
        "path": name, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
        "stats": "{\"numRecords\": 1}",
    }})
}

async fn remove(dir: &Path, time: i64) -> Value {
    let file = data_file(&open(dir).await.unwrap(), time);
    json!({"remove": {"path": file.path, "deletionTimestamp": 1, "dataChange": true}})
}

async fn unaccepted(dir: &Path) -> Option<u64> {
    open(dir).await.unwrap().unaccepted_edit()
}

#[test]
fn an_edit_is_shown_and_accepted_and_the_frontiers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let before = filled(dir, 4).await.progress();
        assert!(accepted(&repair(dir, false, true).await).is_empty());
        let added = add(dir, "theirs.parquet").await;
        let removed = remove(dir, 2).await;
        let first = edit(dir, &[added, removed]).await;
        let second = edit(dir, &[add(dir, "more.parquet").await]).await;
        assert_eq!(unaccepted(dir).await, Some(second));
        // Unless it is asked for, nothing is accepted.
        assert!(repair(dir, false, false).await.is_sound());

        let found = contents(dir);
        let planned = repair(dir, true, true).await;
        assert!(contents(dir) == found, "a dry run changes nothing");
        let [one, two] = accepted(&planned) else {
            panic!("{planned:?}")
        };
        assert_eq!((one.version, two.version), (first, second));
        assert_eq!(one.operation.as_deref(), Some("MERGE"));
        assert_eq!(one.engine.as_deref(), Some("Another 1.0"));
        assert_eq!((one.files_added, one.rows_added), (1, Some(1)));
        assert_eq!((one.files_removed, one.rows_removed), (1, Some(1)));
        assert_eq!((two.files_added, two.files_removed), (1, 0));

        let done = repair(dir, false, true).await;
        assert_eq!(done.steps, planned.steps);
        assert_eq!(done.accepted, Some(second + 1));
        assert_eq!(unaccepted(dir).await, None);
        let after = open(dir).await.unwrap().progress();
        assert_eq!((after.upper, after.since), (before.upper, before.since));
        let found = contents(dir);
        assert!(repair(dir, false, true).await.steps.is_empty());
        assert!(contents(dir) == found, "it is accepted once");
        assert!(verify(dir).await.is_clean());
    });
}

#[test]
fn all_edits_below_a_checkpoint_are_shown_and_one_that_cannot_be_read_hides_none() {
    for damaged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(filled(dir, 4).await);
            let first = edit(dir, &[add(dir, "theirs.parquet").await]).await;
            let second = edit(dir, &[add(dir, "more.parquet").await]).await;
            open(dir).await.unwrap().checkpoint().await.unwrap();
            if damaged {
                fs::write(entry(dir, first), "{").unwrap();
                assert!(unaccepted(dir).await.is_some());
                return;
            }
            assert_eq!(unaccepted(dir).await, Some(second));
            let planned = repair(dir, true, true).await;
            let versions: Vec<_> = accepted(&planned).iter().map(|edit| edit.version).collect();
            assert_eq!(versions, [first, second]);
        });
    }
}

#[test]
fn an_edit_after_one_that_was_accepted_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(dir, 3).await);
        edit(dir, &[add(dir, "one.parquet").await]).await;
        repair(dir, false, true).await;
        let later = edit(dir, &[add(dir, "two.parquet").await]).await;
        assert_eq!(unaccepted(dir).await, Some(later));
        let report = repair(dir, true, true).await;
        let versions: Vec<_> = accepted(&report).iter().map(|edit| edit.version).collect();
        assert_eq!(versions, [later]);
    });
}

/// Whether openers read entries, or a checkpoint, of which the entries are cleaned up.
#[test]
fn what_was_accepted_is_known_from_a_checkpoint_too() {
    for cleaned in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(filled(dir, 3).await);
            edit(dir, &[add(dir, "one.parquet").await]).await;
            repair(dir, false, true).await;
            let shard = open(dir).await.unwrap();
            let version = shard.checkpoint().await.unwrap();
            if cleaned {
                remove_entries(dir, 0..=version);
            }
            assert_eq!(unaccepted(dir).await, None, "cleaned: {cleaned}");
            // The next append answers it, and moves the since as after any edit.
            let upper = shard.progress().upper;
            grow(&open(dir).await.unwrap(), 4).await;
            let shard = open(dir).await.unwrap();
            assert!(shard.progress().since >= upper, "cleaned: {cleaned}");
            assert_eq!(shard.unaccepted_edit(), None);
            // Another one is one again, whoever finds it, and how.
            let later = edit(dir, &[add(dir, "two.parquet").await]).await;
            assert_eq!(unaccepted(dir).await, Some(later));
            let version = open(dir).await.unwrap().checkpoint().await.unwrap();
            if cleaned {
                remove_entries(dir, version.saturating_sub(1)..=version);
            }
            assert!(unaccepted(dir).await.is_some(), "cleaned: {cleaned}");
        });
    }
}

#[test]
fn a_repair_is_no_edit_of_another_program() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let lost = data_file(&filled(dir, 4).await, 1);
        fs::remove_file(dir.join(&lost.path)).unwrap();
        let report = repair(dir, false, false).await;
        assert!(report.committed.is_some());
        let shard = open(dir).await.unwrap();
        // A view still has the rows to write again.
        assert_eq!(shard.edited(), report.committed);
        assert_eq!(shard.unaccepted_edit(), None);
        shard.checkpoint().await.unwrap();
        assert_eq!(unaccepted(dir).await, None);
    });
}

#[test]
fn a_repair_accepts_no_edit_that_was_there_before() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let lost = data_file(&filled(dir, 4).await, 1);
        let theirs = edit(dir, &[add(dir, "theirs.parquet").await]).await;
        fs::remove_file(dir.join(&lost.path)).unwrap();
        repair(dir, false, false).await;
        assert_eq!(unaccepted(dir).await, Some(theirs));
        repair(dir, false, true).await;
        assert_eq!(unaccepted(dir).await, None);
    });
}

#[test]
fn readers_of_changes_begin_anew_after_an_edit_that_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        let options = ReadOptions::default();
        let mut reader = shard.changes(0, at(9), options.clone()).unwrap();
        while !matches!(reader.next().await, Ok(Some(Change::Progress(upper))) if upper == at(3)) {}
        edit(dir, &[add(dir, "theirs.parquet").await]).await;
        repair(dir, false, true).await;
        shard.refresh().await.unwrap();
        let error = loop {
            if let Err(error) = reader.next().await {
                break error;
            }
        };
        assert!(matches!(error, Error::ForeignEdit { .. }), "{error}");
        assert!(error.to_string().contains("--accept-edits"), "{error}");
        let mut rows = 0;
        let mut anew = shard.changes(2, at(3), options).unwrap();
        while let Some(change) = anew.next().await.unwrap() {
            if let Change::Updates(batch) = change {
                rows += batch.num_rows();
            }
        }
        assert!(rows > 0);
    });
}
