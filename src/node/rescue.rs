//! A node that has lost its state gets one from another node, before it takes part.
//!
//! Its log and its vote are sound: what it has promised stands. What is missing lies before the beginning of its log, and
//! all of that is committed: any snapshot of any member that reaches so far will do. Until it has one the node does
//! not run: it does not vote, lead or answer.

use std::time::Duration;

use super::{Node, StartError};
use crate::clock::Clock;
use crate::config::{Config, HostPort};
use crate::raft::wire::{FetchAnswer, FetchRequest};
use crate::raft::{CallError, Links, LogId, Rejection};
use crate::seam;
use crate::storage::identity::Identity;
use crate::storage::{self, Rescue};

/// So much is asked for at a time.
const PART_BYTES: usize = 1 << 20;
/// Longest wait for a part; with the first, the snapshot is verified.
const PART_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two rounds of asking all peers.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// After so many rounds it is said again that none has answered with one.
const SAY_EVERY: u32 = 30;

/// Why a peer gave no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error("it has none that is new enough yet")]
    NotYet,
}

/// Where a node cannot be opened since its state is `lost`: fetches a snapshot from a peer into its directory. Waits for
/// one for as long as it takes.
///
/// # Errors
/// `lost`, where it is something else or there is nobody to ask; and what this node's disk refuses.
pub(crate) async fn fetch(config: &Config, own: &HostPort, clock: Clock, lost: StartError) -> Result<(), StartError> {
    let StartError::Storage(storage::Error::StateLost { purged, .. }) = lost else { return Err(lost) };
    #[cfg(feature = "sim")]
    seam::simulated::disk::lose_state(&config.raft_dir);
    let own = own.to_string();
    let peers: Vec<String> = config.peers().iter().map(ToString::to_string).filter(|peer| *peer != own).collect();
    let Some(identity) = Identity::read(&config.raft_dir)?.filter(|_| !peers.is_empty()) else { return Err(lost) };
    tracing::error!(error = %lost, peers = peers.join(", "), "this node has lost its state and asks the others for a snapshot");
    let links = Links::new(clock, Duration::from_millis(config.raft.election_timeout_min_ms.max(200)));
    links.settle(identity.store, &config.peers(), Box::new(|_| None));
    links.introduce(identity.node, identity.cluster);
    for round in 1.. {
        for peer in &peers {
            match fetch_from(&links, config, peer, purged).await {
                Ok(bytes) => {
                    tracing::info!(peer, bytes, "a snapshot was fetched; the state is rebuilt from it");
                    return Ok(());
                }
                Err(FetchError::Storage(error @ storage::Error::Io { .. })) => return Err(error.into()),
                Err(error) if round % SAY_EVERY == 1 => {
                    tracing::warn!(peer, %error, "no snapshot from this peer; all are asked until one has it");
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Err(lost)
}

/// How many bytes it has.
pub(super) async fn fetch_from(links: &Links, config: &Config, peer: &str, purged: LogId) -> Result<u64, FetchError> {
    let dir = config.raft_dir.clone();
    let panicked = |panic| storage::Error::Damaged { path: config.raft_dir.clone(), detail: format!("{panic}") };
    let (mut file, mut known, mut offset) = (None::<Rescue>, None, 0);
    loop {
        let request = FetchRequest { at_least: purged, id: known.clone(), offset };
        let answer = links.call::<_, FetchAnswer>(peer, "fetch_snapshot", &request, PART_TIMEOUT).await?;
        let FetchAnswer::Part { id, bytes, data } = answer else { return Err(FetchError::NotYet) };
        if known.as_ref().is_some_and(|known| *known != id) || (data.is_empty() && offset < bytes) {
            return Err(FetchError::NotYet);
        }
        offset += data.len() as u64;
        let (begun, dir) = (file.take(), dir.clone());
        let written = seam::blocking(move || {
            let mut file = begun.map_or_else(|| Rescue::begin(&dir), Ok)?;
            file.write(&data)?;
            if offset < bytes {
                return Ok(Some(file));
            }
            file.keep(purged).map(|_| None)
        });
        match written.await.map_err(panicked)?? {
            Some(more) => (file, known) = (Some(more), Some(id)),
            None => return Ok(bytes),
        }
    }
}

/// A part of this node's newest snapshot, for a node that has lost its state.
pub(super) async fn answer(node: &Node, request: FetchRequest) -> Result<FetchAnswer, Rejection> {
    let sound = Some(&node.0.machine).filter(|_| node.in_doubt().is_none());
    let kept = sound.and_then(|machine| machine.snapshot_with(request.at_least));
    let Some(kept) = kept else { return Ok(FetchAnswer::NotYet) };
    let id = kept.meta().snapshot_id.clone();
    if request.id.is_some_and(|known| known != id) {
        return Ok(FetchAnswer::NotYet);
    }
    let read = async {
        kept.verify().await?;
        kept.read(&mut kept.open().await?, request.offset, PART_BYTES).await
    };
    let data = read.await.map_err(|error| Rejection::unavailable(&error.to_string()))?;
    Ok(FetchAnswer::Part { id, bytes: kept.bytes(), data })
}
