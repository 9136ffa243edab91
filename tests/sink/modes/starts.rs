//! As-ofs beside sinces and uppers.

use std::collections::BTreeMap;

use mvsink::{Status, Target};

use super::prepare;
use crate::support::{Driver, Program, Row, assert_exact, at, execute, read, runtime, words};

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
    a_shard_that_was_deleted_and_created_again_is_written_from_its_beginning,
}
