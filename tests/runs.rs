//! What becomes of runs, and how they are shown.

mod support;

use serde_json::{json, Value};
use support::{named, node, once, pass, periodic, until, with, Client, Say, Sink};

/// A schedule that is not due while a test lasts.
const RARELY: &str = "0 0 29 2 *";

async fn about(client: &Client, call: &str, id: &str) -> Value {
    client.post(&format!("/xcron/{call}"), &json!({"task_id": id})).await.ok()
}

/// The run, once it has come to an end.
async fn ended(client: &Client, id: &str) -> Value {
    let over = |run: &Value| !["pending", "running"].contains(&run["state"].as_str().unwrap_or_default());
    until("an end of a run", || async { Some(client.run(id).await).filter(over) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_is_made_beyond_its_time_though_the_task_was_paused_meanwhile() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::saying(|_| Say::status(500)).await);
    let retry = json!({"max_attempts": 9, "min_backoff_ms": 300, "max_backoff_ms": 300, "max_elapsed_ms": 900});
    client.create(&with(named(periodic(&sink.url("/"), RARELY), "a"), json!({"retry": retry}))).await;
    let id = client.trigger("a").await;
    sink.await_of("a", 1).await;
    about(client, "pauseTask", "a").await;
    let made = until("an attempt that is recorded", || async {
        let run = client.run(&id).await;
        Some(run["attempts"].as_array()?.len()).filter(|_| run["state"] == "pending" && !run["attempts"][0].is_null())
    })
    .await;
    pass(1100).await;
    // A run that was triggered before the pause waits for its end.
    about(client, "resumeTask", "a").await;
    let run = ended(client, &id).await;
    assert_eq!((&run["state"], run["attempts"].as_array().map(Vec::len)), (&json!("failed"), Some(made)), "{run}");
    let reason = run["reason"].as_str().expect("a reason");
    assert!(reason.contains("within 900 ms") && reason.contains("the last error: the target answered 500"), "{run}");
    assert_eq!(sink.of("a").len(), made);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_run_is_the_one_that_was_due_last_though_another_one_ended_later() {
    let (_dir, node) = node().await;
    let first = std::sync::atomic::AtomicBool::new(true);
    let sink = Sink::saying(move |_| match first.swap(false, std::sync::atomic::Ordering::Relaxed) {
        true => Say::ok().after(700),
        false => Say::ok(),
    })
    .await;
    let client = &node.client;
    client.create(&named(periodic(&sink.url("/"), RARELY), "a")).await;
    let older = client.trigger("a").await;
    sink.await_of("a", 1).await;
    let newer = client.trigger("a").await;
    ended(client, &newer).await;
    assert_eq!(client.task("a").await["last_run"]["run_id"], newer, "though the older one is going");
    ended(client, &older).await;
    assert_eq!(client.task("a").await["last_run"]["run_id"], newer, "though the older one ended last");
    let listed = client.get("/xcron/listTasks").await.ok();
    assert_eq!(listed["tasks"][0]["last_run"]["run_id"], newer);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_shows_the_run_as_query_run_answers_it() {
    let (_dir, node) = node().await;
    let (client, sink) = (
        &node.client,
        Sink::saying(|hit| if hit.path == "/alert" { Say::ok() } else { Say::status(500).header("Xcron-Retry", "no") })
            .await,
    );
    let told = |id: &'static str| {
        until("an alert", || async {
            let alert = sink.of(id).into_iter().find(|hit| hit.path == "/alert")?;
            Some(serde_json::from_slice::<Value>(&alert.body).expect("JSON")["run"].clone())
        })
    };
    let alert = json!({"alert": {"url": sink.url("/alert"), "on": ["failed", "missed"]}});
    client.create(&with(named(once(&sink.url("/work"), 0), "failed"), alert.clone())).await;
    let shown = told("failed").await;
    assert_eq!((&shown["task_id"], shown["attempts"].as_array().map(Vec::len)), (&json!("failed"), Some(1)));
    assert_eq!(client.run(shown["run_id"].as_str().expect("a run_id")).await, shown);

    // Many due times in one record.
    let rules = json!({"misfire": {"policy": "skip", "window_ms": 0}});
    let missed = with(with(named(periodic(&sink.url("/work"), "* * * * * *"), "missed"), rules), alert);
    client.create(&missed).await;
    about(client, "pauseTask", "missed").await;
    pass(2500).await;
    about(client, "resumeTask", "missed").await;
    let shown = told("missed").await;
    assert_eq!(shown["state"], "missed");
    assert_eq!(client.run(shown["run_id"].as_str().expect("a run_id")).await, shown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_time_that_cannot_be_meant_is_passed_over_and_the_run_says_so() {
    let (_dir, node) = node().await;
    let (client, sink) = (
        &node.client,
        Sink::saying(|hit| {
            let code = if hit.path == "/bad" { Say::status(500).header("Xcron-Retry", "no") } else { Say::ok() };
            code.header("Xcron-Next-At", "12")
        })
        .await,
    );
    for path in ["good", "bad"] {
        client.create(&named(periodic(&sink.url(&format!("/{path}")), RARELY), path)).await;
        let next = client.task(path).await["next_time"].clone();
        let run = client.trigger(path).await;
        let run = ended(client, &run).await;
        let reason = run["reason"].as_str().expect("a reason");
        assert!(reason.contains("Xcron-Next-At") && reason.contains("\"12\" is passed over"), "{run}");
        assert_eq!(client.task(path).await["next_time"], next, "the schedule goes on");
        assert_eq!(sink.of(path).len(), 1, "it does not fire at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_with_a_point_are_kept_to_their_last_digit() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::start().await);
    let task = format!(
        r#"{{"task_id":"a","type":1,"format":"{RARELY}","max_runs":9007199254740991.0,
            "retry":{{"multiplier":10.865221719940745}},
            "callback":{{"url":"{}","content_type":"application/x-www-form-urlencoded","body":{{"n":1.50,"m":1e2}}}}}}"#,
        sink.url("/")
    );
    client.send("POST", "/xcron/createTask", task).await.ok();
    let (_, _, text) = client.plain("/xcron/queryTask?task_id=a").await;
    assert!(text.contains("\"multiplier\":10.865221719940745"), "{text}");
    assert!(text.contains("\"max_runs\":9007199254740991,"), "{text}");
    client.trigger("a").await;
    assert_eq!(sink.await_of("a", 1).await[0].body, &b"m=1e2&n=1.50"[..], "as they were written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_alerts_and_starts_what_follows_though_its_answer_deletes_the_task() {
    let (_dir, node) = node().await;
    let (client, sink) = (
        &node.client,
        Sink::saying(|hit| match hit.path.as_str() {
            "/work" => Say::status(500).header("Xcron-Delete", "true"),
            "/alert" => Say::ok().after(300),
            _ => Say::ok(),
        })
        .await,
    );
    client.create(&named(periodic(&sink.url("/after"), RARELY), "after")).await;
    let more = json!({"on_failure": ["after"], "alert": {"url": sink.url("/alert")}});
    client.create(&with(named(periodic(&sink.url("/work"), RARELY), "a"), more)).await;
    client.trigger("a").await;
    let alert = until("an alert", || async { sink.of("a").into_iter().find(|hit| hit.path == "/alert") }).await;
    client.get("/xcron/queryTask?task_id=a").await.is(1040, 404, "no such task");
    let told: Value = serde_json::from_slice(&alert.body).expect("JSON");
    assert_eq!((&told["run"]["state"], &told["run"]["attempts"][0]["status"]), (&json!("failed"), &json!(500)));
    assert_eq!(sink.await_of("after", 1).await[0].path, "/after");
    // Its id is free at once.
    client.create(&named(periodic(&sink.url("/other"), RARELY), "a")).await;
    pass(600).await;
    assert_eq!(client.task("a").await["callback"]["url"], sink.url("/other"));
    assert_eq!(client.get("/xcron/listTasks").await.ok()["tasks"].as_array().map(Vec::len), Some(2));
}
