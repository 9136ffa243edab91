//! Random updates, files of them, and a model of what they add up to.
#![allow(dead_code, reason = "each test crate uses its part")]

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use mvsink_persist::{
    Append, Appended, Codec, CommitId, EncodedFile, Error, FileEncoder, FileMeta, Frontier, Shard,
    StagedFile, hash_data, hash_error,
};
use proptest::prelude::*;

pub type Data = (u64, Option<String>);
pub type Row = Result<Data, String>;
pub type Update = (Row, i64, i64);
/// What updates add up to.
pub type Contents = BTreeMap<Row, i64>;

pub const UPPER: i64 = 20;

pub fn quiet(_: &Error) {}

pub fn codec() -> Codec<Data, String> {
    Codec::new().unwrap()
}

pub fn hash(row: &Row) -> u128 {
    match row {
        Ok(data) => hash_data(data).unwrap(),
        Err(error) => hash_error(error).unwrap(),
    }
}

/// Few rows, so that they meet; some nulls, some errors, some long text.
pub fn row() -> impl Strategy<Value = Row> {
    let text = prop_oneof![
        3 => Just(None),
        6 => "[a-c]{0,2}".prop_map(Some),
        1 => Just(Some("long ".repeat(40))),
    ];
    prop_oneof![
        9 => (0..40u64, text).prop_map(Ok),
        1 => "[xy]{1}".prop_map(Err),
    ]
}

pub fn update() -> impl Strategy<Value = Update> {
    let diff = prop_oneof![4 => Just(1i64), 3 => Just(-1), 1 => -5..5i64];
    (row(), 0..UPPER, diff)
}

/// The updates of a file, and whether they are written in the order of their hashes.
pub type FileOf = (Vec<Update>, bool);

pub fn file_of(most: usize) -> impl Strategy<Value = FileOf> {
    (prop::collection::vec(update(), 0..most), any::<bool>())
}

pub fn encode(updates: &[Update], sorted: bool) -> EncodedFile {
    let codec = codec();
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    let mut updates = updates.to_vec();
    if sorted {
        updates.sort_by_key(|(row, _, _)| hash(row));
    }
    // A batch for each stretch of data or errors, so that the order stays.
    for stretch in updates.chunk_by(|a, b| a.0.is_ok() == b.0.is_ok()) {
        let ok = stretch
            .iter()
            .filter_map(|(row, time, diff)| Some((row.as_ref().ok()?, *time, *diff)));
        let err = stretch
            .iter()
            .filter_map(|(row, time, diff)| Some((row.as_ref().err()?, *time, *diff)));
        let batch = if stretch[0].0.is_ok() {
            codec.encode(ok)
        } else {
            codec.encode_errors(err)
        };
        file.write(&batch.unwrap()).unwrap();
    }
    let file = file.finish().unwrap();
    assert!(!sorted || file.sorted);
    file
}

pub async fn stage(shard: &Shard, file: EncodedFile) -> StagedFile {
    let meta = FileMeta::from(&file);
    shard.put_file(file.bytes, meta, &quiet).await.unwrap()
}

/// Appends files, from the shard's upper on.
pub async fn append(shard: &Shard, upper: i64, files: Vec<StagedFile>) {
    let append = Append {
        id: CommitId {
            nonce: 77,
            seq: shard.progress().version,
        },
        lower: shard.progress().upper,
        upper: Frontier::At(upper),
        files,
        since: None,
    };
    let appended = shard.append(append, &quiet).await.unwrap();
    assert!(
        matches!(appended, Appended::Committed { .. }),
        "{appended:?}"
    );
}

/// The contents at `as_of`.
pub fn contents<'a>(updates: impl IntoIterator<Item = &'a Update>, as_of: i64) -> Contents {
    let mut contents = Contents::new();
    for (row, time, diff) in updates {
        if *time <= as_of {
            *contents.entry(row.clone()).or_default() += diff;
        }
    }
    contents.retain(|_, diff| *diff != 0);
    contents
}

/// The updates of batches of all columns; a snapshot's have the time `mvsink_persist::NO_TIME`.
pub fn updates(batches: &[RecordBatch]) -> Vec<Update> {
    let mut found = Vec::new();
    for batch in batches {
        let updates = codec().decode(batch).unwrap();
        // In the order of the batch, as far as it matters: data and errors are apart.
        found.extend(updates.ok.into_iter().map(|(data, t, d)| (Ok(data), t, d)));
        found.extend(
            updates
                .err
                .into_iter()
                .map(|(error, t, d)| (Err(error), t, d)),
        );
    }
    found
}
