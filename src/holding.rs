//! The hold of a source, or of a sink's read-back, on the past of its shard, one for all workers of a process.
//!
//! ```text
//!   hold, then pin ──▶ read the version pinned ──▶ follow          the since, while any worker needs it;
//!        '── files are kept ──────'                                the files of what was there, until all have read it
//! ```
//!
//! It is a lease in the shard's log ([`mvsink_persist::Hold`]): if the process dies, it lapses. A task renews it, and
//! moves it forward with the slowest worker. Who must not write takes none, nor does one who cannot: then what is read
//! is there for as long as others leave it, and if it is gone, the reader fails and says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mvsink_persist::{Error as ShardError, Frontier, Hold, Shard};
use tokio::task::AbortHandle;
use tracing::Instrument;

use crate::context::Context;
use crate::dyncfg::HOLD_LEASE_S;
use crate::error::Error;
use crate::worker::Worker;

/// How long the release of a hold may take before it is left to lapse.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(5);

/// What the workers of one process share.
pub(crate) type Slot = tokio::sync::Mutex<Weak<Held>>;

/// A hold, and what is needed of it.
#[derive(Debug)]
pub(crate) struct Held {
    cx: Context,
    /// `None` only once this is dropped.
    hold: Option<Hold>,
    needs: Mutex<Needs>,
    keeper: Mutex<Option<AbortHandle>>,
}

#[derive(Debug, Default)]
struct Needs {
    /// What the hold was last moved to.
    at: i64,
    /// Files are kept.
    pins: bool,
    /// By a number for each reader.
    readers: BTreeMap<u64, Need>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Need {
    /// The first time at which it must be possible to read.
    from: i64,
    /// The version that was there first is being read.
    reads_first: bool,
}

/// One worker's part in it; what it needs is let go when this is dropped.
#[derive(Debug)]
pub(crate) struct Holding {
    held: Arc<Held>,
    number: u64,
}

impl Holding {
    /// Holds the shard so that it can be read from this time on, and its files as of a version that is pinned
    /// afterwards; from the since on if that is later.
    ///
    /// # Errors
    ///
    /// If the shard's log cannot be read.
    pub(crate) async fn take(
        worker: &Worker,
        shard: &Shard,
        from: i64,
    ) -> Result<Option<Holding>, Error> {
        let lease = Duration::from_secs(HOLD_LEASE_S.get(worker.cx.configs()) as u64);
        if lease.is_zero() || worker.read_only().get() {
            return Ok(None);
        }
        let mut slot = worker.instance.holding.lock().await;
        if let Some(held) = slot.upgrade()
            && let Some(number) = held.join(from)
        {
            return Ok(Some(Holding { held, number }));
        }
        let taken = worker.patiently("hold", hold(shard, from, lease)).await?;
        worker.resumed("hold");
        let Some((hold, at)) = taken else {
            return Ok(None);
        };
        let held = Arc::new(Held {
            cx: worker.cx.clone(),
            hold: Some(hold),
            needs: Mutex::new(Needs {
                at,
                pins: true,
                ..Needs::default()
            }),
            keeper: Mutex::default(),
        });
        let number = held.join(at.max(from)).expect("it has just been taken");
        held.keep(worker, shard, lease);
        *slot = Arc::downgrade(&held);
        Ok(Some(Holding { held, number }))
    }

    /// The version that was pinned first has been read.
    pub(crate) fn has_read_first(&self) {
        self.change(|need| need.reads_first = false);
    }

    /// Earlier times are needed no more.
    pub(crate) fn advance(&self, from: i64) {
        self.change(|need| need.from = need.from.max(from));
    }

    fn change(&self, change: impl FnOnce(&mut Need)) {
        if let Some(need) = self.held.needs().readers.get_mut(&self.number) {
            change(need);
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.held.needs().readers.remove(&self.number);
    }
}

/// A hold from this time on, or from the since on if that is later; none if the shard cannot be written.
async fn hold(shard: &Shard, from: i64, lease: Duration) -> Result<Option<(Hold, i64)>, Error> {
    loop {
        let Frontier::At(since) = shard.progress().since else {
            return Ok(None);
        };
        let at = from.max(since);
        match shard.hold_reader(Frontier::At(at), lease).await {
            Ok(hold) => return Ok(Some((hold, at))),
            // It has moved meanwhile.
            Err(ShardError::BeforeSince { .. }) => {}
            Err(error @ ShardError::Shutdown) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(shard = shard.url(), %error, "reading without a hold");
                return Ok(None);
            }
        }
    }
}

impl Held {
    fn needs(&self) -> MutexGuard<'_, Needs> {
        self.needs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a reader, if what it needs is still held.
    fn join(&self, from: i64) -> Option<u64> {
        let mut needs = self.needs();
        if needs.at > from || !needs.pins {
            return None;
        }
        let number = needs.next;
        needs.next += 1;
        let need = Need {
            from,
            reads_first: true,
        };
        needs.readers.insert(number, need);
        Some(number)
    }

    /// Has a task renew it, until it is dropped.
    fn keep(self: &Arc<Self>, worker: &Worker, shard: &Shard, lease: Duration) {
        let held = Arc::downgrade(self);
        let span = tracing::debug_span!("hold", shard = shard.url());
        let keeper = async move {
            loop {
                tokio::time::sleep(lease / 3).await;
                let Some(held) = held.upgrade() else { return };
                if let Err(error) = Box::pin(held.renew()).await {
                    tracing::warn!(%error, "could not renew a hold");
                    if !error.is_transient() {
                        return;
                    }
                }
            }
        };
        let handle = worker.cx.client().handle().spawn(keeper.instrument(span));
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        *keeper = Some(handle.abort_handle());
    }

    /// Has the lease begin again, at what is needed now.
    async fn renew(&self) -> Result<(), ShardError> {
        let (at, unpin) = {
            let mut needs = self.needs();
            let from = needs.readers.values().map(|need| need.from).min();
            needs.at = needs.at.max(from.unwrap_or(needs.at));
            let unpin = needs.pins && !needs.readers.values().any(|need| need.reads_first);
            needs.pins &= !unpin;
            (needs.at, unpin)
        };
        let Some(hold) = &self.hold else {
            return Ok(());
        };
        if unpin {
            hold.unpin().await?;
        }
        hold.advance(Frontier::At(at)).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let keeper = self
            .keeper
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keeper.take() {
            keeper.abort();
        }
        let Some(hold) = self.hold.take() else { return };
        // A host that waits for its tasks waits for this as well; what cannot be released now lapses.
        let count = self.cx.running();
        let release = async move {
            let released = tokio::time::timeout(RELEASE_TIME_MAX, hold.release()).await;
            if !matches!(released, Ok(Ok(()))) {
                tracing::warn!("a hold is left to lapse");
            }
            drop(count);
        };
        self.cx.client().handle().spawn(release);
    }
}
