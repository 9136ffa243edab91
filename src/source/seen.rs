//! What a source has read of its shard, as files: so that it can go on from a version beyond entries that are gone.
//!
//! ```text
//!   rows read  =  rows of the files of some version  +  what the entries after it added  −  what they removed
//!   to be read, to have those of a later version  =  the rows of its files  −  rows read
//! ```
//!
//! Most files are among both, and most of the others were merged: what is left is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use mvsink_persist::{DataFile, Entry, FileSet};

use super::files::Sign;

/// More files than this are not remembered beside a version's.
const FILES_MAX: usize = 64 << 10;

/// What was read.
pub(super) struct Seen {
    files: FileSet,
    /// Files of later entries.
    later: Vec<(Sign, Arc<DataFile>)>,
    /// There were too many.
    is_lost: bool,
}

/// Files whose rows are to come, and files whose rows are to go.
pub(super) struct Changed {
    pub(super) added: Vec<Arc<DataFile>>,
    pub(super) removed: Vec<Arc<DataFile>>,
}

/// A file's key and its size: what is put in its place with another size is another one.
type FileVersion<'a> = (Cow<'a, str>, u64);

impl Seen {
    /// All rows of these files.
    pub(super) fn all_of(files: FileSet) -> Self {
        Seen {
            files,
            later: Vec::new(),
            is_lost: false,
        }
    }

    /// And the rows of this entry. `now` is the last version known.
    pub(super) fn entry(&mut self, entry: &Entry, now: FileSet) {
        if now.version == entry.version {
            *self = Seen::all_of(now);
            return;
        }
        let added = entry.adds.iter().map(|file| (Sign::Plus, file));
        let removed = entry.removes.iter().map(|file| (Sign::Minus, file));
        let changed = added.chain(removed);
        self.later
            .extend(changed.map(|(sign, file)| (sign, Arc::clone(file))));
        if self.later.len() > FILES_MAX {
            self.later = Vec::new();
            self.is_lost = true;
        }
    }

    /// What is to be read to have the rows of these files; `None` if that is not known any more.
    pub(super) fn changes_to(&self, files: &FileSet) -> Option<Changed> {
        if self.is_lost {
            return None;
        }
        let mut counts: BTreeMap<FileVersion<'_>, (i64, &Arc<DataFile>)> = BTreeMap::new();
        let (added, removed) = self.files.changes_to(files);
        let added = added.iter().map(|file| (1, file));
        let removed = removed.iter().map(|file| (-1, file));
        let later = self.later.iter().map(|(sign, file)| match sign {
            Sign::Plus => (-1, file),
            Sign::Minus => (1, file),
        });
        for (count, file) in added.chain(removed).chain(later) {
            let key = (files.file_key(&file.path), file.size);
            let known = counts.entry(key).or_insert((0, file));
            known.0 += count;
            // What the log says of its rows saves reading them.
            if file.summed().is_some() {
                known.1 = file;
            }
        }
        let files = |wanted: i64| {
            let files = counts.values().filter(move |(count, _)| *count == wanted);
            files.map(|(_, file)| Arc::clone(file)).collect()
        };
        let known = counts.values().all(|(count, _)| (-1..=1).contains(count));
        known.then(|| Changed {
            added: files(1),
            removed: files(-1),
        })
    }
}
