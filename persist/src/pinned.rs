//! Versions that readers of this process hold on to.
//!
//! ```text
//!   Pinned(v) lives  ⇒  no garbage collection of this process deletes a file that is live at v
//! ```
//!
//! The registry knows the pinned versions with their files (shared, so a pin costs little), and the garbage
//! collector asks it about each path. Other processes know nothing of it: for them a reader takes a hold.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::sync::{Arc, Mutex};

use object_store::path::Path;

use crate::data_file::DataFile;
use crate::error::Error;
use crate::frontier::Frontier;
use crate::lock;
use crate::log::state::{Files, Progress, State};
use crate::sums::Sums;

/// The versions pinned in this process, each with its readers' count and its files.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    versions: Mutex<BTreeMap<u64, (usize, Files)>>,
}

impl Pins {
    /// Pins the version of `state`.
    pub(crate) fn pin(self: &Arc<Self>, url: &Arc<str>, state: &State) -> Pinned {
        let (progress, files) = (state.progress(), state.files());
        lock(&self.versions)
            .entry(progress.version)
            .or_insert_with(|| (0, files.clone()))
            .0 += 1;
        Pinned {
            progress,
            url: Arc::clone(url),
            files,
            _registration: Arc::new(Registration {
                pins: Arc::clone(self),
                version: progress.version,
            }),
        }
    }

    /// True if what lies there below the table is live in a pinned version.
    pub(crate) fn contains_at(&self, location: &Path) -> bool {
        let versions = lock(&self.versions);
        let mut files = versions.values().map(|(_, files)| files);
        files.any(|files| files.get_at(location).is_some())
    }
}

/// One pin; it ends with this.
#[derive(Debug)]
struct Registration {
    pins: Arc<Pins>,
    version: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let MapEntry::Occupied(mut pinned) = lock(&self.pins.versions).entry(self.version) {
            pinned.get_mut().0 -= 1;
            if pinned.get().0 == 0 {
                pinned.remove();
            }
        }
    }
}

/// A shard at one version: what a reader of a snapshot holds on to. While it or a clone of it lives, this process's
/// garbage collection keeps the version's files.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pinned {
    /// How far the shard was.
    pub progress: Progress,
    url: Arc<str>,
    files: Files,
    _registration: Arc<Registration>,
}

/// The files of a version, which this does not keep: what their log said of them stays known all the same.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileSet {
    /// The version.
    pub version: u64,
    files: Files,
}

impl FileSet {
    /// What tells files apart: all spellings of a file's path in the log have one key.
    pub fn file_key<'p>(&self, path: &'p str) -> Cow<'p, str> {
        self.files.root().key(path)
    }

    pub(crate) fn of(state: &State) -> Self {
        FileSet {
            version: state.progress().version,
            files: state.files(),
        }
    }

    /// What `later` has and this set has not, and what this has and `later` has not, in the order of their paths. A path
    /// whose file has another size is among both.
    pub fn changes_to(&self, later: &FileSet) -> (Vec<Arc<DataFile>>, Vec<Arc<DataFile>>) {
        let same = |a: &Arc<DataFile>, b: &Arc<DataFile>| Arc::ptr_eq(a, b) || a.size == b.size;
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (before, after) in self.files.differences(&later.files, same) {
            removed.extend(before.cloned());
            added.extend(after.cloned());
        }
        for files in [&mut added, &mut removed] {
            files.sort_unstable_by(|a: &Arc<DataFile>, b| a.path.cmp(&b.path));
        }
        (added, removed)
    }
}

impl Pinned {
    /// The files alone, which stay known when the pin is gone.
    pub fn file_set(&self) -> FileSet {
        FileSet {
            version: self.progress.version,
            files: self.files.clone(),
        }
    }

    /// The files whose rows add up to the collection, in the order of their paths.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Arc<DataFile>> {
        let mut files: Vec<_> = self.files.values().collect();
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        files.into_iter()
    }

    /// The sums of fingerprints of the files that have any, and the number of files that have none: of another
    /// program, or of another version of the format. Without those they are the sums of the collection, at every
    /// time from the since on that is at or beyond all times in it.
    pub fn sums(&self) -> (Sums, usize) {
        let mut sums = Sums::default();
        let mut without = 0;
        for file in self.files.values() {
            match &file.sums {
                Some(of_file) => sums.merge(of_file),
                None => without += 1,
            }
        }
        (sums, without)
    }

    /// The address that the shard was first opened with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Checks that the contents at `as_of` are exact in this version: not below its since. (That they are complete
    /// takes an upper beyond `as_of` as well.)
    ///
    /// # Errors
    /// [`Error::BeforeSince`], with the since.
    pub fn check_readable(&self, as_of: i64) -> Result<(), Error> {
        let since = self.progress.since;
        if since <= Frontier::At(as_of) {
            return Ok(());
        }
        let url = self.url.to_string();
        Err(Error::BeforeSince { url, as_of, since })
    }
}
