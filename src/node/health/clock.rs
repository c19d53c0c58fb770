//! This node's clock, compared with itself and with those of the peers.

use std::sync::PoisonError;

use tokio::time::Instant;

use super::{note, Node};
use crate::clock::{monotonic, Clock, Timestamp};
use crate::raft::others_needed;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct ClockLook {
    wall: Timestamp,
    steady: Instant,
}

impl ClockLook {
    pub fn now(node: &Node) -> ClockLook {
        Self::of(&node.0.clock)
    }

    pub fn of(clock: &Clock) -> ClockLook {
        ClockLook { wall: clock.now(), steady: monotonic() }
    }

    /// How far the wall clock has jumped from this look to that later one.
    fn jump_ms(&self, later: &ClockLook) -> i64 {
        later.wall.0 as i64 - self.wall.0 as i64 - later.steady.duration_since(self.steady).as_millis() as i64
    }
}

/// Whether the wall clock has jumped, and nobody has looked since: between two looks a leader that was set an hour ahead
/// would fire every run of that hour.
pub(in crate::node) fn has_jumped(node: &Node) -> bool {
    let looked = *node.0.clock_look.lock().unwrap_or_else(PoisonError::into_inner);
    let limit_ms = node.0.config.raft.max_clock_skew_ms as i64;
    looked.jump_ms(&ClockLook::now(node)).abs() > limit_ms && !node.other_members().is_empty()
}

/// Looks at the clock; the moment of the look.
pub(super) fn look(node: &Node) -> Instant {
    let limit_ms = node.0.config.raft.max_clock_skew_ms as i64;
    let look = ClockLook::now(node);
    let jump = node.0.clock_look.lock().unwrap_or_else(PoisonError::into_inner).jump_ms(&look);
    if jump.abs() > limit_ms {
        tracing::warn!(jump_ms = jump, "the wall clock has jumped");
        if !node.other_members().is_empty() {
            // What the peers said before the jump says nothing about the clock as it is now.
            let fault = format!("the wall clock has jumped by {jump} ms and has not been compared since");
            note(node, |faults| faults.clock = Some(fault));
        }
    }
    // Not before the fault is noted: until then it is by the older look that the jump is seen.
    *node.0.clock_look.lock().unwrap_or_else(PoisonError::into_inner) = look;
    look.steady
}

/// Compares the clock with those of the peers that were heard since; `done`: no other is waited for.
pub(super) fn compare(node: &Node, peers: &[String], since: Instant, done: bool) {
    let limit_ms = node.0.config.raft.max_clock_skew_ms as i64;
    let heard = peers.iter().filter_map(|peer| node.0.links.presence(peer)).filter(|p| p.heard >= since);
    let offsets: Vec<i64> = heard.map(|p| p.clock_offset_ms).collect();
    match conclude(&offsets, peers.len(), limit_ms, done) {
        Verdict::Right => note(node, |faults| (faults.clock, faults.uncompared) = (None, false)),
        Verdict::Wrong(fault) => note(node, |faults| (faults.clock, faults.uncompared) = (Some(fault), false)),
        Verdict::Open => {}
    }
}

/// What the clocks that were heard say; with `done` no other will be heard. Where some do not answer, the others can say
/// that this node's clock is wrong. That it is right only a majority of all can: of two whose clocks were set wrong alike
/// one would confirm the other, while those that know better are dead.
fn conclude(offsets: &[i64], peers: usize, limit_ms: i64, done: bool) -> Verdict {
    match judge(offsets, peers, limit_ms) {
        Verdict::Open if done => unless_others_agree(offsets, peers, limit_ms).map_or(Verdict::Open, Verdict::Wrong),
        verdict => verdict,
    }
}

/// What the clocks that were heard say of this node's, whatever those say that were not.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// A majority of all agrees with it.
    Right,
    /// No majority can agree with it any more.
    Wrong(String),
    Open,
}

/// Judges by how far the peers' clocks are ahead of this one. A peer that has not been heard yet may say either: what one
/// that is wrong says first is no fault of a node with which the next one agrees.
fn judge(offsets: &[i64], peers: usize, limit_ms: i64) -> Verdict {
    let off = off(offsets, limit_ms);
    let majority = others_needed(peers) + 1;
    if 1 + offsets.len() - off >= majority {
        Verdict::Right
    } else if off > peers + 1 - majority {
        Verdict::Wrong(told(offsets, peers, limit_ms))
    } else {
        Verdict::Open
    }
}

fn off(offsets: &[i64], limit_ms: i64) -> usize {
    offsets.iter().filter(|ms| ms.abs() > limit_ms).count()
}

fn told(offsets: &[i64], peers: usize, limit_ms: i64) -> String {
    let off = off(offsets, limit_ms);
    let ahead = offsets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("the wall clock is off from {off} of {peers} peers: theirs are ahead of it by {ahead} ms")
}

/// What is wrong where nobody else can be asked.
fn unless_others_agree(offsets: &[i64], peers: usize, limit_ms: i64) -> Option<String> {
    let off = off(offsets, limit_ms);
    // Where half of the others, or more, say so, a majority of all cannot agree with this one.
    let wrong = off > 0 && off >= peers.div_ceil(2) && off * 2 > offsets.len();
    wrong.then(|| told(offsets, peers, limit_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_when_most_say_so() {
        let fault = |offsets: &[i64], peers| matches!(conclude(offsets, peers, 5000, true), Verdict::Wrong(_));
        assert!(!fault(&[], 2));
        assert!(!fault(&[3, -4], 2));
        assert!(fault(&[-3_600_000, -3_600_010], 2));
        assert!(!fault(&[3_600_000, 4], 2), "it is the other one that is wrong");
        assert!(fault(&[3_600_000], 2), "of two nodes that are left neither knows who is wrong");
        assert!(!fault(&[3_600_000, 3, 1, 0], 4));
        assert!(fault(&[3_600_000, 3_600_001, 3_600_002, 0], 4));
        assert!(fault(&[6000], 1), "of two nodes neither knows who is wrong, and neither fires");
    }

    #[test]
    fn a_minority_says_of_no_clock_that_it_is_right() {
        let verdict = |offsets: &[i64], peers| conclude(offsets, peers, 5000, true);
        // Two of five were set an hour ahead, and two are dead: none of the three that are left is confirmed.
        assert_eq!(verdict(&[-3_600_000, 1], 4), Verdict::Open);
        assert!(matches!(verdict(&[3_600_000, 3_600_001], 4), Verdict::Wrong(_)));
        assert_eq!(verdict(&[2, 1], 4), Verdict::Right);
        assert_eq!(verdict(&[1], 4), Verdict::Open);
        assert_eq!(verdict(&[1], 2), Verdict::Right);
    }

    #[test]
    fn one_wrong_clock_that_is_heard_first_says_nothing() {
        let open = |offsets: &[i64], peers| judge(offsets, peers, 5000) == Verdict::Open;
        assert!(open(&[20_000], 2) && open(&[20_000], 4) && open(&[20_000, 3], 4) && open(&[20_000, 20_000], 4));
        assert!(open(&[], 1) && open(&[], 2) && open(&[3], 3) && open(&[20_000], 3));
        for (right, peers) in [(&[3][..], 1), (&[3], 2), (&[20_000, 3], 2), (&[3, 4], 3), (&[3, 4], 4)] {
            assert_eq!(judge(right, peers, 5000), Verdict::Right, "{right:?} of {peers}");
        }
        for (wrong, peers) in [(&[9000][..], 1), (&[9000, 9001], 2), (&[9000, -9000], 3), (&[9000, 9000, 9000], 4)] {
            assert!(matches!(judge(wrong, peers, 5000), Verdict::Wrong(_)), "{wrong:?} of {peers}");
        }
    }
}
