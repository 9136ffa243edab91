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
use mvsink::mvsink_persist::schema::ERROR_COLUMN;
use mvsink::mvsink_persist::{
    Error as ShardError, Filter, Frontier, Predicate, Progress, ReadOptions, Shard, SnapshotReader,
};

use crate::args::{Snapshot, SnapshotFormat};
use crate::error::Error;
use crate::format::{self, Table};
use crate::read::{unfit, with_shard};

/// Prints the contents of a shard at a time.
///
/// # Errors
///
/// If there is no such shard, it cannot be read at that time, or is in error then.
pub fn run(options: &Snapshot) -> Result<ExitCode, Error> {
    with_shard(&options.url, |reader| async move {
        let shard = reader.shard();
        let as_of = as_of(options.as_of, shard.progress())?;
        check_errors(shard, as_of).await?;
        let mut out = BufWriter::new(std::io::stdout().lock());
        print(&mut out, shard, as_of, options.format).await?;
        out.flush().map_err(Error::Output)
    })
}

/// The time to read at, checked.
fn as_of(wanted: Option<i64>, progress: Progress) -> Result<i64, Error> {
    let Progress { upper, since, .. } = progress;
    let last = match upper {
        Frontier::At(upper) => upper - 1,
        Frontier::Empty => i64::MAX - 1,
    };
    let as_of = wanted.unwrap_or(last);
    if !upper.is_complete(&as_of) || (wanted.is_none() && upper == Frontier::At(0)) {
        return Err(Error::Incomplete {
            as_of: wanted,
            upper,
        });
    }
    if since > Frontier::At(as_of) {
        return Err(Error::from(ShardError::BeforeSince { as_of, since }));
    }
    Ok(as_of)
}

/// Refuses contents with errors, before anything is printed. Where there are none, the statistics of the files say
/// so, and nothing of them is read.
async fn check_errors(shard: &Shard, as_of: i64) -> Result<(), Error> {
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
    match first {
        None => Ok(()),
        Some(first) => Err(Error::InError {
            url: shard.url().to_owned(),
            as_of,
            first,
            count,
        }),
    }
}

/// The next rows without the column of errors, all of which are null.
async fn next(reader: &mut SnapshotReader) -> Result<Option<RecordBatch>, Error> {
    match reader.next().await.map_err(Error::from)? {
        Some(batch) => Ok(Some(without_errors(&batch)?)),
        None => Ok(None),
    }
}

fn without_errors(batch: &RecordBatch) -> Result<RecordBatch, Error> {
    let schema = batch.schema();
    let kept: Vec<usize> = (0..batch.num_columns())
        .filter(|index| schema.field(*index).name() != ERROR_COLUMN)
        .collect();
    batch
        .project(&kept)
        .map_err(|source| unfit("a row", source))
}

async fn print(
    out: &mut impl Write,
    shard: &Shard,
    as_of: i64,
    form: SnapshotFormat,
) -> Result<(), Error> {
    let read = || {
        shard
            .snapshot(as_of, ReadOptions::default())
            .map_err(Error::from)
    };
    let mut reader = read()?;
    let empty = without_errors(&RecordBatch::new_empty(reader.schema().clone()))?;
    match form {
        SnapshotFormat::Ndjson => {
            while let Some(batch) = next(&mut reader).await? {
                format::ndjson(out, &batch)?;
            }
        }
        SnapshotFormat::Csv => {
            format::csv(out, &empty, true)?;
            while let Some(batch) = next(&mut reader).await? {
                format::csv(out, &batch, false)?;
            }
        }
        SnapshotFormat::Table => {
            let mut table = Table::new(&empty);
            while let Some(batch) = next(&mut reader).await? {
                table.fit(&batch)?;
            }
            table.header(out, &empty)?;
            let mut reader = read()?;
            while let Some(batch) = next(&mut reader).await? {
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
        as_of(wanted, progress).map_err(|error| error.line())
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
