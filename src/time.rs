//! The times and the differences that a sink can store.
//!
//! A shard keeps times as `bigint` and knows only totally ordered ones, so a time here is `Ord` and maps,
//! monotonically, to `i64`. Differences are integers that add up in `i64`.

use std::fmt::Debug;
use std::hash::Hash;

/// A totally ordered time that a shard can store.
///
/// Contract: `to_i64` is strictly monotone where it is `Some`, times that do not fit are later than all that do,
/// and `from_i64(t.to_i64()?) == Some(t)`. `i64::MAX` never names a time: it stands for the empty frontier.
pub trait Time: Copy + Ord + Debug + Hash + Send + Sync + 'static {
    /// The time as a shard stores it, `None` if it does not fit.
    fn to_i64(self) -> Option<i64>;

    /// The time that a shard stored, `None` if this type cannot hold it.
    fn from_i64(stored: i64) -> Option<Self>;
}

macro_rules! unsigned_times {
    ($($time:ty),*) => {$(
        impl Time for $time {
            fn to_i64(self) -> Option<i64> {
                i64::try_from(self).ok().filter(|time| *time != i64::MAX)
            }

            fn from_i64(stored: i64) -> Option<Self> {
                if stored == i64::MAX { None } else { Self::try_from(stored).ok() }
            }
        }
    )*};
}

unsigned_times!(u8, u16, u32, u64, usize);

/// A difference: how often a row is added, or, if negative, taken away.
pub trait Diff: Copy + Debug + Send + Sync + 'static {
    /// The difference as a shard stores it.
    fn to_i64(self) -> i64;

    /// The difference that a shard stored, `None` if this type cannot hold it.
    fn from_i64(stored: i64) -> Option<Self>;
}

macro_rules! signed_diffs {
    ($($diff:ty),*) => {$(
        impl Diff for $diff {
            fn to_i64(self) -> i64 {
                // Lossless: none of these types is wider than 64 bits.
                self as i64
            }

            fn from_i64(stored: i64) -> Option<Self> {
                Self::try_from(stored).ok()
            }
        }
    )*};
}

signed_diffs!(i64, i32, isize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_leave_the_empty_frontier_alone() {
        assert_eq!(200u8.to_i64(), Some(200));
        assert_eq!(u8::from_i64(256), None);
        assert_eq!(u64::from_i64(-1), None);
        assert_eq!(u64::from_i64(i64::MAX), None);
        assert_eq!((i64::MAX as u64).to_i64(), None);
        assert_eq!((i64::MAX as u64 - 1).to_i64(), Some(i64::MAX - 1));
        assert_eq!(u64::MAX.to_i64(), None);
        assert_eq!(usize::from_i64(7), Some(7));
    }

    #[test]
    fn diffs_round_trip() {
        assert_eq!(Diff::to_i64(-3i32), -3);
        assert_eq!(<i32 as Diff>::from_i64(i64::from(i32::MAX) + 1), None);
        assert_eq!(<isize as Diff>::from_i64(-1), Some(-1));
    }
}
