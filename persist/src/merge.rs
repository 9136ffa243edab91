//! Merging data files by the hashes of their rows.
//!
//! ```text
//!   output = { (row, t, d) | d = Σ diff of row over the updates with max(time, since) = t, d ≠ 0 },  by hash(row)
//! ```
//!
//! Files whose rows already are in that order are streamed: of each only one row group is in memory. The others are
//! read one after the other, and sorted in memory. If they do not fit, what has come so far goes to local disk as one
//! sorted run whenever memory is full, and the runs are merged. Runs that are more than can be merged at once, a block of
//! each in memory, are made fewer first, by merging as many as can be into one, again and again. So a file is read once,
//! and a row goes to disk once and then once for each level of such merges, which are as many as the logarithm of the runs.
//! Files of one run of the table (an earlier merge's outputs) follow each other and are one stream.
//!
//! ```text
//!   sorted files ──> Stream ────────────────────────┐
//!                              ┌──────(fits)──────> ├──> Core (computes on the pool) ──> batches
//!   other files ──> Loader ──> Run ──> StoredRun ─> ┘
//!                                       └─> fewer of them
//! ```
//!
//! Invariants:
//!
//! - *checked*: the rows of a file that says its sums have them, or it is damaged;
//! - *conservation*: the sums of all that comes out are those of all that came in;
//! - *bounded*: what is held stays within the budget, as far as it is not the updates of a single row, or a row
//!   group of another program's file;
//! - *read once*: no row of a file is decoded twice, however little memory there is.

mod chunk;
mod core;
mod group;
mod load;
mod run;
mod shelf;
mod stored;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow_array::RecordBatch;

pub(crate) use self::chunk::{Meter, Recipe, Wanted};

use self::chunk::{FileCheck, Held, Totals};
use self::core::{BatchLimits, Core, Step};
use self::load::{Loaded, Loader};
use self::run::Run;
use self::shelf::Shelf;
use self::stored::StoredRun;
use crate::data_file::{DataFile, bytes_of, rows_of};
use crate::error::Error;
use crate::file::GROUP_BYTES_MAX;
use crate::read::file::{FileReader, Request, WHOLE_BYTES_MAX};
use crate::storage::Storage;
use crate::sums::Sums;

/// Decoded bytes of a batch of a file, at most.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Bytes of a block of a run on disk: a larger one costs memory, a smaller one time.
const BLOCK_BYTES: std::ops::RangeInclusive<usize> = 1 << 10..=256 << 10;
/// Bytes of a batch that comes out, at most; one that is much wider than the others may have more.
const OUT_BYTES_MAX: usize = 8 << 20;

/// The tag of a file that a merge wrote: the run's name, `/`, and the place of the file in it.
pub(crate) const RUN_TAG: &str = "mvsink.run";

/// The run that a file belongs to, and its place in it.
pub(crate) fn run_of(file: &DataFile) -> Option<(&str, u64)> {
    let (run, place) = file.tags.get(RUN_TAG)?.split_once('/')?;
    Some((run, place.parse().ok()?))
}

/// The memory that a merge may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Bytes of everything that it holds.
    pub(crate) bytes: usize,
    /// Rows of a batch that comes out.
    pub(crate) batch_rows: usize,
}

impl Budget {
    fn chunk_bytes(&self) -> usize {
        (self.bytes / 32).clamp(1, CHUNK_BYTES_MAX)
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits {
            rows: self.batch_rows.max(1),
            bytes: (self.bytes / 16).clamp(1, OUT_BYTES_MAX),
            kept_bytes: (self.bytes / 8).max(1),
        }
    }

    /// For rows in memory, beside streams that take `streams` bytes.
    fn run_bytes(&self, streams: usize) -> usize {
        (self.bytes - self.bytes / 4).saturating_sub(streams).max(1)
    }

    fn block_bytes(&self) -> usize {
        (self.bytes / 64).clamp(*BLOCK_BYTES.start(), *BLOCK_BYTES.end())
    }

    /// The chunks of which a run on disk is written.
    fn block_limits(&self) -> BatchLimits {
        BatchLimits {
            rows: usize::MAX,
            bytes: self.block_bytes(),
            ..self.limits()
        }
    }

    /// How many runs on disk can be merged at once, beside streams that take `streams` bytes.
    fn fan_in(&self, streams: usize) -> usize {
        (self.run_bytes(streams) / self.block_bytes()).max(2)
    }

    /// About what a stream of these files takes: a row group, the next one, and two decoded chunks.
    fn stream_bytes(&self, files: &[Arc<DataFile>]) -> usize {
        let group = |file: &Arc<DataFile>| {
            if file.size <= WHOLE_BYTES_MAX {
                file.size
            } else {
                file.size.min(2 * GROUP_BYTES_MAX as u64)
            }
        };
        let groups = files.iter().map(group).max().unwrap_or(0);
        let groups = usize::try_from(groups).unwrap_or(usize::MAX / 4);
        groups.min(usize::MAX / 4) + 2 * self.chunk_bytes()
    }
}

/// The files of one stream, in order.
struct Stream {
    files: VecDeque<Arc<DataFile>>,
    reader: Option<(FileReader, Held)>,
}

/// What a merge does.
enum Phase {
    /// Reads the files that are not in order.
    Load(Box<Loader>),
    /// Makes the runs on disk fewer.
    Narrow(Box<Shelf>),
    /// Brings out rows.
    Merge(Box<Core>),
}

/// How a merge has gone on.
pub(crate) enum Advance {
    /// These are the next rows.
    Rows(RecordBatch),
    /// There is more to do before the next rows.
    Working,
    /// There are no more rows, and everything has been checked.
    End,
}

/// A merge under way.
pub(crate) struct Merge {
    storage: Storage,
    recipe: Arc<Recipe>,
    request: Request,
    budget: Budget,
    meter: Arc<Meter>,
    streams: Vec<Stream>,
    stream_bytes: usize,
    /// `None` while it goes on, and after that if it failed.
    phase: Option<Phase>,
    /// Of the rows that were not streamed.
    read: Totals,
    /// Of all rows, once it has ended.
    sums: Option<Sums>,
    progress: MergeProgress,
}

/// How far a merge is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MergeProgress {
    pub(crate) files: u64,
    pub(crate) files_done: u64,
    /// The rows of the files, as far as it is known.
    pub(crate) rows: u64,
    /// Rows decoded; each of them once.
    pub(crate) rows_read: u64,
    /// Rows of the files that were merged into what has come out so far.
    pub(crate) rows_merged: u64,
    /// Rows that went to disk; as often as they did.
    pub(crate) rows_spilled: u64,
}

/// What is streamed, and what is not.
#[derive(Default)]
struct Division {
    /// The files of each stream, in order.
    streams: Vec<Vec<Arc<DataFile>>>,
    /// About what they take.
    stream_bytes: usize,
    unsorted: Vec<Arc<DataFile>>,
}

/// Divides files into streams and the rest.
fn divide(files: Vec<Arc<DataFile>>, budget: &Budget, hashes_apply: bool) -> Division {
    if !hashes_apply {
        return Division {
            unsorted: files,
            ..Division::default()
        };
    }
    let mut divided = Division::default();
    let mut runs: BTreeMap<String, Vec<Arc<DataFile>>> = BTreeMap::new();
    let mut streams = Vec::new();
    for file in files {
        match run_of(&file) {
            _ if !file.sorted => divided.unsorted.push(file),
            Some((run, _)) => runs.entry(run.to_owned()).or_default().push(file),
            None => streams.push(vec![file]),
        }
    }
    for (_, mut files) in runs {
        files.sort_by_key(|file| run_of(file).map(|(_, place)| place));
        streams.push(files);
    }
    // Large ones are the last that one wants to read more than once.
    streams.sort_by_key(|files| std::cmp::Reverse(bytes_of(files)));
    for files in streams {
        let more = budget.stream_bytes(&files);
        if more <= (budget.bytes / 2).saturating_sub(divided.stream_bytes) {
            divided.stream_bytes += more;
            divided.streams.push(files);
        } else {
            divided.unsorted.extend(files);
        }
    }
    divided
}

impl Merge {
    /// A merge of what `recipe` wants of `files`. Nothing is read yet.
    pub(crate) fn new(
        storage: &Storage,
        files: impl IntoIterator<Item = Arc<DataFile>>,
        recipe: Recipe,
        budget: Budget,
    ) -> Result<Self, Error> {
        let mut columns: Vec<String> = recipe
            .read
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        columns.extend([
            crate::schema::TIME_COLUMN.to_owned(),
            crate::schema::DIFF_COLUMN.to_owned(),
        ]);
        let request = Request {
            columns: columns.into(),
            filter: recipe.filter.clone(),
            // The time of a row is at least the since: earlier rows count if that does.
            min_time: recipe.min_time.filter(|time| *time > recipe.since),
            max_time: recipe.max_time,
            batch_rows: budget.batch_rows.clamp(1, 8192),
            batch_bytes: budget.chunk_bytes() as u64,
        };
        let files: Vec<_> = files
            .into_iter()
            .filter(|file| request.may_match(file))
            .collect();
        let progress = MergeProgress {
            files: files.len() as u64,
            rows: rows_of(&files),
            ..MergeProgress::default()
        };
        let Division {
            streams,
            stream_bytes,
            unsorted,
        } = divide(files, &budget, recipe.whole_rows);
        let recipe = Arc::new(recipe);
        let meter = Arc::new(Meter::default());
        let streams = streams.into_iter().map(|files| Stream {
            files: files.into(),
            reader: None,
        });
        let mut merge = Merge {
            storage: storage.clone(),
            recipe,
            request,
            budget,
            meter,
            streams: streams.collect(),
            stream_bytes,
            phase: None,
            read: Totals::default(),
            sums: None,
            progress,
        };
        merge.phase = Some(if unsorted.is_empty() {
            Phase::Merge(merge.core(Vec::new(), None)?)
        } else {
            Phase::Load(Box::new(Loader::new(&merge, unsorted)?))
        });
        Ok(merge)
    }

    /// The sums of all rows that came in, once it has ended.
    pub(crate) fn sums(&self) -> Option<&Sums> {
        self.sums.as_ref()
    }

    pub(crate) fn progress(&self) -> MergeProgress {
        self.progress
    }

    /// What it holds, and the most it ever held.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The next rows; `None` at the end, when everything has been checked.
    ///
    /// # Errors
    /// Permanent ones of the store, damaged files by name, and those of the local disk. Not to be called again after an
    /// error, nor after its future was dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        loop {
            match self.advance().await? {
                Advance::Rows(batch) => return Ok(Some(batch)),
                Advance::Working => {}
                Advance::End => return Ok(None),
            }
        }
    }

    /// Goes on for a bounded time, beside what the store takes.
    ///
    /// # Errors
    /// As [`Merge::next`].
    pub(crate) async fn advance(&mut self) -> Result<Advance, Error> {
        if self.sums.is_some() {
            return Ok(Advance::End);
        }
        let phase = match self.phase.take().ok_or(Error::Shutdown)? {
            Phase::Load(loader) => self.load(loader).await?,
            Phase::Narrow(shelf) => self.narrow(shelf).await?,
            Phase::Merge(core) => return self.merge(core).await,
        };
        self.phase = Some(phase);
        Ok(Advance::Working)
    }

    async fn load(&mut self, mut loader: Box<Loader>) -> Result<Phase, Error> {
        let more = loader.step().await?;
        self.progress.rows_read = loader.rows_read();
        self.progress.rows_spilled = loader.rows_spilled();
        self.progress.files_done = loader.files_done();
        if more {
            return Ok(Phase::Load(loader));
        }
        let Loaded { read, rows } = loader.finish().await?;
        self.read = read;
        Ok(match rows {
            Ok(run) => Phase::Merge(self.core(Vec::new(), Some(run))?),
            Err(shelf) => Phase::Narrow(Box::new(shelf)),
        })
    }

    async fn narrow(&mut self, mut shelf: Box<Shelf>) -> Result<Phase, Error> {
        let goes_on = shelf.narrow(self.budget.fan_in(self.stream_bytes)).await?;
        self.progress.rows_spilled = shelf.rows_spilled();
        Ok(if goes_on {
            Phase::Narrow(shelf)
        } else {
            Phase::Merge(self.core(shelf.into_runs(), None)?)
        })
    }

    /// What brings the rows out, of the streams and of these runs.
    fn core(&self, stored: Vec<StoredRun>, run: Option<Run>) -> Result<Box<Core>, Error> {
        let core = Core::new(
            Arc::clone(&self.recipe),
            Arc::clone(&self.meter),
            self.budget.limits(),
            self.streams.len(),
            stored,
            run,
        );
        core.map(Box::new)
    }

    async fn merge(&mut self, mut core: Box<Core>) -> Result<Advance, Error> {
        let rows_read = core.rows_read;
        let recipe = Arc::clone(&self.recipe);
        let work = move || {
            let step = core.step();
            let rows = match step {
                Ok(Step::Rows(rows)) => Ok(Err(recipe.output(*rows))),
                other => other.map(Ok),
            };
            (core, rows)
        };
        let (mut core, step) = self.storage.env.cpu.run(work).await?;
        self.progress.rows_read += core.rows_read - rows_read;
        self.progress.rows_merged = core.rows_read + core.rows_merged();
        let advance = match step? {
            Err(batch) => Advance::Rows(batch?),
            Ok(Step::Rows(_) | Step::More) => Advance::Working,
            Ok(Step::Wait(streams)) => {
                for index in streams {
                    self.feed(&mut core, index).await?;
                }
                Advance::Working
            }
            Ok(Step::End) => {
                self.finish(&core)?;
                return Ok(Advance::End);
            }
        };
        self.phase = Some(Phase::Merge(core));
        Ok(advance)
    }

    /// *conservation*
    fn finish(&mut self, core: &Core) -> Result<(), Error> {
        let mut read = self.read.sums();
        read.merge(&core.read.sums());
        if read == core.written.sums() {
            self.sums = Some(read);
            return Ok(());
        }
        Err(Error::Corrupt {
            path: self.recipe.url.to_string(),
            why: "the rows of its files are not those that a merge of them brought out".into(),
        })
    }

    /// Gives a stream its next row group, from the next file if need be; nothing if it has ended.
    async fn feed(&mut self, core: &mut Core, index: usize) -> Result<(), Error> {
        let stream = &mut self.streams[index];
        loop {
            if let Some((reader, _)) = &mut stream.reader {
                if let Some(group) = reader.next_group().await? {
                    reader.read_ahead();
                    let bytes = usize::try_from(group.bytes()).unwrap_or(usize::MAX);
                    let held = self.meter.hold(bytes);
                    core.feed(index, (group, held));
                    return Ok(());
                }
                core.end_file(index)?;
                stream.reader = None;
                self.progress.files_done += 1;
            }
            let Some(file) = stream.files.pop_front() else {
                return Ok(());
            };
            let reader = FileReader::open(&self.storage, &file, &self.request).await?;
            let check = self.recipe.takes_all() && !reader.skips();
            let shown = reader.shown().to_owned();
            let check = check.then(|| FileCheck::new(shown.clone(), &file));
            core.begin_file(index, shown, check);
            let held = self.meter.hold(reader.bytes());
            stream.reader = Some((reader, held));
        }
    }
}
