//! What ends a command that waits, and what it says while it does.
#![cfg(unix)]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::*;

/// How long a command may take to end, on a machine that has much else to do.
const END_MAX: Duration = Duration::from_secs(100);

/// A store of few bytes, and what is needed to mount one. `None` where nobody may.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(dir: &Path, size: &str) -> Option<Self> {
        let place = dir.join("disk");
        std::fs::create_dir(&place).expect("a directory");
        let size = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs", text(&place)])
            .output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: only root can mount a small disk");
        }
        mounted.then_some(SmallDisk(place))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", text(&self.0)]).status();
    }
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args([name, &id]).status();
    assert!(sent.expect("kill runs").success());
}

/// What the child came to, which must end by itself.
fn ended(mut child: Child) -> Output {
    let end = Instant::now() + END_MAX;
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() > end {
            child.kill().expect("a child");
            let output = child.wait_with_output().expect("a child");
            panic!(
                "it does not end: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("a child")
}

/// Reads standard error until so many lines have this in them; gives what was read, and the rest.
fn wait_for_lines(child: &mut Child, what: &str, count: usize) -> (String, BufReader<ChildStderr>) {
    let mut rest = BufReader::new(child.stderr.take().expect("a pipe"));
    let (mut text, mut found) = (String::new(), 0);
    while found < count {
        let begin = text.len();
        assert!(
            rest.read_line(&mut text).expect("text") > 0,
            "{what}: {text}"
        );
        found += usize::from(text[begin..].contains(what));
    }
    (text, rest)
}

#[test]
fn a_run_that_waits_for_room_for_its_holds_ends_with_a_signal() {
    for (name, status) in [("-TERM", 143), ("-INT", 130)] {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(disk) = SmallDisk::new(dir.path(), "40k") else {
            return;
        };
        let mut child = start(&nexmark(&disk.0, "1000", "1"));
        drop(wait_for_lines(&mut child, "No space left", 1));
        signal(&child, name);
        assert_eq!(ended(child).status.code(), Some(status), "{name}");
    }
}

#[test]
fn one_signal_ends_a_run_whose_disk_is_full_and_its_log_stays_short() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(disk) = SmallDisk::new(dir.path(), "2m") else {
        return;
    };
    let mut arguments = nexmark(&disk.0, "300000", "2");
    arguments.extend(["--log", "mvsink=debug,mvsink_persist=debug"]);
    let mut child = start(&arguments);
    let (mut text, mut rest) = wait_for_lines(&mut child, "trying again", 100);
    signal(&child, "-TERM");
    let reading = std::thread::spawn(move || {
        rest.read_to_string(&mut text).expect("text");
        text
    });
    assert_eq!(ended(child).status.code(), Some(143));
    let text = reading.join().expect("a reader");
    assert!(text.contains("ending without finishing"), "{text}");
    let warnings = text.lines().filter(|line| line.contains("WARN")).count();
    assert!(warnings < 30, "{warnings} warnings: {text}");
}

#[test]
fn commands_that_wait_for_room_end_with_a_signal() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(disk) = SmallDisk::new(dir.path(), "6m") else {
        return;
    };
    succeed(&nexmark(&disk.0, "20000", "1"));
    let bid = disk.0.join("bid");
    let bid = text(&bid);
    succeed(&["hold", "take", bid, "there"]);
    // Block by block, so that nothing is left.
    let mut filler = std::fs::File::create(disk.0.join("filler")).expect("a file");
    while std::io::Write::write(&mut filler, &[0; 4096]).is_ok() {}
    for arguments in [
        &["compact", bid, "--full"][..],
        &["hold", "take", bid, "report"],
        &["hold", "release", bid, "there"],
    ] {
        let mut child = start(arguments);
        let rest = wait_for_lines(&mut child, "No space left", 1).1;
        signal(&child, "-INT");
        assert_eq!(ended(child).status.code(), Some(130), "{arguments:?}");
        drop(rest);
    }
    let verified = succeed(&["verify", bid]);
    assert!(verified.contains("files"), "{verified}");
}

#[test]
fn a_second_signal_ends_a_run_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(disk) = SmallDisk::new(dir.path(), "2m") else {
        return;
    };
    let mut child = start(&nexmark(&disk.0, "300000", "1"));
    let mut rest = wait_for_lines(&mut child, "No space left", 1).1;
    signal(&child, "-INT");
    let mut line = String::new();
    while !line.contains("finishing what is under way") {
        line.clear();
        assert!(rest.read_line(&mut line).expect("text") > 0);
    }
    signal(&child, "-INT");
    assert_eq!(ended(child).status.code(), Some(130));
    let mut text = String::new();
    rest.read_to_string(&mut text).expect("text");
    assert!(!text.contains("ending without finishing"), "{text}");
}

#[test]
fn every_command_that_waits_for_its_store_ends_with_a_signal() {
    // A server that takes connections, and never answers.
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", server.local_addr().expect("an address"));
    let url = "s3://bucket/q4";
    for arguments in [
        &["inspect", url][..],
        &["snapshot", url],
        &["tail", url],
        &["verify", url],
        &["compact", url],
        &["gc", url],
        &["hold", "list", url],
        &["hold", "take", url, "report"],
        &["hold", "release", url, "report"],
        &["run", "nexmark", "--dir", url],
    ] {
        let mut child = command(&[&["--log", "mvsink_cli=debug"], arguments].concat())
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "here")
            .env("AWS_ACCESS_KEY_ID", "me")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        drop(wait_for_lines(&mut child, "receives signals", 1));
        signal(&child, "-TERM");
        assert_eq!(ended(child).status.code(), Some(143), "{arguments:?}");
    }
}

#[test]
fn a_command_whose_output_nobody_takes_ends_with_a_signal() {
    let dir = tempfile::tempdir().expect("a directory");
    succeed(&nexmark(dir.path(), "20000", "1"));
    let bid = dir.path().join("bid");
    for arguments in [
        &["snapshot", text(&bid), "--format", "ndjson"][..],
        &["tail", text(&bid)],
    ] {
        let mut child = start(arguments);
        let mut line = String::new();
        let mut stdout = BufReader::with_capacity(16, child.stdout.take().expect("a pipe"));
        stdout.read_line(&mut line).expect("a line");
        signal(&child, "-INT");
        // The pipe stays open, and full.
        assert_eq!(ended(child).status.code(), Some(130), "{arguments:?}");
        drop(stdout);
    }
}

#[test]
fn bench_removes_what_it_made_when_a_signal_ends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let url = text(dir.path());
    let mut child = start(&["bench", "--quick", "--only", "bulk", "--dir", url]);
    let made = || std::fs::read_dir(dir.path()).expect("a directory").count();
    while made() == 0 {
        assert!(child.try_wait().expect("a child").is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&child, "-TERM");
    assert_eq!(ended(child).status.code(), Some(143));
    assert_eq!(made(), 0);
}
