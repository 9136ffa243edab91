//! One data file against what the log says of it.
//!
//! A file of ours whose rows are others by the table's columns may be as it was written: its sums tell, by the columns
//! that it has itself. Then the schema is what is wrong.

use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch, new_null_array};
use arrow_schema::{DataType, Schema};
use bytes::Bytes;

use super::statistics::Statistics;
use super::{Difference, Note};
use crate::acceptable::{Required, unfit_rows};
use crate::codec::{NO_TIME, Unfit, unfit_for_any_type};
use crate::conform::conform;
use crate::data_file::DataFile;
use crate::error::Error;
use crate::file::{BATCH_ROWS, decode_file};
use crate::lock;
use crate::log::state::State;
use crate::multiplicity::Multiplicities;
use crate::row_hash::Fingerprints;
use crate::schema::{DIFF_COLUMN, TIME_COLUMN, check_order, check_schema};
use crate::sums::Sums;

/// What one file is.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// The least and the greatest.
    pub(crate) times: Option<(i64, i64)>,
    pub(crate) sums: Sums,
    /// Its rows are in the order of their fingerprints.
    pub(crate) is_sorted: bool,
    /// All of it could be read.
    pub(crate) is_whole: bool,
    /// Its rows are known to be those that a sink wrote.
    pub(crate) is_as_written: bool,
    /// Another program put it into the table, as far as entries tell.
    pub(crate) is_of_other: bool,
    /// Rows of another program without a time, and without a multiplicity.
    pub(crate) nulls: (u64, u64),
    pub(crate) differences: Vec<Difference>,
}

/// What is to come of the rows of other programs.
#[derive(Clone, Debug)]
pub(super) struct OpenRows {
    /// An edit is still to be answered, or, of an input, to be accepted.
    is_edited: bool,
    /// Somebody has accepted the edits.
    is_accepted: bool,
    /// What sources could not read, where nobody takes it back, or is still to: the columns that are null in no row.
    required: Option<Arc<Required>>,
}

impl OpenRows {
    pub(super) fn of(state: &State) -> Self {
        let is_edited = match state.is_input() {
            true => state.unaccepted().is_some(),
            false => state.edited().is_some(),
        };
        let is_strict = is_edited || state.is_input();
        OpenRows {
            is_edited,
            is_accepted: !is_edited && state.edited().is_some(),
            required: is_strict.then(|| Arc::new(Required::of_table(state))),
        }
    }

    /// The rows of a batch of another program that nobody can read.
    fn unfit(&self, batch: &RecordBatch, table: &Schema) -> Result<Unfit, Error> {
        let Some(required) = &self.required else {
            return unfit_for_any_type(batch);
        };
        let mut unfit = Unfit::default();
        for why in unfit_rows(batch, table, required)?.into_values() {
            unfit.add(1, why);
        }
        Ok(unfit)
    }
}

impl Examined {
    /// Rows of another program without a time are rows at the upper at which they were seen, and those without a
    /// multiplicity are there once. Other readers see that otherwise; once a sink has answered the edit, nobody does.
    pub(super) fn judge_nulls(&mut self, file: &DataFile, open: &OpenRows, notes: &mut Vec<Note>) {
        let (times, diffs) = self.nulls;
        // Of what cannot be read nothing is known.
        if times == 0 && diffs == 0 || !self.is_whole {
            return;
        }
        let nulls = Difference::Nulls { times, diffs };
        if open.is_edited || file.sums.is_some() {
            self.differences.push(nulls);
            return;
        }
        notes.push(Note {
            path: file.path.clone(),
            text: match open.is_accepted {
                true => accepted_nulls(&nulls),
                false => format!("{nulls}; a sink has answered that"),
            },
        });
    }
}

/// That somebody has accepted rows with nulls, in words.
pub(crate) fn accepted_nulls(nulls: &Difference) -> String {
    format!("{nulls}, and that was accepted: they count once, from the upper on")
}

pub(super) fn bounds(file: &DataFile) -> Option<(i64, i64)> {
    file.min_time.zip(file.max_time)
}

pub(super) fn examine(
    file: &DataFile,
    bytes: Bytes,
    schema: &Schema,
    open: &OpenRows,
    multiplicities: &Mutex<Multiplicities>,
) -> Examined {
    let mut examined = Examined {
        bytes: bytes.len() as u64,
        ..Examined::default()
    };
    // Whatever else, other readers go by it.
    if file.size != examined.bytes {
        examined.differences.push(Difference::Size {
            expected: file.size,
            found: examined.bytes,
        });
    }
    let compared = compare(
        file,
        bytes.clone(),
        schema,
        open,
        multiplicities,
        &mut examined,
    );
    let is_other = |found: &Difference| matches!(found, Difference::Sums { .. });
    let other = examined.differences.iter().position(is_other);
    if (other.is_some() || matches!(compared, Err(Error::Row { .. })))
        && let Some(why) = other_schema(file, bytes, schema)
    {
        examined.differences.retain(|found| !is_other(found));
        examined.differences.push(Difference::Schema { why });
        return examined;
    }
    examined.is_whole = compared.is_ok();
    if let Err(error) = compared {
        examined.differences.push(match error {
            // The finding names the file already.
            Error::Corrupt { why, .. } | Error::Row { why, .. } => Difference::Unreadable { why },
            Error::UnsupportedFile { why, .. } => Difference::Refused { why },
            error => Difference::Unreadable {
                why: error.to_string(),
            },
        });
    }
    examined
}

/// How the table's columns differ from those of the file, if that is all that is wrong with it: by its own, its rows have
/// the sums that they were written with.
fn other_schema(file: &DataFile, bytes: Bytes, schema: &Schema) -> Option<String> {
    let expected = file.sums.as_ref()?;
    let mut own: Option<(Fingerprints, Schema)> = None;
    for batch in decode_file(&file.path, bytes, None, BATCH_ROWS).ok()? {
        let batch = batch.ok()?;
        let (fingerprints, _) = match &mut own {
            Some(own) => own,
            none => {
                let schema = batch.schema_ref().as_ref().clone();
                none.insert((Fingerprints::new(&schema).ok()?, schema))
            }
        };
        fingerprints.add(&batch).ok()?;
    }
    let (fingerprints, own) = own?;
    if fingerprints.sums() != *expected {
        return None;
    }
    let differs = check_schema(schema, &own).and_then(|()| check_order(schema, &own));
    Some(match differs {
        Err(why) => why,
        Ok(()) => "its columns have another order".into(),
    })
}

fn compare(
    file: &DataFile,
    bytes: Bytes,
    schema: &Schema,
    open: &OpenRows,
    multiplicities: &Mutex<Multiplicities>,
    examined: &mut Examined,
) -> Result<(), Error> {
    let mut fingerprints = Fingerprints::new(schema)?;
    let mut rows = Vec::new();
    let mut times: Option<(i64, i64)> = None;
    let mut unfit = Unfit::default();
    let mut statistics = Statistics::of(file);
    for batch in decode_file(&file.path, bytes, None, BATCH_ROWS)? {
        let batch = batch?;
        examined.rows += batch.num_rows() as u64;
        examined.nulls.0 += nulls(&batch, TIME_COLUMN);
        examined.nulls.1 += nulls(&batch, DIFF_COLUMN);
        rows.clear();
        fingerprints.add_each(&batch, |hash, diff| rows.push((hash, diff)))?;
        lock(multiplicities).add(&file.path, &rows);
        if let Some(statistics) = &mut statistics {
            statistics.add(&batch);
        }
        if file.sums.is_none() {
            unfit.merge(open.unfit(&batch, schema)?);
        }
        times = join_ranges(times, range(&batch, file.sums.is_some())?);
    }
    examined.times = times;
    examined.sums = fingerprints.sums();
    examined.is_sorted = fingerprints.sorted;
    let found = &mut examined.differences;
    if let Some(why) = unfit.why {
        let rows = unfit.rows;
        found.push(Difference::Unfit { rows, why });
    }
    if let Some(expected) = file.rows.filter(|expected| *expected != examined.rows) {
        found.push(Difference::Rows {
            expected,
            found: examined.rows,
        });
    }
    if let (Some(expected), Some(times)) = (bounds(file), times)
        && (times.0 < expected.0 || expected.1 < times.1)
    {
        found.push(Difference::Times {
            expected,
            found: times,
        });
    }
    if let Some(why) = statistics.and_then(|statistics| statistics.wrong()) {
        found.push(Difference::Statistics { why });
    }
    if let Some(expected) = &file.sums {
        let mut difference = examined.sums.clone();
        difference.subtract(expected);
        examined.is_as_written = difference.is_zero();
        if !difference.is_zero() {
            found.push(Difference::Sums {
                buckets: difference.buckets().map(|(bucket, _)| bucket).collect(),
            });
        }
    }
    if file.sorted && !fingerprints.sorted {
        found.push(Difference::Order);
    }
    Ok(())
}

/// The rows that have nothing in this column.
fn nulls(batch: &RecordBatch, column: &str) -> u64 {
    let column = batch.column_by_name(column);
    column.map_or(batch.num_rows(), |column| column.null_count()) as u64
}

/// The least and greatest time of a batch. Others may write nulls, which have no time; in a file of ours one is a
/// time below all.
pub(crate) fn range(batch: &RecordBatch, nulls_count: bool) -> Result<Option<(i64, i64)>, Error> {
    let times = match batch.column_by_name(TIME_COLUMN) {
        Some(times) => conform(times, &DataType::Int64),
        None => Ok(new_null_array(&DataType::Int64, batch.num_rows())),
    };
    let times = times.map_err(|why| Error::Row {
        type_name: "a row of data".into(),
        why: format!("the column {TIME_COLUMN}: {why}"),
    })?;
    let times = times.as_primitive::<Int64Type>();
    let nulls = nulls_count && times.null_count() > 0;
    let there = || times.iter().flatten();
    let least = nulls.then_some(NO_TIME).or_else(|| there().min());
    Ok(least.zip(there().max().or(least)))
}

/// The least and the greatest of both.
pub(crate) fn join_ranges(a: Option<(i64, i64)>, b: Option<(i64, i64)>) -> Option<(i64, i64)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (a, b) => a.or(b),
    }
}
