//! Entries that say of frontiers what no writer can have said: whoever opens or follows the shard refuses them by name, and
//! they can be given up.

mod support;

use std::fs;
use std::path::Path;

use mvsink_persist::{Error, RepairOptions};
use serde_json::{Value, json};
use support::damage::*;
use support::run;

fn txn(name: &str, version: i64) -> Value {
    json!({"txn": {"appId": format!("mvsink.{name}"), "version": version}})
}

/// As a sink has it.
fn info(lower: i64, upper: i64) -> Value {
    let id = format!("{:032x}-7", 0xabcdef);
    json!({"commitInfo": {"mvsink.id": id, "mvsink.lower": lower, "mvsink.upper": upper}})
}

fn row() -> Value {
    add("theirs.parquet", 9)
}

#[test]
fn whoever_opens_or_follows_refuses_forged_frontiers_by_the_name_of_their_entry() {
    let cases: Vec<(&str, Vec<Value>)> = vec![
        ("an upper of nobody", vec![txn("upper", 106)]),
        ("an upper near the end", vec![txn("upper", i64::MAX - 1)]),
        ("the end by nobody", vec![txn("upper", i64::MAX)]),
        ("an upper below 0", vec![txn("upper", -1)]),
        ("an upper that goes back", vec![info(6, 6), txn("upper", 3)]),
        ("a since of nobody", vec![txn("since", 3)]),
        (
            "a since beyond the upper",
            vec![info(6, 7), txn("upper", 7), txn("since", 8)],
        ),
        (
            "a since at the end",
            vec![info(6, 7), txn("upper", 7), txn("since", i64::MAX)],
        ),
        (
            "a since that goes back",
            vec![info(6, 7), txn("upper", 7), txn("since", -2)],
        ),
        (
            "an upper beside what is said",
            vec![info(6, 7), txn("upper", 107)],
        ),
        (
            "the end beside what is said",
            vec![info(6, 7), txn("upper", i64::MAX)],
        ),
        ("no upper where one is said", vec![info(6, 7)]),
        ("a lower elsewhere", vec![info(5, 7), txn("upper", 7)]),
        ("rows and no upper", vec![info(6, 6), row()]),
        (
            "reviews to come",
            vec![info(6, 7), txn("upper", 7), txn("reviewed", 99)],
        ),
        (
            "acceptance to come",
            vec![info(6, 6), txn("accepted", i64::MAX - 1)],
        ),
    ];
    for (what, actions) in cases {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            let writer = filled(dir, 6).await;
            let before = writer.progress();
            put_entry(dir, 7, &actions);
            refused(&writer.refresh().await.unwrap_err(), what);
            assert_eq!(writer.progress(), before, "{what}");
            drop(writer);
            expect_given_up(dir, what).await;
        });
    }
}

#[test]
fn numbers_that_no_frontier_has_are_refused() {
    for number in [
        "9223372036854775907",
        "1e30",
        "3.5",
        "\"many\"",
        "null",
        "[6]",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        run(async {
            drop(filled(dir, 6).await);
            let line = format!(r#"{{"txn":{{"appId":"mvsink.upper","version":{number}}}}}"#);
            fs::write(entry(dir, 7), line + "\n").unwrap();
            expect_given_up(dir, number).await;
        });
    }
}

fn refused(error: &Error, what: &str) {
    let line = error.to_string();
    assert!(matches!(error, Error::Corrupt { .. }), "{what}: {line}");
    assert!(
        line.contains("00007.json") && line.contains("mvsink repair"),
        "{what}: {line}"
    );
}

async fn expect_given_up(dir: &Path, what: &str) {
    let damaged = contents(dir);
    refused(
        &open(dir).await.err().unwrap_or_else(|| panic!("{what}")),
        what,
    );
    let found = verify(dir).await;
    assert!(
        found.findings[0].path.contains("00007.json"),
        "{what}: {found:?}"
    );
    let mut options = RepairOptions::default();
    let report = plain().repair(url(dir), &options, &|_| ()).await.unwrap();
    assert!(
        report.left[0].advice.contains("--drop-entries"),
        "{what}: {report:?}"
    );
    assert!(contents(dir) == damaged, "{what}");
    options.drop_entries = true;
    let report = plain().repair(url(dir), &options, &|_| ()).await.unwrap();
    assert!(report.left.is_empty(), "{what}: {report:?}");
    assert_eq!(open(dir).await.unwrap().progress().upper, at(6), "{what}");
    assert!(verify(dir).await.is_clean(), "{what}");
}
