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

#[cfg(test)]
mod tests {
    use mvsink_persist::{
        Append, Client, ClientOptions, Codec, CommitId, FileEncoder, FileMeta, Frontier, Open,
    };

    use super::*;
    use crate::dyncfg::Default as Kind;

    type Row = (u64, String);

    /// A shard with a row at each of some times, in a file each.
    async fn filled(client: &Client, codec: &Codec<Row, String>, url: &str) -> Shard {
        let open = Open::new(codec.schema());
        let shard = client.open_or_create(url, open).await.unwrap();
        for time in 0..4i64 {
            let row = (time.unsigned_abs(), "a row".to_owned());
            let mut file = FileEncoder::new(codec.schema()).unwrap();
            file.write(&codec.encode([(&row, time, 1)].into_iter()).unwrap())
                .unwrap();
            let file = file.finish().unwrap();
            let meta = FileMeta::from(&file);
            let staged = shard.put_file(file.bytes, meta, &|_| ()).await.unwrap();
            let append = Append {
                id: CommitId {
                    nonce: 1,
                    seq: time.unsigned_abs(),
                },
                lower: Frontier::At(time),
                upper: Frontier::At(time + 1),
                files: vec![staged],
                since: None,
            };
            shard.append(append, &|_| ()).await.unwrap();
        }
        shard
    }

    #[test]
    fn maintenance_bears_with_the_extremes_of_its_flags() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let client = Client::new(runtime.handle().clone(), ClientOptions::default());
        let codec = Codec::<(u64, String), String>::new().unwrap();
        runtime.block_on(async {
            for (flag, entry) in ConfigSet::new().entries() {
                if !matches!(entry.value, Kind::Usize(_)) {
                    continue;
                }
                for number in [0, 1, 2, entry.least, entry.most, i64::MAX as usize] {
                    let configs = ConfigSet::new();
                    configs.set("mvsink_compaction_fan_in", "2").unwrap();
                    configs.set("mvsink_garbage_grace_s", "0").unwrap();
                    if configs.set(flag, &number.to_string()).is_err() {
                        continue;
                    }
                    let url = format!("memory://{flag}/{number}");
                    let shard = filled(&client, &codec, &url).await;
                    let settings = settings(&configs);
                    let since = shard.permitted_since(&settings.retention);
                    assert!(since <= shard.progress().upper, "{flag}={number}");
                    let compact = settings.compact.as_ref().unwrap();
                    let go_on = |_| std::ops::ControlFlow::Continue(());
                    let compacted = shard.compact(compact, &go_on).await;
                    compacted.unwrap_or_else(|error| panic!("{flag}={number}: {error}"));
                    let collect = settings.collect.as_ref().unwrap();
                    let collected = shard.collect_garbage(collect, &|_| ()).await;
                    collected.unwrap_or_else(|error| panic!("{flag}={number}: {error}"));
                }
            }
        });
    }
}
