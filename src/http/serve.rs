//! Connections: taken, bounded, and let go.
//!
//! A loop of our own rather than `axum::serve`, which keeps a client that stalls for ever: here a connection that sends
//! no request head in time, stays idle, or does not take its answer is closed, and there are only so many of them. Where
//! all are taken, the one that has waited for a request for longest makes room for the next: clients that connect and
//! send nothing must not hold up those that ask.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{ready, Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::Router;
use hyper::body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{watch, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, Sleep};
use tower::Service;

use crate::clock::monotonic;
use crate::config::Config;
use crate::seam::net::{TcpListener, TcpStream};
use crate::told::Told;

/// What a connection may cost.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Most connections at once. Where each of them has a request, more wait in the kernel's queue.
    pub connections_max: usize,
    /// How long a connection may wait for a request's head, or be idle.
    pub idle_timeout: Duration,
    /// How long a peer may take next to nothing of its answer.
    pub answer_timeout: Duration,
    /// How long the requests that run at a stop may take to end.
    pub drain_timeout: Duration,
}

impl ServeLimits {
    /// Those of the public port.
    pub fn new(config: &Config) -> ServeLimits {
        ServeLimits {
            connections_max: config.limits.connections_max,
            idle_timeout: Duration::from_millis(config.limits.idle_timeout_ms),
            answer_timeout: Duration::from_millis(config.limits.answer_timeout_ms),
            drain_timeout: config.request_timeout() + DRAIN_MARGIN,
        }
    }
}

/// On top of what a call may take: its answer must still leave.
const DRAIN_MARGIN: Duration = Duration::from_millis(500);
/// Between two tries where connections cannot be taken (no file descriptor is left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two lines of the log about that.
const ACCEPT_TOLD_EVERY: Duration = Duration::from_secs(10);
/// Of a request's head, and of what is buffered of its body. It is not counted together, so it is small.
const BUFFER_BYTES: usize = 16 << 10;
/// What a peer must take of its answer within [`ServeLimits::answer_timeout`] while it keeps its node waiting.
const PACE_BYTES: usize = 16 << 10;

/// Serves `router` on `listener` until `shutdown`; then lets the requests that run end, within a bound.
///
/// It ends in no other way: an error of one connection ends that connection, and one of the listener is waited out.
pub async fn serve(listener: TcpListener, router: Router, limits: ServeLimits, shutdown: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut refusals = Told::every(ACCEPT_TOLD_EVERY);
    let waiting = Arc::<Waiting>::default();
    // The one that was taken and has no slot yet.
    let mut taken = None;
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            stream = accept(&listener, &mut refusals), if taken.is_none() => taken = Some(stream),
            slot = slot(&slots, &waiting), if taken.is_some() => {
                let place = Place::new(waiting.clone());
                let (router, stopping) = (router.clone(), stopping.clone());
                connections.extend(taken.take().map(|stream| connection(stream, slot, place, router, limits, stopping)));
            }
        }
    }
    drop(listener);
    // The receivers learn of it by the sender's end.
    drop(stop);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.drain_timeout, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests still ran at the end of the drain time; cut");
    }
}

async fn accept(listener: &TcpListener, refusals: &mut Told) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // The peer went away before it was taken: the next one is not to wait for that.
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                if let Some(count) = refusals.count(monotonic()) {
                    tracing::warn!(%error, count, "connections cannot be taken");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The right to one connection more.
async fn slot(slots: &Arc<Semaphore>, waiting: &Waiting) -> OwnedSemaphorePermit {
    loop {
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            return slot;
        }
        waiting.close_longest();
        // The semaphore is never closed.
        if let Ok(Ok(slot)) = timeout(ACCEPT_PAUSE, slots.clone().acquire_owned()).await {
            return slot;
        }
    }
}

/// The connections that wait for a request, in the order in which they began to.
#[derive(Default)]
struct Waiting(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    next: u64,
    connections: BTreeMap<u64, Arc<Notify>>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the one close that has waited for longest.
    fn close_longest(&self) {
        if let Some((_, close)) = self.lock().connections.pop_first() {
            close.notify_one();
        }
    }
}

/// The place of one connection among those that wait.
struct Place {
    waiting: Arc<Waiting>,
    close: Arc<Notify>,
    /// While it waits.
    number: Mutex<Option<u64>>,
    /// All of an answer has been given to the connection, and may not have left yet.
    is_answered: AtomicBool,
}

impl Place {
    fn new(waiting: Arc<Waiting>) -> Arc<Place> {
        let place =
            Place { waiting, close: Arc::default(), number: Mutex::default(), is_answered: AtomicBool::new(false) };
        place.wait();
        Arc::new(place)
    }

    /// It waits for a request from now on.
    fn wait(&self) {
        let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queue = self.waiting.lock();
        queue.next += 1;
        *number = Some(queue.next);
        let next = queue.next;
        queue.connections.insert(next, self.close.clone());
    }

    /// It has a request, or has ended.
    fn leave(&self) {
        let number = self.number.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(number) = number {
            self.waiting.lock().connections.remove(&number);
        }
    }

    /// All that it was given has left.
    fn flushed(&self) {
        if self.is_answered.swap(false, Ordering::Relaxed) {
            self.wait();
        }
    }

    /// Whether it has no request now.
    fn waits(&self) -> bool {
        self.number.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The body of an answer. Once all of it has left, its connection waits for the next request.
struct Answer {
    body: Body,
    place: Arc<Place>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.place.is_answered.store(true, Ordering::Relaxed);
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
    place: Arc<Place>,
    router: Router,
    limits: ServeLimits,
    mut stopping: watch::Receiver<()>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let io = TokioIo::new(Impatient { stream, place: place.clone(), patience: limits.answer_timeout, stalled: None });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout).max_buf_size(BUFFER_BYTES);
    let of_requests = place.clone();
    let service = service_fn(move |request| {
        of_requests.leave();
        let (mut router, place) = (router.clone(), of_requests.clone());
        async move {
            let answer = router.call(request).await;
            answer.map(|answer| answer.map(|body| Answer { body, place }))
        }
    });
    let mut connection = pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = place.close.notified() => {
            if place.waits() {
                return;
            }
            // A request has come meanwhile.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// A stream that fails when its peer has taken next to nothing for so long.
struct Impatient {
    stream: TcpStream,
    place: Arc<Place>,
    patience: Duration,
    /// Since a write had to wait.
    stalled: Option<Stall>,
}

/// A write waits for its peer.
struct Stall {
    end: Pin<Box<Sleep>>,
    /// Bytes that were taken since it began.
    taken: usize,
}

impl Impatient {
    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            let taken = *written.as_ref().unwrap_or(&0);
            self.stalled = self.stalled.take().and_then(|stall| {
                let taken = stall.taken + taken;
                (taken < PACE_BYTES).then_some(Stall { taken, ..stall })
            });
            return Poll::Ready(written);
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| {
            let end = Box::pin(tokio::time::sleep_until(monotonic() + patience));
            Stall { end, taken: 0 }
        });
        ready!(stalled.end.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not take its answer")))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It is asked for when all is written.
        self.stalled = None;
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.place.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
