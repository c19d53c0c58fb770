//! Attempts: sent at their time, a bounded number at once in all and to each target, their outcomes recorded.
//!
//! ```text
//!  scheduler ── jobs ──► queue (by target, earliest first) ── a place ──► attempt
//!                                                                            │ still wanted? lease? POST
//!                                     state ◄── RunStarted, if it takes long ┤
//!                                     state ◄── RunEnded ◄── verdict ◄── outcome
//! ```
//!
//! An attempt is *held* from when it is taken until its outcome is applied; what is held is not taken a second time. An
//! outcome is proposed until it is written, by this leader or, forwarded, by the next.

mod alert;
mod attempt;
mod outcome;
mod queue;
mod request;
mod resolve;
pub mod retry;
pub mod transport;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{watch, Notify};

use crate::command::Seq;
use crate::id::RunKey;
use crate::node::Node;
use crate::state::Job;
use queue::Queue;
use retry::Policy;
use transport::Transport;

/// Most attempts that are under way or whose outcomes wait to be written: where the log stalls, no more are made.
const ACTIVE_MAX: usize = 20_000;
/// Most jobs that wait for a place.
const QUEUE_MAX: usize = 200_000;

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
    /// Grows with each request: the second half of a fence.
    fence: AtomicU64,
    /// Attempts that are under way or whose outcomes are not written yet.
    active: watch::Sender<usize>,
}

/// An attempt. A retry can be due before the hands that made the attempt before it are quite free.
type Hold = (Seq, RunKey, u32);

fn hold(job: &Job) -> Hold {
    (job.seq, job.key, job.attempt)
}

struct Table {
    queue: Queue,
    held: HashSet<Hold>,
}

impl Dispatcher {
    /// A dispatcher for this node's attempts.
    pub fn new(node: Node, transport: Arc<dyn Transport>) -> Self {
        let settings = &node.config().callback;
        let table =
            Table { queue: Queue::new(settings.in_flight_max, settings.in_flight_per_host_max), held: HashSet::new() };
        let policy = Policy::from(&settings.retry);
        Dispatcher(Arc::new(Shared {
            node,
            transport,
            policy,
            table: Mutex::new(table),
            room: Notify::new(),
            fence: AtomicU64::new(0),
            active: watch::Sender::new(0),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more jobs may be submitted now.
    pub fn room(&self) -> usize {
        QUEUE_MAX.saturating_sub(self.table().queue.len())
    }

    /// Waits until a job has left the queue.
    pub async fn has_room(&self) {
        self.0.room.notified().await;
    }

    /// Whether the attempt is in this dispatcher's hands.
    pub fn holds(&self, seq: Seq, key: RunKey, attempt: u32) -> bool {
        self.table().held.contains(&(seq, key, attempt))
    }

    /// Takes jobs; those that it holds already are passed over.
    pub fn submit(&self, jobs: impl IntoIterator<Item = Job>) {
        {
            let mut table = self.table();
            for job in jobs {
                if table.held.insert(hold(&job)) {
                    table.queue.push(job);
                }
            }
            self.0.node.metrics().queued.set(table.queue.len() as i64);
        }
        self.pump();
    }

    /// Lets go of what waits: this node does not lead any more. What is under way ends.
    pub fn clear(&self) {
        let mut table = self.table();
        for job in table.queue.drain() {
            table.held.remove(&hold(&job));
        }
        self.0.node.metrics().queued.set(0);
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
                let guard = Active(dispatcher.clone(), job.clone());
                attempt::make(&dispatcher, job).await;
                drop(guard);
            });
        }
    }

    /// The request is over: its place is free.
    fn free(&self, job: &Job) {
        {
            // Told under the lock, or of two that end at once the larger number could be told last, and stay.
            let mut table = self.table();
            table.queue.release(&job.target);
            self.0.node.metrics().in_flight.set(table.queue.in_flight() as i64);
        }
        self.pump();
    }

    /// Larger than any before: a node that is started again can go on leading in the term in which it was stopped, so
    /// the second half begins with how often it was started.
    fn next_fence(&self, term: u64) -> String {
        let sent = self.0.fence.fetch_add(1, Ordering::Relaxed);
        format!("{term}.{}", (self.0.node.starts() << 32) | sent)
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
