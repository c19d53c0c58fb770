//! What those who send the callbacks ask of the node, and what the node asks of them.

use std::time::Duration;

use super::Node;
use crate::raft::wire::{AttemptKey, UnderWay};
use crate::raft::CallError;

/// Longest time for which a node that hands over waits until the others know what it has under way.
const TELL_MAX: Duration = Duration::from_millis(200);
/// Longest wait for what a peer has under way.
const ASK_MAX: Duration = Duration::from_secs(1);

/// Who knows what is under way.
pub struct Tellers {
    /// Tells what this node has under way.
    pub own: Box<dyn Fn() -> Vec<AttemptKey> + Send + Sync>,
    /// Is told what others have under way, and leaves it to them.
    pub leave_to: Box<dyn Fn(Vec<UnderWay>) + Send + Sync>,
}

impl Node {
    /// The last log entry that this node has applied; none: it has applied none yet of those that were written since it
    /// was started.
    pub fn applied_since_start(&self) -> Option<u64> {
        let applied = self.0.machine.applied().map(|id| id.index)?;
        self.0.opened.is_none_or(|opened| applied > opened).then_some(applied)
    }

    /// `host:peer_port` of this node.
    pub fn address(&self) -> String {
        self.0.own.to_string()
    }

    /// From now on these are asked. Only the first ones count.
    pub fn tell_under_way_by(&self, tellers: Tellers) {
        let _ = self.0.tellers.set(tellers);
    }

    /// Has the other members leave to each node what it has under way. The successor is told when it takes over; should
    /// it not lead in the end, another one knows as well.
    pub async fn tell_under_way(&self, lists: Vec<UnderWay>) {
        let attempts: usize = lists.iter().map(|list| list.attempts.len()).sum();
        let reached = self.tell_others(&lists).await;
        tracing::info!(attempts, reached, "the other nodes leave the callbacks that are under way to this one");
    }

    /// Has the other members know that nothing is under way here any more. One that does not hear it asks, and finds out.
    pub async fn tell_end_of_under_way(&self) {
        self.tell_others(&[UnderWay { peer: self.address(), attempts: Vec::new() }]).await;
    }

    /// Tells the other members who has what under way: how many have heard it.
    async fn tell_others(&self, lists: &[UnderWay]) -> usize {
        let (links, peers) = (&self.0.links, self.other_members());
        let told = peers.iter().map(|peer| links.call::<_, ()>(peer, "leave_to", &lists, TELL_MAX));
        futures::future::join_all(told).await.iter().filter(|answer| answer.is_ok()).count()
    }

    /// What the peer at this address has under way.
    ///
    /// # Errors
    /// No answer.
    pub async fn under_way_at(&self, peer: &str) -> Result<Vec<AttemptKey>, CallError> {
        self.0.links.call(peer, "under_way", &(), ASK_MAX).await
    }

    /// What this node has under way, for a peer that asks.
    pub(super) fn under_way(&self) -> Vec<AttemptKey> {
        self.0.tellers.get().map_or_else(Vec::new, |tellers| (tellers.own)())
    }

    /// A peer has this under way.
    pub(super) fn leave_to(&self, lists: Vec<UnderWay>) {
        if let Some(tellers) = self.0.tellers.get() {
            (tellers.leave_to)(lists);
        }
    }
}
