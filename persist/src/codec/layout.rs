//! How a type lies in columns: which there are, and what is in them.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_arrow::schema::{SchemaLike, TracingOptions};

use super::form::{Form, Path};
use super::store::{Notes, Stored};
use super::{Single, VALUE_COLUMN, flat, trace, type_error};
use crate::error::Error;
use crate::schema::{
    DIFF_COLUMN, ERROR_COLUMN, Nullability, RESERVED_PREFIX, TIME_COLUMN, is_tuple, storable_fields,
};

/// Tracing visits a type once per variant of its enums; this bounds the work, not the types in practice.
const TRACING_BUDGET: usize = 10_000;

/// How a type lies in columns.
pub(super) struct Layout {
    pub(super) shape: Shape,
    /// The user's columns as they are built: null only where the type can be, so that a value which the type
    /// could not read back as null is never written as one.
    pub(super) built: Vec<FieldRef>,
    /// The user's columns as in the table.
    pub(super) stored: Vec<FieldRef>,
    /// The whole table.
    pub(super) table: SchemaRef,
    /// Whether anything in a row can be null, as it must be in a type with an option in an option.
    pub(super) has_options: bool,
    /// Whether a column can hold less than what a value says: then what was built is read back and compared.
    pub(super) is_lossy: bool,
    /// Whether a row is a number, a boolean, a string, or a record of these, any of which may be optional.
    pub(super) is_flat: bool,
    /// How the record of a row's columns is stored.
    pub(super) form: Form,
    /// Whether the columns were given, and may be in another order than the type's fields.
    pub(super) is_given: bool,
}

/// Whether a row is itself a record of columns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Record,
    Value,
}

impl Layout {
    /// A row, or the record that it is in, as its columns take it.
    pub(super) fn stored_as<'a, T>(&'a self, value: &'a T, notes: &'a Notes) -> Stored<'a, T> {
        Stored {
            value,
            form: &self.form,
            path: &Path::ROOT,
            notes,
        }
    }

    /// The layout of a type that was traced as this field, whose value is stored in this form.
    pub(super) fn of_type<D: Serialize + DeserializeOwned>(
        value: &Field,
        form: Form,
    ) -> Result<Self, Error> {
        match value.data_type() {
            DataType::Struct(fields) if !value.is_nullable() => {
                Self::of_columns::<D>(Shape::Record, fields, is_tuple(value), Some(form))
            }
            _ => {
                let value = Fields::from(vec![value.clone().with_name(VALUE_COLUMN)]);
                let form = Form::Record([(VALUE_COLUMN.to_owned(), form)].into());
                Self::of_columns::<D>(Shape::Value, &value, false, Some(form))
            }
        }
    }

    /// A layout of these columns, whose values lie as `told`, if the type has told so.
    pub(super) fn of_columns<D: Serialize + DeserializeOwned>(
        shape: Shape,
        fields: &Fields,
        tuple: bool,
        told: Option<Form>,
    ) -> Result<Self, Error> {
        let built =
            storable_fields(fields, tuple, Nullability::AsGiven).map_err(type_error::<D>)?;
        let stored = storable_fields(fields, tuple, Nullability::All).map_err(type_error::<D>)?;
        for field in &stored {
            if field.name().to_lowercase().starts_with(RESERVED_PREFIX) {
                let why = format!(
                    "the column name {} starts with {RESERVED_PREFIX}",
                    field.name()
                );
                return Err(type_error::<D>(why));
            }
        }
        let own = [
            Field::new(ERROR_COLUMN, DataType::Utf8, true),
            Field::new(TIME_COLUMN, DataType::Int64, true),
            Field::new(DIFF_COLUMN, DataType::Int64, true),
        ];
        let table: Fields = stored.iter().cloned().chain(own.map(Arc::new)).collect();
        let mut is_exact = true;
        let is_given = told.is_none();
        let form = told.unwrap_or_else(|| {
            let told = trace::trace::<D>().ok().map(|told| match shape {
                Shape::Record => told.form,
                Shape::Value => Form::Record([(VALUE_COLUMN.to_owned(), told.form)].into()),
            });
            Form::given_fields(&built, told.as_ref(), &mut is_exact)
        });
        Ok(Layout {
            shape,
            built: built.iter().cloned().collect(),
            stored: stored.iter().cloned().collect(),
            table: Arc::new(Schema::new(table)),
            has_options: built.iter().any(|field| has_nulls(field)),
            is_lossy: !is_exact,
            is_flat: flat::is_flat(&built),
            form: if is_given { form } else { form.collapsed() },
            is_given,
        })
    }
}

/// Whether a value of the column, or anything in it, can be null.
fn has_nulls(field: &Field) -> bool {
    field.is_nullable()
        || match field.data_type() {
            DataType::Struct(fields) => fields.iter().any(|field| has_nulls(field)),
            DataType::List(child) | DataType::Map(child, _) => has_nulls(child),
            _ => false,
        }
}

/// The columns of a type as `serde_arrow` finds them out, as one field.
pub(super) fn trace_by_serde<D: DeserializeOwned>() -> Result<Field, String> {
    let options = TracingOptions::default()
        .map_as_struct(false)
        .sequence_as_large_list(false)
        .strings_as_large_utf8(false)
        .bytes_as_large_binary(false)
        .enums_without_data_as_strings(true)
        .allow_null_fields(true)
        .from_type_budget(TRACING_BUDGET);
    let traced = Vec::<FieldRef>::from_type::<Single<D>>(options)
        .map_err(|error| error.message().to_owned())?;
    match traced.as_slice() {
        [value] => Ok(Field::clone(value)),
        _ => Err("its columns cannot be told".into()),
    }
}

/// The same fields, with another type for that at this path; `None` if there is none.
pub(super) fn with_type(fields: &Fields, path: &str, data_type: &DataType) -> Option<Fields> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let (index, field) = fields.find(name)?;
    let changed = match rest {
        None => data_type.clone(),
        Some(rest) => match field.data_type() {
            DataType::Struct(inner) => DataType::Struct(with_type(inner, rest, data_type)?),
            DataType::List(item) => {
                let inner = with_type(&Fields::from(vec![Arc::clone(item)]), rest, data_type)?;
                DataType::List(Arc::clone(inner.first()?))
            }
            DataType::Map(entries, sorted) => {
                let DataType::Struct(inner) = entries.data_type() else {
                    return None;
                };
                let inner = DataType::Struct(with_type(inner, rest, data_type)?);
                let entries = Field::clone(entries).with_data_type(inner);
                DataType::Map(entries.into(), *sorted)
            }
            _ => return None,
        },
    };
    let mut fields: Vec<FieldRef> = fields.iter().cloned().collect();
    fields[index] = Arc::new(Field::clone(field).with_data_type(changed));
    Some(fields.into())
}
