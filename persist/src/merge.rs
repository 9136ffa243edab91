//! Merging data files by the hashes of their rows.
//!
//! ```text
//!   output = { (row, t, d) | d = Σ diff of row over the updates with max(time, since) = t, d ≠ 0 },  by hash(row)
//! ```
//!
//! Files whose rows already are in that order are streamed: of each only one row group is in memory. The others are
//! read one after the other, and sorted in memory. If they do not fit, the range of the hashes is cut: the rows in
//! the first range are sorted and merged, then the files are read again for the next range, and the streams go
//! on where they were. Hashes are uniform, so a range needs no knowledge of the data, and the output is one sorted
//! sequence either way. Files of one run (an earlier merge's outputs) follow each other and are one stream.
//!
//! ```text
//!   sorted runs  ──> Stream ──┐
//!                             ├──> Core (computes on the pool) ──> batches
//!   other files ──> Run ──────┘
//! ```
//!
//! Invariants:
//!
//! - *checked*: the rows of a file that says its sums have them, or it is damaged;
//! - *conservation*: the sums of all that comes out are those of all that came in;
//! - *bounded*: what is held stays within the budget, as far as it is not the updates of a single row, or a row
//!   group of another program's file.

mod chunk;
mod core;
mod group;
mod run;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow_array::RecordBatch;

pub(crate) use self::chunk::{Meter, Recipe, Wanted};

use self::chunk::{FileCheck, HashRange, Held, Totals};
use self::core::{BatchLimits, Core, Step};
use self::run::{Run, RunBuilder};
use crate::data_file::{DataFile, bytes_of, rows_of};
use crate::error::Error;
use crate::file::GROUP_BYTES_MAX;
use crate::read::file::{FileReader, Request, WHOLE_BYTES_MAX};
use crate::row_hash::RowHasher;
use crate::storage::Storage;
use crate::sums::Sums;
use crate::task::Task;

/// Files that are opened before it is their turn, at most.
const OPEN_AHEAD_MAX: usize = 8;
/// Decoded bytes of a batch of a file, at most.
const CHUNK_BYTES_MAX: usize = 1 << 20;
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

/// A file, and what it takes while it is open.
type Opened = (Arc<DataFile>, FileReader, Held);

/// The files of one stream, in order.
struct Stream {
    files: VecDeque<Arc<DataFile>>,
    reader: Option<(FileReader, Held)>,
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
    /// The files that are read anew for each range of hashes.
    unsorted: Vec<Arc<DataFile>>,
    /// `None` while the pool has it.
    core: Option<Box<Core>>,
    /// The range that is being merged; `None` before the first.
    range: Option<HashRange>,
    /// Of the unsorted files' rows.
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
    /// Rows decoded, those that were decoded again included.
    pub(crate) rows_read: u64,
    /// How many ranges of hashes were begun.
    pub(crate) ranges: u64,
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
        let core = Core::new(
            Arc::clone(&recipe),
            Arc::clone(&meter),
            budget.limits(),
            streams.len(),
        )?;
        let streams = streams.into_iter().map(|files| Stream {
            files: files.into(),
            reader: None,
        });
        Ok(Merge {
            storage: storage.clone(),
            recipe,
            request,
            budget,
            meter,
            streams: streams.collect(),
            stream_bytes,
            unsorted,
            core: Some(Box::new(core)),
            range: None,
            read: Totals::default(),
            sums: None,
            progress,
        })
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
    /// Permanent ones of the store, and damaged files by name. Not to be called again after an error, nor after
    /// its future was dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        if self.sums.is_some() {
            return Ok(None);
        }
        loop {
            let mut core = self.core.take().ok_or(Error::Shutdown)?;
            if self.range.is_none() {
                core = self.begin_range(core, HashRange::ALL).await?;
            }
            let rows_read = core.rows_read;
            let (mut core, step) = self
                .storage
                .env
                .cpu
                .run(move || {
                    let step = core.step();
                    (core, step)
                })
                .await?;
            self.progress.rows_read += core.rows_read - rows_read;
            match step? {
                Step::Rows(batch) => {
                    self.core = Some(core);
                    return Ok(Some(batch));
                }
                Step::More => {}
                Step::Wait(streams) => {
                    for index in streams {
                        self.feed(&mut core, index).await?;
                    }
                }
                Step::End => match self.range.and_then(|range| range.to) {
                    Some(from) => {
                        let rest = HashRange { from, to: None };
                        core = self.begin_range(core, rest).await?;
                    }
                    None => {
                        self.finish(&core)?;
                        return Ok(None);
                    }
                },
            }
            self.core = Some(core);
        }
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

    /// Brings the unsorted files' rows from `rest` into memory, as many as fit.
    async fn begin_range(
        &mut self,
        mut core: Box<Core>,
        rest: HashRange,
    ) -> Result<Box<Core>, Error> {
        core.set_run(None, None);
        let (run, range) = if self.unsorted.is_empty() {
            (None, HashRange::ALL)
        } else {
            let (run, range) = self.load(rest).await?;
            (Some(run), range)
        };
        core.set_run(run, range.to);
        self.range = Some(range);
        self.progress.ranges += 1;
        Ok(core)
    }

    /// Opens a file while other work goes on.
    fn open(&self, file: &Arc<DataFile>) -> Task<Result<Opened, Error>> {
        let (storage, request) = (self.storage.clone(), self.request.clone());
        let (meter, file) = (Arc::clone(&self.meter), Arc::clone(file));
        let span = tracing::debug_span!("open", shard = %storage.url, file = file.path);
        Task::spawn(&self.storage.env, span, async move {
            let reader = FileReader::open(&storage, &file, &request).await?;
            let held = meter.hold(reader.bytes());
            Ok((file, reader, held))
        })
    }

    async fn load(&mut self, rest: HashRange) -> Result<(Run, HashRange), Error> {
        let first = self.range.is_none();
        let limit = self.budget.run_bytes(self.stream_bytes);
        let mut builder = RunBuilder::new(
            Arc::clone(&self.recipe),
            Arc::clone(&self.meter),
            rest,
            limit,
        );
        let mut hasher = RowHasher::new(&self.recipe.rows)?;
        let small = (self.budget.bytes / 16) / WHOLE_BYTES_MAX as usize;
        let ahead = small.clamp(1, OPEN_AHEAD_MAX);
        let mut rest = self.unsorted.iter();
        let mut opening = VecDeque::new();
        loop {
            while opening.len() < ahead
                && let Some(file) = rest.next()
            {
                opening.push_back(self.open(file));
            }
            let Some(opened) = opening.pop_front() else {
                break;
            };
            let opened = opened.join().await?;
            let (file, mut reader, _held) = opened?;
            let check = first && self.recipe.takes_all() && !reader.skips();
            let mut check = check.then(|| FileCheck::new(reader.shown().to_owned(), &file));
            while let Some(group) = reader.next_group().await? {
                reader.read_ahead();
                let held = self
                    .meter
                    .hold(usize::try_from(group.bytes()).unwrap_or(usize::MAX));
                let (recipe, meter) = (Arc::clone(&self.recipe), Arc::clone(&self.meter));
                let mut read = std::mem::take(&mut self.read);
                let work = move || {
                    let mut rows = 0;
                    for batch in group {
                        let batch = batch?;
                        rows += batch.num_rows() as u64;
                        let wanted = first.then_some(&mut read);
                        let range = builder.range();
                        let check = check.as_mut();
                        let chunk =
                            recipe.prepare(&mut hasher, &batch, range, check, wanted, &meter)?;
                        builder.push(&hasher, chunk)?;
                    }
                    drop(held);
                    Ok::<_, Error>((builder, hasher, check, read, rows))
                };
                let rows;
                (builder, hasher, check, self.read, rows) =
                    self.storage.env.cpu.run(work).await??;
                self.progress.rows_read += rows;
            }
            check.map_or(Ok(()), FileCheck::finish)?;
            self.progress.files_done += u64::from(first);
        }
        let range = builder.range();
        let run = self.storage.env.cpu.run(move || builder.finish()).await??;
        Ok((run, range))
    }
}
