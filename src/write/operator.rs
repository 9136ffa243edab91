//! The operator of `write`: gathers, steps the state, sends parts. It leaves to its driver to do as ordered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mvsink_persist::{Codec, CommitId, Frontier, StagedFile};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::Antichain;
use timely::progress::operate::FrontierInterest;

use super::batch::{Batch, Settle};
use super::store::Store;
use super::unrepaired::Edits;
use super::{Effect, Input, State};
use crate::bounds::{Data, Diff, Timestamp, frontier_from_i64, frontier_to_i64, meet};
use crate::comparison::DesiredEnd;
use crate::counters::Size;
use crate::description::{Content, Description, Part, Staged};
use crate::driver::{Driver, ExchangedInput, LocalInput, Output, asynchronous, sync};
use crate::logging::CorrectionsLog;
use crate::mint::{Minted, Notice};
use crate::route::{self, Routed};
use crate::source::{Credits, Mark, OwnCommits, Piece};
use crate::status::Phase;
use crate::target::Mode;
use crate::worker::Worker;

/// What write takes in.
pub(crate) struct Inputs<'s, D: 'static, E: 'static, T: Timestamp, R: 'static> {
    pub(crate) minted: Minted<'s, D, E, T, R>,
    pub(crate) persist: StreamVec<'s, T, Piece<D, E, T, i64>>,
    /// The identities that the read-back replaces by marks.
    pub(crate) own: OwnCommits,
    /// Those of the read-back.
    pub(crate) credits: Credits,
    /// A view's end of the comparison that its read-back begins with.
    pub(crate) comparison: Option<DesiredEnd<T>>,
}

/// One worker's operator.
pub(crate) struct Operator<D: 'static, E: 'static, T: Timestamp, R: 'static> {
    worker: Worker,
    own: OwnCommits,
    credits: Credits,
    notices_in: ExchangedInput<T, (usize, Notice<T>)>,
    desired_ok: ExchangedInput<T, Routed<D, T, R>>,
    desired_err: ExchangedInput<T, Routed<E, T, R>>,
    persist_in: LocalInput<T, Piece<D, E, T, i64>>,
    parts_out: Output<T, Part<T, StagedFile>>,
    as_of: Frontier<T>,
    hydrated: bool,
    /// The edits that were read back, as the task has them.
    edits: Edits,
    /// The frontier of desired at the last activation.
    desired: Frontier<T>,
    /// How far desired was compared with a shard that was finished before.
    verified: Frontier<T>,
    state: State<T>,
    effects: Vec<Effect<T>>,
    /// For the parts that are still to be sent.
    capabilities: BTreeMap<CommitId, Capability<T>>,
    /// What was staged for them.
    staged: BTreeMap<CommitId, Staged<StagedFile>>,
    /// The files of the shard whose rows the read-back does not count, and that the next batch removes.
    removes: BTreeSet<String>,
    /// Those of the batch in flight, as they were when its rows were drained: it adds back what of theirs is missed.
    removes_in_flight: BTreeSet<String>,
    size: Arc<Size>,
    log: Option<CorrectionsLog>,
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
    driver: Driver,
    scope: Scope<'s, T>,
    inputs: Inputs<'s, D, E, T, R>,
    codec: Codec<D, E>,
    mode: Mode,
    as_of: Frontier<T>,
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
        credits,
        comparison,
    } = inputs;
    let name = format!("mvsink::write({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    let by_target = Exchange::new(|(target, _): &(usize, _)| *target as u64);
    let notices_in = builder.new_input(minted.notices, by_target);
    // What there is to do for a description is known by the other frontiers.
    builder.set_notify_for(0, FrontierInterest::Never);
    // By the bucket of the row's hash: each worker's read-back reads those that are its own.
    let desired_ok = builder.new_input(minted.ok, route::by_target());
    let desired_err = builder.new_input(minted.err, route::by_target());
    let persist_in = builder.new_input(persist, Pipeline);
    // Parts follow descriptions, and nothing else.
    let same = Antichain::from_elem(T::Summary::default());
    let (parts_out, parts) = builder.new_output_connection([(0, same)]);

    let info = builder.operator_info();
    let size = Size::new(&worker.instance.metrics);
    worker.instance.gave(worker.index, Frontier::At(i64::MIN));
    let operator = Operator {
        worker: worker.clone(),
        own,
        credits,
        notices_in,
        desired_ok,
        desired_err,
        persist_in,
        parts_out: Output::from(parts_out),
        as_of,
        hydrated: false,
        edits: Edits::default(),
        desired: Frontier::At(T::minimum()),
        verified: Frontier::At(T::minimum()),
        state: State::new(T::minimum()),
        effects: Vec::new(),
        capabilities: BTreeMap::new(),
        staged: BTreeMap::new(),
        removes: BTreeSet::new(),
        removes_in_flight: BTreeSet::new(),
        log: CorrectionsLog::new(&scope, info.global_id, Arc::clone(&size)),
        size,
    };
    let waker = worker.waker(&scope, &info);
    builder.build_reschedule_typed(move |_capabilities| {
        // No part is sent without a description, whose capability it takes.
        drop(_capabilities);
        let store = Store::new(mode, as_of, comparison, &codec, worker.cx.disk());
        match driver {
            Driver::Sync => sync::write(operator, waker, codec, store),
            Driver::Async => asynchronous::write(operator, waker, codec, store),
        }
    });
    parts
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Operator<D, E, T, R> {
    /// One worker's share of the sink.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The size of the corrections, which whoever keeps them tells.
    pub(crate) fn size(&self) -> &Arc<Size> {
        &self.size
    }

    /// Takes in all that has arrived; gives what is to be done.
    pub(crate) fn activate(
        &mut self,
        frontier: impl Fn(usize) -> Frontier<T>,
    ) -> Orders<D, E, T, R> {
        self.log.iter_mut().for_each(CorrectionsLog::tell);
        let mut batch = Batch::default();
        self.desired_ok
            .for_each(|_, data| batch.desired_ok.append(data));
        self.desired_err
            .for_each(|_, data| batch.desired_err.append(data));
        let arrived = batch.desired_updates();
        self.worker.instance.metrics.updates_in.add(arrived as u64);
        let mut marks = Vec::new();
        self.persist_in.for_each(|_, data| {
            for piece in data.drain(..) {
                self.credits.give_back(&piece);
                match piece {
                    Piece::Rows(rows) => batch.persist_ok.push(rows),
                    Piece::Errors(errors) => batch.persist_err.push(errors),
                    Piece::Mark(mark) => marks.push(mark),
                }
            }
        });
        let (mut provisional, mut descriptions) = (Vec::new(), Vec::new());
        self.notices_in.for_each(|capability, data| {
            for (_, notice) in data.drain(..) {
                match notice {
                    Notice::Provisional { lower, open } => provisional.push((lower, open)),
                    Notice::Minted(description) => {
                        self.capabilities
                            .insert(description.id, capability.retain(0));
                        descriptions.push(description);
                    }
                }
            }
        });

        // The order matters: marks come before the frontier that passes them, and a rival's batch is compared with what
        // is complete.
        let mut step = |input| self.state.step(input, &mut self.effects);
        for mark in marks {
            match mark {
                Mark::Pinned(cutoff) => step(Input::Pinned(cutoff)),
                Mark::Settled => step(Input::Settled),
                Mark::Own(id) => {
                    step(Input::Own(id));
                    self.own.forget(&id);
                }
                Mark::Condemned(path) => {
                    self.removes.insert(path);
                }
                Mark::Gone(path) => {
                    self.removes.remove(&path);
                }
                Mark::Edited => batch.edits += 1,
            }
        }
        let desired = meet(frontier(1), frontier(2));
        self.edits.waiting |= batch.edits > 0;
        batch.recheck = self.edits.waiting && desired > self.desired;
        self.desired = desired;
        step(Input::Desired(desired));
        let persist = frontier(3);
        batch.complete = desired >= persist;
        step(Input::Persist(persist));
        for (lower, open) in provisional {
            step(Input::Provisional(lower, open));
        }
        for description in descriptions {
            step(Input::Description(description));
        }
        self.state.decide(&mut self.effects);
        let taken_in = batch.desired_updates();
        self.report(taken_in, desired, persist);
        if self.worker.instance.was_finished() {
            batch.verify = self.verify(desired, persist);
        }
        let write = self.interpret(&mut batch);
        Orders {
            batch: (!batch.is_empty()).then_some(batch),
            write,
        }
    }

    /// What is to be compared with a shard that was finished before, of which the read-back has told, now that desired has
    /// come so far.
    fn verify(&mut self, desired: Frontier<T>, persist: Frontier<T>) -> Option<Frontier<T>> {
        // The end is reported when it was found there.
        if let Ok(taken_in @ Frontier::At(_)) = frontier_to_i64(desired) {
            self.worker.instance.gave(self.worker.index, taken_in);
        }
        let due = persist.is_empty() && self.verified < desired;
        self.verified = if due { desired } else { self.verified };
        due.then_some(desired)
    }

    /// Reports how far the hydration is, until it is over.
    fn report(&mut self, taken_in: usize, desired: Frontier<T>, persist: Frontier<T>) {
        if self.hydrated {
            return;
        }
        let past = |frontier: Frontier<T>| frontier > self.as_of || frontier.is_empty();
        let phase = if !past(desired) {
            Some(Phase::Computing)
        } else if past(persist) {
            None
        } else {
            let shard = self.worker.instance.shard.get();
            let upper = shard.map(|shard| shard.progress().upper);
            match upper.and_then(|upper| frontier_from_i64(upper).ok()) {
                Some(upper) if past(upper) => Some(Phase::Comparing),
                _ => Some(Phase::Writing),
            }
        };
        self.hydrated = phase.is_none();
        self.worker.instance.hydrating(taken_in, phase);
    }

    /// The part of this description was staged: sends it. Another one may have waited for that, so an activation
    /// follows, or the winding up.
    pub(crate) fn staged(&mut self, id: CommitId, staged: Staged<StagedFile>) {
        self.staged.insert(id, staged);
        self.state.step(Input::Staged(id), &mut self.effects);
        self.interpret(&mut Batch::default());
    }

    /// There was nothing to be staged for this description.
    pub(crate) fn staged_nothing(&mut self, id: CommitId) {
        self.worker.instance.metrics.batches_written.add(1);
        let nothing = Staged {
            files: Vec::new(),
            ahead: Vec::new(),
            removes: BTreeSet::new(),
        };
        self.staged(id, nothing);
    }

    /// Instead of an activation, once the sink was stopped: the part that is being staged is still sent, so that its
    /// appender commits it or deletes its files. For everything else there is nobody left to answer. `more` is
    /// false if that part will not come any more.
    pub(crate) fn wind_up(&mut self, more: bool) {
        self.desired_ok.for_each(|_, _| ());
        self.desired_err.for_each(|_, _| ());
        self.persist_in.for_each(|_, _| ());
        self.notices_in.for_each(|_, _| ());
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
                    self.edits.committed();
                    batch.settle = Some(Settle::Own);
                }
                Effect::SettleLost(id) => {
                    debug_assert!(write.is_none(), "settled before the next batch");
                    self.own.forget(&id);
                    self.edits.lost();
                    batch.settle = Some(Settle::Lost);
                }
                Effect::Recall => {
                    debug_assert!(write.is_none(), "recalled before the next batch");
                    batch.recall = true;
                }
                Effect::StageAhead(lower) => batch.stage_ahead = Some(lower),
                Effect::CheckRival(time) => batch.check_rival = Some(time),
                Effect::Advance(frontier) => batch.advance = Some(frontier),
                Effect::Compare => batch.compare = true,
                Effect::Write(description) => {
                    debug_assert!(write.is_none(), "one batch an activation");
                    self.own.register(description.id);
                    self.removes_in_flight.clone_from(&self.removes);
                    self.edits.drained();
                    write = Some(description);
                }
                Effect::Send(description) => {
                    let staged = self.staged.remove(&description.id);
                    let mut staged = staged.expect("what is sent was staged");
                    staged.removes.clone_from(&self.removes_in_flight);
                    self.send(description, Content::Staged(staged));
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
