//! `snapshot`: the contents of a shard at a time.
//!
//! `contents(t) = Σ diffs of equal rows with mv_time ≤ t`, for since ≤ t < upper.

use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use mvsink::mvsink_persist::schema::DIFF_COLUMN;
use mvsink::mvsink_persist::{Error as ShardError, Frontier, Progress};

use crate::args::{Snapshot, SnapshotFormat};
use crate::consolidate::{Consolidated, with_columns};
use crate::error::Error;
use crate::format::{self, Table};
use crate::read::{Parts, Reader, unfit, with_shard};

/// Prints the contents of a shard at a time.
///
/// # Errors
///
/// If there is no such shard, it cannot be read at that time, or is in error then.
pub fn run(options: &Snapshot) -> Result<ExitCode, Error> {
    with_shard(&options.url, |reader| async move {
        let contents = contents(&reader, options.as_of).await?;
        let mut out = BufWriter::new(std::io::stdout().lock());
        print(&mut out, &contents, options.format, reader.shard().url())?;
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

async fn contents(reader: &Reader, wanted: Option<i64>) -> Result<Consolidated, Error> {
    let shard = reader.shard();
    let pinned = shard.pin();
    let as_of = as_of(wanted, pinned.progress)?;
    let schema = shard.schema();
    let here = |source| unfit(shard.url(), source);
    let mut contents = Consolidated::new(&schema).map_err(here)?;
    for file in pinned
        .files()
        .filter(|file| file.min_time.is_none_or(|min| min <= as_of))
    {
        let add = |batch: RecordBatch| {
            let parts = Parts::of(&batch).map_err(here)?;
            contents.add(&parts, |time| time <= as_of).map_err(here)
        };
        reader.file(file, &schema, add).await?;
    }
    match contents.errors().first_key_value() {
        None => Ok(contents),
        Some((first, _)) => Err(Error::InError {
            url: shard.url().to_owned(),
            as_of,
            first: first.clone(),
            count: contents.errors().len(),
        }),
    }
}

fn print(
    out: &mut impl Write,
    contents: &Consolidated,
    form: SnapshotFormat,
    url: &str,
) -> Result<(), Error> {
    let here = |source| unfit(url, source);
    let complete = |batch: RecordBatch, diffs: Vec<i128>| {
        let diffs: Int64Array = diffs
            .into_iter()
            .map(|diff| {
                i64::try_from(diff).map_err(|_| Error::TooMany {
                    url: url.to_owned(),
                    diff,
                })
            })
            .collect::<Result<Vec<_>, _>>()?
            .into();
        with_columns(&batch, [(DIFF_COLUMN, Arc::new(diffs) as ArrayRef)]).map_err(here)
    };
    let empty = complete(
        RecordBatch::new_empty(Arc::clone(contents.schema())),
        Vec::new(),
    )?;
    let batches = || {
        contents.batches().map(|batch| {
            let (batch, diffs) = batch.map_err(here)?;
            complete(batch, diffs)
        })
    };
    match form {
        SnapshotFormat::Ndjson => batches().try_for_each(|batch| format::ndjson(out, &batch?)),
        SnapshotFormat::Csv => {
            format::csv(out, &empty, true)?;
            batches().try_for_each(|batch| format::csv(out, &batch?, false))
        }
        SnapshotFormat::Table => {
            let mut table = Table::new(&empty);
            batches().try_for_each(|batch| table.fit(&batch?))?;
            table.header(out, &empty)?;
            batches().try_for_each(|batch| table.rows(out, &batch?))
        }
    }
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
