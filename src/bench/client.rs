//! The client that makes the load: it creates tasks, or asks an echo the same.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::TokioExecutor;
use indicatif::ProgressBar;
use serde_json::Value;
use tokio::time::Instant;

use super::figures::{Quantiles, Times};
use crate::clock::monotonic;

/// Sends requests over kept connections; clones share them.
#[derive(Clone)]
pub(super) struct Client(Pool<HttpConnector, Full<Bytes>>);

impl Client {
    pub fn new() -> Client {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Client(Pool::builder(TokioExecutor::new()).build(connector))
    }

    async fn exchange(&self, request: http::Request<Full<Bytes>>) -> Result<Bytes, String> {
        let answer = self.0.request(request).await.map_err(|e| format!("{e:?}"))?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        match head.status.is_success() {
            true => Ok(body),
            false => Err(String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned()),
        }
    }

    /// A POST of this body.
    pub async fn post(&self, url: &str, body: String) -> Result<Bytes, String> {
        let request = http::Request::post(url).header("content-type", "application/json");
        self.exchange(request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?).await
    }

    /// A GET.
    pub async fn get(&self, url: &str) -> Result<Bytes, String> {
        self.exchange(http::Request::get(url).body(Full::default()).map_err(|e| e.to_string())?).await
    }

    /// A GET whose answer is JSON.
    pub async fn json(&self, url: &str) -> Result<Value, String> {
        let body = self.get(url).await?;
        serde_json::from_slice(&body).map_err(|e| format!("{url}: {e}"))
    }
}

/// Tasks to create.
#[derive(Clone)]
pub(super) struct Tasks {
    /// `http://host:port` of each node that is asked, in turn.
    pub nodes: Vec<String>,
    /// How many.
    pub count: u64,
    /// Calls at once.
    pub connections: u64,
    /// Tasks in one call.
    pub batch: u64,
    /// Size of a task's body.
    pub body_bytes: usize,
    /// Where the callbacks go.
    pub target: String,
    /// Task `n` is due at the first plus `n` times the second, over 1000, in unix ms.
    pub due: (u64, u64),
    /// The `n`-th is a task of every second, in place of a one-shot.
    pub periodic: bool,
}

/// What came of it.
pub(super) struct Created {
    pub per_second: f64,
    /// Of the first and of the last of them, [`SHARE`] each, where they are more than twice as many.
    pub ends: Option<(f64, f64)>,
    pub latency: Quantiles,
}

/// So many creates show how fast they are at that size.
pub(super) const SHARE: u64 = 100_000;

/// When so many had been begun.
struct Mark(u64, OnceLock<Instant>);

impl Mark {
    fn pass(&self, begun: u64) {
        if begun >= self.0 {
            self.1.get_or_init(monotonic);
        }
    }

    fn rate_since(&self, from: &Mark) -> Option<f64> {
        Some((self.0 - from.0) as f64 / self.1.get()?.duration_since(*from.1.get()?).as_secs_f64())
    }
}

impl Tasks {
    /// The `n`-th task, as it is sent.
    pub fn one(&self, n: u64) -> String {
        let (target, filler) = (&self.target, "x".repeat(self.body_bytes.saturating_sub(20)));
        let callback = format!(r#""callback":{{"url":"{target}","body":{{"n":{n},"s":"{filler}"}}}}"#);
        if self.periodic {
            return format!(r#"{{"type":1,"format":"* * * * * *",{callback}}}"#);
        }
        let due = self.due.0 + n * self.due.1 / 1000;
        format!(r#"{{"type":2,"format":"{due}",{callback}}}"#)
    }

    fn body(&self, first: u64) -> String {
        if self.batch == 1 {
            return self.one(first);
        }
        let all: Vec<String> = (first..(first + self.batch).min(self.count)).map(|n| self.one(n)).collect();
        format!(r#"{{"tasks":[{}]}}"#, all.join(","))
    }

    /// Creates them all.
    pub async fn create(&self, client: &Client, progress: &ProgressBar) -> Result<Created, String> {
        progress.set_length(self.count);
        progress.set_message("creating tasks");
        let call = if self.batch == 1 { "createTask" } else { "createTasks" };
        let urls: Vec<String> = self.nodes.iter().map(|node| format!("{node}/xcron/{call}")).collect();
        let tasks = self.clone();
        let next = Arc::new(AtomicU64::new(0));
        let bar = progress.clone();
        let marks = [0, SHARE, self.count.saturating_sub(SHARE), self.count];
        let passed = Arc::new(marks.map(|mark| Mark(mark, OnceLock::new())));
        let marks = passed.clone();
        let driven = drive(client, self.connections, None, move |client, worker| {
            let (tasks, next, bar, marks) = (tasks.clone(), next.clone(), bar.clone(), marks.clone());
            let url = urls[worker as usize % urls.len()].clone();
            async move {
                let first = next.fetch_add(tasks.batch, Ordering::Relaxed);
                marks.iter().for_each(|mark| mark.pass(first));
                if first >= tasks.count {
                    return Ok(0);
                }
                let body = client.post(&url, tasks.body(first)).await?;
                // In the answer to many each has a code of its own.
                if body.windows(8).any(|w| w == b"\"code\":1") {
                    return Err(String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned());
                }
                let done = tasks.batch.min(tasks.count - first);
                bar.inc(done);
                Ok(done)
            }
        });
        let (done, took, latency) = driven.await?;
        let many = self.count > 2 * SHARE;
        let ends = passed[1].rate_since(&passed[0]).zip(passed[3].rate_since(&passed[2])).filter(|_| many);
        Ok(Created { per_second: done as f64 / took.as_secs_f64(), ends, latency })
    }
}

/// How much was done in which time, and how long the calls took.
pub(super) type Driven = (u64, Duration, Quantiles);

/// Has several workers call at once, each again and again until its call says that it did nothing, or the time is over.
pub(super) async fn drive<F, R>(
    client: &Client,
    workers: u64,
    time: Option<Duration>,
    call: F,
) -> Result<Driven, String>
where
    F: Fn(Client, u64) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<u64, String>> + Send,
{
    let latency = Arc::new(Times::new()?);
    let began = monotonic();
    let end: Option<Instant> = time.map(|time| began + time);
    let mut going = tokio::task::JoinSet::new();
    for worker in 0..workers {
        let (client, call, latency) = (client.clone(), call.clone(), latency.clone());
        going.spawn(async move {
            let mut done = 0;
            while end.is_none_or(|end| monotonic() < end) {
                let sent = monotonic();
                let now = call(client.clone(), worker).await?;
                if now == 0 {
                    break;
                }
                latency.add(sent.elapsed().as_micros() as u64);
                done += now;
            }
            Ok::<u64, String>(done)
        });
    }
    let mut done = 0;
    while let Some(ended) = going.join_next().await {
        done += ended.map_err(|e| e.to_string())??;
    }
    Ok((done, began.elapsed(), latency.quantiles()))
}
