//! What a node tells of itself and of the cluster, and what it keeps an eye on.

use std::sync::atomic::Ordering;
use std::sync::PoisonError;
use std::time::Duration;

use openraft::ServerState;

use super::leadership::NotLeading;
use super::Node;
use crate::metrics::{registry_lines, value_lines};
use crate::raft::wire::Status;
use crate::view::{ClusterView, NodeView};

impl Node {
    /// Whether this node can serve: it takes part, knows a leader, and its state is sound and not far
    /// behind.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), String> {
        if let Some(reason) = self.storage_shortage() {
            return Err(reason);
        }
        let unfit = self.faults().unfit();
        // Until it takes part its clock has nobody to be compared with: that is what comes of the waiting.
        if let (Some(reason), true) = (&unfit, self.0.group.get().is_some() || !self.faults().is_only_uncompared()) {
            return Err(reason.clone());
        }
        if self.0.stopping.load(Ordering::Relaxed) {
            return Err("stopping".to_owned());
        }
        let leader = {
            let metrics = self.0.raft_metrics.borrow();
            let Some(metrics) = metrics.as_ref().filter(|_| self.0.group.get().is_some()) else {
                return Err(self.waits_for());
            };
            metrics.current_leader.ok_or_else(|| self.no_leader())?
        };
        if let Some(reason) = self.faults().links_out.clone() {
            // No other is better off, and still nothing is committed.
            return Err(format!("links_out: {reason}"));
        }
        if !self.is_founded() {
            return Err(
                "the cluster is being formed: it does not know the stores of a majority of its members yet".to_owned()
            );
        }
        if leader == self.id() {
            self.leadership().map_err(|why| why.to_string())?;
            return self.stalled().map_or(Ok(()), Err);
        }
        let (silence, bound) = (self.0.heard.silence(), self.0.config.raft.election_timeout_max_ms);
        if silence > Duration::from_millis(bound) {
            return Err(format!("the leader has not been heard for {} ms", silence.as_millis()));
        }
        if let Some(time) = self.leader_address().and_then(|leader| self.0.link_looks.unreached_for(&leader)) {
            let ms = time.as_millis();
            return Err(format!("the leader is heard, and has taken no full message of this node for {ms} ms"));
        }
        self.0.heard.keeps_up(self.applied_index())
    }

    /// That this node leads, and that what it writes is not committed, if that is so.
    fn stalled(&self) -> Option<String> {
        self.0.stalled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// That no leader is known, and whether there was one since this node was started.
    fn no_leader(&self) -> String {
        match self.0.heard.last() {
            Some(_) => "no leader is known".to_owned(),
            None => "no leader is known yet".to_owned(),
        }
    }

    /// The last log entry that this node has applied; 0: none.
    pub(super) fn applied_index(&self) -> u64 {
        self.0.machine.applied().map_or(0, |id| id.index)
    }

    /// The cluster, as this node knows it; asks each peer.
    pub async fn cluster(&self) -> ClusterView {
        let metrics = self.0.raft_metrics.borrow().clone();
        let own_status = self.own_status();
        let zone_data = self.0.machine.with_state(|state| state.zone_version().map(str::to_owned));
        let Some(metrics) = metrics else {
            let cluster_id = own_status.cluster.map(|c| c.to_string());
            let (answered_by, nodes) = (own_status.node, Vec::new());
            return ClusterView { leader: None, term: 0, cluster_id, zone_data, answered_by, nodes };
        };
        let members: Vec<(u64, String)> =
            metrics.membership_config.nodes().map(|(id, n)| (*id, n.addr.clone())).collect();
        let asked = futures::future::join_all(members.iter().map(|(id, address)| async {
            if *id == metrics.id {
                return Some(own_status.clone());
            }
            self.0.links.call::<_, Status>(address, "status", &(), Duration::from_millis(500)).await.ok()
        }))
        .await;
        let leader = metrics.current_leader.filter(|leader| self.is_followed(*leader));
        let newest = asked.iter().flatten().filter_map(|s| s.last_log).max();
        let nodes = members.into_iter().zip(asked).map(|((id, address), status)| {
            let own = id == metrics.id;
            let voter = metrics.membership_config.voter_ids().any(|v| v == id);
            let presence = self.0.links.presence(&address);
            let applied = status.as_ref().and_then(|s| s.applied);
            let answers = status.is_some();
            NodeView {
                id,
                role: role(&metrics, leader, id, voter, status.is_some()),
                voter,
                applied,
                lag: newest.zip(applied).map(|(last, applied)| last.saturating_sub(applied)),
                http_address: status.as_ref().map(|s| s.http.clone()),
                zone_data: status.as_ref().map(|s| s.zone_data.clone()).filter(|version| !version.is_empty()),
                version: status.map(|s| s.version),
                last_contact_ms: if own { Some(0) } else { presence.map(|p| p.heard.elapsed().as_millis() as u64) },
                clock_offset_ms: if own { Some(0) } else { presence.filter(|_| answers).map(|p| p.clock_offset_ms) },
                peer_address: address,
            }
        });
        ClusterView {
            leader,
            term: metrics.current_term,
            cluster_id: own_status.cluster.map(|c| c.to_string()),
            zone_data,
            answered_by: metrics.id,
            nodes: nodes.collect(),
        }
    }

    /// Whether this leader has been heard of late; if it is this node, whether a majority follows it.
    pub(super) fn is_followed(&self, leader: u64) -> bool {
        if leader != self.id() {
            let bound = Duration::from_millis(self.0.config.raft.election_timeout_max_ms);
            return self.0.heard.silence() <= bound;
        }
        !matches!(self.leadership(), Err(NotLeading::NotElected | NotLeading::GivenUp | NotLeading::NoLease))
    }

    /// What the node counts, in Prometheus' text format.
    pub fn metrics_text(&self) -> String {
        let machine = self.0.machine.figures();
        let log = self.0.log.status();
        let (tasks, waiting, due, open) =
            self.0.machine.with_state(|s| (s.len(), s.waiting_len(), s.due_len(), s.open_runs()));
        let (term, last_log) =
            self.0.raft_metrics.borrow().as_ref().map_or((0, 0), |m| (m.current_term, m.last_log_index.unwrap_or(0)));
        let leads = self.may_fire().is_some();
        let applied = self.applied_index();
        let faults = self.faults().clone();
        let values = [
            ("tasks", "Tasks that are kept", tasks as f64),
            ("tasks_waiting", "Tasks that wait for their time", waiting as f64),
            ("tasks_due", "Tasks that are due and that this node does not act on", due as f64),
            ("runs_open", "Runs that have started and not ended", open as f64),
            ("leader", "1 where this node leads under a lease", f64::from(u8::from(leads))),
            ("ready", "1 where this node can serve", f64::from(u8::from(self.ready().is_ok()))),
            ("clock_fault", "1 where this node's clock is off", f64::from(u8::from(faults.clock.is_some()))),
            (
                "state_differs",
                "1 where this node holds another state than the others",
                f64::from(u8::from(self.difference().is_some())),
            ),
            (
                "disk_fault",
                "1 where this node's disk is full or slow, its store stands still, or descriptors are used up",
                f64::from(u8::from(faults.disk())),
            ),
            (
                "links_fault",
                "1 where this node's full messages reach no majority, or a majority does not reach this node",
                f64::from(u8::from(faults.links())),
            ),
            ("raft_term", "The current term", term as f64),
            // Raft tells its end now and then; an applied entry is in the log.
            ("raft_last_log_index", "The last log entry", last_log.max(applied) as f64),
            ("raft_applied_index", "The last log entry that is applied", applied as f64),
            ("log_disk_bytes", "Size of the Raft log's files", log.disk_bytes as f64),
            ("log_syncs_total", "Writes of the Raft log that were synced since the start", log.writes_total as f64),
            ("log_sync_seconds", "Duration of the last synced write of the Raft log", log.last_sync.as_secs_f64()),
            ("store_disk_bytes", "Size of the embedded store", machine.disk_bytes as f64),
            ("unsaved_bytes", "Bytes changed since the last checkpoint", machine.unsaved_bytes as f64),
            ("checkpoints_total", "Checkpoints since the start", machine.checkpoints as f64),
            ("checkpoint_seconds", "Duration of the last checkpoint", machine.checkpoint_ms as f64 / 1000.0),
            ("snapshot_bytes", "Size of the newest snapshot", self.0.machine.snapshot_bytes() as f64),
            ("disk_free_bytes", "Free bytes on the disk of raft_dir", self.0.machine.disk_free_bytes() as f64),
            ("disk_kept_bytes", "New tasks are refused while fewer bytes than this are free", self.room_kept() as f64),
            ("snapshots_total", "Snapshots written since the start", machine.snapshots as f64),
            ("snapshots_failed_total", "Attempts at a snapshot that failed", machine.snapshots_failed as f64),
            ("snapshots_installed_total", "Snapshots of other nodes installed", machine.snapshots_installed as f64),
        ];
        registry_lines(&self.0.registry) + &value_lines(&values)
    }

    /// Waits until the Raft group, or the log under it, has failed for good; why.
    pub(super) async fn raft_failed(&self) -> String {
        let mut watch = self.watch();
        loop {
            // A log that has stopped refuses writes before Raft sees them. Raft would lead on, and nothing be written.
            if let Some(reason) = self.0.log.status().stopped {
                return format!("the Raft log has failed: {reason}");
            }
            let failure = watch.borrow_and_update().as_ref().and_then(|m| m.running_state.clone().err());
            if let Some(error) = failure.filter(|_| !self.0.stopping.load(Ordering::Relaxed)) {
                return match self.storage_failure() {
                    Some(reason) => format!("the Raft log has failed: {reason}"),
                    None => format!("Raft has failed: {error}"),
                };
            }
            if let Ok(Err(_)) = tokio::time::timeout(Duration::from_millis(250), watch.changed()).await {
                return std::future::pending().await;
            }
        }
    }

    /// Stops taking part: no more firing, no more writes of its own. What is under way may end.
    pub async fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
        if let Some(term) = self.led_with_others() {
            self.hand_over(term, "it is stopping").await;
        }
    }

    /// Calls that wait for a leader wait no longer, and no more are taken: the node is about to end.
    pub fn refuse_calls(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }

    /// Makes everything durable and ends the Raft group. Nothing works afterwards.
    pub async fn close(&self) {
        self.refuse_calls();
        if let Some(raft) = self.0.group.get() {
            if let Err(error) = raft.shutdown().await {
                tracing::warn!(%error, "raft has not ended cleanly");
            }
        }
        if let Err(error) = self.0.machine.checkpoint().await {
            tracing::error!(%error, "the last checkpoint has failed; the Raft log has its changes");
        }
        let log = self.0.log.clone();
        let _ = crate::seam::blocking(move || log.close()).await;
    }
}

fn role(metrics: &crate::raft::Metrics, leader: Option<u64>, id: u64, voter: bool, reached: bool) -> &'static str {
    if leader == Some(id) {
        return "leader";
    }
    if !reached {
        return "unreachable";
    }
    if !voter {
        return "learner";
    }
    if id == metrics.id && (leader.is_none() || metrics.state == ServerState::Candidate) {
        return "candidate";
    }
    "follower"
}
