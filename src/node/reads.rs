//! Linearizable reads: one question to the majority serves all that wait.

use openraft::error::RaftError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{proposer, Error, Node};
use crate::clock::monotonic;
use crate::raft::wire::{ReadIndexAnswer, Refused};
use crate::seam::bug::{self, Bug};

/// Someone who waits until this node's state is as new as the cluster's was when it asked.
pub(super) struct Reader {
    pub deadline: Instant,
    pub done: oneshot::Sender<Result<(), Error>>,
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
    if node.may_write().is_none() {
        return Err(Refused::NotLeader);
    }
    match raft.get_read_log_id().await {
        Ok((id, _)) => Ok(id.map(|id| id.index)),
        Err(RaftError::APIError(_)) => Err(Refused::NotLeader),
        Err(RaftError::Fatal(error)) => Err(Refused::Storage(error.to_string())),
    }
}
