//! The states of mint, write and append, several workers and two rival instances of them, over a model
//! shard, under random schedules: slow channels, lost races, workers torn down, read-only instances,
//! instances that restart elsewhere, a shard that begins right, wrong or partly wrong, and a log that is cleaned up
//! under its readers.
//!
//! Each schedule is drawn from one seed, which proptest prints and shrinks; `PROPTEST_CASES` sets how many.

mod model;

use std::collections::BTreeSet;

use model::{Setup, World};
use mvsink::{Mode, Refresh};
use proptest::prelude::*;

fn refresh() -> impl Strategy<Value = Refresh> {
    let every = (1..6i64, 0..6i64).prop_map(|(interval, origin)| Refresh::every(interval, origin));
    let at = prop::collection::vec(0..16i64, 1..4).prop_map(Refresh::at);
    let both = (every.clone(), at.clone()).prop_map(|(every, at)| every.and(at));
    prop_oneof![3 => Just(Refresh::on_commit()), 1 => every, 1 => at, 1 => both]
}

fn setup() -> impl Strategy<Value = Setup> {
    let mode = prop_oneof![Just(Mode::View), Just(Mode::Ingest)];
    let update = (
        0..5u8,
        0..12u64,
        prop_oneof![Just(1i64), Just(1), Just(-1), Just(2)],
    );
    let before = (
        prop::collection::vec(update.clone(), 0..6),
        0..6u64,
        0..6u64,
    );
    let schedule = (refresh(), prop::option::of(1..16u64));
    let standby = prop::option::of(0..200u64);
    (
        (any::<u64>(), mode, 1..4usize, 1..3usize),
        prop::collection::vec(update, 0..30),
        (before, 0..6usize),
        (schedule, standby),
        prop::collection::vec(0..8u64, 2),
        prop::array::uniform5(any::<bool>()),
        (0..3u8, 0..3u8),
    )
        .prop_map(|(drawn, updates, before, modes, as_ofs, flags, trouble)| {
            let (seed, mode, workers, instances) = drawn;
            let ((mut wrong, mut since, mut held_upper), mut right) = before;
            let [tear_down, restart, read_only, full_read_back, jumps] = flags;
            let ((refresh, until), standby) = modes;
            let is_view = mode == Mode::View;
            // A jump takes what is beyond its start for new: nothing may have been there before.
            if jumps {
                held_upper = held_upper.max(1);
                since = since.min(held_upper - 1);
                wrong.retain(|(_, time, _)| *time < held_upper);
            }
            // An ingest shard has nothing to be compared with: it begins empty.
            if !is_view {
                (wrong, right, held_upper) = (Vec::new(), 0, 0);
            }
            since = since.min(held_upper);
            Setup {
                seed,
                mode,
                workers,
                instances,
                updates,
                differing: Vec::new(),
                wrong,
                right,
                since,
                held_upper,
                refresh: if is_view {
                    refresh
                } else {
                    Refresh::on_commit()
                },
                until,
                as_ofs,
                tear_down,
                restart,
                read_only,
                standby,
                full_read_back,
                ahead: true,
                jumps,
                vanish: trouble.0,
                late: if restart { trouble.1 } else { 0 },
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Exact contents at each sealed time; lowers at the upper, strictly increasing; no staged time below
    /// its lower; no batch twice; no file left behind; the end is reached; and nobody takes a rival that computes
    /// the same for one that does not.
    #[test]
    fn r18_r26_r27_rival_instances_keep_the_shard_exact(setup in setup()) {
        let ran = World::run(setup);
        prop_assert!(!ran.disputed, "r25: rivals that agree dispute nothing");
    }
}

fn quiet(mode: Mode) -> Setup {
    Setup {
        updates: vec![(1, 0, 1), (2, 1, 1), (1, 3, -1), (3, 3, 2), (2, 7, -1)],
        as_ofs: vec![0, 0],
        ahead: true,
        ..Setup::quiet(mode, 2)
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
            held_upper: 1,
            // The bucket of the odd rows.
            wrong: vec![(3, 0, 1)],
            ..quiet(Mode::View)
        });
        read.insert(ran.rows_read_at_start);
    }
    assert_eq!(read, BTreeSet::from([5]));
}

#[test]
fn what_is_staged_ahead_is_committed_once_or_recalled() {
    let (mut staged, mut recalled) = (0, 0);
    for seed in 0..2000 {
        let ran = World::run(Setup {
            seed,
            instances: 1 + usize::try_from(seed % 2).unwrap(),
            updates: (0..5)
                .flat_map(|row| [(row, 0, 1), (row, row.into(), 1)])
                .collect(),
            read_only: seed % 2 == 0,
            tear_down: seed % 5 == 0,
            restart: seed % 7 == 0,
            ..quiet(Mode::View)
        });
        staged += ran.staged_ahead;
        recalled += ran.recalled;
    }
    println!("{staged} files were staged ahead, {recalled} of them recalled");
    assert!(
        recalled > 500 && staged > 2 * recalled,
        "{staged}, {recalled}"
    );
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

/// Something changes at each of many times.
fn busy() -> Setup {
    let updates =
        (0..400u64).map(|time| ((time % 5) as u8, time, if time % 10 < 5 { 1 } else { -1 }));
    Setup {
        updates: updates.collect(),
        ..quiet(Mode::View)
    }
}

#[test]
fn r04_r07_r16_an_as_of_stands_anywhere_beside_since_and_upper() {
    for (upper, since, as_of) in (0..5u64).flat_map(|upper| {
        (0..=upper).flat_map(move |since| (0..7u64).map(move |as_of| (upper, since, as_of)))
    }) {
        for seed in 0..6 {
            let wrong = vec![(1, 0, 1), (2, upper.saturating_sub(1), 3), (4, since, -1)];
            World::run(Setup {
                seed,
                wrong: if upper > 0 { wrong } else { Vec::new() },
                since,
                held_upper: upper,
                as_ofs: vec![as_of, as_of],
                ..quiet(Mode::View)
            });
        }
    }
}

#[test]
fn a_refresh_schedule_rounds_the_as_of_the_data_and_the_frontiers() {
    for seed in 0..200 {
        for (refresh, as_of) in [
            (Refresh::every(3, 1), 0),
            (Refresh::every(5, 0).and(Refresh::at([6])), 4),
            (Refresh::at([2, 5, 9]), 3),
        ] {
            World::run(Setup {
                seed,
                instances: 2,
                refresh,
                as_ofs: vec![as_of, as_of + 1],
                ..quiet(Mode::View)
            });
        }
    }
}

#[test]
fn a_sink_that_begins_beyond_its_last_time_ends_no_shard_that_lacks_it() {
    for (seed, held_upper) in (0..50).flat_map(|seed| (0..5).map(move |upper| (seed, upper))) {
        let late = Setup {
            seed,
            held_upper,
            as_ofs: vec![4, 4],
            ..quiet(Mode::View)
        };
        let until = Setup {
            until: Some(3),
            ..late.clone()
        };
        let refreshed = Setup {
            refresh: Refresh::at([0, 2]),
            ..late
        };
        for setup in [until, refreshed] {
            let ends = format!("append 0: {held_upper}..(empty) [] at {held_upper}");
            let expected = (held_upper > 2).then_some(ends);
            assert_eq!(World::run(setup).trace, Vec::from_iter(expected));
        }
    }
}

#[test]
fn until_ends_the_shard_with_the_contents_before_it() {
    for mode in [Mode::View, Mode::Ingest] {
        for (seed, until) in (0..40).flat_map(|seed| [1, 4, 7, 20].map(|until| (seed, until))) {
            World::run(Setup {
                seed,
                instances: 2,
                until: Some(until),
                ..quiet(mode)
            });
        }
    }
}

#[test]
fn r08_promoted_and_demoted_instances_write_only_while_they_may() {
    for seed in 0..300 {
        World::run(Setup {
            seed,
            instances: 2,
            read_only: true,
            ..busy()
        });
    }
}

#[test]
fn with_standby_almost_nothing_is_staged_twice() {
    let lost = |standby| {
        let run = |seed| {
            World::run(Setup {
                seed,
                instances: 2,
                standby,
                ..busy()
            })
        };
        (0..20).map(|seed| run(seed).lost).sum::<usize>()
    };
    let (without, with) = (lost(None), lost(Some(10_000_000)));
    println!("lost with standby {with}, without {without}");
    assert!(
        with * 5 < without,
        "{with} batches lost with standby, {without} without"
    );
}

#[test]
fn a_replica_that_stands_by_takes_over_from_one_that_is_gone() {
    for seed in 0..200 {
        // The first instance has a worker torn down at some time: it never completes a batch any more.
        World::run(Setup {
            seed,
            instances: 2,
            tear_down: true,
            standby: Some(300),
            ..busy()
        });
    }
}

#[test]
fn r25_replicas_that_compute_different_results_are_found_out() {
    let found = (0..100).filter(|seed| {
        let differing = (0..400).step_by(20).map(|time| (9, time, 1));
        let ran = World::run(Setup {
            seed: *seed,
            instances: 2,
            differing: differing.collect(),
            ..busy()
        });
        ran.disputed
    });
    let found = found.count();
    println!("found in {found} of 100");
    assert!(found > 80, "{found} of 100");
}
