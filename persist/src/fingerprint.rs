//! Fingerprints: a 128-bit hash of a row, over the serde data model.
//!
//! ```text
//!   hash(x) = XXH3-128(encoding(x), seed),   seed = (format version, ok | err)
//! ```
//!
//! The encoding is canonical, and injective on the values of one type: two rows have the same bytes exactly if
//! their serialised forms agree. (Kinds are not tagged, since the type tells them; only an untagged enum could
//! confuse, say, 0 with the empty string.) So `x == y ⇒ hash(x) == hash(y)`, and since what the codec stores decodes to a
//! value of the same type that serialises alike, `hash(decode(encode(x))) == hash(x)`.
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
//! | option | 0, or 1 and the value |
//! | sequence | length in 8, then the elements |
//! | map | length in 8, then the entries in the order of their bytes |
//! | struct, tuple | the fields in order, without names; newtypes and units add nothing |
//!
//! Fields that a `Serialize` skips are listed after the row, and the hash is then of another domain, so that the
//! usual row pays nothing for them.
//!
//! Key and bucket count follow from the format version alone: whoever routes knows them without opening a
//! shard. Changing anything here is a new format version; the golden values in the tests say so.

use std::cell::Cell;
use std::fmt;

use serde::ser::{self, Serialize};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::error::Error;

/// The number of buckets that rows are routed and summed by.
pub const BUCKETS: usize = 256;

/// The version of the encoding and of the bucket count; part of every hash.
const FORMAT: u64 = 1;

const OK: u64 = 0;
const ERR: u64 = 1;
/// Added to the domain of a row with skipped fields.
const WITH_SKIPS: u64 = 2;

/// A buffer that one huge row has grown beyond this is not kept for the next.
const KEPT_BYTES_MAX: usize = 1 << 20;

thread_local! {
    /// Reused by all rows that this thread hashes. Taken out while in use, so that a `Serialize` that itself
    /// hashes finds an empty one.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The fingerprint of a row of data.
///
/// # Errors
///
/// [`Error::Type`] if the row's own `Serialize` fails.
#[inline]
pub fn hash_data<D: Serialize + ?Sized>(data: &D) -> Result<u128, Error> {
    hash(data, OK)
}

/// The fingerprint of an error row; differs from that of the same value as data.
///
/// # Errors
///
/// [`Error::Type`] if the error's own `Serialize` fails.
#[inline]
pub fn hash_error<E: Serialize + ?Sized>(error: &E) -> Result<u128, Error> {
    hash(error, ERR)
}

/// The bucket of a fingerprint: its top bits. Always below [`BUCKETS`].
#[inline]
pub fn bucket(hash: u128) -> u8 {
    (hash >> 120) as u8
}

#[inline]
fn hash<V: Serialize + ?Sized>(value: &V, domain: u64) -> Result<u128, Error> {
    let mut encoder = Encoder {
        bytes: BUFFER.take(),
        skipped: Vec::new(),
    };
    encoder.bytes.clear();
    let hash = match value.serialize(&mut encoder) {
        Ok(()) => Ok(encoder.digest(domain)),
        Err(failure) => Err(failure.into_error(std::any::type_name::<V>())),
    };
    if encoder.bytes.capacity() <= KEPT_BYTES_MAX {
        BUFFER.set(encoder.bytes);
    }
    hash
}

/// Writes the encoding of a row.
struct Encoder {
    bytes: Vec<u8>,
    /// Where fields were skipped: offset, length of the name, name. Empty for almost every type.
    skipped: Vec<u8>,
}

impl Encoder {
    #[inline]
    fn digest(&mut self, domain: u64) -> u128 {
        let seed = (FORMAT << 8) | domain;
        if self.skipped.is_empty() {
            return xxh3_128_with_seed(&self.bytes, seed);
        }
        // Read backwards, the length delimits the list of skips, which in turn delimits the row.
        let length = self.skipped.len() as u64;
        self.bytes.append(&mut self.skipped);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        xxh3_128_with_seed(&self.bytes, seed | WITH_SKIPS)
    }

    #[inline]
    fn put_word(&mut self, word: u64) {
        self.bytes.extend_from_slice(&word.to_le_bytes());
    }

    #[inline]
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.bytes.reserve(8 + bytes.len());
        self.put_word(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// Room for a length that is known only later; returns where.
    #[inline]
    fn begin_counted(&mut self) -> usize {
        let start = self.bytes.len();
        self.put_word(0);
        start
    }

    #[inline]
    fn end_counted(&mut self, start: usize, count: u64) {
        self.bytes[start..start + 8].copy_from_slice(&count.to_le_bytes());
    }

    #[cold]
    fn skip(&mut self, name: &str) {
        let offset = self.bytes.len() as u64;
        self.skipped.extend_from_slice(&offset.to_le_bytes());
        self.skipped
            .extend_from_slice(&(name.len() as u64).to_le_bytes());
        self.skipped.extend_from_slice(name.as_bytes());
    }
}

/// What a row's `Serialize` failed with.
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "one word, so that the usual result stays in a register"
)]
struct Failure(Box<String>);

impl Failure {
    #[cold]
    fn into_error(self, type_name: &str) -> Error {
        Error::Type {
            type_name: type_name.to_owned(),
            why: *self.0,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl ser::Error for Failure {
    #[cold]
    fn custom<M: fmt::Display>(message: M) -> Self {
        Failure(Box::new(message.to_string()))
    }
}

macro_rules! integers {
    ($($method:ident: $ty:ty),* $(,)?) => {
        $(
            #[inline]
            fn $method(self, value: $ty) -> Result<(), Failure> {
                self.put_word(i64::from(value) as u64);
                Ok(())
            }
        )*
    };
}

impl<'a> ser::Serializer for &'a mut Encoder {
    type Ok = ();
    type Error = Failure;
    type SerializeSeq = Sequence<'a>;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    integers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), Failure> {
        self.bytes.push(u8::from(value));
        Ok(())
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Result<(), Failure> {
        self.put_word(value);
        Ok(())
    }

    #[inline]
    fn serialize_i128(self, value: i128) -> Result<(), Failure> {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_u128(self, value: u128) -> Result<(), Failure> {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<(), Failure> {
        self.serialize_f64(f64::from(value))
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<(), Failure> {
        let canonical = if value.is_nan() {
            f64::NAN.to_bits() & !(1 << 63)
        } else if value == 0.0 {
            0
        } else {
            value.to_bits()
        };
        self.put_word(canonical);
        Ok(())
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result<(), Failure> {
        self.put_word(u64::from(u32::from(value)));
        Ok(())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Failure> {
        self.put_bytes(value.as_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<(), Failure> {
        self.put_bytes(value);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Failure> {
        self.bytes.push(0);
        Ok(())
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failure> {
        self.bytes.push(1);
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Failure> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Failure> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Failure> {
        self.serialize_str(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Failure> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Failure> {
        self.put_bytes(variant.as_bytes());
        value.serialize(self)
    }

    #[inline]
    fn serialize_seq(self, _: Option<usize>) -> Result<Sequence<'a>, Failure> {
        // Counted, not believed: the length that is announced is a hint only.
        let start = self.begin_counted();
        Ok(Sequence {
            encoder: self,
            start,
            count: 0,
        })
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Self, Failure> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Failure> {
        Ok(self)
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self, Failure> {
        self.put_bytes(variant.as_bytes());
        Ok(self)
    }

    #[inline]
    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a>, Failure> {
        let start = self.begin_counted();
        Ok(Entries {
            encoder: self,
            start,
            entries: Vec::new(),
        })
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Failure> {
        Ok(self)
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self, Failure> {
        self.put_bytes(variant.as_bytes());
        Ok(self)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<(), Failure> {
        use std::io::Write;
        let start = self.begin_counted();
        write!(self.bytes, "{value}").map_err(ser::Error::custom)?;
        let count = (self.bytes.len() - start - 8) as u64;
        self.end_counted(start, count);
        Ok(())
    }
}

/// A sequence whose elements are being counted.
struct Sequence<'a> {
    encoder: &'a mut Encoder,
    start: usize,
    count: u64,
}

impl ser::SerializeSeq for Sequence<'_> {
    type Ok = ();
    type Error = Failure;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        self.count += 1;
        value.serialize(&mut *self.encoder)
    }

    #[inline]
    fn end(self) -> Result<(), Failure> {
        self.encoder.end_counted(self.start, self.count);
        Ok(())
    }
}

/// A map whose entries are put in the order of their bytes at the end: a hash map has none of its own.
struct Entries<'a> {
    encoder: &'a mut Encoder,
    start: usize,
    /// Where each entry begins.
    entries: Vec<usize>,
}

impl ser::SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Failure;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failure> {
        self.entries.push(self.encoder.bytes.len());
        key.serialize(&mut *self.encoder)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        value.serialize(&mut *self.encoder)
    }

    fn end(self) -> Result<(), Failure> {
        let Entries {
            encoder,
            start,
            mut entries,
        } = self;
        let count = entries.len() as u64;
        let first = start + 8;
        entries.push(encoder.bytes.len());
        let bytes = &encoder.bytes;
        let mut slices: Vec<&[u8]> = entries
            .windows(2)
            .map(|pair| &bytes[pair[0]..pair[1]])
            .collect();
        if !slices.is_sorted() {
            slices.sort_unstable();
            let sorted = slices.concat();
            encoder.bytes.truncate(first);
            encoder.bytes.extend_from_slice(&sorted);
        }
        encoder.end_counted(start, count);
        Ok(())
    }
}

macro_rules! fields_in_order {
    ($($trait:ident :: $method:ident),* $(,)?) => {
        $(
            impl ser::$trait for &mut Encoder {
                type Ok = ();
                type Error = Failure;

                #[inline]
                fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
                    value.serialize(&mut **self)
                }

                #[inline]
                fn end(self) -> Result<(), Failure> {
                    Ok(())
                }
            }
        )*
    };
}

fields_in_order!(
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field,
);

macro_rules! named_fields_in_order {
    ($($trait:ident),* $(,)?) => {
        $(
            impl ser::$trait for &mut Encoder {
                type Ok = ();
                type Error = Failure;

                #[inline]
                fn serialize_field<T: Serialize + ?Sized>(
                    &mut self,
                    _: &'static str,
                    value: &T,
                ) -> Result<(), Failure> {
                    value.serialize(&mut **self)
                }

                fn skip_field(&mut self, name: &'static str) -> Result<(), Failure> {
                    self.skip(name);
                    Ok(())
                }

                #[inline]
                fn end(self) -> Result<(), Failure> {
                    Ok(())
                }
            }
        )*
    };
}

named_fields_in_order!(SerializeStruct, SerializeStructVariant);
