//! Outcomes that cannot be recorded for some seconds, since no majority is there to record them.
//!
//! The next leader makes up for an outcome that was lost: it sends the callback again, and that ends well. So it is not
//! enough that each run has succeeded: the attempt that is recorded must be the one that was under way when the majority
//! went away.

use serde_json::Value;

use crate::api::{code, once};
use crate::beside::Ticks;
use crate::harness::{eventually, now_ms, sleep_ms, Cluster, READY_MAX};
use crate::sink::Sink;
use crate::trial::turn;

const TASKS: usize = 60;

/// What the history has of a task's only run, once it has ended.
async fn ended(cluster: &Cluster, id: &str) -> Option<Vec<Value>> {
    let port = cluster.nodes[0].ports.http;
    let task = cluster.api.query(port, id).await.ok()?.1;
    let runs = cluster.api.get(port, &format!("/xcron/listRuns?task_id={id}")).await.ok()?.1;
    (task["data"]["state"] == "finished").then(|| runs["data"]["runs"].as_array().cloned()).flatten()
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_come_while_both_followers_stand_still_are_recorded_once() {
    let _turn = turn().await;
    let cluster = Cluster::start(3, "").await;
    // Long enough that all are under way before the first ends.
    let (slow, quick) = (Sink::start_slow(1500).await, Sink::start().await);
    let ticks = Ticks::start(&cluster, &quick, 3).await;
    let (leader, _) = cluster.leader().await;
    let due_ms = now_ms() + 2000;
    let ids: Vec<String> = (0..TASKS).map(|n| format!("once-{n}")).collect();
    for id in &ids {
        let answer = cluster.api.create(cluster.nodes[leader].ports.http, &once(id, due_ms, &slow.url)).await;
        assert_eq!(code(&answer), Some(0), "{answer:?}");
    }
    eventually("all callbacks are under way", READY_MAX, async || slow.calls().len() >= TASKS).await;
    let away_ms = now_ms();
    let followers: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    followers.iter().for_each(|node| cluster.nodes[*node].signal("STOP"));
    // The callbacks end in the middle of it, and the first attempts to record that are given up before it is over.
    sleep_ms(8000).await;
    followers.iter().for_each(|node| cluster.nodes[*node].signal("CONT"));
    assert!(cluster.all_ready(READY_MAX).await);

    for id in &ids {
        eventually("its run has ended", READY_MAX, async || ended(&cluster, id).await.is_some()).await;
        let runs = ended(&cluster, id).await.unwrap_or_default();
        assert!(runs.len() == 1 && runs[0]["state"] == "succeeded", "{id}: {runs:?}");
        let attempts = runs[0]["attempts"].as_array().cloned().unwrap_or_default();
        let first = attempts.first().is_some_and(|a| a["status"] == 200 && a["started_ms"].as_u64() < Some(away_ms));
        assert!(first && attempts.len() == 1, "{id}: its outcome is that of a later attempt: {runs:?}");
        let calls = slow.of(id);
        assert!(
            !calls.is_empty() && calls.iter().all(|call| runs[0]["run_id"] == call.run.as_str()),
            "{id}: {calls:?}"
        );
        let task = cluster.api.query(cluster.nodes[0].ports.http, id).await;
        assert_eq!(task.map(|(_, body)| body["data"]["run_count"].clone()), Ok(1.into()), "{id}");
    }
    let runs = ticks.check(&cluster, &quick, "both followers stand still").await;
    let again = slow.calls().len() - TASKS;
    println!("\n| outcomes while both followers stand still | 1 | {TASKS} and {runs} runs, each recorded once; {again} sent again |");
}
