//! The HTTP API of one node: each call, each code, each shape, as the contract has them.

mod support;

use std::collections::BTreeSet;

use serde_json::{json, Value};
use support::{keys, node, node_with, now, once, pass, periodic, until, with, Client, Cluster, Sink};

const URL: &str = "http://127.0.0.1:9/never";
const FAR_MS: u64 = 3_600_000;

/// That the answer to a create of this is this error, and that nothing was kept.
async fn refused(client: &Client, task: Value, code: u64, names: &str) {
    client.post("/xcron/createTask", &task).await.is(code, 400, names);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_or_not_the_shape_is_1000_and_names_the_field() {
    let (_dir, node) = node().await;
    let client = &node.client;
    for text in ["", "{", "not json", "{\"type\":2,}", "\u{0}"] {
        client.send("POST", "/xcron/createTask", text).await.is(1000, 400, "not JSON");
    }
    for text in ["[]", "1", "null", "\"x\""] {
        client.send("POST", "/xcron/createTask", text).await.is(1000, 400, "an object");
    }
    let good = once(URL, FAR_MS);
    let cases = [
        (json!({"colour": 1}), "colour"),
        (json!({"type": "2"}), "type"),
        (json!({"type": null}), "type"),
        (json!({"type": 1.5}), "type"),
        (json!({"delay_ms": "5"}), "delay_ms"),
        (json!({"delay_ms": -1}), "delay_ms"),
        (json!({"delay_ms": null}), "delay_ms"),
        (json!({"format": "1"}), "format"),
        (json!({"timezone": "UTC"}), "timezone"),
        (json!({"callback": "x"}), "callback"),
        (json!({"callback": {"url": 1}}), "callback.url"),
        (json!({"callback": {}}), "callback.url"),
        (json!({"callback": {"url": URL, "metod": "GET"}}), "callback.metod"),
        (json!({"name": 7}), "name"),
        (json!({"tags": ["a"]}), "tags"),
        (json!({"tags": {"a": 1}}), "tags"),
        (json!({"task_id": "a b"}), "task_id"),
        (json!({"task_id": ""}), "task_id"),
        (json!({"task_id": "x".repeat(129)}), "task_id"),
        (json!({"task_id": 5}), "task_id"),
    ];
    for (fields, names) in cases {
        refused(client, with(good.clone(), fields), 1000, names).await;
    }
    for missing in ["type", "callback", "delay_ms"] {
        let mut task = good.clone();
        task.as_object_mut().unwrap().remove(missing);
        let names = if missing == "delay_ms" { "format" } else { missing };
        refused(client, task, 1000, names).await;
    }
    let mut task = periodic(URL, "* * * * *");
    task.as_object_mut().unwrap().remove("format");
    refused(client, task, 1000, "format").await;
    refused(client, with(periodic(URL, "* * * * *"), json!({"delay_ms": 5})), 1000, "delay_ms").await;
    let twice = format!(r#"{{"type":2,"type":2,"delay_ms":5,"callback":{{"url":"{URL}"}}}}"#);
    client.send("POST", "/xcron/createTask", twice).await.is(1000, 400, "type");

    client.post("/xcron/deleteTask", &json!({})).await.is(1000, 400, "task_id");
    client.post("/xcron/deleteTask", &json!({"task_id": 1})).await.is(1000, 400, "task_id");
    client.post("/xcron/deleteTask", &json!({"task_id": "a", "force": true})).await.is(1000, 400, "force");
    client.post("/xcron/createTasks", &json!({})).await.is(1000, 400, "tasks");
    client.post("/xcron/createTasks", &json!({"tasks": {}})).await.is(1000, 400, "tasks");
    assert_eq!(client.get("/xcron/listTasks").await.ok()["tasks"], json!([]), "nothing was kept");
}

/// The status and the text of an answer to a request with these headers.
async fn with_headers(method: &str, url: &str, headers: &[(&str, &str)], body: &Value) -> (u16, String) {
    let request = support::client::http_client().request(method.parse().expect("a method"), url).body(body.to_string());
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_reaches_no_call() {
    let (_dir, node) = node_with(|config| config.security.hosts = vec!["xcron.example.com".into()]).await;
    let api = format!("http://{}", node.api);
    let create = format!("{api}/xcron/createTask");
    let foreign: [&[(&str, &str)]; 5] = [
        &[("content-type", "text/plain"), ("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("origin", "http://localhost:3000")],
        &[("sec-fetch-site", "cross-site")],
        &[("host", "rebind.evil.example")],
    ];
    for headers in foreign {
        for (method, path) in [("POST", "createTask"), ("GET", "listTasks"), ("OPTIONS", "createTask"), ("GET", "x")] {
            let url = format!("{api}/xcron/{path}");
            let (status, text) = with_headers(method, &url, headers, &once(URL, FAR_MS)).await;
            assert!(status == 403 && text.contains("\"code\":1031"), "{method} {path} {headers:?}: {status} {text}");
        }
        for path in ["metrics", "readyz", "healthz"] {
            let url = format!("http://{}/{path}", node.server().monitor_address());
            assert_eq!(with_headers("GET", &url, headers, &json!({})).await.0, 403, "{path} {headers:?}");
        }
    }
    assert_eq!(node.client.get("/xcron/listTasks").await.ok()["tasks"], json!([]), "nothing was kept");

    let own: [&[(&str, &str)]; 4] = [
        &[("origin", &api), ("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "none")],
        &[("host", "localhost")],
        &[("host", "xcron.example.com"), ("origin", "https://xcron.example.com")],
    ];
    for headers in own {
        assert_eq!(with_headers("POST", &create, headers, &once(URL, FAR_MS)).await.0, 200, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_held_to_the_same() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let cases = [
        ("/xcron/queryTask", "task_id"),
        ("/xcron/queryTask?task=a", "task"),
        ("/xcron/queryTask?task_id=a&task_id=b", "task_id"),
        ("/xcron/queryTask?task_id=a%20b", "task_id"),
        ("/xcron/queryTask?task_id=a&consistency=eventual", "consistency"),
        ("/xcron/queryRun", "run_id"),
        ("/xcron/queryRun?run_id=7", "run_id"),
        ("/xcron/listTasks?limit=0", "limit"),
        ("/xcron/listTasks?limit=1001", "limit"),
        ("/xcron/listTasks?limit=ten", "limit"),
        ("/xcron/listTasks?state=asleep", "state"),
        ("/xcron/listTasks?type=x", "type"),
        ("/xcron/listTasks?tag=k", "tag"),
        ("/xcron/listTasks?cursor=x", "cursor"),
        ("/xcron/listTasks?colour=red", "colour"),
        ("/xcron/listRuns?state=asleep", "state"),
        ("/xcron/listRuns?from=-1", "from"),
        ("/xcron/listRuns?to=x", "to"),
        ("/xcron/listRuns?cursor=x", "cursor"),
        ("/xcron/targets?cursor=", "cursor"),
        ("/xcron/cluster?node=1", "node"),
    ];
    for (path, names) in cases {
        client.get(path).await.is(1000, 400, names);
    }
    client.get("/xcron/listTasks?type=3").await.is(1020, 400, "type");
    client.send("POST", "/xcron/createTask?x=1", once(URL, 5).to_string()).await.is(1000, 400, "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_schedule_or_target_cannot_be_has_its_code() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let at = |format: &str| json!({"type": 2, "format": format, "callback": {"url": URL}});
    for format in ["", "tomorrow", "123", "12345678901", "-123456789", "+123456789", "17600000.0", "* * * * *"] {
        refused(client, at(format), 1001, "format").await;
    }
    refused(client, at("1000000000"), 1002, "past").await;
    refused(client, at("1000000000000"), 1002, "past").await;
    for url in [
        "",
        "x",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "http://",
        "http:/127.0.0.1/",
        "http:///x",
        "//127.0.0.1/",
        "http://a b/",
        "http://user@127.0.0.1/",
        "http://u:p@127.0.0.1/",
        "http://127.0.0.1:99999/",
        "javascript:alert(1)",
    ] {
        refused(client, once(url, FAR_MS), 1003, "callback.url").await;
    }
    for (format, names) in [
        ("* * * *", "format"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 32 * *", "day"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "week"),
        ("*/0 * * * *", "minute"),
        ("@every 0s", "format"),
        ("@sometimes", "format"),
        ("", "format"),
    ] {
        refused(client, periodic(URL, format), 1005, names).await;
    }
    for zone in ["Mars/Olympus", "", "europe", "../etc/passwd"] {
        refused(client, with(periodic(URL, "* * * * *"), json!({"timezone": zone})), 1007, "timezone").await;
    }
    refused(client, periodic(URL, "0 0 30 2 *"), 1008, "never").await;
    refused(client, periodic(URL, "0 0 0 1 1 ? 1999"), 1008, "never").await;
    for kind in [0, 3, -1, 1_000_000] {
        refused(client, with(once(URL, FAR_MS), json!({"type": kind})), 1020, "type").await;
    }
    assert_eq!(client.get("/xcron/listTasks").await.ok()["tasks"], json!([]), "nothing was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_limit_is_1006_with_413_for_bytes_and_400_for_the_rest() {
    let (_dir, node) = node_with(|c| {
        c.limits.request_bytes_max = 8192;
        c.limits.task_bytes_max = 4096;
        c.limits.ahead_ms_max = 86_400_000;
    })
    .await;
    let client = &node.client;
    let big = |n: usize| with(once(URL, FAR_MS), json!({"callback": {"url": URL, "body": "x".repeat(n)}}));
    client.post("/xcron/createTask", &big(3900)).await.ok();
    client.post("/xcron/createTask", &big(4096)).await.is(1006, 413, "4096");
    client.post("/xcron/createTask", &big(8192)).await.is(1006, 413, "8192");
    // One that is too large alone does not harm the others of its batch.
    let data = client.post("/xcron/createTasks", &json!({"tasks": [big(4096), once(URL, FAR_MS)]})).await.ok();
    assert_eq!((&data["results"][0]["code"], &data["results"][1]["code"]), (&json!(1006), &json!(0)));

    refused(client, once(URL, 86_400_001), 1006, "delay_ms").await;
    let far = (now().as_secs() + 90_000).to_string();
    refused(client, json!({"type": 2, "format": far, "callback": {"url": URL}}), 1006, "format").await;
    refused(client, once(&format!("http://127.0.0.1/{}", "x".repeat(2048)), 5), 1006, "callback.url").await;
    refused(client, periodic(URL, &" ".repeat(1025)), 1006, "format").await;
    refused(client, with(once(URL, 5), json!({"name": "ä".repeat(257)})), 1006, "name").await;
    client.create(&with(once(URL, FAR_MS), json!({"name": "ä".repeat(256)}))).await;
    refused(client, with(once(URL, 5), json!({"tags": {"k": "v".repeat(257)}})), 1006, "tags.k").await;
    refused(client, with(once(URL, 5), json!({"tags": {"k".repeat(257): "v"}})), 1006, "tags").await;
    let many: serde_json::Map<String, Value> = (0..65).map(|i| (i.to_string(), json!(""))).collect();
    refused(client, with(once(URL, 5), json!({"tags": many})), 1006, "tags").await;
    refused(client, with(once(URL, 5), json!({"tags": {"a:b": "v"}})), 1000, "tags.a:b").await;
    let secret = "whsec_c2hvd25zaG93bnNob3duc2hvd25zaG93bg==";
    refused(client, with(once(URL, 5), json!({"secrets": vec![secret; 5]})), 1006, "secrets: over the limit of 4")
        .await;
    let batch = format!(r#"{{"tasks":[{}1]}}"#, "1,".repeat(1000));
    client.send("POST", "/xcron/createTasks", batch).await.is(1006, 400, "1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_1040_and_a_wrong_method_405() {
    let (_dir, node) = node().await;
    let client = &node.client;
    client.get("/xcron/queryTask?task_id=nobody").await.is(1040, 404, "task");
    client.get("/xcron/listRuns?task_id=nobody").await.is(1040, 404, "task");
    client.get("/xcron/queryRun?run_id=0199e7a1-5b1c-8000-9f00-0123456789ab").await.is(1040, 404, "run");
    client.delete("nobody").await.is(1040, 404, "task");
    for path in ["/", "/xcron", "/xcron/", "/xcron/createtask", "/xcron/createTask/", "/metrics", "/healthz"] {
        client.get(path).await.is(1040, 404, path);
    }
    for (method, path, allowed) in [
        ("GET", "/xcron/createTask", "POST"),
        ("PUT", "/xcron/createTask", "POST"),
        ("DELETE", "/xcron/deleteTask", "POST"),
        ("POST", "/xcron/queryTask", "GET"),
        ("POST", "/xcron/cluster", "GET"),
    ] {
        let answer = client.send(method, path, "{}").await;
        answer.is(1000, 405, method);
        assert!(answer.headers["allow"].to_str().unwrap().contains(allowed), "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_with_an_id_is_idempotent_and_another_definition_conflicts() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let task = with(once(URL, FAR_MS), json!({"task_id": "a:b.c_d-1", "name": "n", "tags": {"k": "v"}}));
    let first = client.post("/xcron/createTask", &task).await.ok();
    assert_eq!(first["task_id"], "a:b.c_d-1");
    pass(1100).await;
    assert_eq!(client.post("/xcron/createTask", &task).await.ok(), first, "delay_ms does not start anew");
    for other in [
        json!({"delay_ms": FAR_MS + 1}),
        json!({"name": "m"}),
        json!({"tags": {}}),
        json!({"callback": {"url": URL, "body": []}}),
    ] {
        client.post("/xcron/createTask", &with(task.clone(), other)).await.is(1041, 409, "task_id");
    }
    assert_eq!(client.task("a:b.c_d-1").await["name"], "n", "a conflict changes nothing");
    // A zone that is left out is the configuration's.
    let minutely = with(periodic(URL, "* * * * *"), json!({"task_id": "p"}));
    client.create(&minutely).await;
    client.post("/xcron/createTask", &with(minutely.clone(), json!({"timezone": "UTC"}))).await.ok();
    client
        .post("/xcron/createTask", &with(minutely, json!({"timezone": "Europe/Berlin"})))
        .await
        .is(1041, 409, "task_id");
    // However it is written, it is the same zone, and shown as the database writes it.
    let zoned = |zone: &str| with(periodic(URL, "* * * * *"), json!({"task_id": "z", "timezone": zone}));
    for zone in ["europe/berlin", "Europe/Berlin", "EUROPE/BERLIN"] {
        client.post("/xcron/createTask", &zoned(zone)).await.ok();
        assert_eq!(client.task("z").await["timezone"], "Europe/Berlin");
    }
    client.post("/xcron/createTask", &zoned("europe/paris")).await.is(1041, 409, "task_id");
    let other = json!({"task_id": "z", "timezone": "europe/PARIS"});
    client.post("/xcron/updateTask", &other).await.ok();
    assert_eq!(client.task("z").await["timezone"], "Europe/Paris");
    assert_eq!(client.get("/xcron/listTasks").await.ok()["tasks"].as_array().unwrap().len(), 3);
    // Also after it has fired.
    let sink = Sink::start().await;
    let quick = with(once(&sink.url("/"), 0), json!({"task_id": "quick"}));
    let first = client.post("/xcron/createTask", &quick).await.ok();
    client.await_task("quick", "its run", |t| t["run_count"] == 1).await;
    assert!(first["next_time"].is_u64(), "{first}");
    assert_eq!(client.post("/xcron/createTask", &quick).await.ok(), first);
    pass(300).await;
    assert_eq!(sink.count(), 1, "it was the same task");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_creates_at_once_with_one_id_make_one_task() {
    let (_dir, node) = node().await;
    let task = with(once(URL, FAR_MS), json!({"task_id": "one"}));
    let calls = (0..50).map(|_| node.client.post("/xcron/createTask", &task));
    let answers: Vec<Value> = futures::future::join_all(calls).await.into_iter().map(support::Answer::ok).collect();
    assert!(answers.iter().all(|a| *a == answers[0]), "{answers:?}");
    assert_eq!(node.client.get("/xcron/listTasks").await.ok()["tasks"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn create_tasks_gives_each_its_own_result_in_order() {
    let (_dir, node) = node().await;
    let client = &node.client;
    assert_eq!(client.post("/xcron/createTasks", &json!({"tasks": []})).await.ok(), json!({"results": []}));
    let a = with(once(URL, FAR_MS), json!({"task_id": "a"}));
    let tasks = json!([
        a,
        once("ftp://127.0.0.1/", 5),
        7,
        a,
        with(a.clone(), json!({"delay_ms": 1})),
        periodic(URL, "61 * * * *"),
        once(URL, FAR_MS),
        with(once(URL, FAR_MS), json!({"type": 9})),
        periodic(URL, "0 0 31 4 *"),
    ]);
    let data = client.post("/xcron/createTasks", &json!({"tasks": tasks})).await.ok();
    let results = data["results"].as_array().unwrap();
    let codes: Vec<u64> = results.iter().map(|r| r["code"].as_u64().unwrap()).collect();
    assert_eq!(codes, [0, 1003, 1000, 0, 1041, 1005, 0, 1020, 1008]);
    for result in results {
        let expected: &[&str] = if result["code"] == 0 { &["code", "task_id"] } else { &["code", "message"] };
        assert_eq!(keys(result), expected.iter().copied().collect(), "{result}");
    }
    assert_eq!(results[0]["task_id"], "a");
    let generated = results[6]["task_id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap();
    assert_eq!(generated.get_version_num(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shapes_of_tasks_and_runs_are_those_of_the_documentation() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::start().await);
    let task = json!({"task_id": "p", "type": 1, "format": "0 9 * * 1-5", "timezone": "Europe/Berlin", "name": "daily",
        "tags": {"team": "sales"}, "callback": {"url": URL, "body": {"b": 1, "a": [1.0, null]}}});
    let before = now().as_secs();
    let created = client.post("/xcron/createTask", &task).await.ok();
    assert_eq!(keys(&created), BTreeSet::from(["task_id", "next_time"]));
    let shown = client.task("p").await;
    for (field, sent) in task.as_object().unwrap() {
        assert_eq!(&shown[field], sent, "{field}");
    }
    let answered = ["create_time", "run_count", "next_time", "state", "last_run"];
    let expected: BTreeSet<&str> = keys(&task).into_iter().chain(answered).collect();
    assert_eq!(keys(&shown), expected);
    let create_time: u64 = shown["create_time"].as_str().expect("a string").parse().unwrap();
    assert!((before..=now().as_secs()).contains(&create_time));
    assert_eq!((&shown["run_count"], &shown["state"], &shown["last_run"]), (&json!(0), &json!("active"), &Value::Null));
    assert_eq!(shown["next_time"], created["next_time"]);
    assert!(shown["next_time"].as_u64().unwrap() > before);

    // A body that is left out is {}, and of type 2 the form that was sent is shown.
    let id = client.create(&once(&sink.url("/x"), 0)).await;
    let shown = client.await_task(&id, "a run", |t| t["run_count"] == 1).await;
    let expected = ["task_id", "type", "delay_ms", "callback"].into_iter().chain(answered).collect::<BTreeSet<&str>>();
    assert_eq!(keys(&shown), expected);
    assert_eq!(shown["callback"], json!({"url": sink.url("/x"), "body": {}}));
    assert_eq!((&shown["next_time"], &shown["state"]), (&Value::Null, &json!("finished")));

    let run = shown["last_run"].clone();
    let fields = ["run_id", "task_id", "due_time_ms", "state", "reason", "parent_run_id", "attempts"];
    assert_eq!(keys(&run), BTreeSet::from(fields));
    assert_eq!(
        (&run["state"], &run["reason"], &run["parent_run_id"]),
        (&json!("succeeded"), &Value::Null, &Value::Null)
    );
    let attempt = &run["attempts"][0];
    let fields = ["number", "node", "started_ms", "lateness_ms", "duration_ms", "status", "error", "answer"];
    assert_eq!(keys(attempt), BTreeSet::from(fields));
    assert_eq!((&attempt["number"], &attempt["node"], &attempt["status"]), (&json!(1), &json!(1), &json!(200)));
    assert_eq!((&attempt["error"], &attempt["answer"]), (&Value::Null, &json!("ok")));
    let run_id = run["run_id"].as_str().unwrap();
    assert_eq!(client.run(run_id).await, run);
    assert_eq!(client.runs(&id).await, [run]);

    let delete = client.delete("p").await;
    assert_eq!(keys(&delete.json), BTreeSet::from(["uuid", "code"]), "no data where there is none");
    client.get("/xcron/queryTask?task_id=p").await.is(1040, 404, "task");
    client.delete("p").await.is(1040, 404, "task");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_both_lengths_mean_the_same_instant() {
    let (_dir, node) = node().await;
    let due = now().as_secs() + 1000;
    for format in [due.to_string(), format!("{due}000"), format!("{due}999")] {
        let task = json!({"type": 2, "format": format, "callback": {"url": URL}});
        let created = node.client.post("/xcron/createTask", &task).await.ok();
        assert_eq!(created["next_time"], due);
        assert_eq!(node.client.task(created["task_id"].as_str().unwrap()).await["format"], format);
    }
    // A number that is whole is an integer, as JSON Schema has it.
    node.client
        .send("POST", "/xcron/createTask", format!(r#"{{"type":2.0,"delay_ms":1e7,"callback":{{"url":"{URL}"}}}}"#))
        .await
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_shows_due_times_and_stores_nothing() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let preview = |body: Value| async move { client.post("/xcron/previewSchedule", &body).await };
    let body =
        json!({"type": 1, "format": "0 9 * * 1-5", "timezone": "Europe/Berlin", "after": 1_790_000_000, "count": 2});
    let shown = json!({"fire_times": [1_790_060_400, 1_790_146_800],
        "local_times": ["Tue 2026-09-22 09:00:00 +02:00", "Wed 2026-09-23 09:00:00 +02:00"],
        "description": "at 09:00, on Monday to Friday; Europe/Berlin"});
    assert_eq!(preview(body).await.ok(), shown);
    let body = json!({"type": 1, "format": "@every 90s", "after": 1_790_000_000, "count": 3});
    assert_eq!(preview(body).await.ok()["fire_times"], json!([1_790_000_090, 1_790_000_180, 1_790_000_270]));
    let once = json!({"fire_times": [1_000_000_000], "local_times": ["Sun 2001-09-09 01:46:40 +00:00"], "description": "once"});
    assert_eq!(preview(json!({"type": 2, "format": "1000000000"})).await.ok(), once);
    let some = preview(json!({"type": 1, "format": "* * * * *"})).await.ok();
    assert_eq!(some["fire_times"].as_array().unwrap().len(), 10);
    let many = preview(json!({"type": 1, "format": "* * * * *", "count": 1000})).await.ok();
    assert_eq!(many["fire_times"].as_array().unwrap().len(), 1000);
    let ends = json!({"type": 1, "format": "0 0 0 1 1 ? 2027-2028", "after": 1_767_225_600, "count": 9});
    assert_eq!(preview(ends).await.ok()["fire_times"], json!([1_798_761_600, 1_830_297_600]));

    let good = json!({"type": 1, "format": "* * * * *"});
    for (fields, code, names) in [
        (json!({"count": 0}), 1000, "count"),
        (json!({"count": 1001}), 1000, "count"),
        (json!({"after": -1}), 1000, "after"),
        (json!({"after": 7_258_118_400_u64}), 1000, "after: schedules end with the year 2199"),
        (json!({"format": "0 0 0 1 1 ? 2020"}), 1008, "its due times are past"),
        (json!({"format": "0 0 * * 7-1"}), 1005, "write 0-1"),
        (json!({"timezone": "China Standard Time"}), 1007, "write Asia/Shanghai"),
        (json!({"after": "now"}), 1000, "after"),
        (json!({"callback": {}}), 1000, "callback"),
        (json!({"type": 3}), 1020, "type"),
        (json!({"type": 2}), 1001, "format"),
        (json!({"format": "x"}), 1005, "format"),
        (json!({"format": "0 0 30 2 *"}), 1008, "never"),
        (json!({"timezone": "x"}), 1007, "timezone"),
    ] {
        preview(with(good.clone(), fields)).await.is(code, 400, names);
    }
    preview(json!({"type": 1})).await.is(1000, 400, "format");
    assert_eq!(client.get("/xcron/listTasks").await.ok()["tasks"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_of_a_task_shows_when_it_will_be_fired_as_it_stands() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let preview = |id: &'static str| async move {
        client.post("/xcron/previewSchedule", &json!({"task_id": id, "count": 3})).await
    };
    let bounds =
        json!({"task_id": "a", "start_time": 1_900_000_000, "end_time": 1_901_300_000, "timezone": "Asia/Tokyo"});
    client.create(&with(periodic(URL, "@every 7d"), bounds)).await;
    let shown = json!({"fire_times": [1_900_000_000, 1_900_604_800, 1_901_209_600],
        "local_times": ["Mon 2030-03-18 02:46:40 +09:00", "Mon 2030-03-25 02:46:40 +09:00", "Mon 2030-04-01 02:46:40 +09:00"],
        "description": "every 7d, counted from the start or the creation; Asia/Tokyo"});
    assert_eq!(preview("a").await.ok(), shown);
    client.post("/xcron/updateTask", &json!({"task_id": "a", "max_runs": 2})).await.ok();
    assert_eq!(preview("a").await.ok()["fire_times"], json!([1_900_000_000, 1_900_604_800]));
    client.post("/xcron/pauseTask", &json!({"task_id": "a"})).await.ok();
    assert_eq!(preview("a").await.ok()["fire_times"], json!([]), "it is paused");

    client.create(&with(periodic(URL, "0 0 1 1 *"), json!({"task_id": "j", "jitter_ms": 86_400_000}))).await;
    let (moved, next) = (preview("j").await.ok(), client.task("j").await["next_time"].as_u64().expect("a time"));
    let late = moved["fire_times"][0].as_u64().expect("a time") - next;
    assert!(late > 0 && late < 86_400, "{late} s of jitter");
    client.create(&with(once(URL, FAR_MS), json!({"task_id": "o"}))).await;
    let shown = preview("o").await.ok();
    assert_eq!(
        (&shown["fire_times"][0], &shown["description"]),
        (&client.task("o").await["next_time"], &json!("once"))
    );

    preview("none").await.is(1040, 404, "no such task");
    let both = json!({"task_id": "a", "format": "* * * * *"});
    client.post("/xcron/previewSchedule", &both).await.is(1000, 400, "format");
    client.post("/xcron/previewSchedule", &json!({"task_id": "a", "count": 0})).await.is(1000, 400, "count");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_shown_by_a_single_node_too() {
    let (_dir, node) = node().await;
    node.client.get("/xcron/queryTask?task_id=a&consistency=local").await.is(1040, 404, "task");
    assert_eq!(node.client.get("/xcron/listTasks?consistency=local").await.ok()["tasks"], json!([]));
    let cluster = until("a named cluster", || async {
        Some(node.client.get("/xcron/cluster").await.ok()).filter(|c| c["cluster_id"].is_string())
    })
    .await;
    assert_eq!(keys(&cluster), BTreeSet::from(["cluster_id", "node", "leader", "term", "zone_data", "nodes"]));
    assert_eq!((&cluster["node"], &cluster["leader"]), (&json!(1), &json!(1)));
    let fields = [
        "id",
        "peer_address",
        "http_address",
        "role",
        "voter",
        "applied_index",
        "lag",
        "version",
        "zone_data",
        "last_contact_ms",
        "clock_offset_ms",
    ];
    let (own, address) = (&cluster["nodes"][0], json!(node.api.to_string()));
    assert_eq!(keys(own), BTreeSet::from(fields));
    assert_eq!((&own["role"], &own["voter"], &own["http_address"]), (&json!("leader"), &json!(true), &address));
    // What the node brings; in use is none of it.
    assert!(own["zone_data"].as_str().is_some_and(|version| version >= "2026f"), "{own}");
    assert_eq!(cluster["zone_data"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_a_write_and_a_read_are_1050_in_time_and_a_local_read_is_answered() {
    let mut cluster = Cluster::new(3, |c| c.limits.request_timeout_ms = 500);
    cluster.start(0).await;
    let (node, client) = (cluster.node(0), cluster.client(0));
    let began = xcron::clock::monotonic();
    let write = client.post("/xcron/createTask", &once(URL, 5)).await;
    write.is(1050, 503, "no leader");
    assert!(write.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    let took = began.elapsed().as_millis();
    assert!((400..3000).contains(&took), "{took} ms");
    client.delete("x").await.is(1050, 503, "no leader");
    for (call, body) in [
        ("updateTask", json!({"task_id": "x", "name": "y"})),
        ("cancelRun", json!({"run_id": "0199e7a1-5b1c-8000-9f00-0123456789ab"})),
    ] {
        let answer = client.post(&format!("/xcron/{call}"), &body).await;
        answer.is(1050, 503, "nothing was written");
        assert!(!answer.message().contains("consistency"), "{}", answer.message());
    }
    client.get("/xcron/queryTask?task_id=x").await.is(1050, 503, "no leader");
    client.get("/xcron/listRuns").await.is(1050, 503, "no leader");
    let many = client.post("/xcron/createTasks", &json!({"tasks": [once(URL, 5), once("x", 5)]})).await.ok();
    assert_eq!((&many["results"][0]["code"], &many["results"][1]["code"]), (&json!(1050), &json!(1003)));
    client.get("/xcron/queryTask?task_id=x&consistency=local").await.is(1040, 404, "task");
    assert_eq!(client.get("/xcron/cluster").await.ok()["leader"], Value::Null);
    let (status, _, text) = node.monitor.plain("/readyz").await;
    let ready: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &ready["ready"]), (503, &json!(false)));
    assert!(ready["reason"].as_str().is_some_and(|r| !r.is_empty()));
    assert_eq!(node.monitor.plain("/healthz").await.0, 200, "the process lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_shows_no_leader_that_no_majority_follows_and_no_clock_of_a_dead_node() {
    let mut cluster = Cluster::new(3, |_| {});
    for n in 0..3 {
        cluster.start(n).await;
    }
    let leader = cluster.leader().await;
    let followers = cluster.followers().await;
    // What a node shows once it is alone, the leader and a follower.
    for (alone, dead) in [(leader, followers.clone()), (followers[0], vec![leader, followers[1]])] {
        for n in 0..3 {
            if cluster.running().all(|(running, _)| running != n) {
                cluster.start(n).await;
            }
        }
        cluster.leader().await;
        until("every clock", || async {
            let shown = cluster.client(alone).get("/xcron/cluster").await.ok();
            let all = shown["nodes"].as_array()?.iter().all(|node| node["clock_offset_ms"].is_i64());
            (all && shown["leader"].is_u64()).then_some(())
        })
        .await;
        for n in dead {
            cluster.crash(n).await;
        }
        let shown = until("a cluster without a leader", || async {
            let shown = cluster.client(alone).get("/xcron/cluster").await.ok();
            shown["leader"].is_null().then_some(shown)
        })
        .await;
        for node in shown["nodes"].as_array().unwrap() {
            let own = node["id"] == shown["node"];
            assert_eq!(node["role"], if own { "candidate" } else { "unreachable" }, "{shown}");
            assert_eq!(node["clock_offset_ms"].is_null(), !own, "{shown}");
            assert!(node["last_contact_ms"].is_u64(), "{shown}");
        }
    }
}
