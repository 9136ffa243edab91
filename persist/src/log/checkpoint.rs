//! Checkpoints: the state of one version as a Parquet file with one action a row (protocol, section
//! "Checkpoints", classic form), and the `_last_checkpoint` file that points to the newest.
//!
//! A checkpoint replaces nothing: the log is read from it on because that is faster. So a failure to write
//! one costs nothing but the next opener's time. Multi-part and v2 checkpoints are refused.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StructArray, new_null_array};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use bytes::Bytes;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::Compression;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::Serialize;

use crate::error::Error;
use crate::file::guard;
use crate::log::action::{Action, Commit};
use crate::log::lenient;
use crate::pages;

/// Rows that are turned into a record batch at once: bounds the memory beside the state itself, and for how long a processor is
/// taken at a time.
const ROWS_AT_ONCE: usize = 256;

/// The key of the file's metadata that holds the hash of the entry.
const ENTRY_KEY: &str = "mvsink.entry";

/// The contents of `_last_checkpoint`.
#[derive(Serialize)]
pub(crate) struct LastCheckpoint {
    pub(crate) version: u64,
    pub(crate) size: u64,
}

/// The version that the contents of a `_last_checkpoint` name. Other writers say more: the form of the checkpoint,
/// numbers of parts, sums. Some of it has been wrong in released versions, and a file under the plain name is a plain
/// checkpoint whatever the pointer says of it.
pub(crate) fn pointed_to(bytes: &[u8]) -> Option<u64> {
    let fields = lenient::fields(lenient::without_bom(bytes))?;
    let version = lenient::last(&fields, "version")?;
    u64::try_from(lenient::integer(version)?).ok()
}

/// The object that points to the newest checkpoint.
pub(crate) fn last_checkpoint_path() -> Path {
    Path::from("_delta_log/_last_checkpoint")
}

/// The object that holds the checkpoint of `version`.
pub(crate) fn checkpoint_path(version: u64) -> Path {
    Path::from(format!("_delta_log/{version:020}.checkpoint.parquet"))
}

/// The form of a file in `_delta_log` by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFile {
    /// A log entry.
    Entry(u64),
    /// A checkpoint in one file.
    Checkpoint(u64),
    /// A checkpoint in several files, or one in the second form.
    OtherCheckpoint(u64),
}

impl LogFile {
    pub(crate) fn version(self) -> u64 {
        match self {
            LogFile::Entry(version)
            | LogFile::Checkpoint(version)
            | LogFile::OtherCheckpoint(version) => version,
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let (version, kind) = name.split_once('.')?;
        if version.len() != 20 {
            return None;
        }
        // Versions are signed to others: there is none beyond.
        let version = version
            .parse()
            .ok()
            .filter(|version| *version <= i64::MAX as u64)?;
        match kind {
            "json" => Some(LogFile::Entry(version)),
            "checkpoint.parquet" => Some(LogFile::Checkpoint(version)),
            _ if kind.starts_with("checkpoint.") => Some(LogFile::OtherCheckpoint(version)),
            _ => None,
        }
    }
}

/// A state, with one action a row, as a Parquet file. This computes: it belongs on the pool.
///
/// `entry` is a hash of the log entry of the same version, if its writer knows that: see [`entry_hash`].
pub(crate) fn encode(state: &Commit, entry: Option<u128>) -> Result<Bytes, String> {
    let fields = fields();
    let entry = entry.map(|hash| vec![KeyValue::new(ENTRY_KEY.to_owned(), format!("{hash:032x}"))]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        // Whoever reads a checkpoint reads it all.
        .set_statistics_enabled(EnabledStatistics::None)
        .set_key_value_metadata(entry)
        .build();
    let schema = Arc::new(Schema::new(fields));
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))
        .map_err(|error| error.to_string())?;
    let mut rows = Rows {
        schema,
        writer: &mut writer,
    };
    rows.write("protocol", state.protocol.as_slice())?;
    rows.write("metaData", state.metadata.as_slice())?;
    rows.write("txn", &state.txns)?;
    rows.write("remove", &state.removes)?;
    rows.write("add", &state.adds)?;
    writer
        .into_inner()
        .map(Bytes::from)
        .map_err(|error| error.to_string())
}

/// The rows of a checkpoint on their way to its file.
struct Rows<'w> {
    schema: SchemaRef,
    writer: &'w mut ArrowWriter<Vec<u8>>,
}

impl Rows<'_> {
    /// Writes the actions of one kind; the columns of all others are null.
    fn write<A: Serialize>(&mut self, kind: &str, actions: &[A]) -> Result<(), String> {
        for actions in actions.chunks(ROWS_AT_ONCE) {
            let columns = self
                .schema
                .fields()
                .iter()
                .map(|field| match field.data_type() {
                    DataType::Struct(children) if field.name() == kind => {
                        let columns = serde_arrow::to_arrow(children, actions)
                            .map_err(|error| error.to_string())?;
                        let record = StructArray::try_new(children.clone(), columns, None);
                        let record = record.map_err(|error| error.to_string())?;
                        Ok(Arc::new(record) as ArrayRef)
                    }
                    _ => Ok(new_null_array(field.data_type(), actions.len())),
                });
            let columns = columns.collect::<Result<_, String>>()?;
            let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
                .map_err(|error| error.to_string())?;
            self.writer
                .write(&batch)
                .map_err(|error| error.to_string())?;
            // Commits go on meanwhile, and each is short.
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// The hash of the log entry that the checkpoint goes with, if its writer said: an entry of that version with another
/// one was put after the log had been cleaned up there.
pub(crate) fn entry_hash(bytes: &Bytes, path: &str) -> Result<Option<u128>, Error> {
    let find = || {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).ok()?;
        let pairs = builder.metadata().file_metadata().key_value_metadata()?;
        let pair = pairs.iter().find(|pair| pair.key == ENTRY_KEY)?;
        u128::from_str_radix(pair.value.as_ref()?, 16).ok()
    };
    guard(path, find)
}

/// The actions of a checkpoint; `path` is for the messages. This computes: it belongs on the pool.
pub(crate) fn decode(bytes: Bytes, url: &str, path: &str) -> Result<Commit, Error> {
    guard(path, || read(bytes, url, path))?
}

fn read(bytes: Bytes, url: &str, path: &str) -> Result<Commit, Error> {
    let corrupt = |why: String| Error::Corrupt {
        path: path.to_owned(),
        why,
    };
    check_size(&bytes).map_err(corrupt)?;
    if has_rows(&bytes, "checkpointMetadata").map_err(corrupt)? {
        return Err(Error::Unsupported {
            url: url.to_owned(),
            why: format!("{path} is a checkpoint of the second form"),
        });
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .map_err(|error| corrupt(error.to_string()))?;
    let columns = builder.parquet_schema();
    // Only the columns that are known: others may have types without a counterpart here.
    let known = known_leaves();
    let mask = ProjectionMask::leaves(
        columns,
        (0..columns.num_columns()).filter(|column| {
            let path = columns.column(*column);
            let parts = path.path().parts();
            parts.len() >= 2
                && known
                    .iter()
                    .any(|(root, child)| *root == parts[0] && *child == parts[1])
        }),
    );
    let reader = builder
        .with_projection(mask)
        .build()
        .map_err(|error| corrupt(error.to_string()))?;
    let mut commit = Commit::default();
    for batch in reader {
        let batch = batch.map_err(|error| corrupt(error.to_string()))?;
        let actions: Vec<Action> =
            serde_arrow::from_record_batch(&batch).map_err(|error| corrupt(error.to_string()))?;
        for action in actions {
            commit.push(action);
        }
    }
    Ok(commit)
}

/// Refuses what would take memory out of proportion: every action names something of its own, a file or a program, so
/// that it takes a byte at least.
fn check_size(bytes: &Bytes) -> Result<(), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())
        .map_err(|error| error.to_string())?;
    let rows = builder.metadata().file_metadata().num_rows();
    if u64::try_from(rows).map_or(true, |rows| rows > bytes.len() as u64) {
        return Err(format!("{} bytes cannot hold {rows} actions", bytes.len()));
    }
    pages::check(bytes, builder.metadata())
}

/// True if some row of the file has a value in the column `root`.
fn has_rows(bytes: &Bytes, root: &str) -> Result<bool, String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())
        .map_err(|error| error.to_string())?;
    if builder.schema().index_of(root).is_err() {
        return Ok(false);
    }
    let mask = ProjectionMask::columns(builder.parquet_schema(), [root]);
    let reader = builder
        .with_projection(mask)
        .build()
        .map_err(|error| error.to_string())?;
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        if batch
            .columns()
            .iter()
            .any(|column| column.null_count() < column.len())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn known_leaves() -> Vec<(String, String)> {
    let mut leaves = Vec::new();
    for root in fields() {
        if let DataType::Struct(children) = root.data_type() {
            for child in children {
                leaves.push((root.name().clone(), child.name().clone()));
            }
        }
    }
    // Written by nobody here, but its presence must be seen to be refused.
    leaves.push(("add".into(), "deletionVector".into()));
    leaves
}

/// The columns of a checkpoint: one struct a kind of action.
fn fields() -> Vec<FieldRef> {
    let field = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
    let string = |name| field(name, DataType::Utf8, true);
    let long = |name| field(name, DataType::Int64, true);
    let int = |name| field(name, DataType::Int32, true);
    let boolean = |name| field(name, DataType::Boolean, true);
    let strings = |name| {
        let element = Arc::new(Field::new("element", DataType::Utf8, true));
        field(name, DataType::List(element), true)
    };
    let map = |name| {
        let entry = vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Utf8, true),
        ];
        let entries = Arc::new(Field::new(
            "key_value",
            DataType::Struct(entry.into()),
            false,
        ));
        field(name, DataType::Map(entries, false), true)
    };
    let record = |name: &str, fields: Vec<Field>| {
        Arc::new(Field::new(name, DataType::Struct(fields.into()), true))
    };
    vec![
        record(
            "txn",
            vec![string("appId"), long("version"), long("lastUpdated")],
        ),
        record(
            "add",
            vec![
                string("path"),
                map("partitionValues"),
                long("size"),
                long("modificationTime"),
                boolean("dataChange"),
                string("stats"),
                map("tags"),
            ],
        ),
        record(
            "remove",
            vec![
                string("path"),
                long("deletionTimestamp"),
                boolean("dataChange"),
                boolean("extendedFileMetadata"),
                map("partitionValues"),
                long("size"),
                map("tags"),
            ],
        ),
        record(
            "metaData",
            vec![
                string("id"),
                string("name"),
                string("description"),
                field(
                    "format",
                    DataType::Struct(vec![string("provider"), map("options")].into()),
                    true,
                ),
                string("schemaString"),
                strings("partitionColumns"),
                map("configuration"),
                long("createdTime"),
            ],
        ),
        record(
            "protocol",
            vec![
                int("minReaderVersion"),
                int("minWriterVersion"),
                strings("readerFeatures"),
                strings("writerFeatures"),
            ],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::log::action::{Add, Format, Metadata, Protocol, Remove, Txn};

    fn commit() -> Commit {
        Commit {
            info: None,
            protocol: Some(Protocol {
                min_reader_version: 1,
                min_writer_version: 2,
                ..Protocol::default()
            }),
            metadata: Some(Metadata {
                id: "id".into(),
                format: Format {
                    provider: "parquet".into(),
                    options: BTreeMap::new(),
                },
                schema_string: "{}".into(),
                configuration: BTreeMap::from([("a".into(), Some("b".into())), ("n".into(), None)]),
                created_time: Some(5),
                ..Metadata::default()
            }),
            txns: vec![Txn {
                app_id: "x".into(),
                version: i64::MAX,
                last_updated: None,
            }],
            adds: (0..20_000)
                .map(|i| Add {
                    path: format!("{i}.parquet"),
                    partition_values: Some(BTreeMap::new()),
                    size: i,
                    modification_time: 3,
                    stats: Some("{}".into()),
                    tags: Some(BTreeMap::from([("sum".into(), Some(i.to_string()))])),
                    ..Add::default()
                })
                .collect(),
            removes: vec![Remove {
                path: "gone.parquet".into(),
                deletion_timestamp: Some(9),
                tags: Some(BTreeMap::from([("by".into(), Some("9".into()))])),
                ..Remove::default()
            }],
        }
    }

    #[test]
    fn checkpoints_round_trip() {
        let read = decode(encode(&commit(), None).unwrap(), "url", "path").unwrap();
        assert_eq!(read, commit());
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = encode(&commit(), None).unwrap();
        for cut in [0, 4, bytes.len() / 2, bytes.len() - 1] {
            assert!(matches!(
                decode(bytes.slice(..cut), "url", "path"),
                Err(Error::Corrupt { .. })
            ));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::testing::cases(256)))]

        #[test]
        fn damage_never_panics(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut commit = commit();
            commit.adds.truncate(20);
            let mut bytes = encode(&commit, None).unwrap().to_vec();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            // Whatever it reads as.
            let _ = decode(bytes.into(), "url", "path");
        }
    }

    #[test]
    fn names_in_the_log_folder() {
        let version = "00000000000000000007";
        for (kind, expected) in [
            ("json", Some(LogFile::Entry(7))),
            ("checkpoint.parquet", Some(LogFile::Checkpoint(7))),
            (
                "checkpoint.0000000001.0000000002.parquet",
                Some(LogFile::OtherCheckpoint(7)),
            ),
            ("crc", None),
        ] {
            assert_eq!(LogFile::from_name(&format!("{version}.{kind}")), expected);
        }
        assert_eq!(LogFile::from_name("_last_checkpoint"), None);
        assert_eq!(LogFile::from_name("00000000000000000007.json#1"), None);
    }
}
