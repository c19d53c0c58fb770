//! The message about a run that went wrong, or that went well again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde::Serialize;

use super::transport::Request;
use super::Dispatcher;
use crate::id::{RunId, RunKey};
use crate::run::Attempt;
use crate::state::Job;
use crate::task::{Alert, AlertEvent, TaskSpec};
use crate::view::RunView;

/// What is posted.
#[derive(Serialize)]
struct Message<'a> {
    event: &'static str,
    task_id: String,
    name: Option<&'a str>,
    tags: &'a std::collections::BTreeMap<String, String>,
    url: &'a str,
    run: AlertedRun,
}

/// The run, as `queryRun` answers it; without its outcome where the history has lost it since.
#[derive(Serialize)]
struct AlertedRun {
    run_id: String,
    due_time_ms: u64,
    state: Option<&'static str>,
    reason: Option<String>,
    parent_run_id: Option<String>,
    attempts: Vec<AlertedAttempt>,
}

#[derive(Serialize)]
struct AlertedAttempt {
    number: u32,
    node: u64,
    started_ms: u64,
    lateness_ms: u32,
    duration_ms: Option<u32>,
    status: Option<u16>,
    error: Option<String>,
    answer: Option<String>,
}

impl From<Attempt> for AlertedAttempt {
    fn from(attempt: Attempt) -> Self {
        let Attempt { number, node, started, lateness_ms, duration_ms, status, error, answer, .. } = attempt;
        AlertedAttempt { number, node, started_ms: started.as_ms(), lateness_ms, duration_ms, status, error, answer }
    }
}

/// The request that tells of `event` about the run `of`.
pub(super) fn request(
    dispatcher: &Dispatcher,
    job: &Job,
    spec: &TaskSpec,
    alert: &Alert,
    (of, event, run): (RunKey, AlertEvent, Option<RunView>),
    mut headers: HeaderMap,
) -> Request {
    let node = &dispatcher.0.node;
    let id = RunId::new(&job.id, of);
    let run = AlertedRun {
        run_id: id.to_string(),
        due_time_ms: of.due.as_ms(),
        state: run.as_ref().map(|run| run.state.name()),
        reason: run.as_ref().and_then(|run| run.reason.clone()),
        parent_run_id: run.as_ref().and_then(|run| run.parent).map(|parent| parent.to_string()),
        attempts: run.into_iter().flat_map(|run| run.attempts).map(Into::into).collect(),
    };
    let message = Message {
        event: event.name(),
        task_id: job.id.to_string(),
        name: spec.name.as_deref(),
        tags: &spec.tags,
        url: &spec.callback.url,
        run,
    };
    headers.insert("xcron-alert", HeaderValue::from_static(event.name()));
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let settings = &node.config().callback;
    Request {
        method: http::Method::POST,
        url: alert.url.clone(),
        headers,
        // Nothing in it can fail to be written: texts, numbers, lists.
        body: Some(Bytes::from(serde_json::to_vec(&message).unwrap_or_default())),
        timeout: Duration::from_millis(settings.timeout_ms),
        answer_bytes: settings.answer_kept_bytes,
    }
}
