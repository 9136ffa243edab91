//! A task that has nothing to do: its operator answers for it, and it need not wake up.
//!
//! Most views change rarely, and all of them advance. A task is *at rest* once it has done all that it was sent and holds
//! nothing: no corrections, no batch in flight, nothing staged ahead, nothing left to compare, no dispute. Then its part of any
//! batch is empty, and a new frontier of the read-back means nothing to it before it is sent updates again.
//!
//! Invariants, by name:
//!
//! - *only its operator disturbs it*: what the operator finds at rest stays so until the operator sends it something;
//! - *settled where it was answered*: a batch that the task never saw is never settled there;
//! - *frontiers are late, not lost*: the last that was kept back goes with what is sent next.

use mvsink_persist::{CommitId, Frontier};

use super::operator::Orders;
use crate::bounds::Timestamp;
use crate::sync::{Arc, AtomicUsize, Ordering};

/// The task's end.
pub(crate) struct Resting {
    done: usize,
    /// How many commands were done when it was last at rest.
    rested: Arc<AtomicUsize>,
}

impl Resting {
    /// The task has done one more command, and is at rest now, or not.
    pub(crate) fn done(&mut self, at_rest: bool) {
        self.done += 1;
        if at_rest {
            self.rested.store(self.done, Ordering::Release);
        }
    }
}

/// The operator's end.
pub(crate) struct Rest<T> {
    rested: Arc<AtomicUsize>,
    /// How many commands the task was sent.
    sent: usize,
    /// The frontier of the read-back that it was not told.
    advance: Option<Frontier<T>>,
    /// The batch in flight was answered here.
    answered: bool,
}

/// The two ends for one task, which begins with work to do.
pub(crate) fn rest<T>() -> (Rest<T>, Resting) {
    let rested = Arc::new(AtomicUsize::new(0));
    let resting = Resting {
        done: 0,
        rested: Arc::clone(&rested),
    };
    let rest = Rest {
        rested,
        sent: 0,
        advance: None,
        answered: false,
    };
    (rest, resting)
}

impl<T: Timestamp> Rest<T> {
    /// Takes out of an activation's orders what a task at rest need not know, so that the others may be sent to it. Gives the
    /// batch whose part is empty.
    pub(crate) fn answer<D, E, R>(&mut self, orders: &mut Orders<D, E, T, R>) -> Option<CommitId> {
        if let Some(batch) = &mut orders.batch
            && batch.settle.is_some()
            && std::mem::take(&mut self.answered)
        {
            batch.settle = None;
        }
        // Nothing was sent yet: it has not begun.
        let at_rest = self.sent > 0 && self.rested.load(Ordering::Acquire) == self.sent;
        if at_rest && let Some(batch) = &mut orders.batch {
            self.advance = batch.advance.take().or(self.advance);
            // It holds nothing that a rival's batch could differ from.
            batch.check_rival = None;
        }
        orders.batch.take_if(|batch| batch.is_empty());
        let answered = match at_rest && orders.batch.is_none() {
            true => orders.write.take(),
            false => None,
        };
        if let Some(batch) = &mut orders.batch {
            batch.advance = batch.advance.or(self.advance.take());
        }
        self.sent += usize::from(orders.batch.is_some()) + usize::from(orders.write.is_some());
        self.answered |= answered.is_some();
        answered.map(|description| description.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::Description;
    use crate::route::Routed;
    use crate::write::batch::{Batch, Settle};

    type Told = Orders<u64, String, u64, i64>;

    fn batch(change: impl FnOnce(&mut Batch<u64, String, u64, i64>)) -> Told {
        let mut batch = Batch::default();
        change(&mut batch);
        Orders {
            batch: Some(batch),
            write: None,
        }
    }

    fn write(lower: u64) -> Told {
        Orders {
            batch: None,
            write: Some(Description {
                id: CommitId {
                    nonce: 7,
                    seq: lower,
                },
                lower,
                upper: Frontier::At(lower + 1),
                appender: 0,
            }),
        }
    }

    /// An operator's end, of a task that has done one command and rests.
    fn at_rest() -> (Rest<u64>, Resting) {
        let (mut rest, mut resting) = rest();
        // Before it has begun nothing is answered for it.
        assert_eq!(rest.answer(&mut write(0)), None);
        resting.done(true);
        (rest, resting)
    }

    #[test]
    fn an_idle_tick_is_answered_without_the_task() {
        let (mut rest, _resting) = at_rest();
        for time in 1..4 {
            assert_eq!(rest.answer(&mut write(time)).unwrap().seq, time);
            let mut settled = batch(|batch| {
                batch.settle = Some(Settle::Own);
                batch.advance = Some(Frontier::At(time + 1));
                batch.check_rival = Some(time + 1);
            });
            assert_eq!(rest.answer(&mut settled), None);
            assert!(settled.batch.is_none());
        }
        // The frontier that was kept back comes with what is sent next.
        let mut update = batch(|batch| batch.desired_ok = vec![Routed::here(vec![(7, 4, 1)])]);
        update.write = write(4).write;
        assert_eq!(rest.answer(&mut update), None);
        assert_eq!(update.batch.unwrap().advance, Some(Frontier::At(4)));
        assert!(update.write.is_some());
    }

    #[test]
    fn a_task_that_may_hold_something_is_asked() {
        let (mut rest, mut resting) = at_rest();
        let mut update = batch(|batch| batch.desired_ok = vec![Routed::here(vec![(7, 1, 1)])]);
        rest.answer(&mut update);
        assert_eq!(rest.answer(&mut write(1)), None);
        resting.done(false);
        resting.done(false);
        assert_eq!(rest.answer(&mut write(2)), None);
        let mut settled = batch(|batch| {
            batch.settle = Some(Settle::Own);
            batch.advance = Some(Frontier::At(2));
        });
        rest.answer(&mut settled);
        let settled = settled.batch.unwrap();
        assert_eq!(
            (settled.settle, settled.advance),
            (Some(Settle::Own), Some(Frontier::At(2)))
        );
        // It rests only once it has done all of this.
        resting.done(true);
        assert_eq!(rest.answer(&mut write(3)), None);
        resting.done(false);
        resting.done(true);
        assert!(rest.answer(&mut write(4)).is_some());
    }

    #[test]
    fn what_was_answered_and_lost_is_no_loss_of_the_tasks() {
        let (mut rest, _resting) = at_rest();
        assert!(rest.answer(&mut write(1)).is_some());
        let mut lost = batch(|batch| {
            batch.settle = Some(Settle::Lost);
            batch.advance = Some(Frontier::At(5));
            batch.persist_ok = vec![vec![(7, 1, 1)]];
        });
        assert_eq!(rest.answer(&mut lost), None);
        let lost = lost.batch.unwrap();
        assert_eq!((lost.settle, lost.advance), (None, Some(Frontier::At(5))));
    }
}
