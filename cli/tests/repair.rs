//! `verify` names damage, `repair` does what can be done about it, and the next run goes on.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::*;

/// The demo's shards after several runs, and the same without damage.
fn demo(dir: &Path, events: &str) {
    succeed(&nexmark(dir, events, "1"));
}

fn entries(shard: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(shard.join("_delta_log"))
        .expect("a log")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    entries.sort();
    entries
}

fn data_files(shard: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(shard)
        .expect("a shard")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

fn json(arguments: &[&str], status: i32) -> Value {
    let output = mvsink(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {stderr}"
    );
    assert_eq!(stderr.lines().count(), usize::from(status != 0), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("a JSON object")
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// Both directories hold the same view.
fn expect_same(left: &Path, right: &Path) {
    let at = (upper(left).min(upper(right)) - 1).to_string();
    let snapshot = |shard: &Path| {
        succeed(&[
            "snapshot",
            text(shard),
            "--as-of",
            &at,
            "--format",
            "ndjson",
        ])
    };
    assert_eq!(sorted(&snapshot(left)), sorted(&snapshot(right)));
}

#[test]
fn a_view_whose_files_are_lost_is_repaired_by_command_and_next_run() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    demo(dir.path(), "3000");
    demo(dir.path(), "6000");
    demo(whole.path(), "9000");
    let shard = dir.path().join("q3");
    let url = text(&shard);
    assert_eq!(succeed(&["repair", url]), "nothing to repair\n");
    let files = data_files(&shard);
    fs::remove_file(&files[0]).unwrap();
    let short = fs::read(&files[1]).unwrap();
    fs::write(&files[1], &short[..short.len() / 2]).unwrap();

    let found = json(&["verify", url, "--json"], 1);
    let kinds: Vec<_> = found["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["kind"].as_str().unwrap())
        .collect();
    assert!(
        kinds.contains(&"missing") && kinds.contains(&"size"),
        "{found}"
    );
    let planned = json(&["repair", url, "--dry-run", "--json"], 0);
    let told = succeed(&["repair", url, "--dry-run"]);
    assert!(
        told.starts_with("would drop the references to 2 data files"),
        "{told}"
    );
    assert_eq!(
        json(&["verify", url, "--json"], 1),
        found,
        "a dry run changes nothing"
    );
    let done = json(&["repair", url, "--json"], 0);
    assert_eq!(done["steps"], planned["steps"]);
    assert!(
        done["rows_lost"].as_u64() > Some(0) && done["committed"].is_u64(),
        "{done}"
    );
    assert_eq!(succeed(&["repair", url]), "nothing to repair\n");
    succeed(&["verify", url]);
    demo(dir.path(), "9000");
    expect_same(&shard, &whole.path().join("q3"));
    succeed(&["verify", url]);
}

#[test]
fn entries_that_are_lost_are_named_and_given_up_only_if_told() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for events in ["2000", "4000", "6000"] {
        demo(dir.path(), events);
    }
    demo(whole.path(), "9000");
    let shard = dir.path().join("q4");
    let url = text(&shard);
    let entries = entries(&shard);
    let lost = &entries[entries.len() - 2];
    fs::remove_file(lost).unwrap();
    let last = entries
        .last()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap();
    let line = String::from_utf8(mvsink(&["verify", url]).stderr).unwrap();
    assert!(
        line.contains(last) && line.contains("missing") && line.contains("mvsink repair"),
        "{line}"
    );
    let left = json(&["repair", url, "--json"], 1);
    assert_eq!(left["left"][0]["kind"], "entries missing");
    let line = String::from_utf8(mvsink(&["repair", url]).stderr).unwrap();
    assert!(line.contains("--drop-entries"), "{line}");
    let run = mvsink(&nexmark(dir.path(), "9000", "1"));
    assert_eq!(run.status.code(), Some(1));
    let line = String::from_utf8(run.stderr).unwrap();
    assert!(
        line.contains("gap") && line.contains("mvsink repair"),
        "{line}"
    );
    let told = succeed(&["repair", url, "--drop-entries"]);
    assert!(told.starts_with("set aside 1 files of the log"), "{told}");
    succeed(&["verify", url]);
    demo(dir.path(), "9000");
    expect_same(&shard, &whole.path().join("q4"));
    succeed(&["verify", url]);
}
