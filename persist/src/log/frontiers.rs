//! What an entry may say of frontiers where the table is so far.
//!
//! An entry can be read and still say what no writer can have said. Invariants:
//!
//! - *moved by sinks*: the upper and the since move in commits with an identity, and in no others;
//! - *since below upper*: a commit that moves the upper takes the since to there at most;
//! - *as said*: a commit of a sink moves the upper to where it says that it does;
//! - *rows move the upper*: a commit with an identity that adds rows takes the upper on, so that none follows the empty one;
//! - *reviewed is past*: a commit answers edits up to its own version at most.
//!
//! That neither goes back, and that a commit starts at the upper, is for [`State::apply`](super::state::State::apply).

use crate::frontier::Frontier;
use crate::log::action::{Commit, Txn};
use crate::log::state::{ACCEPTED, Progress, REVIEWED, SINCE, UPPER};

/// Why no writer can have put this entry where the table was so far, if none can.
pub(crate) fn impossible(commit: &Commit, before: &Progress) -> Option<String> {
    let moved = |name: &str, from: Frontier<i64>| {
        let txns = commit.txns.iter().filter(|txn| txn.app_id == name);
        txns.map(|txn| Frontier::from_version(txn.version))
            .fold(from, Frontier::max)
    };
    let (upper, since) = (moved(UPPER, before.upper), moved(SINCE, before.since));
    let info = commit.info.as_ref().filter(|info| info.id.is_some());
    if info.is_none() && (upper, since) != (before.upper, before.since) {
        let (name, from, to) = match upper == before.upper {
            true => (SINCE, before.since, since),
            false => (UPPER, before.upper, upper),
        };
        return Some(format!(
            "it moves {name} from {from} to {to}, and no sink made it"
        ));
    }
    // Who only sets the since may give up times that are still to come.
    let is_append = upper > before.upper;
    if is_append && since > before.since && since > upper {
        return Some(format!(
            "it moves {SINCE} to {since}, beyond the upper {upper}"
        ));
    }
    let said = info.and_then(|info| info.lower.zip(info.upper));
    let said =
        said.map(|(lower, upper)| (Frontier::from_version(lower), Frontier::from_version(upper)));
    let starts_here = said.is_none_or(|(lower, _)| lower == before.upper);
    if let Some((_, said)) = said.filter(|_| starts_here)
        && upper != said.max(before.upper)
    {
        return Some(format!(
            "it moves {UPPER} to {upper}, and says that it is for times below {said}"
        ));
    }
    let is_review = |txn: &&Txn| [REVIEWED, ACCEPTED].contains(&txn.app_id.as_str());
    let mut reviews = commit.txns.iter().filter(is_review);
    let next = i64::try_from(before.version + 1).unwrap_or(i64::MAX);
    if let Some(txn) = reviews.find(|txn| txn.version > next) {
        let version = txn.version;
        return Some(format!(
            "it answers or accepts edits up to version {version}, which is still to come"
        ));
    }
    let adds_rows = commit.adds.iter().any(|add| add.data_change);
    if starts_here && info.is_some() && adds_rows && upper == before.upper {
        return Some(match upper {
            Frontier::Empty => "it adds rows to a table that is finished".into(),
            upper => format!("it adds rows, and leaves the upper at {upper}"),
        });
    }
    None
}
