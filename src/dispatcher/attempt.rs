//! One attempt, from the last look at the state to the record of its outcome.

use std::pin::pin;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::definitions::{Definition, NoDefinition};
use super::health::Reach;
use super::outcome::Told;
use super::request;
use super::retry::Policy;
use super::share::Pace;
use super::transport::{Answer, Failure, Over, Request};
use super::Dispatcher;
use crate::clock::{monotonic, Timestamp};
use crate::command::{Command, Refusal, Reply, Steering, Verdict};
use crate::id::RunId;
use crate::node::Error;
use crate::run::Attempt;
use crate::seam::bug::{self, Bug};
use crate::state::{Job, State};
use crate::storage::machine::Cause;
use crate::task::{Delivery, Expect};

/// An attempt that takes longer than this is recorded as started, so that every node shows it.
const RECORDED_AFTER: Duration = Duration::from_millis(50);
/// How long a record may take before it is proposed again.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a job is taken again for which this node had no fence.
const FENCE_PAUSE: Duration = Duration::from_millis(200);
/// Pause before an attempt that must be recorded first is proposed again, or taken again.
const UNRECORDED_PAUSE: Duration = Duration::from_millis(200);
/// Pause before an outcome, or a start, is proposed again.
const RECORD_PAUSE: Duration = Duration::from_millis(100);

/// Why an attempt that was recorded as going was not sent.
const NOT_SENDABLE: &str = "not sent: the task had changed, or the node led no longer, before the request could leave";

const FENCE: HeaderName = HeaderName::from_static("xcron-fence");

/// Frees the place of a request, once, and tells what it has shown of its target.
struct Place<'a>(&'a Dispatcher, &'a Job, Reach, Pace);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.free(self.1, std::mem::replace(&mut self.2, Reach::NotSent), self.3);
    }
}

/// What came of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is done with.
    Done,
    /// Nothing was done: its task is due again, as soon as nothing holds the job any more.
    Undone,
}

/// What came of connecting and sending.
enum Step {
    /// The request was sent, or there was no connection for it.
    Sent(Result<Answer, Failure>),
    /// It was not to be sent any more.
    NotSent(Outcome),
}

/// The definition under which the attempt is to be sent, if it still is; `going` names the node and the term that may have
/// recorded it as going by now.
fn wanted(state: &State, job: &Job, going: Option<(u64, u64)>) -> Option<u128> {
    let Job { seq, key, attempt, .. } = *job;
    let has_started = || going.is_some_and(|(node, term)| state.has_started(seq, key, attempt, node, term));
    let is_wanted = state.wants(seq, key, attempt) || has_started();
    state.task(seq).filter(|_| is_wanted).map(|task| task.digest)
}

pub(super) async fn make(dispatcher: &Dispatcher, job: Job) -> Outcome {
    let node = &dispatcher.0.node;
    let mut place = Place(dispatcher, &job, Reach::NotSent, Pace::Unknown);
    let is_alert = job.key.is_alert();
    let early = bug::is_planted(Bug::LeaseAskedEarly).then(|| node.may_fire()).flatten();
    let Definition { cause: Cause { spec, parent }, alerted } = match dispatcher.definition(&job).await {
        Ok(Some(known)) => known,
        Ok(None) => return Outcome::Done,
        Err(NoDefinition::NotLeading) => return Outcome::Undone,
        Err(NoDefinition::Unreadable(error)) => {
            // What was stored is not what is read. Another node has it whole, and this one is rebuilt when it starts.
            node.fail(format!("the definition of the task {} cannot be read: {error}", job.id));
            return Outcome::Done;
        }
    };
    // Asked before a connection is made, so that none is made for nothing, and again when there is one.
    let Some(term) = early.or_else(|| node.may_fire()) else {
        // It may lead again before anyone has noticed that it did not.
        return Outcome::Undone;
    };
    let Some(digest) = node.machine().with_state(|state| wanted(state, &job, None)) else {
        return Outcome::Done;
    };
    let policy = spec.retry.as_ref().filter(|_| !is_alert).map_or(dispatcher.0.policy, Policy::from);
    // The first attempt is made however late it is: whether its due time is missed is the misfire policy's to say.
    if let Some(reason) = policy.too_late(&job, node.now()).filter(|_| job.attempt > 1) {
        drop(place);
        record_end(dispatcher, Command::GiveUp { seq: job.seq, key: job.key, attempt: job.attempt, reason }).await;
        return Outcome::Done;
    }
    let (started, clock) = (node.now(), monotonic());
    let lateness_ms = started.ms_since(job.at).min(u32::MAX.into()) as u32;
    let start = Command::RunStarted {
        seq: job.seq,
        key: job.key,
        attempt: job.attempt,
        node: node.id(),
        term,
        started,
        lateness_ms,
    };
    let at_most_once = spec.options.delivery == Delivery::AtMostOnce && !is_alert;
    let secrets = if spec.secrets.is_empty() { &node.config().callback.secrets } else { &spec.secrets };
    let request = || request::build(dispatcher, &job, &spec, (parent, alerted.clone()));
    let again = bug::is_planted(Bug::DeleteKeepsRetry).then(request).flatten();
    let is_leased = || early.is_some() || node.may_fire() == Some(term);
    let going = (!at_most_once).then(|| (node.id(), term));
    let mut exchange = pin!(async {
        let (mut over, began) = (if at_most_once { Over::Alone } else { Over::Any }, monotonic());
        loop {
            let Some(mut request) = request() else { return Step::NotSent(Outcome::Done) };
            let way = match dispatcher.0.transport.connect(&request, over).await {
                Ok(way) => way,
                Err(failure) => return Step::Sent(Err(failure)),
            };
            // Asked as late as can be: a lease that has run out, or a delete that has been acknowledged, stops it here. From here
            // on to the sending nothing may be awaited, unless all of it is asked again afterwards.
            if !is_leased() {
                return Step::NotSent(Outcome::Undone);
            }
            match node.machine().with_state(|state| wanted(state, &job, going)) {
                Some(now) if now == digest => {}
                // The task has changed meanwhile: what is sent, and where, is as it says now.
                Some(_) => return Step::NotSent(Outcome::Undone),
                None => return Step::NotSent(Outcome::Done),
            }
            if at_most_once && !bug::is_planted(Bug::OnceUnrecorded) {
                match commit(dispatcher, &job, &start, digest).await {
                    Commit::Sendable => {}
                    Commit::NotSent => return Step::NotSent(Outcome::Done),
                    Commit::Unrecorded => return Step::NotSent(Outcome::Undone),
                }
            }
            let Some(fence) = dispatcher.next_fence(term) else {
                let why = "too much was sent since the last entry of the log";
                return Step::NotSent(unsent(dispatcher, &start, at_most_once, why).await);
            };
            // It has digits and a point.
            request.headers.extend(HeaderValue::try_from(fence).map(|fence| (FENCE, fence)));
            request.sign(secrets, node.now());
            if !matches!(over, Over::New { .. }) {
                node.metrics().lateness.observe(f64::from(lateness_ms) / 1000.0);
            }
            match way.send(request).await {
                // No byte of an answer came: the target had closed the connection before it read the request.
                Err(Failure::Stale(_)) if !at_most_once && over == Over::Any => {
                    over = Over::New { passed: began.elapsed() };
                }
                outcome => return Step::Sent(outcome),
            }
        }
    });
    let early = tokio::time::timeout(RECORDED_AFTER, &mut exchange).await;
    let is_recorded = early.is_err() && !at_most_once;
    let step = match early {
        Ok(step) => step,
        Err(_) if is_recorded => {
            tokio::select! {
                biased;
                step = &mut exchange => step,
                () = record_start(dispatcher, &job, &start) => exchange.await,
            }
        }
        Err(_) => exchange.await,
    };
    let outcome = match step {
        Step::Sent(outcome) => outcome,
        Step::NotSent(_) if is_recorded => {
            drop(place);
            not_sent(dispatcher, &start, NOT_SENDABLE.to_owned()).await;
            return Outcome::Done;
        }
        Step::NotSent(outcome) => return outcome,
    };
    let took = clock.elapsed();
    (place.2, place.3) = (reach(&outcome), pace(&outcome, took));
    drop(place);
    if let Err(failure @ (Failure::Exhausted(_) | Failure::Crowded(_))) = &outcome {
        // No attempt: the target has had no chance to answer.
        dispatcher.0.exhausted.wait(node.metrics(), failure).await;
        if is_recorded {
            not_sent(dispatcher, &start, failure.to_string()).await;
            return Outcome::Done;
        }
        return Outcome::Undone;
    }
    node.metrics().duration.observe(took.as_secs_f64());
    let duration_ms = Some(took.as_millis().min(u32::MAX.into()) as u32);
    let expect = if is_alert { Expect::default() } else { spec.callback.expect.clone() };
    let told = Told::by(outcome, &expect);
    let ended = crate::metrics::Outcome { outcome: if told.error.is_none() { "succeeded" } else { "failed" } };
    let count = if is_alert { &node.metrics().alerts } else { &node.metrics().attempts };
    count.get_or_create(&ended).inc();
    tracing::debug!(
        task = %job.id,
        run = %RunId::new(&job.id, job.key),
        outcome = ended.outcome,
        error = told.error.as_deref(),
        duration_ms,
        "attempt ended"
    );
    let verdict = match told.last_word(at_most_once) {
        Some(verdict) => verdict,
        None => policy.verdict(&job, told.error.as_deref(), node.now(), crate::seam::random(), told.wait_ms),
    };
    if let (true, Verdict::Failed { reason }) = (is_alert, &verdict) {
        tracing::warn!(task = %job.id, run = %RunId::new(&job.id, job.key), %reason, "an alert is not delivered");
    }
    let kept = node.config().callback.answer_kept_bytes;
    let attempt = Attempt {
        number: job.attempt,
        node: node.id(),
        started,
        lateness_ms,
        duration_ms,
        status: told.answer.as_ref().map(|a| a.status.as_u16()),
        error: told.error,
        answer: told.answer.filter(|a| !a.start.is_empty()).map(|a| {
            let kept = a.start.len().min(kept);
            String::from_utf8_lossy(&a.start[..kept]).into_owned()
        }),
        late: if job.attempt == 1 { dispatcher.lateness_cause(&job, started) } else { None },
        passed_over: told.passed_over,
    };
    if bug::is_planted(Bug::OutcomeDropped) && crate::seam::random::<f64>() < 0.02 {
        return Outcome::Done;
    }
    if let (Some(again), Verdict::Retry { at }) = (again, &verdict) {
        keep_retry(dispatcher, again, *at);
    }
    let steering = told.steering;
    record_end(dispatcher, Command::RunEnded { seq: job.seq, key: job.key, attempt, term, verdict, steering }).await;
    Outcome::Done
}

/// The planted bug: a retry that nothing stops.
fn keep_retry(dispatcher: &Dispatcher, again: Request, at: Timestamp) {
    let dispatcher = dispatcher.clone();
    tokio::spawn(async move {
        let wait_ms = at.ms_since(dispatcher.0.node.now());
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        if dispatcher.0.node.may_fire().is_some() {
            drop(dispatcher.0.transport.send(again).await);
        }
    });
}

/// What came of recording an attempt before it is sent.
enum Commit {
    /// It may be sent now.
    Sendable,
    /// It may not any more, and that is recorded.
    NotSent,
    /// Nobody knows whether it is recorded. Had it been after all, nobody sends what is recorded as going, and its
    /// outcome is unknown.
    Unrecorded,
}

/// Has the attempt recorded before it is sent, under the definition of its task with this fingerprint.
async fn commit(dispatcher: &Dispatcher, job: &Job, start: &Command, digest: u128) -> Commit {
    let node = &dispatcher.0.node;
    let Command::RunStarted { node: id, term, .. } = *start else { return Commit::NotSent };
    let Job { seq, key, attempt: number, .. } = *job;
    let has_started = || node.machine().with_state(|state| state.has_started(seq, key, number, id, term));
    while let Err(error) = node.propose(start.clone(), monotonic() + RECORD_TIMEOUT).await {
        tracing::debug!(%error, "an attempt waits, since it could not be recorded before");
        if bug::is_planted(Bug::SentUnrecorded) {
            return Commit::Sendable;
        }
        // The place is kept meanwhile: nothing else that must be recorded first could go either.
        tokio::time::sleep(UNRECORDED_PAUSE).await;
        if has_started() {
            break;
        }
        let wanted = node.machine().with_state(|state| state.wants(seq, key, number));
        if !wanted || node.may_fire() != Some(term) {
            return Commit::Unrecorded;
        }
    }
    // A change that was acknowledged meanwhile counts: nothing is sent any more as the task was before.
    let stands = node.machine().with_state(|state| wanted(state, job, Some((id, term)))) == Some(digest);
    if stands && has_started() && node.may_fire() == Some(term) {
        return Commit::Sendable;
    }
    not_sent(dispatcher, start, NOT_SENDABLE.to_owned()).await;
    Commit::NotSent
}

/// Nothing has left for want of something that this node lacks: the job is taken again a little later.
async fn unsent(dispatcher: &Dispatcher, start: &Command, at_most_once: bool, reason: &str) -> Outcome {
    tokio::time::sleep(FENCE_PAUSE).await;
    if !at_most_once {
        return Outcome::Undone;
    }
    not_sent(dispatcher, start, reason.to_owned()).await;
    Outcome::Done
}

/// It is known that nothing has left of the attempt whose start was recorded, so that another may follow.
async fn not_sent(dispatcher: &Dispatcher, start: &Command, reason: String) {
    let Command::RunStarted { seq, key, attempt: number, node, term, started, lateness_ms } = *start else { return };
    let begun = Attempt::begun(number, node, started, lateness_ms);
    let attempt = Attempt { duration_ms: Some(0), error: Some(reason), ..begun };
    let (verdict, steering) = (Verdict::Retry { at: dispatcher.0.node.now() }, Steering::default());
    record_end(dispatcher, Command::RunEnded { seq, key, attempt, term, verdict, steering }).await;
}

/// Nothing else knows this outcome. It is proposed until it is written: to this leader, or to the next one.
async fn record_end(dispatcher: &Dispatcher, ended: Command) {
    let node = &dispatcher.0.node;
    loop {
        match node.propose(ended.clone(), monotonic() + RECORD_TIMEOUT).await {
            Err(Error::Stopping) => return,
            // Nothing is recorded: so much followed from others in the same entry.
            Err(_) | Ok(Reply::Refused(Refusal::OutcomesAtOnce)) => tokio::time::sleep(record_pause()).await,
            Ok(_) => return,
        }
    }
}

/// Of many that were refused at once, not all come again at once.
fn record_pause() -> Duration {
    RECORD_PAUSE.mul_f64(0.5 + crate::seam::random::<f64>())
}

fn reach(outcome: &Result<Answer, Failure>) -> Reach {
    match outcome {
        Ok(_) | Err(Failure::Broken(_)) => Reach::Reached,
        // Stale: nothing was heard from it for this attempt.
        Err(Failure::Timeout(_) | Failure::NotConnected(_) | Failure::Stale(_)) => Reach::Unclear,
        Err(Failure::Refused(_) | Failure::Exhausted(_) | Failure::Crowded(_)) => Reach::Unclear,
        Err(error @ Failure::Connect(_)) => Reach::Unreached(error.to_string()),
    }
}

fn pace(outcome: &Result<Answer, Failure>, took: Duration) -> Pace {
    match outcome {
        Ok(_) => Pace::Answered(took),
        Err(Failure::Timeout(_) | Failure::NotConnected(_)) => Pace::TimedOut,
        // It had its place for long, and others must not wait for such.
        Err(Failure::Connect(_) | Failure::Crowded(_)) => Pace::Unreached,
        Err(Failure::Broken(_) | Failure::Stale(_) | Failure::Refused(_) | Failure::Exhausted(_)) => Pace::Unknown,
    }
}

/// Has every node know that the attempt is going: it is proposed until that is recorded, or the attempt has ended, which
/// drops this. Until then the task's later due times wait behind this one. The end may overtake it, which does no harm.
async fn record_start(dispatcher: &Dispatcher, job: &Job, start: &Command) {
    let node = &dispatcher.0.node;
    while let Err(error) = node.propose(start.clone(), monotonic() + RECORD_TIMEOUT).await {
        tracing::debug!(%error, "the start of an attempt is not recorded yet");
        tokio::time::sleep(record_pause()).await;
        let moot = !node.machine().with_state(|state| state.lacks_start(job.seq, job.key, job.attempt));
        if moot || error == Error::Stopping {
            return;
        }
    }
}
