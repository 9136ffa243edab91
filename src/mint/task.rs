//! The work of `mint`: watches the shard's upper, and moves it where mint asks for it.

use std::time::Duration;

use mvsink_persist::{Append, Appended, CommitId, Error as ShardError, Frontier, Shard, Watcher};
use tokio::sync::watch;

use super::Input;
use super::operator::Order;
use crate::bounds::{Timestamp, frontier_from_i64, frontier_to_i64};
use crate::description::Outcome;
use crate::dyncfg::STANDBY;
use crate::error::Error;
use crate::read_only::ReadOnly;
use crate::worker::Worker;

/// How many of the last commits are looked at, of those between two looks at the shard.
const COMMITS_AT_ONCE: u64 = 16;

/// Sees for mint how far the shard is, whether the sink may write, and what time it is.
pub(crate) struct Watch {
    worker: Worker,
    shard: Shard,
    watcher: Watcher,
    known: Option<Frontier<i64>>,
    /// The version up to which mint knows whose the commits were.
    told: u64,
    read_only: ReadOnly,
    known_read_only: Option<bool>,
    vanished: watch::Receiver<Option<CommitId>>,
    known_vanished: Option<CommitId>,
    /// When to say what time it is.
    wake_ms: Option<u64>,
}

impl Watch {
    /// Opens the shard, and watches it from now on.
    pub(crate) async fn open(worker: Worker) -> Result<Self, Error> {
        let shard = worker.shard("open").await?;
        let watcher = shard.watch();
        Ok(Watch {
            told: watcher.progress().version,
            watcher,
            shard,
            known: None,
            read_only: worker.read_only(),
            known_read_only: None,
            vanished: worker.instance.watch_vanished(),
            known_vanished: None,
            wake_ms: None,
            worker,
        })
    }

    /// Waits until there is something that mint has to know: first of all whether it may write; uppers strictly
    /// increase, the empty frontier comes last. Dropping the future loses nothing.
    pub(crate) async fn next<T: Timestamp>(&mut self) -> Result<Input<T>, Error> {
        loop {
            let read_only = self.read_only.get();
            if self.known_read_only.replace(read_only) != Some(read_only) {
                return Ok(Input::ReadOnly(read_only));
            }
            let upper = self.watcher.progress().upper;
            if self.known < Some(upper) {
                if let Some(id) = self.next_commit().await? {
                    return Ok(Input::Committed(id));
                }
                self.known = Some(upper);
                return Ok(Input::Upper(frontier_from_i64(upper)?));
            }
            let vanished = *self.vanished.borrow();
            if let Some(id) = vanished.filter(|_| vanished != self.known_vanished) {
                self.known_vanished = vanished;
                return Ok(Input::Vanished(id));
            }
            let (now_ms, wake_ms) = (self.worker.cx.now_ms(), self.wake_ms);
            if wake_ms.is_some_and(|wake_ms| wake_ms <= now_ms) {
                self.wake_ms = None;
                return Ok(Input::Clock(now_ms));
            }
            let wake = async {
                match wake_ms {
                    Some(at) => tokio::time::sleep(Duration::from_millis(at - now_ms)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                progress = self.watcher.changed() => {
                    progress?;
                }
                () = self.read_only.changed() => {}
                // The worker keeps who tells of it.
                Ok(()) = self.vanished.changed() => {}
                () = wake => {}
            }
        }
    }

    /// The next commit that moved the upper, for who may stand by; `None` if there is no more to tell of.
    async fn next_commit(&mut self) -> Result<Option<CommitId>, Error> {
        let version = self.watcher.progress().version;
        if !STANDBY.get(self.worker.cx.configs()) {
            self.told = version;
        }
        while self.told < version {
            let next = (self.told + 1).max(version.saturating_sub(COMMITS_AT_ONCE));
            let entry = Box::pin(self.shard.entry(next)).await;
            self.told = next;
            match entry {
                Ok(entry) if entry.lower < entry.upper && entry.id.is_some() => {
                    return Ok(entry.id);
                }
                Ok(_) | Err(ShardError::EntryGone { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Does what mint wants done; gives what it has to know of it.
    pub(crate) async fn follow<T: Timestamp>(
        &mut self,
        order: Order<T>,
    ) -> Result<Option<Input<T>>, Error> {
        match order {
            Order::Bump { id, lower, upper } => {
                let outcome = self.bump(id, lower, upper).await?;
                Ok(Some(Input::Bumped(id, outcome)))
            }
            Order::Wake(at_ms) => {
                self.wake_ms = Some(at_ms);
                Ok(None)
            }
        }
    }

    /// Moves the shard's upper without data.
    async fn bump<T: Timestamp>(
        &self,
        id: CommitId,
        lower: T,
        upper: Frontier<T>,
    ) -> Result<Outcome, Error> {
        let append = Append {
            id,
            lower: frontier_to_i64(Frontier::At(lower))?,
            upper: frontier_to_i64(upper)?,
            files: Vec::new(),
            since: None,
        };
        let stalled = |error: &ShardError| self.worker.stalled("bump", error);
        let append = Box::pin(self.shard.append(append, &stalled));
        let appended = self.worker.patiently("bump", append).await?;
        self.worker.resumed("bump");
        Ok(match appended {
            Appended::Committed { .. } => Outcome::Done,
            Appended::Lost { .. } => Outcome::Lost,
        })
    }
}
