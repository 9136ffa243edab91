//! Compaction: the contents stay, whoever does what meanwhile.

#[path = "../rows/mod.rs"]
mod rows;
mod spilling;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path as FsPath;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arrow_array::{Int64Array, RecordBatch};
use futures::future::join;
use mvsink_persist::testing::{Call, FaultyStore, GateStore, Side};
use mvsink_persist::{
    Change, ClientOptions, CompactOptions, CompactProgress, CompactReport, DataFile, Error,
    Frontier, GcOptions, Open, ReadOptions, Shard, Sums,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use rows::{
    Contents, FileOf, Update, append, codec, contents, encode, file_of, quiet, stage, updates,
};
use support::{client, options, run};

const UPPER: i64 = rows::UPPER;

async fn shard_on(store: Arc<dyn ObjectStore>, seed: u64) -> Shard {
    let client = client(options(seed));
    client.mount("compacting", store);
    let open = Open::new(codec().schema());
    client
        .open_or_create("memory://compacting", open)
        .await
        .unwrap()
}

/// One append for each file, with the times of the updates taken to where the shard is.
async fn fill(shard: &Shard, files: &[FileOf]) -> Vec<Update> {
    let mut all = Vec::new();
    for (updates, sorted) in files {
        let lower = shard.progress().upper.time().unwrap();
        let updates: Vec<Update> = updates
            .iter()
            .map(|(row, time, diff)| (row.clone(), lower + time % 2, *diff))
            .collect();
        let file = stage(shard, encode(&updates, *sorted)).await;
        append(shard, lower + 2, vec![file]).await;
        all.extend(updates);
    }
    all
}

async fn read(shard: &Shard, as_of: i64) -> Contents {
    let mut reader = shard.snapshot(as_of, ReadOptions::default()).unwrap();
    let mut found = Contents::new();
    while let Some(batch) = reader.next().await.unwrap() {
        for (row, _, diff) in updates(&[batch]) {
            assert_eq!(found.insert(row, diff), None);
        }
    }
    found
}

fn small(fan_in: usize) -> CompactOptions {
    let mut options = CompactOptions::default();
    options.fan_in = fan_in;
    options
}

fn full() -> CompactOptions {
    let mut options = CompactOptions::default();
    options.full = true;
    options
}

async fn compact(shard: &Shard, options: &CompactOptions) -> Result<CompactReport, Error> {
    shard.compact(options, &|_| ControlFlow::Continue(())).await
}

fn live(shard: &Shard) -> BTreeSet<String> {
    shard.pin().files().map(|file| file.path.clone()).collect()
}

/// The data files in the store.
async fn stored(store: &dyn ObjectStore) -> BTreeSet<String> {
    let all = futures::TryStreamExt::try_collect::<Vec<_>>(store.list(None))
        .await
        .unwrap();
    let names = all.into_iter().map(|object| object.location.to_string());
    names
        .filter(|name| !name.contains('/') && name.ends_with(".parquet"))
        .collect()
}

fn sums(shard: &Shard) -> Sums {
    let (sums, without) = shard.pin().sums();
    assert_eq!(without, 0);
    sums
}

fn files(shard: &Shard) -> Vec<Arc<DataFile>> {
    shard.pin().files().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn r23_compaction_at_any_moment_keeps_upper_and_contents(
        files_of in prop::collection::vec(file_of(40), 1..10),
        moments in prop::collection::vec((0..10usize, any::<bool>(), 2..5usize), 1..4),
        since in 0..20i64,
        target_file_bytes in prop_oneof![Just(1u64), Just(3000), Just(128 << 20)],
        budget_bytes in prop_oneof![Just(2usize), Just(100_000), Just(256 << 20)],
    ) {
        run(async {
            let store = Arc::new(InMemory::new());
            let shard = shard_on(Arc::<InMemory>::clone(&store), 1).await;
            let mut all = Vec::new();
            let mut since_now = 0;
            for (index, file) in files_of.iter().enumerate() {
                all.extend(fill(&shard, std::slice::from_ref(file)).await);
                for (moment, full, fan_in) in &moments {
                    if *moment != index {
                        continue;
                    }
                    let upper = shard.progress().upper;
                    since_now = since.min(upper.time().unwrap() - 1).max(since_now);
                    shard.advance_since(Frontier::At(since_now), &quiet).await.unwrap();
                    let before = sums(&shard);
                    let mut options = small(*fan_in);
                    options.full = *full;
                    options.target_file_bytes = target_file_bytes;
                    options.budget_bytes = budget_bytes;
                    let report = compact(&shard, &options).await.unwrap();
                    assert_eq!(report.lost, 0);
                    assert_eq!(sums(&shard), before);
                    assert_eq!(shard.progress().upper, upper);
                    assert_eq!(compact(&shard, &options).await.unwrap(), CompactReport::default());
                    for file in files(&shard) {
                        // What was merged is in order.
                        assert!(file.sorted || !file.tags.contains_key("mvsink.run"));
                    }
                }
            }
            // As everybody finds it.
            let shard = shard_on(store, 2).await;
            let upper = shard.progress().upper.time().unwrap();
            assert_eq!(upper, 2 * files_of.len() as i64);
            for as_of in since_now..upper {
                assert_eq!(read(&shard, as_of).await, contents(&all, as_of));
            }
        });
    }
}

/// Appends of one update each.
fn single_rows(count: u64) -> Vec<FileOf> {
    (0..count)
        .map(|key| (vec![(Ok((key, None)), 0, 1)], true))
        .collect()
}

#[test]
fn small_files_become_few() {
    run(async {
        let store = Arc::new(InMemory::new());
        let shard = shard_on(Arc::<InMemory>::clone(&store), 1).await;
        let all = fill(&shard, &single_rows(10)).await;
        let mut dry = small(4);
        dry.dry_run = true;
        let planned = compact(&shard, &dry).await.unwrap();
        assert_eq!(
            (
                planned.merges,
                planned.files_in,
                planned.rows_in,
                planned.files_out
            ),
            (1, 10, 10, 0)
        );
        assert_eq!(live(&shard).len(), 10);
        let told = std::sync::Mutex::new(Vec::new());
        let report = shard
            .compact(&small(4), &|progress| {
                told.lock().unwrap().push(progress);
                ControlFlow::Continue(())
            })
            .await
            .unwrap();
        assert_eq!(
            (report.merges, report.files_in, report.files_out),
            (1, 10, 1)
        );
        assert_eq!((report.rows_in, report.rows_out), (10, 10));
        assert!(report.bytes_out < report.bytes_in);
        let last = told.lock().unwrap().last().unwrap().clone();
        assert_eq!(
            (last.files, last.rows, last.rows_done, last.rows_out),
            (10, 10, 10, 10)
        );
        assert_eq!(last.bytes, report.bytes_in);
        assert_eq!(last.done, CompactReport::default());
        assert_eq!(live(&shard).len(), 1);
        assert_eq!(read(&shard, UPPER - 1).await, contents(&all, UPPER - 1));
        // The removed files are for those who still read them, and the log says how to clean up.
        assert_eq!(stored(store.as_ref()).await.len(), 11);
        // Opening is cheap.
        let checkpoint = format!(
            "_delta_log/{:020}.checkpoint.parquet",
            shard.progress().version
        );
        assert!(store.head(&Path::from(checkpoint)).await.is_ok());
        let entry = format!("_delta_log/{:020}.json", shard.progress().version);
        let entry = store
            .get(&Path::from(entry))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        let entry = std::str::from_utf8(&entry).unwrap();
        assert!(entry.contains("\"OPTIMIZE\""));
        assert!(entry.contains("\"dataChange\":false") && !entry.contains("\"dataChange\":true"));

        // Where nothing is to be merged nothing is written.
        fill(&shard, &single_rows(1)).await;
        let before = stored(store.as_ref()).await;
        let nothing = compact(&shard, &small(4)).await.unwrap();
        assert_eq!(nothing, CompactReport::default());
        let version = shard.progress().version;
        let checkpoint = Path::from(format!("_delta_log/{version:020}.checkpoint.parquet"));
        assert!(store.head(&checkpoint).await.is_err());
        assert_eq!(stored(store.as_ref()).await, before);
    });
}

#[test]
fn a_full_compaction_adds_up_to_the_since() {
    run(async {
        let shard = shard_on(Arc::new(InMemory::new()), 1).await;
        let row = |key| Ok((key, None));
        // A row that comes and goes, and one that stays.
        let mut files_of = single_rows(1);
        for _ in 0..8 {
            files_of.push((vec![(row(7), 0, 1), (row(7), 1, -1)], false));
        }
        let all = fill(&shard, &files_of).await;
        let report = compact(&shard, &full()).await.unwrap();
        assert_eq!((report.files_out, report.rows_out), (1, 17));
        // Nothing to gain, until the since moves.
        assert_eq!(compact(&shard, &full()).await.unwrap().merges, 0);
        shard.advance_since(Frontier::At(9), &quiet).await.unwrap();
        let report = compact(&shard, &full()).await.unwrap();
        assert_eq!((report.rows_in, report.rows_out), (17, 1 + 8));
        assert_eq!(read(&shard, 9).await, contents(&all, 9));
        // A since beyond the upper does not make up times.
        shard
            .advance_since(Frontier::At(1000), &quiet)
            .await
            .unwrap();
        compact(&shard, &full()).await.unwrap();
        let [file] = files(&shard).try_into().unwrap();
        assert_eq!(
            (file.min_time, file.max_time, file.rows),
            (Some(17), Some(17), Some(1))
        );
    });
}

#[test]
fn what_cancels_leaves_no_file() {
    run(async {
        let shard = shard_on(Arc::new(InMemory::new()), 1).await;
        let row = |diff| (vec![(Ok((1, None)), 0, diff)], true);
        let all = fill(&shard, &[row(1), row(-1)]).await;
        shard.advance_since(Frontier::At(3), &quiet).await.unwrap();
        let report = compact(&shard, &full()).await.unwrap();
        assert_eq!((report.files_in, report.files_out), (2, 0));
        assert!(live(&shard).is_empty());
        assert_eq!(read(&shard, 3).await, contents(&all, 3));
    });
}

#[test]
fn a_run_is_split_and_read_as_one() {
    run(async {
        let shard = shard_on(Arc::new(InMemory::new()), 1).await;
        let text = |key: u64| Some(format!("{:0300}", key * 7919 % 10_007));
        let file = |from: u64| {
            let rows = (from..from + 5000).map(|key| (Ok((key, text(key))), 0, 1));
            (rows.collect::<Vec<_>>(), false)
        };
        let all = fill(&shard, &[file(0), file(2500)]).await;
        let mut options = full();
        options.target_file_bytes = 20_000;
        let report = compact(&shard, &options).await.unwrap();
        assert!(report.files_out > 1, "{report:?}");
        let found = files(&shard);
        let run = |file: &Arc<DataFile>| {
            let (run, place) = file.tags["mvsink.run"].split_once('/').unwrap();
            (run.to_owned(), place.parse::<usize>().unwrap())
        };
        let mut places: Vec<_> = found.iter().map(run).collect();
        places.sort();
        assert!(
            places
                .iter()
                .enumerate()
                .all(|(place, (_, found))| place == *found)
        );
        assert!(places.iter().all(|(run, _)| *run == places[0].0));
        assert_eq!(read(&shard, 3).await, contents(&all, 3));
        // It is one run, so it is left alone.
        assert_eq!(compact(&shard, &small(2)).await.unwrap().merges, 0);
    });
}

#[test]
fn two_compactions_of_one_file() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let one = shard_on(FaultyStore::new(Arc::clone(&store), 1, 0), 1).await;
        let two = shard_on(FaultyStore::new(Arc::clone(&store), 2, 0), 2).await;
        for round in 0..20 {
            let before = stored(store.as_ref()).await;
            let all = fill(&one, &single_rows(4)).await;
            let inputs = live(&one);
            let (options, upper) = (full(), one.progress().upper);
            let (first, second) = join(compact(&one, &options), compact(&two, &options)).await;
            let (first, second) = (first.unwrap(), second.unwrap());
            assert_eq!(first.merges + second.merges, 1, "round {round}");
            one.refresh().await.unwrap();
            two.refresh().await.unwrap();
            assert_eq!(one.progress().upper, upper);
            assert_eq!(live(&one), live(&two));
            // What the loser wrote is gone: there is what was there, and what is live.
            let expected: BTreeSet<_> = before.union(&inputs).cloned().collect();
            let expected: BTreeSet<_> = expected.union(&live(&one)).cloned().collect();
            assert_eq!(stored(store.as_ref()).await, expected);
            drop(all);
        }
    });
}

/// An entry of another program.
async fn put_entry(store: &dyn ObjectStore, version: u64, actions: &[String]) {
    let path = Path::from(format!("_delta_log/{version:020}.json"));
    store
        .put(&path, (actions.join("\n") + "\n").into())
        .await
        .unwrap();
}

/// Another program adds a file with one row.
async fn add_foreign(store: &dyn ObjectStore, shard: &Shard) {
    let foreign = encode(&[(Ok((77, None)), 0, 1)], false).bytes;
    let add = format!(
        r#"{{"add":{{"path":"foreign","partitionValues":{{}},"size":{},"modificationTime":1,"dataChange":true}}}}"#,
        foreign.len()
    );
    let path = Path::from("foreign");
    store.put(&path, foreign.into()).await.unwrap();
    put_entry(store, shard.progress().version + 1, &[add]).await;
}

#[test]
fn a_compaction_leaves_alone_what_no_view_has_looked_at() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = shard_on(Arc::clone(&store), 1).await;
        fill(&shard, &single_rows(3)).await;
        add_foreign(store.as_ref(), &shard).await;
        // The first append may have been on its way when the file came; whoever makes the second has read it.
        for round in 0..2 {
            let report = compact(&shard, &full()).await.unwrap();
            assert_eq!(report.left_alone, 1, "after {round} appends");
            assert!(live(&shard).contains("foreign"));
            fill(&shard, &single_rows(1)).await;
        }
        let report = compact(&shard, &full()).await.unwrap();
        assert_eq!((report.merges, report.left_alone), (1, 0));
        assert!(!live(&shard).contains("foreign"));
        let last = shard.progress().upper.time().unwrap() - 1;
        assert_eq!(read(&shard, last).await[&Ok((77, None))], 1);
    });
}

#[test]
fn what_another_program_has_added_below_a_checkpoint_is_not_merged_unseen() {
    for followed in 0..2 {
        let left = 2 - followed;
        added_below_a_checkpoint(followed, left);
    }
}

/// After as many appends there is a checkpoint, and after so many more it is merged.
fn added_below_a_checkpoint(followed: usize, left: usize) {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = shard_on(Arc::clone(&store), 1).await;
        fill(&shard, &single_rows(3)).await;
        add_foreign(store.as_ref(), &shard).await;
        shard.refresh().await.unwrap();
        for _ in 0..followed {
            fill(&shard, &single_rows(1)).await;
        }
        shard.checkpoint().await.unwrap();
        let shard = shard_on(Arc::clone(&store), 2).await;
        for round in 0..left {
            let report = compact(&shard, &full()).await.unwrap();
            assert_eq!(report.left_alone, 1, "after {round} appends");
            assert!(live(&shard).contains("foreign"));
            fill(&shard, &single_rows(1)).await;
        }
        let report = compact(&shard, &full()).await.unwrap();
        assert_eq!((report.merges, report.left_alone), (1, 0));
    });
}

#[test]
fn a_compaction_racing_a_foreign_delete() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = shard_on(FaultyStore::new(Arc::clone(&store), 1, 0), 1).await;
        let all = fill(&shard, &single_rows(4)).await;
        let inputs = live(&shard);
        let victim = inputs.first().unwrap().clone();
        let delete = format!(
            r#"{{"remove":{{"path":"{victim}","deletionTimestamp":1,"dataChange":true}}}}"#
        );
        let version = shard.progress().version + 1;
        // The delete comes between the merge and its commit: when the merge has told that it is done.
        let (now, late) = (Arc::clone(&store), std::sync::Mutex::new(Some(delete)));
        let told = |progress: CompactProgress| {
            assert_eq!(progress.rows_done, 4);
            if let Some(delete) = late.lock().unwrap().take() {
                let put = put_entry(now.as_ref(), version, std::slice::from_ref(&delete));
                // In memory: ready at once.
                let mut context = Context::from_waker(Waker::noop());
                assert_eq!(pin!(put).poll(&mut context), Poll::Ready(()));
            }
            ControlFlow::Continue(())
        };
        use std::future::Future;
        let report = shard.compact(&small(4), &told).await.unwrap();
        assert_eq!((report.merges, report.lost), (0, 1));
        let mut left = inputs.clone();
        left.remove(&victim);
        assert_eq!(live(&shard), left);
        assert_eq!(stored(store.as_ref()).await, inputs);
        assert_eq!(read(&shard, 7).await.len(), contents(&all, 7).len() - 1);
    });
}

#[test]
fn a_compaction_whose_files_somebody_merged_and_deleted_gives_way() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gated = GateStore::new(Arc::clone(&store));
        let slow = shard_on(Arc::clone(&gated) as _, 1).await;
        let all = fill(&slow, &single_rows(4)).await;
        let reads = gated.hold(1, Side::Before, |call, path| {
            matches!(call, Call::Get | Call::GetRange) && !path.as_ref().contains("_delta_log")
        });
        let overtake = async {
            reads.reached().await;
            let fast = shard_on(Arc::clone(&store), 2).await;
            let inputs = live(&fast);
            assert_eq!(compact(&fast, &full()).await.unwrap().merges, 1);
            for input in inputs {
                store.delete(&Path::from(input)).await.unwrap();
            }
            reads.release();
            live(&fast)
        };
        let options = small(4);
        let (report, merged) = join(compact(&slow, &options), overtake).await;
        let report = report.unwrap();
        assert_eq!((report.merges, report.lost), (0, 1));
        assert_eq!(live(&slow), merged);
        assert_eq!(stored(store.as_ref()).await, merged);
        assert_eq!(read(&slow, 7).await, contents(&all, 7));
    });
}

#[test]
fn what_a_dropped_compaction_had_staged_is_garbage_to_its_own_process() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gated = GateStore::new(Arc::clone(&store));
        let shard = shard_on(Arc::clone(&gated) as _, 1).await;
        fill(&shard, &single_rows(4)).await;
        let live = live(&shard);
        let mut at_once = GcOptions::default();
        at_once.orphan_min_age = Duration::ZERO;
        // It has staged its file, and looks at that before it commits.
        let commits = gated.hold_commit(1, Side::Before);
        let options = small(4);
        let compaction = compact(&shard, &options);
        tokio::select! {
            biased;
            () = commits.reached() => {}
            report = compaction => panic!("{report:?}"),
        }
        assert_eq!(stored(store.as_ref()).await.len(), 5);
        let report = shard.collect_garbage(&at_once, &|_| ()).await.unwrap();
        assert_eq!(report.orphans.count, 1);
        assert_eq!(stored(store.as_ref()).await, live);
        drop(commits);
    });
}

#[test]
fn a_run_of_many_batches_is_one_file() {
    run(async {
        let shard = shard_on(Arc::new(InMemory::new()), 1).await;
        let rows = |keys: std::ops::Range<u64>| keys.map(|key| (Ok((key, None)), 0, 1));
        let files = [0..9000, 9000..18_000].map(|keys| (rows(keys).collect(), true));
        fill(&shard, &files).await;
        let report = compact(&shard, &full()).await.unwrap();
        assert_eq!((report.files_in, report.files_out), (2, 1));
        assert_eq!(report.rows_out, 18_000);
    });
}

/// A merge that comes after another one, in one call, says what that one did.
#[test]
fn a_compaction_tells_what_its_earlier_merges_did() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = shard_on(Arc::clone(&store), 1).await;
        fill(&shard, &single_rows(4)).await;
        let (again, told) = (
            std::sync::Mutex::new(true),
            std::sync::Mutex::new(Vec::new()),
        );
        let rival = shard_on(store, 2).await;
        // More files come while the first merge is under way.
        let more = |progress: CompactProgress| {
            told.lock().unwrap().push(progress.done);
            if std::mem::take(&mut *again.lock().unwrap()) {
                let rows = single_rows(4);
                let filled = fill(&rival, &rows);
                let mut context = Context::from_waker(Waker::noop());
                assert!(pin!(filled).poll(&mut context).is_ready());
            }
            ControlFlow::Continue(())
        };
        let report = shard.compact(&small(4), &more).await.unwrap();
        let told = told.into_inner().unwrap();
        assert_eq!(report.merges, 2);
        assert_eq!(told[0], CompactReport::default());
        assert_eq!((told[1].merges, told[1].files_in), (1, 4));
    });
}

#[test]
fn a_compaction_that_is_dropped_at_any_await_loses_nothing() {
    run(async {
        for polls in 0..60 {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let shard = shard_on(FaultyStore::new(Arc::clone(&store), polls, 0), 1).await;
            let all = fill(&shard, &single_rows(4)).await;
            let options = small(4);
            let mut done = false;
            {
                let mut compaction = pin!(compact(&shard, &options));
                for _ in 0..polls {
                    let slice = tokio::time::timeout(
                        std::time::Duration::from_millis(3),
                        compaction.as_mut(),
                    );
                    if let Ok(report) = slice.await {
                        assert_eq!(report.unwrap().merges, 1);
                        done = true;
                        break;
                    }
                }
            }
            let again = shard_on(store, 2).await;
            assert_eq!(read(&again, 7).await, contents(&all, 7));
            assert!(!done || live(&again).len() == 1);
            // Whoever comes next brings it to an end.
            let report = compact(&again, &options).await.unwrap();
            assert_eq!(live(&again).len(), 1, "{report:?}");
            assert_eq!(read(&again, 7).await, contents(&all, 7));
        }
    });
}

#[test]
fn r01_a_compaction_on_a_failing_store_commits_once() {
    run(async {
        for seed in 0..30 {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let shard = shard_on(FaultyStore::new(Arc::clone(&store), seed, 30), seed).await;
            let all = fill(&shard, &single_rows(5)).await;
            let before = sums(&shard);
            let report = compact(&shard, &full()).await.unwrap();
            assert_eq!((report.merges, report.lost), (1, 0), "seed {seed}");
            let again = shard_on(store, 100).await;
            assert_eq!(live(&again), live(&shard));
            assert_eq!(sums(&again), before);
            assert_eq!(read(&again, 9).await, contents(&all, 9));
        }
    });
}

#[test]
fn readers_that_pinned_before_go_on_reading() {
    run(async {
        let shard = shard_on(Arc::new(InMemory::new()), 1).await;
        let all = fill(&shard, &single_rows(8)).await;
        let mut snapshot = shard.snapshot(3, ReadOptions::default()).unwrap();
        let mut changes = shard
            .changes(0, Frontier::At(20), ReadOptions::default())
            .unwrap();
        shard.advance_since(Frontier::At(15), &quiet).await.unwrap();
        assert_eq!(compact(&shard, &full()).await.unwrap().merges, 1);
        let more = fill(&shard, &single_rows(2)).await;
        let mut batches = Vec::new();
        while let Some(batch) = snapshot.next().await.unwrap() {
            batches.push(batch);
        }
        let found = updates(&batches)
            .into_iter()
            .map(|(row, _, diff)| (row, diff));
        assert_eq!(found.collect::<Contents>(), contents(&all, 3));
        // The compaction is no change.
        let mut found = Vec::new();
        while let Some(change) = changes.next().await.unwrap() {
            if let Change::Updates(batch) = change {
                found.extend(updates(&[batch]));
            }
        }
        let mut expected = [all, more].concat();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    });
}

#[test]
fn files_of_other_programs_take_part() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = shard_on(Arc::clone(&store), 1).await;
        let all = fill(&shard, &single_rows(2)).await;
        let batch = RecordBatch::try_from_iter([
            ("c0", Arc::new(Int64Array::from(vec![1, 50])) as _),
            (
                "mv_time",
                Arc::new(Int64Array::from(vec![None, Some(2)])) as _,
            ),
        ])
        .unwrap();
        let mut bytes = Vec::new();
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let size = bytes.len();
        store
            .put(&Path::from("part-0 1.parquet"), bytes.into())
            .await
            .unwrap();
        let add = format!(
            r#"{{"add":{{"path":"part-0%201.parquet","partitionValues":{{}},"size":{size},"modificationTime":1,"dataChange":true}}}}"#
        );
        put_entry(store.as_ref(), shard.progress().version + 1, &[add]).await;
        shard.refresh().await.unwrap();
        let upper = shard.progress().upper.time().unwrap();
        append(&shard, upper + 1, Vec::new()).await;
        append(&shard, upper + 2, Vec::new()).await;
        assert_eq!(shard.pin().sums().1, 1);
        let report = compact(&shard, &full()).await.unwrap();
        assert_eq!((report.files_in, report.files_out), (3, 1));
        let mut expected = contents(&all, upper);
        *expected.entry(Ok((1, None))).or_default() += 1;
        *expected.entry(Ok((50, None))).or_default() += 1;
        assert_eq!(read(&shard, upper).await, expected);
        // Now they have sums, and those are right.
        assert_eq!(shard.pin().sums().1, 0);
        let mut of_rows = Sums::default();
        for (row, diff) in &expected {
            of_rows.add(rows::hash(row), *diff);
        }
        assert_eq!(sums(&shard), of_rows);
    });
}

#[test]
fn a_damaged_input_stops_compaction_and_nothing_is_left() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = shard_on(Arc::clone(&store), 1).await;
        fill(&shard, &single_rows(4)).await;
        let (before, version) = (stored(store.as_ref()).await, shard.progress().version);
        let victim = before.first().unwrap().clone();
        let other = encode(&[(Ok((99, None)), 0, 1)], true);
        let path = Path::from(victim.as_str());
        store.put(&path, other.bytes.into()).await.unwrap();
        let error = compact(&shard, &small(4)).await.unwrap_err();
        assert!(error.to_string().contains(&victim), "{error}");
        store.delete(&path).await.unwrap();
        let error = compact(&shard, &small(4)).await.unwrap_err();
        assert!(matches!(error, Error::MissingFile { .. }), "{error}");
        assert_eq!(shard.progress().version, version);
        let mut left = before.clone();
        left.remove(&victim);
        assert_eq!(stored(store.as_ref()).await, left);
    });
}

#[test]
fn appends_with_compaction_in_between_rewrite_little() {
    const APPENDS: u64 = 120;
    run(async {
        let shard = shard_on(Arc::new(InMemory::new()), 1).await;
        let mut options = small(4);
        options.size_floor_bytes = 4000;
        let mut rewritten = 0;
        let mut all = Vec::new();
        for key in 0..APPENDS {
            // So large that the overhead of a file does not count.
            let noise = (0..200).map(|i| format!("{:x}", rows::hash(&Ok((key << 32 | i, None)))));
            let row = Ok((key, Some(noise.collect::<String>())));
            all.extend(fill(&shard, &[(vec![(row, 0, 1)], true)]).await);
            rewritten += compact(&shard, &options).await.unwrap().rows_in;
            let files = live(&shard).len();
            assert!(files <= 3 * 5, "{files} files");
        }
        assert!(rewritten <= APPENDS * 4, "{rewritten} rows for {APPENDS}");
        let upper = shard.progress().upper.time().unwrap();
        assert_eq!(read(&shard, upper - 1).await, contents(&all, upper - 1));
    });
}

#[test]
fn local_directories_are_compacted_too() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let client = client(options(1));
        let url = dir.path().to_str().unwrap();
        let open = Open::new(codec().schema());
        let shard = client.open_or_create(url, open).await.unwrap();
        let all = fill(&shard, &single_rows(6)).await;
        assert_eq!(compact(&shard, &full()).await.unwrap().files_out, 1);
        assert_eq!(read(&shard, 11).await, contents(&all, 11));
        let exists = |path: &String| FsPath::new(dir.path()).join(path).exists();
        assert!(live(&shard).iter().all(exists));
    });
}
