//! Simulations: replicas of a view, with all their workers, operators, tasks and processes, over a real shard in a store
//! that fails, all of it scheduled by one seed.
//!
//! `SIMULATIONS` is how many seeds are run (default 300), from `SIMULATION_FROM` on (0); `SIMULATION_SEED` replays one.

mod judge;
mod plan;
mod replica;
mod shrink;
mod swap;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use plan::Plan;
use world::Ran;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {value}")),
    )
}

#[test]
#[cfg_attr(
    not(tokio_unstable),
    ignore = "flags other than those of .cargo/config.toml leave Tokio without a seed"
)]
fn simulations_with_one_seed_have_one_trace() {
    for seed in 0..10 {
        let plan = Plan::draw(seed);
        let (once, again) = (world::run(&plan), world::run(&plan));
        for (call, (left, right)) in once.calls.iter().zip(&again.calls).enumerate() {
            assert_eq!(left, right, "seed {seed}, call {call}");
        }
        assert_eq!(once, again, "seed {seed}");
    }
}

#[test]
fn simulations_are_exact_and_leave_nothing() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let ran = shrink::run(&Plan::draw(seed));
        for entry in &ran.trace {
            println!("{entry}");
        }
        return println!("seed {seed}: {} batches", ran.batches);
    }
    let from = number("SIMULATION_FROM").unwrap_or(0);
    let end = from + number("SIMULATIONS").unwrap_or(300);
    let next = AtomicU64::new(from);
    let all = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let ran = shrink::run(&Plan::draw(seed));
                    all.lock().unwrap().push(Ran {
                        trace: Vec::new(),
                        calls: Vec::new(),
                        ..ran
                    });
                }
            });
        }
    });
    let all = all.into_inner().unwrap();
    println!("{} simulations", all.len());
    histogram("steps", &all, |ran| ran.steps);
    histogram("batches", &all, |ran| ran.batches);
    histogram("commits", &all, |ran| ran.commits);
    histogram("faults and kills", &all, |ran| ran.faults + ran.crashes);
}

/// How often there was how much, by deciles.
fn histogram(what: &str, all: &[Ran], of: impl Fn(&Ran) -> usize) {
    let mut values: Vec<_> = all.iter().map(of).collect();
    values.sort_unstable();
    let Some(last) = values.len().checked_sub(1) else {
        return;
    };
    let deciles: Vec<_> = (0..=10).map(|tenth| values[last * tenth / 10]).collect();
    println!("{what:>18}, by deciles: {deciles:?}");
}
