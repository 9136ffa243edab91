//! Trying again: how long to wait between attempts.
//!
//! The wait after attempt `n` (from 0) is drawn from `[d/2, d]` with `d = min(max, initial · 2ⁿ)`: it grows so
//! that a store in trouble is left alone, and it is random so that replicas that failed together do not
//! return together. The policy is pure; the caller brings the randomness and does the waiting.
//!
//! The log is left alone too: a disk that is full concerns every task of every shard on it, and each tries again every
//! few seconds. [`report_retry`] says which of these errors deserve a line:
//!
//! ```text
//!   the first of a cause at a place, then those that come 10 s, 20 s, 40 s, … (at most 5 min) after the last line,
//!   each with how many there were; after a minute without any, the next is a first one again
//! ```

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::lock;

/// How long to wait before trying again after an error that may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The longest wait after the first failure.
    pub initial: Duration,
    /// The longest wait after any failure.
    pub max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            initial: Duration::from_millis(20),
            max: Duration::from_secs(5),
        }
    }
}

impl RetryPolicy {
    /// The wait after failed attempt `attempt` (from 0); `random` is uniform in `[0, 1)`.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let longest = self
            .initial
            .saturating_mul(2_u32.saturating_pow(attempt.min(31)))
            .min(self.max);
        longest.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// The wait from the first line about a cause to the second.
const SILENCE_MIN: Duration = Duration::from_secs(10);
/// The longest wait between two lines about a cause.
const SILENCE_MAX: Duration = Duration::from_secs(5 * 60);
/// A cause that has not shown for so long has passed.
const PASSED: Duration = Duration::from_secs(60);
/// How many causes are told apart; of more, the one that was seen longest ago is forgotten.
const CAUSES_MAX: usize = 256;

/// How often an error was met that is tried again and worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryReport {
    /// How many tries have failed for this cause at this place, this one included.
    pub tries: u64,
    /// The time since the first of these.
    pub lasting: Duration,
}

/// Counts an error that will be tried again, of this process; `Some` if the log is to say so.
///
/// `place` names what errors of one cause have in common, such as the address of a shard: shards beside each other count as
/// one place. Errors of one cause are those whose innermost source reads the same.
pub fn report_retry(place: &str, error: &(dyn std::error::Error + 'static)) -> Option<RetryReport> {
    report_retry_of(place, &cause(error))
}

/// As [`report_retry`], of a cause in words.
pub fn report_retry_of(place: &str, cause: &str) -> Option<RetryReport> {
    static REPORTS: Mutex<Reports> = Mutex::new(Reports {
        causes: BTreeMap::new(),
    });
    let beside = place.trim_end_matches('/').rsplit_once('/');
    let place = beside.map_or(place, |(parent, _)| parent);
    lock(&REPORTS).count(format!("{place}: {cause}"), Instant::now())
}

/// Tells the log of an error of a shard that will be tried again, as often as it deserves.
pub(crate) fn warn_of_retry(error: &Error) {
    match report_retry(shard_of(error), error) {
        Some(RetryReport { tries: 1, .. }) => tracing::warn!(%error, "trying again"),
        Some(RetryReport { tries, lasting }) => {
            tracing::warn!(%error, tries, lasting_s = lasting.as_secs(), "still trying again");
        }
        None => tracing::debug!(%error, "trying again"),
    }
}

/// The address of the shard that the error is of, by that of its object.
fn shard_of(error: &Error) -> &str {
    match error {
        Error::Shared(error) => shard_of(error),
        Error::Store { path, .. } => match path.split_once("/_delta_log/") {
            Some((shard, _)) => shard,
            None => path.rsplit_once('/').map_or(path, |(shard, _)| shard),
        },
        _ => "",
    }
}

/// The innermost source in words, without what differs from request to request.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    // The body of an answer has identifiers of its own.
    match text.split_once("status code: ") {
        Some((_, rest)) => format!("status {}", rest.chars().take(3).collect::<String>()),
        None => text,
    }
}

/// What has been reported of each cause.
struct Reports {
    causes: BTreeMap<String, Met>,
}

/// How a cause was met.
struct Met {
    tries: u64,
    first: Instant,
    last: Instant,
    /// From when on the log is to hear of it again, and how long it is left alone after that.
    next: Instant,
    silence: Duration,
}

impl Reports {
    fn count(&mut self, cause: String, now: Instant) -> Option<RetryReport> {
        if let Some(met) = self.causes.get_mut(&cause)
            && now.saturating_duration_since(met.last) < PASSED
        {
            met.tries += 1;
            met.last = now;
            if now < met.next {
                return None;
            }
            met.next = now + met.silence;
            met.silence = (met.silence * 2).min(SILENCE_MAX);
            return Some(RetryReport {
                tries: met.tries,
                lasting: now.saturating_duration_since(met.first),
            });
        }
        if self.causes.len() >= CAUSES_MAX {
            let oldest = self.causes.iter().min_by_key(|(_, met)| met.last);
            if let Some(oldest) = oldest.map(|(cause, _)| cause.clone()) {
                self.causes.remove(&oldest);
            }
        }
        let met = Met {
            tries: 1,
            first: now,
            last: now,
            next: now + SILENCE_MIN,
            silence: SILENCE_MIN * 2,
        };
        self.causes.insert(cause, met);
        Some(RetryReport {
            tries: 1,
            lasting: Duration::ZERO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_and_keep_half_of_it() {
        let policy = RetryPolicy {
            initial: Duration::from_millis(10),
            max: Duration::from_millis(60),
        };
        let longest: Vec<_> = (0..5).map(|n| policy.delay(n, 1.0).as_millis()).collect();
        assert_eq!(longest, [10, 20, 40, 60, 60]);
        assert_eq!(policy.delay(40, 0.0), Duration::from_millis(30));
    }

    #[test]
    fn a_cause_is_told_ever_more_rarely_and_with_a_count() {
        let mut reports = Reports {
            causes: BTreeMap::new(),
        };
        let start = Instant::now();
        let mut told = Vec::new();
        // Ten tasks that try again every second, for ten minutes.
        for second in 0..600 {
            for _ in 0..10 {
                let now = start + Duration::from_secs(second);
                let report = reports.count("full".to_owned(), now);
                told.extend(report.map(|report| (second, report.tries)));
            }
        }
        assert_eq!(
            told,
            [
                (0, 1),
                (10, 101),
                (30, 301),
                (70, 701),
                (150, 1501),
                (310, 3101)
            ]
        );
        // Another cause has its own lines, and so has the same after it had passed.
        let now = start + Duration::from_secs(600);
        assert!(reports.count("slow".to_owned(), now).is_some());
        assert!(reports.count("full".to_owned(), now).is_none());
        let later = now + PASSED;
        let again = reports.count("full".to_owned(), later);
        assert_eq!(again.map(|report| report.tries), Some(1));
    }

    #[test]
    fn causes_are_forgotten_before_they_take_memory() {
        let mut reports = Reports {
            causes: BTreeMap::new(),
        };
        let start = Instant::now();
        for number in 0..2 * CAUSES_MAX as u64 {
            let now = start + Duration::from_millis(number);
            assert!(reports.count(number.to_string(), now).is_some());
        }
        assert_eq!(reports.causes.len(), CAUSES_MAX);
    }

    #[test]
    fn objects_and_requests_do_not_make_causes_differ() {
        let error = |path: &str, source: Box<dyn std::error::Error + Send + Sync>| Error::Store {
            action: "write",
            path: path.to_owned(),
            source: object_store::Error::Generic {
                store: "local",
                source,
            },
        };
        let full = || Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!(
            cause(&error("a/1.parquet", full())),
            cause(&error("b/2.parquet", full()))
        );
        let busy = |id: &str| format!("status code: 503 Service Unavailable: {id}").into();
        assert_eq!(cause(&error("a", busy("x"))), cause(&error("a", busy("y"))));
        assert_ne!(cause(&error("a", busy("x"))), cause(&error("a", full())));
    }
}
