//! What follows from a run's outcome: other tasks are triggered, someone is told, the target's answer steers its task.

use std::sync::Arc;

use super::earlier::Left;
use super::missed::last_due_time;
use super::record::Pause;
use super::State;
use crate::clock::Timestamp;
use crate::command::{Refusal, Reply, Seq, Steering, Verdict};
use crate::id::{RunId, RunKey, TaskId};
use crate::run::{OpenPhase, OpenRun, Run, RunState};
use crate::task::{AlertEvent, Options, TaskSpec, TaskState};

/// Alerts of one task that wait to be delivered. While their receiver is away, further ones are not made: what they
/// would tell is in the history.
const ALERTS_MAX: usize = 100;
/// Once the outcomes of one log entry have taken so many steps, further ones that trigger other tasks, or end a task, do
/// nothing, and the leader proposes them again. Outcomes of which nothing follows take a quarter of it at most.
pub const OUTCOME_STEPS_MAX: usize = 16_384;

/// Why a run was not made, or not made again, after its task had come to its end.
pub(super) const ENDED: &str = "the task is ended";

/// The tasks that are triggered by this outcome.
fn followers(options: &Options, outcome: RunState) -> &[TaskId] {
    match outcome {
        RunState::Succeeded => &options.on_success,
        RunState::Failed => &options.on_failure,
        _ => &[],
    }
}

impl State {
    /// Applies the outcome of an attempt of the run `key`, unless much follows from it and the log entry has no steps left.
    ///
    /// # Errors
    /// [`Refusal::OutcomesAtOnce`]: nothing has changed.
    pub(super) fn outcome(
        &mut self,
        seq: Seq,
        key: RunKey,
        (verdict, steering): (&Verdict, Steering),
        apply: impl FnOnce(&mut State),
    ) -> Result<Reply, Refusal> {
        if self.outcomes >= OUTCOME_STEPS_MAX && self.leads_to_much(seq, key, verdict, steering) {
            return Err(Refusal::OutcomesAtOnce);
        }
        let before = self.steps;
        apply(self);
        self.outcomes += self.steps - before;
        Ok(Reply::Done)
    }

    /// Whether the outcome can trigger other tasks, or end all runs of its own.
    fn leads_to_much(&self, seq: Seq, key: RunKey, verdict: &Verdict, steering: Steering) -> bool {
        let Some(task) = self.pages.get(seq).filter(|_| !key.is_alert()) else { return false };
        let outcome = match verdict {
            Verdict::Succeeded => RunState::Succeeded,
            Verdict::Failed { .. } => RunState::Failed,
            Verdict::Unknown { .. } => RunState::Unknown,
            Verdict::Retry { .. } => RunState::Running,
        };
        let options = match task.past.open.get(key) {
            Some(run) => task.options_of(run),
            None if task.next == Some(key.due) && key.is_scheduled() => task.options_of_next(),
            None => task.options.as_deref(),
        };
        steering.end || steering.delete || options.is_some_and(|options| !followers(options, outcome).is_empty())
    }

    /// A run has come to an outcome, or a due time was missed: under `spec`, where the task has another by now.
    pub(super) fn follow(
        &mut self,
        now: Timestamp,
        seq: Seq,
        key: RunKey,
        outcome: RunState,
        spec: Option<Arc<TaskSpec>>,
    ) {
        let Some(task) = self.pages.get_mut(seq) else { return };
        let failed = outcome != RunState::Succeeded;
        let failed_before = std::mem::replace(&mut task.past.failing, failed);
        let options = spec.as_ref().map(|spec| &spec.options).or(task.options.as_deref());
        let Some(options) = options else { return };
        let event = match outcome {
            RunState::Failed | RunState::Unknown => Some(AlertEvent::Failed),
            RunState::Missed => Some(AlertEvent::Missed),
            RunState::Succeeded if failed_before => Some(AlertEvent::Recovered),
            _ => None,
        };
        let event = event.filter(|event| options.alert.as_ref().is_some_and(|alert| alert.on.contains(event)));
        let children = followers(options, outcome).to_vec();
        let waiting = task.past.open.alerts();
        if let Some(event) = event.filter(|_| waiting < ALERTS_MAX) {
            task.open(OpenRun { spec, ..OpenRun::new(key.alert(event), now) });
        }
        let parent = RunId::new(&task.id, key);
        for child in children {
            self.trigger_child(now, &child, parent);
        }
    }

    fn trigger_child(&mut self, now: Timestamp, id: &TaskId, parent: RunId) {
        self.steps += 1;
        let Some(seq) = self.find(id) else { return };
        let Some(task) = self.pages.get_mut(seq) else { return };
        if let Err(refusal) = task.trigger(now, Some(parent)) {
            task.past.triggers += 1;
            let key = RunKey::triggered(now, task.past.triggers);
            let run = Run::unfired(key, RunState::Skipped, refusal.to_string(), now);
            self.record(seq, Run { parent: Some(parent), ..run });
            // Nothing has come up, and there are many open runs that need not be looked at.
            self.changes.touch(seq);
            return;
        }
        self.settle(now, seq);
    }

    /// Does what the answer to an attempt of the run `key` asks for.
    pub(super) fn steer(&mut self, now: Timestamp, seq: Seq, key: RunKey, steering: Steering) {
        if key.is_alert() || steering == Steering::default() {
            return;
        }
        if steering.delete {
            self.delete_told(now, seq);
            return;
        }
        if let Some(at) = steering.next_at {
            self.redirect(now, seq, key, at);
        }
        if steering.end {
            self.end_task(now, seq);
        }
        let Some(task) = self.pages.get_mut(seq) else { return };
        let left = task.next.is_some() || task.runs().next().is_some();
        if steering.pause && task.state == TaskState::Active && left {
            task.state = TaskState::Paused;
            task.past.paused = Some(Pause { from: now, to: None });
        }
    }

    /// Deletes a task, but for its alerts: what has failed is told, whatever else the answer asks for. Nobody else finds
    /// the task any more.
    fn delete_told(&mut self, now: Timestamp, seq: Seq) {
        if self.pages.get(seq).is_none_or(|task| !task.has_alerts()) {
            self.forget(seq);
            return;
        }
        self.end_task(now, seq);
        let Some(task) = self.pages.get_mut(seq) else { return };
        task.past.deleted = true;
        // What it starts yet ends with the runs that are under way: it closes no chain.
        let options = task.options.clone();
        self.drop_names(seq, options.as_deref());
    }

    /// The task has no due times any more, and nothing more of it is sent: what waits is cancelled, due times that have
    /// come among it. Attempts that are under way end as they do.
    fn end_task(&mut self, now: Timestamp, seq: Seq) {
        let Some(task) = self.pages.get_mut(seq) else { return };
        let last = |(upto, first)| (first, last_due_time(first, upto, |after| task.due_after(after)));
        let come = task.come_upto(now).zip(task.next).map(last);
        task.next = None;
        task.past.latest = task.past.latest.max(come.map(|(_, last)| last));
        task.past.ended = Some(now);
        let waits = |run: &OpenRun| !run.key.is_alert() && !matches!(run.phase, OpenPhase::Running { .. });
        let waiting: Vec<OpenRun> = task.past.open.take(waits);
        for run in waiting {
            self.record(seq, run.ended(RunState::Cancelled, Some(ENDED.to_owned()), now));
        }
        if let Some((first, last)) = come {
            let run = Run::unfired(RunKey::scheduled(first), RunState::Cancelled, ENDED, now);
            self.record(seq, Run { upto: Some(last).filter(|last| *last > first), ..run });
        }
    }

    /// The task is next due at `at`, in place of what its schedule says.
    fn redirect(&mut self, now: Timestamp, seq: Seq, key: RunKey, at: Timestamp) {
        let Some(task) = self.pages.get_mut(seq) else { return };
        // Never a due time that was there before: two runs would have the same id.
        let come = task.come_upto(now);
        let before = [now, key.due, task.past.floor().unwrap_or_default(), come.unwrap_or_default()];
        let at = before.into_iter().fold(at, |at, before| at.max(before.plus_ms(1)));
        let options = task.options.as_deref();
        if options.and_then(|o| o.max_runs).is_some_and(|max| task.past.fired >= max) {
            return;
        }
        let ends = options.and_then(|o| o.end).is_some_and(|end| at > end);
        // Those that have come fire; those between now and then do not.
        let first = come.map_or(task.next, |upto| task.due_after(upto));
        let skipped = first.filter(|first| *first < at).map(|first| {
            let before = Timestamp(at.0 - 1);
            let last = last_due_time(first, before, |after| task.due_after(after));
            (first, Some(last).filter(|last| *last != first))
        });
        let kept = task.go_on_at(now, (!ends).then_some(at), None, Left::Shared).then(|| task.rhythm.clone());
        let passed = skipped.and_then(|(first, upto)| upto.or(Some(first)));
        if passed.is_some() {
            task.past.ahead = task.past.floor().max(passed);
        }
        task.came_up = true;
        if task.next.is_some() && task.state == TaskState::Finished {
            task.state = TaskState::Active;
            self.finished.remove(&(task.past.finished.take(), seq));
        }
        if let Some(rhythm) = &kept {
            self.hold_timetable(rhythm);
        }
        if let Some((first, upto)) = skipped {
            let reason = format!("the target's answer has set the next due time to {at}");
            let run = Run::unfired(RunKey::scheduled(first), RunState::Skipped, reason, now);
            self.record(seq, Run { upto, ..run });
        }
    }
}
