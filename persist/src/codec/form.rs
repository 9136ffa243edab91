//! How a value lies in its column, where that is not how it serialises.
//!
//! ```text
//!   date, timestamp, decimal   from text or integers     a column of that type
//!   char                       from a character          a string
//!   bytes                      from an array of u8       binary
//!   identifier (UUID)          from text                 binary, its 16 bytes
//! ```

use arrow_schema::{DataType, FieldRef};

/// How the values of a type, or of a part of it, lie in their column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As they serialise, they and all that is in them.
    Plain,
    /// A date.
    Date,
    /// A timestamp, which the type reads with a zone or without one.
    Timestamp { zoned: bool },
    /// A decimal. If it is trimmed, the type reads it without zeros at the end.
    Decimal {
        precision: u8,
        scale: u8,
        trimmed: bool,
    },
    /// A character as a string.
    Char,
    /// An array of bytes.
    Bytes,
    /// A UUID that the type reads and writes as text.
    Uuid,
    /// A struct or tuple, by the names of its columns.
    Record(Box<[(String, Form)]>),
    /// A list.
    List(Box<Form>),
    /// A map of keys and values.
    Map(Box<(Form, Form)>),
}

impl Form {
    /// How values lie in a column of this type that was given, if the type tells by itself that they are `told`. All
    /// records are in it, since it is not known whether the type has the same. Clears `exact` if a column may hold less
    /// than what a value says.
    pub(super) fn given(data_type: &DataType, told: Option<&Form>, exact: &mut bool) -> Self {
        match (data_type, told) {
            (DataType::Date32, told) => {
                *exact &= told == Some(&Form::Date);
                Form::Date
            }
            (DataType::Timestamp(..), Some(Form::Timestamp { zoned })) => {
                Form::Timestamp { zoned: *zoned }
            }
            (DataType::Timestamp(..), _) => {
                *exact = false;
                Form::Timestamp { zoned: true }
            }
            (DataType::Decimal128(precision, scale), told) => {
                let trimmed = matches!(told, Some(Form::Decimal { trimmed: true, .. }));
                *exact &= trimmed;
                Form::Decimal {
                    precision: *precision,
                    scale: scale.unsigned_abs(),
                    trimmed,
                }
            }
            (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, Some(Form::Char)) => {
                Form::Char
            }
            (
                DataType::Binary | DataType::LargeBinary | DataType::BinaryView,
                Some(told @ (Form::Bytes | Form::Uuid)),
            ) => told.clone(),
            (DataType::Struct(fields), told) => Form::given_fields(fields, told, exact),
            (DataType::List(item) | DataType::LargeList(item), told) => {
                let told = told.map(Form::item);
                Form::List(Box::new(Form::given(item.data_type(), told, exact)))
            }
            (DataType::Map(entries, _), told) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => {
                    let told = told.map(Form::entry);
                    let key = told.map(|told| told.0);
                    let value = told.map(|told| told.1);
                    let key = Form::given(fields[0].data_type(), key, exact);
                    Form::Map(Box::new((
                        key,
                        Form::given(fields[1].data_type(), value, exact),
                    )))
                }
                _ => Form::Plain,
            },
            _ => Form::Plain,
        }
    }

    /// The same of the fields of a record.
    pub(super) fn given_fields<'a>(
        fields: impl IntoIterator<Item = &'a FieldRef>,
        told: Option<&Form>,
        exact: &mut bool,
    ) -> Self {
        let field = |(index, field): (usize, &FieldRef)| {
            let told = told.map(|told| told.field(index, Some(field.name())));
            let form = Form::given(field.data_type(), told, exact);
            (field.name().clone(), form)
        };
        Form::Record(fields.into_iter().enumerate().map(field).collect())
    }

    /// The same, plain wherever nothing has a form of its own.
    pub(super) fn collapsed(self) -> Self {
        match self {
            Form::Record(fields) => {
                let fields: Box<[_]> = fields
                    .into_iter()
                    .map(|(name, form)| (name, form.collapsed()))
                    .collect();
                match fields.iter().all(|(_, form)| *form == Form::Plain) {
                    true => Form::Plain,
                    false => Form::Record(fields),
                }
            }
            Form::List(item) => match item.collapsed() {
                Form::Plain => Form::Plain,
                item => Form::List(Box::new(item)),
            },
            Form::Map(entry) => match (entry.0.collapsed(), entry.1.collapsed()) {
                (Form::Plain, Form::Plain) => Form::Plain,
                entry => Form::Map(Box::new(entry)),
            },
            leaf => leaf,
        }
    }

    /// The form of the field at this place, or of this name if another is there.
    pub(super) fn field(&self, index: usize, name: Option<&str>) -> &Form {
        let Form::Record(fields) = self else {
            return &Form::Plain;
        };
        match (fields.get(index), name) {
            (Some((_, form)), None) => form,
            (Some((found, form)), Some(name)) if found == name => form,
            (_, Some(name)) => {
                let named = fields.iter().find(|(found, _)| found == name);
                named.map_or(&Form::Plain, |(_, form)| form)
            }
            (None, None) => &Form::Plain,
        }
    }

    /// True if the record has another field, or none, at this place.
    pub(super) fn differs_at(&self, index: usize, name: &str) -> bool {
        let Form::Record(fields) = self else {
            return false;
        };
        fields.get(index).is_none_or(|(found, _)| found != name)
    }

    /// How many fields a record has.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Form::Record(fields) => Some(fields.len()),
            _ => None,
        }
    }

    /// The form of a list's items.
    pub(super) fn item(&self) -> &Form {
        match self {
            Form::List(item) => item,
            _ => &Form::Plain,
        }
    }

    /// The forms of a map's keys and values.
    pub(super) fn entry(&self) -> (&Form, &Form) {
        match self {
            Form::Map(entry) => (&entry.0, &entry.1),
            _ => (&Form::Plain, &Form::Plain),
        }
    }
}

/// The names in a path of columns: the tables' own for what is in a list or a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    name: Name<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Name<'a> {
    Root,
    Field(&'a str),
    Place(usize),
}

impl<'a> Path<'a> {
    /// Of a row.
    pub(super) const ROOT: Path<'static> = Path {
        parent: None,
        name: Name::Root,
    };

    pub(super) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path {
            parent: Some(self),
            name: Name::Field(name),
        }
    }

    pub(super) fn place(&'a self, place: usize) -> Path<'a> {
        Path {
            parent: Some(self),
            name: Name::Place(place),
        }
    }

    /// The names with dots between them; `value` for a row that is no record.
    pub(super) fn show(&self) -> String {
        let shown = self.joined();
        match shown.is_empty() {
            true => super::VALUE_COLUMN.to_owned(),
            false => shown,
        }
    }

    fn joined(&self) -> String {
        let parent = self.parent.map_or_else(String::new, Path::joined);
        let dot = if parent.is_empty() { "" } else { "." };
        match self.name {
            Name::Root => parent,
            Name::Field(name) => format!("{parent}{dot}{name}"),
            Name::Place(place) => format!("{parent}{dot}c{place}"),
        }
    }
}
