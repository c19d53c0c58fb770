//! Who is at the addresses of the configuration: as many nodes as it lists, with the same list, of the same cluster?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::PoisonError;

use uuid::Uuid;

use super::Node;
use crate::raft;
use crate::raft::wire::Status;

/// What a node waits for that does not take part yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// There is a cluster, which must let it in.
    Leader {
        /// The peer that belongs to it.
        of: String,
    },
    /// It has asked a cluster for a place, and none of those that answer belongs to one.
    Members {
        /// How many other nodes answer.
        answered: usize,
        /// How many are listed.
        of: usize,
    },
    /// Nodes with different lists would each take another node for the same one. Which lists differ.
    OneList(String),
    /// For its own address, this one, at which another process answers.
    OwnAddress(String),
    /// For its directory to take the file `identity`. Why it does not.
    Identity(String),
    /// For nothing but its own start.
    Start,
    /// For more peers.
    Peers {
        /// How many other nodes answer.
        answered: usize,
        /// How many are listed.
        of: usize,
    },
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waits::Leader { of } => write!(
                f,
                "waiting for the leader of the cluster that {of} belongs to: it has none that a majority follows"
            ),
            Waits::Members { answered, of } => write!(
                f,
                "waiting for a member of the cluster that this node has asked for a place: of the others {answered} of {of} \
                 answer, and belong to none"
            ),
            Waits::OwnAddress(own) => write!(
                f,
                "another process answers at this node's own address {own}, and this node waits until that is over: two nodes \
                 have the same `advertise` or entry of `peer_hosts`, or the name leads elsewhere"
            ),
            Waits::Identity(reason) => {
                write!(f, "the file `identity` cannot be written yet, and is tried again: {reason}")
            }
            Waits::Start => f.write_str("starting: this node is about to take part, and knows no leader yet"),
            Waits::OneList(lists) => write!(f, "the nodes have different peer_hosts and form no cluster: {lists}"),
            Waits::Peers { answered, of } => {
                write!(f, "waiting for enough peers to form or join the cluster: {answered} of {of} others answer")
            }
        }
    }
}

/// The peers that are nodes of their own: neither this one under another name, nor two names of one.
pub(super) fn distinct<'a>(own: Uuid, answers: impl Iterator<Item = (&'a str, Status)>) -> Vec<(&'a str, Status)> {
    let mut stores = BTreeSet::from([own]);
    answers.filter(|(_, status)| stores.insert(status.store)).collect()
}

/// The list of each node, if they are not all the same: that of `own`, and those of the peers that have others.
pub(super) fn differing(own: &str, peer_hosts: &[String], answers: &[(&str, Status)]) -> Option<String> {
    let others: BTreeMap<&str, &[String]> = answers
        .iter()
        .filter(|(_, status)| status.peer_hosts != peer_hosts)
        .map(|(peer, status)| (*peer, status.peer_hosts.as_slice()))
        .collect();
    if others.is_empty() {
        return None;
    }
    let lists = std::iter::once((own, peer_hosts)).chain(others);
    Some(lists.map(|(node, list)| format!("{node} has {}", list.join(", "))).collect::<Vec<_>>().join("; "))
}

impl Node {
    /// Takes note of what this node waits for, and says so where it waits for an operator.
    pub(super) fn note_wait(&self, waits: &Waits) {
        let text = waits.to_string();
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.as_ref() == Some(&text) {
            return;
        }
        // The story of the cluster has the others.
        if let Waits::OneList(_) | Waits::Identity(_) | Waits::OwnAddress(_) = waits {
            tracing::error!("{text}");
        }
        *waiting = Some(text);
    }

    pub(super) fn waits_for(&self) -> String {
        let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
        waiting.unwrap_or_else(|| Waits::Start.to_string())
    }

    pub(super) fn know_members(&self, metrics: &raft::Metrics) {
        self.0.links.know(metrics.membership_config.nodes().map(|(id, node)| (*id, node.addr.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(store: u128, peer_hosts: &[&str]) -> Status {
        let peer_hosts = peer_hosts.iter().map(|peer| (*peer).to_owned()).collect();
        Status { store: Uuid::from_u128(store), peer_hosts, ..Status::default() }
    }

    #[test]
    fn names_of_the_same_node_count_once_and_its_own_not_at_all() {
        let answers = [("localhost:1", 1), ("a:1", 2), ("b:1", 2), ("c:1", 3), ("127.0.0.3:1", 1)];
        let answers = answers.into_iter().map(|(name, store)| (name, status(store, &[])));
        let names: Vec<&str> = distinct(Uuid::from_u128(1), answers).iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["a:1", "c:1"]);
    }

    #[test]
    fn lists_that_differ_are_told_with_their_nodes() {
        let own: Vec<String> = ["a:1", "b:1"].map(str::to_owned).into();
        let same = ("b:1", status(2, &["a:1", "b:1"]));
        assert_eq!(differing("a:1", &own, std::slice::from_ref(&same)), None);
        let other = ("c:1", status(3, &["b:1", "c:1"]));
        let text = differing("a:1", &own, &[same, other]).unwrap();
        assert_eq!(text, "a:1 has a:1, b:1; c:1 has b:1, c:1");
    }
}
