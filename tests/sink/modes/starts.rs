//! As-ofs beside sinces and uppers.

use std::collections::BTreeMap;

use differential_dataflow::input::InputSession;
use mvsink::{Mode, Status, Target, no_errors, persist_sink};

use super::prepare;
use crate::support::{
    Driver, Program, Row, assert_exact, at, execute, read, runtime, until, view, words,
};

fn r04_r07_r16_an_as_of_stands_anywhere_beside_since_and_upper(driver: Driver) {
    let runtime = runtime();
    let updates = words(101, 200, 20);
    let wrong = [(("a".to_owned(), 1), 1), (("zz".to_owned(), 7), 3)];
    for (since, upper) in [(0, 1), (0, 6), (4, 6), (5, 6)] {
        for as_of in [0, 3, 5, 6, 9] {
            let cx = driver.context(&runtime);
            let url = "memory://view";
            prepare(&cx, url, since, upper, &wrong);
            let program = Program {
                as_of,
                ..Program::new(updates.clone())
            };
            let status = execute(2, &cx, &Target::new(url), &program);
            assert!(matches!(status, Status::Finished), "{status}");
            // From the upper on it is the view, or from a later as-of on.
            assert_exact(&cx, url, &updates, as_of.max(upper as u64));
            let (_, stored) = read(&cx, url);
            let before: BTreeMap<Row, i64> = wrong.iter().cloned().collect();
            for time in upper as u64..as_of {
                assert_eq!(
                    at(&stored, time),
                    before,
                    "{since} {upper} {as_of} at {time}"
                );
            }
        }
    }
}

/// A host may begin again while it still holds the handles of a run that has ended.
fn a_dataflow_that_is_run_again_has_sinks_of_its_own(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let target = Target::new("memory://view");
    let (context, ingest) = (cx.clone(), target.clone().mode(Mode::Ingest));
    // It would have to seal times of which it knows nothing.
    let old = timely::execute_directly(move |worker| {
        let (_input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::<u64, String, i64>::new();
            let view = view(input.to_collection(scope));
            let errors = no_errors::<u64, String, i64>(scope);
            let handle = persist_sink(&context, "view", ingest, view, errors, 5).unwrap();
            (input, handle)
        });
        until(worker, || matches!(handle.status(), Status::Failed { .. }));
        handle
    });
    let updates = words(131, 200, 20);
    let program = Program::new(updates.clone());
    let status = execute(2, &cx, &target, &program);
    assert!(matches!(status, Status::Finished), "{status}");
    assert!(matches!(old.status(), Status::Failed { .. }));
    assert_exact(&cx, &target.url, &updates, 0);
}

fn a_shard_that_was_deleted_and_created_again_is_written_from_its_beginning(driver: Driver) {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    let target = Target::new(path.to_str().unwrap());
    let updates = words(103, 200, 20);
    for as_of in [0, 12] {
        // What was there is gone, and nothing of it is remembered.
        let cx = driver.context(&runtime);
        let program = Program {
            as_of,
            ..Program::new(updates.clone())
        };
        let status = execute(2, &cx, &target, &program);
        assert!(matches!(status, Status::Finished), "{status}");
        assert_exact(&cx, &target.url, &updates, as_of);
        std::fs::remove_dir_all(&path).unwrap();
    }
}

on_both_drivers! {
    r04_r07_r16_an_as_of_stands_anywhere_beside_since_and_upper,
    a_dataflow_that_is_run_again_has_sinks_of_its_own,
    a_shard_that_was_deleted_and_created_again_is_written_from_its_beginning,
}
