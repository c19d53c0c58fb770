//! One node as a process.

use std::time::Duration;

use serde_json::json;

use crate::api::once;
use crate::harness::{eventually, now_ms, sleep_ms, Cluster};
use crate::load::{Load, Shape};
use crate::sink::Sink;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_calls_back_once_at_its_time() {
    let cluster = Cluster::start(1, "").await;
    let sink = Sink::start().await;
    let http = cluster.nodes[0].ports.http;
    let due = now_ms() + 700;
    let (status, answer) = cluster.api.create(http, &once("one", due, &sink.url)).await.unwrap();
    assert_eq!((status, &answer["code"], &answer["data"]["task_id"]), (200, &json!(0), &json!("one")));
    eventually("the callback arrives", Duration::from_secs(5), async || !sink.of("one").is_empty()).await;
    eventually("the run is recorded", Duration::from_secs(5), async || {
        let task = cluster.api.query(http, "one").await;
        task.is_ok_and(|(_, body)| body["data"]["state"] == "finished" && body["data"]["run_count"] == 1)
    })
    .await;
    sleep_ms(500).await;
    let calls = sink.of("one");
    assert_eq!(calls.len(), 1, "{calls:?}");
    let call = &calls[0];
    assert!(call.at_ms >= due && call.at_ms <= due + 1000, "due {due}: {call:?}");
    assert_eq!((call.due_ms, call.attempt, &call.body[..]), (due, 1, "{\"id\":\"one\"}"));
    assert_eq!(call.key, call.run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_periodic_task_goes_on_after_a_kill() {
    let mut cluster = Cluster::start(1, "").await;
    let sink = Sink::start().await;
    let task = json!({"type": 1, "task_id": "tick", "format": "@every 1s", "callback": {"url": sink.url}});
    assert_eq!(cluster.api.create(cluster.nodes[0].ports.http, &task).await.unwrap().1["code"], 0);
    eventually("it fires", Duration::from_secs(10), async || sink.of("tick").len() >= 2).await;
    cluster.nodes[0].kill();
    sleep_ms(2500).await;
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(Duration::from_secs(20)).await);
    let before = sink.of("tick").len();
    eventually("it fires again", Duration::from_secs(10), async || sink.of("tick").len() >= before + 3).await;
    let mut calls = sink.of("tick");
    assert!(calls.iter().all(|call| call.at_ms >= call.due_ms), "{calls:#?}");
    calls.sort_by_key(|call| call.due_ms);
    calls.dedup_by_key(|call| call.due_ms);
    // Within the misfire window none is left out.
    let gaps: Vec<u64> = calls.windows(2).map(|pair| pair[1].due_ms - pair[0].due_ms).collect();
    assert!(gaps.iter().all(|gap| *gap == 1000), "{gaps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_kills_under_load() {
    let mut cluster = Cluster::start(1, "").await;
    let sink = Sink::start().await;
    let mut load = Load::start(&cluster.api, &cluster.http_ports(), &sink, Shape::default());
    for round in 0..4 {
        sleep_ms(700 + 311 * round).await;
        cluster.nodes[0].kill();
        cluster.nodes[0].spawn();
        assert!(cluster.all_ready(Duration::from_secs(20)).await);
    }
    sleep_ms(300).await;
    let report = load.settle(Duration::from_secs(20)).await;
    report.check("one node, 4 kills");
}

/// More than the places for those who monitor, by far.
const SILENT: usize = 2000;

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_send_nothing_hold_up_no_health_check() {
    xcron::server::raise_descriptors();
    let cluster = Cluster::start(1, "").await;
    let monitor = cluster.nodes[0].ports.monitor;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(tokio::net::TcpStream::connect(("127.0.0.1", monitor)).await.unwrap());
    }
    for _ in 0..10 {
        let began = now_ms();
        assert_eq!(cluster.api.status(monitor, "/healthz").await, Some(200));
        assert!(now_ms() - began < 5_000, "it took {} ms", now_ms() - began);
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_stores_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    fn modes(path: &Path, found: &mut Vec<(PathBuf, u32)>) {
        // sled and the log remove files of theirs meanwhile.
        let Ok(file) = std::fs::symlink_metadata(path) else { return };
        found.push((path.to_owned(), file.permissions().mode() & 0o777));
        if let Ok(entries) = std::fs::read_dir(path) {
            entries.for_each(|entry| modes(&entry.unwrap().path(), found));
        }
    }
    let mut cluster = Cluster::start(1, "").await;
    let data = cluster.nodes[0].data.clone();
    let look = || {
        let mut found = Vec::new();
        modes(&data, &mut found);
        assert!(["LOCK", "identity", "log", "checkpoint"].iter().all(|name| found.iter().any(|f| f.0.ends_with(name))));
        found
    };
    let open =
        |found: &[(PathBuf, u32)]| found.iter().filter(|(_, mode)| mode & 0o077 != 0).cloned().collect::<Vec<_>>();
    assert_eq!(open(&look()), []);

    // As they would be that an earlier version has made.
    cluster.nodes[0].kill();
    for (path, mode) in look() {
        let readable = if path.is_dir() { 0o055 } else { 0o044 };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode | readable)).unwrap();
    }
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(Duration::from_secs(20)).await);
    assert_eq!(open(&look()), []);
    let log = std::fs::read_to_string(&cluster.nodes[0].log).unwrap();
    assert!(log.contains("other users could read the files of this node"), "{log}");
}
