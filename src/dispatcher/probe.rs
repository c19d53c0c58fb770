//! Looking whether a target that is held can be reached again.

use std::sync::Arc;

use super::health::Probe;
use super::transport::Failure;
use super::{hold, Dispatcher};
use crate::state::Job;

/// Jobs looked at in one hold of the state.
const SWEEP_STEP: usize = 256;

/// Probes a target until it is connected to or nothing waits for it any more.
pub(super) async fn run(dispatcher: Dispatcher, target: Arc<str>, mut probe: Probe) {
    tracing::warn!(%target, "cannot be connected to: its callbacks wait");
    let _again = Again { dispatcher: dispatcher.clone(), target: target.clone(), id: probe.id };
    loop {
        tokio::time::sleep(probe.pause).await;
        let Ok(_place) = dispatcher.0.probes.acquire().await else { return };
        if !dispatcher.table().queue.probes(&target, probe.id) {
            return;
        }
        let error = match dispatcher.0.transport.reach(&target).await {
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
                    tracing::info!(%target, "can be connected to again");
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
