//! What sinks and sources count, for their handles and for Prometheus.
//!
//! Every sink and source has one [`Metrics`] in each process, which all its workers there share. To count is to add
//! to an atomic; nothing else happens until somebody looks. A [`Counters`] is what they say at a moment; with the
//! feature `prometheus` a context gives them to its host's registry, also those of sinks and sources that have ended.

#[cfg(feature = "prometheus")]
pub(crate) mod observed;
#[cfg(feature = "prometheus")]
pub(crate) mod prometheus;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::channel::Meter;

/// What only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What several workers hold together.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A worker that held `before` holds `now`. Wrapping: what workers add and take back may arrive in any order.
    fn change(&self, before: u64, now: u64) {
        self.0
            .fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }
}

/// What one worker's corrections hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Updates, some of which may yet cancel.
    pub(crate) updates: u64,
    /// Bytes in memory, about.
    pub(crate) bytes: u64,
    /// Bytes on disk.
    pub(crate) spilled_bytes: u64,
}

/// The size of one worker's corrections, and its share of what all hold; taken back when it is dropped.
#[derive(Debug)]
pub(crate) struct Size {
    metrics: Arc<Metrics>,
    held: Mutex<Held>,
}

impl Size {
    /// Of empty corrections.
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Arc<Self> {
        metrics.stores.change(0, 1);
        Arc::new(Size {
            metrics: Arc::clone(metrics),
            held: Mutex::default(),
        })
    }

    /// This worker's corrections hold so much now.
    pub(crate) fn set(&self, now: Held) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *held, now);
        let metrics = &self.metrics;
        metrics.corrections.change(before.updates, now.updates);
        metrics.corrections_bytes.change(before.bytes, now.bytes);
        metrics
            .corrections_spilled_bytes
            .change(before.spilled_bytes, now.spilled_bytes);
    }

    /// What is held.
    pub(crate) fn get(&self) -> Held {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Size {
    fn drop(&mut self) {
        self.set(Held::default());
        self.metrics.stores.change(1, 0);
    }
}

/// The bounds, in seconds, that latencies are counted by.
const LATENCY_BOUNDS_S: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// How long something took, each time.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// How many were at most each bound and beyond the one before, and how many beyond all.
    counts: [AtomicU64; LATENCY_BOUNDS_S.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = LATENCY_BOUNDS_S.partition_point(|bound| *bound < seconds);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn get(&self) -> Latencies {
        let mut count = 0;
        let mut at_most = Vec::with_capacity(LATENCY_BOUNDS_S.len());
        for (bound, counted) in LATENCY_BOUNDS_S.iter().zip(&self.counts) {
            count += counted.load(Ordering::Relaxed);
            at_most.push((*bound, count));
        }
        count += self.counts[LATENCY_BOUNDS_S.len()].load(Ordering::Relaxed);
        Latencies {
            count,
            sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)),
            at_most,
        }
    }
}

/// What the workers of one process count of one sink or source.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) updates_in: Counter,
    pub(crate) updates_out: Counter,
    pub(crate) corrections: Gauge,
    pub(crate) corrections_bytes: Gauge,
    pub(crate) corrections_spilled_bytes: Gauge,
    /// The workers that have corrections.
    pub(crate) stores: Gauge,
    pub(crate) batches_minted: Counter,
    pub(crate) batches_written: Counter,
    pub(crate) batches_committed: Counter,
    pub(crate) batches_lost: Counter,
    pub(crate) files_staged: Counter,
    pub(crate) bytes_staged: Counter,
    pub(crate) files_deleted: Counter,
    pub(crate) files_swept: Counter,
    pub(crate) bytes_swept: Counter,
    pub(crate) rows_verified: Counter,
    pub(crate) rows_diffed: Counter,
    pub(crate) rows_read_back: Counter,
    pub(crate) buckets_verified: Counter,
    pub(crate) buckets_differing: Counter,
    pub(crate) data_files_read: Counter,
    pub(crate) own_commits_read_back: Counter,
    pub(crate) undecodable_files: Counter,
    pub(crate) undecodable_rows: Counter,
    pub(crate) damaged_files: Counter,
    pub(crate) commits: Histogram,
    /// The frontier of the input, as mint last saw it.
    desired: AtomicI64,
    /// What was known of the shard when its sink or source was gone.
    #[cfg(feature = "prometheus")]
    known: Mutex<Option<observed::Known>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            updates_in: Counter::default(),
            updates_out: Counter::default(),
            corrections: Gauge::default(),
            corrections_bytes: Gauge::default(),
            corrections_spilled_bytes: Gauge::default(),
            stores: Gauge::default(),
            batches_minted: Counter::default(),
            batches_written: Counter::default(),
            batches_committed: Counter::default(),
            batches_lost: Counter::default(),
            files_staged: Counter::default(),
            bytes_staged: Counter::default(),
            files_deleted: Counter::default(),
            files_swept: Counter::default(),
            bytes_swept: Counter::default(),
            rows_verified: Counter::default(),
            rows_diffed: Counter::default(),
            rows_read_back: Counter::default(),
            buckets_verified: Counter::default(),
            buckets_differing: Counter::default(),
            data_files_read: Counter::default(),
            own_commits_read_back: Counter::default(),
            undecodable_files: Counter::default(),
            undecodable_rows: Counter::default(),
            damaged_files: Counter::default(),
            commits: Histogram::default(),
            desired: AtomicI64::new(i64::MIN),
            #[cfg(feature = "prometheus")]
            known: Mutex::default(),
        }
    }
}

impl Metrics {
    /// The frontier of the input is at this time now.
    pub(crate) fn desired(&self, time: i64) {
        self.desired.store(time, Ordering::Relaxed);
    }

    /// This was known of the shard at the end.
    #[cfg(feature = "prometheus")]
    pub(crate) fn remember(&self, known: Option<observed::Known>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// What was known of the shard at the end.
    #[cfg(feature = "prometheus")]
    pub(crate) fn known(&self) -> Option<observed::Known> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What they say now, of a sink whose shard has this upper and whose queues hold so much.
    pub(crate) fn counters(&self, upper: Option<i64>, queues: &Meter) -> Counters {
        let desired = self.desired.load(Ordering::Relaxed);
        let lag = upper
            .filter(|_| desired != i64::MIN)
            .map(|upper| u64::try_from(desired.saturating_sub(upper)).unwrap_or(0));
        Counters {
            updates_in: self.updates_in.get(),
            updates_out: self.updates_out.get(),
            corrections: self.corrections.get(),
            corrections_bytes: self.corrections_bytes.get(),
            corrections_spilled_bytes: self.corrections_spilled_bytes.get(),
            batches_minted: self.batches_minted.get(),
            batches_written: self.batches_written.get(),
            batches_committed: self.batches_committed.get(),
            batches_lost: self.batches_lost.get(),
            files_staged: self.files_staged.get(),
            bytes_staged: self.bytes_staged.get(),
            files_deleted: self.files_deleted.get(),
            files_swept: self.files_swept.get(),
            bytes_swept: self.bytes_swept.get(),
            rows_verified: self.rows_verified.get(),
            rows_diffed: self.rows_diffed.get(),
            rows_read_back: self.rows_read_back.get(),
            buckets_verified: self.buckets_verified.get(),
            buckets_differing: self.buckets_differing.get(),
            data_files_read: self.data_files_read.get(),
            own_commits_read_back: self.own_commits_read_back.get(),
            undecodable_files: self.undecodable_files.get(),
            undecodable_rows: self.undecodable_rows.get(),
            damaged_files: self.damaged_files.get(),
            commits: self.commits.get(),
            queued_updates: queues.updates() as u64,
            queued_bytes: queues.bytes() as u64,
            frontier_lag: lag,
        }
    }
}

/// What the workers of this process have counted of one sink or source.
///
/// A restart over a shard that holds what it should verifies all rows and reads none; a sink that runs never reads
/// back what it wrote itself.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Updates of the collection that arrived.
    pub updates_in: u64,
    /// Updates that were staged to be committed.
    pub updates_out: u64,
    /// Updates that the corrections hold now.
    pub corrections: u64,
    /// About their bytes in memory, with what rows own on the heap if the sink has a budget.
    pub corrections_bytes: u64,
    /// Their bytes on disk.
    pub corrections_spilled_bytes: u64,
    /// Batches that were decided on; each is counted by the worker that minted it.
    pub batches_minted: u64,
    /// Parts of batches that were staged, empty ones included: one for each worker and batch.
    pub batches_written: u64,
    /// Batches that were committed; each is counted by the worker that committed it.
    pub batches_committed: u64,
    /// Batches that a rival's commit came before.
    pub batches_lost: u64,
    /// Files that were staged.
    pub files_staged: u64,
    /// Their bytes, encoded.
    pub bytes_staged: u64,
    /// Staged files that were deleted again, since their batch was lost.
    pub files_deleted: u64,
    /// Staged files that somebody had left behind in the shard, and that this process found and deleted.
    pub files_swept: u64,
    /// Their bytes.
    pub bytes_swept: u64,
    /// Rows of the collection that the shard was found to hold by the sums of their fingerprints.
    pub rows_verified: u64,
    /// Rows of the collection whose sums were others than the shard's: they were compared one by one.
    pub rows_diffed: u64,
    /// Updates that were read from data files.
    pub rows_read_back: u64,
    /// Buckets of fingerprints, 256 in all, that were the same at the start.
    pub buckets_verified: u64,
    /// Buckets of fingerprints that were not.
    pub buckets_differing: u64,
    /// How often a data file was read.
    pub data_files_read: u64,
    /// Commits of the sink's own that it read like anybody's: 0, but for the flag that asks for it.
    pub own_commits_read_back: u64,
    /// Files of the shard with rows that the types cannot hold, as other programs write them: a view removes such a
    /// file, and adds back what belongs to the collection.
    pub undecodable_files: u64,
    /// Those rows; of a file that cannot be read at all they are not known, and not counted.
    pub undecodable_rows: u64,
    /// Files of the shard that are missing, or are not what the log says: a view removes such a file from the log, and
    /// writes its rows again.
    pub damaged_files: u64,
    /// How long the commits took, lost ones included, of batches whose files were all staged.
    pub commits: Latencies,
    /// Updates that wait in the queues to the tasks now.
    pub queued_updates: u64,
    /// Their bytes, without what rows own on the heap.
    pub queued_bytes: u64,
    /// How far the shard's upper is behind the collection's frontier, in units of time; `None` before both are
    /// known, or where this process does not mint.
    pub frontier_lag: Option<u64>,
}

#[cfg(feature = "prometheus")]
impl Counters {
    /// Adds what was counted before in the same place: of what only grows, not of what is held now.
    fn go_on_from(&mut self, before: &Counters) {
        self.updates_in += before.updates_in;
        self.updates_out += before.updates_out;
        self.batches_minted += before.batches_minted;
        self.batches_written += before.batches_written;
        self.batches_committed += before.batches_committed;
        self.batches_lost += before.batches_lost;
        self.files_staged += before.files_staged;
        self.bytes_staged += before.bytes_staged;
        self.files_deleted += before.files_deleted;
        self.files_swept += before.files_swept;
        self.bytes_swept += before.bytes_swept;
        self.rows_verified += before.rows_verified;
        self.rows_diffed += before.rows_diffed;
        self.rows_read_back += before.rows_read_back;
        self.buckets_verified += before.buckets_verified;
        self.buckets_differing += before.buckets_differing;
        self.data_files_read += before.data_files_read;
        self.own_commits_read_back += before.own_commits_read_back;
        self.undecodable_files += before.undecodable_files;
        self.undecodable_rows += before.undecodable_rows;
        self.damaged_files += before.damaged_files;
        self.commits.count += before.commits.count;
        self.commits.sum += before.commits.sum;
        let bounds = self.commits.at_most.iter_mut().zip(&before.commits.at_most);
        bounds.for_each(|((_, count), (_, more))| *count += more);
    }
}

/// How long something took, each time.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Latencies {
    /// How often it happened.
    pub count: u64,
    /// How long it took in all.
    pub sum: Duration,
    /// Pairs of a bound in seconds, and how many took at most that.
    pub at_most: Vec<(f64, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(metrics: &Metrics) -> Counters {
        metrics.counters(None, &Meter::default())
    }

    #[test]
    fn sizes_add_up_and_are_taken_back() {
        let metrics = Arc::<Metrics>::default();
        let (one, other) = (Size::new(&metrics), Size::new(&metrics));
        let held = |updates, bytes, spilled_bytes| Held {
            updates,
            bytes,
            spilled_bytes,
        };
        let all = || {
            let counters = counters(&metrics);
            held(
                counters.corrections,
                counters.corrections_bytes,
                counters.corrections_spilled_bytes,
            )
        };
        one.set(held(5, 50, 500));
        other.set(held(7, 70, 0));
        one.set(held(2, 20, 0));
        assert_eq!(all(), held(9, 90, 0));
        one.set(held(3, 30, 300));
        assert_eq!((all(), metrics.stores.get()), (held(10, 100, 300), 2));
        drop(other);
        assert_eq!((all(), one.get()), (held(3, 30, 300), held(3, 30, 300)));
        drop(one);
        assert_eq!((all(), metrics.stores.get()), (Held::default(), 0));
    }

    #[test]
    fn latencies_are_counted_up_to_their_bounds() {
        let histogram = Histogram::default();
        for ms in [0, 1, 2, 300, 60_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let latencies = histogram.get();
        assert_eq!(latencies.count, 5);
        assert_eq!(latencies.sum, Duration::from_millis(60_303));
        let at_most = |bound: f64| {
            let bounds = latencies.at_most.iter();
            bounds.clone().find(|(at, _)| *at == bound).unwrap().1
        };
        // A bound counts what is equal to it.
        assert_eq!(
            (at_most(0.000_5), at_most(0.001), at_most(0.002_5)),
            (1, 2, 3)
        );
        assert_eq!((at_most(0.25), at_most(0.5), at_most(10.0)), (3, 4, 4));
    }

    #[test]
    fn the_lag_is_known_once_both_frontiers_are() {
        let metrics = Metrics::default();
        assert_eq!(
            metrics.counters(Some(3), &Meter::default()).frontier_lag,
            None
        );
        metrics.desired(7);
        assert_eq!(counters(&metrics).frontier_lag, None);
        assert_eq!(
            metrics.counters(Some(3), &Meter::default()).frontier_lag,
            Some(4)
        );
        // A rival may be ahead.
        assert_eq!(
            metrics.counters(Some(9), &Meter::default()).frontier_lag,
            Some(0)
        );
    }
}
