//! Updates of rows with one hash, and what they add up to.
//!
//! ```text
//!   consolidate:   (row, time, Σ diff)   for each row and time, without zeros
//! ```
//!
//! Rows with one hash are almost surely one row; that they are is confirmed by their canonical bytes, because the
//! hash is not a cryptographic one and whoever writes the data could choose two that collide.

use crate::error::Error;
use crate::merge::chunk::Chunk;
use crate::row_hash::RowHasher;

/// An update of a row that lies in some chunk. Sums do not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) diff: i128,
    pub(crate) time: i64,
    pub(crate) chunk: usize,
    pub(crate) row: usize,
    /// Which of the distinct rows it is.
    which: usize,
}

impl Update {
    /// The diff in parts that a bigint holds each, as few as there can be.
    pub(crate) fn parts(&self) -> impl Iterator<Item = i64> + use<> {
        let mut rest = self.diff;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            // The least one has no negation, which other readers may want.
            let part = i64::try_from(rest).unwrap_or(if rest < 0 { -i64::MAX } else { i64::MAX });
            rest -= i128::from(part);
            Some(part)
        })
    }
}

/// Updates of rows with the same hash.
#[derive(Default)]
pub(crate) struct Group {
    updates: Vec<Update>,
    /// The canonical bytes of the distinct rows.
    distinct: Vec<Vec<u8>>,
    scratch: Vec<u8>,
}

impl Group {
    pub(crate) fn clear(&mut self) {
        self.updates.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.updates.len()
    }

    pub(crate) fn push(&mut self, chunk: usize, row: usize, time: i64, diff: i64) {
        self.updates.push(Update {
            diff: i128::from(diff),
            time,
            chunk,
            row,
            which: 0,
        });
    }

    pub(crate) fn updates(&self) -> &[Update] {
        &self.updates
    }

    /// Changes the numbers of the chunks.
    pub(crate) fn renumber(&mut self, mut new: impl FnMut(usize) -> usize) {
        for update in &mut self.updates {
            update.chunk = new(update.chunk);
        }
    }

    /// Has all updates of a row refer to one place of it. After [`Group::consolidate`].
    pub(crate) fn unify(&mut self) {
        for equal in self.updates.chunk_by_mut(|a, b| a.which == b.which) {
            let (chunk, row) = (equal[0].chunk, equal[0].row);
            for update in equal {
                (update.chunk, update.row) = (chunk, row);
            }
        }
    }

    /// Adds up the updates of the same row and time, and drops zeros. `chunk` finds a chunk by its number.
    pub(crate) fn consolidate<'a>(
        &mut self,
        hasher: &RowHasher,
        chunk: impl Fn(usize) -> &'a Chunk,
    ) -> Result<(), Error> {
        if self.updates.len() <= 1 {
            self.updates.retain(|update| update.diff != 0);
            return Ok(());
        }
        self.distinct.clear();
        for update in &mut self.updates {
            self.scratch.clear();
            chunk(update.chunk).canonical(hasher, update.row, &mut self.scratch)?;
            let known = self.distinct.iter().position(|row| *row == self.scratch);
            update.which = known.unwrap_or_else(|| {
                self.distinct.push(self.scratch.clone());
                self.distinct.len() - 1
            });
        }
        self.updates
            .sort_unstable_by_key(|update| (update.which, update.time));
        self.updates.dedup_by(|next, kept| {
            let same = (next.which, next.time) == (kept.which, kept.time);
            if same {
                kept.diff += next.diff;
            }
            same
        });
        self.updates.retain(|update| update.diff != 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, RecordBatch};

    use super::*;
    use crate::merge::chunk::Meter;

    /// Rows 0 and 2 are the same, and all have the same hash.
    fn colliding() -> (RowHasher, Chunk) {
        let values = Int64Array::from(vec![1, 2, 1]);
        let batch = RecordBatch::try_from_iter([("value", Arc::new(values) as _)]).unwrap();
        let hasher = RowHasher::new(&batch.schema()).unwrap();
        let chunk = Chunk::new(
            batch,
            vec![7; 3],
            vec![0; 3],
            vec![1; 3],
            &Arc::new(Meter::default()),
        );
        (hasher, chunk)
    }

    #[test]
    fn rows_that_collide_are_not_added_up() {
        let (hasher, chunk) = colliding();
        let mut group = Group::default();
        for (row, time, diff) in [(0, 5, 1), (1, 5, -1), (2, 5, 2), (1, 6, 4), (2, 6, 0)] {
            group.push(0, row, time, diff);
        }
        group.consolidate(&hasher, |_| &chunk).unwrap();
        group.unify();
        let value = |update: &Update| if update.row == 1 { 2 } else { 1 };
        let mut found: Vec<_> = group
            .updates()
            .iter()
            .map(|update| (value(update), update.time, update.diff))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(1, 5, 3), (2, 5, -1), (2, 6, 4)]);
        // One place for each row.
        let places: std::collections::BTreeSet<_> =
            group.updates().iter().map(|update| update.row).collect();
        assert_eq!(places.len(), 2);
    }

    #[test]
    fn sums_may_pass_what_a_bigint_holds() {
        let (hasher, chunk) = colliding();
        let mut group = Group::default();
        for diff in [i64::MAX, i64::MAX, -i64::MAX, -i64::MAX + 1] {
            group.push(0, 0, 3, diff);
        }
        group.consolidate(&hasher, |_| &chunk).unwrap();
        let [update] = group.updates() else {
            panic!("{:?}", group.updates());
        };
        assert_eq!(update.diff, 1);
    }

    #[test]
    fn diffs_come_out_in_as_few_parts_as_hold_them() {
        let (hasher, chunk) = colliding();
        const MAX: i64 = i64::MAX;
        for (diffs, parts) in [
            (&[5][..], &[5][..]),
            (&[i64::MIN], &[i64::MIN]),
            (&[MAX, MAX, MAX], &[MAX, MAX, MAX]),
            (&[i64::MIN, i64::MIN], &[-MAX, -MAX, -2]),
            (&[MAX, 1], &[MAX, 1]),
        ] {
            let mut group = Group::default();
            for diff in diffs {
                group.push(0, 0, 3, *diff);
            }
            group.consolidate(&hasher, |_| &chunk).unwrap();
            let [update] = group.updates() else {
                panic!("{:?}", group.updates());
            };
            assert!(update.parts().eq(parts.iter().copied()), "{diffs:?}");
        }
    }
}
