//! The one form in which a run is shown, as JSON: in lists, by `queryRun`, as the last run of its task, in alerts.

use serde::Serialize;

use super::RunView;
use crate::id::{RunId, RunKey, TaskId};
use crate::run::Attempt;

/// A run, as JSON.
#[derive(Debug, Serialize)]
pub struct ShownRun<'a> {
    run_id: String,
    task_id: String,
    due_time_ms: u64,
    state: Option<&'static str>,
    reason: Option<&'a str>,
    parent_run_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upto_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_ms: Option<u64>,
    attempts: Vec<ShownAttempt<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts_not_kept: Option<u32>,
}

/// One of its attempts, as JSON.
#[derive(Debug, Serialize)]
struct ShownAttempt<'a> {
    number: u32,
    node: u64,
    started_ms: u64,
    lateness_ms: u32,
    duration_ms: Option<u32>,
    status: Option<u16>,
    error: Option<&'a str>,
    answer: Option<&'a str>,
}

impl<'a> From<&'a Attempt> for ShownAttempt<'a> {
    fn from(attempt: &'a Attempt) -> Self {
        let Attempt { number, node, started, lateness_ms, duration_ms, status, error, answer, .. } = attempt;
        ShownAttempt {
            number: *number,
            node: *node,
            started_ms: started.as_ms(),
            lateness_ms: *lateness_ms,
            duration_ms: *duration_ms,
            status: *status,
            error: error.as_deref(),
            answer: answer.as_deref(),
        }
    }
}

impl<'a> From<&'a RunView> for ShownRun<'a> {
    fn from(run: &'a RunView) -> Self {
        ShownRun {
            run_id: run.id.to_string(),
            task_id: run.task.to_string(),
            due_time_ms: run.due.as_ms(),
            state: Some(run.state.name()),
            reason: run.reason.as_deref(),
            parent_run_id: run.parent.map(|parent| parent.to_string()),
            upto_ms: run.upto.map(|upto| upto.as_ms()),
            next_attempt_ms: run.next_attempt.map(|at| at.as_ms()),
            attempts: run.attempts.iter().map(Into::into).collect(),
            attempts_not_kept: Some(run.left_out).filter(|n| *n > 0),
        }
    }
}

impl<'a> ShownRun<'a> {
    /// Of a run that the history has lost: what its key tells.
    pub fn lost(task: &TaskId, key: RunKey) -> Self {
        ShownRun {
            run_id: RunId::new(task, key).to_string(),
            task_id: task.to_string(),
            due_time_ms: key.due.as_ms(),
            state: None,
            reason: None,
            parent_run_id: None,
            upto_ms: None,
            next_attempt_ms: None,
            attempts: Vec::new(),
            attempts_not_kept: None,
        }
    }
}
