//! Loops for a person to run for as long as they like. Each prints what it has seen:
//!
//! ```sh
//! XCRON_ROUNDS=200 cargo test --release --test process soak -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `XCRON_TEST_SERVER` names another binary to test.

use std::time::Duration;

use crate::cluster::{first_fire_after, SETTLE_MAX};
use crate::faults::power_cuts;
use crate::harness::{eventually, now_ms, sleep_ms, Cluster, Node, READY_MAX};
use crate::load::{Load, Shape};
use crate::sink::Sink;

/// How many faults; 10 where the environment does not say.
fn rounds() -> usize {
    std::env::var("XCRON_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

fn figures(name: &str, mut ms: Vec<u64>) {
    ms.sort_unstable();
    if let (Some(least), Some(most)) = (ms.first(), ms.last()) {
        println!("{name}: {} times, least {least} ms, median {} ms, most {most} ms", ms.len(), ms[ms.len() / 2]);
    }
}

/// `kill -9` of the leader, again and again, under load.
#[ignore = "runs for as long as XCRON_ROUNDS says"]
#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_leader() {
    let mut cluster = Cluster::start(3, "").await;
    let sink = Sink::start().await;
    let mut load = Load::start(&cluster.api, &cluster.http_ports(), &sink, Shape::default());
    let mut gaps = Vec::new();
    for round in 0..rounds() {
        sleep_ms(1000 + 137 * (round as u64 % 11)).await;
        let (leader, term) = cluster.leader().await;
        let killed = now_ms();
        cluster.nodes[leader].kill();
        let first = first_fire_after(&sink, term).await;
        gaps.push(first.at_ms.saturating_sub(killed));
        sleep_ms(100 * (round as u64 % 7)).await;
        cluster.nodes[leader].spawn();
        assert!(cluster.all_ready(READY_MAX).await, "round {round}");
    }
    figures("first fire after a kill of the leader", gaps);
    load.settle(SETTLE_MAX).await.check("kills of the leader");
    cluster.caught_up(Duration::from_secs(30)).await;
}

/// `kill -9` of all nodes at once, again and again, under load.
#[ignore = "runs for as long as XCRON_ROUNDS says"]
#[tokio::test(flavor = "multi_thread")]
async fn kills_of_all() {
    let mut cluster = Cluster::start(3, "").await;
    let sink = Sink::start().await;
    let mut load = Load::start(&cluster.api, &cluster.http_ports(), &sink, Shape::default());
    let mut gaps = Vec::new();
    for round in 0..rounds() {
        sleep_ms(900 + 137 * (round as u64 % 11)).await;
        cluster.nodes.iter().for_each(|node| node.signal("KILL"));
        cluster.nodes.iter_mut().for_each(Node::kill);
        // The old leader can come back in its old term: what counts is what arrives once all are dead.
        sleep_ms(50).await;
        let (dead, before) = (now_ms(), sink.calls().len());
        cluster.nodes.iter_mut().for_each(Node::spawn);
        eventually("a leader fires", READY_MAX, async || sink.calls().len() > before).await;
        gaps.push(sink.calls()[before].at_ms - dead);
        assert!(cluster.all_ready(READY_MAX).await, "round {round}");
    }
    figures("first fire after a kill of all nodes and their start", gaps);
    load.settle(SETTLE_MAX).await.check("kills of all");
    cluster.caught_up(Duration::from_secs(30)).await;
}

/// Power cuts of one node's disk, again and again, under load.
#[ignore = "runs for as long as XCRON_ROUNDS says"]
#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_one() {
    if let Some(report) = power_cuts(1, rounds()).await {
        report.check("power cuts of one node");
    }
}

/// Power cuts of all disks of a cluster at once, again and again, under load.
#[ignore = "runs for as long as XCRON_ROUNDS says"]
#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_all() {
    if let Some(report) = power_cuts(3, rounds()).await {
        report.check("power cuts of all nodes");
    }
}
