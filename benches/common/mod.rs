//! Commands as a server writes them, for the benches.

#![allow(dead_code, reason = "each bench uses a part of it")]

use xcron::clock::Timestamp;
use xcron::command::{Batch, Command, Steering, Verdict};
use xcron::id::{RunKey, TaskId};
use xcron::run::Attempt;
use xcron::schedule::ZoneData;
use xcron::task::{Callback, TaskSpec, Timing};

/// The clock of the leader that writes them.
pub const T0: Timestamp = Timestamp(1_800_000_000_000);

/// A definition of about 400 bytes.
pub fn spec(n: u64, timing: Timing) -> TaskSpec {
    let body = format!("{{\"order\":{n},\"reason\":\"{}\"}}", "x".repeat(280));
    TaskSpec::new(timing, Callback::post("http://127.0.0.1:9000/orders/cancel", body))
}

/// Takes a task under a new id.
pub fn create(n: u64, timing: Timing) -> Command {
    Command::Create { id: TaskId::generate(), spec: Box::new(spec(n, timing)) }
}

/// Once, within the hour after `from`.
pub fn once(n: u64, from: Timestamp) -> Timing {
    let due = from.plus_ms(1000 + n * 7919 % 3_600_000);
    Timing::At { format: due.0.to_string(), due }
}

/// Every five minutes, in a zone with a summer time.
pub fn periodic() -> Timing {
    Timing::Periodic { format: "*/5 * * * *".to_owned(), timezone: "Europe/Berlin".to_owned() }
}

/// Adds the zone of [`periodic`].
pub fn zone() -> Command {
    Command::AddZones { rules: ZoneData::bundled().rules("Europe/Berlin").into_iter().collect() }
}

/// What a callback's success is written as.
pub fn ended(seq: u64, due: Timestamp) -> Command {
    let attempt = attempt(due);
    let key = RunKey::scheduled(due);
    Command::RunEnded { seq, key, attempt, term: 1, verdict: Verdict::Succeeded, steering: Steering::default() }
}

/// An attempt that was answered.
pub fn attempt(due: Timestamp) -> Attempt {
    let begun = Attempt::begun(1, 1, due, 1);
    Attempt { duration_ms: Some(3), status: Some(200), answer: Some("ok".to_owned()), ..begun }
}

/// Under the clock of [`T0`].
pub fn batch(commands: Vec<Command>) -> Batch {
    Batch::of(T0, commands)
}
