//! The synchronous driver of `mint`: an operator, and a task that watches and bumps the shard.

use mvsink_persist::{Append, Appended, CommitId, Frontier, Shard};
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::Antichain;
use tokio::sync::mpsc;

use super::{Effect, Input, State};
use crate::bounds::{Data, Diff, Timestamp, frontier_from_i64, frontier_of, frontier_to_i64, meet};
use crate::description::{Description, Outcome};
use crate::error::Error;
use crate::target::Mode;
use crate::wake::{Replies, replies};
use crate::worker::Worker;

/// The streams of a desired collection: its rows, and its errors.
pub(crate) struct Desired<'s, D: 'static, E: 'static, T: Timestamp, R: 'static> {
    pub(crate) ok: StreamVec<'s, T, (D, T, R)>,
    pub(crate) err: StreamVec<'s, T, (E, T, R)>,
}

/// The outputs of mint: descriptions, each once for every worker and beside the worker that it is for, and
/// the desired collection as it came in.
pub(crate) struct Minted<'s, D: 'static, E: 'static, T: Timestamp, R: 'static> {
    pub(crate) descriptions: StreamVec<'s, T, (usize, Description<T>)>,
    pub(crate) desired: Desired<'s, D, E, T, R>,
}

struct Bump<T> {
    id: CommitId,
    lower: T,
    upper: T,
}

/// Renders mint. It decides on the worker that `minter` names, and passes `desired` through on all.
pub(crate) fn render<'s, D, E, T, R>(
    worker: &Worker,
    scope: Scope<'s, T>,
    desired: Desired<'s, D, E, T, R>,
    mode: Mode,
    as_of: T,
    minter: usize,
    nonce: u128,
) -> Minted<'s, D, E, T, R>
where
    D: Data,
    E: Data,
    T: Timestamp,
    R: Diff,
{
    let name = format!("mvsink::mint({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    let mut ok_in = builder.new_input(desired.ok, Pipeline);
    let mut err_in = builder.new_input(desired.err, Pipeline);
    let same = Antichain::from_elem(T::Summary::default());
    let (descriptions_out, descriptions) = builder.new_output_connection([]);
    let (ok_out, ok) = builder.new_output_connection([(0, same.clone())]);
    let (err_out, err) = builder.new_output_connection([(1, same)]);
    let mut descriptions_out = OutputBuilder::from(descriptions_out);
    let mut ok_out = OutputBuilder::<_, CapacityBuilder<(D, T, R)>>::from(ok_out);
    let mut err_out = OutputBuilder::<_, CapacityBuilder<(E, T, R)>>::from(err_out);

    let info = builder.operator_info();
    let waker = worker.waker(&scope, &info);
    let (upstream, inbox) = replies(&waker);
    let (bumps, bump_requests) = mpsc::unbounded_channel();
    let mints = worker.index == minter;
    if mints {
        worker.spawn(task(worker.clone(), bump_requests, upstream));
    }

    let worker = worker.clone();
    builder.build(move |mut capabilities| {
        // The capabilities of the two outputs that pass data through come with their inputs.
        capabilities.truncate(1);
        let mut capability: Option<Capability<T>> = capabilities.pop().filter(|_| mints);
        let mut bumps = mints.then_some(bumps);
        let mut state = State::new(mode, as_of, T::minimum(), worker.peers, nonce);
        let mut effects = Vec::new();
        let mut uppers: Option<Frontier<T>> = None;
        move |frontiers| {
            let awake = waker.awake();
            ok_in
                .for_each_time(|time, data| ok_out.activate().session(&time).give_containers(data));
            err_in.for_each_time(|time, data| {
                err_out.activate().session(&time).give_containers(data)
            });

            if worker.stop.is_stopped(&awake) {
                capability = None;
                bumps = None;
            }
            if capability.is_none() {
                return;
            }
            let mut inputs = Vec::new();
            inbox.drain(&awake, |input| inputs.push(input));
            for input in inputs {
                if let Input::Upper(upper) = &input {
                    debug_assert!(uppers < Some(*upper), "uppers strictly increase");
                    uppers = Some(*upper);
                }
                state.step(input, &mut effects);
            }
            let desired = meet(frontier_of(&frontiers[0]), frontier_of(&frontiers[1]));
            state.step(Input::Desired(desired), &mut effects);

            for effect in effects.drain(..) {
                match effect {
                    Effect::Mint(description) => {
                        tracing::debug!(
                            sink = %worker.instance.name, id = %description.id,
                            lower = ?description.lower, upper = ?description.upper, "minted"
                        );
                        if let Some(capability) = &capability {
                            let at_lower = capability.delayed(&description.lower);
                            let mut output = descriptions_out.activate();
                            let mut session = output.session(&at_lower);
                            for target in 0..worker.peers {
                                session.give((target, description.clone()));
                            }
                        }
                    }
                    Effect::Bump { id, lower, upper } => {
                        if let Some(bumps) = &bumps {
                            // A task that is gone has failed the sink.
                            let _ = bumps.send(Bump { id, lower, upper });
                        }
                    }
                    Effect::Downgrade(Frontier::At(upper)) => {
                        if let Some(capability) = &mut capability {
                            capability.downgrade(&upper);
                        }
                    }
                    Effect::Downgrade(Frontier::Empty) => {
                        capability = None;
                        bumps = None;
                    }
                    Effect::Gap { upper, as_of } => worker.instance.fail(Error::Gap {
                        upper: format!("{upper:?}"),
                        as_of: format!("{as_of:?}"),
                    }),
                }
            }
        }
    });
    Minted {
        descriptions,
        desired: Desired { ok, err },
    }
}

type CapacityBuilder<D> = timely::container::CapacityContainerBuilder<Vec<D>>;

/// Watches the shard's upper, and moves it where mint asks for it. The only one to send uppers: strictly
/// increasing, the empty frontier last.
async fn task<T: Timestamp>(
    worker: Worker,
    mut bumps: mpsc::UnboundedReceiver<Bump<T>>,
    replies: Replies<Input<T>>,
) -> Result<(), Error> {
    let stop = std::sync::Arc::clone(&worker.stop);
    stop.or_stop(watch(&worker, &mut bumps, &replies))
        .await
        .unwrap_or(Ok(()))
}

async fn watch<T: Timestamp>(
    worker: &Worker,
    bumps: &mut mpsc::UnboundedReceiver<Bump<T>>,
    replies: &Replies<Input<T>>,
) -> Result<(), Error> {
    let shard = worker.shard("open").await?;
    let mut read_only = worker.cx.read_only();
    let mut host_decides = true;
    let mut watcher = shard.watch();
    let mut known: Option<Frontier<i64>> = None;
    let first = *read_only.borrow_and_update();
    worker.instance.read_only(first);
    let mut next = Some(Input::ReadOnly(first));
    loop {
        // An operator that is gone has closed its requests too.
        if let Some(input) = next.take() {
            let _ = replies.send(input);
        }
        let upper = watcher.progress().upper;
        if known < Some(upper) {
            known = Some(upper);
            let _ = replies.send(Input::Upper(frontier_from_i64(upper)?));
            if upper.is_empty() {
                return Ok(());
            }
        }
        tokio::select! {
            progress = watcher.changed() => {
                progress?;
            }
            changed = read_only.changed(), if host_decides => match changed {
                Ok(()) => {
                    let now = *read_only.borrow_and_update();
                    worker.instance.read_only(now);
                    next = Some(Input::ReadOnly(now));
                }
                // A host that dropped its signal has decided for good.
                Err(_) => host_decides = false,
            },
            bump = bumps.recv() => match bump {
                Some(bump) => {
                    let outcome = move_upper(worker, &shard, &bump).await?;
                    next = Some(Input::Bumped(bump.id, outcome));
                }
                None => return Ok(()),
            },
        }
    }
}

async fn move_upper<T: Timestamp>(
    worker: &Worker,
    shard: &Shard,
    bump: &Bump<T>,
) -> Result<Outcome, Error> {
    let append = Append {
        id: bump.id,
        lower: frontier_to_i64(Frontier::At(bump.lower))?,
        upper: frontier_to_i64(Frontier::At(bump.upper))?,
        files: Vec::new(),
        since: None,
    };
    let stalled = |error: &mvsink_persist::Error| worker.instance.stalled("bump", error);
    let appended = shard.append(append, &stalled).await?;
    worker.instance.resumed("bump");
    Ok(match appended {
        Appended::Committed { .. } => Outcome::Done,
        Appended::Lost { .. } => Outcome::Lost,
    })
}
