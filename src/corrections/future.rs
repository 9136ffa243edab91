//! Future times, in buckets that are coarse far away and fine nearby.
//!
//! A radix heap (Ahuja et al., 1990) with digits of eight bits: a time t ≥ base lies in the bucket of the highest digit
//! in which it differs from the base. That bucket spans 256^level times. When the base moves, buckets below it are
//! *due* as a whole, the one that contains it is refined, and no other is touched. An entry is so moved at most once
//! a level, seven times in all and once or twice in practice, however many steps the base takes.
//!
//! Invariant *radix*: each bucket's level is that of every time in it relative to the present base; buckets are
//! disjoint, and none starts before the base.

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

    fn level(&self, offset: u64) -> u32 {
        match offset ^ self.base {
            0 => 0,
            differs => (63 - differs.leading_zeros()) / DIGIT_BITS,
        }
    }

    /// First and last offset of the bucket around `offset`, which is not due, at this level.
    pub fn bounds(offset: u64, level: u32) -> (u64, u64) {
        let within = (1 << (level * DIGIT_BITS)) - 1;
        (offset & !within, offset | within)
    }

    /// The area for entries at `offset`, which is not due, with the first and the last offset that belong there.
    pub fn area(&mut self, offset: u64) -> (&mut Area, u64, u64) {
        debug_assert!(offset >= self.base);
        let level = self.level(offset);
        let (start, last) = Self::bounds(offset, level);
        let bucket = self.buckets.entry(start).or_insert_with(|| Bucket {
            level,
            area: Area::new(),
        });
        debug_assert_eq!(bucket.level, level, "radix");
        (&mut bucket.area, start, last)
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
        self.base = base;
        while let Some(first) = self.buckets.first_entry() {
            let start = *first.key();
            if start > base || (start == base && first.get().level == 0) {
                break;
            }
            let Bucket { level, mut area } = first.remove();
            let last = Self::bounds(start, level).1;
            if last < base {
                if due.len() == 0 {
                    *due = area;
                } else {
                    payload.copied += area.len() as u64;
                    area.take_each(|entry| due.push(entry));
                }
                continue;
            }
            payload.copied += area.len() as u64;
            let fill = area.fill();
            area.take_each(|entry| {
                let at = offset(payload.row(entry.place).1);
                if at < base {
                    due.push(entry);
                } else {
                    self.area(at).0.push(entry);
                }
            });
            // All of these are new: until now their times were in this one bucket.
            for (_, bucket) in self.buckets.range_mut(base..=last) {
                if bucket.area.inherit_fill(fill) {
                    bucket.area.settle(payload);
                }
            }
            break;
        }
        due.settle(payload);
    }

    /// Consolidates every bucket, and forgets those that come to nothing.
    pub fn consolidate<D: Ord, T: Time, R: Diff>(&mut self, payload: &mut Payload<D, T, R>) {
        self.buckets.retain(|_, bucket| {
            bucket.area.consolidate(payload);
            bucket.area.len() > 0
        });
    }

    pub fn areas(&self) -> impl Iterator<Item = &Area> {
        self.buckets.values().map(|bucket| &bucket.area)
    }

    pub fn areas_mut(&mut self) -> impl Iterator<Item = &mut Area> {
        self.buckets.values_mut().map(|bucket| &mut bucket.area)
    }

    /// The buckets, the farthest first: where each starts, its level, and how much it holds.
    pub fn farthest_first(&self) -> impl Iterator<Item = (u64, u32, usize)> + '_ {
        let buckets = self.buckets.iter().rev();
        buckets.map(|(start, bucket)| (*start, bucket.level, bucket.area.len()))
    }

    /// The area of the bucket that starts there, if there is one.
    pub fn area_at(&mut self, start: u64) -> Option<&mut Area> {
        self.buckets.get_mut(&start).map(|bucket| &mut bucket.area)
    }

    /// Forgets the bucket that starts there, whose entries are held elsewhere now.
    pub fn remove(&mut self, start: u64) -> Option<Area> {
        self.buckets.remove(&start).map(|bucket| bucket.area)
    }

    #[cfg(test)]
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }
}
