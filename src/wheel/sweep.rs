//! Removing tombstones, one chunk at a time.
//!
//! A pass starts when tombstones are the majority, and each cancel takes it one chunk further. It is over after at most
//! n/31 cancels when it began with n entries, so that at no time much more than half of the entries are
//! tombstones. Only cancels make tombstones, so only they pay for them.

use super::chunks::{Chain, Walk};
use super::geometry::{LEVELS, SLOTS};
use super::Wheel;

/// Tombstones that are never worth a pass.
pub(super) const TOMBSTONES_MIN: usize = 4_096;

/// Where a pass stands. It goes through the slots, then through the far chains.
#[derive(Clone, Copy)]
pub(super) struct Sweep {
    place: Place,
    /// The walk through the chain of `place`, once begun.
    walk: Option<Walk>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Slot(usize),
    Far(u32),
}

impl Place {
    fn next(self) -> Option<Place> {
        match self {
            Place::Slot(index) if index + 1 < LEVELS * SLOTS => Some(Place::Slot(index + 1)),
            Place::Slot(_) => Some(Place::Far(0)),
            Place::Far(key) => key.checked_add(1).map(Place::Far),
        }
    }
}

impl<K: Copy> Wheel<K> {
    /// Sweeps one chunk, and starts a pass when none is under way.
    #[cold]
    #[inline(never)]
    pub(super) fn sweep_step(&mut self) {
        let Sweep { place, walk } = self.sweep.unwrap_or(Sweep { place: Place::Slot(0), walk: None });
        let Some(place) = self.first_occupied(place) else {
            self.sweep = None;
            return;
        };
        let chain = match place {
            Place::Slot(index) => Some(&mut self.slots[index]),
            Place::Far(key) => self.far.get_mut(&key),
        };
        let Some(chain) = chain else { return };
        let mut walk = walk.unwrap_or(Walk::from_newest(*chain));
        let Wheel { chunks, ids, tombstones, .. } = self;
        chunks.retain(chain, &mut walk, |entry| {
            let live = ids.is_live(entry.id);
            if !live {
                ids.release(entry.id);
                *tombstones -= 1;
            }
            live
        });
        let is_empty = chain.is_empty();
        if is_empty {
            *chain = Chain::EMPTY;
            match place {
                Place::Slot(index) => self.occupied[index / SLOTS] &= !(1 << (index % SLOTS)),
                Place::Far(key) => _ = self.far.remove(&key),
            }
        }
        self.sweep = if is_empty || walk.is_over() {
            place.next().map(|place| Sweep { place, walk: None })
        } else {
            Some(Sweep { place, walk: Some(walk) })
        };
    }

    /// The first place at or after `place` that holds something.
    fn first_occupied(&self, place: Place) -> Option<Place> {
        let from = match place {
            Place::Far(key) => key,
            Place::Slot(index) => {
                let mut level = index / SLOTS;
                let mut slots = self.occupied[level] & (u64::MAX << (index % SLOTS));
                while slots == 0 && level + 1 < LEVELS {
                    level += 1;
                    slots = self.occupied[level];
                }
                if slots != 0 {
                    return Some(Place::Slot(level * SLOTS + slots.trailing_zeros() as usize));
                }
                0
            }
        };
        self.far.range(from..).next().map(|(&key, _)| Place::Far(key))
    }

    /// Moves the pass on when it stands in a slot that entries will be taken from.
    #[inline]
    pub(super) fn leave_sweep_of_slot(&mut self, index: usize) {
        if self.sweep.is_some() {
            self.leave_sweep(Place::Slot(index));
        }
    }

    /// Moves the pass on when it stands in a far chain that will be opened.
    pub(super) fn leave_sweep_of_far(&mut self, key: u32) {
        self.leave_sweep(Place::Far(key));
    }

    fn leave_sweep(&mut self, leaving: Place) {
        if let Some(Sweep { place, .. }) = self.sweep {
            if place == leaving {
                self.sweep = place.next().map(|place| Sweep { place, walk: None });
            }
        }
    }
}
