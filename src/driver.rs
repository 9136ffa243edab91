//! What runs the operators of a sink.
//!
//! An operator is built once, whatever runs it: its inputs and outputs, how they are exchanged, and what travels on
//! them; how that which one activation saw becomes steps of its state, messages to other operators, and *orders*:
//! work that takes long. The driver does that work, and brings back what became of it:
//!
//! ```text
//!   sync:   operator ── orders, through one ordered channel ──▶ Tokio task
//!                    ◀── replies, through one queue and one wake-up ──
//! ```

pub(crate) mod sync;

use timely::communication::Pull;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::{LogPuller, ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::{InputHandleCore, OutputBuilder};
use timely::progress::frontier::MutableAntichain;

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
