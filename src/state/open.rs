//! The open runs of one task. Most tasks have none or one; some have a thousand, and then one more of them must not cost a
//! look at the others.
//!
//! They are kept by their keys, so that one is found by halving. Where there are many, what waits is also kept by its time,
//! and the alerts are counted.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use crate::clock::Timestamp;
use crate::id::RunKey;
use crate::run::{OpenPhase, OpenRun};

/// From so many on there is an index.
const MANY: usize = 32;
/// Below so many there is none any more.
const FEW: usize = 16;

/// The open runs of one task, its alerts among them, by their keys: oldest due time first.
#[derive(Debug, Default, PartialEq)]
pub struct OpenRuns {
    #[expect(clippy::vec_box, reason = "a run is large, and one that goes from the middle moves those behind it")]
    runs: Vec<Box<OpenRun>>,
    index: Option<Box<Index>>,
}

/// What is known of many runs without a look at each.
#[derive(Debug, Default, PartialEq)]
struct Index {
    waiting: BTreeSet<(Timestamp, RunKey)>,
    alerts: usize,
}

fn waits_until(run: &OpenRun) -> Option<Timestamp> {
    match run.phase {
        OpenPhase::Waiting { at, .. } => Some(at),
        OpenPhase::Running { .. } | OpenPhase::Queued => None,
    }
}

impl Index {
    fn add(&mut self, run: &OpenRun) {
        self.waiting.extend(waits_until(run).map(|at| (at, run.key)));
        self.alerts += usize::from(run.key.is_alert());
    }

    fn forget(&mut self, run: &OpenRun) {
        if let Some(at) = waits_until(run) {
            self.waiting.remove(&(at, run.key));
        }
        self.alerts -= usize::from(run.key.is_alert());
    }
}

impl OpenRuns {
    /// None at all.
    pub(super) const NONE: OpenRuns = OpenRuns { runs: Vec::new(), index: None };

    /// How many there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// All of them, oldest due time first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &OpenRun> + use<'_> {
        self.runs.iter().map(|run| &**run)
    }

    fn place(&self, key: RunKey) -> Result<usize, usize> {
        // What opens is mostly the newest.
        match self.runs.last() {
            Some(last) if last.key < key => Err(self.runs.len()),
            _ => self.runs.binary_search_by_key(&key, |run| run.key),
        }
    }

    /// The one with this key.
    pub fn get(&self, key: RunKey) -> Option<&OpenRun> {
        self.place(key).ok().map(|at| &*self.runs[at])
    }

    /// How many of them are alerts.
    pub fn alerts(&self) -> usize {
        match &self.index {
            Some(index) => index.alerts,
            None => self.iter().filter(|run| run.key.is_alert()).count(),
        }
    }

    /// The first time after `after` for which one waits that `may` go on.
    pub(super) fn wake(&self, after: Option<Timestamp>, may: impl Fn(RunKey) -> bool) -> Option<Timestamp> {
        match &self.index {
            Some(index) => {
                let from = after.map_or(Unbounded, |after| Excluded((after, RunKey::MAX)));
                index.waiting.range((from, Unbounded)).find(|(_, key)| may(*key)).map(|(at, _)| *at)
            }
            None => {
                let waiting = self.iter().filter(|run| may(run.key)).filter_map(waits_until);
                waiting.filter(|at| after.is_none_or(|after| *at > after)).min()
            }
        }
    }

    /// Those that wait for `now` or an earlier time, oldest due time first.
    pub(super) fn due(&self, now: Timestamp) -> Vec<&OpenRun> {
        let mut due: Vec<&OpenRun> = match &self.index {
            Some(index) => {
                let due = index.waiting.range(..=(now, RunKey::MAX));
                due.filter_map(|(_, key)| self.get(*key)).collect()
            }
            None => self.iter().filter(|run| waits_until(run).is_some_and(|at| at <= now)).collect(),
        };
        due.sort_unstable_by_key(|run| run.key);
        due
    }

    /// One more. There is none with its key.
    pub(super) fn insert(&mut self, run: OpenRun) {
        if let Some(index) = &mut self.index {
            index.add(&run);
        }
        if self.runs.is_empty() {
            // A vector begins with room for four, and mostly there is one.
            self.runs.reserve_exact(1);
        }
        let at = self.place(run.key).unwrap_or_else(|at| at);
        self.runs.insert(at, Box::new(run));
        if self.index.is_none() && self.runs.len() >= MANY {
            self.reindex();
        }
    }

    fn reindex(&mut self) {
        let mut index = Box::<Index>::default();
        self.iter().for_each(|run| index.add(run));
        self.index = Some(index);
    }

    /// Changes the one with this key.
    pub(super) fn change<T>(&mut self, key: RunKey, change: impl FnOnce(&mut OpenRun) -> T) -> Option<T> {
        let at = self.place(key).ok()?;
        let run = &mut self.runs[at];
        if let Some(index) = &mut self.index {
            index.forget(run);
        }
        let changed = change(run);
        if let Some(index) = &mut self.index {
            index.add(run);
        }
        Some(changed)
    }

    /// Changes what each of them is made under; not what it waits for.
    pub(super) fn each_spec(&mut self, mut change: impl FnMut(&mut Option<std::sync::Arc<crate::task::TaskSpec>>)) {
        self.runs.iter_mut().for_each(|run| change(&mut run.spec));
    }

    /// Takes away the one with this key.
    pub(super) fn remove(&mut self, key: RunKey) -> Option<OpenRun> {
        let at = self.place(key).ok()?;
        let run = *self.runs.remove(at);
        if let Some(index) = &mut self.index {
            index.forget(&run);
        }
        self.drop_index();
        Some(run)
    }

    /// Takes away those that pass, oldest due time first.
    pub(super) fn take(&mut self, passes: impl Fn(&OpenRun) -> bool) -> Vec<OpenRun> {
        let taken: Vec<OpenRun> = self.runs.extract_if(.., |run| passes(run)).map(|run| *run).collect();
        if let Some(index) = &mut self.index {
            taken.iter().for_each(|run| index.forget(run));
        }
        self.drop_index();
        taken
    }

    fn drop_index(&mut self) {
        if self.runs.len() < FEW {
            self.index = None;
        }
    }

    /// Gives back the room of those that there were.
    pub(super) fn shrink(&mut self) {
        if self.runs.is_empty() {
            *self = OpenRuns::NONE;
        }
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.runs.capacity()
    }

    /// Checks that the index agrees with the runs.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn check(&self) {
        assert!(self.runs.is_sorted_by(|a, b| a.key < b.key), "{:?}", self.runs);
        let mut index = Index::default();
        self.iter().for_each(|run| index.add(run));
        assert!(self.index.as_ref().is_none_or(|own| **own == index), "{:?} is not {index:?}", self.index);
    }
}

impl FromIterator<OpenRun> for OpenRuns {
    fn from_iter<I: IntoIterator<Item = OpenRun>>(runs: I) -> Self {
        let mut runs: Vec<Box<OpenRun>> = runs.into_iter().map(Box::new).collect();
        runs.sort_by_key(|run| run.key);
        let mut open = OpenRuns { runs, index: None };
        if open.len() >= MANY {
            open.reindex();
        }
        open
    }
}

#[cfg(test)]
impl std::ops::Index<usize> for OpenRuns {
    type Output = OpenRun;

    fn index(&self, at: usize) -> &OpenRun {
        &self.runs[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::Choices;
    use crate::task::AlertEvent;

    /// Beside a plain list of the same.
    #[test]
    fn what_waits_is_found_whether_there_are_few_or_many() {
        let mut bytes = vec![0u8; 60_000];
        let mut seed = 7u64;
        bytes.iter_mut().for_each(|byte| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (seed >> 56) as u8;
        });
        let mut choices = Choices::new(&bytes);
        let (mut open, mut plain) = (OpenRuns::NONE, Vec::<OpenRun>::new());
        for step in 0..3000u64 {
            let grows = step % 1000 < 600;
            let some = |choices: &mut Choices<'_>, plain: &[OpenRun]| {
                (!plain.is_empty()).then(|| plain[choices.below(plain.len() as u64) as usize].key)
            };
            match choices.below(4) {
                0 | 1 if grows => {
                    let due = Timestamp(choices.below(5000));
                    let key = RunKey::triggered(due, step);
                    let key = if choices.flag() { key } else { key.alert(AlertEvent::Failed) };
                    if open.get(key).is_none() {
                        let run = OpenRun::new(key, Timestamp(choices.below(5000)));
                        open.insert(run.clone());
                        plain.push(run);
                    }
                }
                2 => {
                    let phase = match choices.flag() {
                        true => OpenPhase::Queued,
                        false => OpenPhase::Waiting { attempt: 2, at: Timestamp(choices.below(5000)) },
                    };
                    if let Some(key) = some(&mut choices, &plain) {
                        assert!(open.change(key, |run| run.phase = phase).is_some());
                        plain.iter_mut().filter(|run| run.key == key).for_each(|run| run.phase = phase);
                    }
                }
                _ => {
                    if let Some(key) = some(&mut choices, &plain) {
                        assert_eq!(open.remove(key).map(|run| run.key), Some(key));
                        plain.retain(|run| run.key != key);
                    }
                }
            }
            plain.sort_by_key(|run| run.key);
            open.check();
            let at = Timestamp(choices.below(5000));
            let may = |key: RunKey| !key.due.0.is_multiple_of(3);
            let waiting = || plain.iter().filter_map(|run| Some((waits_until(run)?, run.key)));
            assert_eq!(open.wake(None, may), waiting().filter(|(_, key)| may(*key)).map(|(at, _)| at).min());
            assert_eq!(open.wake(Some(at), |_| true), waiting().map(|(at, _)| at).filter(|t| *t > at).min());
            let due: Vec<RunKey> = open.due(at).iter().map(|run| run.key).collect();
            assert_eq!(due, waiting().filter(|(t, _)| *t <= at).map(|(_, key)| key).collect::<Vec<_>>());
            assert_eq!(open.alerts(), plain.iter().filter(|run| run.key.is_alert()).count());
        }
        assert!(OpenRuns::from_iter(plain.clone()).iter().eq(plain.iter()));
    }
}
