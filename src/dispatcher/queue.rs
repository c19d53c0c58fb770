//! Jobs that wait for a place: one line for each target, so that a slow one holds up its own jobs only.
//!
//! What a line keeps is bounded. What is over is *spilled*: only its task's number and its time are kept, and the task
//! is given back to the state, which offers the job again, when the line has room: the earliest first.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::health::{Health, Patience, Probe, Reach};
use crate::clock::Timestamp;
use crate::command::Seq;
use crate::id::RunKey;
use crate::state::Job;
use crate::view::{TargetState, TargetView};

type Rank = (Timestamp, Seq, RunKey, u32);

fn rank(job: &Job) -> Rank {
    (job.at, job.seq, job.key, job.attempt)
}

struct Waiting(Job);

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        rank(&self.0) == rank(&other.0)
    }
}
impl Eq for Waiting {}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        rank(&self.0).cmp(&rank(&other.0))
    }
}

/// Bounds on what is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Jobs that all lines together keep before each of them is cut to `line_min`; those that are held, and those that
    /// are not, apart.
    pub all: usize,
    /// Jobs of a line that is not held.
    pub line: usize,
    /// Jobs of a line that is held: it goes on slowly at first, if ever.
    pub held_line: usize,
    /// Jobs that any line may have.
    pub line_min: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { all: 200_000, line: 100_000, held_line: 10_000, line_min: 256 }
    }
}

/// Lines that are kept only for what is known of their targets.
const IDLE_LINES_MAX: usize = 10_000;
/// Most tasks that are given back at once.
const RETURNS_MAX: usize = 1024;
/// After this, tasks that were given back are not waited for any longer: some may be gone.
const RETURNS_PATIENCE: Duration = Duration::from_millis(200);
/// How often all lines with something spilled are looked at.
const RETURNS_EVERY: Duration = Duration::from_millis(50);
/// Targets of which the last hold is remembered.
const OUTAGES_MAX: usize = 1000;

#[derive(Default)]
struct Line {
    waiting: BinaryHeap<Reverse<Waiting>>,
    spilled: BTreeSet<(Timestamp, Seq)>,
    /// Given back and not here again, and until when they are waited for.
    returning: Option<(usize, Instant)>,
    in_flight: usize,
    health: Health,
}

impl Line {
    /// The rank of its first job, if it has one and a place.
    fn readiness(&self, places: usize) -> Option<Rank> {
        let Reverse(Waiting(first)) = self.waiting.peek()?;
        (self.in_flight < places && self.health.lets_go()).then(|| rank(first))
    }

    fn has_jobs(&self) -> bool {
        !self.waiting.is_empty() || !self.spilled.is_empty()
    }

    /// How many jobs it may keep, where `[open, held]` jobs wait in all.
    fn room(&self, bounds: &Bounds, waiting: [usize; 2]) -> usize {
        match (self.health.is_held(), waiting) {
            (true, [_, held]) if held >= bounds.all => 1,
            (true, _) => bounds.held_line,
            (false, [open, _]) if open >= bounds.all => bounds.line_min,
            (false, _) => bounds.line,
        }
    }
}

pub(super) struct Queue {
    lines: HashMap<Arc<str>, Line>,
    /// The targets that have a job and a place, by what is due first.
    ready: BTreeSet<(Rank, Arc<str>)>,
    /// The targets that have something spilled.
    spilling: BTreeSet<Arc<str>>,
    /// Jobs in lines that are not held, and in those that are.
    waiting: [usize; 2],
    spilled: usize,
    in_flight: usize,
    in_flight_max: usize,
    per_target_max: usize,
    patience: Patience,
    bounds: Bounds,
    held: usize,
    holds: u64,
    looked: Option<Instant>,
    /// The last hold of a target that is not held any more.
    outages: HashMap<Arc<str>, (Timestamp, Timestamp)>,
}

impl Queue {
    pub fn new(in_flight_max: usize, per_target_max: usize, patience: Patience, bounds: Bounds) -> Self {
        Queue {
            lines: HashMap::new(),
            ready: BTreeSet::new(),
            spilling: BTreeSet::new(),
            waiting: [0, 0],
            spilled: 0,
            in_flight: 0,
            in_flight_max,
            per_target_max,
            patience,
            bounds,
            held: 0,
            holds: 0,
            looked: None,
            outages: HashMap::new(),
        }
    }

    /// How many jobs wait, those that are spilled among them.
    pub fn len(&self) -> usize {
        self.waiting[0] + self.waiting[1] + self.spilled
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many targets are held.
    pub fn held(&self) -> usize {
        self.held
    }

    /// How many jobs more may come. What is held or spilled takes no room, or it would stop the other targets.
    pub fn room(&self) -> usize {
        (2 * self.bounds.all).saturating_sub(self.waiting[0])
    }

    fn change<T>(&mut self, target: &Arc<str>, act: impl FnOnce(&mut Line) -> T) -> T {
        let many = self.lines.len();
        let line = self.lines.entry(target.clone()).or_default();
        let tell = |line: &Line| {
            (line.readiness(self.per_target_max), line.health.is_held(), line.waiting.len(), line.spilled.len())
        };
        let before = tell(line);
        let result = act(line);
        let after = tell(line);
        // A hold that no probe goes on with is over when nothing is left to try.
        let probed = after.1 && !line.health.lets_go();
        let known = probed || !after.1 && line.health.failures() > 0 && many <= IDLE_LINES_MAX;
        let idle = !line.has_jobs() && line.in_flight == 0 && !known;
        if before.0 != after.0 {
            before.0.map(|rank| self.ready.remove(&(rank, target.clone())));
            after.0.map(|rank| self.ready.insert((rank, target.clone())));
        }
        self.waiting[usize::from(before.1)] -= before.2;
        self.waiting[usize::from(after.1)] += after.2;
        self.held = self.held + usize::from(after.1) - usize::from(before.1);
        self.spilled = self.spilled + after.3 - before.3;
        match (before.3, after.3) {
            (0, 1..) => drop(self.spilling.insert(target.clone())),
            (1.., 0) => drop(self.spilling.remove(target)),
            _ => {}
        }
        if idle {
            self.held -= usize::from(after.1);
            self.lines.remove(target);
        }
        result
    }

    /// Takes a job. False: its line is full. Then it is spilled, if the state can offer it again (`again`), or else not
    /// taken at all.
    pub fn push(&mut self, job: Job, again: bool) -> bool {
        let (bounds, waiting, target) = (self.bounds, self.waiting, job.target.clone());
        self.change(&target, |line| {
            if let Some((n, until)) = line.returning {
                line.returning = (n > 1).then(|| (n - 1, until));
            }
            let place = (job.at, job.seq);
            // Behind what is spilled already: it would overtake it.
            let behind = line.spilled.first().is_some_and(|first| *first < place);
            let full = line.waiting.len() >= line.room(&bounds, waiting);
            if full || behind && again {
                if again {
                    line.spilled.insert(place);
                }
                return false;
            }
            line.waiting.push(Reverse(Waiting(job)));
            true
        })
    }

    /// The job that has been due longest, of those for which there is a place. The place is taken.
    pub fn pop(&mut self) -> Option<Job> {
        if self.in_flight >= self.in_flight_max {
            return None;
        }
        let (_, target) = self.ready.first().cloned()?;
        let job = self.change(&target, |line| {
            let Reverse(Waiting(job)) = line.waiting.pop()?;
            line.in_flight += 1;
            line.health.goes(&job);
            Some(job)
        });
        self.in_flight += usize::from(job.is_some());
        job
    }

    /// Gives a place back, and learns of the target. The probe that is to be made, if there is one.
    pub fn release(&mut self, job: &Job, reach: Reach, now: Timestamp) -> Option<Probe> {
        self.in_flight -= 1;
        self.holds += 1;
        let (id, patience) = (self.holds, self.patience);
        self.with_health(&job.target, now, |line| {
            line.in_flight -= 1;
            line.health.ended(job, reach, now, &patience, id)
        })
    }

    /// Changes what is known of a target, and remembers a hold that ends by it.
    fn with_health<T>(&mut self, target: &Arc<str>, now: Timestamp, act: impl FnOnce(&mut Line) -> T) -> T {
        let (result, outage) = self.change(target, |line| {
            let since = line.health.held_since();
            let result = act(line);
            (result, since.filter(|_| !line.health.is_held()))
        });
        if let Some(since) = outage {
            if self.outages.len() >= OUTAGES_MAX {
                let oldest = self.outages.iter().min_by_key(|(target, (_, to))| (*to, *target));
                let oldest = oldest.map(|(target, _)| target.clone());
                oldest.map(|target| self.outages.remove(&target));
            }
            self.outages.insert(target.clone(), (since, now));
        }
        result
    }

    /// A probe leaves; whether it is still wanted.
    pub fn probes(&mut self, target: &Arc<str>, id: u64) -> bool {
        self.lines.contains_key(target) && self.change(target, |line| line.health.probes(id))
    }

    /// What a probe has come to: the pause before the next one.
    pub fn probed(&mut self, target: &Arc<str>, id: u64, error: Option<String>, now: Timestamp) -> Option<Probe> {
        if !self.lines.contains_key(target) {
            return None;
        }
        let (patience, may_stay) = (self.patience, self.lines.len() <= IDLE_LINES_MAX);
        self.with_health(target, now, |line| {
            let waits = line.has_jobs();
            match error {
                None => {
                    line.health.probed(id, waits);
                    None
                }
                Some(error) => line.health.unreachable(id, error, now, &patience, waits, may_stay),
            }
        })
    }

    /// From when on the target could not be reached, and until when, if that was at some time from `due` on.
    pub fn outage(&self, target: &Arc<str>, due: Timestamp) -> Option<(Timestamp, Option<Timestamp>)> {
        match self.lines.get(target).and_then(|line| line.health.held_since()) {
            Some(since) => Some((since, None)),
            None => self.outages.get(target).filter(|(_, to)| *to >= due).map(|(since, to)| (*since, Some(*to))),
        }
    }

    /// All jobs that wait, but for those that are spilled.
    pub fn waiting(&self) -> impl Iterator<Item = &Job> {
        self.lines.values().flat_map(|line| line.waiting.iter().map(|Reverse(Waiting(job))| job))
    }

    /// The jobs that wait in a line.
    pub fn jobs(&self, target: &Arc<str>) -> Vec<Job> {
        let line = self.lines.get(target);
        line.map(|line| line.waiting.iter().map(|Reverse(Waiting(job))| job.clone()).collect()).unwrap_or_default()
    }

    /// Lets go of some of the jobs that wait in a line: those that did.
    pub fn remove(&mut self, target: &Arc<str>, jobs: &[Job]) -> Vec<Job> {
        let mut removed = Vec::new();
        if self.lines.contains_key(target) {
            let ranks: BTreeSet<Rank> = jobs.iter().map(rank).collect();
            self.change(target, |line| {
                line.waiting.retain(|Reverse(Waiting(job))| {
                    let stays = !ranks.contains(&rank(job));
                    if !stays {
                        removed.push(job.clone());
                    }
                    stays
                });
            });
        }
        removed
    }

    /// The tasks of what was spilled for which there is room by now, in all lines or in this one: they are forgotten
    /// here and are to be made due again.
    pub fn returns(&mut self, of: Option<&Arc<str>>, now: Instant) -> Vec<Seq> {
        if self.spilling.is_empty() {
            return Vec::new();
        }
        let targets: Vec<Arc<str>> = match of {
            Some(target) => self.spilling.get(target).into_iter().cloned().collect(),
            None if self.looked.is_some_and(|looked| now < looked + RETURNS_EVERY) => Vec::new(),
            None => {
                self.looked = Some(now);
                self.spilling.iter().cloned().collect()
            }
        };
        let (bounds, waiting) = (self.bounds, self.waiting);
        let mut seqs = Vec::new();
        for target in targets {
            self.change(&target, |line| {
                let room = line.room(&bounds, waiting);
                // Not for each place that becomes free: going to the state and back costs something.
                if line.waiting.len() > room / 2 || line.returning.is_some_and(|(_, until)| now < until) {
                    return;
                }
                let many = (room - line.waiting.len()).min(RETURNS_MAX);
                let before = seqs.len();
                seqs.extend(std::iter::from_fn(|| line.spilled.pop_first()).take(many).map(|(_, seq)| seq));
                line.returning = Some((seqs.len() - before, now + RETURNS_PATIENCE));
            });
        }
        seqs
    }

    /// All that wait; what is in flight stays, what is spilled and what is known of the targets is forgotten.
    pub fn drain(&mut self) -> Vec<Job> {
        self.ready.clear();
        self.spilling.clear();
        self.outages.clear();
        (self.waiting, self.spilled, self.held) = ([0, 0], 0, 0);
        let mut jobs = Vec::new();
        for line in self.lines.values_mut() {
            jobs.extend(line.waiting.drain().map(|Reverse(Waiting(job))| job));
            *line = Line { in_flight: line.in_flight, ..Line::default() };
        }
        self.lines.retain(|_, line| line.in_flight > 0);
        // A map has no order, and what happens must not depend on chance that nobody sees.
        jobs.sort_unstable_by_key(rank);
        jobs
    }

    /// What is known of the targets after this one, in the order of their names.
    pub fn show(&self, state: Option<TargetState>, after: Option<&str>, limit: usize) -> Vec<TargetView> {
        let mut first: BinaryHeap<&Arc<str>> = BinaryHeap::new();
        for (target, line) in &self.lines {
            let wanted = state.is_none_or(|state| state == state_of(line));
            if wanted && after.is_none_or(|after| **target > *after) {
                first.push(target);
                if first.len() > limit {
                    first.pop();
                }
            }
        }
        let view = |target: &Arc<str>| self.lines.get(target).map(|line| view(target, line));
        first.into_sorted_vec().into_iter().filter_map(view).collect()
    }
}

fn state_of(line: &Line) -> TargetState {
    match (line.health.is_held(), line.health.next_probe()) {
        (false, _) => TargetState::Ok,
        (true, Some(_)) => TargetState::Held,
        (true, None) => TargetState::Probing,
    }
}

fn view(target: &Arc<str>, line: &Line) -> TargetView {
    TargetView {
        target: target.to_string(),
        state: state_of(line),
        in_flight: line.in_flight,
        waiting: line.waiting.len() + line.spilled.len(),
        consecutive_failures: line.health.failures(),
        last_error: line.health.last_error().map(str::to_owned),
        held_since: line.health.held_since(),
        next_probe: line.health.next_probe(),
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
