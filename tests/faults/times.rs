//! Nodes whose times in `[raft]` differ, as while they are changed node by node.

use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::api::{code, once};
use crate::check::first_fire_after;
use crate::harness::{eventually, now_ms, Cluster, Node, READY_MAX};
use crate::net::Net;
use crate::trial::turn;

/// The node that has longer times than the others. Of two whose logs are alike it is the one that a leader which stops
/// names its successor.
const PATIENT: usize = 2;
const LONG: &str = "heartbeat_ms = 50\nelection_timeout_min_ms = 5000\nelection_timeout_max_ms = 10000\n";
const SHORT: &str = "heartbeat_ms = 50\nelection_timeout_min_ms = 500\nelection_timeout_max_ms = 1000\n";
/// The callbacks: as many as that, at this distance, so that they last for longer than the longest lease.
const CALLBACKS: u64 = 160;
const EVERY_MS: u64 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_longer_times_that_is_cut_off_fires_nothing_beside_its_successor() {
    let _turn = turn().await;
    let dir = TempDir::new().expect("make a directory");
    let Some(net) = Net::new(&dir, 3) else { return };
    let places: Vec<_> = (1..).zip(net.places()).map(|(n, place)| (place, dir.path().join(format!("n{n}")))).collect();
    let mut cluster = Cluster::in_places(dir, &places, &format!("[raft]\n{SHORT}"));
    let conf = &cluster.nodes[PATIENT].conf;
    let text = std::fs::read_to_string(conf).expect("read the configuration").replace(SHORT, LONG);
    std::fs::write(conf, text).expect("write the configuration");
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let (mut leader, mut term) = cluster.leader().await;
    for _ in 0..5 {
        if leader == PATIENT {
            break;
        }
        cluster.nodes[leader].stop().await;
        cluster.nodes[leader].spawn();
        assert!(cluster.all_ready(READY_MAX).await);
        (leader, term) = cluster.leader().await;
    }
    assert_eq!(leader, PATIENT, "the node with the longer times does not come to lead");
    let patient = &cluster.nodes[PATIENT];
    let told = async || patient.log_text().matches("this peer has other times in [raft]").count() == 2;
    eventually("it tells that the two others have other times", READY_MAX, told).await;

    let sink = net.sink().await;
    let first = now_ms() + 1000;
    let task = |n| once(&format!("t{n}"), first + n * EVERY_MS, &sink.url);
    let tasks = json!({ "tasks": (0..CALLBACKS).map(task).collect::<Vec<_>>() });
    let answer = cluster.api.post(patient.ports.http, "/xcron/createTasks", &tasks).await;
    assert_eq!(code(&answer), Some(0), "{answer:?}");
    eventually("it fires", READY_MAX, async || sink.calls().iter().any(|call| call.fence.0 == term)).await;
    net.part(PATIENT, false, false);
    first_fire_after(&sink, term).await;
    let all = Duration::from_secs(30);
    eventually("all callbacks", all, async || sink.by_task().len() as u64 == CALLBACKS).await;
    net.part(PATIENT, true, true);
    assert!(cluster.all_ready(READY_MAX).await);

    let calls = sink.calls();
    let successor = calls.iter().position(|call| call.fence.0 > term).expect("the successor has fired");
    let beside = calls[successor..].iter().filter(|call| call.fence.0 == term).count();
    assert_eq!(beside, 0, "the leader of term {term} has fired beside its successor");
}
