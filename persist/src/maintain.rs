//! Maintenance: what keeps a shard small and quick to open, beside whoever uses it.
//!
//! ```text
//!   progress seen ──> wait ──> since as far as the window and the holds permit ──> due merges ──> garbage, now and then
//!        ^                                                                                            │
//!        └────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Any process may do it, and several at once: each step is a commit of its own that is revalidated like every
//! other, so rivals waste work and do no harm. Of one process, one task at a time maintains a shard; a shard at
//! rest wakes nobody.
//!
//! What fails for now is tried again with the next round. What fails for good (no permission to write, say) is told
//! once and ends the maintenance, and nothing else: the shard is as usable as before.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::compact::CompactOptions;
use crate::error::Error;
use crate::gc::{GcOptions, GcReport};
use crate::retention::Retention;
use crate::shard::Shard;
use crate::storage::Storage;

/// What maintenance does, and how often.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Maintenance {
    /// The times that stay readable, beside those that are held.
    pub retention: Retention,
    /// How to merge files; `None`: not at all.
    pub compact: Option<CompactOptions>,
    /// What garbage to collect; `None`: none.
    pub collect: Option<GcOptions>,
    /// The time between two rounds, about.
    pub interval: Duration,
    /// The time between two collections of garbage, about.
    pub collect_interval: Duration,
}

impl Default for Maintenance {
    fn default() -> Self {
        Maintenance {
            retention: Retention::default(),
            compact: Some(CompactOptions::default()),
            collect: Some(GcOptions::default()),
            interval: Duration::from_secs(1),
            collect_interval: Duration::from_secs(10 * 60),
        }
    }
}

impl Shard {
    /// Maintains the shard until `stopped` says so. What to do is asked before each round; `None` leaves the round
    /// out. What garbage was deleted is told to `collected`.
    ///
    /// A merge that is under way when `stopped` comes is given up, and what it had staged is deleted.
    ///
    /// # Errors
    /// Permanent ones of the store and the log.
    pub async fn maintain(
        &self,
        settings: &(dyn Fn() -> Option<Maintenance> + Send + Sync),
        collected: &(dyn Fn(&GcReport) + Send + Sync),
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let inner = self.inner();
        let random_fraction = || inner.storage.env.random_fraction();
        let turn = async { inner.maintaining.lock().await };
        let Some(_turn) = unless(&mut stopped, turn).await else {
            return Ok(());
        };
        let mut watcher = self.watch();
        let mut last_collection: Option<Instant> = None;
        // The data files that cannot be read.
        let mut reported = BTreeSet::new();
        let mut interval = Maintenance::default().interval;
        loop {
            let delay = spread(interval, random_fraction());
            if unless(&mut stopped, tokio::time::sleep(delay))
                .await
                .is_none()
            {
                return Ok(());
            }
            if let Some(round) = settings() {
                interval = round.interval;
                let collect =
                    last_collection.is_none_or(|at| at.elapsed() >= round.collect_interval);
                // A task that waits for the next one keeps no room for it.
                let work = Box::pin(self.round(&round, collect, collected, &mut stopped));
                match work.await {
                    Ok(()) => {}
                    Err(Error::Shutdown) => return Err(Error::Shutdown),
                    Err(error) if error.is_transient() => {
                        tracing::debug!(shard = %self.url(), %error, "maintenance failed for now");
                    }
                    Err(error) => match data_file(&error) {
                        // Its writer may still remove it: the others go on.
                        Some(path) => {
                            if reported.insert(path.to_owned()) {
                                tracing::warn!(shard = %self.url(), %error, "a data file cannot be maintained");
                            }
                        }
                        None => return Err(error),
                    },
                }
                if collect {
                    last_collection = Some(Instant::now());
                    let pinned = self.pin();
                    let look = Box::pin(self.damaged_files(&pinned));
                    match unless(&mut stopped, look).await {
                        None => return Ok(()),
                        Some(Err(error)) if error.is_transient() => {}
                        Some(damaged) => {
                            for (file, damage) in damaged? {
                                let path = format!("{}/{}", self.url(), file.path);
                                if reported.insert(path.clone()) {
                                    let error = damage.into_error(path);
                                    tracing::warn!(shard = %self.url(), %error, "a data file is damaged");
                                }
                            }
                        }
                    }
                }
            }
            match unless(&mut stopped, watcher.changed()).await {
                None => return Ok(()),
                Some(changed) => changed?,
            };
        }
    }

    async fn round(
        &self,
        round: &Maintenance,
        collect: bool,
        collected: &(dyn Fn(&GcReport) + Send + Sync),
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let permitted = self.permitted_since(&round.retention);
        if permitted > self.progress().since {
            let advance = self.advance_since(permitted, &Storage::warn_of_retry);
            match unless(stopped, advance).await {
                None => return Ok(()),
                Some(advanced) => advanced?,
            };
        }
        let mut compacted = Ok(());
        if let Some(compact) = &round.compact {
            let signal = stopped.clone();
            let go_on = |_| match *signal.borrow() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            match self.compact(compact, &go_on).await {
                Ok(report) if report.merges > 0 => {
                    tracing::debug!(shard = %self.url(), ?report, "compacted");
                }
                Ok(_) => {}
                Err(Error::Shutdown) => return Err(Error::Shutdown),
                // A file that cannot be merged, or a disk without room, is no reason to keep garbage.
                Err(error) => compacted = Err(error),
            }
        }
        if let Some(options) = round.collect.as_ref().filter(|_| collect) {
            let collection = self.collect_garbage(options, &|_| {});
            if let Some(report) = unless(stopped, collection).await {
                let report = report?;
                tracing::debug!(shard = %self.url(), ?report, "collected garbage");
                collected(&report);
            }
        }
        compacted
    }
}

/// Between half of the interval and one and a half: rivals that start together do not stay together.
fn spread(interval: Duration, fraction: f64) -> Duration {
    let seconds = interval.as_secs_f64() * (0.5 + fraction);
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// The data file that cannot be read, if it is that.
fn data_file(error: &Error) -> Option<&str> {
    match error {
        Error::MissingFile { path }
        | Error::Corrupt { path, .. }
        | Error::UnsupportedFile { path, .. }
            if !path.contains("_delta_log/") =>
        {
            Some(path)
        }
        _ => None,
    }
}

/// Runs the future unless the stop comes first; then it is dropped where it waits.
async fn unless<T>(
    stopped: &mut watch::Receiver<bool>,
    future: impl Future<Output = T>,
) -> Option<T> {
    // A sender that is gone has stopped too.
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => None,
        output = future => Some(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_interval_stays_endless() {
        assert_eq!(spread(Duration::MAX, 0.9), Duration::MAX);
        assert!(spread(Duration::MAX, 0.1) < Duration::MAX);
        assert_eq!(spread(Duration::from_secs(2), 0.5), Duration::from_secs(2));
    }
}
