//! Schemas: what a Delta table can hold, its JSON form in the log, and whether two schemas fit together.
//!
//! The Arrow side is restricted to the types that every Delta reader of protocol 1 knows:
//!
//! | Delta | Arrow |
//! |---|---|
//! | `boolean`, `string`, `binary`, `date` | `Boolean`, `Utf8`, `Binary`, `Date32` |
//! | `byte`, `short`, `integer`, `long` | `Int8`, `Int16`, `Int32`, `Int64` |
//! | `float`, `double`, `decimal(p,s)` | `Float32`, `Float64`, `Decimal128(p, s)` |
//! | `timestamp` | `Timestamp(Microsecond, "UTC")` |
//! | `struct`, `array`, `map` | `Struct`, `List`, `Map`, with children named as Parquet names them |
//!
//! [`to_delta`] and [`from_delta`] are inverse to each other on them, up to metadata and what may be null: all
//! that this crate writes may be. The JSON form is that of the Delta protocol specification, section "Schema
//! Serialization Format".

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use serde_json::{Map, Value, json};

/// The column that holds the error of a row, as JSON; null for data.
pub const ERROR_COLUMN: &str = "mv_error";
/// The column that holds the time of an update.
pub const TIME_COLUMN: &str = "mv_time";
/// The column that holds the change in multiplicity.
pub const DIFF_COLUMN: &str = "mv_diff";

/// The prefix of the names that a user's columns must not have.
pub const RESERVED_PREFIX: &str = "mv_";

/// Characters that Delta refuses in column names unless column mapping is on.
const REFUSED_IN_NAMES: &[char] = &[' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// The name of a list's element, as in the Parquet specification.
const ELEMENT: &str = "element";
/// The name of a map's repeated group, as in the Parquet specification.
const ENTRIES: &str = "key_value";

/// Keys of a column's metadata that change how it must be written, or under which name it is found.
const CONSTRAINTS: &[&str] = &[
    "delta.invariants",
    "delta.generationExpression",
    "delta.columnMapping.",
    "delta.identity.",
];

/// A table's schema as the string that the log's `metaData.schemaString` holds. Everything in it may be null,
/// whatever the fields say: the rows of errors have no data, and other writers may leave any column out.
///
/// # Errors
///
/// In words, if a column's type is none that Delta knows.
pub fn to_delta(schema: &Schema) -> Result<String, String> {
    Ok(struct_to_delta(schema.fields(), "")?.to_string())
}

/// Arrow fields, without metadata, for the log's `metaData.schemaString`.
///
/// # Errors
///
/// In words, if the text is no Delta schema, has a type that this version does not know, or puts a constraint on
/// a column: an invariant, a generated value, a mapped name.
pub fn from_delta(text: &str) -> Result<Schema, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("the schema is not JSON: {error}"))?;
    match type_from_delta(&value, "")? {
        DataType::Struct(fields) => Ok(Schema::new(fields)),
        _ => Err("the schema of a table must be a struct".into()),
    }
}

/// Whether a table can take and give rows of the `wanted` schema.
///
/// Every wanted column must be in the table, with the same type; the order of columns, the names inside lists and
/// maps, and what may be null inside of a column do not matter. The table may have more columns, which others
/// added: they are ignored by readers, and null in what is written. So every column of the table must allow nulls,
/// and none but the wanted ones may begin with `mv_`. The same holds for the fields of a struct.
///
/// # Errors
///
/// The first difference, in words.
pub fn check_schema(table: &Schema, wanted: &Schema) -> Result<(), String> {
    check_fields(table.fields(), wanted.fields(), "")?;
    let surplus = |field: &&FieldRef| wanted.field_with_name(field.name()).is_err();
    for field in table.fields().iter().filter(surplus) {
        if field.name().starts_with(RESERVED_PREFIX) {
            return Err(format!(
                "the table has a column {} that is not expected",
                field.name()
            ));
        }
    }
    match table.fields().iter().find(|field| !field.is_nullable()) {
        Some(field) => Err(format!(
            "the column {} must not be null in the table",
            field.name()
        )),
        None => Ok(()),
    }
}

/// Whether rows of the `wanted` schema have the fingerprints of the table's: its columns of data come first in the
/// table, in the same order, and their structs have the same fields in the same order. What a table has
/// beyond is null in such rows, and nulls at the end do not count.
///
/// # Errors
///
/// The first difference, in words.
pub(crate) fn check_order(table: &Schema, wanted: &Schema) -> Result<(), String> {
    let data = |schema: &Schema| -> Vec<FieldRef> {
        let columns = schema.fields().iter();
        let columns = columns.filter(|field| !field.name().starts_with(RESERVED_PREFIX));
        columns.cloned().collect()
    };
    let (table, wanted) = (data(table), data(wanted));
    for (index, field) in wanted.iter().enumerate() {
        let name = field.name();
        match table.get(index) {
            Some(found) if found.name() == name => {
                check_inner_order(found.data_type(), field.data_type(), name)?;
            }
            Some(found) => {
                return Err(format!(
                    "the table has the column {} where {name} is expected, and fingerprints depend on the order",
                    found.name()
                ));
            }
            None => return Err(format!("the table has no column {name}")),
        }
    }
    Ok(())
}

fn check_inner_order(table: &DataType, wanted: &DataType, path: &str) -> Result<(), String> {
    match (table, wanted) {
        (DataType::Struct(table), DataType::Struct(wanted)) => {
            let names = |fields: &Fields| -> Vec<String> {
                fields.iter().map(|field| field.name().clone()).collect()
            };
            let (found, expected) = (names(table), names(wanted));
            if found != expected {
                return Err(format!(
                    "the column {path} has the fields {} in the table where {} are expected, and fingerprints depend on them",
                    found.join(", "),
                    expected.join(", ")
                ));
            }
            table.iter().zip(wanted).try_for_each(|(table, wanted)| {
                let path = child_path(path, wanted.name());
                check_inner_order(table.data_type(), wanted.data_type(), &path)
            })
        }
        (DataType::List(table), DataType::List(wanted)) => check_inner_order(
            table.data_type(),
            wanted.data_type(),
            &child_path(path, ELEMENT),
        ),
        (DataType::Map(table, _), DataType::Map(wanted, _)) => {
            let (table, wanted) = (key_and_value(table, path)?, key_and_value(wanted, path)?);
            for (index, name) in ["key", "value"].into_iter().enumerate() {
                let path = child_path(path, name);
                check_inner_order(table[index].data_type(), wanted[index].data_type(), &path)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether a table of this schema can hold updates: it says when each is, and how often.
///
/// # Errors
///
/// In words, if a column of that is not there, or is of another type.
pub(crate) fn check_own_columns(table: &Schema) -> Result<(), String> {
    let own = [TIME_COLUMN, DIFF_COLUMN].map(|name| Field::new(name, DataType::Int64, true));
    check_fields(table.fields(), &own.into_iter().collect(), "")
}

/// A schema in the form of the log with more columns at its end. The rest of it is left as it is: others may have
/// put there what is not understood here.
///
/// # Errors
///
/// In words, if the text is no schema, or a column's type is none that Delta knows.
pub(crate) fn append_columns(text: &str, columns: &[FieldRef]) -> Result<String, String> {
    let mut schema: Value =
        serde_json::from_str(text).map_err(|error| format!("the schema is not JSON: {error}"))?;
    let fields = schema.get_mut("fields").and_then(Value::as_array_mut);
    let fields = fields.ok_or("the schema has no fields")?;
    let more = struct_to_delta(&columns.iter().cloned().collect(), "")?;
    fields.extend(more["fields"].as_array().cloned().unwrap_or_default());
    Ok(schema.to_string())
}

pub(crate) fn check_fields(table: &Fields, wanted: &Fields, path: &str) -> Result<(), String> {
    check_found(table, wanted, path, Missing::Refused)
}

/// Whether rows of a table can be read as these columns, which say what can be null: that may be missing.
///
/// # Errors
///
/// The first difference, in words.
pub(crate) fn check_readable(table: &Fields, wanted: &Fields) -> Result<(), String> {
    check_found(table, wanted, "", Missing::Null)
}

/// What becomes of a column that a table lacks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Refused,
    /// It is null, if it can be.
    Null,
}

fn check_found(
    table: &Fields,
    wanted: &Fields,
    path: &str,
    missing: Missing,
) -> Result<(), String> {
    for field in wanted {
        let path = child_path(path, field.name());
        match table.find(field.name()) {
            Some((_, found)) => check_type(found.data_type(), field.data_type(), &path, missing)?,
            None if missing == Missing::Null && field.is_nullable() => {}
            None => return Err(format!("the table has no column {path}")),
        }
    }
    Ok(())
}

fn check_type(
    table: &DataType,
    wanted: &DataType,
    path: &str,
    missing: Missing,
) -> Result<(), String> {
    match (table, wanted) {
        (DataType::Struct(table), DataType::Struct(wanted)) => {
            check_found(table, wanted, path, missing)
        }
        (DataType::List(table), DataType::List(wanted)) => check_type(
            table.data_type(),
            wanted.data_type(),
            &child_path(path, ELEMENT),
            missing,
        ),
        (DataType::Map(table, _), DataType::Map(wanted, _)) => {
            // By position: the names of keys and values vary.
            let (table, wanted) = (key_and_value(table, path)?, key_and_value(wanted, path)?);
            for (index, name) in ["key", "value"].into_iter().enumerate() {
                let path = child_path(path, name);
                check_type(
                    table[index].data_type(),
                    wanted[index].data_type(),
                    &path,
                    missing,
                )?;
            }
            Ok(())
        }
        (table, wanted) if table == wanted => Ok(()),
        (table, wanted) => Err(format!(
            "the column {path} is {} in the table where {} is expected",
            type_name(table),
            type_name(wanted),
        )),
    }
}

fn key_and_value<'a>(entries: &'a Field, path: &str) -> Result<&'a Fields, String> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Ok(fields),
        _ => Err(format!("{path}: a map must have keys and values")),
    }
}

/// A type as Delta calls it, or as Arrow does if Delta has no name for it.
pub(crate) fn type_name(data_type: &DataType) -> String {
    match type_to_delta(data_type, "") {
        Ok(Value::String(name)) => name,
        Ok(value) => value.to_string(),
        Err(_) => data_type.to_string(),
    }
}

/// Whether children may be null in the result of [`storable`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nullability {
    /// As in the field given: a null where the type has none is then an error of the writer.
    AsGiven,
    /// All, as in a table.
    All,
}

/// The type in which Delta stores a field, with children named as Parquet does and without metadata.
///
/// Unsigned integers widen to the next signed type, except that `UInt64` is stored as `Int64`.
///
/// # Errors
///
/// The reason, in words, if there is none.
pub(crate) fn storable(field: &Field, nullability: Nullability) -> Result<DataType, String> {
    let nullable = |child: &Field| nullability == Nullability::All || child.is_nullable();
    Ok(match field.data_type() {
        same @ (DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32) => same.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Dictionary(_, value) if is_string(value) => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Timestamp(_, Some(_)) => utc_timestamp(),
        DataType::Decimal128(precision, scale)
            if 0 <= *scale && scale.unsigned_abs() <= *precision =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::List(item) | DataType::LargeList(item) => {
            list_of(storable(item, nullability)?, nullable(item))
        }
        DataType::Struct(fields) => {
            DataType::Struct(storable_fields(fields, is_tuple(field), nullability)?)
        }
        DataType::Map(entries, _) => {
            let fields = key_and_value(entries, field.name())?;
            let key = storable(&fields[0], nullability)?;
            let value = storable(&fields[1], nullability)?;
            map_of(key, value, nullable(&fields[1]))
        }
        DataType::Null => return Err("what is always null has no Delta type".into()),
        DataType::Union(..) => {
            return Err(
                "an enum whose variants carry data has no Delta type; use a struct of options"
                    .into(),
            );
        }
        DataType::Timestamp(_, None) => {
            return Err(
                "a timestamp without time zone needs a newer Delta protocol; use UTC".into(),
            );
        }
        other => return Err(format!("the Arrow type {other} has no Delta type")),
    })
}

/// [`storable`] for the columns of a table or the fields of a struct. The fields of a tuple are called `c0`,
/// `c1`, …: their own names 0, 1, … would need quoting in every query.
pub(crate) fn storable_fields(
    fields: &Fields,
    tuple: bool,
    nullability: Nullability,
) -> Result<Fields, String> {
    if fields.is_empty() {
        return Err("a struct without fields has no Delta type".into());
    }
    let mut names = Vec::with_capacity(fields.len());
    let mut stored = Vec::with_capacity(fields.len());
    for field in fields {
        let name = if tuple {
            format!("c{}", field.name())
        } else {
            field.name().clone()
        };
        check_name(&name, &mut names)?;
        let data_type = storable(field, nullability).map_err(|why| in_column(&name, &why))?;
        let nullable = nullability == Nullability::All || field.is_nullable();
        stored.push(Field::new(name, data_type, nullable));
    }
    Ok(stored.into())
}

/// A reason, with the path of its column.
fn in_column(name: &str, why: &str) -> String {
    match why.strip_prefix("column `") {
        Some(inner) => format!("column `{name}.{inner}"),
        None => format!("column `{name}`: {why}"),
    }
}

/// The digits of a decimal column whose type does not tell them, and how many of them are after the point: as many
/// as Spark takes then.
pub(crate) const DECIMAL: (u8, u8) = (38, 18);

/// A struct as if traced from a tuple.
pub(crate) fn mark_tuple(field: Field) -> Field {
    let tuple = serde_arrow::schema::Strategy::TupleAsStruct.to_string();
    let key = serde_arrow::schema::STRATEGY_KEY.to_owned();
    field.with_metadata(std::collections::HashMap::from([(key, tuple)]))
}

/// Whether a struct was traced from a tuple.
pub(crate) fn is_tuple(field: &Field) -> bool {
    let strategy = field.metadata().get(serde_arrow::schema::STRATEGY_KEY);
    strategy.is_some_and(|strategy| {
        *strategy == serde_arrow::schema::Strategy::TupleAsStruct.to_string()
    })
}

pub(crate) fn is_string(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// Refuses names that Delta's readers refuse. `seen` holds the earlier names at this level, in lower case:
/// several engines ignore case.
fn check_name(name: &str, seen: &mut Vec<String>) -> Result<(), String> {
    if name.is_empty() {
        return Err("a column needs a name".into());
    }
    if let Some(refused) = name.chars().find(|c| REFUSED_IN_NAMES.contains(c)) {
        return Err(format!(
            "the column name {name:?} contains {refused:?}, which Delta refuses"
        ));
    }
    let lower = name.to_lowercase();
    if seen.contains(&lower) {
        return Err(format!(
            "there are two columns {name}, and Delta ignores case"
        ));
    }
    seen.push(lower);
    Ok(())
}

pub(crate) fn utc_timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn list_of(element: DataType, nullable: bool) -> DataType {
    DataType::List(Arc::new(Field::new(ELEMENT, element, nullable)))
}

fn map_of(key: DataType, value: DataType, nullable: bool) -> DataType {
    let entries = Fields::from(vec![
        Field::new("key", key, false),
        Field::new("value", value, nullable),
    ]);
    DataType::Map(
        Arc::new(Field::new(ENTRIES, DataType::Struct(entries), false)),
        false,
    )
}

fn struct_to_delta(fields: &Fields, path: &str) -> Result<Value, String> {
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let path = child_path(path, field.name());
        columns.push(json!({
            "name": field.name(),
            "type": type_to_delta(field.data_type(), &path)?,
            "nullable": true,
            "metadata": {},
        }));
    }
    Ok(json!({"type": "struct", "fields": columns}))
}

fn type_to_delta(data_type: &DataType, path: &str) -> Result<Value, String> {
    let name = match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 => "byte",
        DataType::Int16 => "short",
        DataType::Int32 => "integer",
        DataType::Int64 => "long",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Utf8 => "string",
        DataType::Binary => "binary",
        DataType::Date32 => "date",
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => {
            "timestamp"
        }
        DataType::Decimal128(precision, scale) => {
            return Ok(Value::String(format!("decimal({precision},{scale})")));
        }
        DataType::Struct(fields) => return struct_to_delta(fields, path),
        DataType::List(item) => {
            return Ok(json!({
                "type": "array",
                "elementType": type_to_delta(item.data_type(), &child_path(path, ELEMENT))?,
                "containsNull": true,
            }));
        }
        DataType::Map(entries, _) => {
            let fields = key_and_value(entries, path)?;
            let child = |index: usize, name| {
                type_to_delta(fields[index].data_type(), &child_path(path, name))
            };
            return Ok(json!({
                "type": "map",
                "keyType": child(0, "key")?,
                "valueType": child(1, "value")?,
                "valueContainsNull": true,
            }));
        }
        other => return Err(format!("{path}: Delta has no type for {other}")),
    };
    Ok(Value::String(name.to_owned()))
}

fn type_from_delta(value: &Value, path: &str) -> Result<DataType, String> {
    match value {
        Value::String(name) => primitive_from_delta(name, path),
        Value::Object(object) => match member(object, "type", path)?.as_str() {
            Some("struct") => struct_from_delta(object, path),
            Some("array") => {
                let element = type_from_delta(
                    member(object, "elementType", path)?,
                    &child_path(path, ELEMENT),
                )?;
                Ok(list_of(element, flag(object, "containsNull")))
            }
            Some("map") => {
                let key =
                    type_from_delta(member(object, "keyType", path)?, &child_path(path, "key"))?;
                let value = type_from_delta(
                    member(object, "valueType", path)?,
                    &child_path(path, "value"),
                )?;
                Ok(map_of(key, value, flag(object, "valueContainsNull")))
            }
            _ => Err(unknown(value, path)),
        },
        _ => Err(unknown(value, path)),
    }
}

fn struct_from_delta(object: &Map<String, Value>, path: &str) -> Result<DataType, String> {
    let columns = member(object, "fields", path)?
        .as_array()
        .ok_or_else(|| format!("the fields of {} are no list", place(path)))?;
    let mut fields = Vec::with_capacity(columns.len());
    let mut seen = BTreeMap::new();
    for column in columns {
        let column = column
            .as_object()
            .ok_or_else(|| format!("a field of {} is no object", place(path)))?;
        let name = member(column, "name", path)?
            .as_str()
            .ok_or_else(|| format!("a field of {} has no name", place(path)))?;
        if let Some(first) = seen.insert(name.to_lowercase(), name) {
            let (first, second) = (child_path(path, first), child_path(path, name));
            return Err(format!(
                "it has two columns {first} and {second}, which differ by case at most: no reader can tell which is meant"
            ));
        }
        let path = child_path(path, name);
        if let Some(Value::Object(metadata)) = column.get("metadata") {
            check_metadata(metadata, &path)?;
        }
        let data_type = type_from_delta(member(column, "type", &path)?, &path)?;
        fields.push(Field::new(name, data_type, flag(column, "nullable")));
    }
    Ok(DataType::Struct(fields.into()))
}

fn check_metadata(metadata: &Map<String, Value>, path: &str) -> Result<(), String> {
    let constrains = |key: &&String| CONSTRAINTS.iter().any(|known| key.starts_with(known));
    match metadata.keys().find(constrains) {
        Some(key) => Err(format!("the column {path} has {key}")),
        None => Ok(()),
    }
}

fn primitive_from_delta(name: &str, path: &str) -> Result<DataType, String> {
    Ok(match name {
        "boolean" => DataType::Boolean,
        "byte" => DataType::Int8,
        "short" => DataType::Int16,
        "integer" => DataType::Int32,
        "long" => DataType::Int64,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "string" => DataType::Utf8,
        "binary" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamp" => utc_timestamp(),
        decimal => {
            let parts = decimal
                .strip_prefix("decimal(")
                .and_then(|rest| rest.strip_suffix(')'))
                .and_then(|inner| inner.split_once(','));
            let parsed = parts.and_then(|(precision, scale)| {
                let precision: u8 = precision.trim().parse().ok()?;
                let scale: i8 = scale.trim().parse().ok()?;
                (1..=38).contains(&precision).then_some((precision, scale))
            });
            match parsed {
                Some((precision, scale)) => DataType::Decimal128(precision, scale),
                None => return Err(unknown(&Value::String(name.to_owned()), path)),
            }
        }
    })
}

fn member<'a>(object: &'a Map<String, Value>, key: &str, path: &str) -> Result<&'a Value, String> {
    object
        .get(key)
        .ok_or_else(|| format!("{} has no {key:?}", place(path)))
}

/// Nullable unless said otherwise: the specification's default where a writer leaves it out.
fn flag(object: &Map<String, Value>, key: &str) -> bool {
    object.get(key).and_then(Value::as_bool).unwrap_or(true)
}

fn unknown(value: &Value, path: &str) -> String {
    format!("the type of {} is not known: {value}", place(path))
}

fn place(path: &str) -> &str {
    if path.is_empty() { "the schema" } else { path }
}

fn child_path(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests;
