//! Files that are committed, or deleted, while they are still being written.

mod gate;
mod support;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use gate::{GateStore, Held};
use mvsink_persist::{
    Appended, ClientOptions, Error, FileMeta, Frontier, Open, PutFile, Shard, StagedFile,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use support::{append, client, options, run, schema};

const URL: &str = "memory://store/shard";

fn quiet(_: &Error) {}

async fn shard_on(store: Arc<dyn ObjectStore>, seed: u64) -> Shard {
    let client = client(options(seed));
    client.mount("store", store);
    let open = Open::new(schema());
    client.open_or_create(URL, open).await.unwrap()
}

/// Begins a file of one row at this time.
fn begin(shard: &Shard, time: i64) -> (StagedFile, PutFile) {
    let meta = FileMeta {
        rows: 1,
        times: Some((time, time)),
        ..FileMeta::default()
    };
    shard.begin_file(Bytes::from_static(b"rows"), meta)
}

/// Whether the log says that the file was never written.
fn is_unwritten(appended: Result<Appended, Error>, file: &StagedFile) -> bool {
    matches!(appended, Err(Error::Unwritten { path, .. }) if path == file.path)
}

#[test]
fn a_file_that_is_given_up_is_never_committed() {
    run(async {
        let shard = shard_on(Arc::new(InMemory::new()), 1).await;
        let (file, put) = begin(&shard, 0);
        let appending = tokio::spawn({
            let (shard, append) = (shard.clone(), append(0, 0, 1, vec![file.clone()]));
            async move { shard.append(append, &quiet).await }
        });
        tokio::task::yield_now().await;
        drop(put);
        assert!(is_unwritten(appending.await.unwrap(), &file));
        assert_eq!(shard.refresh().await.unwrap().upper, Frontier::At(0));
        // Nor later.
        let again = shard.append(append(1, 0, 1, vec![file.clone()]), &quiet);
        assert!(is_unwritten(again.await, &file));
        // Others go on.
        let next = shard.append(append(2, 0, 1, Vec::new()), &quiet).await;
        assert_eq!(next.unwrap(), Appended::Committed { version: 1 });
        // What another writer was faster than is lost, whatever became of its files.
        let late = shard.append(append(3, 0, 1, vec![file]), &quiet).await;
        let upper = Frontier::At(1);
        assert_eq!(late.unwrap(), Appended::Lost { upper });
    });
}

#[test]
fn another_process_does_not_commit_what_is_still_being_written() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let writer = shard_on(Arc::clone(&store), 1).await;
        let other = shard_on(store, 2).await;
        let (file, put) = begin(&writer, 0);
        let sent = serde_json::to_string(&file).unwrap();
        let received: StagedFile = serde_json::from_str(&sent).unwrap();
        let early = other.append(append(0, 0, 1, vec![received]), &quiet);
        assert!(is_unwritten(early.await, &file));
        put.finish(&quiet).await.unwrap();
        let written = vec![file.into_written()];
        let appended = other.append(append(0, 0, 1, written), &quiet).await;
        assert_eq!(appended.unwrap(), Appended::Committed { version: 1 });
    });
}

/// Deleted before it was written, it would be there again afterwards.
async fn deletes_once_it_is_written(meanwhile: impl AsyncFn(&Shard, &StagedFile)) {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let gate = GateStore::new(Arc::clone(&memory));
    let shard = shard_on(gate.clone(), 1).await;
    let (file, put) = begin(&shard, 0);
    let path = object_store::path::Path::from(format!("shard/{}", file.path));
    gate.hold(Held::PutsAfter);
    let writing = tokio::spawn(async move { put.finish(&quiet).await });
    gate.reached().await;
    meanwhile(&shard, &file).await;
    let deleting = tokio::spawn({
        let (shard, files) = (shard.clone(), [file]);
        async move { shard.delete_files(&files).await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!deleting.is_finished(), "it is still being written");
    assert!(memory.head(&path).await.is_ok());
    gate.hold(Held::Nothing);
    writing.await.unwrap().unwrap();
    deleting.await.unwrap().unwrap();
    assert!(memory.head(&path).await.is_err());
}

#[test]
fn what_is_deleted_while_it_is_written_is_gone() {
    run(deletes_once_it_is_written(async |_, _| ()));
}

#[test]
fn what_is_deleted_while_it_is_written_is_gone_though_its_append_was_given_up() {
    run(deletes_once_it_is_written(async |shard, file| {
        let append = append(0, 0, 1, vec![file.clone()]);
        let mut appending = Box::pin(shard.append(append, &quiet));
        assert!(futures::poll!(&mut appending).is_pending());
    }));
}

/// The names in a directory, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// On a local disk the entry is written beside its file, and is in the log when both are safe.
#[test]
fn an_entry_is_prepared_while_its_file_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("_delta_log");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = client(ClientOptions::default());
        let url = dir.path().to_str().unwrap();
        let open = Open::new(schema());
        let shard = client.open_or_create(url, open).await.unwrap();
        let before = names(&log);
        let entry = format!("{:020}.json", 1);
        let prepared = async || {
            while !names(&log).contains(&format!("{entry}#1")) {
                tokio::task::yield_now().await;
            }
        };

        // Given up: what was prepared goes.
        let (file, put) = begin(&shard, 0);
        let appending = shard.append(append(0, 0, 1, vec![file.clone()]), &quiet);
        let (appended, ()) = futures::join!(appending, async {
            prepared().await;
            drop(put);
        });
        assert!(is_unwritten(appended, &file));
        while names(&log) != before {
            tokio::task::yield_now().await;
        }

        let (file, put) = begin(&shard, 0);
        let appending = shard.append(append(1, 0, 1, vec![file]), &quiet);
        let (appended, ()) = futures::join!(appending, async {
            prepared().await;
            assert!(!names(&log).contains(&entry), "its file is not written yet");
            put.finish(&quiet).await.unwrap();
        });
        assert_eq!(appended.unwrap(), Appended::Committed { version: 1 });
        assert_eq!(names(&log).len(), before.len() + 1);
        assert!(names(&log).contains(&entry));

        // The slot is another's when it is to be published.
        let rival = support::client(ClientOptions::default());
        let rival = rival.open_existing(url).await.unwrap();
        let (file, put) = begin(&shard, 1);
        let entry = format!("{:020}.json", 2);
        let appending = shard.append(append(2, 1, 2, vec![file]), &quiet);
        let (appended, ()) = futures::join!(appending, async {
            while !names(&log).contains(&format!("{entry}#1")) {
                tokio::task::yield_now().await;
            }
            let first = rival.append(append(3, 1, 5, Vec::new()), &quiet).await;
            assert_eq!(first.unwrap(), Appended::Committed { version: 2 });
            put.finish(&quiet).await.unwrap();
        });
        let upper = Frontier::At(5);
        assert_eq!(appended.unwrap(), Appended::Lost { upper });
        assert!(names(&log).iter().all(|name| !name.contains('#')));
    });
}
