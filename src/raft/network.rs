//! Calls to the peers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::BasicNode;
use serde::de::DeserializeOwned;
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::wire::{BODY_BYTES_MAX, HEADER_CLOCK, HEADER_CLUSTER, HEADER_FROM};
use super::{Lease, TypeConfig};
use crate::clock::{monotonic, Clock, Timestamp};
use crate::seam;

/// Why a call to a peer has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// It never left this node, or the peer did not take it: it has had no effect.
    #[error("{0}")]
    NotSent(String),
    /// It may have had its effect.
    #[error("{0}")]
    Unknown(String),
}

/// What was last heard of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Presence {
    /// When it last answered.
    pub heard: Instant,
    /// How far its wall clock is ahead of this node's, in ms, to within the half of a round trip.
    pub clock_offset_ms: i64,
}

/// The connections to the peers, and what they tell of who is there; cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

struct Shared {
    client: Client<seam::net::Connector, Full<Bytes>>,
    clock: Clock,
    /// This node's id and cluster, as they become known.
    own: Mutex<(u64, Option<Uuid>)>,
    presence: Mutex<HashMap<String, Presence>>,
}

impl Links {
    /// Links from this node, which has no id yet.
    pub fn new(clock: Clock, connect_timeout: Duration) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(32)
            .build(seam::net::connector(connect_timeout));
        Links(Arc::new(Shared { client, clock, own: Mutex::default(), presence: Mutex::default() }))
    }

    /// Who this node is, for the messages from now on.
    pub fn introduce(&self, node: u64, cluster: Option<Uuid>) {
        *self.0.own.lock().unwrap_or_else(PoisonError::into_inner) = (node, cluster);
    }

    /// Who this node is.
    pub fn own(&self) -> (u64, Option<Uuid>) {
        *self.0.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was last heard of the peer at this address.
    pub fn presence(&self, address: &str) -> Option<Presence> {
        self.0.presence.lock().unwrap_or_else(PoisonError::into_inner).get(address).copied()
    }

    /// Takes note of a peer's wall clock, read at `heard` by this node, to within `slack`.
    pub(super) fn hear(&self, address: &str, clock: Option<Timestamp>, slack: Duration) {
        let Some(theirs) = clock else { return };
        let ours = self.0.clock.now().0 as i64 - slack.as_millis() as i64;
        let presence = Presence { heard: monotonic(), clock_offset_ms: theirs.0 as i64 - ours };
        self.0.presence.lock().unwrap_or_else(PoisonError::into_inner).insert(address.to_owned(), presence);
    }

    /// Calls a peer and waits for its answer.
    ///
    /// # Errors
    /// No answer in time, or one that is not understood.
    pub async fn call<Q: Serialize, R: DeserializeOwned>(
        &self,
        address: &str,
        call: &str,
        request: &Q,
        timeout: Duration,
    ) -> Result<R, CallError> {
        let not_sent = |e: &dyn std::fmt::Display| CallError::NotSent(format!("{address}: {e}"));
        let unknown = |e: &dyn std::fmt::Display| CallError::Unknown(format!("{address}: {e}"));
        let body = postcard::to_stdvec(request).map_err(|e| not_sent(&e))?;
        let (node, cluster) = self.own();
        let mut request = http::Request::post(format!("http://{address}/peer/1/{call}"))
            .header(HEADER_FROM, node)
            .header(HEADER_CLOCK, self.0.clock.now().0);
        if let Some(cluster) = cluster {
            request = request.header(HEADER_CLUSTER, cluster.to_string());
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|e| not_sent(&e))?;
        let sent = monotonic();
        let exchange = async {
            let answer = self.0.client.request(request).await.map_err(|e| {
                let text = error_text(&e);
                if e.is_connect() {
                    not_sent(&text)
                } else {
                    unknown(&text)
                }
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|e| unknown(&e))?.to_bytes();
            Ok((head, body))
        };
        let (head, body) =
            tokio::time::timeout(timeout, exchange).await.map_err(|_| unknown(&"no answer in time"))??;
        let clock = head.headers.get(HEADER_CLOCK).and_then(|v| v.to_str().ok()?.parse().ok()).map(Timestamp);
        self.hear(address, clock, sent.elapsed() / 2);
        match head.status {
            http::StatusCode::OK => postcard::from_bytes(&body).map_err(|e| unknown(&e)),
            // The only answers of a peer that has not looked at the message.
            status if status.is_client_error() || status == http::StatusCode::SERVICE_UNAVAILABLE => {
                Err(not_sent(&format!("{status}: {}", String::from_utf8_lossy(&body))))
            }
            status => Err(unknown(&format!("{status}: {}", String::from_utf8_lossy(&body)))),
        }
    }
}

fn error_text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What openraft uses to reach the peers.
#[derive(Clone)]
pub struct Network {
    links: Links,
    lease: Arc<Lease>,
    patience: Duration,
}

impl Network {
    /// A network over these links, which takes note in `lease` of who acknowledges this node as the leader, and lets
    /// `patience` pass before it calls again who could not be reached: less than after what a follower stands for
    /// election, or one that is just back hears its leader too late.
    pub fn new(links: Links, lease: Arc<Lease>, patience: Duration) -> Self {
        Network { links, lease, patience }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer { target, address: node.addr.clone(), network: self.clone() }
    }
}

/// The way to one peer.
pub struct Peer {
    target: u64,
    address: String,
    network: Network,
}

type Failure<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl Peer {
    async fn call<Q, R, E>(&self, call: &str, request: &Q, option: &RPCOption) -> Result<R, Failure<E>>
    where
        Q: Serialize,
        R: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let answer = self.network.links.call(&self.address, call, request, option.hard_ttl()).await;
        let answer: Result<R, RaftError<u64, E>> = answer.map_err(|error| match error {
            CallError::NotSent(_) => RPCError::Unreachable(Unreachable::new(&error)),
            CallError::Unknown(_) => RPCError::Network(NetworkError::new(&error)),
        })?;
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        let (term, sent) = (request.vote.leader_id().term, monotonic());
        let answer = self.call("append", &request, &option).await?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.network.lease.acknowledge(self.target, term, sent);
        }
        Ok(answer)
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        let (vote, sent) = (request.vote, monotonic());
        let answer: InstallSnapshotResponse<u64> = self.call("snapshot", &request, &option).await?;
        if answer.vote == vote {
            self.network.lease.acknowledge(self.target, vote.leader_id().term, sent);
        }
        Ok(answer)
    }

    async fn vote(&mut self, request: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Failure> {
        self.call("vote", &request, &option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.network.patience))
    }
}
