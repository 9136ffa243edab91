//! Reading the log to its end, and knowing that it is the end.
//!
//! That entry `n + 1` is not there means one of three things: it is still to come, it is lost ([`crate::beyond`]), or
//! the log was checkpointed and cleaned beyond it. A put onto such a slot succeeds, and an entry found there may be
//! such a put: nobody who opens the shard sees either. What tells them apart:
//!
//! - *clean-up deletes in ascending order*: if entry `v` is gone, so is every older one. So if entry `n` is found
//!   **after** looking at `n + 1`, then what was seen of `n + 1` and beyond is the truth.
//! - *clean-up spares young entries*: what was put less than [`log_min_age`](crate::ClientOptions::log_min_age) ago
//!   is there. So if `n` was the end at a moment less than that ago, nothing beyond it was cleaned up since.
//!
//! ```text
//!   confirmed(t)  ⇒  every entry beyond the one that was the last at t was put after t
//!   now - t < log_min_age  ⇒  what is seen of them, and what is put after the last of them, is in the log
//! ```
//!
//! A [`Tail`] is an entry that was the last, with what is needed to recognize it: a table that was deleted and
//! created again has another one there.
//!
//! A process's own entries prove nothing: another table that has taken the place of this one holds them as well. So
//! each tail has an *anchor*, the last entry of the log at the previous check. The anchor and all entries after it must
//! still be there, unless they were cleaned up: then a checkpoint lies beyond them, and no process writes a checkpoint
//! without finding its own anchor.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use xxhash_rust::xxh3::xxh3_128;

use crate::beyond::{Beyond, Bridge};
use crate::client::{Environment, Moment};
use crate::data_file::DataFile;
use crate::error::Error;
use crate::location::for_shell;
use crate::log::action::Commit;
use crate::log::checkpoint::LogFile;
use crate::log::entry_path;
use crate::log::state::{Entry, State, TOMBSTONE_RETENTION_MS};
use crate::rewrite::{Rewrite, Total};
use crate::storage::{OnRetry, Storage};

/// Log entries read at once when there are many to read.
const READ_AHEAD_MAX: u64 = 32;
/// Log entries above this size are parsed on the pool.
const PARSE_INLINE_BYTES_MAX: usize = 256 * 1024;
/// Files that the ring of recent entries may refer to.
const RECENT_FILES_MAX: usize = 64 * 1024;
/// Entries of other programs that are remembered though they have left the ring.
const REWRITES_MAX: usize = 256;
/// Old tombstones leave memory every so many versions.
const FORGET_INTERVAL: u64 = 256;
/// How long removed files are remembered in memory, by this process's own monotonic clock.
const TOMBSTONE_RETENTION: Duration = Duration::from_millis(TOMBSTONE_RETENTION_MS as u64);
/// So many entries in a row are not what was put onto a log after it was cleaned up there.
const PHANTOMS_MAX: u64 = 8;
/// The longest time without a check that the table is still the one that was opened: within half a minute it is known.
const CONFIRM_INTERVAL_MAX: Duration = Duration::from_secs(20);
/// How often the log may be cleaned up under a reader before it gives up.
const RESTARTS_MAX: u32 = 20;
/// How often one thing that cannot be read is looked for again: it may have been cleaned up just then. Whoever finds
/// another missing each time is slow, and the log goes on.
const LOADS_AGAIN_MAX: u32 = 3;

/// What recognizes the last entry known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// A hash of the entry's bytes.
    Entry(u128),
    /// Nothing: the reading began with a checkpoint, and its entry was cleaned up. A listing must tell. (That the
    /// checkpoint is there says little: a process that stalled may have written it after the log was cleaned up.)
    Listing,
}

impl Evidence {
    pub(crate) fn of_entry(bytes: &[u8]) -> Self {
        Evidence::Entry(xxh3_128(bytes))
    }
}

/// The last entry known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub(crate) version: u64,
    pub(crate) evidence: Evidence,
    /// When it, or an entry before it, was known to be the last one of the log.
    pub(crate) confirmed: Option<Moment>,
    /// The last entry at that time.
    pub(crate) anchor: Option<Anchor>,
}

/// An entry that was the last of the log when all up to it was known to be there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anchor {
    version: u64,
    evidence: Evidence,
    at: Moment,
}

/// What a look at a log tells of the tail that is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is there, and so is all between the anchor and it.
    Whole,
    /// It and the anchor are there. What lies between was not looked at, since it was not long ago.
    There,
    /// It is not there, or something below it is not.
    Gone,
}

impl Tail {
    /// True if it is time to look whether the log still is what it was.
    pub(crate) fn is_due(&self, env: &Environment) -> bool {
        let interval = CONFIRM_INTERVAL_MAX.min(env.options.log_min_age / 4);
        self.confirmed.is_none_or(|at| env.since(at) >= interval)
    }

    /// True if what was just seen or put beyond it may not be in the log, for all that is known.
    pub(crate) fn is_stale(&self, env: &Environment) -> bool {
        let interval = env.options.log_min_age / 4;
        self.confirmed.is_none_or(|at| env.since(at) >= interval)
    }
}

/// What lies beyond a tail.
pub(crate) enum Look {
    /// The entries that follow, without gaps.
    Found {
        entries: Vec<(u64, Bytes)>,
        /// The entry after these is not there.
        end: bool,
        /// What a look at the tail told after that, if there was one.
        checked: Option<Standing>,
    },
    /// The tail is not there any more: nothing can be said.
    Gone,
}

/// A log in memory: its state, and a bounded ring of the entries that led there.
pub(crate) struct Log {
    pub(crate) state: State,
    evidence: Evidence,
    confirmed: Option<Moment>,
    anchor: Option<Anchor>,
    /// When what lies beyond the last entry was listed.
    listed: Option<Moment>,
    /// The pointer to the newest checkpoint led to none that can be read: others may not look any further.
    pub(crate) is_misled: bool,
    /// The last entries, without gaps, ending at the state's version.
    recent: VecDeque<Arc<Entry>>,
    recent_files: usize,
    /// The last entries of other programs that said they changed no data, ascending.
    rewrites: VecDeque<Arc<Rewrite>>,
    /// Versions, ascending, with when each was the newest known here.
    passed: VecDeque<(u64, Moment)>,
    /// The version of the checkpoint or entry that the reading began with.
    beginning: u64,
    /// Where the log was taken up again, after others had cleaned it up. What lies below in the store may be what
    /// nobody reads.
    jumped: Option<u64>,
}

impl Log {
    pub(crate) fn new(state: State, evidence: Evidence) -> Self {
        Log {
            beginning: state.version,
            state,
            evidence,
            confirmed: None,
            anchor: None,
            listed: None,
            is_misled: false,
            recent: VecDeque::new(),
            recent_files: 0,
            rewrites: VecDeque::new(),
            passed: VecDeque::new(),
            jumped: None,
        }
    }

    pub(crate) fn tail(&self) -> Tail {
        Tail {
            version: self.state.version,
            evidence: self.evidence,
            confirmed: self.confirmed,
            anchor: self.anchor,
        }
    }

    /// All of the log up to the last entry known was there at `at` or later, and that entry was the end then.
    pub(crate) fn confirm(&mut self, at: Moment) {
        self.confirm_tail(&self.tail(), Standing::Whole, at);
    }

    /// A look at `at` or later has told this of a tail, which may not be the last one any more.
    pub(crate) fn confirm_tail(&mut self, tail: &Tail, standing: Standing, at: Moment) {
        self.confirmed = Some(at);
        if standing == Standing::Whole {
            self.anchor = (tail.evidence != Evidence::Listing).then_some(Anchor {
                version: tail.version,
                evidence: tail.evidence,
                at,
            });
        }
    }

    /// What lay beyond the last entry at `at` was listed, and was nothing.
    pub(crate) fn listed(&mut self, at: Moment) {
        self.listed = Some(at);
    }

    /// True if it is time to list what lies beyond the last entry.
    pub(crate) fn is_listing_due(&self, env: &Environment) -> bool {
        self.listed
            .is_none_or(|at| env.since(at) >= CONFIRM_INTERVAL_MAX)
    }

    /// Applies the next entry.
    pub(crate) fn apply(
        &mut self,
        storage: &Storage,
        commit: &Commit,
        evidence: Evidence,
    ) -> Result<(), Error> {
        let entry = Arc::new(self.state.apply(&storage.url, commit)?);
        self.evidence = evidence;
        if entry.version.is_multiple_of(FORGET_INTERVAL) {
            self.passed.push_back((entry.version, storage.env.moment()));
            self.forget_removed();
        }
        if let Some(rewrite) = &entry.rewrite {
            self.rewrites.push_back(Arc::clone(rewrite));
            if self.rewrites.len() > REWRITES_MAX {
                self.rewrites.pop_front();
            }
        }
        self.recent_files += entry.adds.len() + entry.removes.len();
        self.recent.push_back(entry);
        while self.recent.len() > 1
            && (self.recent.len() > storage.env.options.recent_entries
                || self.recent_files > RECENT_FILES_MAX)
        {
            self.recent_files -= self
                .recent
                .pop_front()
                .map_or(0, |entry| entry.adds.len() + entry.removes.len());
        }
        Ok(())
    }

    /// Forgets the files that were known to be removed so long ago that nobody may add them any more.
    fn forget_removed(&mut self) {
        let old = |(_, moment): &mut (u64, Moment)| moment.elapsed() >= TOMBSTONE_RETENTION;
        while let Some((version, _)) = self.passed.pop_front_if(old) {
            self.state.forget_removed(version);
        }
    }

    /// The entry, if it is in memory.
    pub(crate) fn recent(&self, version: u64) -> Option<Arc<Entry>> {
        let first = self.recent.front()?.version;
        let index = usize::try_from(version.checked_sub(first)?).ok()?;
        self.recent.get(index).cloned()
    }

    /// The entries of other programs from this version on that said they changed no data, ascending.
    pub(crate) fn rewrites_from(&self, version: u64) -> Vec<Arc<Rewrite>> {
        let rewrites = self.rewrites.iter();
        let rewrites = rewrites.filter(|rewrite| rewrite.version >= version);
        rewrites.cloned().collect()
    }

    /// What the rows of this file add up to, if another program's entry brought it and somebody here has read it.
    pub(crate) fn total_of(&self, file: &DataFile) -> Option<Total> {
        let mut rewrites = self.rewrites.iter().rev();
        rewrites.find_map(|rewrite| rewrite.total_of(file).cloned())
    }

    /// The entries in memory, in ascending order.
    pub(crate) fn ring(&self) -> &VecDeque<Arc<Entry>> {
        &self.recent
    }

    /// True if the entry lies below a jump: what the store has in its place is not to be trusted.
    pub(crate) fn is_skipped(&self, version: u64) -> bool {
        self.jumped.is_some_and(|jumped| version <= jumped)
    }

    /// The checkpoint that the state was read from; `None` if it was read from the first entry on.
    pub(crate) fn checkpoint(&self) -> Option<u64> {
        Some(self.beginning).filter(|version| *version > 0)
    }

    /// Goes on with `fresh`, which was read from a checkpoint on because the log was cleaned up beyond this.
    pub(crate) fn jump_to(&mut self, fresh: Log) {
        let earlier = std::mem::replace(self, fresh);
        self.state.go_on_from(&earlier.state);
        self.jumped = Some(self.beginning).max(earlier.jumped);
    }
}

impl Storage {
    /// Parses a log entry, where it does not hold up other tasks.
    pub(crate) async fn parse(&self, version: u64, bytes: Bytes) -> Result<Commit, Error> {
        let path = self.show(&entry_path(version));
        if bytes.len() <= PARSE_INLINE_BYTES_MAX {
            return Commit::parse(&bytes, &path);
        }
        self.env
            .cpu
            .run(move || Commit::parse(&bytes, &path))
            .await?
    }

    /// Reads up to `ahead` entries beyond `tail`; if it is due, or wanted now, the tail itself as well.
    pub(crate) async fn look(
        &self,
        tail: &Tail,
        ahead: u64,
        now: bool,
        on_retry: OnRetry<'_>,
    ) -> Result<Look, Error> {
        let (entries, end) = self.read_beyond(tail.version, ahead, on_retry).await?;
        // Judged after the reads: they may have taken long.
        // A file costs little to look at.
        let cheap = self.local.is_some() && !entries.is_empty();
        let checked = match now || cheap || tail.is_due(&self.env) {
            true => Some(self.standing(tail, on_retry).await?),
            false => None,
        };
        if checked == Some(Standing::Gone) {
            return Ok(Look::Gone);
        }
        Ok(Look::Found {
            entries,
            end,
            checked,
        })
    }

    pub(crate) async fn read_beyond(
        &self,
        version: u64,
        ahead: u64,
        on_retry: OnRetry<'_>,
    ) -> Result<(Vec<(u64, Bytes)>, bool), Error> {
        let reads = (version + 1..=version + ahead).map(|version| async move {
            let entry = self.get_retrying(&entry_path(version), on_retry).await;
            (version, entry)
        });
        let mut entries = Vec::new();
        for (version, bytes) in join_all(reads).await {
            match bytes? {
                Some(bytes) => entries.push((version, bytes)),
                None => return Ok((entries, true)),
            }
        }
        Ok((entries, false))
    }

    /// True if the tail is still there, and is what it was, in the log that it was in, for all that is known.
    pub(crate) async fn stands(&self, tail: &Tail, on_retry: OnRetry<'_>) -> Result<bool, Error> {
        Ok(self.standing(tail, on_retry).await? != Standing::Gone)
    }

    async fn standing(&self, tail: &Tail, on_retry: OnRetry<'_>) -> Result<Standing, Error> {
        if !self.has(tail, on_retry).await? {
            return Ok(Standing::Gone);
        }
        let Some(anchor) = tail.anchor.filter(|anchor| anchor.version < tail.version) else {
            return Ok(Standing::Whole);
        };
        let entry = self.hash_of(anchor.version, on_retry).await?;
        if entry.is_some_and(|found| found != anchor.evidence) {
            return Ok(Standing::Gone);
        }
        if entry.is_some() && self.env.since(anchor.at) < CONFIRM_INTERVAL_MAX {
            return Ok(Standing::There);
        }
        // Each entry from the anchor to the tail is there, or was cleaned up since.
        let (entries, checkpoint) = self.list_versions(on_retry).await?;
        let mut known = anchor.version..=tail.version;
        Ok(
            match known.all(|version| version < checkpoint || entries.contains(&version)) {
                true => Standing::Whole,
                false => Standing::Gone,
            },
        )
    }

    /// True if `fresh`, which lies where the log with this tail was, is not what became of it: other entries are in
    /// the place of those known, and not because they were cleaned up before.
    pub(crate) async fn is_another(
        &self,
        tail: &Tail,
        fresh: &Log,
        on_retry: OnRetry<'_>,
    ) -> Result<bool, Error> {
        let anchor = tail.anchor.map(|anchor| (anchor.version, anchor.evidence));
        let known = [Some((tail.version, tail.evidence)), anchor];
        let known = known.into_iter().flatten();
        for (version, evidence) in known.filter(|(_, evidence)| *evidence != Evidence::Listing) {
            let found = self.hash_of(version, on_retry).await?;
            if found.is_none_or(|found| found == evidence) {
                continue;
            }
            if fresh.beginning < version {
                return Ok(true);
            }
            // What was put there after the log was cleaned up has at most a few of its kind below it, and then a gap. The
            // first entry may be that of a creation that took long; a table of its own has another identifier.
            let (entries, _) = self.list_versions(on_retry).await?;
            let below = (0..version).rev();
            let below = below.take_while(|below| entries.contains(below)).count() as u64;
            let is_whole = || (0..fresh.beginning).all(|version| entries.contains(&version));
            if below >= PHANTOMS_MAX || (version > 0 && is_whole()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What recognizes this entry, if it is there.
    async fn hash_of(
        &self,
        version: u64,
        on_retry: OnRetry<'_>,
    ) -> Result<Option<Evidence>, Error> {
        let entry = self.get_retrying(&entry_path(version), on_retry).await?;
        Ok(entry.map(|bytes| Evidence::of_entry(&bytes)))
    }

    /// The versions of all entries, and that of the newest checkpoint.
    async fn list_versions(&self, on_retry: OnRetry<'_>) -> Result<(BTreeSet<u64>, u64), Error> {
        let (mut entries, mut checkpoint) = (BTreeSet::new(), 0);
        for file in self.list_log(on_retry).await? {
            match file {
                LogFile::Entry(version) => {
                    entries.insert(version);
                }
                LogFile::Checkpoint(version) => checkpoint = checkpoint.max(version),
                _ => {}
            }
        }
        Ok((entries, checkpoint))
    }

    /// True if the last entry known is there, and is what it was.
    async fn has(&self, tail: &Tail, on_retry: OnRetry<'_>) -> Result<bool, Error> {
        match tail.evidence {
            Evidence::Entry(_) => {
                let found = self.hash_of(tail.version, on_retry).await?;
                Ok(found == Some(tail.evidence))
            }
            Evidence::Listing => {
                let beyond = self.list_log(on_retry).await?;
                let mut entries: Vec<u64> = beyond
                    .iter()
                    .filter(|file| matches!(file, LogFile::Entry(_)))
                    .map(|file| file.version())
                    .filter(|version| *version > tail.version)
                    .collect();
                entries.sort_unstable();
                let others = beyond.iter().any(|file| file.version() > tail.version);
                // Either there is nothing, or the prefix that was cleaned up ends before it: then the entries follow
                // it without a gap. Before a gap lies what was put after the log was cleaned up there.
                Ok(if entries.is_empty() {
                    !others
                } else {
                    (tail.version + 1..)
                        .zip(&entries)
                        .all(|(next, entry)| next == *entry)
                })
            }
        }
    }

    /// Reads the log to its end, from the newest checkpoint on; `None` if there is none.
    pub(crate) async fn replay(&self, on_retry: OnRetry<'_>) -> Result<Option<Log>, Error> {
        let (mut failure, mut again) = (String::new(), 0);
        let mut by_pointer = true;
        for attempt in 0..RESTARTS_MAX {
            let started = self.env.moment();
            let failed = match self.load(by_pointer, on_retry).await {
                Ok(Some(mut log)) => {
                    let mut beginning = log.tail();
                    let read = self.read_on(&mut log, &mut beginning, on_retry).await;
                    if matches!(read, Err(Error::Shutdown)) {
                        return Err(Error::Shutdown);
                    }
                    // The beginning is there after all the rest was read: so that is what there is.
                    let stands = self.stands(&beginning, on_retry).await?;
                    match read {
                        Ok(()) if stands => {
                            self.settle_log(on_retry).await?;
                            if beginning.evidence == Evidence::Listing {
                                self.warn_if_ahead(beginning.version, on_retry).await?;
                            }
                            log.confirm(started);
                            log.listed(started);
                            return Ok(Some(log));
                        }
                        // Without an entry at its beginning, nothing but the gap itself can tell.
                        Err(gap @ Error::LogGap { .. }) => Some(gap),
                        // An old checkpoint may be followed by what was put after the log was cleaned up there.
                        // And what a repair has given up by what this version cannot read.
                        Err(
                            error @ (Error::Corrupt { .. }
                            | Error::Unsupported { .. }
                            | Error::SchemaMismatch { .. }
                            | Error::Replaced { .. }),
                        ) if by_pointer => Some(error),
                        Err(error) if stands => return Err(error),
                        _ => None,
                    }
                }
                Ok(None) => return self.in_place_of_log().map_or(Ok(None), Err),
                // Maybe cleaned up between being found and being read.
                Err(
                    error @ (Error::MissingFile { .. }
                    | Error::Corrupt { .. }
                    | Error::LogGap { .. }),
                ) => Some(error),
                Err(error) => return Err(error),
            };
            // If the pointer led astray, a listing does not; to a gap every way leads.
            by_pointer &= matches!(failed, Some(Error::LogGap { .. }));
            if let Some(error) = failed {
                let told = error.to_string();
                again = if told == failure { again + 1 } else { 0 };
                if again == LOADS_AGAIN_MAX {
                    return Err(error);
                }
                failure = told;
                tracing::debug!(%error, "looking for it again");
            }
            self.env.wait(attempt).await;
        }
        Err(Error::Corrupt {
            path: self.show(&crate::log::folder()),
            why: format!("it was cleaned up {RESTARTS_MAX} times while it was being read"),
        })
    }

    /// Reads on to the end of the log, and lists what lies beyond, once. `beginning` is what the reading began with: it
    /// changes where a later checkpoint bridges a gap.
    async fn read_on(
        &self,
        log: &mut Log,
        beginning: &mut Tail,
        on_retry: OnRetry<'_>,
    ) -> Result<(), Error> {
        let mut listed: Option<Beyond> = None;
        self.review(log, on_retry).await?;
        loop {
            self.read_entries(log, on_retry).await?;
            let version = log.state.version;
            match &listed {
                None => {
                    let beyond = self.list_beyond(version, on_retry).await?;
                    if beyond.last().is_none() {
                        return Ok(());
                    }
                    // Entries may just have been put: look at the next one again.
                    listed = Some(beyond);
                }
                Some(beyond) if beyond.last() <= Some(version) => return Ok(()),
                Some(beyond) => match self.bridge(&log.state, beyond, on_retry).await? {
                    Bridge::Checkpoint(later) => {
                        *log = *later;
                        *beginning = log.tail();
                        self.review(log, on_retry).await?;
                    }
                    Bridge::End => return Ok(()),
                },
            }
        }
    }

    async fn read_entries(&self, log: &mut Log, on_retry: OnRetry<'_>) -> Result<(), Error> {
        let mut ahead = 1;
        loop {
            let version = log.state.version;
            let (entries, end) = self.read_beyond(version, ahead, on_retry).await?;
            for (version, bytes) in entries {
                let evidence = Evidence::of_entry(&bytes);
                let commit = self.parse(version, bytes).await?;
                let applied = log.apply(self, &commit, evidence);
                applied.map_err(|error| self.at_fence(version, &commit, error))?;
            }
            if end {
                return Ok(());
            }
            ahead = next_ahead(ahead);
        }
    }

    /// The error of an opener, which found nothing to go on from beyond the fence of a repair, if it is one.
    fn at_fence(&self, version: u64, commit: &Commit, error: Error) -> Error {
        let restored = commit.info.as_ref().and_then(|info| info.restored);
        match (restored, &error) {
            (Some(to), Error::Replaced { .. }) => Error::Unsupported {
                url: self.url.to_string(),
                why: format!(
                    "a repair that was to go back to version {to} was cut off at entry {version}: make it again with \
                     `mvsink repair {}`",
                    for_shell(&self.url)
                ),
            },
            _ => error,
        }
    }
}

/// More entries are read at once the more there are.
pub(crate) fn next_ahead(ahead: u64) -> u64 {
    (ahead * 2).min(READ_AHEAD_MAX)
}
