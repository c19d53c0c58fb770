//! What this node does for its peers.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::Router;

use super::{join, proposer, reads, rescue, selfcheck, Node};
use crate::clock::monotonic;
use crate::command::Encoded;
use crate::raft::wire::{
    ClaimRequest, FetchRequest, ProposeRequest, Question, Refused, Status, TakeOver, UnderWay, FAULT_STOPS,
};
use crate::raft::{self, receive, Rejection};
use crate::view::TargetFilter;

/// Longest wait that a peer can ask for.
const WAIT_MAX: Duration = Duration::from_secs(600);

impl Node {
    /// What is served on `peer_port`.
    pub fn peer_routes(&self) -> Router {
        async fn propose(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |request: ProposeRequest| async move {
                if node.may_write() != Some(request.term) {
                    return Ok(Err(Refused::NotLeader));
                }
                let deadline = monotonic() + Duration::from_millis(request.timeout_ms).min(WAIT_MAX);
                Ok(forwarded(&node, request, deadline).await)
            })
            .await
        }
        async fn read_index(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |()| async move { Ok(reads::index_as_leader(&node).await) }).await
        }
        async fn status(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |()| async move { Ok(node.own_status()) }).await
        }
        async fn claim(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |request: ClaimRequest| async move { Ok(join::answer_claim(&node, request).await) }).await
        }
        async fn targets(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |filter: TargetFilter| async move { Ok(node.targets_of_leader(&filter)) }).await
        }
        async fn check(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |at: u64| async move { Ok(selfcheck::answer(&node, at)) }).await
        }
        async fn opinion(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |question: Question| async move { Ok(node.opinion(&question)) }).await
        }
        async fn take_over(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |request: TakeOver| async move { Ok(node.take_over(request).await) }).await
        }
        async fn leave_to(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |lists: Vec<UnderWay>| async move {
                node.leave_to(lists);
                Ok(())
            })
            .await
        }
        async fn under_way(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |()| async move { Ok(node.under_way()) }).await
        }
        async fn fetch(State(node): State<Node>, body: Bytes) -> Result<Response, Rejection> {
            receive(body, |request: FetchRequest| async move { rescue::answer(&node, request).await }).await
        }
        let others = Router::new()
            .route("/peer/1/leave_to", post(leave_to))
            .route("/peer/1/under_way", post(under_way))
            .route("/peer/1/check", post(check))
            .route("/peer/1/fetch_snapshot", post(fetch))
            .route("/peer/1/propose", post(propose))
            .route("/peer/1/read_index", post(read_index))
            .route("/peer/1/status", post(status))
            .route("/peer/1/claim", post(claim))
            .route("/peer/1/targets", post(targets))
            .route("/peer/1/opinion", post(opinion))
            .route("/peer/1/take_over", post(take_over))
            .with_state(self.clone());
        let inner = &self.0;
        let (log, machine, node) = (inner.log.clone(), inner.machine.clone(), self.clone());
        let behind = machine.clone();
        let own = raft::Own {
            takes: Arc::new(move |bytes| log.takes(bytes)),
            some_room: Arc::new(move |bytes| {
                let behind = behind.clone();
                Box::pin(async move { behind.takes(bytes).await })
            }),
            applied_instead_of: Arc::new(move |theirs| machine.applied_instead_of(theirs)),
            fail: Arc::new(move |reason| node.fail(reason)),
        };
        let (group, links, clock, heard) =
            (inner.group.clone(), inner.links.clone(), inner.clock.clone(), inner.heard.clone());
        let snapshots =
            raft::snapshot_route(group.clone(), clock.clone(), heard.clone(), own.clone(), inner.machine.clone());
        raft::routes(group, links, clock, heard, own, others.merge(snapshots))
    }

    /// What this node tells of itself to a peer that asks.
    pub(super) fn own_status(&self) -> Status {
        let (node, cluster) = self.0.links.own();
        // One that takes no more entries has room for no task either.
        let refuses = || self.faults().store.is_some() && self.0.machine.is_behind();
        let full = self.storage_shortage().is_some() || refuses();
        // To a node that stops no other gives way: it will not lead.
        let stops = self.0.stopping.load(Ordering::SeqCst);
        let fault = if stops { FAULT_STOPS } else { self.faults().severity() };
        Status {
            node,
            store: self.0.store,
            cluster,
            formed: cluster.is_some() || self.knows_a_cluster(),
            http: self.0.http.clone(),
            monitor: self.0.config.monitor_port,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            zone_data: self.0.config.zone_data.version().to_owned(),
            applied: self.0.machine.applied().map(|id| id.index),
            last_log: self.0.raft_metrics.borrow().as_ref().and_then(|m| m.last_log_index),
            clock: self.now(),
            fault,
            full,
            unreached: self.0.link_looks.unreached(),
            instance: self.0.instance,
            peer_hosts: self.0.config.peers().iter().map(ToString::to_string).collect(),
            heartbeat_ms: self.0.config.raft.heartbeat_ms,
            election_timeout_min_ms: self.0.config.raft.election_timeout_min_ms,
            election_timeout_max_ms: self.0.config.raft.election_timeout_max_ms,
        }
    }
}

/// Puts a follower's commands into this leader's queue, where they share entries with its own.
async fn forwarded(
    node: &Node,
    request: ProposeRequest,
    deadline: tokio::time::Instant,
) -> Result<Vec<crate::command::Reply>, Refused> {
    let many = request.commands.len();
    // One that this version cannot read would stop every node of this version that has to apply it.
    let read = |(name, bytes)| Encoded::read(bytes).map(|command| command.named(name));
    let commands: Result<Vec<_>, _> = request.commands.into_iter().map(read).collect();
    let commands = commands.map_err(|error| {
        tracing::warn!(%error, "a peer has forwarded a command that this version cannot read; nothing of it is written");
        Refused::NotLeader
    })?;
    let submitted = commands.into_iter().map(|command| node.submit(command, deadline, Some(request.term)));
    let replies = futures::future::join_all(submitted).await;
    let mut done = Vec::with_capacity(many);
    let mut errors = Vec::new();
    for reply in replies {
        match reply {
            Ok(reply) => done.push(reply),
            Err(error) => errors.push(error),
        }
    }
    match errors.first() {
        None => Ok(done),
        // Some are written and some are not: the sender must take the outcome of all for unknown.
        Some(_) if !done.is_empty() => Err(Refused::Unknown),
        Some(first) if errors.iter().all(|e| proposer::to_refused(e) == proposer::to_refused(first)) => {
            Err(proposer::to_refused(first))
        }
        Some(_) => Err(Refused::Unknown),
    }
}
