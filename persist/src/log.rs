//! The log of a Delta table: actions as JSON lines, the state that they replay to, and checkpoints of it.
//!
//! The state at version `n` is that of the last checkpoint `c ≤ n` (or of entry 0), with the entries
//! `c+1 ..= n` applied in order.

pub(crate) mod action;
pub(crate) mod checkpoint;
pub(crate) mod frontiers;
mod gates;
pub(crate) mod holds;
pub(crate) mod lenient;
pub(crate) mod path_map;
pub(crate) mod state;
pub(crate) mod table_root;

use object_store::path::Path;

/// The object that holds log entry `version`.
pub(crate) fn entry_path(version: u64) -> Path {
    // Each commit makes one: parsed, not encoded, since it has nothing to encode.
    Path::parse(format!("_delta_log/{version:020}.json")).expect("a name and digits")
}

/// The folder of the log.
pub(crate) fn folder() -> Path {
    Path::from("_delta_log")
}
