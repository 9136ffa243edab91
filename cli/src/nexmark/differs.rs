//! Views whose tables are not what they are to be, where no event is left with which they would be repaired.
//!
//! A view repairs its table with its next batch. So a run that ends at the last event asks each view whether it has found
//! its table to be right; and one that begins there, with nothing to feed, looks whether anybody has edited a table or
//! files of it are lost: then it has the views compared, as a run does that has something to feed.

use mvsink::mvsink_persist::{Error as ShardError, Shard};
use mvsink::{Frontier, Status};

use super::control::SOURCES;
use super::views::VIEWS;
use crate::error::Error;

/// The verdict on a view's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// It was not compared yet.
    #[default]
    Unknown,
    /// It is what it is to be.
    Right,
    /// It differs.
    Wrong(Wrong),
}

/// How a view's table differs from the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The rows, if they were counted.
    pub rows: Option<u64>,
    /// The files that cannot be used.
    pub files: Vec<String>,
    /// The upper at which that was found.
    pub upper: i64,
}

impl Check {
    /// What the status of a view's sink tells; `None` if it tells nothing new.
    pub fn of(status: &Status) -> Option<Check> {
        match status {
            Status::Unrepaired { rows, files, upper } => Some(Check::Wrong(Wrong {
                rows: *rows,
                files: files.clone(),
                upper: *upper,
            })),
            Status::Running
            | Status::StandingBy
            | Status::NonDeterministic { .. }
            | Status::ReadOnly
            // Its input does not end before the run does.
            | Status::AlreadyFinished
            | Status::Finished => Some(Check::Right),
            _ => None,
        }
    }

    /// True if it is known what there will be at this upper, and no earlier.
    pub fn is_known_at(&self, upper: i64) -> bool {
        match self {
            Check::Unknown => false,
            Check::Right => true,
            // The batch that repairs it may be on its way.
            Check::Wrong(wrong) => wrong.upper >= upper,
        }
    }
}

/// Looks at tables to which nothing is to be added: true if one of a view was edited, or lacks files. Files that a source
/// lacks are named by the summary, which reads them.
///
/// # Errors
///
/// If a source's was, which nothing repairs; and those of the store.
pub async fn look(shards: &[Shard]) -> Result<bool, Error> {
    let mut altered = false;
    for (index, shard) in shards.iter().enumerate() {
        shard.check_rewrites().await?;
        altered |= shard.edited().is_some();
        if index >= SOURCES.len() {
            altered |= !shard.damaged_files(&shard.pin()).await?.is_empty();
            continue;
        }
        if let Some(version) = shard.unaccepted_edit() {
            let url = shard.url().to_owned();
            return Err(ShardError::ForeignEdit { url, version }.into());
        }
    }
    Ok(altered)
}

/// The view, if there is one, that cannot be compared since its sources are readable only from this time on, where they
/// end.
pub fn uncompared(shards: &[Shard], limit: i64) -> Option<Error> {
    let (sources, views) = shards.split_at(SOURCES.len());
    let ends = sources.iter().map(|shard| shard.progress().upper);
    let ends = ends.min()?.max(Frontier::At(limit));
    let source = sources.iter().max_by_key(|shard| shard.progress().since)?;
    let since = source.progress().since;
    if since < ends {
        return None;
    }
    let edited = views
        .iter()
        .position(|view| view.edited().is_some())
        .unwrap_or(0);
    Some(Error::Uncompared {
        view: VIEWS[edited].to_owned(),
        url: source.url().to_owned(),
        since,
    })
}

/// The failure of a run that leaves these tables, by the names of their views and their addresses, as they are.
pub fn failure(mut wrong: Vec<(&'static str, String, Wrong)>) -> Option<Error> {
    if wrong.is_empty() {
        return None;
    }
    let others = wrong.split_off(1).into_iter().map(|(name, ..)| name);
    let others = others.collect::<Vec<_>>().join(", ");
    let (view, url, what) = wrong.pop()?;
    Some(Error::ViewDiffers {
        view: view.to_owned(),
        url,
        what: in_words(&what),
        others,
    })
}

fn in_words(wrong: &Wrong) -> String {
    let words = match wrong.rows {
        Some(1) => "1 row".to_owned(),
        Some(rows) => format!("{rows} rows"),
        None => "many rows".to_owned(),
    };
    if wrong.files.is_empty() {
        return words;
    }
    let count = wrong.files.len();
    let files = wrong.files.join(", ");
    let damaged = match count {
        1 => format!("1 file that is lost or cannot be read ({files})"),
        _ => format!("{count} files that are lost or cannot be read ({files})"),
    };
    match wrong.rows {
        Some(0) => damaged,
        _ => format!("{words}, and {damaged}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_that_is_being_repaired_is_not_the_last_word() {
        let wrong = Wrong {
            rows: Some(2),
            files: vec!["a".to_owned(), "b".to_owned()],
            upper: 5,
        };
        let both = "2 rows, and 2 files that are lost or cannot be read (a, b)";
        assert_eq!(in_words(&wrong), both);
        let lost = Wrong {
            rows: Some(0),
            files: vec!["a".to_owned()],
            upper: 5,
        };
        let lost = in_words(&lost);
        assert_eq!(lost, "1 file that is lost or cannot be read (a)");
        let check = Check::Wrong(wrong);
        assert!(check.is_known_at(5) && !check.is_known_at(6));
        assert!(!Check::Unknown.is_known_at(5));
        assert!(Check::Right.is_known_at(6));
    }
}
