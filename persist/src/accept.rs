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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::acceptable::{Required, unacceptable};
use crate::commit::{Outcome, Plan, our_info};
use crate::data_file::{Adder, DataFile};
use crate::error::Error;
use crate::frontier::Frontier;
use crate::log::action::{Commit, CommitInfo, Txn};
use crate::log::entry_path;
use crate::log::state::{ACCEPTED, State, is_foreign};
use crate::rewrite::Rewrite;
use crate::shard::{Inner, Shard};
use crate::storage::Storage;
use crate::verify::{Difference, Finding};

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

/// The edits of a table that nobody has accepted.
#[derive(Debug, Default)]
pub(crate) struct Unaccepted {
    /// In the order of their versions.
    pub(crate) edits: Vec<ForeignEdit>,
    /// The versions in which other programs have added files, by the keys of these.
    added_in: BTreeMap<String, u64>,
    /// The last version that holds an edit.
    last: u64,
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

    /// The edits that nobody has accepted, in the order of their versions, with the state that they are of; those whose
    /// entries are cleaned up are not known.
    ///
    /// # Errors
    /// Permanent ones of the store and the log.
    pub(crate) async fn unaccepted_edits(&self) -> Result<(State, Unaccepted), Error> {
        self.refresh().await?;
        self.check_rewrites().await?;
        let state = self.inner().with_state(State::clone);
        let storage = &self.inner().storage;
        let found = storage.find_unaccepted(&state, Some(self.inner())).await?;
        Ok((state, found))
    }

    /// Accepts the edits up to this version, in one commit. Returns its version, or `None` if there are none, or were
    /// accepted already.
    pub(crate) async fn accept_edits(&self, through: u64) -> Result<Option<u64>, Error> {
        // It may have been opened again since they were found.
        self.check_rewrites().await?;
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
    /// The edits that nobody has accepted in this state, in the order of their versions; those whose entries are cleaned up
    /// are not known, nor are those that say they change no data. Each entry is read once.
    ///
    /// # Errors
    /// Permanent ones of the store and the log.
    pub(crate) async fn unaccepted_edits(&self, state: &State) -> Result<Unaccepted, Error> {
        self.find_unaccepted(state, None).await
    }

    /// The same; `inner` tells of those that say they change no data.
    async fn find_unaccepted(
        &self,
        state: &State,
        inner: Option<&Inner>,
    ) -> Result<Unaccepted, Error> {
        let (last, begin) = (state.unaccepted(), state.first_unaccepted());
        let mut found = Unaccepted::default();
        let Some(last) = last else {
            return Ok(found);
        };
        let root = &self.root;
        let key = |path: &str| root.key(path).into_owned();
        // Of the files that these entries have added.
        let mut rows: BTreeMap<String, Option<u64>> = BTreeMap::new();
        // Of each edit the files that it removes which were added before.
        let mut removed_before: Vec<(usize, Vec<String>)> = Vec::new();
        for version in begin..=last {
            let Some((commit, told)) = self.entry_with_info(version).await? else {
                continue;
            };
            let adder = Adder::of(&commit);
            let files = commit.adds.iter();
            let files: Vec<_> = files.map(|add| DataFile::from_add(add, adder)).collect();
            let is_edit = match inner {
                None if is_foreign(&commit) => true,
                Some(inner) if Rewrite::of_entry(version, Frontier::Empty, &commit).is_some() => {
                    match inner.entry(version).await {
                        // As it counts for those who stop at edits.
                        Err(Error::EntryGone { .. }) => true,
                        entry => entry?.foreign,
                    }
                }
                _ => false,
            };
            if is_edit {
                let removed = commit.removes.iter().map(|remove| key(&remove.path));
                let removed: BTreeSet<_> = removed.collect();
                let (known, unknown): (Vec<_>, Vec<_>) =
                    removed.iter().partition(|path| rows.contains_key(*path));
                let text = |key: &str| told.get(key).and_then(Value::as_str).map(str::to_owned);
                removed_before.push((found.edits.len(), unknown.into_iter().cloned().collect()));
                found.edits.push(ForeignEdit {
                    version,
                    operation: text("operation"),
                    engine: text("engineInfo").or_else(|| text("clientVersion")),
                    files_added: files.len() as u64,
                    rows_added: total(files.iter().map(|file| file.rows)),
                    files_removed: removed.len() as u64,
                    rows_removed: total(known.iter().map(|path| rows[*path])),
                });
            }
            for file in files {
                let key = key(&file.path);
                if adder == Adder::Other {
                    found.added_in.insert(key.clone(), version);
                }
                rows.insert(key, file.rows);
            }
        }
        let wanted = removed_before.iter().flat_map(|(_, paths)| paths.clone());
        let before = self
            .find_files(begin, wanted.collect(), &Storage::warn_of_retry)
            .await?;
        for (edit, paths) in removed_before {
            let rows = paths
                .iter()
                .map(|path| before.files.get(path)?.as_ref()?.rows);
            let edit = &mut found.edits[edit];
            edit.rows_removed = total([edit.rows_removed, total(rows)].into_iter());
        }
        found.last = last;
        if found.edits.is_empty() {
            found.edits.push(ForeignEdit {
                version: last,
                ..ForeignEdit::default()
            });
        }
        Ok(found)
    }

    /// The live files that no sink wrote and that sources cannot read, but for `lost` ones; with what is wrong with them.
    ///
    /// # Errors
    /// [`Error::Shutdown`], and permanent ones of the store.
    pub(crate) async fn unacceptable(
        &self,
        state: &State,
        unaccepted: &Unaccepted,
        lost: &BTreeSet<&str>,
    ) -> Result<Vec<Finding>, Error> {
        let (table, required) = (state.schema(), Arc::new(Required::of_table(state)));
        let mut found = Vec::new();
        let files = state.files();
        // Tags on what another program has added are its word.
        let is_of_other = |file: &&Arc<DataFile>| {
            file.sums.is_none()
                || unaccepted
                    .added_in
                    .contains_key(&*self.root.key(&file.path))
        };
        let mut of_others: Vec<_> = files.values().filter(is_of_other).collect();
        of_others.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        for file in of_others
            .into_iter()
            .filter(|file| !lost.contains(file.path.as_str()))
        {
            let read = async || {
                let location = self.data_location(&file.path)?;
                self.get_existing(&location, &Storage::warn_of_retry).await
            };
            let difference = match read().await {
                Err(Error::Shutdown) => return Err(Error::Shutdown),
                Err(Error::MissingFile { .. }) => Some(Difference::Missing),
                Err(Error::OutsideFile { .. }) => Some(Difference::Outside),
                Err(error) => Some(Difference::Refused {
                    why: error.to_string(),
                }),
                Ok(bytes) => {
                    let key = self.root.key(&file.path);
                    let version = unaccepted.added_in.get(&*key).copied();
                    let version = version.unwrap_or(unaccepted.last);
                    let (path, table) = (file.path.clone(), Arc::clone(&table));
                    let required = Arc::clone(&required);
                    let look = move || unacceptable(&path, bytes, version, &table, &required);
                    self.env.cpu.run(look).await?
                }
            };
            found.extend(difference.map(|difference| Finding {
                path: file.path.clone(),
                difference,
            }));
        }
        Ok(found)
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
