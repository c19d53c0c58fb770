//! Due times that were missed: their records, and the search for the last of them.
//!
//! A task can have missed any number of due times. The last ones get a record each, and one record stands for all those
//! before. So the search is for the last ones alone, and takes as many steps whatever their number is. The steps of one log
//! entry are bounded as well: after hours without a node hundreds of thousands of tasks have missed something, and a node
//! does nothing else while it applies an entry.

use super::State;
use crate::clock::Timestamp;
use crate::command::{Refusal, Reply, Seq};
use crate::id::RunKey;
use crate::run::{Run, RunState};

/// Due times that were missed together and have a record each.
const SINGLE_MAX: usize = 50;
/// The search is for so many: the last of all can fire, the next ones have a record each, and one more is the end of the
/// record that stands for the rest.
const LAST: usize = SINGLE_MAX + 2;
/// Once the misfires of one log entry have taken so many steps, those that are left do nothing, and the leader proposes them
/// again.
pub const MISFIRE_STEPS_MAX: usize = 32_768;
/// The first window of the search, back from the last due time.
const WINDOW_MS: u64 = 1000;

impl State {
    /// The due times of a task from `from` to `upto` are missed, except the last of them, if that fires.
    pub(super) fn misfire(
        &mut self,
        now: Timestamp,
        seq: Seq,
        (from, upto): (Timestamp, Timestamp),
        reason: &str,
        latest_fires: bool,
    ) -> Result<Reply, Refusal> {
        let before = self.steps;
        let Some(task) = self.pages.get_mut(seq).filter(|task| task.next == Some(from)) else { return Ok(Reply::Done) };
        if self.misfires >= MISFIRE_STEPS_MAX {
            return Err(Refusal::MisfiresAtOnce);
        }
        // What is late is late under one definition.
        let upto = task.behind().map_or(upto, |course| upto.min(course.upto));
        let spec = task.spec_of_next().cloned();
        let walked = std::cell::Cell::new(0);
        let mut past = last_due_times(from, upto, LAST, |after| {
            walked.set(walked.get() + 1);
            task.due_after(after)
        });
        self.steps += walked.get();
        // `from` is one of them.
        let latest = past.last().copied().unwrap_or(from);
        if latest_fires {
            past.pop();
            task.next = Some(latest);
        } else {
            task.next = task.due_after(latest);
        }
        task.came_up = true;
        let newest = past.last().copied();
        task.past.latest = task.past.latest.max(newest);
        let single = past.split_off(past.len().saturating_sub(SINGLE_MAX));
        // The rest, however many, is one record: there is no room for each, nor would anybody read them.
        if let Some(last) = past.pop() {
            let upto = Some(last).filter(|last| *last > from);
            let run = Run::unfired(RunKey::scheduled(from), RunState::Missed, reason, now);
            self.record(seq, Run { upto, ..run });
        }
        for due in single {
            self.record(seq, Run::unfired(RunKey::scheduled(due), RunState::Missed, reason, now));
        }
        if let Some(newest) = newest {
            self.follow(now, seq, RunKey::scheduled(newest), RunState::Missed, spec);
        }
        self.settle(now, seq);
        self.misfires += self.steps - before;
        Ok(Reply::Done)
    }
}

/// The last due time from `from` (itself one) to `upto`, in some dozens of steps however many there were.
pub(super) fn last_due_time(
    from: Timestamp,
    upto: Timestamp,
    due_after: impl Fn(Timestamp) -> Option<Timestamp>,
) -> Timestamp {
    let next = |start: Timestamp| due_after(start).filter(|due| *due <= upto);
    let (mut near, mut span_ms) = (upto, 60_000u64);
    // The latest due time that is known, if it is not `from`. After `near` there is none.
    let mut later = loop {
        let start = Timestamp(upto.0.saturating_sub(span_ms)).max(from);
        let found = next(start);
        if start == from || found.is_some() {
            break found;
        }
        near = start;
        span_ms = span_ms.saturating_mul(4);
    };
    let mut last = from;
    while let Some(due) = later {
        last = due;
        let middle = Timestamp(due.0 + near.0.saturating_sub(due.0) / 2);
        later = next(middle);
        if later.is_none() {
            near = middle;
            later = next(due);
        }
    }
    last
}

/// The last due times from `from` (itself one) to `upto`, `many` of them or all that there are, oldest first. Where they
/// follow each other evenly it takes few more steps than that; some hundreds where they lie in clusters.
fn last_due_times(
    from: Timestamp,
    upto: Timestamp,
    many: usize,
    due_after: impl Fn(Timestamp) -> Option<Timestamp>,
) -> Vec<Timestamp> {
    let mut found = Vec::with_capacity(many);
    let mut near = upto;
    // Newest first. All those that are later than `near` are found.
    'found: while found.len() < many {
        let last = last_due_time(from, near, &due_after);
        found.push(last);
        if last <= from {
            break;
        }
        near = Timestamp(last.0 - 1);
        let mut window_ms = WINDOW_MS;
        loop {
            let missing = many - found.len();
            let start = Timestamp(near.0.saturating_sub(window_ms)).max(from);
            let walk = std::iter::successors(due_after(start), |&due| due_after(due)).take_while(|&due| due <= near);
            let window: Vec<Timestamp> = walk.take(missing + 1).collect();
            if window.len() > missing {
                // A cluster of them: the search begins again at its end.
                break;
            }
            found.extend(window.iter().rev());
            if found.len() == many {
                break 'found;
            }
            if start == from {
                found.push(from);
                break 'found;
            }
            near = start;
            // The missing ones reach so far, if there are as many everywhere.
            let reach_ms = match window.len() as u64 {
                0 => u64::MAX,
                seen => window_ms.saturating_mul((many - found.len()) as u64) / seen,
            };
            window_ms = window_ms.saturating_mul(4).min(reach_ms).max(1);
        }
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::schedule::{Schedule, Zone};

    /// Most steps for the last due times, in whatever pattern they come.
    const STEPS_MAX: usize = 500;

    fn every(period: u64) -> impl Fn(Timestamp) -> Option<Timestamp> {
        move |t| Some(Timestamp((t.0 / period + 1) * period))
    }

    /// The last due times, and the steps that it took to find them.
    fn counted(
        from: Timestamp,
        upto: Timestamp,
        due_after: impl Fn(Timestamp) -> Option<Timestamp>,
    ) -> (Vec<Timestamp>, usize) {
        let steps = Cell::new(0);
        let last = last_due_times(from, upto, LAST, |after| {
            steps.set(steps.get() + 1);
            due_after(after)
        });
        (last, steps.get())
    }

    #[test]
    fn the_last_due_times_of_a_long_gap_are_found_without_walking_it() {
        let year = 365 * 86_400_000;
        let (last, steps) = counted(Timestamp(1000), Timestamp(year), every(1000));
        assert_eq!(last.len(), LAST);
        assert_eq!(last.last(), Some(&Timestamp(year)));
        assert!(last.windows(2).all(|w| w[1].0 - w[0].0 == 1000));
        assert!(steps < 2 * LAST, "{steps} steps");
    }

    #[test]
    fn the_last_due_times_before_a_schedule_was_over_are_found_without_walking_it() {
        let year = 365 * 86_400_000;
        // Each second of the second year, and then never again.
        let next = |t: Timestamp| every(1000)(t.max(Timestamp(year))).filter(|due| due.0 <= 2 * year);
        for upto in [2 * year + 1, 3 * year, 90 * year, u64::MAX] {
            let (last, steps) = counted(Timestamp(500), Timestamp(upto), next);
            assert!(last.len() == LAST && last.last() == Some(&Timestamp(2 * year)), "{} for {upto}", last.len());
            assert!(steps < 300, "{steps} steps for {upto}");
        }
    }

    #[test]
    fn the_last_due_times_are_the_last_in_any_pattern_and_found_within_a_bound() {
        let day = 86_400_000;
        // So many, one each second, at the beginning of each period.
        for (burst, period) in
            [(1, 1000), (7, 60_000), (30, day), (90, 365 * day), (3_600, 365 * day), (250, 7_000_000)]
        {
            for upto in [999, 60_000, 3 * day + 5, 2 * 365 * day + 45_678, 50 * 365 * day + 3_000] {
                let next = |t: Timestamp| {
                    let (at, second) = (t.0 / period * period, t.0 % period / 1000 + 1);
                    Some(Timestamp(if second < burst { at + second * 1000 } else { at + period }))
                };
                let (last, steps) = counted(Timestamp(0), Timestamp(upto), next);
                assert!(steps < STEPS_MAX, "{steps} steps: {burst} each {period} up to {upto}");
                let newest = last_due_time(Timestamp(0), Timestamp(upto), next);
                assert_eq!(last.last(), Some(&newest));
                assert!(
                    newest.0 <= upto && next(newest).is_some_and(|after| after.0 > upto),
                    "{burst}, {period}, {upto}"
                );
                assert!(last.windows(2).all(|pair| next(pair[0]) == Some(pair[1])), "none is left out");
                assert!(last.len() == LAST || last[0] == Timestamp(0), "{burst}, {period}, {upto}: {}", last.len());
            }
        }
    }

    #[test]
    fn a_short_gap_is_listed_whole() {
        let last = last_due_times(Timestamp(5000), Timestamp(9500), LAST, every(1000));
        assert_eq!(last, [5000, 6000, 7000, 8000, 9000].map(Timestamp));
        assert_eq!(last_due_times(Timestamp(5000), Timestamp(5000), LAST, |_| None), [Timestamp(5000)]);
        assert_eq!(last_due_times(Timestamp(5000), Timestamp(4000), LAST, every(1000)), [Timestamp(5000)]);
    }

    /// A field of a Quartz schedule: all of it, a few values, or a range.
    fn field(chance: &mut StdRng, low: u64, high: u64) -> String {
        let value = |chance: &mut StdRng| chance.random_range(low..=high);
        match chance.random_range(0..5) {
            0 | 1 => "*".to_owned(),
            2 => value(chance).to_string(),
            3 => (0..chance.random_range(2..5)).map(|_| value(chance).to_string()).collect::<Vec<_>>().join(","),
            _ => {
                let from = value(chance);
                format!("{from}-{}", chance.random_range(from..=high))
            }
        }
    }

    #[test]
    fn the_last_due_times_of_any_schedule_are_the_last_and_found_within_a_bound() {
        let chance = &mut StdRng::seed_from_u64(1);
        let zones = ["UTC", "Europe/Berlin", "Australia/Lord_Howe"].map(|name| Zone::get(name).unwrap());
        let (mut most, mut clusters) = (0, 0);
        for _ in 0..4_000 {
            let [second, minute] = [0, 0].map(|low| field(chance, low, 59));
            let (hour, month) = (field(chance, 0, 23), field(chance, 1, 12));
            let day = if chance.random_bool(0.5) { "*".to_owned() } else { field(chance, 1, 28) };
            let text = format!("{second} {minute} {hour} {day} {month} ?");
            let schedule = Schedule::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let zone = &zones[chance.random_range(0..zones.len())];
            let next = |after| schedule.next_after(zone, Timestamp(0), after);
            let from = next(Timestamp::from_secs(chance.random_range(1_600_000_000..1_800_000_000))).unwrap();
            // From some seconds to three years.
            let gap_ms = 1000 << chance.random_range(0..27);
            let upto = Timestamp(from.0 + chance.random_range(0..gap_ms));
            let (last, steps) = counted(from, upto, next);
            let told = || format!("{text:?} in {} from {from} to {upto}: {steps} steps", zone.name());
            assert!(steps <= STEPS_MAX, "{}", told());
            most = most.max(steps);
            assert!(last.windows(2).all(|pair| next(pair[0]) == Some(pair[1])), "{}: one is left out", told());
            assert!(last.last().is_some_and(|last| next(*last).is_none_or(|then| then > upto)), "{}", told());
            assert!(last[0] == from || last[0] > from && last.len() == LAST, "{}: {}", told(), last.len());
            clusters += usize::from(last.last().unwrap().0 - last[0].0 > 3_600_000 && steps > 4 * LAST);
        }
        println!("{most} steps at most");
        assert!(clusters > 20, "{clusters} were clusters");
    }
}
