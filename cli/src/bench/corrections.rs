//! The workloads of the corrections alone: no dataflow, no store.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mvsink::corrections::Corrections;
use mvsink::mvsink_persist::{Frontier, Sums, hash_data};

use super::report::Measured;
use super::rows::{Row, Rows};
use super::usage::{Usage, Used, percentile_ms};
use super::{Name, Scale, Spec};
use crate::error::Error;

/// Updates of a container, as dataflows make them.
const CONTAINER: usize = 1024;

/// Updates of the containers of `corrections_small`.
const SMALL_CONTAINER: usize = 10;

/// Updates that come due in a tick of `corrections_temporal`, and as many new ones.
const DUE: usize = 200;

type Held = Corrections<Row, u64, i64, fn(&Row) -> u64>;

/// What the sink hashes by.
fn hash(row: &Row) -> u64 {
    hash_data(row).map_or(0, |hash| hash as u64)
}

fn empty() -> Held {
    let mut held = Corrections::new(hash as fn(&Row) -> u64);
    held.advance(0);
    held
}

/// Measures a workload of the corrections once.
///
/// # Errors
///
/// If the workload is none of these.
pub fn measure(spec: &Spec, scale: &Scale) -> Result<Measured, Error> {
    match spec.workload {
        Name::CorrectionsRehydrate => Ok(rehydrate(spec, scale)),
        Name::CorrectionsTemporal => Ok(temporal(spec, scale)),
        Name::CorrectionsSmall => Ok(insert_and_drain(spec, scale, SMALL_CONTAINER)),
        _ => Ok(insert_and_drain(spec, scale, CONTAINER)),
    }
}

/// What any structure has to do that looks at each row; and what a restart computes of rows that are there already: the
/// fingerprint of each is added to the sum of its bucket, and the sums tell.
fn floor<'a>(containers: impl IntoIterator<Item = &'a Vec<(Row, u64, i64)>>) -> Used {
    let usage = Usage::begin();
    let mut sums = Sums::default();
    for (row, _, diff) in containers.into_iter().flatten() {
        sums.add(hash_data(row).unwrap_or(0), *diff);
    }
    black_box(sums);
    usage.end()
}

/// The first of the rows, in containers, all at time 0.
fn containers(rows: &Rows, in_each: usize) -> Vec<Vec<(Row, u64, i64)>> {
    let numbers: Vec<usize> = (0..rows.len()).collect();
    let container = |numbers: &[usize]| numbers.iter().map(|at| (rows.get(*at), 0, 1)).collect();
    numbers.chunks(in_each).map(container).collect()
}

/// What so many updates took, beside their floor.
fn beside_floor(spec: &Spec, updates: usize, used: Used, floor: Used, memory: &Usage) -> Measured {
    Measured {
        updates_per_s: Some(updates as f64 / used.wall.as_secs_f64()),
        wall_s: Some(used.wall.as_secs_f64()),
        cpu_s: Some(used.cpu.as_secs_f64()),
        floor_cpu_s: Some(floor.cpu.as_secs_f64()),
        floor_updates_per_s: Some(updates as f64 / floor.wall.as_secs_f64()),
        peak_bytes: memory.end().peak_bytes,
        ..Measured::of(spec)
    }
}

fn insert_and_drain(spec: &Spec, scale: &Scale, in_each: usize) -> Measured {
    let rows = Rows::new(scale.corrections);
    let memory = Usage::begin();
    let made = containers(&rows, in_each);
    let floor = floor(&made);
    let usage = Usage::begin();
    let mut held = empty();
    made.into_iter()
        .for_each(|container| held.insert(container));
    let drained = held.drain(Frontier::At(1));
    let used = usage.end();
    assert_eq!(drained.len(), rows.len(), "nothing is lost");
    beside_floor(spec, rows.len(), used, floor, &memory)
}

fn rehydrate(spec: &Spec, scale: &Scale) -> Measured {
    let rows = Rows::new(scale.corrections);
    let memory = Usage::begin();
    let desired = containers(&rows, CONTAINER);
    let persist = containers(&rows, CONTAINER);
    let floor = floor(desired.iter().chain(&persist));
    let usage = Usage::begin();
    let mut held = empty();
    desired
        .into_iter()
        .for_each(|container| held.insert(container));
    persist
        .into_iter()
        .for_each(|container| held.insert_negated(container));
    held.consolidate();
    let used = usage.end();
    assert!(held.is_empty(), "all of it cancels");
    beside_floor(spec, 2 * rows.len(), used, floor, &memory)
}

/// Updates at future times, of which a few come due in each tick, and as many new ones for the far end.
fn temporal(spec: &Spec, scale: &Scale) -> Measured {
    let ahead = scale.corrections / 2;
    let ticks = scale.corrections_ticks;
    let horizon = (ahead / DUE) as u64;
    let rows = Rows::new(ahead + ticks * DUE);
    let memory = Usage::begin();
    let mut held = empty();
    for first in (0..ahead).step_by(CONTAINER) {
        let numbers = first..(first + CONTAINER).min(ahead);
        // The key looks random.
        let at = |row: &Row| 1 + row.0 % horizon;
        let container = numbers.map(|number| rows.get(number));
        held.insert(
            container
                .map(|row| (at(&row), row))
                .map(|(time, row)| (row, time, 1))
                .collect(),
        );
    }
    let mut took = Vec::with_capacity(ticks);
    let usage = Usage::begin();
    for tick in 0..ticks {
        let (now, first) = (tick as u64 + 1, ahead + tick * DUE);
        let new = (first..first + DUE).map(|number| (rows.get(number), now + horizon, 1));
        let new = new.collect();
        let begun = Instant::now();
        held.insert(new);
        held.advance(now);
        let drained = held.drain(Frontier::At(now + 1));
        took.push(begun.elapsed());
        drop(drained);
    }
    let used = usage.end();
    let spent: Duration = took.iter().sum();
    Measured {
        updates_per_s: Some((2 * DUE * ticks) as f64 / spent.as_secs_f64()),
        p50_ms: percentile_ms(&took, 50),
        p99_ms: percentile_ms(&took, 99),
        wall_s: Some(spent.as_secs_f64()),
        max_ms: percentile_ms(&took, 100),
        cpu_s: Some(used.cpu.as_secs_f64()),
        peak_bytes: memory.end().peak_bytes,
        ..Measured::of(spec)
    }
}
