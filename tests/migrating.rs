//! The examples of `doc/migrating.md`, for people who come from another scheduler, are sent as they stand there.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use serde_json::{json, Value};
use support::{node, now, until, Hit, Say, Sink, TestNode};

/// The examples: call and body, in their order.
fn examples(sink: &Sink) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/migrating.md")).expect("the document");
    let mut examples = Vec::new();
    for part in text.split("curl -d '").skip(1) {
        let (body, rest) = part.split_once('\'').expect("the end of a body");
        let (_, rest) = rest.split_once("http://127.0.0.1:8000").expect("the node");
        let call = rest.split_whitespace().next().expect("a call");
        examples.push((call.to_owned(), body.replace("http://127.0.0.1:9000", &sink.url(""))));
    }
    assert!(examples.len() > 15, "the document has its examples: {}", examples.len());
    examples
}

/// A node that was sent every example; what it knows of each task.
async fn told(sink: &Sink) -> (tempfile::TempDir, TestNode, BTreeMap<String, Value>) {
    let (dir, node) = node().await;
    let mut tasks = BTreeMap::new();
    for (call, body) in examples(sink) {
        let data = node.client.send("POST", &call, body.clone()).await.ok();
        let id = data["task_id"].as_str().expect("a task_id").to_owned();
        if call.ends_with("createTask") {
            tasks.insert(id.clone(), node.client.task(&id).await);
        }
    }
    (dir, node, tasks)
}

/// The first callback of a task that is triggered.
async fn triggered(node: &TestNode, sink: &Sink, id: &str) -> Hit {
    let before = sink.of(id).len();
    node.client.trigger(id).await;
    sink.await_of(id, before + 1).await.remove(before)
}

/// The coming times of a task's schedule.
async fn coming(node: &TestNode, task: &Value, after: u64) -> Vec<u64> {
    let timezone = task["timezone"].as_str().unwrap_or("UTC");
    let body = json!({"type": 1, "format": task["format"], "timezone": timezone, "after": after, "count": 2});
    let data = node.client.post("/xcron/previewSchedule", &body).await.ok();
    data["fire_times"].as_array().expect("times").iter().map(|t| t.as_u64().expect("a time")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cases_of_schedulemaster_work_as_written() {
    let bad = Arc::new(AtomicBool::new(false));
    let fails = bad.clone();
    let sink = Sink::saying(move |hit| match hit.path.as_str() {
        "/api/parent" if fails.load(Ordering::Relaxed) => Say::status(500),
        _ => Say::ok(),
    })
    .await;
    let (_dir, node, tasks) = told(&sink).await;

    let first = sink.await_of("sm-json", 1).await.remove(0);
    assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/api/jsonpost"), "at once");
    assert_eq!((first.header("content-type"), first.header("x-team")), ("application/json", "orders"));
    assert_eq!(&first.body[..], br#"{"Posts":[{"PostId":666,"Title":"tester"}],"BlogId":111}"#);
    let task = &tasks["sm-json"];
    assert_eq!((&task["start_time"], &task["end_time"]), (&json!(1_790_000_000), &json!(1_900_000_000)));
    // 2030-03-17 17:46:40 UTC, which is 01:46:40 in Shanghai.
    assert_eq!(coming(&node, task, 1_900_000_000).await, [1_900_000_102, 1_900_000_582]);

    let form = triggered(&node, &sink, "sm-form").await;
    assert_eq!((form.method.as_str(), form.header("content-type")), ("PUT", "application/x-www-form-urlencoded"));
    assert_eq!(&form.body[..], b"BlogId=111&Title=a+%26+b");
    let get = triggered(&node, &sink, "sm-get").await;
    assert_eq!((get.method.as_str(), get.path.as_str(), get.body.len()), ("GET", "/api/get?day=1", 0));
    let delete = triggered(&node, &sink, "sm-delete").await;
    assert_eq!((delete.method.as_str(), delete.path.as_str()), ("DELETE", "/api/old"));
    assert_eq!(delete.body.len(), 0);
    let sunday = coming(&node, &tasks["sm-delete"], 1_900_000_000).await[0];
    assert_eq!((sunday - 3 * 3600) / 86_400 % 7, 3, "a Sunday: the epoch began on a Thursday");

    let parent = triggered(&node, &sink, "sm-parent").await;
    let child = sink.await_of("sm-child", 1).await.remove(0);
    assert_eq!(child.header("xcron-parent-run-id"), parent.run());
    bad.store(true, Ordering::Relaxed);
    let parent = triggered(&node, &sink, "sm-parent").await;
    let keepers =
        until("word to the keepers", || async { sink.of("sm-parent").into_iter().find(|hit| hit.path == "/keepers") })
            .await;
    assert_eq!((keepers.header("xcron-alert"), keepers.run()), ("failed", parent.run()));
    assert_eq!(sink.of("sm-child").len(), 1, "not after a failure");

    let in_half_an_hour = tasks["TestApp.Trade.TimeoutCancel.1"]["next_time"].as_u64().expect("a time");
    assert!((1790..=1800).contains(&(in_half_an_hour - now().as_secs())), "{in_half_an_hour}");
    assert_eq!(tasks["TestApp.Trade.TimeoutCancel.2"]["next_time"], 1_900_000_000);
    let found = node.client.get("/xcron/listTasks?tag=topic:Trade.TimeoutCancel").await.ok();
    assert_eq!(found["tasks"].as_array().map(Vec::len), Some(2));
    assert_eq!(triggered(&node, &sink, "TestApp.Trade.TimeoutCancel.2").await.body, r#"{"order":2}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cases_of_the_others_work_as_written() {
    let sink = Sink::saying(|hit| match hit.path.as_str() {
        "/job/next" => Say::ok().header("Xcron-Next-At", (now().as_ms() + 1000).to_string()),
        "/dkron" => Say { body: "it is ok".into(), ..Say::ok() },
        _ => Say::ok(),
    })
    .await;
    let (_dir, node, tasks) = told(&sink).await;

    let interval = tasks["fss-interval"].clone();
    let (made, next) = (interval["create_time"].as_str().expect("a text"), interval["next_time"].as_u64());
    assert_eq!(next, Some(made.parse::<u64>().expect("a number") + 10));
    assert_eq!(coming(&node, &tasks["fss-cron"], 1_900_000_000).await, [1_900_000_200, 1_900_000_500]);
    let itself = sink.await_of("fss-next", 3).await;
    assert!(itself.windows(2).all(|w| w[1].due_ms() - w[0].due_ms() >= 1000), "as it says itself");

    let dkron = triggered(&node, &sink, "dkron-http").await;
    assert_eq!(
        (dkron.header("content-type"), dkron.header("x-token"), &dkron.body[..]),
        ("text/plain", "t", &b"payload"[..])
    );
    node.client.await_task("dkron-http", "a success", |task| task["last_run"]["state"] == "succeeded").await;
    // From Sunday 2030-03-17 17:46:40 UTC on: Monday 00:30 in Berlin.
    assert_eq!(coming(&node, &tasks["dkron-http"], 1_900_000_000).await[0], 1_900_020_600);

    // From that Sunday on; the third Friday of April is the 19th, and the clocks of Berlin have changed by then.
    for (id, next) in [
        ("xxl-demo", 1_901_124_000),
        ("quartz-cron", 1_902_816_900),
        ("eb-cron", 1_900_058_400),
        ("k8s-cleanup", 1_900_000_200),
        ("celery-report", 1_900_049_400),
        ("systemd-backup", 1_900_027_800),
        ("systemd-last-day", 1_901_142_000),
    ] {
        assert_eq!(coming(&node, &tasks[id], 1_900_000_000).await[0], next, "{id}");
    }
    assert_eq!(tasks["quartz-simple"]["next_time"], 1_900_000_000, "the start itself");

    // 01:00 in Shanghai is 17:00 UTC of the day before.
    assert_eq!(coming(&node, &tasks["clear-day"], 1_900_000_000).await[0] % 86_400, 17 * 3600);
    assert_eq!(coming(&node, &tasks["clear-month"], 1_900_000_000).await[0], 1_901_206_800, "2030-04-01 01:00 there");
    assert!(sink.await_of("job1", 1).await[0].due_ms() % 5000 == 0);
    let go = tasks.values().find(|task| task["callback"]["url"] == sink.url("/go")).expect("the last one");
    assert_eq!((&go["next_time"], &go["callback"]["body"]["order"]), (&json!(1_900_000_000), &json!("12306")));
}
