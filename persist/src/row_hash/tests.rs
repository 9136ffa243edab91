//! What only the inside shows: single hashes, canonical bytes, and the forms that others write.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use arrow_array::{Decimal128Array, TimestampMicrosecondArray};
use arrow_cast::cast;
use arrow_schema::{Fields, TimeUnit};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::codec::Codec;
use crate::fingerprint::{hash_data, hash_error};

type Inner = Option<(Option<u8>, Option<String>)>;
type Row = (
    Option<i8>,
    u64,
    Inner,
    Vec<Inner>,
    BTreeMap<u8, Option<bool>>,
    Option<f32>,
);

type Flat = (
    (bool, String, i8),
    (i16, i32, (i64, char)),
    (f32, f64),
    String,
    u32,
);

/// Few values, so that rows are often equal and often have the same bytes in another place.
fn row() -> impl Strategy<Value = Row> {
    let inner = || {
        let text = prop::option::of("[ab]{0,2}");
        prop::option::of((prop::option::of(0..2u8), text))
    };
    (
        prop::option::of(0..2i8),
        0..2u64,
        inner(),
        prop::collection::vec(inner(), 0..3),
        prop::collection::btree_map(0..2u8, any::<Option<bool>>(), 0..3),
        prop::option::of(Just(0.5f32)),
    )
}

fn hasher<D, E>(codec: &Codec<D, E>) -> RowHasher
where
    D: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    RowHasher::new(&codec.schema()).unwrap()
}

fn canonical(hasher: &RowHasher, batch: &RecordBatch) -> Vec<Vec<u8>> {
    let rows = hasher.rows(batch).unwrap();
    (0..batch.num_rows())
        .map(|row| {
            let (mut of_rows, mut of_batch) = (Vec::new(), vec![1, 2, 3]);
            rows.canonical(row, &mut of_rows);
            let alone = hasher.rows(&batch.slice(row, 1)).unwrap();
            alone.canonical(0, &mut of_batch);
            assert_eq!(of_batch[3..], of_rows);
            of_rows
        })
        .collect()
}

fn assert_same_iff_equal<T: Debug>(values: &[T], bytes: &[Vec<u8>]) {
    for (i, a) in values.iter().enumerate() {
        for (j, b) in values.iter().enumerate() {
            let equal = format!("{a:?}") == format!("{b:?}");
            assert_eq!(equal, bytes[i] == bytes[j], "{a:?} and {b:?}");
        }
    }
}

proptest! {
    #[test]
    fn r20_columns_hash_as_values_do(rows in prop::collection::vec(row(), 1..30), from in 0..30usize) {
        let codec = Codec::<Row, String>::new().unwrap();
        let mut hasher = hasher(&codec);
        let batch = codec.encode(rows.iter().map(|row| (row, 3, 1))).unwrap();
        let expected: Vec<_> = rows.iter().map(|row| codec.hash(row).unwrap()).collect();
        prop_assert_eq!(&hasher.hash(&batch).unwrap(), &expected);
        assert_same_iff_equal(&rows, &canonical(&hasher, &batch));
        // Arrays that begin in the middle of their buffers.
        let from = from.min(rows.len());
        let slice = batch.slice(from, rows.len() - from);
        prop_assert_eq!(&hasher.hash(&slice).unwrap(), &expected[from..]);
    }

    /// Beyond a block of rows, in columns that are all put together at once.
    #[test]
    fn r20_flat_columns_hash_as_values_do(
        rows in prop::collection::vec(any::<Flat>(), 1..200),
        from in 0..200usize,
    ) {
        let codec = Codec::<Flat, String>::new().unwrap();
        let mut hasher = hasher(&codec);
        let batch = codec.encode(rows.iter().map(|row| (row, 3, 1))).unwrap();
        prop_assert!(flat::flatten(&hasher.rows(&batch).unwrap().columns).is_some());
        let expected: Vec<_> = rows.iter().map(|row| codec.hash(row).unwrap()).collect();
        prop_assert_eq!(&hasher.hash(&batch).unwrap(), &expected);
        let from = from.min(rows.len());
        let slice = batch.slice(from, rows.len() - from);
        prop_assert_eq!(&hasher.hash(&slice).unwrap(), &expected[from..]);
    }

    #[test]
    fn r20_errors_hash_as_values_do(errors in prop::collection::vec(row(), 1..30)) {
        let codec = Codec::<i64, Row>::new().unwrap();
        let mut hasher = hasher(&codec);
        let batch = codec.encode_errors(errors.iter().map(|error| (error, 3, 1))).unwrap();
        let expected: Vec<_> = errors.iter().map(|error| hash_error(error).unwrap()).collect();
        prop_assert_eq!(hasher.hash(&batch).unwrap(), expected);
        assert_same_iff_equal(&errors, &canonical(&hasher, &batch));
    }
}

#[test]
fn times_and_diffs_do_not_count_and_errors_are_not_data() {
    let codec = Codec::<Option<String>, String>::new().unwrap();
    let mut hasher = hasher(&codec);
    let text = "\"x\"".to_owned();
    let (row, error) = (Some(text.clone()), "x".to_owned());
    let ok = codec.encode([(&row, 1, 1), (&row, 2, -7), (&None, 1, 1)].into_iter());
    let err = codec.encode_errors([(&error, 1, 1)].into_iter());
    let batches = [ok.unwrap(), err.unwrap()];
    let mixed = arrow_select::concat::concat_batches(&codec.schema(), &batches).unwrap();
    let hashes = hasher.hash(&mixed).unwrap();
    assert_eq!(hashes[0], hashes[1]);
    assert_eq!(hashes[3], hash_error(&error).unwrap());
    assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), 3);
    // The bytes of a text and of an error differ in their domain.
    assert_eq!(canonical(&hasher, &mixed)[3], b"\x01\"x\"");
    assert_eq!(canonical(&hasher, &mixed)[2], b"\x00");
}

#[test]
fn what_others_write_hashes_alike() {
    let codec = Codec::<(u8, String, Option<i64>), String>::new().unwrap();
    let mut hasher = hasher(&codec);
    let rows = [(1, "a".to_owned(), None), (2, "b".to_owned(), None)];
    let expected: Vec<_> = rows.iter().map(|row| hash_data(row).unwrap()).collect();
    let batch = codec.encode(rows.iter().map(|row| (row, 1, 1))).unwrap();
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::LargeUtf8));
    let foreign = RecordBatch::try_from_iter([
        ("more", Arc::clone(batch.column(0))),
        ("c1", cast(batch.column(1), &dictionary).unwrap()),
        ("c0", cast(batch.column(0), &DataType::Int64).unwrap()),
    ]);
    assert_eq!(hasher.hash(&foreign.unwrap()).unwrap(), expected);
    let wrong = RecordBatch::try_from_iter([("c1", Arc::clone(batch.column(0)))]).unwrap();
    let error = hasher.hash(&wrong).unwrap_err();
    assert!(error.to_string().contains("the column c1"), "{error}");
}

#[test]
fn dates_timestamps_and_decimals_hash_as_their_text() {
    let date = DataType::Date32;
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let decimal = DataType::Decimal128(10, 2);
    let fields: Fields = vec![
        Field::new("c0", date.clone(), true),
        Field::new("c1", timestamp, true),
        Field::new("c2", decimal, true),
    ]
    .into();
    type Texts = (Option<String>, Option<String>, Option<String>);
    let codec = Codec::<Texts, String>::with_fields(fields).unwrap();
    let text = |text: &str| Some(text.to_owned());
    let rows: [Texts; 4] = [
        (
            text("2024-02-29"),
            text("2024-02-29T12:00:00Z"),
            text("1.50"),
        ),
        (
            text("1969-12-31"),
            text("1969-12-31T23:59:59.999999Z"),
            text("-0.07"),
        ),
        (None, text("2000-01-01T00:00:00.500Z"), None),
        (text("9999-12-31"), None, text("12345678.90")),
    ];
    let batch = codec.encode(rows.iter().map(|row| (row, 1, 1))).unwrap();
    let expected: Vec<_> = rows.iter().map(|row| hash_data(row).unwrap()).collect();
    assert_eq!(hasher(&codec).hash(&batch).unwrap(), expected);
    assert_eq!(codec.decode(&batch).unwrap().ok[2].0, rows[2]);

    // As an integer the same column is another value.
    let micros = TimestampMicrosecondArray::from(vec![1_500_000]).with_timezone("UTC");
    let cents = Decimal128Array::from(vec![5]).with_precision_and_scale(10, 2);
    let days = cast(&(Arc::new(Int32Array::from(vec![0])) as ArrayRef), &date);
    let columns: [(_, ArrayRef); 3] = [
        ("c0", days.unwrap()),
        ("c1", Arc::new(micros)),
        ("c2", Arc::new(cents.unwrap())),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let row = (
        text("1970-01-01"),
        text("1970-01-01T00:00:01.500Z"),
        text("0.05"),
    );
    assert_eq!(codec.decode(&batch).unwrap().ok[0].0, row);
    assert_eq!(
        hasher(&codec).hash(&batch).unwrap(),
        [hash_data(&row).unwrap()]
    );
}

/// Between them, all can be printed.
#[test]
fn the_first_and_the_last_date_have_a_text() {
    let field = Field::new("value", DataType::Date32, true);
    let mut hasher = RowHasher::new(&Schema::new(vec![field])).unwrap();
    let days: ArrayRef = Arc::new(Int32Array::from(vec![-95_000_000, 95_000_000]));
    let days = cast(&days, &DataType::Date32).unwrap();
    let batch = RecordBatch::try_from_iter([("value", days)]).unwrap();
    assert_eq!(hasher.hash(&batch).unwrap().len(), 2);
}

/// Whoever writes such a date has written no row; that must not bring the reader down.
#[test]
fn dates_beyond_the_calendar_are_errors() {
    let field = Field::new("value", DataType::Date32, true);
    let mut hasher = RowHasher::new(&Schema::new(vec![field])).unwrap();
    let codec = Codec::<String, String>::with_value(DataType::Date32).unwrap();
    for days in [i32::MIN, -95_000_001, 95_000_001, i32::MAX] {
        let days: ArrayRef = Arc::new(Int32Array::from(vec![days]));
        let days = cast(&days, &DataType::Date32).unwrap();
        let batch = RecordBatch::try_from_iter([("value", days)]).unwrap();
        assert!(matches!(hasher.hash(&batch), Err(Error::Row { .. })));
        assert!(matches!(codec.decode(&batch), Err(Error::Row { .. })));
    }
}

#[test]
fn columns_that_delta_cannot_hold_are_refused() {
    let time = Field::new("at", DataType::Time64(TimeUnit::Microsecond), true);
    let nested = DataType::Struct(vec![time.clone()].into());
    let list = DataType::List(Arc::new(Field::new("element", nested, true)));
    for field in [time, Field::new("list", list, true)] {
        let refused = RowHasher::new(&Schema::new(vec![field.clone()]));
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(field.name()), "{error}");
    }
}
