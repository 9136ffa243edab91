//! What commits bring about beside themselves: checkpoints, and after those the clean-up of the log.
//!
//! Both run in one task at a time, after the commit has been reported. A failure is only worth a warning: the next
//! checkpoint makes up for it. Two processes that write the same checkpoint write the same state, and whichever
//! comes last is as good as the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;
use tracing::Instrument;

use crate::error::Error;
use crate::lock;
use crate::log::checkpoint::{self, LastCheckpoint, checkpoint_path, last_checkpoint_path};
use crate::log::state::State;
use crate::replay::Evidence;
use crate::shard::Inner;
use crate::storage::Storage;
use crate::store_time::to_ms;

/// The log is listed for clean-up after so many checkpoints, so that listing it costs the less per commit the
/// longer it is.
const CHECKPOINTS_PER_CLEAN: u32 = 10;

/// So many actions are written in checkpoints for a commit, at the most: what makes that more has fewer checkpoints. A
/// commit itself costs more than so many.
const ACTIONS_PER_COMMIT: u64 = 200;

/// What is under way, and when the log was cleaned up last.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    running: AtomicBool,
    cleaned: Mutex<Cleaned>,
}

#[derive(Debug, Default)]
struct Cleaned {
    at: Option<Instant>,
    checkpoints_since: u32,
}

impl Storage {
    /// Writes the checkpoint of this state, whose entry is known by `evidence`; returns how many actions it has. What is
    /// in its place is replaced.
    pub(crate) async fn write_checkpoint(
        &self,
        state: State,
        evidence: Evidence,
    ) -> Result<u64, Error> {
        let path = checkpoint_path(state.version);
        let encode = move || {
            let commit = state.to_commit();
            let size = commit.actions() as u64;
            let entry = match evidence {
                Evidence::Entry(hash) => Some(hash),
                Evidence::Listing => None,
            };
            checkpoint::encode(&commit, entry).map(|bytes| (size, bytes))
        };
        let encoded = self.env.cpu.run(encode).await?;
        let (size, bytes) = encoded.map_err(|why| Error::Corrupt {
            path: self.show(&path),
            why,
        })?;
        self.put(&path, bytes).await?;
        Ok(size)
    }

    /// Points to the checkpoint of this version, which has so many actions.
    pub(crate) async fn point_to(&self, version: u64, size: u64) -> Result<(), Error> {
        let last = LastCheckpoint { version, size };
        let bytes = serde_json::to_vec(&last).unwrap_or_default();
        self.put(&last_checkpoint_path(), bytes.into()).await
    }
}

impl Inner {
    /// Writes a checkpoint of the state as it is now, and points to it.
    pub(crate) async fn checkpoint(&self) -> Result<u64, Error> {
        let storage = &self.storage;
        let (tail, on_retry) = (self.tail(), &Storage::warn_of_retry);
        if !storage.stands(&tail, on_retry).await? {
            // Of a table that was replaced meanwhile it would bring back the ghost.
            self.reload(&tail, on_retry).await?;
        }
        let known = self.with_state(|state| state.version);
        // Asked after that: all that is known was removed before.
        let now_ms = storage.ask_time().await.map(to_ms);
        let (tail, state) = {
            let mut log = lock(&self.log);
            if let Some(now_ms) = now_ms {
                log.state.date_removed(known, now_ms);
                log.state.forget_dated(now_ms);
            }
            (log.tail(), log.state.clone())
        };
        let version = state.version;
        let size = storage.write_checkpoint(state, tail.evidence).await?;
        // If that took so long that the log was cleaned up beyond it, nobody must be led there. Where a copy has the place
        // of the table, or nothing, it would bring back the ghost.
        if !storage.stands(&tail, on_retry).await? {
            tracing::debug!(shard = %storage.url, version, "a checkpoint came too late");
            storage.delete(&checkpoint_path(version)).await?;
            self.reload(&tail, on_retry).await?;
            return Ok(version);
        }
        // Never point back: another process may have been faster with a newer one. A pointer to nothing is no newer one.
        let newer = match storage.last_checkpoint(on_retry).await? {
            Some(last) if last > version => {
                storage.exists(&checkpoint_path(last), on_retry).await?
            }
            _ => false,
        };
        if !newer {
            storage.point_to(version, size).await?;
        }
        lock(&self.log).is_misled = false;
        tracing::debug!(shard = %storage.url, version, actions = size, "wrote a checkpoint");
        Ok(version)
    }

    /// After a commit of this process: starts a checkpoint if one is due. It is one attempt and ends by itself;
    /// that it failed is only worth a warning, since the next one replaces it.
    pub(crate) fn checkpoint_if_due(self: &Arc<Self>, version: u64) {
        let interval = self.storage.env.options.checkpoint_interval;
        let is_next = || {
            version.is_multiple_of(interval)
                && version.is_multiple_of(stride(interval, self.with_state(State::size)))
        };
        // Other readers may refuse a table whose pointer leads nowhere.
        let is_due = interval > 0 && (lock(&self.log).is_misled || is_next());
        if !is_due || self.upkeep.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let running = Running(Arc::clone(self));
        let span = tracing::debug_span!("checkpoint", shard = %self.storage.url, version);
        let task = async move {
            let inner = &running.0;
            if let Err(error) = inner.checkpoint().await {
                tracing::warn!(shard = %inner.storage.url, %error, "could not write a checkpoint");
                return;
            }
            if inner.is_clean_due()
                && let Err(error) = inner.storage.clean_log(None, false).await
            {
                tracing::warn!(shard = %inner.storage.url, %error, "could not clean up the log");
            }
        };
        self.storage.env.handle.spawn(task.instrument(span));
    }

    /// Counts a checkpoint; true if the log is to be listed and cleaned up after it.
    fn is_clean_due(&self) -> bool {
        let options = &self.storage.env.options;
        if !options.clean_log {
            return false;
        }
        let mut cleaned = lock(&self.upkeep.cleaned);
        cleaned.checkpoints_since += 1;
        let due = cleaned.at.is_none_or(|at| {
            at.elapsed() >= options.log_min_age / 4
                && cleaned.checkpoints_since >= CHECKPOINTS_PER_CLEAN
        });
        if due {
            *cleaned = Cleaned {
                at: Some(Instant::now()),
                checkpoints_since: 0,
            };
        }
        due
    }
}

/// The versions with a checkpoint are multiples of this: of the interval, and the farther apart the more actions the state
/// has. A table remembers for a week what it removed, so that one that is written often has many. In powers of two, so that
/// processes whose states differ a little do the same, and one stride is in the other.
fn stride(interval: u64, actions: u64) -> u64 {
    let intervals = actions.div_ceil(ACTIONS_PER_COMMIT.saturating_mul(interval));
    interval.saturating_mul(intervals.max(1).next_power_of_two())
}

/// Upkeep under way; the next may start when this one is dropped, however it ended.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.upkeep.running.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_pays_for_so_many_actions_however_long_the_history() {
        for (interval, actions_of_a_commit) in [(100u64, 1), (100, 3), (7, 1), (1, 2)] {
            let mut written = 0;
            let mut last = 0;
            for version in (interval..400_000).step_by(interval as usize) {
                let actions = version * actions_of_a_commit;
                if !version.is_multiple_of(stride(interval, actions)) {
                    continue;
                }
                written += actions;
                // Whoever opens the shard reads the entries since.
                let between = (2 * actions / ACTIONS_PER_COMMIT).max(interval);
                assert!(version - last <= between, "{version} after {last}");
                last = version;
            }
            assert!(written <= ACTIONS_PER_COMMIT * 400_000, "{written} actions");
        }
    }

    #[test]
    fn a_small_state_has_a_checkpoint_each_interval() {
        assert_eq!(stride(100, 0), 100);
        assert_eq!(stride(100, 20_000), 100);
        assert_eq!(stride(100, 20_001), 200);
        assert_eq!(stride(3, u64::MAX), 3 << 55);
    }
}
