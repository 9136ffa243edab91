//! Repair does what can be done without the writer, says what is lost and what is left, and does nothing twice.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mvsink_persist::testing::FaultyStore;
use mvsink_persist::{
    Error, FileEncoder, Open, RepairOptions, RepairReport, RepairStep, Shard, hash_data,
};
use object_store::ObjectStoreExt;
use serde_json::json;
use support::damage::*;
use support::run;

async fn repair_with(dir: &Path, dry_run: bool, drop_entries: bool) -> RepairReport {
    let mut options = RepairOptions::default();
    (options.dry_run, options.drop_entries) = (dry_run, drop_entries);
    plain().repair(url(dir), &options, &|_| ()).await.unwrap()
}

async fn repair_by(dir: &Path, set: impl Fn(&mut RepairOptions)) -> RepairReport {
    let mut options = RepairOptions::default();
    set(&mut options);
    plain().repair(url(dir), &options, &|_| ()).await.unwrap()
}

/// What a dry run says, after a look that it changed nothing.
async fn planned(dir: &Path, drop_entries: bool) -> RepairReport {
    let before = contents(dir);
    let report = repair_with(dir, true, drop_entries).await;
    assert!(contents(dir) == before, "a dry run changes nothing");
    report
}

/// Repairs: as planned, wholly, and for good.
async fn repaired(dir: &Path, drop_entries: bool) -> RepairReport {
    let plan = planned(dir, drop_entries).await;
    assert!(!plan.steps.is_empty(), "{plan:?}");
    let report = repair_with(dir, false, drop_entries).await;
    assert_eq!((&report.steps, &report.left), (&plan.steps, &plan.left));
    assert!(report.left.is_empty(), "{report:?}");
    let found = verify(dir).await;
    assert!(found.is_clean(), "{found:?}");
    let before = contents(dir);
    let again = repair_with(dir, false, drop_entries).await;
    assert!(again.is_sound(), "{again:?}");
    assert!(contents(dir) == before, "a second repair changes nothing");
    report
}

/// Nothing is done, with these words of advice.
async fn refused(dir: &Path, drop_entries: bool, advice: &str) {
    let before = contents(dir);
    let report = repair_with(dir, false, drop_entries).await;
    assert!(
        report.steps.is_empty() && !report.left.is_empty(),
        "{report:?}"
    );
    assert!(report.left[0].advice.contains(advice), "{report:?}");
    assert!(contents(dir) == before);
}

async fn table(dir: &Path) -> Shard {
    let shard = filled(dir, 6).await;
    assert_eq!(shard.checkpoint().await.unwrap(), 6);
    grow(&shard, 12).await;
    shard
}

#[test]
fn a_sound_table_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        let before = contents(dir);
        let report = repair_with(dir, false, true).await;
        assert!(report.is_sound() && report.notes.is_empty(), "{report:?}");
        assert!(contents(dir) == before);
        let nowhere = repair_nowhere(&dir.join("nowhere")).await;
        assert!(matches!(nowhere, Error::NoShard { .. }), "{nowhere}");
    });
}

async fn repair_nowhere(dir: &Path) -> Error {
    let options = RepairOptions::default();
    let repaired = plain().repair(url(dir), &options, &|_| ()).await;
    repaired.unwrap_err()
}

#[test]
fn references_to_lost_and_damaged_files_are_dropped_in_one_edit() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        let before = shard.progress();
        let [gone, short, other] = [1, 4, 8].map(|time| data_file(&shard, time));
        fs::remove_file(dir.join(&gone.path)).unwrap();
        cut(&dir.join(&short.path));
        fs::copy(dir.join(data_file(&shard, 2).path), dir.join(&other.path)).unwrap();
        drop(shard);
        let report = repaired(dir, false).await;
        let [RepairStep::DropFiles { files }] = &report.steps[..] else {
            panic!("{report:?}");
        };
        let mut dropped: Vec<_> = files
            .iter()
            .map(|file| (&file.path, file.rows, file.times))
            .collect();
        dropped.sort();
        let mut expected = vec![
            (&gone.path, Some(1), Some((1, 1))),
            (&short.path, Some(1), Some((4, 4))),
            (&other.path, Some(1), Some((8, 8))),
        ];
        expected.sort();
        assert_eq!(dropped, expected);
        assert_eq!((report.rows_lost(), report.committed), (3, Some(13)));
        // The frontiers stay, and whoever writes next answers the edit.
        let shard = open(dir).await.unwrap();
        let after = shard.progress();
        assert_eq!((after.upper, after.since), (before.upper, before.since));
        assert_eq!((shard.edited(), shard.pin().files().len()), (Some(13), 9));
        let version = shard.checkpoint().await.unwrap();
        remove_entries(dir, 0..=version);
        let shard = open(dir).await.unwrap();
        assert!(shard.edited().is_some(), "a checkpoint does not hide it");
        grow(&shard, 13).await;
        assert_eq!((shard.progress().since, shard.edited()), (at(12), None));
    });
}

#[test]
fn references_are_dropped_beside_a_writer_and_once_on_a_store_that_fails() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let shard = table(dir).await;
        let gone = data_file(&shard, 1);
        fs::remove_file(dir.join(&gone.path)).unwrap();
        let (report, ()) = futures::join!(repair_with(dir, false, false), grow(&shard, 40));
        assert_eq!(report.rows_lost(), 1);
        shard.refresh().await.unwrap();
        assert_eq!(
            (shard.progress().upper, shard.pin().files().len()),
            (at(40), 39)
        );
        assert!(verify(dir).await.is_clean());
    });
}

#[test]
fn a_damaged_checkpoint_is_written_anew_from_the_entries() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        let files: Vec<_> = shard.pin().files().map(|file| file.path.clone()).collect();
        drop(shard);
        cut(&checkpoint(dir, 6));
        let damaged = fs::read(checkpoint(dir, 6)).unwrap();
        let report = repaired(dir, false).await;
        let rewrite = RepairStep::RewriteCheckpoint { version: 6 };
        assert_eq!(report.steps, std::slice::from_ref(&rewrite));
        let aside = in_log(dir, "_set_aside_6.checkpoint.parquet.bak");
        assert_eq!(fs::read(aside).unwrap(), damaged);
        // The pointer, too.
        fs::write(checkpoint(dir, 6), "another damage").unwrap();
        fs::write(in_log(dir, "_last_checkpoint"), "{").unwrap();
        let report = repaired(dir, false).await;
        assert_eq!(report.steps, [rewrite, RepairStep::PointTo { version: 6 }]);
        assert!(in_log(dir, "_set_aside_6.checkpoint.parquet.1.bak").exists());
        // It stands for the entries again.
        remove_entries(dir, 0..=6);
        let shard = open(dir).await.unwrap();
        let again: Vec<_> = shard.pin().files().map(|file| file.path.clone()).collect();
        assert_eq!((shard.progress().upper, again), (at(12), files));
    });
}

#[test]
fn a_checkpoint_of_another_table_gives_way_to_the_right_one() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, other) = (dir.path(), other.path());
    run(async {
        drop(table(dir).await);
        filled(other, 6).await.checkpoint().await.unwrap();
        fs::copy(checkpoint(other, 6), checkpoint(dir, 6)).unwrap();
        repaired(dir, false).await;
        remove_entries(dir, 0..=6);
        assert_eq!(open(dir).await.unwrap().progress().upper, at(12));
    });
}

#[test]
fn an_old_damaged_checkpoint_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        table(dir).await.checkpoint().await.unwrap();
        remove_entries(dir, 0..=5);
        cut(&checkpoint(dir, 6));
        let report = repaired(dir, false).await;
        assert!(
            matches!(report.steps[..], [RepairStep::SetAside { .. }]),
            "{report:?}"
        );
        assert!(!checkpoint(dir, 6).exists());
        assert!(in_log(dir, "_set_aside_6.checkpoint.parquet.bak").exists());
        assert_eq!(open(dir).await.unwrap().progress().upper, at(12));
    });
}

#[test]
fn a_pointer_to_nothing_is_made_to_lead_to_the_newest_checkpoint() {
    for wrong in ["{\"version\":99,\"size\":1}", "{"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(table(dir).await);
            let pointer = in_log(dir, "_last_checkpoint");
            fs::write(&pointer, wrong).unwrap();
            let report = repaired(dir, false).await;
            assert_eq!(report.steps, [RepairStep::PointTo { version: 6 }]);
            let text = fs::read_to_string(&pointer).unwrap();
            assert!(text.contains("\"version\":6"), "{text}");
        });
    }
}

/// What is wrong, how it comes about, and the first version that is given up.
type Case = (&'static str, fn(&Path), u64);

#[test]
fn entries_are_given_up_only_if_that_is_asked_for() {
    let cases: [Case; 4] = [
        ("missing", |dir| remove_entries(dir, [9]), 9),
        ("missing, twice", |dir| remove_entries(dir, [8, 10]), 8),
        ("cut short", |dir| cut(&entry(dir, 12)), 12),
        (
            "beyond a damaged checkpoint",
            |dir| {
                cut(&checkpoint(dir, 6));
                remove_entries(dir, [4]);
            },
            4,
        ),
    ];
    for (what, edit, from) in cases {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(table(dir).await);
            edit(dir);
            let damaged = contents(dir);
            refused(dir, false, "--drop-entries").await;
            let report = repaired(dir, true).await;
            let RepairStep::DropEntries {
                from: first,
                upper,
                upper_before,
                rows,
                entries_unread,
                ..
            } = &report.steps[0]
            else {
                panic!("{what}: {report:?}");
            };
            // What they added is not known.
            let unread = u64::from(what == "cut short");
            assert_eq!(*entries_unread, unread, "{what}");
            let upper_now = i64::try_from(from - 1).unwrap();
            assert_eq!((*first, *upper), (from, at(upper_now)), "{what}");
            if what.starts_with("missing") {
                assert_eq!(*upper_before, Some(at(12)), "{what}");
                assert!(*rows > 0, "{what}");
            }
            // Nothing is gone, and the table goes on from there.
            let kept = contents(dir);
            let pointer = in_log(dir, "_last_checkpoint");
            let mut damaged = damaged.iter().filter(|(path, _)| **path != pointer);
            assert!(
                damaged.all(|(_, bytes)| kept.values().any(|kept| kept == bytes)),
                "{what}"
            );
            let shard = open(dir).await.unwrap();
            assert_eq!(shard.progress().upper, at(upper_now), "{what}");
            grow(&shard, 14).await;
            assert!(verify(dir).await.is_clean(), "{what}");
        });
    }
}

#[test]
fn a_table_without_a_beginning_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        fs::remove_file(checkpoint(dir, 6)).unwrap();
        remove_entries(dir, [0, 1]);
        for drop_entries in [false, true] {
            refused(dir, drop_entries, "put it back from a copy").await;
        }
    });
}

#[test]
fn what_only_others_can_help_is_left_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        let gone = data_file(&shard, 1);
        drop(shard);
        fs::create_dir(entry(dir, 14)).unwrap();
        refused(dir, true, "move the directory away").await;
        // The rest is repaired all the same.
        fs::remove_file(dir.join(&gone.path)).unwrap();
        let report = repair_with(dir, false, false).await;
        assert_eq!(
            (report.steps.len(), report.left.len()),
            (1, 1),
            "{report:?}"
        );
        assert_eq!(
            named(&verify(dir).await),
            [("14.json".to_owned(), "folder")]
        );
    });
}

/// Entries go from the last one on, so that what is left of a repair that was cut off is the same damage.
#[test]
fn a_repair_that_was_cut_off_is_made_again() {
    for done in 0..=4 {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(table(dir).await);
            cut(&entry(dir, 9));
            for version in (9..=12).rev().take(done) {
                let aside = in_log(dir, &format!("_set_aside_{version}.json.bak"));
                match version {
                    // Between the copy and the deletion.
                    9 => assert!(fs::copy(entry(dir, version), aside).is_ok()),
                    _ => fs::rename(entry(dir, version), aside).unwrap(),
                }
            }
            repaired(dir, true).await;
            assert_eq!(open(dir).await.unwrap().progress().upper, at(8));
        });
    }
}

#[test]
fn a_repair_on_a_store_that_fails_does_the_same() {
    let whole = tempfile::tempdir().unwrap();
    let dir = whole.path();
    run(async {
        let shard = table(dir).await;
        fs::remove_file(dir.join(data_file(&shard, 2).path)).unwrap();
    });
    cut(&checkpoint(dir, 6));
    remove_entries(dir, [10]);
    for seed in 0..20 {
        run(async {
            let store = in_memory(dir).await;
            let mut options = RepairOptions::default();
            options.drop_entries = true;
            let faulty = FaultyStore::new(Arc::clone(&store) as _, seed, 20);
            let client = plain();
            client.mount("store", Arc::clone(&faulty) as _);
            let url = "memory://store/shard";
            // What fails for good, as a forbidden write does, is reported, and made again.
            let report = loop {
                match client.repair(url, &options, &|_| ()).await {
                    Ok(report) => break report,
                    Err(error) => assert!(
                        error.is_transient() || !matches!(error, Error::NoShard { .. }),
                        "{error}"
                    ),
                }
            };
            faulty.set_percent(0);
            assert!(report.left.is_empty(), "{report:?}");
            assert!(client.verify(url, &|_| ()).await.unwrap().is_clean());
            let shard = client.open_existing(url).await.unwrap();
            assert_eq!(
                (shard.progress().upper, shard.pin().files().len()),
                (at(9), 8)
            );
            // One commit after the version that the table goes on as.
            let version = shard.progress().version;
            assert_eq!(shard.entry(version).await.unwrap().removes.len(), 1);
            let checkpoint = format!("shard/_delta_log/{:020}.checkpoint.parquet", version - 1);
            assert!(store.head(&checkpoint.into()).await.is_ok());
        });
    }
}

#[test]
fn no_version_is_used_twice_after_entries_are_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        remove_entries(dir, [9]);
        let report = repaired(dir, true).await;
        let [
            RepairStep::DropEntries {
                from, goes_on_as, ..
            },
        ] = report.steps[..]
        else {
            panic!("{report:?}");
        };
        assert_eq!((from, goes_on_as), (9, 13));
        let found = verify(dir).await;
        assert!(found.notes.is_empty(), "{found:?}");
        let shard = open(dir).await.unwrap();
        assert_eq!(
            (shard.progress().version, shard.progress().upper),
            (13, at(8))
        );
        grow(&shard, 10).await;
        assert!(entry(dir, 14).exists() && !entry(dir, 9).exists());
        // Another gap, above it.
        grow(&shard, 12).await;
        drop(shard);
        remove_entries(dir, [16]);
        repaired(dir, true).await;
        assert_eq!(open(dir).await.unwrap().progress().upper, at(10));
    });
}

#[test]
fn a_feature_that_is_not_supported_is_given_up_only_by_its_version() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        let features = json!({"protocol": {
            "minReaderVersion": 3, "minWriterVersion": 7,
            "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"],
        }});
        put_entry(dir, 13, &[features]);
        put_entry(dir, 14, &[add("theirs.parquet", 9)]);
        for drop_entries in [false, true] {
            refused(dir, drop_entries, "--drop-entries=13").await;
        }
        let report = repair_by(dir, |options| options.drop_entries_from = Some(12)).await;
        assert!(report.steps.is_empty(), "{report:?}");
        let report = repair_by(dir, |options| options.drop_entries_from = Some(13)).await;
        assert!(report.left.is_empty(), "{report:?}");
        assert_eq!(open(dir).await.unwrap().progress().upper, at(12));
        assert!(verify(dir).await.is_clean());
    });
}

#[test]
fn a_checkpoint_in_parts_is_not_called_damaged_and_half_of_one_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        remove_entries(dir, 0..=6);
        let parts = [1, 2].map(|part| {
            in_log(
                dir,
                &format!("{:020}.checkpoint.{part:010}.{:010}.parquet", 6, 2),
            )
        });
        fs::rename(checkpoint(dir, 6), &parts[0]).unwrap();
        fs::copy(&parts[0], &parts[1]).unwrap();
        for drop_entries in [false, true] {
            refused(dir, drop_entries, "write a classic checkpoint").await;
        }
        fs::remove_file(&parts[1]).unwrap();
        refused(dir, true, "put it back from a copy").await;
    });
}

#[test]
fn a_checkpoint_that_contradicts_the_entries_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        let files = shard.pin().files().count();
        drop(shard);
        forge_checkpoint(dir, 6, 3).await;
        let report = repaired(dir, false).await;
        assert_eq!(report.steps, [RepairStep::RewriteCheckpoint { version: 6 }]);
        remove_entries(dir, 0..=6);
        assert_eq!(open(dir).await.unwrap().pin().files().count(), files);
    });
}

#[test]
fn an_input_gives_up_its_files_only_if_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let input = Open::new(codec().schema()).as_input();
        let shard = plain().open_or_create(url(dir), input).await.unwrap();
        grow(&shard, 6).await;
        // A checkpoint says so as well.
        shard.checkpoint().await.unwrap();
        let gone = data_file(&shard, 2);
        drop(shard);
        remove_entries(dir, 0..=6);
        fs::remove_file(dir.join(&gone.path)).unwrap();
        refused(dir, true, "--drop-files").await;
        let report = repair_by(dir, |options| options.drop_files = true).await;
        assert!(
            report.left.is_empty() && report.rows_lost() == 1,
            "{report:?}"
        );
        assert!(verify(dir).await.is_clean());
    });
}

#[test]
fn an_entry_with_forged_frontiers_is_given_up_if_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        put_entry(
            dir,
            13,
            &[json!({"txn": {"appId": "mvsink.upper", "version": 1_i64 << 40}})],
        );
        refused(dir, false, "--drop-entries").await;
        repaired(dir, true).await;
        assert_eq!(open(dir).await.unwrap().progress().upper, at(12));
    });
}

#[test]
fn a_pointer_to_nothing_is_set_aside_where_there_is_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(dir, 3).await);
        let pointer = in_log(dir, "_last_checkpoint");
        fs::write(&pointer, "{\"version\":2,\"size\":9,\"parts\":4}").unwrap();
        assert_eq!(
            named(&verify(dir).await),
            [("_last_checkpoint".to_owned(), "pointer")]
        );
        repaired(dir, false).await;
        assert!(!pointer.exists());
    });
}

/// What is wrong with a file goes with its reference, all of it.
#[test]
fn a_file_with_other_rows_in_another_order_is_given_up_whole() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        let replaced = data_file(&shard, 3).path;
        drop(shard);
        let mut rows: Vec<Row> = (100..110).map(|key| (key, None)).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(hash_data(row).unwrap()));
        let mut file = FileEncoder::new(codec().schema()).unwrap();
        let batch = codec().encode(rows.iter().map(|row| (row, 3, 1)));
        file.write(&batch.unwrap()).unwrap();
        fs::write(dir.join(&replaced), file.finish().unwrap().bytes).unwrap();
        let found = named(&verify(dir).await);
        let kinds: Vec<_> = found.iter().map(|(_, kind)| *kind).collect();
        assert_eq!(kinds, ["size", "rows", "sums", "order"]);
        let report = repaired(dir, false).await;
        let [RepairStep::DropFiles { files }] = &report.steps[..] else {
            panic!("{report:?}");
        };
        assert_eq!((files.len(), &files[0].path), (1, &replaced));
    });
}

/// Nobody has got that far, and nobody goes on from there.
#[test]
fn an_entry_far_ahead_is_set_aside_and_the_versions_go_on_where_they_were() {
    for (far, next) in [
        (900_000, 900_001),
        (1 << 50, 13),
        (i64::MAX as u64 - 1, 13),
        (i64::MAX as u64, 13),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(table(dir).await);
            fs::copy(entry(dir, 12), entry(dir, far)).unwrap();
            let stray = fs::read(entry(dir, far)).unwrap();
            assert!(
                matches!(open(dir).await, Err(Error::LogGap { .. })),
                "{far}"
            );
            let report = repaired(dir, true).await;
            let [
                RepairStep::DropEntries {
                    from, goes_on_as, ..
                },
            ] = report.steps[..]
            else {
                panic!("{report:?}");
            };
            assert_eq!((from, goes_on_as), (13, next), "{far}");
            let kept = in_log(dir, &format!("_set_aside_{far}.json.bak"));
            assert_eq!(fs::read(kept).unwrap(), stray, "{far}");
            let shard = open(dir).await.unwrap();
            assert_eq!(shard.progress().upper, at(12), "{far}");
            grow(&shard, 14).await;
            assert!(verify(dir).await.is_clean(), "{far}");
        });
    }
}

#[test]
fn a_name_beyond_all_versions_is_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        for far in [1 << 63, u64::MAX] {
            fs::copy(entry(dir, 12), entry(dir, far)).unwrap();
            fs::copy(checkpoint(dir, 6), checkpoint(dir, far)).unwrap();
        }
        let before = contents(dir);
        assert!(repair_with(dir, false, true).await.is_sound());
        assert!(contents(dir) == before);
        let shard = open(dir).await.unwrap();
        grow(&shard, 14).await;
        assert!(verify(dir).await.is_clean());
    });
}

#[test]
fn holds_and_acceptances_that_go_with_entries_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        let hour = std::time::Duration::from_secs(3600);
        shard.hold("before", at(3), hour).await.unwrap().leave();
        drop(shard);
        // An edit that takes a file away.
        let shard = open(dir).await.unwrap();
        let gone = data_file(&shard, 5).path;
        let remove = json!({"remove": {"path": gone, "deletionTimestamp": 1, "dataChange": true}});
        put_entry(dir, 14, &[remove]);
        let accepted = repair_by(dir, |options| options.accept_edits = true).await;
        assert_eq!(accepted.accepted, Some(15));
        shard.refresh().await.unwrap();
        shard.hold("after", at(4), hour).await.unwrap().leave();
        drop(shard);
        remove_entries(dir, [14]);
        let report = repaired(dir, true).await;
        let RepairStep::DropEntries {
            holds, accepted, ..
        } = &report.steps[0]
        else {
            panic!("{report:?}");
        };
        assert_eq!(holds, &["after"]);
        assert!(*accepted >= Some(14), "{report:?}");
        let shard = open(dir).await.unwrap();
        let names: Vec<_> = shard.holds().into_iter().map(|hold| hold.name).collect();
        assert_eq!(names, ["before"]);
    });
}

#[test]
fn entries_are_given_up_and_edits_before_them_accepted_in_one_repair() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let input = Open::new(codec().schema()).as_input();
        let shard = plain().open_or_create(url(dir), input).await.unwrap();
        grow(&shard, 6).await;
        let gone = data_file(&shard, 2).path;
        drop(shard);
        let remove = json!({"remove": {"path": gone, "deletionTimestamp": 1, "dataChange": true}});
        put_entry(dir, 7, &[remove]);
        fs::write(entry(dir, 8), "{").unwrap();
        let both = |options: &mut RepairOptions| {
            (options.drop_entries, options.accept_edits) = (true, true);
        };
        let planned = repair_by(dir, |options| {
            both(options);
            options.dry_run = true;
        })
        .await;
        let report = repair_by(dir, both).await;
        assert_eq!(report.steps, planned.steps);
        let [
            RepairStep::DropEntries { .. },
            RepairStep::AcceptEdits { edits },
        ] = &report.steps[..]
        else {
            panic!("{report:?}");
        };
        assert_eq!((edits.len(), edits[0].version), (1, 7));
        assert!(
            report.accepted.is_some() && report.left.is_empty(),
            "{report:?}"
        );
        let shard = open(dir).await.unwrap();
        assert_eq!(shard.unaccepted_edit(), None);
        let version = shard.checkpoint().await.unwrap();
        drop(shard);
        remove_entries(
            dir,
            (0..=version).filter(|version| entry(dir, *version).exists()),
        );
        assert_eq!(open(dir).await.unwrap().unaccepted_edit(), None);
        assert!(repair_by(dir, both).await.is_sound());
    });
}

#[test]
fn what_a_deletion_left_that_raced_with_a_sink_is_named_and_the_directory_is_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        let late = fs::read(entry(dir, 12)).unwrap();
        fs::remove_dir_all(dir).unwrap();
        fs::create_dir_all(dir.join("_delta_log")).unwrap();
        fs::write(entry(dir, 12), late).unwrap();
        let found = named(&verify(dir).await);
        assert_eq!(found, [("12.json".to_owned(), "entries missing")]);
        for drop_entries in [false, true] {
            refused(dir, drop_entries, &format!("`rm -r {}`", url(dir))).await;
        }
    });
}
