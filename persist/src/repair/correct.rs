//! Putting right what the log says of files that are whole: the path, the size, the rows, statistics, tags of ours.
//!
//! They are added again by one commit that changes no data, with the identity of a commit of ours: it is no edit, and
//! followers go on. What another program said of them beyond the number of rows is left out where some of it was wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::steps::{Taken, examine_again};
use super::{Judgement, MisstatedFile};
use crate::commit::{Outcome, Plan, our_info, removal};
use crate::data_file::{DataFile, FileMeta, StagedFile, is_own_tag};
use crate::error::Error;
use crate::log::action::{Add, Commit, CommitInfo};
use crate::log::state::State;
use crate::shard::Shard;
use crate::storage::Storage;
use crate::verify::{Difference, Examined};

/// Puts right what the log says of these files, which was wrong in this state, if they are whole now.
pub(super) async fn correct_files(
    shard: &Shard,
    state: Option<&State>,
    files: &[MisstatedFile],
    committed: &mut Option<u64>,
) -> Result<Taken, Error> {
    let paths = files.iter().map(|misstated| misstated.path.as_str());
    let Some(examined) = examine_again(shard, state, paths).await? else {
        return Ok(Taken::Changed);
    };
    let why: BTreeMap<_, _> = files.iter().map(|it| (it.path.as_str(), &it.why)).collect();
    // An edit that nobody has answered may have brought rows that no sink has looked at.
    let is_seen = |path: &str| {
        shard.inner().with_state(|state| {
            let is_answered = state.edited().is_none() && state.unaccepted().is_none();
            is_answered && state.rewrites().is_empty() && !state.is_unseen(path)
        })
    };
    let mut right = Vec::new();
    for (file, found) in examined {
        let differences: Vec<_> = found.differences.iter().collect();
        match super::judge(&differences, &file) {
            Some(Judgement::Misstated(wrong)) if Some(&&wrong) == why.get(file.path.as_str()) => {}
            _ => return Ok(Taken::Changed),
        }
        let plain = shard.inner().storage.root.plain(&file.path);
        let add = corrected(&file, plain, &found, is_seen(&file.path));
        right.push((file, add));
    }
    let version = shard.correct_references(right).await?;
    *committed = version.or(*committed);
    Ok(Taken::Done)
}

/// The action that puts right what the log says of the file, which was examined: statistics of other programs beyond
/// the number of rows go where some are wrong. `plain` is its path, if that is to be another. If a sink wrote its rows, or one has
/// looked at them, tags say all that is known of them now; else another program's rows have none.
fn corrected(file: &DataFile, plain: Option<String>, found: &Examined, is_seen: bool) -> Add {
    let is_wrong = |is: fn(&Difference) -> bool| found.differences.iter().any(is);
    let is_fit = found.nulls == (0, 0) && !is_wrong(|it| matches!(it, Difference::Unfit { .. }));
    let is_known = found.is_as_written || found.is_of_other && is_seen && is_fit;
    let others = file.tags.iter().filter(|(name, _)| !is_own_tag(name));
    let others = others.map(|(name, value)| (name.clone(), value.clone()));
    let described = StagedFile {
        path: plain.unwrap_or_else(|| file.path.clone()),
        size: found.bytes,
        meta: FileMeta {
            rows: found.rows,
            times: found.times.filter(|_| is_known),
            sums: is_known.then(|| found.sums.clone()),
            sorted: is_known && found.is_sorted,
            tags: others.collect(),
        },
        staged_ms: file.modification_time,
        written: true,
    };
    let are_wrong = is_wrong(|found| {
        matches!(
            found,
            Difference::Rows { .. } | Difference::Times { .. } | Difference::Statistics { .. }
        )
    });
    let add = described.to_add();
    Add {
        data_change: false,
        stats: match &file.stats {
            Some(stats) if !are_wrong && file.rows == Some(found.rows) => Some(stats.clone()),
            _ => add.stats,
        },
        ..add
    }
}

impl Shard {
    /// Adds these files again, where they are what was examined, in one commit that changes no data. Returns its version, or
    /// `None` if none of them is there any more.
    async fn correct_references(
        &self,
        files: Vec<(Arc<DataFile>, Add)>,
    ) -> Result<Option<u64>, Error> {
        let storage = &self.inner().storage;
        let id = self.fresh_id();
        let plan = |state: &State| {
            let is_live = |(file, _): &&(Arc<DataFile>, Add)| state.refers_to(file);
            let right: Vec<_> = files.iter().filter(is_live).collect();
            if right.is_empty() {
                return Plan::Done(());
            }
            let upper = state.progress().upper;
            let renamed = right.iter().filter(|(file, add)| file.path != add.path);
            Plan::Put(Box::new(Commit {
                info: Some(CommitInfo {
                    operation: "REPAIR".into(),
                    operation_parameters: json!({"files": right.len()}),
                    ..our_info(storage, id, upper, upper)
                }),
                removes: renamed
                    .map(|(file, _)| removal(storage, file, false))
                    .collect(),
                adds: right.iter().map(|(_, add)| add.clone()).collect(),
                ..Commit::default()
            }))
        };
        match self.commit(id, plan, &Storage::warn_of_retry).await? {
            Outcome::Committed(version) => Ok(Some(version)),
            Outcome::Done(()) => Ok(None),
        }
    }
}
