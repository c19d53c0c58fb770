//! What became of each due time of a task: its schedule beside its history. Pure.
//!
//! The due times of the present schedule before `next` all have a run, or are in a record that stands for several; if
//! the history has neither any more, it is not kept. Those from `next` on are still to come.

use std::collections::BTreeMap;

use super::task::{Rhythm, Task};
use crate::clock::Timestamp;
use crate::id::{RunId, RunKey, TaskId};
use crate::run::RunState;
use crate::task::{Options, TaskState};
use crate::view::{DueState, DueView, Page, RunView};

/// As far ahead is counted to find where `max_runs` ends a schedule.
const LEFT_MAX: u64 = 10_000;

/// What an audit needs of a task, as it is at one moment.
#[derive(Clone, Debug)]
pub struct Course {
    id: TaskId,
    rhythm: Rhythm,
    options: Option<Options>,
    created: Timestamp,
    since: Timestamp,
    next: Option<Timestamp>,
    /// How many more runs the schedule has.
    left: Option<u64>,
    paused: bool,
    jitter_ms: u64,
}

/// Which due times are asked for: those from `from` to `to`, after `after` in their order.
#[derive(Clone, Copy, Debug)]
pub struct Period {
    /// The first.
    pub from: Timestamp,
    /// The last.
    pub to: Timestamp,
    /// Where the part before this one ended.
    pub after: Option<RunKey>,
    /// How many at most.
    pub limit: usize,
}

impl Course {
    /// Of this task.
    pub fn of(task: &Task) -> Course {
        Course {
            id: task.id.clone(),
            rhythm: task.rhythm.clone(),
            options: task.options.as_deref().cloned(),
            created: task.created,
            since: task.since(),
            next: task.next,
            left: task.options.as_ref().and_then(|o| o.max_runs).map(|max| max.saturating_sub(task.past.fired)),
            paused: task.state == TaskState::Paused,
            jitter_ms: task.jitter_ms(),
        }
    }

    fn due_after(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.rhythm {
            Rhythm::Once => None,
            Rhythm::Periodic(table) => table.due_after(self.options.as_ref(), self.created, after),
        }
    }

    /// The last due time that `max_runs` leaves, if that can be told.
    fn last(&self) -> Option<Timestamp> {
        let left = self.left.filter(|left| (1..=LEFT_MAX).contains(left))?;
        std::iter::successors(self.next, |due| self.due_after(*due)).take(left as usize).last()
    }

    /// Each due time of the period, and each triggered run in it, oldest first, beside what became of it by `now`.
    /// `runs` is all that is kept of the task, as it was at the moment of this.
    pub fn audit(&self, runs: &[RunView], period: Period, now: Timestamp) -> Page<DueView> {
        let begin = period.after.map_or(period.from, |after| period.from.max(after.due));
        let wanted =
            |key: &RunKey| (begin..=period.to).contains(&key.due) && period.after.is_none_or(|after| *key > after);
        let mut found: BTreeMap<RunKey, DueView> = BTreeMap::new();
        for run in runs {
            let (key, _) = run.id.parts();
            if wanted(&key) {
                found.insert(key, of_run(run));
            }
        }
        let spans: Vec<&RunView> = runs.iter().filter(|run| run.upto.is_some()).collect();
        // Where the schedule has come to an end, what it had ends with the last run.
        let passed = runs.iter().filter(|run| run.id.parts().0.is_scheduled()).map(|run| run.upto.unwrap_or(run.due));
        let frontier = self.next.or_else(|| passed.max().map(|last| last.plus_ms(1)));
        let before = Timestamp(begin.0.saturating_sub(1)).max(self.since);
        let scheduled = std::iter::successors(self.due_after(before), |due| self.due_after(*due));
        let end = self.last().map_or(period.to, |last| last.min(period.to));
        let scheduled = scheduled.take_while(|due| *due <= end).chain(self.next);
        for due in scheduled.filter(|due| wanted(&RunKey::scheduled(*due))).take(period.limit + 1) {
            let key = RunKey::scheduled(due);
            if found.contains_key(&key) {
                continue;
            }
            let span = spans.iter().find(|run| run.due <= due && run.upto.is_some_and(|last| due <= last));
            let view = match (span, self.next) {
                (Some(run), _) => DueView { due, ..of_run(run) },
                (None, Some(next)) if due >= next => self.to_come(key, now),
                (None, _) if frontier.is_some_and(|frontier| due < frontier) => self.plain(key, DueState::NotKept),
                // After its end.
                (None, _) => continue,
            };
            found.insert(key, view);
        }
        let more = found.len() > period.limit;
        let mut items: Vec<(RunKey, DueView)> = found.into_iter().collect();
        items.truncate(period.limit);
        let last = items.last().map(|(key, _)| *key).filter(|_| more);
        let next_cursor = last.map(|key| format!("d{}.{}", key.due.as_ms(), key.nonce));
        Page { items: items.into_iter().map(|(_, view)| view).collect(), next_cursor }
    }

    fn plain(&self, key: RunKey, state: DueState) -> DueView {
        let run = RunId::new(&self.id, key);
        DueView {
            due: key.due,
            state,
            reason: None,
            run,
            triggered: false,
            parent: None,
            lateness_ms: None,
            attempts: 0,
        }
    }

    fn to_come(&self, key: RunKey, now: Timestamp) -> DueView {
        if key.due.plus_ms(self.jitter_ms) > now {
            return self.plain(key, DueState::Scheduled);
        }
        let reason = self.paused.then(|| "paused".to_owned());
        DueView { reason, ..self.plain(key, DueState::Run(RunState::Pending)) }
    }
}

fn of_run(run: &RunView) -> DueView {
    DueView {
        due: run.due,
        state: DueState::Run(run.state),
        reason: run.reason.clone(),
        run: run.id,
        triggered: !run.id.parts().0.is_scheduled(),
        parent: run.parent,
        lateness_ms: run.attempts.first().map(|first| u64::from(first.lateness_ms)),
        attempts: run.attempts.len(),
    }
}
