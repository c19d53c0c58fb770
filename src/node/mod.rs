//! A node: its Raft group, what it knows of the others, and the way of a write or a read through it.
//!
//! [`Node`] is the handle that everything above uses: the API to propose and to read, the scheduler to learn whether
//! it may fire. Only this layer and those beside it know of openraft.

mod callbacks;
mod elections;
mod error;
mod handover;
mod health;
mod join;
mod leadership;
mod lists;
mod neighbours;
mod peers;
mod proposer;
mod reads;
pub(crate) mod rescue;
mod runs;
mod selfcheck;
mod snapshots;
mod status;
mod story;
mod targets;
mod writes;
mod zones;

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::{mpsc, watch, Notify};
use uuid::Uuid;

use crate::clock::{Clock, Timestamp};
use crate::config::{Config, HostPort};
use crate::id::{RunId, TaskId};
use crate::metrics::Metrics;
use crate::raft::{self, GroupSlot, Heard, Inheritance, Lease, Links, Office, TypeConfig};
use crate::seam;
use crate::storage::doubt;
use crate::storage::fsutil;
use crate::storage::identity::{self, Identity};
use crate::storage::log::RaftLog;
use crate::storage::machine::LogEnds;
use crate::storage::{self, machine, Machine};
use crate::view::{RunView, TaskView};

pub use callbacks::Tellers;
pub use error::Error;
pub use join::JoinError;
pub use lists::Audited;

/// What the API holds.
pub type Handle = Node;

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// Its Raft log cannot be used.
    #[error(transparent)]
    Log(#[from] storage::log::Error),
}

/// That a task that runs as long as the node has ended, and why.
pub(crate) fn has_ended<T>(what: &str, ended: Result<T, tokio::task::JoinError>) -> String {
    match ended {
        Ok(_) => format!("{what} has ended without a word"),
        Err(panic) => format!("{what} has ended: {panic}"),
    }
}

/// What a leader may still say after another is known.
const LAST_WORD: Duration = Duration::from_millis(200);

/// The address of the leader, where it is another node.
fn leader_of(metrics: &raft::Metrics) -> Option<&str> {
    let leader = metrics.current_leader.filter(|id| *id != metrics.id)?;
    metrics.membership_config.membership().get_node(&leader).map(|node| node.addr.as_str())
}

/// Where the log begins and ends. openraft's trait is async; this log's answer never waits.
fn log_ends(log: &RaftLog<TypeConfig>) -> Result<LogEnds, storage::Error> {
    use openraft::storage::RaftLogStorage;
    let state = futures::executor::block_on(log.clone().get_log_state());
    let state = state.map_err(|e| storage::Error::damaged(log.dir(), e))?;
    Ok(LogEnds { purged: state.last_purged_log_id, last: state.last_log_id })
}

/// A node; cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    config: Config,
    clock: Clock,
    own: HostPort,
    http: String,
    machine: Machine,
    log: RaftLog<TypeConfig>,
    group: GroupSlot,
    links: Links,
    office: Arc<Office>,
    inheritance: Inheritance,
    heard: Heard,
    patience: elections::Patience,
    needed: elections::Needed,
    signs: elections::Signs,
    metrics: Metrics,
    registry: prometheus_client::registry::Registry,
    identity: Mutex<Option<Identity>>,
    /// `raft_dir` and the directory of the snapshots, as they were opened.
    anchors: [fsutil::Anchor; 2],
    /// The file `identity`, as this process has last read or written it; locked while it is written.
    identity_file: Mutex<Option<fsutil::Anchor>>,
    store: Uuid,
    /// A majority of the members has claimed their stores.
    founded: AtomicBool,
    /// Tells this process from another one with the same directory.
    instance: Uuid,
    /// Tells the writes that this process names from those of others.
    process: u64,
    /// How many writes it has named.
    named_writes: AtomicU64,
    /// The end of the log as it was opened.
    opened: Option<u64>,
    submissions: mpsc::Sender<proposer::Submission>,
    /// For what is submitted, or is to be once there is a leader.
    submission_room: proposer::Room,
    readers: mpsc::Sender<reads::Reader>,
    /// What the group tells of itself, from when there is one.
    raft_metrics: watch::Sender<Option<raft::Metrics>>,
    faults: Mutex<health::Faults>,
    peers_room: Mutex<health::Room>,
    link_looks: health::LinkLooks,
    /// That what this node has written as the leader is not committed, if that is so.
    stalled: Mutex<Option<String>>,
    comparison: selfcheck::Comparison,
    /// When the clocks were last looked at, and what they said.
    clock_look: Mutex<health::ClockLook>,
    /// Why it does not take part yet.
    waiting: Mutex<Option<String>>,
    failure: OnceLock<String>,
    failing: Notify,
    stopping: AtomicBool,
    /// The term that this node is about to hand over; 0: none.
    handing_over: AtomicU64,
    closed: AtomicBool,
    /// Set by whoever sends the callbacks: what goes along with the lead.
    handoff: OnceLock<handover::Handoff>,
    /// Set by whoever sends the callbacks.
    targets: OnceLock<targets::Show>,
    /// Told where the peers serve.
    ports: OnceLock<targets::Learn>,
    /// Set by whoever sends the callbacks.
    tellers: OnceLock<Tellers>,
}

/// The other ends of a node's queues, for [`Node::run`].
pub struct Queues {
    submissions: mpsc::Receiver<proposer::Submission>,
    readers: mpsc::Receiver<reads::Reader>,
}

impl Node {
    /// Opens what the node stores. It takes part in its cluster from [`Node::join`] on.
    ///
    /// # Errors
    /// A directory that cannot be used, or holds damaged state.
    pub fn open(config: Config, own: HostPort, http: String, clock: Clock) -> Result<(Node, Queues), StartError> {
        let dir = config.raft_dir.clone();
        let identity = Identity::read(&dir)?;
        let options = storage::log::Options {
            segment_bytes: config.storage.log_segment_bytes,
            known: identity.as_ref().and_then(Identity::known_log),
            read_bytes_max: raft::MESSAGE_BYTES_MAX,
            ..storage::log::Options::default()
        };
        let log = RaftLog::open(&dir.join("log"), options)?;
        let ends = log_ends(&log)?;
        identity::check(&dir, identity.as_ref(), &log.facts(), false)?;
        let options = machine::Options {
            cache_bytes: config.storage.cache_mb << 20,
            checkpoint_interval: Duration::from_millis(config.storage.checkpoint_interval_ms),
            checkpoint_bytes: config.storage.checkpoint_bytes,
            unsaved_bytes_max: config.storage.unsaved_bytes_max,
            zone_data: config.zone_data.clone(),
        };
        let machine = Machine::open(&dir, options, clock.clone(), ends)?;
        identity::check(&dir, identity.as_ref(), &log.facts(), machine.applied().is_some())?;
        let anchor = |dir: &std::path::Path| fsutil::Anchor::at(dir).map_err(storage::Error::io("look at", dir));
        let anchors = [anchor(&dir)?, anchor(&dir.join("snapshots"))?];
        let identity_file = Mutex::new(identity.as_ref().and_then(|_| Identity::anchor(&dir)));
        let in_doubt = doubt::read(&dir)?;
        machine.hold(in_doubt.is_some());
        let links = Links::new(clock.clone(), Duration::from_millis(config.raft.election_timeout_min_ms.max(200)));
        let metrics = Metrics::default();
        let mut registry = prometheus_client::registry::Registry::with_prefix("xcron");
        metrics.register(&mut registry);
        let version = |name, version: &str| (name, version.to_owned());
        let build = [version("version", env!("CARGO_PKG_VERSION")), version("zone_data", config.zone_data.version())];
        metrics.build.get_or_create(&build.to_vec()).set(1);
        let (submissions, submitted) = mpsc::channel(config.limits.queue_max);
        let submission_room = proposer::Room::new(config.limits.queue_max, config.limits.queue_bytes_max);
        let (readers, read) = mpsc::channel(config.limits.queue_max);
        let bears = Duration::from_millis(config.raft.election_timeout_min_ms);
        links.promise(bears);
        let lease = Lease::new(Lease::within(bears));
        let store = identity.as_ref().map_or_else(seam::uuid, |i| i.store);
        let of_state = machine.clone();
        let claims = move |node| of_state.with_state(|state| state.claims().get(&node).copied());
        links.settle(store, &config.peers(), Box::new(claims));
        if let Some(identity) = identity.as_ref().filter(|identity| identity.node != 0) {
            links.introduce(identity.node, identity.cluster);
        }
        let clock_look = Mutex::new(health::ClockLook::of(&clock));
        // Before Raft starts: where there are others, a clock that nobody has compared is as good as a wrong one.
        let others = !config.peers().is_empty() || machine.members() > 1;
        let faults = health::Faults { state: in_doubt, uncompared: others, ..health::Faults::default() };
        let inner = Inner {
            config,
            clock,
            own,
            http,
            machine,
            log,
            group: GroupSlot::default(),
            links,
            office: Arc::new(Office::new(lease)),
            inheritance: Inheritance::default(),
            heard: Heard::default(),
            patience: elections::Patience::default(),
            needed: elections::Needed::default(),
            signs: elections::Signs::default(),
            metrics,
            registry,
            identity: Mutex::new(identity),
            anchors,
            identity_file,
            store,
            founded: AtomicBool::new(false),
            instance: seam::uuid(),
            process: seam::random(),
            named_writes: AtomicU64::new(0),
            opened: ends.last.map(|id| id.index),
            submissions,
            submission_room,
            readers,
            raft_metrics: watch::Sender::new(None),
            faults: Mutex::new(faults),
            peers_room: Mutex::default(),
            link_looks: health::LinkLooks::default(),
            stalled: Mutex::default(),
            comparison: selfcheck::Comparison::default(),
            clock_look,
            waiting: Mutex::default(),
            failure: OnceLock::new(),
            failing: Notify::new(),
            stopping: AtomicBool::new(false),
            handing_over: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            handoff: OnceLock::new(),
            targets: OnceLock::new(),
            ports: OnceLock::new(),
            tellers: OnceLock::new(),
        };
        Ok((Node(Arc::new(inner)), Queues { submissions: submitted, readers: read }))
    }

    /// Serves the node's queues and keeps its books. Ends with the reason for which the node must stop.
    pub async fn work(&self, queues: Queues) -> String {
        let tasks = [
            ("the proposer", tokio::spawn(proposer::run(self.clone(), queues.submissions))),
            ("the reader", tokio::spawn(reads::run(self.clone(), queues.readers))),
            ("the watch on clock and disk", tokio::spawn(health::run(self.clone()))),
            ("the check of the state", tokio::spawn(selfcheck::run(self.clone()))),
            ("the watch on the leader", tokio::spawn(elections::run(self.clone()))),
        ];
        let ends = tasks.map(|(what, task)| Box::pin(async move { has_ended(what, task.await) }));
        let machine = self.0.machine.clone();
        let reason = tokio::select! {
            (reason, ..) = futures::future::select_all(ends) => reason,
            error = machine.run_checkpoints() => format!("a checkpoint has failed: {error}"),
            reason = self.raft_failed() => reason,
            reason = self.snapshots() => reason,
            reason = self.keep_identity() => reason,
            reason = story::run(self) => reason,
            () = self.0.failing.notified() => self.0.failure.get().cloned().unwrap_or_default(),
        };
        let _ = self.0.failure.set(reason.clone());
        reason
    }

    /// Has the node stop: it cannot be trusted any more.
    pub fn fail(&self, reason: String) {
        tracing::error!(reason, "this node is not sound");
        let _ = self.0.failure.set(reason);
        self.0.failing.notify_one();
    }

    /// What a read gave. A record that is not what was stored means that the node is not sound.
    ///
    /// # Errors
    /// [`Error::Damaged`]; the node stops.
    pub fn read_result<T>(&self, result: Result<T, storage::Error>) -> Result<T, Error> {
        result.map_err(|error| {
            self.fail(error.to_string());
            Error::Damaged(error.to_string())
        })
    }

    /// The node's configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// What the node counts.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The state on this node.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// This node's clock.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// The wall clock now.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// This node's id; 0 until it has one.
    pub fn id(&self) -> u64 {
        self.0.links.own().0
    }

    /// How often a process has begun to act as this node.
    pub fn starts(&self) -> u64 {
        self.identity().as_ref().map_or(0, |identity| identity.starts)
    }

    /// Tells of each change in the Raft group: who leads, in which term.
    pub fn watch(&self) -> watch::Receiver<Option<raft::Metrics>> {
        self.0.raft_metrics.subscribe()
    }

    /// Whether this node takes itself for the leader.
    pub fn leads(&self) -> bool {
        self.0.raft_metrics.borrow().as_ref().is_some_and(|m| m.state == ServerState::Leader)
    }

    /// When this node last heard another one as its leader.
    pub fn heard_leader(&self) -> Option<Timestamp> {
        self.0.heard.last()
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, health::Faults> {
        self.0.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leader_address(&self) -> Option<String> {
        self.leader().map(|(address, _)| address)
    }

    /// The leader, where it is another node: its address, and the term that it leads.
    fn leader(&self) -> Option<(String, u64)> {
        let metrics = self.0.raft_metrics.borrow();
        metrics.as_ref().and_then(|metrics| Some((leader_of(metrics)?.to_owned(), metrics.current_term)))
    }

    /// What the leader at this address answers; none, once another is known to lead and the answer does not come soon
    /// after: the old one may hang for long.
    async fn while_it_leads<T>(&self, address: &str, answer: impl std::future::Future<Output = T>) -> Option<T> {
        let mut group = self.watch();
        let replaced = async {
            let other = group.wait_for(|metrics| {
                metrics.as_ref().is_some_and(|m| {
                    m.state == ServerState::Leader || leader_of(m).is_some_and(|leader| leader != address)
                })
            });
            if other.await.is_err() {
                // Nobody will tell any more.
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LAST_WORD).await;
        };
        tokio::select! {
            answer = answer => Some(answer),
            () = replaced => None,
        }
    }

    /// Why this node can write nothing, if that is so.
    fn storage_failure(&self) -> Option<String> {
        self.0.log.status().stopped.or_else(|| self.0.failure.get().cloned()).or_else(|| self.in_doubt())
    }

    /// Why this node takes no more tasks, if that is so. What is left of the disk then is kept for what becomes of those
    /// that it has: their outcomes, and their end.
    fn storage_shortage(&self) -> Option<String> {
        self.storage_failure().or_else(|| self.0.log.no_room()).or_else(|| self.faults().full.clone())
    }

    /// The task with this id, as it is now on this node.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn task(&self, id: &TaskId) -> Result<Option<TaskView>, Error> {
        self.read_result(self.0.machine.task(id))
    }

    /// The run with this id, as it is now on this node.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn run(&self, id: RunId) -> Result<Option<RunView>, Error> {
        self.read_result(self.0.machine.run(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that lacks one of its tasks does a part of its work, and looks well.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_task_of_the_node_that_ends_ends_the_node() {
        for lacks in ["the proposer", "the reader"] {
            let dir = tempfile::tempdir().unwrap();
            let config = Config { raft_dir: dir.path().to_owned(), ..Config::default() };
            let own = HostPort { host: "127.0.0.1".to_owned(), port: 1 };
            let (node, mut queues) = Node::open(config, own, "127.0.0.1:2".to_owned(), Clock::system()).unwrap();
            // One to which nobody can send any more: whoever serves it ends.
            match lacks {
                "the proposer" => queues.submissions = mpsc::channel(1).1,
                _ => queues.readers = mpsc::channel(1).1,
            }
            let reason = tokio::time::timeout(Duration::from_secs(20), node.work(queues)).await.unwrap();
            assert_eq!(reason, format!("{lacks} has ended without a word"));
            node.close().await;
        }
    }
}
