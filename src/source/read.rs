//! How a source's task reads a file.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use mvsink_persist::{DataFile, Error as ShardError, Frontier, Schema, Unfit};

use super::Piece;
use super::condemned::{Cause, Condemned};
use super::files::{OpenFile, Sign, Taken, Taking};
use super::first::FirstFile;
use super::task::{Share, Task};
use crate::bounds::{Data, Diff, Timestamp};
use crate::error::Error;

/// What comes of a file of a sink's that cannot be read. (One of another program is condemned in any case.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDamage {
    /// An error: some worker may have counted its rows.
    Fail,
    /// It is condemned: nobody has counted any of its rows.
    Condemn,
}

/// What became of reading a file.
#[derive(Default)]
struct ReadThrough {
    /// Its rows that do not fit.
    unfit: Unfit,
    /// Why it cannot be read, or not to its end; then none of its rows are sent, in sum.
    damage: Option<Error>,
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Task<D, E, T, R> {
    /// Reads the rows of a file, met in this version, that fall to this worker; all that is sent now counts as of `upper`
    /// in the end, if buckets are what is shared.
    pub(super) async fn read(
        &self,
        file: &DataFile,
        version: u64,
        upper: Frontier<i64>,
        taking: Taking,
        on_damage: OnDamage,
    ) -> Result<(), Error> {
        match self.share {
            Share::Files => self.read_mine(&file.into(), version, taking).await,
            Share::Buckets => {
                self.read_bucketed(file, version, upper, taking, on_damage)
                    .await
            }
            Share::Nothing => Ok(()),
        }
    }

    /// Reads a file if it is this worker's. Whoever reads the collection must have all of it.
    pub(super) async fn read_mine(
        &self,
        file: &FirstFile,
        version: u64,
        taking: Taking,
    ) -> Result<(), Error> {
        let FirstFile { path, summed } = file;
        if route_file(path, self.worker.peers) != self.worker.index {
            return Ok(());
        }
        let count = |large: &[_]| self.count(path, version, *summed, large);
        let read = self.read_all(path, taking, None, count).await;
        let ReadThrough { unfit, damage } = read?;
        if let Some(error) = damage {
            return Err(error);
        }
        match unfit.why {
            None => Ok(()),
            Some(why) => Err(ShardError::UnfitRows {
                path: format!("{}/{path}", self.shard.url()),
                version,
                rows: unfit.rows,
                type_name: std::any::type_name::<D>().to_owned(),
                why,
            }
            .into()),
        }
    }

    /// Reads this worker's buckets of a file. One with rows that the types cannot hold is condemned.
    async fn read_bucketed(
        &self,
        file: &DataFile,
        version: u64,
        upper: Frontier<i64>,
        taking: Taking,
        on_damage: OnDamage,
    ) -> Result<(), Error> {
        let removed = taking.sign == Sign::Minus;
        match self.condemned(&file.path, removed) {
            Some(Condemned::Absent) => return Ok(()),
            Some(Condemned::Counted) | None => {}
        }
        let summed = self.summed(file);
        if summed.is_some_and(|summed| !taking.wanted.may_matter(&summed, upper)) {
            return Ok(());
        }
        let exactly = self.exactly(file).filter(|_| !removed);
        let path = &file.path;
        // A sink's corrections add up more than its dataflow can.
        let read = self.read_all(path, taking, exactly.clone(), |_| Ok(()));
        let read = read.await?;
        let mut unfit = read.unfit;
        if let Some(error) = read.damage {
            let condemns = exactly.is_some() || on_damage == OnDamage::Condemn;
            if removed || !condemns || !self.is_damaged(file, &error).await? {
                return Err(error);
            }
            if exactly.is_none() || is_nowhere(&error) {
                let cause = Cause::Damage(error.to_string());
                self.condemn(&file.path, version, cause);
                return Ok(());
            }
            unfit.add(0, error);
        }
        if !unfit.is_empty() && !removed {
            let cause = match exactly {
                Some(_) => Cause::Inexact(unfit),
                None => Cause::Unfit(unfit),
            };
            self.condemn(&file.path, version, cause);
        }
        Ok(())
    }

    /// Sends the rows of a file that are wanted and fit, and counts those that do not fit. If all must do so `exactly`, or
    /// the file is damaged, then all rows are sent or, in sum, none.
    async fn read_all(
        &self,
        path: &str,
        taking: Taking,
        exactly: Option<Arc<Schema>>,
        count: impl Fn(&[(u128, i128)]) -> Result<(), Error>,
    ) -> Result<ReadThrough, Error> {
        let mut read = ReadThrough::default();
        let mut open = match OpenFile::read(&self.worker, &self.shard, path).await {
            Ok(open) => open,
            Err(error) if is_of_the_file(&error) => {
                read.damage = Some(error);
                return Ok(read);
            }
            Err(error) => return Err(error),
        };
        let mut sent = 0;
        loop {
            match self.next(&mut open, taking, exactly.clone()).await {
                Ok(Some(taken)) => {
                    count(&taken.large)?;
                    if exactly.is_none() || read.unfit.is_empty() && taken.unfit.is_empty() {
                        self.send_taken(taken.rows, taken.errors).await;
                        sent += 1;
                    }
                    read.unfit.merge(taken.unfit);
                }
                Ok(None) => break,
                Err(error) if is_of_the_file(&error) => {
                    read.damage = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if read.damage.is_some() || exactly.is_some() && !read.unfit.is_empty() {
            let taking = taking.reversed();
            open.rewind().await?;
            for _ in 0..sent {
                if let Some(taken) = self.next(&mut open, taking, exactly.clone()).await? {
                    self.send_taken(taken.rows, taken.errors).await;
                }
            }
        }
        Ok(read)
    }

    /// Counts rows with large differences that a collection gets.
    fn count(
        &self,
        path: &str,
        version: u64,
        summed: bool,
        large: &[(u128, i128)],
    ) -> Result<(), Error> {
        if large.is_empty() {
            return Ok(());
        }
        let multiplicities = self.multiplicities.lock();
        let mut multiplicities = multiplicities.unwrap_or_else(PoisonError::into_inner);
        if summed {
            // A dataflow has added them up already.
            multiplicities.take_back(large);
            return Ok(());
        }
        if multiplicities.add(large) {
            return Ok(());
        }
        let largest = large.iter().map(|(_, diff)| *diff);
        Err(Error::Multiplicity {
            path: format!("{}/{path}", self.shard.url()),
            version,
            diff: largest.max_by_key(|diff| diff.abs()).unwrap_or_default(),
        })
    }

    async fn next(
        &self,
        open: &mut OpenFile<'_>,
        taking: Taking,
        exactly: Option<Arc<Schema>>,
    ) -> Result<Option<Taken<D, E, T, R>>, Error> {
        let codec = self.codec.clone();
        let take = move |batch| taking.take(&codec, &batch, exactly.as_deref());
        open.next(take).await
    }

    async fn send_taken(&self, rows: Vec<(D, T, R)>, errors: Vec<(E, T, R)>) {
        let updates = (rows.len() + errors.len()) as u64;
        self.worker.instance.metrics.rows_read_back.add(updates);
        self.read.fetch_add(updates, Ordering::Relaxed);
        if !rows.is_empty() {
            self.send(Piece::Rows(rows)).await;
        }
        if !errors.is_empty() {
            self.send(Piece::Errors(errors)).await;
        }
    }
}

/// True if there is no file to be read.
pub(super) fn is_nowhere(error: &Error) -> bool {
    matches!(
        error,
        Error::Shard(ShardError::MissingFile { .. } | ShardError::OutsideFile { .. })
    )
}

/// True if the file cannot be read, whoever tries.
fn is_of_the_file(error: &Error) -> bool {
    matches!(
        error,
        Error::Shard(
            ShardError::Corrupt { .. }
                | ShardError::UnsupportedFile { .. }
                | ShardError::MissingFile { .. }
                | ShardError::OutsideFile { .. }
        )
    )
}

/// The worker that reads a file: the same on all workers, whichever version they start from.
fn route_file(path: &str, peers: usize) -> usize {
    let hash = mvsink_persist::hash_data(path).unwrap_or(0);
    usize::try_from(hash % peers as u128).expect("less than a usize")
}
