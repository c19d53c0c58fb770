//! How many bytes may be held at once, by all connections together; or how many of anything else that is counted.
//!
//! A limit for each request bounds nothing where there are ten thousand connections. Whoever holds bytes that came from
//! outside, or that wait to be taken there, holds as many of a [`Budget`].

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes, or whatever else is counted, that may be held at once.
#[derive(Debug)]
pub struct Budget {
    held: AtomicUsize,
    max: usize,
}

impl Budget {
    /// One of `max` bytes.
    pub fn new(max: usize) -> Budget {
        Budget { held: AtomicUsize::new(0), max }
    }

    /// How many are held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// What is held of a budget, which has it again when this is dropped.
#[derive(Debug)]
pub struct Hold<B: Deref<Target = Budget>> {
    budget: B,
    bytes: usize,
}

impl<B: Deref<Target = Budget>> Hold<B> {
    /// None of its bytes yet.
    pub fn new(budget: B) -> Hold<B> {
        Hold { budget, bytes: 0 }
    }

    /// Holds so many more, if there are so many left; whether there were.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let before = self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.budget.max {
            self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Holds so many more, whether there are so many left or not.
    pub fn grow_anyway(&mut self, bytes: usize) {
        self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// How many it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds exactly so many from now on, whether there are so many left or not.
    pub fn settle(&mut self, bytes: usize) {
        self.grow_anyway(bytes.saturating_sub(self.bytes));
        self.budget.held.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl<B: Deref<Target = Budget>> Drop for Hold<B> {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_back_and_no_more_is_given_than_there_is() {
        let budget = Budget::new(10);
        let mut first = Hold::new(&budget);
        assert!(first.grow(6) && first.grow(4));
        let mut second = Hold::new(&budget);
        assert!(second.grow(0) && !second.grow(1));
        drop(first);
        assert!(second.grow(10) && !second.grow(1) && !second.grow(usize::MAX));
        second.grow_anyway(5);
        assert_eq!(budget.held(), 15);
        second.settle(3);
        assert_eq!((budget.held(), second.bytes()), (3, 3));
        second.settle(12);
        assert_eq!((budget.held(), second.bytes()), (12, 12));
        drop(second);
        assert_eq!(budget.held(), 0);
    }
}
