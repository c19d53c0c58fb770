//! Few file descriptors, and clients that mean harm.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::behind::memory_peak_kb;
use crate::harness::{has_tool, run, sleep_ms};
use crate::sink::Call;
use crate::skip::skipped;
use crate::trial::{rounds, turn, Trial};

/// Bodies that are refused take no memory worth mention beside what a node has anyway: 41 MB were measured.
const MEMORY_KB_MAX: u64 = 128 << 10;

fn limit_files(pid: u32, files: u32) -> Result<(), String> {
    run("prlimit", &["--pid", &pid.to_string(), &format!("--nofile={files}:")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_out_of_file_descriptors_loses_nothing() {
    if !has_tool("prlimit") {
        return skipped("prlimit", "it is missing");
    }
    let _turn = turn().await;
    let mut trial = Trial::of(3, "").await;
    let times = rounds(1, 5);
    for _ in 0..times {
        sleep_ms(1500).await;
        let (leader, _) = trial.cluster.leader().await;
        let pid = trial.cluster.nodes[leader].pid();
        limit_files(pid, 40).expect("limit the files");
        sleep_ms(6000).await;
        limit_files(pid, 4096).expect("raise the limit again");
        sleep_ms(1000).await;
    }
    trial.check("40 file descriptors on the leader for 6 s", times, "").await;
    let repeated: Vec<Call> = trial.sink.calls().into_iter().filter(|call| call.attempt > 1).collect();
    assert!(repeated.is_empty(), "what never left has counted as an attempt: {repeated:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_connections_that_send_nothing_whole_hold_up_nobody() {
    let _turn = turn().await;
    let mut trial = Trial::of(3, "").await;
    let (leader, _) = trial.cluster.leader().await;
    let port = trial.cluster.nodes[leader].ports.http;
    let mut slow = Vec::new();
    for n in 0..500 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
        let head = [
            "POST /xcron/createTask HTTP/1.1\r\nhost: localhost\r\n",
            "POST /xcron/createTask HTTP/1.1\r\nhost: localhost\r\n\
             content-type: application/json\r\ncontent-length: 5000\r\n\r\n{",
        ][n % 2];
        stream.write_all(head.as_bytes()).await.expect("send the start");
        slow.push(stream);
    }
    for _ in 0..rounds(3, 30) {
        sleep_ms(1000).await;
        for stream in &mut slow {
            // An error means that the node has closed it.
            let _ = stream.write_all(b"x").await;
        }
    }
    trial.check("500 connections that drip onto the leader's http_port", 1, "").await;
}

/// Sends a request with a body of 64 MiB as fast as it is taken; the start of the answer.
async fn send_large(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
    let head = "POST /xcron/createTask HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let length = 64 << 20;
    let _ = stream.write_all(format!("{head}content-length: {length}\r\n\r\n").as_bytes()).await;
    let (mut from, mut to) = stream.split();
    let send = async {
        let chunk = vec![b' '; 1 << 20];
        for _ in 0..length >> 20 {
            if to.write_all(&chunk).await.is_err() {
                break;
            }
        }
    };
    let mut answer = vec![0; 4096];
    let read = async { from.read(&mut answer).await.unwrap_or(0) };
    let (_, length) = tokio::join!(tokio::time::timeout(Duration::from_secs(10), send), read);
    answer.truncate(length);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_are_refused_before_they_are_read() {
    let _turn = turn().await;
    let mut trial = Trial::of(3, "").await;
    let (leader, _) = trial.cluster.leader().await;
    let node = &trial.cluster.nodes[leader];
    let (port, before_kb) = (node.ports.http, memory_peak_kb(node.pid()));
    let mut refused = 0;
    let times = rounds(3, 20);
    for _ in 0..times {
        let answers = futures::future::join_all((0..8).map(|_| send_large(port))).await;
        for answer in answers {
            // Without a word only where the connection was reset while it was still sending.
            assert!(answer.is_empty() || (answer.contains(" 413 ") && answer.contains("1006")), "{answer}");
            refused += usize::from(!answer.is_empty());
        }
    }
    let after_kb = memory_peak_kb(trial.cluster.nodes[leader].pid());
    let note = format!("{refused} told so; peak memory {} MB, before {} MB", after_kb >> 10, before_kb >> 10);
    trial.check("bodies of 64 MiB, eight at once", times, &note).await;
    assert!(refused > 0 && after_kb <= MEMORY_KB_MAX, "{note}");
}
