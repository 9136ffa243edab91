//! Sinks and sources in real dataflows, over real shards.
//!
//! All in one binary: a sink is generic in the host's types, and is compiled once for all of these tests.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod cleaned;
mod cluster;
mod counters;
mod drivers;
mod end_to_end;
mod faults;
mod lifecycle;
mod modes;
mod restart;
mod views;
