//! Garbage collection: what goes, what stays, and who is told.

#[path = "../gate/mod.rs"]
mod gate;
#[path = "../support/mod.rs"]
mod support;
mod times;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path as FsPath;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use gate::{GateStore, Held};
use mvsink_persist::testing::{ClockedStore, Fault, FaultyStore};
use mvsink_persist::{
    Appended, Client, Error, GcFiles, GcOptions, GcPhase, GcReport, GcSpared, Open, Shard,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use support::{append, client, options, run, schema, stage};

const URL: &str = "memory://store/shard";
const HOUR: Duration = Duration::from_secs(60 * 60);

fn quiet(_: &Error) {}

fn client_of(store: Arc<dyn ObjectStore>, seed: u64) -> Client {
    let mut options = options(seed);
    options.checkpoint_interval = 0;
    let client = client(options);
    client.mount("store", store);
    client
}

async fn open(client: &Client, url: &str) -> Shard {
    let open = Open::new(schema());
    client.open_or_create(url, open).await.unwrap()
}

/// Options without patience.
fn at_once() -> GcOptions {
    let mut options = GcOptions::default();
    options.removed_grace = Duration::ZERO;
    options.orphan_min_age = Duration::ZERO;
    options.foreign_orphan_min_age = Duration::ZERO;
    options
}

async fn collect(shard: &Shard, options: &GcOptions) -> GcReport {
    shard.collect_garbage(options, &|_| ()).await.unwrap()
}

fn names(files: Option<&GcFiles>) -> BTreeSet<&str> {
    let files = files.into_iter().flat_map(|files| &files.names);
    files.map(String::as_str).collect()
}

fn set<'a>(paths: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    paths.into_iter().collect()
}

fn live(shard: &Shard) -> BTreeSet<String> {
    shard.pin().files().map(|file| file.path.clone()).collect()
}

/// The data files in the store.
async fn stored(store: &dyn ObjectStore) -> BTreeSet<String> {
    let objects: Vec<_> = store
        .list(Some(&Path::from("shard")))
        .try_collect()
        .await
        .unwrap();
    objects
        .iter()
        .filter_map(|object| object.location.as_ref().strip_prefix("shard/"))
        .filter(|path| !path.starts_with("_delta_log/"))
        .map(str::to_owned)
        .collect()
}

/// Before a file goes that no commit refers to, the log says so, to whoever might still commit it.
#[test]
fn r28_what_is_swept_is_removed_in_the_log_first() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let writer = open(&client_of(Arc::clone(&truth), 1), URL).await;
        let left = stage(&writer, 0).await;
        let mut options = options(2);
        options.clock = Arc::new(|| 1_234_567);
        let sweeper = client(options);
        sweeper.mount("store", Arc::clone(&truth));
        let shard = open(&sweeper, URL).await;
        let report = collect(&shard, &at_once()).await;
        assert_eq!(report.orphans.names, [left.path.as_str()]);
        let entry = Path::from(format!("shard/_delta_log/{:020}.json", 1));
        let entry = truth.get(&entry).await.unwrap().bytes().await.unwrap();
        let mut actions = entry.split(|byte| *byte == b'\n');
        let action = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let info = action(actions.next().unwrap());
        assert_eq!(info["commitInfo"]["operation"], "SWEEP");
        let remove = serde_json::json!({"remove": {
            "path": left.path,
            "deletionTimestamp": 1_234_567,
            "dataChange": false,
            "size": 4,
        }});
        let actions = actions.filter(|line| !line.is_empty()).map(action);
        let removes: Vec<_> = actions
            .filter(|action| action.get("remove").is_some())
            .collect();
        assert_eq!(removes, [remove]);
    });
}

#[test]
fn r28_a_sweeper_racing_a_slow_committer_sweeper_first() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gate = GateStore::new(Arc::clone(&truth));
        let slow = open(&client_of(gate.clone(), 1), URL).await;
        let sweeper = open(&client_of(Arc::clone(&truth), 2), URL).await;
        let file = stage(&slow, 0).await;
        gate.hold(Held::PutsBefore);
        let sweep = async {
            gate.reached().await;
            let report = collect(&sweeper, &at_once()).await;
            assert_eq!(report.orphans.names, [file.path.as_str()]);
            gate.hold(Held::Nothing);
        };
        let commit = slow.append(append(1, 0, 1, vec![file.clone()]), &quiet);
        let (appended, ()) = futures::join!(commit, sweep);
        let swept = appended.unwrap_err();
        assert!(
            matches!(&swept, Error::Swept { path, .. } if *path == file.path),
            "{swept}"
        );
        assert!(!swept.is_transient());
        assert_eq!(slow.progress().upper, mvsink_persist::Frontier::At(0));
        // It stages its rows again, and nothing is lost.
        let file = stage(&slow, 0).await;
        let again = slow.append(append(2, 0, 1, vec![file.clone()]), &quiet);
        assert!(matches!(again.await.unwrap(), Appended::Committed { .. }));
        collect(&sweeper, &at_once()).await;
        assert_eq!(stored(&truth).await, BTreeSet::from([file.path]));
        assert_eq!(live(&sweeper), stored(&truth).await);
    });
}

#[test]
fn r28_a_sweeper_racing_a_slow_committer_committer_first() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gate = GateStore::new(Arc::clone(&truth));
        let writer = open(&client_of(Arc::clone(&truth), 1), URL).await;
        let sweeper = open(&client_of(gate.clone(), 2), URL).await;
        let (file, left) = (stage(&writer, 0).await, stage(&writer, 0).await);
        // The sweeper has read the log and is about to condemn both.
        gate.hold(Held::PutsBefore);
        let commit = async {
            gate.reached().await;
            let appended = writer.append(append(1, 0, 1, vec![file.clone()]), &quiet);
            assert!(matches!(
                appended.await.unwrap(),
                Appended::Committed { version: 1 }
            ));
            gate.hold(Held::Nothing);
        };
        let options = at_once();
        let (report, ()) = futures::join!(collect(&sweeper, &options), commit);
        assert_eq!(report.orphans.names, [left.path]);
        assert_eq!(
            names(report.spared.get(&GcSpared::Committed)),
            set([file.path.as_str()])
        );
        assert_eq!(stored(&truth).await, live(&writer));
        assert_eq!(live(&sweeper), BTreeSet::from([file.path]));
    });
}

#[test]
fn a_file_that_was_staged_long_ago_is_looked_for_before_it_is_committed() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gate = GateStore::new(Arc::clone(&truth));
        let shard = open(&client_of(gate.clone(), 1), URL).await;
        let mut old = stage(&shard, 0).await;
        old.staged_ms = 0;
        let before = gate.reads();
        let new = stage(&shard, 0).await;
        shard
            .append(append(1, 0, 1, vec![old.clone(), new]), &quiet)
            .await
            .unwrap();
        assert_eq!(
            gate.reads() - before,
            2,
            "that file, and the entry beyond the slot"
        );
        let mut old = stage(&shard, 1).await;
        old.staged_ms = 0;
        let path = Path::from(format!("shard/{}", old.path));
        truth.delete(&path).await.unwrap();
        let swept = shard.append(append(2, 1, 2, vec![old]), &quiet).await;
        assert!(matches!(swept, Err(Error::Swept { .. })), "{swept:?}");
        assert_eq!(shard.progress().version, 1);
    });
}

#[test]
fn a_local_file_that_was_just_staged_is_looked_for_before_it_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let shard = open(&client(options(1)), dir.path().to_str().unwrap()).await;
        let file = stage(&shard, 0).await;
        fs::remove_file(dir.path().join(&file.path)).unwrap();
        let swept = shard.append(append(1, 0, 1, vec![file.clone()]), &quiet);
        let swept = swept.await.unwrap_err();
        assert!(
            matches!(&swept, Error::Swept { path, .. } if *path == file.path),
            "{swept}"
        );
        assert_eq!(shard.progress().version, 0);
        let file = stage(&shard, 0).await;
        let again = shard.append(append(2, 0, 1, vec![file]), &quiet).await;
        assert!(matches!(again, Ok(Appended::Committed { version: 1 })));
    });
}

#[test]
fn r11_after_a_crash_staged_files_go_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let url = dir.path().to_str().unwrap();
        let mut options = options(1);
        options.checkpoint_interval = 0;
        options.fsync = false;
        let crashed = open(&client(options.clone()), url).await;
        let (kept, left) = (stage(&crashed, 0).await, stage(&crashed, 0).await);
        crashed
            .append(append(1, 0, 1, vec![kept.clone()]), &quiet)
            .await
            .unwrap();
        drop(crashed);
        // Local writes that were cut off, of data and of the log, and what is none of ours.
        let cut = format!("{}#1", kept.path);
        let cut_log = "_delta_log/00000000000000000002.json#12";
        for name in [
            &cut,
            cut_log,
            "notes#1",
            "a.txt",
            "_hidden.parquet",
            "part-0.parquet",
        ] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("folder/b.parquet"), "x").unwrap();

        options.seed = Some(2);
        let shard = open(&client(options), url).await;
        let mine = stage(&shard, 1).await;
        // Everything is young.
        let report = collect(&shard, &GcOptions::default()).await;
        let young = set([&left.path, &cut, cut_log, "part-0.parquet"]);
        assert_eq!(names(report.spared.get(&GcSpared::Young)), young);
        assert_eq!(
            names(report.spared.get(&GcSpared::Staged)),
            set([mine.path.as_str()])
        );
        let aged = |hours: u32| {
            let then = SystemTime::now() - hours * HOUR;
            for name in [left.path.as_str(), &cut, cut_log, "part-0.parquet"] {
                let file = fs::File::options()
                    .write(true)
                    .open(dir.path().join(name))
                    .unwrap();
                file.set_modified(then).unwrap();
            }
        };
        aged(25);
        let before = contents(dir.path());
        let mut dry = GcOptions::default();
        dry.dry_run = true;
        let told = collect(&shard, &dry).await;
        assert_eq!(contents(dir.path()), before, "a dry run changes nothing");
        let seen = Mutex::new(BTreeSet::new());
        let progress = |progress: mvsink_persist::GcProgress| {
            seen.lock().unwrap().insert(progress.phase);
        };
        let report = shard
            .collect_garbage(&GcOptions::default(), &progress)
            .await
            .unwrap();
        assert!(seen.lock().unwrap().contains(&GcPhase::Orphans));
        assert_eq!(
            (&told.orphans, &told.leftovers),
            (&report.orphans, &report.leftovers)
        );
        assert_eq!(report.orphans.names, [left.path.as_str()]);
        assert_eq!(report.orphans.bytes, 4);
        assert_eq!(names(Some(&report.leftovers)), set([cut.as_str(), cut_log]));
        // Another engine's files have longer.
        assert_eq!(
            names(report.spared.get(&GcSpared::Young)),
            set(["part-0.parquet"])
        );
        fs::write(dir.path().join("part-0.parquet"), "x").unwrap();
        let then = SystemTime::now() - 24 * 8 * HOUR;
        let part = fs::File::options()
            .write(true)
            .open(dir.path().join("part-0.parquet"))
            .unwrap();
        part.set_modified(then).unwrap();
        let report = collect(&shard, &GcOptions::default()).await;
        assert_eq!(report.orphans.names, ["part-0.parquet"]);
        let shown: BTreeSet<_> = contents(dir.path())
            .into_iter()
            .filter(|name| !name.starts_with("_delta_log/000"))
            .collect();
        let expected: BTreeSet<_> = [
            kept.path.as_str(),
            &mine.path,
            "notes#1",
            "a.txt",
            "_hidden.parquet",
            "folder/b.parquet",
        ]
        .into_iter()
        .map(str::to_owned)
        .collect();
        assert_eq!(shown, expected);
        assert_eq!(shard.read_file(&kept.path).await.unwrap().as_ref(), b"rows");
        // At rest there is nothing to do, and nothing is committed.
        let version = shard.progress().version;
        let report = collect(&shard, &GcOptions::default()).await;
        assert_eq!(
            report.orphans.count + report.removed.count + report.leftovers.count,
            0
        );
        assert_eq!(shard.refresh().await.unwrap().version, version);
    });
}

/// The names of all files below `dir`.
fn contents(dir: &FsPath) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap();
                found.insert(name.to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn r11_a_put_that_is_dropped_leaves_a_file_to_the_sweeper_of_the_same_process() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gate = GateStore::new(Arc::clone(&truth));
        let shard = open(&client_of(gate.clone(), 1), URL).await;
        let given = stage(&shard, 0).await;
        gate.hold(Held::PutsAfter);
        tokio::select! {
            _ = stage(&shard, 0) => unreachable!("it is held up"),
            () = gate.reached() => {}
        }
        gate.hold(Held::Nothing);
        assert_eq!(stored(&truth).await.len(), 2);
        let report = collect(&shard, &at_once()).await;
        assert_eq!(report.orphans.count, 1);
        // What was given away is the caller's.
        assert_eq!(
            names(report.spared.get(&GcSpared::Staged)),
            set([given.path.as_str()])
        );
        assert_eq!(stored(&truth).await, BTreeSet::from([given.path]));
    });
}

#[test]
fn r11_a_file_that_could_not_be_deleted_is_left_to_the_sweeper_of_the_same_process() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let faulty = FaultyStore::new(Arc::clone(&truth), 1, 0);
        let shard = open(&client_of(faulty.clone(), 1), URL).await;
        let file = stage(&shard, 0).await;
        faulty.script_deletes(&[Fault::NotApplied; 7]);
        let failed = shard.delete_files(std::slice::from_ref(&file)).await;
        assert!(failed.is_err_and(|error| error.is_transient()));
        assert_eq!(stored(&truth).await, BTreeSet::from([file.path]));
        assert_eq!(collect(&shard, &at_once()).await.orphans.count, 1);
        assert_eq!(stored(&truth).await, BTreeSet::new());
    });
}

#[test]
fn removed_files_go_after_the_grace_unless_a_reader_of_this_process_has_them() {
    run(async {
        let (truth, now) = clocked();
        let shard = open(&client_at(&truth, 1, &now), URL).await;
        let other = open(&client_of(Arc::clone(&truth), 2), URL).await;
        let file = stage(&shard, 0).await;
        shard
            .append(append(1, 0, 1, vec![file.clone()]), &quiet)
            .await
            .unwrap();
        let pinned = shard.pin();
        let again = pinned.clone();
        let at = *now.lock().unwrap();
        let path = &file.path;
        put_entry(&truth, 2, &removal(path, at)).await;

        let spared = |report: GcReport| report.spared.into_keys().collect::<Vec<_>>();
        let collect_now = || async { collect(&shard, &GcOptions::default()).await };
        assert_eq!(spared(collect_now().await), [GcSpared::Grace]);
        pass(&truth, &now, HOUR).await;
        assert_eq!(spared(collect_now().await), [GcSpared::Pinned]);
        drop(pinned);
        assert_eq!(spared(collect_now().await), [GcSpared::Pinned]);
        assert_eq!(shard.read_file(path).await.unwrap().as_ref(), b"rows");
        drop(again);
        let report = collect_now().await;
        assert_eq!(report.removed.names, [path.as_str()]);
        assert!(shard.read_file(path).await.is_err());
        assert_eq!(collect_now().await, GcReport::default());
        drop(other);
    });
}

#[test]
fn names_that_the_log_encodes_are_told_from_orphans() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = open(&client_of(Arc::clone(&truth), 1), URL).await;
        // One encodes as this crate would, another one in its own way.
        let added = ["a%20b.parquet", "f%c3%a4%2D.parquet"].map(|path| {
            format!("{{\"add\":{{\"path\":\"{path}\",\"partitionValues\":{{}},\"size\":1,\"modificationTime\":1,\"dataChange\":false}}}}\n")
        });
        let entry = added.concat();
        let name = Path::from(format!("shard/_delta_log/{:020}.json", 1));
        truth.put(&name, entry.into()).await.unwrap();
        for name in ["a b.parquet", "fä-.parquet", "c d.parquet", "e.parquet"] {
            let path = Path::parse(format!("shard/{name}")).unwrap();
            truth.put(&path, "x".into()).await.unwrap();
        }
        let report = collect(&shard, &at_once()).await;
        assert_eq!(
            names(Some(&report.orphans)),
            set(["c d.parquet", "e.parquet"])
        );
        assert_eq!(
            stored(&truth).await,
            BTreeSet::from(["a b.parquet".to_owned(), "fä-.parquet".to_owned()])
        );
        assert_eq!(
            shard.read_file("a%20b.parquet").await.unwrap().as_ref(),
            b"x"
        );
        assert_eq!(
            shard
                .read_file("f%c3%a4%2D.parquet")
                .await
                .unwrap()
                .as_ref(),
            b"x"
        );
        assert_eq!(collect(&shard, &at_once()).await.orphans.count, 0);
    });
}

type Clock = Arc<Mutex<i64>>;

/// A store in memory whose clock is set by the test.
fn clocked() -> (Arc<dyn ObjectStore>, Clock) {
    let now = Arc::new(Mutex::new(1_000_000_000_i64));
    let clock = Arc::clone(&now);
    let store = ClockedStore::new(
        Arc::new(InMemory::new()),
        Arc::new(move || *clock.lock().unwrap()),
    );
    (Arc::new(store), now)
}

/// A client whose own clock this is.
fn client_at(store: &Arc<dyn ObjectStore>, seed: u64, now: &Clock) -> Client {
    let clock = Arc::clone(now);
    let mut options = options(seed);
    options.checkpoint_interval = 0;
    options.clock = Arc::new(move || *clock.lock().unwrap());
    let client = client(options);
    client.mount("store", Arc::clone(store));
    client
}

/// Time passes, and the store writes something, by which it is known.
async fn pass(store: &Arc<dyn ObjectStore>, now: &Clock, time: Duration) {
    *now.lock().unwrap() += i64::try_from(time.as_millis()).unwrap();
    store
        .put(&Path::from("shard/note.txt"), "x".into())
        .await
        .unwrap();
}

fn removal(path: &str, at: i64) -> String {
    format!(
        "{{\"remove\":{{\"path\":\"{path}\",\"deletionTimestamp\":{at},\"dataChange\":false}}}}\n"
    )
}

async fn put_entry(store: &Arc<dyn ObjectStore>, version: u64, entry: &str) {
    let path = Path::from(format!("shard/_delta_log/{version:020}.json"));
    store.put(&path, entry.to_owned().into()).await.unwrap();
}

#[test]
fn names_that_are_not_encoded_in_the_log_are_live() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = open(&client_of(Arc::clone(&truth), 1), URL).await;
        let live = [
            "a b.parquet",
            "day=1/_c d.parquet",
            "day=1/e.parquet",
            "f%20g.parquet",
        ];
        let mut entry = String::new();
        for name in live {
            entry += &format!(
                "{{\"add\":{{\"path\":\"{name}\",\"partitionValues\":{{}},\"size\":1,\
                 \"modificationTime\":1,\"dataChange\":true}}}}\n"
            );
            let path = Path::from_url_path(format!("shard/{name}")).unwrap();
            truth.put(&path, "x".into()).await.unwrap();
        }
        put_entry(&truth, 1, &entry).await;
        let before = stored(&truth).await;
        let report = collect(&shard, &at_once()).await;
        assert_eq!((report.removed.count, report.orphans.count), (0, 0));
        assert_eq!(stored(&truth).await, before);
    });
}

#[test]
fn removed_files_go_wherever_they_lie() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = open(&client_of(Arc::clone(&truth), 1), URL).await;
        let removed = [
            "part=1/a.parquet",
            "_b.parquet",
            ".c.parquet",
            "d/e f.parquet",
            "g.bin",
        ];
        let unknown = ["part=1/h.parquet", "_i.parquet", ".j.parquet"];
        for name in removed.iter().chain(&unknown) {
            let path = Path::parse(format!("shard/{name}")).unwrap();
            truth.put(&path, "x".into()).await.unwrap();
        }
        let entry: String = removed
            .iter()
            .map(|name| removal(&name.replace(' ', "%20"), 0))
            .collect();
        put_entry(&truth, 1, &entry).await;
        let report = collect(&shard, &GcOptions::default()).await;
        assert_eq!(names(report.spared.get(&GcSpared::Grace)), set(removed));
        let report = collect(&shard, &at_once()).await;
        assert_eq!(names(Some(&report.removed)), set(removed));
        // What no commit knows is other programs'.
        assert_eq!(report.orphans.count, 0);
        let left: BTreeSet<String> = unknown.map(str::to_owned).into();
        assert_eq!(stored(&truth).await, left);
    });
}

#[test]
fn files_of_an_append_that_has_ended_are_nobodys() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gate = GateStore::new(Arc::clone(&truth));
        let client = client_of(gate.clone(), 1);
        let shard = open(&client, URL).await;
        // One fails.
        let file = stage(&shard, 5).await;
        let failed = shard.append(append(1, 0, 1, vec![file]), &quiet).await;
        assert!(failed.is_err());
        assert_eq!(collect(&shard, &at_once()).await.orphans.count, 1);
        // One is dropped where it waits.
        let file = stage(&shard, 0).await;
        gate.hold(Held::PutsBefore);
        tokio::select! {
            _ = shard.append(append(2, 0, 1, vec![file]), &quiet) => unreachable!("it is held up"),
            () = gate.reached() => {}
        }
        gate.hold(Held::Nothing);
        assert_eq!(collect(&shard, &at_once()).await.orphans.count, 1);
        // One has lost: its files are the caller's to delete.
        let file = stage(&shard, 0).await;
        let other = stage(&shard, 0).await;
        shard
            .append(append(3, 0, 1, vec![other]), &quiet)
            .await
            .unwrap();
        let lost = shard.append(append(4, 0, 1, vec![file]), &quiet).await;
        assert!(matches!(lost, Ok(Appended::Lost { .. })));
        let report = collect(&shard, &at_once()).await;
        assert_eq!(
            report
                .spared
                .get(&GcSpared::Staged)
                .map(|files| files.count),
            Some(1)
        );
        // Who staged it goes, and the shard stays open.
        let another = open(&client, URL).await;
        drop(shard);
        assert_eq!(collect(&another, &at_once()).await.orphans.count, 1);
        assert_eq!(stored(&truth).await.len(), 1);
    });
}
