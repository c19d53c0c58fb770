//! What stands behind the seams in a simulation. All of it is of one thread: a simulation is one.

pub mod answers;
pub mod chance;
pub mod damage;
pub mod disk;
pub mod file;
pub mod net;
pub mod planted;

use std::cell::RefCell;

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A task has panicked whose panic ends the process in production.
pub(crate) fn note_panic(text: &str) {
    PANICS.with_borrow_mut(|panics| panics.push(text.to_owned()));
}

/// What was noted since this was asked last.
pub fn take_panics() -> Vec<String> {
    PANICS.take()
}

/// Whether this thread runs a simulation.
pub fn is_on() -> bool {
    chance::is_seeded()
}
