//! The version that a view's read-back starts from: compared by fingerprints, and read where it differs.

use std::sync::Arc;

use mvsink_persist::{
    Codec, DataFile, Frontier, Pinned, Progress, RecordBatch, Schema, Unfit, Updates,
};
use tokio::sync::oneshot;

use super::Mark;
use super::condemned::Cause;
use super::files::{OpenFile, Sign, Taking, Wanted, sift};
use super::read::{OnDamage, is_nowhere};
use super::seen::Changed;
use super::task::{Share, Task};
use crate::bounds::{
    Data, Diff, Timestamp, fingerprint_error, frontier_from_i64, time_from_i64, time_to_i64,
};
use crate::comparison::{Again, Buckets, HeldEnd, Totals};
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
            again: _,
        } = end;
        let finished = pinned.progress.upper.is_empty();
        if finished && let Some((path, damage)) = self.damaged(pinned).await?.first_key_value() {
            // Nothing can be written any more.
            return Err(self.damage(path, *damage));
        }
        let last = match pinned.progress.upper {
            Frontier::At(upper) if pinned.files().len() > 0 => upper - 1,
            Frontier::Empty if pinned.files().len() > 0 && self.worker.instance.was_finished() => {
                self.last_time(pinned)
            }
            // Nothing is there to compare with, or nothing left to write.
            upper => {
                let _ = cutoff.send(None);
                let begins = as_of.time().map(time_to_i64).transpose()?;
                if let (Frontier::At(upper), Some(begins)) = (upper, begins)
                    && begins < upper
                {
                    // What is to be there below the upper is told once desired is complete there.
                    self.edited();
                }
                self.mark(Mark::Settled);
                return Ok(());
            }
        };
        let at = last.max(as_of.time().map_or(Ok(0), time_to_i64)?);
        // Whoever is gone at the other end ends this task too.
        let at_cutoff: T = time_from_i64(at)?;
        let _ = cutoff.send(Some(at_cutoff));
        self.mark(Mark::Pinned(at_cutoff));

        let version = pinned.progress.version;
        // What is finished is compared as a whole.
        let until = if finished { i64::MAX } else { at };
        let damaged = self.damaged(pinned).await?;
        let mut totals = Totals::new();
        for file in pinned.files() {
            if let Some(damage) = damaged.get(&file.path) {
                self.condemn(&file.path, version, Cause::Damage(damage.to_string()));
                continue;
            }
            match self.summed(file).filter(|summed| {
                let early = |(min, max)| min >= 0 && max <= last;
                summed.times.is_none_or(early)
            }) {
                Some(summed) => totals.add_sums(summed.sums),
                None => totals.merge(&self.totals(file, version, until).await?),
            }
        }
        let _ = held.send(totals);
        let Ok(differing) = differing.await else {
            // The sink stops.
            return std::future::pending().await;
        };
        let wanted = Wanted {
            // What will be there only later is no part of the comparison.
            and: (!finished).then(|| (self.mine(), at)),
            ..Wanted::of(differing)
        };
        let taking = Taking {
            wanted,
            sign: Sign::Plus,
            floor: 0,
            // What is finished is there as a whole, whatever times somebody else has put there.
            ceiling: if finished { at } else { i64::MAX },
        };
        for file in pinned.files() {
            let upper = pinned.progress.upper;
            self.read(file, version, upper, taking, OnDamage::Fail)
                .await?;
        }
        if differing != Buckets::default() && !finished {
            self.edited();
        }
        self.mark(Mark::Settled);
        Ok(())
    }

    /// Asks write whether the rows by which two versions differ are those that it would have written itself: then nobody
    /// reads them.
    pub(super) async fn compare_again(
        &self,
        Changed { added, removed }: &Changed,
        Progress { version, upper, .. }: Progress,
    ) -> Result<bool, Error> {
        let (Some(again), Frontier::At(end)) = (&self.again, upper) else {
            return Ok(false);
        };
        let mut gone = Totals::new();
        for file in removed {
            match self.summed(file) {
                Some(summed) if !self.is_condemned(&file.path) => gone.add_sums(summed.sums),
                // What it held may be gone.
                _ => return Ok(false),
            }
        }
        let mut more = Totals::new();
        for file in added {
            let summed = self.summed(file);
            match summed.filter(|_| !self.is_absent(&file.path)) {
                Some(summed) => more.add_sums(summed.sums),
                None => more.merge(&self.totals(file, version, i64::MAX).await?),
            }
        }
        more.subtract(&gone);
        let (agrees, answer) = oneshot::channel();
        let question = Again {
            upper: frontier_from_i64(upper)?,
            more,
            agrees,
        };
        // A write that is gone has stopped with this.
        let _ = again.send(question).await;
        self.mark(Mark::Pinned(time_from_i64(end - 1)?));
        let Ok(agrees) = answer.await else {
            return std::future::pending().await;
        };
        self.mark(Mark::Settled);
        Ok(agrees)
    }

    /// The last time at which this crate has written anything.
    fn last_time(&self, pinned: &Pinned) -> i64 {
        let times = |file| self.summed(file)?.times;
        let last = pinned
            .files()
            .filter_map(|file| times(file))
            .map(|(_, max)| max);
        last.max().unwrap_or(0).max(0)
    }

    /// The sums of a file that the log knows none of, or whose rows do not all count.
    pub(super) async fn totals(
        &self,
        file: &Arc<DataFile>,
        version: u64,
        at: i64,
    ) -> Result<Totals, Error> {
        if self.is_absent(&file.path) {
            return Ok(Totals::new());
        }
        let exactly = self.exactly(file);
        let mut totals = Totals::new();
        let mut unfit = Unfit::default();
        let summed = self.sum_up(file, at, exactly.clone(), &mut totals, &mut unfit);
        let cause = match summed.await {
            Ok(()) if unfit.is_empty() => return Ok(totals),
            Ok(()) if exactly.is_some() => Cause::Inexact(unfit),
            Ok(()) => Cause::Unfit(unfit),
            // Nothing of it has been counted yet.
            Err(error) if self.share == Share::Buckets => {
                if !self.is_damaged(file, &error).await? {
                    return Err(error);
                }
                if exactly.is_some() && !is_nowhere(&error) {
                    unfit.add(0, error);
                    Cause::Inexact(unfit)
                } else {
                    Cause::Damage(error.to_string())
                }
            }
            Err(error) => return Err(error),
        };
        if self.share != Share::Buckets {
            // Who reads them reports them.
            return Ok(totals);
        }
        let absent = cause.is_absent();
        self.condemn(&file.path, version, cause);
        Ok(if absent { Totals::new() } else { totals })
    }

    async fn sum_up(
        &self,
        file: &DataFile,
        at: i64,
        exactly: Option<Arc<Schema>>,
        totals: &mut Totals,
        unfit: &mut Unfit,
    ) -> Result<(), Error> {
        let mine = self.mine();
        let mut open = OpenFile::read(&self.worker, &self.shard, &file.path).await?;
        loop {
            let (codec, exactly) = (self.codec.clone(), exactly.clone());
            let sum = move |batch: RecordBatch| {
                let (updates, unfit) = sift::<D, E, T>(&codec, &batch, exactly.as_deref());
                Ok((sum(&codec, &updates, mine, at), unfit))
            };
            let Some((more, others)) = open.next(sum).await? else {
                return Ok(());
            };
            totals.merge(&more);
            unfit.merge(others);
        }
    }
}

/// The sums of the rows at times up to `at`, whatever put them before all times.
fn sum<D: Data, E: Data>(
    codec: &Codec<D, E>,
    updates: &Updates<D, E>,
    mine: Buckets,
    at: i64,
) -> Totals {
    let mut totals = Totals::new();
    let mut add = |hash: u128, time: i64, diff: i64| {
        if time <= at && mine.contains(mvsink_persist::bucket(hash)) {
            totals.add(hash, diff);
        }
    };
    for (data, time, diff) in &updates.ok {
        add(codec.hash(data).unwrap_or(0), *time, *diff);
    }
    for (error, time, diff) in &updates.err {
        add(fingerprint_error(error), *time, *diff);
    }
    totals
}
