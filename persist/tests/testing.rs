//! The stores for tests do what they say.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use mvsink_persist::testing::conformance::{Setup, shards::race};
use mvsink_persist::testing::{
    Call, CountingStore, Fault, FaultOptions, FaultyStore, GateStore, Side, Traced,
};
use mvsink_persist::{Appended, Open};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, Result};
use support::{append, client, options, run, schema};

fn path() -> Path {
    Path::from("_delta_log/0.json")
}

async fn create(store: &dyn ObjectStore) -> Result<()> {
    let create = PutOptions::from(PutMode::Create);
    store.put_opts(&path(), "x".into(), create).await.map(drop)
}

async fn listed(store: &dyn ObjectStore) -> usize {
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    objects.len()
}

fn traced(seed: u64) -> Vec<Traced> {
    run(async {
        let store: Arc<InMemory> = Arc::default();
        let setup = Setup::new("memory://store", move |seed| {
            let client = client(options(seed));
            client.mount("store", store.clone());
            client
        });
        let mut faults = FaultOptions::default();
        (faults.seed, faults.percent) = (seed, 30);
        let setup = Setup {
            seed,
            ..setup.unwrap().with_faults(faults)
        };
        race(&setup, "race", 3, 40).await;
        setup.faults.unwrap().trace()
    })
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (first, again, other) = (traced(1), traced(1), traced(2));
    assert!(first == again, "seed 1 gave two traces");
    assert!(first != other, "seeds 1 and 2 gave one trace");
    let calls = || first.iter().chain(&other);
    let seen: BTreeSet<_> = calls().map(|call| call.fault).collect();
    use Fault::{Applied, AppliedLater, Conflict, None, NotApplied, Slow};
    let all = BTreeSet::from([None, Slow, NotApplied, Applied, AppliedLater, Conflict]);
    assert_eq!(seen, all, "of {} calls", calls().count());
}

#[test]
fn each_fault_is_what_it_says() {
    let absent = |result: &Result<()>| !matches!(result, Ok(()));
    for (fault, fails, there, there_later) in [
        (Fault::None, false, true, true),
        (Fault::Slow, false, true, true),
        (Fault::Applied, true, true, true),
        (Fault::NotApplied, true, false, false),
        (Fault::AppliedLater, true, false, true),
        (Fault::Conflict, true, false, false),
    ] {
        run(async {
            let truth = Arc::new(InMemory::new());
            let mut options = FaultOptions::default();
            options.later = Duration::from_secs(1);
            let store = FaultyStore::with_options(truth.clone(), options);
            store.script(&[fault]);
            let result = create(&store).await;
            assert_eq!(absent(&result), fails, "{fault:?}: {result:?}");
            let conflict = matches!(result, Err(Error::AlreadyExists { .. }));
            assert_eq!(conflict, fault == Fault::Conflict);
            assert_eq!(listed(truth.as_ref()).await == 1, there, "{fault:?}");
            store.settled().await;
            assert_eq!(listed(truth.as_ref()).await == 1, there_later, "{fault:?}");
        });
    }
}

#[test]
fn reads_are_stale_only_if_the_store_may() {
    for stale in [None, Some(Duration::from_secs(5))] {
        run(async {
            let mut options = FaultOptions::default();
            (options.seed, options.percent, options.stale) = (5, 60, stale);
            let store = FaultyStore::with_options(Arc::new(InMemory::new()), options);
            store.script(&[Fault::None]);
            create(&store).await.unwrap();
            let (mut missed, mut unlisted) = (0, 0);
            for _ in 0..40 {
                let got = store.get(&path()).await;
                missed += i32::from(matches!(got, Err(Error::NotFound { .. })));
                let listed: Result<Vec<_>> = store.list(None).try_collect().await;
                unlisted += i32::from(listed.is_ok_and(|listed| listed.is_empty()));
            }
            assert_eq!(missed > 0, stale.is_some());
            assert_eq!(unlisted > 0, stale.is_some());
            tokio::time::sleep(Duration::from_secs(6)).await;
            for _ in 0..40 {
                let got = store.get(&path()).await;
                assert!(
                    !matches!(got, Err(Error::NotFound { .. })),
                    "it was put long ago"
                );
            }
        });
    }
}

#[test]
fn deletes_and_listings_fail_too() {
    run(async {
        let truth = Arc::new(InMemory::new());
        let store = FaultyStore::new(truth.clone(), 9, 50);
        let (mut kept, mut gone, mut cut) = (0, 0, 0);
        for n in 0..60 {
            let path = Path::from(format!("{n}"));
            truth.put(&path, "x".into()).await.unwrap();
            let failed = store.delete(&path).await.is_err();
            store.settled().await;
            let there = truth.head(&path).await.is_ok();
            assert!(failed || !there, "it was said to be deleted");
            kept += i32::from(failed && there);
            gone += i32::from(failed && !there);
            let listed: Vec<_> = futures::StreamExt::collect(store.list(None)).await;
            cut += i32::from(listed.len() > 1 && listed.last().is_some_and(|last| last.is_err()));
        }
        assert!(kept > 0 && gone > 0 && cut > 0, "{kept} {gone} {cut}");
    });
}

#[test]
fn calls_are_counted_by_kind_with_their_bytes() {
    run(async {
        let store = CountingStore::new(Arc::new(InMemory::new()));
        create(&store).await.unwrap();
        create(&store).await.unwrap_err();
        store.put(&path(), "hello".into()).await.unwrap();
        store.get(&path()).await.unwrap();
        store.get_range(&path(), 1..3).await.unwrap();
        store.head(&path()).await.unwrap();
        assert_eq!(listed(&store).await, 1);
        store.delete(&path()).await.unwrap();
        let counts = |call| (store.count(call), store.bytes(call));
        assert_eq!(counts(Call::Create), (2, 2));
        assert_eq!(counts(Call::Put), (1, 5));
        assert_eq!(counts(Call::Get), (1, 5));
        assert_eq!(counts(Call::GetRange), (1, 2));
        assert_eq!(counts(Call::Head), (1, 0));
        assert_eq!(counts(Call::Delete), (1, 0));
        assert_eq!(counts(Call::List), (1, 0));
        assert_eq!(store.total(), 8);
        store.reset();
        assert_eq!(store.total(), 0);
    });
}

#[test]
fn a_commit_that_is_held_up_loses_to_the_one_that_overtakes_it() {
    for side in [Side::Before, Side::After] {
        run(async {
            let gate = GateStore::new(Arc::new(InMemory::new()));
            let open = async |seed| {
                let client = client(options(seed));
                client.mount("store", gate.clone());
                let open = Open::new(schema());
                client
                    .open_or_create("memory://store/x", open)
                    .await
                    .unwrap()
            };
            let (slow, fast) = (open(1).await, open(2).await);
            let mut append_fast = append(0, 0, 7, Vec::new());
            append_fast.id.nonce = 2;
            let held = gate.hold_commit(1, side);
            let quiet = |_: &mvsink_persist::Error| {};
            let committing = slow.append(append(0, 0, 5, Vec::new()), &quiet);
            let overtaking = async {
                held.reached().await;
                let appended = fast.append(append_fast, &quiet).await.unwrap();
                held.release();
                appended
            };
            let (slow, fast) = futures::join!(committing, overtaking);
            let committed = |appended| matches!(appended, Appended::Committed { version: 1 });
            assert_eq!(committed(slow.unwrap()), side == Side::After);
            assert_eq!(committed(fast), side == Side::Before);
        });
    }
}
