//! Repair: what can be done for a damaged table without whoever wrote it.
//!
//! ```text
//!   plan = f(what verification found, options)        the steps, and what they do not help
//! ```
//!
//! | damage | step |
//! |---|---|
//! | a live data file is missing, cannot be read, or has other rows than were written | its reference is dropped |
//! | a checkpoint cannot be read, and entries lead to its version | it is written anew from them |
//! | the same, and none do, but a later checkpoint stands for it | it is set aside |
//! | entries are missing or cannot be read, later ones are there | all from there on are set aside, **if that is asked for** |
//! | the pointer leads to no checkpoint | it is made to lead to the newest |
//!
//! References are dropped by one commit like those of other writers: put if absent, beside any writer, and an edit of
//! the data. So the since and the upper stay; a view compares its contents at its next start, writes the lost rows
//! again, and moves the since beyond the times that are not what they were. What is set aside stays in the log's folder
//! under a name that no reader of logs knows. Nothing is deleted.
//!
//! The steps are taken in their order, and each leaves a table that is no worse: a repair that is cut off is made again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use serde_json::json;

use crate::client::Client;
use crate::commit::{Outcome, Plan, removal};
use crate::data_file::DataFile;
use crate::error::Error;
use crate::frontier::Frontier;
use crate::log::action::{Commit, CommitInfo};
use crate::log::checkpoint::checkpoint_path;
use crate::log::folder;
use crate::log::state::State;
use crate::shard::Shard;
use crate::storage::Storage;
use crate::survey::{BreakOff, Survey};
use crate::verify::{Difference, Examination, Finding, Note, VerifyProgress};

/// What a repair may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Where entries of the log are missing or damaged, go back to the version before, and set aside all that comes
    /// after it. Appends in it are lost, as far as no sink writes them again.
    pub drop_entries: bool,
}

/// A step of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepairStep {
    /// Files of the log from this version on are set aside.
    DropEntries {
        /// The first version that is not in the log any more.
        from: u64,
        /// The files, as paths in the table, ascending.
        files: Vec<String>,
        /// Where the upper is after it.
        upper: Frontier<i64>,
        /// Where it was by what is set aside, if that says so.
        upper_before: Option<Frontier<i64>>,
        /// The data files that were appended in them, of which garbage collection deletes those that nobody adds again.
        data_files: u64,
        /// The rows of these, as far as the log says.
        rows: u64,
    },
    /// A checkpoint is written anew from the entries that it stands for.
    RewriteCheckpoint {
        /// Its version.
        version: u64,
    },
    /// A checkpoint is set aside: a later one stands for it.
    SetAside {
        /// Its path in the table.
        path: String,
    },
    /// The pointer is made to lead to this checkpoint.
    PointTo {
        /// Its version.
        version: u64,
    },
    /// The references to these data files are dropped.
    DropFiles {
        /// The files.
        files: Vec<LostFile>,
    },
}

/// A data file whose rows are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostFile {
    /// Its path as in the log.
    pub path: String,
    /// How it differs from what the log says of it.
    pub why: Difference,
    /// Its rows, if the log says.
    pub rows: Option<u64>,
    /// The least and the greatest of their times, if the log says.
    pub times: Option<(i64, i64)>,
}

/// Damage for which there is no step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unrepaired {
    /// The damage.
    pub finding: Finding,
    /// How to repair it by other means.
    pub advice: String,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// The steps, in their order. None: the table is sound, or nothing can be done.
    pub steps: Vec<RepairStep>,
    /// What is left.
    pub left: Vec<Unrepaired>,
    /// What is odd, and no damage.
    pub notes: Vec<Note>,
    /// The version of the log that drops references, if some were.
    pub committed: Option<u64>,
}

impl RepairReport {
    /// True if there was nothing to repair.
    pub fn is_sound(&self) -> bool {
        self.steps.is_empty() && self.left.is_empty()
    }

    /// The rows that are lost with data files, as far as the log says.
    pub fn rows_lost(&self) -> u64 {
        let files = self.steps.iter().filter_map(|step| match step {
            RepairStep::DropFiles { files } => Some(files),
            _ => None,
        });
        files.flatten().filter_map(|file| file.rows).sum()
    }
}

impl fmt::Display for LostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)?;
        match self.rows {
            Some(rows) => write!(f, "; {rows} rows are lost")?,
            None => write!(f, "; its rows are lost")?,
        }
        match self.times {
            Some((first, last)) => write!(f, ", of times {first} to {last}"),
            None => Ok(()),
        }
    }
}

impl Client {
    /// Repairs the shard at `url` as far as that is possible without whoever wrote it, and says what is lost and what is
    /// left. Safe beside writers, and when it is made again.
    ///
    /// All of it is read first, as [`Client::verify`] does; `progress` is called after each file.
    ///
    /// # Errors
    /// [`Error::NoShard`] if there is no log at all, and permanent ones of the store.
    pub async fn repair(
        &self,
        url: &str,
        options: &RepairOptions,
        progress: &(dyn Fn(VerifyProgress) + Send + Sync),
    ) -> Result<RepairReport, Error> {
        let storage = self.storage(url)?;
        let examination = storage.examine_table(progress).await?;
        let mut report = plan(&examination, options);
        if options.dry_run {
            return Ok(report);
        }
        for step in &report.steps {
            match step {
                RepairStep::DropEntries { files, .. } => {
                    // The last one first: what is cut off leaves a log that breaks off where it did.
                    for path in files.iter().rev() {
                        storage.set_aside(&Path::from(path.as_str())).await?;
                    }
                }
                RepairStep::SetAside { path } => {
                    storage.set_aside(&Path::from(path.as_str())).await?;
                }
                RepairStep::RewriteCheckpoint { version } => {
                    let known = &examination.survey.damaged_checkpoints;
                    if let Some(Some((state, evidence))) = known.get(version) {
                        storage.copy_aside(&checkpoint_path(*version)).await?;
                        storage.write_checkpoint(state.clone(), *evidence).await?;
                    }
                }
                RepairStep::PointTo { version } => {
                    let log = storage
                        .load_checkpoint(*version, &Storage::warn_of_retry)
                        .await;
                    if let Ok(log) = log {
                        storage.point_to(*version, log.state.size()).await?;
                    }
                }
                RepairStep::DropFiles { files } => {
                    let state = examination.survey.end.as_ref();
                    let known = files
                        .iter()
                        .filter_map(|file| state?.file(&file.path).cloned());
                    let shard = self.open_existing(url).await?;
                    report.committed = shard.drop_references(known.collect()).await?;
                }
            }
        }
        Ok(report)
    }
}

/// The steps for what was found.
fn plan(examination: &Examination, options: &RepairOptions) -> RepairReport {
    let Examination { survey, report } = examination;
    let mut plan = RepairReport {
        notes: report.notes.clone(),
        ..RepairReport::default()
    };
    let broken = survey.break_off.as_ref();
    // What is not understood, or could not be had, may be as it should.
    let is_refused = |finding: &Finding| {
        matches!(finding.difference, Difference::Refused { .. })
            && is_set_aside(broken, &finding.path)
    };
    let drops_entries =
        options.drop_entries && survey.end.is_some() && !report.findings.iter().any(is_refused);
    if let (Some(broken), Some(end), true) = (broken, &survey.end, drops_entries) {
        plan.steps.push(drop_entries(broken, end));
    }
    plan.steps.extend(repair_checkpoints(survey));
    // Without an end that an opener finds nothing can be committed.
    let opens = broken.is_none() || drops_entries;
    let mut lost = BTreeMap::new();
    for finding in &report.findings {
        let checkpoint = survey
            .damaged_checkpoints
            .keys()
            .find(|version| checkpoint_path(**version).as_ref() == finding.path);
        if let Some(version) = checkpoint {
            let beyond = broken.filter(|broken| broken.version <= *version);
            if beyond.is_some_and(|_| !drops_entries) {
                plan.leave(finding, advice_to_drop(broken, survey));
            }
            continue;
        }
        let file = survey
            .end
            .as_ref()
            .and_then(|end| end.file(&finding.path).cloned());
        match (&finding.difference, file) {
            (difference, Some(file)) if loses_rows(difference, &file) && opens => {
                lost.entry(finding.path.clone()).or_insert(LostFile {
                    path: finding.path.clone(),
                    why: difference.clone(),
                    rows: file.rows,
                    times: file.min_time.zip(file.max_time),
                });
            }
            (_, Some(_)) if !opens => {
                plan.leave(
                    finding,
                    "repair the log first, then make the repair again".into(),
                );
            }
            (Difference::EntriesMissing { .. } | Difference::Unreadable { .. }, None)
                if !drops_entries =>
            {
                plan.leave(finding, advice_to_drop(broken, survey));
            }
            (Difference::EntriesMissing { .. } | Difference::Unreadable { .. }, None) => {}
            (difference, _) => plan.leave(finding, advice(difference).into()),
        }
    }
    if !lost.is_empty() {
        let files = lost.into_values().collect();
        plan.steps.push(RepairStep::DropFiles { files });
    }
    plan
}

impl RepairReport {
    fn leave(&mut self, finding: &Finding, advice: String) {
        let finding = finding.clone();
        self.left.push(Unrepaired { finding, advice });
    }
}

fn drop_entries(broken: &BreakOff, end: &State) -> RepairStep {
    RepairStep::DropEntries {
        from: broken.version,
        files: broken.beyond.iter().map(Path::to_string).collect(),
        upper: end.progress().upper,
        upper_before: broken.upper,
        data_files: broken.files,
        rows: broken.rows,
    }
}

fn repair_checkpoints(survey: &Survey) -> Vec<RepairStep> {
    let mut steps = Vec::new();
    let last = survey.end.as_ref().map(|state| state.version);
    let mut newest = survey.newest_checkpoint;
    let mut wrong_pointer = survey.wrong_pointer;
    for (version, state) in &survey.damaged_checkpoints {
        if last.is_none_or(|last| *version > last) {
            continue;
        }
        steps.push(match state {
            Some(_) => {
                newest = newest.max(Some(*version));
                wrong_pointer = wrong_pointer.filter(|pointer| *pointer != Some(*version));
                RepairStep::RewriteCheckpoint { version: *version }
            }
            None => RepairStep::SetAside {
                path: checkpoint_path(*version).to_string(),
            },
        });
    }
    if let (Some(_), Some(version)) = (wrong_pointer, newest) {
        steps.push(RepairStep::PointTo { version });
    }
    steps
}

fn is_set_aside(broken: Option<&BreakOff>, path: &str) -> bool {
    broken.is_some_and(|broken| broken.beyond.iter().any(|beyond| beyond.as_ref() == path))
}

/// True if the rows that were written are not to be had any more.
fn loses_rows(difference: &Difference, file: &DataFile) -> bool {
    match difference {
        Difference::Missing
        | Difference::Unreadable { .. }
        | Difference::Size { .. }
        | Difference::Sums { .. } => true,
        // Statistics of other programs may be wrong where the rows are not.
        Difference::Rows { .. } | Difference::Times { .. } => file.sums.is_some(),
        _ => false,
    }
}

fn advice(difference: &Difference) -> &'static str {
    match difference {
        Difference::Folder => "move the directory away",
        Difference::Order => {
            "a view can be written anew, to another address or here once the table is deleted"
        }
        Difference::Unfit { .. } | Difference::Multiplicity { .. } => {
            "a view repairs that itself at its next run; elsewhere another program must delete the rows"
        }
        Difference::Refused { .. } => {
            "it may be as it should: read it with a version that understands it, or with permission to"
        }
        Difference::Rows { .. } | Difference::Times { .. } => {
            "the program that wrote it counted wrongly: a view reads the rows as they are"
        }
        _ => "nothing that is there stands for it",
    }
}

fn advice_to_drop(broken: Option<&BreakOff>, survey: &Survey) -> String {
    let (Some(broken), Some(end)) = (broken, &survey.end) else {
        return "the columns and the frontiers of the table are lost with it: put it back from a copy; a view can be \
                written anew, to another address or here once the table is deleted"
            .into();
    };
    let upper = end.progress().upper;
    let was = match broken.upper {
        Some(was) if was > upper => format!(" instead of {was}"),
        _ => String::new(),
    };
    format!(
        "put it back from a copy, or wait for a copy that is under way; `mvsink repair --drop-entries` goes back to version \
         {}, with an upper of {upper}{was}: {} data files with {} rows are lost as far as no sink writes them again",
        end.version, broken.files, broken.rows
    )
}

impl Shard {
    /// Drops the references to these files, where they are what was examined, in one commit. Returns its version, or `None`
    /// if they were dropped already.
    async fn drop_references(&self, files: Vec<Arc<DataFile>>) -> Result<Option<u64>, Error> {
        let storage = &self.inner().storage;
        let on_retry = &Storage::warn_of_retry;
        let plan = |state: &State| {
            let is_live = |file: &&Arc<DataFile>| state.file(&file.path) == Some(*file);
            let dropped: Vec<_> = files.iter().filter(is_live).collect();
            if dropped.is_empty() {
                return Plan::Done(());
            }
            let rows: u64 = dropped.iter().filter_map(|file| file.rows).sum();
            let removes = dropped.iter().map(|file| removal(storage, file, true));
            Plan::Put(Box::new(Commit {
                // Without the identity of a sink it is an edit, to all who read the log.
                info: Some(CommitInfo {
                    operation: "REPAIR".into(),
                    operation_parameters: json!({"files": dropped.len(), "rows": rows}),
                    ..storage.commit_info()
                }),
                removes: removes.collect(),
                ..Commit::default()
            }))
        };
        self.refresh().await?;
        let before = self.progress().version;
        match self.commit(self.fresh_id(), plan, on_retry).await? {
            Outcome::Committed(version) => Ok(Some(version)),
            // What was put by an attempt that seemed to fail is met as another's.
            Outcome::Done(()) => Ok(self.edited().filter(|version| *version > before)),
        }
    }
}

impl Storage {
    /// Gives a file of the log a name that no reader of logs knows; that it is not there is success.
    async fn set_aside(&self, path: &Path) -> Result<(), Error> {
        self.copy_aside(path).await?;
        self.delete_retrying(path).await
    }

    /// Copies a file of the log to a name that no reader of logs knows, unless it is there already.
    async fn copy_aside(&self, path: &Path) -> Result<(), Error> {
        let on_retry = &Storage::warn_of_retry;
        let Some(bytes) = self.get_retrying(path, on_retry).await? else {
            return Ok(());
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
                Some(there) if there == bytes => return Ok(()),
                Some(_) => {}
                None => {
                    let put = || self.put(&aside, bytes.clone());
                    self.retry(on_retry, put).await?;
                    tracing::info!(shard = %self.url, from = %path, to = %aside, "set aside a file of the log");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
