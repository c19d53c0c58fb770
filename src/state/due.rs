//! What is due: what the scheduler asks, on every node, and what a leader takes to dispatch.

use std::sync::Arc;

use super::{State, Task, OPEN_RUNS_MAX};
use crate::clock::Timestamp;
use crate::command::{Command, Seq, Steering, Verdict};
use crate::id::{RunKey, TaskId};
use crate::run::{OpenPhase, OpenRun};
use crate::task::{target_of, Misfire, MisfirePolicy, Overlap, TaskState};
use crate::wheel::Progress;

/// Why a due time was missed, where there is nothing else to say.
pub const NOTHING_FIRED: &str = "nothing could fire at the time: no leader, or no node";
/// What is late by less is not missed, whatever the window: some milliseconds always pass.
const PUNCTUAL_MS: u64 = 100;

/// An attempt that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The task.
    pub seq: Seq,
    /// Its id.
    pub id: TaskId,
    /// Where its callback goes, as [`target_of`] says.
    pub target: Arc<str>,
    /// Which of its runs.
    pub key: RunKey,
    /// The attempt's number.
    pub attempt: u32,
    /// When the attempt is due; its lateness counts from here.
    pub at: Timestamp,
}

impl Job {
    fn new(seq: Seq, task: &Task, key: RunKey, attempt: u32, at: Timestamp) -> Job {
        Job { seq, id: task.id.clone(), target: task.target.clone(), key, attempt, at }
    }

    fn of_run(seq: Seq, task: &Task, run: &OpenRun, attempt: u32, at: Timestamp) -> Job {
        Job { target: target_of_run(task, run), ..Job::new(seq, task, run.key, attempt, at) }
    }
}

/// Where a run's attempts go: where the task goes now, so that a mended URL mends the task. An alert has a target of its
/// own, under the definition under which its run began.
fn target_of_run(task: &Task, run: &OpenRun) -> Arc<str> {
    let alert = task.options_of(run).and_then(|options| options.alert.as_ref());
    match alert.filter(|_| run.key.is_alert()) {
        Some(alert) => target_of(&alert.url).into(),
        None => task.target.clone(),
    }
}

impl State {
    /// Moves the alarms on to `now`, doing a bounded amount of work.
    pub fn advance(&mut self, now: Timestamp, limit: usize) -> Progress {
        self.alarms.advance(now, limit, &mut self.pages)
    }

    /// How far the alarms have been moved.
    pub fn elapsed(&self) -> Timestamp {
        self.alarms.elapsed()
    }

    /// A time before which no more comes due than [`State::due_len`] says; none: nothing waits.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.alarms.next_wake()
    }

    /// The earliest of what is due and not taken.
    pub fn oldest_due(&self) -> Option<Timestamp> {
        self.alarms.first_due()
    }

    /// Begins the alarms again at `now`, after the wall clock was set back.
    pub fn rebuild_alarms(&mut self, now: Timestamp) {
        self.alarms.rebuild(now, &mut self.pages);
    }

    /// Takes the task that has been due longest: the attempts to make for it now, oldest due time first. It does not
    /// come due again until something about it changes, or [`State::release_taken`].
    pub fn take_due(&mut self, now: Timestamp) -> Option<(Seq, Vec<Job>)> {
        let seq = self.alarms.take(now, &mut self.pages)?;
        let Some(task) = self.pages.get(seq) else { return Some((seq, Vec::new())) };
        let mut jobs = Vec::new();
        for run in task.past.open.due(now).into_iter().filter(|run| task.may_go_on(run.key)) {
            if let OpenPhase::Waiting { attempt, at } = run.phase {
                jobs.push(Job::of_run(seq, task, run, attempt, at));
            }
        }
        if let (Some(due), Some(at)) = (task.next, task.next_fire()) {
            if at <= now {
                jobs.push(Job::new(seq, task, RunKey::scheduled(due), 1, at));
            }
        }
        Some((seq, jobs))
    }

    /// The first attempt at this due time, if it is the one that the task has next.
    pub fn next_job(&self, seq: Seq, key: RunKey) -> Option<Job> {
        let task = self.pages.get(seq).filter(|task| task.next == Some(key.due) && key.is_scheduled())?;
        Some(Job::new(seq, task, key, 1, task.next_fire()?))
    }

    /// What is to be recorded of a due time in place of firing it: it is too old, or as many runs of its task are going as
    /// may. `default` is what becomes of those that are missed, where the task says nothing.
    pub fn instead_of(&self, job: &Job, now: Timestamp, default: Misfire) -> Option<Command> {
        if job.attempt != 1 || !job.key.is_scheduled() {
            return None;
        }
        let (seq, due) = (job.seq, job.key.due);
        let task = self.pages.get(seq).filter(|task| task.next == Some(due))?;
        // Of due times that have come under another definition too, the present one says whether they are too old.
        let misfire = task.options.as_deref().and_then(|o| o.misfire).unwrap_or(default);
        // Each due time is moved by its task's jitter.
        let jitter_ms = task.jitter_ms();
        let window_ms = misfire.window_ms.max(PUNCTUAL_MS);
        let old = |due: Timestamp| now.ms_since(due.plus_ms(jitter_ms)) > window_ms;
        let missed = old(due)
            && match misfire.policy {
                MisfirePolicy::All => false,
                MisfirePolicy::Skip => true,
                // A later due time that is too old as well: then they fire as one.
                MisfirePolicy::Latest => task.due_after(due).is_some_and(old),
            };
        if missed {
            let paused = task.past.paused.and_then(|pause| pause.to).is_some_and(|to| to > due);
            let reason = if paused { "paused" } else { NOTHING_FIRED };
            // The latest of all: it can be of a later course.
            let last = task.behind().is_none_or(|course| !course.then.is_some_and(old));
            return Some(Command::Misfire {
                seq,
                from: due,
                upto: Timestamp(now.0.saturating_sub(window_ms.saturating_add(jitter_ms))),
                reason: reason.to_owned(),
                latest_fires: last && misfire.policy == MisfirePolicy::Latest,
            });
        }
        let overlap = task.options_of_next().map_or(Overlap::Allow, |o| o.overlap);
        let overlaps = overlap != Overlap::Allow && task.runs().next().is_some();
        let full = task.past.open.len() >= OPEN_RUNS_MAX;
        (overlaps || full).then(|| Command::Overlap { seq, due, queue: overlap == Overlap::Queue })
    }

    /// Makes one task due again that was taken and for which nothing was done.
    pub fn release(&mut self, seq: Seq) {
        self.alarms.release_one(seq, &mut self.pages);
    }

    /// Makes due again what was taken: for a node that begins to lead, or no longer does.
    pub fn release_taken(&mut self) {
        self.alarms.release(&mut self.pages);
    }

    /// The runs that are recorded as going, for each the attempt that would follow. Where nobody is sending the attempt
    /// that is recorded, the leader makes the one that follows.
    pub fn running(&self, now: Timestamp) -> Vec<Job> {
        let tasks = self.open.iter().filter_map(|&seq| Some((seq, self.pages.get(seq)?)));
        let runs = tasks.flat_map(|(seq, task)| task.past.open.iter().map(move |run| (seq, task, run)));
        runs.filter_map(|(seq, task, run)| match run.phase {
            OpenPhase::Running { attempt, .. } => Some(Job::of_run(seq, task, run, attempt.saturating_add(1), now)),
            OpenPhase::Waiting { .. } | OpenPhase::Queued => None,
        })
        .collect()
    }

    /// Whether the attempt is still wanted: what is asked right before it is sent.
    pub fn wants(&self, seq: Seq, key: RunKey, attempt: u32) -> bool {
        let Some(task) = self.pages.get(seq).filter(|task| task.may_go_on(key)) else { return false };
        if let Some(run) = task.past.open.get(key) {
            return match run.phase {
                OpenPhase::Queued => false,
                OpenPhase::Waiting { attempt: next, .. } => attempt == next,
                OpenPhase::Running { attempt: going, .. } => attempt > going && !task.is_at_most_once(run),
            };
        }
        task.state == TaskState::Active && key.nonce == 0 && task.next == Some(key.due)
    }

    /// Whether the start of this attempt, which is in flight, is still to be recorded: nothing later is known of its run.
    /// This holds while its task is paused, too; else the task's later due times would wait for the end of the attempt.
    pub fn lacks_start(&self, seq: Seq, key: RunKey, attempt: u32) -> bool {
        let Some(task) = self.pages.get(seq) else { return false };
        match task.past.open.get(key).map(|run| run.phase) {
            Some(OpenPhase::Queued) => true,
            Some(OpenPhase::Waiting { attempt: next, .. }) => attempt >= next,
            Some(OpenPhase::Running { attempt: going, .. }) => attempt > going,
            None => key.is_scheduled() && task.next == Some(key.due),
        }
    }

    /// Whether this attempt is recorded as going, and as sent by `node` in `term`, and may be: what is asked before an
    /// attempt is sent that must be recorded first.
    pub fn has_started(&self, seq: Seq, key: RunKey, attempt: u32, node: u64, term: u64) -> bool {
        let Some(task) = self.pages.get(seq).filter(|task| task.may_go_on(key)) else { return false };
        let phase = task.past.open.get(key).map(|run| run.phase);
        matches!(phase, Some(OpenPhase::Running { attempt: a, node: n, term: t, .. }) if (a, n, t) == (attempt, node, term))
    }

    /// Of a run whose attempt nobody sends any more: what is to be recorded, where the attempt may not be repeated.
    pub fn lost(&self, seq: Seq, key: RunKey) -> Option<Command> {
        let task = self.pages.get(seq)?;
        let run = task.past.open.get(key).filter(|run| task.is_at_most_once(run))?;
        let OpenPhase::Running { term, .. } = run.phase else { return None };
        let attempt = run.lost()?;
        let reason = attempt.error.clone().unwrap_or_default();
        let verdict = Verdict::Unknown { reason };
        Some(Command::RunEnded { seq, key, attempt, term, verdict, steering: Steering::default() })
    }

    /// Whether a job that waits is still wanted, at the target that it waits for.
    pub fn still_wants(&self, job: &Job) -> bool {
        let same = |task: &Task| {
            let run = task.past.open.get(job.key);
            run.map_or_else(|| task.target.clone(), |run| target_of_run(task, run)) == job.target
        };
        self.wants(job.seq, job.key, job.attempt) && self.pages.get(job.seq).is_some_and(same)
    }

    /// Tasks whose wake time has come and that nobody acts on: 0 on a healthy leader.
    pub fn due_len(&self) -> usize {
        self.alarms.fresh_len()
    }

    /// Tasks that wait in the wheel.
    pub fn waiting_len(&self) -> usize {
        self.alarms.waiting_len()
    }
}
