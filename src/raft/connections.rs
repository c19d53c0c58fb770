//! Connections to one peer.
//!
//! Each exchange has a connection to itself. One that is given up takes its connection with it: what the peer has not
//! read by then is not kept for it. A client with a pool of its own goes on writing, and a peer that takes connections
//! and reads nothing then costs a message for each call.
//!
//! A connection that nobody waits for any more once it is there is kept for the next exchange: over a long way it takes as
//! long as an answer does, and those who wait for both might never get one.
//!
//! A name is resolved for each connection. Where somebody else than the peer answers, no connection to there is kept,
//! and the next one goes to another address, if the name has, or had, one.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{handshake, SendRequest};
use hyper_util::client::legacy::connect::{Connection as _, HttpInfo};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::links::CallError;
use crate::clock::monotonic;
use crate::names::Names;
use crate::seam::net::Connector;

/// Connections that are kept while nothing is sent on them.
const IDLE_MAX: usize = 8;
/// For how long.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Whether a message may have left this node. Before it has a connection it has not.
#[derive(Debug, Default)]
pub struct Sent(AtomicBool);

impl Sent {
    /// Whether it may have left, and so may have had its effect.
    pub fn may_have_left(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn note(&self, left: bool) {
        self.0.store(left, Ordering::Release);
    }
}

/// The connections to one address.
pub(super) struct Connections {
    address: String,
    connector: Connector,
    names: Names,
    idle: Mutex<Vec<(Instant, Connection)>>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Where it leads to, and whether the peer has answered there.
    to: Option<IpAddr>,
    is_proven: bool,
    _driver: Driver,
}

/// What reads from and writes to a connection; ends with it.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Connections {
    pub fn new(address: String, connector: Connector, names: Names) -> Connections {
        Connections { address, connector, names, idle: Mutex::default() }
    }

    /// Sends a request and reads the whole answer, of at most so many bytes. `is_of_peer` tells whether it is the peer that
    /// has answered. Whoever drops this exchange knows from `sent` whether the request may have left.
    pub async fn exchange(
        self: &Arc<Self>,
        mut request: Request<Full<Bytes>>,
        bytes_max: usize,
        is_of_peer: impl Fn(&http::response::Parts) -> bool,
        sent: &Sent,
    ) -> Result<Response<Bytes>, CallError> {
        loop {
            let kept = self.take();
            let is_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connection().await.map_err(CallError::NotSent)?,
            };
            if is_kept && connection.sender.ready().await.is_err() {
                // The peer has closed it meanwhile.
                continue;
            }
            sent.note(true);
            let answer = match connection.sender.try_send_request(request).await {
                Ok(answer) => answer,
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => {
                        sent.note(false);
                        request = unsent;
                        continue;
                    }
                    Some(_) => return Err(CallError::NotSent(text(error.error()))),
                    None => return Err(CallError::Unknown(text(error.error()))),
                },
            };
            let (head, body) = answer.into_parts();
            if !is_of_peer(&head) {
                self.avoid(&connection);
                return read(head, body, bytes_max).await;
            }
            self.prove(&mut connection);
            let answer = read(head, body, bytes_max).await?;
            self.keep(connection);
            return Ok(answer);
        }
    }

    /// A new one. If this is dropped before it is there, the next exchange has it.
    async fn connection(self: &Arc<Self>) -> Result<Connection, String> {
        let (done, connected) = oneshot::channel();
        let connections = self.clone();
        tokio::spawn(async move {
            if let Err(Ok(unwanted)) = done.send(connections.connect().await) {
                connections.keep(unwanted);
            }
        });
        connected.await.unwrap_or_else(|_| Err("the attempt to connect has ended without a word".to_owned()))
    }

    async fn connect(&self) -> Result<Connection, String> {
        let uri = http::Uri::try_from(format!("http://{}", self.address)).map_err(|e| e.to_string())?;
        let mut connector = self.connector.clone();
        let connector = connector.ready().await.map_err(|e| text(&e))?;
        let stream = connector.call(uri).await.map_err(|e| text(&e))?;
        let mut extra = http::Extensions::new();
        stream.connected().get_extras(&mut extra);
        let to = extra.get::<HttpInfo>().map(|info| info.remote_addr().ip());
        let (sender, connection) = handshake(stream).await.map_err(|e| text(&e))?;
        let driver = tokio::spawn(async move {
            // The exchange that it was for is told of its errors.
            let _ = connection.await;
        });
        Ok(Connection { sender, to, is_proven: false, _driver: Driver(driver) })
    }

    fn host(&self) -> &str {
        self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host)
    }

    fn prove(&self, connection: &mut Connection) {
        if let Some(to) = connection.to.filter(|_| !connection.is_proven) {
            self.names.prove(self.host(), to);
        }
        connection.is_proven = true;
    }

    /// Where this one leads to is not where the peer is: the next call connects anew.
    fn avoid(&self, connection: &Connection) {
        if let Some(to) = connection.to {
            self.names.refuse(self.host(), to);
        }
        self.close_idle();
    }

    /// Closes those that are kept.
    pub fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    #[cfg(all(test, not(feature = "sim")))]
    pub fn has_idle(&self) -> bool {
        !self.idle.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The one that was used last.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, connection)| since.elapsed() < IDLE_FOR && !connection.sender.is_closed());
        idle.pop().map(|(_, connection)| connection)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !connection.sender.is_closed() {
            idle.push((monotonic(), connection));
        }
    }
}

async fn read(head: http::response::Parts, body: Incoming, bytes_max: usize) -> Result<Response<Bytes>, CallError> {
    let body = Limited::new(body, bytes_max).collect().await.map_err(|e| CallError::Unknown(e.to_string()))?;
    Ok(Response::from_parts(head, body.to_bytes()))
}
