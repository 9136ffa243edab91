//! Rows to Arrow, Arrow to Parquet, Parquet to rows, and fingerprints, on the record of the design:
//! (u64, 40-byte string, u64, u64).
//!
//! At the end: what hashing adds to the making of a file, of the best of interleaved rounds.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, ArrayRef, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Fields};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mvsink_persist::columnar::{self, Columnar, Failure, required};
use mvsink_persist::{Codec, FileEncoder, decode_file, fingerprint, sums_of};
use serde::{Deserialize, Serialize};

type Row = (u64, String, u64, u64);

/// The same record, with columns by hand.
#[derive(Serialize, Deserialize)]
struct ByHand(u64, String, u64, u64);

impl Columnar for ByHand {
    fn fields() -> Fields {
        let bigint = |name| Field::new(name, DataType::Int64, false);
        let text = Field::new("c1", DataType::Utf8, false);
        vec![bigint("c0"), text, bigint("c2"), bigint("c3")].into()
    }

    fn to_columns(rows: &[&Self]) -> Result<Vec<ArrayRef>, Failure> {
        let bigint = |field: fn(&Self) -> u64| -> Result<ArrayRef, Failure> {
            let values: Result<Vec<i64>, _> =
                rows.iter().map(|row| field(row).try_into()).collect();
            Ok(Arc::new(Int64Array::from(values?)))
        };
        let bytes = rows.iter().map(|row| row.1.len()).sum();
        let mut text = StringBuilder::with_capacity(rows.len(), bytes);
        rows.iter().for_each(|row| text.append_value(&row.1));
        Ok(vec![
            bigint(|row| row.0)?,
            Arc::new(text.finish()),
            bigint(|row| row.2)?,
            bigint(|row| row.3)?,
        ])
    }

    fn from_columns(columns: &[ArrayRef], push: &mut dyn FnMut(Self)) -> Result<(), Failure> {
        let text = required::<StringArray>(columns, 1)?;
        let [a, b, c] = [0, 2, 3].map(|index| required::<Int64Array>(columns, index));
        let (a, b, c) = (a?, b?, c?);
        for row in 0..text.len() {
            let (a, b, c) = (a.value(row), b.value(row), c.value(row));
            let text = text.value(row).to_owned();
            push(ByHand(a.try_into()?, text, b.try_into()?, c.try_into()?));
        }
        Ok(())
    }
}

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
    let by_hand: Codec<ByHand, String> = Codec::columnar().expect("the record has a schema");
    let by_hand_rows: Vec<ByHand> = rows
        .iter()
        .map(|(a, text, b, c)| ByHand(*a, text.clone(), *b, *c))
        .collect();
    let by_serde = Codec::<ByHand, String>::new().expect("the record has a schema");
    columnar::check(&by_serde, &by_hand_rows[..1000]).expect("both are the same");
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
    group.bench_function("rows to arrow, by hand", |b| {
        let updates = || by_hand_rows.iter().map(|row| (row, 7, 1));
        b.iter_batched(
            || (),
            |()| by_hand.encode(updates()),
            BatchSize::PerIteration,
        );
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
    group.bench_function("arrow to rows, by hand", |b| {
        b.iter_batched(|| (), |()| by_hand.decode(&batch), BatchSize::PerIteration);
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
