//! Processes of their own beside the nodes: a sink for callbacks that measures them, and an echo as the limit of what a
//! server with this library can do.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::client::Client;
use super::figures::{Quantiles, Times};
use crate::clock::Clock;

/// What the sink has seen.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Requests.
    pub callbacks: u64,
    /// Runs among them.
    pub runs: u64,
    /// Requests before their due time.
    pub early: u64,
    /// The first and the last request, in unix ms.
    pub first_ms: u64,
    /// As above.
    pub last_ms: u64,
    /// The longest time without a request, and when it began.
    pub longest_gap_ms: u64,
    /// As above.
    pub gap_began_ms: u64,
    /// From the due time to the request.
    pub lateness: Quantiles,
}

/// What it has seen since it was last asked for this.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Lately {
    pub lateness: Quantiles,
    /// The longest time without a request.
    pub gap_ms: u64,
}

struct Kept {
    seen: Seen,
    runs: HashSet<Bytes>,
    lateness: Times,
    /// Since it was last asked for.
    lately: Times,
    /// As above: the longest time without a request, in ms.
    gap_ms: u64,
}

impl Kept {
    fn new() -> Result<Kept, String> {
        Ok(Kept {
            seen: Seen::default(),
            runs: HashSet::new(),
            lateness: Times::new()?,
            lately: Times::new()?,
            gap_ms: 0,
        })
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Kept>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn callback(State(shared): State<Shared>, headers: HeaderMap, _body: Bytes) -> &'static str {
    let now = Clock::system().now().as_ms();
    let due = headers.get("xcron-scheduled-at").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    // Without the header it is no callback, but the bare client.
    let Some(due) = due else { return "ok" };
    let run = headers.get("xcron-run-id").map(|v| Bytes::copy_from_slice(v.as_bytes())).unwrap_or_default();
    let mut kept = shared.lock();
    kept.lateness.add(now.saturating_sub(due) * 1000);
    kept.lately.add(now.saturating_sub(due) * 1000);
    kept.runs.insert(run);
    let last = kept.seen.last_ms;
    if last > 0 {
        kept.gap_ms = kept.gap_ms.max(now.saturating_sub(last));
    }
    let seen = &mut kept.seen;
    seen.callbacks += 1;
    seen.early += u64::from(now < due);
    if seen.first_ms == 0 {
        seen.first_ms = now;
    } else if now.saturating_sub(seen.last_ms) > seen.longest_gap_ms {
        (seen.longest_gap_ms, seen.gap_began_ms) = (now - seen.last_ms, seen.last_ms);
    }
    seen.last_ms = seen.last_ms.max(now);
    "ok"
}

async fn figures(State(shared): State<Shared>) -> Json<Seen> {
    let kept = shared.lock();
    Json(Seen { runs: kept.runs.len() as u64, lateness: kept.lateness.quantiles(), ..kept.seen })
}

async fn lately(State(shared): State<Shared>) -> Json<Lately> {
    let mut kept = shared.lock();
    let lateness = kept.lately.take();
    Json(Lately { lateness, gap_ms: std::mem::take(&mut kept.gap_ms) })
}

async fn echo(Json(body): Json<Value>) -> Json<Value> {
    Json(body)
}

/// Serves as a sink and as an echo, until its standard input is closed: it ends with the process that started it.
pub(super) async fn serve() -> Result<(), String> {
    let shared = Shared(Arc::new(Mutex::new(Kept::new()?)));
    let routes = Router::new().route("/", post(callback)).route("/echo", post(echo));
    let routes = routes.route("/figures", get(figures)).route("/lately", get(lately));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
    crate::telemetry::print(listener.local_addr().map_err(|e| e.to_string())?);
    let parent = crate::seam::blocking(|| std::io::read_to_string(std::io::stdin()));
    tokio::select! {
        served = async { axum::serve(listener, routes.with_state(shared)).await } => served.map_err(|e| e.to_string()),
        _ = parent => Ok(()),
    }
}

/// The sink, as a process.
pub(super) struct Sink {
    child: Child,
    address: SocketAddr,
}

impl Sink {
    pub fn start() -> Result<Sink, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(program);
        command.args(["bench", "sink"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("the sink does not start: {e}"))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            let read = std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line);
            read.map_err(|e| e.to_string())?;
        }
        let address = line.trim().parse().map_err(|_| format!("the sink says {line:?} and not where it listens"))?;
        Ok(Sink { child, address })
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn seen(&self, client: &Client) -> Result<Seen, String> {
        serde_json::from_slice(&client.get(&self.url("/figures")).await?).map_err(|e| e.to_string())
    }

    /// What has come since this was last asked.
    pub async fn lately(&self, client: &Client) -> Result<Lately, String> {
        serde_json::from_slice(&client.get(&self.url("/lately")).await?).map_err(|e| e.to_string())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing more to be done about it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
