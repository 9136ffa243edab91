//! Sinks that start over shards which hold something already: what they verify, what they read, what they repair.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::support::{Driver, Row, at, is_data, read, runtime, step_until};
use differential_dataflow::input::InputSession;
use mvsink::{Context, Counters, Frontier, Status, no_errors, persist_sink};
use mvsink_persist::testing::{Call, CountingStore};
use mvsink_persist::{
    Append, Appended, Codec, CommitId, FileEncoder, FileMeta, Open, bucket, hash_data,
};
use object_store::memory::InMemory;
use timely::Config;
use tokio::runtime::Runtime;

const URL: &str = "memory://shared/view";

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given
        .and_then(|given| given.parse().ok())
        .unwrap_or(default)
}

fn row(n: u64) -> Row {
    (format!("row {n}"), i64::try_from(n).unwrap())
}

/// A collection: `rows` rows from time 0 on, of which the first 100 go at time 7; 100 more at time 8; and one more at
/// each of some late times.
#[derive(Clone)]
struct Collection {
    rows: u64,
    late: Vec<u64>,
}

impl Collection {
    /// The updates that come at a time.
    fn changes(&self, time: u64) -> Vec<(u64, i64)> {
        match time {
            0 => (0..self.rows).map(|n| (n, 1)).collect(),
            7 => (0..100).map(|n| (n, -1)).collect(),
            8 => (self.rows..self.rows + 100).map(|n| (n, 1)).collect(),
            time if self.late.contains(&time) => vec![(10 * self.rows + time, 1)],
            _ => Vec::new(),
        }
    }

    fn contents(&self, time: u64) -> BTreeMap<Row, i64> {
        let mut contents = BTreeMap::new();
        for (n, diff) in (0..=time).flat_map(|time| self.changes(time)) {
            *contents.entry(row(n)).or_default() += diff;
        }
        contents.retain(|_, diff| *diff != 0);
        contents
    }

    /// Runs a sink from `as_of` until the shard's upper is `until`.
    fn sink(&self, cx: &Context, workers: usize, as_of: u64, until: u64) -> Counters {
        let (collection, context) = (self.clone(), cx.clone());
        let guards = timely::execute(Config::process(workers), move |worker| {
            let (mut input, handle) = worker.dataflow(|scope| {
                let mut input = InputSession::<u64, Row, i64>::new();
                let rows = input.to_collection(scope);
                let errors = no_errors::<u64, String, i64>(scope);
                let handle = persist_sink(&context, "view", URL, rows, errors, as_of).unwrap();
                (input, handle)
            });
            for time in 0..until {
                input.advance_to(time.max(as_of));
                for (n, diff) in collection.changes(time) {
                    if n % worker.peers() as u64 == worker.index() as u64 {
                        input.update(row(n), diff);
                    }
                    if n % 4096 == 0 {
                        worker.step();
                    }
                }
            }
            input.advance_to(until);
            input.flush();
            let status = step_until(worker, &handle, Frontier::At(until));
            assert!(!matches!(status, Status::Failed { .. }), "{status}");
            let counters = handle.counters();
            drop(handle);
            worker.drop_dataflow(worker.installed_dataflows()[0]);
            counters
        });
        let counters = guards.unwrap().join().into_iter().map(Result::unwrap);
        let counters: Vec<Counters> = counters.collect();
        cx.client().handle().block_on(cx.settled());
        // The workers of a process share them.
        counters[0].clone()
    }

    fn assert_held(&self, cx: &Context, time: u64) {
        let (upper, updates) = read(cx, URL);
        assert!(upper.is_complete(&time));
        assert_eq!(
            at(&updates, time),
            self.contents(time),
            "the view at {time}"
        );
    }
}

/// A process, over a store that is shared with others.
fn process(driver: Driver, runtime: &Runtime, store: &Arc<CountingStore>) -> Context {
    let cx = driver.context(runtime);
    // A merge reads files as well.
    cx.configs().set("mvsink_compaction", "false").unwrap();
    cx.client().mount("shared", Arc::clone(store) as _);
    cx
}

fn data_reads(store: &CountingStore) -> usize {
    store.count_where(|call, path| is_data(path) && matches!(call, Call::Get | Call::GetRange))
}

fn a_restart_over_a_right_shard_reads_no_data_file(driver: Driver) {
    let runtime = runtime();
    let mut collection = Collection {
        rows: number("MVSINK_TEST_ROWS", 200_000),
        late: Vec::new(),
    };
    let store = CountingStore::new(Arc::new(InMemory::new()));
    let mut upper = 12;
    collection.sink(&process(driver, &runtime, &store), 2, 0, upper);
    for workers in [1, 2, 4] {
        // Below the upper, just below it, at it, and beyond.
        for as_of in [3, upper - 1, upper, upper + 10] {
            store.reset();
            let as_of = as_of.max(3);
            let until = upper.max(as_of) + 2;
            collection.late.push(until - 1);
            let counters =
                collection.sink(&process(driver, &runtime, &store), workers, as_of, until);
            let case = format!("{workers} workers, as of {as_of}, upper {upper}: {counters:?}");
            assert_eq!(data_reads(&store), 0, "{case}");
            assert_eq!(counters.rows_verified, {
                let known = collection.contents(as_of.max(upper - 1));
                known.len() as u64
            });
            assert_eq!(
                (counters.buckets_verified, counters.buckets_differing),
                (256, 0),
                "{case}"
            );
            assert_eq!(
                (counters.rows_diffed, counters.rows_read_back),
                (0, 0),
                "{case}"
            );
            assert_eq!(counters.data_files_read, 0, "{case}");
            upper = until;
        }
        collection.assert_held(&process(driver, &runtime, &store), upper - 1);
    }
}

/// The bucket of a row.
fn bucket_of(n: u64) -> u8 {
    bucket(hash_data(&row(n)).unwrap())
}

/// Appends updates as a sink does, with their sums.
async fn append(cx: &Context, upper: u64, updates: &[(u64, i64)]) {
    let shard = cx.client().open_existing(URL).await.unwrap();
    shard.refresh().await.unwrap();
    let lower = shard.progress().upper;
    let codec = Codec::<Row, String>::new().unwrap();
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    let rows: Vec<(Row, i64)> = updates.iter().map(|(n, diff)| (row(*n), *diff)).collect();
    let time = lower.time().unwrap();
    let batch = codec.encode(rows.iter().map(|(row, diff)| (row, time, *diff)));
    file.write(&batch.unwrap()).unwrap();
    let file = file.finish().unwrap();
    let meta = FileMeta::from(&file);
    let staged = shard.put_file(file.bytes, meta, &|_| ()).await.unwrap();
    let append = Append {
        id: CommitId {
            nonce: 77,
            seq: upper,
        },
        lower,
        upper: Frontier::At(i64::try_from(upper).unwrap()),
        files: vec![staged],
        since: None,
    };
    let appended = shard.append(append, &|_| ()).await.unwrap();
    assert!(matches!(appended, Appended::Committed { .. }));
}

/// A restart over a shard in which somebody has changed `tampered` rows.
fn restart_over_tampered(driver: Driver, rows: u64, tampered: u64, workers: usize) {
    let runtime = runtime();
    let collection = Collection {
        rows,
        late: Vec::new(),
    };
    let store = CountingStore::new(Arc::new(InMemory::new()));
    collection.sink(&process(driver, &runtime, &store), 2, 0, 12);
    // Half of them are taken away, and as many put there that should not be.
    let gone = (0..tampered / 2).map(|n| 1000 + n * (rows / tampered));
    let bogus = (0..tampered - tampered / 2).map(|n| 100 * rows + n);
    let changes = gone.map(|n| (n, -1)).chain(bogus.map(|n| (n, 1)));
    let changes: Vec<(u64, i64)> = changes.collect();
    let cx = process(driver, &runtime, &store);
    runtime.block_on(append(&cx, 13, &changes));

    store.reset();
    let counters = collection.sink(&process(driver, &runtime, &store), workers, 12, 15);
    collection.assert_held(&process(driver, &runtime, &store), 14);
    let differing: BTreeSet<u8> = changes.iter().map(|(n, _)| bucket_of(*n)).collect();
    let in_them = |n: &u64| differing.contains(&bucket_of(*n));
    let diffed = collection.contents(14).into_keys();
    let diffed = diffed
        .filter(|(_, n)| in_them(&u64::try_from(*n).unwrap()))
        .count() as u64;
    let held = [0, 7, 8]
        .into_iter()
        .flat_map(|time| collection.changes(time));
    let held = held
        .chain(changes.iter().copied())
        .filter(|(n, _)| in_them(n))
        .count() as u64;
    let case = format!("{workers} workers: {counters:?}");
    assert_eq!(counters.buckets_differing, differing.len() as u64, "{case}");
    assert_eq!(
        counters.buckets_verified,
        256 - differing.len() as u64,
        "{case}"
    );
    assert_eq!(counters.rows_diffed, diffed, "{case}");
    assert_eq!(counters.rows_verified, rows - diffed, "{case}");
    assert_eq!(counters.rows_read_back, held, "{case}");
    assert!(counters.data_files_read > 0, "{case}");
    assert_eq!(counters.own_commits_read_back, 0, "{case}");
}

fn a_restart_over_100_tampered_rows_reads_and_repairs_only_their_buckets(driver: Driver) {
    let rows = number("MVSINK_TEST_ROWS", 200_000);
    for workers in [1, 2, 4] {
        restart_over_tampered(driver, rows, 100, workers);
    }
}

fn a_restart_over_one_tampered_row_reads_one_bucket(driver: Driver) {
    restart_over_tampered(driver, 20_000, 1, 2);
}

fn steady_state_reads_back_no_own_file(driver: Driver) {
    let commits = number("MVSINK_TEST_COMMITS", 2_000);
    let runtime = runtime();
    let store = CountingStore::new(Arc::new(InMemory::new()));
    let cx = process(driver, &runtime, &store);
    let context = cx.clone();
    let counters = timely::execute(Config::process(2), move |worker| {
        let (mut input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::<u64, Row, i64>::new();
            let rows = input.to_collection(scope);
            let errors = no_errors::<u64, String, i64>(scope);
            let handle = persist_sink(&context, "view", URL, rows, errors, 0).unwrap();
            (input, handle)
        });
        for time in 0..commits {
            // In turns, so that each worker has commits without a row of its own as well.
            if time % 2 == worker.index() as u64 {
                input.update(row(time), 1);
            }
            input.advance_to(time + 1);
            input.flush();
            let status = step_until(worker, &handle, Frontier::At(time + 1));
            assert!(!matches!(status, Status::Failed { .. }), "{status}");
        }
        let counters = handle.counters();
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
        counters
    });
    for counters in counters.unwrap().join() {
        let counters = counters.unwrap();
        let read = (counters.data_files_read, counters.rows_read_back);
        assert_eq!((read, counters.own_commits_read_back), ((0, 0), 0));
    }
    assert_eq!(data_reads(&store), 0);
    let (upper, updates) = read(&cx, URL);
    assert_eq!(upper, Frontier::At(commits));
    let expected = (0..commits).map(|n| (row(n), 1)).collect();
    assert_eq!(at(&updates, commits - 1), expected);
}

/// The fingerprint of a row counts all columns of its table: those of a wider table tell nothing of narrower rows.
fn a_table_with_more_columns_than_the_rows_is_read(driver: Driver) {
    type Wide = (String, i64, Option<i64>);
    let runtime = runtime();
    let store = CountingStore::new(Arc::new(InMemory::new()));
    let cx = process(driver, &runtime, &store);
    let collection = Collection {
        rows: 3000,
        late: Vec::new(),
    };
    runtime.block_on(async {
        let codec = Codec::<Wide, String>::new().unwrap();
        let shard = cx
            .client()
            .open_or_create(URL, Open::new(codec.schema()))
            .await
            .unwrap();
        let mut staged = Vec::new();
        // Many files of few rows, so that each has few buckets.
        for rows in collection
            .contents(9)
            .into_keys()
            .collect::<Vec<_>>()
            .chunks(100)
        {
            let rows: Vec<Wide> = rows
                .iter()
                .map(|(text, n)| (text.clone(), *n, Some(*n)))
                .collect();
            let mut file = FileEncoder::new(codec.schema()).unwrap();
            let batch = codec.encode(rows.iter().map(|row| (row, 0, 1))).unwrap();
            file.write(&batch).unwrap();
            let file = file.finish().unwrap();
            let meta = FileMeta::from(&file);
            staged.push(shard.put_file(file.bytes, meta, &|_| ()).await.unwrap());
        }
        let append = Append {
            id: CommitId { nonce: 78, seq: 0 },
            lower: Frontier::At(0),
            upper: Frontier::At(10),
            files: staged,
            since: None,
        };
        shard.append(append, &|_| ()).await.unwrap();
    });
    let counters = collection.sink(&process(driver, &runtime, &store), 2, 9, 12);
    assert_eq!(
        (counters.buckets_verified, counters.buckets_differing),
        (256, 0)
    );
    assert!(counters.data_files_read > 0, "{counters:?}");
    collection.assert_held(&process(driver, &runtime, &store), 11);
    let (_, updates) = read(&cx, URL);
    assert_eq!(updates.len(), 3000, "nothing was written");
}

on_both_drivers! {
    a_restart_over_a_right_shard_reads_no_data_file,
    a_restart_over_100_tampered_rows_reads_and_repairs_only_their_buckets,
    a_restart_over_one_tampered_row_reads_one_bucket,
    steady_state_reads_back_no_own_file,
    a_table_with_more_columns_than_the_rows_is_read,
}
