//! Local writes that were cut off.
//!
//! A local store writes `name#1` and links it to `name`. A process that is killed in between leaves it, and listings
//! of the store do not show it: so the directories are read by themselves.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::GcSpared;

/// A local write that was cut off.
pub(super) struct Leftover {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) deleted: bool,
    /// Why it was not.
    pub(super) spared: GcSpared,
}

/// Deletes local writes that were cut off: `name#1` beside `name`, which listings of the store do not show. What
/// cannot be read is left to the next pass.
pub(super) fn leftovers(folder: &Path, min_age: Duration, dry_run: bool) -> Vec<Leftover> {
    let mut newest = SystemTime::UNIX_EPOCH;
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
            newest = newest.max(modified);
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
        let age = newest.duration_since(modified).unwrap_or_default();
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
