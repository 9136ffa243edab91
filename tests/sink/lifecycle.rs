//! Sinks that are dropped, read-only, chained, or spread over processes.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{
    self, Driver, Program, Row, assert_exact, context, execute, read, runtime, step_until,
    step_until_so, words,
};
use differential_dataflow::input::InputSession;
use mvsink::{Context, Frontier, Mode, Status, Target, no_errors, persist_sink, persist_source};
use timely::Config;
use tokio::sync::watch;

fn r05_a_dropped_sink_never_reports_the_empty_frontier(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let updates = words(47, 300, 30);
    for (round, first) in [0usize, 1].into_iter().enumerate() {
        let url = format!("memory://dropped-{round}");
        let (cx, target, updates) = (cx.clone(), Target::new(url.clone()), updates.clone());
        let (check, program) = (cx.clone(), updates.clone());
        let guards = timely::execute(Config::process(2), move |worker| {
            let (mut input, handle) = worker.dataflow(|scope| {
                let mut input = InputSession::new();
                let view = support::view(input.to_collection(scope));
                let errors = no_errors::<u64, String, i64>(scope);
                (
                    input,
                    persist_sink(&cx, "view", target.clone(), view, errors, 0).unwrap(),
                )
            });
            for (index, (word, time, diff)) in updates.iter().enumerate() {
                if index % 2 == worker.index() {
                    input.update_at(word.clone(), *time, *diff);
                }
            }
            input.advance_to(12);
            input.flush();
            step_until(worker, &handle, Frontier::At(12));
            // One worker is torn down first, and the input ends under the other.
            if worker.index() == first {
                drop(handle);
                input.close();
                while worker.step_or_park(Some(Duration::from_millis(1))) {}
                None
            } else {
                input.close();
                for _ in 0..200 {
                    worker.step_or_park(Some(Duration::from_micros(100)));
                }
                Some(handle.frontier())
            }
        });
        let reported: Vec<_> = guards
            .unwrap()
            .join()
            .into_iter()
            .filter_map(Result::unwrap)
            .collect();
        assert!(
            reported.iter().all(|frontier| !frontier.is_empty()),
            "{reported:?}"
        );
        let (upper, _) = read(&check, &url);
        assert!(!upper.is_empty(), "a torn-down worker completes nothing");
        assert_exact(&check, &url, &program, 0);
    }
}

fn r08_a_read_only_sink_writes_nothing_until_it_is_promoted(driver: Driver) {
    let runtime = runtime();
    let updates = words(53, 200, 20);
    let (signal, read_only) = watch::channel(true);
    let cx = Context::builder(runtime.handle().clone())
        .configs(driver.configs())
        .read_only(read_only)
        .build();
    let (check, program) = (cx.clone(), updates.clone());
    let promote = Arc::new((std::sync::Barrier::new(2), signal));
    let guards = timely::execute(Config::process(2), move |worker| {
        let url = "memory://view";
        let (mut input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::new();
            let view = support::view(input.to_collection(scope));
            let errors = no_errors::<u64, String, i64>(scope);
            (
                input,
                persist_sink(&cx, "view", url, view, errors, 0).unwrap(),
            )
        });
        for (index, (word, time, diff)) in updates.iter().enumerate() {
            if index % 2 == worker.index() {
                input.update_at(word.clone(), *time, *diff);
            }
        }
        input.close();
        step_until_so(worker, "it is read-only", || {
            matches!(handle.status(), Status::ReadOnly)
        });
        for _ in 0..100 {
            worker.step();
        }
        let runtime = cx.client().handle();
        assert!(
            runtime.block_on(cx.client().open_existing(url)).is_err(),
            "not even the table is there"
        );
        // Once both have looked, one promotes, without anything else to wake the sink up.
        let (barrier, signal) = &*promote;
        barrier.wait();
        signal.send_replace(false);
        step_until(worker, &handle, Frontier::Empty)
    });
    for status in guards.unwrap().join() {
        let status = status.unwrap();
        assert!(matches!(status, Status::Finished), "{status}");
    }
    assert_exact(&check, "memory://view", &program, 0);
}

/// Copies one shard into another through `persist_source`, from `as_of` on.
fn copy(cx: &Context, workers: usize, from: &'static str, to: &'static str, as_of: u64) -> Status {
    let cx = cx.clone();
    let guards = timely::execute(Config::process(workers), move |worker| {
        let (source, sink) = worker.dataflow::<u64, _, _>(|scope| {
            let source =
                persist_source::<Row, String, u64, i64>(&cx, scope, "source", from, as_of).unwrap();
            let sink = persist_sink(&cx, "copy", to, source.ok, source.err, as_of).unwrap();
            (source.handle, sink)
        });
        let status = step_until(worker, &sink, Frontier::Empty);
        drop(source);
        status
    });
    guards.unwrap().join().into_iter().next().unwrap().unwrap()
}

fn a_view_on_a_view_has_the_same_contents(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let updates = words(59, 400, 40);
    execute(
        2,
        &cx,
        &Target::new("memory://first"),
        &Program::new(updates.clone()),
    );
    let status = copy(&cx, 2, "memory://first", "memory://whole", 0);
    assert!(matches!(status, Status::Finished), "{status}");
    assert_exact(&cx, "memory://whole", &updates, 0);
    copy(&cx, 4, "memory://first", "memory://late", 17);
    assert_exact(&cx, "memory://late", &updates, 17);
    let (_, late) = read(&cx, "memory://late");
    assert!(
        late.iter().all(|(_, time, _)| *time >= 17),
        "times are advanced to the as-of"
    );
}

#[test]
fn a_source_without_a_shard_says_so_and_holds_its_frontier() {
    let runtime = runtime();
    let cx = context(&runtime);
    timely::execute_directly(move |worker| {
        let (probe, handle) = worker.dataflow::<u64, _, _>(|scope| {
            let url = "memory://nowhere";
            let source =
                persist_source::<Row, String, u64, i64>(&cx, scope, "source", url, 3).unwrap();
            (source.ok.probe().0, source.handle)
        });
        let status = step_until(worker, &handle, Frontier::Empty);
        let Status::Failed { error } = status else {
            panic!("{status}")
        };
        assert!(error.to_string().contains("memory://nowhere"), "{error}");
        for _ in 0..20 {
            worker.step();
        }
        assert!(
            probe.less_equal(&3),
            "a failed source lets no frontier pass"
        );
        let index = worker.installed_dataflows()[0];
        worker.drop_dataflow(index);
    });
}

fn errors_are_rows_of_their_own(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let sink = cx.clone();
    timely::execute_directly(move |worker| {
        let (mut ok, mut err, handle) = worker.dataflow(|scope| {
            let (mut ok, mut err) = (InputSession::new(), InputSession::new());
            let (rows, errors) = (ok.to_collection(scope), err.to_collection(scope));
            let handle = persist_sink(&sink, "mixed", "memory://mixed", rows, errors, 0).unwrap();
            (ok, err, handle)
        });
        ok.update_at((1u64, "one".to_owned()), 0u64, 1i64);
        err.update_at("division by zero".to_owned(), 1, 1);
        err.update_at("division by zero".to_owned(), 3, -1);
        ok.close();
        // Both frontiers gate.
        err.advance_to(2);
        err.flush();
        step_until(worker, &handle, Frontier::At(2));
        assert_eq!(handle.frontier(), Frontier::At(2));
        err.close();
        step_until(worker, &handle, Frontier::Empty);
    });
    let seen = timely::execute_directly(move |worker| {
        let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let handle = worker.dataflow(|scope| {
            let url = "memory://mixed";
            let source =
                persist_source::<(u64, String), String, u64, i64>(&cx, scope, "mixed", url, 0)
                    .unwrap();
            let errors = std::rc::Rc::clone(&seen);
            source
                .err
                .inspect(move |update| errors.borrow_mut().push(update.clone()));
            let rows = std::rc::Rc::clone(&seen);
            source.ok.inspect(move |((_, name), time, diff)| {
                rows.borrow_mut().push((name.clone(), *time, *diff));
            });
            source.handle
        });
        step_until(worker, &handle, Frontier::Empty);
        for _ in 0..200 {
            worker.step_or_park(Some(Duration::from_micros(100)));
        }
        let mut seen = seen.borrow().clone();
        seen.sort();
        seen
    });
    let error = "division by zero".to_owned();
    assert_eq!(
        seen,
        [
            (error.clone(), 1, 1),
            (error, 3, -1),
            ("one".to_owned(), 0, 1)
        ]
    );
}

fn an_ingest_sink_resumes_at_the_upper_of_its_shard(driver: Driver) {
    let runtime = runtime();
    let updates: Vec<_> = words(61, 300, 30)
        .into_iter()
        .map(|(word, time, _)| (word, time, 1))
        .collect();
    let store = Arc::new(object_store::memory::InMemory::new());
    let url = "memory://shared";
    let target = Target::new(url).mode(Mode::Ingest);
    for until in [Frontier::At(7), Frontier::At(19), Frontier::Empty] {
        let cx = &driver.contexts(&runtime, 1, store.clone())[0];
        let resume = match runtime.block_on(cx.client().open_existing(url)) {
            Ok(shard) => u64::try_from(shard.progress().upper.time().unwrap()).unwrap(),
            Err(_) => 0,
        };
        let (cx, target, updates) = (cx.clone(), target.clone(), updates.clone());
        let guards = timely::execute(Config::process(2), move |worker| {
            let (mut input, handle) = worker.dataflow(|scope| {
                let mut input = InputSession::new();
                let words = input.to_collection(scope).map(|word: String| (word, 1i64));
                let errors = no_errors::<u64, String, i64>(scope);
                (
                    input,
                    persist_sink(&cx, "events", target.clone(), words, errors, resume).unwrap(),
                )
            });
            input.advance_to(resume);
            for (index, (word, time, diff)) in updates.iter().enumerate() {
                let mine = index % worker.peers() == worker.index();
                if mine && *time >= resume && until.is_complete(time) {
                    input.update_at(word.clone(), *time, *diff);
                }
            }
            // The input stays open for as long as this worker runs, unless it is to end.
            let _open = until.time().map(|time| {
                input.advance_to(time);
                input.flush();
                input
            });
            let status = step_until(worker, &handle, until);
            drop(handle);
            let index = worker.installed_dataflows()[0];
            worker.drop_dataflow(index);
            status
        });
        for status in guards.unwrap().join() {
            let status = status.unwrap();
            assert!(!matches!(status, Status::Failed { .. }), "{status}");
        }
    }
    let cx = &driver.contexts(&runtime, 1, store)[0];
    let (upper, stored) = read(cx, url);
    assert_eq!(upper, Frontier::Empty);
    let mut expected: Vec<(Row, u64)> = updates
        .iter()
        .map(|(w, t, _)| ((w.clone(), 1), *t))
        .collect();
    expected.sort();
    let mut found: Vec<(Row, u64)> = Vec::new();
    for (row, time, diff) in stored {
        found.extend((0..diff).map(|_| (row.clone(), time)));
    }
    found.sort();
    assert_eq!(found, expected);
}

on_both_drivers! {
    r05_a_dropped_sink_never_reports_the_empty_frontier,
    r08_a_read_only_sink_writes_nothing_until_it_is_promoted,
    a_view_on_a_view_has_the_same_contents,
    errors_are_rows_of_their_own,
    an_ingest_sink_resumes_at_the_upper_of_its_shard,
}
