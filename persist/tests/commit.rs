//! Compare-and-append under faults and rivals, against a fresh reader of the log.

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mvsink_persist::testing::{Fault, FaultOptions, FaultyStore, conformance};
use mvsink_persist::{Append, Appended, Client, CommitId, Error, FileMeta, Frontier, Open};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use support::{append, client, options, run, schema, stage};
use tokio::time::Instant;

const URL: &str = "memory://store/shard";

fn client_of(store: Arc<dyn ObjectStore>, seed: u64) -> Client {
    let mut options = options(seed);
    options.checkpoint_interval = 4;
    options.recent_entries = 3;
    let client = client(options);
    client.mount("store", store);
    client
}

fn quiet(_: &Error) {}

/// Rivals write through a store with faults; then a fresh reader of the store itself decides who was right.
async fn rivals(seed: u64, writers: u64, percent: u32, goal: i64) -> u64 {
    let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let setup = conformance::Setup::new("memory://store", move |seed| {
        client_of(Arc::clone(&truth), seed)
    })
    .unwrap();
    let mut faults = FaultOptions::default();
    (faults.seed, faults.percent) = (seed, percent);
    let mut setup = setup.with_faults(faults);
    setup.seed = seed;
    conformance::shards::race(&setup, "shard", writers, goal).await
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(mvsink_persist::testing::cases(48)))]

    /// Every store call may fail, having happened, happening later, or not at all.
    #[test]
    fn r01_an_append_is_committed_iff_it_says_so(seed: u64, writers in 1_u64..5, percent in 0_u32..50) {
        run(rivals(seed, writers, percent, 12));
    }
}

#[test]
fn r18_losing_is_control_flow_and_every_round_has_one_winner() {
    let losses = run(rivals(18, 6, 0, 1000));
    assert!(losses > 500, "the writers were no rivals: {losses} losses");
}

#[test]
fn r01_each_fault_of_the_commit_itself_is_resolved() {
    use Fault::{Applied, AppliedLater, Conflict, None, NotApplied};
    let scripts: &[&[Fault]] = &[
        &[Applied],
        &[NotApplied],
        &[AppliedLater],
        &[Conflict],
        &[NotApplied, Applied],
        &[AppliedLater, Conflict, None],
        &[Conflict, Applied, NotApplied],
        &[NotApplied, NotApplied, AppliedLater, NotApplied],
    ];
    for script in scripts {
        run(async {
            let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let faulty = FaultyStore::new(Arc::clone(&truth), 1, 0);
            let client = client_of(faulty.clone(), 1);
            let shard = client
                .open_or_create(URL, Open::new(schema()))
                .await
                .unwrap();
            faulty.script(script);
            let retries = Mutex::new(0);
            let count = |_: &Error| *retries.lock().unwrap() += 1;
            let appended = shard
                .append(append(1, 0, 5, Vec::new()), &count)
                .await
                .unwrap();
            assert_eq!(appended, Appended::Committed { version: 1 }, "{script:?}");
            assert!(
                *retries.lock().unwrap() > 0,
                "{script:?}: retries are reported"
            );
            let appended = shard
                .append(append(2, 5, 6, Vec::new()), &quiet)
                .await
                .unwrap();
            assert_eq!(appended, Appended::Committed { version: 2 }, "{script:?}");
        });
    }
}

#[test]
fn r01_a_dropped_append_is_found_by_its_identity() {
    run(async {
        let faulty = FaultyStore::new(Arc::new(InMemory::new()), 1, 0);
        let client = client_of(faulty.clone(), 1);
        let shard = client
            .open_or_create(URL, Open::new(schema()))
            .await
            .unwrap();
        for fault in [Fault::Applied, Fault::AppliedLater] {
            let Frontier::At(lower) = shard.progress().upper else {
                unreachable!()
            };
            let again = append(u64::try_from(lower).unwrap(), lower, lower + 1, Vec::new());
            faulty.script(&[
                fault,
                Fault::NotApplied,
                Fault::NotApplied,
                Fault::NotApplied,
                Fault::NotApplied,
            ]);
            let given_up = std::time::Duration::from_millis(30);
            let dropped = tokio::time::timeout(given_up, shard.append(again.clone(), &quiet)).await;
            assert!(dropped.is_err(), "it was still trying");
            faulty.script(&[]);
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            shard.refresh().await.unwrap();
            let version = shard.progress().version;
            let appended = shard.append(again, &quiet).await.unwrap();
            assert_eq!(appended, Appended::Committed { version });
        }
    });
}

#[test]
fn r01_an_append_that_left_memory_is_still_found_by_its_identity() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let client = client_of(store, 1);
        let shard = client
            .open_or_create(URL, Open::new(schema()))
            .await
            .unwrap();
        // As if the caller had been dropped before it heard of it.
        let first = append(1, 0, 1, Vec::new());
        shard.append(first.clone(), &quiet).await.unwrap();
        for time in 1..20 {
            let next = append(u64::try_from(time).unwrap() + 1, time, time + 1, Vec::new());
            shard.append(next, &quiet).await.unwrap();
        }
        let appended = shard.append(first.clone(), &quiet).await.unwrap();
        assert_eq!(appended, Appended::Committed { version: 1 });
        let rival = Append {
            id: CommitId { nonce: 2, seq: 1 },
            ..first
        };
        let upper = Frontier::At(20);
        let lost = shard.append(rival, &quiet).await.unwrap();
        assert_eq!(lost, Appended::Lost { upper });
    });
}

#[test]
fn a_listing_that_missed_the_first_entry_is_no_damage() {
    run(async {
        let store = FaultyStore::new(Arc::new(InMemory::new()), 1, 0);
        let open = Open::new(schema());
        let writer = client_of(store.clone(), 1)
            .open_or_create(URL, open.clone())
            .await
            .unwrap();
        let next = append(1, 0, 5, Vec::new());
        writer.append(next, &quiet).await.unwrap();
        store.hide(Path::from("shard/_delta_log/00000000000000000000.json"));
        let reader = client_of(store, 2).open_or_create(URL, open).await.unwrap();
        assert_eq!(reader.progress(), writer.progress());
    });
}

#[test]
fn r21_frontier_only_commits_are_durable() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let shard = client_of(store.clone(), 1)
            .open_or_create(URL, Open::new(schema()))
            .await
            .unwrap();
        shard
            .append(append(1, 0, 7, Vec::new()), &quiet)
            .await
            .unwrap();
        let mut last = append(2, 7, 8, Vec::new());
        last.upper = Frontier::Empty;
        last.since = Some(Frontier::At(3));
        shard.append(last, &quiet).await.unwrap();
        let again = client_of(store, 2).open_existing(URL).await.unwrap();
        let progress = again.progress();
        assert_eq!(
            (progress.upper, progress.since),
            (Frontier::Empty, Frontier::At(3))
        );
        assert_eq!(again.pin().files().len(), 0);
        let lost = again
            .append(append(3, 8, 9, Vec::new()), &quiet)
            .await
            .unwrap();
        assert_eq!(
            lost,
            Appended::Lost {
                upper: Frontier::Empty
            }
        );
    });
}

#[test]
fn appends_that_contradict_themselves_are_refused() {
    run(async {
        let client = client_of(Arc::new(InMemory::new()), 1);
        let shard = client
            .open_or_create(URL, Open::new(schema()))
            .await
            .unwrap();
        let file = |times| {
            let meta = FileMeta {
                rows: 1,
                times: Some(times),
                ..FileMeta::default()
            };
            shard.put_file(Bytes::new(), meta, &quiet)
        };
        let early = file((1, 5)).await.unwrap();
        let late = file((3, 9)).await.unwrap();
        for bad in [
            append(1, 0, 0, Vec::new()),
            append(1, -1, 3, Vec::new()),
            append(1, 0, i64::MAX, Vec::new()),
            append(1, 2, 9, vec![early]),
            append(1, 2, 9, vec![late]),
        ] {
            let refused = shard.append(bad, &quiet).await;
            assert!(
                matches!(refused, Err(Error::InvalidAppend { .. })),
                "{refused:?}"
            );
        }
        assert_eq!(shard.refresh().await.unwrap().version, 0);
    });
}

#[test]
fn the_since_only_moves_forward() {
    run(async {
        let client = client_of(Arc::new(InMemory::new()), 1);
        let shard = client
            .open_or_create(URL, Open::new(schema()))
            .await
            .unwrap();
        let progress = shard.advance_since(Frontier::At(4), &quiet).await.unwrap();
        assert_eq!(progress.since, Frontier::At(4));
        let progress = shard.advance_since(Frontier::At(2), &quiet).await.unwrap();
        assert_eq!((progress.since, progress.version), (Frontier::At(4), 1));
    });
}

#[test]
fn futures_can_be_spawned() {
    fn spawnable<T: Send>(future: T) -> T {
        future
    }
    run(async {
        let client = client_of(Arc::new(InMemory::new()), 1);
        let shard = spawnable(client.open_or_create(URL, Open::new(schema())))
            .await
            .unwrap();
        let put = shard.put_file(Bytes::new(), FileMeta::default(), &quiet);
        let file = spawnable(put).await.unwrap();
        let refresh = || shard.refresh();
        spawnable(client.retry(&quiet, refresh)).await.unwrap();
        spawnable(shard.append(append(1, 0, 1, vec![file.clone()]), &quiet))
            .await
            .unwrap();
        spawnable(shard.entry(1)).await.unwrap();
        spawnable(shard.refresh()).await.unwrap();
        spawnable(shard.read_file(&file.path)).await.unwrap();
        spawnable(shard.delete_files(&[file])).await.unwrap();
        spawnable(shard.checkpoint()).await.unwrap();
        let mut watcher = shard.watch();
        let changed = spawnable(watcher.changed());
        assert!(
            futures::FutureExt::now_or_never(changed).is_none(),
            "nothing has changed"
        );
        spawnable(client.cpu().run(|| ())).await.unwrap();
    });
}

/// Others, and those who look for what went wrong, know a commit by what it says of itself.
#[test]
fn commits_say_what_they_are() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let client = client_of(Arc::clone(&store), 1);
        let shard = client
            .open_or_create(URL, Open::new(schema()))
            .await
            .unwrap();
        let appended = shard
            .append(append(7, 0, 5, Vec::new()), &quiet)
            .await
            .unwrap();
        assert_eq!(appended, Appended::Committed { version: 1 });
        shard.advance_since(Frontier::At(3), &quiet).await.unwrap();
        let said = async |version: u64| {
            let path = Path::from(format!("shard/_delta_log/{version:020}.json"));
            let entry = store.get(&path).await.unwrap().bytes().await.unwrap();
            let first = entry.split(|byte| *byte == b'\n').next().unwrap();
            let mut action: serde_json::Value = serde_json::from_slice(first).unwrap();
            let mut info = action["commitInfo"].take();
            // Of this table, and at this moment.
            for changing in ["timestamp", "mvsink.table"] {
                let value = info.as_object_mut().unwrap().remove(changing);
                assert!(value.is_some(), "{changing}");
            }
            info
        };
        let write = serde_json::json!({
            "operation": "WRITE",
            "operationParameters": {"mode": "Append"},
            "engineInfo": concat!("mvsink/", env!("CARGO_PKG_VERSION")),
            "mvsink.id": format!("{:032x}-7", 1),
            // Beside this one: the upper, and how far edits were looked for, by version and by files.
            "mvsink.lines": 4,
            "mvsink.lower": 0,
            "mvsink.upper": 5,
        });
        assert_eq!(said(1).await, write);
        let since = said(2).await;
        let of = ["operation", "mvsink.lower", "mvsink.upper"].map(|field| since[field].clone());
        assert_eq!(
            serde_json::json!(of),
            serde_json::json!(["SET SINCE", 5, 5])
        );
    });
}

#[test]
fn an_append_ahead_of_what_is_known_is_none_that_lost() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let open = async |seed| {
            let client = client_of(Arc::clone(&store), seed);
            client
                .open_or_create(URL, Open::new(schema()))
                .await
                .unwrap()
        };
        let (behind, ahead) = (open(1).await, open(2).await);
        ahead
            .append(append(1, 0, 5, Vec::new()), &quiet)
            .await
            .unwrap();
        assert_eq!(behind.progress().upper, Frontier::At(0));
        let next = behind.append(append(2, 5, 6, Vec::new()), &quiet).await;
        assert!(matches!(next, Ok(Appended::Committed { .. })), "{next:?}");
    });
}

#[test]
fn what_was_staged_more_than_a_minute_ago_is_looked_for() {
    const SECOND: Duration = Duration::from_secs(1);
    for (age, looked_for) in [(SECOND, false), (60 * SECOND, false), (61 * SECOND, true)] {
        run(async {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let mut options = options(1);
            let start = Instant::now();
            options.clock = Arc::new(move || i64::try_from(start.elapsed().as_millis()).unwrap());
            let client = client(options);
            client.mount("store", Arc::clone(&store));
            let shard = client
                .open_or_create(URL, Open::new(schema()))
                .await
                .unwrap();
            let file = stage(&shard, 0).await;
            tokio::time::advance(age).await;
            let path = format!("shard/{}", file.path);
            store.delete(&Path::from(path)).await.unwrap();
            let ended = shard.append(append(1, 0, 1, vec![file]), &quiet).await;
            match ended {
                Ok(Appended::Committed { .. }) => assert!(!looked_for, "after {age:?}"),
                Err(Error::Swept { .. }) => assert!(looked_for, "after {age:?}"),
                ended => panic!("{ended:?}"),
            }
        });
    }
}

#[test]
fn an_append_removes_files_with_its_own_or_not_at_all() {
    run(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let clients = [1, 2].map(|seed| client_of(Arc::clone(&store), seed));
        let [ours, theirs] =
            [0, 1].map(|index| clients[index].open_or_create(URL, Open::new(schema())));
        let (ours, theirs) = (ours.await.unwrap(), theirs.await.unwrap());
        let live = |shard: &mvsink_persist::Shard| -> BTreeSet<String> {
            shard.pin().files().map(|file| file.path.clone()).collect()
        };
        let first = vec![stage(&ours, 0).await, stage(&ours, 0).await];
        ours.append(append(0, 0, 1, first), &quiet).await.unwrap();
        let before = live(&ours);
        // One that was lost has removed nothing.
        theirs
            .append(append(1, 1, 2, Vec::new()), &quiet)
            .await
            .unwrap();
        let late = append(2, 1, 3, vec![stage(&ours, 1).await]);
        let lost = ours
            .append_removing(late, before.clone(), &quiet)
            .await
            .unwrap();
        assert_eq!(
            lost,
            Appended::Lost {
                upper: Frontier::At(2)
            }
        );
        assert_eq!(live(&ours), before);
        // Of several that want the same file removed, the first does it; what is not live is left out.
        let gone: BTreeSet<_> = before.iter().take(1).cloned().collect();
        theirs
            .append_removing(append(3, 2, 3, Vec::new()), gone.clone(), &quiet)
            .await
            .unwrap();
        assert_eq!(theirs.progress().since, Frontier::At(2));
        let file = stage(&ours, 3).await;
        let path = file.path.clone();
        let all = before
            .iter()
            .cloned()
            .chain(["nobody's".to_owned()])
            .collect();
        let committed = ours
            .append_removing(append(4, 3, 4, vec![file]), all, &quiet)
            .await
            .unwrap();
        let Appended::Committed { version } = committed else {
            panic!("{committed:?}")
        };
        let entry = ours.entry(version).await.unwrap();
        let removed: BTreeSet<_> = entry.removes.iter().map(|file| file.path.clone()).collect();
        assert_eq!(removed, before.difference(&gone).cloned().collect());
        assert!(!entry.foreign);
        theirs.refresh().await.unwrap();
        for shard in [&ours, &theirs] {
            assert_eq!(live(shard), BTreeSet::from([path.clone()]));
            // What was there before is there no more, at any time.
            assert_eq!(shard.progress().since, Frontier::At(3));
        }
    });
}
