//! The way back from a task to its operator: a queue, and one wake-up for many messages.
//!
//! Invariant, *no wake-up is lost*: what happens after an operator has begun to run wakes it again. So an
//! operator first of all takes its wake-up back ([`Waker::awake`]), and only then looks at anything that it
//! is woken for; the token [`Awake`] that such looks ask for makes the order a compile-time fact.

use crate::sync::{Arc, AtomicBool, Ordering, Receiver, Sender, TryRecvError, unbounded};

/// Wakes one operator from any thread, at most once until it has run.
pub(crate) struct Waker {
    activate: Box<dyn Fn() + Send + Sync>,
    pending: AtomicBool,
}

/// The operator has begun to run, and will be woken for everything that happens from now on.
pub(crate) struct Awake(());

impl Waker {
    /// A waker of the operator that `activate` makes run.
    pub(crate) fn new(activate: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Waker {
            activate: Box::new(activate),
            pending: AtomicBool::new(false),
        })
    }

    /// Makes the operator run soon, unless that is already so.
    pub(crate) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            (self.activate)();
        }
    }

    /// Called by the operator as it begins to run.
    pub(crate) fn awake(&self) -> Awake {
        // A swap, not a store: it synchronises with the wake-up that it takes back, so that the operator
        // sees what was done before it.
        self.pending.swap(false, Ordering::AcqRel);
        Awake(())
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

impl<M> Drop for Replies<M> {
    fn drop(&mut self) {
        // Disconnects before the wake-up, so that the operator sees it.
        let (closed, _) = unbounded();
        drop(std::mem::replace(&mut self.messages, closed));
        self.waker.wake();
    }
}

/// The receiving half: the operator's.
pub(crate) struct Inbox<M>(Receiver<M>);

impl<M> Inbox<M> {
    /// Takes what has arrived; true if the task has ended and nothing more will come.
    pub(crate) fn drain(&self, _: &Awake, mut each: impl FnMut(M)) -> bool {
        loop {
            match self.0.try_recv() {
                Ok(message) => each(message),
                Err(error) => return error == TryRecvError::Disconnected,
            }
        }
    }
}

/// A queue to the operator that `waker` wakes. Its length is bounded by what the task has been asked for.
pub(crate) fn replies<M>(waker: &Arc<Waker>) -> (Replies<M>, Inbox<M>) {
    let (messages, receiver) = unbounded();
    let waker = Arc::clone(waker);
    (Replies { messages, waker }, Inbox(receiver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicUsize;

    #[test]
    fn many_messages_are_one_wake_up_and_none_is_lost() {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let waker = Waker::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let (replies, inbox) = replies(&waker);
        for message in 0..3 {
            replies.send(message).unwrap();
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
        let awake = waker.awake();
        // What comes while the operator runs, wherever it is by then, wakes it again.
        waker.wake();
        let mut seen = Vec::new();
        assert!(!inbox.drain(&awake, |message| seen.push(message)));
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(count.load(Ordering::Relaxed), 2);
        // The end of the task is worth a wake-up too.
        let awake = waker.awake();
        drop(replies);
        assert_eq!(count.load(Ordering::Relaxed), 3);
        assert!(inbox.drain(&awake, |_| unreachable!()));
    }
}
