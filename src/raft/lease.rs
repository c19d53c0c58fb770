//! The leader's lease: for how long it may be sure that no other node leads.
//!
//! A follower that has heard the leader votes for no other node for `election_timeout_min_ms`. So a leader that a
//! majority acknowledged may act until a little less than that has passed since it *sent* what they acknowledged. The time
//! is the follower's own, which each of its answers tells; where the leader's is shorter, the leader goes by that.
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

/// What a peer has acknowledged last.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    term: u64,
    sent: Moment,
    /// For how long it counts, from then on.
    length: Duration,
}

/// Which peer last acknowledged this node as the leader, when, of which term, and for how long that counts; and which
/// terms it has given up.
#[derive(Debug)]
pub struct Lease {
    length: Duration,
    acknowledged: Mutex<HashMap<u64, Acknowledged>>,
    /// The last term whose leadership this node has given up.
    given_up: AtomicU64,
}

/// Of so many other voters as many as make a majority with this node: of n voters that is n / 2 + 1.
pub fn others_needed(others: usize) -> usize {
    others.div_ceil(2)
}

impl Lease {
    /// A lease of at most this length, which no peer has granted yet.
    pub fn new(length: Duration) -> Self {
        Lease { length, acknowledged: Mutex::default(), given_up: AtomicU64::new(0) }
    }

    /// How long a lease is where who grants it votes for no other for so long: a little less, since clocks run at slightly
    /// different speeds.
    pub fn within(bears: Duration) -> Duration {
        bears / 10 * 9
    }

    /// `peer` acknowledged, as a follower of `term`, what was sent at `sent`, and votes for no other for as long as it
    /// `bears` the leader's silence; none: as long as this node would.
    pub fn acknowledge(&self, peer: u64, term: u64, sent: Moment, bears: Option<Duration>) {
        let length = bears.map_or(self.length, |bears| Lease::within(bears).min(self.length));
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = acknowledged.entry(peer).or_insert(Acknowledged { term, sent, length });
        // The last one counts, also where it is shorter: the peer was started again with other times.
        if (term, sent) > (entry.term, entry.sent) {
            *entry = Acknowledged { term, sent, length };
        }
    }

    fn of(&self, peer: u64, term: u64) -> Option<Acknowledged> {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.get(&peer).filter(|last| last.term == term).copied()
    }

    /// When what `peer` last acknowledged in this term was sent.
    pub fn last_of(&self, peer: u64, term: u64) -> Option<Moment> {
        self.of(peer, term).map(|last| last.sent)
    }

    /// The latest moment of which a majority has acknowledged this node as the leader of `term`, with these other
    /// voters; none: no majority ever has.
    pub fn majority(&self, term: u64, other_voters: &[u64], now: Moment) -> Option<Moment> {
        let mut sent: Vec<Moment> = other_voters.iter().filter_map(|id| self.last_of(*id, term)).collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        match others_needed(other_voters.len()) {
            0 => Some(now),
            needed => sent.get(needed - 1).copied(),
        }
    }

    /// Whether the leader of `term` may act now: what so many have acknowledged as it takes for a majority still counts.
    pub fn holds(&self, term: u64, other_voters: &[u64], now: Moment) -> bool {
        let counts = |id: &&u64| self.of(**id, term).is_some_and(|last| now.since(&last.sent) < last.length);
        !self.is_given_up(term) && other_voters.iter().filter(counts).count() >= others_needed(other_voters.len())
    }

    /// How many times as often as by its own times this node has to be acknowledged in `term`, since the lease of a peer is
    /// shorter; at least 1.
    pub fn haste(&self, term: u64) -> f64 {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let shortest = acknowledged.values().filter(|last| last.term == term).map(|last| last.length).min();
        let shortest = shortest.unwrap_or(self.length).max(Duration::from_millis(1));
        (self.length.as_secs_f64() / shortest.as_secs_f64()).max(1.0)
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
        lease.acknowledge(2, 7, at(100), None);
        assert!(lease.holds(7, &[2, 3], at(599)));
        assert!(!lease.holds(7, &[2, 3], at(600)));
        assert!(!lease.holds(8, &[2, 3], at(200)), "another term is another lease");
        assert!(!lease.holds(7, &[2, 3, 4, 5], at(200)), "one of four others is no majority");
        lease.acknowledge(5, 7, at(300), None);
        assert!(lease.holds(7, &[2, 3, 4, 5], at(599)) && !lease.holds(7, &[2, 3, 4, 5], at(600)));
        lease.acknowledge(2, 7, at(50), None);
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
                lease.acknowledge(acknowledged + 1, 7, now, None);
            }
        }
    }

    #[test]
    fn an_acknowledgement_counts_for_no_longer_than_who_gives_it_votes_for_no_other() {
        let start = Moment { steady: monotonic(), wall: Timestamp(5_000) };
        let at =
            |ms| Moment { steady: start.steady + Duration::from_millis(ms), wall: Timestamp(start.wall.as_ms() + ms) };
        let told = |ms| Some(Duration::from_millis(ms));
        // What each peer tells, those that are asked, and until when the lease holds that is 4,500 ms long by this node.
        type Row<'a> = (&'a [Option<Duration>], &'a [u64], u64);
        let table: [Row<'_>; 8] = [
            (&[told(500)], &[2, 3], 450),
            (&[told(300), told(500)], &[2, 3], 450),
            (&[told(5_000), told(500)], &[2, 3], 4_500),
            (&[told(5_000), told(500), told(500)], &[2, 3, 4, 5], 450),
            (&[told(9_000)], &[2, 3], 4_500),
            (&[None], &[2, 3], 4_500),
            (&[told(0)], &[2, 3], 0),
            (&[told(u64::MAX)], &[2, 3], 4_500),
        ];
        for (peers, others, until) in table {
            let lease = Lease::new(Lease::within(Duration::from_millis(5_000)));
            for (id, bears) in (2..).zip(peers) {
                lease.acknowledge(id, 7, at(0), *bears);
            }
            assert!(!lease.holds(7, others, at(until)), "{peers:?}");
            assert!(until == 0 || lease.holds(7, others, at(until - 1)), "{peers:?}");
            assert_eq!(lease.last_of(2, 7), Some(at(0)));
        }
    }

    #[test]
    fn a_peer_that_was_started_again_with_other_times_counts_by_these() {
        let now = Moment { steady: monotonic(), wall: Timestamp(5_000) };
        let later = |ms| Moment { steady: now.steady + Duration::from_millis(ms), wall: now.wall.plus_ms(ms) };
        let lease = Lease::new(Duration::from_millis(4_500));
        lease.acknowledge(2, 7, now, None);
        assert!(lease.holds(7, &[2], later(1_000)) && lease.haste(7) == 1.0);
        lease.acknowledge(2, 7, later(100), Some(Duration::from_millis(500)));
        assert!(lease.holds(7, &[2], later(549)) && !lease.holds(7, &[2], later(550)));
        assert!((9.9..10.1).contains(&lease.haste(7)), "{}", lease.haste(7));
        // One that was sent before and comes late changes nothing.
        lease.acknowledge(2, 7, later(50), None);
        assert!(!lease.holds(7, &[2], later(550)));
        assert!(lease.haste(8) == 1.0, "another term is another lease");
    }

    #[test]
    fn a_lease_ends_while_the_machine_is_suspended() {
        let sent = Moment { steady: monotonic(), wall: Timestamp(5_000) };
        let lease = Lease::new(Duration::from_millis(500));
        lease.acknowledge(2, 7, sent, None);
        // The monotonic clock has stood still, and the wall clock is set right when the machine wakes.
        let awake = Moment { steady: sent.steady + Duration::from_millis(1), wall: Timestamp(5_600) };
        assert!(!lease.holds(7, &[2], awake));
        let set_back = Moment { steady: sent.steady + Duration::from_millis(1), wall: Timestamp(1_000) };
        assert!(lease.holds(7, &[2], set_back), "a wall clock that is set back lengthens nothing");
        let late = Moment { steady: sent.steady + Duration::from_millis(500), wall: Timestamp(1_000) };
        assert!(!lease.holds(7, &[2], late));
    }
}
