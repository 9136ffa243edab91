//! Columns by hand are those of serde, and a wrong implementation is found.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Fields};
use mvsink_persist::columnar::{Columnar, Failure, check, optional, required};
use mvsink_persist::{Codec, Error};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// What is wrong about a type's columns.
const NOTHING: u8 = 0;
const OTHER_NAME: u8 = 1;
const OTHER_TYPE: u8 = 2;
const ANOTHER_VALUE: u8 = 3;
const NULL_FOR_EMPTY: u8 = 4;
const SWAPPED_ON_READING: u8 = 5;
const READS_NULL_AS_ZERO: u8 = 6;
const WRAPS_LARGE_NUMBERS: u8 = 7;
const LOSES_A_ROW: u8 = 8;
const LACKS_A_COLUMN: u8 = 9;
const LACKS_A_ROW_ON_READING: u8 = 10;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row<const WRONG: u8> {
    id: u64,
    text: Option<String>,
    count: u16,
}

impl<const WRONG: u8> Columnar for Row<WRONG> {
    fn fields() -> Fields {
        let name = if WRONG == OTHER_NAME { "ID" } else { "id" };
        let count = if WRONG == OTHER_TYPE {
            DataType::Int64
        } else {
            DataType::UInt16
        };
        vec![
            Field::new(name, DataType::UInt64, false),
            Field::new("text", DataType::Utf8, true),
            Field::new("count", count, false),
        ]
        .into()
    }

    fn to_columns(rows: &[&Self]) -> Result<Vec<ArrayRef>, Failure> {
        let rows = if WRONG == LOSES_A_ROW {
            &rows[..rows.len().saturating_sub(1)]
        } else {
            rows
        };
        let id = |row: &&Self| match WRONG {
            WRAPS_LARGE_NUMBERS => Ok(row.id as i64),
            _ => row.id.try_into(),
        };
        let ids: Result<Vec<i64>, _> = rows.iter().map(id).collect();
        let text = |row: &&Self| match &row.text {
            Some(text) if WRONG == NULL_FOR_EMPTY && text.is_empty() => None,
            text => text.clone(),
        };
        let extra = u16::from(WRONG == ANOTHER_VALUE);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(ids?)),
            Arc::new(rows.iter().map(text).collect::<StringArray>()),
            Arc::new(Int64Array::from_iter_values(
                rows.iter().map(|row| i64::from(row.count.max(extra))),
            )),
        ];
        if WRONG == LACKS_A_COLUMN {
            columns.pop();
        }
        Ok(columns)
    }

    fn from_columns(columns: &[ArrayRef], push: &mut dyn FnMut(Self)) -> Result<(), Failure> {
        let ids = match WRONG {
            READS_NULL_AS_ZERO => optional::<Int64Array>(columns, 0)?,
            _ => required::<Int64Array>(columns, 0)?,
        };
        let texts = optional::<StringArray>(columns, 1)?;
        let counts = required::<arrow_array::Int32Array>(columns, 2)?;
        let mut rows: Vec<_> = (0..ids.len()).collect();
        if WRONG == SWAPPED_ON_READING && rows.len() > 1 {
            rows.swap(0, 1);
        }
        if WRONG == LACKS_A_ROW_ON_READING {
            rows.pop();
        }
        for row in rows {
            push(Row {
                id: ids.value(row).try_into()?,
                text: texts.is_valid(row).then(|| texts.value(row).to_owned()),
                count: counts.value(row).try_into()?,
            });
        }
        Ok(())
    }
}

fn row<const WRONG: u8>() -> impl Strategy<Value = Row<WRONG>> {
    let id = prop_oneof![0..=i64::MAX as u64, 0..3u64];
    let text = prop::option::of(".{0,4}");
    (id, text, any::<u16>()).prop_map(|(id, text, count)| Row { id, text, count })
}

fn checked<const WRONG: u8>() -> Result<(), String> {
    let text = |text: &str| Some(text.to_owned());
    let rows = [
        (1, text("a"), 0),
        (i64::MAX as u64, text(""), u16::MAX),
        (2, None, 7),
        (u64::MAX, None, 7),
    ];
    let rows = rows.map(|(id, text, count)| Row::<WRONG> { id, text, count });
    let by_serde = Codec::<Row<WRONG>, String>::new().unwrap();
    check(&by_serde, &rows[..3])?;
    check(&by_serde, &rows)
}

#[test]
fn a_right_implementation_passes() {
    assert_eq!(checked::<NOTHING>(), Ok(()));
}

#[test]
fn wrong_implementations_are_found() {
    let cases = [
        (checked::<OTHER_NAME>(), "ID"),
        (checked::<OTHER_TYPE>(), "Int64"),
        (checked::<ANOTHER_VALUE>(), "count"),
        (checked::<NULL_FOR_EMPTY>(), "text"),
        (checked::<SWAPPED_ON_READING>(), "other rows"),
        (checked::<READS_NULL_AS_ZERO>(), "id is null"),
        (checked::<WRAPS_LARGE_NUMBERS>(), "only by serde"),
        (checked::<LOSES_A_ROW>(), "only by hand"),
        (checked::<LACKS_A_COLUMN>(), "2 columns"),
        (checked::<LACKS_A_ROW_ON_READING>(), "2 rows"),
    ];
    for (result, expected) in cases {
        let why = result.expect_err(expected);
        assert!(why.contains(expected), "{why:?} does not say {expected:?}");
    }
}

#[test]
fn errors_and_data_mix() {
    let codec = Codec::<Row<NOTHING>, String>::columnar().unwrap();
    let row = |id| Row {
        id,
        text: None,
        count: 1,
    };
    let (a, b, error) = (row(1), row(2), "e".to_owned());
    let batches = [
        codec.encode([(&a, 1, 1)].into_iter()).unwrap(),
        codec.encode_errors([(&error, 2, 2)].into_iter()).unwrap(),
        codec.encode([(&b, 3, 3)].into_iter()).unwrap(),
    ];
    let mixed = arrow_select::concat::concat_batches(&codec.schema(), &batches).unwrap();
    let updates = codec.decode(&mixed).unwrap();
    assert_eq!(updates.ok, [(a, 1, 1), (b, 3, 3)]);
    assert_eq!(updates.err, [(error, 2, 2)]);
    let errors = codec.decode(&batches[1]).unwrap();
    assert!(errors.ok.is_empty() && errors.err.len() == 1);
}

#[test]
fn a_value_that_does_not_fit_is_an_error_of_the_type() {
    let codec = Codec::<Row<NOTHING>, String>::columnar().unwrap();
    let large = Row {
        id: u64::MAX,
        text: None,
        count: 1,
    };
    let refused = codec.encode([(&large, 1, 1)].into_iter());
    assert!(matches!(refused, Err(Error::Type { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(mvsink_persist::testing::cases(64)))]

    #[test]
    fn rows_are_those_of_serde(rows in prop::collection::vec(row::<NOTHING>(), 0..20)) {
        let by_serde = Codec::<Row<NOTHING>, String>::new().unwrap();
        prop_assert_eq!(check(&by_serde, &rows), Ok(()));
    }
}
