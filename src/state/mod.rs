//! The replicated state: what each node holds, and computes alike from the same commands.
//!
//! Pure: no I/O, no clock, no randomness. [`State::apply`] is the only thing that changes what is replicated. What it
//! holds in memory is *hot*: enough to decide what is due and what a command answers. Definitions and the history of
//! runs are *cold*: `apply` writes them (to [`Changes`], from which a checkpoint takes them) and never reads them.
//!
//! ```text
//!  ids: hash of id → seq        pages: seq → Task (64 to a page, as they are stored)
//!                                  │ wake time
//!  zones: rules, by which timetables find due times
//!  alarms: wheel ── due ──► fresh ── taken by the leader ──► taken
//!  changes: dirty pages · definitions · ended runs and their index ──► checkpoint
//! ```
//!
//! Alarms are the same on every node: a follower's due tasks wait in `fresh` until the leader's outcome moves them on,
//! so that a new leader starts from what is due and rebuilds nothing.

mod alarms;
mod apply;
pub mod audit;
mod chains;
mod changes;
mod due;
mod earlier;
mod follow;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod index;
mod missed;
mod open;
mod pages;
mod past;
pub mod record;
mod runs;
mod task;
mod writes;
mod zones;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use hashbrown::HashTable;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::command::{Limits, Seq};
use crate::id::{RunId, TaskId};

pub use alarms::Alarm;
pub use chains::{LINKS_MAX, LINKS_PER_ENTRY_MAX};
pub use changes::{Changes, ListChanges, RunChanges};
pub use due::{Job, NOTHING_FIRED};
pub use earlier::{Earlier, Left};
pub use open::OpenRuns;
pub use past::{Happened, Past};
pub use task::{Rhythm, Task, Timetable, OPEN_RUNS_MAX};
pub use zones::{LOOKED_AT_MAX, MOVED_MAX};

pub use writes::{DoneWrite, WRITES_PER_BLOCK};

use alarms::Alarms;
use pages::Pages;
use writes::Writes;

/// How many ended runs of one task are kept.
pub const RUNS_KEPT_MAX: u64 = 100;

/// A finished task's place among those that have finished.
pub type Expiry = (Option<Timestamp>, Seq);

/// The replicated state of one Raft group, with the alarms that follow from it.
pub struct State {
    pages: Pages,
    ids: HashTable<(u64, Seq)>,
    next_seq: Seq,
    alarms: Alarms,
    /// Tasks that have open runs.
    open: BTreeSet<Seq>,
    /// Tasks that have finished, by when.
    finished: BTreeSet<(Option<Timestamp>, Seq)>,
    /// Of these two, how many tasks have each. It is not told by the reference counts: who audits a task has its timetable
    /// too, and who makes an attempt the name of its target.
    timetables: HashMap<zones::TimetableKey, (Arc<Timetable>, usize)>,
    targets: HashMap<Arc<str>, usize>,
    /// Which tasks name which among those that follow them.
    namers: chains::Namers,
    /// Named writes that were applied.
    writes: Writes,
    /// What the present log entry holds new tasks against.
    limits: Limits,
    /// Links between tasks that the present log entry has had looked at.
    links: usize,
    /// The steps that the misfires of the present log entry have taken so far.
    misfires: usize,
    /// The steps that the outcomes of attempts in the present log entry have taken so far.
    outcomes: usize,
    /// What the present log entry has cost so far, in steps of any kind; for tests.
    steps: usize,
    changes: Changes,
    zones: zones::Zones,
    cluster: Option<Uuid>,
    claims: BTreeMap<u64, Uuid>,
    /// Runs that ever ended; the serial number of the next.
    runs_total: u64,
    last_written: Option<Timestamp>,
    /// A command has asked for what is held now.
    check_asked: bool,
}

impl State {
    /// An empty state, whose alarms begin at `now`.
    pub fn new(now: Timestamp) -> Self {
        State {
            pages: Pages::default(),
            ids: HashTable::new(),
            next_seq: 1,
            alarms: Alarms::new(now),
            open: BTreeSet::new(),
            finished: BTreeSet::new(),
            timetables: HashMap::new(),
            targets: HashMap::new(),
            namers: chains::Namers::new(),
            writes: Writes::default(),
            limits: Limits::default(),
            links: 0,
            misfires: 0,
            outcomes: 0,
            steps: 0,
            changes: Changes::default(),
            zones: zones::Zones::default(),
            cluster: None,
            claims: BTreeMap::new(),
            runs_total: 0,
            last_written: None,
            check_asked: false,
        }
    }

    /// Whether a command has asked, since the last call, for what is held now.
    pub fn take_check(&mut self) -> bool {
        std::mem::take(&mut self.check_asked)
    }

    /// How many tasks there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// How many runs have started and not ended.
    pub fn open_runs(&self) -> usize {
        self.open.iter().filter_map(|&seq| self.pages.get(seq)).map(|t| t.past.open.len() - t.past.open.alerts()).sum()
    }

    /// The cluster's identity, once it has been given one.
    pub fn cluster(&self) -> Option<Uuid> {
        self.cluster
    }

    /// Which store may act under which node's id.
    pub fn claims(&self) -> &BTreeMap<u64, Uuid> {
        &self.claims
    }

    /// The time of the batch that was applied last, by the clock of the leader that made it.
    pub fn last_written(&self) -> Option<Timestamp> {
        self.last_written
    }

    /// How many named writes were ever applied.
    pub fn named_writes(&self) -> u64 {
        self.writes.total()
    }

    /// The named writes that are kept, as a store should have them.
    #[cfg(any(test, feature = "fuzzing", feature = "sim"))]
    pub(crate) fn write_blocks(&self) -> Vec<(u64, record::WriteBlock)> {
        self.writes.blocks()
    }

    /// The number that the next task will get.
    pub fn next_seq(&self) -> Seq {
        self.next_seq
    }

    /// The task with this number.
    pub fn task(&self, seq: Seq) -> Option<&Task> {
        self.pages.get(seq)
    }

    /// The number of the task with this id.
    pub fn find(&self, id: &TaskId) -> Option<Seq> {
        let hash = id.stable_hash();
        let is = |seq: Seq| self.pages.get(seq).is_some_and(|task| task.id == *id && !task.past.deleted);
        self.ids.find(hash, |&(h, seq)| h == hash && is(seq)).map(|&(_, seq)| seq)
    }

    /// The task that a run id speaks of, if it exists.
    pub fn find_by_run(&self, run: RunId) -> Option<Seq> {
        // The run id holds 62 of the 64 bits, so the other two are tried.
        let (_, low) = run.parts();
        (0..4u64).find_map(|top| {
            let hash = (top << 62) | low;
            let is = |seq: Seq| self.pages.get(seq).is_some_and(|task| !task.past.deleted);
            self.ids.find(hash, |&(h, seq)| h == hash && is(seq)).map(|&(_, seq)| seq)
        })
    }

    /// Tasks in the order of their creation, from the number `from` on.
    pub fn tasks_from(&self, from: Seq) -> impl Iterator<Item = (Seq, &Task)> {
        self.pages.iter_from(from)
    }

    /// Finished tasks whose time is over, where a task that says nothing is kept for `retain_s`: among the `look` that
    /// finished first after `after`; and the last of these, if there is one.
    pub fn expired(&self, now: Timestamp, retain_s: u64, after: Expiry, look: usize) -> (Vec<Seq>, Option<Expiry>) {
        let mut expired = Vec::new();
        let mut last = None;
        for &(at, seq) in self.finished.range((Excluded(after), Unbounded)).take(look) {
            last = Some((at, seq));
            if self.pages.get(seq).is_some_and(|task| task.is_over(now, retain_s)) {
                expired.push(seq);
            }
        }
        (expired, last)
    }

    /// What has changed since the last [`State::freeze_changes`].
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Something beside the tasks has changed that a checkpoint is to write.
    pub fn touch_globals(&mut self) {
        self.changes.globals = true;
    }

    /// Begins a checkpoint: hands over what has changed. The pages of hot states among it are then collected with
    /// [`State::collect_frozen`], as they are at this moment, while the state goes on changing.
    pub fn freeze_changes(&mut self) -> Changes {
        let changes = std::mem::take(&mut self.changes);
        self.pages.freeze(changes.pages.clone());
        changes
    }

    /// Goes on with a checkpoint by up to `limit` pages; all pages, once there are no more to collect. None in a pair:
    /// no task of the page is left.
    pub fn collect_frozen(&mut self, limit: usize) -> Option<Vec<(u64, Option<record::HotPage>)>> {
        self.pages.collect_frozen(limit)
    }

    /// The target's name, for one more task.
    fn target(&mut self, name: &str) -> Arc<str> {
        let target = self.targets.get_key_value(name).map_or_else(|| name.into(), |(known, _)| known.clone());
        *self.targets.entry(target.clone()).or_default() += 1;
        target
    }

    /// One task less calls it.
    fn drop_target(&mut self, target: &Arc<str>) {
        if let Some(tasks) = self.targets.get_mut(target) {
            *tasks -= 1;
            if *tasks == 0 {
                self.targets.remove(target);
            }
        }
    }

    /// Puts a task back that was read from storage.
    ///
    /// # Errors
    /// A schedule that this version cannot read, with the reason; a number or an id that another task has.
    pub fn restore(&mut self, seq: Seq, stored: record::HotTask) -> Result<(), String> {
        let is_known = !stored.deleted && self.find(&stored.id).is_some();
        if seq == Seq::MAX || self.pages.get(seq).is_some() || is_known {
            return Err(format!("the task {} with the number {seq} is there twice, or cannot be", stored.id));
        }
        let rhythm = self.rhythm(&stored.rhythm)?;
        let mut earlier = Vec::with_capacity(stored.earlier.len());
        for record::HotEarlier { spec, rhythm, upto, left, then } in &stored.earlier {
            let (spec, rhythm) = (spec.clone(), self.rhythm(rhythm)?);
            earlier.push(Earlier { spec, rhythm, upto: *upto, left: *left, then: *then });
        }
        let target = self.target(&stored.target);
        let mut task = Task::from_record(stored, rhythm, earlier, target);
        let hash = task.id.stable_hash();
        self.alarms.set(seq, &mut task);
        if !task.past.open.is_empty() {
            self.open.insert(seq);
        }
        if task.past.finished.is_some() {
            self.finished.insert((task.past.finished, seq));
        }
        if !task.past.deleted {
            self.hold_names(seq, task.options.as_deref());
        }
        self.pages.insert(seq, task);
        self.ids.insert_unique(hash, (hash, seq), |&(h, _)| h);
        self.next_seq = self.next_seq.max(seq + 1);
        Ok(())
    }

    /// Puts back a block of named writes that was read from storage. They come in order.
    ///
    /// # Errors
    /// One that does not follow on the one before.
    pub fn restore_writes(&mut self, block: u64, writes: Vec<DoneWrite>) -> Result<(), String> {
        self.writes.restore(block, writes)
    }

    /// Puts back what belongs to no task; after [`State::restore_writes`].
    ///
    /// # Errors
    /// Named writes are missing.
    pub fn restore_globals(&mut self, globals: record::Globals) -> Result<(), String> {
        let (found, said) = (self.writes.total(), globals.named_writes);
        if found != said {
            return Err(format!("there are {found} named writes, and should be {said}"));
        }
        self.next_seq = self.next_seq.max(globals.next_seq);
        self.cluster = globals.cluster;
        self.claims = globals.claims;
        self.runs_total = globals.runs_total;
        self.last_written = globals.last_written;
        self.zones.restore(globals.next_zone, globals.moving);
        Ok(())
    }

    /// What belongs to no task, for storage.
    pub fn globals(&self) -> record::Globals {
        record::Globals {
            next_seq: self.next_seq,
            cluster: self.cluster,
            claims: self.claims.clone(),
            runs_total: self.runs_total,
            last_written: self.last_written,
            named_writes: self.writes.total(),
            next_zone: self.zones.next(),
            moving: self.zones.moving(),
        }
    }
}

#[cfg(test)]
mod tests;
