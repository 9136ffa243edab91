//! The synchronous driver of `append`: the operator. It forwards to its task what arrives, in order.

use std::sync::Arc;

use mvsink_persist::{Frontier, StagedFile};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

use super::task;
use crate::bounds::{Timestamp, frontier_of};
use crate::channel::append_channel;
use crate::description::{Description, Part};
use crate::worker::Worker;

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
    let mut descriptions_in = builder.new_input(descriptions, by_target);
    let mut parts_in = builder.new_input(parts, by_appender);

    let (commands, receiver) = append_channel(Arc::clone(&worker.instance.meter));
    worker.spawn(task::run(worker.clone(), receiver));

    builder.build(move |_capabilities| {
        let mut commands = commands;
        let mut known = Frontier::At(T::minimum());
        move |frontiers| {
            let mut descriptions = Vec::new();
            descriptions_in.for_each(|_, data| {
                descriptions.extend(data.drain(..).map(|(_, description)| description));
            });
            let mut parts = Vec::new();
            parts_in.for_each(|_, data| parts.append(data));
            let frontier = frontier_of(&frontiers[1]);
            let moved = frontier > known;
            known = frontier;
            // Also when the sink was stopped: the files of the parts that still come are somebody's to commit
            // or to delete. The task ends with this operator, once no part can come any more.
            commands
                .activation()
                .descriptions(descriptions)
                .parts(parts)
                .frontier(moved.then_some(frontier));
        }
    });
}
