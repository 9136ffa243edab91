//! Columns that are added to a shard: old and new writers side by side, and what cannot be added.

mod support;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::join;
use mvsink_persist::{
    Appended, Client, Codec, Error, FileEncoder, FileMeta, Frontier, Open, Shard, StagedFile, Sums,
    decode_file, hash_data, sums_of,
};
use object_store::memory::InMemory;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use support::{append, client, options, run};

const URL: &str = "memory://store/shard";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    id: u64,
    name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct New {
    id: u64,
    name: Option<String>,
    score: Option<f64>,
    tags: Option<Vec<String>>,
}

fn old(id: u64) -> Old {
    let name = (!id.is_multiple_of(3)).then(|| format!("name {id}"));
    Old { id, name }
}

fn new(id: u64) -> New {
    let Old { id, name } = old(id);
    New {
        id,
        name,
        score: id.is_multiple_of(2).then_some(id as f64 / 4.0),
        tags: id
            .is_multiple_of(5)
            .then(|| vec!["a".into(); id as usize % 3]),
    }
}

fn quiet(_: &Error) {}

/// A process of its own, with names of its own for files.
fn client_of(store: &Arc<InMemory>) -> Client {
    static SEED: AtomicU64 = AtomicU64::new(0);
    let client = client(options(SEED.fetch_add(1, Ordering::Relaxed)));
    client.mount("store", Arc::clone(store) as _);
    client
}

fn codec<D: Serialize + DeserializeOwned>() -> Codec<D, String> {
    Codec::new().unwrap()
}

fn open<D: Serialize + DeserializeOwned>() -> Open {
    Open::new(codec::<D>().schema())
}

fn adding<D: Serialize + DeserializeOwned>() -> Open {
    open::<D>().adding_columns(&codec::<D>())
}

async fn stage<D: Serialize + DeserializeOwned>(shard: &Shard, row: &D, time: i64) -> StagedFile {
    let batch = codec::<D>().encode([(row, time, 1)].into_iter()).unwrap();
    let mut file = FileEncoder::new(batch.schema()).unwrap();
    file.write(&batch).unwrap();
    let file = file.finish().unwrap();
    let meta = FileMeta::from(&file);
    shard.put_file(file.bytes, meta, &quiet).await.unwrap()
}

async fn write<D: Serialize + DeserializeOwned>(shard: &Shard, row: &D, time: i64) {
    let file = stage(shard, row, time).await;
    let commit = append(time as u64, time, time + 1, vec![file]);
    let appended = shard.append(commit, &quiet).await.unwrap();
    assert!(matches!(appended, Appended::Committed { .. }));
}

/// All rows by time.
async fn read<D: Serialize + DeserializeOwned>(shard: &Shard) -> Vec<D> {
    let mut rows = Vec::new();
    for file in shard.pin().files() {
        let bytes = shard.read_file(&file.path).await.unwrap();
        for batch in decode_file(&file.path, bytes, None, 10).unwrap() {
            rows.extend(codec::<D>().decode(&batch.unwrap()).unwrap().ok);
        }
    }
    rows.sort_by_key(|(_, time, _)| *time);
    rows.into_iter().map(|(row, ..)| row).collect()
}

fn mismatch<T: Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::SchemaMismatch { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn writers_of_the_old_and_the_new_type_share_a_shard() {
    run(async {
        let store = Arc::new(InMemory::new());
        // As two processes.
        let (older, newer) = (client_of(&store), client_of(&store));
        let olds = older.open_or_create(URL, open::<Old>()).await.unwrap();
        write(&olds, &old(0), 0).await;
        assert!(mismatch(newer.open_or_create(URL, open::<New>()).await).contains("score"));
        let news = newer.open_or_create(URL, adding::<New>()).await.unwrap();
        let names = |shard: &Shard| -> Vec<String> {
            let schema = shard.schema();
            schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect()
        };
        let expected = [
            "id", "name", "mv_error", "mv_time", "mv_diff", "score", "tags",
        ];
        assert_eq!(names(&news), expected);
        let version = news.progress().version;
        assert_eq!(news.progress().upper, Frontier::At(1));

        for time in 1..20 {
            if time % 3 == 0 {
                write(&olds, &old(time as u64), time).await;
            } else {
                write(&news, &new(time as u64), time).await;
            }
        }
        assert_eq!(names(&olds), expected);
        let as_old: Vec<_> = (0..20).map(old).collect();
        let as_new: Vec<_> = (0..20)
            .map(|id| match old(id) {
                Old { id, name } if id % 3 == 0 => New {
                    id,
                    name,
                    score: None,
                    tags: None,
                },
                _ => new(id),
            })
            .collect();
        for shard in [&olds, &news] {
            shard.refresh().await.unwrap();
            assert_eq!(read::<Old>(shard).await, as_old);
            assert_eq!(read::<New>(shard).await, as_new);
        }
        // Whoever wrote them, rows have the fingerprints of the new type.
        let mut sums = Sums::default();
        for row in &as_new {
            sums.add(hash_data(row).unwrap(), 1);
        }
        assert_eq!(news.pin().sums(), (sums, 0));
        assert_eq!(hash_data(&old(3)).unwrap(), hash_data(&as_new[3]).unwrap());

        // Nothing is added twice, and both open it, from a checkpoint too.
        news.checkpoint().await.unwrap();
        for open in [
            adding::<New>(),
            open::<New>(),
            open::<Old>(),
            adding::<Old>(),
        ] {
            let shard = client_of(&store).open_or_create(URL, open).await.unwrap();
            assert_eq!(shard.progress().version, version + 19);
            assert_eq!(shard.schema(), news.schema());
        }
    });
}

#[test]
fn a_shard_of_a_new_type_is_as_if_nothing_was_added() {
    run(async {
        let store = Arc::new(InMemory::new());
        let shard = client_of(&store).open_or_create(URL, adding::<New>()).await;
        let shard = shard.unwrap();
        assert_eq!(shard.progress().version, 0);
        assert_eq!(shard.schema(), codec::<New>().schema());
    });
}

#[test]
fn a_file_of_a_column_order_has_the_sums_of_its_rows_in_the_tables() {
    // New columns come behind `mv_diff` in a table that got them later; data hashes alike.
    let batch = codec::<New>()
        .encode([(&new(10), 0, 1)].into_iter())
        .unwrap();
    let moved = batch.project(&[0, 1, 4, 5, 6, 2, 3]).unwrap();
    assert_ne!(batch.schema(), moved.schema());
    assert_eq!(sums_of(&batch).unwrap(), sums_of(&moved).unwrap());
}

#[test]
fn a_commit_that_loses_its_slot_to_new_columns_goes_on() {
    run(async {
        let store = Arc::new(InMemory::new());
        let shard = client_of(&store)
            .open_or_create(URL, open::<Old>())
            .await
            .unwrap();
        // Staged, and decided by a state without the columns.
        let file = stage(&shard, &old(0), 0).await;
        client_of(&store)
            .open_or_create(URL, adding::<New>())
            .await
            .unwrap();
        assert_eq!(shard.progress().version, 0);
        let appended = shard.append(append(0, 0, 1, vec![file]), &quiet).await;
        assert_eq!(appended.unwrap(), Appended::Committed { version: 2 });
        assert_eq!(shard.schema().fields().len(), 7);
    });
}

#[test]
fn columns_added_at_once_are_added_once() {
    run(async {
        let store = Arc::new(InMemory::new());
        client_of(&store)
            .open_or_create(URL, open::<Old>())
            .await
            .unwrap();
        let (a, b) = (client_of(&store), client_of(&store));
        let opens = join(
            a.open_or_create(URL, adding::<New>()),
            b.open_or_create(URL, adding::<New>()),
        );
        let (a, b) = opens.await;
        let (a, b) = (a.unwrap(), b.unwrap());
        b.refresh().await.unwrap();
        assert_eq!(a.refresh().await.unwrap().version, 1);
        assert_eq!(a.schema(), b.schema());
    });
}

#[test]
fn columns_that_cannot_be_added_are_named() {
    #[derive(Serialize, Deserialize)]
    struct Required {
        id: u64,
        name: Option<String>,
        score: f64,
    }
    #[derive(Serialize, Deserialize)]
    struct InTheMiddle {
        id: u64,
        score: Option<f64>,
        name: Option<String>,
    }
    #[derive(Serialize, Deserialize)]
    struct Swapped {
        name: Option<String>,
        id: u64,
    }
    #[derive(Serialize, Deserialize)]
    struct Without {
        name: Option<String>,
        score: Option<f64>,
    }
    #[derive(Serialize, Deserialize)]
    struct Retyped {
        id: String,
        name: Option<String>,
        score: Option<f64>,
    }
    run(async {
        let store = Arc::new(InMemory::new());
        let shard = client_of(&store)
            .open_or_create(URL, open::<Old>())
            .await
            .unwrap();
        for (open, expected) in [
            (adding::<Required>(), "score cannot be"),
            (
                adding::<InTheMiddle>(),
                "column name where score is expected",
            ),
            (adding::<Swapped>(), "column id where name is expected"),
            (open::<Swapped>(), "column id where name is expected"),
            (adding::<Without>(), "column id where name is expected"),
            (adding::<Retyped>(), "the column id is long in the table"),
        ] {
            let why = mismatch(client_of(&store).open_or_create(URL, open).await);
            assert!(why.contains(expected), "{why:?} does not say {expected:?}");
        }
        assert_eq!(shard.refresh().await.unwrap().version, 0);
    });
}

/// The fields of a struct are part of a fingerprint, nulls and all: they cannot be added to.
#[test]
fn fields_inside_of_columns_cannot_be_added() {
    type Narrow = (u64, (Option<u8>,), Vec<Option<(u8,)>>);
    type Wide = (u64, (Option<u8>, Option<u8>), Vec<Option<(u8,)>>);
    type WideItems = (u64, (Option<u8>,), Vec<Option<(u8, Option<u8>)>>);
    run(async {
        let store = Arc::new(InMemory::new());
        let client = client_of(&store);
        let _shard = client.open_or_create(URL, open::<Narrow>()).await.unwrap();
        for (open, expected) in [
            (adding::<Wide>(), "c1.c1"),
            (adding::<WideItems>(), "c2.element.c1"),
        ] {
            let why = mismatch(client.open_or_create(URL, open).await);
            assert!(why.contains(expected), "{why}");
        }
        // Nor may a type leave one out.
        let wide = "memory://store/wide";
        let _shard = client.open_or_create(wide, open::<Wide>()).await.unwrap();
        let why = mismatch(client.open_or_create(wide, adding::<Narrow>()).await);
        assert!(why.contains("the column c1 has the fields c0, c1"), "{why}");
    });
}
