//! The heap that a sink takes while it hydrates an empty shard, and while it restarts over it, with a budget for its
//! corrections; with the same budget and nothing staged ahead; and, in the same run, without one.
//!
//! ```text
//! cargo bench -p mvsink --bench memory -- [ROWS [BUDGET_MIB [WORKERS]]]      1000000 64 1
//! ```
//!
//! Rows are (u64 key, 40-byte string, u64, u64), made as they are fed. The shard is a local directory, without fsync;
//! `MVSINK_BENCH_DIR` says where (default: that for temporary files). Peaks are above what the process had in use
//! before; an allocator counts them, and counts a reallocation as two. `CONTROL=0` leaves out the run without a budget.

#[path = "../tests/support/hydrate.rs"]
mod hydrate;

use hydrate::{Hydrate, Measured};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// A runtime for the tasks of sinks.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

fn measure(rows: u64, budget: usize, ahead: Option<usize>, workers: usize) {
    let parent = std::env::var_os("MVSINK_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let hydrate = Hydrate {
        dir: dir.path(),
        rows,
        workers,
        budget,
        ahead,
        chunks: None,
    };
    let budget = match (budget, ahead) {
        (0, _) => "none".to_owned(),
        (budget, Some(0)) => format!("{} MiB, none staged ahead", budget >> 20),
        (budget, _) => format!("{} MiB", budget >> 20),
    };
    for (what, upper) in [("hydrate", 1), ("restart", 2)] {
        let Measured {
            peak,
            spilled,
            elapsed,
        } = hydrate.run(upper);
        println!(
            "{what:>8} {rows:>10} rows  budget {budget:<24}  peak {:>7.1} MiB  spilled {:>7.1} MiB  {:>6.1} s",
            peak as f64 / f64::from(1 << 20),
            spilled as f64 / f64::from(1 << 20),
            elapsed.as_secs_f64(),
        );
    }
    hydrate.assert_exact();
}

fn main() {
    // Cargo passes flags of its own.
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok());
    let rows = numbers.next().unwrap_or(1_000_000);
    let budget = numbers.next().map_or(64 << 20, |mib| (mib as usize) << 20);
    let workers = numbers.next().map_or(1, |workers| workers as usize);
    measure(rows, budget, None, workers);
    measure(rows, budget, Some(0), workers);
    if std::env::var("CONTROL").as_deref() != Ok("0") {
        measure(rows, 0, Some(0), workers);
    }
    println!("exact: each row once, by the fingerprints of all files");
}
