//! The message about a run that went wrong, or that went well again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde::Serialize;

use super::transport::Request;
use super::Dispatcher;
use crate::id::RunKey;
use crate::state::Job;
use crate::task::{Alert, AlertEvent, TaskSpec};
use crate::view::{RunView, ShownRun};

/// What is posted.
#[derive(Serialize)]
struct Message<'a> {
    event: &'static str,
    task_id: String,
    name: Option<&'a str>,
    tags: &'a std::collections::BTreeMap<String, String>,
    url: &'a str,
    /// As `queryRun` answers it; of one that the history has lost since, what its key tells.
    run: ShownRun<'a>,
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
    let run = run.as_ref().map_or_else(|| ShownRun::lost(&job.id, of), ShownRun::from);
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
