//! What the API shows of the state: tasks, runs and the cluster, as they are at one moment on one node.

mod shown;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{RunId, TaskId};
use crate::run::{Attempt, OpenPhase, OpenRun, Run, RunState};
use crate::task::{TaskSpec, TaskState};
pub use shown::ShownRun;

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
    /// The run with the latest due time.
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
    /// Its attempts, oldest first: the first few and the last few; the last may be going.
    pub attempts: Vec<Attempt>,
    /// How many were made besides.
    pub left_out: u32,
}

impl RunView {
    /// Of a run that has ended.
    pub fn of_ended(task: &TaskId, run: &Run) -> RunView {
        RunView {
            id: RunId::new(task, run.key),
            task: task.clone(),
            due: run.key.due,
            state: run.state,
            reason: run.reason.clone(),
            parent: run.parent,
            upto: run.upto,
            next_attempt: None,
            attempts: run.attempts.clone(),
            left_out: run.left_out,
        }
    }

    /// Of a run that has not.
    pub fn of_open(task: &TaskId, open: &OpenRun) -> RunView {
        let (state, next_attempt) = match open.phase {
            OpenPhase::Queued => (RunState::Pending, None),
            OpenPhase::Waiting { at, .. } => (RunState::Pending, Some(at)),
            OpenPhase::Running { .. } => (RunState::Running, None),
        };
        RunView {
            id: RunId::new(task, open.key),
            task: task.clone(),
            due: open.key.due,
            state,
            reason: None,
            parent: open.parent,
            upto: None,
            next_attempt,
            attempts: open.attempts.iter().cloned().chain(open.going()).collect(),
            left_out: open.left_out,
        }
    }
}

/// What became of a due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueState {
    /// What became of its run.
    Run(RunState),
    /// It is to come.
    Scheduled,
    /// There was a run, which the history no longer has.
    NotKept,
}

impl DueState {
    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            DueState::Run(state) => state.name(),
            DueState::Scheduled => "scheduled",
            DueState::NotKept => "not_kept",
        }
    }
}

/// A due time, and what became of it.
#[derive(Clone, Debug)]
pub struct DueView {
    /// The due time, or the moment of a trigger.
    pub due: Timestamp,
    /// What became of it.
    pub state: DueState,
    /// Why.
    pub reason: Option<String>,
    /// The run that it has, or would have.
    pub run: RunId,
    /// The last of the due times that this stands for, where it stands for several of a schedule that was replaced.
    pub upto: Option<Timestamp>,
    /// Whether a trigger, and not the schedule, has asked for it.
    pub triggered: bool,
    /// The run whose outcome has triggered it.
    pub parent: Option<RunId>,
    /// How late the first attempt was.
    pub lateness_ms: Option<u64>,
    /// How many attempts were made.
    pub attempts: usize,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// The version of the time zone data by which due times are found; none: no task has named a zone but UTC.
    pub zone_data: Option<String>,
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
    /// `leader`, `follower`, `candidate`, `learner` or `unreachable`.
    pub role: &'static str,
    /// Whether it votes.
    pub voter: bool,
    /// The index of the last log entry that it has applied, where it is known.
    pub applied: Option<u64>,
    /// How many log entries it is behind the leader, where it is known.
    pub lag: Option<u64>,
    /// Its version, where it is known.
    pub version: Option<String>,
    /// The version of the time zone data that it brings, where it is known.
    pub zone_data: Option<String>,
    /// How long ago it was last heard, in ms; 0 for the node that answers.
    pub last_contact_ms: Option<u64>,
    /// How far its wall clock is from that of the node that answers, in ms, where it answers.
    pub clock_offset_ms: Option<i64>,
}

/// Whether a target takes callbacks, as far as the leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetState {
    /// It does, or is taken to.
    Ok,
    /// It could not be reached; its callbacks wait for the next probe.
    Held,
    /// A probe, or the first callback after one, is on its way.
    Probing,
}

impl TargetState {
    /// Every one.
    pub const ALL: [TargetState; 3] = [TargetState::Ok, TargetState::Held, TargetState::Probing];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            TargetState::Ok => "ok",
            TargetState::Held => "held",
            TargetState::Probing => "probing",
        }
    }
}

/// Which targets to list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFilter {
    /// Only those in this state.
    pub state: Option<TargetState>,
    /// Only those whose names come after this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// A target for which something is under way or waits, or which could not be reached of late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetView {
    /// `host:port`, as [`crate::task::target_of`] says.
    pub target: String,
    /// Whether it takes callbacks.
    pub state: TargetState,
    /// Attempts that are under way.
    pub in_flight: usize,
    /// Attempts that are due and wait.
    pub waiting: usize,
    /// Attempts in a row that did not connect.
    pub consecutive_failures: u64,
    /// Why the last of them, or the last probe, did not.
    pub last_error: Option<String>,
    /// Since when its callbacks wait for it.
    pub held_since: Option<Timestamp>,
    /// When it is probed next.
    pub next_probe: Option<Timestamp>,
}
