//! Types of other libraries, and what of Rust's own Delta has a better column for than serde knows.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use arrow_array::cast::AsArray;
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use mvsink_persist::columnar::{self, Columnar, Failure};
use proptest::prelude::*;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::*;

const DAY: DataType = DataType::Date32;
const PRICE: DataType = DataType::Decimal128(38, 18);

fn moment() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Order {
    id: u64,
    day: NaiveDate,
    at: DateTime<Utc>,
    local: NaiveDateTime,
    shipped: Option<DateTime<Utc>>,
    price: Decimal,
    discount: Option<Decimal>,
    history: Vec<(NaiveDate, Option<Decimal>)>,
    by_day: BTreeMap<NaiveDate, Decimal>,
}

fn date() -> impl Strategy<Value = NaiveDate> {
    (-719_528i32..2_932_896)
        .prop_map(|days| NaiveDate::from_epoch_days(days).expect("between the years 0 and 9999"))
}

fn time() -> impl Strategy<Value = DateTime<Utc>> {
    let micros = prop_oneof![
        -62_167_219_200_000_000i64..253_402_300_800_000_000,
        (-100i64..100).prop_map(|seconds| seconds * 500_000),
    ];
    micros.prop_map(|micros| DateTime::from_timestamp_micros(micros).expect("in the calendar"))
}

fn decimal() -> impl Strategy<Value = Decimal> {
    (any::<i64>(), 0u32..19).prop_map(|(digits, scale)| Decimal::new(digits, scale))
}

fn order() -> impl Strategy<Value = Order> {
    let history = prop::collection::vec((date(), prop::option::of(decimal())), 0..3);
    let by_day = prop::collection::btree_map(date(), decimal(), 0..3);
    let times = (time(), time(), prop::option::of(time()));
    let prices = (decimal(), prop::option::of(decimal()));
    (0..100u64, date(), times, prices, history, by_day).prop_map(
        |(id, day, (at, local, shipped), (price, discount), history, by_day)| Order {
            id,
            day,
            at,
            local: local.naive_utc(),
            shipped,
            price,
            discount,
            history,
            by_day,
        },
    )
}

/// The same rows come back, with the same fingerprints, of columns as of values.
fn check<D>(codec: &Codec<D, String>, rows: &[D])
where
    D: Clone + Debug + PartialEq + Serialize + DeserializeOwned,
{
    let batch = codec.encode(rows.iter().map(|row| (row, 1, 1))).unwrap();
    let hashes: Vec<_> = rows.iter().map(|row| codec.hash(row).unwrap()).collect();
    let written = file(std::slice::from_ref(&batch));
    assert_eq!(written.sums, sums(hashes.iter().map(|hash| (*hash, 1))));
    let mut back = Vec::new();
    for batch in through_file(&[batch], 3) {
        back.extend(
            codec
                .decode(&batch)
                .unwrap()
                .ok
                .into_iter()
                .map(|(row, ..)| row),
        );
    }
    assert_eq!(back, rows);
    for (row, hash) in back.iter().zip(hashes) {
        assert_eq!(codec.hash(row).unwrap(), hash);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(mvsink_persist::testing::cases(64)))]

    #[test]
    fn dates_times_and_decimals_come_back(rows in prop::collection::vec(order(), 0..8)) {
        check(&codec(), &rows);
    }

    /// By hand or as the type tells them: columns of the same types have the same rows and fingerprints.
    #[test]
    fn the_fingerprint_is_the_same_whichever_codec_wrote_the_row(rows in prop::collection::vec(order(), 1..5)) {
        let told = codec::<Order>();
        let user = told.schema().fields().len() - 3;
        let fields: Vec<_> = told.schema().fields()[..user].to_vec();
        let given = Codec::<Order, String>::with_fields(fields).unwrap();
        check(&given, &rows);
        for row in &rows {
            prop_assert_eq!(told.hash(row).unwrap(), given.hash(row).unwrap());
        }
        let encode = |codec: &Codec<Order, String>| codec.encode(rows.iter().map(|row| (row, 1, 1)));
        prop_assert_eq!(encode(&told).unwrap(), encode(&given).unwrap());
    }
}

#[test]
fn types_of_other_libraries_have_the_columns_that_readers_expect() {
    use DataType::{Binary, Int16, Int64, Struct, Utf8};
    type Named = Vec<(String, DataType)>;
    let one = |data_type: DataType| vec![("value".to_owned(), data_type)];
    let cases: Vec<(Named, Named)> = vec![
        (columns::<NaiveDate>(), one(DAY)),
        (columns::<DateTime<Utc>>(), one(moment())),
        (columns::<DateTime<FixedOffset>>(), one(moment())),
        (columns::<NaiveDateTime>(), one(moment())),
        (columns::<Option<Decimal>>(), one(PRICE)),
        (columns::<i128>(), one(DataType::Decimal128(38, 0))),
        (columns::<u128>(), one(DataType::Decimal128(38, 0))),
        (columns::<NaiveTime>(), one(Utf8)),
        (columns::<Uuid>(), one(Binary)),
        (columns::<Option<Uuid>>(), one(Binary)),
        (columns::<IpAddr>(), one(Utf8)),
        (columns::<Option<Ipv6Addr>>(), one(Utf8)),
        (columns::<SocketAddr>(), one(Utf8)),
        (columns::<char>(), one(Utf8)),
        (columns::<[u8; 16]>(), one(Binary)),
        (columns::<serde_bytes::ByteBuf>(), one(Binary)),
        (columns::<serde_bytes::ByteArray<32>>(), one(Binary)),
        (columns::<NonZeroU32>(), one(Int64)),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
    }
    let fields = |names: &[&str]| -> Vec<Field> {
        names
            .iter()
            .map(|name| Field::new(*name, Int64, true))
            .collect()
    };
    assert_eq!(
        columns::<Duration>(),
        [("secs".to_owned(), Int64), ("nanos".to_owned(), Int64)]
    );
    assert_eq!(
        columns::<(Vec<u8>, Option<Duration>)>(),
        [
            (
                "c0".to_owned(),
                DataType::List(Arc::new(Field::new("element", Int16, true)))
            ),
            ("c1".to_owned(), Struct(fields(&["secs", "nanos"]).into())),
        ]
    );
    let order: Vec<_> = columns::<Order>()
        .into_iter()
        .map(|(_, data_type)| data_type)
        .collect();
    assert_eq!(
        order[..7],
        [Int64, DAY, moment(), moment(), moment(), PRICE, PRICE]
    );
}

#[test]
fn characters_bytes_addresses_and_wide_integers_come_back() {
    check(&codec(), &['a', '\0', '𝄞']);
    check(&codec(), &[[0u8, 255, 7], [1, 2, 3]]);
    check(&codec(), &[(1u8, [[7u8; 2]; 2]), (2, [[0; 2], [9; 2]])]);
    check(&codec(), &[vec!['x', 'y'], vec![]]);
    check(&codec(), &[Some([1u8; 4]), None]);
    check(&codec(), &[BTreeMap::from([('a', [1u8]), ('b', [2])])]);
    let most = 10i128.pow(38) - 1;
    check(&codec(), &[0i128, -1, most, -most]);
    check(&codec(), &[(Some(5u128), vec![7i128]), (None, vec![])]);
    check(
        &codec(),
        &[
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ],
    );
    check(&codec(), &[Uuid::from_u128(5), Uuid::nil()]);
    check(
        &codec(),
        &[NaiveTime::from_hms_milli_opt(23, 59, 59, 7).unwrap()],
    );
    check(&codec(), &[Duration::from_nanos(1_000_000_001)]);
    check(&codec(), &[serde_bytes::ByteBuf::from(vec![1, 2, 3])]);
    let text = |codec: Codec<char, String>| {
        let batch = codec.encode([(&'é', 1, 1)].into_iter()).unwrap();
        batch.column(0).as_string::<i32>().value(0).to_owned()
    };
    assert_eq!(text(codec()), "é");
}

/// `1.5` and `1.50` are equal, and so are their fingerprints and what is stored of them.
#[test]
fn equal_decimals_are_one_row() {
    let codec = codec::<Decimal>();
    let (a, b) = (Decimal::new(15, 1), Decimal::new(1500, 3));
    assert_eq!(codec.hash(&a).unwrap(), codec.hash(&b).unwrap());
    check(&codec, &[a, b, Decimal::ZERO, -Decimal::ZERO]);
    let priced = codec
        .with_column("value", DataType::Decimal128(6, 2))
        .unwrap();
    check(&priced, &[a, b, Decimal::new(-999_999, 2)]);
}

#[test]
fn values_that_a_column_would_change_are_refused_by_its_name() {
    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Row {
        inner: Inner,
        price: Decimal,
        wide: i128,
        zoned: DateTime<FixedOffset>,
        days: Vec<NaiveDate>,
    }
    #[derive(Clone, Debug, Serialize, Deserialize)]
    struct Inner {
        at: DateTime<Utc>,
    }
    let utc: DateTime<Utc> = "2024-02-29T12:00:00.123456Z".parse().unwrap();
    let fine = Row {
        inner: Inner { at: utc },
        price: Decimal::new(1, 18),
        wide: 1,
        zoned: utc.fixed_offset(),
        days: vec![],
    };
    let codec = codec::<Row>();
    codec.encode([(&fine, 1, 1)].into_iter()).unwrap();
    let change = |change: &dyn Fn(&mut Row)| {
        let mut row = fine.clone();
        change(&mut row);
        row
    };
    let cases = [
        (
            change(&|row| row.inner.at += TimeDelta::nanoseconds(1)),
            "column `inner.at`",
            "microseconds",
        ),
        (
            change(&|row| row.price = Decimal::new(1, 19)),
            "column `price`",
            "after the point",
        ),
        (
            change(&|row| row.price = Decimal::MAX),
            "column `price`",
            "before the point",
        ),
        (
            change(&|row| row.wide = i128::MIN),
            "column `wide`",
            "before the point",
        ),
        (
            change(&|row| row.days = vec![NaiveDate::MAX]),
            "column `days.element`",
            "out of range",
        ),
        (
            change(&|row| row.zoned = "2024-02-29T12:00:00+01:00".parse().unwrap()),
            "",
            "another value",
        ),
    ];
    for (row, column, expected) in cases {
        let rows = [&fine, &row];
        let why = unfit(codec.encode(rows.into_iter().map(|row| (row, 1, 1))));
        assert!(why.contains(column) && why.contains(expected), "{why}");
    }
}

#[test]
fn types_without_columns_are_named_with_what_to_do() {
    #[derive(Serialize, Deserialize)]
    struct Row {
        id: u64,
        odd: Odd,
    }
    /// Reads what nothing else writes.
    #[derive(Serialize)]
    struct Odd(String);
    impl<'de> Deserialize<'de> for Odd {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            match text.starts_with("odd:") {
                true => Ok(Odd(text)),
                false => Err(serde::de::Error::custom("not odd enough")),
            }
        }
    }
    let why = refused::<Row>();
    assert!(
        why.contains("column `odd`") && why.contains("not odd enough"),
        "{why}"
    );
    let why = refused::<(u8, serde_json::Value)>();
    assert!(
        why.contains("column `c1`") && why.contains("by hand"),
        "{why}"
    );
    for why in [refused::<Row>(), refused::<(u8, serde_json::Value)>()] {
        assert!(
            !why.contains("from_samples"),
            "another library's advice: {why}"
        );
    }
}

#[test]
fn single_columns_take_other_types() {
    let codec = codec::<Order>()
        .with_column("price", DataType::Decimal128(10, 2))
        .unwrap()
        .with_column("history.element.c1", DataType::Decimal128(12, 3))
        .unwrap();
    let schema = codec.schema();
    assert_eq!(
        schema.field_with_name("price").unwrap().data_type(),
        &DataType::Decimal128(10, 2)
    );
    let at: DateTime<Utc> = "2024-02-29T12:00:00Z".parse().unwrap();
    let order = Order {
        id: 1,
        day: at.date_naive(),
        at,
        local: at.naive_utc(),
        shipped: None,
        price: Decimal::new(150, 2),
        discount: Some(Decimal::new(1, 18)),
        history: vec![(at.date_naive(), Some(Decimal::new(-1, 3)))],
        by_day: BTreeMap::new(),
    };
    check(&codec, std::slice::from_ref(&order));
    let odd = Order {
        price: Decimal::new(1505, 3),
        ..order
    };
    let why = unfit(codec.encode([(&odd, 1, 1)].into_iter()));
    assert!(
        why.contains("column `price`") && why.contains("decimal(10,2)"),
        "{why}"
    );
    let error = codec.with_column("cost", DataType::Int64).unwrap_err();
    assert!(error.to_string().contains("`cost`"), "{error}");
}

/// A number of microseconds as a timestamp, fields in another order than the columns, a map as a record: the
/// fingerprint is that of the columns.
#[test]
fn given_columns_have_one_fingerprint_however_the_type_serialises() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        at: i64,
        id: u32,
    }
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("at", moment(), false),
    ];
    let turned = Codec::<Row, String>::with_fields(fields.clone()).unwrap();
    check(
        &turned,
        &[Row {
            at: 1_500_000,
            id: 7,
        }],
    );
    let maps = Codec::<BTreeMap<String, i64>, String>::with_fields(fields).unwrap();
    let map = |at, id| BTreeMap::from([("at".to_owned(), at), ("id".to_owned(), id)]);
    check(&maps, &[map(1_500_000, 7), map(0, 0)]);
    assert_eq!(
        turned
            .hash(&Row {
                at: 1_500_000,
                id: 7
            })
            .unwrap(),
        maps.hash(&map(1_500_000, 7)).unwrap()
    );
}

/// Columns by hand that are not what serde makes of a row would give it two fingerprints.
#[test]
fn columns_by_hand_that_differ_from_the_types_are_refused() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Doubled {
        id: i64,
    }
    impl Columnar for Doubled {
        fn fields() -> Fields {
            vec![Field::new("id", DataType::Int64, false)].into()
        }
        fn to_columns(rows: &[&Self]) -> Result<Vec<ArrayRef>, Failure> {
            let ids = rows.iter().map(|row| 2 * row.id);
            Ok(vec![Arc::new(Int64Array::from_iter_values(ids))])
        }
        fn from_columns(columns: &[ArrayRef], push: &mut dyn FnMut(Self)) -> Result<(), Failure> {
            let ids: &Int64Array = columnar::required(columns, 0)?;
            ids.values()
                .iter()
                .for_each(|id| push(Doubled { id: id / 2 }));
            Ok(())
        }
    }
    let codec = Codec::<Doubled, String>::columnar().unwrap();
    let why = unfit(codec.encode([(&Doubled { id: 3 }, 1, 1)].into_iter()));
    assert!(why.contains("by hand"), "{why}");
}

/// Earlier versions stored characters as numbers and arrays of bytes as structs: such tables are opened, read, and
/// added to.
#[test]
fn tables_of_earlier_versions_are_opened_in_their_columns() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Earlier {
        id: u64,
        grade: Option<u32>,
        keys: Vec<(u8, u8)>,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Now {
        id: u64,
        grade: Option<char>,
        keys: Vec<[u8; 2]>,
    }
    let (earlier, now) = (codec::<Earlier>(), codec::<Now>());
    let old = Earlier {
        id: 1,
        grade: Some('é'.into()),
        keys: vec![(0, 255), (1, 2)],
    };
    let row = Now {
        id: 1,
        grade: Some('é'),
        keys: vec![[0, 255], [1, 2]],
    };
    let table = earlier.schema();
    let fitting = now.for_table(&table);
    assert_eq!(fitting.schema(), table);
    let batch = earlier.encode([(&old, 3, 1)].into_iter()).unwrap();
    assert_eq!(fitting.encode([(&row, 3, 1)].into_iter()).unwrap(), batch);
    assert_eq!(fitting.decode(&batch).unwrap().ok, [(row.clone(), 3, 1)]);
    // Whoever routes rows does so before the table is known.
    assert_eq!(fitting.hash(&row).unwrap(), now.hash(&row).unwrap());
    assert!(!fitting.has_sums_of(&table) && now.has_sums_of(&now.schema()));
    // Of today's columns, and of none, it is the same codec.
    for other in [now.schema(), codec::<u8>().schema()] {
        assert_eq!(now.for_table(&other).schema(), now.schema());
    }

    support::run(async {
        let client = support::client(support::options(0));
        let url = "memory://store/earlier";
        client
            .open_or_create(url, Open::for_codec(&earlier))
            .await
            .unwrap();
        let shard = client.open_or_create(url, Open::for_codec(&now)).await;
        assert_eq!(shard.unwrap().schema(), table);
        // Without its codec it is not known what else may be there.
        let error = client.open_or_create(url, Open::new(now.schema())).await;
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("the column grade is long")
        );
    });
}
