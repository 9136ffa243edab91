//! The counters of all sinks and sources of a context, as Prometheus wants them: a prefix, base units, `_total` for
//! what only grows, and as labels the sink's name and its address in its worker's dataflows, since names may repeat.

use std::collections::HashMap;
use std::fmt;

use prometheus::core::{Collector as Collect, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::{Counters, Latencies};

/// What a family holds.
#[derive(Clone, Copy)]
enum Value {
    Counter(fn(&Counters) -> u64),
    /// `None` where it is not known.
    Gauge(fn(&Counters) -> Option<u64>),
    Histogram(fn(&Counters) -> &Latencies),
}

struct Family {
    name: &'static str,
    help: &'static str,
    value: Value,
}

const fn family(name: &'static str, help: &'static str, value: Value) -> Family {
    Family { name, help, value }
}

const FAMILIES: &[Family] = &[
    family(
        "mvsink_updates_in_total",
        "updates of the collection that arrived",
        Value::Counter(|counters| counters.updates_in),
    ),
    family(
        "mvsink_updates_out_total",
        "updates that were staged to be committed",
        Value::Counter(|counters| counters.updates_out),
    ),
    family(
        "mvsink_corrections_updates",
        "updates that the corrections hold",
        Value::Gauge(|counters| Some(counters.corrections)),
    ),
    family(
        "mvsink_corrections_bytes",
        "bytes of the corrections in memory, about",
        Value::Gauge(|counters| Some(counters.corrections_bytes)),
    ),
    family(
        "mvsink_corrections_spilled_bytes",
        "bytes of the corrections on disk",
        Value::Gauge(|counters| Some(counters.corrections_spilled_bytes)),
    ),
    family(
        "mvsink_batches_minted_total",
        "batches that were decided on",
        Value::Counter(|counters| counters.batches_minted),
    ),
    family(
        "mvsink_batches_written_total",
        "parts of batches that were staged, empty ones included",
        Value::Counter(|counters| counters.batches_written),
    ),
    family(
        "mvsink_batches_committed_total",
        "batches that were committed",
        Value::Counter(|counters| counters.batches_committed),
    ),
    family(
        "mvsink_batches_lost_total",
        "batches that a rival's commit came before",
        Value::Counter(|counters| counters.batches_lost),
    ),
    family(
        "mvsink_files_staged_total",
        "files that were staged",
        Value::Counter(|counters| counters.files_staged),
    ),
    family(
        "mvsink_staged_bytes_total",
        "bytes of the files that were staged",
        Value::Counter(|counters| counters.bytes_staged),
    ),
    family(
        "mvsink_files_deleted_total",
        "staged files that were deleted, since their batch was lost",
        Value::Counter(|counters| counters.files_deleted),
    ),
    family(
        "mvsink_files_swept_total",
        "files that somebody had left behind, and that were deleted",
        Value::Counter(|counters| counters.files_swept),
    ),
    family(
        "mvsink_swept_bytes_total",
        "bytes of the files that somebody had left behind",
        Value::Counter(|counters| counters.bytes_swept),
    ),
    family(
        "mvsink_rows_verified_total",
        "rows of the collection that the shard was found to hold by fingerprints",
        Value::Counter(|counters| counters.rows_verified),
    ),
    family(
        "mvsink_rows_diffed_total",
        "rows of the collection that were compared one by one with the shard's",
        Value::Counter(|counters| counters.rows_diffed),
    ),
    family(
        "mvsink_rows_read_back_total",
        "updates that were read from data files",
        Value::Counter(|counters| counters.rows_read_back),
    ),
    family(
        "mvsink_data_files_read_total",
        "how often a data file was read",
        Value::Counter(|counters| counters.data_files_read),
    ),
    family(
        "mvsink_own_commits_read_back_total",
        "commits of the sink's own that it read like anybody's",
        Value::Counter(|counters| counters.own_commits_read_back),
    ),
    family(
        "mvsink_undecodable_files_total",
        "files of the shard with rows that the types cannot hold",
        Value::Counter(|counters| counters.undecodable_files),
    ),
    family(
        "mvsink_undecodable_rows_total",
        "rows of the shard that the types cannot hold",
        Value::Counter(|counters| counters.undecodable_rows),
    ),
    family(
        "mvsink_queued_updates",
        "updates that wait in the queues to the tasks",
        Value::Gauge(|counters| Some(counters.queued_updates)),
    ),
    family(
        "mvsink_queued_bytes",
        "bytes of the updates that wait, without what rows own on the heap",
        Value::Gauge(|counters| Some(counters.queued_bytes)),
    ),
    family(
        "mvsink_commit_seconds",
        "how long commits took, lost ones included",
        Value::Histogram(|counters| &counters.commits),
    ),
    family(
        "mvsink_frontier_lag",
        "how far the shard's upper is behind the collection's frontier, in units of time",
        Value::Gauge(|counters| counters.frontier_lag),
    ),
];

/// Which sink or source it is.
const LABELS: [&str; 2] = ["sink", "address"];

/// The values of [`LABELS`], and what is counted.
pub(crate) type Counted = ([String; 2], Counters);

/// Gives what `counters` says of each sink and source.
pub(crate) struct Collector<F> {
    descriptions: Vec<Desc>,
    counters: F,
}

impl<F> Collector<F> {
    pub(crate) fn new(counters: F) -> prometheus::Result<Self> {
        let description = |family: &Family| {
            Desc::new(
                family.name.to_owned(),
                family.help.to_owned(),
                LABELS.map(str::to_owned).to_vec(),
                HashMap::new(),
            )
        };
        Ok(Collector {
            descriptions: FAMILIES
                .iter()
                .map(description)
                .collect::<prometheus::Result<_>>()?,
            counters,
        })
    }
}

impl<F> fmt::Debug for Collector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

impl<F: Fn() -> Vec<Counted> + Send + Sync> Collect for Collector<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sinks = (self.counters)();
        FAMILIES
            .iter()
            .map(|family| {
                let mut collected = MetricFamily::default();
                collected.set_name(family.name.to_owned());
                collected.set_help(family.help.to_owned());
                collected.set_field_type(match family.value {
                    Value::Counter(_) => MetricType::COUNTER,
                    Value::Gauge(_) => MetricType::GAUGE,
                    Value::Histogram(_) => MetricType::HISTOGRAM,
                });
                let metrics = sinks
                    .iter()
                    .filter_map(|(labels, counters)| metric(family.value, labels, counters));
                collected.set_metric(metrics.collect());
                collected
            })
            .collect()
    }
}

fn metric(value: Value, labels: &[String; 2], counters: &Counters) -> Option<Metric> {
    let pair = |(name, value): (&str, &String)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.clone());
        pair
    };
    let mut metric = Metric::default();
    metric.set_label(LABELS.into_iter().zip(labels).map(pair).collect());
    match value {
        Value::Counter(of) => {
            let mut counter = Counter::default();
            counter.set_value(of(counters) as f64);
            metric.set_counter(counter);
        }
        Value::Gauge(of) => {
            let mut gauge = Gauge::default();
            gauge.set_value(of(counters)? as f64);
            metric.set_gauge(gauge);
        }
        Value::Histogram(of) => {
            let latencies = of(counters);
            let bucket = |(bound, count): &(f64, u64)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(*count);
                bucket
            };
            let mut histogram = Histogram::default();
            histogram.set_sample_count(latencies.count);
            histogram.set_sample_sum(latencies.sum.as_secs_f64());
            histogram.set_bucket(latencies.at_most.iter().map(bucket).collect());
            metric.set_histogram(histogram);
        }
    }
    Some(metric)
}
