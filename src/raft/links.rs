//! Calls to the peers, and what they tell of who is there.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

use super::connections::{Connections, Sent};
use super::envelope::{Envelope, Own};
use super::refusals::Refusals;
use super::wire::{BODY_BYTES_MAX, HEADER_BEARS, HEADER_CLOCK};
use crate::clock::{monotonic, Clock, Timestamp};
use crate::config::HostPort;
use crate::names::{self, Names};
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

impl CallError {
    fn at(self, address: &str) -> CallError {
        match self {
            CallError::NotSent(text) => CallError::NotSent(format!("{address}: {text}")),
            CallError::Unknown(text) => CallError::Unknown(format!("{address}: {text}")),
        }
    }
}

/// More than the largest frame that links carry, jumbo frames included: only a link that passes full frames passes it.
pub const LARGE_BYTES: usize = 10 << 10;
/// So much of nothing in particular. No link can compress it.
static PADDING: LazyLock<Bytes> = LazyLock::new(|| {
    let words = (0..LARGE_BYTES as u64 / 8).map(|n| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes()));
    words.flat_map(u64::to_le_bytes).collect()
});

/// What was last heard of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Presence {
    /// When it last answered.
    pub heard: Instant,
    /// When it last answered a message of [`LARGE_BYTES`] or more.
    pub took_large: Option<Instant>,
    /// How far its wall clock is ahead of this node's, in ms, to within the half of a round trip.
    pub clock_offset_ms: i64,
}

/// For how long, by its own answer, a peer votes for no other once it has heard a leader; none: it does not tell.
pub type Bears = Option<Duration>;

/// The connections to the peers, and what they tell of who is there; cheap to clone.
#[derive(Clone)]
pub struct Links(Arc<Shared>);

struct Shared {
    connector: seam::net::Connector,
    names: Names,
    clock: Clock,
    /// Who this node is, as it becomes known.
    own: Mutex<Own>,
    /// The ids of the members, by their addresses.
    members: Mutex<HashMap<String, u64>>,
    claims: OnceLock<Claims>,
    /// For how long this node votes for no other.
    bears: OnceLock<Duration>,
    /// Why peers do not take this node's messages, by their addresses.
    pub(super) refused_by: Refusals<String>,
    /// Why this node does not take messages, by the node that the sender says it is.
    pub(super) refused: Refusals<u64>,
    peers: Mutex<HashMap<String, Arc<Link>>>,
    presence: Mutex<HashMap<String, Presence>>,
}

/// The store that may act as a node, as far as this node's state says.
pub type Claims = Box<dyn Fn(u64) -> Option<Uuid> + Send + Sync>;

/// The way to one address.
struct Link {
    connections: Arc<Connections>,
    /// Held by the one large message that is on its way.
    transfer: Arc<Semaphore>,
}

impl Links {
    /// Links from this node, which has no id yet.
    pub fn new(clock: Clock, connect_timeout: Duration) -> Self {
        Links::over(clock, connect_timeout, Names::of_peers(names::system()))
    }

    /// The same, with another way to find out what the peers' names stand for.
    pub(super) fn over(clock: Clock, connect_timeout: Duration, names: Names) -> Self {
        let connector = seam::net::connector(connect_timeout, names.clone());
        Links(Arc::new(Shared {
            connector,
            names,
            clock,
            own: Mutex::default(),
            members: Mutex::default(),
            claims: OnceLock::new(),
            bears: OnceLock::new(),
            refused_by: Refusals::default(),
            refused: Refusals::default(),
            peers: Mutex::default(),
            presence: Mutex::default(),
        }))
    }

    /// What does not change of this node: its store, the list of peers in its configuration, and how it finds out which
    /// store may act as a node.
    pub fn settle(&self, store: Uuid, peer_hosts: &[HostPort], claims: Claims) {
        let mut own = self.0.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.store = store;
        let list: String = peer_hosts.iter().map(|peer| format!("{peer}\n")).collect();
        own.list = xxhash_rust::xxh3::xxh3_64(list.as_bytes());
        // Settled once.
        let _ = self.0.claims.set(claims);
    }

    /// For how long this node votes for no other once it has heard a leader: each of its answers tells.
    pub fn promise(&self, bears: Duration) {
        // Promised once.
        let _ = self.0.bears.set(bears);
    }

    pub(super) fn bears(&self) -> Bears {
        self.0.bears.get().copied()
    }

    /// The peers' names.
    pub fn names(&self) -> &Names {
        &self.0.names
    }

    /// This node's clock.
    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Who this node is, for the messages from now on.
    pub fn introduce(&self, node: u64, cluster: Option<Uuid>) {
        let mut own = self.0.own.lock().unwrap_or_else(PoisonError::into_inner);
        (own.node, own.cluster) = (node, cluster);
    }

    /// Which node has which address, for the messages from now on.
    pub fn know(&self, members: impl Iterator<Item = (u64, String)>) {
        let members = members.map(|(id, address)| (address, id)).collect();
        *self.0.members.lock().unwrap_or_else(PoisonError::into_inner) = members;
    }

    /// Who this node is: its id, and its cluster.
    pub fn own(&self) -> (u64, Option<Uuid>) {
        let own = self.whole_own();
        (own.node, own.cluster)
    }

    pub(super) fn whole_own(&self) -> Own {
        *self.0.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store that this node's state has for a node.
    pub(super) fn claimed(&self, node: u64) -> Option<Uuid> {
        self.0.claims.get().and_then(|claims| claims(node))
    }

    pub(super) fn refused(&self) -> &Refusals<u64> {
        &self.0.refused
    }

    /// What was last heard of the peer at this address.
    pub fn presence(&self, address: &str) -> Option<Presence> {
        self.0.presence.lock().unwrap_or_else(PoisonError::into_inner).get(address).copied()
    }

    /// Takes note of a peer's wall clock, read by this node now to within `slack`, and of how large the message is that it
    /// has answered.
    fn hear(&self, address: &str, clock: Option<Timestamp>, slack: Duration, bytes: usize) {
        let Some(theirs) = clock else { return };
        let ours = self.0.clock.now().0 as i64 - slack.as_millis() as i64;
        let (heard, clock_offset_ms) = (monotonic(), theirs.0 as i64 - ours);
        let mut presence = self.0.presence.lock().unwrap_or_else(PoisonError::into_inner);
        let before = presence.get(address).and_then(|presence| presence.took_large);
        let took_large = if bytes >= LARGE_BYTES { Some(heard) } else { before };
        presence.insert(address.to_owned(), Presence { heard, took_large, clock_offset_ms });
    }

    /// The id of the member of this address; none: it is not known yet.
    fn member(&self, address: &str) -> Option<u64> {
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner).get(address).copied()
    }

    fn link(&self, address: &str) -> Arc<Link> {
        let mut peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = peers.get(address) {
            return link.clone();
        }
        let connections = Connections::new(address.to_owned(), self.0.connector.clone(), self.0.names.clone());
        let link = Arc::new(Link { connections: Arc::new(connections), transfer: Arc::new(Semaphore::new(1)) });
        peers.insert(address.to_owned(), link.clone());
        link
    }

    /// Keeps no connection to this address, so that the next call goes where the name leads by then.
    pub fn hang_up(&self, address: &str) {
        self.link(address).connections.close_idle();
    }

    /// The right to send a large message to this address: there is one at a time.
    pub(super) async fn transfer_place(&self, address: &str) -> Option<OwnedSemaphorePermit> {
        self.link(address).transfer.clone().acquire_owned().await.ok()
    }

    /// Calls a peer and waits for its answer. A call that is dropped, or whose time is up, closes its connection.
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
        self.call_noting(address, call, request, timeout, &Sent::default()).await
    }

    /// The same, of a call that may be dropped: `sent` tells then whether it can have had its effect.
    ///
    /// # Errors
    /// As [`Links::call`].
    pub async fn call_noting<Q: Serialize, R: DeserializeOwned>(
        &self,
        address: &str,
        call: &str,
        request: &Q,
        timeout: Duration,
        sent: &Sent,
    ) -> Result<R, CallError> {
        self.call_whole(address, call, request, timeout, sent).await.map(|(answer, _)| answer)
    }

    /// As [`Links::call`], of what a leader sends as such.
    ///
    /// # Errors
    /// As [`Links::call`].
    pub async fn call_as_leader<Q: Serialize, R: DeserializeOwned>(
        &self,
        address: &str,
        call: &str,
        request: &Q,
        timeout: Duration,
    ) -> Result<(R, Bears), CallError> {
        self.call_whole(address, call, request, timeout, &Sent::default()).await
    }

    async fn call_whole<Q: Serialize, R: DeserializeOwned>(
        &self,
        address: &str,
        call: &str,
        request: &Q,
        timeout: Duration,
        sent: &Sent,
    ) -> Result<(R, Bears), CallError> {
        let body = postcard::to_stdvec(request).map_err(|e| CallError::NotSent(e.to_string()).at(address))?;
        self.send_noting((self.member(address), address), call, body.into(), timeout, sent).await
    }

    /// Sends a peer a message that takes several full frames, and waits for its short answer. That it has come
    /// [`Presence::took_large`] tells, also of a peer of a version that knows no such message.
    ///
    /// # Errors
    /// As [`Links::call`].
    pub async fn probe(&self, address: &str, timeout: Duration) -> Result<(), CallError> {
        self.send((self.member(address), address), "probe", PADDING.clone(), timeout).await.map(|((), _)| ())
    }

    /// As [`Links::call`], of a message for this node that is encoded already.
    pub(super) async fn send<R: DeserializeOwned>(
        &self,
        to: (Option<u64>, &str),
        call: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(R, Bears), CallError> {
        self.send_noting(to, call, body, timeout, &Sent::default()).await
    }

    async fn send_noting<R: DeserializeOwned>(
        &self,
        (to, address): (Option<u64>, &str),
        call: &str,
        body: Bytes,
        timeout: Duration,
        has_left: &Sent,
    ) -> Result<(R, Bears), CallError> {
        let not_sent = |e: &dyn std::fmt::Display| CallError::NotSent(format!("{address}: {e}"));
        let unknown = |e: &dyn std::fmt::Display| CallError::Unknown(format!("{address}: {e}"));
        let request = http::Request::post(format!("/peer/1/{call}"))
            .header(http::header::HOST, address)
            .header(HEADER_CLOCK, self.0.clock.now().0);
        let bytes = body.len();
        let mut request = request.body(Full::new(body)).map_err(|e| not_sent(&e))?;
        let envelope = Envelope { from: self.whole_own(), to, to_store: to.and_then(|to| self.claimed(to)) };
        envelope.write(request.headers_mut());
        let sent = monotonic();
        let link = self.link(address);
        let exchange = link.connections.exchange(request, BODY_BYTES_MAX, is_of_peer, has_left);
        let answer = tokio::time::timeout(timeout, exchange).await.map_err(|_| match has_left.may_have_left() {
            true => unknown(&"no answer in time"),
            false => not_sent(&"no connection in time"),
        })?;
        let (head, body) = answer.map_err(|error| error.at(address))?.into_parts();
        let text = || String::from_utf8_lossy(&body).into_owned();
        let is_refused = is_refusal(head.status);
        if let Some(change) = self.0.refused_by.note(address.to_owned(), is_refused.then(text)) {
            match change {
                Some(reason) => tracing::error!(peer = address, reason, "a peer refuses the messages of this node"),
                None => tracing::info!(peer = address, "a peer takes the messages of this node again"),
            }
        }
        if is_refused {
            // Whoever that is, its clock is not the peer's.
            return Err(not_sent(&format!("{}: {}", head.status, text())));
        }
        let number = |header| head.headers.get(header).and_then(|v| v.to_str().ok()?.parse().ok());
        self.hear(address, number(HEADER_CLOCK).map(Timestamp), sent.elapsed() / 2, bytes);
        let bears = number(HEADER_BEARS).map(Duration::from_millis);
        match head.status {
            StatusCode::OK => postcard::from_bytes(&body).map(|answer| (answer, bears)).map_err(|e| unknown(&e)),
            // The only answers of a peer that has not looked at the message.
            status if status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE => {
                Err(not_sent(&format!("{status}: {}", text())))
            }
            status => Err(unknown(&format!("{status}: {}", text()))),
        }
    }
}

/// Whether another node, or one of another cluster, says that it is not meant.
fn is_refusal(status: StatusCode) -> bool {
    [StatusCode::MISDIRECTED_REQUEST, StatusCode::FORBIDDEN].contains(&status)
}

/// Whether it is the node that is meant that answers: each tells the time in every answer.
fn is_of_peer(answer: &http::response::Parts) -> bool {
    !is_refusal(answer.status) && answer.headers.contains_key(HEADER_CLOCK)
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
