//! Logs that were deleted and copied back older, where a later checkpoint was left: it is named, and one of another table is not
//! followed.

mod support;

use std::fs;
use std::path::Path;

use mvsink_persist::{Open, RepairOptions};
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

#[test]
fn a_checkpoint_beyond_the_end_of_the_log_is_named_before_the_log_gets_there() {
    for hint in ["old", "new", "none"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            restored(dir).await;
            match hint {
                "new" => fs::write(
                    in_log(dir, "_last_checkpoint"),
                    "{\"version\":9,\"size\":20}",
                )
                .unwrap(),
                "none" => fs::remove_file(in_log(dir, "_last_checkpoint")).unwrap(),
                _ => {}
            }
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
