//! A log that is checkpointed and cleaned up while others follow it and commit to it.

mod gate;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use gate::{GateStore, Held};
use mvsink_persist::testing::{Call, Side};
use mvsink_persist::{Append, Appended, Client, CommitId, Error, Frontier, GcOptions, Open, Shard};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use support::{append, client, options, run, schema, stage};

const URL: &str = "memory://store/shard";
const HOUR: Duration = Duration::from_secs(60 * 60);

fn quiet(_: &Error) {}

fn client_of(store: Arc<dyn ObjectStore>, seed: u64, log_min_age: Duration) -> Client {
    let mut options = options(seed);
    options.checkpoint_interval = 0;
    options.recent_entries = 3;
    options.log_min_age = log_min_age;
    let client = client(options);
    client.mount("store", store);
    client
}

async fn create(client: &Client) -> Shard {
    client
        .open_or_create(URL, Open::new(schema()))
        .await
        .unwrap()
}

fn time_of(shard: &Shard) -> i64 {
    shard.progress().upper.time().unwrap()
}

/// Appends a file a time, `count` times.
async fn grow(shard: &Shard, count: i64) {
    for _ in 0..count {
        let time = time_of(shard);
        let file = stage(shard, time).await;
        let append = Append {
            id: CommitId {
                nonce: 77,
                seq: u64::try_from(time).unwrap(),
            },
            ..append(0, time, time + 1, vec![file])
        };
        let appended = shard.append(append, &quiet).await.unwrap();
        assert!(matches!(appended, Appended::Committed { .. }));
    }
}

/// Cleans up all that may be, whatever its age.
async fn clean(shard: &Shard) {
    for _ in 0..2 {
        shard.checkpoint().await.unwrap();
        grow(shard, 1).await;
    }
    let report = shard
        .collect_garbage(&GcOptions::default(), &|_| ())
        .await
        .unwrap();
    assert!(report.log.count > 0);
}

async fn log_names(store: &dyn ObjectStore) -> BTreeSet<String> {
    let folder = Path::from("shard/_delta_log");
    let objects: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
    objects
        .iter()
        .map(|object| object.location.filename().unwrap().to_owned())
        .collect()
}

fn paths(shard: &Shard) -> BTreeSet<String> {
    shard.pin().files().map(|file| file.path.clone()).collect()
}

/// What somebody finds who opens the shard now.
async fn fresh(store: &Arc<dyn ObjectStore>) -> Shard {
    client_of(Arc::clone(store), 99, HOUR)
        .open_existing(URL)
        .await
        .unwrap()
}

struct Two {
    truth: Arc<dyn ObjectStore>,
    gate: Arc<GateStore>,
    slow: Shard,
    fast: Shard,
}

/// Two processes with one shard: a slow one behind a gate, and a fast one that cleans up whatever its age.
async fn two() -> Two {
    let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let gate = GateStore::new(Arc::clone(&truth));
    let slow = create(&client_of(gate.clone(), 1, HOUR)).await;
    let fast = create(&client_of(Arc::clone(&truth), 2, Duration::ZERO)).await;
    grow(&fast, 3).await;
    slow.refresh().await.unwrap();
    Two {
        truth,
        gate,
        slow,
        fast,
    }
}

#[test]
fn a_follower_behind_a_cleaned_log_goes_on_from_the_checkpoint() {
    run(async {
        let Two {
            truth,
            gate,
            slow,
            fast,
        } = two().await;
        let mut watcher = slow.watch();
        let behind = slow.progress();
        gate.hold(Held::Reads);
        gate.reached().await;
        grow(&fast, 20).await;
        clean(&fast).await;
        assert!(
            !log_names(&truth)
                .await
                .contains("00000000000000000004.json")
        );
        tokio::time::advance(2 * HOUR).await;
        gate.hold(Held::Nothing);
        let progress = watcher.changed().await.unwrap();
        assert_eq!(progress, fast.progress());
        assert!(progress.version > behind.version + 20);
        assert_eq!(paths(&slow), paths(&fast));
        for version in 0..=20 {
            let gone = slow.entry(version).await.unwrap_err();
            assert!(
                matches!(gone, Error::EntryGone { version: named, .. } if named == version),
                "{gone}"
            );
        }
        // It follows on, and can commit.
        grow(&fast, 1).await;
        let version = watcher.changed().await.unwrap().version;
        assert_eq!(slow.entry(version).await.unwrap().adds.len(), 1);
        grow(&slow, 1).await;
        assert_eq!(fresh(&truth).await.progress(), slow.progress());
    });
}

#[test]
fn an_idle_process_trusts_what_it_sees_for_a_while_only() {
    run(async {
        let Two {
            gate, slow, fast, ..
        } = two().await;
        let calls_after = async |seconds| {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            let before = (gate.reads(), gate.lists());
            slow.refresh().await.unwrap();
            (gate.reads() - before.0, gate.lists() - before.1)
        };
        // Within the time that clean-up spares: one read says that there is nothing new, and one that nothing is lost.
        assert_eq!(calls_after(19).await, (2, 0));
        // Later, the last entry is looked at as well, and which one it was the last time, with all that lies between and
        // beyond.
        assert_eq!(calls_after(19).await, (3, 2));
        assert_eq!(calls_after(19).await, (2, 0));
        assert_eq!(calls_after(19).await, (2, 1));
        clean(&fast).await;
        grow(&fast, 5).await;
        tokio::time::advance(2 * HOUR).await;
        assert_eq!(slow.refresh().await.unwrap(), fast.progress());
    });
}

/// The slow process's append, with its put held up while the fast one goes on and cleans up beyond it.
async fn race(two: &Two, append: Append, held: Held) -> Result<Appended, Error> {
    race_of(two, append, held, 2 * HOUR, async {}).await
}

/// The same for so long, and with this just before the put goes on.
async fn race_of(
    two: &Two,
    append: Append,
    held: Held,
    long: Duration,
    at_last: impl Future<Output = ()>,
) -> Result<Appended, Error> {
    let overtake = async {
        two.gate.reached().await;
        // The fast one takes the slot unless it is taken already.
        two.fast.refresh().await.unwrap();
        grow(&two.fast, 3).await;
        clean(&two.fast).await;
        tokio::time::advance(long).await;
        at_last.await;
        two.gate.hold(Held::Nothing);
    };
    two.gate.hold(held);
    let (appended, ()) = futures::join!(two.slow.append(append, &quiet), overtake);
    appended
}

#[test]
fn r29_a_put_beyond_a_cleaned_log_is_no_commit() {
    run(async {
        let two = two().await;
        let time = time_of(&two.slow);
        let file = stage(&two.slow, time).await;
        let late = append(1, time, time + 1, vec![file.clone()]);
        let appended = race(&two, late.clone(), Held::PutsBefore).await.unwrap();
        let reader = fresh(&two.truth).await;
        let upper = reader.progress().upper;
        assert_eq!(appended, Appended::Lost { upper });
        assert!(!paths(&reader).contains(&file.path));
        assert_eq!(two.slow.progress(), reader.progress());
        // The phantom is gone, and the file is the caller's to delete.
        let slot = format!("{:020}.json", 4);
        assert!(!log_names(&two.truth).await.contains(&slot));
        two.slow
            .delete_files(std::slice::from_ref(&file))
            .await
            .unwrap();
        assert!(two.slow.read_file(&file.path).await.is_err());
        let again = two.slow.append(late, &quiet).await.unwrap();
        assert_eq!(again, Appended::Lost { upper });
    });
}

#[test]
fn r29_a_put_that_was_cleaned_up_after_it_counted_is_a_commit() {
    run(async {
        let two = two().await;
        let time = time_of(&two.slow);
        let file = stage(&two.slow, time).await;
        let early = append(1, time, time + 1, vec![file.clone()]);
        let appended = race(&two, early, Held::PutsAfter).await.unwrap();
        assert_eq!(appended, Appended::Committed { version: 4 });
        let reader = fresh(&two.truth).await;
        assert!(paths(&reader).contains(&file.path));
        assert_eq!(two.slow.progress(), reader.progress());
    });
}

#[test]
fn r29_an_append_that_left_no_trace_is_undecided_and_says_so() {
    for held in [Held::PutsBefore, Held::PutsAfter] {
        run(async {
            let two = two().await;
            let time = time_of(&two.slow);
            let bump = append(1, time, time + 1, Vec::new());
            let error = race(&two, bump, held).await.unwrap_err();
            assert!(matches!(error, Error::Undecided { .. }), "{error}");
            assert!(!error.is_transient());
            // The shard is as good as before.
            grow(&two.slow, 1).await;
            assert_eq!(fresh(&two.truth).await.progress(), two.slow.progress());
        });
    }
}

#[test]
fn r29_a_removed_file_is_remembered_for_days_and_no_longer() {
    let days = |days: u32| days * 24 * HOUR;
    for (long, decided) in [(days(6) - HOUR, true), (days(6), false)] {
        run(async {
            let two = two().await;
            let time = time_of(&two.slow);
            let file = stage(&two.slow, time).await;
            let late = append(1, time, time + 1, vec![file]);
            let ended = race_of(&two, late, Held::PutsBefore, long, async {}).await;
            match ended {
                Ok(Appended::Lost { .. }) => assert!(decided, "after {long:?}"),
                Err(Error::Undecided { .. }) => assert!(!decided, "after {long:?}"),
                ended => panic!("{ended:?}"),
            }
        });
    }
}

#[test]
fn r29_what_stands_beyond_a_cleaned_log_is_nobodys() {
    run(async {
        let two = two().await;
        let time = time_of(&two.slow);
        let file = stage(&two.slow, time).await;
        let late = append(1, time, time + 1, vec![file]);
        // Somebody as late, whose entry was not even written to its end.
        let slot = Path::from(format!("shard/_delta_log/{:020}.json", 4));
        let torn = async {
            let half = Bytes::from_static(b"{\"add\":");
            two.truth.put(&slot, half.into()).await.unwrap();
        };
        let ended = race_of(&two, late, Held::PutsBefore, 2 * HOUR, torn).await;
        let upper = two.fast.progress().upper;
        assert_eq!(ended.unwrap(), Appended::Lost { upper });
        assert_eq!(two.slow.progress(), two.fast.progress());
    });
}

#[test]
fn r29_a_committer_with_an_old_base_looks_first() {
    run(async {
        let two = two().await;
        let time = time_of(&two.slow);
        clean(&two.fast).await;
        grow(&two.fast, 3).await;
        tokio::time::advance(2 * HOUR).await;
        let before = log_names(&two.truth).await;
        let late = append(1, time, time + 1, Vec::new());
        let lost = two.slow.append(late, &quiet).await.unwrap();
        let upper = two.fast.progress().upper;
        assert_eq!(
            lost,
            Appended::Lost { upper },
            "it was never put, so it is no mystery"
        );
        assert_eq!(log_names(&two.truth).await, before);
        clean(&two.fast).await;
        tokio::time::advance(2 * HOUR).await;
        let progress = two.slow.advance_since(Frontier::At(2), &quiet).await;
        let reader = fresh(&two.truth).await;
        assert_eq!(progress.unwrap(), reader.progress());
        assert_eq!(reader.progress().since, Frontier::At(2));
    });
}

#[test]
fn r29_a_creation_that_comes_late_finds_what_others_created() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gate = GateStore::new(Arc::clone(&truth));
        gate.hold(Held::PutsBefore);
        let overtake = async {
            gate.reached().await;
            let fast = create(&client_of(Arc::clone(&truth), 2, Duration::ZERO)).await;
            grow(&fast, 3).await;
            clean(&fast).await;
            tokio::time::advance(2 * HOUR).await;
            gate.hold(Held::Nothing);
            fast
        };
        let late = client_of(gate.clone(), 1, HOUR);
        let (late, fast) = futures::join!(create(&late), overtake);
        assert_eq!(late.progress(), fast.progress());
        assert!(!log_names(&truth).await.contains(&format!("{:020}.json", 0)));
        grow(&late, 1).await;
        assert_eq!(fresh(&truth).await.progress(), late.progress());
    });
}

#[test]
fn r29_a_checkpoint_that_comes_late_leads_nobody_astray() {
    run(async {
        let two = two().await;
        two.fast.checkpoint().await.unwrap();
        let log = Path::from("shard/_delta_log");
        let late = [
            log.clone().join("00000000000000000003.checkpoint.parquet"),
            log.join("_last_checkpoint"),
        ];
        let mut written = Vec::new();
        for path in &late {
            written.push(two.truth.get(path).await.unwrap().bytes().await.unwrap());
        }
        grow(&two.fast, 9).await;
        clean(&two.fast).await;
        // As by a process that stalled before it wrote them.
        for (path, bytes) in late.iter().zip(written) {
            two.truth.put(path, bytes.into()).await.unwrap();
        }
        assert_eq!(fresh(&two.truth).await.progress(), two.fast.progress());
        tokio::time::advance(2 * HOUR).await;
        assert_eq!(two.slow.refresh().await.unwrap(), two.fast.progress());
    });
}

#[test]
fn r29_a_machine_that_was_suspended_looks_first() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let now_ms = Arc::new(AtomicI64::new(1_000_000_000));
        let clock = Arc::clone(&now_ms);
        let mut options = options(1);
        options.clock = Arc::new(move || clock.load(Ordering::Relaxed));
        let slow = client(options);
        slow.mount("store", Arc::clone(&truth));
        let slow = create(&slow).await;
        let fast = create(&client_of(Arc::clone(&truth), 2, Duration::ZERO)).await;
        grow(&fast, 3).await;
        clean(&fast).await;
        let before = log_names(&truth).await;
        // Its monotonic clock stood still.
        now_ms.fetch_add(2 * 60 * 60 * 1000, Ordering::Relaxed);
        let late = append(1, 0, 1, Vec::new());
        let upper = fast.progress().upper;
        let lost = slow.append(late, &quiet).await.unwrap();
        assert_eq!(lost, Appended::Lost { upper });
        assert_eq!(log_names(&truth).await, before);
    });
}

#[test]
fn r24_a_table_that_was_created_again_is_one_clear_error() {
    run(async {
        for entries in [0, 3, 10] {
            let two = two().await;
            let mut watcher = two.slow.watch();
            // An idle follower notices by itself.
            let objects: Vec<_> = two.truth.list(None).try_collect().await.unwrap();
            for object in objects {
                two.truth.delete(&object.location).await.unwrap();
            }
            if entries > 0 {
                let anew = create(&client_of(Arc::clone(&two.truth), 3, HOUR)).await;
                grow(&anew, entries).await;
            }
            let error = watcher.changed().await.unwrap_err();
            let Error::Shared(error) = error else {
                panic!("{error}")
            };
            assert!(matches!(*error, Error::Replaced { .. }), "{error}");
            let time = time_of(&two.slow);
            let refused = two
                .slow
                .append(append(1, time, time + 1, Vec::new()), &quiet);
            let names = log_names(&two.truth).await;
            assert!(matches!(refused.await, Err(Error::Replaced { .. })));
            assert!(two.slow.checkpoint().await.is_err());
            assert_eq!(log_names(&two.truth).await, names, "nothing was written");
        }
    });
}

/// Deletes entries of the log, as who restores a folder from a backup does, or cleans it up by hand.
async fn delete_entries(store: &dyn ObjectStore, versions: std::ops::Range<u64>) {
    for version in versions {
        let path = Path::from(format!("shard/_delta_log/{version:020}.json"));
        store.delete(&path).await.unwrap();
    }
}

#[test]
fn r24_a_log_that_lost_its_last_entries_is_one_clear_error() {
    run(async {
        let two = two().await;
        grow(&two.fast, 3).await;
        let version = two.slow.refresh().await.unwrap().version;
        delete_entries(&two.truth, version - 1..version + 1).await;
        tokio::time::advance(HOUR).await;
        let error = two.slow.refresh().await.unwrap_err();
        assert!(matches!(error, Error::Replaced { .. }), "{error}");
        assert!(error.to_string().contains("last entries"), "{error}");
    });
}

#[test]
fn a_checkpoint_stands_for_the_last_entry() {
    run(async {
        let two = two().await;
        let known = two.slow.progress();
        two.slow.checkpoint().await.unwrap();
        delete_entries(&two.truth, known.version..known.version + 1).await;
        tokio::time::advance(HOUR).await;
        assert_eq!(two.slow.refresh().await.unwrap(), known);
        grow(&two.slow, 1).await;
        assert_eq!(fresh(&two.truth).await.progress(), two.slow.progress());
    });
}

#[test]
fn who_was_slow_to_find_a_checkpoint_does_not_go_back_to_it() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gated = mvsink_persist::testing::GateStore::new(Arc::clone(&truth));
        let slow = create(&client_of(Arc::clone(&gated) as _, 1, HOUR)).await;
        let fast = create(&client_of(Arc::clone(&truth), 2, Duration::ZERO)).await;
        grow(&fast, 20).await;
        clean(&fast).await;
        tokio::time::advance(2 * HOUR).await;
        // One reads the log from a checkpoint to its end, and is held up there. Another one goes further meanwhile.
        let next = format!("{:020}.json", fast.progress().version + 1);
        let end = gated.hold(1, Side::After, move |call, path| {
            matches!(call, Call::Get | Call::GetRange) && path.as_ref().ends_with(&next)
        });
        let further = async {
            end.reached().await;
            grow(&fast, 3).await;
            assert_eq!(slow.refresh().await.unwrap(), fast.progress());
            end.release();
        };
        let (refreshed, ()) = futures::join!(slow.refresh(), further);
        assert_eq!(refreshed.unwrap(), fast.progress());
        assert_eq!(slow.progress(), fast.progress());
    });
}

#[test]
fn a_nudge_spares_the_wait_for_the_next_poll() {
    let waited = |nudged: bool| {
        run(async {
            let two = two().await;
            let mut watcher = two.slow.watch();
            // Long idle, so that it polls rarely.
            tokio::time::sleep(HOUR).await;
            grow(&two.fast, 1).await;
            let begun = tokio::time::Instant::now();
            if nudged {
                two.slow.nudge();
            }
            assert_eq!(watcher.changed().await.unwrap(), two.fast.progress());
            begun.elapsed()
        })
    };
    assert_eq!(waited(true), Duration::ZERO);
    assert!(waited(false) > Duration::ZERO);
}

#[test]
fn a_follower_that_has_found_something_looks_again_soon() {
    run(async {
        let two = two().await;
        let mut watcher = two.slow.watch();
        tokio::time::sleep(HOUR).await;
        let mut waits = Vec::new();
        for _ in 0..2 {
            grow(&two.fast, 1).await;
            let begun = tokio::time::Instant::now();
            assert_eq!(watcher.changed().await.unwrap(), two.fast.progress());
            waits.push(begun.elapsed());
        }
        let (poll_min, poll_max) = (options(1).poll_min, options(1).poll_max);
        assert!(poll_min < waits[0] && waits[0] <= poll_max, "{waits:?}");
        assert!(waits[1] <= poll_min, "{waits:?}");
    });
}

#[test]
fn the_log_directory_stays_bounded_and_opening_is_cheap() {
    run(async {
        let truth: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let gate = GateStore::new(Arc::clone(&truth));
        let mut options = options(1);
        options.checkpoint_interval = 4;
        options.log_min_age = Duration::ZERO;
        let client = client(options);
        client.mount("store", gate.clone());
        let shard = create(&client).await;
        let mut most = 0;
        for _ in 0..400 {
            grow(&shard, 1).await;
            // Checkpoints and clean-up run beside.
            tokio::time::sleep(Duration::from_millis(5)).await;
            most = most.max(log_names(&truth).await.len());
        }
        assert!(most < 80, "{most} objects in the log");
        // Once in 20 s, with each clean-up, and where the entry that was looked at last is cleaned up.
        assert!(gate.lists() < 30, "{} listings", gate.lists());
        let counted = GateStore::new(Arc::clone(&truth));
        let opener = client_of(counted.clone(), 2, HOUR);
        let opened = opener.open_existing(URL).await.unwrap();
        assert_eq!(opened.progress(), shard.progress());
        assert_eq!(paths(&opened).len(), 400);
        assert_eq!(counted.lists(), 1, "of what lies beyond the end");
        assert!(counted.reads() <= 12, "{} reads", counted.reads());
        println!(
            "400 commits: at most {most} objects in the log, {} listings; opened with {} reads",
            gate.lists(),
            counted.reads()
        );
    });
}

#[test]
fn thousands_of_watchers_cost_no_more_reads_than_one() {
    let reads = |watchers: usize| {
        run(async {
            let Two {
                gate, slow, fast, ..
            } = two().await;
            let mut watching: Vec<_> = (0..watchers).map(|_| slow.watch()).collect();
            let before = gate.reads();
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(7)).await;
                grow(&fast, 1).await;
                for watcher in &mut watching {
                    assert_eq!(watcher.changed().await.unwrap(), fast.progress());
                }
            }
            gate.reads() - before
        })
    };
    let (one, many) = (reads(1), reads(3000));
    assert_eq!(one, many);
}

#[test]
fn two_processes_may_write_one_checkpoint_at_once() {
    run(async {
        let two = two().await;
        let (one, other) = futures::join!(two.slow.checkpoint(), two.fast.checkpoint());
        assert_eq!((one.unwrap(), other.unwrap()), (3, 3));
        let reader = fresh(&two.truth).await;
        assert_eq!(reader.progress(), two.fast.progress());
        assert_eq!(paths(&reader), paths(&two.fast));
        // One that was written before is no reason to go back.
        grow(&two.fast, 2).await;
        two.fast.checkpoint().await.unwrap();
        assert_eq!(two.slow.progress().version, 3);
        assert_eq!(two.slow.checkpoint().await.unwrap(), 3);
        let pointer = Path::from("shard/_delta_log/_last_checkpoint");
        let pointer = two
            .truth
            .get(&pointer)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert!(
            std::str::from_utf8(&pointer)
                .unwrap()
                .contains("\"version\":5")
        );
    });
}

#[test]
fn a_restart_of_the_reading_survives_a_clean_up_in_between() {
    run(async {
        let two = two().await;
        two.fast.checkpoint().await.unwrap();
        grow(&two.fast, 1).await;
        let gate = GateStore::new(Arc::clone(&two.truth));
        let opener = client_of(gate.clone(), 5, HOUR);
        gate.hold(Held::Reads);
        let open = opener.open_existing(URL);
        let overtake = async {
            gate.reached().await;
            grow(&two.fast, 4).await;
            clean(&two.fast).await;
            gate.hold(Held::Nothing);
        };
        let (opened, ()) = futures::join!(open, overtake);
        assert_eq!(opened.unwrap().progress(), two.fast.progress());
    });
}

#[test]
fn the_new_futures_can_be_spawned() {
    fn spawnable<T: Send>(future: T) -> T {
        future
    }
    run(async {
        let two = two().await;
        let shard = &two.slow;
        let lease = Duration::from_secs(9);
        let mut hold = spawnable(shard.hold("a", Frontier::At(0), lease))
            .await
            .unwrap();
        hold.renew_in_background();
        spawnable(hold.advance(Frontier::At(1))).await.unwrap();
        spawnable(hold.pin(3)).await.unwrap();
        let options = GcOptions::default();
        spawnable(shard.collect_garbage(&options, &|_| ()))
            .await
            .unwrap();
        spawnable(shard.advance_since(Frontier::At(1), &quiet))
            .await
            .unwrap();
        spawnable(shard.release_hold("b")).await.unwrap();
        spawnable(hold.release()).await.unwrap();
        spawnable(shard.hold_reader(Frontier::At(1), lease))
            .await
            .unwrap();
    });
}
