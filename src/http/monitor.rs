//! What a monitor asks: whether the process lives, whether it can serve, and its metrics.

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
use crate::node::Node;

/// The routes of the monitor's port.
pub fn monitor(node: Node, config: &Config) -> Router {
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
