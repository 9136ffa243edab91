//! The sink: its operators, and how they fit together.

use differential_dataflow::VecCollection;
use mvsink_persist::{Codec, Open};

use crate::bounds::{Data, Diff, Timestamp};
use crate::context::Context;
use crate::driver::Driver;
use crate::error::Error;
use crate::handle::Handle;
use crate::mint::{self, Desired};
use crate::source::{self, OwnCommits, Reading};
use crate::target::{Mode, Target};
use crate::worker::{Opening, Worker};
use crate::{append, signal, write};

/// Keeps a shard equal to a collection, durably and exactly once.
///
/// `ok` and `err` are the collection's rows and its errors, both complete where both frontiers are. `as_of`
/// is the time from which they are right: earlier times count as it. The shard is created if there is none.
///
/// Every worker of the dataflow calls this with the same arguments; workers of one process with clones of
/// one context. Dropping the returned handle stops this worker's share.
///
/// # Errors
///
/// If `D` or `E` has no schema. What goes wrong later (the store, another schema, a gap) is in the status of the
/// handle.
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
    // Read once, so that a change while the sink is rendered changes nothing of it.
    let driver = Driver::of(cx.configs());
    let target = target.into();
    let codec = Codec::<D, E>::new()?;
    let scope = ok.inner.scope();
    let mut open = Open::new(codec.schema());
    open.properties = target.properties;
    let worker = Worker::new(
        cx,
        &scope,
        name,
        Opening {
            url: target.url,
            create: Some(open),
        },
    );

    let minter = minter(name, worker.peers);
    let desired = Desired {
        ok: ok.inner,
        err: err.inner,
    };
    let nonce = cx.client().random_u128();
    let state = mint::State::new(target.mode, as_of, T::minimum(), worker.peers, nonce);
    let minted = mint::render(&worker, driver, scope, desired, state, minter);
    let own = OwnCommits::default();
    let reading = Reading {
        codec: codec.clone(),
        as_of: None,
        // A source's changes are not compared with what is there.
        rows: target.mode == Mode::View,
        own: own.clone(),
    };
    let persist = source::render(&worker, scope, reading);
    let descriptions = minted.descriptions.clone();
    let inputs = write::Inputs {
        minted,
        persist,
        own,
    };
    let parts = write::render(&worker, driver, scope, inputs, codec, target.mode, as_of);
    let signals = append::render(&worker, driver, scope, descriptions.clone(), parts);
    signal::listen(&worker, scope, descriptions, signals);
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
