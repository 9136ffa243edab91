//! Runs on local disk: rows that memory had no room for, in the order of their hashes.
//!
//! ```text
//!   file   │ run │ run │ …        without a name: it goes with its last handle, or with the process
//!   run    │ block │ block │ …
//!   block  │ rows, bytes │ hashes │ times │ diffs │ the other columns, as Arrow writes them │
//! ```
//!
//! A run is written once, front to back, and read once, front to back: a block of it is in memory at a time. What
//! computes on the pool writes and reads it; nobody else may read it, as it is in no folder.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::ipc;
use crate::merge::chunk::{Chunk, Meter, Recipe};
use crate::unnamed::unnamed_file;

/// What is put before a block: its rows and the bytes that follow, as numbers of 32 bits.
const HEADER_BYTES: usize = 8;
/// The hash, the time and the diff of a row.
const FIXED_BYTES: usize = size_of::<u128>() + 2 * size_of::<i64>();

/// A file of runs.
#[derive(Debug)]
struct RunFile {
    file: File,
    /// The folder, for messages.
    folder: Arc<str>,
}

impl RunFile {
    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        let mut read = || {
            // The place to read at is this file's alone: one merge reads it, and writes to it no more.
            let mut file = &self.file;
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(bytes)
        };
        read().map_err(failed("read", &self.folder))
    }
}

/// Where in a file the next run begins.
#[derive(Debug)]
pub(super) struct RunEnd {
    file: Arc<RunFile>,
    at: u64,
}

impl RunEnd {
    /// In a new file on the disk of this folder.
    pub(super) fn of_a_new_file(folder: &Path) -> Result<Self, Error> {
        let shown: Arc<str> = folder.display().to_string().into();
        let file = unnamed_file(folder).map_err(failed("create", &shown))?;
        let file = Arc::new(RunFile {
            file,
            folder: shown,
        });
        Ok(RunEnd { file, at: 0 })
    }
}

/// A run, and how far it has been read.
#[derive(Debug)]
pub(super) struct StoredRun {
    file: Arc<RunFile>,
    begin: u64,
    at: u64,
    end: u64,
    /// How many rows of the files that are merged came to be its rows.
    pub(super) rows_in: u64,
}

impl StoredRun {
    /// The next rows; `None` at the end.
    pub(super) fn next(
        &mut self,
        recipe: &Recipe,
        meter: &Arc<Meter>,
    ) -> Result<Option<Chunk>, Error> {
        if self.at == self.end {
            return Ok(None);
        }
        let mut header = [0; HEADER_BYTES];
        self.file.read(&mut header, self.at)?;
        let [rows, length] = [0, 4].map(|at| u32::from_le_bytes(array(&header[at..])) as usize);
        let held = meter.hold(length);
        let mut bytes = vec![0; length];
        self.file.read(&mut bytes, self.at + HEADER_BYTES as u64)?;
        self.at += (HEADER_BYTES + length) as u64;
        let fixed = bytes.split_at_checked(rows * FIXED_BYTES);
        let (fixed, columns) = fixed.ok_or_else(|| self.damaged())?;
        let (hashes, others) = fixed.split_at(rows * size_of::<u128>());
        let (times, diffs) = others.split_at(rows * size_of::<i64>());
        let batch = ipc::read_batch(&self.file.folder, columns)?;
        if batch.num_rows() != rows || batch.schema() != recipe.rows {
            return Err(self.damaged());
        }
        let numbers = |bytes: &[u8]| -> Vec<i64> {
            let numbers = bytes.chunks_exact(size_of::<i64>());
            numbers.map(|n| i64::from_le_bytes(array(n))).collect()
        };
        let hashes = hashes
            .chunks_exact(16)
            .map(|n| u128::from_le_bytes(array(n)));
        let chunk = Chunk::of_bytes(
            batch,
            hashes.collect(),
            numbers(times),
            numbers(diffs),
            length,
            meter,
        );
        drop(held);
        Ok(Some(chunk))
    }

    /// How many of its rows, as they came in, have been read.
    pub(super) fn rows_done(&self) -> u64 {
        let (read, all) = (self.at - self.begin, self.end - self.begin);
        if read == all {
            return self.rows_in;
        }
        (u128::from(self.rows_in) * u128::from(read) / u128::from(all)) as u64
    }

    fn damaged(&self) -> Error {
        Error::Corrupt {
            path: self.file.folder.to_string(),
            why: "rows that were put aside there are not what was written".into(),
        }
    }
}

/// Writes a run at the end of a file.
pub(super) struct StoredRunWriter {
    begin: u64,
    end: RunEnd,
    buffer: Vec<u8>,
    rows: u64,
}

impl StoredRunWriter {
    /// A run that begins there.
    pub(super) fn new(end: RunEnd) -> Self {
        StoredRunWriter {
            begin: end.at,
            end,
            buffer: Vec::new(),
            rows: 0,
        }
    }

    /// The rows written.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds rows, none of which has a lower hash than one before. Gives the bytes written. After an error nothing of
    /// the run is of use.
    pub(super) fn add(&mut self, chunk: &Chunk) -> Result<usize, Error> {
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.extend([0; HEADER_BYTES]);
        buffer.extend(chunk.hashes.iter().flat_map(|hash| hash.to_le_bytes()));
        let numbers = chunk.times.iter().chain(&chunk.diffs);
        buffer.extend(numbers.flat_map(|number| number.to_le_bytes()));
        ipc::write_batch(&chunk.batch, buffer)?;
        let too_large = |_| Error::Type {
            type_name: "a batch of rows".into(),
            why: "it has more than 4 GiB".into(),
        };
        let rows = u32::try_from(chunk.rows()).map_err(too_large)?;
        let length = u32::try_from(buffer.len() - HEADER_BYTES).map_err(too_large)?;
        buffer[..4].copy_from_slice(&rows.to_le_bytes());
        buffer[4..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        let RunFile { file, folder } = &*self.end.file;
        let mut file = file;
        file.write_all(buffer).map_err(failed("write", folder))?;
        self.end.at += buffer.len() as u64;
        self.rows += u64::from(rows);
        Ok(buffer.len())
    }

    /// The run, which so many rows of files came to be, and where the next may begin.
    pub(super) fn finish(self, rows_in: u64) -> (StoredRun, RunEnd) {
        let run = StoredRun {
            file: Arc::clone(&self.end.file),
            begin: self.begin,
            at: self.begin,
            end: self.end.at,
            rows_in,
        };
        (run, self.end)
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

fn failed(action: &'static str, folder: &Arc<str>) -> impl FnOnce(io::Error) -> Error {
    let folder = folder.to_string();
    move |source| Error::Spill {
        action,
        folder,
        source,
    }
}
