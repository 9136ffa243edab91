//! Exit statuses and streams of the binary, where no shard is involved.

use std::process::{Command, Output};

fn mvsink(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mvsink"))
        .args(arguments)
        .output()
        .expect("the binary runs")
}

#[test]
fn bad_usage_exits_2_with_nothing_on_stdout() {
    for arguments in [
        &["run", "nexmark", "--dir", "unused", "--workers", "0"][..],
        &["run", "nexmark", "--dir", "unused", "--frobnicate"],
        &["inspect"],
        &["frobnicate"],
        &[],
    ] {
        let output = mvsink(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        // No command at all is answered with the help.
        let one_line = stderr.starts_with("mvsink: ") && stderr.lines().count() == 1;
        assert_ne!(one_line, arguments.is_empty(), "{arguments:?}: {stderr}");
    }
}

#[test]
fn help_and_version_are_data() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["run", "nexmark", "--help"],
    ] {
        let output = mvsink(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_lists_the_flags_and_its_own_options_before_those_of_the_log() {
    let help = |arguments: &[&str]| {
        let output = mvsink(arguments);
        String::from_utf8(output.stdout).expect("text")
    };
    let run = help(&["run", "nexmark", "--help"]);
    for flag in mvsink::dyncfg::ConfigSet::new().entries().keys() {
        assert!(run.contains(&format!("  {flag}=")), "{flag}: {run}");
    }
    let place =
        |text: &str, what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    let snapshot = help(&["snapshot", "--help"]);
    let order = [
        "--as-of",
        "--where",
        "--columns",
        "--limit",
        "--format",
        "--log ",
    ];
    let places = order.map(|option| place(&snapshot, option));
    assert!(places.is_sorted(), "{snapshot}");
}

#[test]
fn odd_numbers_and_flags_are_bad_usage() {
    for arguments in [
        &["snapshot", "x", "--limit", "many"][..],
        &["snapshot", "x", "--limit", "-1"],
        &["snapshot", "x", "--as-of", "99999999999999999999"],
        &["tail", "x", "--until", "noon"],
        &["compact", "x", "--memory", "-5"],
        &["gc", "x", "--grace", "-1h"],
        &["hold", "take", "x", "y", "--lease", "0h"],
        &["bench", "--rows", "-1"],
        &["bench", "--rows", "0"],
        &["bench", "--workers", "0"],
        &[
            "run",
            "nexmark",
            "--dir",
            "x",
            "--set",
            "mvsink_chunk_rows=0",
        ],
        &[
            "run",
            "nexmark",
            "--dir",
            "x",
            "--set",
            "mvsink_compaction=2",
        ],
        &["run", "nexmark", "--dir", ""],
    ] {
        let output = mvsink(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(!std::path::Path::new("x").exists());
    }
}

#[cfg(unix)]
fn shell(script: &str) -> Output {
    Command::new("sh")
        .args(["-c", script])
        .env("MVSINK", env!("CARGO_BIN_EXE_mvsink"))
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("a shell runs")
}

#[cfg(unix)]
#[test]
fn streams_that_nobody_reads_are_no_panic() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().display();
    for (what, status) in [
        (format!("run nexmark --dir {dir}/d --events 1000"), "0"),
        (
            format!("run nexmark --dir {dir}/d --events 1000 --log trace"),
            "0",
        ),
        (format!("inspect {dir}/d/q4"), "0"),
        (format!("inspect {dir}/none"), "1"),
        (format!("snapshot {dir}/none"), "1"),
        ("frobnicate".to_owned(), "2"),
        ("--help".to_owned(), "0"),
    ] {
        // Closed, and pipes without a reader.
        let status_file = format!("{dir}/status");
        let closed = shell(&format!("\"$MVSINK\" {what} >&- 2>&-; echo $?"));
        assert_eq!(
            String::from_utf8_lossy(&closed.stdout).trim(),
            status,
            "{what}"
        );
        shell(&format!(
            "{{ {{ while [ ! -e {dir}/gone ]; do sleep 0.01; done; \"$MVSINK\" {what}; echo $? >{status_file}; }} 2>&1; }} \
             | {{ exec <&-; touch {dir}/gone; }}"
        ));
        let status_found = std::fs::read_to_string(&status_file).expect("a status");
        assert_eq!(status_found.trim(), status, "{what}");
        std::fs::remove_file(format!("{dir}/gone")).expect("a file");
    }
}

#[cfg(unix)]
#[test]
fn a_log_in_a_file_has_no_colours() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().display();
    let output = shell(&format!(
        "\"$MVSINK\" run nexmark --dir {dir}/d --events 1000 --log info 2>{dir}/log; cat {dir}/log"
    ));
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(log.contains("INFO") && !log.contains('\u{1b}'), "{log}");
}

#[cfg(unix)]
#[test]
fn a_limit_on_threads_is_an_error_in_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().display();
    shell(&format!("chmod 755 {dir}; cp \"$MVSINK\" {dir}/mvsink"));
    // Limits do not bind root.
    let script = |limit: u32| {
        format!(
            "cd /; exec setpriv --reuid 64123 --clear-groups bash -c 'ulimit -u {limit}; exec {dir}/mvsink inspect {dir}/none'"
        )
    };
    let free = shell(&script(1000));
    if !String::from_utf8_lossy(&free.stderr).contains("there is no shard") {
        println!("skipped: only root can become somebody else, and that needs bash");
        return;
    }
    for limit in 1..=8 {
        let output = shell(&script(limit));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{limit}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{limit}: {stderr}");
        let said = ["ulimit -u", "there is no shard"];
        assert!(
            said.iter().any(|said| stderr.contains(said)),
            "{limit}: {stderr}"
        );
        assert!(!stderr.contains("Os {"), "{limit}: {stderr}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_memory_is_an_error_in_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().display();
    let mut failures = 0;
    for limit_kib in (90_000..=330_000).step_by(60_000) {
        let output = shell(&format!(
            "ulimit -v {limit_kib} && exec \"$MVSINK\" run nexmark --dir {dir}/{limit_kib} --events 20000"
        ));
        let stderr = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => continue,
            Some(1) => {}
            // The system could not load the program.
            _ if stderr.is_empty() || stderr.contains("shared object") => continue,
            status => panic!("{limit_kib} KiB: {status:?}: {stderr}"),
        }
        failures += 1;
        let last = stderr.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("mvsink: ") && last.contains("memory") && last.contains("-v"),
            "{limit_kib} KiB: {stderr}"
        );
        for raw in ["memory allocation of", "Os {", "a bug:"] {
            assert!(!stderr.contains(raw), "{limit_kib} KiB: {stderr}");
        }
    }
    assert!(failures > 0, "no limit was too low");
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_open_files_is_an_error_in_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().display();
    let mut failures = 0;
    for limit in 4..=12 {
        let output = shell(&format!(
            "ulimit -n {limit} && exec \"$MVSINK\" run nexmark --dir {dir}/{limit} --events 1000"
        ));
        let stderr = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => continue,
            Some(1) => {}
            // The system could not load the program.
            _ if stderr.is_empty() || stderr.contains("shared object") => continue,
            status => panic!("{limit} files: {status:?}: {stderr}"),
        }
        failures += 1;
        let last = stderr.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("mvsink: ") && last.contains("open files"),
            "{limit} files: {stderr}"
        );
        for raw in ["Os {", "a bug:"] {
            assert!(!stderr.contains(raw), "{limit} files: {stderr}");
        }
    }
    assert!(failures > 0, "no limit was too low");
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_is_full_is_a_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().display();
    shell(&format!(
        "\"$MVSINK\" run nexmark --dir {dir}/d --events 1000"
    ));
    for arguments in [
        "--help",
        "--version",
        &format!("inspect {dir}/d/q3"),
        &format!("inspect {dir}/d"),
        &format!("snapshot {dir}/d/q3"),
        &format!("snapshot {dir}/d/q3 --count"),
        &format!("tail {dir}/d/q3 --until 1"),
        &format!("verify {dir}/d/q3"),
        &format!("compact {dir}/d/q3"),
        &format!("gc {dir}/d/q3"),
        &format!("hold take {dir}/d/q3 name"),
        &format!("run nexmark --dir {dir}/d --events 1000"),
    ] {
        let output = shell(&format!("\"$MVSINK\" {arguments} >/dev/full"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments}: {stderr}");
        assert!(stderr.contains("standard output"), "{arguments}: {stderr}");
        let neither = shell(&format!("\"$MVSINK\" {arguments} >/dev/full 2>&1"));
        assert_eq!(neither.status.code(), Some(1), "{arguments}");
    }
}
