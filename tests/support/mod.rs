//! What the in-process tests share: nodes that can be stopped and crashed, a client, a sink for callbacks, waiting.
//!
//! Each node runs on a runtime of its own. To crash it, the runtime is shut down: every task of the node ends where it
//! stands, its sockets and files are closed, and nothing is flushed by intention. What the log has acknowledged must be
//! there when the node is started again.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod client;
pub mod machine;
pub mod node;
pub mod sink;
pub mod skip;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use serde_json::{json, Value};
use xcron::clock::{monotonic, Clock, Timestamp};

#[allow(unused_imports, reason = "as above")]
pub use client::{Answer, Client};
#[allow(unused_imports, reason = "as above")]
pub use node::{config, node, node_with, Cluster, TestNode};
#[allow(unused_imports, reason = "as above")]
pub use sink::{Hit, Say, Sink};

/// How long anything may take that is awaited: far more than it takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The wall clock.
pub fn now() -> Timestamp {
    Clock::system().now()
}

/// Copies a directory, with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a copy");
        }
    }
}

/// The names of an object's fields.
pub fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Polls until there is something; panics with `what` when it takes too long.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut poll: impl FnMut() -> F) -> T {
    let deadline = monotonic() + PATIENCE;
    loop {
        if let Some(found) = poll().await {
            return found;
        }
        assert!(monotonic() < deadline, "in vain waited for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Polls until it holds; panics with `what` when it takes too long.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || std::future::ready(holds().then_some(()))).await;
}

/// Lets time pass in which something must not happen.
pub async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// A one-shot task that is due `delay_ms` after it is taken.
pub fn once(url: &str, delay_ms: u64) -> Value {
    json!({"type": 2, "delay_ms": delay_ms, "callback": {"url": url}})
}

/// A task of this schedule.
pub fn periodic(url: &str, format: &str) -> Value {
    json!({"type": 1, "format": format, "callback": {"url": url}})
}

/// A task with an id of its own.
pub fn named(task: Value, id: &str) -> Value {
    with(task, json!({"task_id": id}))
}

/// The same with other fields, or more of them.
pub fn with(mut task: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("an object") {
        task[name] = value.clone();
    }
    task
}

/// That no two are equal.
pub fn assert_distinct<T: Ord + Debug>(mut items: Vec<T>) {
    items.sort();
    for pair in items.windows(2) {
        assert_ne!(pair[0], pair[1], "there twice");
    }
}
