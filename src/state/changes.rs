//! What has changed since the last checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::record::{Indexed, StoredZone, HOT_PER_PAGE};
use super::writes::DoneWrite;
use crate::command::Seq;
use crate::run::Run;
use crate::task::TaskSpec;

/// What has changed: which pages of hot states, which definitions, which runs.
///
/// Many changes of one record are one change here.
#[derive(Default)]
pub struct Changes {
    /// Pages of hot states to write again.
    pub pages: BTreeSet<u64>,
    /// Definitions; none: the task is gone.
    pub specs: HashMap<Seq, Option<Arc<TaskSpec>>>,
    /// Histories.
    pub runs: BTreeMap<Seq, RunChanges>,
    /// The index of ended runs. Of chunks that are to go no run is kept.
    pub index: ListChanges<Indexed>,
    /// The named writes that are kept.
    pub writes: ListChanges<DoneWrite>,
    /// The rules of zones; none: nothing goes by them any more.
    pub zones: BTreeMap<u64, Option<StoredZone>>,
    /// Whether something that belongs to no task has changed.
    pub globals: bool,
    weight: usize,
}

/// What has changed in one task's history.
#[derive(Default)]
pub struct RunChanges {
    /// Whether the task has one due time only.
    pub once: bool,
    /// Runs that ended, with their numbers.
    pub added: Vec<(u64, Arc<Run>)>,
    /// Runs from the first of these numbers up to, not including, the second are to go.
    pub dropped: Option<(u64, u64)>,
}

/// What has changed in a list that grows at its end and is stored in chunks, each of which goes as a whole.
pub struct ListChanges<T> {
    /// The serial number of the first of `added`.
    pub first: u64,
    /// What has been added, one after the other.
    pub added: Vec<T>,
    /// Chunks that are to go.
    pub dropped: BTreeSet<u64>,
}

impl<T> Default for ListChanges<T> {
    fn default() -> Self {
        ListChanges { first: 0, added: Vec::new(), dropped: BTreeSet::new() }
    }
}

impl<T> ListChanges<T> {
    /// The entry with the serial number `serial`, which follows that of the last.
    fn add(&mut self, serial: u64, entry: T) {
        if self.added.is_empty() {
            self.first = serial;
        }
        self.added.push(entry);
    }

    /// What was added, by the chunks that it is in and that stay: the number of the chunk, and how many entries it has
    /// before these.
    pub fn parts(&self, per_chunk: u64) -> impl Iterator<Item = (u64, u64, &[T])> {
        let (mut serial, mut added) = (self.first, self.added.as_slice());
        let parts = std::iter::from_fn(move || {
            let (chunk, at) = (serial / per_chunk, serial % per_chunk);
            let (part, rest) = added.split_at(added.len().min((per_chunk - at) as usize));
            (serial, added) = (serial + part.len() as u64, rest);
            (!part.is_empty()).then_some((chunk, at, part))
        });
        parts.filter(move |(chunk, ..)| !self.dropped.contains(chunk))
    }
}

impl Changes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && !self.globals
    }

    /// About how many bytes of memory the changes hold: what bounds them.
    pub fn weight(&self) -> usize {
        self.weight + self.pages.len() * 4096
    }

    pub(super) fn touch(&mut self, seq: Seq) {
        self.pages.insert(seq / HOT_PER_PAGE);
    }

    pub(super) fn put_zone(&mut self, number: u64, zone: Option<StoredZone>) {
        self.weight += 256 + zone.as_ref().map_or(0, |zone| zone.rules.tzif.len());
        self.globals = true;
        self.zones.insert(number, zone);
    }

    pub(super) fn put_spec(&mut self, seq: Seq, spec: Option<Arc<TaskSpec>>) {
        self.weight += 256 + spec.as_ref().map_or(0, |spec| spec.text_bytes());
        self.specs.insert(seq, spec);
    }

    pub(super) fn add_run(&mut self, seq: Seq, once: bool, number: u64, run: Arc<Run>) {
        let attempts = run.attempts.iter().map(|attempt| 160 + attempt.text_bytes());
        self.weight += 128 + attempts.sum::<usize>();
        let history = self.runs.entry(seq).or_default();
        history.once = once;
        history.added.push((number, run));
    }

    /// The entry with the serial number `serial`, which follows that of the last.
    pub(super) fn index_run(&mut self, serial: u64, entry: Indexed) {
        self.weight += 40;
        self.index.add(serial, entry);
    }

    pub(super) fn drop_index(&mut self, chunk: u64) {
        self.weight += 32;
        self.globals = true;
        self.index.dropped.insert(chunk);
    }

    /// The named write with the serial number `serial`, which follows that of the last.
    pub(super) fn add_write(&mut self, serial: u64, done: DoneWrite) {
        self.weight += done.bytes();
        self.globals = true;
        self.writes.add(serial, done);
    }

    pub(super) fn drop_writes(&mut self, block: u64) {
        self.weight += 32;
        self.globals = true;
        self.writes.dropped.insert(block);
    }

    pub(super) fn drop_runs(&mut self, seq: Seq, once: bool, from: u64, to: u64) {
        if from < to {
            self.weight += 64;
            let history = self.runs.entry(seq).or_default();
            history.once = once;
            history.added.retain(|(number, _)| *number < from || *number >= to);
            let (first, last) = history.dropped.unwrap_or((from, to));
            history.dropped = Some((first.min(from), last.max(to)));
        }
    }
}
