//! Reading several shards at one time.
//!
//! ```text
//!   since of every shard  ≤  t  <  upper of every shard,      and t stays readable while it is held
//! ```
//!
//! Views that were computed from each other, each in a shard of its own, are consistent at such a time: each holds what
//! follows from the others' contents then. They are not at different ones.

use std::time::Duration;

use crate::error::Error;
use crate::frontier::Frontier;
use crate::hold::Hold;
use crate::shard::Shard;

/// A time at which several shards can be read, and the holds that keep it so. Made by [`common_time`].
#[derive(Debug)]
pub struct CommonTime {
    time: i64,
    holds: Vec<Hold>,
}

impl CommonTime {
    /// The time. A [snapshot](Shard::snapshot) of each of the shards can be read at it.
    pub fn time(&self) -> i64 {
        self.time
    }

    /// The holds, in the order of the shards. They are renewed in the background.
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// Lets the shards go. Dropping it does so in the background.
    ///
    /// # Errors
    /// Permanent ones of the stores and the logs: the holds then lapse after their lease.
    pub async fn release(self) -> Result<(), Error> {
        for hold in self.holds {
            hold.release().await?;
        }
        Ok(())
    }
}

/// The latest time, at or beyond `from`, at which all of these shards can be read, held with this lease. Waits until
/// there is one: until the slowest shard is complete at `from`, and at the since of every other.
///
/// A shard that is kept by a sink holds what it should from the sink's as-of on, so `from` is the greatest of those.
///
/// Shards that are all complete, with the empty frontier as their upper, are read at the last time at which any of them
/// changed.
///
/// # Errors
/// [`Error::BeforeSince`] if a shard can be read at no time any more, and permanent errors of the stores and the logs.
pub async fn common_time(
    shards: &[Shard],
    mut from: i64,
    lease: Duration,
) -> Result<CommonTime, Error> {
    let mut holds = Vec::with_capacity(shards.len());
    for shard in shards {
        let (mut hold, since) = hold_all(shard, lease).await?;
        hold.renew_in_background();
        holds.push(hold);
        from = since.max(from);
    }
    // The sinces stay where they are; now only uppers move.
    let mut upper = Frontier::Empty;
    for shard in shards {
        let mut watcher = shard.watch();
        while !watcher.progress().upper.is_complete(&from) {
            watcher.changed().await?;
        }
        upper = upper.min(watcher.progress().upper);
    }
    let time = match upper {
        Frontier::At(upper) => upper - 1,
        Frontier::Empty => {
            let pins = shards.iter().map(Shard::pin);
            let last = pins.filter_map(|pin| pin.files().filter_map(|file| file.max_time).max());
            last.max().unwrap_or(from).clamp(from, i64::MAX - 1)
        }
    };
    for hold in &holds {
        hold.advance(Frontier::At(time)).await?;
    }
    Ok(CommonTime { time, holds })
}

/// Holds all times at which the shard can be read; returns the first of them as well.
async fn hold_all(shard: &Shard, lease: Duration) -> Result<(Hold, i64), Error> {
    loop {
        let since = shard.refresh().await?.since;
        let Frontier::At(first) = since else {
            let as_of = i64::MAX - 1;
            let url = shard.url().to_owned();
            return Err(Error::BeforeSince { url, as_of, since });
        };
        match shard.hold_reader(since, lease).await {
            Ok(hold) => return Ok((hold, first)),
            // It has moved meanwhile.
            Err(Error::BeforeSince { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}
