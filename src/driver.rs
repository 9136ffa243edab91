//! What runs the operators of a sink: one of two drivers around the same states.
//!
//! An operator is built once, whichever driver runs it: its inputs and outputs, how they are exchanged, and what
//! travels on them; how that which one activation saw becomes steps of its state, messages to other operators, and
//! *orders*: work that takes long. The drivers differ in who does that work, and in where what arrives meanwhile waits:
//!
//! ```text
//!   sync:    operator ── orders, through one ordered channel ──▶ Tokio task
//!                     ◀── replies, through one queue and one wake-up ──
//!
//!   async:   operator = body { look at what has arrived; do as ordered, awaiting it in place }
//! ```
//!
//! So workers and processes that run different drivers fit together, and a sink may be rendered by another driver
//! than the one before it on the same shard.

pub(crate) mod asynchronous;
mod body;
pub(crate) mod sync;

use std::panic::{AssertUnwindSafe, catch_unwind};

use timely::communication::Pull;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::{LogPuller, ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::{InputHandleCore, OutputBuilder};
use timely::progress::frontier::MutableAntichain;

use crate::dyncfg::{ConfigSet, ENABLE_SYNC_MV_SINK};
use crate::worker::Worker;

/// Runs one step of an operator that never waits; `None` if it has panicked. A panic fails the sink, or source, and goes no
/// further: the worker has others to run. What the step has left half-done is not for anybody to go on with.
pub(crate) fn guarded<O>(worker: &Worker, step: impl FnOnce() -> O) -> Option<O> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(output) => Some(output),
        Err(panic) => {
            worker.panicked(panic.as_ref());
            None
        }
    }
}

/// Who runs the operators of one sink on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Operators that never wait, each with a task.
    Sync,
    /// Operators that await in place.
    Async,
}

impl Driver {
    /// The one that the flags ask for now.
    pub(crate) fn of(configs: &ConfigSet) -> Self {
        if ENABLE_SYNC_MV_SINK.get(configs) {
            Driver::Sync
        } else {
            Driver::Async
        }
    }
}

/// An input whose records stay on their worker.
pub(crate) type LocalInput<T, U> =
    InputHandleCore<T, Vec<U>, <Pipeline as ParallelizationContract<T, Vec<U>>>::Puller>;

/// An input whose records are exchanged between workers.
pub(crate) type ExchangedInput<T, U> =
    InputHandleCore<T, Vec<U>, LogPuller<Box<dyn Pull<Message<T, Vec<U>>>>>>;

/// An output.
pub(crate) type Output<T, U> = OutputBuilder<T, CapacityContainerBuilder<Vec<U>>>;

/// The logic of an operator: called with the frontiers of its inputs; true while it must not be shut down.
pub(crate) type Logic<T> = Box<dyn FnMut(&[MutableAntichain<T>]) -> bool>;
