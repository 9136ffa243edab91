//! Committing: compare-and-append, by putting the next log entry if it is absent.
//!
//! One attempt is: look at the state of version `n`; decide by it whether the commit is still right; put entry
//! `n + 1` if it is absent. If the slot is taken, the entry in it is read. It may be one's own, put by an attempt
//! that seemed to fail: then the commit has succeeded. Otherwise it is applied, and the next attempt decides by
//! the state that includes it.
//!
//! So what is returned is what a fresh reader of the log finds: [`Appended::Committed`] if and only if the entry
//! is there, [`Appended::Lost`] only after every slot that was tried has been seen to hold somebody else's, and an error
//! that [is decided](Error::is_decided) only if no put of it is out there. Each
//! slot is decided before the next is tried ([`Storage::occupy`]), so a commit is never in the log twice.
//!
//! Before a put the entry beyond its slot is looked for, while the files are being written: if that is there, the slot
//! is taken or is a gap, which no put may fill ([`crate::beyond`]).
//!
//! An entry is put when the files that it adds are safe in the store, and not before; it may be written beside them
//! ([`crate::local`]).
//!
//! A put that was so long under way that the log may meanwhile have been cleaned up beyond the slot counts only if
//! the entry before it is still there ([`crate::replay`]). Otherwise the log is read again from its newest
//! checkpoint, and the next attempt decides by that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join3;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;

use crate::data_file::{DataFile, StagedFile};
use crate::error::Error;
use crate::frontier::Frontier;
use crate::history::Found;
use crate::lock;
use crate::log::action::{Commit, CommitId, CommitInfo, Remove, Txn};
use crate::log::entry_path;
use crate::log::state::{Progress, SINCE, State, UPPER, is_last};
use crate::replay::Evidence;
use crate::shard::{Inner, Shard};
use crate::storage::{Occupied, OnRetry, Storage};

/// Files in a bucket that were staged longer ago are looked for before they are committed: an answer takes as long as the
/// commit. Local files are looked for each time.
const STAGED_UNCHECKED_MS_MAX: u64 = 60 * 1000;
/// Staged files that are looked for at once.
const CHECKS_AT_ONCE: usize = 16;
/// For how long a removed file is surely remembered: a day less than tombstones are.
const TRACE_AGE_MAX: Duration = Duration::from_secs(6 * 24 * 60 * 60);

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
    /// The since becomes at least this, as far as the live holds permit, and `upper` at most.
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
    /// It is not in the log and will not be: the shard's upper was not its lower.
    Lost {
        /// The shard's upper.
        upper: Frontier<i64>,
    },
}

/// What to do by the state, which may be looked at again and again: a plan is revalidated for each slot.
pub(crate) enum Plan<T> {
    /// Put this as the next entry.
    Put(Box<Commit>),
    /// There is nothing to put (any more).
    Done(T),
}

/// How a commit ended.
pub(crate) enum Outcome<T> {
    /// It is durable, as this version of the log.
    Committed(u64),
    /// The plan had nothing to put.
    Done(T),
}

impl Shard {
    /// Appends: all of it if the shard's upper is `append.lower` and stays so until the commit, nothing otherwise.
    ///
    /// Errors that may pass are told to `on_retry` and followed by another attempt, for ever. If the future is
    /// dropped, the append may or may not have happened, or still happen; calling again with the same identity, by
    /// the same client, finds out and brings it to an end.
    ///
    /// # Errors
    /// [`Error::InvalidAppend`] if the parts contradict each other, [`Error::Swept`] if a file is gone,
    /// [`Error::Unwritten`] if one was given up, and permanent errors of the store and
    /// the log. Nothing was committed then, but in these cases, of which [`Error::is_decided`] is false:
    ///
    /// - [`Error::Unconfirmed`]: something failed after the entry was put, or may have been, by this call or an earlier one.
    ///   It may be in the log; calling again finds out.
    /// - [`Error::Undecided`]: an interrupted append was called again so late that the log was cleaned up beyond it.
    /// - [`Error::Replaced`]: what was put, if anything, went to where the table was, or to what has its place now.
    /// - [`Error::Shutdown`]: as if the future was dropped.
    pub async fn append(&self, append: Append, on_retry: OnRetry<'_>) -> Result<Appended, Error> {
        self.append_removing(append, BTreeSet::new(), on_retry)
            .await
    }

    /// Appends, and removes these files with the rows that they have: both, or nothing. They are paths as in the log;
    /// those that are not live when it is committed are removed already.
    ///
    /// What is removed was there at earlier times too, so the since becomes at least `append.lower`, whatever is held:
    /// earlier contents are not what they were.
    ///
    /// # Errors
    /// As [`Shard::append`].
    pub async fn append_removing(
        &self,
        append: Append,
        removes: BTreeSet<String>,
        on_retry: OnRetry<'_>,
    ) -> Result<Appended, Error> {
        let inner = self.inner();
        let mut appending = inner.staging.appending(&append.files);
        let ended = self.try_append(&append, &removes, on_retry).await;
        let ended = ended.map_err(|error| {
            // Of this call or an earlier one.
            let put = inner.may_land(append.id);
            self.unless_put(append.id, put, error)
        });
        if !matches!(&ended, Err(error) if !error.is_decided()) {
            inner.attempts.decided(append.id);
        }
        appending.lost = matches!(ended, Ok(Appended::Lost { .. }));
        ended
    }

    /// As [`Shard::append_removing`], but that an error says nothing of what earlier calls have put.
    async fn try_append(
        &self,
        append: &Append,
        removes: &BTreeSet<String>,
        on_retry: OnRetry<'_>,
    ) -> Result<Appended, Error> {
        let inner = self.inner();
        if let Some(why) = contradiction(append) {
            return Err(Error::InvalidAppend {
                url: self.url().to_owned(),
                why,
            });
        }
        self.check_rewrites_with(on_retry).await?;
        if inner.progress().upper < append.lower {
            // Others know of commits that we have not seen yet.
            inner.catch_up(on_retry).await?;
        }
        if inner.progress().upper == append.lower {
            match self.check_staged(&append.files, on_retry).await {
                // An earlier call may have put it: if it is not in the log, it must not get there any more.
                Err(Error::Swept { .. }) if inner.attempts.get(append.id).is_some() => {
                    self.tombstone_append(append, on_retry).await?;
                }
                checked => checked?,
            }
        }
        let swept = |file: &StagedFile| Error::Swept {
            url: self.url().to_owned(),
            path: file.path.clone(),
        };
        let plan = |state: &State| {
            let upper = state.progress().upper;
            if upper != append.lower {
                return Plan::Done(Ok(Appended::Lost { upper }));
            }
            let mut files = append.files.iter();
            if let Some(file) = files.find(|file| state.is_removed(&file.path)) {
                return Plan::Done(Err(swept(file)));
            }
            Plan::Put(Box::new(append_commit(
                &inner.storage,
                state,
                append,
                removes,
            )))
        };
        let looped = self.commit_loop(append.id, plan, &append.files, on_retry);
        match looped.await? {
            Outcome::Committed(version) => Ok(Appended::Committed { version }),
            Outcome::Done(Ok(lost)) => {
                let ended = self.how_it_ended(append, lost).await;
                // That it cannot be found out says nothing.
                let put = inner.attempts.get(append.id).is_some();
                ended.map_err(|error| self.unless_put(append.id, put, error))
            }
            Outcome::Done(Err(error)) => Err(error),
        }
    }

    /// Takes the slot that an earlier call may have put the append into, unless that is there: with the removal of its
    /// files, so that no later put of it can follow either.
    async fn tombstone_append(&self, append: &Append, on_retry: OnRetry<'_>) -> Result<(), Error> {
        let storage = &self.inner().storage;
        let id = self.fresh_id();
        let plan = |state: &State| {
            let upper = state.progress().upper;
            let mut files = append.files.iter();
            if upper != append.lower || files.any(|file| state.is_removed(&file.path)) {
                return Plan::Done(());
            }
            let removes = append.files.iter().map(|file| Remove {
                path: file.path.clone(),
                deletion_timestamp: Some(storage.env.now_ms()),
                data_change: false,
                size: i64::try_from(file.size).ok(),
                ..Remove::default()
            });
            Plan::Put(Box::new(Commit {
                info: Some(CommitInfo {
                    operation: "SWEEP".into(),
                    ..our_info(storage, id, upper, upper)
                }),
                removes: removes.collect(),
                ..Commit::default()
            }))
        };
        self.commit(id, plan, on_retry).await?;
        Ok(())
    }

    /// How an append ended that is not to be put any more: `lost`, or an earlier call was dropped but had
    /// succeeded.
    async fn how_it_ended(&self, append: &Append, lost: Appended) -> Result<Appended, Error> {
        let inner = self.inner();
        match inner.find_append(append.id, append.lower).await? {
            Found::At(version) => return Ok(Appended::Committed { version }),
            Found::Not => return Ok(lost),
            Found::Unknown => {}
        }
        let Some(attempt) = inner.attempts.get(append.id) else {
            return Ok(lost);
        };
        let (live, removed) = inner.with_state(|state| {
            let any = |is: &dyn Fn(&str) -> bool| append.files.iter().any(|file| is(&file.path));
            (
                any(&|path| state.is_live(path)),
                any(&|path| state.is_removed(path)),
            )
        });
        if live {
            let version = attempt.slot;
            return Ok(Appended::Committed { version });
        }
        // Had its files come and gone meanwhile, their tombstones would be there.
        if !append.files.is_empty()
            && !removed
            && inner.storage.env.since(attempt.since) < TRACE_AGE_MAX
        {
            return Ok(lost);
        }
        Err(Error::Undecided {
            url: self.url().to_owned(),
            id: append.id,
        })
    }

    /// Checks that files which others may have deleted are still there; not those that are being written.
    ///
    /// # Errors
    /// [`Error::Swept`], or the store's.
    pub(crate) async fn check_staged(
        &self,
        files: &[StagedFile],
        on_retry: OnRetry<'_>,
    ) -> Result<(), Error> {
        let storage = &self.inner().storage;
        let now_ms = storage.env.now_ms();
        let staging = &self.inner().staging;
        let old = files.iter().filter(|file| {
            let is_writing = staging.is_writing(std::slice::from_ref(file));
            // It may have been staged elsewhere, by another clock.
            let long_ago = now_ms.abs_diff(file.staged_ms) > STAGED_UNCHECKED_MS_MAX;
            (long_ago || storage.local.is_some()) && !is_writing
        });
        let checks = old.map(|file| async move {
            let path = Path::from(file.path.as_str());
            if storage.exists(&path, on_retry).await? {
                return Ok(());
            }
            // With the table its files are gone.
            self.inner().check_table(on_retry).await?;
            Err(Error::Swept {
                url: self.url().to_owned(),
                path: file.path.clone(),
            })
        });
        let checks: Vec<_> = checks.collect();
        stream::iter(checks)
            .buffer_unordered(CHECKS_AT_ONCE)
            .try_collect()
            .await
    }

    /// Waits until these files are safe in the store.
    ///
    /// # Errors
    /// [`Error::Unwritten`].
    async fn written(&self, files: &[StagedFile]) -> Result<(), Error> {
        for file in files.iter().filter(|file| !file.written) {
            if !self.inner().staging.is_written(&file.path).await {
                return Err(Error::Unwritten {
                    url: self.url().to_owned(),
                    path: file.path.clone(),
                });
            }
        }
        Ok(())
    }

    /// Moves the since to `to`, or as far as the live holds permit, if that is beyond where it is; returns how far
    /// the shard is then. Reads below the since need not be possible any more.
    ///
    /// # Errors
    /// [`Error::InvalidFrontier`] for a time below 0 or of [`i64::MAX`]; otherwise permanent ones of the store and
    /// the log.
    pub async fn advance_since(
        &self,
        to: Frontier<i64>,
        on_retry: OnRetry<'_>,
    ) -> Result<Progress, Error> {
        let storage = &self.inner().storage;
        check_frontier(self.url(), "since", to)?;
        // By what others have committed it may be further than it seems, or less held back.
        self.inner().catch_up(on_retry).await?;
        let id = self.fresh_id();
        let plan = |state: &State| {
            let progress = state.progress();
            let since = to.min(state.holds().least_frontier());
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

    /// The identity of a commit that nobody asks for again.
    pub(crate) fn fresh_id(&self) -> CommitId {
        CommitId {
            nonce: self.inner().storage.env.random_u128(),
            seq: 0,
        }
    }

    /// The commit loop: puts what `plan` says by the newest state, until that is in the log or there is nothing to
    /// put. `plan` runs while the state is locked: it must be short. On success the files that the commit adds
    /// count as staged no more.
    ///
    /// # Errors
    /// Permanent ones of the store and the log; nothing was committed then if the error
    /// [is decided](Error::is_decided).
    pub(crate) async fn commit<T>(
        &self,
        id: CommitId,
        plan: impl Fn(&State) -> Plan<T>,
        on_retry: OnRetry<'_>,
    ) -> Result<Outcome<T>, Error> {
        let outcome = self.commit_loop(id, plan, &[], on_retry).await;
        self.inner().attempts.decided(id);
        outcome
    }

    /// The error of a commit, whose entry may have been `put` by then.
    fn unless_put(&self, id: CommitId, put: bool, error: Error) -> Error {
        if !put || !error.is_decided() {
            return error;
        }
        Error::Unconfirmed {
            url: self.url().to_owned(),
            id,
            source: Box::new(error),
        }
    }

    /// As [`Shard::commit`], of these files, which may still be being written.
    async fn commit_loop<T>(
        &self,
        id: CommitId,
        plan: impl Fn(&State) -> Plan<T>,
        files: &[StagedFile],
        on_retry: OnRetry<'_>,
    ) -> Result<Outcome<T>, Error> {
        let inner = self.inner();
        let storage = &inner.storage;
        let env = &storage.env;
        // The slot beyond which something lies that is not of this log.
        let mut known_beyond = None;
        loop {
            if inner.tail().is_due(env) {
                inner.catch_up(on_retry).await?;
            }
            let (tail, plan, table, review, told) = {
                let log = lock(&inner.log);
                let table = log.state.metadata().id.clone();
                let mut plan = plan(&log.state);
                let told = match &mut plan {
                    Plan::Put(commit) => log.state.tell_sums(commit),
                    Plan::Done(_) => BTreeSet::new(),
                };
                let review = match &plan {
                    Plan::Put(commit) => log.state.review(commit),
                    Plan::Done(_) => None,
                };
                (log.tail(), plan, table, review, told)
            };
            let mut commit = match plan {
                Plan::Put(commit) => *commit,
                Plan::Done(done) => return Ok(Outcome::Done(done)),
            };
            let reviewed = review.into_iter().flatten().map(|(app_id, version)| Txn {
                app_id: app_id.to_owned(),
                version,
                last_updated: Some(env.now_ms()),
            });
            let reviewed: Vec<Txn> = reviewed.collect();
            // An entry has one of each.
            let is_told = |txn: &Txn| reviewed.iter().any(|told| told.app_id == txn.app_id);
            commit.txns.retain(|txn| !is_told(txn));
            commit.txns.extend(reviewed);
            if let Some(info) = &mut commit.info {
                info.table = Some(table);
            }
            let slot = tail.version + 1;
            let body = commit.to_bytes();
            let prepare = async {
                match inner.staging.is_writing(files) {
                    true => storage.prepare(slot, &body).await,
                    false => None,
                }
            };
            let beyond = async {
                match known_beyond == Some(slot) {
                    true => Ok(false),
                    false => storage.exists(&entry_path(slot + 1), on_retry).await,
                }
            };
            let (prepared, written, beyond) = join3(prepare, self.written(files), beyond).await;
            written?;
            if beyond? {
                // Rivals have gone on, or the slot is a gap, which nobody fills.
                known_beyond = Some(slot);
                inner.catch_up(on_retry).await?;
                continue;
            }
            let before = inner.attempts.put(id, slot, env.moment());
            let mut uncertain = false;
            let occupied = storage
                .occupy(slot, &body, Some(&tail), prepared, &mut uncertain, on_retry)
                .await;
            if !uncertain && !matches!(occupied, Ok(Occupied::Now)) {
                // This put is surely not there; one of an earlier call may be.
                inner.attempts.reset(id, before);
            }
            let unless_put = |error| self.unless_put(id, uncertain, error);
            let (commit, evidence, ours) = match occupied.map_err(unless_put)? {
                Occupied::Unfounded => {
                    let reloaded = inner.reload(&tail, on_retry).await;
                    reloaded.map_err(unless_put)?;
                    continue;
                }
                Occupied::Now => (commit, Evidence::of_entry(&body), true),
                Occupied::By(bytes) => {
                    let evidence = Evidence::of_entry(&bytes);
                    let found = storage.parse(slot, bytes).await;
                    let found = match found {
                        Ok(found) => found,
                        Err(damaged) => {
                            let stands = storage.stands(&tail, on_retry).await;
                            if stands.map_err(unless_put)? {
                                return Err(unless_put(damaged));
                            }
                            // That is another log's.
                            let reloaded = inner.reload(&tail, on_retry).await;
                            reloaded.map_err(unless_put)?;
                            continue;
                        }
                    };
                    let ours = found.info.as_ref().and_then(|info| info.id) == Some(id);
                    (found, evidence, ours)
                }
            };
            let unless_put = |error| self.unless_put(id, ours, error);
            // Judged by what was known before the put, and after it: it may have taken long. Beyond the last entry nobody
            // looks any more.
            let is_due = tail.is_stale(env) || is_last(&commit);
            if is_due && !storage.stands(&tail, on_retry).await.map_err(unless_put)? {
                let reloaded = inner.reload(&tail, on_retry).await;
                reloaded.map_err(unless_put)?;
                if !ours {
                    continue;
                }
                let mut own = commit.adds.iter().filter(|add| !told.contains(&add.path));
                let adds = |state: &State| own.any(|add| state.is_live(&add.path));
                if !inner.with_state(adds) {
                    // Nobody reads it there: an opener begins beyond it.
                    inner.drop_phantom(slot).await;
                    continue;
                }
            } else {
                let applied = inner.apply(slot, &commit, evidence);
                applied.map_err(unless_put)?;
            }
            if ours {
                for add in &commit.adds {
                    inner.staging.forget(&add.path);
                }
                inner.checkpoint_if_due(slot);
                return Ok(Outcome::Committed(slot));
            }
        }
    }
}

impl Inner {
    /// True if a put of this commit is in the log, for all that is known, or may get there.
    fn may_land(&self, id: CommitId) -> bool {
        let Some(attempt) = self.attempts.get(id) else {
            return false;
        };
        let log = lock(&self.log);
        let found = log.recent(attempt.slot);
        // What has left memory may have been it.
        found.is_none_or(|entry| entry.id == Some(id))
    }

    /// Deletes an entry that was put where the log had been cleaned up already.
    async fn drop_phantom(&self, version: u64) {
        let path = entry_path(version);
        tracing::warn!(
            shard = %self.storage.url, version,
            "a commit took so long that the log was cleaned up beyond it; trying again"
        );
        if let Err(error) = self.storage.delete(&path).await {
            tracing::debug!(%error, "it is left to the next clean-up");
        }
    }
}

/// Checks that `what` can be set to `frontier`.
pub(crate) fn check_frontier(
    url: &str,
    what: &'static str,
    frontier: Frontier<i64>,
) -> Result<(), Error> {
    match frontier {
        // The greatest time is the empty frontier's.
        Frontier::At(time) if !(0..i64::MAX).contains(&time) => Err(Error::InvalidFrontier {
            url: url.to_owned(),
            what,
            frontier,
        }),
        _ => Ok(()),
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

fn append_commit(
    storage: &Storage,
    state: &State,
    append: &Append,
    removes: &BTreeSet<String>,
) -> Commit {
    let live = removes.iter().filter_map(|path| state.file(path));
    let removes: Vec<Remove> = live.map(|file| removal(storage, file, true)).collect();
    let mut txns = vec![txn(storage, UPPER, append.upper)];
    let since = append
        .since
        .map(|since| since.min(state.holds().least_frontier()).min(append.upper))
        .max(state.edited().map(|edit| edit.upper))
        .max((!removes.is_empty()).then_some(append.lower));
    if let Some(since) = since.filter(|since| *since > state.progress().since) {
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
        removes,
        ..Commit::default()
    }
}

/// The action that removes a file; `data_change` says whether its rows go with it.
pub(crate) fn removal(storage: &Storage, file: &DataFile, data_change: bool) -> Remove {
    Remove {
        path: file.path.clone(),
        deletion_timestamp: Some(storage.env.now_ms()),
        data_change,
        extended_file_metadata: Some(true),
        partition_values: Some(BTreeMap::new()),
        size: i64::try_from(file.size).ok(),
        tags: None,
    }
}

/// What `commitInfo` says of a commit of ours.
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

/// The action that sets the frontier `app_id`.
pub(crate) fn txn(storage: &Storage, app_id: &str, frontier: Frontier<i64>) -> Txn {
    Txn {
        app_id: app_id.to_owned(),
        version: frontier.to_version(),
        last_updated: Some(storage.env.now_ms()),
    }
}
