//! The comparison with which the read-back of a view begins, on one worker.
//!
//! ```text
//!   read-back's task                                    write's task
//!   pins version v0, with the upper u0
//!   cutoff c = max(as-of, u0 − 1)           ──────▶     Σ hash(row) × diff of desired at times ≤ c, by bucket
//!   Σ hash(row) × diff of v0's rows         ──────▶     once desired is complete at c: drops what agrees
//!   reads the rows of these buckets         ◀──────     the buckets that differ
//! ```
//!
//! Sums of fingerprints are equal if the rows are, and different if not (but for 1 in 2^128). So what agrees need not
//! be read: a shard that is right is verified at the speed of hashing, by the sums that its files have in the log.
//! Sums ignore times. Here all times up to c count as one: nothing is written below `max(as-of, u0)` any more.
//!
//! A read-back that was left so far behind that the rows it comes to are not told apart by their times any more, since the
//! shard's since has passed them, compares again: what was written in between against what the corrections hold of it.
//!
//! ```text
//!   has read up to u, the shard is at u'
//!   Σ hash(row) × diff of what the shard holds more by then   ─▶  once desired is complete before u': is it what the
//!                                                                 corrections hold of times before u'? Then they are dropped
//!   goes on at u', or reads the rows and tells them apart     ◀─  yes or no
//! ```
//!
//! A bucket lives on one worker, for desired and for what is held alike, so each worker compares by itself, with a
//! version of its own.

use mvsink_persist::fingerprint::BUCKETS;
use mvsink_persist::{Frontier, Sums};
use tokio::sync::{mpsc, oneshot};

use crate::route::target;

/// A set of buckets of fingerprints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Buckets([u64; BUCKETS / 64]);

impl Buckets {
    /// All of them.
    pub(crate) const ALL: Buckets = Buckets([u64::MAX; BUCKETS / 64]);

    /// Those whose rows are routed to this worker.
    pub(crate) fn of_worker(index: usize, peers: usize) -> Self {
        let mut buckets = Buckets::default();
        let mine = |bucket: &u8| target(*bucket, peers) == index;
        for bucket in (0..=u8::MAX).filter(mine) {
            buckets.insert(bucket);
        }
        buckets
    }

    pub(crate) fn insert(&mut self, bucket: u8) {
        self.0[usize::from(bucket / 64)] |= 1 << (bucket % 64);
    }

    pub(crate) fn contains(&self, bucket: u8) -> bool {
        self.0[usize::from(bucket / 64)] >> (bucket % 64) & 1 != 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |bucket| self.contains(*bucket))
    }

    pub(crate) fn len(self) -> usize {
        self.iter().count()
    }

    /// True if none is missing.
    pub(crate) fn is_all(&self) -> bool {
        *self == Buckets::ALL
    }

    /// True if one of them has a sum other than zero.
    pub(crate) fn meet(&self, sums: &Sums) -> bool {
        sums.buckets().any(|(bucket, _)| self.contains(bucket))
    }
}

impl std::ops::Not for Buckets {
    type Output = Buckets;

    fn not(self) -> Buckets {
        Buckets(self.0.map(|word| !word))
    }
}

/// Sums of fingerprints while they grow, by bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    sums: Box<[u128; BUCKETS]>,
    /// The rows, each as often as it is there.
    rows: Box<[i64; BUCKETS]>,
}

impl Totals {
    /// Of nothing.
    pub(crate) fn new() -> Self {
        Totals {
            sums: Box::new([0; BUCKETS]),
            rows: Box::new([0; BUCKETS]),
        }
    }

    /// Counts a row with this fingerprint `diff` times.
    #[inline]
    pub(crate) fn add(&mut self, hash: u128, diff: i64) {
        let bucket = usize::from(mvsink_persist::bucket(hash));
        let product = hash.wrapping_mul(i128::from(diff) as u128);
        self.sums[bucket] = self.sums[bucket].wrapping_add(product);
        self.rows[bucket] = self.rows[bucket].wrapping_add(diff);
    }

    /// Adds sums of which the rows are not counted.
    pub(crate) fn add_sums(&mut self, sums: &Sums) {
        for (bucket, sum) in sums.buckets() {
            let total = &mut self.sums[usize::from(bucket)];
            *total = total.wrapping_add(sum);
        }
    }

    /// Takes away what was counted in others.
    pub(crate) fn subtract(&mut self, other: &Totals) {
        for bucket in 0..BUCKETS {
            self.sums[bucket] = self.sums[bucket].wrapping_sub(other.sums[bucket]);
            self.rows[bucket] = self.rows[bucket].wrapping_sub(other.rows[bucket]);
        }
    }

    pub(crate) fn merge(&mut self, other: &Totals) {
        for bucket in 0..BUCKETS {
            self.sums[bucket] = self.sums[bucket].wrapping_add(other.sums[bucket]);
            self.rows[bucket] = self.rows[bucket].wrapping_add(other.rows[bucket]);
        }
    }

    /// Those of these buckets whose sums are not the same.
    pub(crate) fn differing(&self, other: &Totals, among: Buckets) -> Buckets {
        let mut differ = Buckets::default();
        let differs = |bucket: &u8| {
            let bucket = usize::from(*bucket);
            self.sums[bucket] != other.sums[bucket]
        };
        for bucket in among.iter().filter(differs) {
            differ.insert(bucket);
        }
        differ
    }

    /// True if all sums are zero: the rows cancel out.
    pub(crate) fn is_nothing(&self) -> bool {
        self.sums.iter().all(|sum| *sum == 0)
    }

    /// The rows that were counted in these buckets.
    pub(crate) fn rows(&self, buckets: Buckets) -> i64 {
        let rows = buckets.iter().map(|bucket| self.rows[usize::from(bucket)]);
        rows.fold(0, i64::wrapping_add)
    }
}

/// What the task of the read-back has of it.
pub(crate) struct HeldEnd<T> {
    /// The cutoff; `None` if nothing is to be compared.
    pub(crate) cutoff: oneshot::Sender<Option<T>>,
    /// What the pinned version holds.
    pub(crate) held: oneshot::Sender<Totals>,
    /// Where it differs.
    pub(crate) differing: oneshot::Receiver<Buckets>,
    /// Whenever it has to compare again.
    pub(crate) again: mpsc::Sender<Again<T>>,
}

/// A comparison of a read-back that was left behind.
pub(crate) struct Again<T> {
    /// Where the shard is.
    pub(crate) upper: Frontier<T>,
    /// What it holds more than what was read.
    pub(crate) more: Totals,
    /// Whether this is what the corrections held before the upper, and hold no more.
    pub(crate) agrees: oneshot::Sender<bool>,
}

/// What the task of write has of it.
pub(crate) struct DesiredEnd<T> {
    pub(crate) cutoff: oneshot::Receiver<Option<T>>,
    pub(crate) held: oneshot::Receiver<Totals>,
    pub(crate) differing: oneshot::Sender<Buckets>,
    pub(crate) again: mpsc::Receiver<Again<T>>,
}

/// The two ends of a comparison.
pub(crate) fn comparison<T>() -> (HeldEnd<T>, DesiredEnd<T>) {
    let cutoff = oneshot::channel();
    let held = oneshot::channel();
    let differing = oneshot::channel();
    // One at a time.
    let again = mpsc::channel(1);
    let ours = HeldEnd {
        cutoff: cutoff.0,
        held: held.0,
        differing: differing.1,
        again: again.0,
    };
    let theirs = DesiredEnd {
        cutoff: cutoff.1,
        held: held.1,
        differing: differing.0,
        again: again.1,
    };
    (ours, theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_is_on_one_worker() {
        for peers in [1, 2, 3, 4, 7, 300] {
            let mut seen = 0;
            for index in 0..peers {
                let mine = Buckets::of_worker(index, peers);
                seen += mine.len();
                let is_routed = |bucket| target(bucket, peers) == index;
                assert!((0..=u8::MAX).all(|bucket| mine.contains(bucket) == is_routed(bucket)));
            }
            assert_eq!(seen, BUCKETS);
        }
        assert_eq!(Buckets::of_worker(0, 1), Buckets::ALL);
        assert!(Buckets::of_worker(299, 300) == Buckets::default());
    }

    #[test]
    fn totals_are_those_of_sums() {
        let hash = |bucket: u128, rest: u128| bucket << 120 | rest;
        let rows = [(hash(3, 7), 2), (hash(3, 9), -1), (hash(200, 1), 5)];
        let (mut totals, mut sums) = (Totals::new(), Sums::default());
        for (hash, diff) in rows {
            totals.add(hash, diff);
            sums.add(hash, diff);
        }
        let mut held = Totals::new();
        held.add_sums(&sums);
        assert_eq!(totals.differing(&held, Buckets::ALL), Buckets::default());
        assert_eq!(totals.rows(Buckets::ALL), 6);
        held.add(hash(200, 1), 1);
        let mut expected = Buckets::default();
        expected.insert(200);
        assert_eq!(totals.differing(&held, Buckets::ALL), expected);
        assert_eq!(totals.rows(expected), 5);
        assert!(expected.meet(&sums) && !Buckets::default().meet(&sums));
        // What is not looked at does not count.
        let odd = Buckets::of_worker(1, 2);
        assert_eq!(totals.differing(&held, odd), Buckets::default());
    }
}
