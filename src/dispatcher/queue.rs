//! Jobs that wait for a place: one line for each target, so that a slow one holds up its own jobs only. Which target has
//! the next place is the business of `share`, which of its jobs that of `line`.
//!
//! What a line keeps is bounded. What is over is *spilled*: only its task's number and its time are kept, and the task
//! is given back to the state, which offers the job again, when the line has room: the earliest first.

use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::health::{Health, Patience, Probe, Reach};
use super::line::{rank, Rank, Waiting};
use super::share::{may_have, Class, Pace, Proven, Share, CLASSES};
use crate::clock::Timestamp;
use crate::command::Seq;
use crate::state::Job;
use crate::view::{TargetState, TargetView};

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
    waiting: Waiting,
    spilled: BTreeSet<(Timestamp, Seq)>,
    /// Given back and not here again, and until when they are waited for.
    returning: Option<(usize, Instant)>,
    in_flight: usize,
    health: Health,
    share: Share,
    /// Its turn among those that have as many in flight: when it became ready, or had a place last.
    turn: u64,
}

/// A target that has a job and may have a place: first the one with the fewest in flight, of those with as many the one
/// that has waited longest.
type Ready = (usize, u64, Arc<str>);

/// What the queue counts of a line.
struct Told {
    class: Class,
    /// Whether it may have a place.
    ready: bool,
    in_flight: usize,
    turn: u64,
    held: bool,
    waiting: usize,
    spilled: usize,
}

impl Line {
    fn tell(&self, most: usize) -> Told {
        let may = self.in_flight < self.share.places(most) && self.health.lets_go();
        Told {
            class: self.share.class(),
            ready: may && !self.waiting.is_empty(),
            in_flight: self.in_flight,
            turn: self.turn,
            held: self.health.is_held(),
            waiting: self.waiting.len(),
            spilled: self.spilled.len(),
        }
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
    /// The targets of each class that have a job and may have a place.
    ready: [BTreeSet<Ready>; CLASSES],
    turns: u64,
    proven: Proven,
    /// The targets that have something spilled.
    spilling: BTreeSet<Arc<str>>,
    /// Jobs in lines that are not held, and in those that are.
    waiting: [usize; 2],
    spilled: usize,
    /// The places that are taken by targets of each class.
    taken: [usize; CLASSES],
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
            ready: Default::default(),
            turns: 0,
            proven: Proven::default(),
            spilling: BTreeSet::new(),
            waiting: [0, 0],
            spilled: 0,
            taken: [0; CLASSES],
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
        self.taken.iter().sum()
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
        let (many, most) = (self.lines.len(), self.per_target_max);
        let proven = &self.proven;
        let line = self
            .lines
            .entry(target.clone())
            .or_insert_with(|| Line { share: Share::of(proven.has(target)), ..Line::default() });
        let before = line.tell(most);
        let result = act(line);
        let mut after = line.tell(most);
        if after.ready && !before.ready {
            self.turns += 1;
            line.turn = self.turns;
            after.turn = self.turns;
        }
        // A hold that no probe goes on with is over when nothing is left to try.
        let probed = after.held && !line.health.lets_go();
        let remembered = line.health.failures() > 0 || line.share.is_remembered();
        let known = probed || !after.held && remembered && many <= IDLE_LINES_MAX;
        let idle = !line.has_jobs() && line.in_flight == 0 && !known;
        self.count(target, &before, &after);
        if idle {
            self.held -= usize::from(after.held);
            self.lines.remove(target);
        }
        result
    }

    fn count(&mut self, target: &Arc<str>, before: &Told, after: &Told) {
        let key = |told: &Told| (told.ready, told.class, told.in_flight, told.turn);
        if key(before) != key(after) {
            if before.ready {
                self.ready[before.class as usize].remove(&(before.in_flight, before.turn, target.clone()));
            }
            if after.ready {
                self.ready[after.class as usize].insert((after.in_flight, after.turn, target.clone()));
            }
        }
        if (before.class == Class::Quick) != (after.class == Class::Quick) {
            self.proven.set(target, after.class == Class::Quick);
        }
        self.taken[before.class as usize] -= before.in_flight;
        self.taken[after.class as usize] += after.in_flight;
        self.waiting[usize::from(before.held)] -= before.waiting;
        self.waiting[usize::from(after.held)] += after.waiting;
        self.held = self.held + usize::from(after.held) - usize::from(before.held);
        self.spilled = self.spilled + after.spilled - before.spilled;
        match (before.spilled, after.spilled) {
            (0, 1..) => drop(self.spilling.insert(target.clone())),
            (1.., 0) => drop(self.spilling.remove(target)),
            _ => {}
        }
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
            let room = line.room(&bounds, waiting);
            let full = line.waiting.len() >= room;
            // A few that are due now come in all the same: they do not wait until the backlog is worked off.
            let now = line.waiting.is_newest(job.at) && line.waiting.overtook() < bounds.line_min;
            let overtakes = (full || behind) && now && !line.health.is_held();
            if (full || behind && again) && !overtakes {
                if again {
                    line.spilled.insert(place);
                }
                return false;
            }
            line.waiting.push(job, overtakes);
            true
        })
    }

    /// The next job, of those for which there is a place. The place is taken.
    pub fn pop(&mut self) -> Option<Job> {
        let first = |class: Class| {
            let (in_flight, ..) = self.ready[class as usize].first()?;
            let may = may_have(class, *in_flight, &self.taken, self.in_flight_max);
            self.ready[class as usize].first().filter(|_| may)
        };
        let (.., target) = [Class::Quick, Class::New, Class::Troubled].into_iter().filter_map(first).min()?.clone();
        self.turns += 1;
        let turn = self.turns;
        self.change(&target, |line| {
            let job = line.waiting.pop()?;
            line.in_flight += 1;
            line.turn = turn;
            line.health.goes(&job);
            Some(job)
        })
    }

    /// Gives a place back, and learns of the target. The probe that is to be made, if there is one.
    pub fn release(&mut self, job: &Job, reach: Reach, pace: Pace, now: Timestamp) -> Option<Probe> {
        self.holds += 1;
        let (id, patience, most) = (self.holds, self.patience, self.per_target_max);
        self.with_health(&job.target, now, |line| {
            line.in_flight -= 1;
            line.share.ended(pace, most);
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

    /// Whether the target has callbacks under way or waiting, or those of others take all places.
    pub fn is_busy(&self, target: &Arc<str>) -> bool {
        let of_target = self.lines.get(target).is_some_and(|line| line.in_flight > 0 || line.has_jobs());
        of_target || self.in_flight() >= self.in_flight_max
    }

    /// All jobs that wait, but for those that are spilled.
    pub fn waiting(&self) -> impl Iterator<Item = &Job> {
        self.lines.values().flat_map(|line| line.waiting.iter())
    }

    /// The jobs that wait in a line.
    pub fn jobs(&self, target: &Arc<str>) -> Vec<Job> {
        let line = self.lines.get(target);
        line.map(|line| line.waiting.iter().cloned().collect()).unwrap_or_default()
    }

    /// Lets go of some of the jobs that wait in a line: those that did.
    pub fn remove(&mut self, target: &Arc<str>, jobs: &[Job]) -> Vec<Job> {
        if !self.lines.contains_key(target) {
            return Vec::new();
        }
        let ranks: BTreeSet<Rank> = jobs.iter().map(rank).collect();
        self.change(target, |line| line.waiting.remove(|job| ranks.contains(&rank(job))))
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
        self.ready.iter_mut().for_each(BTreeSet::clear);
        self.spilling.clear();
        self.outages.clear();
        self.proven.clear();
        (self.waiting, self.spilled, self.held) = ([0, 0], 0, 0);
        let mut jobs = Vec::new();
        for line in self.lines.values_mut() {
            jobs.extend(line.waiting.iter().cloned());
            *line = Line { in_flight: line.in_flight, ..Line::default() };
        }
        self.lines.retain(|_, line| line.in_flight > 0);
        self.taken = [0; CLASSES];
        self.taken[Class::New as usize] = self.lines.values().map(|line| line.in_flight).sum();
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
