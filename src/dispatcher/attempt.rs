//! One attempt, from the last look at the state to the record of its outcome.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::health::Reach;
use super::retry::Policy;
use super::transport::{Answer, Failure, Request};
use super::Dispatcher;
use crate::clock::{monotonic, Timestamp};
use crate::command::Command;
use crate::id::RunId;
use crate::run::Attempt;
use crate::state::Job;
use crate::task::{Callback, ContentType, Expect, Method, TaskSpec};

/// An attempt that takes longer than this is recorded as started, so that every node shows it.
const RECORDED_AFTER: Duration = Duration::from_millis(50);
/// How long a record may take before it is proposed again.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before an outcome is proposed again.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

/// Frees the place of a request, once, and tells what it has shown of its target.
struct Place<'a>(&'a Dispatcher, &'a Job, Reach);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.free(self.1, std::mem::replace(&mut self.2, Reach::NotSent));
    }
}

pub(super) async fn make(dispatcher: &Dispatcher, job: Job) {
    let node = &dispatcher.0.node;
    let mut place = Place(dispatcher, &job, Reach::NotSent);
    // Asked as late as can be: a lease that has run out, or a delete that has been acknowledged, stops it here.
    let Some(term) = node.may_fire() else {
        // It may lead again before anyone has noticed that it did not.
        node.machine().release(job.seq);
        return;
    };
    let spec = match node.machine().spec_of_run(job.seq, job.key) {
        Ok(spec) => spec,
        Err(error) => {
            // What was stored is not what is read. Another node has it whole, and this one is rebuilt when it starts.
            node.fail(format!("the definition of the task {} cannot be read: {error}", job.id));
            return;
        }
    };
    let Some(spec) = spec else { return };
    if !node.machine().with_state(|s| s.wants(job.seq, job.key, job.attempt)) {
        return;
    }
    let mut request = request(dispatcher, &job, &spec, term);
    let (started, clock) = (node.now(), monotonic());
    let secrets = if spec.secrets.is_empty() { &node.config().callback.secrets } else { &spec.secrets };
    request.sign(secrets, &RunId::new(&job.id, job.key).to_string(), started);
    let lateness_ms = started.ms_since(job.at).min(u32::MAX.into()) as u32;
    node.metrics().lateness.observe(f64::from(lateness_ms) / 1000.0);
    let mut sending = dispatcher.0.transport.send(request);
    let early = tokio::time::timeout(RECORDED_AFTER, &mut sending).await;
    let outcome = match early {
        Ok(outcome) => outcome,
        Err(_) => {
            record_start(dispatcher, &job, term, started, lateness_ms);
            sending.await
        }
    };
    place.2 = reach(&outcome);
    drop(place);
    let took = clock.elapsed();
    node.metrics().duration.observe(took.as_secs_f64());
    let duration_ms = Some(took.as_millis().min(u32::MAX.into()) as u32);
    let (error, answer) = judge(outcome, &spec.callback.expect);
    let label = if error.is_none() { "succeeded" } else { "failed" };
    node.metrics().attempts.get_or_create(&vec![("outcome", label.to_owned())]).inc();
    let wait = answer.as_ref().and_then(|a| a.retry_after).map(|d| d.as_millis() as u64);
    let policy = spec.retry.as_ref().map_or(dispatcher.0.policy, Policy::from);
    let verdict = policy.verdict(&job, error.as_deref(), node.now(), rand::random(), wait);
    let attempt = Attempt {
        number: job.attempt,
        node: node.id(),
        started,
        lateness_ms,
        duration_ms,
        status: answer.as_ref().map(|a| a.status.as_u16()),
        error,
        answer: answer.filter(|a| !a.start.is_empty()).map(|a| {
            let kept = a.start.len().min(node.config().callback.answer_kept_bytes);
            String::from_utf8_lossy(&a.start[..kept]).into_owned()
        }),
    };
    let ended = Command::RunEnded { seq: job.seq, key: job.key, attempt, term, verdict };
    // Nothing else knows this outcome. It is proposed until it is written: to this leader, or to the next one.
    while let Err(error) = node.propose(ended.clone(), monotonic() + RECORD_TIMEOUT).await {
        if error == crate::node::Error::Stopping {
            return;
        }
        tokio::time::sleep(RECORD_PAUSE).await;
    }
}

fn reach(outcome: &Result<Answer, Failure>) -> Reach {
    match outcome {
        Ok(_) | Err(Failure::Broken(_)) => Reach::Reached,
        Err(Failure::Timeout(_) | Failure::Refused(_)) => Reach::Unclear,
        Err(error @ Failure::Connect(_)) => Reach::Unreached(error.to_string()),
    }
}

/// Has every node know that the attempt is going. Its end may overtake this, which does no harm.
fn record_start(dispatcher: &Dispatcher, job: &Job, term: u64, started: Timestamp, lateness_ms: u32) {
    let node = dispatcher.0.node.clone();
    let (seq, key, attempt) = (job.seq, job.key, job.attempt);
    tokio::spawn(async move {
        let start = Command::RunStarted { seq, key, attempt, node: node.id(), term, started, lateness_ms };
        if let Err(error) = node.propose(start, monotonic() + RECORD_TIMEOUT).await {
            tracing::debug!(%error, "the start of an attempt is not recorded");
        }
    });
}

fn request(dispatcher: &Dispatcher, job: &Job, spec: &TaskSpec, term: u64) -> Request {
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
    put("idempotency-key", run);
    put("xcron-scheduled-at", job.key.due.0.to_string());
    put("xcron-attempt", job.attempt.to_string());
    put("xcron-fence", dispatcher.next_fence(term));
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
    Request {
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
    }
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

/// The error, where the outcome is one, and the answer, where there is one.
fn judge(outcome: Result<Answer, Failure>, expect: &Expect) -> (Option<String>, Option<Answer>) {
    let contains = |answer: &Answer| {
        let wanted = expect.body_contains.as_deref().unwrap_or_default().as_bytes();
        wanted.is_empty() || answer.start.windows(wanted.len()).any(|window| window == wanted)
    };
    match outcome {
        Ok(answer) if expect.takes(answer.status.as_u16()) && contains(&answer) => (None, Some(answer)),
        Ok(answer) if expect.takes(answer.status.as_u16()) => {
            (Some("the answer does not contain what is expected of it".to_owned()), Some(answer))
        }
        Ok(answer) if answer.status.is_redirection() => {
            (Some(format!("the target answered {}; redirects are not followed", answer.status.as_u16())), Some(answer))
        }
        Ok(answer) => (Some(format!("the target answered {}", answer.status.as_u16())), Some(answer)),
        Err(failure) => (Some(failure.to_string()), None),
    }
}
