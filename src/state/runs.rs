//! Runs, from their start to their outcome.
//!
//! A run comes into the state by the first of these to be applied: that an attempt has started, or that it has ended
//! (a quick one is never recorded as started). Either moves the task on to its next due time; until then the due time
//! stands as not done, and a crash repeats it.

use std::sync::Arc;

use super::follow::ENDED;
use super::record::Indexed;
use super::{State, Task, OPEN_RUNS_MAX, RUNS_KEPT_MAX};
use crate::clock::Timestamp;
use crate::command::{Refusal, Reply, Seq, Steering, Verdict};
use crate::id::RunKey;
use crate::run::{Attempt, Cancelled, OpenPhase, OpenRun, Run, RunState};
use crate::task::{Overlap, TaskState};

/// Cancelled runs of one task of which the end of an attempt is waited for.
const CANCELLED_MAX: usize = 4;

/// How an attempt started.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub attempt: u32,
    pub node: u64,
    pub term: u64,
    pub started: Timestamp,
    pub lateness_ms: u32,
}

/// How an attempt ended.
pub(super) struct End {
    pub attempt: Attempt,
    pub term: u64,
    pub verdict: Verdict,
    pub steering: Steering,
}

impl State {
    pub(super) fn run_started(&mut self, now: Timestamp, seq: Seq, key: RunKey, start: Start) {
        let Some(task) = self.bring_up(seq, key) else { return };
        let at_most_once = task.past.open.get(key).is_some_and(|run| task.is_at_most_once(run));
        let Start { attempt, node, term, started, lateness_ms } = start;
        task.past.open.change(key, |open| {
            let follows = match open.phase {
                OpenPhase::Queued => attempt >= 1,
                OpenPhase::Waiting { attempt: next, .. } => attempt >= next,
                // Nobody knows that the attempt before was not made.
                OpenPhase::Running { .. } if at_most_once => false,
                OpenPhase::Running { attempt: going, .. } => attempt > going,
            };
            if follows {
                if let Some(lost) = open.lost() {
                    open.keep(lost);
                }
                open.phase = OpenPhase::Running { attempt, node, term, started, lateness_ms };
            }
        });
        self.settle(now, seq);
    }

    pub(super) fn run_ended(&mut self, now: Timestamp, seq: Seq, key: RunKey, end: End) {
        let End { attempt, term, verdict, steering } = end;
        if attempt.status.is_some() {
            self.open_replaced(now, seq, key);
        }
        let Some(task) = self.bring_up(seq, key) else { return self.made_after_all(now, seq, key, attempt) };
        let Some(open) = task.past.open.get(key) else { return };
        let current = match open.phase {
            OpenPhase::Queued => 1,
            OpenPhase::Waiting { attempt, .. } => attempt,
            OpenPhase::Running { attempt: number, term: running, .. } => {
                if running > term && number <= attempt.number && verdict != Verdict::Succeeded {
                    // A deposed leader's failure says nothing about the attempt that goes on under this one.
                    return;
                }
                number
            }
        };
        // A late success of an earlier attempt is a success; a late failure of one has been dealt with.
        if attempt.number < current && verdict != Verdict::Succeeded {
            // The run can have come up by this very command, if it tells of an attempt that nobody makes.
            self.settle(now, seq);
            return;
        }
        let number = attempt.number;
        // One that was triggered after the end is none of those that ended with it.
        let ended = task.past.ended.is_some_and(|at| key.due <= at) && !key.is_alert();
        let again = match &verdict {
            Verdict::Retry { at } if !ended => Some(*at),
            _ => None,
        };
        task.past.open.change(key, |open| {
            // Only an attempt that is given up is followed by one that nobody has seen start.
            if let Some(lost) = open.lost().filter(|_| number > current) {
                open.keep(lost);
            }
            open.keep(attempt);
            if let Some(at) = again {
                open.phase = OpenPhase::Waiting { attempt: number.saturating_add(1), at };
            }
        });
        let (state, reason) = match verdict {
            Verdict::Retry { .. } if again.is_some() => {
                task.came_up = true;
                self.steer(now, seq, key, steering);
                self.settle(now, seq);
                return;
            }
            Verdict::Retry { .. } => (RunState::Cancelled, Some(ENDED.to_owned())),
            Verdict::Succeeded => (RunState::Succeeded, None),
            Verdict::Failed { reason } => (RunState::Failed, Some(reason)),
            Verdict::Unknown { reason } => (RunState::Unknown, Some(reason)),
        };
        self.close(now, seq, key, (state, reason), steering);
    }

    /// An open run has come to this outcome, for this reason.
    fn close(
        &mut self,
        now: Timestamp,
        seq: Seq,
        key: RunKey,
        (state, reason): (RunState, Option<String>),
        steering: Steering,
    ) {
        let Some(task) = self.pages.get_mut(seq) else { return };
        let Some(open) = task.past.open.remove(key) else { return };
        if !key.is_alert() {
            let is_outcome = state != RunState::Cancelled;
            task.past.run_count += u64::from(is_outcome);
            let (spec, attempts) = (open.spec.clone(), &open.attempts);
            let late = attempts.first().and_then(|first| first.late.clone());
            let reason = match (reason, late) {
                (Some(reason), Some(late)) => Some(format!("{reason} (the first attempt was late: {late})")),
                (reason, late) => reason.or(late),
            };
            let passed_over = attempts.iter().rev().find_map(|attempt| attempt.passed_over.clone());
            let reason = match (reason, passed_over) {
                (Some(reason), Some(passed_over)) => Some(format!("{reason}; {passed_over}")),
                (reason, passed_over) => reason.or(passed_over),
            };
            self.record(seq, open.ended(state, reason, now));
            if is_outcome {
                self.follow(now, seq, key, state, spec);
            }
            self.steer(now, seq, key, steering);
        }
        self.settle(now, seq);
    }

    /// The attempt numbered `attempt` of an open run is not made, nor any after it: the run has failed.
    pub(super) fn give_up(&mut self, now: Timestamp, seq: Seq, key: RunKey, attempt: u32, reason: String) {
        let Some(task) = self.pages.get_mut(seq) else { return };
        let Some(open) = task.past.open.get(key) else { return };
        let awaited = match open.phase {
            OpenPhase::Queued => return,
            OpenPhase::Waiting { attempt, .. } => attempt,
            OpenPhase::Running { attempt, .. } => attempt.saturating_add(1),
        };
        if attempt != awaited {
            return;
        }
        let last = task.past.open.change(key, |open| {
            if let Some(lost) = open.lost() {
                open.keep(lost);
            }
            open.attempts.last().and_then(|last| last.error.clone())
        });
        let reason = match last.flatten() {
            Some(error) => format!("{reason}; the last error: {error}"),
            None => reason,
        };
        self.close(now, seq, key, (RunState::Failed, Some(reason)), Steering::default());
    }

    /// The task of the open run `key`, which is made if the task is about to have it; none where the run has ended, or never
    /// was to be.
    fn bring_up(&mut self, seq: Seq, key: RunKey) -> Option<&mut Task> {
        let task = self.pages.get_mut(seq)?;
        if task.next == Some(key.due) && key.is_scheduled() {
            let spec = task.spec_of_next().cloned();
            task.pass(key.due, true);
            task.past.open.insert(OpenRun { spec, ..OpenRun::new(key, key.due) });
        }
        task.past.open.get(key)?;
        Some(task)
    }

    /// A target has answered a run of a schedule that was replaced while the attempt was under way: its due time had come
    /// by the clock of the leader that sent it, though not yet as the change was written. What was sent is recorded.
    fn open_replaced(&mut self, now: Timestamp, seq: Seq, key: RunKey) {
        let Some(task) = self.pages.get_mut(seq) else { return };
        let due = key.due;
        let passed = task.past.latest >= Some(due) || task.next.is_none_or(|next| next <= due);
        if key.is_scheduled() && due <= now && !passed && task.state != TaskState::Finished {
            task.past.latest = Some(due);
            task.past.open.insert(OpenRun::new(key, due));
        }
    }

    /// Ends a run by a call. An attempt of it that is under way is not waited for, and what comes of it not recorded.
    pub(super) fn cancel(&mut self, now: Timestamp, seq: Seq, key: RunKey) -> Result<Reply, Refusal> {
        let task = self.pages.get_mut(seq).ok_or(Refusal::NoSuchRun)?;
        // A run is there from its due time on, before anything of it is recorded.
        let due = task.next.is_some_and(|due| due <= now);
        if !due && task.next == Some(key.due) && key.nonce == 0 {
            return Err(Refusal::NoSuchRun);
        }
        let task = self.bring_up(seq, key).ok_or(Refusal::NoSuchRun)?;
        let mut open = task.past.open.remove(key).ok_or(Refusal::NoSuchRun)?;
        // One that is under way was made, whatever comes of it.
        let error = "the run was cancelled while this attempt was under way: its outcome is not known";
        if let Some(going) = open.going() {
            open.keep(Attempt { error: Some(error.to_owned()), ..going });
        }
        let counts = key.is_scheduled() && open.attempts.is_empty() && open.spec.is_none();
        if counts {
            task.uncount();
        }
        // The start of an attempt is recorded some time after it has left, and the end of a quick one alone.
        let may_have_left = matches!(open.phase, OpenPhase::Waiting { at, .. } if at <= now);
        let run = open.ended(RunState::Cancelled, Some("cancelled by a call".to_owned()), now);
        if may_have_left {
            if task.past.cancelled.len() >= CANCELLED_MAX {
                task.past.cancelled.remove(0);
            }
            let number = task.past.runs_recorded;
            task.past.cancelled.push(Cancelled { number, run: run.clone(), counts });
        }
        self.record(seq, run);
        self.settle(now, seq);
        Ok(Reply::Done)
    }

    /// An attempt has ended of a run that was cancelled before anything of the attempt was recorded: it was made, and stays
    /// in the history.
    fn made_after_all(&mut self, now: Timestamp, seq: Seq, key: RunKey, attempt: Attempt) {
        let Some(task) = self.pages.get_mut(seq) else { return };
        let Some(at) = task.past.cancelled.iter().position(|cancelled| cancelled.run.key == key) else { return };
        let Cancelled { number, mut run, counts } = task.past.cancelled.remove(at);
        run.keep(attempt);
        if counts {
            task.count();
        }
        let once = task.is_once();
        if number + RUNS_KEPT_MAX >= task.past.runs_recorded {
            self.changes.add_run(seq, once, number, Arc::new(run));
        }
        self.settle(now, seq);
    }

    /// Writes an ended run into the task's history and into the index, and drops the oldest beyond what is kept.
    pub(super) fn record(&mut self, seq: Seq, run: Run) {
        self.steps += 1;
        let Some(task) = self.pages.get_mut(seq) else { return };
        let number = task.past.runs_recorded;
        task.past.runs_recorded += 1;
        let last = RunKey { due: run.upto.unwrap_or(run.key.due), ..run.key };
        // One that the history has lost is followed by what it gets next.
        let kept = task.past.newest.filter(|(key, at)| *key > last && at + RUNS_KEPT_MAX > number);
        task.past.newest = Some(kept.unwrap_or((last, number)));
        let once = task.is_once();
        let entry = Indexed { seq, number, due: run.key.due, state: run.state };
        self.changes.index_run(self.runs_total, entry);
        self.runs_total += 1;
        self.changes.add_run(seq, once, number, Arc::new(run));
        if let Some(oldest) = task.past.runs_recorded.checked_sub(RUNS_KEPT_MAX + 1) {
            self.changes.drop_runs(seq, once, oldest, oldest + 1);
        }
    }

    /// A due time has come while a run is going: it waits for the end of that run, or is skipped.
    pub(super) fn overlap(&mut self, now: Timestamp, seq: Seq, due: Timestamp, queue: bool) {
        let Some(task) = self.pages.get_mut(seq) else { return };
        let full = task.past.open.len() >= OPEN_RUNS_MAX;
        let overlaps = task.options_of_next().is_some_and(|o| o.overlap != Overlap::Allow);
        if task.next != Some(due) || !(full || overlaps && task.runs().next().is_some()) {
            // The run has ended meanwhile, or the task was changed: the due time fires.
            return;
        }
        let (key, spec) = (RunKey::scheduled(due), task.spec_of_next().cloned());
        let waits = queue && !full && task.past.open.iter().all(|run| run.phase != OpenPhase::Queued);
        task.pass(due, waits);
        if waits {
            task.past.open.insert(OpenRun { phase: OpenPhase::Queued, spec, ..OpenRun::new(key, now) });
        } else {
            let reason = match queue {
                _ if full => Refusal::TooManyRuns(OPEN_RUNS_MAX).to_string(),
                true => "overlap: a run is going and another waits".to_owned(),
                false => "overlap: a run is going".to_owned(),
            };
            self.record(seq, Run::unfired(key, RunState::Skipped, reason, now));
        }
        self.settle(now, seq);
    }
}
