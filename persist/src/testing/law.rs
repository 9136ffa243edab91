//! A collection that everybody can compute: what the writers of a test write, and what its readers must find.
//!
//! ```text
//!   at each time t with t mod 4 ≠ 3:   + (t mod 52, t),   − (t mod 52, t − 52)  if t ≥ 52
//!   contents(T) = { (t mod 52, t) : T − 52 < t ≤ T, t ≥ 0, t mod 4 ≠ 3 },  each once
//! ```
//!
//! Whoever commits `[lower, upper)` commits the updates of those times, so it does not matter who does; an update
//! that is lost or there twice is found at its time, and contents stay small however long a test runs.

use std::collections::BTreeMap;

/// A key, and the time at which its row came.
pub type Row = (i64, i64);

const KEYS: i64 = 52;

fn has_rows(time: i64) -> bool {
    // A multiple of 4 is the period, so a time and the one that it replaces agree.
    time.rem_euclid(4) != 3
}

/// The updates of the times in `[lower, upper)`: `(row, time, diff)`.
pub fn updates(lower: i64, upper: i64) -> Vec<(Row, i64, i64)> {
    let mut updates = Vec::new();
    for time in (lower..upper).filter(|time| has_rows(*time)) {
        updates.push(((time % KEYS, time), time, 1));
        if time >= KEYS {
            updates.push(((time % KEYS, time - KEYS), time, -1));
        }
    }
    updates
}

/// The collection at time `as_of`: each row with how often it is there.
pub fn contents(as_of: i64) -> BTreeMap<Row, i64> {
    let first = (as_of - KEYS + 1).max(0);
    (first..=as_of)
        .filter(|time| has_rows(*time))
        .map(|time| ((time % KEYS, time), 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_the_sum_of_the_updates() {
        for as_of in [0, 3, 51, 52, 55, 200] {
            let mut sums = BTreeMap::new();
            for (row, _, diff) in updates(0, as_of + 1) {
                *sums.entry(row).or_insert(0) += diff;
            }
            sums.retain(|_, diff| *diff != 0);
            assert_eq!(sums, contents(as_of));
        }
    }
}
