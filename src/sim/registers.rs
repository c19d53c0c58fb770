//! Clients that read and write the same few registers: tasks that are never due, each with its name as its value.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{json, Value};

use super::client::{call, Failed};
use super::linear::{Answer, Asked};
use super::World;
use crate::clock::{simulated_ms, SIMULATION_EPOCH};

/// Few, so that the clients meet at them.
const REGISTERS: u32 = 3;
/// When they are due: some years after the simulation.
const NEVER: &str = "2100000000";

/// Reads and writes until `end_ms` of the simulation. Most reads wait for no write: one through a node that cannot write
/// takes long to be answered, and a read through the same node may be wrong just then.
pub(super) async fn work(world: Arc<World>, number: u64, seed: u64, end_ms: u64) -> turmoil::Result {
    let mut chance = StdRng::seed_from_u64(seed ^ (number << 32) ^ 0x11ea);
    let (reads, writes) = (StdRng::from_rng(&mut chance), StdRng::from_rng(&mut chance));
    let read = |_: &mut StdRng| -> fn(u64) -> Asked { |_| Asked::Read };
    let any = |chance: &mut StdRng| -> fn(u64) -> Asked {
        match chance.random_range(0..12) {
            0 => |_| Asked::Read,
            1..8 => Asked::Update,
            8..11 => Asked::Create,
            _ => |_| Asked::Delete,
        }
    };
    futures::join!(repeat(&world, number, reads, end_ms, read), repeat(&world, number, writes, end_ms, any));
    Ok(())
}

async fn repeat(
    world: &World,
    number: u64,
    mut chance: StdRng,
    end_ms: u64,
    draw: impl Fn(&mut StdRng) -> fn(u64) -> Asked,
) {
    while simulated_ms() < SIMULATION_EPOCH.0 + end_ms {
        tokio::time::sleep(Duration::from_millis(chance.random_range(10..300))).await;
        let key = format!("register-{}", chance.random_range(1..=REGISTERS));
        let asked = draw(&mut chance);
        operate(world, number, key, asked, chance.random_range(1..=world.nodes)).await;
    }
}

/// Reads each register from each node.
pub(super) async fn read_all(world: &World) {
    for register in 1..=REGISTERS {
        for node in 1..=world.nodes {
            operate(world, 0, format!("register-{register}"), |_| Asked::Read, node).await;
        }
    }
}

async fn operate(world: &World, client: u64, key: String, asked: impl FnOnce(u64) -> Asked, node: usize) {
    let told = format!("{} ms, client {client}, node {node}", simulated_ms() - SIMULATION_EPOCH.0);
    let (position, asked) = world.history().begin(key.clone(), asked, told);
    let (method, path, body) = match asked {
        Asked::Read => ("GET", format!("/xcron/queryTask?task_id={key}"), None),
        Asked::Create(value) => {
            let callback = json!({"url": "http://target/hook"});
            let task = json!({"task_id": key, "type": 2, "format": NEVER, "name": name(value), "callback": callback});
            ("POST", "/xcron/createTask".to_owned(), Some(task))
        }
        Asked::Update(value) => {
            ("POST", "/xcron/updateTask".to_owned(), Some(json!({"task_id": key, "name": name(value)})))
        }
        Asked::Delete => ("POST", "/xcron/deleteTask".to_owned(), Some(json!({"task_id": key}))),
    };
    let answered = call(node, method, &path, body.as_ref()).await;
    let mut history = world.history();
    let failed = answered.as_ref().err();
    history.note(simulated_ms(), format!("{key} by client {client} at node {node}: {asked:?} {failed:?}"));
    let answer = answer(asked, answered);
    history.end(position, answer);
}

fn name(value: u64) -> String {
    format!("v{value}")
}

/// What an answer says of the register. Codes that promise that nothing was written are taken at their word.
fn answer(asked: Asked, answer: Result<Value, Failed>) -> Answer {
    match (asked, answer) {
        (Asked::Read, Ok(task)) => {
            let value = task["name"].as_str().and_then(|name| name.strip_prefix('v')?.parse().ok());
            // What nobody has written is a value that no write has.
            Answer::Shows(value.unwrap_or(0))
        }
        (_, Ok(_)) => Answer::Done,
        (Asked::Read | Asked::Update(_) | Asked::Delete, Err(Failed::Code(1040))) => Answer::Absent,
        (Asked::Create(_), Err(Failed::Code(1041))) => Answer::Exists,
        // 1041 of an update: others changed the register each time.
        (_, Err(Failed::NotSent | Failed::Code(1041 | 1050 | 1070 | 1071))) => Answer::Refused,
        (_, Err(Failed::NoAnswer | Failed::Code(_))) => Answer::Unknown,
    }
}
