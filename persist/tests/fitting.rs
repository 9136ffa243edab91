//! Batches of other programs, some of whose rows the Rust types cannot hold.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, LargeStringArray, ListArray, RecordBatch, StringArray,
    StringViewArray, TimestampNanosecondArray, UInt64Array, types::Int8Type, types::Int64Type,
};
use arrow_schema::{DataType, Field, Schema};
use mvsink_persist::{Codec, Updates};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

type Row = (String, i64);

/// A batch with these columns, and times and diffs of 1.
fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    let rows = columns[0].1.len();
    let ones = || Arc::new(Int64Array::from(vec![1; rows])) as ArrayRef;
    let mut all = columns.to_vec();
    for name in ["mv_time", "mv_diff"] {
        if columns.iter().all(|(column, _)| *column != name) {
            all.push((name, ones()));
        }
    }
    RecordBatch::try_from_iter_with_nullable(
        all.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

fn texts<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn numbers(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(Int64Array::from_iter(values))
}

/// The numbers of the rows of a scalar type that fit, and how many do not, with what is wrong.
fn scalars<D: Serialize + DeserializeOwned>(values: ArrayRef) -> (Vec<D>, u64, String) {
    let codec = Codec::<D, String>::new().unwrap();
    let (updates, unfit) = codec.decode_fitting(&batch(&[("value", values)]));
    let rows = updates.ok.into_iter().map(|(row, _, _)| row).collect();
    (rows, unfit.rows, unfit.why.unwrap_or_default())
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Color {
    Red,
    Green,
}

#[test]
fn rows_that_do_not_fit_leave_the_others() {
    let codec = Codec::<Row, String>::new().unwrap();
    let rows = batch(&[
        (
            "c0",
            texts([Some("a"), None, Some("c"), Some("d"), None, Some("f")]),
        ),
        (
            "c1",
            numbers([Some(1), Some(2), None, Some(4), Some(5), None]),
        ),
        (
            "mv_error",
            texts([None, None, None, None, Some("no JSON"), Some("\"fails\"")]),
        ),
    ]);
    let (updates, unfit) = codec.decode_fitting(&rows);
    let expected = Updates {
        ok: vec![(("a".to_owned(), 1), 1, 1), (("d".to_owned(), 4), 1, 1)],
        err: vec![("fails".to_owned(), 1, 1)],
    };
    assert_eq!((updates, unfit.rows), (expected, 3));
    assert!(codec.decode(&rows).is_err());
}

#[test]
fn values_that_a_type_cannot_hold_do_not_fit() {
    let values = || numbers([Some(7), Some(-1), Some(300), Some(1 << 40), None]);
    let fitting = |(rows, unfit, why): (Vec<i64>, u64, String)| {
        assert_eq!(why.is_empty(), unfit == 0);
        (rows, unfit)
    };
    fn widen<D: Into<i64>>((rows, unfit, why): (Vec<D>, u64, String)) -> (Vec<i64>, u64, String) {
        (rows.into_iter().map(Into::into).collect(), unfit, why)
    }
    assert_eq!(fitting(widen(scalars::<u8>(values()))), (vec![7], 4));
    assert_eq!(
        fitting(widen(scalars::<i16>(values()))),
        (vec![7, -1, 300], 2)
    );
    assert_eq!(fitting(widen(scalars::<u32>(values()))), (vec![7, 300], 3));
    let (rows, unfit, _) = scalars::<u64>(values());
    assert_eq!((rows, unfit), (vec![7, 300, 1 << 40], 2));
    let (rows, unfit, _) = scalars::<Option<u64>>(values());
    assert_eq!((rows.len(), unfit), (4, 1));
    let (rows, unfit, why) = scalars::<Color>(texts([Some("Red"), Some("Blue"), Some("Green")]));
    assert_eq!((rows, unfit), (vec![Color::Red, Color::Green], 1), "{why}");
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1)]),
        Some(vec![None]),
        None,
    ]);
    // A list that is null is read as an empty one, which is not what would be stored.
    let lists = batch(&[("value", Arc::new(lists))]);
    let codec = Codec::<Vec<i64>, String>::new().unwrap();
    let (updates, unfit) = codec.decode_fitting(&lists);
    assert_eq!((updates.ok.len(), unfit.rows), (2, 1));
    let (updates, unfit) = codec.decode_exact(&lists, &codec.schema());
    assert_eq!((updates.ok.len(), unfit.rows), (1, 2));
}

#[test]
fn types_that_hold_the_same_values_fit_and_others_do_not() {
    let is_row = |values: ArrayRef| scalars::<i64>(values).0 == [7];
    assert!(is_row(Arc::new(Int32Array::from(vec![7]))));
    assert!(is_row(Arc::new(UInt64Array::from(vec![7]))));
    assert!(!is_row(Arc::new(Float64Array::from(vec![7.0]))));
    assert!(!is_row(texts([Some("7")])));
    let is_double = |values: ArrayRef| scalars::<f64>(values).0 == [7.0];
    assert!(is_double(Arc::new(Float32Array::from(vec![7.0]))));
    assert!(is_double(Arc::new(Int32Array::from(vec![7]))));
    assert!(!is_double(numbers([Some(7)])));
    assert_eq!(scalars::<f32>(Arc::new(Int16Array::from(vec![7]))).0, [7.0]);
    assert!(
        scalars::<f32>(Arc::new(Int32Array::from(vec![7])))
            .0
            .is_empty()
    );
    let is_text = |values: ArrayRef| scalars::<String>(values).0 == ["seven"];
    assert!(is_text(Arc::new(LargeStringArray::from(vec!["seven"]))));
    assert!(is_text(Arc::new(StringViewArray::from(vec!["seven"]))));
    let dictionary: DictionaryArray<Int8Type> = ["seven"].into_iter().collect();
    assert!(is_text(Arc::new(dictionary)));
    assert!(!is_text(numbers([Some(7)])));
}

#[test]
fn decimals_and_timestamps_fit_with_all_their_digits_only() {
    let decimals = Codec::<String, String>::with_value(DataType::Decimal128(10, 2)).unwrap();
    let rows = |codec: &Codec<String, String>, values: ArrayRef| {
        let (updates, unfit) = codec.decode_fitting(&batch(&[("value", values)]));
        (updates.ok.len(), unfit.rows)
    };
    let decimal = |value: i128, precision, scale| {
        let array = Decimal128Array::from(vec![value]);
        Arc::new(array.with_precision_and_scale(precision, scale).unwrap()) as ArrayRef
    };
    assert_eq!(rows(&decimals, decimal(7, 5, 1)), (1, 0));
    assert_eq!(rows(&decimals, decimal(7, 5, 3)), (0, 1));
    assert_eq!(rows(&decimals, decimal(7 * 10_i128.pow(20), 30, 2)), (0, 1));
    assert_eq!(rows(&decimals, numbers([Some(7)])), (1, 0));
    let micros = DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, Some("UTC".into()));
    let times = Codec::<String, String>::with_value(micros).unwrap();
    let nanos = |value| {
        Arc::new(TimestampNanosecondArray::from(vec![value]).with_timezone("UTC")) as ArrayRef
    };
    assert_eq!(rows(&times, nanos(7000)), (1, 0));
    assert_eq!(rows(&times, nanos(7001)), (0, 1));
    let days = Codec::<String, String>::with_value(DataType::Date32).unwrap();
    assert_eq!(rows(&days, Arc::new(Date32Array::from(vec![7]))), (1, 0));
    assert_eq!(
        rows(&days, Arc::new(Date32Array::from(vec![i32::MAX]))),
        (0, 1)
    );
}

#[test]
fn exact_rows_are_those_that_a_row_can_retract() {
    let codec = Codec::<Row, Option<i64>>::new().unwrap();
    let mut fields: Vec<_> = codec.schema().fields().iter().cloned().collect();
    fields.insert(2, Arc::new(Field::new("extra", DataType::Int64, true)));
    let table = Schema::new(fields);
    let one = || Some(1);
    let rows = batch(&[
        (
            "c0",
            texts([
                Some("exact"),
                Some("extra"),
                Some("time"),
                Some("diff"),
                None,
                None,
                Some("both"),
            ]),
        ),
        (
            "c1",
            numbers([one(), one(), one(), one(), None, None, None]),
        ),
        (
            "extra",
            numbers([None, one(), None, None, None, None, None]),
        ),
        (
            "mv_error",
            texts([None, None, None, None, Some("7"), Some(" 7"), Some("7")]),
        ),
        (
            "mv_time",
            numbers([one(), one(), None, one(), one(), one(), one()]),
        ),
        (
            "mv_diff",
            numbers([one(), one(), one(), None, one(), one(), one()]),
        ),
    ]);
    // All can be read,
    let (updates, unfit) = codec.decode_fitting(&rows);
    assert_eq!((updates.ok.len(), updates.err.len(), unfit.rows), (4, 3, 0));
    // and a few are what this codec would have written.
    let (updates, unfit) = codec.decode_exact(&rows, &table);
    let expected = Updates {
        ok: vec![(("exact".to_owned(), 1), 1, 1)],
        err: vec![(Some(7), 1, 1)],
    };
    assert_eq!((updates, unfit.rows), (expected, 5));
    // What the table does not have is no part of the row.
    let (updates, _) = codec.decode_exact(&rows, &codec.schema());
    assert_eq!(updates.ok.len(), 2);
}

#[test]
fn columns_of_another_type_fit_no_row() {
    let codec = Codec::<Row, String>::new().unwrap();
    let doubles = Arc::new(Float64Array::from(vec![1.0; 5000])) as ArrayRef;
    let rows = batch(&[("c0", texts([Some("a"); 5000])), ("c1", doubles)]);
    for (updates, unfit) in [
        codec.decode_fitting(&rows),
        codec.decode_exact(&rows, &codec.schema()),
    ] {
        assert_eq!((updates, unfit.rows), (Updates::default(), 5000));
        let why = unfit.why.unwrap();
        assert!(why.contains("c1") && why.contains("Float64"), "{why}");
    }
}
