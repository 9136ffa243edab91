//! Keeps the sources readable for their views.
//!
//! A view that is started again reads its sources from the last time that its own shard has. So the since of each
//! source is held at the least of the views' uppers, and follows it; whatever the flags say of retention, a run can
//! be killed and started again.

use std::sync::Arc;
use std::time::Duration;

use mvsink::Frontier;
use mvsink::mvsink_persist::{Hold, Shard};

use super::control::{Control, SHARDS, SOURCES};
use crate::error::Error;

/// How long a run may be without a sign of life before others may move the sinces.
const LEASE: Duration = Duration::from_secs(60);
/// How often the holds follow the views.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the end of a run may wait for the release of its holds.
pub const RELEASE_MAX: Duration = Duration::from_secs(5);

/// The same of a run whose store takes nothing.
pub const STALLED_RELEASE_MAX: Duration = Duration::from_millis(500);

/// The last time that every view has, or the first of all.
fn needed(control: &Control) -> i64 {
    let uppers = (SOURCES.len()..SHARDS).map(|view| control.upper(view));
    (uppers.min().unwrap_or(0) - 1).max(0)
}

/// The first time at which a source can be read in a run that ends at `limit`. What was read of one that was edited before
/// is not there any more once it is written again.
pub fn readable_from(source: &Shard, limit: i64) -> Frontier<i64> {
    let progress = source.progress();
    let moves = source.edited().is_some() && progress.upper < Frontier::At(limit);
    if moves {
        progress.upper
    } else {
        progress.since
    }
}

/// Takes a hold on each source.
///
/// # Errors
///
/// If a source cannot be written.
pub async fn take(shards: &[Shard], control: &Control) -> Result<Vec<Hold>, Error> {
    let mut holds = Vec::new();
    for shard in &shards[..SOURCES.len()] {
        shard.check_rewrites().await.map_err(Error::from)?;
        // A view that has been left behind begins where its sources can be read.
        let from = readable_from(shard, control.limit());
        let frontier = from.max(Frontier::At(needed(control)));
        let mut hold = shard
            .hold_reader_since(frontier, LEASE)
            .await
            .map_err(Error::from)?;
        hold.renew_in_background();
        holds.push(hold);
    }
    Ok(holds)
}

/// Releases the holds: the next run takes its own. What cannot be released now lapses.
pub async fn release(holds: Arc<Vec<Hold>>, within: Duration) {
    let holds = Arc::into_inner(holds).unwrap_or_default();
    let release = async {
        for hold in holds {
            if let Err(error) = hold.release().await {
                tracing::warn!(%error, "a hold is left to lapse");
            }
        }
    };
    // The store may be in trouble.
    let _ = tokio::time::timeout(within, release).await;
}

/// Has the holds follow the views, until it is dropped.
pub async fn keep(holds: Arc<Vec<Hold>>, control: Arc<Control>) {
    let mut held = needed(&control);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = needed(&control);
        if now <= held {
            continue;
        }
        held = now;
        for hold in holds.iter() {
            if let Err(error) = hold.advance(Frontier::At(now)).await {
                // It protects what it did before, or has lapsed: the run itself goes on reading what is there.
                tracing::warn!(hold = hold.name(), %error, "a hold does not follow the views");
            }
        }
    }
}
