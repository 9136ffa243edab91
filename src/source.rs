//! A shard as a collection, and as the read-back of a sink.
//!
//! Every worker follows the shard's log by itself. Per commit `(lower, upper)` it emits the rows that fall to it at
//! capabilities at `lower`, and only then lets the frontier pass to `upper`. Which rows fall to it depends on who reads:
//!
//! - of a *collection* for users each file is read by one worker, named by a hash of its path. Its rows come in
//!   whatever distribution the files have. All workers start from [one version](first), since a file of one
//!   may be merged into another in the next; and they cannot skip a part of the log, unless there is but one.
//! - the *read-back of a view* reads on each worker the rows of its own buckets. They need no exchange, since the
//!   rows of desired are routed by bucket too; and workers may start from different versions, or skip a part of the
//!   log, each by itself. It begins with a [comparison](crate::comparison), and reads where that finds a difference.
//! - the read-back of an *ingest* sink reads no rows.
//!
//! For a sink, the stream of marks tells beside the rows what this worker has a part in: [`Mark::Pinned`] when there is
//! something to compare, [`Mark::Settled`] after all that differs, and [`Mark::Own`] in place of the rows of a commit
//! whose identity was registered before. A mark comes before the frontier passes its commit's lower.
//!
//! Nothing that is torn down lets a frontier pass: a collection that fails, or is dropped, keeps its capability for as
//! long as a sink might take it for the end of its input ([`crate::share`]).

mod condemned;
mod files;
mod first;
mod multiplicity;
mod read;
mod seen;
mod start;
mod task;

pub(crate) use files::OpenFile;
pub(crate) use task::{Purpose, Reading};

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use differential_dataflow::{AsCollection, VecCollection};
use mvsink_persist::{Codec, CommitId, Frontier};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::operate::FrontierInterest;
use tokio::sync::{Semaphore, oneshot};

use self::first::First;
use crate::bounds::{Data, Diff, Timestamp, frontier_of, frontier_to_i64};
use crate::context::Context;
use crate::driver::Output;
use crate::dyncfg::SOURCE_CREDITS;
use crate::error::Error;
use crate::handle::Handle;
use crate::share::TornDown;
use crate::signal::{self, Speaker};
use crate::wake::replies;
use crate::worker::{Opening, Worker};

/// What the read-back of a sink says beside the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark<T> {
    /// A version is pinned, and its rows are to be compared with those of desired at this time: at the start, or since the
    /// read-back was left behind.
    Pinned(T),
    /// What differs from the version pinned was sent; every later commit will be met.
    Settled,
    /// The commit of this batch, a part of which was this worker's, was met; its rows are not sent.
    Own(CommitId),
    /// This file, by its path in the log, is to be removed by the next batch: its rows are not sent, or not all of
    /// them can be.
    Condemned(String),
    /// A file that was to be removed is live no more.
    Gone(String),
    /// What was sent before has rows that the view did not write, or lacks rows that it wrote.
    Edited,
}

/// What a source reads, in the order of the log. One stream has all of it, since each stream has a frontier to be kept.
#[derive(Clone)]
pub(crate) enum Piece<D, E, T, R> {
    Rows(Vec<(D, T, R)>),
    Errors(Vec<(E, T, R)>),
    Mark(Mark<T>),
}

/// What a source's task tells its operator.
pub(crate) enum Message<D, E, T, R> {
    Piece(Piece<D, E, T, R>),
    Frontier(Frontier<T>),
}

/// The identities of the batches that this worker has a part in, from before the part is sent until the
/// read-back has passed the commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnCommits(Arc<Mutex<BTreeSet<CommitId>>>);

impl OwnCommits {
    /// Has the read-back replace the rows of this commit by a mark.
    pub(crate) fn register(&self, id: CommitId) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id);
    }

    /// True if the identity is registered.
    pub(crate) fn contains(&self, id: &CommitId) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(id)
    }

    /// The read-back has passed the commit of this batch, or its loss.
    pub(crate) fn forget(&self, id: &CommitId) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }
}

/// How many chunks of what a source reads may wait to be taken up; whoever takes them up gives the credits back.
#[derive(Clone, Debug)]
pub(crate) struct Credits(Arc<Semaphore>);

impl Credits {
    /// As many as the flag says now.
    pub(crate) fn new(cx: &Context) -> Self {
        let credits = SOURCE_CREDITS.get(cx.configs()).max(1);
        Credits(Arc::new(Semaphore::new(credits)))
    }

    /// Waits for one.
    async fn take(&self) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }

    /// Gives back that of this piece, if it took one.
    pub(crate) fn give_back<D, E, T, R>(&self, piece: &Piece<D, E, T, R>) {
        if !matches!(piece, Piece::Mark(_)) {
            self.0.add_permits(1);
        }
    }
}

/// Renders a shard as a collection: its contents at `as_of`, with all earlier times advanced to it, and its
/// changes from then on. Rows come in whatever distribution the shard's files have.
///
/// The shard must exist. The collection's frontier is the shard's upper, once that is beyond the as-of.
///
/// The columns are those that the type of the rows tells; [`persist_source_with`] takes others.
///
/// # Errors
///
/// If `D` or `E` has no schema. What goes wrong later (no such shard, another schema, a since beyond the
/// as-of) is in the status of the handle, and holds the frontier where it is.
pub fn persist_source<'s, D, E, T, R>(
    cx: &Context,
    scope: Scope<'s, T>,
    name: &str,
    url: &str,
    as_of: T,
) -> Result<Source<'s, D, E, T, R>, Error>
where
    D: Data,
    E: Data,
    T: Timestamp,
    R: Diff,
{
    persist_source_with(cx, scope, name, url, Codec::new()?, as_of)
}

/// [`persist_source`] with columns of one's own, as [`persist_sink_with`](crate::persist_sink_with).
///
/// # Errors
///
/// None for now. What goes wrong later is in the status of the handle.
pub fn persist_source_with<'s, D, E, T, R>(
    cx: &Context,
    scope: Scope<'s, T>,
    name: &str,
    url: &str,
    codec: Codec<D, E>,
    as_of: T,
) -> Result<Source<'s, D, E, T, R>, Error>
where
    D: Data,
    E: Data,
    T: Timestamp,
    R: Diff,
{
    let worker = Worker::new(
        cx,
        &scope,
        name,
        Opening {
            url: url.to_owned(),
            create: None,
            read_only: None,
            compares: false,
        },
    );
    let reading = Reading {
        codec,
        purpose: Purpose::Collection { as_of },
        own: OwnCommits::default(),
        credits: Credits::new(cx),
    };
    let pieces = render(&worker, scope, reading);
    let (ok, err) = split(&worker, scope, pieces);
    Ok(Source {
        ok: ok.as_collection(),
        err: err.as_collection(),
        handle: Handle::new(worker),
    })
}

/// A shard as a collection.
#[must_use = "dropping the handle stops the source"]
#[non_exhaustive]
pub struct Source<'s, D: Clone + 'static, E: Clone + 'static, T: Timestamp, R: Clone + 'static> {
    /// The rows.
    pub ok: VecCollection<'s, T, D, R>,
    /// The errors.
    pub err: VecCollection<'s, T, E, R>,
    /// Its frontier and status.
    pub handle: Handle<T>,
}

/// The rows and the errors, each in a stream of its own; reports how far they have come.
#[expect(clippy::type_complexity, reason = "two streams")]
fn split<'s, D: Data, E: Data, T: Timestamp, R: Diff>(
    worker: &Worker,
    scope: Scope<'s, T>,
    pieces: StreamVec<'s, T, Piece<D, E, T, R>>,
) -> (StreamVec<'s, T, (D, T, R)>, StreamVec<'s, T, (E, T, R)>) {
    let name = format!("mvsink::split({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    let mut pieces = builder.new_input(pieces, Pipeline);
    builder.set_notify_for(0, FrontierInterest::Always);
    let (ok_out, ok) = builder.new_output();
    let (err_out, err) = builder.new_output();
    let (mut ok_out, mut err_out) = (Output::from(ok_out), Output::from(err_out));
    let (instance, index) = (Arc::clone(&worker.instance), worker.index);
    let mut given = Frontier::At(i64::MIN);
    instance.gave(index, given);
    builder.build(move |_capabilities| {
        move |frontiers| {
            if given.is_empty() {
                return;
            }
            pieces.for_each_time(|time, pieces| {
                let (mut ok, mut err) = (ok_out.activate(), err_out.activate());
                let mut ok = ok.session_with_builder(&time);
                let mut err = err.session_with_builder(&time);
                for piece in pieces.flat_map(|pieces| pieces.drain(..)) {
                    match piece {
                        Piece::Rows(mut rows) => ok.give_container(&mut rows),
                        Piece::Errors(mut errors) => err.give_container(&mut errors),
                        Piece::Mark(_) => {}
                    }
                }
            });
            // A time that no shard can hold says nothing of what a shard holds.
            let now = frontier_to_i64(frontier_of(&frontiers[0])).unwrap_or(given);
            if given < now {
                given = now;
                instance.gave(index, now);
            }
        }
    });
    (ok, err)
}

/// Renders one worker's share of the reading.
pub(crate) fn render<'s, D, E, T, R>(
    worker: &Worker,
    scope: Scope<'s, T>,
    reading: Reading<D, E, T>,
) -> StreamVec<'s, T, Piece<D, E, T, R>>
where
    D: Data,
    E: Data,
    T: Timestamp,
    R: Diff,
{
    let name = format!("mvsink::source({})", worker.instance.name);
    let mut builder = OperatorBuilder::new(name, scope);
    let (pieces_out, pieces) = builder.new_output();
    let mut pieces_out = Output::from(pieces_out);

    // What is heard holds no output back.
    let mut heard = None;
    let mut agreement = None;
    let mut voice = None;
    if reading.as_of().is_some() && worker.peers > 1 {
        let (part, hear, announcements) = first::agree(worker, scope);
        let by_target = Exchange::new(|(target, _): &(usize, First)| *target as u64);
        let input = builder.new_input_connection(announcements, by_target, []);
        heard = Some((input, hear));
        agreement = Some(part);
        // A sink tells of its own failures.
        let (output, signals) = builder.new_output_connection([]);
        signal::listen(worker, scope, None, signals);
        voice = Some(Output::from(output));
    }

    let info = builder.operator_info();
    let waker = worker.waker(&scope, &info);
    let (upstream, inbox) = replies(&waker);
    let as_of = reading.as_of();
    let internal = as_of.is_none();
    // Who takes up a sink's read-back gives them back itself: it may be busy, while pieces queue before it.
    let credits = (!internal).then(|| reading.credits.clone());
    let (tether, gone) = oneshot::channel();
    worker.spawn(task::run(
        worker.clone(),
        reading,
        agreement,
        upstream,
        gone,
    ));

    let worker = worker.clone();
    builder.build(move |mut capabilities| {
        // The task ends with the operator.
        let tether: oneshot::Sender<Infallible> = tether;
        let mut speaker = voice
            .zip(capabilities.drain(1..).next())
            .map(|(output, capability)| Speaker::new(&worker, output, capability));
        let mut capability = capabilities.pop();
        let mut torn_down = TornDown::default();
        if let (Some(capability), Some(as_of)) = (&mut capability, &as_of) {
            capability.downgrade(as_of);
        }
        move |_frontiers| {
            let _alive = &tether;
            let awake = waker.awake();
            if let Some((mut input, hear)) = heard.take() {
                let mut first = None;
                input.for_each(|_, told| first = told.drain(..).next());
                match first {
                    Some((_, first)) => drop(hear.send(first)),
                    None => heard = Some((input, hear)),
                }
            }
            if let Some(speaker) = &mut speaker {
                speaker.alarm();
            }
            // Of a sink's own read-back the write has stopped with it, and sends no part any more.
            if worker.stop.is_stopped(&awake)
                && capability.is_some()
                && (internal || torn_down.may_let_go(worker.cx.shares(), &worker.share, &waker))
            {
                capability = None;
                speaker = None;
            }
            inbox.drain(&awake, |message| {
                let Some(held) = &mut capability else {
                    return;
                };
                match message {
                    Message::Piece(piece) => {
                        if let Some(credits) = &credits {
                            credits.give_back(&piece);
                        }
                        pieces_out.activate().session(&*held).give(piece);
                    }
                    Message::Frontier(Frontier::At(time)) => held.downgrade(&time),
                    Message::Frontier(Frontier::Empty) => {
                        capability = None;
                        speaker = None;
                    }
                }
            });
        }
    });
    pieces
}
