//! What the API shows of the state: tasks, runs and the cluster, as they are at one moment on one node.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::id::{RunId, TaskId};
use crate::run::{Attempt, RunState};
use crate::task::{TaskSpec, TaskState};

/// A task.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// Its definition.
    pub spec: Arc<TaskSpec>,
    /// When the leader took it.
    pub created: Timestamp,
    /// Whether it has due times to come.
    pub state: TaskState,
    /// Its next due time.
    pub next: Option<Timestamp>,
    /// Runs that were fired and came to an outcome.
    pub run_count: u64,
    /// The newest run: one that is going, else the last that ended.
    pub last_run: Option<RunView>,
}

/// A run.
#[derive(Clone, Debug)]
pub struct RunView {
    /// Its id.
    pub id: RunId,
    /// Its task's id.
    pub task: TaskId,
    /// The due time it stands for.
    pub due: Timestamp,
    /// What became of it.
    pub state: RunState,
    /// Why.
    pub reason: Option<String>,
    /// The run whose outcome has triggered it.
    pub parent: Option<RunId>,
    /// The last of the due times that it stands for, where it stands for more than one.
    pub upto: Option<Timestamp>,
    /// When its next attempt is due.
    pub next_attempt: Option<Timestamp>,
    /// Its attempts, oldest first; the last may be going.
    pub attempts: Vec<Attempt>,
}

/// Which tasks to list.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// 1: periodic, 2: once.
    pub type_number: Option<u8>,
    /// Only those in this state.
    pub state: Option<TaskState>,
    /// Only those with this tag.
    pub tag: Option<(String, String)>,
    /// Only those whose name begins so.
    pub name_prefix: Option<String>,
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only those of this task.
    pub task: Option<TaskId>,
    /// Only those in this state.
    pub state: Option<RunState>,
    /// Only those due at or after.
    pub from: Option<Timestamp>,
    /// Only those due at or before.
    pub to: Option<Timestamp>,
}

/// A part of a list, and where the next part begins.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// An opaque text with which to ask for what follows; none: this was all.
    pub next_cursor: Option<String>,
}

/// The cluster, as one node knows it.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// The leader's node id.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// The cluster's identity.
    pub cluster_id: Option<String>,
    /// The node that answers.
    pub answered_by: u64,
    /// Every member.
    pub nodes: Vec<NodeView>,
}

/// A node, as one node knows it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its id.
    pub id: u64,
    /// `host:peer_port`.
    pub peer_address: String,
    /// `host:http_port`, where it is known.
    pub http_address: Option<String>,
    /// `leader`, `follower`, `candidate`, `learner`, `unreachable`, …
    pub role: &'static str,
    /// Whether it votes.
    pub voter: bool,
    /// The index of the last log entry that it has applied, where it is known.
    pub applied: Option<u64>,
    /// How many log entries it is behind the leader, where it is known.
    pub lag: Option<u64>,
    /// Its version, where it is known.
    pub version: Option<String>,
    /// How long ago it was last heard, in ms; 0 for the node that answers.
    pub last_contact_ms: Option<u64>,
    /// How far its wall clock is from that of the node that answers, in ms.
    pub clock_offset_ms: Option<i64>,
}
