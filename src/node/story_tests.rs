use std::sync::Arc;

use super::*;

const PEERS: [&str; 3] = ["a:1", "b:1", "c:1"];

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}

/// Node 1 of three, of which all is well.
fn seen() -> Seen {
    let leader = Leader { id: 2, address: "b:1".to_owned(), term: 7 };
    let ok = |peer: &str| (peer.to_owned(), Ok(Status { peer_hosts: names(&PEERS), ..Status::default() }));
    Seen {
        node: 1,
        cluster: Some(Uuid::from_u128(1)),
        takes_part: true,
        leader: Some(leader),
        members: names(&PEERS),
        listed: names(&PEERS),
        elsewhere: None,
        times: Times { heartbeat_ms: 50, election_timeout_min_ms: 300, election_timeout_max_ms: 1000 },
        peers: vec![ok("b:1"), ok("c:1")],
    }
}

/// A story in which all that is well has been told.
fn told() -> Story {
    let mut story = Story::default();
    let lines = story.look(&seen());
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(story.look(&seen()), []);
    story
}

fn failing(cause: &str) -> Seen {
    let mut seen = seen();
    seen.peers[1].1 = Err(cause.to_owned());
    seen
}

#[test]
fn a_new_leader_is_told_with_its_term_and_the_role_of_this_node() {
    let mut story = told();
    let mut next = seen();
    let leader = Leader { id: 1, address: "a:1".to_owned(), term: 8 };
    next.leader = Some(leader.clone());
    assert_eq!(story.look(&next), [Line::Elected { leader, role: "leader" }]);
    assert_eq!(story.look(&next), []);
}

#[test]
fn an_election_is_no_loss_of_the_leader_and_a_long_one_is() {
    let mut story = told();
    let without = Seen { leader: None, ..seen() };
    assert_eq!(story.look(&without), []);
    assert_eq!(story.look(&seen()), [], "the same leader goes on");
    let lines: Vec<Line> = (0..10).flat_map(|_| story.look(&without)).collect();
    assert_eq!(lines, [Line::NoLeader]);
    assert_eq!(story.look(&seen()).len(), 1, "and is told again when it is back");
}

#[test]
fn a_peer_is_lost_and_back_once_each_with_the_cause() {
    let mut story = told();
    assert_eq!(story.look(&failing("timed out")), []);
    assert_eq!(story.look(&seen()), [], "one answer was late");
    let lines: Vec<Line> = (0..10).flat_map(|_| story.look(&failing("Connection refused"))).collect();
    assert_eq!(lines, [Line::Lost { peer: "c:1".to_owned(), cause: "Connection refused".to_owned() }]);
    assert_eq!(story.look(&seen()), [Line::Back { peer: "c:1".to_owned() }]);
}

#[test]
fn a_name_that_does_not_resolve_is_told_once_and_again_when_it_does() {
    let mut story = Story::default();
    let cause = "c:1: client error (Connect): dns error: failed to lookup address information";
    let lines: Vec<Line> = (0..10).flat_map(|_| story.look(&failing(cause))).collect();
    assert!(lines.contains(&Line::Unresolved { peer: "c:1".to_owned(), cause: cause.to_owned() }), "{lines:?}");
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(story.look(&seen()), [Line::Back { peer: "c:1".to_owned() }]);
}

#[test]
fn a_list_that_is_not_the_membership_is_told_once() {
    let mut story = told();
    let mut more = seen();
    more.listed.push("d:1".to_owned());
    let lines: Vec<Line> = (0..5).flat_map(|_| story.look(&more)).collect();
    assert_eq!(lines, [Line::ListDiffers { listed: more.listed.clone(), members: names(&PEERS) }]);
    let single = Seen { listed: Vec::new(), members: names(&["a:1"]), peers: Vec::new(), ..seen() };
    let lines = Story::default().look(&single);
    assert!(!lines.iter().any(|line| matches!(line, Line::ListDiffers { .. })), "{lines:?}");
}

#[test]
fn a_peer_of_another_cluster_is_told() {
    let mut story = told();
    let mut foreign = seen();
    foreign.peers[0].1 = Ok(Status { cluster: Some(Uuid::from_u128(2)), ..Status::default() });
    let lines: Vec<Line> = (0..5).flat_map(|_| story.look(&foreign)).collect();
    assert!(matches!(lines.as_slice(), [Line::Foreign { peer, .. }] if peer == "b:1"), "{lines:?}");
    let refused = failing("403 Forbidden: this node is of the cluster x, the message of y");
    let lines: Vec<Line> = (0..5).flat_map(|_| story.look(&refused)).collect();
    assert!(lines.iter().any(|line| matches!(line, Line::Foreign { peer, .. } if peer == "c:1")), "{lines:?}");
}

#[test]
fn other_times_of_a_peer_are_told_once_and_again_when_they_change() {
    let mut story = told();
    assert_eq!(story.look(&seen()), [], "an older version tells none");
    let own = seen().times;
    let with = |theirs: Times| {
        let mut seen = seen();
        let Times { heartbeat_ms, election_timeout_min_ms, election_timeout_max_ms } = theirs;
        let status = Status { heartbeat_ms, election_timeout_min_ms, election_timeout_max_ms, ..Status::default() };
        seen.peers[1].1 = Ok(status);
        seen
    };
    let line = |theirs| Line::TimesDiffer { peer: "c:1".to_owned(), theirs, own };
    for theirs in [
        Times { heartbeat_ms: 60, ..own },
        Times { election_timeout_min_ms: 500, ..own },
        Times { election_timeout_max_ms: 900, ..own },
    ] {
        assert_eq!(story.look(&with(theirs)), [line(theirs)]);
        assert_eq!(story.look(&with(theirs)), []);
    }
    assert_eq!(story.look(&with(own)), []);
    let again = Times { heartbeat_ms: 60, ..own };
    assert_eq!(story.look(&with(again)), [line(again)]);
}

#[test]
fn who_is_missing_while_the_cluster_forms_is_told_and_a_formed_one_without_a_leader_too() {
    let mut story = Story::default();
    let forming = Seen { takes_part: false, cluster: None, leader: None, members: Vec::new(), ..failing("refused") };
    let lines: Vec<Line> = (0..10).flat_map(|_| story.look(&forming)).collect();
    assert!(lines.contains(&Line::Forming { missing: names(&["c:1"]) }), "{lines:?}");
    let mut formed = forming.clone();
    formed.peers[0].1 = Ok(Status { formed: true, peer_hosts: names(&PEERS), ..Status::default() });
    assert_eq!(story.look(&formed), [Line::FormedWithoutLeader { formed: names(&["b:1"]) }]);
}

#[test]
fn a_second_process_of_the_same_store_or_node_is_found() {
    let id = |n| Uuid::from_u128(n);
    let own = Status { node: 3, store: id(5), cluster: Some(id(1)), instance: id(10), ..Status::default() };
    assert_eq!(twin(&own, &own, "c:1"), None, "itself");
    let copy = Status { instance: id(11), ..own.clone() };
    assert!(twin(&own, &copy, "c:1").is_some_and(|why| why.contains("node 3")));
    assert!(twin(&own, &Status { store: id(6), ..copy.clone() }, "c:1").is_some(), "the same node by another store");
    assert_eq!(twin(&own, &Status { store: id(6), node: 4, ..copy.clone() }, "c:1"), None, "another node");
    let (forming, other) =
        (Status { store: id(6), cluster: None, ..copy.clone() }, Status { cluster: Some(id(2)), ..copy });
    assert!(
        twin(&own, &forming, "c:1").is_some() && twin(&forming, &own, "c:1").is_some(),
        "one has yet to learn of it"
    );
    assert_eq!(twin(&own, &Status { store: id(6), ..other }, "c:1"), None, "a node of another cluster");
    assert_eq!(twin(&own, &Status { node: 0, ..forming }, "c:1"), None, "no member yet");
}

#[test]
fn who_else_answers_at_the_own_address_is_told_once_it_is_sure() {
    let id = |n| Uuid::from_u128(n);
    let own = Status { node: 3, store: id(5), cluster: Some(id(1)), instance: id(10), ..Status::default() };
    let other = Status { node: 2, store: id(6), instance: id(11), ..own.clone() };
    let refused = |why: &str| Err(format!("c:1: 421 Misdirected Request: {why}"));
    for (answer, words) in [
        (Ok(own.clone()), None),
        (Err("c:1: Connection refused".to_owned()), None),
        (Ok(other.clone()), Some("it is node 2")),
        (Ok(Status { node: 0, ..other }), Some("no member yet")),
        (refused("this is node 2, and node 3 is meant"), Some("node 3 is meant")),
        (refused("this node is of the cluster 8, and the message of the cluster 1"), Some("of the cluster 8")),
    ] {
        let found = somebody_else(&own, &answer);
        assert_eq!(found.is_some(), words.is_some(), "{answer:?}");
        assert!(words.is_none_or(|words| found.as_ref().is_some_and(|found| found.contains(words))), "{found:?}");
    }
    let mut story = told();
    let (address, cause) = ("a:1".to_owned(), "why".to_owned());
    let elsewhere = Seen { elsewhere: Some((address.clone(), cause.clone())), ..seen() };
    let line = Line::Elsewhere { own: address, cause };
    for _ in 0..2 {
        assert_eq!(story.look(&elsewhere), [], "a name that was late");
        assert_eq!(story.look(&seen()), []);
        let lines: Vec<Line> = (0..10).flat_map(|_| story.look(&elsewhere)).collect();
        assert_eq!(lines, std::slice::from_ref(&line));
        assert_eq!(story.look(&seen()), []);
    }
    let waits = Seen { takes_part: false, ..elsewhere };
    let lines: Vec<Line> = (0..10).flat_map(|_| story.look(&waits)).collect();
    assert_eq!(lines, [], "it waits, and says so itself");
}

/// What the log says in the end, by level and words.
#[test]
fn each_line_is_written_once_at_its_level_and_names_what_it_is_about() {
    let leader = Leader { id: 2, address: "b:1".to_owned(), term: 7 };
    let (peer, cause) = ("c:1".to_owned(), "why".to_owned());
    let listed = names(&PEERS);
    let about = |of: &str| format!("peer=\"c:1\" {of}").trim_end().to_owned();
    for (line, level, words, named) in [
        (
            Line::Elected { leader, role: "follower" },
            "INFO",
            "leader elected",
            "term=7 leader=2 address=\"b:1\"".to_owned(),
        ),
        (Line::NoLeader, "WARN", "no leader is known", String::new()),
        (Line::Members(listed.clone()), "INFO", "membership", "members=\"a:1, b:1, c:1\"".to_owned()),
        (
            Line::ListDiffers { listed: names(&["d:1"]), members: listed.clone() },
            "WARN",
            "peer_hosts differs from the membership",
            "peer_hosts=\"d:1\" members=\"a:1, b:1, c:1\"".to_owned(),
        ),
        (Line::Lost { peer: peer.clone(), cause: cause.clone() }, "WARN", "peer lost", about("cause=\"why\"")),
        (
            Line::Unresolved { peer: peer.clone(), cause: cause.clone() },
            "WARN",
            "peer's name does not resolve",
            about("cause=\"why\""),
        ),
        (
            Line::Foreign { peer: peer.clone(), cause },
            "ERROR",
            "a node of another cluster answers at this peer's address",
            about("cause=\"why\""),
        ),
        (
            Line::TimesDiffer {
                peer: peer.clone(),
                theirs: Times { heartbeat_ms: 1, election_timeout_min_ms: 2, election_timeout_max_ms: 3 },
                own: Times { heartbeat_ms: 4, election_timeout_min_ms: 5, election_timeout_max_ms: 6 },
            },
            "WARN",
            "this peer has other times in [raft] than this node",
            about(
                "theirs=heartbeat_ms 1, election_timeout_min_ms 2, election_timeout_max_ms 3 \
                 own=heartbeat_ms 4, election_timeout_min_ms 5, election_timeout_max_ms 6",
            ),
        ),
        (
            Line::Elsewhere { own: "a:1".to_owned(), cause: "why".to_owned() },
            "ERROR",
            "another process answers at this node's own address",
            "own=\"a:1\" cause=\"why\"".to_owned(),
        ),
        (Line::Back { peer }, "INFO", "peer reached", about("")),
        (Line::Forming { missing: names(&["c:1"]) }, "INFO", "waiting for peers", "missing=\"c:1\"".to_owned()),
        (
            Line::FormedWithoutLeader { formed: names(&["c:1"]) },
            "WARN",
            "belong to a formed cluster",
            "formed=\"c:1\"".to_owned(),
        ),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::new(file.reopen().unwrap())).finish();
        tracing::subscriber::with_default(log, || line.write());
        let written = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(written.lines().count(), 1, "{written}");
        let parts = [format!(" {level} "), words.to_owned(), named];
        assert!(parts.iter().all(|part| written.contains(part)), "{parts:?}: {written}");
    }
}
