//! The corrections: `desired − persist`, for one worker.
//!
//! A multiset of updates `(data, time, diff)` with a since. With `[t] = max(t, since)` it holds, for each data d
//! and time t,
//!
//! ```text
//! held(d, t) = Σ { diff | (d, t', diff) inserted, negated where asked, and not drained, [t'] = t }
//! ```
//!
//! Equality needs no order, so nothing is sorted by data. Four parts:
//!
//! - the *payload*: rows stay in the containers in which they arrived, until no entry names them any more;
//! - the *entries*, 24 bytes each (hash, difference, place of the row), in areas partitioned by hash prefix. A
//!   partition is consolidated when it has doubled: sorted by hash, and only equal hashes have their payloads compared;
//! - what is *fresh*: rows that have just come have their hashes and no entries yet. If they are drained next, and few of
//!   them add up, they never get any;
//! - the *times*: what is due lies in one area, what is in the future in buckets that grow coarser with distance, so
//!   that draining the near past never touches the far future.
//!
//! Invariants, besides those that the parts name themselves:
//!
//! - *due*: an entry is in the due area if and only if its time is before the base; the base is beyond the since and
//!   not before any upper drained to. So updates that the since has made equal in time are in one area, and cancel.
//! - *whole drain*: a drain to an upper not before all earlier ones takes the due area as a whole.
//!
//! Differences are `i64`, as a shard stores them, and sums are exact: one that an `i64` does not hold stays in several
//! entries, and is drained as so many updates of the same row and time. Wider sums would cost a third more memory for each
//! entry, for multiplicities that only other programs write.
//!
//! Cost: inserting is a hash and an append for each row, and now and then the consolidation of one partition, which
//! is bounded (some tens of thousands of entries). Draining and forced consolidation are work for a CPU pool.

mod aside;
mod bounded;
mod disk;
mod drained;
mod fresh;
mod future;
mod heap;
#[cfg(test)]
pub(crate) mod model;
mod partition;
mod parts;
mod payload;
mod run;
mod store;
mod taken;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::sync::Arc;

use mvsink_persist::Frontier;

pub(crate) use bounded::Bounded;
pub(crate) use disk::{Directory, Disk};
pub use drained::Drained;
pub(crate) use heap::heap_bytes;
pub(crate) use run::{Errors, Rows};
pub use store::CorrectionStore;
pub(crate) use taken::{Bookmark, Taken};

use crate::time::{Diff, Time};
use drained::Taking;
use fresh::{Fresh, Stretch};
use future::{END, Future, offset};
use partition::{Area, Entry};
use payload::{CONTAINER_ROWS_MAX, Payload, Row};

/// How many rows wait for a drain without entries, unless one is announced: about as many as the last one took, since what
/// they cancel is not known until they have entries. At least,
const FRESH_ROWS_MIN: usize = 512;
/// and at most.
const FRESH_ROWS_MAX: usize = 64 << 10;

/// If more than one in so many hashes is there again, rows are entered before they are drained.
const REPEATED_FEW: usize = 8;

/// Rows entered before doubled partitions are looked after: bounds how far a partition overshoots.
const ROWS_AT_ONCE: usize = 4096;

/// `desired − persist` for one worker. See the [module](self).
///
/// `H` hashes data to 64 well-mixed bits, equal for equal data.
pub struct Corrections<D, T, R, H> {
    hash: H,
    payload: Payload<D, T, R>,
    fresh: Fresh,
    /// More fresh rows than this are entered,
    fresh_limit: usize,
    /// and what comes after them too, until somebody drains again.
    entering: bool,
    /// The hashes of what is being entered.
    hashes: Vec<u64>,
    /// A drain will follow, however much comes before it.
    gathering: bool,
    due: Area,
    future: Future,
    /// Nothing has changed since everything was consolidated.
    consolidated: bool,
}

impl<D: Ord, T: Time, R: Diff, H: Fn(&D) -> u64> Corrections<D, T, R, H> {
    /// Empty corrections, with no since yet: all times count as themselves.
    ///
    /// Advance to the as-of before inserting a snapshot: its updates are then due from the start, and need not be
    /// moved there at the first drain.
    pub fn new(hash: H) -> Self {
        Corrections {
            hash,
            payload: Payload::new(),
            fresh: Fresh::default(),
            fresh_limit: FRESH_ROWS_MIN,
            entering: false,
            hashes: Vec::new(),
            gathering: false,
            due: Area::new(),
            future: Future::new(),
            consolidated: true,
        }
    }

    /// Adds updates. The container is kept as it is, small ones are packed together.
    pub fn insert(&mut self, container: Vec<(D, T, R)>) {
        self.insert_signed(container, 1, |_| None);
    }

    /// The same, where `hash` may know the hash of an update's data, by its number: then the data are not read.
    pub(crate) fn insert_hashed(
        &mut self,
        container: Vec<(D, T, R)>,
        hash: impl Fn(usize) -> Option<u64>,
    ) {
        self.insert_signed(container, 1, hash);
    }

    /// Takes updates away: adds them with their differences negated. None of these is [`i64::MIN`], whose negation is none.
    pub fn insert_negated(&mut self, container: Vec<(D, T, R)>) {
        self.insert_signed(container, -1, |_| None);
    }

    /// Says whether whoever inserts now drains soon: then rows need not be added up before that, and take memory meanwhile.
    pub(crate) fn gather(&mut self, gathering: bool) {
        self.gathering = gathering;
    }

    fn insert_signed(
        &mut self,
        mut container: Vec<Row<D, T, R>>,
        sign: i64,
        hash_of: impl Fn(usize) -> Option<u64>,
    ) {
        let mut done = 0;
        while container.len() > CONTAINER_ROWS_MAX {
            let rest = container.split_off(CONTAINER_ROWS_MAX);
            let first = std::mem::replace(&mut container, rest);
            self.insert_one(first, sign < 0, |row| hash_of(done + row));
            done += CONTAINER_ROWS_MAX;
        }
        self.insert_one(container, sign < 0, |row| hash_of(done + row));
    }

    /// Adds the rows of one container, as fresh ones if they may be drained next; `hash_of` knows the hashes of some, by
    /// their numbers.
    fn insert_one(
        &mut self,
        container: Vec<Row<D, T, R>>,
        negated: bool,
        hash_of: impl Fn(usize) -> Option<u64>,
    ) {
        if container.is_empty() {
            return;
        }
        self.consolidated = false;
        let added = container.len() as u32;
        let first = self.payload.take_in(container);
        if negated {
            self.payload.alter(first.container);
        }
        let rows = first.row..first.row + added;
        let data = &self.payload.rows(first.container)[first.row as usize..rows.end as usize];
        let hash = |(row, (data, ..)): (usize, &Row<D, T, R>)| {
            mix(hash_of(row).unwrap_or_else(|| (self.hash)(data)))
        };
        let hashes = data.iter().enumerate().map(hash);
        let stretch = Stretch {
            container: first.container,
            rows,
            negated,
        };
        if self.entering && !self.gathering {
            let mut kept = std::mem::take(&mut self.hashes);
            kept.clear();
            kept.extend(hashes);
            self.enter_stretch(&stretch, &kept);
            self.hashes = kept;
        } else {
            self.fresh.add(stretch, hashes);
            if self.fresh.len() > self.fresh_limit && !self.gathering {
                self.enter_fresh();
                self.entering = true;
            }
        }
        self.rewrite_if_sparse();
    }

    /// Makes entries for the fresh rows.
    fn enter_fresh(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        for (stretch, hashes) in fresh.stretches() {
            self.enter_stretch(stretch, hashes);
        }
    }

    /// Makes entries for rows with these hashes.
    fn enter_stretch(&mut self, stretch: &Stretch, hashes: &[u64]) {
        let rows = Arc::clone(self.payload.rows(stretch.container));
        let sign = if stretch.negated { -1 } else { 1 };
        let start = stretch.rows.start as usize;
        let hash_of = |row: usize| hashes[row - start];
        let diff_of = |_, diff: &R| signed(diff.to_i64(), sign);
        let range = start..stretch.rows.end as usize;
        self.enter(&rows, stretch.container, range, hash_of, diff_of);
    }

    /// Adds the rows of one container; `diff_of` tells their differences, by their numbers.
    fn insert_each(&mut self, container: Vec<Row<D, T, R>>, diff_of: impl Fn(usize) -> i64) {
        if container.is_empty() {
            return;
        }
        self.consolidated = false;
        let added = container.len();
        let first = self.payload.take_in(container);
        let rows = Arc::clone(self.payload.rows(first.container));
        let start = first.row as usize;
        let hashes = rows[start..start + added].iter();
        let hashes: Vec<u64> = hashes.map(|(data, ..)| mix((self.hash)(data))).collect();
        let hash_of = |row| hashes[row - start];
        let diff_of = |row, _: &R| diff_of(row - start);
        let range = start..start + added;
        self.enter(&rows, first.container, range, hash_of, diff_of);
        drop(rows);
        self.rewrite_if_sparse();
    }

    /// Makes entries for rows of a container, some at a time, so that no partition grows far beyond its limit.
    fn enter(
        &mut self,
        rows: &[Row<D, T, R>],
        container: u32,
        range: std::ops::Range<usize>,
        hash_of: impl Fn(usize) -> u64,
        diff_of: impl Fn(usize, &R) -> i64,
    ) {
        let mut at = range.start;
        while at < range.end {
            let end = (at + ROWS_AT_ONCE).min(range.end);
            self.enter_some(rows, container, at..end, &hash_of, &diff_of);
            at = end;
        }
    }

    /// Makes entries for some rows of a container. Rows that follow each other tend to share their area.
    fn enter_some(
        &mut self,
        rows: &[Row<D, T, R>],
        container: u32,
        range: std::ops::Range<usize>,
        hash_of: impl Fn(usize) -> u64,
        diff_of: impl Fn(usize, &R) -> i64,
    ) {
        let base = self.future.base();
        let mut at = range.start;
        while at < range.end {
            let first = offset(rows[at].1);
            let (area, from, to) = if first < base {
                (&mut self.due, 0, base - 1)
            } else {
                self.future.area(first)
            };
            let run = at;
            while let Some((_, time, diff)) = rows[..range.end].get(at) {
                let time = offset(*time);
                if time < from || time > to {
                    break;
                }
                let own = diff.to_i64();
                let diff = diff_of(at, diff);
                if diff == 0 {
                    self.payload.release(container);
                } else {
                    if diff != own {
                        self.payload.alter(container);
                    }
                    let row = at as u32;
                    let place = payload::Place { container, row };
                    let hash = hash_of(at);
                    area.push(Entry { hash, diff, place });
                }
                at += 1;
            }
            self.payload.copied += (at - run) as u64;
            area.settle(&mut self.payload);
        }
    }

    /// From here on, times before `since` count as `since`. An earlier `since` than the present one changes nothing.
    pub fn advance(&mut self, since: T) {
        if self.payload.since().is_some_and(|present| present >= since) {
            return;
        }
        self.payload.set_since(since);
        self.consolidated = false;
        // Beyond the since, so that what is at it and what was advanced to it meet in one area.
        self.make_due(offset(since).saturating_add(1));
        self.rewrite_if_sparse();
    }

    fn make_due(&mut self, base: u64) {
        self.future.advance(base, &mut self.due, &mut self.payload);
    }

    /// Forgets the updates whose time, advanced to the since, is before `frontier`.
    pub fn discard_before(&mut self, frontier: Frontier<T>) {
        self.enter_fresh();
        self.take_before(frontier, |payload, entry| {
            payload.release(entry.place.container)
        });
        self.rewrite_if_sparse();
    }

    /// True if the since is not before `frontier`: every time then counts as one that is not either.
    fn nothing_before(&self, frontier: Frontier<T>) -> bool {
        self.payload
            .since()
            .is_some_and(|since| !frontier.is_complete(&since))
    }

    /// Hands out the entries at times before `frontier`.
    fn take_before(
        &mut self,
        frontier: Frontier<T>,
        mut each: impl FnMut(&mut Payload<D, T, R>, Entry),
    ) {
        if self.nothing_before(frontier) {
            return;
        }
        let upper = frontier.time().map_or(END, offset);
        self.make_due(upper);
        if upper == self.future.base() {
            self.due.take_each(|entry| each(&mut self.payload, entry));
        } else {
            let mut taken = Vec::new();
            let payload = &self.payload;
            let before = |entry: &Entry| frontier.is_complete(&payload.time(entry.place));
            self.due.extract(before, |entry| taken.push(entry));
            taken
                .into_iter()
                .for_each(|entry| each(&mut self.payload, entry));
        }
    }

    /// Takes out the updates whose time, advanced to the since, is before `upper`, consolidated by data and time.
    pub fn drain(&mut self, upper: Frontier<T>) -> Drained<D, T, R> {
        if let Some(drained) = self.drain_fresh(upper) {
            return drained;
        }
        self.enter_fresh();
        if !self.nothing_before(upper) {
            self.make_due(upper.time().map_or(END, offset));
            self.due.consolidate(&mut self.payload);
        }
        let mut taking = Taking::new();
        self.take_before(upper, |payload, entry| {
            taking.take(payload, entry.place, entry.diff);
        });
        self.drained(taking)
    }

    /// Takes out the fresh rows if that is all there is before `upper`, and few of them add up: without entering them.
    fn drain_fresh(&mut self, upper: Frontier<T>) -> Option<Drained<D, T, R>> {
        if self.fresh.is_empty() || self.nothing_before(upper) {
            return None;
        }
        self.make_due(upper.time().map_or(END, offset));
        let before = |(stretch, _): (&Stretch, &[u64])| {
            let rows = &self.payload.rows(stretch.container);
            let mut rows = rows[stretch.rows.start as usize..stretch.rows.end as usize].iter();
            rows.all(|(_, time, _)| upper.is_complete(&self.payload.effective(*time)))
        };
        if self.due.len() > 0 || !self.fresh.stretches().all(before) {
            return None;
        }
        let repeated = self.fresh.repeated();
        if repeated.len() > self.fresh.len() / REPEATED_FEW {
            return None;
        }
        let fresh = std::mem::take(&mut self.fresh);
        let mut taking = Taking::new();
        let mut together = Area::new();
        for (stretch, hashes) in fresh.stretches() {
            let container = stretch.container;
            let rows = Arc::clone(self.payload.rows(container));
            let sign = if stretch.negated { -1 } else { 1 };
            for (row, hash) in stretch.rows.clone().zip(hashes) {
                let diff = signed(rows[row as usize].2.to_i64(), sign);
                let place = payload::Place { container, row };
                let hash = *hash;
                if diff == 0 {
                    self.payload.release(container);
                } else if repeated.binary_search(&hash).is_ok() {
                    together.push(Entry { hash, diff, place });
                } else {
                    taking.take(&mut self.payload, place, diff);
                }
            }
        }
        together.consolidate(&mut self.payload);
        together.take_each(|entry| taking.take(&mut self.payload, entry.place, entry.diff));
        Some(self.drained(taking))
    }

    /// What was taken out.
    fn drained(&mut self, taking: Taking<D, T, R>) -> Drained<D, T, R> {
        let drained = taking.finish(&mut self.payload);
        self.payload.copied += drained.len() as u64;
        self.rewrite_if_sparse();
        self.fresh_limit = (2 * drained.len()).clamp(FRESH_ROWS_MIN, FRESH_ROWS_MAX);
        self.entering = false;
        drained
    }

    /// Undoes a drain whose batch was lost: its updates can now cancel against those that arrived since.
    pub fn give_back(&mut self, drained: Drained<D, T, R>) {
        self.restore(drained);
    }

    /// The same of what was drained and may be shared.
    fn restore(&mut self, shared: impl Borrow<Drained<D, T, R>>) {
        let drained: &Drained<D, T, R> = shared.borrow();
        if drained.is_empty() {
            return;
        }
        self.consolidated = false;
        let mut taken_up = Vec::with_capacity(drained.containers.len());
        for held in &drained.containers {
            let slot = self.payload.hold_again(held.slot, &held.rows);
            self.payload.retain(slot, held.updates);
            taken_up.push(slot);
        }
        self.payload.copied += drained.len() as u64;
        let mut slots = taken_up.into_iter();
        let (mut current, mut container) = (std::ptr::null(), 0);
        for (held, row, diff) in drained.places(0..drained.len()) {
            if !std::ptr::eq(current, held) {
                current = held;
                container = slots.next().expect("each container has updates");
            }
            let (data, time, own) = &held.rows[row as usize];
            if diff != own.to_i64() {
                self.payload.alter(container);
            }
            let entry = Entry {
                hash: mix((self.hash)(data)),
                diff,
                place: payload::Place { container, row },
            };
            let at = offset(*time);
            if at < self.future.base() {
                self.due.push(entry);
            } else {
                self.future.area(at).0.push(entry);
            }
        }
        // What others hold is not rewritten.
        drop(shared);
        self.due.settle(&mut self.payload);
        self.rewrite_if_sparse();
    }

    /// Adds up everything that can be added up, and gives unused memory back. Does nothing if nothing has changed.
    pub fn consolidate(&mut self) {
        if self.consolidated {
            return;
        }
        self.enter_fresh();
        self.due.consolidate(&mut self.payload);
        self.future.consolidate(&mut self.payload);
        self.rewrite_if_sparse();
        self.consolidated = true;
    }

    fn rewrite_if_sparse(&mut self) {
        if self.payload.rewrite_due() {
            self.rewrite();
        }
    }

    fn rewrite(&mut self) {
        // What entries name is found by them.
        self.enter_fresh();
        let mut rewrite = self.payload.rewrite_begin();
        for area in std::iter::once(&self.due).chain(self.future.areas()) {
            area.rewrite_mark(&self.payload, &mut rewrite);
        }
        self.payload.rewrite_move(&mut rewrite);
        for area in std::iter::once(&mut self.due).chain(self.future.areas_mut()) {
            area.rewrite_places(&mut self.payload, &rewrite);
        }
        self.payload.rewrite_end(rewrite);
    }

    /// The number of updates held, some of which may yet cancel.
    pub fn len(&self) -> usize {
        self.fresh.len() + self.due.len() + self.future.areas().map(Area::len).sum::<usize>()
    }

    /// True if nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held: entries and containers, without what the rows point to (the heap of a `String`, say).
    pub fn bytes(&self) -> usize {
        let future: usize = self.future.areas().map(Area::bytes).sum();
        self.fresh.bytes() + self.due.bytes() + future + self.payload.bytes()
    }

    /// How many times an entry has been written, moved or passed over so far: the work done, for tests of complexity.
    pub fn copied(&self) -> u64 {
        self.payload.copied
    }
}

impl<D: Ord, T: Time, R: Diff, H: Fn(&D) -> u64> CorrectionStore<D, T, R>
    for Corrections<D, T, R, H>
{
    type Drained = Drained<D, T, R>;

    fn insert(&mut self, container: Vec<(D, T, R)>) {
        self.insert(container);
    }

    fn insert_negated(&mut self, container: Vec<(D, T, R)>) {
        self.insert_negated(container);
    }

    fn advance(&mut self, since: T) {
        self.advance(since);
    }

    fn discard_before(&mut self, frontier: Frontier<T>) {
        self.discard_before(frontier);
    }

    fn drain(&mut self, upper: Frontier<T>) -> Self::Drained {
        self.drain(upper)
    }

    fn give_back(&mut self, drained: Self::Drained) {
        self.give_back(drained);
    }

    fn consolidate(&mut self) {
        self.consolidate();
    }

    fn len(&self) -> usize {
        self.len()
    }
}

/// The difference with this sign, 1 or -1.
#[inline]
fn signed(diff: i64, sign: i64) -> i64 {
    debug_assert!(sign > 0 || diff != i64::MIN, "it can be negated");
    diff.wrapping_mul(sign)
}

/// Spreads a hash over its high bits, by which areas are partitioned. Injective, so that equality is kept; needed
/// because rows are routed by bits of the same hash, which are then equal for all rows of a worker.
#[inline]
fn mix(hash: u64) -> u64 {
    // 2^64 divided by the golden ratio, made odd.
    (hash ^ (hash >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
