//! The states of mint, write and append, several workers and two rival instances of them, over a model
//! shard, under random schedules: slow channels, lost races, workers torn down, read-only instances,
//! instances that restart elsewhere, a shard that begins right, wrong or partly wrong, and a log that is cleaned up
//! under its readers.
//!
//! Each schedule is drawn from one seed, which proptest prints and shrinks; `PROPTEST_CASES` sets how many.

mod model;

use std::collections::BTreeSet;

use model::{Setup, World};
use mvsink::Mode;
use proptest::prelude::*;

fn setup() -> impl Strategy<Value = Setup> {
    let mode = prop_oneof![Just(Mode::View), Just(Mode::Ingest)];
    let update = (
        0..5u8,
        0..12u64,
        prop_oneof![Just(1i64), Just(1), Just(-1), Just(2)],
    );
    (
        (any::<u64>(), mode, 1..4usize, 1..3usize),
        prop::collection::vec(update.clone(), 0..30),
        (prop::collection::vec(update, 0..6), 0..6usize, 0..3u64),
        prop::collection::vec(0..6u64, 2),
        prop::array::uniform5(any::<bool>()),
    )
        .prop_map(
            |((seed, mode, workers, rivals), updates, held, as_ofs, flags)| {
                let [tear_down, restart, read_only, full_read_back, jumps] = flags;
                let (mut wrong, mut right, mut held_upper) = held;
                // A jump takes what is beyond its start for new: nothing may have been there before.
                if jumps {
                    held_upper = held_upper.max(1);
                    wrong.retain(|(_, time, _)| *time < held_upper);
                }
                // An ingest shard has nothing to be compared with: it begins empty.
                if mode == Mode::Ingest {
                    (wrong, right) = (Vec::new(), 0);
                }
                Setup {
                    seed,
                    mode,
                    workers,
                    instances: rivals,
                    updates,
                    wrong,
                    right,
                    held_upper,
                    as_ofs,
                    tear_down,
                    restart,
                    read_only,
                    full_read_back,
                    jumps,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Exact contents at each sealed time; lowers at the upper, strictly increasing; no staged time below
    /// its lower; no batch twice; no file left behind; and the end is reached.
    #[test]
    fn r18_r26_r27_rival_instances_keep_the_shard_exact(setup in setup()) {
        World::run(setup);
    }
}

fn quiet(mode: Mode) -> Setup {
    Setup {
        seed: 0,
        mode,
        workers: 2,
        instances: 1,
        updates: vec![(1, 0, 1), (2, 1, 1), (1, 3, -1), (3, 3, 2), (2, 7, -1)],
        wrong: Vec::new(),
        right: 0,
        held_upper: 1,
        as_ofs: vec![0, 0],
        tear_down: false,
        restart: false,
        read_only: false,
        full_read_back: false,
        jumps: false,
    }
}

#[test]
fn r06_when_one_replica_finishes_all_finish() {
    for seed in 0..200 {
        World::run(Setup {
            seed,
            instances: 2,
            ..quiet(Mode::View)
        });
    }
}

#[test]
fn r07_an_upper_below_the_as_of_is_passed() {
    for seed in 0..200 {
        World::run(Setup {
            seed,
            as_ofs: vec![5, 5],
            ..quiet(Mode::View)
        });
    }
}

#[test]
fn r26_two_replicas_with_different_as_ofs_write_the_view_once() {
    for seed in 0..500 {
        World::run(Setup {
            seed,
            instances: 2,
            as_ofs: vec![2, 5],
            ..quiet(Mode::View)
        });
    }
}

#[test]
fn r05_r27_a_torn_down_worker_never_completes_a_batch() {
    for seed in 0..500 {
        World::run(Setup {
            seed,
            instances: 2,
            workers: 3,
            tear_down: true,
            ..quiet(Mode::View)
        });
    }
}

#[test]
fn r08_a_read_only_instance_writes_nothing_and_wakes_up() {
    for seed in 0..200 {
        World::run(Setup {
            seed,
            read_only: true,
            ..quiet(Mode::View)
        });
    }
}

#[test]
fn a_restart_over_a_right_shard_reads_none_of_it() {
    for seed in 0..500 {
        let ran = World::run(Setup {
            seed,
            instances: 2,
            restart: true,
            ..quiet(Mode::View)
        });
        assert_eq!(ran.rows_read_at_start, 0, "seed {seed}");
    }
}

#[test]
fn a_restart_over_a_partly_wrong_shard_reads_what_differs() {
    let mut read = BTreeSet::new();
    for seed in 0..500 {
        let ran = World::run(Setup {
            seed,
            workers: 1,
            updates: (0..8).map(|row| (row, 0, 1)).collect(),
            right: 8,
            // The bucket of the odd rows.
            wrong: vec![(3, 0, 1)],
            ..quiet(Mode::View)
        });
        read.insert(ran.rows_read_at_start);
    }
    assert_eq!(read, BTreeSet::from([5]));
}

#[test]
fn rival_sources_make_the_same_events_definite_once() {
    for seed in 0..500 {
        World::run(Setup {
            seed,
            instances: 2,
            ..quiet(Mode::Ingest)
        });
    }
}

#[test]
fn one_seed_gives_one_trace() {
    let setup = Setup {
        seed: 11,
        instances: 2,
        tear_down: true,
        restart: true,
        ..quiet(Mode::View)
    };
    assert_eq!(World::run(setup.clone()), World::run(setup));
}
