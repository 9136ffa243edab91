//! The version that a view's read-back starts from: compared by fingerprints, and read where it differs.

use std::sync::Arc;

use mvsink_persist::{Codec, DataFile, Frontier, Pinned, RecordBatch};

use super::Mark;
use super::files::{OpenFile, Sign, Taking, Wanted};
use super::task::Task;
use crate::bounds::{
    Data, Diff, Timestamp, fingerprint_data, fingerprint_error, time_from_i64, time_to_i64,
};
use crate::comparison::{Buckets, HeldEnd, Totals};
use crate::error::Error;

impl<D: Data, E: Data, T: Timestamp, R: Diff> Task<D, E, T, R> {
    /// Sends what the rows of the pinned version differ in from desired, as of the later of `as_of` and the last time
    /// that is complete in it.
    pub(super) async fn compare(
        &self,
        pinned: &Pinned,
        as_of: Frontier<T>,
        end: HeldEnd<T>,
    ) -> Result<(), Error> {
        let HeldEnd {
            cutoff,
            held,
            differing,
        } = end;
        let last = match pinned.progress.upper.time() {
            Some(upper) if pinned.files().len() > 0 => upper - 1,
            // Nothing is there to compare with, or nothing left to write.
            _ => {
                let _ = cutoff.send(None);
                self.mark(Mark::Settled);
                return Ok(());
            }
        };
        let at = last.max(as_of.time().map_or(Ok(0), time_to_i64)?);
        // Whoever is gone at the other end ends this task too.
        let at_cutoff: T = time_from_i64(at)?;
        let _ = cutoff.send(Some(at_cutoff));
        self.mark(Mark::Pinned(at_cutoff));

        let mut totals = Totals::new();
        for file in pinned.files() {
            match self.summed(file).filter(|summed| {
                let early = |(min, max)| min >= 0 && max <= last;
                summed.times.is_none_or(early)
            }) {
                Some(summed) => totals.add_sums(summed.sums),
                None => totals.merge(&self.totals(file, at).await?),
            }
        }
        let _ = held.send(totals);
        let Ok(differing) = differing.await else {
            // The sink stops.
            return std::future::pending().await;
        };
        let wanted = Wanted {
            // What will be there only later is no part of the comparison.
            and: Some((self.mine(), at)),
            ..Wanted::of(differing)
        };
        let taking = Taking {
            wanted,
            sign: Sign::Plus,
            floor: 0,
        };
        for file in pinned.files() {
            self.read(file, pinned.progress.upper, taking).await?;
        }
        self.mark(Mark::Settled);
        Ok(())
    }

    /// The sums of a file that the log knows none of, or whose rows do not all count.
    pub(super) async fn totals(&self, file: &Arc<DataFile>, at: i64) -> Result<Totals, Error> {
        let mine = self.mine();
        let mut totals = Totals::new();
        let mut open = OpenFile::read(&self.worker, &self.shard, &file.path).await?;
        loop {
            let codec = self.codec.clone();
            let sum = move |batch: RecordBatch| sum(&codec, &batch, mine, at);
            match open.next(sum).await? {
                Some(more) => totals.merge(&more),
                None => return Ok(totals),
            }
        }
    }
}

/// The sums of the rows at times up to `at`, whatever put them before all times.
fn sum<D: Data, E: Data>(
    codec: &Codec<D, E>,
    batch: &RecordBatch,
    mine: Buckets,
    at: i64,
) -> Result<Totals, Error> {
    let updates = codec.decode(batch)?;
    let mut totals = Totals::new();
    let mut add = |hash: u128, time: i64, diff: i64| {
        if time <= at && mine.contains(mvsink_persist::bucket(hash)) {
            totals.add(hash, diff);
        }
    };
    for (data, time, diff) in &updates.ok {
        add(fingerprint_data(data), *time, *diff);
    }
    for (error, time, diff) in &updates.err {
        add(fingerprint_error(error), *time, *diff);
    }
    Ok(totals)
}
