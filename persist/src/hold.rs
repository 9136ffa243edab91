//! Holds: leases on the right to read a shard at some time.
//!
//! ```text
//!   a hold at f lives  ⇒  no process moves the since beyond f,
//!                         and none deletes a file that was removed after the version it pins
//! ```
//!
//! A hold has a name and a lease. It is renewed by its owner, and lapses when it was not renewed for its lease, as
//! seen by whoever wants to go on without it ([`crate::log::holds`] says how that is told without comparing clocks).
//! What a lapsed hold protected may go: the since at once, files after a commit that releases the hold. So an owner
//! that comes late either finds its hold as it was, or is told [`Error::HoldLost`] before it reads anything wrong.
//!
//! Names are for ever, in the table's log, so they are reused: readers without a name of their own take the first
//! free one of `reader-1`, `reader-2`, ….

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tracing::Instrument;

use crate::commit::{Outcome, Plan, check_frontier, our_info};
use crate::error::Error;
use crate::frontier::Frontier;
use crate::log::action::{Commit, CommitId, CommitInfo};
use crate::log::holds::Slot;
use crate::log::state::State;
use crate::shard::Shard;
use crate::storage::Storage;

/// How long a dropped hold's release may take before it is left to lapse.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(10);

/// A lease on the right to read a shard at times from a frontier on. See [`Shard::hold`].
///
/// Dropping it releases it, in the background and if the store lets us; otherwise it lapses after its lease. So
/// does one whose process is killed. [`Hold::leave`] drops it without releasing.
#[derive(Debug)]
pub struct Hold {
    inner: Arc<Owned>,
    renewal: Option<AbortHandle>,
    /// Neither left nor released yet.
    held: bool,
}

#[derive(Debug)]
struct Owned {
    shard: Shard,
    token: HoldToken,
}

/// What is needed to take up a hold again that was [left](Hold::leave).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldToken {
    name: String,
    owner: i64,
}

/// A hold as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HoldInfo {
    /// Its name.
    pub name: String,
    /// The since does not pass this.
    pub frontier: Frontier<i64>,
    /// Files that were removed after this version are kept; `None`: it keeps no files.
    pub pin: Option<u64>,
    /// How long it lives without a renewal.
    pub lease: Duration,
    /// True if it was not renewed for its lease, as seen by this process since it opened the shard.
    pub lapsed: bool,
}

impl Shard {
    /// Takes the hold `name`: until it is released or lapses, the since stays at or below `frontier`, and the files
    /// that are live in the version at which it was taken are kept. (Pin afterwards: [`Shard::pin`] is then covered.)
    ///
    /// It must be renewed within `lease`: see [`Hold::renew_in_background`]. A hold of this name that was released or
    /// has lapsed is taken over.
    ///
    /// # Errors
    /// [`Error::BeforeSince`] if the since is beyond `frontier` already, [`Error::HoldTaken`] if the name is in
    /// use, [`Error::HoldName`], [`Error::InvalidFrontier`], and permanent errors of the store and the log.
    pub async fn hold(
        &self,
        name: &str,
        frontier: Frontier<i64>,
        lease: Duration,
    ) -> Result<Hold, Error> {
        self.take(name, frontier, lease, true).await
    }

    /// As [`Shard::hold`], but keeps the since only: files that are removed may go. For those who do not read now,
    /// but must be able to begin later.
    ///
    /// # Errors
    /// As [`Shard::hold`].
    pub async fn hold_since(
        &self,
        name: &str,
        frontier: Frontier<i64>,
        lease: Duration,
    ) -> Result<Hold, Error> {
        self.take(name, frontier, lease, false).await
    }

    /// As [`Shard::hold`], under the first of the names `reader-1`, `reader-2`, … that is free.
    ///
    /// # Errors
    /// As [`Shard::hold`].
    pub async fn hold_reader(
        &self,
        frontier: Frontier<i64>,
        lease: Duration,
    ) -> Result<Hold, Error> {
        self.take_free(frontier, lease, true).await
    }

    /// As [`Shard::hold_since`], under the first of the names `reader-1`, `reader-2`, … that is free.
    ///
    /// # Errors
    /// As [`Shard::hold`].
    pub async fn hold_reader_since(
        &self,
        frontier: Frontier<i64>,
        lease: Duration,
    ) -> Result<Hold, Error> {
        self.take_free(frontier, lease, false).await
    }

    async fn take_free(
        &self,
        frontier: Frontier<i64>,
        lease: Duration,
        pins: bool,
    ) -> Result<Hold, Error> {
        self.refresh().await?;
        let mut number = 0_u64;
        loop {
            number += 1;
            let name = format!("reader-{number}");
            let taken = self.inner().with_state(|state| {
                let held = state.holds().get(&name);
                held.is_some_and(|held| held.is_live())
            });
            if taken {
                continue;
            }
            match self.take(&name, frontier, lease, pins).await {
                Err(Error::HoldTaken { .. }) => {}
                taken => return taken,
            }
        }
    }

    async fn take(
        &self,
        name: &str,
        frontier: Frontier<i64>,
        lease: Duration,
        pins: bool,
    ) -> Result<Hold, Error> {
        check_name(name)?;
        check_hold_frontier(self.url(), frontier)?;
        let env = &self.inner().storage.env;
        // From 1: nobody is 0.
        let owner = i64::try_from(env.random_u128() >> 66).unwrap_or(0).max(1);
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        // Who has it may have released it.
        self.refresh().await?;
        self.set("HOLD", name, |state, before| {
            let since = state.progress().since;
            if let Frontier::At(as_of) = frontier
                && frontier < since
            {
                let url = self.url().to_owned();
                return Err(Error::BeforeSince { url, as_of, since });
            }
            if let Some(held) = state.holds().get(name)
                && held.is_live()
            {
                if held.slot.owner == owner {
                    // By an attempt that seemed to fail.
                    return Ok(None);
                }
                return Err(Error::HoldTaken {
                    url: self.url().to_owned(),
                    name: name.to_owned(),
                    frontier: held.slot.frontier,
                });
            }
            Ok(Some(Slot {
                frontier,
                // This commit's own version: it removes nothing.
                pin: pins.then_some(state.version + 1),
                lease_ms,
                owner,
                renewed_ms: before.map_or(0, |slot| slot.renewed_ms),
            }))
        })
        .await?;
        Ok(Hold::new(self, name.to_owned(), owner))
    }

    /// Takes up a hold again that was [left](Hold::leave), maybe by an earlier process, and renews it.
    ///
    /// # Errors
    /// [`Error::HoldLost`] if it has been taken over or released, and permanent errors of the store and the log.
    pub async fn resume_hold(&self, token: HoldToken) -> Result<Hold, Error> {
        let mut hold = Hold::new(self, token.name, token.owner);
        if let Err(error) = hold.renew().await {
            hold.held = false;
            return Err(error);
        }
        Ok(hold)
    }

    /// The holds that were not released, by name, as far as this process knows.
    pub fn holds(&self) -> Vec<HoldInfo> {
        self.inner().with_state(|state| {
            let holds = state.holds().iter().map(|(name, held)| HoldInfo {
                name: name.clone(),
                frontier: held.slot.frontier,
                pin: held.slot.pin,
                lease: held.slot.lease(),
                lapsed: held.is_lapsed(),
            });
            holds.collect()
        })
    }

    /// Releases the hold of this name, whoever has it; its owner is told [`Error::HoldLost`]. True if there was one.
    ///
    /// # Errors
    /// Permanent ones of the store and the log.
    pub async fn release_hold(&self, name: &str) -> Result<bool, Error> {
        let release = |_: &State, before: Option<&Slot>| {
            let held = before.filter(|slot| !slot.is_released());
            Ok(held.map(Slot::released))
        };
        self.refresh().await?;
        self.set("RELEASE HOLD", name, release).await
    }

    /// Releases the holds that have lapsed as seen from here, and returns their names.
    pub(crate) async fn release_lapsed(&self) -> Result<Vec<String>, Error> {
        let storage = &self.inner().storage;
        let id = self.fresh_id();
        let lapsed = |state: &State| -> Vec<String> {
            let holds = state.holds().iter();
            let lapsed = holds.filter(|(_, held)| held.is_lapsed());
            lapsed.map(|(name, _)| name.clone()).collect()
        };
        let named = std::sync::Mutex::new(Vec::new());
        let plan = |state: &State| {
            let names = lapsed(state);
            if names.is_empty() {
                return Plan::Done(());
            }
            let txns = names.iter().filter_map(|name| {
                let before = &state.holds().get(name)?.slot;
                let now_ms = storage.env.now_ms();
                Some(before.released().to_txns(name, Some(before), now_ms))
            });
            let commit = Commit {
                info: Some(hold_info(storage, state, id, "RELEASE HOLD")),
                txns: txns.flatten().collect(),
                ..Commit::default()
            };
            *crate::lock(&named) = names;
            Plan::Put(Box::new(commit))
        };
        let outcome = self.commit(id, plan, &Storage::warn_of_retry).await?;
        Ok(match outcome {
            Outcome::Committed(_) => std::mem::take(&mut *crate::lock(&named)),
            Outcome::Done(()) => Vec::new(),
        })
    }

    /// Sets a slot to what `next` says by the state and the slot before; true if it was set, false if `next` has
    /// nothing to set.
    async fn set(
        &self,
        operation: &str,
        name: &str,
        next: impl Fn(&State, Option<&Slot>) -> Result<Option<Slot>, Error>,
    ) -> Result<bool, Error> {
        let storage = &self.inner().storage;
        let id = self.fresh_id();
        let plan = |state: &State| {
            let before = state.holds().get(name).map(|held| &held.slot);
            match next(state, before) {
                Err(error) => Plan::Done(Err(error)),
                Ok(None) => Plan::Done(Ok(())),
                Ok(Some(slot)) => Plan::Put(Box::new(Commit {
                    info: Some(hold_info(storage, state, id, operation)),
                    txns: slot.to_txns(name, before, storage.env.now_ms()),
                    ..Commit::default()
                })),
            }
        };
        match self.commit(id, plan, &Storage::warn_of_retry).await? {
            Outcome::Committed(_) => Ok(true),
            Outcome::Done(done) => done.map(|()| false),
        }
    }
}

impl Hold {
    fn new(shard: &Shard, name: String, owner: i64) -> Self {
        Hold {
            inner: Arc::new(Owned {
                shard: shard.clone(),
                token: HoldToken { name, owner },
            }),
            renewal: None,
            held: true,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.token.name
    }

    /// The hold as it is in the log; `None` if it is lost.
    pub fn info(&self) -> Option<HoldInfo> {
        let token = &self.inner.token;
        self.inner.shard.inner().with_state(|state| {
            let held = state.holds().get(&token.name)?;
            let ours = held.slot.owner == token.owner && !held.slot.is_released();
            ours.then(|| HoldInfo {
                name: token.name.clone(),
                frontier: held.slot.frontier,
                pin: held.slot.pin,
                lease: held.slot.lease(),
                lapsed: held.is_lapsed(),
            })
        })
    }

    /// Has its lease begin again.
    ///
    /// # Errors
    /// [`Error::HoldLost`] if it was taken over or released meanwhile, or if the since has passed it: then what it
    /// protected may be gone. Permanent errors of the store and the log.
    pub async fn renew(&self) -> Result<(), Error> {
        self.inner.change(|slot, _| slot).await
    }

    /// Moves its frontier forward, and renews it. The pin stays: see [`Hold::pin`].
    ///
    /// # Errors
    /// As [`Hold::renew`], and [`Error::InvalidFrontier`].
    pub async fn advance(&self, frontier: Frontier<i64>) -> Result<(), Error> {
        check_hold_frontier(self.inner.shard.url(), frontier)?;
        let further = |slot: Slot, _: &State| Slot {
            frontier: slot.frontier.max(frontier),
            ..slot
        };
        self.inner.change(further).await
    }

    /// Moves its pin forward to this version of the log, and renews it: files that were removed up to there are
    /// needed no more. A version beyond the last counts as the last.
    ///
    /// # Errors
    /// As [`Hold::renew`].
    pub async fn pin(&self, version: u64) -> Result<(), Error> {
        let repin = |slot: Slot, state: &State| Slot {
            pin: slot.pin.map(|pin| pin.max(version.min(state.version))),
            ..slot
        };
        self.inner.change(repin).await
    }

    /// Gives up its pin, and renews it: it keeps the since only from now on.
    ///
    /// # Errors
    /// As [`Hold::renew`].
    pub async fn unpin(&self) -> Result<(), Error> {
        self.inner
            .change(|slot, _| Slot { pin: None, ..slot })
            .await
    }

    /// From now on a task of this hold renews it every third of its lease, until the hold ends. If it is lost
    /// nevertheless, the next call of [`Hold::renew`] or [`Hold::advance`] says so.
    pub fn renew_in_background(&mut self) {
        if self.renewal.is_some() {
            return;
        }
        let owned = Arc::clone(&self.inner);
        let shard = &self.inner.shard;
        let span = tracing::debug_span!("renew hold", shard = shard.url(), name = self.name());
        let task = async move {
            while let Some(lease) = owned.lease() {
                tokio::time::sleep(lease / 3).await;
                if let Err(error) = owned.change(|slot, _| slot).await {
                    let name = &owned.token.name;
                    tracing::warn!(shard = owned.shard.url(), name, %error, "could not renew a hold");
                    if !error.is_transient() {
                        return;
                    }
                }
            }
        };
        let handle = &shard.inner().storage.env.handle;
        self.renewal = Some(handle.spawn(task.instrument(span)).abort_handle());
    }

    /// Releases it. That it was lost before is success.
    ///
    /// # Errors
    /// Permanent ones of the store and the log; the hold then lapses after its lease.
    pub async fn release(mut self) -> Result<(), Error> {
        self.end();
        self.inner.release().await
    }

    /// Ends it here without releasing it: it stays until its lease is over. Whoever has the token can take it up again
    /// before ([`Shard::resume_hold`]).
    pub fn leave(mut self) -> HoldToken {
        self.end();
        self.inner.token.clone()
    }

    fn end(&mut self) {
        self.held = false;
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        self.end();
        let owned = Arc::clone(&self.inner);
        let handle = self.inner.shard.inner().storage.env.handle.clone();
        handle.spawn(async move {
            let released = tokio::time::timeout(RELEASE_TIME_MAX, owned.release()).await;
            let (url, name) = (owned.shard.url(), &owned.token.name);
            match released {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(shard = url, name, %error, "a hold is left to lapse");
                }
                Err(_) => tracing::warn!(shard = url, name, "a hold is left to lapse"),
            }
        });
    }
}

impl Owned {
    /// The lease as it is in the log; `None` if the hold is lost.
    fn lease(&self) -> Option<Duration> {
        self.shard.inner().with_state(|state| {
            let slot = &state.holds().get(&self.token.name)?.slot;
            (slot.owner == self.token.owner).then(|| slot.lease())
        })
    }

    async fn change(&self, next: impl Fn(Slot, &State) -> Slot) -> Result<(), Error> {
        let lost = |why: String| Error::HoldLost {
            url: self.shard.url().to_owned(),
            name: self.token.name.clone(),
            why,
        };
        let next = |state: &State, before: Option<&Slot>| {
            let Some(slot) = before.filter(|slot| slot.owner == self.token.owner) else {
                return Err(lost("it lapsed or was released by force".into()));
            };
            let since = state.progress().since;
            if slot.frontier < since {
                return Err(lost(format!("the since is {since} by now")));
            }
            Ok(Some(next(slot.clone(), state)))
        };
        self.shard.set("HOLD", &self.token.name, next).await?;
        Ok(())
    }

    async fn release(&self) -> Result<(), Error> {
        let release = |_: &State, before: Option<&Slot>| {
            let ours = before.filter(|slot| slot.owner == self.token.owner);
            Ok(ours.map(Slot::released))
        };
        self.shard
            .set("RELEASE HOLD", &self.token.name, release)
            .await?;
        Ok(())
    }
}

fn hold_info(storage: &Storage, state: &State, id: CommitId, operation: &str) -> CommitInfo {
    let upper = state.progress().upper;
    CommitInfo {
        operation: operation.into(),
        ..our_info(storage, id, upper, upper)
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if (1..=100).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::HoldName {
        name: name.to_owned(),
    })
}

/// The empty frontier in a slot means that it is released.
fn check_hold_frontier(url: &str, frontier: Frontier<i64>) -> Result<(), Error> {
    check_frontier(url, "hold", frontier)?;
    if frontier.is_empty() {
        return Err(Error::InvalidFrontier {
            url: url.to_owned(),
            what: "hold",
            frontier,
        });
    }
    Ok(())
}
