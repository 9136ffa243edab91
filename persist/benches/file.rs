//! Rows to Arrow, Arrow to Parquet, Parquet to rows, and fingerprints, on the record of the design:
//! (u64, 40-byte string, u64, u64).
//!
//! At the end: what hashing adds to the making of a file, of the best of interleaved rounds.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mvsink_persist::{Codec, FileEncoder, decode_file, fingerprint, sums_of};

type Row = (u64, String, u64, u64);

const ROWS: usize = 64 * 1024;

/// Rows with the entropy of real ones: scattered keys, unique text, small numbers.
fn rows() -> Vec<Row> {
    (0..ROWS as u64)
        .map(|i| {
            let key = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1;
            (
                key,
                format!("{key:020}{:020}", key.rotate_left(17) >> 1),
                i % 1000,
                i,
            )
        })
        .collect()
}

fn bench(c: &mut Criterion) {
    let rows = rows();
    let codec: Codec<Row, String> = Codec::new().expect("the record has a schema");
    let updates = || rows.iter().map(|row| (row, 7, 1));
    let batch = codec.encode(updates()).expect("the rows fit");
    let encode_file = || {
        let mut encoder = FileEncoder::new(codec.schema()).expect("the schema fits");
        encoder.write(&batch).expect("the batch fits");
        encoder.finish().expect("the file is complete")
    };
    let file = encode_file().bytes;
    let decode = || decode_file("bench", file.clone(), None, 8192).expect("the file is whole");
    println!(
        "file: {} bytes, {:.1} a row",
        file.len(),
        file.len() as f64 / ROWS as f64
    );

    let mut group = c.benchmark_group("file");
    group
        .throughput(Throughput::Elements(ROWS as u64))
        .sample_size(20);
    group.bench_function("fingerprint", |b| {
        b.iter(|| {
            rows.iter().fold(0u128, |sum, row| {
                sum.wrapping_add(fingerprint::hash_data(black_box(row)).expect("it serialises"))
            })
        });
    });
    group.bench_function("rows to arrow", |b| {
        b.iter_batched(|| (), |()| codec.encode(updates()), BatchSize::PerIteration);
    });
    group.bench_function("arrow hash and sums", |b| {
        b.iter(|| sums_of(black_box(&batch)));
    });
    group.bench_function("arrow to parquet, hashed", |b| {
        b.iter_batched(|| (), |()| encode_file(), BatchSize::PerIteration);
    });
    group.bench_function("parquet to arrow", |b| {
        b.iter(|| decode().map(Result::unwrap).count())
    });
    group.bench_function("arrow to rows", |b| {
        b.iter_batched(|| (), |()| codec.decode(&batch), BatchSize::PerIteration);
    });
    group.finish();

    let mut best = [Duration::MAX; 3];
    for _ in 0..40 {
        let rounds = [
            timed(|| drop(black_box(codec.encode(updates())))),
            timed(|| drop(black_box(encode_file()))),
            timed(|| drop(black_box(sums_of(&batch)))),
        ];
        best = std::array::from_fn(|at| best[at].min(rounds[at]));
    }
    let [arrow, parquet, hash] = best.map(|best| best.as_secs_f64() * 1e9 / ROWS as f64);
    println!(
        "ns a row: rows to arrow {arrow:.1}, arrow to parquet with hashing {parquet:.1}, of that hashing {hash:.1}"
    );
    println!(
        "hashing / (rows to arrow + arrow to parquet without hashing): {:.3}",
        hash / (arrow + parquet - hash)
    );
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

criterion_group!(benches, bench);
criterion_main!(benches);
