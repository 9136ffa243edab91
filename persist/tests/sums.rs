//! Sums of fingerprints: with each file in the log, and over a shard.

mod support;

use std::sync::Arc;

use mvsink_persist::{
    Codec, FileEncoder, FileMeta, Open, Shard, StagedFile, Sums, hash_data, hash_error, sums_of,
};
use object_store::memory::InMemory;
use support::{append, client, options, run};

const URL: &str = "memory://store/shard";

type Row = (u64, Option<String>);

fn quiet(_: &mvsink_persist::Error) {}

fn codec() -> Codec<Row, String> {
    Codec::new().unwrap()
}

async fn stage(shard: &Shard, updates: &[(Row, i64, i64)]) -> StagedFile {
    let batch = codec().encode(updates.iter().map(|(row, time, diff)| (row, *time, *diff)));
    let mut file = FileEncoder::new(codec().schema()).unwrap();
    file.write(&batch.unwrap()).unwrap();
    let file = file.finish().unwrap();
    let meta = FileMeta::from(&file);
    shard.put_file(file.bytes, meta, &quiet).await.unwrap()
}

fn row(key: u64) -> Row {
    (key, key.is_multiple_of(2).then(|| format!("row {key}")))
}

#[test]
fn the_live_files_sums_add_up_to_the_collections() {
    run(async {
        let store = Arc::new(InMemory::new());
        let client = || {
            let client = client(options(1));
            client.mount("store", store.clone());
            client
        };
        let shard = client()
            .open_or_create(URL, Open::new(codec().schema()))
            .await
            .unwrap();
        let empty = shard.pin().sums();
        assert!(empty.0.is_zero() && empty.1 == 0);

        // 30 rows come, 20 of them go again.
        let come: Vec<_> = (0..30).map(|key| (row(key), 0, 1)).collect();
        let go: Vec<_> = (0..20).map(|key| (row(key), 1, -1)).collect();
        for (time, updates) in [(0, come), (1, go)] {
            let file = stage(&shard, &updates).await;
            let commit = append(time, time as i64, time as i64 + 1, vec![file]);
            shard.append(commit, &quiet).await.unwrap();
        }
        let mut expected = Sums::default();
        for key in 20..30 {
            expected.add(hash_data(&row(key)).unwrap(), 1);
        }
        assert_eq!(shard.pin().sums(), (expected.clone(), 0));

        // They are in the log, and in a checkpoint.
        shard.checkpoint().await.unwrap();
        assert_eq!(
            client().open_existing(URL).await.unwrap().pin().sums(),
            (expected.clone(), 0)
        );

        // A file of somebody who does not know of sums.
        let mut file = stage(&shard, &[(row(1), 2, 1)]).await;
        file.meta.sums = None;
        shard
            .append(append(2, 2, 3, vec![file]), &quiet)
            .await
            .unwrap();
        assert_eq!(shard.pin().sums(), (expected, 1));
    });
}

#[test]
fn a_batch_has_the_sums_of_its_rows() {
    let (a, b, error) = (row(1), row(2), "error".to_owned());
    let ok = codec().encode([(&a, 1, 2), (&b, 2, -3), (&a, 9, i64::MIN)].into_iter());
    let err = codec().encode_errors([(&error, 1, 5)].into_iter());
    let mut expected = Sums::default();
    expected.add(hash_data(&a).unwrap(), 2);
    expected.add(hash_data(&b).unwrap(), -3);
    expected.add(hash_data(&a).unwrap(), i64::MIN);
    assert_eq!(sums_of(&ok.unwrap()).unwrap(), expected);
    let mut expected = Sums::default();
    expected.add(hash_error(&error).unwrap(), 5);
    assert_eq!(sums_of(&err.unwrap()).unwrap(), expected);
}
