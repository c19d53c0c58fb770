//! The links, by whether they carry what the work needs: messages of several full frames from this node to a majority,
//! and messages of a majority to this node.
//!
//! Signs of life are short, and go where no entry does: over a link that drops full frames (a wrong MTU), and from a
//! leader that the others cannot connect to (a firewall before its `peer_port`). So each node sends each other one a
//! large message every second, and tells in its status which of them take none. doc/decisions/0056-links-are-proved.md

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::StreamExt;
use tokio::time::Instant;

use super::{note, Held, Node};
use crate::clock::monotonic;
use crate::raft::{others_needed, LARGE_BYTES};

/// Between two looks; and after a large message that was not answered, until the next one.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between a large message that was answered and the next one: 80 kbit/s for each peer.
const PROVE_EVERY: Duration = Duration::from_secs(1);
/// A node that has not looked for so long stood still, or lacks the processor: what it has not heard says nothing.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// What all bounds are multiples of: the longest election timeout, which stands for how slow the links may be, or this.
const UNIT_MIN: Duration = Duration::from_secs(1);
/// A peer that has answered nothing large for so many units takes none. That is a few messages in a row, and more than a
/// link that is slow, long or crowded needs for one: those delay short messages as well.
const CUT_UNITS: u32 = 4;
/// So long most must say that they do not reach this node. One that was away is told so until the next large message is
/// answered, which is sent within a look and the time for a connection.
const SAID_UNITS: u32 = 3;
/// What a peer has said is old after this; and one that has answered nothing for so long is silent.
const FRESH_UNITS: u32 = 2;

/// What the looks have shown, and what the peers have said of it.
#[derive(Debug, Default)]
pub(in crate::node) struct LinkLooks(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// Whether this peer says that it does not reach this node, and when it said so.
    says: HashMap<String, (Instant, bool)>,
    /// The peers that take no large message of this node, and for how long.
    unreached: Vec<(String, Duration)>,
}

impl LinkLooks {
    fn lock(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer says whether it does not reach this node.
    pub(super) fn say(&self, peer: &str, does_not_reach: bool, now: Instant) {
        self.lock().says.insert(peer.to_owned(), (now, does_not_reach));
    }

    /// The peers that take no large message of this node.
    pub fn unreached(&self) -> Vec<String> {
        self.lock().unreached.iter().map(|(peer, _)| peer.clone()).collect()
    }

    /// For how long this peer has taken no large message of this node, if that is so.
    pub fn unreached_for(&self, peer: &str) -> Option<Duration> {
        self.lock().unreached.iter().find(|(other, _)| other == peer).map(|(_, time)| *time)
    }
}

/// What there is to judge the link to a peer by.
#[derive(Clone, Copy, Debug)]
struct Seen<'a> {
    peer: &'a str,
    /// When it last answered anything.
    heard: Option<Instant>,
    /// When it last answered a large message.
    took_large: Option<Instant>,
    /// When it last said whether it does not reach this node, and what.
    says: Option<(Instant, bool)>,
}

#[derive(Debug, Default, PartialEq)]
struct Verdict {
    /// The peers that take no large message, and for how long.
    unreached: Vec<(String, Duration)>,
    links_out: Option<String>,
    links_in: Option<String>,
}

#[derive(Debug)]
struct Peer {
    /// From when on it counts what it answers, and what it does not.
    since: Instant,
    is_silent: bool,
}

/// What one look leaves for the next.
#[derive(Debug)]
struct Judge {
    unit: Duration,
    looked: Option<Instant>,
    peers: HashMap<String, Peer>,
    /// Since when so many have said that they do not reach this node that the others are no majority.
    said_since: Option<Instant>,
    /// Each ends with the look that does not find it any more: an answer says that the link is mended.
    links_out: Held,
    links_in: Held,
}

impl Judge {
    /// Of links for which the longest election timeout is this.
    fn new(election_timeout_max: Duration) -> Judge {
        let unit = election_timeout_max.max(UNIT_MIN);
        let held = || Held::new(Duration::ZERO);
        Judge { unit, looked: None, peers: HashMap::new(), said_since: None, links_out: held(), links_in: held() }
    }

    /// How long a large message may take.
    fn cut_after(&self) -> Duration {
        self.unit * CUT_UNITS
    }

    /// This node takes no part, or stood still: it begins anew.
    fn forget(&mut self) {
        self.peers.clear();
        (self.looked, self.said_since) = (None, None);
    }

    fn look(&mut self, seen: &[Seen<'_>], now: Instant) -> Verdict {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) > STOOD_STILL) {
            self.forget();
        }
        self.looked = Some(now);
        self.peers.retain(|peer, _| seen.iter().any(|seen| seen.peer == peer));

        let cut_after = self.cut_after();
        let (mut unreached, mut silent, mut reached_by, mut not_reached_by) = (Vec::new(), 0, 0, 0);
        for seen in seen {
            let peer = self.peers.entry(seen.peer.to_owned()).or_insert_with(|| Peer { since: now, is_silent: false });
            let ago = |at: Option<Instant>, since| now.saturating_duration_since(at.map_or(since, |at| at.max(since)));
            // Sooner than it takes no large message: one that has just died is silent, and no fault of the links.
            let is_silent = ago(seen.heard, peer.since) > self.unit * FRESH_UNITS;
            if peer.is_silent && !is_silent {
                // It is back, and has not been sent anything large yet.
                peer.since = now;
            }
            peer.is_silent = is_silent;
            silent += usize::from(is_silent);
            let time = ago(seen.took_large, peer.since);
            if time > cut_after {
                unreached.push((seen.peer.to_owned(), time));
            }
            let fresh = seen.says.filter(|(at, _)| *at >= peer.since && now - *at <= self.unit * FRESH_UNITS);
            if let Some((_, does_not_reach)) = fresh {
                *(if does_not_reach { &mut not_reached_by } else { &mut reached_by }) += 1;
            }
        }

        let (peers, needed) = (seen.len(), others_needed(seen.len()));
        // Where those that answer at all are too few, that is what is wrong.
        let is_cut = peers - unreached.len() < needed && peers - silent >= needed;
        let links_out = is_cut.then(|| told_out(peers, unreached.len(), silent));
        // Of those that say nothing nobody knows; but somebody must have said so.
        let is_not_reached = not_reached_by > 0 && reached_by < needed;
        let since = is_not_reached.then(|| *self.said_since.get_or_insert(now));
        self.said_since = since;
        let said = since.is_some_and(|since| now - since >= self.unit * SAID_UNITS);
        let links_in = said.then(|| told_in(peers, not_reached_by, reached_by));
        Verdict {
            unreached,
            links_out: self.links_out.look(links_out, now),
            links_in: self.links_in.look(links_in, now),
        }
    }
}

fn told_out(peers: usize, unreached: usize, silent: usize) -> String {
    let kib = LARGE_BYTES >> 10;
    format!(
        "of {peers} peers {} answer short messages of this node and none of {kib} KiB, and {silent} answer nothing",
        unreached.saturating_sub(silent)
    )
}

fn told_in(peers: usize, not_reached_by: usize, reached_by: usize) -> String {
    format!(
        "of {peers} peers {not_reached_by} say that this node takes no full messages, or none, of theirs, and {reached_by} that it does"
    )
}

/// Proves the links, and judges them.
pub(super) async fn watch(node: &Node) {
    let mut judge = Judge::new(Duration::from_millis(node.0.config.raft.election_timeout_max_ms));
    let timeout = judge.cut_after();
    // One at a time to each peer. It has a connection to itself: whatever else is sent waits for nothing.
    let mut under_way = FuturesUnordered::new();
    let mut next: HashMap<String, Option<Instant>> = HashMap::new();
    let mut look_at = monotonic();
    loop {
        tokio::select! {
            Some((peer, answered)) = under_way.next() => {
                let pause = if answered { PROVE_EVERY } else { LOOK_EVERY };
                next.insert(peer, Some(monotonic() + pause));
            }
            () = tokio::time::sleep_until(look_at) => {
                look_at = monotonic() + LOOK_EVERY;
                if node.0.group.get().is_none() {
                    judge.forget();
                    continue;
                }
                let peers = node.other_members();
                look(node, &mut judge, &peers);
                next.retain(|peer, at| at.is_none() || peers.contains(peer));
                // In their order: the simulation takes each step in the same order each time.
                let due: Vec<String> = peers
                    .into_iter()
                    .filter(|peer| next.get(peer).is_none_or(|at| at.is_some_and(|at| at <= monotonic())))
                    .collect();
                for peer in due {
                    next.insert(peer.clone(), None);
                    under_way.push(async move {
                        let answer = node.0.links.probe(&peer, timeout).await;
                        (peer, answer.is_ok())
                    });
                }
            }
        }
    }
}

fn look(node: &Node, judge: &mut Judge, peers: &[String]) {
    let says = node.0.link_looks.lock().says.clone();
    let seen = peers.iter().map(|peer| {
        let presence = node.0.links.presence(peer);
        let (heard, took_large) = (presence.map(|p| p.heard), presence.and_then(|p| p.took_large));
        Seen { peer, heard, took_large, says: says.get(peer).copied() }
    });
    let seen: Vec<Seen<'_>> = seen.collect();
    let Verdict { unreached, links_out, links_in } = judge.look(&seen, monotonic());
    node.0.link_looks.lock().unreached = unreached;
    note(node, |faults| (faults.links_out, faults.links_in) = (links_out, links_in));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Peers of a node that looks every quarter of a second.
    struct Peers {
        judge: Judge,
        now: Instant,
        peers: Vec<Peer>,
    }

    #[derive(Clone, Copy)]
    struct Peer {
        heard: Option<Instant>,
        took_large: Option<Instant>,
        says: Option<(Instant, bool)>,
    }

    /// What a peer does from now on: whether it answers short messages, and large ones; whether it says that it does not
    /// reach this node; none: it says nothing.
    type Does = (bool, bool, Option<bool>);

    const WELL: Does = (true, true, Some(false));
    const SHORT_ALONE: Does = (true, false, Some(false));
    const DEAD: Does = (false, false, None);
    const SHUT_OUT: Does = (true, true, Some(true));

    impl Peers {
        fn new(count: usize) -> Peers {
            let peer = Peer { heard: None, took_large: None, says: None };
            let judge = Judge::new(Duration::from_millis(1000));
            Peers { judge, now: monotonic(), peers: vec![peer; count] }
        }

        /// So many seconds pass; whether there is each of the faults then, and which peers are not reached.
        fn pass(&mut self, seconds: f64, does: &[Does]) -> (bool, bool, Vec<usize>) {
            let mut verdict = Verdict::default();
            for _ in 0..(seconds * 4.0) as u32 {
                self.now += LOOK_EVERY;
                for (peer, (short, large, says)) in self.peers.iter_mut().zip(does) {
                    peer.heard = short.then_some(self.now).or(peer.heard);
                    peer.took_large = large.then_some(self.now).or(peer.took_large);
                    peer.says = says.map(|says| (self.now, says)).or(peer.says);
                }
                let names: Vec<String> = (0..self.peers.len()).map(|at| at.to_string()).collect();
                let seen = self.peers.iter().zip(&names).map(|(Peer { heard, took_large, says }, peer)| Seen {
                    peer,
                    heard: *heard,
                    took_large: *took_large,
                    says: *says,
                });
                verdict = self.judge.look(&seen.collect::<Vec<_>>(), self.now);
            }
            let unreached = verdict.unreached.iter().map(|(peer, _)| peer.parse().unwrap()).collect();
            (verdict.links_out.is_some(), verdict.links_in.is_some(), unreached)
        }

        /// The process stands still.
        fn stand_still(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn a_node_has_a_fault_where_it_is_no_majority_with_those_that_take_or_bring_full_messages() {
        // What the peers do for long, and the faults.
        let table: [(&[Does], bool, bool); 17] = [
            (&[], false, false),
            (&[WELL, WELL], false, false),
            (&[SHORT_ALONE, SHORT_ALONE], true, false),
            (&[SHORT_ALONE, WELL], false, false),
            (&[SHORT_ALONE, DEAD], true, false),
            (&[DEAD, WELL], false, false),
            (&[DEAD, DEAD], false, false),
            (&[SHUT_OUT, SHUT_OUT], false, true),
            // It may be the peer itself that reaches nobody.
            (&[SHUT_OUT, WELL], false, false),
            (&[SHUT_OUT, DEAD], false, true),
            // An older version says nothing.
            (&[(true, true, None), (true, true, None)], false, false),
            (&[SHORT_ALONE], true, false),
            (&[SHUT_OUT], false, true),
            (&[(true, false, Some(true))], true, true),
            (&[SHORT_ALONE, SHORT_ALONE, WELL, WELL], false, false),
            (&[SHORT_ALONE, SHORT_ALONE, DEAD, WELL], true, false),
            (&[SHUT_OUT, SHUT_OUT, WELL, WELL], false, false),
        ];
        for (at, (does, out, into)) in table.into_iter().enumerate() {
            let (is_out, is_in, _) = Peers::new(does.len()).pass(20.0, does);
            assert_eq!((is_out, is_in), (out, into), "line {at}");
        }
    }

    #[test]
    fn a_slow_answer_is_an_answer_and_an_answer_ends_the_fault_at_once() {
        let mut peers = Peers::new(2);
        peers.pass(5.0, &[WELL, WELL]);
        assert!(!peers.pass(4.0, &[SHORT_ALONE, SHORT_ALONE]).0);
        // It has taken four seconds.
        assert!(!peers.pass(0.25, &[SHORT_ALONE, WELL]).0);
        assert_eq!(peers.pass(4.0, &[SHORT_ALONE, SHORT_ALONE]), (false, false, vec![0]));
        assert_eq!(peers.pass(0.5, &[SHORT_ALONE, SHORT_ALONE]), (true, false, vec![0, 1]));
        assert_eq!(peers.pass(0.25, &[SHORT_ALONE, WELL]), (false, false, vec![0]));
        // Where elections take their time, so do answers.
        let mut slow = Peers { judge: Judge::new(Duration::from_secs(3)), ..Peers::new(2) };
        assert!(!slow.pass(12.0, &[SHORT_ALONE, SHORT_ALONE]).0);
        assert!(slow.pass(1.0, &[SHORT_ALONE, SHORT_ALONE]).0);
    }

    #[test]
    fn peers_that_were_dead_for_however_long_are_no_fault_of_the_links_of_who_is_left() {
        for quarters in 1..40 {
            let mut peers = Peers::new(2);
            peers.pass(5.0, &[WELL, WELL]);
            for _ in 0..quarters {
                assert!(!peers.pass(0.25, &[DEAD, DEAD]).0, "{quarters}");
            }
            assert!(!peers.pass(1.0, &[SHORT_ALONE, SHORT_ALONE]).0, "{quarters}: they are back");
        }
    }

    #[test]
    fn what_was_said_of_a_node_that_stood_still_or_was_away_is_no_fault_of_it() {
        // It stood still, and for a while the others say so.
        let mut peers = Peers::new(2);
        peers.pass(2.5, &[SHUT_OUT, SHUT_OUT]);
        peers.stand_still(10);
        assert_eq!(peers.pass(2.5, &[SHUT_OUT, SHUT_OUT]), (false, false, vec![]));
        assert_eq!(peers.pass(5.0, &[WELL, WELL]), (false, false, vec![]));
        // It was cut off.
        assert_eq!(peers.pass(10.0, &[DEAD, DEAD]), (false, false, vec![0, 1]));
        assert_eq!(peers.pass(0.25, &[(true, false, Some(true)); 2]), (false, false, vec![]), "they are back");
        assert_eq!(peers.pass(2.5, &[SHUT_OUT, SHUT_OUT]), (false, false, vec![]));
        assert_eq!(peers.pass(1.0, &[SHUT_OUT, SHUT_OUT]), (false, true, vec![]));
        assert_eq!(peers.pass(0.25, &[SHUT_OUT, WELL]), (false, false, vec![]));
        // What is old is not said any more.
        peers.pass(1.0, &[SHUT_OUT, SHUT_OUT]);
        assert!(!peers.pass(3.5, &[(true, true, None), (true, true, None)]).1);
    }
}
