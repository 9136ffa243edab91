//! One file under several spellings of its path: it is one, whoever removes, adds, merges or deletes it.

#[path = "rows/mod.rs"]
mod rows;
mod support;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use mvsink_persist::testing::{Call, GateStore, Side};
use mvsink_persist::{CompactOptions, GcOptions, Open, Shard};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rows::{append, codec, contents, encode, stage};
use serde_json::{Value, json};
use support::{client, options, run};

const URL: &str = "memory://store/shard";

async fn shard_on(store: &Arc<dyn ObjectStore>) -> Shard {
    let mut options = options(1);
    options.checkpoint_interval = 0;
    let client = client(options);
    client.mount("store", Arc::clone(store));
    let open = Open::new(codec().schema());
    client.open_or_create(URL, open).await.unwrap()
}

/// Another program's commit, as the next entry.
async fn put_entry(store: &dyn ObjectStore, shard: &Shard, actions: &[Value]) {
    let version = shard.refresh().await.unwrap().version + 1;
    let path = Path::from(format!("shard/_delta_log/{version:020}.json"));
    let lines: Vec<_> = actions.iter().map(Value::to_string).collect();
    store.put(&path, lines.join("\n").into()).await.unwrap();
    shard.refresh().await.unwrap();
}

fn add(path: &str, size: u64, changes: bool) -> Value {
    json!({"add": {
        "path": path, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": changes,
    }})
}

fn remove(path: &str) -> Value {
    json!({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": false}})
}

async fn put(store: &dyn ObjectStore, name: &str, bytes: &[u8]) {
    let path = Path::parse(format!("shard/{name}")).unwrap();
    store.put(&path, bytes.to_vec().into()).await.unwrap();
}

/// The names of the data files that are there.
async fn stored(store: &dyn ObjectStore) -> BTreeSet<String> {
    use futures::TryStreamExt;
    let all: Vec<_> = store.list(None).try_collect().await.unwrap();
    let names = all.iter().filter_map(|object| {
        let name = object.location.as_ref().strip_prefix("shard/")?;
        (!name.starts_with("_delta_log")).then(|| name.to_owned())
    });
    names.collect()
}

fn live(shard: &Shard) -> Vec<String> {
    shard.pin().files().map(|file| file.path.clone()).collect()
}

fn at_once() -> GcOptions {
    let mut options = GcOptions::default();
    options.removed_grace = Duration::ZERO;
    options.orphan_min_age = Duration::ZERO;
    options.foreign_orphan_min_age = Duration::ZERO;
    options
}

#[test]
fn garbage_collection_deletes_no_live_file_that_is_named_like_the_encoding_of_a_removed_one() {
    for spelling in [
        "a%2520b.parquet",
        "./a%2520b.parquet",
        "x/../a%2520b.parquet",
        "memory://store/shard/a%2520b.parquet",
    ] {
        run(async {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let shard = shard_on(&store).await;
            put(&*store, "a%20b.parquet", b"live").await;
            put(&*store, "a b.parquet", b"gone").await;
            let both = [add(spelling, 4, true), add("a%20b.parquet", 4, true)];
            put_entry(&*store, &shard, &both).await;
            put_entry(&*store, &shard, &[remove("a%20b.parquet")]).await;
            let bytes = shard.read_file(spelling).await.unwrap();
            assert_eq!(bytes.as_ref(), b"live");
            shard.collect_garbage(&at_once(), &|_| ()).await.unwrap();
            let left = BTreeSet::from(["a%20b.parquet".to_owned()]);
            assert_eq!(stored(&*store).await, left, "{spelling}");
        });
    }
}

#[test]
fn garbage_collection_spares_what_was_removed_and_added_again_under_another_spelling() {
    const SPELLINGS: [&str; 5] = [
        "a%20b.parquet",
        "a b.parquet",
        "./a b.parquet",
        "x/../a%20b.parquet",
        "memory://store/shard/a%20b.parquet",
    ];
    for removed in SPELLINGS {
        for again in SPELLINGS {
            run(async {
                let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
                let shard = shard_on(&store).await;
                put(&*store, "a b.parquet", b"live").await;
                // The sweeper condemns it first.
                let swept = shard.collect_garbage(&at_once(), &|_| ()).await.unwrap();
                assert_eq!(swept.orphans.count, 1);
                put(&*store, "a b.parquet", b"live").await;
                put_entry(&*store, &shard, &[add(removed, 4, true)]).await;
                put_entry(&*store, &shard, &[remove(removed)]).await;
                put_entry(&*store, &shard, &[add(again, 4, true)]).await;
                shard.collect_garbage(&at_once(), &|_| ()).await.unwrap();
                assert_eq!(stored(&*store).await.len(), 1, "{removed}, {again}");
                put_entry(&*store, &shard, &[remove(removed)]).await;
                shard.collect_garbage(&at_once(), &|_| ()).await.unwrap();
                assert_eq!(stored(&*store).await.len(), 0, "{removed}, {again}");
            });
        }
    }
}

#[test]
fn a_merge_leaves_alone_what_no_view_has_looked_at_whatever_its_spelling() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = shard_on(&store).await;
        for number in 0..3 {
            let bytes = encode(&[(Ok((number, None)), 0, 1)], true).bytes;
            let name = format!("of another {number}.parquet");
            put(&*store, &name, &bytes).await;
            let size = bytes.len() as u64;
            let spelled = [name.replace(' ', "%20"), format!("./{name}")];
            put_entry(&*store, &shard, &[add(&spelled[0], size, true)]).await;
            put_entry(&*store, &shard, &[add(&spelled[1], size, false)]).await;
        }
        let mut options = CompactOptions::default();
        options.full = true;
        let go_on = |_| ControlFlow::Continue(());
        let report = shard.compact(&options, &go_on).await.unwrap();
        assert_eq!((report.left_alone, report.merges), (3, 0));
    });
}

/// Compacts two files while another program adds the first again, with these actions, and gives what is read then.
async fn merge_beside(
    store: &Arc<dyn ObjectStore>,
    again: impl Fn(&str, u64) -> Vec<Value>,
) -> (Shard, Vec<u64>) {
    let gates = GateStore::new(Arc::clone(store));
    let shard = shard_on(&(Arc::clone(&gates) as Arc<dyn ObjectStore>)).await;
    for number in 0..2 {
        let time = i64::try_from(number).unwrap();
        let staged = stage(&shard, encode(&[(Ok((number, None)), time, 1)], true)).await;
        append(&shard, time + 1, vec![staged]).await;
    }
    let first = Arc::clone(shard.pin().files().next().unwrap());
    let hold = gates.hold(1, Side::After, |call, path| {
        matches!(call, Call::Create | Call::Put) && path.as_ref().ends_with(".parquet")
    });
    let mut options = CompactOptions::default();
    options.full = true;
    let go_on = |_| ControlFlow::Continue(());
    let edit = async {
        let reached = tokio::time::timeout(Duration::from_secs(60), hold.reached());
        reached.await.expect("a merge puts its file");
        let actions = again(&first.path, first.size);
        put_entry(&**store, &shard, &actions).await;
        hold.release();
    };
    let (report, ()) = futures::join!(shard.compact(&options, &go_on), edit);
    report.unwrap();
    let mut rows = Vec::new();
    for file in shard.pin().files() {
        let bytes = shard.read_file(&file.path).await.unwrap();
        for batch in mvsink_persist::decode_file(&file.path, bytes, None, 1024).unwrap() {
            let updates = rows::updates(&[batch.unwrap()]);
            let found = contents(&updates, i64::MAX - 1);
            rows.extend(found.keys().map(|row| row.as_ref().unwrap().0));
        }
    }
    rows.sort_unstable();
    (shard, rows)
}

#[test]
fn a_merge_removes_its_inputs_under_the_spelling_that_others_know() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let again = |path: &str, size| {
            let again = format!("./{path}");
            vec![remove(path), add(&again, size, false)]
        };
        let (shard, rows) = merge_beside(&store, again).await;
        assert_eq!(rows, [0, 1]);
        assert_eq!(live(&shard).len(), 1);
        // Who goes by spellings finds each add removed by its own.
        let mut named = BTreeSet::new();
        for version in 0..=shard.progress().version {
            let path = Path::from(format!("shard/_delta_log/{version:020}.json"));
            let bytes = store.get(&path).await.unwrap().bytes().await.unwrap();
            for line in String::from_utf8(bytes.to_vec()).unwrap().lines() {
                let action: Value = serde_json::from_str(line).unwrap();
                if let Some(path) = action["remove"]["path"].as_str() {
                    named.remove(path);
                }
                if let Some(path) = action["add"]["path"].as_str() {
                    named.insert(path.to_owned());
                }
            }
        }
        assert_eq!(named.into_iter().collect::<Vec<_>>(), live(&shard));
    });
}

#[test]
fn a_merge_does_not_replace_another_file_that_was_put_in_the_place_of_an_input() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let bytes = encode(
            &[(Ok((7, None)), 0, 1), (Ok((8, Some("more".into()))), 0, 1)],
            true,
        );
        let bytes = bytes.bytes;
        let size = bytes.len() as u64;
        let inner = Arc::clone(&store);
        let again = move |path: &str, old: u64| {
            assert_ne!(size, old);
            let (inner, name, bytes) = (Arc::clone(&inner), path.to_owned(), bytes.clone());
            futures::executor::block_on(async move { put(&*inner, &name, &bytes).await });
            vec![remove(path), add(&format!("./{path}"), size, true)]
        };
        let (_, rows) = merge_beside(&store, again).await;
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[1..], [7, 8]);
    });
}
