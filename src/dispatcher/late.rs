//! Why an attempt is late, or a due time was missed: what this node knows of times in which nothing could fire.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Dispatcher;
use crate::clock::Timestamp;
use crate::state::Job;

/// Less than this needs no cause.
const LATE_MS: u64 = 100;
/// What was due so long before the leader went may have been in its hands.
const IN_HAND_MS: u64 = 5000;
/// Gaps that are remembered.
const GAPS_MAX: usize = 16;

/// A time in which nothing fired, since no node led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// When a leader was last heard.
    pub from: Timestamp,
    /// When this node began to fire.
    pub to: Timestamp,
    /// Whether `from` is when it was heard, and not merely a time at which one was there.
    pub exact: bool,
}

impl Gap {
    fn is_cause(&self, at: Timestamp) -> bool {
        at <= self.to && at.plus_ms(IN_HAND_MS) >= self.from
    }

    fn reason(&self) -> String {
        let seconds = self.to.ms_since(self.from) as f64 / 1000.0;
        let bound = if self.exact { "" } else { "at most " };
        format!("no leader for {bound}{seconds:.1} s")
    }
}

/// When nothing fired.
#[derive(Default)]
pub(super) struct Gaps(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The gaps, newest first.
    gaps: VecDeque<Gap>,
    /// This node fires since then.
    since: Option<Timestamp>,
}

impl Gaps {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, gap: Gap) {
        let mut known = self.known();
        known.gaps.push_front(gap);
        known.gaps.truncate(GAPS_MAX);
    }

    fn cause(&self, at: Timestamp) -> Option<String> {
        self.known().gaps.iter().find(|gap| gap.is_cause(at)).map(Gap::reason)
    }

    /// Whether this node has fired all the time from `at` on.
    fn fired_at(&self, at: Timestamp) -> bool {
        self.known().since.is_some_and(|since| since <= at)
    }
}

impl Dispatcher {
    /// This node fires from `now` on, perhaps after a time in which none did.
    pub fn begins(&self, now: Timestamp, gap: Option<Gap>) {
        if let Some(gap) = gap.filter(|gap| gap.to.ms_since(gap.from) >= LATE_MS) {
            self.0.gaps.add(gap);
        }
        self.0.gaps.known().since = Some(now);
    }

    /// Why a due time at this target was missed, as far as this node knows.
    pub fn missed_cause(&self, job: &Job) -> Option<String> {
        self.cause(job).or_else(|| {
            let is_busy = self.0.gaps.fired_at(job.at) && self.table().queue.is_busy(&job.target);
            is_busy
                .then(|| format!("the callbacks under way, to {} or in all, left no place for it in time", job.target))
        })
    }

    /// Why the job did not go out when it was due, as far as this node knows.
    fn cause(&self, job: &Job) -> Option<String> {
        self.0.gaps.cause(job.at).or_else(|| {
            let (since, until) = self.outage(&job.target, job.at)?;
            let until = until.map_or_else(|| "on".to_owned(), |until| format!("to {}", until.as_ms()));
            Some(format!("the target {} could not be reached, from {} {until} (unix ms)", job.target, since.as_ms()))
        })
    }

    /// Why the first attempt of a run, made at `started`, is late.
    pub(super) fn lateness_cause(&self, job: &Job, started: Timestamp) -> Option<String> {
        if started.ms_since(job.at) < LATE_MS {
            return None;
        }
        let paused = self.0.node.machine().with_state(|state| state.task(job.seq).and_then(|task| task.past.paused));
        let was_paused = paused.and_then(|pause| pause.to).is_some_and(|to| to > job.at && to <= started);
        if was_paused {
            return Some("paused".to_owned());
        }
        self.cause(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_the_cause_of_what_was_due_in_it_or_just_before() {
        let gaps = Gaps::default();
        gaps.add(Gap { from: Timestamp(100_000), to: Timestamp(101_840), exact: true });
        let cause = |at| gaps.cause(Timestamp(at));
        assert_eq!(cause(101_000).as_deref(), Some("no leader for 1.8 s"));
        assert!(cause(96_000).is_some() && cause(90_000).is_none() && cause(101_841).is_none());
        gaps.add(Gap { from: Timestamp(200_000), to: Timestamp(260_000), exact: false });
        assert_eq!(cause(230_000).as_deref(), Some("no leader for at most 60.0 s"));
    }
}
