//! A store whose calls can be stopped, for tests of races: one order of events, and no sleep.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

use super::Call;
use crate::lock;

/// Where a call stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Nothing has happened yet.
    Before,
    /// It has happened, and the caller does not know.
    After,
}

/// Stops chosen calls until they are released.
pub struct GateStore {
    inner: Arc<dyn ObjectStore>,
    gates: Arc<Mutex<Vec<Gate>>>,
}

type Matches = Box<dyn Fn(Call, &Path) -> bool + Send + Sync>;

struct Gate {
    matches: Matches,
    side: Side,
    /// How many matching calls pass before one stops.
    passing: usize,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Reached,
    Released,
}

/// A gate that was set up. Dropping it opens it.
pub struct Hold {
    state: watch::Sender<State>,
}

impl Hold {
    /// Waits until a call has stopped at the gate.
    pub async fn reached(&self) {
        let mut state = self.state.subscribe();
        // The sender is here.
        let _ = state.wait_for(|state| *state != State::Waiting).await;
    }

    /// True once a call has stopped at the gate.
    pub fn is_reached(&self) -> bool {
        *self.state.borrow() == State::Reached
    }

    /// Lets the call go on. Later ones do not stop.
    pub fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.state.send_replace(State::Released);
    }
}

impl GateStore {
    /// A store whose gates are all open.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(GateStore {
            inner,
            gates: Arc::default(),
        })
    }

    /// The `nth` call (from 1) that `matches` stops on this side, once.
    pub fn hold(
        &self,
        nth: usize,
        side: Side,
        matches: impl Fn(Call, &Path) -> bool + Send + Sync + 'static,
    ) -> Hold {
        let (state, _) = watch::channel(State::Waiting);
        lock(&self.gates).push(Gate {
            matches: Box::new(matches),
            side,
            passing: nth.saturating_sub(1),
            state: state.clone(),
        });
        Hold { state }
    }

    /// The `nth` put (from 1) of a log entry stops on this side.
    pub fn hold_commit(&self, nth: usize, side: Side) -> Hold {
        self.hold(nth, side, |call, path| {
            call == Call::Create && path.as_ref().contains("_delta_log/")
        })
    }
}

/// Lets a call through the gates of one side.
async fn pass(gates: &Mutex<Vec<Gate>>, call: Call, path: &Path, side: Side) {
    let stopped = {
        let mut gates = lock(gates);
        let mut stopped = None;
        gates.retain_mut(|gate| {
            if *gate.state.borrow() == State::Released {
                return false;
            }
            if stopped.is_some() || gate.side != side || !(gate.matches)(call, path) {
                return true;
            }
            if gate.passing > 0 {
                gate.passing -= 1;
                return true;
            }
            stopped = Some(gate.state.clone());
            false
        });
        stopped
    };
    let Some(state) = stopped else { return };
    let mut released = state.subscribe();
    state.send_if_modified(|state| {
        let waiting = *state == State::Waiting;
        if waiting {
            *state = State::Reached;
        }
        waiting
    });
    // The sender is here.
    let _ = released.wait_for(|state| *state == State::Released).await;
}

impl GateStore {
    async fn gated<T>(&self, call: Call, path: &Path, work: impl Future<Output = T>) -> T {
        pass(&self.gates, call, path, Side::Before).await;
        let result = work.await;
        pass(&self.gates, call, path, Side::After).await;
        result
    }
}

impl fmt::Debug for GateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateStore")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for GateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gated {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for GateStore {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let call = Call::of_put(&options);
        self.gated(call, to, self.inner.put_opts(to, payload, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let work = self.inner.put_multipart_opts(to, options);
        self.gated(Call::Put, to, work).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        let call = Call::of_get(&options);
        self.gated(call, from, self.inner.get_opts(from, options))
            .await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, gates) = (Arc::clone(&self.inner), Arc::clone(&self.gates));
        Box::pin(paths.then(move |path| {
            let (inner, gates) = (Arc::clone(&inner), Arc::clone(&gates));
            async move {
                let path = path?;
                pass(&gates, Call::Delete, &path, Side::Before).await;
                let result = inner.delete(&path).await;
                pass(&gates, Call::Delete, &path, Side::After).await;
                result.map(|()| path)
            }
        }))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, gates) = (Arc::clone(&self.inner), Arc::clone(&self.gates));
        let prefix = prefix.cloned();
        let listed = async move {
            let path = prefix.clone().unwrap_or_default();
            pass(&gates, Call::List, &path, Side::Before).await;
            // All of it, so that it is of the moment before the gate.
            let listed: Vec<_> = inner.list(prefix.as_ref()).collect().await;
            pass(&gates, Call::List, &path, Side::After).await;
            futures::stream::iter(listed)
        };
        Box::pin(futures::stream::once(listed).flatten())
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        let work = self.inner.list_with_delimiter(prefix);
        self.gated(Call::List, &path, work).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let work = self.inner.copy_opts(from, to, options);
        self.gated(Call::Copy, to, work).await
    }
}
