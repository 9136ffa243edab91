//! The work of `write`: keeps the corrections, drains them into batches, stages these.

use std::sync::Arc;

use mvsink_persist::{
    Codec, EncodedFile, Error as ShardError, FileEncoder, FileMeta, Frontier, Shard, StagedFile,
};

use tracing::Instrument;

use crate::bounds::{
    Data, Diff, Timestamp, bucket, fingerprint_data, fingerprint_error, hash_data, hash_error,
    time_to_i64,
};
use crate::channel::Weigh;
use crate::comparison::{Buckets, DesiredEnd, Totals};
use crate::corrections::{Corrections, Drained};
use crate::counters::Size;
use crate::description::Description;
use crate::dyncfg::{CHUNK_ROWS, FULL_READ_BACK, INLINE_UPDATES, TARGET_FILE_BYTES};
use crate::error::Error;
use crate::target::Mode;
use crate::worker::Worker;
use crate::write::disputes::Disputes;

/// All that one activation of the operator saw.
pub(crate) struct Batch<D, E, T, R> {
    pub(crate) desired_ok: Vec<Vec<(D, T, R)>>,
    pub(crate) desired_err: Vec<Vec<(E, T, R)>>,
    pub(crate) persist_ok: Vec<Vec<(D, T, R)>>,
    pub(crate) persist_err: Vec<Vec<(E, T, R)>>,
    /// What became of the batch in flight.
    pub(crate) settle: Option<Settle>,
    /// A rival moved the shard's upper here, and desired is complete up to here.
    pub(crate) check_rival: Option<T>,
    /// Desired is complete at the cutoff, as of what is in this batch.
    pub(crate) compare: bool,
    /// The new frontier of the read-back.
    pub(crate) advance: Option<Frontier<T>>,
}

/// What became of a batch in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    /// The shard holds it.
    Own,
    /// The shard does not hold it.
    Lost,
}

impl<D, E, T, R> Default for Batch<D, E, T, R> {
    fn default() -> Self {
        Batch {
            desired_ok: Vec::new(),
            desired_err: Vec::new(),
            persist_ok: Vec::new(),
            persist_err: Vec::new(),
            settle: None,
            check_rival: None,
            compare: false,
            advance: None,
        }
    }
}

impl<D, E, T, R> Batch<D, E, T, R> {
    pub(crate) fn is_empty(&self) -> bool {
        self.settle.is_none() && !self.compare && self.advance.is_none() && self.updates() == 0
    }

    pub(crate) fn desired_updates(&self) -> usize {
        count(&self.desired_ok) + count(&self.desired_err)
    }

    fn persist_updates(&self) -> usize {
        count(&self.persist_ok) + count(&self.persist_err)
    }
}

fn count<U>(containers: &[Vec<U>]) -> usize {
    containers.iter().map(Vec::len).sum()
}

impl<D, E, T, R> Weigh for Batch<D, E, T, R> {
    fn updates(&self) -> usize {
        self.desired_updates() + self.persist_updates()
    }

    fn bytes(&self) -> usize {
        fn size<U>(containers: &[Vec<U>]) -> usize {
            containers
                .iter()
                .map(|container| container.len() * size_of::<U>())
                .sum()
        }
        size(&self.desired_ok)
            + size(&self.desired_err)
            + size(&self.persist_ok)
            + size(&self.persist_err)
    }
}

/// How many updates are not worth consolidating.
const FEW: usize = 64;

/// The rows and the errors of one batch.
type Batched<D, E, T, R> = (Drained<D, T, R>, Drained<E, T, R>);

/// The corrections of one worker, and what was drained from them for the batch in flight.
pub(crate) struct Store<D, E, T, R> {
    mode: Mode,
    ok: Corrections<D, T, R, fn(&D) -> u64>,
    err: Corrections<E, T, R, fn(&E) -> u64>,
    in_flight: Option<Batched<D, E, T, R>>,
    disputes: Disputes,
    /// Rows of others were read since updates were last consolidated on purpose.
    foreign: bool,
    /// How many were left then, at the most.
    consolidated: usize,
    /// Until it has begun.
    end: Option<DesiredEnd<T>>,
    /// What desired holds at the cutoff, until that was compared.
    comparing: Option<Comparing<T>>,
    /// In ingest mode, the frontier below which everything is sealed.
    sealed: Option<Frontier<T>>,
}

/// The fingerprints of desired's updates at times up to the cutoff.
struct Comparing<T> {
    cutoff: T,
    totals: Totals,
}

impl<T: Timestamp> Comparing<T> {
    fn add<D, R: Diff>(&mut self, updates: &[(D, T, R)], fingerprint: impl Fn(&D) -> u128) {
        for (data, time, diff) in updates {
            if *time <= self.cutoff {
                self.totals.add(fingerprint(data), diff.to_i64());
            }
        }
    }
}

/// How a comparison ended.
#[derive(Clone, Copy, Debug)]
struct Compared {
    differing: Buckets,
    rows_verified: i64,
    rows_diffed: i64,
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Store<D, E, T, R> {
    /// Empty, for a sink with this as-of, with its end of the comparison that a view begins with.
    pub(crate) fn new(mode: Mode, as_of: Frontier<T>, end: Option<DesiredEnd<T>>) -> Self {
        let mut ok = Corrections::<D, T, R, fn(&D) -> u64>::new(hash_data);
        let mut err = Corrections::<E, T, R, fn(&E) -> u64>::new(hash_error);
        if let (Mode::View, Frontier::At(as_of)) = (mode, as_of) {
            // Nothing is written below the as-of: the rows of a snapshot need not be told apart by time.
            ok.advance(as_of);
            err.advance(as_of);
        }
        Store {
            mode,
            ok,
            err,
            in_flight: None,
            disputes: Disputes::default(),
            foreign: false,
            consolidated: 0,
            end,
            comparing: None,
            sealed: None,
        }
    }

    /// From now on sums up what is to be compared at the cutoff. Nothing is written before that was compared, nor at
    /// times up to the cutoff: so they count as one.
    fn begin(&mut self, cutoff: T) {
        self.ok.advance(cutoff);
        self.err.advance(cutoff);
        self.comparing = Some(Comparing {
            cutoff,
            totals: Totals::new(),
        });
    }

    /// Drops the updates up to the cutoff in those of these buckets in which they add up to what is held; or in those
    /// that do not count as `differing`, if that is given.
    fn compare(&mut self, held: &Totals, among: Buckets, differing: Option<Buckets>) -> Compared {
        let desired = self.comparing.take();
        let desired = desired.map_or_else(Totals::new, |comparing| comparing.totals);
        let differing = differing.unwrap_or_else(|| desired.differing(held, among));
        let agrees = |hash: u64| !differing.contains(bucket(hash));
        self.ok.discard_due(agrees);
        self.err.discard_due(agrees);
        let rows_diffed = desired.rows(differing);
        Compared {
            differing,
            rows_verified: desired.rows(Buckets::ALL).wrapping_sub(rows_diffed),
            rows_diffed,
        }
    }

    fn len(&self) -> usize {
        self.ok.len() + self.err.len()
    }

    /// Bytes held, without what the rows own on the heap.
    fn bytes(&self) -> usize {
        self.ok.bytes() + self.err.bytes()
    }

    /// The number of updates in the batch in flight.
    fn in_flight_len(&self) -> usize {
        let in_flight = self.in_flight.as_ref();
        in_flight.map_or(0, |(ok, err)| ok.len() + err.len())
    }

    /// A few updates into small corrections: nothing that they could set off takes long, be it a consolidation,
    /// or the end of the batch in flight, whose updates are then given back or freed one by one.
    fn is_little(&self, updates: usize, few: usize) -> bool {
        updates <= few && self.len() + self.in_flight_len() <= few.saturating_mul(64)
    }

    /// Takes in a batch: what was in flight is settled first, then updates come in, then a rival's batch is compared
    /// with ours, then times advance. Gives what was found out about rivals, if that is news.
    fn apply(&mut self, batch: Batch<D, E, T, R>) -> Option<Disputes> {
        match batch.settle {
            None => {}
            Some(Settle::Own) => {
                self.disputes.committed(self.in_flight_len());
                self.in_flight = None;
            }
            Some(Settle::Lost) => {
                if let Some((ok, err)) = self.in_flight.take() {
                    self.ok.give_back(ok);
                    self.err.give_back(err);
                }
            }
        }
        self.foreign |= batch.persist_updates() > 0;
        if let Some(comparing) = &mut self.comparing {
            for rows in &batch.desired_ok {
                comparing.add(rows, fingerprint_data);
            }
            for errors in &batch.desired_err {
                comparing.add(errors, fingerprint_error);
            }
        }
        batch
            .desired_ok
            .into_iter()
            .for_each(|rows| self.ok.insert(rows));
        batch
            .desired_err
            .into_iter()
            .for_each(|errors| self.err.insert(errors));
        batch
            .persist_ok
            .into_iter()
            .for_each(|rows| self.ok.insert_negated(rows));
        batch
            .persist_err
            .into_iter()
            .for_each(|errors| self.err.insert_negated(errors));
        let news = self.check_rival(batch.check_rival);
        match self.mode {
            Mode::View => {
                // An empty frontier leaves no time to advance to, and nothing to write either.
                if let Some(Frontier::At(since)) = batch.advance {
                    self.ok.advance(since);
                    self.err.advance(since);
                    self.consolidate();
                }
            }
            Mode::Ingest => {
                // Also without a new frontier: what arrived now may be long sealed.
                self.sealed = self.sealed.max(batch.advance);
                if let Some(sealed) = self.sealed {
                    self.ok.discard_before(sealed);
                    self.err.discard_before(sealed);
                }
            }
        }
        news
    }

    /// Counts what a rival's commit has left to be corrected before this time.
    fn check_rival(&mut self, time: Option<T>) -> Option<Disputes> {
        let before =
            Frontier::At(time.filter(|_| self.mode == Mode::View && self.disputes.is_due())?);
        let (ok, err) = (self.ok.drain(before), self.err.drain(before));
        let known = self.disputes.clone();
        self.disputes.compared(ok.len() + err.len());
        self.ok.give_back(ok);
        self.err.give_back(err);
        (self.disputes != known).then(|| self.disputes.clone())
    }

    /// Adds up what others have written with what was to be written here. Who writes does that with every batch; who
    /// only reads must do it on purpose, whenever what is held has doubled.
    fn consolidate(&mut self) {
        self.consolidated = self.consolidated.min(self.len());
        if self.foreign && self.in_flight.is_none() && self.len() > 2 * self.consolidated + FEW {
            self.ok.consolidate();
            self.err.consolidate();
            self.consolidated = self.len();
            self.foreign = false;
        }
    }

    fn drain(&mut self, upper: Frontier<T>) {
        debug_assert!(self.in_flight.is_none(), "one batch in flight");
        self.in_flight = Some((self.ok.drain(upper), self.err.drain(upper)));
    }
}

/// Where the encoding of a batch stands, between two closures on the pool.
#[derive(Clone, Copy, Default)]
struct Position {
    rows: usize,
    errors: usize,
}

/// The corrections, and the shard that what is drained from them is staged for.
pub(crate) struct Task<D, E, T, R> {
    worker: Worker,
    shard: Shard,
    codec: Codec<D, E>,
    /// `None` only while a closure on the pool has it.
    store: Option<Store<D, E, T, R>>,
    size: Arc<Size>,
    /// Until it was compared.
    end: Option<DesiredEnd<T>>,
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
        let mut end = store.end.take();
        if let Some(end) = &mut end {
            match worker.stop.or_stop(&mut end.cutoff).await {
                Some(Ok(Some(cutoff))) => store.begin(cutoff),
                Some(Ok(None)) => {}
                // The read-back has failed.
                None | Some(Err(_)) => return Ok(None),
            }
        }
        Ok(Some(Task {
            shard: shard?,
            worker,
            codec,
            store: Some(store),
            size,
            end,
        }))
    }

    /// Runs a closure on the corrections: here if there is little to do, else on the pool.
    async fn with_store<O: Send + 'static>(
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
        self.size.set(store.len(), store.bytes());
        self.store = Some(store);
        Ok(output)
    }

    /// Asks the corrections, between closures, whether there is little to do.
    fn is_little(&self, little: impl FnOnce(&Store<D, E, T, R>, usize) -> bool) -> bool {
        let few = INLINE_UPDATES.get(self.worker.cx.configs());
        self.store.as_ref().is_some_and(|store| little(store, few))
    }

    /// Takes in what one activation of the operator saw.
    pub(crate) async fn apply(&mut self, batch: Batch<D, E, T, R>) -> Result<(), Error> {
        let updates = batch.updates();
        let compare = batch.compare;
        let little = self.is_little(|store, few| store.is_little(updates, few));
        let work = move |store: &mut Store<D, E, T, R>| store.apply(batch);
        let news = self.with_store(little, work).await?;
        if let Some(disputes) = news {
            let instance = &self.worker.instance;
            instance.disputed(self.worker.index, disputes);
        }
        match self.end.take_if(|_| compare) {
            Some(end) => self.compare(end).await,
            None => Ok(()),
        }
    }

    /// Compares with what is held, once that is known, and says what differs.
    async fn compare(&mut self, end: DesiredEnd<T>) -> Result<(), Error> {
        let Some(Ok(held)) = self.worker.stop.or_stop(end.held).await else {
            // The sink stops, or has failed.
            return Ok(());
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
        Ok(())
    }

    /// Drains and stages this worker's part of a batch; `None` if the sink was stopped, and nothing is left staged.
    pub(crate) async fn write(
        &mut self,
        description: Description<T>,
    ) -> Result<Option<Vec<StagedFile>>, Error> {
        let span = description.span(&self.worker.instance.name, self.worker.index);
        let Description { lower, upper, .. } = description;
        self.write_part(lower, upper).instrument(span).await
    }

    async fn write_part(
        &mut self,
        lower: T,
        upper: Frontier<T>,
    ) -> Result<Option<Vec<StagedFile>>, Error> {
        let little = self.is_little(|store, few| store.is_little(0, few));
        self.with_store(little, move |store| store.drain(upper))
            .await?;
        // An update costs far more to encode than to drain.
        let little = self.is_little(|store, few| store.in_flight_len() <= few);
        let target = TARGET_FILE_BYTES.get(self.worker.cx.configs());
        let chunk = CHUNK_ROWS.get(self.worker.cx.configs()).max(1);
        let mut files = Vec::new();
        let mut position = Position::default();
        loop {
            let codec = self.codec.clone();
            let work = move |store: &mut Store<D, E, T, R>| {
                encode(&codec, store, lower, position, chunk, target)
            };
            let encoded = self.with_store(little, work).await?;
            let Some((file, next)) = encoded? else { break };
            position = next;
            match self.stage(file).await? {
                Some(file) => files.push(file),
                None => {
                    // Stopped, and the store does not answer.
                    self.worker.delete_staged(&self.shard, &files).await;
                    return Ok(None);
                }
            }
        }
        tracing::debug!(files = files.len(), "staged");
        self.worker.instance.metrics.batches_written.add(1);
        Ok(Some(files))
    }

    /// Deletes what was staged for an operator that is gone: nobody will commit it.
    pub(crate) async fn discard(&self, files: &[StagedFile]) {
        self.worker.delete_staged(&self.shard, files).await;
    }

    /// Puts one file where a commit can refer to it; `None` if the sink was stopped meanwhile.
    async fn stage(&self, file: EncodedFile) -> Result<Option<StagedFile>, Error> {
        tracing::trace!(rows = file.rows, "staging");
        let meta = FileMeta::from(&file);
        let (rows, size) = (file.rows, file.bytes.len() as u64);
        let bytes = file.bytes;
        let instance = &self.worker.instance;
        let stalled = |error: &ShardError| instance.stalled("stage", error);
        let put = self.shard.put_file(bytes, meta, &stalled);
        let put = self.worker.patiently("stage", put);
        let Some(staged) = self.worker.stop.or_grace(put).await else {
            return Ok(None);
        };
        instance.resumed("stage");
        let staged = staged?;
        instance.metrics.updates_out.add(rows);
        instance.metrics.files_staged.add(1);
        instance.metrics.bytes_staged.add(size);
        Ok(Some(staged))
    }
}

/// Encodes the batch in flight from `position` on into one file; `None` if nothing is left.
fn encode<D: Data, E: Data, T: Timestamp, R: Diff>(
    codec: &Codec<D, E>,
    store: &Store<D, E, T, R>,
    lower: T,
    mut position: Position,
    chunk: usize,
    target: usize,
) -> Result<Option<(EncodedFile, Position)>, Error> {
    let Some((ok, err)) = &store.in_flight else {
        return Ok(None);
    };
    if position.rows == ok.len() && position.errors == err.len() {
        return Ok(None);
    }
    let mut file = FileEncoder::new(codec.schema())?;
    while position.rows < ok.len() && file.estimated_size() < target {
        let end = ok.len().min(position.rows + chunk);
        let mut unfit = None;
        let rows = ok
            .range(position.rows..end)
            .map(|(data, time, diff)| (data, stored(time, lower, &mut unfit), diff));
        let batch = codec.encode(rows)?;
        unfit.map_or(Ok(()), Err)?;
        file.write(&batch)?;
        position.rows = end;
    }
    while position.errors < err.len() && file.estimated_size() < target {
        let end = err.len().min(position.errors + chunk);
        let mut unfit = None;
        let errors = err
            .range(position.errors..end)
            .map(|(error, time, diff)| (error, stored(time, lower, &mut unfit), diff));
        let batch = codec.encode_errors(errors)?;
        unfit.map_or(Ok(()), Err)?;
        file.write(&batch)?;
        position.errors = end;
    }
    Ok(Some((file.finish()?, position)))
}

/// The time as it is stored; one that cannot be is left in `unfit`.
fn stored<T: Timestamp>(time: T, lower: T, unfit: &mut Option<Error>) -> i64 {
    debug_assert!(
        lower <= time,
        "no staged update has a time before its batch's lower"
    );
    time_to_i64(time.max(lower)).unwrap_or_else(|error| {
        *unfit = Some(error);
        i64::MAX
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r02_what_is_in_flight_counts_as_work() {
        const FEW: usize = 4;
        let mut store = Store::<u64, String, u64, i64>::new(Mode::View, Frontier::At(0), None);
        let rows: Vec<_> = (0..64 * FEW as u64).map(|row| (row, 0, 1)).collect();
        store.apply(Batch {
            desired_ok: vec![rows],
            ..Batch::default()
        });
        assert!(store.is_little(FEW, FEW));
        assert!(!store.is_little(FEW + 1, FEW));
        store.drain(Frontier::At(1));
        assert_eq!((store.len(), store.in_flight_len()), (0, 64 * FEW));
        store.apply(Batch {
            desired_ok: vec![vec![(7, 1, 1)]],
            ..Batch::default()
        });
        // To free or give back the batch in flight is work too.
        assert!(!store.is_little(0, FEW));
        store.apply(Batch {
            settle: Some(Settle::Own),
            ..Batch::default()
        });
        assert!(store.is_little(0, FEW));
    }
}
