//! What a run is: one due time of one task, its attempts and its outcome.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::RunKey;
use crate::task::TaskSpec;

/// What became of a run, or what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RunState {
    /// Waits for its next attempt.
    Pending,
    /// An attempt is going.
    Running,
    /// An attempt was answered with success.
    Succeeded,
    /// Every attempt failed.
    Failed,
    /// Not fired, because a rule said so.
    Skipped,
    /// Not fired, because nothing could fire at the time.
    Missed,
    /// Ended by a call.
    Cancelled,
    /// Sent at most once, and nothing is known of what came of it.
    Unknown,
}

impl RunState {
    /// Every state, in the order of their numbers in storage.
    pub const ALL: [RunState; 8] = [
        RunState::Pending,
        RunState::Running,
        RunState::Succeeded,
        RunState::Failed,
        RunState::Skipped,
        RunState::Missed,
        RunState::Cancelled,
        RunState::Unknown,
    ];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            RunState::Pending => "pending",
            RunState::Running => "running",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Skipped => "skipped",
            RunState::Missed => "missed",
            RunState::Cancelled => "cancelled",
            RunState::Unknown => "unknown",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<RunState> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// One HTTP request of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1, 2, …
    pub number: u32,
    /// The id of the node that sent it.
    pub node: u64,
    /// When it was sent, by that node's clock.
    pub started: Timestamp,
    /// How long after it was due it was sent: after the run's due time, or after the retry's.
    pub lateness_ms: u32,
    /// From connect to the last byte of the answer; none while it is going, or where nobody knows.
    pub duration_ms: Option<u32>,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// Why it failed.
    pub error: Option<String>,
    /// The first bytes of the answer, as text.
    pub answer: Option<String>,
}

/// A run that has come to an outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which of its task's runs.
    pub key: RunKey,
    /// What became of it.
    pub state: RunState,
    /// Why, where `state` alone does not say.
    pub reason: Option<String>,
    /// When the outcome was recorded, by the leader's clock.
    pub ended: Timestamp,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
}

/// A run that has started and has no outcome yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenRun {
    /// Which of its task's runs.
    pub key: RunKey,
    /// What it waits for.
    pub phase: OpenPhase,
    /// The attempts that have ended, oldest first.
    pub attempts: Vec<Attempt>,
    /// The definition under which it began, where the task has another by now.
    pub spec: Option<Arc<TaskSpec>>,
}

/// What an open run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenPhase {
    /// The end of an attempt.
    Running {
        /// Its number.
        attempt: u32,
        /// The node that sends it.
        node: u64,
        /// The term in which that node led.
        term: u64,
        /// When it was sent.
        started: Timestamp,
        /// How late.
        lateness_ms: u32,
    },
    /// The end of another run of its task.
    Queued,
    /// The time of the next attempt.
    Waiting {
        /// Its number.
        attempt: u32,
        /// When it is due.
        at: Timestamp,
    },
}
