//! The merge itself: from sorted cursors to consolidated batches. It computes and waits for nothing.
//!
//! ```text
//!   streams (a chunk each)  \
//!                            >── least hash ──> group of equal hashes ──> (row, time, Σ diff) ──> batch
//!   run (in memory)         /
//! ```
//!
//! Rows are not copied until a batch is put together: what goes from step to step is where they are. A chunk is let
//! go as soon as nothing refers to it, and a batch ends early if too many chunks are kept for its sake.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow_select::interleave::interleave;

use crate::error::Error;
use crate::file::corrupt;
use crate::merge::chunk::{Chunk, FileCheck, HashRange, Held, Meter, Recipe, Totals};
use crate::merge::group::Group;
use crate::merge::run::Run;
use crate::read::file;
use crate::row_hash::RowHasher;
use crate::schema::{DIFF_COLUMN, TIME_COLUMN};

/// Rows that one step takes in at most, so that it does not keep a thread for long.
const STEP_ROWS: usize = 128 * 1024;
/// Updates of one hash that are kept before they are added up for the first time.
const GROUP_UPDATES: usize = 8 * 1024;
/// The run among the cursors.
const RUN: usize = usize::MAX;

/// What a step came to.
pub(crate) enum Step {
    /// The next rows.
    Rows(RecordBatch),
    /// These streams need their next row group, or their end.
    Wait(Vec<usize>),
    /// There is more to do.
    More,
    /// All rows below the limit are out.
    End,
}

/// A row group that a stream goes on with, and the memory that it takes.
pub(crate) type Fed = (file::Group, Held);

/// The rows of files whose hashes never decrease.
struct Stream {
    shown: String,
    group: Option<Fed>,
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
    /// Hashes from here on are not due.
    limit: Option<u128>,
    group: Group,
    group_hash: Option<u128>,
    group_updates_max: usize,
    slots: Vec<Option<Slot>>,
    kept_bytes: usize,
    out: Vec<(usize, usize)>,
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
    pub(crate) fn new(
        recipe: Arc<Recipe>,
        meter: Arc<Meter>,
        limits: BatchLimits,
        streams: usize,
    ) -> Result<Self, Error> {
        let stream = || Stream {
            shown: String::new(),
            group: None,
            chunk: None,
            row: 0,
            least: 0,
            slot: None,
            check: None,
        };
        Ok(Core {
            hasher: RowHasher::new(&recipe.rows)?,
            recipe,
            meter,
            limits,
            streams: (0..streams).map(|_| stream()).collect(),
            run: None,
            run_slots: Vec::new(),
            heap: BinaryHeap::new(),
            fed: Vec::new(),
            waiting: (0..streams).collect(),
            limit: None,
            group: Group::default(),
            group_hash: None,
            group_updates_max: GROUP_UPDATES,
            slots: Vec::new(),
            kept_bytes: 0,
            out: Vec::new(),
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
        self.streams[index].group = Some(group);
        self.fed.push(index);
    }

    /// The rows in memory, of which those below `limit` are due, as are those of the streams. Called when all below
    /// the limit before are out.
    pub(crate) fn set_run(&mut self, run: Option<Run>, limit: Option<u128>) {
        debug_assert!(
            self.out.is_empty() && self.group.is_empty(),
            "a range ended"
        );
        self.run_slots.clear();
        self.renumber();
        self.run_slots = vec![None; run.as_ref().map_or(0, |run| run.chunks.len())];
        if let Some(hash) = run.as_ref().and_then(Run::hash) {
            self.heap.push(Reverse((hash, RUN)));
        }
        self.run = run;
        self.limit = limit;
    }

    /// Goes on, for a bounded time.
    pub(crate) fn step(&mut self) -> Result<Step, Error> {
        for index in std::mem::take(&mut self.fed) {
            match self.pull(index)? {
                Some(hash) => self.heap.push(Reverse((hash, index))),
                None => self.waiting.push(index),
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
            let due = |hash: u128| self.limit.is_none_or(|limit| hash < limit);
            let Some(Reverse((hash, who))) = self.heap.peek().copied().filter(|top| due(top.0.0))
            else {
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
            self.waiting.push(who);
        }
        Ok(next)
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

    /// The next chunk of a stream's row group.
    fn pull(&mut self, index: usize) -> Result<Option<u128>, Error> {
        let stream = &mut self.streams[index];
        loop {
            let Some((group, _)) = &mut stream.group else {
                return Ok(None);
            };
            let Some(batch) = group.next() else {
                stream.group = None;
                return Ok(None);
            };
            let batch = batch?;
            self.rows_read += batch.num_rows() as u64;
            let chunk = self.recipe.prepare(
                &mut self.hasher,
                &batch,
                HashRange::ALL,
                stream.check.as_mut(),
                Some(&mut self.read),
                &self.meter,
            )?;
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

    /// Ends the group: what it adds up to goes into the next batch.
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

    /// The next batch, of all rows that are ready.
    fn emit(&mut self) -> Result<RecordBatch, Error> {
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
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.recipe.output.fields().len());
        let mut column = 0;
        for field in self.recipe.output.fields() {
            columns.push(match field.name().as_str() {
                TIME_COLUMN => Arc::new(Int64Array::from(std::mem::take(&mut self.out_times))),
                DIFF_COLUMN => Arc::new(Int64Array::from(std::mem::take(&mut self.out_diffs))),
                _ => {
                    let arrays: Vec<&dyn Array> = used
                        .iter()
                        .map(|chunk| chunk.batch.column(column).as_ref())
                        .collect();
                    column += 1;
                    interleave(&arrays, &self.out).map_err(failed)?
                }
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let output = Arc::clone(&self.recipe.output);
        let batch = RecordBatch::try_new_with_options(output, columns, &options).map_err(failed)?;
        self.out.clear();
        self.out_times.clear();
        self.out_diffs.clear();
        self.out_bytes = 0;
        self.renumber();
        Ok(batch)
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
