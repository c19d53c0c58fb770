//! Attempts: sent at their time, a bounded number at once in all and to each target, their outcomes recorded.
//!
//! ```text
//!  scheduler ── jobs ──► queue (by target, fewest first) ──── a place ──► attempt
//!                                                                            │ still wanted? lease? POST
//!                                     state ◄── RunStarted, if it takes long ┤
//!                                     state ◄── RunEnded ◄── verdict ◄── outcome
//! ```
//!
//! An attempt is *held* from when it is taken until its outcome is applied; what is held is not taken a second time. An
//! outcome is proposed until it is written, by this leader or, forwarded, by the next.
//!
//! A target that cannot be connected to is *held*: its jobs wait in their line, and it is probed until it answers. Only
//! the leader knows; the next one finds out for itself.

mod alert;
mod attempt;
mod definitions;
mod elsewhere;
mod exhausted;
mod fence;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod health;
mod in_place;
mod late;
mod line;
mod outcome;
mod probe;
mod queue;
mod request;
mod resolve;
pub mod retry;
mod share;
mod taken;
pub mod transport;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{watch, Notify};

use crate::clock::{monotonic, Timestamp};
use crate::command::Seq;
use crate::id::RunKey;
use crate::node::Node;
use crate::state::Job;
use crate::view::{Page, TargetFilter, TargetView};
use definitions::Definitions;
use exhausted::Exhausted;
use fence::Fences;
use health::{Patience, Reach};
pub use late::Gap;
use late::Gaps;
use probe::Probes;
use queue::{Bounds, Queue};
use retry::Policy;
use share::Pace;
pub use taken::Taken;
use transport::Transport;

/// Most attempts that are under way or whose outcomes wait to be written: where the log stalls, no more are made.
const ACTIVE_MAX: usize = 20_000;
/// Tasks that are given back in one hold of the state.
const RELEASE_STEP: usize = 128;

/// Sends attempts; cheap to clone.
#[derive(Clone)]
pub struct Dispatcher(Arc<Shared>);

struct Shared {
    node: Node,
    transport: Arc<dyn Transport>,
    policy: Policy,
    table: Mutex<Table>,
    /// A job has left the queue.
    room: Notify,
    definitions: Definitions,
    fences: Fences,
    exhausted: Exhausted,
    /// Attempts that are under way or whose outcomes are not written yet.
    active: watch::Sender<usize>,
    probes: Probes,
    gaps: Gaps,
    /// Others were told of what is under way here.
    has_left: AtomicBool,
}

/// An attempt. A retry can be due before the hands that made the attempt before it are quite free.
type Hold = (Seq, RunKey, u32);

fn hold(job: &Job) -> Hold {
    (job.seq, job.key, job.attempt)
}

struct Table {
    queue: Queue,
    held: HashSet<Hold>,
    /// What of it another node has under way, by its address.
    elsewhere: BTreeMap<String, HashSet<Hold>>,
}

impl Dispatcher {
    /// A dispatcher for this node's attempts.
    pub fn new(node: Node, transport: Arc<dyn Transport>) -> Self {
        let settings = &node.config().callback;
        let patience = Patience {
            hold_after: settings.hold_after,
            probe_min: Duration::from_millis(settings.probe_min_ms),
            probe_max: Duration::from_millis(settings.probe_max_ms),
        };
        let (all, each) = (settings.in_flight_max, settings.in_flight_per_host_max);
        let table = Table {
            queue: Queue::new(all, each, patience, Bounds::default()),
            held: HashSet::new(),
            elsewhere: BTreeMap::new(),
        };
        let (policy, probes) = (Policy::from(&settings.retry), Probes::new(settings));
        let shared = Arc::new(Shared {
            node,
            transport,
            policy,
            table: Mutex::new(table),
            room: Notify::new(),
            definitions: Definitions::default(),
            fences: Fences::default(),
            exhausted: Exhausted::default(),
            active: watch::Sender::new(0),
            probes,
            gaps: Gaps::default(),
            has_left: AtomicBool::new(false),
        });
        // The node outlives this dispatcher, and must not keep it.
        let weak = Arc::downgrade(&shared);
        shared.node.show_targets(move |filter| match weak.upgrade() {
            Some(shared) => Dispatcher(shared).targets(filter),
            None => Page { items: Vec::new(), next_cursor: None },
        });
        let dispatcher = Dispatcher(shared);
        dispatcher.answer_for_under_way();
        dispatcher
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more jobs may be submitted now.
    pub fn room(&self) -> usize {
        self.table().queue.room()
    }

    /// Waits until a job has left the queue.
    pub async fn has_room(&self) {
        self.0.room.notified().await;
    }

    /// Whether the attempt is in this dispatcher's hands.
    pub fn holds(&self, seq: Seq, key: RunKey, attempt: u32) -> bool {
        self.table().held.contains(&(seq, key, attempt))
    }

    /// Takes jobs of tasks that were taken; those that it holds already are passed over, and those for which there is
    /// no room now are due again later.
    pub fn submit(&self, jobs: impl IntoIterator<Item = Job>) {
        self.take(jobs, true);
    }

    /// Takes jobs that are offered again and again until they are held.
    pub fn resume(&self, jobs: impl IntoIterator<Item = Job>) {
        self.take(jobs, false);
    }

    fn take(&self, jobs: impl IntoIterator<Item = Job>, again: bool) {
        let returned = {
            let mut table = self.table();
            for job in jobs {
                let held = hold(&job);
                if table.held.insert(held) && !table.queue.push(job, again) {
                    table.held.remove(&held);
                }
            }
            let returned = table.queue.returns(None, monotonic());
            self.0.node.metrics().queued.set(table.queue.len() as i64);
            returned
        };
        self.give_back(&returned);
        self.pump();
    }

    /// Makes tasks due again of which something was spilled.
    fn give_back(&self, seqs: &[Seq]) {
        seqs.chunks(RELEASE_STEP).for_each(|part| self.0.node.machine().release_all(part));
    }

    /// If the target could not be reached at some time from `due` on: since when, and until when, if it can be by now.
    pub fn outage(&self, target: &Arc<str>, due: Timestamp) -> Option<(Timestamp, Option<Timestamp>)> {
        self.table().queue.outage(target, due)
    }

    fn targets(&self, filter: &TargetFilter) -> Page<TargetView> {
        let mut items = self.table().queue.show(filter.state, filter.after.as_deref(), filter.limit + 1);
        let more = items.len() > filter.limit;
        items.truncate(filter.limit);
        let last = items.last().filter(|_| more);
        Page { next_cursor: last.map(|view| view.target.clone()), items }
    }

    /// Lets go of what waits: this node does not lead any more. What is under way ends.
    pub fn clear(&self) {
        let mut table = self.table();
        for job in table.queue.drain() {
            table.held.remove(&hold(&job));
        }
        self.0.node.metrics().queued.set(0);
        self.0.node.metrics().targets_held.set(0);
    }

    /// Starts as many attempts as there are places for.
    fn pump(&self) {
        while *self.0.active.borrow() < ACTIVE_MAX {
            let job = {
                let mut table = self.table();
                let Some(job) = table.queue.pop() else { return };
                let metrics = self.0.node.metrics();
                metrics.queued.set(table.queue.len() as i64);
                metrics.in_flight.set(table.queue.in_flight() as i64);
                job
            };
            self.0.room.notify_one();
            self.0.active.send_modify(|n| *n += 1);
            let dispatcher = self.clone();
            tokio::spawn(async move {
                let (guard, taken) =
                    (Active(dispatcher.clone(), job.clone()), Taken::new(dispatcher.0.node.clone(), job.seq));
                let outcome = attempt::make(&dispatcher, job).await;
                drop(guard);
                // Not before the job is let go of: what is held is passed over.
                taken.end(outcome == attempt::Outcome::Undone);
            });
        }
    }

    /// The request is over: its place is free, and something may be known of its target.
    fn free(&self, job: &Job, reach: Reach, pace: Pace) {
        let (probe, returned) = {
            // Told under the lock, or of two that end at once the larger number could be told last, and stay.
            let mut table = self.table();
            let probe = table.queue.release(job, reach, pace, self.0.node.now());
            self.0.node.metrics().in_flight.set(table.queue.in_flight() as i64);
            self.0.node.metrics().targets_held.set(table.queue.held() as i64);
            (probe, table.queue.returns(Some(&job.target), monotonic()))
        };
        self.give_back(&returned);
        if let Some(probe) = probe {
            tokio::spawn(probe::run(self.clone(), job.target.clone(), probe));
        }
        self.pump();
    }

    /// The fence of a request that is sent now, in this term; none: it must not be sent before more is written.
    fn next_fence(&self, term: u64) -> Option<String> {
        let applied = self.0.node.applied_since_start()?;
        self.0.fences.next(applied).map(|n| format!("{term}.{n}"))
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        let mut active = self.0.active.subscribe();
        // The sender lives as long as this dispatcher.
        let _ = active.wait_for(|n| *n == 0).await;
    }
}

/// An attempt that is under way. However it ends, its run is let go of.
struct Active(Dispatcher, Job);

impl Drop for Active {
    fn drop(&mut self) {
        let Active(dispatcher, job) = self;
        dispatcher.table().held.remove(&hold(job));
        dispatcher.0.active.send_modify(|n| *n -= 1);
        if *dispatcher.0.active.borrow() == ACTIVE_MAX - 1 {
            dispatcher.pump();
        }
    }
}
