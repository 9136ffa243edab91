//! The way back from a task to its operator: a queue, and one wake-up for many messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TryIter, unbounded};
use timely::scheduling::SyncActivator;

/// Wakes one operator from any thread, at most once until it has run.
pub(crate) struct Waker {
    activator: SyncActivator,
    pending: AtomicBool,
}

impl Waker {
    /// A waker of the operator that this activator activates.
    pub(crate) fn new(activator: SyncActivator) -> Arc<Self> {
        Arc::new(Waker {
            activator,
            pending: AtomicBool::new(false),
        })
    }

    /// Makes the operator run soon, unless that is already so.
    pub(crate) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // A worker that is gone needs no wake-up.
            let _ = self.activator.activate();
        }
    }

    /// Called by the operator as it starts to run, before it looks at anything it is woken for.
    pub(crate) fn rearm(&self) {
        // A swap, not a store: it synchronises with the wake-up that it takes back, so that the operator sees
        // the message that was sent before it.
        self.pending.swap(false, Ordering::AcqRel);
    }
}

/// The sending half: the task's.
pub(crate) struct Replies<M> {
    messages: Sender<M>,
    waker: Arc<Waker>,
}

impl<M> Replies<M> {
    /// Queues the message and wakes the operator; gives the message back if the operator is gone.
    pub(crate) fn send(&self, message: M) -> Result<(), M> {
        self.messages
            .send(message)
            .map_err(|error| error.into_inner())?;
        self.waker.wake();
        Ok(())
    }
}

/// The receiving half: the operator's.
pub(crate) struct Inbox<M> {
    messages: Receiver<M>,
    waker: Arc<Waker>,
}

impl<M> Inbox<M> {
    /// Takes what has arrived. Everything sent later wakes the operator again.
    pub(crate) fn drain(&self) -> TryIter<'_, M> {
        self.waker.rearm();
        self.messages.try_iter()
    }
}

/// A queue to the operator that `waker` wakes. Its length is bounded by what the task has been asked for.
pub(crate) fn replies<M>(waker: &Arc<Waker>) -> (Replies<M>, Inbox<M>) {
    let (tx, rx) = unbounded();
    let replies = Replies {
        messages: tx,
        waker: Arc::clone(waker),
    };
    (
        replies,
        Inbox {
            messages: rx,
            waker: Arc::clone(waker),
        },
    )
}
