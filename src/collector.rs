//! What is over is forgotten: finished tasks and their runs when their time has passed, and the parts of the index of
//! ended runs of which no run is kept.
//!
//! The leader looks through those that finished first, and round and round through the index, a few at a time, and has
//! them removed by a command, in small steps, so that neither the looking nor the removing holds up what fires.

use std::time::Duration;

use crate::clock::monotonic;
use crate::command::{Command, Seq};
use crate::id::TaskId;
use crate::node::{Error, Node};
use crate::seam;
use crate::state::record::INDEXED_PER_CHUNK;
use crate::state::{Expiry, State};

/// Between two passes.
const PASS_EVERY: Duration = Duration::from_secs(1);
/// Tasks looked at in one hold of the state.
const LOOK: usize = 512;
/// Between two steps of a pass.
const STEP_PAUSE: Duration = Duration::from_millis(5);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Before the first.
const START: Expiry = (None, 0);
/// Steps through the index in a pass.
const INDEX_STEPS: u64 = 32;
/// Most of them.
const INDEX_STEPS_MAX: u64 = 150;

/// Runs for as long as the node.
pub async fn run(node: Node) {
    let mut round = Round::default();
    loop {
        tokio::time::sleep(PASS_EVERY).await;
        let passed = match forget_tasks(&node).await {
            Ok(()) => round.forget_index(&node).await,
            Err(error) => Err(error),
        };
        if let Err(error) = passed {
            tracing::debug!(%error, "what is over is forgotten later");
        }
    }
}

async fn forget_tasks(node: &Node) -> Result<(), Error> {
    let mut after = START;
    while node.may_fire().is_some() {
        let (retain_s, now) = (node.config().limits.retain_s, node.now());
        let (seqs, last) = node.machine().with_state(|state| state.expired(now, retain_s, after, LOOK));
        let Some(last) = last else { break };
        after = last;
        if !seqs.is_empty() {
            let unsent = node.machine().with_state(|state| unsent_alerts(state, &seqs));
            node.propose(Command::Collect { seqs, retain_s }, monotonic() + TIMEOUT).await?;
            // One that something was triggered of meanwhile is kept.
            let is_gone = |seq: Seq| node.machine().with_state(|state| state.task(seq).is_none());
            for (_, task, alerts) in unsent.into_iter().filter(|(seq, ..)| is_gone(*seq)) {
                node.metrics().alerts_dropped.inc_by(alerts);
                tracing::warn!(%task, alerts, "a finished task is forgotten, with alerts that its receiver has not taken");
            }
        }
        tokio::time::sleep(STEP_PAUSE).await;
    }
    Ok(())
}

/// Of these tasks, those with alerts that nobody has taken, and how many.
fn unsent_alerts(state: &State, seqs: &[Seq]) -> Vec<(Seq, TaskId, u64)> {
    let tasks = seqs.iter().filter_map(|seq| Some((*seq, state.task(*seq)?)));
    let alerts = tasks.map(|(seq, task)| (seq, task.id.clone(), task.past.open.alerts() as u64));
    alerts.filter(|(_, _, alerts)| *alerts > 0).collect()
}

/// The way through the index. It takes many passes where the index is long, and what it comes by at which time makes no
/// difference: what is dead stays so.
#[derive(Default)]
struct Round {
    /// The chunk to go on with; 0: at the beginning.
    next: u64,
    /// How old the index was when the round began, if all of it was stored. While it stays so there is nothing to find.
    began: Option<(u64, u64)>,
    /// Runs that had ended at the last pass.
    ended: u64,
}

impl Round {
    async fn forget_index(&mut self, node: &Node) -> Result<(), Error> {
        if node.may_fire().is_none() {
            return Ok(());
        }
        if self.next == 0 && self.began.is_some() && self.began == node.machine().index_age() {
            return Ok(());
        }
        // Looks at more than is added, so that what is dead stays a part of the whole, however fast runs end.
        let ended = node.machine().with_state(|state| state.runs_total());
        let added = ended.saturating_sub(self.ended) / INDEXED_PER_CHUNK;
        self.ended = ended;
        for _ in 0..(INDEX_STEPS + added / 2).min(INDEX_STEPS_MAX) {
            if node.may_fire().is_none() {
                break;
            }
            if self.next == 0 {
                self.began = node.machine().index_age();
            }
            let (machine, from) = (node.machine().clone(), self.next);
            let looked = seam::blocking(move || machine.dead_index(from)).await;
            let (chunks, next) = match looked {
                Ok(looked) => node.read_result(looked)?,
                Err(panic) => {
                    node.fail(format!("a look at the index of ended runs has panicked: {panic}"));
                    return Err(Error::Damaged(panic.to_string()));
                }
            };
            if !chunks.is_empty() {
                node.propose(Command::DropIndex { chunks }, monotonic() + TIMEOUT).await?;
            }
            self.next = next.unwrap_or(0);
            if self.next == 0 {
                break;
            }
            tokio::time::sleep(STEP_PAUSE).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::{Config, HostPort};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_damaged_chunk_of_the_index_ends_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { raft_dir: dir.path().to_owned(), ..Config::default() };
        let own = HostPort { host: "127.0.0.1".to_owned(), port: 9 };
        let (node, queues) = Node::open(config, own, String::new(), Clock::system()).unwrap();
        let working = node.clone();
        let mut work = tokio::spawn(async move { working.work(queues).await });
        node.join().await.unwrap();
        while node.may_fire().is_none() {
            assert!(!work.is_finished());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut round = Round::default();
        round.forget_index(&node).await.unwrap();
        assert!(!work.is_finished());
        node.machine().damage_index(0);
        let looked = Round::default().forget_index(&node).await;
        assert!(matches!(looked, Err(Error::Damaged(_))), "{looked:?}");
        let reason = tokio::time::timeout(Duration::from_secs(20), &mut work).await.unwrap().unwrap();
        assert!(reason.contains("the checksum of") && reason.contains("does not hold"), "{reason}");
        node.close().await;
    }
}
