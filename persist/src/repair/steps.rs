//! The steps of a repair, each on what is there now.
//!
//! Verification reads all of a table, which may take hours. Meanwhile a copy may bring files that were missing, and
//! writers go on. So each step looks again first, and is taken only if what it is for is as it was found:
//!
//! ```text
//!   a file of the log is set aside    it has the size, time and tag with which it was listed
//!   a checkpoint is written anew      the same, and entries still lead to it
//!   a reference is dropped            reading the file again finds it lost; the commit is a conditional put
//!   or is put right                   reading the file again finds it whole, and the log wrong in the same way
//!   entries are dropped               the log is as it was listed, before the fence and after it
//! ```
//!
//! **The fence.** Whoever has the table open commits to the slot after the last one that he knows, and would go on
//! with what is given up. So the repair takes that slot itself, put if absent: an entry with `mvsink.restored`, which
//! no state accepts ([`State::apply`]). Writers and followers that come to it end with an error; the slots before it
//! are never used again. A checkpoint of the fence's version then holds the state that the table goes back to, and
//! openers begin with that. If the log has changed by the time the fence is up, the fence is made an entry that
//! says nothing, and the repair is left.

use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectMeta;
use object_store::path::Path;
use serde_json::json;

use super::{Judgement, RepairStep};
use crate::commit::{Outcome, Plan, removal};
use crate::data_file::DataFile;
use crate::error::Error;
use crate::log::action::{Commit, CommitInfo};
use crate::log::checkpoint::{checkpoint_path, last_checkpoint_path};
use crate::log::state::State;
use crate::log::{entry_path, folder};
use crate::replay::Evidence;
use crate::shard::Shard;
use crate::storage::{Occupied, Storage};
use crate::survey::Survey;
use crate::verify::Examined;

/// What tells an entry of one repair from those of others, in the parameters of its operation.
const REPAIR_PARAMETER: &str = "mvsink.repair";

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It was taken.
    Done,
    /// What it is for is not what was found any more; nothing was done.
    Changed,
}

impl From<bool> for Taken {
    fn from(done: bool) -> Self {
        match done {
            true => Taken::Done,
            false => Taken::Changed,
        }
    }
}

impl Storage {
    /// Takes a step on the log, which a survey has found to be needed.
    pub(super) async fn take_step(
        &self,
        step: &RepairStep,
        found: &Survey,
    ) -> Result<Taken, Error> {
        let Some(now) = self.survey(&Storage::warn_of_retry).await? else {
            return Ok(Taken::Changed);
        };
        if table(&now) != table(found) {
            return Ok(Taken::Changed);
        }
        match step {
            RepairStep::DropEntries { .. } => self.drop_entries(found, &now).await,
            RepairStep::SetAside { path } => {
                let path = Path::from(path.as_str());
                let mut damaged = now.damaged_checkpoints.iter();
                let is_known = match path == last_checkpoint_path() {
                    true => now.wrong_pointer.is_some() && now.newest_checkpoint.is_none(),
                    false => damaged.any(|(version, state)| {
                        checkpoint_path(*version) == path && state.is_none()
                    }),
                };
                match found.objects.get(&path) {
                    Some(object) if is_known => self.set_aside(object).await.map(Taken::from),
                    _ => Ok(Taken::Changed),
                }
            }
            RepairStep::RewriteCheckpoint { version } => {
                let path = checkpoint_path(*version);
                let (known, object) = (
                    now.damaged_checkpoints.get(version),
                    found.objects.get(&path),
                );
                let (Some(Some((state, evidence))), Some(object)) = (known, object) else {
                    return Ok(Taken::Changed);
                };
                if !self.copy_aside(object).await? || !self.is_as_listed(object).await? {
                    return Ok(Taken::Changed);
                }
                self.rewrite(state, *evidence).await?;
                Ok(Taken::Done)
            }
            RepairStep::PointTo { version } => {
                if now.newest_checkpoint != Some(*version) {
                    return Ok(Taken::Changed);
                }
                if now.wrong_pointer.is_some() {
                    self.lead_to(*version).await?;
                }
                Ok(Taken::Done)
            }
            // That is a commit.
            RepairStep::DropFiles { .. }
            | RepairStep::CorrectFiles { .. }
            | RepairStep::AcceptEdits { .. } => Ok(Taken::Changed),
        }
    }

    /// Goes back to the version before the one at which the log breaks off.
    async fn drop_entries(&self, found: &Survey, now: &Survey) -> Result<Taken, Error> {
        let on_retry = &Storage::warn_of_retry;
        let (Some(broken), Some(end)) = (&found.break_off, &found.end) else {
            return Ok(Taken::Changed);
        };
        let listed = |survey: &Survey| -> Vec<ObjectMeta> {
            let objects = survey.objects.values().cloned();
            objects
                .filter(|object| broken.beyond.contains(&object.location))
                .collect()
        };
        let is_same = now.break_off.as_ref() == Some(broken)
            && now.next == found.next
            && is_same_list(&listed(now), &listed(found));
        if !is_same {
            return Ok(Taken::Changed);
        }
        let fence = found.next;
        let entry = |restored| Commit {
            info: Some(CommitInfo {
                operation: "REPAIR".into(),
                operation_parameters: json!({"version": end.version}),
                table: Some(end.metadata().id.clone()),
                restored,
                ..self.commit_info()
            }),
            ..Commit::default()
        };
        let body = entry(Some(end.version)).to_bytes();
        let mut uncertain = false;
        let occupied = self.occupy(fence, &body, None, None, &mut uncertain, on_retry);
        match occupied.await? {
            Occupied::Now => {}
            // Put by an attempt that seemed to fail.
            Occupied::By(bytes) if bytes == body => {}
            Occupied::By(_) | Occupied::Unfounded => return Ok(Taken::Changed),
        }
        // From here on no writer gets beyond; a copy may still bring entries.
        let there = self.list_names(on_retry).await?.objects;
        let there: Vec<ObjectMeta> = there
            .into_iter()
            .filter(|(file, object)| {
                file.version() >= broken.version && object.location != entry_path(fence)
            })
            .map(|(_, object)| object)
            .collect();
        // Into the fence's own slot, too: then that is not ours to write to any more.
        let own = self.get_retrying(&entry_path(fence), on_retry).await?;
        if own.as_ref() != Some(&body) {
            return Ok(Taken::Changed);
        }
        if !is_same_list(&there, &listed(found)) {
            let (path, nothing) = (entry_path(fence), entry(None).to_bytes());
            let withdraw = || self.put(&path, nothing.clone());
            self.retry(on_retry, withdraw).await?;
            return Ok(Taken::Changed);
        }
        let mut restored = end.clone();
        restored.version = fence;
        self.rewrite(&restored, Evidence::of_entry(&body)).await?;
        self.lead_to(fence).await?;
        tracing::warn!(
            shard = %self.url, to = end.version, goes_on_as = fence,
            "went back to an earlier version of the table"
        );
        for object in listed(found).iter().rev() {
            // One that is another by now does no harm where it is: nobody reads it.
            self.set_aside(object).await?;
        }
        Ok(Taken::Done)
    }

    /// Writes a checkpoint of this state.
    async fn rewrite(&self, state: &State, evidence: Evidence) -> Result<(), Error> {
        let write = || self.write_checkpoint(state.clone(), evidence);
        self.retry(&Storage::warn_of_retry, write).await?;
        Ok(())
    }

    /// Makes the pointer lead to the checkpoint of this version, if that can be read.
    async fn lead_to(&self, version: u64) -> Result<(), Error> {
        let on_retry = &Storage::warn_of_retry;
        if let Ok(log) = self.load_checkpoint(version, on_retry).await {
            let point = || self.point_to(version, log.state.size());
            self.retry(on_retry, point).await?;
        }
        Ok(())
    }

    /// Gives a file of the log a name that no reader of logs knows; false if it is not the one that was listed. That it
    /// is not there is success.
    async fn set_aside(&self, object: &ObjectMeta) -> Result<bool, Error> {
        let on_retry = &Storage::warn_of_retry;
        if !self.exists(&object.location, on_retry).await? {
            return Ok(true);
        }
        if !self.copy_aside(object).await? || !self.is_as_listed(object).await? {
            return Ok(false);
        }
        self.delete_retrying(&object.location).await?;
        Ok(true)
    }

    /// True if the object is the one that was listed.
    async fn is_as_listed(&self, listed: &ObjectMeta) -> Result<bool, Error> {
        let found = self.head(&listed.location, &Storage::warn_of_retry).await?;
        Ok(found.is_some_and(|found| is_same(&found, listed)))
    }

    /// Copies a file of the log to a name that no reader of logs knows, unless it is there already; false if it is not
    /// the one that was listed.
    async fn copy_aside(&self, object: &ObjectMeta) -> Result<bool, Error> {
        let on_retry = &Storage::warn_of_retry;
        let path = &object.location;
        if !self.is_as_listed(object).await? {
            return Ok(false);
        }
        let Some(bytes) = self.get_retrying(path, on_retry).await? else {
            return Ok(false);
        };
        let name = path.filename().unwrap_or_default().trim_start_matches('0');
        for number in 0_u32.. {
            let number = match number {
                0 => String::new(),
                number => format!(".{number}"),
            };
            let aside = folder().join(format!("_set_aside_{name}{number}.bak"));
            let there: Option<Bytes> = self.get_retrying(&aside, on_retry).await?;
            match there {
                Some(there) if there == bytes => break,
                Some(_) => {}
                None => {
                    let put = || self.put(&aside, bytes.clone());
                    self.retry(on_retry, put).await?;
                    tracing::info!(shard = %self.url, from = %path, to = %aside, "set aside a file of the log");
                    break;
                }
            }
        }
        Ok(true)
    }
}

/// The identity of the table, as far as it can be read.
fn table(survey: &Survey) -> Option<&str> {
    survey.end.as_ref().map(|end| end.metadata().id.as_str())
}

/// True if two answers of a store are about the same object. A listing and a look at the object may differ in how
/// exactly they say the time.
fn is_same(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    let same_tag = match (&a.e_tag, &b.e_tag) {
        (Some(a), Some(b)) => a == b,
        _ => a.last_modified.timestamp() == b.last_modified.timestamp(),
    };
    a.location == b.location && a.size == b.size && same_tag
}

fn is_same_list(a: &[ObjectMeta], b: &[ObjectMeta]) -> bool {
    let sorted = |list: &[ObjectMeta]| {
        let mut list = list.to_vec();
        list.sort_by(|a, b| a.location.cmp(&b.location));
        list
    };
    let (a, b) = (sorted(a), sorted(b));
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| is_same(a, b))
}

/// Drops the references to these files, which were lost in this state, if all of them are lost now.
pub(super) async fn drop_files(
    shard: &Shard,
    state: Option<&State>,
    paths: &[&str],
    committed: &mut Option<u64>,
) -> Result<Taken, Error> {
    let Some(files) = examine_again(shard, state, paths.iter().copied()).await? else {
        return Ok(Taken::Changed);
    };
    let is_lost = |(file, found): &(Arc<DataFile>, Examined)| {
        let differences: Vec<_> = found.differences.iter().collect();
        matches!(super::judge(&differences, file), Some(Judgement::Lost(_)))
    };
    if !files.iter().all(is_lost) {
        return Ok(Taken::Changed);
    }
    let lost = files.into_iter().map(|(file, _)| file).collect();
    *committed = shard.drop_references(lost).await?;
    Ok(Taken::Done)
}

/// Examines these files of this state again, but for those that somebody has removed meanwhile, which need no step. `None` if
/// it is another table now, or one of them was not in this state.
pub(super) async fn examine_again<'a>(
    shard: &Shard,
    state: Option<&State>,
    paths: impl Iterator<Item = &'a str>,
) -> Result<Option<Vec<(Arc<DataFile>, Examined)>>, Error> {
    let inner = shard.inner();
    shard.refresh().await?;
    let table = inner.with_state(|now| now.metadata().id.clone());
    let Some(state) = state.filter(|state| state.metadata().id == table) else {
        return Ok(None);
    };
    let mut examined = Vec::new();
    for path in paths {
        let Some(file) = state.file(path) else {
            return Ok(None);
        };
        if shard.has_live_file(path) {
            let found = inner.storage.examine_file(file, state).await?;
            examined.push((Arc::clone(file), found));
        }
    }
    inner.storage.tell_tags(state, &mut examined).await?;
    Ok(Some(examined))
}

impl Shard {
    /// Drops the references to these files, where they are what was examined, in one commit. Returns its version, or `None`
    /// if they were dropped already.
    async fn drop_references(&self, files: Vec<Arc<DataFile>>) -> Result<Option<u64>, Error> {
        let storage = &self.inner().storage;
        let on_retry = &Storage::warn_of_retry;
        let id = self.fresh_id();
        let plan = |state: &State| {
            let is_live = |file: &&Arc<DataFile>| state.refers_to(file);
            let dropped: Vec<_> = files.iter().filter(is_live).collect();
            if dropped.is_empty() {
                return Plan::Done(());
            }
            let rows = crate::data_file::rows_of(dropped.iter().copied());
            let removes = dropped.iter().map(|file| removal(storage, file, true));
            Plan::Put(Box::new(Commit {
                // Without the identity of a sink it is an edit, to all who read the log.
                info: Some(CommitInfo {
                    operation: "REPAIR".into(),
                    operation_parameters: json!({
                        "files": dropped.len(), "rows": rows, REPAIR_PARAMETER: id.to_string(),
                    }),
                    ..storage.commit_info()
                }),
                removes: removes.collect(),
                ..Commit::default()
            }))
        };
        // A repair beside an edit accepts nothing.
        self.check_rewrites().await?;
        let before = self.progress().version;
        match self.commit(id, plan, on_retry).await? {
            Outcome::Committed(version) => Ok(Some(version)),
            // What was put by an attempt that seemed to fail is met as another's.
            Outcome::Done(()) => self.find_repair(&id.to_string(), before).await,
        }
    }

    /// The version beyond `before` that this repair has put.
    async fn find_repair(&self, id: &str, before: u64) -> Result<Option<u64>, Error> {
        let storage = &self.inner().storage;
        for version in before + 1..=self.progress().version {
            let entry = storage.entry_with_info(version).await?;
            let told = entry.map(|(_, told)| told["operationParameters"][REPAIR_PARAMETER] == id);
            if told == Some(true) {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }
}
