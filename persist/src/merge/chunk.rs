//! Decoded rows on their way through a merge, and the meter of the memory that they take.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow_array::{cast::AsArray, new_null_array, types::Int64Type};
use arrow_schema::{ArrowError, DataType, Fields, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::filter::filter_record_batch;

use crate::conform::conform;
use crate::data_file::DataFile;
use crate::error::Error;
use crate::file::corrupt;
use crate::fingerprint::{BUCKETS, bucket};
use crate::read::filter::{BoundFilter, Filter};
use crate::row_hash::{RowHasher, Rows};
use crate::schema::{DIFF_COLUMN, ERROR_COLUMN, TIME_COLUMN};
use crate::sums::Sums;

/// Bytes in use, and the most there ever were.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Meter {
    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Counts `bytes` until the result is dropped.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Held {
            meter: Arc::clone(self),
            bytes,
        }
    }
}

/// Some bytes on a meter.
#[derive(Debug)]
pub(crate) struct Held {
    meter: Arc<Meter>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.meter.now.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What rows become before they are merged.
///
/// ```text
///   (row, time, diff)  →  (the columns wanted, max(time, since), diff)    if it passes the filters
/// ```
///
/// A null time is the since, a null diff is 1: only other programs write them.
pub(crate) struct Recipe {
    /// For messages.
    pub(crate) url: Arc<str>,
    /// The columns of the rows that are merged: of data, and that of the error.
    pub(crate) rows: SchemaRef,
    /// The columns that come out: those of the rows, the time if it is wanted, and the diff.
    pub(crate) output: SchemaRef,
    /// The columns that are read: those of the rows, and those of the filter.
    pub(crate) read: SchemaRef,
    pub(crate) filter: BoundFilter,
    /// Times below are taken to it.
    pub(crate) since: i64,
    /// Of the times after that those at or after it are wanted,
    pub(crate) min_time: Option<i64>,
    /// and those at or before it.
    pub(crate) max_time: Option<i64>,
    /// All columns of data come out: the hashes that files are sorted by are those of the rows.
    pub(crate) whole_rows: bool,
}

/// Sums of fingerprints that are being added up, all buckets in place.
pub(crate) struct Totals(Box<[u128; BUCKETS]>);

impl Default for Totals {
    fn default() -> Self {
        Totals(Box::new([0; BUCKETS]))
    }
}

impl Totals {
    #[inline]
    pub(crate) fn add(&mut self, hash: u128, diff: i64) {
        let total = &mut self.0[usize::from(bucket(hash))];
        *total = total.wrapping_add(hash.wrapping_mul(i128::from(diff) as u128));
    }

    pub(crate) fn sums(&self) -> Sums {
        Sums::from_totals(&self.0)
    }
}

/// The sums of the rows of a file as they are read, and what they must be in the end.
pub(crate) struct FileCheck {
    shown: String,
    expected: Option<Sums>,
    read: Totals,
}

impl FileCheck {
    /// For all rows of a file; `shown` is its name in messages.
    pub(crate) fn new(shown: String, file: &DataFile) -> Self {
        FileCheck {
            shown,
            expected: file.sums.clone(),
            read: Totals::default(),
        }
    }

    /// Called when all rows were read.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.expected {
            Some(expected) if expected != self.read.sums() => Err(corrupt(
                &self.shown,
                &"its rows are not those that its writer put there: their fingerprints differ",
            )),
            _ => Ok(()),
        }
    }
}

/// Rows in memory with their hashes, times and diffs.
pub(crate) struct Chunk {
    pub(crate) batch: RecordBatch,
    pub(crate) hashes: Vec<u128>,
    pub(crate) times: Vec<i64>,
    pub(crate) diffs: Vec<i64>,
    /// The rows ready for comparison, once that was needed.
    canonical: OnceLock<Rows>,
    bytes: usize,
    _held: Held,
}

impl Chunk {
    pub(crate) fn new(
        batch: RecordBatch,
        hashes: Vec<u128>,
        times: Vec<i64>,
        diffs: Vec<i64>,
        meter: &Arc<Meter>,
    ) -> Self {
        let bytes = batch.get_array_memory_size()
            + size_of::<u128>() * hashes.capacity()
            + size_of::<i64>() * (times.capacity() + diffs.capacity());
        Chunk::of_bytes(batch, hashes, times, diffs, bytes, meter)
    }

    /// The same, where the columns share memory, so that `bytes` says better than they what it all takes.
    pub(crate) fn of_bytes(
        batch: RecordBatch,
        hashes: Vec<u128>,
        times: Vec<i64>,
        diffs: Vec<i64>,
        bytes: usize,
        meter: &Arc<Meter>,
    ) -> Self {
        Chunk {
            batch,
            hashes,
            times,
            diffs,
            canonical: OnceLock::new(),
            bytes,
            _held: meter.hold(bytes),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.hashes.len()
    }

    /// The memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The canonical bytes of a row: equal exactly if the rows are.
    pub(crate) fn canonical(
        &self,
        hasher: &RowHasher,
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let rows = match self.canonical.get() {
            Some(rows) => rows,
            None => {
                let rows = hasher.rows(&self.batch)?;
                self.canonical.get_or_init(|| rows)
            }
        };
        rows.canonical(row, out);
        Ok(())
    }

    /// The rows for which `mask` is true.
    pub(crate) fn filter(
        self,
        mask: &BooleanArray,
        meter: &Arc<Meter>,
    ) -> Result<Self, ArrowError> {
        let batch = filter_record_batch(&self.batch, mask)?;
        Ok(Chunk::new(
            batch,
            keep(&self.hashes, mask),
            keep(&self.times, mask),
            keep(&self.diffs, mask),
            meter,
        ))
    }

    /// The rows of all of them.
    pub(crate) fn concat(
        schema: &SchemaRef,
        chunks: &[Chunk],
        meter: &Arc<Meter>,
    ) -> Result<Self, ArrowError> {
        let batch = concat_batches(schema, chunks.iter().map(|chunk| &chunk.batch))?;
        let all = |part: fn(&Chunk) -> &Vec<i64>| {
            let parts: Vec<_> = chunks.iter().map(|chunk| part(chunk).as_slice()).collect();
            parts.concat()
        };
        let hashes: Vec<_> = chunks.iter().map(|chunk| chunk.hashes.as_slice()).collect();
        Ok(Chunk::new(
            batch,
            hashes.concat(),
            all(|chunk| &chunk.times),
            all(|chunk| &chunk.diffs),
            meter,
        ))
    }
}

fn keep<T: Copy>(values: &[T], mask: &BooleanArray) -> Vec<T> {
    let mut kept = Vec::with_capacity(mask.true_count());
    kept.extend(
        values
            .iter()
            .zip(mask.values())
            .filter_map(|(value, wanted)| wanted.then_some(*value)),
    );
    kept
}

/// Which rows of a table are merged, and which of their columns.
pub(crate) struct Wanted<'a> {
    /// The columns of data by name; `None` means all.
    pub(crate) columns: Option<&'a [String]>,
    pub(crate) filter: &'a Filter,
    pub(crate) since: i64,
    pub(crate) min_time: Option<i64>,
    pub(crate) max_time: Option<i64>,
    /// Whether the time is among the columns that come out.
    pub(crate) with_time: bool,
}

impl Recipe {
    /// What is `wanted` of a table with the columns `table`; `url` is for messages.
    ///
    /// # Errors
    /// [`Error::InvalidRead`] if the columns or the filter do not fit the table.
    pub(crate) fn new(url: &Arc<str>, table: &Schema, wanted: &Wanted<'_>) -> Result<Self, Error> {
        let invalid = |why| Error::InvalidRead {
            url: url.to_string(),
            why,
        };
        let filter = wanted.filter.bind(table).map_err(invalid)?;
        let own = |name: &str| [ERROR_COLUMN, TIME_COLUMN, DIFF_COLUMN].contains(&name);
        if let Some(missing) = wanted.columns.and_then(|columns| {
            let mut columns = columns.iter();
            columns.find(|name| own(name) || table.column_with_name(name).is_none())
        }) {
            return Err(invalid(format!("there is no column {missing} of data")));
        }
        let selected = |name: &str| {
            name == ERROR_COLUMN
                || wanted
                    .columns
                    .is_none_or(|names| names.iter().any(|n| n == name))
        };
        let columns = |keep: &dyn Fn(&str) -> bool| {
            let fields = table.fields().iter().filter(|field| keep(field.name()));
            Arc::new(Schema::new(fields.cloned().collect::<Fields>()))
        };
        let is_row = |name: &str| ![TIME_COLUMN, DIFF_COLUMN].contains(&name);
        Ok(Recipe {
            url: Arc::clone(url),
            rows: columns(&|name| is_row(name) && selected(name)),
            output: columns(&|name| match name {
                TIME_COLUMN => wanted.with_time,
                DIFF_COLUMN => true,
                name => selected(name),
            }),
            read: columns(&|name| {
                is_row(name) && (selected(name) || filter.columns().any(|column| column == name))
            }),
            whole_rows: table
                .fields()
                .iter()
                .all(|f| own(f.name()) || selected(f.name())),
            filter,
            since: wanted.since,
            min_time: wanted.min_time,
            max_time: wanted.max_time,
        })
    }

    /// True if all columns of all rows are read, so that a file's sums can be checked.
    pub(crate) fn takes_all(&self) -> bool {
        self.whole_rows && self.filter.is_all()
    }

    /// The rows of a batch that was read, as far as they are wanted.
    ///
    /// The sums of all rows are added to `check`, and those of the rows wanted to `wanted`.
    pub(crate) fn prepare(
        &self,
        hasher: &mut RowHasher,
        batch: &RecordBatch,
        check: Option<&mut FileCheck>,
        wanted: &mut Totals,
        meter: &Arc<Meter>,
    ) -> Result<Chunk, Error> {
        let mut times = self.integers(batch, TIME_COLUMN, self.since)?;
        for time in &mut times {
            *time = (*time).max(self.since);
        }
        let mut diffs = self.integers(batch, DIFF_COLUMN, 1)?;
        let mut columns = Vec::with_capacity(self.read.fields().len());
        for field in self.read.fields() {
            columns.push(self.column(batch, field.name(), field.data_type())?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let mut rows = RecordBatch::try_new_with_options(self.read.clone(), columns, &options)
            .map_err(|error| self.failed(error))?;
        let mut mask = self
            .filter
            .mask(&rows)
            .map_err(|error| self.failed(error))?;
        if self.read.fields().len() != self.rows.fields().len() {
            let fields = self.read.fields().iter().enumerate();
            let wanted: Vec<usize> = fields
                .filter(|(_, field)| self.rows.column_with_name(field.name()).is_some())
                .map(|(index, _)| index)
                .collect();
            rows = rows.project(&wanted).map_err(|error| self.failed(error))?;
        }
        let in_time = |time: i64| {
            self.min_time.is_none_or(|from| from <= time)
                && self.max_time.is_none_or(|to| time <= to)
        };
        if !times.iter().all(|time| in_time(*time)) {
            let timely: BooleanArray = times.iter().map(|time| Some(in_time(*time))).collect();
            mask = Some(match mask {
                None => timely,
                Some(mask) => BooleanArray::new(mask.values() & timely.values(), None),
            });
        }
        let hashes = if let Some(check) = check {
            // All of them, before any row is left out.
            let hashes = hasher.hash(&rows)?;
            for (hash, diff) in hashes.iter().zip(&diffs) {
                check.read.add(*hash, *diff);
            }
            Some(hashes)
        } else {
            None
        };
        let hashes = match (hashes, mask) {
            (Some(hashes), None) => hashes,
            (Some(hashes), Some(mask)) => {
                rows = filter_record_batch(&rows, &mask).map_err(|error| self.failed(error))?;
                times = keep(&times, &mask);
                diffs = keep(&diffs, &mask);
                keep(&hashes, &mask)
            }
            (None, mask) => {
                if let Some(mask) = mask {
                    rows = filter_record_batch(&rows, &mask).map_err(|error| self.failed(error))?;
                    times = keep(&times, &mask);
                    diffs = keep(&diffs, &mask);
                }
                hasher.hash(&rows)?
            }
        };
        for (hash, diff) in hashes.iter().zip(&diffs) {
            wanted.add(*hash, *diff);
        }
        Ok(Chunk::new(rows, hashes, times, diffs, meter))
    }

    /// Rows that were merged, as they come out.
    pub(crate) fn output(&self, rows: Chunk) -> Result<RecordBatch, Error> {
        let Chunk {
            batch,
            times,
            diffs,
            ..
        } = rows;
        let options = RecordBatchOptions::new().with_row_count(Some(diffs.len()));
        let (mut times, mut diffs) = (Some(times), Some(diffs));
        let mut columns = batch.columns().iter();
        let mut column = |name: &str| -> Option<ArrayRef> {
            match name {
                TIME_COLUMN => Some(Arc::new(Int64Array::from(times.take()?))),
                DIFF_COLUMN => Some(Arc::new(Int64Array::from(diffs.take()?))),
                _ => columns.next().cloned(),
            }
        };
        let fields = self.output.fields().iter();
        let columns = fields.filter_map(|field| column(field.name())).collect();
        let output = Arc::clone(&self.output);
        RecordBatch::try_new_with_options(output, columns, &options)
            .map_err(|error| self.failed(error))
    }

    /// An error that only a bug or a damaged file explains.
    pub(crate) fn failed(&self, error: ArrowError) -> Error {
        Error::Corrupt {
            path: self.url.to_string(),
            why: format!("its rows cannot be put together: {error}"),
        }
    }

    fn column(
        &self,
        batch: &RecordBatch,
        name: &str,
        wanted: &DataType,
    ) -> Result<ArrayRef, Error> {
        match batch.column_by_name(name) {
            Some(array) => conform(array, wanted).map_err(|why| Error::Row {
                type_name: "a row of the table".into(),
                why: format!("the column {name}: {why}"),
            }),
            None => Ok(new_null_array(wanted, batch.num_rows())),
        }
    }

    fn integers(&self, batch: &RecordBatch, name: &str, null: i64) -> Result<Vec<i64>, Error> {
        let array = self.column(batch, name, &DataType::Int64)?;
        let array: &Int64Array = array.as_primitive::<Int64Type>();
        Ok(match array.nulls().filter(|nulls| nulls.null_count() > 0) {
            Some(_) => array.iter().map(|value| value.unwrap_or(null)).collect(),
            None => array.values().to_vec(),
        })
    }
}
