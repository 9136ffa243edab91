//! The heap that a sink takes, counted by the allocator, beside a control without a budget.
//!
//! `benches/memory.rs` measures the same with as many rows as one likes.

mod support;

use peak_alloc::PeakAlloc;
use support::hydrate::{Hydrate, Measured};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const BUDGET: usize = 2 << 20;

/// Hydrates an empty shard with so many rows, and restarts over it.
fn measure(rows: u64, budget: usize) -> [Measured; 2] {
    let dir = tempfile::tempdir().unwrap();
    let hydrate = Hydrate {
        dir: dir.path(),
        rows,
        workers: 1,
        budget,
        chunks: Some((1024, 2)),
    };
    let measured = [hydrate.run(1), hydrate.run(2)];
    hydrate.assert_exact();
    let spill = dir.path().join("spill");
    let left = spill.read_dir().map_or(0, |entries| entries.count());
    assert_eq!(left, 0, "what was put aside is deleted");
    measured
}

// One test, since the heap is that of the process.
#[test]
fn r10_the_memory_of_hydration_is_bounded_by_the_budget() {
    const ROWS: u64 = 40_000;
    let (bounded, control) = (measure(ROWS, BUDGET), measure(ROWS, 0));
    let (bounded_more, control_more) = (measure(4 * ROWS, BUDGET), measure(4 * ROWS, 0));
    for (what, run) in [("hydrating", 0), ("restarting", 1)] {
        let said = format!(
            "{what}: {:?}, {:?}; without a budget {:?}, {:?}",
            bounded[run], bounded_more[run], control[run], control_more[run]
        );
        println!("{said}");
        let grown = |once: Measured, more: Measured| more.peak as f64 / once.peak as f64;
        assert!(grown(bounded[run], bounded_more[run]) < 1.5, "{said}");
        assert!(grown(control[run], control_more[run]) > 2.5, "{said}");
        assert!(
            bounded_more[run].peak < control_more[run].peak / 3,
            "{said}"
        );
        assert_eq!(control_more[run].spilled, 0);
    }
    assert!(bounded_more[0].spilled > 0);
}
