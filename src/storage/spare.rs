//! Descriptors that are held back for the store.
//!
//! sled opens a file for each large value that it writes or reads, and a write that fails half way leaves a store of which
//! nobody knows what it has. So a few descriptors are held, and let go of right before they are needed.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More than sled has open at once beside its own file.
const MANY: usize = 8;

/// Descriptors that are held back.
#[derive(Default)]
pub(super) struct Spare(Mutex<Vec<File>>);

impl Spare {
    fn held(&self) -> MutexGuard<'_, Vec<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes those that are missing, as copies of this one; whether all are there.
    pub fn fill(&self, file: &File) -> bool {
        let mut held = self.held();
        while held.len() < MANY {
            match file.try_clone() {
                Ok(copy) => held.push(copy),
                Err(_) => return false,
            }
        }
        true
    }

    /// Lets go of them while `act` runs.
    pub fn lend<T>(&self, file: &File, act: impl FnOnce() -> T) -> T {
        self.held().clear();
        let result = act();
        self.fill(file);
        result
    }
}

/// Whether the process, or the machine, had no descriptor left.
pub(crate) fn is_exhausted(error: &std::io::Error) -> bool {
    [libc::EMFILE, libc::ENFILE].map(Some).contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_is_there_again_after_it_was_lent() {
        let (spare, file) = (Spare::default(), tempfile::tempfile().unwrap());
        assert!(spare.fill(&file));
        assert_eq!(spare.lend(&file, || spare.held().len()), 0);
        assert_eq!(spare.held().len(), MANY);
    }
}
