//! What a monitor asks: whether the process lives, whether it can serve, and its metrics.

use axum::extract::State;
use axum::http::header::{HeaderValue, CONTENT_TYPE};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;

use super::answer::Object;
use crate::node::Node;

/// The routes of the monitor's port.
pub fn monitor(node: Node) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node)
}

async fn ready(State(node): State<Node>) -> Response {
    let ready = node.ready();
    let mut body = Vec::new();
    Object::write(&mut body, |o| {
        o.number("ready", ready.is_ok());
        if let Err(reason) = &ready {
            o.text("reason", reason);
        }
    });
    let status = if ready.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    typed(status, HeaderValue::from_static("application/json"), body)
}

async fn metrics(State(node): State<Node>) -> Response {
    typed(StatusCode::OK, HeaderValue::from_static("text/plain; version=0.0.4"), node.metrics_text().into_bytes())
}

fn typed(status: StatusCode, content_type: HeaderValue, body: Vec<u8>) -> Response {
    (status, [(CONTENT_TYPE, content_type)], body).into_response()
}
