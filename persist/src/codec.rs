//! Rows to Arrow and back, for any serde type.
//!
//! ```text
//!   table schema = the columns of D (all nullable) · mv_error · mv_time · mv_diff
//!   decode(encode(updates)) = updates
//! ```
//!
//! A struct becomes a column for each field, a tuple the columns `c0`, `c1`, …, anything else (a number, a
//! string, an option, a list) one column `value`. What Delta has no type for is stored in the next that holds
//! it: unsigned integers in the next signed type, `u64` and `usize` in a bigint as far as they fit, unit enums
//! as their names. An error is stored as JSON in `mv_error`, with the columns of data null; a row is data
//! exactly if its `mv_error` is null.
//!
//! Invariants:
//!
//! - *faithful*: what cannot be read back as it was is refused when it is written.
//! - *by name*: decoding looks columns up by name, and reads what other writers make of the same Delta type.

mod fitting;
mod flat;
mod form;
mod hashes;
mod layout;
mod load;
mod store;
pub(crate) mod text;
mod trace;

pub use fitting::Unfit;
pub(crate) use fitting::unfit_for_any_type;

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, new_null_array,
};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow_select::filter::filter;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_arrow::{ArrayBuilder, Deserializer};

use self::form::Form;
use self::layout::{Layout, Shape, trace_by_serde, with_type};
use self::load::Loaded;
use self::store::Notes;
use self::trace::Told;
use crate::columnar::{Columnar, Failure};
use crate::conform::conform;
use crate::error::Error;
use crate::fingerprint::{check_options, hash_data};
use crate::json;
use crate::schema::{
    DIFF_COLUMN, ERROR_COLUMN, TIME_COLUMN, check_order, check_readable, check_schema,
};

/// The time reported for a row whose `mv_time` is null: below every time that a shard can have.
pub const NO_TIME: i64 = i64::MIN;

/// The name of the column of a type that is no record.
const VALUE_COLUMN: &str = "value";

/// Converts updates of `D` and errors of `E` to and from Arrow batches with the table's schema.
///
/// Cheap to clone and to share.
pub struct Codec<D, E> {
    /// How rows are written and read.
    layout: Arc<Layout>,
    /// What fingerprints are taken of, if not of these columns.
    hashed: Option<Arc<Layout>>,
    /// How earlier versions laid the type out, if that was otherwise.
    former: Option<Arc<Layout>>,
    by_hand: Option<ByHand<D>>,
    rows: PhantomData<fn() -> (D, E)>,
}

/// What a type knows of its columns that serde does not.
struct ByHand<D> {
    to_columns: fn(&[&D]) -> Result<Vec<ArrayRef>, Failure>,
    from_columns: Read<D>,
}

type Read<D> = fn(&[ArrayRef], &mut dyn FnMut(D)) -> Result<(), Failure>;

impl<D> Clone for ByHand<D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for ByHand<D> {}

/// Updates read from a table: `(data, time, diff)` and `(error, time, diff)`.
///
/// A null diff is 1, a null time [`NO_TIME`]; other programs may write them, this one does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updates<D, E> {
    /// Updates of data.
    pub ok: Vec<(D, i64, i64)>,
    /// Updates of errors.
    pub err: Vec<(E, i64, i64)>,
}

impl<D, E> Default for Updates<D, E> {
    fn default() -> Self {
        Updates {
            ok: Vec::new(),
            err: Vec::new(),
        }
    }
}

/// Makes a record of a type that is none.
#[derive(Serialize, Deserialize)]
struct Single<T> {
    value: T,
}

impl<D, E> Clone for Codec<D, E> {
    fn clone(&self) -> Self {
        Codec {
            layout: Arc::clone(&self.layout),
            hashed: self.hashed.clone(),
            former: self.former.clone(),
            by_hand: self.by_hand,
            rows: PhantomData,
        }
    }
}

impl<D, E> fmt::Debug for Codec<D, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec")
            .field("schema", &self.layout.table)
            .finish()
    }
}

impl<D, E> Codec<D, E>
where
    D: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    /// A codec with the columns that the type `D` itself tells.
    ///
    /// Dates, timestamps and decimals of other libraries become columns of these types: what a type reads from
    /// text is found out by giving it some. The README has a table.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if Delta cannot hold the type, if a column's name starts with `mv_`, or if the type does
    /// not tell its columns (it is flattened, or describes itself while being read): then use
    /// [`Codec::with_fields`] or [`Codec::with_value`].
    pub fn new() -> Result<Self, Error> {
        match (trace::trace::<D>(), trace_by_serde::<D>()) {
            // What is stored as it serialises is stored as ever.
            (
                Ok(Told {
                    form: Form::Plain, ..
                })
                | Err(_),
                Ok(value),
            ) => Ok(Self::laid_out(Layout::of_type::<D>(&value, Form::Plain)?)),
            (Ok(told), by_serde) => {
                let mut codec = Self::laid_out(Layout::of_type::<D>(&told.field, told.form)?);
                if told.reshaped
                    && let Ok(value) = by_serde
                    && let Ok(former) = Layout::of_type::<D>(&value, Form::Plain)
                {
                    codec.former = Some(Arc::new(former));
                }
                Ok(codec)
            }
            (Err(why), Err(_)) => Err(type_error::<D>(why)),
        }
    }

    fn laid_out(layout: Layout) -> Self {
        Codec {
            layout: Arc::new(layout),
            hashed: None,
            former: None,
            by_hand: None,
            rows: PhantomData,
        }
    }

    fn with_layout(shape: Shape, fields: &Fields) -> Result<Self, Error> {
        let layout = Layout::of_columns::<D>(shape, fields, false, None)?;
        Ok(Self::laid_out(layout))
    }

    /// The codec for the rows of a table that is there. This is the same one, unless the table has the columns in which
    /// earlier versions stored some types: characters as numbers, arrays of bytes as structs. Then the rows are
    /// written and read in these.
    ///
    /// Fingerprints remain those of the columns of today. [`Codec::has_sums_of`] tells whether the table's files have
    /// the sums of these.
    #[must_use]
    pub fn for_table(&self, table: &Schema) -> Self {
        let fits = |layout: &Layout| {
            check_schema(table, &layout.table).is_ok() && check_order(table, &layout.table).is_ok()
        };
        match &self.former {
            Some(former) if !fits(&self.layout) && fits(former) => Codec {
                layout: Arc::clone(former),
                hashed: Some(Arc::clone(&self.layout)),
                former: None,
                by_hand: None,
                rows: PhantomData,
            },
            _ => self.clone(),
        }
    }

    /// Whether the sums of a table's files are those of fingerprints that this codec takes: not if it has more columns
    /// than the type, or those in which earlier versions stored the type.
    pub fn has_sums_of(&self, table: &Schema) -> bool {
        self.hashed.is_none()
            && table.fields().len() == self.layout.table.fields().len()
            && check_schema(table, &self.layout.table).is_ok()
    }

    /// Whether rows of a table can be read as the type: it has all columns and fields but those that can be null,
    /// which read as none where they are missing. Others that it has are ignored.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] with the first difference.
    pub fn check_readable(&self, table: &Schema) -> Result<(), Error> {
        let columns = Fields::from(self.layout.built.clone());
        check_readable(table.fields(), &columns).map_err(row_error::<D>)
    }

    /// A codec for a type that serialises as a struct, a map with string keys, or a tuple, with these columns;
    /// those of a tuple are taken in order. Unsigned and large types are stored as said in the module's head.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if Delta cannot hold a column, or its name starts with `mv_`.
    pub fn with_fields(fields: impl Into<Fields>) -> Result<Self, Error> {
        Self::with_layout(Shape::Record, &fields.into())
    }

    /// A codec for a type that is stored in the one column `value`, of this type.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if Delta cannot hold it.
    pub fn with_value(data_type: DataType) -> Result<Self, Error> {
        let value = Field::new(VALUE_COLUMN, data_type, true);
        Self::with_layout(Shape::Value, &Fields::from(vec![value]))
    }

    /// The same codec with another type for one of the columns, as a decimal with fewer digits. A column inside of
    /// another has a name with dots, as `total.amount`; the elements of a list are called `element`.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if there is no such column, or Delta cannot hold it.
    pub fn with_column(&self, name: &str, data_type: DataType) -> Result<Self, Error> {
        let fields = Fields::from(self.layout.built.clone());
        let fields = with_type(&fields, name, &data_type)
            .ok_or_else(|| type_error::<D>(format!("there is no column `{name}`")))?;
        Self::with_layout(self.layout.shape, &fields)
    }

    /// A codec for a type that makes its columns itself, which is faster. What it writes and reads is the same.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if Delta cannot hold a column, or its name starts with `mv_`.
    pub fn columnar() -> Result<Self, Error>
    where
        D: Columnar,
    {
        let codec = Self::with_fields(D::fields())?;
        Ok(Codec {
            by_hand: Some(ByHand {
                to_columns: D::to_columns,
                from_columns: D::from_columns,
            }),
            ..codec
        })
    }

    /// The schema of the table: the columns of `D`, then `mv_error`, `mv_time` and `mv_diff`.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.layout.table)
    }

    /// The columns of `D`, null where the type can be.
    pub(crate) fn columns(&self) -> &[FieldRef] {
        &self.layout.built
    }

    /// The schema of the table as earlier versions made it, and the columns of `D` in it, if these were others.
    pub(crate) fn former(&self) -> Option<(SchemaRef, &[FieldRef])> {
        let former = self.former.as_ref()?;
        Some((Arc::clone(&former.table), &former.built))
    }

    /// Updates `(data, time, diff)` as a batch of the table's schema, in their order.
    ///
    /// A batch addresses the text of a column with 32 bits: give it less than 2 GiB of rows.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if a value does not fit its column, as a `u64` above `i64::MAX`.
    pub fn encode<'a>(
        &self,
        ok: impl Iterator<Item = (&'a D, i64, i64)>,
    ) -> Result<RecordBatch, Error>
    where
        D: 'a,
    {
        self.encode_checked(ok, true)
    }

    /// [`Codec::encode`], which checks columns by hand or does not.
    pub(crate) fn encode_checked<'a>(
        &self,
        ok: impl Iterator<Item = (&'a D, i64, i64)>,
        check: bool,
    ) -> Result<RecordBatch, Error>
    where
        D: 'a,
    {
        let capacity = ok.size_hint().0;
        let mut rows = Vec::with_capacity(capacity);
        let mut times = Vec::with_capacity(capacity);
        let mut diffs = Vec::with_capacity(capacity);
        for (data, time, diff) in ok {
            rows.push(data);
            times.push(time);
            diffs.push(diff);
        }
        if let Some(by_hand) = &self.by_hand {
            let failed = |failure: Failure| type_error::<D>(failure.to_string());
            let columns = (by_hand.to_columns)(&rows).map_err(failed)?;
            let batch = self.batch(columns, None, times, diffs)?;
            if check {
                self.check_by_hand(&rows, &batch)?;
            }
            return Ok(batch);
        }
        if let Some(columns) = self.flat_columns(&rows) {
            return self.batch(columns, None, times, diffs);
        }
        let notes = Notes::default();
        let mut built = ArrayBuilder::from_arrow(&self.layout.built)
            .map_err(|error| self.unfit(&error, &notes, None))?;
        built.reserve(rows.len());
        let mut said = Vec::new();
        for (place, data) in rows.into_iter().enumerate() {
            if self.layout.has_options {
                // To what builds the columns, Some(None) is as good as None.
                check_options(data)?;
            }
            notes.zones.set(0);
            let pushed = match self.layout.shape {
                Shape::Record => built.push(self.layout.stored_as(data, &notes)),
                Shape::Value => built.push(self.layout.stored_as(&Single { value: data }, &notes)),
            };
            pushed.map_err(|error| self.unfit(&error, &notes, Some(data)))?;
            if self.layout.is_lossy || notes.zones.get() != 0 {
                said.push((place, self.said(data, &notes)?));
            }
        }
        let columns = built
            .into_arrow()
            .map_err(|error| self.unfit(&error, &notes, None))?;
        let batch = self.batch(columns, None, times, diffs)?;
        self.check_read_back(&batch, &said)?;
        Ok(batch)
    }

    /// The columns of rows that are as flat as these.
    fn flat_columns(&self, rows: &[&D]) -> Option<Vec<ArrayRef>> {
        if !self.layout.is_flat {
            return None;
        }
        match (self.layout.shape, &*self.layout.built) {
            (Shape::Record, fields) => flat::columns(fields, rows),
            (Shape::Value, [field]) => Some(vec![flat::column(field, rows)?]),
            (Shape::Value, _) => None,
        }
    }

    /// Updates `(error, time, diff)` as a batch of the table's schema, in their order.
    ///
    /// # Errors
    ///
    /// [`Error::Type`] if an error is not the same after a round trip through JSON: a float that is not finite,
    /// or a map whose keys are no strings.
    pub fn encode_errors<'a>(
        &self,
        err: impl Iterator<Item = (&'a E, i64, i64)>,
    ) -> Result<RecordBatch, Error>
    where
        E: 'a,
    {
        let mut texts = Vec::new();
        let mut times = Vec::new();
        let mut diffs = Vec::new();
        for (error, time, diff) in err {
            texts.push(error_to_json(error)?);
            times.push(time);
            diffs.push(diff);
        }
        let null = |field: &FieldRef| new_null_array(field.data_type(), texts.len());
        let columns = self.layout.stored.iter().map(null).collect();
        let texts = Arc::new(StringArray::from(texts));
        self.batch(columns, Some(texts), times, diffs)
    }

    /// The updates of a batch, in its order.
    ///
    /// Columns are found by name; a column that the batch lacks is null, one that the table's schema does not
    /// have is ignored, and types that hold the same values (wide strings, views, dictionaries, other widths of
    /// integers) are converted.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] if a row is no value of the type.
    pub fn decode(&self, batch: &RecordBatch) -> Result<Updates<D, E>, Error> {
        let rows = batch.num_rows();
        let errors = column(batch, ERROR_COLUMN, &DataType::Utf8).map_err(row_error::<E>)?;
        let times = column(batch, TIME_COLUMN, &DataType::Int64).map_err(row_error::<D>)?;
        let diffs = column(batch, DIFF_COLUMN, &DataType::Int64).map_err(row_error::<D>)?;
        let errors = downcast::<StringArray>(&errors, ERROR_COLUMN).map_err(row_error::<E>)?;
        let times = downcast::<Int64Array>(&times, TIME_COLUMN).map_err(row_error::<D>)?;
        let diffs = downcast::<Int64Array>(&diffs, DIFF_COLUMN).map_err(row_error::<D>)?;
        let time_and_diff = |row: usize| {
            let time = if times.is_null(row) {
                NO_TIME
            } else {
                times.value(row)
            };
            let diff = if diffs.is_null(row) {
                1
            } else {
                diffs.value(row)
            };
            (time, diff)
        };

        let stored = &self.layout.stored;
        let mut columns = Vec::with_capacity(stored.len());
        for field in stored {
            columns.push(column(batch, field.name(), field.data_type()).map_err(row_error::<D>)?);
        }
        let mut updates = Updates {
            ok: Vec::with_capacity(errors.null_count()),
            err: Vec::with_capacity(rows - errors.null_count()),
        };
        for row in (0..rows).filter(|row| errors.is_valid(*row)) {
            let text = errors.value(row);
            let error = serde_json::from_str(text).map_err(|error| {
                row_error::<E>(format!("{ERROR_COLUMN} holds {text:?}: {error}"))
            })?;
            let (time, diff) = time_and_diff(row);
            updates.err.push((error, time, diff));
        }
        let data_rows = (0..rows).filter(|row| errors.is_null(*row));
        if let Some(by_hand) = &self.by_hand {
            if errors.null_count() < rows {
                let is_data: BooleanArray =
                    (0..rows).map(|row| Some(errors.is_null(row))).collect();
                for column in &mut columns {
                    *column = filter(column, &is_data)
                        .map_err(|error| row_error::<D>(error.to_string()))?;
                }
            }
            let expected = errors.null_count();
            let mut data_rows = data_rows;
            let mut pushed = 0;
            let mut push = |data| {
                pushed += 1;
                if let Some(row) = data_rows.next() {
                    let (time, diff) = time_and_diff(row);
                    updates.ok.push((data, time, diff));
                }
            };
            (by_hand.from_columns)(&columns, &mut push)
                .map_err(|failure| row_error::<D>(failure.to_string()))?;
            if pushed != expected {
                let why = format!("{pushed} rows were read of {expected}");
                return Err(row_error::<D>(why));
            }
            return Ok(updates);
        }
        let data = Deserializer::from_arrow(stored, &columns)
            .map_err(|error| row_error::<D>(error.to_string()))?;
        let form = &self.layout.form;
        for row in data_rows {
            let item = data
                .get(row)
                .ok_or_else(|| row_error::<D>("its columns differ in length".into()))?;
            let data = match self.layout.shape {
                Shape::Record if form == &Form::Plain => D::deserialize(item),
                Shape::Record => D::deserialize(Loaded { from: item, form }),
                Shape::Value => {
                    Single::deserialize(Loaded { from: item, form }).map(|single| single.value)
                }
            };
            let data = data.map_err(|error| row_error::<D>(error.to_string()))?;
            let (time, diff) = time_and_diff(row);
            updates.ok.push((data, time, diff));
        }
        Ok(updates)
    }

    fn batch(
        &self,
        columns: Vec<ArrayRef>,
        errors: Option<ArrayRef>,
        times: Vec<i64>,
        diffs: Vec<i64>,
    ) -> Result<RecordBatch, Error> {
        let expected = self.layout.stored.len();
        if columns.len() != expected {
            let why = format!(
                "it has {} columns where it tells of {expected}",
                columns.len()
            );
            return Err(type_error::<D>(why));
        }
        let errors = errors.unwrap_or_else(|| new_null_array(&DataType::Utf8, times.len()));
        let mut all = Vec::with_capacity(columns.len() + 3);
        for (array, field) in columns.iter().zip(&self.layout.stored) {
            let conformed = conform(array, field.data_type());
            all.push(conformed.map_err(|why| column_error::<D>(field.name(), &why))?);
        }
        all.push(errors);
        all.push(Arc::new(Int64Array::from(times)));
        all.push(Arc::new(Int64Array::from(diffs)));
        RecordBatch::try_new(self.schema(), all)
            .map_err(|error: ArrowError| type_error::<D>(error.to_string()))
    }

    /// The error for a row that a column refused; finds the value if it is too large a number.
    #[cold]
    fn unfit(&self, error: &serde_arrow::Error, notes: &Notes, data: Option<&D>) -> Error {
        if let Some((path, why)) = notes.unfit.take() {
            return column_error::<D>(&path, &why);
        }
        let found = data
            .and_then(|data| match self.layout.shape {
                Shape::Record => serde_json::to_value(data).ok(),
                Shape::Value => serde_json::to_value(Single { value: data }).ok(),
            })
            .and_then(|value| too_large(&value, ""));
        type_error::<D>(match found {
            Some((path, value)) => {
                format!("column `{path}`: a bigint cannot hold {value}")
            }
            None => error.to_string(),
        })
    }
}

/// An error as JSON that reads back as the same error.
fn error_to_json<E: Serialize + DeserializeOwned>(error: &E) -> Result<String, Error> {
    let text = json::to_text(error)
        .map_err(|cause| type_error::<E>(format!("it has no JSON form: {cause}")))?;
    // JSON turns some values into others, and a row that cannot be read any more would end every reader of the
    // shard. Errors are few, so look.
    let back: E = serde_json::from_str(&text).map_err(|cause| {
        type_error::<E>(format!("its JSON form {text} does not read back: {cause}"))
    })?;
    if hash_data(&back)? == hash_data(error)? {
        Ok(text)
    } else {
        Err(type_error::<E>(format!(
            "its JSON form {text} reads back as another value"
        )))
    }
}

/// The first number beyond a bigint, with the path of its column.
fn too_large(value: &serde_json::Value, path: &str) -> Option<(String, u64)> {
    use serde_json::Value;
    let child = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Number(number) if number.as_i64().is_none() => {
            number.as_u64().map(|number| (path.to_owned(), number))
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| too_large(item, &child(&format!("c{index}")))),
        Value::Object(members) => members
            .iter()
            .find_map(|(name, item)| too_large(item, &child(name))),
        _ => None,
    }
}

/// The column of this name in the type wanted; null if there is none.
pub(crate) fn column(
    batch: &RecordBatch,
    name: &str,
    wanted: &DataType,
) -> Result<ArrayRef, String> {
    match batch.column_by_name(name) {
        Some(array) => conform(array, wanted).map_err(|why| format!("the column {name}: {why}")),
        None => Ok(new_null_array(wanted, batch.num_rows())),
    }
}

fn downcast<'a, A: Array + 'static>(array: &'a ArrayRef, name: &str) -> Result<&'a A, String> {
    let found = array.as_any().downcast_ref();
    found.ok_or_else(|| format!("the column {name} is {}", array.data_type()))
}

#[cold]
fn type_error<T>(why: String) -> Error {
    Error::Type {
        type_name: type_name::<T>().to_owned(),
        why,
    }
}

#[cold]
fn column_error<T>(path: &str, why: &str) -> Error {
    type_error::<T>(format!("column `{path}`: {why}"))
}

#[cold]
fn row_error<T>(why: String) -> Error {
    Error::Row {
        type_name: type_name::<T>().to_owned(),
        why,
    }
}
