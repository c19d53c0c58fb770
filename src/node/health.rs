//! Is this node fit to lead? Each thing that the work needs is looked at all the time: the clock, the Raft log, the
//! store, the disk's room, descriptors, the links.
//!
//! A wrong clock bars a node from leading whatever the others are like: a leader that is set an hour ahead would fire
//! every run of the next hour at once. Each other fault is a matter of comparison: a leader gives way to a peer that is
//! better off, and leads on where there is none, since a slow leader is better than none.

mod clock;
mod disk;
mod links;
mod stalled;

use std::sync::PoisonError;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::StreamExt;
use tokio::time::Instant;

use super::Node;
use crate::clock::monotonic;
use crate::raft::others_needed;
use crate::raft::wire::Status;

pub(super) use clock::{has_jumped, ClockLook};
pub(super) use links::LinkLooks;

/// Between two questions to the peers how they are.
const COMPARE_EVERY: Duration = Duration::from_millis(250);
/// The same until the first comparison.
const COMPARE_FIRST: Duration = Duration::from_millis(20);
/// How long a peer may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What is wrong with this node; each with the reason.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Faults {
    /// What it holds is not what the others hold.
    pub state: Option<String>,
    /// Its clock has not been compared yet with those of enough others to make a majority.
    pub uncompared: bool,
    /// Its clock is off.
    pub clock: Option<String>,
    /// Writes of its log take too long.
    pub slow: Option<String>,
    /// Its store does not become durable, so that what is not stored grows towards its bound.
    pub store: Option<String>,
    /// Its log finds no room, or its disk is nearly full.
    pub full: Option<String>,
    /// The process has no descriptors left.
    pub descriptors: Option<String>,
    /// With those that take its large messages it is no majority, so that nothing that it writes is committed.
    pub links_out: Option<String>,
    /// With those that say that it takes their messages it is no majority: most cannot forward to it.
    pub links_in: Option<String>,
    /// How badly off the best of the peers is that answer; none: no peer has answered since this node got worse.
    pub best_peer: Option<u8>,
}

impl Faults {
    /// Whether another should lead.
    pub fn bars_leading(&self) -> bool {
        self.state.is_some()
            || self.uncompared
            || self.clock.is_some()
            || self.best_peer.is_some_and(|peer| peer < self.severity())
    }

    /// Whether all that is wrong is that the clock has not been compared yet.
    pub fn is_only_uncompared(&self) -> bool {
        self.uncompared && !Faults { uncompared: false, ..self.clone() }.bars_leading()
    }

    /// How badly off this node is; 0: sound. A slow disk still writes; who is not reached writes, and most others can
    /// forward nothing to it; a store that does not sync writes for a while; without room nothing is written but what is
    /// to make some; over links that carry no entry nothing is; and with a wrong clock or state nothing may be.
    pub fn severity(&self) -> u8 {
        let by_severity = [
            &self.state,
            &self.clock,
            &self.links_out,
            &self.descriptors,
            &self.full,
            &self.store,
            &self.links_in,
            &self.slow,
        ];
        let worst = by_severity.iter().position(|fault| fault.is_some());
        worst.map_or(0, |at| (by_severity.len() - at) as u8)
    }

    /// Whether there is something with the disk, or with what it takes to use it.
    pub fn disk(&self) -> bool {
        [&self.slow, &self.store, &self.full, &self.descriptors].iter().any(|fault| fault.is_some())
    }

    /// Whether there is something with the links.
    pub fn links(&self) -> bool {
        self.links_out.is_some() || self.links_in.is_some()
    }

    /// The faults by name.
    fn all(&self) -> [(&'static str, &Option<String>); 8] {
        [
            ("state", &self.state),
            ("clock", &self.clock),
            ("log_slow", &self.slow),
            ("store", &self.store),
            ("room", &self.full),
            ("descriptors", &self.descriptors),
            ("links_out", &self.links_out),
            ("links_in", &self.links_in),
        ]
    }

    /// Why this node is unfit to lead, if it is.
    pub fn unfit(&self) -> Option<String> {
        let reasons =
            || self.all().into_iter().filter_map(|(name, reason)| Some(format!("{name}: {}", reason.as_ref()?)));
        if self.is_only_uncompared() {
            return Some("clock: it has not been compared yet with those of a majority".to_owned());
        }
        self.bars_leading().then(|| reasons().collect::<Vec<_>>().join("; "))
    }
}

/// How many of the peers have room for more tasks, by what they have answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    peers: usize,
    with: usize,
    without: usize,
}

impl Room {
    fn note(&mut self, full: bool) {
        *(if full { &mut self.without } else { &mut self.with }) += 1;
    }

    /// Whether a peer has said that it has none.
    pub(super) fn lacks(self) -> bool {
        self.without > 0
    }

    /// Whether the peers that have room are too few to commit anything with a node that has some. Of one that does not
    /// answer nobody knows, but it commits nothing.
    fn too_few(self) -> bool {
        self.lacks() && self.with < others_needed(self.peers)
    }
}

/// A fault that stays for a while after it was last seen: one that comes and goes must not move leadership each time.
#[derive(Debug)]
struct Held {
    hold: Duration,
    fault: Option<(String, Instant)>,
}

impl Held {
    const fn new(hold: Duration) -> Held {
        Held { hold, fault: None }
    }

    /// Takes note of what is seen now; what holds.
    fn look(&mut self, seen: Option<String>, now: Instant) -> Option<String> {
        match (seen, &mut self.fault) {
            // The first reason stays: figures in it change all the time.
            (Some(_), Some((_, until))) => *until = now + self.hold,
            (Some(reason), None) => self.fault = Some((reason, now + self.hold)),
            (None, Some((_, until))) if *until <= now => self.fault = None,
            (None, _) => {}
        }
        self.fault.as_ref().map(|(reason, _)| reason.clone())
    }
}

/// Watches for as long as the node runs.
pub(super) async fn run(node: Node) {
    tokio::join!(compare(&node), disk::watch(&node), links::watch(&node), stalled::watch(&node));
}

/// Asks the peers how they are: their clocks, their ports, and whether they are better off than this node.
async fn compare(node: &Node) {
    loop {
        tokio::time::sleep(if node.faults().uncompared { COMPARE_FIRST } else { COMPARE_EVERY }).await;
        let began = clock::look(node);
        let severity = node.faults().severity();
        let (own, peers) = (node.0.own.to_string(), node.other_members());
        let links = &node.0.links;
        let asked_at = monotonic();
        let ask = async |peer: &String| (peer.clone(), links.call::<_, Status>(peer, "status", &(), ANSWER_MAX).await);
        let asked = peers.iter().map(ask);
        let mut asked: FuturesUnordered<_> = asked.collect();
        let (mut best, mut room) = (None, Room { peers: peers.len(), ..Room::default() });
        while let Some((peer, answer)) = asked.next().await {
            let Ok(status) = answer else { continue };
            if node.leader_address().is_some_and(|leader| leader == peer) {
                node.0.heard.told(status.applied.unwrap_or(0), asked_at, node.applied_index());
            }
            node.0.link_looks.say(&peer, status.unreached.contains(&own), monotonic());
            node.learn_ports(&status.http, status.monitor);
            room.note(status.full);
            best = best.into_iter().chain([status.fault]).min();
            // At once: a peer that does not answer must not hold up a node that is needed.
            clock::compare(node, &peers, began, false);
        }
        *node.0.peers_room.lock().unwrap_or_else(PoisonError::into_inner) = room;
        note(node, |faults| {
            // What a peer said before this node got worse may be old: the same may have struck both at once.
            if faults.severity() <= severity {
                faults.best_peer = best;
            }
        });
        clock::compare(node, &peers, began, true);
    }
}

/// Takes note of what is wrong, and says so where it changes.
pub(super) fn note(node: &Node, change: impl FnOnce(&mut Faults)) {
    let (before, after) = {
        let mut faults = node.faults();
        let before = faults.clone();
        change(&mut faults);
        if faults.severity() > before.severity() {
            faults.best_peer = None;
        }
        if *faults == before {
            return;
        }
        (before, faults.clone())
    };
    for ((fault, old), (_, new)) in before.all().into_iter().zip(after.all()) {
        match (old, new) {
            (None, Some(reason)) => tracing::error!(fault, reason, "fault found"),
            (Some(_), None) => tracing::info!(fault, "fault cleared"),
            _ => {}
        }
    }
    if before.bars_leading() != after.bars_leading() {
        match after.unfit() {
            Some(reason) => tracing::error!(reason, "node unfit to lead"),
            None => tracing::info!("node fit to lead"),
        }
    }
}

impl Node {
    /// Which of the peers have room for more tasks.
    pub(super) fn peers_room(&self) -> Room {
        *self.0.peers_room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the cluster takes no more tasks, if so: this node has no room for them, or too few of the others have. Their
    /// logs go on for a while, which is for the deletes that make room.
    pub(super) fn no_room_for_tasks(&self) -> Option<String> {
        let too_few = || {
            let room @ Room { peers, without, .. } = self.peers_room();
            room.too_few().then(|| format!("{without} of {} nodes have no room for more tasks", peers + 1))
        };
        self.storage_shortage().or_else(too_few)
    }

    pub(super) fn other_members(&self) -> Vec<String> {
        let own = self.0.own.to_string();
        let metrics = self.0.raft_metrics.borrow();
        let members: Vec<String> = match metrics.as_ref().map(|m| &m.membership_config) {
            Some(members) if members.nodes().next().is_some() => members.nodes().map(|(_, n)| n.addr.clone()).collect(),
            // Before there are members, or they are known, those that are to be.
            _ => self.0.config.peers().iter().map(ToString::to_string).collect(),
        };
        members.into_iter().filter(|address| *address != own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;

    fn faults(change: impl FnOnce(&mut Faults)) -> Faults {
        let mut faults = Faults::default();
        change(&mut faults);
        faults
    }

    #[test]
    fn members_without_room_refuse_tasks_where_the_others_are_too_few_to_commit() {
        let too_few = |with, without, members: usize| Room { peers: members - 1, with, without }.too_few();
        assert!(!too_few(1, 1, 3), "two of three commit what the third has no room for");
        assert!(too_few(0, 2, 3));
        assert!(too_few(0, 1, 3), "the third is silent");
        assert!(!too_few(0, 0, 3), "nobody has been asked yet");
        assert!(!too_few(2, 2, 5) && too_few(1, 3, 5));
        assert!(too_few(0, 1, 2) && !too_few(1, 0, 2));
    }

    #[test]
    fn a_node_gives_way_only_to_a_peer_that_is_better_off() {
        let reason = || Some("it is so".to_owned());
        let slow = faults(|f| f.slow = reason());
        assert!(!slow.bars_leading(), "no peer has answered");
        assert!(Faults { best_peer: Some(0), ..slow.clone() }.bars_leading());
        assert!(!Faults { best_peer: Some(slow.severity()), ..slow.clone() }.bars_leading(), "all disks are slow");
        let full = faults(|f| f.full = reason());
        assert!(Faults { best_peer: Some(slow.severity()), ..full.clone() }.bars_leading(), "a slow peer still writes");
        assert!(!Faults { best_peer: Some(full.severity()), ..slow }.bars_leading(), "one without room does not");
        let (cut, shut) = (faults(|f| f.links_out = reason()), faults(|f| f.links_in = reason()));
        assert!(
            Faults { best_peer: Some(shut.severity()), ..cut.clone() }.bars_leading(),
            "of two nodes one still writes"
        );
        assert!(Faults { best_peer: Some(full.severity()), ..cut.clone() }.bars_leading());
        assert!(!Faults { best_peer: Some(cut.severity()), ..shut }.bars_leading(), "the other commits nothing");
        assert!(!Faults { best_peer: Some(cut.severity()), ..cut }.bars_leading(), "nobody's entries pass");
        let clock = faults(|f| f.clock = reason());
        let uncompared = faults(|f| f.uncompared = true);
        assert!(
            uncompared.bars_leading() && uncompared.is_only_uncompared(),
            "nobody knows whether its clock is right"
        );
        assert!(!faults(|f| (f.uncompared, f.clock) = (true, reason())).is_only_uncompared());
        assert!(clock.bars_leading(), "a wrong clock bars it whatever the others are like");
        assert!(!Faults { best_peer: Some(clock.severity()), ..full }.bars_leading());
        assert!(!faults(|f| f.best_peer = Some(0)).bars_leading(), "a sound node leads");
    }

    #[test]
    fn a_fault_that_comes_and_goes_holds_until_it_has_been_away_for_long_enough() {
        let start = monotonic();
        let at = |ms| start + Duration::from_millis(ms);
        let mut held = Held::new(Duration::from_millis(100));
        let seen = |reason: &str| Some(reason.to_owned());
        assert_eq!(held.look(None, at(0)), None);
        assert_eq!(held.look(seen("first"), at(1)), seen("first"));
        assert_eq!(held.look(None, at(50)), seen("first"));
        assert_eq!(held.look(seen("again"), at(90)), seen("first"));
        assert_eq!(held.look(None, at(189)), seen("first"), "it counts from when it was last seen");
        assert_eq!(held.look(None, at(190)), None);
    }
}
