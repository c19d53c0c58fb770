//! The simulated machines: nodes with their disks and clocks, clients, and a target.

mod inflict;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use tokio::sync::Notify;
use turmoil::Sim;

use super::faults::Fault;
use super::history::Replica;
use super::transport::Simulated;
use super::zones::Builds;
use super::{target, Options, World, HTTP_PORT};
use crate::clock::{Clock, SIMULATION_EPOCH};
use crate::config::Config;
use crate::node::Node;
use crate::raft::Metrics;
use crate::seam::simulated::{self, chance, damage, disk};
use crate::server::Server;

const PEER_PORT: u16 = 8899;
const TARGET: &str = "target";
/// A wall clock that is off by more keeps a node from firing.
pub(super) const SKEW_MS: u64 = 1000;
/// What is late by less fires still.
pub(super) const MISFIRE_MS: u64 = 4000;
/// A machine whose power is to go within a write has lost it by then, even if it writes nothing.
const IDLE_WRITES_MS: u64 = 400;
/// A node that is asked to stop has ended by then: its callbacks take a second, and so does a call that waits.
const STOP_MS_MAX: u64 = 15_000;
/// A node that falls behind is away for so much longer at most, where the others have not purged what it lacks by then; so
/// long after it was killed while it installed a snapshot; and so often it is.
const BEHIND_LONGER_MS: u64 = 3_000;
const BEHIND_AGAIN_MS: u64 = 100;
const BEHIND_KILLS: u32 = 3;

/// The nodes that run, as their processes share them.
type Running = Arc<Mutex<BTreeMap<usize, Process>>>;

/// A node that runs.
struct Process {
    node: Node,
    /// Asks for its end.
    stop: Arc<Notify>,
}

struct Machine {
    dir: PathBuf,
    clock: Clock,
    up: bool,
    /// Its power goes by then, if it has not gone within a write.
    power_until: Option<u64>,
    behind: Option<Behind>,
}

/// A node that is to be killed while it installs a snapshot.
struct Behind {
    /// It runs again from then on, once the others have purged the entries up to this one.
    starts: u64,
    lacks: u64,
    /// It is killed then.
    dies: Option<u64>,
    /// So often, still.
    kills: u32,
}

/// All of them.
pub(super) struct Cluster<'a> {
    sim: Sim<'a>,
    world: Arc<World>,
    machines: BTreeMap<usize, Machine>,
    running: Running,
    others: Vec<String>,
    /// Snapshots that each process has written and installed so far.
    snapshots: BTreeMap<usize, (u64, u64)>,
    /// The term that was last led, and by which node.
    leader: Option<(u64, usize)>,
    /// Nodes that were asked to stop, and when.
    stopping: BTreeMap<usize, u64>,
}

fn name(node: usize) -> String {
    format!("n{node}")
}

fn config(node: usize, options: Options, dir: &Path) -> Config {
    let nodes = options.nodes;
    let mut config =
        Config { raft_dir: dir.to_owned(), bind: std::net::Ipv4Addr::UNSPECIFIED.into(), ..Config::default() };
    config.http_port = HTTP_PORT;
    config.peer_port = PEER_PORT;
    if nodes > 1 {
        config.advertise = format!("{}:{PEER_PORT}", name(node));
        config.peer.peer_hosts = (1..=nodes).map(|n| format!("{}:{PEER_PORT}", name(n))).collect();
    }
    config.raft.max_clock_skew_ms = SKEW_MS;
    if let Some((min, max)) = options.election_timeouts_ms {
        (config.raft.election_timeout_min_ms, config.raft.election_timeout_max_ms) = (min, max);
    }
    // Small, so that segments end, snapshots are taken and the log is purged within seconds.
    config.raft.snapshot_log_bytes = 48 << 10;
    config.storage.log_segment_bytes = 64 << 10;
    config.storage.cache_mb = 16;
    config.storage.checkpoint_interval_ms = 200;
    config.storage.check_interval_s = 3;
    config.limits.request_timeout_ms = 3000;
    config.callback.timeout_ms = 1000;
    config.callback.connect_timeout_ms = 500;
    config.callback.hold_after = 0;
    config.callback.misfire_window_ms = MISFIRE_MS;
    config
}

async fn node(number: usize, config: Config, clock: Clock, world: Arc<World>, running: Running) -> turmoil::Result {
    let dir = config.raft_dir.clone();
    let transport = Arc::new(Simulated { node: number as u64, world: world.clone() });
    let error = match Server::start_with(config, clock, transport).await {
        Ok(mut server) => {
            let (node, stop) = (server.node().clone(), Arc::new(Notify::new()));
            let process = Process { node, stop: stop.clone() };
            running.lock().unwrap_or_else(PoisonError::into_inner).insert(number, process);
            tokio::select! {
                error = server.failed() => Some(error),
                () = stop.notified() => {
                    server.stop().await;
                    None
                }
            }
        }
        Err(error) => Some(error),
    };
    // A disk that takes nothing more is a reason, and so is one that has failed.
    if let Some(error) = error.filter(|_| !disk::is_off(&dir) && !disk::has_failed(&dir)) {
        world.history().stopped.push(format!("node {number}: {error}"));
    }
    running.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    std::future::pending().await
}

impl Cluster<'_> {
    pub fn new(options: Options, tick: Duration, dir: &Path, world: Arc<World>) -> Self {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(options.seed)
            .tick_duration(tick)
            .simulation_duration(Duration::from_secs(7 * 86_400))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(10))
            .tcp_capacity(1 << 16)
            .repair_rate(0.2);
        let mut cluster = Cluster {
            sim: builder.build(),
            world: world.clone(),
            machines: BTreeMap::new(),
            running: Running::default(),
            others: vec![TARGET.to_owned()],
            snapshots: BTreeMap::new(),
            leader: None,
            stopping: BTreeMap::new(),
        };
        let of_target = world.clone();
        cluster.sim.host(TARGET, move || target::run(of_target.clone()));
        for number in 1..=options.nodes {
            let dir = dir.join(name(number));
            disk::add(&dir);
            let config = config(number, options, &dir);
            let (clock, running) = (Clock::simulated(), cluster.running.clone());
            cluster
                .machines
                .insert(number, Machine { dir, clock: clock.clone(), up: true, power_until: None, behind: None });
            let (world, builds) = (world.clone(), Mutex::new(Builds::new(options.seed, number)));
            let start = move || {
                let zone_data = builds.lock().unwrap_or_else(PoisonError::into_inner).next();
                let config = Config { zone_data, ..config.clone() };
                node(number, config, clock.clone(), world.clone(), running.clone())
            };
            cluster.sim.host(name(number), start);
        }
        cluster
    }

    pub fn client(&mut self, name: String, work: impl Future<Output = turmoil::Result> + 'static) {
        self.sim.client(name.as_str(), work);
        self.others.push(name);
    }

    /// Since the beginning, in ms.
    pub fn now_ms(&self) -> u64 {
        self.sim.elapsed().as_millis() as u64
    }

    pub fn note(&self, event: impl std::fmt::Display) {
        self.world.history().note(SIMULATION_EPOCH.0 + self.now_ms(), event);
    }

    /// Goes on by a tick.
    pub fn step(&mut self) -> Result<(), String> {
        self.sim.step().map_err(|error| error.to_string())?;
        let now = self.now_ms();
        let machines = self.machines.iter().filter(|(_, machine)| machine.up);
        let dark =
            |machine: &Machine| disk::is_off(&machine.dir) || machine.power_until.is_some_and(|until| now >= until);
        let dark: Vec<usize> = machines.filter(|(_, machine)| dark(machine)).map(|(number, _)| *number).collect();
        dark.into_iter().for_each(|number| self.kill(number));
        self.step_behind(now);
        for (number, _) in self.machines.iter().filter(|(_, machine)| disk::has_lost_state(&machine.dir)) {
            self.world.history().stopped.push(format!("node {number}: its state was lost"));
        }
        for panic in simulated::take_panics() {
            self.note(format!("a task of Raft has panicked: {panic}"));
            self.world.history().stopped.push(format!("a task of Raft has panicked: {panic}"));
        }
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, Process { node, .. }) in running.iter() {
            let known = self.snapshots.entry(*number).or_default();
            let (written, installed) = node.machine().snapshots();
            if (written, installed) > *known {
                let mut history = self.world.history();
                history.snapshots.0 += written - known.0;
                history.snapshots.1 += installed - known.1;
                history.note(
                    SIMULATION_EPOCH.0 + now,
                    format!("node {number} has {written} snapshots written, {installed} installed"),
                );
                let dir = self.machines.get(number).map(|machine| &machine.dir);
                if let Some(dir) = dir.filter(|dir| written > known.0 && disk::flips(dir)) {
                    let flipped = damage::flip_snapshot(dir).map_err(|e| format!("the disk of node {number}: {e}"))?;
                    history.note(SIMULATION_EPOCH.0 + now, format!("its newest is damaged: {flipped}"));
                }
                *known = (written, installed);
            }
            let zones = node.machine().with_state(|state| state.zone_version().map(str::to_owned));
            if let Some(version) = zones {
                let mut history = self.world.history();
                if history.zone_data.insert(version.clone()) {
                    history.note(SIMULATION_EPOCH.0 + now, format!("node {number} goes by the zone data {version}"));
                }
            }
            if let Some(reason) = node.difference() {
                self.world.history().doubt(SIMULATION_EPOCH.0 + now, *number as u64, reason);
            }
            let led = node.watch().borrow().as_ref().map(|m| (m.current_term, m.id, m.current_leader == Some(m.id)));
            let Some((term, id, true)) = led else { continue };
            self.leader = self.leader.max(Some((term, *number)));
            let mut history = self.world.history();
            if history.leaders.entry(term).or_default().insert(id) {
                history.note(SIMULATION_EPOCH.0 + now, format!("node {id} leads term {term}"));
            }
        }
        Ok(())
    }

    /// Starts nodes that have been away for long enough, and kills those that install a snapshot.
    fn step_behind(&mut self, now: u64) {
        let installing: Vec<usize> = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.iter().filter(|(_, of)| of.node.machine().is_installing()).map(|(number, _)| *number).collect()
        };
        let purged = self.log_of_any(|metrics| metrics.purged.map(|id| id.index));
        let (mut starts, mut dies) = (Vec::new(), Vec::new());
        for (number, machine) in &mut self.machines {
            let Some(behind) = &mut machine.behind else { continue };
            let is_behind = purged > behind.lacks || now >= behind.starts + BEHIND_LONGER_MS;
            if !machine.up && now >= behind.starts && is_behind {
                starts.push(*number);
            } else if behind.dies.is_some_and(|at| now >= at) {
                dies.push(*number);
                (behind.dies, behind.starts, behind.lacks) = (None, now + BEHIND_AGAIN_MS, 0);
            } else if behind.dies.is_none() && behind.kills > 0 && installing.contains(number) {
                behind.kills -= 1;
                behind.dies = chance::draw(|c| now + c.random_range(0..100));
            }
        }
        starts.into_iter().for_each(|number| self.start(number));
        for number in dies {
            self.note(format!("node {number} is killed while it installs a snapshot"));
            self.kill(number);
        }
    }

    /// The greatest of an index that the nodes tell of their logs.
    fn log_of_any(&self, index: impl Fn(&Metrics) -> Option<u64>) -> u64 {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let told = running.values().filter_map(|process| {
            let metrics = process.node.watch();
            let told = metrics.borrow().as_ref().and_then(&index);
            told
        });
        told.max().unwrap_or(0)
    }

    /// The node that led last.
    pub fn leader(&self) -> Option<usize> {
        self.leader.map(|(_, number)| number)
    }

    /// Whether a fault can be over: a node that is asked to stop has done so, or had long enough.
    pub fn may_end(&self, fault: &Fault) -> bool {
        let Fault::Stop(n) = *fault else { return true };
        let runs = self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&n);
        let since = self.stopping.get(&n).filter(|_| runs);
        since.is_none_or(|since| self.now_ms() > since + STOP_MS_MAX)
    }

    fn kill(&mut self, number: usize) {
        self.stopping.remove(&number);
        // What is held here would outlive the process.
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        self.snapshots.remove(&number);
        self.sim.crash(name(number));
        self.machines.entry(number).and_modify(|machine| {
            machine.up = false;
            machine.power_until = None;
        });
    }

    fn all_but(&self, number: usize, others: bool) -> Vec<String> {
        let peers = self.machines.keys().filter(|other| **other != number).map(|other| name(*other));
        peers.chain(self.others.iter().filter(|_| others).cloned()).collect()
    }

    /// Whether all nodes run and have applied the same.
    pub fn is_level(&self) -> bool {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let applied: Vec<_> = running.values().map(|process| process.node.machine().applied()).collect();
        running.len() == self.machines.len() && applied.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Takes note of what the replicas hold, if all have applied the same by now; whether it has.
    pub fn compare_replicas(&self) -> bool {
        if !self.is_level() {
            return false;
        }
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let digests: Option<Vec<_>> =
            running.iter().map(|(n, p)| Some((*n, futures::executor::block_on(p.node.machine().digest())?))).collect();
        let Some(digests) = digests else { return false };
        for (number, Process { node, .. }) in running.iter() {
            let strays = node.machine().strays().unwrap_or_else(|error| vec![error.to_string()]);
            self.world.history().strays.extend(strays.into_iter().map(|stray| format!("node {number}: {stray}")));
        }
        let replica = |(node, (applied, digest))| Replica { node: node as u64, applied, digest };
        self.world.history().replicas = digests.into_iter().map(replica).collect();
        true
    }
}
