//! How often each row of a table is there, by fingerprint: whether any reader can say it.
//!
//! ```text
//!   |Σ diff| ≤ i64::MAX   for each row
//! ```
//!
//! Rows are kept one by one up to a bound, so that a small table is known exactly. Beyond it only those count whose diffs
//! are large: below that it takes more rows than a table has to pass the bound.

use std::collections::{BTreeMap, HashMap};

/// Rows that are kept at the most.
const ROWS_MAX: usize = 1 << 20;
/// Diffs are large from here on, once there are too many rows.
const LARGE: u64 = 1 << 31;

/// The sums of the diffs of rows, by their fingerprints.
#[derive(Debug, Default)]
pub(crate) struct Multiplicities {
    sums: HashMap<u128, i128>,
    /// The largest diff of each row that has a large one, and a file in which it is: of equal ones the first by name.
    largest: HashMap<u128, (u64, String)>,
    /// Only large diffs are counted.
    large_only: bool,
}

impl Multiplicities {
    /// Counts rows of a file: their fingerprints and diffs.
    pub(crate) fn add(&mut self, path: &str, rows: &[(u128, i64)]) {
        for (hash, diff) in rows {
            let size = diff.unsigned_abs();
            if size >= LARGE {
                let largest = self.largest.entry(*hash).or_default();
                if size > largest.0 || size == largest.0 && path < largest.1.as_str() {
                    *largest = (size, path.to_owned());
                }
            } else if self.large_only && !self.sums.contains_key(hash) {
                continue;
            }
            *self.sums.entry(*hash).or_default() += i128::from(*diff);
        }
        if !self.large_only && self.sums.len() > ROWS_MAX {
            self.large_only = true;
            let large = |sum: &i128| sum.unsigned_abs() >= u128::from(LARGE);
            self.sums.retain(|_, sum| large(sum));
        }
    }

    /// How many rows are there more often than a reader can say, by the file with the largest diff of each.
    pub(crate) fn beyond(&self) -> BTreeMap<String, usize> {
        let mut files = BTreeMap::new();
        for (hash, (_, path)) in &self.largest {
            if self.sums.get(hash).is_some_and(|sum| is_beyond(*sum)) {
                *files.entry(path.clone()).or_default() += 1;
            }
        }
        files
    }

    /// How many rows have a negative sum, if there are any and all rows are known.
    pub(crate) fn negative(&self) -> Option<usize> {
        let negative = self.sums.values().filter(|sum| **sum < 0).count();
        (!self.large_only && negative > 0).then_some(negative)
    }
}

fn is_beyond(sum: i128) -> bool {
    sum.unsigned_abs() > u128::from(i64::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_within_the_bound_is_not_beyond_it() {
        let mut rows = Multiplicities::default();
        rows.add("b", &[(1, i64::MAX), (2, i64::MAX), (3, 5)]);
        assert_eq!((rows.beyond(), rows.negative()), (BTreeMap::new(), None));
        rows.add("a", &[(1, i64::MAX), (2, i64::MAX - 1), (3, -6)]);
        let one_each = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]);
        assert_eq!((rows.beyond(), rows.negative()), (one_each, Some(1)));
        rows.add("c", &[(1, -i64::MAX), (2, -3)]);
        assert_eq!(rows.beyond(), BTreeMap::from([("b".to_owned(), 1)]));
        rows.add("c", &[(2, -i64::MAX), (4, i64::MIN)]);
        assert_eq!(rows.beyond(), BTreeMap::from([("c".to_owned(), 1)]));
    }

    #[test]
    fn large_diffs_count_among_any_number_of_rows() {
        let mut rows = Multiplicities::default();
        rows.add("a", &[(0, i64::MAX)]);
        let many: Vec<_> = (1..=ROWS_MAX as u128).map(|hash| (hash, -1)).collect();
        rows.add("b", &many);
        assert_eq!((rows.sums.len(), rows.negative()), (1, None));
        rows.add("c", &[(0, 1), (7, -1)]);
        assert_eq!(rows.beyond(), BTreeMap::from([("a".to_owned(), 1)]));
    }
}
