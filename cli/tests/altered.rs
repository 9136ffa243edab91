//! Tables that another program has edited, or that have lost files, where no event is left with which they are repaired.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::*;

fn log(table: &Path) -> PathBuf {
    table.join("_delta_log")
}

/// The entries of a log, in their order.
fn entries(table: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(log(table)).unwrap().flatten();
    let mut entries: Vec<_> = entries.map(|entry| entry.path()).collect();
    entries.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
    entries.sort();
    entries
}

/// Puts the next entry, as another program does.
fn edit(table: &Path, actions: &[Value]) {
    let last = entries(table).pop().expect("a log");
    let last: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let lines: Vec<_> = actions.iter().map(Value::to_string).collect();
    let path = log(table).join(format!("{:020}.json", last + 1));
    fs::write(path, lines.join("\n")).unwrap();
}

/// The live files, by the entries, of which none is cleaned up.
fn files(table: &Path) -> Vec<(String, u64)> {
    let mut files: Vec<(String, u64)> = Vec::new();
    for entry in entries(table) {
        let text = fs::read_to_string(entry).unwrap();
        let actions = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        for action in actions {
            if let Some(add) = action.get("add") {
                let path = add["path"].as_str().unwrap().to_owned();
                files.push((path, add["size"].as_u64().unwrap()));
            }
            if let Some(remove) = action.get("remove") {
                files.retain(|(path, _)| path != remove["path"].as_str().unwrap());
            }
        }
    }
    files
}

fn remove(path: &str) -> Value {
    json!({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": true}})
}

/// A copy of a file, as a file of another program.
fn copy(table: &Path, path: &str, name: &str) -> Value {
    let size = fs::copy(table.join(path), table.join(name)).unwrap();
    json!({"add": {
        "path": name, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
    }})
}

fn demo(dir: &Path, events: &str) -> String {
    succeed(&nexmark(dir, events, "1"))
}

/// The last line on standard error of a run that must fail.
fn failing(dir: &Path, events: &str) -> String {
    let output = mvsink(&nexmark(dir, events, "1"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    // A summary has all that can still be read.
    assert!(
        stdout.is_empty() || stdout.contains("(unreadable)") || stdout.contains("failed: "),
        "nothing is said to be well: {stdout}"
    );
    stderr.trim_end().lines().last().unwrap().to_owned()
}

/// These actions, in a commit that says that it is a sink's, and moves the upper here.
fn as_a_sink(upper: i64, actions: &[Value]) -> Vec<Value> {
    let info = json!({"commitInfo": {"mvsink.id": format!("{:032x}-0", 7)}});
    let upper = json!({"txn": {"appId": "mvsink.upper", "version": upper}});
    [&[info, upper], actions].concat()
}

/// The same, that finishes the table.
fn finish(actions: &[Value]) -> Vec<Value> {
    as_a_sink(i64::MAX, actions)
}

fn expect_same(left: &Path, right: &Path) {
    let rows = |table: &Path| {
        let text = succeed(&["snapshot", text(table), "--format", "csv"]);
        let mut rows: Vec<_> = text.lines().map(str::to_owned).collect();
        rows.sort();
        rows
    };
    assert_eq!(rows(left), rows(right));
}

#[test]
fn a_run_without_new_events_fails_where_a_view_was_edited() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    demo(dir.path(), "3000");
    demo(dir.path(), "6000");
    demo(whole.path(), "9000");
    let table = dir.path().join("q3");
    let before = files(&table);
    edit(&table, &[copy(&table, &before[0].0, "theirs.parquet")]);
    let edited = files(&table);
    for _ in 0..2 {
        let line = failing(dir.path(), "6000");
        for part in [text(&table), "the view q3 in ", " row", "--events"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert_eq!(files(&table), edited, "no data is written");
    }
    // A second one is named too.
    let other = dir.path().join("q1");
    edit(&other, &[remove(&files(&other)[0].0)]);
    let line = failing(dir.path(), "6000");
    assert!(line.contains("q1") && line.contains("q3"), "{line}");
    demo(dir.path(), "9000");
    for view in ["q1", "q3"] {
        expect_same(&dir.path().join(view), &whole.path().join(view));
    }
    let report = demo(dir.path(), "9000");
    assert!(report.contains("nothing to do"), "{report}");
}

#[test]
fn a_run_without_new_events_names_lost_files_and_deleting_the_table_helps() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    demo(dir.path(), "3000");
    demo(dir.path(), "6000");
    demo(whole.path(), "6000");
    let table = dir.path().join("q3");
    let lost = files(&table).remove(0).0;
    fs::remove_file(table.join(&lost)).unwrap();
    let line = failing(dir.path(), "6000");
    for part in [text(&table), lost.as_str(), "delete the table"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    fs::remove_dir_all(&table).unwrap();
    demo(dir.path(), "6000");
    expect_same(&table, &whole.path().join("q3"));
    succeed(&["verify", text(&table)]);
}

/// Its size does not tell that it is damaged, and a view reads it back when it differs.
#[test]
fn a_view_with_a_file_that_is_damaged_at_its_size_names_the_command_that_mends_it() {
    let whole = tempfile::tempdir().unwrap();
    demo(whole.path(), "9000");
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "3000");
    let table = dir.path().join("q3");
    let (path, size) = files(&table).remove(0);
    let file = table.join(path);
    let mut bytes = fs::read(&file).unwrap();
    // In the footer.
    for place in [size - 60, size - 40] {
        bytes[usize::try_from(place).unwrap()] ^= 0xff;
    }
    fs::write(&file, bytes).unwrap();
    let command = format!("`mvsink repair {}`", text(&table));
    for events in ["3000", "6000"] {
        let line = failing(dir.path(), events);
        assert!(line.contains(&command), "{line}");
        assert!(line.contains(text(&file)), "{line}");
    }
    let done = succeed(&["repair", text(&table)]);
    assert!(
        done.starts_with("dropped the references to 1 data files"),
        "{done}"
    );
    // The sources have the events of the runs that failed: there are none left but for new ones.
    demo(dir.path(), "9000");
    expect_same(&table, &whole.path().join("q3"));
    succeed(&["verify", text(&table)]);
}

#[test]
fn an_edit_that_changes_nothing_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "3000");
    let table = dir.path().join("q3");
    let file = files(&table).remove(0).0;
    let theirs = copy(&table, &file, "theirs.parquet");
    edit(&table, &[remove(&file), theirs]);
    demo(dir.path(), "3000");
}

#[test]
fn an_edited_source_is_accepted_by_command_and_then_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "3000");
    let table = dir.path().join("person");
    let path = files(&table).remove(0).0;
    edit(&table, &[copy(&table, &path, "theirs.parquet")]);
    let command = format!("mvsink repair {} --accept-edits", text(&table));
    for events in ["3000", "6000"] {
        let line = failing(dir.path(), events);
        assert!(line.contains(&command), "{line}");
    }
    let accept = ["repair", text(&table), "--accept-edits"];
    let planned = succeed(&[&accept[..], &["--dry-run"]].concat());
    assert!(planned.starts_with("would accept "), "{planned}");
    assert!(planned.contains("1 files added"), "{planned}");
    let done = printed_json(&[&accept[..], &["--json"]].concat());
    assert!(done["accepted"].is_u64(), "{done}");
    assert_eq!(done["steps"][0]["edits"][0]["files_added"], 1);
    let needless = "nothing to repair\nthere are no edits to accept\n";
    assert_eq!(succeed(&accept), needless);
    // The views are not what the source is now, until there are new events.
    let line = failing(dir.path(), "3000");
    assert!(line.contains("q3"), "{line}");
    demo(dir.path(), "6000");
    demo(dir.path(), "6000");
    succeed(&["verify", text(&table)]);
}

/// A path is one file, and no row differs.
#[test]
fn a_source_whose_files_are_added_again_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "3000");
    let table = dir.path().join("person");
    let (path, size) = files(&table).remove(0);
    let theirs = copy(&table, &path, "theirs.parquet");
    let again = |path: &str, size: u64| {
        edit(
            &table,
            &[json!({"add": {
                "path": path, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
            }})],
        );
    };
    again(&path, size);
    demo(dir.path(), "3000");
    demo(dir.path(), "6000");
    // With a wrong size, which a repair puts right: a file of a sink, and one of another program.
    edit(&table, &[theirs]);
    succeed(&["repair", text(&table), "--accept-edits"]);
    demo(dir.path(), "9000");
    for (path, events) in [(path.as_str(), "12000"), ("theirs.parquet", "15000")] {
        again(path, 0);
        succeed(&["repair", text(&table)]);
        demo(dir.path(), events);
    }
    succeed(&["verify", text(&table)]);
}

/// Else a repair would accept rows that no run could read.
#[test]
fn sources_say_which_of_their_columns_are_never_null() {
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "3000");
    for (table, column) in [
        ("person", "name"),
        ("bid", "auction"),
        ("auction", "seller"),
    ] {
        let inspected = printed_json(&["inspect", text(&dir.path().join(table)), "--json"]);
        let required = inspected["properties"]["mvsink.required"].as_str().unwrap();
        assert!(required.contains(column), "{table}: {required}");
    }
}

#[test]
fn a_source_that_has_lost_a_file_goes_on_after_a_repair() {
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "3000");
    demo(dir.path(), "6000");
    let table = dir.path().join("person");
    fs::remove_file(table.join(files(&table).remove(0).0)).unwrap();
    let line = failing(dir.path(), "6000");
    let command = format!("`mvsink repair {}`", text(&table));
    assert!(
        line.contains(&command) && line.contains("--drop-files"),
        "{line}"
    );
    succeed(&["repair", text(&table), "--drop-files"]);
    demo(dir.path(), "9000");
    demo(dir.path(), "9000");
}

/// A Delta table that no mvsink has written.
fn table_of_another_program(table: &Path) {
    fs::create_dir_all(log(table)).unwrap();
    let schema = json!({"type": "struct", "fields": [
        {"name": "name", "type": "string", "nullable": true, "metadata": {}},
    ]});
    let actions = [
        // With a feature that would be refused too.
        json!({"protocol": {
            "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["timestampNtz"],
            "writerFeatures": ["timestampNtz"],
        }}),
        json!({"metaData": {
            "id": "5fba94ed-9794-4965-ba6e-6ee3c0d22af9", "format": {"provider": "parquet", "options": {}},
            "schemaString": schema.to_string(), "partitionColumns": [], "configuration": {}, "createdTime": 1,
        }}),
    ];
    let lines: Vec<_> = actions.iter().map(Value::to_string).collect();
    fs::write(log(table).join(format!("{:020}.json", 0)), lines.join("\n")).unwrap();
    fs::write(table.join("theirs.parquet"), "theirs").unwrap();
}

/// The table of another view.
fn table_of_another_view(table: &Path) {
    fs::rename(table.parent().unwrap().join("q2"), table).unwrap();
}

#[test]
fn the_error_of_another_table_in_a_views_place_names_the_command_that_makes_room() {
    let whole = tempfile::tempdir().unwrap();
    demo(whole.path(), "3000");
    for put in [table_of_another_program as fn(&Path), table_of_another_view] {
        let dir = tempfile::tempdir().unwrap();
        demo(dir.path(), "3000");
        let table = dir.path().join("q4");
        fs::remove_dir_all(&table).unwrap();
        put(&table);
        let line = failing(dir.path(), "3000");
        let moved = dir.path().join("q4.moved");
        let command = format!("`mv {} {}`", text(&table), text(&moved));
        assert!(line.contains(&command), "{line}");
        let there = fs::read_dir(&table).unwrap().count();
        fs::rename(&table, &moved).unwrap();
        demo(dir.path(), "3000");
        expect_same(&table, &whole.path().join("q4"));
        assert_eq!(fs::read_dir(&moved).unwrap().count(), there);
    }
}

#[test]
fn a_view_that_somebody_has_finished_is_compared_as_a_whole() {
    let whole = tempfile::tempdir().unwrap();
    demo(whole.path(), "6000");
    type Finish = fn(&Path) -> Vec<Value>;
    // As it is; with too few rows; with too many.
    let ways: [(bool, Finish); 3] = [
        (true, |_| finish(&[])),
        (false, |table| finish(&[remove(&files(table)[0].0)])),
        (false, |table| {
            let again = copy(table, &files(table)[0].0, "again.parquet");
            finish(&[again])
        }),
    ];
    for (number, (is_right, way)) in ways.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        demo(dir.path(), "3000");
        let table = dir.path().join("q3");
        edit(&table, &way(&table));
        for _ in 0..2 {
            if is_right {
                demo(dir.path(), "3000");
                continue;
            }
            let line = failing(dir.path(), "3000");
            for part in [text(&table), "q3", "delete the table"] {
                assert!(line.contains(part), "way {number}: {part}: {line}");
            }
        }
        // What comes later is not there.
        let line = failing(dir.path(), "6000");
        assert!(
            line.contains(text(&table)) && line.contains("delete the table"),
            "way {number}: {line}"
        );
        fs::remove_dir_all(&table).unwrap();
        demo(dir.path(), "6000");
        expect_same(&table, &whole.path().join("q3"));
    }
}

#[test]
fn a_view_that_was_finished_without_a_row_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "3000");
    let table = dir.path().join("q3");
    let removes: Vec<_> = files(&table).iter().map(|(path, _)| remove(path)).collect();
    edit(&table, &finish(&removes));
    for events in ["3000", "6000"] {
        let line = failing(dir.path(), events);
        assert!(line.contains(text(&table)), "{line}");
    }
}

#[test]
fn a_source_that_somebody_has_finished_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "3000");
    let table = dir.path().join("person");
    edit(&table, &finish(&[]));
    for events in ["3000", "6000"] {
        let line = failing(dir.path(), events);
        assert!(
            line.contains(text(&table)) && line.contains("delete the table"),
            "{line}"
        );
        // No view is finished with it.
        assert!(upper(&dir.path().join("q3")) < i64::MAX);
    }
    fs::remove_dir_all(&table).unwrap();
    demo(dir.path(), "6000");
}

#[test]
fn a_view_whose_upper_somebody_has_moved_beyond_the_events_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "3000");
    let table = dir.path().join("q3");
    edit(&table, &as_a_sink(10_000_000_000_000, &[]));
    for events in ["3000", "6000"] {
        let line = failing(dir.path(), events);
        for part in [text(&table), "10000000000000", "delete "] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    fs::remove_dir_all(&table).unwrap();
    demo(dir.path(), "6000");
}

#[test]
fn views_that_are_ahead_of_their_sources_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "6000");
    for source in ["bid", "auction", "person"] {
        fs::remove_dir_all(dir.path().join(source)).unwrap();
    }
    let line = failing(dir.path(), "3000");
    assert!(line.contains("--events"), "{line}");
    demo(dir.path(), "6000");
}

/// Puts this entry before the last commit that moves the upper, which then answers it, as a commit does that was on its
/// way when the edit came.
fn edit_before_the_last_commit(table: &Path, actions: &[Value]) {
    let all = entries(table);
    let upper = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter_map(|line| {
                line["txn"]["appId"]
                    .as_str()
                    .filter(|id| *id == "mvsink.upper")
                    .map(|_| line["txn"]["version"].as_i64().unwrap())
            })
            .next_back()
    };
    let moved: Vec<_> = all
        .iter()
        .enumerate()
        .filter_map(|(at, path)| Some((at, upper(path)?)))
        .collect();
    let (last, _) = moved[moved.len() - 1];
    let (_, lower) = moved[moved.len() - 2];
    for path in all[last..].iter().rev() {
        let number: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        fs::rename(path, log(table).join(format!("{:020}.json", number + 1))).unwrap();
    }
    let lines: Vec<_> = actions.iter().map(Value::to_string).collect();
    fs::write(&all[last], lines.join("\n")).unwrap();
    // The since is where the upper was, and all edits are answered.
    let answers = log(table).join(format!("{:020}.json", last + 1));
    let text = fs::read_to_string(&answers).unwrap();
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines.retain(|line| line["txn"]["appId"] != "mvsink.since");
    for line in lines
        .iter_mut()
        .filter(|line| line["txn"]["appId"] == "mvsink.reviewed")
    {
        line["txn"]["version"] = json!(last + 1);
    }
    lines.push(json!({"txn": {"appId": "mvsink.since", "version": lower}}));
    let count = lines.len();
    let info = lines.iter_mut().find(|line| line["commitInfo"].is_object());
    info.unwrap()["commitInfo"]["mvsink.lines"] = json!(count);
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    fs::write(&answers, lines.join("\n")).unwrap();
}

#[test]
fn an_edit_that_came_just_before_the_last_commit_is_told_by_the_next_run() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    demo(dir.path(), "3000");
    demo(dir.path(), "6000");
    demo(whole.path(), "9000");
    let table = dir.path().join("q3");
    let theirs = copy(&table, &files(&table)[0].0, "theirs.parquet");
    edit_before_the_last_commit(&table, &[theirs]);
    for _ in 0..2 {
        let line = failing(dir.path(), "6000");
        assert!(line.contains("the view q3 in "), "{line}");
    }
    demo(dir.path(), "9000");
    expect_same(&table, &whole.path().join("q3"));
    demo(dir.path(), "9000");
}

#[test]
fn another_table_of_the_same_columns_and_times_in_a_views_place_is_told() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    demo(dir.path(), "3000");
    succeed(&[&nexmark(other.path(), "3000", "1")[..], &["--seed", "1"]].concat());
    let table = dir.path().join("q3");
    fs::remove_dir_all(&table).unwrap();
    fs::rename(other.path().join("q3"), &table).unwrap();
    let line = failing(dir.path(), "3000");
    assert!(line.contains("the view q3 in "), "{line}");
}

#[test]
fn a_run_whose_sink_fails_says_what_was_written_and_what_failed() {
    let dir = tempfile::tempdir().unwrap();
    demo(dir.path(), "3000");
    let table = dir.path().join("person");
    edit(
        &table,
        &[copy(&table, &files(&table)[0].0, "theirs.parquet")],
    );
    let output = mvsink(&nexmark(dir.path(), "6000", "1"));
    assert_eq!(output.status.code(), Some(1));
    let stdout = String::from_utf8(output.stdout).unwrap();
    for name in ["bid", "person", "q3", "q8"] {
        let line = format!("{} ", text(&dir.path().join(name)));
        assert!(stdout.contains(&line), "{name}: {stdout}");
    }
    assert!(stdout.contains("failed: person failed: "), "{stdout}");
    assert!(!stdout.contains("nothing to do"), "{stdout}");
}
