//! The corrections on the workloads of their design, each beside a floor measured in the same run.
//!
//! The floor hashes and touches the same rows once, in a plain loop: what any structure that looks at each row
//! has to pay. `hash_map` is the obvious structure, one map from data to difference. Throughput is in updates.
//!
//! `MVSINK_BENCH_ROWS` sets the number of rows (default 1,000,000; the published figures are of 4,000,000).

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use mvsink::corrections::Corrections;
use mvsink_persist::Frontier;

type Data = (u64, String, u64, u64);
type Containers = Vec<Vec<(Data, u64, i64)>>;

fn rows_total() -> usize {
    let rows = std::env::var("MVSINK_BENCH_ROWS").ok();
    rows.and_then(|rows| rows.parse().ok()).unwrap_or(1_000_000)
}

/// A bijection of 64 bits (the finalizer of splitmix64), for data that looks random and is the same in each run.
fn scramble(seed: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn data(number: u64) -> Data {
    let random = scramble(number);
    (
        random,
        format!("a string of forty bytes {number:016x}"),
        number,
        random >> 32,
    )
}

fn containers(rows: usize, in_each: usize, time: impl Fn(u64) -> u64) -> Containers {
    let numbers: Vec<u64> = (0..rows as u64).collect();
    let container = |numbers: &[u64]| numbers.iter().map(|n| (data(*n), time(*n), 1)).collect();
    numbers.chunks(in_each).map(container).collect()
}

fn hash(data: &Data) -> u64 {
    let mut bytes = [0u8; 64];
    bytes[..8].copy_from_slice(&data.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&data.2.to_le_bytes());
    bytes[16..24].copy_from_slice(&data.3.to_le_bytes());
    bytes[24..64].copy_from_slice(&data.1.as_bytes()[..40]);
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

fn touch(containers: &Containers) -> u64 {
    let rows = containers.iter().flatten();
    rows.fold(0, |sum, (data, time, diff)| {
        sum.wrapping_add(hash(data))
            .wrapping_add(*time)
            .wrapping_add(*diff as u64)
    })
}

fn corrections() -> Corrections<Data, u64, i64, fn(&Data) -> u64> {
    let mut corrections = Corrections::new(hash as fn(&Data) -> u64);
    corrections.advance(0);
    corrections
}

fn group<'a>(c: &'a mut Criterion, name: &str, rows: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(rows as u64));
    group.sample_size(10);
    group
}

fn insert_and_drain(c: &mut Criterion, name: &str, in_each: usize) {
    let rows = rows_total();
    let make = || containers(rows, in_each, |_| 0);
    let mut group = group(c, name, rows);
    group.bench_function("insert", |b| {
        let insert = |containers: Containers| {
            let mut corrections = corrections();
            containers
                .into_iter()
                .for_each(|container| corrections.insert(container));
            corrections
        };
        b.iter_batched(make, insert, BatchSize::PerIteration);
    });
    group.bench_function("insert_drain", |b| {
        let insert_drain = |containers: Containers| {
            let mut corrections = corrections();
            containers
                .into_iter()
                .for_each(|container| corrections.insert(container));
            let drained = corrections.drain(Frontier::At(1));
            (corrections, drained)
        };
        b.iter_batched(make, insert_drain, BatchSize::PerIteration);
    });
    group.bench_function("insert_drain_read", |b| {
        let insert_drain_read = |containers: Containers| {
            let mut corrections = corrections();
            containers
                .into_iter()
                .for_each(|container| corrections.insert(container));
            let drained = corrections.drain(Frontier::At(1));
            let read = drained.iter().fold(0u64, |sum, (data, time, diff)| {
                let bytes = data.1.bytes().map(u64::from).sum::<u64>();
                sum.wrapping_add(data.0)
                    .wrapping_add(bytes)
                    .wrapping_add(time)
                    .wrapping_add(diff as u64)
            });
            (corrections, drained, black_box(read))
        };
        b.iter_batched(make, insert_drain_read, BatchSize::PerIteration);
    });
    group.bench_function("hash_map", |b| {
        let add_up = |containers: Containers| {
            let mut map: HashMap<Data, i64> = HashMap::new();
            for (data, _, diff) in containers.into_iter().flatten() {
                *map.entry(data).or_default() += diff;
            }
            map
        };
        b.iter_batched(make, add_up, BatchSize::PerIteration);
    });
    let made = make();
    group.bench_function("floor", |b| b.iter(|| touch(black_box(&made))));
    group.finish();

    let mut corrections = corrections();
    let payload = made
        .iter()
        .map(|container| container.capacity() * size_of::<(Data, u64, i64)>())
        .sum::<usize>();
    made.into_iter()
        .for_each(|container| corrections.insert(container));
    let overhead = corrections.bytes().saturating_sub(payload);
    println!(
        "{name}: {:.1} B an update beside the payload",
        overhead as f64 / rows as f64
    );
}

fn snapshot(c: &mut Criterion) {
    insert_and_drain(c, "corrections_snapshot", 1024);
}

fn small(c: &mut Criterion) {
    insert_and_drain(c, "corrections_small", 10);
}

fn rehydrate(c: &mut Criterion) {
    let rows = rows_total();
    let make = || (containers(rows, 1024, |_| 0), containers(rows, 1024, |_| 0));
    let mut group = group(c, "corrections_rehydrate", 2 * rows);
    group.bench_function("insert_negate", |b| {
        let cancel = |(desired, persist): (Containers, Containers)| {
            let mut corrections = corrections();
            desired
                .into_iter()
                .for_each(|container| corrections.insert(container));
            persist
                .into_iter()
                .for_each(|container| corrections.insert_negated(container));
            corrections.consolidate();
            assert!(corrections.is_empty());
            corrections
        };
        b.iter_batched(make, cancel, BatchSize::PerIteration);
    });
    group.bench_function("hash_map", |b| {
        let cancel = |(desired, persist): (Containers, Containers)| {
            let mut map: HashMap<Data, i64> = HashMap::new();
            for (data, _, diff) in desired.into_iter().flatten() {
                *map.entry(data).or_default() += diff;
            }
            for (data, _, diff) in persist.into_iter().flatten() {
                if let std::collections::hash_map::Entry::Occupied(mut entry) = map.entry(data) {
                    *entry.get_mut() -= diff;
                    if *entry.get() == 0 {
                        entry.remove();
                    }
                }
            }
            map
        };
        b.iter_batched(make, cancel, BatchSize::PerIteration);
    });
    let made = make();
    group.bench_function("floor", |b| {
        b.iter(|| touch(black_box(&made.0)).wrapping_add(touch(black_box(&made.1))))
    });
    group.finish();
}

/// Half as many future updates as rows elsewhere, 200 due a tick, and 200 new ones a tick for the far end. One
/// iteration is one tick.
fn temporal(c: &mut Criterion) {
    const DUE: u64 = 200;
    let rows = rows_total() / 2;
    let ticks = rows as u64 / DUE;
    let mut group = group(c, "corrections_temporal", DUE as usize);
    let mut corrections = corrections();
    for container in containers(rows, 1024, |n| 1 + scramble(n) % ticks) {
        corrections.insert(container);
    }
    let mut now = 0;
    let mut worst = Duration::ZERO;
    let mut tick = |iterations: u64| {
        let mut spent = Duration::ZERO;
        for _ in 0..iterations {
            now += 1;
            let first = (rows as u64) + now * DUE;
            let new: Vec<_> = (first..first + DUE)
                .map(|n| (data(n), now + ticks, 1))
                .collect();
            let start = Instant::now();
            corrections.insert(new);
            corrections.advance(now);
            let drained = corrections.drain(Frontier::At(now + 1));
            let took = start.elapsed();
            worst = worst.max(took);
            spent += took;
            black_box(drained.len());
        }
        spent
    };
    group.bench_function("tick", |b| b.iter_custom(&mut tick));
    let one_tick = containers(DUE as usize, 1024, |_| 0);
    group.bench_function("floor", |b| b.iter(|| touch(black_box(&one_tick))));
    group.finish();
    println!(
        "corrections_temporal: worst tick {worst:?}, {} held",
        corrections.len()
    );
}

criterion_group!(benches, snapshot, rehydrate, temporal, small);
criterion_main!(benches);
