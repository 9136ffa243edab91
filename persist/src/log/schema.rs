//! The schema of a table: Delta's JSON form (protocol, section "Schema Serialization Format") from and to Arrow.
//!
//! A Delta type stands for several Arrow types (a string column may be `Utf8`, `LargeUtf8` or `Utf8View` in
//! memory), so schemas are compared in Delta's terms, and what is read back from a table is the plainest Arrow
//! form. Everything is nullable: other tools may write nulls, and readers must not be misled.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A struct type: the table's whole schema, or that of one column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StructType {
    #[serde(rename = "type")]
    kind: StructKind,
    fields: Vec<StructField>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StructKind {
    Struct,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StructField {
    name: String,
    #[serde(rename = "type")]
    data_type: DeltaType,
    nullable: bool,
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum DeltaType {
    Primitive(String),
    Nested(Box<Nested>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
enum Nested {
    Struct {
        fields: Vec<StructField>,
    },
    Array {
        element_type: DeltaType,
        contains_null: bool,
    },
    Map {
        key_type: DeltaType,
        value_type: DeltaType,
        value_contains_null: bool,
    },
}

impl StructType {
    /// The table schema for Arrow columns, or the first column that Delta has no type for.
    pub(crate) fn from_arrow(schema: &Schema) -> Result<Self, String> {
        Ok(StructType {
            kind: StructKind::Struct,
            fields: fields_from_arrow(schema.fields())?,
        })
    }

    pub(crate) fn from_json(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    pub(crate) fn to_json(&self) -> String {
        // Names and types only: there is nothing that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The plainest Arrow columns for the table.
    pub(crate) fn to_arrow(&self) -> Result<SchemaRef, String> {
        Ok(Arc::new(Schema::new(fields_to_arrow(&self.fields)?)))
    }

    /// The first difference in names, order or types, as a sentence; nullability and metadata do not count.
    pub(crate) fn difference(table: &Self, expected: &Self) -> Option<String> {
        difference(&table.fields, &expected.fields, "")
    }

    /// The first column whose metadata has a key that changes how it must be written or found.
    pub(crate) fn constrained_column(&self) -> Option<(&str, &str)> {
        constrained(&self.fields)
    }
}

fn constrained(fields: &[StructField]) -> Option<(&str, &str)> {
    fields.iter().find_map(|field| {
        let key = field.metadata.keys().find(|key| {
            key.as_str() == "delta.invariants"
                || key.starts_with("delta.columnMapping.")
                || key.starts_with("delta.identity.")
                || key.as_str() == "delta.generationExpression"
        });
        match (key, &field.data_type) {
            (Some(key), _) => Some((field.name.as_str(), key.as_str())),
            (None, DeltaType::Nested(nested)) => match nested.as_ref() {
                Nested::Struct { fields } => constrained(fields),
                _ => None,
            },
            (None, DeltaType::Primitive(_)) => None,
        }
    })
}

fn difference(table: &[StructField], expected: &[StructField], prefix: &str) -> Option<String> {
    for (have, want) in table.iter().zip(expected) {
        if have.name != want.name {
            return Some(format!(
                "the table has column {prefix}{} where {prefix}{} is expected",
                have.name, want.name
            ));
        }
        let name = format!("{prefix}{}", want.name);
        if let (DeltaType::Nested(a), DeltaType::Nested(b)) = (&have.data_type, &want.data_type)
            && let (Nested::Struct { fields: a }, Nested::Struct { fields: b }) =
                (a.as_ref(), b.as_ref())
        {
            match difference(a, b, &format!("{name}.")) {
                Some(why) => return Some(why),
                None => continue,
            }
        }
        if shape(&have.data_type) != shape(&want.data_type) {
            return Some(format!(
                "column {name} is {} in the table where {} is expected",
                shape(&have.data_type),
                shape(&want.data_type)
            ));
        }
    }
    if let Some(extra) = table.get(expected.len()) {
        return Some(format!(
            "the table has a column {prefix}{} that is not expected",
            extra.name
        ));
    }
    let missing = expected.get(table.len())?;
    Some(format!("the table has no column {prefix}{}", missing.name))
}

/// The type as text, without nullability and metadata.
fn shape(data_type: &DeltaType) -> String {
    match data_type {
        DeltaType::Primitive(name) => name.clone(),
        DeltaType::Nested(nested) => match nested.as_ref() {
            Nested::Struct { fields } => {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|field| format!("{}: {}", field.name, shape(&field.data_type)))
                    .collect();
                format!("struct<{}>", fields.join(", "))
            }
            Nested::Array { element_type, .. } => format!("array<{}>", shape(element_type)),
            Nested::Map {
                key_type,
                value_type,
                ..
            } => format!("map<{}, {}>", shape(key_type), shape(value_type)),
        },
    }
}

fn fields_from_arrow(fields: &Fields) -> Result<Vec<StructField>, String> {
    fields
        .iter()
        .map(|field| {
            Ok(StructField {
                name: field.name().clone(),
                data_type: from_arrow(field.data_type())
                    .map_err(|why| format!("column {}: {why}", field.name()))?,
                nullable: true,
                metadata: Map::new(),
            })
        })
        .collect()
}

fn from_arrow(data_type: &DataType) -> Result<DeltaType, String> {
    let name = match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 => "byte",
        DataType::Int16 => "short",
        DataType::Int32 => "integer",
        DataType::Int64 => "long",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string",
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "binary",
        DataType::Date32 => "date",
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp",
        DataType::Decimal128(precision, scale) => {
            return Ok(DeltaType::Primitive(format!(
                "decimal({precision},{scale})"
            )));
        }
        DataType::Dictionary(_, values) => return from_arrow(values),
        DataType::List(element) | DataType::LargeList(element) => {
            return Ok(DeltaType::Nested(Box::new(Nested::Array {
                element_type: from_arrow(element.data_type())?,
                contains_null: true,
            })));
        }
        DataType::Struct(fields) => {
            return Ok(DeltaType::Nested(Box::new(Nested::Struct {
                fields: fields_from_arrow(fields)?,
            })));
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(entry) = entries.data_type() else {
                return Err("a map needs keys and values".into());
            };
            let [key, value] = entry.iter().as_slice() else {
                return Err("a map needs keys and values".into());
            };
            return Ok(DeltaType::Nested(Box::new(Nested::Map {
                key_type: from_arrow(key.data_type())?,
                value_type: from_arrow(value.data_type())?,
                value_contains_null: true,
            })));
        }
        other => return Err(format!("Delta has no type for Arrow's {other}")),
    };
    Ok(DeltaType::Primitive(name.to_owned()))
}

fn fields_to_arrow(fields: &[StructField]) -> Result<Vec<FieldRef>, String> {
    fields
        .iter()
        .map(|field| {
            let data_type = to_arrow(&field.data_type)
                .map_err(|why| format!("column {}: {why}", field.name))?;
            Ok(Arc::new(Field::new(&field.name, data_type, true)))
        })
        .collect()
}

fn to_arrow(data_type: &DeltaType) -> Result<DataType, String> {
    Ok(match data_type {
        DeltaType::Primitive(name) => match name.as_str() {
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
            "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            other => {
                let decimal = || {
                    let (precision, scale) = other
                        .strip_prefix("decimal(")?
                        .strip_suffix(')')?
                        .split_once(',')?;
                    Some(DataType::Decimal128(
                        precision.trim().parse().ok()?,
                        scale.trim().parse().ok()?,
                    ))
                };
                decimal().ok_or_else(|| format!("the type {other} is not understood"))?
            }
        },
        DeltaType::Nested(nested) => match nested.as_ref() {
            Nested::Struct { fields } => DataType::Struct(fields_to_arrow(fields)?.into()),
            Nested::Array { element_type, .. } => DataType::List(Arc::new(Field::new(
                "element",
                to_arrow(element_type)?,
                true,
            ))),
            Nested::Map {
                key_type,
                value_type,
                ..
            } => {
                let entry = vec![
                    Field::new("key", to_arrow(key_type)?, false),
                    Field::new("value", to_arrow(value_type)?, true),
                ];
                DataType::Map(
                    Arc::new(Field::new(
                        "key_value",
                        DataType::Struct(entry.into()),
                        false,
                    )),
                    false,
                )
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        let entry = DataType::Struct(
            vec![
                Field::new("keys", DataType::LargeUtf8, false),
                Field::new("values", DataType::Int32, true),
            ]
            .into(),
        );
        Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::LargeUtf8, true),
            Field::new("price", DataType::Decimal128(10, 2), true),
            Field::new("tags", DataType::LargeList(item(DataType::Utf8View)), true),
            Field::new(
                "map",
                DataType::Map(Arc::new(Field::new("entries", entry, false)), false),
                true,
            ),
            Field::new(
                "at",
                DataType::Struct(vec![Field::new("day", DataType::Date32, true)].into()),
                true,
            ),
        ])
    }

    #[test]
    fn arrow_to_json_and_back_keeps_delta_types() {
        let delta = StructType::from_arrow(&schema()).unwrap();
        let read = StructType::from_json(&delta.to_json()).unwrap();
        assert_eq!(delta, read);
        let again = StructType::from_arrow(&read.to_arrow().unwrap()).unwrap();
        assert_eq!(StructType::difference(&read, &again), None);
        assert!(delta.to_json().starts_with(r#"{"type":"struct","fields":[{"name":"id","type":"long","nullable":true,"metadata":{}}"#));
    }

    #[test]
    fn the_first_difference_is_named() {
        let table = StructType::from_arrow(&schema()).unwrap();
        let differ = |fields: Vec<Field>| {
            StructType::difference(
                &table,
                &StructType::from_arrow(&Schema::new(fields)).unwrap(),
            )
            .unwrap()
        };
        let fields = || {
            schema()
                .fields()
                .iter()
                .map(|f| f.as_ref().clone())
                .collect::<Vec<_>>()
        };
        let mut other = fields();
        other[0] = Field::new("id", DataType::Utf8, true);
        assert_eq!(
            differ(other),
            "column id is long in the table where string is expected"
        );
        let mut other = fields();
        other[5] = Field::new(
            "at",
            DataType::Struct(vec![Field::new("day", DataType::Int64, true)].into()),
            true,
        );
        assert_eq!(
            differ(other),
            "column at.day is date in the table where long is expected"
        );
        let mut other = fields();
        other.pop();
        assert_eq!(
            differ(other),
            "the table has a column at that is not expected"
        );
        let mut other = fields();
        other.push(Field::new("more", DataType::Utf8, true));
        assert_eq!(differ(other), "the table has no column more");
        let unsigned = Schema::new(vec![Field::new("u", DataType::UInt64, true)]);
        assert!(
            StructType::from_arrow(&unsigned)
                .unwrap_err()
                .contains("column u")
        );
    }
}
