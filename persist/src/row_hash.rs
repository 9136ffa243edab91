//! Fingerprints of rows as they lie in Arrow columns.
//!
//! ```text
//!   hash(encode(x)) = hash_data(x),   hash(encode_errors(e)) = hash_error(e)
//! ```
//!
//! without the row's type: compaction, clean-up and verification know none. The canonical bytes of a row are put
//! together from its columns of data, in the order of the schema, as [`crate::fingerprint`] says; the columns
//! of the time and the diff do not count. In a row whose `mv_error` is not null only that counts.
//!
//! A batch may lack columns (they are null) and have others (they do not count), and hold the forms that other
//! writers give to the same Delta types; each is brought to the schema's type first, which is free if it has it.

mod flat;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray,
};
use arrow_schema::{DataType, Field, Schema};
use serde::Deserialize;
use serde_arrow::Deserializer;

use crate::conform::conform;
use crate::error::Error;
use crate::fingerprint::{BUCKETS, Canonical, Domain, Sink, bucket};
use crate::schema::{DIFF_COLUMN, ERROR_COLUMN, Nullability, RESERVED_PREFIX, storable};
use crate::sums::Sums;
use flat::Block;

/// Hashes rows of one schema.
#[derive(Debug)]
pub(crate) struct RowHasher {
    /// The columns of data.
    columns: Vec<Field>,
    row: Canonical,
    block: Block,
}

impl RowHasher {
    /// For the columns of data of `schema`: all but those whose names are reserved.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if a column has a type that no Delta table has.
    pub(crate) fn new(schema: &Schema) -> Result<Self, Error> {
        let data = schema
            .fields()
            .iter()
            .filter(|field| !field.name().starts_with(RESERVED_PREFIX));
        let mut columns = Vec::with_capacity(schema.fields().len());
        for field in data {
            let name = field.name();
            let stored = storable(field, Nullability::All).map_err(|why| Error::Type {
                type_name: "a batch of rows".into(),
                why: format!("the column {name}: {why}"),
            })?;
            columns.push(Field::new(name, stored, true));
        }
        Ok(RowHasher {
            columns,
            row: Canonical::new(),
            block: Block::default(),
        })
    }

    /// The rows of a batch, ready to be hashed.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] if a column's values are none of the schema's type.
    pub(crate) fn rows(&self, batch: &RecordBatch) -> Result<Rows, Error> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for field in &self.columns {
            let name = field.name();
            columns.push(match batch.column_by_name(name) {
                Some(array) => conform(array, field.data_type())
                    .and_then(|array| Column::new(&array))
                    .map_err(|why| column_error(name, &why))?,
                None => Column::ABSENT,
            });
        }
        let errors = match batch.column_by_name(ERROR_COLUMN) {
            Some(array) => {
                let array = conform(array, &DataType::Utf8);
                let array = array.map_err(|why| column_error(ERROR_COLUMN, &why))?;
                let is_all_data = array.null_count() == array.len();
                (!is_all_data).then(|| array.as_string::<i32>().clone())
            }
            None => None,
        };
        Ok(Rows { columns, errors })
    }

    /// A fingerprint for each row.
    ///
    /// # Errors
    ///
    /// As [`RowHasher::rows`].
    pub(crate) fn hash(&mut self, batch: &RecordBatch) -> Result<Vec<u128>, Error> {
        let mut hashes = Vec::with_capacity(batch.num_rows());
        self.hash_each(batch, |_, hash| hashes.push(hash))?;
        Ok(hashes)
    }

    /// Hands out the fingerprint of each row, in order.
    fn hash_each(
        &mut self,
        batch: &RecordBatch,
        mut each: impl FnMut(usize, u128),
    ) -> Result<(), Error> {
        let rows = self.rows(batch)?;
        if rows.errors.is_none()
            && let Some(columns) = flat::flatten(&rows.columns)
        {
            self.block.hash(&columns, batch.num_rows(), each);
            return Ok(());
        }
        for row in 0..batch.num_rows() {
            self.row.clear();
            let domain = rows.put(row, &mut self.row);
            each(row, self.row.digest(domain));
        }
        Ok(())
    }
}

/// What fingerprints say of the rows of many batches, as those of a file.
#[derive(Debug)]
pub(crate) struct Fingerprints {
    hasher: RowHasher,
    totals: Box<[u128; BUCKETS]>,
    /// Whether none is less than the one before.
    pub(crate) sorted: bool,
    last: u128,
}

impl Fingerprints {
    /// Of no rows of this schema.
    ///
    /// # Errors
    ///
    /// As [`RowHasher::new`].
    pub(crate) fn new(schema: &Schema) -> Result<Self, Error> {
        Ok(Fingerprints {
            hasher: RowHasher::new(schema)?,
            totals: Box::new([0; BUCKETS]),
            sorted: true,
            last: 0,
        })
    }

    /// Counts the rows of a batch.
    ///
    /// # Errors
    ///
    /// As [`RowHasher::rows`].
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.add_each(batch, |_, _| ())
    }

    /// The same, and hands out the fingerprint and the diff of each row.
    ///
    /// # Errors
    ///
    /// As [`RowHasher::rows`].
    #[inline]
    pub(crate) fn add_each(
        &mut self,
        batch: &RecordBatch,
        mut each: impl FnMut(u128, i64),
    ) -> Result<(), Error> {
        let diffs = match batch.column_by_name(DIFF_COLUMN) {
            Some(diffs) => Some(
                conform(diffs, &DataType::Int64).map_err(|why| column_error(DIFF_COLUMN, &why))?,
            ),
            None => None,
        };
        let diffs = diffs
            .as_ref()
            .map(|diffs| diffs.as_primitive::<Int64Type>());
        let (totals, sorted, last) = (&mut self.totals, &mut self.sorted, &mut self.last);
        self.hasher.hash_each(batch, |row, hash| {
            let diff = match diffs {
                Some(diffs) if diffs.is_valid(row) => diffs.value(row),
                _ => 1,
            };
            let total = &mut totals[usize::from(bucket(hash))];
            *total = total.wrapping_add(hash.wrapping_mul(i128::from(diff) as u128));
            *sorted &= *last <= hash;
            *last = hash;
            each(hash, diff);
        })
    }

    /// Their sums.
    pub(crate) fn sums(&self) -> Sums {
        Sums::from_totals(&self.totals)
    }
}

/// The sums of fingerprints of the rows of a batch that has the columns of a table, in their order. A row without
/// a diff counts once.
///
/// # Errors
///
/// [`Error::Type`] if a column has a type that no Delta table has, [`Error::Row`] if it holds what no row does.
pub fn sums_of(batch: &RecordBatch) -> Result<Sums, Error> {
    let mut fingerprints = Fingerprints::new(batch.schema_ref())?;
    fingerprints.add(batch)?;
    Ok(fingerprints.sums())
}

#[cold]
fn column_error(name: &str, why: &str) -> Error {
    Error::Row {
        type_name: "a row of data".into(),
        why: format!("the column {name}: {why}"),
    }
}

/// The rows of one batch. Shares its memory.
#[derive(Debug)]
pub(crate) struct Rows {
    columns: Vec<Column>,
    /// None if all rows are data.
    errors: Option<StringArray>,
}

impl Rows {
    #[inline]
    fn put(&self, row: usize, out: &mut Canonical) -> Domain {
        if let Some(errors) = &self.errors
            && !errors.is_null(row)
        {
            out.put_raw(errors.value(row).as_bytes());
            return Domain::Error;
        }
        for column in &self.columns {
            column.put(row, 1, out);
        }
        Domain::Data
    }

    /// Appends the canonical bytes of a row to `out`.
    pub(crate) fn canonical(&self, row: usize, out: &mut Vec<u8>) {
        let mut bytes = Canonical::new();
        let domain = self.put(row, &mut bytes);
        bytes.append_to(domain, out);
    }
}

/// A column, of the table or inside another.
#[derive(Debug)]
struct Column {
    /// Which values are there; none if all are.
    valid: Option<BooleanArray>,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// Nothing but nulls.
    Absent,
    Flags(BooleanArray),
    Bytes(Int8Array),
    Shorts(Int16Array),
    Ints(Int32Array),
    Longs(Int64Array),
    Floats(Float32Array),
    Doubles(Float64Array),
    /// Strings, and what is hashed as text.
    Text(StringArray),
    Binary(BinaryArray),
    Struct(Vec<Column>),
    List(ListArray, Box<Column>),
    Map(MapArray, Box<[Column; 2]>),
}

impl Column {
    const ABSENT: Column = Column {
        valid: None,
        values: Values::Absent,
    };

    fn new(array: &ArrayRef) -> Result<Self, String> {
        let values = match array.data_type() {
            DataType::Null => return Ok(Column::ABSENT),
            DataType::Boolean => Values::Flags(array.as_boolean().clone()),
            DataType::Int8 => Values::Bytes(array.as_primitive::<Int8Type>().clone()),
            DataType::Int16 => Values::Shorts(array.as_primitive::<Int16Type>().clone()),
            DataType::Int32 => Values::Ints(array.as_primitive::<Int32Type>().clone()),
            DataType::Int64 => Values::Longs(array.as_primitive::<Int64Type>().clone()),
            DataType::Float32 => Values::Floats(array.as_primitive::<Float32Type>().clone()),
            DataType::Float64 => Values::Doubles(array.as_primitive::<Float64Type>().clone()),
            DataType::Utf8 => Values::Text(array.as_string::<i32>().clone()),
            DataType::Binary => Values::Binary(array.as_binary::<i32>().clone()),
            DataType::Date32 | DataType::Timestamp(..) | DataType::Decimal128(..) => {
                Values::Text(texts(array)?)
            }
            DataType::Struct(_) => {
                let columns = array.as_struct().columns().iter();
                Values::Struct(columns.map(Column::new).collect::<Result<_, _>>()?)
            }
            DataType::List(_) => {
                let array = array.as_list::<i32>();
                let items = Column::new(array.values())?;
                Values::List(array.clone(), Box::new(items))
            }
            DataType::Map(..) => {
                let array = array.as_map();
                let entries = [Column::new(array.keys())?, Column::new(array.values())?];
                Values::Map(array.clone(), Box::new(entries))
            }
            other => return Err(format!("{other} cannot be hashed")),
        };
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        Ok(Column {
            valid: nulls.map(|nulls| BooleanArray::new(nulls.inner().clone(), None)),
            values,
        })
    }

    #[inline]
    fn put(&self, row: usize, depth: u16, out: &mut Canonical) {
        if let Some(valid) = &self.valid
            && !valid.value(row)
        {
            out.put_null(depth);
            return;
        }
        match &self.values {
            Values::Absent => out.put_null(depth),
            Values::Flags(values) => out.put_byte(u8::from(values.value(row))),
            Values::Bytes(values) => out.put_integer(i64::from(values.value(row))),
            Values::Shorts(values) => out.put_integer(i64::from(values.value(row))),
            Values::Ints(values) => out.put_integer(i64::from(values.value(row))),
            Values::Longs(values) => out.put_integer(values.value(row)),
            Values::Floats(values) => out.put_float(f64::from(values.value(row))),
            Values::Doubles(values) => out.put_float(values.value(row)),
            Values::Text(values) => out.put_bytes(values.value(row).as_bytes()),
            Values::Binary(values) => out.put_bytes(values.value(row)),
            Values::Struct(columns) => {
                for column in columns {
                    column.put_inner(row, depth + 1, out);
                }
            }
            Values::List(lists, items) => {
                let begin = out.begin_counted();
                let range = range(lists.value_offsets(), row);
                out.end_counted(begin, range.len());
                for item in range {
                    items.put_inner(item, depth + 1, out);
                }
            }
            Values::Map(maps, columns) => {
                let [keys, values] = columns.as_ref();
                let begin = out.begin_counted();
                let range = range(maps.value_offsets(), row);
                let mut entries = Vec::with_capacity(range.len() + 1);
                for entry in range {
                    entries.push(out.mark());
                    keys.put_inner(entry, depth + 1, out);
                    values.put_inner(entry, depth + 1, out);
                }
                out.end_map(begin, &mut entries);
            }
        }
    }

    /// [`Column::put`], not inlined into itself.
    #[inline(never)]
    fn put_inner(&self, row: usize, depth: u16, out: &mut Canonical) {
        self.put(row, depth, out);
    }
}

fn range(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    offsets[row] as usize..offsets[row + 1] as usize
}

/// Dates, timestamps and decimals as the text that a type reads from them.
fn texts(array: &ArrayRef) -> Result<StringArray, String> {
    #[derive(Deserialize)]
    struct Row {
        value: Option<String>,
    }
    let field = Field::new("value", array.data_type().clone(), true).into();
    let columns = [array.clone()];
    let rows = Deserializer::from_arrow(&[field], &columns).map_err(|error| error.to_string())?;
    rows.iter()
        .map(|row| Row::deserialize(row).map(|row| row.value))
        .collect::<Result<StringArray, _>>()
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
