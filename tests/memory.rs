//! The heap that a sink takes, counted by the allocator, beside a control without a budget.
//!
//! `benches/memory.rs` measures the same with as many rows as one likes.

mod support;

use std::sync::{Mutex, PoisonError};

use differential_dataflow::input::InputSession;
use mvsink::{Context, Frontier, no_errors, persist_sink};
use mvsink_persist::ClientOptions;
use peak_alloc::PeakAlloc;
use support::hydrate::{Hydrate, Measured, Row, row};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const BUDGET: usize = 2 << 20;

/// Hydrates an empty shard with so many rows, and restarts over it.
fn measure(rows: u64, budget: usize, ahead: usize) -> [Measured; 2] {
    let dir = tempfile::tempdir().unwrap();
    let hydrate = Hydrate {
        dir: dir.path(),
        rows,
        workers: 1,
        budget,
        ahead: Some(ahead),
        chunks: Some((1024, 2)),
    };
    let measured = [hydrate.run(1), hydrate.run(2)];
    hydrate.assert_exact();
    let spill = dir.path().join("spill");
    let left = spill.read_dir().map_or(0, |entries| entries.count());
    assert_eq!(left, 0, "what was put aside is deleted");
    measured
}

/// The heap is that of the process: one test at a time.
static HEAP_IS_MINE: Mutex<()> = Mutex::new(());

/// What ends a dataflow whose heap is measured.
#[derive(Clone, Copy)]
enum End {
    Nothing,
    /// A sink that has written a few rows and then the time alone, and holds so many updates that it cannot write yet.
    Sink {
        held: u64,
    },
}

/// The heap that each of some dataflows takes, with the sessions that feed them.
fn heap_of_each(end: End) -> usize {
    const DATAFLOWS: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let runtime = support::runtime();
    let mut options = ClientOptions::default();
    options.fsync = false;
    let cx = Context::builder(runtime.handle().clone())
        .client_options(options)
        .build();
    let path = dir.path().to_owned();
    timely::execute_directly(move |worker| {
        let mut all = Vec::new();
        let mut before = 0;
        // What the first one takes is shared.
        for number in 0..=DATAFLOWS {
            let (mut input, handle) = worker.dataflow(|scope| {
                let mut input = InputSession::<u64, Row, i64>::new();
                let rows = input.to_collection(scope);
                let End::Sink { .. } = end else {
                    return (input, None);
                };
                let errors = no_errors::<_, String, _>(scope);
                let url = path.join(format!("view-{number}"));
                let url = url.to_str().unwrap();
                let handle = persist_sink(&cx, "idle", url, rows, errors, 0).unwrap();
                (input, Some(handle))
            });
            for number in 0..100 {
                input.update_at(row(number), 0, 1);
            }
            for time in 1..=10 {
                input.advance_to(time);
                input.flush();
                worker.step();
                if let Some(handle) = &handle {
                    support::step_until(worker, handle, Frontier::At(time));
                }
            }
            if let (End::Sink { held }, Some(handle)) = (end, &handle) {
                for number in 0..held {
                    input.update_at(row(number), 10, 1);
                }
                input.flush();
                support::step_until_so(worker, "what is held was taken in", || {
                    handle.pressure().held_updates as u64 == held
                });
            }
            all.push((input, handle));
            if number == 0 {
                before = HEAP.current_usage();
            }
        }
        HEAP.current_usage().saturating_sub(before) / DATAFLOWS as usize
    })
}

#[test]
fn r19_an_idle_sink_takes_tens_of_kilobytes() {
    const HELD: u64 = 5000;
    let _alone = HEAP_IS_MINE.lock().unwrap_or_else(PoisonError::into_inner);
    let without = heap_of_each(End::Nothing);
    let idle = heap_of_each(End::Sink { held: 0 }).saturating_sub(without);
    let control = heap_of_each(End::Sink { held: HELD }).saturating_sub(without);
    println!(
        "{idle} bytes an idle sink, {control} with {HELD} updates that it holds; {without} a dataflow without"
    );
    assert!(idle < 100_000, "{idle}");
    assert!(
        control > idle + HELD as usize * size_of::<Row>(),
        "{control}"
    );
}

#[test]
fn r10_the_memory_of_hydration_is_bounded_by_the_budget() {
    let _alone = HEAP_IS_MINE.lock().unwrap_or_else(PoisonError::into_inner);
    const ROWS: u64 = 40_000;
    // Without a budget, and without anything staged ahead.
    let (control, control_more) = (measure(ROWS, 0, 0), measure(4 * ROWS, 0, 0));
    // Beyond the budget on disk; or in files that are staged while the snapshot arrives.
    let mut spilled = Vec::new();
    for (how, ahead) in [("on disk", 0), ("staged", 512 << 10)] {
        let (bounded, bounded_more) = (
            measure(ROWS, BUDGET, ahead),
            measure(4 * ROWS, BUDGET, ahead),
        );
        for (what, run) in [("hydrating", 0), ("restarting", 1)] {
            let said = format!(
                "{what}, {how}: {:?}, {:?}; without a budget {:?}, {:?}",
                bounded[run], bounded_more[run], control[run], control_more[run]
            );
            println!("{said}");
            let grown = |once: Measured, more: Measured| more.peak as f64 / once.peak as f64;
            // With four times the rows: what is bounded may not be full yet at first, and threads differ in how far they are.
            assert!(grown(bounded[run], bounded_more[run]) < 1.8, "{said}");
            assert!(grown(control[run], control_more[run]) > 2.5, "{said}");
            assert!(
                bounded_more[run].peak < control_more[run].peak / 3,
                "{said}"
            );
            assert_eq!(control_more[run].spilled, 0);
        }
        spilled.push(bounded_more[0].spilled);
    }
    // What comes before mint has opened the shard may have to be put aside.
    assert!(spilled[0] > 0 && spilled[1] < spilled[0] / 2, "{spilled:?}");
}
