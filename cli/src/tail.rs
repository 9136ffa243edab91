//! `tail`: the updates of a shard as they come, and how far it is.
//!
//! What lies at or before the first time comes first, consolidated, at that time; later updates come as they
//! are in the files. `{"progress": T}` says that all updates before `T` have been printed.
//!
//! Memory: the consolidated contents at the first time, and one file.

use std::io::{BufWriter, StdoutLock, Write};
use std::process::ExitCode;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use mvsink::mvsink_persist::schema::{DIFF_COLUMN, TIME_COLUMN};
use mvsink::mvsink_persist::{DataFile, Error as ShardError, Frontier};

use crate::args::{Tail, TailFormat};
use crate::consolidate::{Consolidated, error_batch, with_columns};
use crate::error::Error;
use crate::format;
use crate::read::{Parts, Reader, unfit, with_shard};

/// Prints the updates of a shard until its upper is `--until`, or empty.
///
/// # Errors
///
/// If there is no such shard, it cannot be read from that time on, or is edited meanwhile.
pub fn run(options: &Tail) -> Result<ExitCode, Error> {
    with_shard(&options.url, |reader| async move {
        let TailFormat::Ndjson = options.format;
        let since = reader.shard().progress().since;
        let from = match (options.from, since) {
            (Some(from), since) if since > Frontier::At(from) => {
                return Err(Error::from(ShardError::BeforeSince { as_of: from, since }));
            }
            (Some(from), _) | (None, Frontier::At(from)) => from,
            (None, Frontier::Empty) => i64::MAX - 1,
        };
        let schema = reader.shard().schema();
        let first =
            Consolidated::new(&schema).map_err(|source| unfit(reader.shard().url(), source))?;
        let tail = Printer {
            until: options.until,
            from,
            first: Some(first),
            progress: None,
            schema,
            out: BufWriter::new(std::io::stdout().lock()),
            reader,
        };
        tail.run().await
    })
}

struct Printer<'a> {
    reader: Reader,
    schema: SchemaRef,
    from: i64,
    until: Option<i64>,
    /// The updates at or before `from`, until they are complete.
    first: Option<Consolidated>,
    /// The progress printed last.
    progress: Option<Frontier<i64>>,
    out: BufWriter<StdoutLock<'a>>,
}

impl Printer<'_> {
    async fn run(mut self) -> Result<(), Error> {
        let pinned = self.reader.shard().pin();
        for file in pinned.files() {
            self.file(file).await?;
        }
        let mut version = pinned.progress.version;
        let mut ended = self.pass(pinned.progress.upper)?;
        drop(pinned);
        while !ended {
            version += 1;
            let entry = self
                .reader
                .shard()
                .entry(version)
                .await
                .map_err(Error::from)?;
            if entry.foreign {
                let url = self.reader.shard().url().to_owned();
                return Err(Error::from(ShardError::ForeignEdit { url, version }));
            }
            for file in &entry.adds {
                self.file(file).await?;
            }
            ended = self.pass(entry.upper)?;
        }
        Ok(())
    }

    /// Updates before this time are wanted.
    fn end(&self) -> i64 {
        self.until.unwrap_or(i64::MAX)
    }

    /// Prints the updates of a file after `from`, and keeps the others for the moment when `from` is complete.
    async fn file(&mut self, file: &DataFile) -> Result<(), Error> {
        if file.min_time.is_some_and(|min| min >= self.end()) {
            return Ok(());
        }
        let (reader, schema) = (self.reader.clone(), Arc::clone(&self.schema));
        let each = |batch: RecordBatch| self.batch(&batch);
        reader.file(file, &schema, each).await
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let url = self.reader.shard().url().to_owned();
        let here = |source| unfit(&url, source);
        let parts = Parts::of(batch).map_err(here)?;
        let (from, until) = (self.from, self.end());
        if let Some(first) = &mut self.first {
            first
                .add(&parts, |time| time <= from && time < until)
                .map_err(here)?;
        }
        // After `from` has passed, what comes for it is an update like any other.
        let past = self.first.is_none();
        for errors in [false, true] {
            let wanted = |row: usize| {
                let time = parts.time(row);
                parts.errors.is_valid(row) == errors && (past || time > from) && time < until
            };
            let rows: Vec<usize> = (0..batch.num_rows()).filter(|row| wanted(*row)).collect();
            if rows.is_empty() {
                continue;
            }
            let mask: BooleanArray = (0..batch.num_rows()).map(|row| Some(wanted(row))).collect();
            let times = rows.iter().map(|row| parts.time(*row)).collect();
            let diffs = rows.iter().map(|row| parts.diff(*row)).collect();
            let what = if errors {
                let texts = rows.iter().map(|row| parts.errors.value(*row));
                error_batch(StringArray::from_iter_values(texts)).map_err(here)?
            } else {
                filter_record_batch(&parts.data, &mask).map_err(here)?
            };
            self.print(&what, times, diffs)?;
        }
        Ok(())
    }

    fn print(&mut self, what: &RecordBatch, times: Vec<i64>, diffs: Vec<i64>) -> Result<(), Error> {
        let ours = [
            (TIME_COLUMN, Arc::new(Int64Array::from(times)) as ArrayRef),
            (DIFF_COLUMN, Arc::new(Int64Array::from(diffs)) as ArrayRef),
        ];
        let batch = with_columns(what, ours);
        let batch = batch.map_err(|source| unfit(self.reader.shard().url(), source))?;
        format::ndjson(&mut self.out, &batch)
    }

    /// The shard's upper is known to be this. True if there is nothing more to print.
    fn pass(&mut self, upper: Frontier<i64>) -> Result<bool, Error> {
        let reached = self.until.is_some_and(|until| upper >= Frontier::At(until));
        let upper = self
            .until
            .map_or(upper, |until| upper.min(Frontier::At(until)));
        if upper.is_complete(&self.from)
            && let Some(first) = self.first.take()
        {
            self.print_first(&first)?;
        }
        let moved = self.progress.is_none_or(|known| upper > known);
        if moved && (self.first.is_none() || reached) {
            self.progress = Some(upper);
            let line = serde_json::json!({ "progress": upper.time() });
            writeln!(self.out, "{line}").map_err(Error::Output)?;
        }
        self.out.flush().map_err(Error::Output)?;
        Ok(reached || upper.is_empty())
    }

    fn print_first(&mut self, first: &Consolidated) -> Result<(), Error> {
        let url = self.reader.shard().url().to_owned();
        let fit = |diff: i128| {
            i64::try_from(diff).map_err(|_| Error::TooMany {
                url: url.clone(),
                diff,
            })
        };
        for batch in first.batches() {
            let (rows, diffs) = batch.map_err(|source| unfit(&url, source))?;
            let diffs = diffs.into_iter().map(fit).collect::<Result<Vec<_>, _>>()?;
            self.print(&rows, vec![self.from; diffs.len()], diffs)?;
        }
        let errors = first.errors();
        if !errors.is_empty() {
            let texts = error_batch(StringArray::from_iter_values(errors.keys()));
            let diffs = errors
                .values()
                .map(|diff| fit(*diff))
                .collect::<Result<Vec<_>, _>>()?;
            let texts = texts.map_err(|source| unfit(&url, source))?;
            self.print(&texts, vec![self.from; diffs.len()], diffs)?;
        }
        Ok(())
    }
}
