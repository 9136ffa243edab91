//! The corrections against their model, and what they may cost.

use std::collections::BTreeMap;

use mvsink_persist::Frontier;
use proptest::prelude::*;

use super::model::{self, Model};
use super::{CorrectionStore, Corrections, Drained};

pub(super) type Data = (u32, String);
type Store<H> = Corrections<Data, u64, i64, H>;

pub(super) fn data(number: u32) -> Data {
    (number, format!("row {number}"))
}

pub(super) fn hash(data: &Data) -> u64 {
    // splitmix64's finalizer: a bijection, so distinct rows have distinct hashes.
    let mut x = u64::from(data.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn corrections() -> Store<fn(&Data) -> u64> {
    Corrections::new(hash as fn(&Data) -> u64)
}

/// Drained updates as a map.
#[derive(Default)]
pub(super) struct Contents(BTreeMap<(Data, u64), i128>);

impl Contents {
    /// Adds one; fails if it comes to nothing, or was to be one with another of its row and time.
    pub(super) fn add(&mut self, data: &Data, time: u64, diff: i64) {
        assert_ne!(diff, 0, "a drained update comes to nothing");
        let sum = self.0.entry((data.clone(), time)).or_default();
        let both = *sum + i128::from(diff);
        assert!(
            *sum == 0 || i64::try_from(both).is_err(),
            "a drained update is there twice"
        );
        *sum = both;
    }

    pub(super) fn map(self) -> BTreeMap<(Data, u64), i128> {
        self.0
    }
}

/// The drained updates as a map; fails if one occurs more often than its sum takes, or comes to nothing.
fn contents(drained: &Drained<Data, u64, i64>) -> BTreeMap<(Data, u64), i128> {
    let mut contents = Contents::default();
    for (data, time, diff) in drained.iter() {
        contents.add(data, time, diff);
    }
    contents.map()
}

/// The invariants that the modules state, checked from outside.
pub(super) fn check<H: Fn(&Data) -> u64>(store: &Store<H>) {
    assert_eq!(
        store.payload.live(),
        store.len(),
        "live: one entry for each live row"
    );
    assert!(store.payload.is_at_rest(), "what was begun was ended");
    for entry in store.due.each() {
        let time = store.payload.row(entry.place).1;
        assert!(
            super::offset(time) < store.future.base(),
            "due: only what is before the base"
        );
    }
    for entry in store.future.areas().flat_map(|area| area.each()) {
        let time = store.payload.row(entry.place).1;
        assert!(
            super::offset(time) >= store.future.base(),
            "due: all that is before the base"
        );
    }
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Insert(Vec<(u32, u64, i64)>),
    Negate(Vec<(u32, u64, i64)>),
    Advance(u64),
    Discard(Frontier<u64>),
    Drain(Frontier<u64>),
    /// What becomes of the oldest drained batch.
    Lost,
    Own,
    Consolidate,
}

pub(super) fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..20u64,
        4 => 0..5_000u64,
        2 => any::<u64>().prop_map(|time| time >> 1),
        1 => Just(i64::MAX as u64 - 1),
    ]
}

pub(super) fn frontier() -> impl Strategy<Value = Frontier<u64>> {
    prop_oneof![20 => time().prop_map(Frontier::At), 1 => Just(Frontier::Empty)]
}

pub(super) fn updates() -> impl Strategy<Value = Vec<(u32, u64, i64)>> {
    let diff = || prop_oneof![30 => -2..3i64, 1 => Just(i64::MAX), 1 => Just(-i64::MAX)];
    let update = move || (0..12u32, time(), diff());
    prop_oneof![
        6 => prop::collection::vec(update(), 0..8),
        2 => prop::collection::vec(update(), 0..200),
        1 => (0..3000u32, 0..40u64).prop_map(|(rows, time)| (0..rows).map(|row| (row, time, 1)).collect()),
    ]
}

pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => updates().prop_map(Op::Insert),
        6 => updates().prop_map(Op::Negate),
        3 => time().prop_map(Op::Advance),
        1 => frontier().prop_map(Op::Discard),
        5 => frontier().prop_map(Op::Drain),
        3 => Just(Op::Lost),
        2 => Just(Op::Own),
        1 => Just(Op::Consolidate),
    ];
    prop::collection::vec(op, 1..50)
}

pub(super) fn rows(updates: &[(u32, u64, i64)]) -> Vec<(Data, u64, i64)> {
    updates
        .iter()
        .map(|(row, time, diff)| (data(*row), *time, *diff))
        .collect()
}

type ModelDrained = BTreeMap<(Data, u64), i128>;

/// Drives both and compares what they drain, at each step and at the end.
fn drive<H: Fn(&Data) -> u64>(mut store: Store<H>, ops: &[Op]) {
    let mut model: Model<Data, u64> = Model::new();
    let model_store: &mut dyn CorrectionStore<Data, u64, i64, Drained = ModelDrained> = &mut model;
    let mut in_flight = std::collections::VecDeque::new();
    for op in ops {
        // By what both are.
        let tested: &mut dyn CorrectionStore<Data, u64, i64, Drained = Drained<Data, u64, i64>> =
            &mut store;
        match op {
            Op::Insert(updates) => {
                tested.insert(rows(updates));
                model_store.insert(rows(updates));
            }
            Op::Negate(updates) => {
                tested.insert_negated(rows(updates));
                model_store.insert_negated(rows(updates));
            }
            Op::Advance(since) => {
                tested.advance(*since);
                model_store.advance(*since);
            }
            Op::Discard(frontier) => {
                tested.discard_before(*frontier);
                model_store.discard_before(*frontier);
            }
            Op::Drain(upper) => {
                let drained = (tested.drain(*upper), model_store.drain(*upper));
                assert_eq!(contents(&drained.0), drained.1);
                in_flight.push_back(drained);
            }
            Op::Lost => {
                if let Some((drained, expected)) = in_flight.pop_front() {
                    tested.give_back(drained);
                    model_store.give_back(expected);
                }
            }
            Op::Own => drop(in_flight.pop_front()),
            Op::Consolidate => {
                tested.consolidate();
                model_store.consolidate();
                assert_eq!(tested.len(), model_store.len());
            }
        }
        check(&store);
        for (drained, expected) in &in_flight {
            let expected = expected.values().map(|diff| model::updates(*diff));
            assert_eq!(drained.len(), expected.sum::<usize>());
        }
    }
    store.consolidate();
    assert_eq!(store.len(), model_store.len());
    check(&store);
    assert_eq!(
        contents(&store.drain(Frontier::Empty)),
        model_store.drain(Frontier::Empty)
    );
    check(&store);
    for (drained, expected) in in_flight {
        assert_eq!(contents(&drained), expected);
    }
    assert!(store.is_empty());
    assert_eq!(store.payload.containers(), 0, "freed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(mvsink_persist::testing::cases(192)))]

    #[test]
    fn agrees_with_the_model(ops in ops()) {
        drive(corrections(), &ops);
    }

    #[test]
    fn agrees_with_the_model_when_every_hash_is_equal(ops in ops()) {
        drive(Corrections::new(|_: &Data| 7), &ops);
    }

    #[test]
    fn agrees_with_the_model_when_hashes_collide(ops in ops()) {
        drive(Corrections::new(|data: &Data| u64::from(data.0 % 4)), &ops);
    }
}

/// Large enough to be split into partitions, rewritten and joined again.
#[test]
fn large_areas_agree_with_the_model() {
    let mut store = corrections();
    store.advance(5);
    for chunk in 0..100 {
        store.insert(
            (0..2000)
                .map(|row| (data(chunk * 2000 + row), u64::from(row % 9), 1))
                .collect(),
        );
    }
    check(&store);
    let survives = |row: u32| row % 100 == 99;
    for row in (0..200_000u32).filter(|row| !survives(*row)) {
        store.insert_negated(vec![(data(row), u64::from(row % 2000 % 9), 1)]);
    }
    store.consolidate();
    check(&store);
    assert_eq!(store.len(), 2000);
    assert!(store.bytes() < 1 << 20, "{} bytes", store.bytes());
    let expected = (0..200_000u32).filter(|row| survives(*row));
    let expected: BTreeMap<_, _> = expected
        .map(|row| ((data(row), u64::from(row % 2000 % 9).max(5)), 1))
        .collect();
    assert_eq!(contents(&store.drain(Frontier::Empty)), expected);
}

/// A partition so large that the children of its split are split at once.
#[test]
fn a_split_within_a_split_loses_nothing() {
    const ROWS: u32 = 150_000;
    let mut rows: Vec<_> = (0..2 * ROWS).map(|row| (data(row), 0, 1)).collect();
    // Such that all begin with the same bits once they are mixed.
    rows.retain(|(data, ..)| super::mix(hash(data)) >> 63 == 1);
    let len = rows.len();
    let mut store = corrections();
    store.advance(0);
    // One container after the other, so that partitions are pushed to between splits.
    for container in rows.chunks(64) {
        store.insert(container.to_vec());
    }
    store.consolidate();
    assert_eq!(store.len(), len);
    check_prefixes(&store);
    let drained = store.drain(Frontier::At(1));
    assert_eq!(contents(&drained).len(), len);

    // All in one bucket of the future, which becomes due and is then one partition.
    let rows: Vec<_> = (0..2 * ROWS)
        .map(|row| (data(row), 300 + u64::from(row % 200), 1))
        .collect();
    let mut store = corrections();
    store.insert(rows.clone());
    store.advance(400);
    check_prefixes(&store);
    store.insert_negated(rows);
    store.consolidate();
    assert!(store.is_empty(), "{} are left", store.len());
}

/// Invariant *prefix*, and that the directory has each partition where its prefix is.
fn check_prefixes<H: Fn(&Data) -> u64>(store: &Store<H>) {
    let mut held = 0;
    for area in std::iter::once(&store.due).chain(store.future.areas()) {
        let mut last = 0;
        for entry in area.in_order().flatten() {
            assert!(entry.hash >= last, "prefix");
            last = entry.hash;
            held += 1;
        }
    }
    assert_eq!(held, store.len(), "prefix: all of them");
}

#[test]
fn everything_cancelled_leaves_a_small_constant() {
    let empty = corrections().bytes();
    let mut store = corrections();
    store.advance(0);
    for _ in 0..3 {
        for chunk in 0..100 {
            store.insert(
                (0..1024)
                    .map(|row| (data(chunk * 1024 + row), 0, 1))
                    .collect(),
            );
        }
        assert!(!store.payload.is_sparse(), "all rows are live");
        for chunk in (0..100).rev() {
            store.insert_negated(
                (0..1024)
                    .map(|row| (data(chunk * 1024 + row), 0, 1))
                    .collect(),
            );
        }
        store.consolidate();
        assert!(store.is_empty());
        assert_eq!(store.payload.containers(), 0, "freed");
        assert!(
            store.bytes() <= empty + 1024,
            "{} bytes, empty {empty}",
            store.bytes()
        );
    }
}

#[test]
fn r19_small_corrections_are_small() {
    let mut store = corrections();
    for time in 0..1000u64 {
        store.advance(time);
        store.insert((0..10).map(|row| (data(row), time, 1)).collect());
        drop(store.drain(Frontier::At(time + 1)));
        store.insert(vec![(data(1), time + 1000, 1)]);
        assert!(
            store.bytes() < 256 << 10,
            "{} bytes at {time}",
            store.bytes()
        );
    }
    let mut store = corrections();
    store.insert((0..10).map(|row| (data(row), 0, 1)).collect());
    assert!(store.bytes() < 4 << 10, "{} bytes", store.bytes());
}

/// Foreign writes that a read-only sink agrees with: nobody drains, the since follows.
#[test]
fn r08_read_only_corrections_hold_what_is_in_flight() {
    const IN_FLIGHT: u64 = 50;
    let mut store = corrections();
    let at = |time: u64| {
        vec![
            (data(time as u32), time, 1),
            (data(time as u32 + 1), time, -1),
        ]
    };
    for time in 0..20_000u64 {
        store.insert(at(time));
        if time >= IN_FLIGHT {
            store.insert_negated(at(time - IN_FLIGHT));
            store.advance(time - IN_FLIGHT + 1);
        }
        assert!(store.len() < 2048, "{} updates at {time}", store.len());
        assert!(
            store.bytes() < 512 << 10,
            "{} bytes at {time}",
            store.bytes()
        );
    }
    store.consolidate();
    // The times in flight, of two updates each.
    assert_eq!(store.len() as u64, 2 * IN_FLIGHT);
}

/// Catches up through `times` timestamps that are all there at once, a batch for each.
fn catch_up(times: u64, updates: impl Fn(u64) -> Vec<(Data, u64, i64)>) -> u64 {
    let mut store = corrections();
    store.advance(0);
    let mut total = 0;
    for time in 0..times {
        let updates = updates(time);
        total += updates.len();
        store.insert(updates);
    }
    for time in 0..times {
        store.advance(time);
        total -= store.drain(Frontier::At(time + 1)).len();
    }
    store.consolidate();
    assert_eq!(total, store.len());
    store.copied()
}

fn assert_linear(updates: impl Fn(u64, u64) -> Vec<(Data, u64, i64)>) {
    // Enough timestamps that the first partition and the first digit of the times, filled once, do not count.
    for times in [1500, 4000] {
        let once = catch_up(times, |time| updates(time, times));
        let four = catch_up(4 * times, |time| updates(time, 4 * times));
        let ratio = four as f64 / once as f64;
        assert!(
            ratio <= 4.5,
            "{times} timestamps copy {once} entries, four times as many copy {four}: {ratio:.2}"
        );
    }
}

#[test]
fn r09_appends_cost_linear_work() {
    assert_linear(|time, _| {
        (0..20)
            .map(|row| (data(time as u32 * 20 + row), time, 1))
            .collect()
    });
}

#[test]
fn r09_upserts_cost_linear_work() {
    assert_linear(|time, _| {
        let value = |time: u64, key: u32| data(time as u32 * 10 + key);
        let keys = 0..10;
        keys.flat_map(|key| {
            let old = time
                .checked_sub(1)
                .map(|before| (value(before, key), time, -1));
            old.into_iter().chain([(value(time, key), time, 1)])
        })
        .collect()
    });
}

#[test]
fn r09_temporal_filters_cost_linear_work() {
    // Rows that stay for as long as a window, and rows whose retraction is so far away that it never comes.
    assert_linear(|time, times| {
        let row = |row: u32| data(time as u32 * 20 + row);
        let windowed = (0..10).flat_map(|n| [(row(n), time, 1), (row(n), time + 300, -1)]);
        let lasting = (10..20).flat_map(|n| [(row(n), time, 1), (row(n), 10 * times + time, -1)]);
        windowed.chain(lasting).collect()
    });
}

/// The same, with updates that arrive as their times are drained.
#[test]
fn r09_steady_temporal_filters_cost_linear_work() {
    let steady = |times: u64| {
        let mut store = corrections();
        for time in 0..times {
            let row = |row: u32| data(time as u32 * 20 + row);
            store.insert(
                (0..20)
                    .flat_map(|n| [(row(n), time, 1), (row(n), time + 20_000, -1)])
                    .collect(),
            );
            store.advance(time);
            assert_eq!(store.drain(Frontier::At(time + 1)).len(), 20);
        }
        store.copied()
    };
    let (once, four) = (steady(1000), steady(4000));
    assert!(four as f64 <= 4.5 * once as f64, "{once}, {four}");
}

#[test]
fn draining_the_near_past_never_touches_the_far_future() {
    let mut store = corrections();
    store.advance(1_000_000);
    // Far away, all of it; and one refinement of what is near.
    store.insert(
        (0..100_000)
            .map(|row| (data(row), 900_000_000 + u64::from(row), 1))
            .collect(),
    );
    store.consolidate();
    let before = store.copied();
    for tick in 0..1000 {
        let time = 1_000_000 + tick;
        store.insert(vec![(data(1), time, 1)]);
        store.advance(time);
        assert_eq!(store.drain(Frontier::At(time + 1)).len(), 1);
    }
    assert!(
        store.copied() - before < 20_000,
        "{} copied",
        store.copied() - before
    );
    assert!(store.future.buckets() < 100);
}

/// The times of a bucket are sorted out as the base draws near, whatever its steps: no tick pays for all of them.
#[test]
fn no_tick_sorts_out_all_that_comes_next() {
    const EACH: u32 = 20;
    for (step, ticks) in [(1, 700), (7, 700), (1000, 200_u32)] {
        let mut store = corrections();
        store.advance(0);
        // In the order of no time. Most are never due, so that no rows are rewritten.
        let all = 3 * ticks * EACH;
        let time = |row: u32| 1 + u64::from(row * 7919 % all / EACH) * step;
        store.insert((0..all).map(|row| (data(row), time(row), 1)).collect());
        store.consolidate();
        let mut most = 0;
        for tick in 0..ticks {
            let before = store.copied();
            let now = 1 + u64::from(tick) * step;
            store.advance(now);
            let drained = store.drain(Frontier::At(now + 1));
            assert_eq!(drained.len(), EACH as usize);
            most = most.max(store.copied() - before);
        }
        assert!(
            most < 20 * u64::from(EACH),
            "a tick of {step} copies {most} entries for {EACH}"
        );
    }
}

#[test]
fn a_few_rows_that_are_there_twice_are_no_reason_to_enter_all() {
    const ROWS: u32 = 400;
    let copied = |twice: u32| {
        let mut store = corrections();
        store.advance(0);
        store.insert((0..ROWS).map(|row| (data(row), 0, 1)).collect());
        store.insert((0..twice).map(|row| (data(row), 0, 1)).collect());
        let drained = store.drain(Frontier::At(1));
        assert_eq!(drained.len(), ROWS as usize);
        store.copied()
    };
    // Each that is drained counts, and each that is entered.
    assert!(copied(20) < 2 * u64::from(ROWS), "{}", copied(20));
    assert!(copied(200) > 2 * u64::from(ROWS), "{}", copied(200));
}

#[test]
fn a_lost_batch_cancels_against_what_the_winner_wrote() {
    let mut store = corrections();
    store.advance(3);
    store.insert(vec![(data(1), 1, 1), (data(2), 4, 1), (data(3), 9, 1)]);
    let drained = store.drain(Frontier::At(5));
    assert_eq!(
        contents(&drained),
        BTreeMap::from([((data(1), 3), 1), ((data(2), 4), 1)])
    );
    // The winner wrote row 1 as we would have, and a row that does not belong.
    store.insert_negated(vec![(data(1), 3, 1), (data(7), 4, 1)]);
    store.give_back(drained);
    store.advance(5);
    let repair = store.drain(Frontier::At(6));
    assert_eq!(
        contents(&repair),
        BTreeMap::from([((data(2), 5), 1), ((data(7), 5), -1)])
    );
    assert_eq!(store.len(), 1);
}

#[test]
fn ranges_cover_a_drained_batch_piece_by_piece() {
    let mut store = corrections();
    store.insert((0..1000).map(|row| (data(row), 0, 1)).collect());
    store.insert((1000..2000).map(|row| (data(row), 0, 1)).collect());
    let drained = store.drain(Frontier::At(1));
    let pieces = (0..7).flat_map(|piece| drained.range(piece * 300..(piece + 1) * 300));
    let pieces: Vec<_> = pieces.map(|(data, _, _)| data.clone()).collect();
    assert_eq!(
        pieces,
        drained
            .iter()
            .map(|(data, _, _)| data.clone())
            .collect::<Vec<_>>()
    );
    assert_eq!(pieces.len(), 2000);
    assert_eq!(drained.range(5000..6000).len(), 0);
}

#[test]
fn sums_beyond_i64_come_out_exactly_in_as_many_updates_as_they_take() {
    const MAX: i64 = i64::MAX;
    let many = |diffs: &[i64]| diffs.iter().map(|diff| (data(1), 0, *diff)).collect();
    let sum = |diffs: &[i64]| diffs.iter().map(|diff| i128::from(*diff)).sum::<i128>();
    for (added, taken, updates) in [
        (&[MAX, MAX][..], &[][..], 2),
        (&[MAX, MAX], &[MAX, MAX - 1], 1),
        (&[MAX, MAX], &[MAX, MAX], 0),
        (&[MAX; 5], &[MAX; 3], 2),
        (&[MAX; 20], &[MAX; 18], 2),
        (&[], &[MAX, MAX, 7], 3),
        (&[i64::MIN, i64::MIN], &[], 2),
        (&[i64::MIN], &[1], 2),
        (&[i64::MIN, MAX, 1], &[], 0),
    ] {
        for consolidate in [false, true] {
            let mut store = corrections();
            store.insert(many(added));
            if consolidate {
                store.consolidate();
                check(&store);
            }
            store.insert_negated(many(taken));
            let drained = store.drain(Frontier::Empty);
            assert_eq!(drained.len(), updates, "{added:?} - {taken:?}");
            let expected = sum(added) - sum(taken);
            let expected = (expected != 0).then_some(((data(1), 0), expected));
            assert_eq!(contents(&drained), expected.into_iter().collect());
            // Its loss is undone as exactly.
            store.give_back(drained);
            store.insert(many(taken));
            store.consolidate();
            check(&store);
            let expected = sum(added);
            let expected = (expected != 0).then_some(((data(1), 0), expected));
            let drained = store.drain(Frontier::Empty);
            assert_eq!(contents(&drained), expected.into_iter().collect());
        }
    }
}

#[test]
fn times_beyond_i64_come_out_at_the_end() {
    let mut store = corrections();
    store.insert(vec![
        (data(1), u64::MAX, 1),
        (data(1), i64::MAX as u64, 1),
        (data(1), 7, 1),
    ]);
    assert_eq!(store.drain(Frontier::At(i64::MAX as u64 - 1)).len(), 1);
    assert_eq!(store.drain(Frontier::Empty).len(), 2);
}

#[test]
fn can_be_handed_between_threads() {
    fn assert_send<S: Send>() {}
    assert_send::<Store<fn(&Data) -> u64>>();
    assert_send::<Drained<Data, u64, i64>>();
}
