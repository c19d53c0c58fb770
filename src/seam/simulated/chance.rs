//! Chance from a seed.

use std::cell::RefCell;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

thread_local! {
    static CHANCE: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From here on this thread runs the simulation of this seed.
pub fn seed(seed: u64) {
    CHANCE.set(Some(StdRng::seed_from_u64(seed)));
}

/// This thread runs no simulation any more.
pub fn end() {
    CHANCE.set(None);
}

/// Whether this thread runs a simulation.
pub fn is_seeded() -> bool {
    CHANCE.with_borrow(Option::is_some)
}

/// Draws from the simulation's chance; none: this thread runs no simulation.
pub fn draw<T>(draw: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    CHANCE.with_borrow_mut(|chance| chance.as_mut().map(draw))
}

/// A UUID of the simulated time.
pub(crate) fn uuid() -> Option<Uuid> {
    let bytes: [u8; 10] = draw(Rng::random)?;
    Some(uuid::Builder::from_unix_timestamp_millis(crate::clock::simulated_ms(), &bytes).into_uuid())
}
