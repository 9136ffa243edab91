//! Replicas: standby, and disagreement.

use std::sync::Arc;

use mvsink::{Context, Frontier, Target};
use mvsink_persist::testing::{Call, CountingStore};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::{Replica, signal, tenfold, until};
use crate::support::{Driver, Row, is_data, runtime};

/// Runs replicas through times, all of them to each; gives the bytes that they staged, by replica.
fn staged_bytes(
    driver: Driver,
    runtime: &tokio::runtime::Runtime,
    replicas: usize,
    times: u64,
    standby: bool,
) -> Vec<u64> {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let counters: Vec<_> = (0..replicas)
        .map(|_| CountingStore::new(Arc::clone(&inner)))
        .collect();
    let mut all = Vec::new();
    for counter in &counters {
        let cx = driver
            .contexts(runtime, 1, Arc::clone(counter) as Arc<dyn ObjectStore>)
            .remove(0);
        let configs = cx.configs();
        configs
            .set("mvsink_standby", if standby { "true" } else { "false" })
            .unwrap();
        configs.set("mvsink_standby_silence_ms", "1000000").unwrap();
        configs.set("mvsink_compaction", "false").unwrap();
        all.push(cx);
    }
    timely::execute_directly(move |worker| {
        let target = Target::new("memory://shared");
        let mut replicas: Vec<_> = all
            .iter()
            .map(|cx| Replica::new(worker, cx, &target))
            .collect();
        for time in 0..times {
            for replica in &mut replicas {
                for letter in b'a'..b'i' {
                    replica.insert(&char::from(letter).to_string());
                }
                replica.advance(time + 1);
            }
            until(worker, || {
                replicas
                    .iter()
                    .all(|replica| replica.upper() == Frontier::At(time + 1))
            });
        }
        let standing_by = replicas
            .iter()
            .filter(|replica| replica.is_at("standing by"));
        assert_eq!(
            standing_by.count(),
            if standby { replicas.len() - 1 } else { 0 }
        );
        drop(replicas);
        until(worker, || all.iter().all(Context::is_settled));
    });
    let staged = counters.iter().map(|counter| {
        counter.bytes_where(|call, path| is_data(path) && matches!(call, Call::Put | Call::Create))
    });
    staged.collect()
}

fn two_replicas_with_standby_stage_little_more_than_one(driver: Driver) {
    let runtime = runtime();
    let staged = |replicas, standby| -> u64 {
        staged_bytes(driver, &runtime, replicas, 200, standby)
            .iter()
            .sum()
    };
    let (one, two, control) = (staged(1, false), staged(2, true), staged(2, false));
    println!("staged by one {one}, by two with standby {two}, without {control}");
    assert!(two * 100 <= one * 115, "{two} bytes by two, {one} by one");
    assert!(
        control * 100 > one * 115,
        "{control} bytes without standby, {one} by one"
    );
}

fn a_replica_that_stands_by_takes_over_when_the_winner_falls_silent(driver: Driver) {
    let runtime = runtime();
    let mut contexts = driver.contexts(&runtime, 2, Arc::new(InMemory::new()));
    for cx in &contexts {
        cx.configs().set("mvsink_standby", "true").unwrap();
        cx.configs().set("mvsink_standby_silence_ms", "20").unwrap();
    }
    timely::execute_directly(move |worker| {
        let target = Target::new("memory://shared");
        let mut replicas: Vec<_> = contexts
            .iter()
            .map(|cx| Replica::new(worker, cx, &target))
            .collect();
        let mut time = 0;
        let silent = loop {
            time += 1;
            for replica in &mut replicas {
                replica.insert("word");
                replica.advance(time);
            }
            until(worker, || {
                replicas
                    .iter()
                    .all(|replica| replica.upper() == Frontier::At(time))
            });
            let by = replicas
                .iter()
                .position(|replica| replica.is_at("standing by"));
            if let Some(by) = by {
                break 1 - by;
            }
        };
        // The winner is gone, without a word.
        let Replica {
            handle,
            words: _words,
        } = replicas.remove(silent);
        drop(handle);
        let mut left = replicas.remove(0);
        for _ in 0..3 {
            time += 1;
            left.insert("word");
            left.advance(time);
            until(worker, || left.upper() == Frontier::At(time));
        }
        until(worker, || left.is_at("running"));
        drop(left);
        contexts.clear();
    });
}

/// Two replicas that write in turns, each of them once a round; gives what they say about each other in the end.
fn in_turns(driver: Driver, rounds: u64, second: fn(Row) -> Row) -> Vec<(String, u64)> {
    let runtime = runtime();
    let mut contexts = driver.contexts(&runtime, 2, Arc::new(InMemory::new()));
    timely::execute_directly(move |worker| {
        let (signals, mut replicas): (Vec<_>, Vec<_>) = contexts
            .iter()
            .zip([|row| row, second])
            .map(|(cx, row)| {
                let (signal, read_only) = signal(true);
                let target = Target::new("memory://shared").read_only(read_only);
                (signal, Replica::with(worker, cx, "view", &target, row))
            })
            .unzip();
        let mut time = 0;
        for writer in (0..rounds).flat_map(|_| [0, 1]) {
            time += 1;
            for replica in &mut replicas {
                replica.insert(["a", "b", "c"][time as usize % 3]);
                replica.advance(time);
            }
            signals[writer].send_replace(false);
            until(worker, || {
                let there = |replica: &Replica| replica.upper() == Frontier::At(time);
                replicas.iter().all(there)
            });
            signals[writer].send_replace(true);
            // Whatever the other one has to correct it has read by then.
            until(worker, || {
                replicas.iter().all(|replica| replica.is_at("read-only"))
            });
        }
        // Both may write, and say how they are.
        signals.iter().for_each(|signal| {
            signal.send_replace(false);
        });
        until(worker, || {
            !replicas.iter().any(|replica| replica.is_at("read-only"))
        });
        let said = replicas.iter();
        let said = said.map(|r| (r.handle.status().to_string(), r.handle.disputes().rounds));
        let said = said.collect();
        replicas.clear();
        contexts.clear();
        said
    })
}

fn r25_replicas_that_compute_different_results_say_so(driver: Driver) {
    for (status, rounds) in in_turns(driver, 12, tenfold) {
        assert!(rounds >= 3, "{rounds} rounds");
        assert!(
            status.starts_with("not deterministic: other replicas disagreed in"),
            "{status}"
        );
    }
}

fn r25_replicas_that_agree_dispute_nothing(driver: Driver) {
    for (status, rounds) in in_turns(driver, 12, |row| row) {
        assert_eq!((status.as_str(), rounds), ("running", 0));
    }
}

on_both_drivers! {
    two_replicas_with_standby_stage_little_more_than_one,
    a_replica_that_stands_by_takes_over_when_the_winner_falls_silent,
    r25_replicas_that_compute_different_results_say_so,
    r25_replicas_that_agree_dispute_nothing,
}
