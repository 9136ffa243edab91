//! Rows in memory, brought into the order of their hashes.
//!
//! ```text
//!   chunks as they came ── finish ──> places (chunk, row) in the order of the hashes
//! ```
//!
//! The rows themselves stay where they are. Dropping those that cancel rewrites one chunk at a time, so that no second
//! copy is ever held.

use std::sync::Arc;

use arrow_array::BooleanArray;

use crate::error::Error;
use crate::merge::chunk::{Chunk, Held, Meter, Recipe};
use crate::merge::group::Group;
use crate::row_hash::RowHasher;

/// Chunks with fewer bytes are put together, so that many small files do not cost their overhead each.
const SMALL_BYTES: usize = 64 << 10;
/// So many of them at once.
const SMALL_CHUNKS: usize = 64;

/// Where a row is, under the upper half of its hash.
///
/// One number, since millions of them are sorted: the upper 64 bits of the hash, then the chunk, then the row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u128);

impl Place {
    fn new(hash: u128, chunk: usize, row: usize) -> Self {
        // Neither reaches 2^32: chunks have thousands of bytes, and rows of a batch are counted in an i32.
        Place(
            (hash >> 64 << 64)
                | ((chunk as u128 & 0xffff_ffff) << 32)
                | (row as u128 & 0xffff_ffff),
        )
    }

    fn prefix(self) -> u64 {
        (self.0 >> 64) as u64
    }

    fn chunk(self) -> usize {
        (self.0 >> 32 & 0xffff_ffff) as usize
    }

    fn row(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// A run that is being filled.
pub(crate) struct RunBuilder {
    recipe: Arc<Recipe>,
    meter: Arc<Meter>,
    chunks: Vec<Chunk>,
    small: Vec<Chunk>,
    bytes: usize,
    rows: usize,
    /// The rows that were added.
    rows_in: u64,
    /// What it may take, about.
    limit_bytes: usize,
}

impl RunBuilder {
    /// A run without rows, which is to take `limit_bytes` about.
    pub(crate) fn new(recipe: &Arc<Recipe>, meter: &Arc<Meter>, limit_bytes: usize) -> Self {
        RunBuilder {
            recipe: Arc::clone(recipe),
            meter: Arc::clone(meter),
            chunks: Vec::new(),
            small: Vec::new(),
            bytes: 0,
            rows: 0,
            rows_in: 0,
            limit_bytes,
        }
    }

    /// The memory that it takes, that for the places to come included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.rows * size_of::<Place>()
    }

    /// True if it takes more than it is to.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes() > self.limit_bytes
    }

    /// Adds rows. It may become full by that.
    pub(crate) fn push(&mut self, chunk: Chunk) -> Result<(), Error> {
        self.rows_in += chunk.rows() as u64;
        self.add(chunk)
    }

    /// Makes room for more by adding up what can be; false if little came of it.
    pub(crate) fn make_room(&mut self, hasher: &RowHasher) -> Result<bool, Error> {
        self.consolidate(hasher)?;
        // Or this would be done again for every chunk.
        Ok(self.bytes() <= self.limit_bytes / 2)
    }

    fn add(&mut self, chunk: Chunk) -> Result<(), Error> {
        if chunk.rows() == 0 {
            return Ok(());
        }
        self.bytes += chunk.bytes();
        self.rows += chunk.rows();
        if chunk.bytes() >= self.small_bytes() {
            self.chunks.push(chunk);
            return Ok(());
        }
        self.small.push(chunk);
        if self.small.len() >= SMALL_CHUNKS {
            self.join_small()?;
        }
        Ok(())
    }

    /// While small chunks are put together, they are there twice: that must not be much.
    fn small_bytes(&self) -> usize {
        SMALL_BYTES.min(self.limit_bytes / (16 * SMALL_CHUNKS))
    }

    fn join_small(&mut self) -> Result<(), Error> {
        let small = std::mem::take(&mut self.small);
        let before: usize = small.iter().map(Chunk::bytes).sum();
        let chunk = match small.len() {
            0 => return Ok(()),
            1 => small.into_iter().next(),
            _ => {
                let joined = Chunk::concat(&self.recipe.rows, &small, &self.meter);
                Some(joined.map_err(|error| self.recipe.failed(error))?)
            }
        };
        if let Some(chunk) = chunk {
            self.bytes = self.bytes - before + chunk.bytes();
            if chunk.bytes() >= self.small_bytes() {
                self.chunks.push(chunk);
            } else {
                self.small.push(chunk);
            }
        }
        Ok(())
    }

    /// All places in the order of the full hashes.
    fn places(&mut self) -> Result<(Vec<Place>, Held), Error> {
        self.join_small()?;
        self.chunks.append(&mut self.small);
        let held = self.meter.hold(self.rows * size_of::<Place>());
        let mut places = Vec::with_capacity(self.rows);
        for (chunk, rows) in self.chunks.iter().enumerate() {
            let hashes = rows.hashes.iter().enumerate();
            places.extend(hashes.map(|(row, hash)| Place::new(*hash, chunk, row)));
        }
        places.sort_unstable();
        // Among equal upper halves, which are rare but for equal rows, the whole hash decides.
        let chunks = &self.chunks;
        for equal in places.chunk_by_mut(|a, b| a.prefix() == b.prefix()) {
            if equal.len() > 1 {
                equal.sort_by_key(|place| chunks[place.chunk()].hashes[place.row()]);
            }
        }
        Ok((places, held))
    }

    /// Adds up what can be, and drops the rows that cancel.
    fn consolidate(&mut self, hasher: &RowHasher) -> Result<(), Error> {
        let (places, held) = self.places()?;
        let mut keep: Vec<Vec<bool>> = self
            .chunks
            .iter()
            .map(|chunk| vec![false; chunk.rows()])
            .collect();
        let mut group = Group::default();
        let mut sums = Vec::new();
        let chunks = &mut self.chunks;
        let mut rest = places.as_slice();
        while let Some(first) = rest.first() {
            let hash_of = |place: &Place| chunks[place.chunk()].hashes[place.row()];
            let hash = hash_of(first);
            let others = rest.iter().position(|place| hash_of(place) != hash);
            let equal;
            (equal, rest) = rest.split_at(others.unwrap_or(rest.len()));
            group.clear();
            for place in equal {
                let (chunk, row) = (&chunks[place.chunk()], place.row());
                group.push(place.chunk(), row, chunk.times[row], chunk.diffs[row]);
            }
            group.consolidate(hasher, |chunk| &chunks[chunk])?;
            for update in group.updates() {
                // A sum that is too large for one row is left to the end, where it comes out in parts or has cancelled.
                let Ok(diff) = i64::try_from(update.diff) else {
                    sums.clear();
                    sums.extend(equal.iter().map(|place| (place.chunk(), place.row(), None)));
                    break;
                };
                sums.push((update.chunk, update.row, Some((update.time, diff))));
            }
            for (chunk, row, sum) in sums.drain(..) {
                keep[chunk][row] = true;
                if let Some((time, diff)) = sum {
                    chunks[chunk].times[row] = time;
                    chunks[chunk].diffs[row] = diff;
                }
            }
        }
        drop((places, held));
        self.filter(|chunk, row| keep[chunk][row])
    }

    /// Keeps the rows that `keep` says, one chunk after the other.
    fn filter(&mut self, keep: impl Fn(usize, usize) -> bool) -> Result<(), Error> {
        let chunks = std::mem::take(&mut self.chunks);
        (self.bytes, self.rows) = (0, 0);
        for (index, chunk) in chunks.into_iter().enumerate() {
            let mask: BooleanArray = (0..chunk.rows())
                .map(|row| Some(keep(index, row)))
                .collect();
            let kept = match mask.true_count() {
                0 => continue,
                all if all == chunk.rows() => chunk,
                _ => chunk
                    .filter(&mask, &self.meter)
                    .map_err(|error| self.recipe.failed(error))?,
            };
            self.add(kept)?;
        }
        Ok(())
    }

    /// The run, in order.
    pub(crate) fn finish(mut self) -> Result<Run, Error> {
        let (places, held) = self.places()?;
        Ok(Run {
            chunks: self.chunks.into_iter().map(Arc::new).collect(),
            places,
            next: 0,
            rows_in: self.rows_in,
            _held: held,
        })
    }
}

/// Rows in memory in the order of their hashes.
pub(crate) struct Run {
    pub(crate) chunks: Vec<Arc<Chunk>>,
    places: Vec<Place>,
    next: usize,
    /// How many rows of the files that are merged came to be its rows.
    pub(crate) rows_in: u64,
    _held: Held,
}

impl Run {
    /// The next row's chunk and place in it.
    pub(crate) fn current(&self) -> Option<(usize, usize)> {
        let place = self.places.get(self.next)?;
        Some((place.chunk(), place.row()))
    }

    /// The next row's hash.
    pub(crate) fn hash(&self) -> Option<u128> {
        let (chunk, row) = self.current()?;
        Some(self.chunks[chunk].hashes[row])
    }

    pub(crate) fn advance(&mut self) {
        self.next += 1;
    }

    /// How many of its rows, as they came in, have been merged.
    pub(crate) fn rows_done(&self) -> u64 {
        match self.places.len() {
            0 => self.rows_in,
            all => (u128::from(self.rows_in) * self.next as u128 / all as u128) as u64,
        }
    }
}
