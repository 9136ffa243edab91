//! The corrections in memory, part by part, for whoever keeps the rest elsewhere.

use super::future::{END, Future, offset};
use super::partition::Entry;
use super::payload::Row;
use super::{Corrections, mix};
use crate::error::Error;
use crate::time::{Diff, Time};
use mvsink_persist::Frontier;

/// What an entry costs, with what its partition keeps free, about.
const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<Entry>() / 4;

/// An update as it is written: its hash, its row, its time advanced to the since, its difference.
pub(super) type Written<'a, D> = (u64, &'a D, i64, i64);

/// Some of the updates, by their times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Those that are due.
    Due,
    /// A bucket of the future.
    Future { start: u64, level: u32 },
}

impl<D: Ord, T: Time, R: Diff, H: Fn(&D) -> u64> Corrections<D, T, R, H> {
    /// From now on, [`Corrections::held_bytes`] includes what rows own on the heap.
    pub(super) fn estimate_heap(&mut self, heap_of: fn(&D) -> usize) {
        self.payload.estimate_heap(heap_of);
    }

    /// About the bytes held, in constant time; the heap of the rows included if it is estimated.
    pub(super) fn held_bytes(&self) -> usize {
        let entries = self.payload.live() - self.fresh.len();
        self.payload.bytes() + self.payload.heap() + self.fresh.bytes() + entries * ENTRY_BYTES
    }

    /// About the bytes of an update.
    pub(super) fn row_bytes(&self) -> usize {
        self.held_bytes() / self.payload.live().max(1)
    }

    /// The hash by which updates are partitioned.
    pub(super) fn hash_of(&self, data: &D) -> u64 {
        mix((self.hash)(data))
    }

    /// The number of updates that are due, or as fresh as if they were.
    pub(super) fn due_len(&self) -> usize {
        self.fresh.len() + self.due.len()
    }

    /// Makes entries for what is fresh, so that every update is in a part.
    pub(super) fn enter_all(&mut self) {
        self.enter_fresh();
    }

    pub(super) fn since(&self) -> Option<T> {
        self.payload.since()
    }

    /// Offsets of times before this one are due.
    pub(super) fn base(&self) -> u64 {
        self.future.base()
    }

    /// Makes what is before `frontier` due.
    pub(super) fn make_due_before(&mut self, frontier: Frontier<T>) {
        if !self.nothing_before(frontier) {
            self.make_due(frontier.time().map_or(END, offset));
        }
    }

    /// Adds rows whose differences are told apart from them, since a sum may not fit what a row's own can be.
    pub(super) fn insert_sums(&mut self, rows: Vec<Row<D, T, R>>, diffs: &[i64]) {
        self.insert_each(rows, |row| diffs[row]);
        self.rewrite_if_sparse();
    }

    /// Parts that hold at least `entries` entries, if all do: the farthest times first, and what is due last.
    pub(super) fn farthest(&self, entries: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut held = 0;
        for (start, level, len) in self.future.farthest_first() {
            if held >= entries {
                return parts;
            }
            // What cannot be stored lies in the last bucket there can be, and stays in memory.
            if Future::bounds(start, level).1 != u64::MAX {
                parts.push(Part::Future { start, level });
                held += len;
            }
        }
        if held < entries && self.due.len() > 0 {
            parts.push(Part::Due);
        }
        parts
    }

    /// Hands out the updates of a part in the order of their hashes, consolidated, some thousands at a time.
    pub(super) fn each_in_order(
        &mut self,
        part: Part,
        mut each: impl FnMut(&mut dyn Iterator<Item = Written<'_, D>>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Corrections {
            due,
            future,
            payload,
            ..
        } = self;
        let area = match part {
            Part::Due => due,
            Part::Future { start, .. } => match future.area_at(start) {
                Some(area) => area,
                None => return Ok(()),
            },
        };
        area.consolidate(payload);
        for entries in area.in_order() {
            let mut unfit = None;
            let mut updates = entries.iter().map_while(|entry| {
                let time = payload.time(entry.place);
                match crate::bounds::time_to_i64(time) {
                    Ok(time) => Some((entry.hash, &payload.row(entry.place).0, time, entry.diff)),
                    Err(error) => {
                        unfit = Some(error);
                        None
                    }
                }
            });
            each(&mut updates)?;
            unfit.map_or(Ok(()), Err)?;
            payload.copied += entries.len() as u64;
        }
        Ok(())
    }

    /// Forgets parts, which are held elsewhere now, and gives their memory back.
    pub(super) fn forget(&mut self, parts: &[Part]) {
        for part in parts {
            let area = match part {
                Part::Due => Some(&mut self.due),
                Part::Future { start, .. } => self.future.area_at(*start),
            };
            if let Some(area) = area {
                area.take_each(|entry| self.payload.release(entry.place.container));
            }
            if let Part::Future { start, .. } = part {
                self.future.remove(*start);
            }
        }
        if self.payload.is_sparse() {
            self.rewrite();
        }
    }
}
