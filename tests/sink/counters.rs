//! What sinks count, what Prometheus is given of it, and what Timely's logging says.

use std::sync::{Arc, Mutex};

use crate::support::{Row, context, row, rows_sink_from, runtime, step_until, step_until_so};
use mvsink::logging::{CORRECTIONS, CorrectionsEvent, CorrectionsEventBuilder};
use mvsink::{
    Context, Counters, Frontier, Status, Target, no_errors, persist_sink, persist_source,
};
use prometheus::{Encoder, Registry, TextEncoder};
use timely::Config;
use timely::worker::Worker;

use differential_dataflow::input::InputSession;

const ROWS: u64 = 1000;
const TIMES: u64 = 10;

/// Runs rows that come over some times into a shard; what the handle of this worker counted in the end, and while
/// rows waited that no time was complete for yet.
fn run(worker: &mut Worker, cx: &Context) -> [Counters; 2] {
    let mut input = InputSession::<u64, u64, i64>::new();
    let handle = worker.dataflow(|scope| {
        let rows = input.to_collection(scope);
        let errors = no_errors::<u64, String, i64>(scope);
        persist_sink(
            cx,
            "counted",
            Target::new("memory://counted"),
            rows,
            errors,
            0,
        )
        .unwrap()
    });
    for time in 0..TIMES {
        for row in 0..ROWS {
            if (row as usize) % worker.peers() == worker.index() {
                input.update_at(time * ROWS + row, time, 1);
            }
        }
        input.advance_to(time + 1);
        input.flush();
        step_until(worker, &handle, Frontier::At(time + 1));
    }
    // As many rows again, at a time that is not complete.
    input.update_at((u64::MAX >> 1) - worker.index() as u64, TIMES, 1);
    input.flush();
    let peers = worker.peers() as u64;
    step_until_so(worker, "they are held", || {
        handle.counters().corrections >= peers
    });
    let held = handle.counters();
    input.close();
    step_until(worker, &handle, Frontier::Empty);
    // The log says so before the appender knows it.
    step_until_so(worker, "the last commit is known", || {
        let counters = handle.counters();
        counters.batches_committed >= counters.batches_minted
    });
    [held, handle.counters()]
}

#[test]
fn all_that_a_sink_does_is_counted() {
    for workers in [1, 2] {
        let runtime = runtime();
        let cx = context(&runtime);
        let registry = Registry::new();
        cx.register_metrics(&registry).unwrap();
        assert!(cx.register_metrics(&registry).is_err(), "once a registry");
        let context = cx.clone();
        let scraped = Arc::<Mutex<String>>::default();
        let text = Arc::clone(&scraped);
        let counted = timely::execute(Config::process(workers), move |worker| {
            let counted = run(worker, &context);
            let mut encoded = Vec::new();
            let encoder = TextEncoder::new();
            encoder.encode(&registry.gather(), &mut encoded).unwrap();
            *text.lock().unwrap() = String::from_utf8(encoded).unwrap();
            counted
        });
        let counted: Vec<_> = counted
            .unwrap()
            .join()
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let [held, end] = counted.last().unwrap();
        assert_eq!(held.corrections, workers as u64);
        assert!(held.corrections_bytes > 0);
        let rows = ROWS * TIMES + workers as u64;
        assert_eq!((end.updates_in, end.updates_out), (rows, rows));
        assert_eq!((end.corrections, end.queued_updates), (0, 0));
        assert!(end.batches_committed > TIMES, "{end:?}");
        assert_eq!(end.batches_minted, end.batches_committed, "{end:?}");
        assert_eq!(end.batches_written, workers as u64 * end.batches_committed);
        assert_eq!(end.commits.count, end.batches_committed);
        assert_eq!((end.batches_lost, end.files_deleted), (0, 0));
        assert!(
            end.files_staged >= TIMES && end.bytes_staged > end.files_staged,
            "{end:?}"
        );
        let scraped = scraped.lock().unwrap();
        let line = |name: &str, value: u64| {
            let lines = scraped.lines();
            let mut of_name = lines.filter(|line| line.starts_with(&format!("{name}{{")));
            let line = of_name
                .next()
                .unwrap_or_else(|| panic!("{name} in {scraped}"));
            assert!(line.contains("sink=\"counted\""), "{line}");
            assert!(line.ends_with(&format!("}} {value}")), "{line}");
        };
        line("mvsink_updates_in_total", rows);
        line("mvsink_batches_committed_total", end.batches_committed);
        line("mvsink_commit_seconds_count", end.commits.count);
        assert!(scraped.contains("# TYPE mvsink_commit_seconds histogram"));
        assert!(scraped.contains("# TYPE mvsink_corrections_updates gauge"));
    }
}

/// What a scrape of the registry gives.
fn scrape(registry: &Registry) -> String {
    let mut encoded = Vec::new();
    let encoder = TextEncoder::new();
    encoder.encode(&registry.gather(), &mut encoded).unwrap();
    String::from_utf8(encoded).unwrap()
}

/// The value of the one series of this name whose labels have all of these.
fn series(scraped: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let lines = scraped.lines();
    let of_name = lines.filter(|line| line.starts_with(&format!("{name}{{")));
    let mut found = of_name.filter(|line| labels.iter().all(|label| line.contains(label)));
    let value = found.next()?.rsplit(' ').next()?.parse().ok()?;
    assert_eq!(found.next(), None, "{name} {labels:?}");
    Some(value)
}

/// A sink and a source of its table in a dataflow each, until both have come to `time`; both are dropped then.
fn copy(worker: &mut Worker, cx: &Context, time: u64, look: impl FnOnce()) {
    let (mut input, sink) = rows_sink_from(worker, cx, "written", "memory://table", time - 1);
    input.advance_to(time - 1);
    input.update(row(time), 1);
    if time > 1 {
        (1..time).for_each(|before| input.update(row(before), 1));
    }
    input.advance_to(time);
    input.flush();
    step_until(worker, &sink, Frontier::At(time));
    let source = worker.dataflow::<u64, _, _>(|scope| {
        let url = "memory://table";
        persist_source::<Row, String, u64, i64>(cx, scope, "read", url, 0)
            .unwrap()
            .handle
    });
    step_until(worker, &source, Frontier::At(time));
    step_until_so(worker, "the last commit is known", || {
        let counters = sink.counters();
        counters.batches_committed == counters.batches_minted
    });
    step_until_so(worker, "both run", || {
        [&sink, &source]
            .iter()
            .all(|handle| matches!(handle.status(), Status::Running))
    });
    look();
    drop((sink, source));
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
    step_until_so(worker, "both are gone", || cx.is_settled());
}

#[test]
fn what_is_scraped_outlives_sinks_and_sources_and_tells_them_apart() {
    let runtime = runtime();
    let cx = context(&runtime);
    let registry = Registry::new();
    cx.register_metrics(&registry).unwrap();
    let (context, scraped) = (cx.clone(), registry.clone());
    timely::execute_directly(move |worker| {
        let of_sink = ["sink=\"written\""];
        let of_source = ["source=\"read\""];
        copy(worker, &context, 1, || {
            let text = scrape(&scraped);
            let sink = |name| series(&text, name, &of_sink);
            let source = |name| series(&text, name, &of_source);
            assert_eq!(sink("mvsink_upper"), Some(1.0), "{text}");
            assert_eq!(sink("mvsink_frontier_lag"), Some(0.0));
            assert_eq!(sink("mvsink_shard_rows"), Some(1.0));
            assert_eq!(sink("mvsink_shard_files"), Some(1.0));
            assert!(sink("mvsink_shard_bytes") > Some(100.0));
            assert_eq!(source("mvsink_source_upper"), Some(1.0));
            assert_eq!(source("mvsink_source_lag"), Some(0.0));
            assert_eq!(source("mvsink_source_updates_read_total"), Some(1.0));
            assert_eq!(source("mvsink_source_shard_rows"), Some(1.0));
            for (name, of) in [
                ("mvsink_status", of_sink[0]),
                ("mvsink_source_status", of_source[0]),
            ] {
                let running = series(&text, name, &[of, "status=\"running\""]);
                let failed = series(&text, name, &[of, "status=\"failed\""]);
                assert_eq!((running, failed), (Some(1.0), Some(0.0)), "{name}");
            }
            // A source is no sink.
            assert!(!text.contains("sink=\"read\""), "{text}");
        });
    });
    let text = scrape(&registry);
    let sink = |name, label| series(&text, name, &["sink=\"written\"", label]);
    assert_eq!(
        sink("mvsink_batches_committed_total", ""),
        Some(1.0),
        "{text}"
    );
    assert_eq!(sink("mvsink_upper", ""), Some(1.0));
    assert_eq!(sink("mvsink_shard_rows", ""), Some(1.0));
    assert_eq!(sink("mvsink_corrections_updates", ""), Some(0.0));
    assert_eq!(sink("mvsink_status", "status=\"cancelled\""), Some(1.0));
    let read = series(
        &text,
        "mvsink_source_updates_read_total",
        &["source=\"read\""],
    );
    assert_eq!(read, Some(1.0));

    // In the same place they go on counting; what was the case is replaced by what is.
    let (context, scraped) = (cx.clone(), registry.clone());
    timely::execute_directly(move |worker| {
        copy(worker, &context, 2, || {
            let text = scrape(&scraped);
            let sink = |name| series(&text, name, &["sink=\"written\""]);
            assert_eq!(sink("mvsink_batches_committed_total"), Some(2.0), "{text}");
            assert_eq!(sink("mvsink_upper"), Some(2.0));
        });
    });
    // The registry knows nothing of a context that is gone.
    drop(cx);
    assert_eq!(series(&scrape(&registry), "mvsink_upper", &[]), None);
}

#[test]
fn logged_sizes_add_up_and_are_taken_back() {
    let runtime = runtime();
    let cx = context(&runtime);
    let events = Arc::<Mutex<Vec<CorrectionsEvent>>>::default();
    let log = Arc::clone(&events);
    timely::execute(Config::process(1), move |worker| {
        let log = Arc::clone(&log);
        let logger = move |_: &std::time::Duration, data: &mut Option<Vec<_>>| {
            let told = data.iter_mut().flat_map(|data| data.drain(..));
            log.lock().unwrap().extend(told.map(|(_, event)| event));
        };
        let register = worker.log_register();
        register
            .unwrap()
            .insert::<CorrectionsEventBuilder, _>(CORRECTIONS, logger);
        run(worker, &cx);
        while !worker.installed_dataflows().is_empty() {
            worker.drop_dataflow(worker.installed_dataflows()[0]);
        }
    })
    .unwrap()
    .join();
    let events = events.lock().unwrap();
    let (mut updates, mut most) = (0, 0);
    for event in events.iter() {
        updates += event.updates_diff;
        most = most.max(updates);
    }
    assert!(most > 0, "something was held: {events:?}");
    assert_eq!(updates, 0, "all is taken back: {events:?}");
    assert_eq!(events.iter().map(|event| event.bytes_diff).sum::<i64>(), 0);
}
