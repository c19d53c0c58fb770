//! Raft between the nodes: the types that openraft is used with, and the peers' protocol.
//!
//! The protocol is HTTP/1.1 with keep-alive on `peer_port`: `POST /peer/1/<call>`, bodies in postcard. The number is the
//! version of the format. Each message names its cluster, its sender, the node that is meant, and its sender's
//! wall clock.

mod bodies;
mod connections;
mod envelope;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod heard;
mod lease;
mod links;
mod network;
mod office;
mod refusals;
mod runtime;
mod serve;
mod snapshots;
pub mod term;
mod types;
pub mod wire;

pub use connections::Sent;
pub use heard::{sign_of_life, Heard};
pub use lease::{others_needed, Inheritance, Lease, Moment};
pub use links::{Bears, CallError, Links, Presence, LARGE_BYTES};
pub use network::{Network, MESSAGE_BYTES_MAX};
pub use office::Office;
pub use runtime::election_timeout_ms;
pub use serve::{receive, routes, GroupSlot, Own, Rejection};
pub use snapshots::route as snapshot_route;
pub use types::{Payload, Replies, TypeConfig};

/// The Raft group of this node.
pub type Raft = openraft::Raft<TypeConfig>;
/// What a Raft group answers to a message of a leader.
pub type Appended = Result<openraft::raft::AppendEntriesResponse<u64>, openraft::error::RaftError<u64>>;

/// Whether who answers so follows the leader that has sent the message, or did when it answered.
pub fn is_followed(answer: &Appended) -> bool {
    !matches!(answer, Err(_) | Ok(openraft::raft::AppendEntriesResponse::HigherVote(_)))
}

/// A log id.
pub type LogId = openraft::LogId<u64>;
/// Who is in the cluster, and since which log entry.
pub type Membership = openraft::StoredMembership<u64, openraft::BasicNode>;
/// What a Raft group tells of itself.
pub type Metrics = openraft::RaftMetrics<u64, openraft::BasicNode>;
