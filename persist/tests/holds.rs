//! Holds: what they keep, how they end, and what their owners are told.

mod support;

use std::sync::Arc;
use std::time::Duration;

use mvsink_persist::{
    Append, Bytes, Client, Error, FileMeta, Frontier, GcOptions, GcSpared, Open, Retention, Shard,
    StagedFile, Sums,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use support::{append, client, options, run, schema};

const URL: &str = "memory://store/shard";
const LEASE: Duration = Duration::from_secs(60);

fn quiet(_: &Error) {}

fn at(time: i64) -> Frontier<i64> {
    Frontier::At(time)
}

fn client_of(store: &Arc<dyn ObjectStore>, seed: u64) -> Client {
    let mut options = options(seed);
    options.checkpoint_interval = 0;
    // The wall clock says nothing about leases. It is so late that removed files are forgotten.
    options.clock = Arc::new(|| 30 * 24 * 60 * 60 * 1000);
    let client = client(options);
    client.mount("store", Arc::clone(store));
    client
}

/// Several processes with one shard.
async fn processes<const N: usize>() -> (Arc<dyn ObjectStore>, [Shard; N]) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut shards = Vec::new();
    for seed in 0..N {
        let client = client_of(&store, u64::try_from(seed).unwrap());
        let open = Open::new(schema());
        shards.push(client.open_or_create(URL, open).await.unwrap());
    }
    (store, shards.try_into().unwrap())
}

async fn bump(shard: &Shard, lower: i64, upper: i64) {
    let seq = u64::try_from(lower).unwrap();
    let bump = append(seq, lower, upper, Vec::new());
    shard.append(bump, &quiet).await.unwrap();
}

fn is_lost(result: Result<(), Error>) -> bool {
    match result {
        Err(Error::HoldLost { .. }) => true,
        Err(other) => panic!("{other}"),
        Ok(()) => false,
    }
}

#[test]
fn r17_the_since_does_not_pass_a_live_hold() {
    run(async {
        let (_, [reader, maintainer]) = processes().await;
        bump(&reader, 0, 10).await;
        let hold = reader.hold("a", at(3), LEASE).await.unwrap();
        let other = reader.hold_since("b", at(5), LEASE).await.unwrap();
        let to = |to| maintainer.advance_since(to, &quiet);
        assert_eq!(to(at(8)).await.unwrap().since, at(3));
        hold.advance(at(6)).await.unwrap();
        assert_eq!(to(at(8)).await.unwrap().since, at(5));
        // Appends do not pass them either.
        let further = Append {
            since: Some(at(9)),
            ..append(20, 10, 11, Vec::new())
        };
        maintainer.append(further, &quiet).await.unwrap();
        assert_eq!(maintainer.progress().since, at(5));
        other.release().await.unwrap();
        assert_eq!(to(Frontier::Empty).await.unwrap().since, at(6));
        // A hold does not go back, nor does the since.
        hold.advance(at(1)).await.unwrap();
        assert_eq!(hold.info().unwrap().frontier, at(6));
        hold.release().await.unwrap();
        assert_eq!(to(at(4)).await.unwrap().since, at(6));
        assert_eq!(to(at(8)).await.unwrap().since, at(8));
        let refused = reader.hold("a", at(7), LEASE).await.unwrap_err();
        assert!(
            matches!(&refused, Error::BeforeSince { as_of: 7, since, .. } if *since == at(8)),
            "{refused}"
        );
    });
}

#[test]
fn r17_the_hold_of_a_dead_reader_lapses_for_each_observer_by_itself() {
    run(async {
        let (store, [reader, early]) = processes().await;
        bump(&reader, 0, 10).await;
        let hold = reader.hold("a", at(3), LEASE).await.unwrap();
        // As if the process had been killed.
        hold.leave();
        early.refresh().await.unwrap();
        tokio::time::sleep(LEASE / 2).await;
        let late = client_of(&store, 9).open_existing(URL).await.unwrap();
        tokio::time::sleep(LEASE / 2).await;
        assert!(early.holds()[0].lapsed && !late.holds()[0].lapsed);
        assert_eq!(
            late.advance_since(at(8), &quiet).await.unwrap().since,
            at(3)
        );
        assert_eq!(
            early.advance_since(at(5), &quiet).await.unwrap().since,
            at(5)
        );
        tokio::time::sleep(LEASE / 2).await;
        assert_eq!(
            late.advance_since(at(8), &quiet).await.unwrap().since,
            at(8)
        );
    });
}

#[test]
fn r17_a_renewed_hold_lives_and_a_late_owner_is_told() {
    run(async {
        let (_, [reader, rival]) = processes().await;
        let mut hold = reader.hold("a", at(0), LEASE).await.unwrap();
        let taken = rival.hold("a", at(0), LEASE).await.unwrap_err();
        assert!(matches!(taken, Error::HoldTaken { .. }), "{taken}");
        hold.renew_in_background();
        tokio::time::sleep(10 * LEASE).await;
        let taken = rival.hold("a", at(0), LEASE).await.unwrap_err();
        assert!(matches!(taken, Error::HoldTaken { .. }), "{taken}");
        let token = hold.leave();
        let resumed = reader.resume_hold(token.clone()).await.unwrap();
        tokio::time::sleep(2 * LEASE).await;
        rival.refresh().await.unwrap();
        tokio::time::sleep(2 * LEASE).await;
        // Lapsed, but nobody made use of that.
        resumed.renew().await.unwrap();
        rival.refresh().await.unwrap();
        tokio::time::sleep(LEASE).await;
        let mine = rival.hold("a", at(0), LEASE).await.unwrap();
        assert!(is_lost(resumed.renew().await));
        assert!(is_lost(resumed.advance(at(1)).await));
        assert!(resumed.info().is_none());
        assert!(is_lost(reader.resume_hold(token).await.map(drop)));
        resumed.release().await.unwrap();
        mine.renew().await.unwrap();
        // It starts again.
        let again = reader.hold_reader(at(0), LEASE).await.unwrap();
        assert_eq!(again.name(), "reader-1");
        again.renew().await.unwrap();
    });
}

#[test]
fn r17_a_late_owner_whose_since_was_passed_is_told() {
    run(async {
        let (_, [reader, maintainer]) = processes().await;
        bump(&reader, 0, 10).await;
        let hold = reader.hold("a", at(3), LEASE).await.unwrap();
        maintainer.refresh().await.unwrap();
        tokio::time::sleep(LEASE).await;
        maintainer.advance_since(at(8), &quiet).await.unwrap();
        assert!(is_lost(hold.renew().await));
    });
}

#[test]
fn r17_files_that_a_hold_pins_are_kept_until_it_ends() {
    run(async {
        let (store, [reader, maintainer]) = processes().await;
        let file = stage_nothing(&reader).await;
        let path = file.path.clone();
        let all = append(1, 0, 1, vec![file]);
        reader.append(all, &quiet).await.unwrap();
        let hold = reader.hold("a", at(0), LEASE).await.unwrap();
        let pinned = reader.pin();
        remove(&store, &maintainer, &path).await;
        let mut options = GcOptions::default();
        options.removed_grace = Duration::ZERO;
        options.orphan_min_age = Duration::ZERO;
        let report = maintainer.collect_garbage(&options, &|_| ()).await.unwrap();
        assert_eq!(report.removed.count, 0);
        assert_eq!(report.spared[&GcSpared::Held].names, [path.as_str()]);
        let held = pinned.files().next().unwrap();
        assert_eq!(
            reader.read_file(&held.path).await.unwrap().as_ref(),
            b"rows"
        );
        // Much later the tombstone is still known, through checkpoints as well, so it is no orphan.
        maintainer.checkpoint().await.unwrap();
        tokio::time::sleep(2 * LEASE).await;
        let mut dry = options.clone();
        dry.dry_run = true;
        let late = client_of(&store, 9).open_existing(URL).await.unwrap();
        for shard in [&maintainer, &late] {
            let report = shard.collect_garbage(&dry, &|_| ()).await.unwrap();
            assert_eq!(report.spared[&GcSpared::Held].count, 1);
            assert_eq!(report.orphans.count, 0);
        }
        let report = maintainer.collect_garbage(&options, &|_| ()).await.unwrap();
        assert_eq!(report.released_holds, ["a"]);
        assert_eq!(report.removed.names, [path.as_str()]);
        assert!(is_lost(hold.renew().await), "before it reads what is gone");
        assert!(matches!(
            reader.read_file(&path).await,
            Err(Error::MissingFile { .. })
        ));
        // Without a pin a hold keeps no file.
        let hold = reader.hold("b", at(0), LEASE).await.unwrap();
        let version = reader.progress().version;
        assert_eq!(hold.info().unwrap().pin, Some(version));
        bump(&maintainer, 1, 2).await;
        reader.refresh().await.unwrap();
        hold.pin(version + 9).await.unwrap();
        assert_eq!(hold.info().unwrap().pin, Some(version + 1));
        hold.unpin().await.unwrap();
        assert_eq!(hold.info().unwrap().pin, None);
    });
}

#[test]
fn r17_a_pin_keeps_nothing_that_its_version_had_lost() {
    run(async {
        let (store, [reader, maintainer]) = processes().await;
        let file = stage_nothing(&reader).await;
        let path = file.path.clone();
        reader
            .append(append(1, 0, 1, vec![file]), &quiet)
            .await
            .unwrap();
        let hold = reader.hold("a", at(0), LEASE).await.unwrap();
        remove(&store, &maintainer, &path).await;
        let removed_at = reader.refresh().await.unwrap().version;
        hold.pin(removed_at).await.unwrap();
        assert_eq!(hold.info().unwrap().pin, Some(removed_at));
        let mut options = GcOptions::default();
        options.removed_grace = Duration::ZERO;
        maintainer.refresh().await.unwrap();
        let report = maintainer.collect_garbage(&options, &|_| ()).await.unwrap();
        assert_eq!(report.removed.names, [path.as_str()]);
    });
}

/// A file whose rows add up to nothing, so that it can go without changing the data.
async fn stage_nothing(shard: &Shard) -> StagedFile {
    let meta = FileMeta {
        sums: Some(Sums::default()),
        ..FileMeta::default()
    };
    let rows = Bytes::from_static(b"rows");
    shard.put_file(rows, meta, &quiet).await.unwrap()
}

/// Removes a file as an optimize of another program does.
async fn remove(store: &dyn ObjectStore, shard: &Shard, path: &str) {
    let version = shard.refresh().await.unwrap().version + 1;
    let entry = format!(
        "{{\"remove\":{{\"path\":\"{path}\",\"deletionTimestamp\":1,\"dataChange\":false}}}}\n"
    );
    let name = format!("shard/_delta_log/{version:020}.json");
    store.put(&Path::from(name), entry.into()).await.unwrap();
    shard.refresh().await.unwrap();
}

#[test]
fn a_dropped_hold_is_released_and_names_are_used_again() {
    run(async {
        let (store, [shard]) = processes().await;
        let one = shard.hold_reader(at(0), LEASE).await.unwrap();
        let two = shard.hold_reader(at(0), LEASE).await.unwrap();
        assert_eq!((one.name(), two.name()), ("reader-1", "reader-2"));
        drop(one);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let again = shard.hold_reader(at(0), LEASE).await.unwrap();
        assert_eq!(again.name(), "reader-1");
        assert!(shard.release_hold("reader-2").await.unwrap());
        assert!(!shard.release_hold("reader-2").await.unwrap());
        assert!(!shard.release_hold("nobody").await.unwrap());
        assert!(is_lost(two.renew().await));
        // Holds survive checkpoints.
        shard.checkpoint().await.unwrap();
        let other = client_of(&store, 7).open_existing(URL).await.unwrap();
        assert_eq!(other.holds(), shard.holds());
        assert_eq!(other.holds().len(), 1);
        assert_eq!(other.holds()[0].lease, LEASE);
    });
}

#[test]
fn rivals_for_one_name_have_one_winner() {
    run(async {
        let (_, shards) = processes::<5>().await;
        let takes = shards.iter().map(|shard| shard.hold("a", at(0), LEASE));
        let taken = futures::future::join_all(takes).await;
        let mut winners = 0;
        for result in taken {
            match result {
                Ok(hold) => {
                    winners += 1;
                    hold.renew().await.unwrap();
                    hold.leave();
                }
                Err(Error::HoldTaken { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(winners, 1);
    });
}

#[test]
fn what_cannot_be_a_hold_or_a_since_is_refused_and_nothing_is_written() {
    run(async {
        let (_, [shard]) = processes().await;
        for name in ["", "a b", "ä", "a/b", &"x".repeat(101)] {
            let refused = shard.hold(name, at(0), LEASE).await.unwrap_err();
            assert!(matches!(refused, Error::HoldName { .. }), "{refused}");
        }
        for frontier in [at(-1), at(i64::MIN), at(i64::MAX), Frontier::Empty] {
            let refused = shard.hold("a", frontier, LEASE).await.unwrap_err();
            assert!(
                matches!(refused, Error::InvalidFrontier { .. }),
                "{refused}"
            );
        }
        for since in [at(-1), at(i64::MAX)] {
            let refused = shard.advance_since(since, &quiet).await.unwrap_err();
            assert!(
                matches!(refused, Error::InvalidFrontier { .. }),
                "{refused}"
            );
        }
        assert_eq!(shard.progress().version, 0);
        let name = "x".repeat(100);
        let hold = shard.hold(&name, at(0), Duration::MAX).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1 << 40)).await;
        hold.renew().await.unwrap();
    });
}

#[test]
fn the_since_that_a_retention_permits_is_limited_by_holds() {
    run(async {
        let (store, [shard]) = processes().await;
        for time in [0, 10, 20] {
            bump(&shard, time, time + 10).await;
        }
        let mut last = Retention::default();
        assert_eq!(shard.permitted_since(&last), at(0));
        last.times = Some(2);
        assert_eq!(shard.permitted_since(&last), at(19));
        last = Retention::default();
        last.time = Some(5);
        assert_eq!(shard.permitted_since(&last), at(25));
        let hold = shard.hold_since("a", at(12), LEASE).await.unwrap();
        assert_eq!(shard.permitted_since(&last), at(12));
        hold.release().await.unwrap();
        let since = shard.permitted_since(&last);
        assert_eq!(
            shard.advance_since(since, &quiet).await.unwrap().since,
            at(25)
        );
        let pinned = shard.pin();
        pinned.check_readable(25).unwrap();
        let early = pinned.check_readable(24).unwrap_err();
        assert!(
            matches!(early, Error::BeforeSince { as_of: 24, .. }),
            "{early}"
        );
        // After opening anew the history is short: nothing is given up that might be asked for.
        let other = client_of(&store, 7).open_existing(URL).await.unwrap();
        other.checkpoint().await.unwrap();
        let late = client_of(&store, 8).open_existing(URL).await.unwrap();
        let many = Retention {
            times: Some(3),
            ..Retention::default()
        };
        assert_eq!(late.permitted_since(&many), at(25));
    });
}
