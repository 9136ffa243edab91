//! Rows in memory, brought into the order of their hashes.
//!
//! ```text
//!   chunks as they came ── finish ──> places (chunk, row) in the order of the hashes
//! ```
//!
//! The rows themselves stay where they are. When they outgrow their limit the ones that cancel are dropped, and if
//! that does not help, the upper half of the hashes: the range that the run covers ends there, and what is beyond
//! is read again later. Either way one chunk is rewritten at a time, so that no second copy is ever held.

use std::sync::Arc;

use arrow_array::BooleanArray;

use crate::error::Error;
use crate::merge::chunk::{Chunk, HashRange, Held, Meter, Recipe};
use crate::merge::group::Group;
use crate::row_hash::RowHasher;

/// Chunks with fewer bytes are put together, so that many small files do not cost their overhead each.
const SMALL_BYTES: usize = 64 << 10;
/// So many of them at once.
const SMALL_CHUNKS: usize = 64;
/// Hashes that are looked at to find the middle one.
const SAMPLE: usize = 64 << 10;

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
    limit_bytes: usize,
    range: HashRange,
    /// What was left when it was made smaller the last time: until it has grown from there by half, dropping
    /// rows that cancel is not tried again.
    consolidated_bytes: usize,
}

impl RunBuilder {
    /// A run of rows with hashes in `range`, which ends earlier if they take more than `limit_bytes`.
    pub(crate) fn new(
        recipe: Arc<Recipe>,
        meter: Arc<Meter>,
        range: HashRange,
        limit_bytes: usize,
    ) -> Self {
        RunBuilder {
            recipe,
            meter,
            chunks: Vec::new(),
            small: Vec::new(),
            bytes: 0,
            rows: 0,
            limit_bytes,
            range,
            consolidated_bytes: 0,
        }
    }

    /// The range that is covered, as far as is known by now: it only shrinks.
    pub(crate) fn range(&self) -> HashRange {
        self.range
    }

    /// The memory that it takes, that for the places to come included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.rows * size_of::<Place>()
    }

    /// Adds rows with hashes in the range.
    pub(crate) fn push(&mut self, hasher: &RowHasher, chunk: Chunk) -> Result<(), Error> {
        self.add(chunk)?;
        if self.bytes() <= self.limit_bytes {
            return Ok(());
        }
        if self.bytes() > self.consolidated_bytes + self.limit_bytes / 2 {
            self.consolidate(hasher)?;
            self.consolidated_bytes = self.bytes();
        }
        // Room for what comes, or this would be done again for every chunk.
        while self.bytes() > self.limit_bytes - self.limit_bytes / 4 {
            if !self.cut()? {
                break;
            }
            self.consolidated_bytes = self.bytes();
        }
        Ok(())
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

    /// Drops the upper half of the hashes; false if they are all the same.
    fn cut(&mut self) -> Result<bool, Error> {
        let chunks = self.chunks.iter().chain(&self.small);
        let all = || {
            chunks
                .clone()
                .flat_map(|chunk| chunk.hashes.iter().copied())
        };
        let Some(least) = all().min() else {
            return Ok(false);
        };
        let mut sample: Vec<u128> = all().step_by(self.rows / SAMPLE + 1).collect();
        let middle = sample.len() / 2;
        let mut pivot = *sample.select_nth_unstable(middle).1;
        if pivot == least {
            // Something must stay, and something must go.
            match all().filter(|hash| *hash > least).min() {
                Some(next) => pivot = next,
                None => return Ok(false),
            }
        }
        self.join_small()?;
        self.chunks.append(&mut self.small);
        self.range.to = Some(pivot);
        let below: Vec<Vec<bool>> = self
            .chunks
            .iter()
            .map(|chunk| chunk.hashes.iter().map(|hash| *hash < pivot).collect())
            .collect();
        self.filter(|chunk, row| below[chunk][row])?;
        Ok(true)
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
            _held: held,
        })
    }
}

/// Rows in memory in the order of their hashes.
pub(crate) struct Run {
    pub(crate) chunks: Vec<Arc<Chunk>>,
    places: Vec<Place>,
    next: usize,
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
}
