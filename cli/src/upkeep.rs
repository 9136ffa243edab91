//! `compact`, `gc`: looking after a shard by hand.
//!
//! The result goes to stdout, as text or as one JSON object, whose names scripts depend on; progress goes to stderr.

use std::fmt::Write as _;
use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mvsink::mvsink_persist::{CompactOptions, GcFiles, GcOptions, Shard};
use serde_json::{Value, json};

use crate::args::{Compact, Gc};
use crate::error::Error;
use crate::meter::Meter;
use crate::read::{with_shard, with_shard_within};

/// How often a watched hold is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// How long a merge may take to be given up.
const GIVE_UP: Duration = Duration::from_secs(3);

/// Merges the data files of a shard.
///
/// # Errors
///
/// If there is no such shard, or it cannot be read or written.
pub fn compact(options: &Compact) -> Result<ExitCode, Error> {
    with_shard_within(&options.url, GIVE_UP, async |reader, signals| {
        let shard = reader.shard();
        let mut compaction = CompactOptions::default();
        compaction.full = options.full;
        compaction.dry_run = options.dry_run;
        compaction.budget_bytes = (options.memory as usize).saturating_mul(1 << 20);
        let (reading, merging) = (Meter::new("read", "rows"), Meter::new("merged", "rows"));
        let report = shard
            .compact(&compaction, &|progress| {
                // Rows that are in no order are read before the first is written.
                match progress.rows_done {
                    0 => reading.show(progress.rows_read, progress.rows),
                    done => {
                        reading.clear();
                        merging.show(done, progress.rows);
                    }
                }
                match signals.first() {
                    None => ControlFlow::Continue(()),
                    // What has been staged is deleted, and what has been merged stays so.
                    Some(_) => ControlFlow::Break(()),
                }
            })
            .await;
        reading.clear();
        merging.clear();
        let report = report.map_err(Error::from)?;
        if signals.first().is_some() && report.merges == 0 {
            return Ok(());
        }
        let object = json!({
            "url": shard.url(),
            "dry_run": options.dry_run,
            "merges": report.merges,
            "lost": report.lost,
            "files_in": report.files_in,
            "files_out": report.files_out,
            "rows_in": report.rows_in,
            "rows_out": report.rows_out,
            "bytes_in": report.bytes_in,
            "bytes_out": report.bytes_out,
            "left_alone": report.left_alone,
        });
        if report.left_alone > 0 {
            eprintln!(
                "{} files that another program has added are left alone: no sink has looked at them yet",
                report.left_alone
            );
        }
        print(options.json, &object, || {
            let (merges, files, rows, bytes) = (
                report.merges,
                report.files_in,
                report.rows_in,
                report.bytes_in,
            );
            match (options.dry_run, merges) {
                (_, 0) => "nothing to merge\n".to_owned(),
                (true, _) => {
                    format!("would merge {files} files ({rows} rows, {bytes} bytes)\n")
                }
                (false, _) => format!(
                    "merged {files} files ({rows} rows, {bytes} bytes) into {} ({} rows, {} bytes)\n",
                    report.files_out, report.rows_out, report.bytes_out
                ),
            }
        })
    })
}

/// Deletes what no reader of a shard needs.
///
/// # Errors
///
/// If there is no such shard, or it cannot be listed or written.
pub fn gc(options: &Gc) -> Result<ExitCode, Error> {
    with_shard(&options.url, |reader| async move {
        let shard = reader.shard();
        watch_holds(shard, options.watch).await?;
        let mut collection = GcOptions::default();
        collection.removed_grace = options.grace;
        collection.orphan_min_age = options.orphan_age;
        collection.dry_run = options.dry_run;
        let meter = Meter::new("collected", "objects");
        let report = shard
            .collect_garbage(&collection, &|progress| {
                meter.show(progress.done, progress.of.unwrap_or(progress.done));
            })
            .await;
        meter.clear();
        let report = report.map_err(Error::from)?;
        let spared: serde_json::Map<String, Value> = report
            .spared
            .iter()
            .map(|(why, files)| (format!("{why:?}").to_lowercase(), of_files(files)))
            .collect();
        let object = json!({
            "url": shard.url(),
            "dry_run": options.dry_run,
            "released_holds": report.released_holds,
            "removed": of_files(&report.removed),
            "orphans": of_files(&report.orphans),
            "leftovers": of_files(&report.leftovers),
            "log": of_files(&report.log),
            "unreadable": report.unreadable,
            "spared": spared,
        });
        print(options.json, &object, || {
            let verb = match options.dry_run {
                true => "would delete",
                false => "deleted",
            };
            let mut text = String::new();
            for (what, files) in [
                ("that merges have replaced", &report.removed),
                ("that were never committed", &report.orphans),
                ("of writes that were cut off", &report.leftovers),
                ("of the log", &report.log),
            ] {
                let (count, bytes) = (files.count, files.bytes);
                let _ = writeln!(text, "{verb} {count} files {what}, {bytes} bytes");
                for name in files.names.iter().filter(|_| options.dry_run) {
                    let _ = writeln!(text, "  {name}");
                }
            }
            for version in &report.unreadable {
                let _ = writeln!(
                    text,
                    "entry {version} of the log cannot be read: what it may have removed is kept for another grace \
                     period after it"
                );
            }
            for name in &report.released_holds {
                let _ = writeln!(text, "released the hold {name}, which had lapsed");
            }
            for (why, files) in &report.spared {
                let _ = writeln!(text, "kept {} files: {why:?}", files.count);
            }
            text
        })
    })
}

/// Looks at the holds until none is alive, or for this long: whether one is renewed is seen only by who looks twice.
async fn watch_holds(shard: &Shard, watch: Duration) -> Result<(), Error> {
    let meter = Meter::new("watched", "seconds");
    let begun = Instant::now();
    loop {
        shard.refresh().await?;
        let left = watch.saturating_sub(begun.elapsed());
        if left.is_zero() || shard.holds().iter().all(|hold| hold.lapsed) {
            break;
        }
        meter.show(begun.elapsed().as_secs(), watch.as_secs());
        tokio::time::sleep(left.min(WATCH_INTERVAL)).await;
    }
    meter.clear();
    Ok(())
}

fn of_files(files: &GcFiles) -> Value {
    json!({"files": files.count, "bytes": files.bytes, "names": files.names})
}

/// Prints a result.
pub(crate) fn print(
    as_json: bool,
    object: &Value,
    text: impl FnOnce() -> String,
) -> Result<(), Error> {
    let text = match as_json {
        true => format!("{object}\n"),
        false => text(),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}
