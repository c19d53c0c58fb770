//! The leader's lease: for how long it may be sure that no other node leads.
//!
//! A follower that has heard the leader votes for no other node for `election_timeout_min_ms`. So a leader that a
//! majority acknowledged may act until a little less than that has passed since it *sent* what they acknowledged.
//!
//! Time passes by whichever of this node's clocks says more: the monotonic one stands still while the machine is
//! suspended, and the wall clock, which is set right when the machine wakes, does not. A wall clock that is set forward
//! ends a lease too early, which costs one heartbeat.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{monotonic, Clock, Timestamp};

/// Both clocks of this node at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// The monotonic clock.
    pub steady: Instant,
    /// The wall clock.
    pub wall: Timestamp,
}

impl Moment {
    /// What both clocks say now.
    pub fn now(clock: &Clock) -> Moment {
        Moment { steady: monotonic(), wall: clock.now() }
    }

    /// The time from `earlier` to this moment, by the clock that says more.
    pub fn since(&self, earlier: &Moment) -> Duration {
        let wall = Duration::from_millis(self.wall.ms_since(earlier.wall));
        self.steady.saturating_duration_since(earlier.steady).max(wall)
    }
}

/// Which peer last acknowledged this node as the leader, when, and of which term; and which terms it has given up.
#[derive(Debug)]
pub struct Lease {
    length: Duration,
    acknowledged: Mutex<HashMap<u64, (u64, Moment)>>,
    /// The last term whose leadership this node has given up.
    given_up: AtomicU64,
}

impl Lease {
    /// A lease of this length, which no peer has granted yet.
    pub fn new(length: Duration) -> Self {
        Lease { length, acknowledged: Mutex::default(), given_up: AtomicU64::new(0) }
    }

    /// `peer` acknowledged, as a follower of `term`, what was sent at `sent`.
    pub fn acknowledge(&self, peer: u64, term: u64, sent: Moment) {
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = acknowledged.entry(peer).or_insert((term, sent));
        *entry = (*entry).max((term, sent));
    }

    /// When what `peer` last acknowledged in this term was sent.
    pub fn last_of(&self, peer: u64, term: u64) -> Option<Moment> {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.get(&peer).filter(|(of, _)| *of == term).map(|(_, sent)| *sent)
    }

    /// The latest moment of which a majority has acknowledged this node as the leader of `term`, with these other
    /// voters; none: no majority ever has.
    pub fn majority(&self, term: u64, other_voters: &[u64], now: Moment) -> Option<Moment> {
        let mut sent: Vec<Moment> = other_voters.iter().filter_map(|id| self.last_of(*id, term)).collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        // Of n voters, this one included, a majority is n / 2 + 1: n / 2 others.
        let needed = other_voters.len().div_ceil(2);
        if needed == 0 {
            return Some(now);
        }
        sent.get(needed - 1).copied()
    }

    /// Whether the leader of `term` may act now.
    pub fn holds(&self, term: u64, other_voters: &[u64], now: Moment) -> bool {
        !self.is_given_up(term)
            && self.majority(term, other_voters, now).is_some_and(|sent| now.since(&sent) < self.length)
    }

    /// From now on this node sends nothing more as the leader of `term`, or of one before: what it sent would keep the
    /// others from electing one that has a majority.
    pub fn give_up(&self, term: u64) {
        self.given_up.fetch_max(term, Ordering::SeqCst);
    }

    /// Whether this node must send nothing as the leader of `term`.
    pub fn is_given_up(&self, term: u64) -> bool {
        term <= self.given_up.load(Ordering::SeqCst)
    }
}

/// What a leader takes over: what its log ended with when it was first seen to lead. Before all of that is applied it
/// does not know what the leaders before it have acknowledged, a delete say, and must not act on what it has.
#[derive(Debug, Default)]
pub struct Inheritance(Mutex<Option<(u64, Option<u64>)>>);

impl Inheritance {
    /// Whether the leader of `term`, whose log ends with `last_log` now, has applied it.
    pub fn is_applied(&self, term: u64, last_log: Option<u64>, applied: Option<u64>) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_none_or(|(of, _)| of != term) {
            *taken = Some((term, last_log));
        }
        taken.is_some_and(|(_, end)| applied >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_over_ends_where_the_log_did_as_the_leader_was_first_seen() {
        let inheritance = Inheritance::default();
        assert!(inheritance.is_applied(1, None, None), "an empty log");
        assert!(!inheritance.is_applied(2, Some(9), Some(7)));
        assert!(!inheritance.is_applied(2, Some(30), Some(8)), "what it has written itself does not count");
        assert!(inheritance.is_applied(2, Some(30), Some(9)) && inheritance.is_applied(2, Some(40), Some(31)));
        assert!(!inheritance.is_applied(4, Some(40), Some(39)), "another term is another leader");
    }

    #[test]
    fn a_lease_counts_from_what_a_majority_acknowledged() {
        let start = Moment { steady: monotonic(), wall: Timestamp(5_000) };
        let at =
            |ms| Moment { steady: start.steady + Duration::from_millis(ms), wall: Timestamp(start.wall.as_ms() + ms) };
        let lease = Lease::new(Duration::from_millis(500));
        assert!(lease.holds(1, &[], at(0)), "a single node is its own majority");
        assert!(!lease.holds(7, &[2, 3], at(0)));
        lease.acknowledge(2, 7, at(100));
        assert!(lease.holds(7, &[2, 3], at(599)));
        assert!(!lease.holds(7, &[2, 3], at(600)));
        assert!(!lease.holds(8, &[2, 3], at(200)), "another term is another lease");
        assert!(!lease.holds(7, &[2, 3, 4, 5], at(200)), "one of four others is no majority");
        lease.acknowledge(5, 7, at(300));
        assert!(lease.holds(7, &[2, 3, 4, 5], at(599)) && !lease.holds(7, &[2, 3, 4, 5], at(600)));
        lease.acknowledge(2, 7, at(50));
        assert!(lease.holds(7, &[2], at(599)), "an answer that comes late takes nothing back");
        lease.give_up(7);
        assert!(!lease.holds(7, &[2], at(200)) && lease.is_given_up(6) && !lease.is_given_up(8));
    }

    #[test]
    fn a_lease_needs_more_than_half_of_the_voters_however_many_there_are() {
        let now = Moment { steady: monotonic(), wall: Timestamp(5_000) };
        for voters in 1..=9u64 {
            let (others, lease) = ((2..=voters).collect::<Vec<_>>(), Lease::new(Duration::from_millis(500)));
            // This node is one of them.
            for acknowledged in 1..=voters {
                assert_eq!(lease.holds(7, &others, now), 2 * acknowledged > voters, "{acknowledged} of {voters}");
                lease.acknowledge(acknowledged + 1, 7, now);
            }
        }
    }

    #[test]
    fn a_lease_ends_while_the_machine_is_suspended() {
        let sent = Moment { steady: monotonic(), wall: Timestamp(5_000) };
        let lease = Lease::new(Duration::from_millis(500));
        lease.acknowledge(2, 7, sent);
        // The monotonic clock has stood still, and the wall clock is set right when the machine wakes.
        let awake = Moment { steady: sent.steady + Duration::from_millis(1), wall: Timestamp(5_600) };
        assert!(!lease.holds(7, &[2], awake));
        let set_back = Moment { steady: sent.steady + Duration::from_millis(1), wall: Timestamp(1_000) };
        assert!(lease.holds(7, &[2], set_back), "a wall clock that is set back lengthens nothing");
        let late = Moment { steady: sent.steady + Duration::from_millis(500), wall: Timestamp(1_000) };
        assert!(!lease.holds(7, &[2], late));
    }
}
