//! The target of the callbacks: takes note of each of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderMap;
use axum::routing::post;
use axum::Router;
use tokio::net::TcpListener;

use crate::harness::{now_ms, sleep_ms};

/// One callback, as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    pub at_ms: u64,
    pub task: String,
    pub run: String,
    pub due_ms: u64,
    pub attempt: u32,
    /// Both halves of `Xcron-Fence`.
    pub fence: (u64, u64),
    pub key: String,
    pub body: String,
}

/// A server on a port of its own; ends with the test's runtime.
#[derive(Clone)]
pub struct Sink {
    pub url: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Sink {
    pub async fn start() -> Sink {
        Self::start_at("127.0.0.1", 0).await
    }

    /// One that answers only after `pause_ms`.
    pub async fn start_slow(pause_ms: u64) -> Sink {
        Self::start_at("127.0.0.1", pause_ms).await
    }

    /// One that listens on this address of the machine.
    pub async fn start_at(host: &str, pause_ms: u64) -> Sink {
        let listener = TcpListener::bind((host, 0)).await.expect("bind the sink");
        let url = format!("http://{}/hook", listener.local_addr().expect("the sink's address"));
        let sink = Sink { url, calls: Arc::default() };
        let to = sink.clone();
        let hook = move |headers: HeaderMap, body: String| {
            to.take(&headers, body);
            sleep_ms(pause_ms)
        };
        let routes = Router::new().route("/hook", post(hook));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        sink
    }

    fn take(&self, headers: &HeaderMap, body: String) {
        let at_ms = now_ms();
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let number = |text: &str| text.parse::<u64>().unwrap_or_default();
        let fence = text("xcron-fence");
        let (term, n) = fence.split_once('.').unwrap_or_default();
        let call = Call {
            at_ms,
            task: text("xcron-task-id"),
            run: text("xcron-run-id"),
            due_ms: number(&text("xcron-scheduled-at")),
            attempt: number(&text("xcron-attempt")) as u32,
            fence: (number(term), number(n)),
            key: text("idempotency-key"),
            body,
        };
        self.lock().push(call);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All so far, in the order in which they arrived.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().clone()
    }

    /// Those of one task.
    pub fn of(&self, task: &str) -> Vec<Call> {
        self.lock().iter().filter(|call| call.task == task).cloned().collect()
    }

    pub fn by_task(&self) -> HashMap<String, Vec<Call>> {
        let mut by_task: HashMap<String, Vec<Call>> = HashMap::new();
        for call in self.lock().iter() {
            by_task.entry(call.task.clone()).or_default().push(call.clone());
        }
        by_task
    }
}
