//! Firing by one node: what is sent, when, how often, and what is recorded of it.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use serde_json::{json, Value};
use support::{
    assert_distinct, config, named, node, node_with, now, once, pass, periodic, until, with, Hit, Say, Sink, TestNode,
};
use xcron::clock::Clock;
use xcron::dispatcher::transport::{Failure, Found, Over, Request, Transport};

const EVERY_SECOND: &str = "* * * * * *";

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_has_the_method_the_headers_and_the_very_bytes() {
    let (_dir, node) = node().await;
    let sink = Sink::start().await;
    let bodies = [
        r#"{"b":1,"a":2,"B":[ 1 , 2 ]}"#,
        r#"{"n":1.0,"m":1e400,"k":-0,"j":123456789012345678901234567890.10}"#,
        r#""ä\u00e4 \ud83d\ude00 😀 \n""#,
        "null",
        "  [ true,\t{} ]",
        r#"{"a":1,"a":2}"#,
    ];
    for (i, body) in bodies.iter().enumerate() {
        let url = sink.url(&format!("/hook/{i}?x=%20y"));
        let task = format!(r#"{{"type":2,"delay_ms":0,"task_id":"b{i}","callback":{{"url":"{url}","body":{body}}}}}"#);
        node.client.send("POST", "/xcron/createTask", task).await.ok();
    }
    node.client.create(&named(once(&sink.url("/none"), 0), "none")).await;
    sink.await_count(bodies.len() + 1).await;
    for (i, body) in bodies.iter().enumerate() {
        let hit = &sink.of(&format!("b{i}"))[0];
        assert_eq!(std::str::from_utf8(&hit.body).unwrap(), body.trim(), "{i}");
        assert_eq!((hit.method.as_str(), hit.path.as_str()), ("POST", format!("/hook/{i}?x=%20y").as_str()));
    }
    let hit = &sink.of("none")[0];
    assert_eq!(&hit.body[..], b"{}", "the default");
    assert_eq!(hit.header("content-type"), "application/json");
    assert_eq!(hit.header("user-agent"), concat!("xcron/", env!("CARGO_PKG_VERSION")));
    assert_eq!((hit.header("idempotency-key"), hit.attempt()), (hit.run(), 1));
    hit.run().parse::<uuid::Uuid>().unwrap();
    assert!(hit.fence().0 >= 1, "a term");
    let run = node.client.await_task("none", "its run", |t| t["run_count"] == 1).await["last_run"].clone();
    assert_eq!((&run["run_id"], &run["due_time_ms"]), (&json!(hit.run()), &json!(hit.due_ms())));
    let names: BTreeSet<&str> = hit.headers.keys().map(|n| n.as_str()).collect();
    let expected = [
        "xcron-task-id",
        "xcron-run-id",
        "idempotency-key",
        "xcron-scheduled-at",
        "xcron-attempt",
        "xcron-fence",
        "user-agent",
        "content-type",
        "content-length",
        "host",
        "accept",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    assert_distinct(sink.hits().iter().map(|h| h.run().to_owned()).collect());
    assert_distinct(sink.hits().iter().map(Hit::fence).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_early_and_little_is_late() {
    let (_dir, node) = node().await;
    let sink = Sink::start().await;
    let tasks: Vec<Value> = (0..60).map(|i| once(&sink.url("/"), 40 * i)).collect();
    node.client.create_all(&tasks).await;
    let at = now().as_ms() + 1234;
    let exact = json!({"type": 2, "format": at.to_string(), "task_id": "exact", "callback": {"url": sink.url("/")}});
    node.client.create(&exact).await;
    let hits = sink.await_count(61).await;
    let latest = hits.iter().map(Hit::lateness_ms).max().unwrap();
    assert!(latest < 2000, "{latest} ms late");
    assert_eq!(sink.of("exact")[0].due_ms(), at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_periodic_task_fires_each_due_time_once_until_it_is_deleted() {
    let (_dir, node) = node().await;
    let sink = Sink::start().await;
    node.client.create(&named(periodic(&sink.url("/"), EVERY_SECOND), "s")).await;
    node.client.create(&named(periodic(&sink.url("/"), "@every 1s"), "e")).await;
    sink.await_of("s", 4).await;
    sink.await_of("e", 3).await;
    for id in ["s", "e"] {
        node.client.delete(id).await.ok();
        let counted = sink.of(id).len();
        let hits = sink.of(id);
        assert!(hits.windows(2).all(|p| p[1].due_ms() == p[0].due_ms() + 1000), "{id}: none left out, none twice");
        hits.iter().for_each(|h| assert!(h.lateness_ms() < 2000));
        assert!(id == "e" || hits.iter().all(|h| h.due_ms() % 1000 == 0));
        pass(1300).await;
        assert_eq!(sink.of(id).len(), counted, "{id}: no attempt after the acknowledged delete");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_stops_the_retries_too() {
    let (_dir, node) = node().await;
    let sink = Sink::saying(|_| Say::status(500)).await;
    let ids = ["a", "b", "c", "d", "e"];
    for id in ids {
        node.client.create(&named(once(&sink.url("/"), 0), id)).await;
    }
    for id in ids {
        sink.await_of(id, 1).await;
        node.client.delete(id).await.ok();
        let acknowledged = now();
        pass(300).await;
        assert!(sink.of(id).iter().all(|h| h.at <= acknowledged), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_retried_under_the_same_run_until_it_succeeds() {
    let (_dir, node) = node().await;
    let answers = |hit: &Hit| match (hit.attempt(), hit.path.as_str()) {
        (4.., _) => Say::ok(),
        (_, "/500") => Say::status(500),
        (_, "/404") => Say::status(404),
        (_, "/hang") => Say::nothing(),
        _ => Say::status(302).header("location", "/elsewhere"),
    };
    let sink = Sink::saying(answers).await;
    node.client.create(&named(once(&sink.url("/500"), 0), "500")).await;
    node.client.create(&named(once(&sink.url("/404"), 0), "404")).await;
    node.client.create(&named(once(&sink.url("/redirect"), 0), "redirect")).await;
    for (id, status, error) in [("500", 500, "500"), ("404", 404, "404"), ("redirect", 302, "redirect")] {
        let task = node.client.await_task(id, "an outcome", |t| t["run_count"] == 1).await;
        assert_eq!(task["state"], "finished");
        let runs = node.client.runs(id).await;
        assert_eq!((runs.len(), &runs[0]["state"]), (1, &json!("succeeded")));
        let attempts = runs[0]["attempts"].as_array().unwrap();
        let seen: Vec<u64> = attempts.iter().map(|a| a["number"].as_u64().unwrap()).collect();
        assert_eq!(seen, [1, 2, 3, 4], "{id}");
        for attempt in &attempts[..3] {
            assert_eq!(attempt["status"], status);
            assert!(attempt["error"].as_str().unwrap().contains(error), "{attempt}");
        }
        assert_eq!((&attempts[3]["status"], &attempts[3]["error"]), (&json!(200), &Value::Null));
        let hits = sink.of(id);
        assert_eq!(hits.iter().map(Hit::attempt).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(hits.iter().all(|h| h.run() == hits[0].run() && h.due_ms() == hits[0].due_ms()));
        assert!(hits.windows(2).all(|p| p[0].fence() < p[1].fence()), "{id}: fences grow");
    }
    assert!(sink.hits().iter().all(|h| h.path != "/elsewhere"), "redirects are not followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_attempts_end_the_run_as_failed_with_the_reason() {
    let (_dir, node) = node_with(|c| {
        c.callback.timeout_ms = 200;
        c.callback.retry.max_attempts = 3;
    })
    .await;
    let sink = Sink::saying(|_| Say::nothing()).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    node.client.create(&named(once(&sink.url("/"), 0), "hangs")).await;
    node.client.create(&named(once(&format!("http://{closed}/"), 0), "refuses")).await;
    for (id, error) in [("hangs", "200 ms"), ("refuses", "refused")] {
        let task = node.client.await_task(id, "an outcome", |t| t["run_count"] == 1).await;
        let run = &task["last_run"];
        assert_eq!((&run["state"], &task["state"]), (&json!("failed"), &json!("finished")));
        let reason = run["reason"].as_str().unwrap();
        assert!(reason.contains('3') && reason.contains(error), "{reason}");
        let attempts = run["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 3);
        for attempt in attempts {
            assert_eq!(attempt["status"], Value::Null);
            assert!(attempt["error"].as_str().unwrap().contains(error), "{attempt}");
        }
        assert_eq!(node.client.get(&format!("/xcron/listRuns?task_id={id}&state=failed")).await.ok()["runs"][0], *run);
    }
    assert_eq!(sink.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_waited_for() {
    let (_dir, node) = node().await;
    let sink =
        Sink::saying(|h| if h.attempt() == 1 { Say::status(503).header("retry-after", "1") } else { Say::ok() }).await;
    let id = node.client.create(&once(&sink.url("/"), 0)).await;
    let hits = sink.await_of(&id, 2).await;
    assert!(hits[1].at.ms_since(hits[0].at) >= 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_can_be_a_date() {
    let (_dir, node) = node().await;
    let sink = Sink::saying(|hit| {
        // The sink's server dates its answer by the same clock; a date has whole seconds.
        let until = std::time::UNIX_EPOCH + Duration::from_secs(hit.at.as_secs() + 2);
        match hit.attempt() {
            1 => Say::status(503).header("retry-after", httpdate::fmt_http_date(until)),
            _ => Say::ok(),
        }
    })
    .await;
    let id = node.client.create(&once(&sink.url("/"), 0)).await;
    let hits = sink.await_of(&id, 2).await;
    assert!(hits[1].at.ms_since(hits[0].at) >= 1000, "the backoff alone is at most 50 ms");
}

const SECRETS: [&str; 3] = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_c2Vjb25kc2Vjb25kc2Vjb25kc2Vjb25k",
    "whsec_dGhpcmQtdGhpcmQtdGhpcmQtdGhpcmQt",
];

/// By which of the secrets the request is signed, in the order of its signatures; computed as a receiver does.
fn signers(hit: &Hit) -> Vec<usize> {
    use base64::prelude::{Engine, BASE64_STANDARD};
    assert_eq!(hit.header("webhook-id"), hit.run());
    let timestamp = hit.header("webhook-timestamp");
    assert!(hit.at.as_secs().abs_diff(timestamp.parse().expect("seconds")) <= 5, "{timestamp}");
    let mut signed = format!("{}.{timestamp}.", hit.run()).into_bytes();
    signed.extend_from_slice(&hit.body);
    let by = |signature: &str| {
        let mac = BASE64_STANDARD.decode(signature.strip_prefix("v1,").expect("a version")).expect("base64");
        SECRETS.iter().position(|secret| {
            let key = BASE64_STANDARD.decode(&secret[6..]).expect("base64");
            ring::hmac::verify(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), &signed, &mac).is_ok()
        })
    };
    hit.header("webhook-signature").split(' ').map(|s| by(s).expect("a signature by a known secret")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_signed_by_the_tasks_secrets_or_else_by_the_configurations() {
    let (_dir, node) = node_with(|c| c.callback.secrets = vec![SECRETS[0].parse().unwrap()]).await;
    let sink = Sink::saying(|h| if h.attempt() == 1 { Say::status(500) } else { Say::ok() }).await;
    let own = with(once(&sink.url("/"), 0), json!({"secrets": [SECRETS[1], SECRETS[2]]}));
    node.client.create(&named(own, "own")).await;
    node.client.create(&named(once(&sink.url("/"), 0), "none")).await;
    let mut get = named(once(&sink.url("/"), 0), "get");
    get["callback"]["method"] = json!("GET");
    node.client.create(&get).await;
    for (id, by) in [("own", vec![1, 2]), ("none", vec![0]), ("get", vec![0])] {
        let hits = sink.await_of(id, 2).await;
        assert_eq!((signers(&hits[0]), signers(&hits[1])), (by.clone(), by), "{id}");
    }
    assert!(sink.of("get")[0].body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_changed_by_updates_and_never_shown() {
    let (_dir, node) = node().await;
    let sink = Sink::start().await;
    let task = |secrets: Value| {
        let task = json!({"type": 1, "format": "@yearly", "task_id": "s", "callback": {"url": sink.url("/")}});
        with(task, json!({"secrets": secrets}))
    };
    node.client.create(&task(json!([SECRETS[0]]))).await;
    node.client.create(&task(json!([SECRETS[0]]))).await;
    let other = node.client.post("/xcron/createTask", &task(json!([SECRETS[1]]))).await;
    other.is(1041, 409, "another");
    let steps = [
        (json!({"name": "x"}), vec![0]),
        (json!({"secrets": [SECRETS[1], SECRETS[0]]}), vec![1, 0]),
        (json!({"callback": {"body": {"n": 1}}}), vec![1, 0]),
        (json!({"secrets": [SECRETS[1]]}), vec![1]),
        (json!({"secrets": null}), vec![]),
    ];
    for (i, (change, by)) in steps.into_iter().enumerate() {
        node.client.post("/xcron/updateTask", &with(change, json!({"task_id": "s"}))).await.ok();
        node.client.trigger("s").await;
        let hit = sink.await_of("s", i + 1).await[i].clone();
        match by.as_slice() {
            [] => assert!(hit.headers.keys().all(|name| !name.as_str().starts_with("webhook-"))),
            by => assert_eq!(signers(&hit), by, "{i}"),
        }
        let (task, list) = (node.client.task("s").await, node.client.pages("/xcron/listTasks?limit=9", "tasks").await);
        assert_eq!(task["secret_count"].as_u64().unwrap_or(0), by.len() as u64);
        assert!(!format!("{task} {list:?}").contains("whsec"), "{task}");
    }
    let set = json!({"task_id": "s", "secret_count": 1});
    node.client.post("/xcron/updateTask", &set).await.is(1000, 400, "secret_count");
    for bad in [json!("whsec_"), json!(["whsec_dG9vLXNob3J0"]), json!([SECRETS[0].replace('_', "-")]), json!([1])] {
        for (call, sent) in [("createTask", task(bad.clone())), ("updateTask", json!({"task_id": "s", "secrets": bad}))]
        {
            let answer = node.client.post(&format!("/xcron/{call}"), &sent).await;
            answer.is(1000, 400, "secrets");
            assert!(!answer.message().contains("dG9v") && !answer.message().contains("MfKQ"), "{}", answer.message());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_going_is_shown_and_its_task_goes_on() {
    let (_dir, node) = node().await;
    let sink = Sink::saying(|_| Say::ok().after(1500)).await;
    node.client.create(&named(once(&sink.url("/"), 0), "slow")).await;
    let task = node.client.await_task("slow", "a run that is going", |t| t["last_run"]["state"] == "running").await;
    assert_eq!((&task["run_count"], &task["last_run"]["attempts"][0]["duration_ms"]), (&json!(0), &Value::Null));
    let task = node.client.await_task("slow", "its end", |t| t["run_count"] == 1).await;
    assert!(task["last_run"]["attempts"][0]["duration_ms"].as_u64().unwrap() >= 1500);
    assert_eq!(sink.count(), 1, "a long attempt is not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_holds_up_no_other_and_bounds_are_kept() {
    let (_dir, node) = node_with(|c| {
        c.callback.in_flight_max = 10;
        c.callback.in_flight_per_host_max = 4;
        c.callback.timeout_ms = 5000;
    })
    .await;
    let slow = Sink::saying(|_| Say::ok().after(300)).await;
    let hangs = Sink::saying(|_| Say::nothing()).await;
    let quick = Sink::start().await;
    let mut tasks: Vec<Value> = (0..20).map(|_| once(&hangs.url("/"), 0)).collect();
    tasks.extend((0..20).map(|_| once(&slow.url("/"), 0)));
    node.client.create_all(&tasks).await;
    hangs.await_count(4).await;
    node.client.create_all(&(0..20).map(|_| once(&quick.url("/"), 0)).collect::<Vec<_>>()).await;
    let hits = quick.await_count(20).await;
    assert!(hits.iter().map(Hit::lateness_ms).max().unwrap() < 2000);
    assert_eq!(hangs.count(), 4, "nothing of the target that hangs has ended");
    slow.await_count(20).await;
    assert_eq!(hangs.most_at_once(), 4);
    assert_eq!(slow.most_at_once(), 4, "as many as may, and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_in_one_second_fires_each_task_once() {
    let (_dir, node) = node_with(|c| c.limits.request_timeout_ms = 20_000).await;
    let sink = Sink::start().await;
    let at = (now().as_secs() + 4).to_string();
    let task = json!({"type": 2, "format": at, "callback": {"url": sink.url("/")}});
    node.client.create_all(&vec![task; 3000]).await;
    sink.await_count(3000).await;
    pass(300).await;
    let by_task = sink.by_task();
    assert_eq!((by_task.len(), sink.count()), (3000, 3000));
    sink.hits().iter().for_each(|h| assert!(h.lateness_ms() < 15_000));
    until("all outcomes", || async {
        let open = node.client.get("/xcron/listTasks?state=active&limit=1").await.ok();
        open["tasks"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_a_running_callback_end_and_a_restart_keeps_everything() {
    let (_dir, node) = node().await;
    let sink = Sink::saying(|h| if h.task() == "slow" { Say::ok().after(1000) } else { Say::ok() }).await;
    node.client.create(&named(periodic(&sink.url("/"), EVERY_SECOND), "p")).await;
    node.client.create(&named(once(&sink.url("/"), 1000), "overdue")).await;
    node.client.create(&named(once(&sink.url("/"), 3_600_000), "later")).await;
    let later = node.client.task("later").await;
    node.client.await_task("p", "two runs", |t| t["run_count"].as_u64() >= Some(2)).await;
    node.client.create(&named(once(&sink.url("/"), 0), "slow")).await;
    node.client.create(&named(once(&sink.url("/"), 900), "gap")).await;
    sink.await_of("slow", 1).await;
    let history = node.client.runs("p").await;
    let config = node.stop().await;
    let stopped = sink.count();
    pass(1500).await;
    assert_eq!(sink.count(), stopped, "nothing is sent by a node that has stopped");

    let node = TestNode::start(config).await.ready().await;
    let slow = node.client.task("slow").await;
    assert_eq!((&slow["run_count"], &slow["last_run"]["state"]), (&json!(1), &json!("succeeded")));
    assert_eq!(sink.of("slow").len(), 1, "it ended before the stop, and is not sent again");
    assert_eq!(node.client.task("later").await, later);
    let gap = sink.await_of("gap", 1).await;
    assert!(gap[0].lateness_ms() > 300, "overdue, and sent at once");
    node.client.await_task("gap", "its run", |t| t["run_count"] == 1).await;
    let runs = node.client.runs("p").await;
    assert!(runs.len() >= history.len());
    assert_eq!(runs[runs.len() - history.len()..], history, "the history is kept");
    let hits = sink.of("p");
    assert!(hits.windows(2).all(|p| p[1].due_ms() == p[0].due_ms() + 1000), "none left out, none twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_crashes() {
    let (_dir, mut node) = node().await;
    let sink = Sink::start().await;
    let mut ids = Vec::new();
    for round in 0..3 {
        let tasks: Vec<Value> = (0..40).map(|i| named(once(&sink.url("/"), 1500), &format!("r{round}-{i}"))).collect();
        ids.extend(node.client.create_all(&tasks).await);
        node.client.delete(&format!("r{round}-0")).await.ok();
        node = TestNode::start(node.crash().await).await.ready().await;
    }
    ids.retain(|id| !id.ends_with("-0"));
    for id in &ids {
        sink.await_of(id, 1).await;
    }
    for hit in sink.hits() {
        hit.lateness_ms();
        assert!(!hit.task().ends_with("-0"), "a deleted task stays deleted");
    }
    for id in &ids {
        let runs: BTreeSet<String> = sink.of(id).iter().map(|h| h.run().to_owned()).collect();
        assert_eq!(runs.len(), 1, "one due time is one run, however often it is sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn due_times_missed_beyond_the_window_fire_as_one_and_are_recorded_as_missed() {
    let (_dir, node) = node_with(|c| c.callback.misfire_window_ms = 1500).await;
    let sink = Sink::start().await;
    node.client.create(&named(periodic(&sink.url("/"), EVERY_SECOND), "p")).await;
    sink.await_of("p", 1).await;
    let config = node.stop().await;
    let before: BTreeSet<u64> = sink.of("p").iter().map(Hit::due_ms).collect();
    pass(4600).await;
    let node = TestNode::start(config).await.ready().await;
    let last = *before.last().unwrap();
    until("the present", || async {
        sink.of("p").iter().any(|h| h.lateness_ms() < 500 && h.due_ms() > last + 4000).then_some(())
    })
    .await;
    let runs = node.client.runs("p").await;
    node.client.delete("p").await.ok();
    let state = |due: u64| {
        let run = runs.iter().find(|r| r["due_time_ms"] == due).unwrap_or_else(|| panic!("{due} is not in {runs:#?}"));
        (run["state"].as_str().unwrap(), run["reason"].as_str().unwrap_or_default())
    };
    let newest = runs[0]["due_time_ms"].as_u64().unwrap();
    let fired: BTreeSet<u64> = sink.of("p").iter().map(Hit::due_ms).collect();
    assert_eq!(fired.len(), sink.of("p").iter().filter(|h| h.attempt() == 1).count(), "none twice");
    let mut missed = Vec::new();
    for due in (last + 1000..=newest).step_by(1000) {
        match state(due) {
            ("missed", reason) => {
                assert!(!fired.contains(&due) && reason.starts_with("no leader for at most "), "{due}: {reason}");
                missed.push(due);
            }
            (_, _) => assert!(fired.contains(&due), "{due} was neither fired nor missed"),
        }
    }
    assert!(!missed.is_empty(), "{runs:#?}");
    assert!(missed.windows(2).all(|p| p[1] == p[0] + 1000) && missed[0] == last + 1000, "the oldest: {missed:?}");
    assert!(fired.contains(&(missed.last().unwrap() + 1000)), "and the latest of the old ones for all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_makes_nothing_fire_twice_or_early() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let node = TestNode::start_at(config(dir.path()), clock.clone()).await.ready().await;
    let sink = Sink::start().await;
    node.client.create(&named(periodic(&sink.url("/"), EVERY_SECOND), "p")).await;
    node.client.create(&named(once(&sink.url("/"), 2500), "o")).await;
    sink.await_of("p", 2).await;
    clock.shift(-2000);
    sink.await_of("p", 4).await;
    sink.await_of("o", 1).await;
    pass(300).await;
    let hits = sink.of("p");
    assert_distinct(hits.iter().map(Hit::due_ms).collect());
    assert!(hits.windows(2).all(|p| p[1].due_ms() == p[0].due_ms() + 1000), "and none is left out");
    // By the node's clock, which is behind by now.
    for hit in hits.iter().skip(2).chain(&sink.of("o")) {
        assert!(hit.at.as_ms() >= hit.due_ms() + 2000, "early by the node's clock");
    }
    assert_eq!(sink.of("o").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_forward_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let node = TestNode::start_at(config(dir.path()), clock.clone()).await.ready().await;
    let sink = Sink::start().await;
    node.client.create(&named(periodic(&sink.url("/"), EVERY_SECOND), "p")).await;
    node.client.create(&named(once(&sink.url("/"), 9500), "o")).await;
    sink.await_of("p", 2).await;
    let jumped = clock.now();
    clock.shift(10_000);
    sink.await_of("o", 1).await;
    until("the time after the jump", || async {
        sink.of("p").iter().any(|h| h.due_ms() > jumped.as_ms() + 12_000).then_some(())
    })
    .await;
    let dues: BTreeSet<u64> = sink.of("p").iter().map(Hit::due_ms).collect();
    assert_eq!(dues.len(), sink.of("p").len(), "none twice");
    let (first, last) = (dues.first().unwrap(), dues.last().unwrap());
    assert_eq!(dues.len() as u64, (last - first) / 1000 + 1, "none left out: {dues:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_living_task_is_its_last_hundred_runs() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let mut config = config(dir.path());
    config.callback.misfire_window_ms = 3_600_000;
    let node = TestNode::start_at(config, clock.clone()).await.ready().await;
    let sink = Sink::start().await;
    node.client.create(&named(periodic(&sink.url("/"), EVERY_SECOND), "p")).await;
    clock.shift(130_000);
    let task = node.client.await_task("p", "130 runs", |t| t["run_count"].as_u64() >= Some(130)).await;
    let runs = node.client.runs("p").await;
    assert_eq!(runs.iter().filter(|r| r["state"] == "succeeded").count(), 100);
    assert!(task["run_count"].as_u64().unwrap() >= 130, "it still counts all");
    assert_distinct(sink.hits().iter().map(Hit::due_ms).collect());
    let node = TestNode::start_at(node.stop().await, clock).await.ready().await;
    let kept = node.client.runs("p").await.len();
    assert!((100..=101).contains(&kept), "{kept} after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_ever_for_a_target_that_hangs() {
    let (_dir, node) = node().await;
    let sink = Sink::saying(|_| Say::nothing()).await;
    let id = node.client.create(&once(&sink.url("/"), 0)).await;
    sink.await_of(&id, 1).await;
    let began = xcron::clock::monotonic();
    let config = node.stop().await;
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    let node = TestNode::start(config).await.ready().await;
    let again = sink.await_of(&id, 2).await;
    assert_eq!(again[0].run(), again[1].run(), "its outcome is not known: it is sent again, as the same run");
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_what_waits_and_what_flies() {
    let (_dir, node) = node_with(|c| (c.callback.in_flight_max, c.callback.in_flight_per_host_max) = (2, 2)).await;
    let sink = Sink::saying(|_| Say::ok().after(700)).await;
    node.client.create_all(&(0..5).map(|_| once(&sink.url("/"), 0)).collect::<Vec<_>>()).await;
    sink.await_count(2).await;
    let text = node.monitor.plain("/metrics").await.2;
    assert!(text.contains("\nxcron_attempts_in_flight 2\n") && text.contains("\nxcron_attempts_queued 3\n"), "{text}");
    sink.await_count(5).await;
    until("nothing under way", || async {
        let text = node.monitor.plain("/metrics").await.2;
        let none = text.contains("\nxcron_attempts_in_flight 0\n") && text.contains("\nxcron_attempts_queued 0\n");
        none.then_some(())
    })
    .await;
}

/// A transport of which the first calls panic: `sends` of those that send, and one that connects.
struct Panics {
    inner: Arc<dyn Transport>,
    sends: AtomicUsize,
    reaches: AtomicUsize,
}

impl Transport for Panics {
    fn connect(&self, request: &Request, over: Over) -> BoxFuture<'static, Found> {
        let left = self.sends.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        assert!(left.is_err(), "as planned: an attempt");
        self.inner.connect(request, over)
    }

    fn reach(&self, target: &str) -> BoxFuture<'static, Result<(), Failure>> {
        let left = self.reaches.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        assert!(left.is_err(), "as planned: a probe");
        self.inner.reach(target)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_an_attempt_or_in_a_probe_holds_up_nothing_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path());
    (settings.callback.hold_after, settings.callback.probe_min_ms) = (1, 50);
    let over = |inner| Arc::new(Panics { inner, sends: 2.into(), reaches: 2.into() }) as Arc<dyn Transport>;
    let node = TestNode::try_start_over(settings, Clock::system(), over).await.unwrap().ready().await;
    let sink = Sink::start().await;
    node.client.create(&named(once(&sink.url("/"), 0), "first")).await;
    node.client.create(&named(once(&sink.url("/"), 0), "second")).await;
    sink.await_count(2).await;
    // Nobody listens there yet: the target is held, and probed.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    node.client.create(&named(once(&format!("http://{address}/"), 0), "third")).await;
    until("a held target", || async {
        let held = node.client.pages("/xcron/targets?state=held", "targets").await;
        (!held.is_empty()).then_some(())
    })
    .await;
    pass(300).await;
    let late = Sink::open(address).await;
    late.await_of("third", 1).await;
}

/// A start that cannot be recorded at once is recorded a little later: until then the task's later due times wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_for_which_the_log_has_no_room_is_recorded_later() {
    let (_dir, node) = node_with(|config| {
        config.limits.queue_max = 1;
        config.callback.in_flight_per_host_max = 512;
        config.callback.timeout_ms = 60_000;
    })
    .await;
    let sink = Sink::saying(|_| Say::ok().after(40_000)).await;
    let start = json!({"start_time": now().as_secs() + 4});
    for i in 0..10 {
        node.client
            .create(&named(with(periodic(&sink.url("/"), "*/2 * * * * *"), start.clone()), &format!("t{i}")))
            .await;
    }
    for i in 0..10 {
        let hits = sink.await_of(&format!("t{i}"), 3).await;
        let late = hits[..3].iter().map(Hit::lateness_ms).max().unwrap();
        assert!(late < 20_000, "t{i}: {late} ms late, as if a due time waited for the callback of the one before");
    }
}
