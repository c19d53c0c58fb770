//! One attempt, from the last look at the state to the record of its outcome.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::transport::{Answer, Failure, Request};
use super::Dispatcher;
use crate::clock::{monotonic, Timestamp};
use crate::command::Command;
use crate::id::RunId;
use crate::run::Attempt;
use crate::state::Job;
use crate::task::TaskSpec;

/// An attempt that takes longer than this is recorded as started, so that every node shows it.
const RECORDED_AFTER: Duration = Duration::from_millis(50);
/// How long a record may take before it is proposed again.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before an outcome is proposed again.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

/// Frees the place of a request, once.
struct Place<'a>(&'a Dispatcher, &'a Job);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.free(self.1);
    }
}

pub(super) async fn make(dispatcher: &Dispatcher, job: Job) {
    let node = &dispatcher.0.node;
    let place = Place(dispatcher, &job);
    // Asked as late as can be: a lease that has run out, or a delete that has been acknowledged, stops it here.
    let Some(term) = node.may_fire() else {
        // It may lead again before anyone has noticed that it did not.
        node.machine().release(job.seq);
        return;
    };
    let spec = match node.machine().spec(job.seq) {
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
    let request = request(dispatcher, &job, &spec, term);
    let (started, clock) = (node.now(), monotonic());
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
    drop(place);
    let took = clock.elapsed();
    node.metrics().duration.observe(took.as_secs_f64());
    let duration_ms = Some(took.as_millis().min(u32::MAX.into()) as u32);
    let (error, answer) = judge(outcome);
    let label = if error.is_none() { "succeeded" } else { "failed" };
    node.metrics().attempts.get_or_create(&vec![("outcome", label.to_owned())]).inc();
    let wait = answer.as_ref().and_then(|a| a.retry_after).map(|d| d.as_millis() as u64);
    let verdict = dispatcher.0.policy.verdict(job.attempt, error.as_deref(), node.now(), rand::random(), wait);
    let attempt = Attempt {
        number: job.attempt,
        node: node.id(),
        started,
        lateness_ms,
        duration_ms,
        status: answer.as_ref().map(|a| a.status.as_u16()),
        error,
        answer: answer.filter(|a| !a.start.is_empty()).map(|a| String::from_utf8_lossy(&a.start).into_owned()),
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
    put("content-type", "application/json".to_owned());
    put("xcron-task-id", job.id.to_string());
    put("xcron-run-id", run.clone());
    put("idempotency-key", run);
    put("xcron-scheduled-at", job.key.due.0.to_string());
    put("xcron-attempt", job.attempt.to_string());
    put("xcron-fence", dispatcher.next_fence(term));
    let timeout = Duration::from_millis(dispatcher.0.node.config().callback.timeout_ms);
    Request { url: spec.callback.url.clone(), headers, body: Bytes::from(spec.callback.body.clone()), timeout }
}

/// The error, where the outcome is one, and the answer, where there is one.
fn judge(outcome: Result<Answer, Failure>) -> (Option<String>, Option<Answer>) {
    match outcome {
        Ok(answer) if answer.status.is_success() => (None, Some(answer)),
        Ok(answer) if answer.status.is_redirection() => {
            (Some(format!("the target answered {}; redirects are not followed", answer.status.as_u16())), Some(answer))
        }
        Ok(answer) => (Some(format!("the target answered {}", answer.status.as_u16())), Some(answer)),
        Err(failure) => (Some(failure.to_string()), None),
    }
}
