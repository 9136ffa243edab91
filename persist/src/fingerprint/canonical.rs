//! The canonical bytes of one row, while they are being put together. What they are is said in the module above.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::VERSION;

/// Added to the domain of a row that lists nulls.
const WITH_NULLS: u8 = 2;

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    /// A row of data.
    Data = 0,
    /// An error.
    Error = 1,
}

/// The fingerprint of a row without nulls that has these canonical bytes.
#[inline]
pub(crate) fn digest(bytes: &[u8], domain: Domain) -> u128 {
    hash(bytes, domain as u8)
}

#[inline]
fn hash(bytes: &[u8], domain: u8) -> u128 {
    xxh3_128_with_seed(bytes, VERSION << 8 | u64::from(domain))
}

/// The bits of a float that all floats equal to it have, and all NaNs.
#[inline]
pub(crate) fn canonical_float(value: f64) -> u64 {
    if value.is_nan() {
        f64::NAN.to_bits() & !(1 << 63)
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

/// The bytes of one row and the nulls in it.
#[derive(Debug, Default)]
pub(crate) struct Canonical {
    bytes: Vec<u8>,
    nulls: Vec<Null>,
}

/// A place between what has been put so far and what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    bytes: usize,
    nulls: usize,
}

/// An offset in the bytes, in the upper 48 bits, and a depth. A buffer of 2^48 bytes does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Null(u64);

impl Null {
    #[inline]
    fn new(offset: usize, depth: u16) -> Self {
        Null((offset as u64) << 16 | u64::from(depth))
    }

    fn shifted(self, from: usize, to: usize) -> Self {
        Null(
            self.0
                .wrapping_sub((from as u64) << 16)
                .wrapping_add((to as u64) << 16),
        )
    }
}

/// Where the encoding of a row goes.
pub(crate) trait Sink {
    fn put_byte(&mut self, byte: u8);
    fn put_word(&mut self, word: u64);
    fn put_float(&mut self, value: f64);
    /// A string, or bytes: counted.
    fn put_bytes(&mut self, bytes: &[u8]);
    /// Bytes as they are.
    fn put_raw(&mut self, bytes: &[u8]);
    /// A null of this depth, counted from 1.
    fn put_null(&mut self, depth: u16);
    fn mark(&self) -> Mark;
    /// Whether all that was put since then is one null of this depth.
    fn is_null_since(&self, mark: Mark, depth: u16) -> bool;
    fn end_counted(&mut self, begin: Mark, count: usize);
    /// The bytes put since a [`Sink::begin_counted`], without the count.
    fn counted_bytes(&self, begin: Mark) -> usize;
    /// Ends a map that began there, with entries that begin at `entries`: puts them in the order of their bytes
    /// (and nulls), since a hash map has none of its own.
    fn end_map(&mut self, begin: Mark, entries: &mut Vec<Mark>);

    #[inline]
    fn put_integer(&mut self, value: i64) {
        self.put_word(value as u64);
    }

    /// Room for a length that is known only later.
    #[inline]
    fn begin_counted(&mut self) -> Mark {
        let mark = self.mark();
        self.put_word(0);
        mark
    }
}

impl Canonical {
    #[inline]
    pub(crate) const fn new() -> Self {
        Canonical {
            bytes: Vec::new(),
            nulls: Vec::new(),
        }
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.nulls.clear();
    }

    /// The bytes of memory in use, about.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + 8 * self.nulls.capacity()
    }

    fn sort_bytes(&mut self, entries: &[Mark]) {
        let mut slices: Vec<&[u8]> = entries
            .windows(2)
            .map(|pair| &self.bytes[pair[0].bytes..pair[1].bytes])
            .collect();
        if !slices.is_sorted() {
            slices.sort_unstable();
            let sorted = slices.concat();
            self.bytes.truncate(entries[0].bytes);
            self.bytes.extend_from_slice(&sorted);
        }
    }

    fn sort_with_nulls(&mut self, entries: &[Mark]) {
        let first = entries[0];
        let mut parts: Vec<(Vec<u8>, Vec<Null>)> = entries
            .windows(2)
            .map(|pair| {
                let nulls = self.nulls[pair[0].nulls..pair[1].nulls].iter();
                (
                    self.bytes[pair[0].bytes..pair[1].bytes].to_vec(),
                    nulls.map(|null| null.shifted(pair[0].bytes, 0)).collect(),
                )
            })
            .collect();
        parts.sort_unstable();
        self.bytes.truncate(first.bytes);
        self.nulls.truncate(first.nulls);
        for (bytes, nulls) in parts {
            let at = self.bytes.len();
            self.nulls
                .extend(nulls.iter().map(|null| null.shifted(0, at)));
            self.bytes.extend_from_slice(&bytes);
        }
    }

    /// The fingerprint. The row is to be cleared after it.
    #[inline]
    pub(crate) fn digest(&mut self, domain: Domain) -> u128 {
        let domain = self.seal(domain);
        hash(&self.bytes, domain)
    }

    /// Appends to `out` what [`Canonical::digest`] hashes, its domain first.
    pub(crate) fn append_to(&mut self, domain: Domain, out: &mut Vec<u8>) {
        out.push(self.seal(domain));
        out.extend_from_slice(&self.bytes);
    }

    /// Lists the nulls after the row.
    #[inline]
    fn seal(&mut self, domain: Domain) -> u8 {
        if self.nulls.is_empty() {
            return domain as u8;
        }
        let at_end = Null::new(self.bytes.len(), 1);
        while self.nulls.last() == Some(&at_end) {
            self.nulls.pop();
        }
        if self.nulls.is_empty() {
            return domain as u8;
        }
        // Read backwards, the length delimits the list, which in turn delimits the row.
        for null in &self.nulls {
            self.bytes.extend_from_slice(&null.0.to_le_bytes());
        }
        self.bytes
            .extend_from_slice(&(self.nulls.len() as u64).to_le_bytes());
        domain as u8 | WITH_NULLS
    }
}

impl Sink for Canonical {
    #[inline]
    fn put_byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    #[inline]
    fn put_word(&mut self, word: u64) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    #[inline]
    fn put_float(&mut self, value: f64) {
        self.put_word(canonical_float(value));
    }

    #[inline]
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.bytes.reserve(8 + bytes.len());
        self.put_word(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    #[inline]
    fn put_raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    #[inline]
    fn put_null(&mut self, depth: u16) {
        self.nulls.push(Null::new(self.bytes.len(), depth));
    }

    #[inline]
    fn mark(&self) -> Mark {
        Mark {
            bytes: self.bytes.len(),
            nulls: self.nulls.len(),
        }
    }

    #[inline]
    fn is_null_since(&self, mark: Mark, depth: u16) -> bool {
        self.bytes.len() == mark.bytes
            && self.nulls.get(mark.nulls..) == Some(&[Null::new(mark.bytes, depth)])
    }

    #[inline]
    fn end_counted(&mut self, begin: Mark, count: usize) {
        self.bytes[begin.bytes..begin.bytes + 8].copy_from_slice(&(count as u64).to_le_bytes());
    }

    fn counted_bytes(&self, begin: Mark) -> usize {
        self.bytes.len() - begin.bytes - 8
    }

    fn end_map(&mut self, begin: Mark, entries: &mut Vec<Mark>) {
        self.end_counted(begin, entries.len());
        if entries.len() < 2 {
            return;
        }
        entries.push(self.mark());
        if self.nulls.len() == begin.nulls {
            self.sort_bytes(entries);
        } else {
            self.sort_with_nulls(entries);
        }
    }
}

/// Looks at options only: an encoding that is not kept.
#[derive(Debug, Default)]
pub(crate) struct Unkept {
    bytes: usize,
    nulls: usize,
    last: Option<Null>,
}

impl Sink for Unkept {
    #[inline]
    fn put_byte(&mut self, _: u8) {
        self.bytes += 1;
    }

    #[inline]
    fn put_word(&mut self, _: u64) {
        self.bytes += 8;
    }

    #[inline]
    fn put_float(&mut self, _: f64) {
        self.bytes += 8;
    }

    #[inline]
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.bytes += 8 + bytes.len();
    }

    #[inline]
    fn put_raw(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    #[inline]
    fn put_null(&mut self, depth: u16) {
        self.nulls += 1;
        self.last = Some(Null::new(self.bytes, depth));
    }

    #[inline]
    fn mark(&self) -> Mark {
        Mark {
            bytes: self.bytes,
            nulls: self.nulls,
        }
    }

    #[inline]
    fn is_null_since(&self, mark: Mark, depth: u16) -> bool {
        self.bytes == mark.bytes
            && self.nulls == mark.nulls + 1
            && self.last == Some(Null::new(mark.bytes, depth))
    }

    #[inline]
    fn end_counted(&mut self, _: Mark, _: usize) {}

    #[inline]
    fn counted_bytes(&self, begin: Mark) -> usize {
        self.bytes - begin.bytes - 8
    }

    #[inline]
    fn end_map(&mut self, _: Mark, _: &mut Vec<Mark>) {}
}
