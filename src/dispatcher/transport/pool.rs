//! The connections to all targets: how many may be open, and which ones are kept for the next request.
//!
//! A bound for each host bounds nothing where there are thousands of hosts, so there is one over all of them. A new
//! connection takes the place of the one that has been idle for longest. doc/decisions/0039-connections-to-targets.md

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use super::link::Link;
use crate::clock::monotonic;

/// How long an idle connection is kept, unless the target says otherwise.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// A connection that is older is not kept, so that a target that has moved is noticed.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long before the end that the target has announced a connection is given up.
const MARGIN: Duration = Duration::from_secs(1);
/// Between two looks for connections whose time is over.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The least that is closed where the process has run out of descriptors.
const SHED_MIN: usize = 16;

/// The connections to all targets.
pub(super) struct Pool {
    kept: Mutex<Kept>,
    open: AtomicUsize,
    open_max: usize,
    kept_per_host_max: usize,
    shown: OnceLock<Gauge>,
}

#[derive(Default)]
struct Kept {
    /// By origin; the one that was put back last is at the end.
    hosts: HashMap<Arc<str>, VecDeque<Idle>>,
    /// The origin of each by its turn: the first one has been idle for longest.
    order: BTreeMap<u64, Arc<str>>,
    turn: u64,
    is_swept: bool,
}

struct Idle {
    turn: u64,
    until: Instant,
    link: Link,
}

impl Kept {
    fn pop_oldest(&mut self) -> Option<Link> {
        let (_, origin) = self.order.pop_first()?;
        let host = self.hosts.get_mut(&origin)?;
        let oldest = host.pop_front();
        if host.is_empty() {
            self.hosts.remove(&origin);
        }
        oldest.map(|idle| idle.link)
    }

    fn pop_newest_of(&mut self, origin: &str) -> Option<Idle> {
        let host = self.hosts.get_mut(origin)?;
        let newest = host.pop_back();
        if host.is_empty() {
            self.hosts.remove(origin);
        }
        newest.inspect(|idle| {
            self.order.remove(&idle.turn);
        })
    }
}

/// The right to one open connection.
pub(super) struct Slot(Arc<Pool>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.shown.get().map(Gauge::dec);
    }
}

impl Pool {
    /// For so many connections, of which so many to one host may be kept.
    pub fn new(open_max: usize, kept_per_host_max: usize) -> Arc<Pool> {
        let (kept, open, shown) = (Mutex::default(), AtomicUsize::new(0), OnceLock::new());
        Arc::new(Pool { kept, open, open_max: open_max.max(1), kept_per_host_max, shown })
    }

    /// Has the number of open connections shown here. The first one counts.
    pub fn show(&self, gauge: Gauge) {
        let _ = self.shown.set(gauge);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot; where all are taken, that of the connection that has been idle for longest. None: all are in use.
    pub fn slot(self: &Arc<Self>) -> Option<Slot> {
        loop {
            let one_more = |open: usize| (open < self.open_max).then_some(open + 1);
            if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok() {
                self.shown.get().map(Gauge::inc);
                return Some(Slot(self.clone()));
            }
            // Closed here, outside of the lock.
            let oldest = self.kept().pop_oldest();
            oldest?;
        }
    }

    /// Closes some of the idle connections, those that have been idle for longest: the process has no descriptor left.
    pub fn shed(&self) {
        let shed: Vec<Link> = {
            let mut kept = self.kept();
            let many = (kept.order.len() / 4).max(SHED_MIN);
            std::iter::from_fn(|| kept.pop_oldest()).take(many).collect()
        };
        drop(shed);
    }

    /// A kept connection to this origin that is good for one more request, as far as this side knows.
    pub fn take(&self, origin: &str) -> Option<Link> {
        loop {
            let Idle { until, mut link, .. } = self.kept().pop_newest_of(origin)?;
            if monotonic() < until && link.is_free() {
                return Some(link);
            }
        }
    }

    /// Keeps a connection whose exchange is over, if it can serve again. `announced` is how long the target keeps it idle.
    pub fn keep(self: &Arc<Self>, origin: &Arc<str>, mut link: Link, announced: Option<Duration>) {
        let now = monotonic();
        let idle_max = announced.map_or(IDLE_MAX, |announced| announced.saturating_sub(MARGIN).min(IDLE_MAX));
        let until = (now + idle_max).min(link.opened() + LIFETIME);
        if until <= now || !link.is_free() {
            return;
        }
        let mut kept = self.kept();
        if kept.hosts.get(origin).map_or(0, VecDeque::len) >= self.kept_per_host_max {
            drop(kept);
            return;
        }
        kept.turn += 1;
        let turn = kept.turn;
        kept.order.insert(turn, origin.clone());
        kept.hosts.entry(origin.clone()).or_default().push_back(Idle { turn, until, link });
        if !std::mem::replace(&mut kept.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Takes out the connections whose time is over; whether any are left.
    fn expire(&self, now: Instant) -> bool {
        let mut expired = Vec::new();
        let mut kept = self.kept();
        let Kept { hosts, order, is_swept, .. } = &mut *kept;
        hosts.retain(|_, host| {
            if host.iter().all(|idle| now < idle.until) {
                return true;
            }
            for idle in std::mem::take(host) {
                if idle.until <= now {
                    order.remove(&idle.turn);
                    expired.push(idle.link);
                } else {
                    host.push_back(idle);
                }
            }
            !host.is_empty()
        });
        *is_swept = !hosts.is_empty();
        let any = *is_swept;
        drop(kept);
        drop(expired);
        any
    }
}

/// Closes what has been idle for too long, while there is anything.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let any = pool.upgrade().is_some_and(|pool| pool.expire(monotonic()));
        if !any {
            return;
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
