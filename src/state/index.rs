//! The index of ended runs: in which order the runs of all tasks came to their outcomes.
//!
//! Each run that ends gets the next serial number. The state keeps the counter alone; the entries are cold, written as
//! the runs are. An entry stays when its run goes: what the hot state says of the task tells whether the run is kept, and
//! a chunk of entries goes when none of its runs is.

use super::record::{Indexed, INDEXED_PER_CHUNK};
use super::{State, RUNS_KEPT_MAX};
use crate::command::Seq;
use crate::id::{RunId, RunKey};
use crate::run::OpenRun;

/// Where a run that is going is found.
pub type OpenPlace = (RunId, Seq, RunKey);

impl State {
    /// How many runs ever ended.
    pub fn runs_total(&self) -> u64 {
        self.runs_total
    }

    /// Whether the run of this entry is kept.
    pub fn keeps(&self, entry: &Indexed) -> bool {
        let task = self.pages.get(entry.seq);
        task.is_some_and(|task| entry.number.saturating_add(RUNS_KEPT_MAX) >= task.past.runs_recorded)
    }

    /// What changes only when runs cease to be kept, or may have.
    pub fn forgotten(&self) -> (u64, u64) {
        (self.runs_total, self.next_seq - self.len() as u64)
    }

    /// Forgets these chunks of the index. One that is still being filled is passed over.
    pub(super) fn drop_index(&mut self, chunks: &[u64]) {
        let full = self.runs_total / INDEXED_PER_CHUNK;
        chunks.iter().filter(|chunk| **chunk < full).for_each(|chunk| self.changes.drop_index(*chunk));
    }

    /// Down from the task before `below`, the tasks that together have about `runs` runs that are going: the number of
    /// the last of them; none: there is none.
    pub fn open_tasks_below(&self, below: Seq, runs: usize) -> Option<Seq> {
        let mut last = None;
        let mut found = 0;
        for &seq in self.open.range(..below).rev() {
            last = Some(seq);
            // Where alerts wait alone there is no run, and yet something that was looked at.
            found += self.pages.get(seq).map_or(0, |task| task.runs().count()).max(1);
            if found >= runs {
                break;
            }
        }
        last
    }

    /// The runs that are going of the tasks from `from` up to, not including, `below`.
    pub fn open_runs_of(&self, from: Seq, below: Seq, passes: impl Fn(&OpenRun) -> bool) -> Vec<OpenPlace> {
        let tasks = self.open.range(from..below).filter_map(|&seq| Some((seq, self.pages.get(seq)?)));
        let runs = tasks.flat_map(|(seq, task)| task.runs().map(move |run| (task, seq, run)));
        runs.filter(|(_, _, run)| passes(run))
            .map(|(task, seq, run)| (RunId::new(&task.id, run.key), seq, run.key))
            .collect()
    }
}
