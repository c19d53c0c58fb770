//! When tasks wake: the timing wheel, and what has come due and is not done.

use std::collections::BTreeSet;

use super::pages::Pages;
use super::task::Task;
use crate::clock::Timestamp;
use crate::command::Seq;
use crate::wheel::{Progress, Timer, Wheel};

/// Where the time at which something of a task comes due is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// There is none.
    Silent,
    /// In the wheel.
    Wheel(Timer, Timestamp),
    /// Due, and nobody acts on it yet.
    Fresh(Timestamp),
}

impl Alarm {
    fn at(self) -> Option<Timestamp> {
        match self {
            Alarm::Silent => None,
            Alarm::Wheel(_, at) | Alarm::Fresh(at) => Some(at),
        }
    }
}

/// An alarm in 16 bytes, where the enum has 24: each task has one.
#[derive(Debug)]
pub(super) struct Packed {
    at: Timestamp,
    timer: Option<Timer>,
}

/// No time that comes.
const NEVER: Timestamp = Timestamp(u64::MAX);

impl Packed {
    pub const SILENT: Packed = Packed { at: NEVER, timer: None };

    pub fn get(&self) -> Alarm {
        match self.timer {
            Some(timer) => Alarm::Wheel(timer, self.at),
            None if self.at == NEVER => Alarm::Silent,
            None => Alarm::Fresh(self.at),
        }
    }

    fn set(&mut self, alarm: Alarm) {
        let timer = match alarm {
            Alarm::Wheel(timer, _) => Some(timer),
            Alarm::Silent | Alarm::Fresh(_) => None,
        };
        *self = Packed { at: alarm.at().unwrap_or(NEVER), timer };
    }
}

/// The alarms of all tasks. What a task has due is *taken* by the leader, all of it at once; from then on its alarm
/// stands for what comes due later, so that nothing waits for what was taken: an attempt that finds no place at its
/// target holds up none to another.
pub(super) struct Alarms {
    wheel: Wheel<Seq>,
    fresh: BTreeSet<(Timestamp, Seq)>,
    taken: BTreeSet<Seq>,
    scratch: Vec<(u64, Seq)>,
}

impl Alarms {
    pub fn new(now: Timestamp) -> Self {
        Alarms { wheel: Wheel::new(now.0), fresh: BTreeSet::new(), taken: BTreeSet::new(), scratch: Vec::new() }
    }

    /// Makes the alarm agree with the task. What was taken does not come due again because another of the task's runs
    /// has ended; it does, with the rest, where an attempt has come up since, which can have the very millisecond up to
    /// which all was taken.
    pub fn set(&mut self, seq: Seq, task: &mut Task) {
        let came_up = std::mem::take(&mut task.came_up);
        let first = task.wake();
        if let Some(upto) = task.past.taken {
            if came_up || first.is_none_or(|at| at > upto) {
                task.past.taken = None;
                self.taken.remove(&seq);
            }
        }
        let wake = match task.past.taken {
            None => first,
            Some(upto) => task.wake_after(Some(upto)),
        };
        if wake != task.alarm.get().at() {
            self.silence(seq, task);
            task.alarm.set(match wake {
                None => Alarm::Silent,
                Some(at) if at.0 <= self.wheel.elapsed_ms() => {
                    self.fresh.insert((at, seq));
                    Alarm::Fresh(at)
                }
                Some(at) => Alarm::Wheel(self.wheel.insert(at.0, seq), at),
            });
        }
    }

    fn silence(&mut self, seq: Seq, task: &mut Task) {
        match std::mem::replace(&mut task.alarm, Packed::SILENT).get() {
            Alarm::Silent => {}
            Alarm::Wheel(timer, _) => {
                self.wheel.cancel(timer);
            }
            Alarm::Fresh(at) => {
                self.fresh.remove(&(at, seq));
            }
        }
    }

    /// The task goes.
    pub fn clear(&mut self, seq: Seq, task: &mut Task) {
        self.silence(seq, task);
        if task.past.taken.is_some() {
            task.past.taken = None;
            self.taken.remove(&seq);
        }
    }

    pub fn advance(&mut self, now: Timestamp, limit: usize, pages: &mut Pages) -> Progress {
        let mut due = std::mem::take(&mut self.scratch);
        let progress = self.wheel.advance(now.0, limit, &mut due);
        for (at, seq) in due.drain(..) {
            if let Some(task) = pages.get_mut(seq) {
                task.alarm.set(Alarm::Fresh(Timestamp(at)));
                self.fresh.insert((Timestamp(at), seq));
            }
        }
        self.scratch = due;
        progress
    }

    /// The earliest due task, if it is due by `now`. All that it has due by then is taken.
    pub fn take(&mut self, now: Timestamp, pages: &mut Pages) -> Option<Seq> {
        let &(_, seq) = self.fresh.first().filter(|(at, _)| *at <= now)?;
        match pages.get_mut(seq) {
            Some(task) => {
                task.past.taken = Some(now);
                self.taken.insert(seq);
                self.set(seq, task);
            }
            None => {
                self.fresh.pop_first();
            }
        }
        Some(seq)
    }

    /// What was taken is due again: this node no longer leads, or has just begun to.
    pub fn release(&mut self, pages: &mut Pages) {
        for seq in std::mem::take(&mut self.taken) {
            self.release_one(seq, pages);
        }
    }

    /// One task that was taken is due again.
    pub fn release_one(&mut self, seq: Seq, pages: &mut Pages) {
        let Some(task) = pages.get_mut(seq) else { return };
        task.came_up = true;
        self.set(seq, task);
    }

    /// Begins again at `now`: the wall clock was set back, and the wheel cannot turn back. What was taken stays so.
    pub fn rebuild(&mut self, now: Timestamp, pages: &mut Pages) {
        let taken = std::mem::take(&mut self.taken);
        *self = Alarms { taken, ..Alarms::new(now) };
        for (seq, task) in pages.iter_mut() {
            task.alarm = Packed::SILENT;
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
