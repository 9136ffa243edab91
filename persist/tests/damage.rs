//! Verification names every kind of damage, all of it, whether or not the table can be opened; and what is odd and no
//! damage it only notes.

mod support;

use std::fs;
use std::path::Path;

use mvsink_persist::{Error, FileEncoder, Note};
use serde_json::{Value, json};
use support::damage::*;
use support::run;

/// The table has entries up to 12, and a checkpoint of version 6.
const UPPER: i64 = 12;

async fn table(dir: &Path) -> mvsink_persist::Shard {
    let shard = filled(dir, 6).await;
    assert_eq!(shard.checkpoint().await.unwrap(), 6);
    grow(&shard, UPPER).await;
    shard
}

fn put_entry(dir: &Path, version: u64, actions: &[Value]) {
    let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
    fs::write(entry(dir, version), lines.join("\n") + "\n").unwrap();
}

fn add(path: &str, size: usize) -> Value {
    json!({"add": {
        "path": path, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
    }})
}

type Edit = fn(&Path);
/// What is wrong, how it comes about, and what is named.
type Case = (&'static str, Edit, &'static [(&'static str, &'static str)]);

fn copy_file(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
}

#[test]
fn every_kind_of_damage_to_a_log_is_named() {
    let whole = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    run(async {
        drop(table(whole.path()).await);
        drop(table(other.path()).await);
    });
    let cases: [Case; 15] = [
        ("sound", |_| (), &[]),
        (
            "an entry in the middle is missing",
            |dir| remove_entries(dir, [9]),
            &[("10.json", "entries missing")],
        ),
        (
            "several are",
            |dir| remove_entries(dir, [7, 8, 11]),
            &[
                ("9.json", "entries missing"),
                ("12.json", "entries missing"),
            ],
        ),
        (
            "the first are, without a checkpoint",
            |dir| {
                remove_entries(dir, 0..=3);
                fs::remove_file(checkpoint(dir, 6)).unwrap();
            },
            &[("4.json", "entries missing")],
        ),
        (
            "all but the pointer are",
            |dir| {
                remove_entries(dir, 0..=12);
                fs::remove_file(checkpoint(dir, 6)).unwrap();
            },
            &[("_delta_log", "entries missing")],
        ),
        (
            "the last entry is cut short",
            |dir| cut(&entry(dir, 12)),
            &[("12.json", "unreadable")],
        ),
        (
            "an entry is empty, another no JSON",
            |dir| {
                fs::write(entry(dir, 8), "").unwrap();
                fs::write(entry(dir, 10), "none").unwrap();
            },
            &[("8.json", "unreadable"), ("10.json", "unreadable")],
        ),
        (
            "an entry is put again in a later place",
            |dir| copy_file(&entry(dir, 9), &entry(dir, 13)),
            &[("13.json", "unreadable")],
        ),
        (
            "a checkpoint is cut short, and the entries are there",
            |dir| cut(&checkpoint(dir, 6)),
            &[("6.checkpoint.parquet", "unreadable")],
        ),
        (
            "a checkpoint is cut short, and they are not",
            |dir| {
                cut(&checkpoint(dir, 6));
                remove_entries(dir, 0..=6);
            },
            &[
                ("6.checkpoint.parquet", "unreadable"),
                ("7.json", "entries missing"),
            ],
        ),
        (
            "a checkpoint is of a version that is lost",
            |dir| {
                cut(&checkpoint(dir, 6));
                remove_entries(dir, 5..=12);
            },
            &[("6.checkpoint.parquet", "unreadable")],
        ),
        (
            "a feature is on",
            |dir| {
                let features = json!({"protocol": {
                    "minReaderVersion": 3, "minWriterVersion": 7,
                    "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"],
                }});
                put_entry(dir, 13, &[features]);
            },
            &[("13.json", "refused")],
        ),
        (
            "a directory is in the next entry's place",
            |dir| fs::create_dir(entry(dir, 13)).unwrap(),
            &[("13.json", "folder")],
        ),
        (
            "a frontier goes back",
            |dir| {
                put_entry(
                    dir,
                    13,
                    &[json!({"txn": {"appId": "mvsink.upper", "version": 3}})],
                )
            },
            &[("13.json", "unreadable")],
        ),
        (
            "much of it at once",
            |dir| {
                cut(&checkpoint(dir, 6));
                cut(&entry(dir, 8));
                remove_entries(dir, [10]);
                fs::create_dir(entry(dir, 13)).unwrap();
            },
            &[
                ("6.checkpoint.parquet", "unreadable"),
                ("8.json", "unreadable"),
                ("11.json", "entries missing"),
                ("13.json", "folder"),
            ],
        ),
    ];
    for (what, edit, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        copy(whole.path(), dir.path());
        edit(dir.path());
        let before = contents(dir.path());
        let report = run(verify(dir.path()));
        let found = named(&report);
        let found: Vec<_> = found
            .iter()
            .map(|(name, kind)| (name.as_str(), *kind))
            .collect();
        assert_eq!(found, expected, "{what}: {:?}", report.findings);
        assert_eq!(contents(dir.path()), before, "{what}");
        let pointer = |note: &Note| note.path.ends_with("_last_checkpoint");
        assert!(
            report.notes.iter().all(pointer),
            "{what}: {:?}",
            report.notes
        );
    }
    // Of another table, with its own entry's hash or without.
    let dir = tempfile::tempdir().unwrap();
    copy(whole.path(), dir.path());
    fs::copy(checkpoint(other.path(), 6), checkpoint(dir.path(), 6)).unwrap();
    let found = named(&run(verify(dir.path())));
    assert_eq!(found, [("6.checkpoint.parquet".to_owned(), "unreadable")]);
}

#[test]
fn damage_to_the_log_hides_none_of_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        let (gone, short) = (data_file(&shard, 1), data_file(&shard, 7));
        drop(shard);
        fs::remove_file(dir.join(&gone.path)).unwrap();
        cut(&dir.join(&short.path));
        remove_entries(dir, [10]);
        let found = named(&verify(dir).await);
        let mut expected = vec![
            (gone.path.trim_start_matches('0').to_owned(), "missing"),
            (short.path.trim_start_matches('0').to_owned(), "size"),
            (short.path.trim_start_matches('0').to_owned(), "unreadable"),
        ];
        expected.sort_by_key(|(name, _)| {
            let mut paths = [&gone.path, &short.path].into_iter();
            paths.find(|path| path.ends_with(name.as_str())).cloned()
        });
        expected.insert(0, ("11.json".into(), "entries missing"));
        assert_eq!(found, expected);
    });
}

#[test]
fn what_a_later_checkpoint_stands_for_is_only_noted() {
    let cases: [(&str, Edit); 4] = [
        ("missing", |dir| remove_entries(dir, [3])),
        ("not an action", |dir| cut(&entry(dir, 3))),
        ("leads to version 99", |dir| {
            fs::write(
                in_log(dir, "_last_checkpoint"),
                "{\"version\":99,\"size\":1}",
            )
            .unwrap();
        }),
        ("cannot be read", |dir| {
            fs::write(in_log(dir, "_last_checkpoint"), "{").unwrap();
        }),
    ];
    for (what, edit) in cases {
        let dir = tempfile::tempdir().unwrap();
        run(async {
            drop(table(dir.path()).await);
            edit(dir.path());
            let report = verify(dir.path()).await;
            assert!(report.is_clean(), "{what}: {report:?}");
            let notes: Vec<_> = report.notes.iter().map(ToString::to_string).collect();
            assert!(
                notes.len() == 1 && notes[0].contains(what),
                "{what}: {notes:?}"
            );
            open(dir.path()).await.unwrap();
        });
    }
}

#[test]
fn what_is_cleaned_up_and_what_is_of_the_future_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        remove_entries(dir, 0..=5);
        let report = verify(dir).await;
        assert!(report.is_clean() && report.notes.is_empty(), "{report:?}");
        let file = fs::File::options().write(true).open(entry(dir, 8)).unwrap();
        let future = std::time::SystemTime::now() + std::time::Duration::from_secs(90_000);
        file.set_modified(future).unwrap();
        let report = verify(dir).await;
        assert!(report.is_clean(), "{report:?}");
        assert!(report.notes[0].text.contains("future"), "{report:?}");
    });
}

/// Another program's rows, as the next entry.
async fn put_rows(dir: &Path, version: u64, name: &str, rows: &[(Row, i64, i64)]) {
    let mut file = FileEncoder::new(codec().schema()).unwrap();
    let batch = codec().encode(rows.iter().map(|(row, time, diff)| (row, *time, *diff)));
    file.write(&batch.unwrap()).unwrap();
    let bytes = file.finish().unwrap().bytes;
    fs::write(dir.join(name), &bytes).unwrap();
    put_entry(dir, version, &[add(name, bytes.len())]);
}

#[test]
fn rows_that_no_reader_can_count_are_damage_and_odd_ones_are_noted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        let row = |key| (key, None);
        put_rows(
            dir,
            13,
            "a.parquet",
            &[(row(100), 3, i64::MAX), (row(101), 3, -1)],
        )
        .await;
        let report = verify(dir).await;
        assert!(report.is_clean(), "{report:?}");
        let notes: Vec<_> = report.notes.iter().map(|note| note.text.as_str()).collect();
        assert!(
            notes.len() == 1 && notes[0].contains("less often than never"),
            "{notes:?}"
        );
        put_rows(dir, 14, "b.parquet", &[(row(100), 4, 1), (row(101), 40, 1)]).await;
        let report = verify(dir).await;
        assert_eq!(named(&report), [("a.parquet".to_owned(), "multiplicity")]);
        let notes: Vec<_> = report.notes.iter().map(|note| note.text.as_str()).collect();
        assert!(
            notes.len() == 1 && notes[0].contains("not below the upper 12"),
            "{notes:?}"
        );
    });
}

#[test]
fn verifying_nothing_is_an_error_and_an_open_shard_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let nowhere = dir.join("nowhere");
        let error = plain().verify(url(&nowhere), &|_| ()).await.unwrap_err();
        assert!(matches!(error, Error::NoShard { .. }), "{error}");
        let shard = table(dir).await;
        cut(&checkpoint(dir, 6));
        let report = shard.verify(&|_| ()).await.unwrap();
        assert_eq!(
            named(&report),
            [("6.checkpoint.parquet".to_owned(), "unreadable")]
        );
        assert_eq!((report.version, report.rows), (12, 12));
    });
}
