//! How many things run, and when none does.

use std::sync::Arc;

use tokio::sync::watch;

/// A number of things that run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<watch::Sender<usize>>);

impl Count {
    /// Counts one more, until what it gives is dropped.
    pub(crate) fn one(&self) -> One {
        self.0.send_modify(|count| *count += 1);
        One(self.clone())
    }

    /// True if nothing runs.
    pub(crate) fn is_zero(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Waits until nothing runs.
    pub(crate) async fn zero(&self) {
        // The sender is `self`.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One thing that runs.
#[derive(Debug)]
pub(crate) struct One(Count);

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
