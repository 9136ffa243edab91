//! The work of `append`: commits, and deletes what was lost.

use std::collections::BTreeSet;
use std::time::Instant;

use mvsink_persist::{
    Append, Appended, CommitId, Error as ShardError, Frontier, Shard, StagedFile,
};
use tracing::Instrument;

use super::{Effect, Input, State};
use crate::bounds::{Timestamp, frontier_to_i64};
use crate::description::{Description, Outcome};
use crate::error::Error;
use crate::worker::Worker;

/// The state, and the shard that it commits to.
pub(crate) struct Task<T> {
    worker: Worker,
    shard: Shard,
    state: State<T, StagedFile>,
    effects: Vec<Effect<T, StagedFile>>,
}

/// What others are to know of a commit.
pub(crate) enum News<T> {
    /// It has moved the shard's upper here.
    Upper(Frontier<T>),
    /// A file of this batch was gone: mint is to have it staged again.
    Vanished(CommitId),
}

impl<T: Timestamp> Task<T> {
    /// Opens the shard; `None` if the sink stops before anybody has: then nothing can be under way.
    pub(crate) async fn open(worker: Worker) -> Result<Option<Self>, Error> {
        let shard = match worker.stop.or_stop(worker.shard("open")).await {
            Some(shard) => shard?,
            // Where the shard is open, parts may be under way.
            None => match worker.instance.shard.get() {
                Some(shard) => shard.clone(),
                None => return Ok(None),
            },
        };
        Ok(Some(Task {
            shard,
            state: State::new(worker.peers),
            effects: Vec::new(),
            worker,
        }))
    }

    /// Steps the state, and does what it asks for, until it asks for nothing more. Gives what came of a commit, if that is
    /// news.
    pub(crate) async fn step(
        &mut self,
        input: Input<T, StagedFile>,
    ) -> Result<Option<News<T>>, Error> {
        let mut news = None;
        let mut next = Some(input);
        while let Some(input) = next.take() {
            self.state.step(input, &mut self.effects);
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Commit {
                        description,
                        files,
                        removes,
                    } => {
                        debug_assert!(next.is_none(), "one part completes one batch");
                        let (id, upper) = (description.id, description.upper);
                        let span = description.span(&self.worker.instance.name, self.worker.index);
                        let commit = self.commit(description, files, removes);
                        let outcome = commit.instrument(span).await?;
                        news = match outcome {
                            Outcome::Done => Some(News::Upper(upper)),
                            Outcome::Vanished => Some(News::Vanished(id)),
                            Outcome::Lost | Outcome::Cancelled => None,
                        };
                        next = Some(Input::Committed(id, outcome));
                    }
                    Effect::Delete(files) => self.worker.delete_staged(&self.shard, &files).await,
                }
            }
        }
        Ok(news)
    }

    async fn commit(
        &self,
        description: Description<T>,
        files: Vec<StagedFile>,
        removes: BTreeSet<String>,
    ) -> Result<Outcome, Error> {
        let Description {
            id, lower, upper, ..
        } = description;
        let (lower, upper) = (
            frontier_to_i64(Frontier::At(lower))?,
            frontier_to_i64(upper)?,
        );
        let count = files.len();
        let append = Append {
            id,
            lower,
            upper,
            files,
            since: None,
        };
        let instance = &self.worker.instance;
        let stalled = |error: &ShardError| self.worker.stalled("commit", error);
        let begun = Instant::now();
        // An idle task keeps no room for it.
        let written = self.shard.until_written(&append.files);
        let mut append = Box::pin(self.shard.append_removing(append, removes, &stalled));
        let append = async {
            // Who writes the files says it if that takes long.
            tokio::select! {
                biased;
                appended = &mut append => return appended,
                () = written => {}
            }
            self.worker.patiently("commit", append).await
        };
        let Some(appended) = self.worker.stop.or_grace(append).await else {
            return Ok(Outcome::Cancelled);
        };
        let appended = match appended {
            // Who wrote it was stopped, or has failed and says why.
            Err(ShardError::Unwritten { .. }) => return Ok(Outcome::Cancelled),
            Err(ShardError::Swept { path, .. }) => {
                self.worker.resumed("commit");
                instance.metrics.batches_lost.add(1);
                tracing::warn!(
                    sink = %instance.name, path,
                    "a staged file has vanished; what it held is staged again"
                );
                instance.vanished(id);
                return Ok(Outcome::Vanished);
            }
            appended => appended?,
        };
        self.worker.resumed("commit");
        instance.metrics.commits.observe(begun.elapsed());
        Ok(match appended {
            Appended::Committed { version } => {
                instance.metrics.batches_committed.add(1);
                tracing::debug!(version, files = count, "committed");
                Outcome::Done
            }
            Appended::Lost { upper: actual } => {
                instance.metrics.batches_lost.add(1);
                tracing::debug!(%actual, "lost to a rival");
                Outcome::Lost
            }
        })
    }
}
