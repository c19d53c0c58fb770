//! Due times that have come under an earlier course of their task, and have no run yet.
//!
//! A change of a task takes away no due time that has come, in whatever state the task is: paused, with a target that is
//! held, or within its jitter. Such due times are not turned into runs by the change, since there can be millions of
//! them, but stay due times: the task has its earlier courses beside the present one, and comes to the end of each in
//! turn. So a change costs what its command has, and what becomes of them is decided as for any other due time.

use std::sync::Arc;

use super::missed::last_due_time;
use super::task::{Rhythm, Task};
use super::State;
use crate::clock::Timestamp;
use crate::command::Seq;
use crate::id::RunKey;
use crate::run::{Run, RunState};
use crate::task::{Options, TaskSpec};

/// Earlier courses of one task. Beyond, the due times of the oldest are recorded as missed.
const EARLIER_MAX: usize = 16;
/// What the definitions of earlier courses of one task may have together.
const EARLIER_BYTES_MAX: usize = 1 << 20;

/// The rest of an earlier course.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// The definition that it is of; none: the present one, whose course an answer of the target has changed.
    pub spec: Option<Arc<TaskSpec>>,
    /// How its due times follow each other.
    pub rhythm: Rhythm,
    /// It has none later than this.
    pub upto: Timestamp,
    /// How many of them may have an attempt.
    pub left: Left,
    /// The due time that follows on the last of them.
    pub then: Option<Timestamp>,
}

/// How many due times may have an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Left {
    /// As the present definition says: they count as its own do.
    Shared,
    /// So many; none: any number.
    Own(Option<u64>),
}

impl PartialEq for Earlier {
    /// The rhythm follows from the rest and is not compared.
    fn eq(&self, other: &Earlier) -> bool {
        let of = |e: &Earlier| (e.upto, e.left, e.then);
        of(self) == of(other) && self.spec == other.spec
    }
}

impl Earlier {
    fn due_after(&self, present: Option<&Options>, created: Timestamp, after: Timestamp) -> Option<Timestamp> {
        let options = self.spec.as_deref().map(|spec| &spec.options).or(present);
        self.rhythm.due_after(options, created, after).filter(|due| *due <= self.upto)
    }
}

/// The first due time later than `after`, over all of these courses and then the present one.
pub(super) fn due_after(
    earlier: &[Earlier],
    (rhythm, options): (&Rhythm, Option<&Options>),
    created: Timestamp,
    after: Timestamp,
) -> Option<Timestamp> {
    for course in earlier {
        if let Some(due) = course.due_after(options, created, after) {
            return Some(due);
        }
        if course.then.is_none_or(|then| then > after) {
            return course.then;
        }
    }
    rhythm.due_after(options, created, after)
}

impl Task {
    /// The earlier course that the next due time is of, if it is not of the present one.
    pub(super) fn behind(&self) -> Option<&Earlier> {
        let next = self.next?;
        self.past.earlier.iter().find(|course| next <= course.upto)
    }

    /// The definition under which the run of the next due time is made, where it is not the present one.
    pub(super) fn spec_of_next(&self) -> Option<&Arc<TaskSpec>> {
        self.behind()?.spec.as_ref()
    }

    /// What that definition says beside schedule and callback.
    pub fn options_of_next(&self) -> Option<&Options> {
        self.spec_of_next().map(|spec| &spec.options).or(self.options.as_deref())
    }

    /// Up to when the task's due times have come, if one of them has that has no run.
    pub(super) fn come_upto(&self, now: Timestamp) -> Option<Timestamp> {
        // A clock that was set back takes none of them away again.
        let upto = self.past.earlier.last().map_or(now, |course| now.max(course.upto));
        self.next.filter(|next| *next <= upto).map(|_| upto)
    }

    /// The next due time from now on is `then`, after those that have come. Whether these make one more earlier course.
    pub(super) fn go_on_at(
        &mut self,
        now: Timestamp,
        then: Option<Timestamp>,
        spec: Option<Arc<TaskSpec>>,
        left: Left,
    ) -> bool {
        let Some(upto) = self.come_upto(now) else {
            self.next = then;
            return false;
        };
        if let Some(last) = self.past.earlier.last_mut().filter(|last| last.then.is_none_or(|then| then > upto)) {
            // None of the present course has come.
            last.then = then;
            return false;
        }
        let rhythm = self.rhythm.clone();
        self.past.earlier.push(Earlier { spec, rhythm, upto, left, then });
        true
    }

    /// There is a run, or a record, of the due time `due`, which counts for `max_runs` or not: the next one comes up, if
    /// there is one.
    pub(super) fn pass(&mut self, due: Timestamp, counts: bool) {
        let behind = self.past.earlier.iter().position(|course| due <= course.upto);
        self.past.latest = self.past.latest.max(Some(due));
        self.came_up = true;
        let own = behind.map(|at| &mut self.past.earlier[at]).filter(|course| course.left != Left::Shared);
        self.next = match own {
            Some(course) => {
                if let Left::Own(Some(left)) = &mut course.left {
                    *left = left.saturating_sub(u64::from(counts));
                }
                let over = course.left == Left::Own(Some(0));
                let then = course.then;
                if over {
                    then
                } else {
                    self.due_after(due)
                }
            }
            None => {
                self.past.fired += u64::from(counts);
                let max = self.options.as_ref().and_then(|o| o.max_runs);
                if max.is_some_and(|max| self.past.fired >= max) {
                    None
                } else {
                    self.due_after(due)
                }
            }
        };
    }

    /// A run of the schedule ends before its first attempt: it does not count for `max_runs`, and another may follow.
    pub(super) fn uncount(&mut self) {
        let Some(max) = self.options.as_ref().and_then(|o| o.max_runs) else { return };
        let was_over = self.past.fired >= max;
        self.past.fired = self.past.fired.saturating_sub(1);
        if was_over && self.next.is_none() {
            self.next = self.past.latest.and_then(|latest| self.due_after(latest));
            self.came_up = true;
        }
    }

    /// A run of the schedule that was taken for one without an attempt had one: it counts for `max_runs`.
    pub(super) fn count(&mut self) {
        let Some(max) = self.options.as_ref().and_then(|o| o.max_runs) else { return };
        self.past.fired += 1;
        if self.past.fired >= max {
            self.next = None;
        }
    }
}

impl State {
    /// Forgets the earlier courses of which no due time is left.
    pub(super) fn drop_earlier(&mut self, seq: Seq) {
        let Some(task) = self.pages.get_mut(seq).filter(|task| !task.past.earlier.is_empty()) else { return };
        let next = task.next;
        let over = task.past.earlier.iter().take_while(|course| next.is_none_or(|next| next > course.upto)).count();
        let gone: Vec<Earlier> = task.past.earlier.drain(..over).collect();
        gone.iter().for_each(|course| self.drop_timetable(&course.rhythm));
    }

    /// Has room for one more earlier course of a task: where there are too many, what is due under the oldest is missed.
    pub(super) fn make_room(&mut self, now: Timestamp, seq: Seq) {
        loop {
            self.drop_earlier(seq);
            let Some(task) = self.pages.get_mut(seq) else { return };
            let Some((course, from)) = task.past.earlier.first().zip(task.next) else { return };
            let texts = |course: &Earlier| course.spec.as_ref().map_or(0, |spec| spec.text_bytes());
            let bytes: usize = task.past.earlier.iter().map(texts).sum();
            if task.past.earlier.len() < EARLIER_MAX && bytes <= EARLIER_BYTES_MAX {
                return;
            }
            let last = last_due_time(from, course.upto, |after| task.due_after(after));
            let (spec, then) = (course.spec.clone(), course.then);
            task.next = then;
            task.past.latest = task.past.latest.max(Some(last));
            let reason = "the task was changed again and again before it could fire";
            let run = Run::unfired(RunKey::scheduled(from), RunState::Missed, reason, now);
            self.record(seq, Run { upto: Some(last).filter(|last| *last > from), ..run });
            self.follow(now, seq, RunKey::scheduled(from), RunState::Missed, spec);
        }
    }
}
