//! The clients: they make tasks and change them for a while, and in the end ask what has become of each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{json, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::history::{Call, Rhythm, Shown, ShownRun, Task, Wish};
use super::{registers, wire, zones, World, HTTP_PORT};
use crate::clock::{simulated_ms, SIMULATION_EPOCH};

/// How long a client waits for an answer; more than a node takes to give one.
const PATIENCE: Duration = Duration::from_secs(5);
/// Periods of periodic tasks, in seconds: those that divide a minute.
const PERIODS: [u64; 4] = [1, 2, 3, 5];

/// Why a call was not answered with success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// With this code instead.
    Code(u64),
    /// There was no connection: the node has not heard of it.
    NotSent,
    /// Nothing was understood.
    NoAnswer,
}

/// Calls a node; its answer, if it is one of success.
pub(super) async fn call(node: usize, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failed> {
    let to = format!("n{node}:{HTTP_PORT}");
    let request = http::Request::builder().method(method).uri(path).header("host", &to);
    let request = request.header("content-type", "application/json");
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let request = request.body(Full::new(body)).map_err(|_| Failed::NotSent)?;
    let (_, body) = wire::exchange(&to, request, PATIENCE).await.map_err(|failure| match failure {
        wire::Failure::Connect => Failed::NotSent,
        wire::Failure::Timeout | wire::Failure::Broken => Failed::NoAnswer,
    })?;
    let answer: Value = serde_json::from_slice(&body).map_err(|_| Failed::NoAnswer)?;
    match answer["code"].as_u64() {
        Some(0) => Ok(answer["data"].clone()),
        Some(code) => Err(Failed::Code(code)),
        None => Err(Failed::NoAnswer),
    }
}

/// Makes tasks and changes them until `end_ms` of the simulation.
pub(super) async fn work(world: Arc<World>, number: u64, seed: u64, end_ms: u64) -> turmoil::Result {
    let mut chance = StdRng::seed_from_u64(seed ^ (number << 32));
    let mut made = 0;
    while simulated_ms() < SIMULATION_EPOCH.0 + end_ms {
        tokio::time::sleep(Duration::from_millis(chance.random_range(50..500))).await;
        if made > 0 && chance.random_bool(0.4) {
            let id = format!("c{number}-{}", chance.random_range(1..=made));
            change(&world, &mut chance, &id).await;
        } else {
            made += 1;
            create(&world, &mut chance, format!("c{number}-{made}")).await;
        }
    }
    Ok(())
}

async fn create(world: &World, chance: &mut StdRng, id: String) {
    let asked = simulated_ms();
    let due_s = asked / 1000 + chance.random_range(1..6);
    let period_s = PERIODS[chance.random_range(0..PERIODS.len())];
    let fails = chance.random_bool(0.15);
    let url = format!("http://target/{}", if fails { "fails" } else { "hook" });
    let mut task = json!({
        "task_id": id,
        "callback": {"url": url, "body": {}, "timeout_ms": 1000},
    });
    // Not drawn, so that the same seed has the same tasks at the same times with them and without.
    let once = xxh3_64(id.as_bytes()).is_multiple_of(4);
    if once {
        task["delivery"] = "at_most_once".into();
    } else {
        // So many that a run does not give up before the last fault is over.
        task["retry"] = json!({"max_attempts": 1000, "min_backoff_ms": 50, "max_backoff_ms": 400, "multiplier": 2.0});
    }
    let rhythm = match chance.random_range(0..4) {
        0 => {
            task["type"] = 2.into();
            task["format"] = due_s.to_string().into();
            Rhythm::Once(Some(due_s * 1000))
        }
        1 => {
            task["type"] = 2.into();
            task["delay_ms"] = chance.random_range(100..4000).into();
            Rhythm::Once(None)
        }
        2 => {
            task["type"] = 1.into();
            task["format"] = format!("0/{period_s} * * * * ?").into();
            Rhythm::Every(period_s * 1000)
        }
        _ => {
            task["type"] = 1.into();
            task["format"] = format!("0/{period_s} * * * * ?").into();
            task["timezone"] = zones::ZONE.into();
            Rhythm::Zoned(period_s * 1000)
        }
    };
    let story = Task { rhythm, fails, once, asked, created: None, calls: Vec::new(), shown: None };
    world.history().tasks.insert(id.clone(), story);
    // The same again gives the same answer, so a client that is not answered asks another node.
    for _ in 0..3 {
        let answer = call(chance.random_range(1..=world.nodes), "POST", "/xcron/createTask", Some(&task)).await;
        let now = simulated_ms();
        let mut history = world.history();
        history.note(now, format!("create {id} {:?}", answer.as_ref().map(|_| ())));
        if answer.is_ok() {
            history.tasks.entry(id).and_modify(|task| task.created = Some(now));
            return;
        }
    }
}

async fn change(world: &World, chance: &mut StdRng, id: &str) {
    let (wish, path) = match chance.random_range(0..4) {
        0 | 1 => (Wish::Delete, "/xcron/deleteTask"),
        2 => (Wish::Pause, "/xcron/pauseTask"),
        _ => (Wish::Resume, "/xcron/resumeTask"),
    };
    {
        let history = world.history();
        let Some(task) = history.tasks.get(id).filter(|task| task.created.is_some()) else { return };
        let gone = task.calls.iter().any(|call| call.wish == Wish::Delete);
        let paused = task.calls.last().is_some_and(|call| call.wish == Wish::Pause);
        if gone || paused != (wish == Wish::Resume) && wish != Wish::Delete {
            return;
        }
    }
    let asked = simulated_ms();
    let position = {
        let mut history = world.history();
        let calls = &mut history.tasks.entry(id.to_owned()).or_insert_with(|| unreachable!("it was just there")).calls;
        calls.push(Call { wish, asked, answered: None });
        calls.len() - 1
    };
    let answer = call(chance.random_range(1..=world.nodes), "POST", path, Some(&json!({"task_id": id}))).await;
    let now = simulated_ms();
    let mut history = world.history();
    history.note(now, format!("{wish:?} {id} {:?}", answer.as_ref().map(|_| ())));
    if answer.is_ok() {
        if let Some(task) = history.tasks.get_mut(id) {
            task.calls[position].answered = Some(now);
        }
    }
}

/// Asks what has become of each task, from whichever node answers. If none does, the history has no end.
pub(super) async fn ask(world: Arc<World>, from_ms: u64) -> turmoil::Result {
    tokio::time::sleep(Duration::from_millis(from_ms)).await;
    if let Err(why) = ask_all(&world).await {
        world.history().note(simulated_ms(), why);
    }
    Ok(())
}

async fn ask_all(world: &World) -> Result<(), String> {
    let ids: Vec<String> = world.history().tasks.keys().cloned().collect();
    let began = simulated_ms();
    for id in ids {
        let task = get(world, &format!("/xcron/queryTask?task_id={id}")).await?;
        let runs = get(world, &format!("/xcron/listRuns?limit=1000&task_id={id}")).await?;
        let audit = get(world, &format!("/xcron/audit?limit=1000&task_id={id}")).await?;
        let (Some(task), Some(runs), Some(audit)) = (task, runs, audit) else { continue };
        let read = |list: &Value| {
            let read = |run: &Value| ShownRun {
                id: run["run_id"].as_str().unwrap_or_default().to_owned(),
                due: run["due_time_ms"].as_u64().unwrap_or(0),
                state: run["state"].as_str().unwrap_or_default().to_owned(),
            };
            list.as_array().map(|list| list.iter().map(read).collect()).unwrap_or_default()
        };
        let run_count = |task: &Value| task["run_count"].as_u64().unwrap_or(0);
        let again = get(world, &format!("/xcron/queryTask?task_id={id}")).await?;
        let run_count = (run_count(&task), again.as_ref().map_or(u64::MAX, run_count));
        let shown = Shown { run_count, runs: read(&runs["runs"]), audit: read(&audit["due_times"]) };
        let mut history = world.history();
        let now = simulated_ms();
        history.note(now, format!("shown {id}: {} runs, {:?} counted", shown.runs.len(), shown.run_count));
        if let Some(task) = history.tasks.get_mut(&id) {
            task.shown = Some(shown);
        }
    }
    registers::read_all(world).await;
    world.history().shown = Some(began);
    Ok(())
}

/// What a node answers; none: there is no such task.
async fn get(world: &World, path: &str) -> Result<Option<Value>, String> {
    let mut last = None;
    for node in (1..=world.nodes).cycle().take(world.nodes * 3) {
        match call(node, "GET", path, None).await {
            Ok(data) => return Ok(Some(data)),
            Err(Failed::Code(1040)) => return Ok(None),
            Err(failed) => last = Some(failed),
        }
    }
    Err(format!("nobody answers {path}: {last:?}"))
}
