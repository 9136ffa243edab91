//! Signals between the workers of a sink's or a source's dataflow, for those that are in other processes.
//!
//! Workers of one process share a follower of the shard's log and an instance ([`crate::instance`]). Those of several
//! processes share the log alone, and the dataflow; so the dataflow carries beside the data:
//!
//! ```text
//!   append ────── upper: this process has moved the shard's upper ──▶ workers elsewhere ──▶ their processes look at the log now
//!   append ────── vanished: a file of this batch was gone ──▶ workers elsewhere ──▶ mint, wherever it is, has it staged again
//!   append, source ── failed: it has failed in this process ────────▶ workers elsewhere ──▶ it fails there too
//! ```
//!
//! A hint saves others the wait for their next poll, and is never taken for the truth: what has become of the shard
//! its log alone tells. A description is a hint as well: its lower was the upper when it was minted. That a batch failed
//! since a file of it vanished, only its appender knows: mint believes that.
//!
//! Invariants, by name:
//!
//! - *no echo*: a failure that came from elsewhere is not passed on, since everybody was told;
//! - *told before let go*: a worker keeps the capability to signal until no part can come to it any more and its last
//!   commit has ended.

use mvsink_persist::{CommitId, Frontier};
use serde::{Deserialize, Serialize};
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::operate::FrontierInterest;

use crate::bounds::{Timestamp, frontier_to_i64};
use crate::driver::Output;
use crate::error::Error;
use crate::mint::Notice;
use crate::worker::Worker;

/// What one worker tells those of other processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Signal<T> {
    /// The shard's upper is this, or beyond.
    Upper(Frontier<T>),
    /// A staged file of this batch was gone before its commit: the batch is to be staged again.
    Vanished(CommitId),
    /// The sink or source has failed.
    Failed {
        /// The worker that says so.
        worker: usize,
        /// Why, in words: errors do not travel.
        message: String,
    },
}

/// One worker's voice.
pub(crate) struct Speaker<T: Timestamp> {
    worker: Worker,
    output: Output<T, (usize, Signal<T>)>,
    /// `None` once there is nothing left to tell.
    capability: Option<Capability<T>>,
    alarmed: bool,
}

impl<T: Timestamp> Speaker<T> {
    /// A voice with this output.
    pub(crate) fn new(
        worker: &Worker,
        output: Output<T, (usize, Signal<T>)>,
        capability: Capability<T>,
    ) -> Self {
        Speaker {
            worker: worker.clone(),
            output,
            capability: Some(capability),
            alarmed: false,
        }
    }

    /// Tells the workers of other processes.
    pub(crate) fn tell(&mut self, signal: &Signal<T>) {
        let Some(capability) = &self.capability else {
            return;
        };
        let (instance, peers) = (&self.worker.instance, self.worker.peers);
        let mut output = self.output.activate();
        let mut session = output.session(capability);
        for target in (0..peers).filter(|target| !instance.has_joined((*target, peers))) {
            session.give((target, signal.clone()));
        }
    }

    /// Tells the workers of other processes, once, if the sink or source has failed in this process.
    pub(crate) fn alarm(&mut self) {
        let Some(error) = self.worker.instance.failure().filter(|_| !self.alarmed) else {
            return;
        };
        self.alarmed = true;
        if !matches!(*error, Error::Elsewhere { .. }) {
            self.tell(&Signal::Failed {
                worker: self.worker.index,
                message: error.to_string(),
            });
        }
    }

    /// Nothing will be told any more.
    pub(crate) fn let_go(&mut self) {
        self.capability = None;
    }
}

/// Renders the ear of one worker, a sink's for what its mint tells too; none if it is the only one. It needs no driver: it
/// never waits.
pub(crate) fn listen<'s, T: Timestamp>(
    worker: &Worker,
    scope: Scope<'s, T>,
    notices: Option<StreamVec<'s, T, (usize, Notice<T>)>>,
    signals: StreamVec<'s, T, (usize, Signal<T>)>,
) {
    if worker.peers == 1 {
        return;
    }
    let name = format!("mvsink::listen({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    let by_target = Exchange::new(|(target, _): &(usize, Signal<T>)| *target as u64);
    let mut signals = builder.new_input(signals, by_target);
    builder.set_notify_for(0, FrontierInterest::Never);
    let mut notices = notices.map(|notices| {
        let by_target = Exchange::new(|(target, _): &(usize, Notice<T>)| *target as u64);
        let notices = builder.new_input(notices, by_target);
        builder.set_notify_for(1, FrontierInterest::Never);
        notices
    });
    let worker = worker.clone();
    builder.build(move |_capabilities| {
        move |_frontiers| {
            if let Some(notices) = &mut notices {
                notices.for_each(|_, data| {
                    for (_, notice) in data.drain(..) {
                        if let Notice::Minted(description) = notice {
                            hint(&worker, Frontier::At(description.lower));
                        }
                    }
                });
            }
            signals.for_each(|_, data| {
                for (_, signal) in data.drain(..) {
                    match signal {
                        Signal::Upper(upper) => hint(&worker, upper),
                        Signal::Vanished(id) => worker.instance.vanished(id),
                        Signal::Failed {
                            worker: there,
                            message,
                        } => worker.instance.fail(Error::Elsewhere {
                            name: worker.instance.name.clone(),
                            worker: there,
                            message,
                        }),
                    }
                }
            });
        }
    });
}

/// Has this process look at the log if it does not know of this upper yet.
fn hint<T: Timestamp>(worker: &Worker, upper: Frontier<T>) {
    if let (Some(shard), Ok(upper)) = (worker.instance.shard.get(), frontier_to_i64(upper))
        && shard.progress().upper < upper
    {
        shard.nudge();
    }
}
