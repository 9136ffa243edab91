//! Future times, in buckets that are coarse far away and fine nearby.
//!
//! A radix heap (Ahuja et al., 1990) with digits of eight bits: a time t ≥ base lies in the bucket of the highest digit
//! in which it differs from the base. That bucket spans 256^level times. When the base moves, buckets below it are
//! *due* as a whole, the one that contains it is refined, and no other is touched. An entry is so moved at most once
//! a level, seven times in all and once or twice in practice, however many steps the base takes.
//!
//! A bucket is refined *early*: as the base draws near, entries are moved into the buckets that they will be in once it
//! is there, at each step a share in proportion to the way that it has come. So no step moves a whole bucket, unless it
//! is one from far away.
//!
//! Invariant *radix*: each bucket's level is that of every time in it relative to the present base, and of an early one
//! relative to where the bucket around it starts; buckets are disjoint, and none starts before the base.

use std::collections::BTreeMap;

use super::partition::Area;
use super::payload::Payload;
use crate::time::{Diff, Time};

/// Wide digits mean few levels, and so few moves; a level has at most 255 buckets, of some 200 bytes each.
const DIGIT_BITS: u32 = 8;

/// Offset of the times that do not fit `i64`: they come out only at the empty frontier.
const BEYOND: u64 = u64::MAX - 1;

/// Offset of the empty frontier.
pub(super) const END: u64 = u64::MAX;

/// A time's place on the line of all times, monotone.
#[inline]
pub(super) fn offset<T: Time>(time: T) -> u64 {
    // Flipping the sign bit turns the order of i64 into that of u64; i64::MAX, the empty frontier, maps to END.
    time.to_i64()
        .map_or(BEYOND, |time| (time as u64) ^ (1 << 63))
}

struct Bucket {
    level: u32,
    area: Area,
    /// What was moved early, by the first offset of each bucket that will be.
    early: BTreeMap<u64, Area>,
    /// How full the area was when the first entry was moved early; `None` before that.
    fill: Option<(usize, usize)>,
}

impl Bucket {
    fn new(level: u32, area: Area) -> Self {
        Bucket {
            level,
            area,
            early: BTreeMap::new(),
            fill: None,
        }
    }

    fn areas(&self) -> impl Iterator<Item = &Area> {
        std::iter::once(&self.area).chain(self.early.values())
    }

    fn len(&self) -> usize {
        self.areas().map(Area::len).sum()
    }

    /// The early area for entries at `offset`, in this bucket which starts at `start`, with its bounds.
    fn early(&mut self, start: u64, offset: u64) -> (&mut Area, u64, u64) {
        let (first, last) = Future::bounds(offset, level(start, offset));
        (
            self.early.entry(first).or_insert_with(Area::new),
            first,
            last,
        )
    }

    /// Takes back what was moved early.
    fn gather(&mut self) -> &mut Area {
        for (_, mut early) in std::mem::take(&mut self.early) {
            early.take_each(|entry| self.area.push(entry));
        }
        self.fill = None;
        &mut self.area
    }
}

/// The highest digit in which two offsets differ.
fn level(a: u64, b: u64) -> u32 {
    match a ^ b {
        0 => 0,
        differs => (63 - differs.leading_zeros()) / DIGIT_BITS,
    }
}

pub(super) struct Future {
    base: u64,
    /// By the first offset of each.
    buckets: BTreeMap<u64, Bucket>,
}

impl Future {
    pub fn new() -> Self {
        Future {
            base: 0,
            buckets: BTreeMap::new(),
        }
    }

    /// Offsets before this one are due.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// First and last offset of the bucket around `offset`, which is not due, at this level.
    pub fn bounds(offset: u64, level: u32) -> (u64, u64) {
        let within = (1 << (level * DIGIT_BITS)) - 1;
        (offset & !within, offset | within)
    }

    /// The area for entries at `offset`, which is not due, with the first and the last offset that belong there.
    pub fn area(&mut self, offset: u64) -> (&mut Area, u64, u64) {
        debug_assert!(offset >= self.base);
        let level = level(self.base, offset);
        let (start, last) = Self::bounds(offset, level);
        let buckets = self.buckets.entry(start);
        let bucket = buckets.or_insert_with(|| Bucket::new(level, Area::new()));
        debug_assert_eq!(bucket.level, level, "radix");
        match bucket.fill {
            Some(_) => bucket.early(start, offset),
            None => (&mut bucket.area, start, last),
        }
    }

    /// Moves the base to `base`, and what is then before it to `due`.
    pub fn advance<D: Ord, T: Time, R: Diff>(
        &mut self,
        base: u64,
        due: &mut Area,
        payload: &mut Payload<D, T, R>,
    ) {
        if base <= self.base {
            return;
        }
        let before = std::mem::replace(&mut self.base, base);
        while let Some(first) = self.buckets.first_entry() {
            let start = *first.key();
            if start > base || (start == base && first.get().level == 0) {
                break;
            }
            let bucket = first.remove();
            let last = Self::bounds(start, bucket.level).1;
            if last < base {
                let Bucket { area, early, .. } = bucket;
                let areas = std::iter::once(area).chain(early.into_values());
                areas.for_each(|area| make_due(area, due, payload));
                continue;
            }
            self.refine(start, bucket, due, payload);
            break;
        }
        self.refine_early(before, payload);
        due.settle(payload);
    }

    /// Puts the entries of a bucket, into which the base has come, where they belong now.
    fn refine<D: Ord, T: Time, R: Diff>(
        &mut self,
        start: u64,
        bucket: Bucket,
        due: &mut Area,
        payload: &mut Payload<D, T, R>,
    ) {
        let fill = bucket.fill.unwrap_or_else(|| bucket.area.fill());
        let last = Self::bounds(start, bucket.level).1;
        let mut coarse = vec![bucket.area];
        for (first, area) in bucket.early {
            let level = level(start, first);
            if Self::bounds(first, level).1 < self.base {
                make_due(area, due, payload);
            } else if first > self.base || level == 0 {
                self.buckets.insert(first, Bucket::new(level, area));
            } else {
                coarse.push(area);
            }
        }
        for mut area in coarse {
            payload.copied += area.len() as u64;
            area.take_each(|entry| {
                let at = offset(payload.row(entry.place).1);
                if at < self.base {
                    due.push(entry);
                } else {
                    self.area(at).0.push(entry);
                }
            });
        }
        // All of these are new: until now their times were in this one bucket.
        for (_, bucket) in self.buckets.range_mut(self.base..=last) {
            if bucket.area.inherit_fill(fill) {
                bucket.area.settle(payload);
            }
        }
    }

    /// Moves entries of the next bucket of each level early: as great a share of what is left as that of the way to it on
    /// which the base has just come from `before`.
    fn refine_early<D: Ord, T: Time, R: Diff>(
        &mut self,
        before: u64,
        payload: &mut Payload<D, T, R>,
    ) {
        let mut from = self.base;
        for level in 1..u64::BITS / DIGIT_BITS {
            // What comes before this is of a lower level.
            let next = Self::bounds(self.base, level).1.saturating_add(1).max(from);
            let Some((&start, bucket)) = self.buckets.range_mut(next..).next() else {
                return;
            };
            from = start.saturating_add(1);
            if bucket.level == 0 {
                continue;
            }
            let (came, all) = (self.base - before, start - before);
            let share = bucket.area.len() as u128 * u128::from(came) / u128::from(all);
            if share == 0 {
                continue;
            }
            bucket.fill.get_or_insert_with(|| bucket.area.fill());
            let taken = bucket.area.take_some(share as usize);
            payload.copied += taken.len() as u64;
            // Rows lie far apart: to read their times first lets the processor read many at once.
            let times = taken.iter().map(|entry| offset(payload.row(entry.place).1));
            let times: Vec<u64> = times.collect();
            for (entry, at) in taken.into_iter().zip(times) {
                bucket.early(start, at).0.push(entry);
            }
        }
    }

    /// Consolidates every bucket, and forgets those that come to nothing.
    pub fn consolidate<D: Ord, T: Time, R: Diff>(&mut self, payload: &mut Payload<D, T, R>) {
        self.buckets.retain(|_, bucket| {
            let area = bucket.gather();
            area.consolidate(payload);
            area.len() > 0
        });
    }

    pub fn areas(&self) -> impl Iterator<Item = &Area> {
        self.buckets.values().flat_map(Bucket::areas)
    }

    pub fn areas_mut(&mut self) -> impl Iterator<Item = &mut Area> {
        self.buckets
            .values_mut()
            .flat_map(|bucket| std::iter::once(&mut bucket.area).chain(bucket.early.values_mut()))
    }

    /// The buckets, the farthest first: where each starts, its level, and how much it holds.
    pub fn farthest_first(&self) -> impl Iterator<Item = (u64, u32, usize)> + '_ {
        let buckets = self.buckets.iter().rev();
        buckets.map(|(start, bucket)| (*start, bucket.level, bucket.len()))
    }

    /// The area of the bucket that starts there, if there is one.
    pub fn area_at(&mut self, start: u64) -> Option<&mut Area> {
        self.buckets.get_mut(&start).map(Bucket::gather)
    }

    /// Forgets the bucket that starts there, whose entries are held elsewhere now.
    pub fn remove(&mut self, start: u64) {
        self.buckets.remove(&start);
    }

    #[cfg(test)]
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }
}

/// Makes an area due as a whole.
fn make_due<D, T, R>(mut area: Area, due: &mut Area, payload: &mut Payload<D, T, R>) {
    if due.len() == 0 {
        *due = area;
    } else {
        payload.copied += area.len() as u64;
        area.take_each(|entry| due.push(entry));
    }
}
