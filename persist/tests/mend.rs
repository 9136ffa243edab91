//! What the log says wrongly of a file that is whole is named, and put right: its size, its rows, its statistics, its path.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use mvsink_persist::{
    DataFile, FileEncoder, FileMeta, Open, RepairOptions, RepairReport, RepairStep, Shard,
};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use support::damage::*;
use support::run;

async fn repair(dir: &Path) -> RepairReport {
    let options = RepairOptions::default();
    plain().repair(url(dir), &options, &|_| ()).await.unwrap()
}

/// A file of another program with two rows at time 2; returns its size.
fn put_theirs(dir: &Path, name: &str) -> i64 {
    let rows: [Row; 2] = [(100, Some("a".into())), (200, Some("b".into()))];
    let mut file = FileEncoder::new(codec().schema()).unwrap();
    let batch = codec().encode(rows.iter().map(|row| (row, 2, 1)));
    file.write(&batch.unwrap()).unwrap();
    let bytes = file.finish().unwrap().bytes;
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, &bytes).unwrap();
    bytes.len() as i64
}

fn theirs(path: &str, size: i64, stats: &Value) -> Value {
    json!({"add": {
        "path": path, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
        "stats": stats.to_string(),
    }})
}

/// The action of the entry that adds a file of ours.
fn added(dir: &Path, version: u64) -> Value {
    let text = fs::read_to_string(entry(dir, version)).unwrap();
    let line = text.lines().find(|line| line.starts_with("{\"add\""));
    serde_json::from_str(line.unwrap()).unwrap()
}

fn tags(dir: &Path, version: u64) -> Value {
    added(dir, version)["add"]["tags"].clone()
}

/// Appends a file with two rows at each of these times, in one batch.
async fn append_at(shard: &Shard, lower: i64, upper: i64) {
    let rows: Vec<Row> = (0..2).map(|key| (key, None)).collect();
    let mut file = FileEncoder::new(codec().schema()).unwrap();
    for time in lower..upper {
        let batch = codec().encode(rows.iter().map(|row| (row, time, 1)));
        file.write(&batch.unwrap()).unwrap();
    }
    let file = file.finish().unwrap();
    let meta = FileMeta::from(&file);
    let staged = shard.put_file(file.bytes, meta, &|_| ()).await.unwrap();
    let append = support::append(lower as u64, lower, upper, vec![staged]);
    shard.append(append, &|_| ()).await.unwrap();
}

fn live(shard: &Shard, name: &str) -> Option<DataFile> {
    let pinned = shard.pin();
    let mut files = pinned.files();
    files
        .find(|file| file.path == name)
        .map(|file| file.as_ref().clone())
}

/// Verification names these kinds, and repair puts it right without a loss: for good, and for an input too.
async fn mended(dir: &Path, what: &str, kinds: &[&str]) -> Shard {
    let found = verify(dir).await;
    let named: Vec<_> = named(&found).into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(named, kinds, "{what}: {found:?}");
    let before = open(dir).await.unwrap();
    let (progress, edited) = (before.progress(), before.unaccepted_edit());
    let files = before.pin().files().count();
    drop(before);
    let report = repair(dir).await;
    let [RepairStep::CorrectFiles { files: corrected }] = &report.steps[..] else {
        panic!("{what}: {report:?}");
    };
    assert_eq!((corrected.len(), report.rows_lost()), (1, 0), "{what}");
    assert!(report.left.is_empty(), "{what}: {report:?}");
    assert_eq!(report.committed, Some(progress.version + 1), "{what}");
    let found = verify(dir).await;
    assert!(found.is_clean(), "{what}: {found:?}");
    assert!(repair(dir).await.is_sound(), "{what}");
    let after = open(dir).await.unwrap();
    assert_eq!(after.progress().upper, progress.upper, "{what}");
    assert_eq!(
        after.unaccepted_edit(),
        edited,
        "{what}: it changes no data"
    );
    assert_eq!(after.pin().files().count(), files, "{what}");
    after
}

#[test]
fn a_wrong_size_of_a_whole_file_is_named_and_put_right() {
    for (what, wrong) in [
        ("none", (|_| 0) as fn(i64) -> i64),
        ("negative", |_| -1),
        ("the least", |_| i64::MIN),
        ("less", |size| size - 7),
        ("more", |size| size + 1),
        ("the greatest", |_| i64::MAX),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let input = Open::new(codec().schema()).as_input();
            let shard = plain().open_or_create(url(dir), input).await.unwrap();
            grow(&shard, 6).await;
            drop(shard);
            let size = put_theirs(dir, "theirs.parquet");
            let stats = json!({"numRecords": 2});
            put_entry(dir, 7, &[theirs("theirs.parquet", wrong(size), &stats)]);
            let shard = mended(dir, what, &["size"]).await;
            let file = live(&shard, "theirs.parquet").unwrap();
            assert_eq!((file.size, file.rows), (size as u64, Some(2)), "{what}");
            drop(shard);
            // One of ours, which another program has added again.
            let mut again = added(dir, 4);
            let path = again["add"]["path"].as_str().unwrap().to_owned();
            let size = again["add"]["size"].as_i64().unwrap();
            again["add"]["size"] = wrong(size).into();
            again["add"]["dataChange"] = false.into();
            put_entry(dir, 9, &[again]);
            let shard = mended(dir, what, &["size"]).await;
            let file = live(&shard, &path).unwrap();
            assert_eq!(file.size, size as u64, "{what}");
            // The sink's entry has the sums of these rows.
            let summed = file.summed().unwrap();
            assert_eq!(summed.times, Some((3, 3)), "{what}");
            assert_eq!(tags(dir, 10), tags(dir, 4), "{what}");
        });
    }
}

/// The sink's own entry tells that the rows are the ones that were written.
#[test]
fn wrong_tags_of_a_whole_file_of_a_sink_are_named_and_put_right() {
    type Edit = fn(&mut Value, &Value);
    let cases: [(&str, Edit, &[&str]); 5] = [
        (
            "the least time",
            |tags, _| tags["mvsink.min_time"] = "4".into(),
            &["tags"],
        ),
        (
            "the greatest time",
            |tags, _| tags["mvsink.max_time"] = "2".into(),
            &["tags"],
        ),
        (
            "sums",
            |tags, other| tags["mvsink.sums"] = other["mvsink.sums"].clone(),
            &["tags"],
        ),
        (
            "all of another file",
            |tags, other| {
                let own = tags["mvsink.file"].take();
                *tags = other.clone();
                tags["mvsink.file"] = own;
            },
            &["tags"],
        ),
        (
            "all, and the size",
            |tags, other| {
                let own = tags["mvsink.file"].as_str().unwrap().to_owned();
                *tags = other.clone();
                tags["mvsink.file"] = (own + "1").into();
            },
            &["size", "tags"],
        ),
    ];
    for (what, edit, kinds) in cases {
        for checkpoint in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            run(async {
                let input = Open::new(codec().schema()).as_input();
                let shard = plain().open_or_create(url(dir), input).await.unwrap();
                grow(&shard, 6).await;
                drop(shard);
                let mut again = added(dir, 4);
                edit(&mut again["add"]["tags"], &tags(dir, 2));
                if kinds.contains(&"size") {
                    let size = again["add"]["size"].to_string() + "1";
                    again["add"]["size"] = serde_json::from_str(&size).unwrap();
                }
                again["add"]["dataChange"] = false.into();
                put_entry(dir, 7, &[again]);
                if checkpoint {
                    open(dir).await.unwrap().checkpoint().await.unwrap();
                }
                mended(dir, what, kinds).await;
                assert_eq!(tags(dir, 8), tags(dir, 4), "{what}");
            });
        }
    }
}

#[test]
fn a_wrong_time_in_the_entry_of_a_sink_is_put_right_within_its_batch_alone() {
    for (replaced, min) in [
        (None, "3"),
        (None, "4"),
        (Some((5, 9)), "2"),
        (Some((1, 4)), "2"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let shard = filled(dir, 2).await;
            append_at(&shard, 2, 5).await;
            drop(shard);
            let text = fs::read_to_string(entry(dir, 3)).unwrap();
            let edited = text.replace(
                "\"mvsink.min_time\":\"2\"",
                &format!("\"mvsink.min_time\":\"{min}\""),
            );
            fs::write(entry(dir, 3), edited).unwrap();
            if let Some((lower, upper)) = replaced {
                // The same rows, at other times.
                let other = tempfile::tempdir().unwrap();
                let other = other.path();
                let shard = filled(other, lower).await;
                append_at(&shard, lower, upper).await;
                let path = |dir: &Path, version| {
                    let add = added(dir, version);
                    dir.join(add["add"]["path"].as_str().unwrap())
                };
                fs::copy(path(other, lower as u64 + 1), path(dir, 3)).unwrap();
                let report = repair(dir).await;
                let [RepairStep::DropFiles { files }] = &report.steps[..] else {
                    panic!("{report:?}");
                };
                assert_eq!(files.len(), 1);
                return;
            }
            mended(dir, min, &["tags"]).await;
            let found = tags(dir, 4);
            assert_eq!(found["mvsink.min_time"], "2");
            assert_eq!(found["mvsink.sums"], tags(dir, 3)["mvsink.sums"]);
        });
    }
}

/// They are believed until then.
#[test]
fn tags_of_ours_on_a_file_of_another_program_are_named_and_put_right() {
    for answered in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(filled(dir, 6).await);
            let size = put_theirs(dir, "theirs.parquet");
            let mut forged = theirs("theirs.parquet", size, &json!({"numRecords": 2}));
            forged["add"]["tags"] = tags(dir, 2);
            forged["add"]["tags"]["mvsink.file"] = format!("theirs.parquet:{size}").into();
            put_entry(dir, 7, &[forged]);
            if answered {
                grow(&open(dir).await.unwrap(), 9).await;
            }
            let shard = mended(dir, "forged", &["order", "tags"]).await;
            let file = live(&shard, "theirs.parquet").unwrap();
            assert_eq!(file.rows, Some(2));
            // What no sink has looked at has none.
            let times = file.summed().map(|summed| summed.times);
            assert_eq!(times, answered.then_some(Some((2, 2))));
            assert!(shard.has_live_file("theirs.parquet"));
        });
    }
}

#[test]
fn wrong_statistics_of_other_programs_are_named_and_put_right() {
    let cases: [(&str, Value, &[&str]); 8] = [
        ("rows", json!({"numRecords": 77}), &["rows"]),
        ("no rows", json!({"numRecords": 0}), &["rows"]),
        (
            "times",
            json!({"numRecords": 2, "minValues": {"mv_time": 3}, "maxValues": {"mv_time": 3}}),
            &["times"],
        ),
        (
            "the least time alone",
            json!({"numRecords": 2, "minValues": {"mv_time": 3}}),
            &["statistics"],
        ),
        (
            "a number",
            json!({"numRecords": 2, "minValues": {"c0": 101}, "maxValues": {"c0": 200}}),
            &["statistics"],
        ),
        (
            "a text",
            json!({"numRecords": 2, "minValues": {"c1": "a"}, "maxValues": {"c1": "aa"}}),
            &["statistics"],
        ),
        (
            "nulls",
            json!({"numRecords": 2, "nullCount": {"c0": 0, "c1": 2}}),
            &["statistics"],
        ),
        (
            "all of it",
            json!({"numRecords": 3, "minValues": {"mv_time": 9, "c0": 500}, "maxValues": {"mv_time": 9, "c0": 500}}),
            &["rows", "times", "statistics"],
        ),
    ];
    for (what, stats, kinds) in cases {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(filled(dir, 6).await);
            let size = put_theirs(dir, "theirs.parquet");
            put_entry(dir, 7, &[theirs("theirs.parquet", size, &stats)]);
            let shard = mended(dir, what, kinds).await;
            let file = live(&shard, "theirs.parquet").unwrap();
            assert_eq!(file.rows, Some(2), "{what}");
            // A checkpoint says the same.
            let version = shard.checkpoint().await.unwrap();
            remove_entries(dir, 0..=version);
            assert!(verify(dir).await.is_clean(), "{what}");
        });
    }
}

#[test]
fn right_statistics_of_other_programs_are_left_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(dir, 6).await);
        let size = put_theirs(dir, "theirs.parquet");
        // Bounds may be wide, and long texts are cut short.
        let stats = json!({
            "numRecords": 2, "nullCount": {"c0": 0, "c1": 0, "mv_error": 2, "nothing": 1},
            "minValues": {"c0": 99.5, "c1": "a", "mv_time": 2, "nothing": 1},
            "maxValues": {"c0": 200, "c1": "b\u{10ffff}", "mv_time": 7, "mv_error": null},
        });
        put_entry(dir, 7, &[theirs("theirs.parquet", size, &stats)]);
        assert!(verify(dir).await.is_clean());
        let before = contents(dir);
        assert!(repair(dir).await.is_sound());
        assert!(contents(dir) == before);
    });
}

#[test]
fn a_wrong_count_of_a_file_of_ours_is_put_right_and_a_wrong_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(dir, 6).await);
        let mut again = added(dir, 4);
        again["add"]["stats"] = json!({"numRecords": 5}).to_string().into();
        again["add"]["dataChange"] = false.into();
        put_entry(dir, 7, &[again]);
        mended(dir, "rows", &["rows"]).await;
        // Another size and another number of rows: it is another file.
        let size = put_theirs(dir, "theirs.parquet");
        let stats = json!({"numRecords": 5});
        put_entry(dir, 9, &[theirs("theirs.parquet", size + 9, &stats)]);
        let report = repair(dir).await;
        assert!(
            matches!(report.steps[..], [RepairStep::DropFiles { .. }]),
            "{report:?}"
        );
    });
}

#[test]
fn paths_that_others_cannot_follow_are_named_and_put_right() {
    for (spelled, plain) in [
        ("./theirs.parquet", "theirs.parquet"),
        ("k/../theirs.parquet", "theirs.parquet"),
        ("k//theirs.parquet", "k/theirs.parquet"),
        ("k/./a%20b.parquet", "k/a%20b.parquet"),
        ("%2E/theirs.parquet", "theirs.parquet"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(filled(dir, 6).await);
            let size = put_theirs(dir, &plain.replace("%20", " "));
            let stats = json!({"numRecords": 2});
            put_entry(dir, 7, &[theirs(spelled, size, &stats)]);
            let shard = mended(dir, spelled, &["path"]).await;
            assert!(live(&shard, plain).is_some(), "{spelled}");
            let entry = shard.entry(8).await.unwrap();
            assert!(
                !entry.foreign && entry.adds.is_empty(),
                "{spelled}: {entry:?}"
            );
            let text = fs::read_to_string(support::damage::entry(dir, 8)).unwrap();
            let removed = json!({"path": spelled}).to_string();
            assert!(text.contains(&removed[1..removed.len() - 1]), "{text}");
        });
    }
}

#[test]
fn a_file_in_which_a_column_stands_twice_is_named_and_its_reference_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(dir, 6).await);
        let int = |name: &str| Field::new(name, DataType::Int64, true);
        let schema = Arc::new(Schema::new(vec![
            int("c0"),
            Field::new("c1", DataType::Utf8, true),
            int("c0"),
            int("mv_time"),
            int("mv_diff"),
        ]));
        let ints = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        let text = Arc::new(StringArray::from(vec!["a"])) as ArrayRef;
        let columns = vec![ints(1), text, ints(2), ints(2), ints(1)];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let file = fs::File::create(dir.join("theirs.parquet")).unwrap();
        let mut writer = ArrowWriter::try_new(file, schema, None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let size = fs::metadata(dir.join("theirs.parquet")).unwrap().len();
        put_entry(dir, 7, &[theirs("theirs.parquet", size as i64, &json!({}))]);
        let found = verify(dir).await;
        assert_eq!(named(&found), [("theirs.parquet".to_owned(), "unreadable")]);
        let why = found.findings[0].to_string();
        assert!(why.contains("two columns c0"), "{why}");
        let report = repair(dir).await;
        assert!(
            matches!(report.steps[..], [RepairStep::DropFiles { .. }]),
            "{report:?}"
        );
        assert!(verify(dir).await.is_clean());
    });
}

/// What is mended is what is there then.
#[test]
fn a_file_that_was_given_up_meanwhile_is_not_brought_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(dir, 6).await);
        let size = put_theirs(dir, "theirs.parquet");
        let stats = json!({"numRecords": 5});
        put_entry(dir, 7, &[theirs("theirs.parquet", size, &stats)]);
        let shard = open(dir).await.unwrap();
        let removed = || {
            if !entry(dir, 8).exists() {
                let remove = json!({"remove": {
                    "path": "theirs.parquet", "deletionTimestamp": 1, "dataChange": true,
                }});
                put_entry(dir, 8, &[remove]);
            }
        };
        // Once the files have been read.
        let options = RepairOptions::default();
        let progress = |progress: mvsink_persist::VerifyProgress| {
            if progress.done == progress.files {
                removed();
            }
        };
        let report = plain().repair(url(dir), &options, &progress).await.unwrap();
        assert!(report.committed.is_none(), "{report:?}");
        shard.refresh().await.unwrap();
        assert!(live(&shard, "theirs.parquet").is_none());
        assert!(verify(dir).await.is_clean());
    });
}
