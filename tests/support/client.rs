//! A client of the API that holds each answer against what the contract says of all answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use http::HeaderMap;
use reqwest::Method;
use serde_json::{json, Value};

/// Talks to one node.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub code: u64,
    pub headers: HeaderMap,
    pub json: Value,
}

/// The ids of all answers to this process: none comes twice.
static UUIDS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

pub fn http_client() -> reqwest::Client {
    // A node in the same process may have installed it; it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));
    builder.redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client { http: http_client(), base: format!("http://{address}") }
    }

    /// Sends this text, whatever it is; none where nobody answers.
    pub async fn try_send(&self, method: &str, path: &str, body: Option<String>) -> Option<Answer> {
        let method: Method = method.parse().expect("a method");
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.ok()?;
        Some(check(status, headers, &text))
    }

    /// Sends this text, whatever it is.
    pub async fn send(&self, method: &str, path: &str, body: impl Into<String>) -> Answer {
        let answer = self.try_send(method, path, Some(body.into())).await;
        answer.unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body.to_string()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        let answer = self.try_send("GET", path, None).await;
        answer.unwrap_or_else(|| panic!("no answer to GET {path}"))
    }

    /// What is not wrapped as the API's answers are: status, content type, text.
    pub async fn plain(&self, path: &str) -> (u16, String, String) {
        let response = self.http.get(format!("{}{path}", self.base)).send().await.expect("an answer");
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        (status, kind, response.text().await.expect("a text"))
    }

    /// Creates a task; its id.
    pub async fn create(&self, task: &Value) -> String {
        let data = self.post("/xcron/createTask", task).await.ok();
        data["task_id"].as_str().expect("a task_id").to_owned()
    }

    /// Creates many; their ids.
    pub async fn create_all(&self, tasks: &[Value]) -> Vec<String> {
        let mut ids = Vec::new();
        for part in tasks.chunks(1000) {
            let data = self.post("/xcron/createTasks", &json!({"tasks": part})).await.ok();
            for result in data["results"].as_array().expect("results") {
                assert_eq!(result["code"], 0, "{result}");
                ids.push(result["task_id"].as_str().expect("a task_id").to_owned());
            }
        }
        ids
    }

    pub async fn delete(&self, id: &str) -> Answer {
        self.post("/xcron/deleteTask", &json!({"task_id": id})).await
    }

    /// A task that is there.
    pub async fn task(&self, id: &str) -> Value {
        self.get(&format!("/xcron/queryTask?task_id={id}")).await.ok()
    }

    /// Triggers a task: the id of its run.
    pub async fn trigger(&self, id: &str) -> String {
        let run = self.post("/xcron/triggerTask", &json!({"task_id": id})).await.ok();
        run["run_id"].as_str().expect("a run_id").to_owned()
    }

    /// A run that is there.
    pub async fn run(&self, id: &str) -> Value {
        self.get(&format!("/xcron/queryRun?run_id={id}")).await.ok()
    }

    /// The runs of a task, newest first.
    pub async fn runs(&self, id: &str) -> Vec<Value> {
        let data = self.get(&format!("/xcron/listRuns?task_id={id}&limit=1000")).await.ok();
        data["runs"].as_array().expect("runs").clone()
    }

    /// All that a list holds, page after page.
    pub async fn pages(&self, path: &str, items: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let data = self.get(&format!("{path}{cursor}")).await.ok();
            all.extend(data[items].as_array().expect("a list").iter().cloned());
            match data["next_cursor"].as_str() {
                Some(next) => {
                    let next = format!("&cursor={next}");
                    assert_ne!(next, cursor, "the part after it is the same again: {path}");
                    cursor = next;
                }
                None => return all,
            }
        }
    }

    /// Waits until this task's runs are as wanted.
    pub async fn await_task(&self, id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        super::until(what, || async { Some(self.task(id).await).filter(&holds) }).await
    }
}

impl Answer {
    /// The data of a success.
    pub fn ok(self) -> Value {
        assert_eq!((self.status, self.code), (200, 0), "{}", self.json);
        self.json["data"].clone()
    }

    pub fn message(&self) -> &str {
        self.json["message"].as_str().unwrap_or_default()
    }

    /// That it is this error and that its message names this.
    #[track_caller]
    pub fn is(&self, code: u64, status: u16, names: &str) {
        assert_eq!((self.code, self.status), (code, status), "{}", self.json);
        assert!(self.message().contains(names), "{:?} does not name {names:?}", self.message());
    }
}

fn check(status: u16, headers: HeaderMap, text: &str) -> Answer {
    let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{status} {text:?}: {e}"));
    assert_eq!(headers.get("content-type").map(|v| v.as_bytes()), Some(&b"application/json"[..]), "{text}");
    let code = json["code"].as_u64().unwrap_or_else(|| panic!("no code: {text}"));
    let uuid = json["uuid"].as_str().unwrap_or_default().to_owned();
    assert!(uuid.len() == 36 && uuid::Uuid::try_parse(&uuid).is_ok(), "{text}");
    assert!(UUIDS.lock().expect("no panic").insert(uuid), "a uuid comes twice: {text}");
    let fields: BTreeSet<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    let known: &[&str] = if code == 0 { &["uuid", "code", "data"] } else { &["uuid", "code", "message"] };
    assert!(fields.iter().all(|f| known.contains(f)), "{text}");
    assert_eq!(code == 0, status == 200, "{text}");
    assert!(code == 0 || json["message"].as_str().is_some_and(|m| !m.is_empty()), "{text}");
    Answer { status, code, headers, json }
}
