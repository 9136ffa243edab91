//! Times the demo's views alone, without sources or sinks: `cargo run --release --example views_timing --
//! [EVENTS] [WORKERS] [EVENTS PER STEP]`, by default 1,000,000 events, 2 workers and steps of 10,000 events.
//!
//! Each view gets the events already made, in memory. The frontier advances after each step, and the next one
//! follows without waiting for the views, up to a bound. Prints seconds and output updates for each view, and for
//! all of them in one dataflow.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use differential_dataflow::input::Input;
use mvsink_cli::nexmark::generator::{Event, Generator, Parameters};
use mvsink_cli::nexmark::views::{self, Rows, VIEWS};
use timely::dataflow::operators::probe;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<u64>());
    let events = numbers.next().transpose()?.unwrap_or(1_000_000);
    let workers = usize::try_from(numbers.next().transpose()?.unwrap_or(2))?;
    let step = numbers.next().transpose()?.unwrap_or(10_000).max(1);
    println!("{events} events, {workers} workers, steps of {step} events");
    for view in VIEWS {
        time(&[view], events, workers, step)?;
    }
    time(&VIEWS, events, workers, step)
}

/// Runs the named views over the events in one dataflow and prints a line.
fn time(names: &[&'static str], events: u64, workers: usize, step: u64) -> Result<(), Error> {
    let parameters = Parameters::new(0).ok_or("no such seed")?;
    let results = Arc::new(Mutex::new((0f64, 0u64)));
    let shared = Arc::clone(&results);
    let selected = names.to_vec();
    timely::execute(timely::Config::process(workers), move |worker| {
        let generator = Generator::new(parameters);
        let (index, peers) = (worker.index(), worker.peers());
        let rows: Vec<Event> = generator.events(0..events, index, peers).collect();
        let updates = Rc::new(Cell::new(0u64));
        let counter = Rc::clone(&updates);
        let probe = probe::Handle::new();
        let done = probe.clone();
        let (mut bids, mut auctions, mut people) = worker.dataflow::<u64, _, _>(|scope| {
            let (bids, bid) = scope.new_collection();
            let (auctions, auction) = scope.new_collection();
            let (people, person) = scope.new_collection();
            for name in &selected {
                let (bid, auction, person) = (bid.clone(), auction.clone(), person.clone());
                match *name {
                    "q0" => finish(views::q0(bid), &probe, &counter),
                    "q1" => finish(views::q1(bid), &probe, &counter),
                    "q2" => finish(views::q2(bid), &probe, &counter),
                    "q3" => finish(views::q3(auction, person), &probe, &counter),
                    "q4" => finish(views::q4(auction, bid), &probe, &counter),
                    "q5" => finish(views::q5(bid), &probe, &counter),
                    _ => finish(views::q8(auction, person), &probe, &counter),
                }
            }
            (bids, auctions, people)
        });
        let start = Instant::now();
        let mut rows = rows.into_iter().peekable();
        for first in (0..events).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let upper = generator.upper(first.saturating_add(step).min(events));
            while let Some(row) = rows.next_if(|row| row.date_time() < upper) {
                let time = row.date_time() as u64;
                match row {
                    Event::Bid(row) => bids.update_at(row, time, 1),
                    Event::Auction(row) => auctions.update_at(row, time, 1),
                    Event::Person(row) => people.update_at(row, time, 1),
                }
            }
            bids.advance_to(upper as u64);
            auctions.advance_to(upper as u64);
            people.advance_to(upper as u64);
            bids.flush();
            auctions.flush();
            people.flush();
            let behind = (upper as u64).saturating_sub(2 * step / 10);
            worker.step_while(|| done.less_than(&behind));
        }
        drop((bids, auctions, people));
        worker.step_while(|| !done.done());
        if let Ok(mut results) = shared.lock() {
            results.0 = results.0.max(start.elapsed().as_secs_f64());
            results.1 += updates.get();
        }
    })?;
    let (seconds, updates) = results.lock().map(|results| *results).unwrap_or_default();
    println!(
        "{:<24}{seconds:>7.2} s {updates:>9} updates",
        names.join(" ")
    );
    Ok(())
}

fn finish<D: Clone + 'static>(
    view: Rows<'_, D>,
    probe: &probe::Handle<u64>,
    updates: &Rc<Cell<u64>>,
) {
    let updates = Rc::clone(updates);
    view.inspect_batch(move |_, batch| updates.set(updates.get() + batch.len() as u64))
        .probe_with(probe);
}
