//! Edits of a table that nothing repairs: named, accepted by a person, and known as accepted by every opener.

mod support;

use std::fs;
use std::path::Path;

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use mvsink_persist::testing::{Call, CountingStore};
use mvsink_persist::{
    Change, Client, Error, ForeignEdit, Open, ReadOptions, RepairOptions, RepairReport, RepairStep,
    Unrepaired,
};
use object_store::ObjectStore;
use serde_json::{Value, json};
use support::damage::*;
use support::run;

async fn repair(dir: &Path, dry_run: bool, accept_edits: bool) -> RepairReport {
    let mut options = RepairOptions::default();
    (options.dry_run, options.accept_edits) = (dry_run, accept_edits);
    plain().repair(url(dir), &options, &|_| ()).await.unwrap()
}

fn accepted(report: &RepairReport) -> &[ForeignEdit] {
    match report.steps.as_slice() {
        [] => &[],
        [RepairStep::AcceptEdits { edits }] => edits,
        steps => panic!("{steps:?}"),
    }
}

/// Puts the next entry, as another program does.
async fn edit(dir: &Path, actions: &[Value]) -> u64 {
    let version = open(dir).await.unwrap().progress().version + 1;
    let info =
        json!({"commitInfo": {"operation": "MERGE", "engineInfo": "Another 1.0", "timestamp": 1}});
    let lines: Vec<_> = [&info]
        .into_iter()
        .chain(actions)
        .map(Value::to_string)
        .collect();
    fs::write(entry(dir, version), lines.join("\n")).unwrap();
    version
}

/// A file of the table once more, under another name.
async fn add(dir: &Path, name: &str) -> Value {
    let file = data_file(&open(dir).await.unwrap(), 0);
    let size = fs::copy(dir.join(&file.path), dir.join(name)).unwrap();
    json!({"add": {
        "path": name, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
        "stats": "{\"numRecords\": 1}",
    }})
}

async fn remove(dir: &Path, time: i64) -> Value {
    let file = data_file(&open(dir).await.unwrap(), time);
    json!({"remove": {"path": file.path, "deletionTimestamp": 1, "dataChange": true}})
}

async fn unaccepted(dir: &Path) -> Option<u64> {
    open(dir).await.unwrap().unaccepted_edit()
}

#[test]
fn an_edit_is_shown_and_accepted_and_the_frontiers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let before = filled(dir, 4).await.progress();
        assert!(accepted(&repair(dir, false, true).await).is_empty());
        let added = add(dir, "theirs.parquet").await;
        let removed = remove(dir, 2).await;
        let first = edit(dir, &[added, removed]).await;
        let second = edit(dir, &[add(dir, "more.parquet").await]).await;
        assert_eq!(unaccepted(dir).await, Some(second));
        // Unless it is asked for, nothing is accepted.
        assert!(repair(dir, false, false).await.is_sound());

        let found = contents(dir);
        let planned = repair(dir, true, true).await;
        assert!(contents(dir) == found, "a dry run changes nothing");
        let [one, two] = accepted(&planned) else {
            panic!("{planned:?}")
        };
        assert_eq!((one.version, two.version), (first, second));
        assert_eq!(one.operation.as_deref(), Some("MERGE"));
        assert_eq!(one.engine.as_deref(), Some("Another 1.0"));
        assert_eq!((one.files_added, one.rows_added), (1, Some(1)));
        assert_eq!((one.files_removed, one.rows_removed), (1, Some(1)));
        assert_eq!((two.files_added, two.files_removed), (1, 0));

        let done = repair(dir, false, true).await;
        assert_eq!(done.steps, planned.steps);
        assert_eq!(done.accepted, Some(second + 1));
        assert_eq!(unaccepted(dir).await, None);
        let after = open(dir).await.unwrap().progress();
        assert_eq!((after.upper, after.since), (before.upper, before.since));
        let found = contents(dir);
        assert!(repair(dir, false, true).await.steps.is_empty());
        assert!(contents(dir) == found, "it is accepted once");
        assert!(verify(dir).await.is_clean());
    });
}

#[test]
fn all_edits_below_a_checkpoint_are_shown_and_one_that_cannot_be_read_hides_none() {
    for damaged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(filled(dir, 4).await);
            let first = edit(dir, &[add(dir, "theirs.parquet").await]).await;
            let second = edit(dir, &[add(dir, "more.parquet").await]).await;
            open(dir).await.unwrap().checkpoint().await.unwrap();
            if damaged {
                fs::write(entry(dir, first), "{").unwrap();
                assert!(unaccepted(dir).await.is_some());
                return;
            }
            assert_eq!(unaccepted(dir).await, Some(second));
            let planned = repair(dir, true, true).await;
            let versions: Vec<_> = accepted(&planned).iter().map(|edit| edit.version).collect();
            assert_eq!(versions, [first, second]);
        });
    }
}

#[test]
fn an_edit_after_one_that_was_accepted_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(dir, 3).await);
        edit(dir, &[add(dir, "one.parquet").await]).await;
        repair(dir, false, true).await;
        let later = edit(dir, &[add(dir, "two.parquet").await]).await;
        assert_eq!(unaccepted(dir).await, Some(later));
        let report = repair(dir, true, true).await;
        let versions: Vec<_> = accepted(&report).iter().map(|edit| edit.version).collect();
        assert_eq!(versions, [later]);
    });
}

/// Whether openers read entries, or a checkpoint, of which the entries are cleaned up.
#[test]
fn what_was_accepted_is_known_from_a_checkpoint_too() {
    for cleaned in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(filled(dir, 3).await);
            edit(dir, &[add(dir, "one.parquet").await]).await;
            repair(dir, false, true).await;
            let shard = open(dir).await.unwrap();
            let version = shard.checkpoint().await.unwrap();
            if cleaned {
                remove_entries(dir, 0..=version);
            }
            assert_eq!(unaccepted(dir).await, None, "cleaned: {cleaned}");
            // The next append answers it, and moves the since as after any edit.
            let upper = shard.progress().upper;
            grow(&open(dir).await.unwrap(), 4).await;
            let shard = open(dir).await.unwrap();
            assert!(shard.progress().since >= upper, "cleaned: {cleaned}");
            assert_eq!(shard.unaccepted_edit(), None);
            // Another one is one again, whoever finds it, and how.
            let later = edit(dir, &[add(dir, "two.parquet").await]).await;
            assert_eq!(unaccepted(dir).await, Some(later));
            let version = open(dir).await.unwrap().checkpoint().await.unwrap();
            if cleaned {
                remove_entries(dir, version.saturating_sub(1)..=version);
            }
            assert!(unaccepted(dir).await.is_some(), "cleaned: {cleaned}");
        });
    }
}

#[test]
fn a_repair_is_no_edit_of_another_program() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let lost = data_file(&filled(dir, 4).await, 1);
        fs::remove_file(dir.join(&lost.path)).unwrap();
        let report = repair(dir, false, false).await;
        assert!(report.committed.is_some());
        let shard = open(dir).await.unwrap();
        // A view still has the rows to write again.
        assert_eq!(shard.edited(), report.committed);
        assert_eq!(shard.unaccepted_edit(), None);
        shard.checkpoint().await.unwrap();
        assert_eq!(unaccepted(dir).await, None);
    });
}

#[test]
fn a_repair_accepts_no_edit_that_was_there_before() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let lost = data_file(&filled(dir, 4).await, 1);
        let theirs = edit(dir, &[add(dir, "theirs.parquet").await]).await;
        fs::remove_file(dir.join(&lost.path)).unwrap();
        repair(dir, false, false).await;
        assert_eq!(unaccepted(dir).await, Some(theirs));
        repair(dir, false, true).await;
        assert_eq!(unaccepted(dir).await, None);
    });
}

#[test]
fn readers_of_changes_begin_anew_after_an_edit_that_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        let shard = filled(dir, 3).await;
        let options = ReadOptions::default();
        let mut reader = shard.changes(0, at(9), options.clone()).unwrap();
        while !matches!(reader.next().await, Ok(Some(Change::Progress(upper))) if upper == at(3)) {}
        edit(dir, &[add(dir, "theirs.parquet").await]).await;
        repair(dir, false, true).await;
        shard.refresh().await.unwrap();
        let error = loop {
            if let Err(error) = reader.next().await {
                break error;
            }
        };
        assert!(matches!(error, Error::ForeignEdit { .. }), "{error}");
        assert!(error.to_string().contains("--accept-edits"), "{error}");
        let mut rows = 0;
        let mut anew = shard.changes(2, at(3), options).unwrap();
        while let Some(change) = anew.next().await.unwrap() {
            if let Change::Updates(batch) = change {
                rows += batch.num_rows();
            }
        }
        assert!(rows > 0);
    });
}

#[test]
fn an_edit_that_says_it_changes_no_data_is_shown_and_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(dir, 3).await);
        let mut removed = remove(dir, 1).await;
        removed["remove"]["dataChange"] = false.into();
        let version = edit(dir, &[removed]).await;
        let is_left = async || {
            let shard = open(dir).await.unwrap();
            shard.check_rewrites().await.unwrap();
            shard.unaccepted_edit()
        };
        assert_eq!(is_left().await, Some(version));
        let report = repair(dir, false, true).await;
        let [found] = accepted(&report) else {
            panic!("{report:?}")
        };
        assert_eq!((found.version, found.files_removed), (version, 1));
        assert_eq!(found.rows_removed, Some(1));
        assert_eq!(report.accepted, Some(version + 1));
        assert_eq!(is_left().await, None);
    });
}

/// What the log says of the file of this version, as another program says it again.
fn again(dir: &Path, version: u64, change: impl Fn(&mut Value)) -> Value {
    let text = fs::read_to_string(entry(dir, version)).unwrap();
    let line = text.lines().find(|line| line.starts_with("{\"add\""));
    let mut action: Value = serde_json::from_str(line.unwrap()).unwrap();
    action["add"]["dataChange"] = true.into();
    change(&mut action["add"]);
    action
}

async fn left(dir: &Path) -> Option<u64> {
    let shard = open(dir).await.unwrap();
    shard.check_rewrites().await.unwrap();
    assert_eq!(shard.edited(), shard.unaccepted_edit());
    shard.unaccepted_edit()
}

#[test]
fn a_live_file_that_is_added_again_is_no_edit() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 7] = [
        ("as it is", |_| ()),
        ("later", |add| {
            add["modificationTime"] = 9_000_000_000_000_i64.into()
        }),
        ("without tags", |add| add["tags"] = Value::Null),
        ("with other statistics", |add| {
            add["stats"] = "{\"numRecords\": 1}".into()
        }),
        ("with no size", |add| add["size"] = 0.into()),
        ("with another size", |add| add["size"] = 12345.into()),
        ("by another path", |add| {
            add["path"] = format!("./{}", add["path"].as_str().unwrap()).into();
        }),
    ];
    for (what, change) in edits {
        // The file of a sink, and one of another program.
        for version in [3, 5] {
            for checkpoint in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let dir = dir.path();
                run(async {
                    input(dir).await;
                    grow(&open(dir).await.unwrap(), 4).await;
                    edit(dir, &[add(dir, "theirs.parquet").await]).await;
                    assert!(repair(dir, false, true).await.accepted.is_some());
                    grow(&open(dir).await.unwrap(), 6).await;
                    let running = open(dir).await.unwrap();
                    let progress = running.progress();
                    edit(dir, &[again(dir, version, change)]).await;
                    running.refresh().await.unwrap();
                    running.check_rewrites().await.unwrap();
                    assert_eq!(running.unaccepted_edit(), None, "{what}, {version}");
                    let entry = running.entry(progress.version + 1).await.unwrap();
                    assert!(!entry.foreign && entry.adds.is_empty(), "{what}: {entry:?}");
                    // Of files that no sink named nothing tells below a checkpoint that they were there.
                    if checkpoint && version == 5 {
                        return;
                    }
                    if checkpoint {
                        running.checkpoint().await.unwrap();
                    }
                    assert_eq!(left(dir).await, None, "{what}, {version}");
                    // Nor is it one once the size is put right.
                    let report = repair(dir, false, true).await;
                    assert!(
                        report.accepted.is_none() && report.left.is_empty(),
                        "{report:?}"
                    );
                    assert!(verify(dir).await.is_clean(), "{what}, {version}");
                    assert_eq!(left(dir).await, None, "{what}, {version}");
                    grow(&open(dir).await.unwrap(), 7).await;
                    let after = open(dir).await.unwrap().progress();
                    assert_eq!((after.upper, after.since), (at(7), progress.since));
                });
            }
        }
    }
}

#[test]
fn a_live_file_that_is_written_anew_or_added_beside_another_is_an_edit() {
    for checkpoint in [false, true] {
        for beside in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            run(async {
                input(dir).await;
                let mut actions = vec![again(dir, 3, |_| ())];
                if beside {
                    actions.push(add(dir, "theirs.parquet").await);
                } else {
                    let path = actions[0]["add"]["path"].as_str().unwrap().to_owned();
                    let columns = theirs(dir, &path, readable());
                    actions[0]["add"]["size"] = columns["add"]["size"].clone();
                }
                let version = edit(dir, &actions).await;
                if checkpoint {
                    open(dir).await.unwrap().checkpoint().await.unwrap();
                }
                assert_eq!(left(dir).await, Some(version));
                let report = repair(dir, true, true).await;
                let versions = report.steps.iter().flat_map(|step| match step {
                    RepairStep::AcceptEdits { edits } => {
                        edits.iter().map(|it| it.version).collect()
                    }
                    _ => Vec::new(),
                });
                assert_eq!(versions.collect::<Vec<_>>(), [version], "{report:?}");
            });
        }
    }
}

/// An input table, whose numbers are null in no row, and whose texts may be.
async fn input(dir: &Path) {
    let codec = codec();
    let open = Open::for_codec(&codec).as_input();
    let shard = plain().open_or_create(url(dir), open).await.unwrap();
    grow(&shard, 3).await;
}

type Columns = Vec<(&'static str, ArrayRef)>;

/// A file with these columns as they are.
fn theirs(dir: &Path, name: &str, columns: Columns) -> Value {
    let fields = columns.iter();
    let fields = fields.map(|(name, array)| Field::new(*name, array.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
    let mut file = parquet::arrow::ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
    file.write(&batch).unwrap();
    let bytes = file.into_inner().unwrap();
    fs::write(dir.join(name), &bytes).unwrap();
    support::damage::add(name, bytes.len())
}

fn numbers(values: [Option<i64>; 2]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn texts(values: [Option<&str>; 2]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// Columns of two rows that sources can read, the second of which is the error of a row.
fn readable() -> Columns {
    vec![
        ("c0", numbers([Some(7), None])),
        ("c1", texts([None, None])),
        ("mv_error", texts([None, Some("\"no\"")])),
        ("mv_time", numbers([Some(0), Some(1)])),
        ("mv_diff", numbers([Some(1), Some(-1)])),
    ]
}

fn with(name: &str, array: ArrayRef) -> Columns {
    let columns = readable().into_iter();
    let replaced = columns.map(|(known, it)| match known == name {
        true => (known, Arc::clone(&array)),
        false => (known, it),
    });
    replaced.collect()
}

#[test]
fn rows_that_sources_cannot_read_are_named_and_nothing_is_accepted() {
    let one = Some(1);
    let refused: [(&str, Columns, &[&str]); 9] = [
        (
            "null",
            with("c0", numbers([None, None])),
            &["row 0", "column c0 is null"],
        ),
        (
            "lacking",
            readable().split_off(1),
            &["row 0", "column c0 is null"],
        ),
        (
            "error",
            with("mv_error", texts([None, Some("no")])),
            &["row 1", "mv_error"],
        ),
        (
            "time",
            with("mv_time", numbers([one, Some(i64::MAX)])),
            &["row 1", "mv_time"],
        ),
        (
            "least",
            with("mv_diff", numbers([Some(i64::MIN), one])),
            &["row 0", "mv_diff"],
        ),
        (
            "largest",
            with("mv_diff", numbers([one, Some(i64::MAX)])),
            &["row 1", "mv_diff"],
        ),
        (
            "large",
            with("mv_diff", numbers([one, Some(1 << 62)])),
            &["row 1", "mv_diff"],
        ),
        ("type", with("c0", texts([Some("7"), None])), &["c0"]),
        (
            "times",
            with("mv_time", texts([Some("7"), None])),
            &["mv_time"],
        ),
    ];
    for (what, columns, words) in refused {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            input(dir).await;
            // One that is as it should be does not help.
            edit(dir, &[theirs(dir, "readable.parquet", readable())]).await;
            let file = format!("{what}.parquet");
            let version = edit(dir, &[theirs(dir, &file, columns)]).await;
            let found = verify(dir).await;
            let named: Vec<_> = found.findings.iter().map(|it| it.path.as_str()).collect();
            assert_eq!(named, [&file], "{what}: {found:?}");
            for dry_run in [true, false] {
                let found = contents(dir);
                let report = repair(dir, dry_run, true).await;
                assert!(contents(dir) == found, "{what}");
                assert!(
                    report.steps.is_empty() && report.accepted.is_none(),
                    "{what}"
                );
                let [
                    Unrepaired {
                        finding, advice, ..
                    },
                ] = &report.left[..]
                else {
                    panic!("{what}: {report:?}")
                };
                let told = format!("{finding}: {advice}");
                let version = format!("version {version}");
                for word in words.iter().chain([&file.as_str(), &version.as_str()]) {
                    assert!(told.contains(word), "{what}: {told}");
                }
            }
            assert_eq!(unaccepted(dir).await, Some(version));
            // Once the rows are gone the rest is accepted.
            let gone =
                json!({"remove": {"path": file, "deletionTimestamp": 1, "dataChange": true}});
            edit(dir, &[gone]).await;
            let report = repair(dir, false, true).await;
            assert!(
                report.accepted.is_some() && report.left.is_empty(),
                "{what}: {report:?}"
            );
        });
    }
}

/// A sink reads them, and so do sources.
#[test]
fn rows_without_times_or_multiplicities_are_named_until_they_are_accepted() {
    for name in ["mv_time", "mv_diff"] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            input(dir).await;
            let columns = with(name, numbers([Some(1), None]));
            edit(dir, &[theirs(dir, "theirs.parquet", columns)]).await;
            let expected = [("theirs.parquet".to_owned(), "nulls")];
            assert_eq!(named(&verify(dir).await), expected);
            assert_eq!(repair(dir, true, false).await.left.len(), 1);
            for dry_run in [true, false] {
                let report = repair(dir, dry_run, true).await;
                assert_eq!(accepted(&report).len(), 1);
                assert!(report.left.is_empty(), "{report:?}");
                let is_told = |note: &mvsink_persist::Note| {
                    note.text.contains(name) && note.text.contains("accepted")
                };
                assert!(report.notes.iter().any(is_told), "{report:?}");
            }
            for upper in [3, 4] {
                grow(&open(dir).await.unwrap(), upper).await;
                let found = verify(dir).await;
                assert!(found.is_clean(), "{found:?}");
                let mut notes = found.notes.iter();
                assert!(notes.any(|note| note.text.contains(name)), "{found:?}");
            }
            let shard = open(dir).await.unwrap();
            let (mut rows, mut errors) = (0, Vec::new());
            let mut read = shard.snapshot(3, ReadOptions::default()).unwrap();
            while let Some(batch) = read.next().await.unwrap() {
                let decoded = codec().decode(&batch).unwrap();
                rows += decoded.ok.len();
                errors.extend(decoded.err);
            }
            // Four of ours, and both of theirs.
            assert_eq!((rows, errors.len()), (5, 1), "{errors:?}");
        });
    }
}

/// The tags are another program's word.
#[test]
fn tags_of_ours_let_no_row_pass_that_sources_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        input(dir).await;
        let mut action = theirs(dir, "theirs.parquet", with("c0", numbers([None, None])));
        let size = action["add"]["size"].clone();
        let tags = again(dir, 3, |_| ());
        action["add"]["tags"] = tags["add"]["tags"].clone();
        action["add"]["tags"]["mvsink.file"] = format!("theirs.parquet:{size}").into();
        edit(dir, &[action]).await;
        assert!(!verify(dir).await.is_clean());
        let report = repair(dir, false, true).await;
        assert!(report.accepted.is_none(), "{report:?}");
        let told = format!("{:?}", report.left);
        assert!(told.contains("column c0 is null"), "{told}");
    });
}

#[test]
fn rows_that_a_view_takes_back_are_named_until_it_has() {
    for (name, array) in [
        ("c0", numbers([None, None])),
        ("mv_diff", numbers([Some(1), Some(1 << 50)])),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let open_view = Open::for_codec(&codec());
            let shard = plain().open_or_create(url(dir), open_view).await.unwrap();
            grow(&shard, 3).await;
            edit(dir, &[theirs(dir, "theirs.parquet", with(name, array))]).await;
            let found = verify(dir).await;
            assert_eq!(
                named(&found),
                [("theirs.parquet".to_owned(), "unfit")],
                "{name}"
            );
            assert!(found.findings[0].to_string().contains(name), "{found:?}");
            shard.refresh().await.unwrap();
            grow(&shard, 4).await;
            assert!(verify(dir).await.is_clean(), "{name}");
        });
    }
}

#[test]
fn each_entry_is_read_once_to_tell_of_edits_whatever_their_paths_look_like() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(async {
        drop(filled(dir, 40).await);
        let files: Vec<_> = {
            let shard = open(dir).await.unwrap();
            (0..5).map(|time| data_file(&shard, time).path).collect()
        };
        edit(dir, &[add(dir, "theirs%20here.parquet").await]).await;
        let spelled = |path: &str| json!({"remove": {"path": format!("./{path}"), "deletionTimestamp": 1, "dataChange": true}});
        for path in &files {
            edit(dir, &[spelled(path)]).await;
        }
        edit(dir, &[spelled("theirs here.parquet")]).await;
        let store = CountingStore::new(in_memory(dir).await as Arc<dyn ObjectStore>);
        let mut options = support::options(1);
        options.checkpoint_interval = 0;
        let client: Client = support::client(options);
        client.mount("store", Arc::clone(&store) as _);
        let mut options = RepairOptions::default();
        (options.dry_run, options.accept_edits) = (true, true);
        let url = "memory://store/shard";
        let report = client.repair(url, &options, &|_| ()).await.unwrap();
        let rows = accepted(&report)
            .iter()
            .map(|edit| (edit.rows_added, edit.rows_removed));
        let mut expected = vec![(Some(0), Some(1)); 7];
        expected[0] = (Some(1), Some(0));
        assert_eq!(rows.collect::<Vec<_>>(), expected);
        // Whether the log is still the one that was opened the first and the last entry tell.
        for version in 1..47 {
            let name = format!("{version:020}.json");
            let is_it = |call, path: &object_store::path::Path| {
                call == Call::Get && path.filename() == Some(&name)
            };
            let reads = store.count_where(is_it);
            // To verify the log, to open it in three places, and once to tell of the edits.
            assert!(reads <= 5, "{version}: {reads}");
        }
    });
}
