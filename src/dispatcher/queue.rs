//! Jobs that wait for a place: one line for each target, so that a slow one holds up its own jobs only.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::command::Seq;
use crate::id::RunKey;
use crate::state::Job;

type Rank = (Timestamp, Seq, RunKey);

fn rank(job: &Job) -> Rank {
    (job.at, job.seq, job.key)
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

#[derive(Default)]
struct Line {
    waiting: BinaryHeap<Reverse<Waiting>>,
    in_flight: usize,
}

pub(super) struct Queue {
    lines: HashMap<Arc<str>, Line>,
    /// The targets that have a job and a place, by what is due first.
    ready: BTreeSet<(Rank, Arc<str>)>,
    len: usize,
    in_flight: usize,
    in_flight_max: usize,
    per_target_max: usize,
}

impl Queue {
    pub fn new(in_flight_max: usize, per_target_max: usize) -> Self {
        Queue { lines: HashMap::new(), ready: BTreeSet::new(), len: 0, in_flight: 0, in_flight_max, per_target_max }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The line's entry in `ready`, if it has a job and a place.
    fn readiness(&self, target: &Arc<str>) -> Option<(Rank, Arc<str>)> {
        let line = self.lines.get(target)?;
        let Reverse(Waiting(first)) = line.waiting.peek()?;
        (line.in_flight < self.per_target_max).then(|| (rank(first), target.clone()))
    }

    fn change(&mut self, target: &Arc<str>, act: impl FnOnce(&mut Line)) {
        let before = self.readiness(target);
        act(self.lines.entry(target.clone()).or_default());
        let after = self.readiness(target);
        if before != after {
            before.map(|entry| self.ready.remove(&entry));
            after.map(|entry| self.ready.insert(entry));
        }
        if self.lines.get(target).is_some_and(|line| line.waiting.is_empty() && line.in_flight == 0) {
            self.lines.remove(target);
        }
    }

    pub fn push(&mut self, job: Job) {
        self.len += 1;
        let target = job.target.clone();
        self.change(&target, |line| line.waiting.push(Reverse(Waiting(job))));
    }

    /// The job that has been due longest, of those for which there is a place. The place is taken.
    pub fn pop(&mut self) -> Option<Job> {
        if self.in_flight >= self.in_flight_max {
            return None;
        }
        let (_, target) = self.ready.first().cloned()?;
        let mut job = None;
        self.change(&target, |line| {
            job = line.waiting.pop().map(|Reverse(Waiting(job))| job);
            line.in_flight += 1;
        });
        self.len -= 1;
        self.in_flight += 1;
        job
    }

    /// Gives a place back.
    pub fn release(&mut self, target: &Arc<str>) {
        self.in_flight -= 1;
        self.change(target, |line| line.in_flight -= 1);
    }

    /// All that wait; what is in flight stays.
    pub fn drain(&mut self) -> Vec<Job> {
        self.ready.clear();
        self.len = 0;
        let jobs = self.lines.values_mut().flat_map(|l| l.waiting.drain().map(|Reverse(Waiting(job))| job)).collect();
        self.lines.retain(|_, line| line.in_flight > 0);
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(seq: Seq, target: &str, at: u64) -> Job {
        let (id, key) = (crate::id::TaskId::generate(), RunKey::scheduled(Timestamp(at)));
        Job { seq, id, target: target.into(), key, attempt: 1, at: Timestamp(at) }
    }

    fn pop(queue: &mut Queue) -> Option<Seq> {
        queue.pop().map(|job| job.seq)
    }

    #[test]
    fn what_has_been_due_longest_goes_first_whatever_its_target() {
        let mut queue = Queue::new(10, 10);
        for (seq, target, at) in [(1, "a", 30), (2, "b", 10), (3, "a", 20), (4, "b", 40)] {
            queue.push(job(seq, target, at));
        }
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue)).collect();
        assert_eq!(order, [2, 3, 1, 4]);
    }

    #[test]
    fn a_target_without_a_place_holds_up_only_its_own() {
        let mut queue = Queue::new(3, 1);
        for (seq, target, at) in [(1, "slow", 1), (2, "slow", 2), (3, "quick", 3), (4, "quick", 4), (5, "other", 5)] {
            queue.push(job(seq, target, at));
        }
        assert_eq!((pop(&mut queue), pop(&mut queue)), (Some(1), Some(3)));
        queue.release(&"quick".into());
        assert_eq!((pop(&mut queue), pop(&mut queue)), (Some(4), Some(5)));
        assert_eq!(queue.in_flight(), 3);
        queue.release(&"quick".into());
        assert_eq!(pop(&mut queue), None, "the slow one has no place");
        queue.release(&"slow".into());
        assert_eq!((pop(&mut queue), queue.len()), (Some(2), 0));
    }

    #[test]
    fn what_waits_can_be_let_go_of_while_something_is_in_flight() {
        let mut queue = Queue::new(1, 1);
        queue.push(job(1, "a", 1));
        queue.push(job(2, "a", 2));
        assert_eq!(pop(&mut queue), Some(1));
        assert_eq!(queue.drain().len(), 1);
        queue.release(&"a".into());
        assert_eq!((queue.len(), queue.in_flight(), queue.lines.len()), (0, 0, 0));
    }
}
