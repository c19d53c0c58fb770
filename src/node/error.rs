//! Why a node could not do what was asked of it.

use std::time::Duration;

/// Why a write or a read has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing was written: there is no leader that a majority follows.
    #[error("no leader for now; nothing was written")]
    NoLeader,
    /// It may have been written, or not.
    #[error("the outcome is unknown after {0:?}: it may have been written")]
    Unknown(Duration),
    /// Nothing was written: too many writes wait.
    #[error("too many writes wait; nothing was written")]
    Busy,
    /// Nothing was written: the command alone is larger than a log entry may be.
    #[error("the change takes {bytes} bytes, and the limit is {limit}; nothing was written")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// How large it may be.
        limit: usize,
    },
    /// Nothing was written: the storage of the leader is full or failing.
    #[error("storage is full or failing: {0}")]
    Storage(String),
    /// A stored record could not be read.
    #[error("a record cannot be read: {0}")]
    Damaged(String),
    /// A cursor that this version did not give out.
    #[error("not a cursor of this list")]
    Cursor,
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
}
