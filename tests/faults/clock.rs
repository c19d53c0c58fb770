//! A wall clock that jumps.

use crate::check::first_fire_after;
use crate::harness::{now_ms, sleep_ms, Cluster, Node, READY_MAX};
use crate::machine::{Inner, Slot};
use crate::sink::Sink;
use crate::trial::{rounds, turn, Trial};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_set_to_before_1970_says_so_and_ends() {
    let _turn = turn().await;
    let mut cluster = Cluster::new(1, "");
    let Some(inner) = Inner::of_all(&mut cluster, "none") else { return };
    inner[0].set(Slot::ClockS, -(now_ms() as i64 / 1000) - 86_400);
    let node = &mut cluster.nodes[0];
    node.spawn();
    let status = node.exit(READY_MAX).await;
    assert_eq!(status.code(), Some(1), "{}", node.log_text());
    assert!(node.log_text().contains("the wall clock is set to before 1970"), "{}", node.log_text());
    inner[0].set(Slot::ClockS, 0);
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_jumps_by_an_hour_lets_another_lead() {
    let _turn = turn().await;
    let mut cluster = Cluster::new(3, "");
    let Some(inner) = Inner::of_all(&mut cluster, "none") else { return };
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let mut trial = Trial::start(cluster, Sink::start().await);
    for (name, seconds) in [("the leader's clock an hour ahead", 3600), ("the leader's clock an hour behind", -3600)] {
        let times = rounds(1, 5);
        for _ in 0..times {
            sleep_ms(1500).await;
            let (leader, term) = trial.cluster.leader().await;
            inner[leader].set(Slot::ClockS, seconds);
            first_fire_after(&trial.sink, term).await;
            sleep_ms(3000).await;
            inner[leader].set(Slot::ClockS, 0);
            assert!(trial.cluster.all_ready(READY_MAX).await);
        }
        trial.check_failover(name, times, "").await;
        trial.again();
    }
    trial.load.stop().await;
}
