//! Verification: whether the log of a shard can be read, and its files are what the log says of them.
//!
//! ```text
//!   for the log:          every entry and checkpoint is there and can be used ([`crate::survey`])
//!   for each live file:   it is there, of its size · it can be read · its rows are as many as said
//!                         min ≤ mv_time ≤ max · Σ hash(row) × diff = its sums
//!   for each row:         |Σ diff| fits in 64 bits ([`crate::multiplicity`])
//! ```
//!
//! The sums say that the rows are right, the bounds when they are: sums ignore times. All files are looked at,
//! whatever was found before, and each finding names its file. What the log says nothing of (files of other
//! programs) can only be read. A log that cannot be opened is read as far as it goes. A note names what is odd, and no
//! damage: readers and writers go on as if it were not there.
//!
//! A few files are in memory at a time; reading and hashing is done on the pool.

use std::fmt;
use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch, new_null_array};
use arrow_schema::{DataType, Schema};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

use crate::client::Client;
use crate::codec::{NO_TIME, Unfit, unfit_for_any_type};
use crate::conform::conform;
use crate::damage::{Damage, differs};
use crate::data_file::DataFile;
use crate::error::Error;
use crate::file::decode_file;
use crate::lock;
use crate::log::folder;
use crate::log::state::State;
use crate::multiplicity::Multiplicities;
use crate::row_hash::Fingerprints;
use crate::schema::{DIFF_COLUMN, TIME_COLUMN};
use crate::shard::Shard;
use crate::storage::Storage;
use crate::sums::Sums;
use crate::survey::Survey;

/// Files in memory at once.
const FILES_AT_ONCE: usize = 4;
/// Rows decoded at once.
const BATCH_ROWS: usize = 8192;

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

/// How a file differs from what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// It is not there.
    Missing,
    /// It does not lie among the data files of the table, and is not read.
    Outside,
    /// It cannot be read, or its rows are none of the table.
    Unreadable {
        /// Why.
        why: String,
    },
    /// It has rows that no sink can read, whatever its types.
    Unfit {
        /// How many.
        rows: u64,
        /// What is wrong with the first of them.
        why: String,
    },
    /// It has another size, in bytes.
    Size {
        /// As in the log.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// It has another number of rows.
    Rows {
        /// As in the log.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// It has times outside of its bounds.
    Times {
        /// The least and greatest time in the log.
        expected: (i64, i64),
        /// The least and greatest time in it.
        found: (i64, i64),
    },
    /// Its rows have other fingerprints.
    Sums {
        /// The buckets whose sums differ, in order.
        buckets: Vec<u8>,
    },
    /// It is said to be in the order of its fingerprints, and is not.
    Order,
    /// It cannot be had, or needs what this version does not understand: it may be as it should.
    Refused {
        /// Why.
        why: String,
    },
    /// Entries of the log are missing before it.
    EntriesMissing {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// A directory is in its place.
    Folder,
    /// Something that is neither a file nor a directory is in its place.
    NoFile {
        /// What, in words.
        found: &'static str,
    },
    /// It is a checkpoint that holds other things than the entries lead to.
    Contradicts {
        /// The first of them, in words.
        why: String,
    },
    /// It is the pointer to the newest checkpoint, and leads to none. The log is read without it; other readers may refuse
    /// the table.
    Pointer {
        /// The version that it leads to, if it can be read.
        to: Option<u64>,
    },
    /// It says of frontiers what no writer can have said.
    Frontier {
        /// What, in words.
        why: String,
    },
    /// It has rows without a time or without a multiplicity.
    Nulls {
        /// The rows without a time.
        times: u64,
        /// The rows without a multiplicity.
        diffs: u64,
    },
    /// It changed while a repair was under way, which left it alone.
    Changed,
    /// Rows, of which some are in this file, are there more often than 64 bits can say.
    Multiplicity {
        /// How many different ones.
        rows: usize,
    },
}

impl Difference {
    /// A word for the kind of damage, which scripts may depend on.
    pub fn kind(&self) -> &'static str {
        match self {
            Difference::Missing => "missing",
            Difference::Outside => "outside",
            Difference::Unreadable { .. } => "unreadable",
            Difference::Unfit { .. } => "unfit",
            Difference::Size { .. } => "size",
            Difference::Rows { .. } => "rows",
            Difference::Times { .. } => "times",
            Difference::Sums { .. } => "sums",
            Difference::Order => "order",
            Difference::Refused { .. } => "refused",
            Difference::EntriesMissing { .. } => "entries missing",
            Difference::Folder => "folder",
            Difference::NoFile { .. } => "no file",
            Difference::Contradicts { .. } => "contradicts",
            Difference::Pointer { .. } => "pointer",
            Difference::Frontier { .. } => "frontier",
            Difference::Nulls { .. } => "nulls",
            Difference::Changed => "changed",
            Difference::Multiplicity { .. } => "multiplicity",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Missing => write!(f, "it is missing"),
            Difference::Outside => {
                write!(f, "it does not lie among the data files of the table")
            }
            Difference::Unreadable { why } => write!(f, "it cannot be read: {why}"),
            Difference::Unfit { rows, why } => {
                write!(f, "no sink can read {rows} of its rows: {why}")
            }
            Difference::Size { expected, found } => {
                write!(f, "it has {found} bytes where the log says {expected}")
            }
            Difference::Rows { expected, found } => {
                write!(f, "it has {found} rows where the log says {expected}")
            }
            Difference::Times { expected, found } => write!(
                f,
                "it has times {} to {} where the log says {} to {}",
                found.0, found.1, expected.0, expected.1
            ),
            Difference::Sums { buckets } => write!(
                f,
                "its rows are not those that were written: fingerprints differ in {} of 256 buckets",
                buckets.len()
            ),
            Difference::Order => write!(f, "it is not in the order that the log says"),
            Difference::Refused { why } => write!(f, "it is refused: {why}"),
            Difference::EntriesMissing { first, last } if first == last => {
                write!(f, "entry {first} is missing from the log")
            }
            Difference::EntriesMissing { first, last } => {
                write!(f, "entries {first} to {last} are missing from the log")
            }
            Difference::Folder => write!(f, "a directory is in its place"),
            Difference::NoFile { found } => write!(f, "{found} is in its place"),
            Difference::Contradicts { why } => write!(f, "it contradicts the log's entries: {why}"),
            Difference::Pointer { to: Some(version) } => write!(
                f,
                "it leads to version {version}, which has no checkpoint that can be read"
            ),
            Difference::Pointer { to: None } => {
                write!(f, "it leads to no checkpoint: it cannot be read")
            }
            Difference::Frontier { why } => write!(f, "no writer can have put it: {why}"),
            Difference::Nulls { times, diffs } => {
                let of = [(times, "mv_time"), (diffs, "mv_diff")];
                let of = of.iter().filter(|(rows, _)| **rows > 0);
                let of: Vec<_> = of
                    .map(|(rows, name)| format!("{rows} of its rows have no {name}"))
                    .collect();
                write!(f, "{}", of.join(", and "))
            }
            Difference::Changed => write!(f, "it changed while the repair was under way"),
            Difference::Multiplicity { rows } => {
                write!(
                    f,
                    "{rows} different rows are there more often than 64 bits can say"
                )
            }
        }
    }
}

/// What one file is.
#[derive(Debug, Default)]
struct Examined {
    rows: u64,
    bytes: u64,
    /// The least and the greatest.
    times: Option<(i64, i64)>,
    sums: Sums,
    /// Rows of another program without a time, and without a multiplicity.
    nulls: (u64, u64),
    differences: Vec<Difference>,
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
        let mut survey = self.survey(on_retry).await?.ok_or_else(no_shard)?;
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
            Some(state) => {
                let is_edited = survey.is_edited;
                self.examine_files(state, is_edited, progress).await?
            }
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
        is_edited: bool,
        progress: OnFile<'_>,
    ) -> Result<VerifyReport, Error> {
        let all = state.files();
        let files: Vec<Arc<DataFile>> = all.values().cloned().collect();
        let mut report = VerifyReport::of(state.version, files.len());
        let (schema, upper) = (state.schema(), state.progress().upper);
        let multiplicities = Arc::new(Mutex::new(Multiplicities::default()));
        let mut examined = stream::iter(files)
            .map(|file| {
                let (schema, rows) = (Arc::clone(&schema), Arc::clone(&multiplicities));
                async move { (Arc::clone(&file), self.examine(file, schema, rows).await) }
            })
            .buffer_unordered(FILES_AT_ONCE);
        let mut done = 0;
        let mut replaced = Vec::new();
        while let Some((file, found)) = examined.next().await {
            let mut found = found?;
            found.judge_nulls(&file, is_edited, &mut report.notes);
            let has_other_rows = |found: &Difference| matches!(found, Difference::Sums { .. });
            if found.differences.iter().any(has_other_rows) {
                replaced.push((file.path.clone(), found.sums.clone()));
            }
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
            let differences = found.differences.into_iter();
            report
                .findings
                .extend(differences.map(|difference| Finding {
                    path: file.path.clone(),
                    difference,
                }));
            done += 1;
            progress(VerifyProgress {
                done,
                files: report.files,
                rows: report.rows,
            });
        }
        drop(examined);
        for (path, sums) in replaced {
            let is_it =
                |file: &&Arc<DataFile>| file.path != path && file.sums.as_ref() == Some(&sums);
            if let Some(other) = all.values().find(is_it) {
                let text = format!(
                    "its rows are those of {}: a copy of that is in its place",
                    other.path
                );
                report.notes.push(Note { path, text });
            }
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

    /// How the file differs from what the log says of it, now.
    pub(crate) async fn differences(
        &self,
        file: &Arc<DataFile>,
        state: &State,
    ) -> Result<Vec<Difference>, Error> {
        let examined = self.examine(Arc::clone(file), state.schema(), Arc::default());
        Ok(examined.await?.differences)
    }

    async fn examine(
        &self,
        file: Arc<DataFile>,
        schema: Arc<Schema>,
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
        self.env
            .cpu
            .run(move || examine(&file, bytes, &schema, &multiplicities))
            .await
    }
}

impl Examined {
    /// Rows of another program without a time are rows at the upper at which they were seen, and those without a
    /// multiplicity are there once. Other readers see that otherwise; once a sink has answered the edit, nobody does.
    fn judge_nulls(&mut self, file: &DataFile, is_edited: bool, notes: &mut Vec<Note>) {
        let (times, diffs) = self.nulls;
        if times == 0 && diffs == 0 {
            return;
        }
        let nulls = Difference::Nulls { times, diffs };
        if is_edited || file.sums.is_some() {
            self.differences.push(nulls);
            return;
        }
        notes.push(Note {
            path: file.path.clone(),
            text: format!("{nulls}; a sink has answered that"),
        });
    }
}

fn bounds(file: &DataFile) -> Option<(i64, i64)> {
    file.min_time.zip(file.max_time)
}

fn examine(
    file: &DataFile,
    bytes: Bytes,
    schema: &Schema,
    multiplicities: &Mutex<Multiplicities>,
) -> Examined {
    let mut examined = Examined {
        bytes: bytes.len() as u64,
        ..Examined::default()
    };
    if let Some(Damage::Size { expected, found }) = differs(file, examined.bytes) {
        examined
            .differences
            .push(Difference::Size { expected, found });
    }
    if let Err(error) = compare(file, bytes, schema, multiplicities, &mut examined) {
        examined.differences.push(match error {
            // The finding names the file already.
            Error::Corrupt { why, .. } | Error::Row { why, .. } => Difference::Unreadable { why },
            Error::UnsupportedFile { why, .. } => Difference::Refused { why },
            error => Difference::Unreadable {
                why: error.to_string(),
            },
        });
    }
    examined
}

fn compare(
    file: &DataFile,
    bytes: Bytes,
    schema: &Schema,
    multiplicities: &Mutex<Multiplicities>,
    examined: &mut Examined,
) -> Result<(), Error> {
    let mut fingerprints = Fingerprints::new(schema)?;
    let mut rows = Vec::new();
    let mut times: Option<(i64, i64)> = None;
    let mut unfit = Unfit::default();
    for batch in decode_file(&file.path, bytes, None, BATCH_ROWS)? {
        let batch = batch?;
        examined.rows += batch.num_rows() as u64;
        examined.nulls.0 += nulls(&batch, TIME_COLUMN);
        examined.nulls.1 += nulls(&batch, DIFF_COLUMN);
        rows.clear();
        fingerprints.add_each(&batch, |hash, diff| rows.push((hash, diff)))?;
        lock(multiplicities).add(&file.path, &rows);
        if file.sums.is_none() {
            unfit.merge(unfit_for_any_type(&batch)?);
        }
        times = match (times, range(&batch, file.sums.is_some())?) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }
    examined.times = times;
    examined.sums = fingerprints.sums();
    let found = &mut examined.differences;
    if let Some(why) = unfit.why {
        let rows = unfit.rows;
        found.push(Difference::Unfit { rows, why });
    }
    if let Some(expected) = file.rows.filter(|expected| *expected != examined.rows) {
        found.push(Difference::Rows {
            expected,
            found: examined.rows,
        });
    }
    if let (Some(expected), Some(times)) = (bounds(file), times)
        && (times.0 < expected.0 || expected.1 < times.1)
    {
        found.push(Difference::Times {
            expected,
            found: times,
        });
    }
    if let Some(expected) = &file.sums {
        let mut difference = examined.sums.clone();
        difference.subtract(expected);
        if !difference.is_zero() {
            found.push(Difference::Sums {
                buckets: difference.buckets().map(|(bucket, _)| bucket).collect(),
            });
        }
    }
    if file.sorted && !fingerprints.sorted {
        found.push(Difference::Order);
    }
    Ok(())
}

/// The rows that have nothing in this column.
fn nulls(batch: &RecordBatch, column: &str) -> u64 {
    let column = batch.column_by_name(column);
    column.map_or(batch.num_rows(), |column| column.null_count()) as u64
}

/// The least and greatest time of a batch. Others may write nulls, which have no time; in a file of ours one is a
/// time below all.
fn range(batch: &RecordBatch, nulls_count: bool) -> Result<Option<(i64, i64)>, Error> {
    let times = match batch.column_by_name(TIME_COLUMN) {
        Some(times) => conform(times, &DataType::Int64),
        None => Ok(new_null_array(&DataType::Int64, batch.num_rows())),
    };
    let times = times.map_err(|why| Error::Row {
        type_name: "a row of data".into(),
        why: format!("the column {TIME_COLUMN}: {why}"),
    })?;
    let times = times.as_primitive::<Int64Type>();
    let nulls = nulls_count && times.null_count() > 0;
    let there = || times.iter().flatten();
    let least = nulls.then_some(NO_TIME).or_else(|| there().min());
    Ok(least.zip(there().max().or(least)))
}
