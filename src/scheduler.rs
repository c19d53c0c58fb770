//! From the alarms to the dispatcher: what is due is taken, on the node that leads and may.
//!
//! One loop on every node moves the alarms on. On the leader it takes what is due; on the others it stays due until the
//! leader's outcome has been applied, and a new leader starts from it.

use std::time::Duration;

use crate::clock::{monotonic, Timestamp};
use crate::command::Command;
use crate::dispatcher::Dispatcher;
use crate::node::Node;
use crate::state::{Job, State};
use crate::wheel::Progress;

/// Wheel work in one hold of the state.
const ADVANCE_LIMIT: usize = 4096;
/// Tasks taken in one hold of the state.
const TAKE_LIMIT: usize = 256;
/// The wall clock is looked at this often even if nothing is due.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A wall clock that is set back by more than this makes the alarms begin again.
const STEP_BACK_MS: u64 = 20;
/// How often the leader looks for runs that are recorded as going and that nobody sends.
const RECONCILE_EVERY: Duration = Duration::from_secs(2);
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs for as long as the node.
pub async fn run(node: Node, dispatcher: Dispatcher) {
    let mut group = node.watch();
    let mut term = None;
    let mut reconciled = monotonic();
    loop {
        let now = node.now();
        let progress = node.machine().with_alarms(|state| advance(state, now));
        let fires = node.may_fire();
        if fires != term {
            dispatcher.clear();
            node.machine().with_alarms(State::release_taken);
            match fires {
                Some(term) => tracing::info!(term, "this node fires"),
                None => tracing::info!("this node does not fire"),
            }
            term = fires;
        }
        let mut held_up = false;
        if fires.is_some() {
            let mut more = true;
            while more && !held_up {
                more = take(&node, &dispatcher, now);
                held_up = dispatcher.room() == 0;
            }
            if reconciled.elapsed() >= RECONCILE_EVERY {
                reconcile(&node, &dispatcher, now);
                reconciled = monotonic();
            }
        } else {
            // As soon as it leads, without waiting.
            reconciled = monotonic() - RECONCILE_EVERY;
        }
        if progress == Progress::Limited {
            tokio::task::yield_now().await;
            continue;
        }
        let (wheel, due) = node.machine().with_state(|s| (s.next_wake(), s.oldest_due()));
        // What is due already is waited for only where the clock was set back a little.
        let next = wheel.into_iter().chain(due.filter(|at| *at > now)).min();
        let wait = next.map_or(LOOK_EVERY, |at| Duration::from_millis(at.ms_since(node.now()))).min(LOOK_EVERY);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = node.machine().changed() => {}
            () = dispatcher.has_room(), if held_up => {}
            changed = group.changed() => if changed.is_err() { return },
        }
    }
}

fn advance(state: &mut State, now: Timestamp) -> Progress {
    if state.elapsed().ms_since(now) > STEP_BACK_MS {
        tracing::warn!(by_ms = state.elapsed().ms_since(now), "the wall clock was set back");
        state.rebuild_alarms(now);
    }
    state.advance(now, ADVANCE_LIMIT)
}

/// Takes some of what is due and submits it; whether there may be more.
fn take(node: &Node, dispatcher: &Dispatcher, now: Timestamp) -> bool {
    let limit = dispatcher.room().min(TAKE_LIMIT);
    let mut jobs: Vec<Job> = Vec::new();
    let taken = node.machine().with_alarms(|state| {
        let mut taken = 0;
        while taken < limit {
            let Some((_, of_task)) = state.take_due(now) else { break };
            jobs.extend(of_task);
            taken += 1;
        }
        taken
    });
    let window = node.config().callback.misfire_window_ms;
    let (old, current): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| is_misfire(node, job, now, window));
    for job in old {
        // Its due time is moved by its task's jitter, and so are those after it.
        let moved = job.at.ms_since(job.key.due);
        misfire(node, job, Timestamp(now.0 - window - moved));
    }
    dispatcher.submit(current);
    taken == limit && limit > 0
}

/// Whether a periodic task has a later due time that is too old to fire as well: then they fire as one.
fn is_misfire(node: &Node, job: &Job, now: Timestamp, window_ms: u64) -> bool {
    if job.attempt != 1 || job.key.nonce != 0 || now.ms_since(job.at) <= window_ms {
        return false;
    }
    let following = node.machine().with_state(|s| {
        let task = s.task(job.seq).filter(|task| task.next == Some(job.key.due))?;
        task.due_after(job.key.due).map(|due| due.plus_ms(task.jitter_ms()))
    });
    following.is_some_and(|at| now.ms_since(at) > window_ms)
}

fn misfire(node: &Node, job: Job, upto: Timestamp) {
    let node = node.clone();
    tokio::spawn(async move {
        let paused = node.machine().with_state(|s| s.task(job.seq).and_then(|task| task.paused));
        let reason = match paused {
            Some(pause) if pause.to.is_some_and(|to| to > job.key.due) => "paused".to_owned(),
            _ => "nothing could fire at the time: no leader, or no node".to_owned(),
        };
        let command = Command::Misfire { seq: job.seq, from: job.key.due, upto, reason };
        if let Err(error) = node.propose(command, monotonic() + RECORD_TIMEOUT).await {
            tracing::debug!(%error, "a misfire is not recorded yet");
            node.machine().release(job.seq);
        }
    });
}

/// Runs that are recorded as going and that this node is not sending: whoever sent them leads no more, or has died.
fn reconcile(node: &Node, dispatcher: &Dispatcher, now: Timestamp) {
    let mut running = node.machine().with_state(|s| s.running(now));
    // The job is the attempt that would follow the one that is recorded as going. Asked before the jobs are submitted:
    // both take the dispatcher's lock.
    running.retain(|job| !dispatcher.holds(job.seq, job.key, job.attempt - 1));
    dispatcher.submit(running);
}
