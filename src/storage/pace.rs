//! Whether a checkpoint goes on that is due: what a store that stands still is known by.
//!
//! A store can stand still in whatever a checkpoint asks of it: a read, a write, a sync, or in what holds the checkpoint
//! up. So not each of these is timed, but how long ago the last step of any kind ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::clock::monotonic;

/// The steps of the checkpoints of one machine; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Pace(Arc<Mutex<Steps>>);

#[derive(Default)]
struct Steps {
    /// How many checkpoints are due or under way.
    due: usize,
    /// When the last step ended, or the first of these checkpoints became due.
    last: Option<Instant>,
}

/// A checkpoint that is due, or under way.
pub(super) struct Due(Pace);

impl Drop for Due {
    fn drop(&mut self) {
        self.0.steps().due -= 1;
    }
}

impl Pace {
    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A checkpoint is due from now on until what is returned is dropped.
    pub fn due(&self) -> Due {
        let mut steps = self.steps();
        if steps.due == 0 {
            steps.last = Some(monotonic());
        }
        steps.due += 1;
        Due(self.clone())
    }

    /// A step has ended, of a checkpoint or of what checkpoints wait for.
    pub fn went_on(&self) {
        self.steps().last = Some(monotonic());
    }

    /// Since when the checkpoint that is due has made no step; none: none is due.
    pub fn since(&self) -> Option<Instant> {
        let steps = self.steps();
        steps.last.filter(|_| steps.due > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_checkpoint_stands_still_from_its_last_step_on_and_only_while_it_is_due() {
        let pace = Pace::default();
        let pass = || std::thread::sleep(Duration::from_millis(3));
        pace.went_on();
        assert_eq!(pace.since(), None, "a snapshot's step is no checkpoint");
        pass();
        let before = monotonic();
        let due = pace.due();
        let began = pace.since().unwrap();
        assert!(began >= before, "the time before does not count");
        pass();
        let waits = pace.due();
        assert_eq!(pace.since(), Some(began), "a second one that waits is no step of the first");
        pace.went_on();
        let stepped = pace.since();
        assert!(stepped > Some(began));
        pass();
        drop(due);
        assert_eq!(pace.since(), stepped, "the other is due still");
        drop(waits);
        assert_eq!(pace.since(), None);
    }
}
