//! The states of mint, write and append, several workers and two rival instances of them, over a model
//! shard, under random schedules: slow channels, lost races, workers torn down, read-only instances,
//! instances that restart elsewhere, and a shard that begins wrong.
//!
//! Each schedule is drawn from one seed, which proptest prints and shrinks; `PROPTEST_CASES` sets how many.

mod model;

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
        prop::collection::vec(update, 0..6),
        prop::collection::vec(0..6u64, 2),
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |((seed, mode, workers, rivals), updates, wrong, as_ofs, flags)| Setup {
                seed,
                mode,
                workers,
                instances: rivals,
                updates,
                // An ingest shard has nothing to be compared with: it begins empty.
                wrong: if mode == Mode::View {
                    wrong
                } else {
                    Vec::new()
                },
                as_ofs,
                tear_down: flags.0,
                restart: flags.1,
                read_only: flags.2,
                full_read_back: flags.3,
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
        as_ofs: vec![0, 0],
        tear_down: false,
        restart: false,
        read_only: false,
        full_read_back: false,
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
