//! How a request reaches its target.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::BoxFuture;
pub use http::Method;
use http::{HeaderMap, StatusCode};
use tokio::net::TcpStream;
use url::{Host, Url};

use super::outcome::steering;
use super::resolve::{Book, Resolver};
use crate::clock::{Clock, Timestamp};
use crate::command::Steering;
use crate::config::Callback;
use crate::guard::{Guard, OwnHost, Refused};
pub use crate::names::Lookup;
use crate::names::{self, Names};
use crate::signature::{self, Secret};

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
    pub steering: Steering,
    /// Whether they ask for no further attempt.
    pub no_retry: bool,
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
    /// The target is one that the configuration, or any configuration, refuses.
    #[error("not sent: {0}")]
    Refused(#[from] Refused),
    /// This node has no socket left for it: nothing was sent, and it is not the target's fault.
    #[error("not sent: this node is out of sockets: {0}")]
    Exhausted(String),
    /// The exchange broke off.
    #[error("{0}")]
    Broken(String),
}

/// A way to send requests.
pub trait Transport: Send + Sync + 'static {
    /// Sends one and waits for the answer.
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Answer, Failure>>;

    /// Connects to a target, `host:port`, and sends nothing.
    fn reach(&self, target: &str) -> BoxFuture<'static, Result<(), Failure>>;

    /// A port of the cluster's own, which is no target.
    fn learn(&self, _host: &str, _port: u16) {}

    /// What the names of the cluster's hosts stand for.
    fn know(&self, _names: Names) {}
}

/// URLs that were parsed before: many tasks call the same one, and parsing it is a twentieth of what an attempt costs.
#[derive(Default)]
struct Urls(Mutex<HashMap<String, Url>>);

/// How long a target may neither read nor acknowledge what is sent to it.
const UNREAD_MAX: Duration = Duration::from_secs(30);

/// So many are kept; then it begins anew.
const URLS_MAX: usize = 1024;
/// A longer one is parsed each time: this bounds the memory.
const URL_KEPT_BYTES_MAX: usize = 512;

impl Urls {
    fn parse(&self, text: &str) -> Result<Url, url::ParseError> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(url) = known().get(text) {
            return Ok(url.clone());
        }
        let url = Url::parse(text)?;
        if text.len() <= URL_KEPT_BYTES_MAX {
            let mut known = known();
            if known.len() >= URLS_MAX {
                known.clear();
            }
            known.insert(text.to_owned(), url.clone());
        }
        Ok(url)
    }
}

/// The real one, over reqwest: no redirects, no proxy from the environment, answers read to a bound, and nothing but
/// what the guard allows.
pub struct Http(Arc<Inner>);

struct Inner {
    guard: Arc<Guard>,
    book: Book,
    client: reqwest::Client,
    /// For each of the cluster's own ports, a client that knows to which port its names lead. Few tasks ask for one of
    /// these ports, so it is made when one does.
    careful: Mutex<BTreeMap<u16, Result<reqwest::Client, SetupError>>>,
    urls: Urls,
    settings: Settings,
    answer_bytes_max: usize,
}

#[derive(Clone, Copy)]
struct Settings {
    connect_timeout: Duration,
    pool_max_idle_per_host: usize,
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
        let answer_bytes_max = settings.answer_bytes_max;
        let settings = Settings {
            connect_timeout: Duration::from_millis(settings.connect_timeout_ms),
            pool_max_idle_per_host: settings.in_flight_per_host_max,
        };
        // So that its end is told, and not that of the connect.
        let book = Book::new(lookup, settings.connect_timeout * 9 / 10);
        let client = settings.client(Resolver::new(book.clone(), guard.clone(), 0))?;
        let inner =
            Inner { guard, book, client, careful: Mutex::default(), urls: Urls::default(), settings, answer_bytes_max };
        Ok(Arc::new(Http(Arc::new(inner))))
    }
}

impl Settings {
    fn client(self, resolver: Arc<Resolver>) -> Result<reqwest::Client, SetupError> {
        reqwest::Client::builder()
            .user_agent(concat!("xcron/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            // What is sent again is our business; and each request would be copied in case it were.
            .retry(reqwest::retry::never().max_retries_per_request(0))
            .no_proxy()
            .dns_resolver(resolver)
            .tcp_nodelay(true)
            .connect_timeout(self.connect_timeout)
            // A connection whose attempt was given up is closed as soon as the kernel has taken all of the request. Where the
            // target reads nothing, and the request is too large for that, it is closed after this time.
            .tcp_user_timeout(UNREAD_MAX)
            .pool_max_idle_per_host(self.pool_max_idle_per_host)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|e| SetupError(describe(&e)))
    }
}

impl Inner {
    /// The client for this URL, unless its target is refused. Names are resolved, and what they stand for is judged,
    /// when the client connects; a literal address passes by every resolver, so it is judged here.
    async fn admit(&self, url: &Url) -> Result<reqwest::Client, Failure> {
        self.guard.check_url(url)?;
        let port = url.port_or_known_default().unwrap_or(0);
        if !self.guard.own().has_port(port) {
            return Ok(self.client.clone());
        }
        let literal = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            _ => None,
        };
        if let Some(ip) = literal {
            let own = self.book.own_addresses(&self.guard, port).await;
            if own.map_err(|error| Failure::Connect(error.to_string()))?.contains(&ip.to_canonical()) {
                return Err(Refused::Own(ip.to_string(), port).into());
            }
            return Ok(self.client.clone());
        }
        let mut careful = self.careful.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || self.settings.client(Resolver::new(self.book.clone(), self.guard.clone(), port));
        let client = careful.entry(port).or_insert_with(make);
        client.clone().map_err(|error| Failure::Broken(error.to_string()))
    }

    async fn connect(&self, target: &str) -> Result<(), Failure> {
        let broken = |what: &dyn std::fmt::Display| Failure::Broken(what.to_string());
        let url = Url::parse(&format!("http://{target}/")).map_err(|error| broken(&error))?;
        self.admit(&url).await?;
        let port = url.port_or_known_default().unwrap_or(0);
        let ips = match url.host() {
            Some(Host::Ipv4(ip)) => vec![ip.into()],
            Some(Host::Ipv6(ip)) => vec![ip.into()],
            Some(Host::Domain(name)) => {
                let own = if self.guard.own().has_port(port) { port } else { 0 };
                let resolver = Resolver::new(self.book.clone(), self.guard.clone(), own);
                resolver.addresses(name).await.map_err(|error| match error.downcast::<Refused>() {
                    Ok(refused) => Failure::Refused(*refused),
                    Err(error) => Failure::Connect(describe(error.as_ref())),
                })?
            }
            None => return Err(broken(&"no host")),
        };
        let addresses: Vec<SocketAddr> = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        match TcpStream::connect(addresses.as_slice()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::Connect(error.to_string())),
        }
    }

    async fn exchange(&self, request: Request) -> Result<Answer, Failure> {
        let Request { method, url, headers, body, answer_bytes: kept, .. } = request;
        let url = self.urls.parse(&url).map_err(|error| Failure::Broken(error.to_string()))?;
        let client = self.admit(&url).await?;
        // As its builder would, but for copying each header. (That takes a user and a password from the URL besides, of which
        // a task's has none.)
        let mut sending = reqwest::Request::new(method, url);
        *sending.headers_mut() = headers;
        *sending.body_mut() = body.map(reqwest::Body::from);
        let mut response = client.execute(sending).await?;
        let retry_after = retry_after(response.headers(), Clock::system().now());
        let (steering, no_retry) = steering(response.headers());
        let bytes_max = self.answer_bytes_max;
        let mut start = Vec::new();
        let mut read = 0;
        // Read on beyond what is kept, so that the connection can serve again; a longer answer loses it.
        while read < bytes_max {
            let Some(chunk) = response.chunk().await? else { break };
            read += chunk.len();
            let room = kept.saturating_sub(start.len());
            start.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        Ok(Answer { status: response.status(), retry_after, steering, no_retry, start: start.into() })
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Failure {
        match causes(&error).find_map(|cause| cause.downcast_ref::<Refused>()) {
            Some(refused) => Failure::Refused(refused.clone()),
            None if is_exhausted(&error) => Failure::Exhausted(describe(&error)),
            None if error.is_connect() => Failure::Connect(describe(&error)),
            None => Failure::Broken(describe(&error)),
        }
    }
}

impl Transport for Http {
    fn send(&self, request: Request) -> BoxFuture<'static, Result<Answer, Failure>> {
        let (inner, timeout) = (self.0.clone(), request.timeout);
        Box::pin(async move {
            match tokio::time::timeout(timeout, inner.exchange(request)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::Timeout(timeout)),
            }
        })
    }

    fn reach(&self, target: &str) -> BoxFuture<'static, Result<(), Failure>> {
        let (inner, target, timeout) = (self.0.clone(), target.to_owned(), self.0.settings.connect_timeout);
        Box::pin(async move {
            match tokio::time::timeout(timeout, inner.connect(&target)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::Connect("no connection in time".to_owned())),
            }
        })
    }

    fn learn(&self, host: &str, port: u16) {
        self.0.guard.learn(OwnHost::of(host), port);
    }

    fn know(&self, names: Names) {
        self.0.book.know(names);
    }
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
    let os_error = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<std::io::Error>()?.raw_os_error();
    causes(error).filter_map(os_error).any(|code| [libc::EMFILE, libc::ENFILE].contains(&code))
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

    #[test]
    fn a_url_is_the_same_however_often_it_is_parsed() {
        let urls = Urls::default();
        let long = format!("http://b.example/{}", "x".repeat(URL_KEPT_BYTES_MAX));
        let texts = (0..2 * URLS_MAX).map(|n| format!("http://a.example/{n}?q=ü")).chain([long]);
        for text in texts.flat_map(|text| [text.clone(), text]) {
            assert_eq!(urls.parse(&text), Url::parse(&text));
            assert!(urls.0.lock().unwrap().len() <= URLS_MAX);
        }
        assert_eq!(urls.parse("http://"), Err(url::ParseError::EmptyHost));
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
