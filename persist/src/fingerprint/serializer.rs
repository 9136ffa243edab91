//! Serde's data model as canonical bytes.

use std::fmt;

use serde::ser::{self, Serialize};

use super::canonical::{Mark, Sink};
use crate::error::Error;

/// Writes the encoding of a row.
pub(super) struct Encoder<R> {
    pub(super) row: R,
    /// How many structs, tuples, sequences and maps are open. A row that is none is as if in one.
    depth: u16,
}

impl<R: Sink> Encoder<R> {
    /// An encoder into this, which is empty.
    #[inline]
    pub(super) fn new(row: R) -> Self {
        Encoder { row, depth: 0 }
    }

    /// Into a struct or a tuple: the row itself, if it is one.
    #[inline]
    fn open_fields<'a>(&'a mut self) -> Result<FieldsOf<'a, R>, Failure> {
        self.depth = deeper(self.depth)?;
        let begin = self.row.mark();
        Ok(FieldsOf {
            encoder: self,
            begin,
        })
    }

    /// Into something else: a row is never one by itself, but in a column.
    #[inline]
    fn open_value(&mut self) -> Result<(), Failure> {
        self.depth = deeper(self.depth.max(1))?;
        Ok(())
    }

    #[inline]
    fn close(&mut self) {
        self.depth -= 1;
    }
}

#[inline]
fn deeper(depth: u16) -> Result<u16, Failure> {
    depth
        .checked_add(1)
        .ok_or_else(|| ser::Error::custom("it is nested too deeply"))
}

/// What a row's `Serialize` failed with.
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "one word, so that the usual result stays in a register"
)]
pub(super) struct Failure(Box<String>);

impl Failure {
    #[cold]
    pub(super) fn into_error(self, type_name: &str) -> Error {
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
                self.row.put_integer(i64::from(value));
                Ok(())
            }
        )*
    };
}

impl<'a, R: Sink> ser::Serializer for &'a mut Encoder<R> {
    type Ok = ();
    type Error = Failure;
    type SerializeSeq = Sequence<'a, R>;
    type SerializeTuple = FieldsOf<'a, R>;
    type SerializeTupleStruct = FieldsOf<'a, R>;
    type SerializeTupleVariant = FieldsOf<'a, R>;
    type SerializeMap = Entries<'a, R>;
    type SerializeStruct = FieldsOf<'a, R>;
    type SerializeStructVariant = FieldsOf<'a, R>;

    integers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), Failure> {
        self.row.put_byte(u8::from(value));
        Ok(())
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Result<(), Failure> {
        self.row.put_word(value);
        Ok(())
    }

    #[inline]
    fn serialize_i128(self, value: i128) -> Result<(), Failure> {
        self.row.put_raw(&value.to_le_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_u128(self, value: u128) -> Result<(), Failure> {
        self.row.put_raw(&value.to_le_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<(), Failure> {
        self.serialize_f64(f64::from(value))
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<(), Failure> {
        self.row.put_float(value);
        Ok(())
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result<(), Failure> {
        self.row.put_word(u64::from(u32::from(value)));
        Ok(())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Failure> {
        self.row.put_bytes(value.as_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<(), Failure> {
        self.row.put_bytes(value);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Failure> {
        self.row.put_null(self.depth.max(1));
        Ok(())
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failure> {
        // What is in an option is no row of its own.
        self.depth = self.depth.max(1);
        let begin = self.row.mark();
        value.serialize(&mut *self)?;
        if self.row.is_null_since(begin, self.depth) {
            return Err(some_none());
        }
        Ok(())
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Failure> {
        self.row.put_byte(0);
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Failure> {
        self.row.put_byte(0);
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
        self.row.put_bytes(variant.as_bytes());
        value.serialize(self)
    }

    #[inline]
    fn serialize_seq(self, _: Option<usize>) -> Result<Sequence<'a, R>, Failure> {
        // Counted, not believed: the length that is announced is a hint only.
        self.open_value()?;
        let begin = self.row.begin_counted();
        Ok(Sequence {
            encoder: self,
            begin,
            count: 0,
        })
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<FieldsOf<'a, R>, Failure> {
        self.open_fields()
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<FieldsOf<'a, R>, Failure> {
        self.open_fields()
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<FieldsOf<'a, R>, Failure> {
        self.row.put_bytes(variant.as_bytes());
        self.depth = self.depth.max(1);
        self.open_fields()
    }

    #[inline]
    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a, R>, Failure> {
        self.open_value()?;
        let begin = self.row.begin_counted();
        Ok(Entries {
            encoder: self,
            begin,
            entries: Vec::new(),
        })
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<FieldsOf<'a, R>, Failure> {
        self.open_fields()
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<FieldsOf<'a, R>, Failure> {
        self.serialize_tuple_variant(name, index, variant, length)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<(), Failure> {
        let begin = self.row.begin_counted();
        fmt::Write::write_fmt(&mut Text(&mut self.row), format_args!("{value}"))
            .map_err(ser::Error::custom)?;
        let count = self.row.counted_bytes(begin);
        self.row.end_counted(begin, count);
        Ok(())
    }
}

#[cold]
fn some_none() -> Failure {
    ser::Error::custom("it holds Some(None), which no column can tell from None")
}

/// Text that is written piece by piece.
struct Text<'a, R>(&'a mut R);

impl<R: Sink> fmt::Write for Text<'_, R> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0.put_raw(piece.as_bytes());
        Ok(())
    }
}

/// A sequence whose elements are being counted.
pub(super) struct Sequence<'a, R> {
    encoder: &'a mut Encoder<R>,
    begin: Mark,
    count: usize,
}

impl<R: Sink> ser::SerializeSeq for Sequence<'_, R> {
    type Ok = ();
    type Error = Failure;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        self.count += 1;
        value.serialize(&mut *self.encoder)
    }

    #[inline]
    fn end(self) -> Result<(), Failure> {
        self.encoder.row.end_counted(self.begin, self.count);
        self.encoder.close();
        Ok(())
    }
}

/// A map whose entries are put in the order of their bytes at the end: a hash map has none of its own.
pub(super) struct Entries<'a, R> {
    encoder: &'a mut Encoder<R>,
    begin: Mark,
    /// Where each entry begins.
    entries: Vec<Mark>,
}

impl<R: Sink> ser::SerializeMap for Entries<'_, R> {
    type Ok = ();
    type Error = Failure;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failure> {
        self.entries.push(self.encoder.row.mark());
        key.serialize(&mut *self.encoder)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        value.serialize(&mut *self.encoder)
    }

    fn end(mut self) -> Result<(), Failure> {
        self.encoder.row.end_map(self.begin, &mut self.entries);
        self.encoder.close();
        Ok(())
    }
}

/// The fields of a struct, tuple or variant.
pub(super) struct FieldsOf<'a, R> {
    encoder: &'a mut Encoder<R>,
    begin: Mark,
}

impl<R: Sink> FieldsOf<'_, R> {
    #[inline]
    fn close(self) -> Result<(), Failure> {
        if self.encoder.row.mark() == self.begin {
            // Nothing at all would be taken for a null.
            self.encoder.row.put_byte(0);
        }
        self.encoder.close();
        Ok(())
    }
}

macro_rules! fields_in_order {
    ($($trait:ident :: $method:ident),* $(,)?) => {
        $(
            impl<R: Sink> ser::$trait for FieldsOf<'_, R> {
                type Ok = ();
                type Error = Failure;

                #[inline]
                fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
                    value.serialize(&mut *self.encoder)
                }

                #[inline]
                fn end(self) -> Result<(), Failure> {
                    self.close()
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
            impl<R: Sink> ser::$trait for FieldsOf<'_, R> {
                type Ok = ();
                type Error = Failure;

                #[inline]
                fn serialize_field<T: Serialize + ?Sized>(
                    &mut self,
                    _: &'static str,
                    value: &T,
                ) -> Result<(), Failure> {
                    value.serialize(&mut *self.encoder)
                }

                #[inline]
                fn skip_field(&mut self, _: &'static str) -> Result<(), Failure> {
                    self.encoder.row.put_null(self.encoder.depth);
                    Ok(())
                }

                #[inline]
                fn end(self) -> Result<(), Failure> {
                    self.close()
                }
            }
        )*
    };
}

named_fields_in_order!(SerializeStruct, SerializeStructVariant);
