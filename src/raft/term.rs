//! Terms: how a node leaves one, and what a start makes of the one it led.
//!
//! openraft 0.9 has no call to step down and none to transfer leadership. Both are built on its rule that any message
//! with a greater vote is taken over: this node tells itself of a term in which it has voted for node 0, which does not
//! exist. Every real candidate of that term has a greater vote, so that the vote is still free.

use openraft::error::RaftError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::storage::RaftLogStorage;
use openraft::{CommittedLeaderId, LogId, StorageError, Vote};

use super::{Appended, Raft, TypeConfig};
use crate::seam::bug::{self, Bug};

/// Leaves `term` and every one before: this node leads no more in it, and owes no leader of it its patience.
///
/// # Errors
/// Raft on this node has failed.
pub async fn leave(raft: &Raft, term: u64) -> Result<(), RaftError<u64>> {
    let vote = Vote::new(term + 1, 0);
    // It carries nothing, and must not: it comes after an entry that no log has, so that it is refused once the vote is
    // taken over.
    let nowhere = LogId::new(CommittedLeaderId::new(term + 1, 0), u64::MAX - 1);
    let request = AppendEntriesRequest { vote, prev_log_id: Some(nowhere), entries: Vec::new(), leader_commit: None };
    let answer: Appended = raft.append_entries(request).await;
    answer.map(|answer| debug_assert!(!matches!(answer, AppendEntriesResponse::Success), "an empty message, taken"))
}

/// Before Raft starts: where this node led when it ended, only its vote for itself is left of that.
///
/// openraft lets a leader lead on at once after a restart, in its old term. If its log has lost its end meanwhile, to a
/// power cut that the disk lied about, say, it would overwrite entries that the others hold and have acknowledged. Only
/// an election finds out whose log is the longest.
///
/// # Errors
/// The vote cannot be read or written.
pub async fn retire<L: RaftLogStorage<TypeConfig>>(log: &mut L, id: u64) -> Result<(), StorageError<u64>> {
    if bug::is_planted(Bug::LeadsOn) {
        return Ok(());
    }
    match log.read_vote().await? {
        Some(vote) if vote.is_committed() && vote.leader_id().voted_for() == Some(id) => {
            log.save_vote(&Vote::new(vote.leader_id().term, id)).await
        }
        _ => Ok(()),
    }
}
