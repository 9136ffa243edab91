//! What one activation of `write` saw, for its corrections.

use mvsink_persist::Frontier;

use crate::channel::Weigh;

/// All that one activation of the operator saw.
pub(crate) struct Batch<D, E, T, R> {
    pub(crate) desired_ok: Vec<Vec<(D, T, R)>>,
    pub(crate) desired_err: Vec<Vec<(E, T, R)>>,
    pub(crate) persist_ok: Vec<Vec<(D, T, R)>>,
    pub(crate) persist_err: Vec<Vec<(E, T, R)>>,
    /// What became of the batch in flight.
    pub(crate) settle: Option<Settle>,
    /// What was staged ahead is to be taken back.
    pub(crate) recall: bool,
    /// Updates at this time may be staged ahead from now on.
    pub(crate) stage_ahead: Option<T>,
    /// A rival moved the shard's upper here, and desired is complete up to here.
    pub(crate) check_rival: Option<T>,
    /// Desired is complete at the cutoff, as of what is in this batch.
    pub(crate) compare: bool,
    /// The new frontier of the read-back.
    pub(crate) advance: Option<Frontier<T>>,
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
            compare: false,
            advance: None,
        }
    }
}

impl<D, E, T, R> Batch<D, E, T, R> {
    pub(crate) fn is_empty(&self) -> bool {
        self.settle.is_none()
            && !self.recall
            && self.stage_ahead.is_none()
            && !self.compare
            && self.advance.is_none()
            && self.updates() == 0
    }

    pub(crate) fn desired_updates(&self) -> usize {
        count(&self.desired_ok) + count(&self.desired_err)
    }

    fn persist_updates(&self) -> usize {
        count(&self.persist_ok) + count(&self.persist_err)
    }
}

fn count<U>(containers: &[Vec<U>]) -> usize {
    containers.iter().map(Vec::len).sum()
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
            containers
                .iter()
                .map(|container| container.len() * size_of::<U>())
                .sum()
        }
        size(&self.desired_ok)
            + size(&self.desired_err)
            + size(&self.persist_ok)
            + size(&self.persist_err)
    }
}
