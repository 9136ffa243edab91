//! The task of `write`: keeps the corrections, drains them into batches, stages these.

use std::sync::Arc;

use mvsink_persist::{
    Codec, CommitId, EncodedFile, Error as ShardError, FileEncoder, FileMeta, Frontier, Shard,
    StagedFile,
};

use crate::bounds::{
    Data, Diff, Timestamp, bucket, fingerprint_data, fingerprint_error, hash_data, hash_error,
    time_to_i64,
};
use crate::channel::{Weigh, WriteCommand, WriteReceiver};
use crate::comparison::{Buckets, DesiredEnd, Totals};
use crate::corrections::{Corrections, Drained};
use crate::counters::count;
use crate::description::Description;
use crate::dyncfg::{CHUNK_ROWS, FULL_READ_BACK, INLINE_UPDATES, TARGET_FILE_BYTES};
use crate::error::Error;
use crate::target::Mode;
use crate::wake::Replies;
use crate::worker::Worker;

/// All that one activation of the operator saw.
pub(crate) struct Batch<D, E, T, R> {
    pub(crate) desired_ok: Vec<Vec<(D, T, R)>>,
    pub(crate) desired_err: Vec<Vec<(E, T, R)>>,
    pub(crate) persist_ok: Vec<Vec<(D, T, R)>>,
    pub(crate) persist_err: Vec<Vec<(E, T, R)>>,
    /// What became of the batch in flight.
    pub(crate) settle: Option<Settle>,
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
            compare: false,
            advance: None,
        }
    }
}

impl<D, E, T, R> Batch<D, E, T, R> {
    pub(crate) fn is_empty(&self) -> bool {
        self.settle.is_none() && !self.compare && self.advance.is_none() && self.updates() == 0
    }
}

impl<D, E, T, R> Weigh for Batch<D, E, T, R> {
    fn updates(&self) -> usize {
        fn count<U>(containers: &[Vec<U>]) -> usize {
            containers.iter().map(Vec::len).sum()
        }
        count(&self.desired_ok)
            + count(&self.desired_err)
            + count(&self.persist_ok)
            + count(&self.persist_err)
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

/// The rows and the errors of one batch.
type Batched<D, E, T, R> = (Drained<D, T, R>, Drained<E, T, R>);

/// The commands of one worker's operator.
type Commands<D, E, T, R> = WriteReceiver<Batch<D, E, T, R>, Description<T>>;

/// The corrections of one worker, and what was drained from them for the batch in flight.
pub(super) struct Store<D, E, T, R> {
    mode: Mode,
    ok: Corrections<D, T, R, fn(&D) -> u64>,
    err: Corrections<E, T, R, fn(&E) -> u64>,
    in_flight: Option<Batched<D, E, T, R>>,
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
    /// Empty, for a sink with this as-of.
    pub(super) fn new(mode: Mode, as_of: T) -> Self {
        let mut ok = Corrections::<D, T, R, fn(&D) -> u64>::new(hash_data);
        let mut err = Corrections::<E, T, R, fn(&E) -> u64>::new(hash_error);
        if mode == Mode::View {
            // Nothing is written below the as-of: the rows of a snapshot need not be told apart by time.
            ok.advance(as_of);
            err.advance(as_of);
        }
        Store {
            mode,
            ok,
            err,
            in_flight: None,
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

    /// Drops the updates up to the cutoff in those of these buckets in which they add up to what is held.
    fn compare(&mut self, held: &Totals, among: Buckets) -> Compared {
        let desired = self.comparing.take();
        let desired = desired.map_or_else(Totals::new, |comparing| comparing.totals);
        let differing = desired.differing(held, among);
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

    /// Takes in a batch: what was in flight is settled first, then updates come in, then times advance.
    fn apply(&mut self, batch: Batch<D, E, T, R>) {
        match batch.settle {
            None => {}
            Some(Settle::Own) => self.in_flight = None,
            Some(Settle::Lost) => {
                if let Some((ok, err)) = self.in_flight.take() {
                    self.ok.give_back(ok);
                    self.err.give_back(err);
                }
            }
        }
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
        match self.mode {
            Mode::View => {
                // An empty frontier leaves no time to advance to, and nothing to write either.
                if let Some(Frontier::At(since)) = batch.advance {
                    self.ok.advance(since);
                    self.err.advance(since);
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

struct Task<D, E, T, R> {
    worker: Worker,
    shard: Shard,
    codec: Codec<D, E>,
    /// `None` only while a closure on the pool has it.
    store: Option<Store<D, E, T, R>>,
    replies: Replies<(CommitId, Vec<StagedFile>)>,
}

/// Runs the task until its operator is gone, or the sink stops.
pub(crate) async fn run<D: Data, E: Data, T: Timestamp, R: Diff>(
    worker: Worker,
    codec: Codec<D, E>,
    store: Store<D, E, T, R>,
    mut commands: Commands<D, E, T, R>,
    replies: Replies<(CommitId, Vec<StagedFile>)>,
) -> Result<(), Error> {
    let stop = Arc::clone(&worker.stop);
    let Some(shard) = stop.or_stop(worker.shard("open")).await else {
        return Ok(());
    };
    let mut task = Task {
        worker,
        shard: shard?,
        codec,
        store: Some(store),
        replies,
    };
    // A stop interrupts the waiting, not the work.
    while let Some(Some(command)) = stop.or_stop(commands.recv()).await {
        match command {
            WriteCommand::Batch(batch) => task.apply(batch).await?,
            WriteCommand::WriteBatch(description) => task.write(description).await?,
        }
    }
    Ok(())
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Task<D, E, T, R> {
    /// Runs a closure on the corrections: here if there is little to do, else on the pool.
    async fn with_store<O: Send + 'static>(
        &mut self,
        little: bool,
        work: impl FnOnce(&mut Store<D, E, T, R>) -> O + Send + 'static,
    ) -> Result<O, Error> {
        let mut store = self.store.take().expect("no other closure has it");
        if little {
            let output = work(&mut store);
            self.store = Some(store);
            return Ok(output);
        }
        let cpu = self.worker.cx.client().cpu();
        let (store, output) = cpu
            .run(move || {
                let output = work(&mut store);
                (store, output)
            })
            .await?;
        self.store = Some(store);
        Ok(output)
    }

    /// Asks the corrections, between closures, whether there is little to do.
    fn is_little(&self, little: impl FnOnce(&Store<D, E, T, R>, usize) -> bool) -> bool {
        let few = INLINE_UPDATES.get(self.worker.cx.configs());
        self.store.as_ref().is_some_and(|store| little(store, few))
    }

    async fn apply(&mut self, batch: Batch<D, E, T, R>) -> Result<(), Error> {
        let updates = batch.updates();
        let little = self.is_little(|store, few| store.is_little(updates, few));
        self.with_store(little, move |store| store.apply(batch))
            .await
    }

    async fn write(&mut self, description: Description<T>) -> Result<(), Error> {
        let Description {
            id, lower, upper, ..
        } = description;
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
            match self.stage(id, file).await? {
                Some(file) => files.push(file),
                None => {
                    // Stopped, and the store does not answer.
                    self.worker.delete_staged(&self.shard, &files).await;
                    return Ok(());
                }
            }
        }
        tracing::trace!(sink = %self.worker.instance.name, %id, files = files.len(), "staged");
        if let Err((_, files)) = self.replies.send((id, files)) {
            // The operator is gone: nobody will commit these.
            self.worker.delete_staged(&self.shard, &files).await;
        }
        Ok(())
    }

    /// Puts one file where a commit can refer to it; `None` if the sink was stopped meanwhile.
    async fn stage(&self, id: CommitId, file: EncodedFile) -> Result<Option<StagedFile>, Error> {
        tracing::trace!(sink = %self.worker.instance.name, %id, rows = file.rows, "staging");
        let meta = FileMeta::from(&file);
        let bytes = file.bytes;
        let instance = &self.worker.instance;
        let stalled = |error: &ShardError| instance.stalled("stage", error);
        let put = self.shard.put_file(bytes, meta, &stalled);
        let Some(staged) = self.worker.stop.or_grace(put).await else {
            return Ok(None);
        };
        instance.resumed("stage");
        Ok(Some(staged?))
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
        let mut store = Store::<u64, String, u64, i64>::new(Mode::View, 0);
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
