//! The gates of a table's log, which refuse what is not understood, and say what helps.

use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};

use crate::error::Error;
use crate::location::{for_shell, make_room};
use crate::log::action::{Commit, Metadata, Protocol, Txn};
use crate::log::state::{FORMAT, FORMAT_PROPERTY, SINCE, UPPER};
use crate::schema::{check_own_columns, from_delta};

/// Why something is refused, and what its user can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    why: String,
    remedy: String,
}

impl Refusal {
    fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Refusal {
            why: why.into(),
            remedy: remedy.into(),
        }
    }

    /// A feature of Delta's that is on.
    fn of_feature(why: impl Into<String>, feature: &str) -> Self {
        let first = match feature {
            "deletionVectors" => "`REORG TABLE … APPLY (PURGE)`, then ",
            "columnMapping" => "set `delta.columnMapping.mode` = `none`, then ",
            "v2Checkpoint" => "set `delta.checkpointPolicy` = `classic`, then ",
            "timestampNtz" => "write the columns without zone as `TIMESTAMP`, then ",
            _ => "",
        };
        Refusal::new(
            why,
            format!(
                "switch it off with the program that switched it on (in Spark {first}`ALTER TABLE … DROP FEATURE {feature}`) \
                 and have that write a checkpoint"
            ),
        )
    }

    /// What the first entry or a checkpoint has.
    pub(super) fn at_first(self, url: &str) -> Error {
        Error::Unsupported {
            url: url.to_owned(),
            why: format!("{}; {}", self.why, self.remedy),
        }
    }

    /// What an entry brings that can be given up.
    pub(super) fn in_version(self, url: &str, version: u64) -> Error {
        let give_up = to_give_up(url, version);
        Error::Unsupported {
            url: url.to_owned(),
            why: format!(
                "{}, since another program changed that in version {version}; {}, or {give_up}",
                self.why, self.remedy
            ),
        }
    }
}

/// How the entries from this version on are given up.
pub(super) fn to_give_up(url: &str, version: u64) -> String {
    format!(
        "give up all from there on with `mvsink repair {} --drop-entries={version}`",
        for_shell(url)
    )
}

/// The gate of the protocol: up to reader 1 and writer 2, or the features that those stand for.
pub(super) fn check_protocol(protocol: &Protocol) -> Result<(), Refusal> {
    const WRITER_FEATURES: [&str; 2] = ["appendOnly", "invariants"];
    let unknown = |features: &Option<Vec<String>>, known: &[&str]| {
        let mut features = features.iter().flatten();
        features
            .find(|feature| !known.contains(&feature.as_str()))
            .cloned()
    };
    let of_version = |what: &str, version: i32| {
        Refusal::new(
            format!("it needs Delta {what} version {version}"),
            "have the program that raised it lower it again and write a checkpoint",
        )
    };
    match protocol.min_reader_version {
        // Reader 2 means column mapping, which is refused where it is in use.
        ..=2 => {}
        3 => {
            if let Some(feature) = unknown(&protocol.reader_features, &[]) {
                let why = format!("it needs the reader feature {feature}");
                return Err(Refusal::of_feature(why, &feature));
            }
        }
        version => return Err(of_version("reader", version)),
    }
    match protocol.min_writer_version {
        ..=2 => Ok(()),
        7 => match unknown(&protocol.writer_features, &WRITER_FEATURES) {
            Some(feature) => {
                let why = format!("it needs the writer feature {feature}");
                Err(Refusal::of_feature(why, &feature))
            }
            None => Ok(()),
        },
        version => Err(of_version("writer", version)),
    }
}

/// The gate of the metadata; returns the columns.
pub(super) fn check_metadata(url: &str, metadata: &Metadata) -> Result<SchemaRef, Refusal> {
    const PUT_BACK: &str =
        "have the program that changed it put back what was there and write a checkpoint";
    let property = |name: &str| metadata.configuration.get(name).and_then(Option::as_deref);
    match property(FORMAT_PROPERTY).map(str::parse::<u64>) {
        Some(Ok(1..=FORMAT)) => {}
        Some(Ok(newer)) if newer > FORMAT => {
            return Err(Refusal::new(
                format!(
                    "it has format {newer}, and this version of mvsink understands up to format {FORMAT}"
                ),
                "use a newer version",
            ));
        }
        Some(_) => {
            let why = format!("its {FORMAT_PROPERTY} is not a format");
            return Err(Refusal::new(why, PUT_BACK));
        }
        None => {
            return Err(Refusal::new(
                format!("it is a Delta table of another program ({FORMAT_PROPERTY} is not set)"),
                make_room(url),
            ));
        }
    }
    if !matches!(property("delta.columnMapping.mode"), None | Some("none")) {
        let why = "it uses column mapping";
        return Err(Refusal::of_feature(why, "columnMapping"));
    }
    if property("delta.setTransactionRetentionDuration").is_some() {
        return Err(Refusal::new(
            "delta.setTransactionRetentionDuration is set, which would make it forget its frontiers",
            "unset it (in Spark `ALTER TABLE … UNSET TBLPROPERTIES`) and have that program write a checkpoint",
        ));
    }
    if metadata.format.provider != "parquet" {
        let why = format!("its files are {}", metadata.format.provider);
        return Err(Refusal::new(why, PUT_BACK));
    }
    if !metadata.partition_columns.is_empty() {
        return Err(Refusal::new("it is partitioned", PUT_BACK));
    }
    let schema = from_delta(&metadata.schema_string).map(Arc::new);
    schema.map_err(|refused| {
        let why = format!("its schema is not understood: {refused}");
        match refused.contains("timestamp_ntz") {
            true => Refusal::of_feature(why, "timestampNtz"),
            false => Refusal::new(why, PUT_BACK),
        }
    })
}

/// The gate of a table's first columns: with them it can hold updates. Later ones have the same and more.
pub(super) fn check_columns(schema: &Schema) -> Result<(), Refusal> {
    check_own_columns(schema).map_err(|why| {
        Refusal::new(
            format!("its schema is none of a shard: {why}"),
            "have the program that changed it put back what was there, or take the log from a copy",
        )
    })
}

/// The gate of files: none has rows that are deleted beside it.
pub(super) fn check_adds(commit: &Commit) -> Result<(), Refusal> {
    match commit.adds.iter().find(|add| add.deletion_vector.is_some()) {
        Some(add) => {
            let why = format!("{} has a deletion vector", add.path);
            Err(Refusal::of_feature(why, "deletionVectors"))
        }
        None => Ok(()),
    }
}

/// The gate of frontiers: each is a time or the empty one. `path` is what was read.
pub(super) fn check_txn(path: impl Fn() -> String, txn: &Txn) -> Result<(), Error> {
    if matches!(txn.app_id.as_str(), UPPER | SINCE) && txn.version < 0 {
        return Err(Error::Corrupt {
            path: path(),
            why: format!("{} is {}", txn.app_id, txn.version),
        });
    }
    Ok(())
}
