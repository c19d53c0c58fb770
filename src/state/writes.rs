//! Named writes: what each was answered, so that one that comes again is answered and not done again.
//!
//! ```text
//!   serial numbers:   0 … first … … … … … … … total
//!                     forgotten │ kept, 1024 to a block │ not applied yet
//! ```
//!
//! A node that has sent a write to the leader and got no answer sends it again, under the same name. Each named write that
//! is applied gets the next serial number, and its name is kept with its reply. Names are forgotten block by block, oldest
//! first, when they are old or too many. Each write says how many named writes its sender had applied when it sent it
//! first: its own serial number, if it has one, is not below that. So where that number is below the first that is kept,
//! and the name is not found, nobody knows whether the write was done: it is refused. It is never done a second time.

use std::collections::VecDeque;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};

use super::changes::Changes;
use crate::clock::Timestamp;
use crate::command::{Refusal, Reply, WriteId};
use crate::id::TaskId;

/// Names in one record, and as many as are forgotten together.
pub const WRITES_PER_BLOCK: u64 = 1024;
/// A block whose last write is older than this is forgotten. Callers of writes do not wait for so long, unless the
/// operator has raised `limits.request_timeout_ms` above it.
const KEPT_FOR_MS: u64 = 120_000;
/// Most blocks.
const BLOCKS_MAX: u64 = 256;
/// About how many bytes are kept at most, beside the block that is being filled.
const BYTES_MAX: usize = 48 << 20;
/// What one takes in memory, its place in the table too, beside the texts of its reply.
const WRITE_BYTES: usize = size_of::<DoneWrite>() + 16;
/// Of those that are forgotten, so many are removed with each that is added: no entry of the log waits for a block.
const REMOVED_AT_ONCE: usize = 2;

/// A named write that was applied, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneWrite {
    /// The process that took the call.
    pub process: u64,
    /// Which of its writes.
    pub number: u64,
    /// The time of the batch.
    pub at: Timestamp,
    /// What it was answered.
    pub reply: Reply,
}

impl DoneWrite {
    fn hash(&self) -> u64 {
        hash(self.process, self.number)
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        let text = match &self.reply {
            Reply::Refused(Refusal::Unreadable(text) | Refusal::UnknownZone(text)) => text.len(),
            Reply::Refused(Refusal::Cycle(_)) => TaskId::LEN_MAX,
            _ => 0,
        };
        WRITE_BYTES + text
    }
}

fn hash(process: u64, number: u64) -> u64 {
    let mixed = (process.rotate_left(29) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// What is known of a write that is about to be applied.
pub(super) enum Known {
    /// It was not applied before.
    New,
    /// It was, and this was the reply.
    Done(Reply),
    /// It may have been. The names of so many are no longer kept.
    Perhaps(u64),
}

/// The named writes that are kept.
#[derive(Default)]
pub(super) struct Writes {
    /// The serial number of the first in `kept`.
    base: u64,
    /// The serial number of the first that is not forgotten: the beginning of a block. What is before is not found any
    /// more, whether it is in `kept` or not.
    first: u64,
    kept: VecDeque<DoneWrite>,
    /// By the hash of the name: the serial number.
    places: HashTable<u64>,
    /// About how much memory those take that are not forgotten.
    bytes: usize,
    /// Of each block that is not forgotten, its share of this, oldest first.
    of_blocks: VecDeque<usize>,
}

impl Writes {
    /// How many named writes were ever applied.
    pub fn total(&self) -> u64 {
        self.base + self.kept.len() as u64
    }

    fn at(&self, serial: u64) -> Option<&DoneWrite> {
        self.kept.get(usize::try_from(serial.checked_sub(self.base)?).ok()?)
    }

    /// What is known of this write.
    pub fn known(&self, name: WriteId) -> Known {
        let is_it = |serial: &u64| {
            let done = self.at(*serial).filter(|_| *serial >= self.first);
            done.is_some_and(|done| (done.process, done.number) == (name.process, name.number))
        };
        match self.places.find(hash(name.process, name.number), is_it) {
            Some(serial) => self.at(*serial).map_or(Known::New, |done| Known::Done(done.reply.clone())),
            None if name.after < self.first => Known::Perhaps(self.first),
            None => Known::New,
        }
    }

    /// Keeps the reply of a write that was applied.
    pub fn keep(&mut self, done: DoneWrite, changes: &mut Changes) {
        let (serial, now) = (self.total(), done.at);
        if serial.is_multiple_of(WRITES_PER_BLOCK) {
            self.forget(now, changes);
        }
        self.push(done.clone());
        changes.add_write(serial, done);
        for _ in 0..REMOVED_AT_ONCE {
            if self.base < self.first {
                self.remove_first();
            }
        }
    }

    /// Forgets what is too old or too much, before a block is begun: at most two blocks, so that there are fewer in the
    /// end, and nothing waits.
    fn forget(&mut self, now: Timestamp, changes: &mut Changes) {
        for _ in 0..2 {
            let blocks = self.of_blocks.len() as u64;
            let Some(last) = self.at(self.first + WRITES_PER_BLOCK - 1) else { return };
            let is_old = now.ms_since(last.at) > KEPT_FOR_MS;
            if !is_old && blocks < BLOCKS_MAX && self.bytes <= BYTES_MAX {
                return;
            }
            self.bytes -= self.of_blocks.pop_front().unwrap_or(0);
            changes.drop_writes(self.first / WRITES_PER_BLOCK);
            self.first += WRITES_PER_BLOCK;
        }
    }

    fn push(&mut self, done: DoneWrite) {
        let serial = self.total();
        if serial.is_multiple_of(WRITES_PER_BLOCK) {
            self.of_blocks.push_back(0);
        }
        let bytes = done.bytes();
        self.bytes += bytes;
        if let Some(block) = self.of_blocks.back_mut() {
            *block += bytes;
        }
        let hash_of = done.hash();
        self.kept.push_back(done);
        let (kept, base) = (&self.kept, self.base);
        self.places
            .insert_unique(hash_of, serial, |serial| kept.get((*serial - base) as usize).map_or(0, DoneWrite::hash));
    }

    fn remove_first(&mut self) {
        let Some(done) = self.kept.pop_front() else { return };
        let serial = self.base;
        if let Ok(place) = self.places.find_entry(done.hash(), |other| *other == serial) {
            place.remove();
        }
        self.base += 1;
    }

    /// Puts a block back that was read from storage. They come in order.
    ///
    /// # Errors
    /// One that does not follow on the one before.
    pub fn restore(&mut self, block: u64, writes: Vec<DoneWrite>) -> Result<(), String> {
        let serial = block.saturating_mul(WRITES_PER_BLOCK);
        if self.kept.is_empty() {
            (self.base, self.first) = (serial, serial);
        }
        if serial != self.total() || writes.is_empty() || writes.len() as u64 > WRITES_PER_BLOCK {
            return Err(format!("the block {block} of named writes does not follow on {} of them", self.total()));
        }
        writes.into_iter().for_each(|done| self.push(done));
        Ok(())
    }
}

#[cfg(any(test, feature = "fuzzing", feature = "sim"))]
impl Writes {
    /// The blocks, as a store should have them.
    pub fn blocks(&self) -> Vec<(u64, Vec<DoneWrite>)> {
        let kept: Vec<DoneWrite> = (self.first..self.total()).filter_map(|serial| self.at(serial).cloned()).collect();
        let numbered = (self.first / WRITES_PER_BLOCK..).zip(kept.chunks(WRITES_PER_BLOCK as usize));
        numbered.map(|(block, writes)| (block, writes.to_vec())).collect()
    }
}
