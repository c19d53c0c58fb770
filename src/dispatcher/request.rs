//! The request of an attempt, out of the task's definition.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::alert;
use super::transport::Request;
use super::Dispatcher;
use crate::id::RunId;
use crate::state::Job;
use crate::task::{Callback, ContentType, Method, TaskSpec};

/// The request of an attempt; none, where there is nothing to send: an alert whose definition is gone.
pub(super) fn build(
    dispatcher: &Dispatcher,
    job: &Job,
    spec: &TaskSpec,
    parent: Option<RunId>,
    term: u64,
) -> Option<Request> {
    let run = RunId::new(&job.id, job.key).to_string();
    let mut headers = HeaderMap::with_capacity(8);
    // A task id has no character that a header value may not have.
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put("xcron-task-id", job.id.to_string());
    put("xcron-run-id", run.clone());
    put("xcron-scheduled-at", job.key.due.0.to_string());
    put("xcron-attempt", job.attempt.to_string());
    put("xcron-fence", dispatcher.next_fence(term));
    if let Some((of, event)) = job.key.alerted() {
        put("idempotency-key", format!("{run}-{}", event.name()));
        let alert = spec.options.alert.as_ref()?;
        return Some(alert::request(dispatcher, job, spec, alert, (of, event), headers));
    }
    put("idempotency-key", run);
    if let Some(parent) = parent {
        put("xcron-parent-run-id", parent.to_string());
    }
    for (name, value) in &spec.callback.headers {
        // Both were checked when the task was created.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    let callback = &spec.callback;
    let body = body(callback);
    if body.is_some() {
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(callback.content_type.name()));
    }
    let settings = &dispatcher.0.node.config().callback;
    // Where the answer's text decides, all of it that is read at all is looked at.
    let decides = callback.expect.body_contains.is_some();
    Some(Request {
        method: match callback.method {
            Method::Post => http::Method::POST,
            Method::Get => http::Method::GET,
            Method::Put => http::Method::PUT,
            Method::Patch => http::Method::PATCH,
            Method::Delete => http::Method::DELETE,
        },
        url: callback.url.clone(),
        headers,
        body,
        timeout: Duration::from_millis(callback.timeout_ms.unwrap_or(settings.timeout_ms)),
        answer_bytes: if decides { settings.answer_bytes_max } else { settings.answer_kept_bytes },
    })
}

/// The bytes of the body, as the content type wants them.
fn body(callback: &Callback) -> Option<Bytes> {
    if callback.method == Method::Get {
        return None;
    }
    // What does not fit its type was refused when the task was created; were it here, it is sent as it is.
    let text = match callback.content_type {
        ContentType::Json => None,
        ContentType::Text => serde_json::from_str::<String>(&callback.body).ok(),
        ContentType::Form => form(&callback.body),
    };
    Some(Bytes::from(text.unwrap_or_else(|| callback.body.clone())))
}

/// A flat object as a form; null is an empty value.
fn form(json: &str) -> Option<String> {
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        let text = match value {
            serde_json::Value::String(text) => text,
            serde_json::Value::Null => String::new(),
            other => other.to_string(),
        };
        form.append_pair(&name, &text);
    }
    Some(form.finish())
}
