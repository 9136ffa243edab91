//! Times as the store's clock tells them, and how much of them to believe.
//!
//! Objects get their times from the store, and ages are differences between such times: no process's clock matters. But
//! a copy, a restore or another machine can leave an object with any time at all. So:
//!
//! - *now is asked for*: with an object that is written now. Where none can be, the newest object is as good as "now", as
//!   far as this process's clock permits. So one object in the future makes nothing else old.
//! - *log entries are put one after the other*: what contradicts that is nobody's time, and the entry counts as put when
//!   the next one was, or now. It is the younger for it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt, PutPayload};

use crate::log::checkpoint::LogFile;
use crate::log::{entry_path, folder};
use crate::storage::Storage;

/// Up to here a time says that nobody knew it: archives that are to be the same each time have 0 or 1 in it.
const UNKNOWN_MAX: Duration = Duration::from_secs(2);

/// A time in milliseconds since 1970.
pub(crate) fn to_ms(at: SystemTime) -> i64 {
    let since_1970 = at.duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since_1970.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

/// The time that [`to_ms`] gives this for.
pub(crate) fn from_ms(at_ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(at_ms).unwrap_or(0))
}

/// How long ago `at` was; nothing if it lies in the future.
pub(crate) fn age(now: SystemTime, at: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}

/// When the entries and checkpoints of a log were put.
#[derive(Debug, Default)]
pub(crate) struct LogTimes {
    entries: BTreeMap<u64, SystemTime>,
    checkpoints: BTreeMap<u64, SystemTime>,
}

impl LogTimes {
    /// Entries that were put then.
    #[cfg(test)]
    pub(crate) fn of_entries(entries: impl IntoIterator<Item = (u64, SystemTime)>) -> Self {
        LogTimes {
            entries: entries.into_iter().collect(),
            checkpoints: BTreeMap::new(),
        }
    }

    /// Takes an object of the log into account.
    pub(crate) fn add(&mut self, object: &ObjectMeta) {
        let at = SystemTime::from(object.last_modified);
        match object.location.filename().and_then(LogFile::from_name) {
            Some(LogFile::Entry(version)) => self.entries.insert(version, at),
            Some(LogFile::Checkpoint(version)) => self.checkpoints.insert(version, at),
            _ => None,
        };
    }

    /// Replaces times that cannot be by later ones that can.
    pub(crate) fn bound(&mut self, now: SystemTime) {
        let unknown_max = SystemTime::UNIX_EPOCH + UNKNOWN_MAX;
        let mut earlier = unknown_max;
        // Those that contradict nothing before them.
        let known = self.entries.iter().filter(|(_, at)| {
            let known = (earlier..=now).contains(*at);
            if known {
                earlier = **at;
            }
            known
        });
        let known: BTreeMap<u64, SystemTime> = known.map(|(version, at)| (*version, *at)).collect();
        let mut later = now;
        for (version, at) in self.entries.iter_mut().rev() {
            later = known.get(version).copied().unwrap_or(later);
            *at = later;
        }
        for (version, at) in &mut self.checkpoints {
            if *at > now {
                let next = self.entries.range(version + 1..).next();
                *at = next.map_or(now, |(_, at)| *at);
            }
        }
    }

    /// The entries whose times cannot be, whatever the others' are.
    pub(crate) fn impossible(&self, now: SystemTime) -> impl Iterator<Item = Path> {
        let unknown_max = SystemTime::UNIX_EPOCH + UNKNOWN_MAX;
        let entries = self.entries.iter();
        let entries = entries.filter(move |(_, at)| !(unknown_max..=now).contains(*at));
        entries.map(|(version, _)| entry_path(*version))
    }

    /// When this entry was put, if it is there.
    pub(crate) fn entry(&self, version: u64) -> Option<SystemTime> {
        self.entries.get(&version).copied()
    }

    /// When this checkpoint was put, if it is there.
    pub(crate) fn checkpoint(&self, version: u64) -> Option<SystemTime> {
        self.checkpoints.get(&version).copied()
    }

    /// The oldest entry that is there.
    pub(crate) fn oldest(&self) -> Option<(u64, SystemTime)> {
        let (version, at) = self.entries.first_key_value()?;
        Some((*version, *at))
    }

    /// The entries up to this version that are younger than `age_max`.
    pub(crate) fn younger(&self, to: u64, now: SystemTime, age_max: Duration) -> Vec<u64> {
        let entries = self.entries.range(..=to);
        let young = entries.filter(|(_, at)| age(now, **at) < age_max);
        young.map(|(version, _)| *version).collect()
    }
}

impl Storage {
    /// The store's time, by an object that is written now; `None` if it cannot be.
    pub(crate) async fn ask_time(&self) -> Option<SystemTime> {
        if self.local.is_some() {
            return self.local_now().await;
        }
        let path = folder().join("_now");
        let asked = async {
            self.store.put(&path, PutPayload::new()).await?;
            let asked = self.store.head(&path).await;
            // Who may not delete leaves an empty object, which is written over the next time.
            let _ = self.store.delete(&path).await;
            asked
        };
        match asked.await {
            Ok(object) => Some(object.last_modified.into()),
            Err(error) => {
                tracing::debug!(shard = %self.url, %error, "the store does not tell the time");
                None
            }
        }
    }

    /// The store's time, as the newest of its objects and this process's clock tell it: the earlier of them.
    pub(crate) fn guess_time(&self, newest: SystemTime) -> SystemTime {
        newest.min(self.clock())
    }

    /// This process's clock.
    pub(crate) fn clock(&self) -> SystemTime {
        from_ms(self.env.now_ms())
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    fn second(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn bounded(seconds: &[u64], now: u64) -> Vec<u64> {
        let entries = seconds.iter().map(|at| second(DAY + *at));
        let mut times = LogTimes {
            entries: (1..).zip(entries).collect(),
            checkpoints: BTreeMap::new(),
        };
        times.bound(second(DAY + now));
        let bounded = times.entries.into_values();
        bounded.map(|at| to_ms(at) as u64 / 1000 - DAY).collect()
    }

    #[test]
    fn a_time_in_the_future_is_that_of_the_next_entry() {
        assert_eq!(bounded(&[10, 9_999, 30, 9_999], 50), [10, 30, 30, 50]);
    }

    #[test]
    fn a_time_before_that_of_an_earlier_entry_is_that_of_the_next() {
        assert_eq!(bounded(&[10, 20, 5, 40, 7], 50), [10, 20, 40, 40, 50]);
    }

    #[test]
    fn a_log_in_order_keeps_its_times() {
        assert_eq!(bounded(&[10, 20, 20, 40], 40), [10, 20, 20, 40]);
        assert!(bounded(&[], 40).is_empty());
    }

    #[test]
    fn a_checkpoint_in_the_future_is_as_old_as_the_entry_after_it() {
        let entries = [(1, 10), (2, 20), (3, 30)].map(|(version, at)| (version, second(DAY + at)));
        let mut times = LogTimes {
            entries: entries.into(),
            checkpoints: [1, 2, 3].map(|version| (version, second(9 * DAY))).into(),
        };
        times.bound(second(DAY + 35));
        let checkpoints: Vec<_> = times.checkpoints.into_values().collect();
        assert_eq!(checkpoints, [20, 30, 35].map(|at| second(DAY + at)));
    }

    #[test]
    fn the_first_second_of_1970_is_no_time() {
        let entries = [(1, 1), (2, DAY + 20), (3, 0)].map(|(version, at)| (version, second(at)));
        let mut times = LogTimes {
            entries: entries.into(),
            checkpoints: BTreeMap::new(),
        };
        times.bound(second(DAY + 35));
        let bounded: Vec<_> = times.entries.into_values().collect();
        assert_eq!(bounded, [20, 20, 35].map(|at| second(DAY + at)));
    }
}
