//! What follows from an attempt: whether it may be made again, what its answer asks for, which tasks are triggered and
//! who is told. Each also over a change of leader in the middle.

mod support;

use serde_json::{json, Value};
use support::{eventually, named, node, node_with, now, once, periodic, until, with, Client, Cluster, Say, Sink};

const EVERY_SECOND: &str = "* * * * * *";
const RARELY: &str = "0 0 29 2 *";
const NOWHERE: &str = "http://127.0.0.1:9/never";

/// The only run of a task, once it is over.
async fn ended(client: &Client, id: &str) -> Value {
    let over = |run: &Value| !["pending", "running"].contains(&run["state"].as_str().unwrap_or_default());
    until(&format!("an end of {id}"), || async { client.runs(id).await.into_iter().next().filter(|run| over(run)) })
        .await
}

fn attempts(run: &Value) -> usize {
    run["attempts"].as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_at_most_once_is_sent_once_whatever_the_answer() {
    let (_dir, node) = node().await;
    let sink = Sink::saying(|hit| match hit.path.as_str() {
        "/bad" => Say::status(503),
        "/slow" => Say::ok().after(60_000),
        _ => Say::ok(),
    })
    .await;
    for (id, url, state) in [
        ("good", sink.url("/"), "succeeded"),
        ("bad", sink.url("/bad"), "failed"),
        ("slow", sink.url("/slow"), "unknown"),
        ("nobody", "http://127.0.0.1:9/".to_owned(), "failed"),
    ] {
        let mut task = with(named(once(&url, 0), id), json!({"delivery": "at_most_once"}));
        task["callback"]["timeout_ms"] = json!(300);
        node.client.create(&task).await;
        let run = ended(&node.client, id).await;
        assert_eq!((run["state"].as_str(), attempts(&run)), (Some(state), 1), "{run}");
        assert_eq!(run["reason"].is_null(), state == "succeeded", "{run}");
        assert_eq!(node.client.task(id).await["delivery"], "at_most_once");
    }
    assert!(sink.by_run().values().all(|count| *count == 1), "{:?}", sink.by_run());
}

/// The log is slow: the change and then the start of the attempt are in it, and neither is applied yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_at_most_once_goes_where_a_change_says_that_came_while_it_was_recorded() {
    let (_dir, node) = node().await;
    let (before, after) = (Sink::saying(|_| Say::ok()).await, Sink::saying(|_| Say::ok()).await);
    let task = with(named(once(&before.url("/"), 2000), "moved"), json!({"delivery": "at_most_once"}));
    node.client.create(&task).await;
    let due = now().plus_ms(2000);
    let of = node.server().node();
    let appended = || of.watch().borrow().as_ref().and_then(|metrics| metrics.last_log_index);
    let more_than = |what: &'static str, before: Option<u64>| eventually(what, move || appended() > before);
    let begun = appended();
    of.machine().hold(true);
    let (client, change) = (node.client.clone(), json!({"task_id": "moved", "callback": {"url": after.url("/")}}));
    let changed = tokio::spawn(async move { client.post("/xcron/updateTask", &change).await });
    more_than("the change in the log", begun).await;
    let with_change = appended();
    assert!(now() < due, "too slow: the change must come before the attempt");
    eventually("its due time", || now() > due.plus_ms(300)).await;
    more_than("the start in the log", with_change).await;
    of.machine().hold(false);
    changed.await.expect("no panic").ok();
    let run = ended(&node.client, "moved").await;
    assert_eq!((before.count(), after.count()), (0, 1), "{run}");
    assert_eq!((run["state"].as_str(), attempts(&run)), (Some("succeeded"), 2), "{run}");
    assert!(run["attempts"][0]["error"].as_str().unwrap().starts_with("not sent"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_at_most_once_is_not_sent_again_by_the_next_leader() {
    let mut cluster = Cluster::three().await;
    let sink = Sink::saying(|_| Say::ok().after(60_000)).await;
    let leader = cluster.leader().await;
    for (id, delivery) in [("once", "at_most_once"), ("again", "at_least_once")] {
        let mut task = with(named(once(&sink.url("/"), 0), id), json!({"delivery": delivery}));
        task["callback"]["timeout_ms"] = json!(60_000);
        cluster.client(leader).create(&task).await;
        sink.await_of(id, 1).await;
    }
    // Of the second it must be known that it goes, or nobody would send it again as a second attempt.
    let going = |task: &Value| task["last_run"]["state"] == "running";
    cluster.client(leader).await_task("again", "a run that goes", going).await;
    cluster.level().await;
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    sink.await_of("again", 2).await;
    let run = ended(cluster.client(next), "once").await;
    assert_eq!((run["state"].as_str(), attempts(&run)), (Some("unknown"), 1), "{run}");
    assert!(run["reason"].as_str().unwrap().contains("no longer leads"), "{run}");
    assert_eq!(sink.of("once").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_steers_its_task() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let later = support::now().as_secs() + 3600;
    let soon = std::sync::atomic::AtomicBool::new(true);
    let sink = Sink::saying(move |hit| match hit.path.as_str() {
        "/next" => Say::ok().header("Xcron-Next-At", later.to_string()),
        "/soon" if soon.swap(false, std::sync::atomic::Ordering::Relaxed) => {
            Say::ok().header("Xcron-Next-At", (support::now().as_ms() + 300).to_string())
        }
        "/pause" => Say::ok().header("Xcron-Pause", "true"),
        "/delete" => Say::ok().header("Xcron-Delete", "true"),
        "/enough" => Say::status(503).header("Xcron-Retry", "no"),
        "/gone" => Say::status(410),
        _ => Say::ok(),
    })
    .await;
    for path in ["next", "pause", "delete", "gone"] {
        client.create(&named(periodic(&sink.url(&format!("/{path}")), EVERY_SECOND), path)).await;
    }
    for path in ["enough", "soon"] {
        client.create(&named(once(&sink.url(&format!("/{path}")), 0), path)).await;
    }
    let next = client.await_task("next", "its own next time", |task| task["next_time"] == later).await;
    assert_eq!(next["state"], "active");
    client.await_task("pause", "a pause", |task| task["state"] == "paused" && task["next_time"].is_null()).await;
    client.await_task("gone", "an end", |task| task["state"] == "finished").await;
    let gone = ended(client, "gone").await;
    assert_eq!((gone["state"].as_str(), attempts(&gone)), (Some("failed"), 1), "{gone}");
    until("delete to be gone", || async {
        Some(()).filter(|()| sink.of("delete").len() == 1)?;
        Some(client.get("/xcron/queryTask?task_id=delete").await).filter(|answer| answer.code == 1040)
    })
    .await;
    let enough = ended(client, "enough").await;
    assert_eq!((enough["state"].as_str(), attempts(&enough)), (Some("failed"), 1), "{enough}");
    let soon = sink.await_of("soon", 2).await;
    assert!(soon[1].due_ms() >= soon[0].due_ms() + 300, "a one-shot that goes on: {soon:?}");
    for path in ["next", "pause", "delete", "gone"] {
        assert_eq!(sink.of(path).len(), 1, "{path}");
    }
    let skipped = client.runs("next").await;
    let skipped = skipped.iter().find(|run| run["state"] == "skipped").expect("what was replaced");
    assert!(skipped["upto_ms"].as_u64() > Some(later * 1000 - 5000), "{skipped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_triggers_the_tasks_that_follow_it_over_a_change_of_leader() {
    let mut cluster = Cluster::three().await;
    let sink = Sink::saying(|hit| match hit.task() {
        "bad" => Say::status(500).header("Xcron-Retry", "no"),
        "good" if hit.attempt() == 1 => Say::ok().after(60_000),
        _ => Say::ok(),
    })
    .await;
    let leader = cluster.leader().await;
    let client = cluster.client(leader);
    for id in ["after-good", "after-bad"] {
        client.create(&named(periodic(&sink.url("/"), RARELY), id)).await;
    }
    let links = json!({"on_success": ["after-good"], "on_failure": ["after-bad"]});
    let mut good = with(named(once(&sink.url("/"), 0), "good"), links.clone());
    good["callback"]["timeout_ms"] = json!(60_000);
    client.create(&good).await;
    client.create(&with(named(once(&sink.url("/"), 0), "bad"), links)).await;
    let child = sink.await_of("after-bad", 1).await.remove(0);
    let parent = ended(client, "bad").await;
    assert_eq!(child.header("xcron-parent-run-id"), parent["run_id"]);
    let run = ended(client, "after-bad").await;
    assert_eq!((&run["parent_run_id"], &run["state"]), (&parent["run_id"], &json!("succeeded")));
    assert!(parent["parent_run_id"].is_null());

    client.await_task("good", "a run that goes", |task| task["last_run"]["state"] == "running").await;
    cluster.level().await;
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    let child = sink.await_of("after-good", 1).await.remove(0);
    let parent = ended(cluster.client(next), "good").await;
    assert_eq!((attempts(&parent), child.header("xcron-parent-run-id")), (2, parent["run_id"].as_str().unwrap()));
    assert_eq!((sink.of("after-good").len(), sink.of("after-bad").len()), (1, 1));
}

/// More follows from them than one log entry does: later entries record the rest. The tasks that are named do not exist, so
/// that nothing else keeps the node busy.
#[tokio::test(flavor = "multi_thread")]
async fn outcomes_of_which_very_much_follows_are_each_recorded_once() {
    const MANY: usize = 1500;
    let (_dir, node) = node_with(|config| {
        config.callback.in_flight_max = MANY;
        config.callback.in_flight_per_host_max = MANY;
        config.callback.timeout_ms = 60_000;
        config.callback.connect_timeout_ms = 10_000;
    })
    .await;
    // All are answered at one moment, so that their outcomes meet in few entries.
    let first = std::sync::OnceLock::new();
    let sink = Sink::saying(move |_| {
        let answered = first.get_or_init(|| support::now().plus_ms(6000));
        Say::ok().after(answered.ms_since(support::now()))
    })
    .await;
    let names: Vec<String> = (0..32).map(|n| format!("nobody{n}")).collect();
    let task =
        |n: usize| with(named(once(&sink.url("/"), 2 * n as u64), &format!("t{n}")), json!({"on_success": names}));
    let ids = node.client.create_all(&(0..MANY).map(task).collect::<Vec<_>>()).await;
    sink.await_count(MANY).await;
    for id in &ids {
        let run = ended(&node.client, id).await;
        assert_eq!((run["state"].as_str(), attempts(&run)), (Some("succeeded"), 1), "{run}");
    }
    assert_eq!(sink.count(), MANY, "an outcome that was put off is not lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_delivered_by_whichever_node_leads() {
    let mut cluster = Cluster::three().await;
    let healthy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let up = healthy.clone();
    let sink = Sink::saying(move |hit| match hit.path.as_str() {
        "/work" if !up.load(std::sync::atomic::Ordering::Relaxed) => Say::status(500),
        // It does not answer the first leader, and the next one only at the second attempt.
        "/alert" if hit.attempt() == 1 && hit.header("xcron-alert") == "failed" => Say::ok().after(60_000),
        _ => Say::ok(),
    })
    .await;
    let leader = cluster.leader().await;
    let client = cluster.client(leader);
    let task = json!({
        "task_id": "a", "type": 1, "format": RARELY, "name": "nightly", "tags": {"team": "billing"},
        "callback": {"url": sink.url("/work")}, "retry": {"max_attempts": 2, "min_backoff_ms": 1, "max_backoff_ms": 1},
        "alert": {"url": sink.url("/alert"), "on": ["recovered", "failed"]},
    });
    client.create(&task).await;
    assert_eq!(client.task("a").await["alert"]["on"], json!(["failed", "recovered"]));
    let run = client.trigger("a").await;
    let alerts = |event: &'static str| {
        sink.of("a").into_iter().filter(move |hit| hit.path == "/alert" && hit.header("xcron-alert") == event)
    };
    until("an alert that is not answered", || async { alerts("failed").next() }).await;
    let told = ended(client, "a").await;
    assert_eq!((&told["run_id"], &told["state"]), (&json!(run), &json!("failed")));
    cluster.level().await;
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    let alert = until("a second attempt", || async { alerts("failed").find(|hit| hit.attempt() == 2) }).await;
    let message: Value = serde_json::from_slice(&alert.body).expect("JSON");
    assert_eq!(
        (&message["event"], &message["task_id"], &message["name"]),
        (&json!("failed"), &json!("a"), &json!("nightly"))
    );
    assert_eq!((&message["run"]["run_id"], &message["run"]["state"]), (&json!(run), &json!("failed")));
    assert_eq!(message["run"]["attempts"][1]["status"], 500);
    assert_eq!(alert.run(), run, "what it is about");

    healthy.store(true, std::sync::atomic::Ordering::Relaxed);
    let client = cluster.client(next);
    client.trigger("a").await;
    until("word of the recovery", || async { alerts("recovered").next() }).await;
    client.trigger("a").await;
    client.await_task("a", "three runs", |task| task["run_count"] == 3).await;
    assert_eq!(alerts("recovered").count(), 1, "once");
    assert_eq!(client.runs("a").await.len(), 3, "alerts are no runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_due_time_is_told() {
    let (_dir, node) = node().await;
    let sink = Sink::start().await;
    let task = with(
        named(periodic(NOWHERE, EVERY_SECOND), "a"),
        json!({"misfire": {"policy": "skip", "window_ms": 0}, "alert": {"url": sink.url("/"), "on": ["missed"]}}),
    );
    node.client.create(&task).await;
    node.client.post("/xcron/pauseTask", &json!({"task_id": "a"})).await.ok();
    support::pass(2500).await;
    node.client.post("/xcron/resumeTask", &json!({"task_id": "a"})).await.ok();
    let alert = sink.await_of("a", 1).await.remove(0);
    let message: Value = serde_json::from_slice(&alert.body).expect("JSON");
    assert_eq!((&message["event"], &message["run"]["state"]), (&json!("missed"), &json!("missed")));
    assert_eq!(message["run"]["reason"], "paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_follow_is_refused_with_its_code() {
    let (_dir, node) = node().await;
    let task = |id: &str, fields: Value| with(named(periodic(NOWHERE, RARELY), id), fields);
    let client = &node.client;
    let create = |body: Value| async move { client.post("/xcron/createTask", &body).await };
    create(task("a", json!({"on_success": ["b"]}))).await.ok();
    create(task("b", json!({"on_failure": ["a"]}))).await.is(1041, 409, "on_success");
    create(task("c", json!({"on_success": ["c"]}))).await.is(1041, 409, "itself");
    create(task("c", json!({"on_success": ["no blank"]}))).await.is(1000, 400, "on_success");
    create(task("c", json!({"on_failure": "a"}))).await.is(1000, 400, "on_failure");
    create(task("c", json!({"delivery": "exactly_once"}))).await.is(1000, 400, "delivery");
    create(task("c", json!({"alert": {"url": "ftp://a/"}}))).await.is(1003, 400, "alert.url");
    create(task("c", json!({"alert": {"url": "http://169.254.169.254/"}}))).await.is(1003, 400, "alert.url");
    create(task("c", json!({"alert": {"url": NOWHERE, "on": []}}))).await.is(1000, 400, "alert.on");
    create(task("c", json!({"alert": {"url": NOWHERE, "on": ["lost"]}}))).await.is(1000, 400, "alert.on");
    create(task("c", json!({"alert": {}}))).await.is(1000, 400, "alert");
    let many: Vec<String> = (0..33).map(|i| format!("t{i}")).collect();
    create(task("c", json!({"on_success": many}))).await.is(1006, 400, "on_success");
    create(task("c", json!({"alert": {"url": NOWHERE}}))).await.ok();
    let shown = node.client.task("c").await;
    assert_eq!(shown["alert"], json!({"url": NOWHERE, "on": ["failed"]}));
    let change = json!({"task_id": "c", "on_success": ["a"], "alert": null});
    node.client.post("/xcron/updateTask", &change).await.ok();
    let shown = node.client.task("c").await;
    assert_eq!((&shown["on_success"], shown.get("alert")), (&json!(["a"]), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_leader_has_died_does_not_hold_up_those_that_wait_for_its_end() {
    let mut cluster = Cluster::three().await;
    // The first call of each is never answered.
    let hung = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let sink = Sink::saying(move |hit| {
        let new = hung.lock().expect("no panic").insert(hit.task().to_owned());
        if new {
            Say::ok().after(120_000)
        } else {
            Say::ok()
        }
    })
    .await;
    let leader = cluster.leader().await;
    for delivery in ["at_least_once", "at_most_once"] {
        let mut task = with(
            named(periodic(&sink.url("/"), EVERY_SECOND), delivery),
            json!({"overlap": "skip", "delivery": delivery}),
        );
        task["callback"]["timeout_ms"] = json!(120_000);
        cluster.client(leader).create(&task).await;
        cluster.client(leader).await_task(delivery, "a run that goes", |t| t["last_run"]["state"] == "running").await;
    }
    cluster.level().await;
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    for (delivery, state) in [("at_least_once", "succeeded"), ("at_most_once", "unknown")] {
        let later = until("runs after it", || async {
            let runs = cluster.client(next).runs(delivery).await;
            Some(runs).filter(|runs| runs.iter().filter(|run| run["state"] == "succeeded").count() >= 2)
        })
        .await;
        let held_up = later.iter().min_by_key(|run| run["due_time_ms"].as_u64()).expect("a run");
        assert_eq!(held_up["state"], state, "{held_up}");
        assert!(later.iter().any(|run| run["state"] == "skipped"), "{later:?}");
    }
}
