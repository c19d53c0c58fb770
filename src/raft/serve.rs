//! The peers' calls, received.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::Router;
use openraft::error::RaftError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest};
use openraft::Vote;
use serde::de::DeserializeOwned;
use serde::Serialize;
use uuid::Uuid;

use super::wire::{BODY_BYTES_MAX, HEADER_CLOCK, HEADER_CLUSTER};
use super::{Links, Raft, TypeConfig};
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

type Appended = Result<AppendEntriesResponse<u64>, RaftError<u64>>;

/// When this node last heard its leader, by its own clock.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<AtomicU64>);

impl Heard {
    /// Has Raft take this message, which is heard unless another leader is known.
    async fn append(&self, raft: &Raft, clock: &Clock, request: AppendEntriesRequest<TypeConfig>) -> Appended {
        let answer = raft.append_entries(request).await;
        if answer.as_ref().is_ok_and(|answer| !matches!(answer, AppendEntriesResponse::HigherVote(_))) {
            self.0.store(clock.now().as_ms(), Ordering::Relaxed);
        }
        answer
    }

    /// None: never since it was started.
    pub fn last(&self) -> Option<Timestamp> {
        Some(self.0.load(Ordering::Relaxed)).filter(|ms| *ms > 0).map(Timestamp)
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

fn group(slot: &GroupSlot) -> Result<&Raft, Rejection> {
    slot.get().ok_or_else(|| Rejection::unavailable("this node does not take part yet"))
}

/// What a leader that has sent something else would send to tell that it is there.
pub(super) fn sign_of_life(vote: Vote<u64>) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None }
}

/// The routes of Raft itself and, around them and around `others`, what each message of a peer must fulfil. `takes` says
/// whether the log has room for so many bytes.
pub fn routes(
    slot: GroupSlot,
    links: Links,
    clock: Clock,
    heard: Heard,
    takes: Arc<dyn Fn(u64) -> bool + Send + Sync>,
    others: Router,
) -> Router {
    type Own = (GroupSlot, Clock, Heard, Arc<dyn Fn(u64) -> bool + Send + Sync>);
    async fn append(State((slot, clock, heard, takes)): State<Own>, body: Bytes) -> Result<Response, Rejection> {
        let (raft, bytes) = (group(&slot)?, body.len() as u64);
        receive(body, |request: AppendEntriesRequest<TypeConfig>| async {
            if !request.entries.is_empty() && !takes(bytes) {
                // openraft ends where its log refuses an append. The leader is alive, and sends them again.
                let _ = heard.append(raft, &clock, sign_of_life(request.vote)).await;
                return Err(Rejection::unavailable("the Raft log of this node has no room"));
            }
            Ok(heard.append(raft, &clock, request).await)
        })
        .await
    }
    async fn vote(State((slot, ..)): State<Own>, body: Bytes) -> Result<Response, Rejection> {
        let raft = group(&slot)?;
        receive(body, |request| async { Ok(raft.vote(request).await) }).await
    }
    async fn snapshot(State((slot, clock, heard, _)): State<Own>, body: Bytes) -> Result<Response, Rejection> {
        let raft = group(&slot)?;
        receive(body, |request: InstallSnapshotRequest<TypeConfig>| async {
            // A piece of a snapshot is no sign of life to openraft: a node that was too busy with them to answer its
            // heartbeats in time stood for election, and so ended the term of who sent them, again and again.
            // Whatever is wrong with it, the answer to the piece tells as well.
            let _ = heard.append(raft, &clock, sign_of_life(request.vote)).await;
            Ok(raft.install_snapshot(request).await)
        })
        .await
    }
    Router::new()
        .route("/peer/1/append", post(append))
        .route("/peer/1/vote", post(vote))
        .route("/peer/1/snapshot", post(snapshot))
        .with_state((slot, clock.clone(), heard, takes))
        .merge(others)
        // Entries can be as large as many large tasks together: the public port's limit must not apply here.
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state((links, clock), guard))
}

/// Turns away messages of another cluster, and tells the time in every answer.
async fn guard(State((links, clock)): State<(Links, Clock)>, request: Request, next: Next) -> Response {
    let (_, cluster) = links.own();
    let mut response = match (cluster, sender_cluster(request.headers())) {
        (Some(own), Some(other)) if own != other => {
            let why = format!("this node is of the cluster {own}, the message of {other}");
            (StatusCode::FORBIDDEN, why).into_response()
        }
        _ => next.run(request).await,
    };
    let Timestamp(now) = clock.now();
    response.headers_mut().insert(HEADER_CLOCK, HeaderValue::from(now));
    response
}

fn sender_cluster(headers: &HeaderMap) -> Option<Uuid> {
    Uuid::try_parse(headers.get(HEADER_CLUSTER)?.to_str().ok()?).ok()
}
