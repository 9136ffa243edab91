//! Frontiers of a totally ordered time.
//!
//! A frontier `F` splits the times in two: the times `t < F` are complete (nothing will change there
//! any more), the times `t ≥ F` are still open. In a totally ordered domain an antichain has at most one
//! element, so a frontier is either *at* a time or *empty*; the empty frontier is beyond every time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A frontier of totally ordered times: either at a time, or empty.
///
/// The order is that of progress: `At(a) < At(b)` if `a < b`, and everything is `≤ Empty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Frontier<T> {
    /// Times at or after this one are open.
    At(T),
    /// No time is open: the collection is complete.
    Empty,
}

impl<T> Frontier<T> {
    /// True if no time is open any more.
    pub fn is_empty(&self) -> bool {
        matches!(self, Frontier::Empty)
    }

    /// The least open time, `None` for the empty frontier.
    pub fn time(self) -> Option<T> {
        match self {
            Frontier::At(time) => Some(time),
            Frontier::Empty => None,
        }
    }

    /// The same frontier with its time changed by `map`, which must be monotone.
    pub fn map<S>(self, map: impl FnOnce(T) -> S) -> Frontier<S> {
        match self {
            Frontier::At(time) => Frontier::At(map(time)),
            Frontier::Empty => Frontier::Empty,
        }
    }
}

impl<T: Ord> Frontier<T> {
    /// True if `time` is complete: `time < self`.
    pub fn is_complete(&self, time: &T) -> bool {
        match self {
            Frontier::At(open) => time < open,
            Frontier::Empty => true,
        }
    }
}

impl<T> From<Option<T>> for Frontier<T> {
    fn from(time: Option<T>) -> Self {
        match time {
            Some(time) => Frontier::At(time),
            None => Frontier::Empty,
        }
    }
}

impl Frontier<i64> {
    /// The frontier as the version of a `txn` action: the time itself, `i64::MAX` for the empty frontier.
    pub fn to_version(self) -> i64 {
        self.time().unwrap_or(i64::MAX)
    }

    /// The inverse of [`Frontier::to_version`].
    pub fn from_version(version: i64) -> Self {
        if version == i64::MAX {
            Frontier::Empty
        } else {
            Frontier::At(version)
        }
    }
}

impl<T: fmt::Display> fmt::Display for Frontier<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Frontier::At(time) => write!(f, "{time}"),
            Frontier::Empty => f.write_str("(empty)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_beyond_every_time() {
        assert!(Frontier::At(i64::MAX - 1) < Frontier::Empty);
        assert!(Frontier::At(1) < Frontier::At(2));
        assert!(Frontier::At(2).is_complete(&1));
        assert!(!Frontier::At(2).is_complete(&2));
        assert!(Frontier::Empty.is_complete(&i64::MAX));
    }

    #[test]
    fn versions_round_trip() {
        for frontier in [Frontier::At(0), Frontier::At(i64::MAX - 1), Frontier::Empty] {
            assert_eq!(Frontier::from_version(frontier.to_version()), frontier);
        }
    }
}
