//! Short forms for the tests.
#![allow(dead_code, reason = "each test crate uses its part")]

pub mod damage;

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use mvsink_persist::testing::ClockedStore;
use mvsink_persist::{
    Append, Appended, Client, ClientOptions, CommitId, FileMeta, Frontier, Shard, StagedFile,
};
use object_store::memory::InMemory;
use tokio::time::Instant;

/// One column of data, and the crate's own.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("value", DataType::Int64, true),
        Field::new("mv_error", DataType::Utf8, true),
        Field::new("mv_time", DataType::Int64, true),
        Field::new("mv_diff", DataType::Int64, true),
    ]))
}

/// Runs a test on one thread, with a clock that jumps ahead whenever nothing else can happen.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

/// A store in memory that tells times by Tokio's clock.
pub fn clocked() -> Arc<ClockedStore> {
    let start = Instant::now();
    let clock = move || i64::try_from(start.elapsed().as_millis()).unwrap();
    Arc::new(ClockedStore::new(
        Arc::new(InMemory::new()),
        Arc::new(clock),
    ))
}

/// Options with a seed, and without what is slow.
pub fn options(seed: u64) -> ClientOptions {
    let mut options = ClientOptions::default();
    options.fsync = false;
    options.seed = Some(seed);
    options
}

/// A client of the runtime that the test runs on.
pub fn client(options: ClientOptions) -> Client {
    Client::new(tokio::runtime::Handle::current(), options)
}

pub fn id(seq: u64) -> CommitId {
    CommitId { nonce: 1, seq }
}

/// Stages the four bytes "rows" as a file of one row at this time.
pub async fn stage(shard: &Shard, time: i64) -> StagedFile {
    let meta = FileMeta {
        rows: 1,
        times: Some((time, time)),
        ..FileMeta::default()
    };
    let rows = Bytes::from_static(b"rows");
    shard.put_file(rows, meta, &|_| ()).await.unwrap()
}

/// An append of `files` from `lower` to `upper`.
pub fn append(seq: u64, lower: i64, upper: i64, files: Vec<StagedFile>) -> Append {
    Append {
        id: id(seq),
        lower: Frontier::At(lower),
        upper: Frontier::At(upper),
        files,
        since: None,
    }
}

/// Appends a staged file for each time from the upper up to this one, each in a commit of its own.
pub async fn grow(shard: &Shard, upper: i64) {
    for time in shard.progress().upper.time().unwrap()..upper {
        let file = stage(shard, time).await;
        let append = append(u64::try_from(time).unwrap(), time, time + 1, vec![file]);
        let appended = shard.append(append, &|_| ()).await.unwrap();
        assert!(matches!(appended, Appended::Committed { .. }));
    }
}
