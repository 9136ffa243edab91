//! `tail`: the updates of a shard as they come, and how far it is.
//!
//! ```text
//!   the contents at the first time, once it is complete ──> later updates, as they come ──> …
//! ```
//!
//! Data has the table's columns without `mv_error`; an error has that column instead of them. `{"progress": T}` says
//! that all updates before `T` have been printed. Memory is bounded.

use std::io::{BufWriter, StdoutLock, Write};
use std::process::ExitCode;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow_schema::{ArrowError, Field, Schema};
use arrow_select::filter::filter_record_batch;
use mvsink::mvsink_persist::schema::{DIFF_COLUMN, ERROR_COLUMN, RESERVED_PREFIX, TIME_COLUMN};
use mvsink::mvsink_persist::{Change, Error as ShardError, Frontier, ReadOptions, Shard};

use crate::args::{Tail, TailFormat};
use crate::error::Error;
use crate::format;
use crate::read::{unfit, with_shard};

/// Prints the updates of a shard until its upper is `--until`, or empty.
///
/// # Errors
///
/// If there is no such shard, it cannot be read from that time on, or is edited meanwhile.
pub fn run(options: &Tail) -> Result<ExitCode, Error> {
    with_shard(&options.url, |reader| async move {
        let TailFormat::Ndjson = options.format;
        if options.from == Some(i64::MAX) {
            return Err(Error::NoTime { time: i64::MAX });
        }
        let since = reader.shard().progress().since;
        let from = match (options.from, since) {
            (Some(from), since) if since > Frontier::At(from) => {
                return Err(Error::from(ShardError::BeforeSince {
                    url: options.url.clone(),
                    as_of: from,
                    since,
                }));
            }
            (Some(from), _) | (None, Frontier::At(from)) => from,
            (None, Frontier::Empty) => i64::MAX - 1,
        };
        let printer = Printer {
            from,
            until: options.until.map_or(Frontier::Empty, Frontier::At),
            progress: None,
            out: BufWriter::new(std::io::stdout().lock()),
        };
        printer.run(reader.shard()).await
    })
}

struct Printer<'a> {
    from: i64,
    until: Frontier<i64>,
    /// The progress printed last.
    progress: Option<Frontier<i64>>,
    out: BufWriter<StdoutLock<'a>>,
}

impl Printer<'_> {
    async fn run(mut self, shard: &Shard) -> Result<(), Error> {
        let mut watcher = shard.watch();
        // Before its first time there is nothing to print, so that it is said at once that somebody listens.
        self.pass(self.before(watcher.progress().upper))?;
        while !watcher.progress().upper.is_complete(&self.from) {
            if watcher.progress().upper >= self.until {
                // Nothing before the end is at the first time or after it.
                return self.pass(self.until);
            }
            let progress = watcher.changed().await.map_err(Error::from)?;
            self.pass(self.before(progress.upper))?;
        }
        if self.until > Frontier::At(self.from) {
            self.contents(shard).await?;
            let next = self.from.saturating_add(1);
            self.pass(Frontier::At(next).min(self.until))?;
            let options = ReadOptions::default();
            let mut changes = shard
                .changes(next, self.until, options)
                .map_err(Error::from)?;
            while let Some(change) = changes.next().await.map_err(Error::from)? {
                match change {
                    Change::Updates(batch) => self.print(&batch)?,
                    Change::Progress(upper) => self.pass(upper)?,
                }
            }
        }
        let upper = shard.progress().upper;
        self.pass(upper.min(self.until))
    }

    /// Up to where nothing is to be printed, with the shard at `upper`.
    fn before(&self, upper: Frontier<i64>) -> Frontier<i64> {
        upper.min(Frontier::At(self.from)).min(self.until)
    }

    /// Prints the contents at the first time, as updates at that time.
    async fn contents(&mut self, shard: &Shard) -> Result<(), Error> {
        let snapshot = shard.snapshot(self.from, ReadOptions::default());
        let mut snapshot = snapshot.map_err(Error::from)?;
        while let Some(batch) = snapshot.next().await.map_err(Error::from)? {
            let times = Int64Array::from(vec![self.from; batch.num_rows()]);
            let batch = with_time(&batch, Arc::new(times));
            self.print(&batch.map_err(|source| unfit(shard.url(), source))?)?;
        }
        Ok(())
    }

    fn print(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let here = |source| unfit("an update", source);
        let schema = batch.schema();
        let errors = schema.index_of(ERROR_COLUMN).map_err(here)?;
        for is_error in [false, true] {
            let errors = batch.column(errors);
            let wanted: BooleanArray = (0..batch.num_rows())
                .map(|row| Some(errors.is_valid(row) == is_error))
                .collect();
            if wanted.true_count() == 0 {
                continue;
            }
            let columns: Vec<usize> = (0..batch.num_columns())
                .filter(|column| match schema.field(*column).name().as_str() {
                    TIME_COLUMN | DIFF_COLUMN => true,
                    ERROR_COLUMN => is_error,
                    name => !is_error && !name.starts_with(RESERVED_PREFIX),
                })
                .collect();
            let rows = filter_record_batch(&batch.project(&columns).map_err(here)?, &wanted);
            format::ndjson(&mut self.out, &rows.map_err(here)?)?;
        }
        Ok(())
    }

    /// All updates before `upper` are printed.
    fn pass(&mut self, upper: Frontier<i64>) -> Result<(), Error> {
        if self.progress.is_none_or(|known| upper > known) {
            self.progress = Some(upper);
            let line = serde_json::json!({ "progress": upper.time() });
            writeln!(self.out, "{line}").map_err(Error::Output)?;
        }
        self.out.flush().map_err(Error::Output)
    }
}

/// The batch with a column of times before that of the diffs.
fn with_time(batch: &RecordBatch, times: ArrayRef) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let at = schema.index_of(DIFF_COLUMN)?;
    let mut fields = schema.fields().to_vec();
    let mut columns = batch.columns().to_vec();
    let time = Field::new(TIME_COLUMN, times.data_type().clone(), true);
    fields.insert(at, Arc::new(time));
    columns.insert(at, times);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}
