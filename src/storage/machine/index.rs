//! Reading the index of ended runs, and what of it is dead.

use super::super::{checkpoint, Error};
use super::read::layers;
use super::Machine;
use crate::command::Seq;
use crate::id::RunKey;
use crate::run::OpenRun;
use crate::state::record::{self, IndexHead, Indexed, Key, INDEXED_PER_CHUNK};
use crate::view::{RunFilter, RunView};

/// Chunks that are read, and then looked up in one hold of the state.
const CHUNKS: usize = 8;
/// Entries that are looked at in one hold of the state.
const ENTRIES: usize = CHUNKS * INDEXED_PER_CHUNK as usize;

/// A step back through the index.
#[derive(Debug)]
pub struct Found {
    /// Entries of runs that are kept and pass the filter, with their serial numbers, newest first.
    pub entries: Vec<(u64, Indexed)>,
    /// The next step looks below this serial number; 0: there is nothing.
    pub next: u64,
    /// Entries that were looked at, or passed over with their chunk.
    pub looked_at: usize,
}

impl Machine {
    /// Goes back a step through the index, from the entry before the serial number `below`.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn index_below(&self, below: u64, filter: &RunFilter) -> Result<Found, Error> {
        let passes = |entry: &Indexed| {
            filter.state.is_none_or(|state| state == entry.state)
                && filter.from.is_none_or(|from| entry.due >= from)
                && filter.to.is_none_or(|to| entry.due <= to)
        };
        let Some(newest) = below.checked_sub(1) else {
            return Ok(Found { entries: Vec::new(), next: 0, looked_at: 0 });
        };
        let store = {
            let core = self.core();
            for changes in layers(&core) {
                let (first, added) = (changes.index.first, &changes.index.added);
                if added.is_empty() || below <= first {
                    continue;
                }
                let end = added.len().min((below - first) as usize);
                let begin = end.saturating_sub(ENTRIES);
                let looked_at = added.iter().enumerate().take(end).skip(begin).rev();
                let entries = looked_at.filter(|(_, entry)| passes(entry) && core.state.keeps(entry));
                let entries = entries.map(|(at, entry)| (first + at as u64, *entry)).collect();
                return Ok(Found { entries, next: first + begin as u64, looked_at: end - begin });
            }
            // Taken together with what is in memory: what a checkpoint writes meanwhile was looked at there.
            self.store()
        };
        let head = |head: &IndexHead| {
            filter.state.is_none_or(|state| head.has(state))
                && filter.from.is_none_or(|from| head.last >= from)
                && filter.to.is_none_or(|to| head.first <= to)
        };
        let chunks = store.index(0..=newest / INDEXED_PER_CHUNK, true, CHUNKS)?;
        let next = if chunks.len() < CHUNKS { 0 } else { chunks.last().map_or(0, |(n, _)| n * INDEXED_PER_CHUNK) };
        let looked_at = chunks.len() * INDEXED_PER_CHUNK as usize;
        let mut entries = Vec::new();
        for (number, payload) in chunks {
            let of_chunk = record::indexed(&payload, head).map_err(|e| checkpoint::bad(Key::Index(number), e))?;
            let numbered = (number * INDEXED_PER_CHUNK..).zip(of_chunk).filter(|(n, e)| *n < below && passes(e));
            let at = entries.len();
            entries.extend(numbered);
            entries[at..].reverse();
        }
        if !entries.is_empty() {
            let core = self.core();
            entries.retain(|(_, entry)| core.state.keeps(entry));
        }
        Ok(Found { entries, next, looked_at })
    }

    /// The run of an entry; none: it is no longer kept.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn ended_run(&self, entry: &Indexed) -> Result<Option<RunView>, Error> {
        let task = self.with_state(|state| {
            let task = state.task(entry.seq).filter(|task| !task.past.deleted)?;
            Some((task.id.clone(), task.is_once()))
        });
        let Some((id, once)) = task else { return Ok(None) };
        let mut runs = self.recorded(entry.seq, once, entry.number, entry.number + 1)?;
        Ok(runs.pop_first().map(|(_, run)| RunView::of_ended(&id, &run)))
    }

    /// A run that is going and passes; none: it is no longer, or does not.
    pub fn open_run(&self, seq: Seq, key: RunKey, passes: impl Fn(&OpenRun) -> bool) -> Option<RunView> {
        self.with_state(|state| {
            let task = state.task(seq)?;
            task.runs().find(|run| run.key == key && passes(run)).map(|run| RunView::of_open(&task.id, run))
        })
    }

    /// What changes when there may be more dead chunks to be found; none: there will be when a checkpoint has stored what
    /// is in memory.
    pub fn index_age(&self) -> Option<(u64, u64)> {
        let core = self.core();
        let stored = layers(&core).all(|changes| changes.index.added.is_empty());
        stored.then(|| core.state.forgotten())
    }

    /// Looks at chunks of the index from the number `from` on: those of which no run is kept, and from where to go on;
    /// none: that was the last.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn dead_index(&self, from: u64) -> Result<(Vec<u64>, Option<u64>), Error> {
        let chunks = self.store().index(from..=u64::MAX, false, CHUNKS)?;
        let next = chunks.last().filter(|_| chunks.len() == CHUNKS).map(|(number, _)| number + 1);
        let mut read = Vec::with_capacity(chunks.len());
        for (number, payload) in chunks {
            let entries = record::indexed(&payload, |_| true).map_err(|e| checkpoint::bad(Key::Index(number), e))?;
            if entries.len() as u64 == INDEXED_PER_CHUNK {
                read.push((number, entries));
            }
        }
        let core = self.core();
        read.retain(|(_, entries)| !entries.iter().any(|entry| core.state.keeps(entry)));
        Ok((read.into_iter().map(|(number, _)| number).collect(), next))
    }
}
