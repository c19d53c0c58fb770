//! Moving time: firing, cascading, and stopping at the limit.
//!
//! Work is counted in entries. What a call leaves unfinished is held in two places only: `opening`, the rest of a slot
//! that starts at the cursor and is being cascaded, and `ready`, sorted entries of a slot that ends at the cursor.
//! Each is emptied before the next slot is touched, so at most one of them holds something.

use super::chunks::{Chain, Entry, Taken, CHUNK};
use super::geometry::{self, SLOTS};
use super::{Progress, Wheel};

/// The largest slot that is sorted. A larger one is cascaded, even when it is due as a whole: a sort can't be
/// stopped half way.
const SORT_MAX: usize = 2_048;

/// Units that a timer from the heap of overdue ones counts for: its way down the heap misses the cache a few times.
const OVERDUE_UNITS: usize = 4;

/// Blocks of each kind that an empty wheel keeps, and gives back per call beyond that.
const BLOCKS_KEPT: usize = 16;
const BLOCKS_DROPPED: usize = 16;

/// A slot or far chain that isn't empty.
#[derive(Clone, Copy)]
pub(super) struct Event {
    start_ms: u64,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Slot { level: usize, slot: usize },
    Far(u32),
}

/// Sorted entries that are due, and how far they have come out.
pub(super) struct Ready<K> {
    entries: Vec<Entry<K>>,
    fired: usize,
    /// Any time in the slot that they are from.
    place_ms: u64,
}

impl<K: Copy> Ready<K> {
    pub(super) fn new() -> Self {
        Ready { entries: Vec::new(), fired: 0, place_ms: 0 }
    }

    #[inline]
    pub(super) fn first_ms(&self) -> Option<u64> {
        self.entries.get(self.fired).map(|entry| geometry::join(self.place_ms, entry.low))
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.fired == self.entries.len()
    }
}

impl<K: Copy> Wheel<K> {
    /// Moves time to at most `now_ms` and appends to `out` what is due, deadline and key, earliest first. The order
    /// within one millisecond is not specified. A time before [`Wheel::elapsed_ms`] counts as that.
    ///
    /// A call does at most `limit` units of work (at least one): a unit is an entry fired, cascaded or sorted. Among
    /// timers that were present at the time, order also holds across calls that stop at the limit. See
    /// [`super::ADVANCE_LIMIT`].
    pub fn advance(&mut self, now_ms: u64, limit: usize, out: &mut Vec<(u64, K)>) -> Progress {
        let now_ms = now_ms.max(self.cursor_ms);
        let limit = limit.max(1);
        let mut budget = limit;
        loop {
            self.fire_pending(&mut budget, out);
            self.cascade(&mut budget);
            if !(self.overdue.is_empty() && self.ready.is_empty() && self.opening.is_empty()) {
                return Progress::Limited;
            }
            let Some(event) = self.next_event().filter(|event| event.start_ms <= now_ms) else { break };
            if budget == 0 {
                return Progress::Limited;
            }
            match event.place {
                Place::Slot { level: 0, slot } => self.fire_slot(slot, event.start_ms, &mut budget, out),
                Place::Slot { level, slot } => {
                    let index = level * SLOTS + slot;
                    let chain = self.slots[index];
                    let last_ms = geometry::slot_last(event.start_ms, level);
                    let len = self.chunks.len_max(chain);
                    let sorted = last_ms <= now_ms && len <= SORT_MAX.min(limit);
                    if sorted && len > budget {
                        // The next call has room for it.
                        return Progress::Limited;
                    }
                    self.leave_sweep_of_slot(index);
                    self.slots[index] = Chain::EMPTY;
                    self.occupied[level] &= !(1 << slot);
                    if sorted {
                        self.sort(chain, last_ms, &mut budget);
                    } else {
                        self.open(chain, event.start_ms, now_ms);
                    }
                }
                Place::Far(key) => {
                    self.leave_sweep_of_far(key);
                    let chain = self.far.remove(&key).unwrap_or(Chain::EMPTY);
                    self.open(chain, event.start_ms, now_ms);
                }
            }
        }
        self.cursor_ms = now_ms;
        if self.len == 0 && self.tombstones == 0 {
            self.give_back();
        }
        Progress::Reached
    }

    /// The first slot or far chain in time. Every occupied slot lies ahead of the cursor's digit in its level (or at
    /// it, in level 0), so lower levels are always earlier than higher ones.
    #[inline]
    pub(super) fn next_event(&self) -> Option<Event> {
        let far = self.far.first_key_value().map(|(&key, _)| key);
        let level = self.occupied.iter().position(|&slots| slots != 0);
        let near = level.map(|level| {
            let slot = self.occupied[level].trailing_zeros() as usize;
            Event { start_ms: geometry::slot_start(self.cursor_ms, level, slot), place: Place::Slot { level, slot } }
        });
        match (near, far) {
            (near, None) => near,
            (Some(near), Some(key)) if near.start_ms < geometry::far_start(key) => Some(near),
            (_, Some(key)) => Some(Event { start_ms: geometry::far_start(key), place: Place::Far(key) }),
        }
    }

    /// The first deadline, or an earlier time where the timer that was first was cancelled.
    pub(super) fn first_ms(&self) -> Option<u64> {
        let Event { start_ms, place } = self.next_event()?;
        let chain = match place {
            Place::Slot { level, slot } => Some(&self.slots[level * SLOTS + slot]),
            Place::Far(key) => self.far.get(&key),
        };
        Some(chain.map_or(start_ms, |chain| geometry::join(start_ms, chain.low_min())))
    }

    /// Starts the cascade of a chain whose span starts at `start_ms`. Time moves on to its first entry at once, so that
    /// entries close to that one skip the levels between.
    fn open(&mut self, chain: Chain, start_ms: u64, now_ms: u64) {
        debug_assert!(start_ms >= self.cursor_ms, "opened {start_ms} from {}", self.cursor_ms);
        debug_assert!(self.opening.is_empty(), "opened {start_ms} before {} was done", self.cursor_ms);
        let first_ms = geometry::join(start_ms, chain.low_min());
        debug_assert!(first_ms >= start_ms, "{first_ms} stands in a slot from {start_ms}");
        self.cursor_ms = first_ms.min(now_ms);
        self.opening = chain;
    }

    /// Moves entries of the open slot down. Tombstones are dropped here, so that none is moved twice.
    fn cascade(&mut self, budget: &mut usize) {
        while *budget > 0 && !self.opening.is_empty() {
            let mut taken = self.chunks.take(&mut self.opening, *budget);
            *budget -= taken.as_slice().len();
            if self.tombstones > 0 {
                self.drop_tombstones(&mut taken);
            }
            for &entry in taken.as_slice() {
                self.place(geometry::join(self.cursor_ms, entry.low), entry);
            }
        }
    }

    #[inline]
    fn drop_tombstones(&mut self, taken: &mut Taken<K>) {
        let mut dead = [0; CHUNK];
        let mut count = 0;
        taken.retain(|entry| {
            let live = self.ids.is_live(entry.id);
            dead[count] = entry.id;
            count += usize::from(!live);
            live
        });
        for &id in &dead[..count] {
            self.ids.release(id);
        }
        self.tombstones -= count;
    }

    /// Fires a slot of level 0, or as much of it as the budget allows.
    fn fire_slot(&mut self, slot: usize, at_ms: u64, budget: &mut usize, out: &mut Vec<(u64, K)>) {
        self.leave_sweep_of_slot(slot);
        self.cursor_ms = at_ms;
        while *budget > 0 {
            let mut taken = self.chunks.take(&mut self.slots[slot], *budget);
            let len = taken.as_slice().len();
            *budget -= len;
            taken.retain(|entry| self.ids.release(entry.id));
            let live = taken.as_slice();
            self.len -= live.len();
            self.tombstones -= len - live.len();
            out.extend(live.iter().map(|entry| (at_ms, entry.key)));
            if self.slots[slot].is_empty() {
                self.slots[slot] = Chain::EMPTY;
                self.occupied[0] &= !(1 << slot);
                return;
            }
        }
    }

    /// Sorts a chain that is due up to `last_ms`, without its tombstones.
    fn sort(&mut self, mut chain: Chain, last_ms: u64, budget: &mut usize) {
        debug_assert!(self.ready.is_empty(), "{} entries at {last_ms} not fired", self.ready.entries.len());
        self.cursor_ms = last_ms;
        self.ready.place_ms = last_ms;
        self.ready.fired = 0;
        self.ready.entries.clear();
        while !chain.is_empty() {
            let mut taken = self.chunks.take(&mut chain, usize::MAX);
            *budget = budget.saturating_sub(taken.as_slice().len());
            self.drop_tombstones(&mut taken);
            self.ready.entries.extend_from_slice(taken.as_slice());
        }
        self.ready.entries.sort_unstable_by_key(|entry| entry.low);
    }

    /// Fires what is overdue and what is ready, in one order.
    fn fire_pending(&mut self, budget: &mut usize, out: &mut Vec<(u64, K)>) {
        while *budget > 0 && !self.overdue.is_empty() {
            match self.ready.first_ms() {
                Some(ready_ms) if Some(ready_ms) <= self.overdue.first_ms() => self.fire_ready(1, budget, out),
                _ => {
                    *budget = budget.saturating_sub(OVERDUE_UNITS);
                    let Some((deadline_ms, id, key)) = self.overdue.pop() else { break };
                    if self.ids.release(id) {
                        self.len -= 1;
                        out.push((deadline_ms, key));
                    } else {
                        self.tombstones -= 1;
                    }
                }
            }
        }
        if !self.ready.is_empty() {
            self.fire_ready(usize::MAX, budget, out);
        }
    }

    fn fire_ready(&mut self, max: usize, budget: &mut usize, out: &mut Vec<(u64, K)>) {
        let from = self.ready.fired;
        let to = self.ready.entries.len().min(from.saturating_add(max.min(*budget)));
        for entry in &self.ready.entries[from..to] {
            if self.ids.release(entry.id) {
                self.len -= 1;
                out.push((geometry::join(self.ready.place_ms, entry.low), entry.key));
            } else {
                self.tombstones -= 1;
            }
        }
        self.ready.fired = to;
        *budget -= to - from;
    }

    /// Lets an empty wheel shrink, a few blocks at a time.
    fn give_back(&mut self) {
        self.sweep = None;
        self.chunks.reset();
        self.ids.reset();
        self.chunks.shrink(BLOCKS_KEPT, BLOCKS_DROPPED);
        self.ids.shrink(BLOCKS_KEPT, BLOCKS_DROPPED);
    }
}
