//! Data files that the store does not have as the log says are found without reading them, and never read.

mod support;

use std::ops::ControlFlow;
use std::sync::Arc;

use mvsink_persist::{
    Client, Codec, CompactOptions, Damage, Error, FileEncoder, FileMeta, Open, ReadOptions, Shard,
};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use support::{append, client, options, run};

const URL: &str = "memory://store/shard";

struct Fixture {
    store: Arc<InMemory>,
    _client: Client,
    shard: Shard,
}

fn encode(rows: std::ops::Range<u64>) -> (bytes::Bytes, FileMeta) {
    let codec = Codec::<u64, String>::new().unwrap();
    let mut file = FileEncoder::new(codec.schema()).unwrap();
    let rows: Vec<u64> = rows.collect();
    let updates = rows.iter().map(|row| (row, 0, 1));
    file.write(&codec.encode(updates).unwrap()).unwrap();
    let file = file.finish().unwrap();
    let meta = FileMeta::from(&file);
    (file.bytes, meta)
}

impl Fixture {
    async fn with_files(count: u64) -> Self {
        let store = Arc::new(InMemory::new());
        let client = client(options(1));
        client.mount("store", Arc::clone(&store) as _);
        let schema = Codec::<u64, String>::new().unwrap().schema();
        let shard = client.open_or_create(URL, Open::new(schema)).await.unwrap();
        let mut files = Vec::new();
        for number in 0..count {
            let (bytes, meta) = encode(number..number + 1);
            files.push(shard.put_file(bytes, meta, &|_| ()).await.unwrap());
        }
        let appended = shard.append(append(1, 0, 1, files), &|_| ()).await;
        appended.unwrap();
        Fixture {
            store,
            _client: client,
            shard,
        }
    }

    fn paths(&self) -> Vec<String> {
        let pinned = self.shard.pin();
        pinned.files().map(|file| file.path.clone()).collect()
    }

    async fn put(&self, path: &str, bytes: bytes::Bytes) {
        let path = Path::from(format!("shard/{path}"));
        self.store.put(&path, bytes.into()).await.unwrap();
    }

    async fn delete(&self, path: &str) {
        let path = Path::from(format!("shard/{path}"));
        self.store.delete(&path).await.unwrap();
    }

    async fn damaged(&self) -> Vec<(String, Damage)> {
        let pinned = self.shard.pin();
        let damaged = self.shard.damaged_files(&pinned).await.unwrap();
        let by_path = damaged.into_iter();
        by_path
            .map(|(file, damage)| (file.path.clone(), damage))
            .collect()
    }
}

#[test]
fn missing_files_and_those_of_another_size_are_found() {
    // Few files are looked at one by one, many are listed.
    for count in [3, 100] {
        run(async {
            let fixture = Fixture::with_files(count).await;
            let paths = fixture.paths();
            assert_eq!(fixture.damaged().await, []);
            fixture.delete(&paths[0]).await;
            let expected = fixture
                .shard
                .pin()
                .files()
                .nth(2)
                .map(|file| file.size)
                .unwrap();
            let (bytes, _) = encode(0..100);
            let found = bytes.len() as u64;
            fixture.put(&paths[2], bytes).await;
            assert_eq!(
                fixture.damaged().await,
                [
                    (paths[0].clone(), Damage::Missing),
                    (paths[2].clone(), Damage::Size { expected, found }),
                ]
            );
        });
    }
}

#[test]
fn a_file_that_was_removed_meanwhile_is_not_damaged() {
    run(async {
        let fixture = Fixture::with_files(3).await;
        let pinned = fixture.shard.pin();
        let paths = fixture.paths();
        let mut merge = CompactOptions::default();
        merge.full = true;
        let go_on = |_| ControlFlow::Continue(());
        let merged = fixture.shard.compact(&merge, &go_on).await.unwrap();
        assert_eq!(merged.files_in, 3);
        for path in paths {
            fixture.delete(&path).await;
        }
        assert!(
            fixture
                .shard
                .damaged_files(&pinned)
                .await
                .unwrap()
                .is_empty()
        );
    });
}

#[test]
fn a_lost_file_that_another_has_removed_with_its_rows_is_damaged() {
    run(async {
        let fixture = Fixture::with_files(3).await;
        let pinned = fixture.shard.pin();
        let path = fixture.paths().remove(1);
        fixture.delete(&path).await;
        // Another process has repaired it before this one looks.
        let other = client(options(2));
        other.mount("store", Arc::clone(&fixture.store) as _);
        let shard = other.open_existing(URL).await.unwrap();
        let removes = [path.clone()].into();
        let append = append(2, 1, 2, Vec::new());
        shard
            .append_removing(append, removes, &|_| ())
            .await
            .unwrap();
        let damaged = fixture.shard.damaged_files(&pinned).await.unwrap();
        assert_eq!(damaged.len(), 1);
        assert_eq!((&damaged[0].0.path, damaged[0].1), (&path, Damage::Missing));
    });
}

#[test]
fn another_file_in_the_place_of_one_is_never_read() {
    run(async {
        let fixture = Fixture::with_files(3).await;
        let path = fixture.paths().remove(1);
        fixture.put(&path, encode(70..90).0).await;
        let is_damage = |error: &Error| {
            let text = error.to_string();
            assert!(matches!(error, Error::Corrupt { .. }), "{text}");
            assert!(text.contains(&path), "{text}");
            assert!(text.contains("and the log says"), "{text}");
            assert!(
                text.contains("`mvsink repair memory://store/shard`"),
                "{text}"
            );
        };
        is_damage(&fixture.shard.read_file(&path).await.unwrap_err());
        let snapshot = async {
            let mut reader = fixture.shard.snapshot(0, ReadOptions::default())?;
            while reader.next().await?.is_some() {}
            Ok::<_, Error>(())
        };
        is_damage(&snapshot.await.unwrap_err());
        let mut merge = CompactOptions::default();
        merge.full = true;
        let go_on = |_| ControlFlow::Continue(());
        is_damage(&fixture.shard.compact(&merge, &go_on).await.unwrap_err());
        // Only verification looks into it.
        let report = fixture.shard.verify(&|_| ()).await.unwrap();
        assert!(!report.is_clean() && report.rows == 22, "{report:?}");
    });
}
