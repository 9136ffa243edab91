//! What people read beside the data: notes and errors, on standard error.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to standard error. If nobody reads it any more, nobody misses it.
pub fn say(line: impl Display) {
    // In one piece, so that lines of several threads stay whole.
    let line = format!("mvsink: {line}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}
