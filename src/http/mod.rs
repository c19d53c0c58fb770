//! The HTTP layer: the public API, and what a monitor asks.
//!
//! ```text
//! serve      connections: limits, timeouts, graceful stop
//!   └ api    routes ─ extract (body), query ─ define / schedule (what the caller means)
//!                   ─ node (what is done) ─ show (views as JSON) ─ answer (the envelope)
//! error      the one map from anything that goes wrong to code and status
//! ```
//!
//! A call is a function that gives `answer::Data` or an [`Error`]; `answer::answered` makes the answer of either, and
//! of a panic. JSON that goes out is written, not built: the shapes are few and creating a task is the hot path.

mod answer;
mod audit;
mod cluster;
mod define;
mod error;
mod extract;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod lane;
mod monitor;
mod options;
mod origin;
mod query;
mod runs;
mod schedule;
mod secrets;
pub mod serve;
mod show;
mod targets;
mod tasks;
mod update;

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::Router;
use tokio::time::Instant;

use self::answer::{Data, Items, Object};
pub use self::error::{Code, Error};
use self::lane::Lanes;
pub use self::monitor::{monitor, Starting};
use crate::budget::Budget;
use crate::clock::monotonic;
use crate::config::Config;
use crate::guard::Guard;
use crate::node::Node;

/// What every call works with.
struct Api {
    node: Node,
    /// How long a call may take, once its body has arrived.
    timeout: std::time::Duration,
    /// Largest body of a request.
    request_bytes_max: usize,
    /// How a task's definition is read.
    rules: define::Rules,
    origins: origin::Origins,
    /// What all bodies that arrive may hold together.
    bodies: Budget,
    /// What all answers that wait to be taken may hold together.
    answers: Arc<Budget>,
    /// Where what takes long is done.
    lanes: Lanes,
}

/// The one call by `POST` that writes nothing.
const PREVIEW: &str = "/xcron/previewSchedule";

type Shared = State<Arc<Api>>;

impl Api {
    /// When a call that starts now must be answered.
    fn deadline(&self) -> Instant {
        monotonic() + self.timeout
    }

    /// Makes the look before a write linearizable.
    async fn settle_write(&self, deadline: Instant) -> Result<(), Error> {
        self.settle(query::Consistency::Linearizable, deadline).await.map_err(Error::before_write)
    }

    /// Makes what follows linearizable, unless the caller asked for this node's own state.
    async fn settle(&self, consistency: query::Consistency, deadline: Instant) -> Result<(), Error> {
        if let Some(reason) = self.node.in_doubt() {
            return Err(Error::of_read(crate::node::Error::Storage(reason)));
        }
        match consistency {
            query::Consistency::Linearizable => self.node.read_barrier(deadline).await.map_err(Error::of_read),
            query::Consistency::Local => Ok(()),
        }
    }

    /// A part of a list, made where lists are: as [`Data::page`].
    async fn page<E: Into<Error>>(
        &self,
        consistency: query::Consistency,
        key: &'static str,
        before: impl FnOnce(&mut Object<'_>) + Send + 'static,
        fill: impl FnOnce(&Node, &mut Items<'_>) -> Result<Option<String>, E> + Send + 'static,
    ) -> Result<Data, Error> {
        let deadline = self.deadline();
        self.settle(consistency, deadline).await?;
        let node = self.node.clone();
        let work = move || Data::page(key, before, |items| fill(&node, items)).map_err(Into::into);
        self.lanes.lists.run(deadline, work).await
    }
}

/// The routes of the public port.
pub fn api(node: Node, config: &Config, guard: Arc<Guard>) -> Router {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let of_node = node.clone();
    let zones = Box::new(move |name: &str| of_node.zone(name));
    let api = Arc::new(Api {
        node,
        timeout: config.request_timeout(),
        request_bytes_max: config.limits.request_bytes_max,
        rules: define::Rules { zones, ..define::Rules::new(config, guard) },
        origins: origin::Origins::new(config),
        bodies: Budget::new(config.limits.buffered_bytes_max),
        answers: Arc::new(Budget::new(config.limits.buffered_bytes_max)),
        lanes: Lanes::of(cores),
    });
    Router::new()
        .route("/xcron/createTask", post(tasks::create))
        .route("/xcron/createTasks", post(tasks::create_many))
        .route("/xcron/updateTask", post(update::update))
        .route("/xcron/deleteTask", post(tasks::delete))
        .route("/xcron/queryTask", get(tasks::query))
        .route("/xcron/listTasks", get(tasks::list))
        .route("/xcron/pauseTask", post(tasks::pause))
        .route("/xcron/resumeTask", post(tasks::resume))
        .route("/xcron/triggerTask", post(tasks::trigger))
        .route("/xcron/cancelRun", post(runs::cancel))
        .route("/xcron/listRuns", get(runs::list))
        .route("/xcron/queryRun", get(runs::query))
        .route("/xcron/audit", get(audit::audit))
        .route("/xcron/previewSchedule", post(schedule::preview))
        .route("/xcron/targets", get(targets::list))
        .route("/xcron/cluster", get(cluster::cluster))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(api.clone(), count))
        .with_state(api)
}

/// Refuses a call that a page of another origin makes, and counts each call by its path, where it is one of ours, and by
/// the status of its answer.
async fn count(State(api): Shared, path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let response = match api.origins.check(&request) {
        Ok(()) => {
            // What a write has done is told whatever is held. Such an answer is small, or was given its room beforehand.
            let must = request.method() != Method::GET && request.uri().path() != PREVIEW;
            let response = next.run(request).await;
            match answer::counted(response, &api.answers, must).await {
                Some(response) => response,
                None => answer::answered(async { Err(Error::untaken()) }).await,
            }
        }
        Err(error) => answer::answered(async { Err(error) }).await,
    };
    let call = path.as_ref().map_or("other", |path| path.as_str().trim_start_matches("/xcron/")).to_owned();
    let labels = vec![("call", call), ("status", response.status().as_str().to_owned())];
    api.node.metrics().calls.get_or_create(&labels).inc();
    response
}

async fn no_such_path(uri: Uri) -> Response {
    answer::answered(async { Err(Error::no_such_path(uri.path())) }).await
}

async fn wrong_method(method: Method) -> Response {
    answer::answered(async { Err(Error::wrong_method(&method)) }).await
}
