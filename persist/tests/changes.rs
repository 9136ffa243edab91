//! Readers of updates whose files are merged and deleted by another process before it is their turn.

mod rows;
mod support;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use mvsink_persist::testing::{GateStore, Hold, Side};
use mvsink_persist::{
    Change, ChangesReader, CompactOptions, Error, Frontier, GcOptions, Open, ReadOptions, Shard,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use rows::{append, codec, encode, stage, updates};
use support::{client, options, run};

const URL: &str = "memory://changing";

async fn process(store: Arc<dyn ObjectStore>, seed: u64) -> Shard {
    let client = client(options(seed));
    client.mount("changing", store);
    let open = Open::new(codec().schema());
    client.open_or_create(URL, open).await.unwrap()
}

/// One that writes, and has written a row, and one that can be held up.
async fn two_processes() -> (Shard, Arc<GateStore>, Shard) {
    let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let writer = process(Arc::clone(&truth), 1).await;
    grow(&writer).await;
    let gated = GateStore::new(truth);
    let behind = process(Arc::clone(&gated) as _, 2).await;
    (writer, gated, behind)
}

/// Appends one row at the upper.
async fn grow(shard: &Shard) {
    let time = shard.progress().upper.time().unwrap();
    let row = (Ok((time as u64, None)), time, 1);
    let file = stage(shard, encode(&[row], true)).await;
    append(shard, time + 1, vec![file]).await;
}

/// Merges all files, and deletes those that were merged.
async fn merge(shard: &Shard) {
    let mut options = CompactOptions::default();
    options.full = true;
    let report = shard
        .compact(&options, &|_| ControlFlow::Continue(()))
        .await;
    assert!(report.unwrap().merges > 0);
    let mut options = GcOptions::default();
    options.removed_grace = Duration::ZERO;
    let report = shard.collect_garbage(&options, &|_| ()).await.unwrap();
    assert!(report.removed.count > 0);
}

/// The times of all updates, in order.
async fn times(mut reader: ChangesReader) -> Result<Vec<i64>, Error> {
    let mut times = Vec::new();
    while let Some(change) = reader.next().await? {
        if let Change::Updates(batch) = change {
            times.extend(updates(&[batch]).into_iter().map(|(_, time, _)| time));
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// What a reader finds: without a look at what happened, or else after it. Time passes at once.
async fn settle<O>(found: &mut (impl Future<Output = O> + Unpin), happened: Hold) -> O {
    match tokio::time::timeout(Duration::from_secs(5), &mut *found).await {
        Ok(found) => found,
        Err(_) => {
            happened.release();
            found.await
        }
    }
}

#[test]
fn a_reader_whose_first_files_were_merged_away_goes_on_from_the_newest_version() {
    run(async {
        let (writer, gated, behind) = two_processes().await;
        // It knows of no later entry.
        assert_eq!(behind.progress().version, 1);
        // It does not see the next entry.
        let next = gated.hold(1, Side::Before, |_, path| {
            path.as_ref().contains("00000002.json")
        });
        grow(&writer).await;
        merge(&writer).await;
        let reader = behind.changes(0, Frontier::At(2), ReadOptions::default());
        let mut found = Box::pin(times(reader.unwrap()));
        let found = settle(&mut found, next).await;
        assert_eq!(found.unwrap(), [0, 1]);
    });
}

#[test]
fn a_reader_whose_next_files_were_merged_away_goes_on_from_the_newest_version() {
    run(async {
        let (writer, gated, behind) = two_processes().await;
        let merged = gated.hold(1, Side::Before, |_, path| {
            path.as_ref().contains("00000003.json")
        });
        let mut reader = behind
            .changes(0, Frontier::At(3), ReadOptions::default())
            .unwrap();
        assert!(matches!(reader.next().await, Ok(Some(Change::Updates(_)))));
        assert_eq!(
            reader.next().await.unwrap(),
            Some(Change::Progress(Frontier::At(1)))
        );
        grow(&writer).await;
        merge(&writer).await;
        grow(&writer).await;
        let mut found = Box::pin(times(reader));
        let found = settle(&mut found, merged).await;
        assert_eq!(found.unwrap(), [1, 2]);
    });
}

#[test]
fn a_reader_names_a_file_that_is_missing_from_the_newest_version() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = process(Arc::clone(&truth), 1).await;
        grow(&shard).await;
        let path = shard.pin().files().next().unwrap().path.clone();
        object_store::ObjectStoreExt::delete(&truth, &path.as_str().into())
            .await
            .unwrap();
        let reader = shard.changes(0, Frontier::At(1), ReadOptions::default());
        let error = times(reader.unwrap()).await.unwrap_err();
        assert!(
            matches!(&error, Error::MissingFile { path: named } if named.ends_with(&path)),
            "{error}"
        );
    });
}
