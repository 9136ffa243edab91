//! The operator of `write`: routes, steps the state, sends parts. It leaves to its driver to do as ordered.

use std::collections::BTreeMap;

use mvsink_persist::{Codec, CommitId, StagedFile};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;

use super::task::{Batch, Settle, Store};
use super::{Effect, Input, State};
use crate::bounds::{Data, Diff, Timestamp, frontier_of, hash_data, hash_error, meet, route};
use crate::description::{Content, Description, Part};
use crate::driver::{ExchangedInput, LocalInput, Output, sync};
use crate::dyncfg::FULL_READ_BACK;
use crate::mint::Minted;
use crate::source::{Mark, OwnCommits, Read};
use crate::target::Mode;
use crate::worker::Worker;

/// What write takes in.
pub(crate) struct Inputs<'s, D: 'static, E: 'static, T: Timestamp, R: 'static> {
    pub(crate) minted: Minted<'s, D, E, T, R>,
    pub(crate) persist: Read<'s, D, E, T, R>,
    /// The identities that the read-back replaces by marks.
    pub(crate) own: OwnCommits,
}

/// One worker's operator.
pub(crate) struct Operator<D: 'static, E: 'static, T: Timestamp, R: 'static> {
    worker: Worker,
    own: OwnCommits,
    descriptions_in: ExchangedInput<T, (usize, Description<T>)>,
    desired_ok: ExchangedInput<T, (D, T, R)>,
    desired_err: ExchangedInput<T, (E, T, R)>,
    persist_ok: ExchangedInput<T, (D, T, R)>,
    persist_err: ExchangedInput<T, (E, T, R)>,
    marks_in: LocalInput<T, Mark>,
    parts_out: Output<T, Part<T, StagedFile>>,
    state: State<T>,
    effects: Vec<Effect<T>>,
    /// For the parts that are still to be sent.
    capabilities: BTreeMap<CommitId, Capability<T>>,
    /// What was staged for them.
    staged: BTreeMap<CommitId, Vec<StagedFile>>,
}

/// What one activation wants done, in this order.
pub(crate) struct Orders<D, E, T, R> {
    /// Take in everything that it saw, if it saw anything.
    pub(crate) batch: Option<Batch<D, E, T, R>>,
    /// Drain and stage this batch; ends with its files given to [`Operator::staged`].
    pub(crate) write: Option<Description<T>>,
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
    let descriptions_in = builder.new_input(minted.descriptions, by_target);
    let desired_ok = builder.new_input(minted.desired.ok, by_row());
    let desired_err = builder.new_input(minted.desired.err, by_error());
    let persist_ok = builder.new_input(persist.ok, by_row());
    let persist_err = builder.new_input(persist.err, by_error());
    let marks_in = builder.new_input(persist.marks, Pipeline);
    // Parts follow descriptions, and nothing else.
    let same = Antichain::from_elem(T::Summary::default());
    let (parts_out, parts) = builder.new_output_connection([(0, same)]);

    let operator = Operator {
        worker: worker.clone(),
        own,
        descriptions_in,
        desired_ok,
        desired_err,
        persist_ok,
        persist_err,
        marks_in,
        parts_out: Output::from(parts_out),
        state: State::new(T::minimum()),
        effects: Vec::new(),
        capabilities: BTreeMap::new(),
        staged: BTreeMap::new(),
    };
    let store = Store::new(mode, as_of, &codec, worker.cx.disk());
    let waker = worker.waker(&scope, &builder.operator_info());
    builder.build_reschedule_typed(move |_capabilities| {
        // No part is sent without a description, whose capability it takes.
        drop(_capabilities);
        sync::write(operator, waker, codec, store)
    });
    parts
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Operator<D, E, T, R> {
    /// One worker's share of the sink.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Takes in all that has arrived; gives what is to be done.
    pub(crate) fn activate(&mut self, frontiers: &[MutableAntichain<T>]) -> Orders<D, E, T, R> {
        let mut batch = Batch::default();
        self.desired_ok
            .for_each(|_, data| batch.desired_ok.push(std::mem::take(data)));
        self.desired_err
            .for_each(|_, data| batch.desired_err.push(std::mem::take(data)));
        self.persist_ok
            .for_each(|_, data| batch.persist_ok.push(std::mem::take(data)));
        self.persist_err
            .for_each(|_, data| batch.persist_err.push(std::mem::take(data)));
        let mut marks = Vec::new();
        self.marks_in.for_each(|_, data| marks.append(data));
        let mut descriptions = Vec::new();
        self.descriptions_in.for_each(|capability, data| {
            for (_, description) in data.drain(..) {
                self.capabilities
                    .insert(description.id, capability.retain(0));
                descriptions.push(description);
            }
        });

        // The order matters: marks come before the frontier that passes them.
        let mut step = |input| self.state.step(input, &mut self.effects);
        for mark in marks {
            match mark {
                Mark::Started => step(Input::Started),
                Mark::Own(id) => {
                    step(Input::Own(id));
                    self.own.forget(&id);
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
        self.state.decide(&mut self.effects);
        let write = self.interpret(&mut batch);
        Orders {
            batch: (!batch.is_empty()).then_some(batch),
            write,
        }
    }

    /// The part of this description was staged. An activation follows, or the winding up.
    pub(crate) fn staged(&mut self, id: CommitId, files: Vec<StagedFile>) {
        self.staged.insert(id, files);
        self.state.step(Input::Staged(id), &mut self.effects);
    }

    /// Instead of an activation, once the sink was stopped: the part that is being staged is still sent, so that its
    /// appender commits it or deletes its files. For everything else there is nobody left to answer. `more` is
    /// false if that part will not come any more.
    pub(crate) fn wind_up(&mut self, more: bool) {
        self.desired_ok.for_each(|_, _| ());
        self.desired_err.for_each(|_, _| ());
        self.persist_ok.for_each(|_, _| ());
        self.persist_err.for_each(|_, _| ());
        self.marks_in.for_each(|_, _| ());
        self.descriptions_in.for_each(|_, _| ());
        self.interpret(&mut Batch::default());
        let staging = self.state.staging().map(|staging| staging.id);
        self.capabilities
            .retain(|id, _| more && staging == Some(*id));
    }

    /// Sends parts, and puts the rest of what the state wants into orders: into the batch, and before the
    /// description that is returned.
    fn interpret(&mut self, batch: &mut Batch<D, E, T, R>) -> Option<Description<T>> {
        let mut write = None;
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::SettleOwn(_) => {
                    debug_assert!(write.is_none(), "settled before the next batch");
                    batch.settle = Some(Settle::Own);
                }
                Effect::SettleLost(id) => {
                    debug_assert!(write.is_none(), "settled before the next batch");
                    self.own.forget(&id);
                    batch.settle = Some(Settle::Lost);
                }
                Effect::Advance(frontier) => batch.advance = Some(frontier),
                Effect::Write(description) => {
                    debug_assert!(write.is_none(), "one batch an activation");
                    if !FULL_READ_BACK.get(self.worker.cx.configs()) {
                        self.own.register(description.id);
                    }
                    write = Some(description);
                }
                Effect::Send(description) => {
                    let files = self.staged.remove(&description.id).unwrap_or_default();
                    self.send(description, Content::Staged(files));
                }
                Effect::SendObsolete(description) => self.send(description, Content::Obsolete),
            }
        }
        write
    }

    fn send(&mut self, description: Description<T>, content: Content<StagedFile>) {
        if let Some(capability) = self.capabilities.remove(&description.id) {
            let part = Part {
                description,
                worker: self.worker.index,
                content,
            };
            self.parts_out.activate().session(&capability).give(part);
        }
    }
}
