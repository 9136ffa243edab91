//! Repair: what can be done for a damaged table without whoever wrote it.
//!
//! ```text
//!   plan = f(what verification found, options)        the steps, and what they do not help
//! ```
//!
//! | damage | step |
//! |---|---|
//! | a live data file is missing, does not lie in the table, cannot be read, or has other rows than were written | its reference is dropped; of an input **if that is asked for** |
//! | a checkpoint cannot be read or contradicts the entries, and they lead to its version | it is written anew from them |
//! | a checkpoint cannot be read, no entries lead there, but a later checkpoint stands for it | it is set aside |
//! | a file is whole, and the log is wrong about its size, path, rows, statistics or tags of ours | it is added again as it is |
//! | a repair that was to go back was cut off, and what was missing is there again | its fence is set aside |
//! | entries are missing, cannot be read, or say what no writer can have said, later ones are there | the table goes back to the version before, **if that is asked for** |
//! | the pointer leads to no checkpoint | it is made to lead to the newest, or set aside if there is none |
//! | another program has edited a table that nothing repairs | the edit is accepted, **if that is asked for** |
//!
//! References are dropped by one commit like those of other writers: put if absent, beside any writer, and an edit of
//! the data. So the since and the upper stay; a view compares its contents at its next start, writes the lost rows
//! again, an ingest sink goes on without them, and the next append moves the since beyond the times that are not what they were. What is set aside stays in the log's folder
//! under a name that no reader of logs knows. Nothing is deleted.
//!
//! The steps are taken in their order, and each leaves a table that is no worse: a repair that is cut off is made again.
//! What was found may be hours old by then, so each step looks again first ([`steps`]), and is left where that finds
//! something else.

mod advice;
mod correct;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use object_store::path::Path;

use crate::accept::ForeignEdit;
use crate::client::Client;
use crate::data_file::DataFile;
use crate::error::Error;
use crate::frontier::Frontier;
use crate::log::checkpoint::{checkpoint_path, last_checkpoint_path};
use crate::log::state::State;
use crate::log::{entry_path, folder};
use crate::survey::{BreakOff, Survey};
use crate::verify::examine::accepted_nulls;
use crate::verify::{Difference, Examination, Finding, Note, VerifyProgress, VerifyReport};

use steps::Taken;

/// What a repair may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Where entries of the log are missing or damaged, go back to the version before, and set aside all that comes
    /// after it. Appends in it are lost, as far as no sink writes them again.
    pub drop_entries: bool,
    /// The same, where the first version that is given up is this one: also if its entry is not damaged, but switches on
    /// what is not supported.
    pub drop_entries_from: Option<u64>,
    /// Drop the references to lost files of a table that holds an input, too: nobody writes its rows again.
    pub drop_files: bool,
    /// Accept the edits of other programs that nobody has accepted: the table is right as they have left it, and ingest
    /// sinks, which have nothing to repair it from, go on after them. If sources cannot read some of their rows, none is
    /// accepted, and these are left, by their names.
    pub accept_edits: bool,
}

/// A step of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepairStep {
    /// The table goes back to the version before this one, and the files of the log from this one on are set aside.
    DropEntries {
        /// The first version that is not in the log any more.
        from: u64,
        /// The version, beyond all that were, as which the table goes on: no version is ever used twice.
        goes_on_as: u64,
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
        /// The entries among them that cannot be read: what these appended is not known.
        entries_unread: u64,
        /// The holds that were taken, moved or released in them, and are as they were before.
        holds: Vec<String>,
        /// The last version up to which edits were accepted in them, which are not accepted any more.
        accepted: Option<u64>,
    },
    /// A checkpoint is written anew from the entries that it stands for.
    RewriteCheckpoint {
        /// Its version.
        version: u64,
    },
    /// A checkpoint is set aside, for which a later one stands; or the pointer, where there is no checkpoint.
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
    /// What the log says of these data files is put right: they are added again, by one commit that changes no data.
    CorrectFiles {
        /// The files.
        files: Vec<MisstatedFile>,
    },
    /// These edits are accepted.
    AcceptEdits {
        /// The edits, in the order of their versions.
        edits: Vec<ForeignEdit>,
    },
}

/// A data file that is whole, and of which the log says something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MisstatedFile {
    /// Its path as in the log.
    pub path: String,
    /// What is wrong.
    pub why: Vec<Difference>,
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
    /// The version of the log that drops references, or puts right what it says of files, if some were: the last of them.
    pub committed: Option<u64>,
    /// The version of the log that accepts edits, if some were.
    pub accepted: Option<u64>,
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
        let rows = files.flatten().filter_map(|file| file.rows);
        rows.fold(0, u64::saturating_add)
    }
}

impl fmt::Display for MisstatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        for (index, why) in self.why.iter().enumerate() {
            write!(f, "{} {why}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
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
        let is_drop = |step: &RepairStep| matches!(step, RepairStep::DropEntries { .. });
        let goes_back = report.steps.iter().any(is_drop);
        if options.accept_edits {
            let found = match &examination.survey.end {
                // Those of the version that the table goes back to.
                Some(end) if goes_back => Some((end.clone(), storage.unaccepted_edits(end).await?)),
                _ if examination.survey.break_off.is_some() => None,
                // The edits may be of the one log or the other.
                _ if is_ahead(&examination.report) => None,
                _ => Some(self.open_existing(url).await?.unaccepted_edits().await?),
            };
            if let Some((state, unaccepted)) = found
                && !unaccepted.edits.is_empty()
            {
                let lost = report.lost();
                let refused = storage.unacceptable(&state, &unaccepted, &lost).await?;
                report.accept(unaccepted.edits, refused);
            }
        }
        if options.dry_run {
            return Ok(report);
        }
        for index in 0..report.steps.len() {
            let taken = match &report.steps[index] {
                RepairStep::DropFiles { files } => {
                    let paths = files.iter().map(|file| file.path.as_str());
                    let paths: Vec<&str> = paths.collect();
                    let state = examination.survey.end.as_ref();
                    let shard = self.open_existing(url).await?;
                    steps::drop_files(&shard, state, &paths, &mut report.committed).await?
                }
                RepairStep::CorrectFiles { files } => {
                    let state = examination.survey.end.as_ref();
                    let shard = self.open_existing(url).await?;
                    correct::correct_files(&shard, state, files, &mut report.committed).await?
                }
                RepairStep::AcceptEdits { edits } => {
                    if let Some(last) = edits.last() {
                        let shard = self.open_existing(url).await?;
                        // What is known of an edit below entries that were given up is that it is below them.
                        let through = match goes_back {
                            true => shard.unaccepted_edit().max(Some(last.version)),
                            false => Some(last.version),
                        };
                        report.accepted = shard.accept_edits(through.unwrap_or(0)).await?;
                    }
                    Taken::Done
                }
                step => storage.take_step(step, &examination.survey).await?,
            };
            if taken == Taken::Changed {
                // Later steps may build on it.
                for step in report.steps.split_off(index) {
                    report.leave_changed(&step);
                }
                break;
            }
        }
        Ok(report)
    }
}

/// True if the log's entries end before the checkpoint that it is read from: it may be another one's.
fn is_ahead(report: &VerifyReport) -> bool {
    let mut findings = report.findings.iter();
    findings.any(|finding| matches!(finding.difference, Difference::Ahead { .. }))
}

/// The steps for what was found.
fn plan(examination: &Examination, options: &RepairOptions) -> RepairReport {
    let Examination { survey, report } = examination;
    let mut plan = RepairReport {
        notes: report.notes.clone(),
        ..RepairReport::default()
    };
    let broken = survey.break_off.as_ref();
    let drops_entries = survey.end.is_some()
        && broken.is_some_and(|broken| {
            // That gives up nothing.
            if broken.is_of_fences() {
                return true;
            }
            // What is not understood may be as it should, and is given up only by its name.
            let is_refused = |finding: &Finding| {
                matches!(finding.difference, Difference::Refused { .. })
                    && is_set_aside(broken, &finding.path)
            };
            match options.drop_entries_from {
                Some(from) => from == broken.version && !broken.is_unknown,
                None => options.drop_entries && !report.findings.iter().any(is_refused),
            }
        });
    if let (Some(broken), Some(end), true) = (broken, &survey.end, drops_entries) {
        plan.steps.push(drop_entries(survey, broken, end));
    }
    plan.steps.extend(repair_checkpoints(survey));
    // Without an end that an opener finds nothing can be committed.
    // Of a log that may be another one's no file is given up.
    let opens = (broken.is_none() || drops_entries) && !is_ahead(report);
    let keeps_files = survey.end.as_ref().is_some_and(State::is_input) && !options.drop_files;
    let mut found: BTreeMap<&str, Vec<&Difference>> = BTreeMap::new();
    for finding in &report.findings {
        let differences = found.entry(finding.path.as_str()).or_default();
        differences.push(&finding.difference);
    }
    let (mut lost, mut misstated) = (BTreeMap::new(), BTreeMap::new());
    for (path, differences) in found {
        let Some(file) = survey.end.as_ref().and_then(|end| end.file(path)) else {
            continue;
        };
        match judge(&differences, file) {
            Some(Judgement::Lost(why)) => {
                let file = LostFile {
                    path: path.to_owned(),
                    why,
                    rows: file.rows,
                    times: file.min_time.zip(file.max_time),
                };
                lost.insert(path, file);
            }
            Some(Judgement::Misstated(why)) => {
                let path_in_log = path.to_owned();
                let file = MisstatedFile {
                    path: path_in_log,
                    why,
                };
                misstated.insert(path, file);
            }
            None => {}
        }
    }
    for finding in &report.findings {
        let is_damaged = |version: &&u64| checkpoint_path(**version).as_ref() == finding.path;
        let checkpoint = survey.damaged_checkpoints.keys().find(is_damaged);
        let is_beyond = broken.is_some_and(|broken| is_set_aside(broken, &finding.path));
        let is_gap = match finding.difference {
            Difference::EntriesMissing { .. } => true,
            // A part of a checkpoint.
            Difference::Missing => finding.path.starts_with(folder().as_ref()),
            _ => false,
        };
        match lost.get(finding.path.as_str()) {
            Some(_) if !opens => plan.leave(finding, advice::LOG_FIRST.into()),
            // Once for each file.
            Some(file) if keeps_files && file.why == finding.difference => {
                plan.leave(finding, advice::of_input(file));
            }
            Some(_) => {}
            None if opens && is_said(&misstated, finding) => {}
            None if drops_entries && (is_beyond || is_gap) => {}
            None if is_beyond || is_gap => {
                plan.leave(finding, advice::to_drop(finding, broken, survey));
            }
            None if checkpoint.is_some() && survey.end.is_some() => {}
            None if is_pointer(&finding.difference) && survey.end.is_some() => {}
            None if is_said(&misstated, finding) => plan.leave(finding, advice::LOG_FIRST.into()),
            None => plan.leave(finding, advice::on(finding, survey)),
        }
    }
    if opens && !misstated.is_empty() {
        let files = misstated.into_values().collect();
        plan.steps.push(RepairStep::CorrectFiles { files });
    }
    if opens && !keeps_files && !lost.is_empty() {
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

    /// The files whose references are dropped.
    fn lost(&self) -> BTreeSet<&str> {
        let files = self.steps.iter().filter_map(|step| match step {
            RepairStep::DropFiles { files } => Some(files),
            _ => None,
        });
        files.flatten().map(|file| file.path.as_str()).collect()
    }

    /// Edits are accepted, unless something in them is refused.
    fn accept(&mut self, edits: Vec<ForeignEdit>, refused: Vec<Finding>) {
        if refused.is_empty() {
            self.steps.push(RepairStep::AcceptEdits { edits });
            // A sink reads such rows.
            let is_null =
                |left: &Unrepaired| matches!(left.finding.difference, Difference::Nulls { .. });
            for left in self.left.extract_if(.., |left| is_null(left)) {
                self.notes.push(Note {
                    text: accepted_nulls(&left.finding.difference),
                    path: left.finding.path,
                });
            }
            return;
        }
        for finding in refused {
            self.left.retain(|left| left.finding.path != finding.path);
            self.leave(&finding, advice::UNACCEPTABLE.into());
        }
    }

    /// A step was not taken.
    fn leave_changed(&mut self, step: &RepairStep) {
        let paths = match step {
            RepairStep::DropEntries { from, .. } => vec![entry_path(*from).to_string()],
            RepairStep::RewriteCheckpoint { version } => {
                vec![checkpoint_path(*version).to_string()]
            }
            RepairStep::SetAside { path } => vec![path.clone()],
            RepairStep::PointTo { .. } => vec![last_checkpoint_path().to_string()],
            RepairStep::DropFiles { files } => files.iter().map(|file| file.path.clone()).collect(),
            RepairStep::CorrectFiles { files } => {
                files.iter().map(|file| file.path.clone()).collect()
            }
            RepairStep::AcceptEdits { edits } => edits
                .iter()
                .map(|edit| entry_path(edit.version).to_string())
                .collect(),
        };
        for path in paths {
            let difference = Difference::Changed;
            self.leave(&Finding { path, difference }, advice::AGAIN.into());
        }
    }
}

fn drop_entries(survey: &Survey, broken: &BreakOff, end: &State) -> RepairStep {
    RepairStep::DropEntries {
        from: broken.version,
        goes_on_as: survey.next,
        files: broken.beyond.iter().map(Path::to_string).collect(),
        upper: end.progress().upper,
        upper_before: broken.upper,
        data_files: broken.files,
        rows: broken.rows,
        entries_unread: broken.unread,
        holds: broken.holds.iter().cloned().collect(),
        accepted: broken
            .accepted
            .filter(|accepted| end.accepted() < Some(*accepted)),
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
    // Where the log breaks off, what it leads to may come back; where entries are dropped, it leads to the checkpoint
    // that the table goes on from.
    if wrong_pointer.is_some() && survey.break_off.is_none() {
        steps.push(match newest {
            Some(version) => RepairStep::PointTo { version },
            None => RepairStep::SetAside {
                path: last_checkpoint_path().to_string(),
            },
        });
    }
    steps
}

fn is_pointer(difference: &Difference) -> bool {
    matches!(difference, Difference::Pointer { .. })
}

fn is_set_aside(broken: &BreakOff, path: &str) -> bool {
    broken.beyond.iter().any(|beyond| beyond.as_ref() == path)
}

fn is_said(misstated: &BTreeMap<&str, MisstatedFile>, finding: &Finding) -> bool {
    let file = misstated.get(finding.path.as_str());
    file.is_some_and(|file| file.why.contains(&finding.difference))
}

/// What is to be done about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Judgement {
    /// The rows that were written are not to be had any more, for this first reason.
    Lost(Difference),
    /// It is whole, as far as can be told, and the log is wrong about it.
    Misstated(Vec<Difference>),
}

/// What is to be done about a file that differs like that from what the log says.
fn judge(differences: &[&Difference], file: &DataFile) -> Option<Judgement> {
    let any = |is: fn(&Difference) -> bool| differences.iter().any(|found| is(found));
    let is_ours = file.sums.is_some();
    if any(|found| {
        matches!(
            found,
            Difference::Refused { .. } | Difference::Schema { .. }
        )
    }) {
        return None;
    }
    let is_gone = any(|found| {
        matches!(
            found,
            Difference::Missing
                | Difference::Outside
                | Difference::Unreadable { .. }
                | Difference::Sums { .. }
        )
    });
    // Sums say that rows are the right ones, and not when they are.
    let is_moved = is_ours && any(|found| matches!(found, Difference::Times { .. }));
    // Of a file of another program nothing tells which it was, but for that.
    let is_another = !is_ours
        && any(|found| matches!(found, Difference::Size { expected: 1.., .. }))
        && any(|found| matches!(found, Difference::Rows { .. }));
    let is_size = |found: &Difference| matches!(found, Difference::Size { .. });
    let loses = |found: &Difference| {
        is_size(found)
            || matches!(
                found,
                Difference::Missing
                    | Difference::Outside
                    | Difference::Unreadable { .. }
                    | Difference::Sums { .. }
            )
            || is_ours && matches!(found, Difference::Rows { .. } | Difference::Times { .. })
    };
    if is_gone || is_moved || is_another {
        let mut reasons = differences.iter().filter(|found| loses(found));
        return Some(Judgement::Lost((**reasons.next()?).clone()));
    }
    let is_wrong = |found: &&&Difference| {
        is_size(found)
            || matches!(
                found,
                Difference::Rows { .. }
                    | Difference::Times { .. }
                    | Difference::Statistics { .. }
                    | Difference::Path { .. }
                    | Difference::Tags { .. }
                    | Difference::Order
            )
    };
    let wrong = differences.iter().filter(is_wrong);
    let wrong: Vec<_> = wrong.map(|found| (*found).clone()).collect();
    (!wrong.is_empty()).then_some(Judgement::Misstated(wrong))
}
