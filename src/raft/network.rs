//! What openraft uses to reach the peers.
//!
//! openraft 0.9 waits one heartbeat for the answer to an append, and then sends the same entries again. So an append is
//! not bound to the call that began it: it goes on while openraft asks again, and the next call for the same entries has
//! its answer. While it is on its way, small messages on connections of their own tell the follower that its leader is
//! there, and renew the lease. doc/decisions/0023-a-transfer-outlives-its-call.md

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, Snapshot, Vote};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::heard::sign_of_life;
use super::links::{Bears, CallError, Links};
use super::wire::{Ballot, PieceAnswer};
use super::{is_followed, Appended, LogId, Moment, Office, TypeConfig};
use crate::clock::monotonic;

/// After this a message that has no answer is sent again, however the link and however large it is.
const TRANSFER_MAX: Duration = Duration::from_secs(60);
/// A disk that takes no longer is waited for.
const WRITTEN_AFTER_MAX: Duration = Duration::from_secs(5);
/// So many bytes a second pass even on a link on which no cluster works: 1 Mbit/s.
const BYTES_PER_S_MIN: u64 = 125_000;
/// Entries for which openraft has not asked for so long are not asked for again: it sends a snapshot in their place, say.
const ASKED_MAX: Duration = Duration::from_secs(1);
/// How long a piece of a snapshot waits for other transfers to the same peer.
const PLACE_MAX: Duration = Duration::from_secs(1);
/// How long a sign of life may take: a link that is full delays it.
const SIGN_MAX: Duration = Duration::from_secs(1);
/// The most bytes of a message, if it is not one entry alone: of an append by way of the log's `read_bytes_max`, and of
/// the pieces of a snapshot. What a link of 20 Mbit/s carries in 100 ms.
pub const MESSAGE_BYTES_MAX: u64 = 256 << 10;

/// What openraft uses to reach the peers.
#[derive(Clone)]
pub struct Network {
    links: Links,
    office: Arc<Office>,
    heartbeat: Duration,
}

impl Network {
    /// A network over these links, which takes note in `office` of who acknowledges this node as the leader, and lets a
    /// heartbeat pass before it calls again who could not be reached: less than after what a follower stands for
    /// election, or one that is just back hears its leader too late.
    pub fn new(links: Links, office: Arc<Office>, heartbeat: Duration) -> Self {
        Network { links, office, heartbeat }
    }

    fn now(&self) -> Moment {
        Moment::now(self.links.clock())
    }

    /// openraft leads on until it hears of another leader. Where this node has given its term up, what it sends would
    /// keep the others from electing that one.
    fn in_office(&self, vote: &Vote<u64>) -> Result<(), CallError> {
        let term = vote.leader_id().term;
        match self.office.lease.is_given_up(term) {
            true => Err(CallError::NotSent(format!("this node has given up its lead of term {term}"))),
            false => Ok(()),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer { target, address: node.addr.clone(), network: self.clone(), transfer: Mutex::default(), interruptions: 0 }
    }
}

/// The way to one peer.
pub struct Peer {
    pub(super) target: u64,
    address: String,
    network: Network,
    /// Never locked: openraft wants what it shares to be `Sync`.
    transfer: Mutex<Option<Transfer>>,
    /// How often in a row a transfer was begun again because its link seemed to have been cut.
    interruptions: u32,
}

type Failure<E = openraft::error::Infallible> = RPCError<u64, BasicNode, RaftError<u64, E>>;
type Append = AppendEntriesRequest<TypeConfig>;

/// Entries that are on their way.
struct Transfer {
    vote: Vote<u64>,
    prev: Option<LogId>,
    last: LogId,
    /// When openraft has asked for it last.
    asked: Instant,
    answer: BoxFuture<'static, Result<Outcome<Appended>, CallError>>,
}

impl Transfer {
    /// Whether it has a beginning of these entries.
    fn carries_of(&self, request: &Append) -> bool {
        self.vote == request.vote
            && self.prev == request.prev_log_id
            && request.entries.iter().any(|entry| entry.log_id == self.last)
    }
}

/// What became of a message with signs of life beside it.
enum Outcome<R> {
    Answer(R),
    /// The peer has a greater vote, and told so in answer to a sign.
    Outvoted(Vote<u64>),
}

/// The text of the one error that [`beside_signs`] makes itself.
const INTERRUPTED: &str = "the link was interrupted while the message was on its way";

/// Sends a message, and with each heartbeat that it takes a sign of life of the leader of this vote.
///
/// Where a sign is answered, and one that was sent before it was lost, the message was lost too, or may be: after
/// `patience` it is given up, to be sent again. TCP would repeat it only after a pause as long as the interruption.
async fn beside_signs<R>(
    network: Network,
    (target, address): (u64, String),
    vote: Vote<u64>,
    patience: Duration,
    message: impl std::future::Future<Output = Result<R, CallError>>,
) -> Result<Outcome<R>, CallError> {
    network.in_office(&vote)?;
    let began = monotonic();
    let mut message = std::pin::pin!(message);
    let mut next = std::pin::pin!(tokio::time::sleep(network.heartbeat));
    let sign = encoded(&sign_of_life(vote))?;
    let mut signs = FuturesUnordered::new();
    let mut lost = None;
    loop {
        tokio::select! {
            biased;
            answer = &mut message => return answer.map(Outcome::Answer),
            Some((sent, answer)) = signs.next() => match answer {
                Ok((Ok(AppendEntriesResponse::HigherVote(higher)), _)) => return Ok(Outcome::Outvoted(higher)),
                Ok((Ok(_), bears)) => {
                    network.office.lease.acknowledge(target, vote.leader_id().term, sent, bears);
                    if lost.is_some_and(|lost| lost < sent) && began.elapsed() > patience {
                        return Err(CallError::Unknown(format!("{address}: {INTERRUPTED}")));
                    }
                }
                Ok((Err(_), _)) => {}
                Err(_) => lost = lost.or(Some(sent)),
            },
            () = &mut next => {
                network.in_office(&vote)?;
                let sent = network.now();
                let (links, to, sign) = (&network.links, (Some(target), address.as_str()), sign.clone());
                signs.push(async move { (sent, links.send::<Appended>(to, "append", sign, SIGN_MAX).await) });
                next.as_mut().reset(sent.steady + network.heartbeat);
            }
        }
    }
}

/// How long a message of so many bytes is waited for. Where its connection alone is dead, as after a firewall has forgotten
/// it, no sign of life beside it is lost, and nothing else tells.
fn transfer_max(bytes: usize) -> Duration {
    (WRITTEN_AFTER_MAX + Duration::from_millis(bytes as u64 * 1000 / BYTES_PER_S_MIN)).min(TRANSFER_MAX)
}

fn encoded(message: &impl serde::Serialize) -> Result<Bytes, CallError> {
    postcard::to_stdvec(message).map(Bytes::from).map_err(|e| CallError::NotSent(e.to_string()))
}

/// Sends an encoded append of the leader of this term; an answer renews the lease.
async fn append(
    network: &Network,
    (target, address): (u64, &str),
    term: u64,
    body: Bytes,
    at_most: Duration,
) -> Result<Appended, CallError> {
    let sent = network.now();
    let (answer, bears): (Appended, Bears) =
        network.links.send((Some(target), address), "append", body, at_most).await?;
    if is_followed(&answer) {
        network.office.lease.acknowledge(target, term, sent, bears);
    }
    Ok(answer)
}

fn failure<E: std::error::Error>(error: &CallError) -> Failure<E> {
    match error {
        CallError::NotSent(_) => RPCError::Unreachable(Unreachable::new(error)),
        CallError::Unknown(_) => RPCError::Network(NetworkError::new(error)),
    }
}

impl Peer {
    fn remote<E: std::error::Error>(&self, error: RaftError<u64, E>) -> Failure<E> {
        RPCError::RemoteError(RemoteError::new(self.target, error))
    }

    /// Sends a piece of a snapshot, with signs of life beside it.
    pub(super) async fn send_piece(
        &mut self,
        piece: &InstallSnapshotRequest<TypeConfig>,
        timeout: Duration,
    ) -> Result<PieceAnswer, CallError> {
        let (vote, to) = (piece.vote, (self.target, self.address.clone()));
        let (network, patience) = (self.network.clone(), self.patience());
        let message = async {
            let body = encoded(piece)?;
            // An append that openraft asks for no more, now that it sends a snapshot, holds it until the next heartbeat.
            let _place = tokio::time::timeout(PLACE_MAX, network.links.transfer_place(&to.1)).await.ok();
            let sent = network.now();
            let (answer, bears): (PieceAnswer, Bears) =
                network.links.send((Some(to.0), &to.1), "snapshot", body, timeout).await?;
            Ok((sent, answer, bears))
        };
        let answer = beside_signs(self.network.clone(), to.clone(), vote, patience, message).await;
        self.count_interruption(&answer);
        match answer? {
            Outcome::Outvoted(vote) => Ok(PieceAnswer::Taken(vote)),
            Outcome::Answer((sent, answer, bears)) => {
                if answer == PieceAnswer::Taken(vote) {
                    self.network.office.lease.acknowledge(self.target, vote.leader_id().term, sent, bears);
                }
                Ok(answer)
            }
        }
    }

    async fn call<Q, R, E>(&self, call: &str, request: &Q, option: &RPCOption) -> Result<R, Failure<E>>
    where
        Q: serde::Serialize,
        R: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let body = encoded(request).map_err(|error| failure(&error))?;
        let to = (Some(self.target), self.address.as_str());
        let answer = self.network.links.send(to, call, body, option.hard_ttl()).await;
        let (answer, _): (Result<R, RaftError<u64, E>>, Bears) = answer.map_err(|error| failure(&error))?;
        answer.map_err(|error| self.remote(error))
    }

    /// How long an interruption is borne before a message is sent again: ever longer, since it may be the message
    /// itself that fills a slow link.
    fn patience(&self) -> Duration {
        Duration::from_millis(500) * 2_u32.pow(self.interruptions.min(6))
    }

    fn count_interruption<R>(&mut self, answer: &Result<R, CallError>) {
        match answer {
            Err(error) if error.to_string().ends_with(INTERRUPTED) => self.interruptions += 1,
            Err(_) => {}
            Ok(_) => self.interruptions = 0,
        }
    }

    fn going(&mut self) -> &mut Option<Transfer> {
        self.transfer.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, request: Append, last: LogId) -> Transfer {
        let (vote, prev, term, target) =
            (request.vote, request.prev_log_id, request.vote.leader_id().term, self.target);
        let (network, address, patience) = (self.network.clone(), self.address.clone(), self.patience());
        let answer = async move {
            let (sender, to) = (network.clone(), address.clone());
            let message = async move {
                let body = encoded(&request)?;
                drop(request);
                let _place = sender.links.transfer_place(&to).await;
                let at_most = transfer_max(body.len());
                append(&sender, (target, &to), term, body, at_most).await
            };
            beside_signs(network, (target, address), vote, patience, message).await
        };
        Transfer { vote, prev, last, asked: monotonic(), answer: Box::pin(answer) }
    }

    /// Drops a transfer that nobody asks for any more, and with it its connection: it holds the place of whatever is to
    /// be sent in its stead.
    fn drop_stale(&mut self) {
        let _stale = self.going().take_if(|transfer| transfer.asked.elapsed() > ASKED_MAX);
    }

    /// Sends entries, unless they are on their way already, and waits for the answer.
    async fn transfer(&mut self, request: Append, last: LogId) -> Result<AppendEntriesResponse<u64>, Failure> {
        let wanted = last;
        // What else is on its way is moot. Its connection is closed before there is another.
        let going = self.going().take().filter(|transfer| transfer.carries_of(&request));
        let transfer = match going {
            Some(transfer) => Transfer { asked: monotonic(), ..transfer },
            None => self.begin(request, last),
        };
        let last = transfer.last;
        // openraft may drop this wait. The transfer stays, and the next call waits for it.
        let answer = self.going().insert(transfer).answer.as_mut().await;
        *self.going() = None;
        self.count_interruption(&answer);
        match answer.map_err(|error| failure(&error))? {
            Outcome::Outvoted(higher) => Ok(AppendEntriesResponse::HigherVote(higher)),
            Outcome::Answer(answer) => match answer.map_err(|error| self.remote(error))? {
                // More were asked for since it was begun.
                AppendEntriesResponse::Success if last != wanted => {
                    Ok(AppendEntriesResponse::PartialSuccess(Some(last)))
                }
                answer => Ok(answer),
            },
        }
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: Append,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        if let Some(last) = request.entries.last().map(|entry| entry.log_id) {
            return self.transfer(request, last).await;
        }
        self.drop_stale();
        self.network.in_office(&request.vote).map_err(|error| failure(&error))?;
        // openraft waits for it as long as `heartbeat_interval`. Over a longer way the answer still renews the lease, and
        // leaves its connection for the next.
        let (network, target, address) = (self.network.clone(), self.target, self.address.clone());
        let (term, body) = (request.vote.leader_id().term, encoded(&request).map_err(|error| failure(&error))?);
        let answered = tokio::spawn(async move { append(&network, (target, &address), term, body, SIGN_MAX).await });
        let answer = tokio::time::timeout(option.hard_ttl(), answered).await;
        let answer = answer.unwrap_or_else(|_| Ok(Err(CallError::Unknown("no answer in time".to_owned()))));
        let answer = answer.unwrap_or_else(|ended| Err(CallError::Unknown(ended.to_string())));
        answer.map_err(|error| failure(&error))?.map_err(|error| self.remote(error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        super::snapshots::send(self, vote, snapshot, cancel).await
    }

    async fn vote(&mut self, request: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Failure> {
        let sanction = self.network.office.sanction(request.vote.leader_id().term);
        self.call("vote", &Ballot { request, sanction }, &option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.network.heartbeat))
    }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
