//! What other programs put into a shard's log: which of it changes the data, and that this is not forgotten.

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mvsink_persist::{
    Appended, Client, CompactOptions, Entry, Error, Frontier, Open, ReadOptions, Shard,
};
use serde_json::{Value, json};
use support::{append, client, options, run, schema, stage};

fn quiet(_: &Error) {}

fn log_entry(dir: &Path, version: u64) -> PathBuf {
    dir.join(format!("_delta_log/{version:020}.json"))
}

/// Another program's commit, as the next entry. Returns its version.
fn put_entry(dir: &Path, actions: &[Value]) -> u64 {
    let exists = |version: &u64| log_entry(dir, *version).exists();
    let last = (0..100).rev().find(exists).unwrap();
    let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
    fs::write(log_entry(dir, last + 1), lines.join("\n") + "\n").unwrap();
    last + 1
}

fn add_of(path: &str, size: usize, changes: bool) -> Value {
    json!({"add": {
        "path": path, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": changes,
    }})
}

fn add(path: &str) -> Value {
    add_of(path, 4, true)
}

fn remove(path: &str) -> Value {
    json!({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": true}})
}

fn plain() -> Client {
    let mut options = options(1);
    options.checkpoint_interval = 0;
    client(options)
}

async fn grow(shard: &Shard, commits: i64) {
    for _ in 0..commits {
        let time = shard.progress().upper.time().unwrap();
        let file = stage(shard, time).await;
        let append = append(u64::try_from(time).unwrap(), time, time + 1, vec![file]);
        let appended = shard.append(append, &quiet).await.unwrap();
        assert!(matches!(appended, Appended::Committed { .. }));
    }
}

/// A shard with a file of four bytes at each time below `upper`.
async fn filled(dir: &Path, upper: i64) -> Shard {
    let open = Open::new(schema());
    let url = dir.to_str().unwrap();
    let shard = plain().open_or_create(url, open).await.unwrap();
    grow(&shard, upper).await;
    shard
}

async fn open(dir: &Path) -> Shard {
    plain().open_existing(dir.to_str().unwrap()).await.unwrap()
}

/// The paths that an entry adds, and those that it removes.
fn changes(entry: &Entry) -> (Vec<&str>, Vec<&str>) {
    (
        entry.adds.iter().map(|file| file.path.as_str()).collect(),
        entry
            .removes
            .iter()
            .map(|file| file.path.as_str())
            .collect(),
    )
}

#[test]
fn a_path_counts_once_however_often_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(dir.path(), 2).await;
        let live: Vec<_> = shard.pin().files().map(|file| file.path.clone()).collect();
        let [first, second] = &live[..] else {
            panic!("{live:?}");
        };
        let stats = json!({"add": {
            "path": first, "partitionValues": {}, "size": 4, "modificationTime": 7, "dataChange": true,
            "stats": "{\"numRecords\":77}", "tags": {"other": "tag"},
        }});
        for (actions, adds, removes) in [
            // What is there is there.
            (vec![add(first)], vec![], vec![]),
            (vec![stats], vec![], vec![]),
            (vec![remove(first), add(first)], vec![], vec![]),
            (vec![add(first), remove(first)], vec![], vec![]),
            // What is not there does not go.
            (vec![remove("nowhere")], vec![], vec![]),
            (vec![add("new"), add("new")], vec!["new"], vec![]),
            (vec![remove("new"), remove("new")], vec![], vec!["new"]),
            (vec![remove("new")], vec![], vec![]),
            // What has gone comes back.
            (vec![add("new")], vec!["new"], vec![]),
            (vec![add("x%2520y")], vec!["x%2520y"], vec![]),
            (vec![remove("x%2520y")], vec![], vec!["x%2520y"]),
            (vec![remove(second)], vec![], vec![second.as_str()]),
            (vec![add(second)], vec![second.as_str()], vec![]),
            (
                vec![remove(second), add("other")],
                vec!["other"],
                vec![second.as_str()],
            ),
            // Nobody knows what a file held in whose place there is another.
            (vec![add_of("new", 5, true)], vec!["new"], vec!["new"]),
            // Whatever its writer says of it.
            (vec![add_of("new", 6, false)], vec!["new"], vec!["new"]),
        ] {
            let version = put_entry(dir.path(), &actions);
            shard.refresh().await.unwrap();
            let entry = shard.entry(version).await.unwrap();
            assert!(entry.exact);
            assert_eq!(changes(&entry), (adds, removes), "{actions:?}");
        }
        let mut expected = vec![first.as_str(), "new", "other"];
        expected.sort_unstable();
        let files = shard.pin();
        let files: Vec<_> = files.files().map(|file| file.path.as_str()).collect();
        assert_eq!(files, expected);
    });
}

#[test]
fn an_edit_read_again_says_that_it_is_not_exact() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(dir.path(), 1).await;
        let edit = put_entry(dir.path(), &[add("new"), remove("nowhere")]);
        shard.refresh().await.unwrap();
        grow(&shard, 1).await;
        shard.checkpoint().await.unwrap();
        let again = open(dir.path()).await;
        let entry = again.entry(edit).await.unwrap();
        assert!(entry.foreign && !entry.exact);
        assert!(again.entry(edit + 1).await.unwrap().exact);
    });
}

/// Deletes the log entries up to this version.
fn clean_up(dir: &Path, last: u64) {
    for version in 0..=last {
        let _ = fs::remove_file(log_entry(dir, version));
    }
}

/// A shard in whose log these actions are the last entry, and a checkpoint; opened anew, with the log cleaned up to the
/// checkpoint or not.
async fn reopened(dir: &Path, actions: &[Value], cleaned: bool) -> Shard {
    let shard = filled(dir, 2).await;
    reopened_after(dir, &shard, actions, cleaned).await
}

#[test]
fn an_edit_in_a_checkpoint_is_known_until_the_since_answers_it() {
    for cleaned in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        run(async {
            let shard = reopened(dir.path(), &[add("new")], cleaned).await;
            assert_eq!(shard.edited(), Some(3), "cleaned: {cleaned}");
            // Another checkpoint forgets nothing, nor does what answers nothing.
            let hold = shard.holds();
            assert!(hold.is_empty());
            shard.checkpoint().await.unwrap();
            let again = open(dir.path()).await;
            assert_eq!(again.edited(), Some(3), "cleaned: {cleaned}");
            grow(&again, 1).await;
            assert_eq!(again.progress().since, Frontier::At(2));
            assert_eq!(again.edited(), None);
            let version = again.checkpoint().await.unwrap();
            clean_up(dir.path(), version);
            let again = open(dir.path()).await;
            assert_eq!(again.edited(), None, "cleaned: {cleaned}");
        });
    }
}

#[test]
fn a_removal_in_a_checkpoint_is_an_edit_too() {
    for cleaned in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        run(async {
            let shard = filled(dir.path(), 1).await;
            let path = shard.pin().files().next().unwrap().path.clone();
            let shard = reopened_after(dir.path(), &shard, &[remove(&path)], cleaned).await;
            assert_eq!(shard.edited(), Some(2), "cleaned: {cleaned}");
        });
    }
}

/// The same, of a shard that is there.
async fn reopened_after(dir: &Path, shard: &Shard, actions: &[Value], cleaned: bool) -> Shard {
    put_entry(dir, actions);
    shard.refresh().await.unwrap();
    let version = shard.checkpoint().await.unwrap();
    if cleaned {
        clean_up(dir, version);
    }
    open(dir).await
}

#[test]
fn a_checkpoint_without_an_edit_says_that_there_was_none() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(dir.path(), 3).await;
        let version = shard.checkpoint().await.unwrap();
        assert_eq!(open(dir.path()).await.edited(), None);
        clean_up(dir.path(), version);
        assert_eq!(open(dir.path()).await.edited(), None);
        grow(&shard, 1).await;
        // Another program's properties change no data.
        let version = put_entry(
            dir.path(),
            &[json!({"commitInfo": {"operation": "SET TBLPROPERTIES"}})],
        );
        shard.refresh().await.unwrap();
        assert_eq!(shard.checkpoint().await.unwrap(), version);
        clean_up(dir.path(), version);
        assert_eq!(open(dir.path()).await.edited(), None);
    });
}

#[test]
fn an_optimize_whose_entry_is_there_is_no_edit() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(dir.path(), 1).await;
        let path = shard.pin().files().next().unwrap().path.clone();
        let remove = json!({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": false}});
        let actions = [remove, add_of("merged", 4, false)];
        let shard = reopened_after(dir.path(), &shard, &actions, false).await;
        assert_eq!(shard.edited(), None);
    });
}

/// Makes the log up to this entry one of an earlier version, which did not say what it had answered.
fn without_reviews(dir: &Path, last: u64) {
    for version in 0..=last {
        let path = log_entry(dir, version);
        let text = fs::read_to_string(&path).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.contains("mvsink.reviewed"));
        let lines: Vec<String> = lines
            .map(|line| {
                let mut action: Value = serde_json::from_str(line).unwrap();
                if let Some(info) = action.get_mut("commitInfo") {
                    info.as_object_mut().unwrap().remove("mvsink.lines");
                }
                action.to_string()
            })
            .collect();
        fs::write(path, lines.join("\n") + "\n").unwrap();
    }
}

#[test]
fn a_log_of_an_older_version_is_read_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(dir.path(), 2).await;
        drop(shard);
        without_reviews(dir.path(), 2);
        let shard = open(dir.path()).await;
        let version = shard.checkpoint().await.unwrap();
        clean_up(dir.path(), version);
        let shard = open(dir.path()).await;
        assert_eq!((shard.edited(), shard.pin().files().len()), (None, 2));
        grow(&shard, 1).await;
        put_entry(dir.path(), &[add("new")]);
        shard.refresh().await.unwrap();
        let version = shard.checkpoint().await.unwrap();
        clean_up(dir.path(), version);
        assert_eq!(open(dir.path()).await.edited(), Some(4));
    });
}

#[test]
fn what_other_programs_say_of_their_files_adds_up_to_the_most_there_is() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(dir.path(), 1).await;
        let boast = |path: &str| {
            json!({"add": {
                "path": path, "partitionValues": {}, "size": i64::MAX, "modificationTime": 1,
                "dataChange": true, "stats": format!(r#"{{"numRecords":{}}}"#, u64::MAX),
            }})
        };
        put_entry(dir.path(), &["a", "b", "c"].map(boast));
        // Compaction leaves what no view can have looked at.
        grow(&shard, 2).await;
        let mut options = CompactOptions::default();
        (options.full, options.dry_run) = (true, true);
        let go_on = |_| ControlFlow::Continue(());
        let report = shard.compact(&options, &go_on).await.unwrap();
        assert_eq!((report.rows_in, report.bytes_in), (u64::MAX, u64::MAX));
        options.dry_run = false;
        let error = shard.compact(&options, &go_on).await.unwrap_err();
        assert!(!matches!(error, Error::Shutdown), "{error}");
        let read = shard
            .snapshot(2, ReadOptions::default())
            .unwrap()
            .next()
            .await;
        assert!(read.is_err());
    });
}

/// A process that was away while the log was cleaned up beyond an edit learns of it all the same.
#[test]
fn an_edit_that_a_follower_skips_is_answered() {
    for cleaned_up_to in [3, 4] {
        let dir = tempfile::tempdir().unwrap();
        run(async {
            let mut options = options(2);
            options.checkpoint_interval = 0;
            options.log_min_age = std::time::Duration::ZERO;
            let client = client(options);
            filled(dir.path(), 2).await;
            let url = dir.path().to_str().unwrap();
            let behind = client.open_existing(url).await.unwrap();
            put_entry(dir.path(), &[add("new")]);
            put_entry(dir.path(), &[json!({"commitInfo": {"operation": "OTHER"}})]);
            // Its own view of the log stays where it was.
            let other = open(dir.path()).await;
            assert_eq!(other.checkpoint().await.unwrap(), 4);
            clean_up(dir.path(), cleaned_up_to);
            behind.refresh().await.unwrap();
            assert_eq!(behind.progress().version, 4);
            assert_eq!(behind.edited(), Some(3));
            grow(&behind, 1).await;
            assert_eq!(behind.progress().since, Frontier::At(2));
        });
    }
}

/// Of an earlier version, whose checkpoints do not say whether edits were answered.
#[test]
fn an_edit_that_a_follower_knows_is_answered_though_it_skips_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let mut options = options(2);
        options.checkpoint_interval = 0;
        options.log_min_age = std::time::Duration::ZERO;
        drop(filled(dir.path(), 2).await);
        without_reviews(dir.path(), 2);
        let client = client(options);
        let url = dir.path().to_str().unwrap();
        let behind = client.open_existing(url).await.unwrap();
        put_entry(dir.path(), &[add("new")]);
        behind.refresh().await.unwrap();
        put_entry(dir.path(), &[json!({"commitInfo": {"operation": "OTHER"}})]);
        let other = open(dir.path()).await;
        assert_eq!(other.checkpoint().await.unwrap(), 4);
        clean_up(dir.path(), 4);
        behind.refresh().await.unwrap();
        assert_eq!(behind.progress().version, 4);
        assert_eq!(behind.edited(), Some(3));
        grow(&behind, 1).await;
        assert_eq!(behind.progress().since, Frontier::At(2));
    });
}
