//! The state machine alone, over a directory: what it is given, and all that it holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{CommittedLeaderId, Entry, EntryPayload, Membership, RaftSnapshotBuilder, SnapshotMeta};
use xcron::clock::{Clock, Timestamp};
use xcron::command::{Batch, Command, Steering, Verdict};
use xcron::id::{RunKey, TaskId};
use xcron::raft::{LogId, Payload, Replies, TypeConfig};
use xcron::run::Attempt;
use xcron::storage::machine::{Held, LogEnds, Options, Received};
use xcron::storage::{Error, Machine};
use xcron::task::{Callback, TaskSpec, Timing};

pub fn options() -> Options {
    Options {
        cache_bytes: 16 << 20,
        checkpoint_interval: Duration::from_secs(1),
        checkpoint_bytes: 1 << 20,
        unsaved_bytes_max: 64 << 20,
        zone_data: xcron::schedule::ZoneData::bundled(),
    }
}

pub fn clock() -> Clock {
    Clock::manual(Timestamp(NOW))
}

pub const NOW: u64 = 1_790_000_000_000;

pub fn open_at(dir: &Path, log: LogEnds) -> Result<Machine, Error> {
    Machine::open(dir, options(), clock(), log)
}

/// A machine over a log that still has everything.
pub fn open(dir: &Path) -> Machine {
    open_at(dir, ends(0, 1_000_000)).expect("it opens")
}

pub fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

/// A log that is purged up to an index (0: not at all) and ends at another.
pub fn ends(purged: u64, last: u64) -> LogEnds {
    LogEnds { purged: (purged > 0).then(|| id(purged)), last: Some(id(last)) }
}

pub fn entry(index: u64, commands: Vec<Command>) -> Entry<TypeConfig> {
    let bytes = Batch::of(Timestamp(NOW + index), commands).encode().expect("it encodes");
    Entry { log_id: id(index), payload: EntryPayload::Normal(Payload(Bytes::from(bytes))) }
}

pub fn create(name: &str, body: usize) -> Command {
    let callback = Callback::post("http://127.0.0.1:9/", format!("{:?}", name.repeat(body.max(1))));
    let timing = if name.len().is_multiple_of(2) {
        Timing::Periodic { format: "* * * * *".to_owned(), timezone: "UTC".to_owned() }
    } else {
        Timing::After { delay_ms: 60_000 }
    };
    let tags = BTreeMap::from([("k".to_owned(), name.to_owned())]);
    let spec = TaskSpec { name: Some(name.to_owned()), tags, ..TaskSpec::new(timing, callback) };
    Command::Create { id: name.parse::<TaskId>().expect("an id"), spec: Box::new(spec) }
}

pub fn ended(seq: u64, due: Timestamp) -> Command {
    let begun = Attempt::begun(1, 1, due, 1);
    let attempt = Attempt { duration_ms: Some(2), status: Some(200), answer: Some("ok".to_owned()), ..begun };
    Command::RunEnded {
        seq,
        key: RunKey::scheduled(due),
        attempt,
        term: 1,
        verdict: Verdict::Succeeded,
        steering: Steering::default(),
    }
}

/// Entries that make, fire and delete tasks of all sizes.
pub fn history() -> Vec<Entry<TypeConfig>> {
    let mut entries = Vec::new();
    let members = Membership::new(vec![[1, 2, 3].into()], None);
    entries.push(Entry { log_id: id(1), payload: EntryPayload::Membership(members) });
    for i in 2..200u64 {
        let mut commands = vec![create(&format!("task-{i}"), if i % 20 == 0 { 20_000 } else { 3 })];
        if i % 7 == 0 {
            commands.push(Command::Delete { id: format!("task-{}", i - 3).parse().expect("an id") });
        }
        entries.push(entry(i, commands));
    }
    entries
}

pub async fn apply(machine: &Machine, entries: Vec<Entry<TypeConfig>>) -> Vec<Replies> {
    machine.clone().apply(entries).await.expect("it applies")
}

/// A machine with the history in it, and some runs.
pub async fn fill(machine: &Machine) -> u64 {
    for part in history().chunks(17) {
        apply(machine, part.to_vec()).await;
        machine.checkpoint().await.expect("a checkpoint");
    }
    let due: Vec<(u64, Timestamp)> =
        machine.with_state(|s| s.tasks_from(0).filter_map(|(seq, task)| Some((seq, task.next?))).take(50).collect());
    let mut index = 200;
    for (seq, due) in due {
        apply(machine, vec![entry(index, vec![ended(seq, due)])]).await;
        index += 1;
    }
    index - 1
}

/// All records, as a snapshot has them.
pub async fn records(machine: &Machine) -> Vec<u8> {
    after_header(&snapshot_bytes(machine.clone().build_snapshot().await.expect("a snapshot")).await)
}

/// What follows the header, which names the file.
pub fn after_header(snapshot: &[u8]) -> Vec<u8> {
    let header = u32::from_le_bytes(snapshot[8..12].try_into().expect("four bytes")) as usize;
    snapshot[12 + header..].to_vec()
}

pub async fn snapshot_bytes(snapshot: Snapshot<TypeConfig>) -> Vec<u8> {
    match *snapshot.snapshot {
        Held::File(kept) => std::fs::read(kept.path()).expect("it can be read"),
        other => panic!("{other:?} is no file"),
    }
}

/// Installs a snapshot as it arrives from a leader: in pieces.
pub async fn install(
    machine: &mut Machine,
    meta: &SnapshotMeta<u64, openraft::BasicNode>,
    bytes: &[u8],
) -> Result<(), Error> {
    let half = bytes.len() / 2;
    assert!(matches!(machine.receive(meta, 0, &bytes[..half], false).await?, Received::More));
    match machine.receive(meta, half as u64, &bytes[half..], true).await? {
        Received::Ready(held) => {
            machine.install_snapshot(meta, Box::new(held)).await.expect("what is verified can be installed");
            Ok(())
        }
        other => panic!("{other:?}"),
    }
}
