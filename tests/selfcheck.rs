//! A replica that does not hold what the others hold: it is found, said, and serves nothing.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use support::{named, now, once, until, Cluster};
use xcron::command::Command;

const NOWHERE: &str = "http://127.0.0.1:9/never";
const FAR_MS: u64 = 3_600_000;

/// Three nodes with some tasks, which look at each other every second.
async fn compared() -> Cluster {
    let cluster = Cluster::three_with(|config| config.storage.check_interval_s = 1).await;
    for i in 0..20 {
        cluster.client(i % 3).create(&named(once(NOWHERE, FAR_MS), &format!("t{i}"))).await;
    }
    cluster.level().await;
    cluster
}

/// Has a node apply what the others do not.
fn corrupt(cluster: &Cluster, node: usize) {
    let pause = Command::Pause { id: "t7".parse().unwrap() };
    cluster.node(node).server().node().machine().with_alarms(|state| state.apply(now(), pause));
}

/// The node's value of `xcron_state_differs`.
async fn differs(cluster: &Cluster, node: usize) -> bool {
    let metrics = cluster.node(node).monitor.plain("/metrics").await.2;
    metrics.lines().any(|line| line == "xcron_state_differs 1")
}

async fn in_doubt(cluster: &Cluster, node: usize) {
    until("a node that finds itself wrong", || async { cluster.node(node).server().node().in_doubt().map(drop) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_hold_the_same_find_no_difference() {
    let cluster = compared().await;
    let checked = |node: usize| cluster.node(node).server().node().machine().watch_checks().borrow().len();
    until("three checks", || async { (0..3).all(|node| checked(node) >= 3).then_some(()) }).await;
    for node in 0..3 {
        assert!(!differs(&cluster, node).await && cluster.node(node).server().node().difference().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_holds_something_else_is_found_and_serves_nothing() {
    let cluster = compared().await;
    let wrong = cluster.followers().await[0];
    corrupt(&cluster, wrong);
    in_doubt(&cluster, wrong).await;
    let (status, _, reason) = cluster.node(wrong).monitor.plain("/readyz").await;
    assert!(status == 503 && reason.contains("holds another state than most"), "{reason}");
    assert!(differs(&cluster, wrong).await);
    let local = cluster.client(wrong).get("/xcron/queryTask?task_id=t7&consistency=local").await;
    local.is(1071, 507, "storage");
    cluster.client(wrong).post("/xcron/createTask", &once(NOWHERE, FAR_MS)).await.is(1071, 507, "storage");
    for sound in (0..3).filter(|node| *node != wrong) {
        assert_eq!(cluster.node(sound).monitor.plain("/readyz").await.0, 200);
        cluster.client(sound).create(&once(NOWHERE, FAR_MS)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_holds_something_else_is_found_and_lets_another_lead() {
    let cluster = compared().await;
    let wrong = cluster.leader().await;
    corrupt(&cluster, wrong);
    in_doubt(&cluster, wrong).await;
    let leader = until("another leader", || async {
        let leader = cluster.leader().await;
        (leader != wrong).then_some(leader)
    })
    .await;
    assert_eq!(cluster.client(leader).task("t7").await["state"], "active");
}
