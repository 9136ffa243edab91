//! The shares that one worker has in the sinks and sources of a context, and when a source may let go.
//!
//! A frontier that passes because a source was torn down says nothing about its collection. A sink that took it for
//! the end of its input would seal its shard with half of the contents, for ever. Timely keeps a dataflow for as long
//! as somebody holds a capability in it. So a source that is torn down ends like this:
//!
//! ```text
//!   it fails, or its handle is dropped ──▶ the sink of its dataflow, if it is the only one, ends with it
//!   its handle is dropped, and no sink in its dataflow or a later one of its worker is live ──▶ it lets go
//! ```
//!
//! Invariant, *no sink is misled*: a source lets its frontier pass unfinished only where every sink that could see it
//! has stopped. The part of a stopped sink's worker is never sent, and without it nobody commits. Sinks of later
//! dataflows count as well, since a trace can be imported from one dataflow into a later one; sinks of earlier
//! dataflows cannot see it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::Error;
use crate::instance::{Instance, Kind};
use crate::stop::Stop;
use crate::wake::Waker;

/// All shares of a context.
#[derive(Debug, Default)]
pub(crate) struct Shares(Mutex<Vec<Weak<Share>>>);

/// One worker's share of a sink or source.
#[derive(Debug)]
pub(crate) struct Share {
    place: Place,
    kind: Kind,
    instance: Arc<Instance>,
    stop: Arc<Stop>,
    /// Its handle is gone.
    dropped: AtomicBool,
}

/// Where a share was rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Tells this worker from all others of the process.
    pub(crate) worker: usize,
    /// The number of the dataflow on its worker.
    pub(crate) dataflow: usize,
}

impl Shares {
    /// Adds a share.
    pub(crate) fn add(
        &self,
        place: Place,
        kind: Kind,
        instance: &Arc<Instance>,
        stop: &Arc<Stop>,
    ) -> Arc<Share> {
        let share = Arc::new(Share {
            place,
            kind,
            instance: Arc::clone(instance),
            stop: Arc::clone(stop),
            dropped: AtomicBool::new(false),
        });
        let mut shares = self.lock();
        shares.retain(|share| share.strong_count() > 0);
        shares.push(Arc::downgrade(&share));
        share
    }

    /// The sinks that a source at this place may feed.
    fn sinks_after(&self, place: Place) -> Vec<Arc<Share>> {
        let may_see = |share: &Arc<Share>| {
            share.kind == Kind::Sink
                && share.place.worker == place.worker
                && share.place.dataflow >= place.dataflow
        };
        let shares = self.lock();
        shares
            .iter()
            .filter_map(Weak::upgrade)
            .filter(may_see)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Share>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// The handle is gone.
    pub(crate) fn dropped(&self) {
        self.dropped.store(true, Ordering::Release);
    }

    /// True if it may still write.
    fn is_live(&self) -> bool {
        !self.stop.has_stopped() && !self.instance.status().borrow().is_final()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // A source may wait for this.
        self.stop.wake_all();
    }
}

/// How a source that was torn down on one worker ends.
#[derive(Debug, Default)]
pub(crate) struct TornDown {
    told: bool,
    /// The sinks that wake the source when they end.
    watched: Vec<Weak<Stop>>,
}

impl TornDown {
    /// True if the source `share`, which has stopped, may let its frontier pass. If not, `waker` wakes its operator when
    /// that may have changed.
    pub(crate) fn may_let_go(
        &mut self,
        shares: &Shares,
        share: &Share,
        waker: &Arc<Waker>,
    ) -> bool {
        let sinks = shares.sinks_after(share.place);
        if !self.told {
            self.told = true;
            end_only_sink(&sinks, share);
        }
        for sink in &sinks {
            let stop = Arc::downgrade(&sink.stop);
            if !self.watched.iter().any(|watched| watched.ptr_eq(&stop)) {
                sink.stop.wakes(Arc::clone(waker));
                self.watched.push(stop);
            }
        }
        // Looked at after it will be woken, so that no end is missed.
        share.dropped.load(Ordering::Acquire) && !sinks.iter().any(|sink| sink.is_live())
    }
}

/// Ends the sink of the dataflow of this source, whose input will never be complete. Of several sinks nobody knows which
/// depend on it.
fn end_only_sink(sinks: &[Arc<Share>], source: &Share) {
    let mut beside = sinks
        .iter()
        .filter(|sink| sink.place.dataflow == source.place.dataflow);
    let (Some(sink), None) = (beside.next(), beside.next()) else {
        return;
    };
    if !sink.is_live() {
        return;
    }
    match source.instance.failure() {
        Some(error) => sink.instance.fail(Error::Source {
            name: sink.instance.name.clone(),
            source_name: source.instance.name.clone(),
            error,
        }),
        None => {
            tracing::warn!(
                sink = %sink.instance.name, source = %source.instance.name,
                "the source of this sink was dropped before its end, which cancels the sink"
            );
            sink.instance.cut_off();
        }
    }
}
