//! What must hold after a fault.

use std::time::Duration;

use serde_json::Value;

use crate::api::code;
use crate::harness::{eventually, Cluster};
use crate::sink::{Call, Sink};

/// How long a node that was away may take to have everything.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(30);
/// What must fire has done so by then, whatever happened.
pub const SETTLE_MAX: Duration = Duration::from_secs(30);

/// Waits for the first callback of a later term than `term`.
pub async fn first_fire_after(sink: &Sink, term: u64) -> Call {
    let mut found = None;
    eventually("a new leader fires", Duration::from_secs(20), async || {
        found = sink.calls().into_iter().find(|call| call.fence.0 > term);
        found.is_some()
    })
    .await;
    found.expect("it was found")
}

/// Every node answers the same for each of these tasks.
pub async fn agree(cluster: &Cluster, tasks: &[String]) {
    for id in tasks {
        let mut seen: Vec<Value> = Vec::new();
        for node in &cluster.nodes {
            let answer = cluster.api.query_local(node.ports.http, id).await;
            assert_eq!(code(&answer), Some(0), "{} of {}: {answer:?}", id, node.name);
            seen.push(answer.expect("an answer").1["data"].clone());
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "the nodes differ about {id}: {seen:#?}");
    }
}

/// Some of the tasks, spread over all of them.
pub fn sample(mut tasks: Vec<String>, count: usize) -> Vec<String> {
    tasks.sort();
    let step = (tasks.len() / count).max(1);
    tasks.into_iter().step_by(step).take(count).collect()
}
