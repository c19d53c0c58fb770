//! Links that carry a part of what is sent: short frames alone (a wrong MTU), or nothing to a node's `peer_port` (a
//! firewall). Signs of life go on, and a leader that gets nothing done with them gives way.

use std::time::Duration;

use crate::api::{code, large, once};
use crate::harness::{eventually, holds_within, now_ms, Cluster, Node, READY_MAX};
use crate::net::{apart, Net};
use crate::trial::turn;

/// By when another node leads; what is aimed at is 10 s, on a machine that is not busy.
const GIVES_WAY_MAX: Duration = Duration::from_secs(15);
/// The longest frame that passes a link whose MTU is wrong.
const SHORT: u32 = 1000;

/// Three nodes that are ready, and their network.
async fn ready() -> Option<(Cluster, Net)> {
    let (mut cluster, net) = apart("")?;
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    Some((cluster, net))
}

fn others_of(node: usize) -> [usize; 2] {
    [(node + 1) % 3, (node + 2) % 3]
}

/// How the links of a node to and from the others are barred.
#[derive(Clone, Copy, Debug)]
enum Bar {
    /// What it sends must be short.
    Out,
    /// What it sends and is sent must be short.
    Both,
    /// Nothing reaches its `peer_port`.
    Port,
    Nothing,
}

fn bar(cluster: &Cluster, net: &Net, node: usize, how: Bar) {
    let port = cluster.nodes[node].ports.peer;
    for other in others_of(node) {
        let (out, into, port) = match how {
            Bar::Out => (SHORT, 0, 0),
            Bar::Both => (SHORT, SHORT, 0),
            Bar::Port => (0, 0, port),
            Bar::Nothing => (0, 0, 0),
        };
        net.bar(node, other, out, 0);
        net.bar(other, node, into, port);
    }
}

async fn reason(cluster: &Cluster, at: usize) -> String {
    cluster.api.text(cluster.nodes[at].ports.monitor, "/readyz").await.map_or_else(|e| e, |(_, text)| text)
}

/// The leader's links are barred: another leads, writes and fires; the old one says what it has, does not lead again while
/// it lasts, and is well afterwards.
async fn another_leads(how: Bar) {
    let _turn = turn().await;
    let Some((mut cluster, net)) = ready().await else { return };
    let sink = net.sink().await;
    let (leader, _) = cluster.leader().await;
    let through = others_of(leader)[0];
    bar(&cluster, &net, leader, how);
    let began = now_ms();
    let mut n = 0;
    let replaced = holds_within(GIVES_WAY_MAX, async || {
        n += 1;
        let task = large(&format!("meanwhile-{n}"), 8000);
        let api = cluster.api.waiting(Duration::from_secs(1));
        // Whatever comes of it: it is in the leader's log.
        let _ = api.create(cluster.nodes[leader].ports.http, &task).await;
        cluster.leader_as_seen_by(through).await.is_some_and(|leads| leads != leader)
    })
    .await;
    assert!(replaced, "{how:?}: node {leader} leads on; it says {}", reason(&cluster, leader).await);
    println!("{how:?}: another leads after {} ms", now_ms() - began);
    for at in others_of(leader) {
        let mut task = once(&format!("after-{at}"), now_ms() + 1000, &sink.url);
        task["callback"]["body"]["filler"] = "x".repeat(8000).into();
        let answer = cluster.api.create(cluster.nodes[at].ports.http, &task).await;
        assert_eq!(code(&answer), Some(0), "{how:?}: through node {at}: {answer:?}");
        let id = format!("after-{at}");
        eventually("it fires", GIVES_WAY_MAX, async || !sink.of(&id).is_empty()).await;
        assert!(cluster.nodes[at].is_ready(&cluster.api).await, "{}", reason(&cluster, at).await);
    }
    assert_eq!(cluster.metric(leader, "xcron_links_fault").await, Some(1.0));
    assert!(reason(&cluster, leader).await.contains("links_"), "{}", reason(&cluster, leader).await);
    let (_, term) = cluster.leader().await;
    let led = || cluster.nodes[leader].log_text().matches("standing for election").count();
    let stood = led();
    let again = holds_within(Duration::from_secs(6), async || {
        let view = cluster.view(through).await.unwrap_or_default();
        view["term"].as_u64().is_some_and(|now| now != term)
    });
    assert!(!again.await, "{how:?}: there was another election");
    assert_eq!(led(), stood, "{how:?}: it stands again");
    bar(&cluster, &net, leader, Bar::Nothing);
    assert!(cluster.all_ready(READY_MAX).await, "{how:?}: {}", reason(&cluster, leader).await);
    cluster.caught_up(Duration::from_secs(20)).await;
    assert_eq!(cluster.metric(leader, "xcron_links_fault").await, Some(0.0));
    cluster.nodes.iter_mut().for_each(|node| assert!(!node.has_ended()));
    drop((cluster, net));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_full_frames_are_lost_gives_way() {
    another_leads(Bar::Out).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_to_and_from_which_full_frames_are_lost_gives_way() {
    another_leads(Bar::Both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_the_others_cannot_connect_to_gives_way() {
    another_leads(Bar::Port).await;
}

/// Whichever would lead first: what the others claim does not reach it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_formed_where_one_node_cannot_be_connected_to() {
    let _turn = turn().await;
    for shut in 0..3 {
        let Some((mut cluster, net)) = apart("") else { return };
        bar(&cluster, &net, shut, Bar::Port);
        cluster.nodes.iter_mut().for_each(Node::spawn);
        for at in others_of(shut) {
            eventually("the cluster is formed", READY_MAX, async || cluster.nodes[at].is_ready(&cluster.api).await)
                .await;
            let answer = cluster.api.create(cluster.nodes[at].ports.http, &large(&format!("through-{at}"), 100)).await;
            assert_eq!(code(&answer), Some(0), "{answer:?}");
        }
        bar(&cluster, &net, shut, Bar::Nothing);
        assert!(cluster.all_ready(READY_MAX).await, "{}", reason(&cluster, shut).await);
        drop((cluster, net));
    }
}

/// Nobody is better off, and nobody says that all is well. It is over once the links are right again.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_among_which_no_full_frame_passes_say_so() {
    let _turn = turn().await;
    let Some((cluster, net)) = ready().await else { return };
    let (_, term) = cluster.leader().await;
    let all = |how| (0..3).for_each(|node| bar(&cluster, &net, node, how));
    all(Bar::Both);
    for at in 0..3 {
        eventually("it says so", GIVES_WAY_MAX, async || reason(&cluster, at).await.contains("links_out")).await;
    }
    assert_eq!(cluster.leader().await.1, term, "there was an election, and no node is better off");
    all(Bar::Nothing);
    assert!(cluster.all_ready(READY_MAX).await);
    let answer = cluster.api.create(cluster.nodes[0].ports.http, &large("afterwards", 8000)).await;
    assert_eq!(code(&answer), Some(0), "{answer:?}");
    drop((cluster, net));
}
