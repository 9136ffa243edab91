//! The actions of a Delta log and the commits they form, as in the Delta transaction protocol, section
//! "Actions": one JSON object a line, with the kind of the action as its only key.
//!
//! Kinds and fields that are unknown here are skipped when read, as the protocol asks: what must be understood
//! is announced in `protocol` and checked by the gates in [`super::state`]. What is known may be written in other
//! ways than ours ([`super::lenient`]). Entries of ours say in `commitInfo`
//! how many lines they have, so that one cut off at the end of a line is noticed too.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lenient;
use crate::error::Error;

/// The identity of a commit: who made it, and its how-manieth.
///
/// The nonce is drawn once by an instance of a sink, the sequence number counts its descriptions. It is stored
/// in the commit, and is what tells one's own commit from a rival's after an uncertain result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId {
    /// Random, unique to the instance that commits.
    pub nonce: u128,
    /// Counts the commits that the instance attempts.
    pub seq: u64,
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.nonce, self.seq)
    }
}

/// The text is not a [`CommitId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a commit's identity")]
pub struct ParseCommitIdError(String);

impl FromStr for CommitId {
    type Err = ParseCommitIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (nonce, seq) = text.split_once('-')?;
            Some(CommitId {
                nonce: u128::from_str_radix(nonce, 16).ok()?,
                seq: seq.parse().ok()?,
            })
        };
        parse().ok_or_else(|| ParseCommitIdError(text.to_owned()))
    }
}

impl TryFrom<String> for CommitId {
    type Error = ParseCommitIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<CommitId> for String {
    fn from(id: CommitId) -> Self {
        id.to_string()
    }
}

/// A map whose values may be null, as the protocol has it for partition values and tags.
pub(crate) type NullableMap = BTreeMap<String, Option<String>>;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Protocol {
    pub(crate) min_reader_version: i32,
    pub(crate) min_writer_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) writer_features: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Format {
    pub(crate) provider: String,
    #[serde(default)]
    pub(crate) options: NullableMap,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    pub(crate) format: Format,
    pub(crate) schema_string: String,
    #[serde(default)]
    pub(crate) partition_columns: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_time: Option<i64>,
    #[serde(default)]
    pub(crate) configuration: NullableMap,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Txn {
    pub(crate) app_id: String,
    pub(crate) version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_updated: Option<i64>,
}

/// Only its presence matters: it is refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeletionVector {
    pub(crate) storage_type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Add {
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) partition_values: Option<NullableMap>,
    pub(crate) size: i64,
    pub(crate) modification_time: i64,
    pub(crate) data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tags: Option<NullableMap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deletion_vector: Option<DeletionVector>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Remove {
    pub(crate) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deletion_timestamp: Option<i64>,
    pub(crate) data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) partition_values: Option<NullableMap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tags: Option<NullableMap>,
}

/// What `commitInfo` holds of ours; everybody's is free-form, so that nothing else of it is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CommitInfo {
    #[serde(skip_deserializing)]
    pub(crate) timestamp: Value,
    #[serde(skip_deserializing)]
    pub(crate) operation: Value,
    #[serde(skip_deserializing)]
    pub(crate) operation_parameters: Value,
    #[serde(skip_deserializing)]
    pub(crate) engine_info: Value,
    #[serde(default, rename = "mvsink.id", skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<CommitId>,
    #[serde(
        default,
        rename = "mvsink.lower",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) lower: Option<i64>,
    #[serde(
        default,
        rename = "mvsink.upper",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) upper: Option<i64>,
    /// The identity of the table: tells entries of one that was deleted and created again at the same place.
    #[serde(
        default,
        rename = "mvsink.table",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) table: Option<String>,
    /// The version that a repair went back to: the table goes on from the checkpoint of this entry's version, and not
    /// from the entries before it.
    #[serde(
        default,
        rename = "mvsink.restored",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) restored: Option<u64>,
    /// The lines of the entry, this one included.
    #[serde(
        default,
        rename = "mvsink.lines",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) lines: Option<usize>,
}

/// One line of the log, or one row of a checkpoint: at most one field is present, none if its kind is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Action {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit_info: Option<CommitInfo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<Protocol>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) meta_data: Option<Metadata>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) txn: Option<Txn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) add: Option<Add>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) remove: Option<Remove>,
}

/// About the bytes of a line.
const LINE_BYTES: usize = 256;

/// One line of the log as it is written: an [`Action`] of which one field is present.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Line<'a> {
    CommitInfo(&'a CommitInfo),
    Protocol(&'a Protocol),
    MetaData(&'a Metadata),
    Txn(&'a Txn),
    Remove(&'a Remove),
    Add(&'a Add),
}

/// All actions of one log entry, or of a checkpoint, by kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Commit {
    pub(crate) info: Option<CommitInfo>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) txns: Vec<Txn>,
    pub(crate) adds: Vec<Add>,
    pub(crate) removes: Vec<Remove>,
}

impl Commit {
    /// Adds one action.
    pub(crate) fn push(&mut self, action: Action) {
        if action.commit_info.is_some() {
            self.info = action.commit_info;
        }
        if action.protocol.is_some() {
            self.protocol = action.protocol;
        }
        if action.meta_data.is_some() {
            self.metadata = action.meta_data;
        }
        self.txns.extend(action.txn);
        self.adds.extend(action.add);
        self.removes.extend(action.remove);
    }

    /// Reads a log entry; `path` is for the message.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not whole.
    pub(crate) fn parse(bytes: &Bytes, path: &str) -> Result<Self, Error> {
        let corrupt = |why: String| Error::Corrupt {
            path: path.to_owned(),
            why,
        };
        let mut commit = Commit::default();
        let mut lines = 0;
        let all = lenient::without_bom(bytes).split(|byte| *byte == b'\n');
        for (index, line) in all.enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            lines += 1;
            // Most lines are as expected, and the rest takes longer.
            let action = serde_json::from_slice(line).or_else(|error| {
                lenient::action(line).map_err(|why| {
                    corrupt(format!(
                        "line {} is not an action: {error}; {why}",
                        index + 1
                    ))
                })
            });
            commit.push(action?);
        }
        if lines == 0 {
            return Err(corrupt("it is empty".into()));
        }
        match commit.info.as_ref().and_then(|info| info.lines) {
            Some(expected) if expected != lines => {
                Err(corrupt(format!("it has {lines} of its {expected} lines")))
            }
            _ => Ok(commit),
        }
    }

    /// The number of actions.
    pub(crate) fn actions(&self) -> usize {
        usize::from(self.info.is_some())
            + usize::from(self.protocol.is_some())
            + usize::from(self.metadata.is_some())
            + self.txns.len()
            + self.adds.len()
            + self.removes.len()
    }

    /// The bytes of a log entry, with its number of lines noted in `commitInfo`.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let lines = self.actions();
        let info = self.info.clone().map(|info| CommitInfo {
            lines: Some(lines),
            ..info
        });
        let info = info.iter().map(Line::CommitInfo);
        let protocol = self.protocol.iter().map(Line::Protocol);
        let metadata = self.metadata.iter().map(Line::MetaData);
        let txns = self.txns.iter().map(Line::Txn);
        let removes = self.removes.iter().map(Line::Remove);
        let adds = self.adds.iter().map(Line::Add);
        let small = info.chain(protocol).chain(metadata).chain(txns);
        let mut bytes = Vec::with_capacity(LINE_BYTES * lines);
        for line in small.chain(removes).chain(adds) {
            // Strings, numbers and maps with string keys: there is nothing that JSON cannot hold.
            let _ = serde_json::to_writer(&mut bytes, &line);
            bytes.push(b'\n');
        }
        Bytes::from(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit() -> Commit {
        Commit {
            info: Some(CommitInfo {
                id: Some(CommitId { nonce: 7, seq: 3 }),
                ..CommitInfo::default()
            }),
            txns: vec![Txn {
                app_id: "a".into(),
                version: 1,
                last_updated: None,
            }],
            adds: vec![Add {
                path: "f.parquet".into(),
                partition_values: Some(BTreeMap::from([("p".into(), None)])),
                data_change: true,
                ..Add::default()
            }],
            ..Commit::default()
        }
    }

    #[test]
    fn entries_round_trip_and_unknown_kinds_are_skipped() {
        let mut bytes = commit().to_bytes().to_vec();
        let read = Commit::parse(&bytes.clone().into(), "x").unwrap();
        assert_eq!(read.adds, commit().adds);
        assert_eq!(read.info.unwrap().id, commit().info.unwrap().id);
        bytes = String::from_utf8(bytes)
            .unwrap()
            .replace("\"mvsink.lines\":3", "\"x\":1")
            .into_bytes();
        bytes.extend(b"{\"cdc\":{\"path\":\"x\"}}\n");
        assert_eq!(
            Commit::parse(&bytes.into(), "x").unwrap().txns,
            commit().txns
        );
    }

    #[test]
    fn every_truncation_is_noticed() {
        let bytes = commit().to_bytes();
        for length in 0..bytes.len() - 1 {
            let cut = Commit::parse(&bytes.slice(..length), "x");
            assert!(matches!(cut, Err(Error::Corrupt { .. })), "cut at {length}");
        }
    }

    #[test]
    fn identities_round_trip_as_text() {
        let id = CommitId {
            nonce: u128::MAX - 5,
            seq: 17,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(
            serde_json::from_str::<CommitId>(&serde_json::to_string(&id).unwrap()).unwrap(),
            id
        );
        assert!("nonsense".parse::<CommitId>().is_err());
    }
}
