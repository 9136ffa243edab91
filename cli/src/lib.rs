//! The command-line host of `mvsink`: the NEXMark demo, and the commands that look at shards.
//!
//! The binary `mvsink` is a thin shell over this library, so that tests and examples can use its parts:
//! [`args`] is the grammar of the command line, [`error`] how a command fails, [`nexmark`] the demo; [`inspect`],
//! [`snapshot`] and [`tail`] look at shards of any schema, by way of [`read`] and [`mod@format`]; [`upkeep`], [`mod@repair`] and [`hold`]
//! look after them; [`mod@bench`] measures the sink.

pub mod args;
pub mod bench;
pub mod condition;
pub mod error;
pub mod format;
pub mod hold;
pub mod inspect;
pub mod limits;
pub mod memory;
pub mod meter;
pub mod nexmark;
pub mod read;
pub mod repair;
pub mod signal;
pub mod snapshot;
pub mod stderr;
pub mod tail;
pub mod upkeep;
