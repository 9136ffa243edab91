//! What a type asks for while it is read, and what it is given.

use std::cell::RefCell;
use std::fmt::Display;

use arrow_schema::{DataType, Field, Fields};
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

use super::{Attempt, Part, TEXTS};
use crate::codec::form::{Form, Path};

/// A type that goes on within itself has no columns.
const DEPTH: usize = 64;
/// Arrays of bytes beyond this must be told by hand.
const BYTES: usize = 128;

/// Why a value that was made up is none.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

impl serde::de::Error for Refused {
    fn custom<T: Display>(message: T) -> Self {
        Refused(message.to_string())
    }
}

/// Gives a type what it asks for, and notes what that was.
pub(super) struct Asked<'a> {
    attempt: &'a RefCell<Attempt>,
    part: &'a mut Part,
    path: &'a Path<'a>,
    depth: usize,
}

impl<'a> Asked<'a> {
    /// For a whole type.
    pub(super) fn whole(attempt: &'a RefCell<Attempt>, part: &'a mut Part) -> Self {
        Asked {
            attempt,
            part,
            path: &Path::ROOT,
            depth: 0,
        }
    }

    /// What cannot be stored.
    fn problem(&self, why: impl Display) -> Refused {
        let path = self.path.show();
        let problem = format!("column `{path}`: {why}");
        self.attempt
            .borrow_mut()
            .problem
            .get_or_insert(problem.clone());
        Refused(problem)
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V, any: bool) -> Result<V::Value, Refused> {
        let choice = self.attempt.borrow_mut().choice(self.path, TEXTS.len());
        let (text, form) = &TEXTS[choice.min(TEXTS.len() - 1)];
        self.part.lies_as(form);
        let read = visitor.visit_str::<Refused>(text);
        if any && read.is_ok() && *form == Form::Plain {
            return Err(self.problem(
                "its type describes itself while being read, so its column is not known; give it by hand",
            ));
        }
        read
    }

    fn deeper(&self) -> Result<usize, Refused> {
        match self.depth < DEPTH {
            true => Ok(self.depth + 1),
            false => Err(self.problem("its type is recursive, and has no columns")),
        }
    }

    fn bytes<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let len = self.attempt.borrow_mut().choice(self.path, BYTES + 1);
        self.part.is(DataType::Binary);
        visitor.visit_bytes(&vec![0; len])
    }

    fn fields<'de, V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Refused> {
        let depth = self.deeper()?;
        let mut parts = Vec::with_capacity(len);
        let read = visitor.visit_seq(Elements {
            attempt: self.attempt,
            parts: &mut parts,
            path: self.path,
            depth,
            len,
            tuple: true,
        });
        let named = parts.into_iter().enumerate();
        let named = named.map(|(place, part)| (place.to_string(), part));
        self.part.record(named.collect(), true);
        read
    }
}

macro_rules! leaves {
    ($($method:ident -> $visit:ident($($value:expr)?): $data_type:ident),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            self.part.is(DataType::$data_type);
            visitor.$visit($($value)?)
        })*
    };
}

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Refused;

    leaves! {
        deserialize_bool -> visit_bool(false): Boolean,
        deserialize_i8 -> visit_i8(1): Int8,
        deserialize_i16 -> visit_i16(1): Int16,
        deserialize_i32 -> visit_i32(1): Int32,
        deserialize_i64 -> visit_i64(1): Int64,
        deserialize_u8 -> visit_u8(1): UInt8,
        deserialize_u16 -> visit_u16(1): UInt16,
        deserialize_u32 -> visit_u32(1): UInt32,
        deserialize_u64 -> visit_u64(1): UInt64,
        deserialize_f32 -> visit_f32(1.0): Float32,
        deserialize_f64 -> visit_f64(1.0): Float64,
        deserialize_unit -> visit_unit(): Null,
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.part.lies_as(&WIDE);
        visitor.visit_i128(1)
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.part.lies_as(&WIDE);
        visitor.visit_u128(1)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.text(visitor, true)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.text(visitor, false)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.text(visitor, false)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.text(visitor, false)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.part.lies_as(&Form::Char);
        self.part.reshaped = true;
        visitor.visit_char('a')
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.bytes(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let depth = self.deeper()?;
        let read = visitor.visit_some(Asked {
            depth,
            part: &mut *self.part,
            ..self
        });
        self.part.nullable = true;
        read
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let depth = self.deeper()?;
        let mut item = Vec::new();
        let read = visitor.visit_seq(Elements {
            attempt: self.attempt,
            parts: &mut item,
            path: self.path,
            depth,
            len: 1,
            tuple: false,
        });
        let item = item.pop().unwrap_or_default();
        self.part.reshaped = item.reshaped;
        self.part.is(DataType::List(item.field("element").into()));
        self.part.form = Form::List(Box::new(item.form));
        read
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        // To serde an array is a tuple; only its name tells them apart.
        if len > 0 && std::any::type_name::<V::Value>() == format!("[u8; {len}]") {
            self.part.lies_as(&Form::Bytes);
            self.part.reshaped = true;
            let bytes = std::iter::repeat_n(0_u8, len);
            return visitor.visit_seq(serde::de::value::SeqDeserializer::new(bytes));
        }
        self.fields(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.fields(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let depth = self.deeper()?;
        let (mut key, mut value) = (Part::default(), Part::default());
        let read = visitor.visit_map(Entry {
            attempt: self.attempt,
            parts: Some((&mut key, &mut value)),
            value: None,
            path: self.path,
            depth,
        });
        let entries = Fields::from(vec![key.field("key"), value.field("value")]);
        let entries = Field::new("key_value", DataType::Struct(entries), false);
        self.part.is(DataType::Map(entries.into(), false));
        self.part.reshaped = key.reshaped || value.reshaped;
        self.part.form = Form::Map(Box::new((key.form, value.form)));
        read
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let depth = self.deeper()?;
        let mut parts = Vec::with_capacity(fields.len());
        let read = visitor.visit_map(Named {
            attempt: self.attempt,
            parts: &mut parts,
            path: self.path,
            depth,
            fields,
        });
        self.part.record(parts, false);
        read
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.part.is(DataType::Utf8);
        if variants.is_empty() {
            return Err(self.problem("an enum without variants has no values"));
        }
        let choice = {
            let mut attempt = self.attempt.borrow_mut();
            let place = attempt.places.len();
            attempt.enums.push(place);
            attempt.choice(self.path, variants.len())
        };
        let variant = variants[choice.min(variants.len() - 1)];
        visitor.visit_enum(Variant {
            asked: self,
            variant,
        })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }
}

/// Integers of 128 bits, as far as a column holds them.
const WIDE: Form = Form::Decimal {
    precision: 38,
    scale: 0,
    trimmed: true,
};

/// The elements of a tuple, or the one of a list.
struct Elements<'a> {
    attempt: &'a RefCell<Attempt>,
    parts: &'a mut Vec<Part>,
    path: &'a Path<'a>,
    depth: usize,
    len: usize,
    tuple: bool,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refused> {
        let place = self.parts.len();
        if place == self.len {
            return Ok(None);
        }
        self.parts.push(Part::default());
        let path = match self.tuple {
            true => self.path.place(place),
            false => self.path.field("element"),
        };
        seed.deserialize(Asked {
            attempt: self.attempt,
            part: &mut self.parts[place],
            path: &path,
            depth: self.depth,
        })
        .map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.len - self.parts.len())
    }
}

/// The fields of a struct.
struct Named<'a> {
    attempt: &'a RefCell<Attempt>,
    parts: &'a mut Vec<(String, Part)>,
    path: &'a Path<'a>,
    depth: usize,
    fields: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Named<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refused> {
        match self.fields.get(self.parts.len()) {
            Some(name) => seed.deserialize(StrDeserializer::new(name)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refused> {
        let place = self.parts.len();
        let Some(name) = self.fields.get(place) else {
            return Err(Refused::custom("there is no such field"));
        };
        self.parts.push(((*name).to_owned(), Part::default()));
        seed.deserialize(Asked {
            attempt: self.attempt,
            part: &mut self.parts[place].1,
            path: &self.path.field(name),
            depth: self.depth,
        })
    }
}

/// The one entry of a map.
struct Entry<'a> {
    attempt: &'a RefCell<Attempt>,
    parts: Option<(&'a mut Part, &'a mut Part)>,
    value: Option<&'a mut Part>,
    path: &'a Path<'a>,
    depth: usize,
}

impl<'de> MapAccess<'de> for Entry<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refused> {
        let Some((key, value)) = self.parts.take() else {
            return Ok(None);
        };
        self.value = Some(value);
        seed.deserialize(Asked {
            attempt: self.attempt,
            part: key,
            path: &self.path.field("key"),
            depth: self.depth,
        })
        .map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refused> {
        let part = self.value.take();
        let part = part.ok_or_else(|| Refused::custom("there is no such entry"))?;
        seed.deserialize(Asked {
            attempt: self.attempt,
            part,
            path: &self.path.field("value"),
            depth: self.depth,
        })
    }
}

/// One variant of an enum.
struct Variant<'a> {
    asked: Asked<'a>,
    variant: &'static str,
}

impl<'a> Variant<'a> {
    fn with_data<T>(self) -> Result<T, Refused> {
        Err(self.asked.problem(
            "an enum whose variants carry data has no Delta type; use a struct of options",
        ))
    }
}

impl<'a, 'de> EnumAccess<'de> for Variant<'a> {
    type Error = Refused;
    type Variant = Variant<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Variant<'a>), Refused> {
        let variant = seed.deserialize(StrDeserializer::<Refused>::new(self.variant))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Refused> {
        self.with_data()
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Refused> {
        self.with_data()
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Refused> {
        self.with_data()
    }
}
