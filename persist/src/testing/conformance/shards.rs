//! Checks of shards: creation, commits, following and reading, with other processes about. They go through the faults,
//! if there are any, and are judged by a reader of the store without.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::{Either, join, join_all, select};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::{Fault, FaultyStore};
use super::Setup;
use crate::log::entry_path;
use crate::{
    Append, Appended, Client, Codec, CommitId, Error, FileEncoder, FileMeta, Frontier, Open, Shard,
    StagedFile, decode_file,
};

type Row = (String, u64);

fn codec() -> Codec<Row, String> {
    Codec::new().expect("the type can be stored")
}

fn schema() -> SchemaRef {
    codec().schema()
}

fn quiet(_: &Error) {}

async fn shard(setup: &Setup, seed: u64, folder: &str) -> Shard {
    open(setup, &setup.client(seed), folder).await
}

async fn open(setup: &Setup, client: &Client, folder: &str) -> Shard {
    let url = setup.shard_url(folder);
    let opened = client.open_or_create(&url, Open::new(schema())).await;
    opened.expect("the shard can be opened")
}

/// A shard as a reader finds it that comes later, and without faults.
async fn judge(setup: &Setup, folder: &str) -> Shard {
    setup.settle().await;
    let client = setup.client(u64::MAX);
    client.mount("truth", setup.folder(folder));
    let opened = client.open_existing("memory://truth").await;
    opened.expect("a later reader finds the shard")
}

async fn objects(setup: &Setup, folder: &str) -> BTreeSet<String> {
    let store = setup.folder(folder);
    let listed = object_store::ObjectStore::list(&store, None);
    let names = listed.map_ok(|object| object.location.to_string());
    names.try_collect().await.expect("listing works")
}

fn step(nonce: u128, seq: u64, lower: i64, upper: i64, files: Vec<StagedFile>) -> Append {
    Append {
        id: CommitId { nonce, seq },
        lower: Frontier::At(lower),
        upper: Frontier::At(upper),
        files,
        since: None,
    }
}

fn meta(lower: i64, upper: i64) -> FileMeta {
    FileMeta {
        rows: 1,
        times: Some((lower, upper - 1)),
        ..FileMeta::default()
    }
}

async fn stage(shard: &Shard, bytes: Bytes, lower: i64, upper: i64) -> StagedFile {
    let staged = shard.put_file(bytes, meta(lower, upper), &quiet).await;
    staged.expect("a file can be staged")
}

async fn must_commit(shard: &Shard, append: Append) -> u64 {
    match shard.append(append, &quiet).await.expect("a commit works") {
        Appended::Committed { version } => version,
        Appended::Lost { upper } => panic!("a commit without a rival was lost at {upper}"),
    }
}

/// Processes that create the same shard at once open one and the same.
pub async fn one_of_many_creations_counts(setup: &Setup) {
    for round in 0..3 {
        let folder = format!("creation-{round}");
        let opening = (0..setup.writers * 2).map(|writer| shard(setup, writer, &folder));
        let shards = join_all(opening).await;
        let found: Vec<_> = objects(setup, &folder).await.into_iter().collect();
        assert_eq!(found, ["_delta_log/00000000000000000000.json"]);
        for shard in &shards {
            assert_eq!(shard.progress().upper, Frontier::At(0));
        }
        must_commit(&shards[0], step(1, 0, 0, 7, Vec::new())).await;
        let last = shards.last().expect("there are some");
        let seen = last.refresh().await.expect("the log can be read");
        assert_eq!(seen.upper, Frontier::At(7), "it is another shard");
    }
}

/// One writer's commits, by identity, with the files of each.
type Commits = BTreeMap<CommitId, (u64, BTreeSet<String>)>;

/// Appends until the shard's upper reaches `goal`; returns what it was told is committed, and how often it lost.
async fn write_until(
    shard: Shard,
    client: Client,
    nonce: u128,
    seed: u64,
    goal: i64,
) -> (Commits, u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut commits = Commits::new();
    let mut losses = 0;
    for seq in 0.. {
        let Frontier::At(lower) = shard.progress().upper else {
            break;
        };
        if lower >= goal {
            break;
        }
        let upper = lower + random.random_range(1..3);
        let (mut files, mut writing) = (Vec::new(), Vec::new());
        for _ in 0..random.random_range(0..3) {
            let bytes = Bytes::from_static(b"rows");
            if random.random() {
                files.push(stage(&shard, bytes, lower, upper).await);
            } else {
                let (file, put) = shard.begin_file(bytes, meta(lower, upper));
                files.push(file);
                writing.push(put.finish(&quiet));
            }
        }
        let append = step(nonce, seq, lower, upper, files.clone());
        let id = append.id;
        let (appended, written) = join(shard.append(append, &quiet), join_all(writing)).await;
        assert!(written.iter().all(Result::is_ok), "a file can be written");
        match appended.expect("losing is no error") {
            Appended::Committed { version } => {
                // The process knows at once, without reading.
                assert!(shard.progress().version >= version);
                commits.insert(
                    id,
                    (version, files.into_iter().map(|file| file.path).collect()),
                );
            }
            Appended::Lost { upper } => {
                losses += 1;
                assert_ne!(upper, Frontier::At(lower), "a loss without a winner");
                let deleted = client.retry(&quiet, || shard.delete_files(&files)).await;
                deleted.expect("files of a loss can be deleted");
            }
        }
    }
    (commits, losses)
}

/// Writers race, each for itself; then a reader of the store without faults decides who was right. Returns how often
/// they lost.
///
/// # Panics
/// If a writer was told that it had committed what that reader does not see, or the other way round; if the history
/// is not linear; or if a file is missing, or left.
pub async fn race(setup: &Setup, folder: &str, writers: u64, goal: i64) -> u64 {
    let writing = (0..writers).map(|writer| async move {
        let client = setup.client(writer);
        let shard = open(setup, &client, folder).await;
        // Half of them follow, half learn of the others' commits only by losing.
        let watcher = (writer % 2 == 0).then(|| shard.watch());
        let seed = setup.seed ^ writer;
        let result = write_until(shard, client, u128::from(writer), seed, goal).await;
        drop(watcher);
        result
    });
    let results = join_all(writing).await;
    let shard = judge(setup, folder).await;
    let mut upper = Frontier::At(0);
    let mut found = Commits::new();
    for version in 1..=shard.progress().version {
        let entry = shard.entry(version).await.expect("an entry can be read");
        assert_eq!(entry.lower, upper, "the history is linear");
        assert!(entry.upper > entry.lower, "every commit moves the upper");
        assert!(!entry.foreign);
        upper = entry.upper;
        let paths = entry.adds.iter().map(|file| file.path.clone()).collect();
        let id = entry.id.expect("every commit has an identity");
        let twice = found.insert(id, (version, paths));
        assert_eq!(twice, None, "a commit is in the log once");
    }
    assert_eq!(shard.progress().upper, upper);
    let told: Commits = results
        .iter()
        .flat_map(|(commits, _)| commits.clone())
        .collect();
    assert_eq!(
        told, found,
        "committed if and only if a fresh reader sees it"
    );

    let live: BTreeSet<_> = shard.pin().files().map(|file| file.path.clone()).collect();
    let committed: BTreeSet<_> = told.into_values().flat_map(|(_, files)| files).collect();
    assert_eq!(live, committed, "the live files are those of the commits");
    let data = objects(setup, folder).await.into_iter();
    let data: BTreeSet<_> = data
        .filter(|path| !path.starts_with("_delta_log/"))
        .collect();
    assert_eq!(data, live, "r11: no file is lost and none is left behind");
    results.into_iter().map(|(_, losses)| losses).sum()
}

/// An append of a file that is still being written is a commit once the file is safe, and not before.
pub async fn an_append_waits_for_its_files(setup: &Setup) {
    let writer = shard(setup, 1, "writing").await;
    let (file, put) = writer.begin_file(Bytes::from_static(b"rows"), meta(0, 1));
    let path = Path::from(file.path.as_str());
    let mut append = pin!(writer.append(step(1, 0, 0, 1, vec![file]), &quiet));
    let patience = pin!(tokio::time::sleep(Duration::from_millis(50)));
    match select(append.as_mut(), patience).await {
        Either::Left(_) => panic!("it did not wait for its file"),
        Either::Right(_) => {}
    }
    let before = setup.folder("writing").head(&entry_path(1)).await;
    assert!(
        before.is_err(),
        "the log refers to a file that is not there"
    );
    let (appended, written) = join(append, put.finish(&quiet)).await;
    written.expect("a file can be written");
    let version = Appended::Committed { version: 1 };
    assert_eq!(appended.expect("a commit works"), version);
    let found = setup.folder("writing").head(&path).await;
    found.expect("the file is there");
}

/// Of the appends for one upper exactly one happens, and everybody is told the truth.
pub async fn of_racing_appends_one_wins_each_round(setup: &Setup) {
    race(setup, "appends", setup.writers, setup.rounds).await;
}

/// A commit whose put had an uncertain end is resolved by what is in the log.
pub async fn uncertain_puts_are_resolved(setup: &Setup) {
    use Fault::{Applied, AppliedLater, Conflict, None, NotApplied, Slow};
    let scripts: &[&[Fault]] = &[
        &[Applied],
        &[NotApplied],
        &[AppliedLater],
        &[Conflict],
        &[Slow],
        &[NotApplied, Applied],
        &[AppliedLater, Conflict, None],
        &[Conflict, Applied, NotApplied],
        &[NotApplied, NotApplied, AppliedLater, NotApplied],
    ];
    let faulty = FaultyStore::new(setup.folder("uncertain"), setup.seed, 0);
    let client = setup.client(1);
    client.mount("uncertain", faulty.clone());
    let opened = client.open_or_create("memory://uncertain", Open::new(schema()));
    let shard = opened.await.expect("the shard can be opened");
    for (round, script) in (0..).zip(scripts) {
        faulty.script(script);
        let file = stage(&shard, Bytes::from_static(b"rows"), round, round + 1).await;
        let seq = u64::try_from(round).unwrap_or(0);
        let version = must_commit(&shard, step(1, seq, round, round + 1, vec![file])).await;
        assert_eq!(version, seq + 1, "{script:?} cost a version");
    }
    faulty.settled().await;
    let found = judge(setup, "uncertain").await;
    assert_eq!(
        found.progress().version,
        scripts.len() as u64,
        "something was committed twice"
    );
    assert_eq!(found.pin().files().len(), scripts.len());
}

/// Rows come back from another process as they were written.
pub async fn rows_come_back(setup: &Setup) {
    let writer = shard(setup, 1, "rows").await;
    let mut expected = Vec::new();
    for time in 0..5_i64 {
        let rows: Vec<(Row, i64, i64)> = (0..100)
            .map(|n| ((format!("row {n}"), n * 7), time, 1 - 2 * (n as i64 % 2)))
            .collect();
        let mut file = FileEncoder::new(schema()).expect("the schema fits a file");
        let batch = codec().encode(rows.iter().map(|(row, time, diff)| (row, *time, *diff)));
        file.write(&batch.expect("rows fit"))
            .expect("they fit the file");
        let file = file.finish().expect("the file ends");
        let staged = stage(&writer, file.bytes, time, time + 1).await;
        must_commit(
            &writer,
            step(1, time.unsigned_abs(), time, time + 1, vec![staged]),
        )
        .await;
        expected.extend(rows);
    }
    let reader = shard(setup, 2, "rows").await;
    let client = setup.client(3);
    let mut found = Vec::new();
    for file in reader.pin().files() {
        let read = client.retry(&quiet, || reader.read_file(&file.path)).await;
        let batches = decode_file(&file.path, read.expect("a file can be read"), None, 64);
        for batch in batches.expect("it is a file") {
            let batch = batch.expect("it is whole");
            found.extend(codec().decode(&batch).expect("rows are rows").ok);
        }
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// Frontiers that moved without a file are there for others: the upper, the since, and the end.
pub async fn frontiers_are_durable(setup: &Setup) {
    let writer = shard(setup, 1, "frontiers").await;
    must_commit(&writer, step(1, 0, 0, 7, Vec::new())).await;
    writer
        .advance_since(Frontier::At(3), &quiet)
        .await
        .expect("the since can be moved");
    let reader = shard(setup, 2, "frontiers").await;
    assert_eq!(reader.progress().upper, Frontier::At(7));
    assert_eq!(reader.progress().since, Frontier::At(3));
    let mut last = step(1, 1, 7, 8, Vec::new());
    last.upper = Frontier::Empty;
    must_commit(&writer, last).await;
    assert_eq!(
        judge(setup, "frontiers").await.progress().upper,
        Frontier::Empty
    );
    let lost = reader.append(step(2, 0, 7, 8, Vec::new()), &quiet).await;
    let upper = Frontier::Empty;
    assert_eq!(lost.expect("losing is no error"), Appended::Lost { upper });
}

/// A process that watches sees another's commits, in order, to the last.
pub async fn another_process_follows(setup: &Setup) {
    let writer = shard(setup, 1, "follow").await;
    let reader = shard(setup, 2, "follow").await;
    let writing = async {
        for time in 0..setup.rounds {
            must_commit(
                &writer,
                step(1, time.unsigned_abs(), time, time + 1, Vec::new()),
            )
            .await;
        }
    };
    let following = async {
        let mut watcher = reader.watch();
        let mut version = watcher.progress().version;
        while watcher.progress().upper < Frontier::At(setup.rounds) {
            let progress = watcher.changed().await.expect("the log can be followed");
            assert!(progress.version > version, "versions only grow");
            version = progress.version;
        }
    };
    futures::join!(writing, following);
    for version in 1..=setup.rounds.unsigned_abs() {
        let entry = reader.entry(version).await.expect("an entry can be read");
        assert_eq!(
            entry.upper,
            Frontier::At(i64::try_from(version).unwrap_or(0))
        );
    }
}

/// A shard opens from a checkpoint as from the log, and without the pointer to it.
pub async fn a_checkpoint_is_as_good_as_the_log(setup: &Setup) {
    let writer = shard(setup, 1, "checkpoint").await;
    let client = setup.client(4);
    for time in 0..12 {
        let file = stage(&writer, Bytes::from_static(b"rows"), time, time + 1).await;
        must_commit(
            &writer,
            step(1, time.unsigned_abs(), time, time + 1, vec![file]),
        )
        .await;
        if time == 8 {
            let checkpoint = client.retry(&quiet, || writer.checkpoint()).await;
            checkpoint.expect("a checkpoint can be written");
        }
    }
    let expected: Vec<_> = writer.pin().files().map(|file| file.path.clone()).collect();
    let same = |shard: &Shard| {
        assert_eq!(shard.progress(), writer.progress());
        let found: Vec<_> = shard.pin().files().map(|file| file.path.clone()).collect();
        assert_eq!(found, expected);
    };
    setup.settle().await;
    let store = setup.folder("checkpoint");
    // Only the checkpoint can be what is read.
    let first = Path::from("_delta_log/00000000000000000000.json");
    store.delete(&first).await.expect("an entry can be deleted");
    same(&shard(setup, 2, "checkpoint").await);
    let pointer = Path::from("_delta_log/_last_checkpoint");
    store
        .delete(&pointer)
        .await
        .expect("the pointer can be deleted");
    same(&shard(setup, 3, "checkpoint").await);
}

/// Staged files can be deleted, once and again; committed ones are left alone.
pub async fn what_is_staged_can_be_deleted(setup: &Setup) {
    let writer = shard(setup, 1, "staged").await;
    let mut files = Vec::new();
    for _ in 0..5 {
        files.push(stage(&writer, Bytes::from_static(b"rows"), 0, 1).await);
    }
    let kept = files.remove(2);
    must_commit(&writer, step(1, 0, 0, 1, vec![kept.clone()])).await;
    let client = setup.client(5);
    for _ in 0..2 {
        let deleted = client.retry(&quiet, || writer.delete_files(&files)).await;
        deleted.expect("staged files can be deleted");
    }
    setup.settle().await;
    let left = objects(setup, "staged").await.into_iter();
    let left: Vec<_> = left
        .filter(|path| !path.starts_with("_delta_log/"))
        .collect();
    assert_eq!(left, [kept.path]);
}

/// What is not there is said not to be there.
pub async fn what_is_missing_is_said_to_be(setup: &Setup) {
    let client = setup.client(1);
    let nothing = client.open_existing(&setup.shard_url("nothing")).await;
    assert!(matches!(nothing, Err(Error::NoShard { .. })), "{nothing:?}");
    assert_eq!(
        objects(setup, "nothing").await,
        BTreeSet::new(),
        "looking created something"
    );
    let writer = shard(setup, 1, "missing").await;
    let missing = client
        .retry(&quiet, || writer.read_file("nothing.parquet"))
        .await;
    assert!(
        matches!(missing, Err(Error::MissingFile { .. })),
        "{missing:?}"
    );
}

/// A shard can lie at an address with odd characters, and be found by another spelling of it.
pub async fn odd_places_hold_shards(setup: &Setup) {
    // Plain paths are taken as they are, URLs are decoded.
    let (one, other) = match setup.url.contains("://") {
        true => ("o dd/a+b/ü=1", "o%20dd/a+b/%C3%BC%3D1/"),
        false => ("o dd/a+b/ü=1", "o dd//a+b/./ü=1/"),
    };
    let writer = shard(setup, 1, one).await;
    let file = stage(&writer, Bytes::from_static(b"rows"), 0, 1).await;
    must_commit(&writer, step(1, 0, 0, 1, vec![file.clone()])).await;
    let reader = setup.client(2).open_existing(&setup.shard_url(other)).await;
    let reader = reader.expect("the other spelling is the same place");
    let client = setup.client(3);
    let read = client.retry(&quiet, || reader.read_file(&file.path)).await;
    assert_eq!(read.expect("a file can be read"), "rows");
}
