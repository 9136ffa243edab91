//! Views whose tables are not what they are to be, where no event is left with which they would be repaired.
//!
//! A view repairs its table with its next batch. So a run ends only when each view has been compared with its table as of
//! the newest version that is there once all tables are at the end, whoever wrote that:
//!
//! ```text
//!   every upper at U ──▶ the newest version of each view's table ──▶ each sink has read that, and counted what differs
//! ```
//!
//! One that has nothing to feed compares as well, and writes nothing.

use mvsink::mvsink_persist::{Error as ShardError, Shard};
use mvsink::{Compared, Frontier, Status};
use tokio::sync::watch;

use super::control::{Control, SOURCES};
use super::views::{READS, VIEWS};
use crate::error::Error;

/// How a view's table differs from the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The rows, if they were counted.
    pub rows: Option<u64>,
    /// The files that cannot be used.
    pub files: Vec<String>,
}

/// What the sink of a view tells.
#[derive(Debug)]
pub struct Told {
    /// What it is doing.
    pub status: watch::Receiver<Status>,
    /// How far it has compared its table.
    pub compared: watch::Receiver<Option<Compared>>,
}

/// Waits until all tables are at the limit, and then until each view has been compared with its table as it is there, or
/// has failed; then says so.
pub async fn judge(control: &Control, shards: Vec<Shard>, told: Vec<Told>) {
    control.sealed_at_limit().await;
    let mut views: Vec<(u64, Told)> = Vec::with_capacity(told.len());
    for (shard, told) in shards[SOURCES.len()..].iter().zip(told) {
        match shard.refresh().await {
            Ok(progress) => {
                // A finished table is compared once: what comes later is of no sink.
                let finished = progress.upper == Frontier::Empty;
                let version = if finished { 0 } else { progress.version };
                views.push((version, told));
            }
            Err(error) => return control.fail(error.into()),
        }
    }
    let mut wrong = Vec::new();
    for (view, (version, mut told)) in views.into_iter().enumerate() {
        match told.verdict(version, control.limit()).await {
            Some(None) => {}
            Some(Some(differs)) => wrong.push((view, differs)),
            // It has failed, which stops the run, or is gone with it.
            None => return,
        }
    }
    control.judge(wrong);
}

impl Told {
    /// What the table differs in as of this version or a later one, at this time; `None` if the sink ends before that.
    async fn verdict(&mut self, version: u64, limit: i64) -> Option<Option<Wrong>> {
        loop {
            let compared = self.compared.borrow_and_update().clone();
            if let Some(known) = compared.and_then(|compared| known(compared, version, limit)) {
                return Some(known);
            }
            if self.status.borrow_and_update().is_final() {
                return None;
            }
            tokio::select! {
                changed = self.compared.changed() => changed.ok()?,
                changed = self.status.changed() => changed.ok()?,
            }
        }
    }
}

/// What is known of a table as of this version or a later one, at this time: nothing, or what it differs in, if it does.
fn known(compared: Compared, version: u64, limit: i64) -> Option<Option<Wrong>> {
    if compared.version < version || compared.frontier < Frontier::At(limit) {
        return None;
    }
    match compared.differs {
        None => Some(None),
        // The batch that repairs it may be on its way.
        Some(differs) if differs.upper < limit => None,
        Some(differs) => Some(Some(Wrong {
            rows: differs.rows,
            files: differs.files,
        })),
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

/// The error of tables with which no run up to this limit can go on: a source that is finished, or a view's table that is
/// ahead of its sources. A view that somebody has finished is compared.
pub fn stuck(shards: &[Shard], limit: i64) -> Option<Error> {
    let (sources, views) = shards.split_at(SOURCES.len());
    if let Some(source) = sources.iter().find(|shard| is_finished(shard)) {
        let url = source.url().to_owned();
        return Some(Error::Finished { url });
    }
    let views = VIEWS.iter().zip(READS).zip(views);
    for ((view, reads), shard) in views {
        let ends = reads.iter().map(|source| sources[*source].progress().upper);
        let ends = ends.min().max(Some(Frontier::At(limit)))?;
        let upper = match shard.progress().upper {
            // Up to where it was written before that.
            Frontier::Empty => Frontier::At(last_time(shard)?.saturating_add(1)),
            upper => upper,
        };
        if upper > ends {
            return Some(Error::Ahead {
                view: (*view).to_owned(),
                url: shard.url().to_owned(),
                upper,
                ends,
            });
        }
    }
    None
}

/// True if nothing can be written any more.
pub fn is_finished(shard: &Shard) -> bool {
    shard.progress().upper.is_empty()
}

/// The last time at which a sink has written anything, by what it says of its files.
fn last_time(shard: &Shard) -> Option<i64> {
    let pinned = shard.pin();
    let last = pinned.files().filter_map(|file| file.summed()?.times);
    last.map(|(_, last)| last).max().or(Some(0))
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
    fn what_differs_is_said_in_words() {
        let wrong = Wrong {
            rows: Some(2),
            files: vec!["a".to_owned(), "b".to_owned()],
        };
        let both = "2 rows, and 2 files that are lost or cannot be read (a, b)";
        assert_eq!(in_words(&wrong), both);
        let lost = Wrong {
            rows: Some(0),
            files: vec!["a".to_owned()],
        };
        let lost = in_words(&lost);
        assert_eq!(lost, "1 file that is lost or cannot be read (a)");
    }
}
