//! What follows from the end of an attempt: pure.
//!
//! Exponential backoff with full jitter: a random time between nothing and a bound that grows with each attempt. The
//! jitter keeps many tasks that failed together from coming back together.

use crate::clock::Timestamp;
use crate::command::Verdict;
use crate::config::Retry;

/// How failed attempts are repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Attempts of one run, the first included.
    pub max_attempts: u32,
    /// The first backoff is at most this.
    pub min_backoff_ms: u64,
    /// No backoff is longer.
    pub max_backoff_ms: u64,
    /// How much longer each may be than the one before.
    pub multiplier: f64,
}

impl From<&Retry> for Policy {
    fn from(retry: &Retry) -> Self {
        Policy {
            max_attempts: retry.max_attempts,
            min_backoff_ms: retry.min_backoff_ms,
            max_backoff_ms: retry.max_backoff_ms,
            multiplier: retry.multiplier,
        }
    }
}

impl Policy {
    /// The longest backoff after the attempt numbered `attempt`, in ms.
    pub fn backoff_bound_ms(&self, attempt: u32) -> u64 {
        let factor = self.multiplier.powi(attempt.saturating_sub(1).min(1000) as i32);
        // A product beyond u64 saturates, and the maximum bounds it.
        ((self.min_backoff_ms as f64 * factor) as u64).min(self.max_backoff_ms)
    }

    /// What follows from the end of the attempt numbered `attempt` at `now`. `chance` is in 0..1; `at_least_ms` is how
    /// long the target asked to be left alone.
    pub fn verdict(
        &self,
        attempt: u32,
        error: Option<&str>,
        now: Timestamp,
        chance: f64,
        at_least_ms: Option<u64>,
    ) -> Verdict {
        let Some(error) = error else { return Verdict::Succeeded };
        if attempt >= self.max_attempts {
            let reason = match self.max_attempts {
                1 => error.to_owned(),
                n => format!("{n} attempts have failed; the last one: {error}"),
            };
            return Verdict::Failed { reason };
        }
        let backoff = (self.backoff_bound_ms(attempt) as f64 * chance) as u64;
        let asked = at_least_ms.unwrap_or(0).min(self.max_backoff_ms.max(3_600_000));
        Verdict::Retry { at: now.plus_ms(backoff.max(asked).max(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { max_attempts: 5, min_backoff_ms: 1000, max_backoff_ms: 60_000, multiplier: 2.0 };

    #[test]
    fn backoff_grows_to_its_maximum_and_does_not_overflow() {
        let bounds: Vec<u64> = (1..=8).map(|n| POLICY.backoff_bound_ms(n)).collect();
        assert_eq!(bounds, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(Policy { multiplier: 100.0, ..POLICY }.backoff_bound_ms(u32::MAX), 60_000);
    }

    #[test]
    fn the_last_attempt_ends_the_run_and_says_why() {
        let now = Timestamp(1_000_000);
        assert_eq!(POLICY.verdict(1, None, now, 0.5, None), Verdict::Succeeded);
        assert_eq!(POLICY.verdict(2, Some("x"), now, 0.5, None), Verdict::Retry { at: now.plus_ms(1000) });
        assert_eq!(POLICY.verdict(1, Some("x"), now, 0.0, None), Verdict::Retry { at: now.plus_ms(1) });
        assert_eq!(POLICY.verdict(1, Some("x"), now, 0.0, Some(7000)), Verdict::Retry { at: now.plus_ms(7000) });
        let reason = "5 attempts have failed; the last one: status 503".to_owned();
        assert_eq!(POLICY.verdict(5, Some("status 503"), now, 0.5, None), Verdict::Failed { reason });
    }
}
