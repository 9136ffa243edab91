//! The workloads of `mvsink bench` under criterion, each beside its floor: what each is, and what its floor is, says
//! `mvsink_cli::bench`.
//!
//! One iteration is one whole run of a workload, and its time is that of the run's own clock, which leaves out what comes
//! before and the floor. At the end a table gives the medians of all iterations of each row, those that warm up included:
//! what `mvsink bench` prints, but that memory is here what was allocated, and counted: that takes some time in itself,
//! the same everywhere.
//!
//! `hash_map` is a control: the obvious structure for corrections, one map from data to difference.
//!
//! By the environment:
//!
//! - `MVSINK_BENCH_ROWS`: the rows of `bulk` (default 200,000), and everything else in proportion;
//! - `MVSINK_BENCH_DIR`: below which shards are made and removed (default: the current directory), so that fsync is measured
//!   on the disk that matters.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use criterion::{Criterion, Throughput};
use mvsink_cli::bench::report::{Measured, table};
use mvsink_cli::bench::rows::{Row, Rows};
use mvsink_cli::bench::usage::Heap;
use mvsink_cli::bench::{Name, Place, Scale, Spec, measure};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// How much is done, by the environment.
fn scale() -> Scale {
    let rows = std::env::var("MVSINK_BENCH_ROWS").ok();
    let rows = rows.and_then(|rows| rows.parse().ok());
    Scale::of_rows(rows.unwrap_or(Scale::QUICK.rows))
}

/// Updates of one run, if it is of updates.
fn updates(name: Name, scale: &Scale) -> Option<u64> {
    let updates = match name {
        Name::Bulk | Name::Restart | Name::RestartReadBack => scale.rows,
        Name::Steady | Name::SteadyNocompact => scale.ticks * scale.tick_updates,
        Name::Latency | Name::LatencyDurable => scale.latency_ticks,
        Name::CorrectionsSnapshot | Name::CorrectionsSmall => scale.corrections,
        Name::CorrectionsRehydrate => 2 * scale.corrections,
        Name::CorrectionsTemporal | Name::Takeover | Name::Idle => return None,
    };
    Some(updates as u64)
}

/// One run in a place of its own.
fn run(spec: &Spec, scale: &Scale) -> Measured {
    let dir = std::env::var("MVSINK_BENCH_DIR").ok();
    let place = Place::new(dir.as_deref()).expect("a place for shards");
    if let Some(first) = spec.needs() {
        measure(&first, scale, &place.url).expect("a sink that goes on");
        place.forget("floor");
    }
    measure(spec, scale, &place.url).expect("a sink that goes on")
}

/// All rows of a workload; gives the medians of each.
fn workload(criterion: &mut Criterion, name: Name, scale: &Scale) -> Vec<Measured> {
    let mut group = criterion.benchmark_group(name.to_string());
    group.sample_size(10);
    if let Some(updates) = updates(name, scale) {
        group.throughput(Throughput::Elements(updates));
    }
    let medians = Spec::all_of(name).into_iter().filter_map(|spec| {
        let row = match spec.driver {
            Some(driver) => format!("{driver}, {} workers", spec.workers),
            None => "corrections".to_owned(),
        };
        let runs = RefCell::new(Vec::new());
        group.bench_function(row, |b| {
            b.iter_custom(|iterations| {
                let spent = (0..iterations).map(|_| {
                    let measured = run(&spec, scale);
                    let wall = measured
                        .wall_s
                        .map_or(Duration::ZERO, Duration::from_secs_f64);
                    runs.borrow_mut().push(measured);
                    wall
                });
                spent.sum()
            });
        });
        Measured::median(&runs.into_inner())
    });
    let medians = medians.collect();
    group.finish();
    medians
}

/// The obvious structure: what goes in, and, if it is to meet itself, out again.
fn hash_map(criterion: &mut Criterion, group: &str, scale: &Scale, meets_itself: bool) {
    let rows = Rows::new(scale.corrections);
    let mut group = criterion.benchmark_group(group);
    group.sample_size(10).throughput(Throughput::Elements(
        (scale.corrections * (1 + usize::from(meets_itself))) as u64,
    ));
    let made = || -> Vec<Row> { (0..rows.len()).map(|number| rows.get(number)).collect() };
    group.bench_function("hash_map", |b| {
        b.iter_custom(|iterations| {
            let spent = (0..iterations).map(|_| {
                let (desired, persist) = (made(), meets_itself.then(made));
                let begun = Instant::now();
                let mut map: HashMap<Row, i64> = HashMap::new();
                for row in desired {
                    *map.entry(row).or_default() += 1;
                }
                for row in persist.into_iter().flatten() {
                    *map.entry(row).or_default() -= 1;
                }
                map.retain(|_, diff| *diff != 0);
                let spent = begun.elapsed();
                black_box(map.len());
                spent
            });
            spent.sum()
        });
    });
    group.finish();
}

fn main() {
    let heap = Heap {
        now: || ALLOCATOR.current_usage(),
        peak: || ALLOCATOR.peak_usage(),
        reset: || ALLOCATOR.reset_peak_usage(),
    };
    heap.count_by();
    let scale = scale();
    let mut criterion = Criterion::default().configure_from_args();
    let names = Name::value_variants().iter();
    let rows: Vec<_> = names
        .flat_map(|name| workload(&mut criterion, *name, &scale))
        .collect();
    hash_map(&mut criterion, "corrections_snapshot", &scale, false);
    hash_map(&mut criterion, "corrections_rehydrate", &scale, true);
    criterion.final_summary();
    if !rows.is_empty() {
        print!("{}", table(&rows));
    }
}
