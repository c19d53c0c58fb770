//! The jobs of one target that wait for its places: pure.
//!
//! The places go by turns to the oldest due second and to the newest one: a backlog is worked off, and what comes due now
//! does not wait behind all of it. Within a second, each task has one job before any has a second one.

use std::collections::{BTreeMap, HashMap};

use crate::clock::Timestamp;
use crate::command::Seq;
use crate::id::RunKey;
use crate::state::Job;

pub(super) type Rank = (Timestamp, Seq, RunKey, u32);

pub(super) fn rank(job: &Job) -> Rank {
    (job.at, job.seq, job.key, job.attempt)
}

/// The second in which it is due, how many of its task's jobs waited before it, and itself.
type Order = (u64, u32, Rank);

fn second(at: Timestamp) -> u64 {
    at.0 / 1000
}

struct Entry {
    job: Job,
    /// It has come in before others that had no room.
    overtook: bool,
}

#[derive(Default)]
pub(super) struct Waiting {
    jobs: BTreeMap<Order, Entry>,
    /// How many jobs of each task wait.
    of_task: HashMap<Seq, u32>,
    overtook: usize,
    /// Whether the newest second is next.
    newest: bool,
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// How many have come in before others that had no room.
    pub fn overtook(&self) -> usize {
        self.overtook
    }

    /// Whether nothing that waits is due in a later second, and something in an earlier one.
    pub fn is_newest(&self, at: Timestamp) -> bool {
        let (first, last) = (self.jobs.first_key_value(), self.jobs.last_key_value());
        let [first, last] = [first, last].map(|entry| entry.map(|((due, ..), _)| *due));
        first.is_none_or(|first| first < second(at)) && last.is_none_or(|last| last <= second(at))
    }

    pub fn push(&mut self, job: Job, overtook: bool) {
        let count = self.of_task.entry(job.seq).or_default();
        let order = (second(job.at), *count, rank(&job));
        *count += 1;
        self.overtook += usize::from(overtook);
        self.jobs.insert(order, Entry { job, overtook });
    }

    /// The job that is next.
    pub fn pop(&mut self) -> Option<Job> {
        let ((last, ..), _) = self.jobs.last_key_value()?;
        let first: Order = if self.newest {
            *self.jobs.range((*last, 0, (Timestamp(0), Seq::MIN, RunKey::scheduled(Timestamp(0)), 0))..).next()?.0
        } else {
            *self.jobs.first_key_value()?.0
        };
        self.newest = !self.newest;
        self.take(&first)
    }

    fn take(&mut self, order: &Order) -> Option<Job> {
        let Entry { job, overtook } = self.jobs.remove(order)?;
        self.overtook -= usize::from(overtook);
        if let Some(count) = self.of_task.get_mut(&job.seq) {
            *count -= 1;
            if *count == 0 {
                self.of_task.remove(&job.seq);
            }
        }
        Some(job)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().map(|entry| &entry.job)
    }

    /// Lets go of those for which this holds.
    pub fn remove(&mut self, gone: impl Fn(&Job) -> bool) -> Vec<Job> {
        let orders: Vec<Order> =
            self.jobs.iter().filter(|(_, entry)| gone(&entry.job)).map(|(order, _)| *order).collect();
        orders.iter().filter_map(|order| self.take(order)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(seq: Seq, at: u64, attempt: u32) -> Job {
        let (id, key) = ("a".parse().unwrap(), RunKey::scheduled(Timestamp(at)));
        Job { seq, id, target: "a:1".into(), key, attempt, at: Timestamp(at) }
    }

    fn order(waiting: &mut Waiting) -> Vec<Seq> {
        std::iter::from_fn(|| waiting.pop().map(|job| job.seq)).collect()
    }

    #[test]
    fn what_is_due_now_does_not_wait_behind_the_backlog_of_a_minute() {
        let mut waiting = Waiting::default();
        (0..60_000).for_each(|seq| waiting.push(job(seq, 1000 + seq % 1000, 1), false));
        assert_eq!(waiting.pop().map(|job| job.seq), Some(0));
        for second in 5..60 {
            let seq = 100_000 + second;
            waiting.push(job(seq, second * 1000, 1), false);
            let next = [waiting.pop().unwrap().seq, waiting.pop().unwrap().seq];
            assert!(next.contains(&seq), "at second {second}: {next:?}");
        }
    }

    #[test]
    fn a_task_with_many_jobs_does_not_hold_up_the_others_of_its_second() {
        let mut waiting = Waiting::default();
        (1..=1000).for_each(|attempt| waiting.push(job(1, 1000, attempt), false));
        (2..=5).for_each(|seq| waiting.push(job(seq, 1500, 1), false));
        let order = order(&mut waiting);
        assert_eq!(order[..5], [1, 2, 3, 4, 5]);
        assert_eq!((order.len(), waiting.len(), waiting.of_task.len()), (1004, 0, 0));
    }

    #[test]
    fn those_of_one_second_go_in_the_order_of_their_due_times() {
        let mut waiting = Waiting::default();
        [(3, 1030), (1, 1010), (2, 1020)].into_iter().for_each(|(seq, at)| waiting.push(job(seq, at, 1), false));
        assert_eq!(order(&mut waiting), [1, 2, 3]);
    }

    #[test]
    fn what_is_let_go_of_is_not_counted_any_more() {
        let mut waiting = Waiting::default();
        (1..=4).for_each(|seq| waiting.push(job(seq, seq * 1000, 1), seq > 2));
        assert_eq!(
            (waiting.overtook(), waiting.is_newest(Timestamp(3999)), waiting.is_newest(Timestamp(4000))),
            (2, false, true)
        );
        assert_eq!(waiting.remove(|job| job.seq % 2 == 0).len(), 2);
        assert_eq!((waiting.len(), waiting.overtook(), waiting.of_task.len()), (2, 1, 2));
        assert_eq!(order(&mut waiting), [1, 3]);
    }
}
