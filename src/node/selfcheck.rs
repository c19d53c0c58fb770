//! Does this node hold what the others hold? Looked at now and then, and what is to be done where it does not.
//!
//! ```text
//!  leader: Check ──► log ──► each node: its state at that very entry, as a digest ──► each asks all others, and compares
//!                                                                                         │ a majority holds something else
//!        goes on ◄── install ◄── a snapshot of another node ◄── applies and serves nothing ◄──┘ (said, marked on disk)
//! ```
//!
//! What a majority of the voters holds is right. Where there are two voters nobody can tell, and what the leader holds
//! counts. Where too few answer, it is said, and nothing more is done.

mod replace;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{health, Node};
use crate::clock::monotonic;
use crate::command::Command;
use crate::raft::wire::{CheckAnswer, Checked};
use crate::seam;
use crate::storage::doubt;

/// How long the others may take to come as far as the check.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two questions to one that has not.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// A check of which some node can tell nothing, since it was making a checkpoint, is repeated so often.
const REPEATS: usize = 4;
/// After so long: not in step with the checkpoints.
const REPEAT_AFTER: Duration = Duration::from_millis(1_370);

/// What the last comparison gave.
#[derive(Default)]
pub(super) struct Comparison {
    /// Why the states of this node and of others differ, if they do.
    differs: Mutex<Option<String>>,
    /// The last check that was compared, and whether all who answered could tell.
    compared: watch::Sender<(u64, bool)>,
}

/// What the others hold says of what this node holds.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All who have told hold the same.
    Same,
    /// These nodes hold something else than a majority.
    OthersDiffer(Vec<u64>),
    /// This node does.
    OwnDiffers,
    /// They differ, and there is no majority.
    Unclear,
}

/// Judges what `own` holds by what these nodes hold, itself among them.
fn judge(own: u64, told: &BTreeMap<u64, Checked>, voters: &[u64], leader: Option<u64>) -> Verdict {
    let Some(mine) = told.get(&own) else { return Verdict::Same };
    if told.values().all(|other| other == mine) {
        return Verdict::Same;
    }
    let holders = |held: &Checked| voters.iter().filter(|voter| told.get(voter) == Some(held)).count();
    let right = match (told.values().find(|held| holders(held) > voters.len() / 2), leader) {
        (Some(held), _) => held,
        (None, Some(leader)) if voters.len() <= 2 && told.contains_key(&leader) => &told[&leader],
        (None, _) => return Verdict::Unclear,
    };
    if right != mine {
        return Verdict::OwnDiffers;
    }
    Verdict::OthersDiffer(told.iter().filter(|(_, held)| *held != right).map(|(id, _)| *id).collect())
}

/// Checks for as long as the node runs.
pub(super) async fn run(node: Node) {
    tokio::join!(propose(&node), compare(&node), replace::run(&node));
}

/// The leader has a check written now and then.
async fn propose(node: &Node) {
    let every = Duration::from_secs(node.0.config.storage.check_interval_s);
    loop {
        tokio::time::sleep(every).await;
        for _ in 0..REPEATS {
            if !node.leads() || node.in_doubt().is_some() {
                break;
            }
            let mut compared = node.0.comparison.compared.subscribe();
            compared.mark_unchanged();
            if node.propose(Command::Check, monotonic() + PATIENCE).await.is_err() {
                break;
            }
            let told = tokio::time::timeout(PATIENCE * 2, compared.changed()).await;
            if matches!(told, Ok(Ok(()))) && compared.borrow().1 {
                break;
            }
            tokio::time::sleep(REPEAT_AFTER).await;
        }
    }
}

/// Compares each check that this node can tell of with what the others tell.
async fn compare(node: &Node) {
    let mut checks = node.0.machine.watch_checks();
    while checks.changed().await.is_ok() {
        let Some(mine) = checks.borrow_and_update().back().copied() else { continue };
        let (mut told, all) = ask(node, mine.at).await;
        told.insert(node.id(), mine);
        let (voters, leader) = {
            let metrics = node.0.raft_metrics.borrow();
            let Some(metrics) = metrics.as_ref() else { continue };
            (metrics.membership_config.voter_ids().collect::<Vec<_>>(), metrics.current_leader)
        };
        let verdict = judge(node.id(), &told, &voters, leader);
        let what = || {
            let held = told.iter().map(|(node, Checked { records, digest, .. })| {
                format!("node {node} holds {records} records with the digest {digest:016x}")
            });
            format!("at log entry {}: {}", mine.at, held.collect::<Vec<_>>().join(", "))
        };
        match &verdict {
            Verdict::Same => {
                tracing::debug!(at = mine.at, nodes = told.len(), "the nodes hold the same");
                node.note_difference(None);
            }
            Verdict::OthersDiffer(nodes) => {
                let nodes = nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                tracing::error!(nodes, told = what(), "these nodes hold another state than this one and most");
                node.note_difference(None);
            }
            Verdict::Unclear => {
                tracing::error!(
                    told = what(),
                    "the nodes hold different states, and no majority can tell which is right"
                );
                node.note_difference(Some(what()));
            }
            Verdict::OwnDiffers => {
                // It is clear now. What was found before would be told on when this state has been replaced.
                node.note_difference(None);
                node.doubt(format!("this node holds another state than most, {}", what())).await;
            }
        }
        node.0.comparison.compared.send_replace((mine.at, all));
    }
}

/// What the other members hold at this check, and whether none of those that answered had nothing to tell.
async fn ask(node: &Node, at: u64) -> (BTreeMap<u64, Checked>, bool) {
    let members: Vec<(u64, String)> = {
        let metrics = node.0.raft_metrics.borrow();
        let members = metrics.iter().flat_map(|m| m.membership_config.nodes());
        members.map(|(id, member)| (*id, member.addr.clone())).filter(|(id, _)| *id != node.id()).collect()
    };
    let until = monotonic() + PATIENCE;
    let asked = members.iter().map(|(id, address)| async move {
        loop {
            match node.0.links.call::<_, CheckAnswer>(address, "check", &at, ANSWER_MAX).await {
                Ok(CheckAnswer::Held(checked)) => return (*id, Some(checked), true),
                Ok(CheckAnswer::Untold) => return (*id, None, false),
                Ok(CheckAnswer::NotYet) | Err(_) if monotonic() < until => tokio::time::sleep(ASK_EVERY).await,
                Ok(CheckAnswer::NotYet) | Err(_) => return (*id, None, true),
            }
        }
    });
    let answers = futures::future::join_all(asked).await;
    let all = answers.iter().all(|(_, _, could)| *could);
    (answers.into_iter().filter_map(|(id, told, _)| Some((id, told?))).collect(), all)
}

/// What this node tells a peer that compares a check.
pub(super) fn answer(node: &Node, at: u64) -> CheckAnswer {
    match node.0.machine.checked(at) {
        Ok(checked) => CheckAnswer::Held(checked),
        Err(true) => CheckAnswer::NotYet,
        Err(false) => CheckAnswer::Untold,
    }
}

impl Node {
    /// Why this node's state must not be served, if that is so.
    pub fn in_doubt(&self) -> Option<String> {
        self.faults().state.clone()
    }

    /// How the states of this node and of others differ, if that was found.
    pub fn difference(&self) -> Option<String> {
        let differs = || self.0.comparison.differs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.in_doubt().or_else(differs)
    }

    /// That the nodes hold different states, and nobody can tell which is right. They serve all the same.
    pub fn unclear(&self) -> Option<String> {
        let found = self.0.comparison.differs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        found.map(|told| format!("the nodes hold different states, and no majority can tell which is right, {told}"))
    }

    fn note_difference(&self, found: Option<String>) {
        *self.0.comparison.differs.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// This node's state is not to be trusted: nothing is applied to it, nothing served from it, and it does not lead,
    /// until a snapshot of another node has taken its place; also after a restart.
    pub(super) async fn doubt(&self, reason: String) {
        self.0.machine.hold(true);
        health::note(self, |faults| faults.state = Some(reason.clone()));
        let dir = self.0.config.raft_dir.clone();
        let marked = seam::blocking(move || doubt::mark(&dir, &reason)).await;
        if let Err(error) = marked.map_err(|panic| panic.to_string()).and_then(|done| done.map_err(|e| e.to_string())) {
            self.fail(format!("the state of this node is in doubt, and that cannot be marked: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_says_who_is_wrong() {
        let held = |digest| Checked { at: 9, records: 1, digest };
        let verdict = |own, told: &[(u64, u64)], voters: u64, leader| {
            let told = told.iter().map(|(id, digest)| (*id, held(*digest))).collect();
            judge(own, &told, &(1..=voters).collect::<Vec<_>>(), leader)
        };
        assert_eq!(verdict(1, &[(1, 5), (2, 5), (3, 5)], 3, Some(1)), Verdict::Same);
        assert_eq!(verdict(1, &[(1, 5)], 3, Some(1)), Verdict::Same, "nobody else has told");
        assert_eq!(verdict(3, &[(1, 5), (2, 5), (3, 6)], 3, Some(1)), Verdict::OwnDiffers);
        assert_eq!(verdict(1, &[(1, 5), (2, 5), (3, 6)], 3, Some(1)), Verdict::OthersDiffer(vec![3]));
        assert_eq!(
            verdict(1, &[(1, 6), (2, 5), (3, 5)], 3, Some(1)),
            Verdict::OwnDiffers,
            "also the leader can be wrong"
        );
        assert_eq!(verdict(2, &[(1, 6), (2, 5), (3, 5)], 3, Some(1)), Verdict::OthersDiffer(vec![1]));
        assert_eq!(verdict(1, &[(1, 5), (2, 6)], 3, Some(1)), Verdict::Unclear, "the third can have either");
        assert_eq!(verdict(2, &[(1, 5), (2, 6), (3, 7)], 3, Some(1)), Verdict::Unclear);
        assert_eq!(verdict(2, &[(1, 5), (2, 6)], 2, Some(1)), Verdict::OwnDiffers, "of two the leader counts");
        assert_eq!(verdict(1, &[(1, 5), (2, 6)], 2, Some(1)), Verdict::OthersDiffer(vec![2]));
        assert_eq!(verdict(2, &[(1, 5), (2, 6)], 2, None), Verdict::Unclear);
        // A learner has no voice, and can be wrong.
        assert_eq!(verdict(4, &[(1, 5), (2, 5), (4, 6)], 3, Some(1)), Verdict::OwnDiffers);
        assert_eq!(verdict(1, &[(1, 5), (4, 6), (5, 6)], 3, Some(1)), Verdict::Unclear);
    }
}
