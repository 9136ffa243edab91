//! The operator of `append`: takes in what arrives, in order.

use mvsink_persist::{Frontier, StagedFile};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::frontier::MutableAntichain;

use crate::bounds::{Timestamp, frontier_of};
use crate::description::{Description, Part};
use crate::driver::{ExchangedInput, sync};
use crate::worker::Worker;

/// One worker's operator.
pub(crate) struct Operator<T: Timestamp> {
    worker: Worker,
    descriptions_in: ExchangedInput<T, (usize, Description<T>)>,
    parts_in: ExchangedInput<T, Part<T, StagedFile>>,
    known: Frontier<T>,
}

/// What one activation saw, to be looked at in this order.
pub(crate) struct Seen<T> {
    pub(crate) descriptions: Vec<Description<T>>,
    pub(crate) parts: Vec<Part<T, StagedFile>>,
    /// The frontier of the parts, if it moved.
    pub(crate) frontier: Option<Frontier<T>>,
}

/// Renders append on one worker.
pub(crate) fn render<'s, T: Timestamp>(
    worker: &Worker,
    scope: Scope<'s, T>,
    descriptions: StreamVec<'s, T, (usize, Description<T>)>,
    parts: StreamVec<'s, T, Part<T, StagedFile>>,
) {
    let name = format!("mvsink::append({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    let by_target = Exchange::new(|(target, _): &(usize, Description<T>)| *target as u64);
    let by_appender = Exchange::new(|part: &Part<T, StagedFile>| part.description.appender as u64);
    let operator = Operator {
        worker: worker.clone(),
        descriptions_in: builder.new_input(descriptions, by_target),
        parts_in: builder.new_input(parts, by_appender),
        known: Frontier::At(T::minimum()),
    };
    builder.build_reschedule_typed(move |_capabilities| sync::append(operator));
}

impl<T: Timestamp> Operator<T> {
    /// One worker's share of the sink.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Takes in all that has arrived.
    pub(crate) fn activate(&mut self, frontiers: &[MutableAntichain<T>]) -> Seen<T> {
        let mut descriptions = Vec::new();
        self.descriptions_in.for_each(|_, data| {
            descriptions.extend(data.drain(..).map(|(_, description)| description));
        });
        let mut parts = Vec::new();
        self.parts_in.for_each(|_, data| parts.append(data));
        let frontier = frontier_of(&frontiers[1]);
        let moved = frontier > self.known;
        self.known = frontier;
        Seen {
            descriptions,
            parts,
            frontier: moved.then_some(frontier),
        }
    }
}
