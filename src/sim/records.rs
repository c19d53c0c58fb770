//! Callbacks that are in flight while nothing can be recorded: the majority is away for some seconds.
//!
//! ```text
//!  T        T + 50 ms        T + 3 s            T + 7 s             T + 16 s
//!  due ──►  two of three     the short ones     the majority        the long ones
//!  sent     are dead         are answered       is back             are answered
//! ```
//!
//! What is due at T has left by then, and neither its start nor its outcome can be recorded. What may be sent once alone,
//! and is due a little later, must be recorded before it is sent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{json, Value};

use super::client::call;
use super::cluster::Cluster;
use super::elections::Stage;
use super::faults::Fault;
use super::{in_world, Options, World, TICK};
use crate::clock::SIMULATION_EPOCH;
use crate::seam::bug::Bug;
use crate::seam::simulated::planted;

const NODES: usize = 3;
/// Tasks of each kind.
const TASKS: usize = 6;
/// How long the target takes.
const SHORT_MS: u64 = 3_000;
const LONG_MS: u64 = 16_000;
/// How long the majority is away.
const AWAY_MS: u64 = 7_000;
/// Where the leader dies as well: when, and for how long.
const LEADER_DIES_MS: u64 = 6_500;
const LEADER_AWAY_MS: u64 = 3_000;
/// The tasks of long callbacks are due again and again.
const PERIOD_MS: u64 = 5_000;
/// What may be sent once alone is due so long after the others: the leader may still fire, and writes nothing any more.
const ONCE_AFTER_MS: u64 = 50;
/// A leader that has lost its majority may fire for less than this.
const LEASE_MS_MAX: u64 = 500;
/// From the last answer to the questions.
const SETTLE_MS: u64 = 12_000;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// Both followers are killed, and start again.
    MajorityAway,
    /// Right before they start again, the leader is killed as well.
    LeaderDies,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Runs whose callbacks were in flight when the majority went away, and were answered with success.
    pub answered: usize,
    /// Those of them that are shown as succeeded.
    pub succeeded: usize,
    /// Attempts of them that began after a success had been recorded, or long could have been.
    pub again: usize,
    /// Requests of these runs, the first one of each aside, up to their answer.
    pub repeated: usize,
    /// The longest time from a callback that took long to the next one of its task.
    pub next_ms_max: u64,
    /// Runs that may be sent once alone, and those that have ended.
    pub once: (usize, usize),
    /// The most requests of one of them.
    pub once_sent_max: usize,
    /// Their requests while there was no majority.
    pub unrecorded: usize,
}

/// Plays a scene with what is planted, with its files below `dir`, which is empty.
///
/// # Errors
/// Where the simulation itself fails.
pub fn play(scene: Scene, seed: u64, bug: Option<Bug>, dir: &Path) -> Result<Outcome, String> {
    planted::plant(bug);
    let played = in_world(seed, NODES, |world| simulate(scene, seed, dir, world));
    planted::plant(None);
    played.map(|(outcome, _)| outcome)
}

/// The task numbered `n` of a kind, and the due time of it that is looked at.
fn task(kind: &str, n: usize, due: u64) -> (Value, u64) {
    let after_ms = if kind == "long" { LONG_MS } else { SHORT_MS };
    let mut task = json!({
        "task_id": format!("{kind}{n}"),
        "callback": {"url": format!("http://target/after/{after_ms}"), "body": {}, "timeout_ms": 60_000},
        "retry": {"max_attempts": 100, "min_backoff_ms": 50, "max_backoff_ms": 400, "multiplier": 2.0},
    });
    let due = if kind == "once" { due + ONCE_AFTER_MS } else { due };
    if kind == "long" {
        task["type"] = 1.into();
        task["format"] = format!("0/{} * * * * ?", PERIOD_MS / 1000).into();
        task["start_time"] = (due / 1000).into();
    } else {
        task["type"] = 2.into();
        task["format"] = due.to_string().into();
    }
    if kind == "once" {
        task["delivery"] = "at_most_once".into();
    }
    (task, due)
}

fn simulate(scene: Scene, seed: u64, dir: &Path, world: &Arc<World>) -> Result<Outcome, String> {
    let options = Options { seed, nodes: NODES, faults: false, ..Options::default() };
    let mut stage = Stage::new(Cluster::new(options, TICK, dir, world.clone()), NODES, world.clone());
    stage.until("a leader", |stage| stage.cluster.leader().is_some())?;
    let now = |stage: &Stage<'_>| SIMULATION_EPOCH.0 + stage.cluster.now_ms();
    let due = (now(&stage) + 4_000).next_multiple_of(PERIOD_MS);
    let kinds = ["long", "short", "once"];
    let tasks = kinds.iter().flat_map(|kind| (0..TASKS).map(|n| task(kind, n, due)));
    let tasks: Vec<(Value, u64)> = tasks.collect();
    let made = stage.make_all(tasks.iter().map(|(task, _)| task.clone()).collect())?;
    if made.is_none() || now(&stage) >= due {
        return Err("the tasks were not there in time".to_owned());
    }
    let in_flight = |_: &Stage<'_>| world.history().hits.len() >= 2 * TASKS;
    stage.until("the callbacks", in_flight)?;
    let leader = stage.cluster.leader().ok_or("no leader")?;
    let followers = Fault::Crash((1..=NODES).filter(|node| *node != leader).collect());
    stage.cluster.inflict(&followers);
    let away = (now(&stage), due + AWAY_MS);
    let leader = (scene == Scene::LeaderDies).then(|| Fault::Crash(vec![leader]));
    if let Some(leader) = &leader {
        stage.pass(due + LEADER_DIES_MS - now(&stage))?;
        stage.cluster.inflict(leader);
    }
    stage.pass(away.1 - now(&stage))?;
    stage.cluster.heal(&followers)?;
    if let Some(leader) = &leader {
        stage.pass(LEADER_AWAY_MS)?;
        stage.cluster.heal(leader)?;
    }
    let answered_by = away.1 + LONG_MS;
    stage.pass(answered_by + SETTLE_MS - now(&stage))?;
    let shown = states(&mut stage, &tasks)?;
    if let Some(stopped) = world.history().stopped.first() {
        return Err(stopped.clone());
    }
    Ok(judge(world, &tasks, away, &shown))
}

/// What is shown of the runs that are looked at, by their tasks.
fn states(stage: &mut Stage<'_>, tasks: &[(Value, u64)]) -> Result<BTreeMap<String, String>, String> {
    let shown: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let (seen, count) = (shown.clone(), tasks.len());
    let wanted: Vec<(String, u64)> = tasks.iter().map(|(task, due)| (id(task), *due)).collect();
    stage.cluster.client("asker".to_owned(), async move {
        for (id, due) in wanted {
            let path = format!("/xcron/listRuns?limit=1000&task_id={id}");
            let runs = loop {
                match call(1, "GET", &path, None).await {
                    Ok(runs) => break runs,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            let run = runs["runs"].as_array().into_iter().flatten().find(|run| run["due_time_ms"] == due);
            let state = run.and_then(|run| run["state"].as_str()).unwrap_or("not there").to_owned();
            seen.lock().unwrap_or_else(PoisonError::into_inner).insert(id, state);
        }
        Ok(())
    });
    stage.until("the answers", |_| shown.lock().unwrap_or_else(PoisonError::into_inner).len() == count)?;
    let shown = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(shown)
}

fn id(task: &Value) -> String {
    task["task_id"].as_str().unwrap_or_default().to_owned()
}

fn judge(world: &World, tasks: &[(Value, u64)], away: (u64, u64), shown: &BTreeMap<String, String>) -> Outcome {
    let history = world.history();
    let mut found = Outcome::default();
    for (task, due) in tasks {
        let (id, state) = (id(task), shown.get(&id(task)).map_or("", String::as_str));
        let sent = || history.sent.iter().filter(|sent| sent.task == id);
        let of_it: Vec<u64> = sent().filter(|sent| sent.due == *due).map(|sent| sent.at).collect();
        if id.starts_with("once") {
            found.once.0 += 1;
            found.once.1 += usize::from(["succeeded", "failed", "unknown"].contains(&state));
            found.once_sent_max = found.once_sent_max.max(of_it.len());
            found.unrecorded += of_it.iter().filter(|at| (away.0 + LEASE_MS_MAX..away.1).contains(*at)).count();
            continue;
        }
        let took_ms = if id.starts_with("long") { LONG_MS } else { SHORT_MS };
        let first = of_it.first().copied().unwrap_or(u64::MAX);
        found.answered += usize::from(first < away.0);
        found.succeeded += usize::from(first < away.0 && state == "succeeded");
        // The majority is back, and has had the time to record it.
        let recorded = away.1.max(first.saturating_add(took_ms)) + 3_000;
        found.again += of_it.iter().filter(|at| **at > recorded).count();
        found.repeated += of_it.iter().skip(1).filter(|at| **at <= recorded).count();
        if id.starts_with("long") {
            let next = sent().filter(|sent| sent.due > *due).map(|sent| sent.at).min().unwrap_or(u64::MAX);
            found.next_ms_max = found.next_ms_max.max(next.saturating_sub(first));
        }
    }
    found
}
