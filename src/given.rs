//! How far a source has given its collection to the dataflow: what its handles report.
//!
//! The shard's upper says what can be read, not what has been. So the operator that ends a source looks at its own
//! frontier, which passes a time only once the rows of all workers before it, in whichever process, have come to it; the
//! rows of its own worker are with the operators behind it by the time that the worker's step ends.
//!
//! ```text
//!   given = least frontier of the workers of this process       frontier of a handle = min(given, shard's upper)
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mvsink_persist::Frontier;
use tokio::sync::watch;

/// How far the workers of one process are; `None` until one of them has a share.
#[derive(Debug)]
pub(crate) struct Given {
    workers: Mutex<BTreeMap<usize, Frontier<i64>>>,
    least: watch::Sender<Option<Frontier<i64>>>,
}

impl Default for Given {
    fn default() -> Self {
        Given {
            workers: Mutex::default(),
            least: watch::Sender::new(None),
        }
    }
}

impl Given {
    /// The worker of this index has given all before `frontier`. True if that is the end for all workers.
    pub(crate) fn passed(&self, worker: usize, frontier: Frontier<i64>) -> bool {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.insert(worker, frontier);
        let least = workers.values().min().copied();
        self.least.send_if_modified(|known| {
            let moved = *known != least;
            *known = least;
            moved
        });
        least == Some(Frontier::Empty)
    }

    /// What all workers have given.
    pub(crate) fn least(&self) -> Option<Frontier<i64>> {
        *self.least.borrow()
    }

    /// The same, and every change of it.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Frontier<i64>>> {
        self.least.subscribe()
    }
}
