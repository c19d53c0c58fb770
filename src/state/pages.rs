//! Tasks by their sequence number, 64 to a page.
//!
//! A page is what storage writes as one record; it holds only the tasks that exist, so that a page of which one
//! long-lived task is left costs little.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{HotPage, HOT_PER_PAGE};
use super::task::Task;
use crate::command::Seq;

#[derive(Default)]
pub(super) struct Pages {
    pages: BTreeMap<u64, Page>,
    /// Pages that a checkpoint wants as they are now and has not got yet: one of these that is about to change is put
    /// aside first, so that a checkpoint is a consistent cut without stopping the state for as long as it reads.
    wanted: BTreeSet<u64>,
    frozen: Vec<(u64, Option<HotPage>)>,
}

/// `present` has a bit for each task that exists; `tasks` holds those, in order.
#[derive(Default)]
struct Page {
    present: u64,
    tasks: Vec<Task>,
}

impl Page {
    fn rank(&self, slot: u64) -> usize {
        (self.present & ((1 << slot) - 1)).count_ones() as usize
    }

    fn has(&self, slot: u64) -> bool {
        self.present >> slot & 1 == 1
    }

    fn slots(&self) -> impl Iterator<Item = u64> + use<> {
        let present = self.present;
        (0..HOT_PER_PAGE).filter(move |slot| present >> slot & 1 == 1)
    }
}

const fn split(seq: Seq) -> (u64, u64) {
    (seq / HOT_PER_PAGE, seq % HOT_PER_PAGE)
}

impl Pages {
    pub fn get(&self, seq: Seq) -> Option<&Task> {
        let (page, slot) = split(seq);
        let page = self.pages.get(&page)?;
        page.has(slot).then(|| &page.tasks[page.rank(slot)])
    }

    pub fn get_mut(&mut self, seq: Seq) -> Option<&mut Task> {
        let (page, slot) = split(seq);
        self.put_aside(page);
        let page = self.pages.get_mut(&page)?;
        let rank = page.rank(slot);
        page.has(slot).then(|| &mut page.tasks[rank])
    }

    /// Puts a task in; one that was there is replaced.
    pub fn insert(&mut self, seq: Seq, task: Task) {
        let (page, slot) = split(seq);
        self.put_aside(page);
        let page = self.pages.entry(page).or_default();
        let rank = page.rank(slot);
        if page.has(slot) {
            page.tasks[rank] = task;
        } else {
            page.tasks.insert(rank, task);
            page.present |= 1 << slot;
        }
    }

    pub fn remove(&mut self, seq: Seq) -> Option<Task> {
        let (number, slot) = split(seq);
        self.put_aside(number);
        let page = self.pages.get_mut(&number)?;
        if !page.has(slot) {
            return None;
        }
        let task = page.tasks.remove(page.rank(slot));
        page.present &= !(1 << slot);
        if page.present == 0 {
            self.pages.remove(&number);
        }
        Some(task)
    }

    pub fn iter_from(&self, from: Seq) -> impl Iterator<Item = (Seq, &Task)> {
        let (first, _) = split(from);
        self.pages.range(first..).flat_map(move |(&number, page)| {
            page.slots().map(move |slot| number * HOT_PER_PAGE + slot).zip(&page.tasks).filter(move |e| e.0 >= from)
        })
    }

    fn put_aside(&mut self, number: u64) {
        if !self.wanted.is_empty() && self.wanted.remove(&number) {
            self.frozen.push((number, self.record(number)));
        }
    }

    /// Begins a cut: these pages are wanted as they are now.
    pub fn freeze(&mut self, wanted: BTreeSet<u64>) {
        self.wanted = wanted;
        self.frozen = Vec::with_capacity(self.wanted.len());
    }

    /// Puts a bounded number of wanted pages aside; all of them, once the cut is whole.
    pub fn collect_frozen(&mut self, limit: usize) -> Option<Vec<(u64, Option<HotPage>)>> {
        for _ in 0..limit {
            let Some(number) = self.wanted.pop_first() else { return Some(std::mem::take(&mut self.frozen)) };
            self.frozen.push((number, self.record(number)));
        }
        None
    }

    /// For alarms, which are no part of a page's record.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Seq, &mut Task)> {
        self.pages.iter_mut().flat_map(|(&number, page)| {
            page.slots().map(move |slot| number * HOT_PER_PAGE + slot).zip(page.tasks.iter_mut())
        })
    }

    pub fn record(&self, number: u64) -> Option<HotPage> {
        let page = self.pages.get(&number)?;
        Some(page.slots().zip(&page.tasks).map(|(slot, t)| (number * HOT_PER_PAGE + slot, t.to_record())).collect())
    }
}
