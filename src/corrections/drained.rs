//! Updates taken out of the corrections, for one batch.

use std::ops::Range;

use super::partition::Entry;
use super::payload::Rows;
use crate::time::Time;

/// A container that the drained entries name.
pub(super) struct Held<D, T, R> {
    pub rows: Rows<D, T, R>,
    /// Where the corrections held it.
    pub slot: u32,
    /// How many entries name it.
    pub entries: u32,
}

/// Consolidated updates, drained from corrections: distinct in (data, time), none with a zero difference.
///
/// Payloads stay in the containers in which they arrived, shared with the corrections. The order is that of their
/// places in memory, so that reading from front to back reads memory from front to back; it is no order of data or time.
pub struct Drained<D, T, R> {
    pub(super) since: Option<T>,
    pub(super) entries: Vec<Entry>,
    pub(super) containers: Vec<Held<D, T, R>>,
}

impl<D, T: Time, R> Drained<D, T, R> {
    /// The number of updates.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are no updates.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All updates: data, time (advanced to the since as of the drain), difference.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&D, T, i64)> + '_ {
        self.range(0..self.len())
    }

    /// The updates numbered `range`, so that a batch can be encoded piece by piece; the range is clamped to what is
    /// there.
    pub fn range(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = (&D, T, i64)> + '_ {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        self.entries[start..end].iter().map(|entry| {
            let held = &self.containers[entry.place.container as usize];
            let (data, time, _) = &held.rows[entry.place.row as usize];
            (
                data,
                self.since.map_or(*time, |since| since.max(*time)),
                entry.diff,
            )
        })
    }

    /// Bytes of the entries, beside the payloads.
    pub fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
            + self.containers.capacity() * size_of::<Held<D, T, R>>()
    }
}

impl<D, T: Time, R> std::fmt::Debug for Drained<D, T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drained")
            .field("len", &self.entries.len())
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}
