//! The synchronous driver: an operator never waits and does no I/O; its task never touches Timely.
//!
//! Orders go to the task through one ordered channel ([`crate::channel`]), what comes back through one queue and one
//! wake-up for many replies ([`crate::wake`]). A task ends with its operator, or with the sink.
//!
//! Invariant, *a panic is a failure*: one in an operator fails the sink, and goes no further.

use std::sync::Arc;

use mvsink_persist::{Codec, CommitId, Frontier, StagedFile};
use tokio::sync::mpsc;

use super::{Logic, guarded};
use crate::append;
use crate::bounds::{Data, Diff, Timestamp, frontier_of};
use crate::channel::{
    AppendCommand, AppendReceiver, WriteCommand, WriteReceiver, append_channel, write_channel,
};
use crate::counters::Size;
use crate::description::{Description, Part, Staged};
use crate::error::Error;
use crate::mint::{self, Order, Watch};
use crate::wake::{Replies, Waker, replies};
use crate::worker::Worker;
use crate::write::{self, Batch};

/// Drives mint.
pub(crate) fn mint<D: Data, E: Data, T: Timestamp, R: Diff>(
    mut operator: mint::Operator<D, E, T, R>,
    waker: Arc<Waker>,
) -> Logic<T> {
    let worker = operator.worker().clone();
    let (upstream, inbox) = replies(&waker);
    let (orders, received) = mpsc::unbounded_channel();
    let mut orders = operator.mints().then_some(orders);
    if operator.mints() {
        worker.spawn(mint_task(worker.clone(), received, upstream));
    }
    Box::new(move |frontiers| {
        let awake = waker.awake();
        guarded(&worker, || operator.pass_through());
        if worker.stop.is_stopped(&awake) {
            operator.stop();
        }
        let mut inputs = Vec::new();
        inbox.drain(&awake, |input| inputs.push(input));
        let activated = guarded(&worker, || {
            operator.activate(inputs, |input| frontier_of(&frontiers[input]))
        });
        if activated.is_none() {
            operator.stop();
        }
        for order in activated.into_iter().flatten() {
            if let Some(orders) = &orders {
                // A task that is gone has failed the sink.
                let _ = orders.send(order);
            }
        }
        if !operator.mints() {
            orders = None;
        }
        false
    })
}

async fn mint_task<T: Timestamp>(
    worker: Worker,
    mut orders: mpsc::UnboundedReceiver<Order<T>>,
    replies: Replies<mint::Input<T>>,
) -> Result<(), Error> {
    let stop = Arc::clone(&worker.stop);
    let work = async {
        let mut watch = Watch::open(worker).await?;
        loop {
            let input = tokio::select! {
                biased;
                order = orders.recv() => {
                    let Some(order) = order else { return Ok(()) };
                    match watch.follow(order).await? {
                        Some(input) => input,
                        None => continue,
                    }
                }
                input = watch.next() => input?,
            };
            let last = input == mint::Input::Upper(Frontier::Empty);
            // An operator that is gone has closed its requests too.
            let _ = replies.send(input);
            if last {
                return Ok(());
            }
        }
    };
    stop.or_stop(work).await.unwrap_or(Ok(()))
}

/// Drives write.
pub(crate) fn write<D: Data, E: Data, T: Timestamp, R: Diff>(
    mut operator: write::Operator<D, E, T, R>,
    waker: Arc<Waker>,
    codec: Codec<D, E>,
    store: write::Store<D, E, T, R>,
) -> Logic<T> {
    let worker = operator.worker().clone();
    let (upstream, inbox) = replies(&waker);
    let (commands, receiver) = write_channel(Arc::clone(&worker.instance.meter));
    let (mut rest, resting) = write::rest();
    let size = Arc::clone(operator.size());
    worker.spawn(write_task(
        worker.clone(),
        codec,
        store,
        size,
        receiver,
        resting,
        upstream,
    ));
    let mut commands = Some(commands);
    let mut broken = false;
    Box::new(move |frontiers| {
        let awake = waker.awake();
        if worker.stop.is_stopped(&awake) {
            // The task ends, once it has staged what it is staging.
            commands = None;
        }
        let done = guarded(&worker, || {
            let ended = inbox.drain(&awake, |(id, files)| {
                // What is staged for a broken one is sent to nobody, and left to a sweeper.
                if !broken {
                    operator.staged(id, files);
                }
            });
            match &mut commands {
                Some(commands) => {
                    let mut orders = operator.activate(|input| frontier_of(&frontiers[input]));
                    if let Some(id) = rest.answer(&mut orders) {
                        operator.staged_nothing(id);
                    }
                    commands
                        .activation()
                        .batch(orders.batch)
                        .write_batch(orders.write);
                }
                None => operator.wind_up(!ended && !broken),
            }
        });
        if done.is_none() {
            broken = true;
            commands = None;
            operator.wind_up(false);
        }
        false
    })
}

type WriteCommands<D, E, T, R> = WriteReceiver<Batch<D, E, T, R>, Description<T>>;

async fn write_task<D: Data, E: Data, T: Timestamp, R: Diff>(
    worker: Worker,
    codec: Codec<D, E>,
    store: write::Store<D, E, T, R>,
    size: Arc<Size>,
    mut commands: WriteCommands<D, E, T, R>,
    mut resting: write::Resting,
    replies: Replies<(CommitId, Staged<StagedFile>)>,
) -> Result<(), Error> {
    let stop = Arc::clone(&worker.stop);
    let Some(mut task) = write::Task::open(worker, codec, store, size).await? else {
        return Ok(());
    };
    // A stop interrupts the waiting, not the work.
    while let Some(Some(command)) = stop.or_stop(commands.recv()).await {
        match command {
            WriteCommand::Batch(batch) => {
                if !task.apply(batch).await? {
                    break;
                }
            }
            WriteCommand::WriteBatch(description) => {
                let id = description.id;
                let Some(staged) = task.write(description).await? else {
                    break;
                };
                // An operator that is gone sends nothing any more.
                if let Err((_, staged)) = replies.send((id, staged)) {
                    task.discard(&staged).await?;
                }
                if !task.finish().await? {
                    break;
                }
            }
        }
        resting.done(task.is_at_rest());
    }
    task.end().await;
    Ok(())
}

/// Drives append.
pub(crate) fn append<T: Timestamp>(
    mut operator: append::Operator<T>,
    waker: Arc<Waker>,
) -> Logic<T> {
    let worker = operator.worker().clone();
    let (upstream, inbox) = replies(&waker);
    let (commands, receiver) = append_channel(Arc::clone(&worker.instance.meter));
    worker.spawn(append_task(worker.clone(), receiver, upstream));
    let mut commands = Some(commands);
    Box::new(move |frontiers| {
        let awake = waker.awake();
        let seen = guarded(&worker, || {
            operator.activate(|input| frontier_of(&frontiers[input]))
        });
        let Some(seen) = seen else {
            commands = None;
            operator.stopped();
            operator.finish();
            return false;
        };
        // Also when the sink was stopped: the files of the parts that still come are somebody's to commit
        // or to delete. The task ends once no part can come any more.
        if let Some(commands) = &mut commands {
            commands
                .activation()
                .descriptions(seen.descriptions)
                .parts(seen.parts)
                .frontier(seen.frontier);
        }
        if operator.has_all_parts() {
            commands = None;
        }
        let ended = inbox.drain(&awake, |news| operator.tell(news));
        let stopped = worker.stop.is_stopped(&awake);
        if stopped {
            operator.stopped();
        }
        // A task that nobody runs never ends; while the shard is not open, it has begun nothing.
        let idle = stopped && worker.instance.shard.get().is_none();
        if (ended || idle) && operator.has_all_parts() {
            operator.finish();
        }
        false
    })
}

type AppendCommands<T> = AppendReceiver<Description<T>, Part<T, StagedFile>, Frontier<T>>;

async fn append_task<T: Timestamp>(
    worker: Worker,
    mut commands: AppendCommands<T>,
    replies: Replies<append::News<T>>,
) -> Result<(), Error> {
    let Some(mut task) = append::Task::open(worker.clone()).await? else {
        return Ok(());
    };
    while let Some(command) = commands.recv().await {
        let inputs: Vec<_> = match command {
            AppendCommand::Descriptions(descriptions) => descriptions
                .into_iter()
                .map(append::Input::Description)
                .collect(),
            AppendCommand::Parts(parts) => parts.into_iter().map(append::Input::Part).collect(),
            AppendCommand::Frontier(frontier) => vec![append::Input::Parts(frontier)],
        };
        for input in inputs {
            if let Some(news) = task.step(input).await?
                && !worker.has_all_workers()
            {
                // An operator that is gone tells nobody.
                let _ = replies.send(news);
            }
        }
    }
    // The operator is gone, and no part will come: what waits for one cannot complete.
    task.step(append::Input::Parts(Frontier::Empty)).await?;
    Ok(())
}
