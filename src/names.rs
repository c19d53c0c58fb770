//! From a name to its addresses, also while the name server is silent, late or wrong.
//!
//! Lookups have a bounded place of their own: the system's resolver blocks a thread for as long as a name server is
//! silent (10 s by default), and on shared threads a few names would hold up everything else that blocks. There is one
//! lookup of a name at a time; whoever asks meanwhile waits for its answer, for a bounded time. A name that was found
//! before has its last known addresses then. doc/decisions/0025-last-known-addresses.md
//!
//! Half of the places are for lookups that take long: those of names that took long before, and those that have begun to.
//! doc/decisions/0041-silent-names.md

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use self::places::Places;
use crate::clock::monotonic;

mod places;

/// Asks what a name stands for.
pub type Lookup = Arc<dyn Fn(&str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Most names of which something is kept; beyond, those that are not being looked up are forgotten.
const NAMES_MAX: usize = 4096;
/// Most addresses of a name that are kept as refused.
const REFUSED_MAX: usize = 8;
/// The addresses of a target do for this long without another lookup.
const FRESH: Duration = Duration::from_secs(2);
/// A lookup that takes longer is one of a name server that is silent, or nearly so.
const SLOW: Duration = Duration::from_millis(500);

/// Of an error where no lookup of the name was made: nothing is known of it, good or bad.
pub const NO_PLACE: io::ErrorKind = io::ErrorKind::ResourceBusy;

/// Asks the system, on a thread that is begun for it. A name that does not exist is [`io::ErrorKind::NotFound`].
pub fn system() -> Lookup {
    Arc::new(|name| {
        let name = name.to_owned();
        let (done, answer) = oneshot::channel();
        let begun = std::thread::Builder::new().name("name lookup".to_owned()).spawn(move || {
            // Nobody may be waiting any more.
            let _ = done.send(ask_system(&name));
        });
        Box::pin(async move {
            begun.map_err(|error| io::Error::new(NO_PLACE, format!("no thread for a lookup: {error}")))?;
            answer.await.unwrap_or_else(|_| Err(io::Error::other("the lookup has ended without an answer")))
        })
    })
}

fn ask_system(name: &str) -> io::Result<Vec<IpAddr>> {
    match (name, 0).to_socket_addrs() {
        Ok(found) => Ok(found.map(|address| address.ip()).collect()),
        Err(error) if is_absence(&error.to_string()) => Err(io::Error::new(io::ErrorKind::NotFound, error.to_string())),
        Err(error) => Err(error),
    }
}

/// Whether the text of an error of `getaddrinfo`, which has no code in Rust, says that there is no such name: by glibc and
/// musl, EAI_NONAME and EAI_NODATA.
fn is_absence(text: &str) -> bool {
    ["not known", "No address associated", "does not resolve", "Name has no usable"]
        .iter()
        .any(|end| text.contains(end))
}

/// How lookups of names of a kind are made.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Lookups at once.
    places: usize,
    /// A lookup that takes longer is slow. Half of the places are for those.
    slow: Duration,
    /// For how long what was found does without another lookup.
    fresh: Duration,
    /// How long an answer is waited for where addresses are known.
    patience: Duration,
    /// How long where none are.
    wait_max: Duration,
    /// For how long known addresses do while there is no answer; none: for ever, and also where the answer is that there
    /// is no such name.
    stale_max: Option<Duration>,
}

/// Names and their addresses; cheap to clone.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    lookup: Lookup,
    rule: Rule,
    quick_places: Places,
    slow_places: Places,
    names: Mutex<HashMap<String, Known>>,
}

/// What a lookup has come to: addresses, at least one, or why there are none.
type Outcome = Result<Vec<IpAddr>, (io::ErrorKind, String)>;

/// What there is to go by for a name.
enum Begun {
    /// Addresses that were found a moment ago.
    Fresh(Vec<IpAddr>),
    /// A lookup; what is known that does without it; and whether the last one was late.
    Going(watch::Receiver<Option<Outcome>>, Vec<IpAddr>, bool),
}

/// What is known of a name.
#[derive(Default)]
struct Known {
    /// What the last lookup that found something has found, and when.
    found: Option<(Vec<IpAddr>, Instant)>,
    /// The address from which the peer of this name has answered last.
    proven: Option<IpAddr>,
    /// Addresses at which somebody else has answered.
    refused: Vec<IpAddr>,
    /// The lookup that is under way.
    going: Weak<watch::Sender<Option<Outcome>>>,
    /// Since when the lookup that is under way has its place.
    begun: Option<Instant>,
    /// The last lookup took longer than those who wait are patient.
    is_late: bool,
    /// The last one took a place for long.
    is_slow: bool,
    /// That the last one found nothing was told.
    is_told: bool,
}

impl Known {
    /// In the order in which they are tried: as found last; where the peer was before; where somebody else answered.
    fn addresses(&self) -> Vec<IpAddr> {
        let found = self.found.as_ref().map_or(&[][..], |(found, _)| found);
        let mut all: Vec<IpAddr> = Vec::with_capacity(found.len() + 1);
        for ip in found.iter().chain(&self.proven) {
            if !all.contains(ip) {
                all.push(*ip);
            }
        }
        all.sort_by_key(|ip| self.refused.contains(ip));
        all
    }
}

impl Names {
    /// Names of the cluster's nodes: a node is called at its last known address for as long as nothing newer is known.
    pub fn of_peers(lookup: Lookup) -> Names {
        let (patience, wait_max) = (Duration::from_millis(50), Duration::from_millis(800));
        Names::with(lookup, Rule { places: 8, slow: SLOW, fresh: Duration::ZERO, patience, wait_max, stale_max: None })
    }

    /// Names of targets, which are waited for no longer than `wait_max`. That a name does not exist is believed; while
    /// there is no answer, its last known addresses do for an hour.
    pub fn of_targets(lookup: Lookup, wait_max: Duration) -> Names {
        let (patience, stale_max) = (Duration::from_millis(200), Some(Duration::from_secs(3600)));
        Names::with(lookup, Rule { places: 48, slow: SLOW, fresh: FRESH, patience, wait_max, stale_max })
    }

    fn with(lookup: Lookup, rule: Rule) -> Names {
        let half = rule.places / 2;
        let (quick_places, slow_places) = (Places::new(rule.places - half), Places::new(half));
        Names(Arc::new(Shared { lookup, rule, quick_places, slow_places, names: Mutex::default() }))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a name stands for, as far as it can be told within a bounded time; at least one address.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`]: there is no such name. [`NO_PLACE`]: lookups of other names have all the places, and
    /// nothing is known. Others: there is no answer, and nothing is known.
    pub async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let rule = self.0.rule;
        let (mut answer, known, is_late) = match self.begin(name) {
            Begun::Fresh(known) => return Ok(known),
            Begun::Going(answer, known, is_late) => (answer, known, is_late),
        };
        if is_late && !known.is_empty() {
            return Ok(known);
        }
        // Of a name that was late before the answer serves whoever asks next.
        let patience = if known.is_empty() && !is_late { rule.wait_max } else { rule.patience };
        let outcome = match tokio::time::timeout(patience, answer.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone(),
            // Its task is gone, with the runtime.
            Ok(Err(_)) => None,
            Err(_) if known.is_empty() && !self.has_asked(name, patience / 2) => {
                let text =
                    format!("no lookup within {} ms: those of other names wait for answers", patience.as_millis());
                return Err(io::Error::new(NO_PLACE, text));
            }
            Err(_) => {
                self.note_late(name);
                None
            }
        };
        match outcome {
            Some(Ok(found)) => Ok(Some(self.last_known(name)).filter(|known| !known.is_empty()).unwrap_or(found)),
            Some(Err((io::ErrorKind::NotFound, text))) if rule.stale_max.is_some() || known.is_empty() => {
                Err(io::Error::new(io::ErrorKind::NotFound, text))
            }
            _ if !known.is_empty() => Ok(known),
            Some(Err((kind, text))) => Err(io::Error::new(kind, text)),
            None => {
                let text =
                    format!("failed to lookup address information: no answer within {} ms", patience.as_millis());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    /// Takes part in the lookup of this name, or begins one, unless what was found is fresh.
    fn begin(&self, name: &str) -> Begun {
        let mut names = self.known();
        if names.len() >= NAMES_MAX && !names.contains_key(name) {
            names.retain(|_, known| known.going.strong_count() > 0);
        }
        let entry = names.entry(name.to_owned()).or_default();
        if entry.found.as_ref().is_some_and(|(_, at)| at.elapsed() < self.0.rule.fresh) {
            return Begun::Fresh(entry.addresses());
        }
        let does = match (&entry.found, self.0.rule.stale_max) {
            (Some((_, at)), Some(stale_max)) => at.elapsed() <= stale_max,
            _ => true,
        };
        let known = if does { entry.addresses() } else { Vec::new() };
        let answer = match entry.going.upgrade() {
            Some(going) => going.subscribe(),
            None => {
                let (going, answer) = watch::channel(None);
                let going = Arc::new(going);
                (entry.going, entry.begun) = (Arc::downgrade(&going), None);
                tokio::spawn(self.clone().look_up(name.to_owned(), going, entry.is_slow));
                answer
            }
        };
        Begun::Going(answer, known, entry.is_late)
    }

    async fn look_up(self, name: String, going: Arc<watch::Sender<Option<Outcome>>>, is_slow: bool) {
        let shared = &self.0;
        let places = if is_slow { &shared.slow_places } else { &shared.quick_places };
        let mut place = loop {
            match places.take(shared.rule.wait_max).await {
                Some((_, waited)) if waited && going.receiver_count() == 0 => return,
                Some((place, _)) => break place,
                // Nobody waits for it any more, and others do for theirs.
                None if going.receiver_count() == 0 => return,
                None => {}
            }
        };
        self.note_begun(&name);
        let began = monotonic();
        let mut lookup = (shared.lookup)(&name);
        let found = match tokio::time::timeout(shared.rule.slow, &mut lookup).await {
            Ok(found) => found,
            Err(_) => {
                // It goes on among the slow ones, if there is room, so that the quick ones get their place.
                let slow = if is_slow { None } else { shared.slow_places.free() };
                place = slow.unwrap_or(place);
                lookup.await
            }
        };
        drop(place);
        let outcome = match found {
            Ok(found) if found.is_empty() => Err((io::ErrorKind::NotFound, format!("{name} has no address"))),
            Ok(found) => Ok(found),
            Err(error) => Err((error.kind(), error.to_string())),
        };
        self.note(&name, &outcome, began.elapsed());
        going.send_replace(Some(outcome));
    }

    fn note(&self, name: &str, outcome: &Outcome, took: Duration) {
        let mut names = self.known();
        let Some(entry) = names.get_mut(name) else { return };
        entry.going = Weak::new();
        entry.is_late = took > self.0.rule.patience;
        entry.is_slow = took > self.0.rule.slow;
        let of_peer = self.0.rule.stale_max.is_none();
        match outcome {
            Ok(found) => {
                entry.found = Some((found.clone(), monotonic()));
                if std::mem::take(&mut entry.is_told) {
                    tracing::info!(name, "peer's name resolves again");
                }
            }
            Err((_, cause)) if of_peer && entry.found.is_some() && !entry.is_told => {
                entry.is_told = true;
                tracing::warn!(name, cause, "peer's name does not resolve; its last known addresses are used");
            }
            Err(_) => {}
        }
    }

    fn note_begun(&self, name: &str) {
        if let Some(entry) = self.known().get_mut(name) {
            entry.begun = Some(monotonic());
        }
    }

    /// Whether the name server has had so much time to answer, or as much as a lookup takes that is not slow.
    fn has_asked(&self, name: &str, time: Duration) -> bool {
        let begun = self.known().get(name).and_then(|entry| entry.begun);
        begun.is_some_and(|begun| begun.elapsed() >= time.min(self.0.rule.slow))
    }

    /// From here on nobody waits for this name where addresses are known, until it is found in time again.
    fn note_late(&self, name: &str) {
        if let Some(entry) = self.known().get_mut(name).filter(|entry| entry.going.strong_count() > 0) {
            entry.is_late = true;
        }
    }

    /// What is known of this name, without asking; perhaps nothing.
    pub fn last_known(&self, name: &str) -> Vec<IpAddr> {
        self.known().get(name).map(Known::addresses).unwrap_or_default()
    }

    /// The peer of this name has answered at this address. Of a literal address, which is never looked up, nothing is kept.
    pub fn prove(&self, name: &str, ip: IpAddr) {
        if let Some(entry) = self.known().get_mut(name) {
            entry.proven = Some(ip);
            entry.refused.retain(|refused| *refused != ip);
        }
    }

    /// Somebody else has answered at this address: it is tried last from now on.
    pub fn refuse(&self, name: &str, ip: IpAddr) {
        if let Some(entry) = self.known().get_mut(name).filter(|entry| !entry.refused.contains(&ip)) {
            if entry.refused.len() == REFUSED_MAX {
                entry.refused.remove(0);
            }
            entry.refused.push(ip);
            entry.proven = entry.proven.filter(|proven| *proven != ip);
        }
    }
}

/// For connections: resolves as [`Names::addresses`] does.
impl tower::Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.clone();
        Box::pin(async move {
            let found = names.addresses(name.as_str()).await?;
            Ok(found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
        })
    }
}

#[cfg(test)]
mod tests;
