//! Sources and sinks that are so slow that the shard is cleaned up under them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use differential_dataflow::input::InputSession;
use mvsink::dyncfg::ConfigSet;
use mvsink::{Context, Data, persist_source};
use mvsink_persist::testing::{Call, GateStore, Side};
use mvsink_persist::{
    Client, ClientOptions, Codec, CompactOptions, FileEncoder, FileMeta, Frontier, GcOptions, Open,
    Shard,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde_json::json;
use timely::worker::Worker;

use crate::support::{
    self, Driver, at, is_data, read, rows_sink, runtime, step_until, step_until_so,
};

const URL: &str = "memory://shared/shard";
const ROWS: u64 = 100;

type Row = (String, u64);

fn client_options() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.recent_entries = 1;
    options.checkpoint_interval = 0;
    options.log_min_age = Duration::ZERO;
    options
}

async fn append<D: Data>(shard: &Shard, time: i64, updates: &[(D, i64)]) {
    let codec = Codec::<D, String>::new().unwrap();
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    let rows = updates.iter().map(|(row, diff)| (row, time, *diff));
    file.write(&codec.encode(rows).unwrap()).unwrap();
    let file = file.finish().unwrap();
    let meta = FileMeta {
        rows: file.rows,
        times: Some((time, time)),
        ..FileMeta::default()
    };
    let staged = shard.put_file(file.bytes, meta, &|_| ()).await.unwrap();
    support::append_file(shard, time, staged).await;
}

fn row(number: u64) -> Row {
    ("row".to_owned(), number)
}

type Seen = Vec<(Row, u64, i64)>;

/// A shard, as its writer has it open, and another process with a source that takes up one row at a time.
struct Slow {
    runtime: tokio::runtime::Runtime,
    shard: Shard,
    cx: Context,
    /// The source's store.
    gated: Arc<GateStore>,
}

impl Slow {
    /// The shard holds this many rows from time 0 on.
    fn new(rows: u64, hold_lease_s: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let writer = Client::new(runtime.handle().clone(), client_options());
        writer.mount("shared", Arc::clone(&store));
        let shard = runtime.block_on(async {
            let codec = Codec::<Row, String>::new().unwrap();
            let open = Open::new(codec.schema());
            let shard = writer.open_or_create(URL, open).await.unwrap();
            let first: Vec<_> = (0..rows).map(|number| (row(number), 1)).collect();
            append(&shard, 0, &first).await;
            shard
        });
        // One row at a time, and none before the one before it was taken up.
        let configs = ConfigSet::new();
        configs.set("mvsink_source_credits", "1").unwrap();
        configs.set("mvsink_chunk_rows", "1").unwrap();
        configs.set("mvsink_hold_lease_s", hold_lease_s).unwrap();
        configs.set("mvsink_compaction", "false").unwrap();
        configs.set("mvsink_garbage_collection", "false").unwrap();
        let cx = Context::builder(runtime.handle().clone())
            .client_options(client_options())
            .configs(configs)
            .build();
        let gated = GateStore::new(store);
        cx.client().mount("shared", Arc::clone(&gated) as _);
        Slow {
            runtime,
            shard,
            cx,
            gated,
        }
    }

    /// What the source gives until it is complete below `until`, or its error; `meanwhile` happens while it reads the
    /// first version, and stops before the data file with this number.
    fn read<F: Future<Output = ()>>(
        &self,
        until: u64,
        file: usize,
        meanwhile: impl FnOnce(Shard) -> F + Send + Sync + 'static,
    ) -> Result<Seen, String> {
        let (cx, shard, handle) = (
            self.cx.clone(),
            self.shard.clone(),
            self.runtime.handle().clone(),
        );
        let stops = self.gated.hold(file, Side::Before, |call, path| {
            call == Call::Get && is_data(path)
        });
        timely::execute_directly(move |worker| {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let sink = Rc::clone(&seen);
            let (probe, source) = worker.dataflow::<u64, _, _>(|scope| {
                let source =
                    persist_source::<Row, String, u64, i64>(&cx, scope, "source", URL, 0).unwrap();
                let rows = source
                    .ok
                    .inspect(move |update| sink.borrow_mut().push(update.clone()));
                (rows.probe().0, source.handle)
            });
            step_until_so(worker, "it has pinned the first version", || {
                stops.is_reached()
            });
            handle.block_on(meanwhile(shard));
            stops.release();
            let mut failure = None;
            while failure.is_none() && probe.less_than(&until) {
                if let mvsink::Status::Failed { error } = source.status() {
                    failure = Some(error.to_string());
                }
                worker.step_or_park(Some(Duration::from_millis(1)));
            }
            let index = worker.installed_dataflows()[0];
            drop(source);
            worker.drop_dataflow(index);
            failure.map_or_else(|| Ok(seen.take()), Err)
        })
    }
}

fn sums(seen: Seen) -> BTreeMap<(u64, u64), i64> {
    let mut sums = BTreeMap::new();
    for ((_, number), time, diff) in seen {
        *sums.entry((number, time)).or_default() += diff;
    }
    sums
}

#[test]
fn a_source_behind_a_cleaned_log_goes_on_from_a_snapshot() {
    let slow = Slow::new(ROWS, "60");
    let seen = slow.read(6, 1, |shard| async move {
        for time in 1..6 {
            let number = u64::try_from(time).unwrap();
            append(&shard, time, &[(row(number), -1), (row(ROWS + number), 1)]).await;
            shard.checkpoint().await.unwrap();
        }
        let cleaned = shard.collect_garbage(&GcOptions::default(), &|_| ()).await;
        assert!(cleaned.unwrap().log.count >= 4);
    });
    let mut expected: BTreeMap<_, _> = (0..ROWS).map(|number| ((number, 0), 1)).collect();
    for time in 1..6 {
        expected.insert((time, time), -1);
        expected.insert((ROWS + time, time), 1);
    }
    assert_eq!(
        sums(seen.unwrap()),
        expected,
        "every update once, at its time"
    );
}

/// Merges everything, gives up the past, and deletes what was merged.
async fn tidy_up(shard: Shard) {
    let far = Frontier::At(1000);
    shard.advance_since(far, &|_| ()).await.unwrap();
    merge(&shard).await;
}

/// Merges everything, and deletes what was merged.
async fn merge(shard: &Shard) {
    let mut options = CompactOptions::default();
    options.full = true;
    let merged = shard
        .compact(&options, &|_| ControlFlow::Continue(()))
        .await;
    assert_eq!(merged.unwrap().files_in, 2);
    let mut options = GcOptions::default();
    options.removed_grace = Duration::ZERO;
    shard.collect_garbage(&options, &|_| ()).await.unwrap();
}

#[test]
fn r17_a_source_keeps_what_it_has_still_to_read_and_lets_it_go() {
    for (lease, holds) in [("60", true), ("0", false)] {
        let slow = Slow::new(10, lease);
        // Whichever of the two files it reads first, it has not begun with the other one.
        let second: Vec<_> = (10..20).map(|number| (row(number), 1)).collect();
        slow.runtime.block_on(append(&slow.shard, 1, &second));
        let seen = slow.read(2, 2, tidy_up);
        if !holds {
            // The control: a source without a hold finds the second file gone.
            let error = seen.unwrap_err();
            assert!(
                error.contains("start again, which reads it anew"),
                "{error}"
            );
            continue;
        }
        assert_eq!(
            slow.shard.progress().since,
            Frontier::At(0),
            "held at the as-of"
        );
        let first = (0..10).map(|number| ((number, 0), 1));
        let expected = first
            .chain((10..20).map(|number| ((number, 1), 1)))
            .collect();
        assert_eq!(sums(seen.unwrap()), expected);
        slow.runtime.block_on(async {
            let mut watcher = slow.shard.watch();
            while !slow.shard.holds().is_empty() {
                watcher.changed().await.unwrap();
            }
            let far = Frontier::At(1000);
            let progress = slow.shard.advance_since(far, &|_| ()).await.unwrap();
            assert_eq!(progress.since, far);
        });
    }
}

/// A view of one row, which goes on from a snapshot: what it was to read next was merged and deleted. Then `edit` has put
/// something beside that.
fn jump<F: Future<Output = ()>>(
    driver: Driver,
    edit: impl FnOnce(Shard, Arc<dyn ObjectStore>) -> F + Send + Sync + 'static,
) {
    let runtime = runtime();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let gated = GateStore::new(Arc::clone(&inner));
    let cx = driver
        .contexts(&runtime, 1, Arc::clone(&gated) as _)
        .remove(0);
    let configs = cx.configs();
    configs.set("mvsink_compaction", "false").unwrap();
    configs.set("mvsink_garbage_collection", "false").unwrap();
    let other = driver.contexts(&runtime, 1, Arc::clone(&inner)).remove(0);
    let (writer, handle) = (cx.clone(), runtime.handle().clone());
    timely::execute_directly(move |worker| {
        let (mut input, sink) = rows_sink(worker, &writer, "view", URL);
        input.update(support::row(0), 1);
        input.advance_to(1);
        input.flush();
        step_until(worker, &sink, Frontier::At(1));
        // The sink reads what somebody else writes, but not before that has been merged into another file.
        let read = gated.hold(1, Side::Before, |call, path| {
            call == Call::Get && is_data(path)
        });
        handle.block_on(async {
            let shard = other.client().open_existing(URL).await.unwrap();
            append(&shard, 1, &[(support::row(99), 1)]).await;
            read.reached().await;
            merge(&shard).await;
            edit(shard, inner).await;
            read.release();
        });
        input.advance_to(3);
        input.flush();
        step_until(worker, &sink, Frontier::At(3));
    });
    let (upper, updates) = read(&cx, URL);
    assert_eq!(upper, Frontier::At(3));
    assert_eq!(at(&updates, 2), BTreeMap::from([(support::row(0), 1)]));
}

fn a_sink_whose_next_file_was_merged_and_deleted_goes_on_from_a_snapshot(driver: Driver) {
    jump(driver, |_, _| async {});
}

fn a_snapshot_that_a_sink_goes_on_from_has_files_whose_statistics_lie(driver: Driver) {
    jump(driver, |shard, store| async move {
        let codec = Codec::<support::Row, String>::new().unwrap();
        let far = (1_i64 << 40, 1_i64 << 41);
        // That there are no rows, that all are long past, and that all are still to come; with when they are.
        let lies = [(0, (0, 0), 1), (1, (0, 0), 1), (1, far, 1), (1, far, 0)];
        // Each of another row, so that no file has those read that another one hides.
        for (number, (rows, (min, max), time)) in (80..).zip(lies) {
            let mut file = FileEncoder::new(codec.schema()).unwrap();
            let row = support::row(number);
            file.write(&codec.encode([(&row, time, 1)].into_iter()).unwrap())
                .unwrap();
            let bytes = file.finish().unwrap().bytes;
            let version = shard.progress().version + 1;
            let name = format!("lies-{version}.parquet");
            let stats = json!({
                "numRecords": rows, "minValues": {"mv_time": min}, "maxValues": {"mv_time": max},
            });
            let add = json!({"add": {
                "path": name, "partitionValues": {}, "size": bytes.len(), "modificationTime": 1,
                "dataChange": true, "stats": stats.to_string(),
            }});
            let put = async |path: String, body: PutPayload| {
                store.put(&path.into(), body).await.unwrap();
            };
            put(format!("shard/{name}"), bytes.into()).await;
            let entry = format!("shard/_delta_log/{version:020}.json");
            put(entry, add.to_string().into()).await;
            shard.refresh().await.unwrap();
        }
        assert!(
            shard
                .pin()
                .files()
                .any(|file| file.path.starts_with("lies-"))
        );
    });
}

/// How a replica is left behind.
#[derive(Clone, Copy, Debug)]
struct Behind {
    /// It writes as well, and is stopped with a batch on its way.
    active: bool,
    /// Its input comes only after what it has missed was cleaned up.
    late_input: bool,
    /// It computes other rows than the one that goes on.
    differs: bool,
    /// What was merged is deleted.
    deleted: bool,
}

/// The rows of the view that goes on, and of the one that is left behind.
fn rows_at(tick: u64, differs: bool) -> support::Row {
    support::row(if differs && tick == 3 { 33 } else { tick })
}

/// Moves the since, merges all files, and cleans up the log, and what was merged if that is to be `deleted`.
async fn clean_up(shard: Shard, deleted: bool) {
    let last = Frontier::At(4);
    let moved = shard.advance_since(last, &|_| ()).await.unwrap();
    assert_eq!(moved.since, last, "nobody holds it");
    // The log is cleaned up to the last checkpoint but one.
    shard.checkpoint().await.unwrap();
    let mut options = CompactOptions::default();
    options.full = true;
    let go_on = |_| ControlFlow::Continue(());
    assert!(shard.compact(&options, &go_on).await.unwrap().files_in > 1);
    shard.checkpoint().await.unwrap();
    let mut options = GcOptions::default();
    if deleted {
        options.removed_grace = Duration::ZERO;
    }
    let cleaned = shard.collect_garbage(&options, &|_| ()).await.unwrap();
    assert!(cleaned.log.count > 1, "{cleaned:?}");
}

/// Two replicas, of which one stalls while the other one goes on, and its past is given up; gives what the stalled one says
/// in the end, and what the table holds.
fn leave_behind(
    driver: Driver,
    workers: usize,
    behind: Behind,
) -> (String, BTreeMap<support::Row, i64>) {
    const TICKS: u64 = 5;
    let runtime = runtime();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let gated = GateStore::new(Arc::clone(&inner));
    let process = |store: Arc<dyn ObjectStore>| {
        let cx = Context::builder(runtime.handle().clone())
            .client_options(client_options())
            .configs(driver.configs())
            .build();
        cx.client().mount("shared", store);
        for flag in ["mvsink_compaction", "mvsink_garbage_collection"] {
            cx.configs().set(flag, "false").unwrap();
        }
        cx
    };
    let (ahead, stalled) = (process(inner), process(Arc::clone(&gated) as _));
    let (signal, read_only) = tokio::sync::watch::channel(!behind.active);
    let (check, handle) = (ahead.clone(), runtime.handle().clone());
    let (met, signal) = (Arc::new(AtomicUsize::new(0)), Arc::new(signal));
    let gates = Arc::new(std::sync::Mutex::new(Vec::new()));
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let first = worker.index() == 0;
        let mut meetings = 0;
        let mut meet = |worker: &mut Worker| {
            meetings += workers;
            met.fetch_add(1, Ordering::AcqRel);
            support::until(worker, || met.load(Ordering::Acquire) >= meetings);
        };
        let target = mvsink::Target::new(URL).read_only(read_only.clone());
        let (mut input, sink) = rows_sink(worker, &ahead, "view", URL);
        let (mut late_input, late) = rows_sink(worker, &stalled, "view", target);
        let feed = |input: &mut InputSession<u64, support::Row, i64>, tick, differs| {
            if first {
                input.update(rows_at(tick, differs), 1);
            }
            input.advance_to(tick + 1);
            input.flush();
        };
        feed(&mut input, 0, false);
        feed(&mut late_input, 0, false);
        support::until(worker, || sink.is_hydrated() && late.is_hydrated());
        meet(worker);
        // It does not come to what the other one writes, nor to its own commit.
        if first {
            let read = gated.hold(1, Side::Before, |call, path| {
                call == Call::Get && is_data(path)
            });
            let put = gated.hold_commit(1, Side::Before);
            gates.lock().unwrap().extend([read, put]);
        }
        meet(worker);
        for tick in 1..TICKS {
            if !behind.late_input {
                feed(&mut late_input, tick, behind.differs);
            }
            feed(&mut input, tick, false);
            step_until(worker, &sink, Frontier::At(tick + 1));
        }
        if first {
            support::until(worker, || gates.lock().unwrap()[0].is_reached());
            handle.block_on(async {
                let shard = ahead.client().open_existing(URL).await.unwrap();
                clean_up(shard, behind.deleted).await;
            });
            gates.lock().unwrap().clear();
        }
        meet(worker);
        if behind.late_input {
            for tick in 1..TICKS {
                for _ in 0..50 {
                    worker.step_or_park(Some(Duration::from_micros(100)));
                }
                feed(&mut late_input, tick, behind.differs);
            }
        }
        // Now it is the only one.
        drop((sink, input));
        signal.send_replace(false);
        feed(&mut late_input, TICKS, behind.differs);
        support::until(worker, || {
            late.status().is_final() || late.frontier() > Frontier::At(TICKS)
        });
        // Until all have seen it.
        meet(worker);
        late.status().to_string()
    });
    let mut statuses = guards.unwrap().join().into_iter().map(Result::unwrap);
    let (_, updates) = read(&check, URL);
    (statuses.next().unwrap(), at(&updates, TICKS))
}

fn a_replica_left_behind_the_since_compares_again(driver: Driver, workers: usize) {
    for (active, late_input) in [(false, false), (true, false), (false, true)] {
        let behind = Behind {
            active,
            late_input,
            differs: false,
            deleted: true,
        };
        let (status, contents) = leave_behind(driver, workers, behind);
        assert!(!status.contains("failed"), "{behind:?}: {status}");
        let expected = (0..=5).map(|tick| (rows_at(tick, false), 1)).collect();
        assert_eq!(contents, expected, "{behind:?}");
    }
}

with_workers! {
    a_replica_left_behind_the_since_compares_again_with_1_worker: a_replica_left_behind_the_since_compares_again(1),
    a_replica_left_behind_the_since_compares_again_with_2_workers: a_replica_left_behind_the_since_compares_again(2),
    a_replica_left_behind_the_since_compares_again_with_4_workers: a_replica_left_behind_the_since_compares_again(4),
}

fn a_replica_left_behind_one_that_computes_something_else_reads_what_that_wrote(driver: Driver) {
    let mut behind = Behind {
        active: false,
        late_input: false,
        differs: true,
        deleted: false,
    };
    let (status, contents) = leave_behind(driver, 2, behind);
    assert!(!status.contains("failed"), "{status}");
    let expected = (0..=5).map(|tick| (rows_at(tick, true), 1)).collect();
    assert_eq!(contents, expected);
    // Where that is gone, nobody knows what to correct. Another worker might have read it before.
    behind.deleted = true;
    let (status, _) = leave_behind(driver, 1, behind);
    assert!(status.contains("start again"), "{status}");
}

on_both_drivers! {
    a_replica_left_behind_the_since_compares_again_with_1_worker,
    a_replica_left_behind_the_since_compares_again_with_2_workers,
    a_replica_left_behind_the_since_compares_again_with_4_workers,
    a_replica_left_behind_one_that_computes_something_else_reads_what_that_wrote,
    a_snapshot_that_a_sink_goes_on_from_has_files_whose_statistics_lie,
    a_sink_whose_next_file_was_merged_and_deleted_goes_on_from_a_snapshot,
}
