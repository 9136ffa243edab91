//! Tasks that end with their owners.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

use crate::client::Environment;
use crate::error::Error;

/// A task of the runtime; it is stopped when this is dropped.
///
/// What shall go on while its owner waits for something else must be one: a mere future that nobody polls may have
/// been given a permit of the pool for computations, and keeps it from everybody, its owner included.
pub(crate) struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: Send + 'static> Task<T> {
    pub(crate) fn spawn(
        env: &Environment,
        span: Span,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        Task(env.handle.spawn(work.instrument(span)))
    }

    /// What it came to.
    ///
    /// # Errors
    /// [`Error::Shutdown`] if the runtime is shutting down.
    ///
    /// # Panics
    /// If the task panicked, with its payload.
    pub(crate) async fn join(mut self) -> Result<T, Error> {
        match (&mut self.0).await {
            Ok(result) => Ok(result),
            Err(error) => match error.try_into_panic() {
                Ok(payload) => std::panic::resume_unwind(payload),
                Err(_) => Err(Error::Shutdown),
            },
        }
    }
}
