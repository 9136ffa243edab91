//! Updates taken out of the corrections, for one batch.
//!
//! Most rows count once, as they came. So what is taken out are containers, a bit for each row that counts, and the
//! differences of those whose row says another one.

use std::ops::Range;
use std::sync::Arc;

use super::payload::{Payload, Place, Rows};
use crate::time::{Diff, Time};

/// A container that drained updates lie in.
pub(super) struct Held<D, T, R> {
    pub rows: Rows<D, T, R>,
    /// Where the corrections held it.
    pub slot: u32,
    /// How many of its rows count.
    pub updates: u32,
    /// How many updates come before those.
    start: usize,
    /// Which rows count, a bit each.
    counting: Vec<u64>,
    /// The differences of some rows, in their order; all others are what their rows say.
    differing: Vec<(u32, i64)>,
}

/// What is being taken out, in whatever order.
pub(super) struct Taking<D, T, R> {
    containers: Vec<Held<D, T, R>>,
}

impl<D: Ord, T: Time, R: Diff> Taking<D, T, R> {
    pub fn new() -> Self {
        Taking {
            containers: Vec::new(),
        }
    }

    /// Takes a row out, with this difference; still to be released.
    #[inline]
    pub fn take(&mut self, payload: &mut Payload<D, T, R>, place: Place, diff: i64) {
        let Place { container, row } = place;
        let number = payload.number(container, self.containers.len());
        if number == self.containers.len() {
            let rows = Arc::clone(payload.rows(container));
            self.containers.push(Held {
                counting: vec![0; rows.len().div_ceil(64)],
                rows,
                slot: container,
                updates: 0,
                start: 0,
                differing: Vec::new(),
            });
        }
        let held = &mut self.containers[number];
        held.counting[row as usize / 64] |= 1 << (row % 64);
        held.updates += 1;
        if !payload.is_plain(container) {
            held.differing.push((row, diff));
        }
    }

    /// Ends the taking, and releases what was taken. Times are those of the payload's since.
    pub fn finish(mut self, payload: &mut Payload<D, T, R>) -> Drained<D, T, R> {
        let mut len = 0;
        for held in &mut self.containers {
            held.start = len;
            len += held.updates as usize;
            held.differing.sort_unstable_by_key(|(row, _)| *row);
            payload.unnumber(held.slot);
            payload.release_many(held.slot, held.updates);
        }
        Drained {
            since: payload.since(),
            len,
            containers: self.containers,
        }
    }
}

/// Consolidated updates, drained from corrections: distinct in (data, time), none with a zero difference.
///
/// Payloads stay in the containers in which they arrived, shared with the corrections. The order is that of their
/// places in memory, so that reading from front to back reads memory from front to back; it is no order of data or time.
pub struct Drained<D, T, R> {
    since: Option<T>,
    len: usize,
    pub(super) containers: Vec<Held<D, T, R>>,
}

impl<D, T: Time, R> Drained<D, T, R> {
    /// The number of updates.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no updates.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes beside the payloads.
    pub fn bytes(&self) -> usize {
        let of_rows = |held: &Held<D, T, R>| {
            held.counting.capacity() * size_of::<u64>()
                + held.differing.capacity() * size_of::<(u32, i64)>()
        };
        self.containers.capacity() * size_of::<Held<D, T, R>>()
            + self.containers.iter().map(of_rows).sum::<usize>()
    }
}

impl<D, T: Time, R: Diff> Drained<D, T, R> {
    /// All updates: data, time (advanced to the since as of the drain), difference.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&D, T, i64)> + '_ {
        self.range(0..self.len())
    }

    /// The updates numbered `range`, so that a batch can be encoded piece by piece; the range is clamped to what is
    /// there.
    pub fn range(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = (&D, T, i64)> + '_ {
        self.places(range).map(|(held, row, diff)| {
            let (data, time, _) = &held.rows[row as usize];
            let time = self.since.map_or(*time, |since| since.max(*time));
            (data, time, diff)
        })
    }

    /// The same by their places.
    pub(super) fn places(&self, range: Range<usize>) -> Places<'_, D, T, R> {
        let end = range.end.min(self.len);
        let start = range.start.min(end);
        let first = self.containers.partition_point(|held| held.start <= start);
        let mut places = Places {
            containers: &self.containers[first.saturating_sub(1)..],
            word: 0,
            counting: 0,
            differing: &[],
            left: end - start,
        };
        places.begin();
        if let Some(held) = places.containers.first() {
            places.pass_over(start - held.start);
        }
        places
    }
}

/// Updates by their places: the container, the row, the difference.
pub(super) struct Places<'a, D, T, R> {
    /// The one that is being read, and those after it.
    containers: &'a [Held<D, T, R>],
    /// Which word of its bits is being read,
    word: usize,
    /// and what of that is left.
    counting: u64,
    differing: &'a [(u32, i64)],
    left: usize,
}

impl<'a, D, T, R> Places<'a, D, T, R> {
    /// Begins with the first container.
    fn begin(&mut self) {
        self.word = 0;
        if let Some(held) = self.containers.first() {
            self.counting = held.counting.first().copied().unwrap_or(0);
            self.differing = &held.differing;
        }
    }

    /// Passes over so many updates of the first container, which are there.
    fn pass_over(&mut self, mut updates: usize) {
        let Some(held) = self.containers.first() else {
            return;
        };
        while updates >= self.counting.count_ones() as usize && self.word + 1 < held.counting.len()
        {
            updates -= self.counting.count_ones() as usize;
            self.word += 1;
            self.counting = held.counting[self.word];
        }
        for _ in 0..updates {
            self.counting &= self.counting.wrapping_sub(1);
        }
        let next = self.word as u32 * 64 + self.counting.trailing_zeros();
        let passed = self.differing.partition_point(|(row, _)| *row < next);
        self.differing = &self.differing[passed..];
    }
}

impl<'a, D, T, R: Diff> Iterator for Places<'a, D, T, R> {
    type Item = (&'a Held<D, T, R>, u32, i64);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut held = self.containers.first()?;
        while self.counting == 0 {
            self.word += 1;
            if let Some(counting) = held.counting.get(self.word) {
                self.counting = *counting;
            } else {
                self.containers = &self.containers[1..];
                held = self.containers.first()?;
                self.begin();
            }
        }
        let row = self.word as u32 * 64 + self.counting.trailing_zeros();
        self.counting &= self.counting - 1;
        let diff = match self.differing {
            [(differing, diff), rest @ ..] if *differing == row => {
                self.differing = rest;
                *diff
            }
            _ => held.rows[row as usize].2.to_i64(),
        };
        Some((held, row, diff))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<D, T, R: Diff> ExactSizeIterator for Places<'_, D, T, R> {}

impl<D, T: Time, R> std::fmt::Debug for Drained<D, T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drained")
            .field("len", &self.len)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}
