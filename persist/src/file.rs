//! Parquet files in memory: batches to bytes and back. No I/O, no clock; whoever calls chooses the thread.
//!
//! The encoding is the one that was measured best for updates and that every Delta reader knows: pages of
//! version 1, LZ4_RAW but for strings that it hardly shrinks, dictionaries on strings that repeat, DELTA_BINARY_PACKED on
//! integers (times and diffs shrink to almost nothing), statistics per column chunk, names of lists and maps as in the
//! Parquet specification, and no embedded Arrow schema. What is written is hashed: a file knows the sums of its rows'
//! fingerprints.
//!
//! The Parquet reader panics on some damaged files. Damage is what the world does, so it is caught here and
//! reported as [`Error::Corrupt`] like any other; the reader is dropped and not used again.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Fields, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding, Type as PhysicalType};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

use crate::error::Error;
use crate::pages;
use crate::row_hash::Fingerprints;
use crate::schema::TIME_COLUMN;
use crate::sums::Sums;

/// Rows of a file that are decoded at once where all of them are looked at.
pub(crate) const BATCH_ROWS: usize = 8192;

/// The rows of a row group: what a reader that goes through many files at once holds of each.
const ROW_GROUP_ROWS_MAX: usize = 128 * 1024;

/// The compressed bytes of a row group, about: readers that stream hold one of each file.
pub(crate) const GROUP_BYTES_MAX: usize = 8 << 20;

/// The first rows of a file by which it is told whether a column of strings repeats: of 20,000 values, about as many
/// as a dictionary holds before it is given up, so many rows show one in twenty twice.
const SAMPLE_ROWS: usize = 2048;

/// Strings are compressed if that saves at least one byte in so many: to look for what repeats in them takes longer than all
/// else that is done with them.
const SAVED_MIN: usize = 5;

/// Writes batches into one Parquet file in memory.
pub struct FileEncoder {
    schema: SchemaRef,
    /// None until the first batch shows which strings repeat.
    writer: Option<ArrowWriter<Vec<u8>>>,
    rows: u64,
    min_time: i64,
    max_time: i64,
    fingerprints: Fingerprints,
}

/// A finished Parquet file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EncodedFile {
    /// The file itself.
    pub bytes: Bytes,
    /// The number of its rows.
    pub rows: u64,
    /// The least `mv_time`; `i64::MAX` if there is none.
    pub min_time: i64,
    /// The greatest `mv_time`; `i64::MIN` if there is none.
    pub max_time: i64,
    /// The sums of its rows' fingerprints.
    pub sums: Sums,
    /// Whether no row has a lesser fingerprint than the one before it.
    pub sorted: bool,
}

impl FileEncoder {
    /// An empty file of this schema.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if a Delta table cannot hold the schema.
    pub fn new(schema: SchemaRef) -> Result<Self, Error> {
        let fingerprints = Fingerprints::new(&schema)?;
        Ok(FileEncoder {
            schema,
            writer: None,
            rows: 0,
            min_time: i64::MAX,
            max_time: i64::MIN,
            fingerprints,
        })
    }

    /// Appends a batch of the file's schema.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if the batch has another schema.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(begin(&self.schema, batch)?),
        };
        writer.write(batch).map_err(encode_error)?;
        self.rows += batch.num_rows() as u64;
        let times = batch.column_by_name(TIME_COLUMN);
        if let Some(times) = times.and_then(|times| times.as_any().downcast_ref::<Int64Array>()) {
            let (min, max) = bounds(times);
            self.min_time = self.min_time.min(min);
            self.max_time = self.max_time.max(max);
        }
        self.fingerprints.add(batch)
    }

    /// The schema of the file.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// About the bytes that the file would have if it were finished now.
    pub fn estimated_size(&self) -> usize {
        let writer = self.writer.as_ref();
        writer.map_or(0, |writer| {
            writer.bytes_written() + writer.in_progress_size()
        })
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if the rows do not fit a Parquet file.
    pub fn finish(self) -> Result<EncodedFile, Error> {
        let writer = match self.writer {
            Some(writer) => writer,
            None => begin(&self.schema, &RecordBatch::new_empty(self.schema.clone()))?,
        };
        let bytes = writer.into_inner().map_err(encode_error)?;
        Ok(EncodedFile {
            bytes: bytes.into(),
            rows: self.rows,
            min_time: self.min_time,
            max_time: self.max_time,
            sums: self.fingerprints.sums(),
            sorted: self.fingerprints.sorted,
        })
    }
}

fn bounds(times: &Int64Array) -> (i64, i64) {
    let widen = |(min, max): (i64, i64), time: i64| (min.min(time), max.max(time));
    let none = (i64::MAX, i64::MIN);
    if times.null_count() == 0 {
        times.values().iter().copied().fold(none, widen)
    } else {
        times.iter().flatten().fold(none, widen)
    }
}

/// A writer of a file that begins with this batch.
fn begin(schema: &SchemaRef, first: &RecordBatch) -> Result<ArrowWriter<Vec<u8>>, Error> {
    let properties = writer_properties(schema, &plain(first)).map_err(encode_error)?;
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(schema), options).map_err(encode_error)
}

/// What is not done to a column of strings, since it would not pay.
struct Plain {
    /// Its values hardly repeat: a dictionary of them would be given up.
    no_dictionary: bool,
    /// They are hardly shorter when compressed.
    uncompressed: bool,
}

/// What is not worth while for the columns of strings, by the first rows.
fn plain(first: &RecordBatch) -> HashMap<String, Plain> {
    if first.num_rows() < SAMPLE_ROWS {
        return HashMap::new();
    }
    let schema = first.schema_ref();
    let columns = schema.fields().iter().zip(first.columns());
    let strings = columns.filter(|(field, _)| field.data_type() == &DataType::Utf8);
    strings
        .map(|(field, column)| {
            let sample = column.as_string::<i32>().slice(0, SAMPLE_ROWS);
            let distinct: HashSet<Option<&str>> = sample.iter().collect();
            let no_dictionary = distinct.len() > SAMPLE_ROWS - SAMPLE_ROWS / 20;
            let plain = Plain {
                no_dictionary,
                uncompressed: no_dictionary && is_hardly_compressed(&sample),
            };
            (field.name().clone(), plain)
        })
        .collect()
}

fn is_hardly_compressed(sample: &StringArray) -> bool {
    let (begin, end) = (sample.offsets().first(), sample.offsets().last());
    let bytes = &sample.value_data()[begin as usize..end as usize];
    let compressed = lz4_flex::block::compress(bytes);
    compressed.len() > bytes.len() - bytes.len() / SAVED_MIN
}

fn writer_properties(
    schema: &SchemaRef,
    plain: &HashMap<String, Plain>,
) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::LZ4_RAW)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_bytes(Some(GROUP_BYTES_MAX))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_coerce_types(true);
    let columns = ArrowSchemaConverter::new()
        .with_coerce_types(true)
        .convert(schema)?;
    for column in columns.columns() {
        let path = column.path().clone();
        properties = match column.physical_type() {
            PhysicalType::BYTE_ARRAY => {
                let plain = plain.get(&path.string());
                if plain.is_some_and(|plain| plain.uncompressed) {
                    properties =
                        properties.set_column_compression(path.clone(), Compression::UNCOMPRESSED);
                }
                let repeats = !plain.is_some_and(|plain| plain.no_dictionary);
                properties.set_column_dictionary_enabled(path, repeats)
            }
            PhysicalType::INT32 | PhysicalType::INT64 => {
                properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
            }
            _ => properties,
        };
    }
    Ok(properties.build())
}

fn encode_error(error: ParquetError) -> Error {
    Error::Type {
        type_name: "a batch of rows".into(),
        why: error.to_string(),
    }
}

/// The batches of a Parquet file, in order. Ends after the first error.
pub struct FileDecoder {
    path: String,
    /// None once it has ended or failed.
    reader: Option<ParquetRecordBatchReader>,
    rows: u64,
}

/// Opens a Parquet file, of this program or another, that lies in memory.
///
/// `path` is for errors only. `projection` names the columns wanted, all without it; names that the file lacks
/// are ignored, since a Delta column that a file lacks is null. Batches have at most `batch_rows` rows and the
/// plain types of their Delta columns, whatever Arrow schema the writer embedded.
///
/// # Errors
///
/// [`Error::Corrupt`] with `path` if it is no Parquet file.
pub fn decode_file(
    path: &str,
    bytes: Bytes,
    projection: Option<&[&str]>,
    batch_rows: usize,
) -> Result<FileDecoder, Error> {
    guard(path, || open(path, bytes, projection, batch_rows))?
}

fn open(
    path: &str,
    bytes: Bytes,
    projection: Option<&[&str]>,
    batch_rows: usize,
) -> Result<FileDecoder, Error> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options)
        .map_err(|error| unreadable(path, &error))?;
    if let Some(name) = column_twice(builder.schema().fields()) {
        return Err(corrupt(path, &format_args!("it has two columns {name}")));
    }
    pages::check_codecs(builder.metadata()).map_err(|why| unsupported(path, why))?;
    pages::check(&bytes, builder.metadata()).map_err(|why| corrupt(path, &why))?;
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows())
        .map_err(|error| corrupt(path, &error))?;
    let mask = match projection {
        Some(names) => {
            let fields = builder.schema().fields().iter().enumerate();
            let roots = fields.filter(|(_, field)| names.contains(&field.name().as_str()));
            ProjectionMask::roots(builder.parquet_schema(), roots.map(|(index, _)| index))
        }
        None => ProjectionMask::all(),
    };
    let reader = builder
        .with_projection(mask)
        .with_batch_size(batch_rows.max(1))
        .build()
        .map_err(|error| unreadable(path, &error))?;
    Ok(FileDecoder::new(path.to_owned(), reader, rows))
}

/// The name of a column that stands twice, or of a field in a struct: nobody can tell which of them is meant.
pub(crate) fn column_twice(fields: &Fields) -> Option<&str> {
    let mut seen = HashSet::with_capacity(fields.len());
    fields.iter().find_map(|field| match field.data_type() {
        _ if !seen.insert(field.name()) => Some(field.name().as_str()),
        DataType::Struct(fields) => column_twice(fields),
        _ => None,
    })
}

impl FileDecoder {
    /// The rest of `reader`, which reads `rows` rows of the file `path`.
    pub(crate) fn new(path: String, reader: ParquetRecordBatchReader, rows: u64) -> Self {
        FileDecoder {
            path,
            reader: Some(reader),
            rows,
        }
    }

    /// The number of rows that the file says it has.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

impl Iterator for FileDecoder {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = self.reader.take()?;
        match guard(&self.path, || reader.next()) {
            Ok(None) => None,
            Ok(Some(Ok(batch))) => {
                self.reader = Some(reader);
                Some(Ok(batch))
            }
            Ok(Some(Err(error))) => Some(Err(unreadable(&self.path, &error))),
            Err(error) => Some(Err(error)),
        }
    }
}

/// Runs the Parquet reader; a panic becomes an error about the file. What `read` borrows must not be used after
/// an error.
pub(crate) fn guard<T>(path: &str, read: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        unreadable(path, &message.unwrap_or("the reader failed"))
    })
}

/// The error for what the Parquet reader says of a file: what it does not know is no damage.
#[cold]
pub(crate) fn unreadable(path: &str, error: &dyn std::fmt::Display) -> Error {
    /// What it says of that. (It has a kind of errors for it, but does not use it throughout.)
    const SAYS: [&str; 7] = [
        "NYI",
        "Disabled feature",
        "not supported",
        "unsupported",
        "not implemented",
        "encrypt",
        "Unexpected CompressionCodec",
    ];
    let message = error.to_string();
    match SAYS.iter().any(|says| message.contains(says)) {
        true => unsupported(path, message),
        false => corrupt(path, &message),
    }
}

#[cold]
pub(crate) fn unsupported(path: &str, why: String) -> Error {
    Error::UnsupportedFile {
        path: path.to_owned(),
        why,
    }
}

#[cold]
pub(crate) fn corrupt(path: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Corrupt {
        path: path.to_owned(),
        why: error.to_string(),
    }
}
