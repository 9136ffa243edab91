//! The upkeep of a sink's or source's shard, by the flags.

use std::sync::Arc;
use std::time::Duration;

use mvsink_persist::{CompactOptions, GcOptions, GcReport, Maintenance, Retention, Shard};
use tokio::sync::watch;

use crate::dyncfg::{
    COMPACTION, COMPACTION_FAN_IN, COMPACTION_FLOOR_BYTES, COMPACTION_MEMORY_BYTES, ConfigSet,
    GARBAGE_COLLECTION, GARBAGE_GRACE_S, GARBAGE_INTERVAL_S, MAINTENANCE_INTERVAL_MS, ORPHAN_AGE_S,
    RETAIN_TIME, RETAIN_TIMES, TARGET_FILE_BYTES,
};
use crate::worker::Worker;

/// What the flags ask for.
fn settings(configs: &ConfigSet) -> Maintenance {
    let seconds = |seconds: usize| Duration::from_secs(seconds as u64);
    let mut maintenance = Maintenance::default();
    let limit = |limit: usize| (limit > 0).then_some(limit);
    maintenance.retention = Retention {
        time: limit(RETAIN_TIME.get(configs)).map(|time| time as u64),
        times: limit(RETAIN_TIMES.get(configs)),
    };
    maintenance.compact = COMPACTION.get(configs).then(|| {
        let mut options = CompactOptions::default();
        options.fan_in = COMPACTION_FAN_IN.get(configs).max(2);
        options.size_floor_bytes = COMPACTION_FLOOR_BYTES.get(configs).max(1) as u64;
        options.target_file_bytes = TARGET_FILE_BYTES.get(configs).max(1) as u64;
        options.budget_bytes = COMPACTION_MEMORY_BYTES.get(configs);
        options
    });
    maintenance.collect = GARBAGE_COLLECTION.get(configs).then(|| {
        let mut options = GcOptions::default();
        options.removed_grace = seconds(GARBAGE_GRACE_S.get(configs));
        options.orphan_min_age = seconds(ORPHAN_AGE_S.get(configs));
        options
    });
    maintenance.interval = Duration::from_millis(MAINTENANCE_INTERVAL_MS.get(configs) as u64);
    maintenance.collect_interval = seconds(GARBAGE_INTERVAL_S.get(configs));
    maintenance
}

/// Maintains the shard until the sink or source stops. Its failure is nobody else's.
pub(crate) async fn run(worker: Worker, shard: Shard) {
    let (stop, stopped) = watch::channel(false);
    let configs = worker.cx.configs().clone();
    let read_only = worker.read_only();
    // Who must not write a view must not rewrite its files either.
    let settings = move || (!read_only.get()).then(|| settings(&configs));
    let metrics = Arc::clone(&worker.instance.metrics);
    let collected = move |report: &GcReport| {
        metrics.files_swept.add(report.orphans.count);
        metrics.bytes_swept.add(report.orphans.bytes);
    };
    let work = shard.maintain(&settings, &collected, stopped);
    let ended = {
        tokio::pin!(work);
        match worker.stop.or_stop(&mut work).await {
            Some(ended) => Some(ended),
            None => {
                stop.send_replace(true);
                worker.stop.or_grace(work).await
            }
        }
    };
    if let Some(Err(error)) = ended
        && !matches!(error, mvsink_persist::Error::Shutdown)
    {
        tracing::warn!(shard = shard.url(), %error, "the shard is not maintained any more");
    }
}
