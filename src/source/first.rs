//! The version that a collection begins with, the same on all workers.
//!
//! Each file is read by one worker. What a file holds may have been merged into another one a version later, which may
//! be another worker's. So one worker pins a version and tells all others, wherever they are, which files it has. It
//! does so when all have said which version they know, and takes none that is older: then what one worker holds keeps
//! the files that it is told of.
//!
//! ```text
//!   every worker: hold ── its version ──▶ worker 0: wait for the latest, pin ── First ──▶ every worker: read, follow
//! ```
//!
//! Whoever is told of a version that its process has not heard of yet reads its files all the same.

use std::sync::Arc;

use mvsink_persist::{DataFile, Frontier, Pinned, Shard};
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use tokio::sync::oneshot;

use crate::bounds::Timestamp;
use crate::error::Error;
use crate::wake::{Replies, replies};
use crate::worker::Worker;

/// The worker that pins the version.
const ANNOUNCER: usize = 0;

/// What a collection begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct First {
    pub(super) version: u64,
    pub(super) upper: Frontier<i64>,
    pub(super) files: Vec<FirstFile>,
}

/// A file that a collection begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FirstFile {
    /// Its path, as the log has it.
    pub(super) path: String,
    /// The log says what its rows add up to, as only sinks and merges do.
    pub(super) summed: bool,
}

impl From<&Pinned> for First {
    fn from(pinned: &Pinned) -> Self {
        First {
            version: pinned.progress.version,
            upper: pinned.progress.upper,
            files: pinned
                .files()
                .map(|file| FirstFile::from(&**file))
                .collect(),
        }
    }
}

impl From<&DataFile> for FirstFile {
    fn from(file: &DataFile) -> Self {
        FirstFile {
            path: file.path.clone(),
            summed: file.summed().is_some(),
        }
    }
}

/// One worker's part in the agreement: its task's.
pub(crate) struct Agreement {
    /// Says which version this worker knows.
    ready: Replies<u64>,
    /// The latest version that a worker knows, and where to announce the first one; one worker's.
    announcer: Option<(oneshot::Receiver<u64>, Replies<First>)>,
    hear: oneshot::Receiver<First>,
}

impl Agreement {
    /// The version that all begin with, readable from `floor` on, once that is agreed on. What is held already keeps its
    /// files.
    pub(super) async fn first(self, shard: &Shard, floor: i64) -> Result<First, Error> {
        // An operator that is gone ends this task, wherever it waits.
        let _ = self.ready.send(shard.progress().version);
        drop(self.ready);
        if let Some((latest, announce)) = self.announcer {
            let latest = heard(latest).await;
            let mut watcher = shard.watch();
            while watcher.progress().version < latest {
                watcher.changed().await?;
            }
            let pinned = shard.pin();
            // Who could take no hold has kept nobody from moving the since.
            pinned.check_readable(floor)?;
            let _ = announce.send(First::from(&pinned));
        }
        Ok(heard(self.hear).await)
    }
}

async fn heard<M>(hear: oneshot::Receiver<M>) -> M {
    match hear.await {
        Ok(message) => message,
        Err(_) => std::future::pending().await,
    }
}

/// What every worker is told, each by its number.
pub(super) type Announcements<'s, T> = StreamVec<'s, T, (usize, First)>;

/// Renders the agreement; gives this worker's part, and where what it hears is to go.
pub(super) fn agree<'s, T: Timestamp>(
    worker: &Worker,
    scope: Scope<'s, T>,
) -> (Agreement, oneshot::Sender<First>, Announcements<'s, T>) {
    let (ready, versions) = tell_ready(worker, scope);
    let (latest, announce, announcements) = announce(worker, scope, versions);
    let announcer = (worker.index == ANNOUNCER).then_some((latest, announce));
    let (heard, hear) = oneshot::channel();
    let agreement = Agreement {
        ready,
        announcer,
        hear,
    };
    (agreement, heard, announcements)
}

/// Passes on which version this worker knows.
fn tell_ready<'s, T: Timestamp>(
    worker: &Worker,
    scope: Scope<'s, T>,
) -> (Replies<u64>, StreamVec<'s, T, u64>) {
    let name = format!("mvsink::ready({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    let (output, versions) = builder.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<u64>>>::from(output);
    let waker = worker.waker(&scope, &builder.operator_info());
    let (ready, inbox) = replies(&waker);
    let stop = Arc::clone(&worker.stop);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        move |_frontiers| {
            let awake = waker.awake();
            let told = inbox.drain(&awake, |version: u64| {
                if let Some(capability) = &capability {
                    output.activate().session(capability).give(version);
                }
            });
            // A task that nobody runs never ends.
            if told || stop.is_stopped(&awake) {
                capability = None;
            }
        }
    });
    (ready, versions)
}

/// Gathers, on one worker, which versions are known, and passes on to all what it announces then.
fn announce<'s, T: Timestamp>(
    worker: &Worker,
    scope: Scope<'s, T>,
    versions: StreamVec<'s, T, u64>,
) -> (oneshot::Receiver<u64>, Replies<First>, Announcements<'s, T>) {
    let name = format!("mvsink::first({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    let (output, announcements) = builder.new_output();
    let mut output =
        OutputBuilder::<_, CapacityContainerBuilder<Vec<(usize, First)>>>::from(output);
    let to_announcer = Exchange::new(|_: &u64| ANNOUNCER as u64);
    let mut versions = builder.new_input_connection(versions, to_announcer, []);
    let waker = worker.waker(&scope, &builder.operator_info());
    let (announce, inbox) = replies(&waker);
    let (gathered, latest) = oneshot::channel();
    let (index, peers) = (worker.index, worker.peers);
    let stop = Arc::clone(&worker.stop);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop().filter(|_| index == ANNOUNCER);
        let mut gathered = Some(gathered);
        let mut known = Vec::with_capacity(peers);
        move |_frontiers| {
            let awake = waker.awake();
            versions.for_each(|_, said| known.append(said));
            if known.len() == peers
                && let (Some(gathered), Some(latest)) = (gathered.take(), known.iter().max())
            {
                // A task that is gone announces nothing.
                let _ = gathered.send(*latest);
            }
            let told = inbox.drain(&awake, |first: First| {
                if let Some(capability) = &capability {
                    let mut output = output.activate();
                    let mut session = output.session(capability);
                    (0..peers).for_each(|target| session.give((target, first.clone())));
                }
            });
            if told || stop.is_stopped(&awake) {
                capability = None;
            }
        }
    });
    (latest, announce, announcements)
}
