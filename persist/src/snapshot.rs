//! The contents of a shard at one time.
//!
//! ```text
//!   snapshot(t) = { (row, d) | d = Σ diff of row over the updates with time ≤ t, d ≠ 0 },    since ≤ t < upper
//! ```
//!
//! in the order of the rows' hashes, in bounded memory (see [`crate::merge`]). A d that no bigint holds is in as many
//! rows as it takes. The files are those of the version that was known when the reader was made: whatever is committed
//! meanwhile changes nothing.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::log::state::Progress;
use crate::merge::{Merge, Recipe, Wanted};
use crate::read::options::{ReadOptions, ReadProgress};
use crate::shard::Shard;
use crate::task::Task;

/// Reads the contents of a shard at one time. Made by [`Shard::snapshot`].
pub struct SnapshotReader {
    schema: SchemaRef,
    progress: Progress,
    /// A batch at a time; `None` is the end.
    batches: mpsc::Receiver<Result<Option<RecordBatch>, Error>>,
    done: bool,
    _task: Task<()>,
}

impl SnapshotReader {
    /// The columns of the batches: those of data that were asked for, `mv_error`, and `mv_diff`, in the order of
    /// the table.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How far the shard was at the version that is read.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The next rows, each row of the snapshot once, with how often it is there in `mv_diff`; a row that is there more
    /// often than a bigint says comes several times, with diffs that add up to that. `None` at the end:
    /// then all rows were read and found to be what their writers wrote.
    ///
    /// Errors that may pass are retried for ever, with a warning each. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::MissingFile`] by the file's name, and permanent ones of the store. After
    /// one there is nothing more to read.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        if self.done {
            return Ok(None);
        }
        let next = self.batches.recv().await.unwrap_or(Err(Error::Shutdown));
        self.done = !matches!(next, Ok(Some(_)));
        next
    }
}

impl Shard {
    /// A reader of the contents at `as_of`, as of the last version that this process knows
    /// ([`Shard::refresh`] makes that the latest).
    ///
    /// # Errors
    /// [`Error::BeforeSince`] if `as_of` is below the since, [`Error::NotComplete`] if it is not below the upper,
    /// and [`Error::InvalidRead`] if the options do not fit the table.
    pub fn snapshot(&self, as_of: i64, options: ReadOptions) -> Result<SnapshotReader, Error> {
        let pinned = self.pin();
        let progress = pinned.progress;
        pinned.check_readable(as_of)?;
        if !progress.upper.is_complete(&as_of) {
            return Err(Error::NotComplete {
                url: self.url().to_owned(),
                as_of,
                upper: progress.upper,
            });
        }
        let storage = &self.inner().storage;
        let recipe = Recipe::new(
            &storage.url,
            &self.schema(),
            &Wanted {
                columns: options.columns.as_deref(),
                filter: &options.filter,
                // Whenever it came: it is there.
                since: as_of,
                min_time: None,
                max_time: Some(as_of),
                with_time: false,
            },
        )?;
        let schema = Arc::clone(&recipe.output);
        let files = pinned.files().cloned();
        let mut merge = Merge::new(storage, files, recipe, options.budget())?;
        let (sender, batches) = mpsc::channel(1);
        let span = tracing::debug_span!("snapshot", shard = %storage.url, as_of);
        let read = async move {
            loop {
                let next = merge.next().await;
                options.report(ReadProgress::default(), &merge);
                let more = matches!(next, Ok(Some(_)));
                if sender.send(next).await.is_err() || !more {
                    break;
                }
            }
            // Until here the files of its version are kept.
            drop(pinned);
        };
        Ok(SnapshotReader {
            schema,
            progress,
            batches,
            done: false,
            _task: Task::spawn(&storage.env, span, read),
        })
    }
}
