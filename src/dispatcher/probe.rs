//! Looking whether a target that is held can be reached again: by a connection, and by a TLS handshake where its callbacks
//! begin with one. A target is one or the other, so that a URL with the wrong scheme holds up no task with the right one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::health::Probe;
use super::transport::Failure;
use super::{hold, Dispatcher};
use crate::state::Job;

/// Probes at once, each for as long as `SOON`.
const PLACES: usize = 64;
/// Most hosts answer within this, or never. Those that take longer are waited for in places of their own.
const SOON: Duration = Duration::from_millis(200);
/// Probes at once that take longer. Where all of these are taken, a probe has failed when it takes longer.
const LONG_PLACES: usize = 192;

/// Places of probes: hosts that do not answer must not delay the probe of one that does by now.
pub(super) struct Probes {
    all: Semaphore,
    long: Semaphore,
}

impl Default for Probes {
    fn default() -> Self {
        Probes { all: Semaphore::new(PLACES), long: Semaphore::new(LONG_PLACES) }
    }
}

impl Probes {
    /// Makes a probe, once there is a place for it and if it is still wanted then.
    async fn make(
        &self,
        wanted: impl FnOnce() -> bool,
        reach: impl Future<Output = Result<(), Failure>>,
    ) -> Option<Result<(), Failure>> {
        let place = self.all.acquire().await.ok()?;
        if !wanted() {
            return None;
        }
        tokio::pin!(reach);
        if let Ok(reached) = tokio::time::timeout(SOON, &mut reach).await {
            return Some(reached);
        }
        let Ok(_long) = self.long.try_acquire() else { return Some(Err(Failure::Timeout(SOON))) };
        drop(place);
        Some(reach.await)
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
mod tests {
    use super::*;
    use crate::clock::monotonic;

    #[tokio::test]
    async fn hosts_that_do_not_answer_do_not_delay_the_probe_of_one_that_does() {
        let probes = Arc::new(Probes::default());
        let began = monotonic();
        for _ in 0..300 {
            let probes = probes.clone();
            tokio::spawn(async move { drop(probes.make(|| true, std::future::pending()).await) });
        }
        while probes.all.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(probes.make(|| true, std::future::ready(Ok(()))).await, Some(Ok(()))));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_host_that_takes_long_is_waited_for() {
        let probes = Probes::default();
        let slow = async {
            tokio::time::sleep(2 * SOON).await;
            Ok(())
        };
        assert!(matches!(probes.make(|| true, slow).await, Some(Ok(()))));
        assert!(probes.make(|| false, std::future::ready(Ok(()))).await.is_none(), "nobody wants it any more");
    }
}
