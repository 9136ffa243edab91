//! Tables in a directory, to be damaged by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mvsink_persist::{
    Client, Codec, DataFile, FileEncoder, FileMeta, Frontier, Open, Shard, VerifyReport,
};

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use serde_json::{Value, json};

use super::{append, client, options};

pub type Row = (u64, Option<String>);

pub fn codec() -> Codec<Row, String> {
    Codec::new().unwrap()
}

/// Without checkpoints of its own.
pub fn plain() -> Client {
    let mut options = options(1);
    options.checkpoint_interval = 0;
    client(options)
}

pub fn url(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

/// A table with a row at each time below `upper`, each in a file of the entry after that time.
pub async fn filled(dir: &Path, upper: i64) -> Shard {
    let open = Open::new(codec().schema());
    let shard = plain().open_or_create(url(dir), open).await.unwrap();
    grow(&shard, upper).await;
    shard
}

pub async fn grow(shard: &Shard, upper: i64) {
    for time in shard.progress().upper.time().unwrap()..upper {
        let row = (time as u64, Some(format!("row {time}")));
        let mut file = FileEncoder::new(codec().schema()).unwrap();
        let batch = codec().encode([(&row, time, 1)].into_iter()).unwrap();
        file.write(&batch).unwrap();
        let file = file.finish().unwrap();
        let meta = FileMeta::from(&file);
        let staged = shard.put_file(file.bytes, meta, &|_| ()).await.unwrap();
        let append = append(time as u64, time, time + 1, vec![staged]);
        shard.append(append, &|_| ()).await.unwrap();
    }
}

pub async fn open(dir: &Path) -> Result<Shard, mvsink_persist::Error> {
    plain().open_existing(url(dir)).await
}

pub fn in_log(dir: &Path, name: &str) -> PathBuf {
    dir.join("_delta_log").join(name)
}

pub fn entry(dir: &Path, version: u64) -> PathBuf {
    in_log(dir, &format!("{version:020}.json"))
}

pub fn checkpoint(dir: &Path, version: u64) -> PathBuf {
    in_log(dir, &format!("{version:020}.checkpoint.parquet"))
}

pub fn remove_entries(dir: &Path, versions: impl IntoIterator<Item = u64>) {
    for version in versions {
        fs::remove_file(entry(dir, version)).unwrap();
    }
}

pub fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Puts an entry with these actions.
pub fn put_entry(dir: &Path, version: u64, actions: &[Value]) {
    let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
    fs::write(entry(dir, version), lines.join("\n") + "\n").unwrap();
}

/// The action that adds a file of another program.
pub fn add(path: &str, size: usize) -> Value {
    json!({"add": {
        "path": path, "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": true,
    }})
}

/// Puts a checkpoint of this version that goes with its entry, and lacks the file that an earlier entry, `lost`, adds.
pub async fn forge_checkpoint(dir: &Path, version: u64, lost: u64) {
    let forged = tempfile::tempdir().unwrap();
    let forged = forged.path();
    copy(dir, forged);
    for entry in fs::read_dir(forged.join("_delta_log")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let found = name.split('.').next().unwrap().parse::<u64>();
        if !name.ends_with(".json") || found.is_ok_and(|found| found > version) {
            fs::remove_file(path).unwrap();
        }
    }
    // As if another program had put the entry, for which no table vouches.
    let text = fs::read_to_string(entry(forged, lost)).unwrap();
    let kept: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("{\"add\""))
        .collect();
    let lines = text.lines().count();
    let kept = kept.join("\n").replace(
        &format!("\"mvsink.lines\":{lines}"),
        &format!("\"mvsink.lines\":{}", kept.len()),
    );
    fs::write(entry(forged, lost), kept + "\n").unwrap();
    // A checkpoint says which entry of its version it goes with.
    let shard = open(forged).await.unwrap();
    assert_eq!(shard.checkpoint().await.unwrap(), version);
    drop(shard);
    fs::copy(checkpoint(forged, version), checkpoint(dir, version)).unwrap();
}

/// The table in a store in memory, below `shard`.
pub async fn in_memory(dir: &Path) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    for (path, bytes) in contents(dir) {
        let path = path.strip_prefix(dir).unwrap().to_str().unwrap();
        let path = format!("shard/{path}").into();
        store.put(&path, bytes.into()).await.unwrap();
    }
    store
}

/// The file of the row at this time.
pub fn data_file(shard: &Shard, time: i64) -> DataFile {
    let pinned = shard.pin();
    let mut files = pinned.files();
    let file = files.find(|file| file.min_time == Some(time)).unwrap();
    file.as_ref().clone()
}

pub async fn verify(dir: &Path) -> VerifyReport {
    plain().verify(url(dir), &|_| ()).await.unwrap()
}

/// The last names of the damaged files, and the kinds of damage.
pub fn named(report: &VerifyReport) -> Vec<(String, &'static str)> {
    let findings = report.findings.iter();
    findings
        .map(|finding| {
            let name = finding.path.rsplit('/').next().unwrap();
            let name = name.trim_start_matches('0');
            (name.to_owned(), finding.difference.kind())
        })
        .collect()
}

/// The names and contents of everything below `dir`.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            // A link to nothing.
            false if !path.exists() => {
                found.insert(path, Vec::new());
            }
            false => {
                let bytes = fs::read(&path).unwrap();
                found.insert(path, bytes);
            }
        }
    }
    found
}

pub fn copy(from: &Path, to: &Path) {
    for (path, bytes) in contents(from) {
        let path = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

pub fn at(time: i64) -> Frontier<i64> {
    Frontier::At(time)
}
