//! The commands, applied: the one place where the replicated state changes.

use std::sync::Arc;

use uuid::Uuid;

use super::alarms::Packed;
use super::earlier::Left;
use super::past::Past;
use super::record::Pause;
use super::task::{Rhythm, Task};
use super::writes::{DoneWrite, Known};
use super::State;
use crate::clock::Timestamp;
use crate::command::{Batch, Command, Limits, Refusal, Reply, Seq, Steering, Verdict, WriteId};
use crate::id::TaskId;
use crate::run::OpenPhase;
use crate::task::{Options, TaskSpec, TaskState, Timing};

impl State {
    /// Applies the commands of a batch, in order.
    pub fn apply_batch(&mut self, batch: Batch) -> Vec<Reply> {
        let Batch { now, limits, names, commands } = batch;
        self.last_written = self.last_written.max(Some(now));
        self.begin_entry(limits);
        let mut names = names.into_iter().peekable();
        let apply = |(at, command)| match names.next_if(|(of, _)| *of as usize == at) {
            Some((_, name)) => self.apply_once(now, name, command),
            None => self.apply_one(now, command),
        };
        commands.into_iter().enumerate().map(apply).collect()
    }

    /// Applies a command under its name, unless it was applied before.
    fn apply_once(&mut self, now: Timestamp, name: WriteId, command: Command) -> Reply {
        self.steps += 1;
        match self.writes.known(name) {
            Known::Done(reply) => reply,
            Known::Perhaps(before) => Reply::Refused(Refusal::Forgotten { before }),
            Known::New => {
                let reply = self.apply_one(now, command);
                let at = self.last_written.unwrap_or(now);
                let WriteId { process, number, .. } = name;
                self.writes.keep(DoneWrite { process, number, at, reply: reply.clone() }, &mut self.changes);
                reply
            }
        }
    }

    /// Applies one command that the leader stamped with `now`, as if it were alone in its log entry.
    pub fn apply(&mut self, now: Timestamp, command: Command) -> Reply {
        self.begin_entry(Limits::default());
        self.apply_one(now, command)
    }

    /// Counts the cost of an entry from nothing again.
    fn begin_entry(&mut self, limits: Limits) {
        self.limits = limits;
        (self.links, self.misfires, self.outcomes, self.steps) = (0, 0, 0, 0);
    }

    fn apply_one(&mut self, now: Timestamp, command: Command) -> Reply {
        self.steps += 1;
        let result = match command {
            Command::Create { id, spec } => self.create(now, id, *spec),
            Command::Delete { id } => self.delete(&id),
            Command::Update { id, base, old, spec } => self.update(now, &id, base, &Arc::from(old), *spec),
            Command::Pause { id } => self.pause(now, &id),
            Command::Resume { id } => self.resume(now, &id),
            Command::Trigger { id } => self.trigger(now, &id),
            Command::Cancel { seq, key } => self.cancel(now, seq, key),
            Command::Collect { seqs, retain_s } => {
                for seq in seqs {
                    self.steps += 1;
                    if self.pages.get(seq).is_some_and(|task| task.is_over(now, retain_s)) {
                        self.forget(seq);
                    }
                }
                Ok(Reply::Done)
            }
            Command::RunStarted { seq, key, attempt, node, term, started, lateness_ms } => {
                let start = super::runs::Start { attempt, node, term, started, lateness_ms };
                self.run_started(now, seq, key, start);
                Ok(Reply::Done)
            }
            Command::RunEnded { seq, key, attempt, term, verdict, steering } => {
                let follows = (&verdict.clone(), steering);
                let end = super::runs::End { attempt, term, verdict, steering };
                self.outcome(seq, key, follows, |state| state.run_ended(now, seq, key, end))
            }
            Command::GiveUp { seq, key, attempt, reason } => {
                let follows = (&Verdict::Failed { reason: String::new() }, Steering::default());
                self.outcome(seq, key, follows, |state| state.give_up(now, seq, key, attempt, reason))
            }
            Command::Misfire { seq, from, upto, reason, latest_fires } => {
                self.misfire(now, seq, (from, upto), &reason, latest_fires)
            }
            Command::Overlap { seq, due, queue } => {
                self.overlap(now, seq, due, queue);
                Ok(Reply::Done)
            }
            Command::FoundCluster { cluster } => {
                if self.cluster.is_none() {
                    self.cluster = Some(cluster);
                    self.changes.globals = true;
                }
                Ok(Reply::Done)
            }
            Command::ClaimNode { node, store } => self.claim(node, store),
            Command::DropIndex { chunks } => {
                self.steps += chunks.len();
                self.drop_index(&chunks);
                Ok(Reply::Done)
            }
            Command::Check => {
                self.check_asked = true;
                Ok(Reply::Done)
            }
            Command::AddZones { rules } => {
                self.add_zones(rules);
                Ok(Reply::Done)
            }
            Command::TakeOverZones { version, seen, rules } => {
                self.take_over(now, &version, seen, rules);
                Ok(Reply::Done)
            }
            Command::MoveTasks { from } => {
                self.move_tasks(now, from);
                Ok(Reply::Done)
            }
        };
        result.unwrap_or_else(Reply::Refused)
    }

    fn create(&mut self, now: Timestamp, id: TaskId, spec: TaskSpec) -> Result<Reply, Refusal> {
        let digest = spec.digest();
        if let Some(task) = self.find(&id).and_then(|seq| self.pages.get(seq)) {
            return if task.digest == digest { Ok(Self::created_again(task, &spec)) } else { Err(Refusal::Conflict) };
        }
        if self.len() as u64 >= self.limits.tasks_max {
            return Err(Refusal::TooManyTasks(self.limits.tasks_max));
        }
        if !self.limits.has_room {
            return Err(Refusal::NoRoom);
        }
        self.check_chain(&id, &spec.options)?;
        let (rhythm, next) = self.first_due(now, now, None, &spec)?;
        let target = self.target(&spec.callback.target());
        let seq = self.next_seq;
        self.next_seq += 1;
        let mut task = Task {
            id,
            digest,
            created: now,
            rhythm,
            state: TaskState::Active,
            next: Some(next),
            target,
            options: (spec.options != Options::default()).then(|| Box::new(spec.options.clone())),
            past: Past::default(),
            alarm: Packed::SILENT,
            came_up: false,
        };
        if spec.options.run_now {
            task.trigger(now, None)?;
            self.open.insert(seq);
        }
        self.alarms.set(seq, &mut task);
        self.hold_names(seq, task.options.as_deref());
        let hash = task.id.stable_hash();
        self.pages.insert(seq, task);
        self.ids.insert_unique(hash, (hash, seq), |&(h, _)| h);
        self.changes.touch(seq);
        self.changes.put_spec(seq, Some(Arc::new(spec)));
        Ok(Reply::Created { next: Some(next) })
    }

    /// A caller who creates a task a second time gets the answer of the first time, even if the task has fired since, is
    /// paused or is over: the first due time of this definition.
    fn created_again(task: &Task, spec: &TaskSpec) -> Reply {
        let next = match &spec.timing {
            Timing::At { due, .. } => Some(*due),
            Timing::After { delay_ms } => Some(task.since().plus_ms(*delay_ms)),
            Timing::Periodic { .. } => task.rhythm.due_after(task.options.as_deref(), task.created, task.since()),
        };
        Reply::Created { next }
    }

    /// Gives a task another definition. Its runs that are going end under the one that they began under; an unchanged
    /// schedule keeps its next due time.
    fn update(
        &mut self,
        now: Timestamp,
        id: &TaskId,
        base: u128,
        old: &Arc<TaskSpec>,
        spec: TaskSpec,
    ) -> Result<Reply, Refusal> {
        let seq = self.find(id).ok_or(Refusal::NoSuchTask)?;
        let digest = spec.digest();
        let task = self.pages.get_mut(seq).ok_or(Refusal::NoSuchTask)?;
        if task.digest == digest {
            return Ok(Reply::Created { next: task.shown_next() });
        }
        // What is stored of a task lies where its kind says: a one-shot task stays one.
        let once = matches!(spec.timing, Timing::At { .. } | Timing::After { .. });
        if task.digest != base || task.is_once() != once {
            return Err(Refusal::Conflict);
        }
        // What has come under the old definition stays due; what comes next is later.
        let (created, latest) = (task.created, task.past.floor().max(task.come_upto(now)));
        self.check_chain(id, &spec.options)?;
        let same_times = spec.timing == old.timing && spec.options.times() == old.options.times();
        let times = if same_times { None } else { Some(self.first_due(now, created, latest, &spec)?) };
        self.make_room(now, seq);
        let target = self.target(&spec.callback.target());
        let Some(task) = self.pages.get_mut(seq) else { return Err(Refusal::NoSuchTask) };
        let left = match times {
            None => Left::Shared,
            Some(_) => Left::Own(old.options.max_runs.map(|max| max.saturating_sub(task.past.fired))),
        };
        if !task.past.earlier.is_empty() {
            for course in task.past.earlier.iter_mut().filter(|course| course.left == Left::Shared) {
                course.left = left;
                course.spec.get_or_insert_with(|| old.clone());
            }
        }
        if !task.past.open.is_empty() {
            task.past.open.each_spec(|spec| {
                spec.get_or_insert_with(|| old.clone());
            });
        }
        let then = match &times {
            Some((_, first)) => Some(*first),
            None => task.come_upto(now).map_or(task.next, |upto| task.due_after(upto)),
        };
        let kept = task.go_on_at(now, then, Some(old.clone()), left).then(|| task.rhythm.clone());
        task.digest = digest;
        let options = (spec.options != Options::default()).then(|| Box::new(spec.options.clone()));
        let old_options = std::mem::replace(&mut task.options, options);
        let old_target = std::mem::replace(&mut task.target, target);
        let mut old_rhythm = None;
        task.came_up = true;
        if let Some((rhythm, _)) = times {
            old_rhythm = Some(std::mem::replace(&mut task.rhythm, rhythm));
            task.past.since = Some(latest.map_or(now, |latest| now.max(latest)));
            task.past.fired = 0;
            // What is told yet of a run that was cancelled before says nothing of how often the new schedule has fired.
            task.past.cancelled.iter_mut().for_each(|cancelled| cancelled.counts = false);
            task.past.ended = None;
            if task.state == TaskState::Finished {
                task.state = TaskState::Active;
                self.finished.remove(&(task.past.finished.take(), seq));
            }
        }
        let next = task.shown_next();
        self.drop_names(seq, old_options.as_deref());
        self.hold_names(seq, Some(&spec.options));
        self.drop_target(&old_target);
        if let Some(rhythm) = &kept {
            self.hold_timetable(rhythm);
        }
        if let Some(rhythm) = &old_rhythm {
            self.drop_timetable(rhythm);
        }
        self.changes.put_spec(seq, Some(Arc::new(spec)));
        self.settle(now, seq);
        Ok(Reply::Created { next })
    }

    /// The first due time after `now` and after `latest` of a task that was created at `created`.
    fn first_due(
        &mut self,
        now: Timestamp,
        created: Timestamp,
        latest: Option<Timestamp>,
        spec: &TaskSpec,
    ) -> Result<(Rhythm, Timestamp), Refusal> {
        let earliest = latest.map_or(now, |latest| now.max(latest.plus_ms(1)));
        match &spec.timing {
            Timing::At { due, .. } if *due < earliest => Err(Refusal::Past { due: *due, now: earliest }),
            Timing::At { due, .. } => Ok((Rhythm::Once, *due)),
            Timing::After { delay_ms } => Ok((Rhythm::Once, now.plus_ms(*delay_ms).max(earliest))),
            Timing::Periodic { format, timezone } => {
                let table = self.timetable(format, timezone)?;
                let after = now.max(latest.unwrap_or(now));
                let due = table.due_after(Some(&spec.options), created, after);
                let due = due.ok_or_else(|| table.why_never(Some(&spec.options), created, after));
                let rhythm = Rhythm::Periodic(table);
                match due {
                    Ok(due) => Ok((rhythm, due)),
                    Err(never) => {
                        self.drop_timetable(&rhythm);
                        Err(Refusal::NeverFires(never))
                    }
                }
            }
        }
    }

    fn delete(&mut self, id: &TaskId) -> Result<Reply, Refusal> {
        let seq = self.find(id).ok_or(Refusal::NoSuchTask)?;
        self.forget(seq);
        Ok(Reply::Done)
    }

    /// Removes a task, its definition and its runs.
    pub(super) fn forget(&mut self, seq: Seq) {
        let Some(mut task) = self.pages.remove(seq) else { return };
        self.steps += 1;
        self.alarms.clear(seq, &mut task);
        self.open.remove(&seq);
        self.finished.remove(&(task.past.finished, seq));
        let hash = task.id.stable_hash();
        if let Ok(entry) = self.ids.find_entry(hash, |&(_, s)| s == seq) {
            entry.remove();
        }
        self.changes.touch(seq);
        self.changes.put_spec(seq, None);
        let oldest = task.past.runs_recorded.saturating_sub(super::RUNS_KEPT_MAX);
        self.changes.drop_runs(seq, task.is_once(), oldest, task.past.runs_recorded);
        self.drop_names(seq, task.options.as_deref());
        self.drop_timetable(&task.rhythm);
        task.past.earlier.iter().for_each(|course| self.drop_timetable(&course.rhythm));
        self.drop_target(&task.target);
    }

    fn pause(&mut self, now: Timestamp, id: &TaskId) -> Result<Reply, Refusal> {
        let (seq, task) = self.existing(id)?;
        match task.state {
            TaskState::Finished => return Err(Refusal::Finished),
            TaskState::Paused => {}
            TaskState::Active => {
                task.state = TaskState::Paused;
                task.past.paused = Some(Pause { from: now, to: None });
                self.settle(now, seq);
            }
        }
        Ok(Reply::Task { state: TaskState::Paused, next: None })
    }

    fn resume(&mut self, now: Timestamp, id: &TaskId) -> Result<Reply, Refusal> {
        let (seq, task) = self.existing(id)?;
        match task.state {
            TaskState::Finished => return Err(Refusal::Finished),
            TaskState::Active => {}
            TaskState::Paused => {
                task.state = TaskState::Active;
                task.came_up = true;
                task.past.paused = task.past.paused.map(|pause| Pause { to: Some(now), ..pause });
                self.settle(now, seq);
            }
        }
        let (_, task) = self.existing(id)?;
        Ok(Reply::Task { state: task.state, next: task.shown_next() })
    }

    fn trigger(&mut self, now: Timestamp, id: &TaskId) -> Result<Reply, Refusal> {
        let (seq, task) = self.existing(id)?;
        let key = task.trigger(now, None)?;
        self.settle(now, seq);
        Ok(Reply::Triggered { key })
    }

    fn existing(&mut self, id: &TaskId) -> Result<(Seq, &mut Task), Refusal> {
        let seq = self.find(id).ok_or(Refusal::NoSuchTask)?;
        Ok((seq, self.pages.get_mut(seq).ok_or(Refusal::NoSuchTask)?))
    }

    fn claim(&mut self, node: u64, store: Uuid) -> Result<Reply, Refusal> {
        let bound = *self.claims.entry(node).or_insert_with(|| {
            self.changes.globals = true;
            store
        });
        if bound == store {
            Ok(Reply::Done)
        } else {
            Err(Refusal::OtherStore { node, bound })
        }
    }

    /// After a change of a task: its page is to be written, its alarm must agree, it may be finished.
    pub(super) fn settle(&mut self, now: Timestamp, seq: Seq) {
        self.drop_earlier(seq);
        if self.pages.get(seq).is_some_and(|task| task.past.deleted && !task.has_alerts()) {
            self.forget(seq);
            return;
        }
        let Some(task) = self.pages.get_mut(seq) else { return };
        self.steps += 1;
        if task.past.ahead.is_some() && task.come_upto(Timestamp(0)).is_none() {
            task.past.latest = task.past.floor();
            task.past.ahead = None;
        }
        let only = {
            let mut runs = task.runs();
            runs.next().filter(|_| runs.next().is_none())
        };
        if let Some(key) = only.filter(|run| run.phase == OpenPhase::Queued).map(|run| run.key) {
            task.past.open.change(key, |run| run.phase = OpenPhase::Waiting { attempt: 1, at: now });
            task.came_up = true;
        }
        if task.next.is_none() && task.runs().next().is_none() && task.state != TaskState::Finished {
            task.state = TaskState::Finished;
            task.past.finished = Some(now);
            self.finished.insert((task.past.finished, seq));
        }
        if task.past.open.is_empty() {
            if task.state == TaskState::Finished {
                task.past.close();
            }
            self.open.remove(&seq);
        } else {
            self.open.insert(seq);
        }
        self.alarms.set(seq, task);
        self.changes.touch(seq);
    }
}
