//! Whether a log's checkpoints can be read, and hold what the entries lead to.
//!
//! ```text
//!   a checkpoint of version v is right   ⇐   the entries 0 to v are there, and lead to the same
//! ```
//!
//! Frontiers and other `txn` actions of ours, columns and live files are compared; what is remembered of removed files
//! is not, since a writer may forget it. Entries that begin at another checkpoint prove less: if they lead to something
//! else, one of the two is wrong, and nothing tells which.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::walk::Parsed;
use super::{READ_AT_ONCE, Survey};
use crate::data_file::DataFile;
use crate::error::Error;
use crate::log::checkpoint::checkpoint_path;
use crate::log::entry_path;
use crate::log::state::State;
use crate::open::CheckpointError;
use crate::replay::{Evidence, Log};
use crate::storage::{OnRetry, Storage};
use crate::verify::Difference;

/// The checkpoints in one file, as far as they can be used.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// The newest of them.
    pub(super) base: Option<Log>,
    /// Their versions.
    pub(super) good: Vec<u64>,
    /// Those of the second form, which can be used by others only.
    pub(super) second_form: Vec<u64>,
    /// Those with tables that are refused.
    pub(super) refused: Vec<u64>,
}

impl Storage {
    /// Reads all checkpoints, and compares them with the entries.
    pub(super) async fn survey_checkpoints(
        &self,
        versions: &[u64],
        survey: &mut Survey,
        on_retry: OnRetry<'_>,
    ) -> Result<Checkpoints, Error> {
        let mut found = Checkpoints::default();
        for version in versions.iter().rev().copied() {
            let path = checkpoint_path(version);
            let why = match self.load_checkpoint(version, on_retry).await {
                Ok(log) => match self.is_of_another_table(&log, on_retry).await? {
                    false => {
                        found.good.push(version);
                        found.base.get_or_insert(log);
                        continue;
                    }
                    true => "it is of another table".into(),
                },
                // It was cleaned up meanwhile.
                Err(CheckpointError::Unusable(Error::MissingFile { .. })) => continue,
                Err(CheckpointError::Unusable(Error::Unsupported { .. })) => {
                    found.second_form.push(version);
                    continue;
                }
                Err(CheckpointError::Unusable(Error::Corrupt { why, .. })) => why,
                Err(CheckpointError::Fatal(Error::Unsupported { why, .. })) => {
                    survey.find(&path, Difference::Refused { why });
                    found.refused.push(version);
                    continue;
                }
                Err(CheckpointError::Unusable(error) | CheckpointError::Fatal(error)) => {
                    return Err(error);
                }
            };
            survey.damaged_checkpoints.insert(version, None);
            survey.find(&path, Difference::Unreadable { why });
        }
        self.compare_with_entries(&mut found, survey, on_retry)
            .await?;
        Ok(found)
    }

    /// Leaves those that are what the entries lead to, for all that can be told.
    async fn compare_with_entries(
        &self,
        found: &mut Checkpoints,
        survey: &mut Survey,
        on_retry: OnRetry<'_>,
    ) -> Result<(), Error> {
        let mut ascending = found.good.clone();
        ascending.sort_unstable();
        // Those from which the next is told, and whether all that is known of them begins with the first entry.
        let mut known: BTreeMap<u64, bool> = BTreeMap::new();
        for version in ascending {
            let from: Vec<u64> = known.keys().copied().collect();
            let led = self.state_at(version, &from, on_retry).await?;
            let mut is_proven = known.values().next_back().copied().unwrap_or(true);
            is_proven &= led.is_some();
            if let Some((state, evidence)) = led
                && let Ok(log) = self.load_checkpoint(version, on_retry).await
                && let Some(why) = contradiction(&log.state, &state)
            {
                survey.find(&checkpoint_path(version), Difference::Contradicts { why });
                if is_proven {
                    let right = Some((state, evidence));
                    survey.damaged_checkpoints.insert(version, right);
                    found.good.retain(|good| *good != version);
                    continue;
                }
            }
            known.insert(version, is_proven);
        }
        let newest = found.good.iter().max().copied();
        if found.base.as_ref().map(|log| log.state.version) != newest {
            found.base = match newest {
                Some(version) => self.load_checkpoint(version, on_retry).await.ok(),
                None => None,
            };
        }
        Ok(())
    }

    /// True if the entry of the same version says that it is of another table than the checkpoint.
    async fn is_of_another_table(&self, log: &Log, on_retry: OnRetry<'_>) -> Result<bool, Error> {
        let state = &log.state;
        let entry = self
            .get_retrying(&entry_path(state.version), on_retry)
            .await?;
        let Some(entry) = entry else {
            return self.is_ahead_of_another(log, on_retry).await;
        };
        let commit = self.parse_entry(state.version, entry).await?;
        let table = commit.ok().and_then(|(commit, _)| commit.info?.table);
        Ok(table.is_some_and(|table| table != state.metadata().id))
    }

    pub(super) async fn parse_entry(&self, version: u64, bytes: Bytes) -> Result<Parsed, Error> {
        let evidence = Evidence::of_entry(&bytes);
        match self.parse(version, bytes).await {
            Ok(commit) => Ok(Ok((commit, evidence))),
            Err(Error::Corrupt { why, .. }) => Ok(Err(Difference::Unreadable { why })),
            Err(error) => Err(error),
        }
    }

    /// The state of a version, from an earlier checkpoint and the entries since; `None` if some are not there or cannot
    /// be used.
    pub(super) async fn state_at(
        &self,
        version: u64,
        checkpoints: &[u64],
        on_retry: OnRetry<'_>,
    ) -> Result<Option<(State, Evidence)>, Error> {
        let from = checkpoints.iter().filter(|from| **from < version).max();
        let loaded = match from {
            Some(from) => self.load_checkpoint(*from, on_retry).await.ok(),
            None => self.load_first_entry(on_retry).await.ok(),
        };
        let Some(mut log) = loaded else {
            return Ok(None);
        };
        while log.state.version < version {
            let left = (version - log.state.version).min(READ_AT_ONCE as u64);
            let (entries, _) = self.read_beyond(log.state.version, left, on_retry).await?;
            if entries.is_empty() {
                return Ok(None);
            }
            for (version, bytes) in entries {
                let Ok((commit, evidence)) = self.parse_entry(version, bytes).await? else {
                    return Ok(None);
                };
                if log.apply(self, &commit, evidence).is_err() {
                    return Ok(None);
                }
            }
        }
        let evidence = log.tail().evidence;
        Ok(Some((log.state, evidence)))
    }
}

/// How a checkpoint differs from what the entries lead to, in words.
fn contradiction(checkpoint: &State, entries: &State) -> Option<String> {
    if checkpoint.metadata().id != entries.metadata().id {
        return Some("it is of another table".into());
    }
    let (found, expected) = (checkpoint.progress(), entries.progress());
    for (name, found, expected) in [
        ("upper", found.upper, expected.upper),
        ("since", found.since, expected.since),
    ] {
        if found != expected {
            return Some(format!(
                "it has the {name} {found}, and the entries lead to {expected}"
            ));
        }
    }
    let (found, expected) = (checkpoint.own_txns(), entries.own_txns());
    if let Some(name) = [&found, &expected]
        .into_iter()
        .flat_map(BTreeMap::keys)
        .find(|name| found.get(*name) != expected.get(*name))
    {
        return Some(format!("it has another {name} than the entries lead to"));
    }
    if checkpoint.schema() != entries.schema() {
        return Some("it has other columns than the entries lead to".into());
    }
    let (found, expected) = (checkpoint.files(), entries.files());
    let lacking = expected.values().filter(|file| !found.contains(&file.path));
    let surplus = found.values().filter(|file| !expected.contains(&file.path));
    let different = expected.values().filter(|file| {
        let other = found.get(&file.path);
        other.is_some_and(|other| differ(file, other))
    });
    let named = |what: &str, mut files: Vec<&str>| {
        files.sort_unstable();
        let first = *files.first()?;
        let count = files.len();
        Some(format!(
            "it {what} {count} files of the table, {first} first"
        ))
    };
    fn paths<'a>(files: impl Iterator<Item = &'a std::sync::Arc<DataFile>>) -> Vec<&'a str> {
        files.map(|file| file.path.as_str()).collect()
    }
    named("lacks", paths(lacking))
        .or_else(|| named("has, beyond the entries,", paths(surplus)))
        .or_else(|| named("says other things than the entries of", paths(different)))
}

/// True if two entries of one file say different things of it. Writers may leave out what they do not know.
fn differ(a: &DataFile, b: &DataFile) -> bool {
    fn differ<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
        a.zip(b).is_some_and(|(a, b)| a != b)
    }
    let size = |file: &DataFile| Some(file.size).filter(|size| *size != 0);
    differ(size(a), size(b))
        || differ(a.rows, b.rows)
        || differ(a.min_time, b.min_time)
        || differ(a.max_time, b.max_time)
        || differ(a.sums.as_ref(), b.sums.as_ref())
}
