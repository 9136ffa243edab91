//! How updates come to the worker of their bucket.
//!
//! ```text
//!   mint, where they arise ── Routed: updates of one target, and their hashes ──▶ write, on the target
//! ```
//!
//! An update is hashed once, where it arises: there its row is at hand, while a task on another core would have to fetch
//! it. One worker has all buckets, so that it routes nothing; then write's task hashes, off Timely's thread.

use serde::{Deserialize, Serialize};
use timely::dataflow::channels::pact::Exchange;

use crate::bounds::{Data, Diff, Fingerprinter, Timestamp, bucket, high_bits};

/// Updates that travel together: enough to make what travels with them vanish, few enough to stay in a core's cache.
const ROUTED_MAX: usize = 1024;

/// The worker of a bucket.
pub(crate) fn target(bucket: u8, peers: usize) -> usize {
    usize::from(bucket) % peers
}

/// Updates for one worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Routed<D, T, R> {
    target: usize,
    pub(crate) updates: Vec<(D, T, R)>,
    /// The fingerprints of their data; none if nobody has needed them yet.
    pub(crate) hashes: Vec<u128>,
}

impl<D, T, R> Routed<D, T, R> {
    /// Updates that are where they belong, and were not hashed.
    pub(crate) fn here(updates: Vec<(D, T, R)>) -> Self {
        Routed {
            target: 0,
            updates,
            hashes: Vec::new(),
        }
    }

    fn to(target: usize) -> Self {
        Routed {
            target,
            ..Routed::here(Vec::new())
        }
    }

    /// The bytes held, without what the rows point to.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.updates) + size_of_val(&*self.hashes)
    }
}

/// How they travel.
pub(crate) type ByTarget<D, T, R> = Exchange<Routed<D, T, R>, fn(&Routed<D, T, R>) -> u64>;

/// Sends each to its target.
pub(crate) fn by_target<D: Data, T: Timestamp, R: Diff>() -> ByTarget<D, T, R> {
    let target: fn(&Routed<D, T, R>) -> u64 = |routed| routed.target as u64;
    Exchange::new(target)
}

/// Finds the targets of updates.
pub(crate) struct Router<D, T, R> {
    fingerprinter: Fingerprinter<D>,
    /// What has gathered for each target.
    gathered: Vec<Routed<D, T, R>>,
}

impl<D: Data, T, R> Router<D, T, R> {
    /// For so many workers, by these fingerprints.
    pub(crate) fn new(peers: usize, fingerprinter: Fingerprinter<D>) -> Self {
        Router {
            fingerprinter,
            gathered: (0..peers).map(Routed::to).collect(),
        }
    }

    /// Sends all updates of these containers.
    pub(crate) fn route<'a>(
        &mut self,
        containers: impl Iterator<Item = &'a mut Vec<(D, T, R)>>,
        mut send: impl FnMut(Routed<D, T, R>),
    ) where
        D: 'a,
        T: 'a,
        R: 'a,
    {
        let peers = self.gathered.len();
        if peers == 1 {
            return containers.for_each(|updates| send(Routed::here(std::mem::take(updates))));
        }
        for updates in containers {
            for update in updates.drain(..) {
                let fingerprint = self.fingerprinter.take(&update.0);
                let target = target(bucket(high_bits(fingerprint)), peers);
                let gathered = &mut self.gathered[target];
                gathered.updates.push(update);
                gathered.hashes.push(fingerprint);
                if gathered.updates.len() == ROUTED_MAX {
                    let full = std::mem::replace(gathered, Routed::to(target));
                    gathered.updates.reserve_exact(ROUTED_MAX);
                    gathered.hashes.reserve_exact(ROUTED_MAX);
                    send(full);
                }
            }
        }
        for (target, gathered) in self.gathered.iter_mut().enumerate() {
            let rest = std::mem::replace(gathered, Routed::to(target));
            if !rest.updates.is_empty() {
                send(rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::Buckets;

    type Update = (u64, u64, i64);

    fn fingerprinter() -> Fingerprinter<u64> {
        Fingerprinter::of_rows(&mvsink_persist::Codec::<u64, String>::new().unwrap())
    }

    fn routed(peers: usize, containers: &[Vec<Update>]) -> Vec<Routed<u64, u64, i64>> {
        let mut router = Router::new(peers, fingerprinter());
        let (mut containers, mut sent) = (containers.to_vec(), Vec::new());
        router.route(containers.iter_mut(), |routed| sent.push(routed));
        sent
    }

    #[test]
    fn each_update_goes_where_its_bucket_is_with_its_hash() {
        let containers = [0..5000, 5000..5010].map(|rows| rows.map(|row| (row, 7, 1)).collect());
        for peers in [2, 3, 4, 7, 300] {
            let sent = routed(peers, &containers);
            assert!(sent.len() <= peers + 5010 / ROUTED_MAX, "{}", sent.len());
            for routed in &sent {
                let each = size_of::<Update>() + size_of::<u128>();
                assert_eq!(routed.bytes(), routed.updates.len() * each);
                let mine = Buckets::of_worker(routed.target, peers);
                assert_eq!(routed.updates.len(), routed.hashes.len());
                assert!((1..=ROUTED_MAX).contains(&routed.updates.len()));
                for ((row, ..), hash) in routed.updates.iter().zip(&routed.hashes) {
                    assert_eq!(*hash, fingerprinter().take(row));
                    assert!(mine.contains(bucket(high_bits(*hash))));
                }
            }
            let mut updates: Vec<Update> = sent.into_iter().flat_map(|sent| sent.updates).collect();
            updates.sort_unstable();
            assert_eq!(updates, containers.concat(), "{peers} workers");
        }
    }

    #[test]
    fn one_worker_hashes_and_moves_nothing() {
        let containers = [vec![(1, 7, 1), (2, 7, 1)], vec![(3, 7, 1)]];
        let sent = routed(1, &containers);
        assert_eq!(sent.len(), 2);
        for (sent, container) in sent.iter().zip(&containers) {
            assert_eq!(&sent.updates, container);
            assert!(sent.hashes.is_empty());
        }
    }
}
