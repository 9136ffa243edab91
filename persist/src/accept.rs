//! Accepting edits: a person says that a table is right as other programs have left it.
//!
//! An ingest sink has nothing to repair its table from, so it stops at an edit. Whoever accepts the edits up to a version has
//! that written into the log, in a `txn`, which every reader and writer keeps:
//!
//! ```text
//!   unaccepted = the edits that are not answered yet, of versions beyond `mvsink.accepted`
//! ```
//!
//! The since and the upper stay. The next append moves the since to where the upper was, as after any edit, since contents
//! before that are not what they were.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::commit::{Outcome, Plan, our_info};
use crate::error::Error;
use crate::log::action::{Commit, CommitInfo, Txn};
use crate::log::entry_path;
use crate::log::state::{ACCEPTED, State, is_foreign};
use crate::shard::Shard;
use crate::storage::Storage;

/// How many entries before an edit are searched for what it removes.
const ENTRIES_BEFORE_MAX: u64 = 1000;

/// An edit of the data by another program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForeignEdit {
    /// The version of the log that holds it.
    pub version: u64,
    /// What its writer calls it, if it says so.
    pub operation: Option<String>,
    /// Who has written it, if it says so.
    pub engine: Option<String>,
    /// The files that it adds.
    pub files_added: u64,
    /// Their rows, if the log says.
    pub rows_added: Option<u64>,
    /// The files that it removes.
    pub files_removed: u64,
    /// Their rows, if the log says.
    pub rows_removed: Option<u64>,
}

impl fmt::Display for ForeignEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}", self.version)?;
        if let Some(operation) = &self.operation {
            write!(f, ", {operation}")?;
        }
        if let Some(engine) = &self.engine {
            write!(f, " by {engine}")?;
        }
        let rows = |rows: Option<u64>| rows.map_or("unknown".to_owned(), |rows| rows.to_string());
        write!(
            f,
            ": {} files added (rows: {}), {} removed (rows: {})",
            self.files_added,
            rows(self.rows_added),
            self.files_removed,
            rows(self.rows_removed)
        )
    }
}

impl Shard {
    /// The version of the last edit by another program that an ingest sink stops at: it is not answered by an append, and
    /// nobody has accepted it.
    pub fn unaccepted_edit(&self) -> Option<u64> {
        self.inner().with_state(State::unaccepted)
    }

    /// True if an edit in this version was accepted: by a person, or it is a repair that found none to be accepted.
    pub fn has_accepted(&self, version: u64) -> bool {
        self.inner()
            .with_state(|state| state.accepted() >= Some(version))
    }

    /// The edits that nobody has accepted, in the order of their versions; those whose entries are cleaned up are not known.
    ///
    /// # Errors
    /// Permanent ones of the store and the log.
    pub(crate) async fn unaccepted_edits(&self) -> Result<Vec<ForeignEdit>, Error> {
        self.refresh().await?;
        let state = self.inner().with_state(State::clone);
        self.inner().storage.unaccepted_edits(&state).await
    }

    /// Accepts the edits up to this version, in one commit. Returns its version, or `None` if there are none, or were
    /// accepted already.
    pub(crate) async fn accept_edits(&self, through: u64) -> Result<Option<u64>, Error> {
        let storage = &self.inner().storage;
        let id = self.fresh_id();
        let plan = |state: &State| {
            if state.unaccepted().is_none() || state.accepted() >= Some(through) {
                return Plan::Done(());
            }
            let upper = state.progress().upper;
            Plan::Put(Box::new(Commit {
                info: Some(CommitInfo {
                    operation: "ACCEPT EDITS".into(),
                    operation_parameters: serde_json::json!({"through": through}),
                    ..our_info(storage, id, upper, upper)
                }),
                txns: vec![Txn {
                    app_id: ACCEPTED.to_owned(),
                    version: i64::try_from(through).unwrap_or(i64::MAX - 1),
                    last_updated: Some(storage.env.now_ms()),
                }],
                ..Commit::default()
            }))
        };
        match self.commit(id, plan, &Storage::warn_of_retry).await? {
            Outcome::Committed(version) => Ok(Some(version)),
            Outcome::Done(()) => Ok(None),
        }
    }
}

impl Storage {
    /// The edits that nobody has accepted in this state, in the order of their versions; those whose entries are cleaned up are not known.
    ///
    /// # Errors
    /// Permanent ones of the store and the log.
    pub(crate) async fn unaccepted_edits(&self, state: &State) -> Result<Vec<ForeignEdit>, Error> {
        let (last, begin) = (state.unaccepted(), state.first_unaccepted());
        let mut edits = Vec::new();
        let Some(last) = last else {
            return Ok(edits);
        };
        let mut rows = BTreeMap::new();
        for version in begin..=last {
            let Some((commit, told)) = self.entry_with_info(version).await? else {
                continue;
            };
            if is_foreign(&commit) {
                edits.push(self.describe(version, &commit, &told, &rows).await?);
            }
            rows.extend(rows_of(&commit));
        }
        if edits.is_empty() {
            edits.push(ForeignEdit {
                version: last,
                ..ForeignEdit::default()
            });
        }
        Ok(edits)
    }

    async fn describe(
        &self,
        version: u64,
        commit: &Commit,
        told: &Value,
        known: &BTreeMap<String, Option<u64>>,
    ) -> Result<ForeignEdit, Error> {
        let text = |key: &str| told.get(key).and_then(Value::as_str).map(str::to_owned);
        let added: Vec<_> = commit.adds.iter().filter(|add| add.data_change).collect();
        let added_rows = rows_of(commit);
        let removed = commit.removes.iter().filter(|remove| remove.data_change);
        let removed: Vec<_> = removed.map(|remove| remove.path.as_str()).collect();
        let mut known = known.clone();
        let mut before = version;
        while removed.iter().any(|path| !known.contains_key(*path))
            && before > version.saturating_sub(ENTRIES_BEFORE_MAX)
        {
            before -= 1;
            let Some((commit, _)) = self.entry_with_info(before).await? else {
                break;
            };
            for (path, rows) in rows_of(&commit) {
                known.entry(path).or_insert(rows);
            }
        }
        let rows_added = added
            .iter()
            .map(|add| added_rows.get(&add.path).copied().flatten());
        let rows_removed = removed
            .iter()
            .map(|path| known.get(*path).copied().flatten());
        Ok(ForeignEdit {
            version,
            operation: text("operation"),
            engine: text("engineInfo").or_else(|| text("clientVersion")),
            files_added: added.len() as u64,
            rows_added: total(rows_added),
            files_removed: removed.len() as u64,
            rows_removed: total(rows_removed),
        })
    }

    /// An entry, with all that its writer tells of it; `None` if it is cleaned up.
    pub(crate) async fn entry_with_info(
        &self,
        version: u64,
    ) -> Result<Option<(Commit, Value)>, Error> {
        let on_retry = &Storage::warn_of_retry;
        let Some(bytes) = self.get_retrying(&entry_path(version), on_retry).await? else {
            return Ok(None);
        };
        let told = bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
            .find_map(|mut line| Some(line.get_mut("commitInfo")?.take()));
        let commit = self.parse(version, bytes).await?;
        Ok(Some((commit, told.unwrap_or_default())))
    }
}

/// The sum, if all are known. Other programs may claim any number.
fn total(mut rows: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    rows.try_fold(0, |sum: u64, rows| Some(sum.saturating_add(rows?)))
}

/// The rows of the files that a commit adds, as far as it says.
fn rows_of(commit: &Commit) -> BTreeMap<String, Option<u64>> {
    let rows = |stats: &str| {
        let stats: Value = serde_json::from_str(stats).ok()?;
        stats.get("numRecords")?.as_u64()
    };
    let adds = commit.adds.iter();
    adds.map(|add| (add.path.clone(), add.stats.as_deref().and_then(rows)))
        .collect()
}
