//! The target of the callbacks: records what comes, and answers now and then with a failure, or late.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::Router;
use rand::Rng;

use super::history::Hit;
use super::World;
use crate::clock::simulated_ms;
use crate::http::serve::{serve, ServeLimits};
use crate::seam::simulated::chance;

/// The port that it listens on.
pub(super) const PORT: u16 = 80;

/// Runs for ever.
pub(super) async fn run(world: Arc<World>) -> turmoil::Result {
    let listener = turmoil::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
    let limits = ServeLimits {
        connections_max: 10_000,
        idle_timeout: Duration::from_secs(30),
        answer_timeout: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(1),
    };
    serve(listener, Router::new().fallback(called).with_state(world), limits, std::future::pending()).await;
    Ok(())
}

async fn called(State(world): State<Arc<World>>, uri: Uri, headers: HeaderMap) -> StatusCode {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let fails = uri.path() == "/fails";
    let (refused, wait_ms) =
        chance::draw(|c| (c.random_bool(0.1), if c.random_bool(0.2) { c.random_range(0..600) } else { 0 }))
            .unwrap_or_default();
    // Some paths say how long the answer takes: `/after/<ms>`.
    let after = uri.path().strip_prefix("/after/").and_then(|ms| ms.parse().ok());
    let steady = after.or((uri.path() == "/steady").then_some(0));
    let (refused, wait_ms) = steady.map_or((refused, wait_ms), |ms| (false, ms));
    let status = if fails || refused { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let hit =
        Hit { at: simulated_ms(), task: text("xcron-task-id"), run: text("xcron-run-id"), status: status.as_u16() };
    {
        let mut history = world.history();
        history.note(hit.at, format!("target gets {} {} and answers {status}", hit.task, hit.run));
        history.hits.push(hit);
    }
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    status
}
