//! The work of `mint`: watches the shard's upper, and moves it where mint asks for it.

use mvsink_persist::{Append, Appended, Frontier, Shard, Watcher};
use tokio::sync::watch;

use super::Input;
use super::operator::Bump;
use crate::bounds::{Timestamp, frontier_from_i64, frontier_to_i64};
use crate::description::Outcome;
use crate::error::Error;
use crate::worker::Worker;

/// Sees for mint how far the shard is, and whether the sink may write.
pub(crate) struct Watch {
    worker: Worker,
    shard: Shard,
    watcher: Watcher,
    known: Option<Frontier<i64>>,
    read_only: watch::Receiver<bool>,
    known_read_only: Option<bool>,
    /// False once the host has dropped its signal, and thereby decided for good.
    host_decides: bool,
}

impl Watch {
    /// Opens the shard, and watches it from now on.
    pub(crate) async fn open(worker: Worker) -> Result<Self, Error> {
        let shard = worker.shard("open").await?;
        Ok(Watch {
            watcher: shard.watch(),
            shard,
            known: None,
            read_only: worker.cx.read_only(),
            known_read_only: None,
            host_decides: true,
            worker,
        })
    }

    /// Waits for the next thing that mint has to know: first of all whether it may write; uppers strictly
    /// increase, the empty frontier comes last. Dropping the future loses nothing.
    pub(crate) async fn next<T: Timestamp>(&mut self) -> Result<Input<T>, Error> {
        loop {
            let read_only = *self.read_only.borrow_and_update();
            if self.known_read_only.replace(read_only) != Some(read_only) {
                self.worker.instance.read_only(read_only);
                return Ok(Input::ReadOnly(read_only));
            }
            let upper = self.watcher.progress().upper;
            if self.known < Some(upper) {
                self.known = Some(upper);
                return Ok(Input::Upper(frontier_from_i64(upper)?));
            }
            tokio::select! {
                progress = self.watcher.changed() => {
                    progress?;
                }
                changed = self.read_only.changed(), if self.host_decides => {
                    self.host_decides = changed.is_ok();
                }
            }
        }
    }

    /// Moves the shard's upper without data; gives what mint has to know of it.
    pub(crate) async fn bump<T: Timestamp>(&self, bump: Bump<T>) -> Result<Input<T>, Error> {
        let append = Append {
            id: bump.id,
            lower: frontier_to_i64(Frontier::At(bump.lower))?,
            upper: frontier_to_i64(Frontier::At(bump.upper))?,
            files: Vec::new(),
            since: None,
        };
        let instance = &self.worker.instance;
        let stalled = |error: &mvsink_persist::Error| instance.stalled("bump", error);
        let appended = self.shard.append(append, &stalled).await?;
        instance.resumed("bump");
        let outcome = match appended {
            Appended::Committed { .. } => Outcome::Done,
            Appended::Lost { .. } => Outcome::Lost,
        };
        Ok(Input::Bumped(bump.id, outcome))
    }
}
