//! About how many bytes a row owns on the heap, told by what it serializes to.
//!
//! Rust has no way to ask a value for its heap. What serializes as text, as bytes, or as a sequence or map of any
//! length must own it; numbers, structs and tuples lie in the row itself, unless a sequence or map holds them. For
//! strings, vectors and maps of such the estimate is right but for spare capacity, what a map's nodes leave empty, and
//! how an allocator rounds. A `Box` counts nothing, an `Rc` once for each owner, a type that serializes as
//! something else than it holds (a date as text) by what it serializes as.

use std::fmt;

use serde::ser::{self, Serialize};

/// What an allocator adds to each allocation, about.
const ALLOCATION_BYTES: usize = 16;

/// The header of a string or vector in the memory of what holds it.
const HEADER_BYTES: usize = size_of::<Vec<u8>>();

/// About the bytes that `value` owns on the heap; 0 for what cannot be serialized.
pub(crate) fn heap_bytes<T: Serialize>(value: &T) -> usize {
    let mut estimate = Estimate { heap: 0, owned: 0 };
    match value.serialize(&mut estimate) {
        Ok(()) => estimate.heap,
        Err(Unserializable) => 0,
    }
}

/// One row of so many has its heap estimated.
const SAMPLE_STEP: usize = 16;

/// About the bytes that all of these own on the heap, from what `heap_of` says of a few.
pub(super) fn sampled<'a, D: 'a>(
    heap_of: fn(&D) -> usize,
    rows: impl ExactSizeIterator<Item = &'a D>,
) -> usize {
    let len = rows.len();
    let (sampled, sum) = rows
        .step_by(SAMPLE_STEP)
        .fold((0, 0usize), |(sampled, sum), data| {
            (sampled + 1, sum.saturating_add(heap_of(data)))
        });
    sum.saturating_mul(len) / sampled.max(1)
}

struct Estimate {
    heap: usize,
    /// How many sequences and maps are open: what lies in one lies on the heap.
    owned: usize,
}

impl Estimate {
    fn fixed(&mut self, bytes: usize) {
        if self.owned > 0 {
            self.heap += bytes;
        }
    }

    fn owning(&mut self, bytes: usize) {
        self.fixed(HEADER_BYTES);
        if bytes > 0 {
            self.heap += bytes + ALLOCATION_BYTES;
        }
    }

    fn open(&mut self) -> &mut Self {
        self.fixed(HEADER_BYTES);
        self.heap += ALLOCATION_BYTES;
        self.owned += 1;
        self
    }
}

#[derive(Debug)]
struct Unserializable;

impl fmt::Display for Unserializable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value cannot be serialized")
    }
}

impl std::error::Error for Unserializable {}

impl ser::Error for Unserializable {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Unserializable
    }
}

type Done = Result<(), Unserializable>;

macro_rules! fixed {
    ($($method:ident: $of:ty),*) => {$(
        fn $method(self, _: $of) -> Done {
            self.fixed(size_of::<$of>());
            Ok(())
        }
    )*};
}

impl ser::Serializer for &mut Estimate {
    type Ok = ();
    type Error = Unserializable;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fixed! {
        serialize_bool: bool, serialize_char: char,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_f32: f32, serialize_f64: f64
    }

    fn serialize_str(self, text: &str) -> Done {
        self.owning(text.len());
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Done {
        self.owning(bytes.len());
        Ok(())
    }

    fn serialize_none(self) -> Done {
        self.fixed(size_of::<u64>());
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Done {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Done {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Done {
        self.fixed(1);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Done {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Unserializable> {
        Ok(self.open())
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Unserializable> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Unserializable> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Unserializable> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Unserializable> {
        Ok(self.open())
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Unserializable> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Unserializable> {
        Ok(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl ser::SerializeSeq for &mut Estimate {
    type Ok = ();
    type Error = Unserializable;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(&mut **self)
    }

    fn end(self) -> Done {
        self.owned -= 1;
        Ok(())
    }
}

impl ser::SerializeMap for &mut Estimate {
    type Ok = ();
    type Error = Unserializable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(&mut **self)
    }

    fn end(self) -> Done {
        self.owned -= 1;
        Ok(())
    }
}

macro_rules! in_place {
    ($($of:ident: $method:ident),*) => {$(
        impl ser::$of for &mut Estimate {
            type Ok = ();
            type Error = Unserializable;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
                value.serialize(&mut **self)
            }

            fn end(self) -> Done {
                Ok(())
            }
        }
    )*};
}

in_place! {
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
}

macro_rules! named_in_place {
    ($($of:ident),*) => {$(
        impl ser::$of for &mut Estimate {
            type Ok = ();
            type Error = Unserializable;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Done {
                value.serialize(&mut **self)
            }

            fn end(self) -> Done {
                Ok(())
            }
        }
    )*};
}

named_in_place!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_lies_in_the_row_is_not_counted_and_what_it_owns_is() {
        assert_eq!(heap_bytes(&(1u64, 2u64, [3u8; 4], Some(1.5))), 0);
        assert_eq!(heap_bytes(&(1u64, String::new())), 0);
        let string = "x".repeat(40);
        assert_eq!(heap_bytes(&(1u64, string.clone(), 2u64)), 40 + 16);
        assert_eq!(heap_bytes(&Some(string.clone())), 40 + 16);
        assert_eq!(heap_bytes(&vec![1u64; 10]), 80 + 16);
        // Ten headers and a common allocation, and one allocation each.
        let strings = vec![string; 10];
        assert_eq!(heap_bytes(&strings), 16 + 10 * (24 + 40 + 16));
        assert_eq!(heap_bytes(&BTreeMap::from([(1u32, 2u64)])), 16 + 12);
    }
}
