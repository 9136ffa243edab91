//! Batches as text.

use std::io::{self, Write};

use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_json::writer::LineDelimited;
use arrow_schema::ArrowError;

use crate::error::Error;
use crate::read::unfit;

/// Writes each row as a JSON object on a line, nulls included.
///
/// # Errors
///
/// If a type has no JSON form, or the output does not take it.
pub fn ndjson(out: &mut impl Write, batch: &RecordBatch) -> Result<(), Error> {
    // By way of memory, so that an error of the output is told from one of the rows.
    let mut lines = Vec::new();
    let writer = arrow_json::WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = writer.build::<_, LineDelimited>(&mut lines);
    writer
        .write(batch)
        .and_then(|()| writer.finish())
        .map_err(|error| unfit("a row", error))?;
    drop(writer);
    out.write_all(&lines).map_err(Error::Output)
}

/// Writes the rows as comma-separated values, after the names of the columns if `header`.
///
/// # Errors
///
/// If a type has no such form, as lists, or the output does not take it.
pub fn csv(out: &mut impl Write, batch: &RecordBatch, header: bool) -> Result<(), Error> {
    let mut lines = Vec::new();
    let mut writer = arrow_csv::WriterBuilder::new()
        .with_header(header)
        .build(&mut lines);
    writer.write(batch).map_err(|error| unfit("a row", error))?;
    drop(writer);
    out.write_all(&lines).map_err(Error::Output)
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
        for (column, known) in batch.columns().iter().zip(&mut self.widths) {
            let cells = formatter(column)?;
            for row in 0..batch.num_rows() {
                *known = (*known).max(width(&cells.value(row).to_string()));
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
            .map(|field| (field.name().clone(), field.data_type().is_numeric()));
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
        let columns = batch
            .columns()
            .iter()
            .map(|column| Ok((formatter(column)?, column.data_type().is_numeric())));
        let columns = columns.collect::<Result<Vec<_>, Error>>()?;
        for row in 0..batch.num_rows() {
            let cells = columns
                .iter()
                .map(|(cells, right)| (cells.value(row).to_string(), *right));
            self.line(out, cells).map_err(Error::Output)?;
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

fn formatter(column: &dyn Array) -> Result<ArrayFormatter<'_>, Error> {
    static OPTIONS: FormatOptions<'static> = FormatOptions::new();
    ArrayFormatter::try_new(column, &OPTIONS).map_err(|error: ArrowError| unfit("a row", error))
}

fn width(text: &str) -> usize {
    text.chars().count()
}
