//! Views on views: a chain of them through shards, read at one time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{self, Driver, Row, Update, at, oracle, read, runtime, until, words};
use differential_dataflow::input::InputSession;
use mvsink::{Context, Frontier, Handle, Source, no_errors, persist_sink, persist_source};
use mvsink_persist::{Frontier as Upper, Shard, common_time};
use timely::Config;
use timely::worker::Worker;

const URLS: [&str; 3] = ["memory://letters", "memory://totals", "memory://both"];
const LEASE: Duration = Duration::from_secs(60);

/// The three views at a time, computed anew: words by letter, all of them, and both.
fn expected(updates: &[Update], time: u64) -> [BTreeMap<Row, i64>; 3] {
    let letters = oracle(updates, time);
    let total: i64 = letters.keys().map(|(_, count)| count).sum();
    let totals = BTreeMap::from([(("total".to_owned(), total), 1)]);
    let totals = if letters.is_empty() {
        BTreeMap::new()
    } else {
        totals
    };
    let both = letters.clone().into_iter().chain(totals.clone()).collect();
    [letters, totals, both]
}

fn source<'s>(
    cx: &Context,
    scope: timely::dataflow::Scope<'s, u64>,
    url: &str,
) -> Source<'s, Row, String, u64, i64> {
    persist_source(cx, scope, url, url, 0).unwrap()
}

/// Renders the three, each in a dataflow of its own.
fn chain(worker: &mut Worker, cx: &Context) -> (InputSession<u64, String, i64>, Vec<Handle<u64>>) {
    let (input, letters) = worker.dataflow(|scope| {
        let mut input = InputSession::new();
        let view = support::view(input.to_collection(scope));
        let errors = no_errors::<u64, String, i64>(scope);
        (
            input,
            persist_sink(cx, "letters", URLS[0], view, errors, 0).unwrap(),
        )
    });
    let mut handles = vec![letters];
    // A source finds its shard, or fails.
    until(worker, || handles[0].status().to_string() != "starting");
    handles.extend(worker.dataflow(|scope| {
        let letters = source(cx, scope, URLS[0]);
        let counts = letters.ok.map(|(_, count)| ((), count));
        let totals = counts.reduce(|(), counts, output| {
            let total: i64 = counts.iter().map(|(count, times)| **count * times).sum();
            output.push((total, 1));
        });
        let totals = totals.map(|((), total)| ("total".to_owned(), total));
        let sink = persist_sink(cx, "totals", URLS[1], totals, letters.err, 0).unwrap();
        [letters.handle, sink]
    }));
    until(worker, || handles[2].status().to_string() != "starting");
    handles.extend(worker.dataflow(|scope| {
        let (letters, totals) = (source(cx, scope, URLS[0]), source(cx, scope, URLS[1]));
        let (ok, err) = (letters.ok.concat(totals.ok), letters.err.concat(totals.err));
        let sink = persist_sink(cx, "both", URLS[2], ok, err, 0).unwrap();
        [letters.handle, totals.handle, sink]
    }));
    (input, handles)
}

fn chain_is_consistent(driver: Driver, workers: usize) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let updates = words(97, 300, 40);
    let (context, program) = (cx.clone(), updates.clone());
    let guards = timely::execute(Config::process(workers), move |worker| {
        let (mut input, handles) = chain(worker, &context);
        for end in [3, 11, 12, 40] {
            for (index, (word, time, diff)) in program.iter().enumerate() {
                let now = input.time()..&end;
                if now.contains(&time) && index % worker.peers() == worker.index() {
                    input.update_at(word.clone(), *time, *diff);
                }
            }
            input.advance_to(end);
            input.flush();
            if worker.index() == 0 {
                // The views follow at their own pace: what they have in common is some time below.
                until(worker, || handles[5].frontier() > Frontier::At(0));
                assert_common(&context, &program, end);
            }
            // All of them get there.
            until(worker, || {
                handles
                    .iter()
                    .all(|handle| handle.frontier() >= Frontier::At(end))
            });
        }
        drop(handles);
        for index in worker.installed_dataflows() {
            worker.drop_dataflow(index);
        }
    });
    guards.unwrap().join().into_iter().for_each(Result::unwrap);
    cx.client().handle().block_on(cx.settled());
    let common = assert_common(&cx, &updates, 40);
    assert_eq!(common, 39, "nothing moves any more");
}

/// The views agree at a time that they have in common, which stays readable while it is held.
fn assert_common(cx: &Context, updates: &[Update], until: u64) -> u64 {
    let client = cx.client();
    let opened = URLS.map(|url| client.handle().block_on(client.open_existing(url)).unwrap());
    let common = client
        .handle()
        .block_on(common_time(&opened, 0, LEASE))
        .unwrap();
    let time = u64::try_from(common.time()).unwrap();
    assert!(time < until);
    let give_up = |shard: &Shard| {
        let to = shard.advance_since(Upper::At(1_000_000), &|_| ());
        client.handle().block_on(to).unwrap().since
    };
    for ((url, shard), contents) in URLS.iter().zip(&opened).zip(expected(updates, time)) {
        assert!(give_up(shard) <= Upper::At(common.time()), "{url} is held");
        let (upper, stored) = read(cx, url);
        assert!(upper.is_complete(&time));
        assert_eq!(at(&stored, time), contents, "{url} at {time}");
    }
    client.handle().block_on(common.release()).unwrap();
    time
}

with_workers! {
    a_chain_of_views_is_consistent_at_a_common_time_with_1_worker: chain_is_consistent(1),
    a_chain_of_views_is_consistent_at_a_common_time_with_2_workers: chain_is_consistent(2),
    a_chain_of_views_is_consistent_at_a_common_time_with_4_workers: chain_is_consistent(4),
}

on_both_drivers! {
    a_chain_of_views_is_consistent_at_a_common_time_with_1_worker,
    a_chain_of_views_is_consistent_at_a_common_time_with_2_workers,
    a_chain_of_views_is_consistent_at_a_common_time_with_4_workers,
}
