//! The values of a column as text.
//!
//! | type | JSON | CSV, table |
//! |---|---|---|
//! | truth values, numbers, decimals | as they are | as they are |
//! | NaN, ±∞ | `"NaN"`, `"Infinity"`, `"-Infinity"` | `NaN`, `Infinity`, `-Infinity` |
//! | text | a string | as it is |
//! | bytes | a string of hexadecimal digits | hexadecimal digits |
//! | dates | `"2026-01-31"` | `2026-01-31` |
//! | timestamps | `"2026-01-31T12:00:00.5Z"` | `2026-01-31T12:00:00.5Z` |
//! | structs and maps | an object | JSON |
//! | lists | an array | JSON |
//!
//! A date or timestamp beyond the calendar's years is the number that is stored.

use std::fmt::Write as _;

use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};
use arrow_array::types::{Date32Type, Float32Type, Float64Type, TimestampMicrosecondType};
use arrow_array::{Array, BinaryArray, ListArray, MapArray, StringArray};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType, TimeUnit};

/// The values of one column.
pub struct Values<'a> {
    column: &'a dyn Array,
    kind: Kind<'a>,
}

enum Kind<'a> {
    /// What needs no quotes in JSON.
    Plain(ArrayFormatter<'a>),
    /// What may be no number. The second says what each value is as a float.
    Float(ArrayFormatter<'a>, Box<dyn Fn(usize) -> f64 + 'a>),
    /// A date or a time if it is one of the calendar, else the number that is stored.
    Time(Box<dyn Fn(usize) -> Result<String, i64> + 'a>),
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    /// The fields by their names, as JSON strings.
    Struct(Vec<(String, Values<'a>)>),
    List(&'a ListArray, Box<Values<'a>>),
    Map(&'a MapArray, Box<Values<'a>>, Box<Values<'a>>),
    /// Text by the formatter.
    Other(ArrayFormatter<'a>),
}

impl<'a> Values<'a> {
    /// The values of `column`.
    ///
    /// # Errors
    ///
    /// If its type has no text.
    pub fn new(column: &'a dyn Array) -> Result<Self, ArrowError> {
        static OPTIONS: FormatOptions<'static> = FormatOptions::new().with_display_error(false);
        let formatter = || ArrayFormatter::try_new(column, &OPTIONS);
        let kind = match column.data_type() {
            DataType::Boolean => Kind::Plain(formatter()?),
            DataType::Float32 => {
                let floats = column.as_primitive::<Float32Type>();
                Kind::Float(formatter()?, Box::new(|row| f64::from(floats.value(row))))
            }
            DataType::Float64 => {
                let floats = column.as_primitive::<Float64Type>();
                Kind::Float(formatter()?, Box::new(|row| floats.value(row)))
            }
            number if number.is_numeric() => Kind::Plain(formatter()?),
            DataType::Date32 => {
                let days = column.as_primitive::<Date32Type>();
                Kind::Time(Box::new(|row| date(days.value(row))))
            }
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                // Whatever the zone is called, what is stored is UTC.
                let zone = if zone.is_some() { "Z" } else { "" };
                let micros = column.as_primitive::<TimestampMicrosecondType>();
                Kind::Time(Box::new(move |row| timestamp(micros.value(row), zone)))
            }
            DataType::Utf8 => Kind::Text(column.as_string()),
            DataType::Binary => Kind::Bytes(column.as_binary()),
            DataType::Struct(fields) => {
                let columns = column.as_struct().columns().iter();
                let fields = fields.iter().zip(columns).map(|(field, column)| {
                    Ok((json_string(field.name()), Values::new(column.as_ref())?))
                });
                Kind::Struct(fields.collect::<Result<_, ArrowError>>()?)
            }
            DataType::List(_) => {
                let list = column.as_list();
                Kind::List(list, Box::new(Values::new(list.values().as_ref())?))
            }
            DataType::Map(_, _) => {
                let map = column.as_map();
                let keys = Box::new(Values::new(map.keys().as_ref())?);
                Kind::Map(map, keys, Box::new(Values::new(map.values().as_ref())?))
            }
            _ => Kind::Other(formatter()?),
        };
        Ok(Values { column, kind })
    }

    /// True if there is no value in this row.
    pub fn is_null(&self, row: usize) -> bool {
        self.column.is_null(row)
    }

    /// True if the values are text, which may look like anything.
    pub fn is_text(&self) -> bool {
        matches!(self.kind, Kind::Text(_) | Kind::Other(_))
    }

    /// Appends the value of this row as JSON.
    ///
    /// # Errors
    ///
    /// If it has no text.
    pub fn write_json(&self, row: usize, out: &mut String) -> Result<(), ArrowError> {
        if self.is_null(row) {
            out.push_str("null");
            return Ok(());
        }
        match &self.kind {
            Kind::Plain(_) => self.write_text(row, out)?,
            Kind::Float(_, value) if value(row).is_finite() => self.write_text(row, out)?,
            Kind::Time(value) => match value(row) {
                Ok(text) => out.push_str(&json_string(&text)),
                Err(number) => push(out, number),
            },
            Kind::Text(text) => out.push_str(&json_string(text.value(row))),
            Kind::Float(..) | Kind::Bytes(_) | Kind::Other(_) => {
                let mut text = String::new();
                self.write_text(row, &mut text)?;
                out.push_str(&json_string(&text));
            }
            Kind::Struct(fields) => {
                let mut before = '{';
                for (name, values) in fields {
                    out.push(before);
                    out.push_str(name);
                    out.push(':');
                    values.write_json(row, out)?;
                    before = ',';
                }
                if before == '{' {
                    out.push('{');
                }
                out.push('}');
            }
            Kind::List(list, values) => {
                out.push('[');
                for (nth, row) in range(list.value_offsets(), row).enumerate() {
                    if nth > 0 {
                        out.push(',');
                    }
                    values.write_json(row, out)?;
                }
                out.push(']');
            }
            Kind::Map(map, keys, values) => {
                out.push('{');
                for (nth, row) in range(map.value_offsets(), row).enumerate() {
                    if nth > 0 {
                        out.push(',');
                    }
                    let mut key = String::new();
                    keys.write_text(row, &mut key)?;
                    out.push_str(&json_string(&key));
                    out.push(':');
                    values.write_json(row, out)?;
                }
                out.push('}');
            }
        }
        Ok(())
    }

    /// Appends the value of this row as text; of a null, nothing.
    ///
    /// # Errors
    ///
    /// If it has no text.
    pub fn write_text(&self, row: usize, out: &mut String) -> Result<(), ArrowError> {
        if self.is_null(row) {
            return Ok(());
        }
        match &self.kind {
            Kind::Float(_, value) if !value(row).is_finite() => {
                let value = value(row);
                out.push_str(match value {
                    value if value.is_nan() => "NaN",
                    value if value > 0.0 => "Infinity",
                    _ => "-Infinity",
                });
            }
            Kind::Plain(formatter) | Kind::Float(formatter, _) | Kind::Other(formatter) => {
                out.push_str(&formatter.value(row).try_to_string()?);
            }
            Kind::Time(value) => match value(row) {
                Ok(text) => out.push_str(&text),
                Err(number) => push(out, number),
            },
            Kind::Text(text) => out.push_str(text.value(row)),
            Kind::Bytes(bytes) => {
                for byte in bytes.value(row) {
                    push(out, format_args!("{byte:02x}"));
                }
            }
            Kind::Struct(_) | Kind::List(..) | Kind::Map(..) => self.write_json(row, out)?,
        }
        Ok(())
    }
}

fn date(days: i32) -> Result<String, i64> {
    let date = date32_to_datetime(days).ok_or(i64::from(days))?;
    Ok(date.format("%Y-%m-%d").to_string())
}

fn timestamp(micros: i64, zone: &str) -> Result<String, i64> {
    let time = timestamp_us_to_datetime(micros).ok_or(micros)?;
    Ok(format!("{}{zone}", time.format("%Y-%m-%dT%H:%M:%S%.f")))
}

/// The places of a list's elements.
fn range(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    let at = |row: usize| usize::try_from(offsets[row]).unwrap_or(0);
    at(row)..at(row + 1)
}

/// The text in JSON.
pub fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = write!(out, "{value}");
}
