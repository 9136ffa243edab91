//! Verification: whether the files of a shard are what the log says of them.
//!
//! ```text
//!   for each live file:   it is there, of its size · it can be read · its rows are as many as said
//!                         min ≤ mv_time ≤ max · Σ hash(row) × diff = its sums
//! ```
//!
//! The sums say that the rows are right, the bounds when they are: sums ignore times. All files are looked at,
//! whatever was found before, and each finding names its file. What the log says nothing of (files of other
//! programs) can only be read.
//!
//! A few files are in memory at a time; reading and hashing is done on the pool.

use std::fmt;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch, new_null_array};
use arrow_schema::{DataType, Schema};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

use crate::codec::{NO_TIME, Unfit, unfit_for_any_type};
use crate::conform::conform;
use crate::data_file::DataFile;
use crate::error::Error;
use crate::file::decode_file;
use crate::log::state::State;
use crate::pinned::Pinned;
use crate::row_hash::Fingerprints;
use crate::schema::TIME_COLUMN;
use crate::shard::Shard;
use crate::storage::Storage;
use crate::sums::Sums;

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
    /// The version of the log that was verified.
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
    /// The differences, in the order of the files' paths.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// True if no file differs from what the log says of it.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// A file that is not what the log says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Its path in the log.
    pub path: String,
    /// How it differs.
    pub difference: Difference,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.difference)
    }
}

/// How a file differs from what the log says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// It is not there.
    Missing,
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
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Missing => write!(f, "it is missing"),
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
        }
    }
}

/// What one file is.
#[derive(Debug, Default)]
struct Examined {
    rows: u64,
    bytes: u64,
    has_times: bool,
    sums: Sums,
    differences: Vec<Difference>,
}

impl Shard {
    /// Reads all live files and compares them with what the log says of them. The log is read to its end first.
    ///
    /// Errors that may pass are retried for ever, with a warning each. A file that cannot be read is a finding.
    /// `progress` is called after each file. Dropping the future is safe at any time.
    ///
    /// # Errors
    /// If the log cannot be read, or the runtime shuts down.
    pub async fn verify(
        &self,
        progress: &(dyn Fn(VerifyProgress) + Send + Sync),
    ) -> Result<VerifyReport, Error> {
        self.refresh().await?;
        let (pinned, schema): (Pinned, _) = (self.pin(), self.schema());
        let mut report = VerifyReport {
            version: pinned.progress.version,
            files: pinned.files().len(),
            rows: 0,
            bytes: 0,
            without_sums: 0,
            without_times: 0,
            removed: 0,
            sums: Sums::default(),
            findings: Vec::new(),
        };
        let files: Vec<Arc<DataFile>> = pinned.files().cloned().collect();
        let mut examined = stream::iter(files)
            .map(|file| {
                let schema = Arc::clone(&schema);
                async move { (Arc::clone(&file), self.examine(file, schema).await) }
            })
            .buffer_unordered(FILES_AT_ONCE);
        let mut done = 0;
        while let Some((file, found)) = examined.next().await {
            let found = found?;
            report.rows += found.rows;
            report.bytes += found.bytes;
            report.sums.merge(&found.sums);
            report.without_sums += usize::from(file.sums.is_none());
            report.without_times += usize::from(found.has_times && bounds(&file).is_none());
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
        let is_missing = |finding: &Finding| finding.difference == Difference::Missing;
        if report.findings.iter().any(is_missing) {
            // Somebody may have removed it, and then deleted it, as is their right.
            self.refresh().await?;
            let before = report.findings.len();
            report.findings.retain(|finding| {
                let is_live = |state: &State| state.is_live(&finding.path);
                !is_missing(finding) || self.inner().with_state(is_live)
            });
            report.removed = before - report.findings.len();
        }
        report.findings.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(report)
    }

    async fn examine(&self, file: Arc<DataFile>, schema: Arc<Schema>) -> Result<Examined, Error> {
        let storage = &self.inner().storage;
        let read = || self.read_any_file(&file.path);
        let bytes = match storage.retry(&Storage::warn_of_retry, read).await {
            Ok(bytes) => bytes,
            Err(Error::Shutdown) => return Err(Error::Shutdown),
            Err(error) => {
                let difference = match error {
                    Error::MissingFile { .. } => Difference::Missing,
                    error => Difference::Unreadable {
                        why: error.to_string(),
                    },
                };
                return Ok(Examined {
                    differences: vec![difference],
                    ..Examined::default()
                });
            }
        };
        storage
            .env
            .cpu
            .run(move || examine(&file, bytes, &schema))
            .await
    }
}

fn bounds(file: &DataFile) -> Option<(i64, i64)> {
    file.min_time.zip(file.max_time)
}

fn examine(file: &DataFile, bytes: Bytes, schema: &Schema) -> Examined {
    let mut examined = Examined {
        bytes: bytes.len() as u64,
        ..Examined::default()
    };
    if examined.bytes != file.size {
        examined.differences.push(Difference::Size {
            expected: file.size,
            found: examined.bytes,
        });
    }
    if let Err(error) = compare(file, bytes, schema, &mut examined) {
        let why = match error {
            // The finding names the file already.
            Error::Corrupt { why, .. }
            | Error::UnsupportedFile { why, .. }
            | Error::Row { why, .. } => why,
            error => error.to_string(),
        };
        examined.differences.push(Difference::Unreadable { why });
    }
    examined
}

fn compare(
    file: &DataFile,
    bytes: Bytes,
    schema: &Schema,
    examined: &mut Examined,
) -> Result<(), Error> {
    let mut fingerprints = Fingerprints::new(schema)?;
    let mut times: Option<(i64, i64)> = None;
    let mut unfit = Unfit::default();
    for batch in decode_file(&file.path, bytes, None, BATCH_ROWS)? {
        let batch = batch?;
        examined.rows += batch.num_rows() as u64;
        fingerprints.add(&batch)?;
        if file.sums.is_none() {
            unfit.merge(unfit_for_any_type(&batch)?);
        }
        times = match (times, range(&batch, file.sums.is_some())?) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }
    examined.has_times = times.is_some();
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
