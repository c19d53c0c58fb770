//! What a task can be told beside its schedule and its URL, and the calls that change one or act on its runs.

mod support;

use std::collections::BTreeSet;

use serde_json::{json, Value};
use support::{
    named, node, node_with, now, once, pass, periodic, until, with, Answer, Client, Cluster, Hit, Say, Sink, TestNode,
};
use xcron::id::TaskId;

const EVERY_SECOND: &str = "* * * * * *";
/// A schedule that is not due while a test lasts.
const RARELY: &str = "0 0 29 2 *";
const NOWHERE: &str = "http://127.0.0.1:9/never";
const FAR_MS: u64 = 3_600_000;
const NO_RUN: &str = "0190b3f0-7a1e-8000-8f00-0123456789ab";

/// The same with more about its callback.
fn calling(mut task: Value, options: Value) -> Value {
    task["callback"] = with(task["callback"].clone(), options);
    task
}

/// A call about one task.
async fn about(client: &Client, call: &str, id: &str) -> Answer {
    client.post(&format!("/xcron/{call}"), &json!({"task_id": id})).await
}

async fn cancel(client: &Client, run: &str) -> Answer {
    client.post("/xcron/cancelRun", &json!({"run_id": run})).await
}

async fn update(client: &Client, id: &str, fields: Value) -> Answer {
    client.post("/xcron/updateTask", &with(fields, json!({"task_id": id}))).await
}

async fn await_run(client: &Client, id: &str, state: &str) -> Value {
    let path = format!("/xcron/queryRun?run_id={id}");
    // A run of the schedule is shown from when something of it is recorded.
    let data = || async { Some(client.get(&path).await.json["data"].clone()).filter(|run| run["state"] == state) };
    until(&format!("a run that is {state}"), data).await
}

/// The end of a task's one run.
async fn outcome(client: &Client, id: &str) -> Value {
    client.await_task(id, "an outcome", |t| t["run_count"] == 1).await["last_run"].clone()
}

fn dues(hits: &[Hit]) -> Vec<u64> {
    hits.iter().map(Hit::due_ms).collect()
}

/// An id of a task with this jitter whose offset is within these bounds, and the offset.
fn jittered(jitter_ms: u64, offsets: std::ops::Range<u64>) -> (String, u64) {
    let ids = (0..).map(|n| format!("j{jitter_ms}-{n}"));
    let offset = |id: &str| id.parse::<TaskId>().expect("an id").stable_hash() % jitter_ms;
    ids.map(|id| (offset(&id), id)).find(|(ms, _)| offsets.contains(ms)).map(|(ms, id)| (id, ms)).expect("one of them")
}

#[tokio::test(flavor = "multi_thread")]
async fn method_headers_and_body_are_as_the_task_says() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::start().await);
    let form = "application/x-www-form-urlencoded";
    let cases = [
        ("get", json!({"method": "GET", "body": {"not": "sent"}}), "GET", None, ""),
        ("put", json!({"method": "PUT", "body": [1]}), "PUT", Some("application/json"), "[1]"),
        ("patch", json!({"method": "PATCH"}), "PATCH", Some("application/json"), "{}"),
        ("bare-del", json!({"method": "DELETE"}), "DELETE", None, ""),
        ("del", json!({"method": "DELETE", "body": null}), "DELETE", Some("application/json"), "null"),
        (
            "form",
            json!({"content_type": form, "body": {"b": "ä &=", "a": 1, "n": null, "t": true}}),
            "POST",
            Some(form),
            "a=1&b=%C3%A4+%26%3D&n=&t=true",
        ),
        ("no-form", json!({"content_type": form}), "POST", Some(form), ""),
        ("text", json!({"content_type": "text/plain", "body": "ü \"x\"\n"}), "POST", Some("text/plain"), "ü \"x\"\n"),
        ("no-text", json!({"content_type": "text/plain"}), "POST", Some("text/plain"), ""),
        (
            "own-type",
            json!({"headers": {"Content-Type": "application/x-own"}, "method": "GET"}),
            "GET",
            Some("application/x-own"),
            "",
        ),
    ];
    for (id, options, method, kind, body) in cases {
        let headers = with(json!({"X-Extra": "1, 2", "authorization": "Bearer ü"}), {
            options.get("headers").cloned().unwrap_or(json!({}))
        });
        let options = with(options, json!({"headers": headers}));
        client.create(&named(calling(once(&sink.url("/x"), 0), options.clone()), id)).await;
        let hit = &sink.await_of(id, 1).await[0];
        assert_eq!((hit.method.as_str(), std::str::from_utf8(&hit.body).unwrap()), (method, body), "{id}");
        assert_eq!(hit.headers.get("content-type").map(|v| v.to_str().unwrap()), kind, "{id}");
        let length = (!body.is_empty() || !["GET", "DELETE"].contains(&method)).then(|| body.len().to_string());
        assert_eq!(hit.headers.get("content-length").map(|v| v.to_str().unwrap()), length.as_deref(), "{id}");
        assert_eq!((hit.header("x-extra"), hit.attempt()), ("1, 2", 1));
        assert_eq!(hit.headers["authorization"].as_bytes(), "Bearer ü".as_bytes());
        assert_eq!(hit.header("idempotency-key"), hit.run());
        assert_eq!(outcome(client, id).await["state"], "succeeded");
        let shown = client.task(id).await["callback"].clone();
        for (field, value) in options.as_object().unwrap() {
            assert_eq!(shown[field], *value, "{id} {field}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_a_content_type_has_no_case() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::start().await);
    for (id, sent, kind, body) in [
        ("json", "Application/JSON", "application/json", json!({"a": 1})),
        ("form", "application/X-WWW-form-urlencoded", "application/x-www-form-urlencoded", json!({"a": 1})),
        ("text", "TEXT/plain", "text/plain", json!("a")),
    ] {
        client.create(&named(calling(once(&sink.url("/x"), 0), json!({"content_type": sent, "body": body})), id)).await;
        let shown = client.task(id).await["callback"]["content_type"].clone();
        // The default is as if it were left out.
        assert_eq!(shown.as_str().unwrap_or("application/json"), kind);
        assert_eq!(sink.await_of(id, 1).await[0].header("content-type"), kind);
    }
}

/// Whichever definition a caller is shown, the next due time beside it is one of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_shown_with_the_next_due_time_of_the_schedule_that_is_shown() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let schedules = ["0 0 1 1 *", "0 0 1 7 *"];
    let mut next = std::collections::BTreeMap::new();
    client.create(&named(periodic(NOWHERE, schedules[0]), "a")).await;
    for format in schedules {
        let answer = client.post("/xcron/updateTask", &json!({"task_id": "a", "format": format})).await.ok();
        next.insert(format, answer["next_time"].as_u64().unwrap());
    }
    let (other, stop) = (client.clone(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stopped = stop.clone();
    let changes = tokio::spawn(async move {
        let mut count = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let change = json!({"task_id": "a", "format": schedules[count % 2]});
            other.post("/xcron/updateTask", &change).await.ok();
            count += 1;
        }
        count
    });
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..400 {
        let mut list = client.get("/xcron/listTasks?consistency=local").await.ok();
        let alone = client.get("/xcron/queryTask?task_id=a&consistency=local").await.ok();
        for task in [list["tasks"][0].take(), alone] {
            let format = task["format"].as_str().unwrap().to_owned();
            assert_eq!(task["next_time"].as_u64(), Some(next[format.as_str()]), "{task}");
            seen.insert(format);
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let count = changes.await.unwrap();
    assert_eq!(seen.len(), 2, "of {count} changes only one was seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_cannot_be_meant_are_refused_by_every_call_that_takes_them() {
    let (_dir, node) = node().await;
    let client = &node.client;
    client.create(&named(periodic(NOWHERE, RARELY), "p")).await;
    client.create(&named(once(NOWHERE, FAR_MS), "o")).await;
    let before = (client.task("p").await, client.task("o").await);
    let header = |name: &str| json!({"callback": {"url": NOWHERE, "headers": {name: "x"}}});
    let mut cases = vec![
        (json!({"callback": {"url": NOWHERE, "method": "HEAD"}}), 1000, "callback.method"),
        (json!({"callback": {"url": NOWHERE, "content_type": "text/html"}}), 1000, "callback.content_type"),
        (json!({"callback": {"url": NOWHERE, "content_type": "text/plain", "body": 1}}), 1000, "callback.body"),
        (json!({"callback": {"url": NOWHERE, "timeout_ms": 99}}), 1000, "callback.timeout_ms"),
        (json!({"callback": {"url": NOWHERE, "timeout_ms": 600_001}}), 1000, "callback.timeout_ms"),
        (json!({"callback": {"url": NOWHERE, "expect": {"status": [[200]]}}}), 1000, "callback.expect.status"),
        (json!({"callback": {"url": NOWHERE, "expect": {"status": [[600, 600]]}}}), 1000, "callback.expect.status"),
        (json!({"callback": {"url": NOWHERE, "expect": {"code": 1}}}), 1000, "callback.expect.code"),
        (json!({"callback": {"url": NOWHERE, "expect": {"body_contains": "x".repeat(1025)}}}), 1006, "1024"),
        (json!({"callback": {"url": NOWHERE, "headers": {"x": "y".repeat(4097)}}}), 1006, "4096"),
        (json!({"retry": {"max_attempts": 0}}), 1000, "retry.max_attempts"),
        (json!({"retry": {"multiplier": 0.99}}), 1000, "retry.multiplier"),
        (json!({"retry": {"min_backoff_ms": 5, "max_backoff_ms": 4}}), 1000, "retry.max_backoff_ms"),
        (json!({"retry": {"max_elapsed_ms": 0}}), 1000, "retry.max_elapsed_ms"),
        (json!({"retry": []}), 1000, "retry"),
        (json!({"jitter_ms": 86_400_001}), 1000, "jitter_ms"),
        (json!({"run_now": "yes"}), 1000, "run_now"),
    ];
    let reserved = ["Host", "content-length", "Transfer-Encoding", "connection", "XCRON-X", "webhook-id"];
    cases.extend(reserved.map(|name| (header(name), 1000, "callback.headers")));
    cases.push((header("Idempotency-Key"), 1000, "callback.headers.Idempotency-Key"));
    let of_one_type = [
        (json!({"start_time": -1}), json!({"start_time": 1}), "start_time"),
        (json!({"start_time": u64::MAX / 1000}), json!({"start_time": 1}), "start_time"),
        (json!({"start_time": 9, "end_time": 8}), json!({"end_time": 1_999_999_999}), "end_time"),
        (json!({"max_runs": 0}), json!({"max_runs": 1}), "max_runs"),
        (json!({"max_runs": u64::MAX}), json!({"max_runs": u64::MAX}), "max_runs"),
        (json!({"delay_ms": 5}), json!({"timezone": "UTC"}), ""),
    ];
    let (of_1, of_2): (Vec<_>, Vec<_>) =
        of_one_type.into_iter().map(|(p, o, names)| ((p, 1000, names), (o, 1000, names))).unzip();
    for (id, base, own) in [("p", periodic(NOWHERE, RARELY), of_1), ("o", once(NOWHERE, FAR_MS), of_2)] {
        for (fields, code, names) in own.iter().chain(&cases) {
            client.post("/xcron/createTask", &with(base.clone(), fields.clone())).await.is(*code, 400, names);
            update(client, id, fields.clone()).await.is(*code, 400, names);
        }
    }
    let past = json!({"end_time": now().as_secs() - 10});
    client.post("/xcron/createTask", &with(periodic(NOWHERE, RARELY), past.clone())).await.is(1008, 400, "end_time: ");
    update(client, "p", past).await.is(1008, 400, "end_time: ");
    assert_eq!((client.task("p").await, client.task("o").await), before, "nothing has changed");
    assert_eq!(client.pages("/xcron/listTasks?limit=9", "tasks").await.len(), 2, "and nothing was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_of_the_task_counts_instead_of_the_configured_one() {
    let (_dir, node) = node_with(|c| c.callback.timeout_ms = 300).await;
    let (client, sink) = (&node.client, Sink::saying(|_| Say::ok().after(900)).await);
    let task = with(once(&sink.url("/"), 0), json!({"retry": {"max_attempts": 1}}));
    client.create(&named(calling(task.clone(), json!({"timeout_ms": 100})), "short")).await;
    client.create(&named(calling(task.clone(), json!({"timeout_ms": 10_000})), "long")).await;
    client.create(&named(task, "default")).await;
    for (id, error) in [("short", Some("100 ms")), ("default", Some("300 ms")), ("long", None)] {
        let run = outcome(client, id).await;
        assert_eq!(run["state"], if error.is_some() { "failed" } else { "succeeded" }, "{run}");
        let told = run["reason"].as_str();
        assert!(told.is_some() == error.is_some() && told.is_none_or(|t| t.contains(error.unwrap())), "{run}");
    }
    assert_eq!(sink.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_expects_decides_what_is_success() {
    let (_dir, node) = node().await;
    let answers = |hit: &Hit| Say { body: "state: done".into(), ..Say::status(hit.path[1..].parse().unwrap()) };
    let (client, sink) = (&node.client, Sink::saying(answers).await);
    let contains = "does not contain";
    let cases = [
        (404, json!({"status": [[200, 204], [404, 404]]}), None),
        (302, json!({"status": [[302, 302]]}), None),
        (200, json!({"status": [[404, 404]]}), Some("200")),
        (205, json!({"status": [[200, 204]]}), Some("205")),
        (200, json!({"status": []}), None),
        (200, json!({"body_contains": "done"}), None),
        (200, json!({"body_contains": "Done"}), Some(contains)),
        (500, json!({"body_contains": "done"}), Some("500")),
        (500, json!({"status": [[500, 599]], "body_contains": "done"}), None),
        (500, json!({"status": [[500, 599]], "body_contains": "failed"}), Some(contains)),
    ];
    for (i, (status, expect, error)) in cases.into_iter().enumerate() {
        let task = with(once(&sink.url(&format!("/{status}")), 0), json!({"retry": {"max_attempts": 1}}));
        let id = format!("e{i}");
        client.create(&named(calling(task, json!({"expect": expect})), &id)).await;
        let run = outcome(client, &id).await;
        assert_eq!(run["state"], if error.is_some() { "failed" } else { "succeeded" }, "{expect}: {run}");
        assert_eq!(run["attempts"][0]["status"], status);
        assert!(error.is_none_or(|e| run["reason"].as_str().unwrap().contains(e)), "{run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_must_contain_is_looked_for_beyond_what_is_kept_of_it() {
    let (_dir, node) = node_with(|c| c.callback.answer_kept_bytes = 16).await;
    let answers = |_: &Hit| Say { body: format!("{}done", "x".repeat(20_000)), ..Say::ok() };
    let (client, sink) = (&node.client, Sink::saying(answers).await);
    let id = client.create(&calling(once(&sink.url("/"), 0), json!({"expect": {"body_contains": "done"}}))).await;
    let run = outcome(client, &id).await;
    assert_eq!((&run["state"], &run["attempts"][0]["answer"]), (&json!("succeeded"), &json!("x".repeat(16))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_has_its_own_way_of_trying_again() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::saying(|_| Say::status(500)).await);
    let tries = |id: &str, retry: Value| named(with(once(&sink.url("/"), 0), json!({"retry": retry})), id);
    client.create(&tries("two", json!({"max_attempts": 2}))).await;
    client.create(&tries("one", json!({"max_attempts": 1}))).await;
    let steady = json!({"max_attempts": 1000, "min_backoff_ms": 100, "max_backoff_ms": 100, "multiplier": 1,
                        "max_elapsed_ms": 700});
    client.create(&tries("elapsed", steady.clone())).await;
    for (id, attempts, reason) in [("two", 2, "2 attempts"), ("one", 1, "500")] {
        let run = outcome(client, id).await;
        assert_eq!((&run["state"], run["attempts"].as_array().unwrap().len()), (&json!("failed"), attempts));
        assert!(run["reason"].as_str().unwrap().contains(reason), "{run}");
        assert_eq!(sink.of(id).len(), attempts);
    }
    let run = outcome(client, "elapsed").await;
    assert!(run["reason"].as_str().unwrap().contains("within 700 ms"), "{run}");
    let attempts = run["attempts"].as_array().unwrap();
    assert!(attempts.len() >= 2 && attempts.len() < 1000, "{run}");
    for attempt in attempts {
        let due_ms = attempt["started_ms"].as_u64().unwrap() - attempt["lateness_ms"].as_u64().unwrap();
        assert!(due_ms <= run["due_time_ms"].as_u64().unwrap() + 700, "{run}");
    }
    let shown = client.task("elapsed").await["retry"].clone();
    assert_eq!(shown, with(steady, json!({"multiplier": 1.0})));
    // What is left out is as the configuration says.
    let shown = client.task("two").await["retry"].clone();
    assert_eq!((&shown["max_attempts"], &shown["max_backoff_ms"]), (&json!(2), &json!(400)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_say_which_due_times_count() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::start().await);
    let start = now().as_secs() + 3;
    let window = json!({"start_time": start, "end_time": start + 2});
    let task = with(periodic(&sink.url("/"), EVERY_SECOND), window.clone());
    let created = client.post("/xcron/createTask", &named(task, "window")).await.ok();
    assert_eq!(created["next_time"], start);
    client.create(&named(with(periodic(&sink.url("/"), EVERY_SECOND), json!({"max_runs": 2})), "two")).await;
    client.create(&named(with(periodic(&sink.url("/"), RARELY), json!({"run_now": true})), "now")).await;
    client.create(&named(with(once(&sink.url("/"), FAR_MS), json!({"run_now": true})), "once-now")).await;
    for (id, runs) in [("now", 1), ("once-now", 1), ("two", 2), ("window", 3)] {
        let task = client.await_task(id, "its runs", |t| t["run_count"] == runs).await;
        let ends = !id.ends_with("now");
        assert_eq!(task["state"], if ends { "finished" } else { "active" }, "{id}");
        assert_eq!(task["next_time"].is_null(), ends, "{id}");
    }
    pass(1200).await;
    let ms: Vec<u64> = (start..=start + 2).map(|s| s * 1000).collect();
    assert_eq!(dues(&sink.of("window")), ms);
    let two = dues(&sink.of("two"));
    assert_eq!((two.len(), two[1]), (2, two[0] + 1000));
    assert_eq!((sink.of("now").len(), sink.of("once-now").len()), (1, 1));
    assert!(sink.of("now")[0].lateness_ms() < 2000, "at once");
    let shown = client.task("window").await;
    assert_eq!((&shown["start_time"], &shown["end_time"]), (&window["start_time"], &window["end_time"]));
    // Sent again it is the same task, and does not run again.
    client.create(&named(with(periodic(&sink.url("/"), RARELY), json!({"run_now": true})), "now")).await;
    pass(200).await;
    assert_eq!(sink.of("now").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn jitter_moves_each_due_time_by_the_same_and_the_schedules_time_is_told() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::start().await);
    let (id, offset) = jittered(900, 300..800);
    client.create(&named(with(periodic(&sink.url("/"), EVERY_SECOND), json!({"jitter_ms": 900})), &id)).await;
    let (slow, far) = jittered(5000, 2500..3500);
    let begun = now().as_ms();
    client.create(&named(with(once(&sink.url("/"), 0), json!({"jitter_ms": 5000})), &slow)).await;
    let hits = sink.await_of(&id, 3).await;
    for hit in &hits {
        assert_eq!(hit.due_ms() % 1000, 0, "the schedule's time");
        assert!((offset..offset + 1500).contains(&hit.lateness_ms()), "{offset}: {}", hit.lateness_ms());
    }
    let dues = dues(&hits);
    assert!(dues.windows(2).all(|p| p[1] == p[0] + 1000), "none left out, none twice: {dues:?}");
    let hit = &sink.await_of(&slow, 1).await[0];
    assert!(hit.due_ms() < begun + 2000 && hit.lateness_ms() >= far, "{far}: {}", hit.lateness_ms());
    // Lateness is counted from when it was to be sent.
    let run = outcome(client, &slow).await;
    assert!(run["attempts"][0]["lateness_ms"].as_u64().unwrap() < 2000, "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn due_times_whose_jitter_has_not_passed_are_not_missed() {
    let (_dir, node) = node_with(|c| c.callback.misfire_window_ms = 1000).await;
    let sink = Sink::start().await;
    let (id, offset) = jittered(12_000, 8000..9000);
    node.client.create(&named(with(periodic(&sink.url("/"), EVERY_SECOND), json!({"jitter_ms": 12_000})), &id)).await;
    sink.await_of(&id, 1).await;
    let config = node.stop().await;
    pass(3500).await;
    let started = now().as_ms();
    let node = TestNode::start(config).await.ready().await;
    until("a due time that was to come when it started", || async {
        sink.of(&id).iter().any(|h| h.due_ms() + offset > started + 1000).then_some(())
    })
    .await;
    let runs = node.client.runs(&id).await;
    let missed: Vec<u64> =
        runs.iter().filter(|r| r["state"] == "missed").map(|r| r["due_time_ms"].as_u64().unwrap()).collect();
    assert!(!missed.is_empty(), "{runs:#?}");
    // It takes what is late as one look at the clock finds it, a little after the start.
    assert!(missed.iter().all(|due| due + offset < started + 1000), "{started} {offset}: {missed:?}");
    let dues: BTreeSet<u64> = sink.of(&id).iter().map(Hit::due_ms).chain(missed).collect();
    let (first, last) = (dues.first().unwrap(), dues.last().unwrap());
    assert_eq!(dues.len() as u64, (last - first) / 1000 + 1, "each has fired or was missed: {dues:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_task_fires_nothing_and_resumed_what_is_late_or_records_it_as_missed() {
    let (_dir, node) = node_with(|c| c.callback.misfire_window_ms = 1500).await;
    let (client, sink) = (&node.client, Sink::start().await);
    client.create(&named(periodic(&sink.url("/"), EVERY_SECOND), "p")).await;
    sink.await_of("p", 2).await;
    for _ in 0..2 {
        let paused = about(client, "pauseTask", "p").await.ok();
        assert_eq!(paused, json!({"task_id": "p", "state": "paused", "next_time": null}));
    }
    let acknowledged = now();
    let before = sink.of("p").len();
    pass(4700).await;
    assert_eq!(sink.of("p").len(), before, "nothing while it is paused");
    let task = client.task("p").await;
    assert_eq!((&task["state"], &task["next_time"]), (&json!("paused"), &Value::Null));
    let listed = client.get("/xcron/listTasks?state=paused").await.ok();
    assert_eq!(listed["tasks"][0]["task_id"], "p");
    let resumed_at = now();
    let resumed = about(client, "resumeTask", "p").await.ok();
    assert_eq!((&resumed["task_id"], &resumed["state"]), (&json!("p"), &json!("active")));
    assert!(resumed["next_time"].is_u64(), "{resumed}");
    until("the present", || async {
        sink.of("p").iter().any(|h| h.due_ms() > resumed_at.as_ms() && h.lateness_ms() < 1000).then_some(())
    })
    .await;
    assert_eq!(about(client, "resumeTask", "p").await.ok()["state"], "active", "twice is once");
    let runs = client.runs("p").await;
    client.delete("p").await.ok();
    let fired: BTreeSet<u64> = sink.of("p").iter().map(Hit::due_ms).collect();
    assert_eq!(fired.len(), sink.of("p").len(), "none twice");
    assert!(sink.of("p").iter().all(|h| h.at <= acknowledged || h.at >= resumed_at));
    let missed: Vec<&Value> = runs.iter().filter(|r| r["state"] == "missed").collect();
    assert!(missed.len() >= 2, "{runs:#?}");
    for run in &missed {
        assert_eq!((&run["reason"], &run["attempts"]), (&json!("paused"), &json!([])), "{run}");
        assert!(run["due_time_ms"].as_u64().unwrap() < resumed_at.as_ms() - 1500, "within the window it fires: {run}");
    }
    let mut all = fired.clone();
    all.extend(missed.iter().map(|r| r["due_time_ms"].as_u64().unwrap()));
    let (first, last) = (all.first().unwrap(), all.last().unwrap());
    assert_eq!(all.len() as u64, (last - first) / 1000 + 1, "each has fired or was missed: {all:?}");
    assert!(fired.iter().any(|due| (resumed_at.as_ms() - 1500..resumed_at.as_ms()).contains(due)), "late: {fired:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_up_retries_and_one_shots() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::saying(|h| Say::status(if h.attempt() < 3 { 500 } else { 200 })).await);
    let retry = json!({"retry": {"min_backoff_ms": 400, "max_backoff_ms": 400, "multiplier": 1}});
    client.create(&named(with(once(&sink.url("/"), 0), retry), "fails")).await;
    client.create(&named(once(&sink.url("/"), 300), "once")).await;
    sink.await_of("fails", 1).await;
    about(client, "pauseTask", "once").await.ok();
    about(client, "pauseTask", "fails").await.ok();
    let counted = sink.count();
    pass(1000).await;
    assert_eq!(sink.count(), counted);
    about(client, "resumeTask", "fails").await.ok();
    about(client, "resumeTask", "once").await.ok();
    sink.await_of("fails", 3).await;
    sink.await_of("once", 3).await;
    for id in ["fails", "once"] {
        assert_eq!(outcome(client, id).await["state"], "succeeded");
        let hits = sink.of(id);
        assert_eq!(hits.iter().map(Hit::attempt).collect::<Vec<_>>(), [1, 2, 3], "{id}: they go on where they were");
        assert!(hits.iter().all(|h| h.run() == hits[0].run()));
        for call in ["pauseTask", "resumeTask"] {
            about(client, call, id).await.is(1041, 409, "finished");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_about_what_is_not_there_are_1040_and_malformed_ones_1000() {
    let (_dir, node) = node().await;
    let client = &node.client;
    for call in ["pauseTask", "resumeTask", "triggerTask", "updateTask"] {
        let path = format!("/xcron/{call}");
        about(client, call, "nobody").await.is(1040, 404, "task");
        client.post(&path, &json!({})).await.is(1000, 400, "task_id: missing");
        client.post(&path, &json!({"task_id": 1})).await.is(1000, 400, "task_id");
        client.post(&path, &json!({"task_id": "a b"})).await.is(1000, 400, "task_id");
        client.post(&path, &json!({"task_id": null})).await.is(1000, 400, "task_id");
        client.post(&format!("{path}?a=1"), &json!({"task_id": "x"})).await.is(1000, 400, "a: unknown");
        client.send("POST", &path, "[]").await.is(1000, 400, "object");
        client.send("POST", &path, r#"{"task_id":"a","task_id":"b"}"#).await.is(1000, 400, "twice");
        assert_eq!(client.get(&path).await.status, 405);
        if call != "updateTask" {
            client.post(&path, &json!({"task_id": "x", "force": true})).await.is(1000, 400, "force");
        }
    }
    cancel(client, NO_RUN).await.is(1040, 404, "run");
    cancel(client, "x").await.is(1000, 400, "run_id");
    cancel(client, &NO_RUN.replace('-', "")).await.is(1000, 400, "run_id");
    client.post("/xcron/cancelRun", &json!({})).await.is(1000, 400, "run_id: missing");
    client.post("/xcron/cancelRun", &json!({"run_id": NO_RUN, "x": 1})).await.is(1000, 400, "x: unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_is_a_run_beside_the_schedule() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::start().await);
    client.create(&named(periodic(&sink.url("/"), RARELY), "p")).await;
    let next = client.task("p").await["next_time"].clone();
    let (first, second) = (client.trigger("p").await, client.trigger("p").await);
    assert_ne!(first, second);
    let hits = sink.await_of("p", 2).await;
    let carried: BTreeSet<&str> = hits.iter().map(Hit::run).collect();
    assert_eq!(carried, BTreeSet::from([first.as_str(), second.as_str()]));
    for id in [&first, &second] {
        let run = await_run(client, id, "succeeded").await;
        assert_eq!((&run["task_id"], &run["attempts"][0]["number"]), (&json!("p"), &json!(1)));
        let hit = hits.iter().find(|h| h.run() == id.as_str()).unwrap();
        assert_eq!(run["due_time_ms"], hit.due_ms());
        assert!(hit.lateness_ms() < 2000);
        assert!(client.runs("p").await.contains(&run));
    }
    let task = client.task("p").await;
    assert_eq!((&task["next_time"], &task["state"], &task["run_count"]), (&next, &json!("active"), &json!(2)));

    // A paused task runs where it is asked to, and stays paused; a finished one too.
    about(client, "pauseTask", "p").await.ok();
    let paused = client.trigger("p").await;
    await_run(client, &paused, "succeeded").await;
    assert_eq!(client.task("p").await["state"], "paused");
    client.create(&named(once(&sink.url("/"), 0), "done")).await;
    client.await_task("done", "its end", |t| t["state"] == "finished").await;
    let again = client.trigger("done").await;
    await_run(client, &again, "succeeded").await;
    let task = client.task("done").await;
    assert_eq!((&task["state"], &task["run_count"]), (&json!("finished"), &json!(2)));
    assert_eq!(sink.count(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cancelled_is_not_tried_again_and_what_was_going_is_not_recorded() {
    let (_dir, node) = node().await;
    let answers = |h: &Hit| if h.task() == "slow" { Say::ok().after(700) } else { Say::status(500) };
    let (client, sink) = (&node.client, Sink::saying(answers).await);
    let retry = json!({"retry": {"min_backoff_ms": 86_400_000, "max_backoff_ms": 86_400_000}});
    client.create(&named(with(periodic(&sink.url("/"), RARELY), retry), "waits")).await;
    client.create(&named(once(&sink.url("/"), 0), "slow")).await;

    let waits = client.trigger("waits").await;
    let run = until("a run that waits for its retry", || async {
        Some(client.run(&waits).await).filter(|r| r["next_attempt_ms"].is_u64() && r["attempts"][0].is_object())
    })
    .await;
    assert_eq!(run["state"], "pending");
    cancel(client, &waits).await.ok();
    let run = client.run(&waits).await;
    assert_eq!((&run["state"], run["attempts"].as_array().unwrap().len()), (&json!("cancelled"), 1));
    assert!(run["reason"].as_str().unwrap().contains("cancelled") && run["next_attempt_ms"].is_null(), "{run}");
    let task = client.task("waits").await;
    assert_eq!((&task["state"], &task["run_count"]), (&json!("active"), &json!(0)), "the task goes on");

    let going = sink.await_of("slow", 1).await[0].run().to_owned();
    await_run(client, &going, "running").await;
    cancel(client, &going).await.ok();
    let cancelled = client.task("slow").await;
    assert_eq!((&cancelled["state"], &cancelled["last_run"]["state"]), (&json!("finished"), &json!("cancelled")));
    let attempts = &cancelled["last_run"]["attempts"];
    assert!(attempts[0]["error"].as_str().is_some_and(|error| error.contains("cancelled")), "it was made: {attempts}");
    pass(1200).await;
    assert_eq!(client.task("slow").await, cancelled, "its answer is not recorded");
    assert_eq!((sink.of("slow").len(), sink.of("waits").len()), (1, 1));
    // What has ended cannot be ended, and what is to come is not there yet.
    for ended in [&waits, &going] {
        cancel(client, ended).await.is(1040, 404, "no such run");
    }
    let again = client.trigger("waits").await;
    client.delete("waits").await.ok();
    cancel(client, &again).await.is(1040, 404, "no such run");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_laid_over_the_task_and_what_is_going_ends_as_it_began() {
    let (_dir, node) = node().await;
    let answers = |h: &Hit| match (&h.body[..], h.attempt()) {
        (b"\"old\"", 1) => Say::status(500).after(500),
        _ => Say::ok(),
    };
    let (client, sink) = (&node.client, Sink::saying(answers).await);
    let task = with(periodic(&sink.url("/old"), RARELY), json!({"name": "n", "tags": {"a": "b"}}));
    client.create(&named(calling(task, json!({"body": "old", "headers": {"x": "1"}})), "p")).await;
    let created = client.task("p").await;
    let began = client.trigger("p").await;
    sink.await_of("p", 1).await;
    let fields = json!({"callback": {"url": sink.url("/new"), "body": "new"}, "name": null, "tags": {"c": "d"}});
    let updated = update(client, "p", fields).await.ok();
    assert_eq!(updated, json!({"task_id": "p", "next_time": created["next_time"]}));
    let next = client.trigger("p").await;
    await_run(client, &next, "succeeded").await;
    await_run(client, &began, "succeeded").await;
    let seen: Vec<(String, u32, String, String)> = sink
        .of("p")
        .iter()
        .map(|h| (h.run().to_owned(), h.attempt(), h.path.clone(), String::from_utf8_lossy(&h.body).into_owned()))
        .collect();
    assert!(
        seen.contains(&(began.clone(), 2, "/new".into(), "\"new\"".into())),
        "it goes where the task goes: {seen:?}"
    );
    assert!(seen.contains(&(next, 1, "/new".into(), "\"new\"".into())), "{seen:?}");
    assert!(sink.of("p").iter().all(|h| h.header("x") == "1"), "what is not sent stays");
    let shown = client.task("p").await;
    assert_eq!((shown.get("name"), &shown["tags"]), (None, &json!({"c": "d"})));
    for field in ["create_time", "format", "timezone", "next_time"] {
        assert_eq!(shown[field], created[field]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_the_schedule_counts_from_now_and_of_anything_else_keeps_the_due_time() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::start().await);
    client.create(&named(periodic(&sink.url("/"), "@every 1h"), "e")).await;
    let next = client.task("e").await["next_time"].clone();
    pass(1300).await;
    for fields in [json!({}), json!({"name": "x"}), json!({"format": "@every 1h", "retry": {"max_attempts": 2}})] {
        assert_eq!(update(client, "e", fields).await.ok()["next_time"], next);
    }
    let updated = update(client, "e", json!({"format": "@every 2s"})).await.ok();
    let hits = sink.await_of("e", 2).await;
    assert_eq!(hits[0].due_ms() / 1000, updated["next_time"].as_u64().unwrap(), "as was told");
    assert_eq!(hits[1].due_ms() - hits[0].due_ms(), 2000, "every two seconds from the first on");

    // A one-shot whose time has passed is active again with a new one, in either form.
    client.create(&named(once(&sink.url("/"), 0), "o")).await;
    client.await_task("o", "its end", |t| t["state"] == "finished").await;
    update(client, "o", json!({"delay_ms": 200})).await.ok();
    client.await_task("o", "another run", |t| t["run_count"] == 2).await;
    let at = now().as_ms() + 500;
    let updated = update(client, "o", json!({"format": at.to_string()})).await.ok();
    assert_eq!(updated["next_time"], at / 1000);
    assert_eq!(client.task("o").await.get("delay_ms"), None);
    let hits = sink.await_of("o", 3).await;
    assert_eq!(hits[2].due_ms(), at);
    update(client, "o", json!({"format": "1000000000"})).await.is(1002, 400, "past");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_checked_as_a_creation_is_and_a_wrong_one_changes_nothing() {
    let (_dir, node) = node().await;
    let client = &node.client;
    client.create(&named(periodic(NOWHERE, RARELY), "p")).await;
    client.create(&named(once(NOWHERE, FAR_MS), "o")).await;
    let before = (client.task("p").await, client.task("o").await);
    let cases = [
        ("p", json!({"type": 2}), 1000, "type"),
        ("p", json!({"type": 2, "format": "1999999999"}), 1000, "type"),
        ("p", json!({"type": 2, "delay_ms": 5}), 1000, "type"),
        ("o", json!({"type": 1}), 1000, "type"),
        ("o", json!({"type": 1, "format": "* * * * *"}), 1000, "type"),
        ("p", json!({"type": 3}), 1020, "type"),
        ("p", json!({"type": "1"}), 1000, "type"),
        ("p", json!({"type": null}), 1000, "type"),
        ("p", json!({"format": null}), 1000, "format: missing"),
        ("p", json!({"callback": null}), 1000, "callback"),
        ("p", json!({"callback": {"url": null}}), 1000, "callback.url: missing"),
        ("p", json!({"callback": {"url": "ftp://x/"}}), 1003, "callback.url"),
        ("p", json!({"callback": "x"}), 1000, "callback"),
        ("p", json!({"callback": {"uri": NOWHERE}}), 1000, "callback.uri"),
        ("p", json!({"colour": 1}), 1000, "colour"),
        ("p", json!({"run_count": 0}), 1000, "run_count"),
        ("p", json!({"state": "paused"}), 1000, "state"),
        ("p", json!({"format": "61 * * * *"}), 1005, "format"),
        ("p", json!({"format": "0 0 30 2 *"}), 1008, "never"),
        ("p", json!({"timezone": "x"}), 1007, "timezone"),
        ("p", json!({"name": "x".repeat(257)}), 1006, "name"),
        ("o", json!({"format": "x"}), 1001, "format"),
        ("o", json!({"format": "1999999999", "delay_ms": 5}), 1000, "delay_ms"),
        ("p", json!({"x": null}), 1000, "x: unknown field, expected one of `type`"),
        ("p", json!({"body": null}), 1000, "body: unknown field"),
        ("p", json!({"callback": {"x": null}}), 1000, "callback.x: unknown field, expected one of `url`"),
    ];
    for (id, fields, code, names) in cases {
        let answer = update(client, id, fields.clone()).await;
        assert_eq!((answer.code, answer.status), (code, 400), "{fields}: {}", answer.json);
        assert!(answer.message().contains(names), "{fields}: {}", answer.message());
    }
    for text in [
        r#"{"task_id":"p","name":"a","name":"b"}"#,
        r#"{"task_id":"p","callback":{"method":"PUT","method":"GET"}}"#,
        r#"{"task_id":"p","tags":{"a":"1","a":"2"}}"#,
    ] {
        client.send("POST", "/xcron/updateTask", text).await.is(1000, 400, "twice");
    }
    let big = "x".repeat(2 << 20);
    update(client, "p", json!({"callback": {"body": big}})).await.is(1006, 413, "limit");
    assert_eq!((client.task("p").await, client.task("o").await), before);

    // Null takes away, except as a body, where it is meant.
    let fields =
        json!({"jitter_ms": 5, "retry": {"max_attempts": 2}, "callback": {"timeout_ms": 500, "method": "PUT"}});
    update(client, "p", fields).await.ok();
    assert_eq!(client.task("p").await["jitter_ms"], 5);
    let fields = json!({"type": 1, "jitter_ms": null, "retry": null, "callback": {"timeout_ms": null, "method": null}});
    update(client, "p", fields).await.ok();
    assert_eq!(client.task("p").await, before.0);
    update(client, "p", json!({"callback": {"body": null}})).await.ok();
    assert_eq!(client.task("p").await["callback"], json!({"url": NOWHERE, "body": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_of_one_task_at_once_lose_none_of_them() {
    let (_dir, node) = node().await;
    let client = &node.client;
    client.create(&named(periodic(NOWHERE, RARELY), "p")).await;
    let fields = [json!({"name": "n"}), json!({"tags": {"a": "b"}}), json!({"jitter_ms": 7})];
    let all = fields.iter().map(|fields| async {
        until("an update that is done", || async {
            let answer = update(client, "p", fields.clone()).await;
            assert!([0, 1041].contains(&answer.code), "{}", answer.json);
            (answer.code == 0).then_some(())
        })
        .await;
    });
    futures::future::join_all(all).await;
    let task = client.task("p").await;
    assert_eq!((&task["name"], &task["tags"]["a"], &task["jitter_ms"]), (&json!("n"), &json!("b"), &json!(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_updated_task_is_the_task_that_a_create_is_held_against() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let (old, new) = (named(periodic(NOWHERE, RARELY), "p"), named(periodic(NOWHERE, "0 0 1 1 *"), "p"));
    client.create(&old).await;
    update(client, "p", json!({"format": "0 0 1 1 *"})).await.ok();
    client.post("/xcron/createTask", &old).await.is(1041, 409, "another");
    client.create(&new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_what_was_paused_changed_bounded_cancelled_and_what_waits() {
    let (_dir, node) = node().await;
    let sink = Sink::saying(|h| Say::status(if h.task() == "waits" { 500 } else { 200 })).await;
    let client = &node.client;
    client.create(&named(periodic(&sink.url("/"), EVERY_SECOND), "paused")).await;
    client.create(&named(with(periodic(&sink.url("/"), EVERY_SECOND), json!({"max_runs": 4})), "four")).await;
    let all = json!({"jitter_ms": 9, "start_time": 1, "end_time": 4_000_000_000_u64, "max_runs": 5, "run_now": true,
                     "retry": {"max_attempts": 3, "max_elapsed_ms": 86_400_000}});
    let options = json!({"method": "PUT", "content_type": "text/plain", "body": "x", "headers": {"a": "b"},
                         "timeout_ms": 5000, "expect": {"status": [[200, 201]], "body_contains": ""}});
    client.create(&named(calling(with(periodic(&sink.url("/"), RARELY), all), options), "all")).await;
    outcome(client, "all").await;
    let retry = json!({"retry": {"min_backoff_ms": 1500, "max_backoff_ms": 1500, "multiplier": 1, "max_attempts": 50}});
    client.create(&named(with(periodic(&sink.url("/"), RARELY), retry), "waits")).await;
    sink.await_of("four", 2).await;
    about(client, "pauseTask", "paused").await.ok();
    let waits = client.trigger("waits").await;
    sink.await_of("waits", 1).await;
    update(client, "waits", json!({"callback": {"body": "new"}})).await.ok();
    let cancelled = client.trigger("waits").await;
    sink.await_of("waits", 2).await;
    cancel(client, &cancelled).await.ok();
    let paused = sink.of("paused").len();
    let kept = (client.task("all").await, client.run(&cancelled).await);
    let crashed = node.crash().await;

    let node = TestNode::start(crashed).await.ready().await;
    let client = &node.client;
    assert_eq!((client.task("all").await, client.run(&cancelled).await), kept);
    assert_eq!(client.task("paused").await["state"], "paused");
    client.await_task("four", "its end", |t| t["state"] == "finished").await;
    let four: BTreeSet<u64> = dues(&sink.of("four")).into_iter().collect();
    assert_eq!(four.len(), 4, "those before the restart count: {four:?}");
    let hits = until("a later attempt of the run that waits", || async {
        let hits: Vec<Hit> = sink.of("waits").into_iter().filter(|h| h.run() == waits).collect();
        (hits.len() >= 2).then_some(hits)
    })
    .await;
    assert_eq!(&hits[0].body[..], b"{}");
    assert!(hits[1..].iter().all(|h| &h.body[..] == b"\"new\""), "it sends what the task sends now");
    assert!(hits.windows(2).all(|p| p[1].attempt() >= p[0].attempt()));
    assert_eq!(sink.of("paused").len(), paused, "it stays paused");
    about(client, "resumeTask", "paused").await.ok();
    sink.await_of("paused", paused + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_through_a_follower_holds_under_the_next_leader() {
    let mut cluster = Cluster::three().await;
    let sink = Sink::saying(|h| Say::status(if h.task() == "retries" { 500 } else { 200 })).await;
    let leader = cluster.leader().await;
    let follower = cluster.followers().await[0];
    let retry = json!({"retry": {"min_backoff_ms": 100, "max_backoff_ms": 100, "max_attempts": 1000}});
    cluster.client(leader).create(&named(periodic(&sink.url("/"), EVERY_SECOND), "p")).await;
    cluster.client(leader).create(&named(periodic(&sink.url("/"), EVERY_SECOND), "on")).await;
    cluster.client(leader).create(&named(with(once(&sink.url("/"), 0), retry), "retries")).await;
    sink.await_of("p", 1).await;
    sink.await_of("retries", 2).await;
    let acknowledged = {
        let client = cluster.client(follower);
        assert_eq!(about(client, "pauseTask", "p").await.ok()["state"], "paused");
        assert_eq!(about(client, "pauseTask", "retries").await.ok()["state"], "paused");
        now()
    };
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    let so_far = sink.of("on").len();
    sink.await_of("on", so_far + 3).await;
    for id in ["p", "retries"] {
        let late: Vec<Hit> = sink.of(id).into_iter().filter(|h| h.at > acknowledged).collect();
        assert!(late.is_empty(), "{id}: {late:?}");
        assert_eq!(cluster.client(next).task(id).await["state"], "paused");
    }
    let attempts = sink.of("retries").len();
    about(cluster.client(follower), "resumeTask", "retries").await.ok();
    let hits = sink.await_of("retries", attempts + 1).await;
    assert!(hits.windows(2).all(|p| p[0].run() == p[1].run() && p[0].attempt() < p[1].attempt()), "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_keeps_its_id_and_its_number_over_a_crash_of_the_leader() {
    let mut cluster = Cluster::three().await;
    let sink = Sink::saying(|h| Say::status(if h.attempt() < 3 { 500 } else { 200 }).header("retry-after", "3")).await;
    let leader = cluster.leader().await;
    cluster.client(leader).create(&named(once(&sink.url("/"), 0), "o")).await;
    cluster.client(leader).create(&named(periodic(&sink.url("/"), RARELY), "t")).await;
    let triggered = cluster.client(leader).trigger("t").await;
    sink.await_count(2).await;
    let waiting =
        cluster.client(leader).await_task("o", "a retry", |t| t["last_run"]["next_attempt_ms"].is_u64()).await;
    cluster.client(leader).await_task("t", "a retry", |t| t["last_run"]["attempts"][0].is_object()).await;
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    let shown = cluster.client(next).task("o").await["last_run"]["next_attempt_ms"].clone();
    assert_eq!(shown, waiting["last_run"]["next_attempt_ms"], "the time of the next attempt is the cluster's");
    for id in ["o", "t"] {
        assert_eq!(outcome(cluster.client(next), id).await["state"], "succeeded");
        let hits = sink.of(id);
        assert_eq!(hits.iter().map(Hit::attempt).collect::<Vec<_>>(), [1, 2, 3], "{id}");
        assert!(hits.iter().all(|h| h.run() == hits[0].run() && h.due_ms() == hits[0].due_ms()), "{id}");
        assert!(hits.windows(2).all(|p| p[1].at.ms_since(p[0].at) >= 3000 && p[0].fence() < p[1].fence()), "{id}");
    }
    assert_eq!(sink.of("t")[0].run(), triggered);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_takes_each_call() {
    let cluster = Cluster::three().await;
    let sink = Sink::saying(|h| Say::status(if h.task() == "fails" { 500 } else { 200 })).await;
    cluster.client(0).create(&named(periodic(&sink.url("/"), RARELY), "p")).await;
    let retry = json!({"retry": {"min_backoff_ms": 86_400_000, "max_backoff_ms": 86_400_000}});
    cluster.client(0).create(&named(with(periodic(&sink.url("/"), RARELY), retry), "fails")).await;
    let mut runs = BTreeSet::new();
    for i in 0..3 {
        let (client, other) = (cluster.client(i), cluster.client((i + 1) % 3));
        let id = client.trigger("p").await;
        let run = await_run(other, &id, "succeeded").await;
        assert_eq!(sink.of("p").last().unwrap().run(), id);
        assert_eq!(other.task("p").await["last_run"], run);
        assert!(runs.insert(id));

        assert_eq!(about(client, "pauseTask", "p").await.ok()["state"], "paused");
        assert_eq!(other.task("p").await["state"], "paused");
        assert_eq!(about(other, "resumeTask", "p").await.ok()["state"], "active");
        assert_eq!(client.task("p").await["state"], "active");

        update(client, "p", json!({"name": format!("n{i}")})).await.ok();
        assert_eq!(other.task("p").await["name"], format!("n{i}"));

        let waits = client.trigger("fails").await;
        sink.await_of("fails", i + 1).await;
        cancel(other, &waits).await.ok();
        assert_eq!(client.run(&waits).await["state"], "cancelled");
        about(client, "triggerTask", "nobody").await.is(1040, 404, "task");
    }
    assert_eq!(sink.of("p").len(), 3);
}
