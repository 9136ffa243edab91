//! The data files of a shard, as their writers and the log describe them.
//!
//! A [`StagedFile`] lies in the store and no commit refers to it yet; a [`DataFile`] is one that a commit added.
//! Of the statistics that other readers skip files by there is the number of rows; Parquet has those of chunks.
//!
//! Tags say more, and readers rely on them. Other programs may copy them to a file with other rows, so they count only
//! where they are known to be about this very file:
//!
//! ```text
//!   `mvsink.file` is there   ⇒   it names this file, with this size
//!   it is not there          ⇒   a sink's entry adds the file; or a checkpoint does, which does not say whose the entry
//!                                was, and the file has a name as sinks draw them
//! ```
//!
//! The second line is for files that earlier versions wrote.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::file::EncodedFile;
use crate::log::action::{Add, Commit, NullableMap, Remove};
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
const SORTED_TAG: &str = "mvsink.sorted";
/// The tag with the name and the size of the file that all of these are about.
const FILE_TAG: &str = "mvsink.file";
/// What the names of tags begin with that say something of a file's rows.
const OWN_TAGS: &str = "mvsink.";

/// Who has put an `add` where it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adder {
    /// A commit with the identity of a sink.
    Sink,
    /// A checkpoint, which does not say whose commit it was.
    Checkpoint,
    /// Another program.
    Other,
}

impl Adder {
    /// Of the `add`s of a log entry.
    pub(crate) fn of(commit: &Commit) -> Self {
        match commit.info.as_ref().and_then(|info| info.id) {
            Some(_) => Adder::Sink,
            None => Adder::Other,
        }
    }

    /// True if the tags are about this very file.
    fn vouches_for(self, add: &Add) -> bool {
        let name = add.path.rsplit('/').next().unwrap_or_default();
        let tag = add.tags.as_ref().and_then(|tags| tags.get(FILE_TAG));
        match (tag, self) {
            (Some(tag), _) => tag.as_deref() == Some(&file_tag(name, add.size)),
            (None, Adder::Sink) => true,
            (None, Adder::Checkpoint) => is_drawn(name),
            (None, Adder::Other) => false,
        }
    }
}

/// True of a tag that says something of a file's rows.
pub(crate) fn is_own_tag(name: &str) -> bool {
    name.starts_with(OWN_TAGS)
}

fn file_tag(name: &str, size: i64) -> String {
    format!("{name}:{size}")
}

/// True of the path of a file with a name as sinks draw them.
pub(crate) fn has_drawn_name(path: &str) -> bool {
    is_drawn(path.rsplit('/').next().unwrap_or_default())
}

/// True of the names that sinks draw for their files.
fn is_drawn(name: &str) -> bool {
    let Some(name) = name.strip_suffix(".parquet") else {
        return false;
    };
    let parts: Vec<&str> = name.split('-').collect();
    let lengths = parts.iter().map(|part| part.len());
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    lengths.eq([8, 4, 4, 4, 12]) && parts.iter().all(|part| part.bytes().all(is_hex))
}

/// Says which file the tags are about, if they say anything of its rows.
fn with_file_tag(mut tags: NullableMap, path: &str, size: i64) -> NullableMap {
    if tags.keys().any(|name| name.starts_with(OWN_TAGS)) {
        let name = path.rsplit('/').next().unwrap_or_default();
        tags.insert(FILE_TAG.to_owned(), Some(file_tag(name, size)));
    }
    tags
}

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

    fn tags(&self) -> NullableMap {
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
        let size = i64::try_from(self.size).unwrap_or(i64::MAX);
        with_file_tag(tags, &self.path, size)
    }
}

impl DataFile {
    /// A file as an `add` describes it that was put there by `adder`.
    pub(crate) fn from_add(add: &Add, adder: Adder) -> Self {
        let is_vouched_for = adder.vouches_for(add);
        // Statistics are a hint, and their form is free: what cannot be read is as good as absent.
        let stats: Value = add
            .stats
            .as_deref()
            .and_then(|stats| serde_json::from_str(stats).ok())
            .unwrap_or(Value::Null);
        let counts = |name: &str| is_vouched_for || !name.starts_with(OWN_TAGS);
        let text = |name| {
            add.tags
                .as_ref()?
                .get(name)?
                .as_deref()
                .filter(|_| counts(name))
        };
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
                .filter(|(name, _)| *name != FILE_TAG && counts(name))
                .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
                .collect(),
            sums,
            sorted: text(SORTED_TAG) == Some("true"),
            stats: add.stats.clone(),
            modification_time: add.modification_time,
        }
    }

    /// True if `add` names this very file, and says of its rows what is known of them.
    pub(crate) fn is_repeated_by(&self, add: &Add) -> bool {
        let tag = add
            .tags
            .as_ref()
            .and_then(|tags| tags.get(SUMS_TAG)?.as_deref());
        let is_same_size = u64::try_from(add.size) == Ok(self.size);
        is_same_size && self.sums.is_some() && tag.and_then(Sums::from_tag) == self.sums
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

    /// True if both are the same reference to a file, whatever is known of its rows.
    pub(crate) fn is_same_reference(&self, other: &DataFile) -> bool {
        let of = |file: &'_ DataFile| (file.size, file.modification_time);
        self.path == other.path && of(self) == of(other) && self.stats == other.stats
    }

    /// The same file, once its rows were read: they add up to this, and these are their least and greatest time.
    pub(crate) fn with_sums(&self, sums: Sums, (min, max): (i64, i64)) -> Self {
        let mut tags = self.tags.clone();
        tags.insert(MIN_TIME_TAG.to_owned(), min.to_string());
        tags.insert(MAX_TIME_TAG.to_owned(), max.to_string());
        DataFile {
            min_time: Some(min),
            max_time: Some(max),
            sums: Some(sums),
            tags,
            ..self.clone()
        }
    }

    /// A file as its removal describes it.
    pub(crate) fn from_remove(remove: &Remove) -> Self {
        let add = Add {
            path: remove.path.clone(),
            size: remove.size.unwrap_or(0),
            ..Add::default()
        };
        DataFile::from_add(&add, Adder::Other)
    }

    /// The action that a checkpoint has for the file.
    pub(crate) fn to_add(&self) -> Add {
        let sums = self.sums.as_ref().map(Sums::to_tag);
        let size = i64::try_from(self.size).unwrap_or(i64::MAX);
        let tags = self.tags.iter();
        let tags = tags
            .map(|(name, value)| (name.clone(), Some(value.clone())))
            .chain(sums.map(|sums| (SUMS_TAG.to_owned(), Some(sums))))
            .collect();
        Add {
            path: self.path.clone(),
            partition_values: Some(BTreeMap::new()),
            size,
            modification_time: self.modification_time,
            data_change: false,
            stats: self.stats.clone(),
            tags: Some(with_file_tag(tags, &self.path, size)),
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
        let file = DataFile::from_add(&add, Adder::Sink);
        assert_eq!(
            (file.rows, file.min_time, file.max_time),
            (Some(3), Some(5), Some(9))
        );
        assert_eq!((&file.sums, file.sorted), (&staged.meta.sums, true));
        assert_eq!(file.tags["a"], "b");
        assert_eq!(DataFile::from_add(&file.to_add(), Adder::Checkpoint), file);
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
        let file = DataFile::from_add(&add, Adder::Sink);
        assert_eq!((file.max_time, file.summed()), (Some(9), None));
        add.stats = Some(json!({"numRecords": 0}).to_string());
        assert!(DataFile::from_add(&add, Adder::Sink).summed().is_some());
    }

    #[test]
    fn tags_that_cannot_be_read_count_as_absent() {
        let mut add = staged().to_add();
        let tags = add.tags.as_mut().unwrap();
        tags.insert(SUMS_TAG.into(), Some("9:nonsense".into()));
        tags.insert(SORTED_TAG.into(), Some("yes".into()));
        let file = DataFile::from_add(&add, Adder::Sink);
        assert_eq!((&file.sums, file.sorted), (&None, false));
        assert_eq!(file.to_add().tags, add.tags);
        let unsaid = FileMeta::default();
        let staged = StagedFile {
            meta: unsaid,
            ..staged()
        };
        let file = DataFile::from_add(&staged.to_add(), Adder::Sink);
        assert_eq!((&file.sums, file.sorted), (&None, false));
        assert!(file.tags.is_empty());
    }

    #[test]
    fn tags_count_for_the_file_that_they_are_about() {
        let said = |add: &Add, adder| {
            let file = DataFile::from_add(add, adder);
            let is_said = file.summed().is_some();
            let all = [file.sums.is_some(), file.sorted, file.min_time.is_some()];
            assert!(all == [is_said; 3] && file.tags["a"] == "b", "{file:?}");
            assert!(is_said || file.tags.len() == 1, "{file:?}");
            is_said
        };
        let all = [Adder::Sink, Adder::Checkpoint, Adder::Other];
        let add = staged().to_add();
        assert!(all.iter().all(|adder| said(&add, *adder)));
        let spelled = Add {
            path: "./x.parquet".into(),
            ..add.clone()
        };
        assert!(all.iter().all(|adder| said(&spelled, *adder)));
        let named = |path: &str| Add {
            path: path.into(),
            ..add.clone()
        };
        let larger = Add {
            size: add.size + 1,
            ..add.clone()
        };
        for copied in [larger, named("y.parquet"), named("x.parquet/y")] {
            assert!(!all.iter().any(|adder| said(&copied, *adder)), "{copied:?}");
        }
        // As earlier versions wrote them.
        let former = |path: &str| {
            let mut add = named(path);
            add.tags.as_mut().unwrap().remove(FILE_TAG);
            all.map(|adder| said(&add, adder))
        };
        assert_eq!(former("x.parquet"), [true, false, false]);
        let drawn = "0a1b2c3d-0011-4abc-9def-001122334455.parquet";
        assert_eq!(former(drawn), [true, true, false]);
        let part = format!("part-00000-{drawn}");
        assert_eq!(former(&part), [true, false, false]);
    }
}
