//! The data files of a shard, as their writers and the log describe them.
//!
//! A [`StagedFile`] lies in the store and no commit refers to it yet; a [`DataFile`] is one that a commit added.
//! Of the statistics that other readers skip files by there is the number of rows; Parquet has those of chunks.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::file::EncodedFile;
use crate::log::action::{Add, Remove};
use crate::schema::TIME_COLUMN;
use crate::sums::Sums;

/// What the writer of a data file knows of its contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// The rows of the file.
    pub rows: u64,
    /// The least and the greatest time in it; `None` if it has no rows.
    pub times: Option<(i64, i64)>,
    /// The sums of its rows' fingerprints, if known.
    pub sums: Option<Sums>,
    /// Whether its rows are known to be in the order of their fingerprints.
    pub sorted: bool,
    /// Free to use, but for names that begin with `mvsink.`; kept in the log with the file.
    pub tags: BTreeMap<String, String>,
}

impl From<&EncodedFile> for FileMeta {
    fn from(file: &EncodedFile) -> Self {
        FileMeta {
            rows: file.rows,
            times: (file.min_time <= file.max_time).then_some((file.min_time, file.max_time)),
            sums: Some(file.sums.clone()),
            sorted: file.sorted,
            tags: BTreeMap::new(),
        }
    }
}

/// A data file in the store that is still to be committed. It may be sent to whoever commits it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StagedFile {
    /// The path relative to the shard, never used by another file.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// What its writer knows of its contents.
    pub meta: FileMeta,
    /// When it was staged, in milliseconds since 1970.
    pub staged_ms: i64,
    /// Whether it is safe in the store. If not, only the process that writes it can commit or delete it.
    pub written: bool,
}

/// A data file that a commit added.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DataFile {
    /// The path in the log: relative to the shard, percent-encoded.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// The rows, if the file's writer said; always for files of this crate.
    pub rows: Option<u64>,
    /// The least time in the file, if its writer said.
    pub min_time: Option<i64>,
    /// The greatest time in the file, if its writer said.
    pub max_time: Option<i64>,
    /// The sums of its rows' fingerprints, if its writer said. They are not repeated in the tags.
    pub sums: Option<Sums>,
    /// Whether its rows are in the order of their fingerprints; false if its writer did not say so.
    pub sorted: bool,
    /// What its writer attached to it.
    pub tags: BTreeMap<String, String>,
    /// As in the log, so that a checkpoint repeats it exactly.
    pub(crate) stats: Option<String>,
    pub(crate) modification_time: i64,
}

/// What the log says of the rows of a file of this crate's: enough to compare them without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "what rows there are, and when")]
pub struct Summed<'a> {
    /// The sums of their fingerprints.
    pub sums: &'a Sums,
    /// The least and the greatest of their times; `None` if there are no rows.
    pub times: Option<(i64, i64)>,
}

/// The rows of files, as far as their writers said how many: at most what a number holds, since other programs may say
/// anything.
pub(crate) fn rows_of<'a>(files: impl IntoIterator<Item = &'a Arc<DataFile>>) -> u64 {
    let rows = files.into_iter().filter_map(|file| file.rows);
    rows.fold(0, u64::saturating_add)
}

/// The bytes of files, as their writers said them.
pub(crate) fn bytes_of<'a>(files: impl IntoIterator<Item = &'a Arc<DataFile>>) -> u64 {
    let bytes = files.into_iter().map(|file| file.size);
    bytes.fold(0, u64::saturating_add)
}

/// The tags that hold the least and the greatest time of a file.
pub(crate) const MIN_TIME_TAG: &str = "mvsink.min_time";
pub(crate) const MAX_TIME_TAG: &str = "mvsink.max_time";
/// The tag with the sums of fingerprints.
const SUMS_TAG: &str = "mvsink.sums";
/// The tag that says, by `true`, that a file is in the order of fingerprints.
pub(crate) const SORTED_TAG: &str = "mvsink.sorted";

impl StagedFile {
    /// The same file, once it is known to be safe in the store.
    #[must_use]
    pub fn into_written(self) -> Self {
        StagedFile {
            written: true,
            ..self
        }
    }

    /// The action that makes the file part of the table.
    pub(crate) fn to_add(&self) -> Add {
        Add {
            path: self.path.clone(),
            partition_values: Some(BTreeMap::new()),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            modification_time: self.staged_ms,
            data_change: true,
            // Bounds of some columns only make the `deltalake` package prune files by the others, in its
            // dataset for PyArrow and DuckDB: so the bounds of the time are tags.
            stats: Some(json!({"numRecords": self.meta.rows}).to_string()),
            tags: Some(self.tags()),
            deletion_vector: None,
        }
    }

    fn tags(&self) -> BTreeMap<String, Option<String>> {
        let tags = self.meta.tags.iter();
        let mut tags: BTreeMap<_, _> = tags
            .map(|(name, value)| (name.clone(), Some(value.clone())))
            .collect();
        if let Some((min, max)) = self.meta.times {
            tags.insert(MIN_TIME_TAG.to_owned(), Some(min.to_string()));
            tags.insert(MAX_TIME_TAG.to_owned(), Some(max.to_string()));
        }
        if let Some(sums) = &self.meta.sums {
            tags.insert(SUMS_TAG.to_owned(), Some(sums.to_tag()));
        }
        if self.meta.sorted {
            tags.insert(SORTED_TAG.to_owned(), Some("true".to_owned()));
        }
        tags
    }
}

impl DataFile {
    pub(crate) fn from_add(add: &Add) -> Self {
        // Statistics are a hint, and their form is free: what cannot be read is as good as absent.
        let stats: Value = add
            .stats
            .as_deref()
            .and_then(|stats| serde_json::from_str(stats).ok())
            .unwrap_or(Value::Null);
        let text = |name| add.tags.as_ref()?.get(name)?.as_deref();
        let time = |name| text(name)?.parse().ok();
        let sums = text(SUMS_TAG).and_then(Sums::from_tag);
        DataFile {
            path: add.path.clone(),
            size: u64::try_from(add.size).unwrap_or(0),
            rows: stats["numRecords"].as_u64(),
            min_time: time(MIN_TIME_TAG).or_else(|| stats["minValues"][TIME_COLUMN].as_i64()),
            max_time: time(MAX_TIME_TAG).or_else(|| stats["maxValues"][TIME_COLUMN].as_i64()),
            tags: add
                .tags
                .iter()
                .flatten()
                // Thousands of characters, which the sums tell again.
                .filter(|(name, _)| *name != SUMS_TAG || sums.is_none())
                .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
                .collect(),
            sums,
            sorted: text(SORTED_TAG) == Some("true"),
            stats: add.stats.clone(),
            modification_time: add.modification_time,
        }
    }

    /// What its rows add up to and when, if its writer said both: as only this crate does.
    pub fn summed(&self) -> Option<Summed<'_>> {
        let sums = self.sums.as_ref()?;
        // Statistics, which other programs write, say nothing of nulls.
        let tagged = |tag| self.tags.contains_key(tag);
        let times = match (self.min_time, self.max_time) {
            (Some(min), Some(max)) if tagged(MIN_TIME_TAG) && tagged(MAX_TIME_TAG) => {
                Some((min, max))
            }
            _ if self.rows == Some(0) => None,
            _ => return None,
        };
        Some(Summed { sums, times })
    }

    /// A file as its removal describes it.
    pub(crate) fn from_remove(remove: &Remove) -> Self {
        DataFile::from_add(&Add {
            path: remove.path.clone(),
            size: remove.size.unwrap_or(0),
            ..Add::default()
        })
    }

    /// The action that a checkpoint has for the file.
    pub(crate) fn to_add(&self) -> Add {
        let sums = self.sums.as_ref().map(Sums::to_tag);
        Add {
            path: self.path.clone(),
            partition_values: Some(BTreeMap::new()),
            size: i64::try_from(self.size).unwrap_or(i64::MAX),
            modification_time: self.modification_time,
            data_change: false,
            stats: self.stats.clone(),
            tags: Some(
                self.tags
                    .iter()
                    .map(|(name, value)| (name.clone(), Some(value.clone())))
                    .chain(sums.map(|sums| (SUMS_TAG.to_owned(), Some(sums))))
                    .collect(),
            ),
            deletion_vector: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged() -> StagedFile {
        let mut sums = Sums::default();
        sums.add(7, 1);
        sums.add(u128::MAX, -3);
        StagedFile {
            path: "x.parquet".into(),
            size: 12,
            meta: FileMeta {
                rows: 3,
                times: Some((5, 9)),
                sums: Some(sums),
                sorted: true,
                tags: BTreeMap::from([("a".into(), "b".into())]),
            },
            staged_ms: 77,
            written: true,
        }
    }

    #[test]
    fn what_a_writer_says_survives_the_log() {
        let staged = staged();
        let add = staged.to_add();
        let file = DataFile::from_add(&add);
        assert_eq!(
            (file.rows, file.min_time, file.max_time),
            (Some(3), Some(5), Some(9))
        );
        assert_eq!((&file.sums, file.sorted), (&staged.meta.sums, true));
        assert_eq!(file.tags["a"], "b");
        assert_eq!(DataFile::from_add(&file.to_add()), file);
        assert_eq!(file.to_add().tags, add.tags);
        let sums = file.sums.as_ref().unwrap();
        let times = Some((5, 9));
        assert_eq!(file.summed(), Some(Summed { sums, times }));
    }

    #[test]
    fn bounds_that_are_only_statistics_do_not_bound_every_row() {
        let mut add = staged().to_add();
        let tags = add.tags.as_mut().unwrap();
        tags.remove(MAX_TIME_TAG);
        add.stats = Some(json!({"numRecords": 3, "maxValues": {TIME_COLUMN: 9}}).to_string());
        let file = DataFile::from_add(&add);
        assert_eq!((file.max_time, file.summed()), (Some(9), None));
        add.stats = Some(json!({"numRecords": 0}).to_string());
        assert!(DataFile::from_add(&add).summed().is_some());
    }

    #[test]
    fn tags_that_cannot_be_read_count_as_absent() {
        let mut add = staged().to_add();
        let tags = add.tags.as_mut().unwrap();
        tags.insert(SUMS_TAG.into(), Some("9:nonsense".into()));
        tags.insert(SORTED_TAG.into(), Some("yes".into()));
        let file = DataFile::from_add(&add);
        assert_eq!((&file.sums, file.sorted), (&None, false));
        assert_eq!(file.to_add().tags, add.tags);
        let unsaid = FileMeta::default();
        let staged = StagedFile {
            meta: unsaid,
            ..staged()
        };
        let file = DataFile::from_add(&staged.to_add());
        assert_eq!((&file.sums, file.sorted), (&None, false));
        assert!(file.tags.is_empty());
    }
}
