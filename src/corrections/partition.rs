//! Entries, partitioned by hash prefix.
//!
//! An [`Area`] is a multiset of entries. It starts as one partition, and a partition that grows large is split by
//! the next bits of the hash, alone, so that no insertion ever pays for more than one partition. A directory maps a
//! hash prefix to its partition (extendible hashing: Fagin et al., 1979). Invariants:
//!
//! - *prefix*: a partition of depth d holds the entries of one d-bit prefix, and all of them.
//! - *sorted*: the first `sorted` entries of a partition are in hash order, and were consolidated together.
//! - *whole sums*: the entries of one row and one time add up exactly. A sum that an `i64` does not hold is in as many
//!   entries as it takes, each of a row that came with a part of it.
//! - *doubling*: a partition is consolidated when it holds twice what the last consolidation left, so each entry is
//!   passed over an amortised constant number of times.

use super::payload::{Payload, Place, Rewrite};
use crate::time::{Diff, Time};

/// One update: 24 bytes, whatever its payload.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    pub hash: u64,
    pub diff: i64,
    pub place: Place,
}

/// Below this a partition is not worth consolidating.
const CONSOLIDATE_MIN: usize = 512;

/// Above this a partition is split: what is sorted and merged together fits a core's own cache.
const SPLIT_ABOVE: usize = 16 << 10;

/// Bits of the hash by which a partition is split at once.
const SPLIT_BITS: u32 = 3;

/// No partition is deeper; beyond 2^15 of them, they grow instead.
const DEPTH_MAX: u32 = 15;

/// Below this many, entries are compared with each other only.
const SCATTER_MIN: usize = 256;

/// How many entries are to fall into one place by the first bits of their hashes, about.
const SCATTER_INTO: usize = 4;

/// Runs of equal hashes up to this length are compared pairwise, longer ones sorted by payload.
const PAIRWISE_MAX: usize = 12;

#[derive(Default)]
struct Partition {
    depth: u32,
    sorted: usize,
    limit: usize,
    entries: Vec<Entry>,
}

impl Partition {
    fn new(depth: u32, entries: Vec<Entry>) -> Self {
        let sorted = entries.len();
        Partition {
            depth,
            sorted,
            limit: (2 * sorted).max(CONSOLIDATE_MIN),
            entries,
        }
    }

    /// Adds an entry; true if the partition has now doubled.
    #[inline]
    fn push(&mut self, entry: Entry) -> bool {
        let len = self.entries.len();
        if len == self.entries.capacity() {
            // Doubling would leave up to half of the memory unused; large allocations grow in place anyway.
            self.entries
                .reserve_exact(if len < 1024 { len.max(4) } else { len / 4 });
        }
        self.entries.push(entry);
        len + 1 == self.limit
    }

    /// Adds up what has equal data and equal effective time, and drops what comes to nothing.
    fn consolidate<D: Ord, T: Time, R: Diff>(&mut self, payload: &mut Payload<D, T, R>) {
        let entries = &mut self.entries;
        if self.sorted < entries.len() {
            sort_by_hash(entries, self.depth);
        }
        payload.copied += entries.len() as u64;
        let mut kept = 0;
        let mut start = 0;
        while start < entries.len() {
            let hash = entries[start].hash;
            let mut end = start + 1;
            while end < entries.len() && entries[end].hash == hash {
                end += 1;
            }
            if end - start == 1 {
                entries[kept] = entries[start];
                kept += 1;
            } else {
                kept = merge_run(entries, kept, start, end, payload);
            }
            start = end;
        }
        entries.truncate(kept);
        if entries.capacity() > 2 * kept + CONSOLIDATE_MIN {
            entries.shrink_to(kept);
        }
        self.sorted = kept;
        self.limit = (2 * kept).max(CONSOLIDATE_MIN);
    }
}

/// Sorts entries by their hashes, whose first `depth` bits are equal. The bits after those are well mixed, so the next few
/// tell nearly everything: one pass puts each entry almost where it belongs, whatever the number of entries.
fn sort_by_hash(entries: &mut [Entry], depth: u32) {
    let len = entries.len();
    if len < SCATTER_MIN {
        return entries.sort_unstable_by_key(|entry| entry.hash);
    }
    let bits = (len / SCATTER_INTO).ilog2();
    let bucket = |entry: &Entry| ((entry.hash << depth) >> (64 - bits)) as usize;
    // Where each bucket begins, and once it is full, where it ends.
    let mut place = vec![0u32; (1 << bits) + 1];
    for entry in entries.iter() {
        place[bucket(entry) + 1] += 1;
    }
    for at in 0..1 << bits {
        place[at + 1] += place[at];
    }
    let mut sorted = vec![Entry::default(); len];
    for entry in entries.iter() {
        let next = &mut place[bucket(entry)];
        sorted[*next as usize] = *entry;
        *next += 1;
    }
    let mut start = 0;
    for end in &place[..1 << bits] {
        let end = *end as usize;
        sorted[start..end].sort_unstable_by_key(|entry| entry.hash);
        start = end;
    }
    entries.copy_from_slice(&sorted);
}

/// Consolidates the entries `start..end`, which share a hash, to `kept..`; returns where the kept ones end.
fn merge_run<D: Ord, T: Time, R: Diff>(
    entries: &mut [Entry],
    kept: usize,
    start: usize,
    end: usize,
    payload: &mut Payload<D, T, R>,
) -> usize {
    let equal = |payload: &Payload<D, T, R>, a: &Entry, b: &Entry| {
        let (a, b) = (payload.row(a.place), payload.row(b.place));
        payload.effective(a.1) == payload.effective(b.1) && a.0 == b.0
    };
    let pairwise = end - start <= PAIRWISE_MAX;
    if !pairwise {
        entries[start..end].sort_unstable_by(|a, b| {
            let (a, b) = (payload.row(a.place), payload.row(b.place));
            let by_time = payload.effective(a.1).cmp(&payload.effective(b.1));
            by_time.then_with(|| a.0.cmp(&b.0))
        });
    }
    let first = kept;
    let mut kept = kept;
    // A sum did not fit one entry.
    let mut wide = false;
    for index in start..end {
        let entry = entries[index];
        // Sorted runs have equal ones side by side, so only the last kept one can match.
        let candidates = if pairwise {
            first
        } else {
            kept.max(first + 1) - 1
        };
        match (candidates..kept).find(|at| equal(payload, &entries[*at], &entry)) {
            Some(at) => match entries[at].diff.checked_add(entry.diff) {
                Some(sum) => {
                    entries[at].diff = sum;
                    payload.alter(entries[at].place.container);
                    payload.release(entry.place.container);
                }
                None => {
                    wide = true;
                    entries[kept] = entry;
                    kept += 1;
                }
            },
            None => {
                entries[kept] = entry;
                kept += 1;
            }
        }
    }
    if wide {
        spread_sums(&mut entries[first..kept], payload, equal);
    }
    let mut nonzero = first;
    for index in first..kept {
        let entry = entries[index];
        if entry.diff == 0 {
            payload.release(entry.place.container);
        } else {
            entries[nonzero] = entry;
            nonzero += 1;
        }
    }
    nonzero
}

/// Gives the sum of equal updates, which one entry may not hold, to as few of their entries as hold it. The others get zero.
#[cold]
fn spread_sums<D: Ord, T: Time, R: Diff>(
    entries: &mut [Entry],
    payload: &mut Payload<D, T, R>,
    equal: impl Fn(&Payload<D, T, R>, &Entry, &Entry) -> bool,
) {
    let mut spread = vec![false; entries.len()];
    for first in 0..entries.len() {
        if spread[first] {
            continue;
        }
        let same: Vec<usize> = (first..entries.len())
            .filter(|at| equal(payload, &entries[first], &entries[*at]))
            .collect();
        let mut rest: i128 = same.iter().map(|at| i128::from(entries[*at].diff)).sum();
        for at in same {
            let part = rest.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
            rest -= part;
            entries[at].diff = part as i64;
            payload.alter(entries[at].place.container);
            spread[at] = true;
        }
        debug_assert_eq!(rest, 0, "whole sums");
    }
}

/// A multiset of entries, partitioned by hash prefix.
pub(super) struct Area {
    /// The partition of each prefix of `bits` bits.
    directory: Vec<u32>,
    bits: u32,
    partitions: Vec<Partition>,
    /// Partitions that have doubled since [`Area::settle`] looked last.
    grown: Vec<u32>,
    len: usize,
}

impl Area {
    pub fn new() -> Self {
        Area {
            directory: vec![0],
            bits: 0,
            partitions: vec![Partition::new(0, Vec::new())],
            grown: Vec::new(),
            len: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn prefix(hash: u64, bits: u32) -> usize {
        // In two steps, since a shift by all 64 bits is not one.
        ((hash >> 1) >> (63 - bits)) as usize
    }

    /// Adds an entry. [`Area::settle`] is to follow, some entries later.
    #[inline]
    pub fn push(&mut self, entry: Entry) {
        let index = self.directory[Self::prefix(entry.hash, self.bits)];
        self.len += 1;
        if self.partitions[index as usize].push(entry) {
            self.grown.push(index);
        }
    }

    /// Consolidates the partitions that have doubled.
    pub fn settle<D: Ord, T: Time, R: Diff>(&mut self, payload: &mut Payload<D, T, R>) {
        while let Some(index) = self.grown.pop() {
            self.consolidate_one(index as usize, payload);
            payload.copied += self.split(index as usize);
        }
        // Many partitions of few entries each would let each wait for CONSOLIDATE_MIN.
        if self.partitions.len() > 1 && self.len < self.partitions.len() * CONSOLIDATE_MIN / 8 {
            self.join(payload);
        }
    }

    /// How full the area is: its entries, and the number at which they will have doubled.
    pub fn fill(&self) -> (usize, usize) {
        (
            self.len,
            self.partitions
                .iter()
                .map(|partition| partition.limit)
                .sum(),
        )
    }

    /// Takes over the fill of the area from which all entries here came: moving entries alone is no reason to
    /// consolidate them. Returns true if the area should be settled all the same, because a partition has become
    /// too large.
    pub fn inherit_fill(&mut self, (len, limit): (usize, usize)) -> bool {
        let mut oversize = false;
        self.grown.clear();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            let entries = partition.entries.len();
            let scaled = (entries as u128 * limit as u128 / len.max(1) as u128) as usize;
            partition.limit = scaled.max(entries + 1).max(CONSOLIDATE_MIN);
            if entries > 4 * SPLIT_ABOVE {
                self.grown.push(index as u32);
                oversize = true;
            }
        }
        oversize
    }

    /// Consolidates everything.
    pub fn consolidate<D: Ord, T: Time, R: Diff>(&mut self, payload: &mut Payload<D, T, R>) {
        self.grown.clear();
        for index in 0..self.partitions.len() {
            self.consolidate_one(index, payload);
            payload.copied += self.split(index);
        }
        self.settle(payload);
    }

    fn consolidate_one<D: Ord, T: Time, R: Diff>(
        &mut self,
        index: usize,
        payload: &mut Payload<D, T, R>,
    ) {
        let partition = &mut self.partitions[index];
        let before = partition.entries.len();
        partition.consolidate(payload);
        self.len -= before - partition.entries.len();
    }

    /// Splits a consolidated partition if it is large. Returns the number of entries copied.
    fn split(&mut self, index: usize) -> u64 {
        let partition = &mut self.partitions[index];
        let (Some(first), Some(last)) = (partition.entries.first(), partition.entries.last())
        else {
            return 0;
        };
        let depth = partition.depth;
        // Equal hashes cannot be split apart.
        if partition.entries.len() <= SPLIT_ABOVE || depth >= DEPTH_MAX || first.hash == last.hash {
            return 0;
        }
        let prefix = Self::prefix(first.hash, depth);
        let entries = std::mem::take(&mut partition.entries);
        let child_depth = depth + SPLIT_BITS;
        if child_depth > self.bits {
            let grown = self.directory.iter();
            self.directory = grown
                .flat_map(|part| std::iter::repeat_n(*part, 1 << SPLIT_BITS))
                .collect();
            self.bits = child_depth;
        }
        let mut copied = entries.len() as u64;
        let mut rest = &entries[..];
        for child in 0..1usize << SPLIT_BITS {
            let child_prefix = (prefix << SPLIT_BITS) | child;
            let end =
                rest.partition_point(|entry| Self::prefix(entry.hash, child_depth) <= child_prefix);
            let partition = Partition::new(child_depth, rest[..end].to_vec());
            rest = &rest[end..];
            let at = if child == 0 {
                self.partitions[index] = partition;
                index
            } else {
                self.partitions.push(partition);
                self.partitions.len() - 1
            };
            // A child that was split itself may have grown the directory.
            let width = 1usize << (self.bits - child_depth);
            self.directory[child_prefix * width..][..width].fill(at as u32);
            if self.partitions[at].entries.len() > SPLIT_ABOVE {
                copied += self.split(at);
            }
        }
        copied
    }

    /// Goes back to one partition.
    fn join<D: Ord, T: Time, R: Diff>(&mut self, payload: &mut Payload<D, T, R>) {
        let mut joined = Area::new();
        payload.copied += self.len as u64;
        self.take_each(|entry| joined.push(entry));
        *self = joined;
        self.settle(payload);
    }

    /// Empties the area, handing out every entry.
    pub fn take_each(&mut self, mut each: impl FnMut(Entry)) {
        let emptied = std::mem::replace(self, Area::new());
        for partition in emptied.partitions {
            partition.entries.into_iter().for_each(&mut each);
        }
    }

    /// Takes out up to so many entries, whichever are at hand.
    pub fn take_some(&mut self, count: usize) -> Vec<Entry> {
        let mut taken = Vec::with_capacity(count.min(self.len));
        for partition in self.partitions.iter_mut().rev() {
            let left = partition.entries.len().saturating_sub(count - taken.len());
            taken.extend(partition.entries.drain(left..));
            partition.sorted = partition.sorted.min(left);
            if left == 0 {
                partition.entries = Vec::new();
            }
        }
        self.len -= taken.len();
        taken
    }

    pub fn each(&self) -> impl Iterator<Item = &Entry> {
        self.partitions
            .iter()
            .flat_map(|partition| &partition.entries)
    }

    /// The entries in the order of their hashes, a partition at a time.
    pub fn in_order(&self) -> impl Iterator<Item = Vec<Entry>> + '_ {
        // A partition lies in the directory as often as it has deeper neighbours, all in one place.
        let first = |at: &usize| *at == 0 || self.directory[*at] != self.directory[at - 1];
        let indices = (0..self.directory.len()).filter(first);
        indices.map(|at| {
            let mut entries = self.partitions[self.directory[at] as usize].entries.clone();
            entries.sort_unstable_by_key(|entry| entry.hash);
            entries
        })
    }

    /// Removes the entries that `take` accepts, and hands them out.
    pub fn extract(&mut self, mut take: impl FnMut(&Entry) -> bool, mut each: impl FnMut(Entry)) {
        for partition in &mut self.partitions {
            let (mut index, mut taken_sorted, sorted) = (0, 0, partition.sorted);
            let before = partition.entries.len();
            partition.entries.retain(|entry| {
                let taken = take(entry);
                if taken {
                    each(*entry);
                    taken_sorted += usize::from(index < sorted);
                }
                index += 1;
                !taken
            });
            partition.sorted -= taken_sorted;
            self.len -= before - partition.entries.len();
        }
    }

    pub fn rewrite_mark<D: Ord, T: Time, R: Diff>(
        &self,
        payload: &Payload<D, T, R>,
        rewrite: &mut Rewrite,
    ) {
        for entry in self.each() {
            payload.rewrite_mark(rewrite, entry.place);
        }
    }

    pub fn rewrite_places<D: Ord, T: Time, R: Diff>(
        &mut self,
        payload: &mut Payload<D, T, R>,
        rewrite: &Rewrite,
    ) {
        payload.copied += self.len as u64;
        for partition in &mut self.partitions {
            for entry in &mut partition.entries {
                entry.place = payload.rewritten(rewrite, entry.place);
            }
        }
    }

    pub fn bytes(&self) -> usize {
        let entries: usize = self
            .partitions
            .iter()
            .map(|partition| partition.entries.capacity())
            .sum();
        entries * size_of::<Entry>()
            + self.partitions.capacity() * size_of::<Partition>()
            + (self.directory.capacity() + self.grown.capacity()) * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_partitions_grow_by_a_quarter() {
        let mut partition = Partition::new(0, Vec::new());
        for pushed in 0..1024 {
            assert!(partition.entries.capacity() >= pushed);
            partition.push(Entry::default());
        }
        assert_eq!(partition.entries.capacity(), 1024);
        partition.push(Entry::default());
        assert_eq!(partition.entries.capacity(), 1280);
    }
}
