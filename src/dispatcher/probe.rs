//! Looking whether a target that is held can be reached again: by a connection, and by a TLS handshake where its callbacks
//! begin with one. A target is one or the other, so that a URL with the wrong scheme holds up no task with the right one.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, Semaphore};

use super::health::Probe;
use super::transport::Failure;
use super::{hold, Dispatcher};
use crate::config::Callback;
use crate::state::Job;

/// Most hosts answer within this, or never. Those that take longer are waited for in places of their own.
const SOON: Duration = Duration::from_millis(200);
/// Probes at once that have not taken longer yet, however many connections there may be.
const PLACES_MAX: usize = 64;
/// Probes at once that have.
const LONG_PLACES_MAX: usize = 192;

/// Places of probes: hosts that do not answer must not delay the probe of one that does by now. This is the only bound on
/// probes, so that none of them waits in front of another one.
pub(super) struct Probes {
    soon: Semaphore,
    long_max: usize,
    /// The probes that take longer, the oldest first: each gives way when the other end is dropped.
    long: Mutex<VecDeque<oneshot::Sender<()>>>,
}

impl Probes {
    /// As many as can have a connection without taking that of an attempt.
    pub fn new(settings: &Callback) -> Probes {
        let many = settings.idle_connections_max.clamp(2, PLACES_MAX + LONG_PLACES_MAX);
        let soon = (many / 2).min(PLACES_MAX);
        Probes { soon: Semaphore::new(soon), long_max: many - soon, long: Mutex::default() }
    }

    /// Makes a probe, once there is a place for it and if it is still wanted then.
    async fn make(
        &self,
        wanted: impl FnOnce() -> bool,
        reach: impl Future<Output = Result<(), Failure>>,
    ) -> Option<Result<(), Failure>> {
        let place = self.soon.acquire().await.ok()?;
        if !wanted() {
            return None;
        }
        tokio::pin!(reach);
        if let Ok(reached) = tokio::time::timeout(SOON, &mut reach).await {
            return Some(reached);
        }
        let gives_way = self.takes_long();
        drop(place);
        tokio::select! {
            biased;
            reached = reach => Some(reached),
            _ = gives_way => Some(Err(Failure::Connect("no connection in time, and other targets wait to be probed".to_owned()))),
        }
    }

    /// Lets a probe take longer: where too many do, the one that has taken longest gives way. Ends when this one has to.
    fn takes_long(&self) -> oneshot::Receiver<()> {
        let (keeps, gives_way) = oneshot::channel();
        let mut long = self.long.lock().unwrap_or_else(PoisonError::into_inner);
        long.retain(|probe| !probe.is_closed());
        if long.len() >= self.long_max {
            long.pop_front();
        }
        long.push_back(keeps);
        gives_way
    }
}

/// Jobs looked at in one hold of the state.
const SWEEP_STEP: usize = 256;

/// Probes a target until it is connected to or nothing waits for it any more.
pub(super) async fn run(dispatcher: Dispatcher, target: Arc<str>, mut probe: Probe) {
    // Not `target`: the log has a key of that name for the module, and a parser keeps one of the two.
    tracing::warn!(host = %target, "cannot be connected to: its callbacks wait");
    let _again = Again { dispatcher: dispatcher.clone(), target: target.clone(), id: probe.id };
    loop {
        tokio::time::sleep(probe.pause).await;
        let wanted = || dispatcher.table().queue.probes(&target, probe.id);
        let reached = dispatcher.0.probes.make(wanted, dispatcher.0.transport.reach(&target)).await;
        let Some(reached) = reached else { return };
        let error = match reached {
            // What the guard refuses fails by itself, with its reason in the run.
            Ok(()) | Err(Failure::Refused(_) | Failure::Broken(_)) => None,
            Err(error) => Some(error.to_string()),
        };
        let reached = error.is_none();
        if !reached {
            sweep(&dispatcher, &target);
        }
        let next = {
            let mut table = dispatcher.table();
            let next = table.queue.probed(&target, probe.id, error, dispatcher.0.node.now());
            dispatcher.0.node.metrics().targets_held.set(table.queue.held() as i64);
            next
        };
        match next {
            Some(next) => probe = next,
            None => {
                if reached {
                    tracing::info!(host = %target, "can be connected to again");
                }
                dispatcher.0.room.notify_one();
                return dispatcher.pump();
            }
        }
    }
}

/// A probe that is under way. One that panics counts as one that did not connect: the next follows.
struct Again {
    dispatcher: Dispatcher,
    target: Arc<str>,
    id: u64,
}

impl Drop for Again {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let (now, error) = (self.dispatcher.0.node.now(), Some("the probe has panicked".to_owned()));
        let next = self.dispatcher.table().queue.probed(&self.target, self.id, error, now);
        if let Some(next) = next {
            tokio::spawn(run(self.dispatcher.clone(), self.target.clone(), next));
        }
    }
}

/// Lets go of jobs that are not wanted any more: deleted, cancelled, paused, or with another target by now. One that is
/// changed to a target that is reached must not wait for the one that is not.
fn sweep(dispatcher: &Dispatcher, target: &Arc<str>) {
    let machine = dispatcher.0.node.machine();
    let jobs = dispatcher.table().queue.jobs(target);
    let mut gone: Vec<Job> = Vec::new();
    for part in jobs.chunks(SWEEP_STEP) {
        machine.with_state(|state| gone.extend(part.iter().filter(|job| !state.still_wants(job)).cloned()));
    }
    if gone.is_empty() {
        return;
    }
    let removed = {
        let mut table = dispatcher.table();
        let removed = table.queue.remove(target, &gone);
        for job in &removed {
            table.held.remove(&hold(job));
        }
        dispatcher.0.node.metrics().queued.set(table.queue.len() as i64);
        removed
    };
    dispatcher.give_back(&removed.iter().map(|job| job.seq).collect::<Vec<_>>());
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
