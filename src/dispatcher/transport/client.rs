//! The real transport: HTTP/1.1 over hyper. No redirects, no proxy, answers read to a bound, and nothing but what the guard
//! allows.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::Full;
use hyper::body::Incoming;
use rustls_platform_verifier::ConfigVerifierExt;
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at, Instant};
use tokio_rustls::TlsConnector;
use url::Host;

use super::link::{Link, Stream};
use super::place::{Place, Places};
use super::pool::{Pool, Slot};
use super::{describe, is_exhausted, retry_after, Answer, Failure, Found, Over, Request, Transport, Way};
use crate::clock::{monotonic, Clock};
use crate::config::Callback;
use crate::dispatcher::outcome::asked;
use crate::dispatcher::resolve::{addresses, Book};
use crate::guard::{Guard, OwnHost, Refused};
use crate::metrics::Metrics;
use crate::names::{self, Lookup, Names};
use crate::task::OVER_TLS;

/// The head start of one address of a name before the next one.
const HEAD_START: Duration = Duration::from_millis(250);

/// The real transport.
pub struct Http(Arc<Inner>);

struct Inner {
    guard: Arc<Guard>,
    book: Book,
    tls: TlsConnector,
    pool: Arc<Pool>,
    places: Places,
    connect_timeout: Duration,
    answer_bytes_max: usize,
}

/// Why the client cannot be made.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct SetupError(String);

impl Http {
    /// A client with these bounds, for the targets that the guard allows.
    ///
    /// # Errors
    /// Where the system's certificates cannot be read.
    pub fn new(settings: &Callback, guard: Arc<Guard>) -> Result<Arc<Self>, SetupError> {
        Self::resolving(settings, guard, names::system())
    }

    /// The same, with another way to find out what names stand for.
    ///
    /// # Errors
    /// As [`Http::new`].
    pub fn resolving(settings: &Callback, guard: Arc<Guard>, lookup: Lookup) -> Result<Arc<Self>, SetupError> {
        // A second node in the same process finds the provider installed; it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tls = rustls::ClientConfig::with_platform_verifier();
        let mut tls = tls.map_err(|error| SetupError(error.to_string()))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connect_timeout = Duration::from_millis(settings.connect_timeout_ms);
        let open_max = settings.in_flight_max.saturating_add(settings.idle_connections_max);
        let inner = Inner {
            guard,
            // So that its end is told, and not that of the connect.
            book: Book::new(lookup, connect_timeout * 9 / 10),
            tls: TlsConnector::from(Arc::new(tls)),
            pool: Pool::new(open_max, settings.in_flight_per_host_max),
            places: Places::default(),
            connect_timeout,
            answer_bytes_max: settings.answer_bytes_max,
        };
        Ok(Arc::new(Http(Arc::new(inner))))
    }
}

/// The first of these addresses that is connected to: each has a head start before the next one.
async fn connect_to(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut left = addresses.iter();
    let mut connecting = FuturesUnordered::new();
    let mut failed = None;
    loop {
        let next = left.next();
        connecting.extend(next.map(|address| TcpStream::connect(*address)));
        let ended = match next {
            Some(_) if left.len() > 0 => match timeout(HEAD_START, connecting.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            },
            _ => connecting.next().await,
        };
        match ended {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => failed = failed.or(Some(error)),
            None => return Err(failed.unwrap_or_else(|| io::Error::other("the name has no address"))),
        }
    }
}

impl Inner {
    /// Whether the target is refused. Names are resolved, and what they stand for is judged, when a connection is made; a
    /// literal address is judged here.
    async fn admit(&self, place: &Place) -> Result<(), Failure> {
        self.guard.check_url(&place.url)?;
        let Some(ip) = place.literal().filter(|_| self.guard.own().has_port(place.port)) else { return Ok(()) };
        let own = self.book.own_addresses(&self.guard, place.port).await;
        if own.map_err(|error| not_found(&error))?.contains(&ip.to_canonical()) {
            return Err(Refused::Own(ip.to_string(), place.port).into());
        }
        Ok(())
    }

    /// A connection to a host, and the slot that it takes.
    async fn reach(&self, host: &Host<String>, port: u16) -> Result<(TcpStream, Slot), Failure> {
        let ips = match host {
            Host::Ipv4(ip) => vec![(*ip).into()],
            Host::Ipv6(ip) => vec![(*ip).into()],
            Host::Domain(name) => addresses(&self.book, &self.guard, name, port).await.map_err(|error| match error
                .downcast::<Refused>(
            ) {
                Ok(refused) => Failure::Refused(*refused),
                Err(error) => not_found(error.as_ref()),
            })?,
        };
        let all: Vec<SocketAddr> = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        let none_left = || Failure::Exhausted("all connections to targets are in use".to_owned());
        let slot = self.pool.slot().ok_or_else(none_left)?;
        let mut connected = connect_to(&all).await;
        if connected.as_ref().is_err_and(|error| is_exhausted(error)) {
            // Something else has them. Those that only wait for a request are worth less than this one.
            self.pool.shed();
            connected = connect_to(&all).await;
        }
        match connected {
            Ok(stream) => Ok((stream, slot)),
            Err(error) if is_exhausted(&error) => Err(Failure::Exhausted(error.to_string())),
            Err(error) => Err(Failure::Connect(error.to_string())),
        }
    }

    /// A connection as a request needs it, with TLS or without, and the slot that it takes.
    async fn stream(&self, place: &Place) -> Result<(Stream, Slot), Failure> {
        let (stream, slot) = self.reach(&place.host, place.port).await?;
        // Without it a small request could wait for an acknowledgement; it is sent either way.
        let _ = stream.set_nodelay(true);
        let stream = match &place.tls {
            None => Stream::Plain(stream),
            Some(name) => match self.tls.connect(name.clone(), stream).await {
                Ok(stream) => Stream::Tls(Box::new(stream)),
                Err(error) => return Err(Failure::Connect(format!("the TLS handshake failed: {}", describe(&error)))),
            },
        };
        Ok((stream, slot))
    }

    async fn open(&self, place: &Place) -> Result<Link, Failure> {
        let (stream, slot) = self.stream(place).await?;
        Link::over(stream, slot).await.map_err(|error| Failure::Connect(describe(&error)))
    }

    async fn find(self: Arc<Self>, place: Arc<Place>, over: Over, time: Duration) -> Found {
        let began = monotonic();
        let left = match over {
            Over::New { passed } => time.saturating_sub(passed),
            Over::Any | Over::Alone => time,
        };
        let finding = async {
            self.admit(&place).await?;
            match (over == Over::Any).then(|| self.pool.take(&place.origin)).flatten() {
                Some(link) => Ok(link),
                None => self.open(&place).await,
            }
        };
        let link = match timeout(self.connect_timeout.min(left), finding).await {
            Ok(link) => link?,
            Err(_) if left <= self.connect_timeout => return Err(Failure::NotConnected(time)),
            Err(_) => {
                let ms = self.connect_timeout.as_millis();
                return Err(Failure::Connect(format!("no connection within {ms} ms")));
            }
        };
        let left = left.saturating_sub(began.elapsed());
        Ok(Box::new(Connected { inner: self, place, link, is_kept: over != Over::Alone, time, left }))
    }
}

/// Of a name that led to no address.
fn not_found(error: &(dyn std::error::Error + 'static)) -> Failure {
    let text = describe(error);
    match error.downcast_ref::<io::Error>() {
        Some(error) if error.kind() == names::NO_PLACE => Failure::Crowded(text),
        _ => Failure::Connect(text),
    }
}

/// A connection that waits for its request.
struct Connected {
    inner: Arc<Inner>,
    place: Arc<Place>,
    link: Link,
    /// Whether other requests may follow.
    is_kept: bool,
    /// Of the whole attempt.
    time: Duration,
    /// What is left of it.
    left: Duration,
}

/// How the reading of a body ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// All of it was read.
    Whole,
    /// It is longer than what is read.
    Unread,
}

impl Way for Connected {
    fn send(self: Box<Self>, request: Request) -> BoxFuture<'static, Result<Answer, Failure>> {
        Box::pin(self.exchange(request))
    }
}

impl Connected {
    async fn exchange(mut self: Box<Self>, request: Request) -> Result<Answer, Failure> {
        let until = monotonic() + self.left;
        let kept = request.answer_bytes;
        let sending = self.link.head(self.as_sent(request)?);
        let answer = match timeout_at(until, sending).await {
            Err(_) => return Err(Failure::Timeout(self.time)),
            Ok(Err(why)) if self.link.is_stale() => return Err(Failure::Stale(why)),
            Ok(Err(why)) => return Err(Failure::Broken(why)),
            Ok(Ok(answer)) => answer,
        };
        let (head, mut body) = answer.into_parts();
        let now = Clock::system().now();
        let (retry_after, asked) = (retry_after(&head.headers, now), asked(&head.headers, now));
        let (start, end) = self.read(&mut body, kept, until).await;
        if self.is_kept && end == Ok(End::Whole) {
            self.inner.pool.keep(&self.place.origin, self.link, announced(&head.headers));
        }
        Ok(Answer { status: head.status, retry_after, asked, start, cut: end.err() })
    }

    /// The request as it goes over the connection.
    fn as_sent(&self, request: Request) -> Result<http::Request<Full<Bytes>>, Failure> {
        let Request { method, mut headers, body, .. } = request;
        const AGENT: &str = concat!("xcron/", env!("CARGO_PKG_VERSION"));
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        headers.insert(HOST, self.place.host_header.clone());
        if !self.is_kept {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let body = body.unwrap_or_default();
        if body.is_empty() && [Method::POST, Method::PUT, Method::PATCH].contains(&method) {
            // RFC 9110, 8.6: these mean something by a body, and some receivers read no request without the length.
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let mut sent = http::Request::new(Full::new(body));
        (*sent.method_mut(), *sent.uri_mut(), *sent.headers_mut()) = (method, self.place.path.clone(), headers);
        Ok(sent)
    }

    /// The first bytes of the body; and its end, or why that has not come. It is read on beyond what is kept, so that the
    /// connection can serve again; a longer answer loses it.
    async fn read(&mut self, body: &mut Incoming, kept: usize, until: Instant) -> (Bytes, Result<End, String>) {
        let (mut start, mut read) = (Vec::new(), 0);
        while read < self.inner.answer_bytes_max {
            let chunk = match timeout_at(until, self.link.chunk(body)).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return (start.into(), Ok(End::Whole)),
                Ok(Err(why)) => return (start.into(), Err(why)),
                Err(_) => return (start.into(), Err(format!("no end within {} ms", self.time.as_millis()))),
            };
            read += chunk.len();
            let room = kept.saturating_sub(start.len());
            start.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        (start.into(), Ok(End::Unread))
    }
}

/// How long the target keeps an idle connection, where it says so: `Keep-Alive: timeout=5, max=100`.
fn announced(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = text.split(',').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| value.trim().parse::<u64>().ok())?
    });
    seconds.map(Duration::from_secs)
}

impl Transport for Http {
    fn connect(&self, request: &Request, over: Over) -> BoxFuture<'static, Found> {
        let (inner, time) = (self.0.clone(), request.timeout);
        match self.0.places.get(&request.url) {
            Ok(place) => Box::pin(inner.find(place, over, time)),
            Err(why) => Box::pin(std::future::ready(Err(Failure::Broken(why)))),
        }
    }

    fn reach(&self, target: &str) -> BoxFuture<'static, Result<(), Failure>> {
        let scheme = if target.starts_with(OVER_TLS) { "" } else { "http://" };
        let (inner, place) = (self.0.clone(), self.0.places.get(&format!("{scheme}{target}/")));
        Box::pin(async move {
            let place = place.map_err(Failure::Broken)?;
            let reaching = async {
                inner.admit(&place).await?;
                inner.stream(&place).await
            };
            match timeout(inner.connect_timeout, reaching).await {
                Ok(outcome) => outcome.map(drop),
                Err(_) => Err(Failure::Connect("no connection in time".to_owned())),
            }
        })
    }

    fn learn(&self, host: &str, port: u16) {
        self.0.guard.learn(OwnHost::of(host), port);
    }

    fn know(&self, names: Names, metrics: &Metrics) {
        self.0.book.know(names);
        self.0.pool.show(metrics.target_connections.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_target_keeps_a_connection_is_read_where_it_says_so() {
        let of = |text: &'static str| {
            announced(&[("keep-alive".parse().unwrap(), HeaderValue::from_static(text))].into_iter().collect())
        };
        assert_eq!(of("timeout=5"), Some(Duration::from_secs(5)));
        assert_eq!(of("max=100, Timeout = 60"), Some(Duration::from_secs(60)));
        for none in ["", "timeout", "timeout=", "timeout=-1", "timeout=soon", "max=5"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(announced(&HeaderMap::new()), None);
    }
}
