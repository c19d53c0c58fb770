//! The peers' calls, received.

use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::Router;
use futures::future::BoxFuture;
use openraft::raft::AppendEntriesRequest;
use openraft::{LeaderId, Vote};
use serde::de::DeserializeOwned;
use serde::Serialize;

use super::bodies::{self, Held, QUESTION_BYTES_MAX};
use super::envelope::Envelope;
use super::heard::sign_of_life;
use super::wire::{Ballot, BODY_BYTES_MAX, HEADER_BEARS, HEADER_CLOCK};
use super::{term, Heard, Links, LogId, Raft, TypeConfig};
use crate::budget::Budget;
use crate::clock::{Clock, Timestamp};

/// The group that the calls are for: empty until this node may take part in it.
pub type GroupSlot = Arc<OnceLock<Raft>>;

/// A message that was not looked at; it has had no effect.
#[derive(Debug)]
pub struct Rejection(StatusCode, String);

impl Rejection {
    /// The node cannot take it now.
    pub fn unavailable(why: &str) -> Self {
        Rejection(StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// Reads a message, has it handled, and writes the answer.
///
/// # Errors
/// A message that is not understood.
pub async fn receive<Q, R, F>(body: Bytes, handle: impl FnOnce(Q) -> F) -> Result<Response, Rejection>
where
    Q: DeserializeOwned,
    R: Serialize,
    F: std::future::Future<Output = Result<R, Rejection>>,
{
    let request = postcard::from_bytes(&body).map_err(|e| Rejection(StatusCode::BAD_REQUEST, e.to_string()))?;
    let answer = handle(request).await?;
    match postcard::to_stdvec(&answer) {
        Ok(bytes) => Ok(bytes.into_response()),
        Err(e) => Ok((StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response()),
    }
}

pub(super) fn group(slot: &GroupSlot) -> Result<&Raft, Rejection> {
    slot.get().ok_or_else(|| Rejection::unavailable("this node does not take part yet"))
}

/// What a node asks of itself before it has Raft take a message.
#[derive(Clone)]
pub struct Own {
    /// Whether the log has room for so many bytes.
    pub takes: Arc<dyn Fn(u64) -> bool + Send + Sync>,
    /// Waits a little while too much is not applied, or not stored that has been applied; whether entries of so many bytes
    /// can be taken by then.
    pub some_room: Arc<dyn Fn(u64) -> BoxFuture<'static, bool> + Send + Sync>,
    /// The entry that this node has applied, and so is committed, where a message has another one.
    pub applied_instead_of: Arc<dyn Fn(LogId) -> Option<LogId> + Send + Sync>,
    /// Ends the node, for this reason.
    pub fail: Arc<dyn Fn(String) + Send + Sync>,
}

impl Own {
    /// Whether a leader that this node would follow has another entry where this node has applied one. Raft knows no such
    /// leader. A majority that lacks what it had acknowledged can elect one, though: from here on this node's log would be
    /// cut off, and openraft panic.
    async fn contradicts(&self, raft: &Raft, request: &AppendEntriesRequest<TypeConfig>) -> Option<String> {
        let ids = request.prev_log_id.into_iter().chain(request.entries.iter().map(|entry| entry.log_id));
        let (theirs, ours) = ids.filter_map(|id| Some((id, (self.applied_instead_of)(id)?))).next()?;
        // The message may be old. openraft refuses it then.
        let vote = raft.with_raft_state(|state| *state.vote_ref()).await.ok()?;
        (request.vote >= vote).then(|| other_history(&request.vote, theirs, ours))
    }
}

/// Why this node does not follow a leader that has another entry where this node has applied one.
pub(super) fn other_history(leader: &Vote<u64>, theirs: LogId, ours: LogId) -> String {
    format!(
        "the leader of term {} has the log entry {theirs} where this node has applied {ours}, which a majority had \
         acknowledged. It seems that a member was put back from an older copy of its directory or of its machine, \
         and that a majority has gone on from there. This node cannot follow it, and leaves its own log as it is. Keep \
         its directory: it may be the only one that has what was acknowledged since that copy",
        leader.leader_id().term
    )
}

/// The routes of Raft itself and, around them and around `others`, what each message of a peer must fulfil.
pub fn routes(slot: GroupSlot, links: Links, clock: Clock, heard: Heard, own: Own, others: Router) -> Router {
    type Parts = (GroupSlot, Clock, Heard, Own);
    async fn append(State((slot, clock, heard, own)): State<Parts>, body: Bytes) -> Result<Response, Rejection> {
        let (raft, bytes) = (group(&slot)?, body.len() as u64);
        receive(body, |request: AppendEntriesRequest<TypeConfig>| async {
            // Meanwhile the leader sends signs of life beside it.
            let has_room = request.entries.is_empty() || (own.some_room)(bytes).await;
            if let Some(reason) = own.contradicts(raft, &request).await {
                (own.fail)(reason.clone());
                return Err(Rejection::unavailable(&reason));
            }
            if !request.entries.is_empty() && !(own.takes)(bytes) {
                // openraft ends where its log refuses an append. The leader is alive, and sends them again.
                let _ = heard.append(raft, &clock, sign_of_life(request.vote)).await;
                return Err(Rejection::unavailable("the Raft log of this node has no room"));
            }
            if !has_room {
                // What is committed openraft keeps in memory until it is applied, and the state until it is stored.
                let _ = heard.append(raft, &clock, sign_of_life(request.vote)).await;
                return Err(Rejection::unavailable("the state or the store of this node is behind"));
            }
            Ok(heard.append(raft, &clock, request).await)
        })
        .await
    }
    async fn vote(State((slot, ..)): State<Parts>, body: Bytes) -> Result<Response, Rejection> {
        let raft = group(&slot)?;
        receive(body, |ballot: Ballot| async move {
            if let Some(sanction) = ballot.sanction {
                forgo_lease(raft, sanction).await;
            }
            Ok(raft.vote(ballot.request).await)
        })
        .await
    }
    Router::new()
        .route("/peer/1/append", post(append))
        .route("/peer/1/vote", post(vote))
        .with_state((slot, clock.clone(), heard, own))
        // That the whole of it has come is the answer.
        .route("/peer/1/probe", post(async |_: Bytes| ()))
        .merge(others)
        // Entries can be as large as many large tasks together: the public port's limit must not apply here.
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state((links, clock, bodies::budget()), guard))
}

/// The leader that this node follows has named its successor and is silent: what it has been promised, no vote for
/// another while it may act, is no longer owed.
///
/// Only of the leader that said so, or one before it: the promise to any other stands.
async fn forgo_lease(raft: &Raft, (term, leader): (u64, u64)) {
    let vote = raft.metrics().borrow().vote;
    if *vote.leader_id() <= LeaderId::new(term, leader) {
        // Where Raft has failed, it refuses the vote as well.
        let _ = term::leave(raft, term).await;
    }
}

/// Turns away messages for which another is meant; tells in every answer the time, and for how long this node votes for no
/// other leader.
async fn guard(
    State((links, clock, budget)): State<(Links, Clock, Arc<Budget>)>,
    request: Request,
    next: Next,
) -> Response {
    if request.headers().contains_key(axum::http::header::ORIGIN) {
        // Browsers send it with each POST, and peers never.
        return (StatusCode::FORBIDDEN, "a browser has sent this, and no peer").into_response();
    }
    let envelope = Envelope::read(request.headers());
    let only_asks = ["/peer/1/status", "/peer/1/claim"].contains(&request.uri().path());
    let from = envelope.from.node;
    let claimed = links.claimed(from).filter(|_| from != 0);
    let judged = envelope.judge(&links.whole_own(), claimed, only_asks);
    if from != 0 {
        let refused = judged.as_ref().err().map(|(_, why)| why.clone());
        // That it has ended is the sender's to say.
        if let Some(Some(reason)) = links.refused().note(from, refused) {
            tracing::error!(from, store = %envelope.from.store, reason, "a message of a peer is refused");
        }
    }
    let mut response = match judged {
        Err((status, why)) => (status, why).into_response(),
        Ok(()) => {
            let held = Held::new(budget, if only_asks { QUESTION_BYTES_MAX } else { BODY_BYTES_MAX });
            let response = next.run(request.map(|body| held.count(body))).await;
            match held.is_refused() {
                true => Rejection::unavailable("there is no room for the message").into_response(),
                false => response,
            }
        }
    };
    let Timestamp(now) = clock.now();
    response.headers_mut().insert(HEADER_CLOCK, HeaderValue::from(now));
    if let Some(bears) = links.bears() {
        response.headers_mut().insert(HEADER_BEARS, HeaderValue::from(bears.as_millis() as u64));
    }
    response
}
