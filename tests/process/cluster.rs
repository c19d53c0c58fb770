//! Three nodes as processes.

use std::time::Duration;

use serde_json::json;

use crate::api::{code, large, once};
use crate::check::{agree, first_fire_after, sample, CATCH_UP_MAX, SETTLE_MAX};
use crate::harness::{eventually, now_ms, sleep_ms, Cluster, READY_MAX, SMALL};
use crate::load::{Load, Shape};
use crate::sink::Sink;

/// The first callback of a new leader, after the old one was told to stop.
const HANDOVER_MS_MAX: u64 = 1500;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_in_any_order_form_a_cluster_and_fire_on_time() {
    let mut cluster = Cluster::new(3, "");
    let sink = Sink::start().await;
    cluster.nodes[2].spawn();
    sleep_ms(700).await;
    assert!(!cluster.nodes[2].is_ready(&cluster.api).await, "one of three is no majority");
    let early = cluster.api.create(cluster.nodes[2].ports.http, &once("early", now_ms() + 60_000, &sink.url)).await;
    assert_eq!(code(&early), Some(1050), "{early:?}");
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await, "two of three are a majority");
    cluster.nodes[1].spawn();
    assert!(cluster.all_ready(READY_MAX).await);

    const EACH: usize = 60;
    let mut due_of = std::collections::HashMap::new();
    for n in 0..EACH {
        for (at, node) in cluster.nodes.iter().enumerate() {
            let (id, due) = (format!("t-{at}-{n}"), now_ms() + 2000 + 37 * (n as u64 % 40));
            let answer = cluster.api.create(node.ports.http, &once(&id, due, &sink.url)).await;
            assert_eq!(code(&answer), Some(0), "{answer:?}");
            due_of.insert(id, due);
        }
    }
    eventually("all have fired", Duration::from_secs(20), async || sink.by_task().len() == due_of.len()).await;
    sleep_ms(500).await;
    let mut lateness: Vec<u64> = Vec::new();
    for (id, calls) in sink.by_task() {
        assert_eq!(calls.len(), 1, "{id} fired more than once: {calls:#?}");
        assert!(calls[0].at_ms >= due_of[&id], "{id} fired early: {calls:?}");
        lateness.push(calls[0].at_ms - due_of[&id]);
    }
    lateness.sort_unstable();
    let at = |share: usize| lateness[(lateness.len() - 1) * share / 100];
    println!("lateness of {} callbacks: p50 {} ms, p99 {} ms, worst {} ms", lateness.len(), at(50), at(99), at(100));
    assert!(at(100) <= 1000, "{lateness:?}");
    cluster.caught_up(CATCH_UP_MAX).await;
    agree(&cluster, &sample(due_of.into_keys().collect(), 30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_that_are_gone_stop_all_writes_and_fires_until_one_is_back() {
    let mut cluster = Cluster::start(3, "").await;
    let sink = Sink::start().await;
    let (leader, _) = cluster.leader().await;
    let alone = (leader + 1) % 3;
    let http = cluster.nodes[alone].ports.http;
    let due = now_ms() + 1500;
    assert_eq!(code(&cluster.api.create(http, &once("gap", due, &sink.url)).await), Some(0));
    for at in (0..3).filter(|at| *at != alone) {
        cluster.nodes[at].kill();
    }
    let began = now_ms();
    let answer = cluster.api.create(http, &once("none", now_ms() + 60_000, &sink.url)).await;
    let took = now_ms() - began;
    assert!(matches!(code(&answer), Some(1050 | 1051)), "{answer:?}");
    assert!(took < 6000, "it took {took} ms");
    assert_eq!(code(&cluster.api.query(http, "gap").await), Some(1050), "a read without a majority");
    assert_eq!(code(&cluster.api.query_local(http, "gap").await), Some(0), "a local read");
    assert!(!cluster.nodes[alone].is_ready(&cluster.api).await);
    assert!(now_ms() > due && sink.of("gap").is_empty(), "one of three fires nothing");
    cluster.nodes[leader].spawn();
    eventually("it fires late", Duration::from_secs(15), async || !sink.of("gap").is_empty()).await;
    assert!(cluster.all_ready(READY_MAX).await);
    sleep_ms(500).await;
    assert_eq!(sink.of("gap").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_hang_on_a_leader_that_stands_still_are_done_by_the_next() {
    let cluster = Cluster::start(3, "").await;
    let (leader, _) = cluster.leader().await;
    let others: Vec<u16> = (0..3).filter(|at| *at != leader).map(|at| cluster.nodes[at].ports.http).collect();
    let due = now_ms() + 3_600_000;
    let url = "http://127.0.0.1:9/";
    assert_eq!(code(&cluster.api.create(others[0], &once("known", due, url)).await), Some(0));
    cluster.nodes[leader].signal("STOP");
    // One after the other, so that they do not travel together: more than a follower has on its way at once.
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (api, port) = (cluster.api.clone(), others[n % 2]);
        calls.spawn(async move { api.create(port, &once(&format!("hung-{n}"), due, url)).await });
        let (api, port) = (cluster.api.clone(), others[n % 2]);
        calls.spawn(async move { api.query(port, "known").await });
        sleep_ms(10).await;
    }
    let answers = calls.join_all().await;
    let bad: Vec<_> = answers.iter().filter(|answer| code(answer) != Some(0)).collect();
    assert!(bad.is_empty(), "{} of {} were not done: {bad:#?}", bad.len(), answers.len());
    cluster.nodes[leader].signal("CONT");
    assert!(cluster.all_ready(READY_MAX).await);
}

/// While a callback is under way it goes on serving its port.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_passes_calls_of_its_own_port_on_or_refuses_them_at_once() {
    const AT_ONCE_MS: u64 = 1500;
    let mut cluster = Cluster::start(3, "").await;
    let sink = Sink::start_slow(3000).await;
    let (leader, _) = cluster.leader().await;
    let own = cluster.nodes[leader].ports.http;
    assert_eq!(code(&cluster.api.create(own, &once("slow", now_ms() + 500, &sink.url)).await), Some(0));
    eventually("it is under way", Duration::from_secs(10), async || !sink.of("slow").is_empty()).await;
    cluster.nodes[leader].signal("TERM");
    let (mut taken, mut refused) = (Vec::new(), 0);
    for n in 0.. {
        let (id, began) = (format!("own-{n}"), now_ms());
        let created = cluster.api.create(own, &once(&id, began + 3_600_000, "http://127.0.0.1:9/")).await;
        let read = cluster.api.query(own, "slow").await;
        let took = now_ms() - began;
        assert!(took < 2 * AT_ONCE_MS, "{took} ms: {created:?} {read:?}");
        match code(&created) {
            Some(0) => taken.push(id),
            Some(1050) | None => refused += 1,
            Some(_) => panic!("{created:?}"),
        }
        assert!(matches!(code(&read), Some(0 | 1050) | None), "{read:?}");
        if cluster.nodes[leader].has_ended() {
            break;
        }
        sleep_ms(20).await;
    }
    println!("{} were taken, {refused} refused", taken.len());
    assert_eq!(cluster.nodes[leader].exit(Duration::from_secs(1)).await.code(), Some(0));
    assert!(taken.len() > 10, "it passed on {} calls", taken.len());
    let other = cluster.nodes[(leader + 1) % 3].ports.http;
    for id in &taken {
        assert_eq!(code(&cluster.api.query(other, id).await), Some(0), "{id} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_node_of_a_cluster_that_stops_waits_for_no_other() {
    // Its lease outlives the others, so that it leads when it is told to stop.
    let raft = "[raft]\nelection_timeout_min_ms = 5000\nelection_timeout_max_ms = 10000\n";
    let mut cluster = Cluster::start(3, raft).await;
    let (leader, _) = cluster.leader().await;
    for at in (0..3).filter(|at| *at != leader) {
        cluster.nodes[at].kill();
    }
    let began = now_ms();
    assert_eq!(cluster.nodes[leader].stop().await, Some(0));
    let (took, log) = (now_ms() - began, cluster.nodes[leader].log_text());
    assert!(log.contains("no other node is there to take the lead"), "it did not lead any more:\n{log}");
    assert!(took < 5000 && !log.contains("no other node has taken the lead"), "{took} ms:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_of_the_leader_hands_over() {
    // A leader that merely fell silent would be missed after three seconds.
    let raft = "[raft]\nelection_timeout_min_ms = 3000\nelection_timeout_max_ms = 9000\n";
    let mut cluster = Cluster::start(3, raft).await;
    let sink = Sink::start().await;
    let (leader, term) = cluster.leader().await;
    let others: Vec<u16> = (0..3).filter(|at| *at != leader).map(|at| cluster.nodes[at].ports.http).collect();
    let mut load = Load::start(&cluster.api, &others, &sink, Shape { workers: 4, ..Shape::default() });
    eventually("callbacks come", Duration::from_secs(20), async || sink.calls().len() >= 20).await;
    let stopped = now_ms();
    assert_eq!(cluster.nodes[leader].stop().await, Some(0));
    println!("the leader took {} ms to stop", now_ms() - stopped);
    let first = first_fire_after(&sink, term).await;
    println!("the first fire of the next leader came {} ms after SIGTERM", first.at_ms - stopped);
    assert!(first.at_ms - stopped <= HANDOVER_MS_MAX, "{first:?}");
    cluster.nodes[leader].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let report = load.settle(SETTLE_MAX).await;
    report.check("SIGTERM of the leader");
    assert_eq!(report.duplicates, 0, "{report}");
}

/// So many one-shots of which the leader has all under way.
async fn under_way(cluster: &Cluster, slow: &Sink, count: usize) {
    let due = now_ms() + 1500;
    for n in 0..count {
        let http = cluster.nodes[n % 3].ports.http;
        let answer = cluster.api.create(http, &once(&format!("slow-{n}"), due, &slow.url)).await;
        assert_eq!(code(&answer), Some(0), "{answer:?}");
    }
    eventually("all are under way", Duration::from_secs(10), async || slow.calls().len() >= count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_leader_has_under_way_as_it_stops_is_not_sent_again() {
    const SLOW: usize = 60;
    let mut cluster = Cluster::start(3, "").await;
    let slow = Sink::start_slow(3000).await;
    let (leader, _) = cluster.leader().await;
    under_way(&cluster, &slow, SLOW).await;
    assert_eq!(cluster.nodes[leader].stop().await, Some(0));
    let http = cluster.nodes[(leader + 1) % 3].ports.http;
    for n in 0..SLOW {
        let task = cluster.api.query(http, &format!("slow-{n}")).await.unwrap().1;
        assert_eq!((&task["data"]["run_count"], &task["data"]["last_run"]["state"]), (&json!(1), &json!("succeeded")));
    }
    // The next leader looks every 2 s for runs that nobody sends.
    sleep_ms(2500).await;
    assert_eq!(slow.calls().len(), SLOW, "each was sent once");
    for other in (0..3).filter(|at| *at != leader) {
        let log = cluster.nodes[other].log_text();
        assert!(log.contains("leader elected") && !log.contains("does not answer; what it had under way"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_leader_had_under_way_that_dies_as_it_stops_is_sent_again() {
    const SLOW: usize = 20;
    let mut cluster = Cluster::start(3, "").await;
    let slow = Sink::start_slow(4000).await;
    let (leader, _) = cluster.leader().await;
    under_way(&cluster, &slow, SLOW).await;
    cluster.nodes[leader].signal("TERM");
    let told = "leave the callbacks that are under way";
    eventually(told, Duration::from_secs(5), async || cluster.nodes[leader].log_text().contains(told)).await;
    cluster.nodes[leader].kill();
    eventually("all are sent again", Duration::from_secs(10), async || slow.calls().len() == 2 * SLOW).await;
    let by_task = slow.by_task();
    assert!(by_task.values().all(|calls| calls.len() == 2 && calls[0].run == calls[1].run), "{by_task:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_does_not_wait_for_calls_that_wait_for_a_leader() {
    let mut cluster = Cluster::start(3, "").await;
    let (leader, _) = cluster.leader().await;
    let alone = (leader + 1) % 3;
    let (http, monitor) = (cluster.nodes[alone].ports.http, cluster.nodes[alone].ports.monitor);
    for at in (0..3).filter(|at| *at != alone) {
        cluster.nodes[at].kill();
    }
    eventually("no leader is heard", Duration::from_secs(10), async || {
        cluster.api.status(monitor, "/readyz").await == Some(503)
    })
    .await;
    let (api, stopped) = (cluster.api.clone(), now_ms());
    let create =
        tokio::spawn(async move { api.create(http, &once("w", now_ms() + 60_000, "http://127.0.0.1:9")).await });
    let api = cluster.api.clone();
    let query = tokio::spawn(async move { api.query(http, "w").await });
    sleep_ms(200).await;
    assert!(!create.is_finished() && !query.is_finished(), "they wait, as long as a call may take");
    assert_eq!(cluster.nodes[alone].stop().await, Some(0));
    let took = now_ms() - stopped;
    assert!(took < 3000, "a call may take 5 s, and the end took {took} ms");
    for answer in [create.await.unwrap(), query.await.unwrap()] {
        assert_eq!(code(&answer), Some(1050), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_directory_was_wiped_does_not_come_back_as_its_old_self() {
    let mut cluster = Cluster::start(3, "").await;
    let sink = Sink::start().await;
    let (leader, _) = cluster.leader().await;
    let (wiped, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let http = cluster.nodes[other].ports.http;
    assert_eq!(code(&cluster.api.create(http, &once("before", now_ms() + 8000, &sink.url)).await), Some(0));
    // Each store is known to the cluster by then.
    cluster.caught_up(CATCH_UP_MAX).await;
    sleep_ms(500).await;
    cluster.nodes[wiped].kill();
    std::fs::remove_dir_all(&cluster.nodes[wiped].data).unwrap();
    cluster.nodes[wiped].spawn();
    let status = cluster.nodes[wiped].exit(Duration::from_secs(20)).await;
    let log = cluster.nodes[wiped].log_text();
    assert_eq!(status.code(), Some(1), "{log}");
    for part in ["directory is empty", "\"replace\": true", "addNode"] {
        assert!(log.contains(part), "{part:?} is not in the log");
    }
    let answer = cluster.api.create(http, &once("after", now_ms() + 500, &sink.url)).await;
    assert_eq!(code(&answer), Some(0), "the cluster goes on: {answer:?}");
    for id in ["before", "after"] {
        eventually(id, Duration::from_secs(15), async || !sink.of(id).is_empty()).await;
    }
    assert!(cluster.all_ready(READY_MAX).await);
}

/// Three nodes, and which of them is down: the others' logs no longer reach back to what it has missed.
async fn away_while_the_log_was_purged() -> (Cluster, usize) {
    let mut cluster = Cluster::start(3, SMALL).await;
    let (leader, _) = cluster.leader().await;
    let (away, http) = ((leader + 1) % 3, cluster.nodes[leader].ports.http);
    let create = async |cluster: &Cluster, name: &str, count: usize| {
        for n in 0..count {
            let task = large(&format!("{name}-{n}"), 40_000);
            let answer = cluster.api.create(http, &task).await;
            assert_eq!(code(&answer), Some(0), "{answer:?}");
        }
    };
    create(&cluster, "present", 10).await;
    cluster.caught_up(CATCH_UP_MAX).await;
    let snapshots = async |cluster: &Cluster| cluster.metric(leader, "xcron_snapshots_total").await.unwrap_or(0.0);
    let before = snapshots(&cluster).await;
    cluster.nodes[away].kill();
    // One load before a snapshot and one after it, so that the log behind the first is purged.
    create(&cluster, "first", 120).await;
    eventually("a snapshot is taken", Duration::from_secs(20), async || snapshots(&cluster).await > before).await;
    let between = snapshots(&cluster).await;
    create(&cluster, "second", 250).await;
    eventually("another is taken", Duration::from_secs(20), async || snapshots(&cluster).await > between).await;
    let running = || (0..3).filter(|at| *at != away);
    let has_first = |at: usize| cluster.nodes[at].log_has_first();
    eventually("their logs are purged", Duration::from_secs(20), async || !running().any(has_first)).await;
    (cluster, away)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_while_the_log_was_purged_catches_up_by_a_snapshot() {
    let (mut cluster, away) = away_while_the_log_was_purged().await;
    cluster.nodes[away].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    cluster.caught_up(CATCH_UP_MAX).await;
    let tasks: Vec<String> = ["present-9", "first-0", "first-119", "second-0", "second-249"].map(str::to_owned).into();
    agree(&cluster, &tasks).await;
    let data = &cluster.nodes[away].data;
    let installed = std::fs::read_dir(data.join("snapshots")).is_ok_and(|files| files.count() > 0);
    assert!(installed, "the node that was away has no snapshot");
    // It stands on its own with what it has received.
    cluster.nodes[away].kill();
    cluster.nodes[away].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    cluster.caught_up(CATCH_UP_MAX).await;
    agree(&cluster, &tasks).await;
}

/// It has lost its state, and those who could give it a snapshot are down.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_a_snapshot_of_another_node_says_so_and_ends_when_it_is_told_to() {
    let (mut cluster, away) = away_while_the_log_was_purged().await;
    cluster.nodes[away].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    cluster.caught_up(CATCH_UP_MAX).await;
    cluster.nodes.iter_mut().for_each(|node| node.kill());
    for entry in std::fs::read_dir(&cluster.nodes[away].data).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("state-") || name == "snapshots" {
            std::fs::remove_dir_all(&path).unwrap();
        }
    }
    let node = &mut cluster.nodes[away];
    node.spawn();
    let waits = "this node has lost its state and asks the others for a snapshot";
    eventually("it asks", Duration::from_secs(10), async || node.log_text().contains(waits)).await;
    // It lives, and says what it waits for.
    assert_eq!(cluster.api.status(node.ports.monitor, "/healthz").await, Some(200));
    let (status, reason) = cluster.api.text(node.ports.monitor, "/readyz").await.expect("an answer");
    assert!(status == 503 && reason.contains("lost its state"), "{status} {reason}");
    let metrics = cluster.api.text(node.ports.monitor, "/metrics").await.expect("metrics").1;
    assert!(metrics.contains("xcron_ready 0\n"), "{metrics}");
    node.signal("TERM");
    assert_eq!(node.exit(Duration::from_secs(5)).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_going_when_its_leader_died_is_sent_again() {
    let mut cluster = Cluster::start(3, "").await;
    let slow = Sink::start_slow(1500).await;
    let (leader, _) = cluster.leader().await;
    let (other, http) = ((leader + 1) % 3, cluster.nodes[(leader + 1) % 3].ports.http);
    assert_eq!(code(&cluster.api.create(http, &once("going", now_ms() + 200, &slow.url)).await), Some(0));
    eventually("the run is recorded as going", Duration::from_secs(10), async || {
        let task = cluster.api.query_local(http, "going").await;
        task.is_ok_and(|(_, body)| body["data"]["last_run"]["state"] == "running")
    })
    .await;
    cluster.nodes[leader].kill();
    eventually("it is sent again", Duration::from_secs(15), async || slow.of("going").len() > 1).await;
    eventually("its outcome is recorded", Duration::from_secs(15), async || {
        let task = cluster.api.query(http, "going").await;
        task.is_ok_and(|(_, body)| body["data"]["run_count"] == 1)
    })
    .await;
    let calls = slow.of("going");
    assert!(calls.iter().all(|call| call.run == calls[0].run), "{calls:#?}");
    assert!(cluster.nodes[other].is_ready(&cluster.api).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_away_is_ready_once_it_is_not_far_behind() {
    let cluster = Cluster::start(3, "").await;
    let (leader, _) = cluster.leader().await;
    let (follower, port) = ((leader + 1) % 3, cluster.nodes[leader].ports.http);
    cluster.nodes[follower].signal("STOP");
    // One after the other, so that each is an entry of its own.
    let create = async |n: usize| {
        let task = once(&format!("away-{n}"), now_ms() + 3_600_000, "http://127.0.0.1:9/");
        assert_eq!(code(&cluster.api.create(port, &task).await), Some(0), "{n}");
    };
    for n in 0..2000 {
        create(n).await;
    }
    cluster.nodes[follower].signal("CONT");
    eventually("it is ready", READY_MAX, async || cluster.nodes[follower].is_ready(&cluster.api).await).await;
    let known = cluster.api.query_local(cluster.nodes[follower].ports.http, "away-900").await;
    assert_eq!(code(&known), Some(0), "it is ready and far behind: {known:?}");
}
