//! An operator's body: a future that its operator polls, on the Timely thread, whenever it is scheduled.
//!
//! What the body awaits makes the operator run again through the same wake-up as everything else. While it awaits,
//! what arrives for the operator waits in Timely's channels: the body looks at it only in its *turns*.
//!
//! Invariants, by name:
//!
//! - *shut down between turns only*: Timely shuts an operator down that has no capabilities and whose inputs have
//!   ended. One that awaits anything but its next turn says that it is not complete;
//! - *a panic is a failure*: it ends the body and fails the sink, and goes no further.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};

use mvsink_persist::Frontier;
use timely::progress::frontier::MutableAntichain;

use crate::bounds::{Timestamp, frontier_of};
use crate::error::Error;
use crate::runtime::has_shut_down;
use crate::wake::Waker;
use crate::worker::{Running, Worker};

/// The times at which an operator is scheduled, for its body.
pub(super) struct Turns<T> {
    now: Rc<Now<T>>,
    taken: u64,
}

struct Now<T> {
    turn: Cell<u64>,
    frontiers: RefCell<Vec<Frontier<T>>>,
    stopped: Cell<bool>,
    /// True if the body awaits its next turn.
    idle: Cell<bool>,
}

impl<T: Timestamp> Turns<T> {
    /// Waits for a turn that was not taken yet: this one, if the body awaited something else when it began.
    pub(super) async fn next(&mut self) {
        // Nobody need wake the body: it is polled in each turn.
        poll_fn(|_| {
            let now = self.now.turn.get();
            let ready = std::mem::replace(&mut self.taken, now) < now;
            self.now.idle.set(!ready);
            if ready {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Takes this turn once more.
    pub(super) fn again(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }

    /// True if the sink was stopped when this turn began; if it is stopped later, another turn follows.
    pub(super) fn is_stopped(&self) -> bool {
        self.now.stopped.get()
    }

    /// The frontier of an input in this turn.
    pub(super) fn frontier(&self, input: usize) -> Frontier<T> {
        self.now.frontiers.borrow()[input]
    }
}

type Boxed = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

/// A body, from the operator's side.
pub(super) struct Body<T> {
    worker: Worker,
    waker: Arc<Waker>,
    context: std::task::Waker,
    now: Rc<Now<T>>,
    /// `None` once it has ended.
    future: Option<(Boxed, Running)>,
}

impl<T: Timestamp> Body<T> {
    /// The body that `begin` makes, of the operator that `waker` wakes.
    pub(super) fn new<F>(
        worker: &Worker,
        waker: Arc<Waker>,
        begin: impl FnOnce(Turns<T>) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), Error>> + 'static,
    {
        let now = Rc::new(Now {
            turn: Cell::new(0),
            frontiers: RefCell::default(),
            stopped: Cell::new(false),
            idle: Cell::new(false),
        });
        let turns = Turns {
            now: Rc::clone(&now),
            taken: 0,
        };
        Body {
            worker: worker.clone(),
            context: std::task::Waker::from(Arc::new(Activate(Arc::clone(&waker)))),
            waker,
            now,
            future: Some((Box::pin(begin(turns)), worker.running())),
        }
    }

    /// True once the body has ended; then the operator does what is left without it.
    pub(super) fn has_ended(&self) -> bool {
        self.future.is_none()
    }

    /// True if the sink was stopped when this turn began.
    pub(super) fn is_stopped(&self) -> bool {
        self.now.stopped.get()
    }

    /// Gives the body a turn; true while the operator must not be shut down.
    pub(super) fn turn(&mut self, frontiers: &[MutableAntichain<T>]) -> bool {
        let awake = self.waker.awake();
        let now = &self.now;
        now.turn.set(now.turn.get() + 1);
        now.stopped.set(self.worker.stop.is_stopped(&awake));
        let Some((future, _)) = &mut self.future else {
            return false;
        };
        now.idle.set(false);
        let mut seen = now.frontiers.borrow_mut();
        seen.clear();
        seen.extend(frontiers.iter().map(frontier_of));
        drop(seen);

        // For timers, and for stores that hand work to the runtime.
        let _runtime = self.worker.cx.client().handle().enter();
        let mut context = Context::from_waker(&self.context);
        // What the body leaves half-done when it panics is dropped with it.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        match polled {
            Ok(Poll::Pending) => return !now.idle.get(),
            Ok(Poll::Ready(ended)) => self.worker.ended(ended),
            // Timers panic when the host's runtime has ended, and the sink with it.
            Err(_) if has_shut_down(self.worker.cx.client().handle()) => self.worker.shut_down(),
            Err(panic) => self.worker.panicked(panic.as_ref()),
        }
        self.future = None;
        false
    }
}

/// Makes the operator run.
struct Activate(Arc<Waker>);

impl Wake for Activate {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }
}
