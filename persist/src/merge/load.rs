//! Reading the files that are not in order: their rows go to memory, and from there to disk when it is full.
//!
//! Files are opened ahead, since they may be many and small. One row group after the other is decoded, each until it has
//! ended or memory is full.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::data_file::DataFile;
use crate::error::Error;
use crate::merge::chunk::{FileCheck, Held, Meter, Recipe, Totals};
use crate::merge::core::Fed;
use crate::merge::run::{Run, RunBuilder};
use crate::merge::shelf::Shelf;
use crate::merge::{Budget, Merge};
use crate::read::file::{FileReader, Request, WHOLE_BYTES_MAX};
use crate::row_hash::RowHasher;
use crate::storage::Storage;
use crate::task::Task;

/// Files that are opened before it is their turn, at most.
const OPEN_AHEAD_MAX: usize = 8;

/// A file, and what it takes while it is open.
struct Opened {
    file: Arc<DataFile>,
    reader: FileReader,
    _held: Held,
}

pub(super) struct Loader {
    storage: Storage,
    recipe: Arc<Recipe>,
    request: Request,
    meter: Arc<Meter>,
    budget: Budget,
    files: VecDeque<Arc<DataFile>>,
    opening: VecDeque<Task<Result<Opened, Error>>>,
    open: Option<Opened>,
    /// `None` only while the pool has it.
    load: Option<Box<Load>>,
    files_done: u64,
    /// `None` while memory has sufficed.
    shelf: Option<Shelf>,
}

/// What the pool works on.
struct Load {
    recipe: Arc<Recipe>,
    meter: Arc<Meter>,
    builder: RunBuilder,
    hasher: RowHasher,
    /// The row group that is being decoded.
    group: Option<Fed>,
    /// Of its file.
    check: Option<FileCheck>,
    read: Totals,
    rows: u64,
}

/// The rows of all files.
pub(super) struct Loaded {
    /// Their sums.
    pub(super) read: Totals,
    /// They are in memory, or on disk.
    pub(super) rows: Result<Run, Shelf>,
}

impl Load {
    /// Decodes the row group until it has ended, or memory is full. `true` if nothing can be done about that.
    fn decode(&mut self, may_make_room: bool) -> Result<bool, Error> {
        while let Some((group, _)) = &mut self.group {
            if self.builder.is_full() && !(may_make_room && self.builder.make_room(&self.hasher)?) {
                return Ok(true);
            }
            let Some(batch) = group.next() else {
                self.group = None;
                break;
            };
            let batch = batch?;
            self.rows += batch.num_rows() as u64;
            let chunk = self.recipe.prepare(
                &mut self.hasher,
                &batch,
                self.check.as_mut(),
                &mut self.read,
                &self.meter,
            )?;
            self.builder.push(chunk)?;
        }
        Ok(false)
    }
}

impl Loader {
    /// Reads these files for `merge`. Nothing is read yet.
    pub(super) fn new(merge: &Merge, files: Vec<Arc<DataFile>>) -> Result<Self, Error> {
        let (recipe, meter) = (&merge.recipe, &merge.meter);
        let limit = merge.budget.run_bytes(merge.stream_bytes);
        let load = Load {
            recipe: Arc::clone(recipe),
            meter: Arc::clone(meter),
            builder: RunBuilder::new(recipe, meter, limit),
            hasher: RowHasher::new(&recipe.rows)?,
            group: None,
            check: None,
            read: Totals::default(),
            rows: 0,
        };
        Ok(Loader {
            storage: merge.storage.clone(),
            recipe: Arc::clone(recipe),
            request: merge.request.clone(),
            meter: Arc::clone(meter),
            budget: merge.budget,
            files: files.into(),
            opening: VecDeque::new(),
            open: None,
            load: Some(Box::new(load)),
            files_done: 0,
            shelf: None,
        })
    }

    /// Rows decoded.
    pub(super) fn rows_read(&self) -> u64 {
        self.load.as_ref().map_or(0, |load| load.rows)
    }

    /// Rows that went to disk.
    pub(super) fn rows_spilled(&self) -> u64 {
        self.shelf.as_ref().map_or(0, Shelf::rows_spilled)
    }

    /// Files read to their end.
    pub(super) fn files_done(&self) -> u64 {
        self.files_done
    }

    /// Goes on with a row group, or with a part of what goes to disk; false at the end.
    pub(super) async fn step(&mut self) -> Result<bool, Error> {
        if let Some(shelf) = &mut self.shelf
            && shelf.is_writing()
        {
            shelf.write().await?;
            return Ok(true);
        }
        let mut load = self.load.take().ok_or(Error::Shutdown)?;
        if load.group.is_none() && !self.next_group(&mut load).await? {
            self.load = Some(load);
            return Ok(false);
        }
        let may_make_room = self.shelf.is_none();
        let work = move || {
            let full = load.decode(may_make_room);
            (load, full)
        };
        let (mut load, full) = self.storage.env.cpu.run(work).await?;
        if full? {
            // There are no streams yet that take memory of their own.
            let next = self.builder(self.budget.run_bytes(0));
            let builder = std::mem::replace(&mut load.builder, next);
            let run = self.storage.env.cpu.run(move || builder.finish()).await??;
            self.shelf().put(run)?;
        }
        self.load = Some(load);
        Ok(true)
    }

    /// All rows, after the last step.
    pub(super) async fn finish(mut self) -> Result<Loaded, Error> {
        let load = self.load.take().ok_or(Error::Shutdown)?;
        let Load { builder, read, .. } = *load;
        let run = self.storage.env.cpu.run(move || builder.finish()).await??;
        let rows = match self.shelf {
            None => Ok(run),
            Some(mut shelf) => {
                shelf.put(run)?;
                Err(shelf)
            }
        };
        Ok(Loaded { read, rows })
    }

    fn builder(&self, limit: usize) -> RunBuilder {
        RunBuilder::new(&self.recipe, &self.meter, limit)
    }

    fn shelf(&mut self) -> &mut Shelf {
        self.shelf.get_or_insert_with(|| {
            Shelf::new(&self.storage, &self.recipe, &self.meter, self.budget)
        })
    }

    /// Goes on to the next row group, of the next file if need be; false if there is none.
    async fn next_group(&mut self, load: &mut Load) -> Result<bool, Error> {
        loop {
            if let Some(open) = &mut self.open {
                if let Some(group) = open.reader.next_group().await? {
                    open.reader.read_ahead();
                    let bytes = usize::try_from(group.bytes()).unwrap_or(usize::MAX);
                    load.group = Some((group, self.meter.hold(bytes)));
                    return Ok(true);
                }
                load.check.take().map_or(Ok(()), FileCheck::finish)?;
                self.open = None;
                self.files_done += 1;
            }
            let Some(opened) = self.next_file().await? else {
                return Ok(false);
            };
            let reader = &opened.reader;
            let check = self.recipe.takes_all() && !reader.skips();
            load.check = check.then(|| FileCheck::new(reader.shown().to_owned(), &opened.file));
            self.open = Some(opened);
        }
    }

    /// The next file, opened, while others are on their way.
    async fn next_file(&mut self) -> Result<Option<Opened>, Error> {
        let small = (self.budget.bytes / 16) / WHOLE_BYTES_MAX as usize;
        while self.opening.len() < small.clamp(1, OPEN_AHEAD_MAX)
            && let Some(file) = self.files.pop_front()
        {
            let opening = self.open(file);
            self.opening.push_back(opening);
        }
        match self.opening.pop_front() {
            Some(opened) => opened.join().await?.map(Some),
            None => Ok(None),
        }
    }

    /// Opens a file while other work goes on.
    fn open(&self, file: Arc<DataFile>) -> Task<Result<Opened, Error>> {
        let (storage, request) = (self.storage.clone(), self.request.clone());
        let meter = Arc::clone(&self.meter);
        let span = tracing::debug_span!("open", shard = %storage.url, file = file.path);
        Task::spawn(&self.storage.env, span, async move {
            let reader = FileReader::open(&storage, &file, &request).await?;
            let _held = meter.hold(reader.bytes());
            Ok(Opened {
                file,
                reader,
                _held,
            })
        })
    }
}
