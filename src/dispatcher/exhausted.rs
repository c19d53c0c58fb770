//! Attempts for which this process has no descriptor left, or no place for the lookup of a name.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::transport::Failure;
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

/// Attempts that wait for a descriptor or a lookup. They have no place meanwhile: others may have a connection that is kept.
pub(super) struct Exhausted {
    waiting: Budget,
    no_descriptor: Mutex<Told>,
    no_place: Mutex<Told>,
}

impl Default for Exhausted {
    fn default() -> Self {
        let told = || Mutex::new(Told::every(TELL_EVERY));
        Exhausted { waiting: Budget::new(usize::MAX), no_descriptor: told(), no_place: told() }
    }
}

impl Exhausted {
    /// Counts an attempt, and waits until it can be tried again.
    pub async fn wait(&self, metrics: &Metrics, error: &Failure) {
        let no_place = matches!(error, Failure::Crowded(_));
        if !no_place {
            metrics.without_descriptor.inc();
        }
        let (told, why) = match no_place {
            true => (&self.no_place, "the name server is silent about other names"),
            false => (&self.no_descriptor, "this process has no descriptor left for a connection"),
        };
        if let Some(attempts) = told.lock().unwrap_or_else(PoisonError::into_inner).count(monotonic()) {
            tracing::warn!(attempts, %error, "attempts wait: {why}");
        }
        // Counted until the wait is over, also where it is broken off.
        let others = self.waiting.held();
        let mut waits = Hold::new(&self.waiting);
        waits.grow_anyway(1);
        tokio::time::sleep(PAUSE.max(PAUSE_EACH * u32::try_from(others).unwrap_or(u32::MAX))).await;
    }
}
