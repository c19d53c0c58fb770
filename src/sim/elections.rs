//! Elections that have a history of their own: what the random faults of a seed come by too rarely.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{json, Value};

use super::client::{call, Failed};
use super::cluster::Cluster;
use super::faults::Fault;
use super::{in_world, Options, World, TICK};
use crate::clock::simulated_ms;
use crate::seam::bug::Bug;
use crate::seam::simulated::planted;

/// Longest time for anything that is waited for.
const PATIENCE_MS: u64 = 20_000;
/// Tasks that are made right before something goes wrong, so that no checkpoint has them.
const TASKS: usize = 40;
/// Writes that a node is asked for that can write nothing.
const REFUSALS: usize = 5;
/// What the disk of the leader loses at the end of the log.
const LOST_BYTES: u64 = 1 << 10;

/// With the settings as they are shipped a lease is 270 ms long and renewed every 50 ms, from when it was asked for. So a
/// leader has it all the time where a round trip is shorter than 220 ms.
pub const ROUND_TRIP_MS_MAX: u64 = 200;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// Three nodes lose power at once, and the leader's disk the end of its log. They start again.
    LogEndLost,
    /// A follower is killed, and its disk has lost the end of the log, which it has acknowledged, when it starts again.
    FollowersLogEndLost,
    /// Five nodes, of which one is dead and the leader reaches one other alone.
    LeaderWithoutMajority,
    /// A node is cut off from the two others for some seconds, and comes back.
    NodeComesBack,
    /// A message and its answer take so many ms between any two nodes, from the start; then the leader dies. Where that
    /// is more than [`ROUND_TRIP_MS_MAX`], the election timeouts are as the documents ask for.
    FarApart(u64),
    /// A follower is cut off from the two others, and asked to write.
    CutOff,
    /// Five nodes, of which three die, and their addresses go to the one that is left beside the leader.
    AddressesChangeHands,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Tasks that were acknowledged.
    pub acknowledged: usize,
    /// Those of them that a linearizable read shows in the end.
    pub kept: usize,
    /// The term before, and in the end.
    pub terms: (u64, u64),
    /// How long after the fault the cluster took a write; none: not at all.
    pub wrote_after_ms: Option<u64>,
    /// How long the slowest of the reads took.
    pub read_ms_max: u64,
    /// Writes that a node that was cut off answered with 1050, and those that it answered otherwise.
    pub refused: (usize, usize),
}

/// Plays a scene with what is planted, with its files below `dir`, which is empty.
///
/// # Errors
/// Where the simulation itself fails.
pub fn play(scene: Scene, seed: u64, bug: Option<Bug>, dir: &Path) -> Result<Outcome, String> {
    planted::plant(bug);
    let of_five = [Scene::LeaderWithoutMajority, Scene::AddressesChangeHands].contains(&scene);
    let nodes = if of_five { 5 } else { 3 };
    let played = in_world(seed, nodes, |world| simulate(scene, seed, nodes, dir, world));
    planted::plant(None);
    played.map(|(outcome, _)| outcome)
}

/// What a scene is played on.
pub(super) struct Stage<'a> {
    pub cluster: Cluster<'a>,
    world: Arc<World>,
    /// Those that the clients call.
    called: Vec<usize>,
    /// Of the clients, whose names must differ.
    clients: usize,
    patience_ms: u64,
}

impl<'a> Stage<'a> {
    /// With a cluster of so many nodes.
    pub fn new(cluster: Cluster<'a>, nodes: usize, world: Arc<World>) -> Stage<'a> {
        Stage { cluster, world, called: (1..=nodes).collect(), clients: 0, patience_ms: PATIENCE_MS }
    }

    pub fn pass(&mut self, ms: u64) -> Result<(), String> {
        let end = self.cluster.now_ms() + ms;
        while self.cluster.now_ms() < end {
            self.cluster.step()?;
        }
        Ok(())
    }

    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        let end = self.cluster.now_ms() + self.patience_ms;
        while !holds(self) {
            if self.cluster.now_ms() > end {
                return Err(format!("in vain waited for {what}"));
            }
            self.cluster.step()?;
        }
        Ok(())
    }

    /// Has a client make some tasks that come due much later; the time that it took.
    pub fn make(&mut self, prefix: &'static str, count: usize) -> Result<Option<u64>, String> {
        let task = |n: usize| {
            json!({
                "task_id": format!("{prefix}{n}"), "type": 2, "delay_ms": 3_600_000,
                "callback": {"url": "http://target/hook", "body": {}},
            })
        };
        self.make_all((0..count).map(task).collect())
    }

    /// Has a client make these tasks with one call, through whichever node takes it; the time that it took.
    pub fn make_all(&mut self, tasks: Vec<Value>) -> Result<Option<u64>, String> {
        let done: Arc<AtomicBool> = Arc::default();
        let (called, made) = (self.called.clone(), done.clone());
        let tasks = json!({"tasks": tasks});
        self.clients += 1;
        self.cluster.client(format!("c{}", self.clients), async move {
            for node in called.iter().cycle() {
                if call(*node, "POST", "/xcron/createTasks", Some(&tasks)).await.is_ok_and(|answer| all_made(&answer)) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            made.store(true, Ordering::Relaxed);
            Ok(())
        });
        let began = self.cluster.now_ms();
        let made = self.until("the tasks", |_| done.load(Ordering::Relaxed));
        Ok(made.ok().map(|()| self.cluster.now_ms() - began))
    }

    /// How many of these tasks a linearizable read shows, and how long the slowest of the reads took, in ms.
    pub fn count(&mut self, prefix: &'static str, count: usize) -> Result<(usize, u64), String> {
        let shown: Arc<Mutex<Vec<(bool, u64)>>> = Arc::default();
        let (called, seen) = (self.called.clone(), shown.clone());
        self.clients += 1;
        self.cluster.client(format!("c{}", self.clients), async move {
            for n in 0..count {
                let mut node = n;
                let began = simulated_ms();
                let found = loop {
                    node += 1;
                    let path = format!("/xcron/queryTask?task_id={prefix}{n}");
                    match call(called[node % called.len()], "GET", &path, None).await {
                        Ok(_) => break true,
                        Err(Failed::Code(1040)) => break false,
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                };
                seen.lock().unwrap_or_else(PoisonError::into_inner).push((found, simulated_ms() - began));
            }
            Ok(())
        });
        let all = |_: &Self| shown.lock().unwrap_or_else(PoisonError::into_inner).len() == count;
        self.until("the answers", all)?;
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let slowest = shown.iter().map(|(_, took)| *took).max().unwrap_or(0);
        Ok((shown.iter().filter(|(found, _)| *found).count(), slowest))
    }

    /// Has a client make so many tasks, one after the other, at a node that cannot; how many of the answers said that
    /// nothing was written, and how many did not.
    fn refused(&mut self, node: usize, count: usize) -> Result<(usize, usize), String> {
        let answers: Arc<Mutex<Vec<bool>>> = Arc::default();
        let seen = answers.clone();
        self.clients += 1;
        self.cluster.client(format!("c{}", self.clients), async move {
            for n in 0..count {
                let task = json!({
                    "task_id": format!("refused{n}"), "type": 2, "delay_ms": 3_600_000,
                    "callback": {"url": "http://target/hook", "body": {}},
                });
                let answer = call(node, "POST", "/xcron/createTask", Some(&task)).await;
                let refused = matches!(answer, Err(Failed::Code(1050)));
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(refused);
            }
            Ok(())
        });
        let all = |_: &Self| answers.lock().unwrap_or_else(PoisonError::into_inner).len() == count;
        self.until("the refusals", all)?;
        let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = answers.iter().filter(|refused| **refused).count();
        Ok((refused, count - refused))
    }

    fn term(&self) -> u64 {
        let history = self.world.history();
        history.leaders.keys().next_back().copied().unwrap_or(0)
    }
}

/// Whether each task of a call is there by now.
fn all_made(answer: &Value) -> bool {
    answer["results"].as_array().is_some_and(|results| results.iter().all(|result| result["code"] == 0))
}

fn simulate(scene: Scene, seed: u64, nodes: usize, dir: &Path, world: &Arc<World>) -> Result<Outcome, String> {
    let election_timeouts_ms = match scene {
        Scene::FarApart(round_trip_ms) if round_trip_ms > ROUND_TRIP_MS_MAX => {
            Some((2 * round_trip_ms, 4 * round_trip_ms))
        }
        _ => None,
    };
    let options = Options { seed, nodes, faults: false, election_timeouts_ms, ..Options::default() };
    let mut cluster = Cluster::new(options, TICK, dir, world.clone());
    if let Scene::FarApart(round_trip_ms) = scene {
        cluster.part(Duration::from_millis(round_trip_ms / 2));
    }
    let mut stage = Stage::new(cluster, nodes, world.clone());
    if election_timeouts_ms.is_some() {
        // One read after the other.
        stage.patience_ms *= 3;
    }
    stage.make("before", TASKS)?.ok_or("the cluster took no task")?;
    stage.until("replicas that are level", |stage| stage.cluster.is_level())?;
    let leader = stage.cluster.leader().ok_or("no leader")?;
    let other = |n: usize| (leader - 1 + n) % nodes + 1;
    let before = stage.term();
    let (mut end, mut refused, mut read_before_ms) = (None, (0, 0), 0);
    match scene {
        Scene::LogEndLost => {
            let all = Fault::Crash((1..=nodes).collect());
            stage.cluster.inflict(&all);
            stage.cluster.lose_log_end(leader, LOST_BYTES).map_err(|e| e.to_string())?;
            stage.cluster.heal(&all)?;
        }
        Scene::FollowersLogEndLost => {
            let follower = Fault::Crash(vec![other(1)]);
            stage.cluster.inflict(&follower);
            stage.cluster.lose_log_end(other(1), LOST_BYTES).map_err(|e| e.to_string())?;
            stage.cluster.heal(&follower)?;
            stage.until("replicas that are level", |stage| stage.cluster.is_level())?;
            end = Some(stage.term());
        }
        Scene::LeaderWithoutMajority => {
            stage.cluster.inflict(&Fault::Crash(vec![other(1)]));
            stage.cluster.inflict(&Fault::Apart(leader, other(2)));
            stage.cluster.inflict(&Fault::Apart(leader, other(3)));
            stage.called = vec![other(2), other(3), other(4)];
        }
        Scene::AddressesChangeHands => {
            let gone = [other(2), other(3), other(4)];
            stage.cluster.inflict(&Fault::Crash(gone.to_vec()));
            stage.cluster.give_addresses(&gone, other(1));
            stage.called = vec![leader, other(1)];
        }
        Scene::NodeComesBack => {
            let away = Fault::NoPeers(other(1));
            stage.cluster.inflict(&away);
            stage.pass(5_000)?;
            stage.cluster.heal(&away)?;
            stage.pass(3_000)?;
            end = Some(stage.term());
        }
        Scene::CutOff => {
            let away = Fault::NoPeers(other(1));
            stage.cluster.inflict(&away);
            // The connections that it has are those of before: what is sent over one of them may arrive.
            stage.pass(2_000)?;
            refused = stage.refused(other(1), REFUSALS)?;
            stage.cluster.heal(&away)?;
            stage.pass(2_000)?;
        }
        Scene::FarApart(_) => {
            // Whoever leads goes on leading.
            stage.pass(5_000)?;
            if stage.term() != before {
                return Err(format!("the leader of term {before} was not kept: {}", stage.term()));
            }
            let (kept, read_ms) = stage.count("before", TASKS)?;
            if kept < TASKS {
                return Err(format!("{kept} of {TASKS} tasks are shown while the leader is there"));
            }
            read_before_ms = read_ms;
            stage.cluster.inflict(&Fault::Crash(vec![leader]));
            stage.called = vec![other(1), other(2)];
        }
    }
    let wrote_after_ms = stage.make("after", 1)?;
    let (kept, read_ms_max) = match wrote_after_ms {
        Some(_) => stage.count("before", TASKS)?,
        None => (0, 0),
    };
    if let Some(stopped) = world.history().stopped.first() {
        return Err(stopped.clone());
    }
    let terms = (before, end.unwrap_or_else(|| stage.term()));
    let read_ms_max = read_ms_max.max(read_before_ms);
    Ok(Outcome { acknowledged: TASKS, kept, terms, wrote_after_ms, read_ms_max, refused })
}
