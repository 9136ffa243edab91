//! Following: one task per open shard reads the log as it grows, for all watchers of the process.
//!
//! The task starts with the first watcher and ends with the shard's last handle. It asks for entry `known + 1`
//! (no listing), applies what it finds, and waits longer the longer it finds nothing, between
//! [`ClientOptions::poll_min`] and [`poll_max`](ClientOptions::poll_max). Commits of this process need no
//! reading: they are applied when they succeed.
//!
//! An idle follower looks every twenty seconds whether the last entry known still is what it was, since a log that
//! was cleaned up beyond it looks as if nothing had happened ([`crate::replay`]). If it is not, the log is read
//! again from its newest checkpoint. It lists what lies beyond then, too: after a gap there is no next entry to see.
//!
//! What cannot be read for now is tried again for ever; what fails for good ends the task, and every watcher is
//! told why. The next watcher starts it again.
//!
//! [`ClientOptions::poll_min`]: crate::ClientOptions::poll_min

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::Instrument;

use crate::beyond::Listed;
use crate::error::Error;
use crate::lock;
use crate::log::state::{Progress, is_last};
use crate::replay::{Evidence, Look, Tail, next_ahead};
use crate::retry::RetryPolicy;
use crate::shard::{Inner, Known, Shard};
use crate::storage::{OnRetry, Storage};

/// Sees a shard's progress as it happens. It keeps the shard open.
pub struct Watcher {
    shard: Shard,
    known: watch::Receiver<Known>,
    seen: Progress,
}

impl Watcher {
    /// The progress seen last: that of the last [`Watcher::changed`], or of the start.
    pub fn progress(&self) -> Progress {
        self.seen
    }

    /// The shard that is watched.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Waits until the shard is further than [`Watcher::progress`], and returns how far. Steps may be skipped,
    /// the last is never missed, and versions only grow. Dropping the future is safe at any time.
    ///
    /// # Errors
    /// The permanent error that ended the following: the log is damaged or not understood, or cannot be read for
    /// good. Progress made before it is reported first.
    pub async fn changed(&mut self) -> Result<Progress, Error> {
        loop {
            let known = self.known.borrow_and_update().clone();
            if known.progress != self.seen {
                self.seen = known.progress;
                return Ok(self.seen);
            }
            if let Some(failure) = known.failure {
                return Err(Error::Shared(failure));
            }
            // The sender lives in the shard, and the shard as long as `self`.
            self.known.changed().await.map_err(|_| Error::Shutdown)?;
        }
    }
}

impl Shard {
    /// Watches the shard's progress, by this process and by others. Starts the follower if none runs.
    pub fn watch(&self) -> Watcher {
        let inner = self.inner();
        // Subscribed before the progress is read, so that no step falls in between.
        let known = inner.known.subscribe();
        let seen = inner.progress();
        inner.start_follower();
        Watcher {
            shard: self.clone(),
            known,
            seen,
        }
    }

    /// Has the follower look for other processes' commits now: a hint that there are some.
    pub fn nudge(&self) {
        self.inner().nudge.notify_one();
    }
}

impl Inner {
    /// Reads the log to its end, and makes sure that it is the end: by a look at the entry after the next, or by a
    /// listing if that is due.
    ///
    /// # Errors
    /// [`Error::LogGap`] if later entries are there; otherwise permanent ones of the store and the log.
    pub(crate) async fn catch_up(&self, on_retry: OnRetry<'_>) -> Result<Progress, Error> {
        self.read_to_end(false, true, on_retry).await
    }

    /// The same, and makes sure now that it is the log that was opened.
    ///
    /// # Errors
    /// [`Error::Replaced`] if it is not; otherwise as [`Inner::catch_up`].
    pub(crate) async fn check_table(&self, on_retry: OnRetry<'_>) -> Result<Progress, Error> {
        self.read_to_end(true, true, on_retry).await
    }

    /// The same for a follower, which looks often and writes nothing: without the look at the entry after the next.
    async fn poll(&self, on_retry: OnRetry<'_>) -> Result<Progress, Error> {
        self.read_to_end(false, false, on_retry).await
    }

    /// `now`: the tail is checked whether or not that is due. `probe`: the entry after the next is looked for.
    async fn read_to_end(
        &self,
        now: bool,
        probe: bool,
        on_retry: OnRetry<'_>,
    ) -> Result<Progress, Error> {
        let storage = &self.storage;
        let mut ahead = 1;
        // The last version that was seen, once it was looked for beyond the end.
        let mut seen: Option<u64> = None;
        loop {
            let started = storage.env.moment();
            let tail = self.tail();
            // A tail that was checked in between puts off no listing.
            let now = now || lock(&self.log).is_listing_due(&storage.env);
            let Look::Found {
                entries,
                end,
                checked,
            } = storage.look(&tail, ahead, now, on_retry).await?
            else {
                self.reload(&tail, on_retry).await?;
                ahead = 1;
                continue;
            };
            // All of these lie in the log that the look has told of.
            let known = match entries.last() {
                Some((version, bytes)) => Tail {
                    version: *version,
                    evidence: Evidence::of_entry(bytes),
                    ..tail
                },
                None => tail,
            };
            let unchecked = checked.is_none().then_some(&tail);
            let applied = match self.apply_all(entries, unchecked, on_retry).await {
                Err(error) if checked.is_some() || matches!(error, Error::Shutdown) => {
                    return Err(error);
                }
                Err(error) if storage.stands(&tail, on_retry).await? => return Err(error),
                Err(_) => false,
                Ok(applied) => applied,
            };
            if !applied {
                // Those were entries of another log.
                self.reload(&tail, on_retry).await?;
                ahead = 1;
                continue;
            }
            if !end {
                ahead = next_ahead(ahead);
                continue;
            }
            let tail = self.tail();
            let listing = checked.is_some() && lock(&self.log).is_listing_due(&storage.env);
            match seen {
                None if listing || probe => {
                    let listed = match listing {
                        true => storage.list_last(tail.version, on_retry).await?,
                        false => Listed::Beyond(storage.probe(tail.version, on_retry).await?),
                    };
                    let Listed::Beyond(last) = listed else {
                        // Its last entry may stand, for those who know no more.
                        let reloaded = self.reload(&tail, on_retry).await;
                        reloaded.map_err(|error| match error {
                            gap @ Error::LogGap { .. } => entries_gone(&storage.url, &gap),
                            error => error,
                        })?;
                        (seen, ahead) = (None, 1);
                        continue;
                    };
                    if listing && last.is_none() {
                        lock(&self.log).listed(started);
                    }
                    seen = Some(last.unwrap_or(tail.version));
                    if last.is_some() {
                        // Entries may just have been put: look at the next one again.
                        continue;
                    }
                }
                Some(last) if last > tail.version => {
                    // An opener tells whether there is a gap, and goes on beyond it if there is a way.
                    self.reload(&tail, on_retry).await?;
                    if self.tail().version > tail.version {
                        (seen, ahead) = (None, 1);
                        continue;
                    }
                }
                _ => {}
            }
            let mut log = lock(&self.log);
            if let Some(standing) = checked {
                log.confirm_tail(&known, standing, started);
            }
            return Ok(log.state.progress());
        }
    }

    /// Applies these entries. Before the last that a shard can have it looks whether the log still has this tail, if it is
    /// given; `false` if not.
    async fn apply_all(
        &self,
        entries: Vec<(u64, Bytes)>,
        unchecked: Option<&Tail>,
        on_retry: OnRetry<'_>,
    ) -> Result<bool, Error> {
        if !entries.is_empty() {
            self.storage.settle_log(on_retry).await?;
        }
        for (version, bytes) in entries {
            let evidence = Evidence::of_entry(&bytes);
            let commit = self.storage.parse(version, bytes).await?;
            if let Some(tail) = unchecked
                && is_last(&commit)
                && !self.storage.stands(tail, on_retry).await?
            {
                return Ok(false);
            }
            self.apply(version, &commit, evidence)?;
        }
        Ok(true)
    }

    /// Goes on from the newest checkpoint, after `gone` was found not to be in the log any more.
    pub(crate) async fn reload(&self, gone: &Tail, on_retry: OnRetry<'_>) -> Result<(), Error> {
        let url = &self.storage.url;
        let replaced = |why: &str| Error::Replaced {
            url: url.to_string(),
            why: why.to_owned(),
        };
        let fresh = match self.storage.replay(on_retry).await {
            Err(error @ (Error::Corrupt { .. } | Error::MissingFile { .. })) => {
                return Err(entries_gone(url, &error));
            }
            Err(gap @ Error::LogGap { .. }) => {
                // What was read here is there still, or it is gone.
                let stands = self.storage.stands(gone, on_retry).await?;
                return Err(match stands {
                    true => gap,
                    false => entries_gone(url, &gap),
                });
            }
            read => read?,
        };
        let fresh = fresh
            .ok_or_else(|| replaced("its table was moved or deleted, and nothing is there"))?;
        let is_another = self.storage.is_another(gone, &fresh, on_retry).await?;
        let mut log = lock(&self.log);
        if fresh.state.metadata().id != log.state.metadata().id {
            return Err(replaced("its table was deleted and created again"));
        }
        let (known, found) = (log.state.progress(), fresh.state.progress());
        if found.version < gone.version {
            return Err(replaced(
                "the last entries of its log are gone: it is an older copy, or lost them",
            ));
        }
        if found.version < known.version {
            // Somebody here has gone on meanwhile; the next look tells whether that is the truth.
            return Ok(());
        }
        if is_another {
            return Err(replaced(
                "its log is another one: it is a copy that others have gone on with",
            ));
        }
        if found.upper < known.upper || found.since < known.since {
            return Err(replaced("its frontiers have gone back"));
        }
        if found.version == known.version && fresh.tail().evidence == log.tail().evidence {
            // There was nothing to go on from: this is what is known already.
            return Ok(());
        }
        tracing::info!(
            shard = %self.storage.url, from = known.version, to = found.version,
            "the log was cleaned up, went on from a checkpoint"
        );
        log.jump_to(fresh);
        self.tell(&log);
        Ok(())
    }

    fn start_follower(self: &Arc<Self>) {
        let mut follower = lock(&self.follower);
        let running = follower.as_ref().is_some_and(|task| !task.is_finished());
        // One that has told of its failure is as good as finished.
        let failed = self
            .known
            .send_if_modified(|known| known.failure.take().is_some());
        if running && !failed {
            return;
        }
        let span = tracing::debug_span!("follow", shard = %self.storage.url);
        let task = self
            .storage
            .env
            .handle
            .spawn(follow(Arc::clone(self)).instrument(span));
        *follower = Some(task.abort_handle());
    }
}

/// A follower's life: when it ends, however it does, the watchers are told why nobody follows any more.
struct Following {
    inner: Arc<Inner>,
    failure: Option<Error>,
}

impl Drop for Following {
    fn drop(&mut self) {
        let failure = Arc::new(self.failure.take().unwrap_or(Error::Shutdown));
        self.inner
            .known
            .send_modify(|known| known.failure = Some(failure));
    }
}

async fn follow(inner: Arc<Inner>) {
    let mut following = Following {
        inner: Arc::clone(&inner),
        failure: None,
    };
    let env = &inner.storage.env;
    let waits = RetryPolicy {
        initial: env.options.poll_min,
        max: env.options.poll_max,
    };
    let mut idle = 0_u32;
    loop {
        let before = inner.progress().version;
        match inner.poll(&Storage::warn_of_retry).await {
            Ok(progress) if progress.version > before => idle = 0,
            Ok(_) => idle = idle.saturating_add(1),
            Err(error) => {
                if !matches!(error, Error::Shutdown) {
                    tracing::error!(
                        target: "mvsink_persist::failed",
                        shard = %inner.storage.url, %error, "cannot follow the shard any more"
                    );
                }
                following.failure = Some(error);
                return;
            }
        }
        let delay = waits.delay(idle, env.random_fraction());
        // Either way: look again.
        let _ = tokio::time::timeout(delay, inner.nudge.notified()).await;
    }
}

/// The error of whoever cannot read the log any more that he had read.
fn entries_gone(url: &str, error: &Error) -> Error {
    Error::Replaced {
        url: url.to_owned(),
        why: format!("entries of its log are gone that were there ({error})"),
    }
}
