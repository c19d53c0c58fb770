//! A client of the HTTP API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{json, Value};

use crate::harness::now_ms;

/// More than a node takes to answer in any case.
const TIMEOUT: Duration = Duration::from_secs(8);

/// A client; cheap to clone. A port names a node.
#[derive(Clone)]
pub struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
    /// Where ports are that are not on loopback.
    hosts: Arc<BTreeMap<u16, String>>,
    timeout: Duration,
}

/// An answer: the HTTP status and the JSON.
pub type Answer = Result<(u16, Value), String>;

/// The code of an answer; none: there was no answer.
pub fn code(answer: &Answer) -> Option<u64> {
    answer.as_ref().ok().and_then(|(_, body)| body["code"].as_u64())
}

impl Api {
    pub fn new(hosts: BTreeMap<u16, String>) -> Api {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Api { client, hosts: hosts.into(), timeout: TIMEOUT }
    }

    /// The same client, which waits no longer than this for an answer.
    pub fn waiting(&self, timeout: Duration) -> Api {
        Api { timeout, ..self.clone() }
    }

    fn url(&self, port: u16, path: &str) -> String {
        format!("http://{}:{port}{path}", self.hosts.get(&port).map_or("127.0.0.1", String::as_str))
    }

    async fn send(&self, request: http::Request<Full<Bytes>>) -> Result<(u16, Bytes), String> {
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|e| format!("{e:?}"))?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.map_err(|e| format!("{e:?}"))?.to_bytes();
            Ok((status, body))
        };
        let within = self.timeout;
        tokio::time::timeout(within, exchange).await.unwrap_or_else(|_| Err(format!("no answer in {within:?}")))
    }

    pub async fn post(&self, port: u16, path: &str, body: &Value) -> Answer {
        let request = http::Request::post(self.url(port, path));
        let request = request.body(Full::from(body.to_string())).map_err(|e| e.to_string())?;
        let (status, body) = self.send(request).await?;
        Ok((status, serde_json::from_slice(&body).map_err(|e| e.to_string())?))
    }

    pub async fn text(&self, port: u16, path: &str) -> Result<(u16, String), String> {
        let request = http::Request::get(self.url(port, path));
        let (status, body) = self.send(request.body(Full::default()).map_err(|e| e.to_string())?).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    pub async fn get(&self, port: u16, path: &str) -> Answer {
        let (status, body) = self.text(port, path).await?;
        Ok((status, serde_json::from_str(&body).map_err(|e| e.to_string())?))
    }

    /// The HTTP status; none: no answer.
    pub async fn status(&self, port: u16, path: &str) -> Option<u16> {
        self.text(port, path).await.ok().map(|(status, _)| status)
    }

    pub async fn create(&self, port: u16, task: &Value) -> Answer {
        self.post(port, "/xcron/createTask", task).await
    }

    pub async fn delete(&self, port: u16, id: &str) -> Answer {
        self.post(port, "/xcron/deleteTask", &json!({ "task_id": id })).await
    }

    /// Pauses a task.
    pub async fn pause(&self, port: u16, id: &str) -> Answer {
        self.post(port, "/xcron/pauseTask", &json!({ "task_id": id })).await
    }

    /// The task as this node has it.
    pub async fn query_local(&self, port: u16, id: &str) -> Answer {
        self.get(port, &format!("/xcron/queryTask?task_id={id}&consistency=local")).await
    }

    /// The task as the cluster has it.
    pub async fn query(&self, port: u16, id: &str) -> Answer {
        self.get(port, &format!("/xcron/queryTask?task_id={id}")).await
    }
}

/// A task that is due once, at this unix time in ms.
pub fn once(id: &str, due_ms: u64, url: &str) -> Value {
    json!({ "type": 2, "task_id": id, "format": due_ms.to_string(), "callback": { "url": url, "body": { "id": id } } })
}

/// A task that is due in an hour, with a body of so many bytes.
pub fn large(id: &str, bytes: usize) -> Value {
    let mut task = once(id, now_ms() + 3_600_000, "http://127.0.0.1:9/");
    task["callback"]["body"] = json!({ "filler": "x".repeat(bytes) });
    task
}
