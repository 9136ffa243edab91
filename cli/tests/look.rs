//! What `inspect`, `snapshot`, `tail` and `hold` make of tables of other types than the demo's, and of bad input.

mod support;

use std::path::Path;

use chrono::{DateTime, NaiveDate, Utc};
use mvsink_persist::{
    Append, Appended, Client, ClientOptions, Codec, CommitId, FileEncoder, FileMeta, Frontier, Open,
};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use support::*;

/// A row with a value of every kind that text forms differ in.
#[derive(Clone, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
struct Row {
    id: i64,
    city: Option<String>,
    price: f64,
    tags: Vec<String>,
}

fn row(id: i64, city: Option<&str>, price: f64, tags: &[&str]) -> Row {
    Row {
        id,
        city: city.map(str::to_owned),
        price,
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    }
}

/// A table with five rows at time 1, one of them twice, and maybe an error at time 2, complete up to 5.
fn table(dir: &Path, with_error: bool) -> String {
    let rows = [
        (row(1, Some(""), f64::NAN, &["a", "b"]), 1),
        (row(2, None, f64::NEG_INFINITY, &[]), 1),
        (row(3, Some("Oslo, N"), 10.5, &["x\"y"]), 2),
        (row(4, Some("Bergen"), 99.0, &[]), 1),
    ];
    table_of(dir, &rows, with_error.then_some("no price"))
}

/// A table with these rows at time 1, and maybe an error at time 2, complete up to 5.
fn table_of<D>(dir: &Path, rows: &[(D, i64)], error: Option<&str>) -> String
where
    D: Serialize + for<'de> Deserialize<'de> + 'static,
{
    let url = dir.join("table").display().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let client = Client::new(runtime.handle().clone(), ClientOptions::default());
        let codec = Codec::<D, String>::new().expect("a codec");
        let open = Open::new(codec.schema());
        let shard = client.open_or_create(&url, open).await.expect("a shard");
        let mut file = FileEncoder::new(codec.schema()).expect("a file");
        let rows = rows.iter().map(|(row, diff)| (row, 1, *diff));
        file.write(&codec.encode(rows).expect("rows"))
            .expect("rows");
        if let Some(error) = error {
            let error = error.to_owned();
            let errors = codec.encode_errors([(&error, 2, 1)].into_iter());
            file.write(&errors.expect("an error")).expect("an error");
        }
        let file = file.finish().expect("a file");
        let meta = FileMeta::from(&file);
        let staged = shard
            .put_file(file.bytes, meta, &|_| ())
            .await
            .expect("a file");
        let append = Append {
            id: CommitId { nonce: 1, seq: 0 },
            lower: Frontier::At(0),
            upper: Frontier::At(5),
            files: vec![staged],
            since: None,
        };
        let appended = shard.append(append, &|_| ()).await.expect("a commit");
        assert_eq!(appended, Appended::Committed { version: 1 });
    });
    url
}

fn objects(lines: &str) -> Vec<Value> {
    let mut all: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    all.sort_by_key(|row| row["id"].as_i64());
    all
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn every_format_has_a_form_for_nulls_floats_and_lists() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = table(dir.path(), false);
    let rows = objects(&succeed(&["snapshot", &url, "--format", "ndjson"]));
    assert_eq!(
        rows,
        [
            json!({"id": 1, "city": "", "price": "NaN", "tags": ["a", "b"], "mv_diff": 1}),
            json!({"id": 2, "city": null, "price": "-Infinity", "tags": [], "mv_diff": 1}),
            json!({"id": 3, "city": "Oslo, N", "price": 10.5, "tags": ["x\"y"], "mv_diff": 2}),
            json!({"id": 4, "city": "Bergen", "price": 99.0, "tags": [], "mv_diff": 1}),
        ]
    );
    let tail = succeed(&["tail", &url, "--until", "5"]);
    assert!(tail.contains(r#""price":"NaN""#), "{tail}");
    let csv = succeed(&["snapshot", &url, "--format", "csv"]);
    assert_eq!(
        sorted(&csv),
        [
            r#"1,"",NaN,"[""a"",""b""]",1"#,
            "2,,-Infinity,[],1",
            r#"3,"Oslo, N",10.5,"[""x\""y""]",2"#,
            "4,Bergen,99.0,[],1",
            "id,city,price,tags,mv_diff",
        ]
    );
    let shown = succeed(&["snapshot", &url]);
    assert!(shown.contains("NULL") && shown.contains("\"\""), "{shown}");
}

#[test]
fn a_snapshot_is_narrowed_by_rows_columns_and_number() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = table(dir.path(), false);
    let csv = |more: &[&str]| {
        let mut arguments = vec!["snapshot", &url, "--format", "csv"];
        arguments.extend(more);
        succeed(&arguments)
    };
    assert_eq!(
        csv(&["--where", "id = 4", "--columns", "city,id"]),
        "city,id,mv_diff\nBergen,4,1\n"
    );
    let two = csv(&[
        "--where",
        "id >= 3 AND city IS NOT NULL",
        "--where",
        "price < 50",
        "--columns",
        "id",
    ]);
    assert_eq!(two, "id,mv_diff\n3,2\n");
    // What differs in other columns only adds up.
    let added = csv(&["--columns", "tags", "--where", "id <> 1"]);
    assert_eq!(
        sorted(&added),
        ["\"[\"\"x\\\"\"y\"\"]\",2", "[],2", "tags,mv_diff"]
    );
    assert_eq!(csv(&["--limit", "2"]).lines().count(), 3);
    assert_eq!(
        succeed(&["snapshot", &url, "--limit", "0"]).lines().count(),
        2
    );
    assert_eq!(succeed(&["snapshot", &url, "--count"]), "5\n");
    assert_eq!(
        succeed(&["snapshot", &url, "--count", "--where", "id > 99"]),
        "0\n"
    );
    let counted = succeed(&["snapshot", &url, "--count", "--format", "ndjson"]);
    assert_eq!(counted, "{\"count\":5}\n");

    let line = fail(&["snapshot", &url, "--columns", "town"], 1);
    assert!(line.contains("town"), "{line}");
    let line = fail(&["snapshot", &url, "--where", "town = 'x'"], 1);
    assert!(line.contains("town"), "{line}");
    let line = fail(&["snapshot", &url, "--where", "city = Oslo"], 2);
    assert!(line.contains("'Oslo'"), "{line}");
    fail(&["snapshot", &url, "--count", "--limit", "3"], 2);
}

/// A row of types that have no literal of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sale {
    id: i64,
    at: Option<DateTime<Utc>>,
    day: NaiveDate,
    price: Decimal,
    paid: bool,
}

#[test]
fn a_snapshot_is_narrowed_by_times_days_decimals_and_truth_values() {
    let sale = |id, at: Option<&str>, day: &str, cents, paid| Sale {
        id,
        at: at.map(|at| at.parse().expect("a time")),
        day: day.parse().expect("a day"),
        price: Decimal::new(cents, 2),
        paid,
    };
    let rows = [
        sale(1, Some("2026-01-31T12:00:00Z"), "2026-01-31", 1050, true),
        sale(2, Some("2026-01-31T12:00:00.5Z"), "2026-02-01", 999, false),
        sale(3, None, "2024-02-29", -5, true),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let url = table_of(dir.path(), &rows.map(|row| (row, 1)), None);
    for (condition, expected) in [
        ("at = '2026-01-31T12:00:00Z'", &[1][..]),
        ("at = '2026-01-31T14:00:00+02:00'", &[1]),
        ("at > '2026-01-31T07:00:00-05:00'", &[2]),
        ("at <= '2026-01-31 12:00:00'", &[1]),
        ("at >= '2026-01-31' AND at < '2026-02-01'", &[1, 2]),
        ("at IS NULL", &[3]),
        ("at IS NOT NULL AND paid = false", &[2]),
        ("day = '2024-02-29'", &[3]),
        ("day > '2026-01-31'", &[2]),
        ("price = 10.5", &[1]),
        ("price < '9.990000000000000001'", &[2, 3]),
        ("price >= -0.05 AND price < 10", &[2, 3]),
        ("paid <> true", &[2]),
    ] {
        let lines = succeed(&["snapshot", &url, "--format", "ndjson", "--where", condition]);
        let ids: Vec<_> = objects(&lines)
            .iter()
            .map(|row| row["id"].as_i64().expect("a number"))
            .collect();
        assert_eq!(ids, expected, "{condition}");
    }
    for (condition, column_and_type) in [
        ("at = 'noon'", "at is timestamp"),
        ("at > 20260131", "at is timestamp"),
        ("day = '2026-02-30'", "day is date"),
        ("price > 'much'", "price is decimal(38,18)"),
        ("paid = 1", "paid is boolean"),
        ("id = 'one'", "id is long"),
    ] {
        let line = fail(&["snapshot", &url, "--where", condition], 1);
        assert!(line.contains(column_and_type), "{condition}: {line}");
    }
    let line = fail(
        &["snapshot", &url, "--where", "at = 2026-01-31T12:00:00Z"],
        2,
    );
    assert!(
        line.contains("at is compared with 2026") && line.contains("'2026-01-31T12:00:00Z'"),
        "{line}"
    );
}

#[test]
fn rows_can_be_seen_beside_errors_if_that_is_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = table(dir.path(), true);
    let line = fail(&["snapshot", &url, "--count"], 1);
    assert!(
        line.contains("no price") && line.contains("--ignore-errors"),
        "{line}"
    );
    // Before the error, nothing is in error.
    assert_eq!(
        succeed(&["snapshot", &url, "--count", "--as-of", "1"]),
        "5\n"
    );
    let output = mvsink(&["snapshot", &url, "--count", "--ignore-errors"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "5\n");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("no price"), "{stderr}");
}

#[test]
fn inspect_says_columns_and_properties() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = table(dir.path(), false);
    let description = printed_json(&["inspect", &url, "--json"]);
    assert_eq!(description["properties"]["mvsink.format"], "1");
    let columns = description["columns"].as_array().expect("columns");
    assert_eq!(columns[0], json!({"name": "id", "type": "long"}));
    assert_eq!(columns[1], json!({"name": "city", "type": "string"}));
    assert_eq!(columns[3]["type"]["type"], "array");
    assert_eq!(columns.last().expect("columns")["name"], "mv_diff");
}

#[test]
fn inspect_of_a_directory_lists_the_tables_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = table(dir.path(), false);
    std::fs::create_dir(dir.path().join("other")).expect("a directory");
    std::fs::create_dir_all(dir.path().join("broken/_delta_log")).expect("a directory");
    let entry = dir
        .path()
        .join("broken/_delta_log/00000000000000000000.json");
    std::fs::write(entry, "{").expect("a file");
    let parent = text(dir.path());
    let listed = succeed(&["inspect", parent]);
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    assert!(
        lines[0].contains("/broken") && lines[0].contains("damaged"),
        "{listed}"
    );
    assert!(
        lines[1].contains("/table") && lines[1].contains("upper 5"),
        "{listed}"
    );
    let listed = printed_json(&["inspect", parent, "--json"]);
    assert_eq!(listed["tables"][1]["url"], url.as_str());
    assert_eq!(listed["tables"][1]["upper"], 5);
    for command in ["snapshot", "tail", "verify", "compact", "gc"] {
        let line = fail(&[command, parent], 1);
        assert!(
            line.contains("name one of them") && line.contains(&url),
            "{line}"
        );
    }
}

#[test]
fn a_place_without_a_table_is_reported_as_no_shard() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "mine").expect("a file");
    let log = dir.path().join("empty-log/_delta_log");
    std::fs::create_dir_all(&log).expect("a directory");
    for place in [
        dir.path(),
        &dir.path().join("empty-log"),
        &file,
        &file.join("below"),
    ] {
        for command in ["inspect", "snapshot", "tail", "verify", "compact", "gc"] {
            let line = fail(&[command, text(place)], 1);
            assert!(line.contains("there is no shard at"), "{command}: {line}");
        }
    }
}

#[test]
fn tail_says_at_once_how_far_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = table(dir.path(), false);
    // Nothing of these times is complete.
    let mut child = start(&["tail", &url, "--from", "7"]);
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
    child.kill().expect("a child");
    child.wait().expect("a child");
    assert_eq!(line, "{\"progress\":5}\n");
    // Before the rows at its first time, there is nothing.
    let lines = succeed(&["tail", &url, "--from", "1", "--until", "5"]);
    assert_eq!(lines.lines().next(), Some("{\"progress\":1}"));
    assert_eq!(lines.lines().last(), Some("{\"progress\":5}"));
}

#[test]
fn holds_that_hold_nothing_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = table(dir.path(), false);
    let line = fail(&["hold", "take", &url, "report", "--at", "6"], 1);
    assert!(line.contains("its upper is 5"), "{line}");
    let line = fail(&["hold", "take", &url, "report", "--lease", "0s"], 2);
    assert!(
        line.contains("lease") || line.contains("duration"),
        "{line}"
    );
    let line = fail(&["hold", "take", &url, "report", "--at", "-1"], 1);
    assert!(line.contains("-1"), "{line}");
    let line = fail(&["hold", "release", &url, "report"], 1);
    assert!(line.contains("no hold report"), "{line}");
    succeed(&["hold", "take", &url, "report", "--at", "5"]);
    let line = fail(&["hold", "release", &url, "reprot", "--json"], 1);
    assert!(line.contains("it has report"), "{line}");
    succeed(&["hold", "release", &url, "report"]);
    fail(&["hold", "release", &url, "report"], 1);
}

#[test]
fn a_directory_in_the_place_of_the_next_entry_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = table(dir.path(), false);
    let next = dir
        .path()
        .join("table/_delta_log/00000000000000000002.json");
    std::fs::create_dir(&next).expect("a directory");
    let line = fail(&["hold", "take", &url, "report"], 1);
    assert!(
        line.contains("is a directory") && line.contains("00002.json"),
        "{line}"
    );
    std::fs::remove_dir(&next).expect("a directory");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(dir.path().join("nothing"), &next).expect("a link");
        let line = fail(&["hold", "take", &url, "report"], 1);
        assert!(line.contains("is a link to nothing"), "{line}");
        std::fs::remove_file(&next).expect("a link");
    }
    succeed(&["hold", "take", &url, "report"]);
}
