//! What this node is as a leader; shared by what sends its messages.

use std::sync::{Mutex, PoisonError};

use super::Lease;

/// Whether this node may send as a leader, and by whom it was named one.
#[derive(Debug)]
pub struct Office {
    /// Who acknowledges it, and what it has given up.
    pub lease: Lease,
    /// The leader, by its term and id, that has named this node its successor.
    sanction: Mutex<Option<(u64, u64)>>,
}

impl Office {
    /// An office that this node does not hold yet.
    pub fn new(lease: Lease) -> Self {
        Office { lease, sanction: Mutex::default() }
    }

    /// The leader of this term has named this node its successor.
    pub fn succeed(&self, term: u64, leader: u64) {
        *self.sanction.lock().unwrap_or_else(PoisonError::into_inner) = Some((term, leader));
    }

    /// By whom the election of this term is sanctioned: it must be the one right after the leader's own.
    pub(super) fn sanction(&self, term: u64) -> Option<(u64, u64)> {
        self.sanction.lock().unwrap_or_else(PoisonError::into_inner).filter(|(of, _)| of + 1 == term)
    }
}
