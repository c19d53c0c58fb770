//! How a request reaches its target: first a connection is made or found, then the request is written. Whoever sends asks in
//! between whether the request is still to be sent.

mod client;
mod link;
mod place;
mod pool;

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::BoxFuture;
pub use http::Method;
use http::{HeaderMap, StatusCode};

pub use self::client::{Http, SetupError};
pub use super::outcome::Asked;
use crate::clock::Timestamp;
use crate::guard::Refused;
use crate::metrics::Metrics;
pub use crate::names::Lookup;
use crate::names::Names;
use crate::signature::{self, Secret};
use crate::storage;

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// `http` or `https`.
    pub url: String,
    /// All of them.
    pub headers: HeaderMap,
    /// Sent as it is; none: there is no body.
    pub body: Option<Bytes>,
    /// From connect to the last byte of the answer.
    pub timeout: Duration,
    /// How much of the answer is wanted.
    pub answer_bytes: usize,
}

impl Request {
    /// Signs it as it is by now, where there is a secret. What tells it from others is the key that it carries.
    pub fn sign(&mut self, secrets: &[Secret], at: Timestamp) {
        let id = self.headers.get("idempotency-key").and_then(|id| id.to_str().ok().map(str::to_owned));
        if let Some(id) = id.filter(|_| !secrets.is_empty()) {
            signature::sign(&mut self.headers, secrets, &id, at, self.body.as_deref().unwrap_or_default());
        }
    }
}

/// What a target answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// How long it asks to be left alone.
    pub retry_after: Option<Duration>,
    /// What its headers ask for.
    pub asked: Asked,
    /// The first bytes of the body, as many as are asked for.
    pub start: Bytes,
    /// Why the rest of the body has not come, if it was waited for.
    pub cut: Option<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// None in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The target could not be reached.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// There was no connection before the time of the whole attempt was over; nothing was sent.
    #[error("no connection within {} ms", .0.as_millis())]
    NotConnected(Duration),
    /// The target is one that the configuration, or any configuration, refuses.
    #[error("not sent: {0}")]
    Refused(#[from] Refused),
    /// This node has no socket left for it: nothing was sent, and it is not the target's fault.
    #[error("not sent: this node is out of sockets: {0}")]
    Exhausted(String),
    /// Lookups of other names have all the places: nothing was sent, and it is not the target's fault.
    #[error("not sent: {0}")]
    Crowded(String),
    /// A kept connection had ended by the time at which the request was written: it is to be sent again, over a new one.
    #[error("the kept connection has ended: {0}")]
    Stale(String),
    /// The exchange broke off.
    #[error("{0}")]
    Broken(String),
}

/// Which connections will do for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// One that was kept, if there is one.
    Any,
    /// A new one; so much of the attempt's time has passed before, over a kept one that had ended.
    New {
        /// The time.
        passed: Duration,
    },
    /// A new one that no other request goes over: the target may be closing a kept one at this very moment.
    Alone,
}

/// A connection over which one request can be sent.
pub trait Way: Send {
    /// Sends it, and waits for the answer. Where the head of the answer has come there is an [`Answer`], whatever becomes of
    /// its body.
    fn send(self: Box<Self>, request: Request) -> BoxFuture<'static, Result<Answer, Failure>>;
}

/// What comes of looking for a connection.
pub type Found = Result<Box<dyn Way>, Failure>;

/// A way to send requests.
pub trait Transport: Send + Sync + 'static {
    /// A connection for this request, of which nothing is sent yet.
    fn connect(&self, request: &Request, over: Over) -> BoxFuture<'static, Found>;

    /// Connects and sends at once, and waits for the answer.
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Answer, Failure>> {
        let connecting = self.connect(&request, Over::New { passed: Duration::ZERO });
        Box::pin(async move { connecting.await?.send(request).await })
    }

    /// Connects to a target, with a TLS handshake where its name says so ([`crate::task::OVER_TLS`]), and sends nothing.
    fn reach(&self, target: &str) -> BoxFuture<'static, Result<(), Failure>>;

    /// A port of the cluster's own, which is no target.
    fn learn(&self, _host: &str, _port: u16) {}

    /// What the names of the cluster's hosts stand for, and where it is shown how many connections are open.
    fn know(&self, _names: Names, _metrics: &Metrics) {}
}

/// How long the answer asks to be left alone: in seconds, or until a time, which is held against the answer's own date,
/// since the two clocks need not agree.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text(http::header::RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let date = text(http::header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    let now = date.unwrap_or(UNIX_EPOCH + Duration::from_millis(now.as_ms()));
    Some(until.duration_since(now).unwrap_or_default())
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |e| e.source())
}

/// Whether it is this process, or this machine, that can open no more sockets.
fn is_exhausted(error: &(dyn std::error::Error + 'static)) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref()).any(storage::is_exhausted)
}

/// The innermost cause: the outer ones name the URL, which may hold what is not to be kept.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(retry_after_value: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", retry_after_value.parse().unwrap());
        date.map(|date| headers.insert("date", date.parse().unwrap()));
        // Sun, 06 Nov 1994 08:49:30 GMT
        retry_after(&headers, Timestamp::from_secs(784_111_770)).map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_in_seconds_or_a_date() {
        assert_eq!((asked("120", None), asked(" 0 ", None)), (Some(120), Some(0)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT", None), Some(7));
        let date = Some("Sun, 06 Nov 1994 08:00:00 GMT");
        assert_eq!(asked("Sun, 06 Nov 1994 08:01:00 GMT", date), Some(60), "by the target's own clock");
        assert_eq!(asked("Sun, 06 Nov 1994 07:00:00 GMT", date), Some(0), "past");
        for none in ["-1", "1.5", "soon", "Sun, 99 Nov 1994 08:49:37 GMT", "184467440737095516160"] {
            assert_eq!(asked(none, None), None, "{none}");
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("tcp open error")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn only_this_nodes_own_lack_is_exhaustion() {
        let of = |code| Outer(std::io::Error::from_raw_os_error(code));
        assert!(is_exhausted(&of(libc::EMFILE)) && is_exhausted(&of(libc::ENFILE)));
        assert!(!is_exhausted(&of(libc::ECONNREFUSED)) && !is_exhausted(&of(libc::EADDRNOTAVAIL)));
    }
}
