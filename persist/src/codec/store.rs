//! Values on their way into columns: each as its [`Form`] says, whatever takes it, columns or fingerprints.
//!
//! A date, a timestamp or a decimal goes on as the one text that it has in its column, so that the fingerprint of a
//! row is that of its columns however the row says it: `1.5` and `1.50`, a moment in another zone.

mod one;

use std::cell::{Cell, RefCell};
use std::fmt::Display;

use serde::ser::{
    Error as _, Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple,
    SerializeTupleStruct, Serializer,
};

use self::one::{Byte, Key};
use super::form::{Form, Path};
use super::text;

/// What is noticed on the way.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Records came in another order than their columns, or as maps: what was put is in that order.
    pub(super) reordered: Cell<bool>,
    /// A digest of the zones of timestamps that are not UTC, 0 if all are.
    pub(super) zones: Cell<u64>,
    /// The column that a value did not fit, and why.
    pub(super) unfit: RefCell<Option<(String, String)>>,
}

/// A value to be stored in a form.
pub(super) struct Stored<'a, T: ?Sized> {
    pub(super) value: &'a T,
    pub(super) form: &'a Form,
    pub(super) path: &'a Path<'a>,
    pub(super) notes: &'a Notes,
}

impl<T: Serialize + ?Sized> Serialize for Stored<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self.form == Form::Plain {
            return self.value.serialize(serializer);
        }
        self.value.serialize(Into {
            to: serializer,
            form: self.form,
            path: self.path,
            notes: self.notes,
        })
    }
}

/// Passes one value on to `to` in its form.
struct Into<'a, S> {
    to: S,
    form: &'a Form,
    path: &'a Path<'a>,
    notes: &'a Notes,
}

impl<'a, S: Serializer> Into<'a, S> {
    #[cold]
    fn unfit(&self, why: impl Display) -> S::Error {
        let (path, why) = (self.path.show(), why.to_string());
        let error = S::Error::custom(format_args!("column `{path}`: {why}"));
        self.notes.unfit.replace(Some((path, why)));
        error
    }

    #[cold]
    fn is_no(&self, what: &str) -> S::Error {
        let wanted = match self.form {
            Form::Date => "a date",
            Form::Timestamp { .. } => "a timestamp",
            Form::Decimal { .. } => "a decimal",
            Form::Char => "a character",
            Form::Bytes => "bytes",
            Form::Uuid => "a UUID",
            Form::Record(_) => "a record",
            Form::List(_) => "a list",
            Form::Map(_) => "a map",
            Form::Plain => "something else",
        };
        self.unfit(format_args!("{what} where there must be {wanted}"))
    }

    fn put_text(
        self,
        make: impl FnOnce(&mut String) -> Result<(), String>,
    ) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(40);
        match make(&mut text) {
            Ok(()) => self.to.serialize_str(&text),
            Err(why) => Err(self.unfit(why)),
        }
    }

    fn text(self, value: &str) -> Result<S::Ok, S::Error> {
        let notes = self.notes;
        match *self.form {
            Form::Date => self.put_text(|out| {
                text::format_date(text::parse_date(value)?, out);
                Ok(())
            }),
            Form::Timestamp { .. } => self.put_text(|out| {
                let moment = text::parse_timestamp(value)?;
                if moment.offset != 0 {
                    let zones = notes.zones.get().wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    notes
                        .zones
                        .set(zones ^ (moment.offset as u64).wrapping_add(1 << 32));
                }
                text::format_timestamp(moment.micros, true, out);
                Ok(())
            }),
            Form::Decimal {
                precision, scale, ..
            } => self.put_text(|out| {
                let value = text::parse_decimal(value, precision, scale)?;
                text::format_decimal(value, scale, out);
                Ok(())
            }),
            Form::Uuid => match text::parse_uuid(value) {
                Ok(bytes) => self.to.serialize_bytes(&bytes),
                Err(why) => Err(self.unfit(why)),
            },
            Form::Char | Form::Plain => self.to.serialize_str(value),
            Form::Bytes | Form::Record(_) | Form::List(_) | Form::Map(_) => Err(self.is_no("text")),
        }
    }

    fn integer(
        self,
        value: i128,
        plain: impl FnOnce(S) -> Result<S::Ok, S::Error>,
    ) -> Result<S::Ok, S::Error> {
        match *self.form {
            Form::Date => self.put_text(|out| {
                let days = i64::try_from(value).map_err(|_| "the date is out of range")?;
                text::format_date(text::check_days(days)?, out);
                Ok(())
            }),
            Form::Timestamp { .. } => self.put_text(|out| {
                let micros = i64::try_from(value).map_err(|_| "the timestamp is out of range")?;
                text::format_timestamp(text::check_micros(micros)?, true, out);
                Ok(())
            }),
            Form::Decimal {
                precision, scale, ..
            } => self.put_text(|out| {
                let value = text::parse_decimal(&value.to_string(), precision, scale)?;
                text::format_decimal(value, scale, out);
                Ok(())
            }),
            _ => plain(self.to),
        }
    }
}

macro_rules! integers {
    ($($method:ident: $ty:ty),* $(,)?) => {
        $(fn $method(self, value: $ty) -> Result<S::Ok, S::Error> {
            self.integer(i128::from(value), |to| to.$method(value))
        })*
    };
}

impl<'a, S: Serializer> Serializer for Into<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Items<'a, S::SerializeSeq>;
    type SerializeTuple = Tuple<'a, S>;
    type SerializeTupleStruct = Fields<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Impossible<S::Ok, S::Error>;
    type SerializeMap = Entries<'a, S::SerializeMap>;
    type SerializeStruct = Fields<'a, S::SerializeStruct>;
    type SerializeStructVariant = Impossible<S::Ok, S::Error>;

    integers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
    }

    fn serialize_u128(self, value: u128) -> Result<S::Ok, S::Error> {
        match self.form {
            Form::Decimal { .. } => self.text(&value.to_string()),
            _ => self.to.serialize_u128(value),
        }
    }

    fn serialize_bool(self, value: bool) -> Result<S::Ok, S::Error> {
        self.to.serialize_bool(value)
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        match self.form {
            Form::Date | Form::Timestamp { .. } | Form::Decimal { .. } => {
                Err(self.is_no("a float"))
            }
            _ => self.to.serialize_f64(value),
        }
    }

    fn serialize_char(self, value: char) -> Result<S::Ok, S::Error> {
        match self.form {
            Form::Char => self.to.serialize_str(value.encode_utf8(&mut [0; 4])),
            _ => self.to.serialize_char(value),
        }
    }

    fn serialize_str(self, value: &str) -> Result<S::Ok, S::Error> {
        self.text(value)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.text(&value.to_string())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<S::Ok, S::Error> {
        self.to.serialize_bytes(value)
    }

    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.to.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.to.serialize_some(&Stored {
            value,
            form: self.form,
            path: self.path,
            notes: self.notes,
        })
    }

    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.to.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.to.serialize_unit_struct(name)
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.to.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.to.serialize_newtype_struct(
            name,
            &Stored {
                value,
                form: self.form,
                path: self.path,
                notes: self.notes,
            },
        )
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<S::Ok, S::Error> {
        Err(self.is_no("a variant with data"))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        if !matches!(self.form, Form::List(_) | Form::Plain) {
            return Err(self.is_no("a list"));
        }
        Ok(Items {
            to: self.to.serialize_seq(len)?,
            form: self.form.item(),
            path: self.path,
            notes: self.notes,
        })
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        if *self.form == Form::Bytes {
            return Ok(Tuple::Bytes(Vec::with_capacity(len), self.to));
        }
        if !matches!(self.form, Form::Record(_)) {
            return Err(self.is_no("a tuple"));
        }
        Ok(Tuple::Fields(Fields {
            to: self.to.serialize_tuple(len)?,
            form: self.form,
            path: self.path,
            notes: self.notes,
            next: 0,
        }))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        if !matches!(self.form, Form::Record(_)) {
            return Err(self.is_no("a tuple"));
        }
        Ok(Fields {
            to: self.to.serialize_tuple_struct(name, len)?,
            form: self.form,
            path: self.path,
            notes: self.notes,
            next: 0,
        })
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        Err(self.is_no("a variant with data"))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        if !matches!(self.form, Form::Record(_) | Form::Map(_)) {
            return Err(self.is_no("a map"));
        }
        if matches!(self.form, Form::Record(_)) {
            self.notes.reordered.set(true);
        }
        Ok(Entries {
            to: self.to.serialize_map(len)?,
            form: self.form,
            path: self.path,
            notes: self.notes,
            key: String::new(),
        })
    }

    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStruct, S::Error> {
        if !matches!(self.form, Form::Record(_)) {
            return Err(self.is_no("a record"));
        }
        Ok(Fields {
            to: self.to.serialize_struct(name, len)?,
            form: self.form,
            path: self.path,
            notes: self.notes,
            next: 0,
        })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        Err(self.is_no("a variant with data"))
    }

    fn is_human_readable(&self) -> bool {
        self.to.is_human_readable()
    }
}

/// The items of a list.
pub(super) struct Items<'a, S> {
    to: S,
    form: &'a Form,
    path: &'a Path<'a>,
    notes: &'a Notes,
}

impl<S: SerializeSeq> SerializeSeq for Items<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        self.to.serialize_element(&Stored {
            value,
            form: self.form,
            path: &self.path.field("element"),
            notes: self.notes,
        })
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.to.end()
    }
}

/// The fields of a record.
pub(super) struct Fields<'a, S> {
    to: S,
    form: &'a Form,
    path: &'a Path<'a>,
    notes: &'a Notes,
    next: usize,
}

impl<S> Fields<'_, S> {
    fn ended(&self) {
        if self.form.len().is_some_and(|len| len != self.next) {
            self.notes.reordered.set(true);
        }
    }
}

impl<S: SerializeTupleStruct> SerializeTupleStruct for Fields<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let next = self.next;
        self.next += 1;
        self.to.serialize_field(&Stored {
            value,
            form: self.form.field(next, None),
            path: &self.path.place(next),
            notes: self.notes,
        })
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.ended();
        self.to.end()
    }
}

impl<S: SerializeStruct> SerializeStruct for Fields<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), S::Error> {
        let next = self.next;
        self.next += 1;
        if self.form.differs_at(next, name) {
            self.notes.reordered.set(true);
        }
        self.to.serialize_field(
            name,
            &Stored {
                value,
                form: self.form.field(next, Some(name)),
                path: &self.path.field(name),
                notes: self.notes,
            },
        )
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), S::Error> {
        if self.form.differs_at(self.next, name) {
            self.notes.reordered.set(true);
        }
        self.next += 1;
        self.to.skip_field(name)
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.ended();
        self.to.end()
    }
}

/// What serialises as a tuple.
pub(super) enum Tuple<'a, S: Serializer> {
    Fields(Fields<'a, S::SerializeTuple>),
    Bytes(Vec<u8>, S),
}

impl<S: Serializer> SerializeTuple for Tuple<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        match self {
            Tuple::Fields(fields) => {
                let next = fields.next;
                fields.next += 1;
                fields.to.serialize_element(&Stored {
                    value,
                    form: fields.form.field(next, None),
                    path: &fields.path.place(next),
                    notes: fields.notes,
                })
            }
            Tuple::Bytes(bytes, _) => {
                let byte = value.serialize(Byte).map_err(S::Error::custom)?;
                bytes.push(byte);
                Ok(())
            }
        }
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        match self {
            Tuple::Fields(fields) => {
                fields.ended();
                fields.to.end()
            }
            Tuple::Bytes(bytes, to) => to.serialize_bytes(&bytes),
        }
    }
}

/// The entries of a map, or of a record that is one.
pub(super) struct Entries<'a, S> {
    to: S,
    form: &'a Form,
    path: &'a Path<'a>,
    notes: &'a Notes,
    /// The last, if it names a column.
    key: String,
}

impl<S: SerializeMap> SerializeMap for Entries<'_, S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), S::Error> {
        if matches!(self.form, Form::Record(_)) {
            self.key = key.serialize(Key).map_err(S::Error::custom)?;
            return self.to.serialize_key(key);
        }
        self.to.serialize_key(&Stored {
            value: key,
            form: self.form.entry().0,
            path: &self.path.field("key"),
            notes: self.notes,
        })
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), S::Error> {
        let (form, name) = match self.form {
            Form::Record(_) => (self.form.field(usize::MAX, Some(&self.key)), &*self.key),
            _ => (self.form.entry().1, "value"),
        };
        self.to.serialize_value(&Stored {
            value,
            form,
            path: &self.path.field(name),
            notes: self.notes,
        })
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.to.end()
    }
}
