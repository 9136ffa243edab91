//! The operator of `mint`: passes the desired collection on, routed, steps the state, sends descriptions.

use mvsink_persist::{CommitId, Frontier};
use serde::{Deserialize, Serialize};
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::Antichain;
use timely::progress::operate::FrontierInterest;

use super::{Effect, Input, State};
use crate::bounds::{Data, Diff, Fingerprinter, Timestamp, meet, time_to_i64};
use crate::description::Description;
use crate::driver::{Driver, LocalInput, Output, asynchronous, sync};
use crate::dyncfg::{STANDBY, STANDBY_SILENCE_MS};
use crate::error::Error;
use crate::route::{Routed, Router};
use crate::worker::Worker;

/// The streams of a desired collection: its rows, and its errors.
pub(crate) struct Desired<'s, D: 'static, E: 'static, T: Timestamp, R: 'static> {
    pub(crate) ok: StreamVec<'s, T, (D, T, R)>,
    pub(crate) err: StreamVec<'s, T, (E, T, R)>,
    /// Takes the fingerprints of its rows.
    pub(crate) of_rows: Fingerprinter<D>,
}

/// The outputs of mint: notices, each once for every worker and beside the worker that it is for, and the desired
/// collection, each update with the worker that it is for.
pub(crate) struct Minted<'s, D: 'static, E: 'static, T: Timestamp, R: 'static> {
    pub(crate) notices: StreamVec<'s, T, (usize, Notice<T>)>,
    pub(crate) ok: StreamVec<'s, T, Routed<D, T, R>>,
    pub(crate) err: StreamVec<'s, T, Routed<E, T, R>>,
}

/// What mint tells every worker. One stream has both, since each stream has a frontier to be kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Notice<T> {
    /// Write this batch.
    Minted(Description<T>),
    /// This lower is open ahead of its description, or not any more.
    Provisional {
        /// The lower of the description that is to come.
        lower: T,
        /// Whether it is open.
        open: bool,
    },
}

/// What an activation wants done.
pub(crate) enum Order<T> {
    /// Move the shard's upper without data.
    Bump {
        id: CommitId,
        lower: T,
        upper: Frontier<T>,
    },
    /// Say what time it is, at this time or later.
    Wake(u64),
}

/// One worker's operator.
pub(crate) struct Operator<D: 'static, E: 'static, T: Timestamp, R: 'static> {
    worker: Worker,
    ok_in: LocalInput<T, (D, T, R)>,
    err_in: LocalInput<T, (E, T, R)>,
    notices_out: Output<T, (usize, Notice<T>)>,
    ok_out: Output<T, Routed<D, T, R>>,
    err_out: Output<T, Routed<E, T, R>>,
    ok_router: Router<D, T, R>,
    err_router: Router<E, T, R>,
    /// For notices; `None` on a worker that does not mint, or not any more.
    capability: Option<Capability<T>>,
    state: State<T>,
    effects: Vec<Effect<T>>,
    uppers: Option<Frontier<T>>,
}

/// Renders mint. It decides on the worker that `minter` names, and passes `desired` through on all.
pub(crate) fn render<'s, D, E, T, R>(
    worker: &Worker,
    driver: Driver,
    scope: Scope<'s, T>,
    desired: Desired<'s, D, E, T, R>,
    state: State<T>,
    minter: usize,
) -> Minted<'s, D, E, T, R>
where
    D: Data,
    E: Data,
    T: Timestamp,
    R: Diff,
{
    let Desired { ok, err, of_rows } = desired;
    let name = format!("mvsink::mint({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    let mints = worker.index == minter;
    let ok_in = builder.new_input(ok, Pipeline);
    let err_in = builder.new_input(err, Pipeline);
    if !mints {
        // It passes on what arrives, however complete that is.
        builder.set_notify_for(0, FrontierInterest::Never);
        builder.set_notify_for(1, FrontierInterest::Never);
    }
    let same = Antichain::from_elem(T::Summary::default());
    let (notices_out, notices) = builder.new_output_connection([]);
    let (ok_out, ok) = builder.new_output_connection([(0, same.clone())]);
    let (err_out, err) = builder.new_output_connection([(1, same)]);

    let info = builder.operator_info();
    let waker = worker.waker(&scope, &info);
    let worker = worker.clone();
    builder.build_reschedule_typed(move |mut capabilities| {
        // The capabilities of the two outputs that pass data through come with their inputs.
        capabilities.truncate(1);
        let operator = Operator {
            ok_in,
            err_in,
            notices_out: Output::from(notices_out),
            ok_out: Output::from(ok_out),
            err_out: Output::from(err_out),
            ok_router: Router::new(worker.peers, of_rows),
            err_router: Router::new(worker.peers, Fingerprinter::of_errors()),
            capability: capabilities.pop().filter(|_| mints),
            state,
            effects: Vec::new(),
            uppers: None,
            worker,
        };
        match driver {
            Driver::Sync => sync::mint(operator, waker),
            Driver::Async => asynchronous::mint(operator, waker),
        }
    });
    Minted { notices, ok, err }
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Operator<D, E, T, R> {
    /// One worker's share of the sink.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// True as long as this worker may still mint.
    pub(crate) fn mints(&self) -> bool {
        self.capability.is_some()
    }

    /// Mints no more.
    pub(crate) fn stop(&mut self) {
        self.capability = None;
    }

    /// Passes on what has arrived.
    pub(crate) fn pass_through(&mut self) {
        pass(&mut self.ok_in, &mut self.ok_out, &mut self.ok_router);
        pass(&mut self.err_in, &mut self.err_out, &mut self.err_router);
    }

    /// Takes the inputs, then the frontiers of the desired collection; gives what is to be done.
    pub(crate) fn activate(
        &mut self,
        inputs: impl IntoIterator<Item = Input<T>>,
        frontier: impl Fn(usize) -> Frontier<T>,
    ) -> Vec<Order<T>> {
        if !self.mints() {
            return Vec::new();
        }
        let configs = self.worker.cx.configs();
        let standby = STANDBY.get(configs);
        let silence_ms = standby.then(|| STANDBY_SILENCE_MS.get(configs) as u64);
        if standby {
            let now_ms = self.worker.cx.now_ms();
            self.state.step(Input::Clock(now_ms), &mut self.effects);
        }
        self.state
            .step(Input::Standby(silence_ms), &mut self.effects);
        for input in inputs {
            if let Input::Upper(upper) = &input {
                debug_assert!(self.uppers < Some(*upper), "uppers strictly increase");
                self.uppers = Some(*upper);
            }
            self.state.step(input, &mut self.effects);
        }
        let desired = meet(frontier(0), frontier(1));
        if let Frontier::At(time) = desired
            && let Ok(time) = time_to_i64(time)
        {
            self.worker.instance.metrics.desired(time);
        }
        self.state.step(Input::Desired(desired), &mut self.effects);

        let mut orders = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Mint(description) => self.send(description),
                Effect::Provisional { lower, open } => {
                    if let Some(capability) = self.capability.clone() {
                        self.tell(&capability, &Notice::Provisional { lower, open });
                    }
                }
                Effect::Bump { id, lower, upper } => orders.push(Order::Bump { id, lower, upper }),
                Effect::Wake(at_ms) => orders.push(Order::Wake(at_ms)),
                Effect::Role(role) => self.worker.instance.role(role),
                Effect::Downgrade(Frontier::At(upper)) => {
                    if let Some(capability) = &mut self.capability {
                        capability.downgrade(&upper);
                    }
                }
                Effect::Downgrade(Frontier::Empty) => self.stop(),
                Effect::Gap { upper, as_of } => self.worker.instance.fail(Error::Gap {
                    upper: format!("{upper:?}"),
                    as_of: match as_of {
                        Frontier::At(time) => format!("{time:?}"),
                        Frontier::Empty => "no time".to_owned(),
                    },
                }),
            }
        }
        orders
    }

    /// Sends a description to every worker.
    fn send(&mut self, description: Description<T>) {
        let Some(capability) = &self.capability else {
            return;
        };
        let span = description.span(&self.worker.instance.name, self.worker.index);
        span.in_scope(|| tracing::debug!("minted"));
        self.worker.instance.metrics.batches_minted.add(1);
        let at_lower = capability.delayed(&description.lower);
        self.tell(&at_lower, &Notice::Minted(description));
    }

    /// Tells every worker.
    fn tell(&mut self, capability: &Capability<T>, notice: &Notice<T>) {
        let mut output = self.notices_out.activate();
        let mut session = output.session(capability);
        for target in 0..self.worker.peers {
            session.give((target, notice.clone()));
        }
    }
}

/// Passes on what has arrived at one input.
fn pass<D: Data, T: Timestamp, R: Diff>(
    input: &mut LocalInput<T, (D, T, R)>,
    output: &mut Output<T, Routed<D, T, R>>,
    router: &mut Router<D, T, R>,
) {
    input.for_each_time(|time, containers| {
        let mut output = output.activate();
        let mut session = output.session(&time);
        router.route(containers, |routed| {
            session.give_container(&mut vec![routed]);
        });
    });
}
