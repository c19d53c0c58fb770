//! What commands may cost where tasks trigger each other as deep and as wide as definitions allow.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::command::{Batch, Encoded};
use crate::state::follow::OUTCOME_STEPS_MAX;
use crate::state::missed::MISFIRE_STEPS_MAX;
use crate::task::Options;

/// Each task can trigger, by way of others, those of all layers below its own.
const LAYERS: u64 = 40;
const IN_A_LAYER: u64 = 40;
/// As many as a definition may name for one outcome.
const NAMED: u64 = 32;
/// One outcome: the open runs of a task, and what each task that it triggers may take.
const OUTCOME_MAX: usize = OPEN_RUNS_MAX + 33 * 200;
/// As [`MISFIRE_STEPS_MAX`], of one.
const MISFIRE_MAX: usize = 9_000;

struct Chains {
    state: State,
    now: Timestamp,
    chance: StdRng,
    specs: BTreeMap<String, TaskSpec>,
    refused: BTreeMap<&'static str, usize>,
}

impl Chains {
    fn new(seed: u64) -> Chains {
        let (chance, specs, refused) = (StdRng::seed_from_u64(seed), BTreeMap::new(), BTreeMap::new());
        let mut chains = Chains { state: State::new(T0), now: T0, chance, specs, refused };
        for layer in (0..LAYERS).rev() {
            for n in 0..IN_A_LAYER {
                let (name, spec) = (format!("t{layer}.{n}"), chains.spec(layer));
                let create = Command::Create { id: id(&name), spec: Box::new(spec.clone()) };
                if let Reply::Created { .. } = chains.state.apply(T0, create) {
                    chains.specs.insert(name, spec);
                }
            }
        }
        assert!(chains.specs.len() as u64 > LAYERS * IN_A_LAYER / 2, "{} tasks", chains.specs.len());
        for n in 0..5 {
            let full = Command::Trigger { id: id(&format!("t{}.0", 8 * n)) };
            while !matches!(chains.state.apply(T0, full.clone()), Reply::Refused(_)) {}
        }
        chains
    }

    fn below(&mut self, many: u64) -> u64 {
        self.chance.random_range(0..many)
    }

    fn name(&mut self) -> (u64, String) {
        let layer = self.below(LAYERS);
        (layer, format!("t{layer}.{}", self.below(IN_A_LAYER)))
    }

    /// A definition that names as many as it may of the next layers; now and then one of any layer, which may close a cycle.
    fn spec(&mut self, layer: u64) -> TaskSpec {
        let mut named = || -> Vec<_> {
            let one = |chains: &mut Chains| match chains.below(500) {
                0 => id(&chains.name().1),
                _ => {
                    let to = layer + 1 + chains.below(3);
                    id(&format!("t{to}.{}", chains.below(IN_A_LAYER)))
                }
            };
            (0..NAMED).map(|_| one(self)).collect()
        };
        let (on_success, on_failure) = (named(), named());
        TaskSpec { options: Options { on_success, on_failure, ..Options::default() }, ..spec(minutely()) }
    }

    fn command(&mut self) -> Command {
        let (layer, name) = self.name();
        let seq = self.state.find(&id(&name));
        match (self.below(8), seq) {
            (0 | 1, Some(_)) => Command::Delete { id: id(&name) },
            (2, Some(_)) => {
                let (old, new) = (self.specs[&name].clone(), self.spec(layer));
                Command::Update { id: id(&name), base: old.digest(), old: Box::new(old), spec: Box::new(new) }
            }
            (3, Some(_)) => Command::Trigger { id: id(&name) },
            (4, Some(seq)) => {
                let Some(from) = self.state.task(seq).and_then(|task| task.next) else { return Command::Check };
                let (upto, reason) = (self.now.plus_ms(1 << 30), "late".into());
                Command::Misfire { seq, from, upto, reason, latest_fires: false }
            }
            (_, Some(seq)) => self.outcome(seq),
            (_, None) => {
                let spec = Box::new(self.spec(layer));
                Command::Create { id: id(&name), spec }
            }
        }
    }

    fn outcome(&mut self, seq: Seq) -> Command {
        let task = self.state.task(seq).unwrap();
        let key = task.runs().map(|run| run.key).next().or(task.next.map(RunKey::scheduled));
        let Some(key) = key else { return Command::Check };
        let reason = String::new();
        let verdict = if self.below(2) == 0 { Verdict::Succeeded } else { Verdict::Failed { reason } };
        let steering = Steering { end: self.below(20) == 0, ..Steering::default() };
        Command::RunEnded { seq, key, attempt: attempt(1, 500), term: 1, verdict, steering }
    }

    /// Applies so many commands as one entry.
    fn entry(&mut self, many: usize) {
        let commands: Vec<Command> = (0..many).map(|_| self.command()).collect();
        let bytes: usize = commands.iter().map(|command| Encoded::of(command).unwrap().len()).sum();
        let replies = self.state.apply_batch(Batch::of(self.now, commands.clone()));
        let State { steps, links, outcomes, misfires, .. } = self.state;
        if many == 1 {
            let allowed = bytes + (LINKS_MAX + 2).max(OUTCOME_MAX).max(MISFIRE_MAX);
            assert!(steps <= allowed, "{steps} steps: {commands:?}");
        }
        // One that is refused for the others looks at a link or two.
        assert!(links <= LINKS_PER_ENTRY_MAX + 2 * many + 2, "{links} links");
        assert!(outcomes <= OUTCOME_STEPS_MAX + OUTCOME_MAX + 4 * many, "{outcomes} steps of outcomes");
        assert!(misfires <= MISFIRE_STEPS_MAX + MISFIRE_MAX, "{misfires} steps of misfires");
        assert!(steps <= bytes + links + outcomes + misfires, "{steps} steps");
        for (command, reply) in commands.into_iter().zip(replies) {
            let refused = match (command, reply) {
                (Command::Create { id, spec } | Command::Update { id, spec, .. }, Reply::Created { .. }) => {
                    self.specs.insert(id.to_string(), *spec);
                    "none"
                }
                (_, Reply::Refused(Refusal::Cycle(_))) => "cycle",
                (_, Reply::Refused(Refusal::ChainTooLong(_))) => "one chain",
                (_, Reply::Refused(Refusal::ChainsAtOnce)) => "chains",
                (_, Reply::Refused(Refusal::OutcomesAtOnce)) => "outcomes",
                (_, _) => continue,
            };
            *self.refused.entry(refused).or_default() += 1;
        }
    }
}

#[test]
fn the_steps_of_an_entry_are_bounded_however_deep_and_wide_chains_are() {
    let mut refused = BTreeMap::new();
    for seed in 0..2 {
        let mut chains = Chains::new(seed);
        for n in 0..64 {
            chains.now = chains.now.plus_ms(chains.below(30_000));
            chains.entry(if n % 8 == 0 { 1_000 } else { 1 });
        }
        chains.state.check();
        for (why, many) in chains.refused {
            *refused.entry(why).or_insert(0) += many;
        }
    }
    // Each of the bounds on what follows was met.
    let met: Vec<_> = refused.keys().copied().collect();
    assert_eq!(met, ["chains", "cycle", "none", "one chain", "outcomes"], "{refused:?}");
}
