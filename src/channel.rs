//! The command channels from operators to their tasks: first in, first out, in a fixed order.
//!
//! Each channel has one sender, that of its operator, which cannot be cloned. What one activation of the
//! operator sends, it sends phase by phase through a guard that each phase consumes:
//!
//! ```text
//!   write:   Batch ──▶ WriteBatch                  a batch holds every update seen when it was decided on
//!   append:  Descriptions ──▶ Parts ──▶ Frontier   a trigger never overtakes the data it triggers on
//! ```
//!
//! So a wrong order does not compile; and the receiving task asserts the right one at run time, by the
//! activation and the phase that each command is stamped with. At most one command a phase and activation.
//!
//! The queues are not bounded, since an activation of a Timely operator cannot wait; they are metered.

use crate::sync::{Arc, AtomicUsize, Notify, Ordering, mpsc};

/// What waits in the command queues of a sink: its owner throttles the sources by it.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    updates: AtomicUsize,
    bytes: AtomicUsize,
    /// Of the updates, those that were read back.
    read_back: AtomicUsize,
    /// Something was taken out.
    taken: Notify,
}

impl Meter {
    /// Updates that wait.
    pub(crate) fn updates(&self) -> usize {
        self.updates.load(Ordering::Relaxed)
    }

    /// Bytes that wait, without what the updates own on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until at most so many updates wait that were read back: who reads them need not be ahead by more.
    pub(crate) async fn read_back_at_most(&self, updates: usize) {
        loop {
            let taken = self.taken.notified();
            if self.read_back.load(Ordering::Relaxed) <= updates {
                return;
            }
            taken.await;
        }
    }
}

/// The weight of one command in the meter, for as long as it waits: it goes with the command, wherever that ends.
struct Weight {
    meter: Arc<Meter>,
    updates: usize,
    bytes: usize,
    read_back: usize,
}

impl Weight {
    fn of<C: Weigh>(command: &C, meter: &Arc<Meter>) -> Self {
        let weight = Weight {
            meter: Arc::clone(meter),
            updates: command.updates(),
            bytes: command.bytes(),
            read_back: command.read_back(),
        };
        meter.updates.fetch_add(weight.updates, Ordering::Relaxed);
        meter.bytes.fetch_add(weight.bytes, Ordering::Relaxed);
        meter
            .read_back
            .fetch_add(weight.read_back, Ordering::Relaxed);
        weight
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let meter = &self.meter;
        meter.updates.fetch_sub(self.updates, Ordering::Relaxed);
        meter.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        meter.read_back.fetch_sub(self.read_back, Ordering::Relaxed);
        meter.taken.notify_waiters();
    }
}

/// How much a command weighs in the meter of its queue.
pub(crate) trait Weigh {
    /// The number of updates in it.
    fn updates(&self) -> usize {
        0
    }
    /// The bytes of these updates.
    fn bytes(&self) -> usize {
        0
    }
    /// The number of those that were read back from the shard.
    fn read_back(&self) -> usize {
        0
    }
}

struct Stamped<C> {
    activation: u64,
    phase: u8,
    command: C,
    weight: Weight,
}

struct Sender<C> {
    commands: mpsc::UnboundedSender<Stamped<C>>,
    activation: u64,
    meter: Arc<Meter>,
}

impl<C: Weigh> Sender<C> {
    fn send(&self, phase: u8, command: C) {
        let weight = Weight::of(&command, &self.meter);
        // A task that has ended has reported why; what is sent to it is dropped with the sink.
        let _ = self.commands.send(Stamped {
            activation: self.activation,
            phase,
            command,
            weight,
        });
    }
}

/// The receiving end of a command channel.
pub(crate) struct Receiver<C> {
    commands: mpsc::UnboundedReceiver<Stamped<C>>,
    last: Option<(u64, u8)>,
}

impl<C> Receiver<C> {
    /// The next command; `None` once the operator is gone.
    pub(crate) async fn recv(&mut self) -> Option<C> {
        let Stamped {
            activation,
            phase,
            command,
            weight,
        } = self.commands.recv().await?;
        drop(weight);
        debug_assert!(
            self.last < Some((activation, phase)),
            "commands arrive in the order of activations and phases: {:?} after {:?}",
            (activation, phase),
            self.last,
        );
        self.last = Some((activation, phase));
        Some(command)
    }
}

fn channel<C: Weigh>(meter: Arc<Meter>) -> (Sender<C>, Receiver<C>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let sender = Sender {
        commands: tx,
        activation: 0,
        meter,
    };
    let receiver = Receiver {
        commands: rx,
        last: None,
    };
    (sender, receiver)
}

/// A command to the task of `write`: all data of an activation, or the order to write.
pub(crate) enum WriteCommand<B, W> {
    /// Everything that the operator saw in one activation.
    Batch(B),
    /// Write what has been sent so far.
    WriteBatch(W),
}

impl<B: Weigh, W> Weigh for WriteCommand<B, W> {
    fn updates(&self) -> usize {
        match self {
            WriteCommand::Batch(batch) => batch.updates(),
            WriteCommand::WriteBatch(_) => 0,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            WriteCommand::Batch(batch) => batch.bytes(),
            WriteCommand::WriteBatch(_) => 0,
        }
    }

    fn read_back(&self) -> usize {
        match self {
            WriteCommand::Batch(batch) => batch.read_back(),
            WriteCommand::WriteBatch(_) => 0,
        }
    }
}

/// The receiving end in the task of one `write` operator.
pub(crate) type WriteReceiver<B, W> = Receiver<WriteCommand<B, W>>;

/// The only sender to the task of one `write` operator.
pub(crate) struct WriteSender<B, W>(Sender<WriteCommand<B, W>>);

/// A channel from one `write` operator to its task.
pub(crate) fn write_channel<B: Weigh, W>(
    meter: Arc<Meter>,
) -> (WriteSender<B, W>, WriteReceiver<B, W>) {
    let (tx, rx) = channel(meter);
    (WriteSender(tx), rx)
}

impl<B: Weigh, W> WriteSender<B, W> {
    /// Begins the commands of one activation.
    pub(crate) fn activation(&mut self) -> BatchPhase<'_, B, W> {
        self.0.activation += 1;
        BatchPhase(&self.0)
    }
}

/// The activation may send its one batch of data.
#[must_use]
pub(crate) struct BatchPhase<'a, B, W>(&'a Sender<WriteCommand<B, W>>);

impl<'a, B: Weigh, W> BatchPhase<'a, B, W> {
    /// Sends the data of this activation, if there is any.
    pub(crate) fn batch(self, batch: Option<B>) -> WriteBatchPhase<'a, B, W> {
        if let Some(batch) = batch {
            self.0.send(0, WriteCommand::Batch(batch));
        }
        WriteBatchPhase(self.0)
    }
}

/// The activation may order one batch to be written.
pub(crate) struct WriteBatchPhase<'a, B, W>(&'a Sender<WriteCommand<B, W>>);

impl<B: Weigh, W> WriteBatchPhase<'_, B, W> {
    /// Orders this batch to be written, and ends the activation.
    pub(crate) fn write_batch(self, description: Option<W>) {
        if let Some(description) = description {
            self.0.send(1, WriteCommand::WriteBatch(description));
        }
    }
}

/// A command to the task of `append`.
pub(crate) enum AppendCommand<D, P, F> {
    /// Descriptions from mint.
    Descriptions(Vec<D>),
    /// Parts from the workers.
    Parts(Vec<P>),
    /// The frontier of the parts.
    Frontier(F),
}

impl<D, P, F> Weigh for AppendCommand<D, P, F> {}

/// The receiving end in the task of one `append` operator.
pub(crate) type AppendReceiver<D, P, F> = Receiver<AppendCommand<D, P, F>>;

/// The only sender to the task of one `append` operator.
pub(crate) struct AppendSender<D, P, F>(Sender<AppendCommand<D, P, F>>);

/// A channel from one `append` operator to its task.
pub(crate) fn append_channel<D, P, F>(
    meter: Arc<Meter>,
) -> (AppendSender<D, P, F>, AppendReceiver<D, P, F>) {
    let (tx, rx) = channel(meter);
    (AppendSender(tx), rx)
}

impl<D, P, F> AppendSender<D, P, F> {
    /// Begins the commands of one activation.
    pub(crate) fn activation(&mut self) -> DescriptionPhase<'_, D, P, F> {
        self.0.activation += 1;
        DescriptionPhase(&self.0)
    }
}

/// The activation may send its descriptions.
#[must_use]
pub(crate) struct DescriptionPhase<'a, D, P, F>(&'a Sender<AppendCommand<D, P, F>>);

impl<'a, D, P, F> DescriptionPhase<'a, D, P, F> {
    /// Sends the descriptions of this activation, if there are any.
    pub(crate) fn descriptions(self, descriptions: Vec<D>) -> PartPhase<'a, D, P, F> {
        if !descriptions.is_empty() {
            self.0.send(0, AppendCommand::Descriptions(descriptions));
        }
        PartPhase(self.0)
    }
}

/// The activation may send its parts.
#[must_use]
pub(crate) struct PartPhase<'a, D, P, F>(&'a Sender<AppendCommand<D, P, F>>);

impl<'a, D, P, F> PartPhase<'a, D, P, F> {
    /// Sends the parts of this activation, if there are any.
    pub(crate) fn parts(self, parts: Vec<P>) -> FrontierPhase<'a, D, P, F> {
        if !parts.is_empty() {
            self.0.send(1, AppendCommand::Parts(parts));
        }
        FrontierPhase(self.0)
    }
}

/// The activation may send its frontier.
pub(crate) struct FrontierPhase<'a, D, P, F>(&'a Sender<AppendCommand<D, P, F>>);

impl<D, P, F> FrontierPhase<'_, D, P, F> {
    /// Sends the frontier, if it moved, and ends the activation.
    pub(crate) fn frontier(self, frontier: Option<F>) {
        if let Some(frontier) = frontier {
            self.0.send(2, AppendCommand::Frontier(frontier));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for Vec<u8> {
        fn updates(&self) -> usize {
            self.len()
        }
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn an_activation_arrives_in_the_order_of_its_phases() {
        let (mut tx, mut rx) = write_channel::<Vec<u8>, u8>(Arc::default());
        tx.activation().batch(Some(vec![1])).write_batch(Some(7));
        tx.activation().batch(None).write_batch(Some(8));
        tx.activation().batch(Some(vec![2])).write_batch(None);
        drop(tx);
        let mut seen = Vec::new();
        run(async {
            while let Some(command) = rx.recv().await {
                seen.push(match command {
                    WriteCommand::Batch(batch) => format!("batch {batch:?}"),
                    WriteCommand::WriteBatch(description) => format!("write {description}"),
                });
            }
        });
        assert_eq!(seen, ["batch [1]", "write 7", "write 8", "batch [2]"]);
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "it is a debug assertion")]
    #[should_panic(expected = "in the order of activations and phases")]
    fn r15_a_reordered_channel_trips_the_assertion() {
        let (tx, mut rx) = channel::<WriteCommand<Vec<u8>, u8>>(Arc::default());
        tx.send(1, WriteCommand::WriteBatch(7));
        tx.send(0, WriteCommand::Batch(vec![1]));
        drop(tx);
        run(async { while rx.recv().await.is_some() {} });
    }

    /// So many bytes, as many updates, of which so many were read back.
    struct Heavy {
        updates: usize,
        read_back: usize,
    }

    impl Weigh for Heavy {
        fn updates(&self) -> usize {
            self.updates
        }

        fn bytes(&self) -> usize {
            8 * self.updates
        }

        fn read_back(&self) -> usize {
            self.read_back
        }
    }

    #[test]
    fn the_meter_counts_what_waits() {
        let meter = Arc::<Meter>::default();
        let waits = || {
            let read_back = meter.read_back.load(Ordering::Relaxed);
            (meter.updates(), meter.bytes(), read_back)
        };
        let (mut tx, mut rx) = write_channel::<Heavy, u8>(Arc::clone(&meter));
        let heavy = |updates, read_back| Some(Heavy { updates, read_back });
        tx.activation().batch(heavy(3, 2)).write_batch(None);
        tx.activation().batch(heavy(4, 0)).write_batch(Some(7));
        assert_eq!(waits(), (7, 56, 2));
        run(rx.recv());
        assert_eq!(waits(), (4, 32, 0));
        drop(rx);
        assert_eq!(waits(), (0, 0, 0));
    }

    #[test]
    fn what_is_no_data_weighs_nothing() {
        struct Nothing;
        impl Weigh for Nothing {}
        assert_eq!(
            (Nothing.updates(), Nothing.bytes(), Nothing.read_back()),
            (0, 0, 0)
        );
    }

    #[test]
    fn who_reads_back_waits_until_little_waits() {
        let meter = Arc::<Meter>::default();
        let (mut tx, mut rx) = write_channel::<Heavy, u8>(Arc::clone(&meter));
        let mut send = |read_back| {
            let heavy = Heavy {
                updates: 9,
                read_back,
            };
            tx.activation().batch(Some(heavy)).write_batch(None);
        };
        send(3);
        send(2);
        run(async {
            let mut wait = std::pin::pin!(meter.read_back_at_most(2));
            assert!(futures::poll!(wait.as_mut()).is_pending());
            rx.recv().await;
            assert!(futures::poll!(wait.as_mut()).is_ready());
        });
    }
}
