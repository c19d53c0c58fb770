//! What is over is forgotten: finished tasks and their runs, when their time has passed.
//!
//! The leader looks through those that finished first, a few at a time, and has them removed by a command, in small
//! steps, so that neither the looking nor the removing holds up what fires.

use std::time::Duration;

use crate::clock::monotonic;
use crate::command::Command;
use crate::node::Node;
use crate::state::Expiry;

/// Between two passes.
const PASS_EVERY: Duration = Duration::from_secs(1);
/// Tasks looked at in one hold of the state.
const LOOK: usize = 512;
/// Between two steps of a pass.
const STEP_PAUSE: Duration = Duration::from_millis(5);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Before the first.
const START: Expiry = (None, 0);

/// Runs for as long as the node.
pub async fn run(node: Node) {
    loop {
        tokio::time::sleep(PASS_EVERY).await;
        let mut after = START;
        while node.may_fire().is_some() {
            let (retain_s, now) = (node.config().limits.retain_s, node.now());
            let (seqs, last) = node.machine().with_state(|state| state.expired(now, retain_s, after, LOOK));
            let Some(last) = last else { break };
            after = last;
            if !seqs.is_empty() {
                if let Err(error) = node.propose(Command::Collect { seqs }, monotonic() + TIMEOUT).await {
                    tracing::debug!(%error, "what is over is forgotten later");
                    break;
                }
            }
            tokio::time::sleep(STEP_PAUSE).await;
        }
    }
}
