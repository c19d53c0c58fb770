//! A replica that does not hold what the others hold: it is found, serves nothing, and gets the state of one that does.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::{Arc, OnceLock};

use support::{named, now, once, until, Cluster};
use tempfile::NamedTempFile;
use xcron::command::Command;
use xcron::storage::doubt;

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

/// Waits until the node has found itself wrong, and has the state of another node.
async fn replaced(cluster: &Cluster, node: usize) {
    let machine = cluster.node(node).server().node().machine();
    until("the state of another node", || async { (machine.figures().snapshots_installed > 0).then_some(()) }).await;
    cluster.node(node).await_ready().await;
    assert!(!differs(cluster, node).await);
    let local = cluster.client(node).get("/xcron/queryTask?task_id=t7&consistency=local").await.ok();
    assert_eq!(local["state"], "active");
    // The next checks say so too.
    let checks = || machine.watch_checks().borrow().back().map_or(0, |checked| checked.at);
    let last = checks();
    until("another check", || async { (checks() > last).then_some(()) }).await;
    assert_eq!(machine.figures().snapshots_installed, 1);
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
async fn a_follower_that_holds_something_else_is_found_and_gets_the_state_of_the_leader() {
    let cluster = compared().await;
    let wrong = cluster.followers().await[0];
    corrupt(&cluster, wrong);
    replaced(&cluster, wrong).await;
    // What is written from now on it applies as before.
    let id = cluster.client(wrong).create(&once(NOWHERE, FAR_MS)).await;
    cluster.client(wrong).task(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_holds_something_else_is_found_and_lets_another_lead() {
    let cluster = compared().await;
    let wrong = cluster.leader().await;
    corrupt(&cluster, wrong);
    replaced(&cluster, wrong).await;
    for node in 0..3 {
        assert_eq!(cluster.client(node).task("t7").await["state"], "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_doubt_serves_nothing_until_it_has_the_state_of_another_node() {
    let mut cluster = compared().await;
    for i in 0..3 {
        cluster.crash(i).await;
    }
    doubt::mark(&cluster.path(0), "this node holds another state than most").unwrap();
    cluster.start(0).await;
    let (status, _, reason) = cluster.node(0).monitor.plain("/readyz").await;
    assert!(status == 503 && reason.contains("another state than most"), "{reason}");
    assert!(differs(&cluster, 0).await);
    let local = cluster.client(0).get("/xcron/queryTask?task_id=t7&consistency=local").await;
    local.is(1071, 507, "storage");
    cluster.client(0).post("/xcron/createTask", &once(NOWHERE, FAR_MS)).await.is(1071, 507, "storage");

    cluster.start(1).await;
    cluster.start(2).await;
    assert_ne!(cluster.leader().await, 0);
    replaced(&cluster, 0).await;
    assert_eq!(doubt::read(&cluster.path(0)).unwrap(), None);
}

/// What a node does not apply, openraft keeps in memory once it is committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_applies_nothing_takes_only_so_many_entries_and_goes_on_later() {
    const BODY: usize = 100_000;
    const MAX: usize = 1 << 20;
    let cluster = Cluster::three_with(|config| {
        config.storage.checkpoint_bytes = MAX / 4;
        config.storage.unsaved_bytes_max = MAX;
    })
    .await;
    let (leader, held) = (cluster.leader().await, cluster.followers().await[0]);
    let machine = cluster.node(held).server().node().machine();
    let last_log =
        |node: usize| cluster.node(node).server().node().watch().borrow().as_ref().and_then(|m| m.last_log_index);
    let before = last_log(held).unwrap();
    machine.hold(true);
    let create = async |count: usize| {
        for _ in 0..count {
            let mut task = once(NOWHERE, FAR_MS);
            task["callback"]["body"] = "x".repeat(BODY).into();
            cluster.client(leader).create(&task).await;
        }
    };
    create(50).await;
    let lag = || last_log(leader).unwrap() - last_log(held).unwrap();
    until("messages that are refused", || async { (lag() > 20).then_some(()) }).await;
    create(20).await;
    until("that the leader tells it", || async { (last_log(leader).unwrap() >= before + 70).then_some(()) }).await;
    let bytes = (last_log(held).unwrap() - before) as usize * BODY;
    assert!((MAX..2 * MAX).contains(&bytes), "{bytes} bytes wait in memory");

    machine.hold(false);
    cluster.level().await;
    until("the same end", || async { (lag() == 0).then_some(()) }).await;
    // Held again, it takes as much again.
    machine.hold(true);
    create(1).await;
    until("an entry that is taken", || async { (last_log(held) > Some(before + 70) && lag() == 0).then_some(()) })
        .await;
    machine.hold(false);
}

/// Neither can lead otherwise: one misses entries, and the other must not act as a leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_doubt_with_the_longest_log_passes_it_on_and_another_leads() {
    let mut cluster = compared().await;
    let (dead, behind) = (cluster.leader().await, cluster.followers().await[0]);
    let doubtful = 3 - dead - behind;
    cluster.crash(behind).await;
    let mut tasks = Vec::new();
    for _ in 0..10 {
        tasks.push(cluster.client(doubtful).create(&once(NOWHERE, FAR_MS)).await);
    }
    cluster.level().await;
    cluster.crash(dead).await;
    cluster.crash(doubtful).await;
    doubt::mark(&cluster.path(doubtful), "this node holds another state than most").unwrap();

    cluster.start(behind).await;
    cluster.start(doubtful).await;
    assert_eq!(cluster.leader().await, behind);
    replaced(&cluster, doubtful).await;
    for id in tasks {
        cluster.client(behind).task(&id).await;
        cluster.client(doubtful).task(&id).await;
    }
}

/// What the nodes of this process log at level ERROR, from the first call on.
fn logged() -> String {
    static LOG: OnceLock<NamedTempFile> = OnceLock::new();
    let begin = || {
        let file = NamedTempFile::new().unwrap();
        let writer = Arc::new(file.reopen().unwrap());
        tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::ERROR).with_writer(writer).init();
        file
    };
    std::fs::read_to_string(LOG.get_or_init(begin).path()).unwrap()
}

/// To serve nothing at all would be worse than to serve what may be wrong: both say so, and go on.
#[tokio::test(flavor = "multi_thread")]
async fn where_no_majority_can_tell_which_state_is_right_both_say_so_and_serve() {
    logged();
    let mut cluster = compared().await;
    let (leader, dead) = (cluster.leader().await, cluster.followers().await[0]);
    let wrong = 3 - leader - dead;
    cluster.crash(dead).await;
    corrupt(&cluster, wrong);
    for node in [leader, wrong] {
        // The third is waited for before there is a verdict.
        until("a difference that is told", || async { differs(&cluster, node).await.then_some(()) }).await;
        let (status, _, told) = cluster.node(node).monitor.plain("/readyz").await;
        assert!(
            status == 200 && told.contains("no majority can tell which is right, at log entry"),
            "{status}: {told}"
        );
        let id = cluster.client(node).create(&once(NOWHERE, FAR_MS)).await;
        cluster.client(node).task(&id).await;
        assert!(doubt::read(&cluster.path(node)).unwrap().is_none(), "nobody knows that it is this one");
        let log = logged();
        let told = told.split("tell which is right, ").nth(1).and_then(|told| told.split('"').next()).unwrap();
        let mut lines = log.lines().filter(|line| line.contains(told));
        assert!(
            lines.any(|line| line.contains("no majority can tell which is right")),
            "{told} is not in the log: {log}"
        );
    }
    // The third tells which is right.
    cluster.start(dead).await;
    replaced(&cluster, wrong).await;
    until("no difference", || async { (!differs(&cluster, leader).await).then_some(()) }).await;
    let (status, _, told) = cluster.node(leader).monitor.plain("/readyz").await;
    assert!(status == 200 && !told.contains("majority"), "{status}: {told}");
}
