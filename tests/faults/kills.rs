//! Processes that die, and processes that stand still.

use crate::check::first_fire_after;
use crate::harness::{now_ms, sleep_ms, Node, READY_MAX};
use crate::sink::Call;
use crate::trial::{is_full, rounds, turn, Trial};

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_the_leader() {
    let _turn = turn().await;
    let mut trial = Trial::of(3, "").await;
    let times = rounds(3, 50);
    let mut first_ms = Vec::new();
    for round in 0..times {
        sleep_ms(1000 + 137 * (round as u64 % 11)).await;
        let (leader, term) = trial.cluster.leader().await;
        let killed_ms = now_ms();
        trial.cluster.nodes[leader].kill();
        first_ms.push(first_fire_after(&trial.sink, term).await.at_ms.saturating_sub(killed_ms));
        sleep_ms(100 * (round as u64 % 7)).await;
        trial.cluster.nodes[leader].spawn();
        assert!(trial.cluster.all_ready(READY_MAX).await, "round {round}");
    }
    first_ms.sort_unstable();
    let (median, most) = (first_ms[times / 2], first_ms[times - 1]);
    let over = first_ms.iter().filter(|ms| **ms > 2000).count();
    let note = format!("next leader's first callback after {median} ms (median), {most} ms (most), {over} over 2 s");
    trial.check_failover("kill -9 of the leader", times, &note).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_all() {
    let _turn = turn().await;
    let mut trial = Trial::of(3, "").await;
    let times = rounds(2, 20);
    for round in 0..times {
        sleep_ms(900 + 137 * (round as u64 % 11)).await;
        trial.cluster.nodes.iter().for_each(|node| node.signal("KILL"));
        trial.cluster.nodes.iter_mut().for_each(Node::kill);
        trial.cluster.nodes.iter_mut().for_each(Node::spawn);
        assert!(trial.cluster.all_ready(READY_MAX).await, "round {round}");
    }
    sleep_ms(500).await;
    trial.check_failover("kill -9 of all three", times, "").await;
}

/// A node that stands still for so long; whether it is the leader.
async fn pauses(times: usize, ms: u64, of_leader: bool) {
    let _turn = turn().await;
    let mut trial = Trial::of(3, "").await;
    for _ in 0..times {
        sleep_ms(1500).await;
        let (leader, term) = trial.cluster.leader().await;
        let node = if of_leader { leader } else { (leader + 1) % 3 };
        let stopped_ms = now_ms();
        trial.cluster.nodes[node].signal("STOP");
        sleep_ms(ms).await;
        let woken_ms = now_ms();
        trial.cluster.nodes[node].signal("CONT");
        if of_leader {
            first_fire_after(&trial.sink, term).await;
            sleep_ms(1500).await;
            // What it sent before may lie with the target already: that is one that was due by then.
            let is_late = |call: &Call| call.fence.0 <= term && call.at_ms >= woken_ms && call.due_ms > stopped_ms + 50;
            let late: Vec<Call> = trial.sink.calls().into_iter().filter(is_late).collect();
            assert!(late.is_empty(), "the old leader of term {term} has fired again: {late:#?}");
        }
        assert!(trial.cluster.all_ready(READY_MAX).await);
    }
    let name = format!("SIGSTOP of {} for {} s", if of_leader { "the leader" } else { "a follower" }, ms / 1000);
    trial.check_failover(&name, times, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_fires_nothing_after_another_leads() {
    pauses(rounds(1, 5), 5000, true).await;
    if is_full() {
        pauses(2, 30_000, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stands_still_holds_up_nobody() {
    pauses(rounds(1, 5), 5000, false).await;
    if is_full() {
        pauses(1, 30_000, false).await;
    }
}
