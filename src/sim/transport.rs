//! How simulated nodes send callbacks.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::HeaderMap;
use http_body_util::Full;
use tokio::time::Instant;
use turmoil::net::TcpStream;
use url::Url;

use super::history::Sent;
use super::{wire, World};
use crate::clock::{monotonic, simulated_ms};
use crate::dispatcher::transport::{Answer, Asked, Failure, Found, Over, Request, Transport, Way};

/// The transport of one node.
pub(super) struct Simulated {
    pub node: u64,
    pub world: Arc<World>,
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl Simulated {
    fn record(&self, headers: &HeaderMap) {
        let number = |text: &str| text.parse().unwrap_or(0);
        let (term, sent) = text(headers, "xcron-fence").split_once('.').unwrap_or_default();
        let sent = Sent {
            at: simulated_ms(),
            node: self.node,
            fence: (number(term), number(sent)),
            task: text(headers, "xcron-task-id").to_owned(),
            run: text(headers, "xcron-run-id").to_owned(),
            attempt: number(text(headers, "xcron-attempt")) as u32,
            due: number(text(headers, "xcron-scheduled-at")),
        };
        let mut history = self.world.history();
        let line = format!("node {} sends {} due {} attempt {}", sent.node, sent.task, sent.due, sent.attempt);
        history.note(sent.at, format!("{line} term {term}"));
        history.sent.push(sent);
    }
}

/// A connection, and what is left of the attempt's time.
struct Connected {
    of: Simulated,
    stream: TcpStream,
    until: Instant,
}

impl Way for Connected {
    fn send(self: Box<Self>, request: Request) -> BoxFuture<'static, Result<Answer, Failure>> {
        self.of.record(&request.headers);
        Box::pin(async move {
            let Request { method, url, headers, body, timeout, answer_bytes } = request;
            let broken = |e: &dyn std::fmt::Display| Failure::Broken(e.to_string());
            let url = Url::parse(&url).map_err(|e| broken(&e))?;
            let request = http::Request::builder().method(method).uri(url.path());
            let mut request = request.body(Full::new(body.unwrap_or_default())).map_err(|e| broken(&e))?;
            *request.headers_mut() = headers;
            let exchange = tokio::time::timeout_at(self.until, wire::exchange_over(self.stream, request)).await;
            let (status, body) = exchange.map_err(|_| Failure::Timeout(timeout))?.map_err(|e| broken(&e))?;
            let start = body.slice(..body.len().min(answer_bytes));
            Ok(Answer { status, retry_after: None, asked: Asked::default(), start, cut: None })
        })
    }
}

impl Transport for Simulated {
    fn connect(&self, request: &Request, _: Over) -> BoxFuture<'static, Found> {
        let of = Simulated { node: self.node, world: self.world.clone() };
        let (url, timeout, until) = (request.url.clone(), request.timeout, monotonic() + request.timeout);
        Box::pin(async move {
            let url = Url::parse(&url).map_err(|e| Failure::Broken(e.to_string()))?;
            let to = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
            match tokio::time::timeout_at(until, TcpStream::connect(to)).await {
                Ok(Ok(stream)) => Ok(Box::new(Connected { of, stream, until }) as Box<dyn Way>),
                Ok(Err(error)) => Err(Failure::Connect(error.to_string())),
                Err(_) => Err(Failure::NotConnected(timeout)),
            }
        })
    }

    fn reach(&self, target: &str) -> BoxFuture<'static, Result<(), Failure>> {
        let target = target.to_owned();
        Box::pin(async move {
            let connecting = TcpStream::connect(target);
            match tokio::time::timeout(Duration::from_secs(1), connecting).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(Failure::Connect(error.to_string())),
                Err(_) => Err(Failure::Connect("no connection in time".to_owned())),
            }
        })
    }
}
