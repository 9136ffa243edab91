//! Several processes on one local shard, killed with -9 at random and started again; then everything is checked.
//!
//! ```text
//!   cargo run --release -p mvsink-persist --features testing --example stress -- DIR [--processes 8] [--seconds 60] [--seed S]
//! ```
//!
//! Each process appends, reads, compacts, collects garbage and moves the since, in random order. What they write is
//! [`law`]'s collection, so each can check what it reads, whoever wrote it. In the end a fresh reader finds the exact
//! contents, the fingerprints agree, and no file is there that the log does not refer to.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use mvsink_persist::testing::law;
use mvsink_persist::{
    Append, Appended, Client, ClientOptions, Codec, CommitId, CompactOptions, Error, FileEncoder,
    FileMeta, Frontier, GcOptions, Open, ReadOptions, Shard,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Rows = Codec<law::Row, String>;

/// Entries of the log, removed files and orphans of this age may go: the shorter, the more there is to race with.
const LOG_AGE: Duration = Duration::from_secs(2);
const REMOVED_AGE: Duration = Duration::from_secs(2);
const ORPHAN_AGE: Duration = Duration::from_secs(5);
/// Times that are kept readable.
const WINDOW: i64 = 200;

fn main() -> Result<ExitCode, Failure> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: stress DIR [OPTIONS]")?);
    let (mut processes, mut seconds, mut seed, mut actor) = (8, 60, 0, false);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or("an option without a value")?;
        match option.as_str() {
            "--processes" => processes = value.parse()?,
            "--seconds" => seconds = value.parse()?,
            "--seed" => seed = value.parse()?,
            "--actor" => (actor, seed) = (true, value.parse()?),
            other => return Err(format!("there is no option {other}").into()),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if actor {
        runtime.block_on(act(&dir, seed))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{processes} processes for {seconds} s, --seed {seed}");
    let kills = drive(&dir, processes, Duration::from_secs(seconds), seed)?;
    let checked = runtime.block_on(check(&dir, seed))?;
    println!("{kills} kills; {checked}");
    Ok(ExitCode::SUCCESS)
}

/// Keeps the processes running and kills them at random; returns how many times.
fn drive(dir: &Path, processes: usize, time: Duration, seed: u64) -> Result<u64, Failure> {
    let mut rng = StdRng::seed_from_u64(seed);
    let program = std::env::current_exe()?;
    let mut lives = 0_u64;
    let mut start = || -> Result<Child, Failure> {
        lives += 1;
        let actor = (seed << 20) + lives;
        let child = Command::new(&program)
            .arg(dir)
            .args(["--actor", &actor.to_string()])
            .spawn()?;
        Ok(child)
    };
    let mut children = Vec::new();
    for _ in 0..processes {
        children.push(start()?);
    }
    let end = Instant::now() + time;
    let mut kills = 0;
    let mut failed = None;
    while Instant::now() < end && failed.is_none() {
        std::thread::sleep(Duration::from_millis(rng.random_range(20..400)));
        for child in &mut children {
            if let Some(status) = child.try_wait()? {
                failed = Some(format!("a process ended by itself: {status}"));
            }
        }
        let victim = rng.random_range(0..children.len());
        children[victim].kill()?;
        children[victim].wait()?;
        kills += 1;
        children[victim] = start()?;
    }
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    match failed {
        Some(why) => Err(why.into()),
        None => Ok(kills),
    }
}

fn quiet(_: &Error) {}

fn codec() -> Result<Rows, Error> {
    Codec::new()
}

async fn open(dir: &Path, seed: u64) -> Result<Shard, Failure> {
    let mut options = ClientOptions::default();
    options.seed = Some(seed);
    options.checkpoint_interval = 20;
    options.log_min_age = LOG_AGE;
    // Processes are killed here, not machines.
    options.fsync = false;
    let client = Client::new(tokio::runtime::Handle::current(), options);
    let url = dir.to_str().ok_or("the directory's name is not Unicode")?;
    Ok(client
        .open_or_create(url, Open::new(codec()?.schema()))
        .await?)
}

/// One process's life.
async fn act(dir: &Path, seed: u64) -> Result<(), Failure> {
    let mut rng = StdRng::seed_from_u64(seed);
    let shard = open(dir, seed).await?;
    for seq in 0.. {
        let done = match rng.random_range(0..20) {
            0 => shard.checkpoint().await.map(drop).map_err(Failure::from),
            1 => compact(&shard, rng.random_ratio(1, 4))
                .await
                .map_err(Failure::from),
            2 => collect(&shard, REMOVED_AGE, ORPHAN_AGE)
                .await
                .map_err(Failure::from),
            3 => {
                let to = shard.progress().upper.map(|upper| (upper - WINDOW).max(0));
                let moved = shard.advance_since(to, &quiet).await;
                moved.map(drop).map_err(Failure::from)
            }
            4..8 => read(&shard, &mut rng).await,
            _ => append(&shard, seed, seq, &mut rng).await,
        };
        if let Err(error) = done {
            let known = error.downcast_ref::<Error>();
            match known {
                // Others were faster: its file was merged away, its time is no longer kept.
                Some(Error::MissingFile { .. } | Error::BeforeSince { .. }) => {
                    shard.refresh().await?;
                }
                _ => return Err(format!("process {seed}: {error}").into()),
            }
        }
    }
    Ok(())
}

async fn append(shard: &Shard, seed: u64, seq: u64, rng: &mut StdRng) -> Result<(), Failure> {
    if rng.random_ratio(1, 2) {
        shard.refresh().await?;
    }
    let lower = shard.progress().upper;
    let Frontier::At(from) = lower else {
        return Err("somebody closed the shard".into());
    };
    let to = from + rng.random_range(1..10);
    let codec = codec()?;
    let updates = law::updates(from, to);
    let mut files = Vec::new();
    if !updates.is_empty() {
        let mut file = FileEncoder::new(codec.schema())?;
        let rows = updates.iter().map(|(row, time, diff)| (row, *time, *diff));
        file.write(&codec.encode(rows)?)?;
        let file = file.finish()?;
        let meta = FileMeta::from(&file);
        files.push(shard.put_file(file.bytes, meta, &quiet).await?);
    }
    let append = Append {
        id: CommitId {
            nonce: u128::from(seed),
            seq,
        },
        lower,
        upper: Frontier::At(to),
        files: files.clone(),
        since: None,
    };
    match shard.append(append, &quiet).await {
        Ok(Appended::Committed { .. }) => {}
        Ok(Appended::Lost { .. }) => shard.delete_files(&files).await?,
        Err(Error::Swept { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn contents(shard: &Shard, as_of: i64) -> Result<BTreeMap<law::Row, i64>, Error> {
    let mut reader = shard.snapshot(as_of, ReadOptions::default())?;
    let mut found = BTreeMap::new();
    while let Some(batch) = reader.next().await? {
        for (row, _, diff) in codec()?.decode(&batch)?.ok {
            *found.entry(row).or_insert(0) += diff;
        }
    }
    Ok(found)
}

async fn read(shard: &Shard, rng: &mut StdRng) -> Result<(), Failure> {
    let progress = shard.refresh().await?;
    let (Frontier::At(since), Frontier::At(upper)) = (progress.since, progress.upper) else {
        return Err("somebody closed the shard".into());
    };
    if since < upper {
        let as_of = rng.random_range(since..upper);
        exact(&contents(shard, as_of).await?, as_of)?;
    }
    Ok(())
}

fn exact(found: &BTreeMap<law::Row, i64>, as_of: i64) -> Result<(), Failure> {
    let expected = law::contents(as_of);
    if *found == expected {
        return Ok(());
    }
    Err(format!("at {as_of} there is {found:?} instead of {expected:?}").into())
}

async fn compact(shard: &Shard, full: bool) -> Result<(), Error> {
    let mut options = CompactOptions::default();
    options.full = full;
    let progress = |_| ControlFlow::Continue(());
    shard.compact(&options, &progress).await.map(drop)
}

async fn collect(shard: &Shard, removed: Duration, orphans: Duration) -> Result<(), Error> {
    let mut options = GcOptions::default();
    options.removed_grace = removed;
    options.orphan_min_age = orphans;
    shard.collect_garbage(&options, &|_| {}).await.map(drop)
}

/// Checks what is left when nobody writes any more; returns what there is, in words.
async fn check(dir: &Path, seed: u64) -> Result<String, Failure> {
    let shard = open(dir, seed).await?;
    let progress = shard.progress();
    let (Frontier::At(since), Frontier::At(upper)) = (progress.since, progress.upper) else {
        return Err("somebody closed the shard".into());
    };
    for as_of in since..upper {
        exact(&contents(&shard, as_of).await?, as_of)?;
    }
    let verified = shard.verify(&|_| {}).await?;
    if !verified.is_clean() {
        return Err(format!("{verified:?}").into());
    }
    compact(&shard, true).await?;
    collect(&shard, Duration::ZERO, Duration::ZERO).await?;
    exact(&contents(&shard, upper - 1).await?, upper - 1)?;
    let live: Vec<_> = shard.pin().files().map(|file| file.path.clone()).collect();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "_delta_log" && !live.contains(&name) {
            return Err(format!("{name} is left behind").into());
        }
    }
    let log = std::fs::read_dir(dir.join("_delta_log"))?.count();
    Ok(format!(
        "version {}, upper {upper}, exact at {} times, {} live files, {log} objects in the log",
        progress.version,
        upper - since,
        live.len(),
    ))
}
