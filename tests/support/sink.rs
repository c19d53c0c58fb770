//! A target of callbacks that keeps each request and answers as it was told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use axum::Router;
use xcron::clock::Timestamp;

use super::{now, until};

/// A request that has arrived.
#[derive(Clone, Debug)]
pub struct Hit {
    /// By the wall clock.
    pub at: Timestamp,
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Hit {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    pub fn task(&self) -> &str {
        self.header("xcron-task-id")
    }

    pub fn run(&self) -> &str {
        self.header("xcron-run-id")
    }

    pub fn attempt(&self) -> u32 {
        self.header("xcron-attempt").parse().expect("a number")
    }

    pub fn due_ms(&self) -> u64 {
        self.header("xcron-scheduled-at").parse().expect("a number")
    }

    pub fn fence(&self) -> (u64, u64) {
        let (term, n) = self.header("xcron-fence").split_once('.').expect("two numbers");
        (term.parse().expect("a term"), n.parse().expect("a number"))
    }

    /// How late it came; panics where it came early.
    #[track_caller]
    pub fn lateness_ms(&self) -> u64 {
        assert!(self.at.as_ms() >= self.due_ms(), "{} ms early", self.due_ms() - self.at.as_ms());
        self.at.as_ms() - self.due_ms()
    }
}

/// How to answer.
#[derive(Clone, Debug)]
pub struct Say {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    pub delay: Duration,
}

impl Say {
    pub fn status(status: u16) -> Say {
        Say { status, headers: Vec::new(), body: String::new(), delay: Duration::ZERO }
    }

    pub fn ok() -> Say {
        Say { body: "ok".to_owned(), ..Say::status(200) }
    }

    pub fn after(self, ms: u64) -> Say {
        Say { delay: Duration::from_millis(ms), ..self }
    }

    /// No answer for as long as a test lasts.
    pub fn nothing() -> Say {
        Say::ok().after(3_600_000)
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Say {
        self.headers.push((name, value.into()));
        self
    }
}

type Script = Box<dyn Fn(&Hit) -> Say + Send + Sync>;

struct Kept {
    hits: Mutex<Vec<Hit>>,
    going: Mutex<(usize, usize)>,
    script: Script,
}

/// The target; it ends when it is dropped.
pub struct Sink {
    address: SocketAddr,
    kept: Arc<Kept>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Sink {
    /// One that answers 200.
    pub async fn start() -> Sink {
        Sink::saying(|_| Say::ok()).await
    }

    /// One that answers as `script` says.
    pub async fn saying(script: impl Fn(&Hit) -> Say + Send + Sync + 'static) -> Sink {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Sink::on(listener, script)
    }

    /// One that answers 200, at an address that was closed until now.
    pub async fn open(address: SocketAddr) -> Sink {
        let listener = tokio::net::TcpListener::bind(address).await.expect("the port");
        Sink::on(listener, |_| Say::ok())
    }

    fn on(listener: tokio::net::TcpListener, script: impl Fn(&Hit) -> Say + Send + Sync + 'static) -> Sink {
        let kept = Arc::new(Kept { hits: Mutex::default(), going: Mutex::default(), script: Box::new(script) });
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(take).with_state(kept.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Sink { address, kept, serving }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Everything that has arrived, in this order.
    pub fn hits(&self) -> Vec<Hit> {
        lock(&self.kept.hits).clone()
    }

    pub fn count(&self) -> usize {
        lock(&self.kept.hits).len()
    }

    /// What has arrived for this task.
    pub fn of(&self, task: &str) -> Vec<Hit> {
        lock(&self.kept.hits).iter().filter(|hit| hit.task() == task).cloned().collect()
    }

    /// How often each run has arrived.
    pub fn by_run(&self) -> BTreeMap<String, usize> {
        let mut runs = BTreeMap::new();
        for hit in lock(&self.kept.hits).iter() {
            *runs.entry(hit.run().to_owned()).or_default() += 1;
        }
        runs
    }

    /// How often each task has arrived.
    pub fn by_task(&self) -> BTreeMap<String, usize> {
        let mut tasks = BTreeMap::new();
        for hit in lock(&self.kept.hits).iter() {
            *tasks.entry(hit.task().to_owned()).or_default() += 1;
        }
        tasks
    }

    /// The most requests that waited for an answer at once.
    pub fn most_at_once(&self) -> usize {
        lock(&self.kept.going).1
    }

    /// Waits for so many requests.
    pub async fn await_count(&self, n: usize) -> Vec<Hit> {
        until(&format!("{n} callbacks"), || async { (self.count() >= n).then(|| self.hits()) }).await
    }

    /// Waits for so many requests of a task.
    pub async fn await_of(&self, task: &str, n: usize) -> Vec<Hit> {
        until(&format!("{n} callbacks of {task}"), || async { Some(self.of(task)).filter(|h| h.len() >= n) }).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a request for as long as it is answered, also where its sender goes away.
struct Going(Arc<Kept>);

impl Going {
    fn new(kept: Arc<Kept>) -> Going {
        let mut going = lock(&kept.going);
        going.0 += 1;
        going.1 = going.1.max(going.0);
        drop(going);
        Going(kept)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        lock(&self.0.going).0 -= 1;
    }
}

async fn take(
    State(kept): State<Arc<Kept>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let going = Going::new(kept.clone());
    let hit = Hit { at: now(), method, path: uri.to_string(), headers, body };
    lock(&kept.hits).push(hit.clone());
    let Say { status, headers, body, delay } = (kept.script)(&hit);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    drop(going);
    response.body(Body::from(body)).expect("a response")
}
