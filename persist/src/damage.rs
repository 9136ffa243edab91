//! Live files that the store does not have as the log says.
//!
//! ```text
//!   damaged   a file that is live in the pinned version, and is missing, or of another size,
//!             but for one that was merged into others since; or is named and does not lie in the table
//! ```
//!
//! Only the store's listing is read, or the headers of a few files: damage within a file shows when that is read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::data_file::DataFile;
use crate::error::Error;
use crate::pinned::Pinned;
use crate::shard::Shard;
use crate::storage::Storage;

/// So few files are looked at one by one, without a listing.
const HEADS_MAX: usize = 32;
/// Looks under way at once.
const LOOKS_AT_ONCE: usize = 16;

/// What is wrong with a file, as far as the store tells without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// It is not there.
    Missing,
    /// It has another size, in bytes.
    Size {
        /// As in the log.
        expected: u64,
        /// As in the store.
        found: u64,
    },
    /// It does not lie among the data files of the table: nobody looks.
    Outside,
}

impl Damage {
    /// The error for a file of this name with this damage.
    pub fn into_error(self, path: String) -> Error {
        match self {
            Damage::Missing => Error::MissingFile { path },
            Damage::Outside => Error::OutsideFile { path },
            damage @ Damage::Size { .. } => Error::Corrupt {
                path,
                why: damage.to_string(),
            },
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Missing => write!(f, "it is missing"),
            Damage::Outside => write!(f, "it does not lie among the data files of the table"),
            Damage::Size { expected, found } => {
                write!(f, "it has {found} bytes, and the log says {expected}")
            }
        }
    }
}

impl Shard {
    /// The files of this version that are missing in the store or have another size there, in the order of their paths;
    /// not those whose rows lie in other files since. Tried until the store answers.
    ///
    /// # Errors
    /// [`Error::Replaced`] if the table itself is gone, and permanent errors of the store and the log.
    pub async fn damaged_files(
        &self,
        pinned: &Pinned,
    ) -> Result<Vec<(Arc<DataFile>, Damage)>, Error> {
        let storage = &self.inner().storage;
        let mut suspects: BTreeMap<Path, Arc<DataFile>> = BTreeMap::new();
        let mut outside = Vec::new();
        for file in pinned.files() {
            match storage.data_location(&file.path) {
                Ok(location) => {
                    suspects.insert(location, Arc::clone(file));
                }
                Err(_) => outside.push((Arc::clone(file), Damage::Outside)),
            }
        }
        if suspects.len() > HEADS_MAX {
            self.acquit_listed(&mut suspects).await?;
        }
        let looks = suspects.into_iter().map(|(path, file)| async move {
            let look = || self.look_at(&path, &file);
            let damage = storage.retry(&Storage::warn_of_retry, look).await?;
            Ok::<_, Error>(damage.map(|damage| (Arc::clone(&file), damage)))
        });
        let looks = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
        let found: Vec<_> = looks.try_collect().await?;
        let mut damaged: Vec<_> = found.into_iter().flatten().chain(outside).collect();
        if !damaged.is_empty() {
            // With the table its files are gone; and whoever has merged a file may delete it.
            self.inner().check_table(&Storage::warn_of_retry).await?;
            damaged.retain(|(file, _)| {
                self.inner()
                    .with_state(|state| match state.file(&file.path) {
                        Some(live) => live.size == file.size,
                        None => state.is_removed_with_its_rows(&file.path),
                    })
            });
            damaged.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        }
        Ok(damaged)
    }

    /// Leaves those that a listing does not show with the size that the log says.
    async fn acquit_listed(
        &self,
        suspects: &mut BTreeMap<Path, Arc<DataFile>>,
    ) -> Result<(), Error> {
        let storage = &self.inner().storage;
        let root = Path::default();
        let list = || async {
            let failed = |source| storage.error("list", &root, source);
            let objects = storage.store.list(None).map_err(failed);
            let sound = objects.try_filter_map(|object| {
                let file = suspects.get(&object.location);
                let sound = file.is_some_and(|file| differs(file, object.size).is_none());
                futures::future::ready(Ok(sound.then_some(object.location)))
            });
            sound.try_collect::<Vec<_>>().await
        };
        let sound = storage.retry(&Storage::warn_of_retry, list).await?;
        for path in sound {
            suspects.remove(&path);
        }
        Ok(())
    }

    async fn look_at(&self, path: &Path, file: &DataFile) -> Result<Option<Damage>, Error> {
        let storage = &self.inner().storage;
        match storage.store.head(path).await {
            Ok(object) => Ok(differs(file, object.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(Some(Damage::Missing)),
            Err(error) => Err(storage.error("look at", path, error)),
        }
    }
}

/// How this size in the store differs from that in the log, if the log says one.
pub(crate) fn differs(file: &DataFile, found: u64) -> Option<Damage> {
    let expected = file.size;
    (expected != 0 && expected != found).then_some(Damage::Size { expected, found })
}
