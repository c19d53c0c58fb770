//! From the alarms to the dispatcher: what is due is taken, on the node that leads and may.
//!
//! One loop on every node moves the alarms on. On the leader it takes what is due; on the others it stays due until the
//! leader's outcome has been applied, and a new leader starts from it.

mod record;

use std::time::Duration;

use crate::clock::{monotonic, Timestamp};
use crate::command::Command;
use crate::dispatcher::{Dispatcher, Gap};
use crate::node::Node;
use crate::state::{Job, State};
use crate::task::{Misfire, MisfirePolicy};
use crate::wheel::Progress;
use record::Recorder;

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

/// Runs for as long as the node.
pub async fn run(node: Node, dispatcher: Dispatcher) {
    let mut group = node.watch();
    let mut term = None;
    // When this node last ceased to fire.
    let mut stopped = None;
    let mut reconciled = monotonic();
    // Whether it has led for as long as a reconciliation takes.
    let mut settled = false;
    let recorder = Recorder::new(node.clone(), dispatcher.clone());
    loop {
        let now = node.now();
        let progress = node.machine().with_alarms(|state| advance(state, now));
        let fires = node.may_fire();
        if fires != term {
            dispatcher.clear();
            recorder.clear();
            node.machine().with_alarms(State::release_taken);
            match fires {
                Some(term) => {
                    tracing::info!(term, "this node fires");
                    dispatcher.begins(now, gap(&node, stopped, now));
                }
                None => {
                    tracing::info!("this node does not fire");
                    stopped = Some(now);
                }
            }
            term = fires;
        }
        let mut held_up = false;
        if fires.is_some() {
            let mut more = true;
            while more && !held_up {
                more = take(&node, &dispatcher, &recorder, now);
                held_up = dispatcher.room() == 0;
            }
            if reconciled.elapsed() >= RECONCILE_EVERY {
                reconcile(&node, &dispatcher, &recorder, now, settled);
                (reconciled, settled) = (monotonic(), true);
            }
        } else {
            // As soon as it leads, without waiting.
            (reconciled, settled) = (monotonic() - RECONCILE_EVERY, false);
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

/// The time before `now` in which no node fired: since this one ceased to, or heard the leader last. A node that was
/// started in it knows only when a leader last wrote something.
fn gap(node: &Node, stopped: Option<Timestamp>, now: Timestamp) -> Option<Gap> {
    let known = stopped.max(node.heard_leader());
    let written = node.machine().with_state(State::last_written);
    let from = known.max(written)?;
    Some(Gap { from, to: now, exact: known >= written })
}

fn advance(state: &mut State, now: Timestamp) -> Progress {
    if state.elapsed().ms_since(now) > STEP_BACK_MS {
        tracing::warn!(by_ms = state.elapsed().ms_since(now), "the wall clock was set back");
        state.rebuild_alarms(now);
    }
    state.advance(now, ADVANCE_LIMIT)
}

/// Takes some of what is due and submits it; whether there may be more.
fn take(node: &Node, dispatcher: &Dispatcher, recorder: &Recorder, now: Timestamp) -> bool {
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
    // One that is in the dispatcher's hands may have been sent by now: it is passed over, whatever the time is.
    let is_exception =
        |job: &Job| exception(node, job, now).is_some() && !dispatcher.holds(job.seq, job.key, job.attempt);
    let (exceptions, ready): (Vec<_>, Vec<_>) = jobs.into_iter().partition(is_exception);
    recorder.add(exceptions.iter().map(record::Entry::due));
    dispatcher.submit(ready);
    taken == limit && limit > 0
}

/// What is to be recorded of a due time in place of firing it.
fn exception(node: &Node, job: &Job, now: Timestamp) -> Option<Command> {
    let default = Misfire { policy: MisfirePolicy::Latest, window_ms: node.config().callback.misfire_window_ms };
    node.machine().with_state(|state| state.instead_of(job, now, default))
}

/// Runs that are recorded as going and that this node is not sending: whoever sent them leads no more, or has died. The
/// attempt that follows is made; where none may follow, the outcome is unknown, though not before the sender, should it
/// live, has had the time to tell it (`give_up`).
fn reconcile(node: &Node, dispatcher: &Dispatcher, recorder: &Recorder, now: Timestamp, give_up: bool) {
    let mut running = node.machine().with_state(|s| s.running(now));
    // The job is the attempt that would follow the one that is recorded as going. Asked before the jobs are submitted:
    // both take the dispatcher's lock.
    running.retain(|job| !dispatcher.holds(job.seq, job.key, job.attempt - 1));
    let mut again = Vec::with_capacity(running.len());
    let mut lost = Vec::new();
    for job in running {
        match node.machine().with_state(|state| state.lost(job.seq, job.key)) {
            None => again.push(job),
            Some(_) if give_up => lost.push(record::Entry::lost(&job)),
            Some(_) => {}
        }
    }
    recorder.add(lost);
    dispatcher.resume(again);
}
