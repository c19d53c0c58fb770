//! A snapshot as openraft hands it about. Nothing is read or written on that way: what may fail has been done by then,
//! or is done where a failure ends a transfer and not the node.

use std::fmt;
use std::sync::Arc;

use super::receive::{Prepared, Unverified};
use crate::storage::kept::Kept;

/// What openraft calls the data of a snapshot.
pub enum Held {
    /// A snapshot of this node, to be sent.
    File(Arc<Kept>),
    /// One of another node, verified and durable, to be installed.
    Ready(Box<Prepared>),
    /// One of another node that nobody has looked at. Only where a bug is planted.
    Unverified(Unverified),
    /// openraft's own way to receive one, which is not used.
    Nothing,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Held::File(kept) => write!(f, "{}", kept.path().display()),
            Held::Ready(_) | Held::Unverified(_) => f.write_str("a received snapshot"),
            Held::Nothing => f.write_str("nothing"),
        }
    }
}
