//! Rows that have just come: they have hashes, and no entries yet.
//!
//! Most batches are drained before much else comes, and hardly a row of theirs is there twice. To put entries of them in
//! the order of their hashes, and then back into that of their places, would be in vain: the hashes alone tell whether
//! anything is to be added up.
//!
//! Invariant *fresh*: a row is fresh, or an entry names it, or neither; a fresh one counts as live.

use std::ops::Range;

/// Bits of the filters for each hash: with so many, about one hash in thirty is looked at twice.
const FILTER_BITS: usize = 16;

/// Rows that lie together.
pub(super) struct Stretch {
    pub container: u32,
    pub rows: Range<u32>,
    /// Their differences count negated.
    pub negated: bool,
}

/// Rows without entries, in the order in which they came.
#[derive(Default)]
pub(super) struct Fresh {
    stretches: Vec<Stretch>,
    /// Of all rows.
    hashes: Vec<u64>,
}

impl Fresh {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Adds rows with these hashes.
    pub fn add(&mut self, stretch: Stretch, hashes: impl Iterator<Item = u64>) {
        let before = self.hashes.len();
        self.hashes.extend(hashes);
        debug_assert_eq!(self.hashes.len() - before, stretch.rows.len());
        match self.stretches.last_mut() {
            Some(last)
                if (last.container, last.rows.end, last.negated)
                    == (stretch.container, stretch.rows.start, stretch.negated) =>
            {
                last.rows.end = stretch.rows.end;
            }
            _ => self.stretches.push(stretch),
        }
    }

    /// The rows, and their hashes.
    pub fn stretches(&self) -> impl Iterator<Item = (&Stretch, &[u64])> {
        let mut rest = &self.hashes[..];
        self.stretches.iter().map(move |stretch| {
            let (hashes, others) = rest.split_at(stretch.rows.len());
            rest = others;
            (stretch, hashes)
        })
    }

    /// The hashes that more than one row has, in order.
    pub fn repeated(&self) -> Vec<u64> {
        let mut seen = Filter::new(self.len());
        let mut again = Filter::new(self.len());
        let mut any = false;
        for hash in &self.hashes {
            if seen.insert(*hash) {
                again.insert(*hash);
                any = true;
            }
        }
        if !any {
            return Vec::new();
        }
        // The first one with a hash is among them, as are some that are alone.
        let hashes = self.hashes.iter().copied();
        let mut suspects: Vec<u64> = hashes.filter(|hash| again.contains(*hash)).collect();
        suspects.sort_unstable();
        let equal = suspects.chunk_by(|a, b| a == b);
        equal
            .filter(|hashes| hashes.len() > 1)
            .map(|hashes| hashes[0])
            .collect()
    }

    pub fn bytes(&self) -> usize {
        self.hashes.capacity() * size_of::<u64>() + self.stretches.capacity() * size_of::<Stretch>()
    }
}

/// A set of hashes, and of some others by mistake.
struct Filter {
    words: Vec<u64>,
    bits: u32,
}

impl Filter {
    fn new(hashes: usize) -> Self {
        let bits = (hashes * FILTER_BITS).next_power_of_two().max(64).ilog2();
        Filter {
            words: vec![0; 1 << (bits - u64::BITS.ilog2())],
            bits,
        }
    }

    #[inline]
    fn place(&self, hash: u64) -> (usize, u64) {
        let at = hash >> (u64::BITS - self.bits);
        ((at >> 6) as usize, 1 << (at & 63))
    }

    /// Adds a hash; true if it was there.
    #[inline]
    fn insert(&mut self, hash: u64) -> bool {
        let (word, bit) = self.place(hash);
        let was = self.words[word] & bit != 0;
        self.words[word] |= bit;
        was
    }

    #[inline]
    fn contains(&self, hash: u64) -> bool {
        let (word, bit) = self.place(hash);
        self.words[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(hashes: &[u64]) -> Fresh {
        let mut fresh = Fresh::default();
        let stretch = Stretch {
            container: 3,
            rows: 0..hashes.len() as u32,
            negated: false,
        };
        fresh.add(stretch, hashes.iter().copied());
        fresh
    }

    #[test]
    fn what_is_repeated_is_found_and_nothing_else() {
        let spread = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut hashes: Vec<u64> = (0..10_000).map(spread).collect();
        assert!(fresh(&hashes).repeated().is_empty());
        // Alike in all bits that a filter looks at.
        hashes.push(hashes[17] ^ 1);
        assert!(fresh(&hashes).repeated().is_empty());
        hashes.extend([hashes[17], hashes[9_999], hashes[17]]);
        let mut expected = [hashes[17], hashes[9_999]];
        expected.sort_unstable();
        assert_eq!(fresh(&hashes).repeated(), expected);
        for few in [&[][..], &[5], &[5, 5], &[u64::MAX, 0, u64::MAX]] {
            let repeated = fresh(few).repeated();
            assert_eq!(repeated.len(), usize::from(few.len() > 1));
        }
    }

    #[test]
    fn rows_that_lie_together_are_one_stretch() {
        let mut fresh = fresh(&[1, 2]);
        let stretch = |container, rows: Range<u32>, negated| Stretch {
            container,
            rows,
            negated,
        };
        fresh.add(stretch(3, 2..4, false), [3, 4].into_iter());
        fresh.add(stretch(3, 4..5, true), [5].into_iter());
        fresh.add(stretch(4, 5..6, true), [6].into_iter());
        fresh.add(stretch(4, 7..8, true), [7].into_iter());
        let stretches = fresh.stretches().map(|(stretch, hashes)| {
            let rows = stretch.rows.clone();
            (stretch.container, rows, hashes.to_vec())
        });
        let expected = [
            (3, 0..4, vec![1, 2, 3, 4]),
            (3, 4..5, vec![5]),
            (4, 5..6, vec![6]),
            (4, 7..8, vec![7]),
        ];
        assert!(stretches.eq(expected));
        assert_eq!(fresh.len(), 7);
    }
}
