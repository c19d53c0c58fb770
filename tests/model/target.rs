//! The target: answers each callback as its task's plan says, and takes note of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::Router;
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::harness::{free_port, now_ms, sleep_ms};
use crate::play::resolve_text;
use crate::script::{Plan, Reply};
use crate::story::Hit;

/// A target on a port of its own; ends with the test's runtime.
#[derive(Clone)]
pub struct Target {
    /// Where it listens, and where it will.
    pub good: u16,
    pub door: u16,
    inner: Arc<Inner>,
}

struct Inner {
    answers: HashMap<String, Vec<Reply>>,
    /// When the round began.
    start_ms: AtomicU64,
    hits: Mutex<Vec<Hit>>,
    came: Notify,
}

impl Target {
    /// One that answers as these plans say.
    pub async fn start(plans: &[Plan]) -> Target {
        let answers = plans.iter().map(|plan| (plan.id.clone(), plan.answers.clone())).collect();
        let inner =
            Arc::new(Inner { answers, start_ms: AtomicU64::new(0), hits: Mutex::default(), came: Notify::new() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind the target");
        let good = listener.local_addr().expect("the target's address").port();
        let target = Target { good, door: free_port(), inner };
        target.serve(listener);
        target
    }

    /// From now on times in its answers count from here.
    pub fn begin(&self, start_ms: u64) {
        self.inner.start_ms.store(start_ms, Ordering::Relaxed);
    }

    /// Listens at the door from now on.
    pub async fn open(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.door)).await.expect("bind the door");
        self.serve(listener);
    }

    fn serve(&self, listener: TcpListener) {
        let target = self.clone();
        let routes = Router::new().fallback(move |request: Request| {
            let target = target.clone();
            async move { target.answer(request).await }
        });
        tokio::spawn(async move { axum::serve(listener, routes).await });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Hit>> {
        self.inner.hits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request) -> Response {
        let at_ms = now_ms();
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let (at, reply) = self.note(at_ms, head.uri.path(), &head.headers, &body);
        self.inner.came.notify_waiters();
        sleep_ms(reply.after_ms).await;
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = &reply.header {
            headers.insert(*name, value.parse().expect("a header's value"));
        }
        self.lock()[at].span.1 = now_ms();
        (StatusCode::from_u16(reply.status).expect("a status"), headers).into_response()
    }

    /// Takes note of a request; its place, and the answer to it.
    fn note(&self, at_ms: u64, path: &str, headers: &HeaderMap, body: &Bytes) -> (usize, Reply) {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let number = |text: &str| text.parse::<u64>().unwrap_or_default();
        let task = text("xcron-task-id");
        let alert = Some(text("xcron-alert")).filter(|event| !event.is_empty());
        let mut hits = self.lock();
        let before = hits.iter().filter(|hit| hit.task == task && hit.alert.is_none()).count();
        let mut reply = Reply { status: 200, ..Reply::default() };
        if let (None, Some(answers)) = (&alert, self.inner.answers.get(&task)) {
            reply = answers[before.min(answers.len() - 1)].clone();
            let start_ms = self.inner.start_ms.load(Ordering::Relaxed);
            if let Some((_, value)) = &mut reply.header {
                *value =
                    resolve_text(value, start_ms).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or(value.clone());
            }
        }
        let fence = text("xcron-fence");
        let (term, n) = fence.split_once('.').unwrap_or_default();
        hits.push(Hit {
            version: path.rsplit('/').next().map_or(0, number),
            span: (at_ms, u64::MAX),
            run: text("xcron-run-id"),
            due_ms: number(&text("xcron-scheduled-at")),
            attempt: number(&text("xcron-attempt")),
            parent: Some(text("xcron-parent-run-id")).filter(|id| !id.is_empty()),
            status: reply.status,
            header: reply.header.clone(),
            alert,
            key: text("idempotency-key"),
            fence: (number(term), number(n)),
            body: serde_json::from_slice(body).unwrap_or_default(),
            task,
        });
        (hits.len() - 1, reply)
    }

    /// All that has come so far.
    pub fn hits(&self) -> Vec<Hit> {
        self.lock().clone()
    }

    /// The run of the last callback of a task.
    pub fn last_run(&self, task: &str) -> Option<String> {
        let hits = self.lock();
        hits.iter().rev().find(|hit| hit.task == task && hit.alert.is_none()).map(|hit| hit.run.clone())
    }

    /// Waits until so many callbacks of a task have come.
    pub async fn has_come(&self, task: &str, count: usize) {
        loop {
            let came = self.inner.came.notified();
            tokio::pin!(came);
            came.as_mut().enable();
            if self.lock().iter().filter(|hit| hit.task == task && hit.alert.is_none()).count() >= count {
                return;
            }
            came.await;
        }
    }
}
