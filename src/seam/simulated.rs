//! What stands behind the seams in a simulation. All of it is of one thread: a simulation is one.

pub mod chance;
pub mod disk;
pub mod file;
pub mod net;
pub mod planted;

/// Whether this thread runs a simulation.
pub fn is_on() -> bool {
    chance::is_seeded()
}
