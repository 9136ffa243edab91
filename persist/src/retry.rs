//! Trying again: how long to wait between attempts.
//!
//! The wait after attempt `n` (from 0) is drawn from `[d/2, d]` with `d = min(max, initial · 2ⁿ)`: it grows so
//! that a store in trouble is left alone, and it is random so that replicas that failed together do not
//! return together. The policy is pure; the caller brings the randomness and does the waiting.

use std::time::Duration;

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
}
