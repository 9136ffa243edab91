//! The statistics of a file in the log, by which other readers leave out files: whether they are true.
//!
//! ```text
//!   minValues[c] ≤ value ≤ maxValues[c]  for each value of c     nullCount[c] = its nulls
//! ```
//!
//! Bounds may be wide: long texts are cut short, and others round. Columns of numbers and texts are looked at, and not what
//! lies inside of others. The times of the file are compared with both of their bounds beside this, wherever these are.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use arrow_cast::cast;
use arrow_schema::DataType;
use serde_json::{Map, Value};

use crate::data_file::DataFile;
use crate::schema::TIME_COLUMN;

/// Statistics, and what is found against them.
pub(super) struct Statistics {
    bounds: [Map<String, Value>; 2],
    nulls: Map<String, Value>,
    /// The nulls that there are.
    found: BTreeMap<String, u64>,
    rows: u64,
    wrong: Option<String>,
}

/// What a bound is compared with.
enum Bound {
    Integer(i64),
    Number(f64),
    Text(String),
}

impl Statistics {
    /// Those of a file, if it has more than a number of rows.
    pub(super) fn of(file: &DataFile) -> Option<Self> {
        let mut stats: Value = serde_json::from_str(file.stats.as_deref()?).ok()?;
        let mut part = |name: &str| match stats.get_mut(name).map(Value::take) {
            Some(Value::Object(values)) => values,
            _ => Map::new(),
        };
        let mut bounds = [part("minValues"), part("maxValues")];
        let nulls = part("nullCount");
        if file.min_time.is_some() && file.max_time.is_some() {
            for bounds in &mut bounds {
                bounds.remove(TIME_COLUMN);
            }
        }
        let is_empty = nulls.is_empty() && bounds.iter().all(Map::is_empty);
        (!is_empty).then(|| Statistics {
            bounds,
            nulls,
            found: BTreeMap::new(),
            rows: 0,
            wrong: None,
        })
    }

    /// Looks at more rows of the file.
    pub(super) fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        for (name, said) in &self.nulls {
            if !said.is_u64() {
                continue;
            }
            if let Some(column) = batch.column_by_name(name) {
                *self.found.entry(name.clone()).or_default() += column.null_count() as u64;
            }
        }
        if self.wrong.is_some() {
            return;
        }
        for (which, beyond) in [Ordering::Less, Ordering::Greater].into_iter().enumerate() {
            for (name, said) in &self.bounds[which] {
                let column = batch.column_by_name(name);
                let value = column.and_then(|column| first_beyond(column, said, beyond));
                if let Some(value) = value {
                    let what = ["least", "greatest"][which];
                    self.wrong = Some(format!(
                        "the {what} {name} is to be {said}, and one is {value}"
                    ));
                    return;
                }
            }
        }
    }

    /// What is wrong with them, if something is.
    pub(super) fn wrong(self) -> Option<String> {
        self.wrong.or_else(|| {
            self.found.iter().find_map(|(name, found)| {
                let said = self.nulls.get(name)?.as_u64()?;
                (said != *found)
                    .then(|| format!("{name} is to be null in {said} rows, and is in {found}"))
            })
        })
    }
}

/// A value of the column that lies beyond the bound.
fn first_beyond(column: &dyn Array, said: &Value, beyond: Ordering) -> Option<String> {
    let bound = match (said, column.data_type()) {
        // Its writer may give the shortest number that is read as this one.
        (Value::Number(said), DataType::Float32) => Bound::Number(f64::from(said.as_f64()? as f32)),
        (Value::Number(said), DataType::Float64) => Bound::Number(said.as_f64()?),
        (Value::Number(said), data_type) if data_type.is_integer() => match said.as_i64() {
            Some(said) => Bound::Integer(said),
            None => Bound::Number(said.as_f64()?),
        },
        (Value::String(said), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => {
            Bound::Text(said.clone())
        }
        _ => return None,
    };
    match bound {
        Bound::Integer(said) => {
            let column = cast(column, &DataType::Int64).ok()?;
            let mut values = column.as_primitive::<Int64Type>().iter().flatten();
            let value = values.find(|value| value.cmp(&said) == beyond)?;
            Some(value.to_string())
        }
        Bound::Number(said) => {
            let column = cast(column, &DataType::Float64).ok()?;
            let mut values = column.as_primitive::<Float64Type>().iter().flatten();
            let value = values.find(|value| value.partial_cmp(&said) == Some(beyond))?;
            Some(value.to_string())
        }
        Bound::Text(said) => {
            let column = cast(column, &DataType::Utf8).ok()?;
            let mut values = column.as_string::<i32>().iter().flatten();
            let value = values.find(|value| (*value).cmp(&said) == beyond)?;
            Some(format!("{value:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::Float32Array;

    use super::*;

    #[test]
    fn a_bound_may_be_the_shortest_number_that_is_read_as_the_value() {
        let beyond = |value: f32, said: f64, beyond: Ordering| {
            first_beyond(&Float32Array::from(vec![value]), &Value::from(said), beyond)
        };
        // The first is a little less than what it is written as, the second a little more.
        for value in [0.7_f32, 0.1] {
            let said: f64 = value.to_string().parse().unwrap();
            assert_eq!(beyond(value, said, Ordering::Less), None, "{value}");
            assert_eq!(beyond(value, said, Ordering::Greater), None, "{value}");
            assert!(beyond(value, said + 0.01, Ordering::Less).is_some());
            assert!(beyond(value, said - 0.01, Ordering::Greater).is_some());
        }
    }
}
