//! What the peers say to each other beside Raft itself.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::command::Reply;
use crate::view::{Page, TargetView};

/// The header with the sender's node id; 0: it has none yet.
pub const HEADER_FROM: &str = "xcron-from";
/// The header with the sender's cluster; left out while it knows none.
pub const HEADER_CLUSTER: &str = "xcron-cluster";
/// The header with the sender's wall clock, unix milliseconds; in answers too.
pub const HEADER_CLOCK: &str = "xcron-clock";
/// Largest body of a message: the largest command alone, with what is around it.
pub const BODY_BYTES_MAX: usize = 48 << 20;

/// What a node tells of itself to a peer that asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its id; 0: it has none yet.
    pub node: u64,
    /// Its store.
    pub store: Uuid,
    /// Its cluster, once it knows it.
    pub cluster: Option<Uuid>,
    /// Whether it belongs to a cluster that has been formed.
    pub formed: bool,
    /// `host:http_port` of its public API.
    pub http: String,
    /// Its `monitor_port`.
    pub monitor: u16,
    /// Its version.
    pub version: String,
    /// The last log entry that it has applied.
    pub applied: Option<u64>,
    /// The last log entry that it has.
    pub last_log: Option<u64>,
    /// Its wall clock.
    pub clock: Timestamp,
    /// Whether its disk is nearly full.
    pub full: bool,
}

/// Asks for the right to act as a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// `host:peer_port` by which the cluster knows the node.
    pub peer: String,
    /// The store that wants to act for it.
    pub store: Uuid,
}

/// The answer to a [`ClaimRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClaimAnswer {
    /// The store may act as this node of this cluster.
    Granted {
        /// The node's id.
        node: u64,
        /// The cluster.
        cluster: Option<Uuid>,
    },
    /// Another store has acted as this node.
    Taken {
        /// The node's id.
        node: u64,
        /// The store that may.
        store: Uuid,
    },
    /// The cluster knows no node by this name.
    Stranger,
    /// It cannot be told now.
    NoLeader,
}

/// Commands for the leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProposeRequest {
    /// In the order of their results; each as [`crate::command::Encoded`] has it.
    pub commands: Vec<Bytes>,
    /// The term that the receiver leads, as the sender knows it. In another they must not be written: the sender may
    /// have given up on them, sent them again elsewhere, and told its caller that they are done.
    pub term: u64,
    /// How long the sender waits.
    pub timeout_ms: u64,
}

/// Why a peer did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// It does not lead, or cannot for now; nothing was written.
    NotLeader,
    /// It may have been written, or not.
    Unknown,
    /// Too many writes wait; nothing was written.
    Busy,
    /// Together they are larger than a log entry may be; nothing was written.
    TooLarge {
        /// How large they are.
        bytes: usize,
        /// How large they may be.
        limit: usize,
    },
    /// Its storage is full or failing; nothing was written.
    Storage(String),
}

/// The answer to a [`ProposeRequest`].
pub type ProposeAnswer = Result<Vec<Reply>, Refused>;

/// The answer to the question up to where a linearizable read must have applied the log.
pub type ReadIndexAnswer = Result<Option<u64>, Refused>;

/// The answer to the question what the leader knows of the targets.
pub type TargetsAnswer = Result<Page<TargetView>, Refused>;
