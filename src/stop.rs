//! The end of a sink on one worker, as its operators and tasks learn of it.

use std::fmt;
use std::time::Duration;

use crate::sync::{Arc, Mutex, PoisonError, sleep, watch};
use crate::wake::{Awake, Waker};

/// How long a write that is under way may go on after its sink was stopped.
const GRACE: Duration = Duration::from_secs(5);

/// Ends the operators and tasks of one sink on one worker.
pub(crate) struct Stop {
    stopped: watch::Sender<bool>,
    wakers: Mutex<Vec<Arc<Waker>>>,
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop")
            .field("stopped", &*self.stopped.borrow())
            .finish_non_exhaustive()
    }
}

impl Stop {
    /// A stop, of a sink that has been `stopped` already or not.
    pub(crate) fn new(stopped: bool) -> Arc<Self> {
        Arc::new(Stop {
            stopped: watch::channel(stopped).0,
            wakers: Mutex::new(Vec::new()),
        })
    }

    /// Stops: operators drop their capabilities as they run next, tasks end at their next wait.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
        self.wake_all();
    }

    /// Wakes all operators that a stop wakes.
    pub(crate) fn wake_all(&self) {
        for waker in self
            .wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            waker.wake();
        }
    }

    /// True once stopped; asked by an operator that has begun to run, so that it misses no stop.
    pub(crate) fn is_stopped(&self, _: &Awake) -> bool {
        self.has_stopped()
    }

    /// True once stopped; for an operator that another sink's stop wakes.
    pub(crate) fn has_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Wakes this operator too when the sink stops.
    pub(crate) fn wakes(&self, waker: Arc<Waker>) {
        self.wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(waker);
    }

    /// Runs the future until it is done, or until the stop: then it is dropped where it waits.
    pub(crate) async fn or_stop<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => None,
            output = future => Some(output),
        }
    }

    /// Runs the future until it is done. A stop leaves it a while, for what is almost finished; after that it
    /// is dropped where it waits.
    pub(crate) async fn or_grace<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut stopped = self.stopped.subscribe();
        let grace = async {
            // The sender is `self`.
            let _ = stopped.wait_for(|stopped| *stopped).await;
            sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            output = future => Some(output),
            () = grace => None,
        }
    }
}
