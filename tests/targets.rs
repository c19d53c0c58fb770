//! Which targets are refused: when a task is created, and when its callback is sent.

mod support;

use std::net::TcpListener;

use serde_json::{json, Value};
use support::{config, once, with, Client, Say, Sink, TestNode};
use tempfile::TempDir;
use xcron::config::Config;

async fn node_with(change: impl Fn(&mut Config)) -> (TempDir, TestNode) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.callback.retry.max_attempts = 2;
    change(&mut config);
    (dir, TestNode::start(config).await.ready().await)
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|t| t.to_string()).collect()
}

/// Three ports that nobody listens on.
fn free_ports() -> [u16; 3] {
    let held = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|l| l.local_addr().unwrap().port())
}

#[track_caller]
fn refused_with(result: &Value, url: &str, part: &str) {
    assert_eq!(result["code"], 1003, "{url}: {result}");
    let message = result["message"].as_str().unwrap();
    assert!(message.starts_with("callback.url: ") && message.contains(part), "{url}: {message}");
}

/// That a task for this target is refused when it is created, alone and among others.
async fn refused(client: &Client, url: &str, part: &str) {
    let answer = client.post("/xcron/createTask", &once(url, 0)).await;
    assert_eq!(answer.status, 400, "{url}");
    refused_with(&answer.json, url, part);
    let many = json!({"tasks": [once(url, 0), once("http://a.example/", 3_600_000)]});
    let results = client.post("/xcron/createTasks", &many).await.ok()["results"].clone();
    refused_with(&results[0], url, part);
}

/// The errors of the attempts of a task's only run, once it has failed.
async fn errors_of(client: &Client, id: &str) -> Vec<String> {
    let task = client.await_task(id, "its outcome", |t| t["last_run"]["state"] == "failed").await;
    let run =
        client.get(&format!("/xcron/queryRun?run_id={}", task["last_run"]["run_id"].as_str().unwrap())).await.ok();
    let attempts = run["attempts"].as_array().unwrap().clone();
    attempts.iter().map(|a| a["error"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_address_is_refused_in_every_spelling() {
    let (_dir, node) = node_with(|c| c.callback.allow = texts(&["0.0.0.0/0", "::/0"])).await;
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://0xa9.0376.43518/",
        "https://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[fd00:ec2::254]/",
        "http://metadata.google.internal./",
    ] {
        refused(&node.client, url, "cloud's metadata").await;
    }
    refused(&node.client, "http://169.254.1.1/", "link-local").await;
    refused(&node.client, "http://0.0.0.0:9/", "unspecified").await;
    refused(&node.client, "http://[ff02::1]/", "multicast").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_ports_are_refused() {
    let ports = free_ports();
    let (_dir, node) = node_with(|c| [c.http_port, c.peer_port, c.monitor_port] = ports).await;
    for port in ports {
        for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"] {
            refused(&node.client, &format!("http://{host}:{port}/"), "a port of the cluster itself").await;
        }
    }
    let sink = Sink::start().await;
    node.client.create(&once(&sink.url("/"), 0)).await;
    sink.await_count(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_judged_by_the_address_that_is_connected_to() {
    let (_dir, node) = node_with(|c| c.callback.deny = texts(&["127.0.0.0/8", "::1"])).await;
    let sink = Sink::start().await;
    refused(&node.client, &sink.url("/"), "\"127.0.0.0/8\" in `callback.deny`").await;
    let url = sink.url("/").replace("127.0.0.1", "localhost");
    node.client.create(&with(once(&url, 0), json!({"task_id": "n"}))).await;
    let errors = errors_of(&node.client, "n").await;
    assert_eq!(errors.len(), 2, "a failure as any other: it is tried again as often");
    for error in errors {
        assert!(error.starts_with("not sent: "), "{error}");
        assert!(error.contains("for which localhost stands, is refused by"), "{error}");
    }
    assert_eq!(sink.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_came_after_a_task_holds_for_it() {
    let (_dir, node) = node_with(|_| {}).await;
    let sink = Sink::start().await;
    for (id, url) in [("a", sink.url("/")), ("n", sink.url("/").replace("127.0.0.1", "LocalHost"))] {
        node.client.create(&with(once(&url, 2500), json!({"task_id": id}))).await;
    }
    let mut config = node.stop().await;
    config.callback.public_only = true;
    let node = TestNode::start(config).await.ready().await;
    for id in ["a", "n"] {
        let errors = errors_of(&node.client, id).await;
        assert!(errors.iter().all(|e| e.starts_with("not sent: ") && e.contains("public_only")), "{errors:?}");
    }
    assert_eq!(sink.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn public_only_refuses_what_is_not_global() {
    let (_dir, node) = node_with(|c| c.callback.public_only = true).await;
    for host in ["127.0.0.1", "localhost", "10.0.0.1", "[::1]", "[fd00::1]", "192.168.1.1", "100.64.0.1", "192.0.2.1"] {
        refused(&node.client, &format!("http://{host}/"), "is not a global address").await;
    }
    node.client.create(&once("http://a.example/", 3_600_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_allow_names_is_reached() {
    let (_dir, node) = node_with(|c| c.callback.allow = texts(&["localhost", "*.internal.example"])).await;
    let sink = Sink::start().await;
    refused(&node.client, &sink.url("/"), "is not in `callback.allow`").await;
    let answer = node.client.post("/xcron/createTask", &once("http://internal.example/", 0)).await;
    answer.is(1003, 400, "internal.example is not in `callback.allow`");
    node.client.create(&once("http://a.internal.example/", 3_600_000)).await;
    node.client.create(&once(&sink.url("/").replace("127.0.0.1", "localhost"), 0)).await;
    sink.await_count(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_a_metadata_address_is_not_followed() {
    let (_dir, node) = node_with(|_| {}).await;
    let sink = Sink::saying(|_| Say::status(307).header("location", "http://169.254.169.254/latest/meta-data/")).await;
    node.client.create(&with(once(&sink.url("/"), 0), json!({"task_id": "r"}))).await;
    let errors = errors_of(&node.client, "r").await;
    assert_eq!(errors, ["the target answered 307; redirects are not followed"; 2]);
    assert_eq!(sink.count(), 2);
}
