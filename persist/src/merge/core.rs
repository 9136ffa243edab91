//! The merge itself: from sorted cursors to consolidated batches. It computes and waits for nothing.
//!
//! ```text
//!   streams (a chunk each)      \
//!   runs on disk (a chunk each)  >── least hash ──> group of equal hashes ──> (row, time, Σ diff) ──> chunk
//!   run in memory               /
//! ```
//!
//! Rows are not copied until a chunk is put together: what goes from step to step is where they are. A chunk is let
//! go as soon as nothing refers to it, and one that is put together ends early if too many others are kept for its sake.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_select::interleave::interleave;

use crate::error::Error;
use crate::file::corrupt;
use crate::merge::chunk::{Chunk, FileCheck, Held, Meter, Recipe, Totals};
use crate::merge::group::Group;
use crate::merge::run::Run;
use crate::merge::stored::StoredRun;
use crate::read::file;
use crate::row_hash::RowHasher;

/// Rows that one step takes in at most, so that it does not keep a thread for long.
const STEP_ROWS: usize = 128 * 1024;
/// Updates of one hash that are kept before they are added up for the first time.
const GROUP_UPDATES: usize = 8 * 1024;
/// The run among the cursors.
const RUN: usize = usize::MAX;

/// What a step came to.
pub(crate) enum Step {
    /// The next rows.
    Rows(Box<Chunk>),
    /// These streams need their next row group, or their end.
    Wait(Vec<usize>),
    /// There is more to do.
    More,
    /// All rows are out.
    End,
}

/// A row group that a stream goes on with, and the memory that it takes.
pub(crate) type Fed = (file::Group, Held);

/// Where the rows of a stream come from.
enum Feed {
    /// From files: the row group that it goes on with.
    Files(Option<Box<Fed>>),
    /// From disk.
    Stored(StoredRun),
}

/// Rows whose hashes never decrease.
struct Stream {
    shown: String,
    feed: Feed,
    chunk: Option<Arc<Chunk>>,
    row: usize,
    /// Hashes that are lower cannot come any more.
    least: u128,
    slot: Option<usize>,
    check: Option<FileCheck>,
}

/// A chunk that rows of the next batch may lie in.
struct Slot {
    chunk: Arc<Chunk>,
    /// Rows of the next batch do.
    used: bool,
}

/// The bounds of what is kept for a batch.
#[derive(Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Rows of a batch.
    pub(crate) rows: usize,
    /// About the bytes of a batch.
    pub(crate) bytes: usize,
    /// Bytes of chunks that are kept only because rows of the batch lie in them.
    pub(crate) kept_bytes: usize,
}

pub(crate) struct Core {
    recipe: Arc<Recipe>,
    meter: Arc<Meter>,
    hasher: RowHasher,
    limits: BatchLimits,
    streams: Vec<Stream>,
    run: Option<Run>,
    run_slots: Vec<Option<usize>>,
    /// The next hash of each cursor that has a row.
    heap: BinaryHeap<Reverse<(u128, usize)>>,
    fed: Vec<usize>,
    waiting: Vec<usize>,
    group: Group,
    group_hash: Option<u128>,
    group_updates_max: usize,
    slots: Vec<Option<Slot>>,
    kept_bytes: usize,
    out: Vec<(usize, usize)>,
    out_hashes: Vec<u128>,
    out_times: Vec<i64>,
    out_diffs: Vec<i64>,
    out_bytes: usize,
    /// The sums of the rows that came in, and of those that went out.
    pub(crate) read: Totals,
    pub(crate) written: Totals,
    /// Rows decoded.
    pub(crate) rows_read: u64,
}

impl Core {
    /// A merge of so many streams of files, of runs on disk, and of what is in memory.
    pub(crate) fn new(
        recipe: Arc<Recipe>,
        meter: Arc<Meter>,
        limits: BatchLimits,
        files: usize,
        stored: Vec<StoredRun>,
        run: Option<Run>,
    ) -> Result<Self, Error> {
        let stream = |feed| Stream {
            shown: String::new(),
            feed,
            chunk: None,
            row: 0,
            least: 0,
            slot: None,
            check: None,
        };
        let streams = (0..files).map(|_| Feed::Files(None));
        let streams = streams.chain(stored.into_iter().map(Feed::Stored));
        let streams: Vec<_> = streams.map(stream).collect();
        let first = run.as_ref().and_then(Run::hash);
        Ok(Core {
            hasher: RowHasher::new(&recipe.rows)?,
            recipe,
            meter,
            limits,
            run_slots: vec![None; run.as_ref().map_or(0, |run| run.chunks.len())],
            run,
            heap: first.map(|hash| Reverse((hash, RUN))).into_iter().collect(),
            // Those on disk need nobody to feed them.
            fed: (files..streams.len()).collect(),
            waiting: (0..files).collect(),
            streams,
            group: Group::default(),
            group_hash: None,
            group_updates_max: GROUP_UPDATES,
            slots: Vec::new(),
            kept_bytes: 0,
            out: Vec::new(),
            out_hashes: Vec::new(),
            out_times: Vec::new(),
            out_diffs: Vec::new(),
            out_bytes: 0,
            read: Totals::default(),
            written: Totals::default(),
            rows_read: 0,
        })
    }

    /// Stream `index` goes on with another file; its rows are checked against `check`.
    pub(crate) fn begin_file(&mut self, index: usize, shown: String, check: Option<FileCheck>) {
        self.streams[index].shown = shown;
        self.streams[index].check = check;
    }

    /// All rows of stream `index`'s file have been fed and taken.
    pub(crate) fn end_file(&mut self, index: usize) -> Result<(), Error> {
        self.streams[index]
            .check
            .take()
            .map_or(Ok(()), FileCheck::finish)
    }

    /// Stream `index`, which waited, goes on. Without this it has ended.
    pub(crate) fn feed(&mut self, index: usize, group: Fed) {
        self.streams[index].feed = Feed::Files(Some(Box::new(group)));
        self.fed.push(index);
    }

    /// How many of the rows that came in by memory or disk have been merged.
    pub(crate) fn rows_merged(&self) -> u64 {
        let stored = self.streams.iter().map(|stream| match &stream.feed {
            Feed::Stored(run) => run.rows_done(),
            Feed::Files(_) => 0,
        });
        stored.sum::<u64>() + self.run.as_ref().map_or(0, Run::rows_done)
    }

    /// Goes on, for a bounded time.
    pub(crate) fn step(&mut self) -> Result<Step, Error> {
        for index in std::mem::take(&mut self.fed) {
            match self.pull(index)? {
                Some(hash) => self.heap.push(Reverse((hash, index))),
                None => self.wait(index),
            }
        }
        let mut taken = 0;
        loop {
            let full = self.out.len() >= self.limits.rows
                || self.out_bytes >= self.limits.bytes
                || self.kept_bytes >= self.limits.kept_bytes;
            if full {
                if !self.out.is_empty() {
                    return self.emit().map(Step::Rows);
                }
                self.let_go()?;
            }
            if !self.waiting.is_empty() {
                return Ok(Step::Wait(std::mem::take(&mut self.waiting)));
            }
            if taken >= STEP_ROWS {
                return Ok(Step::More);
            }
            let Some(Reverse((hash, who))) = self.heap.peek().copied() else {
                self.flush()?;
                return if self.out.is_empty() {
                    Ok(Step::End)
                } else {
                    self.emit().map(Step::Rows)
                };
            };
            if self.group_hash != Some(hash) {
                self.flush()?;
                self.group_hash = Some(hash);
            }
            loop {
                self.take(who);
                taken += 1;
                match self.advance(who)? {
                    Some(next) if next == hash && taken < STEP_ROWS => {}
                    Some(next) => {
                        if let Some(mut top) = self.heap.peek_mut() {
                            top.0.0 = next;
                        }
                        break;
                    }
                    None => {
                        self.heap.pop();
                        break;
                    }
                }
            }
            if self.group.len() >= self.group_updates_max {
                let slots = &self.slots;
                self.group
                    .consolidate(&self.hasher, |slot| chunk(slots, slot))?;
                self.group_updates_max = GROUP_UPDATES.max(2 * self.group.len());
            }
        }
    }

    /// Puts the current row of a cursor into the group.
    fn take(&mut self, who: usize) {
        let (slot, chunk, row) = if who == RUN {
            let Some(run) = &self.run else { return };
            let Some((index, row)) = run.current() else {
                return;
            };
            (&mut self.run_slots[index], &run.chunks[index], row)
        } else {
            let stream = &mut self.streams[who];
            let Some(chunk) = &stream.chunk else { return };
            (&mut stream.slot, chunk, stream.row)
        };
        let (time, diff) = (chunk.times[row], chunk.diffs[row]);
        let slot = *slot.get_or_insert_with(|| {
            self.slots.push(Some(Slot {
                chunk: Arc::clone(chunk),
                used: false,
            }));
            self.slots.len() - 1
        });
        self.group.push(slot, row, time, diff);
    }

    /// To the next row of a cursor, whose hash is returned; `None` if it waits, or has ended.
    fn advance(&mut self, who: usize) -> Result<Option<u128>, Error> {
        if who == RUN {
            let run = self.run.as_mut();
            return Ok(run.and_then(|run| {
                run.advance();
                run.hash()
            }));
        }
        let stream = &mut self.streams[who];
        stream.row += 1;
        if let Some(hash) = stream
            .chunk
            .as_ref()
            .and_then(|chunk| chunk.hashes.get(stream.row))
        {
            return Ok(Some(*hash));
        }
        stream.chunk = None;
        if let Some(index) = stream.slot.take() {
            self.retire(index);
        }
        let next = self.pull(who)?;
        if next.is_none() {
            self.wait(who);
        }
        Ok(next)
    }

    /// A stream has no row. If it is one of files, more may come.
    fn wait(&mut self, index: usize) {
        if matches!(self.streams[index].feed, Feed::Files(_)) {
            self.waiting.push(index);
        }
    }

    /// A chunk that no cursor is in any more is kept only for rows that are still to be written.
    fn retire(&mut self, index: usize) {
        let Some(slot) = &self.slots[index] else {
            return;
        };
        let in_group = || {
            self.group
                .updates()
                .iter()
                .any(|update| update.chunk == index)
        };
        if slot.used || in_group() {
            self.kept_bytes += slot.chunk.bytes();
        } else {
            self.slots[index] = None;
        }
    }

    /// Nothing is to be written, and yet chunks are kept: for the group alone. One row of each kind is enough.
    fn let_go(&mut self) -> Result<(), Error> {
        let slots = &self.slots;
        self.group
            .consolidate(&self.hasher, |slot| chunk(slots, slot))?;
        self.group.unify();
        self.renumber();
        Ok(())
    }

    /// The next chunk of a stream.
    fn pull(&mut self, index: usize) -> Result<Option<u128>, Error> {
        let stream = &mut self.streams[index];
        loop {
            let chunk = match &mut stream.feed {
                Feed::Stored(run) => match run.next(&self.recipe, &self.meter)? {
                    Some(chunk) => chunk,
                    None => return Ok(None),
                },
                Feed::Files(group) => {
                    let Some(batch) = group.as_mut().and_then(|fed| fed.0.next()) else {
                        *group = None;
                        return Ok(None);
                    };
                    let batch = batch?;
                    self.rows_read += batch.num_rows() as u64;
                    self.recipe.prepare(
                        &mut self.hasher,
                        &batch,
                        stream.check.as_mut(),
                        &mut self.read,
                        &self.meter,
                    )?
                }
            };
            let (Some(first), Some(last)) = (chunk.hashes.first(), chunk.hashes.last()) else {
                continue;
            };
            if *first < stream.least || !chunk.hashes.is_sorted() {
                return Err(corrupt(
                    &stream.shown,
                    &"its rows are not in the order that its writer said",
                ));
            }
            stream.least = *last;
            let first = *first;
            stream.chunk = Some(Arc::new(chunk));
            stream.row = 0;
            return Ok(Some(first));
        }
    }

    /// Ends the group: what it adds up to goes into the next chunk.
    fn flush(&mut self) -> Result<(), Error> {
        let Some(hash) = self.group_hash.take() else {
            return Ok(());
        };
        let slots = &mut self.slots;
        self.group
            .consolidate(&self.hasher, |slot| chunk(slots, slot))?;
        for update in self.group.updates() {
            for diff in update.parts() {
                self.written.add(hash, diff);
                self.out.push((update.chunk, update.row));
                self.out_hashes.push(hash);
                self.out_times.push(update.time);
                self.out_diffs.push(diff);
                if let Some(slot) = &mut slots[update.chunk] {
                    slot.used = true;
                    self.out_bytes += slot.chunk.bytes() / slot.chunk.rows().max(1);
                }
            }
        }
        self.group.clear();
        self.group_updates_max = GROUP_UPDATES;
        Ok(())
    }

    /// The next chunk, of all rows that are ready.
    fn emit(&mut self) -> Result<Box<Chunk>, Error> {
        // Only the chunks in use, numbered anew.
        let mut dense = vec![0; self.slots.len()];
        let mut used = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(slot) = slot
                && slot.used
            {
                dense[index] = used.len();
                used.push(Arc::clone(&slot.chunk));
            }
        }
        let rows = self.out.len();
        for place in &mut self.out {
            place.0 = dense[place.0];
        }
        let failed = |error| self.recipe.failed(error);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.recipe.rows.fields().len());
        for column in 0..self.recipe.rows.fields().len() {
            let arrays: Vec<&dyn Array> = used
                .iter()
                .map(|chunk| chunk.batch.column(column).as_ref())
                .collect();
            columns.push(interleave(&arrays, &self.out).map_err(failed)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::clone(&self.recipe.rows);
        let batch = RecordBatch::try_new_with_options(schema, columns, &options).map_err(failed)?;
        let chunk = Chunk::new(
            batch,
            std::mem::take(&mut self.out_hashes),
            std::mem::take(&mut self.out_times),
            std::mem::take(&mut self.out_diffs),
            &self.meter,
        );
        self.out.clear();
        self.out_bytes = 0;
        self.renumber();
        Ok(Box::new(chunk))
    }

    /// Forgets all chunks but those that the group refers to. Nothing is ready to be written.
    fn renumber(&mut self) {
        debug_assert!(self.out.is_empty(), "rows are written first");
        let mut old = std::mem::take(&mut self.slots);
        let mut renumbered = vec![None; old.len()];
        let slots = &mut self.slots;
        self.group.renumber(|index| {
            *renumbered[index].get_or_insert_with(|| {
                slots.push(old[index].take().map(|slot| Slot {
                    used: false,
                    ..slot
                }));
                slots.len() - 1
            })
        });
        let renew = |slot: &mut Option<usize>| *slot = slot.and_then(|index| renumbered[index]);
        self.run_slots.iter_mut().for_each(renew);
        let mut current = vec![false; self.slots.len()];
        for index in self.run_slots.iter().flatten() {
            current[*index] = true;
        }
        for stream in &mut self.streams {
            renew(&mut stream.slot);
            if let Some(index) = stream.slot {
                current[index] = true;
            }
        }
        let slots = self.slots.iter().zip(current);
        self.kept_bytes = slots
            .filter_map(|(slot, current)| slot.as_ref().filter(|_| !current))
            .map(|slot| slot.chunk.bytes())
            .sum();
    }
}

/// The chunk of a slot that rows refer to.
fn chunk(slots: &[Option<Slot>], index: usize) -> &Chunk {
    match &slots[index] {
        Some(slot) => &slot.chunk,
        None => unreachable!("a chunk that rows refer to is kept"),
    }
}
