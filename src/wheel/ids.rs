//! Timer numbers with generations, so that a handle outlives its timer without harm.
//!
//! A number is live, a tombstone (cancelled, its entry not yet removed) or free. Only removing the entry frees it. Which
//! numbers are live is a bit for each: that is all that an expiry reads at random, and a million of them stay in the
//! cache. A number's generation changes when it is given out, and is read again by a cancel only.

use super::Timer;
use std::num::NonZeroU32;

const BLOCK: usize = 1 << 14;

type Block = Box<[u32; BLOCK]>;

const WORD: usize = u64::BITS as usize;

type Bits = Box<[u64; BLOCK / WORD]>;

pub(super) struct Ids {
    /// The generation that was given out last.
    generations: Vec<Block>,
    /// As many blocks.
    live: Vec<Bits>,
    /// Numbers below were given out at least once since the last [`Ids::reset`].
    fresh: usize,
    free: Stack,
    /// What a new block starts with: no less than all that ever stood in a dropped one.
    first_generation: u32,
}

impl Ids {
    pub(super) fn new() -> Self {
        Ids { generations: Vec::new(), live: Vec::new(), fresh: 0, free: Stack::default(), first_generation: 0 }
    }

    /// Gives out a free number.
    #[inline]
    pub(super) fn take(&mut self) -> Timer {
        let id = match self.free.pop() {
            Some(id) => id,
            None => self.take_fresh(),
        };
        let generation = &mut self.generations[id as usize / BLOCK][id as usize % BLOCK];
        let next = NonZeroU32::new(generation.wrapping_add(1)).unwrap_or(NonZeroU32::MIN);
        *generation = next.get();
        let (word, bit) = self.live_word(id);
        debug_assert!(*word & bit == 0, "timer {id} is given out twice");
        *word |= bit;
        Timer { id, generation: next }
    }

    #[cold]
    #[inline(never)]
    fn take_fresh(&mut self) -> u32 {
        if self.fresh == self.generations.len() * BLOCK {
            assert!(self.fresh + BLOCK <= u32::MAX as usize, "{} timers: no numbers left", self.fresh);
            self.generations.push(block(self.first_generation));
            self.live.push(block(0));
        }
        let id = self.fresh as u32;
        self.fresh += 1;
        id
    }

    /// Makes a tombstone of a live timer; false when the handle is stale.
    #[inline]
    pub(super) fn bury(&mut self, timer: Timer) -> bool {
        let id = timer.id as usize;
        // A number can be out of range after `shrink`.
        let generation = self.generations.get(id / BLOCK).map(|block| block[id % BLOCK]);
        if generation != Some(timer.generation.get()) {
            return false;
        }
        let (word, bit) = self.live_word(timer.id);
        let live = *word & bit != 0;
        *word &= !bit;
        live
    }

    #[inline]
    pub(super) fn is_live(&self, id: u32) -> bool {
        let id = id as usize;
        self.live[id / BLOCK][id % BLOCK / WORD] >> (id % WORD) & 1 == 1
    }

    /// Frees a number whose entry was removed; tells whether it was live.
    #[inline]
    pub(super) fn release(&mut self, id: u32) -> bool {
        let (word, bit) = self.live_word(id);
        let live = *word & bit != 0;
        *word &= !bit;
        self.free.push(id);
        live
    }

    /// Takes every number back in one step. Only for a wheel without entries.
    pub(super) fn reset(&mut self) {
        self.fresh = 0;
        self.free.len = 0;
    }

    /// Drops a few blocks that nothing uses.
    pub(super) fn shrink(&mut self, blocks_kept: usize, blocks_max: usize) {
        for _ in 0..blocks_max {
            if self.generations.len() <= self.fresh.div_ceil(BLOCK).max(blocks_kept) {
                break;
            }
            self.live.pop();
            if let Some(block) = self.generations.pop() {
                self.first_generation = block.iter().fold(self.first_generation, |highest, &g| highest.max(g));
            }
        }
        self.free.shrink(blocks_kept, blocks_max);
    }

    /// The word that has the bit of a number, and the bit.
    #[inline]
    fn live_word(&mut self, id: u32) -> (&mut u64, u64) {
        let id = id as usize;
        (&mut self.live[id / BLOCK][id % BLOCK / WORD], 1 << (id % WORD))
    }
}

/// A stack in blocks: growing never copies. A list threaded through the free numbers would need no room of its own,
/// but each `take` would wait for the one before it to come from memory.
#[derive(Default)]
struct Stack {
    blocks: Vec<Block>,
    len: usize,
}

impl Stack {
    #[inline]
    fn push(&mut self, id: u32) {
        if self.len == self.blocks.len() * BLOCK {
            self.blocks.push(block(0));
        }
        self.blocks[self.len / BLOCK][self.len % BLOCK] = id;
        self.len += 1;
    }

    #[inline]
    fn pop(&mut self) -> Option<u32> {
        self.len = self.len.checked_sub(1)?;
        Some(self.blocks[self.len / BLOCK][self.len % BLOCK])
    }

    fn shrink(&mut self, blocks_kept: usize, blocks_max: usize) {
        let used = self.len.div_ceil(BLOCK).max(blocks_kept);
        self.blocks.truncate(used.max(self.blocks.len().saturating_sub(blocks_max)));
    }
}

fn block<T: Copy, const N: usize>(value: T) -> Box<[T; N]> {
    match vec![value; N].into_boxed_slice().try_into() {
        Ok(block) => block,
        Err(_) => unreachable!("the slice was made {N} long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_comes_back_with_a_new_generation() {
        let mut ids = Ids::new();
        let first = ids.take();
        assert!(ids.release(first.id), "{first:?} was live");
        let second = ids.take();
        assert_eq!(first.id, second.id);
        assert_ne!(first.generation, second.generation);
        assert!(!ids.bury(first));
        assert!(ids.bury(second));
        assert!(!ids.bury(second));
    }

    #[test]
    fn tombstone_is_not_given_out_before_its_entry_is_gone() {
        let mut ids = Ids::new();
        let first = ids.take();
        assert!(ids.bury(first));
        let second = ids.take();
        assert_ne!(first.id, second.id);
        assert!(!ids.release(first.id), "{first:?} was a tombstone");
        assert_eq!(ids.take().id, first.id);
    }

    #[test]
    fn generation_wraps_past_zero() {
        let mut ids = Ids::new();
        ids.first_generation = u32::MAX - 1;
        let last = ids.take();
        assert_eq!(last.generation.get(), u32::MAX);
        assert!(ids.bury(last));
        assert!(!ids.release(last.id));
        assert_eq!(ids.take().generation.get(), 1);
        assert!(!ids.bury(last));
    }

    #[test]
    fn handle_of_a_free_number_is_stale() {
        let mut ids = Ids::new();
        let (first, other) = (ids.take(), ids.take());
        assert!(ids.release(first.id));
        assert!(!ids.bury(first));
        assert!(!ids.is_live(first.id) && ids.is_live(other.id));
        assert!(ids.bury(other));
    }

    #[test]
    fn handle_from_a_dropped_block_stays_stale() {
        let mut ids = Ids::new();
        let timers: Vec<Timer> = (0..3 * BLOCK).map(|_| ids.take()).collect();
        for timer in &timers {
            ids.release(timer.id);
        }
        ids.reset();
        ids.shrink(0, usize::MAX);
        assert!(ids.generations.is_empty() && ids.free.blocks.is_empty());
        assert!(timers.iter().all(|&timer| !ids.bury(timer)));
        let again: Vec<Timer> = (0..3 * BLOCK).map(|_| ids.take()).collect();
        assert!(timers.iter().all(|&timer| !ids.bury(timer)));
        assert!(again.iter().all(|&timer| ids.bury(timer)));
    }
}
