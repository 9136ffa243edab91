//! What a sink says of itself; and what gates it.

use std::collections::BTreeMap;
use std::sync::Arc;

use differential_dataflow::input::InputSession;
use mvsink::{Frontier, Phase, Status, Target, no_errors, persist_sink, persist_source};
use mvsink_persist::testing::{Call, FaultyStore, GateStore, Side};
use mvsink_persist::{Append, CommitId, decode_file};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use timely::Config;

use super::{Replica, prepare, until};
use crate::support::{Driver, Row, at, is_data, read, runtime, step_until, view};

fn r12_r13_a_stalled_read_back_holds_up_neither_the_frontier_nor_the_truth(driver: Driver) {
    let runtime = runtime();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let gates = GateStore::new(Arc::clone(&inner));
    let writer = driver.contexts(&runtime, 1, inner).remove(0);
    let cx = driver.contexts(&runtime, 1, gates.clone()).remove(0);
    let url = "memory://shared";
    // Somebody's view of other words.
    prepare(&writer, url, 0, 10, &[(("zz".to_owned(), 1), 1)]);
    let gate = gates.hold(1, Side::Before, |call, path| {
        is_data(path) && matches!(call, Call::Get | Call::GetRange)
    });
    let gate = Arc::new(std::sync::Mutex::new(Some(gate)));
    let (check, barrier) = (writer.clone(), Arc::new(std::sync::Barrier::new(2)));
    let guards = timely::execute(Config::process(2), move |worker| {
        let mut replica = Replica::new(worker, &cx, &Target::new(url));
        if worker.index() == 0 {
            replica.insert("word");
        }
        replica.advance(20);
        let comparing = |replica: &Replica| {
            let status = replica.handle.status();
            let phase = Phase::Comparing;
            matches!(status, Status::Hydrating { phase: now, .. } if now == phase)
        };
        // The shard's upper and desired are past the as-of, and still it is not known what the shard holds.
        until(worker, || comparing(&replica));
        barrier.wait();
        // A rival goes on with the shard.
        if worker.index() == 0 {
            writer.client().handle().block_on(async {
                let shard = writer.client().open_existing(url).await.unwrap();
                let append = Append {
                    id: CommitId { nonce: 2, seq: 0 },
                    lower: Frontier::At(10),
                    upper: Frontier::At(15),
                    files: Vec::new(),
                    since: None,
                };
                shard.append(append, &|_| ()).await.unwrap();
            });
        }
        until(worker, || replica.upper() == Frontier::At(15));
        assert!(!replica.handle.is_hydrated());
        assert!(comparing(&replica));
        barrier.wait();
        drop(gate.lock().unwrap().take());
        until(worker, || replica.handle.is_hydrated());
        assert_eq!(
            step_until(worker, &replica.handle, Frontier::At(20)).to_string(),
            "running"
        );
        // Until the other one is there too.
        barrier.wait();
    });
    for worker in guards.unwrap().join() {
        worker.unwrap();
    }
    let (upper, stored) = read(&check, url);
    assert_eq!(upper, Frontier::At(20));
    assert_eq!(at(&stored, 19), BTreeMap::from([(("w".to_owned(), 1), 1)]));
}

fn a_store_that_refuses_at_the_start_is_named(driver: Driver) {
    let runtime = runtime();
    let faulty = FaultyStore::new(Arc::new(InMemory::new()), 131, 0);
    faulty.set_down(Some(Path::ROOT));
    let cx = driver.contexts(&runtime, 1, faulty.clone()).remove(0);
    timely::execute_directly(move |worker| {
        let mut replica = Replica::new(worker, &cx, &Target::new("memory://shared"));
        replica.advance(1);
        let refused = |on: &str| on.contains("503 Service Unavailable");
        until(worker, || {
            let status = replica.handle.status();
            matches!(status, Status::Stalled { on, .. } if refused(&on))
        });
        faulty.set_down(None);
        until(worker, || replica.is_at("running"));
        assert_eq!(replica.upper(), Frontier::At(1));
    });
}

fn r13_every_worker_is_hydrated_once_the_as_of_is_durable(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let barrier = Arc::new(std::sync::Barrier::new(4));
    let guards = timely::execute(Config::process(4), move |worker| {
        let mut replica = Replica::new(worker, &cx, &Target::new("memory://view"));
        assert!(!replica.handle.is_hydrated());
        if worker.index() == 0 {
            replica.insert("word");
        }
        // Not past the as-of.
        for _ in 0..50 {
            worker.step();
        }
        assert!(!replica.handle.is_hydrated());
        replica.advance(1);
        until(worker, || replica.handle.is_hydrated());
        assert_eq!(replica.upper(), Frontier::At(1));
        assert!(replica.is_at("running"));
        // Nobody stops before all are there.
        barrier.wait();
    });
    for worker in guards.unwrap().join() {
        worker.unwrap();
    }
}

fn a_store_that_does_not_answer_stalls_the_sink_by_name(driver: Driver) {
    let runtime = runtime();
    let gates = GateStore::new(Arc::new(InMemory::new()));
    let cx = driver.contexts(&runtime, 1, gates.clone()).remove(0);
    cx.configs().set("mvsink_stall_after_ms", "1").unwrap();
    timely::execute_directly(move |worker| {
        let staging = gates.hold(1, Side::Before, |call, path| {
            is_data(path) && matches!(call, Call::Put | Call::Create)
        });
        let mut replica = Replica::new(worker, &cx, &Target::new("memory://shared"));
        replica.insert("word");
        replica.advance(1);
        let stalled = |replica: &Replica| match replica.handle.status() {
            Status::Stalled { on, .. } => Some(on),
            _ => None,
        };
        let mut on = None;
        until(worker, || {
            on = stalled(&replica).filter(|on| on.starts_with("stage"));
            on.is_some()
        });
        assert_eq!(
            on.as_deref(),
            Some("stage: no answer from the store for 1 ms")
        );
        staging.release();
        until(worker, || {
            replica.upper() == Frontier::At(1) && stalled(&replica).is_none()
        });
        let commit = gates.hold_commit(1, Side::After);
        replica.advance(2);
        until(worker, || {
            stalled(&replica).is_some_and(|on| on.starts_with("commit"))
        });
        commit.release();
        until(worker, || {
            replica.upper() == Frontier::At(2) && replica.is_at("running")
        });
    });
}

#[test]
fn a_source_that_waits_for_its_hold_says_so() {
    let runtime = runtime();
    let gates = GateStore::new(Arc::new(InMemory::new()));
    let cx = Driver::Sync.contexts(&runtime, 1, gates.clone()).remove(0);
    let url = "memory://shared";
    prepare(&cx, url, 0, 3, &[(("row".to_owned(), 1), 1)]);
    cx.configs().set("mvsink_stall_after_ms", "1").unwrap();
    timely::execute_directly(move |worker| {
        let holding = gates.hold_commit(1, Side::Before);
        let handle = worker.dataflow::<u64, _, _>(|scope| {
            let source = persist_source::<Row, String, u64, i64>(&cx, scope, "source", url, 2);
            source.unwrap().handle
        });
        until(worker, || match handle.status() {
            Status::Stalled { on, .. } => on.starts_with("hold: no answer from the store"),
            status => {
                assert!(!status.is_final(), "{status}");
                false
            }
        });
        holding.release();
        until(worker, || matches!(handle.status(), Status::Running));
        // A source that is stopped lets no frontier pass.
        drop(handle);
        worker.drop_dataflow(worker.installed_dataflows()[0]);
    });
}

fn a_sink_tells_how_far_its_hydration_is(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    timely::execute_directly(move |worker| {
        let (mut words, handle) = worker.dataflow(|scope| {
            let mut words = InputSession::new();
            let rows = view(words.to_collection(scope));
            let errors = no_errors::<u64, String, i64>(scope);
            let handle = persist_sink(&cx, "view", "memory://view", rows, errors, 10).unwrap();
            (words, handle)
        });
        let (seen, collected) = std::sync::mpsc::channel();
        let mut statuses = handle.status_stream();
        cx.client().handle().spawn(async move {
            while statuses.changed().await.is_ok() {
                let _ = seen.send(statuses.borrow_and_update().to_string());
            }
        });
        let mut letters = (b'a'..=b'e').map(|letter| char::from(letter).to_string());
        for (time, word) in (0..5).zip(&mut letters) {
            words.update_at(word, time, 1);
        }
        words.advance_to(5);
        words.flush();
        let is_at = |status: &str| handle.status().to_string() == status;
        until(worker, || is_at("hydrating: computing, 5 updates so far"));
        words.advance_to(11);
        words.flush();
        until(worker, || is_at("running"));
        assert!(handle.is_hydrated());
        words.close();
        until(worker, || is_at("finished"));
        drop(handle);
        let mut told = Vec::new();
        while told.last().is_none_or(|last| last != "finished") {
            told.push(collected.recv().unwrap());
        }
    });
}

fn a_second_sink_of_one_name_on_one_shard_is_refused(driver: Driver) {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let (cx, path) = (driver.context(&runtime), dir.path().to_owned());
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let guards = timely::execute(Config::process(2), move |worker| {
        let direct = path.join("view").to_str().unwrap().to_owned();
        let roundabout = path.join("./view/").to_str().unwrap().to_owned();
        let mut first = Replica::new(worker, &cx, &Target::new(&direct[..]));
        let second = Replica::new(worker, &cx, &Target::new(&roundabout[..]));
        let Status::Failed { error } = second.handle.status() else {
            panic!("{}", second.handle.status())
        };
        let expected = format!(
            "there is a sink view on {roundabout} already: drop its handle first, or give this one another name"
        );
        assert_eq!(error.to_string(), expected);
        // Another name is another sink, another shard as well.
        let rival = Replica::with(worker, &cx, "rival", &Target::new(&direct[..]), |row| row);
        let beside = path.join("beside").to_str().unwrap().to_owned();
        let beside = Replica::new(worker, &cx, &Target::new(beside));
        for replica in [&rival, &beside] {
            assert!(
                !replica.handle.status().is_final(),
                "{}",
                replica.handle.status()
            );
        }
        barrier.wait();
        drop((rival.handle, beside.handle, second.handle));
        first.advance(1);
        until(worker, || first.upper() == Frontier::At(1));
        // One that has ended is in nobody's way.
        drop(first.handle);
        let mut again = Replica::new(worker, &cx, &Target::new(&direct[..]));
        again.advance(2);
        until(worker, || again.upper() == Frontier::At(2));
    });
    for worker in guards.unwrap().join() {
        worker.unwrap();
    }
}

fn both_frontiers_gate_and_errors_are_rows_with_the_error_column(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let url = "memory://mixed";
    let sink = cx.clone();
    timely::execute_directly(move |worker| {
        let (mut ok, mut err, handle) = worker.dataflow(|scope| {
            let (mut ok, mut err) = (InputSession::new(), InputSession::new());
            let (rows, errors) = (ok.to_collection(scope), err.to_collection(scope));
            let handle = persist_sink(&sink, "mixed", url, rows, errors, 0).unwrap();
            (ok, err, handle)
        });
        ok.update_at(("row".to_owned(), 1i64), 0u64, 1i64);
        err.update_at("division by zero".to_owned(), 1, 1);
        // Whichever lags holds the upper.
        for (ok_to, err_to, upper) in [(9, 2, 2), (9, 9, 9), (12, 20, 12), (20, 20, 20)] {
            ok.advance_to(ok_to);
            err.advance_to(err_to);
            ok.flush();
            err.flush();
            step_until(worker, &handle, Frontier::At(upper));
            for _ in 0..50 {
                worker.step();
            }
            assert_eq!(handle.frontier(), Frontier::At(upper));
        }
    });
    let client = cx.client();
    let stored = client.handle().block_on(async {
        let shard = client.open_existing(url).await.unwrap();
        let mut stored = Vec::new();
        for file in shard.pin().files() {
            let bytes = shard.read_file(&file.path).await.unwrap();
            stored.extend(decode_file(&file.path, bytes, None, 64).unwrap());
        }
        stored
    });
    let mut errors = 0;
    for batch in stored {
        let batch = batch.unwrap();
        let (column, data) = (batch.column_by_name("mv_error").unwrap(), batch.column(0));
        for row in 0..batch.num_rows() {
            assert_ne!(column.is_null(row), data.is_null(row), "a row or an error");
            if !column.is_null(row) {
                errors += 1;
                let text = format!("{:?}", column.slice(row, 1));
                assert!(text.contains("division by zero"), "{text}");
            }
        }
    }
    assert_eq!(errors, 1);
}

on_both_drivers! {
    a_store_that_refuses_at_the_start_is_named,
    r12_r13_a_stalled_read_back_holds_up_neither_the_frontier_nor_the_truth,
    r13_every_worker_is_hydrated_once_the_as_of_is_durable,
    a_store_that_does_not_answer_stalls_the_sink_by_name,
    a_sink_tells_how_far_its_hydration_is,
    a_second_sink_of_one_name_on_one_shard_is_refused,
    both_frontiers_gate_and_errors_are_rows_with_the_error_column,
}
