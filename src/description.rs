//! Batch descriptions: what is to be written next, by whom it is committed, and how it is known.
//!
//! A description `(lower, upper)` asks every worker for the updates at times `lower ≤ t < upper`. It is
//! minted once, at the shard's actual upper, and ends in a commit, in an observed loss, in the word that a staged file of
//! it has vanished, or with the sink.
//!
//! Invariants, asserted by [`crate::mint::State`]:
//!
//! - *lowers strictly increase*: a lower is minted once, so at most one description is valid at a time. It is minted
//!   again only where the first of that lower can never be committed, since a staged file has vanished;
//! - *uppers never decrease*;
//! - *lower < upper*.

use std::collections::BTreeSet;

use mvsink_persist::{CommitId, Frontier};
use serde::{Deserialize, Serialize};

/// A batch to be written: the times `lower ≤ t < upper`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Description<T> {
    /// The identity of the batch everywhere, in the commit included.
    pub id: CommitId,
    /// The first time of the batch: the shard's upper when it was minted.
    pub lower: T,
    /// The frontier that the shard has once the batch is committed.
    pub upper: Frontier<T>,
    /// The worker that commits the batch.
    pub appender: usize,
}

impl<T: std::fmt::Debug> Description<T> {
    /// The span of what is done for this batch, the same from mint to commit but for the worker that does it.
    pub(crate) fn span(&self, sink: &str, worker: usize) -> tracing::Span {
        tracing::debug_span!(
            "batch", sink, worker, id = %self.id, lower = ?self.lower, upper = ?self.upper
        )
    }
}

/// What one worker has to say about one description: exactly one message each, empty ones included.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Part<T, F> {
    /// The description that this answers.
    pub description: Description<T>,
    /// The worker that speaks.
    pub worker: usize,
    /// What it staged.
    pub content: Content<F>,
}

/// The files of a [`Part`], with `F` the type of a staged file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Staged<F> {
    /// Staged for the description. If it is lost, whoever appends it deletes them.
    pub files: Vec<F>,
    /// Staged ahead of the description. If it is lost, the worker that staged them takes their updates back, and deletes
    /// them then.
    pub ahead: Vec<F>,
    /// The files of the shard, by their paths in the log, that the batch is to remove. The worker counts none of their
    /// rows as held.
    pub removes: BTreeSet<String>,
}

/// The content of a [`Part`], with `F` the type of a staged file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Content<F> {
    /// The files of the worker's updates; none if it has none.
    Staged(Staged<F>),
    /// The worker knows that the description was lost, and staged nothing for it.
    Obsolete,
}

/// How an effect that takes time ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It was done.
    Done,
    /// A rival came first; nothing of it was done.
    Lost,
    /// A staged file was gone before it was committed; nothing of it was done, and nothing will be.
    Vanished,
    /// It was given up: the sink failed or was cancelled.
    Cancelled,
}
