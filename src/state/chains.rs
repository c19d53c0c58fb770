//! Tasks that trigger each other: no task may, by way of others, trigger itself.
//!
//! A definition names the tasks that follow, and may name some that do not exist yet. So a cycle can be closed by a new
//! task only where others name it already, and the search for one goes both ways in turn, one link at a time: onward from
//! what the task names, and back from the task to those that name it. Whichever way ends first has the answer. Chains
//! that are built from either end are decided by a look at their end, however long they are; a link between two large
//! parts costs the smaller of them, and is refused beyond a bound. Another bound is on all links of one log entry.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included, Unbounded};

use super::State;
use crate::command::{Refusal, Seq};
use crate::id::TaskId;
use crate::task::Options;

/// Links that are looked at for one change.
pub const LINKS_MAX: usize = 10_000;
/// Links that are looked at for the changes of one log entry together.
pub const LINKS_PER_ENTRY_MAX: usize = 50_000;

/// Which tasks name an id among those that follow them.
pub(super) type Namers = BTreeSet<(TaskId, Seq)>;

/// The tasks that a definition names.
fn named(options: Option<&Options>) -> impl Iterator<Item = &TaskId> {
    options.into_iter().flat_map(|options| options.on_success.iter().chain(&options.on_failure))
}

/// The way onward: of each task that is reached, with the one of the first that led there, where in its list the search
/// stands.
struct Onward<'s> {
    state: &'s State,
    ahead: Vec<(&'s TaskId, Box<dyn Iterator<Item = &'s TaskId> + 's>)>,
    firsts: Box<dyn Iterator<Item = &'s TaskId> + 's>,
    seen: BTreeSet<Seq>,
}

impl<'s> Onward<'s> {
    /// The next link: the first task of the way, and the task that it leads to. None: there is no more.
    fn next(&mut self) -> Option<(&'s TaskId, &'s TaskId)> {
        let (first, next) = loop {
            let Some((first, list)) = self.ahead.last_mut() else {
                let first = self.firsts.next()?;
                break (first, first);
            };
            match list.next() {
                Some(next) => break (*first, next),
                None => drop(self.ahead.pop()),
            }
        };
        // What leads from one task to nowhere does so from the next one too.
        if let Some(seq) = self.state.find(next).filter(|seq| self.seen.insert(*seq)) {
            let options = self.state.pages.get(seq).and_then(|task| task.options.as_deref());
            self.ahead.push((first, Box::new(named(options))));
        }
        Some((first, next))
    }
}

/// The way back: of each task that is reached, where among those that name it the search stands.
struct Back<'s> {
    state: &'s State,
    behind: Vec<(&'s TaskId, Option<Seq>)>,
    seen: BTreeSet<Seq>,
}

impl<'s> Back<'s> {
    /// The next link: the task that it comes from. None: there is no more.
    fn next(&mut self) -> Option<&'s TaskId> {
        loop {
            let (id, last) = self.behind.last_mut()?;
            let from = last.map_or(Included((id.clone(), 0)), |last| Excluded((id.clone(), last)));
            let namer = self.state.namers.range((from, Unbounded)).next().filter(|(of, _)| of == *id);
            let Some(&(_, seq)) = namer else {
                self.behind.pop();
                continue;
            };
            *last = Some(seq);
            let Some(task) = self.state.pages.get(seq) else { continue };
            if self.seen.insert(seq) {
                self.behind.push((&task.id, None));
            }
            return Some(&task.id);
        }
    }
}

impl State {
    /// Refuses options under which the task `id` would, by way of others, trigger itself.
    pub(super) fn check_chain(&mut self, id: &TaskId, options: &Options) -> Result<(), Refusal> {
        if named(Some(options)).next().is_none() {
            return Ok(());
        }
        let (result, links) = self.search_cycle(id, options);
        self.links += links;
        self.steps += links;
        result
    }

    /// Whether there is a cycle, and how many links were looked at.
    fn search_cycle(&self, id: &TaskId, options: &Options) -> (Result<(), Refusal>, usize) {
        let own: BTreeSet<&TaskId> = named(Some(options)).collect();
        if own.contains(id) {
            return (Err(Refusal::Cycle(id.clone())), 1);
        }
        let mut onward =
            Onward { state: self, ahead: Vec::new(), firsts: Box::new(own.iter().copied()), seen: BTreeSet::new() };
        let mut back = Back { state: self, behind: vec![(id, None)], seen: BTreeSet::new() };
        let mut links = 0;
        loop {
            match back.next() {
                Some(task) if own.contains(task) => return (Err(Refusal::Cycle(task.clone())), links),
                Some(_) => {}
                None => return (Ok(()), links),
            }
            match onward.next() {
                Some((first, task)) if task == id => return (Err(Refusal::Cycle(first.clone())), links),
                Some(_) => {}
                None => return (Ok(()), links),
            }
            links += 2;
            if links > LINKS_MAX {
                return (Err(Refusal::ChainTooLong(LINKS_MAX)), links);
            }
            if self.links + links > LINKS_PER_ENTRY_MAX {
                return (Err(Refusal::ChainsAtOnce), links);
            }
        }
    }

    /// The task names these from now on.
    pub(super) fn hold_names(&mut self, seq: Seq, options: Option<&Options>) {
        self.namers.extend(named(options).map(|id| (id.clone(), seq)));
    }

    /// The task names these no more.
    pub(super) fn drop_names(&mut self, seq: Seq, options: Option<&Options>) {
        for id in named(options) {
            self.namers.remove(&(id.clone(), seq));
        }
    }
}
