//! The parsers of all that a shard reads, with any bytes for input. Each either accepts them or returns an error: what
//! panics here, or needs memory out of proportion to the input, is a bug.
//!
//! `fuzz/` drives them with `cargo fuzz`, and a test with its corpus and random changes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::data_file::{Adder, DataFile};
use crate::file::decode_file;
use crate::location;
use crate::log::action::{Add, Commit, NullableMap};
use crate::log::checkpoint;
use crate::log::state::State;
use crate::log::table_root::TableRoot;

/// A target: its name, which is that of its corpus, and what it does with its input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("log_entry", log_entry),
    ("checkpoint", checkpoint),
    ("stats_and_tags", stats_and_tags),
    ("url", url),
    ("data_file", data_file),
];

/// Rows that are read of a file: a few bytes may stand for any number of equal ones, which takes time, not memory.
const ROWS_MAX: usize = 100_000;

/// A log entry: as the first of a shard, and as the next of one. What is understood can be written and read again.
///
/// # Panics
/// If there is a bug.
pub fn log_entry(data: &[u8]) {
    let Ok(commit) = Commit::parse(&Bytes::copy_from_slice(data), "fuzz") else {
        return;
    };
    let mut first = commit.clone();
    if let Some(info) = &mut first.info {
        info.lines = None;
    }
    let again = Commit::parse(&first.to_bytes(), "fuzz");
    if first != Commit::default() {
        let mut again =
            again.unwrap_or_else(|error| panic!("what was written is not understood: {error}"));
        if let Some(info) = &mut again.info {
            info.lines = None;
        }
        assert!(again == first, "what was written is read as something else");
    }
    if let Ok(mut state) = State::first(&Arc::new(TableRoot::default()), "fuzz", 0, &commit) {
        replay(&mut state, &commit);
    }
}

fn replay(state: &mut State, commit: &Commit) {
    let before = state.progress();
    // Its lower is the upper that it left, or it is refused.
    if state.apply("fuzz", commit).is_ok() {
        let after = state.progress();
        assert!(after.upper >= before.upper && after.since >= before.since);
    } else {
        assert_eq!(state.progress(), before, "what is refused changes nothing");
    }
    let _ = state.to_commit();
}

/// A checkpoint: a Parquet file with actions.
///
/// # Panics
/// If there is a bug.
pub fn checkpoint(data: &[u8]) {
    if let Ok(commit) = checkpoint::decode(Bytes::copy_from_slice(data), "fuzz", "fuzz")
        && let Ok(mut state) = State::first(&Arc::new(TableRoot::default()), "fuzz", 3, &commit)
    {
        replay(&mut state, &commit);
    }
}

/// What others say of a data file: statistics, then a zero byte, then tags as JSON. What is understood survives a
/// checkpoint.
///
/// # Panics
/// If there is a bug.
pub fn stats_and_tags(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let mut text = || {
        parts
            .next()
            .map(|part| String::from_utf8_lossy(part).into_owned())
    };
    let stats = text();
    let tags: Option<NullableMap> = text().and_then(|tags| serde_json::from_str(&tags).ok());
    let add = Add {
        path: "x.parquet".into(),
        partition_values: Some(BTreeMap::new()),
        stats,
        tags,
        ..Add::default()
    };
    for adder in [Adder::Sink, Adder::Checkpoint, Adder::Other] {
        let file = DataFile::from_add(&add, adder);
        assert!(
            DataFile::from_add(&file.to_add(), Adder::Checkpoint) == file,
            "a checkpoint would change {file:?}"
        );
    }
}

/// An address. A refusal does not repeat a password, and a place has one key.
///
/// # Panics
/// If there is a bug.
pub fn url(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        location::fuzz(text);
    }
}

/// A data file.
///
/// # Panics
/// If there is a bug.
pub fn data_file(data: &[u8]) {
    let Ok(decoder) = decode_file("fuzz", Bytes::copy_from_slice(data), None, 1024) else {
        return;
    };
    let mut rows = 0;
    for batch in decoder {
        let Ok(batch) = batch else { return };
        rows += batch.num_rows();
        if rows > ROWS_MAX {
            return;
        }
    }
}
