//! The work of `write`: feeds the corrections, drains them into batches, stages these.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::{join_all, try_join_all};
use mvsink_persist::{
    Codec, EncodedFile, Error as ShardError, FileMeta, Frontier, PutFile, Shard, StagedFile,
};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::ahead::Ahead;
use super::batch::{Batch, Settle};
use super::encode::{Cut, Position, Share};
use super::store::{Compared, Shared, Store, Summing};
use super::unrepaired::Found;
use crate::bounds::{Data, Diff, Timestamp, frontier_to_i64, time_to_i64};
use crate::channel::Weigh;
use crate::comparison::{Again, Buckets, DesiredEnd, Totals};
use crate::counters::Size;
use crate::description::{Description, Staged};
use crate::dyncfg::{
    CHUNK_ROWS, CORRECTIONS_BYTES, FULL_READ_BACK, INLINE_UPDATES, TARGET_FILE_BYTES,
};
use crate::error::Error;
use crate::worker::Worker;

/// What a task that waits for the disk with what was put aside is called.
const SPILL: &str = "spill";

/// No file is cut smaller than this for want of memory.
const FILE_BYTES_MIN: usize = 1 << 20;

/// The corrections, and the shard that what is drained from them is staged for.
pub(crate) struct Task<D: Data, E: Data, T: Timestamp, R: Diff> {
    pub(super) worker: Worker,
    pub(super) shard: Shard,
    pub(super) codec: Codec<D, E>,
    /// `None` only while a closure on the pool has it.
    store: Option<Store<D, E, T, R>>,
    size: Arc<Size>,
    /// Until it was compared.
    end: Option<DesiredEnd<T>>,
    /// Where a read-back that was left behind says what is to be compared again; a view's.
    again: Option<mpsc::Receiver<Again<T>>>,
    pub(super) ahead: Ahead<T>,
    /// Of the files that were sent last, those that are still to be written.
    writing: Vec<PutFile>,
}

/// The files of a batch.
#[derive(Default)]
pub(super) struct Files {
    pub(super) staged: Vec<StagedFile>,
    /// Those of them that are still to be written.
    writing: Vec<PutFile>,
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Drop for Task<D, E, T, R> {
    fn drop(&mut self) {
        if let Some(store) = self.store.take()
            && store.has_spilled()
        {
            // Files are deleted.
            let handle = self.worker.cx.client().handle();
            handle.spawn_blocking(move || drop(store));
        }
    }
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Task<D, E, T, R> {
    /// Opens the shard, and waits for what is to be compared; `None` if the sink stops first.
    pub(crate) async fn open(
        worker: Worker,
        codec: Codec<D, E>,
        mut store: Store<D, E, T, R>,
        size: Arc<Size>,
    ) -> Result<Option<Self>, Error> {
        let Some(shard) = worker.stop.or_stop(worker.shard("open")).await else {
            return Ok(None);
        };
        let mut end = store.take_end();
        let again = end.as_mut().map(|end| {
            let (_, closed) = mpsc::channel(1);
            std::mem::replace(&mut end.again, closed)
        });
        if let Some(begun) = &mut end {
            match worker.stop.or_stop(&mut begun.cutoff).await {
                Some(Ok(Some(cutoff))) => store.begin(cutoff),
                // There is nothing to compare with.
                Some(Ok(None)) => end = None,
                // The read-back has failed.
                None | Some(Err(_)) => return Ok(None),
            }
        }
        let shard = shard?;
        // A type that is stored as it serialises never had other columns. To ask for those of the table takes its lock.
        let codec = match codec.hashes_plainly() {
            true => codec,
            false => codec.for_table(&shard.schema()),
        };
        Ok(Some(Task {
            codec,
            shard,
            worker,
            store: Some(store),
            size,
            end,
            again,
            ahead: Ahead::default(),
            writing: Vec::new(),
        }))
    }

    /// Runs a closure on the corrections: here if there is little to do, else on the pool.
    pub(super) async fn with_store<O: Send + 'static>(
        &mut self,
        little: bool,
        work: impl FnOnce(&mut Store<D, E, T, R>) -> O + Send + 'static,
    ) -> Result<O, Error> {
        let mut store = self.store.take().expect("no other closure has it");
        let (store, output) = if little {
            let output = work(&mut store);
            (store, output)
        } else {
            let cpu = self.worker.cx.client().cpu();
            cpu.run(move || {
                let output = work(&mut store);
                (store, output)
            })
            .await?
        };
        self.size.set(store.held());
        self.store = Some(store);
        Ok(output)
    }

    /// The corrections, between closures.
    pub(super) fn store(&self) -> Option<&Store<D, E, T, R>> {
        self.store.as_ref()
    }

    /// Asks the corrections, between closures, whether there is little to do.
    pub(super) fn is_little(&self, little: impl FnOnce(&Store<D, E, T, R>, usize) -> bool) -> bool {
        let few = INLINE_UPDATES.get(self.worker.cx.configs());
        self.store.as_ref().is_some_and(|store| little(store, few))
    }

    /// Runs a step on the corrections that may have to read or write what is put aside on disk, until it succeeds.
    /// `None` if the sink was stopped first.
    pub(super) async fn with_disk<O: Send + 'static>(
        &mut self,
        little: bool,
        step: impl Fn(&mut Store<D, E, T, R>) -> Result<O, Error> + Clone + Send + 'static,
    ) -> Result<Option<O>, Error> {
        let mut attempt = 0;
        loop {
            let error = match self.with_store(little, step.clone()).await? {
                Err(error) if error.is_transient() => error,
                decided => {
                    if attempt > 0 {
                        self.worker.resumed(SPILL);
                    }
                    return decided.map(Some);
                }
            };
            self.worker.stalled(SPILL, &error);
            let wait = self.worker.cx.client().wait(attempt);
            if self.worker.stop.or_stop(wait).await.is_none() {
                return Ok(None);
            }
            attempt = attempt.saturating_add(1);
        }
    }

    /// True if it holds nothing that a later command could be about.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.end.is_none()
            && self.ahead.is_unused()
            && self.writing.is_empty()
            && self.store.as_ref().is_some_and(Store::is_at_rest)
    }

    /// The memory in bytes that this worker's corrections may take; 0 for as much as they need.
    pub(super) fn budget(&self) -> usize {
        let budget = CORRECTIONS_BYTES.get(self.worker.cx.configs());
        // A share of nothing would be no bound at all.
        (budget / self.workers()).max(budget.min(1))
    }

    /// How many workers of this process share what there is for the sink.
    pub(super) fn workers(&self) -> usize {
        (self.worker.instance.metrics.stores.get() as usize).max(1)
    }

    /// Takes in what one activation of the operator saw. False if the sink was stopped, and it was not all taken in.
    pub(crate) async fn apply(&mut self, mut batch: Batch<D, E, T, R>) -> Result<bool, Error> {
        let budget = self.budget();
        let (compare, verify) = (batch.compare, batch.verify);
        let known = self.store.as_ref().map(|store| store.disputes().clone());
        match batch.settle {
            Some(Settle::Own) => self.ahead.committed(),
            Some(Settle::Lost) => batch.recall |= self.ahead.is_outstanding(),
            None => {}
        }
        // Before anything advances, as what was drained is given back.
        if batch.recall && !self.recall().await? {
            return Ok(false);
        }
        if batch.stage_ahead.is_some() {
            self.ahead.lower = batch.stage_ahead;
        }
        loop {
            let updates = batch.updates();
            let little = self.is_little(|store, few| store.is_little(updates, few));
            let gathering = self.stages_ahead();
            let work = move |store: &mut Store<D, E, T, R>| {
                store.set_budget(budget);
                store.gather(gathering);
                let whole = store.apply(&mut batch);
                (batch, whole, store.wants_relief())
            };
            let (rest, whole, mut more) = self.with_store(little, work).await?;
            let Some(staged) = self.stage_ahead(more).await? else {
                return Ok(false);
            };
            more &= !staged;
            if more && !self.relieve().await? {
                return Ok(false);
            }
            if whole {
                break;
            }
            batch = rest;
        }
        if let Some((found, edits)) = self.store.as_mut().and_then(Store::take_found) {
            let rows = match found {
                Found::Nothing => None,
                Found::Rows(rows, upper) => {
                    Some((rows.map(|rows| rows as u64), time_to_i64(upper)?))
                }
            };
            let instance = &self.worker.instance;
            instance.unrepaired(self.worker.index, rows, edits);
        }
        let disputes = self.store.as_ref().map(Store::disputes);
        if let Some(disputes) = disputes.filter(|now| known.as_ref() != Some(*now)) {
            let instance = &self.worker.instance;
            instance.disputed(self.worker.index, disputes.clone());
        }
        let mut whole = true;
        if compare {
            whole = match self.end.take() {
                Some(end) => self.compare(end).await?,
                None => self.compare_again().await?,
            };
        }
        match verify.filter(|_| whole) {
            Some(before) => self.verify(before).await,
            None => Ok(whole),
        }
    }

    /// Does what keeps the corrections within their budget, step by step. False if the sink was stopped first.
    pub(super) async fn relieve(&mut self) -> Result<bool, Error> {
        loop {
            let step = |store: &mut Store<D, E, T, R>| store.relieve();
            match self.with_disk(false, step).await? {
                Some(true) => {}
                Some(false) => return Ok(true),
                None => return Ok(false),
            }
        }
    }

    /// Compares with what is held, once that is known, and says what differs. False if the sink was stopped, and it was
    /// not all taken in.
    async fn compare(&mut self, end: DesiredEnd<T>) -> Result<bool, Error> {
        let Some(Ok(held)) = self.worker.stop.or_stop(end.held).await else {
            // The sink stops, or has failed.
            return Ok(false);
        };
        let mine = Buckets::of_worker(self.worker.index, self.worker.peers);
        let differing = FULL_READ_BACK.get(self.worker.cx.configs()).then_some(mine);
        let little = self.is_little(|store, few| store.is_little(0, few));
        let compared = self
            .with_store(little, move |store| store.compare(&held, mine, differing))
            .await?;
        let Compared {
            differing,
            rows_verified,
            rows_diffed,
        } = compared;
        let instance = &self.worker.instance;
        let metrics = &instance.metrics;
        let buckets = (mine.len() - differing.len(), differing.len());
        // What is there less than no times is no row.
        metrics.rows_verified.add(rows_verified.max(0) as u64);
        metrics.rows_diffed.add(rows_diffed.max(0) as u64);
        metrics.buckets_verified.add(buckets.0 as u64);
        metrics.buckets_differing.add(buckets.1 as u64);
        tracing::debug!(
            sink = %instance.name, rows_verified, rows_diffed,
            buckets_verified = buckets.0, buckets_differing = buckets.1, "compared"
        );
        // A read-back that is gone has failed the sink.
        let _ = end.differing.send(differing);
        match self.store().is_some_and(Store::wants_relief) {
            true => self.relieve().await,
            false => Ok(true),
        }
    }

    /// Compares what was written while the read-back was left behind with what the corrections hold of it. False if the sink
    /// was stopped first.
    async fn compare_again(&mut self) -> Result<bool, Error> {
        let stop = Arc::clone(&self.worker.stop);
        let asked = async {
            match &mut self.again {
                Some(again) => again.recv().await,
                None => None,
            }
        };
        let Some(Some(again)) = stop.or_stop(asked).await else {
            // The read-back has failed.
            return Ok(false);
        };
        if !self.drain(again.upper).await? {
            return Ok(false);
        }
        let Some(held) = self.sum_in_flight().await? else {
            return Ok(false);
        };
        let mine = Buckets::of_worker(self.worker.index, self.worker.peers);
        let agrees = held.differing(&again.more, mine) == Buckets::default();
        let settle = match agrees {
            true => Store::forget_in_flight,
            false => Store::give_back_in_flight,
        };
        self.with_store(false, settle).await?;
        tracing::debug!(sink = %self.worker.instance.name, agrees, "compared again");
        // A read-back that is gone has failed the sink.
        let _ = again.agrees.send(agrees);
        Ok(true)
    }

    /// Drains and stages this worker's part of a batch; `None` if the sink was stopped, and nothing is left staged. Some
    /// files may still have to be written ([`Task::finish`]), while they are on their way to who commits them.
    pub(crate) async fn write(
        &mut self,
        description: Description<T>,
    ) -> Result<Option<Staged<StagedFile>>, Error> {
        let span = description.span(&self.worker.instance.name, self.worker.index);
        let lower = time_to_i64(description.lower)?;
        let drained = self.drain_and_stage(description.lower, description.upper);
        let Some(mut files) = drained.instrument(span).await? else {
            return Ok(None);
        };
        // Only this process knows when they are written.
        let appender = (description.appender, self.worker.peers);
        if !self.worker.instance.has_joined(appender) {
            match self.written(files).await? {
                Some(written) => files = written,
                None => return Ok(None),
            }
        }
        self.worker.instance.metrics.batches_written.add(1);
        let ahead = self.ahead.send(lower);
        self.writing = files.writing;
        Ok(Some(Staged {
            files: files.staged,
            ahead,
            // The operator knows them.
            removes: BTreeSet::new(),
        }))
    }

    /// Writes the files that were sent last, and are not written yet. False if the sink was stopped before: they are given
    /// up then.
    pub(crate) async fn finish(&mut self) -> Result<bool, Error> {
        let writing = std::mem::take(&mut self.writing);
        self.put(writing).await
    }

    /// Drains what is before `upper`, and stages it; `None` if the sink was stopped, and nothing of it is left staged.
    pub(super) async fn drain_and_stage(
        &mut self,
        lower: T,
        upper: Frontier<T>,
    ) -> Result<Option<Files>, Error> {
        if !self.drain(upper).await? {
            return Ok(None);
        }
        // An update costs far more to encode than to drain.
        let little =
            self.is_little(|store, few| store.in_flight_len() <= few && !store.has_spilled());
        let files = match self.store().and_then(Store::in_flight_in_memory) {
            Some(batch) => self.stage_shares(batch, lower, little).await?,
            None => self.stage_in_turn(lower).await?,
        };
        let count = files.as_ref().map_or(0, |files| files.staged.len());
        tracing::debug!(files = count, "staged");
        Ok(files)
    }

    /// Drains what is before `upper`. False if the sink was stopped first.
    async fn drain(&mut self, upper: Frontier<T>) -> Result<bool, Error> {
        let little = self.is_little(|store, few| store.is_little(0, few));
        let drain = move |store: &mut Store<D, E, T, R>| store.drain(upper);
        loop {
            match self.with_disk(little, drain).await? {
                Some(true) => return Ok(true),
                Some(false) => {}
                None => return Ok(false),
            }
        }
    }

    /// The sums of what is in flight; `None` if the sink was stopped first.
    async fn sum_in_flight(&mut self) -> Result<Option<Totals>, Error> {
        let rows = CHUNK_ROWS.get(self.worker.cx.configs()).max(1);
        let little =
            self.is_little(|store, few| store.in_flight_len() <= few && !store.has_spilled());
        let (mut totals, mut at) = (Totals::new(), Summing::default());
        loop {
            let sum = move |store: &mut Store<D, E, T, R>| store.sum_next(at, rows);
            match self.with_disk(little, sum).await? {
                Some(Some((more, next))) => {
                    totals.merge(&more);
                    at = next;
                }
                Some(None) => return Ok(Some(totals)),
                None => return Ok(None),
            }
        }
    }

    /// Finds out whether a shard that was finished before the sink started holds its input, which is complete before this
    /// frontier: then nothing is left of that. False if the sink was stopped first.
    async fn verify(&mut self, before: Frontier<T>) -> Result<bool, Error> {
        if !self.drain(before).await? {
            return Ok(false);
        }
        let Some(left) = self.sum_in_flight().await? else {
            return Ok(false);
        };
        let instance = &self.worker.instance;
        if !left.is_nothing() {
            return Err(Error::AlreadyFinished {
                url: self.shard.url().to_owned(),
                name: instance.name.clone(),
            });
        }
        instance.verified(self.worker.index, frontier_to_i64(before)?);
        if before.is_empty() {
            instance.gave(self.worker.index, Frontier::Empty);
        }
        self.with_store(false, Store::forget_in_flight).await?;
        Ok(true)
    }

    /// Writes what is still to be written; `None` if the sink was stopped, and nothing of it is left staged.
    pub(super) async fn written(&self, files: Files) -> Result<Option<Files>, Error> {
        let Files { staged, writing } = files;
        if !self.put(writing).await? {
            self.worker.delete_staged(&self.shard, &staged).await;
            return Ok(None);
        }
        let written = staged.into_iter().map(StagedFile::into_written);
        Ok(Some(Files {
            staged: written.collect(),
            writing: Vec::new(),
        }))
    }

    /// How to cut a batch that so many encode at once.
    fn cut(&self, lower: T, at_once: usize) -> Cut<T> {
        let configs = self.worker.cx.configs();
        let target = TARGET_FILE_BYTES.get(configs);
        Cut {
            lower,
            chunk_rows: CHUNK_ROWS.get(configs).max(1),
            file_bytes: match self.budget() {
                0 => target,
                // Files are in memory until they are staged.
                budget => target.min((budget / 2 / at_once).max(FILE_BYTES_MIN)),
            },
        }
    }

    /// Stages a batch that lies in memory, several files at once if it is large; `None` if the sink was stopped, and
    /// nothing of it is left staged.
    async fn stage_shares(
        &self,
        batch: Shared<D, E, T, R>,
        lower: T,
        little: bool,
    ) -> Result<Option<Files>, Error> {
        let at_once = self.worker.cx.client().cpu().width() / self.workers();
        let shares = Share::of(&batch, at_once.max(1));
        let cut = self.cut(lower, shares.len());
        let staging = shares
            .into_iter()
            .map(|share| self.stage_share(batch.clone(), share, cut, little));
        let staged = join_all(staging).await;
        let stopped = staged.iter().any(|files| matches!(files, Ok(None)));
        let mut files = Files::default();
        for share in staged {
            let share = share?.unwrap_or_default();
            files.staged.extend(share.staged);
            files.writing.extend(share.writing);
        }
        if stopped {
            self.put(files.writing).await?;
            self.worker.delete_staged(&self.shard, &files.staged).await;
            return Ok(None);
        }
        Ok(Some(files))
    }

    /// Stages one share of a batch, file by file; `None` if the sink was stopped, and nothing of it is left staged.
    async fn stage_share(
        &self,
        batch: Shared<D, E, T, R>,
        mut share: Share,
        cut: Cut<T>,
        little: bool,
    ) -> Result<Option<Files>, Error> {
        let mut files = Files::default();
        loop {
            let (codec, batch) = (self.codec.clone(), batch.clone());
            let work = move || Ok::<_, Error>((share.encode(&codec, &batch, cut)?, share));
            let (file, rest) = match little {
                true => work()?,
                false => self.worker.cx.client().cpu().run(work).await??,
            };
            share = rest;
            let Some(file) = file else {
                return Ok(Some(files));
            };
            let (staged, put) = self.begin(file);
            files.staged.push(staged);
            files.writing.push(put);
            if share.is_done() {
                return Ok(Some(files));
            }
            // So that one file lies in memory at a time.
            match self.written(files).await? {
                Some(written) => files = written,
                None => return Ok(None),
            }
        }
    }

    /// Stages a batch that lies on disk, as [`Task::stage_shares`] does one in memory.
    async fn stage_in_turn(&mut self, lower: T) -> Result<Option<Files>, Error> {
        let cut = self.cut(lower, 1);
        let mut files = Files::default();
        let mut position = Position::default();
        loop {
            let codec = self.codec.clone();
            let work = move |store: &mut Store<D, E, T, R>| match store.in_flight() {
                Some(batch) => position.encode(&codec, batch, cut),
                None => Ok(None),
            };
            let Some(encoded) = self.with_disk(false, work).await? else {
                let staged = &files.staged;
                self.worker.delete_staged(&self.shard, staged).await;
                return Ok(None);
            };
            let Some((file, next)) = encoded else {
                return Ok(Some(files));
            };
            position = next;
            let (staged, put) = self.begin(file);
            files.staged.push(staged);
            files.writing.push(put);
            match self.written(files).await? {
                Some(written) => files = written,
                None => return Ok(None),
            }
        }
    }

    /// Deletes what was staged for an operator that is gone: nobody will commit it.
    pub(crate) async fn discard(&mut self, staged: &Staged<StagedFile>) -> Result<(), Error> {
        self.finish().await?;
        for files in [&staged.files, &staged.ahead] {
            self.worker.delete_staged(&self.shard, files).await;
        }
        Ok(())
    }

    /// Nothing more will be asked for: what was staged ahead in vain is deleted. While a commit of it may be under way,
    /// it is left to the sweeper.
    pub(crate) async fn end(self) {
        let vain = self.ahead.in_vain(&self.shard);
        self.worker.delete_staged(&self.shard, &vain).await;
    }

    /// Begins to put one file where a commit can refer to it.
    fn begin(&self, file: EncodedFile) -> (StagedFile, PutFile) {
        tracing::trace!(rows = file.rows, "staging");
        let metrics = &self.worker.instance.metrics;
        metrics.updates_out.add(file.rows);
        metrics.files_staged.add(1);
        metrics.bytes_staged.add(file.bytes.len() as u64);
        let meta = FileMeta::from(&file);
        self.shard.begin_file(file.bytes, meta)
    }

    /// Puts these files. False if the sink was stopped meanwhile, and the store does not answer: they are given up.
    async fn put(&self, files: Vec<PutFile>) -> Result<bool, Error> {
        if files.is_empty() {
            return Ok(true);
        }
        let doing = self.worker.doing("stage");
        let stalled = |error: &ShardError| self.worker.stalled(doing.name(), error);
        // An idle task keeps no room for it.
        let put = Box::pin(try_join_all(
            files.into_iter().map(|file| file.finish(&stalled)),
        ));
        let put = self.worker.patiently(doing.name(), put);
        let Some(put) = self.worker.stop.or_grace(put).await else {
            return Ok(false);
        };
        put?;
        Ok(true)
    }
}
