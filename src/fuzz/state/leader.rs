//! What leaders do, those that still lead and those that do not know yet that they don't.

use super::Model;
use crate::choices::Choices;
use crate::clock::Timestamp;
use crate::command::{Command, Steering, Verdict};
use crate::run::Attempt;
use crate::state::Job;
use crate::task::Delivery;
use crate::wheel::Progress;

impl Model {
    pub(super) fn take(&mut self, choices: &mut Choices<'_>) {
        while self.state.advance(self.now, 100) == Progress::Limited {}
        for _ in 0..=choices.below(4) {
            let Some((seq, jobs)) = self.state.take_due(self.now) else { break };
            for job in &jobs {
                assert!(job.at <= self.now && self.state.wants(seq, job.key, job.attempt), "{job:?} at {}", self.now);
            }
            self.jobs.extend(jobs);
        }
    }

    fn job(&mut self, choices: &mut Choices<'_>) -> Option<Job> {
        let at = choices.number().checked_rem(self.jobs.len() as u64)? as usize;
        Some(if choices.one_in(3) { self.jobs[at].clone() } else { self.jobs.swap_remove(at) })
    }

    /// The term of whoever sends this: at times one that is over.
    fn sender(&self, choices: &mut Choices<'_>) -> (u64, u64) {
        let term = if choices.one_in(5) { self.term.saturating_sub(1) } else { self.term };
        (term % 3, term)
    }

    fn is_at_most_once(&self, job: &Job) -> bool {
        let Some(task) = self.state.task(job.seq) else { return false };
        match task.past.open.get(job.key) {
            Some(run) => task.is_at_most_once(run),
            None => task.options.as_ref().is_some_and(|o| o.delivery == Delivery::AtMostOnce),
        }
    }

    /// As the dispatcher does it: what is sent at most once is recorded first, and sent if that stands.
    pub(super) fn start(&mut self, choices: &mut Choices<'_>) {
        let Some(job) = self.job(choices) else { return };
        if !self.state.wants(job.seq, job.key, job.attempt) {
            return;
        }
        let (node, term) = self.sender(choices);
        let (seq, key, attempt) = (job.seq, job.key, job.attempt);
        let once = self.is_at_most_once(&job);
        if once || choices.flag() {
            self.apply(Command::RunStarted { seq, key, attempt, node, term, started: self.now, lateness_ms: 0 });
        }
        let stands = self.state.has_started(seq, key, attempt, node, term);
        if once && !(stands && choices.below(4) > 0) {
            // Nothing has left.
            let (attempt, verdict) = (self.attempt(&job, node), Verdict::Retry { at: self.now });
            self.apply(Command::RunEnded { seq, key, attempt, term, verdict, steering: Steering::default() });
            return;
        }
        if once {
            let sent = &mut self.known.entry(seq).or_default().sent;
            assert!(sent.insert(key), "{key:?} is sent a second time");
        }
        self.sent.push((job, node, term));
    }

    fn attempt(&self, job: &Job, node: u64) -> Attempt {
        let begun = Attempt::begun(job.attempt, node, self.now, 0);
        Attempt { duration_ms: Some(1), status: Some(200), ..begun }
    }

    pub(super) fn end(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.number().checked_rem(self.sent.len() as u64) else { return };
        let (job, node, term) = self.sent.swap_remove(at as usize);
        let once = self.known.get(&job.seq).is_some_and(|known| known.sent.contains(&job.key));
        let reason = "it failed".to_owned();
        let verdict = match choices.below(4) {
            0 => Verdict::Succeeded,
            1 => Verdict::Failed { reason },
            _ if once => Verdict::Unknown { reason },
            _ => Verdict::Retry { at: self.now.plus_ms(choices.below(5000)) },
        };
        let (attempt, steering) = (self.attempt(&job, node), steering(choices, self.now));
        self.apply(Command::RunEnded { seq: job.seq, key: job.key, attempt, term, verdict, steering });
    }

    pub(super) fn record_exception(&mut self, choices: &mut Choices<'_>) {
        let Some(job) = self.job(choices) else { return };
        let from = match choices.one_in(8) {
            true => self.now,
            false => job.key.due,
        };
        let seq = job.seq;
        match choices.flag() {
            true => {
                let upto = Timestamp(self.now.0.saturating_sub(choices.below(60_000)));
                let latest_fires = choices.flag();
                self.apply(Command::Misfire { seq, from, upto, reason: "late".to_owned(), latest_fires });
            }
            false => drop(self.apply(Command::Overlap { seq, due: from, queue: choices.flag() })),
        }
        self.state.release(seq);
    }

    /// Another node leads: what was taken is due again, and what is recorded as going is picked up.
    pub(super) fn change_leader(&mut self, choices: &mut Choices<'_>) {
        self.term += 1;
        if choices.flag() {
            self.jobs.clear();
        }
        self.state.release_taken();
        for job in self.state.running(self.now) {
            match self.state.lost(job.seq, job.key) {
                Some(command) if choices.flag() => drop(self.apply(command)),
                Some(_) => {}
                None => self.jobs.push(job),
            }
        }
    }
}

fn steering(choices: &mut Choices<'_>, now: Timestamp) -> Steering {
    if choices.below(3) > 0 {
        return Steering::default();
    }
    let next_at = match choices.below(4) {
        0 => None,
        1 => Some(Timestamp(choices.magnitude() % 10_000_000_000_000)),
        _ => Some(Timestamp(now.0.saturating_add(choices.below(200_000)).saturating_sub(50_000))),
    };
    Steering { next_at, pause: choices.one_in(4), end: choices.one_in(8), delete: choices.one_in(8) }
}
