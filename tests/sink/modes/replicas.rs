//! Replicas: standby, and disagreement.

use std::sync::Arc;

use mvsink::{Context, Frontier, Handle, Target};
use mvsink_persist::testing::{Call, CountingStore, GateStore, Side};
use mvsink_persist::{Codec, Open};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::{Replica, signal, tenfold, until};
use crate::support::{Driver, Row, at, is_data, read, row, rows_sink_from, runtime};

const URL: &str = "memory://shared";

/// How many times the replicas of an empty shard begin with.
const TIMES: u64 = 20;

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

/// Has two replicas, with as-ofs 5 and 12, begin on an empty shard, the first two commits of each in this order; gives
/// what is stored when both have come to time 20.
fn begin_in_order(
    driver: Driver,
    runtime: &tokio::runtime::Runtime,
    order: [usize; 4],
) -> Vec<(Row, u64, i64)> {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let gates = [(); 2].map(|()| GateStore::new(Arc::clone(&inner)));
    let contexts = gates.each_ref().map(|gate| {
        let store = Arc::clone(gate) as Arc<dyn ObjectStore>;
        let cx = driver.contexts(runtime, 1, store).remove(0);
        cx.configs().set("mvsink_compaction", "false").unwrap();
        cx
    });
    let check = driver.contexts(runtime, 1, inner).remove(0);
    let codec = Codec::<Row, String>::new().unwrap();
    let created = check
        .client()
        .open_or_create(URL, Open::new(codec.schema()));
    runtime.block_on(created).unwrap();
    // Each commit stops before it is put, and after that, before it is known.
    let mut stops = gates.map(|gate| {
        let mut stops = std::collections::VecDeque::new();
        for _ in 0..2 {
            stops.push_back([Side::Before, Side::After].map(|side| gate.hold_commit(1, side)));
        }
        stops
    });
    timely::execute_directly(move |worker| {
        let replicas: Vec<_> = contexts
            .iter()
            .zip([5, 12])
            .map(|(cx, as_of)| {
                let (mut input, handle) = rows_sink_from(worker, cx, "view", URL, as_of);
                (0..TIMES).for_each(|time| input.update_at(row(time), time, 1));
                input.advance_to(TIMES);
                input.flush();
                (input, handle)
            })
            .collect();
        for replica in order {
            let (_, handle) = &replicas[replica];
            for stop in stops[replica].pop_front().unwrap() {
                // Who has nothing left to commit does not come by.
                until(worker, || {
                    stop.is_reached() || handle.frontier() >= Frontier::At(TIMES)
                });
            }
        }
        drop(stops);
        until(worker, || {
            let at_end = |handle: &Handle<u64>| handle.frontier() >= Frontier::At(TIMES);
            replicas.iter().all(|(_, handle)| at_end(handle))
        });
        drop(replicas);
        until(worker, || contexts.iter().all(Context::is_settled));
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    });
    read(&check, URL).1
}

fn r26_replicas_write_the_view_once_in_every_order_of_their_first_commits(driver: Driver) {
    let runtime = runtime();
    for order in [
        [0, 0, 1, 1],
        [0, 1, 0, 1],
        [0, 1, 1, 0],
        [1, 0, 0, 1],
        [1, 0, 1, 0],
        [1, 1, 0, 0],
    ] {
        let stored = begin_in_order(driver, &runtime, order);
        for time in 12..TIMES {
            let expected = (0..=time).map(|number| (row(number), 1)).collect();
            assert_eq!(at(&stored, time), expected, "{order:?} at {time}");
        }
    }
}

on_both_drivers! {
    r26_replicas_write_the_view_once_in_every_order_of_their_first_commits,
    two_replicas_with_standby_stage_little_more_than_one,
    a_replica_that_stands_by_takes_over_when_the_winner_falls_silent,
    r25_replicas_that_compute_different_results_say_so,
    r25_replicas_that_agree_dispute_nothing,
}
