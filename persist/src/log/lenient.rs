//! JSON of other writers, read as leniently as other readers do.
//!
//! A log entry is free-form but for what a reader needs of it. So a line that is not exactly as expected is taken apart
//! into the extents of its members, and only those that matter here are looked at, each by itself: what lies in the
//! others may be nested as deep, and be as large a number, as it likes. Of a key that comes twice the last one counts,
//! null counts as absent, and a scalar of another type is taken for what it says: `1.0` and `"1"` are integers.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value, json};

use super::action::Action;

/// The members of an object: their names, and the bytes of their values.
pub(crate) type Fields<'a> = Vec<(String, &'a [u8])>;

/// The bytes without the mark that some editors put before UTF-8.
pub(crate) fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The members of an object in their order; `None` if it is no object, or is cut off.
pub(crate) fn fields(bytes: &[u8]) -> Option<Fields<'_>> {
    let mut rest = Rest(bytes);
    rest.expect(b'{')?;
    let mut fields = Vec::new();
    if rest.peek()? == b'}' {
        rest.expect(b'}')?;
    } else {
        loop {
            let name = serde_json::from_slice(rest.value()?).ok()?;
            rest.expect(b':')?;
            fields.push((name, rest.value()?));
            match rest.next()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
    }
    rest.peek().is_none().then_some(fields)
}

/// The value of a member, if it is not null.
pub(crate) fn last<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a [u8]> {
    let found = fields.iter().rev().find(|(field, _)| field == name);
    found
        .map(|(_, value)| *value)
        .filter(|value| *value != b"null")
}

/// The value as an integer, if it is a whole number or the text of one.
pub(crate) fn integer(bytes: &[u8]) -> Option<i64> {
    match scalar(bytes)? {
        Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "checked to be whole and within bounds"
)]
fn whole(number: f64) -> Option<i64> {
    const BOUND: f64 = 9.2e18;
    (number.fract() == 0.0 && number.abs() < BOUND).then_some(number as i64)
}

/// A value without parts.
fn scalar(bytes: &[u8]) -> Option<Value> {
    if matches!(bytes.first()?, b'{' | b'[') {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

/// The value as a text: a string's own, or that of the JSON.
fn text(bytes: &[u8]) -> Option<String> {
    match scalar(bytes) {
        Some(Value::String(text)) => Some(text),
        Some(Value::Null) => None,
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

fn boolean(bytes: &[u8]) -> Option<bool> {
    match scalar(bytes)? {
        Value::Bool(value) => Some(value),
        Value::String(text) => text.trim().to_ascii_lowercase().parse().ok(),
        _ => None,
    }
}

fn map(bytes: &[u8]) -> Option<Value> {
    let fields = fields(bytes)?.into_iter();
    let texts = fields.map(|(name, value)| (name, text(value).into()));
    Some(Value::Object(texts.collect()))
}

fn strings(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Vec<String>>(bytes)
        .ok()
        .map(Value::from)
}

/// The form of a member that matters.
#[derive(Clone, Copy)]
enum Form {
    Integer,
    Text,
    Boolean,
    Map,
    Strings,
    /// An object with these members.
    Object(&'static [(&'static str, Form)]),
}

use Form::{Boolean, Integer, Map as Texts, Object, Strings, Text};

const INFO: &[(&str, Form)] = &[
    ("mvsink.id", Text),
    ("mvsink.lower", Integer),
    ("mvsink.upper", Integer),
    ("mvsink.table", Text),
    ("mvsink.restored", Integer),
    ("mvsink.lines", Integer),
];
const PROTOCOL: &[(&str, Form)] = &[
    ("minReaderVersion", Integer),
    ("minWriterVersion", Integer),
    ("readerFeatures", Strings),
    ("writerFeatures", Strings),
];
const METADATA: &[(&str, Form)] = &[
    ("id", Text),
    ("name", Text),
    ("description", Text),
    ("format", Object(&[("provider", Text), ("options", Texts)])),
    ("schemaString", Text),
    ("partitionColumns", Strings),
    ("createdTime", Integer),
    ("configuration", Texts),
];
const TXN: &[(&str, Form)] = &[
    ("appId", Text),
    ("version", Integer),
    ("lastUpdated", Integer),
];
const ADD: &[(&str, Form)] = &[
    ("path", Text),
    ("partitionValues", Texts),
    ("size", Integer),
    ("modificationTime", Integer),
    ("dataChange", Boolean),
    ("stats", Text),
    ("tags", Texts),
    ("deletionVector", Object(&[("storageType", Text)])),
];
const REMOVE: &[(&str, Form)] = &[
    ("path", Text),
    ("deletionTimestamp", Integer),
    ("dataChange", Boolean),
    ("extendedFileMetadata", Boolean),
    ("partitionValues", Texts),
    ("size", Integer),
];

/// What matters of an object, in the form in which it is expected; what has another form is left out.
fn object(bytes: &[u8], forms: &[(&'static str, Form)]) -> Value {
    let fields = fields(bytes).unwrap_or_default();
    let mut object = Map::new();
    for (name, form) in forms {
        let Some(value) = last(&fields, name) else {
            continue;
        };
        let value = match form {
            Form::Integer => integer(value).map(Value::from),
            Form::Text => text(value).map(Value::from),
            Form::Boolean => boolean(value).map(Value::from),
            Form::Map => map(value),
            Form::Strings => strings(value),
            Form::Object(forms) => Some(self::object(value, forms)),
        };
        if let Some(value) = value {
            object.insert((*name).to_owned(), value);
        }
    }
    Value::Object(object)
}

/// A line of a log entry.
///
/// # Errors
/// What is missing of it.
pub(crate) fn action(line: &[u8]) -> Result<Action, String> {
    let fields = fields(line).ok_or("it is no JSON object")?;
    let read = |kind: &str, forms| last(&fields, kind).map(|value| object(value, forms));
    let mut txn = read("txn", TXN);
    if let Some(action) = &txn
        && action["version"].is_null()
        && !action["appId"]
            .as_str()
            .is_some_and(|app| app.starts_with("mvsink."))
    {
        // Another program's, and nothing that it could find again.
        tracing::debug!(%action, "leaving out a txn action without a version");
        txn = None;
    }
    let mut add = read("add", ADD);
    if let Some(vector) = add.as_mut().and_then(|add| add.get_mut("deletionVector"))
        && vector.get("storageType").is_none()
    {
        *vector = json!({"storageType": ""});
    }
    Ok(Action {
        commit_info: read("commitInfo", INFO).map(|info| {
            // An identity that is none of ours is free-form like the rest.
            typed(info).unwrap_or_default()
        }),
        protocol: typed_if("protocol", read("protocol", PROTOCOL))?,
        meta_data: typed_if("metaData", read("metaData", METADATA))?,
        txn: typed_if("txn", txn)?,
        add: typed_if("add", add)?,
        remove: typed_if("remove", read("remove", REMOVE))?,
    })
}

fn typed<A: DeserializeOwned>(value: Value) -> Result<A, serde_json::Error> {
    serde_json::from_value(value)
}

fn typed_if<A: DeserializeOwned>(kind: &str, value: Option<Value>) -> Result<Option<A>, String> {
    let action = value.map(typed).transpose();
    action.map_err(|error| format!("its {kind}: {error}"))
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        self.0 = self.0.trim_ascii_start();
        self.0.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.0 = &self.0[1..];
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// The extent of the next value. It is walked through without recursion, whatever it holds.
    fn value(&mut self) -> Option<&'a [u8]> {
        self.peek()?;
        let mut values = serde_json::Deserializer::from_slice(self.0).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let (value, rest) = self.0.split_at(values.byte_offset());
        self.0 = rest;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_taken_apart_whatever_its_members_hold() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let line = format!(r#" {{"a" : {deep} , "b\u0021":1e999,"a":"\"}}",  "c":null}} "#);
        let fields = fields(line.as_bytes()).unwrap();
        let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b!", "a", "c"]);
        assert_eq!(last(&fields, "a"), Some(&br#""\"}""#[..]));
        assert_eq!(last(&fields, "b!"), Some(&b"1e999"[..]));
        assert_eq!(last(&fields, "c"), None);
        assert_eq!(super::fields(b"{}"), Some(Vec::new()));
        for no_object in [
            "",
            "{",
            "[]",
            "5",
            "{\"a\"}",
            "{\"a\":1",
            "{\"a\":1,}",
            "{} {}",
            "{a:1}",
        ] {
            assert_eq!(super::fields(no_object.as_bytes()), None, "{no_object}");
        }
    }

    #[test]
    fn whole_numbers_are_integers_however_they_are_written() {
        for (json, expected) in [
            ("7", Some(7)),
            ("7.0", Some(7)),
            ("-1.7e3", Some(-1700)),
            ("\"7\"", Some(7)),
            ("9223372036854775807", Some(i64::MAX)),
            ("7.5", None),
            ("1e19", None),
            ("1e999", None),
            ("true", None),
            ("[7]", None),
        ] {
            assert_eq!(integer(json.as_bytes()), expected, "{json}");
        }
    }
}
