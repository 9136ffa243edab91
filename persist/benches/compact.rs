//! Compaction and snapshots of 8 files of the record of the design, (u64, 40-byte string, u64, u64), in the order of
//! their hashes and in that of their making, and what a merge takes of memory. All rows are distinct and stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mvsink_persist::{
    Append, Client, ClientOptions, Codec, CommitId, CompactOptions, FileEncoder, FileMeta,
    Frontier, Open, ReadOptions, Shard, hash_data,
};
use tokio::runtime::Runtime;

type Row = (u64, String, u64, u64);

const FILES: u64 = 8;
const ROWS: u64 = 64 * 1024;

fn row(i: u64) -> Row {
    let key = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1;
    let text = format!("{key:020}{:020}", key.rotate_left(17) >> 1);
    (key, text, i % 1000, i)
}

/// A shard with the files appended one after the other.
async fn filled(client: &Client, sorted: bool) -> Shard {
    static SHARDS: AtomicU64 = AtomicU64::new(0);
    let name = SHARDS.fetch_add(1, Ordering::Relaxed);
    let codec: Codec<Row, String> = Codec::new().expect("the record has a schema");
    let open = Open::new(codec.schema());
    let shard = client
        .open_or_create(&format!("memory://compact-{name}"), open)
        .await
        .expect("memory is there");
    for file in 0..FILES {
        let mut rows: Vec<Row> = (file * ROWS..(file + 1) * ROWS).map(row).collect();
        if sorted {
            rows.sort_by_cached_key(|row| hash_data(row).expect("it serialises"));
        }
        let mut encoder = FileEncoder::new(codec.schema()).expect("the schema fits");
        for rows in rows.chunks(8192) {
            let batch = codec.encode(rows.iter().map(|row| (row, file as i64, 1)));
            encoder
                .write(&batch.expect("the rows fit"))
                .expect("the batch fits");
        }
        let file_in = encoder.finish().expect("the file is complete");
        assert_eq!(file_in.sorted, sorted);
        let meta = FileMeta::from(&file_in);
        let staged = shard.put_file(file_in.bytes, meta, &|_| {}).await;
        let append = Append {
            id: CommitId {
                nonce: 1,
                seq: file,
            },
            lower: Frontier::At(file as i64),
            upper: Frontier::At(file as i64 + 1),
            files: vec![staged.expect("memory takes it")],
            since: None,
        };
        shard.append(append, &|_| {}).await.expect("it commits");
    }
    shard
}

async fn snapshot(shard: &Shard, budget_bytes: usize) -> (u64, u64) {
    let held = Arc::new(AtomicU64::new(0));
    let most = Arc::clone(&held);
    let mut options = ReadOptions::default();
    options.budget_bytes = budget_bytes;
    options.progress = Some(Arc::new(move |progress| {
        most.store(progress.held_bytes_max, Ordering::Relaxed);
    }));
    let as_of = FILES as i64 - 1;
    let mut reader = shard.snapshot(as_of, options).expect("it is complete");
    let mut rows = 0;
    while let Some(batch) = reader.next().await.expect("the files are whole") {
        rows += batch.num_rows() as u64;
    }
    (rows, held.load(Ordering::Relaxed))
}

fn bench(c: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let client = Client::new(runtime.handle().clone(), ClientOptions::default());
    let mut full = CompactOptions::default();
    full.full = true;
    let mut group = c.benchmark_group("compact");
    group
        .throughput(Throughput::Elements(FILES * ROWS))
        .sample_size(10);
    for (name, sorted) in [("sorted", true), ("unsorted", false)] {
        group.bench_function(format!("compact 8 {name} files"), |b| {
            b.iter_batched(
                || runtime.block_on(filled(&client, sorted)),
                |shard| {
                    let report = runtime
                        .block_on(shard.compact(&full, &|_| std::ops::ControlFlow::Continue(())));
                    let report = report.expect("nobody interferes");
                    assert_eq!((report.merges, report.rows_out), (1, FILES * ROWS));
                    shard
                },
                BatchSize::PerIteration,
            );
        });
        let shard = runtime.block_on(filled(&client, sorted));
        for budget_mb in [256, 32] {
            let mut held = 0;
            group.bench_function(
                format!("snapshot of 8 {name} files, {budget_mb} MiB"),
                |b| {
                    b.iter(|| {
                        let (rows, most) = runtime.block_on(snapshot(&shard, budget_mb << 20));
                        assert_eq!(rows, FILES * ROWS);
                        held = most;
                    });
                },
            );
            println!("  held at most {:.1} MiB", held as f64 / f64::from(1 << 20));
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
