//! Is this node fit to lead? Its clock and its disk, looked at all the time.
//!
//! Each node compares its wall clock with those of its peers. One that is off from most of them does not fire: a leader
//! that is set an hour ahead would fire every run of the next hour at once. A node whose log takes longer to write than
//! the others wait for a leader lets another lead. One whose disk is nearly full takes no more writes while it can
//! still record what it has taken.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use crate::clock::{monotonic, Clock, Timestamp};
use crate::raft::wire::Status;

/// Between two looks at the disk.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two comparisons of clocks.
const COMPARE_EVERY: Duration = Duration::from_millis(250);
/// How long a node whose disk was slow does not stand for election.
const SLOW_FOR: Duration = Duration::from_secs(5);

/// What is wrong with this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Its clock.
    pub clock: Option<String>,
    /// Its disk takes too long.
    pub slow: Option<String>,
    /// Its disk is nearly full.
    pub full: Option<String>,
    /// A peer that answers has room on its disk.
    pub others_have_room: bool,
}

impl Faults {
    /// Whether another should lead.
    pub fn bars_leading(&self) -> bool {
        // Where every disk is full, one that can still record what was fired is better than none.
        self.clock.is_some() || self.slow.is_some() || (self.full.is_some() && self.others_have_room)
    }

    /// Whether there is something with the disk.
    pub fn disk(&self) -> bool {
        self.slow.is_some() || self.full.is_some()
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockLook {
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
pub(super) fn has_jumped(node: &Node) -> bool {
    let looked = *node.0.clock_look.lock().unwrap_or_else(PoisonError::into_inner);
    let limit_ms = node.0.config.raft.max_clock_skew_ms as i64;
    looked.jump_ms(&ClockLook::now(node)).abs() > limit_ms && !node.other_members().is_empty()
}

/// Watches for as long as the node runs.
pub(super) async fn run(node: Node) {
    tokio::join!(watch_clock(&node), watch_disk(&node));
}

async fn watch_disk(node: &Node) {
    let too_long = Duration::from_millis(node.0.config.raft.election_timeout_max_ms);
    let reserve = node.0.config.storage.reserve_mb << 20;
    let mut slow_until: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let free = rustix::fs::statvfs(&node.0.config.raft_dir).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        let full = free.ok().filter(|free| *free < reserve);
        let full = full
            .map(|free| format!("{} MiB are free on the disk, and {} are kept in reserve", free >> 20, reserve >> 20));
        // Where there is nobody else to lead, a slow disk is better than none.
        let pending = node.0.log.in_flight_since().filter(|p| *p > too_long && !node.other_members().is_empty());
        if let Some(pending) = pending {
            slow_until = Some(monotonic() + SLOW_FOR);
            note(node, |faults| faults.slow = Some(format!("a write of the log has taken {} ms", pending.as_millis())));
        } else if slow_until.is_some_and(|until| monotonic() > until) {
            slow_until = None;
            note(node, |faults| faults.slow = None);
        }
        note(node, |faults| faults.full = full);
    }
}

async fn watch_clock(node: &Node) {
    let limit_ms = node.0.config.raft.max_clock_skew_ms as i64;
    loop {
        tokio::time::sleep(COMPARE_EVERY).await;
        let look = ClockLook::now(node);
        let steady_now = look.steady;
        let jump = node.0.clock_look.lock().unwrap_or_else(PoisonError::into_inner).jump_ms(&look);
        let peers = node.other_members();
        if jump.abs() > limit_ms {
            tracing::warn!(jump_ms = jump, "the wall clock has jumped");
            if !peers.is_empty() {
                // What the peers said before the jump says nothing about the clock as it is now.
                let fault = format!("the wall clock has jumped by {jump} ms and has not been compared since");
                note(node, |faults| faults.clock = Some(fault));
            }
        }
        // Not before the fault is noted: until then it is by the older look that the jump is seen.
        *node.0.clock_look.lock().unwrap_or_else(PoisonError::into_inner) = look;
        let links = &node.0.links;
        let asked = peers.iter().map(|peer| links.call::<_, Status>(peer, "status", &(), Duration::from_secs(1)));
        let answers = futures::future::join_all(asked).await;
        answers.iter().flatten().for_each(|status| node.learn_ports(&status.http, status.monitor));
        let room = answers.iter().flatten().any(|status| !status.full);
        note(node, |faults| faults.others_have_room = room);
        let heard = peers.iter().filter_map(|peer| links.presence(peer)).filter(|p| p.heard >= steady_now);
        let offsets: Vec<i64> = heard.map(|p| p.clock_offset_ms).collect();
        if peers.is_empty() || !offsets.is_empty() {
            note(node, |faults| faults.clock = clock_fault(&offsets, peers.len(), limit_ms));
        }
    }
}

/// What is wrong, by how far the peers' clocks are ahead of this one.
fn clock_fault(offsets: &[i64], peers: usize, limit_ms: i64) -> Option<String> {
    let off = offsets.iter().filter(|ms| ms.abs() > limit_ms).count();
    // Where half of the others, or more, say so, a majority of all cannot agree with this one.
    let wrong = off > 0 && off >= peers.div_ceil(2) && off * 2 > offsets.len();
    wrong.then(|| format!("the wall clock is off from {off} of {peers} peers, by {offsets:?} ms"))
}

/// Takes note of what is wrong, says so where it changes, and leads or not accordingly.
fn note(node: &Node, change: impl FnOnce(&mut Faults)) {
    let (before, after) = {
        let mut faults = node.faults();
        let before = faults.clone();
        change(&mut faults);
        (before, faults.clone())
    };
    let all = |f: &Faults| [f.clock.clone(), f.slow.clone(), f.full.clone()];
    for (old, new) in all(&before).into_iter().zip(all(&after)) {
        match (old, new) {
            (None, Some(reason)) => tracing::error!(reason, "this node is not fit"),
            (Some(reason), None) => tracing::info!(reason, "this is over"),
            _ => {}
        }
    }
    if before.bars_leading() != after.bars_leading() {
        if let Some(raft) = node.0.group.get() {
            raft.runtime_config().heartbeat(!after.bars_leading());
            raft.runtime_config().elect(!after.bars_leading());
        }
    }
}

impl Node {
    fn other_members(&self) -> Vec<String> {
        let members = self.0.raft_metrics.borrow().as_ref().map(|m| m.membership_config.clone());
        let own = self.0.own.to_string();
        members.iter().flat_map(|m| m.nodes()).map(|(_, n)| n.addr.clone()).filter(|a| *a != own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_when_most_say_so() {
        let fault = |offsets: &[i64], peers| clock_fault(offsets, peers, 5000).is_some();
        assert!(!fault(&[], 2));
        assert!(!fault(&[3, -4], 2));
        assert!(fault(&[-3_600_000, -3_600_010], 2));
        assert!(!fault(&[3_600_000, 4], 2), "it is the other one that is wrong");
        assert!(!fault(&[3_600_000, 3, 1, 0], 4));
        assert!(fault(&[3_600_000, 3_600_001, 3_600_002, 0], 4));
        assert!(fault(&[6000], 1), "of two nodes neither knows who is wrong, and neither fires");
    }
}
