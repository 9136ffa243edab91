//! Committing: compare-and-append, by putting the next log entry if it is absent.
//!
//! One attempt is: look at the state of version `n`; decide by it whether the commit is still right; put entry
//! `n + 1` if it is absent. If the slot is taken, the entry in it is read. It may be one's own, put by an attempt
//! that seemed to fail: then the commit has succeeded. Otherwise it is applied, and the next attempt decides by
//! the state that includes it.
//!
//! So what is returned is what a fresh reader of the log finds: [`Appended::Committed`] if and only if the entry
//! is there, [`Appended::Lost`] only after every slot that was tried has been seen to hold somebody else's. Each
//! slot is decided before the next is tried ([`Storage::occupy`]), so a commit is never in the log twice.

use crate::data_file::StagedFile;
use crate::error::Error;
use crate::frontier::Frontier;
use crate::log::action::{Commit, CommitId, CommitInfo, Txn};
use crate::log::state::{Progress, SINCE, State, UPPER};
use crate::shard::Shard;
use crate::storage::{Occupied, OnRetry, Storage};

/// Files to append for the times in `[lower, upper)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Identifies this append, and no other ever.
    pub id: CommitId,
    /// The upper that the shard must have.
    pub lower: Frontier<i64>,
    /// The upper that it gets; beyond `lower`.
    pub upper: Frontier<i64>,
    /// Files with times in `[lower, upper)` only. None: the commit moves the upper alone.
    pub files: Vec<StagedFile>,
    /// The since becomes at least this.
    pub since: Option<Frontier<i64>>,
}

/// How an append ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is durable, as this version of the log.
    Committed {
        /// The version.
        version: u64,
    },
    /// It is not in the log and will not be: the shard's upper was not its lower, or its files were swept.
    Lost {
        /// The shard's upper.
        upper: Frontier<i64>,
    },
}

/// What to do by the state.
pub(crate) enum Plan<T> {
    Put(Box<Commit>),
    Done(T),
}

/// How a commit ended.
pub(crate) enum Outcome<T> {
    Committed(u64),
    Done(T),
}

impl Shard {
    /// Appends: all of it if the shard's upper is `append.lower` and stays so until the commit, nothing otherwise.
    ///
    /// Errors that may pass are told to `on_retry` and followed by another attempt, for ever. If the future is
    /// dropped, the append may or may not have happened, or still happen; calling again with the same identity
    /// finds out and brings it to an end.
    ///
    /// # Errors
    /// [`Error::InvalidAppend`] if the parts contradict each other, and permanent errors of the store and the log.
    /// Nothing was committed then.
    pub async fn append(&self, append: Append, on_retry: OnRetry<'_>) -> Result<Appended, Error> {
        if let Some(why) = contradiction(&append) {
            return Err(Error::InvalidAppend {
                url: self.url().to_owned(),
                why,
            });
        }
        let inner = self.inner();
        if inner.progress().upper < append.lower {
            // Others know of commits that we have not seen yet.
            inner.catch_up(on_retry).await?;
        }
        let plan = |state: &State| {
            let upper = state.progress().upper;
            let swept = append.files.iter().any(|file| state.is_removed(&file.path));
            if upper != append.lower || swept {
                return Plan::Done(Appended::Lost { upper });
            }
            Plan::Put(Box::new(append_commit(&inner.storage, state, &append)))
        };
        Ok(match self.commit(append.id, plan, on_retry).await? {
            Outcome::Committed(version) => Appended::Committed { version },
            Outcome::Done(lost) => match inner.find_append(append.id, append.lower).await? {
                // An earlier call was dropped, but had succeeded.
                Some(version) => Appended::Committed { version },
                None => lost,
            },
        })
    }

    /// Moves the since to at least `since`: reads below it need not be possible any more.
    ///
    /// # Errors
    /// Permanent ones of the store and the log.
    pub async fn advance_since(
        &self,
        since: Frontier<i64>,
        on_retry: OnRetry<'_>,
    ) -> Result<Progress, Error> {
        let storage = &self.inner().storage;
        let id = CommitId {
            nonce: storage.env.random_u128(),
            seq: 0,
        };
        let plan = |state: &State| {
            let progress = state.progress();
            if since <= progress.since {
                return Plan::Done(());
            }
            Plan::Put(Box::new(Commit {
                info: Some(CommitInfo {
                    operation: "SET SINCE".into(),
                    ..our_info(storage, id, progress.upper, progress.upper)
                }),
                txns: vec![txn(storage, SINCE, since)],
                ..Commit::default()
            }))
        };
        self.commit(id, plan, on_retry).await?;
        Ok(self.progress())
    }

    /// The commit loop: puts what `plan` makes of each state, until it is in the log or the plan is done.
    pub(crate) async fn commit<T>(
        &self,
        id: CommitId,
        plan: impl Fn(&State) -> Plan<T>,
        on_retry: OnRetry<'_>,
    ) -> Result<Outcome<T>, Error> {
        let inner = self.inner();
        loop {
            let (slot, plan) = inner.with_state(|state| (state.version + 1, plan(state)));
            let commit = match plan {
                Plan::Put(commit) => *commit,
                Plan::Done(done) => return Ok(Outcome::Done(done)),
            };
            let (commit, ours) = match inner
                .storage
                .occupy(slot, &commit.to_bytes(), on_retry)
                .await?
            {
                Occupied::Now => (commit, true),
                Occupied::By(bytes) => {
                    let found = inner.parse(slot, bytes).await?;
                    let ours = found.info.as_ref().and_then(|info| info.id) == Some(id);
                    (found, ours)
                }
            };
            inner.apply(slot, &commit)?;
            if ours {
                inner.checkpoint_if_due(slot);
                return Ok(Outcome::Committed(slot));
            }
        }
    }
}

/// Why the append makes no sense, whatever the shard's state.
fn contradiction(append: &Append) -> Option<String> {
    let (lower, upper) = (append.lower, append.upper);
    if upper <= lower {
        return Some(format!("its upper {upper} is not beyond its lower {lower}"));
    }
    let frontiers = [Some(lower), Some(upper), append.since];
    if let Some(bad) = frontiers
        .into_iter()
        .flatten()
        .find(|frontier| match frontier {
            // The greatest time is the empty frontier's.
            Frontier::At(time) => !(0..i64::MAX).contains(time),
            Frontier::Empty => false,
        })
    {
        return Some(format!("{bad} is not a time from 0 to {}", i64::MAX - 1));
    }
    append.files.iter().find_map(|file| {
        let (min, max) = file.meta.times?;
        let outside = lower.is_complete(&min) || !upper.is_complete(&max);
        outside.then(|| {
            format!(
                "{} has times {min} to {max}, outside of [{lower}, {upper})",
                file.path
            )
        })
    })
}

fn append_commit(storage: &Storage, state: &State, append: &Append) -> Commit {
    let mut txns = vec![txn(storage, UPPER, append.upper)];
    if let Some(since) = append.since.filter(|since| *since > state.progress().since) {
        txns.push(txn(storage, SINCE, since));
    }
    Commit {
        info: Some(CommitInfo {
            operation: "WRITE".into(),
            operation_parameters: serde_json::json!({"mode": "Append"}),
            ..our_info(storage, append.id, append.lower, append.upper)
        }),
        txns,
        adds: append.files.iter().map(StagedFile::to_add).collect(),
        ..Commit::default()
    }
}

pub(crate) fn our_info(
    storage: &Storage,
    id: CommitId,
    lower: Frontier<i64>,
    upper: Frontier<i64>,
) -> CommitInfo {
    CommitInfo {
        id: Some(id),
        lower: Some(lower.to_version()),
        upper: Some(upper.to_version()),
        ..storage.commit_info()
    }
}

fn txn(storage: &Storage, app_id: &str, frontier: Frontier<i64>) -> Txn {
    Txn {
        app_id: app_id.to_owned(),
        version: frontier.to_version(),
        last_updated: Some(storage.env.now_ms()),
    }
}
