//! Whether sources can read the rows of other programs that somebody is about to accept.
//!
//! A view removes what its type cannot hold. To an ingest table nobody does that, and once it is accepted every source
//! fails at it for good. So each live row that no sink wrote is looked at first:
//!
//! ```text
//!   a file    can be read · its columns are those of the table
//!   a row     mv_time below the end of all times · mv_error null or JSON · |mv_diff| ≤ ACCEPTED_DIFF_MAX
//!             no null where the type of the rows has none
//! ```
//!
//! All columns of a table are nullable. So a new table lists those that are null in no row in a property
//! ([`REQUIRED_PROPERTY`]). Verification names the same rows, in a view until it has taken them back.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, FieldRef, Fields, Schema};
use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::codec::column;
use crate::error::Error;
use crate::file::{BATCH_ROWS, decode_file};
use crate::log::state::State;
use crate::schema::{DIFF_COLUMN, ERROR_COLUMN, RESERVED_PREFIX, TIME_COLUMN};
use crate::verify::Difference;

/// The largest difference of a row that can be accepted: thousands of them add up within 64 bits.
const ACCEPTED_DIFF_MAX: u64 = 1 << 47;
/// The table property with the columns, and what is inside of them, that are null in no row of data: as JSON, a list of
/// paths, each a list of names. The elements of a list are called `element`, what a map holds `key` and `value`.
pub(crate) const REQUIRED_PROPERTY: &str = "mvsink.required";

const ELEMENT: &str = "element";
const KEY: &str = "key";
const VALUE: &str = "value";

/// The paths of what is null in no row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Required(BTreeSet<Vec<String>>);

impl Required {
    /// Of these columns, which say what can be null.
    pub(crate) fn of(columns: &[FieldRef]) -> Self {
        let mut required = Required::default();
        for column in columns {
            required.take(
                column,
                column.is_nullable(),
                &mut vec![column.name().clone()],
            );
        }
        required
    }

    fn take(&mut self, field: &FieldRef, is_nullable: bool, path: &mut Vec<String>) {
        if !is_nullable {
            self.0.insert(path.clone());
        }
        let mut below = |name: &str, field: &FieldRef, is_nullable| {
            path.push(name.to_owned());
            self.take(field, is_nullable, path);
            path.pop();
        };
        match field.data_type() {
            DataType::Struct(fields) => {
                for field in fields {
                    below(field.name(), field, field.is_nullable());
                }
            }
            DataType::List(element) => below(ELEMENT, element, element.is_nullable()),
            DataType::Map(entries, _) => {
                if let Some((key, value)) = key_and_value(entries.data_type()) {
                    below(KEY, key, false);
                    below(VALUE, value, value.is_nullable());
                }
            }
            _ => {}
        }
    }

    /// As a table says it; nothing, if it does not.
    pub(crate) fn of_table(state: &State) -> Self {
        let text = state.metadata().configuration.get(REQUIRED_PROPERTY);
        let paths = text.and_then(|text| serde_json::from_str(text.as_deref()?).ok());
        Required(paths.unwrap_or_default())
    }

    /// The text for the property; `None` if all can be null.
    pub(crate) fn to_property(&self) -> Option<String> {
        let text = serde_json::to_string(&self.0).ok()?;
        (!self.0.is_empty()).then_some(text)
    }

    /// Finds the rows that lack something. `row_of` tells which row a place is of, if that has a value.
    fn find(
        &self,
        array: &ArrayRef,
        path: &mut Vec<String>,
        row_of: &dyn Fn(usize) -> Option<usize>,
        found: &mut BTreeMap<usize, String>,
    ) {
        if self.0.contains(path) {
            let nulls = (0..array.len()).filter(|place| array.is_null(*place));
            for row in nulls.filter_map(row_of) {
                let name = path.join(".");
                found
                    .entry(row)
                    .or_insert_with(|| format!("the column {name} is null, where none is meant"));
            }
        }
        let valid = |place: usize| row_of(place).filter(|_| array.is_valid(place));
        let mut below = |name: &str, array: &ArrayRef, row_of: &dyn Fn(usize) -> Option<usize>| {
            path.push(name.to_owned());
            self.find(array, path, row_of, found);
            path.pop();
        };
        match array.data_type() {
            DataType::Struct(fields) => {
                for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                    below(field.name(), column, &valid);
                }
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let owners = owners(list.offsets(), list.values().len(), &valid);
                below(ELEMENT, list.values(), &|place| owners[place]);
            }
            DataType::Map(..) => {
                let map = array.as_map();
                let owners = owners(map.offsets(), map.keys().len(), &valid);
                below(KEY, map.keys(), &|place| owners[place]);
                below(VALUE, map.values(), &|place| owners[place]);
            }
            _ => {}
        }
    }
}

fn key_and_value(entries: &DataType) -> Option<(&FieldRef, &FieldRef)> {
    match entries {
        DataType::Struct(fields) => fields.first().zip(fields.get(1)),
        _ => None,
    }
}

/// The row of each element.
fn owners(
    offsets: &[i32],
    elements: usize,
    row_of: &dyn Fn(usize) -> Option<usize>,
) -> Vec<Option<usize>> {
    let mut owners = vec![None; elements];
    for (place, bounds) in offsets.windows(2).enumerate() {
        let range = usize::try_from(bounds[0])
            .ok()
            .zip(usize::try_from(bounds[1]).ok());
        if let Some((from, to)) = range
            && let Some(owned) = owners.get_mut(from..to)
        {
            owned.fill(row_of(place));
        }
    }
    owners
}

/// Why sources cannot read a file of another program, if they cannot. `version` added it.
pub(crate) fn unacceptable(
    path: &str,
    bytes: Bytes,
    version: u64,
    table: &Schema,
    required: &Required,
) -> Option<Difference> {
    let (mut rows, mut first, mut before) = (0, None, 0);
    let examined = decode_file(path, bytes, None, BATCH_ROWS).and_then(|batches| {
        for batch in batches {
            let batch = batch?;
            let unfit = unfit_rows(&batch, table, required)?;
            rows += unfit.len() as u64;
            first = first.take().or_else(|| {
                let (row, why) = unfit.into_iter().next()?;
                Some((before + row, why))
            });
            before += batch.num_rows();
        }
        Ok(())
    });
    match (examined, first) {
        (Err(error), _) => Some(Difference::Unreadable {
            why: match error {
                Error::Corrupt { why, .. }
                | Error::Row { why, .. }
                | Error::UnsupportedFile { why, .. } => {
                    format!("{why} (added in version {version})")
                }
                error => error.to_string(),
            },
        }),
        (Ok(()), Some((row, why))) => Some(Difference::Unfit {
            rows,
            why: format!("in row {row}, added in version {version}, {why}"),
        }),
        (Ok(()), None) => None,
    }
}

/// The rows of a batch that sources cannot read, and why.
pub(crate) fn unfit_rows(
    batch: &RecordBatch,
    table: &Schema,
    required: &Required,
) -> Result<BTreeMap<usize, String>, Error> {
    let conformed = |name: &str, wanted: &DataType| {
        column(batch, name, wanted).map_err(|why| Error::Row {
            type_name: "a row of data".into(),
            why,
        })
    };
    let errors = conformed(ERROR_COLUMN, &DataType::Utf8)?;
    let errors = errors.as_string::<i32>();
    let times = conformed(TIME_COLUMN, &DataType::Int64)?;
    let times = times.as_primitive::<Int64Type>();
    let diffs = conformed(DIFF_COLUMN, &DataType::Int64)?;
    let diffs = diffs.as_primitive::<Int64Type>();
    let mut unfit = BTreeMap::new();
    for row in 0..batch.num_rows() {
        let error = errors.is_valid(row).then(|| errors.value(row));
        let json = error.map(serde_json::from_str::<IgnoredAny>);
        let why = if let (Some(text), Some(Err(why))) = (error, json) {
            format!("{ERROR_COLUMN} holds {text:?}: {why}")
        } else if times.is_valid(row) && times.value(row) == i64::MAX {
            format!("{TIME_COLUMN} is {}", i64::MAX)
        } else if diffs.is_valid(row) && diffs.value(row).unsigned_abs() > ACCEPTED_DIFF_MAX {
            format!(
                "{DIFF_COLUMN} is {}, and what is beyond {ACCEPTED_DIFF_MAX} either way may add up to more than a \
                 dataflow can hold",
                diffs.value(row)
            )
        } else {
            continue;
        };
        unfit.insert(row, why);
    }
    let is_data = |row: usize| errors.is_null(row).then_some(row);
    let data: Fields = table.fields().clone();
    for field in data
        .iter()
        .filter(|field| !field.name().starts_with(RESERVED_PREFIX))
    {
        let array = conformed(field.name(), field.data_type())?;
        let mut path = vec![field.name().clone()];
        required.find(&array, &mut path, &is_data, &mut unfit);
    }
    Ok(unfit)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::Codec;

    type Inner = (Option<u64>, u64);
    type Strict = (u64, Inner, Vec<u64>, Option<Inner>, HashMap<String, u64>);
    type LaxInner = (Option<u64>, Option<u64>);
    type Lax = (
        Option<u64>,
        Option<LaxInner>,
        Option<Vec<Option<u64>>>,
        Option<LaxInner>,
        HashMap<String, Option<u64>>,
    );

    #[test]
    fn a_null_is_found_wherever_the_type_has_none() {
        let strict = Codec::<Strict, String>::new().unwrap();
        let lax = Codec::<Lax, String>::new().unwrap();
        let required = Required::of(strict.columns());
        let text = required.to_property().unwrap();
        assert_eq!(
            serde_json::from_str::<BTreeSet<_>>(&text).unwrap(),
            required.0
        );
        let map = HashMap::from([("x".to_owned(), Some(4))]);
        let whole = || {
            (
                Some(1),
                Some((None, Some(2))),
                Some(vec![Some(3)]),
                None,
                map.clone(),
            )
        };
        let changed = |change: fn(&mut Lax)| {
            let mut row: Lax = whole();
            change(&mut row);
            row
        };
        let rows = [
            whole(),
            changed(|row| row.0 = None),
            changed(|row| row.1 = None),
            changed(|row| row.1 = Some((Some(1), None))),
            changed(|row| row.2 = Some(vec![Some(1), None])),
            changed(|row| row.3 = Some((None, None))),
            changed(|row| row.4 = HashMap::from([("x".to_owned(), None)])),
            changed(|row| (row.2, row.4) = (Some(Vec::new()), HashMap::new())),
            changed(|row| row.2 = None),
        ];
        let batch = lax.encode(rows.iter().map(|row| (row, 0, 1))).unwrap();
        let found = unfit_rows(&batch, &strict.schema(), &required).unwrap();
        let columns = ["c0", "c1", "c1.c1", "c2.element", "c3.c1", "c4.value"];
        let expected = columns.iter().zip(1..).map(|(column, row)| {
            (
                row,
                format!("the column {column} is null, where none is meant"),
            )
        });
        let mut expected: BTreeMap<usize, String> = expected.collect();
        expected.insert(8, "the column c2 is null, where none is meant".into());
        assert_eq!(found, expected);
        let none = Required::default();
        assert_eq!(none.to_property(), None);
        assert!(
            unfit_rows(&batch, &strict.schema(), &none)
                .unwrap()
                .is_empty()
        );
    }
}
