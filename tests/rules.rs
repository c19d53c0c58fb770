//! What becomes of due times that overlap or are missed, and of tasks that are over.

mod support;

use serde_json::{json, Value};
use support::{config, eventually, named, once, pass, periodic, until, with, Cluster, Hit, Say, Sink, TestNode};
use xcron::clock::Clock;

const EVERY_SECOND: &str = "* * * * * *";
const NOWHERE: &str = "http://127.0.0.1:9/never";

/// How many runs of a task are in each of these states.
async fn count(node: &TestNode, id: &str, state: &str) -> usize {
    node.client.runs(id).await.iter().filter(|run| run["state"] == state).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_due_times_are_skipped_queued_or_fired_as_the_task_says() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(config(dir.path())).await.ready().await;
    let sink = Sink::saying(|_| Say::ok().after(2600)).await;
    for rule in ["allow", "skip", "queue"] {
        let mut task = periodic(&sink.url("/"), EVERY_SECOND);
        task["callback"]["timeout_ms"] = json!(10_000);
        node.client.create(&with(task, json!({"task_id": rule, "overlap": rule}))).await;
    }
    until("skipped runs", || async {
        (count(&node, "skip", "skipped").await >= 3 && count(&node, "queue", "skipped").await >= 3).then_some(())
    })
    .await;
    until("a third call of each", || async { ["skip", "queue"].iter().all(|id| sink.of(id).len() >= 3).then_some(()) })
        .await;
    let starts = |id: &str| sink.of(id).iter().map(|hit: &Hit| hit.at.as_ms()).collect::<Vec<_>>();
    for id in ["skip", "queue"] {
        let starts = starts(id);
        assert!(starts.windows(2).all(|w| w[1] - w[0] >= 2500), "{id}: one at a time: {starts:?}");
    }
    let allowed = starts("allow");
    assert!(allowed.windows(2).any(|w| w[1] - w[0] < 2000), "each at its time: {allowed:?}");
    let waited: Vec<u64> = sink.of("queue").iter().skip(1).map(Hit::lateness_ms).collect();
    assert!(waited.iter().any(|ms| *ms > 500), "one waits for the end of the run before it: {waited:?}");
    for id in ["skip", "queue"] {
        let runs = node.client.runs(id).await;
        let skipped: Vec<&Value> = runs.iter().filter(|run| run["state"] == "skipped").collect();
        assert!(skipped.iter().all(|run| run["reason"].as_str().unwrap().starts_with("overlap")), "{skipped:?}");
        let mut dues: Vec<u64> = runs.iter().map(|run| run["due_time_ms"].as_u64().unwrap()).collect();
        dues.sort_unstable();
        assert!(dues.windows(2).all(|w| w[1] - w[0] == 1000), "{id}: each due time is accounted for: {dues:?}");
    }
}

/// Five due times pass while no node runs: as it starts, the last of them is a quarter of a minute ago.
#[tokio::test(flavor = "multi_thread")]
async fn missed_due_times_fire_as_the_task_says() {
    const MINUTE_MS: u64 = 60_000;
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    // Far enough from a full minute that none comes while the test runs.
    clock.shift((MINUTE_MS + MINUTE_MS / 4 - support::now().as_ms() % MINUTE_MS) as i64);
    let node = TestNode::start_at(config(dir.path()), clock.clone()).await.ready().await;
    let sink = Sink::start().await;
    for policy in ["latest", "all", "skip"] {
        let misfire = json!({"task_id": policy, "misfire": {"policy": policy, "window_ms": 0}});
        node.client.create(&with(periodic(&sink.url("/"), "0 * * * * *"), misfire)).await;
    }
    let first = clock.now().as_ms() / MINUTE_MS * MINUTE_MS + MINUTE_MS;
    let settings = node.stop().await;
    clock.shift(5 * MINUTE_MS as i64);
    let node = TestNode::start_at(settings, clock).await.ready().await;
    // For each policy the states, newest first, of the due times that have passed.
    let expected = [
        ("latest", ["succeeded", "missed", "missed", "missed", "missed"], vec![first + 4 * MINUTE_MS]),
        ("all", ["succeeded"; 5], (0..5).map(|n| first + n * MINUTE_MS).collect()),
        ("skip", ["missed"; 5], Vec::new()),
    ];
    for (id, states, fired) in expected {
        let runs = until(&format!("the runs of {id}"), || async {
            let runs = node.client.runs(id).await;
            let found: Vec<&str> = runs.iter().filter_map(|run| run["state"].as_str()).collect();
            (found == states).then_some(runs)
        })
        .await;
        let dues: Vec<u64> = runs.iter().rev().map(|run| run["due_time_ms"].as_u64().unwrap()).collect();
        assert_eq!(dues, (0..5).map(|n| first + n * MINUTE_MS).collect::<Vec<_>>(), "{id}");
        let mut hits: Vec<u64> = sink.of(id).iter().map(Hit::due_ms).collect();
        hits.sort_unstable();
        assert_eq!(hits, fired, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_tasks_are_forgotten_when_their_time_is_over_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(config(dir.path())).await.ready().await;
    let sink = Sink::start().await;
    let task = |id: &str, retain_s: u64| with(once(&sink.url("/"), 0), json!({"task_id": id, "retain_s": retain_s}));
    node.client.create(&task("short", 1)).await;
    node.client.create(&task("long", 3600)).await;
    node.client.create(&with(once(NOWHERE, 3_600_000), json!({"task_id": "waits", "retain_s": 0}))).await;
    node.client.await_task("short", "an end", |task| task["state"] == "finished").await;
    let query = || async { Some(node.client.get("/xcron/queryTask?task_id=short").await).filter(|a| a.code == 1040) };
    until("short to be forgotten", query).await;
    assert_eq!(node.client.task("long").await["state"], "finished");
    assert_eq!(node.client.task("waits").await["state"], "active");
    node.client.create(&task("short", 1)).await;
    assert_eq!(node.client.task("short").await["task_id"], "short", "its id is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_that_are_due_at_once_are_none_of_them_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path());
    let retry = &mut settings.callback.retry;
    // A retry can be due before the hands that made the attempt before it are free.
    (retry.min_backoff_ms, retry.max_backoff_ms, retry.max_attempts) = (1, 1, 12);
    let node = TestNode::start(settings).await.ready().await;
    let sink = Sink::saying(|_| Say::status(503)).await;
    let tasks: Vec<Value> = (0..150).map(|_| once(&sink.url("/"), 0)).collect();
    let ids = node.client.create_all(&tasks).await;
    for id in &ids {
        let task = node.client.await_task(id, "an end", |task| task["state"] == "finished").await;
        assert_eq!(task["last_run"]["attempts"].as_array().map(Vec::len), Some(12), "{task}");
    }
    assert_eq!(sink.count(), 150 * 12);
}

/// Whatever is put back of the file that counts the starts, and whether anything was written since the last request.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_grows_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::saying(|_| Say::ok().after(60_000)).await;
    let node = TestNode::start(config(dir.path())).await.ready().await;
    let mut settings = node.stop().await;
    settings.callback.timeout_ms = 60_000;
    let first = std::fs::read(dir.path().join("identity")).unwrap();
    for round in 1..=4 {
        let node = TestNode::start(settings).await.ready().await;
        if round == 1 {
            node.client.create(&named(once(&sink.url("/"), 0), "again")).await;
        }
        sink.await_of("again", round).await;
        settings = node.crash().await;
        std::fs::write(dir.path().join("identity"), &first).unwrap();
    }
    let fences: Vec<(u64, u64)> = sink.of("again").iter().map(Hit::fence).collect();
    assert!(fences.len() == 4 && fences.windows(2).all(|w| w[0] < w[1]), "{fences:?}");
}

/// It leads, and has not claimed its identity yet, as a rule: a task that goes on asking for it would hold the files for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_as_it_starts_lets_go_of_its_files() {
    for _ in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let node = TestNode::start(config(dir.path())).await;
        while node.server().node().may_fire().is_none() {
            tokio::task::yield_now().await;
        }
        let settings = node.stop().await;
        TestNode::start(settings).await.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_metrics_are_answered_while_the_group_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(config(dir.path())).await.ready().await;
    let asking = async {
        for _ in 0..600 {
            let (ready, metrics) = futures::join!(node.monitor.plain("/readyz"), node.monitor.plain("/metrics"));
            assert_eq!((ready.0, metrics.0), (200, 200));
        }
    };
    let writing = async {
        for _ in 0..600 {
            node.client.create(&once(NOWHERE, 3_600_000)).await;
        }
    };
    let both = async { futures::join!(asking, writing) };
    tokio::time::timeout(std::time::Duration::from_secs(60), both).await.expect("every call is answered");
}

/// Every due time of a task up to now, page by page.
async fn audit(client: &support::Client, id: &str) -> Vec<Value> {
    client.pages(&format!("/xcron/audit?task_id={id}&limit=7"), "due_times").await
}

/// That no second is missing and none is there twice, and that all but the last few have come to an end.
fn assert_each_second_once(due_times: &[Value]) {
    let dues: Vec<u64> = due_times.iter().map(|due| due["due_time_ms"].as_u64().expect("a time")).collect();
    assert!(dues.windows(2).all(|w| w[1] - w[0] == 1000), "{dues:?}");
    for due in &due_times[..due_times.len().saturating_sub(3)] {
        assert!(["succeeded", "missed"].contains(&due["state"].as_str().expect("a state")), "{due}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_is_exact_over_a_change_of_leader_and_says_why_runs_were_late() {
    let mut cluster = Cluster::three_with(|config| config.raft.election_timeout_min_ms = 1000).await;
    let sink = Sink::start().await;
    let leader = cluster.leader().await;
    cluster.client(leader).create(&named(periodic(&sink.url("/"), EVERY_SECOND), "a")).await;
    sink.await_of("a", 2).await;
    // No leader is elected within less than a second, so a due time falls into the gap; not right after its begin, as
    // nothing less than 100 ms late has a reason.
    eventually("the middle of a second", || (300..700).contains(&(support::now().as_ms() % 1000))).await;
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    let client = cluster.client(next);
    let late = |due: &Value| due["reason"].as_str().is_some_and(|reason| reason.starts_with("no leader for "));
    let due_times = until("a run that was late", || async {
        let due_times = audit(client, "a").await;
        due_times.iter().any(late).then_some(due_times)
    })
    .await;
    assert_each_second_once(&due_times);
    for due in due_times.iter().filter(|due| late(due)) {
        assert!(due["lateness_ms"].as_u64() >= Some(100) && due["state"] == "succeeded", "{due}");
        assert!(!due["reason"].as_str().unwrap().contains("at most"), "{due}");
    }
    let runs: Vec<Value> = due_times.iter().map(|due| due["run_id"].clone()).collect();
    for hit in sink.of("a") {
        assert!(
            runs.contains(&json!(hit.run()))
                || hit.due_ms() > due_times.last().unwrap()["due_time_ms"].as_u64().unwrap()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_accounts_for_the_time_in_which_no_node_ran() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(config(dir.path())).await.ready().await;
    let sink = Sink::start().await;
    let misfire = json!({"task_id": "a", "misfire": {"policy": "skip", "window_ms": 0}});
    node.client.create(&with(periodic(&sink.url("/"), EVERY_SECOND), misfire)).await;
    sink.await_of("a", 1).await;
    let settings = node.crash().await;
    pass(3500).await;
    let node = TestNode::start(settings).await.ready().await;
    let back = support::now().as_ms();
    until("the present", || async { sink.of("a").last().filter(|hit| hit.due_ms() > back).cloned() }).await;
    let due_times = until("every outcome", || async {
        let due_times = audit(&node.client, "a").await;
        due_times.iter().all(|due| due["state"] != "pending" && due["state"] != "running").then_some(due_times)
    })
    .await;
    assert_each_second_once(&due_times);
    let missed: Vec<&Value> = due_times.iter().filter(|due| due["state"] == "missed").collect();
    assert!(missed.len() >= 2, "{due_times:?}");
    for due in missed {
        assert!(due["reason"].as_str().unwrap().starts_with("no leader for at most "), "{due}");
    }
    let later = support::now().as_secs() + 2;
    let to_come = node.client.get(&format!("/xcron/audit?task_id=a&from={later}&to={}", later + 2)).await.ok();
    let states: Vec<&Value> = to_come["due_times"].as_array().unwrap().iter().map(|due| &due["state"]).collect();
    assert_eq!(states, ["scheduled"; 3]);
    node.client.get("/xcron/audit?task_id=b").await.is(1040, 404, "no such task");
    node.client.get("/xcron/audit").await.is(1000, 400, "task_id");
    node.client.get("/xcron/audit?task_id=a&from=9&to=8").await.is(1000, 400, "to");
    node.client.get("/xcron/audit?task_id=a&cursor=x").await.is(1000, 400, "cursor");
}

#[tokio::test(flavor = "multi_thread")]
async fn due_times_that_have_found_no_place_in_time_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.callback.in_flight_per_host_max = 1;
    config.callback.misfire_window_ms = 1000;
    let node = TestNode::start(config).await.ready().await;
    let sink = Sink::saying(|hit| if hit.task() == "slow" { Say::ok().after(5000) } else { Say::ok() }).await;
    node.client.create(&named(periodic(&sink.url("/"), "@every 1s"), "slow")).await;
    sink.await_of("slow", 1).await;
    node.client.create(&named(periodic(&sink.url("/"), "@every 1s"), "p")).await;
    let missed = until("a missed due time", || async {
        node.client.runs("p").await.into_iter().find(|run| run["state"] == "missed")
    })
    .await;
    let reason = missed["reason"].as_str().expect("a reason");
    assert!(reason.contains("left no place for it in time"), "{reason}");
}
