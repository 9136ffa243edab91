//! A drained batch as files, each of so many bytes: what computes, on the pool.
//!
//! A batch in memory is cut into shares, which are encoded at once; one on disk is read from front to back.

use std::ops::Range;

use mvsink_persist::{Codec, EncodedFile, FileEncoder, RecordBatch};

use super::store::{Batched, Shared};
use crate::bounds::{Data, Diff, Timestamp, time_to_i64};
use crate::corrections::Bookmark;
use crate::error::Error;

/// Fewer rows than this are not worth a file of their own.
const SHARE_ROWS_MIN: usize = 64 << 10;

/// How a batch is cut.
#[derive(Clone, Copy)]
pub(super) struct Cut<T> {
    /// No row is stored at an earlier time.
    pub(super) lower: T,
    /// How many rows are turned into columns at once.
    pub(super) chunk_rows: usize,
    /// The bytes at which another file begins.
    pub(super) file_bytes: usize,
}

/// What of a batch in memory is still to be encoded by one of several.
pub(super) struct Share {
    rows: Range<usize>,
    errors: Range<usize>,
}

impl Share {
    /// Cuts a batch into shares, `at_once` of them or fewer. The first has the errors, which are few.
    pub(super) fn of<D, E, T: Timestamp, R>(
        (ok, err): &Shared<D, E, T, R>,
        at_once: usize,
    ) -> Vec<Self> {
        let shares = (ok.len() / SHARE_ROWS_MIN).clamp(1, at_once);
        let share = |number| Share {
            rows: ok.len() * number / shares..ok.len() * (number + 1) / shares,
            errors: 0..if number == 0 { err.len() } else { 0 },
        };
        (0..shares).map(share).collect()
    }

    /// True if nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.rows.is_empty() && self.errors.is_empty()
    }

    /// The next file; `None` if nothing is left.
    pub(super) fn encode<D: Data, E: Data, T: Timestamp, R: Diff>(
        &mut self,
        codec: &Codec<D, E>,
        (ok, err): &Shared<D, E, T, R>,
        cut: Cut<T>,
    ) -> Result<Option<EncodedFile>, Error> {
        file(codec, cut, || {
            let rows = take(&mut self.rows, cut.chunk_rows);
            if !rows.is_empty() {
                return cut.rows(codec, ok.range(rows)).map(Some);
            }
            let errors = take(&mut self.errors, cut.chunk_rows);
            if !errors.is_empty() {
                return cut.errors(codec, err.range(errors)).map(Some);
            }
            Ok(None)
        })
    }
}

/// Takes up to so many from the front.
fn take(rest: &mut Range<usize>, most: usize) -> Range<usize> {
    let start = rest.start;
    rest.start = rest.end.min(start.saturating_add(most));
    start..rest.start
}

/// Where the encoding of a batch on disk stands, between two closures on the pool.
#[derive(Clone, Copy, Default)]
pub(super) struct Position {
    rows: Bookmark,
    errors: Bookmark,
}

impl Position {
    /// The next file, and where it ends; `None` if nothing is left.
    pub(super) fn encode<D: Data, E: Data, T: Timestamp, R: Diff>(
        mut self,
        codec: &Codec<D, E>,
        (ok, err): &mut Batched<D, E, T, R>,
        cut: Cut<T>,
    ) -> Result<Option<(EncodedFile, Self)>, Error> {
        let file = file(codec, cut, || {
            if let Some(rows) = ok.next(&mut self.rows, cut.chunk_rows)? {
                return cut.rows(codec, rows).map(Some);
            }
            if let Some(errors) = err.next(&mut self.errors, cut.chunk_rows)? {
                return cut.errors(codec, errors).map(Some);
            }
            Ok(None)
        })?;
        Ok(file.map(|file| (file, self)))
    }
}

/// One file of these batches, as many as fit it; `None` if there is none.
fn file<D: Data, E: Data, T>(
    codec: &Codec<D, E>,
    cut: Cut<T>,
    mut next: impl FnMut() -> Result<Option<RecordBatch>, Error>,
) -> Result<Option<EncodedFile>, Error> {
    let Some(first) = next()? else {
        return Ok(None);
    };
    let mut file = FileEncoder::new(codec.schema())?;
    file.write(&first)?;
    while file.estimated_size() < cut.file_bytes
        && let Some(batch) = next()?
    {
        file.write(&batch)?;
    }
    Ok(Some(file.finish()?))
}

impl<T: Timestamp> Cut<T> {
    fn rows<'a, D: Data, E: Data>(
        &self,
        codec: &Codec<D, E>,
        rows: impl ExactSizeIterator<Item = (&'a D, T, i64)>,
    ) -> Result<RecordBatch, Error> {
        let mut unfit = None;
        let rows = rows.map(|(data, time, diff)| (data, self.stored(time, &mut unfit), diff));
        let batch = codec.encode(rows)?;
        unfit.map_or(Ok(batch), Err)
    }

    fn errors<'a, D: Data, E: Data>(
        &self,
        codec: &Codec<D, E>,
        errors: impl ExactSizeIterator<Item = (&'a E, T, i64)>,
    ) -> Result<RecordBatch, Error> {
        let mut unfit = None;
        let errors = errors.map(|(error, time, diff)| (error, self.stored(time, &mut unfit), diff));
        let batch = codec.encode_errors(errors)?;
        unfit.map_or(Ok(batch), Err)
    }

    /// The time as it is stored; one that cannot be is left in `unfit`.
    fn stored(&self, time: T, unfit: &mut Option<Error>) -> i64 {
        debug_assert!(
            self.lower <= time,
            "no staged update has a time before its batch's lower"
        );
        time_to_i64(time.max(self.lower)).unwrap_or_else(|error| {
            *unfit = Some(error);
            i64::MAX
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mvsink_persist::{Frontier, decode_file};

    use super::*;
    use crate::corrections::Corrections;

    type Row = (u64, String);

    fn batch(rows: u64, errors: u64) -> Shared<Row, String, u64, i64> {
        let mut ok = Corrections::new(|row: &Row| row.0);
        ok.insert(
            (0..rows)
                .map(|row| ((row, "a row".into()), row % 7, 1))
                .collect(),
        );
        let mut err = Corrections::new(|error: &String| error.len() as u64);
        err.insert((0..errors).map(|error| (error.to_string(), 3, 1)).collect());
        (
            Arc::new(ok.drain(Frontier::Empty)),
            Arc::new(err.drain(Frontier::Empty)),
        )
    }

    /// How many rows each file of each share has, and all numbers of rows and errors in order.
    fn encoded(
        batch: &Shared<Row, String, u64, i64>,
        at_once: usize,
        file_bytes: usize,
    ) -> (Vec<Vec<u64>>, Vec<u64>, Vec<u64>) {
        let codec = Codec::<Row, String>::new().unwrap();
        let cut = Cut {
            lower: 0,
            chunk_rows: 8192,
            file_bytes,
        };
        let (mut files, mut rows, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for mut share in Share::of(batch, at_once) {
            let mut sizes = Vec::new();
            while let Some(file) = share.encode(&codec, batch, cut).unwrap() {
                sizes.push(file.rows);
                for columns in decode_file("a file", file.bytes, None, 8192).unwrap() {
                    let updates = codec.decode(&columns.unwrap()).unwrap();
                    rows.extend(updates.ok.iter().map(|((row, _), _, _)| *row));
                    errors.extend(
                        updates
                            .err
                            .iter()
                            .map(|(error, _, _)| error.parse::<u64>().unwrap()),
                    );
                }
            }
            files.push(sizes);
        }
        rows.sort_unstable();
        errors.sort_unstable();
        (files, rows, errors)
    }

    #[test]
    fn shares_have_every_row_once() {
        let min = SHARE_ROWS_MIN as u64;
        for (count, at_once, shares) in [(0, 4, 1), (10, 4, 1), (2 * min, 4, 2), (3 * min, 2, 2)] {
            let batch = batch(count, 5);
            let (files, rows, errors) = encoded(&batch, at_once, usize::MAX);
            assert_eq!(files.len(), shares, "{count} rows, {at_once} at once");
            assert!(files.iter().all(|files| files.len() == 1), "{files:?}");
            assert!(rows.into_iter().eq(0..count));
            assert!(errors.into_iter().eq(0..5));
        }
    }

    #[test]
    fn another_file_begins_where_one_is_full() {
        let batch = batch(50_000, 0);
        let (files, rows, _) = encoded(&batch, 4, 1 << 12);
        assert_eq!(files.len(), 1);
        assert!(files[0].len() > 2, "{files:?}");
        assert!(rows.into_iter().eq(0..50_000));
    }

    #[test]
    fn nothing_makes_no_file() {
        let (files, _, _) = encoded(&batch(0, 0), 4, 1 << 20);
        assert_eq!(files, [Vec::<u64>::new()]);
    }
}
