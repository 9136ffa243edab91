//! What one worker thread of a run does: it renders the ingest sinks and the views, feeds the events, and
//! steps the dataflows until every shard is where it should be.
//!
//! Each source table and each view has a dataflow of its own. A view reads its sources back from their shards,
//! so it sees only what is definite, whoever wrote it.
//!
//! Inputs advance over whole milliseconds whose events are all in, and never close: a worker that leaves drops
//! its sinks first, so that no frontier passes because of it. Their dataflows end with their inputs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mvsink::differential_dataflow::VecCollection;
use mvsink::differential_dataflow::collection::concatenate;
use mvsink::differential_dataflow::input::InputSession;
use mvsink::mvsink_persist::Shard;
use mvsink::timely::dataflow::Scope;
use mvsink::timely::worker::Worker;
use mvsink::{Context, Handle, Mode, Status, Target, no_errors, persist_sink, persist_source};

use super::control::{Control, SHARDS, SOURCES};
use super::differs::{self, Told};
use super::generator::{Event, Generator};
use super::model::{Auction, Bid, Person};
use super::views::{self, Rows};
use crate::error::Error;

/// How much event time is fed at once, when nothing else bounds it.
const STEP_MS: i64 = 1_000;
/// How far, in event time, the input may run ahead of the slowest shard. It bounds what is in memory: event
/// time has ten events a millisecond.
const AHEAD_MS: i64 = 10_000;
/// How many bytes may wait before a worker's sinks until it stops feeding.
const QUEUED_BYTES_MAX: usize = 64 << 20;
/// How long a worker that has nothing to do sleeps at the most, should nobody wake it.
const PARK_MAX: Duration = Duration::from_millis(100);
/// The same, while what it waits for does not wake it: the wall clock, or sinks that have too much to do.
const PARK_PACED: Duration = Duration::from_millis(20);

/// How long the sinks' tasks may take to end.
const WIND_UP_MAX: Duration = Duration::from_secs(10);

/// The errors of a collection, none of which the demo itself produces.
pub type Errors<'s> = VecCollection<'s, u64, String, i64>;

/// What all workers of a run are given.
#[derive(Clone, Debug)]
pub struct Job {
    /// The surroundings of the sinks.
    pub cx: Context,
    /// The shards, as they were opened before, in their order.
    pub shards: Vec<Shard>,
    /// The addresses of the shards, in their order.
    pub urls: [String; SHARDS],
    /// The first time of each sink: a source's upper, or a time at which a view's sources can be read.
    pub as_ofs: [u64; SHARDS],
    /// The events.
    pub generator: Generator,
    /// Events per second of real time, from the number of the first event on that is to be fed.
    pub pace: Option<Pace>,
}

/// How fast to feed.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Events per second.
    pub rate: u64,
    /// The first event that counts.
    pub first: u64,
    /// When it is due.
    pub start: Instant,
}

/// A rendered dataflow: its number in the worker, and the handles of its sinks and sources.
struct Installed {
    dataflow: usize,
    handles: Vec<Handle<u64>>,
}

/// Runs one worker until the run is done, fails or is stopped.
pub fn work(worker: &mut Worker, job: &Job, control: &Arc<Control>) {
    let _running = control.enter();
    let mut installed = Vec::new();
    let mut feeder = match render(worker, job, &mut installed) {
        Ok(feeder) => feeder,
        Err(error) => {
            control.fail(error);
            leave(worker, job, installed);
            return;
        }
    };
    if worker.index() == 0 {
        let mut told = Vec::new();
        for (number, installed) in installed.iter().enumerate() {
            // The last one is the sink.
            let (sink, sources) = installed.handles.split_last().expect("each has a sink");
            let url = &job.urls[number];
            report_status(job, control, sink, Some(url));
            for source in sources {
                report_status(job, control, source, None);
            }
            if number >= SOURCES.len() {
                told.push(Told {
                    status: sink.status_stream(),
                    compared: sink.compared(),
                });
            }
        }
        let (control, shards) = (Arc::clone(control), job.shards.clone());
        let handle = job.cx.client().handle();
        handle.spawn(async move { differs::judge(&control, shards, told).await });
    }
    while !control.is_stopped() && !control.is_done() {
        let pressed = is_pressed(&installed);
        if !pressed && feeder.feed(job, control) {
            worker.step();
        } else {
            let soon = pressed || job.pace.is_some();
            worker.step_or_park(Some(if soon { PARK_PACED } else { PARK_MAX }));
        }
    }
    leave(worker, job, installed);
    drop(feeder);
}

/// True if more waits before the sinks than they get done, whatever the reason: a store that is slow, or silent.
fn is_pressed(installed: &[Installed]) -> bool {
    let handles = installed.iter().flat_map(|installed| &installed.handles);
    let queued: usize = handles.map(|handle| handle.pressure().queued_bytes).sum();
    queued > QUEUED_BYTES_MAX
}

/// Fails the run when this sink or source fails, and says what it waits for when it is stalled; also when a sink, at this
/// address, finishes, though its input has not ended.
fn report_status(job: &Job, control: &Arc<Control>, handle: &Handle<u64>, url: Option<&String>) {
    let (name, mut status) = (handle.name().to_owned(), handle.status_stream());
    let (control, url) = (Arc::clone(control), url.cloned());
    job.cx.client().handle().spawn(async move {
        loop {
            let now = status.borrow_and_update().clone();
            if let Status::Failed { error } = now {
                control.fail(Error::Sink { name, error });
                return;
            }
            let on = match &now {
                Status::Stalled { on, .. } => Some(on.clone()),
                _ => None,
            };
            control.set_stalled(&name, on);
            if let (Status::Finished, Some(url)) = (&now, &url) {
                control.fail(Error::Finished { url: url.clone() });
                return;
            }
            if now.is_final() || status.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Ends the sinks and sources of this worker. Their dataflows are stepped until all workers' are settled, so
/// that what was being staged gets to its appender. They end when their inputs do; where the store does not answer,
/// nobody waits for that.
fn leave(worker: &mut Worker, job: &Job, installed: Vec<Installed>) {
    let mut dataflows = Vec::new();
    for Installed { dataflow, handles } in installed {
        dataflows.push(dataflow);
        drop(handles);
    }
    let end = Instant::now() + WIND_UP_MAX;
    while !job.cx.is_settled() && Instant::now() < end {
        worker.step_or_park(Some(PARK_PACED));
    }
    if !job.cx.is_settled() {
        tracing::warn!("the store does not answer; staged files may be left behind");
        for dataflow in dataflows {
            worker.drop_dataflow(dataflow);
        }
    }
}

fn render(worker: &mut Worker, job: &Job, installed: &mut Vec<Installed>) -> Result<Feeder, Error> {
    let feeder = Feeder {
        worker: worker.index(),
        workers: worker.peers(),
        time: 0,
        bid: ingest(worker, job, 0, installed)?,
        auction: ingest(worker, job, 1, installed)?,
        person: ingest(worker, job, 2, installed)?,
    };
    view(worker, job, 0, installed, |s| Ok(views::q0(s.read(0)?)))?;
    view(worker, job, 1, installed, |s| Ok(views::q1(s.read(0)?)))?;
    view(worker, job, 2, installed, |s| Ok(views::q2(s.read(0)?)))?;
    view(worker, job, 3, installed, |s| {
        Ok(views::q3(s.read(1)?, s.read(2)?))
    })?;
    view(worker, job, 4, installed, |s| {
        Ok(views::q4(s.read(1)?, s.read(0)?))
    })?;
    view(worker, job, 5, installed, |s| Ok(views::q5(s.read(0)?)))?;
    view(worker, job, 6, installed, |s| {
        Ok(views::q8(s.read(1)?, s.read(2)?))
    })?;
    Ok(feeder)
}

/// Renders the sink that makes a source table definite.
fn ingest<D: mvsink::Data>(
    worker: &mut Worker,
    job: &Job,
    source: usize,
    installed: &mut Vec<Installed>,
) -> Result<InputSession<u64, D, i64>, Error> {
    let mut input = InputSession::new();
    let dataflow = worker.next_dataflow_index();
    let handle = worker.dataflow_named(SOURCES[source], |scope| {
        let rows = input.to_collection(scope);
        let mut target = Target::new(job.urls[source].as_str()).mode(Mode::Ingest);
        for (name, value) in job.generator.parameters().properties() {
            target = target.property(name, value);
        }
        let errors = no_errors::<u64, String, i64>(scope);
        persist_sink(
            &job.cx,
            SOURCES[source],
            target,
            rows,
            errors,
            job.as_ofs[source],
        )
    });
    let handles = handle.map(|handle| vec![handle]);
    installed.push(Installed {
        dataflow,
        handles: handles?,
    });
    Ok(input)
}

/// The sources of a view, as they are read back from their shards.
struct Reader<'s, 'a> {
    job: &'a Job,
    scope: Scope<'s, u64>,
    view: &'static str,
    as_of: u64,
    errors: Vec<Errors<'s>>,
    handles: Vec<Handle<u64>>,
}

impl<'s> Reader<'s, '_> {
    fn read<D: mvsink::Data>(&mut self, source: usize) -> Result<Rows<'s, D>, Error> {
        let name = format!("{}.{}", self.view, SOURCES[source]);
        let url = &self.job.urls[source];
        let read = persist_source(&self.job.cx, self.scope, &name, url, self.as_of)?;
        self.errors.push(read.err);
        self.handles.push(read.handle);
        Ok(read.ok)
    }
}

/// Renders a view: its sources, its definition, and the sink that keeps it.
fn view<D: mvsink::Data>(
    worker: &mut Worker,
    job: &Job,
    view: usize,
    installed: &mut Vec<Installed>,
    definition: impl for<'s> FnOnce(&mut Reader<'s, '_>) -> Result<Rows<'s, D>, Error>,
) -> Result<(), Error> {
    let name = views::VIEWS[view];
    let (url, as_of) = (
        &job.urls[SOURCES.len() + view],
        job.as_ofs[SOURCES.len() + view],
    );
    let dataflow = worker.next_dataflow_index();
    let handles = worker.dataflow_named(name, |scope| {
        let mut reader = Reader {
            job,
            scope,
            view: name,
            as_of,
            errors: Vec::new(),
            handles: Vec::new(),
        };
        let rows = definition(&mut reader)?;
        // A view is in error where any of its sources is.
        let errors = concatenate(scope, reader.errors);
        let sink = persist_sink(&job.cx, name, url.as_str(), rows, errors, as_of)?;
        reader.handles.push(sink);
        Ok::<_, Error>(reader.handles)
    });
    installed.push(Installed {
        dataflow,
        handles: handles?,
    });
    Ok(())
}

/// One worker's share of the input.
struct Feeder {
    worker: usize,
    workers: usize,
    /// All events before this time are in, as far as they are this worker's.
    time: i64,
    bid: InputSession<u64, Bid, i64>,
    auction: InputSession<u64, Auction, i64>,
    person: InputSession<u64, Person, i64>,
}

impl Feeder {
    /// Feeds the next stretch of events, if there is one and it may be fed now.
    fn feed(&mut self, job: &Job, control: &Control) -> bool {
        // What is sealed need not be made again: it was made by an earlier run, or by a rival.
        let start = self.time.max(control.sources_upper());
        let floor = control.sealed().max(job.generator.base_time());
        let mut end = (start.max(job.generator.base_time()) + STEP_MS).min(floor + AHEAD_MS);
        if let Some(pace) = job.pace {
            let due = pace.start.elapsed().as_secs_f64() * pace.rate as f64;
            end = end.min(
                job.generator
                    .date_time(pace.first.saturating_add(due as u64)),
            );
        }
        let end = control.claim(end.max(start));
        if end <= self.time {
            return false;
        }
        let uppers = [0, 1, 2].map(|source| control.upper(source));
        let numbers = job.generator.first_at(start)..job.generator.first_at(end);
        for event in job.generator.events(numbers, self.worker, self.workers) {
            let time = event.date_time();
            let at = time.cast_unsigned();
            match event {
                Event::Bid(bid) if time >= uppers[0] => self.bid.update_at(bid, at, 1),
                Event::Auction(auction) if time >= uppers[1] => {
                    self.auction.update_at(auction, at, 1);
                }
                Event::Person(person) if time >= uppers[2] => self.person.update_at(person, at, 1),
                _ => {}
            }
        }
        self.time = end;
        let end = end.cast_unsigned();
        self.bid.advance_to(end);
        self.bid.flush();
        self.auction.advance_to(end);
        self.auction.flush();
        self.person.advance_to(end);
        self.person.flush();
        true
    }
}
