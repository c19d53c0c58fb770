//! The bodies of the peers' messages while they arrive: bounded together, and given up where one comes to a stand.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::BoxError;
use hyper::body::{Frame, SizeHint};
use tokio::time::Sleep;

use super::wire::BODY_BYTES_MAX;
use crate::budget::{Budget, Hold};
use crate::clock::monotonic;

/// What all of them hold together: some of the largest.
const ALL_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;
/// How large a question is that needs no proof of who asks.
pub(super) const QUESTION_BYTES_MAX: usize = 64 << 10;
/// A body of which nothing comes for so long is given up.
const STALLED: Duration = Duration::from_secs(10);

/// The budget of a node's peers.
pub(super) fn budget() -> Arc<Budget> {
    Arc::new(Budget::new(ALL_BYTES_MAX))
}

/// What one message holds, until its answer is there.
#[derive(Clone)]
pub(super) struct Held(Arc<Mutex<Share>>);

struct Share {
    hold: Hold<Arc<Budget>>,
    /// How much more of it may come.
    left: usize,
    refused: bool,
}

impl Held {
    /// Of a message of at most `most` bytes.
    pub fn new(budget: Arc<Budget>, most: usize) -> Held {
        Held(Arc::new(Mutex::new(Share { hold: Hold::new(budget), left: most, refused: false })))
    }

    /// Whether it was not let in.
    pub fn is_refused(&self) -> bool {
        self.share().refused
    }

    /// The message's body, counted as it arrives.
    pub fn count(&self, body: Body) -> Body {
        self.count_within(body, STALLED)
    }

    fn count_within(&self, body: Body, patience: Duration) -> Body {
        Body::new(Counted { body, held: self.clone(), patience, stalled: None })
    }

    fn take(&self, bytes: usize) -> bool {
        let mut share = self.share();
        let taken = bytes <= share.left && share.hold.grow(bytes);
        share.left = share.left.saturating_sub(bytes);
        share.refused |= !taken;
        taken
    }

    fn share(&self) -> std::sync::MutexGuard<'_, Share> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Counted {
    body: Body,
    held: Held,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.stalled = None;
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let taken = self.held.take(bytes);
                Poll::Ready(Some(if taken { Ok(frame) } else { Err("there is no room for the message".into()) }))
            }
            Poll::Ready(other) => Poll::Ready(other.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => {
                let end = monotonic() + self.patience;
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
                std::task::ready!(std::future::Future::poll(stalled.as_mut(), cx));
                Poll::Ready(Some(Err("the message did not arrive in time".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::BodyExt;

    use super::*;

    fn pieces(n: usize) -> Body {
        Body::from_stream(stream::iter(vec![Ok::<_, std::convert::Infallible>("12345"); n]))
    }

    #[tokio::test]
    async fn all_messages_together_are_bounded_until_they_are_answered() {
        let budget = Arc::new(Budget::new(20));
        let first = Held::new(budget.clone(), 100);
        assert_eq!(first.count(pieces(3)).collect().await.unwrap().to_bytes().len(), 15);
        let second = Held::new(budget.clone(), 100);
        assert!(second.count(pieces(2)).collect().await.is_err() && second.is_refused());
        drop(second);
        assert_eq!(budget.held(), 15, "it is not answered yet");
        drop(first);
        let small = Held::new(budget.clone(), 9);
        assert!(small.count(pieces(2)).collect().await.is_err() && small.is_refused());
        drop(small);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_message_that_stalls_is_given_up() {
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let held = Held::new(budget(), 10);
        assert!(held.count_within(stalled, Duration::from_millis(20)).collect().await.is_err());
    }
}
