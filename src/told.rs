//! Lines of the log that tell of many events at once: the first at once, later ones together, now and then.

use std::time::Duration;

use tokio::time::Instant;

/// Events of one kind, and when they were last told.
#[derive(Debug)]
pub struct Told {
    every: Duration,
    at: Option<Instant>,
    untold: u64,
}

impl Told {
    /// Tells no more than once in this time.
    pub fn every(every: Duration) -> Told {
        Told { every, at: None, untold: 0 }
    }

    /// Counts one more; how many are to be told now, if any.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.at.is_some_and(|at| now < at + self.every) {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;

    #[test]
    fn the_first_is_told_at_once_and_later_ones_together() {
        let (mut told, start) = (Told::every(Duration::from_secs(1)), monotonic());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(told.count(at(0)), Some(1));
        let lines: Vec<u64> = (1..=2500).filter_map(|ms| told.count(at(ms))).collect();
        assert_eq!(lines, [1000, 1000]);
        assert_eq!(told.count(at(3000)), Some(501));
    }

    #[test]
    fn what_comes_within_the_time_waits_for_its_end() {
        let (mut told, start) = (Told::every(Duration::from_secs(10)), monotonic());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(told.count(at(0)), Some(1));
        assert_eq!((told.count(at(50)), told.count(at(9999))), (None, None));
        assert_eq!(told.count(at(10_000)), Some(3));
    }
}
