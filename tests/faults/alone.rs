//! A state machine without a node around it, on a disk that fills up.

use std::path::Path;
use std::time::Duration;

use openraft::storage::RaftStateMachine;
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId};
use tempfile::TempDir;
use xcron::clock::{Clock, Timestamp};
use xcron::command::{Batch, Command};
use xcron::raft::Payload;
use xcron::storage::machine::{LogEnds, Options};
use xcron::storage::Machine;
use xcron::task::{Callback, TaskSpec, Timing};

use crate::machine::{Disk, MIB};

const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn id(index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

struct Alone {
    machine: Machine,
    entries: u64,
}

impl Alone {
    fn open(dir: &Path) -> Alone {
        let options = Options {
            cache_bytes: 16 << 20,
            checkpoint_interval: Duration::from_secs(1),
            checkpoint_bytes: 1 << 30,
            unsaved_bytes_max: 1 << 30,
            zone_data: xcron::schedule::ZoneData::bundled(),
        };
        let log = LogEnds { purged: None, last: Some(id(1 << 40)) };
        let machine = Machine::open(dir, options, Clock::manual(NOW), log).expect("open it");
        let entries = machine.applied().map_or(0, |id| id.index);
        Alone { machine, entries }
    }

    async fn apply(&mut self, commands: Vec<Command>) {
        self.entries += 1;
        let payload = Batch::of(NOW, commands).encode().expect("a batch can be encoded");
        let entry = Entry { log_id: id(self.entries), payload: EntryPayload::Normal(Payload(payload.into())) };
        self.machine.clone().apply([entry]).await.expect("it is applied");
    }

    async fn create(&mut self, prefix: &str, count: usize) {
        let due = NOW.plus_ms(3_600_000);
        let create = |n| {
            let timing = Timing::At { format: due.0.to_string(), due };
            let callback = Callback::post("http://127.0.0.1:9/", format!("\"{}\"", "x".repeat(100_000)));
            let id = format!("{prefix}-{n}").parse().expect("an id");
            Command::Create { id, spec: Box::new(TaskSpec::new(timing, callback)) }
        };
        self.apply((0..count).map(create).collect()).await;
    }

    async fn delete(&mut self, prefix: &str, count: usize) {
        let delete = |n| Command::Delete { id: format!("{prefix}-{n}").parse().expect("an id") };
        self.apply((0..count).map(delete).collect()).await;
    }
}

/// The tasks that the machine holds, with the sizes of their bodies.
fn tasks(machine: &Machine) -> Vec<(String, usize)> {
    let seqs: Vec<u64> = machine.with_state(|s| s.tasks_from(0).map(|(seq, _)| seq).collect());
    let views = seqs.into_iter().map(|seq| machine.task_view(seq).expect("it can be read").expect("it is there"));
    let mut all: Vec<_> = views.map(|view| (view.id.to_string(), view.spec.callback.body.len())).collect();
    all.sort();
    all
}

/// A store for which there turns out to be no room leaves everything as it was, and takes no room.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_finds_no_room_while_it_is_written_anew_costs_nothing() {
    let dir = TempDir::new().expect("make a directory");
    let Some(disk) = Disk::new(dir.path(), "disk", 120 * MIB) else { return };
    let data = disk.mount.join("data");
    std::fs::create_dir(&data).expect("make a directory");
    let mut alone = Alone::open(&data);
    for n in 0..10 {
        alone.create(&format!("some-{n}"), 16).await;
        alone.machine.checkpoint().await.expect("there is room");
    }
    alone.delete("some-3", 5).await;
    let before = tasks(&alone.machine);
    let ballast = disk.mount.join("ballast");
    std::fs::write(&ballast, vec![1; (disk.free_bytes() - 12 * MIB) as usize]).expect("write the ballast");
    for _ in 0..3 {
        let error = alone.machine.write_store_anew().await.expect_err("there is no room");
        assert!(error.is_full(), "{error}");
        assert!(disk.free_bytes() > 8 * MIB, "{} KiB are free", disk.free_bytes() >> 10);
        assert_eq!(tasks(&alone.machine), before);
    }
    std::fs::remove_file(&ballast).expect("remove the ballast");
    alone.create("more", 3).await;
    alone.machine.checkpoint().await.expect("there is room");
    alone.machine.write_store_anew().await.expect("there is room");
    let after = tasks(&alone.machine);
    assert_eq!(after.len(), before.len() + 3);
    drop(alone);
    assert_eq!(tasks(&Alone::open(&data).machine), after);
    drop(disk);
}
