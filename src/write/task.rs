//! The work of `write`: keeps the corrections, drains them into batches, stages these.

use std::sync::Arc;

use mvsink_persist::{
    Codec, CommitId, EncodedFile, Error as ShardError, FileEncoder, FileMeta, Frontier,
    RecordBatch, Shard, StagedFile,
};

use crate::bounds::{Data, Diff, Timestamp, hash_data, hash_error, time_to_i64};
use crate::channel::Weigh;
use crate::corrections::{Bookmark, Bounded, Disk, Errors, Rows, Taken, heap_bytes};
use crate::description::Description;
use crate::dyncfg::{CHUNK_ROWS, CORRECTIONS_BYTES, INLINE_UPDATES, TARGET_FILE_BYTES};
use crate::error::Error;
use crate::status::HeldBytes;
use crate::target::Mode;
use crate::worker::Worker;

/// What a task that waits for the disk with what was put aside is called.
const SPILL: &str = "spill";

/// No file is cut smaller than this for want of memory.
const FILE_BYTES_MIN: usize = 1 << 20;

/// All that one activation of the operator saw.
pub(crate) struct Batch<D, E, T, R> {
    pub(crate) desired_ok: Vec<Vec<(D, T, R)>>,
    pub(crate) desired_err: Vec<Vec<(E, T, R)>>,
    pub(crate) persist_ok: Vec<Vec<(D, T, R)>>,
    pub(crate) persist_err: Vec<Vec<(E, T, R)>>,
    /// What became of the batch in flight.
    pub(crate) settle: Option<Settle>,
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
            advance: None,
        }
    }
}

impl<D, E, T, R> Batch<D, E, T, R> {
    pub(crate) fn is_empty(&self) -> bool {
        self.settle.is_none() && self.advance.is_none() && self.updates() == 0
    }
}

impl<D, E, T, R> Weigh for Batch<D, E, T, R> {
    fn updates(&self) -> usize {
        count(&self.desired_ok) + count(&self.desired_err) + self.read_back()
    }

    fn bytes(&self) -> usize {
        size(&self.desired_ok)
            + size(&self.desired_err)
            + size(&self.persist_ok)
            + size(&self.persist_err)
    }

    fn read_back(&self) -> usize {
        count(&self.persist_ok) + count(&self.persist_err)
    }
}

fn count<U>(containers: &[Vec<U>]) -> usize {
    containers.iter().map(Vec::len).sum()
}

fn size<U>(containers: &[Vec<U>]) -> usize {
    count(containers) * size_of::<U>()
}

/// The corrections of rows, or of errors.
type Held<D, T, R> = Bounded<D, T, R, fn(&D) -> u64>;

/// What was drained from them.
type Drained<D, T, R> = Taken<D, T, R, fn(&D) -> u64>;

/// The rows and the errors of one batch.
type Batched<D, E, T, R> = (Drained<D, T, R>, Drained<E, T, R>);

/// The corrections of one worker, and what was drained from them for the batch in flight.
pub(crate) struct Store<D, E, T, R> {
    mode: Mode,
    ok: Held<D, T, R>,
    err: Held<E, T, R>,
    /// The rows of the batch that is being drained, before its errors.
    drained_ok: Option<Drained<D, T, R>>,
    in_flight: Option<Batched<D, E, T, R>>,
    /// In ingest mode, the frontier below which everything is sealed.
    sealed: Option<Frontier<T>>,
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Store<D, E, T, R> {
    /// Empty, for a sink with this as-of. What memory has no room for goes to the disk, as the codec writes it.
    pub(crate) fn new(mode: Mode, as_of: T, codec: &Codec<D, E>, disk: &Arc<dyn Disk>) -> Self {
        let rows = Arc::new(Rows(codec.clone()));
        let errors = Arc::new(Errors(codec.clone()));
        let hash_data = hash_data as fn(&D) -> u64;
        let hash_error = hash_error as fn(&E) -> u64;
        let mut ok = Bounded::new(hash_data, heap_bytes, rows, Arc::clone(disk));
        let mut err = Bounded::new(hash_error, heap_bytes, errors, Arc::clone(disk));
        if mode == Mode::View {
            // Nothing is written below the as-of: the rows of a snapshot need not be told apart by time.
            ok.advance(as_of);
            err.advance(as_of);
        }
        Store {
            mode,
            ok,
            err,
            drained_ok: None,
            in_flight: None,
            sealed: None,
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
        updates <= few
            && self.len() + self.in_flight_len() <= few.saturating_mul(64)
            && !self.has_spilled()
    }

    /// True if any update is on disk: whatever is done then may have to wait for it.
    fn has_spilled(&self) -> bool {
        let in_flight = self.in_flight.as_ref();
        self.ok.has_spilled()
            || self.err.has_spilled()
            || in_flight.is_some_and(|(ok, err)| ok.has_spilled() || err.has_spilled())
    }

    /// What the corrections hold, the batch in flight included if it is on disk.
    fn held_bytes(&self) -> HeldBytes {
        let in_flight = self.in_flight.as_ref();
        HeldBytes {
            memory: (self.ok.memory_bytes() + self.err.memory_bytes()) as u64,
            disk: self.ok.disk_bytes()
                + self.err.disk_bytes()
                + in_flight.map_or(0, |(ok, err)| ok.disk_bytes() + err.disk_bytes()),
        }
    }

    /// The memory that the corrections may take from now on, in bytes; 0 for as much as they need.
    fn set_budget(&mut self, budget: usize) {
        // Errors are few.
        let errors = budget / 8;
        self.ok.set_budget(budget - errors);
        self.err.set_budget(errors);
    }

    /// True if [`Store::relieve`] may have something to do.
    fn wants_relief(&self) -> bool {
        self.ok.wants_relief() || self.err.wants_relief()
    }

    /// One step of what keeps the corrections within their budget. False if there was nothing to do.
    fn relieve(&mut self) -> Result<bool, Error> {
        Ok(self.ok.relieve()? || self.err.relieve()?)
    }

    /// Takes in as much of a batch as memory has room for: what was in flight is settled first, then updates come
    /// in, then times advance. The batch is left with the rest; false if there is one.
    fn apply(&mut self, batch: &mut Batch<D, E, T, R>) -> bool {
        match batch.settle.take() {
            None => {}
            Some(Settle::Own) => self.in_flight = None,
            Some(Settle::Lost) => {
                if let Some((ok, err)) = self.in_flight.take() {
                    self.ok.give_back(ok);
                    self.err.give_back(err);
                }
            }
        }
        loop {
            if let Some(rows) = batch.desired_ok.pop() {
                self.ok.insert(rows);
            } else if let Some(errors) = batch.desired_err.pop() {
                self.err.insert(errors);
            } else if let Some(rows) = batch.persist_ok.pop() {
                self.ok.insert_negated(rows);
            } else if let Some(errors) = batch.persist_err.pop() {
                self.err.insert_negated(errors);
            } else {
                self.advance(batch.advance.take());
                return true;
            }
            if self.wants_relief() {
                return false;
            }
        }
    }

    /// Takes in the new frontier of the read-back, if there is one.
    fn advance(&mut self, frontier: Option<Frontier<T>>) {
        match self.mode {
            Mode::View => {
                // An empty frontier leaves no time to advance to, and nothing to write either.
                if let Some(Frontier::At(since)) = frontier {
                    self.ok.advance(since);
                    self.err.advance(since);
                }
            }
            Mode::Ingest => {
                // Also without a new frontier: what arrived now may be long sealed.
                self.sealed = self.sealed.max(frontier);
                if let Some(sealed) = self.sealed {
                    self.ok.discard_before(sealed);
                    self.err.discard_before(sealed);
                }
            }
        }
    }

    /// One step of draining a batch. False if there are more to do.
    fn drain(&mut self, upper: Frontier<T>) -> Result<bool, Error> {
        debug_assert!(self.in_flight.is_none(), "one batch in flight");
        if self.drained_ok.is_none() {
            self.drained_ok = self.ok.drain(upper)?;
            if self.drained_ok.is_none() {
                return Ok(false);
            }
        }
        let Some(err) = self.err.drain(upper)? else {
            return Ok(false);
        };
        self.in_flight = self.drained_ok.take().map(|ok| (ok, err));
        Ok(true)
    }
}

/// Where the encoding of a batch stands, between two closures on the pool.
#[derive(Clone, Copy, Default)]
struct Position {
    rows: Bookmark,
    errors: Bookmark,
}

/// The corrections, and the shard that what is drained from them is staged for.
pub(crate) struct Task<D: Data, E: Data, T: Timestamp, R: Diff> {
    worker: Worker,
    shard: Shard,
    codec: Codec<D, E>,
    /// `None` only while a closure on the pool has it.
    store: Option<Store<D, E, T, R>>,
    /// What the store held when it was last looked at.
    held: HeldBytes,
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Drop for Task<D, E, T, R> {
    fn drop(&mut self) {
        self.report(HeldBytes::default());
        self.worker.instance.holds.leave();
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
    /// Opens the shard; `None` if the sink stops first.
    pub(crate) async fn open(
        worker: Worker,
        codec: Codec<D, E>,
        store: Store<D, E, T, R>,
    ) -> Result<Option<Self>, Error> {
        let Some(shard) = worker.stop.or_stop(worker.shard("open")).await else {
            return Ok(None);
        };
        let shard = shard?;
        worker.instance.holds.join();
        Ok(Some(Task {
            worker,
            shard,
            codec,
            store: Some(store),
            held: HeldBytes::default(),
        }))
    }

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

    /// Runs a step on the corrections that may have to read or write what is put aside on disk, until it succeeds.
    /// `None` if the sink was stopped first.
    async fn with_disk<O: Send + 'static>(
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
                        self.worker.instance.resumed(SPILL);
                    }
                    return decided.map(Some);
                }
            };
            self.worker.instance.stalled(SPILL, &error);
            let wait = self.worker.cx.client().wait(attempt);
            if self.worker.stop.or_stop(wait).await.is_none() {
                return Ok(None);
            }
            attempt = attempt.saturating_add(1);
        }
    }

    /// The memory in bytes that this worker's corrections may take; 0 for as much as they need.
    fn budget(&self) -> usize {
        let budget = CORRECTIONS_BYTES.get(self.worker.cx.configs());
        // A share of nothing would be no bound at all.
        (budget / self.worker.instance.holds.stores().max(1)).max(budget.min(1))
    }

    /// Tells what the store holds.
    fn report(&mut self, held: HeldBytes) {
        self.worker.instance.holds.changed(self.held, held);
        self.held = held;
    }

    /// Takes in what one activation of the operator saw.
    pub(crate) async fn apply(&mut self, mut batch: Batch<D, E, T, R>) -> Result<(), Error> {
        let budget = self.budget();
        loop {
            let updates = batch.updates();
            let little = self.is_little(|store, few| store.is_little(updates, few));
            let work = move |store: &mut Store<D, E, T, R>| {
                store.set_budget(budget);
                let whole = store.apply(&mut batch);
                (batch, whole, store.wants_relief())
            };
            let (rest, whole, mut more) = self.with_store(little, work).await?;
            while more {
                let step = |store: &mut Store<D, E, T, R>| store.relieve();
                match self.with_disk(false, step).await? {
                    Some(done) => more = done,
                    None => return Ok(()),
                }
            }
            if whole {
                break;
            }
            batch = rest;
        }
        if let Some(store) = &self.store {
            self.report(store.held_bytes());
        }
        Ok(())
    }

    /// Drains and stages this worker's part of a batch; `None` if the sink was stopped, and nothing is left staged.
    pub(crate) async fn write(
        &mut self,
        description: Description<T>,
    ) -> Result<Option<Vec<StagedFile>>, Error> {
        let Description {
            id, lower, upper, ..
        } = description;
        let little = self.is_little(|store, few| store.is_little(0, few));
        let drain = move |store: &mut Store<D, E, T, R>| store.drain(upper);
        loop {
            match self.with_disk(little, drain).await? {
                Some(true) => break,
                Some(false) => {}
                None => return Ok(None),
            }
        }
        // An update costs far more to encode than to drain.
        let little =
            self.is_little(|store, few| store.in_flight_len() <= few && !store.has_spilled());
        let target = TARGET_FILE_BYTES.get(self.worker.cx.configs());
        // A file is in memory until it is staged.
        let target = match self.budget() {
            0 => target,
            budget => target.min((budget / 2).max(FILE_BYTES_MIN)),
        };
        let chunk = CHUNK_ROWS.get(self.worker.cx.configs()).max(1);
        let mut files = Vec::new();
        let mut position = Position::default();
        loop {
            let codec = self.codec.clone();
            let work = move |store: &mut Store<D, E, T, R>| {
                encode(&codec, store, lower, position, chunk, target)
            };
            let Some(encoded) = self.with_disk(little, work).await? else {
                self.worker.delete_staged(&self.shard, &files).await;
                return Ok(None);
            };
            let Some((file, next)) = encoded else { break };
            position = next;
            match self.stage(id, file).await? {
                Some(file) => files.push(file),
                None => {
                    // Stopped, and the store does not answer.
                    self.worker.delete_staged(&self.shard, &files).await;
                    return Ok(None);
                }
            }
        }
        tracing::trace!(sink = %self.worker.instance.name, %id, files = files.len(), "staged");
        Ok(Some(files))
    }

    /// Deletes what was staged for an operator that is gone: nobody will commit it.
    pub(crate) async fn discard(&self, files: &[StagedFile]) {
        self.worker.delete_staged(&self.shard, files).await;
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
    store: &mut Store<D, E, T, R>,
    lower: T,
    mut position: Position,
    chunk: usize,
    target: usize,
) -> Result<Option<(EncodedFile, Position)>, Error> {
    let Some((ok, err)) = &mut store.in_flight else {
        return Ok(None);
    };
    let mut file: Option<FileEncoder> = None;
    let is_full = |file: &Option<FileEncoder>| {
        file.as_ref()
            .is_some_and(|file| file.estimated_size() >= target)
    };
    while !is_full(&file) {
        let Some(rows) = ok.next(&mut position.rows, chunk)? else {
            break;
        };
        let mut unfit = None;
        let rows = rows.map(|(data, time, diff)| (data, stored(time, lower, &mut unfit), diff));
        let batch = codec.encode(rows)?;
        unfit.map_or(Ok(()), Err)?;
        append(codec, &mut file, &batch)?;
    }
    while !is_full(&file) {
        let Some(errors) = err.next(&mut position.errors, chunk)? else {
            break;
        };
        let mut unfit = None;
        let errors =
            errors.map(|(error, time, diff)| (error, stored(time, lower, &mut unfit), diff));
        let batch = codec.encode_errors(errors)?;
        unfit.map_or(Ok(()), Err)?;
        append(codec, &mut file, &batch)?;
    }
    match file {
        Some(file) => Ok(Some((file.finish()?, position))),
        None => Ok(None),
    }
}

/// Appends the batch to the file, which begins with it if there is none.
fn append<D: Data, E: Data>(
    codec: &Codec<D, E>,
    file: &mut Option<FileEncoder>,
    batch: &RecordBatch,
) -> Result<(), Error> {
    if file.is_none() {
        *file = Some(FileEncoder::new(codec.schema())?);
    }
    if let Some(file) = file {
        file.write(batch)?;
    }
    Ok(())
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
    use crate::corrections::Directory;

    fn store() -> Store<u64, String, u64, i64> {
        let disk: Arc<dyn Disk> = Arc::new(Directory::new(std::env::temp_dir(), || 0));
        Store::new(Mode::View, 0, &Codec::new().unwrap(), &disk)
    }

    fn apply(store: &mut Store<u64, String, u64, i64>, mut batch: Batch<u64, String, u64, i64>) {
        assert!(store.apply(&mut batch), "there is no budget");
    }

    #[test]
    fn r02_what_is_in_flight_counts_as_work() {
        const FEW: usize = 4;
        let mut store = store();
        let rows: Vec<_> = (0..64 * FEW as u64).map(|row| (row, 0, 1)).collect();
        let snapshot = Batch {
            desired_ok: vec![rows],
            ..Batch::default()
        };
        apply(&mut store, snapshot);
        assert!(store.is_little(FEW, FEW));
        assert!(!store.is_little(FEW + 1, FEW));
        assert!(store.drain(Frontier::At(1)).unwrap());
        assert_eq!((store.len(), store.in_flight_len()), (0, 64 * FEW));
        let update = Batch {
            desired_ok: vec![vec![(7, 1, 1)]],
            ..Batch::default()
        };
        apply(&mut store, update);
        // To free or give back the batch in flight is work too.
        assert!(!store.is_little(0, FEW));
        let own = Batch {
            settle: Some(Settle::Own),
            ..Batch::default()
        };
        apply(&mut store, own);
        assert!(store.is_little(0, FEW));
    }
}
