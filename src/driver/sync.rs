//! The synchronous driver: an operator never waits and does no I/O; its task never touches Timely.
//!
//! Orders go to the task through one ordered channel ([`crate::channel`]), what comes back through one queue and one
//! wake-up for many replies ([`crate::wake`]). A task ends with its operator, or with the sink.

use std::sync::Arc;

use mvsink_persist::{Codec, CommitId, Frontier, StagedFile};
use tokio::sync::mpsc;

use super::Logic;
use crate::append;
use crate::bounds::{Data, Diff, Timestamp};
use crate::channel::{
    AppendCommand, AppendReceiver, WriteCommand, WriteReceiver, append_channel, write_channel,
};
use crate::description::{Description, Part};
use crate::error::Error;
use crate::mint::{self, Bump, Watch};
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
    let (bumps, requests) = mpsc::unbounded_channel();
    let mut bumps = operator.mints().then_some(bumps);
    if operator.mints() {
        worker.spawn(mint_task(worker.clone(), requests, upstream));
    }
    Box::new(move |frontiers| {
        let awake = waker.awake();
        operator.pass_through();
        if worker.stop.is_stopped(&awake) {
            operator.stop();
        }
        let mut inputs = Vec::new();
        inbox.drain(&awake, |input| inputs.push(input));
        for bump in operator.activate(inputs, frontiers) {
            if let Some(bumps) = &bumps {
                // A task that is gone has failed the sink.
                let _ = bumps.send(bump);
            }
        }
        if !operator.mints() {
            bumps = None;
        }
        false
    })
}

async fn mint_task<T: Timestamp>(
    worker: Worker,
    mut bumps: mpsc::UnboundedReceiver<Bump<T>>,
    replies: Replies<mint::Input<T>>,
) -> Result<(), Error> {
    let stop = Arc::clone(&worker.stop);
    let work = async {
        let mut watch = Watch::open(worker).await?;
        loop {
            let input = tokio::select! {
                input = watch.next() => input?,
                bump = bumps.recv() => match bump {
                    Some(bump) => watch.bump(bump).await?,
                    None => return Ok(()),
                },
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
    worker.spawn(write_task(worker.clone(), codec, store, receiver, upstream));
    let mut commands = Some(commands);
    Box::new(move |frontiers| {
        let awake = waker.awake();
        if worker.stop.is_stopped(&awake) {
            // The task ends, once it has staged what it is staging.
            commands = None;
        }
        let ended = inbox.drain(&awake, |(id, files)| operator.staged(id, files));
        match &mut commands {
            Some(commands) => {
                let orders = operator.activate(frontiers);
                commands
                    .activation()
                    .batch(orders.batch)
                    .write_batch(orders.write);
            }
            None => operator.wind_up(!ended),
        }
        false
    })
}

type WriteCommands<D, E, T, R> = WriteReceiver<Batch<D, E, T, R>, Description<T>>;

async fn write_task<D: Data, E: Data, T: Timestamp, R: Diff>(
    worker: Worker,
    codec: Codec<D, E>,
    store: write::Store<D, E, T, R>,
    mut commands: WriteCommands<D, E, T, R>,
    replies: Replies<(CommitId, Vec<StagedFile>)>,
) -> Result<(), Error> {
    let stop = Arc::clone(&worker.stop);
    let Some(mut task) = write::Task::open(worker, codec, store).await? else {
        return Ok(());
    };
    // A stop interrupts the waiting, not the work.
    while let Some(Some(command)) = stop.or_stop(commands.recv()).await {
        match command {
            WriteCommand::Batch(batch) => task.apply(batch).await?,
            WriteCommand::WriteBatch(description) => {
                let id = description.id;
                let Some(files) = task.write(description).await? else {
                    return Ok(());
                };
                if let Err((_, files)) = replies.send((id, files)) {
                    task.discard(&files).await;
                }
            }
        }
    }
    Ok(())
}

/// Drives append.
pub(crate) fn append<T: Timestamp>(mut operator: append::Operator<T>) -> Logic<T> {
    let worker = operator.worker().clone();
    let (mut commands, receiver) = append_channel(Arc::clone(&worker.instance.meter));
    worker.spawn(append_task(worker.clone(), receiver));
    Box::new(move |frontiers| {
        let seen = operator.activate(frontiers);
        // Also when the sink was stopped: the files of the parts that still come are somebody's to commit
        // or to delete. The task ends with this operator, once no part can come any more.
        commands
            .activation()
            .descriptions(seen.descriptions)
            .parts(seen.parts)
            .frontier(seen.frontier);
        false
    })
}

type AppendCommands<T> = AppendReceiver<Description<T>, Part<T, StagedFile>, Frontier<T>>;

async fn append_task<T: Timestamp>(
    worker: Worker,
    mut commands: AppendCommands<T>,
) -> Result<(), Error> {
    let Some(mut task) = append::Task::open(worker).await? else {
        return Ok(());
    };
    while let Some(command) = commands.recv().await {
        match command {
            AppendCommand::Descriptions(descriptions) => {
                for description in descriptions {
                    task.step(append::Input::Description(description)).await?;
                }
            }
            AppendCommand::Parts(parts) => {
                for part in parts {
                    task.step(append::Input::Part(part)).await?;
                }
            }
            AppendCommand::Frontier(frontier) => {
                task.step(append::Input::Parts(frontier)).await?;
            }
        }
    }
    // The operator is gone, and no part will come: what waits for one cannot complete.
    task.step(append::Input::Parts(Frontier::Empty)).await
}
