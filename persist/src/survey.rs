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

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::join_all;
use object_store::ObjectMeta;
use object_store::path::Path;

use crate::error::Error;
use crate::frontier::Frontier;
use crate::log::action::Commit;
use crate::log::checkpoint::{LogFile, checkpoint_path, last_checkpoint_path};
use crate::log::state::{State, UPPER};
use crate::log::{entry_path, folder};
use crate::open::CheckpointError;
use crate::replay::{Evidence, Log};
use crate::storage::{OnRetry, Storage};
use crate::verify::{Difference, Finding, Note};

/// Entries read at once.
const READ_AT_ONCE: usize = 32;
/// How often a log with findings is surveyed again: what was cleaned up meanwhile looks as if it were missing.
const SURVEYS_AGAIN_MAX: u32 = 3;
/// An object that is so much younger than this machine's clock says has a time of the future.
const FUTURE_MS_MIN: i64 = 60 * 60 * 1000;

/// What a survey found.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The state at the end, if there is a beginning to read it from.
    pub(crate) end: Option<State>,
    /// Where the log breaks off though more of it is there.
    pub(crate) break_off: Option<BreakOff>,
    /// The checkpoints that cannot be read, each with the state that it is to hold, if that is known.
    pub(crate) damaged_checkpoints: BTreeMap<u64, Option<(State, Evidence)>>,
    /// The newest checkpoint that can be read, and leads to the end.
    pub(crate) newest_checkpoint: Option<u64>,
    /// Where the pointer leads, if it leads to no checkpoint that can be read; `Some(None)`: it cannot be read itself.
    pub(crate) wrong_pointer: Option<Option<u64>>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) notes: Vec<Note>,
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
}

impl Survey {
    fn find(&mut self, path: &Path, difference: Difference) {
        let path = path.to_string();
        self.findings.push(Finding { path, difference });
    }

    fn note(&mut self, path: &Path, text: impl Into<String>) {
        let (path, text) = (path.to_string(), text.into());
        self.notes.push(Note { path, text });
    }
}

/// The names of a log's folder.
struct Listing {
    objects: Vec<(LogFile, ObjectMeta)>,
    /// Directories with the names of files.
    folders: Vec<LogFile>,
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
        let Listing { objects, folders } = self.list_names(on_retry).await?;
        let pointer_path = last_checkpoint_path();
        let hint = self.last_checkpoint(on_retry).await?;
        let points = hint.is_some() || self.exists(&pointer_path, on_retry).await?;
        if objects.is_empty() && folders.is_empty() && !points {
            return Ok(None);
        }
        let mut survey = Survey::default();
        self.note_future_times(&objects, &mut survey);
        let versions = |kind: fn(u64) -> LogFile| {
            let of_kind = move |(file, _): &(LogFile, _)| {
                (*file == kind(file.version())).then_some(file.version())
            };
            objects.iter().filter_map(of_kind).collect::<Vec<u64>>()
        };
        let checkpoints = versions(LogFile::Checkpoint);
        let (base, mut good) = self
            .survey_checkpoints(&checkpoints, &mut survey, on_retry)
            .await?;
        let mut walk = Walk::new(base, &self.url);
        for chunk in versions(LogFile::Entry).chunks(READ_AT_ONCE) {
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
        let end = walk.log.map(|log| log.state);
        let last = end.as_ref().map(|state| state.version);
        let mut broken = walk.broken;
        for (file, object) in &objects {
            let version = file.version();
            let beyond = last.is_none_or(|last| last < version);
            if *file == LogFile::OtherCheckpoint(version) && beyond {
                let why =
                    "a checkpoint in several parts or of the second form, to which no entries lead";
                survey.find(&object.location, Difference::Refused { why: why.into() });
            }
            if !matches!(file, LogFile::Entry(_)) && beyond && broken.is_none() {
                let version = last.map_or(0, |last| last + 1);
                broken = Some(BreakOff {
                    version,
                    ..BreakOff::default()
                });
            }
        }
        if last.is_none() {
            broken.get_or_insert_default();
            if survey.findings.is_empty() {
                survey.find(&folder(), Difference::EntriesMissing { first: 0, last: 0 });
            }
        }
        for file in folders {
            let path = match file {
                LogFile::Checkpoint(version) => checkpoint_path(version),
                file => entry_path(file.version()),
            };
            survey.find(&path, Difference::Folder);
        }
        if let Some(broken) = &mut broken {
            let beyond = objects
                .iter()
                .filter(|(file, _)| file.version() >= broken.version);
            broken.beyond = beyond.map(|(_, object)| object.location.clone()).collect();
            good.retain(|version| *version < broken.version);
        }
        let damaged: Vec<u64> = survey.damaged_checkpoints.keys().copied().collect();
        for version in damaged {
            if last.is_some_and(|last| version <= last) {
                let state = self.state_at(version, &good, on_retry).await?;
                survey.damaged_checkpoints.insert(version, state);
            }
        }
        let other = |version| {
            objects
                .iter()
                .any(|(file, _)| *file == LogFile::OtherCheckpoint(version))
        };
        if points && !hint.is_some_and(|hint| good.contains(&hint) || other(hint)) {
            survey.wrong_pointer = Some(hint);
            let text = match hint {
                Some(version) => format!(
                    "it leads to version {version}, which has no checkpoint that can be read"
                ),
                None => "it cannot be read".into(),
            };
            survey.note(&pointer_path, text + "; a checkpoint is found without it");
        }
        survey.newest_checkpoint = good.iter().max().copied();
        (survey.end, survey.break_off) = (end, broken);
        Ok(Some(survey))
    }

    /// Reads all checkpoints. Returns the newest one that can be used, and the versions of all that can.
    async fn survey_checkpoints(
        &self,
        versions: &[u64],
        survey: &mut Survey,
        on_retry: OnRetry<'_>,
    ) -> Result<(Option<Log>, Vec<u64>), Error> {
        let (mut base, mut good) = (None, Vec::new());
        for version in versions.iter().rev().copied() {
            let path = checkpoint_path(version);
            let why = match self.load_checkpoint(version, on_retry).await {
                Ok(log) => match self.is_of_another_table(&log.state, on_retry).await? {
                    false => {
                        good.push(version);
                        base.get_or_insert(log);
                        continue;
                    }
                    true => "it is of another table".into(),
                },
                // It was cleaned up meanwhile.
                Err(CheckpointError::Unusable(Error::MissingFile { .. })) => continue,
                Err(CheckpointError::Unusable(Error::Unsupported { .. })) => {
                    survey.note(&path, "it has the second form, which is not read");
                    continue;
                }
                Err(CheckpointError::Unusable(Error::Corrupt { why, .. })) => why,
                Err(CheckpointError::Fatal(Error::Unsupported { why, .. })) => {
                    survey.find(&path, Difference::Refused { why });
                    continue;
                }
                Err(CheckpointError::Unusable(error) | CheckpointError::Fatal(error)) => {
                    return Err(error);
                }
            };
            survey.damaged_checkpoints.insert(version, None);
            survey.find(&path, Difference::Unreadable { why });
        }
        Ok((base, good))
    }

    /// True if the entry of the same version says that it is of another table than the checkpoint.
    async fn is_of_another_table(
        &self,
        state: &State,
        on_retry: OnRetry<'_>,
    ) -> Result<bool, Error> {
        let entry = self
            .get_retrying(&entry_path(state.version), on_retry)
            .await?;
        let Some(entry) = entry else {
            return Ok(false);
        };
        let commit = self.parse_entry(state.version, entry).await?;
        let table = commit.ok().and_then(|(commit, _)| commit.info?.table);
        Ok(table.is_some_and(|table| table != state.metadata().id))
    }

    async fn parse_entry(&self, version: u64, bytes: Bytes) -> Result<Parsed, Error> {
        let evidence = Evidence::of_entry(&bytes);
        match self.parse(version, bytes).await {
            Ok(commit) => Ok(Ok((commit, evidence))),
            Err(Error::Corrupt { why, .. }) => Ok(Err(Difference::Unreadable { why })),
            Err(error) => Err(error),
        }
    }

    /// The state of a version, from an earlier checkpoint and the entries since; `None` if some are not there or cannot
    /// be used.
    async fn state_at(
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

    /// The files of the log and what has their names, ascending by version.
    async fn list_names(&self, on_retry: OnRetry<'_>) -> Result<Listing, Error> {
        let named = |object: ObjectMeta| {
            let direct = object.location.parts().count() == 2;
            let file = LogFile::from_name(object.location.filename()?)?;
            direct.then_some((file, object))
        };
        let mut objects = self.list_log_as(named, on_retry).await?;
        objects
            .sort_by(|(a, x), (b, y)| (a.version(), &x.location).cmp(&(b.version(), &y.location)));
        Ok(Listing {
            objects,
            folders: self.list_folders().await?,
        })
    }

    /// The directories in the log's folder that have the names of files; only local stores have directories.
    async fn list_folders(&self) -> Result<Vec<LogFile>, Error> {
        let Some(local) = &self.local else {
            return Ok(Vec::new());
        };
        let path = local.join(folder().as_ref());
        let list = move || {
            let Ok(entries) = std::fs::read_dir(path) else {
                return Vec::new();
            };
            let folders = entries.flatten().filter(|entry| entry.path().is_dir());
            let mut named: Vec<_> = folders
                .filter_map(|entry| LogFile::from_name(entry.file_name().to_str()?))
                .collect();
            named.sort_unstable_by_key(|file| file.version());
            named
        };
        let listed = self.env.handle.spawn_blocking(list).await;
        listed.map_err(|_| Error::Shutdown)
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

/// An entry and what recognizes it, or why it cannot be used.
type Parsed = Result<(Commit, Evidence), Difference>;

/// A reading of all entries, ascending.
struct Walk<'s> {
    url: &'s str,
    /// The version of the checkpoint that it began with.
    base: Option<u64>,
    log: Option<Log>,
    previous: Option<u64>,
    broken: Option<BreakOff>,
}

impl<'s> Walk<'s> {
    fn new(base: Option<Log>, url: &'s str) -> Self {
        Walk {
            url,
            base: base.as_ref().map(|log| log.state.version),
            log: base,
            previous: None,
            broken: None,
        }
    }

    fn take(&mut self, storage: &Storage, version: u64, parsed: Parsed, survey: &mut Survey) {
        let path = entry_path(version);
        let first = self.previous.map_or(0, |previous| previous + 1);
        if self.base.is_some_and(|base| version <= base) {
            // That the oldest ones are gone is as it should be.
            if self.previous.is_some() && first < version {
                let missing = Difference::EntriesMissing {
                    first,
                    last: version - 1,
                };
                survey.note(
                    &path,
                    format!("{missing}; a later checkpoint stands for them"),
                );
            }
            if let Err(difference) = parsed {
                survey.note(
                    &path,
                    format!("{difference}; a later checkpoint stands for it"),
                );
            }
            self.previous = Some(version);
            return;
        }
        let first = self.base.map_or(first, |base| first.max(base + 1));
        let is_gap = first < version;
        if is_gap && self.is_foreign(&parsed) {
            survey.note(&path, "it is of another table, and does not count");
            return;
        }
        self.previous = Some(version);
        if is_gap {
            let last = version - 1;
            survey.find(&path, Difference::EntriesMissing { first, last });
            self.break_off(first);
        }
        let (commit, evidence) = match parsed {
            Ok(parsed) => parsed,
            Err(difference) => {
                survey.find(&path, difference);
                self.break_off(version);
                return;
            }
        };
        if self.broken.is_none() {
            let applied = match &mut self.log {
                Some(log) => log.apply(storage, &commit, evidence),
                None => State::first(&storage.root, self.url, version, &commit)
                    .map(|state| self.log = Some(Log::new(state, evidence))),
            };
            match applied {
                Ok(()) => return,
                Err(error) => {
                    survey.find(&path, refusal(error));
                    self.break_off(version);
                }
            }
        }
        if let Some(broken) = &mut self.broken {
            broken.count(&commit);
        }
    }

    fn break_off(&mut self, version: u64) {
        self.broken.get_or_insert(BreakOff {
            version,
            ..BreakOff::default()
        });
    }

    /// True of an entry that says that it is of another table.
    fn is_foreign(&self, parsed: &Parsed) -> bool {
        let table = parsed
            .as_ref()
            .ok()
            .and_then(|(commit, _)| commit.info.as_ref()?.table.as_ref());
        let log = self.log.as_ref();
        table.is_some_and(|table| log.is_some_and(|log| *table != log.state.metadata().id))
    }
}

impl BreakOff {
    fn count(&mut self, commit: &Commit) {
        let uppers = commit.txns.iter().filter(|txn| txn.app_id == UPPER);
        for txn in uppers {
            self.upper = self.upper.max(Some(Frontier::from_version(txn.version)));
        }
        for add in commit.adds.iter().filter(|add| add.data_change) {
            let file = crate::data_file::DataFile::from_add(add);
            self.files += 1;
            self.rows = self.rows.saturating_add(file.rows.unwrap_or(0));
        }
    }
}

/// Why an entry that can be read cannot be applied.
fn refusal(error: Error) -> Difference {
    let why = match error {
        Error::Corrupt { why, .. } => return Difference::Unreadable { why },
        Error::Unsupported { why, .. } | Error::SchemaMismatch { why, .. } => why,
        Error::Replaced { .. } => "it is of another table".into(),
        error => error.to_string(),
    };
    Difference::Refused { why }
}
