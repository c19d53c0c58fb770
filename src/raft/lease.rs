//! The leader's lease: for how long it may be sure that nobody else leads.
//!
//! A follower that has heard the leader votes for no other for an election timeout. So a leader that a majority
//! acknowledged may act until that timeout has passed since it *sent* what they acknowledged. Sending times are this
//! node's monotonic clock: a process that was stopped for a while finds its lease expired when it wakes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When which peer last acknowledged this node as the leader, and of which term.
#[derive(Debug)]
pub struct Lease {
    length: Duration,
    acknowledged: Mutex<HashMap<u64, (u64, Instant)>>,
}

impl Lease {
    /// A lease of this length, which nobody has granted yet.
    pub fn new(length: Duration) -> Self {
        Lease { length, acknowledged: Mutex::default() }
    }

    /// `peer` acknowledged, as a follower of `term`, what was sent at `sent`.
    pub fn acknowledge(&self, peer: u64, term: u64, sent: Instant) {
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = acknowledged.entry(peer).or_insert((term, sent));
        *entry = (*entry).max((term, sent));
    }

    /// When the lease of the leader of `term` ends, with these other voters; none: no majority has granted it.
    pub fn ends(&self, term: u64, other_voters: &[u64], now: Instant) -> Option<Instant> {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let of_term = |id: &u64| acknowledged.get(id).filter(|(t, _)| *t == term).map(|(_, sent)| *sent);
        let mut sent: Vec<Instant> = other_voters.iter().filter_map(of_term).collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        // Of n voters, this one included, a majority is n / 2 + 1: n / 2 others.
        let needed = other_voters.len().div_ceil(2);
        let since = if needed == 0 { now } else { *sent.get(needed - 1)? };
        Some(since + self.length)
    }

    /// Whether the leader of `term` may act now.
    pub fn holds(&self, term: u64, other_voters: &[u64], now: Instant) -> bool {
        self.ends(term, other_voters, now).is_some_and(|end| now < end)
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
        let start = crate::clock::monotonic();
        let at = |ms| start + Duration::from_millis(ms);
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
    }
}
