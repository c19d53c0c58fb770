//! What a checkpoint of 100 k changed tasks costs, in time and in bytes written: `cargo bench --bench checkpoint`.
//!
//! The state machine is a node's, with its store in a temporary directory (`TMPDIR` says on which disk), made durable
//! with fsync as in a server. Each round changes 100 k tasks, which is not part of the time, and then makes a checkpoint.

use std::path::Path;
use std::time::Duration;

use criterion::{criterion_group, criterion_main, Criterion, SamplingMode, Throughput};
use openraft::storage::RaftStateMachine;
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId};
use tokio::runtime::Runtime;
use xcron::clock::{monotonic, Clock};
use xcron::command::{Command, Reply};
use xcron::raft::{Payload, TypeConfig};
use xcron::storage::machine::{LogEnds, Options};
use xcron::storage::Machine;

mod common;
use common::{batch, create, ended, once, periodic, T0};

const TASKS: u64 = 100_000;
const BATCH: usize = 256;

/// A state machine that entries are applied to as by Raft.
struct Applied {
    machine: Machine,
    entries: u64,
}

impl Applied {
    fn open(dir: &Path) -> Self {
        let options = Options {
            cache_bytes: 512 << 20,
            checkpoint_interval: Duration::from_secs(3600),
            checkpoint_bytes: usize::MAX,
            unsaved_bytes_max: usize::MAX,
            zone_data: xcron::schedule::ZoneData::bundled(),
        };
        let machine = Machine::open(dir, options, Clock::system(), LogEnds::default()).expect("an empty directory");
        Applied { machine, entries: 0 }
    }

    async fn apply(&mut self, commands: Vec<Command>) {
        for chunk in commands.chunks(BATCH) {
            self.entries += 1;
            let payload = Payload(batch(chunk.to_vec()).encode().expect("a batch can be encoded").into());
            let log_id = LogId::new(CommittedLeaderId::new(1, 1), self.entries);
            let entry = Entry::<TypeConfig> { log_id, payload: EntryPayload::Normal(payload) };
            let replies = self.machine.apply([entry]).await.expect("the entry is applied");
            assert!(!replies[0].0.iter().any(|reply| matches!(reply, Reply::Refused(_))), "{replies:?}");
        }
    }

    /// How long a checkpoint takes, and the bytes that this process has sent to a disk meanwhile.
    async fn checkpoint(&self) -> (Duration, u64) {
        let (before, wrote) = (self.machine.figures(), written());
        let began = monotonic();
        self.machine.checkpoint().await.expect("the checkpoint is written");
        let spent = began.elapsed();
        let after = self.machine.figures();
        assert_eq!((after.checkpoints, after.unsaved_bytes), (before.checkpoints + 1, 0));
        (spent, written() - wrote)
    }
}

/// Bytes that this process has caused to be written; 0 where the system doesn't tell.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

fn new_tasks(round: u64) -> Vec<Command> {
    (0..TASKS).map(|n| create(round * TASKS + n, once(n, T0))).collect()
}

/// The next run of each of the first tasks has succeeded.
fn outcomes(applied: &Applied) -> Vec<Command> {
    let due = |state: &xcron::state::State, seq| state.task(seq).and_then(|task| task.next).expect("a periodic task");
    applied.machine.with_state(|state| (1..=TASKS).map(|seq| ended(seq, due(state, seq))).collect())
}

fn checkpoint(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("checkpoint");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(TASKS));
    group.warm_up_time(Duration::from_nanos(1)).measurement_time(Duration::from_secs(1));
    for (name, outcome) in [("new_one_shots", false), ("run_outcomes", true)] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut applied = Applied::open(dir.path());
        if outcome {
            runtime.block_on(applied.apply(vec![common::zone()]));
            runtime.block_on(applied.apply((0..TASKS).map(|n| create(n, periodic())).collect()));
            runtime.block_on(applied.checkpoint());
        }
        let (mut rounds_done, mut bytes) = (0, Vec::new());
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let commands = if outcome { outcomes(&applied) } else { new_tasks(rounds_done) };
                    runtime.block_on(applied.apply(commands));
                    let (took, wrote) = runtime.block_on(applied.checkpoint());
                    spent += took;
                    bytes.push(wrote);
                    rounds_done += 1;
                }
                spent
            });
        });
        let tasks = applied.machine.with_state(|state| state.len() as u64);
        assert_eq!(tasks, if outcome { TASKS } else { rounds_done * TASKS });
        bytes.sort_unstable();
        if let Some(&median) = bytes.get(bytes.len() / 2) {
            let store = applied.machine.figures().disk_bytes as f64 / 1e6;
            let (median, rounds) = (median as f64 / 1e6, bytes.len());
            println!("{name}: {median:.1} MB written by a checkpoint (median of {rounds}); the store is {store:.1} MB");
        }
    }
    group.finish();
}

criterion_group!(benches, checkpoint);
criterion_main!(benches);
