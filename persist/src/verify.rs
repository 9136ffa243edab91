//! Verification: whether the log of a shard can be read, and its files are what the log says of them.
//!
//! ```text
//!   for the log:          every entry and checkpoint is there and can be used ([`crate::survey`])
//!   for each live file:   it is there, of its size · it can be read · its rows are as many as said
//!                         min ≤ mv_time ≤ max · Σ hash(row) × diff = its sums · its statistics are true
//!   for each row:         |Σ diff| fits in 64 bits ([`crate::multiplicity`])
//! ```
//!
//! The sums say that the rows are right, the bounds when they are: sums ignore times. All files are looked at,
//! whatever was found before, and each finding names its file. What the log says nothing of (files of other
//! programs) can only be read. A log that cannot be opened is read as far as it goes. A note names what is odd, and no
//! damage: readers and writers go on as if it were not there.
//!
//! A few files are in memory at a time; reading and hashing is done on the pool.

mod difference;
pub(crate) mod examine;
mod origin;
mod statistics;

use std::fmt;
use std::sync::{Arc, Mutex};

use arrow_schema::Schema;
use futures::StreamExt;
use futures::stream;

use crate::client::Client;
use crate::data_file::DataFile;
use crate::error::Error;
use crate::lock;
use crate::log::folder;
use crate::log::state::State;
use crate::multiplicity::Multiplicities;
use crate::shard::Shard;
use crate::storage::Storage;
use crate::sums::Sums;
use crate::survey::Survey;

pub use difference::Difference;
pub(crate) use examine::Examined;
use examine::{OpenRows, bounds, examine};

/// Files in memory at once.
const FILES_AT_ONCE: usize = 4;

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyProgress {
    /// The files that were looked at.
    pub done: usize,
    /// All files.
    pub files: usize,
    /// The rows read.
    pub rows: u64,
}

/// What a verification found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The version of the log that was verified: the last that can be read; 0 if none can.
    pub version: u64,
    /// The live files of that version.
    pub files: usize,
    /// The rows read.
    pub rows: u64,
    /// The bytes read.
    pub bytes: u64,
    /// The files whose log entry has no sums: their rows were read and could be compared with nothing.
    pub without_sums: usize,
    /// The files whose log entry has no bounds of times, and that have rows.
    pub without_times: usize,
    /// The files that were removed while it ran, and were gone when their turn came.
    pub removed: usize,
    /// The sums of all rows read.
    pub sums: Sums,
    /// The damage: to the log, then to data files in the order of their paths.
    pub findings: Vec<Finding>,
    /// What is odd, and no damage.
    pub notes: Vec<Note>,
}

impl VerifyReport {
    fn of(version: u64, files: usize) -> Self {
        VerifyReport {
            version,
            files,
            rows: 0,
            bytes: 0,
            without_sums: 0,
            without_times: 0,
            removed: 0,
            sums: Sums::default(),
            findings: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// True if there is no damage.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Something odd about a file that keeps nobody from reading or writing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Note {
    /// Its path in the table.
    pub path: String,
    /// What is odd.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text)
    }
}

/// A file that is damaged, or is not what the log says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Its path as in the log, or of a file of the log in the table.
    pub path: String,
    /// How it differs.
    pub difference: Difference,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.difference)
    }
}

/// All that is known of a table: its log and its files.
#[derive(Debug)]
pub(crate) struct Examination {
    pub(crate) survey: Survey,
    pub(crate) report: VerifyReport,
}

/// Told of each file that was read.
type OnFile<'a> = &'a (dyn Fn(VerifyProgress) + Send + Sync);

impl Client {
    /// Reads the log at `url` and all live files, and compares these with what the log says of them: whether or not the
    /// shard can be opened. See [`Shard::verify`].
    ///
    /// # Errors
    /// [`Error::NoShard`] if there is no log at all; otherwise as [`Shard::verify`].
    pub async fn verify(
        &self,
        url: &str,
        progress: &(dyn Fn(VerifyProgress) + Send + Sync),
    ) -> Result<VerifyReport, Error> {
        let storage = self.storage(url)?;
        Ok(storage.examine_table(progress).await?.report)
    }
}

impl Shard {
    /// Reads the whole log and all live files, and compares these with what the log says of them.
    ///
    /// Errors that may pass are retried for ever, with a warning each. A file that cannot be read is a finding.
    /// `progress` is called after each file. Dropping the future is safe at any time.
    ///
    /// # Errors
    /// If the store fails for good, the table is not the one that was opened, or the runtime shuts down.
    pub async fn verify(
        &self,
        progress: &(dyn Fn(VerifyProgress) + Send + Sync),
    ) -> Result<VerifyReport, Error> {
        if let Err(error @ (Error::Shutdown | Error::Replaced { .. })) = self.refresh().await {
            return Err(error);
        }
        // Its files stay while they are read.
        let _pinned = self.pin();
        Ok(self.inner().storage.examine_table(progress).await?.report)
    }
}

impl Storage {
    pub(crate) async fn examine_table(&self, progress: OnFile<'_>) -> Result<Examination, Error> {
        let on_retry = &Storage::warn_of_retry;
        let no_shard = || Error::NoShard {
            url: self.url.to_string(),
        };
        let none = || self.in_place_of_log().unwrap_or_else(no_shard);
        let mut survey = self.survey(on_retry).await?.ok_or_else(none)?;
        if survey.findings.is_empty()
            && let Err(error) = self.replay(on_retry).await
        {
            if matches!(error, Error::Shutdown) {
                return Err(error);
            }
            let why = error.to_string();
            survey.findings.push(Finding {
                path: folder().to_string(),
                difference: Difference::Refused { why },
            });
        }
        let mut report = match &survey.end {
            Some(state) => self.examine_files(state, progress).await?,
            None => VerifyReport::of(0, 0),
        };
        let is_missing = |finding: &Finding| finding.difference == Difference::Missing;
        if report.findings.iter().any(is_missing) {
            // Somebody may have removed it, and then deleted it, as is their right.
            let again = self.survey(on_retry).await?.ok_or_else(no_shard)?;
            let before = report.findings.len();
            let is_live = |path: &str| again.end.as_ref().is_some_and(|state| state.is_live(path));
            report
                .findings
                .retain(|finding| !is_missing(finding) || is_live(&finding.path));
            report.removed = before - report.findings.len();
        }
        report.findings.sort_by(|a, b| a.path.cmp(&b.path));
        report.notes.sort_by(|a, b| a.path.cmp(&b.path));
        report.findings.splice(..0, survey.findings.clone());
        report.notes.splice(..0, survey.notes.clone());
        Ok(Examination { survey, report })
    }

    /// Reads the live files of this state.
    async fn examine_files(
        &self,
        state: &State,
        progress: OnFile<'_>,
    ) -> Result<VerifyReport, Error> {
        let all = state.files();
        let files: Vec<Arc<DataFile>> = all.values().cloned().collect();
        let mut report = VerifyReport::of(state.version, files.len());
        let (schema, upper) = (state.schema(), state.progress().upper);
        let open = OpenRows::of(state);
        let multiplicities = Arc::new(Mutex::new(Multiplicities::default()));
        let mut examined = stream::iter(files)
            .map(|file| {
                let (schema, rows) = (Arc::clone(&schema), Arc::clone(&multiplicities));
                let open = open.clone();
                async move {
                    let examined = self.examine(Arc::clone(&file), schema, open, rows);
                    (file, examined.await)
                }
            })
            .buffer_unordered(FILES_AT_ONCE);
        let mut done = 0;
        let mut differing = Vec::new();
        while let Some((file, found)) = examined.next().await {
            let mut found = found?;
            found.judge_nulls(&file, &open, &mut report.notes);
            report.rows += found.rows;
            report.bytes += found.bytes;
            report.sums.merge(&found.sums);
            report.without_sums += usize::from(file.sums.is_none());
            report.without_times += usize::from(found.times.is_some() && bounds(&file).is_none());
            if let Some((_, last)) = found.times.filter(|(_, last)| !upper.is_complete(last)) {
                report.notes.push(Note {
                    path: file.path.clone(),
                    text: format!("it has rows at {last}, which is not below the upper {upper}"),
                });
            }
            if !found.differences.is_empty() {
                differing.push((file, found));
            }
            done += 1;
            progress(VerifyProgress {
                done,
                files: report.files,
                rows: report.rows,
            });
        }
        drop(examined);
        self.tell_tags(state, &mut differing).await?;
        let has_other_rows = |found: &Difference| matches!(found, Difference::Sums { .. });
        for (file, found) in differing {
            let path = &file.path;
            let is_it = |other: &&Arc<DataFile>| {
                other.path != *path && other.sums.as_ref() == Some(&found.sums)
            };
            if found.differences.iter().any(has_other_rows)
                && let Some(other) = all.values().find(is_it)
            {
                let text = format!(
                    "its rows are those of {}: a copy of that is in its place",
                    other.path
                );
                let path = path.clone();
                report.notes.push(Note { path, text });
            }
            let differences = found.differences.into_iter();
            report
                .findings
                .extend(differences.map(|difference| Finding {
                    path: path.clone(),
                    difference,
                }));
        }
        let multiplicities = lock(&multiplicities);
        for (path, rows) in multiplicities.beyond() {
            report.findings.push(Finding {
                path,
                difference: Difference::Multiplicity { rows },
            });
        }
        if let Some(rows) = multiplicities.negative() {
            report.notes.push(Note {
                path: ".".into(),
                text: format!("{rows} different rows are there less often than never: retracted more often than added"),
            });
        }
        Ok(report)
    }

    /// What the file is now, and how it differs from what the log says of it.
    pub(crate) async fn examine_file(
        &self,
        file: &Arc<DataFile>,
        state: &State,
    ) -> Result<Examined, Error> {
        let open = OpenRows::of(state);
        self.examine(Arc::clone(file), state.schema(), open, Arc::default())
            .await
    }

    async fn examine(
        &self,
        file: Arc<DataFile>,
        schema: Arc<Schema>,
        open: OpenRows,
        multiplicities: Arc<Mutex<Multiplicities>>,
    ) -> Result<Examined, Error> {
        let read = || async {
            let location = self.data_location(&file.path)?;
            self.get(&location).await
        };
        let bytes = match self.retry(&Storage::warn_of_retry, read).await {
            Ok(Some(bytes)) => bytes,
            Err(Error::Shutdown) => return Err(Error::Shutdown),
            lost => {
                let difference = match lost {
                    Err(Error::OutsideFile { .. }) => Difference::Outside,
                    Err(Error::NoFile { found, .. }) => Difference::NoFile { found },
                    Err(error) => Difference::Refused {
                        why: error.to_string(),
                    },
                    Ok(_) => Difference::Missing,
                };
                return Ok(Examined {
                    differences: vec![difference],
                    ..Examined::default()
                });
            }
        };
        let plain = self.root.plain(&file.path);
        let mut examined = self
            .env
            .cpu
            .run(move || examine(&file, bytes, &schema, &open, &multiplicities))
            .await?;
        let differs = plain.map(|plain| Difference::Path { plain });
        examined.differences.extend(differs);
        Ok(examined)
    }
}
