//! Bounded corrections against their model, on a disk that fails, and what they may cost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mvsink_persist::Codec;
use proptest::prelude::*;

use super::super::disk::Spill;
use super::super::model::Model;
use super::super::run::Rows;
use super::super::taken::Bookmark;
use super::super::tests::{
    Contents, Data, Op, check, data, frontier, hash, ops, rows, time, updates,
};
use super::super::{CorrectionStore, heap_bytes};
use super::*;

/// Calls after a failure that succeed: more than any step has, so that each can be done at last.
const QUIET_CALLS: usize = 600;

/// A disk in memory that fails now and then: the call of this number, and others later; none if it is 0.
#[derive(Clone, Default)]
struct Faulty(Arc<Faults>);

#[derive(Default)]
struct Faults {
    next: AtomicUsize,
    calls: AtomicUsize,
    failed: AtomicUsize,
    files: AtomicUsize,
    written: AtomicUsize,
}

struct FaultyFile {
    disk: Faulty,
    bytes: Mutex<Vec<u8>>,
}

impl Faulty {
    fn new(first: usize) -> Self {
        let disk = Faulty::default();
        disk.0.next.store(first, Ordering::Relaxed);
        disk
    }

    fn call(&self, action: &'static str) -> Result<(), Error> {
        let call = 1 + self.0.calls.fetch_add(1, Ordering::Relaxed);
        if call == self.0.next.load(Ordering::Relaxed) {
            let failed = self.0.failed.fetch_add(1, Ordering::Relaxed);
            let next = call + QUIET_CALLS + 37 * failed % 101;
            self.0.next.store(next, Ordering::Relaxed);
            return Err(Error::Spill {
                action,
                path: "faulty".into(),
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        Ok(())
    }
}

impl Disk for Faulty {
    fn create(&self) -> Result<Box<dyn Spill>, Error> {
        self.call("create")?;
        self.0.files.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(FaultyFile {
            disk: self.clone(),
            bytes: Mutex::default(),
        }))
    }
}

impl Spill for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // What fails has written some of it.
        let result = self.disk.call("write");
        let written = match result {
            Ok(()) => bytes,
            Err(_) => &bytes[..bytes.len() / 2],
        };
        self.bytes.get_mut().unwrap().extend_from_slice(written);
        let disk = &self.disk.0;
        disk.written.fetch_add(written.len(), Ordering::Relaxed);
        result
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        self.disk.call("read")?;
        let offset = offset as usize;
        Ok(self.bytes.lock().unwrap()[offset..offset + length].to_vec())
    }

    fn name(&self) -> &str {
        "faulty"
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        self.disk.0.files.fetch_sub(1, Ordering::Relaxed);
    }
}

type Store<R, H> = Bounded<Data, u64, R, H>;

fn store<R: Diff, H: Fn(&Data) -> u64 + Clone>(
    disk: &Faulty,
    budget: usize,
    hash: H,
) -> Store<R, H> {
    let format = Arc::new(Rows(Codec::<Data, String>::new().unwrap()));
    let mut store = Bounded::new(hash, heap_bytes, format, Arc::new(disk.clone()));
    store.set_budget(budget);
    store
}

fn hashed() -> fn(&Data) -> u64 {
    hash
}

/// Tries until it works: what failed must have changed nothing.
fn retry<O>(mut step: impl FnMut() -> Result<O, Error>) -> O {
    for _ in 0..3 {
        match step() {
            Ok(output) => return output,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
    panic!("it fails again and again");
}

/// No relief takes so many steps here, if it ends.
const STEPS_MAX: usize = 20_000;

fn relieve<R: Diff, H: Fn(&Data) -> u64 + Clone>(store: &mut Store<R, H>) {
    if store.wants_relief() {
        let mut steps = 0;
        while retry(|| store.relieve()) {
            steps += 1;
            assert!(steps < STEPS_MAX, "relief does not end");
        }
    }
    assert!(!retry(|| store.relieve()), "who wants nothing is relieved");
}

/// What holds between any two calls.
fn check_bounded<H: Fn(&Data) -> u64 + Clone>(store: &Store<i64, H>) {
    check(store.memory());
    assert_eq!(store.memory_len(), store.memory().len());
    let base = store.memory().base();
    for (start, (level, _)) in &store.future {
        let is_ahead = *start > base || *start == base && *level == 0;
        assert!(is_ahead, "the bucket around the base is in memory");
    }
    let runs = store
        .due
        .runs
        .iter()
        .chain(store.areas().flat_map(|area| &area.runs));
    let mut runs = runs.chain(store.returning.iter().map(|(run, _)| run));
    let is_on_disk = runs.any(|run| run.rows() > 0);
    assert_eq!(
        store.disk_bytes() > 0,
        is_on_disk,
        "what is told of the disk"
    );
}

fn drain<R: Diff, H: Fn(&Data) -> u64 + Clone>(
    store: &mut Store<R, H>,
    upper: Frontier<u64>,
) -> Taken<Data, u64, R, H> {
    loop {
        if let Some(taken) = retry(|| store.drain(upper)) {
            return taken;
        }
    }
}

/// The drained updates as a map; fails if one occurs more often than its sum takes, or comes to nothing.
fn contents<R: Diff, H: Fn(&Data) -> u64 + Clone>(
    taken: &mut Taken<Data, u64, R, H>,
) -> BTreeMap<(Data, u64), i128> {
    let mut contents = Contents::default();
    let mut at = Bookmark::default();
    loop {
        let read = retry(|| {
            let rows = taken.next(&mut at, 7)?;
            Ok(rows.map(|rows| {
                assert!(rows.len() > 0);
                for (data, time, diff) in rows {
                    contents.add(data, time, diff);
                }
            }))
        });
        if read.is_none() {
            return contents.map();
        }
    }
}

/// Drives both and compares what they drain, at each step and at the end.
fn drive<H: Fn(&Data) -> u64 + Clone>(hash: H, budgets: &[usize], fails: usize, ops: &[Op]) {
    let disk = Faulty::new(fails);
    let mut store: Store<i64, H> = store(&disk, budgets[0], hash.clone());
    let mut budgets = budgets.iter().cycle().skip(1);
    let mut model: Model<Data, u64> = Model::new();
    let model: &mut dyn CorrectionStore<Data, u64, i64, Drained = BTreeMap<(Data, u64), i128>> =
        &mut model;
    let mut in_flight = VecDeque::new();
    for op in ops {
        match op {
            Op::Insert(updates) => {
                let inserted = rows(updates);
                let hashes: Vec<u64> = inserted.iter().map(|(data, ..)| hash(data)).collect();
                store.insert(inserted, |row| (row % 3 > 0).then(|| hashes[row]));
                model.insert(rows(updates));
            }
            Op::Negate(updates) => {
                store.remove_stored(rows(updates));
                model.insert_negated(rows(updates));
            }
            Op::Advance(since) => {
                store.advance(*since);
                model.advance(*since);
            }
            Op::Discard(frontier) => {
                store.discard_before(*frontier);
                model.discard_before(*frontier);
            }
            Op::Drain(upper) => {
                let (mut drained, expected) = (drain(&mut store, *upper), model.drain(*upper));
                assert_eq!(contents(&mut drained), expected);
                in_flight.push_back((drained, expected));
            }
            Op::Lost => {
                if let Some((drained, expected)) = in_flight.pop_front() {
                    store.give_back(drained);
                    model.give_back(expected);
                }
            }
            Op::Own => drop(in_flight.pop_front()),
            Op::Consolidate => store.set_budget(*budgets.next().unwrap()),
        }
        check_bounded(&store);
        relieve(&mut store);
        check_bounded(&store);
        assert!(store.len() >= model.len());
    }
    let expected = model.drain(Frontier::Empty);
    assert_eq!(contents(&mut drain(&mut store, Frontier::Empty)), expected);
    for (mut drained, expected) in in_flight {
        assert_eq!(contents(&mut drained), expected);
    }
    assert_eq!(store.len(), 0);
    assert!(!store.has_spilled());
    let faults = &disk.0;
    assert_eq!(faults.files.load(Ordering::Relaxed), 0, "a file is left");
    if fails > 0 && faults.calls.load(Ordering::Relaxed) >= fails {
        assert!(faults.failed.load(Ordering::Relaxed) > 0);
    }
}

fn budgets() -> impl Strategy<Value = Vec<usize>> {
    let budget = prop_oneof![
        6 => Just(1usize),
        2 => 1..4_000usize,
        2 => 4_000..200_000usize,
        1 => Just(0usize),
    ];
    prop::collection::vec(budget, 1..3)
}

/// The first call that fails.
fn fails() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(0usize), 3 => 1..300usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(mvsink_persist::testing::cases(16)))]

    #[test]
    fn agrees_with_the_model(ops in ops(), budgets in budgets(), fails in fails()) {
        drive(hashed(), &budgets, fails, &ops);
    }

    #[test]
    fn agrees_with_the_model_when_every_hash_is_equal(ops in ops(), budgets in budgets()) {
        drive(|_: &Data| 7, &budgets, 0, &ops);
    }

    #[test]
    fn agrees_with_the_model_when_hashes_collide(ops in ops(), budgets in budgets()) {
        drive(|data: &Data| u64::from(data.0 % 4), &budgets, 0, &ops);
    }
}

/// Buckets of four, or all there are.
fn some_buckets() -> impl Strategy<Value = Buckets> {
    prop::option::of(prop::collection::vec(0..4u8, 0..3)).prop_map(|some| {
        some.map_or(Buckets::ALL, |some| {
            let mut buckets = Buckets::default();
            some.into_iter().for_each(|bucket| buckets.insert(bucket));
            buckets
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(mvsink_persist::testing::cases(16)))]

    /// What was set aside counts, in memory and on disk, unless it was verified by its bucket.
    #[test]
    fn r10_what_was_set_aside_counts_unless_it_was_verified(
        since in time(),
        aside in prop::collection::vec(updates(), 0..6),
        verified in some_buckets(),
        later in updates(),
        upper in frontier(),
        budgets in budgets(),
        fails in fails(),
    ) {
        let bucket: fn(u64) -> u8 = |hash| (hash % 4) as u8;
        let disk = Faulty::new(fails);
        let mut store: Store<i64, _> = store(&disk, budgets[0], hashed());
        let mut expected: Corrections<Data, u64, i64, _> = Corrections::new(hashed());
        store.advance(since);
        expected.advance(since);
        for (updates, budget) in aside.iter().zip(budgets.iter().cycle()) {
            store.set_budget(*budget);
            store.set_aside(rows(updates));
            relieve(&mut store);
            prop_assert!(*budget == 0 || store.aside.bytes() <= *budget / 4);
            let mut counting = rows(updates);
            counting.retain(|(data, time, _)| {
                *time > since || !verified.contains(bucket(hash(data)))
            });
            expected.insert(counting);
        }
        store.admit_without(verified, bucket);
        relieve(&mut store);
        check_bounded(&store);
        store.insert(rows(&later), |_| None);
        expected.insert(rows(&later));
        for upper in [upper, Frontier::Empty] {
            let expected = expected.drain(upper);
            let mut sums = Contents::default();
            for (data, time, diff) in expected.range(0..expected.len()) {
                sums.add(data, time, diff);
            }
            let expected = sums.map();
            prop_assert_eq!(contents(&mut drain(&mut store, upper)), expected);
        }
        drop(store);
        prop_assert_eq!(disk.0.files.load(Ordering::Relaxed), 0, "a file is left");
    }
}

fn snapshot(range: std::ops::Range<u32>) -> impl Iterator<Item = Vec<(Data, u64, i64)>> {
    let rows: Vec<u32> = range.collect();
    let containers: Vec<_> = rows
        .chunks(1024)
        .map(|rows| rows.iter().map(|row| (data(*row), 0, 1)).collect())
        .collect();
    containers.into_iter()
}

/// Rows that turn out to be there already are written once, as far as memory has no room for them, and never read.
#[test]
fn r10_what_was_verified_is_not_read_back() {
    const ROWS: u32 = 20_000;
    const BUDGET: usize = 256 << 10;
    let disk = Faulty::new(0);
    let mut store: Store<i64, _> = store(&disk, BUDGET, hashed());
    store.advance(0);
    let mut aside = 0;
    for container in snapshot(0..ROWS) {
        let (before, bytes) = (store.memory_bytes(), size_of_val(&*container));
        store.set_aside(container);
        // Beside the row a few bytes of text, and what an allocation costs.
        let held = store.memory_bytes() - before;
        assert!((bytes + bytes / 8..2 * bytes).contains(&held), "{held}");
        aside += held;
        relieve(&mut store);
        assert!(store.memory_bytes() <= BUDGET / 4);
    }
    assert!(aside > 4 * BUDGET);
    assert!(store.has_spilled() && store.disk_bytes() > BUDGET as u64);
    for run in store.aside.spilled() {
        let block = run.rows() / run.blocks() * size_of::<(Data, u64, i64)>();
        let share = BUDGET / BLOCKS_A_BUDGET;
        assert!((share / 4..=share).contains(&block), "blocks of {block}");
    }
    assert_eq!(store.len(), ROWS as usize);
    let calls = disk.0.calls.load(Ordering::Relaxed);
    assert!(disk.0.files.load(Ordering::Relaxed) > 1);
    store.admit_without(Buckets::ALL, |_| 0);
    assert_eq!(disk.0.calls.load(Ordering::Relaxed), calls);
    assert_eq!(disk.0.files.load(Ordering::Relaxed), 0);
    assert_eq!(store.len(), 0);
    assert_eq!(drain(&mut store, Frontier::At(1)).len(), 0);
    assert_eq!(store.copied(), 0, "nothing was entered");
}

/// Far more rows than memory may hold, in and out again, and what is in memory meanwhile.
/// A drain that is given back leaves a run more, though no time has passed.
#[test]
fn runs_that_are_given_back_are_merged_once_they_are_many() {
    const BUDGET: usize = 256 << 10;
    const FIRST: u32 = 20_000;
    let disk = Faulty::new(0);
    let mut store: Store<i64, _> = store(&disk, BUDGET, hashed());
    store.advance(0);
    for container in snapshot(0..FIRST) {
        store.insert(container, |_| None);
        relieve(&mut store);
    }
    for number in FIRST..FIRST + 2 * RUNS_MAX as u32 {
        for container in snapshot(number..number + 1) {
            store.insert(container, |_| None);
        }
        let taken = drain(&mut store, Frontier::At(1));
        store.give_back(taken);
    }
    assert!(store.due.runs.len() > RUNS_MAX);
    assert!(store.wants_relief());
    relieve(&mut store);
    assert!(store.due.runs.len() <= RUNS_MAX);
}

#[test]
fn r10_memory_stays_within_the_budget() {
    const ROWS: u32 = 100_000;
    const BUDGET: usize = 256 << 10;
    let disk = Faulty::new(0);
    let mut store: Store<i64, _> = store(&disk, BUDGET, hashed());
    store.advance(0);
    let mut most = 0;
    for container in snapshot(0..ROWS) {
        store.insert(container, |_| None);
        relieve(&mut store);
        most = most.max(store.memory_bytes());
    }
    assert!(most <= BUDGET, "{most} bytes in memory");
    assert!(disk.0.written.load(Ordering::Relaxed) > 8 * BUDGET);
    let mut taken = drain(&mut store, Frontier::At(1));
    assert_eq!(taken.len(), ROWS as usize);
    let (mut at, mut read) = (Bookmark::default(), 0);
    let mut next = |taken: &mut Taken<_, _, _, _>| {
        let rows = taken.next(&mut at, 1000).unwrap();
        rows.map(|rows| rows.len())
    };
    while let Some(rows) = next(&mut taken) {
        read += rows;
        let page = taken.page_rows();
        // 24 bytes an entry, and some 120 for a row in memory.
        assert!(page * 150 <= BUDGET, "{page} rows of one window");
    }
    assert_eq!(read, ROWS as usize);
    // Lost, and the same rows come from the shard: nothing is left, in memory or on disk.
    store.give_back(taken);
    for container in snapshot(0..ROWS) {
        store.remove_stored(container);
        relieve(&mut store);
    }
    store.advance(1);
    relieve(&mut store);
    assert!(contents(&mut drain(&mut store, Frontier::At(2))).is_empty());
    assert_eq!(disk.0.files.load(Ordering::Relaxed), 0);
}

/// Areas of many partitions, runs of many blocks, windows of many rows.
#[test]
fn large_runs_lose_nothing() {
    const ROWS: u32 = 300_000;
    let disk = Faulty::new(0);
    let mut store: Store<i64, _> = store(&disk, 16 << 20, hashed());
    store.advance(0);
    for container in snapshot(0..ROWS) {
        store.insert(container, |_| None);
        relieve(&mut store);
    }
    let runs = store.due.runs.clone();
    assert!(runs.len() > 2);
    for run in &runs {
        let (mut last, mut at) = (0, 0);
        while at < run.blocks() {
            let (rows, next) = run.read(&*store.format, store.hash, at).unwrap();
            at = next;
            for row in rows {
                let hash = store.memory.hash_of(&row.0);
                assert!(hash >= last, "a run is in the order of hashes");
                last = hash;
            }
        }
    }
    assert_eq!(store.len(), ROWS as usize);
    let mut taken = drain(&mut store, Frontier::At(1));
    assert_eq!(taken.len(), ROWS as usize);
    assert_eq!(contents(&mut taken).len(), ROWS as usize);
}

/// Nobody drains: what agrees goes away, on disk too.
#[test]
fn r08_runs_are_merged_as_times_advance() {
    let disk = Faulty::new(0);
    let mut store: Store<i64, _> = store(&disk, 1, hashed());
    let at = |time: u64| vec![(data(time as u32), time, 1)];
    let mut most = 0;
    for time in 0..2000 {
        store.insert(at(time), |_| None);
        relieve(&mut store);
        store.remove_stored(at(time));
        relieve(&mut store);
        store.advance(time + 1);
        relieve(&mut store);
        most = most.max(store.len());
    }
    assert!(most <= 64, "{most} updates are held");
    assert!(disk.0.files.load(Ordering::Relaxed) <= 64);
}

/// A window reads a block of each run, so there must not be too many.
#[test]
fn runs_stay_few_however_much_is_spilled() {
    let disk = Faulty::new(0);
    let mut store: Store<i64, _> = store(&disk, 1, hashed());
    store.advance(0);
    const ROWS: u32 = 2000;
    for row in 0..ROWS {
        store.insert(vec![(data(row), 0, 1)], |_| None);
        relieve(&mut store);
        assert!(store.due.runs.len() <= RUNS_MAX + 1);
    }
    assert_eq!(
        contents(&mut drain(&mut store, Frontier::At(1))).len(),
        ROWS as usize
    );
}

/// A sum that its type cannot hold survives the disk.
#[test]
fn sums_beyond_the_type_of_differences_survive() {
    let disk = Faulty::new(0);
    let mut store: Store<i32, _> = store(&disk, 1, hashed());
    store.insert(vec![(data(1), 5, i32::MAX), (data(1), 5, i32::MAX)], |_| {
        None
    });
    relieve(&mut store);
    assert!(store.has_spilled());
    store.set_budget(0);
    let sum = 2 * i128::from(i32::MAX);
    let mut taken = drain(&mut store, Frontier::At(6));
    assert_eq!(contents(&mut taken), BTreeMap::from([((data(1), 5), sum)]));
}

/// Sums that no difference can hold survive the disk, and are taken from exactly.
#[test]
fn sums_beyond_i64_survive_the_disk() {
    let disk = Faulty::new(0);
    let mut store: Store<i32, _> = store(&disk, 1, hashed());
    for _ in 0..3 {
        store.insert_stored(vec![(data(1), 5, i64::MAX), (data(1), 5, i64::MAX)]);
        relieve(&mut store);
    }
    assert!(store.has_spilled());
    store.remove_stored(vec![(data(1), 4, i64::MAX), (data(1), 5, i64::MAX - 7)]);
    let mut taken = drain(&mut store, Frontier::At(5));
    let first = -i128::from(i64::MAX);
    assert_eq!(
        contents(&mut taken),
        BTreeMap::from([((data(1), 4), first)])
    );
    let mut taken = drain(&mut store, Frontier::At(6));
    let sum = 5 * i128::from(i64::MAX) + 7;
    assert_eq!(contents(&mut taken), BTreeMap::from([((data(1), 5), sum)]));
}

/// Times that cannot be stored stay in memory, with a budget too.
#[test]
fn times_beyond_i64_come_out_at_the_end() {
    let disk = Faulty::new(0);
    let mut store: Store<i64, _> = store(&disk, 1, hashed());
    let times = [u64::MAX, i64::MAX as u64, 7];
    store.insert(times.map(|time| (data(1), time, 1)).to_vec(), |_| None);
    relieve(&mut store);
    assert!(store.has_spilled());
    assert_eq!(contents(&mut drain(&mut store, Frontier::At(8))).len(), 1);
    assert_eq!(contents(&mut drain(&mut store, Frontier::Empty)).len(), 2);
}

/// Catches up through `times` timestamps that are all there at once, a batch for each, with little memory.
fn catch_up(times: u64, updates: impl Fn(u64) -> Vec<(Data, u64, i64)>) -> u64 {
    let disk = Faulty::new(0);
    let mut store: Store<i64, _> = store(&disk, 64 << 10, hashed());
    store.advance(0);
    for time in 0..times {
        store.insert(updates(time), |_| None);
        relieve(&mut store);
    }
    assert!(store.has_spilled());
    for time in 0..times {
        store.advance(time);
        relieve(&mut store);
        drop(drain(&mut store, Frontier::At(time + 1)));
    }
    store.copied()
}

fn assert_linear(updates: impl Fn(u64, u64) -> Vec<(Data, u64, i64)>) {
    let times = 1500;
    let once = catch_up(times, |time| updates(time, times));
    let four = catch_up(4 * times, |time| updates(time, 4 * times));
    let ratio = four as f64 / once as f64;
    assert!(
        ratio <= 4.5,
        "{times} timestamps copy {once} updates, four times as many copy {four}: {ratio:.2}"
    );
}

#[test]
fn r09_appends_cost_linear_work_on_disk() {
    assert_linear(|time, _| {
        let row = |row: u32| data(time as u32 * 10 + row);
        (0..10).map(|n| (row(n), time, 1)).collect()
    });
}

#[test]
fn r09_temporal_filters_cost_linear_work_on_disk() {
    assert_linear(|time, times| {
        let row = |row: u32| data(time as u32 * 10 + row);
        let windowed = (0..5).flat_map(|n| [(row(n), time, 1), (row(n), time + 300, -1)]);
        let lasting = (5..10).flat_map(|n| [(row(n), time, 1), (row(n), 10 * times + time, -1)]);
        windowed.chain(lasting).collect()
    });
}

#[test]
fn a_merge_goes_on_where_a_read_has_failed() {
    const RUNS: u32 = 200;
    let disk = Faulty::new(0);
    let mut store: Store<i64, _> = store(&disk, 1, hashed());
    for number in 0..3 * RUNS {
        store.insert(vec![((number, "x".repeat(1000)), 0, 1)], |_| None);
        if number % 3 == 2 {
            relieve(&mut store);
        }
    }
    // A merge takes more calls than pass between two failures.
    let calls = || disk.0.calls.load(Ordering::Relaxed);
    let before = calls();
    disk.0.next.store(before + 1, Ordering::Relaxed);
    store.advance(1);
    relieve(&mut store);
    assert!(calls() > before + 2 * QUIET_CALLS, "{}", calls() - before);
    let drained = contents(&mut drain(&mut store, Frontier::Empty));
    assert_eq!(drained.len(), 3 * RUNS as usize);
}
