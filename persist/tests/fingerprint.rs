//! Fingerprints: the format, and what must and must not hash alike. That they survive storage is tested with the
//! codec.

use std::collections::{BTreeMap, HashMap, HashSet};

use mvsink_persist::fingerprint::{BUCKETS, bucket, hash_data, hash_error};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128_with_seed;

#[derive(Serialize)]
struct Pair {
    id: u32,
    name: Option<String>,
}

#[derive(Serialize)]
enum Kind {
    Plain,
    Named(String),
    Sized { width: u8 },
}

#[derive(Serialize)]
struct Sparse {
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<u8>,
}

fn data<T: Serialize>(value: T) -> u128 {
    hash_data(&value).unwrap()
}

/// A change here is a new version of the format, in `fingerprint::VERSION`: shards carry sums of these.
#[test]
fn golden_values() {
    let row = (7u64, "forty bytes of text, more or less, or so", 8u64, 9u64);
    let seen = [
        data(0u8),
        data(-1i8),
        data(1.5f32),
        data("a"),
        data(row),
        data(Kind::Named("x".into())),
        data((None::<u8>, 1u8)),
        data(BTreeMap::from([("b", None), ("a", Some([1.0]))])),
        hash_error("a").unwrap(),
    ];
    assert_eq!(
        seen.map(|hash| format!("{hash:032x}")),
        [
            "4dc60da1d037ad24aea6e8d8666e04d3",
            "83be5cfe76e4e225657045657e568d6b",
            "32b4519a5dbc56f2e087a46019ff2aba",
            "ca1d51bcca7875ddd65b0cbe4d1de491",
            "72d338376e2fb65d3b1e5c5a13a30fed",
            "38c9ce938d19daa285b1ba665187f138",
            "a9aedd64b046d1a671494cadfab92cff",
            "04a1618978c6790e80c3465d1692cd8d",
            "76a8b463c1d206808c7c5ec8e12e4bd8",
        ]
    );
}

#[test]
fn the_encoding_is_the_documented_one() {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&7u64.to_le_bytes());
    bytes.extend_from_slice(&2u64.to_le_bytes());
    bytes.extend_from_slice(b"ab");
    let pair = Pair {
        id: 7,
        name: Some("ab".into()),
    };
    assert_eq!(data(pair), xxh3_128_with_seed(&bytes, 0x100));
    assert_eq!(
        hash_error(&("a", 1)).unwrap(),
        xxh3_128_with_seed(br#"["a",1]"#, 0x101)
    );

    // (None, (true, None), None): the last is not listed, the one inside is, as is what comes before it.
    let mut bytes = vec![1];
    for (offset, depth) in [(0, 1), (1, 2u64)] {
        bytes.extend_from_slice(&(offset << 16 | depth).to_le_bytes());
    }
    bytes.extend_from_slice(&2u64.to_le_bytes());
    let none = None::<u8>;
    assert_eq!(
        data((none, (true, none), none)),
        xxh3_128_with_seed(&bytes, 0x102)
    );
}

#[test]
fn what_is_stored_alike_hashes_alike() {
    assert_eq!(data(5u8), data(5i64));
    assert_eq!(data(-5i8), data(-5i32));
    assert_eq!(data(1.5f32), data(1.5f64));
    assert_eq!(data(0.0f64), data(-0.0f64));
    assert_eq!(data(f64::NAN), data(f64::from_bits(0xFFF8_0000_0000_0001)));
    assert_eq!(data(f32::NAN), data(-f64::NAN));
    assert_eq!(data(Kind::Plain), data("Plain"));
    let name = None;
    assert_eq!(data(Pair { id: 7, name }), data((7u64, None::<String>)));
    assert_eq!(data(format_args!("{}-{}", 1, 2)), data("1-2"));
}

/// A table that gets a column at its end keeps its fingerprints, and a value is the record of its one column.
#[test]
fn nulls_at_the_end_of_the_row_do_not_count() {
    let none = None::<u8>;
    assert_eq!(data((1u8, none)), data((1u8,)));
    assert_eq!(data((1u8, none, none)), data(1u8));
    assert_eq!(data((1u8, Some(2u8), none)), data((1u8, 2u8)));
    assert_eq!(data((none, 1u8, none)), data((none, 1u8)));
    assert_eq!(data(none), data((none,)));
    assert_eq!(data(Some((1u8, none))), data(((1u8, none),)));
    assert_eq!(data(vec![none]), data((vec![none],)));
    assert_eq!(data(Some(5u8)), data(5u8));
    let (a, b) = (Some(1), None);
    assert_eq!(data(Sparse { a, b }), data((1u8,)));
    assert_eq!(data(Sparse { a: b, b: a }), data((none, 1u8)));
}

#[test]
fn some_none_is_refused() {
    #[derive(Serialize)]
    struct Wrapped(Option<u8>);
    let refused = |error: Result<u128, mvsink_persist::Error>| {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("Some(None)"), "{error}");
    };
    refused(hash_data(&Some(None::<u8>)));
    refused(hash_data(&(1, Some(Wrapped(None)))));
    refused(hash_data(&vec![None, Some(Some(None::<u8>))]));
    assert!(hash_data(&Some(Some(1))).is_ok());
    assert!(hash_data(&None::<Option<u8>>).is_ok());
    assert!(hash_data(&Some((None::<u8>, None::<u8>))).is_ok());
}

fn assert_distinct(hashes: &[u128]) {
    let distinct: HashSet<_> = hashes.iter().collect();
    assert_eq!(distinct.len(), hashes.len());
}

#[test]
fn what_differs_hashes_apart() {
    assert_distinct(&[
        data(("a", "bc")),
        data(("ab", "c")),
        data(("", "abc")),
        hash_error(&("a", "bc")).unwrap(),
    ]);
    assert_distinct(&[data(vec![vec![1], vec![]]), data(vec![vec![], vec![1]])]);
    assert_distinct(&[
        data(Kind::Plain),
        data(Kind::Named(String::new())),
        data(Kind::Sized { width: 0 }),
        data(Kind::Sized { width: 1 }),
    ]);
    let some = Some(1);
    assert_distinct(&[
        data(Sparse { a: None, b: None }),
        data(Sparse { a: some, b: None }),
        data(Sparse { a: None, b: some }),
        data(Sparse { a: some, b: some }),
    ]);
    assert_distinct(&[data(None::<()>), data(Some(()))]);
}

/// Every way in which options can lie beside and inside of each other, with as few values as there can be.
#[test]
fn all_values_of_a_type_of_options_hash_apart() {
    type Leaf = Option<u8>;
    type Inner = Option<(Leaf,)>;
    type Outer = Option<(Leaf, Inner)>;
    let leaves: [Leaf; 2] = [None, Some(0)];
    let inners: Vec<Inner> = std::iter::once(None)
        .chain(leaves.map(|leaf| Some((leaf,))))
        .collect();
    let outers: Vec<Outer> = std::iter::once(None)
        .chain(leaves.into_iter().flat_map(|leaf| {
            let inners = inners.clone().into_iter();
            inners.map(move |inner| Some((leaf, inner)))
        }))
        .collect();
    let mut structs = Vec::new();
    for a in &outers {
        structs.push(data(a));
    }
    assert_distinct(&structs);
    structs.clear();
    for a in &outers {
        for b in &outers {
            for c in &outers {
                structs.push(data((a, b, c)));
            }
        }
    }
    assert_eq!(structs.len(), 7 * 7 * 7);
    assert_distinct(&structs);

    let mut lists: Vec<Vec<Outer>> = vec![vec![]];
    for length in 1..4 {
        let shorter: Vec<_> = lists
            .iter()
            .filter(|list| list.len() + 1 == length)
            .cloned()
            .collect();
        for list in shorter {
            for outer in &outers {
                lists.push([&list[..], &[*outer]].concat());
            }
        }
    }
    let mut hashes = Vec::new();
    for list in &lists {
        for inner in &inners {
            hashes.push(data((list, inner)));
        }
    }
    assert_eq!(hashes.len(), (1 + 7 + 49 + 343) * 3);
    assert_distinct(&hashes);

    let mut maps = Vec::new();
    for a in &outers {
        for b in &outers {
            let maps_of = [vec![(1, a)], vec![(1, a), (2, b)]].map(BTreeMap::from_iter);
            let maps_of = if b.is_none() {
                &maps_of[..]
            } else {
                &maps_of[1..]
            };
            maps.extend(maps_of.iter().map(data));
        }
    }
    assert_distinct(&maps);
}

#[test]
fn hash_maps_with_nulls_hash_by_content() {
    let entries = || (0..40u8).map(|i| (i, (i % 3 == 0).then_some((None, Some(i / 4)))));
    type Value = Option<(Option<u8>, Option<u8>)>;
    let forth: HashMap<u8, Value> = entries().collect();
    let mut back: HashMap<u8, Value> = HashMap::with_capacity(1000);
    back.extend(entries().rev());
    assert_eq!(
        data((1, &forth, None::<u8>, 1)),
        data((1, &back, None::<u8>, 1))
    );
    assert_eq!(data(&forth), data(entries().collect::<BTreeMap<_, _>>()));
    back.insert(3, Some((Some(0), None)));
    assert_ne!(data(&forth), data(&back));
}

#[test]
fn hash_maps_hash_by_content() {
    let entries = || (0..100).map(|i| (format!("key {i}"), i));
    let forth: HashMap<String, i32> = entries().collect();
    let mut back: HashMap<String, i32> = HashMap::with_capacity(1000);
    back.extend(entries().rev());
    assert_eq!(data(&forth), data(&back));
    back.insert("key 5".into(), 6);
    assert_ne!(data(&forth), data(&back));
}

#[test]
fn a_serialize_that_hashes_does_not_disturb_the_hash() {
    struct Inner;
    impl Serialize for Inner {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_u64(data("something else") as u64)
        }
    }
    let expected = data("something else") as u64;
    assert_eq!(data((1u8, Inner, 2u8)), data((1u8, expected, 2u8)));
}

#[test]
fn a_failing_serialize_is_an_error_and_leaves_no_trace() {
    struct Failing;
    impl Serialize for Failing {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("out of paper"))
        }
    }
    let error = hash_data(&(1u8, Failing)).unwrap_err();
    assert!(error.to_string().contains("out of paper"), "{error}");
    assert_eq!(data(1u8), data(1u64));
}

#[test]
fn buckets_are_spread() {
    let mut counts = [0u32; BUCKETS];
    for i in 0..256_000u64 {
        counts[usize::from(bucket(data(i)))] += 1;
    }
    assert!(
        counts.iter().all(|count| (800..1200).contains(count)),
        "{counts:?}"
    );
}
