//! The second half of `Xcron-Fence`, `<term>.<n>`: a number that only grows within its term, over every node that leads
//! in it, over restarts, and however much is sent.
//!
//! `n` is the index of the last log entry that the leader has applied, times 2²⁰, plus how much was sent since. Whoever
//! leads later has an entry of its own in the log before it fires, behind all that an earlier leader can have applied
//! while it led. So nothing has to be recorded for it, and no file can take it back that is not the log itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests between two entries: far more than can be under way while no outcome is written.
const COUNT_BITS: u32 = 20;

/// The fences of one process.
#[derive(Default)]
pub(super) struct Fences {
    last: AtomicU64,
}

impl Fences {
    /// Larger than any before; none: so much was sent since the entry `applied` that the next one has to come first.
    pub fn next(&self, applied: u64) -> Option<u64> {
        let after = |last: u64| (last + 1).max(applied << COUNT_BITS);
        let fits = |n: &u64| n >> COUNT_BITS <= applied;
        self.last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)).filter(fits))
            .ok()
            .map(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_grows_with_each_request_and_with_the_log() {
        let fences = Fences::default();
        let drawn = [0, 0, 5, 5, 5, 4, 9].map(|applied| fences.next(applied));
        assert!(drawn[5].is_none(), "rather none than one that was drawn before the log went back: {drawn:?}");
        let drawn: Vec<u64> = drawn.into_iter().flatten().collect();
        assert!(drawn.len() == 6 && drawn.windows(2).all(|pair| pair[0] < pair[1]), "{drawn:?}");
    }

    #[test]
    fn the_next_leader_begins_above_all_that_the_last_one_can_have_sent() {
        let (old, new) = (Fences::default(), Fences::default());
        let sent: Vec<u64> = std::iter::from_fn(|| old.next(7)).collect();
        assert_eq!(sent.len(), 1 << COUNT_BITS, "what can be sent while nothing is written is bounded");
        assert!(new.next(8).unwrap() > *sent.last().unwrap());
        assert!(old.next(8).is_some(), "the next entry lets it go on");
    }

    #[test]
    fn ten_years_fit_into_a_signed_number_of_64_bits() {
        let (seconds, entries_per_second) = (10 * 366 * 86_400u64, 25_000);
        let last = (seconds * entries_per_second + 1) << COUNT_BITS;
        assert!(last >> COUNT_BITS == seconds * entries_per_second + 1 && i64::try_from(last).is_ok());
    }
}
