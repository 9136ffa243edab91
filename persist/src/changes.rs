//! The updates of a shard from some time on, as they come.
//!
//! ```text
//!   changes(from, until) = the updates with from ≤ time < until,    from ≥ since
//! ```
//!
//! First those that the shard has, consolidated; then those of each log entry as it comes. In between it is told
//! how far the shard is: when [`Change::Progress`] names a frontier, all updates with times before it have come.
//! Times below the since count as the since, as for every reader.
//!
//! A reader that is so slow that the log has been cleaned up past it goes on from the files that are there then,
//! with the times that it has not seen, if the since still permits.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use tokio::sync::mpsc;

use crate::data_file::DataFile;
use crate::error::Error;
use crate::frontier::Frontier;
use crate::merge::{Merge, Recipe, Wanted};
use crate::pinned::Pinned;
use crate::read::options::{ReadOptions, ReadProgress};
use crate::shard::Shard;
use crate::task::Task;

/// What a [`ChangesReader`] reads.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "there are data and progress")]
pub enum Change {
    /// Updates: the columns of data that were asked for, `mv_error`, `mv_time` and `mv_diff`.
    Updates(RecordBatch),
    /// All updates with times before this have come.
    Progress(Frontier<i64>),
}

/// Reads the updates of a shard. Made by [`Shard::changes`].
pub struct ChangesReader {
    schema: SchemaRef,
    /// `None` is the end.
    changes: mpsc::Receiver<Result<Option<Change>, Error>>,
    done: bool,
    _task: Task<()>,
}

impl ChangesReader {
    /// The columns of the batches, in the order of the table.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next updates or progress; waits for commits. `None` when the frontier asked for is reached, or the
    /// shard's upper is empty.
    ///
    /// Errors that may pass are retried for ever, with a warning each. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::ForeignEdit`] if another program changes the data: updates do not tell what that did.
    /// [`Error::BeforeSince`] if this reader has fallen behind the since. [`Error::Corrupt`] and
    /// [`Error::MissingFile`] by the file's name, and permanent ones of the store. After one there is nothing more
    /// to read.
    pub async fn next(&mut self) -> Result<Option<Change>, Error> {
        if self.done {
            return Ok(None);
        }
        let next = self.changes.recv().await.unwrap_or(Err(Error::Shutdown));
        self.done = !matches!(next, Ok(Some(_)));
        next
    }
}

impl Shard {
    /// A reader of the updates with times from `from` on, those committed later included, and before `until`.
    ///
    /// # Errors
    /// [`Error::BeforeSince`] if `from` is below the since, and [`Error::InvalidRead`] if the options do not fit
    /// the table.
    pub fn changes(
        &self,
        from: i64,
        until: Frontier<i64>,
        options: ReadOptions,
    ) -> Result<ChangesReader, Error> {
        let pinned = self.pin();
        pinned.check_readable(from)?;
        let (sender, changes) = mpsc::channel(1);
        let source = Source {
            shard: self.clone(),
            options,
            from,
            until,
            sender,
            reported: ReadProgress::default(),
            sent: false,
        };
        let recipe = source.recipe(&pinned)?;
        let span = tracing::debug_span!("changes", shard = %self.url(), from);
        let read = async move {
            let sender = source.sender.clone();
            let end = match source.run(pinned).await {
                Ok(()) => Ok(None),
                Err(Ended::Failed(error)) => Err(error),
                Err(Ended::NobodyListens) => return,
            };
            // Nobody may be there any more to hear that it has ended.
            let _ = sender.send(end).await;
        };
        let env = &self.inner().storage.env;
        Ok(ChangesReader {
            schema: recipe.output,
            changes,
            done: false,
            _task: Task::spawn(env, span, read),
        })
    }
}

/// Why a reader's task ended early.
enum Ended {
    Failed(Error),
    NobodyListens,
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Ended::Failed(error)
    }
}

/// The task of a [`ChangesReader`].
struct Source {
    shard: Shard,
    options: ReadOptions,
    /// Earlier times have been read, or are not wanted.
    from: i64,
    until: Frontier<i64>,
    sender: mpsc::Sender<Result<Option<Change>, Error>>,
    reported: ReadProgress,
    /// Some updates of the version or entry at hand have been sent.
    sent: bool,
}

impl Source {
    async fn run(mut self, mut pinned: Pinned) -> Result<(), Ended> {
        let mut upper = Frontier::At(self.from);
        if self.until <= upper {
            return Ok(());
        }
        'pinned: loop {
            pinned.check_readable(self.from)?;
            let recipe = self.recipe(&pinned)?;
            let files = pinned.files().cloned().collect();
            let mut version = pinned.progress.version;
            self.sent = false;
            match self.send_files(files, recipe).await {
                Err(Ended::Failed(error @ Error::MissingFile { .. })) if !self.sent => {
                    let newest = self.newest(&error).await?;
                    if newest.progress.version == version {
                        // It is missing, not merged.
                        return Err(error.into());
                    }
                    pinned = newest;
                    continue 'pinned;
                }
                sent => sent?,
            }
            let mut now = pinned.progress.upper;
            loop {
                if now > upper {
                    upper = now;
                    self.send(Change::Progress(upper.min(self.until))).await?;
                }
                if upper >= self.until {
                    return Ok(());
                }
                match upper {
                    Frontier::At(time) => self.from = self.from.max(time),
                    Frontier::Empty => return Ok(()),
                }
                let entry = match self.shard.entry(version + 1).await {
                    Ok(entry) => entry,
                    Err(error @ Error::EntryGone { .. }) => {
                        pinned = self.newest(&error).await?;
                        continue 'pinned;
                    }
                    Err(error) => return Err(error.into()),
                };
                // A view that removes what another program has added takes rows away at all times, as that had added them.
                if entry.foreign || !entry.removes.is_empty() {
                    return Err(Ended::Failed(Error::ForeignEdit {
                        url: self.shard.url().to_owned(),
                        version: entry.version,
                    }));
                }
                if !entry.adds.is_empty() {
                    let recipe = self.recipe(&pinned)?;
                    self.sent = false;
                    match self.send_files(entry.adds.clone(), recipe).await {
                        // It was compacted away, and its files deleted, before it was its turn.
                        Err(Ended::Failed(error @ Error::MissingFile { .. })) if !self.sent => {
                            pinned = self.newest(&error).await?;
                            continue 'pinned;
                        }
                        sent => sent?,
                    }
                }
                version = entry.version;
                now = entry.upper;
                // A late pin keeps the files that it is the turn of next.
                let next = self.shard.pin();
                if next.progress.version == version {
                    pinned = next;
                }
            }
        }
    }

    /// The newest version, for a reader that was too slow for another one. What is known here may be as old as that.
    async fn newest(&self, why: &Error) -> Result<Pinned, Error> {
        tracing::info!(%why, "behind the clean-up, going on from what is there now");
        self.shard.refresh().await?;
        Ok(self.shard.pin())
    }

    /// Updates from [`Source::from`] on.
    fn recipe(&self, pinned: &Pinned) -> Result<Recipe, Error> {
        let since = match pinned.progress.since {
            Frontier::At(since) => since,
            Frontier::Empty => i64::MAX,
        };
        Recipe::new(
            &self.shard.inner().storage.url,
            &self.shard.schema(),
            &Wanted {
                columns: self.options.columns.as_deref(),
                filter: &self.options.filter,
                since,
                min_time: Some(self.from),
                max_time: self.until.time().map(|until| until.saturating_sub(1)),
                with_time: true,
            },
        )
    }

    async fn send_files(&mut self, files: Vec<Arc<DataFile>>, recipe: Recipe) -> Result<(), Ended> {
        let storage = &self.shard.inner().storage;
        let mut merge = Merge::new(storage, files, recipe, self.options.budget())?;
        loop {
            let next = merge.next().await?;
            let reported = self.options.report(self.reported, &merge);
            match next {
                Some(batch) => {
                    self.sent = true;
                    self.send(Change::Updates(batch)).await?;
                }
                None => {
                    self.reported = reported;
                    return Ok(());
                }
            }
        }
    }

    async fn send(&self, change: Change) -> Result<(), Ended> {
        let sent = self.sender.send(Ok(Some(change))).await;
        sent.map_err(|_| Ended::NobodyListens)
    }
}
