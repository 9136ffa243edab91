//! Writes a shard commit by commit, and prints what a commit and opening the shard cost.
//!
//! `cargo run --release -p mvsink-persist --example append -- DIRECTORY [COMMITS]`

use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use mvsink_persist::{
    Append, Appended, Client, ClientOptions, CommitId, Error, FileMeta, Frontier, Open,
};
use parquet::arrow::ArrowWriter;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments
        .next()
        .ok_or("usage: append DIRECTORY [COMMITS]")?;
    let commits: i64 = arguments
        .next()
        .map_or(Ok(100), |commits| commits.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    runtime.block_on(async move {
        let client = Client::new(handle.clone(), ClientOptions::default());
        let schema = Arc::new(Schema::new(vec![
            Field::new("value", DataType::Int64, true),
            Field::new("mv_error", DataType::Utf8, true),
            Field::new("mv_time", DataType::Int64, true),
            Field::new("mv_diff", DataType::Int64, true),
        ]));
        let shard = client
            .open_or_create(&directory, Open::new(Arc::clone(&schema)))
            .await?;
        let nonce = client.random_u128();
        let mut times = Vec::new();
        for seq in 0..commits {
            let Frontier::At(time) = shard.progress().upper else {
                return Err("the shard is complete".into());
            };
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(vec![time, time + 1])),
                Arc::new(StringArray::new_null(2)),
                Arc::new(Int64Array::from(vec![time, time])),
                Arc::new(Int64Array::from(vec![1, 1])),
            ];
            let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), None)?;
            writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
            let bytes = writer.into_inner()?;
            let meta = FileMeta {
                rows: 2,
                times: Some((time, time)),
                ..FileMeta::default()
            };
            let report = |error: &Error| eprintln!("trying again: {error}");
            let file = shard.put_file(bytes.into(), meta, &report).await?;
            let append = Append {
                id: CommitId {
                    nonce,
                    seq: seq.unsigned_abs(),
                },
                lower: Frontier::At(time),
                upper: Frontier::At(time + 1),
                files: vec![file.clone()],
                since: None,
            };
            let start = Instant::now();
            let appended = shard.append(append, &report).await?;
            times.push(start.elapsed());
            if let Appended::Lost { upper } = appended {
                println!("another process was faster: the shard is at {upper}");
                shard.delete_files(&[file]).await?;
            }
        }
        times.sort_unstable();
        if let Some(median) = times.get(times.len() / 2) {
            println!("commit: {median:?} (median of {commits})");
        }
        let start = Instant::now();
        let again = Client::new(handle, ClientOptions::default())
            .open_existing(&directory)
            .await?;
        println!("open: {:?}", start.elapsed());
        println!(
            "{:?}, {} files",
            again.progress(),
            again.pin().files().len()
        );
        Ok(())
    })
}
