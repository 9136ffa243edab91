//! Data files, as far as a reader wants their rows.
//!
//! What the log says of a file of this crate's is enough to leave it alone: if no bucket that is wanted has a sum, then
//! the rows of those buckets cancel out, as of any time at or beyond all of the file's. That is used only where they
//! count as of such a time: a sink's corrections count all times below the shard's upper as that upper.

use mvsink_persist::{
    Bytes, Codec, Error as ShardError, FileDecoder, Frontier, RecordBatch, Schema, Shard, Summed,
    Unfit, Updates, decode_file,
};

use super::multiplicity;
use crate::bounds::{Data, Diff, Timestamp, bucket, fingerprint_error, high_bits, time_from_i64};
use crate::comparison::Buckets;
use crate::dyncfg::CHUNK_ROWS;
use crate::error::Error;
use crate::worker::Worker;

/// Which rows of a file are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Those of these buckets
    pub(super) buckets: Buckets,
    /// at this time or later,
    pub(super) from: i64,
    /// and those of these buckets after this time.
    pub(super) and: Option<(Buckets, i64)>,
}

impl Wanted {
    /// All rows of these buckets.
    pub(super) fn of(buckets: Buckets) -> Self {
        Wanted {
            buckets,
            from: i64::MIN,
            and: None,
        }
    }

    fn is_wanted(&self, hash: impl FnOnce() -> u64, time: i64) -> bool {
        if self.buckets == Buckets::ALL {
            return time >= self.from;
        }
        let bucket = bucket(hash());
        let and = self.and;
        self.buckets.contains(bucket) && time >= self.from
            || and.is_some_and(|(buckets, after)| buckets.contains(bucket) && time > after)
    }

    /// False only if the rows of the file that are wanted cancel out, as of `upper`.
    pub(super) fn may_matter(&self, file: &Summed<'_>, upper: Frontier<i64>) -> bool {
        let Some((min, max)) = file.times else {
            return false;
        };
        let may = |buckets: Buckets, from: i64| {
            let count_as_one = min >= from && upper.is_complete(&max);
            max >= from && (!count_as_one || buckets.meet(file.sums))
        };
        let none = Buckets::default();
        let and = self.and.filter(|(buckets, _)| *buckets != none);
        self.buckets != none && may(self.buckets, self.from)
            || and.is_some_and(|(buckets, after)| max > after && may(buckets, after + 1))
    }
}

/// Whether rows come or go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Plus,
    Minus,
}

/// How rows are taken from a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taking {
    pub(super) wanted: Wanted,
    pub(super) sign: Sign,
    /// Earlier times count as this.
    pub(super) floor: i64,
    /// Later times count as this.
    pub(super) ceiling: i64,
}

/// What was taken from a batch.
pub(super) struct Taken<D, E, T, R> {
    pub(super) rows: Vec<(D, T, R)>,
    pub(super) errors: Vec<(E, T, R)>,
    /// The fingerprints and differences of those among them with large differences.
    pub(super) large: Vec<(u128, i128)>,
    /// Rows that are none of these.
    pub(super) unfit: Unfit,
}

impl Taking {
    /// What takes back what this took.
    pub(super) fn reversed(self) -> Self {
        let sign = match self.sign {
            Sign::Plus => Sign::Minus,
            Sign::Minus => Sign::Plus,
        };
        Taking { sign, ..self }
    }

    /// The updates of a batch that are wanted.
    pub(super) fn take<D: Data, E: Data, T: Timestamp, R: Diff>(
        &self,
        codec: &Codec<D, E>,
        batch: &RecordBatch,
        exactly: Option<&Schema>,
    ) -> Result<Taken<D, E, T, R>, Error> {
        let (updates, unfit) = sift::<D, E, T>(codec, batch, exactly);
        let mut large = Vec::new();
        let hash = |data: &D| codec.hash(data).unwrap_or(0);
        let rows = self.typed(updates.ok, hash, &mut large)?;
        let errors = self.typed(updates.err, fingerprint_error, &mut large)?;
        Ok(Taken {
            rows,
            errors,
            large,
            unfit,
        })
    }

    fn typed<D: Clone, T: Timestamp, R: Diff>(
        &self,
        updates: Vec<(D, i64, i64)>,
        hash: impl Fn(&D) -> u128,
        large: &mut Vec<(u128, i128)>,
    ) -> Result<Vec<(D, T, R)>, Error> {
        let large_from = multiplicity::large::<R>();
        let signed = |diff: i64| {
            let signed = match self.sign {
                Sign::Plus => diff,
                Sign::Minus => -diff,
            };
            R::from_i64(signed).ok_or(Error::Diff { diff })
        };
        let mut typed = Vec::with_capacity(updates.len());
        for (data, time, diff) in updates {
            if !self.wanted.is_wanted(|| high_bits(hash(&data)), time) {
                continue;
            }
            if diff.unsigned_abs() >= large_from {
                let diff = i128::from(diff);
                let signed = if self.sign == Sign::Plus { diff } else { -diff };
                large.push((hash(&data), signed));
            }
            let time: T = time_from_i64(time.max(self.floor).min(self.ceiling))?;
            if diff == i64::MIN {
                // It has no negation, which whoever takes these away needs: so it comes in two.
                typed.push((data.clone(), time, signed(-1)?));
                typed.push((data, time, signed(diff + 1)?));
            } else {
                typed.push((data, time, signed(diff)?));
            }
        }
        Ok(typed)
    }
}

/// The updates of a batch that the types can hold, and what is wrong with its other rows; with a table's schema, those
/// that are stored in it as a sink would store them.
pub(super) fn sift<D: Data, E: Data, T: Timestamp>(
    codec: &Codec<D, E>,
    batch: &RecordBatch,
    exactly: Option<&Schema>,
) -> (Updates<D, E>, Unfit) {
    let (mut updates, mut unfit) = match exactly {
        Some(table) => codec.decode_exact(batch, table),
        None => codec.decode_fitting(batch),
    };
    let mut fits = |time: i64| match time_from_i64::<T>(time.max(0)) {
        Ok(_) => true,
        Err(error) => {
            unfit.add(1, error);
            false
        }
    };
    updates.ok.retain(|(_, time, _)| fits(*time));
    updates.err.retain(|(_, time, _)| fits(*time));
    (updates, unfit)
}

/// A data file in memory, that is decoded piece by piece.
pub(crate) struct OpenFile<'a> {
    worker: &'a Worker,
    path: String,
    bytes: Bytes,
    chunk_rows: usize,
    /// `None` at the end.
    decoder: Option<FileDecoder>,
}

impl<'a> OpenFile<'a> {
    /// Reads the file.
    pub(crate) async fn read(worker: &'a Worker, shard: &Shard, path: &str) -> Result<Self, Error> {
        let bytes = worker.retry("read", || shard.read_file(path)).await?;
        worker.instance.metrics.data_files_read.add(1);
        let mut open = OpenFile {
            worker,
            path: path.to_owned(),
            bytes,
            chunk_rows: CHUNK_ROWS.get(worker.cx.configs()).max(1),
            decoder: None,
        };
        open.rewind().await?;
        Ok(open)
    }

    /// Goes on with the first batch; the batches are the same each time.
    pub(super) async fn rewind(&mut self) -> Result<(), Error> {
        let (path, bytes, rows) = (self.path.clone(), self.bytes.clone(), self.chunk_rows);
        let cpu = self.worker.cx.client().cpu();
        let decode = move || decode_file(&path, bytes, None, rows);
        self.decoder = Some(cpu.run(decode).await??);
        Ok(())
    }

    /// What `make` makes of the next batch; `None` at the end.
    pub(crate) async fn next<O: Send + 'static>(
        &mut self,
        make: impl FnOnce(RecordBatch) -> Result<O, Error> + Send + 'static,
    ) -> Result<Option<O>, Error> {
        let Some(mut decoder) = self.decoder.take() else {
            return Ok(None);
        };
        let cpu = self.worker.cx.client().cpu();
        let (decoder, made) = cpu
            .run(move || {
                let made = decoder
                    .next()
                    .map(|batch: Result<_, ShardError>| make(batch?));
                (decoder, made)
            })
            .await?;
        self.decoder = made.is_some().then_some(decoder);
        made.transpose()
    }
}

#[cfg(test)]
mod tests {
    use mvsink_persist::Sums;

    use super::*;

    fn file(sums: &Sums, times: (i64, i64)) -> Summed<'_> {
        Summed {
            sums,
            times: Some(times),
        }
    }

    #[test]
    fn a_file_is_left_alone_only_if_its_rows_count_at_one_time() {
        let mut sums = Sums::default();
        sums.add(3 << 120 | 1, 1);
        let mut mine = Buckets::default();
        mine.insert(3);
        let others = Buckets::of_worker(0, 2);
        let upper = Frontier::At(10);
        let of = |buckets, from| Wanted {
            from,
            ..Wanted::of(buckets)
        };
        let matters = |wanted: Wanted, times| wanted.may_matter(&file(&sums, times), upper);
        assert!(matters(of(mine, i64::MIN), (2, 9)));
        assert!(!matters(of(others, i64::MIN), (2, 9)));
        // Rows of a bucket without a sum may cancel out at a time that is still to come,
        assert!(matters(of(others, i64::MIN), (2, 10)));
        // or with rows that are not wanted.
        assert!(matters(of(others, 3), (2, 9)));
        assert!(!matters(of(others, 2), (2, 9)));
        assert!(!matters(of(mine, 10), (2, 9)));
        // Some of all times, and others of late ones.
        let both = |buckets, and, after| Wanted {
            and: Some((and, after)),
            ..Wanted::of(buckets)
        };
        let none = Buckets::default();
        assert!(matters(both(mine, none, 5), (2, 9)));
        assert!(matters(both(none, mine, 5), (2, 9)));
        assert!(!matters(both(none, mine, 9), (2, 9)));
        assert!(matters(both(others, others, 5), (2, 9)));
        assert!(!matters(both(others, others, 5), (6, 9)));
        assert!(matters(both(none, mine, i64::MAX - 1), (2, i64::MAX)));
        assert!(!matters(both(none, none, 5), (2, 10)));
    }
}
