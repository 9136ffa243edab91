//! Serializers that take one value of one kind: a byte of an array, a key that names a column.

use std::fmt::Display;

use serde::ser::{Impossible, Serialize, Serializer};

/// Takes a byte.
pub(super) struct Byte;

/// Takes the name of a column.
pub(super) struct Key;

/// Something else than what is taken.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Other(String);

impl serde::ser::Error for Other {
    fn custom<T: Display>(message: T) -> Self {
        Other(message.to_string())
    }
}

macro_rules! refuse {
    ($what:literal: $($method:ident($($ty:ty),*) -> $out:ty;)*) => {
        $(fn $method(self, $(_: $ty),*) -> Result<$out, Other> {
            Err(Other($what.into()))
        })*
    };
}

macro_rules! takes_one {
    ($name:ident -> $out:ty, $what:literal, $($taken:item)*) => {
        impl Serializer for $name {
            type Ok = $out;
            type Error = Other;
            type SerializeSeq = Impossible<$out, Other>;
            type SerializeTuple = Impossible<$out, Other>;
            type SerializeTupleStruct = Impossible<$out, Other>;
            type SerializeTupleVariant = Impossible<$out, Other>;
            type SerializeMap = Impossible<$out, Other>;
            type SerializeStruct = Impossible<$out, Other>;
            type SerializeStructVariant = Impossible<$out, Other>;

            $($taken)*

            refuse! { $what:
                serialize_bool(bool) -> $out;
                serialize_i8(i8) -> $out;
                serialize_i16(i16) -> $out;
                serialize_i32(i32) -> $out;
                serialize_i64(i64) -> $out;
                serialize_u16(u16) -> $out;
                serialize_u32(u32) -> $out;
                serialize_u64(u64) -> $out;
                serialize_f32(f32) -> $out;
                serialize_f64(f64) -> $out;
                serialize_bytes(&[u8]) -> $out;
                serialize_none() -> $out;
                serialize_unit() -> $out;
                serialize_unit_struct(&'static str) -> $out;
                serialize_seq(Option<usize>) -> Self::SerializeSeq;
                serialize_tuple(usize) -> Self::SerializeTuple;
                serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
                serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
                serialize_map(Option<usize>) -> Self::SerializeMap;
                serialize_struct(&'static str, usize) -> Self::SerializeStruct;
                serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
            }

            fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<$out, Other> {
                Err(Other($what.into()))
            }

            fn serialize_newtype_struct<T: Serialize + ?Sized>(
                self,
                _: &'static str,
                value: &T,
            ) -> Result<$out, Other> {
                value.serialize(self)
            }

            fn serialize_newtype_variant<T: Serialize + ?Sized>(
                self,
                _: &'static str,
                _: u32,
                _: &'static str,
                _: &T,
            ) -> Result<$out, Other> {
                Err(Other($what.into()))
            }
        }
    };
}

takes_one! { Byte -> u8, "an array of bytes holds something else",
    fn serialize_u8(self, value: u8) -> Result<u8, Other> {
        Ok(value)
    }
    refuse! { "an array of bytes holds something else":
        serialize_str(&str) -> u8;
        serialize_char(char) -> u8;
        serialize_unit_variant(&'static str, u32, &'static str) -> u8;
    }
}

takes_one! { Key -> String, "a key that names a column must be a string",
    fn serialize_str(self, value: &str) -> Result<String, Other> {
        Ok(value.to_owned())
    }
    fn serialize_char(self, value: char) -> Result<String, Other> {
        Ok(value.to_string())
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<String, Other> {
        Ok(variant.to_owned())
    }
    refuse! { "a key that names a column must be a string":
        serialize_u8(u8) -> String;
    }
}
