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
