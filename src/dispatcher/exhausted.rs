//! Attempts for which this process has no descriptor left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::monotonic;
use crate::metrics::Metrics;

/// The least time for which such an attempt waits.
const PAUSE: Duration = Duration::from_millis(200);
/// So much longer for each that waits already: all of them together try a thousand times a second at most.
const PAUSE_EACH: Duration = Duration::from_millis(1);
/// Between two lines in the log.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Attempts that wait for a descriptor. They have no place meanwhile: others may have a connection that is kept.
#[derive(Default)]
pub(super) struct Exhausted {
    waiting: AtomicUsize,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    at: Option<Instant>,
    /// Not told yet.
    attempts: u64,
}

impl Told {
    /// Counts one more; how many are to be told now, if any.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.attempts += 1;
        if self.at.is_some_and(|at| now < at + TELL_EVERY) {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.attempts))
    }
}

impl Exhausted {
    /// Counts an attempt, and waits until it can be tried again.
    pub async fn wait(&self, metrics: &Metrics, error: &str) {
        metrics.without_descriptor.inc();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).count(monotonic());
        if let Some(attempts) = told {
            tracing::warn!(attempts, error, "attempts wait: this process has no descriptor left for a connection");
        }
        // Counted until the wait is over, also where it is broken off.
        let waiting = Waiting::one_of(&self.waiting);
        tokio::time::sleep(PAUSE.max(PAUSE_EACH * u32::try_from(waiting.others).unwrap_or(u32::MAX))).await;
    }
}

struct Waiting<'a> {
    all: &'a AtomicUsize,
    others: usize,
}

impl Waiting<'_> {
    fn one_of(all: &AtomicUsize) -> Waiting<'_> {
        Waiting { all, others: all.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_tells_of_all_attempts_before() {
        let (mut told, start) = (Told::default(), monotonic());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(told.count(at(0)), Some(1));
        let lines: Vec<u64> = (1..=2500).filter_map(|ms| told.count(at(ms))).collect();
        assert_eq!(lines, [1000, 1000]);
        assert_eq!(told.count(at(3000)), Some(501));
    }
}
