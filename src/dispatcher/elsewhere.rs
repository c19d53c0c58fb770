//! Attempts that another node has under way: a leader that has handed over ends those that it has sent, and reports
//! their outcomes to the next one. Until then nobody else sends them.
//!
//! ```text
//!  old leader: fires no more ─► what it has under way ──► every other node: held, as if it were its own
//!                                                              │ asks each 100 ms what is left of it
//!  old leader: outcome ──► recorded by the new leader ◄────────┤ gone from the list: let go of
//!              stops: says that nothing is left ──────────┤ let go of
//!              dies ───────────────────────────────────────────┘ no answer: all of it let go of, and sent again
//! ```
//!
//! The successor is told before it leads, and every other node as well: should the successor not lead in the end, an
//! election decides which of them does.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::{hold, Dispatcher, Hold};
use crate::command::Seq;
use crate::node::Tellers;
use crate::raft::wire::UnderWay;
use crate::seam::bug::{self, Bug};

/// Between two questions to a node that has something under way.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// So many questions in a row without an answer: the node is dead, or as good as that.
const UNANSWERED_MAX: u32 = 3;

impl Dispatcher {
    /// Answers for what is under way here when the lead is handed over, and takes it when this node takes over. The node
    /// outlives this dispatcher, and must not keep it.
    pub(super) fn answer_for_under_way(&self) {
        let node = &self.0.node;
        let (own, given) = (Arc::downgrade(&self.0), Arc::downgrade(&self.0));
        let (told, taken) = (own.clone(), own.clone());
        node.tell_under_way_by(Tellers {
            own: Box::new(move || own.upgrade().map_or_else(Vec::new, |shared| Dispatcher(shared).under_way())),
            leave_to: Box::new(move |lists| {
                told.upgrade().into_iter().for_each(|s| Dispatcher(s).leave_to(lists.clone()))
            }),
        });
        let give = move || given.upgrade().map_or_else(Vec::new, |shared| Dispatcher(shared).hand_over());
        let take = move |_, bytes: &[u8]| match (taken.upgrade(), postcard::from_bytes(bytes)) {
            (Some(shared), Ok(lists)) => Dispatcher(shared).leave_to(lists),
            (Some(_), Err(error)) => {
                tracing::warn!(%error, "the last leader's list of callbacks in flight cannot be read")
            }
            (None, _) => {}
        };
        node.set_handoff(give, take);
    }

    /// What the successor is told; this node fires no more by now. The other nodes are told as well.
    fn hand_over(&self) -> Vec<u8> {
        let lists = if bug::is_planted(Bug::UnderWayForgotten) { Vec::new() } else { self.all_under_way() };
        // Numbers and names: they can all be written.
        let bytes = postcard::to_stdvec(&lists).unwrap_or_default();
        if !lists.is_empty() {
            self.0.has_left.store(true, Ordering::Relaxed);
            let node = self.0.node.clone();
            tokio::spawn(async move { node.tell_under_way(lists).await });
        }
        bytes
    }

    /// Has the others know that nothing is under way here any more, where they were told of some: this node is about to end,
    /// and answers nobody then.
    pub async fn tell_end(&self) {
        if self.0.has_left.load(Ordering::Relaxed) {
            self.0.node.tell_end_of_under_way().await;
        }
    }

    /// What this node has under way itself: it may have been sent, and its outcome is not recorded.
    fn under_way(&self) -> Vec<Hold> {
        let table = self.table();
        let mut others: HashSet<Hold> = table.elsewhere.values().flatten().copied().collect();
        // What only waits has not been sent, and is not from when this node fires no more.
        others.extend(table.queue.waiting().map(hold));
        table.held.iter().filter(|hold| !others.contains(*hold)).copied().collect()
    }

    /// What this node has under way, and what it knows of others.
    fn all_under_way(&self) -> Vec<UnderWay> {
        let own = UnderWay { peer: self.0.node.address(), attempts: self.under_way() };
        let table = self.table();
        let others = table.elsewhere.iter();
        let others =
            others.map(|(peer, held)| UnderWay { peer: peer.clone(), attempts: held.iter().copied().collect() });
        std::iter::once(own).chain(others).filter(|list| !list.attempts.is_empty()).collect()
    }

    /// Takes note of what others have under way. None of it is sent from here before it is over there. With an empty list it
    /// is.
    fn leave_to(&self, lists: Vec<UnderWay>) {
        let own = self.0.node.address();
        for UnderWay { peer, attempts } in lists.into_iter().filter(|list| list.peer != own) {
            if attempts.is_empty() {
                self.keep(&peer, &HashSet::new());
                continue;
            }
            let asks = {
                let mut guard = self.table();
                let table = &mut *guard;
                let asks = !table.elsewhere.contains_key(&peer);
                let held = table.elsewhere.entry(peer.clone()).or_default();
                // What is in these hands as well is being sent already.
                held.extend(attempts.into_iter().filter(|attempt| table.held.insert(*attempt)));
                asks
            };
            if asks {
                let dispatcher = self.clone();
                tokio::spawn(async move { dispatcher.await_end(peer).await });
            }
        }
    }

    /// Asks a node what it still has under way, until that is nothing.
    async fn await_end(&self, peer: String) {
        let mut unanswered = 0;
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            match self.0.node.under_way_at(&peer).await {
                Ok(left) => {
                    unanswered = 0;
                    if self.keep(&peer, &left.into_iter().collect()) {
                        return;
                    }
                }
                Err(error) => {
                    if !self.table().elsewhere.contains_key(&peer) {
                        // It has said that it is over, and has ended.
                        return;
                    }
                    unanswered += 1;
                    if unanswered >= UNANSWERED_MAX {
                        tracing::warn!(peer, %error, "the last leader does not answer; its callbacks in flight are sent again");
                        self.keep(&peer, &HashSet::new());
                        return;
                    }
                }
            }
        }
    }

    /// Keeps of what that node had under way only what is left of it; whether that is nothing.
    fn keep(&self, peer: &str, left: &HashSet<Hold>) -> bool {
        let (over, gone) = {
            let mut guard = self.table();
            let table = &mut *guard;
            let Some(held) = table.elsewhere.get_mut(peer) else { return true };
            let gone: Vec<Hold> = held.iter().filter(|hold| !left.contains(*hold)).copied().collect();
            gone.iter().for_each(|hold| {
                held.remove(hold);
                table.held.remove(hold);
            });
            let over = held.is_empty();
            if over {
                table.elsewhere.remove(peer);
            }
            (over, gone)
        };
        // Its outcome is recorded, as a rule. Where it is not, it is due again.
        self.give_back(&gone.iter().map(|(seq, ..)| *seq).collect::<Vec<Seq>>());
        over
    }
}
