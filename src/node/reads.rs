//! Linearizable reads: one question to the majority serves all that wait.
//!
//! The leader of a term has all that was acknowledged before it was elected, and has applied it before it answers. What
//! was acknowledged since, it has committed. So its state is new enough for a read as far as its log is committed after
//! the read was asked for, if no other leader was elected by then. A majority that acknowledges what was sent after that
//! says so. No clock counts for it, and no time: a round trip may take as long as the caller waits.
//! doc/decisions/0048-reads-ask-by-signs-of-life.md

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{elections, proposer, Error, Node};
use crate::clock::monotonic;
use crate::raft::wire::{ReadIndexAnswer, Refused};
use crate::seam::bug::{self, Bug};

/// Someone who waits until this node's state is as new as the cluster's was when it asked.
pub(super) struct Reader {
    pub deadline: Instant,
    pub done: oneshot::Sender<Result<(), Error>>,
}

impl Node {
    /// Waits until this node's state is as new as the cluster's is now: what it shows from then on is linearizable.
    ///
    /// # Errors
    /// [`Error::NoLeader`] if that cannot be had before the deadline.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), Error> {
        loop {
            if self.0.closed.load(Ordering::Relaxed) {
                return Err(Error::Stopping);
            }
            let mut group = self.watch();
            group.mark_unchanged();
            let (done, result) = oneshot::channel();
            if self.0.readers.try_send(Reader { deadline, done }).is_err() {
                return Err(Error::Busy);
            }
            let error = match tokio::time::timeout_at(deadline, result).await {
                Ok(Ok(Ok(()))) => return Ok(()),
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) | Err(_) => Error::NoLeader,
            };
            let pause = (monotonic() + Duration::from_millis(50)).min(deadline);
            let _ = tokio::time::timeout_at(pause, group.changed()).await;
            if monotonic() >= deadline {
                return Err(error);
            }
        }
    }
}

/// Serves readers, until every sender is gone. Who asks while a question is on its way waits for the next one: an
/// answer counts only for those who asked before it.
pub(super) async fn run(node: Node, mut queue: mpsc::Receiver<Reader>) {
    while let Some(first) = queue.recv().await {
        let mut readers = vec![first];
        while let Ok(next) = queue.try_recv() {
            readers.push(next);
        }
        readers.retain(|r| !r.done.is_closed());
        let Some(deadline) = readers.iter().map(|r| r.deadline).max() else { continue };
        let result = match tokio::time::timeout_at(deadline, barrier(&node)).await {
            Ok(result) => result,
            Err(_) => Err(Error::NoLeader),
        };
        readers.into_iter().for_each(|r| drop(r.done.send(result.clone())));
    }
}

async fn barrier(node: &Node) -> Result<(), Error> {
    let index = match node.leader_address() {
        _ if node.leads() => index_as_leader(node).await.map_err(|_| Error::NoLeader)?,
        Some(address) => {
            let wait = node.0.config.request_timeout();
            let began = monotonic();
            let call = node.0.links.call::<_, ReadIndexAnswer>(&address, "read_index", &(), wait);
            match node.while_it_leads(&address, call).await {
                Some(Ok(Ok(index))) => index,
                Some(Ok(Err(refused))) => return Err(proposer::from_refused(refused, began.elapsed())),
                Some(Err(_)) | None => return Err(Error::NoLeader),
            }
        }
        None => return Err(Error::NoLeader),
    };
    let mut applied = node.0.machine.watch_applied();
    let reached = applied.wait_for(|id| id.map(|id| id.index) >= index).await;
    reached.map(|_| ()).map_err(|_| Error::Stopping)
}

/// Up to where the log must be applied; the majority has confirmed that this node leads.
pub(super) async fn index_as_leader(node: &Node) -> ReadIndexAnswer {
    let Some(raft) = node.0.group.get() else { return Err(Refused::NotLeader) };
    if bug::is_planted(Bug::StaleRead) && node.leads() {
        return Ok(node.0.machine.applied().map(|id| id.index));
    }
    // Asking the majority would keep the others from electing a leader that may act.
    let Some(term) = node.may_write() else { return Err(Refused::NotLeader) };
    let committed = raft.with_raft_state(|state| state.committed.map(|id| id.index));
    match tokio::join!(elections::is_acknowledged(node, term), committed) {
        (true, Ok(index)) => Ok(index),
        (false, Ok(_)) => Err(Refused::NotLeader),
        (_, Err(error)) => Err(Refused::Storage(error.to_string())),
    }
}
