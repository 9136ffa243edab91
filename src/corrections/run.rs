//! Runs: updates on disk, in the order of their hashes.
//!
//! ```text
//!   file  │ block │ block │ block │ …      a few hundred rows each
//!   run     h ≤ ·   h ≤ ·   h ≤ ·          the first hash of each block is in memory
//! ```
//!
//! A run is written once and never changed. Several runs are consolidated a window of hashes at a time: equal rows
//! have equal hashes, so they fall into the same window, whichever runs they are in. Windows are chosen by what is
//! known of the blocks, so that the rows of one fit the memory that there is for them.
//!
//! Taking only some times out of a run changes what is read of it, not the run: see [`Run::split`].

use std::sync::Arc;

use mvsink_persist::{Codec, Frontier, ipc};

use super::disk::{Disk, Spill};
use crate::bounds::Data;
use crate::comparison::Buckets;
use crate::error::Error;
use crate::time::Time;

/// What is read or written at once, in bytes, about.
const IO_BYTES: usize = 1 << 20;

/// A row, its time and its difference, as they are stored.
pub(super) type Stored<D> = (D, i64, i64);

/// A row, its time and its difference, as they are summed.
pub(super) type Sum<D, T> = (D, T, i64);

/// Rows to bytes and back.
pub(crate) trait Format<D>: Send + Sync {
    /// Appends the bytes of these rows.
    fn write(&self, rows: &[(&D, i64, i64)], bytes: &mut Vec<u8>) -> Result<(), Error>;

    /// The rows of these bytes; `name` is for errors.
    fn read(&self, name: &str, bytes: &[u8]) -> Result<Vec<Stored<D>>, Error>;
}

/// Rows by the codec of their shard.
pub(crate) struct Rows<D, E>(pub(crate) Codec<D, E>);

impl<D: Data, E: Data> Format<D> for Rows<D, E> {
    fn write(&self, rows: &[(&D, i64, i64)], bytes: &mut Vec<u8>) -> Result<(), Error> {
        let batch = self.0.encode(rows.iter().copied())?;
        Ok(ipc::write_batch(&batch, bytes)?)
    }

    fn read(&self, name: &str, bytes: &[u8]) -> Result<Vec<Stored<D>>, Error> {
        Ok(self.0.decode(&ipc::read_batch(name, bytes)?)?.ok)
    }
}

/// Errors by the codec of their shard.
pub(crate) struct Errors<D, E>(pub(crate) Codec<D, E>);

impl<D: Data, E: Data> Format<E> for Errors<D, E> {
    fn write(&self, errors: &[(&E, i64, i64)], bytes: &mut Vec<u8>) -> Result<(), Error> {
        let batch = self.0.encode_errors(errors.iter().copied())?;
        Ok(ipc::write_batch(&batch, bytes)?)
    }

    fn read(&self, name: &str, bytes: &[u8]) -> Result<Vec<Stored<E>>, Error> {
        Ok(self.0.decode(&ipc::read_batch(name, bytes)?)?.err)
    }
}

/// Some rows of a run that lie together.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// The least hash.
    first: u64,
    rows: u32,
    offset: u64,
    bytes: u32,
}

/// What was written.
struct Body {
    file: Arc<dyn Spill>,
    blocks: Vec<Block>,
    rows: usize,
    bytes: u64,
    /// About the bytes of a row once it is in memory.
    row_bytes: usize,
}

/// Rows that do not count.
#[derive(Clone, Copy)]
pub(super) struct Forgotten {
    /// Those with data of these buckets,
    pub buckets: Buckets,
    /// which their hashes tell.
    pub bucket: fn(u64) -> u8,
}

impl Forgotten {
    /// True of a row with this hash.
    pub fn is_among(&self, hash: u64) -> bool {
        self.buckets.contains((self.bucket)(hash))
    }
}

/// Updates on disk. Clones share them; the file goes with the last run in it.
#[derive(Clone)]
pub(super) struct Run<T> {
    body: Arc<Body>,
    /// Only rows at these times count, as the times were when they were written.
    from: Option<T>,
    before: Frontier<T>,
    forgotten: Option<Forgotten>,
}

impl<T: Time> Run<T> {
    /// The rows written, some of which may no longer count.
    pub fn rows(&self) -> usize {
        self.body.rows
    }

    /// The bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.body.bytes
    }

    /// About the bytes that all rows would need in memory.
    pub fn bytes_in_memory(&self) -> usize {
        self.body.rows.saturating_mul(self.body.row_bytes)
    }

    /// The rows at times before `frontier`, and the others.
    pub fn split(&self, frontier: Frontier<T>) -> (Self, Option<Self>) {
        let before = Run {
            before: self.before.min(frontier),
            ..self.clone()
        };
        let rest = frontier.time().map(|from| Run {
            from: self.from.max(Some(from)),
            ..self.clone()
        });
        (before, rest)
    }

    /// The same without these rows.
    pub fn without(self, forgotten: Forgotten) -> Self {
        Run {
            forgotten: Some(forgotten),
            ..self
        }
    }

    /// True if both are the same rows of the same run.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.body, &other.body)
            && (self.from, self.before) == (other.from, other.before)
    }

    /// True if a row with this hash counts at this time.
    fn counts(&self, time: T, hash: impl FnOnce() -> u64) -> bool {
        if self.from.is_some_and(|from| time < from) || !self.before.is_complete(&time) {
            return false;
        }
        !self
            .forgotten
            .is_some_and(|forgotten| forgotten.is_among(hash()))
    }

    /// How many blocks there are for [`Run::read`].
    pub fn blocks(&self) -> usize {
        self.body.blocks.len()
    }

    /// Reads some blocks, from number `at` on. Gives the rows that count, and the number of the next block.
    pub fn read<D>(
        &self,
        format: &dyn Format<D>,
        hash: impl Fn(&D) -> u64,
        at: usize,
    ) -> Result<(Vec<Sum<D, T>>, usize), Error> {
        let mut rows = Vec::new();
        let blocks = self.body.blocks.len();
        let end = self.read_blocks(format, &hash, at, blocks, |row| rows.push(row))?;
        Ok((rows, end))
    }

    /// Reads all rows of a window of hashes, and some others.
    pub fn read_window<D>(
        &self,
        format: &dyn Format<D>,
        hash: impl Fn(&D) -> u64,
        window: Window,
        mut each: impl FnMut(Sum<D, T>),
    ) -> Result<(), Error> {
        let blocks = &self.body.blocks;
        // The block before the first one that begins in the window may end in it.
        let begin = blocks.partition_point(|block| block.first < window.from);
        let end = blocks.partition_point(|block| window.to.is_none_or(|to| block.first < to));
        let mut at = begin.saturating_sub(1);
        while at < end {
            at = self.read_blocks(format, &hash, at, end, &mut each)?;
        }
        Ok(())
    }

    /// Reads blocks from number `at` on, about a mebibyte and none beyond `end`, with one call.
    fn read_blocks<D>(
        &self,
        format: &dyn Format<D>,
        hash: impl Fn(&D) -> u64,
        at: usize,
        end: usize,
        mut each: impl FnMut(Sum<D, T>),
    ) -> Result<usize, Error> {
        let Body { file, blocks, .. } = &*self.body;
        let mut length = 0;
        let mut next = at;
        while next < end && (next == at || length + blocks[next].bytes as usize <= IO_BYTES) {
            length += blocks[next].bytes as usize;
            next += 1;
        }
        if next == at {
            return Ok(end);
        }
        let bytes = file.read(blocks[at].offset, length)?;
        let mut rest = &bytes[..];
        for block in &blocks[at..next] {
            let (bytes, others) = rest.split_at(block.bytes as usize);
            rest = others;
            for (data, time, diff) in format.read(file.name(), bytes)? {
                let time = crate::bounds::time_from_i64(time)?;
                if self.counts(time, || hash(&data)) {
                    each((data, time, diff));
                }
            }
        }
        Ok(next)
    }
}

/// The hashes `from..to`, or all from `from` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub from: u64,
    pub to: Option<u64>,
}

impl Window {
    #[inline]
    pub fn contains(&self, hash: u64) -> bool {
        self.from <= hash && self.to.is_none_or(|to| hash < to)
    }
}

/// Windows that cover all hashes, of about `bytes` bytes of rows in memory each; of more only if hashes are equal, or
/// if the runs are so many that a block of each is more.
pub(super) fn windows<T: Time>(runs: &[Run<T>], bytes: usize) -> Vec<Window> {
    let mut blocks: Vec<(u64, usize)> = Vec::new();
    for run in runs {
        let sizes = run.body.blocks.iter();
        blocks.extend(sizes.map(|block| {
            let rows = block.rows as usize;
            (block.first, rows.saturating_mul(run.body.row_bytes))
        }));
    }
    if blocks.is_empty() {
        return Vec::new();
    }
    blocks.sort_unstable();
    let mut windows = Vec::new();
    let (mut from, mut held) = (0, 0usize);
    for (first, size) in blocks {
        if held > 0 && held.saturating_add(size) > bytes && first > from {
            windows.push(Window {
                from,
                to: Some(first),
            });
            (from, held) = (first, 0);
        }
        held = held.saturating_add(size);
    }
    windows.push(Window { from, to: None });
    windows
}

/// Writes runs, one after the other, into one file.
pub(super) struct Writer {
    file: Box<dyn Spill>,
    written: u64,
    /// Encoded, and not yet in the file.
    buffer: Vec<u8>,
    block_rows: usize,
    row_bytes: usize,
    blocks: Vec<Block>,
    rows: usize,
    ended: Vec<(Vec<Block>, usize)>,
}

impl Writer {
    /// A writer of rows that take about `row_bytes` bytes in memory each.
    pub fn new(disk: &dyn Disk, row_bytes: usize, block_rows: usize) -> Result<Self, Error> {
        Ok(Writer {
            file: disk.create()?,
            written: 0,
            buffer: Vec::new(),
            block_rows: block_rows.max(1),
            row_bytes: row_bytes.max(1),
            blocks: Vec::new(),
            rows: 0,
            ended: Vec::new(),
        })
    }

    /// Adds rows to the run, with hashes not less than any before, or all 0 if it is only to be read as a whole. After
    /// an error nothing of it is of use.
    pub fn add<'a, D: 'a>(
        &mut self,
        format: &dyn Format<D>,
        rows: impl Iterator<Item = (u64, &'a D, i64, i64)>,
    ) -> Result<(), Error> {
        let mut rows = rows.peekable();
        let mut block: Vec<(&D, i64, i64)> = Vec::with_capacity(self.block_rows);
        while let Some((first, ..)) = rows.peek() {
            let first = *first;
            block.clear();
            let taken = rows.by_ref().take(self.block_rows);
            block.extend(taken.map(|(_, data, time, diff)| (data, time, diff)));
            let start = self.buffer.len();
            format.write(&block, &mut self.buffer)?;
            self.blocks.push(Block {
                first,
                rows: block.len() as u32,
                offset: self.written + start as u64,
                bytes: (self.buffer.len() - start) as u32,
            });
            self.rows += block.len();
            if self.buffer.len() >= IO_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.file.append(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Ends a run; what is added from now on belongs to the next.
    pub fn end_run(&mut self) {
        let blocks = std::mem::take(&mut self.blocks);
        self.ended.push((blocks, std::mem::take(&mut self.rows)));
    }

    /// The runs that were ended, in their order.
    pub fn finish<T: Time>(mut self) -> Result<Vec<Run<T>>, Error> {
        self.flush()?;
        let file: Arc<dyn Spill> = Arc::from(self.file);
        let run = |(blocks, rows): (Vec<Block>, usize)| Run {
            body: Arc::new(Body {
                file: Arc::clone(&file),
                bytes: blocks.iter().map(|block| u64::from(block.bytes)).sum(),
                blocks,
                rows,
                row_bytes: self.row_bytes,
            }),
            from: None,
            before: Frontier::Empty,
            forgotten: None,
        };
        Ok(self.ended.into_iter().map(run).collect())
    }
}
