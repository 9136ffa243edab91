//! The runs on disk of one merge: written as memory is full, and made fewer until they can be merged at once.
//!
//! ```text
//!   pass 1   │ A B C D E F G │        what the loader has written
//!   pass 2   │ ABC DEF │ G            one file for each pass; a file goes with the last run in it
//! ```
//!
//! A pass merges no more than it must, so that the runs become just few enough; only if that is more than all of them
//! once, another one follows. What lies on disk is at most twice what was loaded.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::merge::Budget;
use crate::merge::chunk::{Meter, Recipe};
use crate::merge::core::{Core, Step};
use crate::merge::run::Run;
use crate::merge::stored::{RunEnd, StoredRun, StoredRunWriter};
use crate::storage::Storage;

/// What is written in one go, in bytes, so that a thread is not kept for long.
const WRITE_BYTES: usize = 1 << 20;

pub(super) struct Shelf {
    storage: Storage,
    recipe: Arc<Recipe>,
    meter: Arc<Meter>,
    budget: Budget,
    /// Where the files are.
    folder: Arc<Path>,
    /// The runs that this pass has not merged, or need not.
    runs: VecDeque<StoredRun>,
    /// Those that it has written.
    merged: Vec<StoredRun>,
    /// Where its next one begins; `None` before the first.
    end: Option<RunEnd>,
    writing: Option<Box<Writing>>,
    rows_spilled: u64,
}

/// A run that is being written.
struct Writing {
    core: Core,
    end: Option<RunEnd>,
    writer: Option<StoredRunWriter>,
    rows_in: u64,
    /// It is one of several in one.
    merges: bool,
}

impl Writing {
    /// Goes on for a bounded time; true at the end.
    fn go_on(&mut self, folder: &Path) -> Result<bool, Error> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let end = match self.end.take() {
                    Some(end) => end,
                    None => RunEnd::of_a_new_file(folder)?,
                };
                none.insert(StoredRunWriter::new(end))
            }
        };
        let mut written = 0;
        while written < WRITE_BYTES {
            match self.core.step()? {
                Step::Rows(rows) => written += writer.add(&rows)?,
                Step::End => return Ok(true),
                // Nobody has to feed what is in memory or on disk.
                Step::More | Step::Wait(_) => break,
            }
        }
        Ok(false)
    }
}

impl Shelf {
    pub(super) fn new(
        storage: &Storage,
        recipe: &Arc<Recipe>,
        meter: &Arc<Meter>,
        budget: Budget,
    ) -> Self {
        Shelf {
            storage: storage.clone(),
            recipe: Arc::clone(recipe),
            meter: Arc::clone(meter),
            budget,
            folder: Arc::from(&*storage.env.options.spill_directory),
            runs: VecDeque::new(),
            merged: Vec::new(),
            end: None,
            writing: None,
            rows_spilled: 0,
        }
    }

    /// Rows that were written, as often as they were.
    pub(super) fn rows_spilled(&self) -> u64 {
        self.rows_spilled
    }

    /// Begins to write this run; nothing else is being written.
    pub(super) fn put(&mut self, run: Run) -> Result<(), Error> {
        self.begin(run.rows_in, Vec::new(), Some(run))
    }

    /// True until what was begun is written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    fn begin(
        &mut self,
        rows_in: u64,
        stored: Vec<StoredRun>,
        run: Option<Run>,
    ) -> Result<(), Error> {
        debug_assert!(self.writing.is_none(), "one run is written at a time");
        let merges = run.is_none();
        let core = Core::new(
            Arc::clone(&self.recipe),
            Arc::clone(&self.meter),
            self.budget.block_limits(),
            0,
            stored,
            run,
        )?;
        self.writing = Some(Box::new(Writing {
            core,
            end: self.end.take(),
            writer: None,
            rows_in,
            merges,
        }));
        Ok(())
    }

    /// Goes on with what is being written.
    pub(super) async fn write(&mut self) -> Result<(), Error> {
        let Some(mut writing) = self.writing.take() else {
            return Ok(());
        };
        let folder = Arc::clone(&self.folder);
        let work = move || {
            let ended = writing.go_on(&folder);
            (writing, ended)
        };
        let (mut writing, ended) = self.storage.env.cpu.run(work).await?;
        if !ended? {
            self.writing = Some(writing);
            return Ok(());
        }
        if let Some(writer) = writing.writer.take() {
            self.rows_spilled += writer.rows();
            let (run, end) = writer.finish(writing.rows_in);
            self.end = Some(end);
            if writing.merges {
                self.merged.push(run);
            } else {
                self.runs.push_back(run);
            }
        }
        Ok(())
    }

    /// Goes on until there are at most `most` runs; false when that is so.
    pub(super) async fn narrow(&mut self, most: usize) -> Result<bool, Error> {
        if self.is_writing() {
            self.write().await?;
            return Ok(true);
        }
        let all = self.runs.len() + self.merged.len();
        if all <= most {
            return Ok(false);
        }
        if self.runs.len() < 2 || self.merged.is_empty() {
            // A pass begins, and the files of the last one go with their runs.
            self.runs.extend(self.merged.drain(..));
            self.end = None;
        }
        let at_once = self.budget.fan_in(0).min(all - most + 1);
        let some: Vec<_> = self.runs.drain(..at_once.min(self.runs.len())).collect();
        let rows_in = some.iter().map(|run| run.rows_in).sum();
        self.begin(rows_in, some, None)?;
        Ok(true)
    }

    /// The runs that are left.
    pub(super) fn into_runs(mut self) -> Vec<StoredRun> {
        self.runs.extend(self.merged);
        self.runs.into()
    }
}
