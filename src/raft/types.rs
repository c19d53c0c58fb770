//! What openraft is instantiated with.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::Reply;

openraft::declare_raft_types!(
    /// The types of xcron's Raft group.
    pub TypeConfig:
        D = Payload,
        R = Replies,
        NodeId = u64,
        Node = openraft::BasicNode,
        SnapshotData = crate::storage::machine::Held,
        AsyncRuntime = super::runtime::Runtime,
);

/// An encoded [`crate::command::Batch`]: encoded once by the leader, copied to the log and the peers as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Payload(pub Bytes);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

/// What the commands of a batch answered, in their order; empty for entries that are no batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Replies(pub Vec<Reply>);
