//! The holds that a log says exist: leases on the right to read.
//!
//! A hold is a slot with a name, in four `txn` actions, which survive checkpoints and other tools' maintenance:
//!
//! ```text
//!   mvsink.hold.<name>    the frontier it protects: the since does not pass it     i64::MAX: released
//!   mvsink.pin.<name>     files removed after this version of the log are kept     i64::MAX: none
//!   mvsink.lease.<name>   its lease in milliseconds
//!   mvsink.owner.<name>   a random number, the identity of whoever took it
//! ```
//!
//! A renewal writes the first again with another `lastUpdated`. That is compared with nothing but its predecessor:
//! a hold *lapses* when this process has seen the same setting for the lease, on its own monotonic clock, counted
//! from the moment it saw the setting first. A process that has just opened the shard begins to count.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::frontier::Frontier;
use crate::log::action::Txn;

const HOLD: &str = "mvsink.hold.";
const PIN: &str = "mvsink.pin.";
const LEASE: &str = "mvsink.lease.";
const OWNER: &str = "mvsink.owner.";

/// The lease of a hold that another program left without one, in milliseconds.
const LEASE_DEFAULT_MS: i64 = 60 * 60 * 1000;

/// The name of the hold whose frontier this `txn` action sets, if it does.
pub(crate) fn held(app_id: &str) -> Option<&str> {
    app_id.strip_prefix(HOLD)
}

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The empty frontier means released.
    pub(crate) frontier: Frontier<i64>,
    pub(crate) pin: Option<u64>,
    pub(crate) lease_ms: i64,
    pub(crate) owner: i64,
    /// Differs with every renewal.
    pub(crate) renewed_ms: i64,
}

impl Slot {
    pub(crate) fn is_released(&self) -> bool {
        self.frontier.is_empty()
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.lease_ms).unwrap_or(0))
    }

    /// The slot taken back from whoever has it.
    pub(crate) fn released(&self) -> Slot {
        Slot {
            frontier: Frontier::Empty,
            pin: None,
            owner: 0,
            ..self.clone()
        }
    }

    /// The actions that turn `before` into this, as a setting that differs from it.
    pub(crate) fn to_txns(&self, name: &str, before: Option<&Slot>, now_ms: i64) -> Vec<Txn> {
        let renewed_ms =
            before.map_or(now_ms, |slot| now_ms.max(slot.renewed_ms.saturating_add(1)));
        let pin = self
            .pin
            .map_or(i64::MAX, |pin| i64::try_from(pin).unwrap_or(i64::MAX));
        let values = [
            (HOLD, self.frontier.to_version(), true),
            (PIN, pin, before.is_none_or(|slot| slot.pin != self.pin)),
            (
                LEASE,
                self.lease_ms,
                before.is_none_or(|slot| slot.lease_ms != self.lease_ms),
            ),
            (
                OWNER,
                self.owner,
                before.is_none_or(|slot| slot.owner != self.owner),
            ),
        ];
        let changed = values.into_iter().filter(|(_, _, changed)| *changed);
        changed
            .map(|(kind, version, _)| Txn {
                app_id: format!("{kind}{name}"),
                version,
                last_updated: Some(renewed_ms),
            })
            .collect()
    }

    fn from_txns(txns: &BTreeMap<String, Txn>, name: &str) -> Option<Slot> {
        let version = |kind: &str| Some(txns.get(&format!("{kind}{name}"))?.version);
        let hold = txns.get(&format!("{HOLD}{name}"))?;
        Some(Slot {
            frontier: Frontier::from_version(hold.version.max(0)),
            pin: version(PIN)
                .filter(|pin| *pin != i64::MAX)
                .map(|pin| u64::try_from(pin).unwrap_or(0)),
            lease_ms: version(LEASE).unwrap_or(LEASE_DEFAULT_MS).max(0),
            owner: version(OWNER).unwrap_or(0),
            renewed_ms: hold.last_updated.unwrap_or(0),
        })
    }
}

/// A slot, and when this process saw its setting first.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) slot: Slot,
    seen: Instant,
}

impl Held {
    /// True if it is held, and was not renewed for its lease as seen from here.
    pub(crate) fn is_lapsed(&self) -> bool {
        !self.slot.is_released() && self.seen.elapsed() >= self.slot.lease()
    }

    /// True if it is held, and its lease has not run out as seen from here.
    pub(crate) fn is_live(&self) -> bool {
        !self.slot.is_released() && !self.is_lapsed()
    }
}

/// All slots by their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds {
    slots: BTreeMap<String, Held>,
}

impl Holds {
    /// Takes up what `changed` changes; `txns` are all that are in force after it.
    pub(crate) fn update<'a>(
        &mut self,
        txns: &BTreeMap<String, Txn>,
        changed: impl Iterator<Item = &'a Txn>,
    ) {
        for txn in changed {
            let kinds = [HOLD, PIN, LEASE, OWNER];
            let Some(name) = kinds.iter().find_map(|kind| txn.app_id.strip_prefix(kind)) else {
                continue;
            };
            let Some(slot) = Slot::from_txns(txns, name) else {
                continue;
            };
            if self.slots.get(name).is_none_or(|held| held.slot != slot) {
                let seen = Instant::now();
                self.slots.insert(name.to_owned(), Held { slot, seen });
            }
        }
    }

    /// Goes on counting for the settings that `earlier` had seen already.
    pub(crate) fn go_on_from(&mut self, earlier: &Holds) {
        for (name, held) in &mut self.slots {
            if let Some(before) = earlier.get(name)
                && before.slot == held.slot
            {
                held.seen = before.seen;
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Held> {
        self.slots.get(name)
    }

    /// The holds that were not released, in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Held)> {
        let slots = self.slots.iter();
        slots.filter(|(_, held)| !held.slot.is_released())
    }

    /// The least frontier that a live hold protects; the empty one if there is none.
    pub(crate) fn least_frontier(&self) -> Frontier<i64> {
        let live = self.slots.values().filter(|held| held.is_live());
        live.map(|held| held.slot.frontier)
            .min()
            .unwrap_or(Frontier::Empty)
    }

    /// The oldest version that a hold pins which was not released. Lapsed ones count: they end by a commit that
    /// says so, for their owners to see, before anything relies on it.
    pub(crate) fn oldest_pin(&self) -> Option<u64> {
        self.iter().filter_map(|(_, held)| held.slot.pin).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(holds: &mut Holds, txns: &mut BTreeMap<String, Txn>, changed: Vec<Txn>) {
        for txn in &changed {
            txns.insert(txn.app_id.clone(), txn.clone());
        }
        holds.update(txns, changed.iter());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_lapses_a_lease_after_its_last_renewal_was_seen() {
        let (mut holds, mut txns) = (Holds::default(), BTreeMap::new());
        let slot = Slot {
            frontier: Frontier::At(5),
            pin: Some(9),
            lease_ms: 1000,
            owner: 3,
            renewed_ms: 70,
        };
        apply(&mut holds, &mut txns, slot.to_txns("a", None, 70));
        assert_eq!(holds.get("a").unwrap().slot, slot);
        assert_eq!(holds.least_frontier(), Frontier::At(5));
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(holds.get("a").unwrap().is_live());
        // Renewed by a clock that stands still.
        let renewal = slot.to_txns("a", Some(&slot), 70);
        assert_eq!(renewal.len(), 1);
        apply(&mut holds, &mut txns, renewal);
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(holds.get("a").unwrap().is_live());
        // The same setting, seen again, is no renewal.
        let again: Vec<_> = txns.values().cloned().collect();
        let mut loaded = Holds::default();
        loaded.update(&txns, again.iter());
        loaded.go_on_from(&holds);
        tokio::time::advance(Duration::from_millis(1)).await;
        for holds in [&holds, &loaded] {
            assert!(holds.get("a").unwrap().is_lapsed());
            assert_eq!(holds.least_frontier(), Frontier::Empty);
            assert_eq!(holds.oldest_pin(), Some(9));
        }
        let held = holds.get("a").unwrap().slot.clone();
        let released = held.released().to_txns("a", Some(&held), 0);
        apply(&mut holds, &mut txns, released);
        assert_eq!((holds.iter().count(), holds.oldest_pin()), (0, None));
    }
}
