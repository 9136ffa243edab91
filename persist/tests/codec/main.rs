//! Rows of every serde type survive the way through Arrow and Parquet, with their fingerprints.

#[path = "../support/mod.rs"]
mod support;
mod types;
mod values;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Fields, TimeUnit};
use mvsink_persist::fingerprint::hash_error;
use mvsink_persist::{
    Codec, EncodedFile, Error, FileEncoder, NO_TIME, Open, Sums, Updates, decode_file, schema,
};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use values::*;

fn codec<D: Serialize + DeserializeOwned>() -> Codec<D, String> {
    Codec::new().unwrap_or_else(|error| panic!("{error}"))
}

fn borrow<D>(rows: &[(D, i64, i64)]) -> impl Iterator<Item = (&D, i64, i64)> {
    rows.iter().map(|(data, time, diff)| (data, *time, *diff))
}

fn file(batches: &[RecordBatch]) -> EncodedFile {
    let mut encoder = FileEncoder::new(batches[0].schema()).unwrap();
    for batch in batches {
        encoder.write(batch).unwrap();
    }
    encoder.finish().unwrap()
}

/// The batches that come back from a file of these, with the same fingerprints.
fn through_file(batches: &[RecordBatch], batch_rows: usize) -> Vec<RecordBatch> {
    let written = file(batches);
    let decoder = decode_file("test.parquet", written.bytes, None, batch_rows).unwrap();
    assert_eq!(decoder.rows(), written.rows);
    let read: Vec<_> = decoder.map(Result::unwrap).collect();
    if !read.is_empty() {
        let again = file(&read);
        assert_eq!((again.sums, again.sorted), (written.sums, written.sorted));
    }
    read
}

fn sums(hashes: impl Iterator<Item = (u128, i64)>) -> Sums {
    let mut sums = Sums::default();
    for (hash, diff) in hashes {
        sums.add(hash, diff);
    }
    sums
}

/// Encodes, stores, reads and decodes; the same rows with the same fingerprints must come back, whether they are
/// taken from columns or from values. `Debug` tells the bits that `==` hides: −0.0, and NaN as itself.
fn check_round_trip<D>(codec: &Codec<D, String>, rows: &[(D, i64, i64)])
where
    D: Serialize + DeserializeOwned + Debug,
{
    let batch = codec.encode(borrow(rows)).unwrap();
    assert_eq!(batch.schema(), codec.schema());
    let hashes: Vec<_> = rows
        .iter()
        .map(|(data, ..)| codec.hash(data).unwrap())
        .collect();
    let written = file(std::slice::from_ref(&batch));
    let with_diffs = hashes.iter().zip(rows).map(|(hash, row)| (*hash, row.2));
    assert_eq!(written.sums, sums(with_diffs));
    assert_eq!(written.sorted, hashes.is_sorted());
    let mut decoded = Vec::new();
    for batch in through_file(&[batch], 7) {
        let updates = codec.decode(&batch).unwrap();
        assert!(updates.err.is_empty());
        decoded.extend(updates.ok);
    }
    assert_eq!(format!("{decoded:?}"), format!("{rows:?}"));
    for ((back, ..), hash) in decoded.iter().zip(hashes) {
        assert_eq!(codec.hash(back).unwrap(), hash);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(mvsink_persist::testing::cases(64)))]

    #[test]
    fn r20_rich_structs_keep_their_fingerprints(rows in rows(rich())) {
        check_round_trip(&codec(), &rows);
    }

    #[test]
    fn r20_tuples_keep_their_fingerprints(
        rows in rows((unsigned(), text(), any::<Option<i32>>(), nested(), (float(), any::<bool>()))),
    ) {
        check_round_trip(&codec(), &rows);
    }

    #[test]
    fn r20_flat_rows_keep_their_fingerprints(
        structs in rows(flat()),
        tuples in rows((unsigned(), prop::option::of(text()), any::<Option<bool>>(), prop::num::f32::ANY)),
        wrapped in rows(flat().prop_map(Wrapped)),
    ) {
        check_round_trip(&codec(), &structs);
        check_round_trip(&codec(), &tuples);
        check_round_trip(&codec(), &wrapped);
    }

    #[test]
    fn r20_scalars_keep_their_fingerprints(
        texts in rows(text()),
        unsigned in rows(unsigned()),
        narrow in rows(any::<i8>()),
        floats in rows(float()),
        singles in rows(prop::num::f32::ANY),
    ) {
        check_round_trip(&codec(), &texts);
        check_round_trip(&codec(), &unsigned);
        check_round_trip(&codec(), &narrow);
        check_round_trip(&codec(), &floats);
        check_round_trip(&codec(), &singles);
    }

    #[test]
    fn r20_other_values_keep_their_fingerprints(
        options in rows(any::<Option<bool>>()),
        maybe_texts in rows(prop::option::of(text())),
        lists in rows(prop::collection::vec(prop::option::of(text()), 0..4)),
        maybe_structs in rows(prop::option::of(nested())),
        colors in rows(color()),
        maps in rows(prop::collection::btree_map(any::<i32>(), text(), 0..4)),
        sparse_maps in rows(prop::collection::btree_map(
            text(),
            prop::option::of((any::<Option<u8>>(), any::<Option<bool>>())),
            0..4,
        )),
        lists_of_options in rows(prop::collection::vec(
            prop::option::of((any::<Option<u8>>(), prop::option::of((any::<Option<u8>>(),)))),
            0..4,
        )),
        trailing in rows((any::<u8>(), any::<Option<u8>>(), any::<Option<u8>>())),
    ) {
        check_round_trip(&codec(), &sparse_maps);
        check_round_trip(&codec(), &lists_of_options);
        check_round_trip(&codec(), &trailing);
        check_round_trip(&codec(), &options);
        check_round_trip(&codec(), &maybe_texts);
        check_round_trip(&codec(), &lists);
        check_round_trip(&codec(), &maybe_structs);
        check_round_trip(&codec(), &colors);
        check_round_trip(&codec(), &maps);
    }

    #[test]
    fn r20_errors_keep_their_fingerprints(
        rows in rows((
            text(),
            any::<u64>(),
            prop::num::f64::NORMAL | prop::num::f64::ZERO,
            prop::collection::btree_map(text(), any::<Option<bool>>(), 0..4),
        )),
    ) {
        let codec: Codec<i64, _> = Codec::new().unwrap();
        let batch = codec.encode_errors(borrow(&rows)).unwrap();
        assert_eq!(batch.schema(), codec.schema());
        let hashes = rows.iter().map(|(error, _, diff)| (hash_error(error).unwrap(), *diff));
        assert_eq!(file(std::slice::from_ref(&batch)).sums, sums(hashes));
        let mut decoded = Vec::new();
        for batch in through_file(&[batch], 7) {
            let updates = codec.decode(&batch).unwrap();
            assert!(updates.ok.is_empty());
            decoded.extend(updates.err);
        }
        assert_eq!(format!("{decoded:?}"), format!("{rows:?}"));
        for ((back, ..), (error, ..)) in decoded.iter().zip(&rows) {
            assert_eq!(hash_error(back).unwrap(), hash_error(error).unwrap());
        }
    }
}

fn columns<D: Serialize + DeserializeOwned>() -> Vec<(String, DataType)> {
    let schema = codec::<D>().schema();
    assert!(schema.fields().iter().all(|field| field.is_nullable()));
    let (user, own) = schema.fields().split_at(schema.fields().len() - 3);
    let own: Vec<_> = own.iter().map(|field| field.name().as_str()).collect();
    assert_eq!(own, ["mv_error", "mv_time", "mv_diff"]);
    user.iter()
        .map(|field| (field.name().clone(), field.data_type().clone()))
        .collect()
}

#[test]
fn columns_follow_from_the_type() {
    use DataType::{Boolean, Float64, Int16, Int32, Int64, Utf8};
    let named = |list: &[(&str, DataType)]| -> Vec<(String, DataType)> {
        list.iter()
            .map(|(name, data_type)| ((*name).to_owned(), data_type.clone()))
            .collect()
    };
    assert_eq!(
        columns::<(u8, u16, u32, u64, bool)>(),
        named(&[
            ("c0", Int16),
            ("c1", Int32),
            ("c2", Int64),
            ("c3", Int64),
            ("c4", Boolean)
        ])
    );
    assert_eq!(columns::<usize>(), named(&[("value", Int64)]));
    assert_eq!(columns::<String>(), named(&[("value", Utf8)]));
    assert_eq!(columns::<Option<Color>>(), named(&[("value", Utf8)]));
    assert_eq!(columns::<Id>(), named(&[("value", Int64)]));
    let list = DataType::List(Arc::new(Field::new("element", Utf8, true)));
    assert_eq!(columns::<Vec<String>>(), named(&[("value", list)]));
    let pair = vec![Field::new("c0", Int16, true), Field::new("c1", Utf8, true)];
    let pair = DataType::Struct(pair.into());
    assert_eq!(
        columns::<Nested>(),
        named(&[("small", Int64), ("ratio", Float64), ("pair", pair)])
    );
}

#[test]
fn every_schema_is_a_delta_schema() {
    let table = codec::<Rich>().schema();
    let back = schema::from_delta(&schema::to_delta(&table).unwrap()).unwrap();
    assert_eq!(back, *table);
    assert_eq!(schema::check_schema(&back, &table), Ok(()));
}

fn refused<D: Serialize + DeserializeOwned>() -> String {
    match Codec::<D, String>::new() {
        Err(Error::Type { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn types_that_delta_cannot_hold_are_refused() {
    #[derive(Serialize, Deserialize)]
    struct Reserved {
        mv_time: i64,
    }
    #[derive(Serialize, Deserialize)]
    struct ReservedCase {
        #[serde(rename = "MV_x")]
        x: i64,
    }
    #[derive(Serialize, Deserialize)]
    struct Spaced {
        #[serde(rename = "a b")]
        x: i64,
    }
    #[derive(Serialize, Deserialize)]
    struct Twice {
        a: i64,
        #[serde(rename = "A")]
        b: i64,
    }
    #[derive(Serialize, Deserialize)]
    enum Carrying {
        A(i64),
        B { x: String },
    }
    #[derive(Serialize, Deserialize)]
    struct Recursive {
        next: Option<Box<Recursive>>,
    }
    #[derive(Serialize, Deserialize)]
    struct Empty {}

    let cases = [
        (refused::<Reserved>(), "mv_time starts with mv_"),
        (refused::<ReservedCase>(), "starts with mv_"),
        (refused::<Spaced>(), "which Delta refuses"),
        (refused::<Twice>(), "ignores case"),
        (
            refused::<(i64, Carrying)>(),
            "column `c1`: an enum whose variants carry data",
        ),
        (refused::<Recursive>(), "recursive"),
        (refused::<Empty>(), "without fields"),
        (refused::<()>(), "always null"),
        (refused::<serde_json::Value>(), "by hand"),
        (refused::<Vec<Carrying>>(), "whose variants carry data"),
        (refused::<Option<(u8, ())>>(), "always null"),
    ];
    for (why, expected) in cases {
        assert!(why.contains(expected), "{why:?} does not say {expected:?}");
    }
}

fn unfit(result: Result<RecordBatch, Error>) -> String {
    match result {
        Err(Error::Type { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_number_beyond_bigint_is_named() {
    #[derive(Serialize, Deserialize)]
    struct Outer {
        inner: Inner,
    }
    #[derive(Serialize, Deserialize)]
    struct Inner {
        id: u64,
    }
    let large = i64::MAX as u64 + 1;
    let row = ("x".to_owned(), large);
    let why = unfit(codec().encode([(&row, 0, 1)].into_iter()));
    assert!(
        why.contains("c1") && why.contains("9223372036854775808"),
        "{why}"
    );
    let why = unfit(codec().encode([(&usize::MAX, 0, 1)].into_iter()));
    assert!(
        why.contains("value") && why.contains("18446744073709551615"),
        "{why}"
    );
    let row = Outer {
        inner: Inner { id: large },
    };
    let why = unfit(codec().encode([(&row, 0, 1)].into_iter()));
    assert!(why.contains("inner.id"), "{why}");
}

/// A row may say less, more or something else than its columns, whatever the rows before it said.
#[test]
fn rows_of_another_form_than_their_columns_are_written_right_or_refused() {
    #[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
    struct Row {
        id: i64,
        rank: i64,
    }
    const TURNED: i64 = 100;
    const SHORT: i64 = 200;
    const LONG: i64 = 300;
    impl Serialize for Row {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeStruct;
            let mut row = serializer.serialize_struct("Row", 2)?;
            match self.id {
                TURNED => {
                    row.serialize_field("rank", &self.rank)?;
                    row.serialize_field("id", &self.id)?;
                }
                SHORT => row.serialize_field("id", &self.id)?,
                LONG => {
                    row.serialize_field("id", &self.id)?;
                    row.serialize_field("rank", &"the first")?;
                }
                _ => {
                    row.serialize_field("id", &self.id)?;
                    row.serialize_field("rank", &self.rank)?;
                }
            }
            row.end()
        }
    }
    let fields = ["id", "rank"].map(|name| Field::new(name, DataType::Int64, false));
    let codec = Codec::<Row, String>::with_fields(fields.to_vec()).unwrap();
    let encode = |last: i64| {
        let rows = [1, 2, last].map(|id| (Row { id, rank: -id }, id, 1));
        let batch = codec.encode(borrow(&rows));
        batch.map(|batch| (codec.decode(&batch).unwrap().ok, rows.to_vec()))
    };
    for id in [3, TURNED] {
        let (decoded, rows) = encode(id).unwrap();
        assert_eq!(decoded, rows);
    }
    for id in [SHORT, LONG] {
        let error = encode(id).unwrap_err();
        assert!(
            matches!(&error, Error::Type { why, .. } if why.contains("rank")),
            "{error}"
        );
    }
}

/// No column can tell Some(None) from None: it would be read back as another value.
#[test]
fn some_none_is_refused_not_lost() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Wrapped(Option<u8>);
    #[derive(Clone, Serialize, Deserialize)]
    struct Deep {
        list: Vec<(u8, Option<Wrapped>)>,
    }
    fn check<D: Clone + Serialize + DeserializeOwned>(fine: [D; 2], lost: D) {
        let codec = codec::<D>();
        let rows = |rows: Vec<D>| codec.encode(rows.iter().map(|row| (row, 1, 1)));
        assert_eq!(rows(fine.to_vec()).unwrap().num_rows(), 2);
        let why = unfit(rows([&fine[..], &[lost]].concat()));
        assert!(why.contains("Some(None)"), "{why}");
    }
    check([None, Some(Some(1))], Some(None::<u8>));
    check(
        [(1, None), (2, Some(Some("x".to_owned())))],
        (3, Some(None)),
    );
    let deep = |wrapped| Deep {
        list: vec![(1, None), (2, wrapped)],
    };
    check(
        [deep(None), deep(Some(Wrapped(Some(1))))],
        deep(Some(Wrapped(None))),
    );
    // It is no option in an option if there is a struct between.
    check_round_trip(
        &codec(),
        &[((Some((None::<u8>,)), 1), 1, 1), ((None, 2), 1, 1)],
    );
}

#[test]
fn a_field_left_out_that_must_be_there_is_refused() {
    #[derive(Serialize, Deserialize)]
    struct Defaulted {
        id: i64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tags: Vec<String>,
    }
    let row = Defaulted {
        id: 1,
        tags: vec![],
    };
    let why = unfit(codec().encode([(&row, 0, 1)].into_iter()));
    assert!(why.contains("tags"), "{why}");
}

#[test]
fn errors_that_json_would_change_are_refused() {
    let codec: Codec<i64, f64> = Codec::new().unwrap();
    let why = unfit(codec.encode_errors([(&f64::NAN, 0, 1)].into_iter()));
    assert!(why.contains("does not read back"), "{why}");
    let codec: Codec<i64, Option<Option<bool>>> = Codec::new().unwrap();
    let why = unfit(codec.encode_errors([(&Some(None), 0, 1)].into_iter()));
    assert!(why.contains("Some(None)"), "{why}");
}

#[test]
fn data_and_errors_mix_in_a_file() {
    let codec = codec::<(u64, Option<String>)>();
    let data = (5, None);
    let ok = codec
        .encode([(&data, 3, 1), (&data, 4, -1)].into_iter())
        .unwrap();
    let failure = "division by zero".to_owned();
    let err = codec.encode_errors([(&failure, 3, 2)].into_iter()).unwrap();
    let batches = through_file(&[ok, err], 100);
    assert_eq!(batches.len(), 1);
    let expected = Updates {
        ok: vec![(data.clone(), 3, 1), (data, 4, -1)],
        err: vec![(failure, 3, 2)],
    };
    assert_eq!(codec.decode(&batches[0]).unwrap(), expected);
}

/// What other writers make of the same Delta table: other Arrow types, another order, more and fewer columns.
#[test]
fn foreign_batches_decode() {
    type Row = (u64, String, Option<f64>, Option<Vec<i32>>);
    let codec = codec::<Row>();
    let cast = |array: ArrayRef, to: &DataType| arrow_cast::cast(&array, to).unwrap();
    let text = || -> ArrayRef { Arc::new(StringArray::from(vec!["a", "b", "a"])) };
    let numbers =
        |values: [Option<i64>; 3]| -> ArrayRef { Arc::new(Int64Array::from(values.to_vec())) };
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::LargeUtf8));
    for text_type in [DataType::LargeUtf8, DataType::Utf8View, dictionary] {
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("extra", text(), true),
            ("mv_time", numbers([Some(4), None, Some(6)]), true),
            ("c1", cast(text(), &text_type), true),
            (
                "c0",
                cast(numbers([Some(1), Some(2), Some(3)]), &DataType::Int32),
                false,
            ),
            (
                "c2",
                cast(numbers([Some(1), None, Some(3)]), &DataType::Float32),
                true,
            ),
            ("mv_diff", numbers([Some(-2), None, None]), true),
        ])
        .unwrap();
        let expected = Updates {
            ok: vec![
                ((1, "a".into(), Some(1.0), None), 4, -2),
                ((2, "b".into(), None, None), NO_TIME, 1),
                ((3, "a".into(), Some(3.0), None), 6, 1),
            ],
            err: vec![],
        };
        assert_eq!(codec.decode(&batch).unwrap(), expected);
        assert_eq!(
            codec.decode(&through_file(&[batch], 10)[0]).unwrap(),
            expected
        );
    }
}

#[test]
fn foreign_rows_that_are_no_value_of_the_type_are_told() {
    let codec = codec::<(u64, bool)>();
    let flag = || -> ArrayRef { Arc::new(BooleanArray::from(vec![true])) };
    let number = |value: Option<i64>| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
    let error: ArrayRef = Arc::new(StringArray::from(vec!["not json"]));
    let cases = [
        (vec![("c0", number(None)), ("c1", flag())], "c0"),
        (vec![("c0", number(Some(-1))), ("c1", flag())], "c0"),
        (vec![("c0", flag()), ("c1", flag())], "c0"),
        (vec![("c0", number(Some(1)))], "c1"),
        (vec![("mv_error", error)], "not json"),
    ];
    for (columns, expected) in cases {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        match codec.decode(&batch) {
            Err(Error::Row { why, .. }) => assert!(why.contains(expected), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_type_that_cannot_be_traced_takes_its_columns_by_hand() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Flat {
        id: u32,
        /// Microseconds since the epoch.
        at: i64,
        #[serde(flatten)]
        rest: BTreeMap<String, i64>,
    }
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert!(Codec::<Flat, String>::new().is_err());
    assert!(Codec::<Flat, String>::with_fields(Fields::empty()).is_err());
    let fields = vec![
        Field::new("id", DataType::UInt32, false),
        Field::new("at", timestamp.clone(), false),
        Field::new("more", DataType::Int64, false),
    ];
    let codec: Codec<Flat, String> = Codec::with_fields(fields).unwrap();
    let rest = BTreeMap::from([("more".to_owned(), 9)]);
    let row = Flat {
        id: 7,
        at: 1_700_000_000_000_000,
        rest,
    };
    let batch = codec.encode([(&row, 1, 1)].into_iter()).unwrap();
    assert_eq!(batch.column(0).data_type(), &DataType::Int64);
    assert_eq!(batch.column(1).data_type(), &timestamp);
    assert_eq!(batch.column(2).data_type(), &DataType::Int64);
}

/// Types that serde does not have take their columns by hand, and travel as text or as numbers.
#[test]
fn dates_timestamps_and_decimals_keep_their_fingerprints() {
    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Payment {
        day: String,
        at: Option<String>,
        price: String,
        history: Vec<Option<String>>,
    }
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let price = DataType::Decimal128(12, 2);
    let history = DataType::List(Arc::new(Field::new("element", DataType::Date32, true)));
    let codec = Codec::<Payment, String>::with_fields(vec![
        Field::new("day", DataType::Date32, false),
        Field::new("at", timestamp, true),
        Field::new("price", price.clone(), false),
        Field::new("history", history, false),
    ])
    .unwrap();
    let text = str::to_owned;
    let rows = [
        Payment {
            day: text("2024-02-29"),
            at: Some(text("2024-02-29T23:59:59.000001Z")),
            price: text("-1234567890.05"),
            history: vec![Some(text("1970-01-01")), None, Some(text("0001-01-01"))],
        },
        Payment {
            day: text("1900-01-01"),
            at: None,
            price: text("0.00"),
            history: vec![],
        },
    ];
    let updates: Vec<_> = rows.iter().map(|row| (row.clone(), 1, 3)).collect();
    check_round_trip(&codec, &updates);
    let value = Codec::<String, String>::with_value(price).unwrap();
    check_round_trip(&value, &[(text("7.25"), 1, 1), (text("-0.01"), 1, -1)]);
    // What the column does not keep would never cancel with what is read back.
    for wrong in ["7.255", "7.2", "a lot"] {
        unfit(value.encode([(&text(wrong), 1, 1)].into_iter()));
    }
    let mut row = rows[0].clone();
    for wrong in ["2024-02-29T12:00:00.0000001Z", "2024-02-29T12:00:00+01:00"] {
        row.at = Some(text(wrong));
        let why = unfit(codec.encode([(&row, 1, 1)].into_iter()));
        assert!(why.contains("2024-02-29"), "{why}");
    }
}

#[test]
fn an_empty_batch_is_a_batch() {
    check_round_trip(&codec::<(u64, String)>(), &[]);
    let codec = codec::<Rich>();
    assert_eq!(codec.encode(std::iter::empty()).unwrap().num_rows(), 0);
    assert_eq!(
        codec.encode_errors(std::iter::empty()).unwrap().num_rows(),
        0
    );
}
