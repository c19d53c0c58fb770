//! How a request reaches its target.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode};

use crate::config::Callback;

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

/// What a target answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// How long it asks to be left alone.
    pub retry_after: Option<Duration>,
    /// The first bytes of the body, as many as are asked for.
    pub start: Bytes,
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
    /// The exchange broke off.
    #[error("{0}")]
    Broken(String),
}

/// A way to send requests.
pub trait Transport: Send + Sync + 'static {
    /// Sends one and waits for the answer.
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Answer, Failure>>;
}

/// The real one, over reqwest: no redirects, no proxy from the environment, answers read to a bound.
pub struct Http {
    client: reqwest::Client,
    answer_bytes_max: usize,
}

/// Why the client cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct SetupError(String);

impl Http {
    /// A client with these bounds.
    ///
    /// # Errors
    /// Where the system's certificates cannot be read.
    pub fn new(settings: &Callback) -> Result<Arc<Self>, SetupError> {
        // A second node in the same process finds the provider installed; it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(concat!("xcron/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
            .pool_max_idle_per_host(settings.in_flight_per_host_max)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|e| SetupError(describe(&e)))?;
        Ok(Arc::new(Http { client, answer_bytes_max: settings.answer_bytes_max }))
    }
}

impl Transport for Http {
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Answer, Failure>> {
        let Request { method, url, headers, body, timeout, answer_bytes: kept } = request;
        let sending = self.client.request(method, url).headers(headers);
        let sending = body.into_iter().fold(sending, reqwest::RequestBuilder::body).send();
        let bytes_max = self.answer_bytes_max;
        Box::pin(async move {
            let exchange = async {
                let mut response = sending.await?;
                let retry_after = response.headers().get(http::header::RETRY_AFTER);
                let retry_after =
                    retry_after.and_then(|v| v.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
                let mut start = Vec::new();
                let mut read = 0;
                // Read on beyond what is kept, so that the connection can serve again; a longer answer loses it.
                while read < bytes_max {
                    let Some(chunk) = response.chunk().await? else { break };
                    read += chunk.len();
                    let room = kept.saturating_sub(start.len());
                    start.extend_from_slice(&chunk[..chunk.len().min(room)]);
                }
                Ok::<_, reqwest::Error>(Answer { status: response.status(), retry_after, start: start.into() })
            };
            match tokio::time::timeout(timeout, exchange).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) if error.is_connect() => Err(Failure::Connect(describe(&error))),
                Ok(Err(error)) => Err(Failure::Broken(describe(&error))),
                Err(_) => Err(Failure::Timeout(timeout)),
            }
        })
    }
}

/// The innermost cause: the outer ones name the URL, which may hold what is not to be kept.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}
