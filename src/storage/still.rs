//! A disk that stands still, or is slow, for the tests.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

pub const READS: u8 = 1;
pub const WRITES: u8 = 2;
pub const SYNCS: u8 = 4;
/// Reads take a while.
pub const SLOW_READS: u8 = 8;

/// What does not return now.
#[derive(Default)]
pub struct Still(AtomicU8);

impl Still {
    pub fn set(&self, calls: u8) {
        self.0.store(calls, Ordering::SeqCst);
    }

    pub fn wait(&self, call: u8) {
        if call == READS && self.0.load(Ordering::SeqCst) & SLOW_READS != 0 {
            std::thread::sleep(Duration::from_millis(30));
        }
        while self.0.load(Ordering::SeqCst) & call != 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
