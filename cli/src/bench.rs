//! `bench`: how fast the sink is on this machine and store, beside a floor measured in the same run.
//!
//! | workload | what is measured |
//! |---|---|
//! | `bulk` | a snapshot into an empty shard, from the first row in until the shard's upper is past it |
//! | `restart` | the same rows over the shard that holds them, in a new process |
//! | `restart_read_back` | the same with everything read back, as a control |
//! | `steady` | ticks of 5,000 updates, half of them retractions, each when the one before it is committed |
//! | `steady_nocompact` | the same without compaction |
//! | `latency` | ticks of one update, from advancing the input until the upper has advanced; in memory |
//! | `latency_durable` | the same on the store |
//! | `takeover` | a tick after the replica that wrote has gone, and another one stood by; beside no floor, but the silence it waits for |
//! | `idle` | 50 sinks whose inputs advance ten times a second and bring nothing |
//! | `corrections_…` | the corrections alone: a snapshot, one that meets itself, few updates due of many, small containers; their floor is what a restart computes of rows that are there already |
//!
//! Each run of a row has a process of its own, so that no row pays for the memory or the threads of the one before it. Shards
//! are on the store that was asked for, as durable as any.

pub mod corrections;
pub mod floor;
pub mod host;
pub mod report;
pub mod rows;
pub mod usage;
pub mod workloads;

use std::fmt;
use std::io::Write;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use mvsink::mvsink_persist::local_directory;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::runtime::Runtime;

use self::report::{Measured, table};
use crate::args::Bench;
use crate::error::Error;
use crate::meter::Meter;
use crate::signal::Signals;
use crate::stderr::say;

/// How often each row is measured.
const RUNS: usize = 5;

/// How long it may take to remove what was made, after a signal.
const REMOVAL: Duration = Duration::from_secs(10);

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Name {
    /// A snapshot into an empty shard.
    Bulk,
    /// The same rows over the shard that holds them.
    Restart,
    /// The same with everything read back: a control.
    RestartReadBack,
    /// Ticks of 5,000 updates.
    Steady,
    /// The same without compaction.
    SteadyNocompact,
    /// Ticks of one update, in memory.
    Latency,
    /// Ticks of one update, on the store.
    LatencyDurable,
    /// A tick after the replica that wrote has gone.
    Takeover,
    /// Sinks that have nothing to do.
    Idle,
    /// The corrections alone: a snapshot goes in, and out.
    CorrectionsSnapshot,
    /// The corrections alone: a snapshot meets itself.
    CorrectionsRehydrate,
    /// The corrections alone: few updates are due of many at future times.
    CorrectionsTemporal,
    /// The corrections alone: a snapshot in containers of ten.
    CorrectionsSmall,
}

/// Who runs the sink's operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Operators that never wait, each with a task.
    Sync,
    /// Operators that await in place.
    Async,
}

/// As it is written on the command line.
fn written(value: &impl ValueEnum, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match value.to_possible_value() {
        Some(value) => f.write_str(value.get_name()),
        None => Ok(()),
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        written(self, f)
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        written(self, f)
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What is done.
    pub workload: Name,
    /// By which driver, if by a sink.
    pub driver: Option<Driver>,
    /// On how many workers.
    pub workers: usize,
}

impl Spec {
    /// All rows of a workload.
    pub fn all_of(workload: Name) -> Vec<Self> {
        let row = |driver, workers| Spec {
            workload,
            driver,
            workers,
        };
        let (sync, other) = (Some(Driver::Sync), Some(Driver::Async));
        match workload {
            Name::Bulk | Name::Restart | Name::Idle => {
                vec![row(sync, 1), row(sync, 2), row(other, 1), row(other, 2)]
            }
            Name::Steady
            | Name::SteadyNocompact
            | Name::Latency
            | Name::LatencyDurable
            | Name::Takeover => {
                vec![row(sync, 1), row(other, 1)]
            }
            Name::RestartReadBack => vec![row(sync, 1)],
            Name::CorrectionsSnapshot
            | Name::CorrectionsRehydrate
            | Name::CorrectionsTemporal
            | Name::CorrectionsSmall => vec![row(None, 1)],
        }
    }

    /// What has to be done in the same place before.
    pub fn needs(&self) -> Option<Self> {
        let restarts = matches!(self.workload, Name::Restart | Name::RestartReadBack);
        restarts.then_some(Spec {
            workload: Name::Bulk,
            ..*self
        })
    }
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Rows of `bulk` and `restart`.
    pub rows: usize,
    /// Times at which these are, evenly.
    pub times: usize,
    /// Replicas that write these.
    pub replicas: usize,
    /// Ticks of `steady`.
    pub ticks: usize,
    /// Updates of each, half of them retractions.
    pub tick_updates: usize,
    /// Ticks of `latency`.
    pub latency_ticks: usize,
    /// Ticks of `idle`.
    pub idle_ticks: usize,
    /// Sinks of `idle`.
    pub sinks: usize,
    /// Updates of the corrections.
    pub corrections: usize,
    /// Ticks of `corrections_temporal`.
    pub corrections_ticks: usize,
}

impl Scale {
    /// What the published figures are of.
    pub const WHOLE: Scale = Scale {
        rows: 2_000_000,
        times: 1,
        replicas: 1,
        ticks: 200,
        tick_updates: 5000,
        latency_ticks: 2000,
        idle_ticks: 50,
        sinks: 50,
        corrections: 4_000_000,
        corrections_ticks: 2000,
    };

    /// A tenth of it.
    pub const QUICK: Scale = Scale {
        rows: 200_000,
        ticks: 20,
        latency_ticks: 200,
        idle_ticks: 10,
        corrections: 400_000,
        corrections_ticks: 200,
        ..Scale::WHOLE
    };

    /// As much as takes so many rows, if a tenth takes 200,000.
    pub fn of_rows(rows: usize) -> Self {
        let quick = Scale::QUICK;
        let part = |size: usize| (size * rows).div_ceil(quick.rows).max(1);
        Scale {
            rows: part(quick.rows),
            ticks: part(quick.ticks),
            latency_ticks: part(quick.latency_ticks),
            idle_ticks: part(quick.idle_ticks),
            corrections: part(quick.corrections),
            corrections_ticks: part(quick.corrections_ticks),
            ..quick
        }
    }

    fn of(options: &Bench) -> Self {
        let scale = if options.quick {
            Scale::QUICK
        } else {
            Scale::WHOLE
        };
        let sizes = &options.sizes;
        let or = |size: Option<usize>, default: usize| size.map_or(default, |size| size.max(1));
        Scale {
            rows: or(sizes.rows, scale.rows),
            times: or(sizes.times, scale.times),
            replicas: or(sizes.replicas, scale.replicas),
            ticks: or(sizes.ticks, scale.ticks),
            tick_updates: or(sizes.tick_updates, scale.tick_updates),
            latency_ticks: or(sizes.ticks, scale.latency_ticks),
            idle_ticks: or(sizes.ticks, scale.idle_ticks),
            sinks: or(sizes.sinks, scale.sinks),
            corrections: or(sizes.rows, scale.corrections),
            corrections_ticks: or(sizes.ticks, scale.corrections_ticks),
        }
    }
}

/// Measures a row once, with shards below `url`.
///
/// # Errors
///
/// If a sink fails.
pub fn measure(spec: &Spec, scale: &Scale, url: &str) -> Result<Measured, Error> {
    match spec.driver {
        Some(_) => workloads::measure(spec, scale, url),
        None => corrections::measure(spec, scale),
    }
}

/// Measures, and prints what was measured.
///
/// # Errors
///
/// If a sink fails, or nobody reads what is printed.
pub fn run(options: &Bench) -> Result<ExitCode, Error> {
    if let (Some(row), Some(workload), Some(url)) = (options.row, options.only, &options.dir) {
        let spec = Spec {
            workload,
            driver: row.driver,
            workers: row.workers,
        };
        let measured = measure(&spec, &Scale::of(options), url)?;
        print(&line(&measured)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let names = options
        .only
        .map_or_else(|| Name::value_variants().to_vec(), |only| vec![only]);
    let mut specs: Vec<_> = names.into_iter().flat_map(Spec::all_of).collect();
    if let Some(workers) = options.sizes.workers {
        // Of each driver once.
        specs.retain(|spec| spec.workers == 1);
        specs
            .iter_mut()
            .for_each(|spec| spec.workers = workers.max(1));
    }
    let signals = Signals::within(REMOVAL)?;
    let runtime = Runtime::new().map_err(Error::Runtime)?;
    runtime.block_on(async {
        // The processes are killed, and their directory removed.
        match signals.unless(all(options, &specs)).await {
            Ok(done) => done.map(|()| ExitCode::SUCCESS),
            Err(signal) => Ok(signal.exit_code()),
        }
    })
}

/// Measures all rows, each in processes of its own.
async fn all(options: &Bench, specs: &[Spec]) -> Result<(), Error> {
    let runs = if options.quick { 1 } else { RUNS };
    let meter = Meter::new("measured", "runs");
    let (mut done, of) = (0, (specs.len() * runs) as u64);
    let mut rows = Vec::with_capacity(specs.len());
    for spec in specs {
        let mut measured = Vec::with_capacity(runs);
        for _ in 0..runs {
            meter.show(done, of);
            measured.push(alone(options, spec).await?);
            done += 1;
        }
        rows.extend(Measured::median(&measured));
        if let (true, Some(row)) = (options.json, rows.last()) {
            meter.clear();
            print(&line(row)?)?;
        }
    }
    meter.clear();
    if !options.json {
        print(&table(&rows))?;
    }
    Ok(())
}

/// One run of a row.
async fn alone(options: &Bench, spec: &Spec) -> Result<Measured, Error> {
    let place = Place::new(options.dir.as_deref())?;
    if let Some(first) = spec.needs() {
        in_a_process(options, &first, &place).await?;
        place.forget("floor");
    }
    in_a_process(options, spec, &place).await
}

/// Has another process measure a row.
async fn in_a_process(options: &Bench, spec: &Spec, place: &Place) -> Result<Measured, Error> {
    let failed = |why: String| Error::Bench {
        workload: spec.workload.to_string(),
        why,
    };
    let program = std::env::current_exe().map_err(Error::Runtime)?;
    let driver = spec
        .driver
        .map_or_else(|| "none".to_owned(), |driver| driver.to_string());
    let mut command = Command::new(program);
    command
        .args([
            "bench",
            "--only",
            &spec.workload.to_string(),
            "--dir",
            &place.url,
        ])
        .args(["--row", &format!("{driver},{}", spec.workers)])
        .args(options.quick.then_some("--quick"))
        .args(options.sizes.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().map_err(Error::Runtime)?;
    let output = child.wait_with_output().await.map_err(Error::Runtime)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("mvsink: ");
        return Err(failed(format!("{}: {said}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

/// Where the shards of one run are.
pub struct Place {
    /// Below this.
    pub url: String,
    /// Removed with all that is in it.
    directory: Option<TempDir>,
}

impl Place {
    /// A new place below `dir`, or in the current directory: that for temporary files is often no disk.
    ///
    /// # Errors
    ///
    /// If a directory cannot be made there.
    pub fn new(dir: Option<&str>) -> Result<Self, Error> {
        let within = dir.unwrap_or(".");
        let Some(within) = local_directory(within)? else {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let id = (now.map_or(0, |now| now.as_nanos()), std::process::id());
            let url = format!(
                "{}/mvsink-bench-{}-{}",
                within.trim_end_matches('/'),
                id.0,
                id.1
            );
            say(format_args!("measuring at {url}, which stays"));
            return Ok(Place {
                url,
                directory: None,
            });
        };
        let directory = std::fs::create_dir_all(&within).and_then(|()| {
            let mut builder = tempfile::Builder::new();
            builder.prefix("mvsink-bench-").tempdir_in(&within)
        });
        let directory = directory.map_err(|source| Error::Place {
            directory: within.display().to_string(),
            source,
        })?;
        Ok(Place {
            url: directory.path().display().to_string(),
            directory: Some(directory),
        })
    }

    /// Removes what the floor has left.
    pub fn forget(&self, shard: &str) {
        if let Some(directory) = &self.directory {
            // Whatever is left goes with the directory.
            let _ = std::fs::remove_dir_all(directory.path().join(shard));
        }
    }
}

fn line(measured: &Measured) -> Result<String, Error> {
    let json = serde_json::to_string(measured).map_err(|error| Error::Output(error.into()))?;
    Ok(json + "\n")
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Error::Output)
}
