//! How much of its past a shard keeps readable.
//!
//! ```text
//!   window(time = d)    from  upper - max(d, 1)              on: the last d times below the upper
//!   window(times = n)   from  (n-th last upper) - 1          on: what each of the last n appends left
//! ```
//!
//! A policy keeps what either of its windows keeps; one without windows keeps everything.

use std::collections::VecDeque;

use crate::frontier::Frontier;
use crate::shard::Shard;

/// Which past of a shard stays readable; [`Shard::permitted_since`] turns it into a since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// So many times below the upper, in the unit of the shard's times; at least the last one.
    pub time: Option<u64>,
    /// What each of so many of the last appends left; at least the last one.
    pub times: Option<usize>,
}

impl Retention {
    /// The greatest since that keeps the windows, for a shard with this upper, whose last uppers were `uppers`
    /// (ascending, the present one included, without the empty one). `None` if nothing may be given up.
    pub(crate) fn window(&self, upper: Frontier<i64>, uppers: &VecDeque<i64>) -> Option<i64> {
        // What is complete keeps its last contents, as of the last time that ever changed them.
        let last = match upper {
            Frontier::At(time) => Some(time),
            Frontier::Empty => uppers.back().map(|time| time.saturating_add(1)),
        };
        let by_time = self.time.map(|time| {
            let time = i64::try_from(time.max(1)).unwrap_or(i64::MAX);
            last.map(|last| last.saturating_sub(time))
        });
        let by_times = self.times.map(|times| {
            let back = uppers.len().checked_sub(times.max(1))?;
            uppers.get(back).map(|time| time.saturating_sub(1))
        });
        let windows = [by_time, by_times].into_iter().flatten();
        // A window that is not known keeps everything.
        windows.min().flatten().filter(|since| *since > 0)
    }
}

impl Shard {
    /// The since that the policy and the live holds permit now: to be given to [`Shard::advance_since`], or to
    /// an append. Never below the present since.
    ///
    /// How many appends back a time lies is known from when this process opened the shard, and for the last few
    /// thousand: until then the since stays where it is.
    pub fn permitted_since(&self, retention: &Retention) -> Frontier<i64> {
        self.inner().with_state(|state| {
            let progress = state.progress();
            let window = retention.window(progress.upper, state.uppers());
            let window = window.map_or(progress.since, Frontier::At);
            window
                .min(state.holds().least_frontier())
                .max(progress.since)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(retention: Retention, upper: Frontier<i64>, uppers: &[i64]) -> Option<i64> {
        retention.window(upper, &uppers.iter().copied().collect())
    }

    #[test]
    fn the_window_is_the_widest_that_is_asked_for() {
        let time = |time| Retention {
            time: Some(time),
            times: None,
        };
        let times = |times| Retention {
            time: None,
            times: Some(times),
        };
        let uppers = [10, 20, 30];
        let at = Frontier::At(30);
        for (retention, expected) in [
            (Retention::default(), None),
            (time(0), Some(29)),
            (time(1), Some(29)),
            (time(12), Some(18)),
            (time(30), None),
            (time(u64::MAX), None),
            (times(0), Some(29)),
            (times(1), Some(29)),
            (times(2), Some(19)),
            (times(3), Some(9)),
            (times(4), None),
        ] {
            assert_eq!(window(retention, at, &uppers), expected, "{retention:?}");
        }
        let both = Retention {
            time: Some(12),
            times: Some(1),
        };
        assert_eq!(window(both, at, &uppers), Some(18));
        let both = Retention {
            time: Some(1),
            times: Some(9),
        };
        assert_eq!(window(both, at, &uppers), None);
    }

    #[test]
    fn a_complete_shard_keeps_its_last_contents() {
        let last = Retention {
            time: Some(1),
            times: None,
        };
        assert_eq!(window(last, Frontier::Empty, &[10, 20]), Some(20));
        assert_eq!(window(last, Frontier::Empty, &[]), None);
    }
}
