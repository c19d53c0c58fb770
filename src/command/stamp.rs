//! What travels with commands beside the commands: the name of a write, and the limits of the leader.

use serde::{Deserialize, Serialize};

/// The name of a write, the same each time that it is sent: what tells a repetition from another write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteId {
    /// The process that took the call; drawn at its start.
    pub process: u64,
    /// Which of its writes.
    pub number: u64,
    /// How many named writes the sender had applied before it sent this one for the first time. An entry of the log that
    /// has this one comes after those.
    pub after: u64,
}

/// The most bytes that a name takes, with its place in a batch.
pub const WRITE_ID_BYTES: usize = 40;

/// Limits that new tasks are held against, by the configuration and the disk of the leader that made the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most tasks in the cluster.
    pub tasks_max: u64,
    /// Whether the leader's disk has room for new tasks.
    pub has_room: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { tasks_max: u64::MAX, has_room: true }
    }
}
