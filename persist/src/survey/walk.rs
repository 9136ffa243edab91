//! A reading of all entries, one after the other, that goes on after each thing that is wrong.
//!
//! An entry can be read and still say what no writer could have said ([`crate::log::frontiers`]). One more invariant is
//! looked at here alone: the times of the rows that a commit of a sink adds lie between the uppers before and after it.
//! The log is taken to break off at an entry that violates one: with what it says, so is everything after it.

use std::collections::BTreeMap;

use object_store::path::Path;

use super::{BreakOff, Survey};
use crate::data_file::{Adder, DataFile};
use crate::error::Error;
use crate::frontier::Frontier;
use crate::log::action::Commit;
use crate::log::entry_path;
use crate::log::frontiers::impossible;
use crate::log::holds::held;
use crate::log::state::{ACCEPTED, State, UPPER};
use crate::replay::{Evidence, Log};
use crate::storage::Storage;
use crate::survey::names::OtherForm;
use crate::verify::Difference;

/// An entry and what recognizes it, or why it cannot be used.
pub(super) type Parsed = Result<(Commit, Evidence), Difference>;

/// A reading of all entries, ascending.
pub(super) struct Walk<'s> {
    url: &'s str,
    /// The version of the checkpoint that it began with.
    pub(super) base: Option<u64>,
    pub(super) log: Option<Log>,
    previous: Option<u64>,
    pub(super) broken: Option<BreakOff>,
    /// Checkpoints that others can read: what lies before them may have been cleaned up.
    others: &'s BTreeMap<u64, OtherForm>,
    /// Files that entries below the base add with times that they cannot have: the entry, the file, and why.
    pub(super) suspects: Vec<(Path, String, String)>,
}

impl<'s> Walk<'s> {
    pub(super) fn new(
        base: Option<Log>,
        url: &'s str,
        others: &'s BTreeMap<u64, OtherForm>,
    ) -> Self {
        Walk {
            url,
            base: base.as_ref().map(|log| log.state.version),
            log: base,
            previous: None,
            broken: None,
            others,
            suspects: Vec::new(),
        }
    }

    pub(super) fn take(
        &mut self,
        storage: &Storage,
        version: u64,
        parsed: Parsed,
        survey: &mut Survey,
    ) {
        let path = entry_path(version);
        let first = self.previous.map_or(0, |previous| previous + 1);
        if self.base.is_some_and(|base| version <= base) {
            self.take_below(first, version, parsed, survey);
            return;
        }
        let first = self.base.map_or(first, |base| first.max(base + 1));
        let is_gap = first < version;
        if is_gap && self.is_foreign(&parsed) {
            survey.note(&path, "it is of another table, and does not count");
            return;
        }
        self.previous = Some(version);
        if is_gap {
            let last = version - 1;
            match self.others.range(last..).next() {
                // They may have been cleaned up.
                Some((version, other)) => survey.find_other(*version, other),
                None => survey.find(&path, Difference::EntriesMissing { first, last }),
            }
            self.break_off(first);
        }
        let (commit, evidence) = match parsed {
            Ok(parsed) => parsed,
            Err(difference) => {
                let is_unknown = matches!(difference, Difference::Refused { .. });
                survey.find(&path, difference);
                let broken = self.break_off(version);
                broken.is_unknown |= is_unknown;
                broken.unread += 1;
                return;
            }
        };
        let restored = commit.info.as_ref().and_then(|info| info.restored);
        if let (Some(to), None, Some(log)) = (restored, &self.broken, &self.log)
            && commit.info.as_ref().and_then(|info| info.table.as_ref())
                == Some(&log.state.metadata().id)
        {
            survey.find(&path, Difference::CutOff { to });
            self.break_off(version);
        }
        if self.broken.is_none() {
            let progress = self.log.as_ref().map(|log| log.state.progress());
            let why = progress.and_then(|progress| {
                impossible(&commit, &progress).or_else(|| Some(outside(&commit).next()?.1))
            });
            if let Some(why) = why {
                survey.find(&path, Difference::Frontier { why });
                self.break_off(version);
            }
        }
        if self.broken.is_none() {
            let applied = match &mut self.log {
                Some(log) => log.apply(storage, &commit, evidence),
                None => State::first(&storage.root, self.url, version, &commit)
                    .map(|state| self.log = Some(Log::new(state, evidence))),
            };
            match applied {
                Ok(()) => return,
                Err(error) => {
                    survey.find(&path, refusal(error));
                    self.break_off(version);
                }
            }
        }
        if let Some(broken) = &mut self.broken {
            broken.count(&commit);
            if restored.is_some() {
                broken.fences.insert(path);
            }
        }
    }

    /// Takes an entry for which the base stands.
    fn take_below(&mut self, first: u64, version: u64, parsed: Parsed, survey: &mut Survey) {
        let path = entry_path(version);
        let info = parsed
            .as_ref()
            .ok()
            .and_then(|(commit, _)| commit.info.as_ref());
        let is_fence = info.is_some_and(|info| info.restored.is_some());
        // That the oldest ones are gone is as it should be, and that those are that a repair has given up.
        if self.previous.is_some() && first < version && !is_fence {
            let missing = Difference::EntriesMissing {
                first,
                last: version - 1,
            };
            let text = format!("{missing}; a later checkpoint stands for them");
            survey.note(&path, text);
        }
        match parsed {
            Ok((commit, _)) => {
                let outside = outside(&commit);
                let suspects = outside.map(|(file, why)| (path.clone(), file, why));
                self.suspects.extend(suspects);
            }
            Err(difference) => {
                let text = format!("{difference}; a later checkpoint stands for it");
                survey.note(&path, text);
            }
        }
        self.previous = Some(version);
    }

    fn break_off(&mut self, version: u64) -> &mut BreakOff {
        self.broken.get_or_insert(BreakOff {
            version,
            ..BreakOff::default()
        })
    }

    /// True of an entry that says that it is of another table.
    fn is_foreign(&self, parsed: &Parsed) -> bool {
        let table = parsed
            .as_ref()
            .ok()
            .and_then(|(commit, _)| commit.info.as_ref()?.table.as_ref());
        let log = self.log.as_ref();
        table.is_some_and(|table| log.is_some_and(|log| *table != log.state.metadata().id))
    }
}

impl BreakOff {
    fn count(&mut self, commit: &Commit) {
        let uppers = commit.txns.iter().filter(|txn| txn.app_id == UPPER);
        for txn in uppers {
            self.upper = self.upper.max(Some(Frontier::from_version(txn.version)));
        }
        let holds = commit.txns.iter().filter_map(|txn| held(&txn.app_id));
        self.holds.extend(holds.map(str::to_owned));
        let accepted = commit.txns.iter().filter(|txn| txn.app_id == ACCEPTED);
        let accepted = accepted.filter_map(|txn| u64::try_from(txn.version).ok());
        self.accepted = accepted.max().max(self.accepted);
        for add in commit.adds.iter().filter(|add| add.data_change) {
            let file = DataFile::from_add(add, Adder::of(commit));
            self.files += 1;
            self.rows = self.rows.saturating_add(file.rows.unwrap_or(0));
        }
    }
}

/// The files that a commit of a sink adds with times outside of those that it is for, and why.
fn outside(commit: &Commit) -> impl Iterator<Item = (String, String)> {
    let info = commit.info.as_ref().filter(|info| info.id.is_some());
    let bounds = info.and_then(|info| info.lower.zip(info.upper));
    let bounds =
        bounds.map(|(lower, upper)| (Frontier::from_version(lower), Frontier::from_version(upper)));
    let adds = commit.adds.iter().filter(|add| add.data_change);
    adds.filter_map(move |add| {
        let (lower, upper) = bounds?;
        let file = DataFile::from_add(add, Adder::Sink);
        let (first, last) = file.min_time.zip(file.max_time)?;
        let is_outside = lower.is_complete(&first) || !upper.is_complete(&last);
        is_outside.then(|| {
            let why = format!(
                "it adds {} with times {first} to {last}, and is for times from {lower} to below {upper}",
                file.path
            );
            (file.path, why)
        })
    })
}

/// Why an entry that can be read cannot be applied.
fn refusal(error: Error) -> Difference {
    let why = match error {
        Error::Corrupt { why, .. } => return Difference::Unreadable { why },
        Error::Unsupported { why, .. } | Error::SchemaMismatch { why, .. } => why,
        Error::Replaced { why, .. } => why,
        error => error.to_string(),
    };
    Difference::Refused { why }
}
