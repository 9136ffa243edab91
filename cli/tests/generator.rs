//! The generator by number and by time, also far out, where times come in plateaus.

use mvsink_cli::nexmark::generator::{EVENTS_MAX, Event, Generator, Parameters, SEED_MAX};
use proptest::prelude::*;

fn generator(seed: u64) -> Generator {
    Generator::new(Parameters::new(seed).expect("a seed in range"))
}

/// Event numbers of every magnitude, the edges of single precision among them.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..2_000_000u64,
        (0..40u32, 0..64u64).prop_map(|(bits, offset)| (1u64 << bits).saturating_sub(32) + offset),
        0..EVENTS_MAX,
    ]
}

proptest! {
    #[test]
    fn times_never_decrease(number in number(), ahead in 0..5_000u64) {
        let generator = generator(0);
        prop_assert!(generator.date_time(number) <= generator.date_time(number + ahead));
    }

    #[test]
    fn first_at_splits_numbers_by_time(number in number(), after in -3..4i64) {
        let generator = generator(0);
        let time = generator.date_time(number) + after;
        let first = generator.first_at(time);
        prop_assert!(first == EVENTS_MAX || generator.date_time(first) >= time);
        prop_assert!(first == 0 || generator.date_time(first - 1) < time);
    }

    #[test]
    fn an_upper_covers_its_events_and_ends_a_millisecond(number in number()) {
        let generator = generator(0);
        let upper = generator.upper(number);
        let sealed = generator.first_at(upper);
        prop_assert!(sealed >= number);
        prop_assert_eq!(generator.upper(sealed), upper);
    }

    #[test]
    fn shares_of_workers_are_the_range_wherever_it_is_cut(
        start in prop_oneof![0..200u64, 16_777_200..16_777_300u64],
        length in 0..120u64,
        cuts in prop::collection::vec(0..120u64, 7),
        workers in 1..7usize,
        seed in 0..4u64,
    ) {
        let generator = generator(seed);
        let whole: Vec<_> = generator.events(start..start + length, 0, 1).collect();
        prop_assert_eq!(whole.len() as u64, length);
        let end = start + length;
        for (worker, cut) in cuts.into_iter().enumerate().take(workers) {
            // Each worker cuts the range in a place of its own.
            let cut = end.min(start + cut);
            let share: Vec<_> = generator
                .events(start..cut, worker, workers)
                .chain(generator.events(cut..end, worker, workers))
                .collect();
            let mine = (start..).zip(&whole).filter(|(n, _)| n % workers as u64 == worker as u64);
            let expected: Vec<_> = mine.map(|(_, event)| event.clone()).collect();
            prop_assert_eq!(share, expected);
        }
        for (number, event) in (start..).zip(&whole) {
            prop_assert_eq!(event.date_time(), generator.date_time(number));
        }
    }
}

#[test]
fn plateaus_appear_and_are_sealed_whole() {
    let generator = generator(0);
    let number = 1 << 34;
    let upper = generator.upper(number);
    assert!(
        generator.first_at(upper) > number,
        "times this far out come in plateaus"
    );
}

/// The crate's arithmetic on unsigned numbers, checked in debug builds, holds from the first event on, for
/// every admissible seed.
#[test]
fn no_event_overflows() {
    for seed in [0, 1, 7, 123_456, SEED_MAX] {
        let generator = generator(seed);
        for start in [0, (1 << 24) - 200, 50_000_000 - 200, EVENTS_MAX - 5_000] {
            let events: Vec<_> = generator.events(start..start + 400, 0, 1).collect();
            assert_eq!(events.len(), 400);
            assert!(events.iter().any(|event| matches!(event, Event::Person(_))));
            assert!(
                events
                    .iter()
                    .any(|event| matches!(event, Event::Auction(_)))
            );
            assert!(events.iter().all(|event| match event {
                Event::Bid(bid) => bid.auction >= 1000 && bid.bidder >= 1000 && bid.price > 0,
                Event::Auction(auction) =>
                    auction.id >= 1000 && auction.expires > auction.date_time,
                Event::Person(person) => person.id >= 1000,
            }));
        }
    }
    assert!(Parameters::new(SEED_MAX + 1).is_none());
}

#[test]
fn ids_are_unique() {
    let mut people = std::collections::BTreeSet::new();
    let mut auctions = std::collections::BTreeSet::new();
    for event in generator(3).events(0..50_000, 0, 1) {
        match event {
            Event::Person(person) => assert!(people.insert(person.id)),
            Event::Auction(auction) => assert!(auctions.insert(auction.id)),
            Event::Bid(_) => {}
        }
    }
    assert_eq!((people.len(), auctions.len()), (1_000, 3_000));
}

#[test]
fn ten_thousand_events_are_a_second_from_the_fixed_base_time() {
    let generator = generator(0);
    assert_eq!(generator.base_time(), 1_436_918_400_000);
    assert_eq!(generator.date_time(0), generator.base_time());
    assert_eq!(generator.date_time(10_000), generator.base_time() + 1_000);
    assert_eq!(generator.upper(0), generator.base_time());
    assert_eq!(generator.upper(1), generator.base_time() + 1);
    assert_eq!(generator.first_at(i64::MIN), 0);
    assert_eq!(generator.first_at(i64::MAX), EVENTS_MAX);
}

#[test]
fn the_sum_of_workers_that_exist_is_all_there_is() {
    let generator = generator(0);
    assert_eq!(generator.events(0..100, 2, 2).count(), 0);
    assert_eq!(generator.events(10..10, 0, 2).count(), 0);
}

#[test]
fn properties_tell_parameters_apart() {
    let (one, two) = (generator(1).parameters(), generator(2).parameters());
    let mut table = one.properties();
    table.insert("mvsink.format".into(), "1".into());
    assert_eq!(one.check(&table), Ok(()));
    let error = two.check(&table).expect_err("another seed");
    assert_eq!(error.property, "mvsink.nexmark.seed");
    assert_eq!(error.found.as_deref(), Some("1"));
    assert!(
        error
            .to_string()
            .contains("`mvsink.nexmark.seed` is `1`, but this run has 2")
    );
    table.remove("mvsink.nexmark.base_time");
    let error = one.check(&table).expect_err("not a table of the generator");
    assert_eq!(error.found, None);
    assert!(
        !one.properties()
            .keys()
            .any(|key| key.contains("events") && !key.ends_with("events_per_second"))
    );
}
