//! What the API and the dispatcher read: the memory first, then what a checkpoint is writing, then the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{checkpoint, Error};
use super::{Core, Machine};
use crate::clock::Timestamp;
use crate::command::Seq;
use crate::id::{RunId, RunKey, TaskId};
use crate::run::{OpenRun, Run};
use crate::state::audit::Course;
use crate::state::{Changes, Task, RUNS_KEPT_MAX};
use crate::task::TaskSpec;
use crate::view::{RunView, TaskView};

/// What is known of a task without reading the store.
struct Known {
    id: TaskId,
    once: bool,
    created: Timestamp,
    state: crate::task::TaskState,
    next: Option<Timestamp>,
    run_count: u64,
    recorded: u64,
    /// The latest of those that have ended, and its number.
    newest: Option<(RunKey, u64)>,
    open: Vec<OpenRun>,
}

impl Known {
    fn of(task: &Task) -> Known {
        Known::with(task, task.runs().cloned().collect())
    }

    /// With no other open run than the latest, if it is the latest of all: they can be large, and many.
    fn with_last_run(task: &Task) -> Known {
        let latest = task.runs().next_back();
        let latest = latest.filter(|run| task.past.newest.is_none_or(|(ended, _)| run.key > ended));
        Known::with(task, latest.cloned().into_iter().collect())
    }

    fn with(task: &Task, open: Vec<OpenRun>) -> Known {
        Known {
            id: task.id.clone(),
            once: task.is_once(),
            created: task.created,
            state: task.state,
            next: task.shown_next(),
            run_count: task.past.run_count,
            recorded: task.past.runs_recorded,
            newest: task.past.newest,
            open,
        }
    }
}

/// Why a run is made.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The definition under which it is made: its task's, unless that was changed while the run was going. What it sends,
    /// and where, is always as the task says now.
    pub spec: Arc<TaskSpec>,
    /// The run whose outcome has triggered it.
    pub parent: Option<RunId>,
}

impl Cause {
    fn of(task: &Task, key: RunKey, present: Arc<TaskSpec>) -> Cause {
        let parent = task.past.open.get(key).and_then(|run| run.parent);
        let spec = match task.own_spec(key) {
            Some(own) => {
                let (callback, secrets) = (present.callback.clone(), present.secrets.clone());
                Arc::new(TaskSpec { callback, secrets, ..(**own).clone() })
            }
            None => present,
        };
        Cause { spec, parent }
    }
}

/// The layers above the store, newest first.
pub(super) fn layers(core: &Core) -> impl Iterator<Item = &Changes> {
    std::iter::once(core.state.changes()).chain(core.cut.as_deref().map(|cut| &cut.changes))
}

fn spec_in_memory(core: &Core, seq: Seq) -> Option<Option<Arc<TaskSpec>>> {
    layers(core).find_map(|changes| changes.specs.get(&seq).cloned())
}

impl Machine {
    /// A task's definition; none: there is no such task.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn spec(&self, seq: Seq) -> Result<Option<Arc<TaskSpec>>, Error> {
        let found = spec_in_memory(&self.core(), seq);
        match found {
            Some(spec) => Ok(spec),
            None => Ok(checkpoint::read_spec(&self.store(), seq)?.map(Arc::new)),
        }
    }

    /// As [`Machine::cause_of_run`], where the store need not be read for it; none: it must be.
    pub fn cause_in_memory(&self, seq: Seq, key: RunKey) -> Option<Option<Cause>> {
        let core = self.core();
        let Some(task) = core.state.task(seq) else { return Some(None) };
        let spec = spec_in_memory(&core, seq)?;
        Some(spec.map(|spec| Cause::of(task, key, spec)))
    }

    /// Why the run is made, or would be; none: there is no such task.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn cause_of_run(&self, seq: Seq, key: RunKey) -> Result<Option<Cause>, Error> {
        let Some(spec) = self.spec(seq)? else { return Ok(None) };
        let core = self.core();
        Ok(core.state.task(seq).map(|task| Cause::of(task, key, spec)))
    }

    /// The task with this id, as it is now on this node.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn task(&self, id: &TaskId) -> Result<Option<TaskView>, Error> {
        let seq = self.core().state.find(id);
        match seq {
            Some(seq) => self.task_view(seq),
            None => Ok(None),
        }
    }

    /// The task with this number, as it is now on this node.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn task_view(&self, seq: Seq) -> Result<Option<TaskView>, Error> {
        let Some((known, spec)) = self.known_with_spec(seq)? else { return Ok(None) };
        let last_run = match known.open.last() {
            Some(open) => Some(RunView::of_open(&known.id, open)),
            None => {
                let runs = known.newest.map(|(_, n)| self.recorded(seq, known.once, n, n + 1)).transpose()?;
                if runs.is_some() && !self.has(seq) {
                    return Ok(None);
                }
                runs.and_then(|mut runs| runs.pop_last()).map(|(_, run)| RunView::of_ended(&known.id, &run))
            }
        };
        let Known { id, created, state, next, run_count, .. } = known;
        Ok(Some(TaskView { id, spec, created, state, next, run_count, last_run }))
    }

    /// Whether the task is there. Of one that was deleted while the store was read, a part may have been read.
    fn has(&self, seq: Seq) -> bool {
        self.core().state.task(seq).is_some_and(|task| !task.past.deleted)
    }

    /// What is known of a task and its definition, both at the same moment; none: there is no such task. One that is kept
    /// for its alerts alone is there for nobody else.
    fn known_with_spec(&self, seq: Seq) -> Result<Option<(Known, Arc<TaskSpec>)>, Error> {
        loop {
            let (known, digest, spec) = {
                let core = self.core();
                let Some(task) = core.state.task(seq).filter(|task| !task.past.deleted) else { return Ok(None) };
                (Known::with_last_run(task), task.digest, spec_in_memory(&core, seq))
            };
            if let Some(spec) = spec {
                return Ok(spec.map(|spec| (known, spec)));
            }
            // The store had the definition then. It has another by now only if the task has as well.
            let spec = checkpoint::read_spec(&self.store(), seq)?;
            let same = self.core().state.task(seq).is_some_and(|task| task.digest == digest);
            // Else it was changed or deleted meanwhile.
            if same {
                return Ok(spec.map(|spec| (known, Arc::new(spec))));
            }
        }
    }

    /// The runs of a task that are kept, newest first: those that are going, then those that have ended. None: there is
    /// no such task.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn runs(&self, seq: Seq) -> Result<Option<Vec<RunView>>, Error> {
        let runs = self.all_runs(seq)?;
        Ok(runs.filter(|_| self.has(seq)))
    }

    /// The same, also of a task that is there for its alerts alone.
    fn all_runs(&self, seq: Seq) -> Result<Option<Vec<RunView>>, Error> {
        let Some(known) = self.core().state.task(seq).map(Known::of) else { return Ok(None) };
        self.runs_of(seq, &known).map(Some)
    }

    fn runs_of(&self, seq: Seq, known: &Known) -> Result<Vec<RunView>, Error> {
        let oldest = known.recorded.saturating_sub(RUNS_KEPT_MAX);
        let ended = self.recorded(seq, known.once, oldest, known.recorded)?;
        let mut runs: Vec<RunView> = known.open.iter().map(|open| RunView::of_open(&known.id, open)).collect();
        runs.extend(ended.values().map(|run| RunView::of_ended(&known.id, run)));
        runs.sort_by_key(|run| std::cmp::Reverse(run.id));
        Ok(runs)
    }

    /// A task's course and all of its runs that are kept, both at the same moment; none: there is no such task.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn course(&self, id: &TaskId) -> Result<Option<(Course, Vec<RunView>)>, Error> {
        let found = {
            let core = self.core();
            let seq = core.state.find(id);
            seq.and_then(|seq| core.state.task(seq).map(|task| (seq, Course::of(task), Known::of(task))))
        };
        let Some((seq, course, known)) = found else { return Ok(None) };
        let runs = self.runs_of(seq, &known)?;
        Ok(self.has(seq).then_some((course, runs)))
    }

    /// One run; none: there is none with this id.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn run(&self, id: RunId) -> Result<Option<RunView>, Error> {
        let seq = self.core().state.find_by_run(id);
        let run = seq.map_or(Ok(None), |seq| self.run_of(seq, id))?;
        Ok(run.filter(|_| seq.is_some_and(|seq| self.has(seq))))
    }

    /// One run of this task, which may be there for its alerts alone.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn run_of(&self, seq: Seq, id: RunId) -> Result<Option<RunView>, Error> {
        Ok(self.all_runs(seq)?.and_then(|runs| runs.into_iter().find(|run| run.id == id)))
    }

    /// Ended runs from the number `from` on to, not including, `to`.
    pub(super) fn recorded(&self, seq: Seq, once: bool, from: u64, to: u64) -> Result<BTreeMap<u64, Arc<Run>>, Error> {
        let mut runs: BTreeMap<u64, Arc<Run>> = BTreeMap::new();
        {
            let core = self.core();
            let added = layers(&core).filter_map(|changes| changes.runs.get(&seq)).flat_map(|h| h.added.iter().rev());
            for (number, run) in added.filter(|(number, _)| (from..to).contains(number)) {
                // The newest first: a record can take another one's place.
                runs.entry(*number).or_insert_with(|| run.clone());
            }
        }
        if (runs.len() as u64) < to - from {
            for (number, run) in checkpoint::read_runs(&self.store(), seq, once, from, to)? {
                runs.entry(number).or_insert_with(|| Arc::new(run));
            }
        }
        Ok(runs)
    }
}
