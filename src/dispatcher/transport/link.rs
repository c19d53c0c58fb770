//! One connection to a target, and one exchange after the other over it.
//!
//! The connection is driven by whoever uses it and has no task of its own: nothing is woken twice, and where an attempt is
//! given up its connection is closed at once.

use std::future::{poll_fn, Future};
use std::io;
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::task::noop_waker_ref;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::describe;
use super::pool::Slot;
use crate::clock::monotonic;

/// A stream to the target, with TLS or without.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The stream of a connection. It notes whether anything was heard.
struct Wire {
    stream: Stream,
    heard: Arc<AtomicBool>,
    _slot: Slot,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

type Driver = Connection<TokioIo<Wire>, Full<Bytes>>;

/// A connection.
pub(super) struct Link {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    /// Why the driver has ended, which must not be polled again then.
    ended: Option<String>,
    /// Whether a byte has come since the last request.
    heard: Arc<AtomicBool>,
    opened: Instant,
    is_used: bool,
}

/// Drives the connection on.
fn drive(driver: &mut Driver, ended: &mut Option<String>, cx: &mut Context<'_>) {
    if ended.is_none() {
        if let Poll::Ready(end) = Pin::new(driver).poll(cx) {
            *ended = Some(end.map_or_else(|error| describe(&error), |()| "the target has closed it".to_owned()));
        }
    }
}

impl Link {
    /// Over this stream, which takes up the slot.
    pub async fn over(stream: Stream, slot: Slot) -> Result<Link, hyper::Error> {
        let heard = Arc::new(AtomicBool::new(false));
        let wire = Wire { stream, heard: heard.clone(), _slot: slot };
        let (sender, driver) = Builder::new().handshake(TokioIo::new(wire)).await?;
        Ok(Link { sender, driver, ended: None, heard, opened: monotonic(), is_used: false })
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Sends a request; the head of its answer.
    pub async fn head(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        self.heard.store(false, Ordering::Relaxed);
        let mut answer = pin!(self.sender.send_request(request));
        let (driver, ended) = (&mut self.driver, &mut self.ended);
        poll_fn(|cx| {
            drive(driver, ended, cx);
            match answer.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(answer.map_err(|error| describe(&error))),
                Poll::Pending => ended.clone().map_or(Poll::Pending, |why| Poll::Ready(Err(why))),
            }
        })
        .await
    }

    /// Whether no byte of an answer has come to a request that is not the first one here: the target closed the connection,
    /// most likely before the request reached it.
    pub fn is_stale(&self) -> bool {
        self.is_used && !self.heard.load(Ordering::Relaxed)
    }

    /// The next part of the body; none: it is over.
    pub async fn chunk(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, String> {
        let (driver, ended) = (&mut self.driver, &mut self.ended);
        poll_fn(|cx| {
            // The first look says that a part is wanted, which the driver goes by.
            for _ in 0..2 {
                drive(driver, ended, cx);
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        return Poll::Ready(Ok(Some(frame.into_data().unwrap_or_default())));
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(describe(&error))),
                    Poll::Ready(None) => return Poll::Ready(Ok(None)),
                    Poll::Pending => {}
                }
            }
            ended.clone().map_or(Poll::Pending, |why| Poll::Ready(Err(why)))
        })
        .await
    }

    /// Whether another request can go over it, as far as this side knows.
    pub fn is_free(&mut self) -> bool {
        self.is_used = true;
        drive(&mut self.driver, &mut self.ended, &mut Context::from_waker(noop_waker_ref()));
        self.ended.is_none() && self.sender.is_ready()
    }
}
