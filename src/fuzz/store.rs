//! What a store holds after any history: what its state implies, whenever checkpoints were made, and nothing else.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::state;
use crate::clock::Timestamp;
use crate::command::{Batch, Command, Steering, Verdict, WriteId};
use crate::run::Attempt;
use crate::state::record::SPEC_PAGED_BYTES_MAX;
use crate::state::State;
use crate::storage::belongs::alone;
use crate::storage::Machine;
use crate::task::TaskSpec;

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const SEEDS: u64 = 30;

/// A third of the definitions are too large for a page of small ones.
fn grown(mut spec: TaskSpec) -> TaskSpec {
    if spec.digest().is_multiple_of(3) {
        spec.callback.body = format!("\"{}\"", "x".repeat(SPEC_PAGED_BYTES_MAX));
    }
    spec
}

fn with_large_ones(command: Command) -> Command {
    match command {
        Command::Create { id, spec } => Command::Create { id, spec: Box::new(grown(*spec)) },
        Command::Update { id, base, old, spec } => {
            let fits = base == old.digest();
            let old = Box::new(grown(*old));
            let base = if fits { old.digest() } else { base };
            Command::Update { id, base, old, spec: Box::new(grown(*spec)) }
        }
        other => other,
    }
}

/// Two machines with the same log.
struct Pair {
    /// Makes checkpoints at any time, and is opened anew.
    often: Option<Machine>,
    /// Makes one in the end.
    once: Machine,
    entries: Vec<Batch>,
}

impl Pair {
    fn often(&self) -> &Machine {
        self.often.as_ref().unwrap()
    }

    async fn apply(&mut self, now: Timestamp, command: Command) {
        self.apply_named(now, command, Vec::new()).await;
    }

    /// Applies a command, and under these names one that finds nothing to do.
    async fn apply_named(&mut self, now: Timestamp, command: Command, names: Vec<WriteId>) {
        let nothing = |_: &WriteId| Command::Collect { seqs: Vec::new(), retain_s: 0 };
        let commands = std::iter::once(command).chain(names.iter().map(nothing)).collect();
        let batch = Batch { names: (1..).zip(names).collect(), ..Batch::of(now, commands) };
        let index = self.entries.len() as u64 + 1;
        alone::apply(&self.once, index, &batch).await;
        alone::apply(self.often(), index, &batch).await;
        self.entries.push(batch);
    }

    async fn reopen(&mut self, dir: &Path) {
        self.often = None;
        let machine = alone::open(dir, NOW);
        let applied = machine.applied().map_or(0, |id| id.index);
        for (index, batch) in (applied + 1..).zip(&self.entries[applied as usize..]) {
            alone::apply(&machine, index, batch).await;
        }
        self.often = Some(machine);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_has_what_its_state_implies_after_any_history() {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    for seed in 0..SEEDS {
        let chance = &mut StdRng::seed_from_u64(seed);
        let mut data = vec![0; 3000];
        chance.fill_bytes(&mut data);
        let dir = tempfile::tempdir_in(&base).unwrap();
        let (often, once) = (dir.path().join("often"), dir.path().join("once"));
        [&often, &once].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let mut pair =
            Pair { often: Some(alone::open(&often, NOW)), once: alone::open(&once, NOW), entries: Vec::new() };
        let mut now = NOW;
        for (at, command) in state::history(&data) {
            now = at;
            // So many that blocks of them are forgotten.
            let after = pair.once.with_state(|state| state.named_writes());
            let many = if chance.random_bool(0.2) { chance.random_range(0..2_000) } else { 0 };
            let name = |_| WriteId { process: 1, number: chance.random_range(0..1 << 20), after };
            let names = (0..many).map(name).collect();
            pair.apply_named(now, with_large_ones(command), names).await;
            if chance.random_ratio(1, 12) {
                match chance.random_ratio(1, 3) {
                    true => pair.often().write_store_anew().await.unwrap(),
                    false => pair.often().checkpoint().await.unwrap(),
                }
                assert_eq!(pair.often().strays().unwrap(), Vec::<String>::new(), "seed {seed}");
                let (chunks, _) = pair.often().dead_index(0).unwrap();
                if !chunks.is_empty() {
                    pair.apply(now, Command::DropIndex { chunks }).await;
                }
            }
            if chance.random_ratio(1, 100) {
                pair.reopen(&often).await;
            }
        }
        let digests = (pair.often().digest().await.unwrap(), pair.once.digest().await.unwrap());
        assert_eq!(digests.0, digests.1, "seed {seed}: whenever checkpoints are made");
        for machine in [pair.often(), &pair.once] {
            assert_eq!(machine.strays().unwrap(), Vec::<String>::new(), "seed {seed}");
        }

        // In the end all tasks go, and what they had with them.
        let ids = pair.often().with_state(|s| s.tasks_from(0).map(|(_, task)| task.id.clone()).collect::<Vec<_>>());
        for id in ids {
            pair.apply(now, Command::Delete { id }).await;
        }
        // Those that an answer has deleted are there until their alerts have ended.
        for command in pair.often().with_state(ends_of_alerts) {
            pair.apply(now, command).await;
        }
        pair.often().checkpoint().await.unwrap();
        let mut from = Some(0);
        while let Some(at) = from {
            let (chunks, next) = pair.often().dead_index(at).unwrap();
            pair.apply(now, Command::DropIndex { chunks }).await;
            from = next;
        }
        let (_, (records, _)) = pair.often().digest().await.unwrap();
        let blocks = pair.often().with_state(|state| state.write_blocks().len()) as u64;
        let zones = pair.often().with_state(|s| s.stored_zones().count()) as u64;
        let left = format!("seed {seed}: {records} records are left, and one chunk of the index may be");
        assert!(records <= 1 + blocks + zones, "{left}");
    }
}

fn ends_of_alerts(state: &State) -> Vec<Command> {
    let alerts = state.tasks_from(0).flat_map(|(seq, task)| task.past.open.iter().map(move |run| (seq, run.key)));
    let end = |(seq, key)| {
        let begun = Attempt::begun(u32::MAX, 1, NOW, 0);
        let attempt = Attempt { duration_ms: Some(1), status: Some(200), ..begun };
        let (verdict, steering) = (Verdict::Succeeded, Steering::default());
        Command::RunEnded { seq, key, attempt, term: 1, verdict, steering }
    };
    alerts.filter(|(_, key)| key.is_alert()).map(end).collect()
}
