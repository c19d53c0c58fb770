//! The hot part of one task: what decides when it is due.

use std::sync::Arc;

use super::alarms::Packed;
use super::earlier::{self, Earlier};
use super::open::OpenRuns;
use super::past::{Happened, Past};
use super::record::{HotEarlier, HotRhythm, HotTask};
use crate::clock::Timestamp;
use crate::command::{Never, Refusal};
use crate::id::{RunId, RunKey, TaskId};
use crate::run::OpenRun;
use crate::schedule::{Schedule, Zone};
use crate::task::{Delivery, Options, TaskSpec, TaskState};

/// A schedule in its zone; shared by the tasks that have the same.
#[derive(Debug)]
pub struct Timetable {
    /// As the caller wrote it.
    pub format: String,
    /// As the caller wrote it, or the configuration's.
    pub timezone: String,
    /// `format`, parsed.
    pub schedule: Schedule,
    /// `timezone`, by the rules with the number `rules`.
    pub zone: Zone,
    /// The number of these rules; 0 of UTC, which has none.
    pub(super) rules: u64,
}

impl Timetable {
    /// The first due time later than `after` that counts.
    pub fn due_after(&self, options: Option<&Options>, created: Timestamp, after: Timestamp) -> Option<Timestamp> {
        self.due_in(&self.zone, options, created, after)
    }

    /// The same, by the clock of this zone in place of its own.
    pub(super) fn due_in(
        &self,
        zone: &Zone,
        options: Option<&Options>,
        created: Timestamp,
        after: Timestamp,
    ) -> Option<Timestamp> {
        let due = self.due_without_end(zone, options, created, after)?;
        let end = options.and_then(|o| o.end);
        end.is_none_or(|end| due <= end).then_some(due)
    }

    /// As [`Timetable::due_after`], whatever the task's end. An interval counts from the start, if there is one.
    fn due_without_end(
        &self,
        zone: &Zone,
        options: Option<&Options>,
        created: Timestamp,
        after: Timestamp,
    ) -> Option<Timestamp> {
        let start = options.and_then(|o| o.start);
        let from = start.map_or(after, |start| after.max(Timestamp(start.0.saturating_sub(1))));
        self.schedule.next_after(zone, start.unwrap_or(created), from)
    }

    /// Why [`Timetable::due_after`] finds nothing.
    pub(super) fn why_never(&self, options: Option<&Options>, created: Timestamp, after: Timestamp) -> Never {
        let (start, end) = options.map_or((None, None), |o| (o.start, o.end));
        if let (Some(first), Some(end)) = (self.due_without_end(&self.zone, options, created, after), end) {
            return Never::AfterEnd { first, end };
        }
        match start {
            Some(start) if self.schedule.next_after(&self.zone, created, after).is_some() => Never::FromStart { start },
            _ if self.schedule.next_after(&self.zone, created, Timestamp(0)).is_some() => Never::Again,
            _ => Never::AtAll,
        }
    }
}

/// How a task's due times follow each other.
#[derive(Clone, Debug)]
pub enum Rhythm {
    /// There is one.
    Once,
    /// By a timetable.
    Periodic(Arc<Timetable>),
}

impl Rhythm {
    /// The first due time later than `after` that counts, of a task that was created at `created`.
    pub fn due_after(&self, options: Option<&Options>, created: Timestamp, after: Timestamp) -> Option<Timestamp> {
        match self {
            Rhythm::Once => None,
            Rhythm::Periodic(table) => table.due_after(options, created, after),
        }
    }

    pub(super) fn to_record(&self) -> HotRhythm {
        match self {
            Rhythm::Once => HotRhythm::Once,
            Rhythm::Periodic(t) => {
                HotRhythm::Periodic { format: t.format.clone(), timezone: t.timezone.clone(), rules: t.rules }
            }
        }
    }
}

/// A task that has so many runs open is not triggered once more: they are kept in memory, and written whenever one of
/// them changes.
pub const OPEN_RUNS_MAX: usize = 1000;

/// The hot part of one task.
#[derive(Debug)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The fingerprint of its definition.
    pub digest: u128,
    /// When the leader took it.
    pub created: Timestamp,
    /// How its due times follow each other.
    pub rhythm: Rhythm,
    /// Whether it fires.
    pub state: TaskState,
    /// The earliest due time of which no run is recorded yet.
    pub next: Option<Timestamp>,
    /// Where its callback goes, as [`crate::task::target_of`] says; shared by the tasks that have the same.
    pub target: Arc<str>,
    /// What its definition says beside schedule and callback; most say nothing.
    pub options: Option<Box<Options>>,
    /// What has become of it so far.
    pub past: Past,
    pub(super) alarm: Packed,
    /// Whether something has come up since the alarm was set.
    pub(super) came_up: bool,
}

/// A task that finishes with alerts to be sent is kept for so long at least.
const ALERT_MS: u64 = 10_000;

impl Task {
    /// When its schedule was given to it.
    pub fn since(&self) -> Timestamp {
        self.past.since.unwrap_or(self.created)
    }

    /// When something is to be done for it for the first time.
    pub fn wake(&self) -> Option<Timestamp> {
        self.wake_after(None)
    }

    /// When something is to be done for it for the first time after `after`: its due time, the next attempts of its open
    /// runs.
    pub fn wake_after(&self, after: Option<Timestamp>) -> Option<Timestamp> {
        let retry = self.past.open.wake(after, |key| self.may_go_on(key));
        let fire = self.next_fire().filter(|at| after.is_none_or(|after| *at > after));
        retry.into_iter().chain(fire).min()
    }

    /// When the schedule's next run is to be fired: its due time, moved by the jitter; none while it is not to be.
    pub fn next_fire(&self) -> Option<Timestamp> {
        let next = self.next.filter(|_| self.state == TaskState::Active)?;
        Some(next.plus_ms(self.jitter_ms()))
    }

    /// The schedule's next due time, as callers are told it: none while it does not fire. Where another schedule was
    /// given to the task, it is the first of that one, though one of the schedule before may not have fired yet.
    pub fn shown_next(&self) -> Option<Timestamp> {
        let replaced = self.past.earlier.iter().rev().find(|course| course.left != earlier::Left::Shared);
        let next = match replaced.filter(|course| self.next.is_some_and(|next| next <= course.upto)) {
            Some(course) => course.then,
            None => self.next,
        };
        next.filter(|_| self.state == TaskState::Active)
    }

    /// By how much the next due time is moved.
    pub fn jitter_ms(&self) -> u64 {
        match self.options_of_next() {
            Some(options) if options.jitter_ms > 0 => self.id.stable_hash() % options.jitter_ms,
            _ => 0,
        }
    }

    /// Whether attempts of this run may start. While a task is paused, only those of runs that were triggered since.
    pub fn may_go_on(&self, key: RunKey) -> bool {
        match (self.state, self.past.paused) {
            (TaskState::Paused, Some(pause)) => key.is_alert() || key.nonce != 0 && key.due >= pause.from,
            _ => true,
        }
    }

    /// The first due time later than `after`.
    pub fn due_after(&self, after: Timestamp) -> Option<Timestamp> {
        let present = (&self.rhythm, self.options.as_deref());
        earlier::due_after(&self.past.earlier, present, self.created, after)
    }

    /// The runs that have started and not ended, oldest first. (What is open besides are alerts.)
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = &OpenRun> {
        self.past.open.iter().filter(|run| !run.key.is_alert())
    }

    /// Whether an alert of it waits to be delivered.
    pub(super) fn has_alerts(&self) -> bool {
        self.past.open.alerts() > 0
    }

    /// The definition under which the run with this key is made, or would be, where it is not the present one.
    pub fn own_spec(&self, key: RunKey) -> Option<&Arc<TaskSpec>> {
        match self.past.open.get(key) {
            Some(run) => run.spec.as_ref(),
            None if key.is_scheduled() && self.next == Some(key.due) => self.spec_of_next(),
            None => None,
        }
    }

    /// What the definition says under which this run is made.
    pub fn options_of<'a>(&'a self, run: &'a OpenRun) -> Option<&'a Options> {
        run.spec.as_deref().map(|spec| &spec.options).or(self.options.as_deref())
    }

    /// Whether no attempt of this run may follow one that could have been made.
    pub fn is_at_most_once(&self, run: &OpenRun) -> bool {
        let delivery = self.options_of(run).map_or(Delivery::AtLeastOnce, |o| o.delivery);
        delivery == Delivery::AtMostOnce && !run.key.is_alert()
    }

    /// Has an attempt come up.
    pub(super) fn open(&mut self, run: OpenRun) {
        self.past.open.insert(run);
        self.came_up = true;
    }

    /// Opens a run beside the schedule, due now.
    pub(super) fn trigger(&mut self, now: Timestamp, parent: Option<RunId>) -> Result<RunKey, Refusal> {
        if self.past.open.len() >= OPEN_RUNS_MAX {
            return Err(Refusal::TooManyRuns(OPEN_RUNS_MAX));
        }
        self.past.triggers += 1;
        let key = RunKey::triggered(now, self.past.triggers);
        self.open(OpenRun { parent, ..OpenRun::new(key, now) });
        Ok(key)
    }

    /// Whether it has been finished for as long as it is kept: `retain_s` where it says nothing. An alert that waits for
    /// its receiver has some seconds at least, and keeps the task no longer than that.
    pub fn is_over(&self, now: Timestamp, retain_s: u64) -> bool {
        let kept_s = self.options.as_ref().and_then(|options| options.retain_s).unwrap_or(retain_s);
        let kept_ms = kept_s.saturating_mul(1000).max(if self.past.open.is_empty() { 0 } else { ALERT_MS });
        // One that was triggered since has a run.
        let finished = self.past.finished.filter(|_| self.runs().next().is_none());
        finished.is_some_and(|at| at.plus_ms(kept_ms) <= now)
    }

    /// Whether it has one due time only.
    pub fn is_once(&self) -> bool {
        matches!(self.rhythm, Rhythm::Once)
    }

    pub(super) fn from_record(stored: HotTask, rhythm: Rhythm, earlier: Vec<Earlier>, target: Arc<str>) -> Self {
        let mut open = stored.open;
        for (spec, runs) in stored.specs {
            for at in runs {
                if let Some(run) = usize::try_from(at).ok().and_then(|at| open.get_mut(at)) {
                    run.spec = Some(spec.clone());
                }
            }
        }
        let past = Happened {
            since: (stored.since != stored.created).then_some(stored.since),
            run_count: stored.run_count,
            runs_recorded: stored.runs_recorded,
            open: open.into_iter().collect(),
            earlier,
            newest: stored.newest,
            cancelled: stored.cancelled,
            finished: stored.finished,
            fired: stored.fired,
            latest: stored.latest,
            ahead: stored.ahead,
            ended: stored.ended,
            deleted: stored.deleted,
            triggers: stored.triggers,
            paused: stored.paused,
            failing: stored.failing,
            taken: None,
        };
        Task {
            id: stored.id,
            digest: stored.digest,
            created: stored.created,
            rhythm,
            state: stored.state,
            next: stored.next,
            target,
            options: (stored.options != Options::default()).then(|| Box::new(stored.options)),
            past: past.into(),
            alarm: Packed::SILENT,
            came_up: false,
        }
    }

    /// As it is stored.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn record(&self) -> HotTask {
        self.to_record()
    }

    pub(super) fn to_record(&self) -> HotTask {
        HotTask {
            id: self.id.clone(),
            digest: self.digest,
            created: self.created,
            since: self.since(),
            rhythm: self.rhythm.to_record(),
            state: self.state,
            next: self.next,
            run_count: self.past.run_count,
            runs_recorded: self.past.runs_recorded,
            open: self.past.open.iter().map(|run| OpenRun { spec: None, ..run.clone() }).collect(),
            specs: specs(&self.past.open),
            earlier: self.past.earlier.iter().map(HotEarlier::of).collect(),
            newest: self.past.newest,
            cancelled: self.past.cancelled.clone(),
            finished: self.past.finished,
            target: self.target.to_string(),
            options: self.options.as_deref().cloned().unwrap_or_default(),
            fired: self.past.fired,
            latest: self.past.latest,
            ahead: self.past.ahead,
            ended: self.past.ended,
            deleted: self.past.deleted,
            triggers: self.past.triggers,
            paused: self.past.paused,
            failing: self.past.failing,
        }
    }
}

/// The definitions of runs that do not end under the present one, each with the places of its runs: there can be a
/// thousand runs, and a definition can have a megabyte.
fn specs(open: &OpenRuns) -> Vec<(Arc<TaskSpec>, Vec<u32>)> {
    let mut specs: Vec<(Arc<TaskSpec>, Vec<u32>)> = Vec::new();
    for (at, spec) in (0..).zip(open.iter()).filter_map(|(at, run)| Some((at, run.spec.as_ref()?))) {
        match specs.iter_mut().rev().find(|(known, _)| Arc::ptr_eq(known, spec) || known == spec) {
            Some((_, runs)) => runs.push(at),
            None => specs.push((spec.clone(), vec![at])),
        }
    }
    specs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of 64 is then 8 KiB: an allocator gives what is a little more the next size, which is a fifth more.
    #[test]
    fn a_task_has_no_more_than_128_bytes() {
        assert!(size_of::<Task>() <= 128, "{}", size_of::<Task>());
    }
}
