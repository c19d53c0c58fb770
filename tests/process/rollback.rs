//! A member that is put back from an older copy of its whole directory. What was acknowledged since is lost then, which no
//! node can know. But no node may go on as if nothing had been.

use std::time::Duration;

use crate::api::{code, large, once};
use crate::harness::{copy, eventually, now_ms, Cluster, READY_MAX, SMALL};

const TOLD_MAX: Duration = Duration::from_secs(20);

/// Creates so many tasks, by the node `at`, each of so many bytes.
async fn create(cluster: &Cluster, at: usize, name: &str, (count, bytes): (usize, usize)) {
    for n in 0..count {
        let id = format!("{name}-{n}");
        let task = if bytes == 0 { once(&id, now_ms() + 3_600_000, "http://127.0.0.1:9/") } else { large(&id, bytes) };
        assert_eq!(code(&cluster.api.create(cluster.nodes[at].ports.http, &task).await), Some(0), "{id}");
    }
}

/// Of three nodes one is put back, and one was away: they are a majority that lacks what the third one has. How many tasks
/// are created before they go on, and after, and whose logs are purged by then: of the two, and of the third one.
async fn put_back(more: &str, lost: (usize, usize), after: (usize, usize), purged: (bool, bool)) {
    let mut cluster = Cluster::start(3, more).await;
    let (leader, _) = cluster.leader().await;
    let (follower, away) = ((leader + 1) % 3, (leader + 2) % 3);
    create(&cluster, leader, "before", (5, 0)).await;
    cluster.caught_up(TOLD_MAX).await;
    for at in [away, follower] {
        cluster.nodes[at].kill();
    }
    let older = cluster.path().join("older");
    copy(&cluster.nodes[follower].data, &older);
    cluster.nodes[follower].spawn();
    eventually("two are ready", READY_MAX, async || cluster.nodes[follower].is_ready(&cluster.api).await).await;
    create(&cluster, leader, "lost", lost).await;
    eventually("its log", TOLD_MAX, async || cluster.nodes[leader].log_has_first() != purged.1).await;
    for at in [leader, follower] {
        cluster.nodes[at].kill();
    }
    copy(&older, &cluster.nodes[follower].data);
    for at in [follower, away] {
        cluster.nodes[at].spawn();
    }
    eventually("they are ready", READY_MAX, async || cluster.nodes[follower].is_ready(&cluster.api).await).await;
    create(&cluster, follower, "after", after).await;
    let is_purged = async || [follower, away].iter().all(|at| cluster.nodes[*at].log_has_first() != purged.0);
    eventually("their logs", TOLD_MAX, is_purged).await;

    // Each time that it is started, since what it has is left as it is.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_entries_a_majority_has_lost_says_so_and_keeps_them() {
    put_back("", (50, 0), (20, 0), (false, false)).await;
}

/// What it is sent then is a snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_where_the_majority_has_purged_its_log_meanwhile() {
    put_back(SMALL, (5, 0), (400, 40_000), (true, false)).await;
}

/// Its log has no entry any more with which it could compare what it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_where_it_has_purged_its_own_log() {
    put_back(SMALL, (400, 40_000), (5, 0), (false, true)).await;
}
