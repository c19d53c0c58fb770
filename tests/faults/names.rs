//! A name server that is silent, where all is known by name: the nodes, and the targets.

use std::time::Duration;

use crate::api::{code, once};
use crate::harness::{eventually, now_ms, sleep_ms, Cluster, Node, READY_MAX};
use crate::machine::{Inner, Slot};
use crate::sink::Sink;
use crate::trial::turn;

/// Three nodes that know each other by name; none where there is no compiler.
fn named(more: &str) -> Option<(Cluster, Vec<Inner>)> {
    let mut cluster = Cluster::new(3, more);
    let inner = Inner::of_all(&mut cluster, "none")?;
    let peers: Vec<u16> = cluster.nodes.iter().map(|node| node.ports.peer).collect();
    for node in &cluster.nodes {
        let mut text = std::fs::read_to_string(&node.conf).expect("read the configuration");
        for (at, port) in peers.iter().enumerate() {
            text = text.replace(&format!("\"127.0.0.1:{port}\""), &format!("\"node{at}.test:{port}\""));
        }
        std::fs::write(&node.conf, text).expect("write the configuration");
    }
    Some((cluster, inner))
}

/// A write through each of these nodes takes no longer than a call may.
async fn writes_go_on(cluster: &Cluster, name: &str, through: &[usize]) {
    for at in through {
        let task = once(&format!("{name}-{at}"), now_ms() + 3_600_000, "http://127.0.0.1:9/");
        let answer = cluster.api.create(cluster.nodes[*at].ports.http, &task).await;
        assert_eq!(code(&answer), Some(0), "{name} through node {at}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_name_server_is_silent_nodes_come_and_go_and_fire() {
    let _turn = turn().await;
    let Some((mut cluster, inner)) = named("[callback]\nin_flight_max = 2000\n") else { return };
    let sink = Sink::start().await;
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let (leader, _) = cluster.leader().await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    inner.iter().for_each(|inner| inner.set(Slot::NamesSilent, 1));

    // Callbacks to more names than a process has threads that block; reads and writes need some of these threads.
    let port = cluster.nodes[leader].ports.http;
    for n in 0..1000 {
        let task = once(&format!("silent-{n}"), now_ms() + 300, &format!("http://silent-{n}.test:9/"));
        assert_eq!(code(&cluster.api.create(port, &task).await), Some(0));
    }
    sleep_ms(500).await;
    let listed = cluster.api.get(port, "/xcron/listTasks?limit=1&tag=a:b").await;
    assert_eq!(code(&listed), Some(0), "{listed:?}");
    writes_go_on(&cluster, "while-silent", &[0, 1, 2]).await;
    let task = once("by-address", now_ms() + 300, &sink.url);
    assert_eq!(code(&cluster.api.create(port, &task).await), Some(0));
    eventually("a callback to an address", Duration::from_secs(2), async || !sink.of("by-address").is_empty()).await;

    // The nodes reach each other, where they were, after each has lost its connections.
    cluster.nodes[leader].kill();
    writes_go_on(&cluster, "without-leader", &others).await;
    inner[leader].set(Slot::NamesSilent, 0);
    cluster.nodes[leader].spawn();
    assert!(cluster.all_ready(READY_MAX).await, "the node that was away is not reached");
    cluster.caught_up(READY_MAX).await;
    let (second, _) = cluster.leader().await;
    cluster.nodes[second].kill();
    let left: Vec<usize> = (0..3).filter(|at| *at != second).collect();
    writes_go_on(&cluster, "without-second", &left).await;
}
