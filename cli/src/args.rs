//! The grammar of the command line, which scripts depend on.
//!
//! What clap refuses is bad usage: one message on stderr and exit status 2. So every constraint that needs no
//! look at the world is stated here, and the commands can trust what they are given.

mod look;
mod parse;

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use mvsink::dyncfg::ConfigSet;

pub use self::look::{Inspect, Snapshot, SnapshotFormat, Tail, TailFormat};
use self::parse::{
    parse_duration, parse_filter, parse_lease, parse_row, parse_setting, parse_size, parse_workers,
};

use crate::bench::{Driver, Name};
use crate::nexmark::generator::{EVENTS_MAX, SEED_MAX};

/// Materialized views in Delta tables: a demo host, and the tool to look at shards.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(name = "mvsink", version, about, propagate_version = true)]
pub struct Cli {
    /// What to log, as in `info` or `mvsink=debug,warn`.
    #[arg(long, global = true, display_order = 100, value_name = "FILTER", default_value = "warn", value_parser = parse_filter)]
    pub log: String,

    /// The format of the log, which goes to stderr.
    #[arg(long, global = true, display_order = 101, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum Command {
    /// Run a workload that keeps its views in shards.
    #[command(subcommand)]
    Run(Workload),
    /// Describe a shard: frontiers, versions, files, rows, bytes.
    Inspect(Inspect),
    /// Print the contents of a shard at a time.
    Snapshot(Snapshot),
    /// Print the updates of a shard, and its progress, as they come.
    Tail(Tail),
    /// Read the whole log and every data file of a shard, and name all damage.
    Verify(Verify),
    /// Repair a shard as far as that is possible without whoever wrote it.
    ///
    /// References to data files that are missing or damaged are dropped: a view writes their rows again with its next batch. Of
    /// an input nobody does, so that this takes --drop-files. What the log says wrongly of files that are whole is put right:
    /// sizes, paths, statistics. Damaged checkpoints are written anew. All other damage is named, each with advice.
    Repair(Repair),
    /// Merge the data files of a shard.
    Compact(Compact),
    /// Delete what no reader needs: merged files, files that were never committed, old log entries.
    Gc(Gc),
    /// Keep old times of a shard readable.
    #[command(subcommand)]
    Hold(Hold),
    /// Measure the sink on this machine and store, beside a floor.
    ///
    /// Prints the medians of five runs of each workload. The floor is the same rows encoded and committed once, in a plain
    /// loop: what any sink has to pay.
    Bench(Bench),
}

/// The workloads of `run`.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Workload {
    /// An auction site: generated events in three source shards, and seven views over them.
    ///
    /// A second run on the same directory, with a larger --events, goes on where the first one ended. A signal ends the run
    /// when what is under way is finished, a second one at once.
    #[command(after_long_help = flags())]
    Nexmark(Nexmark),
}

/// Options of `run nexmark`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Nexmark {
    /// The directory or URL below which the shards are.
    #[arg(long, value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub dir: String,

    /// How many events there are in total, those of earlier runs included.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=EVENTS_MAX))]
    pub events: u64,

    /// How many worker threads run the dataflow.
    #[arg(long, value_name = "W", default_value_t = 2, value_parser = parse_workers)]
    pub workers: usize,

    /// At most this many events per second of real time; as fast as possible if absent.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,

    /// Which of many inputs to generate.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=SEED_MAX))]
    pub seed: u64,

    /// Set a flag of the sink, see --help; may be repeated, and the last value of a flag counts.
    #[arg(long, value_name = "FLAG=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
}

/// Options of `verify`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Verify {
    /// The shard.
    pub url: String,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Options of `repair`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Repair {
    /// The shard.
    pub url: String,

    /// Say what would be done, and change nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// Where entries of the log are missing or damaged, go back to the version before, and set aside what comes after.
    ///
    /// With a version, this must be the first that is given up; its entry may then also be one that is not damaged, but
    /// switches on what mvsink does not support. Writers that have the shard open end with an error.
    #[arg(long, value_name = "VERSION", num_args = 0..=1, require_equals = true)]
    pub drop_entries: Option<Option<u64>>,

    /// Drop the references to lost data files also where the shard holds an input, whose rows nobody writes again.
    #[arg(long)]
    pub drop_files: bool,

    /// Accept what other programs have changed in a table that a sink ingests into: the sink goes on after it.
    #[arg(long)]
    pub accept_edits: bool,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Options of `compact`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Compact {
    /// The shard.
    pub url: String,

    /// Merge all files, and not only those whose turn it is by their sizes.
    #[arg(long)]
    pub full: bool,

    /// Memory for the rows of a merge, in MiB. Rows beyond that are spilled to the folder for temporary files (TMPDIR).
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub memory: u32,

    /// Say what would be merged, and change nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Options of `gc`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Gc {
    /// The shard.
    pub url: String,

    /// How long a file stays after a merge has replaced it, as in 90s, 15m, 12h or 7d.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    pub grace: Duration,

    /// How old a file that was never committed must be: longer than anybody takes from writing a file to
    /// committing it.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    pub orphan_age: Duration,

    /// Look at the holds for so long first, so that those that nobody renews are released: longer than their leases.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    pub watch: Duration,

    /// Say what would be deleted, and delete nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Options of `bench`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Bench {
    /// A tenth of the rows, and one run of each workload.
    #[arg(long)]
    pub quick: bool,

    /// Print one JSON object for each row instead of a table.
    #[arg(long)]
    pub json: bool,

    /// The directory or URL below which shards are made; the current directory if absent. What was made in a directory is
    /// removed.
    #[arg(long, value_name = "URL")]
    pub dir: Option<String>,

    /// Measure this workload alone.
    #[arg(long, value_name = "NAME", value_enum)]
    pub only: Option<Name>,

    /// Other sizes than the usual ones.
    #[command(flatten)]
    pub sizes: Sizes,

    /// Measure one row once, in this process: what each row's own process is asked for.
    #[arg(long, hide = true, value_parser = parse_row, requires = "only", requires = "dir")]
    pub row: Option<Row>,
}

/// How much is measured, where it is not as much as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Sizes")]
pub struct Sizes {
    /// Rows of bulk and restart, updates of the corrections.
    #[arg(long, value_name = "N", value_parser = parse_size)]
    pub rows: Option<usize>,

    /// Times at which the rows of bulk are.
    #[arg(long, value_name = "N", value_parser = parse_size)]
    pub times: Option<usize>,

    /// Replicas that write the rows of bulk, all in one process.
    #[arg(long, value_name = "N", value_parser = parse_size)]
    pub replicas: Option<usize>,

    /// Ticks of steady, latency, idle and corrections_temporal.
    #[arg(long, value_name = "N", value_parser = parse_size)]
    pub ticks: Option<usize>,

    /// Updates of a tick of steady.
    #[arg(long, value_name = "N", value_parser = parse_size)]
    pub tick_updates: Option<usize>,

    /// Sinks of idle.
    #[arg(long, value_name = "N", value_parser = parse_size)]
    pub sinks: Option<usize>,

    /// Workers of every row.
    #[arg(long, value_name = "N", value_parser = parse_size)]
    pub workers: Option<usize>,
}

impl Sizes {
    /// As they were written; the workers are each row's own.
    pub fn arguments(&self) -> Vec<String> {
        let sizes = [
            ("rows", self.rows),
            ("times", self.times),
            ("replicas", self.replicas),
            ("ticks", self.ticks),
            ("tick-updates", self.tick_updates),
            ("sinks", self.sinks),
        ];
        let given = sizes
            .into_iter()
            .filter_map(|(name, size)| Some((name, size?)));
        given
            .flat_map(|(name, size)| [format!("--{name}"), size.to_string()])
            .collect()
    }
}

/// Who does a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which driver, if it is a sink's.
    pub driver: Option<Driver>,
    /// How many workers.
    pub workers: usize,
}

/// What to do with holds.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Hold {
    /// List the holds of a shard.
    List(HoldList),
    /// Take a hold: times from the given one on stay readable while it lives.
    Take(HoldTake),
    /// Release a hold, whoever took it.
    Release(HoldRelease),
}

/// Options of `hold list`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct HoldList {
    /// The shard.
    pub url: String,

    /// Print one JSON object a line instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Options of `hold take`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct HoldTake {
    /// The shard.
    pub url: String,

    /// The name of the hold.
    pub name: String,

    /// The first time that stays readable; the shard's since if absent.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub at: Option<i64>,

    /// How long the hold lives, as those see it who would move the since: 90s, 15m, 12h or 7d.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_lease)]
    pub lease: Duration,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Options of `hold release`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct HoldRelease {
    /// The shard.
    pub url: String,

    /// The name of the hold.
    pub name: String,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Formats of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The flags that `--set` takes, for the help.
fn flags() -> String {
    let mut text = "Flags of --set:\n".to_owned();
    for (name, entry) in ConfigSet::new().entries() {
        let (description, value) = (entry.description, entry.value);
        text += &format!("  {name}={value}\n          {description}\n");
    }
    text
}

#[cfg(test)]
mod tests;
