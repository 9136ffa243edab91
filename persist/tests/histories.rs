//! Random histories: three writers, two readers and a maintainer share a shard over a store that fails, and every
//! one of them finds what a model says.
//!
//! The collection is [`law`]'s, so the contents at every time are known whoever commits it. Checked all along: what
//! a reader finds at a time that can be read is exact; a reader with a hold is never refused. In the end: the
//! commits form one line of uppers; a fresh reader finds the exact contents at every time from the since on; the
//! fingerprints agree; and, once it has been swept, the store holds nothing that the log does not refer to.
//!
//! `HISTORIES` is how many (default 500), `HISTORY_SEED` replays one.

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use mvsink_persist::testing::{FaultyStore, law};
use mvsink_persist::{
    Append, Appended, Client, ClientOptions, Codec, CommitId, CompactOptions, Error, FileEncoder,
    FileMeta, Frontier, GcOptions, Open, ReadOptions, Shard, StagedFile,
};
use object_store::ObjectStore;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Times that each writer tries to seal.
const ROUNDS: usize = 10;
/// A read, or a round of maintenance, is tried this often.
const LOOKS: usize = 6;
const URL: &str = "memory://history/shard";

type Rows = Codec<law::Row, String>;

fn quiet(_: &Error) {}

fn codec() -> Rows {
    Codec::new().unwrap()
}

/// What all actors of one history share.
struct History {
    seed: u64,
    store: Arc<FaultyStore>,
    options: ClientOptions,
    /// What was committed: the version, and the times.
    commits: Mutex<BTreeMap<u64, (i64, i64)>>,
    /// What may have been: the log was cleaned up beyond it before its writer came back to ask.
    perhaps: Mutex<BTreeMap<i64, i64>>,
    /// The clients so far: no two draw the same names.
    clients: AtomicU64,
}

impl History {
    /// One more process.
    fn client(&self) -> Client {
        let mut options = self.options.clone();
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        options.seed = Some(self.seed ^ (number << 32));
        let client = support::client(options);
        client.mount("history", Arc::clone(&self.store) as Arc<dyn ObjectStore>);
        client
    }

    fn random(&self, process: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(31).wrapping_add(process))
    }

    async fn open(&self) -> Shard {
        let client = self.client();
        let open = Open::new(codec().schema());
        client.open_or_create(URL, open).await.unwrap()
    }
}

/// Stages the updates of `[lower, upper)` in a few files.
async fn stage(shard: &Shard, lower: i64, upper: i64, rng: &mut StdRng) -> Vec<StagedFile> {
    let codec = codec();
    let updates = law::updates(lower, upper);
    let mut staged = Vec::new();
    let mut rest = updates.as_slice();
    while !rest.is_empty() {
        let (part, more) = rest.split_at(rng.random_range(1..=rest.len()));
        rest = more;
        let mut file = FileEncoder::new(codec.schema()).unwrap();
        let rows = part.iter().map(|(row, time, diff)| (row, *time, *diff));
        file.write(&codec.encode(rows).unwrap()).unwrap();
        let file = file.finish().unwrap();
        let meta = FileMeta::from(&file);
        staged.push(shard.put_file(file.bytes, meta, &quiet).await.unwrap());
    }
    staged
}

/// Seals times, and now and then crashes and comes back.
async fn write(history: &History, process: u64) {
    let mut rng = history.random(process);
    let mut shard = history.open().await;
    for seq in 0..ROUNDS as u64 {
        if rng.random_ratio(1, 8) {
            shard = history.open().await;
        }
        if rng.random_ratio(1, 2) {
            // Otherwise it believes what it knows, and may well lose.
            shard.refresh().await.unwrap();
        }
        let Frontier::At(lower) = shard.progress().upper else {
            panic!("nobody closes the shard");
        };
        let upper = lower + rng.random_range(1..12);
        let files = stage(&shard, lower, upper, &mut rng).await;
        if rng.random_ratio(1, 10) {
            // A crash: what it staged is left to the sweeper.
            continue;
        }
        let append = Append {
            id: CommitId {
                nonce: u128::from(process),
                seq,
            },
            lower: Frontier::At(lower),
            upper: Frontier::At(upper),
            files: files.clone(),
            since: None,
        };
        if rng.random_ratio(1, 5) {
            // Given up in the middle, and asked again.
            let wait = Duration::from_millis(rng.random_range(1..40));
            let _ = tokio::time::timeout(wait, shard.append(append.clone(), &quiet)).await;
        }
        match shard.append(append, &quiet).await {
            Ok(Appended::Committed { version }) => {
                let mut commits = history.commits.lock().unwrap();
                let before = commits.insert(version, (lower, upper));
                assert_eq!(before, None, "version {version} is two writers'");
            }
            Ok(Appended::Lost { .. }) => loop {
                match shard.delete_files(&files).await {
                    Err(error) if error.is_transient() => {}
                    deleted => break deleted.unwrap(),
                }
            },
            // The sweeper took it for an orphan: it was staged too long ago.
            Err(Error::Swept { .. } | Error::MissingFile { .. }) => {}
            Err(Error::Undecided { .. }) => {
                history.perhaps.lock().unwrap().insert(lower, upper);
            }
            Err(error) => panic!("writer {process}: {error}"),
        }
        let pause = Duration::from_millis(rng.random_range(0..60));
        tokio::time::sleep(pause).await;
    }
}

/// The contents at `as_of`, as a reader finds them; at some times with so little memory that it has to read in
/// several passes.
async fn contents(shard: &Shard, as_of: i64) -> Result<BTreeMap<law::Row, i64>, Error> {
    let mut options = ReadOptions::default();
    if as_of % 11 == 0 {
        options.budget_bytes = 4096;
    }
    let mut reader = shard.snapshot(as_of, options)?;
    let mut found = BTreeMap::new();
    while let Some(batch) = reader.next().await? {
        let updates = codec().decode(&batch)?;
        assert!(updates.err.is_empty());
        for (row, _, diff) in updates.ok {
            let before = found.insert(row, diff);
            assert_eq!(before, None, "{row:?} comes twice");
        }
    }
    Ok(found)
}

/// Reads at random times; with a hold, so that nothing may be missing, or without.
async fn read(history: &History, process: u64, holds: bool) {
    let mut rng = history.random(process);
    let shard = history.open().await;
    for _ in 0..LOOKS {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..120))).await;
        shard.refresh().await.unwrap();
        let hold = if holds {
            let name = format!("reader-{process}");
            let lease = Duration::from_secs(600);
            match shard.hold(&name, shard.progress().since, lease).await {
                Ok(hold) => Some(hold),
                // The since has moved on since it was looked at.
                Err(Error::BeforeSince { .. }) => continue,
                Err(error) => panic!("reader {process}: {error}"),
            }
        } else {
            None
        };
        let progress = shard.progress();
        let (Frontier::At(since), Frontier::At(upper)) = (progress.since, progress.upper) else {
            panic!("nobody closes the shard");
        };
        if since < upper {
            let as_of = rng.random_range(since..upper);
            let found = loop {
                match contents(&shard, as_of).await {
                    Err(error) if error.is_transient() => {}
                    found => break found,
                }
            };
            match found {
                Ok(found) => assert_eq!(found, law::contents(as_of), "at {as_of}"),
                Err(Error::BeforeSince { .. } | Error::MissingFile { .. }) if !holds => {}
                Err(error) => panic!("reader {process} at {as_of}: {error}"),
            }
        }
        if let Some(hold) = hold {
            hold.release().await.unwrap();
        }
    }
}

/// Compacts, collects garbage, writes checkpoints, moves the since.
async fn maintain(history: &History, process: u64) {
    let mut rng = history.random(process);
    let shard = history.open().await;
    for _ in 0..2 * LOOKS {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..60))).await;
        shard.refresh().await.unwrap();
        let done = match rng.random_range(0..5) {
            0 => shard.checkpoint().await.map(drop),
            1 => {
                let since = shard.progress().upper.map(|upper| {
                    let back = rng.random_range(1..80);
                    (upper - back).max(0)
                });
                shard.advance_since(since, &quiet).await.map(drop)
            }
            2 | 3 => compact(&shard, rng.random_ratio(1, 3)).await,
            _ => collect(&shard, Duration::from_millis(rng.random_range(0..400))).await,
        };
        match done {
            Ok(()) => {}
            Err(error) if error.is_transient() => {}
            // Its own pin lapses with the next refresh: another pass has taken what it was about to merge.
            Err(Error::MissingFile { .. }) => {}
            Err(error) => panic!("maintainer {process}: {error}"),
        }
    }
}

async fn compact(shard: &Shard, full: bool) -> Result<(), Error> {
    let mut options = CompactOptions::default();
    options.full = full;
    options.budget_bytes = 16 * 1024;
    let report = shard
        .compact(&options, &|_| ControlFlow::Continue(()))
        .await?;
    let _ = report;
    Ok(())
}

async fn collect(shard: &Shard, age: Duration) -> Result<(), Error> {
    let mut options = GcOptions::default();
    options.removed_grace = age;
    options.orphan_min_age = age;
    shard.collect_garbage(&options, &|_| {}).await.map(drop)
}

/// What the store holds, the log aside.
async fn objects(store: &FaultyStore) -> Vec<String> {
    let mut names = Vec::new();
    let mut listed = store.list(None);
    while let Some(object) = listed.next().await {
        let path = object.unwrap().location;
        if !path.as_ref().contains("_delta_log") {
            names.push(path.filename().unwrap().to_owned());
        }
    }
    names.sort();
    names
}

async fn check(history: &History) {
    // The actors' late puts have landed.
    tokio::time::sleep(Duration::from_secs(5)).await;
    history.store.set_percent(0);
    history.store.settled().await;
    let shard = history.open().await;
    let progress = shard.progress();
    let commits = history.commits.lock().unwrap().clone();
    let mut upper = 0;
    let perhaps = history.perhaps.lock().unwrap().clone();
    let skip = |mut upper: i64, to: Frontier<i64>| {
        while let Some(next) = perhaps.get(&upper).filter(|_| Frontier::At(upper) < to) {
            upper = *next;
        }
        upper
    };
    for (version, (from, to)) in &commits {
        upper = skip(upper, Frontier::At(*from));
        assert_eq!(
            *from, upper,
            "version {version} starts where the last ended"
        );
        upper = *to;
    }
    upper = skip(upper, progress.upper);
    assert_eq!(progress.upper, Frontier::At(upper));
    let Frontier::At(since) = progress.since else {
        panic!("nobody closes the shard");
    };
    for as_of in since..upper {
        let found = contents(&shard, as_of).await.unwrap();
        assert_eq!(found, law::contents(as_of), "in the end, at {as_of}");
    }
    let report = shard.verify(&|_| {}).await.unwrap();
    assert!(report.is_clean(), "{report:?}");

    compact(&shard, true).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    collect(&shard, Duration::ZERO).await.unwrap();
    let mut live: Vec<_> = shard.pin().files().map(|file| file.path.clone()).collect();
    live.sort();
    assert_eq!(objects(&history.store).await, live);
    let fresh = history.open().await;
    assert_eq!(fresh.progress(), shard.progress());
    if upper > 0 {
        let found = contents(&fresh, upper - 1).await.unwrap();
        assert_eq!(found, law::contents(upper - 1));
    }
}

fn history(seed: u64) {
    support::run(async {
        let mut rng = StdRng::seed_from_u64(seed);
        let inner = support::clocked();
        let faults = [0, 5, 20][rng.random_range(0..3)];
        let mut options = support::options(seed);
        options.checkpoint_interval = rng.random_range(2..12);
        options.log_min_age = Duration::from_millis(rng.random_range(0..600));
        options.recent_entries = rng.random_range(1..64);
        let history = History {
            seed,
            store: FaultyStore::new(inner, seed, faults),
            options,
            commits: Mutex::default(),
            perhaps: Mutex::default(),
            clients: AtomicU64::new(1),
        };
        let actors = async {
            futures::join!(
                write(&history, 1),
                write(&history, 2),
                write(&history, 3),
                read(&history, 4, true),
                read(&history, 5, false),
                maintain(&history, 6),
            )
        };
        actors.await;
        check(&history).await;
    });
}

#[test]
fn histories_are_linear_exact_and_leave_nothing_behind() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    if let Some(seed) = number("HISTORY_SEED") {
        return history(seed);
    }
    let (histories, next) = (number("HISTORIES").unwrap_or(500), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= histories {
                        return;
                    }
                    let ran = std::panic::catch_unwind(|| history(seed));
                    if let Err(panic) = ran {
                        eprintln!("HISTORY_SEED={seed} replays the history that failed");
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}
