//! A member that is put back from an older copy of its whole directory. What was acknowledged since is lost then, which no
//! node can know. But no node may go on as if nothing had been.

use std::time::Duration;

use crate::api::{code, once};
use crate::harness::{copy, eventually, now_ms, Cluster, READY_MAX};

const TOLD_MAX: Duration = Duration::from_secs(20);

async fn create(cluster: &Cluster, at: usize, name: &str, count: usize) {
    for n in 0..count {
        let task = once(&format!("{name}-{n}"), now_ms() + 3_600_000, "http://127.0.0.1:9/");
        assert_eq!(code(&cluster.api.create(cluster.nodes[at].ports.http, &task).await), Some(0), "{name}-{n}");
    }
}

/// Of three nodes one was put back, and one was away: they are a majority that lacks what the third one has.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_entries_a_majority_has_lost_says_so_and_keeps_them() {
    let mut cluster = Cluster::start(3, "").await;
    let (leader, _) = cluster.leader().await;
    let (follower, away) = ((leader + 1) % 3, (leader + 2) % 3);
    create(&cluster, leader, "before", 5).await;
    cluster.caught_up(TOLD_MAX).await;
    for at in [away, follower] {
        cluster.nodes[at].kill();
    }
    let older = cluster.path().join("older");
    copy(&cluster.nodes[follower].data, &older);
    cluster.nodes[follower].spawn();
    eventually("two are ready", READY_MAX, async || cluster.nodes[follower].is_ready(&cluster.api).await).await;
    create(&cluster, leader, "lost", 50).await;
    for at in [leader, follower] {
        cluster.nodes[at].kill();
    }
    copy(&older, &cluster.nodes[follower].data);
    for at in [follower, away] {
        cluster.nodes[at].spawn();
    }
    eventually("they are ready", READY_MAX, async || cluster.nodes[follower].is_ready(&cluster.api).await).await;
    create(&cluster, follower, "after", 20).await;

    // Each time that it is started, since its log is not cut off.
    for times in 1..=2 {
        cluster.nodes[leader].spawn();
        let status = cluster.nodes[leader].exit(TOLD_MAX).await;
        let log = cluster.nodes[leader].log_text();
        assert_eq!(status.code(), Some(1), "{log}");
        let told = ["this node stops", "was put back from an older copy"];
        let lines = log.lines().filter(|line| told.iter().all(|part| line.contains(part)));
        assert!(lines.count() == times && !log.contains("panicked at"), "{log}");
    }
    for at in [follower, away] {
        assert!(cluster.nodes[at].is_ready(&cluster.api).await, "the others go on");
    }
}
