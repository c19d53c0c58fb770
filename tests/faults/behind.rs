//! A node that has missed much.

use std::time::Duration;

use serde_json::json;

use crate::api::{code, once};
use crate::check::agree;
use crate::harness::{eventually, now_ms, Cluster, READY_MAX};
use crate::sink::Sink;
use crate::trial::{rounds, turn};

/// What one node may take in memory at most for 100 MB that another has missed: what it takes anyway (caches of log and
/// store), and a few times the largest message; 255 MB were measured.
const MEMORY_KB_MAX: u64 = 400 << 10;

/// The most memory that a process has had so far, in KiB.
pub fn memory_peak_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak is there");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

async fn missed(by_snapshot: bool, more: &str) {
    let _turn = turn().await;
    let mut cluster = Cluster::start(3, more).await;
    let sink = Sink::start().await;
    // The first node is the first to stand for election where it hears nothing.
    let away = 0;
    cluster.leader().await;
    cluster.nodes[away].kill();
    let (leader, _) = cluster.leader().await;
    let http = cluster.nodes[leader].ports.http;
    // More entries than are kept behind a snapshot for those who are only a little late.
    for n in 0..200 {
        let answer = cluster.api.create(http, &once(&format!("small-{n}"), now_ms() + 3_600_000, &sink.url)).await;
        assert_eq!(code(&answer), Some(0), "{answer:?}");
    }
    let count = rounds(40, 100);
    let filler = "x".repeat(1_000_000);
    let mut tasks = Vec::new();
    for n in 0..count {
        let mut task = once(&format!("large-{n}"), now_ms() + 3_600_000, &sink.url);
        task["callback"]["body"] = json!({ "filler": filler, "n": n });
        let answer = cluster.api.create(http, &task).await;
        assert_eq!(code(&answer), Some(0), "{answer:?}");
        tasks.push(format!("large-{n}"));
    }
    if by_snapshot {
        let leader = &cluster.nodes[leader];
        eventually("a snapshot is taken", READY_MAX, async || leader.log_text().contains("snapshot written")).await;
    }
    let before_kb = memory_peak_kb(cluster.nodes[leader].pid());
    let began = now_ms();
    cluster.nodes[away].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    cluster.caught_up(Duration::from_secs(60)).await;
    let took_ms = now_ms() - began;
    agree(&cluster, &tasks).await;
    assert_eq!(cluster.nodes[away].log_text().contains("snapshot installed"), by_snapshot);
    let peaks = [leader, away].map(|at| memory_peak_kb(cluster.nodes[at].pid()));
    let note = format!(
        "{count} tasks of 1 MB in {took_ms} ms; peak memory of the leader {} MB (before: {} MB), of the other {} MB",
        peaks[0] >> 10,
        before_kb >> 10,
        peaks[1] >> 10
    );
    let way = if by_snapshot { "a snapshot" } else { "the log" };
    println!("\n| a follower was away, and catches up by {way} | 1 | | | | | | | | | {note} |");
    assert!(peaks.iter().all(|kb| *kb <= MEMORY_KB_MAX), "{note}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_much_catches_up_by_the_log() {
    missed(false, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_much_catches_up_by_a_snapshot() {
    let more = "[raft]\nsnapshot_log_bytes = 4194304\n[storage]\nlog_segment_bytes = 2097152\n";
    missed(true, more).await;
}
