//! What a worker stages ahead of its description: a first snapshot, while it arrives.
//!
//! ```text
//!   StageAhead(t) ──▶ updates at t, as soon as there are many: drained, encoded, staged, forgotten
//!   Write(t, …) ────▶ the rest is staged, and all of it is one part
//!   own ────────────▶ the shard holds them
//!   lost, recalled ─▶ read back into the corrections, then deleted
//! ```
//!
//! Updates add up, so an early file is never wrong: what takes its rows away again follows in a later one.

use mvsink_persist::{Error as ShardError, Frontier, Shard, StagedFile};

use super::store::Store;
use super::task::Task;
use crate::bounds::{Data, Diff, Timestamp, time_from_i64};
use crate::dyncfg::STAGE_AHEAD_BYTES;
use crate::error::Error;
use crate::source::OpenFile;

/// What was staged ahead.
pub(super) struct Ahead<T> {
    /// The time of the updates that may be staged; `None` if none may, or not any more.
    pub(super) lower: Option<T>,
    files: Vec<StagedFile>,
    /// The lower, as it is stored, of the batch that they were sent for: only the log tells what became of that.
    sent: Option<i64>,
}

impl<T> Default for Ahead<T> {
    fn default() -> Self {
        Ahead {
            lower: None,
            files: Vec::new(),
            sent: None,
        }
    }
}

impl<T> Ahead<T> {
    /// True if there are files that are neither committed nor recalled.
    pub(super) fn is_outstanding(&self) -> bool {
        !self.files.is_empty()
    }

    /// True if there is nothing staged ahead, and nothing may be.
    pub(super) fn is_unused(&self) -> bool {
        self.lower.is_none() && self.files.is_empty()
    }

    /// The files, for the part of the batch with this lower. No more follow.
    pub(super) fn send(&mut self, lower: i64) -> Vec<StagedFile> {
        self.lower = None;
        self.sent = Some(lower);
        self.files.clone()
    }

    /// The shard holds them.
    pub(super) fn committed(&mut self) {
        *self = Ahead::default();
    }

    /// The files that no commit can be about: they were never sent, or the shard's upper has passed them.
    pub(super) fn in_vain(&self, shard: &Shard) -> Vec<StagedFile> {
        let passed = |lower: &i64| shard.progress().upper.is_complete(lower);
        if !self.sent.iter().all(passed) {
            return Vec::new();
        }
        let files = self.files.iter();
        files
            .filter(|file| !shard.knows_file(&file.path))
            .cloned()
            .collect()
    }
}

impl<D: Data, E: Data, T: Timestamp, R: Diff> Task<D, E, T, R> {
    /// True if what comes now is staged as soon as it is much.
    pub(super) fn stages_ahead(&self) -> bool {
        self.ahead.lower.is_some() && STAGE_AHEAD_BYTES.get(self.worker.cx.configs()) > 0
    }

    /// Stages what has gathered, if it may and is much, or if memory is short. Says whether it did; `None` if the sink was
    /// stopped.
    pub(super) async fn stage_ahead(&mut self, is_short: bool) -> Result<Option<bool>, Error> {
        let Some(lower) = self.ahead.lower else {
            return Ok(Some(false));
        };
        let enough = match STAGE_AHEAD_BYTES.get(self.worker.cx.configs()) {
            0 => return Ok(Some(false)),
            bytes => (bytes / self.workers()).max(1),
        };
        let due = self.store().map_or(0, Store::due_bytes);
        // Of what is due at another time there is none: the shard's upper is this one.
        if due == 0 || due < enough && !is_short {
            return Ok(Some(false));
        }
        let next = lower.to_i64().and_then(|time| time.checked_add(1));
        let next = next
            .and_then(T::from_i64)
            .map_or(Frontier::Empty, Frontier::At);
        let Some(files) = self.drain_and_stage(lower, next).await? else {
            return Ok(None);
        };
        // Their rows need not wait for the disk: who does not write them to its end has stopped, or failed.
        self.with_store(false, Store::forget_staged_ahead).await?;
        let Some(files) = self.written(files).await? else {
            return Ok(None);
        };
        let staged = !files.staged.is_empty();
        self.ahead.files.extend(files.staged);
        Ok(Some(staged))
    }

    /// Reads what was staged ahead back into the corrections, and deletes it. False if the sink was stopped.
    pub(super) async fn recall(&mut self) -> Result<bool, Error> {
        self.ahead.lower = None;
        while let Some(file) = self.ahead.files.last() {
            let (worker, shard, path) =
                (self.worker.clone(), self.shard.clone(), file.path.clone());
            let read = Box::pin(OpenFile::read(&worker, &shard, &path));
            let Some(opened) = self.worker.stop.or_stop(read).await else {
                return Ok(false);
            };
            let mut open = opened.map_err(|error| self.swept(error, &path))?;
            loop {
                let codec = self.codec.clone();
                let decode = move |batch| {
                    let decoded = codec.decode(&batch)?;
                    Ok((timed(decoded.ok)?, timed(decoded.err)?))
                };
                let Some((rows, errors)) = open.next(decode).await? else {
                    break;
                };
                let take_back = move |store: &mut Store<D, E, T, R>| {
                    store.take_back(rows, errors);
                    store.wants_relief()
                };
                if self.with_store(false, take_back).await? && !self.relieve().await? {
                    return Ok(false);
                }
            }
            // From here on its rows are in the corrections. Who reads everything back takes its own commits for a
            // rival's; the log knows better.
            let file = self.ahead.files.pop();
            let file = file.filter(|file| !self.shard.knows_file(&file.path));
            self.worker
                .delete_staged(&self.shard, file.as_slice())
                .await;
        }
        self.ahead.sent = None;
        self.with_store(true, Store::recalled).await?;
        Ok(true)
    }

    /// The error where a file that was staged ahead cannot be read: nobody else has its rows.
    fn swept(&self, error: Error, path: &str) -> Error {
        match error {
            Error::Shard(ShardError::MissingFile { .. }) => ShardError::Swept {
                url: self.shard.url().to_owned(),
                path: path.to_owned(),
            }
            .into(),
            error => error,
        }
    }
}

/// A row with its time and difference.
type Update<D, T> = (D, T, i64);

/// The updates of a file, with the dataflow's times.
fn timed<D, T: Timestamp>(stored: Vec<(D, i64, i64)>) -> Result<Vec<Update<D, T>>, Error> {
    let timed = |(data, time, diff)| Ok((data, time_from_i64(time)?, diff));
    stored.into_iter().map(timed).collect()
}
