//! Messages that are not taken: said once, and again when that changes.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::monotonic;

/// Least time between two lines about the same peer: of a name that stands for two nodes every second message is
/// refused.
const QUIET: Duration = Duration::from_secs(10);
/// The most peers of which it is kept.
const PEERS_MAX: usize = 64;

/// Why the messages of some peers are not taken, as it was last said.
pub(super) struct Refusals<K>(Mutex<HashMap<K, (Option<String>, Instant)>>);

impl<K> Default for Refusals<K> {
    fn default() -> Self {
        Refusals(Mutex::default())
    }
}

impl<K: Eq + Hash> Refusals<K> {
    /// Takes note of whether a message was refused, and why; what is to be said, if that is something new.
    pub fn note(&self, peer: K, refused: Option<String>) -> Option<Option<String>> {
        self.note_at(peer, refused, monotonic())
    }

    fn note_at(&self, peer: K, refused: Option<String>, now: Instant) -> Option<Option<String>> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = said.len() >= PEERS_MAX;
        match said.get_mut(&peer) {
            None if refused.is_none() || is_full => None,
            None => {
                said.insert(peer, (refused.clone(), now));
                Some(refused)
            }
            Some((last, at)) if *last != refused && now.duration_since(*at) >= QUIET => {
                (*last, *at) = (refused.clone(), now);
                Some(refused)
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_said_once_and_again_when_it_changes() {
        let (refusals, why) = (Refusals::default(), |text: &str| Some(text.to_owned()));
        let (began, later) = (monotonic(), monotonic() + QUIET);
        assert_eq!(refusals.note_at(1, None, began), None, "nothing was refused");
        assert_eq!(refusals.note_at(1, why("a"), began), Some(why("a")));
        for _ in 0..3 {
            assert_eq!(refusals.note_at(1, why("a"), began), None);
            assert_eq!(refusals.note_at(1, None, began), None, "a name that stands for two nodes");
        }
        assert_eq!(refusals.note_at(1, why("b"), later), Some(why("b")));
        let taken = later + QUIET;
        assert_eq!((refusals.note_at(1, None, taken), refusals.note_at(1, None, taken)), (Some(None), None));
        let said = (2..200).filter(|peer| refusals.note_at(*peer, why("a"), taken).is_some()).count();
        assert_eq!(said, PEERS_MAX - 1);
    }
}
