//! What one activation of `write` saw, for its corrections.

use mvsink_persist::Frontier;

use crate::channel::Weigh;
use crate::route::Routed;

/// All that one activation of the operator saw.
pub(crate) struct Batch<D, E, T, R> {
    pub(crate) desired_ok: Vec<Routed<D, T, R>>,
    pub(crate) desired_err: Vec<Routed<E, T, R>>,
    /// What was read back, with the differences that the shard stores: sums of many of R, or of another program.
    pub(crate) persist_ok: Vec<Vec<(D, T, i64)>>,
    pub(crate) persist_err: Vec<Vec<(E, T, i64)>>,
    /// What became of the batch in flight.
    pub(crate) settle: Option<Settle>,
    /// What was staged ahead is to be taken back.
    pub(crate) recall: bool,
    /// Updates at this time may be staged ahead from now on.
    pub(crate) stage_ahead: Option<T>,
    /// A rival moved the shard's upper here, and desired is complete up to here.
    pub(crate) check_rival: Option<T>,
    /// So many times what was read back until now has rows of an edit by another program, or rows in which the table differed
    /// at the start.
    pub(crate) edits: u64,
    /// After such rows desired has come further.
    pub(crate) recheck: bool,
    /// Desired is complete up to the frontier of the read-back, as of what is in this batch.
    pub(crate) complete: bool,
    /// Desired is complete at the cutoff, as of what is in this batch.
    pub(crate) compare: bool,
    /// The new frontier of the read-back.
    pub(crate) advance: Option<Frontier<T>>,
    /// Of a shard that was finished before: desired is complete up to here, as of what is in this batch, and nothing before
    /// it may be left.
    pub(crate) verify: Option<Frontier<T>>,
}

/// What became of a batch in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    /// The shard holds it.
    Own,
    /// The shard does not hold it.
    Lost,
}

impl<D, E, T, R> Default for Batch<D, E, T, R> {
    fn default() -> Self {
        Batch {
            desired_ok: Vec::new(),
            desired_err: Vec::new(),
            persist_ok: Vec::new(),
            persist_err: Vec::new(),
            settle: None,
            recall: false,
            stage_ahead: None,
            check_rival: None,
            edits: 0,
            recheck: false,
            complete: false,
            compare: false,
            advance: None,
            verify: None,
        }
    }
}

impl<D, E, T, R> Batch<D, E, T, R> {
    pub(crate) fn is_empty(&self) -> bool {
        self.settle.is_none()
            && !self.recall
            && self.stage_ahead.is_none()
            && self.edits == 0
            && !self.recheck
            && !self.compare
            && self.advance.is_none()
            && self.verify.is_none()
            && self.updates() == 0
    }

    pub(crate) fn desired_updates(&self) -> usize {
        fn count<D, T, R>(routed: &[Routed<D, T, R>]) -> usize {
            routed.iter().map(|routed| routed.updates.len()).sum()
        }
        count(&self.desired_ok) + count(&self.desired_err)
    }

    fn persist_updates(&self) -> usize {
        fn count<U>(containers: &[Vec<U>]) -> usize {
            containers.iter().map(Vec::len).sum()
        }
        count(&self.persist_ok) + count(&self.persist_err)
    }
}

impl<D, E, T, R> Weigh for Batch<D, E, T, R> {
    fn updates(&self) -> usize {
        self.desired_updates() + self.persist_updates()
    }

    fn read_back(&self) -> usize {
        self.persist_updates()
    }

    fn bytes(&self) -> usize {
        fn size<U>(containers: &[Vec<U>]) -> usize {
            let containers = containers.iter();
            containers
                .map(|container| size_of_val(container.as_slice()))
                .sum()
        }
        let desired_ok = self.desired_ok.iter().map(Routed::bytes);
        let desired_err = self.desired_err.iter().map(Routed::bytes);
        desired_ok.sum::<usize>()
            + desired_err.sum::<usize>()
            + size(&self.persist_ok)
            + size(&self.persist_err)
    }
}
