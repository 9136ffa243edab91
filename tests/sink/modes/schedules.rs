//! Refresh schedules, and ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use mvsink::{Frontier, Mode, Refresh, Status, Target, no_errors, persist_sink};
use object_store::memory::InMemory;

use super::{uppers, version};
use crate::support::{Driver, Program, at, execute, oracle, read, runtime, words};

fn a_view_is_what_it_was_at_its_last_refresh(driver: Driver, workers: usize) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let refresh = Refresh::every(10, 3).and(Refresh::at([17]));
    let target = Target::new("memory://view").refresh(refresh);
    let program = Program {
        stride: 4,
        ..Program::new(words(71, 400, 40))
    };
    let status = execute(workers, &cx, &target, &program);
    assert!(matches!(status, Status::Finished), "{status}");
    let (upper, stored) = read(&cx, &target.url);
    assert_eq!(upper, Frontier::Empty);
    let refreshes = [3, 13, 17, 23, 33, 43];
    for time in 0..60 {
        let last = refreshes
            .into_iter()
            .filter(|refresh| *refresh <= time)
            .max();
        let expected = last
            .map(|last| oracle(&program.updates, last))
            .unwrap_or_default();
        assert_eq!(at(&stored, time), expected, "at {time}");
    }
    for upper in uppers(&cx, &target.url) {
        let scheduled = |time| refreshes.contains(&u64::try_from(time).unwrap());
        assert!(upper.time().is_none_or(scheduled), "{upper}");
    }
}

with_workers! {
    a_view_is_what_it_was_at_its_last_refresh_with_1_worker: a_view_is_what_it_was_at_its_last_refresh(1),
    a_view_is_what_it_was_at_its_last_refresh_with_2_workers: a_view_is_what_it_was_at_its_last_refresh(2),
    a_view_is_what_it_was_at_its_last_refresh_with_4_workers: a_view_is_what_it_was_at_its_last_refresh(4),
}

fn a_restart_between_two_refreshes_changes_nothing_until_the_next(driver: Driver) {
    let runtime = runtime();
    let store = Arc::new(InMemory::new());
    let target = Target::new("memory://shared").refresh(Refresh::every(10, 0));
    let updates = words(73, 400, 40);
    for (as_of, until, upper) in [(0, 14, 20), (19, 27, 30), (29, 29, 30), (22, 40, 40)] {
        let cx = &driver.contexts(&runtime, 1, store.clone())[0];
        // The shard gets to the refresh that its input has not passed.
        let program = Program {
            as_of,
            until: Frontier::At(until),
            ..Program::new(updates.clone())
        };
        execute(2, cx, &target, &program);
        let (found, stored) = read(cx, &target.url);
        assert_eq!(found, Frontier::At(upper));
        for time in 0..upper {
            let expected = oracle(&updates, time - time % 10);
            assert_eq!(at(&stored, time), expected, "at {time}");
        }
    }
}

fn after_its_last_refresh_a_view_is_final(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let target = Target::new("memory://view").refresh(Refresh::at([5, 20]));
    // The input goes on, and stays open.
    let program = Program {
        until: Frontier::At(30),
        ..Program::new(words(79, 300, 40))
    };
    let status = execute(2, &cx, &target, &program);
    assert!(matches!(status, Status::Finished), "{status}");
    let (upper, stored) = read(&cx, &target.url);
    assert_eq!(upper, Frontier::Empty);
    assert_eq!(at(&stored, 4), BTreeMap::new());
    assert_eq!(at(&stored, 19), oracle(&program.updates, 5));
    assert_eq!(at(&stored, 1000), oracle(&program.updates, 20));
}

fn until_ends_the_shard(driver: Driver, workers: usize) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let target = Target::new("memory://view").until(17);
    let program = Program {
        until: Frontier::At(30),
        ..Program::new(words(83, 300, 40))
    };
    let status = execute(workers, &cx, &target, &program);
    assert!(matches!(status, Status::Finished), "{status}");
    let (upper, stored) = read(&cx, &target.url);
    assert_eq!(upper, Frontier::Empty);
    for time in 0..40 {
        let expected = oracle(&program.updates, time.min(16));
        assert_eq!(at(&stored, time), expected, "at {time}");
    }
    // Who comes later finds it finished, and leaves it alone.
    let before = version(&cx, &target.url);
    let late = Program {
        as_of: 25,
        ..program
    };
    let status = execute(workers, &cx, &target, &late);
    assert!(matches!(status, Status::Finished), "{status}");
    assert_eq!(version(&cx, &target.url), before);
}

with_workers! {
    until_ends_the_shard_with_1_worker: until_ends_the_shard(1),
    until_ends_the_shard_with_2_workers: until_ends_the_shard(2),
    until_ends_the_shard_with_4_workers: until_ends_the_shard(4),
}

/// A view that ends, or is written for the last time, before its input begins.
fn a_sink_that_begins_beyond_its_end_ends_no_shard_that_lacks_it(driver: Driver) {
    let runtime = runtime();
    let updates = words(89, 200, 20);
    let first = Program {
        until: Frontier::At(10),
        ..Program::new(updates.clone())
    };
    let late = Program {
        as_of: 16,
        until: Frontier::At(18),
        ..Program::new(updates.clone())
    };
    let target = || Target::new("memory://view");
    let ends = [
        target().until(15),
        target().until(16),
        target().refresh(Refresh::at([4, 14])),
        target().refresh(Refresh::every(7, 0)).until(15),
    ];
    for end in ends {
        let cx = driver.context(&runtime);
        execute(2, &cx, &target(), &first);
        let status = execute(2, &cx, &end, &late);
        let Status::Failed { error } = status else {
            panic!("{end:?}: {status}");
        };
        let gap = "the input begins at 16, but the shard ends at 10: resume at 10";
        assert!(error.to_string().ends_with(gap), "{end:?}: {error}");
        let (upper, stored) = read(&cx, &end.url);
        assert_eq!(upper, Frontier::At(10));
        assert_eq!(at(&stored, 9), oracle(&updates, 9));
        // A shard that has come so far is as it is to be.
        let on = Program {
            as_of: 10,
            until: Frontier::At(16),
            ..Program::new(updates.clone())
        };
        execute(2, &cx, &target(), &on);
        let status = execute(2, &cx, &end, &late);
        assert!(matches!(status, Status::Finished), "{end:?}: {status}");
        let (upper, stored) = read(&cx, &end.url);
        assert_eq!(upper, Frontier::Empty);
        assert_eq!(at(&stored, 1000), oracle(&updates, 15));
    }
}

fn an_ingest_sink_ends_and_has_no_refreshes(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let target = Target::new("memory://source").mode(Mode::Ingest);
    let program = Program {
        until: Frontier::At(30),
        ..Program::new(words(97, 200, 40))
    };
    let status = execute(2, &cx, &target.clone().until(12), &program);
    assert!(matches!(status, Status::Finished), "{status}");
    let (upper, stored) = read(&cx, &target.url);
    assert_eq!(upper, Frontier::Empty);
    assert_eq!(at(&stored, 1000), oracle(&program.updates, 11));
    let refreshed = target.refresh(Refresh::every(10, 0));
    let error = timely::execute_directly(move |worker| {
        worker.dataflow(|scope| {
            let ok = no_errors::<u64, String, i64>(scope);
            let err = no_errors::<u64, String, i64>(scope);
            persist_sink(&cx, "source", refreshed, ok, err, 0).unwrap_err()
        })
    });
    assert!(error.to_string().contains("no refresh schedule"), "{error}");
}

on_both_drivers! {
    a_view_is_what_it_was_at_its_last_refresh_with_1_worker,
    a_view_is_what_it_was_at_its_last_refresh_with_2_workers,
    a_view_is_what_it_was_at_its_last_refresh_with_4_workers,
    a_restart_between_two_refreshes_changes_nothing_until_the_next,
    after_its_last_refresh_a_view_is_final,
    until_ends_the_shard_with_1_worker,
    until_ends_the_shard_with_2_workers,
    until_ends_the_shard_with_4_workers,
    a_sink_that_begins_beyond_its_end_ends_no_shard_that_lacks_it,
    an_ingest_sink_ends_and_has_no_refreshes,
}
