//! The commands that look after shards: verify, compact, gc, hold.

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::*;

/// A shard with a few files, in a directory of the caller's own.
fn shard(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    for events in ["1000", "2000", "3000", "4000", "5000"] {
        let mut arguments = nexmark(dir.path(), events, "2");
        // What is merged here is to be merged by hand.
        arguments.extend(["--set", "mvsink_compaction=false"]);
        succeed(&arguments);
    }
    let shard = dir.path().join(name);
    (dir, shard)
}

fn files(shard: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(shard).expect("a shard").flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn compact_merges_and_gc_deletes_what_it_replaced() {
    let (_dir, shard) = shard("q1");
    let url = text(&shard);
    let snapshot = || succeed(&["snapshot", url, "--format", "ndjson"]);
    let (before, updates) = (snapshot(), history(&shard));
    let loose = files(&shard);
    assert!(loose.len() > 4, "{loose:?}");

    let dry = printed_json(&["compact", url, "--full", "--dry-run", "--json"]);
    assert_eq!(dry["files_in"], loose.len());
    assert_eq!(files(&shard), loose, "a dry run changes nothing");

    let merged = printed_json(&["compact", url, "--full", "--json"]);
    assert_eq!(
        (&merged["merges"], &merged["files_out"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        merged["rows_in"], merged["rows_out"],
        "nothing may be consolidated yet"
    );
    assert_eq!(sorted(&snapshot()), sorted(&before));
    assert_eq!(history(&shard), updates, "no time is lost");
    let again = succeed(&["compact", url, "--full"]);
    assert_eq!(again, "nothing to merge\n");

    // The grace period, and then its end.
    let spared = printed_json(&["gc", url, "--json"]);
    assert_eq!(spared["removed"]["files"], 0);
    assert_eq!(spared["spared"]["grace"]["files"], loose.len());
    let dry = printed_json(&["gc", url, "--grace", "0s", "--dry-run", "--json"]);
    assert_eq!(dry["removed"]["files"], loose.len());
    assert_eq!(files(&shard).len(), loose.len() + 1);
    let told = succeed(&["gc", url, "--grace", "0s"]);
    assert!(
        told.contains(&format!("deleted {} files", loose.len())),
        "{told}"
    );
    assert_eq!(files(&shard).len(), 1);
    assert_eq!(sorted(&snapshot()), sorted(&before));
}

#[test]
fn gc_deletes_what_was_never_committed() {
    let (_dir, shard) = shard("q2");
    let url = text(&shard);
    let live = files(&shard);
    let orphan = shard.join("6f9619ff-8b86-4d01-b42d-00cf4fc964ff.parquet");
    std::fs::write(&orphan, "left behind").expect("a file");
    let young = printed_json(&["gc", url, "--json"]);
    assert_eq!(young["orphans"]["files"], 0, "{young}");
    assert!(orphan.exists());
    let told = printed_json(&["gc", url, "--orphan-age", "0s", "--json"]);
    assert_eq!(told["orphans"]["files"], 1, "{told}");
    assert_eq!(files(&shard), live);
}

/// Gives a file, which is created if it is not there, another time.
fn touch(path: &Path, seconds_since_1970: u64) {
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .open(path);
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds_since_1970);
    file.and_then(|file| file.set_modified(at)).expect("a file");
}

#[test]
fn gc_goes_by_no_file_with_a_time_that_cannot_be() {
    let (dir, shard) = shard("q1");
    let url = text(&shard);
    succeed(&["compact", url, "--full"]);
    let young = shard.join("6f9619ff-8b86-4d01-b42d-00cf4fc964ff.parquet");
    std::fs::write(&young, "staged just now").expect("a file");
    let log = shard.join("_delta_log");
    let count = |folder: &Path| std::fs::read_dir(folder).expect("a directory").count();
    let beside = dir.path().join("beside.parquet");
    let (stray, in_log) = (shard.join("stray.parquet"), log.join("stray"));
    let first = log.join(format!("{:020}.json", 0));
    let last = std::fs::read_dir(&log).expect("a log").flatten();
    let last = last.map(|entry| entry.path());
    let last = last.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let last = last.max().expect("an entry");
    for path in [&beside, &stray, &in_log, &first, &last] {
        // In 2096, and at the beginning of 1970.
        for time in [4_000_000_000, 0] {
            let is_new = !path.exists();
            touch(path, time);
            let before = (files(&shard).len(), count(&log));
            let told = printed_json(&["gc", url, "--json"]);
            let strays = usize::from(path == &stray && time == 0);
            assert_eq!(told["orphans"]["files"], strays, "{told}");
            assert_eq!(told["removed"]["files"], 0, "{told}");
            assert_eq!(told["log"]["files"], 0, "{told}");
            assert!(young.exists());
            assert_eq!(files(&shard).len(), before.0 - strays);
            assert!(count(&log) >= before.1);
            if is_new && path.exists() {
                std::fs::remove_file(path).expect("a file");
            }
        }
    }
    // What is old goes all the same.
    touch(&stray, 4_000_000_000);
    touch(&young, 1_700_000_000);
    let told = printed_json(&["gc", url, "--json"]);
    assert_eq!(told["orphans"]["files"], 1, "{told}");
}

#[test]
fn verify_names_the_file_that_differs() {
    let (_dir, shard) = shard("bid");
    let url = text(&shard);
    let clean = printed_json(&["verify", url, "--json"]);
    assert_eq!(clean["findings"], serde_json::json!([]));
    assert_eq!(clean["rows"].as_i64(), inspect(&shard)["rows"].as_i64());
    succeed(&["verify", url]);

    // Another file's bytes under this one's name.
    let all = files(&shard);
    std::fs::copy(&all[0], &all[1]).expect("a file");
    let name = all[1]
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let output = mvsink(&["verify", url, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).expect("text");
    assert!(line.contains(&name) && line.lines().count() == 1, "{line}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a JSON object");
    let findings = report["findings"].as_array().expect("a list");
    assert!(!findings.is_empty());
    assert!(
        findings
            .iter()
            .all(|finding| finding["file"] == name.as_str()),
        "{report}"
    );
    // Merging it would make the damage look right.
    let line = fail(&["compact", url, "--full"], 1);
    assert!(line.contains(&name), "{line}");
}

#[test]
fn holds_are_taken_listed_and_released() {
    let (_dir, shard) = shard("q4");
    let url = text(&shard);
    assert_eq!(succeed(&["hold", "list", url]), "");
    let taken = printed_json(&[
        "hold", "take", url, "report", "--at", "5", "--lease", "2h", "--json",
    ]);
    assert_eq!(
        (&taken["name"], &taken["at"]),
        (&"report".into(), &5.into())
    );
    assert_eq!(taken["lease_s"], 7200.0);
    let listed = printed_json(&["hold", "list", url, "--json"]);
    assert_eq!(listed, taken);
    assert_eq!(inspect(&shard)["holds"][0], taken);
    let line = fail(&["hold", "take", url, "report"], 1);
    assert!(line.contains("report"), "{line}");
    // Files that its version has are kept, whatever the grace.
    succeed(&["compact", url, "--full"]);
    let spared = printed_json(&["gc", url, "--grace", "0s", "--json"]);
    assert_eq!(spared["removed"]["files"], 0, "{spared}");
    assert!(
        spared["spared"]["held"]["files"].as_i64() > Some(0),
        "{spared}"
    );
    succeed(&["hold", "release", url, "report"]);
    assert_eq!(succeed(&["hold", "list", url]), "");
    let line = fail(&["hold", "release", url, "report"], 1);
    assert!(line.contains("no hold report"), "{line}");
    let line = fail(&["hold", "take", url, "report", "--at", "-1"], 1);
    assert!(line.contains("-1"), "{line}");
    let line = fail(&["hold", "take", url, "a/b"], 1);
    assert!(line.contains("a/b"), "{line}");
    let deleted = printed_json(&["gc", url, "--grace", "0s", "--json"]);
    assert!(deleted["removed"]["files"].as_i64() > Some(0), "{deleted}");
}

#[test]
fn who_watches_long_enough_releases_what_nobody_renews() {
    let (_dir, shard) = shard("q4");
    let url = text(&shard);
    succeed(&["hold", "take", url, "gone", "--lease", "1s"]);
    succeed(&["compact", url, "--full"]);
    let glance = printed_json(&["gc", url, "--grace", "0s", "--json"]);
    assert_eq!(glance["released_holds"], serde_json::json!([]));
    let watched = printed_json(&["gc", url, "--grace", "0s", "--watch", "1h", "--json"]);
    assert_eq!(watched["released_holds"], serde_json::json!(["gone"]));
    assert!(watched["removed"]["files"].as_i64() > Some(0), "{watched}");
}

#[test]
fn a_run_compacts_by_itself_and_keeps_the_window_that_it_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut arguments = nexmark(dir.path(), "60000", "2");
    // Slow enough for a few rounds of maintenance.
    arguments.extend(["--rate", "20000"]);
    for setting in [
        "mvsink_maintenance_interval_ms=50",
        "mvsink_retain_time=1000",
        "mvsink_compaction_fan_in=2",
    ] {
        arguments.extend(["--set", setting]);
    }
    succeed(&arguments);
    let plain = tempfile::tempdir().expect("a directory");
    succeed(&nexmark(plain.path(), "60000", "1"));
    for name in SHARDS {
        let (kept, whole) = (dir.path().join(name), plain.path().join(name));
        let upper = upper(&kept);
        let since = inspect(&kept)["since"].as_i64().expect("a time");
        // The sources are held at what the views have, which is looked at now and then.
        let moved = since > 0 || SHARDS[..3].contains(&name);
        assert!(
            moved && since < upper,
            "{name}: since {since}, upper {upper}"
        );
        let at = |shard: &Path, time: i64| {
            succeed(&[
                "snapshot",
                text(shard),
                "--as-of",
                &time.to_string(),
                "--format",
                "ndjson",
            ])
        };
        for time in [since, upper - 1] {
            assert_eq!(
                sorted(&at(&kept, time)),
                sorted(&at(&whole, time)),
                "{name} at {time}"
            );
        }
        succeed(&["verify", text(&kept)]);
    }
    // A restart can always rebuild, whatever the window.
    succeed(&nexmark(dir.path(), "70000", "2"));
}
