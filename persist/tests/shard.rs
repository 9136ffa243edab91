//! One shard on a local directory: opening, following, checkpoints, and everything that must be refused.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use mvsink_persist::{
    Appended, Client, Error, FileEncoder, FileMeta, Frontier, Open, Shard, StagedFile,
};
use support::{append, client, damage, options, run, schema};

fn quiet(_: &Error) {}

fn log_entry(dir: &Path, version: u64) -> PathBuf {
    dir.join(format!("_delta_log/{version:020}.json"))
}

fn plain() -> Client {
    let mut options = options(1);
    options.checkpoint_interval = 0;
    client(options)
}

async fn stage(shard: &Shard, time: i64) -> StagedFile {
    let meta = FileMeta {
        rows: 2,
        times: Some((time, time)),
        tags: BTreeMap::from([("mvsink.test".into(), time.to_string())]),
        ..FileMeta::default()
    };
    shard
        .put_file(Bytes::from_static(b"rows"), meta, &quiet)
        .await
        .unwrap()
}

/// A shard with one file at each time below `upper`.
async fn filled(client: &Client, dir: &Path, upper: i64) -> Shard {
    let shard = client
        .open_or_create(dir.to_str().unwrap(), Open::new(schema()))
        .await
        .unwrap();
    for time in 0..upper {
        let file = stage(&shard, time).await;
        let append = append(u64::try_from(time).unwrap(), time, time + 1, vec![file]);
        let appended = shard.append(append, &quiet).await.unwrap();
        assert!(matches!(appended, Appended::Committed { .. }));
    }
    shard
}

async fn open(dir: &Path) -> Result<Shard, Error> {
    plain().open_existing(dir.to_str().unwrap()).await
}

/// The names and contents of everything below `dir`.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

fn put_entry(dir: &Path, version: u64, actions: &[&str]) {
    fs::write(log_entry(dir, version), actions.join("\n") + "\n").unwrap();
}

#[test]
fn what_is_committed_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(&plain(), dir.path(), 5).await;
        let again = open(dir.path()).await.unwrap();
        assert_eq!(again.progress(), shard.progress());
        assert_eq!(again.progress().upper, Frontier::At(5));
        let files = |shard: &Shard| shard.pin().files().cloned().collect::<Vec<_>>();
        assert_eq!(files(&again), files(&shard));
        for file in files(&again) {
            assert_eq!(again.read_file(&file.path).await.unwrap().as_ref(), b"rows");
            assert_eq!(file.rows, Some(2));
            assert_eq!(file.tags["mvsink.test"], file.min_time.unwrap().to_string());
        }
        assert_eq!(again.schema().fields().len(), 4);
        assert_eq!(again.properties()["mvsink.format"], "1");
    });
}

#[test]
fn a_missing_shard_is_an_error_and_nothing_is_created() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let missing = dir.path().join("a/b");
        assert!(matches!(open(&missing).await, Err(Error::NoShard { .. })));
        assert!(matches!(open(dir.path()).await, Err(Error::NoShard { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let below = file.join("shard");
        let refused = plain()
            .open_or_create(below.to_str().unwrap(), Open::new(schema()))
            .await;
        assert!(refused.is_err_and(|error| !error.is_transient()));
    });
}

#[test]
fn a_missing_data_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(&plain(), dir.path(), 1).await;
        let path = shard.pin().files().next().unwrap().path.clone();
        fs::remove_file(dir.path().join(&path)).unwrap();
        let error = shard.read_file(&path).await.unwrap_err();
        assert!(matches!(&error, Error::MissingFile { path: named } if named.ends_with(&path)));
    });
}

#[test]
fn one_client_has_one_shard_in_memory_for_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let client = plain();
        let shard = filled(&client, dir.path(), 0).await;
        let url = url::Url::from_directory_path(dir.path()).unwrap();
        let same = client.open_existing(url.as_str()).await.unwrap();
        shard
            .append(append(1, 0, 3, Vec::new()), &quiet)
            .await
            .unwrap();
        assert_eq!(same.progress().upper, Frontier::At(3));
        drop((shard, same));
        let other = filled(&plain(), dir.path(), 0).await;
        other
            .append(append(2, 3, 4, Vec::new()), &quiet)
            .await
            .unwrap();
        let again = client
            .open_existing(dir.path().to_str().unwrap())
            .await
            .unwrap();
        assert_eq!(again.progress().upper, Frontier::At(4));
    });
}

#[test]
fn rival_creators_make_one_shard() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let dir = dir.path();
        let creations = (0..8).map(|seed| async move {
            let client = client(options(seed));
            let shard = filled(&client, dir, 0).await;
            shard.refresh().await.unwrap().version
        });
        let versions: HashSet<_> = futures::future::join_all(creations)
            .await
            .into_iter()
            .collect();
        assert_eq!(versions, HashSet::from([0]));
    });
}

#[test]
fn another_schema_or_property_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let client = plain();
        let url = dir.path().to_str().unwrap();
        let mut right = Open::new(schema());
        right.properties.insert("generator.seed".into(), "7".into());
        drop(client.open_or_create(url, right.clone()).await.unwrap());
        let before = contents(dir.path());

        let columns = |kind| Arc::new(Schema::new(vec![Field::new("value", kind, true)]));
        for wrong in [columns(DataType::Utf8), columns(DataType::Int64)] {
            let error = client
                .open_or_create(url, Open::new(wrong))
                .await
                .unwrap_err();
            assert!(matches!(error, Error::SchemaMismatch { .. }), "{error}");
        }
        let mut wrong = right.clone();
        wrong.properties.insert("generator.seed".into(), "8".into());
        let error = client.open_or_create(url, wrong).await.unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("was created with generator.seed = 7, not 8"),
            "{error}"
        );
        let mut wrong = right.clone();
        wrong.properties.insert("more".into(), "8".into());
        let error = client.open_or_create(url, wrong).await.unwrap_err();
        assert!(
            error.to_string().ends_with("with more = (nothing), not 8"),
            "{error}"
        );

        let shard = client.open_or_create(url, right).await.unwrap();
        assert_eq!(shard.properties()["generator.seed"], "7");
        assert_eq!(contents(dir.path()), before);
    });
}

#[test]
fn what_is_not_understood_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        drop(filled(&plain(), dir.path(), 1).await);
        let first = fs::read_to_string(log_entry(dir.path(), 0)).unwrap();
        for (from, to) in [
            (r#""mvsink.format":"1""#, r#""mvsink.format":"2""#),
            (r#""mvsink.format":"1""#, r#""mvsink.format":"x""#),
            (r#""mvsink.format":"1""#, r#""other":"1""#),
            (r#""minReaderVersion":1"#, r#""minReaderVersion":4"#),
            (r#""minWriterVersion":2"#, r#""minWriterVersion":4"#),
            (
                r#""minReaderVersion":1"#,
                r#""readerFeatures":["deletionVectors"],"minReaderVersion":3"#,
            ),
            (
                r#""minWriterVersion":2"#,
                r#""writerFeatures":["rowTracking"],"minWriterVersion":7"#,
            ),
            (
                r#""mvsink.format":"1""#,
                r#""mvsink.format":"1","delta.columnMapping.mode":"name""#,
            ),
            (
                r#""mvsink.format":"1""#,
                r#""mvsink.format":"1","delta.setTransactionRetentionDuration":"1 day""#,
            ),
            (
                r#""partitionColumns":[]"#,
                r#""partitionColumns":["value"]"#,
            ),
            (r#"\"type\":\"long\""#, r#"\"type\":\"variant\""#),
            (
                r#"\"metadata\":{}"#,
                r#"\"metadata\":{\"delta.invariants\":\"x > 0\"}"#,
            ),
        ] {
            let changed = first.replacen(from, to, 1);
            assert_ne!(changed, first, "{from}");
            fs::write(log_entry(dir.path(), 0), changed).unwrap();
            let before = contents(dir.path());
            let url = dir.path().to_str().unwrap();
            let error = plain()
                .open_or_create(url, Open::new(schema()))
                .await
                .unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{to}: {error}");
            assert_eq!(contents(dir.path()), before);
        }
    });
}

#[test]
fn a_damaged_log_entry_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(&plain(), dir.path(), 3).await;
        let client = plain();
        let behind = filled(&client, dir.path(), 0).await;
        let next = append(9, 3, 4, Vec::new());
        shard.append(next, &quiet).await.unwrap();
        let whole = fs::read(log_entry(dir.path(), 4)).unwrap();
        let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap();
        for damaged in [
            &whole[..whole.len() / 2],
            &whole[..=first_line],
            b"garbage",
            b"",
        ] {
            fs::write(log_entry(dir.path(), 4), damaged).unwrap();
            let before = contents(dir.path());
            let named = |error: Error| {
                assert!(!error.is_transient());
                assert!(
                    error
                        .to_string()
                        .contains("00000000000000000004.json is damaged"),
                    "{error}"
                );
            };
            named(open(dir.path()).await.unwrap_err());
            named(behind.refresh().await.unwrap_err());
            named(
                behind
                    .append(append(10, 3, 4, Vec::new()), &quiet)
                    .await
                    .unwrap_err(),
            );
            named(behind.watch().changed().await.unwrap_err());
            assert_eq!(behind.progress().version, 3);
            assert_eq!(contents(dir.path()), before);
        }
        fs::write(log_entry(dir.path(), 4), whole).unwrap();
        // A new watcher starts again.
        assert_eq!(
            behind.watch().changed().await.unwrap().upper,
            Frontier::At(4)
        );
    });
}

#[test]
fn a_follower_sees_the_commits_of_other_processes() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let writer = filled(&plain(), dir.path(), 0).await;
        let reader = open(dir.path()).await.unwrap();
        let mut watcher = reader.watch();
        for time in 0..20 {
            let entry = reader.entry(u64::try_from(time).unwrap() + 1);
            let write = async {
                let file = stage(&writer, time).await;
                let append = append(u64::try_from(time).unwrap(), time, time + 1, vec![file]);
                writer.append(append, &quiet).await.unwrap()
            };
            let (entry, appended) = futures::join!(entry, write);
            let entry = entry.unwrap();
            assert_eq!(
                appended,
                Appended::Committed {
                    version: entry.version
                }
            );
            assert_eq!(
                (entry.lower, entry.upper),
                (Frontier::At(time), Frontier::At(time + 1))
            );
            assert_eq!(entry.adds[0].min_time, Some(time));
        }
        let mut last = watcher.progress();
        while last.upper < Frontier::At(20) {
            let next = watcher.changed().await.unwrap();
            assert!(next.version > last.version);
            last = next;
        }
    });
}

#[test]
fn watchers_of_one_process_see_its_commits_without_reading() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(&plain(), dir.path(), 0).await;
        let mut watcher = shard.watch();
        shard
            .append(append(1, 0, 3, Vec::new()), &quiet)
            .await
            .unwrap();
        let seen = futures::FutureExt::now_or_never(watcher.changed());
        assert_eq!(seen.unwrap().unwrap().upper, Frontier::At(3));
    });
}

#[test]
fn entries_that_left_memory_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let mut options = options(1);
        options.recent_entries = 2;
        let shard = filled(&client(options), dir.path(), 6).await;
        put_entry(
            dir.path(),
            7,
            &[r#"{"commitInfo":{"operation":"SET TBLPROPERTIES"}}"#],
        );
        shard.refresh().await.unwrap();
        shard
            .append(append(50, 6, 8, Vec::new()), &quiet)
            .await
            .unwrap();
        shard
            .append(append(51, 8, 9, Vec::new()), &quiet)
            .await
            .unwrap();
        shard
            .append(append(52, 9, 10, Vec::new()), &quiet)
            .await
            .unwrap();
        for version in 1..=6 {
            let entry = shard.entry(version).await.unwrap();
            let time = i64::try_from(version).unwrap() - 1;
            assert_eq!(
                (entry.lower, entry.upper),
                (Frontier::At(time), Frontier::At(time + 1))
            );
            assert_eq!(entry.adds[0].max_time, Some(time));
        }
        let none = shard.entry(7).await.unwrap();
        assert_eq!(
            (none.lower, none.upper, none.id),
            (Frontier::At(6), Frontier::At(6), None)
        );
        let first = shard.entry(0).await.unwrap();
        assert_eq!(
            (first.lower, first.upper),
            (Frontier::At(0), Frontier::At(0))
        );
    });
}

#[test]
fn r23_the_upper_survives_checkpoints_and_log_clean_up() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(&plain(), dir.path(), 12).await;
        assert_eq!(shard.checkpoint().await.unwrap(), 12);
        let (pinned, progress) = (shard.pin(), shard.progress());
        let log = dir.path().join("_delta_log");
        let same = |shard: Shard| {
            assert_eq!(shard.progress(), progress);
            assert!(shard.pin().files().eq(pinned.files()));
        };
        // Everything before the checkpoint, and the entry itself, may be cleaned up.
        for version in 0..=12 {
            fs::remove_file(log_entry(dir.path(), version)).unwrap();
            same(open(dir.path()).await.unwrap());
        }
        // A damaged or missing pointer costs a listing.
        fs::write(log.join("_last_checkpoint"), "{garbage").unwrap();
        same(open(dir.path()).await.unwrap());
        fs::write(log.join("_last_checkpoint"), r#"{"version":11,"size":3}"#).unwrap();
        same(open(dir.path()).await.unwrap());
        fs::remove_file(log.join("_last_checkpoint")).unwrap();
        same(open(dir.path()).await.unwrap());
        // It goes on from there, and nothing is applied twice.
        let again = open(dir.path()).await.unwrap();
        let lost = again
            .append(append(3, 3, 4, Vec::new()), &quiet)
            .await
            .unwrap();
        assert_eq!(
            lost,
            Appended::Lost {
                upper: Frontier::At(12)
            }
        );
        let appended = again
            .append(append(99, 12, 13, Vec::new()), &quiet)
            .await
            .unwrap();
        assert_eq!(appended, Appended::Committed { version: 13 });
        // Damage is an error when nothing else is left, and the shard is not created anew.
        let checkpoint = log.join("00000000000000000012.checkpoint.parquet");
        let bytes = fs::read(&checkpoint).unwrap();
        fs::write(&checkpoint, &bytes[..bytes.len() / 2]).unwrap();
        let url = dir.path().to_str().unwrap();
        let error = plain()
            .open_or_create(url, Open::new(schema()))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        fs::remove_file(&checkpoint).unwrap();
        let hint = r#"{"version":12,"size":3,"parts":2}"#;
        for hint in [None, Some(hint)] {
            if let Some(hint) = hint {
                fs::write(log.join("_last_checkpoint"), hint).unwrap();
            }
            let error = plain()
                .open_or_create(url, Open::new(schema()))
                .await
                .unwrap_err();
            let gap = |error: &Error| match error {
                Error::LogGap {
                    first, last, next, ..
                } => Some((*first, *last, *next)),
                _ => None,
            };
            assert_eq!(gap(&error), Some((0, 12, 13)), "{error}");
        }
    });
}

#[test]
fn commits_write_checkpoints_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let mut options = options(1);
        options.checkpoint_interval = 4;
        let shard = filled(&client(options), dir.path(), 9).await;
        let last = dir.path().join("_delta_log/_last_checkpoint");
        while !last.exists() {
            tokio::task::yield_now().await;
        }
        assert_eq!(open(dir.path()).await.unwrap().progress(), shard.progress());
    });
}

#[test]
fn r24_an_optimize_changes_nothing_and_other_edits_are_marked() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = damage::filled(dir.path(), 2).await;
        let paths: Vec<_> = shard.pin().files().map(|file| file.path.clone()).collect();
        let rows: Vec<damage::Row> = (0..2)
            .map(|time| (time, Some(format!("row {time}"))))
            .collect();
        let mut merged = FileEncoder::new(damage::codec().schema()).unwrap();
        let updates = rows.iter().zip(0..).map(|(row, time)| (row, time, 1));
        merged
            .write(&damage::codec().encode(updates).unwrap())
            .unwrap();
        let merged = merged.finish().unwrap().bytes;
        let size = merged.len();
        let remove = |path: &str, change: bool| {
            format!(
                r#"{{"remove":{{"path":"{path}","deletionTimestamp":1,"dataChange":{change}}}}}"#
            )
        };
        let add = |path: &str, change: bool| {
            format!(
                r#"{{"add":{{"path":"{path}","partitionValues":{{"p":null}},"size":{size},"modificationTime":1,"dataChange":{change}}}}}"#
            )
        };
        let optimize = [
            remove(&paths[0], false),
            remove(&paths[1], false),
            add("a%20b.parquet", false),
        ];
        put_entry(dir.path(), 3, &optimize.each_ref().map(String::as_str));
        fs::write(dir.path().join("a b.parquet"), &merged).unwrap();
        shard.refresh().await.unwrap();
        let entry = shard.entry(3).await.unwrap();
        assert!(!entry.foreign && entry.adds.is_empty());
        let live: Vec<_> = shard.pin().files().map(|file| file.path.clone()).collect();
        assert_eq!(live, ["a%20b.parquet"]);
        assert_eq!(shard.read_file(&live[0]).await.unwrap(), merged);

        put_entry(dir.path(), 4, &[&add("c.parquet", true)]);
        put_entry(dir.path(), 5, &[&remove("c.parquet", true)]);
        shard.refresh().await.unwrap();
        for version in [4, 5] {
            let entry = shard.entry(version).await.unwrap();
            assert!(entry.foreign);
            assert_eq!(
                (entry.lower, entry.upper),
                (Frontier::At(2), Frontier::At(2))
            );
        }
        // The upper stands, so our commits go on.
        let appended = shard
            .append(append(60, 2, 3, Vec::new()), &quiet)
            .await
            .unwrap();
        assert_eq!(appended, Appended::Committed { version: 6 });
        // What was there before is as it was edited: it is not readable any more.
        assert_eq!(shard.progress().since, Frontier::At(2));
        let again = open(dir.path()).await.unwrap();
        again.checkpoint().await.unwrap();
        assert_eq!(open(dir.path()).await.unwrap().progress(), shard.progress());

        let vector = add("d.parquet", true).replace(
            r#""size""#,
            r#""deletionVector":{"storageType":"u","pathOrInlineDv":"x","sizeInBytes":1,"cardinality":1},"size""#,
        );
        put_entry(dir.path(), 7, &[&vector]);
        assert!(matches!(
            shard.refresh().await,
            Err(Error::Unsupported { .. })
        ));
    });
}

#[test]
fn commits_that_break_the_history_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(&plain(), dir.path(), 3).await;
        let fourth = |actions: &[&str]| {
            put_entry(dir.path(), 4, actions);
            async {
                let error = shard.refresh().await.unwrap_err();
                assert_eq!(shard.progress().version, 3);
                error
            }
        };
        let error = fourth(&[r#"{"txn":{"appId":"mvsink.upper","version":2}}"#]).await;
        assert!(
            error
                .to_string()
                .contains("moves mvsink.upper back from 3 to 2"),
            "{error}"
        );
        let error = fourth(&[r#"{"txn":{"appId":"mvsink.since","version":-2}}"#]).await;
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        let ours = format!(
            r#"{{"commitInfo":{{"mvsink.id":"{}","mvsink.lower":2,"mvsink.upper":4}}}}"#,
            support::id(8)
        );
        let error = fourth(&[&ours]).await;
        assert!(
            error
                .to_string()
                .contains("starts at 2 where the shard's upper is 3"),
            "{error}"
        );
        let first = fs::read_to_string(log_entry(dir.path(), 0)).unwrap();
        let metadata = first
            .lines()
            .find(|line| line.contains("metaData"))
            .unwrap();
        let error = fourth(&[&metadata.replace("long", "string")]).await;
        assert!(matches!(error, Error::SchemaMismatch { .. }), "{error}");
        // Another program may add a column, at the end.
        let more = r#"{\"name\":\"more\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}"#;
        let first = r#"\"fields\":["#;
        let inserted = metadata.replace(first, &format!("{first}{more},"));
        assert_ne!(inserted, metadata);
        let error = fourth(&[&inserted]).await;
        assert!(error.to_string().contains("column more"), "{error}");
        let last = r#"}],\"type\":\"struct\""#;
        let added = metadata.replace(last, &last.replace(']', &format!(",{more}]")));
        assert_ne!(added, metadata);
        let required = more.replace("true", "false");
        let error = fourth(&[&added.replace(more, &required)]).await;
        assert!(matches!(error, Error::SchemaMismatch { .. }), "{error}");
        put_entry(dir.path(), 4, &[&added]);
        assert_eq!(shard.refresh().await.unwrap().version, 4);
        assert_eq!(shard.schema().fields().len(), 5);
        let next = append(9, 3, 4, Vec::new());
        let version = 5;
        let appended = shard.append(next, &quiet).await.unwrap();
        assert_eq!(appended, Appended::Committed { version });
        let url = dir.path().to_str().unwrap();
        let client = plain();
        let again = client.open_or_create(url, Open::new(schema())).await;
        assert_eq!(again.unwrap().progress(), shard.progress());
        // Another program may set a property that changes nothing here.
        put_entry(
            dir.path(),
            6,
            &[&added.replace(r#""mvsink.format""#, r#""x":"y","mvsink.format""#)],
        );
        shard.refresh().await.unwrap();
        assert_eq!(shard.properties()["x"], "y");
        // What the shard is now counts, not what it was created as.
        let mut open = Open::new(schema());
        open.properties.insert("x".into(), "y".into());
        assert!(plain().open_or_create(url, open.clone()).await.is_ok());
        open.properties.insert("x".into(), "z".into());
        let error = plain().open_or_create(url, open).await.unwrap_err();
        assert!(matches!(error, Error::PropertyMismatch { .. }), "{error}");
    });
}

#[test]
fn r11_staged_files_can_be_deleted_and_committed_ones_cannot() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(&plain(), dir.path(), 0).await;
        let (kept, dropped) = (stage(&shard, 0).await, stage(&shard, 0).await);
        shard
            .append(append(1, 0, 1, vec![kept.clone()]), &quiet)
            .await
            .unwrap();
        let both = [kept.clone(), dropped.clone()];
        shard.delete_files(&both).await.unwrap();
        shard.delete_files(&both).await.unwrap();
        assert!(dir.path().join(&kept.path).exists());
        assert!(!dir.path().join(&dropped.path).exists());
    });
}

#[test]
fn a_durable_store_works_the_same() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let mut durable = options(1);
        durable.fsync = true;
        let below = dir.path().join("not/there/yet");
        filled(&client(durable), &below, 3).await;
        assert_eq!(
            open(&below).await.unwrap().progress().upper,
            Frontier::At(3)
        );
    });
}

#[test]
fn an_idle_follower_ends_with_the_last_handle() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = filled(&plain(), dir.path(), 0).await;
        let watcher = shard.watch();
        let metrics = tokio::runtime::Handle::current().metrics();
        assert_eq!(metrics.num_alive_tasks(), 1);
        drop(shard);
        assert_eq!(metrics.num_alive_tasks(), 1);
        drop(watcher);
        while metrics.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    });
}
