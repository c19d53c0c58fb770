//! What has become of a task.

use std::ops::{Deref, DerefMut};

use super::earlier::Earlier;
use super::open::OpenRuns;
use super::record::Pause;
use crate::clock::Timestamp;
use crate::id::RunKey;
use crate::run::Cancelled;

/// What has become of a task. Most of a million tasks have only been created: it takes memory from the first change on.
#[derive(Debug, Default)]
pub struct Past(Option<Box<Happened>>);

/// What has happened to a task.
#[derive(Debug, Default, PartialEq)]
pub struct Happened {
    /// When its schedule was given to it, if it has another one than at its creation.
    pub since: Option<Timestamp>,
    /// Runs that were fired and came to an outcome.
    pub run_count: u64,
    /// Runs ever written to its history; the number of the next.
    pub runs_recorded: u64,
    /// Started and not ended.
    pub open: OpenRuns,
    /// Due times that have come and have no run, under courses that the task had before the present one; oldest first.
    pub earlier: Vec<Earlier>,
    /// Of the runs in its history the one with the latest due time, and its number there.
    pub newest: Option<(RunKey, u64)>,
    /// Cancelled runs of which an attempt may still be told of; a few.
    pub cancelled: Vec<Cancelled>,
    /// When it finished.
    pub finished: Option<Timestamp>,
    /// Due times of which there is a run that counts for `max_runs`.
    pub fired: u64,
    /// The latest due time of which there is a run, or a record that there was none. What comes next is later, even
    /// where a clock was set back: two runs of one due time would have one id.
    pub latest: Option<Timestamp>,
    /// A later one of which there is a record, while earlier ones have come and have none.
    pub ahead: Option<Timestamp>,
    /// When an answer of its target has ended it: nothing more of the runs that there were then is sent.
    pub ended: Option<Timestamp>,
    /// An answer of its target has deleted it: it is there for its alerts alone, and found by nobody else.
    pub deleted: bool,
    /// How often it was triggered.
    pub triggers: u64,
    /// The last time it was paused.
    pub paused: Option<Pause>,
    /// Whether the run that ended last, or the due time that was missed last, was no success.
    pub failing: bool,
    /// What was due by then is in the leader's hands.
    pub(super) taken: Option<Timestamp>,
}

static NOTHING: Happened = Happened {
    since: None,
    run_count: 0,
    runs_recorded: 0,
    open: OpenRuns::NONE,
    earlier: Vec::new(),
    newest: None,
    cancelled: Vec::new(),
    finished: None,
    fired: 0,
    latest: None,
    ahead: None,
    ended: None,
    deleted: false,
    triggers: 0,
    paused: None,
    failing: false,
    taken: None,
};

impl Happened {
    /// The latest due time of which there is a run or a record. What is given to the task from now on is later.
    pub(super) fn floor(&self) -> Option<Timestamp> {
        self.latest.max(self.ahead)
    }
}

impl Past {
    /// Gives back the room of open runs, of which there will be none: it is what most of a finished task would take.
    pub(super) fn close(&mut self) {
        if let Some(happened) = self.0.as_mut().filter(|happened| happened.open.is_empty()) {
            happened.open.shrink();
        }
    }
}

impl Deref for Past {
    type Target = Happened;

    fn deref(&self) -> &Happened {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Past {
    fn deref_mut(&mut self) -> &mut Happened {
        self.0.get_or_insert_default()
    }
}

impl From<Happened> for Past {
    fn from(happened: Happened) -> Self {
        Past((happened != NOTHING).then(|| Box::new(happened)))
    }
}
