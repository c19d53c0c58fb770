//! Elections, driven by this node and not by openraft's timers.
//!
//! ```text
//! pulse      the leader tells the others, every heartbeat, that it is there
//! detect     a follower that has heard no leader for long enough asks the others whether it would be elected,
//!            and stands for election only if a majority says yes
//! hold       a leader that no majority acknowledges, or that is not sound, gives its term up
//! ```
//!
//! A question costs nothing, an election the term of a leader. So the silence that makes a node ask can be short, and a
//! node that comes back, or is too busy to listen, disturbs nobody.

mod patience;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::StreamExt;
use openraft::{ServerState, Vote};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(super) use self::patience::Patience;
use super::leadership::{self, Facts, NotLeading, Term};
use super::{health, log_ends, Node};
use crate::clock::monotonic;
use crate::raft::wire::{Opinion, Question};
use crate::raft::{self, sign_of_life, term, Moment};
use crate::seam::bug::{self, Bug};

/// When this node was last asked, without a leader, by one whose log ends before its own: without this node's log there
/// may be nobody to lead.
#[derive(Debug, Default)]
pub(super) struct Needed(Mutex<Option<Instant>>);

impl Needed {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(monotonic());
    }

    fn within(&self, time: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|asked| asked.elapsed() < time)
    }
}

/// A leader makes itself heard no more often than a configuration can ask for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

/// More than what a new leader writes at first.
const FIRST_ENTRY_BYTES: u64 = 64 << 10;

/// Nodes by their ids, and their addresses.
type Peers = Vec<(u64, String)>;

/// The other nodes of the cluster.
#[derive(Debug)]
struct Others {
    voters: Peers,
    learners: Peers,
}

impl Others {
    fn of(metrics: &raft::Metrics) -> Others {
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let others = metrics.membership_config.nodes().filter(|(id, _)| **id != metrics.id);
        let (voters, learners) =
            others.map(|(id, node)| (*id, node.addr.clone())).partition(|(id, _)| voters.contains(id));
        Others { voters, learners }
    }
}

/// Runs for as long as the node.
pub(super) async fn run(node: Node) {
    tokio::join!(detect(&node), hold(&node), pulse(&node));
}

/// Stands for election where no leader is heard.
async fn detect(node: &Node) {
    let heartbeat = node.heartbeat();
    let mut group = node.watch();
    loop {
        // A change of the group ends the pause: a single node need not wait to lead.
        if let Ok(Err(_)) = tokio::time::timeout(heartbeat / 2, group.changed()).await {
            return;
        }
        let Some(raft) = node.0.group.get() else { continue };
        let Some((others, leader)) = node.may_stand().filter(|_| node.0.patience.is_over()) else { continue };
        if !others.is_empty() {
            if node.0.heard.silence() < node.silence_borne(others.len() as u64 + 1) {
                node.0.patience.rest();
                continue;
            }
            if !canvass(node, &others, leader).await {
                node.0.patience.wait(heartbeat / 2);
                continue;
            }
        }
        // It may have heard a leader, or been found unfit, while it asked.
        if node.may_stand().is_none() || (!others.is_empty() && node.0.heard.silence() < node.silence()) {
            continue;
        }
        tracing::info!(silence_ms = node.0.heard.silence().as_millis() as u64, "standing for election");
        if node.elect(raft).await.is_err() {
            return;
        }
    }
}

/// Whether a majority would vote for this node, and the leader that it has lost does not say that it leads still.
async fn canvass(node: &Node, others: &[(u64, String)], leader: Option<u64>) -> bool {
    if bug::is_planted(Bug::NoQuestions) {
        return true;
    }
    let Ok(ends) = log_ends(&node.0.log) else { return false };
    let (question, timeout) = (Question { last_log: ends.last }, node.silence());
    let links = &node.0.links;
    let asked = others.iter().map(|(id, address)| {
        let question = &question;
        async move { (*id, links.call::<_, Opinion>(address, "opinion", question, timeout).await) }
    });
    let mut asked: FuturesUnordered<_> = asked.collect();
    let needed = raft::others_needed(others.len());
    let (mut yes, mut leader_is_silent) = (0, leader.is_none_or(|id| !others.iter().any(|(other, _)| *other == id)));
    let mut until = monotonic() + timeout;
    while let Ok(Some((id, answer))) = tokio::time::timeout_at(until, asked.next()).await {
        match answer {
            Ok(Opinion::Leads) => return false,
            Ok(Opinion::Yes) => yes += 1,
            Ok(Opinion::No) | Err(_) => {}
        }
        leader_is_silent |= Some(id) == leader;
        if yes >= needed {
            if leader_is_silent {
                return true;
            }
            // It is dead, or slow. A slow one gets some time more to say that it leads.
            until = until.min(monotonic() + timeout / 4);
        }
    }
    yes >= needed
}

/// Gives the term up where this node leads it and should not.
async fn hold(node: &Node) {
    let heartbeat = node.heartbeat();
    let patience = Duration::from_millis(node.0.config.raft.election_timeout_max_ms);
    // The term that it leads, and when it last had a majority in it.
    let mut held: Option<(Term, Instant)> = None;
    loop {
        tokio::time::sleep(heartbeat / 2).await;
        let Some(term) = node.led_with_others() else {
            held = None;
            continue;
        };
        let facts = node.facts();
        let (of, since) = *held.get_or_insert((term, monotonic()));
        if of != term || facts.lease {
            held = Some((term, monotonic()));
            node.0.patience.rest();
        } else if since.elapsed() > patience && !bug::is_planted(Bug::NeverSilent) {
            node.give_up(term, "no majority has acknowledged it").await;
        }
        // A clock that has not been compared yet is given the time for it.
        let uncompared = node.faults().is_only_uncompared() && since.elapsed() < patience;
        // A node that stops does so by itself.
        if facts.unfit && !uncompared && !facts.given_up && !facts.stopping && !bug::is_planted(Bug::NeverSilent) {
            node.hand_over(term, "it is not sound").await;
        }
        if facts.given_up {
            // Raft may not have taken notice the first time.
            node.leave(term).await;
        }
    }
}

/// Signs of life that are under way, by the peers that they go to.
#[derive(Debug, Default)]
pub(super) struct Signs(Mutex<HashMap<u64, usize>>);

impl Signs {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether fewer than `most` are under way to this peer: then one more is.
    fn begin(&self, id: u64, most: usize) -> bool {
        let mut under_way = self.lock();
        let of_peer = under_way.entry(id).or_default();
        let begins = *of_peer < most;
        *of_peer += usize::from(begins);
        begins
    }

    fn end(&self, id: u64) {
        self.lock().entry(id).and_modify(|of_peer| *of_peer -= 1);
    }
}

/// Tells the others that this node leads. openraft does so as well; but not while it writes to the log, or while
/// something large is on its way to that peer.
async fn pulse(node: &Node) {
    let mut heartbeat = node.heartbeat();
    loop {
        tokio::time::sleep(heartbeat).await;
        let Some((vote, others)) = node.led_vote() else { continue };
        let term = vote.leader_id().term;
        // A peer with shorter times grants a shorter lease, and misses its leader sooner.
        heartbeat = node.heartbeat().div_f64(node.0.office.lease.haste(term)).max(HEARTBEAT_MIN);
        if node.0.office.lease.is_given_up(term) {
            continue;
        }
        for (id, address) in others.voters.into_iter().chain(others.learners) {
            if node.acknowledged_ago(id, term).is_none_or(|ago| ago >= heartbeat) {
                // Nobody waits for its answer.
                drop(send_sign(node, vote, id, &address, 1));
            }
        }
    }
}

/// Sends a sign of life to a peer; none: there are enough under way to it. It is not broken off where its answer is not
/// waited for, since that would close its connection.
///
/// Where a round trip is longer than a heartbeat, the next sign does not wait for the answer to the one before: the lease
/// would end between them. One that is not answered is given up after the silence that is borne, so there are so many
/// heartbeats in it under way. To a peer that does not answer at all there is one at a time. There may be `times` as many
/// for who needs one that is sent now.
fn send_sign(node: &Node, vote: Vote<u64>, id: u64, address: &str, times: usize) -> Option<JoinHandle<()>> {
    let answers = node.acknowledged_ago(id, vote.leader_id().term).is_some_and(|ago| ago < node.silence() * 2);
    let in_silence = node.silence().as_millis() / node.heartbeat().as_millis().max(1);
    let most = if answers { 1 + in_silence as usize } else { 1 };
    if !node.0.signs.begin(id, most * times) {
        return None;
    }
    let (node, address) = (node.clone(), address.to_owned());
    Some(tokio::spawn(async move {
        beat(&node, vote, id, &address).await;
        node.0.signs.end(id);
    }))
}

/// One sign of life to one peer.
async fn beat(node: &Node, vote: Vote<u64>, id: u64, address: &str) {
    let sent = Moment::now(&node.0.clock);
    let sign = sign_of_life(vote);
    let answer = node.0.links.call_as_leader(address, "append", &sign, node.silence()).await;
    if let Some((_, bears)) = answer.ok().filter(|(answer, _)| raft::is_followed(answer)) {
        node.0.office.lease.acknowledge(id, vote.leader_id().term, sent, bears);
    }
}

/// Whether a majority acknowledges, in answer to a sign of life that is sent now, that this node leads `term`.
pub(super) async fn is_acknowledged(node: &Node, term: Term) -> bool {
    let asked = Moment::now(&node.0.clock);
    let Some((vote, Others { voters, .. })) = node.led_vote() else { return false };
    if vote.leader_id().term != term {
        return false;
    }
    let ids: Vec<u64> = voters.iter().map(|(id, _)| *id).collect();
    // Of whatever was sent since: a sign of `pulse`, or entries.
    let is_confirmed =
        || node.0.office.lease.majority(term, &ids, asked).is_some_and(|sent| sent.steady >= asked.steady);
    // Those of `pulse` are not answers to what is asked now: there is room for others beside them.
    let signs = voters.iter().filter_map(|(id, address)| send_sign(node, vote, *id, address, 2));
    let mut signs: FuturesUnordered<_> = signs.collect();
    while !is_confirmed() {
        if signs.next().await.is_none() {
            return false;
        }
    }
    true
}

impl Node {
    /// The term in which this node may fire now.
    pub fn may_fire(&self) -> Option<Term> {
        leadership::fires(self.leadership())
    }

    /// The term in which this node may write, and answer reads, now.
    pub(super) fn may_write(&self) -> Option<Term> {
        leadership::writes(self.leadership())
    }

    pub(super) fn leadership(&self) -> Result<Term, NotLeading> {
        leadership::leadership(&self.facts())
    }

    /// What is known now of this node as a leader.
    fn facts(&self) -> Facts {
        let inner = &self.0;
        let (led, others, last_log) = {
            let metrics = inner.raft_metrics.borrow();
            let leads = metrics.as_ref().filter(|m| m.state == ServerState::Leader);
            // Asked several times for each attempt and each write: no address is copied for it.
            let others: Vec<u64> =
                leads.iter().flat_map(|m| m.membership_config.voter_ids().filter(|id| *id != m.id)).collect();
            (leads.map(|m| m.current_term), others, leads.and_then(|m| m.last_log_index))
        };
        let now = Moment::now(&inner.clock);
        let applied = || inner.machine.applied().map(|id| id.index);
        let lease = led.is_some_and(|term| inner.office.lease.holds(term, &others, now));
        Facts {
            led,
            given_up: led.is_some_and(|term| inner.office.lease.is_given_up(term)),
            unfit: self.faults().bars_leading(),
            clock_jumped: health::has_jumped(self),
            lease: lease || bug::is_planted(Bug::LeaseNotChecked),
            inherited: led.is_some_and(|term| inner.inheritance.is_applied(term, last_log, applied())),
            handing_over: led == Some(inner.handing_over.load(Ordering::SeqCst)),
            stopping: inner.stopping.load(Ordering::SeqCst),
        }
    }

    fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.0.config.raft.heartbeat_ms)
    }

    /// How long ago that was sent which this peer has acknowledged last in this term.
    fn acknowledged_ago(&self, id: u64, term: Term) -> Option<Duration> {
        let now = Moment::now(&self.0.clock);
        self.0.office.lease.last_of(id, term).map(|sent| now.since(&sent))
    }

    /// The silence after which a leader is missed.
    fn silence(&self) -> Duration {
        Duration::from_millis(self.0.config.raft.election_timeout_min_ms)
    }

    /// The silence that this node bears, among so many: each a little longer than the one before it, so that they do not
    /// all ask at once.
    fn silence_borne(&self, nodes: u64) -> Duration {
        let settings = &self.0.config.raft;
        let min = settings.election_timeout_min_ms;
        Duration::from_millis(raft::election_timeout_ms(self.id(), nodes, min, min + settings.heartbeat_ms))
    }

    /// The other voters and the leader that is known, if this node may become the leader.
    fn may_stand(&self) -> Option<(Peers, Option<u64>)> {
        let barred = self.faults().bars_leading() && !self.has_what_others_need();
        if self.0.stopping.load(Ordering::SeqCst) || barred {
            return None;
        }
        let metrics = self.0.raft_metrics.borrow();
        let metrics = metrics.as_ref().filter(|m| m.state != ServerState::Leader && m.running_state.is_ok())?;
        let votes = metrics.membership_config.voter_ids().any(|id| id == metrics.id);
        votes.then(|| (Others::of(metrics).voters, metrics.current_leader))
    }

    /// Whether others, without a leader, lack entries that this node's log has: none of them can be elected then. However
    /// unfit this node is, its log is sound. So it stands for election: as the leader it writes and fires nothing, passes
    /// its log on, and hands over. One whose links do not carry its log can pass nothing on.
    fn has_what_others_need(&self) -> bool {
        let can_pass_on = || self.faults().links_out.is_none();
        self.0.needed.within(self.silence() * 2) && self.0.log.takes(FIRST_ENTRY_BYTES) && can_pass_on()
    }

    /// Stands for election.
    pub(super) async fn elect(&self, raft: &raft::Raft) -> Result<(), String> {
        self.0.patience.stands(self.silence());
        raft.trigger().elect().await.map_err(|error| error.to_string())
    }

    /// Whether this node may stand, and follows this leader.
    pub(super) fn follows(&self, term: Term, leader: u64) -> bool {
        let metrics = self.0.raft_metrics.borrow();
        let follows = metrics.as_ref().is_some_and(|m| m.current_term == term && m.current_leader == Some(leader));
        drop(metrics);
        follows && !self.faults().bars_leading() && self.may_stand().is_some()
    }

    /// The other voters.
    pub(super) fn other_voters(&self) -> Vec<(u64, String)> {
        self.0.raft_metrics.borrow().as_ref().map(|metrics| Others::of(metrics).voters).unwrap_or_default()
    }

    /// The vote by which this node leads, and the other nodes.
    fn led_vote(&self) -> Option<(Vote<u64>, Others)> {
        let metrics = self.0.raft_metrics.borrow();
        let metrics = metrics.as_ref().filter(|m| m.state == ServerState::Leader && m.vote.is_committed())?;
        Some((metrics.vote, Others::of(metrics)))
    }

    /// The term that this node leads, where there are others who could.
    pub(super) fn led_with_others(&self) -> Option<Term> {
        let metrics = self.0.raft_metrics.borrow();
        let metrics = metrics.as_ref().filter(|m| m.state == ServerState::Leader)?;
        (!Others::of(metrics).voters.is_empty()).then_some(metrics.current_term)
    }

    /// What this node thinks of the sender's election.
    pub(super) fn opinion(&self, question: &Question) -> Opinion {
        if self.0.group.get().is_none() {
            return Opinion::No;
        }
        let facts = self.facts();
        if facts.led.is_some() && !facts.given_up {
            return if facts.unfit { Opinion::No } else { Opinion::Leads };
        }
        if self.0.heard.silence() < self.silence() {
            return Opinion::No;
        }
        if log_ends(&self.0.log).map_or(true, |own| question.last_log < own.last) {
            self.0.needed.note();
            return Opinion::No;
        }
        // One asks at a time.
        self.0.patience.wait(self.heartbeat());
        Opinion::Yes
    }

    /// Leads this term no more: from now on nothing is sent in it, so that others can elect.
    pub(super) async fn give_up(&self, term: Term, why: &str) {
        if !self.0.office.lease.is_given_up(term) {
            tracing::warn!(term, why, "this node gives up its lead");
            self.0.office.lease.give_up(term);
        }
        self.leave(term).await;
    }

    /// Has Raft leave the term. It waits where the log does; nothing is sent meanwhile.
    async fn leave(&self, term: Term) {
        if let Some(raft) = self.0.group.get() {
            // Where Raft has failed, this node stops.
            let _ = term::leave(raft, term).await;
        }
    }
}
