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

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, Scalar, StringArray,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_ord::cmp;
use arrow_schema::{ArrowError, DataType, Schema};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;

use crate::conform::conform;
use crate::schema::{DIFF_COLUMN, TIME_COLUMN};

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
    /// For text; for any other simple column what reads as one of its values, as `2026-01-31` for a date.
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
                    let value = literal
                        .cast(field.data_type())
                        .map_err(|why| format!("{column} cannot be compared: {why}"))?;
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
    /// The literal as an array of one value of the type.
    fn cast(&self, wanted: &DataType) -> Result<ArrayRef, String> {
        let is_number = wanted.is_numeric();
        let fits = match self {
            Literal::Bool(_) => *wanted == DataType::Boolean,
            Literal::Int(_) => is_number,
            Literal::Float(_) => wanted.is_floating(),
            Literal::Text(_) => !wanted.is_nested(),
        };
        if !fits {
            return Err(format!("it is {wanted}, and {self:?} is not"));
        }
        let array: ArrayRef = match self {
            Literal::Bool(value) => Arc::new(BooleanArray::from(vec![*value])),
            Literal::Int(value) => Arc::new(Int64Array::from(vec![*value])),
            Literal::Float(value) => Arc::new(Float64Array::from(vec![*value])),
            Literal::Text(value) => Arc::new(StringArray::from(vec![value.as_str()])),
        };
        let options = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let value = cast_with_options(&array, wanted, &options).map_err(|e| e.to_string())?;
        if value.null_count() > 0 {
            return Err(format!("{self:?} is no value of {wanted}"));
        }
        Ok(value)
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

    #[test]
    fn literals_fit_or_are_refused() {
        use Comparison::Equal;
        let bind = |column, literal| compare(column, Equal, literal).bind(&schema());
        assert!(bind("n", Literal::Int(7)).is_ok());
        assert!(bind("n", Literal::Text("7".into())).is_ok());
        assert!(bind("day", Literal::Text("2026-01-31".into())).is_ok());
        assert!(bind("f", Literal::Int(7)).is_ok());
        for (column, literal) in [
            ("n", Literal::Int(i64::MAX)),
            ("n", Literal::Float(1.5)),
            ("n", Literal::Text("seven".into())),
            ("n", Literal::Bool(true)),
            ("day", Literal::Text("yesterday".into())),
            ("mv_time", Literal::Int(3)),
            ("other", Literal::Int(3)),
        ] {
            assert!(
                bind(column, literal.clone()).is_err(),
                "{column} {literal:?}"
            );
        }
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
