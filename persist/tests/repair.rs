//! Repair does what can be done without the writer, says what is lost and what is left, and does nothing twice.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mvsink_persist::testing::FaultyStore;
use mvsink_persist::{Error, RepairOptions, RepairReport, RepairStep, Shard};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use support::damage::*;
use support::run;

async fn repair_with(dir: &Path, dry_run: bool, drop_entries: bool) -> RepairReport {
    let mut options = RepairOptions::default();
    (options.dry_run, options.drop_entries) = (dry_run, drop_entries);
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
                ..
            } = &report.steps[0]
            else {
                panic!("{what}: {report:?}");
            };
            let upper_now = i64::try_from(from - 1).unwrap();
            assert_eq!((*first, *upper), (from, at(upper_now)), "{what}");
            if what.starts_with("missing") {
                assert_eq!(*upper_before, Some(at(12)), "{what}");
                assert!(*rows > 0, "{what}");
            }
            // Nothing is gone, and the table goes on from there.
            let kept = contents(dir);
            assert!(
                damaged
                    .values()
                    .all(|bytes| kept.values().any(|kept| kept == bytes)),
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
            let store = Arc::new(InMemory::new());
            for (path, bytes) in contents(dir) {
                let path = path.strip_prefix(dir).unwrap().to_str().unwrap();
                let path = format!("shard/{path}").into();
                store.put(&path, bytes.into()).await.unwrap();
            }
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
            let removals = shard.entry(10).await.unwrap();
            assert_eq!(removals.removes.len(), 1);
            assert_eq!(shard.progress().version, 10, "one commit");
        });
    }
}
