//! Timers that were due already when they were inserted.
//!
//! Time in the wheel only goes forward, so what lies behind needs an order of its own: a heap. It empties on the next
//! advance.

use super::chunks::Entry;
use super::ids::Ids;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Entries below which looking for tombstones isn't worth it.
const PURGE_MIN: usize = 1_024;

pub(super) struct Overdue<K> {
    heap: BinaryHeap<Reverse<Late<K>>>,
    /// The size at which to look for tombstones. Doubling it keeps the search at constant cost per insert.
    purge_at: usize,
}

struct Late<K> {
    deadline_ms: u64,
    id: u32,
    key: K,
}

impl<K: Copy> Overdue<K> {
    pub(super) fn new() -> Self {
        Overdue { heap: BinaryHeap::new(), purge_at: PURGE_MIN }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    pub(super) fn first_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(late)| late.deadline_ms)
    }

    #[cold]
    pub(super) fn push(&mut self, deadline_ms: u64, entry: Entry<K>, ids: &mut Ids, tombstones: &mut usize) {
        if self.heap.len() >= self.purge_at {
            self.heap.retain(|Reverse(late)| {
                let live = ids.is_live(late.id);
                if !live {
                    ids.release(late.id);
                    *tombstones -= 1;
                }
                live
            });
            self.purge_at = PURGE_MIN.max(2 * self.heap.len());
        }
        self.heap.push(Reverse(Late { deadline_ms, id: entry.id, key: entry.key }));
    }

    /// Takes the earliest off: its deadline, timer number and key.
    pub(super) fn pop(&mut self) -> Option<(u64, u32, K)> {
        let Reverse(late) = self.heap.pop()?;
        if self.heap.is_empty() && self.heap.capacity() > PURGE_MIN {
            *self = Overdue::new();
        }
        Some((late.deadline_ms, late.id, late.key))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}

impl<K> Ord for Late<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.deadline_ms, self.id).cmp(&(other.deadline_ms, other.id))
    }
}

impl<K> PartialOrd for Late<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> PartialEq for Late<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<K> Eq for Late<K> {}
