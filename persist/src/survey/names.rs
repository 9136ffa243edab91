//! What lies in a log's folder, by its names.

use std::collections::{BTreeMap, BTreeSet};

use object_store::ObjectMeta;
use object_store::path::Path;

use crate::error::Error;
use crate::log::checkpoint::{LogFile, checkpoint_path};
use crate::log::{entry_path, folder};
use crate::storage::{OnRetry, Storage, no_file};

/// Missing parts that are named.
const PARTS_NAMED_MAX: u64 = 16;

/// The names of a log's folder.
pub(crate) struct Listing {
    /// The files, ascending by version.
    pub(crate) objects: Vec<(LogFile, ObjectMeta)>,
    /// What has the name of a file and is none, in words; only local stores have such things.
    pub(super) no_files: Vec<(LogFile, &'static str)>,
}

/// A checkpoint in a form that is not read: in several parts, or of the second form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OtherForm {
    /// Its first file.
    pub(crate) path: Path,
    /// The parts that are not there; none if it is whole.
    pub(crate) missing: Vec<Path>,
}

impl Listing {
    /// The versions of the files of one kind.
    pub(super) fn versions(&self, kind: fn(u64) -> LogFile) -> Vec<u64> {
        let of_kind =
            |(file, _): &(LogFile, _)| (*file == kind(file.version())).then_some(file.version());
        self.objects.iter().filter_map(of_kind).collect()
    }

    /// The checkpoints in other forms. If several of one version are there, a whole one counts.
    pub(super) fn other_forms(&self) -> BTreeMap<u64, OtherForm> {
        let mut forms: BTreeMap<u64, OtherForm> = BTreeMap::new();
        let mut parts: BTreeMap<(u64, u64), (Path, BTreeSet<u64>)> = BTreeMap::new();
        for (file, object) in &self.objects {
            let LogFile::OtherCheckpoint(version) = *file else {
                continue;
            };
            let path = || object.location.clone();
            match object.location.filename().and_then(part) {
                Some((number, of)) => {
                    let known = parts.entry((version, of));
                    known
                        .or_insert_with(|| (path(), BTreeSet::new()))
                        .1
                        .insert(number);
                }
                None => {
                    let whole = OtherForm {
                        path: path(),
                        missing: Vec::new(),
                    };
                    forms.insert(version, whole);
                }
            }
        }
        for ((version, of), (path, there)) in parts {
            let missing = (1..=of).filter(|number| !there.contains(number));
            let missing = missing.take(PARTS_NAMED_MAX as usize);
            let missing = missing
                .map(|number| part_path(version, number, of))
                .collect();
            let form = OtherForm { path, missing };
            let known = forms.get(&version);
            if known.is_none_or(|known| known.missing.len() > form.missing.len()) {
                forms.insert(version, form);
            }
        }
        forms
    }
}

/// The number of a part of a checkpoint, and how many there are.
fn part(name: &str) -> Option<(u64, u64)> {
    let mut words = name.split('.').skip(2);
    let (number, of) = (words.next()?, words.next()?);
    let (number, of) = (number.parse().ok()?, of.parse().ok()?);
    (words.next() == Some("parquet") && words.next().is_none() && (1..=of).contains(&number))
        .then_some((number, of))
}

fn part_path(version: u64, number: u64, of: u64) -> Path {
    folder().join(format!(
        "{version:020}.checkpoint.{number:010}.{of:010}.parquet"
    ))
}

/// Where a file of this kind lies, if it is an entry or a checkpoint in one file.
pub(super) fn path_of(file: LogFile) -> Path {
    match file {
        LogFile::Checkpoint(version) => checkpoint_path(version),
        file => entry_path(file.version()),
    }
}

impl Storage {
    /// The files of the log and what has their names, ascending by version.
    pub(crate) async fn list_names(&self, on_retry: OnRetry<'_>) -> Result<Listing, Error> {
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
            no_files: self.list_no_files().await?,
        })
    }

    /// What has the name of a file in the log's folder and is none.
    async fn list_no_files(&self) -> Result<Vec<(LogFile, &'static str)>, Error> {
        let Some(local) = &self.local else {
            return Ok(Vec::new());
        };
        let path = local.join(folder().as_ref());
        let list = move || {
            let Ok(entries) = std::fs::read_dir(path) else {
                return Vec::new();
            };
            let mut named: Vec<_> = entries
                .flatten()
                .filter_map(|entry| {
                    let file = LogFile::from_name(entry.file_name().to_str()?)?;
                    Some((file, no_file(&entry.path())?))
                })
                .collect();
            named.sort_unstable_by_key(|(file, _)| file.version());
            named
        };
        let listed = self.env.handle.spawn_blocking(list).await;
        listed.map_err(|_| Error::Shutdown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_their_names() {
        let name = part_path(7, 2, 3).to_string();
        assert_eq!(part(name.rsplit('/').next().unwrap()), Some((2, 3)));
        for other in [
            "00000000000000000007.checkpoint.3a0d65cd-4056-49b8-937b-95f9e3ee90e5.parquet",
            "00000000000000000007.checkpoint.0000000004.0000000003.parquet",
            "00000000000000000007.checkpoint.parquet",
        ] {
            assert_eq!(part(other), None, "{other}");
        }
    }
}
