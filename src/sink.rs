//! The sink: its operators, and how they fit together.

use differential_dataflow::VecCollection;
use mvsink_persist::{Codec, Frontier, Open};

use crate::bounds::{Data, Diff, Fingerprinter, Timestamp};
use crate::comparison::comparison;
use crate::context::Context;
use crate::driver::Driver;
use crate::error::Error;
use crate::handle::Handle;
use crate::mint::{self, Desired};
use crate::refresh::Schedule;
use crate::schedule;
use crate::source::{self, Credits, OwnCommits, Purpose, Reading};
use crate::target::{Mode, Target};
use crate::worker::{Opening, Worker};
use crate::{append, signal, write};

/// Keeps a shard equal to a collection, durably and exactly once.
///
/// `ok` and `err` are the collection's rows and its errors, both complete where both frontiers are. `as_of`
/// is the time from which they are right: earlier times count as it. The shard is created if there is none. An as-of
/// may lie anywhere beside the since and the upper of a shard that there is: from the upper on the shard is the
/// collection; the times between its upper and a later as-of repeat what was there before. An as-of beyond the last time
/// at which the view is written ([`Target::until`], [`Target::refresh`]) is refused unless the shard has that time.
///
/// Every worker of the dataflow calls this with the same arguments; workers of one process with clones of
/// one context. Dropping the returned handle stops this worker's share.
///
/// The columns are those that the type of the rows tells; [`persist_sink_with`] takes others.
///
/// # Errors
///
/// If `D` or `E` has no schema, or an ingest sink has a refresh schedule. What goes wrong later (the store, another
/// schema, a gap) is in the status of the handle.
pub fn persist_sink<'s, D, E, T, R>(
    cx: &Context,
    name: &str,
    target: impl Into<Target>,
    ok: VecCollection<'s, T, D, R>,
    err: VecCollection<'s, T, E, R>,
    as_of: T,
) -> Result<Handle<T>, Error>
where
    D: Data,
    E: Data,
    T: Timestamp,
    R: Diff,
{
    persist_sink_with(cx, name, target, Codec::new()?, ok, err, as_of)
}

/// [`persist_sink`] with columns of one's own: those that the codec is given
/// ([`Codec::with_column`], [`Codec::with_fields`]), or that a type makes by hand ([`Codec::columnar`]).
///
/// Every worker, and every replica, uses a codec of the same columns. A row has the same fingerprint whichever codec
/// of these columns writes it, so that sinks with and without columns by hand share a shard.
///
/// # Errors
///
/// If an ingest sink has a refresh schedule. What goes wrong later (the store, another schema, a gap) is in the
/// status of the handle.
pub fn persist_sink_with<'s, D, E, T, R>(
    cx: &Context,
    name: &str,
    target: impl Into<Target>,
    codec: Codec<D, E>,
    ok: VecCollection<'s, T, D, R>,
    err: VecCollection<'s, T, E, R>,
    as_of: T,
) -> Result<Handle<T>, Error>
where
    D: Data,
    E: Data,
    T: Timestamp,
    R: Diff,
{
    // Read once, so that a change while the sink is rendered changes nothing of it.
    let driver = Driver::of(cx.configs());
    let target = target.into();
    let schedule = Schedule {
        refresh: target.refresh,
        until: target.until,
    };
    if target.mode == Mode::Ingest && !schedule.refresh.is_on_commit() {
        return Err(Error::IngestRefresh {
            name: name.to_owned(),
        });
    }
    // The as-of is rounded up before anything else uses it.
    let begins = as_of;
    let as_of = match target.mode {
        Mode::View => schedule.round_up_frontier(Frontier::At(begins)),
        Mode::Ingest => Frontier::At(begins),
    };
    let late = as_of.is_empty().then(|| mint::Late {
        as_of: begins,
        last: schedule.last_before(begins),
    });
    let scope = ok.inner.scope();
    let mut open = Open::for_codec(&codec);
    if target.add_columns {
        open = open.adding_columns(&codec);
    }
    if target.mode == Mode::Ingest {
        open = open.as_input();
    }
    open.properties = target.properties;
    let worker = Worker::new(
        cx,
        &scope,
        name,
        Opening {
            url: target.url,
            create: Some(open),
            read_only: target.read_only,
            // Where no time is left to be seen, or nothing is told but changes, there is nothing to compare.
            compares: target.mode == Mode::View && !as_of.is_empty(),
        },
    );

    let minter = minter(name, worker.peers);
    let desired = Desired {
        ok: schedule::render(scope, name, ok.inner, &schedule),
        err: schedule::render(scope, name, err.inner, &schedule),
        of_rows: Fingerprinter::of_rows(&codec),
    };
    let nonce = cx.client().random_u128();
    let state = mint::State::new(target.mode, as_of, T::minimum(), worker.peers, nonce).late(late);
    let minted = mint::render(&worker, driver, scope, desired, state, minter);
    let own = OwnCommits::default();
    let credits = Credits::new(cx);
    let (purpose, comparison) = match target.mode {
        Mode::View => {
            let (end, comparison) = comparison();
            (Purpose::View { as_of, end }, Some(comparison))
        }
        // A source's changes are not compared with what is there.
        Mode::Ingest => (Purpose::Ingest, None),
    };
    let reading = Reading {
        codec: codec.clone(),
        purpose,
        own: own.clone(),
        credits: credits.clone(),
    };
    let persist = source::render(&worker, scope, reading);
    let notices = minted.notices.clone();
    let inputs = write::Inputs {
        minted,
        persist,
        own,
        credits,
        comparison,
    };
    let parts = write::render(&worker, driver, scope, inputs, codec, target.mode, as_of);
    let signals = append::render(&worker, driver, scope, notices.clone(), parts);
    signal::listen(&worker, scope, Some(notices), signals);
    Ok(Handle::new(worker))
}

/// The worker that mints for the sink of this name.
fn minter(name: &str, peers: usize) -> usize {
    let hash = mvsink_persist::hash_data(name).unwrap_or(0);
    usize::try_from(hash % peers as u128).expect("less than a usize")
}

/// The collection of no errors, for a sink whose input has none.
pub fn no_errors<'s, T, E, R>(scope: timely::dataflow::Scope<'s, T>) -> VecCollection<'s, T, E, R>
where
    T: Timestamp,
    E: Data,
    R: Diff,
{
    use differential_dataflow::AsCollection;
    use timely::dataflow::operators::generic::operator::empty;
    empty::<_, Vec<(E, T, R)>>(scope).as_collection()
}
