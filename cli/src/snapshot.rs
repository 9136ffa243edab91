//! `snapshot`: the contents of a shard at a time.
//!
//! `contents(t) = Σ diffs of equal rows with mv_time ≤ t`, for since ≤ t < upper, in the order of the rows' hashes.
//!
//! Memory is bounded however large the contents are. A table, whose columns are as wide as their widest cell, is
//! read twice for that.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use mvsink::mvsink_persist::schema::{DIFF_COLUMN, ERROR_COLUMN};
use mvsink::mvsink_persist::{
    Error as ShardError, Filter, Frontier, Predicate, Progress, ReadOptions, Shard, SnapshotReader,
};

use crate::args::{Snapshot, SnapshotFormat};
use crate::error::{Error, in_error};
use crate::format::{self, Table};
use crate::read::{unfit, with_shard};
use crate::stderr::say;

/// Prints the contents of a shard at a time.
///
/// # Errors
///
/// If there is no such shard, it cannot be read at that time, or is in error then.
pub fn run(options: &Snapshot) -> Result<ExitCode, Error> {
    with_shard(&options.url, |reader| async move {
        let shard = reader.shard();
        let as_of = as_of(shard.url(), options.as_of, shard.progress())?;
        let wanted = Wanted::of(options, shard, as_of);
        if let Some((first, count)) = errors(shard, as_of).await? {
            let url = shard.url();
            if !options.ignore_errors {
                return Err(Error::InError {
                    url: url.to_owned(),
                    as_of,
                    first,
                    count,
                });
            }
            say(in_error(url, as_of, &first, count));
        }
        let mut out = BufWriter::new(std::io::stdout().lock());
        if options.count {
            count(&mut out, &wanted, options.format).await?;
        } else {
            print(&mut out, &wanted, options.format).await?;
        }
        out.flush().map_err(Error::Output)
    })
}

/// What is wanted of the contents.
struct Wanted<'a> {
    shard: &'a Shard,
    as_of: i64,
    filter: Filter,
    /// In this order; empty: all.
    columns: &'a [String],
    limit: u64,
}

impl<'a> Wanted<'a> {
    fn of(options: &'a Snapshot, shard: &'a Shard, as_of: i64) -> Self {
        // Whatever the errors are, they are not data.
        let data = Filter::all().and(Predicate::IsNull {
            column: ERROR_COLUMN.to_owned(),
        });
        Wanted {
            shard,
            as_of,
            filter: options
                .conditions
                .iter()
                .cloned()
                .fold(data, Filter::and_all),
            columns: &options.columns,
            limit: options.limit.unwrap_or(u64::MAX),
        }
    }

    fn read(&self) -> Result<Rows<'_>, Error> {
        let mut options = ReadOptions::default();
        options.filter = self.filter.clone();
        if !self.columns.is_empty() {
            let data = self.columns.iter().filter(|name| *name != DIFF_COLUMN);
            options.columns = Some(data.cloned().collect());
        }
        Ok(Rows {
            reader: self.shard.snapshot(self.as_of, options)?,
            columns: self.columns,
            left: self.limit,
        })
    }
}

/// Reads what is wanted.
struct Rows<'a> {
    reader: SnapshotReader,
    columns: &'a [String],
    /// How many rows may still come.
    left: u64,
}

impl Rows<'_> {
    /// A batch of no rows.
    fn empty(&self) -> Result<RecordBatch, Error> {
        let batch = RecordBatch::new_empty(self.reader.schema().clone());
        self.project(&batch)
    }

    /// The next rows.
    async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(batch) = self.reader.next().await? else {
            return Ok(None);
        };
        let rows = usize::try_from(self.left).unwrap_or(usize::MAX);
        let batch = batch.slice(0, batch.num_rows().min(rows));
        self.left -= batch.num_rows() as u64;
        self.project(&batch).map(Some)
    }

    /// The columns in their order, without that of errors, all of which are null.
    fn project(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let schema = batch.schema();
        let place = |name: &str| schema.index_of(name).map_err(|error| unfit("a row", error));
        let mut kept = Vec::new();
        for name in self.columns {
            let place = place(name)?;
            if !kept.contains(&place) {
                kept.push(place);
            }
        }
        if self.columns.is_empty() {
            kept = (0..batch.num_columns())
                .filter(|index| schema.field(*index).name() != ERROR_COLUMN)
                .collect();
        } else if !self.columns.iter().any(|name| name == DIFF_COLUMN) {
            kept.push(place(DIFF_COLUMN)?);
        }
        batch
            .project(&kept)
            .map_err(|source| unfit("a row", source))
    }
}

/// The time to read at, checked.
fn as_of(url: &str, wanted: Option<i64>, progress: Progress) -> Result<i64, Error> {
    let Progress { upper, since, .. } = progress;
    let last = match upper {
        Frontier::At(upper) => upper - 1,
        Frontier::Empty => i64::MAX - 1,
    };
    let as_of = wanted.unwrap_or(last);
    if !upper.is_complete(&as_of) || (wanted.is_none() && upper == Frontier::At(0)) {
        return Err(Error::Incomplete {
            url: url.to_owned(),
            as_of: wanted,
            upper,
        });
    }
    if since > Frontier::At(as_of) {
        let url = url.to_owned();
        return Err(Error::from(ShardError::BeforeSince { url, as_of, since }));
    }
    Ok(as_of)
}

/// One of the errors in the contents, and how many different ones there are. Where there are none, the statistics of the
/// files say so, and nothing of them is read.
async fn errors(shard: &Shard, as_of: i64) -> Result<Option<(String, usize)>, Error> {
    let mut options = ReadOptions::default();
    options.filter = Filter::all().and(Predicate::IsNotNull {
        column: ERROR_COLUMN.to_owned(),
    });
    let mut reader = shard.snapshot(as_of, options).map_err(Error::from)?;
    let mut first = None;
    let mut count = 0;
    while let Some(batch) = reader.next().await.map_err(Error::from)? {
        count += batch.num_rows();
        let errors = batch.column_by_name(ERROR_COLUMN);
        if let Some(errors) = errors.and_then(|errors| errors.as_string_opt::<i32>()) {
            let least = errors.iter().flatten().min().map(str::to_owned);
            first = first.into_iter().chain(least).min();
        }
    }
    Ok(first.map(|first| (first, count)))
}

/// Prints how many rows there are.
async fn count(
    out: &mut impl Write,
    wanted: &Wanted<'_>,
    form: SnapshotFormat,
) -> Result<(), Error> {
    let mut rows = wanted.read()?;
    let mut count = 0_i128;
    while let Some(batch) = rows.next().await? {
        let diffs = batch.column_by_name(DIFF_COLUMN);
        let diffs = diffs.and_then(|diffs| diffs.as_primitive_opt::<Int64Type>());
        let diffs = diffs.into_iter().flatten().flatten();
        count += diffs.map(i128::from).sum::<i128>();
    }
    match form {
        SnapshotFormat::Table => writeln!(out, "{count}"),
        SnapshotFormat::Ndjson => writeln!(out, "{{\"count\":{count}}}"),
        SnapshotFormat::Csv => writeln!(out, "count\n{count}"),
    }
    .map_err(Error::Output)
}

async fn print(
    out: &mut impl Write,
    wanted: &Wanted<'_>,
    form: SnapshotFormat,
) -> Result<(), Error> {
    let mut rows = wanted.read()?;
    let empty = rows.empty()?;
    match form {
        SnapshotFormat::Ndjson => {
            while let Some(batch) = rows.next().await? {
                format::ndjson(out, &batch)?;
            }
        }
        SnapshotFormat::Csv => {
            format::csv(out, &empty, true)?;
            while let Some(batch) = rows.next().await? {
                format::csv(out, &batch, false)?;
            }
        }
        SnapshotFormat::Table => {
            let mut table = Table::new(&empty);
            while let Some(batch) = rows.next().await? {
                table.fit(&batch)?;
            }
            table.header(out, &empty)?;
            let mut rows = wanted.read()?;
            while let Some(batch) = rows.next().await? {
                table.rows(out, &batch)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(since: i64, upper: Frontier<i64>, wanted: Option<i64>) -> Result<i64, String> {
        let progress = Progress {
            version: 0,
            since: Frontier::At(since),
            upper,
        };
        as_of("x", wanted, progress).map_err(|error| error.line())
    }

    #[test]
    fn times_from_the_since_to_before_the_upper_can_be_read() {
        assert_eq!(at(3, Frontier::At(8), None), Ok(7));
        assert_eq!(at(3, Frontier::At(8), Some(3)), Ok(3));
        assert_eq!(at(3, Frontier::Empty, Some(1 << 40)), Ok(1 << 40));
        let below = at(3, Frontier::At(8), Some(2)).expect_err("below the since");
        assert!(below.contains("since 3"), "{below}");
        let beyond = at(3, Frontier::At(8), Some(8)).expect_err("not complete");
        assert!(beyond.contains("upper is 8"), "{beyond}");
        let nothing = at(0, Frontier::At(0), None).expect_err("nothing is complete");
        assert!(nothing.contains("upper is 0"), "{nothing}");
    }
}
