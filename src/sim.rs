//! A simulation of whole nodes, in one thread and repeatable from a seed.
//!
//! ```text
//! Cluster     nodes (the server as it is), clients, a target: hosts of turmoil, each with its own runtime
//!   Nemesis   what goes wrong, by a schedule from the seed
//!   History   what was seen from outside
//! checker     what of it must not be
//! ```
//!
//! Time, the network, chance and power cuts are simulated (`seam::simulated`); the files are real, below a directory.
//! First the clients work while faults come and go; then all is healed; then the cluster has time to settle; then the
//! tasks are asked for, and the replicas compared.

pub mod checker;
mod client;
mod cluster;
pub mod copies;
pub mod day;
pub mod elections;
pub mod faults;
pub mod history;
pub mod linear;
pub mod records;
mod registers;
mod target;
mod transport;
mod wire;
mod zones;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::cluster::Cluster;
use self::faults::{Fault, Nemesis};
use self::history::History;
use crate::seam::bug::Bug;
use crate::seam::simulated::{self, answers, chance, disk, net, planted};

/// The public port of each node.
const HTTP_PORT: u16 = 8000;
/// How many clients work at once.
const CLIENTS: u64 = 3;
/// From the last fault to the questions.
const SETTLE_MS: u64 = 12_000;
/// Longest time for the questions, and for the replicas to apply the same.
const ASK_MS: u64 = 60_000;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What everything is drawn from.
    pub seed: u64,
    /// How long the clients work, in simulated seconds.
    pub seconds: u64,
    /// How many nodes there are.
    pub nodes: usize,
    /// Whether anything goes wrong.
    pub faults: bool,
    /// Whether nothing goes wrong but that nodes are stopped in order and started again, the leader as a rule.
    pub stops: bool,
    /// What is planted.
    pub bug: Option<Bug>,
    /// The least and the greatest election timeout in ms, where they are not those that are shipped.
    pub election_timeouts_ms: Option<(u64, u64)>,
}

impl Default for Options {
    fn default() -> Self {
        Options { seed: 1, seconds: 20, nodes: 3, faults: true, stops: false, bug: None, election_timeouts_ms: None }
    }
}

/// What all hosts share.
pub(crate) struct World {
    nodes: usize,
    history: Mutex<History>,
}

impl World {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a simulation, with its files below `dir`, which is empty.
///
/// # Errors
/// Where the simulation itself fails: a panic aside, its files or the simulated network.
pub fn run(options: Options, dir: &Path) -> Result<History, String> {
    planted::plant(options.bug);
    let simulated = in_world(options.seed, options.nodes, |world| simulate(options, dir, world));
    planted::plant(None);
    simulated.map(|((), history)| history)
}

/// Runs what simulates a world of so many nodes, and ends what is simulated with it; its result, and what was seen.
fn in_world<T>(
    seed: u64,
    nodes: usize,
    simulate: impl FnOnce(&Arc<World>) -> Result<T, String>,
) -> Result<(T, History), String> {
    chance::seed(seed);
    drop(simulated::take_panics());
    let world = Arc::new(World { nodes, history: Mutex::default() });
    let simulated = simulate(&world);
    chance::end();
    disk::remove_all();
    answers::end();
    net::lead_all_right();
    simulated.map(|result| (result, std::mem::take(&mut *world.history())))
}

fn simulate(options: Options, dir: &Path, world: &Arc<World>) -> Result<(), String> {
    let mut cluster = Cluster::new(options, TICK, dir, world.clone());
    let work_ms = options.seconds * 1000;
    let plan = match options {
        Options { stops: true, .. } => faults::stops(options.seed, options.nodes, work_ms),
        Options { faults: true, .. } => faults::plan(options.seed, options.nodes, work_ms),
        _ => Vec::new(),
    };
    {
        let mut history = world.history();
        history.faults = plan.len();
        history.slow_reads = plan.iter().any(|planned| matches!(planned.fault, Fault::SlowReads(..)));
        history.in_order = plan.iter().all(|planned| matches!(planned.fault, Fault::Stop(_)));
        history.clocks_off = plan.iter().any(|planned| matches!(planned.fault, Fault::Clock(..)));
        history.healed = crate::clock::SIMULATION_EPOCH.0 + work_ms;
    }
    for number in 1..=CLIENTS {
        let work = client::work(world.clone(), number, options.seed, work_ms);
        let registers = registers::work(world.clone(), number, options.seed, work_ms);
        cluster.client(format!("c{number}"), async { futures::try_join!(work, registers).map(drop) });
    }
    cluster.client("asker".to_owned(), client::ask(world.clone(), work_ms + SETTLE_MS));
    let mut nemesis = Nemesis::new(plan);
    loop {
        let now = cluster.now_ms();
        nemesis.step(&mut cluster, now)?;
        cluster.step()?;
        let asked = world.history().shown.is_some();
        if asked && cluster.compare_replicas() {
            return Ok(());
        }
        if now > work_ms + SETTLE_MS + ASK_MS {
            // The checker tells what is missing.
            return Ok(());
        }
    }
}

/// How often the network and the hosts take turns.
const TICK: Duration = Duration::from_millis(2);
