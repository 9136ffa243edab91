//! `append` commits a batch once every worker has sent its part of it.
//!
//! ```text
//!   parts of one description, one from each of the `peers` workers ──▶ one compare-and-append of all files
//! ```
//!
//! Each description names the one worker that appends it. The frontier of the parts serves clean-up only: a
//! worker that is torn down drops its capability, and a frontier that passes because of that must never
//! complete a batch.
//!
//! Invariants, by name:
//!
//! - *all parts or none*: a commit holds exactly one part of every worker;
//! - *one commit per description*;
//! - *everything staged ends*: the files of every part are committed, or deleted. Files are deleted only if
//!   no commit with them was ever attempted, or the one attempted is known to have failed. Those that were staged ahead
//!   of the description are left to the worker that staged them, which needs them then;
//! - *removed by one commit*: a file of the shard that several workers want removed is removed once, with the batch;
//! - *what vanished is staged again*: a commit of which a file is gone has failed, and mint is told.

mod operator;
mod task;

pub(crate) use operator::{Operator, render};
pub(crate) use task::{News, Task};

use std::collections::{BTreeMap, BTreeSet};

use mvsink_persist::{CommitId, Frontier};

use crate::description::{Content, Description, Outcome, Part, Staged};

/// What append is told. Within an activation in this order, so that a trigger never overtakes its data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input<T, F> {
    /// A description from mint, whoever is to append it.
    Description(Description<T>),
    /// A part from one worker, for a description that this worker appends.
    Part(Part<T, F>),
    /// The frontier of the parts.
    Parts(Frontier<T>),
    /// The end of a commit.
    Committed(CommitId, Outcome),
}

/// What append wants done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect<T, F> {
    /// Compare-and-append these files as one; ends in [`Input::Committed`].
    Commit {
        /// The batch.
        description: Description<T>,
        /// The files of all its parts.
        files: Vec<F>,
        /// The files of the shard that any of them has removed.
        removes: BTreeSet<String>,
    },
    /// Delete staged files that no commit refers to.
    Delete(Vec<F>),
}

/// The control of append: pure, no clock, no randomness, no I/O.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<T, F> {
    peers: usize,
    /// Batches that wait for parts, by sequence number, with what has come, by worker.
    waiting: BTreeMap<u64, Waiting<T, F>>,
    /// The sequence number of the newest description seen: older ones that still wait are lost.
    newest: Option<u64>,
    /// The commits that are under way, with what to delete if they are lost.
    committing: BTreeMap<CommitId, Vec<F>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting<T, F> {
    lower: T,
    parts: BTreeMap<usize, Content<F>>,
}

impl<T: Copy + Ord, F> State<T, F>
where
    F: Clone,
{
    /// An append that has seen nothing, in a dataflow of `peers` workers.
    pub fn new(peers: usize) -> Self {
        assert!(peers > 0, "a dataflow has at least one worker");
        State {
            peers,
            waiting: BTreeMap::new(),
            newest: None,
            committing: BTreeMap::new(),
        }
    }

    /// Takes one input and appends what is to be done, in order.
    pub fn step(&mut self, input: Input<T, F>, effects: &mut Vec<Effect<T, F>>) {
        match input {
            Input::Description(description) => {
                self.newest = self.newest.max(Some(description.id.seq));
                // A newer description was minted at a later upper: what still waits has lost.
                self.abandon(|seq, _| seq < description.id.seq, effects);
            }
            Input::Part(part) => self.part(part, effects),
            Input::Parts(frontier) => {
                self.abandon(|_, waiting| frontier.is_complete(&waiting.lower), effects);
            }
            Input::Committed(id, outcome) => {
                let files = self.committing.remove(&id);
                let files = files.expect("a commit ends once");
                match outcome {
                    Outcome::Done => {}
                    Outcome::Lost | Outcome::Vanished => delete(files, effects),
                    // Whether it happened is unknown: its files are the sweeper's.
                    Outcome::Cancelled => {}
                }
            }
        }
    }

    /// The number of batches that wait for parts.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn part(&mut self, part: Part<T, F>, effects: &mut Vec<Effect<T, F>>) {
        let seq = part.description.id.seq;
        if self.newest.is_some_and(|newest| seq < newest) {
            if let Content::Staged(staged) = part.content {
                delete(staged.files, effects);
            }
            return;
        }
        let waiting = self.waiting.entry(seq).or_insert_with(|| Waiting {
            lower: part.description.lower,
            parts: BTreeMap::new(),
        });
        let before = waiting.parts.insert(part.worker, part.content);
        assert!(before.is_none(), "one part per description and worker");
        assert!(
            part.worker < self.peers,
            "a part is from one of the workers"
        );
        if waiting.parts.len() < self.peers {
            return;
        }
        let complete = self.waiting.remove(&seq).expect("it was just there");
        let obsolete = complete
            .parts
            .values()
            .any(|content| matches!(content, Content::Obsolete));
        let Staged {
            files,
            ahead,
            removes,
        } = complete.staged();
        if obsolete {
            delete(files, effects);
        } else {
            self.committing.insert(part.description.id, files.clone());
            effects.push(Effect::Commit {
                description: part.description,
                files: ahead.into_iter().chain(files).collect(),
                removes,
            });
        }
    }

    fn abandon(
        &mut self,
        lost: impl Fn(u64, &Waiting<T, F>) -> bool,
        effects: &mut Vec<Effect<T, F>>,
    ) {
        for (_, waiting) in self
            .waiting
            .extract_if(.., |seq, waiting| lost(*seq, waiting))
        {
            delete(waiting.staged().files, effects);
        }
    }
}

impl<T, F> Waiting<T, F> {
    /// What all parts together have.
    fn staged(self) -> Staged<F> {
        let (mut files, mut ahead) = (Vec::new(), Vec::new());
        let mut removes = BTreeSet::new();
        for content in self.parts.into_values() {
            if let Content::Staged(staged) = content {
                files.extend(staged.files);
                ahead.extend(staged.ahead);
                removes.extend(staged.removes);
            }
        }
        Staged {
            files,
            ahead,
            removes,
        }
    }
}

fn delete<T, F>(files: Vec<F>, effects: &mut Vec<Effect<T, F>>) {
    if !files.is_empty() {
        effects.push(Effect::Delete(files));
    }
}
