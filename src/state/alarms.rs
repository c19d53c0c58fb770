//! When tasks wake: the timing wheel, and what has come due and is not done.

use std::collections::BTreeSet;

use super::pages::Pages;
use super::task::Task;
use crate::clock::Timestamp;
use crate::command::Seq;
use crate::wheel::{Progress, Timer, Wheel};

/// Where a task's wake time is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// It has none.
    Silent,
    /// In the wheel.
    Wheel(Timer, Timestamp),
    /// Due, and nobody acts on it yet.
    Fresh(Timestamp),
    /// Due, and this node, as the leader, acts on it.
    Taken(Timestamp),
}

impl Alarm {
    fn at(self) -> Option<Timestamp> {
        match self {
            Alarm::Silent => None,
            Alarm::Wheel(_, at) | Alarm::Fresh(at) | Alarm::Taken(at) => Some(at),
        }
    }
}

pub(super) struct Alarms {
    wheel: Wheel<Seq>,
    fresh: BTreeSet<(Timestamp, Seq)>,
    taken: BTreeSet<(Timestamp, Seq)>,
    scratch: Vec<(u64, Seq)>,
}

impl Alarms {
    pub fn new(now: Timestamp) -> Self {
        Alarms { wheel: Wheel::new(now.0), fresh: BTreeSet::new(), taken: BTreeSet::new(), scratch: Vec::new() }
    }

    /// Makes the alarm agree with the task's wake time. One that agrees already stays where it is: a task that the
    /// leader has taken must not come due a second time because another of its runs has ended.
    pub fn set(&mut self, seq: Seq, task: &mut Task) {
        let wake = task.wake();
        if wake != task.alarm.at() {
            self.clear(seq, task);
            task.alarm = match wake {
                None => Alarm::Silent,
                Some(at) if at.0 <= self.wheel.elapsed_ms() => {
                    self.fresh.insert((at, seq));
                    Alarm::Fresh(at)
                }
                Some(at) => Alarm::Wheel(self.wheel.insert(at.0, seq), at),
            };
        }
    }

    pub fn clear(&mut self, seq: Seq, task: &mut Task) {
        match std::mem::replace(&mut task.alarm, Alarm::Silent) {
            Alarm::Silent => {}
            Alarm::Wheel(timer, _) => {
                self.wheel.cancel(timer);
            }
            Alarm::Fresh(at) => {
                self.fresh.remove(&(at, seq));
            }
            Alarm::Taken(at) => {
                self.taken.remove(&(at, seq));
            }
        }
    }

    pub fn advance(&mut self, now: Timestamp, limit: usize, pages: &mut Pages) -> Progress {
        let mut due = std::mem::take(&mut self.scratch);
        let progress = self.wheel.advance(now.0, limit, &mut due);
        for (at, seq) in due.drain(..) {
            if let Some(task) = pages.get_mut(seq) {
                task.alarm = Alarm::Fresh(Timestamp(at));
                self.fresh.insert((Timestamp(at), seq));
            }
        }
        self.scratch = due;
        progress
    }

    /// The earliest due task, if it is due by `now`.
    pub fn take(&mut self, now: Timestamp, pages: &mut Pages) -> Option<Seq> {
        let &(at, seq) = self.fresh.first().filter(|(at, _)| *at <= now)?;
        self.fresh.pop_first();
        if let Some(task) = pages.get_mut(seq) {
            task.alarm = Alarm::Taken(at);
            self.taken.insert((at, seq));
        }
        Some(seq)
    }

    /// What was taken is due again: this node no longer leads, or has just begun to.
    pub fn release(&mut self, pages: &mut Pages) {
        for (at, seq) in std::mem::take(&mut self.taken) {
            if let Some(task) = pages.get_mut(seq) {
                task.alarm = Alarm::Fresh(at);
                self.fresh.insert((at, seq));
            }
        }
    }

    /// One task that was taken is due again.
    pub fn release_one(&mut self, seq: Seq, pages: &mut Pages) {
        let Some(task) = pages.get_mut(seq) else { return };
        if let Alarm::Taken(at) = task.alarm {
            self.taken.remove(&(at, seq));
            self.fresh.insert((at, seq));
            task.alarm = Alarm::Fresh(at);
        }
    }

    /// Begins again at `now`: the wall clock was set back, and the wheel cannot turn back.
    pub fn rebuild(&mut self, now: Timestamp, pages: &mut Pages) {
        let taken = std::mem::take(&mut self.taken);
        *self = Alarms::new(now);
        for (seq, task) in pages.iter_mut() {
            if let Alarm::Taken(at) = task.alarm {
                if taken.contains(&(at, seq)) {
                    self.taken.insert((at, seq));
                    continue;
                }
            }
            task.alarm = Alarm::Silent;
            self.set(seq, task);
        }
    }

    pub fn elapsed(&self) -> Timestamp {
        Timestamp(self.wheel.elapsed_ms())
    }

    /// When the wheel turns next; a lower bound.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wheel.next_wake().map(Timestamp)
    }

    pub fn first_due(&self) -> Option<Timestamp> {
        self.fresh.first().map(|&(at, _)| at)
    }

    pub fn fresh_len(&self) -> usize {
        self.fresh.len()
    }

    pub fn waiting_len(&self) -> usize {
        self.wheel.len()
    }
}
