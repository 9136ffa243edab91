//! Values on their way out of columns: each as the type reads it, from its [`Form`].

use std::fmt;

use serde::de::value::SeqDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Visitor,
};

use super::form::Form;
use super::text::format_uuid;

/// Takes one value from `from`, where it lies in a form.
pub(super) struct Loaded<'a, D> {
    pub(super) from: D,
    pub(super) form: &'a Form,
}

/// Text, whatever takes it.
struct Text;

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }
}

/// Bytes, whatever takes them.
struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Vec<u8>, E> {
        Ok(value.to_vec())
    }
}

impl<'de, D: Deserializer<'de>> Loaded<'_, D> {
    /// The text of a leaf as the type reads it.
    fn text(self) -> Result<String, D::Error> {
        if *self.form == Form::Uuid {
            let bytes = self.from.deserialize_bytes(Bytes)?;
            let text = format_uuid(&bytes);
            return text.ok_or_else(|| D::Error::custom("a UUID has 16 bytes"));
        }
        let mut text = self.from.deserialize_string(Text)?;
        match self.form {
            Form::Timestamp { zoned: false } => {
                text.truncate(text.trim_end_matches('Z').len());
            }
            Form::Decimal {
                scale: 1..,
                trimmed: true,
                ..
            } => text.truncate(text.trim_end_matches('0').trim_end_matches('.').len()),
            _ => {}
        }
        Ok(text)
    }

    fn is_text(&self) -> bool {
        matches!(
            self.form,
            Form::Date | Form::Timestamp { .. } | Form::Decimal { .. } | Form::Char | Form::Uuid
        )
    }

    fn number<N: std::str::FromStr>(self) -> Result<N, D::Error> {
        let text = self.text()?;
        text.parse()
            .map_err(|_| D::Error::custom(format_args!("{text} is no number of the type's")))
    }

    fn bytes<V: Visitor<'de>>(self, len: Option<usize>, visitor: V) -> Result<V::Value, D::Error> {
        let bytes = self.from.deserialize_bytes(Bytes)?;
        if let Some(len) = len.filter(|len| *len != bytes.len()) {
            let found = bytes.len();
            return Err(D::Error::custom(format_args!(
                "{found} bytes where there must be {len}"
            )));
        }
        visitor.visit_seq(SeqDeserializer::new(bytes.into_iter()))
    }
}

macro_rules! plainly {
    ($($method:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.from.$method(visitor)
        })*
    };
}

macro_rules! numbers {
    ($($method:ident -> $visit:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            match self.form {
                Form::Decimal { .. } => visitor.$visit(self.number()?),
                _ => self.from.$method(visitor),
            }
        })*
    };
}

impl<'a, 'de, D: Deserializer<'de>> Deserializer<'de> for Loaded<'a, D> {
    type Error = D::Error;

    plainly!(
        deserialize_bool,
        deserialize_f32,
        deserialize_f64,
        deserialize_bytes,
        deserialize_byte_buf,
        deserialize_unit,
        deserialize_identifier,
        deserialize_ignored_any
    );

    numbers!(
        deserialize_i8 -> visit_i8,
        deserialize_i16 -> visit_i16,
        deserialize_i32 -> visit_i32,
        deserialize_i64 -> visit_i64,
        deserialize_i128 -> visit_i128,
        deserialize_u8 -> visit_u8,
        deserialize_u16 -> visit_u16,
        deserialize_u32 -> visit_u32,
        deserialize_u64 -> visit_u64,
        deserialize_u128 -> visit_u128
    );

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        match self.form {
            _ if self.is_text() => visitor.visit_string(self.text()?),
            Form::Bytes => self.bytes(None, visitor),
            _ => self.from.deserialize_any(Nested::of(self.form, visitor)),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        match self.form {
            // A character's own visitor takes a string of one.
            Form::Char => visitor.visit_string(self.text()?),
            _ => self.from.deserialize_char(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        match self.is_text() {
            true => visitor.visit_string(self.text()?),
            false => self.from.deserialize_string(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.from.deserialize_option(Nested::of(self.form, visitor))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.from.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.from
            .deserialize_newtype_struct(name, Nested::of(self.form, visitor))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        match self.form {
            Form::Bytes => self.bytes(None, visitor),
            _ => self.from.deserialize_seq(Nested::of(self.form, visitor)),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        match self.form {
            Form::Bytes => self.bytes(Some(len), visitor),
            _ => self
                .from
                .deserialize_tuple(len, Nested::of(self.form, visitor)),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.from
            .deserialize_tuple_struct(name, len, Nested::of(self.form, visitor))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.from.deserialize_map(Nested::of(self.form, visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.from
            .deserialize_struct(name, fields, Nested::of(self.form, visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.from.deserialize_enum(name, variants, visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.from.is_human_readable()
    }
}

/// Takes what is in a value of a form, for a visitor that knows of none.
struct Nested<'a, V> {
    form: &'a Form,
    visitor: V,
}

impl<'a, V> Nested<'a, V> {
    fn of(form: &'a Form, visitor: V) -> Self {
        Nested { form, visitor }
    }
}

macro_rules! visits {
    ($($method:ident: $ty:ty),* $(,)?) => {
        $(fn $method<E: serde::de::Error>(self, value: $ty) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Nested<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visits! {
        visit_bool: bool, visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64, visit_i128: i128,
        visit_u8: u8, visit_u16: u16, visit_u32: u32, visit_u64: u64, visit_u128: u128,
        visit_f32: f32, visit_f64: f64, visit_char: char,
        visit_str: &str, visit_borrowed_str: &'de str, visit_string: String,
        visit_bytes: &[u8], visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>,
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        let form = self.form;
        self.visitor.visit_some(Loaded { from, form })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        let form = self.form;
        self.visitor.visit_newtype_struct(Loaded { from, form })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, from: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Parts::of(self.form, from))
    }

    fn visit_map<A: MapAccess<'de>>(self, from: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Parts::of(self.form, from))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, from: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(from)
    }
}

/// What is in a record, list or map, one after the other. A record's come in the order of its columns.
struct Parts<'a, A> {
    form: &'a Form,
    from: A,
    next: usize,
}

impl<'a, A> Parts<'a, A> {
    fn of(form: &'a Form, from: A) -> Self {
        Parts {
            form,
            from,
            next: 0,
        }
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Parts<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        let form = match self.form {
            Form::Record(_) => self.form.field(self.next, None),
            _ => self.form.item(),
        };
        self.next += 1;
        self.from.next_element_seed(Seed { form, seed })
    }

    fn size_hint(&self) -> Option<usize> {
        self.from.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Parts<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        match self.form {
            Form::Record(_) => self.from.next_key_seed(seed),
            _ => self.from.next_key_seed(Seed {
                form: self.form.entry().0,
                seed,
            }),
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        let form = match self.form {
            Form::Record(_) => self.form.field(self.next, None),
            _ => self.form.entry().1,
        };
        self.next += 1;
        self.from.next_value_seed(Seed { form, seed })
    }

    fn size_hint(&self) -> Option<usize> {
        self.from.size_hint()
    }
}

struct Seed<'a, S> {
    form: &'a Form,
    seed: S,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        if *self.form == Form::Plain {
            return self.seed.deserialize(from);
        }
        let form = self.form;
        self.seed.deserialize(Loaded { from, form })
    }
}
