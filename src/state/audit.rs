//! What became of each due time of a task: its schedule beside its history. Pure.
//!
//! The due times of the present schedule before `next` all have a run, or are in a record that stands for several; if
//! the history has neither any more, it is not kept. Those from `next` on are still to come.

use std::collections::BTreeMap;

use super::earlier::{self, Earlier, Left};
use super::task::{Rhythm, Task, Timetable};
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
    /// The latest due time of which there was a run, or a record that there was none.
    latest: Option<Timestamp>,
    earlier: Vec<Earlier>,
    /// How many more runs the schedule has.
    left: Option<u64>,
    paused: bool,
    jitter_ms: u64,
    /// How often it was triggered.
    triggers: u64,
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
            latest: task.past.latest,
            earlier: task.past.earlier.clone(),
            left: task.options.as_ref().and_then(|o| o.max_runs).map(|max| max.saturating_sub(task.past.fired)),
            paused: task.state == TaskState::Paused,
            jitter_ms: task.jitter_ms(),
            triggers: task.past.triggers,
        }
    }

    /// Triggered runs that are not among `runs`, which is all that is kept of the task: when they were is not known any
    /// more, only how many.
    pub fn triggers_not_kept(&self, runs: &[RunView]) -> u64 {
        let kept = runs.iter().filter(|run| !run.id.parts().0.is_scheduled()).count();
        self.triggers.saturating_sub(kept as u64)
    }

    /// The first due time of the present definition later than `after`.
    fn due_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.rhythm.due_after(self.options.as_ref(), self.created, after)
    }

    /// As [`Task::due_after`].
    fn any_due_after(&self, after: Timestamp) -> Option<Timestamp> {
        earlier::due_after(&self.earlier, (&self.rhythm, self.options.as_ref()), self.created, after)
    }

    /// Due times from `from` on that have come and have no run; of the present course the next one alone.
    fn behind(&self, from: Timestamp) -> impl Iterator<Item = Timestamp> + use<'_> {
        let upto = self.earlier.last().map(|course| course.upto);
        let first = self.next.filter(|next| *next >= from || upto.is_none());
        let first = first.or_else(|| self.any_due_after(Timestamp(from.0.saturating_sub(1))));
        let first = first.filter(|first| Some(*first) >= self.next && self.next.is_some());
        let rest = std::iter::successors(first, |due| self.any_due_after(*due));
        rest.take_while(move |due| Some(*due) <= upto || Some(*due) == self.next)
    }

    /// The due times to come, as they will be fired, the jitter included; none while it is paused.
    pub fn to_fire(&self, count: usize) -> Vec<Timestamp> {
        let first = self.next.filter(|_| !self.paused);
        let coming = std::iter::successors(first, |due| self.any_due_after(*due));
        let last = self.last();
        let coming = coming.take_while(|due| last.is_none_or(|last| *due <= last)).take(count);
        coming.map(|due| due.plus_ms(self.jitter_ms)).collect()
    }

    /// Its schedule in its zone; none: it is due once.
    pub fn timetable(&self) -> Option<&Timetable> {
        match &self.rhythm {
            Rhythm::Once => None,
            Rhythm::Periodic(table) => Some(table),
        }
    }

    /// The last due time that `max_runs` leaves, if that can be told.
    fn last(&self) -> Option<Timestamp> {
        let left = self.left.filter(|left| (1..=LEFT_MAX).contains(left))?;
        let replaced = self.earlier.iter().rev().find(|course| course.left != Left::Shared);
        let first = replaced.map_or(self.next, |course| course.then);
        std::iter::successors(first, |due| self.any_due_after(*due)).take(left as usize).last()
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
                let upto = run.upto.filter(|_| run.due <= self.since);
                found.insert(key, DueView { upto, ..of_run(run) });
            }
        }
        let spans: Vec<&RunView> = runs.iter().filter(|run| run.upto.is_some()).collect();
        // Where the schedule has come to an end, what it had ends with the latest, of which the history may have nothing left.
        let passed = runs.iter().filter(|run| run.id.parts().0.is_scheduled()).map(|run| run.upto.unwrap_or(run.due));
        let frontier = self.next.or_else(|| passed.chain(self.latest).max().map(|last| last.plus_ms(1)));
        let before = Timestamp(begin.0.saturating_sub(1)).max(self.since);
        let scheduled = std::iter::successors(self.due_after(before), |due| self.due_after(*due));
        let end = self.last().map_or(period.to, |last| last.min(period.to));
        let scheduled = scheduled.take_while(|due| *due <= end);
        let is_wanted = |due: &Timestamp| wanted(&RunKey::scheduled(*due));
        let behind = self.behind(begin).take_while(|due| *due <= period.to);
        let behind = behind.filter(is_wanted).take(period.limit + 1);
        // It stands in no schedule where the task was due once.
        let latest = self.latest.filter(|_| self.timetable().is_none()).filter(is_wanted);
        for due in behind.chain(scheduled.filter(is_wanted).take(period.limit + 1)).chain(latest) {
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
            upto: None,
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
        upto: None,
        triggered: !run.id.parts().0.is_scheduled(),
        parent: run.parent,
        lateness_ms: run.attempts.first().map(|first| u64::from(first.lateness_ms)),
        attempts: run.attempts.len() + run.left_out as usize,
    }
}
