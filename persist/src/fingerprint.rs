//! Fingerprints: a 128-bit hash of a row, of a value of serde's data model or of columns of Arrow's alike.
//!
//! ```text
//!   hash_data(x)  = XXH3-128(encoding(x),    seed of data)          a seed has the format version and the domain
//!   hash_error(e) = XXH3-128(JSON text of e, seed of errors)        the text that `mv_error` holds
//! ```
//!
//! # The encoding
//!
//! It is canonical, and made so that whoever has the columns of a row, and not its type, comes to the same bytes:
//! the width of integers and what may be null cannot be told from a table.
//!
//! | serde | bytes |
//! |---|---|
//! | integers up to 64 bits, `char` | 8, little endian, two's complement: the width does not matter |
//! | 128-bit integers | 16 |
//! | floats | 8, as `f64`; every NaN is one NaN, −0.0 is 0.0 |
//! | `bool` | 1 |
//! | string, bytes | length in 8, then the bytes |
//! | unit variant | its name as a string, which is how it is stored |
//! | other variant | its name as a string, then its content |
//! | `Some(v)` | as `v` |
//! | `None`, a skipped field | none; it is listed after the row |
//! | sequence | length in 8, then the elements |
//! | map | length in 8, then the entries in the order of their bytes |
//! | struct, tuple | the fields in order, without names; newtypes add nothing |
//! | what has no content: unit, a struct without fields | 1, zero |
//!
//! A *null* is listed as (offset in the bytes, depth). The depth is how many structs, tuples, sequences, maps
//! it lies in; a row that is none of a struct and a tuple is stored in one column, so it is encoded like the
//! record of that column, and its depth is 1. Nulls of depth 1 at the very end are not listed: a table that
//! gets a new column at its end keeps its fingerprints. A row that lists nulls has a seed of its own, and the
//! list's length at its end tells where the row ends.
//!
//! What the codec is given columns for by hand may be stored in another form than it serialises in: a map as a
//! record, a number as a timestamp. Columns of dates, timestamps and decimals are encoded as text, `2024-02-29`,
//! `2024-02-29T12:00:00.5Z`, `-1.50`. The fingerprint of such a column is not that of the value, so a reader that
//! compares the two has to look at the rows themselves, which costs time and nothing else.
//!
//! # Equal encodings are equal rows
//!
//! The encoding is injective on the values of one type. (Kinds are not tagged, since the type tells them; only an
//! untagged enum could confuse, say, 0 with the empty string.) Read it back with the type in hand; all but
//! options is told by the type and the lengths. At an option of depth `d`, with `p` bytes read:
//!
//! - *None* has listed `(p, d)`, unless it was at the end and is not listed.
//! - *Some(v)*: every value that is not null itself has at least one byte, or a null of a depth beyond `d`: this
//!   is why what is empty has a byte, and why `Some(None)` is refused (no column can hold it). If `v` begins with
//!   a byte, nulls that follow have offsets beyond `p`; if with a null, it is `(p, d')`, `d' > d`.
//!
//! So the option is none if the next null is `(p, d)`, or if `d` is 1 and neither bytes nor nulls are left.
//!
//! # The format
//!
//! Key and bucket count follow from the format version alone: whoever routes knows them without opening a
//! shard. Changing anything here is a new format version; the golden values in the tests say so.

mod canonical;
mod serializer;

use std::cell::Cell;

use serde::ser::Serialize;

use canonical::Unkept;
pub(crate) use canonical::{Canonical, Domain, Sink, canonical_float, digest};

use crate::error::Error;
use crate::json;
use serializer::Encoder;

/// The number of buckets that rows are routed and summed by.
pub const BUCKETS: usize = 256;

/// The version of the encoding and of the bucket count; part of every hash.
pub(crate) const VERSION: u64 = 1;

/// A buffer that one huge row has grown beyond this is not kept for the next.
const KEPT_BYTES_MAX: usize = 1 << 20;

thread_local! {
    /// Reused by all rows that this thread hashes. Taken out while in use, so that a `Serialize` that itself
    /// hashes finds an empty one.
    static BUFFER: Cell<Canonical> = const { Cell::new(Canonical::new()) };
}

/// The fingerprint of a row of data.
///
/// # Errors
///
/// [`Error::Type`] if the row's own `Serialize` fails, or if it holds `Some(None)`.
#[inline]
pub fn hash_data<D: Serialize + ?Sized>(data: &D) -> Result<u128, Error> {
    let mut row = BUFFER.take();
    row.clear();
    let mut encoder = Encoder::new(row);
    let hash = match data.serialize(&mut encoder) {
        Ok(()) => Ok(encoder.row.digest(Domain::Data)),
        Err(failure) => Err(failure.into_error(std::any::type_name::<D>())),
    };
    if encoder.row.capacity() <= KEPT_BYTES_MAX {
        BUFFER.set(encoder.row);
    }
    hash
}

/// Refuses what [`hash_data`] does: no column can hold it. Cheaper by far.
#[inline]
pub(crate) fn check_options<D: Serialize + ?Sized>(data: &D) -> Result<(), Error> {
    let checked = data.serialize(&mut Encoder::new(Unkept::default()));
    checked.map_err(|failure| failure.into_error(std::any::type_name::<D>()))
}

/// The fingerprint of an error row; differs from that of the same value as data.
///
/// # Errors
///
/// [`Error::Type`] if the error has no form in JSON.
pub fn hash_error<E: Serialize + ?Sized>(error: &E) -> Result<u128, Error> {
    let text = json::to_text(error).map_err(|cause| Error::Type {
        type_name: std::any::type_name::<E>().to_owned(),
        why: format!("it has no JSON form: {cause}"),
    })?;
    let mut row = Canonical::new();
    row.put_raw(text.as_bytes());
    Ok(row.digest(Domain::Error))
}

/// The bucket of a fingerprint: its top bits. Always below [`BUCKETS`].
#[inline]
pub fn bucket(hash: u128) -> u8 {
    (hash >> 120) as u8
}
