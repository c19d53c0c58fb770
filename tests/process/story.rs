//! The log tells what becomes of the cluster.

use std::time::Duration;

use crate::api::{code, once};
use crate::harness::{copy, eventually, now_ms, Cluster, Node, Place, Ports, READY_MAX};

const TOLD_MAX: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn every_node_tells_who_leads_and_which_peer_is_lost_and_back() {
    let mut cluster = Cluster::start(3, "").await;
    let (leader, _) = cluster.leader().await;
    let (away, stays) = ((leader + 1) % 3, (leader + 2) % 3);
    let told = |cluster: &Cluster, at: usize, parts: &[&str]| {
        let log = cluster.nodes[at].log_text();
        log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    };
    let address = |cluster: &Cluster, at: usize| format!("127.0.0.1:{}", cluster.nodes[at].ports.peer);
    let (leads, gone) = (address(&cluster, leader), address(&cluster, away));
    for at in 0..3 {
        let role = if at == leader { "\"role\":\"leader\"" } else { "\"role\":\"follower\"" };
        let parts = ["leader elected", &leads, role];
        eventually("it tells who leads", TOLD_MAX, async || told(&cluster, at, &parts) == 1).await;
        assert_eq!(told(&cluster, at, &["\"membership\"", &gone]), 1);
    }
    cluster.nodes[away].kill();
    let lost = ["WARN", "peer lost", &gone, "refused"];
    eventually("it tells of the loss", TOLD_MAX, async || told(&cluster, stays, &lost) == 1).await;
    let before = told(&cluster, stays, &["peer reached", &gone]);
    cluster.nodes[away].spawn();
    let back = ["peer reached", gone.as_str()];
    eventually("it tells of the return", TOLD_MAX, async || told(&cluster, stays, &back) == before + 1).await;
    assert_eq!(told(&cluster, stays, &lost), 1, "once");
    for at in [leader, away] {
        cluster.nodes[at].kill();
    }
    let none = ["WARN", "no leader is known"];
    eventually("it tells that nobody leads", TOLD_MAX, async || told(&cluster, stays, &none) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_has_changed_since_the_cluster_formed_is_told() {
    let mut cluster = Cluster::start(1, "").await;
    cluster.nodes[0].kill();
    let (others, conf) = ([Ports::free().peer, Ports::free().peer], cluster.nodes[0].conf.clone());
    let own = cluster.nodes[0].ports.peer;
    let peers = [own, others[0], others[1]].map(|port| format!("\"127.0.0.1:{port}\"")).join(", ");
    let text = std::fs::read_to_string(&conf).unwrap().replace("peer_hosts = []", &format!("peer_hosts = [{peers}]"));
    std::fs::write(&conf, text).unwrap();
    cluster.nodes[0].spawn();
    let node = &cluster.nodes[0];
    let told = async || node.log_text().contains("peer_hosts differs from the membership");
    eventually("it tells that the list has no effect", TOLD_MAX, told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_on_a_copy_of_a_directory_that_is_in_use_stops() {
    let mut cluster = Cluster::start(3, "").await;
    let (leader, _) = cluster.leader().await;
    let copied = (leader + 1) % 3;
    let task = once("before", now_ms() + 3_600_000, "http://127.0.0.1:9/");
    assert_eq!(code(&cluster.api.create(cluster.nodes[leader].ports.http, &task).await), Some(0));
    let (from, to) = (cluster.nodes[copied].data.clone(), cluster.path().join("copy"));
    // At rest, as who copies a directory would.
    cluster.nodes[copied].kill();
    copy(&from, &to);
    cluster.nodes[copied].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let peers: Vec<String> = cluster.nodes.iter().map(|node| format!("127.0.0.1:{}", node.ports.peer)).collect();
    let mut second = Node::new(cluster.path(), "copy-of", &to, (Place::here(), Ports::free()), &peers, "");
    let text = std::fs::read_to_string(&second.conf).unwrap();
    std::fs::write(&second.conf, format!("advertise = \"{}\"\n{text}", peers[copied])).unwrap();
    second.spawn();
    let status = second.exit(TOLD_MAX).await;
    assert_eq!(status.code(), Some(1), "{}", second.log_text());
    assert!(second.log_text().contains("another process acts as node"), "{}", second.log_text());
    assert!(cluster.all_ready(READY_MAX).await, "the first one goes on");
}
