//! A log that lacks entries below later ones, as an incomplete copy or restore has it: nobody opens it as if it ended
//! there, and nobody writes into the gap.

mod support;

use std::fs;
use std::path::{Path as Local, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mvsink_persist::testing::{Call, GateStore, Side};
use mvsink_persist::{Appended, Client, CompactOptions, Error, Frontier, GcOptions, Open, Shard};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use support::damage::{checkpoint, contents, copy, entry, in_log};
use support::{append, client, grow, options, run, schema, stage};

fn quiet(_: &Error) {}

fn plain(seed: u64) -> Client {
    let mut options = options(seed);
    options.checkpoint_interval = 0;
    client(options)
}

fn hint(dir: &Local) -> PathBuf {
    in_log(dir, "_last_checkpoint")
}

/// A shard whose upper is `upper`, with an entry and a file for each time.
async fn filled(client: &Client, url: &str, upper: i64) -> Shard {
    let open = Open::new(schema());
    let shard = client.open_or_create(url, open).await.unwrap();
    grow(&shard, upper).await;
    shard
}

/// The error is permanent and names the gap.
fn names_gap(error: &Error, missing: &str, next: u64) {
    assert!(!error.is_transient(), "{error}");
    let told = error.to_string();
    let gap = format!("has a gap: {missing} missing, and entry {next} is there");
    assert!(told.contains(&gap), "{told}");
    assert!(told.contains("nothing was written"), "{told}");
}

/// Both ways of opening find the gap, and nothing is changed by it.
async fn refused(dir: &Local, missing: &str, next: u64) {
    let before = contents(dir);
    let url = dir.to_str().unwrap();
    let error = plain(7).open_existing(url).await.unwrap_err();
    names_gap(&error, missing, next);
    let error = plain(7).open_or_create(url, Open::new(schema())).await;
    names_gap(&error.unwrap_err(), missing, next);
    assert_eq!(contents(dir), before);
}

async fn opens_at(dir: &Local, upper: i64) -> Shard {
    let shard = plain(8).open_existing(dir.to_str().unwrap()).await.unwrap();
    assert_eq!(shard.progress().upper, Frontier::At(upper));
    shard
}

#[test]
fn opening_refuses_a_log_with_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(&plain(1), dir.to_str().unwrap(), 12).await);
        for (lost, missing, next) in [
            (vec![5], "entry 5 is", 6),
            (vec![11], "entry 11 is", 12),
            (vec![1, 2, 3], "entries 1 to 3 are", 4),
            (vec![3, 7, 8], "entry 3 is", 4),
            ((1..12).collect(), "entries 1 to 11 are", 12),
            ((0..7).collect(), "entries 0 to 6 are", 7),
            (vec![0], "entry 0 is", 1),
        ] {
            let kept: Vec<_> = lost
                .iter()
                .map(|version| fs::read(entry(dir, *version)).unwrap())
                .collect();
            for version in &lost {
                fs::remove_file(entry(dir, *version)).unwrap();
            }
            refused(dir, missing, next).await;
            // The lost entries can be put back.
            for (version, bytes) in lost.iter().zip(kept) {
                fs::write(entry(dir, *version), bytes).unwrap();
            }
            drop(opens_at(dir, 12).await);
        }
    });
}

#[test]
fn the_end_of_a_log_is_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(&plain(1), dir.to_str().unwrap(), 5).await);
        // What lies about in the folder is none of the log.
        for name in [
            "00000000000000000009.crc",
            "x.json",
            "9.json",
            "_tmp_9.json",
        ] {
            fs::write(in_log(dir, name), "{}").unwrap();
        }
        fs::remove_file(entry(dir, 5)).unwrap();
        let shard = opens_at(dir, 4).await;
        grow(&shard, 6).await;
    });
}

#[test]
fn opening_refuses_a_gap_between_the_checkpoint_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(&plain(1), dir.to_str().unwrap(), 6).await;
        shard.checkpoint().await.unwrap();
        grow(&shard, 12).await;
        drop(shard);
        // Whether entries before the checkpoint, and the checkpoint's own, are there or were cleaned up.
        for cleaned in [0, 3, 7] {
            for version in 0..cleaned {
                let _ = fs::remove_file(entry(dir, version));
            }
            drop(opens_at(dir, 12).await);
            for (lost, missing) in [(8..=9, "entries 8 to 9 are"), (7..=9, "entries 7 to 9 are")] {
                let kept: Vec<_> = lost
                    .clone()
                    .map(|version| fs::read(entry(dir, version)).unwrap())
                    .collect();
                for version in lost.clone() {
                    fs::remove_file(entry(dir, version)).unwrap();
                }
                refused(dir, missing, 10).await;
                for (version, bytes) in lost.zip(kept) {
                    fs::write(entry(dir, version), bytes).unwrap();
                }
            }
        }
    });
}

#[test]
fn a_later_checkpoint_bridges_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(&plain(1), dir.to_str().unwrap(), 4).await;
        shard.checkpoint().await.unwrap();
        let old_hint = fs::read(hint(dir)).unwrap();
        grow(&shard, 9).await;
        shard.checkpoint().await.unwrap();
        grow(&shard, 12).await;
        let (progress, pinned) = (shard.progress(), shard.pin());
        for version in 6..=7 {
            fs::remove_file(entry(dir, version)).unwrap();
        }
        let same = |shard: &Shard| {
            assert_eq!(shard.progress(), progress);
            assert!(shard.pin().files().eq(pinned.files()));
        };
        // The pointer leads there, or leads before the gap, or is gone; or only the first entry lies before the gap.
        same(&opens_at(dir, 12).await);
        fs::write(hint(dir), &old_hint).unwrap();
        same(&opens_at(dir, 12).await);
        fs::remove_file(checkpoint(dir, 4)).unwrap();
        same(&opens_at(dir, 12).await);
        fs::remove_file(hint(dir)).unwrap();
        same(&opens_at(dir, 12).await);
        // Of what lies beyond it, too, nothing may be missing.
        fs::remove_file(entry(dir, 11)).unwrap();
        refused(dir, "entry 11 is", 12).await;
        // A damaged one is no bridge.
        fs::write(checkpoint(dir, 9), "damaged").unwrap();
        let error = plain(7).open_existing(dir.to_str().unwrap()).await;
        names_gap(&error.unwrap_err(), "entries 6 to 7 are", 8);
    });
}

#[test]
fn a_copy_without_the_last_checkpoint_opens_if_the_one_before_leads_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(&plain(1), dir.to_str().unwrap(), 4).await;
        shard.checkpoint().await.unwrap();
        grow(&shard, 9).await;
        shard.checkpoint().await.unwrap();
        grow(&shard, 12).await;
        for version in 0..4 {
            fs::remove_file(entry(dir, version)).unwrap();
        }
        fs::remove_file(checkpoint(dir, 9)).unwrap();
        drop(opens_at(dir, 12).await);
        fs::remove_file(checkpoint(dir, 4)).unwrap();
        refused(dir, "entries 0 to 3 are", 4).await;
    });
}

#[test]
fn a_copy_with_nothing_but_the_pointer_is_not_created_anew() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(&plain(1), dir.to_str().unwrap(), 4).await;
        shard.checkpoint().await.unwrap();
        for version in 0..=4 {
            fs::remove_file(entry(dir, version)).unwrap();
        }
        fs::remove_file(checkpoint(dir, 4)).unwrap();
        let whole = fs::read(hint(dir)).unwrap();
        for hinted in [&whole[..], b"{damaged"] {
            fs::write(hint(dir), hinted).unwrap();
            let before = contents(dir);
            let url = dir.to_str().unwrap();
            let error = plain(7).open_or_create(url, Open::new(schema())).await;
            assert!(!error.unwrap_err().is_transient());
            assert_eq!(contents(dir), before);
        }
    });
}

#[test]
fn whoever_has_the_shard_open_refuses_a_gap_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let url = dir.to_str().unwrap();
        let writer = filled(&plain(1), url, 3).await;
        let (reader, appender, keeper) = (
            plain(2).open_existing(url).await.unwrap(),
            plain(3).open_existing(url).await.unwrap(),
            plain(4).open_existing(url).await.unwrap(),
        );
        let file = stage(&appender, 3).await;
        grow(&writer, 6).await;
        fs::remove_file(entry(dir, 4)).unwrap();
        let before = contents(dir);
        let missing = "entry 4 is";
        names_gap(&reader.refresh().await.unwrap_err(), missing, 5);
        let next = append(33, 3, 4, vec![file]);
        names_gap(
            &appender.append(next, &quiet).await.unwrap_err(),
            missing,
            5,
        );
        let to = Frontier::At(2);
        names_gap(
            &keeper.advance_since(to, &quiet).await.unwrap_err(),
            missing,
            5,
        );
        let compacted = keeper
            .compact(&CompactOptions::default(), &|_| {
                std::ops::ControlFlow::Continue(())
            })
            .await;
        names_gap(&compacted.unwrap_err(), missing, 5);
        let collected = keeper.collect_garbage(&GcOptions::default(), &|_| ()).await;
        names_gap(&collected.unwrap_err(), missing, 5);
        let report = keeper.verify(&|_| ()).await.unwrap();
        let found = report.findings[0].to_string();
        assert!(found.contains("5.json: entry 4 is missing"), "{found}");
        assert_eq!(contents(dir), before);
        // The writer's own entries are beyond the gap; it notices at its next check.
        tokio::time::advance(Duration::from_secs(31)).await;
        drop(writer);
    });
}

#[test]
fn a_follower_notices_a_wide_gap_within_half_a_minute() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (dir, whole) = (dir.path(), whole.path());
    run(async {
        let url = dir.to_str().unwrap();
        drop(filled(&plain(1), url, 3).await);
        copy(dir, whole);
        let writer = plain(1).open_existing(whole.to_str().unwrap()).await;
        grow(&writer.unwrap(), 8).await;
        let reader = plain(2).open_existing(url).await.unwrap();
        let mut watcher = reader.watch();
        // Who follows never sees what is missing.
        for version in 7..=8 {
            fs::copy(entry(whole, version), entry(dir, version)).unwrap();
        }
        let limit = Duration::from_secs(40);
        let told = tokio::time::timeout(limit, watcher.changed()).await;
        names_gap(&told.unwrap().unwrap_err(), "entries 4 to 6 are", 7);
        // Nor does anybody write there who checks the tail first.
        let before = contents(dir);
        let late = reader.append(append(44, 3, 4, Vec::new()), &quiet).await;
        names_gap(&late.unwrap_err(), "entries 4 to 6 are", 7);
        assert_eq!(contents(dir), before);
    });
}

/// That the tail was checked in between does not put off the next listing.
#[test]
fn a_sink_that_commits_all_the_time_notices_an_entry_far_ahead_within_half_a_minute() {
    run(async {
        let store = Arc::new(InMemory::new());
        let client = plain(1);
        client.mount("store", Arc::clone(&store) as _);
        let shard = filled(&client, URL, 3).await;
        let mut watcher = shard.watch();
        let path = Path::from(format!("shard/_delta_log/{:020}.json", 900_000));
        store
            .put(&path, "{\"commitInfo\":{}}".into())
            .await
            .unwrap();
        let pinned = shard.pin();
        let lost = pinned.files().next().unwrap();
        let lost = Path::from(format!("shard/{}", lost.path));
        store.delete(&lost).await.unwrap();
        let mut refused = None;
        for time in 3..33 {
            if time == 3 + 18 {
                // A look at the table itself, just before a listing is due.
                let damaged = shard.damaged_files(&pinned).await.unwrap();
                assert_eq!(damaged.len(), 1);
            }
            let seq = u64::try_from(time).unwrap();
            let append = append(seq, time, time + 1, Vec::new());
            if let Err(error) = shard.append(append, &quiet).await {
                refused = Some(error);
                break;
            }
            let failed = async {
                loop {
                    if let Err(error) = watcher.changed().await {
                        break error;
                    }
                }
            };
            if let Ok(error) = tokio::time::timeout(Duration::from_secs(1), failed).await {
                refused = Some(error);
                break;
            }
        }
        let error = refused.expect("it is noticed");
        assert!(
            matches!(error, Error::LogGap { .. } | Error::Shared(_)),
            "{error}"
        );
        assert!(
            error.to_string().contains("entry 900000 is there"),
            "{error}"
        );
    });
}

const URL: &str = "memory://store/shard";

fn of_store(store: &Arc<GateStore>, seed: u64) -> Client {
    let client = plain(seed);
    client.mount("store", Arc::clone(store) as _);
    client
}

#[test]
fn entries_put_while_an_opener_lists_are_no_gap() {
    run(async {
        let store = GateStore::new(Arc::new(InMemory::new()));
        let writer = filled(&of_store(&store, 1), URL, 3).await;
        // The opener has found no entry 4; then 4, 5 and 6 are put, and the listing has them all.
        let gate = store.hold(1, Side::Before, |call, _| call == Call::List);
        let open = of_store(&store, 2);
        let open = open.open_existing(URL);
        let race = async {
            gate.reached().await;
            grow(&writer, 6).await;
            gate.release();
        };
        let (opened, ()) = futures::join!(open, race);
        assert_eq!(opened.unwrap().progress().upper, Frontier::At(6));
    });
}

#[test]
fn entries_put_while_a_committer_looks_are_no_gap() {
    run(async {
        let store = GateStore::new(Arc::new(InMemory::new()));
        let writer = filled(&of_store(&store, 1), URL, 3).await;
        let late = of_store(&store, 2).open_existing(URL).await.unwrap();
        let gate = store.hold(1, Side::Before, |call, path| {
            call == Call::Head && path.as_ref().ends_with("05.json")
        });
        let race = async {
            gate.reached().await;
            grow(&writer, 6).await;
            gate.release();
        };
        let (lost, ()) = futures::join!(late.append(append(55, 3, 4, Vec::new()), &quiet), race);
        let upper = Frontier::At(6);
        assert_eq!(lost.unwrap(), Appended::Lost { upper });
        assert_eq!(late.progress(), writer.progress());
    });
}

#[test]
fn an_opener_lists_once_and_an_append_never() {
    run(async {
        let store = mvsink_persist::testing::CountingStore::new(Arc::new(InMemory::new()));
        let client = plain(1);
        client.mount("store", Arc::clone(&store) as _);
        drop(filled(&client, URL, 3).await);
        let lists = || store.count(Call::List);
        let before = lists();
        let shard = client.open_existing(URL).await.unwrap();
        assert_eq!(
            lists() - before,
            2,
            "without a pointer, the beginning is found by a listing"
        );
        shard.checkpoint().await.unwrap();
        drop(shard);
        let before = lists();
        let shard = client.open_existing(URL).await.unwrap();
        assert_eq!(lists() - before, 1);
        let before = lists();
        grow(&shard, 40).await;
        assert_eq!(lists() - before, 0);
    });
}

#[test]
fn what_names_another_table_lies_behind_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let url = dir.to_str().unwrap();
        let other = tempfile::tempdir().unwrap();
        let long = filled(&plain(1), other.path().to_str().unwrap(), 9).await;
        long.checkpoint().await.unwrap();
        let shard = filled(&plain(2), url, 3).await;
        shard.checkpoint().await.unwrap();
        drop(shard);
        // What a process has put that did not notice that its table was deleted and created again.
        for path in [entry(dir, 9), checkpoint(dir, 9)] {
            fs::copy(
                in_log(other.path(), path.file_name().unwrap().to_str().unwrap()),
                &path,
            )
            .unwrap();
        }
        let shard = opens_at(dir, 3).await;
        grow(&shard, 5).await;
        assert_eq!(shard.refresh().await.unwrap().upper, Frontier::At(5));
        // What does not say what it belongs to may be the rest of the log.
        fs::write(entry(dir, 20), r#"{"commitInfo":{}}"#).unwrap();
        drop(shard);
        refused(dir, "entries 6 to 19 are", 20).await;
    });
}
