//! Timer numbers with generations, so that a handle outlives its timer without harm.
//!
//! A generation is odd while its number is free or in use, and even while the number is a tombstone: cancelled, its
//! entry not yet removed. Only removing the entry frees the number. One `u32` per timer keeps the array that is
//! read at random on every cancel and expiry as small as it can be.

use super::Timer;
use std::num::NonZeroU32;

const BLOCK: usize = 1 << 14;

type Block = Box<[u32; BLOCK]>;

pub(super) struct Ids {
    generations: Vec<Block>,
    /// Numbers below were given out at least once since the last [`Ids::reset`].
    fresh: usize,
    free: Stack,
    /// What a new block starts with: above all that ever stood in a dropped one.
    first_generation: u32,
}

impl Ids {
    pub(super) fn new() -> Self {
        Ids { generations: Vec::new(), fresh: 0, free: Stack::default(), first_generation: 1 }
    }

    /// Gives out a free number.
    #[inline]
    pub(super) fn take(&mut self) -> Timer {
        let id = match self.free.pop() {
            Some(id) => id,
            None => self.take_fresh(),
        };
        let generation = *self.generation(id);
        debug_assert!(generation & 1 == 1, "free timer {id} has even generation {generation}");
        // The or changes nothing on an odd number; it proves to the compiler that the result isn't zero.
        Timer { id, generation: NonZeroU32::MIN | generation }
    }

    #[cold]
    #[inline(never)]
    fn take_fresh(&mut self) -> u32 {
        if self.fresh == self.generations.len() * BLOCK {
            assert!(self.fresh + BLOCK <= u32::MAX as usize, "{} timers: no numbers left", self.fresh);
            self.generations.push(block(self.first_generation));
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
        let Some(block) = self.generations.get_mut(id / BLOCK) else { return false };
        let generation = &mut block[id % BLOCK];
        let live = *generation == timer.generation.get();
        *generation = generation.wrapping_add(u32::from(live));
        live
    }

    #[inline]
    pub(super) fn is_live(&self, id: u32) -> bool {
        self.generations[id as usize / BLOCK][id as usize % BLOCK] & 1 == 1
    }

    /// Frees a number whose entry was removed; tells whether it was live.
    #[inline]
    pub(super) fn release(&mut self, id: u32) -> bool {
        let generation = self.generation(id);
        let live = *generation & 1;
        *generation = generation.wrapping_add(1 + live);
        self.free.push(id);
        live == 1
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
            if let Some(block) = self.generations.pop() {
                let highest = block.iter().fold(self.first_generation, |highest, &generation| highest.max(generation));
                self.first_generation = highest | 1;
            }
        }
        self.free.shrink(blocks_kept, blocks_max);
    }

    #[inline]
    fn generation(&mut self, id: u32) -> &mut u32 {
        &mut self.generations[id as usize / BLOCK][id as usize % BLOCK]
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

fn block(value: u32) -> Block {
    match vec![value; BLOCK].into_boxed_slice().try_into() {
        Ok(block) => block,
        Err(_) => unreachable!("the slice was made {BLOCK} long"),
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
    fn generation_wraps_from_odd_to_odd() {
        let mut ids = Ids::new();
        ids.first_generation = u32::MAX;
        let last = ids.take();
        assert_eq!(last.generation.get(), u32::MAX);
        assert!(ids.bury(last));
        assert!(!ids.release(last.id));
        assert_eq!(ids.take().generation.get(), 1);
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
