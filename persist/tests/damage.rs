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

type Edit = fn(&Path);
/// What is wrong, how it comes about, and what is named.
type Case = (&'static str, Edit, &'static [(&'static str, &'static str)]);

/// What a commit of a sink says of itself.
fn ours(lower: i64, upper: i64) -> Value {
    let id = format!("{:032x}-0", 7);
    json!({"commitInfo": {"mvsink.id": id, "mvsink.lower": lower, "mvsink.upper": upper}})
}

fn txn(name: &str, version: i64) -> Value {
    json!({"txn": {"appId": format!("mvsink.{name}"), "version": version}})
}

fn part(dir: &Path, version: u64, number: u64, of: u64) -> std::path::PathBuf {
    in_log(
        dir,
        &format!("{version:020}.checkpoint.{number:010}.{of:010}.parquet"),
    )
}

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
    let cases: [Case; 27] = [
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
            "a link to nothing is there",
            |dir| std::os::unix::fs::symlink("nowhere", entry(dir, 13)).unwrap(),
            &[("13.json", "no file")],
        ),
        (
            "half of a checkpoint in parts is all that there is",
            |dir| {
                fs::rename(checkpoint(dir, 6), part(dir, 6, 1, 2)).unwrap();
                remove_entries(dir, 0..=6);
            },
            &[("6.checkpoint.0000000002.0000000002.parquet", "missing")],
        ),
        (
            "a checkpoint in parts is",
            |dir| {
                copy_file(&checkpoint(dir, 6), &part(dir, 6, 1, 2));
                fs::rename(checkpoint(dir, 6), part(dir, 6, 2, 2)).unwrap();
                remove_entries(dir, 0..=6);
            },
            &[("6.checkpoint.0000000001.0000000002.parquet", "refused")],
        ),
        (
            "a checkpoint in parts stands for a gap",
            |dir| {
                copy_file(&checkpoint(dir, 6), &part(dir, 9, 1, 1));
                remove_entries(dir, [8, 9]);
            },
            &[("9.checkpoint.0000000001.0000000001.parquet", "refused")],
        ),
        (
            "another program moves the upper",
            |dir| put_entry(dir, 13, &[txn("upper", 99)]),
            &[("13.json", "frontier")],
        ),
        (
            "another program moves the since",
            |dir| put_entry(dir, 13, &[txn("since", 5)]),
            &[("13.json", "frontier")],
        ),
        (
            "the since is beyond the upper",
            |dir| put_entry(dir, 13, &[ours(12, 13), txn("upper", 13), txn("since", 40)]),
            &[("13.json", "frontier")],
        ),
        (
            "edits of the future are answered",
            |dir| {
                put_entry(
                    dir,
                    13,
                    &[ours(12, 13), txn("upper", 13), txn("reviewed", 99)],
                )
            },
            &[("13.json", "frontier")],
        ),
        (
            "edits of the future are accepted",
            |dir| {
                put_entry(
                    dir,
                    13,
                    &[ours(12, 13), txn("upper", 13), txn("accepted", 99)],
                )
            },
            &[("13.json", "frontier")],
        ),
        (
            "a batch comes after the end",
            |dir| {
                put_entry(dir, 13, &[ours(12, i64::MAX), txn("upper", i64::MAX)]);
                put_entry(dir, 14, &[ours(i64::MAX, i64::MAX), add("x.parquet", 9)]);
                put_entry(
                    dir,
                    15,
                    &[ours(12, 13), txn("upper", i64::MAX), add("x.parquet", 9)],
                );
            },
            &[("14.json", "frontier")],
        ),
        (
            "a batch has times that it is not for",
            |dir| {
                let mut add = add("x.parquet", 9);
                add["add"]["tags"] = json!({"mvsink.min_time": "12", "mvsink.max_time": "40"});
                put_entry(dir, 13, &[ours(12, 13), txn("upper", 13), add]);
            },
            &[("13.json", "frontier")],
        ),
        (
            "a batch adds rows and leaves the upper",
            |dir| put_entry(dir, 13, &[ours(12, 12), add("x.parquet", 9)]),
            &[("13.json", "frontier")],
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
    for lost in [1, 3, 5] {
        let dir = tempfile::tempdir().unwrap();
        copy(whole.path(), dir.path());
        run(forge_checkpoint(dir.path(), 6, lost));
        let report = run(verify(dir.path()));
        let found = named(&report);
        assert_eq!(found, [("6.checkpoint.parquet".to_owned(), "contradicts")]);
        assert!(
            report.findings[0].to_string().contains("lacks 1 files"),
            "{report:?}"
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
    let cases: [(&str, Edit); 3] = [
        ("missing", |dir| remove_entries(dir, [3])),
        ("not an action", |dir| cut(&entry(dir, 3))),
        ("readers can do without", |dir| {
            copy_file(&checkpoint(dir, 6), &part(dir, 6, 1, 2));
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
fn a_pointer_that_leads_nowhere_is_damage_though_the_table_opens() {
    for (pointer, expected) in [
        ("{\"version\":99,\"size\":1}", "leads to version 99"),
        ("{", "cannot be read"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        run(async {
            drop(table(dir.path()).await);
            fs::write(in_log(dir.path(), "_last_checkpoint"), pointer).unwrap();
            let report = verify(dir.path()).await;
            let found = report.findings[0].to_string();
            assert!(
                report.findings.len() == 1 && found.contains(expected),
                "{found}"
            );
            open(dir.path()).await.unwrap();
        });
    }
}

#[test]
fn rows_without_times_or_multiplicities_are_damage_until_a_sink_answers_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(table(dir).await);
        let schema = codec().schema();
        let nulls = |name: &str| {
            let field = schema.field_with_name(name).unwrap();
            arrow_array::new_null_array(field.data_type(), 2)
        };
        let columns = schema
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                "mv_time" | "mv_diff" | "mv_error" => nulls(field.name()),
                "c0" => std::sync::Arc::new(arrow_array::Int64Array::from(vec![1, 2])) as _,
                name => nulls(name),
            });
        let batch = arrow_array::RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
        let mut file = FileEncoder::new(codec().schema()).unwrap();
        file.write(&batch).unwrap();
        let bytes = file.finish().unwrap().bytes;
        fs::write(dir.join("a.parquet"), &bytes).unwrap();
        put_entry(dir, 13, &[add("a.parquet", bytes.len())]);
        let report = verify(dir).await;
        assert_eq!(named(&report), [("a.parquet".to_owned(), "nulls")]);
        let text = report.findings[0].to_string();
        assert!(
            text.contains("2 of its rows have no mv_time") && text.contains("have no mv_diff"),
            "{text}"
        );
        // Also where a checkpoint is all that tells of them.
        let shard = open(dir).await.unwrap();
        let version = shard.checkpoint().await.unwrap();
        remove_entries(dir, 0..=version);
        assert_eq!(
            named(&verify(dir).await),
            [("a.parquet".to_owned(), "nulls")]
        );
        let shard = open(dir).await.unwrap();
        grow(&shard, 13).await;
        let report = verify(dir).await;
        assert!(report.is_clean(), "{report:?}");
        assert!(
            report.notes[0].text.contains("have no mv_time"),
            "{report:?}"
        );
    });
}

#[test]
fn a_file_with_the_rows_of_another_is_said_to_be_a_copy_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = table(dir).await;
        let [right, wrong] = [2, 5].map(|time| data_file(&shard, time).path);
        drop(shard);
        copy_file(&dir.join(&right), &dir.join(&wrong));
        let report = verify(dir).await;
        assert!(
            report.findings.iter().all(|finding| finding.path == wrong),
            "{report:?}"
        );
        assert!(
            report.notes.iter().any(|note| note.text.contains(&right)),
            "{report:?}"
        );
    });
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
        // More than a dataflow adds up for sure.
        assert_eq!(named(&report), [("a.parquet".to_owned(), "unfit")]);
        let notes: Vec<_> = report.notes.iter().map(|note| note.text.as_str()).collect();
        assert!(
            notes.len() == 1 && notes[0].contains("less often than never"),
            "{notes:?}"
        );
        put_rows(dir, 14, "b.parquet", &[(row(100), 4, 1), (row(101), 40, 1)]).await;
        let report = verify(dir).await;
        let kinds = ["unfit", "multiplicity"].map(|kind| ("a.parquet".to_owned(), kind));
        assert_eq!(named(&report), kinds);
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
