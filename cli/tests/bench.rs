//! `bench`: that it measures, and leaves nothing behind. How fast things are is no test's business.

mod support;

use serde_json::Value;
use support::*;

/// What every row says, in this order first.
const KEYS: [&str; 10] = [
    "workload",
    "driver",
    "workers",
    "updates_per_s",
    "p50_ms",
    "p99_ms",
    "cpu_s",
    "floor_cpu_s",
    "peak_bytes",
    "tick_cpu_us",
];

/// The rows that a workload prints as JSON, measured in a directory that is empty afterwards.
fn measured(workload: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a directory");
    let url = text(dir.path());
    let printed = succeed(&[
        "bench", "--quick", "--json", "--dir", url, "--only", workload,
    ]);
    let left = std::fs::read_dir(dir.path()).expect("it is there").count();
    assert_eq!(left, 0, "{workload} leaves something");
    printed
        .lines()
        .map(|line| {
            let keys = KEYS.map(|key| line.find(&format!("\"{key}\":")).expect(key));
            assert!(keys.is_sorted(), "{line}");
            serde_json::from_str(line).expect("JSON")
        })
        .collect()
}

fn is_positive(row: &Value, key: &str) -> bool {
    row[key].as_f64().is_some_and(|number| number > 0.0)
}

#[test]
fn each_driver_is_measured_beside_the_floor() {
    let rows = measured("latency_durable");
    let drivers: Vec<_> = rows.iter().map(|row| &row["driver"]).collect();
    assert_eq!(drivers, ["sync", "async"]);
    for row in &rows {
        for key in [
            "updates_per_s",
            "p50_ms",
            "p99_ms",
            "cpu_s",
            "floor_cpu_s",
            "floor_p50_ms",
        ] {
            assert!(is_positive(row, key), "{key} of {row}");
        }
        assert!(row["tick_cpu_us"].is_null(), "{row}");
        assert!(row["p50_ms"].as_f64() <= row["p99_ms"].as_f64(), "{row}");
    }
}

#[test]
fn corrections_are_measured_by_themselves() {
    let rows = measured("corrections_small");
    assert_eq!(rows.len(), 1);
    assert!(rows[0]["driver"].is_null() && is_positive(&rows[0], "floor_cpu_s"));
    assert!(is_positive(&rows[0], "updates_per_s"));
}

#[test]
fn a_table_is_printed_unless_json_is_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let printed = succeed(&[
        "bench",
        "--quick",
        "--dir",
        text(dir.path()),
        "--only",
        "latency",
    ]);
    let mut lines = printed.lines();
    assert!(lines.next().is_some_and(|head| head.contains("updates/s")));
    let first: Vec<Vec<_>> = lines
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    assert_eq!(first, [["latency", "sync", "1"], ["latency", "async", "1"]]);
}

#[test]
fn a_place_that_cannot_be_had_is_one_line() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let url = format!("{}/below", text(file.path()));
    let said = fail(&["bench", "--quick", "--only", "latency", "--dir", &url], 1);
    assert!(
        said.starts_with(&format!("mvsink: cannot make a directory in {url}")),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}
