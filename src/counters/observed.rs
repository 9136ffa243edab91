//! What a context remembers of its sinks and sources for those who scrape metrics, also when they have ended.
//!
//! A series that disappears with the handle that it is about loses what was counted since it was last looked at, and
//! never says how the sink ended. So each has a place here for as long as the context lives. Their number is bounded: of
//! those that have ended the last [`ENDED_MAX`] are kept, and one that begins in the place of another, with its name and
//! its address, goes on with its counters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mvsink_persist::Frontier;
use tokio::sync::watch;

use super::{Counters, Metrics};
use crate::channel::Meter;
use crate::instance::{Instance, Kind};
use crate::status::Status;

/// How many that have ended are remembered.
const ENDED_MAX: usize = 1000;

/// All sinks and sources that a context has had, up to a number.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    places: BTreeMap<Key, Remembered>,
    /// The number of the next one.
    next: u64,
}

/// What tells one from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// Where it is in the dataflows of its workers.
    pub(crate) address: Vec<usize>,
}

#[derive(Debug)]
struct Remembered {
    instance: Weak<Instance>,
    metrics: Arc<Metrics>,
    /// Keeps the last status when the sink is gone.
    status: watch::Receiver<Status>,
    /// What those counted that were in this place before.
    before: Counters,
    number: u64,
}

/// What there is to say of one sink or source.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) key: Key,
    pub(crate) counters: Counters,
    pub(crate) status: Status,
    /// The last that was known of the shard; `None` if it was never open.
    pub(crate) shard: Option<ShardSize>,
    /// The upper that a handle reports.
    pub(crate) upper: Option<Frontier<i64>>,
    /// How far a source is behind its shard.
    pub(crate) behind: Option<u64>,
}

/// How large a shard is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardSize {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// As far as its files say.
    pub(crate) rows: u64,
}

/// What is known of a shard, and stays known when the sink is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) upper: Frontier<i64>,
    /// As far as it was given to, or taken from, the dataflow.
    pub(crate) reported: Option<Frontier<i64>>,
    pub(crate) size: ShardSize,
}

impl Registry {
    /// Remembers one that begins.
    pub(crate) fn add(&self, key: Key, instance: &Arc<Instance>) {
        let mut places = self.lock();
        let number = places.next;
        places.next += 1;
        let mut remembered = Remembered {
            instance: Arc::downgrade(instance),
            metrics: Arc::clone(&instance.metrics),
            status: instance.status(),
            before: Counters::default(),
            number,
        };
        if let Some(former) = places.places.remove(&key) {
            remembered.before = former.counters();
        }
        places.places.insert(key, remembered);
        places.forget_oldest();
    }

    /// What there is to say of each.
    pub(crate) fn observed(&self) -> Vec<Observed> {
        let places = self.lock();
        let all = places.places.iter();
        all.map(|(key, remembered)| remembered.observed(key.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Keeps the last of those that have ended.
    fn forget_oldest(&mut self) {
        let ended = self.places.iter().filter(|(_, of)| of.has_ended());
        let mut ended: Vec<_> = ended.map(|(key, of)| (of.number, key.clone())).collect();
        ended.sort_unstable_by_key(|(number, _)| *number);
        let surplus = ended.len().saturating_sub(ENDED_MAX);
        for (_, key) in ended.drain(..surplus) {
            self.places.remove(&key);
        }
    }
}

impl Remembered {
    fn has_ended(&self) -> bool {
        self.instance.strong_count() == 0
    }

    /// What was counted in this place.
    fn counters(&self) -> Counters {
        let mut counters = match self.instance.upgrade() {
            Some(instance) => instance.counters(),
            None => self.metrics.counters(None, &Meter::default()),
        };
        counters.go_on_from(&self.before);
        counters
    }

    fn observed(&self, key: Key) -> Observed {
        let known = match self.instance.upgrade() {
            Some(instance) => instance.known(),
            None => self.metrics.known(),
        };
        let upper = known.and_then(|known| known.reported);
        let of_shard = known.map(|known| known.upper);
        let behind = upper.zip(of_shard).and_then(|(given, upper)| {
            let (given, upper) = (given.time()?.max(0), upper.time()?);
            u64::try_from(upper.saturating_sub(given)).ok()
        });
        Observed {
            counters: self.counters(),
            status: self.status.borrow().clone(),
            shard: known.map(|known| known.size),
            upper,
            behind: behind.filter(|_| key.kind == Kind::Source),
            key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            kind: Kind::Sink,
            name: name.to_owned(),
            address: vec![0, 1],
        }
    }

    fn instance(name: &str) -> Arc<Instance> {
        Instance::new(name, Kind::Sink, "memory://view".to_owned())
    }

    #[test]
    fn the_last_that_have_ended_are_remembered_and_all_that_live() {
        let registry = Registry::default();
        let alive = instance("alive");
        registry.add(key("alive"), &alive);
        for number in 0..ENDED_MAX + 5 {
            let name = format!("{number:05}");
            registry.add(key(&name), &instance(&name));
        }
        // The next one forgets those that have ended meanwhile.
        let next = instance("next");
        registry.add(key("next"), &next);
        let observed = registry.observed();
        let names: Vec<_> = observed.iter().map(|of| of.key.name.as_str()).collect();
        assert_eq!(names.len(), ENDED_MAX + 2);
        assert!(names.contains(&"alive") && names.contains(&"next"));
        assert!(
            !names.contains(&"00004") && names.contains(&"00005"),
            "{names:?}"
        );
    }

    #[test]
    fn one_in_the_place_of_another_goes_on_with_its_counters() {
        let registry = Registry::default();
        for count in [3, 4] {
            let instance = instance("view");
            registry.add(key("view"), &instance);
            instance.metrics.updates_in.add(count);
            instance.cancelled();
        }
        let observed = registry.observed();
        assert_eq!(observed.len(), 1);
        assert_eq!(observed[0].counters.updates_in, 7);
        assert!(matches!(observed[0].status, Status::Cancelled));
    }
}
