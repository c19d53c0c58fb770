//! A state in doubt is replaced by that of another node: the leader, where one is known.

use std::time::Duration;

use super::super::{health, rescue, Node};
use crate::raft::LogId;
use crate::seam;
use crate::storage::{self, doubt};

/// Between two looks whether there is a doubt.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After an attempt that failed: the leader may have to write the snapshot first.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Replaces the state whenever it is in doubt, for as long as the node runs.
pub(super) async fn run(node: &Node) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // Nothing is applied while there is a doubt: what the snapshot must have does not change any more.
        let (Some(_), Some(applied)) = (node.in_doubt(), node.0.machine.applied()) else { continue };
        // Where no leader is known, any other will do, since one that is in doubt itself gives nothing.
        let peers = node.leader_address().map_or_else(|| node.other_members(), |leader| vec![leader]);
        match replace(node, &peers, applied).await {
            Ok(()) => node.trust().await,
            Err(error) => {
                tracing::warn!(peers = peers.join(", "), error, "the state in doubt is not replaced yet");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// An error: why the last peer that was asked has not helped.
async fn replace(node: &Node, peers: &[String], applied: LogId) -> Result<(), String> {
    let mut failed = "there is no peer to ask".to_owned();
    for peer in peers {
        match rescue::fetch_from(&node.0.links, &node.0.config, peer, applied).await {
            Ok(bytes) => {
                node.0.machine.replace().await.map_err(|error| error.to_string())?;
                tracing::info!(peer, bytes, "the state of this peer has taken the place of the one in doubt");
                return Ok(());
            }
            Err(error) => failed = error.to_string(),
        }
    }
    Err(failed)
}

impl Node {
    /// Another state has taken the place of the one in doubt, durably.
    async fn trust(&self) {
        let dir = self.0.config.raft_dir.clone();
        let cleared = seam::blocking(move || doubt::clear(&dir)).await;
        let cleared = cleared.unwrap_or_else(|panic| {
            Err(storage::Error::Damaged { path: self.0.config.raft_dir.clone(), detail: panic.to_string() })
        });
        if let Err(error) = cleared {
            return self.fail(format!("the mark of a state in doubt cannot be removed: {error}"));
        }
        health::note(self, |faults| faults.state = None);
        self.0.machine.hold(false);
    }
}
