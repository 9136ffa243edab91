//! Promotion, demotion, and views that replace others.

use std::sync::Arc;
use std::time::Duration;

use mvsink::{Frontier, Target};
use mvsink_persist::testing::{GateStore, Side};
use object_store::memory::InMemory;

use super::{Replica, signal, tenfold, until};
use crate::support::{Driver, at, oracle, read, runtime, step_until_so, words};

fn r08_a_read_only_sink_beside_one_that_writes(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let (promote, read_only) = signal(true);
    timely::execute_directly(move |worker| {
        let kept = Target::new("memory://kept").read_only(read_only);
        let mut kept = Replica::with(worker, &cx, "kept", &kept, |row| row);
        let mut other = Replica::with(worker, &cx, "other", &"memory://other".into(), |row| row);
        for replica in [&mut kept, &mut other] {
            replica.insert("word");
            replica.advance(5);
        }
        until(worker, || {
            other.upper() == Frontier::At(5) && kept.is_at("read-only")
        });
        let client = cx.client();
        let there = client
            .handle()
            .block_on(client.open_existing("memory://kept"));
        assert!(there.is_err(), "not even the table is there");
        // An idle sink wakes up.
        promote.send_replace(false);
        until(worker, || {
            kept.upper() == Frontier::At(5) && kept.is_at("running")
        });
    });
}

fn r08_a_demoted_sink_ends_what_it_began_and_says_that_it_is_read_only(driver: Driver) {
    let runtime = runtime();
    let gates = GateStore::new(Arc::new(InMemory::new()));
    let cx = driver.contexts(&runtime, 1, gates.clone()).remove(0);
    let (demote, read_only) = signal(false);
    timely::execute_directly(move |worker| {
        let target = Target::new("memory://shared").read_only(read_only);
        let mut replica = Replica::new(worker, &cx, &target);
        replica.insert("word");
        replica.advance(1);
        until(worker, || replica.upper() == Frontier::At(1));
        // Demoted while its commit is under way.
        let commit = gates.hold_commit(1, Side::Before);
        replica.insert("other");
        replica.advance(2);
        let reached = cx.client().handle().spawn(async move {
            commit.reached().await;
            commit
        });
        until(worker, || reached.is_finished());
        demote.send_replace(true);
        replica.insert("third");
        replica.advance(3);
        // Long enough for mint to have heard of it; that it waits is the model's to prove.
        for _ in 0..100 {
            worker.step_or_park(Some(Duration::from_millis(1)));
        }
        assert!(!replica.is_at("read-only"), "a commit is under way");
        let commit = cx.client().handle().block_on(reached).unwrap();
        commit.release();
        until(worker, || replica.is_at("read-only"));
        assert_eq!(replica.upper(), Frontier::At(2));
        let (upper, stored) = read(&cx, "memory://shared");
        assert_eq!((upper, stored.len()), (Frontier::At(2), 2));
        demote.send_replace(false);
        until(worker, || replica.upper() == Frontier::At(3));
    });
}

fn r08_a_replacement_hydrates_read_only_beside_the_running_view_and_takes_over(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let url = "memory://view";
    let updates = words(107, 600, 60);
    let (old_signal, old_read_only) = signal(false);
    let (new_signal, new_read_only) = signal(true);
    let (context, program) = (cx.clone(), updates.clone());
    timely::execute_directly(move |worker| {
        let target = Target::new(url).read_only(old_read_only);
        let mut old = Replica::with(worker, &context, "first", &target, |row| row);
        let feed = |replica: &mut Replica, times: std::ops::Range<u64>| {
            for (word, time, diff) in &program {
                if times.contains(time) {
                    replica.words.update_at(word.clone(), *time, *diff);
                }
            }
            replica.advance(times.end);
        };
        feed(&mut old, 0..20);
        until(worker, || old.upper() == Frontier::At(20));
        let target = Target::new(url).read_only(new_read_only);
        let mut new = Replica::with(worker, &context, "second", &target, tenfold);
        feed(&mut new, 0..20);
        until(worker, || {
            new.handle.is_hydrated() && new.is_at("read-only")
        });
        // It keeps up while the old one writes.
        for time in 20..40 {
            feed(&mut old, time..time + 1);
            feed(&mut new, time..time + 1);
            until(worker, || old.upper() == Frontier::At(time + 1));
        }
        assert_eq!(new.handle.disputes().rounds, 0);
        old_signal.send_replace(true);
        until(worker, || old.is_at("read-only"));
        new_signal.send_replace(false);
        feed(&mut new, 40..60);
        until(worker, || {
            new.upper() == Frontier::At(60) && new.is_at("running")
        });
    });
    let (_, stored) = read(&cx, url);
    for time in 0..40 {
        assert_eq!(at(&stored, time), oracle(&updates, time), "at {time}");
    }
    for time in 40..60 {
        let expected = oracle(&updates, time).into_iter();
        let expected = expected.map(|(row, diff)| (tenfold(row), diff)).collect();
        assert_eq!(at(&stored, time), expected, "at {time}");
    }
}

fn r08_corrections_stay_small_through_many_foreign_writes(driver: Driver) {
    const WRITES: u64 = 600;
    let runtime = runtime();
    let mut contexts = driver.contexts(&runtime, 2, Arc::new(InMemory::new()));
    let (_read_only, signal) = signal(true);
    timely::execute_directly(move |worker| {
        let target = Target::new("memory://shared");
        let mut writer = Replica::new(worker, &contexts[0], &target);
        let mut reader = Replica::new(worker, &contexts[1], &target.read_only(signal));
        for time in 0..WRITES {
            for replica in [&mut writer, &mut reader] {
                replica.insert(["a", "b", "c"][time as usize % 3]);
                replica.advance(time + 1);
            }
            let there = Frontier::At(time + 1);
            until(worker, || {
                writer.upper() == there && reader.upper() == there
            });
            // Its read-back may be behind, but comes to where little is held.
            if time % 50 == 0 {
                step_until_so(worker, "100 updates are held at most", || {
                    reader.handle.pressure().held_updates <= 100
                });
            }
        }
        drop((writer, reader));
        contexts.clear();
    });
}

on_both_drivers! {
    r08_a_read_only_sink_beside_one_that_writes,
    r08_a_demoted_sink_ends_what_it_began_and_says_that_it_is_read_only,
    r08_a_replacement_hydrates_read_only_beside_the_running_view_and_takes_over,
    r08_corrections_stay_small_through_many_foreign_writes,
}
