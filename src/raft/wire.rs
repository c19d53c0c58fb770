//! What the peers say to each other beside Raft itself.

use bytes::Bytes;
use openraft::raft::VoteRequest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::LogId;
use crate::clock::Timestamp;
use crate::command::{Reply, Seq, WriteId};
use crate::id::RunKey;
use crate::view::{Page, TargetView};

/// The header with the sender's node id; 0: it has none yet.
pub const HEADER_FROM: &str = "xcron-from";
/// The header with the sender's cluster; left out while it knows none.
pub const HEADER_CLUSTER: &str = "xcron-cluster";
/// The header with the sender's store.
pub const HEADER_STORE: &str = "xcron-store";
/// The header with a hash of the sender's `peer_hosts`.
pub const HEADER_LIST: &str = "xcron-list";
/// The header with the id of the node that is meant; left out: whoever is there.
pub const HEADER_TO: &str = "xcron-to";
/// The header with the store of the node that is meant; left out: the sender does not know it.
pub const HEADER_TO_STORE: &str = "xcron-to-store";
/// The header with the sender's wall clock, unix milliseconds; in answers too.
pub const HEADER_CLOCK: &str = "xcron-clock";
/// The header of an answer with for how many ms its sender votes for no other once it has heard a leader; left out by older
/// versions.
pub const HEADER_BEARS: &str = "xcron-bears";
/// Largest body of a message: the largest command alone, with what is around it.
pub const BODY_BYTES_MAX: usize = 48 << 20;

/// The [`Status::fault`] of a node that stops.
pub const FAULT_STOPS: u8 = u8::MAX;

/// What a node tells of itself to a peer that asks.
///
/// Nodes of different versions ask each other while a cluster is upgraded. So a message holds it as JSON, in which each
/// field has its name: a field that the reader does not know is passed over, and one that is missing has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, remote = "Self")]
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
    /// The version of the time zone data that it brings.
    pub zone_data: String,
    /// The last log entry that it has applied.
    pub applied: Option<u64>,
    /// The last log entry that it has.
    pub last_log: Option<u64>,
    /// Its wall clock.
    pub clock: Timestamp,
    /// How badly off it is; 0: it is fit to lead; [`FAULT_STOPS`]: it is about to end.
    pub fault: u8,
    /// Whether it has no room for more tasks.
    pub full: bool,
    /// The members that have for some time taken no large message of it; those too that do not answer it at all.
    pub unreached: Vec<String>,
    /// The process: another one has another.
    pub instance: Uuid,
    /// Its `peer_hosts`, sorted.
    pub peer_hosts: Vec<String>,
    /// Its `raft.heartbeat_ms`; 0, as the two that follow: an older version, which does not tell.
    pub heartbeat_ms: u64,
    /// Its `raft.election_timeout_min_ms`.
    pub election_timeout_min_ms: u64,
    /// Its `raft.election_timeout_max_ms`.
    pub election_timeout_max_ms: u64,
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return Status::serialize(self, serializer);
        }
        let json = serde_json::to_vec(self).map_err(serde::ser::Error::custom)?;
        Bytes::from(json).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Status, D::Error> {
        if deserializer.is_human_readable() {
            return Status::deserialize(deserializer);
        }
        let json = Bytes::deserialize(deserializer)?;
        serde_json::from_slice(&json).map_err(serde::de::Error::custom)
    }
}

/// Asks for a vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// As Raft asks.
    pub request: VoteRequest<u64>,
    /// The term and the id of the leader that has named the sender its successor, and is silent since. Whoever follows
    /// that leader need not wait until it has not been heard for long enough.
    pub sanction: Option<(u64, u64)>,
}

/// Asks, before an election, whether it would be won: so that a node that merely does not hear the leader does not end
/// its term.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Where the sender's log ends.
    pub last_log: Option<LogId>,
}

/// The answer to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opinion {
    /// The sender would have this node's vote.
    Yes,
    /// It would not: its log is behind, or this node has heard a leader lately.
    No,
    /// This node leads, and has not lost its majority.
    Leads,
}

/// Tells a follower to lead in place of the sender, which sends nothing more in its term.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOver {
    /// The sender's term.
    pub term: u64,
    /// The sender.
    pub leader: u64,
    /// What it has under way, for the dispatcher of the receiver.
    pub payload: Bytes,
}

/// The answer to a [`TakeOver`]: it stands for election.
pub type TakeOverAnswer = Result<(), Refused>;

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

/// The answer to a piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PieceAnswer {
    /// The node has it, and installed all if it was the last piece; or its vote is this greater one, and it takes none.
    Taken(openraft::Vote<u64>),
    /// It does not follow on what the node has: the snapshot is to be sent from its beginning.
    Again,
    /// The node cannot take it, and keeps what it had: why. With the last piece: the snapshot is damaged.
    Refused(String),
}

/// Asks a node for a part of its newest snapshot, for a node that has lost its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FetchRequest {
    /// The snapshot must have this log entry.
    pub at_least: openraft::LogId<u64>,
    /// The snapshot of which the part before came.
    pub id: Option<String>,
    /// Where the part begins.
    pub offset: u64,
}

/// The answer to a [`FetchRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FetchAnswer {
    /// A part of it; the last, where it ends at `bytes`.
    Part {
        /// Which snapshot.
        id: String,
        /// How large the whole is.
        bytes: u64,
        /// What begins at the offset.
        data: Vec<u8>,
    },
    /// The node has none that is new enough, or another one by now. It writes one, where it can: ask again.
    NotYet,
}

/// Commands for the leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProposeRequest {
    /// In the order of their results; each as [`crate::command::Encoded`] has it, with its name.
    pub commands: Vec<(Option<WriteId>, Bytes)>,
    /// The term that the receiver leads, as the sender knows it. In another they must not be written: the sender may
    /// have given up on them, sent them again elsewhere, and told its caller that they are done.
    pub term: u64,
    /// How long the sender waits.
    pub timeout_ms: u64,
}

/// What a replica held at a check, a command in the log. Replicas that are alike tell the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The index of the check's log entry.
    pub at: u64,
    /// How many records it had.
    pub records: u64,
    /// A checksum over them, the members, and what belongs to no task.
    pub digest: u64,
}

/// The answer to the question what a node held at a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckAnswer {
    /// This.
    Held(Checked),
    /// It has not come so far yet.
    NotYet,
    /// It cannot tell: it was making a checkpoint at that moment, or has come there by a snapshot.
    Untold,
}

/// An attempt: its task, its run, its number.
pub type AttemptKey = (Seq, RunKey, u32);

/// Attempts that a node has sent, or is about to, and whose outcomes are not recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    /// `host:peer_port` of the node.
    pub peer: String,
    /// The attempts.
    pub attempts: Vec<AttemptKey>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_another_version_is_understood() {
        let own = Status { node: 2, store: Uuid::from_u128(7), clock: Timestamp(9), fault: 3, ..Status::default() };
        let bytes = postcard::to_stdvec(&own).unwrap();
        assert_eq!(postcard::from_bytes::<Status>(&bytes).unwrap(), own);
        // A newer node tells more, an older one less.
        let json = |text: &str| postcard::to_stdvec(&Bytes::copy_from_slice(text.as_bytes())).unwrap();
        let newer = json(
            r#"{"node":2,"store":"00000000-0000-0000-0000-000000000007","moods":[1,{"a":null}],"clock":9,"fault":3}"#,
        );
        assert_eq!(postcard::from_bytes::<Status>(&newer).unwrap(), own);
        assert_eq!(postcard::from_bytes::<Status>(&json("{}")).unwrap(), Status::default());
        assert!(postcard::from_bytes::<Status>(&json(r#"{"node":"two"}"#)).is_err());
    }
}
