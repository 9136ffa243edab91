//! Rows of a table that the Rust types can hold, where others may be among them.
//!
//! ```text
//!   fitting   a row that decodes
//!   exact     a fitting row that is encoded as it lies there: encode(decode(row)) = row, with a time and a diff
//! ```
//!
//! A row that fits can be read. Only one that is exact can be retracted by a row: to those who know no types, one that
//! differs in a column that the type does not have, or in the spelling of an error, is another row.

use std::fmt;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Schema};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{Codec, Updates, column};
use crate::error::Error;
use crate::fingerprint::hash_error;
use crate::row_hash::RowHasher;
use crate::schema::{DIFF_COLUMN, ERROR_COLUMN, RESERVED_PREFIX, TIME_COLUMN};

/// Rows of a table that are no values of the Rust types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unfit {
    /// How many.
    pub rows: u64,
    /// What is wrong with the first of them; `None` if there are none.
    pub why: Option<String>,
}

impl Unfit {
    /// Counts rows, and keeps what is wrong if they are the first.
    pub fn add(&mut self, rows: u64, why: impl fmt::Display) {
        self.rows += rows;
        self.why.get_or_insert_with(|| why.to_string());
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.why.is_none()
    }

    /// Counts those that come after these.
    pub fn merge(&mut self, more: Unfit) {
        self.rows += more.rows;
        self.why = self.why.take().or(more.why);
    }
}

/// The rows of a batch that no sink could have written, whatever its types: they have an error that is no JSON, or a
/// time that stands for the end of all times.
pub(crate) fn unfit_for_any_type(batch: &RecordBatch) -> Result<Unfit, Error> {
    let own = |name: &str, wanted: &DataType| {
        column(batch, name, wanted).map_err(|why| Error::Row {
            type_name: "a row of data".into(),
            why,
        })
    };
    let errors = own(ERROR_COLUMN, &DataType::Utf8)?;
    let times = own(TIME_COLUMN, &DataType::Int64)?;
    let mut unfit = Unfit::default();
    let errors = errors.as_string::<i32>().iter();
    for (error, time) in errors.zip(times.as_primitive::<Int64Type>()) {
        let json = |text| serde_json::from_str::<IgnoredAny>(text);
        if let Some((text, error)) = error.and_then(|text| Some((text, json(text).err()?))) {
            unfit.add(1, format!("{ERROR_COLUMN} holds {text:?}: {error}"));
        } else if time == Some(i64::MAX) {
            unfit.add(1, format!("{TIME_COLUMN} is {}", i64::MAX));
        }
    }
    Ok(unfit)
}

/// Takes a decoded part of a batch, with the place of its first row, and counts what does not fit for it.
type TakePart<'a, D, E> = &'a mut dyn FnMut(usize, Updates<D, E>, &mut Unfit);

/// What is known of the rows of a batch without their types.
struct Columns<'a> {
    batch: &'a RecordBatch,
    hashes: Vec<u128>,
    is_error: Vec<bool>,
    /// The names of the table's columns of data.
    data: Vec<&'a str>,
}

impl<D, E> Codec<D, E>
where
    D: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    /// The updates of a batch that fit the types, in its order, and what is wrong with the others. As fast as
    /// [`Codec::decode`] if there are none.
    pub fn decode_fitting(&self, batch: &RecordBatch) -> (Updates<D, E>, Unfit) {
        let (mut updates, mut unfit) = (Updates::default(), Unfit::default());
        self.sift(batch, &mut unfit, &mut |_, mut decoded, _| {
            updates.ok.append(&mut decoded.ok);
            updates.err.append(&mut decoded.err);
        });
        (updates, unfit)
    }

    /// The updates of a batch of this table that fit the types and are stored as this codec would store them, in its
    /// order, and what is wrong with the others.
    ///
    /// Not so stored are rows without a time or a diff, with values in columns that the type does not have, errors with
    /// data beside them, and errors that are spelled otherwise.
    pub fn decode_exact(&self, batch: &RecordBatch, table: &Schema) -> (Updates<D, E>, Unfit) {
        let (mut updates, mut unfit) = (Updates::default(), Unfit::default());
        let columns = match Columns::of(batch, table) {
            Ok(columns) => columns,
            Err(error) => {
                unfit.add(batch.num_rows() as u64, why(error));
                return (updates, unfit);
            }
        };
        self.sift(batch, &mut unfit, &mut |first, decoded, unfit| {
            let rows = decoded.ok.len() + decoded.err.len();
            let (mut ok, mut err) = (decoded.ok.into_iter(), decoded.err.into_iter());
            for row in first..first + rows {
                let hash = match columns.is_error[row] {
                    true => err.next().map(|update| {
                        let hash = hash_error(&update.0);
                        updates.err.push(update);
                        hash
                    }),
                    false => ok.next().map(|update| {
                        let hash = self.hash_stored(&update.0);
                        updates.ok.push(update);
                        hash
                    }),
                };
                if let Some(hash) = hash
                    && let Some(why) = columns.inexact(row, hash)
                {
                    match columns.is_error[row] {
                        true => drop(updates.err.pop()),
                        false => drop(updates.ok.pop()),
                    }
                    unfit.add(1, why);
                }
            }
        });
        (updates, unfit)
    }

    /// Decodes a batch, in halves where not all of it fits.
    fn sift(&self, batch: &RecordBatch, unfit: &mut Unfit, take: TakePart<'_, D, E>) {
        let mut parts = vec![(0, batch.num_rows())];
        while let Some((first, rows)) = parts.pop() {
            match self.decode(&batch.slice(first, rows)) {
                Ok(decoded) => take(first, decoded, unfit),
                Err(error) if rows < 2 => unfit.add(rows as u64, why(error)),
                Err(_) => {
                    // Of columns with another type no row fits.
                    if rows == batch.num_rows()
                        && let Err(error) = self.decode(&batch.slice(0, 0))
                    {
                        unfit.add(rows as u64, why(error));
                        return;
                    }
                    let half = rows / 2;
                    parts.push((first + half, rows - half));
                    parts.push((first, half));
                }
            }
        }
    }
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch, table: &'a Schema) -> Result<Self, Error> {
        let errors = column(batch, ERROR_COLUMN, &DataType::Utf8).map_err(|why| Error::Row {
            type_name: "a row of data".into(),
            why,
        })?;
        let errors = errors.as_string::<i32>();
        let names = table.fields().iter().map(|field| field.name().as_str());
        Ok(Columns {
            batch,
            hashes: RowHasher::new(table)?.hash(batch)?,
            is_error: (0..batch.num_rows())
                .map(|row| errors.is_valid(row))
                .collect(),
            data: names
                .filter(|name| !name.starts_with(RESERVED_PREFIX))
                .collect(),
        })
    }

    /// How the row differs from what is decoded from it, which has this hash.
    fn inexact(&self, row: usize, hash: Result<u128, Error>) -> Option<String> {
        let is_null = |name: &str| {
            let column = self.batch.column_by_name(name);
            column.is_none_or(|column| column.is_null(row))
        };
        for name in [TIME_COLUMN, DIFF_COLUMN] {
            if is_null(name) {
                return Some(format!("the column {name} is null"));
            }
        }
        if self.is_error[row]
            && let Some(name) = self.data.iter().find(|name| !is_null(name))
        {
            return Some(format!(
                "the row has both {ERROR_COLUMN} and the column {name}"
            ));
        }
        match hash {
            Ok(hash) if hash == self.hashes[row] => None,
            Ok(_) if self.is_error[row] => {
                Some(format!("{ERROR_COLUMN} is not spelled as it is stored"))
            }
            Ok(_) => Some("it has values that the type does not have".into()),
            Err(error) => Some(why(error)),
        }
    }
}

/// What is wrong, without the type: who reports it names that.
fn why(error: Error) -> String {
    match error {
        Error::Row { why, .. } | Error::Type { why, .. } => why,
        error => error.to_string(),
    }
}
