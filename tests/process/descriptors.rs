//! Many targets, and few descriptors.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::Router;
use serde_json::{json, Value};

use crate::harness::{eventually, now_ms, run, sleep_ms, Cluster};
use crate::sink::Sink;

/// What a node may open, in these tests.
const FILES: usize = 256;
/// Targets: more than that.
const TARGETS: u32 = 300;

/// Many targets, each with an address of its own, which keep every connection open.
struct Targets {
    addresses: Vec<SocketAddr>,
    /// The tasks that called, and with which attempt.
    calls: Arc<Mutex<Vec<(String, String)>>>,
}

impl Targets {
    async fn start() -> Targets {
        let calls = Arc::<Mutex<Vec<(String, String)>>>::default();
        let mut addresses = Vec::new();
        for n in 0..TARGETS {
            let ip = IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 3, 1)) + n));
            let listener = tokio::net::TcpListener::bind((ip, 0)).await.expect("an address on loopback");
            addresses.push(listener.local_addr().expect("an address"));
            let calls = calls.clone();
            let take = move |headers: HeaderMap| async move {
                let text = |name: &str| headers[name].to_str().expect("a text").to_owned();
                calls.lock().expect("no panic").push((text("xcron-task-id"), text("xcron-attempt")));
                "ok"
            };
            tokio::spawn(async move { axum::serve(listener, Router::new().fallback(take)).await });
        }
        Targets { addresses, calls }
    }

    fn called(&self) -> usize {
        self.calls.lock().expect("no panic").iter().map(|(task, _)| task).collect::<HashSet<_>>().len()
    }

    fn tasks(&self, prefix: &str, delivery: &str, filler: usize) -> Vec<Value> {
        let task = |(n, address): (usize, &SocketAddr)| {
            json!({
                "type": 2, "task_id": format!("{prefix}{n}"), "delay_ms": 5 * n, "delivery": delivery,
                "callback": {"url": format!("http://{address}/"), "body": "x".repeat(filler)},
            })
        };
        self.addresses.iter().enumerate().map(task).collect()
    }
}

async fn few_descriptors(nodes: usize) -> Cluster {
    let mut cluster =
        Cluster::new(nodes, "[raft]\nsnapshot_log_bytes = 1048576\n[storage]\ncheckpoint_interval_ms = 100\n");
    for node in &mut cluster.nodes {
        let limited = format!("ulimit -n {FILES}; exec \"$0\" \"$@\"");
        node.under = vec!["sh".to_owned(), "-c".to_owned(), limited];
        node.spawn();
    }
    assert!(cluster.all_ready(Duration::from_secs(30)).await);
    cluster
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

async fn metric(cluster: &Cluster, name: &str) -> f64 {
    cluster.metric(0, name).await.unwrap_or_else(|| panic!("no {name}"))
}

async fn create(cluster: &Cluster, tasks: &[Value]) {
    let answer = cluster.api.post(cluster.nodes[0].ports.http, "/xcron/createTasks", &json!({ "tasks": tasks })).await;
    let (_, body) = answer.expect("an answer");
    let results = body["data"]["results"].as_array().unwrap_or_else(|| panic!("{body}")).clone();
    assert!(results.iter().all(|result| result["code"] == 0), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_targets_than_descriptors_are_all_called_and_end_no_node() {
    let cluster = few_descriptors(1).await;
    let (targets, sink) = (Targets::start().await, Sink::start().await);
    let (node, began) = (&cluster.nodes[0], now_ms());
    let tick = json!({"type": 1, "task_id": "tick", "format": "@every 1s", "callback": {"url": sink.url}});
    assert_eq!(cluster.api.create(node.ports.http, &tick).await.unwrap().1["code"], 0);
    create(&cluster, &targets.tasks("many", "at_least_once", 0)).await;
    create(&cluster, &targets.tasks("once", "at_most_once", 0)).await;
    let (mut most_files, mut most_links) = (0, 0.0);
    eventually("all targets are called", Duration::from_secs(30), async || {
        most_files = most_files.max(open_files(node.pid()));
        most_links = f64::max(most_links, metric(&cluster, "xcron_target_connections").await);
        targets.called() == 2 * TARGETS as usize
    })
    .await;
    println!("at most {most_files} open files, {most_links} connections to targets; {} ms", now_ms() - began);
    assert!(most_files < FILES * 3 / 4 && most_links <= 64.0, "{most_files} open files, {most_links} connections");
    assert_eq!(targets.calls.lock().unwrap().len(), 2 * TARGETS as usize, "each once");
    let late = sink.of("tick").iter().map(|call| call.at_ms - call.due_ms).max();
    assert!(late.is_some_and(|late| late < 1000), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_descriptor_waits_says_so_once_a_second_and_lives_on() {
    let cluster = few_descriptors(1).await;
    let targets = Targets::start().await;
    let node = &cluster.nodes[0];
    create(&cluster, &targets.tasks("late", "at_least_once", 0)).await;
    let limit = |files: usize| run("prlimit", &["--pid", &node.pid().to_string(), &format!("--nofile={files}:")]);
    if let Err(error) = limit(10) {
        return crate::skip::skipped("prlimit", error);
    }
    sleep_ms(4000).await;
    let before = targets.called();
    assert!(before < TARGETS as usize, "there were descriptors");
    limit(FILES).expect("raise the limit again");
    eventually("all targets are called", Duration::from_secs(30), async || targets.called() == TARGETS as usize).await;
    let calls = targets.calls.lock().unwrap().clone();
    assert!(calls.iter().all(|(_, attempt)| attempt == "1"), "what never left has counted as an attempt: {calls:?}");
    assert!(metric(&cluster, "xcron_attempts_without_descriptor_total").await > 0.0);
    let log = std::fs::read_to_string(&node.log).unwrap();
    let lines = log.lines().filter(|line| line.contains("no descriptor left for a connection")).count();
    assert!((1..=8).contains(&lines), "{lines} lines");
}
