//! Is this node's clock right? Each node compares its wall clock with those of its peers. One that is off from most of
//! them does not fire: a leader that is set an hour ahead would fire every run of the next hour at once.

use std::sync::PoisonError;
use std::time::Duration;

use super::Node;
use crate::clock::monotonic;

const EVERY: Duration = Duration::from_millis(250);
/// How long what a peer said of its clock counts.
const FRESH: Duration = Duration::from_secs(5);

/// Watches for as long as the node runs.
pub(super) async fn run(node: Node) {
    let (mut wall, mut steady) = (node.now(), monotonic());
    loop {
        tokio::time::sleep(EVERY).await;
        let limit_ms = node.0.config.raft.max_clock_skew_ms as i64;
        let (wall_now, steady_now) = (node.now(), monotonic());
        let jump = wall_now.0 as i64 - wall.0 as i64 - (steady_now - steady).as_millis() as i64;
        (wall, steady) = (wall_now, steady_now);
        let peers: Vec<String> = {
            let metrics = node.0.raft_metrics.borrow();
            let members = metrics.as_ref().map(|m| m.membership_config.clone());
            let own = node.0.own.to_string();
            members.iter().flat_map(|m| m.nodes()).map(|(_, n)| n.addr.clone()).filter(|a| *a != own).collect()
        };
        if jump.abs() > limit_ms {
            tracing::warn!(jump_ms = jump, "the wall clock has jumped");
            if !peers.is_empty() {
                // What the peers said before the jump says nothing about the clock as it is now.
                set(
                    &node,
                    Some(format!("the wall clock has jumped by {jump} ms, and no peer has been compared since")),
                );
            }
        }
        let asked = futures::future::join_all(peers.iter().map(|peer| {
            node.0.links.call::<_, crate::raft::wire::Status>(peer, "status", &(), Duration::from_secs(1))
        }));
        drop(asked.await);
        let offsets: Vec<i64> = peers
            .iter()
            .filter_map(|peer| node.0.links.presence(peer))
            .filter(|p| p.heard >= steady_now && p.heard.elapsed() < FRESH)
            .map(|p| p.clock_offset_ms)
            .collect();
        set(&node, fault(&offsets, peers.len(), limit_ms));
    }
}

/// What is wrong, by how far the peers' clocks are ahead of this one.
fn fault(offsets: &[i64], peers: usize, limit_ms: i64) -> Option<String> {
    let off = offsets.iter().filter(|ms| ms.abs() > limit_ms).count();
    // More than half of all, this one included, agree that it is this one.
    let wrong = off > 0 && off >= (peers + 1) / 2 && off * 2 > offsets.len();
    wrong.then(|| format!("this node's wall clock is off from {off} of {peers} peers, by {offsets:?} ms"))
}

fn set(node: &Node, fault: Option<String>) {
    let mut current = node.0.clock_fault.lock().unwrap_or_else(PoisonError::into_inner);
    if current.is_some() == fault.is_some() {
        return;
    }
    match &fault {
        Some(reason) => tracing::error!(reason, "this node does not fire, and lets another lead"),
        None => tracing::info!("the clock agrees with the peers' again"),
    }
    *current = fault;
    if let Some(raft) = node.0.group.get() {
        raft.runtime_config().heartbeat(current.is_none());
        raft.runtime_config().elect(current.is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_when_most_say_so() {
        assert_eq!(fault(&[], 2, 5000), None);
        assert_eq!(fault(&[3, -4], 2, 5000), None);
        assert!(fault(&[-3_600_000, -3_600_010], 2, 5000).is_some());
        assert_eq!(fault(&[3_600_000, 4], 2, 5000), None, "it is the other one that is wrong");
        assert_eq!(fault(&[3_600_000, 3, 1, 0], 4, 5000), None);
        assert!(fault(&[3_600_000, 3_600_001, 3_600_002, 0], 4, 5000).is_some());
        assert!(fault(&[6000], 1, 5000).is_some(), "of two nodes neither knows who is wrong, and neither fires");
    }
}
