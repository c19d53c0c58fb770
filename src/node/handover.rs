//! A planned change of leader: the one that leads names its successor.
//!
//! ```text
//! leader     takes no more writes and reads, and fires on
//!            waits until the successor has all of its log
//!            fires nothing more and sends nothing more: its term is given up
//!            take_over: the term, and what is under way ──► successor
//! successor  takes note of what is under way, and stands for election at once
//! others     vote for it, since their own leader has named it
//! ```
//!
//! Whatever goes wrong on the way, the term is given up in the end, and the others elect one as after a death.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{log_ends, Node};
use crate::clock::monotonic;
use crate::raft::wire::{Refused, Status, TakeOver, TakeOverAnswer, FAULT_STOPS};

/// How long the peers may take to tell how they are.
const ANSWER_MAX: Duration = Duration::from_millis(200);

type Take = dyn Fn(u64, &[u8]) + Send + Sync;

/// What is handed over beside the lead: what the dispatcher has under way.
pub(super) struct Handoff {
    give: Box<dyn Fn() -> Vec<u8> + Send + Sync>,
    take: Box<Take>,
}

impl Node {
    /// Sets what goes along when the lead is handed over. `give` is asked on the old leader once it fires nothing more;
    /// `take` is told on its successor, before it leads, with the term of the old leader and the bytes that `give` gave.
    /// Neither may wait. Only the first call counts.
    pub fn set_handoff(
        &self,
        give: impl Fn() -> Vec<u8> + Send + Sync + 'static,
        take: impl Fn(u64, &[u8]) + Send + Sync + 'static,
    ) {
        let handoff = Handoff { give: Box::new(give), take: Box::new(take) };
        // Only the first call counts.
        let _ = self.0.handoff.set(handoff);
    }

    /// Has another node lead, of those that are sound the one whose log is the longest; waits until it does.
    pub(super) async fn hand_over(&self, term: u64, why: &str) {
        let peers = self.other_voters();
        let asked = self.voters_asked(&peers).await;
        let sound = asked.iter().filter(|(_, _, status)| status.fault == 0);
        let longest = sound.max_by_key(|(id, _, status)| (status.last_log, *id));
        let Some((successor, address)) = longest.map(|(id, address, _)| (*id, address.clone())) else {
            self.give_up(term, why).await;
            // One that is not sound is elected all the same where no other is there. One that stops is not.
            if asked.iter().any(|(_, _, status)| status.fault != FAULT_STOPS) {
                return self.another_leads().await;
            }
            return tracing::info!(term, why, "no other node is there to take the lead");
        };
        self.0.handing_over.store(term, Ordering::SeqCst);
        self.caught_up(successor).await;
        // From here on nothing is sent in this term, neither to peers nor to targets.
        self.0.office.lease.give_up(term);
        let payload = self.0.handoff.get().map(|handoff| (handoff.give)()).unwrap_or_default();
        let request = TakeOver { term, leader: self.id(), payload: payload.into() };
        let timeout = Duration::from_millis(self.0.config.raft.election_timeout_min_ms);
        match self.0.links.call::<_, TakeOverAnswer>(&address, "take_over", &request, timeout).await {
            Ok(Ok(())) => tracing::info!(term, successor, why, "this node hands over its lead"),
            Ok(Err(_)) => tracing::warn!(term, successor, why, "the successor refuses; another is elected"),
            Err(error) => tracing::warn!(term, successor, why, %error, "the successor does not answer"),
        }
        // Whoever is elected, this node leads no more.
        self.give_up(term, why).await;
        self.another_leads().await;
    }

    /// How those of these peers are that answer.
    async fn voters_asked(&self, peers: &[(u64, String)]) -> Vec<(u64, String, Status)> {
        let asked = peers.iter().map(|(id, address)| async move {
            let status: Status = self.0.links.call(address, "status", &(), ANSWER_MAX).await.ok()?;
            (status.node == *id).then(|| (*id, address.clone(), status))
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Waits until this peer has all of this node's log, or it takes too long.
    async fn caught_up(&self, peer: u64) {
        let Some(raft) = self.0.group.get() else { return };
        let until = monotonic() + Duration::from_millis(self.0.config.raft.election_timeout_min_ms);
        let mut metrics = raft.metrics();
        let level = metrics.wait_for(|metrics| {
            let last = log_ends(&self.0.log).map_or(None, |ends| ends.last);
            let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&peer).copied().flatten());
            matched >= last
        });
        if !matches!(tokio::time::timeout_at(until, level).await, Ok(Ok(_))) {
            tracing::warn!(peer, "the successor has not all of the log");
        }
    }

    /// Waits until another node is known to lead, for a while.
    async fn another_leads(&self) {
        let bound = Duration::from_millis(self.0.config.raft.election_timeout_max_ms * 4);
        let mut watch = self.watch();
        let other =
            watch.wait_for(|m| m.as_ref().is_some_and(|m| m.current_leader.is_some_and(|leader| leader != m.id)));
        if tokio::time::timeout(bound, other).await.is_err() {
            tracing::warn!("no other node has taken the lead");
        }
    }

    /// The leader has named this node its successor.
    pub(super) async fn take_over(&self, request: TakeOver) -> TakeOverAnswer {
        let Some(raft) = self.0.group.get().filter(|_| self.follows(request.term, request.leader)) else {
            return Err(Refused::NotLeader);
        };
        if let Some(handoff) = self.0.handoff.get() {
            (handoff.take)(request.term, &request.payload);
        }
        self.0.office.succeed(request.term, request.leader);
        tracing::info!(term = request.term, leader = request.leader, "this node takes over");
        self.elect(raft).await.map_err(Refused::Storage)
    }
}
