//! Snapshots between nodes, sent and received in pieces.
//!
//! openraft's own way takes each error of a disk for the end of the node, and hands the last piece on before anybody has
//! looked at the whole. Here a sender's disk that cannot read ends the transfer, and a receiver gives openraft only what
//! it has verified and made durable ([`Machine::receive`]).

use std::future::Future;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::Router;
use openraft::error::{Fatal, ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::{InstallSnapshotRequest, SnapshotResponse};
use openraft::{Snapshot, Vote};

use super::heard::{sign_of_life, Heard};
use super::links::CallError;
use super::network::{Peer, MESSAGE_BYTES_MAX};
use super::serve::{group, other_history, receive, GroupSlot, Own, Rejection};
use super::wire::PieceAnswer;
use super::{Raft, TypeConfig};
use crate::clock::Clock;
use crate::storage::machine::{Held, Received};
use crate::storage::{self, Machine};

/// Longest wait for the answer to a piece. The last one is answered once all is installed.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// A piece is sent so often, and a transfer begun anew.
const TRIES_MAX: u32 = 5;
/// Between two tries of a piece.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// After a transfer that failed: the next begins with the first piece.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a transfer has ended.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("there is no snapshot to send yet; one is being written")]
    Missing,
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("node {0} has refused the snapshot: {1}")]
    Refused(u64, String),
    #[error("node {0} wants the snapshot from its beginning again and again")]
    Restarts(u64),
}

type Sent = Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>>;

/// Sends a snapshot to a peer. What fails ends this transfer, and openraft begins another one.
pub(super) async fn send(
    peer: &mut Peer,
    vote: Vote<u64>,
    snapshot: Snapshot<TypeConfig>,
    cancel: impl Future<Output = ReplicationClosed>,
) -> Sent {
    let node = peer.target;
    let transfer = async {
        match transfer(peer, vote, *snapshot.snapshot).await {
            Ok(vote) => Ok(SnapshotResponse::new(vote)),
            Err(error) => {
                tracing::warn!(node, %error, "a snapshot was not sent; it is tried again");
                tokio::time::sleep(PAUSE).await;
                Err(Unreachable::new(&error).into())
            }
        }
    };
    tokio::select! {
        closed = cancel => Err(closed.into()),
        sent = transfer => sent,
    }
}

/// The vote of the peer, which has installed the snapshot unless its vote is a greater one.
async fn transfer(peer: &mut Peer, vote: Vote<u64>, held: Held) -> Result<Vote<u64>, SendError> {
    let Held::File(kept) = held else { return Err(SendError::Missing) };
    if kept.bytes() == 0 {
        return Err(SendError::Missing);
    }
    kept.verify().await?;
    let mut file = kept.open().await?;
    let (mut offset, mut failures, mut restarts) = (0, 0, 0);
    loop {
        let data = kept.read(&mut file, offset, MESSAGE_BYTES_MAX as usize).await?;
        let next = offset + data.len() as u64;
        let done = next == kept.bytes();
        let meta = kept.meta().clone();
        let piece = InstallSnapshotRequest::<TypeConfig> { vote, meta, offset, data, done };
        match peer.send_piece(&piece, PIECE_TIMEOUT).await {
            Ok(PieceAnswer::Taken(theirs)) => {
                if theirs > vote || done {
                    return Ok(theirs);
                }
                (offset, failures) = (next, 0);
            }
            Ok(PieceAnswer::Again) => {
                restarts += 1;
                if restarts >= TRIES_MAX {
                    return Err(SendError::Restarts(peer.target));
                }
                offset = 0;
            }
            Ok(PieceAnswer::Refused(why)) => {
                kept.recheck();
                return Err(SendError::Refused(peer.target, why));
            }
            Err(error) => {
                failures += 1;
                if failures >= TRIES_MAX {
                    return Err(error.into());
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

type Piece = InstallSnapshotRequest<TypeConfig>;

/// The route on which pieces are received.
pub fn route(slot: GroupSlot, clock: Clock, heard: Heard, own: Own, machine: Machine) -> Router {
    type Parts = (GroupSlot, Clock, Heard, Own, Machine);
    async fn snapshot(
        State((slot, clock, heard, own, machine)): State<Parts>,
        body: Bytes,
    ) -> Result<Response, Rejection> {
        let raft = group(&slot)?;
        receive(body, |piece: Piece| async {
            // A piece of a snapshot is no sign of life to openraft: a node that was too busy with them to answer its
            // heartbeats in time stood for election, and so ended the term of who sent them, again and again.
            // Whatever is wrong with it, the answer to the piece tells as well.
            let _ = heard.append(raft, &clock, sign_of_life(piece.vote)).await;
            // A sender that waits no longer must not break off what is under way.
            let taken = tokio::spawn(take(raft.clone(), own, machine, piece)).await;
            Ok(taken.unwrap_or_else(|ended| PieceAnswer::Refused(ended.to_string())))
        })
        .await
    }
    Router::new().route("/peer/1/snapshot", post(snapshot)).with_state((slot, clock, heard, own, machine))
}

async fn take(raft: Raft, node: Own, machine: Machine, piece: Piece) -> PieceAnswer {
    let Piece { vote, meta, offset, data, done } = piece;
    let (own, committed) = match raft.with_raft_state(|state| (*state.vote_ref(), state.committed)).await {
        Ok(own) => own,
        Err(fatal) => return PieceAnswer::Refused(fatal.to_string()),
    };
    if vote < own {
        return PieceAnswer::Taken(own);
    }
    // What is in a snapshot is committed, as is what this node has applied: no leader can lack it but one of another history.
    let refuse = |theirs, ours| {
        let reason = other_history(&vote, theirs, ours);
        (node.fail)(reason.clone());
        PieceAnswer::Refused(reason)
    };
    if let Some((theirs, ours)) = meta.last_log_id.and_then(|id| Some((id, machine.applied_instead_of(id)?))) {
        return refuse(theirs, ours);
    }
    // All that is in it this node has, perhaps by an earlier transfer whose answer was lost.
    // Where the state was replaced beside Raft, it can be further than Raft knows of, and the log has to follow.
    if meta.last_log_id <= machine.applied() && meta.last_log_id <= committed {
        return PieceAnswer::Taken(own);
    }
    if machine.is_held() {
        // Behind entries that are not applied it would never be installed. The node asks for one itself.
        return PieceAnswer::Refused("the node's state is in doubt and is being replaced".to_owned());
    }
    let received = match machine.receive(&meta, offset, &data, done).await {
        Ok(received) => received,
        Err(storage::Error::OtherHistory { ours, theirs }) => return refuse(theirs, ours),
        Err(error) => {
            tracing::error!(%error, "a snapshot of another node cannot be taken; this node keeps its own state");
            return PieceAnswer::Refused(error.to_string());
        }
    };
    match received {
        Received::More => PieceAnswer::Taken(own),
        Received::Again => PieceAnswer::Again,
        Received::Ready(held) => {
            match raft.install_full_snapshot(vote, Snapshot { meta, snapshot: Box::new(held) }).await {
                Ok(installed) => PieceAnswer::Taken(installed.vote),
                Err(fatal) => PieceAnswer::Refused(fatal.to_string()),
            }
        }
    }
}
