//! The operator that has a sink see its input by its schedule: times rounded up, and nothing of what is beyond its end.
//!
//! ```text
//!   (d, t, r) ──▶ (d, next(t), r)        frontier f ──▶ next(f)
//! ```
//!
//! Its output is not tied to its input, since its frontier runs ahead: it holds a capability of its own at the next
//! time of the schedule. Like all operators that pass a collection on it goes on when the sink is stopped; nothing
//! that is torn down lets a frontier pass.

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

use crate::bounds::{Timestamp, frontier_of};
use crate::refresh::Schedule;
use mvsink_persist::Frontier;

/// The stream by this schedule; the stream as it is if all times are in the schedule.
pub(crate) fn render<'s, D, T, R>(
    scope: Scope<'s, T>,
    name: &str,
    stream: StreamVec<'s, T, (D, T, R)>,
    schedule: &Schedule,
) -> StreamVec<'s, T, (D, T, R)>
where
    D: Clone + 'static,
    T: Timestamp,
    R: Clone + 'static,
{
    if schedule.is_trivial() {
        return stream;
    }
    let schedule = schedule.clone();
    let mut builder = OperatorBuilder::new(format!("mvsink::schedule({name})"), scope);
    let mut input = builder.new_input(stream, Pipeline);
    let (output, scheduled) = builder.new_output_connection([]);
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        move |frontiers| {
            input.for_each(|_, data| {
                let Some(capability) = &capability else {
                    return;
                };
                let mut seen: Vec<(D, T, R)> = data
                    .drain(..)
                    .filter_map(|(data, time, diff)| Some((data, schedule.round_up(time)?, diff)))
                    .collect();
                if !seen.is_empty() {
                    let mut output = output.activate();
                    output.session(capability).give_container(&mut seen);
                }
            });
            match schedule.round_up_frontier(frontier_of(&frontiers[0])) {
                Frontier::At(time) => {
                    if let Some(capability) = &mut capability {
                        capability.downgrade(&time);
                    }
                }
                Frontier::Empty => capability = None,
            }
        }
    });
    scheduled
}
