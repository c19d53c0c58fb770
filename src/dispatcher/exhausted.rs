//! Attempts for which this process has no descriptor left.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::budget::{Budget, Hold};
use crate::clock::monotonic;
use crate::metrics::Metrics;
use crate::told::Told;

/// The least time for which such an attempt waits.
const PAUSE: Duration = Duration::from_millis(200);
/// So much longer for each that waits already: all of them together try a thousand times a second at most.
const PAUSE_EACH: Duration = Duration::from_millis(1);
/// Between two lines in the log.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Attempts that wait for a descriptor. They have no place meanwhile: others may have a connection that is kept.
pub(super) struct Exhausted {
    waiting: Budget,
    told: Mutex<Told>,
}

impl Default for Exhausted {
    fn default() -> Self {
        Exhausted { waiting: Budget::new(usize::MAX), told: Mutex::new(Told::every(TELL_EVERY)) }
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
        let others = self.waiting.held();
        let mut waits = Hold::new(&self.waiting);
        waits.grow_anyway(1);
        tokio::time::sleep(PAUSE.max(PAUSE_EACH * u32::try_from(others).unwrap_or(u32::MAX))).await;
    }
}
