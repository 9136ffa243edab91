//! Columns by hand, for a type that is written so often that its encoding counts.
//!
//! ```text
//!   from_columns(to_columns(rows)) = rows,   to_columns(rows) = what serde makes of rows
//! ```
//!
//! The second is what lets programs with and without it share a shard; [`check`] looks at both. Fingerprints of
//! values are taken by serde in any case, and those of columns from the columns.

use std::error::Error as StdError;

use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_schema::Fields;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::Codec;
use crate::error::Error;
use crate::fingerprint::hash_data;
use crate::row_hash::RowHasher;
use crate::schema::RESERVED_PREFIX;

/// Why rows and columns do not go together, in words. A `String` is one, and so is every error.
pub type Failure = Box<dyn StdError + Send + Sync>;

/// A row that lays itself out in Arrow columns, for [`Codec::columnar`].
///
/// `persist/examples/columnar.rs` has one.
pub trait Columnar: Sized {
    /// The columns, with the names and types that [`Codec::new`] tells, in the order of the type's fields. Types
    /// that Delta lacks are stored in the next that holds them, as everywhere.
    fn fields() -> Fields;

    /// The values of `rows`: an array for each field, of its type or of the one it is stored in.
    ///
    /// # Errors
    ///
    /// If a value does not fit its column, as a `u64` above `i64::MAX`.
    fn to_columns(rows: &[&Self]) -> Result<Vec<ArrayRef>, Failure>;

    /// Gives the rows of columns to `push`, in order. There is an array for each field, all of one length, of the
    /// type it is stored in. Any value may be null, whatever the field says, since other programs may have
    /// written it.
    ///
    /// # Errors
    ///
    /// If a row is no value of the type; [`required`] says so of nulls.
    fn from_columns(columns: &[ArrayRef], push: &mut dyn FnMut(Self)) -> Result<(), Failure>;
}

/// The array of a column, where nulls are allowed.
///
/// # Errors
///
/// If there is no such column, or of another type.
pub fn optional<A: Array + 'static>(columns: &[ArrayRef], index: usize) -> Result<&A, Failure> {
    let column = columns
        .get(index)
        .ok_or_else(|| format!("there is no column {index}"))?;
    let array = column.as_any().downcast_ref();
    array.ok_or_else(|| format!("the column {index} is {}", column.data_type()).into())
}

/// The array of a column that has no nulls.
///
/// # Errors
///
/// If it has nulls, and as [`optional`].
pub fn required<A: Array + 'static>(columns: &[ArrayRef], index: usize) -> Result<&A, Failure> {
    let array = optional::<A>(columns, index)?;
    match array.null_count() {
        0 => Ok(array),
        _ => Err(format!("the column {index} is null where the type is not").into()),
    }
}

/// Compares a type's own columns with those that `by_serde` makes: names, types, values, fingerprints, both ways, and
/// what is refused. For tests; `rows` should have what is special about the type.
///
/// # Errors
///
/// The first difference, in words.
pub fn check<D, E>(by_serde: &Codec<D, E>, rows: &[D]) -> Result<(), String>
where
    D: Columnar + Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    let by_hand = Codec::<D, E>::columnar().map_err(|error| error.to_string())?;
    if by_hand.schema() != by_serde.schema() {
        return Err(format!(
            "the columns are {:?} by hand, {:?} by serde",
            by_hand.schema(),
            by_serde.schema()
        ));
    }
    check_rows(&by_hand, by_serde, &[])?;
    check_rows(&by_hand, by_serde, rows)?;
    for row in rows {
        check_rows(&by_hand, by_serde, std::slice::from_ref(row))?;
    }
    Ok(())
}

fn check_rows<D, E>(by_hand: &Codec<D, E>, by_serde: &Codec<D, E>, rows: &[D]) -> Result<(), String>
where
    D: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    let encode =
        |codec: &Codec<D, E>| codec.encode_checked(rows.iter().map(|row| (row, 0, 1)), false);
    let (batch, expected) = match (encode(by_hand), encode(by_serde)) {
        (Ok(batch), Ok(expected)) => (batch, expected),
        (Err(_), Err(_)) => return Ok(()),
        (Err(error), Ok(_)) => return Err(format!("only by hand, rows are refused: {error}")),
        (Ok(_), Err(error)) => return Err(format!("only by serde, rows are refused: {error}")),
    };
    for (index, field) in batch.schema().fields().iter().enumerate() {
        if batch.column(index) != expected.column(index) {
            let name = field.name();
            return Err(format!("the column {name} holds other values by hand"));
        }
    }
    let hashes = rows.iter().map(|row| by_hand.hash(row));
    let hashes = hashes.collect::<Result<Vec<_>, _>>();
    let hashes = hashes.map_err(|error| error.to_string())?;
    let of_columns = RowHasher::new(&batch.schema()).and_then(|mut hasher| hasher.hash(&batch));
    if of_columns.map_err(|error| error.to_string())? != hashes {
        return Err("the columns have other fingerprints than the rows".into());
    }
    check_decoded(by_hand, by_serde, &batch)?;
    // What others may have written.
    for (index, field) in batch.schema().fields().iter().enumerate() {
        if !field.name().starts_with(RESERVED_PREFIX) {
            let mut columns = batch.columns().to_vec();
            columns[index] = new_null_array(field.data_type(), batch.num_rows());
            let nulls = RecordBatch::try_new(batch.schema(), columns);
            let nulls = nulls.map_err(|error| error.to_string())?;
            check_decoded(by_hand, by_serde, &nulls)
                .map_err(|why| format!("{why}, if the column {} is null", field.name()))?;
        }
    }
    Ok(())
}

/// Both read the same rows from a batch, or none.
fn check_decoded<D, E>(
    by_hand: &Codec<D, E>,
    by_serde: &Codec<D, E>,
    batch: &RecordBatch,
) -> Result<(), String>
where
    D: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    let hashes = |codec: &Codec<D, E>| -> Result<Vec<u128>, Error> {
        let updates = codec.decode(batch)?;
        updates.ok.iter().map(|(row, ..)| hash_data(row)).collect()
    };
    match (hashes(by_hand), hashes(by_serde)) {
        (Ok(a), Ok(b)) if a == b => Ok(()),
        (Err(_), Err(_)) => Ok(()),
        (Ok(_), Ok(_)) => Err("other rows are read by hand than by serde".into()),
        (Err(error), Ok(_)) => Err(format!("only by hand, columns are refused: {error}")),
        (Ok(_), Err(error)) => Err(format!("only by serde, columns are refused: {error}")),
    }
}
