//! Updates that are not looked at yet: they lie as they came, until it is known which of them count.
//!
//! A sink that begins over a shard learns only when its snapshot is complete that most of it is there already. To enter
//! its rows before that, and to put them in the order of their hashes for the disk, would be in vain.

use std::collections::VecDeque;

use super::payload::Row;
use super::run::{Format, Run, Writer};
use crate::bounds::time_to_i64;
use crate::error::Error;
use crate::time::{Diff, Time};

/// A container.
struct Waiting<D, T, R> {
    rows: Vec<Row<D, T, R>>,
    /// About what it holds.
    bytes: usize,
}

/// Containers as they came: the newest in memory, older ones on disk, as far as memory has no room for them.
pub(super) struct Aside<D, T, R> {
    /// The oldest first.
    waiting: VecDeque<Waiting<D, T, R>>,
    bytes: usize,
    rows: usize,
    spilled: Vec<Run<T>>,
}

impl<D, T, R> Default for Aside<D, T, R> {
    fn default() -> Self {
        Aside {
            waiting: VecDeque::new(),
            bytes: 0,
            rows: 0,
            spilled: Vec::new(),
        }
    }
}

impl<D, T: Time, R: Diff> Aside<D, T, R> {
    /// Keeps a container whose rows own about `heap` bytes on the heap.
    pub fn put(&mut self, rows: Vec<Row<D, T, R>>, heap: usize) {
        if rows.is_empty() {
            return;
        }
        let bytes = rows.capacity() * size_of::<Row<D, T, R>>() + heap;
        self.bytes += bytes;
        self.rows += rows.len();
        self.waiting.push_back(Waiting { rows, bytes });
    }

    /// About the bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All rows, in memory and on disk.
    pub fn rows(&self) -> usize {
        self.rows + self.spilled.iter().map(Run::rows).sum::<usize>()
    }

    /// About the bytes of a row in memory.
    pub fn row_bytes(&self) -> usize {
        self.bytes / self.rows.max(1)
    }

    /// What is on disk.
    pub fn spilled(&self) -> &[Run<T>] {
        &self.spilled
    }

    /// Moves at least `bytes` bytes to disk, if there are as many: the oldest rows. After an error nothing was moved.
    pub fn spill(
        &mut self,
        bytes: usize,
        mut writer: Writer,
        format: &dyn Format<D>,
    ) -> Result<(), Error> {
        let (mut containers, mut moved) = (0, 0);
        for waiting in &self.waiting {
            if moved >= bytes {
                break;
            }
            containers += 1;
            moved += waiting.bytes;
        }
        let mut unfit = None;
        let rows = self.waiting.iter().take(containers);
        let rows = rows.flat_map(|waiting| &waiting.rows);
        let mut rows = rows.map_while(|(data, time, diff)| {
            let time = time_to_i64(*time).map_err(|error| unfit = Some(error));
            // It is read as a whole, if at all.
            Some((0, data, time.ok()?, diff.to_i64()))
        });
        writer.add(format, &mut rows)?;
        unfit.map_or(Ok(()), Err)?;
        writer.end_run();
        self.spilled.extend(writer.finish()?);
        for waiting in self.waiting.drain(..containers) {
            self.bytes -= waiting.bytes;
            self.rows -= waiting.rows.len();
        }
        Ok(())
    }

    /// What is in memory, a container; `None` if that was all.
    pub fn take(&mut self) -> Option<Vec<Row<D, T, R>>> {
        let Waiting { rows, bytes } = self.waiting.pop_front()?;
        self.bytes -= bytes;
        self.rows -= rows.len();
        Some(rows)
    }

    /// What is on disk.
    pub fn take_spilled(&mut self) -> Vec<Run<T>> {
        std::mem::take(&mut self.spilled)
    }
}
