//! The demo's input: the events of the `nexmark` crate, addressed by number and by event time.
//!
//! Events are numbered from 0. Event `n` and its time depend on the [`Parameters`] and on `n` alone, so any
//! worker can make any event at any moment, and a run that resumes makes exactly the events that are missing.
//!
//! The time of an event never decreases with its number, and is computed in single precision by the crate:
//! from about 16 million events on, neighbouring numbers share times in ever larger plateaus. Hence nothing
//! here inverts a time by arithmetic; [`Generator::first_at`] searches.
//!
//! Only whole milliseconds can be sealed. [`Generator::upper`] of `n` events is one past the time of the last
//! of them, and what is written for it is every event below that time: `n` events, or slightly more.

use std::collections::BTreeMap;
use std::ops::Range;

use nexmark::EventGenerator;
use nexmark::config::{NexmarkConfig, RateShape};

use super::model::{Auction, Bid, Person};

/// Time of the first event: a fixed moment, so that every run is the same run.
const BASE_TIME_MS: u64 = 1_436_918_400_000;
/// Events per second of event time.
const EVENTS_PER_SECOND: usize = 10_000;
/// Distance between the first event ids of neighbouring seeds. A multiple of the generator's cycles (of 50
/// events, of 100 auctions and of 100 people): other offsets make it repeat ids or compute them below zero.
const SEED_STRIDE: u64 = 50_000_000;
/// What table properties of the generator begin with.
const PROPERTY_PREFIX: &str = "mvsink.nexmark.";

/// The greatest number of events: far within the range where the generator's arithmetic cannot overflow.
pub const EVENTS_MAX: u64 = 1 << 40;
/// The greatest seed: its first event id leaves room for [`EVENTS_MAX`] events in an `i64`.
pub const SEED_MAX: u64 = (i64::MAX as u64 - 2 * EVENTS_MAX) / SEED_STRIDE;

/// What determines the events, but not how many of them there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    seed: u64,
}

/// A table was written with other generator parameters than those asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the table property `{property}` is {}, but this run has {expected}: use the parameters the table was \
     made with, or another directory",
    found.as_ref().map_or_else(|| "not set".to_owned(), |found| format!("`{found}`"))
)]
pub struct ParameterMismatch {
    /// The property that differs.
    pub property: String,
    /// Its value in the table, if it has one.
    pub found: Option<String>,
    /// Its value in this run.
    pub expected: String,
}

impl Parameters {
    /// The parameters for a seed; `None` if it is beyond [`SEED_MAX`].
    pub fn new(seed: u64) -> Option<Self> {
        (seed <= SEED_MAX).then_some(Parameters { seed })
    }

    /// The parameters as table properties, `mvsink.nexmark.*`.
    pub fn properties(&self) -> BTreeMap<String, String> {
        [
            ("base_time", BASE_TIME_MS.to_string()),
            ("events_per_second", EVENTS_PER_SECOND.to_string()),
            ("seed", self.seed.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (format!("{PROPERTY_PREFIX}{name}"), value))
        .collect()
    }

    /// Checks that a table with these properties was written with the same parameters.
    ///
    /// # Errors
    ///
    /// The first parameter, in the order of their names, that is absent or has another value.
    pub fn check(&self, table: &BTreeMap<String, String>) -> Result<(), ParameterMismatch> {
        for (property, expected) in self.properties() {
            let found = table.get(&property);
            if found != Some(&expected) {
                return Err(ParameterMismatch {
                    found: found.cloned(),
                    property,
                    expected,
                });
            }
        }
        Ok(())
    }

    fn config(&self) -> NexmarkConfig {
        NexmarkConfig {
            base_time: BASE_TIME_MS,
            first_event_id: (self.seed * SEED_STRIDE) as usize,
            first_event_number: 0,
            // One group of one: events come in the order of their times.
            out_of_order_group_size: 1,
            num_event_generators: 1,
            rate_shape: RateShape::Square,
            first_rate: EVENTS_PER_SECOND,
            next_rate: EVENTS_PER_SECOND,
            us_per_unit: 1_000_000,
            ..NexmarkConfig::default()
        }
    }
}

/// One event: a row of one of the three source tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A row of `bid`.
    Bid(Bid),
    /// A row of `auction`.
    Auction(Auction),
    /// A row of `person`.
    Person(Person),
}

impl Event {
    /// The event's time, in milliseconds since the Unix epoch.
    pub fn date_time(&self) -> i64 {
        match self {
            Event::Bid(bid) => bid.date_time,
            Event::Auction(auction) => auction.date_time,
            Event::Person(person) => person.date_time,
        }
    }
}

/// The generator of the demo's events.
///
/// Cheap to share, since it is never advanced: every method addresses events by number or by time.
#[derive(Clone, Debug)]
pub struct Generator {
    parameters: Parameters,
    origin: EventGenerator,
}

impl Generator {
    /// A generator with these parameters.
    pub fn new(parameters: Parameters) -> Self {
        Generator {
            parameters,
            origin: EventGenerator::new(parameters.config()),
        }
    }

    /// The parameters that determine the events.
    pub fn parameters(&self) -> Parameters {
        self.parameters
    }

    /// The time of the first event, the least of all times.
    pub fn base_time(&self) -> i64 {
        BASE_TIME_MS as i64
    }

    /// The time of event `number`, in milliseconds since the Unix epoch. Never decreases with `number`.
    pub fn date_time(&self, number: u64) -> i64 {
        Clock::at(&self.origin).date_time(number)
    }

    /// The frontier that `events` events can be sealed up to: one past the time of the last of them, and the
    /// time of the first if there are none.
    pub fn upper(&self, events: u64) -> i64 {
        match events.checked_sub(1) {
            Some(last) => self.date_time(last) + 1,
            None => self.base_time(),
        }
    }

    /// The number of the first event at or after `time`; [`EVENTS_MAX`] if all before that one are earlier.
    ///
    /// Events `self.first_at(a)..self.first_at(b)` are exactly those with a time in `a..b`.
    pub fn first_at(&self, time: i64) -> u64 {
        let mut clock = Clock::at(&self.origin);
        // Events below `low` are earlier than `time`, those from `high` on are not.
        let (mut low, mut high) = (0, EVENTS_MAX);
        while low < high {
            let middle = low + (high - low) / 2;
            if clock.date_time(middle) < time {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The share of one worker in the events with these numbers, in order: those whose number is `worker` modulo
    /// `workers`.
    ///
    /// So the shares of workers `0..workers` are disjoint, and together they are all events, even if each worker
    /// cuts the events into ranges of its own. A worker that does not exist (`worker >= workers`) has no share.
    pub fn events(
        &self,
        numbers: Range<u64>,
        worker: usize,
        workers: usize,
    ) -> impl Iterator<Item = Event> + use<> {
        let (worker, workers) = (worker as u64, workers as u64);
        // Not counted from the start of the range, which is another on every worker.
        let turn = (worker + workers.max(1) - numbers.start % workers.max(1)) % workers.max(1);
        let first = numbers.start.saturating_add(turn);
        let end = numbers.end.min(EVENTS_MAX);
        let count = if worker < workers {
            end.saturating_sub(first).div_ceil(workers)
        } else {
            0
        };
        self.origin
            .clone()
            .with_offset(first)
            .with_step(workers.max(1))
            .take(usize::try_from(count).unwrap_or(usize::MAX))
            .map(Event::from)
    }
}

/// Reads the times of events without making the events.
struct Clock(Option<EventGenerator>);

impl Clock {
    fn at(origin: &EventGenerator) -> Self {
        Clock(Some(origin.clone()))
    }

    fn date_time(&mut self, number: u64) -> i64 {
        // The crate moves a generator only by value: it leaves its place for the length of this call.
        let Some(generator) = self.0.take() else {
            return BASE_TIME_MS as i64;
        };
        let generator = generator.with_offset(number.min(EVENTS_MAX));
        let time = generator.timestamp();
        self.0 = Some(generator);
        time as i64
    }
}

impl From<nexmark::event::Event> for Event {
    /// Takes over the generator's event. Its unsigned numbers are all far below `i64::MAX`, by the bounds on
    /// seeds and event numbers.
    fn from(event: nexmark::event::Event) -> Self {
        match event {
            nexmark::event::Event::Bid(bid) => Event::Bid(Bid {
                auction: bid.auction as i64,
                bidder: bid.bidder as i64,
                price: bid.price as i64,
                channel: bid.channel,
                url: bid.url,
                date_time: bid.date_time as i64,
                extra: bid.extra,
            }),
            nexmark::event::Event::Auction(auction) => Event::Auction(Auction {
                id: auction.id as i64,
                item_name: auction.item_name,
                description: auction.description,
                initial_bid: auction.initial_bid as i64,
                reserve: auction.reserve as i64,
                date_time: auction.date_time as i64,
                expires: auction.expires as i64,
                seller: auction.seller as i64,
                category: auction.category as i64,
                extra: auction.extra,
            }),
            nexmark::event::Event::Person(person) => Event::Person(Person {
                id: person.id as i64,
                name: person.name,
                email_address: person.email_address,
                credit_card: person.credit_card,
                city: person.city,
                state: person.state,
                date_time: person.date_time as i64,
                extra: person.extra,
            }),
        }
    }
}
