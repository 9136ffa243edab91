//! The commands that look at shards, and what every command says of a shard that is not right.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use support::*;

const EVENTS: &str = "3000";

/// What is in a directory: paths and bytes.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

fn tree(dir: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("a file");
                tree.insert(path.strip_prefix(dir).expect("below").to_owned(), bytes);
            }
        }
    }
    tree
}

/// The shards of a small run, in a directory of the caller's own.
fn shards() -> tempfile::TempDir {
    static SHARDS: OnceLock<Tree> = OnceLock::new();
    let written = SHARDS.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        succeed(&nexmark(dir.path(), "1000", "1"));
        succeed(&nexmark(dir.path(), EVENTS, "2"));
        tree(dir.path())
    });
    let dir = tempfile::tempdir().expect("a directory");
    for (path, bytes) in written {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, bytes).expect("a file");
    }
    dir
}

/// The last log entry of a shard.
fn last_entry(shard: &Path) -> PathBuf {
    let log = std::fs::read_dir(shard.join("_delta_log"))
        .expect("a log")
        .flatten();
    let entries = log
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"));
    entries.max().expect("an entry")
}

fn data_file(shard: &Path) -> PathBuf {
    let files = std::fs::read_dir(shard)
        .expect("a shard")
        .flatten()
        .map(|entry| entry.path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        .min()
        .expect("a data file")
}

#[test]
fn inspect_says_what_the_log_says() {
    let dir = shards();
    let shard = dir.path().join("q4");
    let description = inspect(&shard);
    for (key, least) in [
        ("since", 0),
        ("version", 2),
        ("files", 1),
        ("rows", 1),
        ("bytes", 1),
    ] {
        assert!(
            description[key].as_i64() >= Some(least),
            "{key}: {description}"
        );
    }
    assert!(
        description["upper"].as_i64() > Some(1_436_918_400_000),
        "{description}"
    );
    let as_text = succeed(&["inspect", text(&shard)]);
    assert!(
        as_text.contains(&description["upper"].to_string()),
        "{as_text}"
    );
    let source = succeed(&["inspect", text(&dir.path().join("bid"))]);
    assert!(source.contains("mvsink.nexmark.seed = 0"), "{source}");
}

#[test]
fn snapshot_prints_the_contents_at_a_time() {
    let dir = shards();
    for view in ["q4", "q8", "bid"] {
        let shard = dir.path().join(view);
        let (history, upper) = (history(&shard), upper(&shard));
        for time in [0, 1_436_918_400_050, upper - 1] {
            let as_of = time.to_string();
            let lines = succeed(&[
                "snapshot",
                text(&shard),
                "--as-of",
                &as_of,
                "--format",
                "ndjson",
            ]);
            let mut found = BTreeMap::new();
            for line in lines.lines() {
                assert!(line.contains(",\"mv_diff\":"), "mv_diff is last: {line}");
                let mut row: Value = serde_json::from_str(line).expect("a JSON object a line");
                let row_object = row.as_object_mut().expect("a JSON object a line");
                let diff = row_object.remove("mv_diff").and_then(|diff| diff.as_i64());
                let diff = diff.expect("a diff");
                assert!(
                    found.insert(row.to_string(), diff).is_none(),
                    "consolidated: {line}"
                );
            }
            assert_eq!(found, contents(&history, time), "{view} at {time}");
        }
        let rows = contents(&history, upper - 1).len();
        let csv = succeed(&["snapshot", text(&shard), "--format", "csv"]);
        assert_eq!(
            csv.lines().count(),
            rows + 1,
            "{view}: a header and the rows"
        );
        assert!(
            csv.lines()
                .next()
                .is_some_and(|header| header.ends_with(",mv_diff"))
        );
        let table = succeed(&["snapshot", text(&shard)]);
        assert_eq!(
            table.lines().count(),
            rows + 2,
            "{view}: a header, a rule and the rows"
        );
    }
}

#[test]
fn a_snapshot_outside_of_the_readable_times_is_refused() {
    let dir = shards();
    let shard = dir.path().join("q4");
    let upper = upper(&shard);
    let line = fail(
        &["snapshot", text(&shard), "--as-of", &upper.to_string()],
        1,
    );
    assert!(line.contains(&format!("its upper is {upper}")), "{line}");
    let line = fail(&["snapshot", text(&shard), "--as-of", "-1"], 1);
    assert!(line.contains("since 0"), "{line}");
    let line = fail(&["tail", text(&shard), "--from", "-1"], 1);
    assert!(line.contains("since 0"), "{line}");
}

#[test]
fn tail_begins_with_the_contents_at_its_first_time() {
    let dir = shards();
    let shard = dir.path().join("q4");
    let (whole, upper) = (history(&shard), upper(&shard));
    let from = upper - 100;
    let until = upper.to_string();
    let lines = succeed(&[
        "tail",
        text(&shard),
        "--from",
        &from.to_string(),
        "--until",
        &until,
    ]);
    let later = parse_tail(&lines, &until);
    assert!(later.keys().all(|(_, time)| *time >= from));
    for time in [from, from + 50, upper - 1] {
        assert_eq!(contents(&later, time), contents(&whole, time), "at {time}");
    }
}

#[test]
fn tail_follows_a_shard_that_grows() {
    let dir = shards();
    let shard = dir.path().join("q5");
    let goal = dir.path().join("goal");
    succeed(&nexmark(&goal, "6000", "1"));
    let until = upper(&goal.join("q5")).to_string();
    let tail = start(&["tail", text(&shard), "--from", "0", "--until", &until]);
    succeed(&nexmark(dir.path(), "6000", "1"));
    let output = tail.wait_with_output().expect("a child");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let followed = parse_tail(&String::from_utf8(output.stdout).expect("text"), &until);
    assert_eq!(followed, history(&goal.join("q5")));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let dir = shards();
    let shard = dir.path().join("bid");
    for arguments in [
        &["snapshot", text(&shard), "--format", "ndjson"][..],
        &["snapshot", text(&shard)],
        &["tail", text(&shard), "--until", "1436918400100"],
    ] {
        let mut child = start(arguments);
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::with_capacity(16, stdout)
            .read_line(&mut line)
            .expect("a line");
        // The pipe is closed here, long before everything is printed.
        let output = child.wait_with_output().expect("a child");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.code(), stderr.as_ref()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

#[test]
fn there_is_no_shard() {
    let dir = tempfile::tempdir().expect("a directory");
    let shard = dir.path().join("nothing");
    for command in ["inspect", "snapshot", "tail", "verify", "compact", "gc"] {
        let line = fail(&[command, text(&shard)], 1);
        assert!(line.contains("there is no shard at"), "{line}");
        assert!(!shard.exists(), "looking creates nothing");
    }
    let line = fail(&["inspect", "gopher://shard"], 1);
    assert!(line.contains("gopher://"), "{line}");
}

#[test]
fn every_command_refuses_what_looks_like_a_url_and_is_none() {
    let dir = tempfile::tempdir().expect("a directory");
    for (url, why) in [
        ("file:x", "absolute path"),
        ("file://elsewhere/x", "of this machine"),
        ("s3:/bucket/x", "s3://name/path"),
        ("htp://bucket/x", "htp: is not a kind of store"),
        ("c:\\x", "c: is not a kind of store"),
        ("data:v2", "./data:"),
        ("my_s3://bucket/x", "before ://"),
    ] {
        let commands: [&[&str]; 11] = [
            &["inspect", url],
            &["snapshot", url],
            &["tail", url],
            &["verify", url],
            &["compact", url],
            &["gc", url],
            &["hold", "list", url],
            &["hold", "take", url, "x", "--at", "0"],
            &["hold", "release", url, "x"],
            &["run", "nexmark", "--events", "9", "--dir", url],
            &["bench", "--quick", "--only", "bulk", "--dir", url],
        ];
        for arguments in commands {
            let output = command(arguments).current_dir(dir.path()).output();
            let output = output.expect("the binary runs");
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
            assert!(told.contains(why), "{arguments:?}: {told}");
            assert_eq!(told.lines().count(), 1, "{arguments:?}: {told}");
        }
    }
    fail(&["run", "nexmark", "--dir", ""], 2);
    assert_eq!(std::fs::read_dir(&dir).expect("it is there").count(), 0);
}

#[test]
fn a_directory_may_be_named_in_every_form() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().canonicalize().expect("it is there");
    let within = root.join("of 2024:x");
    let run = |url: &str| {
        let arguments = [
            "run",
            "nexmark",
            "--workers",
            "1",
            "--events",
            "500",
            "--dir",
            url,
        ];
        let output = command(&arguments).current_dir(&root).output();
        let output = output.expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{url}: {told}");
    };
    let text = within.to_str().expect("text");
    let encoded = text.replace(' ', "%20");
    let forms = [
        format!("file:{encoded}"),
        format!("file:{text}"),
        format!("file://{encoded}/"),
        format!("file://localhost{encoded}"),
        format!("FILE:{encoded}"),
        text.to_owned(),
        "./of 2024:x".to_owned(),
        "of 2024:x".to_owned(),
    ];
    run(&forms[0]);
    let expected = history(&within.join("q1"));
    assert!(!expected.is_empty());
    for form in &forms {
        let url = format!("{}/q1", form.trim_end_matches('/'));
        let output = command(&["inspect", &url]).current_dir(&root).output();
        assert!(output.expect("the binary runs").status.success(), "{url}");
    }
    run(&forms[7]);
    assert_eq!(history(&within.join("q1")), expected);
    let there = std::fs::read_dir(&root).expect("it is there");
    assert_eq!(there.count(), 1, "no form makes another directory");
}

#[test]
fn flags_are_checked_before_anything_is_done() {
    let dir = tempfile::tempdir().expect("a directory");
    let target = dir.path().join("new");
    let run = |setting: &str| {
        let mut arguments = nexmark(&target, "100", "1");
        arguments.extend(["--set", setting]);
        fail(&arguments, 2)
    };
    let line = run("no_such_flag=1");
    assert!(
        line.contains("no_such_flag") && line.contains("mvsink_chunk_rows"),
        "{line}"
    );
    let line = run("mvsink_chunk_rows=many");
    assert!(line.contains("a whole number"), "{line}");
    let line = run("enable_sync_mv_sink=maybe");
    assert!(line.contains("true or false"), "{line}");
    assert!(!target.exists());
}

#[test]
fn either_driver_writes_the_same() {
    let written = [true, false].map(|sync| {
        let dir = tempfile::tempdir().expect("a directory");
        let setting = format!("enable_sync_mv_sink={sync}");
        let mut arguments = nexmark(dir.path(), EVENTS, "2");
        arguments.extend(["--set", &setting]);
        succeed(&arguments);
        history(&dir.path().join("q4"))
    });
    assert!(!written[0].is_empty());
    assert_eq!(written[0], written[1]);
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "mine").expect("a file");
    let below = file.join("shards");
    let line = fail(&nexmark(&below, "100", "1"), 1);
    assert!(line.contains(text(&file)), "{line}");
    assert_eq!(std::fs::read(&file).expect("a file"), b"mine");
}

#[test]
fn other_parameters_are_refused() {
    let dir = shards();
    let before = tree(dir.path());
    let mut arguments = nexmark(dir.path(), EVENTS, "1");
    arguments.extend(["--seed", "7"]);
    let line = fail(&arguments, 1);
    assert!(
        line.contains("mvsink.nexmark.seed") && line.contains("`0`"),
        "{line}"
    );
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn a_shard_of_another_schema_is_refused() {
    let dir = shards();
    std::fs::remove_dir_all(dir.path().join("q4")).expect("a shard");
    std::fs::rename(dir.path().join("q2"), dir.path().join("q4")).expect("a shard");
    let before = tree(&dir.path().join("q4"));
    let line = fail(&nexmark(dir.path(), "6000", "1"), 1);
    assert!(line.contains("q4 has another schema"), "{line}");
    assert_eq!(tree(&dir.path().join("q4")), before);
}

#[test]
fn a_truncated_log_entry_is_named() {
    let dir = shards();
    let entry = last_entry(&dir.path().join("bid"));
    let whole = std::fs::read(&entry).expect("an entry");
    std::fs::write(&entry, &whole[..whole.len() / 2]).expect("an entry");
    let before = tree(dir.path());
    let name = entry
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    for arguments in [
        nexmark(dir.path(), "6000", "1"),
        vec!["inspect", text(&dir.path().join("bid"))],
        vec!["snapshot", text(&dir.path().join("bid"))],
        vec!["tail", text(&dir.path().join("bid"))],
    ] {
        let line = fail(&arguments, 1);
        assert!(line.contains(&name) && line.contains("damaged"), "{line}");
    }
    assert_eq!(tree(dir.path()), before, "nothing is damaged further");
}

#[test]
fn a_missing_data_file_is_named() {
    let dir = shards();
    let file = data_file(&dir.path().join("bid"));
    std::fs::remove_file(&file).expect("a file");
    let name = file
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let bid = dir.path().join("bid");
    let expect_named = |line: &str| {
        assert!(line.contains(&name) && line.contains("missing"), "{line}");
    };
    // What has something to do, what has not, and what only reads.
    for events in ["6000", EVENTS] {
        let output = mvsink(&nexmark(dir.path(), events, "2"));
        assert_eq!(output.status.code(), Some(1));
        expect_named(&String::from_utf8(output.stderr).expect("text"));
    }
    expect_named(&fail(&["snapshot", text(&bid)], 1));
    // What only reports says the rest.
    let report = mvsink(&nexmark(dir.path(), EVENTS, "1"));
    assert_eq!(report.status.code(), Some(1));
    expect_named(&String::from_utf8(report.stderr).expect("text"));
    let report = String::from_utf8(report.stdout).expect("text");
    assert_eq!(report.matches("(unreadable)").count(), 1, "{report}");
    assert!(report.contains("/q4 "), "{report}");
    // What the log alone can say, it still says.
    inspect(&bid);
}

#[test]
fn a_first_time_that_never_comes_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    succeed(&nexmark(dir.path(), "1000", "1"));
    let shard = dir.path().join("q3");
    let last = i64::MAX.to_string();
    let line = fail(&["tail", text(&shard), "--from", &last], 1);
    assert!(
        line.contains(&last) && line.contains("beyond every upper"),
        "{line}"
    );
}
