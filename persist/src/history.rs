//! Looking back: entries of the log that have left memory, and how an append ended.
//!
//! An append is known by its identity, which is in its log entry and nowhere else. So for as long as the entries
//! are there, calling again tells how an interrupted one ended. Once they are cleaned up, these remain: an append
//! that no call of this process ever tried to put is not in the log; one whose files are live is. Only for an
//! append that was interrupted, moved the upper alone (or lost its files since), and is asked for after the
//! clean-up there is no answer, and that is said ([`Error::Undecided`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::client::Moment;
use crate::data_file::{Adder, DataFile};
use crate::error::Error;
use crate::frontier::Frontier;
use crate::lock;
use crate::log::action::{Commit, CommitId};
use crate::log::entry_path;
use crate::log::state::{Entry, is_foreign, upper_of};
use crate::rewrite::{Rewrite, is_of_known_files};
use crate::shard::Inner;
use crate::storage::Storage;

/// The commits of this process that were put and not yet decided: those under way, and those that were dropped.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<CommitId, Attempt>>);

/// How far an undecided commit came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    pub(crate) since: Moment,
    /// The last slot that it was put into; those before it are somebody else's.
    pub(crate) slot: u64,
}

impl Attempts {
    /// The commit is about to be put into this slot. Returns how far it had come.
    pub(crate) fn put(&self, id: CommitId, slot: u64, since: Moment) -> Option<Attempt> {
        let mut all = lock(&self.0);
        let before = all.get(&id).copied();
        all.entry(id).or_insert(Attempt { since, slot }).slot = slot;
        before
    }

    /// Its last put has had no effect: it is as far as before that.
    pub(crate) fn reset(&self, id: CommitId, before: Option<Attempt>) {
        match before {
            Some(before) => lock(&self.0).insert(id, before),
            None => lock(&self.0).remove(&id),
        };
    }

    pub(crate) fn get(&self, id: CommitId) -> Option<Attempt> {
        lock(&self.0).get(&id).copied()
    }

    /// It is known how the commit ended.
    pub(crate) fn decided(&self, id: CommitId) {
        lock(&self.0).remove(&id);
    }
}

/// What the log says of an append.
pub(crate) enum Found {
    /// It is this entry.
    At(u64),
    /// Another entry took the shard on from its lower.
    Not,
    /// The entry that took the shard on from its lower is cleaned up.
    Unknown,
}

impl Inner {
    /// The version of the entry with this identity, if it took the shard on from `lower`. Entries that have left
    /// memory are read again, back to the one that did.
    pub(crate) async fn find_append(
        &self,
        id: CommitId,
        lower: Frontier<i64>,
    ) -> Result<Found, Error> {
        let oldest = {
            let log = lock(&self.log);
            for entry in log.ring().iter().rev() {
                if entry.id == Some(id) {
                    return Ok(Found::At(entry.version));
                }
                if entry.lower <= lower && lower < entry.upper {
                    return Ok(Found::Not);
                }
            }
            let oldest = log.ring().front().map(|entry| (entry.version, entry.lower));
            let progress = log.state.progress();
            oldest.unwrap_or((progress.version + 1, progress.upper))
        };
        let (mut version, mut upper) = oldest;
        while lower < upper && version > 0 {
            version -= 1;
            let commit = match self.read_commit(version).await {
                Ok(commit) => commit,
                Err(Error::EntryGone { .. }) => return Ok(Found::Unknown),
                Err(error) => return Err(error),
            };
            let info = commit.info.as_ref();
            if info.and_then(|info| info.id) == Some(id) {
                return Ok(Found::At(version));
            }
            // Uppers only grow: what starts at or below ends the search.
            if let Some(found) = info.and_then(|info| info.lower) {
                upper = Frontier::from_version(found);
            }
        }
        Ok(Found::Not)
    }

    /// A known entry, from memory or read again.
    pub(crate) async fn entry(&self, version: u64) -> Result<Arc<Entry>, Error> {
        let recent = lock(&self.log).recent(version);
        let entry = match recent {
            Some(entry) => entry,
            None => Arc::new(self.read_entry(version).await?),
        };
        self.judged(entry, &Storage::warn_of_retry).await
    }

    /// Reads a known entry that has left the ring. Its lower is the upper that the entries before it left.
    async fn read_entry(&self, version: u64) -> Result<Entry, Error> {
        let commit = self.read_commit(version).await?;
        let mut upper_after = upper_of(&commit);
        let mut lower = match &commit.info {
            Some(info) if info.id.is_some() => info.lower.map(Frontier::from_version),
            _ => None,
        };
        let mut before = version;
        while lower.is_none() {
            match before.checked_sub(1) {
                Some(earlier) => before = earlier,
                None => lower = Some(Frontier::At(0)),
            }
            if lower.is_none() {
                lower = upper_of(&self.read_commit(before).await?);
            }
        }
        let lower = lower.unwrap_or(Frontier::At(0));
        let adder = Adder::of(&commit);
        let known = lock(&self.log).rewrites_from(version);
        let known = known.into_iter().find(|rewrite| rewrite.version == version);
        let rewrite = known.or_else(|| {
            let rewrite = Rewrite::of_entry(version, lower, &commit)?;
            let is_to_be_looked_at = !is_foreign(&commit) || is_of_known_files(&commit);
            is_to_be_looked_at.then(|| Arc::new(rewrite))
        });
        let foreign = is_foreign(&commit) && rewrite.is_none();
        // Those of one that is looked at are known once it was.
        let counts = |data_change: bool| data_change && (foreign || !is_foreign(&commit));
        Ok(Entry {
            version,
            id: commit.info.as_ref().and_then(|info| info.id),
            lower,
            upper: *upper_after.get_or_insert(lower),
            adds: commit
                .adds
                .iter()
                .filter(|add| counts(add.data_change))
                .map(|add| Arc::new(DataFile::from_add(add, adder)))
                .collect(),
            // What their adds said of them is in entries further back; rows can be read without.
            removes: commit
                .removes
                .iter()
                .filter(|remove| counts(remove.data_change))
                .map(|remove| Arc::new(DataFile::from_remove(remove)))
                .collect(),
            foreign,
            // A sink adds what is new, and takes nothing away.
            exact: !foreign && rewrite.as_ref().is_none_or(|it| it.is_exact()),
            rewrite,
        })
    }

    async fn read_commit(&self, version: u64) -> Result<Commit, Error> {
        let gone = || Error::EntryGone {
            url: self.storage.url.to_string(),
            version,
        };
        if lock(&self.log).is_skipped(version) {
            return Err(gone());
        }
        match self
            .storage
            .get_existing(&entry_path(version), &Storage::warn_of_retry)
            .await
        {
            Ok(bytes) => self.storage.parse(version, bytes).await,
            Err(Error::MissingFile { .. }) => Err(gone()),
            Err(error) => Err(error),
        }
    }
}
