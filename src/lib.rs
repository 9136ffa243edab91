//! A sink operator that ends a Timely/Differential Dataflow program with a durable, self-correcting
//! materialized view, kept as a Delta table.

pub mod append;
mod bounds;
mod channel;
mod context;
pub mod corrections;
pub mod description;
pub mod dyncfg;
mod error;
mod handle;
pub mod mint;
mod sink;
mod source;
mod status;
mod target;
pub mod time;
mod wake;
mod worker;
pub mod write;

pub use bounds::{Data, Diff, Timestamp};
pub use context::{Context, ContextBuilder};
pub use error::Error;
pub use handle::{Handle, Pressure};
pub use sink::{no_errors, persist_sink};
pub use source::{Source, persist_source};
pub use status::Status;
pub use target::{Mode, Target};

pub use differential_dataflow;
pub use mvsink_persist;
pub use mvsink_persist::Frontier;
pub use timely;
