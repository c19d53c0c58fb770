//! How an HTTP client connects over the simulated network.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

thread_local! {
    /// Names that lead to another host than their own.
    static ASTRAY: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// From now on this name leads nodes to the host of another one.
pub fn lead_astray(name: &str, to: &str) {
    ASTRAY.with_borrow_mut(|names| names.insert(name.to_owned(), to.to_owned()));
}

/// All names lead to their own hosts.
pub fn lead_all_right() {
    ASTRAY.with_borrow_mut(BTreeMap::clear);
}

/// Where this name and port lead.
fn led(uri: &Uri) -> String {
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let to = ASTRAY.with_borrow(|names| names.get(host).cloned());
    format!("{}:{port}", to.as_deref().unwrap_or(host))
}

/// Connects within a time.
#[derive(Clone, Debug)]
pub struct Connector(Duration);

/// Connects within this time. Its names are the simulation's.
pub fn connector(timeout: Duration, _: crate::names::Names) -> Connector {
    Connector(timeout)
}

/// A connection.
#[derive(Debug)]
pub struct Stream(TcpStream);

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let timeout = self.0;
        Box::pin(async move {
            let stream = tokio::time::timeout(timeout, TcpStream::connect(led(&uri))).await??;
            Ok(TokioIo::new(Stream(stream)))
        })
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
