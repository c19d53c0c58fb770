//! What a monitor asks: whether the process lives, whether it can serve, and its metrics.
//!
//! It is answered from the start of the process on. What a node stores can take long to open, and one that has lost its
//! state waits for another node: it lives all the same.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::extract::{Request, State};
use axum::http::header::{HeaderValue, CONTENT_TYPE};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;

use super::answer::{answered, Object};
use super::origin::Origins;
use crate::config::Config;
use crate::metrics::value_lines;
use crate::node::Node;

/// A node, once what it stores is open; cheap to clone.
#[derive(Clone, Default)]
pub struct Starting(Arc<Inner>);

#[derive(Default)]
struct Inner {
    node: OnceLock<Node>,
    waits_for: Mutex<Option<&'static str>>,
}

impl Starting {
    /// From now on the node itself is asked.
    pub fn done(&self, node: Node) {
        // It starts once.
        let _ = self.0.node.set(node);
    }

    /// What it waits for, in `/readyz`.
    pub fn wait_for(&self, what: &'static str) {
        *self.0.waits_for.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    fn ready(&self) -> Result<(), String> {
        match self.0.node.get() {
            Some(node) => node.ready(),
            None => {
                let waits_for = *self.0.waits_for.lock().unwrap_or_else(PoisonError::into_inner);
                Err(waits_for.unwrap_or("starting: the files of this node are read and verified").to_owned())
            }
        }
    }

    fn metrics_text(&self) -> String {
        self.0.node.get().map_or_else(|| value_lines(&[READY]), Node::metrics_text)
    }
}

/// The one metric of a node that does not run yet.
const READY: (&str, &str, f64) = ("ready", "1 where this node can serve", 0.0);

/// The routes of the monitor's port.
pub fn monitor(node: Starting, config: &Config) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(Origins::new(config), refuse_foreign))
        .with_state(node)
}

async fn refuse_foreign(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    match origins.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => answered(async { Err(error) }).await,
    }
}

async fn ready(State(node): State<Starting>) -> Response {
    let ready = node.ready();
    let mut body = Vec::new();
    Object::write(&mut body, |o| {
        o.number("ready", ready.is_ok());
        match &ready {
            Err(reason) => o.text("reason", reason),
            Ok(()) => {
                if let Some(doubt) = node.0.node.get().and_then(Node::unclear) {
                    o.text("doubt", &doubt);
                }
            }
        }
    });
    let status = if ready.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    typed(status, HeaderValue::from_static("application/json"), body)
}

async fn metrics(State(node): State<Starting>) -> Response {
    typed(StatusCode::OK, HeaderValue::from_static("text/plain; version=0.0.4"), node.metrics_text().into_bytes())
}

fn typed(status: StatusCode, content_type: HeaderValue, body: Vec<u8>) -> Response {
    (status, [(CONTENT_TYPE, content_type)], body).into_response()
}
