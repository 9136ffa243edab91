//! Which rows a reader wants: a conjunction of simple predicates on columns.
//!
//! ```text
//!   row passes  ⇔  p₁(row) ∧ p₂(row) ∧ …,     p = column {=, ≠, <, ≤, >, ≥} literal | column is [not] null
//! ```
//!
//! As in SQL, a comparison with null is never true; so a row that is an error, whose columns are all null,
//! passes no comparison. Floats are in the total order, in which NaN is beyond all numbers.
//!
//! A predicate is used twice: on the statistics of a row group, to leave out groups in which no row can pass,
//! and on the rows. Only the second decides, so statistics are used only where they are sure to be bounds: not of
//! floats (whose statistics ignore NaN and the sign of zero), not of old writers, and not for ≠.

use std::fmt;
use std::sync::Arc;

use arrow_array::timezone::Tz;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, Scalar, StringArray,
    TimestampMicrosecondArray,
};
use arrow_cast::parse::string_to_datetime;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_ord::cmp;
use arrow_schema::{
    ArrowError, DECIMAL128_MAX_SCALE, DECIMAL256_MAX_PRECISION, DataType, Schema, TimeUnit,
};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;

use crate::conform::conform;
use crate::schema::{DIFF_COLUMN, TIME_COLUMN, type_name};

/// The microseconds of a day.
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "there are six comparisons in an order"
)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `≠`
    NotEqual,
    /// `<`
    Less,
    /// `≤`
    LessOrEqual,
    /// `>`
    Greater,
    /// `≥`
    GreaterOrEqual,
}

/// What a column is compared with. It is converted to the column's type, exactly or not at all.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Literal {
    /// For columns of truth values.
    Bool(bool),
    /// For columns of numbers.
    Int(i64),
    /// For columns of floats.
    Float(f64),
    /// For text; for any other simple column the text of one of its values: `2026-01-31` for a date, `12.50` for a
    /// decimal, `2026-01-31T12:00:00+01:00` for a timestamp (without a zone: in UTC).
    Text(String),
}

/// A condition on one column.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Predicate {
    /// The column compared with the literal is true.
    Compare {
        /// The name of the column.
        column: String,
        /// How it is compared.
        comparison: Comparison,
        /// What with.
        literal: Literal,
    },
    /// The column is null.
    IsNull {
        /// The name of the column.
        column: String,
    },
    /// The column is not null.
    IsNotNull {
        /// The name of the column.
        column: String,
    },
}

impl Predicate {
    fn column(&self) -> &str {
        match self {
            Predicate::Compare { column, .. }
            | Predicate::IsNull { column }
            | Predicate::IsNotNull { column } => column,
        }
    }
}

/// The rows for which all of its predicates hold; without any, all rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    predicates: Vec<Predicate>,
}

impl Filter {
    /// All rows.
    pub fn all() -> Self {
        Filter::default()
    }

    /// Of these rows those for which the predicate holds.
    #[must_use]
    pub fn and(mut self, predicate: Predicate) -> Self {
        self.predicates.push(predicate);
        self
    }

    /// Of these rows those that pass the other filter too.
    #[must_use]
    pub fn and_all(mut self, other: Filter) -> Self {
        self.predicates.extend(other.predicates);
        self
    }

    /// True if every row passes.
    pub fn is_all(&self) -> bool {
        self.predicates.is_empty()
    }

    /// The filter for a table with these columns.
    ///
    /// # Errors
    /// In words, if a column is not there or a literal does not fit it.
    pub(crate) fn bind(&self, schema: &Schema) -> Result<BoundFilter, String> {
        let bind = |predicate: &Predicate| {
            let column = predicate.column();
            if [TIME_COLUMN, DIFF_COLUMN].contains(&column) {
                return Err(format!("{column} cannot be filtered by, only data can"));
            }
            let field = schema
                .field_with_name(column)
                .map_err(|_| format!("there is no column {column}"))?;
            let test = match predicate {
                Predicate::IsNull { .. } => Test::Null(true),
                Predicate::IsNotNull { .. } => Test::Null(false),
                Predicate::Compare {
                    comparison,
                    literal,
                    ..
                } => {
                    let data_type = field.data_type();
                    let value = literal.cast(data_type).ok_or_else(|| {
                        format!(
                            "the column {column} is {} and cannot be compared with {literal}: {}",
                            type_name(data_type),
                            expected(data_type),
                        )
                    })?;
                    Test::Compare(*comparison, Scalar::new(value))
                }
            };
            Ok(Bound {
                column: column.to_owned(),
                data_type: field.data_type().clone(),
                test,
            })
        };
        Ok(BoundFilter {
            all: self.predicates.iter().map(bind).collect::<Result<_, _>>()?,
        })
    }
}

impl Literal {
    /// The literal as an array of one value of the type; `None` if it is not exactly that.
    fn cast(&self, wanted: &DataType) -> Option<ArrayRef> {
        let fits = match self {
            Literal::Bool(_) => *wanted == DataType::Boolean,
            Literal::Int(_) => wanted.is_numeric(),
            Literal::Float(_) => wanted.is_floating(),
            Literal::Text(_) => !wanted.is_nested(),
        };
        if !fits {
            return None;
        }
        let array: ArrayRef = match self {
            Literal::Bool(value) => Arc::new(BooleanArray::from(vec![*value])),
            Literal::Int(value) => Arc::new(Int64Array::from(vec![*value])),
            Literal::Float(value) => Arc::new(Float64Array::from(vec![*value])),
            Literal::Text(text) => match wanted {
                // Arrow knows zones by their offsets alone, and leaves out what is finer than the type.
                DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => {
                    let micros = micros_of(text)?;
                    let array = TimestampMicrosecondArray::from(vec![micros]);
                    return Some(Arc::new(array.with_timezone(Arc::clone(zone))));
                }
                // Arrow leaves out the time of day.
                DataType::Date32 if text.contains(':') && micros_of(text)? % DAY_MICROS != 0 => {
                    return None;
                }
                _ => Arc::new(StringArray::from(vec![text.as_str()])),
            },
        };
        let value = cast_exactly(&array, wanted)?;
        if let DataType::Decimal128(..) = wanted {
            // Digits beyond the scale would be rounded.
            let wide = DataType::Decimal256(DECIMAL256_MAX_PRECISION, DECIMAL128_MAX_SCALE);
            if cast_exactly(&value, &wide)?.as_ref() != cast_exactly(&array, &wide)?.as_ref() {
                return None;
            }
        }
        Some(value)
    }
}

impl fmt::Display for Literal {
    /// As on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Bool(value) => value.fmt(f),
            Literal::Int(value) => value.fmt(f),
            Literal::Float(value) => value.fmt(f),
            Literal::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
        }
    }
}

/// The value in this type; `None` if it has none.
fn cast_exactly(array: &ArrayRef, wanted: &DataType) -> Option<ArrayRef> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let value = cast_with_options(array, wanted, &options).ok()?;
    (value.null_count() == 0).then_some(value)
}

/// The microseconds from 1970 to a time as RFC 3339 writes it, or without its zone, which is UTC then, or to the
/// beginning of a day. `None` if the text is none, or is finer.
fn micros_of(text: &str) -> Option<i64> {
    let utc: Tz = "+00:00".parse().ok()?;
    let time = string_to_datetime(&utc, text.trim()).ok()?;
    let is_whole = time.timestamp_subsec_nanos() % 1000 == 0;
    is_whole.then(|| time.timestamp_micros())
}

/// What a column of this type is compared with, in words.
fn expected(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "true or false is expected".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            "a whole number in its range is expected".to_owned()
        }
        DataType::Decimal128(precision, scale) => format!(
            "a number of at most {precision} digits, {scale} of them behind the point, is expected"
        ),
        DataType::Float32 | DataType::Float64 => "a number is expected".to_owned(),
        DataType::Utf8 => "text in single quotes is expected".to_owned(),
        DataType::Date32 => "a day as '2026-01-31' is expected".to_owned(),
        DataType::Timestamp(..) => {
            "a time as '2026-01-31T12:00:00Z' or '2026-01-31 12:00:00.5+01:00' is expected"
                .to_owned()
        }
        nested if nested.is_nested() => "it can only be tested for null".to_owned(),
        _ => "another value is expected".to_owned(),
    }
}

/// A filter whose literals have the types of their columns.
#[derive(Clone)]
pub(crate) struct BoundFilter {
    all: Vec<Bound>,
}

#[derive(Clone)]
struct Bound {
    column: String,
    data_type: DataType,
    test: Test,
}

#[derive(Clone)]
enum Test {
    /// The column is null, or is not.
    Null(bool),
    Compare(Comparison, Scalar<ArrayRef>),
}

impl BoundFilter {
    pub(crate) fn is_all(&self) -> bool {
        self.all.is_empty()
    }

    /// The columns that it looks at.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|bound| bound.column.as_str())
    }

    /// False only if no row of the group passes.
    pub(crate) fn may_match(&self, metadata: &ArrowReaderMetadata, group: usize) -> bool {
        // What cannot be told from the statistics is told by the rows.
        self.all
            .iter()
            .all(|bound| bound.may_match(metadata, group).unwrap_or(true))
    }

    /// Which rows pass; `None` means all. The batch has the columns of the table that the filter was bound to.
    pub(crate) fn mask(&self, batch: &RecordBatch) -> Result<Option<BooleanArray>, ArrowError> {
        let mut mask: Option<BooleanArray> = None;
        for bound in &self.all {
            let passes = bound.passes(batch)?;
            mask = Some(match mask {
                None => passes,
                Some(mask) => BooleanArray::new(mask.values() & passes.values(), None),
            });
        }
        Ok(mask)
    }
}

impl Bound {
    /// Without nulls: what is unknown does not pass.
    fn passes(&self, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        let column = batch.column_by_name(&self.column).ok_or_else(|| {
            ArrowError::SchemaError(format!("the column {} was not read", self.column))
        })?;
        let passes = match &self.test {
            Test::Null(wanted) => (0..column.len())
                .map(|row| Some(column.is_null(row) == *wanted))
                .collect(),
            Test::Compare(comparison, literal) => match comparison {
                Comparison::Equal => cmp::eq(column, literal)?,
                Comparison::NotEqual => cmp::neq(column, literal)?,
                Comparison::Less => cmp::lt(column, literal)?,
                Comparison::LessOrEqual => cmp::lt_eq(column, literal)?,
                Comparison::Greater => cmp::gt(column, literal)?,
                Comparison::GreaterOrEqual => cmp::gt_eq(column, literal)?,
            },
        };
        Ok(match passes.nulls() {
            Some(known) => BooleanArray::new(passes.values() & known.inner(), None),
            None => passes,
        })
    }

    /// `None` if the statistics do not tell.
    fn may_match(&self, metadata: &ArrowReaderMetadata, group: usize) -> Option<bool> {
        let group = metadata.metadata().row_groups().get(group)?;
        let schema = metadata.schema();
        let parquet = metadata.parquet_schema();
        let converter = StatisticsConverter::try_new(&self.column, schema, parquet).ok()?;
        let statistics = group
            .column(converter.parquet_column_index()?)
            .statistics()?;
        let (comparison, literal) = match &self.test {
            Test::Null(wanted) => {
                let nulls = statistics.null_count_opt()?;
                let rows = u64::try_from(group.num_rows()).ok()?;
                return Some(if *wanted { nulls > 0 } else { nulls < rows });
            }
            Test::Compare(comparison, literal) => (*comparison, literal),
        };
        if statistics.is_min_max_deprecated() || self.data_type.is_floating() {
            return None;
        }
        let bound = |array: ArrayRef| {
            let array = conform(&array, &self.data_type).ok()?;
            array.is_valid(0).then_some(array)
        };
        let min = || bound(converter.row_group_mins([group]).ok()?);
        let max = || bound(converter.row_group_maxes([group]).ok()?);
        let holds = |compared: Result<BooleanArray, ArrowError>| Some(compared.ok()?.value(0));
        match comparison {
            Comparison::Equal => {
                let above = holds(cmp::lt_eq(&min()?, literal))?;
                Some(above && holds(cmp::gt_eq(&max()?, literal))?)
            }
            Comparison::Less => holds(cmp::lt(&min()?, literal)),
            Comparison::LessOrEqual => holds(cmp::lt_eq(&min()?, literal)),
            Comparison::Greater => holds(cmp::gt(&max()?, literal)),
            Comparison::GreaterOrEqual => holds(cmp::gt_eq(&max()?, literal)),
            Comparison::NotEqual => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::Field;

    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("n", DataType::Int32, true),
            Field::new("day", DataType::Date32, true),
            Field::new("f", DataType::Float64, true),
            Field::new("b", DataType::Boolean, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("price", DataType::Decimal128(10, 2), true),
            Field::new(
                "at",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                true,
            ),
            Field::new_list("list", Field::new("element", DataType::Int32, true), true),
            Field::new("mv_time", DataType::Int64, true),
        ])
    }

    fn compare(column: &str, comparison: Comparison, literal: Literal) -> Filter {
        Filter::all().and(Predicate::Compare {
            column: column.into(),
            comparison,
            literal,
        })
    }

    /// The message if the literal does not fit the column.
    fn refusal(column: &str, literal: Literal) -> Option<String> {
        compare(column, Comparison::Equal, literal)
            .bind(&schema())
            .err()
    }

    #[test]
    fn literals_fit_or_are_refused_with_the_columns_name_and_type() {
        let text = |text: &str| Literal::Text(text.to_owned());
        for (column, literal) in [
            ("n", Literal::Int(7)),
            ("n", text("7")),
            ("day", text("2026-01-31")),
            ("day", text("2026-01-31T01:00:00+01:00")),
            ("f", Literal::Int(7)),
            ("f", text("1e300")),
            ("f", text("NaN")),
            ("b", Literal::Bool(true)),
            ("s", text("it's")),
            ("price", Literal::Int(-7)),
            ("price", text("1.50")),
            ("price", text("1.500")),
            ("price", text("-99999999.99")),
            ("at", text("2026-01-31")),
            ("at", text("2026-01-31T12:00:00Z")),
            ("at", text("2026-01-31t12:00:00.123456z")),
            ("at", text("2026-01-31 12:00:00.123456000")),
            ("at", text("2026-01-31T12:00:00-11:30")),
            ("at", text("0001-01-01T00:00:00Z")),
            ("at", text("9999-12-31T23:59:59.999999+14:00")),
        ] {
            assert_eq!(refusal(column, literal.clone()), None, "{literal:?}");
        }
        for (column, literal, said) in [
            ("n", Literal::Int(i64::MAX), "n is integer"),
            ("n", Literal::Float(1.5), "n is integer"),
            ("n", text("seven"), "compared with 'seven'"),
            ("n", Literal::Bool(true), "compared with true"),
            ("day", text("yesterday"), "day is date"),
            ("day", Literal::Int(20260131), "'2026-01-31'"),
            ("day", text("2026-01-31T12:00:00Z"), "day is date"),
            ("b", Literal::Int(1), "b is boolean"),
            ("s", Literal::Int(1), "single quotes"),
            ("price", text("1.005"), "price is decimal(10,2)"),
            ("price", text("123456789"), "at most 10 digits"),
            ("price", Literal::Int(i64::MIN), "price is decimal(10,2)"),
            ("price", text("dear"), "price is decimal(10,2)"),
            ("at", Literal::Int(0), "at is timestamp"),
            (
                "at",
                text("2026-01-31T12:00:00.1234567Z"),
                "at is timestamp",
            ),
            ("at", text("2026-02-30T12:00:00Z"), "at is timestamp"),
            (
                "at",
                text("2026-01-31T12:00:00 Mars"),
                "'2026-01-31T12:00:00Z'",
            ),
            ("list", text("[]"), "tested for null"),
            ("mv_time", Literal::Int(3), "only data can"),
            ("other", Literal::Int(3), "no column other"),
        ] {
            let refused = refusal(column, literal.clone()).unwrap_or_default();
            assert!(refused.contains(said), "{column} {literal:?}: {refused}");
            assert!(refused.contains(column), "{refused}");
        }
    }

    #[test]
    fn a_time_is_the_same_in_every_zone() {
        let rows = |comparison, text: &str| {
            let at = TimestampMicrosecondArray::from(vec![1_769_860_800_000_000, 0]);
            let batch =
                RecordBatch::try_from_iter([("at", Arc::new(at.with_timezone("UTC")) as ArrayRef)])
                    .unwrap();
            let filter = compare("at", comparison, Literal::Text(text.to_owned()));
            let mask = filter.bind(&schema()).unwrap().mask(&batch).unwrap();
            mask.unwrap().iter().flatten().collect::<Vec<_>>()
        };
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T14:00:00+02:00",
            "2026-01-31T02:30:00-09:30",
            "2026-01-31 12:00:00",
            " 2026-01-31T12:00:00.000 ",
        ] {
            assert_eq!(rows(Comparison::Equal, text), [true, false], "{text}");
            assert_eq!(rows(Comparison::Less, text), [false, true], "{text}");
        }
        assert_eq!(rows(Comparison::LessOrEqual, "1970-01-01"), [false, true]);
    }

    #[test]
    fn a_comparison_with_null_is_not_true() {
        let values = [Some(1), None, Some(3)];
        let batch = RecordBatch::try_from_iter([(
            "n",
            Arc::new(arrow_array::Int32Array::from(values.to_vec())) as ArrayRef,
        )])
        .unwrap();
        let rows = |filter: &Filter| {
            let mask = filter.bind(&schema()).unwrap().mask(&batch).unwrap();
            mask.unwrap().iter().flatten().collect::<Vec<_>>()
        };
        let n = |comparison| compare("n", comparison, Literal::Int(1));
        assert_eq!(rows(&n(Comparison::NotEqual)), [false, false, true]);
        assert_eq!(rows(&n(Comparison::LessOrEqual)), [true, false, false]);
        let column = || "n".to_owned();
        let null = Filter::all().and(Predicate::IsNull { column: column() });
        assert_eq!(rows(&null), [false, true, false]);
        let both = n(Comparison::Greater).and(Predicate::IsNotNull { column: column() });
        assert_eq!(rows(&both), [false, false, true]);
    }
}
