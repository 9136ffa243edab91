//! What those who put a file into the table said of it, where its rows are not what the log says of them now.
//!
//! Tags say what rows a sink wrote. Another program may add the file again with other ones, or put ours on a file of its own. Then
//! the tags are wrong, and the rows are as they were written:
//!
//! ```text
//!   first named by a sink        its entry has the sums of the rows, and their times or bounds for them
//!   named by others alone        nothing but the rows tells what they are
//!   otherwise, or not known      the rows are others than were written
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;

use super::Difference;
use super::examine::Examined;
use crate::data_file::{Adder, DataFile, has_drawn_name};
use crate::error::Error;
use crate::frontier::Frontier;
use crate::log::action::Commit;
use crate::log::entry_path;
use crate::log::state::State;
use crate::storage::Storage;

/// Log entries read at once.
const READ_AT_ONCE: u64 = 32;

/// Who put a file into the table, and what they said.
#[derive(Debug)]
enum Origin {
    Sink {
        file: Box<DataFile>,
        /// Where the entry moved the upper from and to, if it did.
        moved: Option<(Frontier<i64>, Frontier<i64>)>,
    },
    Other,
}

impl Origin {
    /// Of a file that the commit adds; with its rows or not.
    fn of(commit: &Commit) -> impl Fn(DataFile, bool) -> Self {
        let info = commit.info.as_ref();
        let moved = info.and_then(|info| info.lower.zip(info.upper));
        let frontier = Frontier::from_version;
        let moved = moved.map(|(lower, upper)| (frontier(lower), frontier(upper)));
        let moved = moved.filter(|(lower, upper)| lower < upper);
        let adder = Adder::of(commit);
        move |file, is_new| match adder {
            Adder::Sink => Origin::Sink {
                file: Box::new(file),
                // Of a file that it only names again they say nothing.
                moved: moved.filter(|_| is_new),
            },
            _ => Origin::Other,
        }
    }

    /// True if the rows that were found are as they were written.
    fn vouches_for(&self, found: &Examined) -> bool {
        let (file, moved) = match self {
            Origin::Other => return true,
            Origin::Sink { file, moved } => (file, moved),
        };
        let is_of = |(first, last): (i64, i64)| {
            let said = file.min_time.zip(file.max_time);
            said.is_some_and(|said| said.0 <= first && last <= said.1)
                || moved.is_some_and(|(lower, upper)| {
                    !lower.is_complete(&first) && upper.is_complete(&last)
                })
        };
        file.sums.as_ref() == Some(&found.sums) && found.times.is_none_or(is_of)
    }
}

/// Who added these files first, by their keys, as far as entries tell. A sink that has told what the rows of another
/// program's merge add up to, and has looked at them, comes before that.
#[derive(Debug, Default)]
struct Origins {
    first: BTreeMap<String, Origin>,
    /// The log begins with its first entry.
    is_whole: bool,
}

impl Origins {
    /// An earlier one than those that are known.
    fn add(&mut self, key: String, origin: Origin) {
        let is_told = match self.first.get(&key) {
            Some(Origin::Sink { file, .. }) => file.sums.is_some(),
            Some(Origin::Other) | None => false,
        };
        if !(is_told && matches!(origin, Origin::Other)) {
            self.first.insert(key, origin);
        }
    }
}

impl Storage {
    /// Tells files of this state whose tags are wrong from those that have other rows than were written, where these differ.
    ///
    /// # Errors
    /// [`Error::Shutdown`], and permanent ones of the store.
    pub(crate) async fn tell_tags(
        &self,
        state: &State,
        examined: &mut [(Arc<DataFile>, Examined)],
    ) -> Result<(), Error> {
        let is_open = |(_, found): &&(Arc<DataFile>, Examined)| {
            found.is_whole && !found.differences.is_empty()
        };
        let open = examined.iter().filter(is_open);
        let keys: BTreeSet<_> = open
            .map(|(file, _)| self.root.key(&file.path).into_owned())
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let origins = self.origins(state.version, &keys).await?;
        for (file, found) in examined {
            let key = self.root.key(&file.path);
            let origin = origins.first.get(&*key).filter(|_| keys.contains(&*key));
            let origin = origin.filter(|origin| match origin {
                Origin::Sink { .. } => true,
                // One of ours may have been added before.
                Origin::Other => origins.is_whole || !has_drawn_name(&file.path),
            });
            if let Some(origin) = origin {
                found.is_of_other = matches!(origin, Origin::Other);
                found.is_as_written |= !found.is_of_other && origin.vouches_for(found);
                if file.sums.is_some() && origin.vouches_for(found) {
                    blame_tags(&mut found.differences);
                }
            }
        }
        Ok(())
    }

    async fn origins(&self, last: u64, keys: &BTreeSet<String>) -> Result<Origins, Error> {
        let mut origins = Origins::default();
        let mut end = last + 1;
        while end > 0 {
            let begin = end.saturating_sub(READ_AT_ONCE);
            let reads = (begin..end).rev().map(|version| async move {
                let path = entry_path(version);
                let read = self.get_retrying(&path, &Storage::warn_of_retry).await;
                (version, read)
            });
            for (version, read) in join_all(reads).await {
                let Some(bytes) = read? else {
                    return Ok(origins);
                };
                let commit = match self.parse(version, bytes).await {
                    Err(Error::Corrupt { .. }) => return Ok(origins),
                    parsed => parsed?,
                };
                let (adder, origin) = (Adder::of(&commit), Origin::of(&commit));
                for add in &commit.adds {
                    let key = self.root.key(&add.path);
                    if keys.contains(&*key) {
                        let file = DataFile::from_add(add, adder);
                        origins.add(key.into_owned(), origin(file, add.data_change));
                    }
                }
            }
            end = begin;
        }
        origins.is_whole = true;
        Ok(origins)
    }
}

/// What differs is not the rows, but the tags.
fn blame_tags(differences: &mut Vec<Difference>) {
    let is_tag = |found: &Difference| {
        matches!(
            found,
            Difference::Sums { .. } | Difference::Times { .. } | Difference::Rows { .. }
        )
    };
    let is_needed =
        |found: &Difference| matches!(found, Difference::Sums { .. } | Difference::Times { .. });
    if !differences.iter().any(is_needed) {
        return;
    }
    let wrong: Vec<String> = differences
        .iter()
        .filter_map(|found| match found {
            Difference::Sums { buckets } => Some(format!(
                "fingerprints differ in {} of 256 buckets",
                buckets.len()
            )),
            found if is_tag(found) => Some(found.to_string()),
            _ => None,
        })
        .collect();
    differences.retain(|found| !is_tag(found));
    let why = wrong.join(", and ");
    differences.push(Difference::Tags { why });
}
