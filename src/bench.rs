//! `xcron_server bench`: load for a running cluster, and what became of it.
//!
//! ```text
//! xcron_server bench create --tasks 1000000 --due-in-ms 86400000     # pending tasks, creates per second
//! xcron_server bench fire --tasks 20000                               # all due in one second, with a sink of its own
//! ```

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::Router;
use bytes::Bytes;
use clap::{Args, Subcommand};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::clock::{monotonic, Clock};

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// Creates one-shot tasks that are due far ahead.
    Create(Load),
    /// Creates one-shot tasks that are all due within one second, and receives their callbacks.
    Fire(Load),
}

/// The load.
#[derive(Args)]
pub struct Load {
    /// The node to talk to.
    #[arg(long, default_value = "127.0.0.1:8000")]
    node: String,
    /// How many tasks.
    #[arg(long, default_value_t = 100_000)]
    tasks: u64,
    /// Calls at once.
    #[arg(long, default_value_t = 64)]
    connections: u64,
    /// Tasks in one call; 1: createTask, else createTasks.
    #[arg(long, default_value_t = 1)]
    batch: u64,
    /// From now until the tasks are due.
    #[arg(long, default_value_t = 86_400_000)]
    due_in_ms: u64,
    /// Size of a task's body, in bytes.
    #[arg(long, default_value_t = 300)]
    body_bytes: usize,
}

/// Microseconds, of which percentiles are told.
#[derive(Default)]
struct Figures(Mutex<Vec<u64>>);

impl Figures {
    fn add(&self, value: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(value);
    }

    fn tell(&self, what: &str) {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.sort_unstable();
        let at = |p: f64| values.get(((values.len() as f64 - 1.0) * p) as usize).map_or(0.0, |us| *us as f64 / 1000.0);
        let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), at(1.0));
        println!("{what}: p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms");
    }
}

/// Runs a bench; what went wrong, in words.
///
/// # Errors
/// A node that cannot be reached, or that refuses what it is asked.
pub async fn run(bench: Bench) -> Result<(), String> {
    match bench {
        Bench::Create(load) => {
            let due = Clock::system().now().0 + load.due_in_ms;
            create(&load, "http://127.0.0.1:9/", due, 1).await
        }
        Bench::Fire(load) => fire(&load).await,
    }
}

/// Task `n` is due at `due + n % spread`.
async fn create(load: &Load, url: &str, due: u64, spread: u64) -> Result<(), String> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let next = Arc::new(AtomicU64::new(0));
    let latency = Arc::new(Figures::default());
    let filler = "x".repeat(load.body_bytes.saturating_sub(20));
    let began = monotonic();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..load.connections {
        let (client, next, latency) = (client.clone(), next.clone(), latency.clone());
        let (tasks, batch, filler, url) = (load.tasks, load.batch.max(1), filler.clone(), url.to_owned());
        let call = if batch == 1 { "createTask" } else { "createTasks" };
        let address = format!("http://{}/xcron/{call}", load.node);
        workers.spawn(async move {
            loop {
                let first = next.fetch_add(batch, Ordering::Relaxed);
                if first >= tasks {
                    return Ok(());
                }
                let one = |n: u64| {
                    let due = due + n % spread;
                    format!(
                        r#"{{"type":2,"format":"{due}","callback":{{"url":"{url}","body":{{"n":{n},"s":"{filler}"}}}}}}"#
                    )
                };
                let body = if batch == 1 {
                    one(first)
                } else {
                    let all: Vec<String> = (first..(first + batch).min(tasks)).map(one).collect();
                    format!(r#"{{"tasks":[{}]}}"#, all.join(","))
                };
                let sent = monotonic();
                let request = http::Request::post(&address).body(Full::new(Bytes::from(body)));
                let request = request.map_err(|e| e.to_string())?;
                let answer = client.request(request).await.map_err(|e| format!("{e:?}"))?;
                let (head, body) = answer.into_parts();
                let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
                if !head.status.is_success() || body.windows(9).any(|w| w == b"\"code\":10") {
                    return Err(String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned());
                }
                latency.add(sent.elapsed().as_micros() as u64);
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|e| e.to_string())??;
    }
    let took = began.elapsed();
    println!(
        "created {} tasks in {:.2} s: {:.0}/s",
        load.tasks,
        took.as_secs_f64(),
        load.tasks as f64 / took.as_secs_f64()
    );
    latency.tell("latency of a call");
    Ok(())
}

/// What the sink has seen.
#[derive(Default)]
struct Seen {
    count: AtomicU64,
    early: AtomicU64,
    runs: Mutex<std::collections::HashSet<String>>,
    lateness: Figures,
}

async fn fire(load: &Load) -> Result<(), String> {
    async fn callback(State(seen): State<Arc<Seen>>, headers: HeaderMap, _body: Bytes) -> &'static str {
        let now = Clock::system().now().0;
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let due: u64 = header("xcron-scheduled-at").parse().unwrap_or(0);
        if now < due {
            seen.early.fetch_add(1, Ordering::Relaxed);
        }
        seen.lateness.add(now.saturating_sub(due) * 1000);
        seen.runs.lock().unwrap_or_else(PoisonError::into_inner).insert(header("xcron-run-id"));
        seen.count.fetch_add(1, Ordering::Relaxed);
        "ok"
    }
    let seen = Arc::new(Seen::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
    let address: SocketAddr = listener.local_addr().map_err(|e| e.to_string())?;
    let routes = Router::new().route("/", post(callback)).with_state(seen.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let due = Clock::system().now().0 + load.due_in_ms;
    create(load, &format!("http://{address}/"), due, 1000).await?;
    println!("due in {} ms", due.saturating_sub(Clock::system().now().0));
    let patience = monotonic() + Duration::from_millis(load.due_in_ms) + Duration::from_secs(120);
    let unique = || seen.runs.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
    let mut first = None;
    while unique() < load.tasks && monotonic() < patience {
        if first.is_none() && unique() > 0 {
            first = Some(monotonic());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = first.map_or(0.0, |at| at.elapsed().as_secs_f64());
    let (count, early) = (seen.count.load(Ordering::Relaxed), seen.early.load(Ordering::Relaxed));
    println!("{} runs of {} arrived within {took:.2} s, in {count} callbacks, {early} early", unique(), load.tasks);
    seen.lateness.tell("lateness");
    Ok(())
}
