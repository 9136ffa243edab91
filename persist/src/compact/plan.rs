//! Which files to merge: a pure function of their sizes.
//!
//! ```text
//!   run      what one merge wrote, or a file that none did; its size is that of its files
//!   tier     0 below the floor, then 1 + ⌊log_fan_in(size / floor)⌋
//!   due      the runs of a tier that has fan_in of them or more
//! ```
//!
//! Invariants, for sizes that merging does not make larger:
//!
//! - *ends*: each merge leaves fewer runs, so repeating it comes to rest;
//! - *few at rest*: no tier has `fan_in` runs, so there are fewer than `fan_in` below the floor;
//! - *O(n log n)*: merged runs of a tier (but the lowest) are of the next tier, unless rows cancel; so a row is
//!   rewritten about once a tier.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::compact::CompactOptions;
use crate::data_file::{DataFile, bytes_of};
use crate::merge::run_of;

/// Files that are to become one run.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) files: Vec<Arc<DataFile>>,
}

/// The tier of a run of `size` bytes.
fn tier(size: u64, options: &CompactOptions) -> u32 {
    let fan_in = options.fan_in.max(2) as u64;
    let mut bound = options.size_floor_bytes.max(1);
    let mut tier = 0;
    while size >= bound {
        tier += 1;
        match bound.checked_mul(fan_in) {
            Some(next) => bound = next,
            None => break,
        }
    }
    tier
}

/// The runs to merge, by their sizes: each item becomes one.
fn due(sizes: &[u64], options: &CompactOptions) -> Vec<Vec<usize>> {
    let mut tiers: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (run, size) in sizes.iter().enumerate() {
        tiers.entry(tier(*size, options)).or_default().push(run);
    }
    tiers
        .into_values()
        .filter(|runs| runs.len() >= options.fan_in.max(2))
        .collect()
}

/// The merges that are due. Times below `since` are going to be taken to it.
pub(crate) fn plan<'a>(
    files: impl Iterator<Item = &'a Arc<DataFile>>,
    since: i64,
    options: &CompactOptions,
) -> Vec<Planned> {
    let mut runs: BTreeMap<&str, Vec<Arc<DataFile>>> = BTreeMap::new();
    for file in files {
        let run = run_of(file).map_or(file.path.as_str(), |(run, _)| run);
        runs.entry(run).or_default().push(Arc::clone(file));
    }
    let mut runs: Vec<Vec<_>> = runs.into_values().collect();
    if options.full {
        let gains = |file: &Arc<DataFile>| {
            // What has been merged up to the since has no earlier times.
            !file.sorted || file.sums.is_none() || file.min_time.is_none_or(|min| min < since)
        };
        return if runs.len() > 1 || runs.iter().flatten().any(gains) {
            vec![Planned {
                files: runs.into_iter().flatten().collect(),
            }]
        } else {
            Vec::new()
        };
    }
    let sizes: Vec<u64> = runs.iter().map(bytes_of).collect();
    due(&sizes, options)
        .into_iter()
        .map(|indices| Planned {
            files: indices
                .into_iter()
                .flat_map(|run| std::mem::take(&mut runs[run]))
                .collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options(floor: u64, fan_in: usize) -> CompactOptions {
        CompactOptions {
            size_floor_bytes: floor,
            fan_in,
            ..CompactOptions::default()
        }
    }

    /// Merges until nothing is due; what cancels is `shrink` percent. Returns the bytes read.
    fn rest(sizes: &mut Vec<u64>, options: &CompactOptions, shrink: u64) -> u64 {
        let mut read = 0;
        loop {
            let merges = due(sizes, options);
            if merges.is_empty() {
                return read;
            }
            let before = sizes.len();
            let mut left: Vec<Option<u64>> = sizes.iter().copied().map(Some).collect();
            let mut written = Vec::new();
            for merge in merges {
                let size: u64 = merge.into_iter().filter_map(|run| left[run].take()).sum();
                read += size;
                written.push(size * (100 - shrink) / 100);
            }
            *sizes = left.into_iter().flatten().chain(written).collect();
            assert!(sizes.len() < before, "every merge leaves fewer runs");
        }
    }

    proptest! {
        #[test]
        fn merging_comes_to_rest(
            mut sizes in prop::collection::vec(0..10_000_000u64, 0..200),
            floor in prop_oneof![Just(0), Just(1), 1..100_000u64],
            fan_in in 0..10usize,
            shrink in 0..=100u64,
        ) {
            let options = options(floor, fan_in);
            rest(&mut sizes, &options, shrink);
            let mut tiers: BTreeMap<u32, usize> = BTreeMap::new();
            for size in &sizes {
                *tiers.entry(tier(*size, &options)).or_default() += 1;
            }
            prop_assert!(tiers.values().all(|runs| *runs < fan_in.max(2)), "{tiers:?}");
            let small = sizes.iter().filter(|size| **size < floor).count();
            prop_assert!(small < fan_in.max(2));
        }
    }

    #[test]
    fn tiers_grow_by_the_fan_in() {
        let options = options(100, 4);
        let tiers = [0, 99, 100, 399, 400, 1599, 1600, u64::MAX].map(|size| tier(size, &options));
        assert_eq!(tiers[..7], [0, 0, 1, 1, 2, 2, 3]);
        assert!(tiers[7] > 20);
    }

    #[test]
    fn the_bytes_rewritten_over_n_appends_are_n_log_n() {
        let options = options(1000, 4);
        let rewritten = |appends: u64| {
            let mut sizes = Vec::new();
            let mut read = 0;
            for _ in 0..appends {
                sizes.push(1000);
                read += rest(&mut sizes, &options, 0);
            }
            read / 1000
        };
        for (appends, tiers) in [(256, 4), (1024, 5), (4096, 6), (16_384, 7)] {
            let read = rewritten(appends);
            assert!(read <= appends * tiers, "{appends}: {read}");
            // It is what it costs, not less by an accident of the test.
            assert!(read > appends * (tiers - 2), "{appends}: {read}");
        }
    }
}
