//! The columns that a type tells when it is read.
//!
//! A type is deserialized from values that are made up, again and again, until all of it has been seen. What a
//! type reads from text need not be text: a date takes the form of one. So where a type refuses a text, it gets
//! the next of a list, and what it takes says in which column it lies:
//!
//! ```text
//!   anything                     a string
//!   2001-02-03T04:05:06Z         a timestamp, and with a zone or without it
//!   2001-02-03                   a date
//!   1.5                          a decimal
//!   a UUID                       binary
//!   an address                   a string
//! ```
//!
//! The value that comes out is stored in turn: a type that writes something else than it reads goes on with the next
//! text, and is refused at the end.

mod asked;

use std::cell::RefCell;
use std::fmt;

use arrow_schema::{DataType, Field, Fields};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::asked::Asked;
use super::form::{Form, Path};
use super::store::{Notes, Stored};
use crate::fingerprint::check_options;
use crate::schema::{DECIMAL, mark_tuple, utc_timestamp};

/// A type is read once for each text that it refuses and each variant of its enums; this bounds the work.
const ATTEMPTS: usize = 10_000;

const TIMESTAMP: Form = Form::Timestamp { zoned: true };
const LOCAL_TIMESTAMP: Form = Form::Timestamp { zoned: false };

/// Texts, and how lies what a type reads from them.
const TEXTS: &[(&str, Form)] = &[
    ("~", Form::Plain),
    ("2001-02-03T04:05:06.789012Z", TIMESTAMP),
    ("2001-02-03T04:05:06.789012", LOCAL_TIMESTAMP),
    ("2001-02-03", Form::Date),
    ("1.5", DECIMAL_FORM),
    ("04:05:06.789", Form::Plain),
    ("192.0.2.1", Form::Plain),
    ("2001:db8::1", Form::Plain),
    ("192.0.2.1:80", Form::Plain),
    ("[2001:db8::1]:80", Form::Plain),
    ("192.0.2.0/24", Form::Plain),
    (UUID, Form::Uuid),
    // Its text without hyphens, or with more than these.
    (UUID, Form::Plain),
    ("https://example.org/", Form::Plain),
    ("a@example.org", Form::Plain),
    ("PT1H", Form::Plain),
    ("1.2.3", Form::Plain),
    ("UTC", Form::Plain),
    ("EUR", Form::Plain),
    ("00", Form::Plain),
    ("", Form::Plain),
];

const UUID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

const DECIMAL_FORM: Form = Form::Decimal {
    precision: DECIMAL.0,
    scale: DECIMAL.1,
    trimmed: true,
};

/// What a type tells.
pub(super) struct Told {
    /// Its columns, as one field of a record.
    pub(super) field: Field,
    pub(super) form: Form,
    /// Whether it has values that columns hold otherwise than by serde: characters, arrays of bytes.
    pub(super) reshaped: bool,
}

/// Asks a type for its columns.
///
/// # Errors
///
/// In words, with the column's name, if it does not tell.
pub(super) fn trace<D: Serialize + DeserializeOwned>() -> Result<Told, String> {
    let mut tries = Vec::new();
    let mut refused = String::new();
    for _ in 0..ATTEMPTS {
        let attempt = RefCell::new(Attempt {
            tries: std::mem::take(&mut tries),
            ..Attempt::default()
        });
        let mut part = Part::default();
        let read = D::deserialize(Asked::whole(&attempt, &mut part));
        let mut attempt = attempt.into_inner();
        if let Some(problem) = attempt.problem {
            return Err(problem);
        }
        let place = match read {
            // What was read last has been refused, if not at once.
            Err(error) => {
                let last = attempt.places.len().checked_sub(1);
                refused = error.to_string();
                last.ok_or_else(|| format!("it cannot be read from made up values: {refused}"))?
            }
            Ok(value) => match attempt.unlike(&value, &part) {
                Some(place) => place,
                None => match attempt.unseen() {
                    Some(place) => place,
                    None => return Ok(part.told()),
                },
            },
        };
        let Place { path, count } = &attempt.places[place];
        attempt.tries[place] += 1;
        if attempt.tries[place] >= *count {
            return Err(format!(
                "column `{path}`: its type reads text of a form that is not known here ({refused}); store it as a string, or give the columns by hand"
            ));
        }
        tries = attempt.tries;
    }
    Err("it has too many variants".into())
}

/// Where a type had a choice of what to read.
struct Place {
    path: String,
    /// How many choices there are.
    count: usize,
}

#[derive(Default)]
struct Attempt {
    /// The choice at each place, in the order in which they are met.
    tries: Vec<usize>,
    places: Vec<Place>,
    /// Places at which all choices are to be seen.
    enums: Vec<usize>,
    /// What cannot be helped.
    problem: Option<String>,
}

impl Attempt {
    /// The choice at the next place.
    fn choice(&mut self, path: &Path<'_>, count: usize) -> usize {
        let place = self.places.len();
        let path = path.show();
        self.places.push(Place { path, count });
        if self.tries.len() == place {
            self.tries.push(0);
        }
        self.tries[place]
    }

    /// The place of which a value that was read is not written in the form that it was read in.
    fn unlike<D: Serialize>(&mut self, value: &D, part: &Part) -> Option<usize> {
        let notes = Notes::default();
        let stored = Stored {
            value,
            form: &part.form,
            path: &Path::ROOT,
            notes: &notes,
        };
        check_options(&stored).err()?;
        let (path, _) = notes.unfit.take()?;
        self.places.iter().position(|place| place.path == path)
    }

    /// An enum of which not all variants were seen.
    fn unseen(&self) -> Option<usize> {
        let left = |place: &&usize| self.tries[**place] + 1 < self.places[**place].count;
        self.enums.iter().find(left).copied()
    }
}

/// What is known of a part of a type.
#[derive(Debug)]
struct Part {
    data_type: DataType,
    nullable: bool,
    tuple: bool,
    form: Form,
    reshaped: bool,
}

impl Default for Part {
    fn default() -> Self {
        Part {
            data_type: DataType::Null,
            nullable: false,
            tuple: false,
            form: Form::Plain,
            reshaped: false,
        }
    }
}

impl Part {
    fn field(&self, name: &str) -> Field {
        let field = Field::new(name, self.data_type.clone(), self.nullable);
        if self.tuple { mark_tuple(field) } else { field }
    }

    fn told(self) -> Told {
        Told {
            field: self.field(super::VALUE_COLUMN),
            form: self.form.collapsed(),
            reshaped: self.reshaped,
        }
    }

    fn is(&mut self, data_type: DataType) {
        self.data_type = data_type;
    }

    fn lies_as(&mut self, form: &Form) {
        self.form = form.clone();
        self.data_type = match form {
            Form::Date => DataType::Date32,
            Form::Timestamp { .. } => utc_timestamp(),
            Form::Decimal {
                precision, scale, ..
            } => DataType::Decimal128(*precision, i8::try_from(*scale).unwrap_or(0)),
            Form::Bytes | Form::Uuid => DataType::Binary,
            _ => DataType::Utf8,
        };
    }

    /// A record of these parts.
    fn record(&mut self, parts: Vec<(String, Part)>, tuple: bool) {
        let names = |(name, part): &(String, Part)| part.field(name);
        let fields: Fields = parts.iter().map(names).collect();
        self.reshaped = parts.iter().any(|(_, part)| part.reshaped);
        self.data_type = DataType::Struct(fields);
        self.tuple = tuple;
        let stored = |(name, part): (String, Part)| match tuple {
            true => (format!("c{name}"), part.form),
            false => (name, part.form),
        };
        self.form = Form::Record(parts.into_iter().map(stored).collect());
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told")
            .field("field", &self.field)
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}
