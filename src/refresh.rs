//! Refresh schedules: at which times a view becomes durable.
//!
//! A schedule is a set `S` of times. With
//!
//! ```text
//!   next(t) = min { s ∈ S | s ≥ t }, if there is one
//! ```
//!
//! a sink sees every update `(d, t, r)` of its input as `(d, next(t), r)`, its as-of as `next(as-of)`, and its input's
//! frontier as `next(frontier)`. So the shard's upper stands at the next refresh until its input has passed that, and
//! between two refreshes the shard repeats the contents of the first. Where there is no next time the frontier is
//! empty: nothing is left to write.
//!
//! `next` is monotone, not before its argument, and a projection (`next(next(t)) = next(t)`). That is why rounding the
//! as-of, the data and the frontiers one by one gives a collection again, and why a restart rounds as before.

use std::collections::BTreeSet;

use crate::time::Time;
use mvsink_persist::Frontier;

/// When a view is made durable: at once, or only at some times. Times are as the shard stores them.
///
/// ```
/// use mvsink::Refresh;
///
/// // Every hour on the half-hour, and once at the end of the day; times are seconds.
/// let refresh = Refresh::every(3600, 1800).and(Refresh::at([86_399]));
/// assert_eq!(refresh.round_up(0u64), Some(1800));
/// assert_eq!(refresh.round_up(1800u64), Some(1800));
/// assert_eq!(refresh.round_up(85_000u64), Some(86_399));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refresh {
    on_commit: bool,
    /// Intervals, with the time they are aligned to.
    every: BTreeSet<(i64, i64)>,
    at: BTreeSet<i64>,
}

impl Default for Refresh {
    fn default() -> Self {
        Refresh::on_commit()
    }
}

impl Refresh {
    const NEVER: Refresh = Refresh {
        on_commit: false,
        every: BTreeSet::new(),
        at: BTreeSet::new(),
    };

    /// At every time: as soon as the input is complete there.
    pub fn on_commit() -> Self {
        Refresh {
            on_commit: true,
            ..Refresh::NEVER
        }
    }

    /// At `origin`, and at every multiple of `interval` before and after it. An interval below 1 counts as 1.
    pub fn every(interval: i64, origin: i64) -> Self {
        Refresh {
            every: BTreeSet::from([(interval.max(1), origin)]),
            ..Refresh::NEVER
        }
    }

    /// At these times. After the last of them the view is final.
    pub fn at(times: impl IntoIterator<Item = i64>) -> Self {
        Refresh {
            at: times.into_iter().collect(),
            ..Refresh::NEVER
        }
    }

    /// At the times of both.
    pub fn and(mut self, mut other: Refresh) -> Self {
        self.on_commit |= other.on_commit;
        self.every.append(&mut other.every);
        self.at.append(&mut other.at);
        self
    }

    /// True if it is every time.
    pub(crate) fn is_on_commit(&self) -> bool {
        self.on_commit
    }

    /// The first time of the schedule that is not before `time`; `None` if there is none, or none that the type and
    /// a shard can hold.
    pub fn round_up<T: Time>(&self, time: T) -> Option<T> {
        if self.on_commit {
            return Some(time);
        }
        let time = time.to_i64()?;
        let every = self.every.iter().filter_map(|(interval, origin)| {
            let behind = (i128::from(time) - i128::from(*origin)).rem_euclid((*interval).into());
            let ahead = (i128::from(*interval) - behind) % i128::from(*interval);
            i64::try_from(i128::from(time) + ahead).ok()
        });
        let at = self.at.range(time..).next().copied();
        every.chain(at).min().and_then(T::from_i64)
    }

    /// The last time of the schedule that is not after `time`.
    fn round_down(&self, time: i64) -> Option<i64> {
        if self.on_commit {
            return Some(time);
        }
        let every = self.every.iter().filter_map(|(interval, origin)| {
            let ahead = (i128::from(time) - i128::from(*origin)).rem_euclid((*interval).into());
            i64::try_from(i128::from(time) - ahead).ok()
        });
        let at = self.at.range(..=time).next_back().copied();
        every.chain(at).max()
    }
}

/// The times at which a sink writes: those of its refreshes before its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) refresh: Refresh,
    /// The sink sees nothing of what is at or beyond this time.
    pub(crate) until: Option<i64>,
}

impl Schedule {
    /// True if all times are its times.
    pub(crate) fn is_trivial(&self) -> bool {
        self.refresh.on_commit && self.until.is_none()
    }

    /// The time at which the sink sees what is at `time`; `None` if it does not.
    pub(crate) fn round_up<T: Time>(&self, time: T) -> Option<T> {
        let next = self.refresh.round_up(time)?;
        let before = |until: i64| next.to_i64().is_some_and(|next| next < until);
        self.until.is_none_or(before).then_some(next)
    }

    /// The last time before `time` at which the sink sees anything; `None` if there is none.
    pub(crate) fn last_before<T: Time>(&self, time: T) -> Option<T> {
        let end = time.to_i64().unwrap_or(i64::MAX);
        let end = self.until.map_or(end, |until| until.min(end));
        let last = self.refresh.round_down(end.checked_sub(1)?)?;
        T::from_i64(last)
    }

    /// How far the sink sees an input that is at this frontier.
    pub(crate) fn round_up_frontier<T: Time>(&self, frontier: Frontier<T>) -> Frontier<T> {
        frontier.time().and_then(|time| self.round_up(time)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The times of `u8` at which a schedule refreshes, found by trying.
    fn times(refresh: &Refresh) -> Vec<u8> {
        let at = |time: &u8| {
            let time = i64::from(*time);
            let every = |(interval, origin): &(i64, i64)| (time - origin) % interval == 0;
            refresh.on_commit || refresh.at.contains(&time) || refresh.every.iter().any(every)
        };
        (0..=u8::MAX).filter(at).collect()
    }

    fn one() -> impl Strategy<Value = Refresh> {
        prop_oneof![
            1 => Just(Refresh::on_commit()),
            4 => (1..300i64, -300..300i64).prop_map(|(interval, origin)| Refresh::every(interval, origin)),
            4 => prop::collection::vec(-10..300i64, 0..4).prop_map(Refresh::at),
        ]
    }

    fn some() -> impl Strategy<Value = Refresh> {
        let and = |parts: Vec<Refresh>| parts.into_iter().fold(Refresh::NEVER, Refresh::and);
        prop::collection::vec(one(), 0..4).prop_map(and)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rounding_finds_what_trying_finds(refresh in some(), until in prop::option::of(-10..300i64)) {
            let times = times(&refresh);
            let schedule = Schedule { refresh: refresh.clone(), until };
            for time in 0..=u8::MAX {
                let next = times.iter().copied().find(|next| *next >= time);
                prop_assert_eq!(refresh.round_up(time), next, "{}", time);
                let seen = next.filter(|next| until.is_none_or(|until| i64::from(*next) < until));
                prop_assert_eq!(schedule.round_up(time), seen, "{} until", time);
                prop_assert_eq!(schedule.round_up_frontier(Frontier::At(time)), Frontier::from(seen));
                let before = |last: &u8| *last < time && until.is_none_or(|until| i64::from(*last) < until);
                let last = times.iter().copied().rfind(before);
                prop_assert_eq!(schedule.last_before(time), last, "before {}", time);
            }
            prop_assert_eq!(schedule.round_up_frontier(Frontier::<u8>::Empty), Frontier::Empty);
            prop_assert_eq!(schedule.is_trivial(), refresh.on_commit && until.is_none());
        }
    }

    #[test]
    fn times_that_no_shard_can_hold_are_no_refreshes() {
        const LAST: u64 = i64::MAX as u64 - 1;
        assert_eq!(Refresh::at([i64::MAX]).round_up(0u64), None);
        assert_eq!(Refresh::every(2, 0).round_up(LAST), Some(LAST));
        assert_eq!(Refresh::every(3, LAST as i64 - 1).round_up(LAST), None);
        assert_eq!(
            Refresh::every(i64::MAX, i64::MIN).round_up(1u64),
            Some(LAST)
        );
        assert_eq!(Refresh::every(1, 0).round_up(u64::MAX), None);
        // What cannot be stored is told where it is written.
        assert_eq!(Refresh::on_commit().round_up(u64::MAX), Some(u64::MAX));
        assert_eq!(Refresh::every(0, 7).round_up(9u64), Some(9));
    }
}
