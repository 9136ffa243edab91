//! Summing up the differences of equal rows, whatever their columns.
//!
//! Rows are compared by their row encoding, and come out in its order: that of the columns, one after another.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, Schema, SchemaRef};

use crate::read::{BATCH_ROWS, Parts};

/// Rows and errors, each with the sum of its differences.
pub struct Consolidated {
    schema: SchemaRef,
    converter: RowConverter,
    rows: BTreeMap<Box<[u8]>, i128>,
    errors: BTreeMap<String, i128>,
}

impl Consolidated {
    /// Nothing yet, of the collection whose table has this schema.
    ///
    /// # Errors
    ///
    /// If a column's type has no order.
    pub fn new(table: &SchemaRef) -> Result<Self, ArrowError> {
        let data = Parts::of(&RecordBatch::new_empty(Arc::clone(table)))?.data;
        let fields = data
            .schema()
            .fields()
            .iter()
            .map(|f| SortField::new(f.data_type().clone()))
            .collect();
        Ok(Consolidated {
            schema: data.schema(),
            converter: RowConverter::new(fields)?,
            rows: BTreeMap::new(),
            errors: BTreeMap::new(),
        })
    }

    /// The user's columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Adds the updates that `wanted` accepts by their times.
    ///
    /// # Errors
    ///
    /// If the columns are not those of the table.
    pub fn add(&mut self, parts: &Parts, wanted: impl Fn(i64) -> bool) -> Result<(), ArrowError> {
        use arrow_array::Array;
        let rows = self.converter.convert_columns(parts.data.columns())?;
        for row in (0..parts.data.num_rows()).filter(|row| wanted(parts.time(*row))) {
            let diff = i128::from(parts.diff(row));
            if parts.errors.is_valid(row) {
                sum_up(
                    &mut self.errors,
                    parts.errors.value(row),
                    |text| text.to_owned(),
                    diff,
                );
            } else {
                sum_up(&mut self.rows, rows.row(row).data(), |key| key.into(), diff);
            }
        }
        Ok(())
    }

    /// The errors that are there, and how often.
    pub fn errors(&self) -> &BTreeMap<String, i128> {
        &self.errors
    }

    /// The rows that are there, in batches beside how often they are.
    pub fn batches(&self) -> impl Iterator<Item = Result<(RecordBatch, Vec<i128>), ArrowError>> {
        let mut rows = self
            .rows
            .iter()
            .map(|(key, diff)| (key.as_ref(), *diff))
            .peekable();
        std::iter::from_fn(move || {
            rows.peek()?;
            let (keys, diffs): (Vec<&[u8]>, Vec<i128>) = rows.by_ref().take(BATCH_ROWS).unzip();
            Some(self.decode(&keys).map(|batch| (batch, diffs)))
        })
    }

    fn decode(&self, keys: &[&[u8]]) -> Result<RecordBatch, ArrowError> {
        let parser = self.converter.parser();
        let columns = self
            .converter
            .convert_rows(keys.iter().map(|key| parser.parse(key)))?;
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(keys.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

/// Adds to the sum of a key; a sum of nothing is forgotten.
fn sum_up<K, Q>(sums: &mut BTreeMap<K, i128>, key: &Q, own: impl FnOnce(&Q) -> K, diff: i128)
where
    K: std::borrow::Borrow<Q> + Ord,
    Q: Ord + ?Sized,
{
    match sums.get_mut(key) {
        Some(sum) => {
            *sum += diff;
            if *sum == 0 {
                sums.remove(key);
            }
        }
        None if diff != 0 => drop(sums.insert(own(key), diff)),
        None => {}
    }
}

/// The same batch with more columns at its end.
///
/// # Errors
///
/// If the columns are not as long as the batch.
pub fn with_columns(
    batch: &RecordBatch,
    more: impl IntoIterator<Item = (&'static str, ArrayRef)>,
) -> Result<RecordBatch, ArrowError> {
    let mut fields = batch.schema().fields().to_vec();
    let mut columns = batch.columns().to_vec();
    for (name, column) in more {
        fields.push(Arc::new(arrow_schema::Field::new(
            name,
            column.data_type().clone(),
            true,
        )));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// A batch of errors only.
///
/// # Errors
///
/// None in practice: there is one column.
pub fn error_batch(errors: StringArray) -> Result<RecordBatch, ArrowError> {
    use mvsink::mvsink_persist::schema::ERROR_COLUMN;
    RecordBatch::try_from_iter([(ERROR_COLUMN, Arc::new(errors) as ArrayRef)])
}
