//! Sums of fingerprints, by which collections are compared without looking at them.
//!
//! ```text
//!   sum(b) = Σ hash(row) × diff   over the updates whose row is in bucket b        (mod 2^128)
//! ```
//!
//! It is linear: the sums of two batches add up to that of both, so those of a shard's live files add up to its
//! collection's, wherever the rows lie and however often they were rewritten. Updates that cancel leave nothing.
//! Times do not count: sums say that the rows are right, not when.
//!
//! In the log a file carries its sums as text: the version of the fingerprints, `:`, and in base 64 the bucket (1
//! byte) and the sum (16, little endian) of each that is not zero, in order.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::fingerprint::{BUCKETS, VERSION, bucket};

/// The bytes of a bucket and its sum.
const ENTRY_BYTES: usize = 17;

/// Sums of `hash(row) × diff` by bucket of the hash, wrapping; a bucket whose sum is zero is absent.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sums {
    /// A bit for each bucket that is there.
    present: [u64; 4],
    /// How many buckets are there before each of those words.
    before: [u8; 4],
    /// Their sums, in the order of the buckets; none is zero.
    sums: Vec<u128>,
}

impl Sums {
    /// Counts a row with this fingerprint `diff` times.
    #[inline]
    pub fn add(&mut self, hash: u128, diff: i64) {
        self.add_to(bucket(hash), hash.wrapping_mul(i128::from(diff) as u128));
    }

    /// Of all buckets in order.
    pub(crate) fn from_totals(totals: &[u128; BUCKETS]) -> Self {
        let mut sums = Sums::default();
        for (bucket, total) in (0..=u8::MAX).zip(totals) {
            sums.add_to(bucket, *total);
        }
        sums
    }

    /// Adds the sums of other updates.
    pub fn merge(&mut self, other: &Sums) {
        for (bucket, sum) in other.buckets() {
            self.add_to(bucket, sum);
        }
    }

    /// Takes the sums of other updates away: what is left is the difference.
    pub fn subtract(&mut self, other: &Sums) {
        for (bucket, sum) in other.buckets() {
            self.add_to(bucket, sum.wrapping_neg());
        }
    }

    /// True if every bucket's sum is zero, as that of equal collections' difference.
    pub fn is_zero(&self) -> bool {
        self.sums.is_empty()
    }

    /// The buckets whose sum is not zero, in order.
    pub fn buckets(&self) -> impl Iterator<Item = (u8, u128)> {
        let present = (0..=u8::MAX).filter(|bucket| self.has(*bucket));
        present.zip(self.sums.iter().copied())
    }

    /// The sum of a bucket.
    pub fn get(&self, bucket: u8) -> u128 {
        if self.has(bucket) {
            self.sums[self.rank(bucket)]
        } else {
            0
        }
    }

    /// The text for a file's tag.
    pub(crate) fn to_tag(&self) -> String {
        let mut bytes = Vec::with_capacity(ENTRY_BYTES * self.sums.len());
        for (bucket, sum) in self.buckets() {
            bytes.push(bucket);
            bytes.extend_from_slice(&sum.to_le_bytes());
        }
        format!("{VERSION}:{}", STANDARD_NO_PAD.encode(bytes))
    }

    /// Inverse to [`Sums::to_tag`]; `None` for any other text, as that of another version.
    pub(crate) fn from_tag(text: &str) -> Option<Sums> {
        let (version, sums) = text.split_once(':')?;
        if version != VERSION.to_string() {
            return None;
        }
        let bytes = STANDARD_NO_PAD.decode(sums).ok()?;
        let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        let mut found = Sums::default();
        let mut last = None;
        for [bucket, sum @ ..] in entries {
            let sum = u128::from_le_bytes(*sum);
            if sum == 0 || last >= Some(*bucket) {
                return None;
            }
            last = Some(*bucket);
            found.add_to(*bucket, sum);
        }
        rest.is_empty().then_some(found)
    }

    fn has(&self, bucket: u8) -> bool {
        self.present[usize::from(bucket >> 6)] >> (bucket & 63) & 1 != 0
    }

    /// How many buckets before this one are there.
    #[inline]
    fn rank(&self, bucket: u8) -> usize {
        let word = usize::from(bucket >> 6);
        let below = (1 << (bucket & 63)) - 1;
        usize::from(self.before[word]) + (self.present[word] & below).count_ones() as usize
    }

    #[inline]
    fn flip(&mut self, bucket: u8) {
        self.present[usize::from(bucket >> 6)] ^= 1 << (bucket & 63);
        for word in 1..4 {
            // At most 192.
            self.before[word] = self.before[word - 1] + self.present[word - 1].count_ones() as u8;
        }
    }

    #[inline]
    fn add_to(&mut self, bucket: u8, value: u128) {
        let rank = self.rank(bucket);
        if self.has(bucket) {
            let sum = &mut self.sums[rank];
            *sum = sum.wrapping_add(value);
            if *sum == 0 {
                self.sums.remove(rank);
                self.flip(bucket);
            }
        } else if value != 0 {
            self.sums.insert(rank, value);
            self.flip(bucket);
        }
    }
}

impl fmt::Debug for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |(bucket, sum)| (bucket, format!("{sum:032x}"));
        f.debug_map().entries(self.buckets().map(hex)).finish()
    }
}

impl From<Sums> for String {
    fn from(sums: Sums) -> Self {
        sums.to_tag()
    }
}

impl TryFrom<String> for Sums {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Sums::from_tag(&text).ok_or_else(|| format!("{text:?} are no sums of fingerprints"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Few buckets and small diffs, so that sums cancel.
    fn updates() -> impl Strategy<Value = Vec<(u128, i64)>> {
        let hash = (0..4u128, 0..3u128).prop_map(|(bucket, rest)| (bucket * 85) << 120 | rest);
        let hash = prop_oneof![4 => hash, 1 => any::<u128>()];
        prop::collection::vec((hash, prop_oneof![8 => -2..3i64, 1 => any::<i64>()]), 0..40)
    }

    fn sums(updates: &[(u128, i64)]) -> Sums {
        let mut sums = Sums::default();
        for (hash, diff) in updates {
            sums.add(*hash, *diff);
        }
        sums
    }

    proptest! {
        #[test]
        fn sums_are_those_of_a_map(updates in updates()) {
            let mut model: BTreeMap<u8, u128> = BTreeMap::new();
            for (hash, diff) in &updates {
                let sum = model.entry(bucket(*hash)).or_default();
                *sum = sum.wrapping_add(hash.wrapping_mul(*diff as u128));
            }
            let expected: Vec<_> = model.into_iter().filter(|(_, sum)| *sum != 0).collect();
            let sums = sums(&updates);
            prop_assert_eq!(sums.buckets().collect::<Vec<_>>(), expected);
            for (bucket, sum) in sums.buckets() {
                prop_assert_eq!(sums.get(bucket), sum);
            }
        }

        #[test]
        fn sums_are_linear(a in updates(), b in updates()) {
            let both = [a.clone(), b.clone()].concat();
            let mut merged = sums(&a);
            merged.merge(&sums(&b));
            prop_assert_eq!(&merged, &sums(&both));
            merged.subtract(&sums(&b));
            prop_assert_eq!(&merged, &sums(&a));
            merged.subtract(&sums(&a));
            prop_assert!(merged.is_zero());
            prop_assert_eq!(merged, Sums::default());
        }

        #[test]
        fn tags_round_trip(updates in updates()) {
            let sums = sums(&updates);
            prop_assert_eq!(Sums::from_tag(&sums.to_tag()), Some(sums.clone()));
            let json = serde_json::to_string(&sums).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sums>(&json).unwrap(), sums);
        }

        #[test]
        fn damaged_tags_are_none_or_sums(text in "[0-9]{0,2}:?[A-Za-z0-9+/=]{0,60}") {
            if let Some(sums) = Sums::from_tag(&text) {
                prop_assert_eq!(sums.to_tag(), text);
            }
        }
    }

    #[test]
    fn what_is_no_tag_is_none() {
        let sums = sums(&[(7, 1), (u128::MAX, 1)]);
        let tag = sums.to_tag();
        assert!(tag.starts_with("1:"), "{tag}");
        let entries = |list: &[(u8, u128)]| {
            let bytes: Vec<u8> = list
                .iter()
                .flat_map(|(bucket, sum)| [&[*bucket][..], &sum.to_le_bytes()].concat())
                .collect();
            format!("1:{}", STANDARD_NO_PAD.encode(bytes))
        };
        assert!(Sums::from_tag(&entries(&[(1, 5), (2, 5)])).is_some());
        for bad in [
            "".to_owned(),
            "1".into(),
            tag.replace("1:", "2:"),
            tag[..tag.len() - 1].to_owned(),
            entries(&[(2, 5), (1, 5)]),
            entries(&[(1, 5), (1, 5)]),
            entries(&[(1, 0)]),
        ] {
            assert_eq!(Sums::from_tag(&bad), None, "{bad}");
        }
    }
}
