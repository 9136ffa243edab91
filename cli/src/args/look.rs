//! The options of the commands that look at shards.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use mvsink::mvsink_persist::Filter;

use crate::condition;

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
#[derive(Clone, Debug, PartialEq, Args)]
pub struct Snapshot {
    /// The shard.
    pub url: String,

    /// The time to read at; the last complete one if absent.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub as_of: Option<i64>,

    /// Only the rows for which this holds, as in "price > 100 AND city = 'Oslo' AND note IS NULL" or
    /// "at >= '2026-01-31T12:00:00Z'"; may be repeated.
    #[arg(long = "where", value_name = "CONDITION", value_parser = condition::parse)]
    pub conditions: Vec<Filter>,

    /// Only these columns, in this order. Rows that differ in others only add up.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub columns: Vec<String>,

    /// At most this many different rows.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,

    /// The number of rows instead of the rows, each as often as it is there.
    #[arg(long, conflicts_with_all = ["columns", "limit"])]
    pub count: bool,

    /// Print the rows though the collection is in error at that time.
    #[arg(long)]
    pub ignore_errors: bool,

    /// The format of the rows.
    ///
    /// NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity" in NDJSON. In CSV a null is an empty field,
    /// and an empty text is ""; lists, structs and maps are JSON. Bytes are hexadecimal digits.
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
