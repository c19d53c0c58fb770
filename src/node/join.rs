//! How a node comes to take part in its cluster.
//!
//! A store that has an identity takes part at once. An empty one must not yet: if it is an old member's that was lost,
//! it has forgotten votes that others count on. So it first asks the peers:
//!
//! - one belongs to a formed cluster: the leader is asked for the right to act as the member of this address. It is
//!   granted to one store only, by a command in the log, so that a store that was lost is never replaced by an empty
//!   one under the same id. The store's own id is durable before it asks: a node that is killed before it hears the answer
//!   asks again as the same store;
//! - enough are as empty as this one to make a majority with it: together they form the cluster. Each initializes it
//!   with the same members, so it does not matter who is first.
//!
//! Before either it looks who answers at its own address, as the peers do. Where that is another process, two nodes have
//! the same address in their configurations: both would ask, vote and claim as the same member, and two clusters could be
//! formed. A store that has taken part and knows no cluster yet looks as well, since no claim tells the two apart. Where
//! nobody answers, nothing is to be learnt: not every network leads a node's own address back to it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::error::{InitializeError, RaftError};
use openraft::{BasicNode, SnapshotPolicy};
use tokio::sync::watch;
use uuid::Uuid;

use super::neighbours::{self, Waits};
use super::Node;
use crate::clock::monotonic;
use crate::command::{Command, Refusal, Reply};
use crate::raft::wire::{ClaimAnswer, ClaimRequest, Status};
use crate::raft::{self, term, Network, Raft};
use crate::seam;
use crate::storage::{self, identity::Identity};

/// How often what is not urgent in Raft's metrics is passed on.
const METRICS_EVERY: Duration = Duration::from_millis(50);

/// By then a panic of Raft has ended the process.
const PANIC_TOLD: Duration = Duration::from_secs(1);

/// After an attempt to write the identity that failed.
const WRITE_AGAIN: Duration = Duration::from_millis(500);

/// How often a node that has no place yet asks who is there.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The cluster knows another store under this address.
    #[error(
        "this node's directory is empty, and the cluster knows {peer} as node {node}, which has voted with another store \
         ({store}). An empty store must not vote in its place: put the old directory back. To replace a node whose store \
         is lost, the cluster has to add it under a new id (POST /xcron/addNode with \"replace\": true), which this version \
         cannot do yet"
    )]
    Taken {
        /// `host:peer_port` of this node.
        peer: String,
        /// The node's id.
        node: u64,
        /// The store that may act under it.
        store: Uuid,
    },
    /// The cluster has no member with this address.
    #[error("the cluster that the peers belong to has no member {0}: its members are those of `peer_hosts` when it was formed, and \
         this version cannot add one yet")]
    Stranger(String),
    /// The directory belongs to another node.
    #[error(
        "the directory belongs to the node {found}, and this one is {own}. A node of a cluster keeps its address: give it \
         back the old one, since the others reach it there alone (names in `peer_hosts` can move to another address). For a \
         single node, `advertise = \"{found}\"` will do. If the directory is a copy of another node's, start with an \
         empty one: two processes must never act as one node"
    )]
    OtherNode {
        /// The address in the directory.
        found: String,
        /// This node's.
        own: String,
    },
    /// What openraft or the disk refused.
    #[error("{0}")]
    Failed(String),
}

/// More entries than there will be: openraft purges none by itself. It would purge up to a number of entries behind the
/// newest snapshot, and take back what it was asked to purge beyond that, where it had to wait with it.
const NEVER_PURGED: u64 = u64::MAX / 2;

fn failed(error: impl ToString) -> JoinError {
    JoinError::Failed(error.to_string())
}

impl Node {
    /// Takes part in the cluster; waits for peers where it must. The peers' port must be served by then.
    ///
    /// # Errors
    /// Each variant of [`JoinError`]; the node cannot go on.
    pub async fn join(&self) -> Result<(), JoinError> {
        let known = self.identity().clone();
        let mut identity = match known {
            Some(identity) if identity.peer != self.0.own.to_string() => {
                return Err(JoinError::OtherNode { found: identity.peer, own: self.0.own.to_string() });
            }
            Some(identity) if identity.node != 0 => identity,
            _ => self.find_place().await?,
        };
        self.note_wait(&Waits::Start);
        identity.starts = self.count_start(identity.starts).await?;
        self.write_identity(&identity).await;
        if identity.cluster.is_none() {
            // As late as can be: from here on it votes, and no claim tells it from another of the same address.
            self.await_own_address().await;
        }
        self.0.links.introduce(identity.node, identity.cluster);
        tracing::info!(node = identity.node, peer = identity.peer, store = %identity.store, "taking part");
        let forms = identity.cluster.is_none();
        let id = identity.node;
        *self.identity() = Some(identity);

        let raft = self.start_raft(id).await?;
        if forms && !raft.is_initialized().await.map_err(failed)? {
            match raft.initialize(self.first_members()).await {
                // Another member was faster: its log has the same first entry.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.0.group.set(raft).map_err(|_| failed("the node takes part already"))?;
        // A single node need not wait to lead.
        self.0.raft_metrics.send_modify(|_| ());
        Ok(())
    }

    /// Who this node is, as far as it is written down.
    pub(super) fn identity(&self) -> MutexGuard<'_, Option<Identity>> {
        self.0.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this durable before anything is done in its name. What cannot be written now, since no descriptors or no room
    /// are left, say, is tried again.
    async fn write_identity(&self, identity: &Identity) {
        while let Err(error) = self.replace_identity(identity.clone()).await {
            self.note_wait(&Waits::Identity(error.to_string()));
            tokio::time::sleep(WRITE_AGAIN).await;
        }
    }

    /// Writes the file `identity` anew: another file is at its path then, which is this node's.
    async fn replace_identity(&self, identity: Identity) -> Result<(), storage::Error> {
        let node = self.clone();
        let written = seam::blocking(move || {
            let dir = &node.0.config.raft_dir;
            let mut file = node.0.identity_file.lock().unwrap_or_else(PoisonError::into_inner);
            let written = identity.write(dir);
            // Whether it is there says nothing of whether it is durable.
            *file = Identity::anchor(dir).or(file.take());
            written
        });
        written.await.unwrap_or_else(|panic| Err(storage::Error::damaged(&self.0.config.raft_dir, panic)))
    }

    /// Counts this start of a node that had `starts` by its identity. The log knows of it first: so a log that knows of
    /// fewer starts than the identity is an older copy, and of an identity that is one the log tells how many there were.
    async fn count_start(&self, starts: u64) -> Result<u64, JoinError> {
        let in_log = self.0.log.facts().starts;
        if in_log > starts + 1 {
            tracing::warn!(
                identity = starts,
                log = in_log,
                "the Raft log knows of more starts than the file `identity`, which seems to be an older copy; the greater counts"
            );
        }
        let starts = starts.max(in_log) + 1;
        self.0.log.note_start(starts).await.map_err(failed)?;
        Ok(starts)
    }

    async fn start_raft(&self, id: u64) -> Result<Raft, JoinError> {
        let settings = &self.0.config.raft;
        let min = settings.election_timeout_min_ms;
        let config = openraft::Config {
            cluster_name: "xcron".to_owned(),
            // Also how long it waits for the answer to what it sends.
            heartbeat_interval: (settings.heartbeat_ms * 2).min(min - 2),
            // How long it waits for a vote.
            election_timeout_min: min - 1,
            // How long it votes for no other once it has heard a leader.
            election_timeout_max: min,
            // This node drives them itself.
            enable_elect: false,
            install_snapshot_timeout: 60_000,
            // An entry is a batch: a few are much.
            max_payload_entries: 16,
            // Only what was purged is sent as a snapshot: the log is the cheaper way for all else.
            replication_lag_threshold: u64::MAX,
            snapshot_policy: SnapshotPolicy::Never,
            purge_batch_size: NEVER_PURGED,
            ..openraft::Config::default()
        };
        let config = Arc::new(config.validate().map_err(failed)?);
        let patience = Duration::from_millis(settings.heartbeat_ms);
        let network = Network::new(self.0.links.clone(), self.0.office.clone(), patience);
        term::retire(&mut self.0.log.clone(), id).await.map_err(failed)?;
        if self.0.machine.is_held() {
            // What is committed and not applied yet would be applied first, and the others may need this node's log before
            // any of them has a state for it.
            self.0.log.forget_committed();
        }
        self.0.heard.begin();
        let raft = Raft::new(id, config, network, self.0.log.clone(), self.0.machine.clone()).await.map_err(failed)?;
        let mut metrics = raft.metrics();
        self.know_members(&metrics.borrow());
        self.0.raft_metrics.send_replace(Some(metrics.borrow_and_update().clone()));
        tokio::spawn(pass_on(metrics, self.clone()));
        Ok(raft)
    }

    /// Whether a cluster has been formed that this node belongs to, or has asked for a place.
    pub(super) fn knows_a_cluster(&self) -> bool {
        let identity = self.identity();
        let asks = identity.as_ref().is_some_and(|identity| identity.node == 0);
        drop(identity);
        asks || self.0.machine.with_state(|s| s.cluster()).is_some()
    }

    /// Whether the log has the stores of a majority of the members, by what this node has applied. Before that nothing
    /// but the claims is written: then of those who have acknowledged a write, so many are known by their stores that
    /// those who come back empty can form no cluster without it.
    pub(super) fn is_founded(&self) -> bool {
        if self.0.founded.load(Ordering::Relaxed) {
            return true;
        }
        let voters: Vec<u64> = {
            let metrics = self.0.raft_metrics.borrow();
            metrics.iter().flat_map(|metrics| metrics.membership_config.voter_ids()).collect()
        };
        let claimed =
            self.0.machine.with_state(|s| voters.iter().filter(|voter| s.claims().contains_key(voter)).count());
        let founded = claimed > voters.len() / 2;
        self.0.founded.fetch_or(founded, Ordering::Relaxed);
        founded
    }

    /// The members that the configuration names: their ids are their places in the sorted list.
    fn first_members(&self) -> std::collections::BTreeMap<u64, BasicNode> {
        let peers = self.0.config.peers();
        if peers.is_empty() {
            return [(1, BasicNode::new(self.0.own.to_string()))].into();
        }
        (1..).zip(peers).map(|(id, peer)| (id, BasicNode::new(peer.to_string()))).collect()
    }

    /// For an empty store: its place, in a cluster that is formed or one that is to be.
    async fn find_place(&self) -> Result<Identity, JoinError> {
        let members = self.first_members();
        let own = self.0.own.to_string();
        let others: Vec<String> = members.values().map(|n| n.addr.clone()).filter(|a| *a != own).collect();
        let (store, log) = (self.0.store, self.0.log.facts().number);
        let identity = |node, cluster| Identity { store, node, peer: own.clone(), cluster, starts: 0, log };
        loop {
            let asks = self.knows_a_cluster();
            let asked = futures::future::join_all(others.iter().map(|peer| self.ask_status(peer)));
            let (answers, is_taken) = tokio::join!(asked, self.is_own_address_taken());
            let answers = others.iter().zip(answers).filter_map(|(peer, status)| Some((peer.as_str(), status?)));
            let answers = neighbours::distinct(self.0.store, answers);
            let peer_hosts = self.own_status().peer_hosts;
            // One that only waits for a place itself can pass no claim on.
            let formed = answers.iter().filter(|(_, status)| status.formed).max_by_key(|(_, status)| status.node != 0);
            let waits = if is_taken {
                Waits::OwnAddress(own.clone())
            } else if let Some((peer, _)) = formed {
                if !asks {
                    let asking = identity(0, None);
                    self.write_identity(&asking).await;
                    *self.identity() = Some(asking);
                }
                match self.claim(peer).await {
                    Some(ClaimAnswer::Granted { node, cluster }) => return Ok(identity(node, cluster)),
                    Some(ClaimAnswer::Taken { node, store }) => {
                        return Err(JoinError::Taken { peer: own, node, store })
                    }
                    Some(ClaimAnswer::Stranger) => return Err(JoinError::Stranger(own)),
                    Some(ClaimAnswer::NoLeader) | None => Waits::Leader { of: (*peer).to_owned() },
                }
            } else if asks {
                Waits::Members { answered: answers.len(), of: others.len() }
            } else if let Some(differing) = neighbours::differing(&own, &peer_hosts, &answers) {
                Waits::OneList(differing)
            } else if answers.len() + 1 > members.len() / 2 {
                let node = members.iter().find(|(_, n)| n.addr == own).map(|(id, _)| *id);
                return node.map(|id| identity(id, None)).ok_or(JoinError::Stranger(own));
            } else {
                Waits::Peers { answered: answers.len(), of: others.len() }
            };
            self.note_wait(&waits);
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Whether another process answers at this node's own address. Of a cluster of one there is nobody who could take it
    /// for this one.
    async fn is_own_address_taken(&self) -> bool {
        if self.first_members().len() < 2 {
            return false;
        }
        let own = self.0.own.to_string();
        // A connection that is kept may lead where the name led before.
        self.0.links.hang_up(&own);
        self.ask_status(&own).await.is_some_and(|status| status.instance != self.0.instance)
    }

    /// Waits for as long as another process answers at this node's own address.
    async fn await_own_address(&self) {
        while self.is_own_address_taken().await {
            self.note_wait(&Waits::OwnAddress(self.0.own.to_string()));
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn ask_status(&self, peer: &str) -> Option<Status> {
        self.0.links.call(peer, "status", &(), Duration::from_secs(1)).await.ok()
    }

    async fn claim(&self, peer: &str) -> Option<ClaimAnswer> {
        let request = ClaimRequest { peer: self.0.own.to_string(), store: self.0.store };
        self.0.links.call(peer, "claim", &request, Duration::from_secs(5)).await.ok()
    }

    /// Once there is a leader: the cluster has its identity, and this store the sole right to act as its node. Then
    /// waits for ever; ends with the reason for which this node must stop.
    pub(super) async fn keep_identity(&self) -> String {
        loop {
            let state = self.0.machine.with_state(|s| (s.cluster(), s.claims().get(&self.id()).copied()));
            let deadline = monotonic() + Duration::from_secs(5);
            let id = self.id();
            match state {
                _ if id == 0 || self.0.group.get().is_none() => {}
                (None, _) if self.leads() => {
                    if self.propose(Command::FoundCluster { cluster: seam::uuid() }, deadline).await.is_ok() {
                        continue;
                    }
                }
                (None, _) => {}
                (Some(cluster), claimed) => {
                    match self.remember_cluster(cluster).await {
                        Ok(true) => {}
                        Ok(false) => {
                            tokio::time::sleep(WRITE_AGAIN).await;
                            continue;
                        }
                        Err(error) => return error,
                    }
                    // A node that leads on in the term that it led before it was started does not fire before it has
                    // written something: the claim again, which changes nothing.
                    let silent = self.leads() && self.applied_since_start().is_none();
                    if claimed == Some(self.0.store) && !silent {
                        return std::future::pending().await;
                    }
                    let claim = Command::ClaimNode { node: id, store: self.0.store };
                    let reply = self.propose(claim, deadline).await;
                    if let Ok(Reply::Refused(Refusal::OtherStore { bound, .. })) = reply {
                        return format!("node {id} belongs to the store {bound}, and this one is {}", self.0.store);
                    }
                }
            }
            // A node that is stopping refuses at once: without this the task would take a whole core, and never end.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it is durable by now which cluster this is.
    ///
    /// # Errors
    /// It is another one than the directory's.
    async fn remember_cluster(&self, cluster: Uuid) -> Result<bool, String> {
        let Some(known) = self.identity().clone() else { return Ok(true) };
        match known.cluster {
            Some(known) if known == cluster => Ok(true),
            Some(known) => Err(format!("the directory is of the cluster {known}, and the peers are of {cluster}")),
            None => {
                let new = Identity { cluster: Some(cluster), ..known };
                self.0.links.introduce(new.node, Some(cluster));
                if let Err(error) = self.replace_identity(new.clone()).await {
                    // No descriptors are left, say. Until it succeeds this store claims nothing.
                    tracing::error!(%error, "the identity of the cluster is not kept yet; it is tried again");
                    return Ok(false);
                }
                *self.identity() = Some(new);
                Ok(true)
            }
        }
    }
}

/// Passes on what Raft tells of itself, until it ends. One that ends by itself, and without a word, ends the node.
async fn pass_on(mut from: watch::Receiver<raft::Metrics>, to: Node) {
    while from.changed().await.is_ok() {
        let metrics = from.borrow_and_update().clone();
        let matters = to.0.raft_metrics.borrow().as_ref().is_none_or(|old| who_leads(old) != who_leads(&metrics));
        if matters {
            to.know_members(&metrics);
        }
        to.0.raft_metrics.send_replace(Some(metrics));
        if !matters {
            // Raft tells of each entry. Whoever watches wants to know who leads, and the rest now and then.
            let urgent = from
                .wait_for(|new| to.0.raft_metrics.borrow().as_ref().is_none_or(|old| who_leads(old) != who_leads(new)));
            if let Ok(Err(_)) = tokio::time::timeout(METRICS_EVERY, urgent).await {
                // Raft has ended, and what was told last stays.
                break;
            }
            from.mark_changed();
        }
    }
    let told = to.0.raft_metrics.borrow().as_ref().is_some_and(|metrics| metrics.running_state.is_err());
    if !told && !to.0.closed.load(Ordering::Relaxed) {
        // One that has panicked ends the process, and says why.
        tokio::time::sleep(PANIC_TOLD).await;
        to.fail("Raft has ended".to_owned());
    }
}

/// The part of the metrics of which every change is told at once.
fn who_leads(metrics: &raft::Metrics) -> impl PartialEq + '_ {
    let members = metrics.membership_config.log_id();
    (metrics.state, metrics.current_term, metrics.current_leader, metrics.running_state.is_ok(), members)
}

/// A peer with an empty store asks to act as the member of its address.
pub(super) async fn answer_claim(node: &Node, request: ClaimRequest) -> ClaimAnswer {
    let member = {
        let metrics = node.0.raft_metrics.borrow();
        let Some(metrics) = metrics.as_ref() else { return ClaimAnswer::NoLeader };
        let found = metrics.membership_config.nodes().find(|(_, n)| n.addr == request.peer).map(|(id, _)| *id);
        found
    };
    let Some(id) = member else { return ClaimAnswer::Stranger };
    // What is committed stands, whether there is a leader or not: without this store there may be none.
    let (claimed, cluster) = node.0.machine.with_state(|s| (s.claims().get(&id).copied(), s.cluster()));
    if claimed == Some(request.store) {
        return ClaimAnswer::Granted { node: id, cluster };
    }
    let claim = Command::ClaimNode { node: id, store: request.store };
    match node.propose(claim, monotonic() + Duration::from_secs(4)).await {
        Ok(Reply::Done) => ClaimAnswer::Granted { node: id, cluster: node.0.machine.with_state(|s| s.cluster()) },
        Ok(Reply::Refused(Refusal::OtherStore { bound, .. })) => ClaimAnswer::Taken { node: id, store: bound },
        _ => ClaimAnswer::NoLeader,
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
