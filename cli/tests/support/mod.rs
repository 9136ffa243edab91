//! Runs the binary, and reads back what it wrote through its own commands.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// All shards of a run.
pub const SHARDS: [&str; 10] = [
    "bid", "auction", "person", "q0", "q1", "q2", "q3", "q4", "q5", "q8",
];

/// Consolidated updates of a shard: `(row as JSON, time) -> diff`.
pub type History = BTreeMap<(String, i64), i64>;

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mvsink"));
    command.args(arguments).stdin(Stdio::null());
    command
}

pub fn mvsink(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary runs")
}

/// Runs a command that must succeed, and gives its standard output.
pub fn succeed(arguments: &[&str]) -> String {
    let output = mvsink(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{arguments:?}: {}: {stderr}",
        output.status
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that must fail with this status and one line on standard error, and gives that line.
pub fn fail(arguments: &[&str], status: i32) -> String {
    let output = mvsink(arguments);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {stderr}"
    );
    assert_eq!(
        stderr.trim_end().lines().count(),
        1,
        "{arguments:?}: one line: {stderr}"
    );
    assert!(
        output.stdout.is_empty(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    stderr.trim_end().to_owned()
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

pub fn nexmark<'a>(dir: &'a Path, events: &'a str, workers: &'a str) -> Vec<&'a str> {
    vec![
        "run",
        "nexmark",
        "--dir",
        text(dir),
        "--events",
        events,
        "--workers",
        workers,
    ]
}

pub fn start(arguments: &[&str]) -> Child {
    command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

/// The one JSON object that a command prints.
pub fn printed_json(arguments: &[&str]) -> Value {
    let line = succeed(arguments);
    assert_eq!(line.lines().count(), 1, "{arguments:?}: {line}");
    serde_json::from_str(&line).expect("a JSON object")
}

pub fn inspect(shard: &Path) -> Value {
    printed_json(&["inspect", text(shard), "--json"])
}

pub fn upper(shard: &Path) -> i64 {
    inspect(shard)["upper"]
        .as_i64()
        .expect("an upper that is a time")
}

/// All updates of a shard below its upper.
pub fn history(shard: &Path) -> History {
    let until = upper(shard).to_string();
    parse_tail(
        &succeed(&["tail", text(shard), "--from", "0", "--until", &until]),
        &until,
    )
}

/// The updates that `tail --until` printed; its last line must say that it got there.
pub fn parse_tail(lines: &str, until: &str) -> History {
    let mut history = History::new();
    let mut last = None;
    for line in lines.lines() {
        let mut row: Value = serde_json::from_str(line).expect("a JSON object a line");
        let object = row.as_object_mut().expect("a JSON object a line");
        if let Some(progress) = object.get("progress") {
            let progress = progress.as_i64();
            assert!(last < Some(progress), "progress moves on: {line}");
            last = Some(progress);
            continue;
        }
        let time = object
            .remove("mv_time")
            .and_then(|time| time.as_i64())
            .expect("a time");
        let diff = object
            .remove("mv_diff")
            .and_then(|diff| diff.as_i64())
            .expect("a diff");
        assert!(
            last < Some(Some(time + 1)),
            "no update below the progress: {line}"
        );
        *history.entry((row.to_string(), time)).or_default() += diff;
    }
    assert_eq!(
        last.flatten().map(|time| time.to_string()).as_deref(),
        Some(until)
    );
    history.retain(|_, diff| *diff != 0);
    history
}

/// The contents at `time`: updates up to it, summed.
pub fn contents(history: &History, time: i64) -> BTreeMap<String, i64> {
    let mut rows = BTreeMap::new();
    for ((row, _), diff) in history.iter().filter(|((_, at), _)| *at <= time) {
        *rows.entry(row.clone()).or_default() += diff;
    }
    rows.retain(|_, diff| *diff != 0);
    rows
}

/// The histories of all shards, in order; all shards must be at the same upper.
pub fn histories(dir: &Path) -> Vec<History> {
    let uppers: Vec<_> = SHARDS.iter().map(|shard| upper(&dir.join(shard))).collect();
    assert!(
        uppers.iter().all(|upper| *upper == uppers[0]),
        "one upper: {uppers:?}"
    );
    SHARDS
        .iter()
        .map(|shard| history(&dir.join(shard)))
        .collect()
}

pub fn assert_same(found: &[History], expected: &[History]) {
    for ((shard, found), expected) in SHARDS.iter().zip(found).zip(expected) {
        let differing = |a: &History, b: &History| {
            let only = a
                .iter()
                .filter(|(update, diff)| b.get(update) != Some(diff));
            only.take(5)
                .map(|update| format!("{update:?}"))
                .collect::<Vec<_>>()
        };
        let (more, less) = (differing(found, expected), differing(expected, found));
        assert!(
            more.is_empty() && less.is_empty(),
            "{shard}: not {more:#?}, but {less:#?}"
        );
    }
}

/// How many log entries all shards of a directory have.
pub fn log_entries(dir: &Path) -> usize {
    let entries = |shard: &&str| {
        let log = std::fs::read_dir(dir.join(shard).join("_delta_log"));
        let named = log
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name());
        named
            .filter(|name| name.to_string_lossy().ends_with(".json"))
            .count()
    };
    SHARDS.iter().map(entries).sum()
}
