//! The synchronous driver of `write`: the operator. It routes and decides; its task does the work.

use std::collections::BTreeMap;
use std::sync::Arc;

use mvsink_persist::{Codec, CommitId, StagedFile};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::Antichain;

use super::task::{self, Batch, Settle, Store};
use super::{Effect, Input, State};
use crate::bounds::{Data, Diff, Timestamp, frontier_of, hash_data, hash_error, meet, route};
use crate::channel::write_channel;
use crate::description::{Content, Part};
use crate::dyncfg::FULL_READ_BACK;
use crate::mint::Minted;
use crate::source::{Mark, OwnCommits, Read};
use crate::target::Mode;
use crate::wake::replies;
use crate::worker::Worker;

/// What write takes in.
pub(crate) struct Inputs<'s, D: 'static, E: 'static, T: Timestamp, R: 'static> {
    pub(crate) minted: Minted<'s, D, E, T, R>,
    pub(crate) persist: Read<'s, D, E, T, R>,
    /// The identities that the read-back replaces by marks.
    pub(crate) own: OwnCommits,
}

/// Renders write on one worker; gives the parts, routed by nothing yet.
pub(crate) fn render<'s, D, E, T, R>(
    worker: &Worker,
    scope: Scope<'s, T>,
    inputs: Inputs<'s, D, E, T, R>,
    codec: Codec<D, E>,
    mode: Mode,
    as_of: T,
) -> StreamVec<'s, T, Part<T, StagedFile>>
where
    D: Data,
    E: Data,
    T: Timestamp,
    R: Diff,
{
    let Inputs {
        minted,
        persist,
        own,
    } = inputs;
    let name = format!("mvsink::write({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    // Desired and persist are routed alike, by the bucket of the row's hash, so that they meet.
    let by_row = || Exchange::new(|(data, _, _): &(D, T, R)| route(hash_data(data)));
    let by_error = || Exchange::new(|(error, _, _): &(E, T, R)| route(hash_error(error)));
    let by_target = Exchange::new(|(target, _): &(usize, _)| *target as u64);
    let mut descriptions_in = builder.new_input(minted.descriptions, by_target);
    let mut desired_ok = builder.new_input(minted.desired.ok, by_row());
    let mut desired_err = builder.new_input(minted.desired.err, by_error());
    let mut persist_ok = builder.new_input(persist.ok, by_row());
    let mut persist_err = builder.new_input(persist.err, by_error());
    let mut marks_in = builder.new_input(persist.marks, Pipeline);
    // Parts follow descriptions, and nothing else.
    let same = Antichain::from_elem(T::Summary::default());
    let (parts_out, parts) = builder.new_output_connection([(0, same)]);
    let mut parts_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(parts_out);

    let info = builder.operator_info();
    let waker = worker.waker(&scope, &info);
    let (upstream, inbox) = replies(&waker);
    let (commands, receiver) = write_channel(Arc::clone(&worker.instance.meter));
    let store = Store::new(mode, as_of, &codec, worker.cx.disk());
    worker.spawn(task::run(worker.clone(), codec, store, receiver, upstream));

    let worker = worker.clone();
    builder.build(move |_capabilities| {
        // No part is sent without a description, whose capability it takes.
        drop(_capabilities);
        let mut commands = Some(commands);
        let mut state = State::new(T::minimum());
        let mut effects = Vec::new();
        let mut capabilities: BTreeMap<CommitId, Capability<T>> = BTreeMap::new();
        let mut staged: BTreeMap<CommitId, Vec<StagedFile>> = BTreeMap::new();
        move |frontiers| {
            let awake = waker.awake();
            if worker.stop.is_stopped(&awake) {
                // The task ends, once it has staged what it is staging.
                commands = None;
            }
            let mut batch = Batch::default();
            desired_ok.for_each(|_, data| batch.desired_ok.push(std::mem::take(data)));
            desired_err.for_each(|_, data| batch.desired_err.push(std::mem::take(data)));
            persist_ok.for_each(|_, data| batch.persist_ok.push(std::mem::take(data)));
            persist_err.for_each(|_, data| batch.persist_err.push(std::mem::take(data)));
            let mut marks = Vec::new();
            marks_in.for_each(|_, data| marks.append(data));
            let mut descriptions = Vec::new();
            descriptions_in.for_each(|capability, data| {
                for (_, description) in data.drain(..) {
                    if commands.is_some() {
                        capabilities.insert(description.id, capability.retain(0));
                    }
                    descriptions.push(description);
                }
            });
            let mut replies = Vec::new();
            let ended = inbox.drain(&awake, |reply| replies.push(reply));

            // The order matters: marks come before the frontier that passes them.
            let mut step = |input| state.step(input, &mut effects);
            if commands.is_some() {
                for mark in marks {
                    match mark {
                        Mark::Started => step(Input::Started),
                        Mark::Own(id) => {
                            step(Input::Own(id));
                            own.forget(&id);
                        }
                    }
                }
                let frontier = |input: usize| frontier_of(&frontiers[input]);
                let persist = meet(meet(frontier(3), frontier(4)), frontier(5));
                step(Input::Persist(persist));
                step(Input::Desired(meet(frontier(1), frontier(2))));
                for description in descriptions {
                    step(Input::Description(description));
                }
            }
            for (id, files) in replies {
                staged.insert(id, files);
                step(Input::Staged(id));
            }
            if commands.is_some() {
                state.decide(&mut effects);
            }

            let mut write = None;
            let mut output = parts_out.activate();
            let mut send = |description: crate::description::Description<T>, content| {
                if let Some(capability) = capabilities.remove(&description.id) {
                    let part = Part {
                        description,
                        worker: worker.index,
                        content,
                    };
                    output.session(&capability).give(part);
                }
            };
            for effect in effects.drain(..) {
                match effect {
                    Effect::SettleOwn(_) => {
                        debug_assert!(write.is_none(), "settled before the next batch");
                        batch.settle = Some(Settle::Own);
                    }
                    Effect::SettleLost(id) => {
                        debug_assert!(write.is_none(), "settled before the next batch");
                        own.forget(&id);
                        batch.settle = Some(Settle::Lost);
                    }
                    Effect::Advance(frontier) => batch.advance = Some(frontier),
                    Effect::Write(description) => {
                        debug_assert!(write.is_none(), "one batch an activation");
                        if !FULL_READ_BACK.get(worker.cx.configs()) {
                            own.register(description.id);
                        }
                        write = Some(description);
                    }
                    Effect::Send(description) => {
                        let files = staged.remove(&description.id).unwrap_or_default();
                        send(description, Content::Staged(files));
                    }
                    Effect::SendObsolete(description) => send(description, Content::Obsolete),
                }
            }
            match &mut commands {
                Some(commands) => {
                    let batch = (!batch.is_empty()).then_some(batch);
                    commands.activation().batch(batch).write_batch(write);
                }
                // Winding up: the part that is being staged is still sent, so that its appender commits it or
                // deletes its files. For everything else there is nobody left to answer.
                None => capabilities.retain(|id, _| {
                    !ended && state.staging().is_some_and(|staging| staging.id == *id)
                }),
            }
        }
    });
    parts
}
