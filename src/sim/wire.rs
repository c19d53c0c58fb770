//! One HTTP exchange over the simulated network, on a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use turmoil::net::TcpStream;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Failure {
    /// None in time.
    Timeout,
    /// There is no connection.
    Connect,
    /// It broke off.
    Broken,
}

/// Sends a request to `host:port` and waits for the whole answer.
///
/// # Errors
/// Each variant of [`Failure`].
pub async fn exchange(
    to: &str,
    request: Request<Full<Bytes>>,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), Failure> {
    let exchange = async {
        let stream = TcpStream::connect(to).await.map_err(|_| Failure::Connect)?;
        exchange_over(stream, request).await.map_err(|_| Failure::Broken)
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(Failure::Timeout))
}

/// The same over a connection.
///
/// # Errors
/// It broke off.
pub async fn exchange_over(stream: TcpStream, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let broken = |e: hyper::Error| e.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    };
    // Driven here and not by a task of its own, it ends with this call.
    tokio::select! {
        biased;
        answer = exchange => answer.map_err(broken),
        ended = connection => Err(format!("the connection has ended: {ended:?}")),
    }
}
