//! The command-line host of `mvsink`: the NEXMark demo, and the commands that look at shards.
//!
//! The binary `mvsink` is a thin shell over this library, so that tests and examples can use its parts:
//! [`args`] is the grammar of the command line, [`error`] how a command fails, [`nexmark`] the demo, [`read`] what the
//! commands that look at shards have in common.

pub mod args;
pub mod error;
pub mod nexmark;
pub mod read;
pub mod signal;
