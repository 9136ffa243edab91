//! The gates of a table's log, which refuse what is not understood.

use std::sync::Arc;

use arrow_schema::SchemaRef;

use crate::error::Error;
use crate::location::make_room;
use crate::log::action::{Commit, Metadata, Protocol, Txn};
use crate::log::state::{FORMAT, FORMAT_PROPERTY, SINCE, UPPER};
use crate::schema::from_delta;

fn unsupported(url: &str, why: impl Into<String>) -> Error {
    Error::Unsupported {
        url: url.to_owned(),
        why: why.into(),
    }
}

/// The gate of the protocol: up to reader 1 and writer 2, or the features that those stand for.
pub(super) fn check_protocol(url: &str, protocol: &Protocol) -> Result<(), Error> {
    const WRITER_FEATURES: [&str; 2] = ["appendOnly", "invariants"];
    let unknown = |features: &Option<Vec<String>>, known: &[&str]| {
        let mut features = features.iter().flatten();
        features
            .find(|feature| !known.contains(&feature.as_str()))
            .cloned()
    };
    match protocol.min_reader_version {
        // Reader 2 means column mapping, which is refused where it is in use.
        ..=2 => {}
        3 => {
            if let Some(feature) = unknown(&protocol.reader_features, &[]) {
                return Err(unsupported(
                    url,
                    format!("it needs the reader feature {feature}"),
                ));
            }
        }
        version => {
            return Err(unsupported(
                url,
                format!("it needs Delta reader version {version}"),
            ));
        }
    }
    match protocol.min_writer_version {
        ..=2 => Ok(()),
        7 => match unknown(&protocol.writer_features, &WRITER_FEATURES) {
            Some(feature) => Err(unsupported(
                url,
                format!("it needs the writer feature {feature}"),
            )),
            None => Ok(()),
        },
        version => Err(unsupported(
            url,
            format!("it needs Delta writer version {version}"),
        )),
    }
}

/// The gate of the metadata; returns the columns.
pub(super) fn check_metadata(url: &str, metadata: &Metadata) -> Result<SchemaRef, Error> {
    let property = |name: &str| metadata.configuration.get(name).and_then(Option::as_deref);
    match property(FORMAT_PROPERTY).map(str::parse::<u64>) {
        Some(Ok(1..=FORMAT)) => {}
        Some(Ok(newer)) if newer > FORMAT => {
            return Err(unsupported(
                url,
                format!(
                    "it has format {newer}, and this version of mvsink understands up to format {FORMAT}"
                ),
            ));
        }
        Some(_) => {
            return Err(unsupported(
                url,
                format!("its {FORMAT_PROPERTY} is not a format"),
            ));
        }
        None => {
            return Err(unsupported(
                url,
                format!(
                    "it is a Delta table of another program ({FORMAT_PROPERTY} is not set); {}",
                    make_room(url)
                ),
            ));
        }
    }
    if !matches!(property("delta.columnMapping.mode"), None | Some("none")) {
        return Err(unsupported(url, "it uses column mapping"));
    }
    if property("delta.setTransactionRetentionDuration").is_some() {
        return Err(unsupported(
            url,
            "delta.setTransactionRetentionDuration is set, which would make it forget its frontiers",
        ));
    }
    if metadata.format.provider != "parquet" {
        return Err(unsupported(
            url,
            format!("its files are {}", metadata.format.provider),
        ));
    }
    if !metadata.partition_columns.is_empty() {
        return Err(unsupported(url, "it is partitioned"));
    }
    from_delta(&metadata.schema_string)
        .map(Arc::new)
        .map_err(|why| unsupported(url, format!("its schema is not understood: {why}")))
}

/// The gate of files: none has rows that are deleted beside it.
pub(super) fn check_adds(url: &str, commit: &Commit) -> Result<(), Error> {
    match commit.adds.iter().find(|add| add.deletion_vector.is_some()) {
        Some(add) => Err(unsupported(
            url,
            format!("{} has a deletion vector", add.path),
        )),
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
