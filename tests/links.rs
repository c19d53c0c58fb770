//! The connections to targets: which one a request goes over, when it is sent, and what counts of an answer that breaks off.

#![allow(clippy::unwrap_used, reason = "most of it is what tests have in common")]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{json, Value};
use support::{config, named, once, pass, periodic, until, with, Sink, TestNode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use xcron::clock::Clock;
use xcron::config::Config;
use xcron::dispatcher::transport::{Http, Lookup, Transport};

/// A target without HTTP of its own.
struct Target {
    address: SocketAddr,
    /// The position of each request on its connection, and its text.
    requests: Arc<Mutex<Vec<(usize, String)>>>,
    connections: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Target {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Reads one request whole; none: the connection has ended.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        text.extend_from_slice(&part[..read]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = whole.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(whole);
        }
    }
}

impl Target {
    /// Answers with these bytes to the request at this position of its connection; after none it closes.
    async fn saying(answer: impl Fn(usize) -> Option<&'static str> + Send + Sync + 'static) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicUsize>::default());
        let (kept, opened, answer) = (requests.clone(), connections.clone(), Arc::new(answer));
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                opened.fetch_add(1, Ordering::Relaxed);
                let (kept, answer) = (kept.clone(), answer.clone());
                tokio::spawn(async move {
                    for position in 0.. {
                        let Some(text) = request(&mut stream).await else { return };
                        kept.lock().unwrap().push((position, text));
                        let Some(answer) = answer(position) else { return };
                        if answer == CLOSED_LATE {
                            return pass(LATE_MS).await;
                        }
                        let _ = stream.write_all(answer.as_bytes()).await;
                        if [STALLED, SILENT].contains(&answer) {
                            std::future::pending::<()>().await;
                        }
                    }
                });
            }
        });
        Target { address, requests, connections, serving }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn requests(&self) -> Vec<(usize, String)> {
        self.requests.lock().unwrap().clone()
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// Nothing comes.
const SILENT: &str = "";
/// Nothing comes, and after [`LATE_MS`] the connection is closed.
const CLOSED_LATE: &str = "late";
const LATE_MS: u64 = 1500;
/// After this nothing more comes.
const STALLED: &str = "HTTP/1.1 200 OK\r\nxcron-pause: true\r\ncontent-length: 10\r\n\r\nstal";

async fn node_with(change: impl Fn(&mut Config)) -> (TempDir, TestNode) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.callback.retry.max_attempts = 1;
    change(&mut config);
    (dir, TestNode::start(config).await.ready().await)
}

async fn ended(node: &TestNode, id: &str, many: usize) -> Vec<Value> {
    until("the ends of its runs", || async {
        let runs = node.client.runs(id).await;
        let over = |run: &&Value| !["pending", "running"].contains(&run["state"].as_str().unwrap_or_default());
        (runs.iter().filter(over).count() >= many).then_some(runs)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_kept_connection_has_ended_the_attempt_goes_on_over_a_new_one() {
    let (_dir, node) = node_with(|_| {}).await;
    // It answers one request on each connection, says that more may come, and closes at the next one.
    let target = Target::saying(|position| (position == 0).then_some(OK)).await;
    node.client.create(&named(periodic(&target.url(), "* * * * * *"), "p")).await;
    let runs = ended(&node, "p", 4).await;
    for run in runs.iter().filter(|run| run["state"] != "pending" && run["state"] != "running") {
        assert_eq!((&run["state"], run["attempts"][0]["number"].as_u64()), (&json!("succeeded"), Some(1)), "{run}");
    }
    let requests = target.requests();
    let broken: Vec<&String> = requests.iter().filter(|(at, _)| *at > 0).map(|(_, text)| text).collect();
    assert!(broken.len() >= 3, "none went over a kept connection: {requests:?}");
    let fences: Vec<&str> =
        requests.iter().filter_map(|(_, text)| text.lines().find(|line| line.starts_with("xcron-fence"))).collect();
    assert!(fences.windows(2).all(|pair| pair[0] != pair[1]), "{fences:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_goes_over_a_second_connection_has_its_time_once() {
    let (_dir, node) = node_with(|_| {}).await;
    // The first connection is closed late, at its second request; on the second one nothing is answered.
    let connections = AtomicUsize::new(0);
    let target = Target::saying(move |position| match position {
        0 if connections.fetch_add(1, Ordering::Relaxed) == 0 => Some(OK),
        0 => Some(SILENT),
        _ => Some(CLOSED_LATE),
    })
    .await;
    let task = |id: &str| {
        let callback = json!({"url": target.url(), "timeout_ms": 2000});
        with(once(&target.url(), 0), json!({"task_id": id, "callback": callback}))
    };
    node.client.create(&task("first")).await;
    ended(&node, "first", 1).await;
    node.client.create(&task("second")).await;
    let run = ended(&node, "second", 1).await.remove(0);
    let positions: Vec<usize> = target.requests().into_iter().map(|(position, _)| position).collect();
    assert_eq!(positions, [0, 1, 0], "it was sent over the kept connection, and then over a new one");
    let attempt = &run["attempts"][0];
    assert_eq!(attempt["error"], "no answer within 2000 ms", "{run}");
    let took = attempt["duration_ms"].as_u64().unwrap();
    assert!((2000..2000 + LATE_MS / 2).contains(&took), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_at_most_once_goes_over_a_connection_of_its_own() {
    let (_dir, node) = node_with(|_| {}).await;
    let target = Target::saying(|position| (position == 0).then_some(OK)).await;
    let task = with(periodic(&target.url(), "* * * * * *"), json!({"task_id": "p", "delivery": "at_most_once"}));
    node.client.create(&task).await;
    node.client.create(&named(periodic(&target.url(), "* * * * * *"), "beside")).await;
    let runs = ended(&node, "p", 4).await;
    assert!(runs.iter().all(|run| run["state"] != "unknown" && run["state"] != "failed"), "{runs:?}");
    let of_p = |text: &&(usize, String)| text.1.contains("xcron-task-id: p\r\n");
    let requests = target.requests();
    assert!(requests.iter().filter(of_p).all(|(position, _)| *position == 0), "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_again_and_not_beyond_the_time_that_the_target_announces() {
    let (_dir, node) = node_with(|_| {}).await;
    let kept = Target::saying(|_| Some(OK)).await;
    let short = Target::saying(|_| Some("HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 0\r\n\r\n")).await;
    for target in [&kept, &short] {
        node.client.create(&named(periodic(&target.url(), "* * * * * *"), &target.address.port().to_string())).await;
    }
    until("four runs each", || async {
        [&kept, &short].iter().all(|target| target.requests().len() >= 4).then_some(())
    })
    .await;
    assert_eq!(kept.connections.load(Ordering::Relaxed), 1);
    assert!(short.connections.load(Ordering::Relaxed) >= 4);
}

/// A node whose targets are all on loopback, found out as soon as that is allowed.
async fn with_slow_names() -> (TempDir, TestNode, watch::Sender<bool>, Arc<AtomicUsize>) {
    let dir = tempfile::tempdir().unwrap();
    let settings = config(dir.path());
    let (open, opened) = watch::channel(false);
    let asked = Arc::<AtomicUsize>::default();
    let (callback, count) = (settings.callback.clone(), asked.clone());
    let lookup: Lookup = Arc::new(move |_| {
        let mut opened = opened.clone();
        count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let _ = opened.wait_for(|open| *open).await;
            Ok(vec!["127.0.0.1".parse().unwrap()])
        })
    });
    let over = move |_| Http::resolving(&callback, Arc::default(), lookup).unwrap() as Arc<dyn Transport>;
    let node = TestNode::try_start_over(settings, Clock::system(), over).await.unwrap().ready().await;
    (dir, node, open, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_acknowledged_delete_no_request_leaves_however_slow_the_connection() {
    let (_dir, node, open, asked) = with_slow_names().await;
    let sink = Sink::start().await;
    let url = |name: &str| sink.url("/").replace("127.0.0.1", name);
    for (id, delivery) in [("gone", "at_least_once"), ("gone-once", "at_most_once"), ("stays", "at_least_once")] {
        let task = with(once(&url(&format!("{id}.example")), 0), json!({"task_id": id, "delivery": delivery}));
        node.client.create(&task).await;
    }
    let task = with(once(&url("changed.example"), 0), json!({"task_id": "changed"}));
    node.client.create(&task).await;
    until("four lookups", || async { (asked.load(Ordering::Relaxed) == 4).then_some(()) }).await;
    // Longer than it takes until an attempt is recorded as going.
    pass(200).await;
    node.client.delete("gone").await.ok();
    node.client.delete("gone-once").await.ok();
    let change = json!({"task_id": "changed", "callback": {"url": url("changed.example"), "body": {"is": "new"}}});
    node.client.post("/xcron/updateTask", &change).await.ok();
    open.send_replace(true);
    sink.await_of("stays", 1).await;
    let changed = sink.await_of("changed", 1).await;
    assert_eq!(&changed[0].body[..], br#"{"is":"new"}"#, "what it says now");
    pass(300).await;
    let tasks = sink.by_task();
    assert!(!tasks.contains_key("gone") && !tasks.contains_key("gone-once"), "{tasks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_headers_count_whatever_becomes_of_the_body() {
    let (_dir, node) = node_with(|c| c.callback.retry.max_attempts = 3).await;
    let cut =
        Target::saying(|position| (position == 0).then_some("HTTP/1.1 410 Gone\r\ncontent-length: 100\r\n\r\nnot all"));
    let failed = Target::saying(|position| {
        (position == 0).then_some("HTTP/1.1 500 Oh\r\nxcron-retry: no\r\ntransfer-encoding: chunked\r\n\r\n5\r\nnot")
    });
    let stalled = Target::saying(|_| Some(STALLED));
    let (cut, failed, stalled) = tokio::join!(cut, failed, stalled);
    let task = |target: &Target, id: &str, more: Value| {
        let task = with(periodic(&target.url(), "@every 1s"), json!({"task_id": id}));
        with(task, more)
    };
    // The targets close only after the next request, which does not come: the time of the attempts ends the bodies.
    let short = |target: &Target| json!({"callback": {"url": target.url(), "timeout_ms": 300}});
    node.client.create(&task(&cut, "gone", short(&cut))).await;
    let once = with(short(&failed), json!({"delivery": "at_most_once"}));
    node.client.create(&task(&failed, "once", once)).await;
    node.client.create(&task(&failed, "no-retry", short(&failed))).await;
    node.client.create(&task(&stalled, "paused", short(&stalled))).await;
    let gone = node.client.await_task("gone", "its end", |task| task["state"] == "finished").await;
    assert_eq!(gone["last_run"]["state"], "failed");
    let paused = node.client.await_task("paused", "the pause", |task| task["state"] == "paused").await;
    assert_eq!((&paused["last_run"]["state"], &paused["run_count"]), (&json!("succeeded"), &json!(1)), "{paused}");
    for id in ["once", "no-retry"] {
        let runs = ended(&node, id, 2).await;
        let first = runs.last().unwrap();
        assert_eq!((&first["state"], &first["attempts"][0]["status"]), (&json!("failed"), &json!(500)), "{first}");
        assert_eq!(first["attempts"].as_array().map(Vec::len), Some(1), "{first}");
        assert!(first["attempts"][0]["error"].as_str().unwrap().contains("its body broke off"), "{first}");
    }
}
