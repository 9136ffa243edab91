//! The grammar of the command line, which scripts depend on.
//!
//! What clap refuses is bad usage: one message on stderr and exit status 2. So every constraint that needs no
//! look at the world is stated here, and the commands can trust what they are given.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::bench::{Driver, Name};
use crate::nexmark::generator::{EVENTS_MAX, SEED_MAX};

/// Materialized views in Delta tables: a demo host, and the tool to look at shards.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "mvsink", version, about, propagate_version = true)]
pub struct Cli {
    /// What to log, as in `info` or `mvsink=debug,warn`.
    #[arg(long, global = true, value_name = "FILTER", default_value = "warn", value_parser = parse_filter)]
    pub log: String,

    /// The format of the log, which goes to stderr.
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
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
    /// Read every data file of a shard, and compare it with what the log says of it.
    Verify(Verify),
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
    /// A second run on the same directory, with a larger --events, goes on where the first one ended.
    Nexmark(Nexmark),
}

/// Options of `run nexmark`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Nexmark {
    /// The directory or URL below which the shards are.
    #[arg(long, value_name = "URL")]
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

    /// Set a flag of the sink; may be repeated, and the last value of a flag counts.
    #[arg(long, value_name = "FLAG=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
}

/// Options of `inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Inspect {
    /// The shard.
    pub url: String,

    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Options of `snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Snapshot {
    /// The shard.
    pub url: String,

    /// The time to read at; the last complete one if absent.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub as_of: Option<i64>,

    /// The format of the rows.
    #[arg(long, value_enum, default_value_t = SnapshotFormat::Table)]
    pub format: SnapshotFormat,
}

/// Options of `tail`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Tail {
    /// The shard.
    pub url: String,

    /// The first time whose updates are printed one by one; the shard's since if absent.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub from: Option<i64>,

    /// End when all times before this one are complete; follow the shard for ever if absent.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub until: Option<i64>,

    /// The format of the updates.
    #[arg(long, value_enum, default_value_t = TailFormat::Ndjson)]
    pub format: TailFormat,
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

/// Options of `compact`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Compact {
    /// The shard.
    pub url: String,

    /// Merge all files, and not only those whose turn it is by their sizes.
    #[arg(long)]
    pub full: bool,

    /// How much memory a merge may take for rows, in MiB.
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
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,

    /// Times at which the rows of bulk are.
    #[arg(long, value_name = "N")]
    pub times: Option<usize>,

    /// Replicas that write the rows of bulk, all in one process.
    #[arg(long, value_name = "N")]
    pub replicas: Option<usize>,

    /// Ticks of steady, latency, idle and corrections_temporal.
    #[arg(long, value_name = "N")]
    pub ticks: Option<usize>,

    /// Updates of a tick of steady.
    #[arg(long, value_name = "N")]
    pub tick_updates: Option<usize>,

    /// Sinks of idle.
    #[arg(long, value_name = "N")]
    pub sinks: Option<usize>,

    /// Workers of every row.
    #[arg(long, value_name = "N")]
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
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
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

/// Formats of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SnapshotFormat {
    /// A table for people.
    Table,
    /// One JSON object a row.
    Ndjson,
    /// Comma-separated values, with a header.
    Csv,
}

/// Formats of a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TailFormat {
    /// One JSON object an update.
    Ndjson,
}

fn parse_filter(filter: &str) -> Result<String, String> {
    EnvFilter::builder()
        .parse(filter)
        .map(|_| filter.to_owned())
        .map_err(|error| error.to_string())
}

fn parse_row(text: &str) -> Result<Row, String> {
    let (driver, workers) = text.split_once(',').ok_or("no DRIVER,WORKERS")?;
    let driver = match driver {
        "none" => None,
        driver => Some(Driver::from_str(driver, false)?),
    };
    Ok(Row {
        driver,
        workers: parse_workers(workers)?,
    })
}

fn parse_workers(workers: &str) -> Result<usize, String> {
    // Each worker is a thread: a bound keeps a typing error from taking the machine down.
    const WORKERS_MAX: usize = 1024;
    match workers.parse::<usize>() {
        Ok(workers @ 1..=WORKERS_MAX) => Ok(workers),
        Ok(_) => Err(format!("must be between 1 and {WORKERS_MAX}")),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err("expected a number with s, m, h or d behind it".to_owned()),
    };
    let number: u32 = digits
        .parse()
        .map_err(|error: std::num::ParseIntError| error.to_string())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

fn parse_setting(setting: &str) -> Result<(String, String), String> {
    match setting.split_once('=') {
        Some((flag, value)) if !flag.is_empty() => Ok((flag.to_owned(), value.to_owned())),
        _ => Err("expected FLAG=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    fn command(line: &str) -> Command {
        parse(line)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .command
    }

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bench_measures_all_unless_one_is_named() {
        let all = Bench {
            quick: false,
            json: false,
            dir: None,
            only: None,
            sizes: Sizes::default(),
            row: None,
        };
        assert_eq!(command("mvsink bench"), Command::Bench(all.clone()));
        let some = Bench {
            quick: true,
            json: true,
            dir: Some("d".into()),
            only: Some(Name::SteadyNocompact),
            sizes: Sizes {
                ticks: Some(3),
                tick_updates: Some(10),
                ..Sizes::default()
            },
            row: None,
        };
        let sizes = some.sizes.arguments().join(" ");
        assert_eq!(sizes, "--ticks 3 --tick-updates 10");
        assert_eq!(
            command(&format!(
                "mvsink bench --quick --json --dir d --only steady_nocompact {sizes}"
            )),
            Command::Bench(some)
        );
        for bad in [
            "--only nothing",
            "--row sync,1",
            "--only bulk --dir d --row sync",
        ] {
            assert!(parse(&format!("mvsink bench {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn run_nexmark_has_the_documented_defaults() {
        let defaults = Nexmark {
            dir: "d".into(),
            events: 1_000_000,
            workers: 2,
            rate: None,
            seed: 0,
            set: Vec::new(),
        };
        assert_eq!(
            command("mvsink run nexmark --dir d"),
            Command::Run(Workload::Nexmark(defaults.clone()))
        );
        let all = Nexmark {
            events: 5,
            workers: 3,
            rate: Some(7),
            seed: 9,
            set: vec![("a".into(), "b=c".into()), ("d".into(), String::new())],
            ..defaults
        };
        assert_eq!(
            command(
                "mvsink run nexmark --dir d --events 5 --workers 3 --rate 7 --seed 9 --set a=b=c --set d="
            ),
            Command::Run(Workload::Nexmark(all))
        );
    }

    #[test]
    fn looking_at_shards_has_the_documented_options() {
        assert_eq!(
            command("mvsink inspect s3://b/q4 --json"),
            Command::Inspect(Inspect {
                url: "s3://b/q4".into(),
                json: true
            })
        );
        assert_eq!(
            command("mvsink snapshot q4 --as-of -3 --format csv"),
            Command::Snapshot(Snapshot {
                url: "q4".into(),
                as_of: Some(-3),
                format: SnapshotFormat::Csv
            })
        );
        assert_eq!(
            command("mvsink tail q4 --from 0 --until 9 --format ndjson"),
            Command::Tail(Tail {
                url: "q4".into(),
                from: Some(0),
                until: Some(9),
                format: TailFormat::Ndjson
            })
        );
    }

    #[test]
    fn upkeep_has_the_documented_options() {
        assert_eq!(
            command("mvsink gc q4 --orphan-age 90s --dry-run"),
            Command::Gc(Gc {
                url: "q4".into(),
                grace: Duration::from_secs(3600),
                orphan_age: Duration::from_secs(90),
                watch: Duration::ZERO,
                dry_run: true,
                json: false,
            })
        );
        assert_eq!(
            command("mvsink compact q4 --full --json"),
            Command::Compact(Compact {
                url: "q4".into(),
                full: true,
                memory: 256,
                dry_run: false,
                json: true,
            })
        );
        assert_eq!(
            command("mvsink hold take q4 report --at 7 --lease 2d"),
            Command::Hold(Hold::Take(HoldTake {
                url: "q4".into(),
                name: "report".into(),
                at: Some(7),
                lease: Duration::from_secs(2 * 24 * 3600),
                json: false,
            }))
        );
    }

    #[test]
    fn the_log_options_go_anywhere() {
        for line in [
            "mvsink --log info --log-format json inspect q4",
            "mvsink inspect q4 --log info --log-format json",
        ] {
            let cli = parse(line).expect(line);
            assert_eq!(
                (cli.log.as_str(), cli.log_format),
                ("info", LogFormat::Json)
            );
        }
        let cli = parse("mvsink inspect q4").expect("no log options");
        assert_eq!(
            (cli.log.as_str(), cli.log_format),
            ("warn", LogFormat::Text)
        );
    }

    #[test]
    fn bad_usage_is_refused() {
        for line in [
            "mvsink",
            "mvsink run",
            "mvsink run nexmark",
            "mvsink run nexmark --dir d --workers 0",
            "mvsink run nexmark --dir d --workers 1000000",
            "mvsink run nexmark --dir d --workers two",
            "mvsink run nexmark --dir d --events 0",
            "mvsink run nexmark --dir d --events -1",
            "mvsink run nexmark --dir d --rate 0",
            "mvsink run nexmark --dir d --seed 18446744073709551615",
            "mvsink run nexmark --dir d --set flag",
            "mvsink run nexmark --dir d --set =value",
            "mvsink run nexmark --dir d --frobnicate",
            "mvsink inspect",
            "mvsink inspect q4 --log foo=bar=baz",
            "mvsink inspect q4 --log-format xml",
            "mvsink snapshot q4 --as-of noon",
            "mvsink snapshot q4 --format parquet",
            "mvsink tail q4 --format csv",
            "mvsink verify",
            "mvsink compact q4 --memory 0",
            "mvsink gc q4 --grace 1y",
            "mvsink gc q4 --grace h",
            "mvsink gc q4 --grace 99999999999h",
            "mvsink hold",
            "mvsink hold take q4",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.use_stderr(), "{line}");
        }
    }

    #[test]
    fn help_and_version_are_data() {
        for (line, kind) in [
            ("mvsink --help", ErrorKind::DisplayHelp),
            ("mvsink run nexmark --help", ErrorKind::DisplayHelp),
            ("mvsink --version", ErrorKind::DisplayVersion),
        ] {
            let shown = parse(line).expect_err(line);
            assert_eq!(
                (shown.kind(), shown.exit_code(), shown.use_stderr()),
                (kind, 0, false)
            );
        }
    }
}
