//! Rows of every serde type that a column can hold, and how they are drawn.

use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Color {
    Red,
    #[serde(rename = "dark green")]
    Green,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Nested {
    pub small: u32,
    pub ratio: Option<f64>,
    pub pair: (u8, String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Id(pub u64);

/// Bytes that serialise as bytes, not as a list of numbers.
#[derive(Clone, Debug)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rich {
    pub signed: (i8, i16, i32, i64),
    pub byte: u8,
    pub short: u16,
    pub int: u32,
    pub long: Id,
    pub size: usize,
    pub single: f32,
    pub double: f64,
    pub flag: bool,
    pub letter: char,
    pub text: String,
    pub blob: Blob,
    pub maybe: Option<i64>,
    pub maybe_text: Option<String>,
    pub color: Color,
    pub maybe_color: Option<Color>,
    pub nested: Nested,
    pub maybe_nested: Option<Nested>,
    pub list: Vec<u16>,
    pub lists: Vec<Vec<Option<String>>>,
    pub structs: Vec<Nested>,
    pub array: [u8; 3],
    pub map: BTreeMap<String, Vec<Color>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparse: Option<u8>,
}

pub fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

pub fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        prop::num::f64::ANY,
        Just(f64::NAN),
        Just(-0.0),
        Just(f64::NEG_INFINITY)
    ]
}

pub fn unsigned() -> impl Strategy<Value = u64> {
    prop_oneof![0..=i64::MAX as u64, Just(i64::MAX as u64), 0..3u64]
}

pub fn color() -> impl Strategy<Value = Color> {
    prop_oneof![Just(Color::Red), Just(Color::Green)]
}

pub fn nested() -> impl Strategy<Value = Nested> {
    (any::<u32>(), prop::option::of(float()), any::<u8>(), text()).prop_map(
        |(small, ratio, a, b)| Nested {
            small,
            ratio,
            pair: (a, b),
        },
    )
}

pub fn rich() -> impl Strategy<Value = Rich> {
    let numbers = (
        any::<(i8, i16, i32, i64)>(),
        any::<(u8, u16, u32)>(),
        unsigned(),
        unsigned(),
        (prop::num::f32::ANY, float()),
        any::<(bool, char)>(),
    );
    let plain = (
        text(),
        prop::collection::vec(any::<u8>(), 0..9),
        any::<Option<i64>>(),
        prop::option::of(text()),
        color(),
        prop::option::of(color()),
        any::<Option<u8>>(),
    );
    let deep = (
        nested(),
        prop::option::of(nested()),
        prop::collection::vec(any::<u16>(), 0..4),
        prop::collection::vec(prop::collection::vec(prop::option::of(text()), 0..3), 0..3),
        prop::collection::vec(nested(), 0..3),
        any::<[u8; 3]>(),
        prop::collection::btree_map(text(), prop::collection::vec(color(), 0..3), 0..4),
    );
    (numbers, plain, deep).prop_map(|(numbers, plain, deep)| {
        let (signed, (byte, short, int), long, size, (single, double), (flag, letter)) = numbers;
        let (text, blob, maybe, maybe_text, color, maybe_color, sparse) = plain;
        let (nested, maybe_nested, list, lists, structs, array, map) = deep;
        let (long, size, blob) = (Id(long), size as usize, Blob(blob));
        Rich {
            signed,
            byte,
            short,
            int,
            long,
            size,
            single,
            double,
            flag,
            letter,
            text,
            blob,
            maybe,
            maybe_text,
            color,
            maybe_color,
            nested,
            maybe_nested,
            list,
            lists,
            structs,
            array,
            map,
            sparse,
        }
    })
}

/// Numbers, booleans and strings that are always there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flat {
    pub id: Id,
    pub tiny: i8,
    pub small: i16,
    pub medium: i32,
    pub large: i64,
    pub counts: u8,
    pub ports: u16,
    pub addresses: u32,
    pub float: f64,
    pub single: f32,
    pub is_set: bool,
    pub text: String,
    pub maybe_id: Option<Id>,
    pub maybe_small: Option<i16>,
    pub maybe_float: Option<f64>,
    pub maybe_set: Option<bool>,
    pub maybe_text: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wrapped(pub Flat);

pub fn flat() -> impl Strategy<Value = Flat> {
    let signed = (any::<i8>(), any::<i16>(), any::<i32>(), any::<i64>());
    let narrow = (any::<u8>(), any::<u16>(), any::<u32>());
    let others = (float(), prop::num::f32::ANY, any::<bool>(), text());
    let maybe = (
        prop::option::of(unsigned()),
        any::<Option<i16>>(),
        prop::option::of(float()),
        any::<Option<bool>>(),
        prop::option::of(text()),
    );
    (unsigned(), signed, narrow, others, maybe).prop_map(|(id, signed, narrow, others, maybe)| {
        Flat {
            id: Id(id),
            tiny: signed.0,
            small: signed.1,
            medium: signed.2,
            large: signed.3,
            counts: narrow.0,
            ports: narrow.1,
            addresses: narrow.2,
            float: others.0,
            single: others.1,
            is_set: others.2,
            text: others.3,
            maybe_id: maybe.0.map(Id),
            maybe_small: maybe.1,
            maybe_float: maybe.2,
            maybe_set: maybe.3,
            maybe_text: maybe.4,
        }
    })
}

pub fn rows<D: Debug>(data: impl Strategy<Value = D>) -> impl Strategy<Value = Vec<(D, i64, i64)>> {
    prop::collection::vec((data, 0..1000i64, any::<i64>()), 0..20)
}
