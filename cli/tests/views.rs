//! The views against an oracle: plain loops over the rows with time `≤ t`, at every `t` at which something can
//! change, for small random inputs in which windows, closings and registrations interleave.

mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use differential_dataflow::input::Input;
use mvsink_cli::nexmark::model::{Auction, Bid, Person};
use mvsink_cli::nexmark::views::{self, Rows};
use oracle::Row;
use proptest::prelude::*;

/// The sources' rows.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    bid: Vec<Bid>,
    auction: Vec<Auction>,
    person: Vec<Person>,
}

/// All updates of all views, consolidated: `(row, time) -> diff`.
type History = BTreeMap<(Row, u64), i64>;

/// Runs every view over `sources`, each row at its `date_time`, the frontier advancing to each of `steps`.
fn run(sources: &Sources, steps: &BTreeSet<u64>, workers: usize) -> History {
    let history = Arc::new(Mutex::new(History::new()));
    let (output, sources, steps) = (Arc::clone(&history), sources.clone(), steps.clone());
    timely::execute(timely::Config::process(workers), move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let output = Arc::clone(&output);
        let (mut bids, mut auctions, mut people) = worker.dataflow::<u64, _, _>(|scope| {
            let (bids, bid) = scope.new_collection();
            let (auctions, auction) = scope.new_collection();
            let (people, person) = scope.new_collection();
            let collect = |rows: Rows<'_, Row>| {
                let output = Arc::clone(&output);
                rows.inspect(move |(row, time, diff)| {
                    let mut history = output.lock().expect("no test thread has panicked");
                    *history.entry((row.clone(), *time)).or_default() += diff;
                });
            };
            collect(views::q0(bid.clone()).map(Row::Q0));
            collect(views::q1(bid.clone()).map(Row::Q1));
            collect(views::q2(bid.clone()).map(Row::Q2));
            collect(views::q3(auction.clone(), person.clone()).map(Row::Q3));
            collect(views::q4(auction.clone(), bid.clone()).map(Row::Q4));
            collect(views::q5(bid).map(Row::Q5));
            collect(views::q8(auction, person).map(Row::Q8));
            (bids, auctions, people)
        });
        let mut lower = 0;
        for upper in steps.iter().copied().chain([u64::MAX]) {
            let due = |time: i64| (lower..upper).contains(&(time as u64));
            for row in sources
                .bid
                .iter()
                .skip(index)
                .step_by(peers)
                .filter(|r| due(r.date_time))
            {
                bids.update_at(row.clone(), row.date_time as u64, 1);
            }
            for row in sources
                .auction
                .iter()
                .skip(index)
                .step_by(peers)
                .filter(|r| due(r.date_time))
            {
                auctions.update_at(row.clone(), row.date_time as u64, 1);
            }
            for row in sources
                .person
                .iter()
                .skip(index)
                .step_by(peers)
                .filter(|r| due(r.date_time))
            {
                people.update_at(row.clone(), row.date_time as u64, 1);
            }
            bids.advance_to(upper);
            auctions.advance_to(upper);
            people.advance_to(upper);
            bids.flush();
            auctions.flush();
            people.flush();
            worker.step();
            lower = upper;
        }
    })
    .expect("no worker panics");
    let mut history = std::mem::take(&mut *history.lock().expect("no test thread has panicked"));
    history.retain(|_, diff| *diff != 0);
    history
}

/// The contents at `time`: updates up to it, summed.
fn contents(history: &History, time: u64) -> BTreeMap<Row, i64> {
    let mut rows = BTreeMap::new();
    for ((row, _), diff) in history.iter().filter(|((_, at), _)| *at <= time) {
        *rows.entry(row.clone()).or_default() += diff;
    }
    rows.retain(|_, diff| *diff != 0);
    rows
}

/// Every time at which a view may change, and the millisecond before it.
fn interesting_times(sources: &Sources) -> BTreeSet<u64> {
    let mut times = BTreeSet::from([0, 200_000]);
    for bid in &sources.bid {
        let window = bid.date_time / 2_000 * 2_000;
        times.insert(bid.date_time);
        times.extend((0..5).map(|k| window - 2_000 * k + 40_000));
        times.insert(window + 10_000);
    }
    for auction in &sources.auction {
        times.extend([auction.date_time, auction.expires]);
    }
    times.extend(sources.person.iter().map(|person| person.date_time));
    let before: Vec<_> = times.iter().map(|time| time - 1).collect();
    times.extend(before);
    times
        .into_iter()
        .filter_map(|time: i64| u64::try_from(time).ok())
        .collect()
}

fn check(sources: &Sources, steps: &BTreeSet<u64>) {
    let history = run(sources, steps, 1);
    assert_eq!(history, run(sources, steps, 2), "one worker against two");
    for time in interesting_times(sources) {
        assert_eq!(
            contents(&history, time),
            oracle::views(sources, time as i64),
            "at {time}"
        );
    }
}

/// Few auctions, people and prices, so that there are ties and matches; times over five windows and more.
fn sources() -> impl Strategy<Value = Sources> {
    let time = || prop_oneof![3 => 0..12_000i64, 1 => 0..60_000i64];
    let bid = (120..130i64, 0..4i64, 1..2_000i64, time()).prop_map(
        |(auction, bidder, price, date_time)| Bid {
            auction,
            bidder,
            price,
            channel: "channel".into(),
            url: "url".into(),
            date_time,
            extra: "extra".into(),
        },
    );
    let auction = (time(), 0..30_000i64, 0..6i64, 9..12i64).prop_map(
        |(date_time, length, seller, category)| Auction {
            id: 0,
            item_name: "item".into(),
            description: "description".into(),
            initial_bid: 1,
            reserve: 2,
            date_time,
            expires: date_time + length,
            seller,
            category,
            extra: "extra".into(),
        },
    );
    let state = prop::sample::select(vec!["or", "id", "ca", "az", "OR"]);
    let person = (time(), state).prop_map(|(date_time, state)| Person {
        id: 0,
        name: "name".into(),
        email_address: "address".into(),
        credit_card: "card".into(),
        city: "city".into(),
        state: state.into(),
        date_time,
        extra: "extra".into(),
    });
    let bids = prop::collection::vec(bid, 0..60);
    let auctions = prop::collection::vec(auction, 0..10);
    let people = prop::collection::vec(person, 0..6);
    (bids, auctions, people).prop_map(|(mut bid, mut auction, mut person)| {
        bid.sort();
        bid.dedup();
        for (id, row) in auction.iter_mut().enumerate() {
            row.id = 120 + id as i64;
        }
        for (id, row) in person.iter_mut().enumerate() {
            row.id = id as i64;
        }
        Sources {
            bid,
            auction,
            person,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(mvsink_persist::testing::cases(96)))]

    #[test]
    fn views_agree_with_the_oracle_at_every_time(
        sources in sources(),
        steps in prop::collection::btree_set(0..70_000u64, 0..12),
    ) {
        check(&sources, &steps);
    }
}

/// The generator's own events, thinned out in time so that a minute of windows needs few of them.
#[test]
fn views_agree_with_the_oracle_on_generated_events() {
    use mvsink_cli::nexmark::generator::{Event, Generator, Parameters};
    const STRETCH: i64 = 200;
    let generator = Generator::new(Parameters::new(0).expect("a small seed"));
    let spread = |time: i64| (time - generator.base_time()) * STRETCH;
    let mut sources = Sources::default();
    for event in generator.events(0..3_000, 0, 1) {
        match event {
            Event::Bid(mut row) => {
                row.date_time = spread(row.date_time);
                sources.bid.push(row);
            }
            Event::Auction(mut row) => {
                row.date_time = spread(row.date_time);
                row.expires = spread(row.expires);
                sources.auction.push(row);
            }
            Event::Person(mut row) => {
                row.date_time = spread(row.date_time);
                sources.person.push(row);
            }
        }
    }
    let steps: BTreeSet<u64> = (0..60).map(|second| second * 1_000).collect();
    let history = run(&sources, &steps, 2);
    let mut seen = BTreeSet::new();
    for time in (0..=100_000)
        .step_by(2_000)
        .flat_map(|time| [time + 1_999, time + 2_000])
    {
        let contents = contents(&history, time);
        seen.extend(contents.keys().map(Row::view));
        assert_eq!(contents, oracle::views(&sources, time as i64), "at {time}");
    }
    assert_eq!(
        seen.len(),
        views::VIEWS.len(),
        "every view has rows at some time: {seen:?}"
    );
}

/// What a window will lose when it is dropped is there as soon as the window has rows.
#[test]
fn dropped_windows_are_retracted_ahead_of_time() {
    let bid = Bid {
        auction: 1,
        bidder: 1,
        price: 1,
        channel: String::new(),
        url: String::new(),
        date_time: 8_000,
        extra: String::new(),
    };
    let sources = Sources {
        bid: vec![bid],
        ..Sources::default()
    };
    let history = run(&sources, &BTreeSet::new(), 1);
    let drops: Vec<_> = history
        .iter()
        .filter(|((row, _), diff)| row.view() == "q5" && **diff < 0)
        .map(|((_, time), _)| *time)
        .collect();
    assert_eq!(drops, [40_000, 42_000, 44_000, 46_000, 48_000]);
}
