//! What the monitor port tells, and that its values are those of what has happened.

mod support;

use std::collections::BTreeMap;

use serde_json::json;
use support::{named, node, node_with, once, until, Cluster, Say, Sink, TestNode};

const NOWHERE: &str = "http://127.0.0.1:9/never";

/// The samples of a text in Prometheus' format, each line of which is held against it: each metric is described once before
/// its samples, has a help and a type, and is a counter if and only if its name ends in `_total`.
fn prometheus(text: &str) -> Vec<(String, f64)> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples = Vec::new();
    let mut helped = None;
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            match comment.splitn(3, ' ').collect::<Vec<_>>()[..] {
                ["HELP", name, help] => {
                    assert!(!help.is_empty() && helped.replace(name).is_none(), "{line}");
                }
                ["TYPE", name, kind] => {
                    assert_eq!(helped.take(), Some(name), "no help: {line}");
                    assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                    assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                    assert!(types.insert(name, kind).is_none(), "typed twice: {line}");
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let name = series.split('{').next().unwrap_or_default();
        assert!(name.starts_with("xcron_") && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        match of_histogram {
            Some(family) => assert_eq!(types.get(family), Some(&"histogram"), "{line}"),
            None => assert!(types.get(name).is_some_and(|kind| *kind != "histogram"), "not typed before: {line}"),
        }
        samples.push((series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}"))));
    }
    let mut names: Vec<&String> = samples.iter().map(|(n, _)| n).collect();
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a series is there twice");
    samples
}

/// What this node counts and shows now.
struct Samples(Vec<(String, f64)>);

impl Samples {
    async fn of(node: &TestNode) -> Samples {
        let (status, kind, text) = node.monitor.plain("/metrics").await;
        assert_eq!(status, 200);
        assert_eq!(kind, "text/plain; version=0.0.4", "the format of the lines below");
        Samples(prometheus(&text))
    }

    /// 0 where it is not there: a counter that has labels is shown once it counts.
    fn get(&self, series: &str) -> f64 {
        self.0.iter().find(|(name, _)| name == series).map_or(0.0, |(_, value)| *value)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_monitor_port_answers_in_the_forms_that_monitors_read() {
    let (_dir, node) = node().await;
    let sink = Sink::start().await;
    let id = node.client.create(&once(&sink.url("/"), 0)).await;
    node.client.await_task(&id, "a run", |t| t["run_count"] == 1).await;
    assert_eq!(node.monitor.plain("/healthz").await, (200, "text/plain; charset=utf-8".to_owned(), "ok".to_owned()));
    let (status, kind, text) = node.monitor.plain("/readyz").await;
    assert_eq!((status, kind.as_str(), text.as_str()), (200, "application/json", r#"{"ready":true}"#));
    assert_eq!(node.monitor.plain("/xcron/cluster").await.0, 404, "the API is not there");

    let samples = Samples::of(&node).await;
    let value = |name: &str| samples.get(name);
    let zone_data = xcron::schedule::ZoneData::default();
    let build = ("version", env!("CARGO_PKG_VERSION"), "zone_data", zone_data.version());
    assert_eq!(value(&format!("xcron_build_info{{{}=\"{}\",{}=\"{}\"}}", build.0, build.1, build.2, build.3)), 1.0);
    assert_eq!(value("xcron_tasks"), 1.0);
    assert_eq!((value("xcron_leader"), value("xcron_ready")), (1.0, 1.0));
    assert_eq!(value("xcron_attempts_total{outcome=\"succeeded\"}"), 1.0);
    assert_eq!(value("xcron_lateness_seconds_count"), 1.0);
    assert!(value("xcron_raft_applied_index") > 0.0 && value("xcron_log_disk_bytes") > 0.0);
    // What only grows is a counter.
    let grown =
        ["log_syncs", "checkpoints", "snapshots", "snapshots_failed", "snapshots_installed", "commands", "batches"];
    let is_there = |name: &str| samples.0.iter().any(|(series, _)| series.as_str() == format!("xcron_{name}_total"));
    assert_eq!(grown.iter().filter(|name| !is_there(name)).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert!(value("xcron_log_syncs_total") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_counted_by_their_outcome_with_how_late_they_were() {
    const SLOW_MS: u64 = 700;
    let (_dir, node) = node_with(|config| config.callback.in_flight_max = 1).await;
    let sink = Sink::saying(|hit| match hit.attempt() {
        1 => Say::status(503).after(SLOW_MS),
        _ => Say::ok(),
    })
    .await;
    let ids = node.client.create_all(&[once(&sink.url("/"), 0), once(&sink.url("/"), 0)]).await;
    for id in &ids {
        node.client.await_task(id, "its run", |task| task["run_count"] == 1).await;
    }
    let samples = Samples::of(&node).await;
    let of = |outcome: &str| samples.get(&format!("xcron_attempts_total{{outcome=\"{outcome}\"}}"));
    assert_eq!((of("failed"), of("succeeded")), (2.0, 2.0));
    assert_eq!(samples.get("xcron_lateness_seconds_count"), 4.0);
    // One of the two waited for the place of the other.
    let (late, took) = (samples.get("xcron_lateness_seconds_sum"), samples.get("xcron_attempt_duration_seconds_sum"));
    let slow = SLOW_MS as f64 / 1000.0;
    assert!((slow * 0.9..60.0).contains(&late) && (slow * 1.9..60.0).contains(&took), "{late} s late, {took} s long");
}

/// It stays in office by its own word for a minute, and nobody follows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_majority_shows_that_it_leads_nobody_and_what_is_due() {
    let mut cluster = Cluster::three_with(|config| {
        config.raft.election_timeout_max_ms = 60_000;
        config.limits.request_timeout_ms = 500;
    })
    .await;
    let leader = cluster.leader().await;
    assert_eq!(Samples::of(cluster.node(leader)).await.get("xcron_leader"), 1.0);
    cluster.client(leader).create(&named(once(NOWHERE, 2_000), "due")).await;
    for follower in cluster.followers().await {
        assert_eq!(Samples::of(cluster.node(follower)).await.get("xcron_leader"), 0.0);
        cluster.crash(follower).await;
    }
    let node = cluster.node(leader);
    until("a leader that shows it", || async { (Samples::of(node).await.get("xcron_leader") == 0.0).then_some(()) })
        .await;
    assert!(node.server().node().leads(), "it has given up: the test shows nothing of a leader without a majority");
    until("what is due", || async { (Samples::of(node).await.get("xcron_tasks_due") == 1.0).then_some(()) }).await;
    let failed = "xcron_failed_writes_total{error=\"no_leader\"}";
    let before = Samples::of(node).await.get(failed);
    node.client.post("/xcron/createTask", &once(NOWHERE, 5)).await.is(1050, 503, "no leader");
    until("a write that has failed", || async { (Samples::of(node).await.get(failed) > before).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_storage_took_is_told_in_seconds() {
    let began = xcron::clock::monotonic();
    let (_dir, node) = node().await;
    let body = json!({ "filler": "x".repeat(100_000) });
    until("a checkpoint that took some ms", || async {
        for _ in 0..20 {
            let mut task = once(NOWHERE, 3_600_000);
            task["callback"]["body"] = body.clone();
            node.client.create(&task).await;
        }
        let figures = node.server().node().machine().figures();
        (figures.checkpoint_ms > 0).then_some(())
    })
    .await;
    until("all that is stored", || async {
        (node.server().node().machine().figures().unsaved_bytes == 0).then_some(())
    })
    .await;
    let (samples, figures) = (Samples::of(&node).await, node.server().node().machine().figures());
    assert_eq!(samples.get("xcron_checkpoint_seconds"), figures.checkpoint_ms as f64 / 1000.0);
    let most = began.elapsed().as_secs_f64();
    for name in ["xcron_checkpoint_seconds", "xcron_log_sync_seconds"] {
        assert!((0.0..most).contains(&samples.get(name)), "{name} {} of {most} s", samples.get(name));
    }
    assert!(samples.get("xcron_store_disk_bytes") > 2e6 && samples.get("xcron_log_disk_bytes") > 1e6);
}
