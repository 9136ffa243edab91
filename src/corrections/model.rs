//! The corrections as a map: what they mean, with no thought for cost.

use std::collections::BTreeMap;

use mvsink_persist::Frontier;

use super::CorrectionStore;
use crate::time::{Diff, Time};

/// A [`CorrectionStore`] that anybody can see to be right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Model<D, T> {
    held: BTreeMap<(D, T), i128>,
    since: Option<T>,
}

impl<D: Ord + Clone, T: Time> Model<D, T> {
    pub(crate) fn new() -> Self {
        Model {
            held: BTreeMap::new(),
            since: None,
        }
    }

    fn add(&mut self, data: D, time: T, diff: i128) {
        let time = self.since.map_or(time, |since| since.max(time));
        let held = self.held.entry((data, time)).or_default();
        *held += diff;
        self.held.retain(|_, diff| *diff != 0);
    }
}

impl<D: Ord + Clone, T: Time, R: Diff> CorrectionStore<D, T, R> for Model<D, T> {
    type Drained = BTreeMap<(D, T), i128>;

    fn insert(&mut self, container: Vec<(D, T, R)>) {
        for (data, time, diff) in container {
            self.add(data, time, diff.to_i64().into());
        }
    }

    fn insert_negated(&mut self, container: Vec<(D, T, R)>) {
        for (data, time, diff) in container {
            self.add(data, time, -i128::from(diff.to_i64()));
        }
    }

    fn advance(&mut self, since: T) {
        self.since = Some(self.since.map_or(since, |present| present.max(since)));
        for ((data, time), diff) in std::mem::take(&mut self.held) {
            self.add(data, time, diff);
        }
    }

    fn discard_before(&mut self, frontier: Frontier<T>) {
        self.held.retain(|(_, time), _| !frontier.is_complete(time));
    }

    fn drain(&mut self, upper: Frontier<T>) -> Self::Drained {
        let held = std::mem::take(&mut self.held);
        let (drained, held) = held
            .into_iter()
            .partition(|((_, time), _)| upper.is_complete(time));
        self.held = held;
        drained
    }

    fn give_back(&mut self, drained: Self::Drained) {
        for ((data, time), diff) in drained {
            self.add(data, time, diff);
        }
    }

    fn consolidate(&mut self) {}

    fn len(&self) -> usize {
        self.held.values().map(|diff| updates(*diff)).sum()
    }
}

/// How many updates it takes to say this sum.
pub(crate) fn updates(sum: i128) -> usize {
    let most = i128::from(if sum < 0 { i64::MIN } else { i64::MAX });
    usize::try_from(sum.unsigned_abs().div_ceil(most.unsigned_abs())).expect("few")
}
