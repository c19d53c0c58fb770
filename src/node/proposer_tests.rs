//! The proposer of a single node, whose Raft log is on a disk.

use std::time::Duration;

use openraft::raft::AppendEntriesRequest;
use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::command::Command;
use crate::config::{Config, HostPort};
use crate::id::TaskId;
use crate::task::{Callback, TaskSpec, Timing};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node that leads itself, and its directory.
async fn leading(change: impl Fn(&mut Config)) -> (TempDir, Node) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config { raft_dir: dir.path().to_owned(), ..Config::default() };
    config.storage.cache_mb = 16;
    change(&mut config);
    let own = HostPort { host: "127.0.0.1".to_owned(), port: 9 };
    let (node, queues) = Node::open(config, own, String::new(), Clock::system()).unwrap();
    let working = node.clone();
    tokio::spawn(async move { working.work(queues).await });
    node.join().await.unwrap();
    let mut group = node.watch();
    let leads = group.wait_for(|metrics| metrics.as_ref().is_some_and(|m| m.current_leader == Some(m.id)));
    tokio::time::timeout(PATIENCE, leads).await.unwrap().unwrap();
    (dir, node)
}

/// A task, nearly all of whose bytes are in the headers of its request.
fn create(header_bytes: usize) -> Command {
    let mut callback = Callback::post("http://127.0.0.1:9/never", "{}".to_owned());
    callback.headers = [("x-filler".to_owned(), "x".repeat(header_bytes))].into();
    let timing = Timing::At { format: "9000000000".to_owned(), due: Timestamp(9_000_000_000_000) };
    Command::Create { id: TaskId::generate(), spec: Box::new(TaskSpec::new(timing, callback)) }
}

/// The sizes of the entries in the log, in bytes.
async fn entries(node: &Node) -> Vec<usize> {
    use openraft::storage::RaftLogStorage;
    use openraft::{EntryPayload, RaftLogReader};
    let mut log = node.0.log.clone();
    let first = log.get_log_state().await.unwrap().last_purged_log_id.map_or(0, |id| id.index + 1);
    let entries = log.try_get_log_entries(first..).await.unwrap();
    let size = |entry: openraft::Entry<crate::raft::TypeConfig>| match entry.payload {
        EntryPayload::Normal(payload) => Some(payload.0.len()),
        _ => None,
    };
    entries.into_iter().filter_map(size).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_commands_become_entries_of_bounded_size() {
    let (_dir, node) = leading(|_| {}).await;
    // Together far more than the log takes as one record.
    let commands: Vec<Command> = (0..700).map(|_| create(130_000)).collect();
    let replies = node.propose_all(commands, monotonic() + PATIENCE).await;
    let refused = replies.iter().find(|reply| !matches!(reply, Ok(Reply::Created { .. })));
    assert_eq!(refused, None);
    // A single command that is larger than an entry's bound is an entry alone.
    let large = node.propose(create(BYTES_PER_ENTRY * 3), monotonic() + PATIENCE).await;
    assert!(matches!(large, Ok(Reply::Created { .. })), "{large:?}");
    let sizes = entries(&node).await;
    assert!(sizes.iter().filter(|bytes| **bytes > BYTES_PER_ENTRY + 64).count() <= 1, "{sizes:?}");
    assert!(sizes.iter().any(|bytes| *bytes > BYTES_PER_ENTRY * 3), "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_no_entry_can_hold_is_refused_and_the_node_goes_on() {
    let (_dir, node) = leading(|_| {}).await;
    let huge = node.propose(create(COMMAND_BYTES_MAX), monotonic() + PATIENCE).await;
    assert!(matches!(huge, Err(Error::TooLarge { .. })), "{huge:?}");
    // Nor is an entry appended that has become too large in some other way.
    let commands = vec![Encoded::of(&create(COMMAND_BYTES_MAX)).unwrap(); 2];
    let written = write(&node, node.may_write().unwrap(), commands, true, monotonic() + PATIENCE).await;
    assert!(matches!(written, Err(Error::TooLarge { .. })), "{written:?}");
    let small = node.propose(create(1), monotonic() + PATIENCE).await;
    assert!(matches!(small, Ok(Reply::Created { .. })), "{small:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_of_writes_is_bounded_by_bytes() {
    let (_dir, node) = leading(|_| {}).await;
    let least: usize = 64 << 20;
    let room = Room::new(1000, least);
    let submit = || {
        let command = Encoded::of(&create(1 << 20)).unwrap();
        let share = room.share(&command)?;
        Ok::<_, Error>(submission(command, share, monotonic() + PATIENCE, None))
    };
    let waiting: Vec<_> = std::iter::from_fn(|| submit().ok()).take(100).collect();
    assert!((62..64).contains(&waiting.len()), "{}", waiting.len());
    assert_eq!(submit().err(), Some(Error::Busy));
    drop(waiting);
    assert!(submit().is_ok(), "what is replied to, or given up, leaves its room");
    drop(node);
}

/// A small command that waits for the proposer.
fn submit(room: &Room, only_in: Option<u64>) -> (Submission, Waiting) {
    let command = Encoded::of(&create(10)).unwrap();
    let share = room.share(&command).unwrap();
    submission(command, share, monotonic() + PATIENCE, only_in)
}

/// A state whose room is taken by one large task, until a checkpoint is made.
fn small_state(config: &mut Config) {
    config.storage.checkpoint_bytes = 1 << 16;
    config.storage.unsaved_bytes_max = 1 << 16;
}

async fn fill(node: &Node) {
    let filled = node.propose(create(1 << 20), monotonic() + PATIENCE).await;
    assert!(matches!(filled, Ok(Reply::Created { .. })), "{filled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_room_in_the_state_is_known_not_to_be_written() {
    let (_dir, node) = leading(small_state).await;
    let held = node.0.machine.without_checkpoints().await;
    fill(&node).await;
    // Of callers with different patience none is told that the write may have happened.
    let propose = |ms| node.propose(create(10), monotonic() + Duration::from_millis(ms));
    let refused = futures::join!(propose(200), propose(400), propose(600));
    assert_eq!(refused, (Err(Error::Busy), Err(Error::Busy), Err(Error::Busy)));
    drop(held);
    let written = node.propose(create(10), monotonic() + PATIENCE).await;
    assert!(matches!(written, Ok(Reply::Created { .. })), "{written:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_for_the_leader_of_one_term_that_waits_for_room_is_not_written_in_the_next() {
    let (_dir, node) = leading(small_state).await;
    let held = node.0.machine.without_checkpoints().await;
    fill(&node).await;
    let term = node.may_write().unwrap();
    let before = entries(&node).await.len();
    let submit = || submit(&node.0.submission_room, Some(term));
    let (waits, reply) = submit();
    let mut sending = std::pin::pin!(send(&node, vec![waits]));
    assert!(futures::poll!(sending.as_mut()).is_pending(), "there is room, and the test shows nothing");
    // Another one leads for a moment, and then this one again.
    let vote = openraft::Vote::new_committed(term + 1, 2);
    let heartbeat = AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None };
    node.0.group.get().unwrap().append_entries(heartbeat).await.unwrap();
    let later = async {
        while node.may_write().is_none_or(|now| now == term) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, later).await.unwrap();
    drop(held);
    sending.await;
    assert_eq!(reply.reply().await, Err(Error::NoLeader));
    // Nor where the term ends between the look at it and the write.
    let commands = vec![Encoded::of(&create(10)).unwrap()];
    assert_eq!(write(&node, term, commands, true, monotonic() + PATIENCE).await, Err(Error::NoLeader));
    assert_eq!(entries(&node).await.len(), before);
}

#[test]
fn an_entry_that_was_cut_off_is_known_not_to_be_written_among_three_voters_alone() {
    let waited = Duration::from_millis(7);
    assert_eq!([1, 3].map(|voters| replaced(voters, waited)), [Error::NoLeader, Error::NoLeader]);
    assert_eq!([4, 5].map(|voters| replaced(voters, waited)), [Error::Unknown(waited), Error::Unknown(waited)]);
}

async fn until(holds: impl Fn() -> bool) {
    let polled = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.unwrap();
}

/// An entry that has begun its way to other voters, and is cut off by another leader.
#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_an_entry_that_was_cut_off_depends_on_how_many_vote() {
    for (voters, known) in [(3, true), (4, false), (5, false)] {
        let (_dir, node) = leading(|config| {
            // It leads on by its own word for long.
            (config.raft.election_timeout_min_ms, config.raft.election_timeout_max_ms) = (30_000, 60_000);
        })
        .await;
        until(|| node.is_founded() && node.may_write().is_some()).await;
        let raft = node.0.group.get().unwrap().clone();
        // As if all of them had just acknowledged it.
        let term = node.may_write().unwrap();
        let sent = crate::raft::Moment::now(node.clock());
        (2..=voters).for_each(|id| node.0.office.lease.acknowledge(id, term, sent, None));
        for id in 2..=voters {
            raft.add_learner(id, openraft::BasicNode::new("127.0.0.1:9"), false).await.unwrap();
        }
        let committed = node.machine().applied().unwrap();
        // Nobody else is there, so that nothing is committed from here on.
        let members = raft.clone();
        let changing = tokio::spawn(async move {
            let all: std::collections::BTreeSet<u64> = (1..=voters).collect();
            drop(members.change_membership(all, false).await);
        });
        let mut group = node.watch();
        let changed = group.wait_for(|m| m.as_ref().is_some_and(|m| super::voters(m) == voters as usize));
        drop(tokio::time::timeout(PATIENCE, changed).await.unwrap().unwrap());
        let before = node.0.log.log_bytes_since_purge();
        let writing = node.clone();
        let commands = vec![Encoded::of(&create(100)).unwrap()];
        let written = tokio::spawn(async move { write(&writing, term, commands, true, monotonic() + PATIENCE).await });
        until(|| node.0.log.log_bytes_since_purge() >= before + 100).await;
        let vote = openraft::Vote::new_committed(term + 1, 2);
        let id = openraft::LogId::new(openraft::CommittedLeaderId::new(term + 1, 2), committed.index + 1);
        let entries = vec![openraft::Entry { log_id: id, payload: openraft::EntryPayload::Blank }];
        let other = AppendEntriesRequest { vote, prev_log_id: Some(committed), entries, leader_commit: None };
        raft.append_entries(other).await.unwrap();
        let error = written.await.unwrap().unwrap_err();
        assert_eq!(error == Error::NoLeader, known, "{voters} voters: {error:?}");
        assert!(known || matches!(error, Error::Unknown(_)), "{voters} voters: {error:?}");
        changing.abort();
    }
}

#[tokio::test]
async fn a_command_that_is_let_go_of_without_a_word_is_unknown_if_it_was_taken() {
    let room = Room::new(2, 64 << 20);
    let submit = || submit(&room, None);
    let (waits, reply) = submit();
    drop(waits);
    assert_eq!(reply.reply().await, Err(Error::NoLeader), "nobody can have sent it");
    let (taken, reply) = submit();
    assert!(taken.take(monotonic()));
    drop(taken);
    assert!(matches!(reply.reply().await, Err(Error::Unknown(_))));
}
