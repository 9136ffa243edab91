//! Sinks and sources in real dataflows, over real shards.
//!
//! All in one binary: a sink is generic in the host's types, and is compiled once for all of these tests.

/// Makes a test for each driver of each function that takes one.
macro_rules! on_both_drivers {
    ($($test:ident),* $(,)?) => {
        mod on_sync {
            $(#[test] fn $test() { super::$test(crate::support::Driver::Sync) })*
        }
        mod on_async {
            $(#[test] fn $test() { super::$test(crate::support::Driver::Async) })*
        }
    };
}

/// Makes functions that take a driver of one that takes the number of workers too.
macro_rules! with_workers {
    ($($test:ident: $of:ident($workers:literal)),* $(,)?) => {$(
        fn $test(driver: crate::support::Driver) {
            $of(driver, $workers);
        }
    )*};
}

#[path = "../support/mod.rs"]
mod support;

mod ahead;
mod cleaned;
mod cluster;
mod counters;
mod damage;
mod drivers;
mod edits;
mod end_to_end;
mod endings;
mod faults;
mod finished;
mod flags;
mod idle;
mod lifecycle;
mod modes;
mod outside;
mod restart;
mod runtimes;
mod silence;
mod trust;
mod types;
mod undecodable;
mod unrepaired;
mod upkeep;
mod vanished;
mod views;
