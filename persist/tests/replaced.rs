//! A table that is moved, deleted or replaced under whoever has it open: they say so, write nothing more, and make no
//! directory anew; whoever opens it next goes on with what is there.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use mvsink_persist::testing::{Call, GateStore, Side};
use mvsink_persist::{
    Append, Appended, Client, ClientOptions, CommitId, Error, Frontier, GcOptions, Open, Shard,
    StagedFile,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use support::{append, client, options, run, schema, stage};

const URL: &str = "memory://store/shard";
/// By then whoever has a table open knows that it is gone.
const PROMISED: Duration = Duration::from_secs(30);

fn quiet(_: &Error) {}

async fn open(client: &Client, url: &str) -> Shard {
    let open = Open::new(schema());
    client.open_or_create(url, open).await.unwrap()
}

/// Appends a file with a row at the next time.
async fn grow(shard: &Shard) -> Result<u64, Error> {
    let upper = shard.progress().upper.time().unwrap();
    let file = stage(shard, upper).await;
    commit(shard, vec![file]).await
}

async fn commit(shard: &Shard, files: Vec<StagedFile>) -> Result<u64, Error> {
    commit_as(1, shard, files).await
}

async fn commit_as(nonce: u128, shard: &Shard, files: Vec<StagedFile>) -> Result<u64, Error> {
    let upper = shard.progress().upper.time().unwrap();
    let seq = shard.progress().version + 1;
    let id = CommitId { nonce, seq };
    let append = Append {
        id,
        ..append(0, upper, upper + 1, files)
    };
    match shard.append(append, &quiet).await? {
        Appended::Committed { version } => Ok(version),
        Appended::Lost { .. } => Ok(0),
    }
}

fn is_replaced<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Shared(error)) if matches!(*error, Error::Replaced { .. }) => error.to_string(),
        Err(error @ Error::Replaced { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Runs a test with real threads, for local directories.
fn run_local<F: Future<Output = ()>>(test: impl Fn(PathBuf, ClientOptions) -> F) {
    for fsync in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(7);
        options.fsync = fsync;
        options.checkpoint_interval = 0;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(test(dir.path().join("table"), options));
    }
}

/// All files below a directory, with what they hold.
fn files(folder: &FsPath) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                found.insert(path, bytes);
            }
        }
    }
    found
}

fn copy(from: &FsPath, to: &FsPath) {
    for (path, bytes) in files(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
}

#[test]
fn a_put_never_makes_the_directory_of_a_table_again() {
    run_local(|path, options| async move {
        let shard = open(&client(options), path.to_str().unwrap()).await;
        grow(&shard).await.unwrap();
        let staged = stage(&shard, 1).await;
        fs::rename(&path, path.with_extension("moved")).unwrap();
        let before = files(&path.with_extension("moved"));

        let staging = shard.put_file(Bytes::from_static(b"rows"), Default::default(), &quiet);
        let why = is_replaced(staging.await);
        assert!(why.contains("moved or deleted"), "{why}");
        is_replaced(commit(&shard, vec![staged]).await);
        is_replaced(commit(&shard, Vec::new()).await);
        is_replaced(shard.checkpoint().await);
        let lease = Duration::from_secs(60);
        is_replaced(shard.hold("reader", Frontier::At(0), lease).await);
        assert!(!path.exists());
        assert_eq!(files(&path.with_extension("moved")), before);
    });
}

#[test]
fn a_put_never_makes_the_log_of_a_table_again() {
    run_local(|path, options| async move {
        let shard = open(&client(options), path.to_str().unwrap()).await;
        let staged = stage(&shard, 0).await;
        fs::remove_dir_all(path.join("_delta_log")).unwrap();
        is_replaced(commit(&shard, vec![staged]).await);
        is_replaced(shard.checkpoint().await);
        assert!(!path.join("_delta_log").exists());
    });
}

#[test]
fn nothing_is_put_into_an_older_copy() {
    run_local(|path, options| async move {
        let shard = open(&client(options.clone()), path.to_str().unwrap()).await;
        grow(&shard).await.unwrap();
        copy(&path, &path.with_extension("copy"));
        for _ in 0..3 {
            grow(&shard).await.unwrap();
        }
        let staged = stage(&shard, 4).await;
        // In one case everything is replaced, in the other one file by file.
        fs::remove_dir_all(path.join("_delta_log")).unwrap();
        copy(
            &path.with_extension("copy").join("_delta_log"),
            &path.join("_delta_log"),
        );
        let before = files(&path.join("_delta_log"));
        let why = is_replaced(commit(&shard, vec![staged]).await);
        assert!(why.contains("older copy"), "{why}");
        is_replaced(shard.checkpoint().await);
        assert_eq!(files(&path.join("_delta_log")), before);

        // Who opens it next goes on from its upper.
        let next = open(&client(options), path.to_str().unwrap()).await;
        assert_eq!(next.progress().upper, Frontier::At(1));
        assert_eq!(grow(&next).await.unwrap(), 2);
    });
}

#[test]
fn what_has_the_place_of_a_table_loses_no_file_to_its_garbage_collection() {
    run_local(|path, options| async move {
        let shard = open(&client(options), path.to_str().unwrap()).await;
        grow(&shard).await.unwrap();
        grow(&shard).await.unwrap();
        copy(&path, &path.with_extension("copy"));
        shard.advance_since(Frontier::At(1), &quiet).await.unwrap();
        // In the table both are removed, in the copy they are live.
        let removes: String = shard
            .pin()
            .files()
            .map(|file| {
                format!(
                    "{{\"remove\":{{\"path\":\"{}\",\"deletionTimestamp\":0,\"dataChange\":false}}}}\n",
                    file.path
                )
            })
            .collect();
        let next = shard.progress().version + 1;
        fs::write(path.join(format!("_delta_log/{next:020}.json")), removes).unwrap();
        shard.refresh().await.unwrap();
        fs::rename(&path, path.with_extension("moved")).unwrap();
        fs::rename(path.with_extension("copy"), &path).unwrap();
        let before = files(&path);
        let mut at_once = GcOptions::default();
        at_once.removed_grace = Duration::ZERO;
        at_once.orphan_min_age = Duration::ZERO;
        is_replaced(shard.collect_garbage(&at_once, &|_| ()).await);
        assert_eq!(files(&path), before);
    });
}

#[test]
fn who_opens_a_table_again_in_the_same_process_has_what_is_there_now() {
    run_local(|path, options| async move {
        let (client, url) = (client(options), path.to_str().unwrap());
        let old = open(&client, url).await;
        grow(&old).await.unwrap();
        fs::rename(&path, path.with_extension("moved")).unwrap();
        assert!(matches!(
            client.open_existing(url).await,
            Err(Error::NoShard { .. })
        ));
        let new = open(&client, url).await;
        assert_eq!(new.progress().upper, Frontier::At(0));
        grow(&new).await.unwrap();
        is_replaced(grow_of(&old).await);
    });
}

/// As [`grow`], without a file.
async fn grow_of(shard: &Shard) -> Result<u64, Error> {
    commit(shard, Vec::new()).await
}

fn client_of(store: &Arc<InMemory>, seed: u64) -> Client {
    let mut options = options(seed);
    options.checkpoint_interval = 2;
    let client = client(options);
    client.mount("store", Arc::clone(store) as Arc<dyn ObjectStore>);
    client
}

/// All objects, with what they hold.
async fn objects(store: &InMemory) -> BTreeMap<Path, Bytes> {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut found = BTreeMap::new();
    for object in listed {
        let got = store.get(&object.location).await.unwrap();
        found.insert(object.location, got.bytes().await.unwrap());
    }
    found
}

/// Has the store hold these objects and no others.
async fn replace(store: &InMemory, with: BTreeMap<Path, Bytes>) {
    for location in objects(store).await.into_keys() {
        store.delete(&location).await.unwrap();
    }
    for (location, bytes) in with {
        store.put(&location, bytes.into()).await.unwrap();
    }
}

/// A writer that commits every second learns within the promised time that its table is another one, an idle follower too.
async fn learn_of(replaced: impl AsyncFnOnce(&InMemory, BTreeMap<Path, Bytes>)) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    let writer = open(&client_of(&store, 1), URL).await;
    let follower = open(&client_of(&store, 2), URL).await;
    let mut watcher = follower.watch();
    grow(&writer).await.unwrap();
    let copied = objects(&store).await;
    for _ in 0..50 {
        grow_of(&writer).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    while watcher.progress().version < writer.progress().version {
        watcher.changed().await.unwrap();
    }
    replaced(&store, copied).await;
    let write = async {
        loop {
            // Without files: there is no hint but the log.
            if let Err(error) = grow_of(&writer).await {
                is_replaced(Err::<(), _>(error));
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let follow = async {
        loop {
            if let Err(error) = watcher.changed().await {
                is_replaced(Err::<(), _>(error));
                return;
            }
        }
    };
    let both = futures::future::join(write, follow);
    tokio::time::timeout(PROMISED, both).await.unwrap();
    is_replaced(writer.checkpoint().await);
    store
}

#[test]
fn objects_deleted_under_a_writer_are_told_within_half_a_minute() {
    run(async {
        let store = learn_of(async |store, _| replace(store, BTreeMap::new()).await).await;
        // Of what was put until then there is no checkpoint that would make a table of it.
        let names = objects(&store).await;
        let checkpoint = |name: &&Path| name.as_ref().contains("checkpoint");
        assert_eq!(names.keys().find(checkpoint), None);
    });
}

/// A put that took long may bring back the last entry, as it was, after the table was deleted.
#[test]
fn a_last_entry_that_comes_back_alone_is_no_table() {
    run(async {
        let store = Arc::new(InMemory::new());
        let [writer, follower] = [1, 2].map(|seed| {
            // A checkpoint would make a log of it that goes on.
            let mut options = options(seed);
            options.checkpoint_interval = 0;
            let client = client(options);
            client.mount("store", Arc::clone(&store) as Arc<dyn ObjectStore>);
            client
        });
        let (writer, follower) = (open(&writer, URL).await, open(&follower, URL).await);
        let mut watcher = follower.watch();
        while writer.progress().version < 5 {
            grow_of(&writer).await.unwrap();
        }
        while watcher.progress().version < 5 {
            watcher.changed().await.unwrap();
        }
        // All is as it should be when they look at it.
        tokio::time::sleep(2 * PROMISED).await;
        writer.refresh().await.unwrap();
        let mut left = objects(&store).await;
        left.retain(|path, _| path.as_ref().ends_with("5.json"));
        assert_eq!(left.len(), 1);
        replace(&store, left).await;
        let told = tokio::time::timeout(PROMISED, watcher.changed()).await;
        is_replaced(told.unwrap());
        let write = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Err(error) = grow_of(&writer).await {
                    return is_replaced(Err::<(), _>(error));
                }
            }
        };
        tokio::time::timeout(PROMISED, write).await.unwrap();
    });
}

#[test]
fn a_checkpoint_of_a_table_that_went_meanwhile_is_taken_back() {
    for is_copied in [false, true] {
        run(async {
            let store = Arc::new(InMemory::new());
            let gated = GateStore::new(Arc::clone(&store) as Arc<dyn ObjectStore>);
            let client = client(options(1));
            client.mount("store", Arc::clone(&gated) as Arc<dyn ObjectStore>);
            let writer = open(&client, URL).await;
            let copied = match is_copied {
                true => objects(&store).await,
                false => BTreeMap::new(),
            };
            grow(&writer).await.unwrap();
            let held = gated.hold(1, Side::Before, |call, path| {
                call == Call::Put && path.as_ref().contains(".checkpoint")
            });
            let replaced = async {
                held.reached().await;
                replace(&store, copied.clone()).await;
                held.release();
            };
            let (written, ()) = futures::future::join(writer.checkpoint(), replaced).await;
            is_replaced(written);
            assert_eq!(objects(&store).await, copied);
        });
    }
}

#[test]
fn a_clean_up_under_way_leaves_an_older_copy_alone() {
    run(async {
        let store = Arc::new(InMemory::new());
        let gated = GateStore::new(Arc::clone(&store) as Arc<dyn ObjectStore>);
        let mut options = options(1);
        options.checkpoint_interval = 0;
        options.log_min_age = Duration::ZERO;
        let client = client(options);
        client.mount("store", Arc::clone(&gated) as Arc<dyn ObjectStore>);
        let writer = open(&client, URL).await;
        for _ in 0..3 {
            grow_of(&writer).await.unwrap();
        }
        let copied = objects(&store).await;
        for _ in 0..3 {
            grow_of(&writer).await.unwrap();
            writer.checkpoint().await.unwrap();
        }
        let held = gated.hold(1, Side::Before, |call, path| {
            call == Call::Delete && path.as_ref().ends_with("00.json")
        });
        let replaced = async {
            held.reached().await;
            replace(&store, copied.clone()).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            held.release();
        };
        let collect = GcOptions::default();
        let collected = writer.collect_garbage(&collect, &|_| ());
        let _ = futures::future::join(collected, replaced).await;
        // One was being deleted already.
        let left = objects(&store).await;
        let gone = copied.keys().filter(|path| !left.contains_key(*path));
        assert_eq!(gone.count(), 1);
    });
}

#[test]
fn nobody_finishes_a_table_that_is_gone() {
    run(async {
        let store = Arc::new(InMemory::new());
        let writer = open(&client_of(&store, 1), URL).await;
        let follower = open(&client_of(&store, 2), URL).await;
        let mut watcher = follower.watch();
        grow_of(&writer).await.unwrap();
        while watcher.progress().version < writer.progress().version {
            watcher.changed().await.unwrap();
        }
        replace(&store, BTreeMap::new()).await;
        // Soon after it was looked for: this one goes to where the table was.
        grow_of(&writer).await.unwrap();
        let last = Append {
            id: CommitId { nonce: 1, seq: 99 },
            upper: Frontier::Empty,
            ..append(0, 2, 3, Vec::new())
        };
        is_replaced(writer.append(last, &quiet).await);
        assert_ne!(writer.progress().upper, Frontier::Empty);
        let failed = loop {
            if let Err(error) = watcher.changed().await {
                break Err::<(), _>(error);
            }
        };
        is_replaced(failed);
        assert_ne!(watcher.progress().upper, Frontier::Empty);
    });
}

#[test]
fn an_older_copy_under_a_writer_is_told_within_half_a_minute() {
    run(async {
        learn_of(async |store, copied| replace(store, copied).await).await;
    });
}

#[test]
fn frequent_looks_do_not_lose_sight_of_what_is_missing_below() {
    run(async {
        let store = Arc::new(InMemory::new());
        let mut options = options(1);
        options.checkpoint_interval = 0;
        // So that it looks every half second.
        options.log_min_age = Duration::from_secs(2);
        let client = client(options);
        client.mount("store", Arc::clone(&store) as Arc<dyn ObjectStore>);
        let writer = open(&client, URL).await;
        grow_of(&writer).await.unwrap();
        let copied = objects(&store).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        // It has looked just now, and does not for the next two.
        grow_of(&writer).await.unwrap();
        replace(&store, copied).await;
        grow_of(&writer).await.unwrap();
        let write = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Err(error) = grow_of(&writer).await {
                    return is_replaced(Err::<(), _>(error));
                }
            }
        };
        tokio::time::timeout(PROMISED, write).await.unwrap();
    });
}

#[test]
fn an_older_copy_that_others_go_on_with_is_told_within_half_a_minute() {
    run(async {
        learn_of(async |store, copied| {
            replace(store, copied).await;
            let third = Arc::new(InMemory::new());
            replace(&third, objects(store).await).await;
            let rival = open(&client_of(&third, 3), URL).await;
            for _ in 0..100 {
                commit_as(2, &rival, Vec::new()).await.unwrap();
            }
            replace(store, objects(&third).await).await;
        })
        .await;
    });
}

#[test]
fn a_log_that_was_cleaned_up_since_it_was_looked_at_is_no_other_table() {
    run(async {
        let store = Arc::new(InMemory::new());
        let mut hasty = options(1);
        hasty.checkpoint_interval = 2;
        let client = client(hasty);
        client.mount("store", Arc::clone(&store) as Arc<dyn ObjectStore>);
        let shard = open(&client, URL).await;
        grow(&shard).await.unwrap();
        for _ in 0..9 {
            grow(&shard).await.unwrap();
        }
        // Another program's clean-up is less patient.
        shard.checkpoint().await.unwrap();
        for version in 0..9 {
            let entry = Path::from(format!("shard/_delta_log/{version:020}.json"));
            store.delete(&entry).await.unwrap();
        }
        tokio::time::sleep(2 * PROMISED).await;
        grow(&shard).await.unwrap();
        assert_eq!(shard.refresh().await.unwrap().version, 11);
        let entry = shard.entry(11).await.unwrap();
        assert_eq!(entry.version, 11);
    });
}
