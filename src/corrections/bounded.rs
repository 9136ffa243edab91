//! Corrections that take no more memory than they are given: the rest lies on disk.
//!
//! ```text
//!   in memory          due │ buckets of the future, finer nearby       [`Corrections`]
//!   on disk            due │ the same buckets                          runs, in the order of hashes
//!   aside              what is not looked at yet: containers in memory, runs in the order in which they came
//!   in flight          what was drained: either in memory, or as runs, consolidated a window at a time
//! ```
//!
//! Together both hold what [`Corrections`] would hold alone. What changes only memory never fails and never waits
//! for the disk: inserting, advancing, discarding, giving back. What needs the disk is done in steps, by
//! [`Bounded::relieve`] and [`Bounded::drain`]: a step that fails has changed nothing but how much is done, no update
//! is lost or there twice, and it may be tried again for as long as it takes. Steps block: they are for the pool.
//!
//! Of a budget of b bytes, memory holds up to b/2 before some of it is written to disk: the farthest times first,
//! and a third is left. Consolidation comes before: what cancels out need not be written. What is set aside has b/4
//! of its own. As much again may be in flight in memory; what is in flight on disk needs b/4 for the window that is being
//! read. Payloads count by what they own on the heap too, estimated from one row in sixteen (see
//! [`heap_bytes`](super::heap_bytes)).
//!
//! Invariants, besides those of the parts:
//!
//! - *together*: what is due on disk is before the base of the corrections in memory, and each bucket on disk is one
//!   that memory has or would have. So when the base moves, whole buckets become due without being read, and the one
//!   that contains the base is read back into memory, which refines it: a row moves at most once a level.
//! - *one place*: a drained batch is in memory or on disk as a whole, so that equal rows meet.
//! - *aside first*: what was set aside is admitted before anything is drained; what is due and may not count is
//!   nowhere else.
//! - *merged*: when times advance, runs of a bucket are merged if their rows have doubled since the last time.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use mvsink_persist::Frontier;

use super::Corrections;
use super::aside::Aside;
use super::disk::Disk;
use super::future::{Future, offset};
use super::heap::sampled;
use super::parts::Part;
use super::run::{Forgotten, Format, Run, Window, Writer, windows};
use super::taken::{Taken, load, rows_of, typed};
use crate::comparison::Buckets;
use crate::error::Error;
use crate::time::{Diff, Time};

/// The rows of a block have about these bytes in memory, or a share of a small budget.
const BLOCK_BYTES: usize = 32 << 10;
const BLOCKS_A_BUDGET: usize = 64;
/// What is only read as a whole goes in larger blocks.
const ASIDE_BLOCK_BYTES: usize = 1 << 20;
/// Fewer rows than this are not worth a block.
const BLOCK_ROWS_MIN: usize = 16;

/// The bytes of a window if the budget was lifted with rows still on disk.
const WINDOW_BYTES: usize = 16 << 20;
/// No window is smaller than this: each reads a block of each run.
const WINDOW_BYTES_MIN: usize = 64 << 10;

/// Fewer runs than this are not worth merging,
const MERGE_RUNS_MIN: usize = 8;
/// and of more than this, the smaller half are: a window reads a block of each.
const RUNS_MAX: usize = 256;

/// The runs of what is due, or of one bucket of the future.
struct Runs<T> {
    runs: Vec<Run<T>>,
    /// What the last merge of all of them left.
    merged_rows: usize,
}

impl<T: Time> Runs<T> {
    fn new() -> Self {
        Runs {
            runs: Vec::new(),
            merged_rows: 0,
        }
    }

    fn rows(&self) -> usize {
        self.runs.iter().map(Run::rows).sum()
    }

    fn bytes_in_memory(&self) -> usize {
        self.runs.iter().map(Run::bytes_in_memory).sum()
    }

    /// True if some should be merged, however large they are.
    fn are_many(&self) -> bool {
        self.runs.len() > RUNS_MAX
    }

    /// What should be merged; `doubled` asks for all if they have doubled.
    fn to_merge(&self, doubled: bool) -> Option<Vec<Run<T>>> {
        if self.are_many() {
            let mut runs = self.runs.clone();
            runs.sort_by_key(Run::rows);
            runs.truncate(RUNS_MAX / 2);
            return Some(runs);
        }
        let wanted = doubled
            && self.runs.len() >= MERGE_RUNS_MIN
            && self.rows() >= self.merged_rows.saturating_mul(2);
        wanted.then(|| self.runs.clone())
    }
}

/// Runs that are being merged into one.
struct Merge<T> {
    part: Part,
    runs: Vec<Run<T>>,
    windows: std::vec::IntoIter<Window>,
    writer: Writer,
}

/// `desired − persist` for one worker, within a budget of memory. See the [module](self).
pub(crate) struct Bounded<D, T, R, H> {
    memory: Corrections<D, T, R, H>,
    hash: H,
    heap_of: fn(&D) -> usize,
    format: Arc<dyn Format<D>>,
    disk: Arc<dyn Disk>,
    /// In bytes; 0 means that there is no bound.
    budget: usize,
    aside: Aside<D, T, R>,
    due: Runs<T>,
    /// By the first offset of each bucket, with its level.
    future: BTreeMap<u64, (u32, Runs<T>)>,
    /// Runs that are being read back into memory, and the next block of each.
    returning: Vec<(Run<T>, usize)>,
    merge: Option<Merge<T>>,
    /// Times have advanced since it was last looked whether runs have doubled.
    advanced: bool,
    copied: u64,
}

impl<D: Ord, T: Time, R: Diff, H: Fn(&D) -> u64 + Clone> Bounded<D, T, R, H> {
    /// Empty corrections without a budget, with no since yet. `heap_of` estimates what a row owns on the heap.
    pub(crate) fn new(
        hash: H,
        heap_of: fn(&D) -> usize,
        format: Arc<dyn Format<D>>,
        disk: Arc<dyn Disk>,
    ) -> Self {
        Bounded {
            memory: Corrections::new(hash.clone()),
            hash,
            heap_of,
            format,
            disk,
            budget: 0,
            aside: Aside::default(),
            due: Runs::new(),
            future: BTreeMap::new(),
            returning: Vec::new(),
            merge: None,
            advanced: false,
            copied: 0,
        }
    }

    /// Sets the budget in bytes; 0 lifts it. What owns memory when the first one is set counts without its heap.
    pub(crate) fn set_budget(&mut self, budget: usize) {
        if self.budget == 0 && budget > 0 {
            self.memory.estimate_heap(self.heap_of);
        }
        self.budget = budget;
    }

    /// Adds updates, in memory; `hash` may know the hash of an update's data, by its number: then they are not read.
    pub(crate) fn insert(
        &mut self,
        container: Vec<(D, T, R)>,
        hash: impl Fn(usize) -> Option<u64>,
    ) {
        self.memory.insert_hashed(container, hash);
    }

    /// Says whether a drain follows soon, see [`Corrections::gather`].
    pub(crate) fn gather(&mut self, gathering: bool) {
        self.memory.gather(gathering);
    }

    /// Adds updates that may not count: [`Bounded::admit_without`] says which do, before anything is drained. In memory.
    pub(crate) fn set_aside(&mut self, mut container: Vec<(D, T, R)>) {
        let since = self.memory.since();
        let counts = |(_, time, _): &(D, T, R)| since.is_none_or(|since| *time > since);
        if container.iter().any(counts) {
            self.memory
                .insert(container.extract_if(.., |row| counts(row)).collect());
        }
        let heap = match self.budget {
            0 => 0,
            _ => sampled(self.heap_of, container.iter().map(|(data, ..)| data)),
        };
        self.aside.put(container, heap);
    }

    /// Takes in what was set aside, but for updates whose time counts as the since and whose data are of these
    /// buckets, which `bucket` tells by the hash: those do not count.
    pub(crate) fn admit_without(&mut self, buckets: Buckets, bucket: fn(u64) -> u8) {
        if buckets.is_all() {
            self.aside = Aside::default();
            return;
        }
        let forgotten = Forgotten { buckets, bucket };
        while let Some(mut rows) = self.aside.take() {
            rows.retain(|(data, ..)| !forgotten.is_among((self.hash)(data)));
            self.memory.insert(rows);
        }
        let spilled = self.aside.take_spilled().into_iter();
        self.returning
            .extend(spilled.map(|run| (run.without(forgotten), 0)));
    }

    /// Takes updates away, as a shard stores them: adds them with their differences negated, in memory. None of these is
    /// [`i64::MIN`].
    pub(crate) fn remove_stored(&mut self, rows: Vec<(D, T, i64)>) {
        if rows.iter().all(|(.., diff)| R::from_i64(*diff).is_some()) {
            self.memory.insert_negated(rows_of(rows));
            return;
        }
        let (rows, mut diffs) = typed(rows);
        diffs.iter_mut().for_each(|diff| {
            debug_assert_ne!(*diff, i64::MIN, "it can be negated");
            *diff = diff.wrapping_neg();
        });
        self.memory.insert_sums(rows, &diffs);
    }

    /// Adds updates as a shard stores them, in memory.
    pub(crate) fn insert_stored(&mut self, rows: Vec<(D, T, i64)>) {
        let (rows, diffs) = typed(rows);
        self.memory.insert_sums(rows, &diffs);
    }

    /// From here on, times before `since` count as `since`.
    pub(crate) fn advance(&mut self, since: T) {
        self.memory.advance(since);
        self.follow();
        self.advanced = self.has_spilled();
    }

    /// Forgets the updates whose time, advanced to the since, is before `frontier`.
    pub(crate) fn discard_before(&mut self, frontier: Frontier<T>) {
        if self.memory.nothing_before(frontier) {
            return;
        }
        self.memory.discard_before(frontier);
        self.follow();
        let whole = frontier.time().map(offset) == Some(self.memory.base());
        let rest = |run: &Run<T>| run.split(frontier).1.filter(|_| !whole);
        self.due.runs = self.due.runs.iter().filter_map(rest).collect();
        // These contain the base, so that some of their times may stay.
        let rest = |(run, at): &(Run<T>, usize)| Some((run.split(frontier).1?, *at));
        self.returning = self.returning.iter().filter_map(rest).collect();
    }

    /// Adds up what can be added up in memory.
    pub(crate) fn consolidate(&mut self) {
        self.memory.consolidate();
    }

    /// How many updates there are whose time, advanced to the since, is before `frontier`, added up; `None` if
    /// updates are on disk, where that cannot be told without reading them.
    pub(crate) fn count_before(&mut self, frontier: Frontier<T>) -> Option<usize> {
        if self.has_spilled() {
            return None;
        }
        let drained = self.memory.drain(frontier);
        let count = drained.len();
        self.memory.give_back(drained);
        Some(count)
    }

    /// One step of taking out the updates whose time, advanced to the since, is before `upper`. `None` means that
    /// there are more steps to do.
    pub(crate) fn drain(&mut self, upper: Frontier<T>) -> Result<Option<Taken<D, T, R, H>>, Error> {
        debug_assert!(self.aside.rows() == 0, "aside first");
        if self.has_spilled() {
            self.memory.enter_all();
        }
        self.memory.make_due_before(upper);
        self.follow();
        let fits = self.memory.held_bytes() + self.due.bytes_in_memory() <= self.budget / 4;
        if self.budget == 0 || fits {
            // Cheaper than to write what memory holds of it.
            self.read_back_due();
        }
        if !self.returning.is_empty() {
            if !(self.is_over() && self.spill()?) {
                self.read_back()?;
            }
            return Ok(None);
        }
        let mut runs = Vec::new();
        if !self.due.runs.is_empty() && !self.memory.nothing_before(upper) {
            if self.memory.due.len() > 0 {
                self.write(&[Part::Due])?;
            }
            let all = std::mem::replace(&mut self.due, Runs::new()).runs;
            if upper.time().map_or(u64::MAX, offset) == self.memory.base() {
                runs = all;
            } else {
                for run in all {
                    let (before, rest) = run.split(upper);
                    runs.push(before);
                    self.due.runs.extend(rest);
                }
            }
        }
        Ok(Some(Taken::new(
            self.memory.drain(upper),
            runs,
            self.window_bytes(),
            self.memory.since(),
            self.hash.clone(),
            Arc::clone(&self.format),
        )))
    }

    /// Undoes a drain whose batch was lost.
    pub(crate) fn give_back(&mut self, taken: Taken<D, T, R, H>) {
        self.memory.restore(taken.memory);
        self.due.runs.extend(taken.runs);
    }

    /// One step of what keeps memory within the budget, and runs few. False if there was nothing to do.
    pub(crate) fn relieve(&mut self) -> Result<bool, Error> {
        if self.is_over() && self.spill()? {
            return Ok(true);
        }
        if !self.returning.is_empty() {
            return self.read_back().map(|()| true);
        }
        self.merge_some()
    }

    /// True if [`Bounded::relieve`] may have something to do.
    pub(crate) fn wants_relief(&self) -> bool {
        self.is_over()
            || !self.returning.is_empty()
            || self.merge.is_some()
            || self.advanced
            || self.due.are_many()
            || self.areas().any(Runs::are_many)
    }

    /// True if any update is on disk.
    pub(crate) fn has_spilled(&self) -> bool {
        !(self.due.runs.is_empty()
            && self.future.is_empty()
            && self.returning.is_empty()
            && self.aside.spilled().is_empty())
    }

    /// The number of updates held, some of which may yet cancel.
    pub(crate) fn len(&self) -> usize {
        let returning = self.returning.iter().map(|(run, _)| run.rows());
        self.memory.len()
            + self.aside.rows()
            + self.due.rows()
            + self.areas().map(Runs::rows).sum::<usize>()
            + returning.sum::<usize>()
    }

    /// Those of them that are in memory, and looked at.
    pub(crate) fn memory_len(&self) -> usize {
        self.memory.len()
    }

    /// About the bytes held in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.held_bytes() + self.aside.bytes()
    }

    /// About the bytes held in memory of what is due.
    pub(crate) fn due_bytes(&self) -> usize {
        self.memory.due_len() * self.memory.row_bytes()
    }

    /// The bytes held on disk, without what is in flight.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let runs = self.due.runs.iter();
        let runs = runs.chain(self.areas().flat_map(|area| &area.runs));
        let returning = self.returning.iter().map(|(run, _)| run);
        let runs = runs.chain(returning).chain(self.aside.spilled());
        runs.map(Run::bytes).sum()
    }

    /// How many times an update was written, moved or passed over so far, in memory and on disk.
    #[cfg(test)]
    pub(super) fn copied(&self) -> u64 {
        self.copied + self.memory.copied()
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> &Corrections<D, T, R, H> {
        &self.memory
    }

    fn areas(&self) -> impl Iterator<Item = &Runs<T>> {
        self.future.values().map(|(_, runs)| runs)
    }

    fn is_over(&self) -> bool {
        self.budget > 0
            && (self.memory.held_bytes() > self.budget / 2 || self.aside.bytes() > self.budget / 4)
    }

    fn window_bytes(&self) -> usize {
        match self.budget {
            0 => WINDOW_BYTES,
            budget => (budget / 4).max(WINDOW_BYTES_MIN),
        }
    }

    fn area_mut(&mut self, part: Part) -> &mut Runs<T> {
        match part {
            Part::Due => &mut self.due,
            Part::Future { start, level } => {
                let (present, runs) = self
                    .future
                    .entry(start)
                    .or_insert_with(|| (level, Runs::new()));
                debug_assert_eq!(*present, level, "together");
                runs
            }
        }
    }

    /// Follows the base of the corrections in memory: whole buckets become due, the one around it comes back.
    fn follow(&mut self) {
        let base = self.memory.base();
        while let Some(first) = self.future.first_entry() {
            let (start, level) = (*first.key(), first.get().0);
            if start > base || (start == base && level == 0) {
                break;
            }
            let (_, Runs { runs, .. }) = first.remove();
            if Future::bounds(start, level).1 < base {
                self.due.runs.extend(runs);
            } else {
                self.returning.extend(runs.into_iter().map(|run| (run, 0)));
            }
        }
        // What was being merged may have become something else.
        self.merge = None;
    }

    fn read_back_due(&mut self) {
        let due = std::mem::replace(&mut self.due, Runs::new());
        self.returning
            .extend(due.runs.into_iter().map(|run| (run, 0)));
    }

    /// Reads some rows back into memory.
    fn read_back(&mut self) -> Result<(), Error> {
        let Some((run, at)) = self.returning.last_mut() else {
            return Ok(());
        };
        let (rows, next) = run.read(&*self.format, &self.hash, *at)?;
        *at = next;
        if next == run.blocks() {
            self.returning.pop();
        }
        self.copied += rows.len() as u64;
        self.insert_stored(rows);
        Ok(())
    }

    /// Makes room in memory. False if there is nothing that could go.
    fn spill(&mut self) -> Result<bool, Error> {
        let aside = self.aside.bytes();
        if aside > self.budget / 4 {
            let writer = self.writer(self.aside.row_bytes(), ASIDE_BLOCK_BYTES)?;
            let bytes = aside - self.budget / 4 + self.budget / 16;
            self.aside.spill(bytes, writer, &*self.format)?;
            return Ok(true);
        }
        self.memory.consolidate();
        if self.memory.held_bytes() <= self.budget / 4 {
            return Ok(true);
        }
        let entries = self.memory.len();
        let parts = self.memory.farthest(entries - entries / 3);
        if parts.is_empty() {
            return Ok(false);
        }
        self.write(&parts)?;
        Ok(true)
    }

    /// A writer of rows of so many bytes in memory, in blocks of so many, or of a share of a small budget.
    fn writer(&self, row_bytes: usize, block_bytes: usize) -> Result<Writer, Error> {
        let row_bytes = row_bytes.max(1);
        let block_bytes = match self.budget {
            0 => block_bytes,
            budget => block_bytes.min(budget / BLOCKS_A_BUDGET),
        };
        let block_rows = (block_bytes / row_bytes).max(BLOCK_ROWS_MIN);
        Writer::new(&*self.disk, row_bytes, block_rows)
    }

    /// Moves parts of what is in memory to disk.
    fn write(&mut self, parts: &[Part]) -> Result<(), Error> {
        let mut writer = self.writer(self.memory.row_bytes(), BLOCK_BYTES)?;
        for part in parts {
            self.memory
                .each_in_order(*part, |rows| writer.add(&*self.format, rows))?;
            writer.end_run();
        }
        let runs = writer.finish()?;
        self.memory.forget(parts);
        for (part, run) in parts.iter().zip(runs) {
            if run.rows() > 0 {
                self.copied += run.rows() as u64;
                self.area_mut(*part).runs.push(run);
            }
        }
        Ok(())
    }

    /// The next runs to merge, if any are.
    fn begin_merge(&mut self) -> Result<Option<Merge<T>>, Error> {
        let doubled = self.advanced;
        let due = self.due.to_merge(doubled).map(|runs| (Part::Due, runs));
        let future = || {
            self.future.iter().find_map(|(start, (level, runs))| {
                let (start, level) = (*start, *level);
                Some((Part::Future { start, level }, runs.to_merge(doubled)?))
            })
        };
        let Some((part, runs)) = due.or_else(future) else {
            self.advanced = false;
            return Ok(None);
        };
        // The rows are like those of the first.
        let row_bytes = runs
            .first()
            .map_or(1, |run| run.bytes_in_memory() / run.rows().max(1));
        let writer = self.writer(row_bytes, BLOCK_BYTES)?;
        Ok(Some(Merge {
            part,
            windows: windows(&runs, self.window_bytes()).into_iter(),
            runs,
            writer,
        }))
    }

    /// One window of a merge. A window that could not be read is read again; after an error in writing the merge begins
    /// anew. Each window takes a read of each run, and the disk may fail now and then: a merge that began anew each time
    /// might never end. The runs are as they were.
    fn merge_some(&mut self) -> Result<bool, Error> {
        let mut merge = match self.merge.take() {
            Some(merge) => merge,
            None => match self.begin_merge()? {
                Some(merge) => merge,
                None => return Ok(false),
            },
        };
        if let Some(window) = merge.windows.as_slice().first().copied() {
            let since = self.memory.since();
            let hash = self.hash.clone();
            let loaded = load(&merge.runs, window, since, hash, &*self.format);
            let mut rows: Corrections<D, T, R, H> = match loaded {
                Ok(rows) => rows,
                Err(error) => {
                    self.merge = Some(merge);
                    return Err(error);
                }
            };
            merge.windows.next();
            self.copied += rows.copied();
            rows.each_in_order(Part::Due, |rows| merge.writer.add(&*self.format, rows))?;
            self.merge = Some(merge);
            return Ok(true);
        }
        merge.writer.end_run();
        let merged = merge.writer.finish()?.pop().filter(|run| run.rows() > 0);
        let area = self.area_mut(merge.part);
        area.runs
            .retain(|run| !merge.runs.iter().any(|input| input.is(run)));
        if area.runs.is_empty() {
            area.merged_rows = merged.as_ref().map_or(0, Run::rows);
        }
        area.runs.extend(merged);
        if let Part::Future { start, .. } = merge.part
            && area.runs.is_empty()
        {
            self.future.remove(&start);
        }
        Ok(true)
    }
}
