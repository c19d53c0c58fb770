//! A hierarchical timing wheel: which timer is due, and when to look next.
//!
//! The wheel is pure. It reads no clock and does no I/O: [`Wheel::advance`] takes the time as an argument and appends
//! what is due. Its owner is one thread; it has no locks.
//!
//! # Geometry
//!
//! Six levels of 64 slots, and beyond them far chains. A deadline stands in the level of the highest six-bit digit in
//! which it differs from the time of the wheel, in the slot that this digit names:
//!
//! ```text
//!  level     one slot spans        the level spans
//!    0       1 ms                  64 ms             ┌─┬─┬─┬─ … ─┬─┐  64 slots, one u64 of occupancy
//!    1       64 ms                 4.1 s             ├─┼─┼─┼─ … ─┼─┤
//!    2       4.1 s                 4.4 min           ├─┼─┼─┼─ … ─┼─┤
//!    3       4.4 min               4.7 h             ├─┼─┼─┼─ … ─┼─┤
//!    4       4.7 h                 12.4 d            ├─┼─┼─┼─ … ─┼─┤
//!    5       12.4 d                2.18 y (2^36 ms)  └─┴─┴─┴─ … ─┴─┘
//!   far      49.7 d (2^32 ms)      all of u64        an ordered map of chains
//!
//!  slot ──> chunk ──> chunk ──> chunk               newest first, 31 entries each
//!           entry = low half of the deadline, timer number, key
//! ```
//!
//! When time reaches a slot above level 0, its entries move down to the levels below (they cascade), unless the whole
//! slot is due and small: then they are sorted and fire at once. Each slot knows its earliest deadline. Time moves on to
//! that before the entries move, so that those around it skip levels: a crowd that is due within a second goes from any
//! height to level 1 at once. A far chain cascades as if it were a slot, so that nothing special happens when the horizon
//! of the wheel rolls over.
//!
//! # Why this shape
//!
//! - **Chunks, not linked timers.** A linked list waits for memory once per timer; an array of entries streams.
//! - **Cancel leaves a tombstone**: it clears one bit. A cascade drops the tombstones that it meets, and when they are
//!   the majority, each further cancel sweeps one chunk, so that memory stays in proportion to the live timers.
//! - **Every call is bounded.** [`Wheel::advance`] does a limited number of units of work and says whether it got to
//!   the end; opening a slot of ten million timers is spread over as many calls as it takes. What is inserted or
//!   cancelled between two such calls is honoured by the second. Storage grows by blocks that are never copied.
//!
//! After G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987.

mod advance;
mod chunks;
mod geometry;
mod ids;
mod overdue;
mod sweep;
#[cfg(test)]
mod tests;

use chunks::{Chain, Chunks, Entry};
use geometry::{LEVELS, SLOTS};
use ids::Ids;
use overdue::Overdue;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use sweep::Sweep;

/// A limit for [`Wheel::advance`] that keeps a call well below 2 ms on commodity hardware, with ten million timers.
pub const ADVANCE_LIMIT: usize = 4_096;

/// Names a timer of one wheel. A handle whose timer fired or was cancelled stays harmless: [`Wheel::cancel`] says
/// `false` (until its number was reused 2^32 times).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timer {
    id: u32,
    generation: NonZeroU32,
}

/// Whether a call of [`Wheel::advance`] got to its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the wheel may want to be advanced again with the same time"]
pub enum Progress {
    /// All that is due at that time has come out.
    Reached,
    /// The limit stopped the call: more is due. Call again with the same time or a later one.
    Limited,
}

/// Timers with deadlines in milliseconds, each with a key that comes out when it is due.
///
/// Costs about 21 bytes per timer with a `u64` key, and 25 once timers have come and gone.
///
/// ```
/// use xcron::wheel::{Progress, Wheel, ADVANCE_LIMIT};
///
/// let mut wheel = Wheel::new(1_000);
/// let tea = wheel.insert(4_000, "tea");
/// wheel.insert(2_000, "toast");
/// assert!(wheel.cancel(tea));
///
/// let mut due = Vec::new();
/// assert_eq!(wheel.advance(5_000, ADVANCE_LIMIT, &mut due), Progress::Reached);
/// assert_eq!(due, [(2_000, "toast")]);
/// ```
pub struct Wheel<K: Copy> {
    /// Where time stands: all that is due before this has come out, or is in `overdue` or `ready`.
    cursor_ms: u64,
    /// Live timers.
    len: usize,
    /// Cancelled timers whose entries are still somewhere.
    tombstones: usize,
    occupied: [u64; LEVELS],
    slots: Box<[Chain; LEVELS * SLOTS]>,
    /// Chains of 2^32 ms beyond the horizon, by the upper half of their deadlines. A deadline that falls in the span
    /// of one of them is put there even when the levels could hold it, so that the spans of chains and slots never
    /// overlap.
    far: BTreeMap<u32, Chain>,
    /// What is left of the slot that starts at the cursor and is being cascaded.
    opening: Chain,
    /// A slot that was due as a whole, sorted; its span ends at the cursor.
    ready: advance::Ready<K>,
    /// What was due already when it was inserted.
    overdue: Overdue<K>,
    chunks: Chunks<K>,
    ids: Ids,
    sweep: Option<Sweep>,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel that stands at `now_ms`.
    ///
    /// To load a backlog with overdue timers, start at the earliest deadline of them: the wheel then sorts them by
    /// cascading, while timers inserted behind its time go through a heap (see [`Wheel::insert`]).
    pub fn new(now_ms: u64) -> Self {
        Wheel {
            cursor_ms: now_ms,
            len: 0,
            tombstones: 0,
            occupied: [0; LEVELS],
            slots: Box::new([Chain::EMPTY; LEVELS * SLOTS]),
            far: BTreeMap::new(),
            opening: Chain::EMPTY,
            ready: advance::Ready::new(),
            overdue: Overdue::new(),
            chunks: Chunks::new(),
            ids: Ids::new(),
            sweep: None,
        }
    }

    /// Adds a timer. Any deadline is legal; one at or before [`Wheel::elapsed_ms`] fires on the next advance, before
    /// all that are later, at the price of a heap: meant for few.
    ///
    /// # Panics
    ///
    /// When there are 2^32 timers already.
    #[inline]
    pub fn insert(&mut self, deadline_ms: u64, key: K) -> Timer {
        let timer = self.ids.take();
        self.len += 1;
        self.place(deadline_ms, Entry { low: deadline_ms as u32, id: timer.id, key });
        timer
    }

    /// Removes a timer. `false` when it fired or was cancelled before; never harms another timer.
    #[inline]
    pub fn cancel(&mut self, timer: Timer) -> bool {
        if !self.ids.bury(timer) {
            return false;
        }
        self.len -= 1;
        self.tombstones += 1;
        if self.tombstones > self.len + sweep::TOMBSTONES_MIN || self.sweep.is_some() {
            self.sweep_step();
        }
        true
    }

    /// When to call [`Wheel::advance`] next: at the earliest deadline, or earlier where the timer that was first was
    /// cancelled, or work is left over. `None` without timers.
    pub fn next_wake(&self) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        let pending = [self.overdue.first_ms(), self.ready.first_ms()].into_iter().flatten().min();
        if pending.is_some() {
            return pending;
        }
        if !self.opening.is_empty() {
            return Some(self.cursor_ms);
        }
        self.first_ms()
    }

    /// Live timers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is live.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where time stands: what was due before this has come out.
    pub fn elapsed_ms(&self) -> u64 {
        self.ready.first_ms().unwrap_or(self.cursor_ms)
    }

    /// Puts an entry where its deadline belongs.
    #[inline]
    fn place(&mut self, deadline_ms: u64, entry: Entry<K>) {
        if deadline_ms < self.cursor_ms {
            return self.overdue.push(deadline_ms, entry, &mut self.ids, &mut self.tombstones);
        }
        let level = geometry::level_of(self.cursor_ms, deadline_ms);
        if level >= LEVELS - 1 && self.place_far(level, deadline_ms, entry) {
            return;
        }
        let slot = geometry::slot_of(deadline_ms, level);
        self.occupied[level] |= 1 << slot;
        self.chunks.push(&mut self.slots[level * SLOTS + slot], entry);
    }

    /// Puts an entry into its far chain; false when it belongs in the wheel.
    #[cold]
    fn place_far(&mut self, level: usize, deadline_ms: u64, entry: Entry<K>) -> bool {
        let key = geometry::far_key(deadline_ms);
        if level >= LEVELS {
            self.chunks.push(self.far.entry(key).or_insert(Chain::EMPTY), entry);
            return true;
        }
        match self.far.get_mut(&key) {
            Some(chain) => {
                self.chunks.push(chain, entry);
                true
            }
            None => false,
        }
    }
}

impl<K: Copy> fmt::Debug for Wheel<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("elapsed_ms", &self.elapsed_ms())
            .field("len", &self.len)
            .field("tombstones", &self.tombstones)
            .finish_non_exhaustive()
    }
}
