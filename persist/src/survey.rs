//! Surveys: all that lies in a log, whether or not the log can be opened.
//!
//! An opener reads what it needs, and stops at the first thing that is wrong. A survey reads every entry and every
//! checkpoint, and goes on:
//!
//! ```text
//!   base = the newest checkpoint that can be used, or else the first entry
//!   end  = the version that the entries beyond the base lead to, one by one
//! ```
//!
//! What is wrong beyond the base keeps the table from being opened, and is damage. A checkpoint stands for the entries
//! below it: what is wrong there is worth a note. A checkpoint that cannot be read is damage wherever it lies; where
//! entries lead to its version, they tell what it is to hold.

mod checkpoints;
pub(crate) mod names;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::future::join_all;
use object_store::ObjectMeta;
use object_store::path::Path;

use crate::beyond::end_before;
use crate::error::Error;
use crate::frontier::Frontier;
use crate::log::checkpoint::{LogFile, checkpoint_path, last_checkpoint_path, pointed_to};
use crate::log::state::State;
use crate::log::{entry_path, folder};
use crate::replay::Evidence;
use crate::storage::{OnRetry, Storage};
use crate::verify::{Difference, Finding, Note};

use names::{OtherForm, path_of};
use walk::Walk;

/// Entries read at once.
const READ_AT_ONCE: usize = 32;
/// How often a log with findings is surveyed again: what was cleaned up meanwhile looks as if it were missing.
const SURVEYS_AGAIN_MAX: u32 = 3;
/// No log has grown to this version: with a commit a millisecond that takes 35,000 years.
const VERSION_BOUND: u64 = 1 << 50;
/// An object that is so much younger than this machine's clock says has a time of the future.
const FUTURE_MS_MIN: i64 = 60 * 60 * 1000;

/// What a survey found.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The state at the end, if there is a beginning to read it from.
    pub(crate) end: Option<State>,
    /// Where the log breaks off though more of it is there.
    pub(crate) break_off: Option<BreakOff>,
    /// The checkpoints that cannot be read, or are not what the entries lead to, each with the state that it is to
    /// hold, if that is known.
    pub(crate) damaged_checkpoints: BTreeMap<u64, Option<(State, Evidence)>>,
    /// The newest checkpoint that can be read, and leads to the end.
    pub(crate) newest_checkpoint: Option<u64>,
    /// Where the pointer leads, if it leads to no checkpoint that can be read; `Some(None)`: it cannot be read itself.
    pub(crate) wrong_pointer: Option<Option<u64>>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) notes: Vec<Note>,
    /// The address of the table.
    pub(crate) url: String,
    /// The files of the log as they were listed, by their paths.
    pub(crate) objects: BTreeMap<Path, ObjectMeta>,
    /// The first version beyond all that is there.
    pub(crate) next: u64,
    /// The checkpoints in other forms that have been named.
    named_forms: BTreeSet<u64>,
}

/// The log cannot be read on from one version, though later files of it are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BreakOff {
    /// The first version that is missing or cannot be used.
    pub(crate) version: u64,
    /// The files of the log from it on, ascending.
    pub(crate) beyond: Vec<Path>,
    /// How far the upper was by what lies beyond.
    pub(crate) upper: Option<Frontier<i64>>,
    /// The data files that entries beyond it add.
    pub(crate) files: u64,
    /// Their rows, as far as their writers said.
    pub(crate) rows: u64,
    /// The entries beyond it that cannot be read: what they add is not known.
    pub(crate) unread: u64,
    /// Some of them could not be had, and may be as they should.
    pub(crate) is_unknown: bool,
    /// The holds that they set.
    pub(crate) holds: BTreeSet<String>,
    /// The last version up to which they accept edits.
    pub(crate) accepted: Option<u64>,
    /// Those that say nothing but that a repair was to go back.
    pub(crate) fences: BTreeSet<Path>,
}

impl BreakOff {
    /// True if nothing lies beyond but what repairs have left that were cut off: what they were to give up has been put
    /// back since.
    pub(crate) fn is_of_fences(&self) -> bool {
        !self.beyond.is_empty() && self.beyond.iter().all(|path| self.fences.contains(path))
    }
}

impl Survey {
    fn find(&mut self, path: &Path, difference: Difference) {
        let path = path.to_string();
        self.findings.push(Finding { path, difference });
    }

    /// A checkpoint in another form is all that leads to what comes after it.
    fn find_other(&mut self, version: u64, form: &OtherForm) {
        if !self.named_forms.insert(version) {
            return;
        }
        for path in &form.missing {
            self.find(path, Difference::Missing);
        }
        if form.missing.is_empty() {
            let why = "a checkpoint in several parts or of the second form, and the entries before it are gone";
            self.find(&form.path, Difference::Refused { why: why.into() });
        }
    }

    fn note(&mut self, path: &Path, text: impl Into<String>) {
        let (path, text) = (path.to_string(), text.into());
        self.notes.push(Note { path, text });
    }
}

impl Storage {
    /// Surveys the log; `None` if there is none. It is read again until the same is found twice, or nothing.
    ///
    /// # Errors
    /// If the store fails for good, or the runtime shuts down.
    pub(crate) async fn survey(&self, on_retry: OnRetry<'_>) -> Result<Option<Survey>, Error> {
        let mut found = self.survey_once(on_retry).await?;
        for attempt in 0..SURVEYS_AGAIN_MAX {
            let Some(before) = found.as_ref().filter(|survey| !survey.findings.is_empty()) else {
                break;
            };
            self.env.wait(attempt).await;
            let again = self.survey_once(on_retry).await?;
            let same = again
                .as_ref()
                .is_some_and(|again| again.findings == before.findings);
            found = again;
            if same {
                break;
            }
        }
        Ok(found)
    }

    async fn survey_once(&self, on_retry: OnRetry<'_>) -> Result<Option<Survey>, Error> {
        let listing = self.list_names(on_retry).await?;
        let objects = &listing.objects;
        let pointer_path = last_checkpoint_path();
        let hint = self.get_retrying(&pointer_path, on_retry).await?;
        let hint = hint.and_then(|bytes| pointed_to(&bytes));
        let pointer = self.head(&pointer_path, on_retry).await?;
        let points = hint.is_some() || pointer.is_some();
        if objects.is_empty() && listing.no_files.is_empty() && !points {
            return Ok(None);
        }
        let mut survey = Survey {
            url: self.url.to_string(),
            objects: objects
                .iter()
                .map(|(_, object)| object)
                .chain(&pointer)
                .map(|object| (object.location.clone(), object.clone()))
                .collect(),
            ..Survey::default()
        };
        let no_files = listing.no_files.iter().map(|(file, _)| file.version());
        let versions = objects.iter().map(|(file, _)| file.version());
        // What lies further ahead nobody has got to, and nobody goes on from there.
        let reached = versions
            .chain(no_files)
            .filter(|version| *version < VERSION_BOUND);
        survey.next = reached.max().map_or(0, |last| last + 1);
        self.note_future_times(objects, &mut survey);
        let mut checkpoints = self
            .survey_checkpoints(
                &listing.versions(LogFile::Checkpoint),
                &mut survey,
                on_retry,
            )
            .await?;
        let mut others = listing.other_forms();
        survey.named_forms.extend(&checkpoints.refused);
        for version in checkpoints.second_form.iter().chain(&checkpoints.refused) {
            let (path, missing) = (checkpoint_path(*version), Vec::new());
            others
                .entry(*version)
                .or_insert(OtherForm { path, missing });
        }
        let mut walk = Walk::new(checkpoints.base.take(), &self.url, &others);
        for chunk in listing.versions(LogFile::Entry).chunks(READ_AT_ONCE) {
            let reads = chunk.iter().map(|version| async {
                let read = self.get_retrying(&entry_path(*version), on_retry).await;
                (*version, read)
            });
            for (version, read) in join_all(reads).await {
                let parsed = match read {
                    Ok(Some(bytes)) => self.parse_entry(version, bytes).await?,
                    // It was cleaned up meanwhile.
                    Ok(None) => continue,
                    Err(Error::Shutdown) => return Err(Error::Shutdown),
                    Err(error) => Err(Difference::Refused {
                        why: error.to_string(),
                    }),
                };
                walk.take(self, version, parsed, &mut survey);
            }
        }
        let Walk {
            base,
            mut log,
            broken,
            suspects,
            ..
        } = walk;
        if let Some(log) = &mut log {
            // What cannot be read has been found.
            if let Err(Error::Shutdown) = self.review(log, on_retry).await {
                return Err(Error::Shutdown);
            }
        }
        let end = log.map(|log| log.state);
        survey.next = survey
            .next
            .max(end.as_ref().map_or(0, |end| end.version + 1));
        for (entry, file, why) in suspects {
            if end.as_ref().is_some_and(|end| end.is_live(&file)) {
                survey.find(&entry, Difference::Frontier { why });
            }
        }
        let last = end.as_ref().map(|state| state.version);
        for (version, form) in &others {
            if last.is_none_or(|last| last < *version) {
                survey.find_other(*version, form);
            } else if let [first, ..] = &form.missing[..] {
                survey.note(
                    first,
                    "it is missing, and readers can do without that checkpoint",
                );
            } else if checkpoints.second_form.contains(version) {
                survey.note(&form.path, "it has the second form, which is not read");
            }
        }
        survey.break_off = broken.or_else(|| self.broken_beyond(last, objects, &survey));
        if last.is_none() {
            survey.break_off.get_or_insert_default();
            if survey.findings.is_empty() {
                survey.find(&folder(), Difference::EntriesMissing { first: 0, last: 0 });
            }
        }
        for (file, found) in &listing.no_files {
            survey.find(
                &path_of(*file),
                match *found {
                    "a directory" => Difference::Folder,
                    found => Difference::NoFile { found },
                },
            );
        }
        if let (Some(base), None) = (base, &survey.break_off) {
            let files = objects.iter().map(|(file, _)| *file);
            if let Some(end) = end_before(base, files) {
                survey.find(&checkpoint_path(base), Difference::Ahead { end });
            }
        }
        let mut good = checkpoints.good;
        if let Some(broken) = &mut survey.break_off {
            let beyond = objects
                .iter()
                .filter(|(file, _)| file.version() >= broken.version);
            broken.beyond = beyond.map(|(_, object)| object.location.clone()).collect();
            good.retain(|version| *version < broken.version);
        }
        self.derive_damaged(&mut survey, last, &good, on_retry)
            .await?;
        let other = |version| {
            others
                .get(&version)
                .is_some_and(|form| form.missing.is_empty())
        };
        if points && !hint.is_some_and(|hint| good.contains(&hint) || other(hint)) {
            survey.wrong_pointer = Some(hint);
            let difference = Difference::Pointer { to: hint };
            // With the rest of the log what it leads to may come back.
            let is_known = survey.break_off.is_some()
                || hint.is_some_and(|hint| survey.damaged_checkpoints.contains_key(&hint));
            match is_known {
                true => survey.note(&pointer_path, difference.to_string()),
                false => survey.find(&pointer_path, difference),
            }
        }
        survey.newest_checkpoint = good.iter().max().copied();
        survey.end = end;
        Ok(Some(survey))
    }

    /// Where the log breaks off, if only checkpoints lie beyond the end that is known.
    fn broken_beyond(
        &self,
        last: Option<u64>,
        objects: &[(LogFile, ObjectMeta)],
        survey: &Survey,
    ) -> Option<BreakOff> {
        let is_beyond = |(file, _): &&(LogFile, ObjectMeta)| {
            let version = file.version();
            // One that could be read would be the base.
            !matches!(file, LogFile::Entry(_))
                && last.is_none_or(|last| last < version)
                && (survey.named_forms.contains(&version) || matches!(file, LogFile::Checkpoint(_)))
        };
        objects.iter().find(is_beyond).map(|_| BreakOff {
            version: last.map_or(0, |last| last + 1),
            ..BreakOff::default()
        })
    }

    /// Finds out what the damaged checkpoints are to hold, as far as entries lead there.
    async fn derive_damaged(
        &self,
        survey: &mut Survey,
        last: Option<u64>,
        good: &[u64],
        on_retry: OnRetry<'_>,
    ) -> Result<(), Error> {
        for (version, state) in &mut survey.damaged_checkpoints {
            if state.is_none() && last.is_some_and(|last| *version <= last) {
                *state = self.state_at(*version, good, on_retry).await?;
            }
        }
        Ok(())
    }

    fn note_future_times(&self, objects: &[(LogFile, ObjectMeta)], survey: &mut Survey) {
        let latest_ms = self.env.now_ms().saturating_add(FUTURE_MS_MIN);
        for (_, object) in objects {
            if let Some(text) = future(object, latest_ms) {
                survey.note(&object.location, text);
            }
        }
    }
}

/// That the object has a time beyond this one, in words.
fn future(object: &ObjectMeta, latest_ms: i64) -> Option<String> {
    let at = SystemTime::from(object.last_modified);
    let at = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    (at.as_millis() > u128::try_from(latest_ms).ok()?)
        .then(|| "its time lies in the future, by this machine's clock".to_owned())
}
