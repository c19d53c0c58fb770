//! The command line, exit codes and signals.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::api::once;
use crate::harness::{binary, eventually, free_port, now_ms, send, sleep_ms, Cluster};
use crate::sink::Sink;

fn server(arguments: &[&str], dir: &Path) -> Output {
    Command::new(binary()).args(arguments).current_dir(dir).output().expect("run the server")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn refused(output: &Output, parts: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
    assert!(!said.to_lowercase().contains("panic"), "{said}");
}

#[test]
fn the_version_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let output = server(&["--version"], dir.path());
    assert!(output.status.success());
    let zone_data = xcron::schedule::ZoneData::default();
    let told = format!("xcron_server {} (zone data {})", env!("CARGO_PKG_VERSION"), zone_data.version());
    assert_eq!(said(&output).trim(), told);
    refused(&server(&["--no-such-option"], dir.path()), &["--no-such-option"]);
}

#[test]
fn check_reads_the_file_that_is_named_or_the_one_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    refused(&server(&["--check"], dir.path()), &["xcron.toml", "cannot be read"]);
    refused(&server(&["--check", "-c", "none.toml"], dir.path()), &["none.toml", "cannot be read"]);
    refused(&server(&["-c", "none.toml"], dir.path()), &["none.toml", "cannot be read"]);
    std::fs::write(dir.path().join("xcron.toml"), "").unwrap();
    std::fs::write(dir.path().join("other.toml"), "http_port = 8001\n").unwrap();
    for arguments in [&["--check"][..], &["--check", "-c", "other.toml"], &["--check", "--conf", "other.toml"]] {
        let output = server(arguments, dir.path());
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }
    assert!(!dir.path().join("data").exists(), "a check stores nothing");
}

#[test]
fn each_wrong_configuration_ends_with_2_and_names_file_key_and_expectation() {
    let dir = tempfile::tempdir().unwrap();
    for (text, parts) in [
        ("htp_port = 1\n", &["htp_port", "http_port"][..]),
        ("[raft]\nheart_beat = 1\n", &["heart_beat", "heartbeat_ms"]),
        ("http_port = \"8000\"\n", &["http_port", "line 1"]),
        ("peer = 3\n", &["peer"]),
        ("http_port = 8000\npeer_port = 8000\n", &["peer_port", "http_port", "different"]),
        ("monitor_port = 8899\n", &["monitor_port", "peer_port", "different"]),
        ("[peer]\npeer_hosts = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n", &["peer_hosts", "does not name this node"]),
        ("[peer]\npeer_hosts = [\"127.0.0.1\"]\n", &["peer_hosts", "host:port"]),
        ("timezone = \"Mars\"\n", &["timezone", "IANA"]),
        ("env = \"test\"\n", &["env", "debug", "prod"]),
        ("env = \n", &["line 1"]),
        ("[callback]\ndeny = [\"10.0.0.0/40\"]\n", &["callback.deny", "10.0.0.0/40", "0 to 32"]),
    ] {
        std::fs::write(dir.path().join("x.toml"), text).unwrap();
        let parts: Vec<&str> = parts.iter().copied().chain(["x.toml"]).collect();
        for arguments in [&["--check", "-c", "x.toml"][..], &["-c", "x.toml"]] {
            refused(&server(arguments, dir.path()), &parts);
        }
    }
}

#[test]
fn a_port_that_another_process_holds_is_named() {
    let cluster = Cluster::new(1, "");
    let node = &cluster.nodes[0];
    for (key, port) in
        [("http_port", node.ports.http), ("peer_port", node.ports.peer), ("monitor_port", node.ports.monitor)]
    {
        let _other = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let output = server(&["-c", &node.conf.display().to_string()], cluster.path());
        refused(&output, &["n1.toml", key, &port.to_string(), "listen"]);
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let ports = [free_port(), free_port(), free_port()];
    let [http, peer, monitor] = ports;
    let text = format!("http_port = {http}\npeer_port = {peer}\nmonitor_port = {monitor}\nraft_dir = \"file/data\"\n");
    std::fs::write(dir.path().join("x.toml"), text).unwrap();
    refused(&server(&["-c", "x.toml"], dir.path()), &["x.toml", "raft_dir", "file/data"]);
}

/// As while a machine starts: a supervisor tries again, and is to.
#[test]
fn an_address_that_the_machine_does_not_have_yet_is_no_wrong_configuration() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.toml"), "bind = \"192.0.2.7\"\n").unwrap();
    let output = server(&["-c", "x.toml"], dir.path());
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("192.0.2.7"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_directory_is_used_by_one_process() {
    let cluster = Cluster::start(1, "").await;
    let dir = cluster.nodes[0].data.display().to_string();
    let [http, peer, monitor] = [free_port(), free_port(), free_port()];
    let text = format!("http_port = {http}\npeer_port = {peer}\nmonitor_port = {monitor}\nraft_dir = {dir:?}\n");
    std::fs::write(cluster.path().join("second.toml"), text).unwrap();
    let output = server(&["-c", "second.toml"], cluster.path());
    refused(&output, &["second.toml", "raft_dir", "another process"]);
    assert!(cluster.nodes[0].is_ready(&cluster.api).await, "the first one goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_sigint_end_a_node_in_order() {
    let mut cluster = Cluster::start(1, "").await;
    let sink = Sink::start().await;
    let due = now_ms() + 3000;
    let answer = cluster.api.create(cluster.nodes[0].ports.http, &once("kept", due, &sink.url)).await.unwrap();
    assert_eq!(answer.0, 200, "{answer:?}");
    assert_eq!(cluster.nodes[0].stop().await, Some(0));
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(Duration::from_secs(20)).await);
    let kept = cluster.api.query(cluster.nodes[0].ports.http, "kept").await.unwrap();
    assert_eq!(kept.1["code"], 0, "{kept:?}");
    cluster.nodes[0].signal("INT");
    assert_eq!(cluster.nodes[0].exit(Duration::from_secs(20)).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_node_at_once() {
    let mut cluster = Cluster::start(1, "").await;
    // A callback that is never answered keeps the orderly end waiting.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", hole.local_addr().unwrap());
    let http = cluster.nodes[0].ports.http;
    assert_eq!(cluster.api.create(http, &once("hangs", now_ms() + 200, &url)).await.unwrap().0, 200);
    eventually("the callback is under way", Duration::from_secs(10), async || {
        let task = cluster.api.query(http, "hangs").await;
        task.is_ok_and(|(_, body)| body["data"]["last_run"]["state"] == "running")
    })
    .await;
    let node = &mut cluster.nodes[0];
    node.signal("TERM");
    eventually("it begins to stop", Duration::from_secs(5), async || node.log_text().contains("a second signal")).await;
    sleep_ms(200).await;
    let before = now_ms();
    node.signal("TERM");
    let status = node.exit(Duration::from_secs(5)).await;
    assert!(now_ms() - before < 2000, "it took {} ms", now_ms() - before);
    assert_ne!(status.code(), Some(0), "it did not end in order: {status:?}");
    assert!(node.log_text().contains("a second signal: exiting at once"), "{}", node.log_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_under_way_may_end_before_the_node_does() {
    let mut cluster = Cluster::start(1, "").await;
    let slow = Sink::start_slow(1500).await;
    let http = cluster.nodes[0].ports.http;
    assert_eq!(cluster.api.create(http, &once("slow", now_ms() + 100, &slow.url)).await.unwrap().0, 200);
    eventually("the callback is under way", Duration::from_secs(10), async || slow.of("slow").len() == 1).await;
    assert_eq!(cluster.nodes[0].stop().await, Some(0));
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(Duration::from_secs(20)).await);
    let task = cluster.api.query(http, "slow").await.unwrap().1;
    assert_eq!(task["data"]["run_count"], 1, "the outcome was recorded: {task}");
    sleep_ms(500).await;
    assert_eq!(slow.of("slow").len(), 1, "it is not sent again");
}

#[test]
fn a_bench_that_is_ended_by_a_signal_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Command::new(binary());
    bench.args(["bench", "create", "--tasks", "100000000"]).current_dir(dir.path());
    let mut bench = bench.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = now_ms() + 60_000;
    let entries = || std::fs::read_dir(dir.path()).unwrap().count();
    while entries() == 0 {
        assert!(now_ms() < deadline, "in vain waited for its directory");
        std::thread::sleep(Duration::from_millis(10));
    }
    send("TERM", bench.id());
    assert_eq!(bench.wait().unwrap().code(), Some(1));
    assert_eq!(entries(), 0, "a directory is left");
}

#[test]
fn a_bench_of_a_failover_takes_no_nodes_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let output = server(&["bench", "failover", "--node", "127.0.0.1:8000"], dir.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("--node"), "{}", said(&output));
}

#[test]
fn a_bench_starts_its_own_nodes_measures_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let load = ["--tasks", "200", "--batch", "50", "--json", "--dir", "."];
    let output =
        server(&[&["bench", "fire", "--due-in-ms", "1500", "--spread-ms", "100"], &load[..]].concat(), dir.path());
    assert!(output.status.success(), "{}", said(&output));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&told["runs that arrived"]["value"], &told["early"]["value"]), (&200.0.into(), &0.0.into()), "{told}");
    assert!(told["fires / bare client"]["value"].as_f64() > Some(0.0) && told["lateness"]["p99"].is_number(), "{told}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
