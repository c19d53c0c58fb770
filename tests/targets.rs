//! Which targets are refused, when a task is created and when its callback is sent; and what becomes of the callbacks of
//! targets that fail.

mod support;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{json, Value};
use support::{config, named, once, pass, periodic, until, with, Client, Cluster, Hit, Say, Sink, TestNode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xcron::config::Config;
use xcron::dispatcher::transport::{Answer, Failure, Http, Lookup, Request, Transport};
use xcron::guard::{Own, OwnHost};

async fn node_with(change: impl Fn(&mut Config)) -> (TempDir, TestNode) {
    let dir = tempfile::tempdir().expect("a directory");
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
    let held = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"));
    held.map(|l| l.local_addr().expect("an address").port())
}

#[track_caller]
fn refused_with(result: &Value, url: &str, part: &str) {
    assert_eq!(result["code"], 1003, "{url}: {result}");
    let message = result["message"].as_str().expect("a message");
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
    let run = client.run(task["last_run"]["run_id"].as_str().expect("a run")).await;
    let attempts = run["attempts"].as_array().expect("a list").clone();
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
async fn the_ports_of_the_other_nodes_are_refused_wherever_they_are() {
    let cluster = Cluster::three().await;
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        let own_of_other = cluster.node(b).api.port();
        assert_ne!(cluster.node(a).api.port(), own_of_other);
        let task = once(&format!("http://{}/xcron/createTask", cluster.node(b).api), 3_600_000);
        until("a node that knows where the other serves", || async {
            Some(cluster.client(a).post("/xcron/createTask", &task).await).filter(|answer| answer.code == 1003)
        })
        .await
        .is(1003, 400, "a port of the cluster itself");
    }
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

/// What names stand for; a name that is asked for again stands for the next of its addresses.
fn standing_for(names: &'static [(&'static str, &'static [&'static str])]) -> Lookup {
    let asked = AtomicUsize::new(0);
    Arc::new(move |name| {
        let found = names.iter().find(|(n, _)| *n == name).map(|(_, ips)| *ips).unwrap_or_default();
        let turn = asked.fetch_add(1, Ordering::Relaxed);
        let ips = found.get(turn.min(found.len().saturating_sub(1))).copied().unwrap_or_default();
        let ips: Vec<IpAddr> = ips.split_whitespace().map(|ip| ip.parse().expect("an address")).collect();
        Box::pin(async move { Ok(ips) })
    })
}

async fn send(http: &Http, url: &str) -> Result<Answer, Failure> {
    let timeout = Duration::from_secs(5);
    let (method, headers) = (xcron::dispatcher::transport::Method::POST, Default::default());
    http.send(Request { method, url: url.to_owned(), headers, body: None, timeout, answer_bytes: 256 }).await
}

#[track_caller]
fn not_sent(outcome: Result<Answer, Failure>, part: &str) {
    let failure = outcome.expect_err("it is refused");
    assert!(matches!(&failure, Failure::Refused(why) if why.to_string().contains(part)), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_comes_to_stand_for_another_address_gains_nothing() {
    let sink = Sink::saying(|_| Say::ok().header("connection", "close")).await;
    let (callback, guard) = (Config::default().callback, Arc::default());
    let lookup = standing_for(&[("moving.example", &["169.254.169.254 127.0.0.1", "169.254.169.254 fe80::1"])]);
    let http = Http::resolving(&callback, guard, lookup).unwrap();
    let url = sink.url("/").replace("127.0.0.1", "moving.example");
    assert_eq!(send(&http, &url).await.unwrap().status, 200, "by the address that is left");
    // What was found a moment ago does for a while without asking.
    let refused = until("another answer", || async { Some(send(&http, &url).await).filter(Result::is_err) }).await;
    not_sent(refused, "169.254.169.254, for which moving.example stands, is a cloud's metadata");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_leads_to_a_port_of_the_cluster() {
    let (node, peer, other) = (Sink::start().await, Sink::start().await, Sink::start().await);
    let port = |sink: &Sink| sink.url("").rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let mut own = Own::default();
    own.add(OwnHost::of("127.0.0.1"), port(&node));
    own.add(OwnHost::of("peer"), port(&peer));
    let guard = xcron::guard::Guard::new(&[], &[], false, own).unwrap();
    let lookup = standing_for(&[("alias.example", &["127.0.0.1"]), ("peer", &["127.0.0.1"])]);
    let http = Http::resolving(&Config::default().callback, guard.into(), lookup).unwrap();
    for sink in [&node, &peer] {
        for host in ["127.0.0.1", "alias.example", "2130706433"] {
            not_sent(send(&http, &format!("http://{host}:{}/", port(sink))).await, "a port of the cluster itself");
        }
    }
    not_sent(send(&http, &format!("http://peer:{}/", port(&peer))).await, "a port of the cluster itself");
    assert_eq!(send(&http, &format!("http://alias.example:{}/", port(&other))).await.unwrap().status, 200);
    assert_eq!((node.count(), peer.count(), other.count()), (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_name_server_opens_no_port_of_the_cluster() {
    let (peer, is_silent) = (Sink::start().await, Arc::new(AtomicBool::new(true)));
    let port = peer.url("").rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let http = || {
        let mut own = Own::default();
        own.add(OwnHost::of("peer"), port);
        let guard = xcron::guard::Guard::new(&[], &[], false, own).unwrap();
        let is_silent = is_silent.clone();
        let lookup: Lookup = Arc::new(move |_| {
            let is_silent = is_silent.load(Ordering::Relaxed);
            Box::pin(async move {
                match is_silent {
                    true => std::future::pending().await,
                    false => Ok(vec!["127.0.0.1".parse().expect("an address")]),
                }
            })
        });
        Http::resolving(&Config::default().callback, guard.into(), lookup).unwrap()
    };
    // Nothing is known of the peer yet: it may be anywhere.
    let never_answered = http();
    let failure = send(&never_answered, &peer.url("/")).await.expect_err("it is not sent");
    let (Failure::Connect(why), part) = (&failure, "a node's address is not known") else { panic!("{failure}") };
    assert!(why.contains(part), "{why}");
    // It is where it was.
    is_silent.store(false, Ordering::Relaxed);
    let answered_before = http();
    not_sent(send(&answered_before, &peer.url("/")).await, "a port of the cluster itself");
    is_silent.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        not_sent(send(&answered_before, &peer.url("/")).await, "a port of the cluster itself");
    }
    assert_eq!(peer.count(), 0);
}

/// Connections to this address that a process holds, by the kernel's table.
fn held_to(address: SocketAddr) -> usize {
    const ESTABLISHED: &str = "01";
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    let remote = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("the kernel's table");
    let is_held = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[2] == remote && columns[3] == ESTABLISHED
    };
    table.lines().skip(1).filter(|line| is_held(line)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_given_up_closes_its_connection() {
    let listener = tokio::net::TcpListener::bind((support::node::own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let http = Http::new(&Config::default().callback, Arc::default()).unwrap();
    let (method, timeout) = (xcron::dispatcher::transport::Method::POST, Duration::from_millis(500));
    // The target accepts, and reads nothing.
    let bodies = [1 << 20, 100].map(|bytes| vec![b'x'; bytes]);
    let sending = bodies.into_iter().flat_map(|body| std::iter::repeat_n(bytes::Bytes::from(body), 15)).map(|body| {
        let (method, url, headers) = (method.clone(), format!("http://{address}/"), Default::default());
        http.send(Request { method, url, headers, body: Some(body), timeout, answer_bytes: 256 })
    });
    let accepting = async {
        let mut taken = Vec::new();
        while taken.len() < 30 {
            taken.push(listener.accept().await.unwrap().0);
        }
        assert_eq!(held_to(address), 30);
        taken
    };
    let (outcomes, _taken) = tokio::join!(futures::future::join_all(sending), accepting);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Failure::Timeout(_)))), "{outcomes:?}");
    until("closed connections", || async { (held_to(address) == 0).then_some(()) }).await;
}

/// An address that refuses connections, until a sink is opened there.
fn closed() -> SocketAddr {
    TcpListener::bind((support::node::own_address(), 0)).and_then(|l| l.local_addr()).expect("a port")
}

fn quick_probes(config: &mut Config) {
    (config.callback.probe_min_ms, config.callback.probe_max_ms) = (20, 200);
}

/// What is told of a target, once it is as wanted.
async fn await_target(client: &Client, address: SocketAddr, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    until(what, || async {
        let targets = client.pages("/xcron/targets?limit=1", "targets").await;
        targets.into_iter().find(|t| t["target"] == address.to_string()).filter(&holds)
    })
    .await
}

fn is_held(target: &Value) -> bool {
    target["state"] != "ok"
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_of_a_target_that_cannot_be_reached_wait_and_use_up_no_attempt() {
    let (_dir, node) = node_with(|c| {
        quick_probes(c);
        c.callback.hold_after = 1;
        c.callback.in_flight_per_host_max = 1;
    })
    .await;
    let address = closed();
    let url = format!("http://{address}/");
    let tasks: Vec<Value> = (0..20).map(|i| named(once(&url, 10 * i), &format!("t{i}"))).collect();
    node.client.create_all(&tasks).await;
    let target = await_target(&node.client, address, "all that waits", |t| is_held(t) && t["waiting"] == 20).await;
    assert!(target["consecutive_failures"] == 1 && target["held_since_ms"].is_u64(), "{target}");
    assert!(target["last_error"].as_str().is_some_and(|e| e.contains("refused")), "{target}");
    let metrics = node.monitor.plain("/metrics").await.2;
    assert!(metrics.lines().any(|line| line == "xcron_targets_held 1"), "{metrics}");
    assert!(metrics.lines().any(|line| line == "xcron_attempts_queued 20"), "{metrics}");

    let elsewhere = Sink::start().await;
    node.client.delete("t17").await.ok();
    node.client.post("/xcron/pauseTask", &json!({"task_id": "t18"})).await.ok();
    let change = json!({"task_id": "t19", "callback": {"url": elsewhere.url("/")}});
    node.client.post("/xcron/updateTask", &change).await.ok();
    assert_eq!(elsewhere.await_of("t19", 1).await[0].attempt(), 1, "it does not wait for where it no longer goes");

    let sink = Sink::open(address).await;
    let hits = sink.await_count(17).await;
    let again = hits.iter().filter(|hit| hit.attempt() > 1).count();
    assert_eq!(again, 1, "the one that found out");
    let firsts: Vec<u64> = hits.iter().filter(|hit| hit.attempt() == 1).map(support::Hit::due_ms).collect();
    for second in firsts.iter().map(|due| due / 1000) {
        assert!(firsts.iter().filter(|due| **due / 1000 == second).is_sorted(), "the earliest first: {firsts:?}");
    }
    assert!(hits.iter().all(|hit| hit.attempt() <= 2));
    for i in 0..17 {
        let task = node.client.await_task(&format!("t{i}"), "its end", |t| t["run_count"] == 1).await;
        assert_eq!(task["last_run"]["state"], "succeeded");
    }
    assert_eq!(sink.by_task().len(), 17, "neither the deleted nor the paused one");
    node.client.post("/xcron/resumeTask", &json!({"task_id": "t18"})).await.ok();
    assert_eq!(sink.await_of("t18", 1).await[0].attempt(), 1);
    until("no target with anything", || async {
        node.client.pages("/xcron/targets?state=held", "targets").await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_whose_tls_handshake_fails_stays_held_and_uses_up_no_attempt() {
    let (_dir, node) = node_with(|c| {
        quick_probes(c);
        c.callback.probe_max_ms = 40;
        c.callback.hold_after = 1;
        c.callback.in_flight_per_host_max = 1;
    })
    .await;
    let client = &node.client;
    // It takes the connection, and says something else than TLS.
    let server = tokio::net::TcpListener::bind((support::node::own_address(), 0)).await.expect("a port");
    let address = server.local_addr().expect("an address");
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut start = [0; 16];
            if stream.read(&mut start).await.is_ok_and(|n| n > 0 && start[0] == b'P') {
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await);
            }
        }
    });
    let tasks: Vec<Value> = (0..10).map(|i| named(once(&format!("https://{address}/"), 0), &format!("t{i}"))).collect();
    client.create_all(&tasks).await;
    let held = await_target(client, address, "a hold", |t| is_held(t) && t["waiting"].as_u64() >= Some(9)).await;
    let failures = held["consecutive_failures"].clone();
    let before = connections.load(Ordering::Relaxed);
    until("many probes", || async { (connections.load(Ordering::Relaxed) > before + 20).then_some(()) }).await;
    let held = await_target(client, address, "the hold still", is_held).await;
    assert_eq!(held["consecutive_failures"], failures, "no callback went: {held}");
    assert_eq!(held["scheme"], "https", "{held}");
    assert!(held["last_error"].as_str().is_some_and(|why| why.contains("the TLS handshake failed: ")), "{held}");
    let mut made = 0;
    for i in 0..10 {
        let runs = client.runs(&format!("t{i}")).await;
        made += runs.iter().map(|run| run["attempts"].as_array().map_or(0, Vec::len)).sum::<usize>();
    }
    assert!(made as u64 <= failures.as_u64().unwrap_or_default(), "{made} attempts, those from before the hold");
    // A task with the right scheme does not wait for those with the wrong one.
    client.create(&named(once(&format!("http://{address}/"), 0), "plain")).await;
    let plain = client.await_task("plain", "its end", |t| t["run_count"] == 1).await;
    assert_eq!(plain["last_run"]["state"], "succeeded");
    await_target(client, address, "the hold for TLS", is_held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_run_alone_uses_up_its_attempts_and_fails() {
    let (_dir, node) = node_with(|c| c.callback.retry.max_attempts = 6).await;
    node.client.create(&named(once(&format!("http://{}/", closed()), 0), "a")).await;
    assert_eq!(errors_of(&node.client, "a").await.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_stands_for_nothing_is_held_too() {
    let (_dir, node) = node_with(quick_probes).await;
    for i in 0..5 {
        node.client.create(&named(once("http://nowhere.invalid:81/", 0), &format!("n{i}"))).await;
    }
    until("a hold", || async {
        let held = node.client.pages("/xcron/targets?limit=9", "targets").await;
        held.into_iter().find(|t| t["target"] == "nowhere.invalid:81" && is_held(t))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_holds_up_no_other() {
    let (_dir, node) = node_with(|c| c.callback.timeout_ms = 30_000).await;
    let (slow, quick) = (Sink::saying(|_| Say::nothing()).await, Sink::start().await);
    let tasks: Vec<Value> = (0..300).map(|_| once(&slow.url("/"), 0)).collect();
    node.client.create_all(&tasks).await;
    slow.await_count(64).await;
    let tasks: Vec<Value> = (0..200).map(|i| once(&quick.url("/"), 500 + 5 * i)).collect();
    node.client.create_all(&tasks).await;
    let hits = quick.await_count(200).await;
    let mut late: Vec<u64> = hits.iter().map(support::Hit::lateness_ms).collect();
    late.sort_unstable();
    println!("lateness beside a target that hangs: p50 {} ms, max {} ms", late[100], late[199]);
    assert_eq!((slow.count(), slow.most_at_once()), (64, 64), "none of its first ones has been answered");
    let shown = node.client.pages("/xcron/targets?state=ok", "targets").await;
    let of_slow = shown.iter().find(|t| slow.url("").ends_with(t["target"].as_str().expect("a name")));
    let of_slow = of_slow.expect("it is shown");
    assert_eq!((&of_slow["in_flight"], &of_slow["waiting"]), (&json!(64), &json!(236)));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_is_kept_of_a_dead_target_stops_no_other_and_is_not_lost() {
    // More than a line that is held keeps.
    const MANY: usize = 10_500;
    let (_dir, node) = node_with(quick_probes).await;
    let (address, quick) = (closed(), Sink::start().await);
    let dead: Vec<Value> = (0..MANY).map(|_| once(&format!("http://{address}/"), 0)).collect();
    node.client.create_all(&dead).await;
    await_target(&node.client, address, "all that waits", |t| is_held(t) && t["waiting"] == MANY).await;
    let tasks: Vec<Value> = (0..50).map(|_| once(&quick.url("/"), 0)).collect();
    node.client.create_all(&tasks).await;
    quick.await_count(50).await;
    let sink = Sink::open(address).await;
    sink.await_count(MANY).await;
    until("the end of all", || async {
        node.client.pages("/xcron/targets?limit=9", "targets").await.is_empty().then_some(())
    })
    .await;
    assert!(sink.by_run().len() == MANY && sink.count() == MANY, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_learns_anew_which_targets_cannot_be_reached() {
    let mut cluster = Cluster::three_with(quick_probes).await;
    let address = closed();
    let (leader, followers) = (cluster.leader().await, cluster.followers().await);
    let tasks: Vec<Value> = (0..20).map(|i| named(once(&format!("http://{address}/"), 0), &format!("t{i}"))).collect();
    cluster.client(followers[0]).create_all(&tasks).await;
    let held = |t: &Value| is_held(t) && t["waiting"] == 20;
    await_target(cluster.client(followers[0]), address, "a hold, told by a follower", held).await;
    let local = cluster.client(followers[0]).get("/xcron/targets?consistency=local").await.ok();
    assert!(local["targets"].as_array().is_some_and(|all| all.len() == 1 && is_held(&all[0])), "{local}: the leader's");
    cluster.crash(leader).await;
    await_target(cluster.client(followers[1]), address, "a hold of the new leader", held).await;
    cluster.crash(followers[0]).await;
    // Its lease may still run.
    let refused = || async { Some(cluster.client(followers[1]).get("/xcron/targets").await).filter(|a| a.code != 0) };
    until("a node that does not lead any more", refused).await.is(1050, 503, "no leader");
    cluster.start(followers[0]).await;
    let sink = Sink::open(address).await;
    until("all tasks", || async { (sink.by_task().len() == 20).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn due_times_that_a_dead_target_has_missed_say_so() {
    let (_dir, node) = node_with(|c| {
        quick_probes(c);
        c.callback.hold_after = 1;
        c.callback.misfire_window_ms = 1000;
    })
    .await;
    let address = closed();
    node.client.create(&named(support::periodic(&format!("http://{address}/"), "@every 1s"), "p")).await;
    let target = await_target(&node.client, address, "a hold", is_held).await;
    // Time passes in which it would be due some times.
    pass(4000).await;
    let sink = Sink::open(address).await;
    sink.await_of("p", 2).await;
    let missed = until("a missed due time", || async {
        node.client.runs("p").await.into_iter().find(|run| run["state"] == "missed")
    })
    .await;
    let reason = missed["reason"].as_str().expect("a reason");
    let since = target["held_since_ms"].as_u64().expect("a time");
    assert!(reason.contains(&format!("{address} could not be reached, from {since} to ")), "{reason}");
}

/// A target that answers `head` and then `piece` for ever, with a pause before each: its URL, and how many bytes it has
/// got rid of once the node had enough of it.
async fn endless(
    head: &'static [u8],
    piece: Vec<u8>,
    pause: Duration,
) -> (String, tokio::task::JoinHandle<std::io::Result<u64>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let target = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await?;
        stream.write_all(head).await?;
        let mut bytes = head.len() as u64;
        while stream.write_all(&piece).await.is_ok() {
            bytes += piece.len() as u64;
            tokio::time::sleep(pause).await;
        }
        Ok(bytes)
    });
    (url, target)
}

/// Answers that never end, of every kind: each attempt ends, and takes no more of them than it must.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_ends_the_attempt_and_is_not_kept() {
    /// What is read of an answer at most, and what lies in the sockets' buffers by then.
    const TAKEN_MAX: u64 = 32 << 20;
    let (none, some) = (Duration::ZERO, Duration::from_millis(20));
    let large = |start: &str, end: &str| [start.as_bytes(), &[b'x'; 4096], end.as_bytes()].concat();
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096)).into_bytes();
    let ok = b"HTTP/1.1 200 OK\r\n";
    // What is sent, and whether it is an answer: one of which the start has come is.
    type Kind = (&'static str, &'static [u8], Vec<u8>, Duration, bool);
    let kinds: [Kind; 8] = [
        ("headers", ok, large("x: ", "\r\n"), none, false),
        ("one header", b"HTTP/1.1 200 OK\r\nx: ", large("", ""), none, false),
        ("a status line", b"HTTP/1.1 200 ", large("", ""), none, false),
        ("interim answers", b"", b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100), none, false),
        ("a dripping head", ok, b"x".to_vec(), some, false),
        ("a body", b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", large("", ""), none, true),
        ("chunks", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunk, none, true),
        ("a dripping body", b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n", b"x".to_vec(), some, true),
    ];
    let http = Http::new(&Config::default().callback, Arc::default()).unwrap();
    for (kind, head, piece, pause, answers) in kinds {
        let (url, target) = endless(head, piece, pause).await;
        let (method, headers, timeout) = (xcron::dispatcher::transport::Method::POST, Default::default(), 1000);
        let timeout = Duration::from_millis(timeout);
        let outcome = http.send(Request { method, url, headers, body: None, timeout, answer_bytes: 256 }).await;
        match outcome {
            Ok(answer) => {
                assert!(answers, "{kind}: {answer:?}");
                assert_eq!(answer.status.as_u16(), 200, "{kind}");
                assert!(answer.start.len() == 256 || answer.cut.is_some(), "{kind}: {answer:?}");
            }
            Err(failure) => assert!(!answers, "{kind}: {failure}"),
        }
        let bytes = tokio::time::timeout(Duration::from_secs(10), target).await;
        let bytes = bytes.unwrap_or_else(|_| panic!("{kind}: the connection is kept")).unwrap().unwrap_or(0);
        println!("{kind}: {bytes} bytes were taken");
        assert!(bytes <= TAKEN_MAX, "{kind}: {bytes} bytes were taken");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_hang_hold_up_no_other_one_however_many_they_are() {
    let (_dir, node) = node_with(|config| {
        (config.callback.in_flight_max, config.callback.in_flight_per_host_max) = (64, 8);
    })
    .await;
    let healthy = Sink::start().await;
    node.client.create(&named(periodic(&healthy.url("/"), "@every 1s"), "healthy")).await;
    healthy.await_of("healthy", 1).await;
    // Eight with a backlog, which would take all places, and many with a few callbacks each.
    let mut hanging = Vec::new();
    for host in 0..88 {
        let sink = Sink::saying(|_| Say::ok().after(120_000)).await;
        let slow = with(once(&sink.url("/"), 0), json!({"callback": {"url": sink.url("/"), "timeout_ms": 60_000}}));
        node.client.create_all(&vec![slow; if host < 8 { 40 } else { 2 }]).await;
        hanging.push(sink);
    }
    until("many that hang", || {
        let many = hanging.iter().map(Sink::count).sum::<usize>() >= 40;
        std::future::ready(many.then_some(()))
    })
    .await;
    let before = healthy.of("healthy").len();
    let hits = healthy.await_of("healthy", before + 5).await;
    let late = hits[before..].iter().map(Hit::lateness_ms).max().unwrap();
    assert!(late < 1000, "{late} ms late beside targets that hang");
}
