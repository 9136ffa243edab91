//! How often the rows are there that a source gives to a dataflow: not more often than that can add up.
//!
//! ```text
//!   Σ of the positive multiplicities of rows  ≤  the largest difference of the type / workers,   so for the negative ones
//! ```
//!
//! Whatever a dataflow makes of the rows, by adding up no more than their differences, then fits the type, wherever they
//! meet: whoever adds two differences does not look, and panics or wraps. Only rows with large differences are counted, each
//! by its fingerprint: of others it takes more than a table has, or 65,536 that are just not large. And only rows of other
//! programs: those of sinks have been in a dataflow. They count where they take back one that was counted.

use std::collections::HashMap;

use crate::bounds::Diff;

/// Differences are large from this part of the largest on.
const LARGE_SHIFT: u32 = 16;

/// The largest difference that the type can hold.
pub(super) fn largest<R: Diff>() -> i64 {
    match R::from_i64(i64::MAX) {
        Some(_) => i64::MAX,
        None => i64::from(i32::MAX),
    }
}

/// From here on a difference of the type is large.
pub(super) fn large<R: Diff>() -> u64 {
    largest::<R>().unsigned_abs() >> LARGE_SHIFT
}

/// The multiplicities of rows with large differences.
#[derive(Debug)]
pub(super) struct Multiplicities {
    /// What the positive ones may add up to, and the negative ones.
    most: i128,
    large: i128,
    sums: HashMap<u128, i128>,
    positive: i128,
    negative: i128,
}

impl Multiplicities {
    /// Of no rows, on one of so many workers.
    pub(super) fn new<R: Diff>(peers: usize) -> Self {
        let peers = i128::try_from(peers.max(1)).unwrap_or(i128::MAX);
        Multiplicities {
            most: i128::from(largest::<R>()) / peers,
            large: i128::from(large::<R>()),
            sums: HashMap::new(),
            positive: 0,
            negative: 0,
        }
    }

    /// Takes back what these rows take back of those that were counted.
    pub(super) fn take_back(&mut self, rows: &[(u128, i128)]) {
        for (hash, diff) in rows {
            let sum = self.sums.get(hash).copied().unwrap_or(0);
            // Towards nothing, and no further.
            let taken = (*diff).clamp((-sum).min(0), (-sum).max(0));
            if taken != 0 {
                self.add(&[(*hash, taken)]);
            }
        }
    }

    /// Counts rows, by their fingerprints; `false` if they are more than can be added up.
    pub(super) fn add(&mut self, rows: &[(u128, i128)]) -> bool {
        for (hash, diff) in rows {
            let sum = self.sums.entry(*hash).or_default();
            self.positive -= (*sum).max(0);
            self.negative -= (*sum).min(0);
            *sum += diff;
            self.positive += (*sum).max(0);
            self.negative += (*sum).min(0);
            if sum.abs() < self.large {
                self.positive -= (*sum).max(0);
                self.negative -= (*sum).min(0);
                self.sums.remove(hash);
            }
        }
        self.positive <= self.most && -self.negative <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_up_to_what_the_type_holds_and_no_further() {
        let max = i128::from(i64::MAX);
        let mut rows = Multiplicities::new::<i64>(1);
        assert!(rows.add(&[(1, max), (2, -max)]));
        assert!(!rows.add(&[(3, 1 << 50)]));
        assert!(rows.add(&[(3, -(1 << 50))]));
        assert!(!rows.add(&[(2, -(1 << 50))]));
        // What was taken back counts no more.
        let mut rows = Multiplicities::new::<i64>(1);
        for _ in 0..10 {
            assert!(rows.add(&[(1, max / 2 + 1)]));
            assert!(rows.add(&[(1, -(max / 2)), (2, -(1 << 48)), (2, 1 << 48)]));
            assert!(rows.sums.is_empty(), "{rows:?}");
        }
        // What sinks wrote counts only if it takes something back.
        let mut rows = Multiplicities::new::<i32>(2);
        for tick in 0..100_000 {
            rows.take_back(&[(1, 1 << 30), (tick, -(1 << 30))]);
        }
        assert!(rows.add(&[(1, 1 << 29)]));
        rows.take_back(&[(1, -(1 << 29)), (1, -(1 << 29))]);
        assert!(rows.sums.is_empty(), "{rows:?}");
        // The share of each worker is smaller.
        let mut rows = Multiplicities::new::<i64>(2);
        assert!(!rows.add(&[(1, max / 2), (2, 1 << 48)]));
        let mut rows = Multiplicities::new::<i32>(1);
        assert!(rows.add(&[(1, i128::from(i32::MAX))]));
        assert!(!rows.add(&[(2, 1 << 20)]));
    }
}
