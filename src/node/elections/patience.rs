//! How long a node waits until it asks again whether it would be elected.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::monotonic;

/// Until when this node does not ask whether it would be elected: another one has asked, or an election is under way.
#[derive(Debug)]
pub(in crate::node) struct Patience(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    until: Instant,
    /// How often this node has stood since there was a leader.
    stood: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Patience(Mutex::new(Waiting { until: monotonic(), stood: 0 }))
    }
}

impl Patience {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for so long; longer where elections come to nothing. A vote is synced by who gives it, and each further
    /// candidacy takes the votes back that are on their way: where disks are slow, none would ever be counted.
    pub fn wait(&self, time: Duration) {
        let mut waiting = self.lock();
        let times = 1 << waiting.stood.saturating_sub(STOOD_AT_ONCE).min(TIMES_LONGER_MAX);
        waiting.until = waiting.until.max(monotonic() + time * times);
    }

    /// This node stands, and waits for what comes of it.
    pub fn stands(&self, time: Duration) {
        self.lock().stood += 1;
        self.wait(time);
    }

    /// There is a leader.
    pub fn rest(&self) {
        self.lock().stood = 0;
    }

    pub fn is_over(&self) -> bool {
        self.lock().until <= monotonic()
    }
}

/// So often a node stands without waiting longer each time: that votes are split is no matter of time.
const STOOD_AT_ONCE: u32 = 2;
/// From then on it waits twice as long each time, and so often at most.
const TIMES_LONGER_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_stood_in_vain_waits_longer_until_there_is_a_leader() {
        let patience = Patience::default();
        let time = Duration::from_secs(1);
        let stand = || {
            patience.lock().until = monotonic();
            patience.stands(time);
            let waits = patience.lock().until - monotonic();
            // What has passed since is little beside the time itself.
            assert!(!patience.is_over());
            waits.as_millis().div_ceil(time.as_millis())
        };
        let waits: Vec<_> = (0..7).map(|_| stand()).collect();
        assert_eq!(waits, [1, 1, 2, 4, 8, 8, 8]);
        patience.rest();
        assert_eq!(stand(), 1);
    }
}
