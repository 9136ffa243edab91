//! What is told of all sinks and sources of a context, as Prometheus wants it: a prefix, base units, `_total` for what
//! only grows, and as labels the name of the sink, or of the source, and its address in its worker's dataflows, since names
//! may repeat. A status is a set of series, one for each that there can be, of which one is 1.

use std::collections::HashMap;
use std::fmt;

use mvsink_persist::Frontier;
use prometheus::core::{Collector as Collect, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::observed::Observed;
use super::{Counters, Latencies};
use crate::instance::Kind;
use crate::status::Status;

/// What a family holds.
#[derive(Clone, Copy)]
enum Value {
    Counter(fn(&Counters) -> u64),
    /// `None` where it is not known.
    Gauge(fn(&Observed) -> Option<f64>),
    Histogram(fn(&Counters) -> &Latencies),
    Status,
}

struct Family {
    kind: Kind,
    name: &'static str,
    help: &'static str,
    value: Value,
}

const fn of_sink(name: &'static str, help: &'static str, value: Value) -> Family {
    let kind = Kind::Sink;
    Family {
        kind,
        name,
        help,
        value,
    }
}

const fn of_source(name: &'static str, help: &'static str, value: Value) -> Family {
    let kind = Kind::Source;
    Family {
        kind,
        name,
        help,
        value,
    }
}

const FAMILIES: &[Family] = &[
    of_sink(
        "mvsink_status",
        "1 for what the sink is doing, 0 for all else that it could do",
        Value::Status,
    ),
    of_sink(
        "mvsink_upper",
        "the time before which the shard is complete, durably; +Inf once it is finished",
        Value::Gauge(upper),
    ),
    of_sink(
        "mvsink_shard_files",
        "data files of the shard",
        Value::Gauge(|of| Some(of.shard?.files as f64)),
    ),
    of_sink(
        "mvsink_shard_bytes",
        "bytes of the shard's data files",
        Value::Gauge(|of| Some(of.shard?.bytes as f64)),
    ),
    of_sink(
        "mvsink_shard_rows",
        "rows of the shard's data files, updates that cancel included",
        Value::Gauge(|of| Some(of.shard?.rows as f64)),
    ),
    of_sink(
        "mvsink_updates_in_total",
        "updates of the collection that arrived",
        Value::Counter(|counters| counters.updates_in),
    ),
    of_sink(
        "mvsink_updates_out_total",
        "updates that were staged to be committed",
        Value::Counter(|counters| counters.updates_out),
    ),
    of_sink(
        "mvsink_corrections_updates",
        "updates that the corrections hold",
        Value::Gauge(|of| Some(of.counters.corrections as f64)),
    ),
    of_sink(
        "mvsink_corrections_bytes",
        "bytes of the corrections in memory, about",
        Value::Gauge(|of| Some(of.counters.corrections_bytes as f64)),
    ),
    of_sink(
        "mvsink_corrections_spilled_bytes",
        "bytes of the corrections on disk",
        Value::Gauge(|of| Some(of.counters.corrections_spilled_bytes as f64)),
    ),
    of_sink(
        "mvsink_batches_minted_total",
        "batches that were decided on",
        Value::Counter(|counters| counters.batches_minted),
    ),
    of_sink(
        "mvsink_batches_written_total",
        "parts of batches that were staged, empty ones included",
        Value::Counter(|counters| counters.batches_written),
    ),
    of_sink(
        "mvsink_batches_committed_total",
        "batches that were committed",
        Value::Counter(|counters| counters.batches_committed),
    ),
    of_sink(
        "mvsink_batches_lost_total",
        "batches that a rival's commit came before",
        Value::Counter(|counters| counters.batches_lost),
    ),
    of_sink(
        "mvsink_files_staged_total",
        "files that were staged",
        Value::Counter(|counters| counters.files_staged),
    ),
    of_sink(
        "mvsink_staged_bytes_total",
        "bytes of the files that were staged",
        Value::Counter(|counters| counters.bytes_staged),
    ),
    of_sink(
        "mvsink_files_deleted_total",
        "staged files that were deleted, since their batch was lost",
        Value::Counter(|counters| counters.files_deleted),
    ),
    of_sink(
        "mvsink_files_swept_total",
        "files that somebody had left behind, and that were deleted",
        Value::Counter(|counters| counters.files_swept),
    ),
    of_sink(
        "mvsink_swept_bytes_total",
        "bytes of the files that somebody had left behind",
        Value::Counter(|counters| counters.bytes_swept),
    ),
    of_sink(
        "mvsink_rows_verified_total",
        "rows of the collection that the shard was found to hold by fingerprints",
        Value::Counter(|counters| counters.rows_verified),
    ),
    of_sink(
        "mvsink_rows_diffed_total",
        "rows of the collection that were compared one by one with the shard's",
        Value::Counter(|counters| counters.rows_diffed),
    ),
    of_sink(
        "mvsink_rows_read_back_total",
        "updates that were read from data files",
        Value::Counter(|counters| counters.rows_read_back),
    ),
    of_sink(
        "mvsink_data_files_read_total",
        "how often a data file was read",
        Value::Counter(|counters| counters.data_files_read),
    ),
    of_sink(
        "mvsink_own_commits_read_back_total",
        "commits of the sink's own that it read like anybody's",
        Value::Counter(|counters| counters.own_commits_read_back),
    ),
    of_sink(
        "mvsink_undecodable_files_total",
        "files of the shard with rows that the types cannot hold",
        Value::Counter(|counters| counters.undecodable_files),
    ),
    of_sink(
        "mvsink_undecodable_rows_total",
        "rows of the shard that the types cannot hold",
        Value::Counter(|counters| counters.undecodable_rows),
    ),
    of_sink(
        "mvsink_damaged_files_total",
        "files of the shard that are missing or not what the log says",
        Value::Counter(|counters| counters.damaged_files),
    ),
    of_sink(
        "mvsink_queued_updates",
        "updates that wait in the queues to the tasks",
        Value::Gauge(|of| Some(of.counters.queued_updates as f64)),
    ),
    of_sink(
        "mvsink_queued_bytes",
        "bytes of the updates that wait, without what rows own on the heap",
        Value::Gauge(|of| Some(of.counters.queued_bytes as f64)),
    ),
    of_sink(
        "mvsink_commit_seconds",
        "how long commits took, lost ones included",
        Value::Histogram(|counters| &counters.commits),
    ),
    of_sink(
        "mvsink_frontier_lag",
        "how far the shard's upper is behind the collection's frontier, in units of time",
        Value::Gauge(|of| of.counters.frontier_lag.map(|lag| lag as f64)),
    ),
    of_source(
        "mvsink_source_status",
        "1 for what the source is doing, 0 for all else that it could do",
        Value::Status,
    ),
    of_source(
        "mvsink_source_upper",
        "the time before which all was given to the dataflow; +Inf once the source is finished",
        Value::Gauge(upper),
    ),
    of_source(
        "mvsink_source_lag",
        "how far what was given to the dataflow is behind the shard's upper, in units of time",
        Value::Gauge(|of| of.behind.map(|behind| behind as f64)),
    ),
    of_source(
        "mvsink_source_shard_files",
        "data files of the shard",
        Value::Gauge(|of| Some(of.shard?.files as f64)),
    ),
    of_source(
        "mvsink_source_shard_bytes",
        "bytes of the shard's data files",
        Value::Gauge(|of| Some(of.shard?.bytes as f64)),
    ),
    of_source(
        "mvsink_source_shard_rows",
        "rows of the shard's data files, updates that cancel included",
        Value::Gauge(|of| Some(of.shard?.rows as f64)),
    ),
    of_source(
        "mvsink_source_updates_read_total",
        "updates that were read from data files",
        Value::Counter(|counters| counters.rows_read_back),
    ),
    of_source(
        "mvsink_source_data_files_read_total",
        "how often a data file was read",
        Value::Counter(|counters| counters.data_files_read),
    ),
    of_source(
        "mvsink_source_files_swept_total",
        "files that somebody had left behind, and that were deleted",
        Value::Counter(|counters| counters.files_swept),
    ),
    of_source(
        "mvsink_source_swept_bytes_total",
        "bytes of the files that somebody had left behind",
        Value::Counter(|counters| counters.bytes_swept),
    ),
];

/// The upper as a handle reports it; beyond all times is a number too.
fn upper(of: &Observed) -> Option<f64> {
    match of.upper? {
        // Nothing was given to the dataflow yet.
        Frontier::At(i64::MIN) => None,
        Frontier::At(time) => Some(time as f64),
        Frontier::Empty => Some(f64::INFINITY),
    }
}

/// What a sink or source can be doing.
const STATUSES: [&str; 12] = [
    "starting",
    "hydrating",
    "running",
    "standing_by",
    "read_only",
    "non_deterministic",
    "unrepaired",
    "stalled",
    "already_finished",
    "finished",
    "failed",
    "cancelled",
];

fn name_of(status: &Status) -> &'static str {
    match status {
        Status::Starting => "starting",
        Status::Hydrating { .. } => "hydrating",
        Status::Running => "running",
        Status::StandingBy => "standing_by",
        Status::ReadOnly => "read_only",
        Status::NonDeterministic { .. } => "non_deterministic",
        Status::Unrepaired { .. } => "unrepaired",
        Status::Stalled { .. } => "stalled",
        Status::AlreadyFinished => "already_finished",
        Status::Finished => "finished",
        Status::Failed { .. } => "failed",
        Status::Cancelled => "cancelled",
    }
}

impl Family {
    /// The names of its labels.
    fn labels(&self) -> Vec<String> {
        let name = match self.kind {
            Kind::Sink => "sink",
            Kind::Source => "source",
        };
        let status = matches!(self.value, Value::Status).then_some("status");
        let labels = [name, "address"].into_iter().chain(status);
        labels.map(str::to_owned).collect()
    }

    /// A series of one sink or source, with its labels and no value yet.
    fn series(&self, of: &Observed, status: Option<&str>) -> Metric {
        let address: Vec<String> = of.key.address.iter().map(usize::to_string).collect();
        let values = [of.key.name.clone(), address.join(".")];
        let values = values.into_iter().chain(status.map(str::to_owned));
        let pair = |(name, value): (String, String)| {
            let mut pair = LabelPair::default();
            pair.set_name(name);
            pair.set_value(value);
            pair
        };
        let mut metric = Metric::default();
        metric.set_label(self.labels().into_iter().zip(values).map(pair).collect());
        metric
    }

    /// Its series of one sink or source.
    fn metrics(&self, of: &Observed) -> Vec<Metric> {
        let mut metric = self.series(of, None);
        match self.value {
            Value::Counter(value) => {
                let mut counter = Counter::default();
                counter.set_value(value(&of.counters) as f64);
                metric.set_counter(counter);
                vec![metric]
            }
            Value::Gauge(value) => {
                let Some(value) = value(of) else {
                    return Vec::new();
                };
                metric.set_gauge(gauge(value));
                vec![metric]
            }
            Value::Histogram(value) => {
                metric.set_histogram(histogram(value(&of.counters)));
                vec![metric]
            }
            Value::Status => {
                let now = name_of(&of.status);
                let series = |status| {
                    let mut metric = self.series(of, Some(status));
                    metric.set_gauge(gauge(f64::from(u8::from(status == now))));
                    metric
                };
                STATUSES.into_iter().map(series).collect()
            }
        }
    }
}

fn gauge(value: f64) -> Gauge {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    gauge
}

fn histogram(latencies: &Latencies) -> Histogram {
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
    histogram
}

/// Gives what `observed` says of each sink and source.
pub(crate) struct Collector<F> {
    descriptions: Vec<Desc>,
    observed: F,
}

impl<F> Collector<F> {
    pub(crate) fn new(observed: F) -> prometheus::Result<Self> {
        let description = |family: &Family| {
            Desc::new(
                family.name.to_owned(),
                family.help.to_owned(),
                family.labels(),
                HashMap::new(),
            )
        };
        Ok(Collector {
            descriptions: FAMILIES
                .iter()
                .map(description)
                .collect::<prometheus::Result<_>>()?,
            observed,
        })
    }
}

impl<F> fmt::Debug for Collector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

impl<F: Fn() -> Vec<Observed> + Send + Sync> Collect for Collector<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let observed = (self.observed)();
        FAMILIES
            .iter()
            .map(|family| {
                let mut collected = MetricFamily::default();
                collected.set_name(family.name.to_owned());
                collected.set_help(family.help.to_owned());
                collected.set_field_type(match family.value {
                    Value::Counter(_) => MetricType::COUNTER,
                    Value::Gauge(_) | Value::Status => MetricType::GAUGE,
                    Value::Histogram(_) => MetricType::HISTOGRAM,
                });
                let of_kind = observed.iter().filter(|of| of.key.kind == family.kind);
                collected.set_metric(of_kind.flat_map(|of| family.metrics(of)).collect());
                collected
            })
            .collect()
    }
}
