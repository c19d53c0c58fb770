//! When this node last heard the leader.
//!
//! Any message that a leader sends as such is a sign of life: entries, a piece of a snapshot, a bare heartbeat. It counts
//! when it arrives, and not when it has been dealt with: a follower whose disk is slow has heard its leader all the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::Vote;
use tokio::time::Instant;

use super::{Appended, Raft, TypeConfig};
use crate::clock::{monotonic, Clock, Timestamp};

/// When this node last heard its leader, by its own clocks; cheap to clone.
#[derive(Clone, Debug)]
pub struct Heard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// By the wall clock, unix ms; 0: never since the start.
    wall_ms: AtomicU64,
    /// By the monotonic clock; at first when this node began to listen.
    steady: Mutex<Instant>,
}

impl Default for Heard {
    fn default() -> Self {
        Heard(Arc::new(Inner { wall_ms: AtomicU64::new(0), steady: Mutex::new(monotonic()) }))
    }
}

impl Heard {
    /// This node takes part from now on: the silence before does not count.
    pub fn begin(&self) {
        *self.0.steady.lock().unwrap_or_else(PoisonError::into_inner) = monotonic();
    }

    /// Has Raft take this message, which is heard unless another leader is known.
    pub(super) async fn append(
        &self,
        raft: &Raft,
        clock: &Clock,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Appended {
        if request.vote >= raft.metrics().borrow().vote {
            self.begin();
        }
        let answer = raft.append_entries(request).await;
        if answer.as_ref().is_ok_and(|answer| !matches!(answer, AppendEntriesResponse::HigherVote(_))) {
            self.begin();
            self.0.wall_ms.store(clock.now().as_ms(), Ordering::Relaxed);
        }
        answer
    }

    /// By the wall clock; none: never since the start.
    pub fn last(&self) -> Option<Timestamp> {
        Some(self.0.wall_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0).map(Timestamp)
    }

    /// For how long no leader has been heard.
    pub fn silence(&self) -> Duration {
        self.0.steady.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// What a leader that has nothing else to send, or has sent something else, sends to tell that it is there.
pub fn sign_of_life(vote: Vote<u64>) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None }
}
