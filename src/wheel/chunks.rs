//! Entries in chains of chunks, and the blocks that the chunks live in.
//!
//! A list of single timers would cost one dependent cache miss per timer; a chunk costs one per thirty-one, and the next
//! chunk is known while this one is worked on. Blocks are never moved, so growing to millions of timers copies nothing.

/// Marks the end of a chain.
const NONE: u32 = u32::MAX;

/// Entries to a chunk: eight cache lines with a `u64` key. Half of them cost an expiry a fifth more; twice as many gain
/// little, and waste more in slots of a few timers.
pub(super) const CHUNK: usize = 31;

/// Chunks to a block: 62 KiB with a `u64` key.
const BLOCK: usize = 128;

/// A timer in its slot. The upper half of its deadline follows from where it stands.
#[derive(Clone, Copy)]
pub(super) struct Entry<K> {
    pub(super) low: u32,
    pub(super) id: u32,
    pub(super) key: K,
}

#[derive(Clone, Copy)]
struct Chunk<K> {
    next: u32,
    len: u32,
    entries: [Entry<K>; CHUNK],
}

/// A list of chunks, newest first. New entries go into the newest; none is ever empty. Only a sweep leaves other
/// chunks than the newest partly filled.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    newest: u32,
    chunks: u32,
    /// No entry's `low` is below; exact until the entry is taken off or cancelled.
    low_min: u32,
}

impl Chain {
    pub(super) const EMPTY: Chain = Chain { newest: NONE, chunks: 0, low_min: u32::MAX };

    /// A lower bound of the entries' `low`.
    #[inline]
    pub(super) fn low_min(&self) -> u32 {
        self.low_min
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.newest == NONE
    }
}

/// A few entries taken off a chain.
pub(super) struct Taken<K> {
    entries: [Entry<K>; CHUNK],
    from: usize,
    to: usize,
}

impl<K: Copy> Taken<K> {
    #[inline]
    pub(super) fn as_slice(&self) -> &[Entry<K>] {
        &self.entries[self.from..self.to]
    }

    /// Drops those for which `keep` doesn't hold. Without a branch, which would wait for each answer and be guessed
    /// wrong.
    #[inline]
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Entry<K>) -> bool) {
        let mut to = self.from;
        for at in self.from..self.to {
            let entry = self.entries[at];
            self.entries[to] = entry;
            to += usize::from(keep(&entry));
        }
        self.to = to;
    }
}

/// Where a walk through a chain stands. Entries may be added to the chain between steps, but none taken off.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    before: u32,
    at: u32,
}

impl Walk {
    pub(super) fn from_newest(chain: Chain) -> Self {
        Walk { before: NONE, at: chain.newest }
    }

    pub(super) fn is_over(&self) -> bool {
        self.at == NONE
    }
}

/// All chunks of a wheel.
pub(super) struct Chunks<K> {
    blocks: Vec<Box<[Chunk<K>; BLOCK]>>,
    /// Chunks below were given out at least once since the last [`Chunks::reset`].
    fresh: usize,
    free: u32,
}

impl<K: Copy> Chunks<K> {
    pub(super) fn new() -> Self {
        Chunks { blocks: Vec::new(), fresh: 0, free: NONE }
    }

    /// Adds an entry to a chain.
    #[inline]
    pub(super) fn push(&mut self, chain: &mut Chain, entry: Entry<K>) {
        chain.low_min = chain.low_min.min(entry.low);
        if chain.newest != NONE {
            let chunk = self.get(chain.newest);
            let len = chunk.len as usize;
            if len < CHUNK {
                chunk.entries[len] = entry;
                chunk.len += 1;
                return;
            }
        }
        self.push_chunk(chain, entry);
    }

    #[inline(never)]
    fn push_chunk(&mut self, chain: &mut Chain, entry: Entry<K>) {
        let at = if self.free != NONE { self.free } else { self.take_fresh(entry) };
        let chunk = self.get(at);
        let next_free = chunk.next;
        chunk.next = chain.newest;
        chunk.len = 1;
        chunk.entries[0] = entry;
        self.free = next_free;
        chain.newest = at;
        chain.chunks += 1;
    }

    #[cold]
    fn take_fresh(&mut self, filler: Entry<K>) -> u32 {
        if self.fresh == self.blocks.len() * BLOCK {
            assert!(self.fresh + BLOCK <= NONE as usize, "{} chunks: no numbers left", self.fresh);
            let chunk = Chunk { next: NONE, len: 0, entries: [filler; CHUNK] };
            match vec![chunk; BLOCK].into_boxed_slice().try_into() {
                Ok(block) => self.blocks.push(block),
                Err(_) => unreachable!("the slice was made {BLOCK} long"),
            }
        }
        let at = self.fresh as u32;
        // A chunk of an old block remembers a neighbour from before the reset.
        self.get(at).next = NONE;
        self.fresh += 1;
        at
    }

    /// Takes up to `max` entries off the newest chunk. The chain must not be empty, nor `max` zero.
    #[inline]
    pub(super) fn take(&mut self, chain: &mut Chain, max: usize) -> Taken<K> {
        debug_assert!(max > 0 && !chain.is_empty(), "take {max} of {} chunks", chain.chunks);
        let at = chain.newest;
        let free = self.free;
        let chunk = self.get(at);
        let to = chunk.len as usize;
        let from = to.saturating_sub(max);
        let taken = Taken { entries: chunk.entries, from, to };
        if from > 0 {
            chunk.len = from as u32;
            return taken;
        }
        chain.newest = chunk.next;
        chain.chunks -= 1;
        // Last in, first out: a cascade fills the chunk that it has just read, while it is in the cache.
        chunk.next = free;
        self.free = at;
        taken
    }

    /// The number of entries in a chain; an upper bound when it was swept.
    #[inline]
    pub(super) fn len_max(&self, chain: Chain) -> usize {
        if chain.is_empty() {
            return 0;
        }
        let newest = &self.blocks[chain.newest as usize / BLOCK][chain.newest as usize % BLOCK];
        (chain.chunks as usize - 1) * CHUNK + newest.len as usize
    }

    /// Keeps the entries of one chunk for which `keep` holds, moves them to the chunk before when there is room, and
    /// steps to the next chunk. The walk must not be over.
    pub(super) fn retain(&mut self, chain: &mut Chain, walk: &mut Walk, mut keep: impl FnMut(&Entry<K>) -> bool) {
        if walk.before == NONE {
            // Chunks may have come in front of the one where the walk begins.
            *walk = Walk::from_newest(*chain);
        }
        let Walk { before, at } = *walk;
        let mut chunk = *self.get(at);
        let mut kept = 0;
        for i in 0..chunk.len as usize {
            let entry = chunk.entries[i];
            if keep(&entry) {
                chunk.entries[kept] = entry;
                kept += 1;
            }
        }
        walk.at = chunk.next;
        if before != NONE && kept > 0 {
            let into = self.get(before);
            let len = into.len as usize;
            if len + kept <= CHUNK {
                into.entries[len..len + kept].copy_from_slice(&chunk.entries[..kept]);
                into.len += kept as u32;
                kept = 0;
            }
        }
        if kept > 0 {
            chunk.len = kept as u32;
            *self.get(at) = chunk;
            walk.before = at;
            return;
        }
        if before == NONE {
            chain.newest = chunk.next;
        } else {
            self.get(before).next = chunk.next;
        }
        chain.chunks -= 1;
        self.get(at).next = self.free;
        self.free = at;
    }

    /// Takes every chunk back in one step. Only for a wheel whose chains are all empty.
    pub(super) fn reset(&mut self) {
        self.fresh = 0;
        self.free = NONE;
    }

    /// Drops a few blocks that nothing uses.
    pub(super) fn shrink(&mut self, blocks_kept: usize, blocks_max: usize) {
        let used = self.fresh.div_ceil(BLOCK).max(blocks_kept);
        self.blocks.truncate(used.max(self.blocks.len().saturating_sub(blocks_max)));
    }

    #[cfg(test)]
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    #[inline]
    fn get(&mut self, at: u32) -> &mut Chunk<K> {
        &mut self.blocks[at as usize / BLOCK][at as usize % BLOCK]
    }
}
