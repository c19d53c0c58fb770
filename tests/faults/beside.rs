//! What goes on beside the load of one-shot tasks: tasks that are due every second, whose audit is compared with what the
//! target got, and large tasks that come and go, so that the log grows and is purged all the time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{json, Value};
use tokio::task::JoinHandle;

use crate::api::{code, large};
use crate::harness::{holds_within, now_ms, sleep_ms, Cluster};
use crate::sink::Sink;

/// Due times older than so many runs are not kept in the history.
const KEPT: usize = 100;
/// No call waits longer: another node may know more.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Tasks that are due every second.
pub struct Ticks {
    ids: Vec<String>,
    created_ms: u64,
}

impl Ticks {
    /// So many of them, on a cluster that is ready. Each due time fires, however late.
    pub async fn start(cluster: &Cluster, sink: &Sink, count: usize) -> Ticks {
        let ids: Vec<String> = (0..count).map(|n| format!("tick-{n}")).collect();
        for id in &ids {
            let task = json!({
                "type": 1, "task_id": id, "format": "* * * * * *", "callback": { "url": sink.url, "body": {} },
                "misfire": { "policy": "all", "window_ms": 600_000 },
            });
            let answer = cluster.api.create(cluster.nodes[0].ports.http, &task).await;
            assert_eq!(code(&answer), Some(0), "{answer:?}");
        }
        Ticks { ids, created_ms: now_ms() }
    }

    /// Each second from the creation until now has run, once by its run id, and the target has got it; how many runs.
    pub async fn check(&self, cluster: &Cluster, sink: &Sink, name: &str) -> usize {
        let until_ms = now_ms();
        let mut runs = 0;
        for id in &self.ids {
            let mut audit = Vec::new();
            holds_within(Duration::from_secs(20), async || {
                audit = self::audit(cluster, id).await;
                audit.last().is_some_and(|due| time(due) >= until_ms)
                    && !audit.iter().any(|due| time(due) < until_ms && is_open(due))
            })
            .await;
            let wrong = self.wrong(id, &audit, until_ms, sink);
            assert!(wrong.is_empty(), "{name}: {id}: {:#?}", &wrong[..wrong.len().min(10)]);
            runs += audit.len();
        }
        runs
    }

    fn wrong(&self, id: &str, audit: &[Value], until_ms: u64, sink: &Sink) -> Vec<String> {
        let calls = sink.of(id);
        let mut by_run: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        calls.iter().for_each(|call| by_run.entry(&call.run).or_default().push(call.due_ms));
        let dues: Vec<u64> = audit.iter().map(time).collect();
        let mut wrong = Vec::new();
        let first_is_right = dues.first().is_some_and(|first| *first <= self.created_ms + 2000);
        if !first_is_right || dues.windows(2).any(|pair| pair[1] - pair[0] != 1000) {
            wrong.push(format!("the due times are not each second from {}: {dues:?}", self.created_ms));
        }
        let old = audit.len().saturating_sub(KEPT);
        for (at, due) in audit.iter().enumerate().filter(|(_, due)| time(due) < until_ms) {
            let is_forgotten = at < old && due["state"] == "not_kept";
            let run = due["run_id"].as_str().unwrap_or_default();
            if due["state"] != "succeeded" && !is_forgotten {
                wrong.push(format!("not done: {due}"));
            } else if !is_forgotten && by_run.get(run).is_none_or(|calls| calls.iter().any(|at| *at != time(due))) {
                wrong.push(format!("its target has not got it, or as another one: {due} {:?}", by_run.get(run)));
            }
        }
        let runs: Vec<&str> = audit.iter().filter_map(|due| due["run_id"].as_str()).collect();
        for call in &calls {
            if call.at_ms < call.due_ms {
                wrong.push(format!("early: {call:?}"));
            }
            let is_known = runs.contains(&call.run.as_str()) || dues.last().is_none_or(|last| call.due_ms > *last);
            if !is_known && !audit[..old].iter().any(|due| time(due) == call.due_ms) {
                wrong.push(format!("a run that the audit does not have: {call:?}"));
            }
        }
        wrong
    }
}

/// When it is due, unix milliseconds.
pub fn time(due: &Value) -> u64 {
    due["due_time_ms"].as_u64().expect("a due time")
}

/// Whether it has come to no end yet.
pub fn is_open(due: &Value) -> bool {
    ["pending", "running", "scheduled"].contains(&due["state"].as_str().unwrap_or_default())
}

pub async fn audit(cluster: &Cluster, id: &str) -> Vec<Value> {
    let to = now_ms() / 1000 + 2;
    let path = format!("/xcron/audit?task_id={id}&limit=1000&to={to}");
    let answer = cluster.api.get(cluster.nodes[0].ports.http, &path).await;
    answer.ok().and_then(|(_, body)| body["data"]["due_times"].as_array().cloned()).unwrap_or_default()
}

/// Large tasks that are created and deleted, one after the other.
pub struct Churn {
    stopping: Arc<AtomicBool>,
    worker: JoinHandle<Vec<String>>,
}

impl Churn {
    /// One task in so many stays.
    const STAYS_ONE_IN: usize = 25;

    pub fn start(cluster: &Cluster) -> Churn {
        let stopping = Arc::<AtomicBool>::default();
        let (api, ports, stops) = (cluster.api.waiting(PATIENCE), cluster.http_ports(), stopping.clone());
        let worker = tokio::spawn(async move {
            let mut standing = Vec::new();
            for n in 0.. {
                if stops.load(Ordering::Relaxed) {
                    break;
                }
                let (id, port) = (format!("large-{n}"), ports[rand::random_range(0..ports.len())]);
                let is_taken = code(&api.create(port, &large(&id, 100_000)).await) == Some(0);
                if is_taken && n % Self::STAYS_ONE_IN == 0 {
                    standing.push(id);
                } else {
                    // Whatever was answered: one that is not needed any more is for nobody to look at.
                    let _ = api.delete(port, &id).await;
                }
                sleep_ms(20).await;
            }
            standing
        });
        Churn { stopping, worker }
    }

    /// The tasks that must be there.
    pub async fn stop(self) -> Vec<String> {
        self.stopping.store(true, Ordering::Relaxed);
        self.worker.await.expect("the worker")
    }
}
