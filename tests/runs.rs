//! What becomes of runs, and how they are shown.

mod support;

use serde_json::{json, Value};
use support::{named, node, now, once, pass, periodic, until, with, Client, Say, Sink};
use xcron::clock::Timestamp;

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

/// The receiver of alerts is down for as long as the test: what waits for it is no run of the task.
#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_waits_holds_up_no_run_of_its_task() {
    let (_dir, node) = node().await;
    let (client, sink) = (
        &node.client,
        Sink::saying(|hit| match hit.path.as_str() {
            "/alert" => Say::nothing(),
            _ => Say::status(500).header("Xcron-Retry", "no"),
        })
        .await,
    );
    for overlap in ["skip", "queue"] {
        let more = json!({"overlap": overlap, "alert": {"url": sink.url("/alert")}});
        client.create(&with(named(periodic(&sink.url("/work"), "* * * * * *"), overlap), more)).await;
    }
    let of = |id: &str, path: &str| sink.of(id).iter().filter(|hit| hit.path == path).count();
    until("an alert of each, and runs after it", || async {
        let all = ["skip", "queue"].iter().all(|id| of(id, "/alert") >= 1 && of(id, "/work") >= 4);
        all.then_some(())
    })
    .await;
    for id in ["skip", "queue"] {
        let runs = client.runs(id).await;
        let skipped: Vec<&Value> = runs.iter().filter(|run| run["state"] == "skipped").collect();
        assert!(skipped.is_empty(), "{id}: {skipped:?}");
    }
}

/// They are xcron's own messages: what a task says of its callback is not meant for them.
#[tokio::test(flavor = "multi_thread")]
async fn alerts_follow_the_configurations_retries_and_take_any_2xx_for_success() {
    let (_dir, node) = node().await;
    let (client, sink) = (
        &node.client,
        Sink::saying(|hit| match (hit.path.as_str(), hit.attempt()) {
            ("/alert", 1) => Say::status(503),
            ("/alert", _) => Say::status(204),
            _ => Say::status(500),
        })
        .await,
    );
    let mut task = with(named(once(&sink.url("/work"), 0), "a"), json!({"alert": {"url": sink.url("/alert")}}));
    task["retry"] = json!({"max_attempts": 1});
    task["callback"]["expect"] = json!({"status": [[201, 201]]});
    client.create(&task).await;
    let alerts = || sink.of("a").into_iter().filter(|hit| hit.path == "/alert").count();
    until("a second attempt at the alert", || async { (alerts() == 2).then_some(()) }).await;
    until("alerts that are counted", || async {
        let text = node.monitor.plain("/metrics").await.2;
        let of = |outcome: &str, n: u32| {
            text.contains(&format!("\nxcron_alert_attempts_total{{outcome=\"{outcome}\"}} {n}\n"))
        };
        (of("failed", 1) && of("succeeded", 1)).then_some(())
    })
    .await;
    assert_eq!(sink.of("a").len(), 3, "one attempt of the run, two of the alert");
}

/// More outcomes at once than the queue of writes takes: each is proposed until it is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_for_which_there_is_no_room_is_recorded_later_and_its_run_not_sent_again() {
    const RUNS: usize = 60;
    let (_dir, node) = support::node_with(|config| {
        config.limits.queue_max = 1;
        config.callback.in_flight_per_host_max = 512;
    })
    .await;
    // All of them answer at one moment.
    let answered = now().as_ms() + 5_000;
    let sink = Sink::saying(move |_| Say::ok().after(answered.saturating_sub(now().as_ms()))).await;
    let mut ids = Vec::new();
    for n in 0..RUNS {
        let mut task = named(once(&sink.url("/"), 2_500), &format!("t{n}"));
        task["callback"]["timeout_ms"] = json!(30_000);
        ids.push(node.client.create(&task).await);
    }
    for id in &ids {
        let task = node.client.await_task(id, "its outcome", |task| task["run_count"] == 1).await;
        assert_eq!(task["last_run"]["state"], "succeeded", "{task}");
    }
    // The leader looks every 2 s for runs that nobody sends.
    pass(2_500).await;
    assert_eq!((sink.count(), sink.by_run().len()), (RUNS, RUNS), "each was sent once");
}

/// A leader that cannot record what it has to tries again after a pause, whatever it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recorded_is_proposed_a_few_times_each_second() {
    let (_dir, node) = support::node_with(|config| {
        config.limits.queue_max = 1;
        config.limits.request_timeout_ms = 60_000;
        config.callback.timeout_ms = 60_000;
    })
    .await;
    let sink = Sink::saying(|hit| if hit.task() == "hangs" { Say::nothing() } else { Say::ok() }).await;
    let start = now().as_secs() + 2;
    let each = json!({"overlap": "skip", "start_time": start});
    node.client.create(&named(with(periodic(&sink.url("/"), "* * * * * *"), each), "hangs")).await;
    let due = Timestamp::from_secs(start + 4);
    let first = json!({"type": 2, "format": (start + 4).to_string(), "callback": {"url": sink.url("/")}});
    node.client.create(&named(with(first, json!({"delivery": "at_most_once"})), "first")).await;
    node.client.await_task("hangs", "a run that goes", |task| task["last_run"]["state"] == "running").await;
    let of = node.server().node();
    let refused = || of.metrics().failed_writes.get_or_create(&vec![("error", "busy".to_owned())]).get();
    // One write waits, and there is room for no other.
    of.machine().hold(true);
    let client = node.client.clone();
    let waits = tokio::spawn(async move {
        until("a place", || async {
            let answer = client.post("/xcron/pauseTask", &json!({"task_id": "hangs"})).await;
            if answer.code == 1070 {
                pass(400).await;
                return None;
            }
            Some(answer)
        })
        .await
    });
    until("a due time that cannot be recorded", || std::future::ready((refused() > 0).then_some(()))).await;
    until("the other one", || std::future::ready((now() > due.plus_ms(500)).then_some(()))).await;
    let before = refused();
    pass(1000).await;
    let tries = refused() - before;
    assert!((1..60).contains(&tries), "{tries} tries in a second");
    of.machine().hold(false);
    waits.await.unwrap().ok();
    sink.await_of("first", 1).await;
}
