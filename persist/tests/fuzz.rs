//! The parsers take any bytes: the corpus of `fuzz/`, and random changes of it.
//!
//! | variable | what |
//! |---|---|
//! | `FUZZ_CASES` | changed inputs of each target (default 4000) |
//! | `MVSINK_SEED` | replays them; printed by each run |
//! | `FUZZ_CORPUS` | `write`: makes the corpus anew, from the files of a real shard |
//!
//! On Linux each target runs in a process of its own that may have 1 GiB of address space, its threads' stacks
//! included: what an input of a few kilobytes makes it allocate beyond ends it.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use futures::TryStreamExt;
use mvsink_persist::testing::{fuzz::TARGETS, store_at};
use mvsink_persist::{
    Append, Client, ClientOptions, Codec, CommitId, FileEncoder, FileMeta, Frontier, Open,
};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::file::metadata::ParquetMetaDataReader;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ADDRESS_SPACE_KIB: u64 = 1 << 20;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target)
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

/// Changes a few places: bytes, pieces left out, repeated, or from elsewhere in the corpus.
fn mutate(random: &mut StdRng, all: &[Vec<u8>]) -> Vec<u8> {
    const NUMBERS: [&[u8]; 6] = [
        b"\0",
        b"\xff\xff\xff\xff\x0f",
        b"\xff\xff\xff\x7f",
        b"\x80",
        b"-1",
        b"9223372036854775807",
    ];
    let mut input = all[random.random_range(0..all.len())].clone();
    for _ in 0..random.random_range(1..=6) {
        let at = random.random_range(0..=input.len());
        let to = (at + random.random_range(0..32)).min(input.len());
        match random.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => drop(input.drain(at..to)),
            3 => {
                let piece = input[at..to].to_vec();
                input.splice(at..at, piece);
            }
            4 => {
                let number = NUMBERS[random.random_range(0..NUMBERS.len())];
                input.splice(
                    at..(at + number.len()).min(input.len()),
                    number.iter().copied(),
                );
            }
            _ => {
                let other = &all[random.random_range(0..all.len())];
                let from = random.random_range(0..=other.len());
                let piece = &other[from..(from + 64).min(other.len())];
                input.splice(at..to, piece.iter().copied());
            }
        }
    }
    input
}

fn run(target: &str) {
    let (_, parse) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let files = std::fs::read_dir(corpus(target)).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    let inputs: Vec<_> = files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    for input in &inputs {
        parse(input);
    }
    let seed = variable("MVSINK_SEED").unwrap_or_else(|| StdRng::from_os_rng().random());
    let cases = variable("FUZZ_CASES").unwrap_or(4000);
    println!("{target}: MVSINK_SEED={seed} FUZZ_CASES={cases}");
    // Damage that the Parquet reader panics on is caught, and expected here by the hundred.
    std::panic::set_hook(Box::new(|_| {}));
    for case in 0..cases {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(case));
        let input = mutate(&mut random, &inputs);
        if std::env::var_os("FUZZ_TRACE").is_some() {
            println!("{target}: case {case}");
        }
        let parsed = std::panic::catch_unwind(|| parse(&input));
        if let Err(panic) = parsed {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned()));
            let _ = std::panic::take_hook();
            let seed = seed.wrapping_add(case);
            panic!(
                "{target} panics with MVSINK_SEED={seed} FUZZ_CASES=1: {}",
                why.unwrap_or_default()
            );
        }
    }
    let _ = std::panic::take_hook();
}

/// Runs the test `name` again, in a process with little memory; what it prints is printed.
fn bounded(name: &str) {
    if std::env::var_os("FUZZ_CHILD").is_some() || !cfg!(target_os = "linux") {
        return run(name);
    }
    let script = format!(
        "ulimit -v {ADDRESS_SPACE_KIB} && exec \"$0\" --exact {name} --nocapture --test-threads 1"
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env("FUZZ_CHILD", "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    println!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {}", output.status);
    assert!(stdout.contains("1 passed"), "{name} did not run");
}

macro_rules! targets {
    ($($target:ident),*) => {
        $(#[test] fn $target() { bounded(stringify!($target)) })*

        #[test]
        fn every_target_has_a_test() {
            let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($target)),*]);
        }
    };
}

targets!(log_entry, checkpoint, stats_and_tags, url, data_file);

#[test]
fn the_corpus_can_be_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let write = std::env::var("FUZZ_CORPUS").is_ok_and(|value| value == "write");
    let made = support::run(make());
    for (target, inputs) in &made {
        let folder = if write {
            corpus(target)
        } else {
            dir.path().join(target)
        };
        std::fs::create_dir_all(&folder).unwrap();
        for (name, input) in inputs {
            assert!(
                input.len() < 16 * 1024,
                "{target}/{name} has {} bytes",
                input.len()
            );
            std::fs::write(folder.join(name), input).unwrap();
        }
    }
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(made.len(), names.len());
}

/// The same file, but the first page claims to be 2 GiB. Everything stays where it was: the page has fewer bytes for the
/// longer header.
fn lying(file: &[u8]) -> Vec<u8> {
    let varint = |mut value: u64| {
        let mut bytes = Vec::new();
        while value > 0x7f {
            bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        bytes.push(u8::try_from(value).unwrap());
        bytes
    };
    let read = |at: &mut usize| {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = u64::from(file[*at]);
            *at += 1;
            value |= (byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let metadata = ParquetMetaDataReader::new()
        .parse_and_finish(&Bytes::copy_from_slice(file))
        .unwrap();
    let (start, _) = metadata.row_group(0).column(0).byte_range();
    let start = usize::try_from(start).unwrap();
    // Three fields of the type "i32", each numbered one more than the one before: the kind of the page, its sizes.
    let mut at = start;
    assert_eq!(file[at], 0x15);
    at += 2;
    assert_eq!(file[at], 0x15);
    at += 1;
    let before = at;
    read(&mut at);
    assert_eq!(file[at], 0x15);
    at += 1;
    let compressed = read(&mut at);
    let old = at - before;
    let new = |compressed| {
        [
            varint(u64::from(u32::MAX) - 1),
            vec![0x15],
            varint(compressed),
        ]
        .concat()
    };
    let longer = new(compressed).len() - old;
    // Twice, as sizes are signed.
    let sizes = new(compressed - 2 * longer as u64);
    assert_eq!(
        sizes.len(),
        old + longer,
        "the size of the page has one digit less"
    );
    let mut lying = file.to_vec();
    let end = at + usize::try_from(compressed / 2).unwrap();
    let shifted = &file[at..end];
    lying.splice(before..end + longer, [&sizes, shifted].concat());
    assert_eq!(lying.len(), file.len());
    lying
}

type Made = BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>;

/// The files of a small shard, by the target that reads them.
async fn make() -> Made {
    let client = Client::new(tokio::runtime::Handle::current(), ClientOptions::default());
    let codec = Codec::<(String, u32, Option<f64>, Vec<i16>), String>::new().unwrap();
    let open = Open::new(codec.schema());
    let shard = client
        .open_or_create("memory://corpus", open)
        .await
        .unwrap();
    let quiet = |_: &mvsink_persist::Error| {};
    let mut stats = BTreeMap::new();
    for time in 0..4_i64 {
        let rows: Vec<_> = (0..20)
            .map(|n| {
                (
                    format!("row {n}"),
                    n,
                    (n % 3 == 0).then_some(f64::from(n)),
                    vec![1, 2],
                )
            })
            .collect();
        let mut file = FileEncoder::new(codec.schema()).unwrap();
        file.write(&codec.encode(rows.iter().map(|row| (row, time, 1))).unwrap())
            .unwrap();
        let file = file.finish().unwrap();
        let mut meta = FileMeta {
            rows: file.rows,
            times: Some((time, time)),
            ..FileMeta::default()
        };
        meta.tags.insert("tag".into(), format!("{time}"));
        let staged = shard.put_file(file.bytes, meta, &quiet).await.unwrap();
        let append = Append {
            id: CommitId {
                nonce: 7,
                seq: time.unsigned_abs(),
            },
            lower: Frontier::At(time),
            upper: Frontier::At(time + 1),
            files: vec![staged],
            since: (time == 3).then_some(Frontier::At(2)),
        };
        shard.append(append, &quiet).await.unwrap();
    }
    shard.checkpoint().await.unwrap();
    let store = store_at(&client, "memory://corpus").unwrap();
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut made = Made::new();
    for object in objects {
        let bytes = store
            .get(&object.location)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        let path = object.location.to_string();
        let (target, name) = match path.strip_prefix("_delta_log/") {
            Some("_last_checkpoint") => continue,
            Some(name) if name.ends_with(".json") => {
                for line in bytes
                    .split(|byte| *byte == b'\n')
                    .filter(|line| line.starts_with(b"{\"add\""))
                {
                    let add: serde_json::Value = serde_json::from_slice(line).unwrap();
                    let text = format!(
                        "{}\0{}",
                        add["add"]["stats"].as_str().unwrap(),
                        add["add"]["tags"]
                    );
                    stats.insert(
                        name.trim_end_matches(".json")[17..].to_owned(),
                        text.into_bytes(),
                    );
                }
                ("log_entry", format!("{}.json", &name[17..20]))
            }
            Some(_) => ("checkpoint", "a.parquet".to_owned()),
            // Names are random, and one is enough.
            None => ("data_file", "a.parquet".to_owned()),
        };
        let inputs = made.entry(target).or_default();
        if target != "log_entry" {
            inputs.insert("lying.parquet".into(), lying(&bytes));
        }
        inputs.insert(name, bytes.to_vec());
    }
    let foreign = br#"{"numRecords":3,"minValues":{"mv_time":-1},"maxValues":{"mv_time":9223372036854775807},"nullCount":{"x":0}}"#;
    stats.insert("foreign".into(), foreign.to_vec());
    made.insert("stats_and_tags", stats);
    let urls = [
        "s3://bucket/a%20b/c",
        "https://bucket.s3.eu-west-1.amazonaws.com/a",
        "https://s3.dualstack.eu-west-1.amazonaws.com/bucket/a",
        "https://me.eu.r2.cloudflarestorage.com/bucket/a",
        "gs://bucket/a/../b",
        "abfss://container@account.dfs.core.windows.net/a",
        "https://workspace.z28.blob.fabric.microsoft.com/container/a",
        "s3://user:correct-horse-battery@bucket/a?x=y#z",
        "s3://user:correct-horse\0@bucket/user:correct-horse\0@bucket",
        "memory://name/a//b",
        "file:///tmp/a%2Fb",
        "relative/path/",
    ];
    let urls = (0..)
        .zip(urls)
        .map(|(n, url): (i32, _)| (format!("{n:02}"), url.as_bytes().to_vec()));
    made.insert("url", urls.collect());
    made
}

#[test]
fn a_snapshot_refuses_pages_that_cannot_be_as_they_say() {
    let bytes = std::fs::read(corpus("data_file").join("lying.parquet")).unwrap();
    support::run(async {
        let client = support::client(support::options(1));
        let codec = Codec::<(String, u32, Option<f64>, Vec<i16>), String>::new().unwrap();
        let open = Open::new(codec.schema());
        let shard = client.open_or_create("memory://lying", open).await.unwrap();
        let quiet = |_: &mvsink_persist::Error| {};
        let meta = FileMeta::default();
        let staged = shard.put_file(bytes.into(), meta, &quiet).await.unwrap();
        let append = support::append(0, 0, 10, vec![staged]);
        shard.append(append, &quiet).await.unwrap();
        let mut reader = shard
            .snapshot(9, mvsink_persist::ReadOptions::default())
            .unwrap();
        let error = reader.next().await.unwrap_err().to_string();
        assert!(error.contains("cannot hold"), "{error}");
    });
}
