//! The hot part of one task: what decides when it is due.

use std::sync::Arc;

use super::alarms::Alarm;
use super::record::{HotRhythm, HotTask};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::run::{OpenPhase, OpenRun};
use crate::schedule::{Schedule, Zone};
use crate::task::TaskState;

/// A schedule in its zone; shared by the tasks that have the same.
#[derive(Debug)]
pub struct Timetable {
    /// As the caller wrote it.
    pub format: String,
    /// As the caller wrote it, or the configuration's.
    pub timezone: String,
    /// `format`, parsed.
    pub schedule: Schedule,
    /// `timezone`, looked up.
    pub zone: Zone,
}

/// How a task's due times follow each other.
#[derive(Clone, Debug)]
pub enum Rhythm {
    /// There is one.
    Once,
    /// By a timetable.
    Periodic(Arc<Timetable>),
}

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
    /// Runs that were fired and came to an outcome.
    pub run_count: u64,
    /// Runs ever written to its history; the number of the next.
    pub runs_recorded: u64,
    /// Started and not ended, oldest first.
    pub open: Vec<OpenRun>,
    /// When it finished.
    pub finished: Option<Timestamp>,
    /// `host:port` that its callback goes to; shared by the tasks that have the same.
    pub target: Arc<str>,
    pub(super) alarm: Alarm,
}

impl Task {
    /// When something is to be done for it: a due time, or the next attempt of an open run.
    pub fn wake(&self) -> Option<Timestamp> {
        let retries = self.open.iter().filter_map(|run| match run.phase {
            OpenPhase::Waiting { at, .. } => Some(at),
            OpenPhase::Running { .. } => None,
        });
        let next = if self.state == TaskState::Active { self.next } else { None };
        retries.chain(next).min()
    }

    /// The first due time later than `after`.
    pub fn due_after(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.rhythm {
            Rhythm::Once => None,
            Rhythm::Periodic(table) => table.schedule.next_after(&table.zone, self.created, after),
        }
    }

    /// Whether it has one due time only.
    pub fn is_once(&self) -> bool {
        matches!(self.rhythm, Rhythm::Once)
    }

    pub(super) fn from_record(stored: HotTask, rhythm: Rhythm, target: Arc<str>) -> Self {
        Task {
            id: stored.id,
            digest: stored.digest,
            created: stored.created,
            rhythm,
            state: stored.state,
            next: stored.next,
            run_count: stored.run_count,
            runs_recorded: stored.runs_recorded,
            open: stored.open,
            finished: stored.finished,
            target,
            alarm: Alarm::Silent,
        }
    }

    pub(super) fn to_record(&self) -> HotTask {
        HotTask {
            id: self.id.clone(),
            digest: self.digest,
            created: self.created,
            rhythm: match &self.rhythm {
                Rhythm::Once => HotRhythm::Once,
                Rhythm::Periodic(t) => HotRhythm::Periodic { format: t.format.clone(), timezone: t.timezone.clone() },
            },
            state: self.state,
            next: self.next,
            run_count: self.run_count,
            runs_recorded: self.runs_recorded,
            open: self.open.clone(),
            finished: self.finished,
            target: self.target.to_string(),
        }
    }
}
