//! Local writes that were cut off.
//!
//! A local store writes `name#1` and links it to `name`. A process that is killed in between leaves it, and listings
//! of the store do not show it: so the directories are read by themselves.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use object_store::path::Path as ObjectPath;

use super::GcSpared;
use crate::storage::Storage;

/// A local write that was cut off.
pub(super) struct Leftover {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) deleted: bool,
    /// Why it was not.
    pub(super) spared: GcSpared,
}

impl Storage {
    /// Gives the present to these objects, if they are local files: their times cannot be, and they are to become old.
    pub(super) async fn give_present(&self, objects: Vec<ObjectPath>, now: SystemTime) {
        let Some(folder) = self.local.clone().filter(|_| !objects.is_empty()) else {
            return;
        };
        let work = move || {
            let files = objects.iter().map(|object| folder.join(object.as_ref()));
            files.for_each(|path| give_present(&path, now));
        };
        // What it could not do is left to the next pass.
        let _ = self.env.handle.spawn_blocking(work).await;
    }
}

fn give_present(path: &Path, now: SystemTime) {
    let file = File::options().write(true).open(path);
    if let Err(error) = file.and_then(|file| file.set_modified(now)) {
        tracing::debug!(path = %path.display(), %error, "a file keeps a time that cannot be");
    }
}

/// Deletes local writes that were cut off: `name#1` beside `name`, which listings of the store do not show. What
/// cannot be read is left to the next pass. `now` is the store's time.
pub(super) fn leftovers(
    folder: &Path,
    now: SystemTime,
    min_age: Duration,
    dry_run: bool,
) -> Vec<Leftover> {
    let mut found: Vec<(PathBuf, String, SystemTime, u64)> = Vec::new();
    for below in ["", "_delta_log"] {
        let Ok(entries) = std::fs::read_dir(folder.join(below)) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let Ok(modified) = metadata.modified() else {
                continue;
            };
            if !metadata.is_file() {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let cut_off = name.rsplit_once('#').is_some_and(|(name, number)| {
                (name.ends_with(".parquet")
                    || name.ends_with(".json")
                    || name == "_last_checkpoint")
                    && !number.is_empty()
                    && number.bytes().all(|byte| byte.is_ascii_digit())
            });
            if cut_off {
                let shown = Path::new(below).join(&name);
                let shown = shown.to_string_lossy().into_owned();
                found.push((entry.path(), shown, modified, metadata.len()));
            }
        }
    }
    let delete = |(path, name, modified, bytes): (PathBuf, String, SystemTime, u64)| {
        if modified > now && !dry_run {
            give_present(&path, now);
        }
        let age = now.duration_since(modified).unwrap_or_default();
        let old = age >= min_age;
        let deleted = old && (dry_run || std::fs::remove_file(path).is_ok());
        Leftover {
            name,
            bytes,
            deleted,
            spared: if old {
                GcSpared::Failed
            } else {
                GcSpared::Young
            },
        }
    };
    found.into_iter().map(delete).collect()
}
