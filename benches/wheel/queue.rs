//! What all queues can do, and those that need no crate: ours, a binary heap, and a tree as the truth.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use xcron::wheel::{Progress, Timer, Wheel, ADVANCE_LIMIT};

/// A timer queue. Times are milliseconds from its making; each key is inserted once.
pub trait Queue {
    const NAME: &'static str;
    /// Whether one advance fires in the order of the deadlines.
    const ORDERED: bool = true;
    type Handle;

    fn new() -> Self;
    fn insert(&mut self, deadline_ms: u64, key: u64) -> Self::Handle;
    /// Of a timer that waits.
    fn cancel(&mut self, handle: Self::Handle);
    /// One call; false when it must be called again for the same time.
    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool;
    /// When it wants to be advanced next; it may be too early. None: it is empty.
    fn next_wake(&mut self) -> Option<u64>;

    fn advance(&mut self, now_ms: u64, out: &mut Vec<u64>) {
        while !self.advance_once(now_ms, out) {}
    }
}

pub struct Ours {
    wheel: Wheel<u64>,
    due: Vec<(u64, u64)>,
}

impl Queue for Ours {
    const NAME: &'static str = "xcron";
    type Handle = Timer;

    fn new() -> Self {
        Ours { wheel: Wheel::new(0), due: Vec::with_capacity(ADVANCE_LIMIT) }
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> Timer {
        self.wheel.insert(deadline_ms, key)
    }

    fn cancel(&mut self, handle: Timer) {
        assert!(self.wheel.cancel(handle), "{handle:?} is stale");
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        let progress = self.wheel.advance(now_ms, ADVANCE_LIMIT, &mut self.due);
        out.extend(self.due.drain(..).map(|(_, key)| key));
        progress == Progress::Reached
    }

    fn next_wake(&mut self) -> Option<u64> {
        self.wheel.next_wake()
    }
}

/// The usual way with a heap: what was cancelled stays in it, with a bit to know it by.
pub struct Heap {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    /// A bit for each key.
    cancelled: Vec<u64>,
}

impl Heap {
    fn is_cancelled(&self, key: u64) -> bool {
        self.cancelled[key as usize / 64] >> (key % 64) & 1 == 1
    }
}

impl Queue for Heap {
    const NAME: &'static str = "binary-heap";
    type Handle = u64;

    fn new() -> Self {
        Heap { heap: BinaryHeap::new(), cancelled: Vec::new() }
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> u64 {
        if key as usize / 64 >= self.cancelled.len() {
            self.cancelled.push(0);
        }
        self.heap.push(Reverse((deadline_ms, key)));
        key
    }

    fn cancel(&mut self, handle: u64) {
        self.cancelled[handle as usize / 64] |= 1 << (handle % 64);
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        while let Some(&Reverse((deadline_ms, key))) = self.heap.peek() {
            if deadline_ms > now_ms {
                break;
            }
            self.heap.pop();
            if !self.is_cancelled(key) {
                out.push(key);
            }
        }
        true
    }

    fn next_wake(&mut self) -> Option<u64> {
        while let Some(&Reverse((deadline_ms, key))) = self.heap.peek() {
            if !self.is_cancelled(key) {
                return Some(deadline_ms);
            }
            self.heap.pop();
        }
        None
    }
}

/// The truth.
pub struct Tree(BTreeMap<(u64, u64), ()>);

impl Queue for Tree {
    const NAME: &'static str = "btree-map";
    type Handle = (u64, u64);

    fn new() -> Self {
        Tree(BTreeMap::new())
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> Self::Handle {
        self.0.insert((deadline_ms, key), ());
        (deadline_ms, key)
    }

    fn cancel(&mut self, handle: Self::Handle) {
        assert!(self.0.remove(&handle).is_some(), "{handle:?} is stale");
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        while let Some(entry) = self.0.first_entry() {
            if entry.key().0 > now_ms {
                break;
            }
            out.push(entry.remove_entry().0 .1);
        }
        true
    }

    fn next_wake(&mut self) -> Option<u64> {
        self.0.first_key_value().map(|(&(deadline_ms, _), ())| deadline_ms)
    }
}
