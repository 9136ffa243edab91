//! The operator of `append`: takes in what arrives, in order, and signals what came of it.

use std::collections::BTreeMap;

use mvsink_persist::{Frontier, StagedFile};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::operate::FrontierInterest;

use super::{Input, News};
use crate::bounds::Timestamp;
use crate::description::{Description, Part};
use crate::driver::{Driver, ExchangedInput, Output, asynchronous, sync};
use crate::mint::Notice;
use crate::signal::{Signal, Speaker};
use crate::worker::Worker;

/// One worker's operator.
pub(crate) struct Operator<T: Timestamp> {
    worker: Worker,
    notices_in: ExchangedInput<T, (usize, Notice<T>)>,
    parts_in: ExchangedInput<T, Part<T, StagedFile>>,
    speaker: Speaker<T>,
    known: Frontier<T>,
    told: Frontier<T>,
    /// The batches of which only some parts have come, by sequence number, with their lowers and how many: only of these the
    /// frontier says anything.
    partial: BTreeMap<u64, (T, usize)>,
}

/// What one activation saw, to be looked at in this order.
pub(crate) struct Seen<T> {
    pub(crate) descriptions: Vec<Description<T>>,
    pub(crate) parts: Vec<Part<T, StagedFile>>,
    /// The frontier of the parts, if it moved, and something may be lost by that, or it is the last.
    pub(crate) frontier: Option<Frontier<T>>,
}

impl<T> Seen<T> {
    /// All of it, in order.
    pub(crate) fn inputs(self) -> impl Iterator<Item = Input<T, StagedFile>> {
        let descriptions = self.descriptions.into_iter().map(Input::Description);
        let parts = self.parts.into_iter().map(Input::Part);
        let frontier = self.frontier.into_iter().map(Input::Parts);
        descriptions.chain(parts).chain(frontier)
    }
}

/// Renders append on one worker; gives its signals.
pub(crate) fn render<'s, T: Timestamp>(
    worker: &Worker,
    driver: Driver,
    scope: Scope<'s, T>,
    notices: StreamVec<'s, T, (usize, Notice<T>)>,
    parts: StreamVec<'s, T, Part<T, StagedFile>>,
) -> StreamVec<'s, T, (usize, Signal<T>)> {
    let name = format!("mvsink::append({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    let by_target = Exchange::new(|(target, _): &(usize, Notice<T>)| *target as u64);
    let by_appender = Exchange::new(|part: &Part<T, StagedFile>| part.description.appender as u64);
    let notices_in = builder.new_input(notices, by_target);
    builder.set_notify_for(0, FrontierInterest::Never);
    let parts_in = builder.new_input(parts, by_appender);
    // Signals follow commits and failures, not what arrives.
    let (signals_out, signals) = builder.new_output_connection([]);
    let waker = worker.waker(&scope, &builder.operator_info());
    let worker = worker.clone();
    builder.build_reschedule_typed(move |mut capabilities| {
        let capability = capabilities.pop().expect("one output");
        let operator = Operator {
            notices_in,
            parts_in,
            speaker: Speaker::new(&worker, Output::from(signals_out), capability),
            known: Frontier::At(T::minimum()),
            told: Frontier::At(T::minimum()),
            partial: BTreeMap::new(),
            worker,
        };
        match driver {
            Driver::Sync => sync::append(operator, waker),
            Driver::Async => asynchronous::append(operator, waker),
        }
    });
    signals
}

impl<T: Timestamp> Operator<T> {
    /// One worker's share of the sink.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Takes in all that has arrived.
    pub(crate) fn activate(&mut self, frontier: impl Fn(usize) -> Frontier<T>) -> Seen<T> {
        let mut descriptions = Vec::new();
        self.notices_in.for_each(|_, data| {
            descriptions.extend(data.drain(..).filter_map(|(_, notice)| match notice {
                Notice::Minted(description) => Some(description),
                Notice::Provisional { .. } => None,
            }));
        });
        let mut parts = Vec::new();
        self.parts_in.for_each(|_, data| parts.append(data));
        self.known = frontier(1);
        self.count(&descriptions, &parts);
        Seen {
            descriptions,
            parts,
            frontier: self.news(),
        }
    }

    /// Counts the parts that have come.
    fn count(&mut self, descriptions: &[Description<T>], parts: &[Part<T, StagedFile>]) {
        if let Some(newest) = descriptions
            .iter()
            .map(|description| description.id.seq)
            .max()
        {
            // The older ones are lost.
            self.partial = self.partial.split_off(&newest);
        }
        for Part { description, .. } in parts {
            let seq = description.id.seq;
            let partial = self.partial.entry(seq).or_insert((description.lower, 0));
            partial.1 += 1;
            if partial.1 == self.worker.peers {
                self.partial.remove(&seq);
            }
        }
    }

    /// The frontier of the parts, if there is somebody to be told.
    fn news(&mut self) -> Option<Frontier<T>> {
        let known = self.known;
        let lost = |(lower, _): &(T, usize)| known.is_complete(lower);
        let matters = known.is_empty() || self.partial.values().any(lost);
        self.partial.retain(|_, partial| !lost(partial));
        if known > self.told && matters {
            self.told = known;
            return Some(known);
        }
        None
    }

    /// Tells other processes what came of a commit.
    pub(crate) fn tell(&mut self, news: News<T>) {
        self.speaker.tell(&match news {
            News::Upper(upper) => Signal::Upper(upper),
            News::Vanished(id) => Signal::Vanished(id),
        });
    }

    /// The sink was stopped: if it has failed, everybody is told.
    pub(crate) fn stopped(&mut self) {
        self.speaker.alarm();
    }

    /// True once no part can come any more.
    pub(crate) fn has_all_parts(&self) -> bool {
        self.known.is_empty()
    }

    /// No part will come, and the last commit has ended.
    pub(crate) fn finish(&mut self) {
        self.speaker.let_go();
    }
}
