//! A wall clock that jumps.

use crate::check::first_fire_after;
use crate::harness::{sleep_ms, Cluster, Node, READY_MAX};
use crate::machine::{Inner, Slot};
use crate::sink::Sink;
use crate::trial::{rounds, turn, Trial};

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
