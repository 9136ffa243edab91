//! Logs that were deleted and copied back older, where a later checkpoint was left: it is named, and one of another table is not
//! followed.

mod support;

use std::fs;
use std::path::Path;

use mvsink_persist::{Open, RepairOptions};
use serde_json::json;
use support::damage::*;
use support::run;

/// A table whose entries end at 4, with a checkpoint of 9 before which they were all there.
async fn restored(dir: &Path) {
    let shard = filled(dir, 4).await;
    shard.checkpoint().await.unwrap();
    let old_hint = fs::read(in_log(dir, "_last_checkpoint")).unwrap();
    grow(&shard, 9).await;
    shard.checkpoint().await.unwrap();
    drop(shard);
    remove_entries(dir, 5..=9);
    fs::write(in_log(dir, "_last_checkpoint"), old_hint).unwrap();
}

/// Has the pointer lead to the checkpoint before the end, to that beyond it, or nowhere.
fn point(dir: &Path, hint: &str) {
    let pointer = in_log(dir, "_last_checkpoint");
    match hint {
        "new" => fs::write(pointer, "{\"version\":9,\"size\":20}").unwrap(),
        "none" => fs::remove_file(pointer).unwrap(),
        _ => {}
    }
}

#[test]
fn a_checkpoint_beyond_the_end_of_the_log_is_named_before_the_log_gets_there() {
    for hint in ["old", "new", "none"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            restored(dir).await;
            point(dir, hint);
            let before = contents(dir);
            let found = verify(dir).await;
            assert_eq!(
                named(&found),
                [("9.checkpoint.parquet".to_owned(), "ahead")],
                "{hint}"
            );
            let line = found.findings[0].to_string();
            assert!(line.contains("entry 4"), "{line}");
            for drop_entries in [false, true] {
                let mut options = RepairOptions::default();
                options.drop_entries = drop_entries;
                let report = plain().repair(url(dir), &options, &|_| ()).await.unwrap();
                assert!(report.steps.is_empty(), "{report:?}");
                let [left] = &report.left[..] else {
                    panic!("{report:?}");
                };
                assert!(
                    left.advice.contains("older log was copied back"),
                    "{left:?}"
                );
            }
            assert!(contents(dir) == before, "{hint}");
            // Not even files that are gone with the entries.
            let gone = tempfile::tempdir().unwrap();
            let gone = gone.path();
            copy(dir, gone);
            let lost = data_file(&open(dir).await.unwrap(), 7);
            fs::remove_file(gone.join(&lost.path)).unwrap();
            let options = RepairOptions::default();
            let report = plain().repair(url(gone), &options, &|_| ()).await.unwrap();
            assert!(
                report.steps.is_empty() && report.left.len() == 2,
                "{report:?}"
            );
            // Every reader takes it for the table.
            assert_eq!(open(dir).await.unwrap().progress().upper, at(9), "{hint}");
            // Either of what is advised helps.
            let other = tempfile::tempdir().unwrap();
            let other = other.path();
            copy(dir, other);
            fs::remove_file(checkpoint(other, 9)).unwrap();
            let _ = fs::remove_file(in_log(other, "_last_checkpoint"));
            assert!(verify(other).await.is_clean(), "{hint}");
            assert_eq!(open(other).await.unwrap().progress().upper, at(4), "{hint}");
            fs::remove_file(in_log(dir, "_last_checkpoint")).unwrap_or_default();
            remove_entries(dir, 0..=4);
            assert!(verify(dir).await.is_clean(), "{hint}");
            grow(&open(dir).await.unwrap(), 11).await;
            assert!(verify(dir).await.is_clean(), "{hint}");
        });
    }
}

/// A sink that starts there goes on from the checkpoint.
#[test]
fn a_checkpoint_beyond_the_end_of_the_log_is_named_after_commits_that_follow_it() {
    for hint in ["old", "new", "none"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            restored(dir).await;
            point(dir, hint);
            grow(&open(dir).await.unwrap(), 11).await;
            assert!(entry(dir, 10).exists() && !entry(dir, 5).exists());
            let found = verify(dir).await;
            assert_eq!(
                named(&found),
                [("9.checkpoint.parquet".to_owned(), "ahead")],
                "{hint}"
            );
            let line = found.findings[0].to_string();
            assert!(line.contains("entry 4"), "{line}");
            // No file is dropped, though one is gone with the entries.
            let lost = data_file(&open(dir).await.unwrap(), 7);
            let kept = fs::read(dir.join(&lost.path)).unwrap();
            fs::remove_file(dir.join(&lost.path)).unwrap();
            let before = contents(dir);
            let options = RepairOptions::default();
            let report = plain().repair(url(dir), &options, &|_| ()).await.unwrap();
            assert!(
                report.steps.is_empty() && report.left.len() == 2,
                "{report:?}"
            );
            assert!(contents(dir) == before, "{hint}");
            fs::write(dir.join(&lost.path), kept).unwrap();
            // It is the table once the older entries are moved away.
            remove_entries(dir, 0..=4);
            assert!(verify(dir).await.is_clean(), "{hint}");
            assert_eq!(open(dir).await.unwrap().progress().upper, at(11), "{hint}");
        });
    }
}

#[test]
fn no_edits_are_accepted_where_the_log_ends_before_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        restored(dir).await;
        let shard = open(dir).await.unwrap();
        let theirs = dir.join("theirs.parquet");
        let size = fs::copy(dir.join(data_file(&shard, 0).path), theirs).unwrap();
        let info = json!({"commitInfo": {"operation": "MERGE"}});
        let size = usize::try_from(size).unwrap();
        put_entry(dir, 10, &[info, add("theirs.parquet", size)]);
        assert_eq!(open(dir).await.unwrap().unaccepted_edit(), Some(10));
        let before = contents(dir);
        let mut options = RepairOptions::default();
        options.accept_edits = true;
        let report = plain().repair(url(dir), &options, &|_| ()).await.unwrap();
        assert!(
            report.steps.is_empty() && report.accepted.is_none(),
            "{report:?}"
        );
        assert!(contents(dir) == before);
        // Whoever has settled which of the two is the table accepts them.
        remove_entries(dir, 0..=4);
        let report = plain().repair(url(dir), &options, &|_| ()).await.unwrap();
        assert_eq!(report.accepted, Some(11), "{report:?}");
    });
}

/// Another table of the same columns, with a checkpoint of its version 9.
async fn another(dir: &Path) {
    let client = support::client(support::options(9));
    let open = Open::new(codec().schema());
    let shard = client.open_or_create(url(dir), open).await.unwrap();
    grow(&shard, 9).await;
    assert_eq!(shard.checkpoint().await.unwrap(), 9);
}

#[test]
fn a_checkpoint_of_another_table_beyond_the_end_of_the_log_is_named_and_not_followed() {
    for hint in ["old", "new", "none"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let other = tempfile::tempdir().unwrap();
        let other = other.path();
        run(async {
            another(other).await;
            drop(filled(dir, 4).await);
            fs::copy(checkpoint(other, 9), checkpoint(dir, 9)).unwrap();
            let pointer = in_log(dir, "_last_checkpoint");
            match hint {
                "new" => drop(fs::copy(in_log(other, "_last_checkpoint"), pointer).unwrap()),
                "old" => {
                    open(dir).await.unwrap().checkpoint().await.unwrap();
                }
                _ => {}
            }
            let found = verify(dir).await;
            let kinds = named(&found);
            assert!(
                kinds.contains(&("9.checkpoint.parquet".to_owned(), "unreadable")),
                "{hint}: {found:?}"
            );
            assert!(found.findings[0].to_string().contains("another table"));
            let shard = open(dir).await.unwrap();
            assert_eq!(shard.progress().upper, at(4), "{hint}");
            // Nor is it when the log gets there.
            grow(&shard, 12).await;
            drop(shard);
            let shard = open(dir).await.unwrap();
            assert_eq!(shard.progress().upper, at(12), "{hint}");
            assert!(!verify(dir).await.is_clean(), "{hint}");
        });
    }
}

#[test]
fn a_checkpoint_of_another_table_beyond_the_end_of_the_log_is_set_aside_if_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let other = tempfile::tempdir().unwrap();
    let other = other.path();
    run(async {
        another(other).await;
        drop(filled(dir, 4).await);
        fs::copy(checkpoint(other, 9), checkpoint(dir, 9)).unwrap();
        let mut options = RepairOptions::default();
        let report = plain().repair(url(dir), &options, &|_| ()).await.unwrap();
        assert!(report.steps.is_empty(), "{report:?}");
        assert!(
            report.left[0].advice.contains("--drop-entries"),
            "{report:?}"
        );
        options.drop_entries = true;
        let report = plain().repair(url(dir), &options, &|_| ()).await.unwrap();
        assert!(report.left.is_empty(), "{report:?}");
        assert!(verify(dir).await.is_clean());
        let shard = open(dir).await.unwrap();
        assert_eq!(shard.progress().upper, at(4));
        grow(&shard, 6).await;
    });
}

/// A creation that took long may leave one in a log that was cleaned up.
#[test]
fn a_first_entry_of_another_table_hides_no_checkpoint_that_entries_follow() {
    for hint in ["new", "none"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let other = tempfile::tempdir().unwrap();
        let other = other.path();
        run(async {
            another(other).await;
            let shard = filled(dir, 9).await;
            shard.checkpoint().await.unwrap();
            grow(&shard, 12).await;
            drop(shard);
            remove_entries(dir, 0..=9);
            point(dir, hint);
            let upper = || async { open(dir).await.unwrap().progress().upper };
            assert_eq!(upper().await, at(12), "{hint}");
            fs::copy(entry(other, 0), entry(dir, 0)).unwrap();
            assert_eq!(upper().await, at(12), "{hint}");
            // With nothing beyond it, nothing but the first entry says what table it is.
            remove_entries(dir, 10..=12);
            assert_eq!(upper().await, at(0), "{hint}");
        });
    }
}
