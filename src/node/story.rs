//! The log's story of the cluster: who leads, who is a member, which peers are lost and back, and what is wrong with
//! how the nodes are configured.
//!
//! [`Story`] is pure: it is shown what is there, now and then, and gives the lines that tell what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use super::Node;
use crate::raft::wire::Status;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a peer may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// So many looks in a row must agree before a loss is told: an election is over within fewer.
const LOOKS_BEFORE_TOLD: u32 = 3;

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leader {
    id: u64,
    address: String,
    term: u64,
}

/// The times in `[raft]` that the nodes should have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    heartbeat_ms: u64,
    election_timeout_min_ms: u64,
    election_timeout_max_ms: u64,
}

impl Times {
    /// None: an older version, which does not tell.
    fn of(status: &Status) -> Option<Times> {
        let &Status { heartbeat_ms, election_timeout_min_ms, election_timeout_max_ms, .. } = status;
        let times = Times { heartbeat_ms, election_timeout_min_ms, election_timeout_max_ms };
        (heartbeat_ms != 0).then_some(times)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Times { heartbeat_ms, election_timeout_min_ms: min, election_timeout_max_ms: max } = self;
        write!(f, "heartbeat_ms {heartbeat_ms}, election_timeout_min_ms {min}, election_timeout_max_ms {max}")
    }
}

/// What is there at one moment.
#[derive(Clone, Debug, Default)]
struct Seen {
    node: u64,
    cluster: Option<Uuid>,
    /// Whether this node takes part in a cluster.
    takes_part: bool,
    leader: Option<Leader>,
    /// `host:peer_port` of the members, sorted; empty while there are none.
    members: Vec<String>,
    /// The same by the configuration.
    listed: Vec<String>,
    /// This node's times in `[raft]`.
    times: Times,
    /// Its own address, and who else answers there.
    elsewhere: Option<(String, String)>,
    /// What each of the others answered, or why it did not.
    peers: Vec<(String, Result<Status, String>)>,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Elected { leader: Leader, role: &'static str },
    NoLeader,
    Members(Vec<String>),
    ListDiffers { listed: Vec<String>, members: Vec<String> },
    Lost { peer: String, cause: String },
    Unresolved { peer: String, cause: String },
    Foreign { peer: String, cause: String },
    Back { peer: String },
    Elsewhere { own: String, cause: String },
    TimesDiffer { peer: String, theirs: Times, own: Times },
    Forming { missing: Vec<String> },
    FormedWithoutLeader { formed: Vec<String> },
}

impl Line {
    fn write(&self) {
        match self {
            Line::Elected { leader: Leader { id, address, term }, role } => {
                tracing::info!(term, leader = id, address, role, "leader elected");
            }
            Line::NoLeader => tracing::warn!("no leader is known: writes and linearizable reads wait for one"),
            Line::Members(members) => tracing::info!(members = members.join(", "), "membership"),
            Line::ListDiffers { listed, members } => tracing::warn!(
                peer_hosts = listed.join(", "),
                members = members.join(", "),
                "peer_hosts differs from the membership; the membership was stored when the cluster formed, and counts"
            ),
            Line::Lost { peer, cause } => tracing::warn!(peer, cause, "peer lost"),
            Line::Unresolved { peer, cause } => tracing::warn!(peer, cause, "peer's name does not resolve"),
            Line::Foreign { peer, cause } => {
                tracing::error!(peer, cause, "a node of another cluster answers at this peer's address");
            }
            Line::Elsewhere { own, cause } => tracing::error!(
                own,
                cause,
                "another process answers at this node's own address: two nodes have the same `advertise` or entry of \
                 `peer_hosts`, or the name leads elsewhere"
            ),
            Line::TimesDiffer { peer, theirs, own } => tracing::warn!(
                peer,
                %theirs,
                %own,
                "this peer has other times in [raft] than this node; the shorter lease counts"
            ),
            Line::Back { peer } => tracing::info!(peer, "peer reached"),
            Line::Forming { missing } => {
                tracing::info!(missing = missing.join(", "), "waiting for peers to form the cluster");
            }
            Line::FormedWithoutLeader { formed } => tracing::warn!(
                formed = formed.join(", "),
                "waiting to join: these peers belong to a formed cluster, and no leader takes this node in"
            ),
        }
    }
}

/// What the peers at an address are to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Reached,
    Lost,
    Unresolved,
    Foreign,
}

impl Reach {
    fn of(own: Option<Uuid>, answer: &Result<Status, String>) -> (Reach, String) {
        match answer {
            Ok(Status { cluster: Some(theirs), .. }) if own.is_some_and(|own| own != *theirs) => {
                (Reach::Foreign, format!("it is of the cluster {theirs}"))
            }
            Ok(_) => (Reach::Reached, String::new()),
            Err(cause) if cause.contains("of the cluster") => (Reach::Foreign, cause.clone()),
            Err(cause) if cause.contains("dns error") || cause.contains("lookup address") => {
                (Reach::Unresolved, cause.clone())
            }
            Err(cause) => (Reach::Lost, cause.clone()),
        }
    }
}

/// What was told last, and what is about to be.
#[derive(Debug, Default)]
struct Story {
    leader: Option<Leader>,
    leaderless: u32,
    members: Vec<String>,
    list_told: Option<(Vec<String>, Vec<String>)>,
    /// What was told of each peer, and for how many looks it has been something else.
    peers: BTreeMap<String, (Option<Reach>, u32)>,
    /// The times of peers that are others than this node's.
    times_told: BTreeMap<String, Times>,
    /// For how many looks somebody else has answered at this node's own address.
    elsewhere: u32,
    waiting: u32,
    waiting_told: Option<(Vec<String>, Vec<String>)>,
}

impl Story {
    /// What is to be told now.
    fn look(&mut self, seen: &Seen) -> Vec<Line> {
        let mut lines = Vec::new();
        self.look_at_leader(seen, &mut lines);
        self.look_at_members(seen, &mut lines);
        self.look_at_peers(seen, &mut lines);
        self.look_at_times(seen, &mut lines);
        self.look_at_own_address(seen, &mut lines);
        self.look_at_forming(seen, &mut lines);
        lines
    }

    fn look_at_leader(&mut self, seen: &Seen, lines: &mut Vec<Line>) {
        match &seen.leader {
            Some(leader) => {
                self.leaderless = 0;
                if self.leader.as_ref() != Some(leader) {
                    let role = if leader.id == seen.node { "leader" } else { "follower" };
                    lines.push(Line::Elected { leader: leader.clone(), role });
                    self.leader = Some(leader.clone());
                }
            }
            None if seen.takes_part => {
                self.leaderless += 1;
                if self.leaderless == LOOKS_BEFORE_TOLD {
                    lines.push(Line::NoLeader);
                    self.leader = None;
                }
            }
            None => {}
        }
    }

    fn look_at_members(&mut self, seen: &Seen, lines: &mut Vec<Line>) {
        if seen.members.is_empty() {
            return;
        }
        if self.members != seen.members {
            lines.push(Line::Members(seen.members.clone()));
            self.members.clone_from(&seen.members);
        }
        let both = (seen.listed.clone(), seen.members.clone());
        let single = seen.listed.is_empty() && seen.members.len() == 1;
        if seen.listed != seen.members && !single && self.list_told.as_ref() != Some(&both) {
            lines.push(Line::ListDiffers { listed: both.0.clone(), members: both.1.clone() });
            self.list_told = Some(both);
        }
    }

    fn look_at_peers(&mut self, seen: &Seen, lines: &mut Vec<Line>) {
        for (peer, answer) in &seen.peers {
            let (reach, cause) = Reach::of(seen.cluster, answer);
            let (told, looks) = self.peers.entry(peer.clone()).or_default();
            if *told == Some(reach) {
                *looks = 0;
            } else {
                *looks += 1;
                // That a peer is back is sure at once.
                if reach == Reach::Reached || *looks >= LOOKS_BEFORE_TOLD {
                    (*told, *looks) = (Some(reach), 0);
                    let peer = peer.clone();
                    lines.push(match reach {
                        Reach::Reached => Line::Back { peer },
                        Reach::Lost => Line::Lost { peer, cause },
                        Reach::Unresolved => Line::Unresolved { peer, cause },
                        Reach::Foreign => Line::Foreign { peer, cause },
                    });
                }
            }
        }
    }

    fn look_at_times(&mut self, seen: &Seen, lines: &mut Vec<Line>) {
        let own = seen.times;
        for (peer, answer) in &seen.peers {
            let (Reach::Reached, Ok(status)) = (Reach::of(seen.cluster, answer).0, answer) else { continue };
            let Some(theirs) = Times::of(status) else { continue };
            if theirs == own {
                self.times_told.remove(peer);
            } else if self.times_told.insert(peer.clone(), theirs) != Some(theirs) {
                lines.push(Line::TimesDiffer { peer: peer.clone(), theirs, own });
            }
        }
    }

    /// Until it takes part, this node waits for its address, and says so itself.
    fn look_at_own_address(&mut self, seen: &Seen, lines: &mut Vec<Line>) {
        let Some((own, cause)) = seen.elsewhere.clone().filter(|_| seen.takes_part) else {
            self.elsewhere = 0;
            return;
        };
        self.elsewhere += 1;
        if self.elsewhere == LOOKS_BEFORE_TOLD {
            lines.push(Line::Elsewhere { own, cause });
        }
    }

    fn look_at_forming(&mut self, seen: &Seen, lines: &mut Vec<Line>) {
        // A node that waits for its own address says so itself, and asks nobody to take it in.
        if seen.takes_part || seen.listed.is_empty() || seen.elsewhere.is_some() {
            return;
        }
        self.waiting += 1;
        let missing: Vec<String> =
            seen.peers.iter().filter(|(_, a)| a.is_err()).map(|(peer, _)| peer.clone()).collect();
        let is_formed = |answer: &Result<Status, String>| answer.as_ref().is_ok_and(|status| status.formed);
        let formed: Vec<String> =
            seen.peers.iter().filter(|(_, a)| is_formed(a)).map(|(peer, _)| peer.clone()).collect();
        let state = (missing, formed);
        if self.waiting < LOOKS_BEFORE_TOLD || self.waiting_told.as_ref() == Some(&state) {
            return;
        }
        let (missing, formed) = state.clone();
        self.waiting_told = Some(state);
        if !formed.is_empty() {
            lines.push(Line::FormedWithoutLeader { formed });
        } else if !missing.is_empty() {
            lines.push(Line::Forming { missing });
        }
    }
}

/// Tells the story for as long as the node runs. Ends with the reason for which this node must stop: another process acts
/// as the same node.
pub(super) async fn run(node: &Node) -> String {
    let mut story = Story::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let own = node.0.own.to_string();
        let (leader, members) = group(node);
        let listed: Vec<String> = node.0.config.peers().iter().map(ToString::to_string).collect();
        let others: BTreeSet<&String> = members.iter().chain(&listed).filter(|address| **address != own).collect();
        if others.is_empty() && leader.is_none() {
            continue;
        }
        let ask = async |address: &str| {
            let answer = node.0.links.call::<_, Status>(address, "status", &(), ANSWER_MAX).await;
            (address.to_owned(), answer.map_err(|error| error.to_string()))
        };
        // Whoever else answers at this node's own address is asked as well.
        let (peers, itself) =
            tokio::join!(futures::future::join_all(others.iter().map(|address| ask(address))), ask(&own));
        let status = node.own_status();
        // One that does not take part yet acts as nobody, and waits.
        let takes_part = node.0.group.get().is_some();
        let acts_here = itself.1.as_ref().ok().filter(|_| takes_part);
        if let Some(reason) = acts_here.and_then(|answer| twin(&status, answer, &own)) {
            return reason;
        }
        let elsewhere = somebody_else(&status, &itself.1).map(|cause| (own.clone(), cause));
        if elsewhere.is_some() {
            // A connection that is kept leads there also once the name does not.
            node.0.links.hang_up(&own);
        }
        let (id, cluster) = node.0.links.own();
        let times = Times::of(&status).unwrap_or_default();
        let seen = Seen { node: id, cluster, takes_part, leader, members, listed, times, elsewhere, peers };
        story.look(&seen).iter().for_each(Line::write);
    }
}

fn group(node: &Node) -> (Option<Leader>, Vec<String>) {
    // No look at it is kept while the leader is asked for, which looks at it too.
    let Some(metrics) = node.0.raft_metrics.borrow().clone() else { return (None, Vec::new()) };
    let members = metrics.membership_config.nodes();
    let mut addresses: Vec<String> = members.map(|(_, member)| member.addr.clone()).collect();
    addresses.sort();
    let leader = metrics.current_leader.filter(|leader| node.is_followed(*leader)).map(|id| {
        let address = metrics.membership_config.membership().get_node(&id).map(|member| member.addr.clone());
        Leader { id, address: address.unwrap_or_default(), term: metrics.current_term }
    });
    (leader, addresses)
}

/// Why this process must stop, if another one that acts as the same node answers at its address: its directory was
/// copied, say. The peers reach the other one.
fn twin(own: &Status, answer: &Status, address: &str) -> Option<String> {
    let is_other = answer.instance != own.instance && !answer.instance.is_nil();
    let same_store = answer.store == own.store;
    // One of them may not have learnt yet which cluster it is of.
    let may_be_one = answer.cluster == own.cluster || answer.cluster.is_none() || own.cluster.is_none();
    let same_node = own.node != 0 && answer.node == own.node && may_be_one;
    (is_other && (same_store || same_node)).then(|| {
        format!(
            "another process acts as node {} (store {}) and answers at {address}; two processes must never act as one node: \
             if its directory is a copy, start this one with an empty directory and an address of its own",
            answer.node, answer.store
        )
    })
}

/// Who it is that answers at this node's own address, if it is not this process.
fn somebody_else(own: &Status, answer: &Result<Status, String>) -> Option<String> {
    match answer {
        Ok(status) if status.instance == own.instance => None,
        Ok(Status { node: 0, store, .. }) => Some(format!("it is no member yet, and has the store {store}")),
        Ok(status) => Some(format!("it is node {}, and has the store {}", status.node, status.store)),
        // It says itself that another is meant.
        Err(cause) if cause.contains("is meant") || cause.contains("of the cluster") => Some(cause.clone()),
        Err(_) => None,
    }
}

#[cfg(test)]
#[path = "story_tests.rs"]
mod tests;
