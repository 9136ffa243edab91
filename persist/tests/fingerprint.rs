//! Fingerprints: the format, and what must and must not hash alike. That they survive storage is tested with the
//! codec.

use std::collections::HashMap;

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

/// A change here is a change of the format: shards carry these sums.
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
            "72e7df797d80c6d5579ab9292850bbf7",
        ]
    );
}

#[test]
fn the_encoding_is_the_documented_one() {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&7u64.to_le_bytes());
    bytes.push(1);
    bytes.extend_from_slice(&2u64.to_le_bytes());
    bytes.extend_from_slice(b"ab");
    let pair = Pair {
        id: 7,
        name: Some("ab".into()),
    };
    assert_eq!(data(pair), xxh3_128_with_seed(&bytes, 0x100));
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

#[test]
fn what_differs_hashes_apart() {
    let distinct = [
        data(("a", "bc")),
        data(("ab", "c")),
        data(vec!["a", "bc"]),
        data(vec![vec![1], vec![]]),
        data(vec![vec![], vec![1]]),
        data(None::<u8>),
        data(Some(0u8)),
        data(Some(None::<u8>)),
        data(0u8),
        data(()),
        data(0i128),
        data(Kind::Named(String::new())),
        data(Kind::Sized { width: 0 }),
        data(Sparse { a: None, b: None }),
        data(Sparse {
            a: Some(1),
            b: None,
        }),
        data(Sparse {
            a: None,
            b: Some(1),
        }),
        hash_error(&0u8).unwrap(),
    ];
    for (index, hash) in distinct.iter().enumerate() {
        assert!(!distinct[..index].contains(hash), "value {index} collides");
    }
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
