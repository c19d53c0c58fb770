//! What follows from the end of an attempt: pure.
//!
//! Exponential backoff with full jitter: a random time between nothing and a bound that grows with each attempt. The
//! jitter keeps many tasks that failed together from coming back together.

use crate::clock::Timestamp;
use crate::command::Verdict;
use crate::config::Retry;
use crate::state::Job;

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
    /// No attempt is made later than this after the run was due.
    pub max_elapsed_ms: Option<u64>,
}

impl From<&crate::task::Retry> for Policy {
    fn from(retry: &crate::task::Retry) -> Self {
        Policy {
            max_attempts: retry.max_attempts,
            min_backoff_ms: retry.min_backoff_ms,
            max_backoff_ms: retry.max_backoff_ms,
            multiplier: retry.multiplier,
            max_elapsed_ms: retry.max_elapsed_ms,
        }
    }
}

impl From<&Retry> for Policy {
    fn from(retry: &Retry) -> Self {
        Policy {
            max_attempts: retry.max_attempts,
            min_backoff_ms: retry.min_backoff_ms,
            max_backoff_ms: retry.max_backoff_ms,
            multiplier: retry.multiplier,
            max_elapsed_ms: None,
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

    /// What follows from the end of an attempt at `now`. `chance` is in 0..1; `at_least_ms` is how
    /// long the target asked to be left alone.
    pub fn verdict(
        &self,
        job: &Job,
        error: Option<&str>,
        now: Timestamp,
        chance: f64,
        at_least_ms: Option<u64>,
    ) -> Verdict {
        let Some(error) = error else { return Verdict::Succeeded };
        let attempt = job.attempt;
        if attempt >= self.max_attempts {
            let reason = match self.max_attempts {
                1 => error.to_owned(),
                n => format!("{n} attempts have failed; the last one: {error}"),
            };
            return Verdict::Failed { reason };
        }
        let backoff = (self.backoff_bound_ms(attempt) as f64 * chance) as u64;
        let asked = at_least_ms.unwrap_or(0).min(self.max_backoff_ms.max(3_600_000));
        let at = now.plus_ms(backoff.max(asked).max(1));
        match self.too_late(job, at) {
            Some(reason) => Verdict::Failed { reason: format!("{reason}; the last error: {error}") },
            None => Verdict::Retry { at },
        }
    }

    /// Why no further attempt may be made at this time: it can be later than was foreseen, since the task was paused
    /// meanwhile, or no node led.
    pub fn too_late(&self, job: &Job, at: Timestamp) -> Option<String> {
        let max = self.max_elapsed_ms.filter(|max| at.ms_since(job.key.due) > *max)?;
        Some(format!("no attempt is left within {max} ms of the due time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{RunKey, TaskId};

    const POLICY: Policy =
        Policy { max_attempts: 5, min_backoff_ms: 1000, max_backoff_ms: 60_000, multiplier: 2.0, max_elapsed_ms: None };
    const DUE: Timestamp = Timestamp(1_000_000);

    fn attempt(number: u32) -> Job {
        let key = RunKey::scheduled(DUE);
        Job { seq: 1, id: TaskId::generate(), target: "a:1".into(), key, attempt: number, at: DUE }
    }

    #[test]
    fn backoff_grows_to_its_maximum_and_does_not_overflow() {
        let bounds: Vec<u64> = (1..=8).map(|n| POLICY.backoff_bound_ms(n)).collect();
        assert_eq!(bounds, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(Policy { multiplier: 100.0, ..POLICY }.backoff_bound_ms(u32::MAX), 60_000);
    }

    #[test]
    fn the_last_attempt_ends_the_run_and_says_why() {
        let after = |ms| Verdict::Retry { at: DUE.plus_ms(ms) };
        assert_eq!(POLICY.verdict(&attempt(1), None, DUE, 0.5, None), Verdict::Succeeded);
        assert_eq!(POLICY.verdict(&attempt(2), Some("x"), DUE, 0.5, None), after(1000));
        assert_eq!(POLICY.verdict(&attempt(1), Some("x"), DUE, 0.0, None), after(1));
        assert_eq!(POLICY.verdict(&attempt(1), Some("x"), DUE, 0.0, Some(7000)), after(7000));
        let reason = "5 attempts have failed; the last one: status 503".to_owned();
        assert_eq!(POLICY.verdict(&attempt(5), Some("status 503"), DUE, 0.5, None), Verdict::Failed { reason });
    }

    #[test]
    fn no_attempt_is_made_too_long_after_the_due_time() {
        let policy = Policy { max_elapsed_ms: Some(3000), ..POLICY };
        let retry = Verdict::Retry { at: DUE.plus_ms(3000) };
        assert_eq!(policy.verdict(&attempt(1), Some("x"), DUE.plus_ms(2500), 0.5, None), retry);
        assert!(matches!(policy.verdict(&attempt(1), Some("x"), DUE.plus_ms(2501), 0.5, None), Verdict::Failed { .. }));
        assert_eq!(policy.too_late(&attempt(2), DUE.plus_ms(3000)), None);
        assert!(policy.too_late(&attempt(2), DUE.plus_ms(3001)).is_some(), "asked again before it is made");
    }
}
