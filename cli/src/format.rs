//! Batches as text.
//!
//! | | null | the empty text |
//! |---|---|---|
//! | NDJSON | `null` | `""` |
//! | CSV | nothing | `""` |
//! | table | `NULL` | `""` |
//!
//! [`values`] says how the values of each type are written.

pub mod values;

use std::io::{self, Write};

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;

use self::values::{Values, json_string};
use crate::error::Error;
use crate::read::unfit;

/// How a null is printed in a table.
const NULL: &str = "NULL";

fn columns(batch: &RecordBatch) -> Result<Vec<Values<'_>>, Error> {
    let columns = batch.columns().iter();
    let columns = columns.map(|column| Values::new(column.as_ref()));
    columns.collect::<Result<_, _>>().map_err(no_text)
}

fn no_text(error: ArrowError) -> Error {
    unfit("a row", error)
}

/// Writes each row as a JSON object on a line, nulls included.
///
/// # Errors
///
/// If a type has no JSON form, or the output does not take it.
pub fn ndjson(out: &mut impl Write, batch: &RecordBatch) -> Result<(), Error> {
    let schema = batch.schema();
    let names = schema
        .fields()
        .iter()
        .map(|field| json_string(field.name()));
    let columns: Vec<_> = names.zip(columns(batch)?).collect();
    // By way of memory, so that an error of the output is told from one of the rows.
    let mut lines = String::new();
    for row in 0..batch.num_rows() {
        let mut before = '{';
        for (name, values) in &columns {
            lines.push(before);
            lines.push_str(name);
            lines.push(':');
            values.write_json(row, &mut lines).map_err(no_text)?;
            before = ',';
        }
        lines.push_str("}\n");
    }
    out.write_all(lines.as_bytes()).map_err(Error::Output)
}

/// Writes the rows as comma-separated values, after the names of the columns if `header`. A null is nothing, an empty
/// text `""`; lists, structs and maps are JSON.
///
/// # Errors
///
/// If a type has no such form, or the output does not take it.
pub fn csv(out: &mut impl Write, batch: &RecordBatch, header: bool) -> Result<(), Error> {
    let mut lines = String::new();
    if header {
        let schema = batch.schema();
        let names = schema.fields().iter().map(|field| quoted(field.name()));
        lines.push_str(&names.collect::<Vec<_>>().join(","));
        lines.push('\n');
    }
    let columns = columns(batch)?;
    let mut field = String::new();
    for row in 0..batch.num_rows() {
        for (nth, values) in columns.iter().enumerate() {
            if nth > 0 {
                lines.push(',');
            }
            if !values.is_null(row) {
                field.clear();
                values.write_text(row, &mut field).map_err(no_text)?;
                lines.push_str(&quoted(&field));
            }
        }
        lines.push('\n');
    }
    out.write_all(lines.as_bytes()).map_err(Error::Output)
}

/// A field of CSV, in quotes if they are needed.
fn quoted(field: &str) -> std::borrow::Cow<'_, str> {
    if field.is_empty() || field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\"")).into()
    } else {
        field.into()
    }
}

/// Aligned columns. All batches have to be seen once before the first is written.
#[derive(Debug)]
pub struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// A table with the columns of this batch.
    pub fn new(batch: &RecordBatch) -> Self {
        let schema = batch.schema();
        Table {
            widths: schema
                .fields()
                .iter()
                .map(|field| width(field.name()))
                .collect(),
        }
    }

    /// Makes room for the rows.
    ///
    /// # Errors
    ///
    /// If a type has no text.
    pub fn fit(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        for (values, known) in columns(batch)?.iter().zip(&mut self.widths) {
            for row in 0..batch.num_rows() {
                *known = (*known).max(width(&cell(values, row)?));
            }
        }
        Ok(())
    }

    /// Writes the names of the columns.
    ///
    /// # Errors
    ///
    /// If the output does not take it.
    pub fn header(&self, out: &mut impl Write, batch: &RecordBatch) -> Result<(), Error> {
        let schema = batch.schema();
        let names = schema
            .fields()
            .iter()
            .map(|field| (shown(field.name()), field.data_type().is_numeric()));
        self.line(out, names).map_err(Error::Output)?;
        let rules = self.widths.iter().map(|width| ("-".repeat(*width), false));
        self.line(out, rules).map_err(Error::Output)
    }

    /// Writes the rows.
    ///
    /// # Errors
    ///
    /// If a type has no text, or the output does not take it.
    pub fn rows(&self, out: &mut impl Write, batch: &RecordBatch) -> Result<(), Error> {
        let schema = batch.schema();
        let right = schema.fields().iter();
        let right = right.map(|field| field.data_type().is_numeric());
        let columns: Vec<_> = columns(batch)?.into_iter().zip(right).collect();
        for row in 0..batch.num_rows() {
            let cells = columns
                .iter()
                .map(|(values, right)| Ok((cell(values, row)?, *right)))
                .collect::<Result<Vec<_>, Error>>()?;
            self.line(out, cells.into_iter()).map_err(Error::Output)?;
        }
        Ok(())
    }

    fn line(
        &self,
        out: &mut impl Write,
        cells: impl Iterator<Item = (String, bool)>,
    ) -> io::Result<()> {
        let mut line = String::new();
        for ((cell, right), wide) in cells.zip(&self.widths) {
            let gap = " ".repeat(wide.saturating_sub(width(&cell)));
            if !line.is_empty() {
                line.push_str("  ");
            }
            let (before, after) = if right {
                (gap.as_str(), "")
            } else {
                ("", gap.as_str())
            };
            line.extend([before, &cell, after]);
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// A cell of a table. Text that could be taken for something else is in quotes.
fn cell(values: &Values<'_>, row: usize) -> Result<String, Error> {
    if values.is_null(row) {
        return Ok(NULL.to_owned());
    }
    let mut text = String::new();
    values.write_text(row, &mut text).map_err(no_text)?;
    Ok(match text.as_str() {
        "" | NULL if values.is_text() => format!("\"{text}\""),
        _ => shown(&text),
    })
}

/// Text that stays on its line, and does nothing to a terminal.
fn shown(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests;
