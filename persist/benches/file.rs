//! Rows to Arrow, Arrow to Parquet, Parquet to rows, and fingerprints, on the record of the design:
//! (u64, 40-byte string, u64, u64).

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mvsink_persist::{Codec, FileEncoder, decode_file, fingerprint};

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
    group.bench_function("arrow to parquet", |b| {
        b.iter_batched(|| (), |()| encode_file(), BatchSize::PerIteration);
    });
    group.bench_function("parquet to arrow", |b| {
        b.iter(|| decode().map(Result::unwrap).count())
    });
    group.bench_function("arrow to rows", |b| {
        b.iter_batched(|| (), |()| codec.decode(&batch), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
