//! A dataflow of nothing but an input and a sink, and how it is fed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mvsink::differential_dataflow::input::InputSession;
use mvsink::timely::worker::Worker;
use mvsink::{Context, Frontier, Handle, Status, Target, no_errors, persist_sink};

use super::rows::Row;
use crate::error::Error;

/// Rows that are fed between two steps of the worker.
pub const FED_AT_ONCE: usize = 4096;

/// Nothing more is fed while so many bytes wait before the sink, as in any host that minds its memory.
const QUEUED_BYTES_MAX: usize = 4 << 20;

/// One worker's input, and its handle on the sink.
pub struct Host {
    input: InputSession<u64, Row, i64>,
    /// The sink's.
    pub handle: Handle<u64>,
    dataflow: usize,
    name: String,
}

impl Host {
    /// Renders a sink of this name on the shard at `url`, whose input stands at the as-of.
    ///
    /// # Errors
    ///
    /// If it cannot be rendered.
    pub fn render(
        worker: &mut Worker,
        cx: &Context,
        name: &str,
        url: &str,
        as_of: u64,
    ) -> Result<Self, Error> {
        let dataflow = worker.next_dataflow_index();
        let (input, handle) = worker.dataflow(|scope| {
            let mut input = InputSession::new();
            let rows = input.to_collection(scope);
            let errors = no_errors::<u64, String, i64>(scope);
            input.advance_to(as_of);
            let handle = persist_sink(cx, name, Target::new(url), rows, errors, as_of)?;
            Ok::<_, Error>((input, handle))
        })?;
        Ok(Host {
            input,
            handle,
            dataflow,
            name: name.to_owned(),
        })
    }

    /// Steps until the shard is open.
    ///
    /// # Errors
    ///
    /// If the sink fails.
    pub fn until_started(&self, worker: &mut Worker) -> Result<(), Error> {
        while matches!(self.status()?, Status::Starting | Status::Stalled { .. }) {
            worker.step_or_park(Some(Duration::from_millis(1)));
        }
        Ok(())
    }

    /// Feeds updates at their times, no faster than the sink takes them.
    ///
    /// # Errors
    ///
    /// If the sink fails.
    pub fn feed(
        &mut self,
        worker: &mut Worker,
        updates: impl Iterator<Item = (Row, u64, i64)>,
    ) -> Result<(), Error> {
        for (at, (row, time, diff)) in updates.enumerate() {
            self.input.update_at(row, time, diff);
            if at % FED_AT_ONCE == FED_AT_ONCE - 1 {
                worker.step();
                while self.handle.pressure().queued_bytes > QUEUED_BYTES_MAX {
                    self.status()?;
                    worker.step_or_park(Some(Duration::from_millis(1)));
                }
            }
        }
        Ok(())
    }

    /// Ends all times of the input before `upper`.
    pub fn advance(&mut self, upper: u64) {
        self.input.advance_to(upper);
        self.input.flush();
    }

    /// Steps until the shard is complete, durably, up to `upper`.
    ///
    /// # Errors
    ///
    /// If the sink fails.
    pub fn until(&self, worker: &mut Worker, upper: u64) -> Result<(), Error> {
        while self.handle.frontier() < Frontier::At(upper) {
            self.status()?;
            // Long, so that a wake-up that is missing would show.
            worker.step_or_park(Some(Duration::from_millis(100)));
        }
        Ok(())
    }

    /// Steps until all workers have come to this meeting, the `nth` (from 1) of these.
    ///
    /// # Errors
    ///
    /// If the sink fails: then somebody may never come.
    pub fn meet(
        &self,
        worker: &mut Worker,
        arrivals: &AtomicUsize,
        nth: usize,
    ) -> Result<(), Error> {
        arrivals.fetch_add(1, Ordering::SeqCst);
        while arrivals.load(Ordering::SeqCst) < nth * worker.peers() {
            self.status()?;
            worker.step_or_park(Some(Duration::from_micros(100)));
        }
        Ok(())
    }

    /// Steps until this moment.
    ///
    /// # Errors
    ///
    /// If the sink fails.
    pub fn until_moment(&self, worker: &mut Worker, moment: Instant) -> Result<(), Error> {
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.status()?;
                return Ok(());
            }
            worker.step_or_park(Some(left));
        }
    }

    /// What the sink does; an error if it has failed.
    fn status(&self) -> Result<Status, Error> {
        match self.handle.status() {
            Status::Failed { error } => Err(Error::Sink {
                name: self.name.clone(),
                error,
            }),
            status => Ok(status),
        }
    }

    /// Stops the sink before its input ends, so that nothing more is committed.
    pub fn stop(self, worker: &mut Worker) {
        drop(self.handle);
        worker.drop_dataflow(self.dataflow);
    }
}
