//! What a run is: one due time of one task, its attempts and its outcome.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{RunId, RunKey};
use crate::task::{AlertEvent, TaskSpec};

/// What became of a run, or what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RunState {
    /// Waits for its next attempt.
    Pending,
    /// An attempt is going.
    Running,
    /// An attempt was answered with success.
    Succeeded,
    /// Every attempt failed.
    Failed,
    /// Not fired, because a rule said so.
    Skipped,
    /// Not fired, because nothing could fire at the time.
    Missed,
    /// Ended by a call.
    Cancelled,
    /// Sent at most once, and nothing is known of what came of it.
    Unknown,
}

impl RunState {
    /// Every state, in the order of their numbers in storage.
    pub const ALL: [RunState; 8] = [
        RunState::Pending,
        RunState::Running,
        RunState::Succeeded,
        RunState::Failed,
        RunState::Skipped,
        RunState::Missed,
        RunState::Cancelled,
        RunState::Unknown,
    ];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            RunState::Pending => "pending",
            RunState::Running => "running",
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::Skipped => "skipped",
            RunState::Missed => "missed",
            RunState::Cancelled => "cancelled",
            RunState::Unknown => "unknown",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<RunState> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

/// One HTTP request of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1, 2, …
    pub number: u32,
    /// The id of the node that sent it.
    pub node: u64,
    /// When it was sent, by that node's clock.
    pub started: Timestamp,
    /// How long after it was due it was sent: after the run's due time, or after the retry's.
    pub lateness_ms: u32,
    /// From connect to the last byte of the answer; none while it is going, or where nobody knows.
    pub duration_ms: Option<u32>,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// Why it failed.
    pub error: Option<String>,
    /// The first bytes of the answer, as text.
    pub answer: Option<String>,
    /// Why it was late, where that is known.
    pub late: Option<String>,
    /// What its answer asks for and does not get.
    pub passed_over: Option<String>,
}

/// Attempts of one run that are kept.
pub const ATTEMPTS_MAX: usize = 20;
/// Of these, so many are the first ones.
const FIRST_ATTEMPTS: usize = 5;
/// What their texts may have together; the first and the last are kept whatever they have.
pub const ATTEMPT_BYTES_MAX: usize = 32 << 10;

impl Attempt {
    /// One that has been sent, and of which nothing else is known.
    pub fn begun(number: u32, node: u64, started: Timestamp, lateness_ms: u32) -> Attempt {
        Attempt {
            number,
            node,
            started,
            lateness_ms,
            duration_ms: None,
            status: None,
            error: None,
            answer: None,
            late: None,
            passed_over: None,
        }
    }

    /// How many bytes its texts have.
    pub fn text_bytes(&self) -> usize {
        let texts = [&self.error, &self.answer, &self.late, &self.passed_over];
        texts.into_iter().flatten().map(String::len).sum()
    }
}

/// A run that has come to an outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which of its task's runs.
    pub key: RunKey,
    /// What became of it.
    pub state: RunState,
    /// Why, where `state` alone does not say.
    pub reason: Option<String>,
    /// When the outcome was recorded, by the leader's clock.
    pub ended: Timestamp,
    /// Oldest first: the first few and the last few.
    pub attempts: Vec<Attempt>,
    /// How many were made besides.
    pub left_out: u32,
    /// The run whose outcome has triggered it.
    pub parent: Option<RunId>,
    /// The last of the due times that it stands for, where it stands for more than one.
    pub upto: Option<Timestamp>,
}

impl Run {
    /// One that ended without an attempt.
    pub fn unfired(key: RunKey, state: RunState, reason: impl Into<String>, ended: Timestamp) -> Run {
        let reason = Some(reason.into());
        Run { key, state, reason, ended, attempts: Vec::new(), left_out: 0, parent: None, upto: None }
    }

    /// One more attempt was made. Beyond what is kept, those in the middle are counted and no more: the first ones tell how
    /// it began, and the last ones how it is.
    pub fn keep(&mut self, attempt: Attempt) {
        keep(&mut self.attempts, &mut self.left_out, attempt);
    }
}

fn keep(attempts: &mut Vec<Attempt>, left_out: &mut u32, attempt: Attempt) {
    if attempts.is_empty() {
        attempts.reserve_exact(1);
    }
    attempts.push(attempt);
    let bytes = |attempts: &[Attempt]| attempts.iter().map(Attempt::text_bytes).sum::<usize>();
    while attempts.len() > 2 && (attempts.len() > ATTEMPTS_MAX || bytes(attempts) > ATTEMPT_BYTES_MAX) {
        attempts.remove(FIRST_ATTEMPTS.min((attempts.len() - 1) / 2));
        *left_out = left_out.saturating_add(1);
    }
}

/// A run that was cancelled at a time at which its attempt may have left, with nothing of that recorded yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// Its number in its task's history.
    pub number: u64,
    /// As it is recorded there.
    pub run: Run,
    /// Whether it counts for `max_runs` if it was attempted.
    pub counts: bool,
}

/// A run that has started and has no outcome yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenRun {
    /// Which of its task's runs.
    pub key: RunKey,
    /// What it waits for.
    pub phase: OpenPhase,
    /// The attempts that have ended, oldest first: the first few and the last few.
    pub attempts: Vec<Attempt>,
    /// How many have ended besides.
    pub left_out: u32,
    /// The definition under which it began, where the task has another by now. Runs of one definition are stored with it
    /// once ([`crate::state::record::HotTask`]).
    #[serde(skip)]
    pub spec: Option<Arc<TaskSpec>>,
    /// The run whose outcome has triggered it.
    pub parent: Option<RunId>,
}

impl OpenRun {
    /// One whose first attempt is due at `at`.
    pub fn new(key: RunKey, at: Timestamp) -> OpenRun {
        let phase = OpenPhase::Waiting { attempt: 1, at };
        OpenRun { key, phase, attempts: Vec::new(), left_out: 0, spec: None, parent: None }
    }

    /// One more attempt has ended; see [`Run::keep`]. An open run is written whole whenever one of its task changes.
    pub fn keep(&mut self, attempt: Attempt) {
        keep(&mut self.attempts, &mut self.left_out, attempt);
    }

    /// As it is recorded when it has come to an outcome.
    pub fn ended(self, state: RunState, reason: Option<String>, ended: Timestamp) -> Run {
        let OpenRun { key, attempts, left_out, parent, .. } = self;
        Run { key, state, reason, ended, attempts, left_out, parent, upto: None }
    }

    /// The attempt that is going, as far as it is known.
    pub fn going(&self) -> Option<Attempt> {
        match self.phase {
            OpenPhase::Running { attempt, node, started, lateness_ms, .. } => {
                Some(Attempt::begun(attempt, node, started, lateness_ms))
            }
            OpenPhase::Waiting { .. } | OpenPhase::Queued => None,
        }
    }

    /// The attempt that is going, as it is recorded when nobody will say how it ended.
    pub fn lost(&self) -> Option<Attempt> {
        let error = "the outcome is unknown: the node that sent it no longer leads";
        self.going().map(|attempt| Attempt { error: Some(error.to_owned()), ..attempt })
    }
}

/// An alert is sent as a run is: at once, again after a failure, by whichever node leads. It is kept among its task's
/// open runs, under a key of its own that follows from the run's, and never comes into the history.
const ALERT: u16 = 0x8000;
const EVENT_SHIFT: u32 = 12;

impl RunKey {
    /// The alert that tells of `event` about this run.
    pub const fn alert(self, event: AlertEvent) -> RunKey {
        RunKey { due: self.due, nonce: self.nonce & RunKey::NONCE | ALERT | (event as u16) << EVENT_SHIFT }
    }

    /// Of an alert's key: the run that it is about, and what it tells.
    pub fn alerted(self) -> Option<(RunKey, AlertEvent)> {
        let event = AlertEvent::ALL.get(usize::from((self.nonce & !ALERT) >> EVENT_SHIFT))?;
        self.is_alert().then_some((RunKey { due: self.due, nonce: self.nonce & RunKey::NONCE }, *event))
    }

    /// Whether it is an alert's key, and no run's.
    pub const fn is_alert(self) -> bool {
        self.nonce & ALERT != 0
    }

    /// Whether it is the key of a run that the schedule asks for.
    pub const fn is_scheduled(self) -> bool {
        self.nonce == 0
    }
}

/// What an open run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenPhase {
    /// The end of an attempt.
    Running {
        /// Its number.
        attempt: u32,
        /// The node that sends it.
        node: u64,
        /// The term in which that node led.
        term: u64,
        /// When it was sent.
        started: Timestamp,
        /// How late.
        lateness_ms: u32,
    },
    /// The end of another run of its task.
    Queued,
    /// The time of the next attempt.
    Waiting {
        /// Its number.
        attempt: u32,
        /// When it is due.
        at: Timestamp,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_has_a_key_of_its_own_for_each_event_that_leads_back_to_its_run() {
        let due = Timestamp(1_790_000_000_123);
        for run in [RunKey::scheduled(due), RunKey::triggered(due, 1), RunKey::triggered(due, 0x0ffe)] {
            assert!(!run.is_alert() && run.alerted().is_none());
            for event in AlertEvent::ALL {
                assert_eq!(run.alert(event).alerted(), Some((run, event)));
                assert!(run.alert(event).is_alert() && !run.alert(event).is_scheduled());
            }
        }
    }
}
