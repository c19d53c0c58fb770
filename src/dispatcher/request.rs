//! The request of an attempt, out of the task's definition.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;

use super::alert;
use super::transport::Request;
use super::Dispatcher;
use crate::id::RunId;
use crate::state::Job;
use crate::task::{Callback, ContentType, Method, TaskSpec};
use crate::view::RunView;

/// The request of an attempt, but for its fence and its signature, which it gets when it is sent; none, where there is
/// nothing to send: an alert whose definition is gone.
pub(super) fn build(
    dispatcher: &Dispatcher,
    job: &Job,
    spec: &TaskSpec,
    (parent, alerted): (Option<RunId>, Option<RunView>),
) -> Option<Request> {
    let run = RunId::new(&job.id, job.key).to_string();
    let mut own = OwnHeaders::default();
    own.put("xcron-task-id", &job.id);
    own.put("xcron-run-id", &run);
    own.put("xcron-scheduled-at", job.key.due.0);
    own.put("xcron-attempt", job.attempt);
    if let Some((of, event)) = job.key.alerted() {
        own.put("idempotency-key", format_args!("{run}-{}", event.name()));
        let alert = spec.options.alert.as_ref()?;
        return Some(alert::request(dispatcher, job, spec, alert, (of, event, alerted), own.into()));
    }
    own.put("idempotency-key", &run);
    if let Some(parent) = parent {
        own.put("xcron-parent-run-id", parent);
    }
    let mut headers = HeaderMap::from(own);
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

/// The headers that each attempt has. Their values share one allocation: the client copies all headers several times,
/// and each copy of a value that has its own allocation would take another.
struct OwnHeaders {
    text: String,
    values: Vec<(&'static str, Range<usize>)>,
}

impl Default for OwnHeaders {
    fn default() -> Self {
        OwnHeaders { text: String::with_capacity(256), values: Vec::with_capacity(8) }
    }
}

impl OwnHeaders {
    fn put(&mut self, name: &'static str, value: impl Display) {
        let from = self.text.len();
        // A string takes all that it is given.
        let _ = write!(self.text, "{value}");
        self.values.push((name, from..self.text.len()));
    }
}

impl From<OwnHeaders> for HeaderMap {
    fn from(own: OwnHeaders) -> HeaderMap {
        let text = Bytes::from(own.text);
        // A task id has no character that a header value may not have.
        let value = |range| HeaderValue::from_maybe_shared(text.slice(range)).ok();
        let mut headers = HeaderMap::with_capacity(16);
        headers
            .extend(own.values.into_iter().filter_map(|(n, range)| Some((HeaderName::from_static(n), value(range)?))));
        headers
    }
}

/// The bytes of the body, as the content type wants them; none: the request has no body.
fn body(callback: &Callback) -> Option<Bytes> {
    let has_body = match callback.method {
        Method::Get => false,
        // A body that was not given is as if it had been given as the default.
        Method::Delete => callback.body != callback.content_type.default_body(),
        Method::Post | Method::Put | Method::Patch => true,
    };
    if !has_body {
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

/// A flat object as a form; null is an empty value, and a number stands as it was written.
fn form(json: &str) -> Option<String> {
    let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(json).ok()?;
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        let text = match value.get() {
            "null" => String::new(),
            text if text.starts_with('"') => serde_json::from_str(text).ok()?,
            written => written.to_owned(),
        };
        form.append_pair(&name, &text);
    }
    Some(form.finish())
}
