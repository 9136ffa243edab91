//! `run nexmark` with the real binary: what it writes, whatever happens to it meanwhile.

mod oracle;
mod support;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::Duration;

use mvsink_cli::nexmark::generator::{Event, Generator, Parameters};
use mvsink_cli::nexmark::model::{Auction, Bid, Person};
use oracle::Row;
use support::*;

const EVENTS: &str = "20000";

/// The sources' rows, for the oracle.
#[derive(Default)]
pub struct Sources {
    bid: Vec<Bid>,
    auction: Vec<Auction>,
    person: Vec<Person>,
}

fn generator() -> Generator {
    Generator::new(Parameters::new(0).expect("a small seed"))
}

/// What one uninterrupted run leaves.
fn reference() -> &'static [History] {
    static REFERENCE: OnceLock<Vec<History>> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        succeed(&nexmark(dir.path(), EVENTS, "1"));
        histories(dir.path())
    })
}

fn json(row: &Row) -> String {
    let value = match row {
        Row::Q0(row) => serde_json::to_value(row),
        Row::Q1(row) => serde_json::to_value(row),
        Row::Q2(row) => serde_json::to_value(row),
        Row::Q3(row) => serde_json::to_value(row),
        Row::Q4(row) => serde_json::to_value(row),
        Row::Q5(row) => serde_json::to_value(row),
        Row::Q8(row) => serde_json::to_value(row),
    };
    value.expect("a row is JSON").to_string()
}

#[test]
fn the_views_are_what_their_definitions_say() {
    let generator = generator();
    let upper = generator.upper(20_000);
    let mut sources = Sources::default();
    for event in generator.events(0..generator.first_at(upper), 0, 1) {
        match event {
            Event::Bid(row) => sources.bid.push(row),
            Event::Auction(row) => sources.auction.push(row),
            Event::Person(row) => sources.person.push(row),
        }
    }
    let base = generator.base_time();
    for time in [0, base - 1, base, base + 999, base + 1_500, upper - 1] {
        let mut expected: BTreeMap<&str, BTreeMap<String, i64>> = BTreeMap::new();
        for (row, count) in oracle::views(&sources, time) {
            expected
                .entry(row.view())
                .or_default()
                .insert(json(&row), count);
        }
        for (shard, history) in SHARDS.iter().zip(reference()).skip(3) {
            let expected = expected.remove(shard).unwrap_or_default();
            assert_eq!(contents(history, time), expected, "{shard} at {time}");
        }
    }
}

#[test]
fn two_workers_write_what_one_writes() {
    let dir = tempfile::tempdir().expect("a directory");
    let report = succeed(&nexmark(dir.path(), EVENTS, "2"));
    for shard in SHARDS {
        assert!(
            report.contains(&format!("/{shard} ")),
            "{shard} is in the report: {report}"
        );
    }
    assert!(report.contains("mvsink snapshot "), "{report}");
    assert_same(&histories(dir.path()), reference());
}

#[test]
fn a_larger_run_goes_on_where_the_first_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    for events in ["1", "7001", EVENTS] {
        succeed(&nexmark(dir.path(), events, "2"));
        let upper = upper(&dir.path().join("q4"));
        assert_eq!(upper, generator().upper(events.parse().expect("a number")));
    }
    assert_same(&histories(dir.path()), reference());
    let before = files(dir.path());
    // A smaller one has nothing to do, and nor does the same one.
    for events in ["500", EVENTS] {
        let report = succeed(&nexmark(dir.path(), events, "1"));
        assert!(report.contains("/q8 "), "{report}");
        assert_eq!(files(dir.path()), before, "nothing is written");
    }
}

fn files(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for shard in SHARDS {
        for folder in [dir.join(shard), dir.join(shard).join("_delta_log")] {
            for entry in std::fs::read_dir(folder)
                .expect("a shard's folder")
                .flatten()
            {
                all.push(entry.path().display().to_string());
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_run_paced_by_the_wall_clock_writes_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut arguments = nexmark(dir.path(), EVENTS, "2");
    arguments.extend(["--rate", "20000"]);
    succeed(&arguments);
    assert_same(&histories(dir.path()), reference());
}

/// A generator of 64-bit numbers, by a seed that is printed: `MVSINK_SEED` repeats a run.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("MVSINK_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("MVSINK_SEED={seed}");
        Random(seed)
    }

    /// Uniform, nearly, in `0..bound`: SplitMix64.
    fn below(&mut self, bound: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound) as usize
    }
}

/// Waits until the directory has this many log entries; false if the process ended before.
fn wait_for_entries(child: &mut Child, dir: &Path, entries: usize) -> bool {
    while log_entries(dir) < entries {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        // There is nothing to wait on in another process's files but time.
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

#[test]
fn a_run_that_was_killed_at_any_moment_is_finished_by_the_next() {
    let kills = std::env::var("MVSINK_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(3);
    let mut random = Random::new();
    let dir = tempfile::tempdir().expect("a directory");
    let mut done = 0;
    let mut runs = 0;
    while done < kills {
        let workers = ["1", "2"][random.below(2)];
        // Paced, so that there are many commits to die in.
        let mut arguments = nexmark(dir.path(), EVENTS, workers);
        arguments.extend(["--rate", "10000"]);
        let at = log_entries(dir.path()) + random.below(60);
        let mut child = start(&arguments);
        let running = wait_for_entries(&mut child, dir.path(), at);
        child.kill().expect("a child");
        let output = child.wait_with_output().expect("a child");
        runs += 1;
        if running {
            done += 1;
            println!(
                "killed with {workers} workers at {} entries",
                log_entries(dir.path())
            );
        } else {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            // All is written already: what is killed now is a run that has nothing to do.
            break;
        }
    }
    println!("{done} kills in {runs} runs");
    succeed(&nexmark(dir.path(), EVENTS, "2"));
    assert_same(&histories(dir.path()), reference());
}

#[test]
fn two_runs_at_once_both_end_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let rivals = [
        start(&nexmark(dir.path(), EVENTS, "2")),
        start(&nexmark(dir.path(), EVENTS, "1")),
    ];
    for rival in rivals {
        let output = rival.wait_with_output().expect("a child");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", output.status);
        assert!(!stderr.contains("ERROR"), "losing is no error: {stderr}");
    }
    assert_same(&histories(dir.path()), reference());
    for shard in SHARDS.iter().map(|shard| dir.path().join(shard)) {
        // What a merge replaced stays for a while; what nobody ever committed must not.
        let kept = printed_json(&[
            "gc",
            text(&shard),
            "--orphan-age",
            "0s",
            "--dry-run",
            "--json",
        ]);
        assert_eq!(
            (&kept["orphans"]["files"], &kept["leftovers"]["files"]),
            (&0.into(), &0.into()),
            "losers leave no file in {shard:?}: {kept}"
        );
    }
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_run_at_rest() {
    let dir = tempfile::tempdir().expect("a directory");
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let mut arguments = nexmark(dir.path(), EVENTS, "2");
        arguments.extend(["--rate", "1000"]);
        let entries = log_entries(dir.path()) + 30;
        let mut child = start(&arguments);
        assert!(wait_for_entries(&mut child, dir.path(), entries), "it runs");
        let id = child.id().to_string();
        let sent = Command::new("kill")
            .args([signal, &id])
            .status()
            .expect("kill runs");
        assert!(sent.success());
        let output = child.wait_with_output().expect("a child");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{signal}: {stderr}");
        let uppers: Vec<_> = SHARDS
            .iter()
            .map(|shard| upper(&dir.path().join(shard)))
            .collect();
        assert!(
            uppers.iter().all(|upper| *upper == uppers[0]),
            "at one time: {uppers:?}"
        );
    }
    succeed(&nexmark(dir.path(), EVENTS, "1"));
    assert_same(&histories(dir.path()), reference());
}
